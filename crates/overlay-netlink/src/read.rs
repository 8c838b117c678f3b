//! From netlink messages to the words of the model.
//!
//! A dump and a notification go through the same functions, so that the two
//! cannot disagree about what an entry is.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NlasIterator;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage, Prop, VxlanDf,
};
use netlink_packet_route::neighbour::NeighbourFlags;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use overlay_model::kernel::{LINK_PREFIXES, is_ours, port_mark_of, read_alias};
use overlay_model::outer::{Df, Dscp, SourcePorts, Ttl};
use overlay_model::{
    Device, EndpointId, Foreign, ForeignVxlan, HostId, IfName, KernelState, Link, LinkKind,
    MacAddr, NetworkId, Object, ObjectKey, Objects, Outer, Port, PortFlags, Setting, Vni,
};

use crate::error::{KernelError, NlError};
use crate::firewall;
use crate::nft::Nft;
use crate::wire::{Conn, Entries};

/// `NUD_NOARP` and `NUD_PERMANENT` of `linux/neighbour.h`. The crate's enum has
/// no combinations, so states are compared as the numbers that they are.
pub(crate) const NUD_NOARP: u16 = 0x40;
pub(crate) const NUD_PERMANENT: u16 = 0x80;

/// Every link of a network namespace by its index.
pub(crate) type Links = HashMap<u32, LinkRow>;

/// A link, ours or not, as far as anything here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkRow {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mtu: u32,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) master: Option<u32>,
    pub(crate) port: Option<PortFlags>,
    /// Settings that are not as we make them.
    pub(crate) altered: BTreeSet<Setting>,
    /// Index of the other end of a veth pair, in its own namespace.
    pub(crate) other_end: Option<u32>,
    /// Set when the link's socket or other end is in another namespace.
    pub(crate) link_netnsid: Option<i32>,
    /// What our mark on it says, if it is a device that was attached.
    pub(crate) mark: Option<(EndpointId, bool)>,
    pub(crate) kind: RowKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowKind {
    Bridge,
    Vxlan(VxlanRow),
    Veth,
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VxlanRow {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) local: Option<IpAddr>,
    pub(crate) outer: Outer,
    pub(crate) external: bool,
    pub(crate) vnifilter: bool,
}

