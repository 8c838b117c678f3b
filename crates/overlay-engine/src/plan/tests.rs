use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use overlay_model::outer::{Dscp, Ttl};
use overlay_model::{MacAddr, NetnsRef, NetworkId, Outer, PortFlags, VethPeer, Vni};
use proptest::prelude::*;

use super::*;
use crate::fake_kernel::FakeKernel;

type Objects = BTreeMap<ObjectKey, Object>;

/// The planner, of maps.
fn plan(deltas: Vec<Delta>, have: &Objects, completeness: Completeness) -> Vec<KernelOp> {
    super::plan(deltas, &have.clone().into_iter().collect(), completeness)
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn bridge(n: u32) -> (ObjectKey, Object) {
    let link = Link {
        network: NetworkId(u64::from(n)),
        host: None,
        mtu: 1450,
        mac: MacAddr::derived(&n.to_be_bytes()),
        up: true,
        master: None,
        port: None,
        altered: BTreeSet::new(),
        kind: LinkKind::Bridge,
    };
    (ObjectKey::Link(vni(n).bridge()), Object::Link(Box::new(link)))
}

fn vxlan(n: u32, local: &str) -> (ObjectKey, Object) {
    let (_, Object::Link(base)) = bridge(n) else { unreachable!("a bridge is a link") };
    let link = Link {
        master: Some(vni(n).bridge()),
        port: Some(PortFlags { neigh_suppress: true, ..PortFlags::default() }),
        altered: BTreeSet::new(),
        kind: LinkKind::Vxlan {
            vni: vni(n),
            port: 4789,
            local: local.parse().unwrap(),
            outer: Default::default(),
        },
        ..*base
    };
    (ObjectKey::Link(vni(n).vxlan()), Object::Link(Box::new(link)))
}

fn veth(n: u32, id: u64, peer: bool) -> (ObjectKey, Object) {
    let (_, Object::Link(base)) = bridge(n) else { unreachable!("a bridge is a link") };
    let peer = peer.then(|| {
        Box::new(VethPeer {
            netns: NetnsRef { path: "/run/netns/c".into(), cookie: 1 },
            ifname: IfName::new("eth0").unwrap(),
            mac: MacAddr::derived(b"c"),
            mtu: 1450,
            addresses: vec![],
            gateways: vec![],
        })
    });
    let link = Link {
        master: Some(vni(n).bridge()),
        port: Some(PortFlags {
            learning: true,
            neigh_suppress: false,
            isolated: false,
            hairpin: false,
        }),
        altered: BTreeSet::new(),
        kind: LinkKind::Veth { peer },
        ..*base
    };
    let id = overlay_model::EndpointId::from_bits(id);
    (ObjectKey::Link(id.ifname()), Object::Link(Box::new(link)))
}

/// MAC, address and destination of a remote endpoint.
fn remote(n: u32, host: u8, octet: u8) -> Vec<(ObjectKey, Object)> {
    let ip = std::net::Ipv4Addr::new(10, 9, 0, octet);
    let mac = MacAddr::of_ipv4(ip);
    let dst = std::net::IpAddr::from([192, 0, 2, host]);
    vec![
        (ObjectKey::VxlanFdb(vni(n).vxlan(), mac), Object::VxlanFdb { dst }),
        (
            ObjectKey::BridgeFdb(vni(n).bridge(), mac),
            Object::BridgeFdb { port: vni(n).vxlan(), extern_learn: true },
        ),
        (ObjectKey::Neigh(vni(n).bridge(), ip.into()), Object::Neigh { mac }),
        (ObjectKey::Flood(vni(n).vxlan(), dst), Object::Flood),
    ]
}

fn all(parts: impl IntoIterator<Item = (ObjectKey, Object)>) -> Objects {
    parts.into_iter().collect()
}

fn deltas(want: &Objects, have: &Objects, retired: bool) -> Vec<Delta> {
    let keys: BTreeSet<&ObjectKey> = want.keys().chain(have.keys()).collect();
    keys.into_iter()
        .map(|key| Delta { key: key.clone(), want: want.get(key).cloned(), retired })
        .collect()
}

#[track_caller]
fn check(want: &Objects, have: &Objects, ops: Expect) {
    let plan = plan(deltas(want, have, false), have, Completeness::Complete);
    ops.assert_eq(&plan.iter().map(|op| format!("{op}\n")).collect::<String>());
}

#[test]
fn a_network_is_built_from_the_links_up() {
    let want = all([bridge(7), vxlan(7, "192.0.2.1")].into_iter().chain(remote(7, 2, 5)));
    check(
        &want,
        &Objects::new(),
        expect![[r#"
            ip link add ovb7 address 06:7f:9d:ce:08:10 mtu 1450 addrgenmode none alias overlayd:0000000000000007 up type bridge mcast_snooping 0
            ip link add ovx7 address 06:7f:9d:ce:08:10 mtu 1450 master ovb7 addrgenmode none alias overlayd:0000000000000007 up type vxlan id 7 dstport 4789 local 192.0.2.1 nolearning && bridge link set dev ovx7 learning off neigh_suppress on
            bridge fdb append 00:00:00:00:00:00 dev ovx7 dst 192.0.2.2 self permanent
            bridge fdb replace 02:42:0a:09:00:05 dev ovx7 dst 192.0.2.2 self permanent
            bridge fdb replace 02:42:0a:09:00:05 dev ovx7 master static extern_learn
            ip neigh replace 10.9.0.5 lladdr 02:42:0a:09:00:05 dev ovb7 nud permanent extern_learn
        "#]],
    );
}

#[test]
fn a_remote_endpoint_that_moves_is_one_fdb_entry_and_adds_before_it_removes() {
    let base = [bridge(7), vxlan(7, "192.0.2.1")];
    let want = all(base.clone().into_iter().chain(remote(7, 3, 5)));
    let have = all(base.into_iter().chain(remote(7, 2, 5)));
    check(
        &want,
        &have,
        expect![[r#"
            bridge fdb append 00:00:00:00:00:00 dev ovx7 dst 192.0.2.3 self permanent
            bridge fdb replace 02:42:0a:09:00:05 dev ovx7 dst 192.0.2.3 self permanent
            bridge fdb del 00:00:00:00:00:00 dev ovx7 dst 192.0.2.2 self permanent
        "#]],
    );
}

#[test]
fn a_network_goes_with_its_links_and_nothing_is_deleted_twice() {
    let have = all([bridge(7), vxlan(7, "192.0.2.1")].into_iter().chain(remote(7, 2, 5)));
    check(
        &Objects::new(),
        &have,
        expect![[r#"
            ip link del ovx7
            ip link del ovb7
        "#]],
    );
}

#[test]
fn what_the_kernel_refuses_to_change_is_replaced() {
    let want = all([bridge(7), vxlan(7, "2001:db8::9")]);
    let have = all([bridge(7), vxlan(7, "192.0.2.1")]);
    check(
        &want,
        &have,
        expect![[r#"
            ip link del ovx7
            ip link add ovx7 address 06:7f:9d:ce:08:10 mtu 1450 master ovb7 addrgenmode none alias overlayd:0000000000000007 up type vxlan id 7 dstport 4789 local 2001:db8::9 nolearning && bridge link set dev ovx7 learning off neigh_suppress on
        "#]],
    );
    let moved = all([bridge(7), vxlan(7, "192.0.2.9")]);
    check(
        &moved,
        &have,
        expect![[r#"
        ip link set ovx7 type vxlan local 192.0.2.9
    "#]],
    );
}

#[test]
fn outer_headers_are_changed_in_place_where_the_kernel_does_that() {
    let of = |outer: Outer| {
        let links = [bridge(7), vxlan(7, "192.0.2.1")];
        let mut objects = all(links.into_iter().chain(remote(7, 2, 9)));
        for object in objects.values_mut() {
            let Object::Link(link) = object else { continue };
            if let LinkKind::Vxlan { outer: has, .. } = &mut link.kind {
                *has = outer;
            }
        }
        objects
    };
    let want = Outer { ttl: Ttl::Hops(3), dscp: Dscp::Set(46), ..Outer::default() };
    check(
        &of(want),
        &of(Outer::default()),
        expect![[r#"
        ip link set ovx7 type vxlan df unset ttl 3 tos 0xb8
    "#]],
    );
    let want = Outer { checksum: false, ..Outer::default() };
    check(
        &of(want),
        &of(Outer::default()),
        expect![[r#"
        ip link del ovx7
        ip link add ovx7 address 06:7f:9d:ce:08:10 mtu 1450 master ovb7 addrgenmode none alias overlayd:0000000000000007 up type vxlan id 7 dstport 4789 local 192.0.2.1 nolearning noudpcsum && bridge link set dev ovx7 learning off neigh_suppress on
    "#]],
    );
}

#[test]
fn a_link_that_somebody_bent_is_bent_back_in_place() {
    let want = all([bridge(7), vxlan(7, "192.0.2.1"), veth(7, 5, true)]);
    let mut have = all([bridge(7), vxlan(7, "192.0.2.1"), veth(7, 5, false)]);
    for object in have.values_mut() {
        let Object::Link(link) = object else { continue };
        match link.kind {
            LinkKind::Bridge => link.mtu = 1400,
            LinkKind::Vxlan { .. } => {
                link.port = Some(PortFlags {
                    learning: true,
                    neigh_suppress: false,
                    isolated: false,
                    hairpin: false,
                });
            }
            LinkKind::Veth { .. } => (link.master, link.port, link.up) = (None, None, false),
        }
    }
    check(
        &want,
        &have,
        expect![[r#"
            ip link set ovb7 mtu 1450
            ip link set ove000000000005 master ovb7 up && bridge link set dev ove000000000005 learning on neigh_suppress off isolated off hairpin off
            bridge link set dev ovx7 learning off neigh_suppress on isolated off hairpin off
        "#]],
    );
}

#[test]
fn a_partial_view_deletes_only_what_this_run_retired() {
    let have = all([bridge(7), vxlan(7, "192.0.2.1")].into_iter().chain(remote(7, 2, 5)));
    let stale = plan(deltas(&Objects::new(), &have, false), &have, Completeness::Partial);
    assert_eq!(stale, vec![]);
    let retired = plan(deltas(&Objects::new(), &have, true), &have, Completeness::Partial);
    assert_eq!(retired.len(), 2, "{retired:?}");
}

fn any_objects() -> impl Strategy<Value = Objects> {
    let part = (1u32..4, 0u8..5, 1u8..6, 1u8..4, any::<bool>()).prop_map(
        |(n, what, octet, host, flag)| match what {
            0 => vec![bridge(n)],
            1 => vec![bridge(n), vxlan(n, if flag { "192.0.2.1" } else { "192.0.2.9" })],
            2 => vec![bridge(n), veth(n, u64::from(octet), true)],
            _ => {
                let mut parts = vec![bridge(n), vxlan(n, "192.0.2.1")];
                parts.extend(remote(n, host, octet));
                parts
            }
        },
    );
    prop::collection::vec(part, 0..8).prop_map(|parts| {
        let mut objects = all(parts.into_iter().flatten());
        // Nothing stands on a link that is not there.
        let links: BTreeSet<IfName> = objects
            .keys()
            .filter_map(|k| if let ObjectKey::Link(n) = k { Some(n.clone()) } else { None })
            .collect();
        objects.retain(|key, _| key.stands_on().is_none_or(|dev| links.contains(dev)));
        objects
    })
}

fn without_peers(objects: &Objects) -> Objects {
    let mut objects = objects.clone();
    for object in objects.values_mut() {
        if let Object::Link(link) = object
            && let LinkKind::Veth { peer } = &mut link.kind
        {
            *peer = None;
        }
    }
    objects
}

proptest! {
    #[test]
    fn a_plan_arrives_and_rests(want in any_objects(), have in any_objects()) {
        let mut kernel = FakeKernel::holding(without_peers(&have));
        kernel.netns.insert("/run/netns/c".into());
        for _ in 0..3 {
            let now = kernel.objects().clone();
            kernel.apply(&plan(deltas(&want, &now, false), &now, Completeness::Complete));
        }
        prop_assert_eq!(kernel.objects(), &without_peers(&want));
        let now = kernel.objects().clone();
        prop_assert_eq!(plan(deltas(&want, &now, false), &now, Completeness::Complete), vec![]);
    }

    #[test]
    fn a_partial_plan_takes_nothing_away(want in any_objects(), have in any_objects()) {
        let ops = plan(deltas(&want, &have, false), &have, Completeness::Partial);
        for op in &ops {
            let replaced = matches!(op, KernelOp::DelLink(_)) && want.contains_key(&op.key());
            prop_assert!(!matches!(op, KernelOp::Del(..)));
            prop_assert!(replaced || !matches!(op, KernelOp::DelLink(_)));
        }
    }

    #[test]
    fn a_plan_names_only_what_is_wanted_or_there(want in any_objects(), have in any_objects()) {
        for op in plan(deltas(&want, &have, false), &have, Completeness::Complete) {
            prop_assert!(want.contains_key(&op.key()) || have.contains_key(&op.key()));
        }
    }
}
