//! Version 1 of the contract: the JSON bodies.
//!
//! Addresses, ids, names and MACs are text, as people write them. Times are
//! milliseconds since 1970, and durations milliseconds. Unknown fields in a
//! request are an error: a misspelt option must not be silently ignored. What is
//! not asked for is therefore not sent, so that an older daemon takes all
//! requests of a newer client that it can serve.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Not;
use std::str::FromStr;

use ipnet::IpNet;
use overlay_model::AddressRange;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// What is wrong, for code; the text of an [`Error`] is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense as it stands: 400.
    InvalidRequest,
    /// The caller may not use this socket, or not in this way: 403.
    Forbidden,
    /// No such network, endpoint, namespace or path: 404.
    NotFound,
    /// A name, VNI, address, MAC or interface name is taken: 409.
    Taken,
    /// The network still has endpoints, or the host does: 409.
    InUse,
    /// No address is free, or no place for another key: 409.
    Exhausted,
    /// A live host could not be talked to any more: 409.
    LocksOut,
    /// The underlay or the kernel of this host cannot do it: 422.
    Unsupported,
    /// The kernel refused: 500.
    KernelRefused,
    /// The daemon starts, stops, or waits for another host: 503. Try again.
    Unavailable,
    /// A bug of ours: 500.
    Internal,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Taken | Self::InUse | Self::Exhausted | Self::LocksOut => 409,
            Self::Unsupported => 422,
            Self::KernelRefused | Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// The body of every failure. Nothing has changed when one is returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// For code.
    pub code: ErrorCode,
    /// For people: one line, says what was attempted with which values, and why not.
    pub message: String,
    /// What to do about it, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Of a list: what is wrong with single items, at most 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Detail>,
}

impl Error {
    /// Without a hint or details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, details: Vec::new() }
    }

    /// The same, with what to do about it.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What is wrong with one item of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detail {
    /// Which, from 0.
    pub index: usize,
    /// Another one that it collides with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<usize>,
    /// For people: one line.
    pub message: String,
}

/// Creates a network. Everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateNetwork {
    /// DNS label; `net-<vni>` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// 1 to 16777215; a free one from 4097 upward when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// At most one a family: each a CIDR, or `ipv4` or `ipv6` for one that is
    /// free, 10.x.y.0/24 or a unique local fd…::/64; `ipv4` when empty.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<WantedSubnet>,
    /// In one of the subnets; its first address when left out.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Bytes of inner IP packet, 1280 to 65465. When left out 1450, or 1430 if a
    /// host of the cluster has an IPv6 VTEP address only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// No gateway, no way out.
    #[serde(skip_serializing_if = "Not::not")]
    pub internal: bool,
    /// Do not replicate broadcast and multicast to other hosts.
    #[serde(skip_serializing_if = "Not::not")]
    pub no_flood: bool,
    /// Free text for people and tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Addresses that are never leased, not even when they are asked for: each
    /// an address, `FIRST-LAST`, or a CIDR.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// Where addresses are chosen from if an attach says none, at most one a
    /// family; anywhere in the subnet when left out. Written like `exclude`.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<AddressRange>,
    /// Only if the cluster has none of that name, and one in the whole cluster:
    /// hosts that ask for the same at the same time get one network. One that is
    /// there and has the VNI and the subnets asked for is replied as it is.
    /// Needs `name`.
    #[serde(skip_serializing_if = "Not::not")]
    pub once: bool,
}

/// A subnet to create a network with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedSubnet {
    /// This one.
    Cidr(IpNet),
    /// One of IPv4 that is free.
    Ipv4,
    /// One of IPv6 that is free.
    Ipv6,
}

impl From<IpNet> for WantedSubnet {
    fn from(cidr: IpNet) -> Self {
        Self::Cidr(cidr)
    }
}

impl fmt::Display for WantedSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(cidr) => cidr.fmt(f),
            Self::Ipv4 => f.write_str("ipv4"),
            Self::Ipv6 => f.write_str("ipv6"),
        }
    }
}

/// The text is no [`WantedSubnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a subnet; write an address and a prefix length like 10.0.9.0/24, or ipv4 or ipv6 \
     for one that is free"
)]
pub struct InvalidSubnet(pub String);

impl FromStr for WantedSubnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        match text {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => text.parse().map(Self::Cidr).map_err(|_| InvalidSubnet(text.to_owned())),
        }
    }
}

