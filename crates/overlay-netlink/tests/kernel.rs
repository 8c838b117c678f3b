//! The promises of the crate, on the kernel that runs this.
//!
//! Each test has a thread of its own in a private network and mount namespace,
//! so that nothing of it is seen outside and nothing is left behind. Root is
//! needed: without it the tests fail and say so.

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use lab::{
    Host, bridge, fdb, flood, lab, local_fdb, mac, neigh, net, remote, run, veth, vxlan, vxlan_with,
};
use overlay_model::kernel::alias_of;
use overlay_model::outer::{Df, Dscp, SourcePorts, Ttl};
use overlay_model::{
    Access, EndpointId, Firewall, Front, Guard, HostId, IfName, KernelChange, KernelOp, LinkChange,
    LinkKind, MacAddr, Nat, NetworkId, Object, ObjectKey, Outer, Port, PortFlags, Protocol,
    Refusal, VethPeer, Vni,
};
use overlay_netlink::{
    Kernel, NetnsError, Wanted, look_into, netns_of, peer_ifnames, underlay_for,
};
use proptest::prelude::*;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn put((key, object): (ObjectKey, Object)) -> KernelOp {
    KernelOp::Put(key, object)
}

fn del((key, object): (ObjectKey, Object)) -> KernelOp {
    KernelOp::Del(key, object)
}

fn address(dev: &str, text: &str) -> (ObjectKey, Object) {
    (ObjectKey::Address(name(dev), net(text)), Object::Address)
}

fn firewall(bridges: &[&str]) -> (ObjectKey, Object) {
    let firewall = Firewall {
        bridges: bridges.iter().map(|b| name(b)).collect(),
        vxlan_port: 4789,
        gossip_port: 7946,
        vteps: ["192.0.2.2", "2001:db8::2"].iter().map(|ip| ip.parse().unwrap()).collect(),
        gossip: ["192.0.2.2:7946", "[2001:db8::2]:7947"].map(|at| at.parse().unwrap()).into(),
        access: Access::Closed,
        altered: false,
    };
    (ObjectKey::Firewall, Object::Firewall(Box::new(firewall)))
}

fn altered() -> Object {
    Object::Firewall(Box::new(Firewall { altered: true, ..Firewall::default() }))
}

fn port_rules() -> (ObjectKey, Object) {
    (ObjectKey::PortRules, Object::PortRules { altered: false })
}

fn guard(port: &str, octet: u32, addresses: &[&str]) -> (ObjectKey, Object) {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let guard = Guard { mac: mac(octet), addresses, altered: false };
    (ObjectKey::Guard(name(port)), Object::Guard(Box::new(guard)))
}

/// A network with a local and two remote endpoints, in both families: every
/// kind of object.
fn everything(container: &lab::Container) -> Vec<KernelOp> {
    let mut ops = vec![
        put(firewall(&["ovb7"])),
        put(port_rules()),
        put(guard("ove000000000001", 5, &["10.9.0.5", "2001:db8:9::5"])),
        bridge(7),
        veth(7, 1, container, &["10.9.0.5/24", "2001:db8:9::5/64"], &["10.9.0.1", "2001:db8:9::1"]),
        vxlan(7, 4789, "192.0.2.1"),
        put(address("ovb7", "10.9.0.1/24")),
        put(address("ovb7", "2001:db8:9::1/64")),
        put(flood(7, "192.0.2.2")),
        put(flood(7, "192.0.2.3")),
        put(local_fdb(7, 1, 5)),
    ];
    for entry in remote(7, 6, "192.0.2.2").into_iter().chain(remote(7, 7, "192.0.2.3")) {
        ops.push(put(entry));
    }
    ops.push(put(neigh(7, "2001:db8:9::6", 6)));
    ops
}

#[test]
fn what_was_put_is_what_a_dump_reads() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        let ops = everything(&container);
        host.apply(ops.clone()).await;
        let state = host.kernel.dump().await.unwrap();
        assert_eq!(state.objects, lab::after(&ops));
        let lo = overlay_model::IfName::new("lo").unwrap();
        let device = overlay_model::Device { index: 1, mac: None, up: true, master: None };
        let foreign = overlay_model::Foreign {
            mtus: [(lo.clone(), u16::MAX)].into(),
            devices: [(lo, device)].into(),
            ..Default::default()
        };
        assert_eq!(state.foreign, foreign);
        host.mirror_equals_dump().await;
    });
}

#[test]
fn an_ipv6_underlay_reads_back_too() {
    lab(async {
        let mut host = Host::open().await;
        let ops = vec![
            bridge(7),
            vxlan(7, 8472, "2001:db8::1"),
            put(flood(7, "2001:db8::2")),
            put(fdb(7, 6, "2001:db8::2")),
        ];
        host.apply(ops.clone()).await;
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));
        host.mirror_equals_dump().await;
    });
}

#[test]
fn two_build_orders_have_one_result() {
    let built = |order: fn(Vec<KernelOp>) -> Vec<KernelOp>| {
        lab(async move {
            let mut host = Host::open().await;
            let container = lab::Container::new();
            host.apply(order(everything(&container))).await;
            host.mirror_equals_dump().await;
            host.kernel.dump().await.unwrap().objects
        })
    };
    let forth = built(|ops| ops);
    let back = built(|mut ops| {
        // Bridge first, because the others name it; all else from behind.
        let tables = ops.drain(..2).collect::<Vec<_>>();
        let bridge = ops.remove(1);
        let (links, mut rest): (Vec<_>, Vec<_>) =
            ops.into_iter().partition(|op| matches!(op, KernelOp::AddLink(..)));
        rest.reverse();
        [vec![bridge], links.into_iter().rev().collect(), tables, rest].concat()
    });
    assert_eq!(forth, back);
}

#[test]
fn what_is_put_twice_or_deleted_twice_is_success() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        let ops = everything(&container);
        host.apply(ops.clone()).await;
        host.apply(ops.clone()).await;
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));

        let mut undo: Vec<KernelOp> = ops
            .into_iter()
            .map(|op| match op {
                KernelOp::AddLink(name, _) => KernelOp::DelLink(name),
                KernelOp::Put(key, object) => KernelOp::Del(key, object),
                other => other,
            })
            .collect();
        undo.reverse();
        host.apply(undo.clone()).await;
        host.apply(undo).await;
        assert!(host.kernel.dump().await.unwrap().objects.is_empty());
        host.mirror_equals_dump().await;
    });
}

#[test]
fn a_moved_endpoint_is_replaced_in_place() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(everything(&container)).await;
        host.apply(vec![
            put(fdb(7, 6, "192.0.2.3")),
            put(neigh(7, "10.9.0.6", 9)),
            // From another host to this one.
            put(local_fdb(7, 1, 7)),
        ])
        .await;
        let objects = host.kernel.dump().await.unwrap().objects;
        let vxlan_fdb = objects.get(&ObjectKey::VxlanFdb(name("ovx7"), mac(6)));
        assert_eq!(vxlan_fdb, Some(Object::VxlanFdb { dst: "192.0.2.3".parse().unwrap() }));
        let neigh = objects.get(&ObjectKey::Neigh(name("ovb7"), "10.9.0.6".parse().unwrap()));
        assert_eq!(neigh, Some(Object::Neigh { mac: mac(9) }));
        let (key, here) = local_fdb(7, 1, 7);
        assert_eq!(objects.get(&key), Some(here));
        host.mirror_equals_dump().await;

        // And away again.
        let there = Object::BridgeFdb { port: name("ovx7"), extern_learn: true };
        host.apply(vec![put((key.clone(), there.clone()))]).await;
        assert_eq!(host.kernel.dump().await.unwrap().objects.get(&key), Some(there));
        host.mirror_equals_dump().await;
    });
}

#[test]
fn a_changed_link_is_told_whole() {
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        let flags =
            PortFlags { learning: true, neigh_suppress: false, isolated: false, hairpin: false };
        host.apply(vec![
            KernelOp::SetLink(
                name("ovx7"),
                LinkChange {
                    mtu: Some(1400),
                    mac: Some(mac(0x77)),
                    up: Some(false),
                    port: Some(flags),
                    ..LinkChange::default()
                },
            ),
            KernelOp::SetLink(
                name("ovb7"),
                LinkChange { mtu: Some(1400), ..LinkChange::default() },
            ),
        ])
        .await;
        let state = host.kernel.dump().await.unwrap();
        let link = state.objects.link(&name("ovx7")).unwrap();
        assert_eq!(
            (link.mtu, link.mac, link.up, link.port, link.master.clone()),
            (1400, mac(0x77), false, Some(flags), Some(name("ovb7")))
        );
        host.mirror_equals_dump().await;
    });
}

