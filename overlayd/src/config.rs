//! What the daemon is told: flags over `OVERLAYD_*` over the file over defaults.
//!
//! ```text
//!   flags ──┐
//!   env   ──┼─► for each key the first that has it ─► parse ─► check ─► Settings
//!   file  ──┤            (and where it came from)
//!   default ┘
//! ```
//!
//! One table, [`KEYS`], names every key; a flag `--gossip-port`, a variable
//! `OVERLAYD_GOSSIP_PORT` and a line `gossip-port = 7946` are one setting, read
//! by one parser, so that one mistake has one wording wherever it is made.
//! Every problem is found before any is reported, one line each, with the place
//! of the value and what would be right.
//!
//! Nothing here touches the network or the kernel, but for the names of the
//! machine and of its interfaces, which come in through [`Surroundings`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use overlay_model::{Access, IfName, Name, Outer, Protocol};
use overlay_netlink::Wanted;

/// Read if `--config` names no other and it exists.
pub const DEFAULT_FILE: &str = "/etc/overlayd/overlayd.toml";

const ENV_PREFIX: &str = "OVERLAYD_";

/// A setting: its name, its default (`None`: what [`Key::unset`] says), and
/// what stands in for it when it has none.
struct Key {
    name: &'static str,
    default: Option<&'static str>,
    unset: &'static str,
}

/// Every setting, in the order in which `check-config` prints them.
const KEYS: &[Key] = &[
    with("join", None, "nobody; others may join this host"),
    with("name", None, "the machine's host name"),
    with("advertise", None, "the gossip address"),
    with("vtep-ip", None, "the source address of the default route"),
    with("vtep-families", Some("one"), ""),
    with("underlay-dev", None, "the device that has the VTEP address"),
    with("gossip-port", Some("7946"), ""),
    with("gossip-bind", None, "the VTEP address"),
    with("key-file", None, "no key: gossip on the loopback device only, unless insecure"),
    with("insecure", Some("false"), ""),
    with("vxlan-port", Some("4789"), ""),
    with("vxlan-checksum", Some("true"), ""),
    with("vxlan-source-ports", None, "the range of net.ipv4.ip_local_port_range"),
    with("vxlan-df", Some("unset"), ""),
    with("vxlan-ttl", Some("auto"), ""),
    with("vxlan-dscp", Some("0"), ""),
    with("vxlan-tx-checksum", Some("auto"), ""),
    with("state-dir", Some("/var/lib/overlayd"), ""),
    with("socket", Some("/run/overlayd/overlayd.sock"), ""),
    with("log", Some("text"), ""),
    with("log-level", Some("info"), ""),
    with("down-after", Some("1s"), ""),
    with("down-grace", Some("10s"), ""),
    with("stop-grace", Some("10m"), ""),
    with("forget-after", Some("24h"), ""),
    with("gossip-interval", Some("500ms"), ""),
    with("alone-after", Some("15s"), ""),
    with("leak-grace", Some("60s"), ""),
    with("host-access", Some("none"), ""),
    with("dns", Some("on"), ""),
    with("dns-ttl", Some("5s"), ""),
    with("resolv-conf", Some("/etc/resolv.conf"), ""),
    with("docker-plugin", None, "not asked by dockerd"),
    with("docker-socket", Some("/run/docker.sock"), ""),
    with("journal", None, "no journal"),
    with("journal-limit", Some("64MiB"), ""),
];

const fn with(name: &'static str, default: Option<&'static str>, unset: &'static str) -> Key {
    Key { name, default, unset }
}

/// Joins containers on many hosts into one Ethernet segment a network.
#[derive(Debug, Parser)]
#[command(name = "overlayd", version, args_conflicts_with_subcommands = false)]
pub struct Cli {
    /// What to set.
    #[command(flatten)]
    pub flags: Flags,
    /// What to do; `run` unless told.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// What to do.
    pub fn command(&self) -> Command {
        self.command.clone().unwrap_or(Command::Run)
    }
}

