use std::time::Duration;

use expect_test::{Expect, expect};
use overlay_model::AddressRange;

use super::*;
use crate::event::{Attach, CreateNetwork, Request};
use crate::tests::world::{World, attach, create};
use crate::views::NetworkView;

fn ranges(text: &str) -> Vec<AddressRange> {
    text.split_whitespace().map(|text| text.parse().unwrap()).collect()
}

fn of_demo() -> ChangeNetwork {
    ChangeNetwork { net: "demo".into(), ..ChangeNetwork::default() }
}

fn set(w: &mut World, i: usize, change: ChangeNetwork) -> Result<NetworkView, Refused> {
    match w.request(i, Request::ChangeNetwork(change))? {
        Reply::Network(view) => Ok(*view),
        other => panic!("{other:?}"),
    }
}

fn force(w: &mut World, i: usize) -> Vec<DetachedOn> {
    match w.request(i, Request::ForceRemoveNetwork("demo".into())).unwrap() {
        Reply::Removed { detached, .. } => detached,
        other => panic!("{other:?}"),
    }
}

fn on(host: &str, endpoints: usize, later: bool) -> DetachedOn {
    DetachedOn { host: host.into(), endpoints, later }
}

/// Three hosts, c1 on the first and c2 on the second.
fn world() -> World {
    let mut w = World::new(3);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w
}

#[track_caller]
fn told(w: &World, i: usize, kind: fn(&Notice) -> bool, text: Expect) {
    let lines = w.notices(i).iter().filter(|n| kind(n)).map(|n| format!("{n}\n"));
    text.assert_eq(&lines.collect::<String>());
}