#[test]
fn outer_headers_are_made_read_and_changed_as_far_as_the_kernel_does() {
    lab(async {
        let mut host = Host::open().await;
        let made = Outer {
            checksum: false,
            source_ports: Some(SourcePorts { first: 50000, last: 50999 }),
            df: Df::Set,
            ttl: Ttl::Hops(9),
            dscp: Dscp::Set(46),
        };
        host.apply(vec![bridge(7), vxlan_with(7, 4789, "192.0.2.1", made)]).await;
        let shown = run("ip -d link show ovx7");
        for word in ["srcport 50000 50999 ", "df set ", "ttl 9 ", "tos 0xb8 ", "noudpcsum "] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        let outer = async |host: &Host| {
            let state = host.kernel.dump().await.unwrap();
            let link = state.objects.link(&name("ovx7")).unwrap();
            let LinkKind::Vxlan { outer, .. } = link.kind else { panic!("{link:?}") };
            outer
        };
        assert_eq!(outer(&host).await, made);

        let changed = Outer { df: Df::Inherit, ttl: Ttl::Auto, dscp: Dscp::Inherit, ..made };
        let change = LinkChange { outer: Some(changed), ..LinkChange::default() };
        host.apply(vec![KernelOp::SetLink(name("ovx7"), change)]).await;
        assert_eq!(outer(&host).await, changed);
        host.mirror_equals_dump().await;
        // One that is there and cannot become so is refused, and stays.
        let report = host.try_apply(vec![vxlan_with(7, 4789, "192.0.2.1", Outer::default())]).await;
        let refused: Vec<_> = report.failed.iter().map(|failure| failure.refusal).collect();
        assert_eq!(refused, [Refusal::Taken], "{report:?}");
        assert_eq!(outer(&host).await, changed);

        let made = Outer { ttl: Ttl::Inherit, ..Outer::default() };
        host.apply(vec![KernelOp::DelLink(name("ovx7"))]).await;
        host.apply(vec![vxlan_with(7, 4789, "192.0.2.1", made)]).await;
        assert_eq!(outer(&host).await, made);
        host.mirror_equals_dump().await;
    });
}

/// The device `name` of somebody else as a port of `ovb7`.
fn lend(name_of: &str, id: u64, was_up: bool) -> (ObjectKey, Object) {
    let index = run(&format!("cat /sys/class/net/{name_of}/ifindex")).trim().parse().unwrap();
    let port = Port {
        endpoint: EndpointId::from_bits(id),
        index,
        bridge: Some(name("ovb7")),
        flags: Some(PortFlags::default()),
        up: true,
        was_up,
    };
    (ObjectKey::Port(name(name_of)), Object::Port(port))
}

fn behind(port: &str, n: u32) -> (ObjectKey, Object) {
    let object = Object::BridgeFdb { port: name(port), extern_learn: false };
    (ObjectKey::BridgeFdb(name("ovb7"), mac(n)), object)
}

#[test]
fn a_device_of_somebody_else_is_lent_and_given_back() {
    lab(async {
        let mut host = Host::open().await;
        run("mount -t sysfs sysfs /sys");
        run("ip link add tap0 type veth peer name vm0 && ip link set tap0 alias mine");
        // Once it was up it has another queue discipline, and a state while it is.
        let show = || {
            let text = run("ip -d link show tap0");
            text.replace(" qdisc noop", " qdisc noqueue").replace(" state DOWN", "")
        };
        host.apply(vec![bridge(7)]).await;
        for was_up in [false, true] {
            if was_up {
                run("ip link set tap0 up && ip link set tap0 alias ours");
            }
            let before = show();
            let port = lend("tap0", 5, was_up);
            let entry = behind("tap0", 9);
            let ops = vec![put(port.clone()), put(entry.clone())];
            host.apply(ops.clone()).await;
            host.apply(ops).await;
            let dump = host.kernel.dump().await.unwrap();
            assert_eq!(dump.objects.get(&port.0).as_ref(), Some(&port.1));
            assert_eq!(dump.objects.get(&entry.0).as_ref(), Some(&entry.1));
            assert!(dump.foreign.devices.contains_key(&name("tap0")), "it is not ours");
            host.mirror_equals_dump().await;
            let flags = run("bridge -d link show dev tap0");
            assert!(flags.contains("learning off"), "{flags}");

            // Another hand takes it out, and the mirror hears so.
            run("ip link set tap0 nomaster");
            host.tells(
                &port.0,
                |object| matches!(object, Some(Object::Port(port)) if port.bridge.is_none()),
            )
            .await;
            host.mirror_equals_dump().await;
            host.apply(vec![put(port.clone()), put(entry.clone())]).await;
            host.mirror_equals_dump().await;

            host.apply(vec![del(entry), del(port.clone())]).await;
            host.apply(vec![del(port.clone())]).await;
            assert_eq!(show(), before);
            assert!(!host.kernel.dump().await.unwrap().objects.contains_key(&port.0));
            host.mirror_equals_dump().await;
        }
    });
}

#[test]
fn a_bridge_that_goes_lets_a_lent_device_go_and_keeps_its_mark() {
    lab(async {
        let mut host = Host::open().await;
        run("mount -t sysfs sysfs /sys");
        run("ip link add tap0 type veth peer name vm0");
        let before = run("ip -d link show tap0");
        let (key, port) = lend("tap0", 5, false);
        host.apply(vec![bridge(7), put((key.clone(), port.clone())), put(behind("tap0", 9))]).await;
        host.apply(vec![KernelOp::DelLink(name("ovb7"))]).await;
        host.mirror_equals_dump().await;
        let Some(Object::Port(left)) = host.mirror.get(&key).cloned() else {
            panic!("{:?}", host.mirror)
        };
        assert_eq!((left.bridge.as_ref(), left.flags, left.up), (None, None, true));
        // A later run gives it back by what the kernel says alone.
        host.apply(vec![del((key.clone(), Object::Port(left)))]).await;
        assert_eq!(run("ip -d link show tap0").replace("noqueue", "noop"), before);
        assert!(host.mirror.is_empty(), "{:?}", host.mirror);
    });
}

#[test]
fn a_device_that_cannot_be_lent_is_named_and_left_as_it_was() {
    lab(async {
        let mut host = Host::open().await;
        run("mount -t sysfs sysfs /sys");
        run("ip link add tap0 type veth peer name vm0");
        run("ip link add br9 type bridge && ip link add p9 type veth peer name q9 && \
             ip link set p9 master br9");
        host.apply(vec![bridge(7)]).await;
        let before = run("ip link show");
        let mut gone = lend("tap0", 5, false);
        let Object::Port(port) = &mut gone.1 else { unreachable!("as lend makes it") };
        port.index += 1000;
        let mut bridge_less = lend("tap0", 5, false);
        let Object::Port(port) = &mut bridge_less.1 else { unreachable!("as lend makes it") };
        port.bridge = Some(name("ovb8"));
        let lo = lend("lo", 5, true);
        let cases = [
            (gone, Refusal::DeviceGone, "the device tap0 is not there any more"),
            (bridge_less, Refusal::NoDevice, "there is no bridge ovb8 of ours"),
            (lend("p9", 5, false), Refusal::Taken, "p9 belongs to br9"),
            (lo, Refusal::Other, ""),
        ];
        for (port, refusal, text) in cases {
            let report = host.try_apply(vec![put(port)]).await;
            let failed = &report.failed[0];
            assert_eq!(failed.refusal, refusal, "{}", failed.text);
            assert!(failed.text.contains(text), "{}", failed.text);
            assert_eq!(run("ip link show"), before, "{}", failed.text);
        }
        // One that is lent already is not lent to another endpoint.
        host.apply(vec![put(lend("tap0", 5, false))]).await;
        let report = host.try_apply(vec![put(lend("tap0", 6, false))]).await;
        assert_eq!(report.failed[0].refusal, Refusal::Busy, "{}", report.failed[0].text);
        host.mirror_equals_dump().await;
        // And what another hand has put on a bridge of ours is no business of ours.
        run("ip link set p9 nomaster && ip link set p9 master ovb7");
        assert!(
            !host.kernel.dump().await.unwrap().objects.contains_key(&ObjectKey::Port(name("p9")))
        );
        host.mirror_equals_dump().await;
        // A device that is deleted is told, with what led to it.
        host.apply(vec![put(behind("tap0", 9))]).await;
        run("ip link del tap0");
        host.tells(&ObjectKey::Port(name("tap0")), |object| object.is_none()).await;
        host.tells(&behind("tap0", 9).0, |object| object.is_none()).await;
        host.mirror_equals_dump().await;
    });
}

#[test]
fn a_bridge_keeps_its_mtu_when_its_last_port_leaves() {
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        host.apply(vec![KernelOp::DelLink(name("ovx7"))]).await;
        let state = host.kernel.dump().await.unwrap();
        let link = state.objects.link(&name("ovb7")).unwrap();
        assert_eq!(link.mtu, lab::MTU);
        host.mirror_equals_dump().await;
    });
}

#[test]
fn links_are_made_as_the_operation_prints_them() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(vec![
            bridge(7),
            vxlan(7, 4789, "192.0.2.1"),
            veth(7, 1, &container, &["10.9.0.5/24"], &["10.9.0.1"]),
        ])
        .await;
        let details = run("ip -d link show type bridge; ip -d link show master ovb7");
        for wanted in ["mcast_snooping 0", "nolearning", "addrgenmode none", "id 7 local 192.0.2.1"]
        {
            assert!(details.contains(wanted), "no `{wanted}` in {details}");
        }
        assert!(!details.contains("addrgenmode eui64"), "a link-local address comes:\n{details}");
        assert!(details.contains("learning off") && details.contains("neigh_suppress on"));

        let inside = container.run("ip -d addr show eth1; ip route; ip -6 route");
        assert!(inside.contains("inet 10.9.0.5/24"), "{inside}");
        assert!(inside.contains("default via 10.9.0.1 dev eth1"), "{inside}");
        assert!(inside.contains("mtu 1450") && inside.contains("link/ether 02:42:00:00:00:05"));
        assert!(!inside.contains("fe80"), "a v4 container speaks IPv6: {inside}");
    });
}

