use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chitchat::{
    Chitchat, ChitchatConfig, DeletionStatus, FailureDetectorConfig, ProtocolVersion,
    VersionedValue,
};
use overlay_model::{ClusterEvent, EndpointId, NetworkId, Record, RecordKey, RingToken};
use proptest::prelude::*;
use tokio::sync::watch;
use uuid::Uuid;

use super::*;
use crate::codec::tests::{OWNER, endpoint, host};
use crate::look::{Changed, Look};

const INTERVAL: Duration = Duration::from_millis(500);
const US: HostId = HostId(Uuid::from_u128(0x9999 << 112));

fn node(host: HostId, generation: u64, last_octet: u8) -> ChitchatId {
    ChitchatId::new(host.short(), generation, ([192, 0, 2, last_octet], 7946).into())
}

fn them() -> ChitchatId {
    node(OWNER, 1, 1)
}

/// One host's chitchat without a network, and the view of it.
struct Desk {
    chitchat: Chitchat,
    view: View,
    now: Instant,
    counters: Arc<Counters>,
    look: Look,
    versions: BTreeMap<ChitchatId, (u64, u64)>,
}

impl Desk {
    fn new() -> Self {
        let (_, seeds) = watch::channel(HashSet::new());
        let id = node(US, 5, 9);
        let config = ChitchatConfig {
            chitchat_id: id.clone(),
            cluster_id: "test".to_owned(),
            gossip_interval: INTERVAL,
            listen_addr: id.gossip_advertise_addr,
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(900),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let counters = Arc::new(Counters::default());
        Self {
            chitchat: Chitchat::with_chitchat_id_and_seeds(config, seeds, Vec::new()),
            view: View::new(US, id, INTERVAL, Duration::from_secs(900), counters.clone()),
            now: Instant::now(),
            counters,
            look: Look::default(),
            versions: BTreeMap::new(),
        }
    }

    /// Makes chitchat hold these (key, value, version) of `id`, and nothing else.
    fn holds(&mut self, id: &ChitchatId, gc: u64, keys: &[(String, String, u64)]) {
        let max = keys.iter().map(|key| key.2).max().unwrap_or(0);
        self.holds_up_to(id, gc, max, keys);
    }

    fn holds_up_to(&mut self, id: &ChitchatId, gc: u64, max: u64, keys: &[(String, String, u64)]) {
        // chitchat takes only what is later by (gc, max): make it so.
        assert!(self.versions.insert(id.clone(), (gc, max)) < Some((gc, max)), "test goes back");
        // It notes what it writes anew; that something is gone it does not note.
        let held = self.chitchat.node_state(id);
        for (key, _, version) in keys {
            if held.and_then(|state| state.get_versioned(key)).is_none_or(|v| v.version != *version)
            {
                self.look.note(id, key);
            }
        }
        let keys = keys.iter().map(|(key, value, version)| {
            let status = DeletionStatus::Set;
            (key.clone(), VersionedValue { value: value.clone(), version: *version, status })
        });
        self.chitchat.reset_node_state_if_update(id, keys, max, gc);
    }

    fn read(&mut self) -> Vec<String> {
        let events = self.view.read(self.chitchat.node_states(), self.look.take(), self.now, false);
        events.iter().map(brief).collect()
    }
}

/// An event as a word or two: `1.host`, `1.-ep/…`, `1 silent`.
fn brief(event: &ClusterEvent) -> String {
    match event {
        ClusterEvent::Alive { incarnation, .. } => format!("{incarnation} alive"),
        ClusterEvent::Silent { incarnation, .. } => format!("{incarnation} silent"),
        ClusterEvent::Forgotten { incarnation, .. } => format!("{incarnation} forgotten"),
        ClusterEvent::Doubled { addrs, .. } => format!("{} machines", addrs.len()),
        ClusterEvent::Record { incarnation, key, record, .. } => {
            let key = key.to_string().replace("/0000000000000007/00000000000", "");
            format!("{incarnation}.{}{key}", if record.is_some() { "" } else { "-" })
        }
    }
}

fn put((key, record): (RecordKey, Record), version: u64) -> (String, String, u64) {
    (key.to_string(), codec::encode(&record).unwrap(), version)
}
fn gone((key, _): (RecordKey, Record), version: u64) -> (String, String, u64) {
    (key.to_string(), String::new(), version)
}
fn id(version: u64) -> (String, String, u64) {
    (ID.to_owned(), OWNER.to_string(), version)
}
fn end(version: u64) -> (String, String, u64) {
    (END.to_owned(), version.to_string(), version)
}
fn junk(key: &str, value: &str, version: u64) -> (String, String, u64) {
    (key.to_owned(), value.to_owned(), version)
}

#[test]
fn records_are_told_in_the_order_of_their_versions() {
    let mut desk = Desk::new();
    desk.holds(
        &them(),
        0,
        &[id(1), put(endpoint(5), 4), put(endpoint(6), 2), put(host("a"), 5), end(6)],
    );
    assert_eq!(desk.read(), ["1.ep6", "1.ep5", "1.host"]);
    assert_eq!(desk.read(), [""; 0]);
}

#[test]
fn the_host_is_told_when_all_that_it_wrote_is_here() {
    let mut desk = Desk::new();
    // It attached endpoint 5 long after it described itself.
    let first = [id(1), put(endpoint(6), 2), put(host("a"), 3)];
    desk.holds(&them(), 0, &first);
    assert_eq!(desk.read(), ["1.ep6"]);
    desk.holds(&them(), 0, &[&first[..], &[put(endpoint(5), 5), end(6)]].concat());
    assert_eq!(desk.read(), ["1.ep5", "1.host"]);
}

/// Hosts of every version look for these.
#[test]
fn the_keys_that_frame_a_hosts_records_have_these_texts_for_ever() {
    assert_eq!((ID, END), ("id", "end"));
    assert_eq!(OWNER.to_string(), "11112222-3333-4444-5555-666677778888");
    assert_eq!(OWNER.short(), "1111222233");
}

#[test]
fn versions_of_any_size_are_only_numbers() {
    let mut desk = Desk::new();
    for (n, octet) in [(u64::MAX, 1), (u64::MAX - 1, 2)] {
        let id = node(OWNER, n, octet);
        desk.holds(&id, 0, &[junk("later", "x", n)]);
        desk.read();
    }
    let learnt = desk.view.learnt();
    desk.holds(&node(OWNER, 5, 3), 0, &[junk("later", "x", 7)]);
    desk.read();
    assert_ne!(desk.view.learnt(), learnt, "there is something new");
}

#[test]
fn nothing_is_told_of_a_node_before_its_full_identity() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[put(host("a"), 2), end(3)]);
    assert_eq!(desk.read(), [""; 0]);
    desk.holds(&them(), 0, &[put(host("a"), 2), end(3), id(4)]);
    assert_eq!(desk.read(), ["1.host"]);
}

