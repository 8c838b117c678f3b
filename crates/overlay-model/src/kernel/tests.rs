use expect_test::{Expect, expect};

use super::*;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

#[track_caller]
fn check(ops: &[KernelOp], text: Expect) {
    text.assert_eq(&ops.iter().map(|op| format!("{op}\n")).collect::<String>());
}

fn link(kind: LinkKind) -> Link {
    Link {
        network: NetworkId(7),
        host: None,
        mtu: 1450,
        mac: "02:42:0a:00:09:01".parse().unwrap(),
        up: true,
        master: None,
        port: None,
        altered: BTreeSet::new(),
        kind,
    }
}

#[test]
fn links_print_as_the_commands_that_make_them() {
    let vni = Vni::new(4097).unwrap();
    let master = Some(vni.bridge());
    let port = Some(PortFlags { neigh_suppress: true, ..PortFlags::default() });
    let vxlan = LinkKind::Vxlan {
        vni,
        port: 4789,
        local: "192.0.2.1".parse().unwrap(),
        outer: Outer::default(),
    };
    let peer = VethPeer {
        netns: NetnsRef { path: "/run/netns/web".into(), cookie: 1 },
        ifname: name("eth0"),
        mac: "02:42:0a:00:09:05".parse().unwrap(),
        mtu: 1450,
        addresses: vec!["10.0.9.5/24".parse().unwrap()],
        gateways: vec!["10.0.9.1".parse().unwrap()],
    };
    check(
        &[
            KernelOp::AddLink(vni.bridge(), link(LinkKind::Bridge).into()),
            KernelOp::AddLink(
                vni.vxlan(),
                Link { master: master.clone(), port, ..link(vxlan) }.into(),
            ),
            KernelOp::AddLink(
                name("ove000000000005"),
                Link { master, ..link(LinkKind::Veth { peer: Some(Box::new(peer)) }) }.into(),
            ),
            KernelOp::SetLink(
                vni.vxlan(),
                LinkChange { mtu: Some(1400), up: Some(true), port, ..LinkChange::default() },
            ),
            KernelOp::SetLink(vni.vxlan(), LinkChange { port, ..LinkChange::default() }),
            KernelOp::DelLink(vni.vxlan()),
        ],
        expect![[r#"
            ip link add ovb4097 address 02:42:0a:00:09:01 mtu 1450 addrgenmode none alias overlayd:0000000000000007 up type bridge mcast_snooping 0
            ip link add ovx4097 address 02:42:0a:00:09:01 mtu 1450 master ovb4097 addrgenmode none alias overlayd:0000000000000007 up type vxlan id 4097 dstport 4789 local 192.0.2.1 nolearning && bridge link set dev ovx4097 learning off neigh_suppress on
            ip link add ove000000000005 address 02:42:0a:00:09:01 mtu 1450 master ovb4097 addrgenmode none alias overlayd:0000000000000007 up type veth peer name eth0 netns /run/netns/web address 02:42:0a:00:09:05 mtu 1450 && ip -n /run/netns/web addr add 10.0.9.5/24 dev eth0 && ip -n /run/netns/web link set eth0 up && ip -n /run/netns/web route add default via 10.0.9.1 dev eth0
            ip link set ovx4097 mtu 1400 up && bridge link set dev ovx4097 learning off neigh_suppress on isolated off hairpin off
            bridge link set dev ovx4097 learning off neigh_suppress on isolated off hairpin off
            ip link del ovx4097
        "#]],
    );
}

#[test]
fn entries_print_as_the_commands_that_make_them() {
    let vni = Vni::new(7).unwrap();
    let mac: MacAddr = "02:42:0a:00:09:05".parse().unwrap();
    let vtep: IpAddr = "192.0.2.2".parse().unwrap();
    let ip: IpAddr = "10.0.9.5".parse().unwrap();
    let entries = [
        (
            ObjectKey::Firewall,
            Object::Firewall(Box::new(Firewall {
                bridges: [vni.bridge()].into(),
                vteps: [vtep].into(),
                ..Firewall::default()
            })),
        ),
        (ObjectKey::PortRules, Object::PortRules { altered: false }),
        (
            ObjectKey::Guard(name("ove000000000005")),
            Object::Guard(Box::new(Guard { mac, addresses: [ip].into(), altered: false })),
        ),
        (ObjectKey::Address(vni.bridge(), "10.0.9.1/24".parse().unwrap()), Object::Address),
        (ObjectKey::Flood(vni.vxlan(), vtep), Object::Flood),
        (ObjectKey::VxlanFdb(vni.vxlan(), mac), Object::VxlanFdb { dst: vtep }),
        (
            ObjectKey::BridgeFdb(vni.bridge(), mac),
            Object::BridgeFdb { port: vni.vxlan(), extern_learn: true },
        ),
        (ObjectKey::Neigh(vni.bridge(), ip), Object::Neigh { mac }),
    ];
    let mut ops: Vec<_> = entries.iter().cloned().map(|(k, o)| KernelOp::Put(k, o)).collect();
    ops.extend(entries.iter().cloned().map(|(k, o)| KernelOp::Del(k, o)));
    check(
        &ops,
        expect![[r#"
            nft replace table inet overlayd # isolates ovb7; VXLAN from 1
            nft replace table bridge overlayd
            nft add element bridge overlayd # ove000000000005: 02:42:0a:00:09:05 10.0.9.5
            ip addr replace 10.0.9.1/24 dev ovb7
            bridge fdb append 00:00:00:00:00:00 dev ovx7 dst 192.0.2.2 self permanent
            bridge fdb replace 02:42:0a:00:09:05 dev ovx7 dst 192.0.2.2 self permanent
            bridge fdb replace 02:42:0a:00:09:05 dev ovx7 master static extern_learn
            ip neigh replace 10.0.9.5 lladdr 02:42:0a:00:09:05 dev ovb7 nud permanent extern_learn
            nft delete table inet overlayd
            nft delete table bridge overlayd
            nft delete element bridge overlayd # ove000000000005: 02:42:0a:00:09:05 10.0.9.5
            ip addr del 10.0.9.1/24 dev ovb7
            bridge fdb del 00:00:00:00:00:00 dev ovx7 dst 192.0.2.2 self permanent
            bridge fdb del 02:42:0a:00:09:05 dev ovx7 dst 192.0.2.2 self
            bridge fdb del 02:42:0a:00:09:05 dev ovx7 master
            ip neigh del 10.0.9.5 dev ovb7
        "#]],
    );
}

#[test]
fn a_device_of_somebody_else_is_taken_in_and_put_back_as_it_was() {
    let port = Port {
        endpoint: EndpointId::from_bits(5),
        index: 9,
        bridge: Some(Vni::new(7).unwrap().bridge()),
        flags: Some(PortFlags::default()),
        up: true,
        was_up: true,
    };
    let was_down = Port { was_up: false, ..port.clone() };
    let key = || ObjectKey::Port(name("tap0"));
    check(
        &[
            KernelOp::Put(key(), Object::Port(port.clone())),
            KernelOp::Del(key(), Object::Port(port)),
            KernelOp::Put(key(), Object::Port(was_down.clone())),
            KernelOp::Del(key(), Object::Port(was_down)),
        ],
        expect![[r#"
            ip link property add dev tap0 altname ove000000000005 && ip link set tap0 master ovb7 up && bridge link set dev tap0 learning off neigh_suppress off
            ip link set tap0 nomaster && ip link property del dev tap0 altname ove000000000005
            ip link property add dev tap0 altname ove000000000005-was-down && ip link set tap0 master ovb7 up && bridge link set dev tap0 learning off neigh_suppress off
            ip link set tap0 nomaster down && ip link property del dev tap0 altname ove000000000005-was-down
        "#]],
    );
}

#[test]
fn the_mark_of_a_port_says_for_whom_and_how_it_was() {
    let id = EndpointId::from_bits(0xabc);
    for was_up in [true, false] {
        assert_eq!(port_mark_of(&port_mark(id, was_up)), Some((id, was_up)));
    }
    for other in
        ["tap0", "ove", "ovexyz", "ove000000000abc-was", "ovb7", "ove000000000abc-was-down2"]
    {
        assert_eq!(port_mark_of(other), None, "{other}");
    }
}

#[test]
fn keys_sort_in_the_order_of_building() {
    let vni = Vni::new(7).unwrap();
    let keys = [
        ObjectKey::Firewall,
        ObjectKey::PortRules,
        ObjectKey::Guard(name("ove000000000001")),
        ObjectKey::Link(vni.bridge()),
        ObjectKey::Link(name("ove000000000001")),
        ObjectKey::Link(vni.vxlan()),
        ObjectKey::Port(name("eth1.5")),
        ObjectKey::Address(vni.bridge(), "10.0.9.1/24".parse().unwrap()),
        ObjectKey::Flood(vni.vxlan(), "192.0.2.2".parse().unwrap()),
        ObjectKey::VxlanFdb(vni.vxlan(), MacAddr::of_ipv4([10, 0, 9, 5].into())),
        ObjectKey::BridgeFdb(vni.bridge(), MacAddr::of_ipv4([10, 0, 9, 5].into())),
        ObjectKey::Neigh(vni.bridge(), "10.0.9.5".parse().unwrap()),
    ];
    assert!(keys.is_sorted());
}

#[test]
fn a_link_is_ours_by_name_and_alias() {
    assert!(is_ours("ovb7", Some("overlayd:0000000000000007")));
    assert!(!is_ours("ovb7", None));
    assert!(!is_ours("ovb7", Some("mine")));
    assert!(!is_ours("vxlan7", Some("overlayd:0000000000000007")));
}

#[test]
fn a_guard_lets_the_link_local_address_of_its_mac_pass_if_it_has_ipv6_at_all() {
    let guard = |addresses: &[&str]| Guard {
        mac: "02:42:0a:00:09:05".parse().unwrap(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        altered: false,
    };
    assert_eq!(guard(&["10.0.9.5"]).ipv6(), [].into());
    let both: Vec<String> =
        guard(&["10.0.9.5", "fd00:9::5"]).ipv6().iter().map(ToString::to_string).collect();
    assert_eq!(both, ["fd00:9::5", "fe80::42:aff:fe00:905"]);
}
