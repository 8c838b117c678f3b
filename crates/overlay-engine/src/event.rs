//! The two closed enums that are the engine's interface: what happens to it,
//! and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Not;
use std::time::Duration;

use ipnet::IpNet;
use overlay_model::{
    AddressRange, Announcement, ApplyReport, ClusterEvent, Endpoint, EndpointId, Family, Fate,
    Foreign, HostId, HostKeys, IfName, KernelChange, KernelOp, MacAddr, Name, NetnsRef, Network,
    NetworkId, ObjectKey, Publish, Record, RecordKey, RingToken, Service, Vni,
};

use serde::{Deserialize, Serialize};

use crate::audit::{AuditView, RangesView, SubnetView};
use crate::kept::Kept;
use crate::moves::{FrozenView, Moved, frozen_text};
use crate::names::NameNews;
use crate::network_changes::{ChangeNetwork, DetachedOn};
use crate::publish::{ChangePorts, PortView};
use crate::repairs::{Contest, Repair};
use crate::reserved::Reserve;
use crate::services::{CreateService, ServiceView};
use crate::views::{EndpointView, EntryView, HostView, NetworkView, PlanView, StatusView, Table};

/// What time it is, said by the caller with every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Since some fixed point, never going back: what delays are measured by.
    pub mono: Duration,
    /// Wall clock, milliseconds since 1970: may jump; used in stamps only.
    pub wall_ms: u64,
}

/// Ties a [`Effect::Reply`] to its [`Event::Request`].
pub type Token = u64;

/// Ties an [`Event::Applied`] to its [`Effect::Apply`].
pub type PlanId = u64;

/// Something happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// Somebody asks through the API.
    Request {
        /// Comes back with the reply; unique.
        token: Token,
        /// Random bits for ids that the request makes.
        fresh: u64,
        /// What is asked.
        request: Box<Request>,
    },
    /// News from gossip.
    Cluster(ClusterEvent),
    /// News from the kernel.
    Kernel(KernelChange),
    /// A plan was carried out; the news of its effects came before this.
    Applied {
        /// Which.
        plan: PlanId,
        /// How it went.
        report: ApplyReport,
    },
    /// A [`Effect::Persist`] is on disk, or could not be written.
    Persisted {
        /// Which.
        id: u64,
        /// The reason if it could not be written.
        result: Result<(), String>,
    },
    /// The cluster keys of this host are others now: says so to the cluster.
    Keys(HostKeys),
    /// How this host is reached may be another than it was.
    Underlay {
        /// The VTEP's address, of the same family as before; of either if the
        /// host is to have both.
        addr: IpAddr,
        /// The IPv6 address beside it, and the device that has that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        other: Option<(IpAddr, IfName)>,
        /// The device that has it.
        dev: IfName,
        /// Bytes of IP packet that it takes; the lesser of two devices.
        mtu: u16,
        /// Where gossip is received.
        gossip: SocketAddr,
    },
    /// The VTEP's address is on no device, and there is none to take its place.
    UnderlayLost {
        /// What there is, and what to do.
        why: String,
    },
    /// Gossip has begun anew: all that stands will be told again.
    Rejoined {
        /// Of this host, from now on.
        incarnation: u64,
    },
    /// [`Engine::next_deadline`](crate::Engine::next_deadline) has come.
    Tick,
}

/// Something is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Effect {
    /// Write to the state file in one durable transaction, then say
    /// [`Event::Persisted`].
    Persist {
        /// Ties the answer to it.
        id: u64,
        /// What to write.
        changes: Vec<StateChange>,
    },
    /// Publish (`Some`) or withdraw (`None`) own records.
    Publish(Vec<(RecordKey, Option<Record>)>),
    /// Perform these operations, then say [`Event::Applied`].
    Apply {
        /// Ties the report to it.
        plan: PlanId,
        /// In order.
        ops: Vec<KernelOp>,
    },
    /// Tell the containers of this host that an address has another MAC: the
    /// entries are there, but caches of containers nobody writes.
    Announce(Vec<Announcement>),
    /// Tell the resolver.
    Names(Vec<NameNews>),
    /// Answer a request.
    Reply {
        /// Which.
        token: Token,
        /// The answer.
        result: Result<Reply, Refused>,
    },
    /// Hold these ports of the host, and no others, so that no other program gets them.
    Hold(Vec<Publish>),
    /// Tell operators: log it, show it to watchers.
    Notice(Notice),
    /// The host has left the cluster: flush gossip and end the daemon.
    Exit,
}

