use overlay_model::{HostId, Name, Stamp};
use proptest::prelude::*;

use super::*;

fn network(id: u64, name: &str, vni: u32, created: u64, updated: u64, deleted: bool) -> Network {
    let stamp = |wall_ms| Stamp { wall_ms, counter: 0, host: HostId(uuid::Uuid::from_u128(1)) };
    Network {
        id: NetworkId(id),
        name: Name::new(name).unwrap(),
        vni: Vni::new(vni).unwrap(),
        subnets: vec![],
        mtu: 1450,
        internal: false,
        flood: true,
        labels: std::collections::BTreeMap::new(),
        exclude: vec![],
        ip_ranges: vec![],
        created: stamp(created),
        updated: stamp(updated),
        deleted,
    }
}

#[test]
fn of_two_networks_with_one_vni_the_older_claim_wins_whatever_came_first() {
    for order in [[1, 2], [2, 1]] {
        let mut networks = Networks::default();
        for id in order {
            let name = format!("n{id}");
            networks.merge(network(id, &name, 7, id * 10, id * 10, false));
        }
        assert_eq!(networks.programmed(Vni::new(7).unwrap()).unwrap().id, NetworkId(1));
        let why = networks.conflict(NetworkId(2)).unwrap();
        assert_eq!(why, "VNI 7 is held by the older network n1 (0000000000000001)");
        assert_eq!(networks.find("n2").unwrap().id, NetworkId(2));
    }
}

#[test]
fn a_removed_network_frees_its_vni_and_name_for_the_other() {
    let mut networks = Networks::default();
    networks.merge(network(1, "demo", 7, 10, 10, false));
    networks.merge(network(2, "demo", 7, 20, 20, false));
    assert!(networks.conflict(NetworkId(2)).is_some());
    networks.merge(network(1, "demo", 7, 10, 30, true));
    assert_eq!(networks.conflict(NetworkId(2)), None);
    assert_eq!(networks.find("demo").unwrap().id, NetworkId(2));
    assert!(networks.get(NetworkId(1)).is_none());
}

#[test]
fn an_older_definition_does_not_bring_a_removed_network_back() {
    let mut networks = Networks::default();
    networks.merge(network(1, "demo", 7, 10, 30, true));
    assert_eq!(networks.merge(network(1, "demo", 7, 10, 10, false)), None);
    assert!(networks.get(NetworkId(1)).is_none());
}

proptest! {
    #[test]
    fn merging_is_a_join(
        parts in prop::collection::vec((1u64..4, 1u32..3, 1u64..5, any::<bool>()), 1..12),
        seed in any::<u64>(),
    ) {
        // A definition is a function of network and stamp: one writer, one clock.
        let defs: Vec<Network> = parts
            .iter()
            .map(|(id, vni, updated, _)| {
                network(*id, "x", *vni, *id, *updated, (id + updated) % 3 == 0)
            })
            .collect();
        let defs: BTreeMap<_, _> =
            defs.into_iter().map(|d| ((d.id, d.updated), d)).collect();
        let defs: Vec<Network> = defs.into_values().collect();
        let mut shuffled = defs.clone();
        let mut state = seed;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let merged = |list: &[Network]| {
            let mut networks = Networks::default();
            for def in list.iter().chain(list) {
                networks.merge(def.clone());
            }
            let all: Vec<Network> = networks.all().cloned().collect();
            (all, networks.programmed.clone(), networks.conflicts.clone())
        };
        prop_assert_eq!(merged(&defs), merged(&shuffled));
    }
}
