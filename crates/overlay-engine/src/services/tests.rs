use std::time::Duration;

use super::*;
use crate::event::Request;
use crate::tests::world::{World, attach, create};

fn shop(port: &str) -> CreateService {
    CreateService {
        net: "demo".into(),
        name: Name::new("shop").unwrap(),
        alias: Name::new("web").unwrap(),
        ports: vec![port.parse().unwrap()],
        vips: Vec::new(),
    }
}

fn world() -> World {
    let mut w = World::new(3);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.pass(Duration::from_secs(20));
    w
}

fn holder(name: &str) -> crate::event::Attach {
    let aliases = BTreeSet::from([Name::new("web").unwrap()]);
    crate::event::Attach { aliases, ..attach("demo", name) }
}

fn made(w: &mut World, i: usize, request: CreateService) -> Result<Service, Refused> {
    match w.request(i, Request::CreateService(request))? {
        Reply::Service(view) => Ok(view.service),
        other => panic!("{other:?}"),
    }
}

fn views(w: &mut World, i: usize) -> Vec<ServiceView> {
    match w.request(i, Request::Services { net: None }).unwrap() {
        Reply::Services(views) => views,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_is_known_everywhere_and_leads_to_all_holders_of_its_alias() {
    let mut w = world();
    w.attach(0, holder("w1")).unwrap();
    w.attach(1, holder("w2")).unwrap();
    let service = made(&mut w, 0, shop("80:8080")).unwrap();
    w.pass(Duration::from_secs(3));
    for i in 0..2 {
        let view = &views(&mut w, i)[0];
        assert_eq!(view.endpoints.len(), 2, "host {i}: {view:?}");
        let vip = IpNet::from(service.addresses[0]);
        let bridge = overlay_model::Vni::new(7).unwrap().bridge();
        assert!(w.kernel(i).objects().contains_key(&ObjectKey::Address(bridge, vip)), "host {i}");
    }
    // A host without an endpoint of the network has no use of it.
    assert_eq!(w.kernel(2).objects().len(), 0);
    w.assert_kernels_match_the_cluster();
    w.request(1, Request::RemoveService { name: "shop".into(), net: None }).unwrap();
    for i in 0..3 {
        assert_eq!(views(&mut w, i), [], "host {i}");
    }
    w.pass(Duration::from_secs(3));
    w.assert_kernels_match_the_cluster();
}

#[test]
fn nobody_is_leased_the_address_of_a_service_though_its_range_goes_elsewhere() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/28")).unwrap();
    w.pass(Duration::from_secs(20));
    let vip = made(&mut w, 0, shop("80")).unwrap().addresses[0];
    w.restart(0);
    w.pass(Duration::from_secs(20));
    let mut got = BTreeSet::new();
    for n in 0..20 {
        if let Ok(view) = w.attach(n % 2, attach("demo", &format!("c{n}"))) {
            got.insert(view.ips[0].addr());
        }
    }
    // 13 stations, less this one and the own address of each of the two hosts.
    assert_eq!(got.len(), 10, "{got:?}");
    assert!(!got.contains(&vip), "{vip} of {got:?}");
    w.assert_no_address_is_given_twice();
    // Nor is it a leak.
    let audit = match w.request(0, Request::Audit { net: None, repair: false }).unwrap() {
        Reply::Audited(view) => view,
        other => panic!("{other:?}"),
    };
    assert_eq!(audit.findings, [], "{audit:?}");
    w.request(1, Request::RemoveService { name: "shop".into(), net: None }).unwrap();
    let last = (0..2).find_map(|i| w.attach(i, attach("demo", &format!("last{i}"))).ok());
    assert_eq!(last.map(|view| view.ips[0].addr()), Some(vip), "it is free again");
}

#[test]
fn of_two_that_were_made_apart_the_older_works_and_the_other_says_so() {
    let mut w = world();
    w.attach(0, holder("w1")).unwrap();
    w.attach(2, holder("w3")).unwrap();
    w.partition(true);
    w.pass(Duration::from_secs(1));
    made(&mut w, 0, shop("80")).unwrap();
    w.pass(Duration::from_secs(1));
    made(&mut w, 2, shop("81")).unwrap();
    w.partition(false);
    w.pass(Duration::from_secs(5));
    for i in 0..3 {
        let views = views(&mut w, i);
        assert_eq!(views.len(), 2, "host {i}");
        let working = views.iter().find(|view| view.conflict.is_none()).unwrap();
        assert_eq!(working.service.ports[0].port, 80, "host {i}");
    }
    w.pass(Duration::from_secs(60));
    w.assert_kernels_match_the_cluster();
}

#[test]
fn what_makes_no_sense_is_refused_and_keeps_no_address() {
    let mut w = world();
    w.attach(0, holder("w1")).unwrap();
    let refused = |w: &mut World, request| made(w, 0, request).unwrap_err().message;
    let ask = |port: &str| shop(port);
    assert!(
        refused(&mut w, CreateService { ports: vec![], ..ask("80") }).contains("1 to 16 ports")
    );
    let named = CreateService { name: Name::new("w1").unwrap(), ..ask("80") };
    assert!(refused(&mut w, named).contains("taken by endpoint w1"));
    let beyond = CreateService { vips: vec!["10.8.0.1".parse().unwrap()], ..ask("80") };
    assert!(refused(&mut w, beyond).contains("outside network demo"));
    let taken = CreateService { vips: vec!["10.9.0.2".parse().unwrap()], ..ask("80") };
    assert!(refused(&mut w, taken).contains("10.9.0.2 is taken by endpoint w1"));
    w.disk_full(0, true);
    assert!(refused(&mut w, ask("80")).starts_with("cannot write the state file"));
    w.disk_full(0, false);
    let vip = made(&mut w, 0, ask("80")).unwrap().addresses[0];
    assert!(refused(&mut w, ask("81")).contains("a service shop already"));
    let refused = w.attach(1, attach("demo", "shop")).unwrap_err();
    assert!(refused.message.contains("that of a service"), "{refused}");
    let mut by_ip = attach("demo", "x");
    by_ip.ips = vec![vip];
    assert!(w.attach(0, by_ip).is_err());
}

#[test]
fn a_host_without_addresses_is_given_one_for_its_service_and_when_there_is_none_that_is_said() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/28")).unwrap();
    w.pass(Duration::from_secs(20));
    // Host 1 owns nothing yet: half of what host 0 has goes there.
    let given = made(&mut w, 1, shop("80")).unwrap().addresses[0];
    let other = |name: &str| CreateService { name: Name::new(name).unwrap(), ..shop("80") };
    let given_to = w.engine(1).config.host;
    // One that host 0 owns, asked for as such.
    let owned = (1..15).map(|n| IpAddr::from([10, 9, 0, n]));
    let net = w.net(0, "demo");
    let pool = &w.engine(1).pools[&(net, Family::V4)];
    let of_another = |ip: &IpAddr| pool.owner(*ip).is_some_and(|owner| owner != given_to);
    let asked = owned.rev().find(of_another).unwrap();
    let exact = CreateService { vips: vec![asked], ..other("exact") };
    assert_eq!(made(&mut w, 1, exact.clone()).unwrap().addresses, [asked]);
    assert_ne!(given, asked);
    let again = CreateService { name: Name::new("again").unwrap(), ..exact };
    assert_eq!(made(&mut w, 0, again).unwrap_err().kind, ErrorKind::Taken);
    let full = (0..14).any(|n| w.attach(1, attach("demo", &format!("c{n}"))).is_err());
    assert!(full);
    let refused = made(&mut w, 0, other("late")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exhausted, "{refused:?}");
    assert!(refused.message.contains("leased"), "{refused:?}");
    w.assert_no_address_is_given_twice();
}
