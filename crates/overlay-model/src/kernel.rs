//! What a kernel holds, and how it is changed.
//!
//! Everything that we ever write is an [`Object`] under an [`ObjectKey`]; a
//! [`KernelState`] has a map of them ([`Objects`]). The planner compares two such maps and
//! says [`KernelOp`]s; `overlay-netlink` reads the one and performs the other.
//! Neither knows the other.
//!
//! A [`KernelOp`] prints as the command that an operator would type. That one
//! rendering serves logs, golden tests, `overlayctl plan` and bug reports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Access, EndpointId, HostId, IfName, MacAddr, NetworkId, Outer, Translation, Vni};

mod objects;

pub use objects::Objects;

/// What `ifalias` of every link of ours begins with; the [`NetworkId`] follows, and in that of
/// a bridge the [`HostId`].
pub const ALIAS_PREFIX: &str = "overlayd:";

/// Prefixes of the names of our links: bridge, VXLAN device, veth.
pub const LINK_PREFIXES: [&str; 3] = ["ovb", "ovx", "ove"];

/// Two nftables tables that are ours: one of family `inet`, one of `bridge`.
pub const NFT_TABLE: &str = "overlayd";

/// The third one, of family `inet`: what is done to addresses of packets. It is a
/// table of its own because it is replaced when a port is published, and what
/// keeps strangers out is not to wait for that, nor that for it.
pub const NAT_TABLE: &str = "overlayd_nat";

/// Stands in the `ifalias` of a bridge between its [`NetworkId`] and the host that made it.
const ALIAS_HOST: &str = " host ";

/// The `ifalias` of a link that belongs to `network`, and says whose it is if it is a bridge.
pub fn alias_of(network: NetworkId, host: Option<HostId>) -> String {
    let host = host.map_or_else(String::new, |host| format!("{ALIAS_HOST}{host}"));
    format!("{ALIAS_PREFIX}{network}{host}")
}

/// Reads what [`alias_of`] wrote.
pub fn read_alias(alias: &str) -> Option<(NetworkId, Option<HostId>)> {
    let text = alias.strip_prefix(ALIAS_PREFIX)?;
    let (network, host) = text.split_once(ALIAS_HOST).map_or((text, None), |(n, h)| (n, Some(h)));
    // What another hand has made of it is put right.
    Some((network.parse().ok()?, host.and_then(|host| host.parse().ok())))
}

/// The alternative name that a device which is not ours bears while it is a
/// port of a bridge of ours: it says for which endpoint, and how the device was
/// before. Its alias is its owner's, and stays.
pub fn port_mark(endpoint: EndpointId, was_up: bool) -> String {
    format!("{}{}", endpoint.ifname(), if was_up { "" } else { WAS_DOWN })
}

/// Reads what [`port_mark`] wrote.
pub fn port_mark_of(altname: &str) -> Option<(EndpointId, bool)> {
    let name = altname.strip_suffix(WAS_DOWN);
    let id = name.unwrap_or(altname).strip_prefix("ove")?.parse().ok()?;
    Some((id, name.is_none()))
}

const WAS_DOWN: &str = "-was-down";

/// True for a link that is ours: by its name and its alias. Anything else is
/// never touched.
pub fn is_ours(name: &str, alias: Option<&str>) -> bool {
    LINK_PREFIXES.iter().any(|p| name.starts_with(p))
        && alias.is_some_and(|a| a.starts_with(ALIAS_PREFIX))
}

/// Names one thing in the kernel. The order is the order in which things are
/// made (links before what stands on them); removal goes the other way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    /// The nftables table `inet overlayd`: first, so that nothing is forwarded
    /// before it.
    Firewall,
    /// The nftables table `bridge overlayd`: what every port of a container is
    /// held to.
    PortRules,
    /// The nftables table `inet overlayd_nat`.
    Nat,
    /// What one port may say, in that table: before the port is there.
    Guard(IfName),
    /// A link of ours. Bridges sort before veths before VXLAN devices.
    Link(IfName),
    /// A device of the host that is not ours, and a port of one of our bridges
    /// because somebody attached it: it is released, never deleted.
    Port(IfName),
    /// An address of one of our bridges.
    Address(IfName, IpNet),
    /// A broadcast destination of a VXLAN device: zero MAC to this VTEP.
    Flood(IfName, IpAddr),
    /// A MAC in the FDB of a VXLAN device (`self`).
    VxlanFdb(IfName, MacAddr),
    /// A MAC in the FDB of a bridge (`master`), keyed by the bridge.
    BridgeFdb(IfName, MacAddr),
    /// An ARP or ND entry of a bridge.
    Neigh(IfName, IpAddr),
}

