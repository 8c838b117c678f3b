//! What a host tells the cluster: its records, and the keys they stand under.
//!
//! A host writes only its own records; everything here is a value that a merge
//! compares, and no merge looks at when or how often it arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    AddressRange, EndpointId, HostId, InvalidId, InvalidPublish, KeyId, MacAddr, Name, NetworkId,
    Protocol, Publish, Vni,
};

/// What a host says of its own future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostIntent {
    /// It runs.
    Up,
    /// Its daemon stops, forwarding stays in place, it means to come back.
    Stopped,
    /// It leaves the cluster: forget its entries now.
    Left,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Identity.
    pub id: HostId,
    /// What people call it; `--name`, else its host name.
    pub name: Name,
    /// Addresses that VXLAN packets for this host go to: at most one a family.
    pub vteps: Vec<IpAddr>,
    /// UDP port that it receives VXLAN on.
    pub vxlan_port: u16,
    /// Where it receives gossip.
    pub gossip: SocketAddr,
    /// MTU of the device that has the VTEP address, bytes of IP packet.
    pub underlay_mtu: u16,
    /// Version of its software.
    pub version: String,
    /// What it says of its own future.
    pub intent: HostIntent,
}

/// When and by whom something was written: a hybrid logical clock. Total order,
/// the later wins; equal times are settled by counter, then by host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Wall clock, milliseconds since 1970; never behind a stamp already seen.
    pub wall_ms: u64,
    /// Tells apart stamps of one millisecond.
    pub counter: u32,
    /// Who wrote.
    pub host: HostId,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Network address and prefix length.
    pub cidr: IpNet,
    /// The anycast gateway's address, the same on every host. Internal
    /// networks keep it out of the pool too, but no host has it.
    pub gateway: IpAddr,
}

/// A network: one Ethernet segment across hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Identity.
    pub id: NetworkId,
    /// What people call it.
    pub name: Name,
    /// Its VXLAN Network Identifier.
    pub vni: Vni,
    /// At most one an address family.
    pub subnets: Vec<Subnet>,
    /// MTU inside, bytes of IP packet.
    pub mtu: u16,
    /// No gateway, no way out.
    pub internal: bool,
    /// Broadcast and multicast are replicated to the hosts that use it.
    pub flood: bool,
    /// Free text for people and tools.
    pub labels: BTreeMap<String, String>,
    /// Never leased, not even when they are asked for: in order, and without
    /// two that meet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// Where addresses are chosen from if nobody says one: at most one a family;
    /// of a family without one, anywhere in the subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<AddressRange>,
    /// When and by whom it was created: the older claim to a VNI or name wins.
    pub created: Stamp,
    /// When and by whom this definition was written: the newer wins.
    pub updated: Stamp,
    /// A tombstone: the network is gone.
    pub deleted: bool,
}

impl Network {
    /// Says whether `ip` is excluded from being leased.
    pub fn excludes(&self, ip: IpAddr) -> bool {
        self.exclude.iter().any(|range| range.contains(ip))
    }
}

/// One attached container (or VM): a MAC and its addresses, behind one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Identity.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// Its name in DNS, unique in its network.
    pub name: Option<Name>,
    /// Further names, which other endpoints may share.
    pub aliases: BTreeSet<Name>,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// At most one an address family, in the order of the network's subnets.
    pub addresses: Vec<IpAddr>,
    /// Free text for people and tools.
    pub labels: BTreeMap<String, String>,
    /// Ports of its host, or of every host, that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Publish>,
    /// How often this MAC or address has moved between hosts: of two claims
    /// the larger wins, then the lower HostId (RFC 7432 section 15).
    pub move_seq: u32,
    /// When it was attached, milliseconds since 1970.
    pub attached_ms: u64,
}

/// An endpoint and the host that it is on: what is held once of each, however many places it is
/// found from.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Where.
    pub host: HostId,
    /// What.
    pub endpoint: Endpoint,
}

impl Placed {
    /// Of two claims to one thing the smaller one wins.
    pub fn rank(&self) -> impl Ord + use<> {
        (std::cmp::Reverse(self.endpoint.move_seq), self.host, self.endpoint.id)
    }

    /// True for another writing of the same endpoint, too.
    pub fn is(&self, host: HostId, id: EndpointId) -> bool {
        self.host == host && self.endpoint.id == id
    }

