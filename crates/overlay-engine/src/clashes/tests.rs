use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;
use crate::event::Reply;
use crate::event::{ErrorKind, Request};
use crate::tests::world::{World, attach, create};
use crate::views::EndpointState;

/// Two hosts that have each made a network while they did not hear each other,
/// the first one earlier, each with an endpoint on its own.
fn clash(first: (&str, u32), second: (&str, u32)) -> World {
    let mut w = World::new(3);
    w.partition(true);
    w.create(0, create(first.0, first.1, "10.8.0.0/24")).unwrap();
    w.pass(Duration::from_secs(1));
    w.create(1, create(second.0, second.1, "10.9.0.0/24")).unwrap();
    w.attach(0, attach(first.0, "c1")).unwrap();
    w.attach(1, attach(second.0, "c2")).unwrap();
    w.partition(false);
    w.pass(Duration::from_secs(30));
    w
}

#[track_caller]
fn told(w: &World, i: usize, text: Expect) {
    let about = |n: &&Notice| matches!(n, Notice::NetworkConflict { .. } | Notice::CutOff { .. });
    text.assert_eq(
        &w.notices(i).iter().filter(about).map(|n| format!("{n}\n")).collect::<String>(),
    );
}

fn status(w: &mut World, i: usize) -> Vec<String> {
    match w.request(i, Request::Status).unwrap() {
        Reply::Status(view) => view.warnings,
        other => panic!("{other:?}"),
    }
}

fn state(w: &mut World, i: usize, name: &str) -> EndpointState {
    let views = w.endpoints(i);
    let mut found =
        views.into_iter().filter(|v| v.endpoint.name.as_ref().unwrap().as_str() == name);
    found.next().unwrap().state
}

#[test]
fn the_endpoints_of_the_younger_of_two_networks_are_cut_off_and_told() {
    let mut w = clash(("front", 7), ("back", 7));
    told(
        &w,
        1,
        expect![[r#"
        network back is not programmed: VNI 7 is held by the older network front (0000000000000001)
        endpoint 000000000004 c2 is cut off, for back is not programmed: VNI 7 is held by the older network front (0000000000000001)
    "#]],
    );
    told(
        &w,
        0,
        expect![[r#"
        network back is not programmed: VNI 7 is held by the older network front (0000000000000001)
    "#]],
    );
    for i in 0..3 {
        let conflicts: Vec<_> = w
            .networks(i)
            .into_iter()
            .filter_map(|v| v.conflict.map(|why| format!("{}: {why}", v.network.name)))
            .collect();
        assert_eq!(
            conflicts,
            ["back: VNI 7 is held by the older network front (0000000000000001)"]
        );
        assert!(matches!(state(&mut w, i, "c2"), EndpointState::Conflict(_)), "host {i}");
        assert_eq!(state(&mut w, i, "c1"), EndpointState::Ready);
    }
    assert_eq!(
        status(&mut w, 1),
        ["network back (0000000000000002) is not programmed, and its endpoint on this host cut \
          off: VNI 7 is held by the older network front (0000000000000001); remove one of them"]
    );
    assert_eq!(w.kernel(1).objects().len(), 0, "{:?}", w.kernel(1).objects());
    let refused = w.attach(1, attach("back", "c3")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);
}

#[test]
fn when_the_older_one_goes_the_younger_is_programmed_and_told_again() {
    let mut w = clash(("front", 7), ("back", 7));
    w.detach(0, "c1").unwrap();
    w.remove(2, "front").unwrap();
    told(
        &w,
        1,
        expect![[r#"
        network back is not programmed: VNI 7 is held by the older network front (0000000000000001)
        endpoint 000000000004 c2 is cut off, for back is not programmed: VNI 7 is held by the older network front (0000000000000001)
        network back is programmed again: nothing else holds its VNI or name
        endpoint 000000000004 c2 is connected again, for back is programmed again
    "#]],
    );
    assert_eq!(state(&mut w, 1, "c2"), EndpointState::Ready);
    assert_eq!(status(&mut w, 1), Vec::<String>::new());
    w.attach(0, attach("back", "c3")).unwrap();
    w.assert_kernels_match_the_cluster();
}

#[test]
fn when_the_younger_one_goes_its_endpoints_go_and_nobody_is_told_that_they_are_back() {
    let mut w = clash(("front", 7), ("back", 7));
    let force = Request::ForceRemoveNetwork("back".into());
    w.request(0, force).unwrap();
    told(
        &w,
        1,
        expect![[r#"
        network back is not programmed: VNI 7 is held by the older network front (0000000000000001)
        endpoint 000000000004 c2 is cut off, for back is not programmed: VNI 7 is held by the older network front (0000000000000001)
    "#]],
    );
    assert!(w.endpoints(1).iter().all(|v| !v.local));
    w.attach(1, attach("front", "c3")).unwrap();
    w.assert_kernels_match_the_cluster();
}

/// The VNIs differ: what the loser had in the kernel is under a VNI that the
/// winner knows nothing of.
#[test]
fn of_two_networks_of_one_name_the_younger_is_taken_out_of_the_kernel() {
    let mut w = clash(("demo", 7), ("demo", 8));
    told(
        &w,
        1,
        expect![[r#"
        network demo is not programmed: the name demo is held by the older network demo (0000000000000001)
        endpoint 000000000004 c2 is cut off, for demo is not programmed: the name demo is held by the older network demo (0000000000000001)
    "#]],
    );
    assert_eq!(w.kernel(1).objects().len(), 0, "{:?}", w.kernel(1).objects());
    let older = w.networks(0)[0].network.id.to_string();
    w.request(1, Request::ForceRemoveNetwork(older)).unwrap();
    assert_eq!(state(&mut w, 1, "c2"), EndpointState::Ready);
    assert!(!w.kernel(1).objects().is_empty());
    w.assert_kernels_match_the_cluster();
}

#[test]
fn a_restart_in_the_middle_of_a_conflict_tells_it_again() {
    let mut w = clash(("front", 7), ("back", 7));
    let before = w.notices(1).len();
    w.restart(1);
    w.pass(Duration::from_secs(30));
    let again =
        w.notices(1)[before..].iter().any(|n| matches!(n, Notice::CutOff { why: Some(_), .. }));
    assert!(again, "{:?}", &w.notices(1)[before..]);
    w.assert_kernels_match_the_cluster();
}

/// The older network is heard of while an endpoint of the younger is on its way
/// into the kernel.
#[test]
fn an_attach_that_is_under_way_when_a_conflict_comes_is_refused() {
    use crate::event::Event;
    let mut w = World::new(2);
    w.partition(true);
    w.create(0, create("front", 7, "10.8.0.0/24")).unwrap();
    w.pass(Duration::from_secs(1));
    w.create(1, create("back", 7, "10.9.0.0/24")).unwrap();
    w.kernel(1).netns.insert("/run/netns/c2".into());
    let request = Box::new(Request::Attach(attach("back", "c2")));
    let now = w.now();
    let effects = w.engine(1).step(Event::Request { token: 900, fresh: 900, request }, now);
    w.partition(false);
    w.carry_out(1, effects);
    w.pass(Duration::from_secs(1));
    assert!(w.engine(1).local.is_empty());
    assert!(w.notices(1).iter().all(|n| !matches!(n, Notice::Attached { .. })));
    assert_eq!(w.kernel(1).objects().len(), 0);
}