impl Serialize for WantedSubnet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WantedSubnet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// 16 hex digits.
    pub id: String,
    /// DNS label.
    pub name: String,
    /// VXLAN Network Identifier.
    pub vni: u32,
    /// At most one a family.
    pub subnets: Vec<Subnet>,
    /// Bytes of inner IP packet.
    pub mtu: u16,
    /// No gateway, no way out.
    pub internal: bool,
    /// Broadcast and multicast are replicated to the hosts that use it.
    pub flood: bool,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Never leased.
    #[schema(value_type = Vec<String>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// Where addresses are chosen from if an attach says none.
    #[schema(value_type = Vec<String>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<AddressRange>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Name of the host that created it, if known here, else its id.
    pub created_by: String,
    /// Endpoints known here, on all hosts.
    pub endpoints: usize,
    /// Of these, how many are on this host.
    pub local_endpoints: usize,
    /// Set when another network holds its VNI or name by an older claim: this
    /// one is not programmed. Says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// Addresses that this host keeps for names, whether attached or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
}

/// Addresses that stay with a name on a network and a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kept {
    /// Whose they are.
    pub name: String,
    /// The MAC that goes with them.
    pub mac: String,
    /// At most one a family.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpAddr>,
}

/// Changes a network. What is left out stays as it is; name, VNI, subnets,
/// gateways, ranges, MTU and flooding cannot change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeNetwork {
    /// Labels to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Keys of labels to remove.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unlabel: Vec<String>,
    /// Addresses to exclude, as in [`CreateNetwork`]; refused if an endpoint has
    /// one of them.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// Addresses that are not to be excluded any more.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<AddressRange>,
    /// No gateway, no way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<bool>,
    /// Whatever else a network has, so that it can be refused by its name.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<serde_json::Value>,
    /// See `name`.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<serde_json::Value>,
    /// See `name`.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<serde_json::Value>,
    /// See `name`.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateways: Option<serde_json::Value>,
    /// See `name`.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_ranges: Option<serde_json::Value>,
    /// See `name`.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<serde_json::Value>,
    /// See `name`.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_flood: Option<serde_json::Value>,
}

/// A network that was deleted, as it was, and what went with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// The network.
    #[serde(flatten)]
    pub network: Network,
    /// Endpoints that were detached by force, by host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<DetachedOn>,
}

/// Endpoints of one host that went with their network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetachedOn {
    /// Name of the host, if known here, else its id.
    pub host: String,
    /// How many.
    pub endpoints: usize,
    /// The host cannot be reached now: they go when it is back.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub later: bool,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// Network address and prefix length.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// The gateway, the same on every host; kept free, though unused, on an internal network.
    #[schema(value_type = String)]
    pub gateway: IpAddr,
}

/// Attaches something to a network: a network namespace (`netns` or `pid`), a
/// device of the host (`device`), or nothing that is here (`static`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Attach {
    /// Name or id of the network.
    pub net: String,
    /// A path (has a `/`), or a name under `/run/netns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// A process in the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// A device of the host that becomes a port of the network's bridge, such as
    /// a VM's tap: `mac` is that of the station behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The station is reached by ways that are not ours; `mac` must be given.
    #[serde(rename = "static", skip_serializing_if = "Not::not")]
    pub is_static: bool,
    /// At most one a family; chosen when left out. With `static`, those given
    /// are all that there are.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Derived from the IPv4 address when left out; needed with `device` and `static`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// DNS label, unique in the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further DNS labels, which other endpoints may share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Free text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The interface inside the namespace; the first free `eth<n>` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Do not set a default route, even on a network that has a gateway.
    #[serde(skip_serializing_if = "Not::not")]
    pub no_default_route: bool,
    /// Ports that are to lead to it, each `[IP:]HOSTPORT:PORT[/tcp|udp|sctp][,mode=cluster]`;
    /// ranges as `8000-8009`, host port 0 for any free one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Answer no names at 127.0.0.11 in the namespace: it has a resolver of its own.
    #[serde(skip_serializing_if = "Not::not")]
    pub no_dns: bool,
    /// What another host has of this moves here, whether that host is up or not,
    /// instead of being refused as `taken`. What is left out of `mac`, `ips`,
    /// `name`, `aliases` and `labels` is as it was there; one of the first three
    /// must be said.
    #[serde(skip_serializing_if = "Not::not")]
    pub take_over: bool,
    /// Its addresses and its MAC stay with its name on this host when it is
    /// detached; the next attach of that name here gets the same, whether it says
    /// this or not, until `DELETE /v1/networks/{net}/kept/{name}`. Needs `name`.
    #[serde(skip_serializing_if = "Not::not")]
    pub keep_ip: bool,
    /// `ips` were held by `POST /v1/ipam/{net}/reserve`, and are all that it gets.
    #[serde(skip_serializing_if = "Not::not")]
    pub reserved: bool,
}