    /// Both.
    pub fn parts(&self) -> (HostId, &Endpoint) {
        (self.host, &self.endpoint)
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `ip`.
    pub fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The address of a host with the VTEPs `theirs` that VXLAN packets go to from one with `ours`:
/// of the family that both have, and of IPv4 if they have both in common, because its header is
/// 20 bytes smaller. Both ends choose the same family. `None` if they have none in common.
///
/// ```
/// # use overlay_model::records::way_between;
/// let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
/// let [a6, b6] = ["2001:db8::1", "2001:db8::2"].map(|ip| ip.parse().unwrap());
/// assert_eq!(way_between(&[a, a6], &[b6, b]), Some(b));
/// assert_eq!(way_between(&[a, a6], &[b6]), Some(b6));
/// assert_eq!(way_between(&[a], &[b6]), None);
/// ```
pub fn way_between(ours: &[IpAddr], theirs: &[IpAddr]) -> Option<IpAddr> {
    let common =
        theirs.iter().filter(|ip| ours.iter().any(|own| Family::of(own) == Family::of(ip)));
    common.min_by_key(|ip| Family::of(ip)).copied()
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "4",
            Self::V6 => "6",
        })
    }
}

/// A range of addresses and whose it is. It begins at the offset in its key.
///
/// Only the owner may change its range; each change raises the version; merging
/// takes the higher version of a key. Ranges are only ever split, so a range
/// says where it ends: whoever hears one piece of a split and not the other
/// must not take the first for larger than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingToken {
    /// Who may give these addresses out.
    pub owner: HostId,
    /// How often the range that begins here has changed.
    pub version: u64,
    /// Offset of the first address after the range.
    pub until: u128,
}

/// What a host that has run out of addresses asks of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantWhat {
    /// Half of your largest free part.
    Half,
    /// Exactly this address, chosen by a user.
    Address(IpAddr),
}

/// A request for addresses: answered by the target writing ring tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Who is asked.
    pub target: HostId,
    /// Tells one request from the next; grows.
    pub seq: u64,
    /// What is asked.
    pub what: WantWhat,
}

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Which kind.
    pub protocol: Protocol,
    /// At the address of the service.
    pub port: u16,
    /// At the endpoints behind it.
    pub target: u16,
}

impl fmt::Display for ServicePort {
    /// `80:8080/tcp`, or `80/tcp` if it is the same behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == self.target {
            write!(f, "{}/{}", self.port, self.protocol)
        } else {
            write!(f, "{}:{}/{}", self.port, self.target, self.protocol)
        }
    }
}

impl FromStr for ServicePort {
    type Err = InvalidPublish;
    fn from_str(s: &str) -> Result<Self, InvalidPublish> {
        let (ports, protocol) = s.split_once('/').unwrap_or((s, "tcp"));
        let (port, target) = ports.split_once(':').unwrap_or((ports, ports));
        let number = |text: &str| {
            text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                InvalidPublish(format!(
                    "`{s}` is no port of a service: write 80, 80:8080 or 53/udp"
                ))
            })
        };
        Ok(Self { protocol: protocol.parse()?, port: number(port)?, target: number(target)? })
    }
}

/// A service: addresses that no station has, whose connections are spread over all
/// endpoints with an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Identity; random.
    pub id: u64,
    /// The network it is on.
    pub network: NetworkId,
    /// Its name in DNS.
    pub name: Name,
    /// Whose holders are behind it.
    pub alias: Name,
    /// At least one.
    pub ports: Vec<ServicePort>,
    /// At most one an address family.
    pub addresses: Vec<IpAddr>,
    /// When and by whom it was created: the older claim to a name or address wins.
    pub created: Stamp,
    /// When and by whom this definition was written: the newer wins.
    pub updated: Stamp,
    /// A tombstone: the service is gone.
    pub deleted: bool,
}

/// Which cluster keys a host has: never the keys themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostKeys {
    /// All that it can open messages with, at most [`HostKeys::MAX`].
    pub ids: Vec<KeyId>,
    /// The one that it seals with.
    pub used: Option<KeyId>,
}

impl HostKeys {
    /// The most keys that a host holds: the one in use, the next one, and one
    /// that is on its way out.
    pub const MAX: usize = 3;

    /// Says whether messages sealed with `id` can be opened there.
    pub fn has(&self, id: KeyId) -> bool {
        self.ids.contains(&id)
    }
}