impl ObjectKey {
    /// The link that this thing stands on and is deleted with; `None` for
    /// links themselves, ports and what is in nftables.
    pub fn stands_on(&self) -> Option<&IfName> {
        match self {
            Self::Firewall
            | Self::PortRules
            | Self::Nat
            | Self::Guard(_)
            | Self::Link(_)
            | Self::Port(_) => None,
            Self::Address(dev, _)
            | Self::Flood(dev, _)
            | Self::VxlanFdb(dev, _)
            | Self::BridgeFdb(dev, _)
            | Self::Neigh(dev, _) => Some(dev),
        }
    }
}

impl fmt::Display for ObjectKey {
    /// What it is, for people: `neighbour 10.9.0.5 on ovb4097`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firewall => write!(f, "nftables table inet {NFT_TABLE}"),
            Self::PortRules => write!(f, "nftables table bridge {NFT_TABLE}"),
            Self::Nat => write!(f, "nftables table inet {NAT_TABLE}"),
            Self::Guard(name) => write!(f, "nftables elements of {name}"),
            Self::Link(name) => write!(f, "link {name}"),
            Self::Port(name) => write!(f, "port {name}"),
            Self::Address(dev, net) => write!(f, "address {net} on {dev}"),
            Self::Flood(dev, vtep) => write!(f, "broadcast destination {vtep} of {dev}"),
            Self::VxlanFdb(dev, mac) | Self::BridgeFdb(dev, mac) => {
                write!(f, "FDB entry {mac} of {dev}")
            }
            Self::Neigh(dev, ip) => write!(f, "neighbour {ip} on {dev}"),
        }
    }
}

/// One thing in the kernel, under its [`ObjectKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// Under [`ObjectKey::Link`]. Boxed: links are few, and entries many.
    Link(Box<Link>),
    /// Under [`ObjectKey::Port`].
    Port(Port),
    /// Under [`ObjectKey::Address`]: being there is all there is to say.
    Address,
    /// Under [`ObjectKey::Flood`]: likewise.
    Flood,
    /// Under [`ObjectKey::VxlanFdb`]: frames for the MAC go to this VTEP.
    VxlanFdb {
        /// Outer destination address.
        dst: IpAddr,
    },
    /// Under [`ObjectKey::BridgeFdb`]: frames for the MAC leave by this port.
    BridgeFdb {
        /// The bridge port.
        port: IfName,
        /// Marked `extern_learn`: behind the VXLAN device. Local ones are not.
        extern_learn: bool,
    },
    /// Under [`ObjectKey::Neigh`]: the address has this MAC.
    Neigh {
        /// Link-layer address.
        mac: MacAddr,
    },
    /// Under [`ObjectKey::Firewall`].
    /// Boxed: there is one, and entries are many.
    Firewall(Box<Firewall>),
    /// Under [`ObjectKey::PortRules`].
    PortRules {
        /// They stand otherwise than we write them: never wanted.
        altered: bool,
    },
    /// Under [`ObjectKey::Nat`].
    Nat(Translation),
    /// Under [`ObjectKey::Guard`].
    Guard(Box<Guard>),
}

/// What the host takes and forwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firewall {
    /// Our bridges: what is routed between two different ones is dropped.
    pub bridges: BTreeSet<IfName>,
    /// UDP port that VXLAN is received on.
    pub vxlan_port: u16,
    /// Port that gossip is received on, by whatever address of this host.
    pub gossip_port: u16,
    /// Where VXLAN packets of our networks may come from: the other hosts.
    pub vteps: BTreeSet<IpAddr>,
    /// Where the other hosts receive gossip: no container gets there.
    pub gossip: BTreeSet<SocketAddr>,
    /// Which ports of this host containers get to.
    pub access: Access,
    /// It stands otherwise than we write it: never wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub altered: bool,
}

