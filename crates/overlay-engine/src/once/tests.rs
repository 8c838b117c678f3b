use expect_test::{Expect, expect};

use super::*;
use crate::event::{Effect, Event, Notice, Request};
use crate::tests::world::{World, attach, create};

fn once(name: &str, vni: u32, cidr: &str) -> CreateNetwork {
    CreateNetwork { once: true, ..create(name, vni, cidr) }
}

/// One whose VNI and subnet are for the host to choose.
fn any(name: &str) -> CreateNetwork {
    CreateNetwork { vni: None, subnets: vec![], ..once(name, 7, "10.9.0.0/24") }
}

/// Hosts are asked for a network each at the same time: none has heard of what the
/// others did. The replies, in the order of the hosts.
fn race(w: &mut World, asked: &[(usize, CreateNetwork)]) -> Vec<Result<String, String>> {
    let steps: Vec<_> = asked
        .iter()
        .map(|(i, request)| {
            let now = w.now();
            let token = 1_000 + *i as u64;
            let request = Box::new(Request::CreateNetwork(request.clone()));
            let event = Event::Request { token, fresh: token, request };
            let saved = w.engine(*i).step(event, now).into_iter().flat_map(|effect| match effect {
                Effect::Persist { id, .. } => {
                    w.engine(*i).step(Event::Persisted { id, result: Ok(()) }, now)
                }
                other => vec![other],
            });
            (*i, saved.collect::<Vec<_>>())
        })
        .collect();
    for (i, effects) in steps {
        w.carry_out(i, effects);
    }
    w.pass(Duration::from_secs(2));
    asked
        .iter()
        .map(|(i, _)| match w.reply_to(*i, 1_000 + *i as u64) {
            Some(Ok(Reply::Network(view))) => Ok(view.network.id.to_string()),
            Some(Err(refused)) => Err(refused.message),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn networks(w: &mut World, i: usize) -> Vec<String> {
    let shown = |v: crate::views::NetworkView| {
        let net = v.network;
        format!("{} {} {} {}", net.id, net.name, net.vni, v.conflict.is_some())
    };
    w.networks(i).into_iter().map(shown).collect()
}

#[test]
fn hosts_that_create_one_network_at_the_same_time_get_one() {
    let mut w = World::new(4);
    let demo = || once("demo", 7, "10.9.0.0/24");
    let got = race(&mut w, &[(2, demo()), (0, demo()), (1, demo())]);
    assert!(got.iter().all(|id| *id == got[0] && id.is_ok()), "{got:?}");
    for i in 0..4 {
        assert_eq!(networks(&mut w, i).len(), 1, "host {i}: {:?}", networks(&mut w, i));
        w.attach(i, attach("demo", &format!("c{i}"))).unwrap();
    }
    let conflicts = |n: &&Notice| matches!(n, Notice::EndpointConflict { .. });
    assert!((0..4).all(|i| w.notices(i).iter().find(conflicts).is_none()));
    w.assert_no_address_is_given_twice();
    w.assert_kernels_match_the_cluster();
}

#[test]
fn who_has_lost_for_the_vni_alone_takes_another() {
    let mut w = World::new(3);
    let got = race(&mut w, &[(0, any("front")), (1, any("back"))]);
    assert!(got[0].is_ok() && got[1].is_ok() && got[0] != got[1], "{got:?}");
    let all = networks(&mut w, 2);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().all(|line| line.ends_with("false")), "{all:?}");
}

#[test]
fn an_attach_waits_until_the_network_has_settled() {
    let mut w = World::new(2);
    let now = w.now();
    let request = Box::new(Request::CreateNetwork(once("demo", 7, "10.9.0.0/24")));
    let effects = w.engine(0).step(Event::Request { token: 900, fresh: 9, request }, now);
    w.carry_out(0, effects);
    // On the creator, and on another host, which asks the creator for addresses.
    w.attach(1, attach("demo", "c1")).unwrap();
    let waited = w.now().mono - now.mono;
    assert!(waited >= SETTLE && waited < SETTLE * 2, "{waited:?}");
    w.attach(0, attach("demo", "c0")).unwrap();
    w.assert_no_address_is_given_twice();
}

#[test]
fn one_that_is_there_and_fits_is_the_answer_and_another_is_refused() {
    let mut w = World::new(2);
    let demo = w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let again = w.create(1, once("demo", 7, "10.9.0.0/24")).unwrap();
    assert_eq!(again.network.id, demo.network.id);
    let free = CreateNetwork { free: vec![Family::V4], ..any("demo") };
    assert_eq!(w.create(1, free).unwrap().network.id, demo.network.id);
    let refused = |w: &mut World, request, text: Expect| {
        let refused = w.create(1, request).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Taken);
        text.assert_eq(&refused.message);
    };
    refused(
        &mut w,
        once("demo", 8, "10.9.0.0/24"),
        expect!["network demo is there with VNI 7, not 8"],
    );
    refused(
        &mut w,
        once("demo", 7, "10.8.0.0/24"),
        expect!["network demo is there with subnet 10.9.0.0/24, not 10.8.0.0/24"],
    );
    refused(
        &mut w,
        CreateNetwork { free: vec![Family::V6], ..any("demo") },
        expect!["network demo is there with subnet 10.9.0.0/24, not one of 6"],
    );
    let nameless = CreateNetwork { name: None, ..any("demo") };
    assert_eq!(w.create(1, nameless).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn only_where_most_of_the_cluster_is_heard_it_is_created() {
    let mut w = World::new(3);
    for (a, b) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        w.deafen(a, b);
    }
    w.pass(Duration::from_secs(5));
    w.create(0, once("demo", 7, "10.9.0.0/24")).unwrap();
    let refused = w.create(2, once("demo", 7, "10.9.0.0/24")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    expect!["network demo cannot be created now: more than half of the hosts must be there for that, and these are not: h0, h1"]
        .assert_eq(&refused.message);
    w.heal();
    w.pass(Duration::from_secs(1));
    w.create(2, once("demo", 7, "10.9.0.0/24")).unwrap();
    assert_eq!(networks(&mut w, 2).len(), 1);
}

#[test]
fn a_host_that_has_just_started_waits_until_it_has_heard_the_others() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.wipe(1);
    let got = w.create(1, once("demo", 7, "10.9.0.0/24")).unwrap();
    assert_eq!(got.network.id, w.networks(0)[0].network.id);
}

#[test]
fn nothing_is_replied_or_left_when_the_state_file_cannot_be_written() {
    let mut w = World::new(1);
    w.disk_full(0, true);
    let refused = w.create(0, once("demo", 7, "10.9.0.0/24")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    assert!(networks(&mut w, 0).is_empty());
    w.disk_full(0, false);
    w.create(0, once("demo", 7, "10.9.0.0/24")).unwrap();
}