/// What is asked through the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Create a network.
    CreateNetwork(CreateNetwork),
    /// Change a network.
    ChangeNetwork(ChangeNetwork),
    /// Remove a network, by name or id.
    RemoveNetwork(String),
    /// The same, and all endpoints that it has.
    ForceRemoveNetwork(String),
    /// List networks.
    Networks,
    /// Show a network, by name or id.
    Network(String),
    /// Attach a namespace or a device, or take a static endpoint in.
    Attach(Attach),
    /// Take many static endpoints in, all or none.
    Import(Import),
    /// Detach an endpoint of this host, by name, id or MAC.
    Detach {
        /// Name, id or MAC.
        target: String,
        /// Name or id of its network, when the name is not unique.
        net: Option<String>,
    },
    /// Ports are to lead to an endpoint of this host, or no longer.
    ChangePorts {
        /// Its name, id or MAC.
        target: String,
        /// Name or id of its network, when the name is not unique.
        net: Option<String>,
        /// Which.
        change: ChangePorts,
    },
    /// Another name, other aliases or labels for an endpoint of this host.
    ChangeEndpoint {
        /// Its name, id or MAC.
        target: String,
        /// Name or id of its network, when the name is not unique.
        net: Option<String>,
        /// What.
        change: ChangeEndpoint,
    },
    /// Hold an address for an attach.
    Reserve(Reserve),
    /// It is not needed.
    Unreserve {
        /// Name or id of its network.
        net: String,
        /// Which.
        ip: IpAddr,
    },
    /// Create a service.
    CreateService(CreateService),
    /// Remove one.
    RemoveService {
        /// Its name.
        name: String,
        /// Name or id of its network, when the name is not unique.
        net: Option<String>,
    },
    /// List services.
    Services {
        /// Of this network only.
        net: Option<String>,
    },
    /// List the ports that this host takes.
    Ports,
    /// What the rules have counted; the caller knows.
    Firewall,
    /// Lift what was frozen because it moved too often.
    Thaw {
        /// A MAC or an address.
        what: String,
        /// Name or id of its network; all networks when left out.
        net: Option<String>,
    },
    /// Let the addresses go that this host keeps for a name.
    ForgetIp {
        /// Name or id of the network.
        net: String,
        /// For whom.
        name: Name,
    },
    /// Give an address back that no endpoint of this host has.
    Release {
        /// Name or id of its network.
        net: String,
        /// Which.
        ip: IpAddr,
    },
    /// Say how much of each subnet is used.
    Subnets,
    /// Show who owns which addresses of a network, by name or id.
    Ranges(String),
    /// Look at all that must hold of addresses.
    Audit {
        /// Of this network only.
        net: Option<String>,
        /// Do what is safe.
        repair: bool,
    },
    /// The same, answered when the state file has it: what the kernel holds goes a
    /// moment later.
    DetachAtOnce {
        /// Name or id.
        target: String,
        /// Its network.
        net: Option<String>,
    },
    /// List endpoints.
    Endpoints {
        /// Of this network only.
        net: Option<String>,
        /// Of this host only.
        local: bool,
    },
    /// List endpoints that have a label.
    Labelled {
        /// Of this network only.
        net: Option<String>,
        /// Of this host only.
        local: bool,
        /// Which label.
        label: String,
        /// Only with this value.
        value: Option<String>,
    },
    /// List hosts.
    Hosts,
    /// How the daemon is.
    Status,
    /// FDB or neighbour entries beside what they should be.
    Entries {
        /// Which tables.
        tables: Vec<Table>,
        /// Of this network only.
        net: Option<String>,
    },
    /// What would be done now.
    Plan,
    /// Let another host take over what one that is gone for good owned.
    ForgetHost(ForgetHost),
    /// Take no new endpoint on this host, or do so again.
    Drain(bool),
    /// Leave the cluster.
    Leave {
        /// Although endpoints are attached here.
        force: bool,
    },
}

/// A host that is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetHost {
    /// Its name or id.
    pub host: String,
    /// The operator vouches that its machine is off.
    pub dead: bool,
    /// Without the votes of the others.
    pub force: bool,
}

/// How far a host has been forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgetting {
    /// Its name.
    pub host: String,
    /// What it owned is another's now.
    pub done: bool,
    /// Whose vote is missing.
    pub waits_for: Vec<String>,
    /// Those who are to vote are more than half of the cluster: else it cannot be
    /// forgotten by votes.
    pub majority: bool,
}

/// A network to create: `None` and empty are chosen by the engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateNetwork {
    /// Name.
    pub name: Option<Name>,
    /// VNI.
    pub vni: Option<Vni>,
    /// At most one a family.
    pub subnets: Vec<IpNet>,
    /// Families of which a subnet is to be chosen; with no subnet either, that
    /// is IPv4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub free: Vec<Family>,
    /// At most one a family, each in a subnet.
    pub gateways: Vec<IpAddr>,
    /// Bytes of inner IP packet.
    pub mtu: Option<u16>,
    /// No gateway, no way out.
    pub internal: bool,
    /// Do not replicate broadcast.
    pub no_flood: bool,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Never leased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// Where addresses are chosen from; at most one a family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<AddressRange>,
    /// Only if there is none of that name, and one in the whole cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// What the kernel holds that is not ours, read just now.
    pub foreign: Foreign,
}