impl LinkRow {
    /// Reads a complete link message; `None` if it names no link.
    pub(crate) fn parse(message: &LinkMessage) -> Option<Self> {
        let mut row = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            mtu: 0,
            mac: None,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            master: None,
            port: None,
            altered: BTreeSet::new(),
            other_end: None,
            link_netnsid: None,
            mark: None,
            kind: RowKind::Other,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => row.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => row.alias = Some(alias.clone()),
                LinkAttribute::Mtu(mtu) => row.mtu = *mtu,
                LinkAttribute::Address(bytes) => row.mac = mac_of(bytes),
                LinkAttribute::Controller(master) if *master != 0 => row.master = Some(*master),
                LinkAttribute::Link(index) => row.other_end = Some(*index),
                LinkAttribute::LinkNetNsId(id) => row.link_netnsid = Some(*id),
                LinkAttribute::LinkInfo(infos) => row.read_info(infos),
                LinkAttribute::AfSpecUnspec(specs) => {
                    let is_none = |mode: &AfSpecInet6| !matches!(mode, AfSpecInet6::AddrGenMode(m) if *m != In6AddrGenMode::None);
                    let as_made = specs.iter().all(|spec| match spec {
                        AfSpecUnspec::Inet6(modes) => modes.iter().all(is_none),
                        _ => true,
                    });
                    if !as_made {
                        row.altered.insert(Setting::AddrGenMode);
                    }
                }
                LinkAttribute::PropList(props) => {
                    row.mark = props.iter().find_map(|prop| match prop {
                        Prop::AltIfName(name) => port_mark_of(name),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        (!row.name.is_empty()).then_some(row)
    }

    fn read_info(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Bridge) => self.kind = RowKind::Bridge,
                LinkInfo::Kind(InfoKind::Veth) => self.kind = RowKind::Veth,
                LinkInfo::Kind(InfoKind::Vxlan) => {
                    self.kind = RowKind::Vxlan(VxlanRow::default());
                }
                LinkInfo::Data(InfoData::Vxlan(data)) => {
                    self.kind = RowKind::Vxlan(vxlan_of(data));
                    if data.iter().any(|info| matches!(info, InfoVxlan::Learning(true))) {
                        self.altered.insert(Setting::Learning);
                    }
                }
                LinkInfo::Data(InfoData::Bridge(data)) => {
                    self.altered.extend(data.iter().filter_map(altered_bridge));
                }
                LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                    self.port = Some(port_of(data));
                    self.altered.extend(data.iter().filter_map(altered_port));
                }
                _ => {}
            }
        }
    }

    /// Named and marked as ours, and of a shape that we make.
    pub(crate) fn ours(&self) -> bool {
        self.own().is_some()
    }

    /// Named like ours.
    pub(crate) fn looks_like_ours(&self) -> bool {
        LINK_PREFIXES.iter().any(|prefix| self.name.starts_with(prefix))
    }

    /// The network that a link of ours belongs to.
    pub(crate) fn network(&self) -> Option<NetworkId> {
        self.own().map(|(network, ..)| network)
    }

    /// The host that made a bridge of ours.
    pub(crate) fn host(&self) -> Option<HostId> {
        self.own().and_then(|(_, host, kind)| host.filter(|_| kind == LinkKind::Bridge))
    }

    fn own(&self) -> Option<(NetworkId, Option<HostId>, LinkKind)> {
        let alias = self.alias.as_deref();
        if !is_ours(&self.name, alias) {
            return None;
        }
        let (network, host) = read_alias(alias?)?;
        let kind = match &self.kind {
            RowKind::Bridge => LinkKind::Bridge,
            RowKind::Veth => LinkKind::Veth { peer: None },
            RowKind::Vxlan(vxlan) => LinkKind::Vxlan {
                vni: Vni::new(vxlan.vni).ok()?,
                port: vxlan.port,
                local: vxlan.local.unwrap_or(IpAddr::from([0; 4])),
                outer: vxlan.outer,
            },
            RowKind::Other => return None,
        };
        Some((network, host, kind))
    }

    /// The link as an object, if it is ours; `links` knows its master.
    pub(crate) fn to_link(&self, links: &Links) -> Option<(IfName, Link)> {
        let (network, host, kind) = self.own()?;
        let name = self.ifname()?;
        let master = self.master.and_then(|index| links.get(&index)).and_then(LinkRow::ifname);
        let link = Link {
            network,
            host,
            mtu: u16::try_from(self.mtu).unwrap_or(u16::MAX),
            mac: self.mac.unwrap_or(MacAddr::ZERO),
            up: self.up,
            port: master.as_ref().and(self.port),
            altered: self
                .altered
                .iter()
                .copied()
                .filter(|setting| master.is_some() || !setting.of_port())
                .collect(),
            master,
            kind,
        };
        Some((name, link))
    }

    /// The device as a port of ours, if it bears our mark; `links` knows its
    /// master.
    pub(crate) fn to_port(&self, links: &Links) -> Option<(IfName, Port)> {
        let (endpoint, was_up) = self.mark.filter(|_| !self.ours())?;
        let bridge = self
            .master
            .and_then(|index| links.get(&index))
            .filter(|row| row.ours())
            .and_then(LinkRow::ifname);
        let port = Port {
            endpoint,
            index: self.index,
            // From which other ports a lent device is kept apart is its owner's affair.
            flags: bridge.as_ref().and(self.port).map(|port| PortFlags { isolated: false, ..port }),
            bridge,
            up: self.up,
            was_up,
        };
        Some((self.ifname()?, port))
    }

    /// What the mirror holds of it: a link of ours, or a port of ours.
    pub(crate) fn to_object(&self, links: &Links) -> Option<(ObjectKey, Object)> {
        match self.to_link(links) {
            Some((name, link)) => Some((ObjectKey::Link(name), Object::Link(Box::new(link)))),
            None => {
                let (name, port) = self.to_port(links)?;
                Some((ObjectKey::Port(name), Object::Port(port)))
            }
        }
    }

    /// Entries of ours may lead to it.
    pub(crate) fn carries_ours(&self) -> bool {
        self.ours() || self.mark.is_some()
    }

    pub(crate) fn ifname(&self) -> Option<IfName> {
        IfName::new(&self.name).ok()
    }
}