#[test]
fn a_container_with_ipv6_has_its_address_at_once_and_no_other_global_one() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        container.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        host.apply(vec![
            bridge(7),
            veth(7, 1, &container, &["2001:db8:9::5/64"], &["2001:db8:9::1"]),
        ])
        .await;
        let inside = container.run("ip -6 addr show eth1; ip -6 route");
        assert!(inside.contains("inet6 2001:db8:9::5/64 scope global nodad"), "{inside}");
        // Its link-local address may well be under test still.
        let global: Vec<&str> = inside.lines().filter(|l| l.contains("scope global")).collect();
        assert!(matches!(global[..], [only] if !only.contains("tentative")), "{inside}");
        assert!(inside.contains("default via 2001:db8:9::1"), "{inside}");
        let ra = container.run("cat /proc/sys/net/ipv6/conf/eth1/accept_ra");
        assert_eq!(ra.trim(), "0");
    });
}

#[test]
fn a_second_network_leaves_the_default_route_alone() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(vec![
            bridge(7),
            bridge(8),
            veth(7, 1, &container, &["10.9.0.5/24"], &["10.9.0.1"]),
            veth(8, 2, &container, &["10.10.0.5/24"], &["10.10.0.1"]),
        ])
        .await;
        let routes = container.run("ip route show default");
        assert_eq!(routes.trim(), "default via 10.9.0.1 dev eth1 proto static");
        let names = peer_ifnames(&container.netns()).unwrap();
        assert_eq!(names, BTreeSet::from([name("eth1"), name("eth2"), name("lo")]));
    });
}

#[test]
fn foreign_things_are_untouched_and_untold() {
    lab(async {
        let look = || {
            run(
                "ip -o link show dev docker0; ip -o link show dev ovl; ip -d -o link show dev vx9; \
                 bridge fdb show br docker0; bridge fdb show dev vx9; ip neigh show dev docker0; \
                 ip addr show dev docker0; ip -o link show dev ovb9",
            )
        };
        run("ip link add docker0 type bridge && ip link set docker0 up
             ip tuntap add ovl mode tap && ip link set ovl master docker0 && ip link set ovl up
             ip link add ovb9 type bridge
             ip tuntap add ovb10 mode tap && ip link set ovb10 alias overlayd:0000000000000007
             ip link add vx9 type vxlan id 9 dstport 4789 local 192.0.2.1 nolearning
             ip link add vxext type vxlan external dstport 4790
             ip addr add 172.17.0.1/16 dev docker0
             ip route add 198.51.100.0/24 dev docker0
             ip route add default via 172.17.0.2
             bridge fdb add 02:00:00:00:00:99 dev vx9 dst 192.0.2.9 self permanent
             bridge fdb add 02:00:00:00:00:98 dev ovl master static
             ip neigh add 172.17.0.9 lladdr 02:00:00:00:00:99 dev docker0 nud permanent extern_learn");
        let mut host = Host::open().await;
        // Flags such as LOWER_UP settle on their own; ask until two looks agree.
        let before = lab::eventually("the foreign links settle", || {
            let first = look();
            (first == look()).then_some(first)
        })
        .await;

        let state = host.kernel.dump().await.unwrap();
        assert!(state.objects.is_empty(), "{:?}", state.objects);
        let foreign = host.kernel.foreign().await.unwrap();
        assert_eq!(foreign, state.foreign);
        let vxlans: Vec<_> = foreign
            .vxlans
            .iter()
            .map(|v| (v.name.as_str(), v.vni.map(Vni::get), v.port, v.netns.is_some()))
            .collect();
        assert_eq!(vxlans, [("vx9", Some(9), 4789, false), ("vxext", None, 4790, false)]);
        assert_eq!(foreign.squatters, BTreeSet::from([name("ovb10"), name("ovb9")]));
        assert_eq!(
            foreign.routes,
            [(net("172.17.0.0/16"), name("docker0")), (net("198.51.100.0/24"), name("docker0"))]
        );

        let refused = host
            .kernel
            .apply(vec![
                bridge(9),
                bridge(10),
                KernelOp::DelLink(name("ovb9")),
                KernelOp::SetLink(
                    name("ovb9"),
                    LinkChange { up: Some(true), ..Default::default() },
                ),
                put(address("ovb9", "10.9.0.1/24")),
                put(neigh(9, "10.9.0.6", 6)),
            ])
            .await;
        let why: Vec<_> = refused.failed.iter().map(|f| (f.refusal, f.text.as_str())).collect();
        let stranger = "a link ovb9 exists that is not overlayd's; remove or rename it";
        let stranger10 = "a link ovb10 exists that is not overlayd's; remove or rename it";
        let none = "there is no link ovb9 of ours";
        assert_eq!(refused.done, 0);
        // Batches of entries come in order, after the links before them.
        assert_eq!(
            why,
            [
                (Refusal::Taken, stranger),
                (Refusal::Taken, stranger10),
                (Refusal::Taken, stranger),
                (Refusal::Taken, stranger),
                (Refusal::NoDevice, none),
                (Refusal::NoDevice, none),
            ]
        );
        let container = lab::Container::new();
        host.apply(everything(&container)).await;
        host.apply(vec![
            KernelOp::DelLink(name("ovx7")),
            KernelOp::DelLink(name("ovb7")),
            KernelOp::DelLink(lab::veth_name(1)),
            del(guard("ove000000000001", 5, &["10.9.0.5", "2001:db8:9::5"])),
            del(port_rules()),
            del(firewall(&["ovb7"])),
        ])
        .await;
        assert_eq!(look(), before);
        host.mirror_equals_dump().await;
        assert!(host.mirror.is_empty());
    });
}

#[test]
fn a_taken_vni_names_its_holder() {
    lab(async {
        let host = Host::open().await;
        let refusal = async |op: KernelOp| {
            let report = host.kernel.apply(vec![bridge(7), op]).await;
            let [failure] = report.failed.as_slice() else { panic!("{report:?}") };
            assert_eq!(failure.refusal, Refusal::Taken);
            failure.text.clone()
        };
        run("ip link add vx7 type vxlan id 7 dstport 4789 local 192.0.2.1");
        assert_eq!(
            refusal(vxlan(7, 4789, "192.0.2.1")).await,
            "VNI 7 on UDP port 4789 is held by device vx7; remove it or choose another VNI"
        );

        // Made here, hidden there: it holds its VNI here still.
        run("ip netns add c1 && ip link set vx7 netns c1");
        assert_eq!(
            refusal(vxlan(7, 4789, "192.0.2.1")).await,
            "VNI 7 on UDP port 4789 is held by device vx7 in network namespace c1; \
             remove it or choose another VNI"
        );
        let foreign = host.kernel.foreign().await.unwrap();
        let [hidden] = foreign.vxlans.as_slice() else { panic!("{foreign:?}") };
        assert_eq!((hidden.name.as_str(), hidden.netns.as_deref()), ("vx7", Some("c1")));

        // The same VNI made over there is no concern of ours.
        run("ip netns del c1 && ip netns add c2 &&
             ip -n c2 link add vx7 type vxlan id 7 dstport 4789 local 192.0.2.1");
        lab::eventually("the device in c1 is gone", || {
            run("ip link add probe type vxlan id 7 dstport 4789 2>/dev/null && ip link del probe && echo free")
                .contains("free")
                .then_some(())
        })
        .await;
        let report = host.kernel.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        assert_eq!(report.failed, []);
        assert_eq!(host.kernel.foreign().await.unwrap().vxlans, []);

        // An external device has the port to itself.
        run(
            "ip link del ovx7 && ip link add vxext type vxlan external dstport 4789 && ip link set vxext up",
        );
        assert_eq!(
            refusal(vxlan(7, 4789, "192.0.2.1")).await,
            "VNI 7 on UDP port 4789 is held by device vxext; remove it or choose another VNI"
        );
        assert!(!run("ip -o link").contains("ovx7"), "a half-made device stays");
    });
}

#[test]
fn no_half_made_veth_stays() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        container.run("ip link add eth1 type bridge");
        host.apply(vec![bridge(7)]).await;
        let before = host.kernel.dump().await.unwrap();
        let refusal = async |op: KernelOp| {
            let report = host.kernel.apply(vec![op]).await;
            assert_eq!(host.kernel.dump().await.unwrap(), before, "something stays");
            let [failure] = report.failed.as_slice() else { panic!("{report:?}") };
            (failure.refusal, failure.text.clone())
        };

        let (why, text) = refusal(veth(7, 1, &container, &["10.9.0.5/24"], &[])).await;
        assert_eq!(why, Refusal::PeerNameTaken);
        assert!(
            text.starts_with("an interface eth1 exists already in network namespace"),
            "{text}"
        );

        let (why, text) = refusal(veth(7, 2, &container, &["10.9.0.5/24"], &["10.8.0.1"])).await;
        assert_eq!(why, Refusal::Other);
        assert!(
            text.contains("default route via 10.8.0.1 of eth2: Nexthop has invalid gateway"),
            "{text}"
        );
        assert!(!container.run("ip -o link").contains("eth2"));

        // The same path, another namespace.
        let mut other = veth(7, 2, &container, &["10.9.0.5/24"], &[]);
        peer_of(&mut other).netns.cookie += 1;
        let (why, text) = refusal(other).await;
        assert_eq!(why, Refusal::NetnsGone);
        assert!(text.ends_with("was replaced by another one of that name"), "{text}");

        let orphan = veth(7, 3, &container, &["10.9.0.5/24"], &[]);
        drop(container);
        let (why, text) = refusal(orphan).await;
        assert_eq!(why, Refusal::NetnsGone);
        assert!(text.ends_with("does not exist any more"), "{text}");
        host.mirror_equals_dump().await;
    });
}

