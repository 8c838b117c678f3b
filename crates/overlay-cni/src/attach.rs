//! The translation itself: what is asked of the daemon, and what its reply is to
//! a runtime. Pure, and fuzzed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_api::v1::{self, WantedSubnet};
use overlay_model::Name;

use crate::Version;
use crate::call::{Container, LABEL, shortened};
use crate::conf::{Conf, PortMapping};
use crate::failure::{Code, Failure};
use crate::result::{Attached, Dns, Interface, Ip, Route};

/// Bytes that the daemon takes for labels; see `LABEL_BYTES` there.
const LABEL_BYTES: usize = 400;

/// What a runtime of Kubernetes says of the pod, and the labels that it becomes:
/// the most telling first, since not all may find room.
const POD: [(&str, &str); 3] = [
    ("K8S_POD_NAMESPACE", "k8s.namespace"),
    ("K8S_POD_NAME", "k8s.pod"),
    ("K8S_POD_UID", "k8s.uid"),
];

/// What a call asks of the daemon, and what could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The attach.
    pub attach: v1::Attach,
    /// One line each, for stderr: what of it is left out.
    pub left_out: Vec<String>,
}

/// The attach that an ADD asks for.
///
/// # Errors
/// If something is asked for that is not served, or makes no sense. What the
/// daemon will check is left to it.
pub fn wish(conf: &Conf, container: &Container) -> Result<Wish, Failure> {
    let asked = &conf.asked;
    check_served(conf)?;
    let mut left_out = Vec::new();
    let aliases = asked.runtime_config.aliases.on(&conf.name).iter().filter(|alias| {
        let fits = Name::new(alias);
        left_out.extend(fits.as_ref().err().map(|why| format!("the alias is left out: {why}")));
        fits.is_ok()
    });
    let mut aliases: Vec<String> = aliases.cloned().collect();
    aliases.extend(name_by_podman(&container.args));
    aliases.sort();
    aliases.dedup();
    let attach = v1::Attach {
        net: conf.network().to_owned(),
        netns: container.netns.clone(),
        ifname: Some(container.attachment.ifname.clone()),
        ips: ips(conf, &container.args)?,
        mac: asked.runtime_config.mac.clone().or_else(|| container.args.get("MAC").cloned()),
        aliases,
        labels: labels(conf, container, &mut left_out)?,
        no_default_route: !asked.overlay.default_route.unwrap_or(true),
        no_dns: !asked.overlay.names.unwrap_or(true),
        publish: publish(&asked.runtime_config.port_mappings)?,
        ..v1::Attach::default()
    };
    Ok(Wish { attach, left_out })
}

/// Podman says the name of a container as if it were that of a pod, but none of a
/// namespace, which every pod of Kubernetes has. It is to be found by that name.
fn name_by_podman(args: &BTreeMap<String, String>) -> Option<String> {
    let name = args.get("K8S_POD_NAME").filter(|name| Name::new(name).is_ok())?;
    (!args.contains_key("K8S_POD_NAMESPACE")).then(|| name.clone())
}

/// Refuses what other plugins are for: a container that silently goes without
/// would be worse.
fn check_served(conf: &Conf) -> Result<(), Failure> {
    let unsupported = |field: &str, instead: &str| {
        let msg = format!("{field} is not supported here");
        Err(Failure::new(Code::UnsupportedField, msg).with(instead))
    };
    let ipam = &conf.asked.ipam;
    if !ipam.is_null() && ipam.as_object().is_none_or(|fields| !fields.is_empty()) {
        return unsupported(
            "ipam",
            "leave it out: overlayd gives out addresses; overlay.ipRange and overlay.exclude say \
             which",
        );
    }
    if conf.asked.runtime_config.ip_ranges.is_some() {
        return unsupported("runtimeConfig.ipRanges", "say overlay.ipRange in the configuration");
    }
    if conf.asked.runtime_config.bandwidth.is_some() {
        return unsupported("runtimeConfig.bandwidth", "chain the plugin `bandwidth` after this");
    }
    Ok(())
}