/// What the binary can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the daemon (the default)
    Run,
    /// Print the settings as they would be used, and where each comes from
    ///
    /// Exits 1, with one line a problem, if the daemon would not start with them.
    CheckConfig,
    /// Do again what a journal (--journal) has recorded, and print what came of each event
    ///
    /// Touches nothing. Exits 1 if the effects are not those that were recorded.
    Replay {
        /// The journal
        file: PathBuf,
    },
    /// Remove from the kernel everything that overlayd has put there, and nothing else
    Teardown,
    /// Print a new cluster key, for --key-file on every host
    ///
    /// For example: (umask 077; overlayd keygen > /etc/overlayd/key)
    Keygen,
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// The flags. All are text: they are read by the same parsers as the
/// environment and the file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings (each also as OVERLAYD_… and in the file)")]
pub struct Flags {
    /// A host to find the cluster by; repeatable. Names are resolved again and again
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub join: Vec<String>,
    /// What people call this host: a DNS label [default: the machine's host name]
    #[arg(long, global = true)]
    pub name: Option<String>,
    /// Where other hosts reach our gossip [default: the gossip address]
    #[arg(long, global = true, value_name = "IP[:PORT]")]
    pub advertise: Option<String>,
    /// Our end of the VXLAN tunnels; twice for one of IPv4 and one of IPv6 [default: the source
    /// address of the default route]
    #[arg(long, global = true, value_name = "IP", value_delimiter = ',')]
    pub vtep_ip: Vec<String>,
    /// With both, an address of IPv4 and one of IPv6 is looked for, as far as there is one: one or
    /// both [default: one]
    #[arg(long, global = true, value_name = "WHICH")]
    pub vtep_families: Option<String>,
    /// Take the VTEP address from this device
    #[arg(long, global = true, value_name = "IF")]
    pub underlay_dev: Option<String>,
    /// UDP port of gossip [default: 7946]
    #[arg(long, global = true, value_name = "PORT")]
    pub gossip_port: Option<String>,
    /// Address that gossip listens on [default: the VTEP address]
    #[arg(long, global = true, value_name = "IP")]
    pub gossip_bind: Option<String>,
    /// File with the cluster's key (up to three, the first is used), mode 0600
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<String>,
    /// Gossip without a key: whoever reaches the port can read and write everything
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub insecure: Option<String>,
    /// UDP port of VXLAN [default: 4789]
    #[arg(long, global = true, value_name = "PORT")]
    pub vxlan_port: Option<String>,
    /// A UDP checksum over VXLAN packets; false only between IPv4 VTEPs [default: true]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub vxlan_checksum: Option<String>,
    /// UDP source ports of VXLAN, by flow, like 49152-65535 [default: net.ipv4.ip_local_port_range]
    #[arg(long, global = true, value_name = "FIRST-LAST")]
    pub vxlan_source_ports: Option<String>,
    /// Whether routers may fragment VXLAN packets: unset (they may), set or inherit [default: unset]
    #[arg(long, global = true, value_name = "DF")]
    pub vxlan_df: Option<String>,
    /// Hops of VXLAN packets: auto (as the host's own), inherit or a number [default: auto]
    #[arg(long, global = true, value_name = "TTL")]
    pub vxlan_ttl: Option<String>,
    /// Traffic class (DSCP) of VXLAN packets: inherit or 0 to 63 [default: 0]
    #[arg(long, global = true, value_name = "DSCP")]
    pub vxlan_dscp: Option<String>,
    /// Whether the network card writes checksums of what VXLAN carries: on, off, or auto, which is
    /// off where the card's driver or the kernel is known to get them wrong [default: auto]
    #[arg(long, global = true, value_name = "WHO")]
    pub vxlan_tx_checksum: Option<String>,
    /// Where identity, networks and endpoints are kept [default: /var/lib/overlayd]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Where overlayctl finds us [default: /run/overlayd/overlayd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<String>,
    /// A file with the same keys [default: /etc/overlayd/overlayd.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<String>,
    /// Form of the log: text or json [default: text]
    #[arg(long, global = true, value_name = "FORM")]
    pub log: Option<String>,
    /// What is logged: a level, or a filter like `info,overlay_gossip=debug` [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// A suspect host (not heard for two and a half gossip intervals) is down after so long [default: 1s]
    #[arg(long, global = true, value_name = "TIME")]
    pub down_after: Option<String>,
    /// The entries of a host that is down for so long are removed [default: 10s]
    #[arg(long, global = true, value_name = "TIME")]
    pub down_grace: Option<String>,
    /// The same for a host whose daemon was stopped in good order [default: 10m]
    #[arg(long, global = true, value_name = "TIME")]
    pub stop_grace: Option<String>,
    /// A host that is silent for so long is forgotten: another takes its addresses over; or off [default: 24h]
    #[arg(long, global = true, value_name = "TIME")]
    pub forget_after: Option<String>,
    /// Time between rounds of gossip [default: 500ms]
    #[arg(long, global = true, value_name = "TIME")]
    pub gossip_interval: Option<String>,
    /// Without an answer for so long, a host takes itself for the whole cluster [default: 15s]
    #[arg(long, global = true, value_name = "TIME")]
    pub alone_after: Option<String>,
    /// An endpoint whose network namespace is gone is released after so long, unless it is attached
    /// again by its name [default: 60s]
    #[arg(long, global = true, value_name = "TIME")]
    pub leak_grace: Option<String>,
    /// Which ports of this host containers get to besides ICMP, DNS at their gateway and published
    /// ports: none, all, or a list like 9100,514/udp [default: none]
    #[arg(long, global = true, value_name = "PORTS")]
    pub host_access: Option<String>,
    /// Whether containers are answered names: on or off [default: on]
    #[arg(long, global = true, value_name = "ON")]
    pub dns: Option<String>,
    /// How long what was answered may be remembered [default: 5s]
    #[arg(long, global = true, value_name = "TIME")]
    pub dns_ttl: Option<String>,
    /// Where the resolvers are named that are asked for names that are not ours; followed as it
    /// changes [default: /etc/resolv.conf]
    #[arg(long, global = true, value_name = "FILE")]
    pub resolv_conf: Option<String>,
    /// Be Docker's network and IPAM driver, by this socket: /run/docker/plugins/overlayd.sock is
    /// where dockerd looks [default: none]
    #[arg(long, global = true, value_name = "PATH")]
    pub docker_plugin: Option<String>,
    /// Where dockerd is asked how its containers are called [default: /run/docker.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub docker_socket: Option<String>,
    /// Append every event to this file, for overlayd replay [default: no journal]
    #[arg(long, global = true, value_name = "FILE")]
    pub journal: Option<String>,
    /// The journal ends when it has this size [default: 64MiB]
    #[arg(long, global = true, value_name = "SIZE")]
    pub journal_limit: Option<String>,
}