/// Whose frames a port lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The only MAC that it may send from.
    pub mac: MacAddr,
    /// The addresses that it may send from, and announce.
    pub addresses: BTreeSet<IpAddr>,
    /// It stands otherwise than we write it: never wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub altered: bool,
}

impl Guard {
    /// The IPv6 addresses: its own, and the link-local one that its MAC makes
    /// (RFC 4291, appendix A), if it has any of its own.
    pub fn ipv6(&self) -> BTreeSet<Ipv6Addr> {
        let own = self.addresses.iter().filter_map(|ip| match ip {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        let mut all: BTreeSet<Ipv6Addr> = own.collect();
        if !all.is_empty() {
            all.insert(self.mac.link_local());
        }
        all
    }
}

/// A link of ours, as it should be or as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Whose link it is: `ifalias` says `overlayd:<NetworkId>`.
    pub network: NetworkId,
    /// The host whose it is, which `ifalias` of a bridge says as well: for one that has lost its
    /// state file. Nothing while two machines claim to be that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// MTU, bytes.
    pub mtu: u16,
    /// Ethernet address; set in the create message, because systemd's
    /// `MACAddressPolicy=persistent` rewrites any that the kernel chose.
    pub mac: MacAddr,
    /// Administratively up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub master: Option<IfName>,
    /// Bridge port flags; `None` for a link without master.
    pub port: Option<PortFlags>,
    /// Settings that stand otherwise than we make them: none is wanted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub altered: BTreeSet<Setting>,
    /// What it is.
    pub kind: LinkKind,
}

/// A setting of a link that never differs by our doing, and without which
/// packets go astray. What is wanted of each says [`Setting::command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Setting {
    /// Of any link: link-local addresses would be looked for and reported.
    AddrGenMode,
    /// Of a bridge: groups would be sent to who has reported them only.
    McastSnooping,
    /// Of a bridge: our entries are without VLAN, and would no longer count.
    VlanFiltering,
    /// Of a bridge: ports would listen for a while before they forward.
    Stp,
    /// Of a VXLAN device: a packet with a false sender would move an entry.
    Learning,
    /// Of a VXLAN device: who writes the checksums of what it carries is not
    /// who the operator, or what is known of the network card, says.
    TxChecksum,
    /// Of a bridge port: frames to unknown stations would stay.
    Flood,
    /// Of a bridge port: frames to groups would stay.
    McastFlood,
    /// Of a bridge port: broadcast would stay.
    BcastFlood,
    /// Of a bridge port: unknown stations would be cut off.
    Locked,
}

impl Setting {
    /// As we make it, in the words of `ip link` or, for a port, `bridge link`.
    pub fn command(self) -> &'static str {
        match self {
            Self::AddrGenMode => "addrgenmode none",
            Self::McastSnooping => "type bridge mcast_snooping 0",
            Self::VlanFiltering => "type bridge vlan_filtering 0",
            Self::Stp => "type bridge stp_state 0",
            Self::Learning => "type vxlan nolearning",
            Self::TxChecksum => "(tx-checksum-ip-generic, by ethtool -K)",
            Self::Flood => "flood on",
            Self::McastFlood => "mcast_flood on",
            Self::BcastFlood => "bcast_flood on",
            Self::Locked => "locked off",
        }
    }

    /// It belongs to a bridge's port, and goes when the link leaves its bridge.
    pub fn of_port(self) -> bool {
        match self {
            Self::AddrGenMode
            | Self::McastSnooping
            | Self::VlanFiltering
            | Self::Stp
            | Self::Learning
            | Self::TxChecksum => false,
            Self::Flood | Self::McastFlood | Self::BcastFlood | Self::Locked => true,
        }
    }
}

/// A device that is not ours as a port of a bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The endpoint behind it.
    pub endpoint: EndpointId,
    /// Interface index: tells the device from another one of its name.
    pub index: u32,
    /// The bridge of ours; `None` when another hand has taken it out.
    pub bridge: Option<IfName>,
    /// Flags of the port; `None` without a bridge.
    pub flags: Option<PortFlags>,
    /// Administratively up.
    pub up: bool,
    /// It was up before it was attached, and so it stays when it is released.
    pub was_up: bool,
}

