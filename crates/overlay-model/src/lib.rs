//! The words that every part of the overlay shares.
//!
//! Values only: no I/O, no clock, no randomness, no runtime, and no knowledge
//! of any other crate of this project. What is checked here when a value is
//! made is checked nowhere else afterwards: a [`Vni`] is always in range, a
//! [`Name`] is always a DNS label, an [`IfName`] always fits the kernel.
//!
//! | module | words |
//! |---|---|
//! | [`ids`] | [`HostId`], [`NetworkId`], [`EndpointId`], [`KeyId`], [`Vni`], [`MacAddr`], [`Name`], [`IfName`] |
//! | [`records`] | what a host tells the cluster: [`Host`], [`Network`], [`Endpoint`], [`RingToken`], [`Want`], [`HostKeys`] |
//! | [`cluster`] | what the cluster tells a host: [`ClusterEvent`] |
//! | [`kernel`] | what a kernel holds and how it is changed: [`KernelState`], [`KernelOp`] |
//! | [`ports`] | ports of a host that lead to an endpoint: [`Publish`] |
//! | [`nat`] | where connections are sent, and what leaves for the outside: [`Nat`] |
//! | [`ranges`] | stretches of addresses: [`AddressRange`] |
//! | [`outer`] | what a VXLAN device writes into outer headers: [`Outer`] |
//! | [`mtu`] | how large a container's packet may be |

pub mod cluster;
mod fnv;
pub mod ids;
pub mod kernel;
pub mod mtu;
pub mod nat;
pub mod outer;
pub mod ports;
pub mod ranges;
pub mod records;

pub use cluster::ClusterEvent;
pub use fnv::Fnv;
pub use ids::{
    EndpointId, HostId, IfName, InvalidId, InvalidIfName, InvalidMac, InvalidName, InvalidVni,
    KeyId, MacAddr, Name, NetworkId, Vni,
};
pub use kernel::{
    Announcement, ApplyReport, Device, Firewall, Foreign, ForeignVxlan, Guard, Hand, KernelChange,
    KernelOp, KernelState, Link, LinkChange, LinkKind, NetnsRef, Object, ObjectKey, Objects,
    OpFailure, Port, PortFlags, Refusal, Setting, VethPeer,
};
pub use nat::{Access, Front, Nat, Translation};
pub use outer::Outer;
pub use ports::{InvalidPublish, Protocol, Publish};
pub use ranges::{AddressRange, InvalidRange};
pub use records::{
    Endpoint, Family, Fate, Host, HostIntent, HostKeys, Network, Placed, Record, RecordKey,
    RingToken, Service, ServicePort, Stamp, Subnet, Want, WantWhat,
};
