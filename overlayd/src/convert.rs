//! Between the API's words and the engine's: by hand, so that either may
//! change without the other.

mod ipam;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_api::v1;
use overlay_engine::{
    Attach, ChangeEndpoint, ChangeNetwork, CreateNetwork, CreateService, DetachedOn, EndpointState,
    EndpointView, EntryView, ErrorKind, FrozenView, HostView, Import, Kept, KeyView, Level,
    NetworkView, Notice, Place, PortView, Refused, Reply, Reserve, ServiceView, StaticEndpoint,
    StatusView, Table, Where,
};
use overlay_gossip::{PeerInfo, Refusals, RefusedFrom};
use overlay_model::{
    Family, Foreign, IfName, InvalidMac, InvalidName, KeyId, Name, NetnsRef, Protocol, Publish, Vni,
};

/// A request that makes no sense as it stands.
pub fn invalid(message: impl ToString) -> v1::Error {
    v1::Error::new(v1::ErrorCode::InvalidRequest, message.to_string())
}

/// A refusal of the engine, for the wire.
pub fn error(refused: Refused) -> v1::Error {
    let code = match refused.kind {
        ErrorKind::Invalid => v1::ErrorCode::InvalidRequest,
        ErrorKind::NotFound => v1::ErrorCode::NotFound,
        ErrorKind::Taken => v1::ErrorCode::Taken,
        ErrorKind::InUse => v1::ErrorCode::InUse,
        ErrorKind::Exhausted => v1::ErrorCode::Exhausted,
        ErrorKind::LocksOut => v1::ErrorCode::LocksOut,
        ErrorKind::Unsupported => v1::ErrorCode::Unsupported,
        ErrorKind::Kernel => v1::ErrorCode::KernelRefused,
        ErrorKind::Unavailable => v1::ErrorCode::Unavailable,
    };
    let details = refused
        .details
        .into_iter()
        .map(|d| v1::Detail { index: d.index, also: d.also, message: d.message })
        .collect();
    v1::Error { code, message: refused.message, hint: refused.hint, details }
}

/// What to create; what the kernel holds is filled in later.
pub fn create_network(body: v1::CreateNetwork) -> Result<CreateNetwork, v1::Error> {
    Ok(CreateNetwork {
        name: body.name.as_deref().map(Name::new).transpose().map_err(invalid)?,
        vni: body.vni.map(Vni::new).transpose().map_err(invalid)?,
        subnets: body
            .subnets
            .iter()
            .filter_map(|subnet| match subnet {
                v1::WantedSubnet::Cidr(cidr) => Some(*cidr),
                v1::WantedSubnet::Ipv4 | v1::WantedSubnet::Ipv6 => None,
            })
            .collect(),
        free: body
            .subnets
            .iter()
            .filter_map(|subnet| match subnet {
                v1::WantedSubnet::Cidr(_) => None,
                v1::WantedSubnet::Ipv4 => Some(Family::V4),
                v1::WantedSubnet::Ipv6 => Some(Family::V6),
            })
            .collect(),
        gateways: body.gateways,
        mtu: body.mtu,
        internal: body.internal,
        no_flood: body.no_flood,
        labels: body.labels,
        exclude: body.exclude,
        ip_ranges: body.ip_ranges,
        once: body.once,
        foreign: Foreign::default(),
    })
}

/// What of the network `net` is to become otherwise.
pub fn change_network(net: String, body: v1::ChangeNetwork) -> Result<ChangeNetwork, v1::Error> {
    let fixed = [
        ("name", body.name.is_some()),
        ("VNI", body.vni.is_some()),
        ("subnet", body.subnets.is_some()),
        ("gateway", body.gateways.is_some()),
        ("range of addresses", body.ip_ranges.is_some()),
        ("MTU", body.mtu.is_some()),
        ("flooding", body.no_flood.is_some()),
    ];
    if let Some((what, _)) = fixed.into_iter().find(|(_, said)| *said) {
        let why = format!("the {what} of a network cannot change: what is attached was given it");
        return Err(invalid(why).with_hint(format!(
            "create another network that has it, attach there, then: overlayctl net rm {net}"
        )));
    }
    Ok(ChangeNetwork {
        net,
        labels: body.labels,
        unlabel: body.unlabel.into_iter().collect(),
        exclude: body.exclude,
        include: body.include,
        internal: body.internal,
    })
}

/// A name, as it stands in a path.
pub fn name(text: &str) -> Result<Name, v1::Error> {
    Name::new(text).map_err(invalid)
}