/// The addresses that are asked for: the newest way of saying it counts.
fn ips(conf: &Conf, args: &BTreeMap<String, String>) -> Result<Vec<IpAddr>, Failure> {
    let of_args: Vec<String> =
        args.get("IP").map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let asked = &conf.asked;
    let ways = [
        ("runtimeConfig.ips", &asked.runtime_config.ips),
        ("args.cni.ips", &asked.args.cni.ips),
        ("IP in CNI_ARGS", &of_args),
    ];
    let Some((way, texts)) = ways.into_iter().find(|(_, texts)| !texts.is_empty()) else {
        return Ok(Vec::new());
    };
    let parsed = texts.iter().map(|text| {
        // The prefix length is the network's affair.
        let bare = text.trim().split('/').next().unwrap_or_default();
        bare.parse().map_err(|_| {
            Failure::config(format!("{way} has `{}`, which is no address", shortened(text)))
        })
    });
    parsed.collect()
}

fn labels(
    conf: &Conf,
    container: &Container,
    left_out: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = conf.asked.args.cni.labels.to_map();
    if labels.contains_key(LABEL) {
        return Err(Failure::config(format!(
            "args.cni.labels has `{LABEL}`, by which this plugin finds its endpoints; choose \
             another key"
        )));
    }
    labels.insert(LABEL.to_owned(), container.attachment.label(&conf.name));
    let bytes =
        |labels: &BTreeMap<String, String>| labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    let mut room = LABEL_BYTES.saturating_sub(bytes(&labels));
    for (key, label) in POD {
        let Some(value) = container.args.get(key).filter(|value| !value.is_empty()) else {
            continue;
        };
        if labels.contains_key(label) {
            continue;
        }
        match room.checked_sub(label.len() + value.len()) {
            Some(rest) => {
                room = rest;
                labels.insert(label.to_owned(), value.clone());
            }
            None => left_out.push(format!("the label {label} is left out: there is no room")),
        }
    }
    Ok(labels)
}

fn publish(mappings: &[PortMapping]) -> Result<Vec<String>, Failure> {
    // Kubernetes passes ports on that no port of the host leads to.
    let wanted = mappings.iter().filter(|mapping| mapping.host_port != 0);
    let mut texts = wanted.map(text_of).collect::<Result<Vec<_>, _>>()?;
    texts.sort();
    texts.dedup();
    Ok(texts)
}

fn text_of(mapping: &PortMapping) -> Result<String, Failure> {
    let port = |what: &str, port: i64| {
        u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
            Failure::config(format!(
                "runtimeConfig.portMappings has the {what} {port}; use 1 to 65535"
            ))
        })
    };
    let host = port("hostPort", mapping.host_port)?;
    let own = port("containerPort", mapping.container_port)?;
    let protocol = match mapping.protocol.to_ascii_lowercase() {
        empty if empty.is_empty() => "tcp".to_owned(),
        known if ["tcp", "udp", "sctp"].contains(&known.as_str()) => known,
        other => {
            let msg = "runtimeConfig.portMappings has the protocol";
            let other = shortened(&other);
            return Err(Failure::config(format!("{msg} `{other}`; use tcp, udp or sctp")));
        }
    };
    let at = match mapping.host_ip.as_str() {
        "" => String::new(),
        text => match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => String::new(),
            Ok(IpAddr::V4(ip)) => format!("{ip}:"),
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:"),
            Err(_) => {
                let msg = "runtimeConfig.portMappings has the hostIP";
                let text = shortened(text);
                return Err(Failure::config(format!("{msg} `{text}`, which is no address")));
            }
        },
    };
    Ok(format!("{at}{host}:{own}/{protocol}"))
}

