//! The engine through its door: several of them, each with a kernel, joined by
//! gossip that delivers at once. Time moves only when a test says so.

pub(crate) mod world;

use std::time::Duration;

use expect_test::{Expect, expect};
use overlay_model::{Family, IfName, KernelChange, MacAddr, Object, ObjectKey, Refusal, Vni};
use proptest::prelude::*;

use crate::event::{CreateNetwork, Effect, ErrorKind, Event, Notice, Place, Reply, Request, Where};
use crate::repairs::{Found, Repair};
use crate::views::{EndpointState, Table};
use world::{World, add, attach, create, list, plug};

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

#[track_caller]
fn check(ops: &[String], text: Expect) {
    text.assert_eq(&ops.iter().map(|op| format!("{op}\n")).collect::<String>());
}

/// Two hosts, a network, c1 on a and c2 on b.
fn pair() -> World {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w
}

#[test]
fn the_first_endpoint_brings_the_network_into_the_kernel() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    assert_eq!(w.applied(0), Vec::<String>::new(), "nobody uses it yet");
    w.attach(0, attach("demo", "c1")).unwrap();
    check(
        &w.applied(0),
        expect![[r#"
            nft replace table inet overlayd # isolates ovb7; VXLAN from 1
            nft replace table bridge overlayd
            nft replace table inet overlayd_nat # masquerades 10.9.0.0/24; 0 ports lead to endpoints
            nft add element bridge overlayd # ove000000000002: 02:42:0a:09:00:02 10.9.0.2
            ip link add ovb7 address 02:42:0a:09:00:01 mtu 1450 addrgenmode none alias 'overlayd:0000000000000001 host 00000000-0000-0000-0000-000000000001' up type bridge mcast_snooping 0
            ip link add ove000000000002 address 06:32:28:1a:36:5f mtu 1450 master ovb7 addrgenmode none alias overlayd:0000000000000001 up type veth peer name eth0 netns /run/netns/c1 address 02:42:0a:09:00:02 mtu 1450 && bridge link set dev ove000000000002 learning off neigh_suppress off && ip -n /run/netns/c1 addr add 10.9.0.2/24 dev eth0 && ip -n /run/netns/c1 link set eth0 up && ip -n /run/netns/c1 route add default via 10.9.0.1 dev eth0
            ip link add ovx7 address 06:d2:b7:fb:96:53 mtu 1450 master ovb7 addrgenmode none alias overlayd:0000000000000001 up type vxlan id 7 dstport 4789 local 192.0.2.1 nolearning && bridge link set dev ovx7 learning off neigh_suppress on
            ip addr replace 10.9.0.1/24 dev ovb7
            bridge fdb replace 02:42:0a:09:00:02 dev ove000000000002 master static
            ip neigh replace 10.9.0.2 lladdr 02:42:0a:09:00:02 dev ovb7 nud permanent extern_learn
        "#]],
    );
    assert_eq!(w.applied(1), Vec::<String>::new(), "b does not use it");
}

#[test]
fn a_remote_endpoint_is_two_fdb_entries_a_neighbour_and_a_flood_entry() {
    let mut w = pair();
    w.applied(0);
    w.attach(1, attach("demo", "c3")).unwrap();
    check(
        &w.applied(0),
        expect![[r#"
            bridge fdb replace 02:42:0a:09:00:82 dev ovx7 dst 192.0.2.2 self permanent
            bridge fdb replace 02:42:0a:09:00:82 dev ovx7 master static extern_learn
            ip neigh replace 10.9.0.130 lladdr 02:42:0a:09:00:82 dev ovb7 nud permanent extern_learn
        "#]],
    );
    w.detach(1, "c3").unwrap();
    check(
        &w.applied(0),
        expect![[r#"
            ip neigh del 10.9.0.130 dev ovb7
            bridge fdb del 02:42:0a:09:00:82 dev ovx7 master
            bridge fdb del 02:42:0a:09:00:82 dev ovx7 dst 192.0.2.2 self
        "#]],
    );
    w.detach(1, "c2").unwrap();
    let ops = w.applied(0);
    assert_eq!(
        ops.last().unwrap(),
        "bridge fdb del 00:00:00:00:00:00 dev ovx7 dst 192.0.2.2 self permanent"
    );
}

#[test]
fn the_last_endpoint_takes_the_network_out_of_the_kernel() {
    let mut w = pair();
    w.applied(0);
    w.detach(0, "c1").unwrap();
    check(
        &w.applied(0),
        expect![[r#"
            ip link del ovx7
            ip link del ove000000000002
            ip link del ovb7
            nft delete element bridge overlayd # ove000000000002: 02:42:0a:09:00:02 10.9.0.2
            nft delete table inet overlayd_nat
            nft delete table bridge overlayd
            nft delete table inet overlayd
        "#]],
    );
    assert_eq!(w.kernel(0).objects().len(), 0);
}

#[test]
fn an_address_is_given_by_its_owner_to_a_host_that_has_none() {
    let mut w = pair();
    let views = w.endpoints(0);
    let ips: Vec<String> = views.iter().map(|v| v.ips[0].to_string()).collect();
    assert_eq!(ips, ["10.9.0.2/24", "10.9.0.129/24"]);
    // A chosen address that another host owns is given too; a taken one is not.
    let mut chosen = attach("demo", "c3");
    chosen.ips = vec!["10.9.0.99".parse().unwrap()];
    let view = w.attach(1, chosen.clone()).unwrap();
    assert_eq!(view.ips[0].to_string(), "10.9.0.99/24");
    let refused = w.attach(0, chosen).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert!(refused.message.contains("10.9.0.99 is taken by endpoint"), "{refused}");
}

#[test]
fn exhaustion_says_how_many_are_leased() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/29")).unwrap();
    for n in 0..5 {
        w.attach(n % 2, attach("demo", &format!("c{n}"))).unwrap();
    }
    // Nobody is asked who has none left, as is known: so nobody is waited for either.
    let before = w.now().mono;
    let refused = w.attach(1, attach("demo", "c5")).unwrap_err();
    assert_eq!(w.now().mono, before);
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    assert_eq!(refused.message, "no free address in 10.9.0.0/29: 5 of 5 leased");
    w.detach(0, "c0").unwrap();
    w.attach(1, attach("demo", "c5")).unwrap();
}

#[test]
fn subnets_of_8_to_30_bits_lease_their_first_and_their_last_address() {
    for prefix in 8..=30u8 {
        let mut w = World::new(1);
        let cidr: ipnet::Ipv4Net = format!("10.0.0.0/{prefix}").parse().unwrap();
        w.create(0, create("demo", 7, &cidr.to_string())).unwrap();
        let first = w.attach(0, attach("demo", "first")).unwrap();
        assert_eq!(first.ips[0].to_string(), format!("10.0.0.2/{prefix}"));
        let last = cidr.hosts().last().unwrap();
        let chosen = w.attach(0, add("demo", "02:00:00:00:00:99", &last.to_string()));
        let more = w.attach(0, attach("demo", "more"));
        match prefix {
            // The first is the last one there.
            30 => assert!(chosen.is_err() && more.unwrap_err().kind == ErrorKind::Exhausted),
            29 => assert!(chosen.is_ok() && more.is_ok()),
            _ => assert_eq!(more.unwrap().ips[0].to_string(), format!("10.0.0.3/{prefix}")),
        }
    }
    let mut w = World::new(1);
    let refused = w.create(0, create("demo", 7, "10.0.0.0/7")).unwrap_err();
    assert_eq!(refused.message, "the prefix length of 10.0.0.0/7 is out of range");
}

#[test]
fn a_refusal_of_the_kernel_leaves_nothing_behind() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.refuse(0, ObjectKey::Link(vni(7).vxlan()), Some(Refusal::Taken));
    let refused = w.attach(0, attach("demo", "c1")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert_eq!(w.kernel(0).objects().len(), 0, "{:?}", w.kernel(0).objects());
    assert_eq!(w.endpoints(0), vec![]);
    w.refuse(0, ObjectKey::Link(vni(7).vxlan()), None);
    let view = w.attach(0, attach("demo", "c1")).unwrap();
    assert_eq!(view.state, EndpointState::Ready);
}

#[test]
fn a_namespace_that_is_gone_is_refused_and_later_released_after_the_grace() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.kernel(0).netns.remove(std::path::Path::new("/run/netns/c1"));
    let mut gone = attach("demo", "c1");
    let Where::Netns { netns, .. } = &mut gone.place else { panic!("a namespace") };
    netns.path = "/run/netns/gone".into();
    assert_eq!(w.attach_at(0, gone).unwrap_err().kind, ErrorKind::NotFound);

    w.attach(0, attach("demo", "c1")).unwrap();
    w.kernel(0).netns.clear();
    let veth = w
        .kernel(0)
        .objects()
        .keys()
        .find(|k| matches!(k, ObjectKey::Link(n) if n.as_str().starts_with("ove")))
        .cloned()
        .unwrap();
    w.meddle(0, veth, None);
    assert!(matches!(w.endpoints(0)[0].state, EndpointState::Gone(..)), "kept");
    w.pass(Duration::from_secs(60));
    assert_eq!(w.endpoints(0), vec![], "released");
    assert_eq!(w.endpoints(1), vec![], "and withdrawn");
    assert_eq!(w.kernel(0).objects().len(), 0);
}

#[test]
fn nothing_is_acknowledged_that_the_state_file_does_not_have() {
    let mut w = World::new(1);
    w.disk_full(0, true);
    let refused = w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap_err();
    assert!(refused.message.contains("cannot write the state file"), "{refused}");
    w.disk_full(0, false);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.disk_full(0, true);
    assert_eq!(w.attach(0, attach("demo", "c1")).unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(w.kernel(0).objects().len(), 0);
    w.disk_full(0, false);
    w.attach(0, attach("demo", "c1")).unwrap();
    w.disk_full(0, true);
    assert_eq!(w.detach(0, "c1").unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(w.endpoints(0)[0].state, EndpointState::Ready);
    assert!(w.remove(0, "demo").unwrap_err().message.contains("still has 1 endpoints"));
}

#[test]
fn a_restart_adopts_everything_and_writes_nothing() {
    let mut w = pair();
    let before = w.kernel(0).objects().clone();
    let operations = w.kernel(0).operations;
    w.restart(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.kernel(0).objects(), &before);
    let written = w.kernel(0).operations - operations;
    assert_eq!(written, 0, "{:?}", w.applied(0));
    assert_eq!(w.endpoints(0).len(), 2);
}

#[test]
fn both_restart_at_once_and_hear_of_endpoints_before_their_host() {
    let mut w = pair();
    let before: Vec<_> = (0..2).map(|i| w.kernel(i).objects().clone()).collect();
    let operations: Vec<_> = (0..2).map(|i| w.kernel(i).operations).collect();
    w.kill(0);
    w.kill(1);
    w.restart(0);
    // Its records go out with the host's last: for a while nothing says where
    // its endpoints are.
    w.restart(1);
    w.pass(Duration::from_secs(60));
    for i in 0..2 {
        assert_eq!(w.kernel(i).objects(), &before[i]);
        let written = w.kernel(i).operations - operations[i];
        assert_eq!(written, 0, "on {i}: {:?}", w.applied(i));
    }
}

#[test]
fn a_namespace_that_went_while_the_daemon_was_dead_takes_its_endpoint_along() {
    let mut w = pair();
    w.loses_namespaces(0);
    w.applied(0);
    w.restart(0);
    assert_eq!(w.endpoints(0).len(), 1, "c2 on b");
    assert_eq!(w.endpoints(1).len(), 1, "withdrawn at b too");
    assert!(!w.applied(0).iter().any(|op| op.contains("type veth")), "no try to make its port");
    w.attach(0, attach("demo", "c1")).unwrap();
}

#[test]
fn the_mtu_of_the_underlay_is_that_of_now() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let mut small = attach("demo", "c1");
    small.foreign.mtus.insert(IfName::new("eth0").unwrap(), 1499);
    let refused = w.attach(0, small).unwrap_err();
    assert!(refused.message.contains("1499"), "{refused}");
    let Reply::Hosts(hosts) = w.request(1, Request::Hosts).unwrap() else { panic!("hosts") };
    assert_eq!(hosts[1].host.as_ref().map(|h| h.underlay_mtu), Some(1499), "the others are told");
    let mut enough = attach("demo", "c1");
    enough.foreign.mtus.insert(IfName::new("eth0").unwrap(), 1500);
    w.attach(0, enough).unwrap();
}

#[test]
fn a_reboot_restores_networks_and_drops_endpoints() {
    let mut w = pair();
    w.reboot(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.networks(0).len(), 1);
    assert_eq!(w.kernel(0).objects().len(), 0);
    assert_eq!(w.endpoints(1).len(), 1, "withdrawn at b too");
    w.attach(0, attach("demo", "c1")).unwrap();
}

#[test]
fn while_the_view_is_partial_a_stale_entry_stays_and_then_goes() {
    let mut w = pair();
    // b dies with its records; a restarts and hears nobody.
    w.kill(1);
    w.restart(0);
    w.pass(Duration::from_secs(14));
    let stale =
        |w: &mut World| w.kernel(0).objects().keys().any(|k| matches!(k, ObjectKey::VxlanFdb(..)));
    assert!(stale(&mut w));
    w.pass(Duration::from_secs(2));
    assert!(!stale(&mut w));
}

#[test]
fn a_dead_host_keeps_its_entries_through_the_grace_and_has_them_back_at_once() {
    let mut w = pair();
    let before = w.kernel(0).objects().clone();
    w.fall_silent(1);
    w.pass(Duration::from_secs(9));
    assert_eq!(w.kernel(0).objects(), &before, "suspect and down within the grace");
    w.pass(Duration::from_secs(3));
    assert_ne!(w.kernel(0).objects(), &before);
    w.be_heard(1);
    assert_eq!(w.kernel(0).objects(), &before);
}

#[test]
fn a_host_that_leaves_takes_its_entries_along() {
    let mut w = pair();
    let refused = w.request(1, Request::Leave { force: false }).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse);
    w.request(1, Request::Leave { force: true }).unwrap();
    assert!(!w.kernel(0).objects().keys().any(|k| matches!(k, ObjectKey::VxlanFdb(..))));
    assert_eq!(w.endpoints(0).len(), 1);
}

#[test]
fn what_somebody_deletes_is_put_back_and_counted() {
    let mut w = pair();
    let all = w.kernel(0).objects().clone();
    for key in all.keys().cloned().collect::<Vec<_>>() {
        w.meddle(0, key.clone(), None);
        assert_eq!(w.kernel(0).objects(), &all, "{key:?} was not put back");
    }
    let Reply::Status(status) = w.request(0, Request::Status).unwrap() else { panic!("a status") };
    assert!(status.counters["kernel_repairs"] >= all.len() as u64);
    assert_eq!(status.desired_revision, status.applied_revision);
}

#[test]
fn a_vxlan_device_of_another_with_our_vni_is_named() {
    let mut w = World::new(1);
    let mut request = create("demo", 7, "10.9.0.0/24");
    request.foreign.vxlans.push(overlay_model::ForeignVxlan {
        name: IfName::new("flannel.7").unwrap(),
        vni: Some(vni(7)),
        port: 4789,
        netns: None,
    });
    let refused = w.create(0, request.clone()).unwrap_err();
    assert_eq!(
        refused.message,
        "VNI 7 is taken on this host by the VXLAN device flannel.7 (UDP port 4789)"
    );
    request.foreign.vxlans[0].port = 8472;
    w.create(0, request).unwrap();
}

#[test]
fn wrong_networks_are_refused_with_what_to_do() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let mut routed = create("r", 8, "10.8.0.0/24");
    routed.foreign.routes.push(("10.0.0.0/8".parse().unwrap(), IfName::new("tun0").unwrap()));
    let mut stray = create("g", 9, "10.7.0.0/24");
    stray.gateways = vec!["10.6.0.1".parse().unwrap()];
    let mut small = create("m", 9, "10.7.0.0/24");
    small.mtu = Some(1000);
    let cases = [
        (
            create("demo", 9, "10.7.0.0/24"),
            "the name demo is taken by network 0000000000000001 (VNI 7)",
        ),
        (create("x", 7, "10.7.0.0/24"), "VNI 7 is taken by network demo"),
        (create("x", 9, "10.9.0.128/25"), "10.9.0.128/25 overlaps 10.9.0.0/24 of network demo"),
        (create("x", 9, "10.9.0.0/24"), "10.9.0.0/24 overlaps 10.9.0.0/24 of network demo"),
        (create("x", 9, "10.7.0.5/24"), "10.7.0.5/24 has host bits set"),
        (create("x", 9, "10.7.0.0/31"), "the prefix length of 10.7.0.0/31 is out of range"),
        (create("x", 9, "127.0.0.0/8"), "127.0.0.0/8 is not a range for stations"),
        (routed, "10.8.0.0/24 overlaps this host's route 10.0.0.0/8 dev tun0"),
        (stray, "the gateway 10.6.0.1 is in no subnet of the network"),
        (small, "an MTU of 1000 is out of range"),
    ];
    for (request, message) in cases {
        assert_eq!(w.create(0, request).unwrap_err().message, message);
    }
    assert_eq!(w.networks(0).len(), 1);
}

#[test]
fn wrong_attachments_are_refused_with_what_to_do() {
    let mut w = pair();
    let with = |f: fn(&mut crate::Attach)| {
        let mut request = attach("demo", "c9");
        f(&mut request);
        request
    };
    let cases = [
        (attach("nope", "c9"), "no network `nope`"),
        (
            with(|a| a.ips = vec!["10.8.0.5".parse().unwrap()]),
            "10.8.0.5 is outside network demo (10.9.0.0/24)",
        ),
        (
            with(|a| a.ips = vec!["10.9.0.1".parse().unwrap()]),
            "10.9.0.1 is the gateway of network demo",
        ),
        (
            with(|a| a.ips = vec!["10.9.0.255".parse().unwrap()]),
            "10.9.0.255 is the network or broadcast address of 10.9.0.0/24",
        ),
        (
            with(|a| a.ips = vec!["10.9.0.2".parse().unwrap()]),
            "10.9.0.2 is taken by endpoint c1 on host h0",
        ),
        (
            with(|a| a.ips = vec!["10.9.0.129".parse().unwrap()]),
            "10.9.0.129 is taken by endpoint c2 on host h1",
        ),
        (
            with(|a| a.mac = Some("01:00:5e:00:00:01".parse().unwrap())),
            "01:00:5e:00:00:01 is not the address of one station",
        ),
        (
            with(|a| a.mac = Some("02:42:0a:09:00:02".parse().unwrap())),
            "02:42:0a:09:00:02 is taken by endpoint c1 on host h0",
        ),
        (
            with(|a| a.name = Some("c2".parse().unwrap())),
            "the name c2 is taken by endpoint c2 on host h1",
        ),
        (
            with(|a| {
                let Where::Netns { ifname, .. } = &mut a.place else { panic!("a namespace") };
                *ifname = Some(IfName::new("lo").unwrap());
            }),
            "an interface lo exists in /run/netns/c9",
        ),
        (
            with(|a| {
                a.labels.insert("k".into(), "v".repeat(500));
            }),
            "the labels have 501 bytes together; at most 400 are carried",
        ),
    ];
    let before = w.kernel(0).objects().clone();
    for (request, message) in cases {
        assert_eq!(w.attach(0, request).unwrap_err().message, message);
    }
    assert_eq!(w.kernel(0).objects(), &before);
}

#[test]
fn an_underlay_that_is_too_small_is_refused_with_both_figures() {
    let mut w = World::new(1);
    let mut jumbo = create("jumbo", 7, "10.9.0.0/24");
    jumbo.mtu = Some(8950);
    w.create(0, jumbo).unwrap();
    let refused = w.attach(0, attach("jumbo", "c1")).unwrap_err();
    assert_eq!(
        refused.message,
        "an MTU of 8950 needs an underlay MTU of 9000 (8950 + 50 for VXLAN), but the underlay \
         has 1500 (eth0, 192.0.2.1)"
    );
    assert_eq!(
        refused.hint.unwrap(),
        "raise the MTU of eth0 to 9000, or make a network with --mtu 1450"
    );
}

#[test]
fn two_networks_of_one_vni_from_a_partition_are_one_that_works_and_one_that_says_why_not() {
    let mut w = World::new(2);
    w.partition(true);
    w.create(0, create("left", 7, "10.1.0.0/24")).unwrap();
    w.pass(Duration::from_millis(10));
    w.create(1, create("right", 7, "10.2.0.0/24")).unwrap();
    w.attach(1, attach("right", "c2")).unwrap();
    assert!(w.kernel(1).objects().contains_key(&ObjectKey::Link(vni(7).vxlan())));
    w.partition(false);
    for host in [0, 1] {
        let views = w.networks(host);
        assert_eq!(views[0].conflict, None);
        assert!(views[1].conflict.as_ref().unwrap().starts_with("VNI 7 is held by"), "{host}");
    }
    assert!(!w.kernel(1).objects().contains_key(&ObjectKey::Link(vni(7).vxlan())));
    w.attach(1, attach("left", "c3")).unwrap();
    let veths = |w: &mut World| w.kernel(1).objects().len();
    assert!(veths(&mut w) > 0);
}

#[test]
fn the_loss_of_its_creator_loses_no_network() {
    let mut w = World::new(3);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.kill(0);
    w.wipe(1);
    assert_eq!(w.networks(1).len(), 1, "host 2 keeps it");
}

#[test]
fn entries_show_desired_beside_kernel() {
    let mut w = pair();
    let tables = vec![Table::Vxlan, Table::Flood, Table::Neigh];
    let Reply::Entries(entries) = w.request(0, Request::Entries { tables, net: None }).unwrap()
    else {
        panic!("entries")
    };
    let text: String = entries
        .iter()
        .map(|e| format!("{} {} {:?} {:?} {:?}\n", e.dev, e.key, e.desired, e.kernel, e.host))
        .collect();
    expect![[r#"
        ovx7 192.0.2.2 Some("192.0.2.2") Some("192.0.2.2") Some("h1")
        ovx7 02:42:0a:09:00:81 Some("192.0.2.2") Some("192.0.2.2") Some("h1")
        ovb7 10.9.0.2 Some("02:42:0a:09:00:02") Some("02:42:0a:09:00:02") Some("h0")
        ovb7 10.9.0.129 Some("02:42:0a:09:00:81") Some("02:42:0a:09:00:81") Some("h1")
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_report_of_an_old_plan_updates_nothing() {
    let mut w = pair();
    let now = w.now();
    let report = overlay_model::ApplyReport::default();
    let effects = w.engine(0).step(Event::Applied { plan: 1, report }, now);
    assert_eq!(effects, Vec::<Effect>::new());
}

#[test]
fn foreign_changes_are_no_business_of_ours() {
    let mut w = pair();
    let now = w.now();
    // The kernel crate tells only of what is ours; a snapshot with foreign
    // devices in it plans nothing.
    let mut state = w.kernel(0).read();
    state.foreign.squatters.insert(vni(9).bridge());
    let event = Event::Kernel(KernelChange::Snapshot(Box::new(state)));
    let effects = w.engine(0).step(event, now);
    assert_eq!(effects, Vec::<Effect>::new());
}

const VM: &str = "52:54:00:00:00:01";

#[test]
fn a_static_endpoint_makes_the_network_and_no_port() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w.applied(1);
    let view = w.attach_at(0, add("demo", VM, "10.9.0.77")).unwrap();
    assert_eq!((view.state, view.place), (EndpointState::Ready, Some(Place::Static)));
    check(
        &w.applied(1),
        expect![[r#"
            bridge fdb append 00:00:00:00:00:00 dev ovx7 dst 192.0.2.1 self permanent
            bridge fdb replace 52:54:00:00:00:01 dev ovx7 dst 192.0.2.1 self permanent
            bridge fdb replace 52:54:00:00:00:01 dev ovx7 master static extern_learn
            ip neigh replace 10.9.0.77 lladdr 52:54:00:00:00:01 dev ovb7 nud permanent extern_learn
        "#]],
    );
    let ops = w.applied(0);
    assert!(ops.iter().any(|op| op.starts_with("ip link add ovx7")), "{ops:#?}");
    assert!(ops.iter().any(|op| op.starts_with("ip neigh replace 10.9.0.77")), "{ops:#?}");
    assert!(!ops.iter().any(|op| op.contains(VM) && op.starts_with("bridge fdb")), "{ops:#?}");

    // A reboot is nothing to it, unlike to a container.
    w.reboot(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.endpoints(1).len(), 2);
    w.assert_kernels_match_the_cluster();
    w.detach(0, VM).unwrap();
    assert_eq!(w.kernel(0).objects().len(), 0);
}

#[test]
fn a_device_is_taken_in_and_given_back_as_it_was() {
    let mut w = pair();
    w.applied(0);
    let view = w.plug(0, plug("demo", "tap0", 9, VM)).unwrap();
    assert_eq!(view.state, EndpointState::Ready);
    check(
        &w.applied(0),
        expect![[r#"
            nft add element bridge overlayd # tap0: 52:54:00:00:00:01 10.9.0.3
            ip link property add dev tap0 altname ove000000000004-was-down && ip link set tap0 master ovb7 up && bridge link set dev tap0 learning off neigh_suppress off
            bridge fdb replace 52:54:00:00:00:01 dev tap0 master static
            ip neigh replace 10.9.0.3 lladdr 52:54:00:00:00:01 dev ovb7 nud permanent extern_learn
        "#]],
    );
    let twice = w.plug(0, plug("demo", "tap0", 9, "52:54:00:00:00:02")).unwrap_err();
    assert!(twice.message.starts_with("tap0 is attached already, as endpoint"), "{twice}");
    w.restart(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.applied(0), Vec::<String>::new(), "it is adopted");
    w.detach(0, VM).unwrap();
    check(
        &w.applied(0),
        expect![[r#"
            ip neigh del 10.9.0.3 dev ovb7
            ip link set tap0 nomaster down && ip link property del dev tap0 altname ove000000000004-was-down
            nft delete element bridge overlayd # tap0: 52:54:00:00:00:01 10.9.0.3
        "#]],
    );
    w.assert_kernels_match_the_cluster();
}

#[test]
fn a_device_that_goes_takes_its_endpoint_along_and_another_of_its_name_is_another() {
    let mut w = pair();
    w.plug(0, plug("demo", "tap0", 9, VM)).unwrap();
    w.unplug(0, "tap0");
    w.pass(Duration::from_secs(1));
    assert_eq!(w.endpoints(1).len(), 2, "withdrawn everywhere");
    w.plug(0, plug("demo", "tap0", 10, VM)).unwrap();
    w.loses_namespaces(0);
    w.kernel(0).devices.insert(IfName::new("tap0").unwrap(), 11);
    w.restart(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.endpoints(1).len(), 1, "c2 on b");
    assert!(!w.kernel(0).objects().contains_key(&ObjectKey::Port(IfName::new("tap0").unwrap())));
}

#[test]
fn a_port_that_a_crash_left_is_given_back_or_attached_anew() {
    let mut w = pair();
    // In the kernel, and then the daemon dies before its state file knows.
    w.plug(0, plug("demo", "tap0", 9, VM)).unwrap();
    let key = ObjectKey::Port(IfName::new("tap0").unwrap());
    let left = w.kernel(0).objects()[&key].clone();
    w.detach(0, VM).unwrap();
    w.meddle(0, key.clone(), Some(left.clone()));
    assert!(!w.kernel(0).objects().contains_key(&key), "given back");

    // While the view is partial it stays; another attach of it replaces it, and
    // knows still that the device was down.
    w.kernel(0).meddle(key.clone(), Some(left));
    w.restart(0);
    assert!(w.kernel(0).objects().contains_key(&key));
    w.applied(0);
    let mut again = plug("demo", "tap0", 9, VM);
    let dev = again.foreign.devices.values_mut().next().unwrap();
    (dev.up, dev.master) = (true, Some("ovb7".into()));
    let view = w.plug(0, again).unwrap();
    let (was, is) = ("ove000000000004-was-down", format!("ove{}-was-down", view.endpoint.id));
    let ops = w.applied(0);
    assert_eq!(
        ops[1..3],
        [
            format!(
                "ip link set tap0 nomaster down && ip link property del dev tap0 altname {was}"
            ),
            format!(
                "ip link property add dev tap0 altname {is} && ip link set tap0 master ovb7 up && \
                 bridge link set dev tap0 learning off neigh_suppress off"
            ),
        ]
    );
    w.assert_kernels_match_the_cluster();
}

#[test]
fn an_import_is_one_write_and_all_or_nothing() {
    let mut w = pair();
    let writes = w.writes(0);
    let three = [
        ("02:aa:00:00:00:01", "10.9.0.11"),
        ("02:aa:00:00:00:02", "10.9.0.12"),
        ("02:aa:00:00:00:03", "10.9.0.13"),
    ];
    assert_eq!(w.import(0, list("demo", false, &three)), Ok([3, 0, 0, 0]));
    assert_eq!(w.writes(0), writes + 1);
    w.assert_kernels_match_the_cluster();
    assert_eq!(w.endpoints(1).len(), 5);

    let before = (w.endpoints(0), w.kernel(0).objects().clone());
    let wrong = [
        ("02:aa:00:00:00:04", "10.9.0.14"),
        ("02:aa:00:00:00:04", "10.9.0.15"),
        ("02:aa:00:00:00:05", "10.9.0.14"),
        ("02:aa:00:00:00:01", "10.9.0.16"),
        ("02:aa:00:00:00:06", "10.9.0.2"),
        ("02:aa:00:00:00:07", ""),
        ("02:aa:00:00:00:08", "10.9.0.17,10.9.0.18"),
    ];
    let refused = w.import(0, list("demo", false, &wrong)).unwrap_err();
    let details: String = refused
        .details
        .iter()
        .map(|d| format!("{} {:?} {}\n", d.index, d.also, d.message))
        .collect();
    expect![[r#"
        6 of 7 endpoints are wrong, so none was taken in
        1 Some(0) 02:aa:00:00:00:04 is given twice
        2 Some(0) 10.9.0.14 is given twice
        3 None 02:aa:00:00:00:01 is taken by endpoint 000000000004 on host h0
        4 None 10.9.0.2 is taken by endpoint c1 on host h0
        5 None 02:aa:00:00:00:07 has no address
        6 None 10.9.0.18 is the second address of its family
    "#]]
    .assert_eq(&format!("{refused}\n{details}"));
    w.disk_full(0, true);
    let fine = list("demo", false, &[("02:aa:00:00:00:09", "10.9.0.19")]);
    assert_eq!(w.import(0, fine.clone()).unwrap_err().kind, ErrorKind::Unavailable);
    w.disk_full(0, false);
    assert_eq!((w.endpoints(0), w.kernel(0).objects().clone()), before);
    assert_eq!(w.import(0, fine), Ok([1, 0, 0, 0]), "its address was given back");
}

#[test]
fn replace_makes_the_list_the_truth_of_static_endpoints_and_of_nothing_else() {
    let mut w = pair();
    let (one, two, three) = ("02:aa:00:00:00:01", "02:aa:00:00:00:02", "02:aa:00:00:00:03");
    let first = [(one, "10.9.0.11"), (two, "10.9.0.12"), (three, "10.9.0.13")];
    w.import(0, list("demo", true, &first)).unwrap();
    w.plug(0, plug("demo", "tap0", 9, VM)).unwrap();
    // Two swap their addresses, which no moment of is a conflict.
    let swapped = [(one, "10.9.0.12"), (two, "10.9.0.11"), (three, "10.9.0.13")];
    assert_eq!(w.import(0, list("demo", true, &swapped)), Ok([0, 2, 0, 1]));
    assert_eq!(w.import(0, list("demo", true, &swapped)), Ok([0, 0, 0, 3]));
    w.assert_kernels_match_the_cluster();
    let ip_of = |w: &mut World, mac: &str| {
        let views = w.endpoints(1);
        let view = views.iter().find(|v| v.endpoint.mac.to_string() == mac);
        view.map(|v| v.ips[0].addr().to_string())
    };
    assert_eq!(ip_of(&mut w, one).as_deref(), Some("10.9.0.12"));
    assert_eq!(w.import(0, list("demo", true, &[(two, "10.9.0.14")])), Ok([0, 1, 2, 0]));
    assert_eq!(ip_of(&mut w, one), None);
    assert_eq!(w.endpoints(1).len(), 4, "c1, c2, the VM, and the one that is left");
    // What was freed can be had again, what was kept cannot.
    w.attach_at(0, add("demo", one, "10.9.0.11")).unwrap();
    let kept = w.attach_at(0, add("demo", three, "10.9.0.14")).unwrap_err();
    assert_eq!(kept.kind, ErrorKind::Taken);
    w.disk_full(0, true);
    w.import(0, list("demo", true, &[])).unwrap_err();
    w.disk_full(0, false);
    assert_eq!(w.endpoints(1).len(), 5, "nothing has changed");
    assert_eq!(w.import(0, list("demo", true, &[])), Ok([0, 0, 2, 0]));
    w.assert_kernels_match_the_cluster();
}

#[test]
fn an_import_into_a_network_that_is_not_here_yet_brings_it_or_leaves_nothing() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let two = [("02:aa:00:00:00:01", "10.9.0.11"), ("02:aa:00:00:00:02", "10.9.0.12")];
    w.refuse(0, ObjectKey::Link(vni(7).vxlan()), Some(Refusal::Taken));
    let refused = w.import(0, list("demo", false, &two)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert_eq!(w.kernel(0).objects().len(), 0, "{:?}", w.kernel(0).objects());
    assert_eq!(w.endpoints(0), vec![]);
    w.refuse(0, ObjectKey::Link(vni(7).vxlan()), None);
    assert_eq!(w.import(0, list("demo", false, &two)), Ok([2, 0, 0, 0]));
    assert_eq!(w.endpoints(1).len(), 2);
    w.restart(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.endpoints(1).len(), 2);
    w.assert_kernels_match_the_cluster();
}

#[test]
fn an_import_gets_addresses_of_another_host_by_halves_and_leaves_those_that_run() {
    let mut w = pair();
    // b owns 10.9.0.129 and all above, which c2 has.
    let many: Vec<(String, String)> = (0..100)
        .map(|n| (format!("02:aa:00:00:00:{n:02x}"), format!("10.9.0.{}", 140 + n)))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(m, i)| (m.as_str(), i.as_str())).collect();
    assert_eq!(w.import(0, list("demo", false, &many)), Ok([100, 0, 0, 0]));
    w.assert_no_address_twice();
    w.assert_kernels_match_the_cluster();
    w.attach(1, attach("demo", "c3")).unwrap();
    // One that b has leased it does not give, whatever else it gives.
    let taken = w.attach_at(1, add("demo", VM, "10.9.0.131")).unwrap();
    assert_eq!(taken.state, EndpointState::Ready);
    w.partition(true);
    let lost = w.import(0, list("demo", false, &[("02:bb:00:00:00:01", "10.9.0.131")]));
    let lost = lost.unwrap_err();
    assert!(lost.kind == ErrorKind::Taken || lost.kind == ErrorKind::Unavailable, "{lost}");
    w.partition(false);
    w.kill(1);
    w.pass(Duration::from_secs(60));
    let gone =
        w.import(0, list("demo", false, &[("02:bb:00:00:00:02", "10.9.0.131")])).unwrap_err();
    assert_eq!(
        gone.message,
        "10.9.0.131 of the addresses belong to host h1, which cannot be reached"
    );
    w.assert_no_address_twice();
}

#[test]
fn a_gift_of_addresses_that_comes_in_pieces_is_waited_for() {
    let mut w = pair();
    w.reverse();
    let one = |n: u8| (format!("02:aa:00:00:00:{n:02x}"), format!("10.9.0.{n}"));
    let (mac, ip) = one(150);
    assert_eq!(w.import(0, list("demo", false, &[(&mac, &ip)])), Ok([1, 0, 0, 0]));
    let (mac, ip) = one(160);
    w.attach_at(0, add("demo", &mac, &ip)).unwrap();
    let many: Vec<_> = (180..250).map(one).collect();
    let many: Vec<_> = many.iter().map(|(m, i)| (m.as_str(), i.as_str())).collect();
    assert_eq!(w.import(0, list("demo", false, &many)), Ok([70, 0, 0, 0]));
    w.assert_no_address_twice();
    w.assert_kernels_match_the_cluster();
}

#[test]
fn a_conflict_with_one_of_many_is_found_and_told() {
    let mut w = pair();
    w.partition(true);
    w.attach_at(0, add("demo", VM, "10.9.0.50")).unwrap();
    w.attach_at(1, add("demo", VM, "10.9.0.150")).unwrap();
    w.partition(false);
    // The lower host wins on both; the other one shows why not.
    let states: Vec<_> = w.endpoints(1).into_iter().map(|v| v.state).collect();
    let lost = states.iter().filter(|s| matches!(s, EndpointState::Conflict(_))).count();
    assert_eq!(lost, 1, "{states:?}");
    let notice = Notice::EndpointConflict {
        what: VM.into(),
        loser: overlay_model::EndpointId::from_bits(5),
        winner: "h0".into(),
    };
    assert!(w.notices(1).contains(&notice), "{:?}", w.notices(1));
}

#[test]
fn a_clock_of_the_far_future_poisons_no_stamp_but_its_own_and_that_can_be_written_over() {
    let mut w = World::new(2);
    let year = 365 * 24;
    w.clock_jumps(0, 50 * year);
    let odd = w.create(0, create("odd", 7, "10.7.0.0/24")).unwrap().network;
    w.clock_jumps(0, -50 * year);
    let mut stamps = Vec::new();
    for (i, name) in [(0, "n8"), (1, "n9")] {
        let vni = 8 + i as u32;
        let net = w.create(i, create(name, vni, &format!("10.{vni}.0.0/24"))).unwrap().network;
        stamps.push(net.created.wall_ms);
    }
    let now = w.now().wall_ms;
    assert!(stamps.iter().all(|ms| ms.abs_diff(now) < 60_000), "{stamps:?} around {now}");
    assert!(odd.updated.wall_ms > now + 1_000_000_000, "{odd:?}");
    // Whoever removes it, with the right time, is later.
    w.remove(1, "odd").unwrap();
    assert!(w.networks(0).iter().all(|v| v.network.name.as_str() != "odd"));
    w.restart(0);
    w.pass(Duration::from_secs(20));
    assert_eq!(w.networks(0).len(), 2, "a restart does not bring it back");
}

#[test]
fn a_clock_that_is_slow_by_hours_still_follows_and_overwrites() {
    let mut w = World::new(2);
    w.clock_jumps(1, -10);
    let fast = w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap().network;
    let slow = w.create(1, create("other", 8, "10.8.0.0/24")).unwrap().network;
    assert!(slow.created > fast.created, "what was seen is before what follows");
    w.remove(1, "demo").unwrap();
    assert_eq!(w.networks(0).len(), 1);
}

#[test]
fn an_underlay_that_moves_changes_devices_in_place_and_peers_follow() {
    let mut w = pair();
    w.applied(0);
    let now = w.now();
    let addr = "192.0.2.77".parse().unwrap();
    let dev = IfName::new("eth1").unwrap();
    let gossip = ([192, 0, 2, 77], 7946).into();
    let effects =
        w.engine(0).step(Event::Underlay { addr, other: None, dev, mtu: 1480, gossip }, now);
    let mut told = Vec::new();
    for effect in effects {
        match effect {
            Effect::Apply { ops, .. } => told.extend(ops.iter().map(ToString::to_string)),
            Effect::Notice(notice) => told.push(notice.to_string()),
            Effect::Publish(records) => told.extend(records.iter().map(|(key, _)| key.to_string())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        told,
        [
            "the underlay moved from 192.0.2.1 to 192.0.2.77 on eth1, MTU 1480",
            "ip link set ovx7 type vxlan local 192.0.2.77",
            "host",
        ]
    );
}

/// A v4-only, a v6-only and a dual host, a network, c0 to c2 on them.
fn mixed() -> World {
    let mut w = World::of_families(&["4", "6", "46"]);
    let demo = CreateNetwork { mtu: Some(1430), ..create("demo", 7, "10.9.0.0/24") };
    w.create(0, demo).unwrap();
    for i in 0..3 {
        w.attach(i, attach("demo", &format!("c{i}"))).unwrap();
    }
    w
}

#[test]
fn each_pair_of_hosts_uses_one_family_ipv4_before_ipv6_and_a_device_of_it() {
    let mut w = mixed();
    w.assert_kernels_match_the_cluster();
    w.applied(2);
    w.restart(2);
    w.pass(Duration::from_secs(20));
    assert_eq!(w.applied(2), Vec::<String>::new(), "it is at rest");
    w.reboot(2);
    w.pass(Duration::from_secs(20));
    w.applied(2);
    w.attach(2, attach("demo", "c2")).unwrap();
    let ops: Vec<String> = w.applied(2).into_iter().filter(|op| op.contains("ovx")).collect();
    check(
        &ops,
        expect![[r#"
            ip link add ovx7 address 06:7d:bd:5c:c8:59 mtu 1430 master ovb7 addrgenmode none alias overlayd:0000000000000001 up type vxlan id 7 dstport 4789 local 192.0.2.3 nolearning && bridge link set dev ovx7 learning off neigh_suppress on isolated on
            ip link add ovx7-6 address 06:a8:c4:a8:79:6d mtu 1430 master ovb7 addrgenmode none alias overlayd:0000000000000001 up type vxlan id 7 dstport 4789 local 2001:db8::3 nolearning && bridge link set dev ovx7-6 learning off neigh_suppress on isolated on
            bridge fdb append 00:00:00:00:00:00 dev ovx7 dst 192.0.2.1 self permanent
            bridge fdb append 00:00:00:00:00:00 dev ovx7-6 dst 2001:db8::2 self permanent
            bridge fdb replace 02:42:0a:09:00:02 dev ovx7 dst 192.0.2.1 self permanent
            bridge fdb replace 02:42:0a:09:00:81 dev ovx7-6 dst 2001:db8::2 self permanent
            bridge fdb replace 02:42:0a:09:00:02 dev ovx7 master static extern_learn
            bridge fdb replace 02:42:0a:09:00:81 dev ovx7-6 master static extern_learn
        "#]],
    );
}

#[test]
fn two_hosts_with_both_families_use_ipv4() {
    let mut w = World::of_families(&["46", "46"]);
    let demo = CreateNetwork { mtu: Some(1430), ..create("demo", 7, "10.9.0.0/24") };
    w.create(0, demo).unwrap();
    w.attach(0, attach("demo", "c0")).unwrap();
    w.attach(1, attach("demo", "c1")).unwrap();
    w.assert_kernels_match_the_cluster();
    let fdb = |w: &mut World| {
        let entries = w.kernel(0).objects().iter();
        let found = entries.filter_map(|(key, object)| match (key, object) {
            (ObjectKey::VxlanFdb(dev, _), Object::VxlanFdb { dst }) => Some(format!("{dev} {dst}")),
            _ => None,
        });
        found.collect::<Vec<_>>()
    };
    assert_eq!(fdb(&mut w), ["ovx7 192.0.2.2"]);
    // One of them loses that address: both go on by the other.
    w.has_families(1, "6");
    assert_eq!(fdb(&mut w), ["ovx7-6 2001:db8::2"]);
    let Reply::Status(status) = w.request(1, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(
        status.warnings,
        [
            "the IPv4 VTEP address of this host is gone: 2001:db8::2 is used for all hosts, and those \
          with IPv4 only are out of reach"
        ]
    );
    w.assert_kernels_match_the_cluster();
    assert!(!w.kernel(1).objects().contains_key(&ObjectKey::Link(vni(7).vxlan())), "of no use");
    w.has_families(1, "46");
    assert_eq!(fdb(&mut w), ["ovx7 192.0.2.2"]);
    w.assert_kernels_match_the_cluster();
}

#[test]
fn hosts_without_a_family_in_common_are_named_wherever_one_looks() {
    let mut w = mixed();
    let why = "no address family in common: it has VTEP addresses of IPv6 only (2001:db8::2), \
               this host VTEP addresses of IPv4 only (192.0.2.1); give one of the two the other \
               family as well (--vtep-ip, twice)";
    let told = |w: &World| {
        let notices = w.notices(0).iter().filter(|n| matches!(n, Notice::Apart { .. }));
        notices.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(&w), [format!("host h1 and this one cannot reach each other: {why}")]);
    let Reply::Status(status) = w.request(0, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(status.warnings, [format!("host h1 cannot be reached: {why}")]);
    let Reply::Hosts(hosts) = w.request(0, Request::Hosts).unwrap() else { panic!("hosts") };
    let notes: Vec<_> = hosts.iter().flat_map(|host| &host.notes).collect();
    let note = "no address family in common with this host";
    assert_eq!(notes, [note]);
    let states: Vec<_> = w.endpoints(0).into_iter().map(|v| (v.host, v.state, v.vtep)).collect();
    assert_eq!(states[0].1, EndpointState::Ready);
    assert_eq!(
        states[1],
        ("h1".into(), EndpointState::Unreachable(format!("its host has {note}")), None)
    );
    assert_eq!(states[2].2, "192.0.2.3".parse().ok());
    let neighbours = w.kernel(0).objects().keys().filter(|k| matches!(k, ObjectKey::Neigh(..)));
    assert_eq!(neighbours.count(), 2, "nobody answers for whom nobody reaches");

    w.restart_with(1, "46");
    w.pass(Duration::from_secs(20));
    assert_eq!(told(&w)[1..], ["host h1 and this one have an address family in common now"]);
    w.assert_kernels_match_the_cluster();
}

/// h0 made the network and owns its addresses; h1 gossips with it through h2.
#[test]
fn an_owner_that_no_way_leads_to_has_longer_to_answer_and_is_asked_last() {
    let mut w = mixed();
    let [h0, h2] = [0, 2].map(|i| w.engine(i).config.host);
    let now = w.now().mono;
    let time = |w: &mut World, owner| w.engine(1).answer_due(owner) - now;
    assert_eq!(time(&mut w, h2), Duration::from_millis(700));
    assert_eq!(time(&mut w, h0), Duration::from_secs(4));
    assert_eq!(w.engine(1).nearest_first([h0, h2].into_iter()), [h2, h0]);
}

#[test]
fn a_restart_with_other_families_moves_devices_and_leaves_none_behind() {
    let mut w = mixed();
    for families in ["46", "4", "6", "46", "6"] {
        w.restart_with(0, families);
        w.pass(Duration::from_secs(2));
        w.assert_kernels_match_the_cluster();
        let vxlans =
            w.kernel(0).objects().keys().filter(
                |key| matches!(key, ObjectKey::Link(name) if name.as_str().starts_with("ovx")),
            );
        assert_eq!(vxlans.count(), families.len(), "before anybody's silence was waited for");
        w.pass(Duration::from_secs(20));
        w.assert_kernels_match_the_cluster();
    }
}

#[test]
fn a_network_too_large_for_the_header_of_a_pair_is_told_with_its_figures() {
    let mut w = World::of_families(&["4", "6", "46"]);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    assert_eq!(w.networks(0)[0].network.mtu, 1430, "one host has IPv6 alone");
    let large = CreateNetwork { mtu: Some(1450), ..create("large", 8, "10.8.0.0/24") };
    w.create(0, large).unwrap();
    let refused = w.attach(1, attach("large", "c1")).unwrap_err();
    assert_eq!(
        refused.message,
        "an MTU of 1450 needs an underlay MTU of 1520 (1450 + 70 for VXLAN), but the underlay has \
         1500 (eth0, 2001:db8::2)"
    );
    w.attach(2, attach("large", "c2")).unwrap();
    let Reply::Status(status) = w.request(2, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(status.warnings, Vec::<String>::new(), "nobody on it needs the larger header");
    // The other end has room, this one has not.
    let mut wide = attach("large", "c1");
    wide.foreign.mtus.insert(IfName::new("eth0").unwrap(), 9000);
    w.attach(1, wide).unwrap();
    let Reply::Status(status) = w.request(2, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(
        status.warnings,
        ["network large to host h1 (2001:db8::2): an MTU of 1450 needs an underlay MTU of 1520 \
          (1450 + 70 for VXLAN), but the underlay has 1500"]
    );
}

#[test]
fn what_is_detached_before_others_were_heard_goes_from_the_kernel_at_once() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.pass(Duration::from_secs(20));
    let id = w.attach(0, attach("demo", "c1")).unwrap().endpoint.id;
    w.attach(0, attach("demo", "c2")).unwrap();
    w.partition(true);
    let link = ObjectKey::Link(id.ifname());
    w.restart_unread(0);
    assert!(w.kernel(0).objects().contains_key(&link));
    let detach = Request::DetachAtOnce { target: "c1".into(), net: None };
    w.request(0, detach).unwrap();
    w.kernel_is_read(0);
    assert!(!w.kernel(0).objects().contains_key(&link), "the view is not complete");
}

#[test]
fn a_vni_that_is_chosen_is_free_on_all_hosts_and_in_the_kernel() {
    let mut w = World::new(2);
    let unsaid = |name: &str, cidr: &str| CreateNetwork { vni: None, ..create(name, 1, cidr) };
    let first = w.create(0, unsaid("a", "10.1.0.0/24")).unwrap().network.vni;
    let next = Vni::new(first.get() + 1).unwrap();
    // The other host has heard of the first, and its kernel holds the next.
    let held = overlay_model::ForeignVxlan {
        name: IfName::new("vxlan7").unwrap(),
        vni: Some(next),
        port: 4789,
        netns: None,
    };
    let mut request = unsaid("b", "10.2.0.0/24");
    request.foreign.vxlans.push(held);
    let chosen = w.create(1, request).unwrap().network.vni;
    assert_eq!(chosen.get(), first.get() + 2);
    // A deleted one is free again.
    w.remove(0, "a").unwrap();
    assert_eq!(w.create(0, unsaid("c", "10.3.0.0/24")).unwrap().network.vni, first);
}

#[test]
fn subnets_that_are_chosen_are_free_and_of_ipv6_unique_local_ones() {
    let mut w = World::new(2);
    let ask = |name: &str, vni: u32, free: &[Family], subnets: &[&str]| CreateNetwork {
        free: free.to_vec(),
        subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
        ..CreateNetwork { subnets: vec![], ..create(name, vni, "10.0.0.0/24") }
    };
    let mut cidrs = |create: CreateNetwork| {
        let view = w.create(0, create).unwrap();
        let subnets = view.network.subnets.iter();
        subnets.map(|s| format!("{} {}", s.cidr, s.gateway)).collect::<Vec<_>>()
    };
    assert_eq!(
        cidrs(ask("none", 7, &[], &[])),
        ["10.0.7.0/24 10.0.7.1"],
        "IPv4 if nothing is said"
    );
    let six = cidrs(ask("six", 8, &[Family::V6], &[]));
    assert_eq!(six, ["fd99:ca0b:ed35:8::/64 fd99:ca0b:ed35:8::1"], "IPv6 alone");
    let both = cidrs(ask("both", 9, &[Family::V6, Family::V4], &[]));
    assert_eq!(both[0], "10.0.9.0/24 10.0.9.1");
    assert!(both[1].starts_with("fd") && both[1].contains(":9::/64"), "{both:?}");
    assert_ne!(both[1][..14], six[0][..14], "each with random bits of its own");
    let given = cidrs(ask("given", 10, &[Family::V6], &["10.77.0.0/24"]));
    assert_eq!(given[0], "10.77.0.0/24 10.77.0.1");
    assert!(given[1].starts_with("fd"), "{given:?}");
    let twice = ask("twice", 11, &[Family::V6], &["fd00:1::/64"]);
    let refused = w.create(0, twice).unwrap_err();
    assert!(refused.message.contains("second subnet of its family"), "{refused}");
}

#[derive(Debug, Clone)]
enum Op {
    Static(usize, u32, u8),
    Import(usize, u32, bool, Vec<u8>),
    Plug(usize, u32, u8),
    Unplug(usize, u8),
    Create(usize, u32),
    Remove(usize, u32),
    Attach(usize, u32, u8),
    Detach(usize, u8),
    TakeOver(usize, usize, u8),
    Reboot(usize),
    Restart(usize),
    Silent(usize),
    Heard(usize),
    Partition(bool),
    Deaf(usize, usize),
    Chain(usize),
    Heal,
    ClockJumps(usize, i64),
    Meddle(usize, usize),
    Check(usize, usize),
    Families(usize, &'static str),
    Pass(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let h = 0usize..3;
    prop_oneof![
        2 => (h.clone(), 1u32..4).prop_map(|(h, v)| Op::Create(h, v)),
        1 => (h.clone(), 1u32..4).prop_map(|(h, v)| Op::Remove(h, v)),
        6 => (h.clone(), 1u32..4, 0u8..6).prop_map(|(h, v, c)| Op::Attach(h, v, c)),
        3 => (h.clone(), 0u8..6).prop_map(|(h, c)| Op::Detach(h, c)),
        4 => (h.clone(), any::<usize>(), 0u8..6).prop_map(|(h, n, how)| Op::TakeOver(h, n, how)),
        1 => h.clone().prop_map(Op::Reboot),
        2 => (h.clone(), 1u32..4, 0u8..6).prop_map(|(h, v, c)| Op::Static(h, v, c)),
        2 => (h.clone(), 1u32..4, any::<bool>(), prop::collection::vec(0u8..12, 0..6))
            .prop_map(|(h, v, replace, all)| Op::Import(h, v, replace, all)),
        2 => (h.clone(), 1u32..4, 0u8..2).prop_map(|(h, v, d)| Op::Plug(h, v, d)),
        1 => (h.clone(), 0u8..2).prop_map(|(h, d)| Op::Unplug(h, d)),
        1 => h.clone().prop_map(Op::Restart),
        1 => h.clone().prop_map(Op::Silent),
        1 => h.clone().prop_map(Op::Heard),
        1 => any::<bool>().prop_map(Op::Partition),
        1 => (h.clone(), h.clone()).prop_map(|(l, s)| Op::Deaf(l, s)),
        1 => h.clone().prop_map(Op::Chain),
        1 => Just(Op::Heal),
        1 => (h.clone(), -10i64..=10).prop_map(|(h, hours)| Op::ClockJumps(h, hours)),
        2 => (h.clone(), any::<usize>()).prop_map(|(h, n)| Op::Meddle(h, n)),
        1 => (h.clone(), any::<usize>()).prop_map(|(h, n)| Op::Check(h, n)),
        2 => (h, prop::sample::select(vec!["4", "6", "46"])).prop_map(|(h, f)| Op::Families(h, f)),
        2 => (0u64..20).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    /// Whatever happens, once everybody hears everybody each kernel holds
    /// exactly what it should, and nobody has an address twice.
    #[test]
    fn whatever_happens_every_kernel_ends_as_it_should(ops in prop::collection::vec(any_op(), 1..60)) {
        let mut w = World::of_families(&["46", "46", "46"]);
        for op in ops {
            match op {
                Op::Create(h, v) => {
                    let _ = w.create(h, create(&format!("n{v}"), v, &format!("10.{v}.0.0/28")));
                }
                Op::Remove(h, v) => {
                    let _ = w.remove(h, &format!("n{v}"));
                }
                Op::Attach(h, v, c) => {
                    let _ = w.attach(h, attach(&format!("n{v}"), &format!("c{c}")));
                }
                Op::Static(h, v, c) => {
                    let mac = format!("02:aa:00:00:{v:02x}:{c:02x}");
                    let _ = w.attach_at(h, add(&format!("n{v}"), &mac, &format!("10.{v}.0.{}", 2 + c)));
                }
                Op::Import(h, v, replace, all) => {
                    let items: Vec<(String, String)> = all
                        .iter()
                        .map(|c| {
                            // Some say what others have, and some MACs change hands.
                            let mac = format!("02:aa:00:00:{v:02x}:{c:02x}");
                            (mac, format!("10.{v}.0.{}", 2 + (c + all.len() as u8) % 13))
                        })
                        .collect();
                    let items: Vec<_> = items.iter().map(|(m, i)| (m.as_str(), i.as_str())).collect();
                    let _ = w.import(h, list(&format!("n{v}"), replace, &items));
                }
                Op::Plug(h, v, d) => {
                    let mac = format!("52:54:00:00:{h:02x}:{d:02x}");
                    let _ = w.plug(h, plug(&format!("n{v}"), &format!("tap{d}"), u32::from(d), &mac));
                }
                Op::Unplug(h, d) => w.unplug(h, &format!("tap{d}")),
                Op::Detach(h, c) => {
                    let _ = w.detach(h, &format!("c{c}"));
                }
                Op::TakeOver(h, n, how) => w.takes_any_over(h, n, how),
                Op::Reboot(h) => w.reboot(h),
                Op::Restart(h) => w.restart(h),
                Op::Silent(h) => w.fall_silent(h),
                Op::Heard(h) => w.be_heard(h),
                Op::Partition(cut) => w.partition(cut),
                Op::Deaf(listener, speaker) => w.deafen(listener, speaker),
                Op::Chain(middle) => {
                    let (one, other) = ((middle + 1) % 3, (middle + 2) % 3);
                    w.deafen(one, other);
                    w.deafen(other, one);
                }
                Op::Heal => w.heal(),
                Op::ClockJumps(h, hours) => w.clock_jumps(h, hours),
                Op::Meddle(h, n) => {
                    let keys: Vec<ObjectKey> = w.kernel(h).objects().keys().cloned().collect();
                    if !keys.is_empty() {
                        w.meddle(h, keys[n % keys.len()].clone(), None);
                    }
                }
                Op::Check(h, n) => {
                    let doomed = w.kernel(h).objects().keys().nth(n % 16).cloned();
                    w.is_checked(h, doomed);
                }
                Op::Families(h, families) => w.has_families(h, families),
                Op::Pass(s) => w.pass(Duration::from_secs(s)),
            }
            w.assert_no_address_is_given_twice();
        }
        w.partition(false);
        w.heal();
        for h in 0..3 {
            w.be_heard(h);
        }
        // Until nothing is frozen any more.
        w.pass(Duration::from_secs(200));
        for h in 0..3 {
            let Reply::Plan(plan) = w.request(h, Request::Plan).unwrap() else { panic!("a plan") };
            prop_assert_eq!(plan.commands, Vec::<String>::new(), "host {}", h);
            // What has moved away from a host is seen there only.
            let seen = |w: &mut World, h| {
                let there = w.endpoints(h).into_iter();
                let there = there.filter(|v| !matches!(v.state, EndpointState::Moved(_)));
                there.map(|v| (v.endpoint, v.host)).collect::<Vec<_>>()
            };
            prop_assert_eq!(seen(&mut w, h), seen(&mut w, 0), "host {} sees what host 0 sees", h);
            let nets = |w: &mut World, h| {
                let views = w.networks(h).into_iter();
                views.map(|v| (v.network, v.conflict)).collect::<Vec<_>>()
            };
            prop_assert_eq!(nets(&mut w, h), nets(&mut w, 0), "host {} knows what host 0 knows", h);
        }
        w.assert_kernels_match_the_cluster();
        w.assert_no_address_twice();
    }
}

#[test]
fn objects_of_the_fake_kernel_are_compared_whole() {
    // The world's check must be able to fail.
    let mut w = pair();
    let key = ObjectKey::VxlanFdb(vni(7).vxlan(), "02:42:0a:09:00:81".parse().unwrap());
    assert!(w.kernel(0).objects().contains_key(&key));
    let wrong = Object::VxlanFdb { dst: "192.0.2.9".parse().unwrap() };
    w.kernel(0).meddle(key, Some(wrong));
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        w.assert_kernels_match_the_cluster();
    }));
    assert!(found.is_err());
}

/// What was told of repairs, and nothing else.
fn repairs(w: &World) -> Vec<&Repair> {
    w.notices(0)
        .iter()
        .filter_map(|n| if let Notice::Repaired(r) = n { Some(r) } else { None })
        .collect()
}

#[test]
fn what_another_hand_changes_is_put_back_and_told() {
    let mut w = pair();
    let (bridge, vxlan) = (vni(7).bridge(), vni(7).vxlan());
    let mac: MacAddr = "02:42:0a:09:00:81".parse().unwrap();
    let elsewhere = Object::VxlanFdb { dst: "192.0.2.99".parse().unwrap() };
    w.applied(0);
    let before = w.kernel(0).objects().clone();
    w.meddle(0, ObjectKey::VxlanFdb(vxlan.clone(), mac), Some(elsewhere));
    w.meddle(0, ObjectKey::Neigh(bridge, "10.9.0.129".parse().unwrap()), None);
    w.meddle(0, ObjectKey::Flood(vxlan, "192.0.2.77".parse().unwrap()), Some(Object::Flood));
    check(
        &w.applied(0),
        expect![[r#"
            bridge fdb replace 02:42:0a:09:00:81 dev ovx7 dst 192.0.2.2 self permanent
            ip neigh replace 10.9.0.129 lladdr 02:42:0a:09:00:81 dev ovb7 nud permanent extern_learn
            bridge fdb del 00:00:00:00:00:00 dev ovx7 dst 192.0.2.77 self permanent
        "#]],
    );
    assert_eq!(w.kernel(0).objects(), &before);
    let told: Vec<String> =
        repairs(&w).iter().map(|r| Notice::Repaired((*r).clone()).to_string()).collect();
    check(
        &told,
        expect![[r#"
            put back FDB entry 02:42:0a:09:00:81 of ovx7, 0 ms after it was changed; the kernel does not tell by whom: `bridge fdb replace 02:42:0a:09:00:81 dev ovx7 dst 192.0.2.2 self permanent`
            put back neighbour 10.9.0.129 on ovb7, 0 ms after it was deleted; the kernel does not tell by whom: `ip neigh replace 10.9.0.129 lladdr 02:42:0a:09:00:81 dev ovb7 nud permanent extern_learn`
            put back broadcast destination 192.0.2.77 of ovx7, 0 ms after it was added; the kernel does not tell by whom: `bridge fdb del 00:00:00:00:00:00 dev ovx7 dst 192.0.2.77 self permanent`
        "#]],
    );
    let Reply::Status(status) = w.request(0, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(status.counters["kernel_repairs"], 3);
    assert_eq!((status.repairs.len(), status.fights.len()), (3, 0));
}

#[test]
fn what_falls_with_a_link_is_one_repair_though_the_kernel_tells_of_it_first() {
    let mut w = pair();
    for n in 3..9 {
        w.attach(1, attach("demo", &format!("c{n}"))).unwrap();
    }
    w.applied(0);
    let before = w.kernel(0).objects().clone();
    let link = ObjectKey::Link(vni(7).vxlan());
    // As the kernel does: entry by entry, then the link. All of it comes before a plan
    // is carried out.
    let mut changes = w.kernel(0).meddle(link, None);
    changes.reverse();
    assert!(changes.len() > 14, "{changes:?}");
    w.tell_before_anything_is_done(0, changes);
    assert_eq!(w.kernel(0).objects(), &before);
    let told = repairs(&w);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((told[0].object.as_str(), told[0].objects), ("link ovx7", 1 + 8 + 7 + 7 - 7));
    let refused = w.notices(0).iter().any(|n| matches!(n, Notice::KernelRefused { .. }));
    assert!(!refused, "{:#?}", w.notices(0));
    // Again and again: its entries are not fought over, it is.
    for _ in 0..8 {
        let changes = w.kernel(0).meddle(ObjectKey::Link(vni(7).vxlan()), None);
        w.tell_before_anything_is_done(0, changes);
    }
    let fights: Vec<String> = w
        .notices(0)
        .iter()
        .filter_map(|n| if let Notice::Fight(f) = n { Some(f.object.clone()) } else { None })
        .collect();
    assert_eq!(fights, ["link ovx7"]);
    w.pass(Duration::from_secs(30));
    assert_eq!(w.kernel(0).objects(), &before);
}

#[test]
fn a_fight_is_met_with_patience_and_forgotten_when_it_is_over() {
    let mut w = pair();
    let key = ObjectKey::Neigh(vni(7).bridge(), "10.9.0.129".parse().unwrap());
    w.applied(0);
    let before = w.kernel(0).objects().clone();
    let at = |w: &World| w.now().mono;
    let started = at(&w);
    // The other hand deletes it whenever it is there, for a minute.
    let mut writes = Vec::new();
    while at(&w) < started + Duration::from_secs(60) {
        if w.kernel(0).objects().contains_key(&key) {
            w.meddle(0, key.clone(), None);
        }
        for _ in w.applied(0) {
            writes.push((at(&w) - started).as_millis());
        }
        w.pass(Duration::from_millis(10));
    }
    // Five at once, then after 1, 2, 4, 8 and ten seconds each.
    assert!(writes.len() <= 14 && writes.len() >= 11, "{writes:?}");
    assert!(writes[4] < 100 && writes[5] >= 1000 && writes[6] >= 3000, "{writes:?}");
    let Reply::Status(status) = w.request(0, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(status.fights.len(), 1);
    assert!(status.warnings[0].contains("neighbour 10.9.0.129 on ovb7"), "{:?}", status.warnings);
    let told = |w: &World| {
        let of = |n: &&Notice| matches!(n, Notice::Fight(_) | Notice::FightOver(_));
        w.notices(0).iter().filter(of).count()
    };
    assert_eq!(told(&w), 1, "once, however long it lasts");

    // It rests: the entry is there for good, and five at once are free again.
    w.pass(Duration::from_secs(21));
    assert_eq!(w.kernel(0).objects(), &before);
    assert_eq!(told(&w), 2);
    w.applied(0);
    w.meddle(0, key, None);
    assert_eq!(w.applied(0).len(), 1);
    assert_eq!(w.kernel(0).objects(), &before);
}

#[test]
fn what_is_wanted_otherwise_does_not_wait_for_a_fight() {
    let mut w = pair();
    let key = ObjectKey::Neigh(vni(7).bridge(), "10.9.0.129".parse().unwrap());
    for _ in 0..8 {
        w.meddle(0, key.clone(), Some(Object::Neigh { mac: MacAddr([2, 0, 0, 0, 0, 9]) }));
    }
    assert_ne!(
        w.kernel(0).objects()[&key],
        Object::Neigh { mac: "02:42:0a:09:00:81".parse().unwrap() }
    );
    w.detach(1, "c2").unwrap();
    assert!(!w.kernel(0).objects().contains_key(&key), "nobody wants it any more");
}

#[test]
fn what_goes_with_a_link_that_we_replace_is_no_repair() {
    let mut w = pair();
    let key = ObjectKey::Link(vni(7).vxlan());
    let Some(Object::Link(mut link)) = w.kernel(0).objects().get(&key).cloned() else {
        panic!("a link")
    };
    let before = w.kernel(0).objects().clone();
    let overlay_model::LinkKind::Vxlan { port, .. } = &mut link.kind else { panic!("VXLAN") };
    *port = 8472;
    w.meddle(0, key, Some(Object::Link(link)));
    assert_eq!(w.kernel(0).objects(), &before);
    let told = repairs(&w);
    assert_eq!(told.len(), 1, "the link, and not what stood on it: {told:#?}");
    assert_eq!(told[0].found, Found::Changed);
}

#[test]
fn a_port_that_comes_back_to_its_bridge_gets_its_entries_back() {
    let mut w = pair();
    let before = w.kernel(0).objects().clone();
    let (key, mut link) =
        match w.kernel(0).objects().get_key_value(&ObjectKey::Link(vni(7).vxlan())) {
            Some((key, Object::Link(link))) => (key.clone(), link.clone()),
            other => panic!("{other:?}"),
        };
    link.master = Some(IfName::new("br-x").unwrap());
    let mac: MacAddr = "02:42:0a:09:00:81".parse().unwrap();
    w.applied(0);
    let mut changes = w.kernel(0).meddle(ObjectKey::BridgeFdb(vni(7).bridge(), mac), None);
    changes.extend(w.kernel(0).meddle(key, Some(Object::Link(link))));
    w.tell_before_anything_is_done(0, changes);
    assert_eq!(w.kernel(0).objects(), &before);
}

#[test]
fn a_full_check_goes_in_slices_and_what_is_told_meanwhile_is_newer() {
    let mut w = pair();
    let items: Vec<(String, String)> = (0..6000u32)
        .map(|n| (MacAddr([2, 0xaa, 0, 0, (n >> 8) as u8, n as u8]).to_string(), n))
        .map(|(mac, n)| (mac, format!("10.64.{}.{}", n >> 8, n & 255)))
        .collect();
    let items: Vec<(&str, &str)> = items.iter().map(|(m, i)| (m.as_str(), i.as_str())).collect();
    w.create(1, create("wide", 8, "10.64.0.0/12")).unwrap();
    w.attach(0, attach("wide", "w1")).unwrap();
    w.import(1, list("wide", false, &items[300..])).unwrap();
    let before = w.kernel(0).objects().clone();
    assert!(before.len() > 17_000);
    let fdb = |n: u32| {
        ObjectKey::VxlanFdb(vni(8).vxlan(), MacAddr([2, 0xaa, 0, 0, (n >> 8) as u8, n as u8]))
    };
    let now = w.now();
    w.engine(0).step(Event::Kernel(KernelChange::Reading), now);
    // Read before, told after: deleted and put back; nothing of it may be undone.
    let mut state = w.kernel(0).read();
    state.objects.remove(&fdb(5000));
    w.meddle(0, fdb(5000), None);
    // Not told at all: the check finds it.
    let unseen = fdb(5500);
    w.kernel(0).meddle(unseen.clone(), None);
    state.objects.remove(&unseen);
    w.applied(0);

    w.engine(0).step(Event::Kernel(KernelChange::Read(Box::new(state))), now);
    let mut slices = 0;
    while w.engine(0).next_deadline() == Some(now.mono) {
        let effects = w.engine(0).step(Event::Tick, now);
        slices += 1;
        if slices == 2 {
            // In the middle of it, a change is planned at once.
            w.meddle(0, fdb(4000), None);
            assert_eq!(w.applied(0).len(), 1);
        }
        w.carry_out(0, effects);
    }
    assert!(slices > 17, "{slices} slices");
    assert_eq!(w.applied(0).len(), 1, "what nobody told of");
    assert_eq!(w.kernel(0).objects(), &before);
    let last = repairs(&w).last().unwrap().to_owned();
    assert!(last.read && last.objects == 1, "{last:?}");
}

#[test]
fn a_reading_that_a_snapshot_overtook_counts_for_nothing() {
    let mut w = pair();
    let state = w.kernel(0).read();
    let now = w.now();
    w.engine(0).step(Event::Kernel(KernelChange::Reading), now);
    w.engine(0).step(Event::Kernel(KernelChange::Overrun), now);
    w.engine(0).step(Event::Kernel(KernelChange::Snapshot(Box::new(state))), now);
    let empty = KernelChange::Read(Box::default());
    w.engine(0).step(Event::Kernel(empty), now);
    w.applied(0);
    w.pass(Duration::from_secs(5));
    assert_eq!(w.applied(0), Vec::<String>::new());
    let Reply::Status(status) = w.request(0, Request::Status).unwrap() else { panic!("status") };
    assert_eq!(status.counters["kernel_overruns"], 1);
}

#[test]
fn every_host_shows_which_are_drained_also_after_a_restart() {
    let mut w = World::new(3);
    let shown = |w: &mut World, by: usize| -> Vec<String> {
        let Reply::Hosts(hosts) = w.request(by, Request::Hosts).unwrap() else { panic!("hosts") };
        let drained = hosts.into_iter().filter(|view| view.drained);
        drained.filter_map(|view| Some(view.host?.name.to_string())).collect()
    };
    w.request(2, Request::Drain(true)).unwrap();
    assert_eq!([0, 1, 2].map(|i| shown(&mut w, i)), [["h2"], ["h2"], ["h2"]]);
    w.restart(2);
    w.pass(Duration::from_secs(5));
    assert_eq!([0, 1, 2].map(|i| shown(&mut w, i)), [["h2"], ["h2"], ["h2"]]);
    w.request(2, Request::Drain(false)).unwrap();
    assert_eq!([0, 1, 2].map(|i| shown(&mut w, i).len()), [0, 0, 0]);
}

#[test]
fn a_detach_at_once_is_answered_when_it_is_saved_and_not_when_the_kernel_is_done() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    for at_once in [true, false] {
        w.attach(0, attach("demo", "c1")).unwrap();
        let (target, net, now) = ("c1".to_owned(), None, w.now());
        let request = Box::new(match at_once {
            true => Request::DetachAtOnce { target, net },
            false => Request::Detach { target, net },
        });
        let effects = w.engine(0).step(Event::Request { token: 900, fresh: 0, request }, now);
        let [Effect::Persist { id, .. }] = effects.as_slice() else { panic!("{effects:?}") };
        let effects = w.engine(0).step(Event::Persisted { id: *id, result: Ok(()) }, now);
        let replied = effects.iter().any(|e| matches!(e, Effect::Reply { token: 900, .. }));
        assert_eq!(replied, at_once, "{effects:?}");
        w.carry_out(0, effects);
        assert!(w.reply_to(0, 900).unwrap().is_ok());
        assert!(w.plan_is_empty(0), "nothing is left");
    }
}