/// Where the namespace to attach is found, if it is one that is to be attached.
pub fn netns_path(body: &v1::Attach) -> Result<Option<PathBuf>, v1::Error> {
    let others = usize::from(body.device.is_some()) + usize::from(body.is_static);
    let places = usize::from(body.netns.is_some()) + usize::from(body.pid.is_some()) + others;
    if places > 1 {
        return Err(invalid("of netns, pid, device and static more than one is given; give one"));
    }
    if others > 0 && (body.ifname.is_some() || body.no_default_route || body.no_dns) {
        let message = "ifname, no_default_route and no_dns are for namespaces; leave them out";
        return Err(invalid(message));
    }
    match (&body.netns, body.pid) {
        (Some(netns), _) if netns.is_empty() => Err(invalid("the netns is empty")),
        (Some(netns), _) if netns.contains('/') => {
            let path = Path::new(netns);
            if path.is_absolute() {
                Ok(Some(path.to_owned()))
            } else {
                Err(invalid(format!("the netns path {netns} is relative; give it from the root")))
            }
        }
        (Some(netns), _) if netns == "." || netns == ".." => {
            Err(invalid(format!("`{netns}` is not the name of a network namespace")))
        }
        (Some(netns), _) => Ok(Some(Path::new("/run/netns").join(netns))),
        (None, Some(pid)) => Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/net")))),
        (None, None) if others > 0 => Ok(None),
        (None, None) => {
            Err(invalid("none of netns, pid, device and static is given; give one of them"))
        }
    }
}

/// What to attach, once its namespace has been found if it has one.
pub fn attach(
    body: v1::Attach,
    found: Option<(NetnsRef, BTreeSet<IfName>)>,
) -> Result<Attach, v1::Error> {
    let ifname =
        |text: Option<String>| text.as_deref().map(IfName::new).transpose().map_err(invalid);
    let place = match (found, ifname(body.device)?) {
        (Some((netns, taken_ifnames)), _) => Where::Netns {
            netns,
            taken_ifnames,
            ifname: ifname(body.ifname)?,
            default_route: !body.no_default_route,
            no_dns: body.no_dns,
        },
        (None, Some(device)) => Where::Device(device),
        (None, None) => Where::Static,
    };
    Ok(Attach {
        net: body.net,
        place,
        ips: body.ips,
        mac: body.mac.map(|mac| mac.parse()).transpose().map_err(invalid)?,
        name: body.name.as_deref().map(Name::new).transpose().map_err(invalid)?,
        aliases: names(&body.aliases).map_err(invalid)?,
        labels: body.labels,
        ports: ports(&body.publish)?,
        take_over: body.take_over,
        keep_ip: body.keep_ip,
        reserved: body.reserved,
        foreign: Foreign::default(),
    })
}

/// What is to be otherwise with an endpoint.
pub fn change_endpoint(body: v1::ChangeEndpoint) -> Result<ChangeEndpoint, v1::Error> {
    if body == v1::ChangeEndpoint::default() {
        return Err(invalid("none of name, aliases and labels is given; give one of them"));
    }
    Ok(ChangeEndpoint {
        name: body.name.as_deref().map(Name::new).transpose().map_err(invalid)?,
        aliases: body.aliases.as_deref().map(names).transpose().map_err(invalid)?,
        labels: body.labels,
    })
}

/// An address to hold.
pub fn reserve(net: String, body: &v1::ReserveAddress) -> Result<Reserve, v1::Error> {
    let family = match body.family.as_deref() {
        None => None,
        Some("ipv4") => Some(Family::V4),
        Some("ipv6") => Some(Family::V6),
        Some(other) => {
            return Err(invalid(format!("`{other}` is no family: use ipv4 or ipv6")));
        }
    };
    Ok(Reserve { net, ip: body.address, family })
}

/// Ports to publish.
pub fn ports(texts: &[String]) -> Result<Vec<Publish>, v1::Error> {
    texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(invalid)
}

/// Ports of the host that are to lead nowhere, as `8080/tcp,53/udp`.
pub fn fronts(text: &str) -> Result<Vec<(Protocol, u16)>, v1::Error> {
    let front = |text: &str| {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port: u16 = port.parse().map_err(|_| {
            invalid(format!("`{text}` is no port of the host; write it as 8080/tcp"))
        })?;
        Ok((protocol.parse().map_err(invalid)?, port))
    };
    text.split(',').map(front).collect()
}

