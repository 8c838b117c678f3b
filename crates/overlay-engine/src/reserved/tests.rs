use super::*;
use crate::event::{Attach, Request};
use crate::tests::world::{World, attach, create};

fn reserve(w: &mut World, i: usize, asked: Reserve) -> Result<IpNet, Refused> {
    match w.request(i, Request::Reserve(asked))? {
        Reply::Reserved { ip, .. } => Ok(ip),
        other => panic!("{other:?}"),
    }
}

fn any() -> Reserve {
    Reserve { net: "demo".into(), ip: None, family: None }
}

fn exact(ip: &str) -> Reserve {
    Reserve { ip: Some(ip.parse().unwrap()), ..any() }
}

fn come_for(ip: IpNet, name: &str) -> Attach {
    Attach { ips: vec![ip.addr()], reserved: true, ..attach("demo", name) }
}

fn world() -> World {
    let mut w = World::new(2);
    let mut net = create("demo", 7, "10.9.0.0/29");
    net.subnets.push("fd00:9::/64".parse().unwrap());
    w.create(0, net).unwrap();
    w.pass(Duration::from_secs(20));
    w
}

#[test]
fn a_reserved_address_is_nobodys_until_an_attach_comes_for_it() {
    let mut w = world();
    let ip = reserve(&mut w, 0, any()).unwrap();
    assert_eq!(ip.to_string(), "10.9.0.2/29");
    assert_eq!(reserve(&mut w, 0, exact("10.9.0.2")).unwrap_err().kind, ErrorKind::Taken);
    // Who asks for it without having reserved it has not got it.
    let thief = Attach { reserved: false, ..come_for(ip, "thief") };
    assert_eq!(w.attach(0, thief).unwrap_err().kind, ErrorKind::Taken);
    let view = w.attach(0, come_for(ip, "c1")).unwrap();
    // Of the other family it was not asked for any.
    assert_eq!(view.ips, [ip]);
    // It is the endpoint's now: no more is let go by who had reserved it.
    let over = Request::Unreserve { net: "demo".into(), ip: ip.addr() };
    assert_eq!(w.request(0, over).unwrap_err().kind, ErrorKind::NotFound);
    w.pass(HELD * 2);
    assert_ne!(reserve(&mut w, 0, any()).unwrap(), ip);
    w.assert_no_address_is_given_twice();
}

#[test]
fn what_nobody_comes_for_is_free_again_and_an_attach_that_comes_late_has_to_be_lucky() {
    let mut w = world();
    let ip = reserve(&mut w, 0, any()).unwrap();
    let audit = Request::Audit { net: None, repair: false };
    let Reply::Audited(audited) = w.request(0, audit).unwrap() else { panic!("an audit") };
    assert_eq!(audited.findings, [], "it is no leak");
    w.pass(HELD + Duration::from_secs(1));
    assert_eq!(reserve(&mut w, 0, exact("10.9.0.2")).unwrap(), ip);
    let gone = Request::Unreserve { net: "demo".into(), ip: ip.addr() };
    w.request(0, gone).unwrap();
    // Nobody has it: it is leased anew.
    w.attach(0, come_for(ip, "late")).unwrap();
    let again = w.attach(1, come_for(ip, "later")).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Taken);
}

#[test]
fn a_restart_forgets_what_is_held_and_gives_nothing_twice() {
    let mut w = world();
    let ip = reserve(&mut w, 0, any()).unwrap();
    w.restart(0);
    w.pass(Duration::from_secs(20));
    let other = w.attach(0, Attach { ips: vec![ip.addr()], ..attach("demo", "other") }).unwrap();
    assert_eq!(other.ips[0], ip);
    assert_eq!(w.attach(0, come_for(ip, "c1")).unwrap_err().kind, ErrorKind::Taken);
    w.assert_no_address_is_given_twice();
}

#[test]
fn a_host_without_addresses_is_given_some_and_at_the_end_there_are_none() {
    let mut w = world();
    let six = reserve(&mut w, 1, Reserve { family: Some(Family::V6), ..any() }).unwrap();
    assert_eq!(six.prefix_len(), 64);
    let mut got = vec![reserve(&mut w, 1, any()).unwrap()];
    let refused = loop {
        match reserve(&mut w, got.len() % 2, any()) {
            Ok(ip) => got.push(ip),
            Err(refused) => break refused,
        }
        assert!(got.len() < 10, "{got:?}");
    };
    got.sort_unstable();
    got.dedup();
    // Eight, less the network, the broadcast and the gateway.
    assert_eq!(got.len(), 5, "{got:?}");
    assert_eq!(refused.kind, ErrorKind::Exhausted, "{refused:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut w = world();
    for (ip, why) in [
        ("10.8.0.1", "outside network demo"),
        ("10.9.0.1", "gateway"),
        ("10.9.0.7", "broadcast"),
        ("10.9.0.0", "broadcast"),
    ] {
        let refused = reserve(&mut w, 0, exact(ip)).unwrap_err();
        assert!(refused.message.contains(why), "{ip}: {refused}");
    }
    let both = Reserve { family: Some(Family::V6), ..exact("10.9.0.2") };
    assert_eq!(reserve(&mut w, 0, both).unwrap_err().kind, ErrorKind::Invalid);
    let nowhere = Reserve { net: "nowhere".into(), ..any() };
    assert_eq!(reserve(&mut w, 0, nowhere).unwrap_err().kind, ErrorKind::NotFound);
    let none = Attach { reserved: true, ..attach("demo", "c") };
    assert_eq!(w.attach(0, none).unwrap_err().kind, ErrorKind::Invalid);
}