/// Flags of a bridge port that we set or rely on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFlags {
    /// The bridge learns source MACs from this port.
    pub learning: bool,
    /// The bridge answers ARP and ND for what is behind this port, and does
    /// not send out of it what it has answered or knows to be local.
    pub neigh_suppress: bool,
    /// Nothing passes between two such ports: between the two VXLAN devices of
    /// a network, as no VTEP passes on what another has sent it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Frames may go out where they came in: to an endpoint that asks for its own
    /// published port, where `br_netfilter` leads them back before the host sees them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hairpin: bool,
}

/// What a link is, with the attributes that cannot be changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    /// A bridge: `addrgenmode none`, multicast snooping off.
    Bridge,
    /// A VXLAN device: `nolearning`, `addrgenmode none`.
    Vxlan {
        /// Network identifier.
        vni: Vni,
        /// UDP destination port.
        port: u16,
        /// The VTEP's own address; another of its family may take its place.
        local: IpAddr,
        /// The outer headers; some of it may be changed ([`Outer::can_become`]).
        #[serde(default, skip_serializing_if = "Outer::is_default")]
        outer: Outer,
    },
    /// The host's end of a container's veth pair, `addrgenmode none`.
    ///
    /// The peer is known when we make it and cannot be read back from here, so
    /// it counts for nothing when two links are compared.
    Veth {
        /// The container's end, boxed; `None` in what was read from a kernel.
        peer: Option<Box<VethPeer>>,
    },
}

/// The container's end of a veth pair, complete: made, addressed and up when
/// the operation that makes the pair returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VethPeer {
    /// The container's network namespace.
    pub netns: NetnsRef,
    /// Name inside it.
    pub ifname: IfName,
    /// Ethernet address: the endpoint's.
    pub mac: MacAddr,
    /// MTU, bytes.
    pub mtu: u16,
    /// Addresses with the prefix length of their subnet.
    pub addresses: Vec<IpNet>,
    /// Default routes to set, at most one a family.
    pub gateways: Vec<IpAddr>,
}

/// A network namespace: where it is found, and a number that tells it from
/// another one found there later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRef {
    /// A bind mount under `/run/netns`, `/proc/<pid>/ns/net`, or the like.
    pub path: PathBuf,
    /// `SO_NETNS_COOKIE` of it: never used again until the machine boots.
    pub cookie: u64,
}

/// What a kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// What is ours.
    pub objects: Objects,
    /// What is not, as far as we must keep out of its way.
    pub foreign: Foreign,
}

/// What is not ours in a kernel, as far as we must keep out of its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// VXLAN devices that hold a VNI and port.
    pub vxlans: Vec<ForeignVxlan>,
    /// Names of links that look like ours but are not.
    pub squatters: BTreeSet<IfName>,
    /// Destinations of the host's routes with the device of each; the default
    /// routes are left out.
    pub routes: Vec<(IpNet, IfName)>,
    /// MTU of each link, bytes; at most 65535.
    pub mtus: BTreeMap<IfName, u16>,
    /// Each link, for whoever wants to attach it.
    pub devices: BTreeMap<IfName, Device>,
}

/// A link that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Ethernet address, if it has one: a link that can be a port of a bridge.
    pub mac: Option<MacAddr>,
    /// Administratively up.
    pub up: bool,
    /// Name of the link that it belongs to.
    pub master: Option<String>,
}

/// A VXLAN device that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignVxlan {
    /// Its name.
    pub name: IfName,
    /// Its VNI; `None` for a device that takes every VNI of its port
    /// (`external` without `vnifilter`).
    pub vni: Option<Vni>,
    /// Its UDP destination port.
    pub port: u16,
    /// The network namespace that it is in when that is not the daemon's own.
    pub netns: Option<String>,
}

/// A change that the kernel told of by itself, or that a dump found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelChange {
    /// This object of ours is now so; `None`: it is gone, with all that stood
    /// on it. And whose hand it was, if that is not ours and the kernel tells.
    Object(ObjectKey, Option<Object>, Option<Box<Hand>>),
    /// Everything: what is not in it is not in the kernel.
    Snapshot(Box<KernelState>),
    /// Notifications were lost: a snapshot follows.
    Overrun,
    /// Everything is being read, beside what is told: what is told from now on
    /// is newer than what will have been read.
    Reading,
    /// What [`KernelChange::Reading`] has read. It counts for nothing if a
    /// snapshot came in between.
    Read(Box<KernelState>),
}