fn port(view: PortView, gossip: &Heard) -> v1::Port {
    let fronts: Vec<String> = view
        .publish
        .pairs()
        .map(|(port, _)| match view.publish.at {
            Some(ip) => format!("{}/{}", SocketAddr::new(ip, port), view.publish.protocol),
            None => format!("{port}/{}", view.publish.protocol),
        })
        .collect();
    let counted = gossip.translated.iter().filter(|t| fronts.contains(&t.what));
    v1::Port {
        published: view.publish.to_string(),
        mode: if view.publish.cluster { "cluster" } else { "host" }.to_owned(),
        endpoint: view.endpoint.to_string(),
        name: view.name.map(String::from),
        net: view.net.map(String::from),
        host: view.host,
        to: view.to,
        connections: counted.map(|t| t.connections).sum(),
        problem: gossip.unheld.get(&view.publish).cloned(),
    }
}

/// What service to create.
pub fn create_service(body: v1::CreateService) -> Result<CreateService, v1::Error> {
    let name = name(&body.name)?;
    let alias = body.alias.as_deref().map(self::name).transpose()?;
    let ports = body.ports.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    Ok(CreateService {
        net: body.net,
        alias: alias.unwrap_or_else(|| name.clone()),
        name,
        ports: ports.map_err(invalid)?,
        vips: body.vips,
    })
}

fn service(view: ServiceView) -> v1::Service {
    let service = view.service;
    v1::Service {
        id: format!("{:016x}", service.id),
        name: service.name.into(),
        net: view.net.into(),
        alias: service.alias.into(),
        ports: service.ports.iter().map(ToString::to_string).collect(),
        vips: service.addresses,
        endpoints: view.endpoints,
        created_ms: service.created.wall_ms,
        conflict: view.conflict,
    }
}

fn firewall(gossip: &Heard) -> v1::Firewall {
    let translated = |t: &overlay_netlink::Translated| v1::Translated {
        what: t.what.clone(),
        connections: t.connections,
    };
    v1::Firewall {
        translated: gossip.translated.iter().map(translated).collect(),
        dropped: gossip.dropped.iter().map(dropped).collect(),
        settings: gossip.settings.clone(),
    }
}

fn dropped(dropped: &overlay_netlink::Dropped) -> v1::Dropped {
    v1::Dropped {
        port: dropped.port.as_ref().map(ToString::to_string),
        kind: dropped.kind.clone(),
        packets: dropped.packets,
        bytes: dropped.bytes,
    }
}

fn names(texts: &[String]) -> Result<BTreeSet<Name>, InvalidName> {
    texts.iter().map(|text| Name::new(text)).collect()
}

/// How many wrong items of a list are named.
const DETAILS: usize = 20;

/// Which static endpoints to take in; what is wrong with any is said of the
/// first twenty.
pub fn import(body: v1::Import) -> Result<Import, v1::Error> {
    let count = body.endpoints.len();
    let mut endpoints = Vec::with_capacity(count);
    let mut details = Vec::new();
    let mut wrong = 0;
    for (index, item) in body.endpoints.into_iter().enumerate() {
        match static_endpoint(item) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(message) => {
                wrong += 1;
                if details.len() < DETAILS {
                    details.push(v1::Detail { index, also: None, message });
                }
            }
        }
    }
    if wrong > 0 {
        let verb = if wrong == 1 { "is" } else { "are" };
        let message = format!("{wrong} of {count} endpoints {verb} wrong, so none was taken in");
        return Err(v1::Error { details, ..invalid(message) });
    }
    Ok(Import {
        net: body.net,
        replace: body.replace,
        take_over: body.take_over,
        endpoints,
        foreign: Foreign::default(),
    })
}