fn peer_of(op: &mut KernelOp) -> &mut VethPeer {
    let KernelOp::AddLink(_, link) = op else { panic!("no link: {op}") };
    match &mut link.kind {
        LinkKind::Veth { peer: Some(peer) } => peer,
        other => panic!("no veth: {other:?}"),
    }
}

#[test]
fn a_link_of_ours_in_the_way_becomes_what_is_wanted_or_is_named() {
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        run("ip link set ovx7 down nomaster mtu 1300");
        host.apply(vec![vxlan(7, 4789, "192.0.2.1")]).await;
        let ops = [bridge(7), vxlan(7, 4789, "192.0.2.1")];
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));

        // Another address of the family is a change like others, one of another is not.
        host.apply(vec![vxlan(7, 4789, "192.0.2.9")]).await;
        let ops = [bridge(7), vxlan(7, 4789, "192.0.2.9")];
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));
        let report = host.kernel.apply(vec![vxlan(7, 4789, "2001:db8::9")]).await;
        assert_eq!(report.failed[0].refusal, Refusal::Taken);
        assert_eq!(
            report.failed[0].text,
            "ovx7 exists with other attributes, which are fixed: delete it first"
        );
        host.mirror_equals_dump().await;
    });
}

#[test]
fn a_recreated_link_takes_its_entries_with_it() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(everything(&container)).await;
        host.told.clear();
        run("ip link del ovx7");
        // The index known for ovx7 is wrong now, and must not be believed.
        let again = vxlan(7, 4789, "192.0.2.1");
        host.apply(vec![again, put(fdb(7, 6, "192.0.2.2"))]).await;
        let gone = |change: &KernelChange| matches!(change, KernelChange::Object(ObjectKey::Link(dev), None, _) if *dev == name("ovx7"));
        assert!(host.told.iter().any(gone), "{:?}", host.told);
        let left: Vec<_> = host
            .mirror
            .keys()
            .filter(|key| matches!(key, ObjectKey::VxlanFdb(..) | ObjectKey::Flood(..)))
            .collect();
        assert_eq!(left, [&ObjectKey::VxlanFdb(name("ovx7"), mac(6))]);
        host.mirror_equals_dump().await;
    });
}

#[test]
fn foreign_hands_on_our_objects_are_told() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(everything(&container)).await;
        for command in [
            "bridge link set dev ovx7 learning on neigh_suppress off",
            "ip link set dev ovx7 type bridge_slave learning off",
            "bridge fdb replace 02:42:00:00:00:06 dev ovx7 dst 192.0.2.9 self permanent",
            "bridge fdb del 02:42:00:00:00:07 dev ovx7 master",
            "bridge fdb append 00:00:00:00:00:00 dev ovx7 dst 192.0.2.8 self permanent",
            "ip neigh replace 10.9.0.6 lladdr 02:42:00:00:00:06 dev ovb7 nud reachable",
            "ip neigh del 10.9.0.7 dev ovb7",
            "ip addr del 10.9.0.1/24 dev ovb7",
            "ip addr add 10.9.0.2/24 dev ovb7",
            "ip link set ovx7 nomaster",
            "ip link set ovb7 down",
            "ip link set ovb7 up",
            "ip link set ovb7 mtu 1400",
            "ip link set ovb7 address 02:00:00:00:00:01",
            "ip link set ovb7 alias mine",
            "ip link set ovb7 alias overlayd:0000000000000007",
            "ip link set ovb7 down; ip link set ovb7 name ovb8",
            "ip link set ovb8 name other",
            "ip link del ovx7",
        ] {
            run(command);
            host.apply(vec![]).await;
            host.mirror_equals_dump().await;
        }
        drop(container);
        lab::eventually("the veth goes with its namespace", || {
            (!run("ip -o link").contains("ove0")).then_some(())
        })
        .await;
        host.apply(vec![]).await;
        host.mirror_equals_dump().await;
    });
}

#[test]
fn a_setting_that_somebody_altered_is_told_and_restored_in_place() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(everything(&container)).await;
        let altered = |host: &Host, link: &str| match &host.mirror[&ObjectKey::Link(name(link))] {
            Object::Link(link) => link.altered.clone(),
            other => panic!("{other:?}"),
        };
        for link in ["ovb7", "ovx7"] {
            assert_eq!(altered(&host, link), BTreeSet::new(), "{link}, as it was made");
        }
        for (link, command, count) in [
            ("ovb7", "ip link set ovb7 type bridge mcast_snooping 1", 1),
            ("ovb7", "ip link set ovb7 type bridge stp_state 1", 1),
            ("ovb7", "ip link set ovb7 addrgenmode eui64", 1),
            ("ovx7", "ip link set ovx7 type vxlan learning", 1),
            ("ovx7", "bridge link set dev ovx7 flood off mcast_flood off bcast_flood off", 3),
            ("ovx7", "bridge link set dev ovx7 locked on", 1),
        ] {
            run(command);
            host.apply(vec![]).await;
            let restore = altered(&host, link);
            assert_eq!(restore.len(), count, "{command}: {restore:?}");
            host.mirror_equals_dump().await;
            let index = || {
                let shown = run(&format!("ip -o link show {link}"));
                shown.split(':').next().map(str::to_owned)
            };
            let before = index();
            let change = LinkChange { restore, ..LinkChange::default() };
            host.apply(vec![KernelOp::SetLink(name(link), change)]).await;
            assert_eq!(altered(&host, link), BTreeSet::new(), "{command}");
            assert_eq!(index(), before, "in place");
            host.mirror_equals_dump().await;
        }
        drop(container);
    });
}

#[test]
fn a_foreign_hand_is_named_where_the_kernel_names_it_and_our_own_is_not() {
    lab(async {
        let mut host = Host::open().await;
        let container = lab::Container::new();
        host.apply(everything(&container)).await;
        host.apply(vec![put(firewall(&["ovb7"]))]).await;
        let hands = |host: &Host| -> Vec<overlay_model::Hand> {
            let hand = |change: &KernelChange| match change {
                KernelChange::Object(_, _, Some(hand)) => Some((**hand).clone()),
                _ => None,
            };
            host.told.iter().filter_map(hand).collect()
        };
        assert_eq!(hands(&host), vec![], "all was our own doing");

        for command in ["ip neigh del 10.9.0.7 dev ovb7", "ip addr del 10.9.0.1/24 dev ovb7"] {
            host.told.clear();
            run(command);
            host.apply(vec![]).await;
            let hands = hands(&host);
            assert!(hands.iter().any(|hand| hand.port.is_some()), "{command}: {:?}", host.told);
        }
        // Of nftables the kernel says the process itself.
        let key = ObjectKey::Firewall;
        for (command, there) in [
            ("nft add rule inet overlayd forward counter", true),
            ("nft flush chain inet overlayd forward", true),
            ("nft delete table inet overlayd", false),
            ("nft 'add chain inet overlayd forward { policy drop; }'", true),
            ("nft flush ruleset", false),
        ] {
            host.apply(vec![put(firewall(&["ovb7"]))]).await;
            assert_eq!(host.mirror.get(&key), Some(&firewall(&["ovb7"]).1));
            host.told.clear();
            run(command);
            host.tells(&key, |now| now != Some(&firewall(&["ovb7"]).1)).await;
            assert_eq!(host.mirror.contains_key(&key), there, "{command}");
            let hands = hands(&host);
            let nft = hands.iter().any(|h| h.program.as_deref() == Some("nft") && h.pid.is_some());
            assert!(nft, "{command}: {hands:?}");
        }
        // Another table is no business of ours.
        host.apply(vec![put(firewall(&["ovb7"]))]).await;
        host.told.clear();
        run(
            "nft add table inet other; nft add chain inet other overlayd; nft delete table inet other",
        );
        run("nft add table ip overlayd; nft delete table ip overlayd");
        host.apply(vec![]).await;
        assert_eq!(host.told, vec![]);
        drop(container);
    });
}

#[test]
fn bridge_and_vxlan_tables_do_not_mix() {
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        host.apply(vec![put(fdb(7, 6, "192.0.2.2"))]).await;
        let shown = run("bridge fdb show | grep 02:42:00:00:00:06");
        assert_eq!(shown.trim(), "02:42:00:00:00:06 dev ovx7 dst 192.0.2.2 self permanent");
        let entries = remote(7, 6, "192.0.2.2");
        host.apply(entries.iter().cloned().map(put).collect()).await;
        host.apply(vec![del(fdb(7, 6, "192.0.2.2"))]).await;
        let shown = run("bridge fdb show | grep 02:42:00:00:00:06");
        assert!(shown.contains("extern_learn master ovb7") && !shown.contains("dst"), "{shown}");
        host.mirror_equals_dump().await;
    });
}