/// What an endpoint is to stand behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Where {
    /// A veth pair of ours into a namespace.
    Netns {
        /// The namespace, which was there just now.
        netns: NetnsRef,
        /// Interface names in it.
        taken_ifnames: BTreeSet<IfName>,
        /// Interface inside; the first free `eth<n>`.
        ifname: Option<IfName>,
        /// Set a default route if the network has a gateway.
        default_route: bool,
        /// Answer no names in it: it has a resolver of its own.
        #[serde(default, skip_serializing_if = "Not::not")]
        no_dns: bool,
    },
    /// A device of this host that somebody else made.
    Device(IfName),
    /// Nothing of ours.
    Static,
}

/// An endpoint to attach: `None` and empty are chosen by the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attach {
    /// Name or id of the network.
    pub net: String,
    /// What it stands behind.
    pub place: Where,
    /// At most one a family. A static endpoint has these and no more; if
    /// none is given, and for other families otherwise, free ones are taken.
    pub ips: Vec<IpAddr>,
    /// Ethernet address; must be given unless the place is a namespace.
    pub mac: Option<MacAddr>,
    /// Name in DNS.
    pub name: Option<Name>,
    /// Further names.
    pub aliases: BTreeSet<Name>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Ports that are to lead to it; none of them 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Publish>,
    /// What another host has of this moves here, instead of being refused; what
    /// is left out is as it was there. See `moves.rs`.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub take_over: bool,
    /// Its addresses and its MAC stay with its name on this host when it is
    /// detached. See `kept.rs`.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub keep_ip: bool,
    /// Its addresses were reserved ([`Reserve`]), and are all that it gets.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub reserved: bool,
    /// What the kernel holds that is not ours; needed only when
    /// [`Engine::needs_foreign`](crate::Engine::needs_foreign) says so.
    pub foreign: Foreign,
}

/// What is to be otherwise with an endpoint; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEndpoint {
    /// Its name in DNS.
    pub name: Option<Name>,
    /// Its further names, all of them.
    pub aliases: Option<BTreeSet<Name>>,
    /// Its labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
}

/// One of many static endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticEndpoint {
    /// Ethernet address: what tells it from others of its network.
    pub mac: MacAddr,
    /// At least one, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Name in DNS.
    pub name: Option<Name>,
    /// Further names.
    pub aliases: BTreeSet<Name>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
}

/// Static endpoints to take in, all or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// Name or id of the network.
    pub net: String,
    /// They are all static endpoints that this host has on the network: those
    /// that differ are changed, those that are not among them removed.
    pub replace: bool,
    /// What other hosts have of them moves here, instead of being refused.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub take_over: bool,
    /// Which.
    pub endpoints: Vec<StaticEndpoint>,
    /// As in [`Attach`].
    pub foreign: Foreign,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Reply {
    /// One network.
    Network(Box<NetworkView>),
    /// A network that was removed, as it was.
    Removed {
        /// It.
        network: Box<NetworkView>,
        /// Endpoints that went with it, by host.
        detached: Vec<DetachedOn>,
    },
    /// What was kept, and is no longer.
    Kept(Kept),
    /// Networks by name.
    Networks(Vec<NetworkView>),
    /// One endpoint.
    Endpoint(Box<EndpointView>),
    /// One service.
    Service(Box<ServiceView>),
    /// Services by network and name.
    Services(Vec<ServiceView>),
    /// Ports that this host takes, by number.
    Ports(Vec<PortView>),
    /// The caller knows the rest.
    Firewall,
    /// Endpoints by network, host and name.
    Endpoints(Vec<EndpointView>),
    /// What was frozen and is so no longer.
    Thawed(Vec<FrozenView>),
    /// The address is held.
    Reserved {
        /// Its network.
        net: Name,
        /// It, with the length of its subnet's prefix.
        ip: IpNet,
        /// How long.
        held: Duration,
    },
    /// An address has been given back.
    Released {
        /// Its network.
        net: Name,
        /// Which.
        ip: IpAddr,
    },
    /// Subnets by network.
    Subnets(Vec<SubnetView>),
    /// The subnets of a network.
    Ranges(Vec<RangesView>),
    /// What an audit has found.
    Audited(AuditView),
    /// Hosts by name, this one first.
    Hosts(Vec<HostView>),
    /// How the daemon is.
    Status(Box<StatusView>),
    /// Entries by device, table and key.
    Entries(Vec<EntryView>),
    /// What would be done.
    Plan(PlanView),
    /// What came of an import.
    Imported {
        /// New ones.
        added: usize,
        /// Those that have changed.
        changed: usize,
        /// Those that are gone.
        removed: usize,
        /// Those that were so already.
        unchanged: usize,
    },
    /// How far a host has been forgotten.
    Forgetting(Forgetting),
    /// The host takes no new endpoint, or does so again.
    Drained {
        /// It takes none.
        drained: bool,
        /// Endpoints that are attached here.
        endpoints: usize,
    },
    /// The host leaves.
    Leaving {
        /// Endpoints that stay attached here.
        endpoints: usize,
    },
}

