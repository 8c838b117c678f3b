//! The resolver that containers ask.
//!
//! ```text
//!                    ┌─ Names ◄── NameChange, one for each change of an endpoint
//!   query ─► Door ─► answer ─┬─► a reply from what is known here
//!                            └─► forward ─► the host's own resolvers
//! ```
//!
//! It knows names, addresses and sockets that it is given; nothing of kernels, of namespaces, or
//! of where names come from.
//!
//! What holds, and is checked in the tests beside each module and by fuzzing:
//!
//! 1. **A door answers names of its own networks only.** Who asks there sees no other network.
//! 2. **Who asks never waits for the rest of the daemon.** [`Names`] is shared; a change holds its
//!    lock for one entry.
//! 3. **A change costs what it changes**, however many names there are; of an endpoint nothing is
//!    held here but pointers to the one that the rest of the daemon has.
//! 4. **What is forwarded is bounded** in number and in time, and never goes to ourselves.
//! 5. **No bytes end it**: messages are read by [`wire`] alone, which allocates nothing.
//!
//! Messages are read and written here, by hand: an answer is the question with sixteen bytes an
//! address behind it, made in a buffer that is used again: 0.2 µs with finding the name, without
//! an allocation. Reading and writing alone is 0.5 µs with hickory-proto (`benches/answer.rs`),
//! which brings the tables of international names along. It is the second opinion in tests and
//! fuzzing instead: what it does not read, or reads otherwise, is a bug.
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | queries read, replies written |
//! | [`zone`] | names and addresses: [`Names`] |
//! | [`answer`] | what is answered, and why |
//! | [`resolv_conf`] | `/etc/resolv.conf`, read and written |
//! | `forward` | queries of other names, to the host's resolvers |
//! | `server` | sockets: [`Server`] |
//! | `counters` | what was asked, and how it was answered |
//!
//! Absent on purpose: a cache (what is ours is in memory, what is not the host's resolvers cache),
//! DNSSEC (nobody could follow a chain to `internal`), zone transfers, and dynamic updates.

pub mod answer;
mod counters;
mod forward;
pub mod resolv_conf;
mod server;
pub mod wire;
pub mod zone;

pub use counters::Counters;
pub use resolv_conf::{HostResolvers, ResolvConf};
pub use server::{At, DoorId, Server, Settings};
pub use zone::{NameChange, NamedNetwork, Names, Service, Standing, Transport};

/// What every name of ours ends in.
pub const DOMAIN: &str = "overlay.internal";