#[test]
fn an_identity_that_does_not_fit_the_nodes_name_is_counted_and_believed_never() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[junk(ID, &US.to_string(), 1), put(host("a"), 2), end(3)]);
    assert_eq!(desk.read(), [""; 0]);
    assert_eq!(desk.counters.read().get("bad_identity"), 1);
}

#[test]
fn a_withdrawal_is_told_once_and_only_of_what_was_told() {
    let mut desk = Desk::new();
    let rest = [id(1), put(host("a"), 3), end(4)];
    desk.holds(&them(), 0, &[&rest[..], &[put(endpoint(5), 2)]].concat());
    assert_eq!(desk.read(), ["1.ep5", "1.host"]);
    let gone = [gone(endpoint(5), 5), gone(endpoint(6), 6)];
    desk.holds(&them(), 0, &[&rest[..], &gone, &[end(7)]].concat());
    assert_eq!(desk.read(), ["1.-ep5"]);
}

#[test]
fn a_reset_that_is_half_here_takes_nothing_back() {
    let mut desk = Desk::new();
    let full = [id(1), put(endpoint(5), 2), put(endpoint(6), 3), put(host("a"), 4), end(5)];
    desk.holds(&them(), 0, &full);
    assert_eq!(desk.read(), ["1.ep5", "1.ep6", "1.host"]);
    // Endpoint 5 was withdrawn and collected while we were away; the first
    // datagram of the reset brings the identity alone.
    desk.holds_up_to(&them(), 8, 1, &[id(1)]);
    assert_eq!(desk.read(), [""; 0]);
    desk.holds(&them(), 8, &[id(1), put(endpoint(6), 3), put(host("a"), 4), end(9)]);
    assert_eq!(desk.read(), ["1.-ep5"]);
}

