//! Turns what chitchat holds into an exact stream of [`ClusterEvent`]s.
//!
//! ```text
//!   chitchat's node states ──► View::read(states, now) ──► events
//!                                 what was told before
//! ```
//!
//! It reads states, never change notices: a notice says only where to look
//! again. So a record that vanishes without one (chitchat's resets do that), a
//! notice that comes twice or late, and a restart of chitchat itself all end in
//! the same stream. For each (host, incarnation), and checked in `view/tests.rs`:
//!
//! 1. **Every record that stands is told once**, in the order of its versions,
//!    and again only when its owner writes it anew.
//! 2. **[`RecordKey::Host`] is first told when all else is**: that is, when
//!    [`END`] is here, which the owner always writes last. Without this, a host
//!    that wrote records after its own description would look complete too
//!    early, and a restarted daemon would remove what it has not heard of yet.
//! 3. **A told record that stands no longer is told as gone**, once; a record
//!    is never taken for gone while its owner's state is only half here.
//! 4. **Nothing that we cannot read is told**, nor does it take back what was
//!    told under its key before.
//!
//! Liveness is ours, not chitchat's: its phi accrual takes heartbeats as often
//! as messages come, and every change sends messages. A burst of changes fills
//! its window with gaps of milliseconds; then the ordinary interval of 500 ms
//! looks like death (measured with three hosts and phi 6: patience falls from
//! 1.36 s to 0.17 s after 400 changes, and everybody flaps). We ask only whether
//! the heartbeat has moved within [`View::silent_after`], or, of a life that has
//! a successor, within less: the host has moved, or two machines are one host.
//!
//! Two nodes of one name and one generation (a copied state directory, twice
//! the same incarnation) would speak as one life: the one that was met first
//! is told, the other only once that one is silent. That there are two, with
//! whatever incarnations, is told by `doubles`.
//!
//! There is no I/O and no clock here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{ChitchatId, NodeState, VersionedValue};
use overlay_model::{ClusterEvent, HostId, NetworkId, Record, RecordKey};
use tokio::time::Instant;

use crate::codec;
use crate::doubles::{Doubles, Sight};
use crate::look::Changed;
use crate::push::{Change, Push};
use crate::stats::{Counters, Heard, PeerInfo};
use crate::told::Told;

/// The key of a node's full [`HostId`]; written first, never changed.
pub(crate) const ID: &str = "id";

/// The key that is always written last: who has it has everything before it.
pub(crate) const END: &str = "end";

/// So many silent intervals make a host suspect, in a cluster of up to 32; the
/// last heartbeat of the dead is on its way for three more, at worst.
const SILENT_INTERVALS: f64 = 2.5;

/// News takes longer to get around in a large one (3.6 intervals at a thousand
/// hosts): so many intervals for each doubling of the cluster, if that is more.
const SILENT_INTERVALS_PER_DOUBLING: f64 = 0.5;

/// A host is asked directly from this share of the silence that makes it
/// suspect: a heartbeat that was lost on its way through others may come straight.
const ASKED_FROM: f64 = 0.8;
/// And for so many intervals after it became suspect.
const ASKED_INTERVALS: u32 = 4;

/// So many silent intervals end a life that has a successor.
const SILENT_INTERVALS_OF_FORMER: f64 = 2.0;

/// Warnings about undecodable values come no faster than this.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How many times a heartbeat must move before we believe it: the first values
/// of a newcomer may be old ones, told by others.
const BELIEVED_AFTER: u32 = 2;

pub(crate) struct View {
    own_host: HostId,
    own_id: ChitchatId,
    interval: Duration,
    dead_grace: Duration,
    nodes: BTreeMap<ChitchatId, Node>,
    counters: Arc<Counters>,
    /// Grows when chitchat is restarted and begins with an empty state.
    life_of_chitchat: u64,
    last_read: Option<Instant>,
    last_warning: Option<Instant>,
    born: Instant,
    doubles: Doubles,
    last_summary: Option<Instant>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It followed on what we have.
    Complete,
    /// Another before it is missing: ask the origin, which gossips there.
    Gap(SocketAddr),
    /// Its host is not known, or not all here yet: ask whoever sent it.
    Unknown,
}

