//! A host of a lab: a namespace with a cable to the underlay, the daemon in
//! it, and what one asks of either.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use overlay_api::{Client, v1};
use serde::de::DeserializeOwned;

use crate::binaries::binaries;
use crate::container::Container;
use crate::kernel::{self, Fdb, Link, Neigh};
use crate::lab::Shared;
use crate::monitor::Monitor;
use crate::shell::{command_in, run, run_in, signal};
use crate::wait::eventually;

/// A host. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    name: String,
    netns: String,
    number: u8,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    daemon: Option<Child>,
    options: DaemonOptions,
    containers: Vec<String>,
}

/// How a daemon is started, beside its name, addresses, socket and state
/// directory, which follow from the host. Durations are as the flags take
/// them (`3s`); `None` leaves the daemon's default.
#[derive(Debug, Clone, Default)]
pub struct DaemonOptions {
    /// `--join`, one each.
    pub join: Vec<String>,
    /// `--down-after`.
    pub down_after: Option<&'static str>,
    /// `--down-grace`.
    pub down_grace: Option<&'static str>,
    /// `--alone-after`.
    pub alone_after: Option<&'static str>,
    /// `--log-level`; `OVERLAY_LOG` or `info` when left out.
    pub log_level: Option<&'static str>,
    /// What it is told of its VTEP.
    pub vtep: Vtep,
    /// `--insecure`, and no key; without it, the key of the lab.
    pub insecure: bool,
    /// `--key-file`, another one than the lab's.
    pub key_file: Option<PathBuf>,
    /// `--name`; the host's when left out.
    pub name: Option<&'static str>,
    /// `NOTIFY_SOCKET`, as systemd gives it; none when left out.
    pub notify: Option<PathBuf>,
    /// Variables of its environment.
    pub env: Vec<(&'static str, String)>,
    /// Anything else.
    pub extra: Vec<String>,
}

/// How a daemon learns which address other hosts reach it at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Vtep {
    /// `--vtep-ip`, the host's IPv4 address.
    #[default]
    V4,
    /// `--vtep-ip`, the host's IPv6 address.
    V6,
    /// `--vtep-ip` twice, both addresses.
    Both,
    /// `--vtep-families=both`: addresses may change.
    Families,
    /// `--vtep-ip`, the IPv6 address, and gossip there too: for a host that has
    /// no other.
    V6Alone,
    /// `--underlay-dev`: addresses may change.
    Device(&'static str),
    /// By itself, from the default route.
    Found,
}

/// What `overlayctl net create` is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetSpec<'a> {
    /// `--vni`; left out when 0.
    pub vni: u32,
    /// `--subnet`, one each.
    pub subnets: &'a [&'a str],
    /// `--mtu`; left out when 0.
    pub mtu: u16,
    /// Anything else.
    pub extra: &'a [&'a str],
}

/// What a run of `overlayctl` or `overlayd` left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CtlOutput {
    /// Exit code; 128 and the signal if one ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// What the hosts of every lab seal their gossip with.
const LAB_KEY: &str = "# for labs only\nb3ZlcmxheWQgbGFicyBvbmx5LCBub3QgYSBzZWNyZXQ=\n";

/// No user, no group, no capability, for `setpriv`.
const NOBODY: [&str; 4] =
    ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];