/// What is wrong with a request, for code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ErrorKind {
    /// Makes no sense as it stands.
    Invalid,
    /// No such thing.
    NotFound,
    /// Held by somebody else.
    Taken,
    /// Still in use.
    InUse,
    /// No address is free, or no place for another key.
    Exhausted,
    /// A live host could not be talked to any more.
    LocksOut,
    /// This host's underlay or kernel cannot do it.
    Unsupported,
    /// The kernel refused.
    Kernel,
    /// Not now.
    Unavailable,
}

/// A request was refused. The engine's state is as before; what the kernel
/// held of it is gone again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// For code.
    pub kind: ErrorKind,
    /// For people: one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What is wrong with single items of a list, the first of them.
    pub details: Vec<Detail>,
}

/// What is wrong with one item of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Which, from 0.
    pub index: usize,
    /// Another one that it collides with.
    pub also: Option<usize>,
    /// For people: one line.
    pub message: String,
}

impl Refused {
    /// A refusal without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, details: Vec::new() }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What an endpoint of this host stands behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A veth pair of ours.
    Netns {
        /// The container's namespace.
        netns: NetnsRef,
        /// The interface inside.
        ifname: IfName,
        /// It got a default route.
        default_route: bool,
        /// No names are answered in it.
        #[serde(default, skip_serializing_if = "Not::not")]
        no_dns: bool,
    },
    /// A device that somebody else made, and that is a port while it is attached.
    Device {
        /// Its name.
        ifname: IfName,
        /// Its interface index: tells it from another one of its name.
        index: u32,
        /// It was up before.
        was_up: bool,
    },
    /// Nothing of ours: frames for it find their way by themselves.
    Static,
}

/// An endpoint of this host, with what only this host knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct LocalEndpoint {
    /// What the cluster is told.
    pub endpoint: Endpoint,
    /// What it stands behind.
    pub place: Place,
    /// In which boot of the machine that was seen.
    pub boot_id: String,
    /// Where it is now, if it has moved away: then it is published no more, and
    /// its port is closed until it is detached.
    pub moved: Option<Moved>,
}

impl LocalEndpoint {
    /// What of it the kernel holds under a key of its own: its port.
    pub(crate) fn port_key(&self) -> Option<ObjectKey> {
        match &self.place {
            Place::Netns { .. } => Some(ObjectKey::Link(self.endpoint.id.ifname())),
            Place::Device { ifname, .. } => Some(ObjectKey::Port(ifname.clone())),
            Place::Static => None,
        }
    }

    /// The bridge port that frames for it leave by, if that is known.
    pub fn port(&self) -> Option<IfName> {
        match &self.place {
            Place::Netns { .. } => Some(self.endpoint.id.ifname()),
            Place::Device { ifname, .. } => Some(ifname.clone()),
            Place::Static => None,
        }
    }
}

/// A [`LocalEndpoint`] as it is written: the fields of a namespace as they
/// were when there was nothing else.
#[derive(Serialize, Deserialize)]
struct Written {
    endpoint: Endpoint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<NetnsRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ifname: Option<IfName>,
    #[serde(default)]
    default_route: bool,
    #[serde(default, skip_serializing_if = "Not::not")]
    no_dns: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<WrittenDevice>,
    boot_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<Moved>,
}

#[derive(Serialize, Deserialize)]
struct WrittenDevice {
    ifname: IfName,
    index: u32,
    was_up: bool,
}

impl From<LocalEndpoint> for Written {
    fn from(local: LocalEndpoint) -> Self {
        let LocalEndpoint { endpoint, place, boot_id, moved } = local;
        let mut written = Self {
            endpoint,
            netns: None,
            ifname: None,
            default_route: false,
            no_dns: false,
            device: None,
            boot_id,
            moved,
        };
        match place {
            Place::Netns { netns, ifname, default_route, no_dns } => {
                written.netns = Some(netns);
                written.ifname = Some(ifname);
                written.default_route = default_route;
                written.no_dns = no_dns;
            }
            Place::Device { ifname, index, was_up } => {
                written.device = Some(WrittenDevice { ifname, index, was_up });
            }
            Place::Static => {}
        }
        written
    }
}

impl TryFrom<Written> for LocalEndpoint {
    type Error = &'static str;
    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { endpoint, netns, ifname, default_route, no_dns, device, boot_id, moved } =
            written;
        let place = match (netns, ifname, device) {
            (Some(netns), Some(ifname), None) => {
                Place::Netns { netns, ifname, default_route, no_dns }
            }
            (None, None, Some(WrittenDevice { ifname, index, was_up })) => {
                Place::Device { ifname, index, was_up }
            }
            (None, None, None) => Place::Static,
            _ => return Err("an endpoint that stands in two places"),
        };
        Ok(Self { endpoint, place, boot_id, moved })
    }
}