/// What a host says of one that is away; see the engine's `forget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fate {
    /// Which claim this is about; a later one has a higher number.
    pub generation: u32,
    /// At which generation that host was forgotten last, if ever: what it owned of
    /// lower ones is void.
    pub floor: u32,
    /// Up to which generation it has taken note of that.
    pub noted: u32,
    /// Who is to take over what it owns, if anybody; the vote of who says this.
    pub heir: Option<HostId>,
    /// The heir has taken over.
    pub done: bool,
    /// An operator has said that it is dead.
    pub vouched: bool,
    /// A hash of the ranges that who says this has published.
    pub ranges: u64,
    /// A hash of all hosts that count in the cluster, as who says this knows them.
    pub members: u64,
}

impl Fate {
    /// `heir` says that it is to take over.
    pub fn claim(heir: HostId, generation: u32) -> Self {
        Self { generation, heir: Some(heir), ..Self::default() }
    }
}

/// A value that a host publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Under [`RecordKey::Host`].
    Host(Host),
    /// Under [`RecordKey::Network`].
    Network(Network),
    /// Under [`RecordKey::Endpoint`].
    Endpoint(Endpoint),
    /// Under [`RecordKey::Ring`].
    Ring(RingToken),
    /// Under [`RecordKey::Want`].
    Want(Want),
    /// Under [`RecordKey::Keys`].
    Keys(HostKeys),
    /// Under [`RecordKey::Fate`].
    Fate(Fate),
    /// Under [`RecordKey::Service`].
    Service(Service),
    /// Under [`RecordKey::Drained`]: being there is all there is to say.
    Drained,
}

/// What a record stands under. `Display` and `FromStr` are the gossip key:
/// short, ASCII, and without the host, whose key space it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKey {
    /// `host`: the host itself.
    Host,
    /// `net/<NetworkId>`.
    Network(NetworkId),
    /// `ep/<NetworkId>/<EndpointId>`.
    Endpoint(NetworkId, EndpointId),
    /// `ring/<NetworkId>/<4|6>/<hex offset of the first address in the subnet>`.
    Ring(NetworkId, Family, u128),
    /// `want/<NetworkId>/<4|6>`.
    Want(NetworkId, Family),
    /// `keys`: which cluster keys the host has.
    Keys,
    /// `fate/<HostId>`: what the host says of one that is away.
    Fate(HostId),
    /// `svc/<NetworkId>/<16 hex digits>`.
    Service(NetworkId, u64),
    /// `drained`: the host takes no new endpoint. Not in its own record, whose format all
    /// versions read: those that do not know of it pass it on.
    Drained,
}

impl RecordKey {
    /// The keys of all endpoints on `net`.
    pub fn endpoints_on(net: NetworkId) -> std::ops::RangeInclusive<Self> {
        let key = |bits| Self::Endpoint(net, EndpointId::from_bits(bits));
        key(0)..=key(u64::MAX)
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Network(net) => write!(f, "net/{net}"),
            Self::Endpoint(net, ep) => write!(f, "ep/{net}/{ep}"),
            Self::Ring(net, family, offset) => write!(f, "ring/{net}/{family}/{offset:x}"),
            Self::Want(net, family) => write!(f, "want/{net}/{family}"),
            Self::Keys => f.write_str("keys"),
            Self::Fate(host) => write!(f, "fate/{host}"),
            Self::Service(net, id) => write!(f, "svc/{net}/{id:016x}"),
            Self::Drained => f.write_str("drained"),
        }
    }
}

impl FromStr for RecordKey {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            text: s.chars().take(80).collect(),
            form: "a record key (host, net/…, ep/…, ring/…, want/…, keys, fate/… or drained)",
        };
        let family = |text: &str| match text {
            "4" => Ok(Family::V4),
            "6" => Ok(Family::V6),
            _ => Err(invalid()),
        };
        let parts: Vec<&str> = s.split('/').collect();
        let key = match parts.as_slice() {
            ["host"] => Self::Host,
            ["keys"] => Self::Keys,
            ["drained"] => Self::Drained,
            ["net", net] => Self::Network(net.parse()?),
            ["ep", net, ep] => Self::Endpoint(net.parse()?, ep.parse()?),
            ["ring", net, fam, offset] => Self::Ring(
                net.parse()?,
                family(fam)?,
                u128::from_str_radix(offset, 16).map_err(|_| invalid())?,
            ),
            ["svc", net, id] => {
                let id = u64::from_str_radix(id, 16).map_err(|_| invalid())?;
                Self::Service(net.parse()?, id)
            }
            ["fate", host] => Self::Fate(host.parse()?),
            ["want", net, fam] => Self::Want(net.parse()?, family(fam)?),
            _ => return Err(invalid()),
        };
        // Capitals, leading zeros, a plus: two texts of one key would be two
        // records that take each other's place.
        if key.to_string() == s { Ok(key) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests;