impl CtlOutput {
    fn of(output: std::process::Output) -> Self {
        let signal = output.status.signal().unwrap_or(0);
        Self {
            code: output.status.code().unwrap_or(128 + signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Host {
    pub(crate) fn new(shared: Arc<Shared>, name: &str, number: usize) -> Result<Self> {
        let number = u8::try_from(number).ok().filter(|n| *n < 250).context("at most 249 hosts")?;
        let netns = shared.make_netns(name)?;
        let host = Self(Arc::new(Inner {
            shared,
            name: name.to_owned(),
            netns,
            number,
            state: Mutex::default(),
        }));
        std::fs::create_dir_all(host.dir())?;
        host.write_key_file("key", LAB_KEY)?;
        host.plug_in().with_context(|| format!("cannot connect host {name} to the underlay"))?;
        Ok(host)
    }

    fn plug_in(&self) -> Result<()> {
        let (netns, ul, port) = (self.netns(), self.0.shared.underlay_netns(), self.port());
        let mtu = self.0.shared.underlay.mtu;
        let n = self.0.number;
        // A network card keeps its address over a reboot, and peers remember it. No link-local
        // address: it would come a second late, in the middle of somebody's snapshot.
        for line in [
            format!(
                "ip -n {ul} link add dev {port} mtu {mtu} type veth \
                 peer name eth0 netns {netns} mtu {mtu} address 02:00:00:00:02:{n:02x}"
            ),
            format!("ip -n {netns} link set dev eth0 addrgenmode none"),
            format!("ip -n {ul} link set dev {port} addrgenmode none"),
            format!("ip -n {ul} link set dev {port} master br0 up"),
            format!("ip -n {netns} addr add 192.0.2.{n}/24 brd + dev eth0"),
            format!("ip -n {netns} addr add 2001:db8::{n:x}/64 dev eth0 nodad"),
            format!("ip -n {netns} link set dev eth0 up"),
            format!("ip -n {netns} route add default via 192.0.2.254"),
        ] {
            run(&line)?;
        }
        // The kernel notices the carrier in its own time, and snapshots show it.
        eventually("the cable is noticed", || {
            let link = run(&format!("ip -n {netns} -br link show dev eth0"))?;
            ensure!(link.contains(" UP "), "{link}");
            Ok(())
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    // ---- what it is

    /// Its name: `--name` of its daemon.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &str {
        &self.0.netns
    }

    /// Its IPv4 address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.0.number)
    }

    /// Its IPv6 address on the underlay.
    pub fn address_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(self.0.number))
    }

    /// Where VXLAN packets for it go to.
    pub fn vtep(&self) -> IpAddr {
        if matches!(self.state().options.vtep, Vtep::V6 | Vtep::V6Alone) {
            self.address_v6().into()
        } else {
            self.address().into()
        }
    }

    /// The underlay's end of its cable.
    pub fn port(&self) -> String {
        format!("p-{}", self.0.name)
    }

    /// Where its socket, state directory and log are.
    pub fn dir(&self) -> PathBuf {
        self.0.shared.dir.join(&self.0.name)
    }

    /// The socket of its daemon.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("overlayd.sock")
    }

    /// The state directory of its daemon.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// What its daemon wrote, in all its lives.
    pub fn log_file(&self) -> PathBuf {
        self.dir().join("overlayd.log")
    }

    /// Its copy of the lab's key.
    pub fn key_file(&self) -> PathBuf {
        self.dir().join("key")
    }

    /// Puts `keys` into a file of this host that only root can read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_key_file(&self, name: &str, keys: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, keys.as_bytes())?;
        Ok(path)
    }

    // ---- its daemon

    /// The arguments that its daemon is started with.
    pub fn daemon_args(&self, options: &DaemonOptions) -> Vec<String> {
        let mut args: Vec<String> =
            vec!["--name".into(), options.name.unwrap_or(&self.0.name).to_owned()];
        let addresses = |vtep: IpAddr| {
            let advertise = self.address().to_string();
            ["--advertise".into(), advertise, "--vtep-ip".into(), vtep.to_string()]
        };
        match options.vtep {
            Vtep::V4 => args.extend(addresses(self.address().into())),
            Vtep::V6 => args.extend(addresses(self.address_v6().into())),
            Vtep::Both => {
                let (v4, v6) = (self.address().to_string(), self.address_v6().to_string());
                args.extend(["--vtep-ip".into(), v4, "--vtep-ip".into(), v6]);
            }
            Vtep::Families => args.push("--vtep-families=both".into()),
            Vtep::V6Alone => {
                args.extend(["--vtep-ip".into(), self.address_v6().to_string()]);
            }
            Vtep::Device(dev) => args.extend(["--underlay-dev".into(), dev.to_owned()]),
            Vtep::Found => {}
        }
        args.extend([
            "--state-dir".into(),
            self.state_dir().display().to_string(),
            "--socket".into(),
            self.socket().display().to_string(),
            "--log-level".into(),
            options.log_level.map_or_else(
                || std::env::var("OVERLAY_LOG").unwrap_or_else(|_| "info".into()),
                str::to_owned,
            ),
        ]);
        if options.insecure {
            args.push("--insecure".into());
        } else {
            let file = options.key_file.clone().unwrap_or_else(|| self.key_file());
            args.extend(["--key-file".into(), file.display().to_string()]);
        }
        for peer in &options.join {
            args.extend(["--join".into(), peer.clone()]);
        }
        for (flag, value) in [
            ("--down-after", options.down_after),
            ("--down-grace", options.down_grace),
            ("--alone-after", options.alone_after),
        ] {
            if let Some(value) = value {
                args.extend([flag.into(), value.into()]);
            }
        }
        args.extend(options.extra.iter().cloned());
        args
    }

    /// Starts the daemon as it was started last, and waits until it serves.
    ///
    /// # Errors
    /// If it runs already, ends, or does not answer.
    pub fn start(&self) -> Result<()> {
        let options = self.state().options.clone();
        self.start_with(&options)
    }

    /// Starts the daemon, and waits until it serves.
    ///
    /// # Errors
    /// If it runs already, ends, or does not answer.
    pub fn start_with(&self, options: &DaemonOptions) -> Result<()> {
        self.spawn(options)?;
        eventually(&format!("overlayd on {} serves", self.name()), || {
            if let Some(status) = self.state().daemon.as_mut().context("started")?.try_wait()? {
                bail!("it ended with {status}: {}", self.log_tail(5));
            }
            self.status().map(drop)
        })
    }

    /// Starts the daemon and waits for nothing.
    ///
    /// # Errors
    /// If it runs already or the program is not there.
    pub fn spawn(&self, options: &DaemonOptions) -> Result<()> {
        let mut state = self.state();
        ensure!(state.daemon.is_none(), "overlayd on {} runs already", self.name());
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut command = command_in(self.netns(), &binaries()?.overlayd);
        command.env_remove("NOTIFY_SOCKET");
        if let Some(socket) = &options.notify {
            command.env("NOTIFY_SOCKET", socket);
        }
        let child = command
            .envs(options.env.iter().map(|(key, value)| (*key, value)))
            .args(self.daemon_args(options))
            .current_dir(self.dir())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start overlayd")?;
        state.daemon = Some(child);
        state.options = options.clone();
        Ok(())
    }

    /// SIGTERM, and waits for its end in good order.
    ///
    /// # Errors
    /// If it does not end, or with another code than 0.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status =
            eventually(&format!("overlayd on {} ends after SIGTERM", self.name()), || {
                let mut state = self.state();
                let daemon = state.daemon.as_mut().context("it runs")?;
                daemon.try_wait()?.context("it still runs")
            })?;
        self.state().daemon = None;
        ensure!(status.success(), "overlayd on {} ended with {status}", self.name());
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.reap();
        Ok(())
    }

