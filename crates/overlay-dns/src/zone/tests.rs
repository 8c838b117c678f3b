use std::collections::{BTreeMap, BTreeSet};

use overlay_model::{EndpointId, MacAddr};
use proptest::prelude::*;

use super::*;

pub(crate) const NET: NetworkId = NetworkId(7);

pub(crate) fn host(n: u8) -> HostId {
    HostId(uuid::Uuid::from_u128(n.into()))
}

pub(crate) fn network(id: u64, name: &str, cidrs: &[&str], internal: bool) -> NameChange {
    let subnets = cidrs.iter().map(|cidr| {
        let cidr: ipnet::IpNet = cidr.parse().unwrap();
        Subnet { cidr, gateway: cidr.hosts().next().unwrap() }
    });
    NameChange::Network(NamedNetwork {
        id: NetworkId(id),
        name: Name::new(name).unwrap(),
        subnets: subnets.collect(),
        internal,
    })
}

/// Names: its own, if it is not `-`, then aliases.
pub(crate) fn placed(net: u64, on: u8, id: u64, names: &str, ips: &[&str]) -> Arc<Placed> {
    let mut names = names.split(' ');
    let own = names.next().filter(|name| *name != "-");
    Arc::new(Placed {
        host: host(on),
        endpoint: Endpoint {
            id: EndpointId::from_bits(id),
            network: NetworkId(net),
            name: own.map(|name| Name::new(name).unwrap()),
            aliases: names.map(|name| Name::new(name).unwrap()).collect(),
            mac: MacAddr([2, 0, 0, 0, on, id as u8]),
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            move_seq: 0,
            attached_ms: 0,
        },
    })
}

pub(crate) fn comes(after: Arc<Placed>) -> NameChange {
    NameChange::Endpoint { before: None, after: Some(after) }
}

pub(crate) fn goes(before: Arc<Placed>) -> NameChange {
    NameChange::Endpoint { before: Some(before), after: None }
}

fn ids<'a>(found: impl Iterator<Item = &'a Placed>) -> BTreeSet<u64> {
    found.map(|placed| placed.endpoint.id.bits()).collect()
}

#[test]
fn a_name_that_is_its_own_alias_is_held_once() {
    let names = Names::default();
    let web = placed(7, 1, 1, "web web www", &["10.9.0.2"]);
    names.apply([network(7, "demo", &["10.9.0.0/24"], false), comes(web.clone())]);
    assert_eq!(names.read().zone(NET).unwrap().named("web").len(), 1);
    names.apply([goes(web)]);
    assert!(names.read().zone(NET).unwrap().is_empty());
}

#[test]
fn what_was_never_told_of_takes_nothing_along() {
    let names = Names::default();
    let [one, two] = [1, 2].map(|on| placed(7, on, 5, "web", &["10.9.0.2"]));
    names.apply([network(7, "demo", &["10.9.0.0/24"], false), comes(one.clone())]);
    names.apply([goes(two), goes(placed(7, 1, 6, "web", &["10.9.0.2"]))]);
    assert_eq!(names.read().zone(NET).unwrap().named("web").len(), 1);
    // Of a network that this host does not use nothing is kept.
    names.apply([comes(placed(8, 1, 7, "db", &["10.8.0.2"]))]);
    assert!(names.read().zone(NetworkId(8)).is_none());
    names.apply([NameChange::NoNetwork(NET)]);
    assert!(names.read().zone(NET).is_none());
}

#[test]
fn a_network_that_is_defined_otherwise_keeps_its_names() {
    let names = Names::default();
    names.apply([network(7, "demo", &["10.9.0.0/24"], false)]);
    names.apply([comes(placed(7, 1, 1, "web", &["10.9.0.2"]))]);
    names.apply([network(7, "demo", &["10.9.0.0/24"], true)]);
    let book = names.read();
    let zone = book.zone(NET).unwrap();
    assert!(zone.network().internal && zone.named("web").len() == 1);
    assert!(book.is_gateway("10.9.0.1".parse().unwrap()));
}

/// What may come: who, how it is called then, and where it is.
fn any_change() -> impl Strategy<Value = (u8, u64, Vec<usize>, u8)> {
    (1..4u8, 0..4u64, prop::collection::vec(0..4usize, 0..4), 0..5u8)
}

proptest! {
    /// Whatever comes, changes and goes: found is who has the name or the address now.
    #[test]
    fn found_is_who_is_there(changes in prop::collection::vec(any_change(), 0..60)) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let names = Names::default();
        names.apply([network(7, "demo", &["10.9.0.0/24"], false)]);
        let mut there: BTreeMap<(u8, u64), Arc<Placed>> = BTreeMap::new();
        for (on, id, called, ip) in changes {
            let before = there.remove(&(on, id));
            // Without a name it goes.
            let after = (!called.is_empty()).then(|| {
                let called: Vec<&str> = called.iter().map(|n| NAMES[*n]).collect();
                placed(7, on, id, &called.join(" "), &[&format!("10.9.0.{}", 2 + ip)])
            });
            there.extend(after.clone().map(|placed| ((on, id), placed)));
            names.apply([NameChange::Endpoint { before, after }]);
        }
        let book = names.read();
        let zone = book.zone(NET).unwrap();
        let key = |placed: &Placed| (placed.host, placed.endpoint.id.bits());
        for name in NAMES {
            let has = |placed: &&Arc<Placed>| {
                let ep = &placed.endpoint;
                ep.name.iter().chain(&ep.aliases).any(|own| own.as_str() == name)
            };
            let held: BTreeSet<_> = there.values().filter(has).map(|placed| key(placed)).collect();
            let found: Vec<_> = zone.named(name).map(key).collect();
            prop_assert_eq!(found.len(), held.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), held);
        }
        for n in 2..8 {
            let ip: IpAddr = [10, 9, 0, n].into();
            let has = there.values().filter(|placed| placed.endpoint.addresses.contains(&ip));
            let held: BTreeSet<_> = has.map(|placed| key(placed)).collect();
            prop_assert_eq!(zone.at(ip).map(key).collect::<BTreeSet<_>>(), held);
        }
        prop_assert_eq!(ids(zone.named("nobody")), BTreeSet::new());
    }
}
