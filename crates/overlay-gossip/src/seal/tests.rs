use proptest::prelude::*;

use super::*;

const GOSSIP: u8 = 1;

/// One end: an address, and what it has counted.
struct End {
    at: SocketAddr,
    seal: Seal,
    counters: Arc<Counters>,
    ring: Option<Arc<Keyring>>,
}

fn addr(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 7946).into()
}

fn end(n: u8, ring: Option<Keyring>) -> End {
    let counters = Arc::new(Counters::default());
    let ring = ring.map(Arc::new);
    End { at: addr(n), seal: Seal::new(ring.clone(), counters.clone()), counters, ring }
}

fn key() -> Key {
    Key::generate().unwrap()
}

fn ring(keys: &[&Key]) -> Option<Keyring> {
    Some(Keyring::new(keys.iter().map(|key| (*key).clone()).collect()).unwrap())
}

/// Two hosts with one key.
fn two() -> (End, End) {
    let key = key();
    (end(1, ring(&[&key])), end(2, ring(&[&key])))
}

impl End {
    fn count(&self, name: &str) -> u64 {
        self.counters.read().get(name)
    }

    /// What was refused of `from`, by kind, and how often it refused us.
    fn refused(&self, from: SocketAddr, now: Instant) -> Option<(String, u64)> {
        let sources = self.counters.refusals(now).sources;
        let from = sources.into_iter().find(|source| source.addr == from.ip())?;
        Some((format!("{:?}", from.kinds), from.refuses_us))
    }

    /// The same host after `kill -9` and a start.
    fn restarted(&self) -> End {
        let counters = Arc::new(Counters::default());
        let seal = Seal::new(self.ring.clone(), counters.clone());
        End { at: self.at, seal, counters, ring: self.ring.clone() }
    }

    fn seals(&self, to: &End, body: &[u8], now: Instant) -> Vec<u8> {
        self.seal.seal(to.at, GOSSIP, body, now)
    }
}

/// Carries `datagram` from `a` to `b`, and what they say to it, until all is
/// quiet. Returns the bodies that `b` let in.
fn carry(a: &End, b: &End, datagram: Vec<u8>, now: Instant) -> Vec<Vec<u8>> {
    let mut let_in = Vec::new();
    let mut under_way = VecDeque::from([(a.at, b.at, datagram)]);
    let mut hops = 0;
    while let Some((from, to, datagram)) = under_way.pop_front() {
        hops += 1;
        assert!(hops < 100, "they talk for ever");
        let end = if to == b.at { b } else { a };
        assert_eq!(to, end.at, "something went to a third address");
        let verdict = end.seal.open(from, &datagram, now);
        if let Some((kind, body)) = verdict.message {
            assert_eq!((kind, to), (GOSSIP, b.at));
            let_in.push(body);
        }
        under_way.extend(verdict.send.into_iter().map(|(next, bytes)| (to, next, bytes)));
    }
    let_in
}

fn sends(a: &End, b: &End, body: &[u8], now: Instant) -> Vec<Vec<u8>> {
    carry(a, b, a.seals(b, body, now), now)
}

#[test]
fn first_contact_costs_a_round_trip_and_no_message() {
    let (a, b) = two();
    let now = Instant::now();
    assert_eq!(sends(&a, &b, b"one", now), [b"one"]);
    assert_eq!((b.count("seal_challenges"), b.count("seal_associations")), (1, 1));
    assert_eq!(sends(&a, &b, b"two", now), [b"two"]);
    assert_eq!(b.count("seal_challenges"), 1, "known from now on");
    assert_eq!((a.refused(b.at, now), b.refused(a.at, now)), (None, None), "that is no refusal");
}

#[test]
fn what_is_sent_while_the_question_is_under_way_arrives_once() {
    let (a, b) = two();
    let now = Instant::now();
    let datagrams: Vec<_> = (0..5u8).map(|n| a.seals(&b, &[n], now)).collect();
    let mut let_in = Vec::new();
    for datagram in datagrams {
        let_in.extend(carry(&a, &b, datagram, now));
    }
    assert_eq!(let_in, [[0], [1], [2], [3], [4]]);
}