#[test]
fn the_firewall_isolates_bridges_and_knows_when_it_was_altered() {
    lab(async {
        let mut host = Host::open().await;
        let read = async |host: &Host| {
            host.kernel.dump().await.unwrap().objects.remove(&ObjectKey::Firewall)
        };
        assert_eq!(read(&host).await, None);
        for bridges in [&[][..], &["ovb7"], &["ovb7", "ovb16777215"]] {
            host.apply(vec![put(firewall(bridges))]).await;
            assert_eq!(read(&host).await, Some(firewall(bridges).1));
            host.mirror_equals_dump().await;
        }
        let altered = Some(altered());
        for hand in [
            "nft add rule inet overlayd forward accept",
            "nft insert rule inet overlayd forward iifname lo accept",
            "nft flush chain inet overlayd forward",
            "nft 'add chain inet overlayd mine'",
            "nft add element inet overlayd same_bridge '{ ovb7 . ovb8 }'",
            "nft 'add chain inet overlayd forward { policy drop; }'",
        ] {
            run(hand);
            assert_eq!(read(&host).await, altered, "after `{hand}`");
            host.apply(vec![put(firewall(&["ovb7"]))]).await;
            assert_eq!(read(&host).await, Some(firewall(&["ovb7"]).1));
        }
        run("nft delete table inet overlayd");
        assert_eq!(read(&host).await, None);
        host.apply(vec![put(firewall(&["ovb7"])), del(firewall(&["ovb7"]))]).await;
        assert_eq!(read(&host).await, None);
        host.mirror_equals_dump().await;
    });
}

/// Ports of the host, each with where it leads to.
fn nat(ports: &[(&str, u16, &[&str])]) -> (ObjectKey, Object) {
    let subnets = ["10.9.0.0/24", "fd00:9::/64"].map(|subnet| subnet.parse().unwrap()).into();
    let mut nat = Nat { subnets, ..Nat::default() };
    for (at, port, targets) in ports {
        let at = at.parse().ok();
        let front = Front::Host { protocol: Protocol::Tcp, port: *port, at };
        let targets: BTreeSet<SocketAddr> = targets.iter().map(|to| to.parse().unwrap()).collect();
        nat.direct.extend(targets.iter().map(SocketAddr::ip));
        nat.forwards.insert(front, targets);
    }
    (ObjectKey::Nat, Object::Nat(nat.into()))
}

#[test]
fn a_port_more_or_less_is_written_alone_and_the_table_is_as_if_written_whole() {
    lab(async {
        let mut host = Host::open().await;
        let text = || {
            let text = run("nft list table inet overlayd_nat");
            let words = text.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty());
            let mut words: Vec<String> = words.map(str::to_owned).collect();
            words.sort_unstable();
            words
        };
        let handle = || {
            let listing = run("nft -a list table inet overlayd_nat");
            listing.lines().next().unwrap().to_owned()
        };
        let web: &[&str] = &["10.9.0.2:80", "[fd00:9::2]:80"];
        let two: &[&str] = &["10.9.0.2:81", "10.9.0.3:81"];
        let first = ("", 8080, web);
        // What is wanted one after the other, and whether elements do.
        let steps = [
            (vec![first], false),
            (vec![first, ("", 8081, &["10.9.0.3:80"][..])], true),
            (
                vec![first, ("192.0.2.1", 8081, web), ("2001:db8::1", 8081, &["[fd00:9::2]:80"])],
                true,
            ),
            (vec![("2001:db8::1", 8081, &["[fd00:9::2]:80"])], true),
            (vec![], true),
            (vec![first, ("", 9000, two)], false),
            (vec![("", 9000, two), ("", 9001, &["10.9.0.2:90"])], true),
            // It leads elsewhere, and has counted.
            (vec![("", 9000, two), ("", 9001, &["10.9.0.2:91"])], false),
            (vec![("", 9001, &["10.9.0.2:91"])], false),
        ];
        let mut before = String::new();
        for (n, (ports, by_elements)) in steps.iter().enumerate() {
            let wanted = nat(ports);
            host.apply(vec![put(wanted.clone())]).await;
            assert_eq!(handle() == before, *by_elements, "step {n}: {before}");
            host.tells(&ObjectKey::Nat, |now| now == Some(&wanted.1)).await;
            host.mirror_equals_dump().await;
            let alone = text();
            run("nft delete table inet overlayd_nat");
            host.apply(vec![put(wanted.clone())]).await;
            assert_eq!(alone, text(), "step {n}");
            before = handle();
        }

        // What another hand has done to the table goes with the next change.
        let wanted = nat(&[first]);
        host.apply(vec![put(wanted.clone())]).await;
        let sound = text();
        for hand in [
            "nft add element inet overlayd_nat host4 '{ tcp . 9999 : 10.9.0.9 . 9 }'",
            "nft flush set inet overlayd_nat targets4",
            "nft insert rule inet overlayd_nat prerouting accept",
        ] {
            host.apply(vec![put(nat(&[first, ("", 7, web)]))]).await;
            run(hand);
            host.apply(vec![put(wanted.clone())]).await;
            assert_eq!(text(), sound, "after `{hand}`");
        }
        // And before us, so that we remember nothing of it.
        let mut host = Host::open().await;
        host.apply(vec![put(nat(&[first, ("", 7, web)]))]).await;
        host.apply(vec![put(wanted.clone())]).await;
        assert_eq!(text(), sound);
        host.apply(vec![del(wanted)]).await;
        host.mirror_equals_dump().await;
    });
}

#[test]
fn the_rules_of_ports_are_read_as_written_and_known_when_altered() {
    lab(async {
        let mut host = Host::open().await;
        let web = guard("ove000000000001", 5, &["10.9.0.5", "2001:db8:9::5"]);
        let tap = guard("tap-with.dot", 6, &["10.9.0.6"]);
        let bare = guard("ove000000000003", 7, &[]);
        let ops = vec![put(port_rules()), put(web.clone()), put(tap.clone()), put(bare.clone())];
        host.apply(ops).await;
        let read = async |host: &Host, key: &ObjectKey| {
            host.kernel.dump().await.unwrap().objects.remove(key)
        };
        for (key, object) in [&web, &tap, &bare] {
            assert_eq!(read(&host, key).await.as_ref(), Some(object));
        }
        host.mirror_equals_dump().await;
        let moved = guard("ove000000000001", 9, &["10.9.0.9"]);
        host.apply(vec![put(moved.clone())]).await;
        assert_eq!(read(&host, &web.0).await, Some(moved.1.clone()));
        host.apply(vec![put(web.clone()), del(bare.clone()), del(bare.clone())]).await;
        assert_eq!(read(&host, &bare.0).await, None);
        host.mirror_equals_dump().await;

        // Another hand at a port: told, and put right without a look at others.
        for hand in [
            "nft delete element bridge overlayd own_ip4 '{ ove000000000001 . 02:42:00:00:00:05 . 10.9.0.5 }'",
            "nft add element bridge overlayd own_mac '{ ove000000000001 . 02:42:00:00:00:66 }'",
            "nft flush set bridge overlayd own_ip6",
            "nft flush set bridge overlayd lied_arp",
        ] {
            run(hand);
            host.tells(&web.0, |now| now != Some(&web.1)).await;
            host.apply(vec![put(web.clone()), put(tap.clone())]).await;
            assert_eq!(read(&host, &web.0).await.as_ref(), Some(&web.1), "after `{hand}`");
            host.mirror_equals_dump().await;
        }

        // Another hand at the rules: told, and written again with all elements.
        for hand in [
            "nft insert rule bridge overlayd prerouting accept",
            "nft flush chain bridge overlayd port",
            "nft 'add chain bridge overlayd prerouting { policy drop; }'",
            "nft flush set bridge overlayd written",
        ] {
            run(hand);
            host.tells(&ObjectKey::PortRules, |now| now != Some(&port_rules().1)).await;
            host.apply(vec![put(port_rules())]).await;
            for (key, object) in [&port_rules(), &web, &tap] {
                assert_eq!(read(&host, key).await.as_ref(), Some(object), "after `{hand}`");
            }
            host.mirror_equals_dump().await;
        }

        // Without the table nothing may be said, and no port is made.
        run("nft delete table bridge overlayd");
        host.tells(&web.0, |now| now.is_none()).await;
        let container = lab::Container::new();
        let ops = vec![bridge(7), put(web.clone()), veth(7, 1, &container, &["10.9.0.5/24"], &[])];
        let report = host.kernel.apply(ops).await;
        let failed: Vec<String> = report.failed.iter().map(|f| f.text.clone()).collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed.iter().all(|text| text.contains("elements of ports")), "{failed:?}");
        // All at once: in one transaction with the table.
        host.apply(vec![put(port_rules()), put(web.clone()), put(tap.clone())]).await;
        host.mirror_equals_dump().await;
        host.apply(vec![del(web.clone()), del(port_rules())]).await;
        assert_eq!(run("nft list ruleset"), "");
    });
}

#[test]
fn a_missing_nft_is_named_and_stops_nothing_else() {
    lab(async {
        let mut host = Host::open().await;
        run("mount -t tmpfs tmpfs \"$(dirname \"$(realpath \"$(command -v nft)\")\")\"");
        let report = host.kernel.apply(vec![put(firewall(&["ovb7"])), bridge(7)]).await;
        let [failure] = report.failed.as_slice() else { panic!("{report:?}") };
        assert_eq!(failure.refusal, Refusal::Other);
        assert_eq!(failure.text, "nft is not installed: apt-get install nftables");
        assert_eq!(report.done, 1);
        host.mirror_equals_dump().await;
    });
}

