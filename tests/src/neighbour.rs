//! Programs that share a host with overlayd: the real ones, in the host's
//! network namespace and a mount namespace of their own.
//!
//! ```text
//!   netns of the host:   overlayd   |   private /run, /etc, /var/lib, /sys (read only)
//!                                   |     dbus-daemon, systemd-networkd, firewalld, NetworkManager
//! ```
//!
//! Each finds a system bus where it looks for it, configuration that it may
//! write, and no udev (which a read-only /sys means to them). Nothing of the
//! machine's is seen to change: all of that is memory of the mount namespace,
//! and goes with it. What `make setup` has fetched and not installed is seen in
//! there as if it were installed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::shell::{checked, command_in, signal};
use crate::wait::eventually;

/// Where `make setup` unpacks what nobody wants to run on his own machine.
pub(crate) const FETCHED: &str = "/var/cache/overlayd-labs";

/// Makes the private file systems, then becomes the bus, so that their process
/// is the bus's. An overlay's upper directory must not be an overlay, and
/// memory never is.
const MOVE_IN: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t sysfs -o ro sysfs /sys
mkdir -p /run/dbus /run/upper /run/work
if [ -d "$1/usr" ]; then
    mount -t overlay -o ro,lowerdir="$1/usr:/usr" overlay /usr
    mount -t overlay -o lowerdir="$1/etc:/etc",upperdir=/run/upper,workdir=/run/work overlay /etc
else
    mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
fi
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
cat > /run/bus.conf <<END
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/> <allow own="*"/>
    <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
END
exec dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile
"#;

/// A place on a host for its other programs.
#[derive(Debug)]
pub struct Quarters {
    host: Host,
    bus: Child,
}

/// One of them, running.
#[derive(Debug)]
pub struct Neighbour {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a warning of `overlayctl status` tells one to type, a command each.
///
/// # Errors
/// If it tells nothing.
pub fn advice(warning: &str) -> Result<Vec<&str>> {
    let commands =
        warning.split('`').nth(1).with_context(|| format!("no command in: {warning}"))?;
    Ok(commands.split(" && ").collect())
}

/// What dockerd does at its start, by `iptables`, in its order.
///
/// # Errors
/// If `iptables`, which of both, is not there.
pub fn dockers_rules(host: &Host, iptables: &str) -> Result<()> {
    for line in [
        "-N DOCKER",
        "-N DOCKER-ISOLATION-STAGE-1",
        "-N DOCKER-ISOLATION-STAGE-2",
        "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
        "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
        "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
        "-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
        "-P FORWARD DROP",
        "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -o docker0 -j DOCKER",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-I FORWARD -j DOCKER-USER",
    ] {
        host.exec(&format!("{iptables} -w {line}")).with_context(|| {
            format!("{iptables} must be there for this lab: `make setup` installs it")
        })?;
    }
    Ok(())
}

impl Quarters {
    /// Makes the place, with a bus in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn on(host: &Host) -> Result<Self> {
        let log = std::fs::File::create(host.new_file("bus.log"))?;
        let bus = command_in(host.netns(), "unshare")
            .args(["--mount", "sh", "-ec", MOVE_IN, "sh", FETCHED])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start unshare")?;
        let mut quarters = Self { host: host.clone(), bus };
        let socket = format!("/proc/{}/root/run/dbus/system_bus_socket", quarters.bus.id());
        eventually(&format!("a bus on {}", host.name()), || {
            if let Some(status) = quarters.bus.try_wait()? {
                bail!("it ended with {status}: is dbus-daemon installed? `make setup` does that");
            }
            ensure!(Path::new(&socket).exists(), "no {socket}");
            Ok(())
        })?;
        Ok(quarters)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.bus.id())).args(["--mount", "--net", "--"]);
        command.arg(program).stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// Runs a command line in there, for a minute at most.
    ///
    /// # Errors
    /// If it ends with another code than 0.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut command = self.command("timeout");
        command.arg("60").args(line.split_whitespace());
        let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
        checked(&command, &output)
    }

    /// Writes a file that only those in there see.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = PathBuf::from(format!("/proc/{}/root{path}", self.bus.id()));
        std::fs::create_dir_all(path.parent().context("a path from the root")?)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts a program in there. When it serves is for the caller to find out.
    ///
    /// # Errors
    /// If it is not there: it says what to do.
    pub fn start(&self, program: &str, args: &[&str]) -> Result<Neighbour> {
        let name = program.rsplit('/').next().unwrap_or(program).to_owned();
        self.exec(&format!("which {program}")).with_context(|| {
            format!("{program} is not there; this lab runs the real one: `make setup` fetches it")
        })?;
        let log = self.host.new_file(&format!("{name}.log"));
        let file = std::fs::File::create(&log)?;
        let mut command = self.command(program);
        let child = command
            .args(args)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Neighbour { name, child, log })
    }
}

impl Neighbour {
    /// Waits until it serves, as `probe` tells.
    ///
    /// # Errors
    /// If it ends, or does not serve: with what it wrote last.
    pub fn serves<T>(&mut self, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
        let served = eventually(&format!("{} serves", self.name), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            probe()
        });
        served.with_context(|| format!("{} wrote last:\n{}", self.name, self.last_words()))
    }

    /// SIGTERM, as systemd stops it, and waits for its end.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(mut self) -> Result<()> {
        signal(&self.child, Signal::SIGTERM)?;
        eventually(&format!("{} ends after SIGTERM", self.name), || {
            self.child.try_wait()?.map(drop).context("it still runs")
        })
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = signal(&self.child, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Quarters {
    fn drop(&mut self) {
        let _ = signal(&self.bus, Signal::SIGKILL);
        let _ = self.bus.wait();
    }
}