#[test]
fn what_cannot_be_read_is_counted_and_takes_nothing_back() {
    let mut desk = Desk::new();
    let rest = [id(1), put(host("a"), 3)];
    desk.holds(&them(), 0, &[&rest[..], &[put(endpoint(5), 2), end(4)]].concat());
    desk.read();
    let key = endpoint(5).0.to_string();
    desk.holds(
        &them(),
        0,
        &[&rest[..], &[junk(&key, "!", 5), junk("soup", "x", 6), junk("net/7", "AQ", 7), end(8)]]
            .concat(),
    );
    assert_eq!(desk.read(), [""; 0]);
    let stats = desk.counters.read();
    assert_eq!((stats.undecodable(), stats.get("unknown_key")), (1, 2));
    // Written properly again, and then withdrawn.
    desk.holds(&them(), 0, &[&rest[..], &[put(endpoint(5), 9), end(10)]].concat());
    assert_eq!(desk.read(), ["1.ep5"]);
    desk.holds(&them(), 0, &[&rest[..], &[gone(endpoint(5), 11), end(12)]].concat());
    assert_eq!(desk.read(), ["1.-ep5"]);
}

#[test]
fn two_lives_of_a_host_are_told_side_by_side() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), put(endpoint(5), 2), put(host("a"), 3), end(4)]);
    desk.holds(&node(OWNER, 2, 1), 0, &[id(1), put(host("a"), 2), end(3)]);
    assert_eq!(desk.read(), ["1.ep5", "1.host", "2.host"]);
}

#[test]
fn our_own_records_are_no_news_but_those_of_our_former_life_are() {
    let mut desk = Desk::new();
    desk.chitchat.self_node_state().set("host", "x");
    let our_id = |version| (ID.to_owned(), US.to_string(), version);
    desk.holds(&node(US, 4, 9), 0, &[our_id(1), put(endpoint(5), 2), end(3)]);
    assert_eq!(desk.read(), ["4.ep5"]);
    assert_eq!(desk.counters.read().get("conflicts"), 0);
    // A copy of our state directory, running elsewhere, started later.
    desk.holds(&node(US, 6, 8), 0, &[our_id(1), end(3)]);
    desk.read();
    assert_eq!(desk.counters.read().get("conflicts"), 1);
    // And one that has even our incarnation: nothing of it is told.
    desk.holds(&node(US, 5, 8), 0, &[our_id(1), put(endpoint(5), 2), end(3)]);
    assert_eq!(desk.read(), [""; 0]);
    assert_eq!(desk.counters.read().get("conflicts"), 2);
}

/// Makes the heart of `id` beat, or rest, for so many intervals.
fn live(desk: &mut Desk, beats: &[&ChitchatId], intervals: u32) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..intervals {
        desk.now += INTERVAL;
        for id in beats {
            let pulse = &mut desk.view.nodes.get_mut(*id).expect("met").pulse;
            (pulse.moved, pulse.alive, pulse.moves) = (desk.now, true, 2);
        }
        told.extend(desk.read());
    }
    told
}