#[test]
fn a_change_is_known_and_told_everywhere() {
    let mut w = world();
    let change = ChangeNetwork {
        labels: [("team".to_owned(), "a".to_owned())].into(),
        exclude: ranges("10.9.0.9 10.9.0.8 10.9.0.64/27"),
        ..of_demo()
    };
    let view = set(&mut w, 2, change).unwrap();
    assert_eq!(view.network.exclude, ranges("10.9.0.8/31 10.9.0.64/27"));
    for i in 0..3 {
        assert_eq!(w.networks(i)[0].network, view.network, "host {i}");
        let network = |n: &Notice| matches!(n, Notice::Network { .. });
        told(
            &w,
            i,
            network,
            expect![[r#"
                network demo (VNI 7) created
                network demo (VNI 7) changed
            "#]],
        );
    }
    // The other way again; what stays as it is, is no change.
    let before = view.network;
    let change = ChangeNetwork {
        unlabel: ["team".to_owned()].into(),
        include: ranges("10.9.0.64-10.9.0.90"),
        ..of_demo()
    };
    let now = set(&mut w, 0, change).unwrap().network;
    assert_eq!(now.exclude, ranges("10.9.0.8/31 10.9.0.91-10.9.0.95"));
    assert!(now.labels.is_empty() && now.updated > before.updated);
    assert_eq!(set(&mut w, 1, of_demo()).unwrap().network, now);
    w.restart(2);
    assert_eq!(w.networks(2)[0].network, now);
}

#[test]
fn of_two_changes_at_the_same_time_the_later_wins_whole() {
    let mut w = world();
    w.partition(true);
    let label = |text: &str| ChangeNetwork {
        labels: [("by".to_owned(), text.to_owned())].into(),
        ..of_demo()
    };
    set(&mut w, 0, ChangeNetwork { internal: Some(true), ..label("a") }).unwrap();
    w.pass(Duration::from_secs(1));
    let later = set(&mut w, 1, label("b")).unwrap().network;
    w.partition(false);
    for i in 0..3 {
        assert_eq!(w.networks(i)[0].network, later, "host {i}");
    }
    w.pass(Duration::from_secs(60));
    w.assert_kernels_match_the_cluster();
}

#[test]
fn internal_takes_the_gateway_from_every_host_and_brings_it_back() {
    let mut w = world();
    w.applied(0);
    w.applied(1);
    set(&mut w, 2, ChangeNetwork { internal: Some(true), ..of_demo() }).unwrap();
    for i in [0, 1] {
        let done = w.applied(i);
        assert_eq!(
            done,
            ["ip addr del 10.9.0.1/24 dev ovb7", "nft delete table inet overlayd_nat"],
            "host {i}"
        );
    }
    set(&mut w, 2, ChangeNetwork { internal: Some(false), ..of_demo() }).unwrap();
    for i in [0, 1] {
        let nat = "nft replace table inet overlayd_nat # masquerades 10.9.0.0/24; 0 ports lead to endpoints";
        assert_eq!(w.applied(i), [nat, "ip addr replace 10.9.0.1/24 dev ovb7"], "host {i}");
    }
}

#[test]
fn what_an_endpoint_has_is_not_excluded() {
    let mut w = world();
    let exclude = |text: &str| ChangeNetwork { exclude: ranges(text), ..of_demo() };
    for i in 0..3 {
        let refused = set(&mut w, i, exclude("10.9.0.128-10.9.0.140")).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InUse);
        assert_eq!(refused.message, "10.9.0.129 is the address of endpoint c2 on host h1");
    }
    let refused = set(&mut w, 0, exclude("10.9.0.2-10.9.0.254")).unwrap_err();
    assert!(refused.message.starts_with("no address of 10.9.0.0/24 is left"), "{refused}");
    let refused = set(&mut w, 0, exclude("10.9.0.2-10.9.0.140")).unwrap_err();
    assert!(
        refused.message.ends_with(", and 1 more of 10.9.0.2-10.9.0.140 are in use"),
        "{refused}"
    );
    // One that is kept is in use too.
    let kept =
        Attach { keep_ip: true, ips: vec!["10.9.0.9".parse().unwrap()], ..attach("demo", "web") };
    w.attach(0, kept).unwrap();
    w.detach(0, "web").unwrap();
    let refused = set(&mut w, 0, exclude("10.9.0.8/29")).unwrap_err();
    assert_eq!(refused.message, "10.9.0.9 is kept for web on this host");
    // Another host does not know of it: it stays what it was kept for.
    set(&mut w, 1, exclude("10.9.0.8/29")).unwrap();
    let view = w.attach(0, attach("demo", "web")).unwrap();
    assert_eq!(view.ips[0].to_string(), "10.9.0.9/24");
    let asked = Attach { ips: vec!["10.9.0.10".parse().unwrap()], ..attach("demo", "c3") };
    let refused = w.attach(2, asked).unwrap_err();
    assert_eq!(refused.message, "10.9.0.10 is excluded from network demo");
    assert_eq!(
        refused.hint.as_deref(),
        Some("choose another, or: overlayctl net set demo --include 10.9.0.10")
    );
}

#[test]
fn a_change_that_makes_no_sense_is_refused() {
    let mut w = world();
    let mut check = |change: ChangeNetwork, text: Expect| {
        let refused = set(&mut w, 0, change).unwrap_err();
        text.assert_eq(&format!("{refused}"));
    };
    let key = || ["x".to_owned()];
    check(
        ChangeNetwork { unlabel: key().into(), ..of_demo() },
        expect!["network demo has no label x"],
    );
    check(
        ChangeNetwork {
            unlabel: key().into(),
            labels: key().map(|key| (key, String::new())).into(),
            ..of_demo()
        },
        expect!["the label x is to be both set and removed"],
    );
    check(
        ChangeNetwork { include: ranges("10.9.0.9"), ..of_demo() },
        expect!["10.9.0.9 is not excluded from network demo"],
    );
    check(
        ChangeNetwork { include: ranges("10.9.0.9"), exclude: ranges("10.9.0.8/29"), ..of_demo() },
        expect!["10.9.0.9 is to be included, and 10.9.0.8/29 excluded"],
    );
    check(
        ChangeNetwork { exclude: ranges("10.9.1.9"), ..of_demo() },
        expect!["the exclusion 10.9.1.9 is not within a subnet"],
    );
    check(
        ChangeNetwork { labels: [("x".to_owned(), "y".repeat(400))].into(), ..of_demo() },
        expect!["the labels have 401 bytes together; at most 400 are carried"],
    );
    check(ChangeNetwork { net: "demi".into(), ..of_demo() }, expect!["no network `demi`"]);
}

#[test]
fn a_change_that_cannot_be_written_down_has_not_happened() {
    let mut w = world();
    let before = w.networks(0)[0].network.clone();
    w.disk_full(0, true);
    let change = ChangeNetwork { exclude: ranges("10.9.0.3-10.9.0.90"), ..of_demo() };
    set(&mut w, 0, change).unwrap_err();
    w.disk_full(0, false);
    assert_eq!(w.networks(0)[0].network, before);
    assert_eq!(w.attach(0, attach("demo", "c3")).unwrap().ips[0].to_string(), "10.9.0.3/24");
}

#[test]
fn two_hosts_share_a_range_until_it_is_exhausted() {
    let mut w = World::new(3);
    let demo = CreateNetwork {
        exclude: ranges("10.9.0.66 10.9.0.70-10.9.0.100"),
        ip_ranges: ranges("10.9.0.64/28"),
        ..create("demo", 7, "10.9.0.0/24")
    };
    w.create(0, demo).unwrap();
    // A host that owns only an address outside must ask for one inside.
    let outside = Attach { ips: vec!["10.9.0.200".parse().unwrap()], ..attach("demo", "x") };
    w.attach(1, outside).unwrap();
    let mut got: Vec<String> = Vec::new();
    for n in 0..5 {
        let view = w.attach(1 - n % 2, attach("demo", &format!("c{n}"))).unwrap();
        got.push(view.ips[0].addr().to_string());
    }
    got.sort();
    assert_eq!(got, ["10.9.0.64", "10.9.0.65", "10.9.0.67", "10.9.0.68", "10.9.0.69"]);
    for i in 0..3 {
        let refused = w.attach(i, attach("demo", "late")).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exhausted);
        assert_eq!(
            refused.message,
            "no free address in 10.9.0.64/28 of 10.9.0.0/24: 5 of 5 leased"
        );
    }
    // What is included again is there for all of them.
    let change = ChangeNetwork { include: ranges("10.9.0.70"), ..of_demo() };
    set(&mut w, 2, change).unwrap();
    assert_eq!(w.attach(2, attach("demo", "late")).unwrap().ips[0].to_string(), "10.9.0.70/24");
    w.assert_no_address_twice();
}