fn vxlan_of(data: &[InfoVxlan]) -> VxlanRow {
    let mut row = VxlanRow::default();
    for info in data {
        match info {
            InfoVxlan::Id(vni) => row.vni = *vni,
            InfoVxlan::Port(port) => row.port = *port,
            InfoVxlan::Local(local) => row.local = Some((*local).into()),
            InfoVxlan::Local6(local) => row.local = Some((*local).into()),
            InfoVxlan::CollectMetadata(on) => row.external = *on,
            InfoVxlan::Vnifilter(on) => row.vnifilter = *on,
            InfoVxlan::UDPCsum(on) => row.outer.checksum = *on,
            InfoVxlan::PortRange((0, 0)) => {}
            InfoVxlan::PortRange((first, last)) => {
                row.outer.source_ports = Some(SourcePorts { first: *first, last: *last });
            }
            InfoVxlan::Df(df) => {
                row.outer.df = match df {
                    VxlanDf::Set => Df::Set,
                    VxlanDf::Inherit => Df::Inherit,
                    _ => Df::Unset,
                }
            }
            InfoVxlan::TtlInherit(on) if *on != 0 => row.outer.ttl = Ttl::Inherit,
            InfoVxlan::Ttl(hops) if *hops > 0 && row.outer.ttl != Ttl::Inherit => {
                row.outer.ttl = Ttl::Hops(*hops);
            }
            InfoVxlan::Tos(tos) => row.outer.dscp = Dscp::of_tos(*tos),
            _ => {}
        }
    }
    row
}

fn altered_bridge(info: &InfoBridge) -> Option<Setting> {
    match info {
        InfoBridge::MulticastSnooping(true) => Some(Setting::McastSnooping),
        InfoBridge::VlanFiltering(true) => Some(Setting::VlanFiltering),
        InfoBridge::StpState(state) if *state != BridgeStpState::Disabled => Some(Setting::Stp),
        _ => None,
    }
}

fn altered_port(info: &InfoBridgePort) -> Option<Setting> {
    match info {
        InfoBridgePort::UnicastFlood(false) => Some(Setting::Flood),
        InfoBridgePort::MulticastFlood(false) => Some(Setting::McastFlood),
        InfoBridgePort::BroadcastFlood(false) => Some(Setting::BcastFlood),
        InfoBridgePort::Locked(true) => Some(Setting::Locked),
        _ => None,
    }
}

fn port_of(data: &[InfoBridgePort]) -> PortFlags {
    let mut port = PortFlags::default();
    for info in data {
        match info {
            InfoBridgePort::Learning(on) => port.learning = *on,
            InfoBridgePort::NeighSupress(on) => port.neigh_suppress = *on,
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
            _ => {}
        }
    }
    port
}

pub(crate) fn mac_of(bytes: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddr)
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A message about an FDB, ARP or ND entry, as far as we ask: `struct ndmsg` and
/// attributes of linux/neighbour.h.
///
/// Read here and not by `netlink-packet-route`: of entries there come hundreds
/// of thousands at once, and its message is a list of lists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    family: u8,
    index: u32,
    state: u16,
    flags: NeighbourFlags,
    dst: Option<IpAddr>,
    mac: Option<MacAddr>,
    master: Option<u32>,
    vlan: bool,
    /// Of when it is said; drivers tell it with each of their entries.
    times: bool,
}