#[test]
fn of_twins_one_is_told_and_the_other_when_that_one_is_silent() {
    let mut desk = Desk::new();
    let (first, second) = (node(OWNER, 1, 1), node(OWNER, 1, 2));
    let records = |ep| [id(1), put(endpoint(ep), 2), put(host("a"), 3), end(4)];
    desk.holds(&first, 0, &records(5));
    assert_eq!(desk.read(), ["1.ep5", "1.host"]);
    desk.holds(&second, 0, &records(6));
    assert_eq!(desk.read(), [""; 0]);
    assert_eq!(live(&mut desk, &[&first, &second], 3), ["1 alive"]);
    assert_eq!(live(&mut desk, &[&first, &second], 5), ["2 machines"], "that is all of it");
    assert_eq!(
        live(&mut desk, &[&second], 7),
        ["1 silent", "1.-host", "1.-ep5", "1.ep6", "1.host", "1 alive", "0 machines"]
    );
    // The first comes back, and is now the one that is not told.
    assert_eq!(live(&mut desk, &[&first, &second], 3), ["2 machines"]);
}

#[test]
fn a_host_that_was_heard_is_asked_straight_before_it_is_suspect() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), end(3)]);
    desk.read();
    assert_eq!(live(&mut desk, &[&them()], 2), ["1 alive"]);
    for tenths in [10, 9] {
        desk.now += INTERVAL * tenths / 10;
        assert_eq!(desk.read(), [""; 0]);
        assert_eq!(desk.view.lately_silent(desk.now), [].into());
    }
    desk.now += INTERVAL / 5;
    assert_eq!(desk.read(), [""; 0]);
    assert_eq!(desk.view.lately_silent(desk.now), [them().gossip_advertise_addr].into());
}

#[test]
fn a_former_life_is_silent_sooner_than_one_without_a_successor() {
    let mut desk = Desk::new();
    let (former, next) = (node(OWNER, 1, 1), node(OWNER, 2, 2));
    desk.holds(&former, 0, &[id(1), put(host("a"), 3), end(4)]);
    desk.read();
    assert_eq!(live(&mut desk, &[&former], 2), ["1 alive"]);
    desk.holds(&next, 0, &[id(1), put(host("a"), 3), end(4)]);
    assert_eq!(desk.read(), ["2.host"]);
    assert_eq!(live(&mut desk, &[&next], 2), ["2 alive"]);
    assert_eq!(live(&mut desk, &[&next], 1), ["1 silent"]);
    // A restart is no second machine, however long one looks.
    assert_eq!(live(&mut desk, &[&next], 20), [""; 0]);
}

#[test]
fn who_is_heard_and_when_is_summed_up() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), junk("host", "!", 2), end(4)]);
    desk.read();
    let heard = |desk: &Desk| {
        let all = desk.counters.peers(desk.now + Duration::from_millis(100));
        all.into_iter().map(|p| (p.host, p.addr, p.last_heard, p.undecodable)).collect::<Vec<_>>()
    };
    let addr = them().gossip_advertise_addr;
    assert_eq!(heard(&desk), [(OWNER, addr, None, 1)]);
    live(&mut desk, &[&them()], 1);
    assert_eq!(heard(&desk), [(OWNER, addr, Some(Duration::from_millis(100)), 1)]);
    live(&mut desk, &[], 2);
    assert_eq!(heard(&desk), [(OWNER, addr, Some(INTERVAL * 2 + Duration::from_millis(100)), 1)]);
}

/// The pulse alone: chitchat's heartbeats cannot be set from outside.
struct Wrist {
    pulse: Pulse,
    now: Instant,
}

impl Wrist {
    fn beats(&mut self, beat: u64, after_ms: u64) -> bool {
        self.now += Duration::from_millis(after_ms);
        self.pulse.read(beat, self.now, Duration::from_millis(2500));
        self.pulse.alive
    }
}