/// Another name, other aliases or labels for an endpoint; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeEndpoint {
    /// DNS label, unique in the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further DNS labels, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<String>>,
    /// Free text, all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Takes many static endpoints in, all or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Import {
    /// Name or id of the network.
    pub net: String,
    /// They are all static endpoints of this host on the network: those that
    /// differ are changed, those that are not among them removed. They are told
    /// apart by their MACs.
    #[serde(skip_serializing_if = "Not::not")]
    pub replace: bool,
    /// What other hosts have of them moves here, instead of being refused as
    /// `taken`.
    #[serde(skip_serializing_if = "Not::not")]
    pub take_over: bool,
    /// Which.
    pub endpoints: Vec<StaticEndpoint>,
}

/// A station that is reached behind this host by ways that are not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StaticEndpoint {
    /// Its Ethernet address.
    pub mac: String,
    /// At least one, at most one a family.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// DNS label, unique in the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further DNS labels, which other endpoints may share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Free text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// New ones.
    pub added: usize,
    /// Those that have changed.
    pub changed: usize,
    /// Those that are gone.
    pub removed: usize,
    /// Those that were so already.
    pub unchanged: usize,
}

/// An endpoint: an attached namespace or device, or a static one, here or on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// 12 hex digits.
    pub id: String,
    /// DNS label.
    pub name: Option<String>,
    /// Name of its network.
    pub net: String,
    /// VNI of its network.
    pub vni: u32,
    /// Ethernet address.
    pub mac: String,
    /// With the prefix length of the subnet.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpNet>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Ports of its host, or of every host (`mode=cluster`), that lead to it, as
    /// [`Attach::publish`] has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Name of the host it is on.
    pub host: String,
    /// It is on this host.
    pub local: bool,
    /// VTEP address that its frames go to.
    #[schema(value_type = String)]
    pub vtep: Option<IpAddr>,
    /// Milliseconds since 1970.
    pub attached_ms: u64,
    /// How often it has moved between hosts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moves: u32,
    /// `ready`, `pending` (not yet in the kernel), `failed`, `host-down` (its
    /// host has been down beyond the grace: no entries), `unreachable` (its host
    /// and this one have no address family in common: no entries), `conflict`
    /// (another endpoint holds its MAC or address), `moved` (another host has
    /// taken it over: what is left of it here is cut off until it is detached), or
    /// `gone` (its network namespace is: it is released after the daemon's
    /// `leak-grace`, unless it is attached again by its name).
    pub state: String,
    /// Why, when the state is not `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its addresses stay with its name on this host when it is detached; set
    /// when local.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub kept: bool,
    /// Since when it is `gone`, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
    /// The port of the bridge, when local and known: the host's end of the veth
    /// pair, or the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<String>,
    /// The interface inside the namespace, when local and in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// The namespace, when local and in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Bytes of inner IP packet that its network carries, when local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The gateways of its network, when local; none on an internal one.
    #[schema(value_type = Vec<String>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// What belongs into the container's `/etc/resolv.conf`: in the reply to an
    /// attach, unless it said `no_dns` or the daemon answers no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
}

/// Leads more ports to an endpoint of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Publish {
    /// As in [`Attach::publish`].
    pub ports: Vec<String>,
}

/// A port that this host takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// What was published, as [`Attach::publish`] has it.
    pub published: String,
    /// `host`: this one takes it; `cluster`: every host does.
    pub mode: String,
    /// Id of the endpoint that published it.
    pub endpoint: String,
    /// Its name.
    pub name: Option<String>,
    /// Its network.
    pub net: Option<String>,
    /// Its host.
    pub host: String,
    /// Where the first of the ports leads to from here.
    #[schema(value_type = Vec<String>)]
    pub to: Vec<SocketAddr>,
    /// Connections so far.
    pub connections: u64,
    /// Why it does not work, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What the rules of the kernel have done so far, and what of the host's settings