/// Who changed something, as far as the kernel tells: the netlink port that a
/// request came from, or the process. For FDB entries it tells neither.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hand {
    /// Netlink port id; often the process id of the program.
    pub port: Option<u32>,
    /// Process id, where one was found that has this port.
    pub pid: Option<u32>,
    /// Name of that process.
    pub program: Option<String>,
}

impl fmt::Display for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.program, self.pid, self.port) {
            (Some(program), Some(pid), _) => write!(f, "{program} (pid {pid})"),
            (Some(program), None, _) => f.write_str(program),
            (None, Some(pid), _) => write!(f, "pid {pid}"),
            (None, None, Some(port)) => {
                write!(f, "netlink port {port}, whose process has ended")
            }
            (None, None, None) => f.write_str("nobody knows"),
        }
    }
}

/// What to set on a link that stays: only what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    /// What `ifalias` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// MTU, bytes.
    pub mtu: Option<u16>,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
    /// Administratively up or down.
    pub up: Option<bool>,
    /// The VTEP's own address, of a VXLAN device; of the family that it had.
    pub local: Option<IpAddr>,
    /// The outer headers of a VXLAN device, as far as it can become so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
    /// The bridge to become a port of.
    pub master: Option<IfName>,
    /// Bridge port flags, set after the master.
    pub port: Option<PortFlags>,
    /// Settings to be as we make them, set last.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restore: BTreeSet<Setting>,
}

/// One operation on the kernel. Present already and gone already are success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelOp {
    /// Make a link with everything that it has, or make nothing.
    AddLink(IfName, Box<Link>),
    /// Change a link of ours.
    SetLink(IfName, LinkChange),
    /// Delete a link of ours, and with it all that stands on it.
    DelLink(IfName),
    /// Make or replace anything that is not a link of ours.
    Put(ObjectKey, Object),
    /// Delete anything that is not a link of ours; a port is released. The object is as it was, for the
    /// text of the command.
    Del(ObjectKey, Object),
}

impl KernelOp {
    /// The object that it is about.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::AddLink(name, _) | Self::SetLink(name, _) | Self::DelLink(name) => {
                ObjectKey::Link(name.clone())
            }
            Self::Put(key, _) | Self::Del(key, _) => key.clone(),
        }
    }
}

/// What came of a plan: all operations were tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// How many operations took effect.
    pub done: usize,
    /// The others.
    pub failed: Vec<OpFailure>,
}

/// An address that has another MAC now, which those on a bridge are to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The bridge.
    pub bridge: IfName,
    /// The address.
    pub ip: IpAddr,
    /// Its MAC from now on.
    pub mac: MacAddr,
}

/// An operation that took no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpFailure {
    /// Which.
    pub op: KernelOp,
    /// Why, as a reason that code can tell apart.
    pub refusal: Refusal,
    /// The kernel's error number by its name (`ENODEV`), if it was the kernel
    /// that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// Why, in the kernel's words and ours, one line.
    pub text: String,
}

/// Why an operation took no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The network namespace of the peer is not there any more.
    NetnsGone,
    /// A thing of that name, or that VNI and port, is held by somebody else;
    /// the text names it.
    Taken,
    /// The device that was attached is not there any more, or another one has
    /// its name.
    DeviceGone,
    /// The interface name exists in the container's namespace.
    PeerNameTaken,
    /// The link that it stands on is not there (it was deleted meanwhile).
    NoDevice,
    /// We lack the privilege.
    Permission,
    /// The kernel is short of something for now (`EBUSY`, `ENOBUFS`, `EAGAIN`).
    Busy,
    /// Anything else.
    Other,
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

impl fmt::Display for KernelOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink(name, link) => fmt_add_link(f, name, link),
            Self::SetLink(name, change) => fmt_set_link(f, name, change),
            Self::DelLink(name) => write!(f, "ip link del {name}"),
            Self::Put(key, object) => fmt_entry(f, "replace", key, object),
            Self::Del(key, object) => fmt_entry(f, "del", key, object),
        }
    }
}

