//! How long a message to a peer and its answer take, without a message of its
//! own: chitchat answers a SYN at once with a SYN-ACK.
//!
//! A round trip is the time from the SYN that left for an address to the
//! SYN-ACK that came from there. It includes what the two daemons take to
//! handle them. Nothing in an answer says which question it is to, so, as in
//! Karn's algorithm, only an answer that can be to one question alone is timed:
//! one that comes while the address has been asked once in the last [`LOST`]
//! and owes no other answer. After a lost datagram there is no sample for
//! [`LOST`], and never a wrong one; an answer later than that is to nothing.
//!
//! Samples are smoothed as RFC 6298 §2 has it, an eighth of each new one. Only
//! the second replaces the first: first contact costs further round trips (see
//! `seal`), which would be remembered for long.
//!
//! Known and accepted: an answer that is later than [`LOST`] while the address
//! has just been asked again is taken for the answer to that.
//!
//! Time comes in as an argument.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// A question without an answer for so long will get none.
const LOST: Duration = Duration::from_secs(1);

/// Questions to one address that are remembered: a newcomer asks forty a second.
const ASKED: usize = 128;

/// One in so many parts of the smoothed value comes from the last sample.
const SMOOTH: u32 = 8;

/// A measured round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// Smoothed.
    pub smoothed: Duration,
    /// How long ago it was last measured.
    pub age: Duration,
}

/// Round trips by gossip address.
#[derive(Default)]
pub(crate) struct RoundTrips(HashMap<SocketAddr, Peer>);

struct Peer {
    /// Questions that are not answered, oldest first.
    asked: VecDeque<Instant>,
    /// Nothing else was unanswered when the last question left.
    alone: bool,
    used: Instant,
    smoothed: Duration,
    samples: u64,
    sampled: Instant,
}

impl Peer {
    fn give_up_the_lost(&mut self, now: Instant) {
        while self.asked.front().is_some_and(|at| now.duration_since(*at) > LOST) {
            self.asked.pop_front();
        }
    }
}

impl RoundTrips {
    /// A SYN has left.
    pub(crate) fn asked(&mut self, to: SocketAddr, now: Instant) {
        let peer = self.0.entry(to).or_insert_with(|| Peer {
            asked: VecDeque::new(),
            alone: false,
            used: now,
            smoothed: Duration::ZERO,
            samples: 0,
            sampled: now,
        });
        peer.used = now;
        peer.give_up_the_lost(now);
        peer.alone = peer.asked.is_empty();
        if peer.asked.len() >= ASKED {
            peer.asked.pop_front();
        }
        peer.asked.push_back(now);
    }

    /// A SYN-ACK has come.
    pub(crate) fn answered(&mut self, from: SocketAddr, now: Instant) {
        let Some(peer) = self.0.get_mut(&from) else { return };
        peer.give_up_the_lost(now);
        // The newest: if one was lost, it is the older ones that time out.
        let Some(asked) = peer.asked.pop_back() else { return };
        if !std::mem::take(&mut peer.alone) {
            return;
        }
        let sample = now.duration_since(asked);
        peer.samples += 1;
        peer.smoothed = match peer.samples {
            1 | 2 => sample,
            _ => (peer.smoothed * (SMOOTH - 1) + sample) / SMOOTH,
        };
        peer.sampled = now;
    }

    pub(crate) fn of(&self, peer: SocketAddr, now: Instant) -> Option<RoundTrip> {
        let peer = self.0.get(&peer).filter(|peer| peer.samples > 0)?;
        let age = now.saturating_duration_since(peer.sampled);
        Some(RoundTrip { smoothed: peer.smoothed, age })
    }

    /// Forgets all others, but for those that an answer may still come from.
    pub(crate) fn keep(&mut self, peers: &HashSet<SocketAddr>, now: Instant) {
        self.0.retain(|addr, peer| {
            peers.contains(addr) || now.saturating_duration_since(peer.used) <= LOST
        });
    }
}

#[cfg(test)]
mod tests;