#[test]
fn a_heartbeat_that_moves_twice_is_alive_until_it_rests() {
    let now = Instant::now();
    let mut wrist = Wrist { pulse: Pulse { beat: 7, moves: 0, moved: now, alive: false }, now };
    assert!(!wrist.beats(8, 500), "once may be old news");
    assert!(wrist.beats(9, 500));
    assert!(wrist.beats(9, 2500), "at the limit");
    assert!(!wrist.beats(9, 1));
    assert!(!wrist.beats(10, 500), "once may be old news");
    assert!(wrist.beats(12, 500));
}

#[test]
fn a_burst_of_heartbeats_does_not_shorten_patience() {
    let now = Instant::now();
    let mut wrist = Wrist { pulse: Pulse { beat: 7, moves: 0, moved: now, alive: false }, now };
    for beat in 8..1000 {
        wrist.beats(beat, 1);
    }
    assert!(wrist.beats(999, 2500));
}

#[test]
fn a_reset_of_chitchat_does_not_bring_a_dead_host_to_life() {
    let now = Instant::now();
    let mut wrist = Wrist { pulse: Pulse { beat: 7, moves: 0, moved: now, alive: false }, now };
    wrist.beats(0, 100);
    wrist.beats(7, 100);
    assert!(!wrist.beats(7, 100));
}

#[test]
fn a_host_that_never_speaks_is_silent_when_it_had_the_time() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), end(3)]);
    assert_eq!(desk.read(), ["1.host"]);
    for _ in 0..2 {
        desk.now += INTERVAL;
        assert_eq!(desk.read(), [""; 0]);
    }
    assert_eq!(desk.view.lately_silent(desk.now), [].into());
    desk.now += INTERVAL;
    assert_eq!(desk.read(), ["1 silent"]);
    // It is asked straight away, for a while.
    assert_eq!(desk.view.lately_silent(desk.now), [them().gossip_advertise_addr].into());
    assert_eq!(desk.view.lately_silent(desk.now + INTERVAL * 5), [].into());
    desk.now += INTERVAL;
    assert_eq!(desk.read(), [""; 0]);
}

#[test]
fn a_pause_of_ours_silences_nobody() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), end(3)]);
    desk.read();
    desk.now += Duration::from_secs(3600);
    assert_eq!(desk.read(), [""; 0]);
}

#[test]
fn a_new_life_of_chitchat_forgets_nobody_before_the_grace_is_over() {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), end(3)]);
    desk.holds(&node(OWNER, 2, 1), 0, &[id(1), put(host("a"), 2), end(3)]);
    desk.read();
    let nothing = BTreeMap::new();
    desk.view.restarted(node(US, 6, 9));
    assert_eq!(desk.view.read(&nothing, None, desk.now, true), []);
    // The second life turns up again, and has changed a record meanwhile.
    let mut later = Desk::new();
    later.holds(&node(OWNER, 2, 1), 0, &[id(1), put(host("a"), 2), put(endpoint(5), 4), end(5)]);
    let events = desk.view.read(later.chitchat.node_states(), later.look.take(), desk.now, false);
    assert_eq!(events.iter().map(brief).collect::<Vec<_>>(), ["2.ep5"]);
    for _ in 0..900 {
        desk.now += Duration::from_secs(1);
        desk.view.read(later.chitchat.node_states(), later.look.take(), desk.now, false);
    }
    assert!(!desk.view.nodes.contains_key(&them()));
    // Within one life, what chitchat drops is forgotten at once.
    let events = desk.view.read(&nothing, None, desk.now, false);
    assert_eq!(events.iter().map(brief).collect::<Vec<_>>(), ["2 forgotten"]);
}

#[test]
fn patience_grows_with_the_cluster_beyond_a_hundred_hosts() {
    let mut desk = Desk::new();
    assert_eq!(desk.view.silent_after(), INTERVAL.mul_f64(2.5));
    for n in 0..1000u64 {
        let id = ChitchatId::new(format!("{n:010}"), 1, ([10, 0, 0, 1], 1).into());
        desk.holds(&id, 0, &[junk("x", "y", 1)]);
    }
    desk.read();
    assert!((INTERVAL * 4..INTERVAL * 6).contains(&desk.view.silent_after()));
}