/// One node of chitchat: one life of one host.
struct Node {
    /// Known once [`ID`] has come.
    host: Option<HostId>,
    /// A second node with this name and generation: somebody is confused.
    doubled: bool,
    /// Last read of chitchat's (max version, last garbage-collected version).
    seen: (u64, u64),
    /// Every value of `seen` has been looked at: only what is noted since is new.
    looked_through: bool,
    /// All records of versions up to this have been told or found unreadable.
    told_up_to: u64,
    /// Versions beyond `told_up_to` that a push has told already.
    ahead: BTreeMap<RecordKey, u64>,
    /// The number of the last push.
    pushes: u64,
    /// What stands, as far as told.
    told: Told,
    /// The host's own record, until all else is here.
    held: Option<Box<Record>>,
    /// A reset may have removed records; look for them once all is here again.
    may_lack: bool,
    /// [`END`] is here.
    complete: bool,
    pulse: Pulse,
    met: Instant,
    undecodable: u64,
    /// What was said of its life: alive or silent.
    said_alive: Option<bool>,
    life_of_chitchat: u64,
    warned: bool,
}

/// The heartbeat of one node, and when it last moved.
struct Pulse {
    beat: u64,
    moves: u32,
    moved: Instant,
    alive: bool,
}

impl Pulse {
    fn read(&mut self, beat: u64, now: Instant, silent_after: Duration) {
        if beat > self.beat {
            // From zero to something is no movement: nobody has spoken yet.
            if self.beat != 0 {
                self.moves += 1;
                self.moved = now;
            }
            self.beat = beat;
        }
        if now.duration_since(self.moved) > silent_after {
            self.alive = false;
            self.moves = 0;
        } else if self.moves >= BELIEVED_AFTER {
            self.alive = true;
        }
    }
}