impl Entry {
    /// What follows the header of a message; `None` if it is cut off.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        const NDMSG: usize = 12;
        let header: &[u8; NDMSG] = body.first_chunk()?;
        let [family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _] = *header;
        let mut entry = Self {
            family,
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            state: u16::from_ne_bytes([s0, s1]),
            flags: NeighbourFlags::from_bits_retain(flags),
            dst: None,
            mac: None,
            master: None,
            vlan: false,
            times: false,
        };
        for attribute in NlasIterator::new(&body[NDMSG..]).filter_map(Result::ok) {
            let value = attribute.value();
            match attribute.kind() {
                1 => entry.dst = ip_of(value),
                2 => entry.mac = mac_of(value),
                3 => entry.times = true,
                5 => entry.vlan = value.iter().any(|byte| *byte != 0),
                9 => entry.master = value.try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
        Some(entry)
    }
}

/// What an FDB, ARP or ND entry is about, and what it says: `None` if it is
/// not one that we would write (learnt, resolved, or the kernel's own), though
/// it stands where one of ours might. `None` altogether if it stands on no
/// link of ours.
pub(crate) fn neighbour(message: &Entry, links: &Links) -> Option<(ObjectKey, Option<Object>)> {
    let dev = links.get(&message.index)?;
    let Entry { family, state, flags, dst, mac, master, vlan, .. } = *message;
    let permanent = state & NUD_PERMANENT != 0;
    let marked = flags.contains(NeighbourFlags::ExtLearned);

    match AddressFamily::from(family) {
        AddressFamily::Bridge => {
            let mac = mac?;
            if let Some(bridge) = master.and_then(|index| links.get(&index)) {
                // The bridge's own table: it names its bridge in NDA_MASTER.
                if vlan || mac.0[0] & 1 == 1 || !bridge.ours() {
                    return None;
                }
                let key = ObjectKey::BridgeFdb(bridge.ifname()?, mac);
                // What extern_learn puts is neither static nor permanent in the
                // kernel's words; the flag is what says that it is not learnt.
                let put = (marked || state & NUD_NOARP != 0) && !permanent && dev.carries_ours();
                let object = put.then(|| dev.ifname()).flatten();
                Some((key, object.map(|port| Object::BridgeFdb { port, extern_learn: marked })))
            } else if matches!(dev.kind, RowKind::Vxlan(_)) && dev.ours() {
                let name = dev.ifname()?;
                if mac == MacAddr::ZERO {
                    let key = ObjectKey::Flood(name, dst?);
                    return Some((key, permanent.then_some(Object::Flood)));
                }
                if mac.0[0] & 1 == 1 {
                    return None;
                }
                // After what the VXLAN driver tells of a change, older kernels (6.1; not 6.18) tell of
                // it once more in rtnetlink's own words, which have no destination: not another entry.
                if dst.is_none() && !message.times {
                    return None;
                }
                let object = dst.filter(|_| permanent).map(|dst| Object::VxlanFdb { dst });
                Some((ObjectKey::VxlanFdb(name, mac), object))
            } else {
                None
            }
        }
        AddressFamily::Inet | AddressFamily::Inet6 => {
            let ip = dst?;
            let ours = matches!(dev.kind, RowKind::Bridge) && dev.ours();
            if !ours || ip.is_multicast() || flags.contains(NeighbourFlags::Proxy) {
                return None;
            }
            let put = permanent && marked;
            let object = mac.filter(|_| put).map(|mac| Object::Neigh { mac });
            Some((ObjectKey::Neigh(dev.ifname()?, ip), object))
        }
        _ => None,
    }
}

/// An address of one of our bridges; link-local ones are the kernel's.
pub(crate) fn address(message: &AddressMessage, links: &Links) -> Option<ObjectKey> {
    let dev = links.get(&message.header.index)?;
    if !matches!(dev.kind, RowKind::Bridge) || !dev.ours() {
        return None;
    }
    let ip = local_address(message)?;
    if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return None;
    }
    let net = IpNet::new(ip, message.header.prefix_len).ok()?;
    Some(ObjectKey::Address(dev.ifname()?, net))
}

