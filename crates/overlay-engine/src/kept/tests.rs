use std::net::IpAddr;

use overlay_model::{Family, NetworkId};

use crate::event::{Attach, ErrorKind, Reply, Request};
use crate::tests::world::{World, attach, create};

fn keeping(name: &str) -> Attach {
    Attach { keep_ip: true, ..attach("demo", name) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with web, whose address is kept, and one that has none.
fn world() -> (World, IpAddr) {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/29")).unwrap();
    let view = w.attach(0, keeping("web")).unwrap();
    assert!(view.kept);
    (w, view.endpoint.addresses[0])
}

fn forget(w: &mut World, name: &str) -> Result<Reply, crate::event::Refused> {
    let name = name.parse().unwrap();
    w.request(0, Request::ForgetIp { net: "demo".into(), name })
}

/// What host 0 keeps, as `net inspect` shows it.
fn kept(w: &mut World) -> Vec<String> {
    let views = w.networks(0);
    let all = views.iter().flat_map(|v| &v.kept);
    all.map(|k| format!("{} {} {}", k.name, k.addresses[0], k.mac)).collect()
}

#[test]
fn a_name_gets_the_same_address_and_mac_again_and_nobody_else_does() {
    let (mut w, was) = world();
    let mac = w.endpoints(0)[0].endpoint.mac;
    w.detach(0, "web").unwrap();
    assert_eq!(kept(&mut w), [format!("web {was} {mac}")]);
    // All the others are taken, by both hosts, until there is none.
    let mut got = Vec::new();
    for n in 0..4 {
        let view = w.attach(n % 2, attach("demo", &format!("c{n}"))).unwrap();
        got.extend(view.endpoint.addresses);
    }
    assert!(!got.contains(&was), "{got:?}");
    for host in [0, 1] {
        let refused = w.attach(host, attach("demo", "c4")).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exhausted, "{refused}");
        let asked = Attach { ips: vec![was], ..attach("demo", "c4") };
        let refused = w.attach(host, asked).unwrap_err();
        let text = if host == 0 { "is kept for web on this host" } else { "in use there" };
        assert!(refused.message.contains(text), "{refused}");
    }
    // Whether it is said again or not.
    let view = w.attach(0, attach("demo", "web")).unwrap();
    assert_eq!((view.endpoint.addresses[0], view.endpoint.mac, view.kept), (was, mac, true));
    w.detach(0, "web").unwrap();
    assert_eq!(w.attach(0, keeping("web")).unwrap().endpoint.addresses, [was]);
    w.assert_no_address_twice();
}

#[test]
fn what_is_kept_survives_restart_reboot_and_a_namespace_that_goes() {
    let (mut w, was) = world();
    w.restart(0);
    assert!(w.endpoints(0)[0].kept);
    w.loses_namespaces(0);
    w.restart(0);
    assert_eq!(w.endpoints(0), []);
    for n in 0..3 {
        w.attach(0, attach("demo", &format!("c{n}"))).unwrap();
    }
    w.reboot(0);
    assert_eq!(w.attach(0, attach("demo", "web")).unwrap().endpoint.addresses, [was]);
    w.assert_no_address_twice();
}

#[test]
fn what_is_let_go_is_free_at_once_or_when_it_is_detached() {
    let (mut w, was) = world();
    forget(&mut w, "web").unwrap();
    assert!(!w.endpoints(0)[0].kept);
    let refused = forget(&mut w, "web").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert_eq!(refused.message, "nothing is kept for web on network demo on this host");
    w.detach(0, "web").unwrap();
    let asked = Attach { ips: vec![was], ..keeping("db") };
    w.attach(0, asked.clone()).unwrap();
    w.detach(0, "db").unwrap();
    forget(&mut w, "db").unwrap();
    assert_eq!(kept(&mut w), Vec::<String>::new());
    w.restart(0);
    assert_eq!(kept(&mut w), Vec::<String>::new(), "from the state file, too");
    w.attach(1, Attach { keep_ip: false, ..asked }).unwrap();
}

#[test]
fn what_is_said_must_be_what_is_kept() {
    let (mut w, was) = world();
    w.detach(0, "web").unwrap();
    let refused =
        w.attach(0, Attach { ips: vec![ip("10.9.0.6")], ..attach("demo", "web") }).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert_eq!(refused.message, format!("{was} is kept for web on network demo, not 10.9.0.6"));
    assert_eq!(
        refused.hint.as_deref(),
        Some("leave it out, or let it go with: overlayctl endpoint forget-ip web --net demo")
    );
    let mac = "02:00:00:00:00:09".parse().ok();
    let refused = w.attach(0, Attach { mac, ..attach("demo", "web") }).unwrap_err();
    assert!(refused.message.ends_with("not 02:00:00:00:00:09"), "{refused}");
    w.attach(0, Attach { ips: vec![was], ..attach("demo", "web") }).unwrap();
    let nameless = Attach { name: None, ..keeping("x") };
    let refused = w.attach(0, nameless).unwrap_err();
    assert_eq!(refused.message, "addresses are kept for a name, and none is given");
}

#[test]
fn an_attach_that_fails_keeps_nothing_and_loses_nothing() {
    let (mut w, was) = world();
    w.disk_full(0, true);
    w.attach(0, keeping("db")).unwrap_err();
    w.disk_full(0, false);
    assert_eq!(kept(&mut w).len(), 1);
    w.detach(0, "web").unwrap();
    w.disk_full(0, true);
    w.attach(0, attach("demo", "web")).unwrap_err();
    forget(&mut w, "web").unwrap_err();
    w.disk_full(0, false);
    for n in 0..4 {
        w.attach(0, attach("demo", &format!("c{n}"))).unwrap();
    }
    assert_eq!(w.attach(0, attach("demo", "web")).unwrap().endpoint.addresses, [was]);
}

#[test]
fn what_is_kept_goes_with_its_network() {
    let (mut w, _) = world();
    w.detach(0, "web").unwrap();
    w.remove(0, "demo").unwrap();
    w.create(0, create("demo", 7, "10.9.0.0/29")).unwrap();
    assert_eq!(kept(&mut w), Vec::<String>::new());
    // Removed while this host was away: it hears of it when it is back.
    w.attach(0, keeping("web")).unwrap();
    w.detach(0, "web").unwrap();
    w.fall_silent(0);
    w.remove(1, "demo").unwrap();
    w.be_heard(0);
    assert_eq!(w.networks(0), []);
    w.restart(0);
    assert_eq!(w.networks(0), []);
}

#[test]
fn what_moves_away_is_kept_no_more() {
    let (mut w, was) = world();
    w.attach(1, Attach { take_over: true, ..attach("demo", "web") }).unwrap();
    assert_eq!(kept(&mut w), Vec::<String>::new());
    w.detach(0, "web").unwrap();
    w.restart(0);
    assert_eq!(kept(&mut w), Vec::<String>::new());
    let owner = |w: &mut World| {
        let net: NetworkId = w.networks(0)[0].network.id;
        w.engine(0).pools[&(net, Family::V4)].owner(was)
    };
    let two = w.engine(1).config.host;
    assert_eq!(owner(&mut w), Some(two));
    w.assert_no_address_twice();
}
