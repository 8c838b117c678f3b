//! What gossip has done so far, in numbers.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlay_model::HostId;
use tokio::time::Instant;

use crate::refusals::{Refusals, Sources, Why};
use crate::round_trip::{RoundTrip, RoundTrips};

/// Counters by name, since start.
///
/// | name | counts |
/// |---|---|
/// | `records_decoded` | records of other hosts that were read |
/// | `undecodable_<reason>` | values that were left alone: `too_long`, `not_base64`, `empty`, `unknown_version`, `malformed`, `trailing`, `invalid`, `misplaced` |
/// | `unknown_key` | keys that this version does not know |
/// | `bad_identity` | nodes whose identity is missing or does not fit their name |
/// | `conflicts` | other hosts that use our identity |
/// | `acks_spared` | third messages of a handshake that had nothing to say |
/// | `syns_spared` | first ones to peers that had just sent us theirs, with no news since; among hundreds of hosts, one of three |
/// | `own_repaired` | own records that another host had overwritten |
/// | `events` | cluster events handed out |
/// | `pushes_sent`, `pushes_received` | bodies of the fast path |
/// | `push_gaps`, `push_unknown`, `push_malformed` | of those: after one that did not come; of a host that is not known yet; no push |
/// | `restarts` | lives of chitchat after the first |
/// | `refused` | own records too long to publish |
/// | `wire_unknown_kind`, `wire_overrun` | datagrams of no known kind, and messages that came faster than they were taken: dropped |
/// | `seal_plain` | messages that were not sealed, refused |
/// | `seal_truncated`, `seal_unknown_version`, `seal_forged` | datagrams and frames that are too short, of no form that we know, or not as they were sealed |
/// | `seal_unknown_key` | messages sealed with a key that is not here |
/// | `seal_refused_by_peer` | refusals by peers that do not have our key |
/// | `seal_unproven`, `seal_challenges` | messages of senders not known here (yet), dropped; how often such a sender was asked for a proof |
/// | `seal_answers`, `seal_associations` | such questions that we answered; answers that were good |
/// | `seal_moved` | messages of a known sender from another address |
/// | `seal_replayed` | messages that came a second time, or too late to tell |
/// | `seal_stray` | questions, answers and refusals about nothing that we sent or asked |
/// | `seal_table_full` | entries that had to make room |
/// | `too_large_for_way` | datagrams that the kernel found too large for the way: went by TCP |
/// | `tcp_connected`, `tcp_accepted`, `tcp_turned_away`, `tcp_slow` | connections made, accepted, refused for their number, and ended because nothing (whole) came |
/// | `tcp_messages_sent`, `tcp_messages_received`, `tcp_failed`, `tcp_dropped`, `tcp_oversize` | large messages: sent, received, not sent because the peer does not take them, pushed out of a full queue, longer than allowed |
/// | `gossip_malformed`, `gossip_too_much` | messages kept from chitchat: none of its own, or with more in it than allowed |
/// | `messages_sent`, `messages_received`, `bytes_sent`, `bytes_received`, `send_failed` | gossip messages |
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GossipStats(pub BTreeMap<&'static str, u64>);

impl GossipStats {
    /// The counter called `name`; zero if it never counted.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How many values could not be read, whatever the reason.
    pub fn undecodable(&self) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with("undecodable_")).map(|(_, n)| n).sum()
    }
}

/// One life of another host, as gossip hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Whom.
    pub host: HostId,
    /// Which life of it.
    pub incarnation: u64,
    /// Where it gossips.
    pub addr: SocketAddr,
    /// How long ago its heartbeat last moved; `None`: not since we met it.
    pub last_heard: Option<Duration>,
    /// From a question to its answer, where it has been measured. It includes
    /// what both daemons take.
    pub round_trip: Option<RoundTrip>,
    /// Values of it that could not be read.
    pub undecodable: u64,
}

/// A [`PeerInfo`] without what depends on the time of asking.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) info: PeerInfo,
    pub(crate) at: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct Counters {
    numbers: Mutex<BTreeMap<&'static str, u64>>,
    peers: Mutex<Vec<Heard>>,
    trips: Mutex<RoundTrips>,
    sources: Mutex<Sources>,
}

impl Counters {
    /// Waits until the counter called `name` is at least `n`.
    #[cfg(test)]
    pub(crate) async fn reach(&self, name: &str, n: u64) {
        use std::time::Duration;
        let enough = async {
            while self.read().get(name) < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(20), enough).await;
        came.unwrap_or_else(|_| panic!("{name} < {n}: {:?}", self.read()));
    }

    pub(crate) fn add(&self, name: &'static str, n: u64) {
        *lock(&self.numbers).entry(name).or_default() += n;
    }

    /// A message was refused.
    pub(crate) fn refuse(&self, from: SocketAddr, why: Why, now: Instant) {
        self.add(why.counter(), 1);
        lock(&self.sources).refused(from, why, now);
    }

    /// A peer says that it refuses ours.
    pub(crate) fn refused_by(&self, peer: SocketAddr, now: Instant) {
        self.add("seal_refused_by_peer", 1);
        lock(&self.sources).refuses_us(peer, now);
    }

    pub(crate) fn refusals(&self, now: Instant) -> Refusals {
        lock(&self.sources).read(now)
    }

    /// A SYN has left for there.
    pub(crate) fn asked(&self, peer: SocketAddr, now: Instant) {
        lock(&self.trips).asked(peer, now);
    }

    /// A SYN-ACK has come from there.
    pub(crate) fn answered(&self, peer: SocketAddr, now: Instant) {
        lock(&self.trips).answered(peer, now);
    }

    pub(crate) fn read(&self) -> GossipStats {
        GossipStats(lock(&self.numbers).clone())
    }

    pub(crate) fn set_peers(&self, peers: Vec<Heard>, now: Instant) {
        let addrs: HashSet<SocketAddr> = peers.iter().map(|peer| peer.info.addr).collect();
        lock(&self.trips).keep(&addrs, now);
        *lock(&self.peers) = peers;
    }

    pub(crate) fn peers(&self, now: Instant) -> Vec<PeerInfo> {
        let heard = lock(&self.peers).clone();
        let trips = lock(&self.trips);
        let since = |at: Instant| now.saturating_duration_since(at);
        let info = |Heard { info, at }: Heard| PeerInfo {
            last_heard: at.map(since),
            round_trip: trips.of(info.addr, now),
            ..info
        };
        heard.into_iter().map(info).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