/// One change of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum StateChange {
    /// Write a network, tombstones included.
    Network(Network),
    /// Write an endpoint of this host.
    Endpoint(Box<LocalEndpoint>),
    /// Remove an endpoint of this host.
    DropEndpoint(EndpointId),
    /// Write a ring token.
    Ring(NetworkId, Family, u128, RingToken),
    /// Remove all ring tokens of a network.
    DropRing(NetworkId),
    /// Remove a ring token.
    DropToken(NetworkId, Family, u128),
    /// Write that a host is one of the cluster, or is not any more.
    Member(HostId, bool),
    /// Write, or remove, what this host says of one that is away.
    Fate(HostId, Option<Fate>),
    /// Write that this host takes no new endpoint, or does.
    Drained(bool),
    /// Write when it was last in touch with most of the cluster, milliseconds
    /// since 1970.
    Contact(u64),
    /// Write a service, tombstones included.
    Service(Service),
    /// Write what is kept for a name.
    Kept(Kept),
    /// Remove it.
    DropKept(NetworkId, Name),
    /// Write that what was lost with a state file is found again.
    Recovered,
}

/// Something that operators should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Notice {
    /// A host is in another state.
    Host {
        /// Its name, or its id.
        host: String,
        /// `up`, `suspect`, `stopped`, `down`, `left`.
        state: &'static str,
        /// How many endpoints of it are known.
        endpoints: usize,
    },
    /// The entries of a host were taken out of use, or put back.
    Entries {
        /// Its name, or its id.
        host: String,
        /// In use now.
        in_use: bool,
        /// How many endpoints.
        endpoints: usize,
    },
    /// An endpoint of another host was heard of, or withdrawn by its host.
    /// That the entries of a whole host come and go is [`Notice::Entries`].
    Elsewhere {
        /// Which.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Its network, or the id of one that is not known here.
        net: String,
        /// Its host.
        host: String,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// It is there; else it has gone.
        there: bool,
    },
    /// A network was created, changed, or removed somewhere.
    Network {
        /// Its name.
        name: Name,
        /// Its VNI.
        vni: Vni,
        /// `created`, `changed`, `removed`.
        what: &'static str,
    },
    /// Two networks hold one VNI or name.
    NetworkConflict {
        /// The one that is not programmed.
        loser: Name,
        /// Why: names the other. `None`: it is over.
        why: Option<String>,
    },
    /// The network of an endpoint of this host is not programmed.
    CutOff {
        /// Which.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Its network.
        net: Name,
        /// Why. `None`: it is over.
        why: Option<String>,
    },
    /// Two endpoints hold one MAC or address.
    EndpointConflict {
        /// What is held twice.
        what: String,
        /// The endpoint of this host that lost.
        loser: EndpointId,
        /// The host that won.
        winner: String,
    },
    /// An endpoint of this host is attached.
    Attached {
        /// Which.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Its network.
        net: Name,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Static endpoints of this host were taken in, changed or removed.
    Imported {
        /// Their network.
        net: Name,
        /// New ones.
        added: usize,
        /// Those that have changed.
        changed: usize,
        /// Those that are gone.
        removed: usize,
    },
    /// Something about an attached device that its owner should know.
    Device {
        /// Which.
        ifname: IfName,
        /// What, and what to do.
        what: String,
    },
    /// Other ports lead to an endpoint of this host.
    Ports {
        /// Which.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Those that have come.
        published: Vec<Publish>,
        /// Those that have gone.
        withdrawn: Vec<Publish>,
    },
    /// An endpoint of this host has another name, other aliases or labels.
    Renamed {
        /// Which.
        id: EndpointId,
        /// Its name as it was.
        before: Option<Name>,
        /// Its name now.
        name: Option<Name>,
        /// Its aliases now.
        aliases: BTreeSet<Name>,
    },
    /// A service was created or removed somewhere.
    Service {
        /// Its name.
        name: Name,
        /// Its network.
        net: Name,
        /// `created`, `removed`.
        what: &'static str,
    },
    /// The host can have no address of its own on a network whose ports it takes.
    NoOwnAddress {
        /// Why.
        why: String,
    },
    /// An endpoint of this host is detached.
    Detached {
        /// Which.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Why.
        why: &'static str,
    },
    /// The namespace of an endpoint of this host is gone. [`Notice::Detached`]
    /// follows, when it is released or another takes its place.
    Gone {
        /// Which.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Its network.
        net: String,
        /// Its addresses, which stay leased.
        addresses: Vec<IpAddr>,
        /// How long it is kept.
        grace: Duration,
    },
    /// An endpoint has moved between this host and another one.
    Moved {
        /// Which, here.
        id: EndpointId,
        /// Its name.
        name: Option<Name>,
        /// Its network.
        net: String,
        /// The other host.
        host: String,
        /// Which move of it that was.
        seq: u32,
        /// It is here now; else it was.
        here: bool,
    },
    /// A MAC or address moves too often: its entries stay as they are, until
    /// [`Notice::Thawed`].
    Frozen(FrozenView),
    /// What was frozen follows again.
    Thawed {
        /// What it was.
        frozen: FrozenView,
        /// Why.
        why: &'static str,
    },
    /// Two hosts are called the same. Both work: names are for people.
    SameName {
        /// What they are called.
        name: Name,
        /// Where VXLAN packets for the one and the other go to.
        addrs: [String; 2],
        /// It is over.
        over: bool,
    },
    /// Two machines claim one identity: a copied state directory.
    Doubled {
        /// The host's name, or its id.
        host: String,
        /// The identity.
        id: HostId,
        /// Where the machines gossip; empty: it is over.
        addrs: Vec<SocketAddr>,
        /// The state directory, as it is on this host.
        state_dir: String,
    },
    /// The address or the MTU of this host's underlay is another.
    Underlay {
        /// The device.
        dev: IfName,
        /// The VTEP addresses.
        addrs: Vec<IpAddr>,
        /// What they were; the same if only the MTU changed.
        before: Vec<IpAddr>,
        /// Bytes of IP packet.
        mtu: u16,
    },
    /// A host and this one have no VTEP address of one family: no packet goes
    /// from the one to the other.
    Apart {
        /// Its name, or its id.
        host: String,
        /// What each has, and what to do; `None`: it is over.
        why: Option<String>,
    },
    /// The VTEP address is on no device any more.
    UnderlayLost {
        /// It.
        addr: IpAddr,
        /// What there is instead, and what to do.
        why: String,
    },
    /// The view is complete: from now on stale entries are deleted.
    ViewComplete {
        /// `heard every live host`, or `waited alone`.
        why: &'static str,
    },
    /// An operation was refused.
    KernelRefused {
        /// As an operator would type it.
        command: String,
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// Another hand had changed something of ours, and it has been put back.
    Repaired(Repair),
    /// Another hand changes an object again and again: it is put back less
    /// often from now on.
    Fight(Contest),
    /// Nobody changes that object any more.
    FightOver(Contest),
    /// The kernel dropped notifications: everything is read again.
    Overrun,
    /// Addresses were given to another host.
    Donated {
        /// Of which network.
        net: Name,
        /// How many addresses.
        count: u128,
        /// To whom.
        to: String,
    },
    /// A host was forgotten: what it owned is another's now.
    Forgotten {
        /// Its name, or its id; `None`: nobody was known to own what was taken over.
        host: Option<String>,
        /// Who has taken over.
        by: String,
        /// How many addresses, if that was this host; else 0.
        addresses: u128,
    },
    /// This host had been forgotten while it was away, and has taken note of that.
    WasForgotten,
    /// This host takes no new endpoint, or does so again.
    Drained {
        /// It takes none.
        drained: bool,
    },
    /// A subnet runs out of addresses, or does so no longer.
    Crowded {
        /// Its network.
        net: Name,
        /// How many there are, and where to look.
        text: String,
        /// There is room again.
        over: bool,
    },
    /// An address was given back that was leased and that no endpoint had.
    Released {
        /// Its network.
        net: Name,
        /// Which.
        ip: IpAddr,
    },
    /// This host has lost its state file, and finds again what it had.
    Recovery {
        /// `waiting`, `found`, `over`.
        stage: &'static str,
        /// How far it is, and what to do.
        text: String,
    },
    /// The state file could not be written.
    NotPersisted {
        /// Why.
        why: String,
    },
}

/// How much a [`Notice`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever looks closely: there may be thousands.
    Detail,
    /// For operators.
    Info,
    /// Needs somebody's attention.
    Warning,
}