/// is otherwise for their sake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Firewall {
    /// Connections that were sent elsewhere or got another address.
    pub translated: Vec<Translated>,
    /// What was dropped.
    pub dropped: Vec<Dropped>,
    /// Settings that `overlayd teardown` gives back, one line each.
    pub settings: Vec<String>,
}

/// How many connections were sent elsewhere or got another address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Translated {
    /// `8080/tcp` and `192.0.2.1:8080/tcp`: a port of the host, or a virtual
    /// address; `masquerade IPv4`, `masquerade IPv6`: on their way out.
    pub what: String,
    /// How many.
    pub connections: u64,
}

/// Creates a service: an address whose connections are spread over all endpoints that
/// share an alias.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateService {
    /// DNS label, unique among services and endpoints of the network.
    pub name: String,
    /// Name or id of the network.
    pub net: String,
    /// The alias; the name when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Ports, each `PORT[:TARGET][/tcp|udp|sctp]`; at least one.
    pub ports: Vec<String>,
    /// At most one a family; chosen when left out, one for each subnet.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<IpAddr>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// 16 hex digits.
    pub id: String,
    /// DNS label.
    pub name: String,
    /// Name of its network.
    pub net: String,
    /// Whose holders are behind it.
    pub alias: String,
    /// As [`CreateService::ports`] has them.
    pub ports: Vec<String>,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub vips: Vec<IpAddr>,
    /// Endpoints behind it that connections from this host go to.
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<IpAddr>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Why it does not work, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// UUID.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// This host.
    pub local: bool,
    /// `up`, `suspect` (silent, entries stay), `stopped` (its daemon stopped
    /// in good order, entries stay), `down` or `left`.
    pub state: String,
    /// How long it has been so, milliseconds.
    pub since_ms: u64,
    /// Its entries are in use (false: down beyond the grace, or left).
    pub entries_in_use: bool,
    /// It is drained: it takes no new endpoint. Hosts of before there was this do not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// VTEP addresses.
    #[schema(value_type = Vec<String>)]
    pub vteps: Vec<IpAddr>,
    /// UDP port for VXLAN.
    pub vxlan_port: u16,
    /// Gossip address and port.
    pub gossip: String,
    /// Bytes of IP packet.
    pub underlay_mtu: u16,
    /// Endpoints on it that are known here.
    pub endpoints: usize,
    /// Its software.
    pub version: String,
    /// Which life of it; grows at every start.
    pub incarnation: u64,
    /// Ids of the cluster keys that it says it has; none if gossip is not sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// The one that it seals with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_used: Option<String>,
    /// How long ago its heartbeat last moved, milliseconds; not of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_ms: Option<u64>,
    /// Round trip of gossip, smoothed, microseconds, where it has been measured.
    /// It includes what the two daemons take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// How long ago it was last measured, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_age_ms: Option<u64>,
    /// Messages from its address that were refused here, by kind as in
    /// [`RefusedFrom`]; not of this host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
    /// How often somebody at its address said that it cannot open ours.
    #[serde(default)]
    pub refuses_us: u64,
    /// Records of it that could not be read, since the daemon started.
    #[serde(default)]
    pub undecodable: u64,
    /// What an operator should know of it, one line each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Gives this host a further cluster key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddKey {
    /// As `overlayd keygen` prints it: base64 of 32 bytes. Secret.
    #[schema(format = Password)]
    pub key: String,
}

impl std::fmt::Debug for AddKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddKey { key: <secret> }")
    }
}

/// Seals with another key from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UseKey {
    /// Although a live host lacks it.
    #[serde(skip_serializing_if = "Not::not")]
    pub force: bool,
}

/// A cluster key, by its id, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// 8 hex digits.
    pub id: String,
    /// This host has it.
    pub here: bool,
    /// This host seals with it.
    pub used: bool,
    /// Names of the other hosts that are up or suspect and have it.
    pub held_by: Vec<String>,
    /// Those of them that seal with it.
    pub used_by: Vec<String>,
    /// Those that do not have it, or do not say.
    pub lacking: Vec<String>,
}

