//! A lab: the underlay, the hosts on it, and the end of it all.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::binaries::{binaries, check_machine};
use crate::capture::Capture;
use crate::container::Container;
use crate::host::{DaemonOptions, Host, NetSpec};
use crate::shell::{NETNS_DIR, feed_in, run, run_in, signal_pid};
use crate::wait::eventually;

/// Names of all namespaces and directories of all labs begin with it; the pid
/// of the lab's process and a number follow.
const PREFIX: &str = "ovlab";

/// The underlay that a lab is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// MTU of its cables, bytes of IP packet.
    pub mtu: u16,
}

impl Default for Underlay {
    fn default() -> Self {
        Self { mtu: 1500 }
    }
}

/// What the parts of a lab share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) prefix: String,
    pub(crate) dir: PathBuf,
    pub(crate) underlay: Underlay,
    /// Namespaces made so far, in order.
    pub(crate) namespaces: Mutex<Vec<String>>,
    files: AtomicU32,
}

impl Shared {
    /// The namespace of the underlay.
    pub(crate) fn underlay_netns(&self) -> String {
        format!("{}-ul", self.prefix)
    }

    /// Makes the namespace `<lab>-<name>`, its loopback up.
    pub(crate) fn make_netns(&self, name: &str) -> Result<String> {
        let netns = format!("{}-{name}", self.prefix);
        run(&format!("ip netns add {netns}"))?;
        self.namespaces.lock().expect("no test panics in here").push(netns.clone());
        run(&format!("ip -n {netns} link set dev lo up"))?;
        Ok(netns)
    }

    /// Removes a namespace, with the processes that are in it.
    pub(crate) fn remove_netns(&self, netns: &str) -> Result<()> {
        remove_netns(netns)?;
        self.namespaces.lock().expect("no test panics in here").retain(|n| n != netns);
        Ok(())
    }

    /// A file of the lab that no one else writes to.
    pub(crate) fn new_file(&self, what: &str) -> PathBuf {
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{n:02}-{what}"))
    }
}

/// Hosts on one underlay. See the header of the crate.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    hosts: Mutex<Vec<Host>>,
    failed: Cell<bool>,
}

impl Lab {
    /// Makes a lab with a plain underlay, runs `claims` in it, and removes it.
    ///
    /// # Errors
    /// What `claims` returned, after the state of all hosts was printed; or
    /// what the lab needs and could not get.
    pub fn run(claims: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        Self::run_on(Underlay::default(), claims)
    }

    /// [`Lab::run`] on an underlay of one's own.
    ///
    /// # Errors
    /// As [`Lab::run`].
    pub fn run_on(underlay: Underlay, claims: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        let lab = Self::new(underlay)?;
        let outcome = claims(&lab);
        lab.failed.set(outcome.is_err());
        outcome
    }