impl Flags {
    fn get(&self, key: &str) -> Option<Vec<String>> {
        let one = |value: &Option<String>| value.clone().map(|value| vec![value]);
        match key {
            "join" if self.join.is_empty() => None,
            "join" => Some(self.join.clone()),
            "name" => one(&self.name),
            "advertise" => one(&self.advertise),
            "vtep-ip" if self.vtep_ip.is_empty() => None,
            "vtep-ip" => Some(self.vtep_ip.clone()),
            "vtep-families" => one(&self.vtep_families),
            "underlay-dev" => one(&self.underlay_dev),
            "gossip-port" => one(&self.gossip_port),
            "gossip-bind" => one(&self.gossip_bind),
            "key-file" => one(&self.key_file),
            "insecure" => one(&self.insecure),
            "vxlan-port" => one(&self.vxlan_port),
            "vxlan-checksum" => one(&self.vxlan_checksum),
            "vxlan-source-ports" => one(&self.vxlan_source_ports),
            "vxlan-df" => one(&self.vxlan_df),
            "vxlan-ttl" => one(&self.vxlan_ttl),
            "vxlan-dscp" => one(&self.vxlan_dscp),
            "vxlan-tx-checksum" => one(&self.vxlan_tx_checksum),
            "state-dir" => one(&self.state_dir),
            "socket" => one(&self.socket),
            "log" => one(&self.log),
            "log-level" => one(&self.log_level),
            "down-after" => one(&self.down_after),
            "down-grace" => one(&self.down_grace),
            "stop-grace" => one(&self.stop_grace),
            "forget-after" => one(&self.forget_after),
            "gossip-interval" => one(&self.gossip_interval),
            "alone-after" => one(&self.alone_after),
            "leak-grace" => one(&self.leak_grace),
            "host-access" => one(&self.host_access),
            "dns" => one(&self.dns),
            "dns-ttl" => one(&self.dns_ttl),
            "resolv-conf" => one(&self.resolv_conf),
            "docker-plugin" => one(&self.docker_plugin),
            "docker-socket" => one(&self.docker_socket),
            "journal" => one(&self.journal),
            "journal-limit" => one(&self.journal_limit),
            _ => None,
        }
    }
}

/// What the rest of the daemon gets: every value in range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Hosts to find the cluster by, each `HOST:PORT`.
    pub join: Vec<String>,
    /// What people call this host.
    pub name: Name,
    /// Where other hosts reach our gossip, if not where it listens.
    pub advertise: Option<Advertise>,
    /// Our end of the tunnels, if told; at most one a family.
    pub vtep_ips: Vec<IpAddr>,
    /// An address of each family is wanted.
    pub both_families: bool,
    /// The device that has it, if told.
    pub underlay_dev: Option<IfName>,
    /// UDP port of gossip.
    pub gossip_port: u16,
    /// Address that gossip listens on, if not the VTEP's.
    pub gossip_bind: Option<IpAddr>,
    /// The file with the cluster's keys, if any.
    pub key_file: Option<PathBuf>,
    /// Gossip on any address without a key.
    pub insecure: bool,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// What stands in the outer headers of VXLAN packets.
    pub outer: Outer,
    /// Whether the network card writes the checksums of what VXLAN carries; off
    /// where that is known to go wrong, if it is not said.
    pub tx_checksum: Option<bool>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Where the local API is served.
    pub socket: PathBuf,
    /// Form of the log.
    pub log: LogForm,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it.
    pub log_level: String,
    /// A suspect host is down after so long.
    pub down_after: Duration,
    /// The entries of a host that is down for so long go.
    pub down_grace: Duration,
    /// The entries of a host stopped for so long go.
    pub stop_grace: Duration,
    /// A host silent for so long is forgotten; `None`: only when an operator says so.
    pub forget_after: Option<Duration>,
    /// Between rounds of gossip.
    pub gossip_interval: Duration,
    /// Alone for so long, the host's view counts as complete.
    pub alone_after: Duration,
    /// An endpoint whose namespace is gone is released after so long; zero: at once.
    pub leak_grace: Duration,
    /// Which ports of this host containers get to.
    pub host_access: Access,
    /// Containers are answered names.
    pub dns: bool,
    /// Seconds for which an answer may be remembered.
    pub dns_ttl: u32,
    /// Where this host's resolvers are named.
    pub resolv_conf: PathBuf,
    /// Where events are recorded, if at all.
    pub journal: Option<PathBuf>,
    /// Where dockerd finds its driver.
    pub docker_plugin: Option<PathBuf>,
    /// Where dockerd's API is.
    pub docker_socket: PathBuf,
    /// How long the journal may be, bytes.
    pub journal_limit: u64,
}