impl Notice {
    /// How much it matters.
    pub fn level(&self) -> Level {
        let warning_if = |bad| if bad { Level::Warning } else { Level::Info };
        match self {
            Self::Elsewhere { .. } => Level::Detail,
            Self::Host { state, .. } => warning_if(*state == "down" || *state == "suspect"),
            Self::Entries { in_use, .. } => warning_if(!in_use),
            Self::EndpointConflict { .. }
            | Self::KernelRefused { .. }
            | Self::Device { .. }
            | Self::Gone { .. }
            | Self::Repaired(_)
            | Self::Fight(_)
            | Self::Frozen(_)
            | Self::Overrun
            | Self::UnderlayLost { .. }
            | Self::WasForgotten
            | Self::NoOwnAddress { .. }
            | Self::NotPersisted { .. } => Level::Warning,
            Self::NetworkConflict { why, .. } | Self::CutOff { why, .. } => {
                warning_if(why.is_some())
            }
            Self::Recovery { stage, .. } => warning_if(*stage == "waiting"),
            Self::SameName { over, .. } | Self::Crowded { over, .. } => warning_if(!over),
            Self::Apart { why, .. } => warning_if(why.is_some()),
            Self::Doubled { addrs, .. } => warning_if(!addrs.is_empty()),
            Self::Network { .. }
            | Self::Underlay { .. }
            | Self::Attached { .. }
            | Self::Ports { .. }
            | Self::Renamed { .. }
            | Self::Service { .. }
            | Self::Imported { .. }
            | Self::Detached { .. }
            | Self::Moved { .. }
            | Self::Thawed { .. }
            | Self::ViewComplete { .. }
            | Self::FightOver(_)
            | Self::Forgotten { .. }
            | Self::Drained { .. }
            | Self::Released { .. }
            | Self::Donated { .. } => Level::Info,
        }
    }
}