/// How this daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// This host.
    pub host: Host,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// Hosts known here, by state.
    pub hosts: BTreeMap<String, usize>,
    /// Networks known here.
    pub networks: usize,
    /// Endpoints known here, on all hosts.
    pub endpoints: usize,
    /// Of these, how many are on this host.
    pub local_endpoints: usize,
    /// False while too little is known to delete anything from the kernel.
    pub view_complete: bool,
    /// How often the desired state has changed.
    pub desired_revision: u64,
    /// The revision that the kernel holds.
    pub applied_revision: u64,
    /// Things the kernel should hold.
    pub desired_objects: usize,
    /// Operations that wait or are under way.
    pub pending: usize,
    /// What is on its way into the kernel, the first twenty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_objects: Vec<PendingObject>,
    /// Objects that the kernel refused, with the reason.
    pub failed: Vec<FailedObject>,
    /// What another hand had changed and was put back, the last ten, the newest
    /// last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
    /// What another hand changes each time it is put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fights: Vec<Fight>,
    /// What moved too often, and stays where it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<Frozen>,
    /// Gossip that was refused of addresses that belong to no host, the last
    /// refused first.
    #[serde(default)]
    pub refused: Vec<RefusedFrom>,
    /// How often an address was forgotten to make room for another: 256 are
    /// remembered, of hosts and others.
    #[serde(default)]
    pub refused_forgotten: u64,
    /// What the rules in the kernel have dropped, by port and kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// Counters since the start, by name.
    pub counters: BTreeMap<String, u64>,
    /// What an operator should know, one line each.
    pub warnings: Vec<String>,
    /// Settings of the host that are otherwise as long as its networks are there, one
    /// line each; `overlayd teardown` gives them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
}

/// Names for containers: where they are asked for, and what is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dns {
    /// False if the daemon was told to answer none: then all else is empty.
    pub answering: bool,
    /// What every name ends in.
    pub domain: String,
    /// For how many seconds an answer may be remembered.
    pub ttl_s: u32,
    /// Networks that this host uses: names of others nobody here is answered.
    pub networks: Vec<NamedNetwork>,
    /// Where is answered: at gateways, and at 127.0.0.11 in namespaces.
    pub doors: Vec<DnsDoor>,
    /// The file that names this host's resolvers.
    pub resolv_conf: String,
    /// Who is asked for names that are not ours, in order.
    pub resolvers: Vec<String>,
    /// This host's search domains, which containers get after ours.
    pub search: Vec<String>,
    /// Questions to those that are under way.
    pub under_way: usize,
    /// Counters since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A network whose names are answered on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedNetwork {
    /// Its name.
    pub net: String,
    /// How many names and aliases it has.
    pub names: usize,
    /// Names that are not ours are looked up for it: it is not internal.
    pub forwards: bool,
}

/// A place where names are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsDoor {
    /// A gateway's address, or the path of a namespace.
    pub at: String,
    /// Whose names are answered, in the order in which short names are looked for.
    pub nets: Vec<String>,
    /// It is answered there.
    pub open: bool,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What would be answered, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Looked {
    /// What was asked for.
    pub name: String,
    /// To those on each network that this host uses, or on the one asked about.
    pub answers: Vec<DnsAnswer>,
}

/// What those on one network would be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsAnswer {
    /// Its name.
    pub net: String,
    /// `NOERROR`, `NXDOMAIN`, `REFUSED`.
    pub code: String,
    /// Not ours: the host's resolvers would be asked.
    pub forwarded: bool,
    /// Addresses, in an order that they may have; or the names of an address.
    pub answers: Vec<String>,
    /// Who has what was asked for, answered or not.
    pub holders: Vec<DnsHolder>,
}

/// An endpoint that has the name or the address that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsHolder {
    /// 12 hex digits.
    pub endpoint: String,
    /// Its own name.
    pub name: Option<String>,
    /// What was asked for is an alias of it.
    pub by_alias: bool,
    /// The name of its host.
    pub host: String,
    /// `up`; `suspect`, answered last; `down`, not answered.
    pub host_state: String,
    /// It is in the answer.
    pub answered: bool,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpAddr>,
}

/// An object that is not in the kernel yet, and was not refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingObject {
    /// What.
    pub object: String,
    /// What it waits for.
    pub reason: String,
    /// For how long, milliseconds, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// Frames of a container that were not its own, or packets that had no
/// business here: dropped by the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// The host's side of the port that they came in by; left out for what was
    /// dropped on the host's own doorstep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Of a port `mac`, `arp`, `nd`, `ipv4`, `ipv6` (whose source was not its
    /// own) or `ethertype`; else `vxlan-from-strangers`,
    /// `vxlan-from-containers`, `gossip-from-containers`, `between-networks`,
    /// `host-from-containers`.
    pub kind: String,
    /// How many.
    pub packets: u64,
    /// How many bytes of them.
    pub bytes: u64,
}

