//! What the engine alone costs when tens of thousands of endpoints come at
//! once: no socket, disk or kernel in it.
//!
//! ```text
//!   a: import ─► saved ─► published, planned      b: a record each ─► planned ─► the kernel tells
//! ```
//!
//! `cargo bench -p overlay-engine --bench bulk`, or with `-- 50000 9` for one
//! size and nine rounds. Each figure is the median of the rounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use overlay_engine::fake_kernel::FakeKernel;
use overlay_engine::{
    Attach, Config, CreateNetwork, Effect, Engine, Event, Import, LocalEndpoint, Now, Reply,
    Request, Restored, StateChange, StaticEndpoint, Table, Where,
};
use overlay_model::{
    ClusterEvent, Foreign, HostId, IfName, KernelChange, MacAddr, Name, Network, Record, RecordKey,
    Vni,
};

fn host(i: u8) -> HostId {
    HostId(uuid::Uuid::from_u128(u128::from(i) + 1))
}

fn config(i: u8) -> Config {
    Config {
        host: host(i),
        incarnation: 1,
        name: Name::new(&format!("h{i}")).expect("a letter and digits"),
        vteps: vec![IpAddr::from([192, 0, 2, i + 1])],
        dual: false,
        underlay_dev: IfName::new("eth0").expect("a name"),
        other_dev: None,
        underlay_mtu: 1500,
        vxlan_port: 4789,
        outer: Default::default(),
        gossip: ([192, 0, 2, i + 1], 7946).into(),
        version: "0".into(),
        boot_id: "1".into(),
        keys: overlay_model::HostKeys::default(),
        forget_after: Some(Duration::from_secs(24 * 3600)),
        state_dir: "/var/lib/overlayd".into(),
        down_after: Duration::from_secs(1),
        down_grace: Duration::from_secs(10),
        stop_grace: Duration::from_secs(600),
        alone_after: Duration::from_secs(15),
        leak_grace: Duration::from_secs(60),
        host_access: Default::default(),
    }
}

fn now() -> Now {
    Now { mono: Duration::from_secs(60), wall_ms: 1_700_000_000_000 }
}

/// A host whose disk and kernel take no time.
struct Node {
    engine: Engine,
    kernel: FakeKernel,
    /// What the clock runs for: the engine's steps.
    spent: Duration,
    /// The longest of them.
    longest: Duration,
    published: Vec<(RecordKey, Option<Record>)>,
    disk: Vec<StateChange>,
    replies: Vec<Reply>,
}

impl Node {
    fn new(i: u8, restored: Restored, kernel: FakeKernel) -> Self {
        let start = Instant::now();
        let engine = Engine::new(config(i), restored, Now { mono: Duration::ZERO, wall_ms: 1 });
        let mut node = Self {
            engine,
            kernel,
            spent: start.elapsed(),
            longest: Duration::ZERO,
            published: Vec::new(),
            disk: Vec::new(),
            replies: Vec::new(),
        };
        let state = node.kernel.read();
        node.run(Event::Kernel(KernelChange::Snapshot(Box::new(state))));
        node.run(Event::Tick);
        node
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let start = Instant::now();
        let effects = self.engine.step(event, now());
        let took = start.elapsed();
        self.spent += took;
        self.longest = self.longest.max(took);
        effects
    }

    /// A step and all that follows from it.
    fn run(&mut self, event: Event) {
        let effects = self.step(event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist { id, changes } => {
                    self.disk.extend(changes);
                    self.run(Event::Persisted { id, result: Ok(()) });
                }
                Effect::Publish(changes) => self.published.extend(changes),
                Effect::Apply { plan, ops } => {
                    let (changes, report) = self.kernel.apply(&ops);
                    for change in changes {
                        self.run(Event::Kernel(change));
                    }
                    self.run(Event::Applied { plan, report });
                }
                Effect::Reply { result, .. } => {
                    self.replies.push(result.unwrap_or_else(|refused| panic!("{refused:?}")));
                }
                Effect::Announce(_)
                | Effect::Hold(_)
                | Effect::Names(_)
                | Effect::Notice(_)
                | Effect::Exit => {}
            }
        }
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.run(Event::Request { token: 1, fresh: 1, request: Box::new(request) });
        self.replies.pop().expect("every request is answered")
    }

    /// What the steps since the last call have cost: all, and the longest.
    fn lap(&mut self) -> (Duration, Duration) {
        (std::mem::take(&mut self.spent), std::mem::take(&mut self.longest))
    }
}

