//! Format 1. FROZEN: hosts that run older software read these bytes, and so
//! does every later version. Fields and variants are never added, removed or
//! reordered here; a change is a new module, a new version byte, and a time in
//! which both are read.
//!
//! The types repeat those of `overlay-model` so that the model may change
//! without the wire noticing. Bytes: bincode 2 `standard()` (little endian,
//! varint). `tests.rs` holds one literal of each kind.

use std::net::{IpAddr, SocketAddr};

use bincode::{Decode, Encode};
use ipnet::IpNet;
use overlay_model as model;
use overlay_model::{EndpointId, HostId, MacAddr, Name, NetworkId, Vni};
use uuid::Uuid;

/// The bytes are well formed, but a value in them is not allowed.
#[derive(Debug)]
pub(super) struct OutOfRange(pub(super) &'static str);

#[derive(Encode, Decode)]
pub(super) enum Record {
    Host(Host),
    Network(Network),
    Endpoint(Endpoint),
    Ring(Ring),
    Want(Want),
}

#[derive(Encode, Decode)]
pub(super) enum Ip {
    V4([u8; 4]),
    V6([u8; 16]),
}

#[derive(Encode, Decode)]
pub(super) enum Intent {
    Up,
    Stopped,
    Left,
}

#[derive(Encode, Decode)]
pub(super) struct Host {
    id: [u8; 16],
    name: String,
    vteps: Vec<Ip>,
    vxlan_port: u16,
    gossip_ip: Ip,
    gossip_port: u16,
    underlay_mtu: u16,
    version: String,
    intent: Intent,
}

#[derive(Encode, Decode)]
pub(super) struct Stamp {
    wall_ms: u64,
    counter: u32,
    host: [u8; 16],
}

#[derive(Encode, Decode)]
pub(super) struct Subnet {
    address: Ip,
    prefix_len: u8,
    gateway: Ip,
}

#[derive(Encode, Decode)]
pub(super) struct Network {
    id: u64,
    name: String,
    vni: u32,
    subnets: Vec<Subnet>,
    mtu: u16,
    internal: bool,
    flood: bool,
    labels: Vec<(String, String)>,
    created: Stamp,
    updated: Stamp,
    deleted: bool,
}

#[derive(Encode, Decode)]
pub(super) struct Endpoint {
    id: u64,
    network: u64,
    name: Option<String>,
    aliases: Vec<String>,
    mac: [u8; 6],
    addresses: Vec<Ip>,
    labels: Vec<(String, String)>,
    move_seq: u32,
    attached_ms: u64,
}

#[derive(Encode, Decode)]
pub(super) struct Ring {
    owner: [u8; 16],
    version: u64,
    until: u128,
}

#[derive(Encode, Decode)]
pub(super) enum What {
    Half,
    Address(Ip),
}

#[derive(Encode, Decode)]
pub(super) struct Want {
    target: [u8; 16],
    seq: u64,
    what: What,
}

// From our own records: nothing can be out of range.

impl From<&model::RingToken> for Ring {
    fn from(token: &model::RingToken) -> Self {
        Self { owner: token.owner.0.into_bytes(), version: token.version, until: token.until }
    }
}

impl From<&model::Want> for Want {
    fn from(want: &model::Want) -> Self {
        Self {
            target: want.target.0.into_bytes(),
            seq: want.seq,
            what: match want.what {
                model::WantWhat::Half => What::Half,
                model::WantWhat::Address(ip) => What::Address(ip.into()),
            },
        }
    }
}

impl From<&model::Host> for Host {
    fn from(host: &model::Host) -> Self {
        Self {
            id: host.id.0.into_bytes(),
            name: host.name.to_string(),
            vteps: host.vteps.iter().map(|ip| (*ip).into()).collect(),
            vxlan_port: host.vxlan_port,
            gossip_ip: host.gossip.ip().into(),
            gossip_port: host.gossip.port(),
            underlay_mtu: host.underlay_mtu,
            version: host.version.clone(),
            intent: match host.intent {
                model::HostIntent::Up => Intent::Up,
                model::HostIntent::Stopped => Intent::Stopped,
                model::HostIntent::Left => Intent::Left,
            },
        }
    }
}

impl From<&model::Network> for Network {
    fn from(network: &model::Network) -> Self {
        Self {
            id: network.id.0,
            name: network.name.to_string(),
            vni: network.vni.get(),
            subnets: network
                .subnets
                .iter()
                .map(|subnet| Subnet {
                    address: subnet.cidr.addr().into(),
                    prefix_len: subnet.cidr.prefix_len(),
                    gateway: subnet.gateway.into(),
                })
                .collect(),
            mtu: network.mtu,
            internal: network.internal,
            flood: network.flood,
            labels: network.labels.clone().into_iter().collect(),
            created: network.created.into(),
            updated: network.updated.into(),
            deleted: network.deleted,
        }
    }
}

impl From<&model::Endpoint> for Endpoint {
    fn from(endpoint: &model::Endpoint) -> Self {
        Self {
            id: endpoint.id.bits(),
            network: endpoint.network.0,
            name: endpoint.name.as_ref().map(Name::to_string),
            aliases: endpoint.aliases.iter().map(Name::to_string).collect(),
            mac: endpoint.mac.0,
            addresses: endpoint.addresses.iter().map(|ip| (*ip).into()).collect(),
            labels: endpoint.labels.clone().into_iter().collect(),
            move_seq: endpoint.move_seq,
            attached_ms: endpoint.attached_ms,
        }
    }
}

impl From<model::Stamp> for Stamp {
    fn from(stamp: model::Stamp) -> Self {
        Self { wall_ms: stamp.wall_ms, counter: stamp.counter, host: stamp.host.0.into_bytes() }
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(v6.octets()),
        }
    }
}