/// Something that another hand had changed, and that was put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repair {
    /// What.
    pub object: String,
    /// `deleted`, `changed` or `added`: how it was found.
    pub found: String,
    /// The command that put it back.
    pub command: String,
    /// How many objects that stands for: those that fell with it, too.
    pub objects: usize,
    /// How long after the kernel told, milliseconds.
    pub after_ms: u64,
    /// How long ago that was, milliseconds.
    pub ago_ms: u64,
    /// Whose hand it was; left out where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How often within ten seconds.
    pub times: usize,
}

/// An object that another hand changes each time it is put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fight {
    /// What.
    pub object: String,
    /// Whose hand it was last; left out where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// For how long, milliseconds.
    pub since_ms: u64,
    /// How often it was put back.
    pub repairs: u64,
    /// When it is put back again, milliseconds; left out when it is right now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
}

/// A MAC and addresses that moved more than five times within 180 s: this host
/// leaves their entries as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Frozen {
    /// Which.
    pub what: Vec<String>,
    /// Name of their network.
    pub net: String,
    /// Name of the host that they stay on, or its id.
    pub host: String,
    /// Name of the other host, or its id.
    pub other: String,
    /// How often they moved within 180 s.
    pub moves: usize,
    /// When they may move again if they are not seen to, milliseconds.
    pub thaws_ms: u64,
}

/// Gossip that was refused, by the address that it says it is from. Whoever can
/// send datagrams can forge that.
///
/// Kinds, of which more may come: `unknown_key` (sealed with a key that is not
/// here), `plain` (not sealed), `forged` (not as it was sealed), `replayed` (came
/// a second time, or too late to tell), `truncated`, `unknown_version` and
/// `unknown_kind` (no gossip that this release knows), `malformed` and `too_much`
/// (of a member, and not fit).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedFrom {
    /// Without a port.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Messages that were refused here, by kind.
    pub kinds: BTreeMap<String, u64>,
    /// How often it said that it cannot open ours.
    pub refuses_us: u64,
    /// How long ago either last happened, milliseconds.
    pub last_ms: u64,
}

/// An object that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedObject {
    /// The command that was refused.
    pub command: String,
    /// Why.
    pub reason: String,
    /// How long it has failed, milliseconds.
    pub since_ms: u64,
    /// How often it was tried.
    pub attempts: u32,
}

/// One FDB or neighbour entry: as it should be, beside as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Name of the network.
    pub net: String,
    /// The device it is in.
    pub dev: String,
    /// `vxlan` or `bridge` (FDB), `flood` (broadcast list), or `neigh`.
    pub table: String,
    /// The MAC, or for a neighbour entry the address.
    pub key: String,
    /// As it should be: VTEP, bridge port, or MAC. Nothing: it should not be there.
    pub desired: Option<String>,
    /// As it is in the kernel. Nothing: it is not there.
    pub kernel: Option<String>,
    /// `ok`, `missing`, `differs` or `extra`.
    pub state: String,
    /// The endpoint it serves, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The host it leads to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// What the reconciler would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The desired state it leads to.
    pub revision: u64,
    /// False: nothing is deleted that this daemon has not itself retired.
    pub view_complete: bool,
    /// As an operator would type them, in order.
    pub commands: Vec<String>,
}

/// Lets another host take over what one that is gone for good owned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Forget {
    /// Its machine is off for good, and not only cut off: so you vouch.
    #[serde(skip_serializing_if = "Not::not")]
    pub dead: bool,
    /// Without the votes of the other hosts.
    #[serde(skip_serializing_if = "Not::not")]
    pub force: bool,
}

/// How far a host has been forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forgotten {
    /// Its name, or its id.
    pub host: String,
    /// What it owned is another's now; else this host goes on trying.
    pub done: bool,
    /// Hosts whose vote is missing.
    pub waits_for: Vec<String>,
    /// Those who are to vote are more than half of the cluster; else it takes
    /// `force`.
    pub majority: bool,
}

/// Takes no new endpoint, or does so again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// End it.
    #[serde(skip_serializing_if = "Not::not")]
    pub undo: bool,
}