fn station(n: u32, from: u32) -> StaticEndpoint {
    let ip = Ipv4Addr::from_bits(0x0a80_0000 + from + n);
    StaticEndpoint {
        mac: MacAddr::of_ipv4(ip),
        addresses: vec![IpAddr::V4(ip)],
        name: Some(Name::new(&format!("station-{}", from + n)).expect("letters and digits")),
        aliases: BTreeSet::new(),
        labels: BTreeMap::new(),
    }
}

fn add(first: StaticEndpoint) -> Request {
    Request::Attach(Attach {
        net: "demo".into(),
        place: Where::Static,
        ips: first.addresses,
        mac: Some(first.mac),
        name: first.name,
        aliases: first.aliases,
        labels: first.labels,
        ports: Vec::new(),
        take_over: false,
        keep_ip: false,
        reserved: false,
        foreign: Foreign::default(),
    })
}

fn import(n: u32, replace: bool) -> Request {
    let endpoints = (0..n).map(|n| station(n, 16)).collect();
    let foreign = Foreign::default();
    Request::Import(Import { net: "demo".into(), replace, take_over: false, endpoints, foreign })
}

/// One round: what each part has cost.
fn round(n: u32) -> Vec<(&'static str, Duration)> {
    let mut figures = Vec::new();
    let mut a = Node::new(0, Restored::default(), FakeKernel::default());
    a.ask(Request::CreateNetwork(CreateNetwork {
        name: Some(Name::new("demo").expect("a name")),
        vni: Some(Vni::new(4097).expect("a VNI")),
        subnets: vec!["10.128.0.0/12".parse().expect("a subnet")],
        ..CreateNetwork::default()
    }));
    a.ask(add(station(0, 2)));

    // a: the request, and the step that follows from its having been saved.
    a.lap();
    let asked = Event::Request { token: 1, fresh: 7, request: Box::new(import(n, false)) };
    let mut effects = a.step(asked);
    figures.push(("a: import: check, lease, to the disk", a.lap().0));
    let Effect::Persist { id, changes } = effects.remove(0) else { panic!("it is saved first") };
    assert_eq!(changes.len(), n as usize, "in one transaction");
    a.disk.extend(changes);
    a.perform(effects);
    a.lap();
    let effects = a.step(Event::Persisted { id, result: Ok(()) });
    figures.push(("a: import: publish, plan", a.lap().0));
    assert_eq!(
        effects.iter().filter(|e| matches!(e, Effect::Publish(_))).count(),
        1,
        "one publication"
    );
    a.perform(effects);
    figures.push(("a: the kernel tells of it", a.lap().0));
    a.ask(import(n, true));
    figures.push(("a: the same again, --replace", a.lap().0));

    // b: the network, a's host record, an endpoint of its own; then the records.
    let networks: Vec<Network> = a
        .disk
        .iter()
        .filter_map(|change| match change {
            StateChange::Network(net) => Some(net.clone()),
            _ => None,
        })
        .collect();
    let ring = a.disk.iter().filter_map(|change| match change {
        StateChange::Ring(net, family, offset, token) => {
            let token = overlay_model::RingToken { owner: host(1), ..*token };
            Some(((*net, *family, *offset), token))
        }
        _ => None,
    });
    let restored = Restored { networks, ring: ring.collect(), ..Restored::default() };
    let mut b = Node::new(1, restored, FakeKernel::default());
    b.ask(add(station(0, 3)));
    let hears = |key, record: Option<Record>| {
        let record = record.map(Box::new);
        Event::Cluster(ClusterEvent::Record { host: host(0), incarnation: 1, key, record })
    };
    b.run(Event::Cluster(ClusterEvent::Alive { host: host(0), incarnation: 1 }));
    let own = a.engine.own_records();
    let (host_key, host_record) = own.into_iter().last().expect("the host comes last");
    b.run(hears(host_key, Some(host_record)));
    // `--replace` has withdrawn the one that was not in the list.
    let mut records: BTreeMap<RecordKey, Option<Record>> = a.published.drain(..).collect();
    records.retain(|key, record| matches!(key, RecordKey::Endpoint(..)) && record.is_some());
    assert_eq!(records.len(), n as usize);

    // The kernel is busy with the first one while the others come.
    b.lap();
    let mut first = None;
    for (key, record) in records {
        let effects = b.step(hears(key, record));
        if effects.iter().any(|e| matches!(e, Effect::Apply { .. })) {
            assert!(first.is_none(), "so little has one plan in flight");
            first = Some(effects);
        }
    }
    figures.push(("b: the records", b.lap().0));
    let mut applied = first.expect("the first record is planned at once");
    let Some(Effect::Apply { plan, ops }) = applied.pop() else { panic!("a plan") };
    let (changes, report) = b.kernel.apply(&ops);
    for change in changes {
        b.run(Event::Kernel(change));
    }
    b.lap();
    // Two may be in flight, and are carried out in order.
    let mut effects = VecDeque::from(b.step(Event::Applied { plan, report }));
    let (mut planned, mut told, mut count) = (b.lap().0, Duration::ZERO, 0);
    while let Some(effect) = effects.pop_front() {
        let Effect::Apply { plan, ops } = effect else { continue };
        count += ops.len();
        let (changes, report) = b.kernel.apply(&ops);
        for change in changes {
            let more = b.step(Event::Kernel(change));
            effects.extend(more);
        }
        told += b.lap().0;
        effects.extend(b.step(Event::Applied { plan, report }));
        planned += b.lap().0;
    }
    assert_eq!(count, 3 * (n as usize - 1), "two FDB entries and a neighbour each");
    figures.push(("b: the plans", planned));
    figures.push(("b: the kernel tells of it", told));

    // What people look at.
    b.ask(Request::Status);
    figures.push(("b: status", b.lap().0));
    b.ask(Request::Plan);
    figures.push(("b: plan (all is as it should be)", b.lap().0));
    b.ask(Request::Entries { tables: vec![Table::Vxlan, Table::Bridge, Table::Flood], net: None });
    figures.push(("b: fdb", b.lap().0));
    b.ask(Request::Endpoints { net: None, local: false });
    figures.push(("b: endpoints", b.lap().0));
    let state = b.kernel.read();
    b.run(Event::Kernel(KernelChange::Reading));
    b.run(Event::Kernel(KernelChange::Read(Box::new(state))));
    let operations = b.kernel.operations;
    let mut slices = Vec::new();
    while b.engine.next_deadline() == Some(now().mono) {
        let before = b.spent;
        b.run(Event::Tick);
        slices.push(b.spent - before);
    }
    slices.sort();
    assert_eq!(b.kernel.operations, operations, "nothing differs");
    figures.push(("b: the full check of every minute", b.lap().0));
    figures.push(("b: a slice of it, p99", slices[slices.len() * 99 / 100]));
    figures.push(("b: the longest slice of it", slices[slices.len() - 1]));
    // The first one pays for what the allocator has put off.
    b.ask(add(station(0, 4)));
    b.lap();
    b.ask(add(station(0, 5)));
    figures.push(("b: one more endpoint", b.lap().0));

    // a dies and comes back.
    let mut local: BTreeMap<_, LocalEndpoint> = BTreeMap::new();
    let mut restored = Restored::default();
    for change in a.disk {
        match change {
            StateChange::Network(net) => restored.networks.push(net),
            StateChange::Endpoint(ep) => drop(local.insert(ep.endpoint.id, *ep)),
            StateChange::Ring(net, family, offset, token) => {
                restored.ring.push(((net, family, offset), token));
            }
            StateChange::DropEndpoint(id) => drop(local.remove(&id)),
            // Nothing of these comes in here.
            StateChange::DropRing(_)
            | StateChange::Kept(_)
            | StateChange::DropKept(..)
            | StateChange::DropToken(..)
            | StateChange::Member(..)
            | StateChange::Fate(..)
            | StateChange::Drained(_)
            | StateChange::Recovered
            | StateChange::Service(_)
            | StateChange::Contact(_) => {}
        }
    }
    restored.endpoints = local.into_values().collect();
    let operations = a.kernel.operations;
    let mut again = Node::new(0, restored, a.kernel);
    figures.push(("a: restart", again.lap().0));
    assert_eq!(again.kernel.operations, operations, "a restart writes nothing");
    figures
}

fn main() {
    let args: Vec<u32> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = args.first().map_or(vec![10_000, 50_000, 100_000], |n| vec![*n]);
    let rounds = args.get(1).copied().unwrap_or(5).max(1);
    let mut table: Vec<(&str, Vec<Duration>)> = Vec::new();
    for n in &sizes {
        let all: Vec<_> = (0..rounds).map(|_| round(*n)).collect();
        for (i, (what, _)) in all[0].iter().enumerate() {
            let mut times: Vec<Duration> = all.iter().map(|figures| figures[i].1).collect();
            times.sort();
            if table.len() == i {
                table.push((what, Vec::new()));
            }
            table[i].1.push(times[times.len() / 2]);
        }
    }
    print!("{:40}", format!("median of {rounds}, ms"));
    sizes.iter().for_each(|n| print!("{n:>12}"));
    println!();
    for (what, times) in table {
        print!("{what:40}");
        times.iter().for_each(|t| print!("{:>12.1}", t.as_secs_f64() * 1e3));
        println!();
    }
}