#[test]
fn netns_of_says_what_is_wrong() {
    lab(async {
        run("ip netns add c1");
        let by_name = netns_of(Path::new("c1")).unwrap();
        assert_eq!(by_name, netns_of(Path::new("/run/netns/c1")).unwrap());
        let again = {
            run("ip netns del c1 && ip netns add c1");
            netns_of(Path::new("c1")).unwrap()
        };
        assert_ne!(by_name.cookie, again.cookie);
        assert!(matches!(peer_ifnames(&by_name), Err(NetnsError::NotFound(_))));
        assert_eq!(peer_ifnames(&again).unwrap(), BTreeSet::from([name("lo")]));
        let looked = look_into(Path::new("c1")).unwrap();
        assert_eq!(looked, (again.clone(), BTreeSet::from([name("lo")])));

        let error = |path: &str| netns_of(Path::new(path)).unwrap_err().to_string();
        assert_eq!(
            error("c2"),
            "network namespace /run/netns/c2 does not exist; list them with: ip netns"
        );
        run("mkfifo /run/fifo && touch /run/file");
        for odd in ["/run/fifo", "/run/file", "/run", "/dev/null", "/proc/self/ns/mnt"] {
            assert_eq!(
                error(odd),
                format!(
                    "{odd} is not a network namespace; give a name of `ip netns`, \
                     or a path like /proc/PID/ns/net"
                )
            );
        }
        assert!(matches!(
            netns_of(Path::new("/proc/thread-self/ns/net")),
            // A helper thread has another thread-self, in the same namespace.
            Err(NetnsError::Own(_))
        ));
        assert!(matches!(
            netns_of(Path::new("/proc/4194305/ns/net")),
            Err(NetnsError::NotFound(_))
        ));
    });
}

#[test]
fn the_underlay_is_found_or_the_option_is_named() {
    lab(async {
        let ask = async |vtep: Option<&str>, dev: Option<&str>| {
            let dev = dev.map(name);
            underlay_for(&Wanted {
                vteps: vtep.iter().map(|v| v.parse().unwrap()).collect(),
                dev,
                both: false,
            })
            .await
            .map(|u| format!("{} {} {}", u.dev, u.addr, u.mtu))
            .map_err(|err| err.to_string())
        };
        assert_eq!(
            ask(None, None).await.unwrap_err(),
            "cannot tell which address other hosts reach this one at: no default route, and no \
             address; pass --vtep-ip or --underlay-dev"
        );
        run("ip link add up0 type bridge && ip addr add 2001:db8::1/64 dev up0 nodad &&
             ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up mtu 9000");
        assert_eq!(ask(None, None).await.unwrap(), "up0 192.0.2.1 9000");
        run("ip link add up1 type bridge && ip addr add 198.51.100.1/24 dev up1 &&
             ip addr add 198.51.100.9/24 dev up1 && ip link set up1 up");
        assert_eq!(
            ask(None, None).await.unwrap_err(),
            "cannot tell which address other hosts reach this one at: no default route, and a \
             choice of 192.0.2.1, 198.51.100.1, 198.51.100.9, 2001:db8::1; \
             pass --vtep-ip or --underlay-dev"
        );
        run("ip route add default via 198.51.100.2 metric 50");
        assert_eq!(ask(None, None).await.unwrap(), "up1 198.51.100.1 1500");
        run("ip route add default via 198.51.100.2 src 198.51.100.9 metric 5");
        assert_eq!(ask(None, None).await.unwrap(), "up1 198.51.100.9 1500");
        assert_eq!(ask(None, Some("up0")).await.unwrap(), "up0 192.0.2.1 9000");
        assert_eq!(ask(Some("2001:db8::1"), None).await.unwrap(), "up0 2001:db8::1 9000");
        assert_eq!(
            ask(Some("192.0.2.1"), Some("up1")).await.unwrap_err(),
            "--vtep-ip 192.0.2.1 is on no device up1; this host has 192.0.2.1, 198.51.100.1, \
             198.51.100.9, 2001:db8::1"
        );
        assert_eq!(
            ask(None, Some("eth7")).await.unwrap_err(),
            "--underlay-dev eth7 does not exist; this host has up0, up1"
        );
        run("ip link add up2 type bridge");
        assert_eq!(
            ask(None, Some("up2")).await.unwrap_err(),
            "--underlay-dev up2 has no global address; give it one or choose another device"
        );
    });
}

#[test]
fn a_refused_operation_among_many_is_the_only_one_that_fails() {
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        let mut ops: Vec<KernelOp> = (0..1000).map(|n| put(fdb(7, n + 100, "192.0.2.2"))).collect();
        // A VXLAN device over IPv4 takes no IPv6 destination.
        let wrong = put(fdb(7, 9, "2001:db8::2"));
        ops.insert(300, wrong.clone());
        ops.insert(700, put(neigh(8, "10.9.0.6", 6)));
        let report = host.kernel.apply(ops).await;
        assert_eq!(report.done, 1000);
        let [vxlan, neigh] = report.failed.as_slice() else { panic!("{:?}", report.failed) };
        assert_eq!(vxlan.op, wrong);
        assert_eq!(neigh.refusal, Refusal::NoDevice);
        host.mirror_equals_dump().await;
    });
}

/// What the calling thread has used of a CPU.
fn cpu_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(nix::time::clock_gettime(clock).unwrap())
}

#[test]
fn ten_thousand_endpoints_are_applied_quickly() {
    const ENDPOINTS: u32 = 10_000;
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        let entries: Vec<_> = (0..ENDPOINTS)
            .flat_map(|n| remote(7, n + 16, &format!("192.0.2.{}", 2 + n % 200)))
            .collect();
        let count = entries.len();
        let puts: Vec<KernelOp> = entries.iter().cloned().map(put).collect();
        let (start, cpu_before) = (Instant::now(), cpu_time());
        let report = host.kernel.apply(puts).await;
        let (took, cpu) = (start.elapsed(), cpu_time() - cpu_before);
        println!(
            "{count} entries put and told in {took:?}: {:.0} a second ({})",
            count as f64 / took.as_secs_f64(),
            if cfg!(debug_assertions) { "debug build" } else { "release build" },
        );
        assert_eq!((report.done, report.failed.len()), (count, 0));
        host.drain();
        host.mirror_equals_dump().await;
        assert_eq!(host.mirror.len(), count + 2);

        // Of this thread's own time, because others share the machine. One
        // message per system call would be several times the limit.
        println!("of which {:?} an entry on the CPU", cpu / count as u32);
        assert!(cpu / (count as u32) < Duration::from_micros(50), "not in batches? {cpu:?}");

        let start = Instant::now();
        host.apply(entries.into_iter().map(del).collect()).await;
        println!("{count} entries deleted in {:?}", start.elapsed());
        assert_eq!(host.mirror.len(), 2);
        host.mirror_equals_dump().await;
    });
}

#[test]
fn an_attach_does_not_wait_as_a_detach_does() {
    lab(async {
        let host = Host::open().await;
        host.kernel.apply(vec![bridge(7)]).await;
        let timed = async |op: KernelOp| {
            let start = Instant::now();
            let report = host.kernel.apply(vec![op]).await;
            assert_eq!(report.failed, []);
            start.elapsed()
        };
        let containers: Vec<_> = (0..40).map(|_| lab::Container::new()).collect();
        let mut attach = Vec::new();
        let mut detach = Vec::new();
        for (n, container) in (1..).zip(&containers) {
            let address = format!("10.9.0.{}/24", n + 10);
            attach.push(timed(veth(7, n, container, &[&address], &["10.9.0.1"])).await);
        }
        for n in 1..=10 {
            detach.push(timed(KernelOp::DelLink(lab::veth_name(n))).await);
        }
        attach.sort();
        detach.sort();
        let (p50, p95) = (attach[attach.len() / 2], attach[attach.len() * 95 / 100]);
        println!("attach: p50 {p50:?}, p95 {p95:?}; detach: p50 {:?}", detach[detach.len() / 2]);
        // Tearing a veth down waits for all CPUs (RCU), 16 ms here. Nothing of
        // that kind may be on the way of an attach, which takes about 1 ms. The
        // fastest of each, because other tests hold the kernel's lock as well.
        assert!(attach[0] < detach[0] / 2, "{attach:?} {detach:?}");
    });
}

