use std::net::Ipv4Addr;

use super::*;
use crate::keyring::{Key, Keyring};
use crate::wire::tests::keys;

/// An acceptor, what it has let in, and what it counted.
struct End {
    tcp: Tcp,
    at: SocketAddr,
    counters: Arc<Counters>,
    came: tokio::sync::mpsc::UnboundedReceiver<(SocketAddr, u8, Vec<u8>)>,
}

const SENDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 7946);

fn end(keys: Option<Arc<Keyring>>) -> End {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let counters = Arc::new(Counters::default());
    let seal = Arc::new(Seal::new(keys, counters.clone()));
    let (taken, came) = tokio::sync::mpsc::unbounded_channel();
    let deliver: Deliver = Arc::new(move |from, kind, body| {
        let _ = taken.send((from, kind, body));
    });
    let tcp = Tcp::new(vec![listener], SENDER, seal, counters.clone(), deliver).unwrap();
    End { tcp, at, counters, came }
}

impl End {
    fn count(&self, name: &str) -> u64 {
        self.counters.read().get(name)
    }

    async fn counts(&self, name: &str, n: u64) {
        self.counters.reach(name, n).await;
    }
}

/// A member that does as the test wants.
struct Hand {
    stream: TcpStream,
    challenge: [u8; 16],
    key: Key,
    association: [u8; 16],
}

impl Hand {
    async fn connect(to: SocketAddr, keys: &Keyring) -> Self {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let mut challenge = [0; 16];
        stream.read_exact(&mut challenge).await.unwrap();
        Self { stream, challenge, key: keys.used(), association: random() }
    }

    /// Without its length.
    fn frame(&self, number: u64, body: &[u8]) -> Vec<u8> {
        let parts = [address_bytes(SENDER), vec![1], body.to_vec()].concat();
        seal_with(&self.key, self.association, number, &self.challenge, &[&parts])
    }

    async fn send(&mut self, frame: &[u8]) {
        self.stream.write_u32(frame.len() as u32).await.unwrap();
        self.stream.write_all(frame).await.unwrap();
    }

