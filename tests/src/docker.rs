//! A real dockerd on a host: Debian's, with everything of its own but the host's
//! network namespace, so that several run on one machine.
//!
//! ```text
//!   netns of the host:   overlayd   |   private mounts, pids, host name; /run is DIR/run
//!        │  DIR/docker.sock ◄───────┼──── dockerd ── containerd ── containers
//!        └─ DIR/run/docker/plugins/overlayd.sock ◄── dockerd
//! ```
//!
//! Its data are memory and go with it, containers too: the first process of its pid
//! namespace is ended. dockerd itself can be killed and started again in there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::host::{DaemonOptions, Host};
use crate::neighbour::FETCHED;
use crate::shell::{checked, command_in, run, signal, signal_pid};
use crate::wait::eventually;

/// The image that containers are made of: busybox.
pub const IMAGE: &str = "busybox:lab";

/// Makes the private file systems; its end is the first process of the pid namespace,
/// which takes in what lost its parent.
const MOVE_IN: &str = r#"
mount --make-rprivate /
mkdir -p "$2/cgroup" "$2/run/docker/plugins"
mount --rbind /sys/fs/cgroup "$2/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$2/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper /mnt/work
if [ -d "$1/usr" ]; then
    mount -t overlay -o ro,lowerdir="$1/usr:/usr" overlay /usr
    mount -t overlay -o lowerdir="$1/etc:/etc",upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
else
    mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
fi
mount --bind "$2/run" /run
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
mkdir -p /var/lib/docker /run/lock
hostname "$3"
while sleep 1; do :; done
"#;

/// A place with a dockerd in it.
#[derive(Debug)]
pub struct Engine {
    host: Host,
    dir: PathBuf,
    /// `unshare`, which waits for the first process in there.
    unshare: Child,
    first: u32,
    dockerd: Option<Child>,
    live_restore: bool,
}

/// Options of an overlayd that is the driver of the host's dockerd.
pub fn driver(host: &Host, options: DaemonOptions) -> DaemonOptions {
    let dir = engine_dir(host);
    let mut options = options;
    options.extra.extend([
        format!("--docker-plugin={}", dir.join("run/docker/plugins/overlayd.sock").display()),
        format!("--docker-socket={}", dir.join("docker.sock").display()),
    ]);
    options
}

fn engine_dir(host: &Host) -> PathBuf {
    host.dir().join("docker")
}

impl Engine {
    /// Makes the place and starts dockerd, which has [`IMAGE`] then.
    ///
    /// # Errors
    /// If it cannot be made, or dockerd does not answer.
    pub fn on(host: &Host, live_restore: bool) -> Result<Self> {
        let dir = engine_dir(host);
        fs::create_dir_all(dir.join("run"))?;
        let log = fs::File::create(dir.join("place.log"))?;
        let unshare = command_in(host.netns(), "unshare")
            .args(["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-ec", MOVE_IN, "sh", FETCHED])
            .arg(&dir)
            .arg(host.name())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start unshare")?;
        let mut engine =
            Self { host: host.clone(), dir, unshare, first: 0, dockerd: None, live_restore };
        let children = format!("/proc/{0}/task/{0}/children", engine.unshare.id());
        engine.first = eventually("a place for dockerd", || {
            if let Some(status) = engine.unshare.try_wait()? {
                let text = fs::read_to_string(engine.dir.join("place.log")).unwrap_or_default();
                bail!("it ended with {status}: {text}");
            }
            let first: u32 = fs::read_to_string(&children)?.trim().parse()?;
            let root = format!("/proc/{first}/root/var/lib/docker");
            ensure!(Path::new(&root).exists(), "no {root}");
            Ok(first)
        })?;
        engine.start()?;
        let image = engine.image()?;
        engine.docker(&format!("import {} {IMAGE}", image.display()))?;
        Ok(engine)
    }