/// `IFA_LOCAL`, or `IFA_ADDRESS` where there is none (IPv6 without peer).
pub(crate) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => return Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    address
}

/// Destination, devices, priority and preferred source of a route.
#[derive(Debug, Clone)]
pub(crate) struct RouteRow {
    pub(crate) destination: IpNet,
    pub(crate) devices: Vec<u32>,
    pub(crate) priority: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) main_table: bool,
}

impl RouteRow {
    /// Reads a route that forwards packets (not local, broadcast, blackhole).
    pub(crate) fn parse(message: &RouteMessage) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let unspecified = match message.header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let mut destination = unspecified;
        let mut row = Self {
            destination: IpNet::from(unspecified),
            devices: Vec::new(),
            priority: 0,
            source: None,
            main_table: message.header.table
                == netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = route_ip(address)?,
                RouteAttribute::PrefSource(address) => row.source = route_ip(address),
                RouteAttribute::Oif(index) => row.devices.push(*index),
                RouteAttribute::Priority(priority) => row.priority = *priority,
                RouteAttribute::MultiPath(hops) => {
                    row.devices.extend(hops.iter().map(|hop| hop.interface_index));
                }
                _ => {}
            }
        }
        row.destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
        Some(row)
    }
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// All links.
pub(crate) async fn links(conn: &mut Conn) -> Result<Links, KernelError> {
    let rows = conn.dump("link", RouteNetlinkMessage::GetLink(link_request())).await?;
    Ok(rows
        .iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewLink(message) => judged(conn, message),
            _ => None,
        })
        .map(|row| (row.index, row))
        .collect())
}

/// One link by name, as it is now.
pub(crate) async fn link_by_name(
    conn: &mut Conn,
    name: &IfName,
) -> Result<Option<LinkRow>, NlError> {
    let mut message = link_request();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    let answer = conn.get(RouteNetlinkMessage::GetLink(message)).await;
    link_row(conn, answer)
}

/// One link by index, as it is now.
pub(crate) async fn link_by_index(conn: &mut Conn, index: u32) -> Result<Option<LinkRow>, NlError> {
    let mut message = link_request();
    message.header.index = index;
    let answer = conn.get(RouteNetlinkMessage::GetLink(message)).await;
    link_row(conn, answer)
}

/// Statistics would be half of each answer.
fn link_request() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// A row with what the message does not say.
pub(crate) fn judged(conn: &Conn, message: &LinkMessage) -> Option<LinkRow> {
    let mut row = LinkRow::parse(message)?;
    if let Some(offload) = &conn.offload {
        offload.note(&mut row);
    }
    Some(row)
}

fn link_row(
    conn: &Conn,
    answer: Result<Option<RouteNetlinkMessage>, NlError>,
) -> Result<Option<LinkRow>, NlError> {
    match answer {
        Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(judged(conn, &message)),
        Ok(_) => Ok(None),
        Err(err) if err.is(nix::errno::Errno::ENODEV) => Ok(None),
        Err(err) => Err(err),
    }
}

/// All addresses, as the kernel's messages.
pub(crate) async fn addresses(conn: &mut Conn) -> Result<Vec<AddressMessage>, KernelError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    Ok(conn
        .dump("address", request)
        .await?
        .into_iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewAddress(message) => Some(message),
            _ => None,
        })
        .collect())
}

