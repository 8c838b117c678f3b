//! The kit that labs are written with: hosts, containers and cables made of
//! network namespaces, real daemons in them, real packets between them.
//!
//! ```text
//!   netns <lab>-c1         netns <lab>-a          netns <lab>-ul       netns <lab>-b
//!  ┌───────────────┐     ┌────────────────┐     ┌──────────────┐     ┌────────────────┐
//!  │ container c1  │     │ host a         │     │ underlay br0 │     │ host b         │
//!  │ eth0 ─────────┼─────┼─ ovb.. ovx..   │     │              │     │                │
//!  │ made by attach│     │ overlayd       │     │              │     │ overlayd       │
//!  └───────────────┘     │ eth0 192.0.2.1 ┼─────┼ p-a      p-b ┼─────┼ eth0 192.0.2.2 │
//!                        └────────────────┘     └──────────────┘     └────────────────┘
//! ```
//!
//! What it promises:
//!
//! 1. **Nothing outside.** Underlay and container addresses exist only inside
//!    namespaces that the lab made. Names begin with a prefix of the lab's
//!    own, so that labs run beside each other.
//! 2. **Nothing left behind**, after a panic neither: namespaces, daemons and
//!    files go when the [`Lab`] is dropped. What a lab whose process was
//!    killed has left goes when the next lab starts. `OVERLAY_KEEP=1` keeps a
//!    lab and prints how to enter it.
//! 3. **A failure explains itself**: links, FDB, neighbours, routes,
//!    `overlayctl status` and the daemons' logs of every host are printed.
//! 4. **No sleeps.** [`eventually`] polls and says what it saw last;
//!    `OVERLAY_PATIENCE=3` makes every wait three times as long.
//! 5. **A lab that cannot get what it needs fails** and says what that is.
//!    There is no skipping in here; leave labs out by not running them.
//!
//! There is no mock in here, and nothing of the daemon's insides: the kit
//! depends on `overlay-api` for the shapes of replies, and on the programs
//! `overlayd` and `overlayctl`.

pub mod binaries;
pub mod capture;
pub mod chaos;
pub mod cni;
pub mod container;
pub mod docker;
pub mod figures;
pub mod host;
pub mod kernel;
pub mod lab;
pub mod monitor;
pub mod names;
pub mod neighbour;
pub mod ping;
pub mod shell;
pub mod stations;
pub mod talk;
pub mod tally;
pub mod wait;
pub mod watcher;

pub use capture::{Capture, Frame};
pub use cni::Cni;
pub use container::Container;
pub use host::{CtlOutput, DaemonOptions, Host, NetSpec, Vtep};
pub use kernel::{Fdb, FdbEntry, Link, Neigh};
pub use lab::{Lab, Underlay};
pub use monitor::Monitor;
pub use names::{Dig, Dnsmasq, dig};
pub use neighbour::{Neighbour, Quarters};
pub use ping::{PingStream, PingSummary};
pub use tally::Tally;
pub use wait::{eventually, eventually_within, holds_for, patience};
pub use watcher::Watcher;
