//! Moves, through the door.

use std::net::IpAddr;

use overlay_model::{Guard, IfName, Object, Vni};

use super::*;
use crate::event::{Import, Request};
use crate::tests::world::{World, add, attach, create, list, plug};
use crate::views::{EndpointState, EndpointView};

const WEB: &str = "02:00:00:00:00:05";
const WEB_IP: &str = "10.9.0.5";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A station of that MAC and address in a namespace of its own.
fn station(mac: &str, at: &str) -> Attach {
    Attach { mac: Some(mac.parse().unwrap()), ips: vec![ip(at)], ..attach("demo", "web") }
}

fn web() -> Attach {
    station(WEB, WEB_IP)
}

fn here(request: Attach) -> Attach {
    Attach { take_over: true, ..request }
}

/// `n` hosts with an endpoint each, `web` besides on the first.
fn scene(n: usize) -> World {
    let mut w = World::new(n);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, web()).unwrap();
    for i in 0..n {
        w.attach(i, attach("demo", &format!("c{i}"))).unwrap();
    }
    w
}

/// Where the kernel of host `i` sends frames for `mac`: a VTEP or a port.
fn way(w: &mut World, i: usize, mac: &str) -> Option<String> {
    let (vni, mac) = (Vni::new(7).unwrap(), mac.parse().unwrap());
    let objects = w.kernel(i).objects();
    if let Some(Object::VxlanFdb { dst }) = objects.get(&ObjectKey::VxlanFdb(vni.vxlan(), mac)) {
        return Some(dst.to_string());
    }
    match objects.get(&ObjectKey::BridgeFdb(vni.bridge(), mac))? {
        Object::BridgeFdb { port, .. } => Some(port.to_string()),
        _ => None,
    }
}

/// How host `i` shows its own `web`.
fn own_web(w: &mut World, i: usize) -> Option<EndpointView> {
    let mac = WEB.parse().unwrap();
    w.endpoints(i).into_iter().find(|v| v.local && v.endpoint.mac == mac)
}

fn guard(w: &mut World, i: usize, port: &IfName) -> Guard {
    match w.kernel(i).objects().get(&ObjectKey::Guard(port.clone())) {
        Some(Object::Guard(guard)) => (**guard).clone(),
        other => panic!("{other:?}"),
    }
}

fn frozen(w: &mut World, i: usize) -> Vec<FrozenView> {
    match w.request(i, Request::Status).unwrap() {
        Reply::Status(status) => status.frozen,
        other => panic!("{other:?}"),
    }
}

fn thaw(w: &mut World, i: usize, what: &str) -> Result<Reply, Refused> {
    w.request(i, Request::Thaw { what: what.into(), net: None })
}

/// Host `to` takes `web` over, and whatever is left of it elsewhere is detached.
fn moves(w: &mut World, to: usize) -> Result<EndpointView, Refused> {
    let view = w.attach(to, here(web()))?;
    for i in (0..3).filter(|i| *i != to) {
        if let Some(view) = own_web(w, i) {
            w.detach(i, &view.endpoint.id.to_string()).unwrap();
        }
    }
    Ok(view)
}

#[test]
fn without_a_word_nothing_moves_and_the_refusal_names_the_holder_and_the_word() {
    let mut w = scene(2);
    let mut unlike = web();
    unlike.name = None;
    let refused = w.attach(1, unlike).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert_eq!(refused.message, "10.9.0.5 is taken by endpoint web on host h0");
    assert!(refused.hint.unwrap().contains("--take-over"));
    assert_eq!(own_web(&mut w, 0).unwrap().state, EndpointState::Ready);
    // What is on this very host does not move: it is detached.
    let refused = w.attach(0, here(web())).unwrap_err();
    assert_eq!(refused.message, "10.9.0.5 is taken by endpoint web on host h0");
    assert!(!refused.hint.unwrap().contains("--take-over"));
}