#[test]
fn a_message_is_let_in_once() {
    let (a, b) = two();
    let now = Instant::now();
    sends(&a, &b, b"hello", now);
    let datagram = a.seals(&b, b"again", now);
    assert_eq!(carry(&a, &b, datagram.clone(), now), [b"again"]);
    assert_eq!(b.seal.open(a.at, &datagram, now), Verdict::default());
    assert_eq!(b.count("seal_replayed"), 1);
    assert_eq!(b.refused(a.at, now), Some((r#"{"replayed": 1}"#.to_owned(), 0)));
}

#[test]
fn a_restarted_receiver_lets_in_nothing_that_was_recorded() {
    let (a, b) = two();
    let now = Instant::now();
    let mut recorded: Vec<_> = (0..20u8).map(|n| a.seals(&b, &[n], now)).collect();
    for datagram in recorded.clone() {
        let verdict = b.seal.open(a.at, &datagram, now);
        for (_, challenge) in verdict.send {
            for (_, answer) in a.seal.open(b.at, &challenge, now).send {
                recorded.push(answer.clone());
                b.seal.open(a.at, &answer, now);
            }
        }
    }
    let b = b.restarted();
    // The true sender is still there and answers for itself; what it does not
    // send again now is not let in.
    let later = now + KEPT_FOR;
    for datagram in &recorded {
        assert_eq!(carry(&a, &b, datagram.clone(), later), Vec::<Vec<u8>>::new());
    }
    assert!(b.count("seal_associations") > 0, "the sender did answer");
    assert_eq!(sends(&a, &b, b"new", later), [b"new"]);
}

#[test]
fn a_recording_of_a_sender_that_is_gone_is_never_believed() {
    let (a, b) = two();
    let now = Instant::now();
    let datagram = a.seals(&b, b"old", now);
    assert_eq!(carry(&a, &b, datagram.clone(), now), [b"old"]);
    let (a, b) = (a.restarted(), b.restarted());
    assert_eq!(carry(&a, &b, datagram, now), Vec::<Vec<u8>>::new());
    assert_eq!((b.count("seal_challenges"), a.count("seal_stray")), (1, 1));
    assert_eq!(b.count("seal_associations"), 0);
}

#[test]
fn an_answer_counts_once() {
    let (a, b) = two();
    let now = Instant::now();
    let challenge = b.seal.open(a.at, &a.seals(&b, b"x", now), now).send.remove(0).1;
    let answer = a.seal.open(b.at, &challenge, now).send.remove(0).1;
    b.seal.open(a.at, &answer, now);
    assert_eq!(b.count("seal_associations"), 1);
    b.seal.open(a.at, &answer, now);
    assert_eq!((b.count("seal_associations"), b.count("seal_stray")), (1, 1));
}

#[test]
fn a_known_sender_at_another_address_has_to_prove_itself() {
    let (a, b) = two();
    let now = Instant::now();
    sends(&a, &b, b"x", now);
    let stolen = a.seals(&b, b"stolen", now);
    let verdict = b.seal.open(addr(66), &stolen, now);
    assert_eq!(verdict.message, None);
    assert_eq!(verdict.send[0].0, addr(66), "the address that it came from is asked");
    assert_eq!(b.count("seal_moved"), 1);
    // Where it was before it goes on to be believed.
    assert_eq!(sends(&a, &b, b"y", now), [b"y"]);
    // It answers from its new address: that is where it is from now on.
    let now = now + ANSWER_EVERY;
    let (_, answer) = a.seal.open(b.at, &verdict.send[0].1, now).send.remove(0);
    b.seal.open(addr(66), &answer, now);
    let moved = a.seals(&b, b"moved", now);
    assert_eq!(b.seal.open(addr(66), &moved, now).message, Some((GOSSIP, b"moved".to_vec())));
}

#[test]
fn a_message_for_one_member_is_not_let_in_by_another() {
    let (a, b) = two();
    let c = End { at: addr(3), ..b.restarted() };
    let now = Instant::now();
    let for_b = a.seals(&b, b"for b", now);
    let challenge = c.seal.open(a.at, &for_b, now).send.remove(0).1;
    for (to, _) in a.seal.open(c.at, &challenge, now).send {
        assert_eq!(to, b.at, "it answers where it sent to");
    }
}

#[test]
fn a_wrong_key_is_seen_at_both_ends_and_nothing_else_happens() {
    let (a, b) = (end(1, ring(&[&key()])), end(2, ring(&[&key()])));
    let now = Instant::now();
    assert_eq!(sends(&a, &b, b"x", now), Vec::<Vec<u8>>::new());
    assert_eq!((b.count("seal_unknown_key"), a.count("seal_refused_by_peer")), (1, 1));
    // Again at once: counted here, but one source is told once a second.
    sends(&a, &b, b"x", now);
    assert_eq!((b.count("seal_unknown_key"), a.count("seal_refused_by_peer")), (2, 1));
    sends(&a, &b, b"x", now + REFUSE_EVERY);
    assert_eq!((b.count("seal_unknown_key"), a.count("seal_refused_by_peer")), (3, 2));
    assert_eq!(b.count("seal_challenges"), 0);
    assert_eq!(b.refused(a.at, now), Some((r#"{"unknown_key": 3}"#.to_owned(), 0)));
    assert_eq!(a.refused(b.at, now), Some(("{}".to_owned(), 2)));
    assert_eq!(a.counters.refusals(now).sources.len(), 1);
}

#[test]
fn a_refusal_is_shorter_than_what_it_answers_and_is_never_answered() {
    let (k1, k2, k3) = (key(), key(), key());
    let b = end(2, ring(&[&k1, &k2, &k3]));
    let a = end(1, ring(&[&key()]));
    let now = Instant::now();
    let datagram = a.seals(&b, b"", now);
    let refusal = b.seal.open(a.at, &datagram, now).send.remove(0).1;
    assert!(refusal.len() < datagram.len(), "{} {}", refusal.len(), datagram.len());
    for end in [&a, &b] {
        assert_eq!(end.seal.open(addr(9), &refusal, now), Verdict::default());
        assert_eq!(end.count("seal_refused_by_peer"), 0, "nobody sent anything to there");
        assert_eq!(end.count("seal_stray"), 1);
    }
    for n in 0..refusal.len() {
        assert_eq!(a.seal.open(b.at, &refusal[..n], now), Verdict::default());
    }
    let port_0 = SocketAddr::from(([192, 0, 2, 9], 0));
    assert_eq!(b.seal.open(port_0, &datagram, now), Verdict::default());
}

#[test]
fn what_is_not_sealed_is_refused_and_both_ends_know() {
    let (a, b) = (end(1, None), end(2, ring(&[&key()])));
    let now = Instant::now();
    let text = b"a plain message that is long enough to be refused";
    assert_eq!(sends(&a, &b, text, now), Vec::<Vec<u8>>::new());
    assert_eq!((b.count("seal_plain"), a.count("seal_refused_by_peer")), (1, 1));
    // As chitchat itself would send it.
    let bare = [&BARE_CHITCHAT[..], &[1, 0, 2, 3]].concat();
    assert_eq!(b.seal.open(addr(7), &bare, now).message, None);
    assert_eq!(b.count("seal_plain"), 2);
    for from in [a.at, addr(7)] {
        assert_eq!(b.refused(from, now), Some((r#"{"plain": 1}"#.to_owned(), 0)));
    }
    // And the other way round.
    assert_eq!(sends(&b, &a, text, now), Vec::<Vec<u8>>::new());
    assert_eq!((a.count("seal_unknown_key"), b.count("seal_refused_by_peer")), (1, 1));
}

#[test]
fn without_keys_at_both_ends_messages_are_plain() {
    let (a, b) = (end(1, None), end(2, None));
    assert_eq!(sends(&a, &b, b"x", Instant::now()), [b"x"]);
    assert_eq!(a.seals(&b, b"x", Instant::now()), [PLAIN, GOSSIP, b'x']);
    assert_eq!(a.seal.overhead(), 2);
}

#[test]
fn a_key_is_changed_between_two_messages() {
    let (old, new) = (key(), key());
    let (a, b) = (end(1, ring(&[&old])), end(2, ring(&[&old])));
    let now = Instant::now();
    let mut n = 0u8;
    let mut goes_through = || {
        n += 1;
        assert_eq!(sends(&a, &b, &[n], now), [[n]]);
    };
    let change = |end: &End, to: Keyring| end.ring.as_ref().unwrap().replace(&to);
    goes_through();
    for end in [&a, &b] {
        change(end, end.ring.as_ref().unwrap().with(new.clone()).unwrap());
        goes_through();
    }
    for end in [&a, &b] {
        change(end, end.ring.as_ref().unwrap().using(new.id()).unwrap());
        goes_through();
    }
    for end in [&a, &b] {
        change(end, end.ring.as_ref().unwrap().without(old.id()).unwrap());
        goes_through();
    }
    assert_eq!(b.count("seal_associations"), 1, "the association went on");
}

#[test]
fn recordings_and_strangers_fill_no_table_beyond_its_bound() {
    let (a, b) = two();
    let mut now = Instant::now();
    // Every restart of a sender is another association.
    for _ in 0..ASKED + 50 {
        let a = a.restarted();
        b.seal.open(a.at, &a.seals(&b, b"x", now), now);
        now += Duration::from_millis(1);
    }
    let junk = [SEALED; 100];
    for n in 0..SOURCES + 50 {
        let from = SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8], 5000));
        b.seal.open(from, &junk, now);
    }
    let tables = b.seal.tables();
    assert_eq!(tables.asked.len(), ASKED);
    assert_eq!((tables.refused.len(), tables.complained.len()), (SOURCES, SOURCES));
    assert_eq!((tables.believed.len(), tables.sent_to.len()), (0, 0));
    drop(tables);
    for n in 0..SENT_TO + 50 {
        let to = SocketAddr::from(([10, 1, (n / 250) as u8, (n % 250) as u8], 5000));
        b.seal.seal(to, GOSSIP, b"x", now + Duration::from_millis(n as u64));
    }
    let tables = b.seal.tables();
    assert_eq!((tables.sent_to.len(), tables.address_of.len()), (SENT_TO, SENT_TO));
}

#[test]
fn the_unused_longest_makes_room_for_the_new() {
    let mut table: HashMap<u8, Instant> = HashMap::new();
    let now = Instant::now();
    for n in 0..10 {
        table.insert(n, now + Duration::from_secs(u64::from(n != 7)));
    }
    assert_eq!(evict(&mut table, |at| *at), Some(now));
    assert!(!table.contains_key(&7) && table.len() == 9);
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let (a, b) = two();
    let now = Instant::now();
    sends(&a, &b, b"hello", now);
    let good = a.seals(&b, b"a body", now);
    for len in 0..good.len() {
        assert_eq!(b.seal.open(a.at, &good[..len], now).message, None, "{len} bytes");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(b.seal.open(a.at, &bad, now).message, None, "bit {bit}");
    }
    let counted = ["seal_truncated", "seal_forged", "seal_unknown_version", "seal_unknown_key"];
    let total: u64 = counted.iter().map(|name| b.count(name)).sum();
    let others = b.count("seal_plain") + b.count("seal_stray");
    assert_eq!(total + others, (good.len() * 9) as u64, "each is counted as something");
    for name in counted {
        assert!(b.count(name) > 0, "{name}");
    }
    assert_eq!(b.seal.open(a.at, &good, now).message, Some((GOSSIP, b"a body".to_vec())));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect()
}

/// What released software sends and reads, made by another implementation of
/// XChaCha20-Poly1305 as well. If this fails, the code is wrong, not the literal.
#[test]
fn a_sealed_message_has_these_bytes_for_ever() {
    let key: Key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap();
    let keys = Keyring::new(vec![key.clone()]).unwrap();
    let cases: [(&[u8], &[u8], &str); 4] = [
        (
            &[],
            b"\x01gossip",
            "015f6f1c09a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a500000000000001023d2445bb13ac54b4fe3e3e9c20ba198c9660b40f820913",
        ),
        (
            &[],
            b"\x02push",
            "015f6f1c09a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a500000000000001023e335fbb08f1c9e9d683960229f04a2f19bbfb4d0c",
        ),
        // What a datagram that asks has in it, and one that answers.
        (
            &[],
            &[&[CHALLENGE][..], &[0xa5; 16], &[0xc0; 16]].concat(),
            "015f6f1c09a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a50000000000000102bce68f6dc56081a06abb220e8254a3ae13236097eca2bc4b2ed49f918f6ea64e62805ce816bf13dc2d5b29ed3dc7e8d989",
        ),
        (
            &[],
            &[&[ANSWER][..], &[0xc0; 16]].concat(),
            "015f6f1c09a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a50000000000000102bd83ea08a005e4c50fde476be731c6cb76263e7959d16288cb7d58803958470f6c",
        ),
    ];
    for (extra, text, frozen) in cases {
        let sealed = seal_with(&key, [0xa5; 16], 258, extra, &[text]);
        assert_eq!(hex(&sealed), frozen);
        let Ok(opened) = open_with(&keys, extra, &bytes(frozen)) else { panic!("not opened") };
        assert_eq!((opened.association, opened.counter), ([0xa5; 16], 258));
        assert_eq!(opened.text, text);
    }
}

/// As above: what is said without a seal.
#[test]
fn a_refusal_and_a_plain_message_have_these_bytes_for_ever() {
    let key: Key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap();
    let b = end(2, ring(&[&key]));
    let now = Instant::now();
    let stranger = seal_with(&self::key(), [1; 16], 1, &[], &[b"\x01x"]);
    let refusal = b.seal.open(addr(9), &stranger, now).send.remove(0).1;
    assert_eq!(hex(&refusal), format!("02{}015f6f1c09", hex(&stranger[1..5])));
    let plain = end(1, None);
    assert_eq!(plain.seal.seal(addr(2), GOSSIP, b"x", now), [0, 1, b'x']);
    let push = (2, b"y".to_vec());
    assert_eq!(plain.seal.open(addr(2), &[0, 2, b'y'], now).message, Some(push));
    // Our key is not there, but these are.
    let a = end(1, ring(&[&key]));
    a.seal.seal(addr(2), GOSSIP, b"x", now);
    a.seal.open(addr(2), &bytes("025f6f1c0902deadbeef01020304"), now);
    assert_eq!(a.count("seal_refused_by_peer"), 1);
}

proptest! {
    #[test]
    fn any_order_within_the_window_is_let_in_once_each(
        order in Just((0..300usize).collect::<Vec<_>>()).prop_shuffle(),
        repeats in prop::collection::vec(0..300usize, 0..100),
    ) {
        let (a, b) = two();
        let now = Instant::now();
        sends(&a, &b, b"hello", now);
        let datagrams: Vec<_> =
            (0..300u16).map(|n| a.seals(&b, &n.to_be_bytes(), now)).collect();
        let mut seen = vec![0; 300];
        for n in order.into_iter().chain(repeats) {
            if b.seal.open(a.at, &datagrams[n], now).message.is_some() {
                seen[n] += 1;
            }
        }
        prop_assert_eq!(seen, vec![1; 300]);
    }

    /// Against a set without end, less what is too old to tell.
    #[test]
    fn the_window_forgets_nothing_that_it_would_let_in(
        steps in prop::collection::vec((any::<bool>(), 0..3 * WINDOW), 1..400),
    ) {
        let mut window = Window::after(10);
        let mut seen: std::collections::HashSet<u64> = (0..=10).collect();
        let mut newest = 10;
        for (forward, by) in steps {
            let counter = if forward { newest + by } else { newest.saturating_sub(by) };
            let want = newest.saturating_sub(counter) < WINDOW && !seen.contains(&counter);
            prop_assert_eq!(window.take(counter), want, "counter {} newest {}", counter, newest);
            seen.insert(counter);
            newest = newest.max(counter);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_let_anything_in(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0..4u8) {
        let (_, b) = two();
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        let verdict = b.seal.open(addr(9), &bytes, Instant::now());
        prop_assert_eq!(verdict.message, None);
        prop_assert!(verdict.send.iter().all(|(_, answer)| answer.len() < bytes.len()));
    }
}