fn named(f: &mut fmt::Formatter<'_>, id: &EndpointId, name: Option<&Name>) -> fmt::Result {
    match name {
        Some(name) => write!(f, "endpoint {id} {name}"),
        None => write!(f, "endpoint {id}"),
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, state, endpoints } => {
                write!(f, "host {host} is {state} ({endpoints} endpoints)")
            }
            Self::Entries { host, in_use: true, endpoints } => {
                write!(f, "the entries of host {host} are in use ({endpoints} endpoints)")
            }
            Self::Entries { host, in_use: false, endpoints } => {
                write!(f, "the entries of host {host} are out of use ({endpoints} endpoints)")
            }
            Self::Elsewhere { id, name, net, host, addresses, there } => {
                named(f, id, name.as_ref())?;
                write!(f, " of {net} is {} host {host}:", if *there { "on" } else { "gone from" })?;
                addresses.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Self::Network { name, vni, what } => write!(f, "network {name} (VNI {vni}) {what}"),
            Self::NetworkConflict { loser, why: Some(why) } => {
                write!(f, "network {loser} is not programmed: {why}")
            }
            Self::NetworkConflict { loser, why: None } => {
                write!(f, "network {loser} is programmed again: nothing else holds its VNI or name")
            }
            Self::CutOff { id, name, net, why } => {
                named(f, id, name.as_ref())?;
                match why {
                    Some(why) => write!(f, " is cut off, for {net} is not programmed: {why}"),
                    None => write!(f, " is connected again, for {net} is programmed again"),
                }
            }
            Self::EndpointConflict { what, loser, winner } => {
                write!(f, "endpoint {loser} lost {what} to an endpoint on host {winner}")
            }
            Self::Attached { id, name, net, addresses } => {
                f.write_str("attached ")?;
                named(f, id, name.as_ref())?;
                write!(f, " to {net}:")?;
                addresses.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Self::Imported { net, added, changed, removed } => write!(
                f,
                "static endpoints of {net}: {added} added, {changed} changed, {removed} removed"
            ),
            Self::Ports { id, name, published, withdrawn } => {
                named(f, id, name.as_ref())?;
                let list = |f: &mut fmt::Formatter<'_>, what: &str, ports: &[Publish]| {
                    if !ports.is_empty() {
                        f.write_str(what)?;
                    }
                    ports.iter().try_for_each(|port| write!(f, " {port}"))
                };
                list(f, ": publishes", published)?;
                list(f, ": publishes no longer", withdrawn)
            }
            Self::Renamed { id, before, name, aliases } => {
                named(f, id, before.as_ref())?;
                match name {
                    Some(name) => write!(f, ": is called {name} now")?,
                    None => f.write_str(": has no name")?,
                }
                let aliases: Vec<&str> = aliases.iter().map(Name::as_str).collect();
                if !aliases.is_empty() {
                    write!(f, ", also {}", aliases.join(", "))?;
                }
                Ok(())
            }
            Self::Service { name, net, what } => write!(f, "service {name} of {net} {what}"),
            Self::NoOwnAddress { why } => write!(
                f,
                "this host passes nothing on to endpoints of other hosts, for it has no address \
                 there: {why}"
            ),
            Self::Device { ifname, what } => write!(f, "device {ifname}: {what}"),
            Self::Detached { id, name, why } => {
                f.write_str("detached ")?;
                named(f, id, name.as_ref())?;
                write!(f, ": {why}")
            }
            Self::Gone { id, name, net, addresses, grace } => {
                named(f, id, name.as_ref())?;
                write!(
                    f,
                    " of {net} has lost its network namespace; kept for {} s:",
                    grace.as_secs()
                )?;
                addresses.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Self::Moved { id, name, net, host, seq, here } => {
                named(f, id, name.as_ref())?;
                let to = if *here { "here from" } else { "away, to" };
                write!(f, " of {net} has moved {to} host {host} (move {seq})")?;
                if !here {
                    f.write_str(": whatever is left of it here is cut off until it is detached")?;
                }
                Ok(())
            }
            Self::Frozen(frozen) => f.write_str(&frozen_text(frozen)),
            Self::Thawed { frozen: FrozenView { what, net, .. }, why } => {
                write!(f, "{} of {net} may move again: {why}", what.join(" "))
            }
            Self::SameName { name, addrs: [a, b], over: false } => {
                write!(f, "two hosts are called {name}, {a} and {b}: give each its own --name")
            }
            Self::SameName { name, addrs: [a, b], over: true } => {
                write!(f, "{a} and {b} are no longer two hosts called {name}")
            }
            Self::Doubled { host, id, addrs, .. } if addrs.is_empty() => {
                write!(f, "host {host} ({}) is one machine again", id.short())
            }
            Self::Doubled { host, id, addrs, state_dir } => {
                write!(f, "{}", doubled_text(host, *id, addrs, state_dir))
            }
            Self::Underlay { dev, addrs, before, mtu } if addrs == before => {
                write!(f, "the underlay is {} on {dev}, its MTU {mtu}", and(addrs))
            }
            Self::Underlay { dev, addrs, before, mtu } => {
                let (before, now) = (and(before), and(addrs));
                write!(f, "the underlay moved from {before} to {now} on {dev}, MTU {mtu}")
            }
            Self::Apart { host, why: Some(why) } => {
                write!(f, "host {host} and this one cannot reach each other: {why}")
            }
            Self::Apart { host, why: None } => {
                write!(f, "host {host} and this one have an address family in common now")
            }
            Self::UnderlayLost { addr, why } => {
                write!(f, "the VTEP address {addr} is gone: {why}")
            }
            Self::ViewComplete { why } => write!(f, "the view is complete: {why}"),
            Self::KernelRefused { command, reason, retry_in } => {
                write!(f, "kernel refused `{command}`: {reason}; next try in {retry_in:?}")
            }
            Self::Repaired(repair) => fmt_repair(f, repair),
            Self::Fight(contest) => {
                write!(f, "{}; from now on it is put back less and less often", fight_text(contest))
            }
            Self::FightOver(contest) => write!(
                f,
                "nobody changes {} any more; it was put back {} times",
                contest.object, contest.repairs
            ),
            Self::Overrun => f.write_str(
                "the kernel dropped notifications, more came than fit: everything is read again",
            ),
            Self::Donated { net, count, to } => {
                write!(f, "gave {count} addresses of {net} to host {to}")
            }
            Self::Forgotten { host: Some(host), by, addresses: 0 } => {
                write!(f, "host {host} is forgotten: host {by} has taken its addresses over")
            }
            Self::Forgotten { host: Some(host), addresses, .. } => {
                write!(f, "took over {addresses} addresses of host {host}, which is forgotten")
            }
            Self::Forgotten { host: None, addresses, .. } => {
                write!(f, "took over {addresses} addresses that nobody was known to own")
            }
            Self::WasForgotten => f.write_str(
                "this host was forgotten while it was away: its free addresses are others' now",
            ),
            Self::Drained { drained: true } => f.write_str("drained: takes no new endpoint"),
            Self::Drained { drained: false } => f.write_str("takes new endpoints again"),
            Self::Crowded { text, .. } | Self::Recovery { text, .. } => f.write_str(text),
            Self::Released { net, ip } => {
                write!(f, "gave {ip} of {net} back: it was leased, and no endpoint had it")
            }
            Self::NotPersisted { why } => write!(f, "cannot write the state file: {why}"),
        }
    }
}

