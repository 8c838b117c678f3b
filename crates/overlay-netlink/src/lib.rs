//! Talks to the kernel: reads it, watches it, changes it.
//!
//! It speaks `KernelState`, `KernelOp` and `KernelChange` and knows nothing of
//! why anything is wanted. All of it goes through one [`Kernel`]:
//!
//! ```text
//!  dump()  ──► KernelState      what is ours, and what we must keep clear of
//!  apply() ──► ApplyReport      all operations are tried, in order
//!  watch   ──► KernelChange     what is ours has changed, by whose hand ever
//! ```
//!
//! Promises, checked in `tests/kernel.rs` on the kernel that runs it:
//!
//! 1. **What was put is what is read**, by a dump as by the watch.
//! 2. **Nothing foreign is touched or told.** Ours is what bears our name and
//!    our alias; a link is looked at afresh before it is changed or deleted.
//!    A device that somebody attached bears a mark of ours beside its own name
//!    and alias; it is given back as it was, never deleted.
//! 3. **A link is made whole or not at all**: no half-made veth stays.
//! 4. **Present already and gone already are success.**
//! 5. **After `apply`, its changes are in the receiver.**
//!
//! Missing on purpose: retries (the caller sees the next state and plans
//! again), and any memory of what was written.
//!
//! | module | what |
//! |---|---|
//! | `kernel` | [`Kernel`], the handle |
//! | `wire` | one netlink connection; batches, dumps, the kernel's words |
//! | `read` | from messages to objects: for dumps and notifications alike |
//! | `watch` | notifications, lost ones made good |
//! | `hand` | whose hand a notification tells of |
//! | `tables` | notifications of nftables |
//! | `nft` | elements of sets, and reading, without the program |
//! | `links`, `veth`, `ports`, `entries`, `firewall` | operations |
//! | `nat`, `conntrack` | the table that leads connections elsewhere, and what is remembered of them |
//! | `announce` | what containers are told of an address that has another MAC: [`announce`] |
//! | `holder` | who holds a VNI |
//! | `left_behind` | what is still told of a daemon that has lost its state: [`former_host`], [`homes`] |
//! | `offload` | who writes the checksums of what VXLAN carries: [`broken_tx_checksum`] |
//! | `passage` | whether the rules of others let our bridges' packets pass: [`blocked`] |
//! | `crowd` | whether the kernel's ARP and ND tables have room: [`neighbour_tables`] |
//! | `door` | where containers ask for names: [`open_door`] |
//! | `pair` | a veth pair for who moves its far end himself: [`make_pair`] |
//! | `netns` | namespaces: [`netns_of`], [`look_into`] |
//! | `underlay` | the VTEP's addresses: [`underlay_for`] |
//! | `follow` | the VTEP's addresses, as they change: [`follow_underlay`] |
//!
//! `rtnetlink` and its packet crates have broken five times in a year; they do
//! not show in any public name here.

mod announce;
mod conntrack;
mod crowd;
mod door;
mod entries;
mod error;
mod firewall;
mod follow;
mod hand;
mod holder;
mod kernel;
mod left_behind;
mod links;
mod nat;
mod netns;
mod nft;
mod offload;
mod pair;
mod passage;
mod ports;
mod read;
mod tables;
mod underlay;
mod veth;
mod watch;
mod wire;

pub use announce::announce;
pub use crowd::{Crowd, NeighbourTable, neighbour_tables};
pub use door::{
    DOOR, DoorError, Sockets, close_all_doors, close_door, gateway_sockets, is_used, open_door,
    port_holder,
};
pub use error::{KernelError, NlError};
pub use firewall::Dropped;
pub use follow::follow_underlay;
pub use kernel::Kernel;
pub use left_behind::{Home, former_host, homes};
pub use nat::Translated;
pub use netns::{NetnsError, look_into, netns_of, peer_ifnames};
pub use offload::broken_tx_checksum;
pub use pair::{PairError, make_pair, remove_all_pairs, remove_pair};
pub use passage::{Blocked, blocked};
pub use underlay::{Underlay, UnderlayError, Wanted, underlay_for};
