use std::collections::BTreeSet;
use std::time::Duration;

use overlay_model::ObjectKey;

use crate::event::{ErrorKind, Notice, Request};
use crate::tests::world::{World, add, attach, create};
use crate::views::EndpointView;

/// Three hosts on one network: `h0` made it; `h1` has two containers and a static
/// endpoint, and owns half of it.
fn three() -> World {
    let mut w = World::new(3);
    w.request(0, Request::CreateNetwork(create("net", 7, "10.9.0.0/24"))).unwrap();
    for (i, name) in [(0, "a"), (1, "b"), (1, "c"), (2, "d")] {
        w.attach(i, attach("net", name)).unwrap();
    }
    let mut printer = add("net", "02:00:00:00:00:99", "10.9.0.99");
    printer.name = overlay_model::Name::new("printer").ok();
    w.attach(1, printer).unwrap();
    w
}

fn own(w: &mut World, i: usize) -> Vec<EndpointView> {
    let mut own = w.endpoints(i);
    own.retain(|view| view.local);
    own.sort_by_key(|view| view.endpoint.id);
    own
}

/// All that the cluster is told of them.
fn told(views: &[EndpointView]) -> Vec<overlay_model::Endpoint> {
    views.iter().map(|view| view.endpoint.clone()).collect()
}

fn stages(w: &World, i: usize) -> Vec<&'static str> {
    let stages = w.notices(i).iter().filter_map(|notice| match notice {
        Notice::Recovery { stage, .. } => Some(*stage),
        _ => None,
    });
    stages.collect()
}

fn refusal(w: &mut World, i: usize, name: &str) -> String {
    let refused = w.attach(i, attach("net", name)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused:?}");
    refused.message
}

#[test]
fn what_the_others_remember_comes_back_as_it_was_and_no_entry_is_touched() {
    let mut w = three();
    let before = own(&mut w, 1);
    let kernels: Vec<_> = (0..3).map(|i| w.kernel(i).objects().clone()).collect();
    (0..3).for_each(|i| drop(w.applied(i)));

    w.loses_state(1, true);
    let message = refusal(&mut w, 1, "early");
    assert!(message.contains("has lost its state file, and is hearing the others"), "{message}");
    w.pass(Duration::from_secs(30));

    assert_eq!(told(&own(&mut w, 1)), told(&before));
    let places = |views: &[EndpointView]| views.iter().map(|v| v.place.clone()).collect::<Vec<_>>();
    assert_eq!(places(&own(&mut w, 1)), places(&before));
    for (i, kernel) in kernels.iter().enumerate() {
        assert_eq!(w.applied(i), Vec::<String>::new(), "host {i}");
        assert_eq!(w.kernel(i).objects(), kernel);
    }
    assert_eq!(stages(&w, 1), ["found", "over"]);
    w.assert_kernels_match_the_cluster();

    // It is as any other host: also after a restart.
    w.attach(1, attach("net", "late")).unwrap();
    w.assert_no_address_twice();
    w.restart(1);
    w.pass(Duration::from_secs(30));
    assert_eq!(own(&mut w, 1).len(), 4);
    assert_eq!(stages(&w, 1), ["found", "over"], "and nothing is looked for any more");
    let name = before[0].endpoint.name.clone().unwrap();
    w.request(1, Request::Detach { target: name.to_string(), net: None }).unwrap();
    w.assert_kernels_match_the_cluster();
}

#[test]
fn without_any_memory_the_kernel_tells_all_but_names() {
    let mut w = three();
    let before = own(&mut w, 1);
    w.applied(1);
    w.loses_state(1, false);
    w.pass(Duration::from_secs(40));
    let after = own(&mut w, 1);
    let stations = |views: &[EndpointView]| -> BTreeSet<_> {
        let of = |view: &EndpointView| (view.endpoint.mac, view.endpoint.addresses.clone());
        views.iter().map(of).collect()
    };
    assert_eq!(stations(&after), stations(&before));
    assert!(after.iter().all(|view| view.endpoint.name.is_none()));
    assert_eq!(w.applied(1), Vec::<String>::new(), "nothing that runs was touched");
    w.assert_kernels_match_the_cluster();
    w.attach(1, attach("net", "late")).unwrap();
    w.assert_no_address_twice();
}