    /// SIGSTOP: the daemon hears and says nothing until [`Host::thaw`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Sends `s` to the daemon.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, s: Signal) -> Result<()> {
        let state = self.state();
        signal(
            state.daemon.as_ref().with_context(|| format!("overlayd on {} runs", self.0.name))?,
            s,
        )
    }

    /// The daemon's pid.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.state().daemon.as_ref().context("it runs")?.id())
    }

    /// That the daemon, which nobody has told to end, runs.
    ///
    /// # Errors
    /// How it ended, and what it said last.
    pub fn runs(&self) -> Result<()> {
        let ended = self.state().daemon.as_mut().context("it was started")?.try_wait()?;
        let Some(status) = ended else { return Ok(()) };
        bail!("overlayd on {} has died with {status}: {}", self.name(), self.log_tail(5))
    }

    /// Waits for a daemon that was told to end.
    pub(crate) fn reap(&self) {
        if let Some(mut child) = self.state().daemon.take() {
            let _ = child.wait();
        }
    }

    /// Waits until the daemon has ended by itself, and returns how.
    ///
    /// # Errors
    /// If it does not end.
    pub fn ended(&self) -> Result<std::process::ExitStatus> {
        let status = eventually(&format!("overlayd on {} ends", self.name()), || {
            let mut state = self.state();
            state.daemon.as_mut().context("it runs")?.try_wait()?.context("it still runs")
        })?;
        self.state().daemon = None;
        Ok(status)
    }

    /// Runs `overlayd` with other arguments in the host's namespace and waits
    /// for its end: `check-config`, `teardown`, or a start that must fail.
    ///
    /// # Errors
    /// If the program is not there.
    pub fn overlayd(&self, args: &[&str]) -> Result<CtlOutput> {
        let output = command_in(self.netns(), &binaries()?.overlayd)
            .args(args)
            .current_dir(self.dir())
            .env_remove("NOTIFY_SOCKET")
            .output()
            .context("cannot start overlayd")?;
        Ok(CtlOutput::of(output))
    }

    /// What the daemon holds in RAM, KiB.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .context("VmRSS in /proc/<pid>/status")
    }

    /// Waits until the daemon knows enough to delete what nobody wants.
    ///
    /// # Errors
    /// If it does not get there.
    pub fn knows_all(&self) -> Result<()> {
        eventually(&format!("{} knows enough to delete", self.name()), || {
            ensure!(self.status()?.view_complete, "its view is partial");
            Ok(())
        })
    }

    /// The last `n` lines that the daemon wrote.
    pub fn log_tail(&self, n: usize) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_else(|e| e.to_string());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(n)..].join("\n")
    }

    // ---- the machine

    /// Power failure: the daemon, all containers and the kernel's state are
    /// gone at once; the state directory stays.
    ///
    /// # Errors
    /// If a namespace cannot be removed.
    pub fn power_off(&self) -> Result<()> {
        if self.state().daemon.is_some() {
            self.kill()?;
        }
        let containers = std::mem::take(&mut self.state().containers);
        for netns in containers {
            self.0.shared.remove_netns(&netns)?;
        }
        // The cable first: the kernel takes a namespace apart later, in its own time.
        run(&format!("ip -n {} link del dev {}", self.0.shared.underlay_netns(), self.port()))?;
        self.0.shared.remove_netns(self.netns())
    }

    /// Makes the namespace and the cable anew; no daemon runs yet.
    ///
    /// # Errors
    /// If the namespace or the cable cannot be made.
    pub fn power_on(&self) -> Result<()> {
        self.0.shared.make_netns(self.name())?;
        self.plug_in()
    }

    /// Pulls the cable out.
    ///
    /// # Errors
    /// If there is none.
    pub fn unplug(&self) -> Result<()> {
        let ul = self.0.shared.underlay_netns();
        run(&format!("ip -n {ul} link set dev {} down", self.port())).map(drop)
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// If there is none.
    pub fn plug(&self) -> Result<()> {
        let ul = self.0.shared.underlay_netns();
        run(&format!("ip -n {ul} link set dev {} up", self.port())).map(drop)
    }

    /// Runs a command line in the host's namespace.
    ///
    /// # Errors
    /// If it ends with another code than 0.
    pub fn exec(&self, line: &str) -> Result<String> {
        run_in(self.netns(), line)
    }

    // ---- its kernel, as `ip` and `bridge` show it

    /// The FDB of `dev`.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn fdb(&self, dev: &str) -> Result<Fdb> {
        kernel::fdb(self.netns(), dev)
    }

    /// The ARP and ND entries of `dev`.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn neigh(&self, dev: &str) -> Result<Vec<Neigh>> {
        kernel::neigh(self.netns(), dev)
    }

    /// All links.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn links(&self) -> Result<Vec<Link>> {
        kernel::links(self.netns())
    }

    /// The links that overlayd made: name and index, sorted.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn our_links(&self) -> Result<Vec<(String, u32)>> {
        let mut ours: Vec<_> = self
            .links()?
            .into_iter()
            .filter(|l| kernel::named_like_ours(&l.name))
            .map(|l| (l.name, l.ifindex))
            .collect();
        ours.sort();
        Ok(ours)
    }

    /// The link `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn link(&self, name: &str) -> Result<Link> {
        let links = self.links()?;
        let names: Vec<String> = links.iter().map(|l| l.name.clone()).collect();
        links
            .into_iter()
            .find(|l| l.name == name)
            .with_context(|| format!("no link {name} on {}, only {names:?}", self.name()))
    }

    /// Everything the namespace holds, as text; see [`kernel::snapshot`].
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn snapshot(&self) -> Result<String> {
        kernel::snapshot(self.netns())
    }

    /// What the links `devs` hold; see [`kernel::snapshot_of`].
    ///
    /// # Errors
    /// If one of them is gone.
    pub fn snapshot_of(&self, devs: &[&str]) -> Result<String> {
        kernel::snapshot_of(self.netns(), devs)
    }

    /// Starts `bridge -timestamp monitor fdb`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn monitor_fdb(&self) -> Result<Monitor> {
        self.monitor("bridge -timestamp monitor fdb")
    }

    /// Starts a monitor in the host's namespace.
    ///
    /// # Errors
    /// If it does not start.
    pub fn monitor(&self, line: &str) -> Result<Monitor> {
        Monitor::start(self.netns(), line, self.0.shared.new_file("monitor"))
    }

    // ---- overlayctl

    /// Runs `overlayctl` against the daemon of this host.
    ///
    /// # Errors
    /// If the program is not there. A failure that it reports is no error here.
    pub fn ctl(&self, args: &[&str]) -> Result<CtlOutput> {
        let output = self.overlayctl()?.args(args).output().context("cannot start overlayctl")?;
        Ok(CtlOutput::of(output))
    }

    /// `overlayctl --socket S`, to be completed.
    ///
    /// # Errors
    /// If the program is not there.
    pub fn overlayctl(&self) -> Result<Command> {
        let mut command = Command::new(&binaries()?.overlayctl);
        command.arg("--socket").arg(self.socket()).stdin(Stdio::null()).env("LC_ALL", "C");
        command.env_remove("OVERLAYD_SOCKET");
        Ok(command)
    }

    /// Runs `overlayctl` as a user and group that nothing was granted to.
    ///
    /// # Errors
    /// If the program is not there.
    pub fn ctl_as_nobody(&self, args: &[&str]) -> Result<CtlOutput> {
        let mut command = Command::new("setpriv");
        command.args(NOBODY).arg(&binaries()?.overlayctl).arg("--socket").arg(self.socket());
        let output = command.args(args).stdin(Stdio::null()).env("LC_ALL", "C").output()?;
        Ok(CtlOutput::of(output))
    }

    /// [`Host::overlayd`] as a user and group that nothing was granted to.
    ///
    /// # Errors
    /// If the program is not there.
    pub fn overlayd_as_nobody(&self, args: &[&str]) -> Result<CtlOutput> {
        let mut command = command_in(self.netns(), "setpriv");
        command.args(NOBODY).arg(&binaries()?.overlayd).args(args).env_remove("NOTIFY_SOCKET");
        Ok(CtlOutput::of(command.output()?))
    }

    /// Runs `overlayctl --json` and reads the reply.
    ///
    /// # Errors
    /// If it fails, or what it prints is not a `T`.
    pub fn ctl_json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let mut with_json = vec!["--json"];
        with_json.extend(args);
        let out = self.ctl(&with_json)?;
        ensure!(
            out.code == 0,
            "overlayctl {} on {}: exit code {}: {}{}",
            args.join(" "),
            self.name(),
            out.code,
            out.stderr.trim(),
            out.stdout.trim()
        );
        serde_json::from_str(&out.stdout).with_context(|| {
            format!("overlayctl --json {} printed: {}", args.join(" "), out.stdout)
        })
    }

    /// `overlayctl net create`.
    ///
    /// # Errors
    /// If it is refused.
    pub fn net_create(&self, name: &str, spec: NetSpec<'_>) -> Result<v1::Network> {
        let (vni, mtu) = (spec.vni.to_string(), spec.mtu.to_string());
        let mut args = vec!["net", "create", name];
        if spec.vni != 0 {
            args.extend(["--vni", &vni]);
        }
        if spec.mtu != 0 {
            args.extend(["--mtu", &mtu]);
        }
        for subnet in spec.subnets {
            args.extend(["--subnet", subnet]);
        }
        args.extend(spec.extra);
        self.ctl_json(&args)
    }

    /// Waits until the network that another host created is known here.
    ///
    /// # Errors
    /// If it does not arrive.
    pub fn knows_net(&self, name: &str) -> Result<v1::Network> {
        eventually(&format!("{} knows the network {name}", self.name()), || {
            let nets = self.networks()?;
            let names: Vec<String> = nets.iter().map(|n| n.name.clone()).collect();
            nets.into_iter().find(|n| n.name == name).with_context(|| format!("knows {names:?}"))
        })
    }

    /// `overlayctl net ls`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn networks(&self) -> Result<Vec<v1::Network>> {
        self.ctl_json(&["net", "ls"])
    }

    /// `overlayctl endpoints`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn endpoints(&self) -> Result<Vec<v1::Endpoint>> {
        self.ctl_json(&["endpoints"])
    }

    /// `overlayctl hosts`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn hosts(&self) -> Result<Vec<v1::Host>> {
        self.ctl_json(&["hosts"])
    }

    /// What this host thinks of the host `name`.
    ///
    /// # Errors
    /// If it does not know it.
    pub fn host_seen(&self, name: &str) -> Result<v1::Host> {
        let hosts = self.hosts()?;
        let names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
        hosts.into_iter().find(|h| h.name == name).with_context(|| format!("knows {names:?}"))
    }

    /// Waits until this host thinks that the host `name` is `state`.
    ///
    /// # Errors
    /// If it does not come to think so.
    pub fn sees(&self, name: &str, state: &str) -> Result<()> {
        eventually(&format!("{} sees {name} {state}", self.name()), || {
            let seen = self.host_seen(name)?;
            ensure!(seen.state == state, "sees it {}", seen.state);
            Ok(())
        })
    }

    /// `overlayctl status`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn status(&self) -> Result<v1::Status> {
        self.ctl_json(&["status"])
    }

    /// A counter of `overlayctl status`; 0 of one that has not counted yet.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn counter(&self, name: &str) -> Result<u64> {
        Ok(self.status()?.counters.get(name).copied().unwrap_or(0))
    }

    /// One request by the API, without a process around it.
    ///
    /// # Errors
    /// If the daemon refuses, or does not answer within two minutes.
    pub fn ask<T>(
        &self,
        request: impl AsyncFnOnce(Client) -> Result<T, overlay_api::ClientError>,
    ) -> Result<T> {
        let client = Client::new(&self.socket()).with_timeout(Duration::from_secs(120));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(request(client))?)
    }

    /// `overlayctl plan`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn plan(&self) -> Result<v1::Plan> {
        self.ctl_json(&["plan"])
    }

    /// Waits until the kernel holds what it should: nothing pending, nothing
    /// failed, nothing planned, and all of the latest revision.
    ///
    /// # Errors
    /// If it does not come to rest.
    pub fn at_rest(&self) -> Result<()> {
        eventually(&format!("the kernel of {} is as desired", self.name()), || {
            let status = self.status()?;
            ensure!(
                status.pending == 0
                    && status.failed.is_empty()
                    && status.applied_revision == status.desired_revision,
                "pending {}, failed {:?}, revision {} of {}",
                status.pending,
                status.failed,
                status.applied_revision,
                status.desired_revision
            );
            let plan = self.plan()?;
            ensure!(plan.commands.is_empty(), "would do {:?}", plan.commands);
            Ok(())
        })
    }

    /// Waits until the kernel of this host knows `far`, a container of network
    /// `vni` on another host, by MAC and by every address, and holds nothing
    /// that it should not: from here on nothing has to be asked for.
    ///
    /// # Errors
    /// If it does not come to that.
    pub fn reaches(&self, vni: u32, far: &Container) -> Result<()> {
        eventually(&format!("{} knows {}", self.name(), far.name()), || {
            let fdb = self.fdb(&format!("ovx{vni}"))?;
            ensure!(fdb.knows(far.mac()), "not in its FDB");
            let neighbours = self.neigh(&format!("ovb{vni}"))?;
            for ip in far.endpoint().ips.iter().map(ipnet::IpNet::addr) {
                ensure!(neighbours.iter().any(|n| n.ip == ip), "no neighbour {ip}");
            }
            Ok(())
        })?;
        self.at_rest()
    }

    // ---- containers

    /// Makes a container: a namespace on this host, attached to nothing.
    ///
    /// # Errors
    /// If there is one of that name in the lab.
    pub fn container(&self, name: &str) -> Result<Container> {
        let netns = self.0.shared.make_netns(name)?;
        self.state().containers.push(netns.clone());
        Ok(Container::new(self.clone(), name, netns))
    }

    /// Makes a container and attaches it to `net`, named `name` there too.
    ///
    /// # Errors
    /// If the attach is refused.
    pub fn attach(&self, net: &str, name: &str) -> Result<Container> {
        self.attach_with(net, name, &[])
    }

    /// [`Host::attach`], with further arguments of `overlayctl attach`.
    ///
    /// # Errors
    /// If the attach is refused.
    pub fn attach_with(&self, net: &str, name: &str, extra: &[&str]) -> Result<Container> {
        let mut container = self.container(name)?;
        container.attach_with(net, extra)?;
        Ok(container)
    }

    /// `overlayctl detach`.
    ///
    /// # Errors
    /// If it is refused.
    pub fn detach(&self, name: &str) -> Result<()> {
        self.ctl_json::<serde_json::Value>(&["detach", name]).map(drop)
    }

    /// Removes a container's namespace behind the daemon's back, as a crash of
    /// its runtime would.
    ///
    /// # Errors
    /// If it is not of this host.
    pub fn remove_container(&self, container: &Container) -> Result<()> {
        self.state().containers.retain(|n| n != container.netns());
        self.0.shared.remove_netns(container.netns())
    }

    pub(crate) fn new_file(&self, what: &str) -> PathBuf {
        self.0.shared.new_file(what)
    }

    /// All there is to see, for a failed lab.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("---- host {} ({})\n", self.name(), self.netns());
        text.push_str(&kernel::describe(self.netns()));
        let runs = self.state().daemon.as_mut().is_some_and(|d| matches!(d.try_wait(), Ok(None)));
        if runs {
            // A frozen daemon never answers.
            let _ = self.thaw();
            for args in [["hosts"].as_slice(), &["endpoints"], &["status"], &["plan"]] {
                let said = self.ctl(args).map(|o| o.stdout + &o.stderr);
                let said = said.unwrap_or_else(|e| format!("{e:#}"));
                let _ = writeln!(text, "$ overlayctl {}\n{}", args.join(" "), said.trim_end());
            }
        } else {
            text.push_str("overlayd does not run\n");
        }
        let _ = writeln!(text, "$ tail -n 60 {}\n{}", self.log_file().display(), self.log_tail(60));
        text
    }
}

/// Writes `text` to a file of the host's directory, and returns its path: for
/// configuration files.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(host: &Host, name: &str, text: &str) -> Result<PathBuf> {
    let path = host.dir().join(name);
    std::io::Write::write_all(&mut File::create(&path)?, text.as_bytes())?;
    Ok(path)
}
