//! The plugin protocol of netavark 1.x (`plugin-API.md`, `src/network/types.rs`
//! there): Podman's network stack since 4.0, plugins since 4.5.
//!
//! | verb | asks | and |
//! |---|---|---|
//! | `create` | the network | fills in its subnets; nothing is made |
//! | `setup NETNS` | attach | what an earlier `setup` of the container has left goes first |
//! | `teardown NETNS` | its endpoints, detach | nothing when there is none, or no daemon: it releases by itself what has no namespace any more |
//! | `info` | nothing | |
//!
//! The network of the cluster is `--opt network=NAME`, or the one that is called as
//! the network of Podman. An error is `{"error": …}` on stdout, with exit code 1.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use ipnet::IpNet;
use overlay_api::blocking::Connection;
use overlay_api::{ClientError, DEFAULT_SOCKET, v1};
use overlay_model::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::attach::resolv_conf;
use crate::call::shortened;
use crate::failure::Failure;
use crate::stdin;

/// Says whose an endpoint is.
const LABEL: &str = "netavark";

/// `--opt` of `podman network create`.
const OPT_NETWORK: &str = "network";
const OPT_SOCKET: &str = "socket";

/// What we read of a network; the rest goes out as it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Podman's name for it.
    pub name: String,
    /// Podman's id for it, 64 hex digits.
    pub id: String,
    /// No way out.
    pub internal: bool,
    /// It has a subnet of IPv6.
    pub ipv6_enabled: bool,
    /// aardvark-dns answers names; we do.
    pub dns_enabled: bool,
    /// What `--opt` has said.
    pub options: Option<BTreeMap<String, String>>,
    /// What `--subnet` has said; filled in by `create`.
    pub subnets: Option<Vec<Subnet>>,
    /// Who gives out addresses.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A subnet of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// In CIDR form.
    pub subnet: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// From where to where addresses are given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_range: Option<Value>,
}

/// What `setup` and `teardown` are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// 64 hex digits.
    pub container_id: String,
    /// Its name.
    pub container_name: String,
    /// Ports of the host that lead to it.
    pub port_mappings: Option<Vec<PortMapping>>,
    /// Of which network.
    pub network: Network,
    /// What is wanted on it.
    pub network_options: Options,
}

/// What a container wants on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Further names.
    pub aliases: Option<Vec<String>>,
    /// The interface in the container.
    pub interface_name: String,
    /// Its addresses.
    pub static_ips: Option<Vec<IpAddr>>,
    /// Its Ethernet address.
    pub static_mac: Option<String>,
}

/// Ports that follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// The first in the container.
    pub container_port: u16,
    /// An address of the host, or nothing.
    pub host_ip: String,
    /// The first of the host.
    pub host_port: u16,
    /// `tcp`, `udp`, `sctp`, or several with commas between; nothing is TCP.
    pub protocol: String,
    /// How many; 0 is one.
    pub range: u16,
}

type Answer = Result<Option<Value>, String>;