fn fmt_repair(f: &mut fmt::Formatter<'_>, repair: &Repair) -> fmt::Result {
    let Repair { object, found, command, objects, after, hand, read, times } = repair;
    write!(f, "put back {object}")?;
    if *objects > 1 {
        write!(f, " and {} more objects", objects - 1)?;
    }
    let (after, found) = (after.as_millis(), found.as_str());
    match hand {
        Some(hand) => write!(f, ", {after} ms after it was {found} by {hand}")?,
        None if *read => write!(f, ", {found} without the kernel telling")?,
        None => write!(f, ", {after} ms after it was {found}; the kernel does not tell by whom")?,
    }
    if *times > 1 {
        write!(f, "; {times} times in 10 s")?;
    }
    write!(f, ": `{command}`")
}

/// Says who fights over what.
pub(crate) fn fight_text(contest: &Contest) -> String {
    let by = match &contest.hand {
        Some(hand) => format!(", last by {hand}"),
        None => ", by whom the kernel does not tell".to_owned(),
    };
    format!(
        "{} is changed by another hand each time it is put back ({} times so far{by}): find what \
         else configures it",
        contest.object, contest.repairs
    )
}

/// Says that two machines claim one identity, and how to end it.
pub(crate) fn doubled_text(
    host: &str,
    id: HostId,
    addrs: &[SocketAddr],
    state_dir: &str,
) -> String {
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    format!(
        "{} machines claim to be host {host} ({}): {}; is one a copy? stop overlayd on the copy, \
         delete its state directory ({state_dir} here), and start it",
        addrs.len(),
        id.short(),
        addrs.join(" and ")
    )
}

/// Addresses, for people.
fn and(addrs: &[IpAddr]) -> String {
    let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    texts.join(" and ")
}

/// What the engine keeps of [`HostId`]s that it cannot name yet.
pub(crate) fn host_text(id: HostId, name: Option<&Name>) -> String {
    name.map_or_else(|| id.short(), ToString::to_string)
}