/// Where others reach our gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertise {
    /// Address.
    pub ip: IpAddr,
    /// Port, if not the one that gossip listens on.
    pub port: Option<u16>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Settings {
    /// Which underlay is wanted.
    pub fn underlay(&self) -> Wanted {
        let (vteps, dev) = (self.vtep_ips.clone(), self.underlay_dev.clone());
        Wanted { vteps, dev, both: self.both_families }
    }

    /// True if this host is to have a VTEP address of each family.
    pub fn dual(&self) -> bool {
        self.both_families || self.vtep_ips.len() > 1
    }

    /// Where gossip listens. Unless told, that is the address that others are
    /// told, if this host `has` it (it may be that of a router that translates
    /// it), else the VTEP's; else, if that is of the other family, any address.
    pub fn gossip_listen(&self, vtep: IpAddr, has: impl Fn(IpAddr) -> bool) -> SocketAddr {
        let ip = match (self.gossip_bind, self.advertise) {
            (Some(bind), _) => bind,
            (None, Some(told)) if has(told.ip) => told.ip,
            (None, Some(told)) if told.ip.is_ipv4() && vtep.is_ipv6() => {
                Ipv4Addr::UNSPECIFIED.into()
            }
            (None, Some(told)) if told.ip.is_ipv6() && vtep.is_ipv4() => {
                Ipv6Addr::UNSPECIFIED.into()
            }
            (None, _) => vtep,
        };
        SocketAddr::new(ip, self.gossip_port)
    }

    /// Where gossip listens besides, on a host of both families: at the VTEP
    /// address of the other one, so that hosts that have it alone reach us.
    pub fn gossip_listen_also(&self, listen: SocketAddr, vteps: &[IpAddr]) -> Option<SocketAddr> {
        let both = vteps.len() > 1 && self.gossip_bind.is_none() && !listen.ip().is_unspecified();
        let other = vteps.iter().find(|ip| ip.is_ipv4() != listen.is_ipv4()).filter(|_| both);
        other.map(|ip| SocketAddr::new(*ip, self.gossip_port))
    }

    /// Where others reach it.
    pub fn gossip_advertise(&self, vtep: IpAddr) -> SocketAddr {
        match self.advertise {
            Some(told) => SocketAddr::new(told.ip, told.port.unwrap_or(self.gossip_port)),
            None => {
                let listen = self.gossip_listen(vtep, |_| true);
                // "Everywhere" is no address to be reached at.
                let ip = if listen.ip().is_unspecified() { vtep } else { listen.ip() };
                SocketAddr::new(ip, listen.port())
            }
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A flag.
    Flag(&'static str),
    /// An environment variable.
    Env(String),
    /// A line of the file.
    File(PathBuf, usize),
    /// Nobody said.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Env(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What the machine says when settings do not.
pub trait Surroundings {
    /// The machine's host name.
    fn host_name(&self) -> String;
    /// The file's text.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// The addresses of a device; `None` if there is no such device.
    fn addresses(&self, device: &IfName) -> Option<Vec<IpAddr>>;
}

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl Surroundings for ThisMachine {
    fn host_name(&self) -> String {
        nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn addresses(&self, device: &IfName) -> Option<Vec<IpAddr>> {
        let mut found = None;
        for entry in nix::ifaddrs::getifaddrs().ok()? {
            if entry.interface_name != device.as_str() {
                continue;
            }
            let addresses: &mut Vec<IpAddr> = found.get_or_insert_default();
            let Some(address) = entry.address else { continue };
            addresses.extend(address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip())));
            addresses.extend(address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
        }
        found
    }
}

/// Every problem of a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// Settings, and where they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What is odd but harmless, one line each.
    pub warnings: Vec<String>,
    /// For each key the texts it was set to (`None`: not set) and by whom.
    origins: Vec<(&'static str, Option<Vec<String>>, Source)>,
}

/// Resolves `flags`, the process's environment, and the file.
///
/// # Errors
/// [`Problems`], all of them.
pub fn resolve(flags: &Flags) -> Result<Resolved, Problems> {
    let env = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    resolve_in(flags, &env, &ThisMachine)
}

/// [`resolve`], in a world of the caller's.
///
/// # Errors
/// [`Problems`], all of them.
pub fn resolve_in(
    flags: &Flags,
    env: &BTreeMap<String, String>,
    world: &dyn Surroundings,
) -> Result<Resolved, Problems> {
    let mut problems = Vec::new();
    let file = read_file(flags, env, world, &mut problems);
    let mut values = Values { problems, found: BTreeMap::new(), origins: Vec::new() };
    for key in KEYS {
        let (texts, source) = if let Some(texts) = flags.get(key.name) {
            (Some(texts), Source::Flag(key.name))
        } else if let Some(text) = env.get(&env_name(key.name)).filter(|text| !text.is_empty()) {
            (Some(split(key.name, text)), Source::Env(env_name(key.name)))
        } else if let Some((texts, line)) = file.values.get(key.name) {
            let path = file.path.clone().unwrap_or_default();
            (Some(texts.clone()), Source::File(path, *line))
        } else {
            (key.default.map(|text| vec![text.to_owned()]), Source::Default)
        };
        if let Some(texts) = &texts {
            values.found.insert(key.name, (texts.clone(), source.clone()));
        }
        values.origins.push((key.name, texts, source));
    }
    let settings = values.settings(world);
    let warnings = unknown_variables(env);
    let Values { problems, mut origins, .. } = values;
    match settings {
        Some(settings) if problems.is_empty() => {
            // What is printed is what is used.
            for (key, texts, _) in &mut origins {
                match *key {
                    "join" if !settings.join.is_empty() => *texts = Some(settings.join.clone()),
                    "name" => *texts = Some(vec![settings.name.to_string()]),
                    _ => {}
                }
            }
            Ok(Resolved { settings, file: file.path, warnings, origins })
        }
        _ => Err(Problems(problems)),
    }
}

impl Resolved {
    /// The settings as a file that sets them, each line with where its value
    /// came from.
    pub fn to_toml(&self) -> String {
        let mut lines = Vec::new();
        for (key, texts, source) in &self.origins {
            let line = match texts {
                Some(texts) if *key == "join" || (is_list(key) && texts.len() > 1) => {
                    let quoted: Vec<_> = texts.iter().map(|text| quote(text)).collect();
                    format!("{key} = [{}]", quoted.join(", "))
                }
                Some(texts) => {
                    let text = texts.first().map(String::as_str).unwrap_or_default();
                    let number = text.bytes().all(|b| b.is_ascii_digit()) && key.ends_with("-port");
                    let shown = if number || matches!(*key, "insecure" | "vxlan-checksum") {
                        text.to_owned()
                    } else {
                        quote(text)
                    };
                    format!("{key} = {shown}")
                }
                None => format!("# {key}: {}", unset(key)),
            };
            lines.push((line, source));
        }
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(50);
        let mut text = String::new();
        for (line, source) in lines {
            match source {
                Source::Default if line.starts_with('#') => text += &line,
                Source::Default if line.starts_with("name") => {
                    text += &format!("{line:width$}  # {}", unset("name"));
                }
                source => text += &format!("{line:width$}  # {source}"),
            }
            text.push('\n');
        }
        text
    }
}

fn unset(key: &str) -> &'static str {
    KEYS.iter().find(|known| known.name == key).map(|known| known.unset).unwrap_or_default()
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// A key that may have several values.
fn is_list(key: &str) -> bool {
    matches!(key, "join" | "vtep-ip")
}

/// Several values in one text, where a key may have several.
fn split(key: &str, text: &str) -> Vec<String> {
    if is_list(key) {
        text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    } else {
        vec![text.to_owned()]
    }
}

/// A variable that looks like ours and is not is a slip of the finger more
/// often than not; but others may have reasons, so it is no error.
fn unknown_variables(env: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<String> =
        KEYS.iter().map(|key| env_name(key.name)).chain([env_name("config")]).collect();
    env.keys()
        .filter(|name| name.starts_with(ENV_PREFIX) && !known.contains(name))
        .map(|name| {
            let near = nearest(name, known.iter().map(String::as_str));
            format!("the environment has {name}, which is no setting; did you mean {near}?")
        })
        .collect()
}

// The file.

/// What a file sets: texts and line, by key.
#[derive(Default)]
struct FileValues {
    path: Option<PathBuf>,
    values: BTreeMap<String, (Vec<String>, usize)>,
}

fn read_file(
    flags: &Flags,
    env: &BTreeMap<String, String>,
    world: &dyn Surroundings,
    problems: &mut Vec<String>,
) -> FileValues {
    let told = flags.config.as_ref().map(|path| (path, "--config".to_owned())).or_else(|| {
        let name = env_name("config");
        env.get(&name).filter(|path| !path.is_empty()).map(|path| (path, name))
    });
    let path = PathBuf::from(told.as_ref().map_or(DEFAULT_FILE, |(path, _)| path.as_str()));
    let text = match world.read(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound && told.is_none() => {
            return FileValues::default();
        }
        Err(err) => {
            let by = told.map(|(_, by)| format!(" (given by {by})")).unwrap_or_default();
            problems.push(format!("cannot read the file {}{by}: {err}", path.display()));
            return FileValues::default();
        }
    };
    let mut file = FileValues { path: Some(path.clone()), values: BTreeMap::new() };
    let line_of = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    let table: BTreeMap<toml::Spanned<String>, toml::Spanned<toml::Value>> =
        match toml::from_str(&text) {
            Ok(table) => table,
            Err(err) => {
                let line = err.span().map_or(1, |span| line_of(span.start));
                let what = err.message().lines().next().unwrap_or("not TOML").to_owned();
                problems.push(format!("{} line {line}: {what}", path.display()));
                return file;
            }
        };
    let mut table: Vec<_> = table.into_iter().collect();
    table.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in table {
        let line = line_of(key.span().start);
        let place = format!("{} line {line}", path.display());
        let key = key.into_inner();
        if !KEYS.iter().any(|known| known.name == key) {
            let known: Vec<_> = KEYS.iter().map(|known| known.name).collect();
            let near = nearest(&key, known.iter().copied());
            let hint = if distance(&key, near) <= key.chars().count() / 2 {
                format!("did you mean `{near}`?")
            } else {
                format!("there are {}", known.join(", "))
            };
            problems.push(format!("{place}: there is no setting `{key}`; {hint}"));
            continue;
        }
        match texts(&key, value.into_inner()) {
            Ok(texts) => drop(file.values.insert(key, (texts, line))),
            Err(wanted) => problems.push(format!("{place}: {key} must be {wanted}")),
        }
    }
    file
}

fn texts(key: &str, value: toml::Value) -> Result<Vec<String>, &'static str> {
    let wanted = match key {
        "join" => "a list of texts, like [\"host:7946\"]",
        "vtep-ip" => "a text in quotes, or a list of two",
        _ if key.ends_with("-port") => "a number",
        "insecure" | "vxlan-checksum" => "true or false",
        "vxlan-ttl" | "vxlan-dscp" => "a number or a text in quotes",
        _ => "a text in quotes",
    };
    match value {
        toml::Value::String(text) => Ok(split(key, &text)),
        toml::Value::Boolean(flag) if wanted == "true or false" => Ok(vec![flag.to_string()]),
        toml::Value::Integer(number) if wanted.starts_with("a number") => {
            Ok(vec![number.to_string()])
        }
        toml::Value::Array(items) if is_list(key) => items
            .into_iter()
            .map(|item| match item {
                toml::Value::String(text) => Ok(text),
                _ => Err(wanted),
            })
            .collect(),
        _ => Err(wanted),
    }
}

/// The known word that takes the fewest changes to get to.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known.min_by_key(|other| distance(word, other)).unwrap_or_default()
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

// The values.

struct Values {
    problems: Vec<String>,
    found: BTreeMap<&'static str, (Vec<String>, Source)>,
    origins: Vec<(&'static str, Option<Vec<String>>, Source)>,
}

impl Values {
    /// `None` if a value is missing because it could not be read.
    fn settings(&mut self, world: &dyn Surroundings) -> Option<Settings> {
        let gossip_port = self.value("gossip-port", port);
        let vxlan_port = self.value("vxlan-port", port);
        let join = self.join(gossip_port);
        let name = self.name(world);
        let advertise = self.value("advertise", advertise);
        let vtep_ips = self.vteps();
        let both_families = self.value("vtep-families", |text| match text {
            "one" => Ok(false),
            "both" => Ok(true),
            _ => Err(format!("`{text}` is neither one nor both")),
        });
        let underlay_dev =
            self.value("underlay-dev", |text| IfName::new(text).map_err(|err| err.to_string()));
        let gossip_bind = self.value("gossip-bind", bind);
        let key_file = self.value("key-file", absolute);
        let insecure = self.value("insecure", flag);
        let outer = self.outer();
        let tx_checksum = self.value("vxlan-tx-checksum", |text| match text {
            "auto" => Ok(None),
            "on" => Ok(Some(true)),
            "off" => Ok(Some(false)),
            _ => Err(format!("`{text}` is none of auto, on, off")),
        });
        let state_dir = self.value("state-dir", absolute);
        let socket = self.value("socket", socket_path);
        let log = self.value("log", |text| match text {
            "text" => Ok(LogForm::Text),
            "json" => Ok(LogForm::Json),
            _ => Err(format!(
                "`{text}` is no form of log; use text or json (the level is set by log-level)"
            )),
        });
        let log_level = self.value("log-level", log_filter);
        let down_after = self.value("down-after", duration);
        let down_grace = self.value("down-grace", duration);
        let stop_grace = self.value("stop-grace", duration);
        let forget_after = self.value("forget-after", |text| match text {
            "off" => Ok(None),
            text => duration(text).map(Some).map_err(|why| format!("{why}, or off")),
        });
        let gossip_interval = self.value("gossip-interval", |text| {
            let interval = duration(text)?;
            if (Duration::from_millis(50)..=Duration::from_secs(10)).contains(&interval) {
                Ok(interval)
            } else {
                Err(format!("`{text}` is out of range; use 50ms to 10s"))
            }
        });
        let alone_after = self.value("alone-after", duration);
        let leak_grace = self.value("leak-grace", duration);
        let host_access = self.value("host-access", access);
        let dns = self.value("dns", |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("`{text}` is neither on nor off")),
        });
        let dns_ttl = self.value("dns-ttl", |text| {
            let seconds = duration(text)?.as_secs_f64();
            // Whole seconds, as DNS has them; and a name that is gone is not to be found for long.
            match seconds.fract() == 0.0 && (0.0..=3600.0).contains(&seconds) {
                true => Ok(seconds as u32),
                false => Err(format!("`{text}` is not in whole seconds up to 1h")),
            }
        });
        let resolv_conf = self.value("resolv-conf", absolute);
        let journal = self.value("journal", absolute);
        let docker_plugin = self.value("docker-plugin", socket_path);
        let docker_socket = self.value("docker-socket", socket_path);
        let journal_limit = self.value("journal-limit", size);

        if gossip_port.is_some() && gossip_port == vxlan_port {
            self.clash("gossip-port", "vxlan-port", "both are UDP ports of this host: set another");
        }
        if let (Some(down), Some(stop)) = (down_grace, stop_grace)
            && down > stop
        {
            let why = "a host that was stopped in good order gets more time than one that \
                       vanished: make the second longer";
            self.clash("down-grace", "stop-grace", why);
        }
        if let (Some(Some(forget)), Some(down)) = (forget_after, down_grace)
            && forget / 2 < down
        {
            let why = "half of the first must be more than the second: a host is down before it \
                       is forgotten";
            self.clash("forget-after", "down-grace", why);
        }
        if key_file.is_some() && insecure == Some(true) {
            self.clash(
                "key-file",
                "insecure",
                "gossip is sealed or it is not: give one of the two",
            );
        }
        if let (Some(told), Some(bind)) = (advertise, gossip_bind)
            && told.ip.is_ipv4() != bind.is_ipv4()
            && !bind.is_unspecified()
        {
            let why = "one is IPv4 and the other IPv6: nobody could reach us";
            self.clash("advertise", "gossip-bind", why);
        }
        if let (Some(ips), Some(device)) = (&vtep_ips, &underlay_dev)
            && let Some(addresses) = world.addresses(device)
            && ips.iter().any(|ip| !addresses.contains(ip))
        {
            let has: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            let has = if has.is_empty() { "no address".to_owned() } else { has.join(", ") };
            let why = format!("that device has {has}: give one of the two, or the right address");
            self.clash("vtep-ip", "underlay-dev", &why);
        }
        Some(Settings {
            join: join?,
            name: name?,
            advertise,
            vtep_ips: vtep_ips?,
            both_families: both_families?,
            underlay_dev,
            gossip_port: gossip_port?,
            gossip_bind,
            key_file,
            insecure: insecure?,
            vxlan_port: vxlan_port?,
            outer: outer?,
            tx_checksum: tx_checksum?,
            state_dir: state_dir?,
            socket: socket?,
            log: log?,
            log_level: log_level?,
            down_after: down_after?,
            down_grace: down_grace?,
            stop_grace: stop_grace?,
            forget_after: forget_after?,
            gossip_interval: gossip_interval?,
            alone_after: alone_after?,
            leak_grace: leak_grace?,
            host_access: host_access?,
            dns: dns?,
            dns_ttl: dns_ttl?,
            resolv_conf: resolv_conf?,
            journal,
            docker_plugin,
            docker_socket: docker_socket?,
            journal_limit: journal_limit?,
        })
    }

    /// What stands in the outer headers of VXLAN packets.
    fn outer(&mut self) -> Option<Outer> {
        let checksum = self.value("vxlan-checksum", flag);
        let unsaid = !self.found.contains_key("vxlan-source-ports");
        let source_ports = self.value("vxlan-source-ports", str::parse);
        let df = self.value("vxlan-df", str::parse);
        let ttl = self.value("vxlan-ttl", str::parse);
        let dscp = self.value("vxlan-dscp", str::parse);
        let source_ports = if unsaid { None } else { Some(source_ports?) };
        Some(Outer { checksum: checksum?, source_ports, df: df?, ttl: ttl?, dscp: dscp? })
    }

    /// Reads the value of `key`, if it has one; notes the problem, if not.
    fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (texts, source) = self.found.get(key)?;
        let text = texts.first().map(String::as_str).unwrap_or_default();
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.push(problem(key, source, &why));
                None
            }
        }
    }

    fn join(&mut self, gossip_port: Option<u16>) -> Option<Vec<String>> {
        let Some((texts, source)) = self.found.get("join") else { return Some(Vec::new()) };
        let mut peers = Vec::new();
        let mut good = true;
        for text in texts {
            match peer(text.trim(), gossip_port.unwrap_or(1)) {
                Ok(peer) => peers.push(peer),
                Err(why) => {
                    good = false;
                    self.problems.push(problem("join", source, &why));
                }
            }
        }
        good.then_some(peers)
    }

    fn vteps(&mut self) -> Option<Vec<IpAddr>> {
        let Some((texts, source)) = self.found.get("vtep-ip") else { return Some(Vec::new()) };
        let mut found: Vec<IpAddr> = Vec::new();
        let before = self.problems.len();
        for text in texts {
            match vtep(text.trim()) {
                Ok(ip) if found.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                    let why = format!(
                        "`{text}` is the second address of its family; give at most one of IPv4 \
                         and one of IPv6"
                    );
                    self.problems.push(problem("vtep-ip", source, &why));
                }
                Ok(ip) => found.push(ip),
                Err(why) => self.problems.push(problem("vtep-ip", source, &why)),
            }
        }
        (self.problems.len() == before).then_some(found)
    }

    fn name(&mut self, world: &dyn Surroundings) -> Option<Name> {
        if self.found.contains_key("name") {
            return self.value("name", |text| Name::new(text).map_err(|err| err.to_string()));
        }
        let machine = world.host_name();
        let label = machine.split('.').next().unwrap_or_default();
        match Name::new(label) {
            Ok(name) => Some(name),
            Err(err) => {
                self.problems.push(format!(
                    "the machine's host name does not serve: {err}; or give another one with --name"
                ));
                None
            }
        }
    }

    /// Notes that two values do not go together.
    fn clash(&mut self, a: &'static str, b: &'static str, why: &str) {
        let said = |key: &'static str| match self.found.get(key) {
            Some((texts, Source::Default)) => format!("{key} {} (default)", texts.join(",")),
            Some((texts, source)) => format!("{key} {} ({source})", texts.join(",")),
            None => key.to_owned(),
        };
        let line = format!("{} and {}: {why}", said(a), said(b));
        self.problems.push(line);
    }
}

