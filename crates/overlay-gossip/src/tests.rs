//! Hosts that gossip: over chitchat's in-process transport and a clock that
//! jumps where time matters, over real sockets on the loopback device where
//! speed or the socket itself does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use async_trait::async_trait;
use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatEnvelope, ChitchatHandle, ChitchatId, DeletionStatus,
    FailureDetectorConfig, ProtocolVersion, VersionedValue, spawn_chitchat,
};
use overlay_model::{HostIntent, Name, NetworkId, RingToken};
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::codec::tests as samples;
use crate::view::{END, ID};

/// An in-process network, of chitchat's messages and of pushes.
#[derive(Clone, Default)]
struct Net {
    gossip: ChannelTransport,
    pushes: Arc<Mutex<BTreeMap<SocketAddr, mpsc::UnboundedSender<Parcel>>>>,
    /// Of so many pushes one arrives; all if 0.
    one_in: Arc<AtomicU64>,
}

/// One host's end of it.
struct NetEnd {
    net: Net,
    addr: SocketAddr,
    inbox: tokio::sync::Mutex<mpsc::UnboundedReceiver<Parcel>>,
    sent: AtomicU64,
}

impl Net {
    fn end(&self, addr: SocketAddr) -> Arc<NetEnd> {
        let (tx, inbox) = mpsc::unbounded_channel();
        self.pushes.lock().unwrap().insert(addr, tx);
        let inbox = tokio::sync::Mutex::new(inbox);
        Arc::new(NetEnd { net: self.clone(), addr, inbox, sent: AtomicU64::new(0) })
    }
}

impl std::ops::Deref for Net {
    type Target = ChannelTransport;
    fn deref(&self) -> &ChannelTransport {
        &self.gossip
    }
}

#[async_trait]
impl Pushes for NetEnd {
    fn send(&self, to: SocketAddr, body: &[u8]) {
        let one_in = self.net.one_in.load(Ordering::Relaxed);
        let n = self.sent.fetch_add(1, Ordering::Relaxed);
        if (one_in == 0 || n % one_in == one_in - 1)
            && let Some(inbox) = self.net.pushes.lock().unwrap().get(&to)
        {
            let _ = inbox.send((self.addr, body.to_vec()));
        }
    }
    async fn next(&self) -> Parcel {
        match self.inbox.lock().await.recv().await {
            Some(push) => push,
            None => std::future::pending().await,
        }
    }
}

/// Ample: nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn host_id(n: u8) -> HostId {
    HostId(Uuid::from_u128(u128::from(n) << 120 | 0xabc))
}

/// Where host `n` would be on the in-process network.
fn channel_addr(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 7946).into()
}

