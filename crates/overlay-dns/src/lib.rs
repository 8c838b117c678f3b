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
//! 5. **No bytes end it**: messages are read by [`wire`] alone, and of each no more than a question
//!    and a few records.
//!
//! Messages are read and written by `hickory-proto`. By hand it was three times as fast, and that
//! was 0.5 µs of the 20 that a question takes (`benches/answer.rs`): not worth a codec of our own.
//! What we want of messages, and the little that hickory does not do, stands in [`wire`].
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
pub use zone::{NameChange, NamedNetwork, Names, Standing};

/// What every name of ours ends in.
pub const DOMAIN: &str = "overlay.internal";