/// One line: where, and what is wrong. The key is left out where the place says it.
fn problem(key: &str, source: &Source, why: &str) -> String {
    match source {
        Source::Flag(_) | Source::Env(_) => format!("{source}: {why}"),
        Source::File(..) | Source::Default => format!("{source}: {key}: {why}"),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("`{text}` is not a port; use a number from 1 to 65535")),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err("no time at all is not enough; use something like 10s".to_owned()),
        Err(_) => Err(format!("`{text}` is not a time; write it like 500ms, 10s or 2m")),
    }
}

/// `none`, `all`, or ports as `9100`, `514/udp`, with commas between.
fn access(text: &str) -> Result<Access, String> {
    let port = |text: &str| {
        let (number, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
        let number: u16 = number.parse().ok().filter(|n| *n > 0)?;
        Some((protocol.parse::<Protocol>().ok()?, number))
    };
    match text {
        "none" => Ok(Access::Closed),
        "all" => Ok(Access::Open),
        _ => {
            let ports: Option<BTreeSet<_>> = text.split(',').map(port).collect();
            ports.map(Access::Ports).ok_or_else(|| {
                format!("`{text}` is neither none nor all nor a list of ports like 9100,514/udp")
            })
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let found = units.iter().find_map(|(unit, n)| Some((text.strip_suffix(unit)?.trim(), *n)));
    let number = found.and_then(|(number, n)| number.parse::<u64>().ok()?.checked_mul(n));
    number
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("`{text}` is not a size; write it like 512KiB, 64MiB or 1GiB"))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an IP address"))
}

fn vtep(text: &str) -> Result<IpAddr, String> {
    let ip = ip(text)?;
    let what = if ip.is_unspecified() {
        "is no address of a host"
    } else if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        "is not one host's address"
    } else if ip.is_loopback() {
        "reaches no other host"
    } else {
        return Ok(ip);
    };
    Err(format!("`{text}` {what}; give the address of this host on the underlay"))
}

fn bind(text: &str) -> Result<IpAddr, String> {
    let ip = ip(text)?;
    if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return Err(format!("`{text}` is not one host's address; give one of this host's"));
    }
    Ok(ip)
}

