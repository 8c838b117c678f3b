//! Many hosts in one process: real chitchat, the real fast path and real
//! engines, on a simulated network and simulated kernels, in virtual time.
//!
//! | module | holds |
//! |---|---|
//! | `net` | the network: delay, loss, repetition, reordering, cuts, bytes sent |
//! | `host` | one daemon: the loop around an engine, with a disk and a kernel that survive it |
//! | `world` | all of them, what tests do to them, and what must hold |
//!
//! Time is tokio's, paused: it jumps to the next thing that anybody waits for,
//! so a minute of a small cluster takes about a second.
//!
//! What a run does is drawn from its seed. Chitchat draws its peers from the
//! system's randomness: `make sim SEED=n` runs with `getrandom` replaced by a
//! generator of that seed (`seed.c`), and then repeats a run exactly.
//!
//! Deliberately absent: sockets, seals, TCP, netlink. Labs have those.

pub mod host;
pub mod net;
pub mod world;

pub use net::{Net, Weather};
pub use world::World;