/// The host takes no new endpoint, or does so again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drained {
    /// It takes none.
    pub drained: bool,
    /// Endpoints that are attached here.
    pub endpoints: usize,
}

/// A subnet, and how much of it is used. A count that is larger than 64 bits can
/// say is the largest that they can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpamSubnet {
    /// Name of its network.
    pub net: String,
    /// Network address and prefix length.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// Addresses that endpoints can have at all.
    pub capacity: u64,
    /// Addresses that endpoints have, on all hosts, as far as is known here.
    pub leased: u64,
    /// The same in per cent of the capacity, rounded down.
    pub percent: u8,
    /// Addresses that endpoints of this host have.
    pub leased_here: u64,
    /// Addresses that this host, or one that it can reach, could give.
    pub free: u64,
    /// Addresses that this host could give without asking anybody.
    pub free_here: u64,
    /// Hosts that own some of them.
    pub owners: usize,
    /// Free addresses of hosts that cannot be reached: nobody can give them until
    /// such a host is back or has been forgotten.
    pub unreachable: u64,
}

/// A subnet with all that is known of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpamRanges {
    /// The sums.
    pub subnet: IpamSubnet,
    /// From the first address to the last, without a gap.
    pub ranges: Vec<IpamRange>,
    /// Addresses that this host does not give out yet: somebody may have them, of
    /// whom it has not heard since its start.
    #[schema(value_type = Vec<String>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<IpAddr>,
    /// Endpoints with an address whose range is another host's: they have moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abroad: Vec<IpamAbroad>,
}

/// Addresses that follow each other and have one owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpamRange {
    /// The first of them.
    #[schema(value_type = String)]
    pub first: IpAddr,
    /// The last of them.
    #[schema(value_type = String)]
    pub last: IpAddr,
    /// Name of the owner, or its id; nothing if nobody is known to own them.
    pub owner: Option<String>,
    /// This host owns them.
    pub local: bool,
    /// State of the owner, as in [`Host`]; `unknown` if it is no host known here.
    pub state: String,
    /// How often who owns them has changed: the higher counts.
    pub version: u64,
    /// Those that endpoints can have at all.
    pub addresses: u64,
    /// Those that endpoints have, on any host, as far as is known here.
    pub leased: u64,
}

/// An address that an endpoint has on a host that does not own it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpamAbroad {
    /// Which.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Name of the endpoint, or its id.
    pub endpoint: String,
    /// Name of its host, or its id.
    pub host: String,
    /// Name of the owner, or its id; nothing if nobody is known to own it.
    pub owner: Option<String>,
}

/// Audits addresses: their leases, owners and endpoints, and what the kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckIpam {
    /// Name or id of a network; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// Do what is safe about what is found.
    #[serde(skip_serializing_if = "Not::not")]
    pub repair: bool,
}

/// What an audit has looked at, and what it has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpamAudit {
    /// How many networks.
    pub networks: usize,
    /// How many endpoints, of all hosts.
    pub endpoints: usize,
    /// How many leases of this host.
    pub leases: usize,
    /// What is wrong.
    pub findings: Vec<IpamFinding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpamFinding {
    /// `leaked` (leased here, no endpoint has it), `not_leased` (an endpoint of
    /// this host has it), `not_in_kernel`, `held_twice`, `no_owner`,
    /// `owner_absent` (it has left, or is not known), `two_owners`, or `abroad`
    /// (an endpoint has it on a host that does not own it). More may come.
    pub kind: String,
    /// Name of the network.
    pub net: String,
    /// What is wrong, and what to do, for people: one line.
    pub text: String,
    /// What has been done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<String>,
}

/// Gives an address back that is leased on this host and that no endpoint has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReleaseAddress {
    /// The address. It must be said.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// Holds an address for an attach that comes for it, for two minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReserveAddress {
    /// Which; a free one when left out.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// `ipv4` or `ipv6`, of a free one; that of the network's first subnet when
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
}

/// An address that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservedAddress {
    /// Name of its network.
    pub net: String,
    /// Which, with the length of its subnet's prefix.
    #[schema(value_type = String)]
    pub address: IpNet,
    /// For how long, milliseconds.
    pub held_ms: u64,
}

/// An address that has been given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleasedAddress {
    /// Name of its network.
    pub net: String,
    /// Which.
    #[schema(value_type = String)]
    pub address: IpAddr,
}