#[test]
fn lost_notifications_are_made_good_by_a_snapshot() {
    lab(async {
        let mut host = Host::open().await;
        host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1")]).await;
        host.told.clear();
        // More notifications than the socket can keep, while the watch (a task
        // on this very thread) cannot read any: `run` blocks.
        let mut script = String::new();
        for n in 0..120_000u32 {
            let m = MacAddr([2, 0, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
            script += &format!("fdb add {m} dev ovx7 dst 192.0.2.2 self permanent\n");
        }
        std::fs::write("/run/batch", script).unwrap();
        run("bridge -batch /run/batch");
        host.apply(vec![]).await;
        let snapshots = host.told.iter().filter(|c| matches!(c, KernelChange::Snapshot(_))).count();
        assert!(snapshots >= 1, "the kernel kept all notifications: raise the burst");
        assert_eq!(host.mirror.len(), 120_002);
        host.mirror_equals_dump().await;

        // And the watch goes on from there.
        host.apply(vec![del((
            ObjectKey::VxlanFdb(name("ovx7"), MacAddr([2, 0, 0, 0, 0, 9])),
            Object::VxlanFdb { dst: "192.0.2.2".parse().unwrap() },
        ))])
        .await;
        assert_eq!(host.mirror.len(), 120_001);
        host.mirror_equals_dump().await;
    });
}

#[test]
fn two_handles_in_one_namespace_see_each_other() {
    lab(async {
        let mut one = Host::open().await;
        let mut two = Host::open().await;
        one.apply(vec![bridge(7)]).await;
        two.apply(vec![vxlan(7, 4789, "192.0.2.1"), put(fdb(7, 6, "192.0.2.2"))]).await;
        one.apply(vec![KernelOp::DelLink(name("ovx7")), vxlan(7, 4789, "192.0.2.1")]).await;
        // `two` remembers the index of a link that is gone.
        two.apply(vec![put(fdb(7, 6, "192.0.2.2"))]).await;
        one.apply(vec![]).await;
        one.mirror_equals_dump().await;
        two.mirror_equals_dump().await;
        assert_eq!(one.mirror, two.mirror);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Ours(KernelOp),
    /// Somebody else's command; its own failure is of no interest.
    Hand(String),
    Veth(u32, u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    let vni = 7u32..9;
    let host = prop_oneof!["192.0.2.2", "192.0.2.3"]
        .prop_map(|_| ())
        .prop_flat_map(|()| prop_oneof![Just("192.0.2.2"), Just("192.0.2.3")]);
    let entry =
        (vni.clone(), 5u32..9, host, 0..6, any::<bool>()).prop_map(|(vni, n, host, kind, on)| {
            let entry = match kind {
                0 => fdb(vni, n, host),
                1 => flood(vni, host),
                2 => neigh(vni, &format!("10.9.0.{n}"), n),
                3 => neigh(vni, &format!("2001:db8:9::{n}"), n),
                4 => remote(vni, n, host).remove(1),
                _ => local_fdb(vni, vni - 6, n),
            };
            Step::Ours(if on { put(entry) } else { del(entry) })
        });
    let addresses = (vni.clone(), any::<bool>(), any::<bool>()).prop_map(|(vni, v6, on)| {
        let text = if v6 { "2001:db8:9::1/64" } else { "10.9.0.1/24" };
        let entry = address(&format!("ovb{vni}"), text);
        Step::Ours(if on { put(entry) } else { del(entry) })
    });
    let links = (vni.clone(), 0..7, any::<bool>()).prop_map(|(vni, kind, on)| {
        let change =
            |change: LinkChange| Step::Ours(KernelOp::SetLink(name(&format!("ovx{vni}")), change));
        match kind {
            0 => Step::Ours(bridge(vni)),
            1 => Step::Ours(vxlan(vni, 4789, "192.0.2.1")),
            2 => Step::Veth(vni, vni - 6),
            3 => Step::Ours(KernelOp::DelLink(match on {
                true => name(&format!("ovx{vni}")),
                false => lab::veth_name(vni - 6),
            })),
            4 => change(LinkChange { up: Some(on), ..Default::default() }),
            5 => change(LinkChange {
                master: Some(name(&format!("ovb{vni}"))),
                port: Some(PortFlags {
                    learning: on,
                    neigh_suppress: !on,
                    isolated: false,
                    hairpin: false,
                }),
                ..Default::default()
            }),
            _ => {
                change(LinkChange { mtu: Some(if on { 1450 } else { 1400 }), ..Default::default() })
            }
        }
    });
    let hands = (vni, 0..10).prop_map(|(vni, what)| {
        Step::Hand(match what {
            0 => format!("ip link del ovb{vni}"),
            1 => format!("ip link set ovx{vni} nomaster"),
            2 => format!("ip link set ovb{vni} down; ip link set ovb{vni} up"),
            3 => format!("bridge link set dev ovx{vni} learning on neigh_suppress off"),
            4 => {
                format!("ip neigh replace 10.9.0.6 lladdr 02:42:00:00:00:16 dev ovb{vni} nud stale")
            }
            5 => format!(
                "bridge fdb replace 02:42:00:00:00:06 dev ovx{vni} dst 192.0.2.7 self permanent"
            ),
            6 => format!("bridge fdb replace 02:42:00:00:00:07 dev ovx{vni} master dynamic"),
            7 => format!("ip neigh flush dev ovb{vni} nud all"),
            // Of an alias that changes on a link that is down, the kernel says nothing.
            8 => format!("ip link set ovx{vni} up && ip link set ovx{vni} alias foreign"),
            _ => format!("ip link set ovb{vni} address 02:00:00:00:00:0{vni}"),
        })
    });
    prop_oneof![4 => entry, 1 => addresses, 3 => links, 1 => hands]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_watch_ends_where_a_dump_begins(steps in prop::collection::vec(any_step(), 1..60)) {
        lab(async move {
            let mut host = Host::open().await;
            let container = lab::Container::new();
            host.apply(vec![bridge(7), vxlan(7, 4789, "192.0.2.1"), bridge(8)]).await;
            for step in steps {
                match step {
                    Step::Ours(op) => drop(host.try_apply(vec![op]).await),
                    Step::Hand(command) => drop(lab::try_run(&command)),
                    Step::Veth(vni, n) => {
                        let op = veth(vni, n, &container, &["10.9.0.5/24"], &["10.9.0.1"]);
                        drop(host.try_apply(vec![op]).await);
                    }
                }
            }
            host.apply(vec![]).await;
            host.mirror_equals_dump().await;
        });
    }
}

#[test]
fn a_kernel_opened_late_sees_what_an_earlier_one_made() {
    lab(async {
        let container = lab::Container::new();
        let ops = everything(&container);
        {
            let mut early = Host::open().await;
            early.apply(ops.clone()).await;
        }
        let (late, _changes) = Kernel::open().await.unwrap();
        assert_eq!(late.dump().await.unwrap().objects, lab::after(&ops));
        let gone: IpAddr = "10.9.0.6".parse().unwrap();
        let report = late
            .apply(vec![KernelOp::Del(
                ObjectKey::Neigh(name("ovb7"), gone),
                Object::Neigh { mac: mac(6) },
            )])
            .await;
        assert_eq!((report.done, report.failed), (1, vec![]));
        assert!(
            !late.dump().await.unwrap().objects.contains_key(&ObjectKey::Neigh(name("ovb7"), gone))
        );
    });
}

#[test]
fn a_vxlan_device_takes_another_address_of_its_family_and_keeps_its_entries() {
    lab::lab(async {
        let container = lab::Container::new();
        let (kernel, _changes) = Kernel::open().await.unwrap();
        let report = kernel.apply(everything(&container)).await;
        assert_eq!(report.failed, []);
        let before = kernel.dump().await.unwrap().objects;
        let local = Some("192.0.2.77".parse().unwrap());
        let op = KernelOp::SetLink(name("ovx7"), LinkChange { local, ..LinkChange::default() });
        assert_eq!(op.to_string(), "ip link set ovx7 type vxlan local 192.0.2.77");
        assert_eq!(kernel.apply(vec![op]).await.failed, []);
        let after = kernel.dump().await.unwrap().objects;
        let differ: Vec<_> =
            after.iter().filter(|(key, o)| before.get(key).as_ref() != Some(o)).collect();
        let [(ObjectKey::Link(link), Object::Link(now))] = differ.as_slice() else {
            panic!("{differ:?}")
        };
        assert_eq!(link.as_str(), "ovx7");
        assert!(matches!(&now.kind, LinkKind::Vxlan { local: l, .. } if Some(*l) == local));
        assert_eq!(after.len(), before.len(), "entries went");
        // The text is a command that does it.
        lab::run("ip link set ovx7 type vxlan local 192.0.2.78");
        assert!(lab::run("ip -d link show ovx7").contains("local 192.0.2.78"));
    });
}

/// What is told next, as a line.
async fn told(
    follow: &mut tokio::sync::mpsc::UnboundedReceiver<
        Result<overlay_netlink::Underlay, overlay_netlink::UnderlayError>,
    >,
) -> String {
    let told = tokio::time::timeout(std::time::Duration::from_secs(5), follow.recv()).await;
    match told.expect("something is told").expect("it goes on") {
        Ok(underlay) => {
            let addrs: Vec<String> = underlay.addrs().map(|addr| addr.to_string()).collect();
            format!("{} {} {}", underlay.dev, addrs.join(" and "), underlay.mtu)
        }
        Err(err) => err.to_string(),
    }
}

#[test]
fn the_underlay_is_followed_when_its_address_or_mtu_changes() {
    lab::lab(async {
        lab::run(
            "ip link add eth0 mtu 1500 type veth peer name far0 && ip link set far0 up &&
             ip link set eth0 addrgenmode none && ip addr add 192.0.2.1/24 dev eth0 &&
             ip addr add 2001:db8::1/64 dev eth0 nodad && ip link set eth0 up",
        );
        let eth0 = Some(name("eth0"));
        let wanted = Wanted { dev: eth0, ..Wanted::default() };
        let was = underlay_for(&wanted).await.unwrap();
        let mut follow = overlay_netlink::follow_underlay(wanted, was.clone()).unwrap();
        lab::run("ip link set eth0 mtu 1400");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.1 1400");
        // A second address changes nothing while the first is there.
        lab::run("ip addr add 192.0.2.9/24 dev eth0 && ip link set eth0 mtu 1450");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.1 1450");
        lab::run("ip addr del 192.0.2.1/24 dev eth0; ip addr replace 192.0.2.9/24 dev eth0");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.9 1450");
        // Nor does what we make ourselves, and the other family never.
        lab::run("ip addr del 192.0.2.9/24 dev eth0");
        assert!(
            told(&mut follow).await.starts_with("this host has no other IPv4 address, only 2001")
        );
        lab::run("ip addr add 192.0.2.10/24 dev eth0");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.10 1450");

        // One that was chosen by hand is waited for.
        let chosen = Wanted { vteps: vec!["192.0.2.10".parse().unwrap()], ..Wanted::default() };
        let was = underlay_for(&chosen).await.unwrap();
        let mut follow = overlay_netlink::follow_underlay(chosen, was).unwrap();
        lab::run("ip addr add 192.0.2.11/24 dev eth0; ip addr del 192.0.2.10/24 dev eth0");
        assert!(told(&mut follow).await.starts_with("--vtep-ip 192.0.2.10 is on no device"));
        lab::run("ip addr add 192.0.2.10/24 dev eth0");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.10 1450");
    });
}

#[test]
fn of_two_families_each_is_followed_and_one_is_enough() {
    lab::lab(async {
        lab::run(
            "ip link add eth0 mtu 1500 type veth peer name far0 && ip link set far0 up &&
             ip link add eth6 mtu 1400 type veth peer name far6 && ip link set far6 up &&
             ip link set eth0 addrgenmode none && ip link set eth6 addrgenmode none &&
             ip addr add 192.0.2.1/24 dev eth0 && ip addr add 2001:db8::1/64 dev eth6 nodad &&
             ip link set eth0 up && ip link set eth6 up",
        );
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let both = Wanted { both: true, ..Wanted::default() };
        let told_twice = Wanted { vteps: vec![v6, v4], ..Wanted::default() };
        for wanted in [&both, &told_twice] {
            let found = underlay_for(wanted).await.unwrap();
            assert_eq!(found.addrs().collect::<Vec<_>>(), [v4, v6], "IPv4 first");
            assert_eq!(found.devs().collect::<Vec<_>>(), [&name("eth0"), &name("eth6")]);
            assert_eq!(found.mtu, 1400, "the lesser one");
        }
        let one = underlay_for(&Wanted { dev: Some(name("eth0")), ..both.clone() }).await.unwrap();
        assert_eq!((one.addr, one.other), (v4, None), "there is no other one on eth0");

        let elsewhere = Wanted { vteps: vec![v4, "2001:db8::9".parse().unwrap()], ..both.clone() };
        let refused = underlay_for(&elsewhere).await.unwrap_err().to_string();
        assert!(refused.starts_with("--vtep-ip 2001:db8::9 is on no device"), "{refused}");

        let was = underlay_for(&both).await.unwrap();
        let mut follow = overlay_netlink::follow_underlay(both, was).unwrap();
        lab::run("ip addr del 192.0.2.1/24 dev eth0");
        assert_eq!(told(&mut follow).await, "eth6 2001:db8::1 1400");
        lab::run("ip addr add 192.0.2.9/24 dev eth0");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.9 and 2001:db8::1 1400");
        lab::run("ip addr del 2001:db8::1/64 dev eth6");
        assert_eq!(told(&mut follow).await, "eth0 192.0.2.9 1500");
        lab::run("ip addr del 192.0.2.9/24 dev eth0");
        assert!(told(&mut follow).await.starts_with("this host has no other IPv4 address"));
        lab::run("ip addr add 2001:db8::7/64 dev eth0 nodad");
        assert_eq!(told(&mut follow).await, "eth0 2001:db8::7 1500");
    });
}

#[test]
fn a_device_of_each_family_stands_beside_the_other_on_one_vni() {
    lab(async {
        let mut host = Host::open().await;
        let isolated = |op: KernelOp, as_name: &str, mac: MacAddr| {
            let KernelOp::AddLink(_, mut link) = op else { unreachable!() };
            link.port = Some(PortFlags {
                learning: false,
                neigh_suppress: true,
                isolated: true,
                hairpin: false,
            });
            link.mac = mac;
            KernelOp::AddLink(name(as_name), link)
        };
        let second = vxlan(7, 4789, "2001:db8::1");
        let to = |dev: &str, dst: &str| {
            let key = ObjectKey::VxlanFdb(name(dev), mac(9));
            put((key, Object::VxlanFdb { dst: dst.parse().unwrap() }))
        };
        let ops = vec![
            bridge(7),
            isolated(vxlan(7, 4789, "192.0.2.1"), "ovx7", mac(1)),
            isolated(second.clone(), "ovx7-6", mac(2)),
            put(flood(7, "192.0.2.2")),
            put((ObjectKey::Flood(name("ovx7-6"), "2001:db8::3".parse().unwrap()), Object::Flood)),
            to("ovx7", "192.0.2.2"),
            to("ovx7-6", "2001:db8::3"),
        ];
        host.apply(ops.clone()).await;
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));
        host.mirror_equals_dump().await;

        // Another hand opens the way between them.
        run("bridge link set dev ovx7-6 isolated off");
        let open = |object: Option<&Object>| matches!(object, Some(Object::Link(l)) if l.port.is_some_and(|p| !p.isolated));
        host.tells(&ObjectKey::Link(name("ovx7-6")), open).await;
        let port = Some(PortFlags {
            learning: false,
            neigh_suppress: true,
            isolated: true,
            hairpin: false,
        });
        let change = LinkChange { port, ..LinkChange::default() };
        host.apply(vec![KernelOp::SetLink(name("ovx7-6"), change)]).await;
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));

        // Neither takes a destination of the other's family.
        let wrong = vec![to("ovx7", "2001:db8::3"), to("ovx7-6", "192.0.2.2")];
        let refused = host.try_apply(wrong).await.failed;
        let refused: Vec<_> = refused.iter().map(|f| f.errno.as_deref()).collect();
        assert_eq!(refused, [Some("EAFNOSUPPORT"); 2]);

        // A third device would be of one of the two families.
        let third = isolated(second, "ovx8", mac(3));
        let refused = host.try_apply(vec![third]).await.failed;
        let [failure] = refused.as_slice() else { panic!("{refused:?}") };
        assert_eq!(failure.refusal, Refusal::Taken);
        assert_eq!(
            failure.text,
            "VNI 7 on UDP port 4789 is held by device ovx7-6; remove it or choose another VNI"
        );
    });
}

#[test]
fn a_bridge_says_whose_it_is_and_a_veth_where_it_leads() {
    lab(async {
        let mut host = Host::open().await;
        let id = |n: u8| -> HostId {
            format!("00000000-0000-0000-0000-0000000000{n:02}").parse().unwrap()
        };
        let me = id(7);
        assert_eq!(overlay_netlink::former_host().await.unwrap(), None);
        assert_eq!(overlay_netlink::homes().await.unwrap(), BTreeMap::new());

        run("ip netns add web && ip netns add other");
        let netns = netns_of(Path::new("web")).unwrap();
        let mut ops = vec![bridge(7), bridge(8)];
        for op in &mut ops {
            let KernelOp::AddLink(_, link) = op else { panic!("a bridge") };
            link.host = Some(me);
        }
        let mut at_web = |n: u32, gateways: &[&str]| {
            let container = lab::Container::new();
            let mut op = veth(7, n, &container, &["10.9.0.5/24"], gateways);
            let KernelOp::AddLink(_, link) = &mut op else { panic!("a veth") };
            let LinkKind::Veth { peer: Some(peer) } = &mut link.kind else { panic!("a peer") };
            peer.netns = netns.clone();
            ops.push(op);
        };
        at_web(1, &["10.9.0.1"]);
        at_web(2, &[]);
        host.apply(ops.clone()).await;
        assert_eq!(host.kernel.dump().await.unwrap().objects, lab::after(&ops));
        host.mirror_equals_dump().await;

        assert_eq!(overlay_netlink::former_host().await.unwrap(), Some(me));
        let home = |ifname: &str, default_route| overlay_netlink::Home {
            netns: netns.clone(),
            ifname: name(ifname),
            default_route,
        };
        let homes = [(1, home("eth1", true)), (2, home("eth2", false))];
        let homes = homes.map(|(n, home)| (EndpointId::from_bits(n), home));
        assert_eq!(overlay_netlink::homes().await.unwrap(), BTreeMap::from(homes));

        // Two machines claim to be it: neither is to find that again.
        let alias = Some(alias_of(NetworkId(7), None));
        let change = LinkChange { alias, ..LinkChange::default() };
        host.apply(vec![KernelOp::SetLink(name("ovb7"), change)]).await;
        host.mirror_equals_dump().await;
        let mirrored = host.kernel.dump().await.unwrap().objects;
        assert_eq!(mirrored.link(&name("ovb7")).unwrap().host, None);
        assert_eq!(overlay_netlink::former_host().await.unwrap(), Some(me), "one says it still");
        // Bridges of two hosts: nobody knows.
        run(&format!(
            "ip link set ovb7 alias '{}'",
            overlay_model::kernel::alias_of(overlay_model::NetworkId(7), Some(id(8)))
        ));
        assert_eq!(overlay_netlink::former_host().await.unwrap(), None);
    });
}

#[test]
fn a_pair_for_somebody_else_is_made_anew_and_removed_and_nothing_of_others() {
    lab(async {
        let (near, far) = (name("ovd0123456789"), name("ovc0123456789"));
        let pair = || overlay_netlink::make_pair(&near, &far, 1450, mac(7));
        pair().await.unwrap();
        run("ip link set ovc0123456789 up");
        // Left behind by somebody who died in between.
        pair().await.unwrap();
        let shown = run("ip -d link show ovc0123456789");
        assert!(shown.contains("mtu 1450") && shown.contains(&mac(7).to_string()), "{shown}");
        assert!(!shown.contains(",UP"), "{shown}");
        overlay_netlink::remove_pair(&near).await.unwrap();
        overlay_netlink::remove_pair(&near).await.unwrap();
        run("ip link add ovd0123456789 type veth peer name other");
        let refused = pair().await.unwrap_err().to_string();
        assert!(refused.contains("which overlayd has not made"), "{refused}");
        assert!(overlay_netlink::remove_pair(&near).await.is_err());
        run("ip link show other");
    });
}