/// All routes of both families that forward packets.
pub(crate) async fn routes(conn: &mut Conn) -> Result<Vec<RouteRow>, KernelError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for row in conn.dump("route", RouteNetlinkMessage::GetRoute(request)).await? {
            if let RouteNetlinkMessage::NewRoute(message) = row {
                found.extend(RouteRow::parse(&message));
            }
        }
    }
    Ok(found)
}

/// Everything that is ours, what is foreign, and the links that both were read
/// with.
pub(crate) async fn state(
    conn: &mut Conn,
    table: &mut Entries,
    nft: &mut Nft,
) -> Result<(KernelState, Links), KernelError> {
    let links = links(conn).await?;
    let mut objects = Objects::new();
    objects.extend(links.values().filter_map(|row| row.to_object(&links)));
    for message in addresses(conn).await? {
        if let Some(key) = address(&message, &links) {
            objects.insert(key, Object::Address);
        }
    }
    for (name, family) in [("FDB", libc::AF_BRIDGE), ("neighbour", libc::AF_UNSPEC)] {
        let take = |entries: &mut Objects, body: &[u8]| {
            let entry = Entry::parse(body).and_then(|entry| neighbour(&entry, &links));
            if let Some((key, Some(object))) = entry {
                entries.insert(key, object);
            }
        };
        objects.append(table.dump(name, family, take).await?);
    }
    objects.extend(firewall::objects(nft));
    let foreign = foreign(conn, &links).await?;
    Ok((KernelState { objects, foreign }, links))
}

/// What is not ours in this namespace.
pub(crate) async fn foreign(conn: &mut Conn, links: &Links) -> Result<Foreign, KernelError> {
    let mut vxlans: Vec<ForeignVxlan> = links.values().filter_map(foreign_vxlan).collect();
    vxlans.sort_by(|a, b| a.name.cmp(&b.name));
    let squatters = links
        .values()
        .filter(|row| row.looks_like_ours() && !row.ours())
        .filter_map(LinkRow::ifname)
        .collect();
    let mut routes = Vec::new();
    for route in self::routes(conn).await? {
        let to = route.destination;
        let link_local = matches!(to.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        if to.prefix_len() == 0 || link_local || to.addr().is_multicast() {
            continue;
        }
        for row in route.devices.iter().filter_map(|index| links.get(index)) {
            if row.ours() || row.loopback {
                continue;
            }
            routes.extend(row.ifname().map(|dev| (to, dev)));
        }
    }
    routes.sort();
    routes.dedup();
    let mtus = links
        .values()
        .filter(|row| !row.ours())
        .filter_map(|row| Some((row.ifname()?, u16::try_from(row.mtu).unwrap_or(u16::MAX))))
        .collect();
    let devices = links
        .values()
        .filter(|row| !row.ours())
        .filter_map(|row| Some((row.ifname()?, device(row, links))))
        .collect();
    Ok(Foreign { vxlans, squatters, routes, mtus, devices })
}

fn device(row: &LinkRow, links: &Links) -> Device {
    let ethernet = row.mac.filter(|_| !row.loopback);
    let name_of = |index: u32| {
        links.get(&index).map_or_else(|| format!("link {index}"), |row| row.name.clone())
    };
    Device { index: row.index, mac: ethernet, up: row.up, master: row.master.map(name_of) }
}

/// A VXLAN device that is not ours. One with a `vnifilter` holds the VNIs of
/// its filter, which no message of `netlink-packet-route` can ask for: it is
/// left out, and its VNIs are found taken when a device is made.
pub(crate) fn foreign_vxlan(row: &LinkRow) -> Option<ForeignVxlan> {
    let RowKind::Vxlan(vxlan) = &row.kind else { return None };
    if row.ours() || vxlan.vnifilter {
        return None;
    }
    let vni = if vxlan.external { None } else { Some(Vni::new(vxlan.vni).ok()?) };
    Some(ForeignVxlan { name: row.ifname()?, vni, port: vxlan.port, netns: None })
}

#[cfg(test)]
mod tests;