#[test]
fn force_takes_the_endpoints_along_and_says_which() {
    let mut w = world();
    let refused = w.remove(2, "demo").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse);
    assert_eq!(
        refused.hint.as_deref(),
        Some("detach them first, or all with it: overlayctl net rm --force demo")
    );
    assert_eq!(force(&mut w, 2), [on("h0", 1, false), on("h1", 1, false)]);
    for i in 0..3 {
        assert_eq!((w.networks(i), w.endpoints(i)), (vec![], vec![]));
        assert_eq!(w.kernel(i).objects().len(), 0, "host {i}");
    }
    let detached = |n: &Notice| matches!(n, Notice::Detached { .. });
    told(
        &w,
        1,
        detached,
        expect![[r#"
            detached endpoint 000000000003 c2: its network was removed
        "#]],
    );
    w.restart(1);
    assert_eq!(w.endpoints(1), []);
}

#[test]
fn a_host_that_was_away_drops_what_was_removed_meanwhile() {
    for dead in [false, true] {
        let mut w = world();
        w.fall_silent(1);
        w.pass(Duration::from_secs(60));
        assert_eq!(force(&mut w, 0), [on("h0", 1, false), on("h1", 1, true)]);
        assert_eq!(w.endpoints(1).len(), 2, "it has not heard of it");
        assert_eq!(w.endpoints(0), [], "nobody is shown what is about to go");
        if dead {
            w.restart(1);
        } else {
            w.be_heard(1);
        }
        assert_eq!((w.networks(1), w.endpoints(1)), (vec![], vec![]));
        assert_eq!(w.endpoints(0), []);
        w.pass(Duration::from_secs(60));
        assert_eq!(w.kernel(1).objects().len(), 0);
    }
}

#[test]
fn an_attach_that_is_under_way_goes_with_the_network() {
    let mut w = world();
    // It waits for an address of a host that does not answer any more.
    w.fall_silent(0);
    let request = Box::new(Request::Attach(attach("demo", "c3")));
    let now = w.now();
    let event = crate::Event::Request { token: 900, fresh: 900, request };
    let effects = w.engine(2).step(event, now);
    w.carry_out(2, effects);
    force(&mut w, 2);
    w.pass(Duration::from_secs(5));
    assert!(w.endpoints(2).iter().all(|v| !v.local));
    assert_eq!(w.kernel(2).objects().len(), 0);
}

/// The network goes between the writing of an endpoint and the word that it is
/// written.
#[test]
fn an_endpoint_that_is_being_written_goes_with_the_network() {
    use crate::event::{Effect, Event};
    let mut w = world();
    w.kernel(0).netns.insert("/run/netns/c3".into());
    let request = Box::new(Request::Attach(Attach { keep_ip: true, ..attach("demo", "c3") }));
    let now = w.now();
    let mut effects = w.engine(0).step(Event::Request { token: 900, fresh: 900, request }, now);
    // The kernel does as it is told; the disk is not asked yet.
    let persist = loop {
        let at = effects.iter().position(|e| matches!(e, Effect::Persist { .. }));
        if let Some(at) = at {
            let Effect::Persist { id, .. } = effects.remove(at) else { unreachable!() };
            break id;
        }
        let Some(Effect::Apply { plan, ops }) =
            effects.iter().find(|e| matches!(e, Effect::Apply { .. })).cloned()
        else {
            panic!("neither: {effects:?}")
        };
        let (changes, report) = w.kernel(0).apply(&ops);
        effects.clear();
        for change in changes {
            effects.extend(w.engine(0).step(Event::Kernel(change), now));
        }
        effects.extend(w.engine(0).step(Event::Applied { plan, report }, now));
    };
    assert_eq!(force(&mut w, 2).len(), 2);
    let effects = w.engine(0).step(Event::Persisted { id: persist, result: Ok(()) }, now);
    let refused = effects.iter().any(|e| matches!(e, Effect::Reply { token: 900, result: Err(_) }));
    w.carry_out(0, effects);
    assert!(refused || w.engine(0).local.is_empty());
    assert_eq!((w.networks(0), w.endpoints(0)), (vec![], vec![]));
    w.restart(0);
    assert_eq!(w.endpoints(0), []);
}

/// Keepers publish it: any host that uses it, and three others.
#[test]
fn the_loss_of_the_creator_loses_no_network() {
    let mut w = World::new(3);
    let demo = CreateNetwork { exclude: ranges("10.9.0.9"), ..create("demo", 7, "10.9.0.0/24") };
    w.create(0, demo).unwrap();
    w.attach(1, attach("demo", "c1")).unwrap();
    w.kill(0);
    w.pass(Duration::from_secs(60));
    w.wipe(2);
    w.pass(Duration::from_secs(20));
    assert_eq!(w.networks(2)[0].network.exclude, ranges("10.9.0.9"));
    w.attach(2, attach("demo", "c2")).unwrap();
    set(&mut w, 2, ChangeNetwork { internal: Some(true), ..of_demo() }).unwrap();
    assert!(w.networks(1)[0].network.internal);
}

/// A simulation found that neither was, of more than four hosts, when it neither
/// used the network nor was a keeper of it.
#[test]
fn a_change_and_a_removal_are_heard_of_whichever_host_makes_them() {
    for i in 0..8 {
        let mut w = World::new(8);
        w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
        let now = set(&mut w, i, ChangeNetwork { internal: Some(true), ..of_demo() }).unwrap();
        for j in 0..8 {
            assert_eq!(w.networks(j)[0].network, now.network, "host {j}, changed on {i}");
        }
        w.remove((i + 1) % 8, "demo").unwrap();
        for j in 0..8 {
            assert_eq!(w.networks(j), [], "host {j}, changed on {i}");
        }
    }
}