    /// Makes a lab without hosts.
    ///
    /// # Errors
    /// What the lab needs and could not get.
    pub fn new(underlay: Underlay) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        check_machine()?;
        remove_orphans();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let shared = Arc::new(Shared {
            prefix,
            dir,
            underlay,
            namespaces: Mutex::default(),
            files: AtomicU32::new(0),
        });
        let lab = Self { shared, hosts: Mutex::default(), failed: Cell::new(false) };
        lab.lay_underlay().context("cannot make the underlay")?;
        Ok(lab)
    }

    fn lay_underlay(&self) -> Result<()> {
        let ul = self.shared.make_netns("ul")?;
        let mtu = self.shared.underlay.mtu;
        // No router solicitations and listener reports of the lab's own: captures hold what
        // daemons and containers send.
        run_in(&ul, "sysctl -q -w net.ipv6.conf.default.accept_ra=0")?;
        run(&format!(
            "ip -n {ul} link add dev br0 mtu {mtu} type bridge stp_state 0 mcast_snooping 0"
        ))?;
        run(&format!("ip -n {ul} addr add 192.0.2.254/24 brd + dev br0"))?;
        run(&format!("ip -n {ul} addr add 2001:db8::fe/64 dev br0 nodad"))?;
        run(&format!("ip -n {ul} link set dev br0 up"))?;
        Ok(())
    }

    /// Makes a host without a daemon: namespace, cable, addresses.
    ///
    /// # Errors
    /// If the namespace or the cable cannot be made.
    pub fn host(&self, name: &str) -> Result<Host> {
        let mut hosts = self.hosts.lock().expect("no test panics in here");
        let host = Host::new(self.shared.clone(), name, hosts.len() + 1)?;
        hosts.push(host.clone());
        Ok(host)
    }

    /// Makes hosts, starts a daemon on each that joins all others, and waits
    /// until each sees each other.
    ///
    /// # Errors
    /// If one cannot be made, or they do not find each other.
    pub fn hosts<const N: usize>(&self, names: [&str; N]) -> Result<[Host; N]> {
        self.hosts_with(names, &DaemonOptions::default())
    }

    /// [`Lab::hosts`], with options for every daemon.
    ///
    /// # Errors
    /// As [`Lab::hosts`].
    pub fn hosts_with<const N: usize>(
        &self,
        names: [&str; N],
        options: &DaemonOptions,
    ) -> Result<[Host; N]> {
        let mut made = Vec::with_capacity(N);
        for name in names {
            made.push(self.host(name)?);
        }
        for host in &made {
            let join = made
                .iter()
                .filter(|other| other.name() != host.name())
                .map(|other| format!("{}:7946", other.address()))
                .collect();
            host.start_with(&DaemonOptions { join, ..options.clone() })?;
        }
        self.all_up(&made)?;
        let Ok(made) = made.try_into() else { bail!("as many hosts as names") };
        Ok(made)
    }

    /// Starts `a` as told and a host b that joins it, with a container each on a network `demo`
    /// of VNI 4097, which have talked to each other.
    ///
    /// # Errors
    /// If any of it fails.
    pub fn talking(&self, a: Host, of_a: &DaemonOptions) -> Result<([Host; 2], [Container; 2])> {
        let b = self.host("b")?;
        a.start_with(of_a)?;
        let join = vec![format!("{}:7946", a.address())];
        b.start_with(&DaemonOptions { join, ..DaemonOptions::default() })?;
        self.all_up(&[a.clone(), b.clone()])?;
        let demo = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], ..NetSpec::default() };
        a.net_create("demo", demo)?;
        b.knows_net("demo")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        c1.ping(c2.ip())?;
        c2.ping(c1.ip())?;
        Ok(([a, b], [c1, c2]))
    }

    /// Waits until each of `hosts` sees all of them `up`.
    ///
    /// # Errors
    /// If they do not find each other.
    pub fn all_up(&self, hosts: &[Host]) -> Result<()> {
        for host in hosts {
            eventually(&format!("{} sees all {} hosts up", host.name(), hosts.len()), || {
                let seen = host.hosts()?;
                let up = seen.iter().filter(|h| h.state == "up").count();
                ensure!(
                    up == hosts.len(),
                    "{:?}",
                    seen.iter().map(|h| (&h.name, &h.state)).collect::<Vec<_>>()
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Captures all frames of the underlay, each once.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.shared.underlay_netns(), "br0", self.shared.new_file("underlay.pcap"))
    }

    /// Captures the frames on the cable of one host.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub fn capture_at(&self, host: &Host) -> Result<Capture> {
        Capture::start(
            &self.shared.underlay_netns(),
            &host.port(),
            self.shared.new_file(&format!("{}.pcap", host.name())),
        )
    }

    /// From now on, nothing gets from `one` to `other` nor back. Neither can
    /// see why: their own links stay up.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn cut(&self, one: &Host, other: &Host) -> Result<()> {
        let (a, b) = (one.port(), other.port());
        self.underlay_rules(&format!("iifname {a} oifname {b} drop; iifname {b} oifname {a} drop"))
    }

    /// From now on, nothing gets from or to `host`. It cannot see why.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn isolate(&self, host: &Host) -> Result<()> {
        let port = host.port();
        self.underlay_rules(&format!("iifname {port} drop; oifname {port} drop"))
    }

    /// From now on, `percent` of all packets between hosts are lost, at random.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn lose(&self, percent: u8) -> Result<()> {
        self.underlay_rules(&format!("numgen random mod 100 < {percent} drop"))
    }

    fn underlay_rules(&self, rules: &str) -> Result<()> {
        feed_in(
            &self.shared.underlay_netns(),
            "nft -f -",
            &format!(
                "table bridge cut {{\n chain forward {{\n type filter hook forward priority 0;\n \
                 {}\n }}\n}}\n",
                rules.replace("; ", "\n ")
            ),
        )
        .map(drop)
    }

    /// Undoes all [`Lab::cut`], [`Lab::isolate`] and [`Lab::lose`].
    ///
    /// # Errors
    /// If nothing was cut.
    pub fn heal(&self) -> Result<()> {
        run_in(&self.shared.underlay_netns(), "nft delete table bridge cut").map(drop)
    }

    /// The namespace of the underlay; its bridge is `br0`.
    pub fn underlay_netns(&self) -> String {
        self.shared.underlay_netns()
    }

    /// A directory of the lab's own, removed with it.
    pub fn dir(&self) -> &std::path::Path {
        &self.shared.dir
    }

    /// Makes a namespace that is neither host nor container.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn netns(&self, name: &str) -> Result<String> {
        self.shared.make_netns(name)
    }

    /// All there is to see, for a failed lab.
    fn describe(&self) -> String {
        let mut text =
            format!("\n======== lab {} failed: what it held ========\n", self.shared.prefix);
        for host in self.hosts.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            let _ = writeln!(text, "{}", host.describe());
        }
        text
    }

    fn how_to_enter(&self) -> String {
        let mut text = format!("\n======== lab {} is kept ========\n", self.shared.prefix);
        let ctl = binaries().map_or("overlayctl".into(), |b| b.overlayctl.display().to_string());
        for host in self.hosts.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            let _ = writeln!(
                text,
                "host {}:   nsenter --net={NETNS_DIR}/{} bash\n          {ctl} --socket {} status\n          less {}",
                host.name(),
                host.netns(),
                host.socket().display(),
                host.log_file().display(),
            );
        }
        for netns in self.shared.namespaces.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            let _ = writeln!(text, "netns:    {netns}");
        }
        text.push_str("remove:   make lab-clean\n");
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.failed.get() || std::thread::panicking() {
            println!("{}", self.describe());
        }
        if std::env::var_os("OVERLAY_KEEP").is_some_and(|v| v == "1") {
            let _ = std::fs::write(self.shared.dir.join("kept"), "");
            println!("{}", self.how_to_enter());
            return;
        }
        // Hosts after containers: namespaces go in the reverse of their order.
        let namespaces = self.shared.namespaces.lock().unwrap_or_else(|e| e.into_inner()).clone();
        for netns in namespaces.iter().rev() {
            if let Err(e) = remove_netns(netns) {
                println!("lab {}: {e:#}", self.shared.prefix);
            }
        }
        for host in self.hosts.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            host.reap();
        }
        let _ = std::fs::remove_dir_all(&self.shared.dir);
    }
}