// Any history of an owner, any way in which chitchat may bring it to us.

/// What an owner writes, as chitchat keeps it: (value, version) by key.
#[derive(Default)]
struct Owner {
    keys: BTreeMap<String, (String, u64)>,
    max: u64,
    gc: u64,
}

impl Owner {
    fn set(&mut self, key: String, value: String) {
        self.max += 1;
        self.keys.insert(key, (value, self.max));
    }

    /// Collects what was withdrawn.
    fn collect(&mut self) {
        let gone = self.keys.extract_if(.., |_, (value, _)| value.is_empty());
        self.gc = gone.map(|(_, (_, version))| version).max().unwrap_or(0).max(self.gc);
    }

    fn standing(&self) -> BTreeMap<RecordKey, String> {
        self.keys
            .iter()
            .filter(|(_, (value, _))| !value.is_empty())
            .filter_map(|(key, (value, _))| Some((key.parse().ok()?, value.clone())))
            .collect()
    }
}

/// chitchat at our side: applies a delta of versions up to `up_to`, or resets
/// when the owner has collected what we have not seen.
#[derive(Default)]
struct Replica {
    keys: BTreeMap<String, (String, u64)>,
    max: u64,
    gc: u64,
}

impl Replica {
    fn receive(&mut self, owner: &Owner, share: u64) {
        if owner.gc > self.max && owner.gc > self.gc {
            (self.keys, self.max, self.gc) = (BTreeMap::new(), 0, owner.gc);
        }
        let up_to = self.max + (owner.max - self.max) * share / 4;
        for (key, value) in &owner.keys {
            if value.1 > self.max && value.1 <= up_to {
                self.keys.insert(key.clone(), value.clone());
            }
        }
        self.max = up_to;
    }
}

#[derive(Debug, Clone)]
enum Deed {
    /// The owner writes this ring token (`None`: withdraws it).
    Write(u8, Option<u64>),
    /// The owner collects its garbage.
    Collect,
    /// We collect ours.
    CollectHere,
    /// So many fourths of what we lack arrive.
    Arrive(u64),
    /// One of the pushes of the writes so far arrives: late, again, or never.
    Pushed(usize),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..4u8, proptest::option::of(0..3u64)).prop_map(|(n, v)| Deed::Write(n, v)),
        1 => Just(Deed::Collect),
        1 => Just(Deed::CollectHere),
        3 => (0..=4u64).prop_map(Deed::Arrive),
        4 => (0..20usize).prop_map(Deed::Pushed),
    ]
}

fn pushed(number: u64, key: RecordKey, value: Option<String>, version: u64) -> Push {
    let value = value.and_then(|value| codec::bytes_of(&value));
    let changes = vec![Change { version, key: key.to_string(), value }];
    Push { host: OWNER, incarnation: 1, number, since: 3, changes }
}

fn token(n: u8) -> RecordKey {
    RecordKey::Ring(NetworkId(1), overlay_model::Family::V4, n.into())
}