#[test]
fn what_was_detached_and_what_died_does_not_come_back() {
    let mut w = three();
    w.loses_namespaces(1);
    w.loses_state(1, true);
    w.pass(Duration::from_secs(40));
    let names: Vec<_> = own(&mut w, 1).into_iter().filter_map(|v| v.endpoint.name).collect();
    assert_eq!(names.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["printer"]);
    w.assert_kernels_match_the_cluster();
}

#[test]
fn while_a_host_is_away_that_may_have_been_given_something_nothing_is_given_out() {
    let mut w = three();
    w.fall_silent(2);
    w.loses_state(1, true);
    w.pass(Duration::from_secs(40));
    assert_eq!(own(&mut w, 1).len(), 3, "what runs is found nevertheless");
    let message = refusal(&mut w, 1, "late");
    assert!(message.contains("hosts that are away since: "), "{message}");
    // Nor given away, nor asked for by those that are there.
    assert_eq!(stages(&w, 1), ["found"]);
    // It is another matter with what is new.
    w.request(1, Request::CreateNetwork(create("new", 8, "10.8.0.0/24"))).unwrap();
    w.attach(1, attach("new", "n")).unwrap();

    // A restart does not make it forget that.
    w.restart(1);
    w.pass(Duration::from_secs(40));
    refusal(&mut w, 1, "late");
    w.attach(1, attach("new", "n2")).unwrap();

    w.be_heard(2);
    w.pass(Duration::from_secs(20));
    w.attach(1, attach("net", "late")).unwrap();
    assert!(stages(&w, 1).ends_with(&["over"]), "{:?}", stages(&w, 1));
    w.assert_no_address_twice();
}

#[test]
fn alone_nothing_is_torn_down_and_all_is_found_when_somebody_is_back() {
    let mut w = three();
    let before = own(&mut w, 1);
    w.fall_silent(0);
    w.fall_silent(2);
    w.loses_state(1, false);
    w.applied(1);
    w.pass(Duration::from_secs(3600));
    assert_eq!(w.applied(1), Vec::<String>::new());
    assert_eq!(stages(&w, 1), ["waiting"]);
    let crate::event::Reply::Status(status) = w.request(1, Request::Status).unwrap() else {
        panic!("status")
    };
    assert!(!status.view_complete);
    let warning = status.warnings.iter().find(|w| w.contains("nobody has told of network"));
    assert!(warning.is_some(), "{:?}", status.warnings);
    // What is there is not in the way of what is new, nor this in the way of that.
    let taken = w.request(1, Request::CreateNetwork(create("new", 7, "10.8.0.0/24"))).unwrap_err();
    assert!(taken.message.contains("of which nobody has told yet"), "{taken:?}");
    let bridge: overlay_model::IfName = overlay_model::Vni::new(7).unwrap().bridge();
    assert!(w.kernel(1).objects().contains_key(&ObjectKey::Link(bridge)));

    w.be_heard(0);
    w.be_heard(2);
    w.pass(Duration::from_secs(60));
    assert_eq!(own(&mut w, 1).len(), before.len());
    w.assert_kernels_match_the_cluster();
    w.attach(1, attach("net", "late")).unwrap();
    w.assert_no_address_twice();
}

#[test]
fn a_disk_that_is_full_keeps_it_looking_and_what_runs_running() {
    let mut w = three();
    let before = own(&mut w, 1);
    w.loses_state(1, true);
    w.disk_full(1, true);
    w.applied(1);
    w.pass(Duration::from_secs(60));
    assert_eq!(stages(&w, 1), [""; 0]);
    assert_eq!(w.applied(1), Vec::<String>::new());
    w.disk_full(1, false);
    w.pass(Duration::from_secs(60));
    assert_eq!(told(&own(&mut w, 1)), told(&before));
    w.assert_kernels_match_the_cluster();
}

#[test]
fn what_has_moved_away_stays_where_it_is() {
    let mut w = three();
    let c = own(&mut w, 1)
        .into_iter()
        .find(|v| v.endpoint.name.as_ref().is_some_and(|n| n.as_str() == "c"));
    let c = c.unwrap().endpoint;
    let mut request = attach("net", "c");
    request.take_over = true;
    w.attach(2, request).unwrap();
    w.loses_state(1, true);
    w.pass(Duration::from_secs(40));
    let here: Vec<_> = own(&mut w, 1).into_iter().map(|v| v.endpoint.mac).collect();
    assert!(!here.contains(&c.mac), "{here:?}");
    w.assert_kernels_match_the_cluster();
    w.assert_no_address_twice();
}