/// Leaves the cluster; the daemon then ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Leave {
    /// Leave although endpoints are attached here: they lose the other hosts.
    #[serde(skip_serializing_if = "Not::not")]
    pub force: bool,
}

/// The host has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Left {
    /// Hosts that were told.
    pub told: usize,
    /// Endpoints that stay attached here, cut off from other hosts.
    pub endpoints: usize,
}

/// Something happened: one line of `GET /v1/events`.
///
/// `kind` says which of the fields below the first six are there; a reader
/// passes over kinds and fields that it does not know.
///
/// | kind | fields |
/// |---|---|
/// | `host` | `host`, `state` (as in [`Host`]), `count` of its endpoints |
/// | `entries` | `host`, `there` (in use), `count` of its endpoints |
/// | `attached`, `detached` | `endpoint`, `name`; `net` and `ips`, or `why` |
/// | `ports` | `endpoint`, `name`, `why`: which it publishes now, or no longer |
/// | `service_created`, `service_removed` | `name`, `net` |
/// | `no_own_address` | `why` this host passes nothing on to endpoints of others |
/// | `gone` | `endpoint`, `name`, `net`, `ips` that stay leased, `after_ms`: how long |
/// | `moved` | `endpoint`, `name`, `net`, the other `host`, `count` of its moves, `there` (true: it has come here, false: it has gone) |
/// | `frozen` | `object` (MAC and addresses), `net`, `host` that keeps them, `count` of moves, `there` (false: it is over), `why` |
/// | `imported` | `net`, `count` of static endpoints that are new, changed or gone |
/// | `device` | `dev` that is attached, `why` its owner should look at it |
/// | `seen`, `withdrawn` | the same of another `host`: `endpoint`, `name`, `net`, `ips` |
/// | `network_created`, `network_changed`, `network_removed` | `net`, `vni` |
/// | `network_conflict` | `net`, which is not programmed if it is `there`, `why` |
/// | `cut_off` | `endpoint`, `name`, `net`; `there` if that is programmed again, else `why` |
/// | `endpoint_conflict` | `endpoint`, which lost, `why`, `host` that won |
/// | `kernel_refused` | `command`, `why`, `retry_ms` |
/// | `repaired` | `object`, `state` it was found in (`deleted`, `changed`, `added`), `command`, `count` of objects, `after_ms`, `by`, `times` in 10 s |
/// | `fight` | `object`, `by`, `count` of repairs, `there` (false: it is over), `retry_ms` |
/// | `overrun` | - |
/// | `donated` | `net`, `host` that got them, `count` of addresses |
/// | `host_forgotten` | `host` (absent: nobody was known to own them), `by` whom its addresses were taken over, `count` of them if that was this host |
/// | `was_forgotten` | - |
/// | `drained` | `there` (false: it takes new endpoints again) |
/// | `addresses` | `net` whose free addresses become few, `there` (false: there is room again) |
/// | `released` | `net`, `ips` that were leased without an endpoint and given back |
/// | `recovery` | `state` of a host that has lost its state file (`waiting` for who could tell, `found`, `over`), `why` |
/// | `view_complete`, `not_persisted` | `why` |
/// | `same_name` | `name`, `addrs` of the two hosts, `there` (false: it is over) |
/// | `same_identity` | `host`, `addrs` of the machines, `there` |
/// | `underlay` | `dev`, `addrs` (new, former; of two families with a comma between), `mtu` |
/// | `apart` | `host`, `why`, `there` (false: it is over) |
/// | `underlay_lost` | `addrs` (the one that is gone), `why` |
/// | `missed` | `count` of events that this reader was too slow for; no `seq` |
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows from event to event, over restarts of the daemon too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// Which kind, for code.
    pub kind: String,
    /// `detail`, `info` or `warning`.
    pub level: String,
    /// For people, one line.
    pub text: String,
    /// How many: of what, the kind says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Name of a host, or its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// State of the host, or in which an object was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// It is so; false: it is so no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<bool>,
    /// Id of an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Name of the endpoint or host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// VNI of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Addresses of the endpoint.
    #[schema(value_type = Vec<String>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Addresses on the underlay, with the port where it is gossip's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addrs: Vec<String>,
    /// A device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Its MTU, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What was done to the kernel, as an operator would type it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// When it is tried again, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
    /// The reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// A thing in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Whose hand it was, if the kernel told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How long it was wrong, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// How often within ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