fn advertise(text: &str) -> Result<Advertise, String> {
    let (address, port) = match text.parse::<SocketAddr>() {
        Ok(addr) => (addr.ip(), Some(addr.port())),
        Err(_) => match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => (ip, None),
            Err(_) => {
                return Err(format!(
                    "`{text}` is not IP or IP:PORT; write 192.0.2.1:7946 or [2001:db8::1]:7946"
                ));
            }
        },
    };
    if port == Some(0) {
        return Err(format!("`{text}` has port 0; use a number from 1 to 65535"));
    }
    if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255; 4]) {
        return Err(format!("others cannot reach us at `{text}`; give one address of this host"));
    }
    Ok(Advertise { ip: address, port })
}

/// `HOST:PORT`, or `HOST` with our own gossip port.
fn peer(text: &str, gossip_port: u16) -> Result<String, String> {
    let wrong = || {
        format!("`{text}` is not HOST:PORT; write peer:7946, 192.0.2.1:7946 or [2001:db8::1]:7946")
    };
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return if addr.port() == 0 { Err(wrong()) } else { Ok(addr.to_string()) };
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, gossip_port).to_string());
    }
    let (host, port) = match text.split_once(':') {
        Some((host, text)) => (host, port(text).map_err(|_| wrong())?),
        None => (text, gossip_port),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(good) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("`{text}` depends on where overlayd is started; write the path from / on"))
    }
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    /// `sun_path` less its final zero byte (unix(7)).
    const LONGEST: usize = 107;
    if text.len() > LONGEST {
        return Err(format!(
            "a socket's path has at most {LONGEST} bytes, this has {}",
            text.len()
        ));
    }
    absolute(text)
}

fn log_filter(text: &str) -> Result<String, String> {
    let wrong = |why: &dyn fmt::Display| {
        format!(
            "`{text}` is no log filter ({why}); use error, warn, info, debug or trace, or a filter \
             like info,overlay_gossip=debug"
        )
    };
    // A word that is no level would be taken for the name of a module, and silence all else.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain && !levels.contains(&text.to_ascii_lowercase().as_str()) {
        return Err(wrong(&format!("did you mean {}?", nearest(text, levels.into_iter()))));
    }
    tracing_subscriber::EnvFilter::try_new(text).map_err(|err| wrong(&err))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