/// A port of the loopback device that nobody has, and that the kernel gives to nobody: on an
/// address of this process, below its range of ephemeral ports.
fn free_addr() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let [_, high, mid, low] = std::process::id().to_be_bytes();
    ([127, high + 1, mid, low], NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

fn host_record(n: u8) -> (RecordKey, Record) {
    let (key, Record::Host(mut host)) = samples::host("x") else { unreachable!() };
    host.id = host_id(n);
    host.name = Name::new(&format!("h{n}")).unwrap();
    (key, Record::Host(host))
}

fn endpoint(n: u64) -> (RecordKey, Record) {
    samples::endpoint(n)
}

fn changed((key, record): (RecordKey, Record)) -> (RecordKey, Option<Record>) {
    (key, Some(record))
}

/// A host, and what it was told so far.
struct Peer {
    n: u8,
    addr: SocketAddr,
    gossip: Gossip,
    events: mpsc::UnboundedReceiver<ClusterEvent>,
    told: Vec<ClusterEvent>,
}

/// How to start one.
struct Setup {
    config: GossipConfig,
    records: Vec<(RecordKey, Record)>,
    transport: Option<(Arc<dyn Transport>, Arc<dyn Pushes>)>,
}

fn setup(n: u8, addr: SocketAddr, join: &[SocketAddr]) -> Setup {
    let mut config = GossipConfig::new(host_id(n), 1000, addr);
    config.join = join.iter().map(SocketAddr::to_string).collect();
    Setup { config, records: vec![host_record(n)], transport: None }
}

impl Setup {
    fn incarnation(mut self, incarnation: u64) -> Self {
        self.config.incarnation = incarnation;
        self
    }
    fn records(mut self, records: impl IntoIterator<Item = (RecordKey, Record)>) -> Self {
        self.records.extend(records);
        self
    }
    fn on(mut self, net: &Net) -> Self {
        let pushes = net.end(self.config.advertise);
        self.transport = Some((Arc::new(net.gossip.clone()), pushes));
        self
    }
    async fn start(self) -> Peer {
        let (n, addr) = (self.config.host.0.as_bytes()[0], self.config.advertise);
        let started = match self.transport {
            Some((transport, pushes)) => {
                Gossip::start_on(
                    self.config,
                    self.records,
                    crate::Net { transport, pushes, ways: Arc::default() },
                    Arc::default(),
                )
                .await
            }
            None => Gossip::start(self.config, self.records).await,
        };
        let (gossip, events) = started.unwrap();
        Peer { n, addr, gossip, events, told: Vec::new() }
    }
}

impl Peer {
    /// Waits for an event for which `found` holds; it may have come already.
    async fn told(&mut self, what: &str, found: impl Fn(&ClusterEvent) -> bool) -> ClusterEvent {
        self.eventually(what, |told| told.iter().find(|event| found(event)).cloned()).await
    }

    /// Waits until what was told so far satisfies `found`.
    async fn eventually<T>(
        &mut self,
        what: &str,
        found: impl Fn(&[ClusterEvent]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.drain();
            if let Some(found) = found(&self.told) {
                return found;
            }
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.told.push(event),
                Ok(None) => panic!("h{}: gossip ended before: {what}", self.n),
                Err(_) => panic!("h{}: never: {what}; told {:#?}", self.n, self.told),
            }
        }
    }

    fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.told.push(event);
        }
    }

    async fn meets(&mut self, other: u8) {
        let host = host_id(other);
        self.told("alive", move |e| matches!(e, ClusterEvent::Alive { host: h, .. } if *h == host))
            .await;
        self.has(other, RecordKey::Host).await;
    }

    async fn has(&mut self, of: u8, key: RecordKey) {
        self.eventually("a record", |told| standing(told, of, 1000).remove(&key)).await;
    }

    async fn publish(&self, changes: impl IntoIterator<Item = (RecordKey, Record)>) {
        self.gossip.publish(changes.into_iter().map(changed).collect()).await.unwrap();
    }

    /// Ends without a word, as `kill -9` does.
    async fn kill(self) {
        let Gossip { commands, task, .. } = self.gossip;
        drop(commands);
        task.await.unwrap();
    }

    /// Counts until `name` is at least `n`.
    async fn counts(&self, name: &str, n: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.gossip.stats().get(name) < n {
            assert!(Instant::now() < deadline, "{name} < {n}: {:?}", self.gossip.stats());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The records of host `n` that stand, after these events.
fn standing(told: &[ClusterEvent], n: u8, life: u64) -> BTreeMap<RecordKey, Record> {
    let mut standing = BTreeMap::new();
    for event in told {
        if let ClusterEvent::Record { host, incarnation, key, record } = event
            && (*host, *incarnation) == (host_id(n), life)
        {
            match record {
                Some(record) => standing.insert(*key, (**record).clone()),
                None => standing.remove(key),
            };
        }
    }
    standing
}

fn keys_of(told: &[ClusterEvent], n: u8, life: u64) -> Vec<RecordKey> {
    told.iter()
        .filter_map(|event| match event {
            ClusterEvent::Record { host, incarnation, key, record: Some(_) }
                if (*host, *incarnation) == (host_id(n), life) =>
            {
                Some(*key)
            }
            _ => None,
        })
        .collect()
}

fn is_alive(e: &ClusterEvent, n: u8, life: u64) -> bool {
    *e == ClusterEvent::Alive { host: host_id(n), incarnation: life }
}
fn is_silent(e: &ClusterEvent, n: u8, life: u64) -> bool {
    *e == ClusterEvent::Silent { host: host_id(n), incarnation: life }
}

/// Three hosts on a network of their own, all joined through the first.
async fn three(net: &Net) -> [Peer; 3] {
    let mut peers = [
        setup(1, channel_addr(1), &[]).on(net).start().await,
        setup(2, channel_addr(2), &[channel_addr(1)]).on(net).start().await,
        setup(3, channel_addr(3), &[channel_addr(1)]).on(net).start().await,
    ];
    for peer in &mut peers {
        for other in 1..=3 {
            if other != peer.n {
                peer.meets(other).await;
            }
        }
    }
    peers
}

#[tokio::test]
async fn two_hosts_exchange_their_records_over_real_sockets() {
    let mut a = setup(1, free_addr(), &[]).records([endpoint(1)]).start().await;
    let mut b = setup(2, free_addr(), &[a.addr]).records([endpoint(2)]).start().await;
    a.meets(2).await;
    b.meets(1).await;
    assert_eq!(
        standing(&a.told, 2, 1000),
        [host_record(2), endpoint(2)].into(),
        "everything that b had is here with its host record"
    );
    assert_eq!(standing(&b.told, 1, 1000), [host_record(1), endpoint(1)].into());
    assert_eq!((a.gossip.peers(), b.gossip.peers()), (vec![b.addr], vec![a.addr]));
}

#[tokio::test(start_paused = true)]
async fn hosts_that_know_only_one_of_them_learn_of_all() {
    let net = Net::default();
    let [a, b, c] = three(&net).await;
    assert_eq!(b.gossip.peers(), [a.addr, c.addr]);
}

#[tokio::test(start_paused = true)]
async fn changes_and_withdrawals_arrive() {
    let net = Net::default();
    let [a, mut b, mut c] = three(&net).await;
    a.publish([endpoint(1), endpoint(2)]).await;
    a.gossip.publish(vec![(endpoint(1).0, None)]).await.unwrap();
    for peer in [&mut b, &mut c] {
        peer.has(1, endpoint(2).0).await;
        peer.eventually("withdrawn", |told| {
            (!standing(told, 1, 1000).contains_key(&endpoint(1).0)).then_some(())
        })
        .await;
    }
    // Withdrawn and written again is a record again.
    a.publish([endpoint(1)]).await;
    b.has(1, endpoint(1).0).await;
    assert_eq!(b.gossip.stats().undecodable(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_five_hosts_at_once() {
    let mut first = setup(1, free_addr(), &[]).start().await;
    let mut others = Vec::new();
    for n in 2..=5 {
        others.push(setup(n, free_addr(), &[first.addr]).start().await);
    }
    // The first too: it pushes to those that it has met.
    for peer in others.iter_mut().chain([&mut first]) {
        for n in (1..=5).filter(|n| *n != peer.n).collect::<Vec<_>>() {
            peer.meets(n).await;
        }
    }
    let mut took = Vec::new();
    for n in 0..40 {
        let (key, record) = endpoint(n);
        let start = std::time::Instant::now();
        first.publish([(key, record)]).await;
        for peer in &mut others {
            peer.has(1, key).await;
        }
        took.push(start.elapsed());
    }
    took.sort();
    let (p50, max) = (took[took.len() / 2], took[took.len() - 1]);
    println!("a change reached 4 other hosts in p50 {p50:?}, max {max:?}");
    assert!(p50 < Duration::from_millis(100), "p50 {p50:?}");
    assert!(max < Duration::from_millis(300), "max {max:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_share_a_push() {
    let net = Net::default();
    let [a, mut b, _c] = three(&net).await;
    let before = a.gossip.stats().get("pushes_sent");
    for n in 0..100 {
        a.publish([endpoint(n)]).await;
    }
    for n in 0..100 {
        b.has(1, endpoint(n).0).await;
    }
    let pushes = a.gossip.stats().get("pushes_sent") - before;
    assert!((2..80).contains(&pushes), "{pushes} to two peers");
}

#[tokio::test(start_paused = true)]
async fn a_push_arrives_long_before_a_round_of_gossip() {
    let net = Net::default();
    let [a, mut b, mut c] = three(&net).await;
    for n in 0..20 {
        let start = Instant::now();
        a.publish([endpoint(n)]).await;
        b.has(1, endpoint(n).0).await;
        c.has(1, endpoint(n).0).await;
        assert!(start.elapsed() <= Duration::from_millis(2), "{:?}", start.elapsed());
    }
    a.gossip.publish(vec![(endpoint(3).0, None)]).await.unwrap();
    let start = Instant::now();
    b.eventually("the withdrawal", |told| {
        (!standing(told, 1, 1000).contains_key(&endpoint(3).0)).then_some(())
    })
    .await;
    assert!(start.elapsed() <= Duration::from_millis(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn pushes_that_are_lost_are_asked_for_or_come_with_gossip() {
    let net = Net::default();
    let [a, mut b, mut c] = three(&net).await;
    net.one_in.store(3, Ordering::Relaxed);
    for n in 0..60 {
        a.publish([endpoint(n)]).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    net.one_in.store(u64::MAX, Ordering::Relaxed);
    a.publish([endpoint(60)]).await;
    let start = Instant::now();
    for peer in [&mut b, &mut c] {
        for n in 0..=60 {
            peer.has(1, endpoint(n).0).await;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(b.gossip.stats().get("push_gaps") + c.gossip.stats().get("push_gaps") > 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_push_are_counted_and_nothing_else() {
    let net = Net::default();
    let [a, mut b, _c] = three(&net).await;
    let end = net.end(([192, 0, 2, 99], 7946).into());
    for junk in [&b""[..], &[1], &[2, 0, 0], &[1; 40], &[255; 70_000]] {
        end.send(b.addr, junk);
    }
    a.publish([endpoint(1)]).await;
    b.has(1, endpoint(1).0).await;
    assert_eq!(b.gossip.stats().get("push_malformed"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_host_is_complete_when_its_host_record_arrives() {
    let net = Net::default();
    let [mut a, b, mut c] = three(&net).await;
    b.publish((0..50).map(endpoint)).await;
    a.has(2, endpoint(49).0).await;
    b.kill().await;
    let mut b = setup(2, channel_addr(2), &[channel_addr(1)])
        .incarnation(2000)
        .records((0..50).map(endpoint))
        .on(&net)
        .start()
        .await;
    for peer in [&mut a, &mut c] {
        peer.told("the new life", |e| is_alive(e, 2, 2000)).await;
        peer.eventually("its host record", |told| standing(told, 2, 2000).remove(&RecordKey::Host))
            .await;
        let keys = keys_of(&peer.told, 2, 2000);
        assert_eq!((keys.len(), keys.last()), (51, Some(&RecordKey::Host)));
        assert!(!peer.told.iter().any(|e| matches!(e, ClusterEvent::Record { record: None, .. })));
        peer.told("the old life falls silent", |e| is_silent(e, 2, 1000)).await;
    }
    // Its own former life is told to it like anybody's.
    b.eventually("its former records", |told| standing(told, 2, 1000).remove(&RecordKey::Host))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_host_is_silent_within_four_seconds_everywhere_and_alive_when_back() {
    let net = Net::default();
    let [mut a, b, mut c] = three(&net).await;
    let killed = Instant::now();
    b.kill().await;
    for peer in [&mut a, &mut c] {
        peer.told("silence", |e| is_silent(e, 2, 1000)).await;
        let after = killed.elapsed();
        assert!(after < Duration::from_secs(4), "{after:?}");
        assert!(after > Duration::from_millis(750), "{after:?} is too nervous");
        assert!(!peer.gossip.peers().contains(&channel_addr(2)));
    }
    let _b = setup(2, channel_addr(2), &[channel_addr(1)]).incarnation(1001).on(&net).start().await;
    for peer in [&mut a, &mut c] {
        peer.told("life", |e| is_alive(e, 2, 1001)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_cut_off_comes_back_with_what_it_wrote_meanwhile() {
    let net = Net::default();
    let [mut a, mut b, _c] = three(&net).await;
    for other in [1, 3] {
        net.remove_link(channel_addr(2), channel_addr(other)).await;
    }
    a.told("silence", |e| is_silent(e, 2, 1000)).await;
    b.told("silence", |e| is_silent(e, 1, 1000)).await;
    b.publish([endpoint(1)]).await;
    a.drain();
    let before = a.told.len();
    for other in [1, 3] {
        net.add_link(channel_addr(2), channel_addr(other)).await;
    }
    a.eventually("alive again", |told| {
        told[before..].iter().find(|e| is_alive(e, 2, 1000)).cloned()
    })
    .await;
    a.has(2, endpoint(1).0).await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_makes_nobody_look_dead_afterwards() {
    let net = Net::default();
    let [mut a, b, mut c] = three(&net).await;
    for n in 0..400 {
        b.publish([endpoint(n)]).await;
        a.has(2, endpoint(n).0).await;
    }
    let quiet_until = Instant::now() + Duration::from_secs(20);
    while timeout_at_event(&mut a, quiet_until).await || timeout_at_event(&mut c, quiet_until).await
    {
    }
    for peer in [a, c] {
        let silent = peer.told.iter().find(|e| matches!(e, ClusterEvent::Silent { .. }));
        assert_eq!(silent, None);
    }
}

/// Takes one event, if one comes before `until`.
async fn timeout_at_event(peer: &mut Peer, until: Instant) -> bool {
    match tokio::time::timeout_at(until, peer.events.recv()).await {
        Ok(Some(event)) => {
            peer.told.push(event);
            true
        }
        _ => false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_host_learns_everything_in_a_few_rounds() {
    let net = Net::default();
    let [mut a, b, mut c] = three(&net).await;
    // Several times what one datagram carries, written before and after b
    // described itself, some of it withdrawn.
    b.publish((0..5000).map(endpoint)).await;
    b.gossip.publish((0..100).map(|n| (endpoint(n).0, None)).collect()).await.unwrap();
    for peer in [&mut a, &mut c] {
        peer.eventually("everything", |told| (standing(told, 2, 1000).len() == 4901).then_some(()))
            .await;
    }
    // Pushes have told them; what they tell others comes with gossip.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut late = setup(4, channel_addr(4), &[a.addr]).on(&net).start().await;
    let start = Instant::now();
    late.eventually("the host record", |told| standing(told, 2, 1000).remove(&RecordKey::Host))
        .await;
    let took = start.elapsed();
    let keys = keys_of(&late.told, 2, 1000);
    assert_eq!((keys.len(), keys.last()), (4901, Some(&RecordKey::Host)));
    println!("a late host learnt 4901 records in {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_resolve_is_tried_until_it_does() {
    let tries = Arc::new(AtomicU64::new(0));
    let count = tries.clone();
    let (commands, mut asked) = mpsc::unbounded_channel();
    let (_live_tx, live) = watch::channel(Vec::new());
    let resolver = join::Resolver {
        names: vec!["peer.example:7946".to_owned(), "192.0.2.7:7946".to_owned()],
        own: vec![channel_addr(1), channel_addr(7)],
        live,
        commands: commands.downgrade(),
        lookup: Arc::new(move |_| {
            let n = count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if n < 3 {
                    Err(std::io::Error::other("no such name"))
                } else {
                    Ok(vec![channel_addr(2)])
                }
            })
        }),
    };
    let start = Instant::now();
    tokio::spawn(resolver.run());
    let Some(Command::Contact(found)) = asked.recv().await else { panic!("nothing asked") };
    // 192.0.2.7 is ourselves, so nobody is asked before the name resolves.
    assert_eq!(found, [channel_addr(2)]);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(tries.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn names_and_peers_that_do_not_answer_do_not_keep_a_host_from_starting() {
    // Where a name leads to: no address of this process's own, but a port of its own.
    let port = 10_000 + std::process::id() % 20_000;
    let b_addr = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port as u16));
    let mut setup_a = setup(1, free_addr(), &[]);
    setup_a.config.join = vec![
        "no-such-host.invalid:7946".to_owned(),
        format!("localhost:{}", b_addr.port()),
        "127.0.0.1:9".to_owned(),
    ];
    let mut a = setup_a.start().await;
    a.publish([endpoint(1)]).await;
    // The one peer that it can find comes up later, and knows nobody.
    let mut b = setup(2, b_addr, &[]).start().await;
    a.meets(2).await;
    b.meets(1).await;
    b.has(1, endpoint(1).0).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_so() {
    let addr = free_addr();
    let _a = setup(1, addr, &[]).start().await;
    let b = setup(2, addr, &[]);
    let Err(err) = Gossip::start(b.config, b.records).await else { panic!("port taken twice") };
    let text = err.to_string();
    assert!(text.contains(&addr.to_string()) && text.contains("--gossip-port"), "{text}");
}

#[tokio::test]
async fn datagrams_of_strangers_are_dropped() {
    let mut a = setup(1, free_addr(), &[]).start().await;
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..300usize {
        // Noise, and noise that begins as a chitchat message does.
        let mut bytes = vec![n as u8; 1 + n * 7 % 2000];
        stranger.send_to(&bytes, a.addr).unwrap();
        bytes.splice(0..0, [0x53, 0xb0, 1, (n % 5) as u8]);
        stranger.send_to(&bytes, a.addr).unwrap();
    }
    let mut b = setup(2, free_addr(), &[a.addr]).start().await;
    a.meets(2).await;
    b.meets(1).await;
    assert_eq!(a.gossip.stats().get("restarts"), 0);
}

/// A node that writes what it likes: chitchat alone.
async fn raw(
    net: &ChannelTransport,
    n: u8,
    node_id: String,
    generation: u64,
    key_values: &[(&str, &str)],
) -> ChitchatHandle {
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(node_id, generation, channel_addr(n)),
        cluster_id: "overlayd".to_owned(),
        gossip_interval: Duration::from_millis(500),
        listen_addr: channel_addr(n),
        seed_nodes: vec![channel_addr(1).to_string()],
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(900),
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    };
    let key_values = key_values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    spawn_chitchat(config, key_values, net).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn junk_is_counted_passed_on_and_harmless() {
    let net = Net::default();
    let [mut a, _b, mut c] = three(&net).await;
    // What c knows of the junk, it has from the others.
    net.remove_link(channel_addr(4), channel_addr(3)).await;
    let host = host_id(4);
    let (_, record) = host_record(4);
    let value = codec::encode(&record).unwrap();
    let long = "A".repeat(5000);
    let _raw = raw(
        &net,
        4,
        host.short(),
        1,
        &[
            ("id", &host.to_string()),
            ("net/0000000000000001", "%%%"),
            ("ep/0000000000000001/000000000001", "/w"),
            ("ring/0000000000000001/4/0", &long),
            ("ring/0000000000000001/4/1", "AQ"),
            ("want/0000000000000001/4", &value),
            ("v2/whatever", "of the future"),
            ("", "no key at all"),
            ("host", &value),
            ("end", "1"),
        ],
    )
    .await;
    for peer in [&mut a, &mut c] {
        peer.eventually("the one good record", |told| {
            standing(told, 4, 1).remove(&RecordKey::Host)
        })
        .await;
        assert_eq!(keys_of(&peer.told, 4, 1), [RecordKey::Host]);
        let stats = peer.gossip.stats();
        for (name, n) in [
            ("undecodable_not_base64", 1),
            ("undecodable_unknown_version", 1),
            ("undecodable_too_long", 1),
            ("undecodable_malformed", 1),
            ("undecodable_misplaced", 1),
            ("unknown_key", 2),
            ("restarts", 0),
        ] {
            assert_eq!(stats.get(name), n, "{name} in {stats:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_long_is_refused_and_the_others_stand() {
    let net = Net::default();
    let [a, mut b, _c] = three(&net).await;
    let (key, Record::Endpoint(mut long)) = endpoint(1) else { unreachable!() };
    long.labels.insert("story".to_owned(), "x".repeat(1000));
    let long = Record::Endpoint(long);
    assert!(check(&long).is_err() && check(&endpoint(1).1).is_ok());
    let changes =
        vec![(key, Some(long)), changed(endpoint(2)), (endpoint(3).0, Some(endpoint(4).1))];
    let err = a.gossip.publish(changes).await.unwrap_err();
    let PublishError::Refused(refused) = &err else { panic!("{err}") };
    assert!(matches!(refused[0], (k, RefusedBecause::TooLong(_)) if k == key));
    assert_eq!(refused[1], (endpoint(3).0, RefusedBecause::Misplaced));
    assert!(err.to_string().contains("shorten its labels"), "{err}");
    b.has(1, endpoint(2).0).await;
    assert!(!standing(&b.told, 1, 1000).contains_key(&key));
    assert_eq!(a.gossip.stats().get("refused"), 2);
}

/// A transport whose sockets break when told to.
struct Breakable {
    net: ChannelTransport,
    broken: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
}

struct BreakableSocket {
    socket: Box<dyn Socket>,
    broken: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
}

#[async_trait]
impl Transport for Breakable {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        anyhow::ensure!(!self.broken.load(Ordering::Relaxed), "still broken");
        let (broken, wake) = (self.broken.clone(), self.wake.clone());
        Ok(Box::new(BreakableSocket { socket: self.net.open(listen).await?, broken, wake }))
    }
}

#[async_trait]
impl Socket for BreakableSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.socket.local_addr()
    }
    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        self.socket.send(to, envelope).await
    }
    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            anyhow::ensure!(!self.broken.load(Ordering::Relaxed), "broken");
            tokio::select! {
                outcome = self.socket.recv() => return outcome,
                () = self.wake.notified() => {}
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn when_chitchat_dies_a_new_life_begins_with_the_same_records() {
    let net = Net::default();
    let [a, mut b, _c] = three(&net).await;
    let (broken, wake) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let mut setup = setup(4, channel_addr(4), &[a.addr]).records([endpoint(1)]);
    let pushes = net.end(setup.config.advertise);
    let transport = Breakable { net: net.gossip, broken: broken.clone(), wake: Arc::clone(&wake) };
    setup.transport = Some((Arc::new(transport), pushes));
    setup.config.next_incarnation = Arc::new(|| 5000);
    let mut d = setup.start().await;
    for n in 1..=3 {
        d.meets(n).await;
    }
    b.meets(4).await;
    d.publish([endpoint(2)]).await;
    d.drain();
    let known = d.told.len();

    broken.store(true, Ordering::Relaxed);
    wake.notify_one();
    // Published between two lives.
    b.told("the old life falls silent", |e| is_silent(e, 4, 1000)).await;
    d.publish([endpoint(3)]).await;
    broken.store(false, Ordering::Relaxed);

    b.eventually("the host record", |told| standing(told, 4, 5000).remove(&RecordKey::Host)).await;
    let want = [host_record(4), endpoint(1), endpoint(2), endpoint(3)];
    assert_eq!(standing(&b.told, 4, 5000), want.into());
    d.counts("restarts", 1).await;
    // It hears the others as before, and took nothing back.
    a.publish([endpoint(7)]).await;
    d.has(1, endpoint(7).0).await;
    let taken_back = |e: &&ClusterEvent| {
        matches!(e, ClusterEvent::Forgotten { .. } | ClusterEvent::Record { record: None, .. })
    };
    assert_eq!(d.told.iter().find(taken_back), None);
    let again = d.told[known..]
        .iter()
        .find(|e| matches!(e, ClusterEvent::Record { key: RecordKey::Host, incarnation: 1000, host, .. } if *host != host_id(4)));
    assert_eq!(again, None, "told what it knew already");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_chitchat_again_and_again_kills_nothing_else() {
    let net = Net::default();
    let a = setup(1, channel_addr(1), &[]).on(&net).start().await;
    // chitchat cuts the first byte off a key, which here is half a character.
    // (Its writer panics too, when it is written already.)
    let poison = Arc::new(raw(&net, 9, "poison".to_owned(), 1, &[]).await);
    let writer = poison.clone();
    let write =
        async move { writer.with_chitchat(|c| c.self_node_state().set("\u{e9}", "x")).await };
    assert!(tokio::spawn(write).await.unwrap_err().is_panic());
    a.counts("restarts", 5).await;
    let (start, before) = (Instant::now(), a.gossip.stats().get("restarts"));
    a.publish([endpoint(1)]).await;
    a.counts("restarts", before + 5).await;
    assert!(start.elapsed() > Duration::from_secs(4), "{:?}", start.elapsed());
    poison.initiate_shutdown().unwrap();
    let mut b = setup(2, channel_addr(2), &[channel_addr(1)]).on(&net).start().await;
    b.eventually("what was published between two lives", |told| {
        told.iter().find_map(|event| match event {
            ClusterEvent::Record { key, .. } if *key == endpoint(1).0 => Some(()),
            _ => None,
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stopping_tells_the_peers_the_last_word() {
    let net = Net::default();
    let [a, mut b, mut c] = three(&net).await;
    let (key, Record::Host(mut host)) = host_record(1) else { unreachable!() };
    host.intent = HostIntent::Stopped;
    let last = Record::Host(host);
    a.gossip.publish(vec![(key, Some(last.clone()))]).await.unwrap();
    assert_eq!(a.gossip.stop(Duration::from_secs(2)).await, 2);
    for peer in [&mut b, &mut c] {
        peer.eventually("the last word", |told| {
            (standing(told, 1, 1000).get(&key) == Some(&last)).then_some(())
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_no_longer_than_told_for_peers_that_do_not_answer() {
    let net = Net::default();
    let [a, _b, _c] = three(&net).await;
    net.remove_link(channel_addr(1), channel_addr(3)).await;
    let start = Instant::now();
    assert_eq!(a.gossip.stop(Duration::from_millis(700)).await, 1);
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_host_is_forgotten_after_the_grace() {
    let net = Net::default();
    let with_grace = |n: u8, join: &[SocketAddr]| {
        let mut setup = setup(n, channel_addr(n), join).on(&net);
        setup.config.dead_grace = Duration::from_secs(30);
        setup
    };
    let mut a = with_grace(1, &[]).start().await;
    let b = with_grace(2, &[channel_addr(1)]).start().await;
    a.meets(2).await;
    b.kill().await;
    let gone = ClusterEvent::Forgotten { host: host_id(2), incarnation: 1000 };
    a.told("forgotten", |e| *e == gone).await;
}

#[tokio::test(start_paused = true)]
async fn what_others_write_in_our_name_is_put_right() {
    let net = Net::default();
    let [mut a, b, _c] = three(&net).await;
    b.publish([endpoint(1)]).await;
    a.has(2, endpoint(1).0).await;
    // A forger tells b's own records to everybody, b included: one changed, one
    // more, none of the others.
    let forger = raw(&net, 9, "forger".to_owned(), 1, &[]).await;
    let b_id = ChitchatId::new(host_id(2).short(), 1000, channel_addr(2));
    let forged = |value: &str, version| VersionedValue {
        value: value.to_owned(),
        version,
        status: DeletionStatus::Set,
    };
    let (_, other) = samples::endpoint(1);
    let Record::Endpoint(mut other) = other else { unreachable!() };
    other.move_seq = 99;
    let value = codec::encode(&Record::Endpoint(other)).unwrap();
    forger
        .with_chitchat(|chitchat| {
            let keys = [
                (ID.to_owned(), forged(&host_id(2).to_string(), 1)),
                (endpoint(1).0.to_string(), forged(&value, 50)),
                (endpoint(2).0.to_string(), forged(&value, 51)),
                (END.to_owned(), forged("9", 52)),
            ];
            chitchat.reset_node_state_if_update(&b_id, keys.into_iter(), 52, 49);
        })
        .await;
    b.counts("own_repaired", 1).await;
    a.eventually("b's own word", |told| {
        let standing = standing(told, 2, 1000);
        let told_all: BTreeMap<_, _> = [host_record(2), endpoint(1)].into();
        (standing == told_all).then_some(())
    })
    .await;
    // It is told nothing of itself.
    let mut b = b;
    b.drain();
    assert_eq!(keys_of(&b.told, 2, 1000), []);
}

#[tokio::test(start_paused = true)]
async fn hosts_of_another_cluster_stay_strangers() {
    let net = Net::default();
    let mut a = setup(1, channel_addr(1), &[]).on(&net).start().await;
    let mut other = setup(2, channel_addr(2), &[channel_addr(1)]).on(&net);
    other.config.cluster = "another".to_owned();
    let other = other.start().await;
    let mut c = setup(3, channel_addr(3), &[channel_addr(1)]).on(&net).start().await;
    a.meets(3).await;
    c.meets(1).await;
    a.drain();
    assert!(standing(&a.told, 2, 1000).is_empty());
    assert_eq!(other.gossip.peers(), []);
}

#[tokio::test(start_paused = true)]
async fn publishing_what_stands_already_says_nothing() {
    let net = Net::default();
    let [a, mut b, _c] = three(&net).await;
    let ring = |version| {
        let key = RecordKey::Ring(NetworkId(1), overlay_model::Family::V4, 0);
        (key, Record::Ring(RingToken { owner: host_id(1), version, until: 256 }))
    };
    a.publish([ring(1)]).await;
    b.has(1, ring(1).0).await;
    let pushes = || a.gossip.stats().get("pushes_sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = pushes();
    a.publish([ring(1)]).await;
    a.gossip.publish(vec![(RecordKey::Network(NetworkId(3)), None)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(pushes(), before);
}

// Sealed: over real sockets, for the seal is between the sockets and chitchat.

fn ring(keys: &[&Key]) -> Arc<Keyring> {
    Arc::new(Keyring::new(keys.iter().map(|key| (*key).clone()).collect()).unwrap())
}

impl Setup {
    fn sealed(mut self, ring: &Arc<Keyring>) -> Self {
        self.config.keys = Some(ring.clone());
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_with_one_key_find_each_other_and_again_after_a_restart() {
    let key = Key::generate().unwrap();
    let mut a = setup(1, free_addr(), &[]).sealed(&ring(&[&key])).start().await;
    let mut b = setup(2, free_addr(), &[a.addr]).sealed(&ring(&[&key])).start().await;
    a.meets(2).await;
    b.meets(1).await;
    for counter in ["seal_forged", "seal_plain", "seal_unknown_key", "seal_replayed"] {
        assert_eq!(a.gossip.stats().get(counter), 0, "{counter}");
    }
    let addr = b.addr;
    b.kill().await;
    // What was aborted lets go of its sockets a moment later.
    while std::net::TcpListener::bind(addr).is_err() || std::net::UdpSocket::bind(addr).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut b = setup(2, addr, &[a.addr])
        .incarnation(2000)
        .records([endpoint(7)])
        .sealed(&ring(&[&key]))
        .start()
        .await;
    b.meets(1).await;
    a.told("the new life", |e| is_alive(e, 2, 2000)).await;
    a.eventually("its record", |told| standing(told, 2, 2000).remove(&endpoint(7).0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_changed_on_three_hosts_while_one_publishes_and_nothing_is_lost() {
    let (old, new) = (Key::generate().unwrap(), Key::generate().unwrap());
    let rings = [ring(&[&old]), ring(&[&old]), ring(&[&old])];
    let mut a = setup(1, free_addr(), &[]).sealed(&rings[0]).start().await;
    let mut b = setup(2, free_addr(), &[a.addr]).sealed(&rings[1]).start().await;
    let mut c = setup(3, free_addr(), &[a.addr]).sealed(&rings[2]).start().await;
    for (peer, others) in [(&mut a, [2, 3]), (&mut b, [1, 3]), (&mut c, [1, 2])] {
        for other in others {
            peer.meets(other).await;
        }
    }
    let mut steps = Vec::new();
    for ring in &rings {
        steps.push((ring, ring.with(new.clone()).unwrap()));
    }
    for ring in &rings {
        steps.push((ring, ring.with(new.clone()).unwrap().using(new.id()).unwrap()));
    }
    for ring in &rings {
        steps.push((ring, Keyring::new(vec![new.clone()]).unwrap()));
    }
    let mut steps = steps.into_iter();
    for n in 0..100 {
        a.publish([endpoint(n)]).await;
        if n % 11 == 5 {
            let (ring, next) = steps.next().expect("nine steps in a hundred records");
            ring.replace(&next);
        }
        // Each arrives under whatever keys there are just now, and not only in the end.
        b.has(1, endpoint(n).0).await;
        c.has(1, endpoint(n).0).await;
    }
    assert!(steps.next().is_none(), "the rotation is over");
    for peer in [&a, &b, &c] {
        let stats = peer.gossip.stats();
        let refused = ["seal_unknown_key", "seal_refused_by_peer", "seal_forged", "seal_plain"];
        assert!(refused.iter().all(|name| stats.get(name) == 0), "{stats:?}");
        let silent = peer.told.iter().find(|e| matches!(e, ClusterEvent::Silent { .. }));
        assert_eq!(silent, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_another_key_or_none_gets_nowhere_and_both_ends_count_it() {
    let mut a =
        setup(1, free_addr(), &[]).sealed(&ring(&[&Key::generate().unwrap()])).start().await;
    let other = ring(&[&Key::generate().unwrap()]);
    let b = setup(2, free_addr(), &[a.addr]).sealed(&other).records([endpoint(2)]).start().await;
    let mut c = setup(3, free_addr(), &[a.addr]).records([endpoint(3)]).start().await;
    a.counts("seal_unknown_key", 1).await;
    b.counts("seal_refused_by_peer", 1).await;
    a.counts("seal_plain", 1).await;
    c.counts("seal_refused_by_peer", 1).await;
    a.drain();
    c.drain();
    assert_eq!((a.told.len(), c.told.len()), (0, 0));
    assert_eq!(a.gossip.stats().get("messages_received"), 0, "chitchat has seen nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_records_come_by_tcp() {
    let key = Key::generate().unwrap();
    let a = setup(1, free_addr(), &[])
        .sealed(&ring(&[&key]))
        .records((0..3000).map(endpoint))
        .start()
        .await;
    let mut b = setup(2, free_addr(), &[a.addr]).sealed(&ring(&[&key])).start().await;
    b.eventually("all of them", |told| (standing(told, 1, 1000).len() == 3001).then_some(())).await;
    let stats = a.gossip.stats();
    assert!(stats.get("tcp_messages_sent") > 0, "{stats:?}");
    assert_eq!(stats.get("tcp_failed") + stats.get("tcp_dropped"), 0, "{stats:?}");
}

/// a has IPv4 alone and s IPv6 alone: they hear of each other through d.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_ipv4_of_ipv6_and_of_both_are_one_cluster() {
    let start = async |n: u8, listen: &[SocketAddr], join: SocketAddr| {
        let mut it = setup(n, listen[0], &[join]);
        it.config.listen_also = listen.get(1).copied();
        let Some((_, Record::Host(host))) = it.records.first_mut() else { unreachable!() };
        host.gossip = listen[0];
        host.vteps = listen.iter().map(SocketAddr::ip).collect();
        it.start().await
    };
    let four = |addr: SocketAddr| addr;
    let six = |addr: SocketAddr| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, addr.port()));
    let [a, s, d] = [(); 3].map(|()| free_addr());
    let mut d_host = start(3, &[four(d), six(d)], four(a)).await;
    let mut a_host = start(1, &[four(a)], four(d)).await;
    let mut s_host = start(2, &[six(s)], six(d)).await;
    for peer in [&mut a_host, &mut s_host, &mut d_host] {
        let own = peer.n;
        for n in (1..=3).filter(|n| *n != own) {
            peer.told("the others are there", |e| is_alive(e, n, 1000)).await;
        }
    }
    // What each says arrives with the others, and between d and s at once.
    for (n, peer) in [&a_host, &s_host, &d_host].into_iter().enumerate() {
        peer.gossip.publish(vec![changed(endpoint(n as u64))]).await.unwrap();
    }
    for peer in [&mut a_host, &mut s_host, &mut d_host] {
        let own = peer.n;
        for n in (1..=3).filter(|n| *n != own) {
            peer.eventually("its record", |told| {
                standing(told, n, 1000)
                    .keys()
                    .any(|key| matches!(key, RecordKey::Endpoint(..)))
                    .then_some(())
            })
            .await;
        }
    }
    assert!(d_host.gossip.stats().get("pushes_received") >= 2, "{:?}", d_host.gossip.stats());
    assert!(s_host.gossip.stats().get("pushes_received") >= 1, "{:?}", s_host.gossip.stats());
    // And they stay.
    assert!(!a_host.told.iter().any(|e| is_silent(e, 2, 1000)), "{:?}", a_host.told);
}