    /// Starts dockerd and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let socket = format!("unix://{}", self.dir.join("docker.sock").display());
        let mut command = self.command("dockerd");
        command.args(["-H", &socket, "--ip6tables=false"]);
        if self.live_restore {
            command.arg("--live-restore");
        }
        let child = command.stdout(log.try_clone()?).stderr(log).spawn();
        self.dockerd = Some(child.context("cannot start nsenter")?);
        eventually("dockerd answers", || {
            if let Some(status) = self.dockerd.as_mut().and_then(|d| d.try_wait().transpose()) {
                bail!(
                    "it ended with {}: is it there? `make setup` fetches it\n{}",
                    status?,
                    self.last_words()
                );
            }
            self.docker("info -f {{.ServerVersion}}").map(drop)
        })
    }

    /// SIGTERM, as systemd stops it, and waits for its end.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// SIGKILL: its containers live on until it is started again.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn end(&mut self, how: Signal) -> Result<()> {
        let pid = self.pid()?;
        signal_pid(pid, how)?;
        let mut child = self.dockerd.take().context("dockerd does not run")?;
        eventually("dockerd ends", || child.try_wait()?.map(drop).context("it still runs"))
    }

    /// The dockerd behind `nsenter`, as we see it.
    fn pid(&self) -> Result<u32> {
        let child = self.dockerd.as_ref().context("dockerd does not run")?;
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
        children.split_whitespace().next().context("no child")?.parse().context("a pid")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.first));
        command.args(["--mount", "--pid", "--uts", "--ipc", "--net", "--", program]);
        command.stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC").env("HOME", "/var/lib");
        command.env("DOCKER_HOST", format!("unix://{}", self.dir.join("docker.sock").display()));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env_remove("NOTIFY_SOCKET");
        command
    }

    /// Runs `docker` with these arguments, split at blanks; what it prints.
    ///
    /// # Errors
    /// If it ends with another code than 0, with what it wrote.
    pub fn docker(&self, args: &str) -> Result<String> {
        self.run("docker", &args.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a program where dockerd is, for two minutes at most.
    ///
    /// # Errors
    /// If it ends with another code than 0, with what it wrote.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command("timeout");
        command.args(["120", program]).args(args);
        let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
        checked(&command, &output).map(|text| text.trim().to_owned())
    }

    /// Why a command of docker is refused.
    ///
    /// # Errors
    /// If it is not.
    pub fn refused(&self, args: &str) -> Result<String> {
        match self.docker(args) {
            Ok(text) => bail!("docker {args} is not refused: {text}"),
            Err(err) => Ok(format!("{err:#}")),
        }
    }

    /// Runs a shell's script in a container.
    ///
    /// # Errors
    /// If it ends with another code than 0.
    pub fn exec(&self, container: &str, script: &str) -> Result<String> {
        self.run("docker", &["exec", container, "sh", "-c", script])
    }

    /// Binds a network of Docker's to that of the cluster with its name.
    ///
    /// # Errors
    /// If it is refused.
    pub fn network(&self, net: &str, more: &str) -> Result<String> {
        self.docker(&format!(
            "network create -d overlayd --ipam-driver overlayd -o overlayd.network={net} {more} \
             {net}"
        ))
    }

    /// Runs a container that does nothing, under this name.
    ///
    /// # Errors
    /// If it is refused.
    pub fn run_idle(&self, name: &str, more: &str) -> Result<String> {
        self.docker(&format!("run -d --init --name {name} {more} {IMAGE} sleep 3600"))
    }

    /// The plugin's answer to a request as dockerd sends it.
    ///
    /// # Errors
    /// If there is none.
    pub fn call(host: &Host, method: &str, body: &str) -> Result<serde_json::Value> {
        let socket = engine_dir(host).join("run/docker/plugins/overlayd.sock");
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "--max-time", "60", "--unix-socket"])
            .arg(&socket)
            .args(["-d", body, &format!("http://plugin/{method}")])
            .output()
            .context("cannot start curl")?;
        let text = String::from_utf8(output.stdout)?;
        let error = String::from_utf8_lossy(&output.stderr);
        serde_json::from_str(&text).with_context(|| format!("{method}: {text} {error}"))
    }

    /// Where dockerd logs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("dockerd.log")
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// A tar of busybox, its names, and the libraries that it needs, if any.
    fn image(&self) -> Result<PathBuf> {
        let places = [format!("{FETCHED}/bin/busybox"), "/bin/busybox".into()];
        let busybox = places.iter().find(|path| Path::new(path).exists());
        let busybox = busybox.context("no busybox: `make setup` fetches it")?;
        let root = self.dir.join("image");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "lib64"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::copy(busybox, root.join("bin/busybox"))?;
        for name in run(&format!("{busybox} --list"))?.lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("bin").join(name))?;
        }
        // A static one has none, and `ldd` says so with a code of 1.
        let needs = run(&format!("ldd {busybox}")).unwrap_or_default();
        for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
            let to = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a path from the root")?)?;
            fs::copy(library, to)?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        let tar = self.dir.join("image.tar");
        run(&format!("tar -C {} -cf {} .", root.display(), tar.display()))?;
        Ok(tar)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("dockerd on {} wrote last:\n{}", self.host.name(), self.last_words());
        }
        // The first process takes all others in there along.
        let _ = signal_pid(self.first, Signal::SIGKILL);
        let _ = signal(&self.unshare, Signal::SIGKILL);
        let _ = self.unshare.wait();
        if let Some(mut child) = self.dockerd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
