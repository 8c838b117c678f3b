//! What a host does to addresses of packets: where connections to it are sent,
//! and under which address its containers are seen outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Fnv, IfName, Protocol};

/// Where a connection is to go for it to be sent elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Front {
    /// To a port of the host, at one of its addresses or at any.
    Host {
        /// Which kind of port.
        protocol: Protocol,
        /// Which port.
        port: u16,
        /// At which address; `None`: at any.
        at: Option<IpAddr>,
    },
    /// To an address that no station has, from the bridge of its network or from
    /// the host itself.
    Virtual {
        /// The bridge.
        bridge: IfName,
        /// The address.
        ip: IpAddr,
        /// Which kind of port.
        protocol: Protocol,
        /// Which port.
        port: u16,
    },
}

impl Front {
    /// Which kind of port.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Host { protocol, .. } | Self::Virtual { protocol, .. } => *protocol,
        }
    }

    /// Which port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Host { port, .. } | Self::Virtual { port, .. } => *port,
        }
    }
}

/// What a host does to addresses of packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// Subnets whose stations are seen outside under an address of the host. What
    /// is global of IPv6 keeps its own: see [`Nat::hides`].
    pub subnets: BTreeSet<IpNet>,
    /// Where connections go; each to one of several, if there are several.
    pub forwards: BTreeMap<Front, BTreeSet<SocketAddr>>,
    /// Endpoints whose answers come back by this host: they see who asks.
    pub direct: BTreeSet<IpAddr>,
    /// The host's own address on a bridge, for what it sends on to endpoints of
    /// other hosts; at most one a family.
    pub own: BTreeMap<IfName, BTreeSet<IpAddr>>,
}

impl Nat {
    /// Says whether stations of `subnet` are hidden: those of IPv4, and of IPv6
    /// those with unique local addresses (RFC 4193).
    pub fn hides(subnet: &IpNet) -> bool {
        match subnet.addr() {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.octets()[0] & 0xfe == 0xfc,
        }
    }

    /// A number that stands for all of it.
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.add(format!("{self:?}").as_bytes());
        hash.get()
    }
}

/// [`Nat`] as an object: what is read from a kernel is known by its digest only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Translation {
    /// [`Nat::digest`].
    pub digest: u64,
    /// It stands otherwise than we write it: never wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub altered: bool,
    /// All of it, where it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<Box<Nat>>,
}

impl From<Nat> for Translation {
    fn from(nat: Nat) -> Self {
        Self { digest: nat.digest(), altered: false, nat: Some(Box::new(nat)) }
    }
}

impl PartialEq for Translation {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.altered) == (other.digest, other.altered)
    }
}

impl Eq for Translation {}

/// Which ports of their own host containers get to, besides ICMP, DNS and what
/// is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// None.
    #[default]
    Closed,
    /// These.
    Ports(BTreeSet<(Protocol, u16)>),
    /// All.
    Open,
}

impl Access {
    /// True for what is so unless it is said otherwise.
    pub fn is_closed(&self) -> bool {
        *self == Self::Closed
    }
}