/// Refuses a network that is not what the configuration says: somebody has made
/// it otherwise.
///
/// # Errors
/// [`Code::InvalidConfig`]: one of the two has to change.
pub fn check_network(conf: &Conf, endpoint: &v1::Endpoint) -> Result<(), Failure> {
    let Some(wanted) = conf.definition() else { return Ok(()) };
    let net = conf.network();
    let other = |is: String, says: String| {
        Err(Failure::config(format!("network {net} has {is}, and the configuration says {says}"))
            .with(format!(
                "change the configuration, or remove the network with: overlayctl net rm {net}"
            )))
    };
    if let Some(vni) = wanted.vni.filter(|vni| *vni != endpoint.vni) {
        return other(format!("VNI {}", endpoint.vni), format!("VNI {vni}"));
    }
    let has = endpoint.ips.iter().map(|ip| ip.trunc().to_string()).collect::<Vec<_>>().join(", ");
    for subnet in &wanted.subnets {
        let found = endpoint.ips.iter().any(|ip| match subnet {
            WantedSubnet::Cidr(cidr) => cidr.trunc() == ip.trunc(),
            WantedSubnet::Ipv4 => ip.addr().is_ipv4(),
            WantedSubnet::Ipv6 => ip.addr().is_ipv6(),
        });
        if !found {
            return other(format!("subnet {has}"), subnet.to_string());
        }
    }
    Ok(())
}

/// What an ADD answers: what the plugins before us made, and our interface.
pub fn attached(
    conf: &Conf,
    container: &Container,
    endpoint: &v1::Endpoint,
    before: Attached,
) -> Attached {
    let mut result = before;
    let since_1_1 = |mtu: Option<u16>| mtu.filter(|_| conf.version >= Version::V1_1_0);
    let mtu = since_1_1(endpoint.mtu).map(u32::from);
    result.interfaces.extend(endpoint.host_ifname.clone().map(|name| Interface {
        name,
        mtu,
        ..Interface::default()
    }));
    let index = i64::try_from(result.interfaces.len()).unwrap_or_default();
    result.interfaces.push(Interface {
        name: container.attachment.ifname.clone(),
        mac: Some(endpoint.mac.clone()),
        mtu,
        sandbox: container.netns.clone(),
        ..Interface::default()
    });
    for address in &endpoint.ips {
        let family = address.addr().is_ipv4();
        let gateway = endpoint.gateways.iter().find(|gateway| gateway.is_ipv4() == family);
        let version = match family {
            true => "4",
            false => "6",
        };
        result.ips.push(Ip {
            version: (conf.version < Version::V1_0_0).then(|| version.to_owned()),
            interface: Some(index),
            address: *address,
            gateway: gateway.copied(),
            rest: serde_json::Map::new(),
        });
    }
    if conf.asked.overlay.default_route.unwrap_or(true) {
        let routes = endpoint.gateways.iter().map(|gateway| Route {
            dst: everywhere(gateway),
            gw: Some(*gateway),
            rest: serde_json::Map::new(),
        });
        result.routes.extend(routes);
    }
    result.dns = dns(conf, endpoint, result.dns);
    result
}

fn everywhere(gateway: &IpAddr) -> IpNet {
    let any: IpAddr = match gateway {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new(any, 0).expect("no prefix is too long by being 0")
}

/// Our resolver first, or what the configuration says instead of it; domains and
/// options of all of them.
fn dns(conf: &Conf, endpoint: &v1::Endpoint, before: Dns) -> Dns {
    let asked = &conf.asked;
    let of_runtime = &asked.runtime_config.dns;
    let ours = endpoint.resolv_conf.as_deref().map(resolv_conf).unwrap_or_default();
    let ways = [&of_runtime.servers, &asked.dns.nameservers, &ours.nameservers];
    let chosen = ways.into_iter().find(|servers| !servers.is_empty());
    let mut dns = before;
    add(&mut dns.nameservers, chosen.into_iter().flatten());
    add(&mut dns.search, ours.search.iter().chain(&of_runtime.searches).chain(&asked.dns.search));
    add(&mut dns.options, ours.options.iter().chain(&of_runtime.options).chain(&asked.dns.options));
    dns.domain = dns.domain.or_else(|| asked.dns.domain.clone());
    dns
}

fn add<'a>(to: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for one in more {
        if !to.contains(one) {
            to.push(one.clone());
        }
    }
}

/// What overlayd says belongs into a container's `resolv.conf`.
pub(crate) fn resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("search") => dns.search = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests;