/// Does what the arguments and stdin say; the exit code is for `main`.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let answered = std::panic::catch_unwind(|| answer(&words));
    let answer = answered.unwrap_or_else(|_| {
        Err("overlay-netavark has panicked; please report what it wrote to stderr".to_owned())
    });
    let (text, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => (json!({ "error": error }), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(args: &[&str]) -> Answer {
    let read = || stdin::read().map_err(|failure| failure.msg);
    match args {
        ["info"] => Ok(Some(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "api_version": "1.0.0",
        }))),
        ["create"] => create(parse(&read()?)?).map(Some),
        ["setup", netns] => setup(netns, &parse(&read()?)?).map(Some),
        ["teardown", _] => teardown(&parse(&read()?)?).map(|()| None),
        _ => {
            Err("overlay-netavark is a plugin of netavark: it is started by podman, with create, \
                  setup NETNS, teardown NETNS or info; docs/cni.md says how"
                .to_owned())
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes)
        .map_err(|err| format!("cannot understand what is on stdin: {err}"))
}

impl Network {
    fn option(&self, key: &str) -> Option<&str> {
        self.options.as_ref()?.get(key).map(String::as_str)
    }

    /// The network of the cluster.
    pub fn meant(&self) -> &str {
        self.option(OPT_NETWORK).unwrap_or(&self.name)
    }

    fn daemon(&self) -> Connection {
        Connection::new(Path::new(self.option(OPT_SOCKET).unwrap_or(DEFAULT_SOCKET)))
    }
}

fn of_daemon(doing: &str, error: &ClientError) -> String {
    let Failure { msg, details, .. } = Failure::of_daemon(doing, error);
    if details.is_empty() { msg } else { format!("{msg}; {details}") }
}

fn create(network: Network) -> Result<Value, String> {
    let mut daemon = network.daemon();
    let found = daemon.network(network.meant());
    let net = found.map_err(|err| of_daemon(&format!("find network {}", network.meant()), &err))?;
    let created = created(network, &net)?;
    serde_json::to_value(&created).map_err(|err| err.to_string())
}

/// What `create` answers: the network, with what the cluster says of it.
///
/// # Errors
/// What was said otherwise, and what to do.
pub fn created(network: Network, net: &v1::Network) -> Result<Network, String> {
    let known = [OPT_NETWORK, OPT_SOCKET];
    let options = network.options.iter().flatten().map(|(key, _)| key.as_str());
    if let Some(other) = { options }.find(|key| !known.contains(key)) {
        return Err(format!("there is no option {}: use {}", shortened(other), known.join(", ")));
    }
    if let Some(why) = &net.conflict {
        return Err(format!("network {} is not programmed: {why}", net.name));
    }
    if network.internal && !net.internal {
        return Err(format!(
            "network {0} of the cluster is not internal: leave --internal out, or make it so for \
             all: overlayctl net set {0} --internal",
            net.name
        ));
    }
    for said in network.subnets.iter().flatten() {
        let Some(has) = net.subnets.iter().find(|has| has.cidr == said.subnet) else {
            let has: Vec<String> = net.subnets.iter().map(|has| has.cidr.to_string()).collect();
            return Err(format!(
                "network {} has the subnets {}, not {}: leave --subnet out",
                net.name,
                has.join(", "),
                said.subnet
            ));
        };
        if let Some(gateway) = said.gateway.filter(|gateway| *gateway != has.gateway) {
            return Err(format!(
                "the gateway of network {} is {}, not {gateway}: leave --gateway out",
                net.name, has.gateway
            ));
        }
        if said.lease_range.is_some() {
            return Err("--ip-range is said of the cluster's network: overlayctl net create \
                        --ip-range"
                .to_owned());
        }
    }
    let subnets = net.subnets.iter().map(|subnet| Subnet {
        subnet: subnet.cidr,
        gateway: (!net.internal).then_some(subnet.gateway),
        lease_range: None,
    });
    let subnets: Vec<Subnet> = subnets.collect();
    Ok(Network {
        internal: net.internal,
        ipv6_enabled: subnets.iter().any(|subnet| subnet.subnet.addr().is_ipv6()),
        // Ours is asked, at 127.0.0.11 of the container.
        dns_enabled: false,
        subnets: Some(subnets),
        ipam_options: Some(BTreeMap::from([("driver".to_owned(), "overlayd".to_owned())])),
        ..network
    })
}

/// Whose an endpoint is: unique for a container, a network and an interface.
pub fn label(exec: &Exec) -> Result<String, String> {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex(&exec.container_id) || !hex(&exec.network.id) {
        return Err("container_id and network.id are hex digits, and one of them is not".to_owned());
    }
    let ifname = &exec.network_options.interface_name;
    if ifname.is_empty() {
        return Err("interface_name is missing".to_owned());
    }
    Ok(format!("{:.64}/{:.12}/{ifname:.15}", exec.container_id, exec.network.id))
}

/// The attach that `setup` asks for; what is left out of it is said on stderr.
///
/// # Errors
/// What makes no sense.
pub fn wish(netns: &str, exec: &Exec) -> Result<(v1::Attach, Vec<String>), String> {
    let mut left_out = Vec::new();
    let mut fits = |what: &str, text: &str| {
        let name = Name::new(text);
        left_out.extend(name.as_ref().err().map(|why| format!("{what} is left out: {why}")));
        name.is_ok()
    };
    let name = Some(exec.container_name.clone());
    let name = name.filter(|name| !name.is_empty() && fits("the name", name));
    let aliases = exec.network_options.aliases.iter().flatten();
    let mut aliases: Vec<String> = aliases.filter(|a| fits("an alias", a)).cloned().collect();
    aliases.sort();
    aliases.dedup();
    aliases.retain(|alias| Some(alias) != name.as_ref());
    let mappings = exec.port_mappings.iter().flatten();
    let publish: Vec<Vec<String>> = mappings.map(texts_of).collect::<Result<_, _>>()?;
    let attach = v1::Attach {
        net: exec.network.meant().to_owned(),
        netns: Some(netns.to_owned()),
        ifname: Some(exec.network_options.interface_name.clone()),
        ips: exec.network_options.static_ips.clone().unwrap_or_default(),
        mac: exec.network_options.static_mac.clone(),
        name,
        aliases,
        labels: BTreeMap::from([(LABEL.to_owned(), label(exec)?)]),
        publish: publish.concat(),
        ..v1::Attach::default()
    };
    Ok((attach, left_out))
}

fn texts_of(mapping: &PortMapping) -> Result<Vec<String>, String> {
    let more = mapping.range.max(1) - 1;
    let last = |port: u16| port.checked_add(more).filter(|_| port > 0);
    let (Some(host), Some(own)) = (last(mapping.host_port), last(mapping.container_port)) else {
        return Err(format!(
            "port_mappings has {} ports from {} on, to {} on; use 1 to 65535",
            more + 1,
            mapping.host_port,
            mapping.container_port
        ));
    };
    let at = match mapping.host_ip.as_str() {
        "" => String::new(),
        text => match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => String::new(),
            Ok(IpAddr::V4(ip)) => format!("{ip}:"),
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:"),
            Err(_) => return Err(format!("host_ip `{}` is no address", shortened(text))),
        },
    };
    let range = |from: u16, to: u16| match more {
        0 => from.to_string(),
        _ => format!("{from}-{to}"),
    };
    let (host, own) = (range(mapping.host_port, host), range(mapping.container_port, own));
    let protocols = if mapping.protocol.is_empty() { "tcp" } else { &mapping.protocol };
    let texts = protocols.split(',').map(|protocol| match protocol.trim() {
        known @ ("tcp" | "udp" | "sctp") => Ok(format!("{at}{host}:{own}/{known}")),
        other => Err(format!("protocol `{}`: use tcp, udp or sctp", shortened(other))),
    });
    texts.collect()
}

