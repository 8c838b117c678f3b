use std::collections::BTreeSet;
use std::time::Duration;

use overlay_engine::fake_kernel::FakeKernel;
use overlay_engine::{Attach, CreateNetwork, Request, Where};
use overlay_model::{ClusterEvent, Foreign, HostId, IfName, KernelChange, Name, NetnsRef};

use super::*;

fn config() -> Config {
    Config {
        host: HostId(uuid::Uuid::from_u128(1)),
        incarnation: 5,
        name: Name::new("a").unwrap(),
        vteps: vec!["192.0.2.1".parse().unwrap()],
        dual: false,
        underlay_dev: IfName::new("eth0").unwrap(),
        other_dev: None,
        underlay_mtu: 1500,
        vxlan_port: 4789,
        outer: Default::default(),
        gossip: "192.0.2.1:7946".parse().unwrap(),
        version: "0".into(),
        keys: overlay_model::HostKeys::default(),
        boot_id: "1".into(),
        down_after: Duration::from_secs(1),
        down_grace: Duration::from_secs(10),
        stop_grace: Duration::from_secs(600),
        alone_after: Duration::from_secs(15),
        forget_after: None,
        leak_grace: Duration::ZERO,
        host_access: overlay_model::Access::Closed,
        state_dir: "/var/lib/overlayd".into(),
    }
}

fn now(s: u64) -> Now {
    Now { mono: Duration::from_secs(s), wall_ms: 1_800_000_000_000 + s * 1000 }
}

/// Performs what the engine wants, and tells it, until it wants nothing more.
fn settle(engine: &mut Recorded, kernel: &mut FakeKernel, effects: Vec<Effect>, at: Now) {
    for effect in effects {
        match effect {
            Effect::Persist { id, .. } => {
                let more = engine.step(Event::Persisted { id, result: Ok(()) }, at);
                settle(engine, kernel, more, at);
            }
            Effect::Apply { plan, ops } => {
                let (changes, report) = kernel.apply(&ops);
                for change in changes {
                    let more = engine.step(Event::Kernel(change), at);
                    settle(engine, kernel, more, at);
                }
                let more = engine.step(Event::Applied { plan, report }, at);
                settle(engine, kernel, more, at);
            }
            _ => {}
        }
    }
}

/// A life of a daemon: a network, an attach, another host, an end.
fn live(path: &Path, limit: u64) {
    let mut kernel = FakeKernel::default();
    kernel.netns.insert("/run/netns/c1".into());
    let mut engine =
        Recorded::new(config(), Restored::default(), now(0), Some(path), limit).unwrap();
    engine.own_records();
    let mut token = 0;
    let mut step = |engine: &mut Recorded, event, s| {
        let effects = engine.step(event, now(s));
        settle(engine, &mut kernel, effects, now(s));
    };
    let snapshot = KernelChange::Snapshot(Box::default());
    step(&mut engine, Event::Kernel(snapshot), 1);
    let mut request = |request| {
        token += 1;
        Event::Request { token, fresh: token, request: Box::new(request) }
    };
    let create = CreateNetwork {
        name: Some(Name::new("demo").unwrap()),
        subnets: vec!["10.9.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        ..CreateNetwork::default()
    };
    step(&mut engine, request(Request::CreateNetwork(create)), 2);
    let host = HostId(uuid::Uuid::from_u128(2));
    step(&mut engine, Event::Cluster(ClusterEvent::Alive { host, incarnation: 1 }), 3);
    let attach = Attach {
        net: "demo".into(),
        place: Where::Netns {
            netns: NetnsRef { path: "/run/netns/c1".into(), cookie: 1 },
            taken_ifnames: BTreeSet::new(),
            ifname: None,
            default_route: true,
            no_dns: false,
        },
        ips: vec![],
        mac: None,
        name: Some(Name::new("c1").unwrap()),
        aliases: BTreeSet::new(),
        labels: [("a".to_owned(), "b \" c".to_owned())].into(),
        ports: vec![],
        take_over: false,
        keep_ip: false,
        reserved: false,
        foreign: Foreign::default(),
    };
    step(&mut engine, request(Request::Attach(attach)), 4);
    step(&mut engine, request(Request::Status), 5);
    step(&mut engine, request(Request::Endpoints { net: None, local: false }), 5);
    step(&mut engine, Event::Tick, 30);
    engine.stop(now(31));
}

fn replayed(path: &Path) -> (Replayed, String) {
    let mut out = Vec::new();
    let done = replay(path, &mut out).unwrap();
    (done, String::from_utf8(out).unwrap())
}

#[test]
fn a_journal_is_replayed_to_the_same_effects_life_after_life() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    live(&path, 1 << 20);
    let (one, text) = replayed(&path);
    assert!(one.steps > 20 && one.differ == 0 && one.cut == 0, "{one:?}\n{text}");
    assert!(text.contains("  ip link add ove"), "{text}");
    assert!(text.contains("  says: attached endpoint"), "{text}");
    live(&path, 1 << 20);
    let (two, _) = replayed(&path);
    assert_eq!(two, Replayed { steps: one.steps * 2, ..one });
}