impl View {
    pub(crate) fn new(
        own_host: HostId,
        own_id: ChitchatId,
        interval: Duration,
        dead_grace: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            own_host,
            own_id,
            interval,
            dead_grace,
            nodes: BTreeMap::new(),
            counters,
            life_of_chitchat: 0,
            last_read: None,
            last_warning: None,
            born: Instant::now(),
            doubles: Doubles::default(),
            last_summary: None,
        }
    }

    /// Chitchat begins anew, as `own_id`, and knows nobody: what it does not
    /// hold is not forgotten before the grace is over.
    pub(crate) fn restarted(&mut self, own_id: ChitchatId) {
        self.own_id = own_id;
        self.life_of_chitchat += 1;
    }

    /// How many nodes are known, alive or not.
    pub(crate) fn hosts(&self) -> usize {
        self.nodes.len()
    }

    /// How long a heartbeat may stand still.
    pub(crate) fn silent_after(&self) -> Duration {
        let doublings = (self.hosts().max(1) as f64).log2();
        self.interval.mul_f64(SILENT_INTERVALS.max(SILENT_INTERVALS_PER_DOUBLING * doublings))
    }

    /// Gossip addresses of the nodes that are alive, without ours.
    pub(crate) fn live_peers(&self) -> BTreeSet<SocketAddr> {
        self.peers(|node, _| node.pulse.alive)
    }

    /// Gossip addresses of the nodes that may well listen: alive, or too new
    /// to tell.
    pub(crate) fn hopeful_peers(&self, now: Instant) -> BTreeSet<SocketAddr> {
        self.peers(|node, silent_after| {
            node.pulse.alive || now.duration_since(node.pulse.moved) <= silent_after
        })
    }

    /// Where the nodes are reached that are about to fall silent, or did a
    /// moment ago.
    pub(crate) fn lately_silent(&self, now: Instant) -> BTreeSet<SocketAddr> {
        let asked = self.interval * ASKED_INTERVALS;
        self.peers(|node, silent_after| {
            let silent = now.duration_since(node.pulse.moved);
            match node.said_alive {
                // Who was suspect is believed after the second answer only.
                Some(false) => silent <= silent_after + asked,
                Some(true) => silent >= silent_after.mul_f64(ASKED_FROM),
                None => false,
            }
        })
    }

    fn peers(&self, choose: impl Fn(&Node, Duration) -> bool) -> BTreeSet<SocketAddr> {
        let silent_after = self.silent_after();
        self.nodes
            .iter()
            .filter(|(id, node)| {
                choose(node, silent_after)
                    && id.gossip_advertise_addr != self.own_id.gossip_advertise_addr
            })
            .map(|(id, _)| id.gossip_advertise_addr)
            .collect()
    }

    /// When silence alone makes something to tell or to ask, if nothing comes
    /// before. In an interval at the latest: our own absence is noticed by that.
    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        let usual = self.silent_after();
        let silences = self.nodes.iter().filter_map(|(id, node)| {
            let silence = self.silence_of(id, usual);
            let asked = silence.mul_f64(ASKED_FROM);
            match node.said_alive {
                Some(true) if now < node.pulse.moved + asked => Some(node.pulse.moved + asked),
                Some(true) | None => Some(node.pulse.moved + silence),
                Some(false) => None,
            }
        });
        // Silent is who is so for longer than that.
        let moment = Duration::from_millis(1);
        silences.map(|at| at.max(now) + moment).fold(now + self.interval, Instant::min)
    }

    /// Until when it is fine not to look though a message came: heartbeats are
    /// as old as that when they are seen, and each look is at every node.
    pub(crate) fn soonest_look(&self) -> Option<Instant> {
        let often = self.interval / 128 * (self.hosts() / 16 + 1) as u32;
        Some(self.last_read? + often.min(self.interval / 4))
    }

    /// Says whether a live node has records that have not come yet.
    pub(crate) fn lacks_records(&self) -> bool {
        self.nodes.values().any(|node| node.pulse.alive && !node.complete && !node.doubled)
    }

    /// A figure that changes with everything learnt.
    pub(crate) fn learnt(&self) -> u64 {
        learnt(self.nodes.values())
    }

    /// The same of the nodes that are reached there.
    pub(crate) fn learnt_of(&self, addr: SocketAddr) -> u64 {
        let there = self.nodes.iter().filter(|(id, _)| id.gossip_advertise_addr == addr);
        learnt(there.map(|(_, node)| node))
    }

    /// Compares with what was told, and tells the difference. `changed`: every
    /// key that was written since the last call, if that is known. `suspicious`
    /// looks for vanished records too, which otherwise waits for a reason.
    pub(crate) fn read(
        &mut self,
        states: &BTreeMap<ChitchatId, NodeState>,
        changed: Option<Changed>,
        now: Instant,
        suspicious: bool,
    ) -> Vec<ClusterEvent> {
        let mut events = Vec::new();
        self.forgive_our_own_absence(now);
        let silent_after = self.silent_after();
        for (id, state) in states {
            if *id == self.own_id {
                continue;
            }
            if !self.nodes.contains_key(id) {
                let node = self.meet(id, state, now);
                self.nodes.insert(id.clone(), node);
            }
            let silent_after = self.silence_of(id, silent_after);
            let Some(node) = self.nodes.get_mut(id) else { continue };
            if std::mem::replace(&mut node.life_of_chitchat, self.life_of_chitchat)
                != self.life_of_chitchat
            {
                node.looked_through = false;
            }
            node.pulse.read(state.heartbeat().into(), now, silent_after);
            if node.doubled && !self.takes_over(id, &mut events) {
                continue;
            }
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.may_lack |= suspicious;
            if node.may_lack || node.seen != (state.max_version(), state.last_gc_version()) {
                let changed = changed.as_ref().filter(|_| !suspicious);
                let noted = changed.map(|all| all.get(id).map_or(&[][..], Vec::as_slice));
                self.read_records(id, state, noted, now, &mut events);
            }
            self.tell_life(id, now, silent_after, &mut events);
        }
        self.forget_missing(states, now, silent_after, &mut events);
        let news = |event: &ClusterEvent| {
            matches!(
                event,
                ClusterEvent::Alive { .. } | ClusterEvent::Record { key: RecordKey::Host, .. }
            )
        };
        // Whom we have just met is somebody for whoever asks next.
        let due = self.last_summary.is_none_or(|last| now >= last + self.interval / 4);
        if due || events.iter().any(news) {
            self.last_summary = Some(now);
            self.sum_up(now, silent_after, &mut events);
        }
        self.counters.add("events", events.len() as u64);
        events
    }

    /// Takes changes that their owner has sent at once.
    pub(crate) fn pushed(&mut self, push: Push, now: Instant) -> (Vec<ClusterEvent>, Pushed) {
        let mut events = Vec::new();
        let (host, incarnation) = (push.host, push.incarnation);
        let name = host.short();
        let lives = self.nodes.range_mut(first_of(&name, incarnation)..);
        let found = lives
            .take_while(|(id, _)| *id.node_id == name && id.generation_id == incarnation)
            .find(|(_, node)| node.host == Some(host) && !node.doubled);
        // Before its own record is told, a host is not all here: order matters then.
        let Some((id, node)) = found.filter(|(_, node)| node.told.contains(RecordKey::Host)) else {
            return (events, Pushed::Unknown);
        };
        // As good as a heartbeat, once it is believed to live.
        node.pulse.moved = node.pulse.moved.max(now);
        for Change { version, key, value } in push.changes {
            let Ok(key) = key.parse::<RecordKey>() else {
                self.counters.add("unknown_key", 1);
                continue;
            };
            let old = version <= node.told_up_to
                || node.ahead.get(&key).is_some_and(|pushed| *pushed >= version);
            if old {
                continue;
            }
            let record = match value.map(|bytes| codec::decode_bytes(host, key, &bytes)) {
                None => None,
                Some(Ok(record)) => Some(Box::new(record)),
                // Chitchat brings it as well, and then it is told in the log.
                Some(Err(err)) => {
                    self.counters.add(err.counter(), 1);
                    continue;
                }
            };
            node.ahead.insert(key, version);
            let stood =
                if record.is_some() { !node.told.insert(key) } else { node.told.remove(key) };
            if record.is_some() || stood {
                events.push(ClusterEvent::Record { host, incarnation, key, record });
            }
        }
        let missed = if node.pushes == 0 {
            node.told_up_to < push.since
        } else {
            push.number > node.pushes + 1
        };
        node.pushes = node.pushes.max(push.number);
        self.counters.add("events", events.len() as u64);
        let outcome = if missed { Pushed::Gap(id.gossip_advertise_addr) } else { Pushed::Complete };
        (events, outcome)
    }

    /// Where the hosts are reached that have endpoints on `net`.
    pub(crate) fn users(&self, net: NetworkId) -> BTreeSet<SocketAddr> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.told.uses(net))
            .map(|(id, _)| id.gossip_advertise_addr)
            .collect()
    }

    /// A pause of ours (a suspended machine, a starved one) is no silence of
    /// everybody else: what we slept through does not count.
    fn forgive_our_own_absence(&mut self, now: Instant) {
        if let Some(last) = self.last_read.replace(now) {
            let gap = now.duration_since(last);
            if gap > self.interval * 2 {
                for node in self.nodes.values_mut() {
                    node.pulse.moved += gap;
                }
            }
        }
    }

    fn meet(&self, id: &ChitchatId, state: &NodeState, now: Instant) -> Node {
        let doubled = self.nodes.keys().any(|other| {
            other.node_id == id.node_id
                && other.generation_id == id.generation_id
                && other.gossip_advertise_addr != id.gossip_advertise_addr
        });
        let ours_too =
            id.node_id == self.own_id.node_id && id.generation_id == self.own_id.generation_id;
        if doubled || ours_too {
            self.counters.add("conflicts", 1);
            tracing::error!(
                node = %id.node_id, incarnation = id.generation_id, addr = %id.gossip_advertise_addr,
                "two hosts claim one identity and one incarnation; is the state directory a copy? \
                 delete it on one of them",
            );
        }
        Node {
            host: None,
            doubled: doubled || ours_too,
            seen: (0, 0),
            looked_through: false,
            told_up_to: 0,
            ahead: BTreeMap::new(),
            pushes: 0,
            told: Told::default(),
            held: None,
            may_lack: false,
            complete: false,
            met: now,
            undecodable: 0,
            pulse: Pulse { beat: state.heartbeat().into(), moves: 0, moved: now, alive: false },
            said_alive: None,
            life_of_chitchat: self.life_of_chitchat,
            warned: false,
        }
    }

    /// How long the heartbeat of `id` may stand still.
    fn silence_of(&self, id: &ChitchatId, usual: Duration) -> Duration {
        let after = (Bound::Excluded(id), Bound::Unbounded);
        let mut same = self.nodes.range(after).take_while(|(other, _)| other.node_id == id.node_id);
        if same.any(|(other, _)| other.generation_id > id.generation_id) {
            usual.mul_f64(SILENT_INTERVALS_OF_FORMER / SILENT_INTERVALS)
        } else {
            usual
        }
    }

    /// A node whose twin spoke first: its turn comes when the twin is silent.
    /// What the twin said is taken back, since both are told as one life.
    fn takes_over(&mut self, id: &ChitchatId, events: &mut Vec<ClusterEvent>) -> bool {
        let is_twin = |other: &ChitchatId| {
            other.node_id == id.node_id && other.generation_id == id.generation_id && other != id
        };
        if is_twin(&self.own_id) || !self.nodes.get(id).is_some_and(|node| node.pulse.alive) {
            return false;
        }
        let mut twins = self.nodes.iter_mut().filter(|(other, _)| is_twin(other));
        if let Some((_, twin)) = twins.find(|(_, twin)| !twin.doubled) {
            if twin.pulse.alive {
                return false;
            }
            for key in std::mem::take(&mut twin.told).iter() {
                let Some(host) = twin.host else { continue };
                let incarnation = id.generation_id;
                events.push(ClusterEvent::Record { host, incarnation, key, record: None });
            }
            (twin.doubled, twin.told_up_to, twin.held, twin.said_alive) = (true, 0, None, None);
            (twin.seen, twin.complete, twin.pushes) = ((0, 0), false, 0);
            twin.looked_through = false;
            twin.ahead.clear();
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.doubled = false;
        }
        true
    }

    /// Says who is heard, and who is heard twice.
    fn sum_up(&mut self, now: Instant, silent_after: Duration, events: &mut Vec<ClusterEvent>) {
        // A twin has said nothing: it is whom its twin says.
        let hosts: BTreeMap<&str, HostId> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((&*id.node_id, node.host?)))
            .chain([(&*self.own_id.node_id, self.own_host)])
            .collect();
        let host_of =
            |id: &ChitchatId, node: &Node| node.host.or_else(|| hosts.get(&*id.node_id).copied());
        let peers = self.nodes.iter().filter_map(|(id, node)| {
            let info = PeerInfo {
                host: host_of(id, node)?,
                incarnation: id.generation_id,
                addr: id.gossip_advertise_addr,
                last_heard: None,
                round_trip: None,
                undecodable: node.undecodable,
            };
            Some(Heard { info, at: (node.pulse.moved > node.met).then_some(node.pulse.moved) })
        });
        self.counters.set_peers(peers.collect(), now);
        let us = Sight {
            host: self.own_host,
            addr: self.own_id.gossip_advertise_addr,
            met: self.born,
            moved: now,
        };
        let sights = self.nodes.iter().filter_map(|(id, node)| {
            let addr = id.gossip_advertise_addr;
            let (met, moved) = (node.met, node.pulse.moved);
            Some(Sight { host: host_of(id, node)?, addr, met, moved })
        });
        // A former life moves once more while its last heartbeat gets around.
        let beside = silent_after + self.interval;
        events.extend(self.doubles.look(sights.chain([us]), now, beside));
    }

    fn read_records(
        &mut self,
        id: &ChitchatId,
        state: &NodeState,
        noted: Option<&[String]>,
        now: Instant,
        events: &mut Vec<ClusterEvent>,
    ) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let reset = state.last_gc_version() != node.seen.1 || state.max_version() < node.seen.0;
        node.may_lack |= reset;
        // Where to look, unless it is everywhere.
        let noted = noted.filter(|_| node.looked_through && !reset);
        node.looked_through = false;
        node.seen = (state.max_version(), state.last_gc_version());
        let host = match node.host {
            Some(host) => host,
            None => match identity(id, state) {
                Ok(Some(host)) => {
                    node.host = Some(host);
                    self.check_identity(id, host);
                    host
                }
                // Not here yet; its arrival raises the version.
                Ok(None) => return,
                Err(()) => {
                    self.counters.add("bad_identity", 1);
                    return;
                }
            },
        };
        let Some(node) = self.nodes.get_mut(id) else { return };
        let incarnation = id.generation_id;
        let event = |key, record| ClusterEvent::Record { host, incarnation, key, record };
        node.complete = state.get(END).is_some();

        let is_news = |(key, value): &(&str, &VersionedValue)| {
            value.version > node.told_up_to && *key != ID && *key != END
        };
        let mut news: Vec<_> = match noted {
            Some(keys) => keys
                .iter()
                .filter_map(|key| Some((key.as_str(), state.get_versioned(key)?)))
                .filter(is_news)
                .collect(),
            None => state.key_values_including_deleted().filter(is_news).collect(),
        };
        news.sort_unstable_by_key(|(_, value)| value.version);
        // A key may be noted twice.
        news.dedup_by_key(|(_, value)| value.version);
        for (text, value) in news {
            let Ok(key) = text.parse::<RecordKey>() else {
                self.counters.add("unknown_key", 1);
                continue;
            };
            if node.ahead.get(&key).is_some_and(|pushed| *pushed >= value.version) {
                continue;
            }
            if value.value.is_empty() || value.is_deleted() {
                if key == RecordKey::Host {
                    node.held = None;
                }
                if node.told.remove(key) {
                    events.push(event(key, None));
                }
                continue;
            }
            match codec::decode(host, key, &value.value) {
                Ok(record) => {
                    self.counters.add("records_decoded", 1);
                    if key == RecordKey::Host && !node.told.contains(key) {
                        node.held = Some(Box::new(record));
                    } else {
                        node.told.insert(key);
                        events.push(event(key, Some(Box::new(record))));
                    }
                }
                Err(err) => {
                    node.undecodable += 1;
                    self.counters.add(err.counter(), 1);
                    let quiet = self.last_warning.is_none_or(|last| now - last > WARN_EVERY);
                    if !node.warned && quiet {
                        node.warned = true;
                        self.last_warning = Some(now);
                        tracing::warn!(
                            host = %host, %err, record = %codec::Place { host, key: text },
                            "a host publishes a record that cannot be read; it is passed on and \
                             otherwise ignored (further ones of this host are only counted)",
                        );
                    }
                }
            }
        }
        node.looked_through = true;
        node.told_up_to = node.told_up_to.max(state.max_version());
        let told_up_to = node.told_up_to;
        node.ahead.retain(|_, version| *version > told_up_to);

        if node.complete {
            if node.may_lack {
                node.may_lack = false;
                let gone: Vec<_> = node
                    .told
                    .iter()
                    .filter(|key| !node.ahead.contains_key(key))
                    .filter(|key| state.get(&key.to_string()).is_none_or(str::is_empty))
                    .collect();
                for key in gone {
                    node.told.remove(key);
                    events.push(event(key, None));
                }
            }
            if let Some(record) = node.held.take() {
                node.told.insert(RecordKey::Host);
                events.push(event(RecordKey::Host, Some(record)));
            }
        }
    }

    /// Says, loudly, when another host uses our identity.
    fn check_identity(&self, id: &ChitchatId, host: HostId) {
        if id.node_id != self.own_id.node_id {
            return;
        }
        if host != self.own_host {
            self.counters.add("conflicts", 1);
            tracing::error!(
                ours = %self.own_host, theirs = %host, addr = %id.gossip_advertise_addr,
                "another host's id begins like ours, which gossip cannot tell apart; delete the \
                 state directory on one of the two",
            );
        } else if id.generation_id > self.own_id.generation_id {
            self.counters.add("conflicts", 1);
            tracing::error!(
                host = %host, addr = %id.gossip_advertise_addr, incarnation = id.generation_id,
                ours = self.own_id.generation_id,
                "another host uses our id with a later incarnation; is the state directory a copy? \
                 delete it on one of them",
            );
        }
    }

    fn tell_life(
        &mut self,
        id: &ChitchatId,
        now: Instant,
        silent_after: Duration,
        events: &mut Vec<ClusterEvent>,
    ) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let Some(host) = node.host else { return };
        let incarnation = id.generation_id;
        // A node that never spoke is silent once it had the time to.
        let undecided = !node.pulse.alive && now.duration_since(node.pulse.moved) <= silent_after;
        if (undecided && node.said_alive.is_none()) || node.said_alive == Some(node.pulse.alive) {
            return;
        }
        node.said_alive = Some(node.pulse.alive);
        events.push(if node.pulse.alive {
            ClusterEvent::Alive { host, incarnation }
        } else {
            ClusterEvent::Silent { host, incarnation }
        });
    }

    fn forget_missing(
        &mut self,
        states: &BTreeMap<ChitchatId, NodeState>,
        now: Instant,
        silent_after: Duration,
        events: &mut Vec<ClusterEvent>,
    ) {
        let missing: Vec<_> =
            self.nodes.keys().filter(|id| !states.contains_key(*id)).cloned().collect();
        for id in missing {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let beat = node.pulse.beat;
            node.pulse.read(beat, now, silent_after);
            // Chitchat of an earlier life knew it, this one has not met it yet.
            let waits = node.life_of_chitchat != self.life_of_chitchat
                && now.duration_since(node.pulse.moved) < self.dead_grace;
            if waits {
                self.tell_life(&id, now, silent_after, events);
            } else if let Some(Node { host: Some(host), .. }) = self.nodes.remove(&id) {
                events.push(ClusterEvent::Forgotten { host, incarnation: id.generation_id });
            }
        }
    }
}

/// What comes before every node of this name and generation, in their order.
fn first_of(node_id: &str, generation: u64) -> ChitchatId {
    ChitchatId::new(node_id, generation, SocketAddr::from(([0; 4], 0)))
}

/// A figure that changes with everything learnt of `nodes`.
fn learnt<'a>(nodes: impl Iterator<Item = &'a Node>) -> u64 {
    // Versions are what others say: they may be of any size.
    nodes.fold(0, |sum: u64, node| sum.wrapping_add(node.seen.0).wrapping_add(1))
}

/// The host that `state` says it is of. `Ok(None)`: it has not said so yet.
fn identity(id: &ChitchatId, state: &NodeState) -> Result<Option<HostId>, ()> {
    let Some(text) = state.get(ID) else { return Ok(None) };
    let host: HostId = text.parse().map_err(|_| ())?;
    if host.short() == *id.node_id { Ok(Some(host)) } else { Err(()) }
}

#[cfg(test)]
mod tests;