#[test]
fn what_is_attached_elsewhere_is_taken_over_and_everybody_is_led_to_it() {
    let mut w = scene(3);
    let view = w.attach(1, here(web())).unwrap();
    assert_eq!(view.state, EndpointState::Ready);
    assert_eq!(view.endpoint.move_seq, 1);
    let port = view.endpoint.id.ifname().to_string();
    assert_eq!(way(&mut w, 1, WEB), Some(port));
    for i in [0, 2] {
        assert_eq!(way(&mut w, i, WEB).as_deref(), Some("192.0.2.2"), "on host {i}");
    }
    // The loser says so, to whom it asks and to whom it tells.
    let lost = own_web(&mut w, 0).unwrap();
    assert_eq!(lost.state, EndpointState::Moved("it has moved to host h1 (move 1)".into()));
    let told: Vec<String> = w.notices(0).iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|t| t.contains("has moved away, to host h1 (move 1)")), "{told:?}");
    let told: Vec<String> = w.notices(1).iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|t| t.contains("has moved here from host h0 (move 1)")), "{told:?}");
    // To the others it is no endpoint any more.
    assert_eq!(w.endpoints(2).iter().filter(|v| v.endpoint.mac == view.endpoint.mac).count(), 1);
    for i in 0..3 {
        assert_eq!(w.announced(i), Vec::<String>::new(), "the MAC is the same");
    }
    w.assert_kernels_match_the_cluster();
    w.assert_no_address_twice();
}

#[test]
fn what_is_left_behind_keeps_its_port_and_may_not_speak() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let port = w.attach(0, web()).unwrap().endpoint.id.ifname();
    let before = w.kernel(0).objects().clone();
    w.attach(1, here(web())).unwrap();
    let closed = guard(&mut w, 0, &port);
    assert_eq!((closed.mac, closed.addresses.len()), (MacAddr::ZERO, 0));
    // It was the last one of its network here, whose links stay for it.
    for key in before.keys().filter(|key| matches!(key, ObjectKey::Link(_))) {
        assert!(w.kernel(0).objects().contains_key(key), "{key} is gone");
    }
    // So it is after a restart, which writes nothing.
    let (before, operations) = (w.kernel(0).objects().clone(), w.kernel(0).operations);
    w.restart(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.kernel(0).objects(), &before);
    let written = w.kernel(0).operations - operations;
    assert_eq!(written, 0, "{:?}", w.applied(0));
    assert!(matches!(own_web(&mut w, 0).unwrap().state, EndpointState::Moved(_)));
    assert_eq!(w.endpoints(1).len(), 1, "and does not come back into the cluster");
    // It goes when it is detached, by its name too.
    w.detach(0, "web").unwrap();
    assert_eq!(w.kernel(0).objects().len(), 0);
    assert_eq!(own_web(&mut w, 1).unwrap().state, EndpointState::Ready);
}

#[test]
fn the_address_of_what_has_moved_is_given_to_nobody_until_it_is_detached_there() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/29")).unwrap();
    w.attach(0, station(WEB, "10.9.0.3")).unwrap();
    w.attach(1, here(station(WEB, "10.9.0.3"))).unwrap();
    w.detach(0, "web").unwrap();
    // All others, on the host that it came from.
    let got: Vec<String> = (0..4)
        .map(|n| w.attach(0, attach("demo", &format!("c{n}"))).unwrap().ips[0].to_string())
        .collect();
    assert!(!got.contains(&"10.9.0.3/29".to_owned()), "{got:?}");
    assert_eq!(w.attach(0, attach("demo", "c4")).unwrap_err().kind, ErrorKind::Exhausted);
    assert_eq!(w.attach(1, attach("demo", "c4")).unwrap_err().kind, ErrorKind::Exhausted);
    w.restart(0);
    w.restart(1);
    w.pass(Duration::from_secs(30));
    assert_eq!(w.attach(0, attach("demo", "c4")).unwrap_err().kind, ErrorKind::Exhausted);
    w.assert_no_address_twice();
    w.detach(1, "web").unwrap();
    let last = w.attach(0, attach("demo", "c4")).unwrap();
    assert_eq!(last.ips[0].to_string(), "10.9.0.3/29");
}

#[test]
fn from_host_to_host_the_sequence_grows_and_the_address_goes_along() {
    let mut w = scene(3);
    for (n, to) in [1, 2, 0, 1].into_iter().enumerate() {
        // Nothing is detached where it was.
        let view = w.attach(to, here(web())).unwrap();
        assert_eq!(view.endpoint.move_seq, n as u32 + 1);
        for i in (0..3).filter(|i| *i != to) {
            let vtep = format!("192.0.2.{}", to + 1);
            assert_eq!(way(&mut w, i, WEB), Some(vtep), "move {n}, host {i}");
        }
        w.pass(Duration::from_secs(60));
    }
    let family = Family::V4;
    for i in 0..3 {
        let net = w.networks(i)[0].network.id;
        let owner = w.engine(i).pools[&(net, family)].owner(ip(WEB_IP));
        assert_eq!(owner, Some(w.engine(1).config.host), "as host {i} knows it");
    }
    // Host 1 has lost it once, and has it again: what goes is what is left of
    // the first time, and the address stays leased.
    let left = w.endpoints(1).into_iter().find(|v| matches!(v.state, EndpointState::Moved(_)));
    w.detach(1, &left.unwrap().endpoint.id.to_string()).unwrap();
    let mut same = attach("demo", "thief");
    same.ips = vec![ip(WEB_IP)];
    assert_eq!(w.attach(1, same).unwrap_err().kind, ErrorKind::Taken);
    w.assert_kernels_match_the_cluster();
}