#[test]
fn a_journal_that_was_altered_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    live(&path, 1 << 20);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("10.9.0.0/24", "10.8.0.0/24")).unwrap();
    let (done, text) = replayed(&path);
    assert!(done.differ > 0 && text.contains("DIFFERS"), "{text}");
    std::fs::write(&path, "no journal\n").unwrap();
    let err = replay(&path, &mut Vec::new()).unwrap_err().to_string();
    assert!(err.contains("line 1 is no journal"), "{err}");
}

#[test]
fn a_cut_journal_is_replayed_up_to_the_cut_and_goes_on_with_the_next_life() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    live(&path, 1 << 20);
    let (whole, _) = replayed(&path);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
    let (cut, text) = replayed(&path);
    assert_eq!(cut, Replayed { steps: whole.steps - 1, differ: 0, cut: 1 });
    assert!(text.ends_with("cut in the middle\n"), "{text}");
    live(&path, 1 << 20);
    assert_eq!(replayed(&path).0, Replayed { steps: whole.steps * 2 - 1, differ: 0, cut: 1 });
}

#[test]
fn a_full_journal_ends_within_its_limit_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    live(&path, 4000);
    assert!(std::fs::metadata(&path).unwrap().len() <= 4000);
    let (done, text) = replayed(&path);
    assert!(done.steps > 1 && done.differ == 0, "{done:?}");
    assert!(text.ends_with("the journal was full\n"), "{text}");
}

/// What released software wrote; a journal may come from another machine. If
/// this fails, raise [`FORMAT`].
#[test]
fn lines_of_format_1_stay_readable() {
    let lines = [
        HEAD,
        r#"{"Records":{"hash":"0123456789abcdef"}}"#,
        r#"{"Step":{"now":{"mono":{"secs":30,"nanos":5},"wall_ms":1800000030000},"event":"Tick","hash":"0123456789abcdef"}}"#,
        r#"{"Step":{"now":{"mono":{"secs":3,"nanos":0},"wall_ms":1},"event":{"Cluster":{"Alive":{"host":"00000000-0000-0000-0000-000000000002","incarnation":1}}},"hash":"none: x"}}"#,
        r#"{"Step":{"now":{"mono":{"secs":3,"nanos":0},"wall_ms":1},"event":{"Persisted":{"id":1,"result":{"Ok":null}}},"hash":""}}"#,
        r#"{"Step":{"now":{"mono":{"secs":3,"nanos":0},"wall_ms":1},"event":{"Request":{"token":1,"fresh":2,"request":{"Detach":{"target":"c1","net":null}}}},"hash":""}}"#,
        r#"{"Stop":{"now":{"mono":{"secs":31,"nanos":0},"wall_ms":1800000031000},"hash":"0123456789abcdef"}}"#,
        r#""Full""#,
    ];
    for text in lines {
        let line: Line = serde_json::from_str(text).unwrap_or_else(|err| panic!("{text}: {err}"));
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
    }
    let mut out = Vec::new();
    let done = replay_from(lines.join("\n").as_bytes(), Path::new("j"), &mut out).unwrap();
    assert_eq!((done.steps, done.cut), (6, 0));
}

const HEAD: &str = r#"{"Head":{"format":1,"now":{"mono":{"secs":0,"nanos":0},"wall_ms":1800000000000},"config":{"host":"00000000-0000-0000-0000-000000000001","incarnation":5,"name":"a","vteps":["192.0.2.1"],"underlay_dev":"eth0","underlay_mtu":1500,"vxlan_port":4789,"gossip":"192.0.2.1:7946","version":"0","keys":{"ids":[],"used":null},"boot_id":"1","down_after":{"secs":1,"nanos":0},"down_grace":{"secs":10,"nanos":0},"stop_grace":{"secs":600,"nanos":0},"alone_after":{"secs":15,"nanos":0},"state_dir":"/var/lib/overlayd"},"restored":{"networks":[],"endpoints":[],"gone":[],"ring":[]}}}"#;