fn fmt_add_link(f: &mut fmt::Formatter<'_>, name: &IfName, link: &Link) -> fmt::Result {
    write!(f, "ip link add {name} address {} mtu {}", link.mac, link.mtu)?;
    if let Some(master) = &link.master {
        write!(f, " master {master}")?;
    }
    write!(f, " addrgenmode none alias {}", Quoted(&alias_of(link.network, link.host)))?;
    if link.up {
        f.write_str(" up")?;
    }
    match &link.kind {
        LinkKind::Bridge => f.write_str(" type bridge mcast_snooping 0")?,
        LinkKind::Vxlan { vni, port, local, outer } => {
            write!(f, " type vxlan id {vni} dstport {port} local {local} nolearning{outer}")?;
        }
        LinkKind::Veth { peer } => {
            f.write_str(" type veth")?;
            if let Some(p) = peer {
                write!(
                    f,
                    " peer name {} netns {} address {} mtu {}",
                    p.ifname,
                    p.netns.path.display(),
                    p.mac,
                    p.mtu
                )?;
            }
        }
    }
    fmt_port(f, name, link.port)?;
    if let LinkKind::Veth { peer: Some(p) } = &link.kind {
        let ns = p.netns.path.display();
        for address in &p.addresses {
            write!(f, " && ip -n {ns} addr add {address} dev {}", p.ifname)?;
        }
        write!(f, " && ip -n {ns} link set {} up", p.ifname)?;
        for gateway in &p.gateways {
            write!(f, " && ip -n {ns} route add default via {gateway} dev {}", p.ifname)?;
        }
    }
    Ok(())
}

/// A word of a command, as a shell wants it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(' ') { write!(f, "'{}'", self.0) } else { f.write_str(self.0) }
    }
}

fn fmt_port(f: &mut fmt::Formatter<'_>, name: &IfName, port: Option<PortFlags>) -> fmt::Result {
    let Some(port) = port else { return Ok(()) };
    write!(
        f,
        " && bridge link set dev {name} learning {} neigh_suppress {}",
        on_off(port.learning),
        on_off(port.neigh_suppress)
    )?;
    // They are off on a port that is new.
    if port.isolated {
        f.write_str(" isolated on")?;
    }
    if port.hairpin { f.write_str(" hairpin on") } else { Ok(()) }
}

fn fmt_set_link(f: &mut fmt::Formatter<'_>, name: &IfName, change: &LinkChange) -> fmt::Result {
    let LinkChange { alias, mtu, mac, up, local, outer, master, port, restore } = change;
    let mut commands = Vec::new();
    let mut text = String::new();
    if let Some(alias) = alias {
        text += &format!(" alias {}", Quoted(alias));
    }
    if let Some(mac) = mac {
        text += &format!(" address {mac}");
    }
    if let Some(mtu) = mtu {
        text += &format!(" mtu {mtu}");
    }
    if let Some(master) = master {
        text += &format!(" master {master}");
    }
    if let Some(up) = up {
        text += if *up { " up" } else { " down" };
    }
    if local.is_some() || outer.is_some() {
        text += " type vxlan";
    }
    if let Some(local) = local {
        text += &format!(" local {local}");
    }
    if let Some(Outer { df, ttl, dscp, .. }) = outer {
        text += &format!(" df {df} ttl {ttl} tos {:#04x}", dscp.tos());
    }
    // One command each, as far as `ip` does not take two kinds in one.
    if !text.is_empty() {
        commands.push(format!("ip link set {name}{text}"));
    }
    let of_link = restore.iter().filter(|setting| !setting.of_port());
    commands.extend(of_link.map(|setting| format!("ip link set {name} {}", setting.command())));
    let mut port_text = String::new();
    if let Some(port) = port {
        port_text += &format!(
            " learning {} neigh_suppress {} isolated {} hairpin {}",
            on_off(port.learning),
            on_off(port.neigh_suppress),
            on_off(port.isolated),
            on_off(port.hairpin)
        );
    }
    for setting in restore.iter().filter(|setting| setting.of_port()) {
        port_text += &format!(" {}", setting.command());
    }
    if !port_text.is_empty() {
        commands.push(format!("bridge link set dev {name}{port_text}"));
    }
    if commands.is_empty() {
        commands.push(format!("ip link set {name}"));
    }
    f.write_str(&commands.join(" && "))
}