// From the wire: every value is checked by the type it becomes.

impl TryFrom<Record> for model::Record {
    type Error = OutOfRange;
    fn try_from(record: Record) -> Result<Self, OutOfRange> {
        Ok(match record {
            Record::Host(host) => Self::Host(host.try_into()?),
            Record::Network(network) => Self::Network(network.try_into()?),
            Record::Endpoint(endpoint) => Self::Endpoint(endpoint.try_into()?),
            Record::Ring(token) => Self::Ring(model::RingToken {
                owner: host_id(token.owner),
                version: token.version,
                until: token.until,
            }),
            Record::Want(want) => Self::Want(model::Want {
                target: host_id(want.target),
                seq: want.seq,
                what: match want.what {
                    What::Half => model::WantWhat::Half,
                    What::Address(ip) => model::WantWhat::Address(ip.into()),
                },
            }),
        })
    }
}

impl TryFrom<Host> for model::Host {
    type Error = OutOfRange;
    fn try_from(host: Host) -> Result<Self, OutOfRange> {
        Ok(Self {
            id: host_id(host.id),
            name: name(&host.name)?,
            vteps: ips(host.vteps),
            vxlan_port: host.vxlan_port,
            gossip: SocketAddr::new(host.gossip_ip.into(), host.gossip_port),
            underlay_mtu: host.underlay_mtu,
            version: host.version,
            intent: match host.intent {
                Intent::Up => model::HostIntent::Up,
                Intent::Stopped => model::HostIntent::Stopped,
                Intent::Left => model::HostIntent::Left,
            },
        })
    }
}

impl TryFrom<Network> for model::Network {
    type Error = OutOfRange;
    fn try_from(network: Network) -> Result<Self, OutOfRange> {
        Ok(Self {
            id: NetworkId(network.id),
            name: name(&network.name)?,
            vni: Vni::new(network.vni).map_err(|_| OutOfRange("VNI"))?,
            subnets: network
                .subnets
                .into_iter()
                .map(|subnet| {
                    let cidr = IpNet::new(subnet.address.into(), subnet.prefix_len)
                        .map_err(|_| OutOfRange("prefix length"))?;
                    Ok(model::Subnet { cidr, gateway: subnet.gateway.into() })
                })
                .collect::<Result<_, _>>()?,
            mtu: network.mtu,
            internal: network.internal,
            flood: network.flood,
            labels: network.labels.into_iter().collect(),
            exclude: Vec::new(),
            ip_ranges: Vec::new(),
            created: network.created.into(),
            updated: network.updated.into(),
            deleted: network.deleted,
        })
    }
}

impl TryFrom<Endpoint> for model::Endpoint {
    type Error = OutOfRange;
    fn try_from(endpoint: Endpoint) -> Result<Self, OutOfRange> {
        let id = EndpointId::from_bits(endpoint.id);
        if id.bits() != endpoint.id {
            return Err(OutOfRange("endpoint id"));
        }
        Ok(Self {
            id,
            network: NetworkId(endpoint.network),
            name: endpoint.name.as_deref().map(name).transpose()?,
            aliases: endpoint.aliases.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
            mac: MacAddr(endpoint.mac),
            addresses: ips(endpoint.addresses),
            labels: endpoint.labels.into_iter().collect(),
            ports: Vec::new(),
            move_seq: endpoint.move_seq,
            attached_ms: endpoint.attached_ms,
        })
    }
}

impl From<Stamp> for model::Stamp {
    fn from(stamp: Stamp) -> Self {
        Self { wall_ms: stamp.wall_ms, counter: stamp.counter, host: host_id(stamp.host) }
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        match ip {
            Ip::V4(octets) => octets.into(),
            Ip::V6(octets) => octets.into(),
        }
    }
}

fn host_id(bytes: [u8; 16]) -> HostId {
    HostId(Uuid::from_bytes(bytes))
}

fn name(text: &str) -> Result<Name, OutOfRange> {
    Name::new(text).map_err(|_| OutOfRange("name"))
}

fn ips(ips: Vec<Ip>) -> Vec<IpAddr> {
    ips.into_iter().map(IpAddr::from).collect()
}