    /// The other end has hung up.
    async fn is_hung_up_on(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(20), self.stream.read_to_end(&mut rest)).await;
        // A reset is a way to hang up, too.
        let _ = read.expect("still connected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_order_are_let_in_and_name_who_the_sender_says_it_is() {
    let keys = keys();
    let mut b = end(Some(keys.clone()));
    let mut hand = Hand::connect(b.at, &keys).await;
    for number in 0..3 {
        let frame = hand.frame(number, &[number as u8; 9000]);
        hand.send(&frame).await;
        assert_eq!(b.came.recv().await, Some((SENDER, 1, vec![number as u8; 9000])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_counts_in_its_place_of_its_connection_only() {
    let keys = keys();
    let mut b = end(Some(keys.clone()));
    let mut hand = Hand::connect(b.at, &keys).await;
    let first = hand.frame(0, b"x");
    hand.send(&first).await;
    hand.send(&first).await;
    hand.is_hung_up_on().await;
    assert_eq!(b.count("seal_replayed"), 1);
    // On another connection it is not even authentic.
    let mut other = Hand::connect(b.at, &keys).await;
    other.send(&first).await;
    other.is_hung_up_on().await;
    assert_eq!(b.count("seal_forged"), 1);
    // Neither is what was sealed as a datagram.
    let mut third = Hand::connect(b.at, &keys).await;
    let datagram = seal_with(&keys.used(), random(), 0, &[], &[&[1; 100]]);
    third.send(&datagram).await;
    third.is_hung_up_on().await;
    assert_eq!(b.count("seal_forged"), 2);
    assert_eq!(b.came.recv().await, Some((SENDER, 1, b"x".to_vec())));
    assert!(b.came.try_recv().is_err(), "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_claims_too_much_or_is_damaged_ends_the_connection() {
    let keys = keys();
    let b = end(Some(keys.clone()));
    let mut hand = Hand::connect(b.at, &keys).await;
    hand.stream.write_u32(u32::MAX).await.unwrap();
    hand.is_hung_up_on().await;
    assert_eq!(b.count("tcp_oversize"), 1);

    let good = Hand::connect(b.at, &keys).await.frame(0, b"body");
    for cut in [0, 1, OVERHEAD - 1] {
        let mut hand = Hand::connect(b.at, &keys).await;
        hand.send(&good[..cut]).await;
        hand.is_hung_up_on().await;
    }
    assert_eq!(b.count("seal_truncated"), 3);
    let mut hand = Hand::connect(b.at, &keys).await;
    let plain = [&[0][..], &address_bytes(SENDER), &[1, 2, 3]].concat();
    hand.send(&plain).await;
    hand.is_hung_up_on().await;
    assert_eq!(b.count("seal_plain"), 1);
    // Authentic, but no address in it.
    let mut hand = Hand::connect(b.at, &keys).await;
    let odd = seal_with(&hand.key, hand.association, 0, &hand.challenge, &[&[9, 9, 9]]);
    hand.send(&odd).await;
    hand.is_hung_up_on().await;
    assert_eq!(b.count("seal_truncated"), 4);
    // All that came from one address, whatever its ports.
    let [source] = b.counters.refusals(Instant::now()).sources.try_into().unwrap();
    assert_eq!(source.addr, b.at.ip());
    assert_eq!(source.kinds, [("plain", 1), ("too_much", 1), ("truncated", 4)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_hung_up_on_and_takes_nobody_elses_place_for_long() {
    let keys = keys();
    let mut b = end(Some(keys.clone()));
    let mut silent = Hand::connect(b.at, &keys).await;
    let mut slow = Hand::connect(b.at, &keys).await;
    slow.stream.write_u32(5000).await.unwrap();
    // Somebody else is served meanwhile.
    let mut good = Hand::connect(b.at, &keys).await;
    let frame = good.frame(0, b"hello");
    good.send(&frame).await;
    assert!(b.came.recv().await.is_some());
    silent.is_hung_up_on().await;
    slow.is_hung_up_on().await;
    b.counts("tcp_slow", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_gets_so_many_connections_and_no_more() {
    let keys = keys();
    let b = end(Some(keys.clone()));
    let mut hands = Vec::new();
    for _ in 0..PER_ADDRESS {
        hands.push(Hand::connect(b.at, &keys).await);
    }
    let mut refused = TcpStream::connect(b.at).await.unwrap();
    assert_eq!(refused.read(&mut [0; 16]).await.unwrap_or(0), 0, "no challenge");
    b.counts("tcp_turned_away", 1).await;
    drop(hands);
    // Their places are free again.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = TcpStream::connect(b.at).await.unwrap();
        if stream.read_exact(&mut [0; 16]).await.is_ok() {
            return;
        }
        assert!(Instant::now() < deadline, "the places are never given back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_answer_holds_nobody_up() {
    let keys = keys();
    let a = end(Some(keys.clone()));
    let mut b = end(Some(keys));
    // Connections to it are made by the kernel; nobody ever says a word.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let began = std::time::Instant::now();
    let all = 300;
    for _ in 0..all {
        a.tcp.send(deaf.local_addr().unwrap(), 1, &[0; MAX_BODY]).unwrap();
    }
    a.tcp.send(b.at, 1, b"to b").unwrap();
    assert_eq!(b.came.recv().await, Some((SENDER, 1, b"to b".to_vec())));
    assert!(began.elapsed() < HANDSHAKE, "{:?}", began.elapsed());
    // One is on its way at most, the newest wait, the others are gone.
    let dropped = a.count("tcp_dropped");
    let fit = (QUEUE / MAX_BODY) as u64;
    assert!((all - fit - 1..=all - fit).contains(&dropped), "{dropped}");
    a.counts("tcp_failed", all - dropped).await;
    assert_eq!(a.tcp.shared.waiting.load(Ordering::Relaxed), 0);
    assert!(a.tcp.shared.peers().get(&deaf.local_addr().unwrap()).is_none(), "it is forgotten");
}

// One thread, and nothing awaited: no dialler takes anything out meanwhile.
#[tokio::test]
async fn what_waits_for_all_peers_together_is_bounded() {
    let a = end(Some(keys()));
    let deaf: Vec<_> =
        (0..6).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let each = QUEUE / MAX_BODY;
    let mut refused = Vec::new();
    for listener in &deaf {
        let to = listener.local_addr().unwrap();
        refused.push((0..each).filter(|_| a.tcp.send(to, 1, &[0; MAX_BODY]).is_err()).count());
    }
    // The last two have no queue of their own to make room in.
    assert_eq!(QUEUES / QUEUE, 4);
    assert_eq!(refused, [0, 0, 0, 0, each, each]);
    assert_eq!(a.count("tcp_dropped"), 2 * each as u64);
    assert_eq!(a.tcp.shared.waiting.load(Ordering::Relaxed), QUEUES);
    // Who has one makes room there.
    a.tcp.send(deaf[0].local_addr().unwrap(), 1, &[0; MAX_BODY]).unwrap();
    assert_eq!(a.count("tcp_dropped"), 2 * each as u64 + 1);
    assert_eq!(a.tcp.shared.waiting.load(Ordering::Relaxed), QUEUES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_restarted_is_reached_on_a_new_connection() {
    let keys = keys();
    let a = end(Some(keys.clone()));
    let mut b = end(Some(keys.clone()));
    let at = b.at;
    a.tcp.send(at, 1, b"one").unwrap();
    assert!(b.came.recv().await.is_some());
    drop(b);
    let listener = loop {
        match std::net::TcpListener::bind(at) {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let (taken, mut came) = tokio::sync::mpsc::unbounded_channel();
    let counters = Arc::new(Counters::default());
    let seal = Arc::new(Seal::new(Some(keys), counters.clone()));
    let deliver: Deliver = Arc::new(move |_, _, body| drop(taken.send(body)));
    let _b = Tcp::new(vec![listener], SENDER, seal, counters, deliver).unwrap();
    // The first may go into the old connection's grave, as a datagram would.
    let deadline = Instant::now() + Duration::from_secs(20);
    while came.try_recv().is_err() {
        assert!(Instant::now() < deadline, "{:?}", a.counters.read());
        a.tcp.send(at, 1, b"two").unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn addresses_of_both_families_come_back() {
    for addr in ["192.0.2.1:7946", "[2001:db8::1]:99"] {
        let addr: SocketAddr = addr.parse().unwrap();
        let text = [address_bytes(addr), vec![2, 7, 7]].concat();
        assert_eq!(parse(&text), Some((addr, 2, &[7, 7][..])));
        for len in 0..text.len() - 2 {
            assert_eq!(parse(&text[..len]), None);
        }
    }
}

/// What released software sends and reads, made by another implementation of
/// XChaCha20-Poly1305 as well. If this fails, the code is wrong, not the literal.
#[test]
fn a_frame_has_these_bytes_for_ever() {
    let key: Key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap();
    let place = Place { challenge: [0xc0; 16], association: [0xa5; 16], number: 3 };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let v6 = "[2001:db8::1]:7946".parse().unwrap();
    let frozen = [
        (
            Some(key.clone()),
            SENDER,
            "00000039015f6f1c09a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a500000000000000032040ecd5a9a1e5c21772fd5b36819ab11517b45f3b8a5462e3d0abdf",
        ),
        (
            Some(key.clone()),
            v6,
            "00000045015f6f1c09a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5000000000000000322a0edda16beefc0751d99224c1b1d0b884816cb083dc83739b32fc244fdad09f93868eca043bf54",
        ),
        (None, SENDER, "0000000d0004c00002071f0a02626f6479"),
        (None, v6, "00000019000620010db80000000000000000000000011f0a02626f6479"),
    ];
    for (key, sender, frozen) in frozen {
        let frame = place.frame(key.clone(), sender, 2, b"body");
        assert_eq!(hex(&frame), frozen);
        let text = match key {
            Some(key) => {
                let keys = Keyring::new(vec![key]).unwrap();
                let Ok(opened) = open_with(&keys, &place.challenge, &frame[4..]) else {
                    panic!("not opened")
                };
                assert_eq!((opened.association, opened.counter), ([0xa5; 16], 3));
                opened.text
            }
            None => frame[5..].to_vec(),
        };
        assert_eq!(parse(&text), Some((sender, 2, &b"body"[..])));
    }
}