/// Kills what is in a namespace, each process by its pid, and removes it.
fn remove_netns(netns: &str) -> Result<()> {
    let pids = run(&format!("ip netns pids {netns}"))?;
    for pid in pids.split_whitespace().filter_map(|p| p.parse().ok()) {
        // Gone meanwhile is as good; a stopped process (SIGSTOP) dies of SIGKILL too.
        let _ = signal_pid(pid, Signal::SIGKILL);
    }
    run(&format!("ip netns del {netns}")).map(drop)
}

/// Removes what labs left behind whose process was killed before it could do
/// so itself; kept labs stay.
fn remove_orphans() {
    let owner = |name: &str| -> Option<(String, u32)> {
        let rest = name.strip_prefix(PREFIX)?;
        let mut parts = rest.split('-');
        let pid: u32 = parts.next()?.parse().ok()?;
        let n: u32 = parts.next()?.parse().ok()?;
        Some((format!("{PREFIX}{pid}-{n}"), pid))
    };
    let orphaned = |name: &str| {
        owner(name).filter(|(prefix, pid)| {
            !PathBuf::from(format!("/proc/{pid}")).exists()
                && !std::env::temp_dir().join(prefix).join("kept").exists()
        })
    };
    // Another lab may remove the same: what cannot be removed is somebody else's work.
    for entry in std::fs::read_dir(NETNS_DIR).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if orphaned(&name).is_some() {
            let _ = remove_netns(&name);
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if orphaned(&name).is_some_and(|(prefix, _)| prefix == name) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