fn static_endpoint(item: v1::StaticEndpoint) -> Result<StaticEndpoint, String> {
    let name = item.name.as_deref().map(Name::new).transpose();
    Ok(StaticEndpoint {
        mac: item.mac.parse().map_err(|err: InvalidMac| err.to_string())?,
        addresses: item.addresses,
        name: name.map_err(|err| err.to_string())?,
        aliases: names(&item.aliases).map_err(|err| err.to_string())?,
        labels: item.labels,
    })
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A network, for the wire.
pub fn network(view: NetworkView) -> v1::Network {
    let net = view.network;
    v1::Network {
        id: net.id.to_string(),
        name: net.name.to_string(),
        vni: net.vni.get(),
        subnets: net
            .subnets
            .into_iter()
            .map(|s| v1::Subnet { cidr: s.cidr, gateway: s.gateway })
            .collect(),
        mtu: net.mtu,
        internal: net.internal,
        flood: net.flood,
        labels: net.labels,
        exclude: net.exclude,
        ip_ranges: net.ip_ranges,
        created_ms: net.created.wall_ms,
        created_by: view.created_by,
        endpoints: view.endpoints,
        local_endpoints: view.local_endpoints,
        conflict: view.conflict,
        kept: view.kept.into_iter().map(kept).collect(),
    }
}

/// What is kept for a name, for the wire.
fn kept(kept: Kept) -> v1::Kept {
    v1::Kept { name: kept.name.into(), mac: kept.mac.to_string(), ips: kept.addresses }
}

fn deleted(view: NetworkView, detached: Vec<DetachedOn>) -> v1::Deleted {
    let detached = detached.into_iter().map(|on| v1::DetachedOn {
        host: on.host,
        endpoints: on.endpoints,
        later: on.later,
    });
    v1::Deleted { network: network(view), detached: detached.collect() }
}

/// An endpoint, for the wire.
pub fn endpoint(view: EndpointView) -> v1::Endpoint {
    let gone_ms = match view.state {
        EndpointState::Gone(since_ms, _) => Some(since_ms),
        _ => None,
    };
    let (state, reason) = match view.state {
        EndpointState::Ready => ("ready", None),
        EndpointState::Pending => ("pending", None),
        EndpointState::Failed(why) => ("failed", Some(why)),
        EndpointState::HostDown => ("host-down", None),
        EndpointState::Unreachable(why) => ("unreachable", Some(why)),
        EndpointState::Conflict(why) => ("conflict", Some(why)),
        EndpointState::Moved(why) => ("moved", Some(why)),
        EndpointState::Gone(_, why) => ("gone", Some(why)),
    };
    let ep = view.endpoint;
    let here = view.network.as_ref().filter(|_| view.local);
    let mtu = here.map(|net| net.mtu);
    let gateways = here.filter(|net| !net.internal).map(|net| net.subnets.as_slice());
    let gateways = gateways.unwrap_or_default().iter().map(|subnet| subnet.gateway).collect();
    let (port, ifname, netns) = match view.place {
        Some(Place::Netns { ifname, netns, .. }) => {
            let netns = netns.path.display().to_string();
            (Some(ep.id.ifname().to_string()), Some(ifname.to_string()), Some(netns))
        }
        Some(Place::Device { ifname, .. }) => (Some(ifname.to_string()), None, None),
        Some(Place::Static) | None => (None, None, None),
    };
    v1::Endpoint {
        id: ep.id.to_string(),
        name: ep.name.map(String::from),
        net: view.network.as_ref().map_or_else(|| ep.network.to_string(), |n| n.name.to_string()),
        vni: view.network.as_ref().map_or(0, |n| n.vni.get()),
        mac: ep.mac.to_string(),
        ips: view.ips,
        aliases: ep.aliases.into_iter().map(String::from).collect(),
        labels: ep.labels,
        ports: ep.ports.iter().map(ToString::to_string).collect(),
        host: view.host,
        local: view.local,
        vtep: view.vtep,
        attached_ms: ep.attached_ms,
        moves: ep.move_seq,
        state: state.to_owned(),
        reason,
        kept: view.kept,
        gone_ms,
        host_ifname: port,
        ifname,
        netns,
        mtu,
        gateways,
        resolv_conf: None,
    }
}

/// A host, for the wire.
pub fn host(view: HostView) -> v1::Host {
    let host = view.host;
    let of = |f: fn(&overlay_model::Host) -> String| host.as_ref().map(f).unwrap_or_default();
    v1::Host {
        id: view.id.to_string(),
        name: host.as_ref().map_or_else(|| view.id.short(), |h| h.name.to_string()),
        local: view.local,
        state: view.state.as_str().to_owned(),
        since_ms: ms(view.since),
        entries_in_use: view.in_use,
        drained: view.drained,
        vteps: host.as_ref().map(|h| h.vteps.clone()).unwrap_or_default(),
        vxlan_port: host.as_ref().map_or(0, |h| h.vxlan_port),
        gossip: of(|h| h.gossip.to_string()),
        underlay_mtu: host.as_ref().map_or(0, |h| h.underlay_mtu),
        endpoints: view.endpoints,
        version: of(|h| h.version.clone()),
        incarnation: view.incarnation,
        last_heard_ms: None,
        rtt_us: None,
        rtt_age_ms: None,
        refused: BTreeMap::new(),
        refuses_us: 0,
        undecodable: 0,
        notes: view.notes,
        key_used: view.keys.used.map(|id| id.to_string()),
        keys: view.keys.ids.iter().map(KeyId::to_string).collect(),
    }
}

/// A cluster key, for the wire: by its id.
pub fn key(id: KeyId, view: KeyView) -> v1::Key {
    v1::Key {
        id: id.to_string(),
        here: view.here,
        used: view.used,
        held_by: view.held_by,
        used_by: view.used_by,
        lacking: view.lacking,
    }
}

/// The daemon's state, for the wire, with what gossip adds.
pub fn status(view: StatusView, gossip: &Heard) -> v1::Status {
    let hosts: BTreeSet<IpAddr> = gossip.peers.iter().map(|peer| peer.addr.ip()).collect();
    let strangers = gossip.refusals.sources.iter().filter(|from| !hosts.contains(&from.addr));
    let mut counters = view.counters;
    counters.extend(gossip.counters.iter().map(|(name, n)| (name.clone(), *n)));
    v1::Status {
        dropped: gossip.dropped.iter().map(dropped).collect(),
        host: host(view.host),
        uptime_ms: ms(view.uptime),
        hosts: view.hosts.into_iter().map(|(state, n)| (state.to_owned(), n)).collect(),
        networks: view.networks,
        endpoints: view.endpoints,
        local_endpoints: view.local_endpoints,
        view_complete: view.view_complete,
        desired_revision: view.desired_revision,
        applied_revision: view.applied_revision,
        desired_objects: view.desired_objects,
        pending: view.pending,
        pending_objects: view
            .waiting
            .into_iter()
            .map(|w| v1::PendingObject {
                object: w.object,
                reason: w.why,
                since_ms: w.since.map(ms),
            })
            .collect(),
        repairs: view
            .repairs
            .into_iter()
            .map(|(ago, r)| v1::Repair {
                object: r.object,
                found: r.found.as_str().to_owned(),
                command: r.command,
                objects: r.objects,
                after_ms: ms(r.after),
                ago_ms: ms(ago),
                by: r.hand.map(|hand| hand.to_string()),
                times: r.times,
            })
            .collect(),
        fights: view
            .fights
            .into_iter()
            .map(|f| v1::Fight {
                object: f.object,
                by: f.hand.map(|hand| hand.to_string()),
                since_ms: ms(f.since),
                repairs: f.repairs,
                next_ms: f.until.map(ms),
            })
            .collect(),
        frozen: view.frozen.into_iter().map(frozen).collect(),
        failed: view
            .failed
            .into_iter()
            .map(|f| v1::FailedObject {
                command: f.command,
                reason: f.reason,
                since_ms: ms(f.since),
                attempts: f.attempts,
            })
            .collect(),
        refused: strangers.map(refused_from).collect(),
        refused_forgotten: gossip.refusals.forgotten,
        counters,
        settings: gossip.settings.clone(),
        warnings: view.warnings.into_iter().chain(gossip.warnings.iter().cloned()).collect(),
    }
}

fn frozen(view: FrozenView) -> v1::Frozen {
    v1::Frozen {
        what: view.what,
        net: view.net,
        host: view.kept,
        other: view.other,
        moves: view.moves,
        thaws_ms: ms(view.thaws_in),
    }
}

fn entry(view: EntryView) -> v1::Entry {
    let state = match (&view.desired, &view.kernel) {
        (Some(desired), Some(kernel)) if desired == kernel => "ok",
        (Some(_), Some(_)) => "differs",
        (Some(_), None) => "missing",
        (None, _) => "extra",
    };
    let table = match view.table {
        Table::Vxlan => "vxlan",
        Table::Bridge => "bridge",
        Table::Flood => "flood",
        Table::Neigh => "neigh",
    };
    v1::Entry {
        net: view.network.map(String::from).unwrap_or_default(),
        dev: view.dev.to_string(),
        table: table.to_owned(),
        key: view.key,
        desired: view.desired,
        kernel: view.kernel,
        state: state.to_owned(),
        endpoint: view.endpoint,
        host: view.host,
    }
}

/// A notice as an event, but for its number and time. The kinds and fields are
/// a contract: see [`v1::Event`].
pub fn event(notice: &Notice) -> v1::Event {
    let level = match notice.level() {
        Level::Detail => "detail",
        Level::Info => "info",
        Level::Warning => "warning",
    };
    let some = |text: &dyn ToString| Some(text.to_string());
    let kind = |kind: &str| v1::Event {
        kind: kind.to_owned(),
        level: level.to_owned(),
        text: notice.to_string(),
        ..v1::Event::default()
    };
    let many = |n: usize| Some(n as u64);
    match notice {
        Notice::Host { host, state, endpoints } => v1::Event {
            host: some(host),
            state: some(state),
            count: many(*endpoints),
            ..kind("host")
        },
        Notice::Entries { host, in_use, endpoints } => v1::Event {
            host: some(host),
            there: Some(*in_use),
            count: many(*endpoints),
            ..kind("entries")
        },
        Notice::Elsewhere { id, name, net, host, addresses, there } => v1::Event {
            endpoint: some(id),
            name: name.as_ref().map(ToString::to_string),
            net: some(net),
            host: some(host),
            ips: addresses.clone(),
            ..kind(if *there { "seen" } else { "withdrawn" })
        },
        Notice::Network { name, vni, what } => {
            v1::Event { net: some(name), vni: Some(vni.get()), ..kind(&format!("network_{what}")) }
        }
        Notice::NetworkConflict { loser, why } => v1::Event {
            net: some(loser),
            why: why.clone(),
            there: Some(why.is_some()),
            ..kind("network_conflict")
        },
        Notice::CutOff { id, name, net, why } => v1::Event {
            endpoint: some(id),
            name: name.as_ref().map(ToString::to_string),
            net: some(net),
            why: why.clone(),
            there: Some(why.is_none()),
            ..kind("cut_off")
        },
        Notice::EndpointConflict { what, loser, winner } => v1::Event {
            endpoint: some(loser),
            why: Some(format!("{what} is held by another endpoint")),
            host: some(winner),
            ..kind("endpoint_conflict")
        },
        Notice::Attached { id, name, net, addresses } => v1::Event {
            endpoint: some(id),
            name: name.as_ref().map(ToString::to_string),
            net: some(net),
            ips: addresses.clone(),
            ..kind("attached")
        },
        Notice::Detached { id, name, why } => v1::Event {
            endpoint: some(id),
            name: name.as_ref().map(ToString::to_string),
            why: some(why),
            ..kind("detached")
        },
        Notice::Ports { id, name, published, withdrawn } => {
            let text = |sign: char, ports: &[Publish]| {
                ports.iter().map(|port| format!("{sign}{port}")).collect::<Vec<_>>()
            };
            let why = [text('+', published), text('-', withdrawn)].concat().join(" ");
            v1::Event {
                endpoint: some(id),
                name: name.as_ref().map(ToString::to_string),
                why: Some(why),
                ..kind("ports")
            }
        }
        Notice::Renamed { id, before, name, aliases } => {
            let before = before.as_ref().map_or("no name", Name::as_str);
            let aliases: Vec<&str> = aliases.iter().map(Name::as_str).collect();
            v1::Event {
                endpoint: some(id),
                name: name.as_ref().map(ToString::to_string),
                why: Some(match aliases.join(", ") {
                    none if none.is_empty() => format!("was {before}"),
                    all => format!("was {before}; aliases {all}"),
                }),
                ..kind("renamed")
            }
        }
        Notice::Service { name, net, what } => {
            v1::Event { name: some(name), net: some(net), ..kind(&format!("service_{what}")) }
        }
        Notice::NoOwnAddress { why } => v1::Event { why: some(why), ..kind("no_own_address") },
        Notice::Gone { id, name, net, addresses, grace } => v1::Event {
            endpoint: some(id),
            name: name.as_ref().map(ToString::to_string),
            net: some(net),
            ips: addresses.clone(),
            after_ms: Some(ms(*grace)),
            ..kind("gone")
        },
        Notice::Moved { id, name, net, host, seq, here } => v1::Event {
            endpoint: some(id),
            name: name.as_ref().map(ToString::to_string),
            net: some(net),
            host: some(host),
            count: Some(u64::from(*seq)),
            there: Some(*here),
            ..kind("moved")
        },
        Notice::Frozen(frozen) => v1::Event { there: Some(true), ..of_frozen(frozen, &kind) },
        Notice::Thawed { frozen, why } => {
            v1::Event { there: Some(false), why: some(why), ..of_frozen(frozen, &kind) }
        }
        Notice::Imported { net, added, changed, removed } => {
            v1::Event { net: some(net), count: many(added + changed + removed), ..kind("imported") }
        }
        Notice::Device { ifname, what } => {
            v1::Event { dev: some(ifname), why: some(what), ..kind("device") }
        }
        Notice::SameName { name, addrs, over } => v1::Event {
            name: some(name),
            addrs: addrs.to_vec(),
            there: Some(!over),
            ..kind("same_name")
        },
        Notice::Doubled { host, addrs, .. } => v1::Event {
            host: some(host),
            addrs: addrs.iter().map(ToString::to_string).collect(),
            there: Some(!addrs.is_empty()),
            ..kind("same_identity")
        },
        Notice::Underlay { dev, addrs, before, mtu } => v1::Event {
            dev: some(dev),
            addrs: [addrs, before].map(|addrs| comma_separated(addrs)).to_vec(),
            mtu: Some(*mtu),
            ..kind("underlay")
        },
        Notice::Apart { host, why } => v1::Event {
            host: some(host),
            why: why.clone(),
            there: Some(why.is_some()),
            ..kind("apart")
        },
        Notice::UnderlayLost { addr, why } => {
            v1::Event { addrs: vec![addr.to_string()], why: some(why), ..kind("underlay_lost") }
        }
        Notice::ViewComplete { why } => v1::Event { why: some(why), ..kind("view_complete") },
        Notice::KernelRefused { command, reason, retry_in } => v1::Event {
            command: some(command),
            why: some(reason),
            retry_ms: Some(ms(*retry_in)),
            ..kind("kernel_refused")
        },
        Notice::Repaired(repair) => v1::Event {
            object: some(&repair.object),
            state: some(&repair.found.as_str()),
            command: some(&repair.command),
            count: many(repair.objects),
            after_ms: Some(ms(repair.after)),
            by: repair.hand.as_ref().map(ToString::to_string),
            times: many(repair.times),
            ..kind("repaired")
        },
        Notice::Fight(contest) | Notice::FightOver(contest) => v1::Event {
            object: some(&contest.object),
            by: contest.hand.as_ref().map(ToString::to_string),
            count: Some(contest.repairs),
            there: Some(matches!(notice, Notice::Fight(_))),
            retry_ms: contest.until.map(|until| ms(until.saturating_sub(contest.since))),
            ..kind("fight")
        },
        Notice::Overrun => kind("overrun"),
        Notice::Donated { net, count, to } => v1::Event {
            net: some(net),
            host: some(to),
            count: Some(u64::try_from(*count).unwrap_or(u64::MAX)),
            ..kind("donated")
        },
        Notice::Forgotten { host, by, addresses } => v1::Event {
            host: host.clone(),
            by: some(by),
            count: Some(u64::try_from(*addresses).unwrap_or(u64::MAX)).filter(|n| *n > 0),
            ..kind("host_forgotten")
        },
        Notice::WasForgotten => kind("was_forgotten"),
        Notice::Drained { drained } => v1::Event { there: Some(*drained), ..kind("drained") },
        Notice::Recovery { stage, text } => {
            v1::Event { state: Some((*stage).to_owned()), why: some(text), ..kind("recovery") }
        }
        Notice::Crowded { net, over, .. } => {
            v1::Event { net: some(net), there: Some(!over), ..kind("addresses") }
        }
        Notice::Released { net, ip } => {
            v1::Event { net: some(net), ips: vec![*ip], ..kind("released") }
        }
        Notice::NotPersisted { why } => v1::Event { why: some(why), ..kind("not_persisted") },
    }
}

fn of_frozen(frozen: &FrozenView, kind: &impl Fn(&str) -> v1::Event) -> v1::Event {
    v1::Event {
        object: Some(frozen.what.join(" ")),
        net: Some(frozen.net.clone()),
        host: Some(frozen.kept.clone()),
        count: Some(frozen.moves as u64),
        ..kind("frozen")
    }
}

fn by_name(kinds: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    kinds.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect()
}

fn refused_from(from: &RefusedFrom) -> v1::RefusedFrom {
    v1::RefusedFrom {
        address: from.addr,
        kinds: by_name(&from.kinds),
        refuses_us: from.refuses_us,
        last_ms: ms(from.last),
    }
}

/// What gossip adds to what the engine knows.
#[derive(Debug, Default)]
pub struct Heard {
    /// Counters of gossip, by the names that they have in the status.
    pub counters: BTreeMap<String, u64>,
    /// Lives of other hosts. For lists of hosts and the status only.
    pub peers: Vec<PeerInfo>,
    /// What was refused, by address. Likewise.
    pub refusals: Refusals,
    /// What others on this host do that our traffic suffers from. Likewise.
    pub warnings: Vec<String>,
    /// What the kernel has dropped by our rules. For the status only.
    pub dropped: Vec<overlay_netlink::Dropped>,
    /// What it has sent elsewhere. For lists of ports and rules only.
    pub translated: Vec<overlay_netlink::Translated>,
    /// Settings that are otherwise for our rules' sake. Likewise, and for the status.
    pub settings: Vec<String>,
    /// Ports that could not be held, and why. For lists of ports only.
    pub unheld: BTreeMap<Publish, String>,
}

/// A host with what gossip knows of the life of it that speaks.
fn heard_host(view: HostView, gossip: &Heard) -> v1::Host {
    let of_host = || gossip.peers.iter().filter(|p| p.host == view.id && !view.local);
    let undecodable = of_host().map(|p| p.undecodable).sum();
    let life = of_host().find(|p| p.incarnation == view.incarnation);
    let last_heard_ms = life.and_then(|p| p.last_heard).map(ms);
    let rtt = life.and_then(|p| p.round_trip);
    let rtt_us = rtt.map(|rtt| u64::try_from(rtt.smoothed.as_micros()).unwrap_or(u64::MAX));
    let rtt_age_ms = rtt.map(|rtt| ms(rtt.age));
    // Where it is now, if gossip knows, rather than where its former lives were.
    let said = || view.host.as_ref().filter(|_| !view.local).map(|host| host.gossip.ip());
    let addr = life.map(|p| p.addr.ip()).or_else(said);
    let from = gossip.refusals.sources.iter().find(|from| Some(from.addr) == addr);
    let refused = from.map(|from| by_name(&from.kinds)).unwrap_or_default();
    let refuses_us = from.map_or(0, |from| from.refuses_us);
    v1::Host { last_heard_ms, rtt_us, rtt_age_ms, undecodable, refused, refuses_us, ..host(view) }
}

/// A reply as the JSON body of its route.
pub fn reply(reply: Reply, gossip: &Heard) -> serde_json::Result<Vec<u8>> {
    match reply {
        Reply::Network(view) => serde_json::to_vec(&network(*view)),
        Reply::Removed { network, detached } => serde_json::to_vec(&deleted(*network, detached)),
        Reply::Kept(one) => serde_json::to_vec(&kept(one)),
        Reply::Networks(views) => {
            serde_json::to_vec(&views.into_iter().map(network).collect::<Vec<_>>())
        }
        Reply::Endpoint(view) => serde_json::to_vec(&endpoint(*view)),
        Reply::Endpoints(views) => {
            serde_json::to_vec(&views.into_iter().map(endpoint).collect::<Vec<_>>())
        }
        Reply::Ports(views) => {
            let ports = views.into_iter().map(|view| port(view, gossip));
            serde_json::to_vec(&ports.collect::<Vec<_>>())
        }
        Reply::Service(view) => serde_json::to_vec(&service(*view)),
        Reply::Services(views) => {
            serde_json::to_vec(&views.into_iter().map(service).collect::<Vec<_>>())
        }
        Reply::Firewall => serde_json::to_vec(&firewall(gossip)),
        Reply::Thawed(views) => {
            serde_json::to_vec(&views.into_iter().map(frozen).collect::<Vec<_>>())
        }
        Reply::Subnets(views) => {
            serde_json::to_vec(&views.into_iter().map(ipam::subnet).collect::<Vec<_>>())
        }
        Reply::Ranges(views) => {
            serde_json::to_vec(&views.into_iter().map(ipam::ranges).collect::<Vec<_>>())
        }
        Reply::Audited(view) => serde_json::to_vec(&ipam::audit(view)),
        Reply::Reserved { net, ip, held } => serde_json::to_vec(&v1::ReservedAddress {
            net: net.into(),
            address: ip,
            held_ms: ms(held),
        }),
        Reply::Released { net, ip } => {
            serde_json::to_vec(&v1::ReleasedAddress { net: net.into(), address: ip })
        }
        Reply::Hosts(views) => {
            let hosts = views.into_iter().map(|view| heard_host(view, gossip));
            serde_json::to_vec(&hosts.collect::<Vec<_>>())
        }
        Reply::Status(view) => serde_json::to_vec(&status(*view, gossip)),
        Reply::Entries(views) => {
            serde_json::to_vec(&views.into_iter().map(entry).collect::<Vec<_>>())
        }
        Reply::Plan(plan) => serde_json::to_vec(&v1::Plan {
            revision: plan.revision,
            view_complete: plan.view_complete,
            commands: plan.commands,
        }),
        Reply::Imported { added, changed, removed, unchanged } => {
            serde_json::to_vec(&v1::Imported { added, changed, removed, unchanged })
        }
        Reply::Forgetting(overlay_engine::Forgetting { host, done, waits_for, majority }) => {
            serde_json::to_vec(&v1::Forgotten { host, done, waits_for, majority })
        }
        Reply::Drained { drained, endpoints } => {
            serde_json::to_vec(&v1::Drained { drained, endpoints })
        }
        Reply::Leaving { endpoints } => {
            let told = gossip.counters.get("peers").copied().unwrap_or(0);
            let told = usize::try_from(told).unwrap_or(usize::MAX);
            serde_json::to_vec(&v1::Left { told, endpoints })
        }
    }
}

/// Addresses in one text.
pub(crate) fn comma_separated(addrs: &[IpAddr]) -> String {
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
