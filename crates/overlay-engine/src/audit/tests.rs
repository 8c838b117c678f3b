use std::net::IpAddr;
use std::time::Duration;

use expect_test::{Expect, expect};
use overlay_model::{Family, ObjectKey, RingToken};

use super::{AuditView, RangesView, SubnetView, scarcity};
use crate::event::{Attach, ErrorKind, Notice, Refused, Reply, Request};
use crate::ipam::Pool;
use crate::tests::world::{World, add, attach, create};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// c1 on the first host, c2 on the second, which has a half.
fn pair() -> World {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w.pass(Duration::from_secs(20));
    w
}

fn subnets(w: &mut World, i: usize) -> Vec<SubnetView> {
    match w.request(i, Request::Subnets).unwrap() {
        Reply::Subnets(views) => views,
        other => panic!("{other:?}"),
    }
}

fn ranges(w: &mut World, i: usize) -> RangesView {
    match w.request(i, Request::Ranges("demo".into())).unwrap() {
        Reply::Ranges(views) => views.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn audit(w: &mut World, i: usize, repair: bool) -> AuditView {
    match w.request(i, Request::Audit { net: None, repair }).unwrap() {
        Reply::Audited(view) => view,
        other => panic!("{other:?}"),
    }
}

fn release(w: &mut World, i: usize, ip: &str) -> Result<Reply, Refused> {
    w.request(i, Request::Release { net: "demo".into(), ip: ip.parse().unwrap() })
}

fn pool(w: &mut World, i: usize) -> &mut Pool {
    w.engine(i).pools.values_mut().next().unwrap()
}

#[track_caller]
fn found(view: &AuditView, text: Expect) {
    let lines = view.findings.iter().map(|f| {
        let done = f.repaired.as_ref().map(|done| format!(" [{done}]")).unwrap_or_default();
        format!("{}: {}{done}\n", f.kind, f.text)
    });
    text.assert_eq(&lines.collect::<String>());
}

/// Ranges in a line each.
#[track_caller]
fn shown(view: &RangesView, text: Expect) {
    let lines = view.ranges.iter().map(|r| {
        let owner = r.owner.as_deref().unwrap_or("-");
        format!("{}-{} {owner} {} {}/{}\n", r.first, r.last, r.state, r.leased, r.addresses)
    });
    text.assert_eq(&lines.collect::<String>());
}

#[test]
fn what_is_used_adds_up_and_both_hosts_agree_on_it() {
    let mut w = pair();
    let [a] = subnets(&mut w, 0).try_into().unwrap();
    let [b] = subnets(&mut w, 1).try_into().unwrap();
    assert_eq!((a.capacity, a.leased, a.free, a.owners, a.unreachable), (253, 2, 251, 2, 0));
    assert_eq!((b.capacity, b.leased, b.free, b.owners, b.unreachable), (253, 2, 251, 2, 0));
    assert_eq!((a.leased_here, b.leased_here), (1, 1));
    assert_eq!(a.free_here + b.free_here, 251);
    let view = ranges(&mut w, 0);
    shown(
        &view,
        expect![[r#"
            10.9.0.0-10.9.0.128 h0 up 1/127
            10.9.0.129-10.9.0.254 h1 up 1/126
            10.9.0.255-10.9.0.255 h0 up 0/0
        "#]],
    );
    assert_eq!((view.held, view.abroad), (vec![], vec![]));
    for i in 0..2 {
        let view = audit(&mut w, i, false);
        found(&view, expect![""]);
        assert_eq!((view.networks, view.endpoints, view.leases), (1, 2, 1));
    }
}

#[test]
fn what_a_dead_host_holds_is_said_as_addresses_and_exhaustion_says_whose_and_what_to_do() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/28")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w.pass(Duration::from_secs(20));
    w.kill(1);
    w.pass(Duration::from_secs(10));
    let [a] = subnets(&mut w, 0).try_into().unwrap();
    assert_eq!((a.capacity, a.leased, a.leased_here), (13, 1, 0));
    assert_eq!(a.free + a.unreachable, 12);
    assert_eq!(a.free, a.free_here);
    for n in 0..a.free {
        w.attach(0, attach("demo", &format!("x{n}"))).unwrap();
    }
    let refused = w.attach(0, attach("demo", "more")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    expect!["no free address in 10.9.0.0/28: 7 of 13 leased, 6 held by hosts that cannot be reached: h1 (6)"]
        .assert_eq(&refused.message);
    expect!["see who holds which with: overlayctl ipam show demo; take over what a host held that does not come back: overlayctl host forget h1"]
        .assert_eq(&refused.hint.unwrap());
    let shown = ranges(&mut w, 0);
    assert!(shown.ranges.iter().any(|r| r.owner.as_deref() == Some("h1") && r.state == "down"));
}

#[test]
fn a_leaked_lease_is_found_given_back_by_hand_or_repaired_and_one_in_use_is_not_given_back() {
    let mut w = pair();
    pool(&mut w, 0).note_lease(ip("10.9.0.9"));
    pool(&mut w, 0).note_lease(ip("10.9.0.8"));
    let leaked = audit(&mut w, 0, false);
    found(
        &leaked,
        expect![[r#"
            leaked: 10.9.0.8 is leased on this host and no endpoint has it: overlayctl ipam release demo 10.9.0.8
            leaked: 10.9.0.9 is leased on this host and no endpoint has it: overlayctl ipam release demo 10.9.0.9
        "#]],
    );
    release(&mut w, 0, "10.9.0.9").unwrap();
    assert!(matches!(w.notices(0).last(), Some(Notice::Released { .. })));
    let repaired = audit(&mut w, 0, true);
    found(
        &repaired,
        expect![[r#"
            leaked: 10.9.0.8 is leased on this host and no endpoint has it: overlayctl ipam release demo 10.9.0.8 [gave 10.9.0.8 back]
        "#]],
    );
    found(&audit(&mut w, 0, false), expect![""]);
    assert!(!pool(&mut w, 0).is_leased(ip("10.9.0.8")));

    let (own, other) = ("10.9.0.2", "10.9.0.129");
    for (host, address, name) in [(0, own, "c1 on host h0"), (0, other, "c2 on host h1")] {
        let refused = release(&mut w, host, address).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InUse);
        assert_eq!(refused.message, format!("endpoint {name} has {address}"));
    }
    assert!(pool(&mut w, 0).is_leased(ip(own)));
    let refused = release(&mut w, 0, "10.9.0.200").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert_eq!(refused.message, "10.9.0.200 is not leased on this host, host h1 owns it");
    let refused = release(&mut w, 0, "10.8.0.1").unwrap_err();
    assert_eq!(refused.message, "10.8.0.1 is outside network demo (10.9.0.0/24)");
}

#[test]
fn an_endpoint_without_a_lease_is_found_before_somebody_gets_its_address() {
    let mut w = pair();
    pool(&mut w, 0).release(ip("10.9.0.2"));
    let repaired = audit(&mut w, 0, true);
    found(
        &repaired,
        expect![[r#"
            not_leased: endpoint c1 has 10.9.0.2, which is not leased: it could be given to another; overlayctl ipam check demo --repair [noted 10.9.0.2 as leased]
        "#]],
    );
    found(&audit(&mut w, 0, false), expect![""]);
    assert!(pool(&mut w, 0).is_leased(ip("10.9.0.2")));
}

#[test]
fn a_hole_an_owner_who_is_not_there_and_one_too_many_are_found() {
    let mut w = pair();
    let stranger = overlay_model::HostId(
        "00000000-0000-0000-0000-000000000099".parse::<overlay_model::HostId>().unwrap().0,
    );
    let me = w.engine(0).config.host;
    let pool = pool(&mut w, 0);
    *pool = Pool::new(pool.subnet().clone());
    pool.note_lease(ip("10.9.0.2"));
    let range = |owner, version, until| RingToken { owner, version, until };
    pool.merge(0, range(me, 2, 100));
    pool.merge(50, range(stranger, 2, 200));
    let view = audit(&mut w, 0, true);
    found(
        &view,
        expect![[r#"
            owner_absent: 10.9.0.50 to 10.9.0.99 belongs to host 0000000000, which is not known here: overlayctl host forget 0000000000
            two_owners: 10.9.0.50 to 10.9.0.99 is of hosts 0000000000 and h0: so it is for a moment while one gives it to the other; look again
            owner_absent: 10.9.0.100 to 10.9.0.199 belongs to host 0000000000, which is not known here: overlayctl host forget 0000000000
            no_owner: nobody is known to own 10.9.0.200 to 10.9.0.255: wait until the hosts have heard of each other; then: overlayctl host forget, for a host that does not come back
            abroad: 10.9.0.129 of endpoint c2 on host h1 belongs to host 0000000000: its range follows when that host is back; if it does not come back: overlayctl host forget 0000000000
        "#]],
    );
    let view = ranges(&mut w, 0);
    shown(
        &view,
        expect![[r#"
            10.9.0.0-10.9.0.49 h0 up 1/48
            10.9.0.50-10.9.0.99 0000000000 unknown 0/50
            10.9.0.100-10.9.0.199 0000000000 unknown 1/100
            10.9.0.200-10.9.0.255 - unknown 0/55
        "#]],
    );
    assert_eq!(view.abroad.len(), 1);
}

#[test]
fn an_address_that_two_endpoints_have_is_found_and_left_to_people() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w.attach(0, add("demo", "02:00:00:00:00:01", "10.9.0.50")).unwrap();
    // As a record of a host that broke the rules would say.
    let other = w.engine(1).config.host;
    let own = w.engine(0).local.values().next().unwrap().local.endpoint.clone();
    let mac = "02:00:00:00:00:02".parse().unwrap();
    let claim = overlay_model::Endpoint { id: overlay_model::EndpointId::from_bits(9), mac, ..own };
    let placed = overlay_model::Placed { host: other, endpoint: claim.clone() };
    let net = w.net(0, "demo");
    w.engine(0).view.set_active(other, net, claim.id, Some(std::sync::Arc::new(placed)));
    let view = audit(&mut w, 0, true);
    found(
        &view,
        expect![[r#"
        held_twice: 10.9.0.50 is held by 000000000003 on host h0 and by 000000000009 on host h1: detach all but one
    "#]],
    );
}

#[test]
fn what_the_kernel_has_lost_for_an_endpoint_is_found() {
    let mut w = pair();
    let bridge = overlay_model::Vni::new(7).unwrap().bridge();
    let key = ObjectKey::Neigh(bridge, ip("10.9.0.2"));
    w.refuse(0, key.clone(), Some(overlay_model::Refusal::Busy));
    w.meddle(0, key.clone(), None);
    let view = audit(&mut w, 0, false);
    found(
        &view,
        expect![[r#"
            not_in_kernel: the kernel lacks `ip neigh replace 10.9.0.2 lladdr 02:42:0a:09:00:02 dev ovb7 nud permanent extern_learn` for endpoint c1 (refused: Busy): overlayd does it by itself; if it stays so, see: overlayctl status
        "#]],
    );
    w.refuse(0, key, None);
    audit(&mut w, 0, true);
    found(&audit(&mut w, 0, false), expect![""]);
}

#[test]
fn the_range_of_an_endpoint_that_has_moved_is_handed_over_by_a_repair() {
    let mut w = pair();
    // The first host does not hear that c1 has moved, and comes to hear it while
    // its disk is full.
    w.disk_full(0, true);
    let mut over = attach("demo", "c1");
    over.take_over = true;
    w.attach(1, over).unwrap();
    w.disk_full(0, false);
    let shown = ranges(&mut w, 0);
    assert_eq!(shown.abroad.len(), 1, "{shown:?}");
    assert_eq!((shown.abroad[0].ip, shown.abroad[0].host.as_str()), (ip("10.9.0.2"), "h1"));
    let view = audit(&mut w, 0, true);
    assert!(
        view.findings.iter().any(|f| f.kind == "abroad"
            && f.repaired.as_deref() == Some("gave the range of 10.9.0.2 to host h1")),
        "{:#?}",
        view.findings
    );
    for i in 0..2 {
        assert_eq!(ranges(&mut w, i).abroad, vec![], "on {i}");
    }
    w.assert_no_address_is_given_twice();
}

#[test]
fn few_free_addresses_are_told_once_and_that_there_is_room_again_once() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/27")).unwrap();
    w.pass(Duration::from_secs(20));
    let told = |w: &World| -> Vec<(bool, String)> {
        let crowded = w.notices(0).iter().filter_map(|notice| match notice {
            Notice::Crowded { over, text, .. } => Some((*over, text.clone())),
            _ => None,
        });
        crowded.collect()
    };
    // 29 addresses, few are fewer than 7.
    for n in 0..22 {
        w.attach(0, attach("demo", &format!("c{n}"))).unwrap();
    }
    w.pass(Duration::from_secs(5));
    assert_eq!(told(&w), vec![]);
    w.attach(0, attach("demo", "c22")).unwrap();
    w.pass(Duration::from_secs(5));
    let text = "network demo runs out of addresses: 6 free in 10.9.0.0/27, 23 of 29 leased; see: \
                overlayctl ipam show demo";
    assert_eq!(told(&w), vec![(false, text.to_owned())]);
    let Ok(Reply::Status(status)) = w.request(0, Request::Status) else { panic!("no status") };
    assert_eq!(status.warnings, [text]);
    // To and fro about the edge is no news.
    for _ in 0..5 {
        w.detach(0, "c22").unwrap();
        w.pass(Duration::from_secs(5));
        w.attach(0, attach("demo", "c22")).unwrap();
        w.pass(Duration::from_secs(5));
    }
    assert_eq!(told(&w).len(), 1);
    for n in 19..23 {
        w.detach(0, &format!("c{n}")).unwrap();
    }
    w.pass(Duration::from_secs(5));
    let over = "network demo has free IPv4 addresses again".to_owned();
    assert_eq!(told(&w)[1..], [(true, over)]);
    let Ok(Reply::Status(status)) = w.request(0, Request::Status) else { panic!("no status") };
    assert_eq!(status.warnings, [""; 0]);
}

#[test]
fn few_is_a_tenth_or_eight_and_of_a_small_subnet_a_quarter() {
    let few = [1, 5, 13, 29, 61, 253, 65_533].map(scarcity);
    assert_eq!(few, [0, 1, 3, 7, 8, 25, 6553]);
    assert!(scarcity(u128::MAX) < u128::MAX / 2);
}

#[test]
fn a_subnet_of_ipv6_is_as_large_as_it_is() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "fd00:9::/64")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.pass(Duration::from_secs(20));
    let [a] = subnets(&mut w, 0).try_into().unwrap();
    assert_eq!((a.capacity, a.free), ((1 << 64) - 2, (1 << 64) - 3));
    assert_eq!(a.free, a.free_here);
    found(&audit(&mut w, 0, false), expect![""]);
    assert!(w.engine(0).pools.keys().all(|(_, family)| *family == Family::V6));
}

#[test]
fn what_is_kept_for_a_name_is_no_leak() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.pass(Duration::from_secs(20));
    let view = w.attach(0, Attach { keep_ip: true, ..attach("demo", "db") }).unwrap();
    w.detach(0, "db").unwrap();
    let audited = audit(&mut w, 0, true);
    assert_eq!(audited.findings, [], "{audited:?}");
    assert_eq!(w.attach(0, attach("demo", "db")).unwrap().ips, view.ips);
}