#[test]
fn what_is_left_out_is_as_it_was() {
    let mut w = World::new(2);
    let mut dual = create("demo", 7, "10.9.0.0/24");
    dual.subnets.push("fd00:9::/64".parse().unwrap());
    w.create(0, dual).unwrap();
    let mut first = web();
    first.ips.push(ip("fd00:9::5"));
    first.aliases.insert("www".parse().unwrap());
    first.labels.insert("tier".into(), "front".into());
    let before = w.attach(0, first).unwrap().endpoint;
    // By its name alone.
    let after = w.attach(1, here(attach("demo", "web"))).unwrap().endpoint;
    assert_eq!((after.mac, &after.addresses), (before.mac, &before.addresses));
    assert_eq!((&after.aliases, &after.labels), (&before.aliases, &before.labels));
    // By an address alone.
    let by_ip = Attach { name: None, ips: vec![ip("fd00:9::5")], ..attach("demo", "x") };
    let again = w.attach(0, here(by_ip)).unwrap().endpoint;
    assert_eq!((again.mac, &again.addresses), (before.mac, &before.addresses));
    assert_eq!(again.name, before.name);

    let refused = w.attach(1, here(attach("demo", "nobody"))).unwrap_err();
    assert_eq!(refused.message, "there is no endpoint nobody on network demo to take over");
    let nothing = Attach { name: None, ..attach("demo", "x") };
    assert_eq!(w.attach(1, here(nothing)).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn an_address_moves_to_another_mac_and_a_mac_to_another_address() {
    let mut w = scene(3);
    let (other, vni) = ("02:00:00:00:00:66", Vni::new(7).unwrap());
    w.attach(1, here(station(other, WEB_IP))).unwrap();
    for i in 0..3 {
        let key = ObjectKey::Neigh(vni.bridge(), ip(WEB_IP));
        let neigh = w.kernel(i).objects().get(&key).cloned();
        assert_eq!(neigh, Some(Object::Neigh { mac: other.parse().unwrap() }), "host {i}");
        assert_eq!(way(&mut w, i, WEB), None, "nobody has the former MAC");
        // What containers remember nobody can write, but they can be told.
        assert_eq!(w.announced(i), [format!("ovb7 {WEB_IP} {other}")], "host {i}");
    }
    w.attach(2, here(station(other, "10.9.0.77"))).unwrap();
    assert_eq!(way(&mut w, 0, other).as_deref(), Some("192.0.2.3"));
    // The former address was left behind with what it was on.
    assert!(
        matches!(w.endpoints(1).iter().find(|v| v.local && v.endpoint.mac.to_string() == other),
        Some(v) if matches!(v.state, EndpointState::Moved(_)))
    );
    w.assert_kernels_match_the_cluster();
}

#[test]
fn what_was_on_a_dead_host_is_taken_over_and_when_that_returns_it_is_told() {
    for grace in [0, 30] {
        let mut w = scene(3);
        w.kill(0);
        w.pass(Duration::from_secs(grace));
        let view = w.attach(1, here(web())).unwrap();
        assert_eq!(view.endpoint.move_seq, 1, "after {grace} s");
        assert_eq!(way(&mut w, 2, WEB).as_deref(), Some("192.0.2.2"));
        w.restart(0);
        w.pass(Duration::from_secs(30));
        assert!(matches!(own_web(&mut w, 0).unwrap().state, EndpointState::Moved(_)));
        assert_eq!(way(&mut w, 0, WEB).as_deref(), Some("192.0.2.2"));
        assert_eq!(way(&mut w, 2, WEB).as_deref(), Some("192.0.2.2"));
        w.assert_kernels_match_the_cluster();
        w.assert_no_address_twice();
    }
}

#[test]
fn a_host_that_has_booted_gives_out_nothing_that_may_be_elsewhere_by_now() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let first = w.attach(0, attach("demo", "web")).unwrap();
    w.kill(0);
    let moved = w.attach(1, here(attach("demo", "web"))).unwrap();
    assert_eq!(moved.ips, first.ips);
    // It boots, hears nobody, and must attach at once.
    w.deafen(0, 1);
    w.deafen(1, 0);
    w.reboot(0);
    let new = w.attach(0, attach("demo", "new")).unwrap();
    assert_ne!(new.ips, first.ips);
    w.heal();
    w.pass(Duration::from_secs(30));
    for n in 0..5 {
        let more = w.attach(0, attach("demo", &format!("c{n}"))).unwrap();
        assert_ne!(more.ips, first.ips);
    }
    w.assert_no_address_twice();
}

#[test]
fn what_was_on_a_host_of_which_nothing_is_known_any_more_can_be_taken_over() {
    let mut w = World::new(3);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, web()).unwrap();
    w.kill(0);
    w.restart(1);
    w.pass(Duration::from_secs(30));
    assert_eq!(w.endpoints(1), vec![], "it has started when nobody knew of the dead one");
    assert_eq!(w.attach(1, web()).unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(w.attach(1, here(web())).unwrap().endpoint.move_seq, 1);
    w.restart(0);
    w.pass(Duration::from_secs(30));
    assert!(matches!(own_web(&mut w, 0).unwrap().state, EndpointState::Moved(_)));
}

#[test]
fn two_sides_of_a_partition_take_it_over_and_one_of_them_has_it_in_the_end() {
    let mut w = scene(4);
    w.partition(true);
    for i in [1, 2, 3] {
        assert_eq!(w.attach(i, here(web())).unwrap().endpoint.move_seq, 1);
    }
    w.partition(false);
    w.pass(Duration::from_secs(30));
    assert_eq!(own_web(&mut w, 1).unwrap().state, EndpointState::Ready, "the lowest host");
    for i in [0, 2, 3] {
        assert!(matches!(own_web(&mut w, i).unwrap().state, EndpointState::Moved(_)), "host {i}");
        assert_eq!(way(&mut w, i, WEB).as_deref(), Some("192.0.2.2"));
        let told = w.notices(i).iter().any(|n| matches!(n, Notice::Moved { here: false, .. }));
        assert!(told, "host {i}");
    }
    w.assert_kernels_match_the_cluster();
    w.assert_no_address_twice();
}

#[test]
fn devices_and_static_endpoints_move_too() {
    let mut w = World::new(3);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let tap = |index| Attach { ips: vec![ip(WEB_IP)], ..plug("demo", "tap0", index, WEB) };
    w.plug(0, tap(5)).unwrap();
    let view = w.plug(1, here(tap(6))).unwrap();
    assert_eq!(view.endpoint.move_seq, 1);
    let port = IfName::new("tap0").unwrap();
    assert_eq!(guard(&mut w, 0, &port).mac, MacAddr::ZERO);
    assert_eq!(guard(&mut w, 1, &port).mac, view.endpoint.mac);
    // The source's device goes, as it does when a VM has moved.
    w.unplug(0, "tap0");
    assert_eq!(own_web(&mut w, 0), None);
    w.assert_kernels_match_the_cluster();

    // To a static one, of which nothing is left when it goes on.
    w.attach_at(2, here(add("demo", WEB, WEB_IP))).unwrap();
    assert_eq!(way(&mut w, 0, WEB), None, "nothing of the network is left there");
    let refused = w.import(0, list("demo", false, &[(WEB, WEB_IP)])).unwrap_err();
    assert!(refused.details[0].message.contains("is taken by endpoint"), "{refused:?}");
    let over = Import { take_over: true, ..list("demo", false, &[(WEB, WEB_IP)]) };
    assert_eq!(w.import(0, over).unwrap(), [1, 0, 0, 0]);
    assert_eq!(own_web(&mut w, 0).unwrap().endpoint.move_seq, 3);
    assert_eq!(own_web(&mut w, 2), None);
    w.assert_kernels_match_the_cluster();
    w.assert_no_address_twice();
}

#[test]
fn what_the_state_file_does_not_take_is_handed_to_nobody() {
    let mut w = scene(2);
    w.disk_full(0, true);
    w.attach(1, here(web())).unwrap();
    // The way is another all the same, and nobody may speak in its place.
    assert_eq!(way(&mut w, 0, WEB).as_deref(), Some("192.0.2.2"));
    w.disk_full(0, false);
    let mut same = attach("demo", "thief");
    same.ips = vec![ip(WEB_IP)];
    w.detach(0, "web").unwrap();
    assert_eq!(w.attach(0, same).unwrap_err().kind, ErrorKind::Taken);
}

#[test]
fn the_sixth_move_within_three_minutes_is_refused_and_what_is_there_stays() {
    let mut w = scene(3);
    for n in 0..5 {
        moves(&mut w, (n + 1) % 2).unwrap();
        w.pass(Duration::from_secs(5));
    }
    // It is on host 1 now.
    let refused = moves(&mut w, 0).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert_eq!(
        refused.message,
        "02:00:00:00:00:05 10.9.0.5 of demo moved 5 times within 180 s, between hosts h0 and h1: \
         frozen on h1; see what attaches it on both, then: overlayctl endpoint thaw \
         02:00:00:00:00:05"
    );
    assert_eq!(way(&mut w, 2, WEB).as_deref(), Some("192.0.2.2"));
    let shown = frozen(&mut w, 0);
    assert_eq!((shown.len(), shown[0].moves), (1, 5));
    assert_eq!((shown[0].kept.as_str(), shown[0].other.as_str()), ("h1", "h0"));
    assert_eq!(w.notices(0).iter().filter(|n| matches!(n, Notice::Frozen(_))).count(), 1);
    // It is told once, however often it is tried.
    moves(&mut w, 0).unwrap_err();
    assert_eq!(w.notices(0).iter().filter(|n| matches!(n, Notice::Frozen(_))).count(), 1);
    // Quiet for three minutes: all is forgotten.
    w.pass(Duration::from_secs(180));
    assert_eq!(frozen(&mut w, 0), vec![]);
    assert!(w.notices(0).iter().any(|n| matches!(n, Notice::Thawed { .. })));
    assert_eq!(moves(&mut w, 0).unwrap().endpoint.move_seq, 6);
}

#[test]
fn moves_that_take_their_time_are_no_flapping() {
    let mut w = scene(3);
    for n in 0..12 {
        moves(&mut w, (n + 1) % 2).unwrap();
        w.pass(Duration::from_secs(40));
    }
    assert_eq!(frozen(&mut w, 0), vec![]);
}

#[test]
fn a_sixth_move_by_a_host_that_has_counted_nothing_is_followed_by_nobody() {
    let mut w = scene(3);
    for n in 0..5 {
        moves(&mut w, (n + 1) % 2).unwrap();
    }
    w.restart(0);
    w.pass(Duration::from_secs(20));
    assert_eq!(moves_alone(&mut w, 0).endpoint.move_seq, 6);
    assert_eq!(own_web(&mut w, 1).unwrap().state, EndpointState::Ready, "it goes on to have it");
    assert_eq!(way(&mut w, 2, WEB).as_deref(), Some("192.0.2.2"));
    for i in [1, 2] {
        let shown = frozen(&mut w, i);
        assert_eq!(shown[0].moves, 6, "host {i}");
        assert_eq!((shown[0].kept.as_str(), shown[0].other.as_str()), ("h1", "h0"));
    }
    let Reply::Status(status) = w.request(2, Request::Status).unwrap() else { panic!("a status") };
    assert!(status.warnings.iter().any(|t| t.contains("overlayctl endpoint thaw")));
    assert_eq!((status.counters["moves"], status.counters["moves_frozen"]), (6, 1));
    // Whoever is told that all is well follows.
    let refused = thaw(&mut w, 2, "10.9.0.99").unwrap_err();
    assert_eq!(refused.message, "10.9.0.99 is not frozen on this host");
    assert_eq!(thaw(&mut w, 2, "web").unwrap_err().kind, ErrorKind::Invalid);
    thaw(&mut w, 2, WEB_IP).unwrap();
    assert_eq!(frozen(&mut w, 2), vec![], "its MAC with it");
    assert_eq!(way(&mut w, 2, WEB).as_deref(), Some("192.0.2.1"));
    thaw(&mut w, 1, WEB).unwrap();
    assert!(matches!(own_web(&mut w, 1).unwrap().state, EndpointState::Moved(_)));
    assert_eq!(way(&mut w, 1, WEB).as_deref(), Some("192.0.2.1"));
    w.assert_kernels_match_the_cluster();
    w.assert_no_address_twice();
}

fn moves_alone(w: &mut World, to: usize) -> EndpointView {
    w.attach(to, here(web())).unwrap()
}

#[test]
fn a_frozen_one_that_its_host_gives_up_is_followed() {
    let mut w = scene(3);
    for n in 0..5 {
        moves(&mut w, (n + 1) % 2).unwrap();
    }
    w.restart(0);
    w.pass(Duration::from_secs(20));
    moves_alone(&mut w, 0);
    w.detach(1, "web").unwrap();
    assert_eq!(way(&mut w, 2, WEB).as_deref(), Some("192.0.2.1"));
    w.pass(Duration::from_secs(200));
    assert_eq!(frozen(&mut w, 2), vec![]);
    w.assert_kernels_match_the_cluster();
    w.assert_no_address_twice();
}