proptest! {
    #[test]
    fn the_stream_says_exactly_what_stands(deeds in proptest::collection::vec(any_deed(), 0..40)) {
        let mut owner = Owner::default();
        owner.set(ID.to_owned(), OWNER.to_string());
        let (key, record) = host("a");
        owner.set(key.to_string(), codec::encode(&record).unwrap());
        owner.set(END.to_owned(), "0".to_owned());
        let mut replica = Replica::default();
        let mut desk = Desk::new();
        let mut told: BTreeMap<RecordKey, String> = BTreeMap::new();
        let mut pushes: Vec<Push> = Vec::new();
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let deeds = deeds.into_iter().chain([Deed::Arrive(4)]);
        for (n, deed) in deeds.enumerate() {
            match deed {
                Deed::Write(n, version) => {
                    let value = version.map(|version| {
                        codec::encode(&Record::Ring(RingToken { owner: OWNER, version, until: 256 })).unwrap()
                    });
                    owner.set(token(n).to_string(), value.clone().unwrap_or_default());
                    pushes.push(pushed(pushes.len() as u64 + 1, token(n), value, owner.max));
                    owner.set(END.to_owned(), owner.max.to_string());
                }
                Deed::Collect => owner.collect(),
                Deed::CollectHere => {
                    let gone: Vec<_> = replica.keys.extract_if(.., |_, v| v.0.is_empty()).collect();
                    let gc = gone.iter().map(|(_, v)| v.1).max().unwrap_or(0);
                    replica.gc = replica.gc.max(gc);
                }
                Deed::Arrive(share) => replica.receive(&owner, share),
                Deed::Pushed(back) => {
                    // The newest most often.
                    let Some(n) = pushes.len().checked_sub(back / 3 + 1) else { continue };
                    let (events, _) = desk.view.pushed(pushes[n].clone(), desk.now);
                    for event in events {
                        let ClusterEvent::Record { key, record, .. } = event else { continue };
                        prop_assert!(told.contains_key(&RecordKey::Host), "not all here yet");
                        match record {
                            Some(record) => drop(told.insert(key, codec::encode(&record).unwrap())),
                            None => prop_assert!(told.remove(&key).is_some(), "withdrawn twice"),
                        }
                    }
                }
            }
            // What chitchat holds, by the only door: a state that looks later.
            let keys: Vec<_> =
                replica.keys.iter().map(|(k, v)| (k.clone(), v.0.clone(), v.1)).collect();
            let mut fresh = Desk::new();
            if (replica.gc, replica.max) > (0, 0) {
                fresh.holds_up_to(&them(), replica.gc, replica.max, &keys);
            }
            // It says where it has written, or that it may be anywhere.
            let is_new = |key: &&(String, String, u64)| seen.get(&key.0) != Some(&key.2);
            let noted = keys.iter().filter(is_new).map(|key| key.0.clone()).collect();
            let changed = (n % 5 != 0).then(|| Changed::from([(them(), noted)]));
            seen = keys.iter().map(|key| (key.0.clone(), key.2)).collect();
            let states = fresh.chitchat.node_states();
            for event in desk.view.read(states, changed, desk.now, n % 7 == 0) {
                let ClusterEvent::Record { key, record, .. } = event else {
                    prop_assert!(!brief(&event).contains("forgotten"), "nobody left");
                    continue;
                };
                if let Some(record) = record {
                    if key == RecordKey::Host && !told.contains_key(&key) {
                        prop_assert_eq!(replica.max, owner.max, "complete too early");
                        let mut standing = owner.standing();
                        standing.remove(&key);
                        prop_assert_eq!(&told, &standing, "the host came before its records");
                    }
                    let value = codec::encode(&record).unwrap();
                    told.insert(key, value);
                } else {
                    prop_assert!(told.remove(&key).is_some(), "withdrawn twice");
                }
            }
        }
        prop_assert_eq!(told, owner.standing());
    }
}

/// A node that is all here, and pushes of it.
fn desk_with_host() -> Desk {
    let mut desk = Desk::new();
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), end(3)]);
    desk.read();
    desk
}

fn push_of(number: u64, bits: u64, version: u64) -> Push {
    let (key, record) = endpoint(bits);
    pushed(number, key, Some(codec::encode(&record).unwrap()), version)
}