fn fmt_port_op(f: &mut fmt::Formatter<'_>, put: bool, name: &IfName, port: &Port) -> fmt::Result {
    let mark = port_mark(port.endpoint, port.was_up);
    let Some(bridge) = port.bridge.as_ref().filter(|_| put) else {
        let down = if port.was_up { "" } else { " down" };
        return write!(
            f,
            "ip link set {name} nomaster{down} && ip link property del dev {name} altname {mark}"
        );
    };
    let up = if port.up { " up" } else { "" };
    write!(
        f,
        "ip link property add dev {name} altname {mark} && ip link set {name} master {bridge}{up}"
    )?;
    fmt_port(f, name, port.flags)
}

fn fmt_entry(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    key: &ObjectKey,
    object: &Object,
) -> fmt::Result {
    let put = verb == "replace";
    match (key, object) {
        (ObjectKey::Firewall, Object::Firewall(firewall)) => {
            if !put {
                return write!(f, "nft delete table inet {NFT_TABLE}");
            }
            write!(f, "nft replace table inet {NFT_TABLE} # isolates")?;
            firewall.bridges.iter().try_for_each(|b| write!(f, " {b}"))?;
            write!(f, "; VXLAN from {}", firewall.vteps.len())
        }
        (ObjectKey::PortRules, _) => {
            let verb = if put { "replace" } else { "delete" };
            write!(f, "nft {verb} table bridge {NFT_TABLE}")
        }
        (ObjectKey::Nat, Object::Nat(translation)) => {
            if !put {
                return write!(f, "nft delete table inet {NAT_TABLE}");
            }
            write!(f, "nft replace table inet {NAT_TABLE}")?;
            let Some(nat) = &translation.nat else { return Ok(()) };
            f.write_str(" # masquerades")?;
            nat.subnets.iter().try_for_each(|subnet| write!(f, " {subnet}"))?;
            write!(f, "; {} ports lead to endpoints", nat.forwards.len())
        }
        (ObjectKey::Guard(name), Object::Guard(guard)) => {
            let verb = if put { "add" } else { "delete" };
            write!(f, "nft {verb} element bridge {NFT_TABLE} # {name}: {}", guard.mac)?;
            guard.addresses.iter().try_for_each(|ip| write!(f, " {ip}"))
        }
        (ObjectKey::Port(name), Object::Port(port)) => fmt_port_op(f, put, name, port),
        (ObjectKey::Address(dev, net), _) => write!(f, "ip addr {verb} {net} dev {dev}"),
        (ObjectKey::Flood(dev, dst), _) => {
            let verb = if put { "append" } else { "del" };
            write!(f, "bridge fdb {verb} {} dev {dev} dst {dst} self permanent", MacAddr::ZERO)
        }
        (ObjectKey::VxlanFdb(dev, mac), Object::VxlanFdb { dst }) => {
            write!(f, "bridge fdb {verb} {mac} dev {dev} dst {dst} self")?;
            if put { f.write_str(" permanent") } else { Ok(()) }
        }
        (ObjectKey::BridgeFdb(_, mac), Object::BridgeFdb { port, extern_learn }) => {
            write!(f, "bridge fdb {verb} {mac} dev {port} master")?;
            if put {
                f.write_str(" static")?;
                if *extern_learn {
                    f.write_str(" extern_learn")?;
                }
            }
            Ok(())
        }
        (ObjectKey::Neigh(dev, ip), Object::Neigh { mac }) => {
            if put {
                write!(f, "ip neigh replace {ip} lladdr {mac} dev {dev} nud permanent extern_learn")
            } else {
                write!(f, "ip neigh del {ip} dev {dev}")
            }
        }
        (ObjectKey::Link(name), _) => write!(f, "# {verb} of link {name} is not an entry"),
        (key, object) => write!(f, "# {verb} of {key:?} as {object:?}"),
    }
}

#[cfg(test)]
mod tests;