fn setup(netns: &str, exec: &Exec) -> Result<Value, String> {
    let (mut request, left_out) = wish(netns, exec)?;
    for line in left_out {
        eprintln!("overlay-netavark: {line}");
    }
    let mut daemon = exec.network.daemon();
    let doing = format!("attach {} to {}", exec.container_name, request.net);
    remove(&mut daemon, exec).map_err(|err| of_daemon(&doing, &err))?;
    let endpoint = match daemon.attach(&request) {
        // Another host has a container of that name: both are found by it as an alias.
        Err(ClientError::Api(error))
            if error.code == v1::ErrorCode::Taken && error.message.contains("the name ") =>
        {
            eprintln!("overlay-netavark: {}: it is an alias then", error.message);
            request.aliases.extend(request.name.take());
            daemon.attach(&request)
        }
        other => other,
    };
    let endpoint = endpoint.map_err(|err| of_daemon(&doing, &err))?;
    Ok(status(&exec.network_options.interface_name, &endpoint))
}

/// What Podman is told of the interface.
pub fn status(ifname: &str, endpoint: &v1::Endpoint) -> Value {
    let subnets = endpoint.ips.iter().map(|ip| {
        let v4 = ip.addr().is_ipv4();
        let gateway = endpoint.gateways.iter().find(|gateway| gateway.is_ipv4() == v4);
        json!({ "ipnet": ip.to_string(), "gateway": gateway })
    });
    let dns = endpoint.resolv_conf.as_deref().map(resolv_conf).unwrap_or_default();
    json!({
        "dns_server_ips": dns.nameservers,
        "dns_search_domains": dns.search,
        "interfaces": {
            ifname: { "mac_address": endpoint.mac, "subnets": subnets.collect::<Vec<_>>() },
        },
    })
}

/// Detaches what the container has; nothing is fine, too.
fn remove(daemon: &mut Connection, exec: &Exec) -> Result<(), ClientError> {
    let Ok(label) = label(exec) else { return Ok(()) };
    for endpoint in daemon.labelled(&format!("{LABEL}={label}"))? {
        match daemon.detach(&endpoint.id) {
            Err(ClientError::Api(error)) if error.code == v1::ErrorCode::NotFound => {}
            other => drop(other?),
        }
    }
    Ok(())
}

fn teardown(exec: &Exec) -> Result<(), String> {
    match remove(&mut exec.network.daemon(), exec) {
        Err(error) if Failure::is_for_later(&error) => {
            // The namespace goes with the container, and the endpoint with that.
            eprintln!("overlay-netavark: {error}; the endpoint is released when it runs again");
            Ok(())
        }
        other => other.map_err(|err| of_daemon("detach", &err)),
    }
}

#[cfg(test)]
mod tests;