#[test]
fn a_push_is_told_at_once_and_not_again_when_chitchat_brings_it() {
    let mut desk = desk_with_host();
    let (events, outcome) = desk.view.pushed(push_of(1, 5, 4), desk.now);
    assert_eq!(events.iter().map(brief).collect::<Vec<_>>(), ["1.ep5"]);
    assert_eq!(outcome, Pushed::Complete);
    assert_eq!(desk.view.pushed(push_of(1, 5, 4), desk.now).0, [], "again");
    assert_eq!(desk.view.users(NetworkId(7)), [them().gossip_advertise_addr].into());
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), put(endpoint(5), 4), end(5)]);
    assert_eq!(desk.read(), [""; 0]);
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2), put(endpoint(5), 6), end(7)]);
    assert_eq!(desk.read(), ["1.ep5"], "written anew");
    assert_eq!(desk.view.pushed(push_of(1, 5, 4), desk.now).0, [], "long past");
}

#[test]
fn what_a_push_has_told_survives_a_look_for_what_vanished() {
    let mut desk = desk_with_host();
    desk.view.pushed(push_of(1, 5, 4), desk.now);
    let events = desk.view.read(desk.chitchat.node_states(), desk.look.take(), desk.now, true);
    assert_eq!(events, [], "chitchat has not got it yet");
}

#[test]
fn a_push_after_one_that_was_lost_says_whom_to_ask() {
    let mut desk = desk_with_host();
    let origin = Pushed::Gap(them().gossip_advertise_addr);
    assert_eq!(desk.view.pushed(push_of(1, 5, 4), desk.now).1, Pushed::Complete);
    let (events, outcome) = desk.view.pushed(push_of(3, 6, 8), desk.now);
    assert_eq!((events.len(), outcome), (1, origin), "what is here counts in any case");
    assert_eq!(desk.view.pushed(push_of(4, 7, 10), desk.now).1, Pushed::Complete);
    // The first one that we get, and we have not come so far by gossip.
    let mut desk = desk_with_host();
    let late = Push { since: 4, ..push_of(1, 5, 6) };
    assert_eq!(desk.view.pushed(late, desk.now).1, origin);
}

#[test]
fn a_push_of_a_host_that_is_not_all_here_is_left_to_gossip() {
    let mut desk = Desk::new();
    assert_eq!(desk.view.pushed(push_of(1, 5, 4), desk.now), (vec![], Pushed::Unknown));
    desk.holds(&them(), 0, &[id(1), put(host("a"), 2)]);
    desk.read();
    assert_eq!(desk.view.pushed(push_of(1, 5, 4), desk.now), (vec![], Pushed::Unknown));
    let another_life = Push { incarnation: 2, ..push_of(1, 5, 4) };
    assert_eq!(desk_with_host().view.pushed(another_life, desk.now).1, Pushed::Unknown);
}

#[test]
fn what_cannot_be_read_in_a_push_is_counted_and_the_rest_is_told() {
    let mut desk = desk_with_host();
    let mut push = push_of(1, 5, 4);
    let junk = |version, key: &str, value: &[u8]| Change {
        version,
        key: key.to_owned(),
        value: Some(value.to_vec()),
    };
    let misplaced =
        Change { version: 7, key: endpoint(6).0.to_string(), ..push.changes[0].clone() };
    push.changes.extend([junk(5, "new/kind", b"x"), junk(6, "host", &[9, 9]), misplaced]);
    let (events, _) = desk.view.pushed(push, desk.now);
    assert_eq!(events.iter().map(brief).collect::<Vec<_>>(), ["1.ep5"]);
    let counters = desk.counters.read();
    assert_eq!(counters.get("unknown_key"), 1);
    assert_eq!(counters.get("undecodable_unknown_version"), 1);
    assert_eq!(counters.get("undecodable_misplaced"), 1);
}

#[test]
fn brief_names_are_those_of_the_tests() {
    let (key, record) = endpoint(5);
    assert_eq!(key, RecordKey::Endpoint(NetworkId(7), EndpointId::from_bits(5)));
    let record = Some(Box::new(record));
    assert_eq!(brief(&ClusterEvent::Record { host: OWNER, incarnation: 1, key, record }), "1.ep5");
}
