use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{EndpointId, Firewall, Guard, Vni};

fn vni() -> impl Strategy<Value = Vni> {
    (1u32..4).prop_map(|n| Vni::new(n).unwrap())
}

fn ip() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..4).prop_map(|(v6, n)| {
        if v6 { IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, u16::from(n)]) } else { [10, 0, 0, n].into() }
    })
}

/// A key of every kind, and what may stand under it.
fn pair() -> impl Strategy<Value = (ObjectKey, Object)> {
    (0u8..7, vni(), ip(), 0u8..4, any::<bool>()).prop_map(|(kind, vni, ip, n, mark)| {
        let mac = MacAddr([2, 0, 0, 0, 0, n]);
        let port = Port {
            endpoint: EndpointId::from_bits(u64::from(n)),
            index: 7,
            bridge: Some(vni.bridge()),
            flags: None,
            up: mark,
            was_up: true,
        };
        match kind {
            0 => (ObjectKey::Flood(vni.vxlan(), ip), Object::Flood),
            1 => (ObjectKey::VxlanFdb(vni.vxlan(), mac), Object::VxlanFdb { dst: ip }),
            2 => {
                let object = Object::BridgeFdb { port: vni.vxlan(), extern_learn: mark };
                (ObjectKey::BridgeFdb(vni.bridge(), mac), object)
            }
            3 => (ObjectKey::Neigh(vni.bridge(), ip), Object::Neigh { mac }),
            4 => (ObjectKey::Port(vni.bridge()), Object::Port(port)),
            5 => {
                let firewall = Firewall { bridges: [vni.bridge()].into(), ..Firewall::default() };
                (ObjectKey::Firewall, Object::Firewall(Box::new(firewall)))
            }
            _ => {
                let guard = Guard { mac, addresses: [ip].into(), altered: mark };
                (ObjectKey::Guard(vni.bridge()), Object::Guard(Box::new(guard)))
            }
        }
    })
}

proptest! {
    #[test]
    fn it_is_the_map_that_it_stands_for(
        steps in prop::collection::vec((pair(), 0u8..3), 0..60),
        at in pair(),
    ) {
        let mut map: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut objects = Objects::new();
        for ((key, object), what) in steps {
            if what > 0 {
                prop_assert_eq!(objects.insert(key.clone(), object.clone()), map.insert(key, object));
            } else {
                prop_assert_eq!(objects.remove(&key), map.remove(&key));
            }
        }
        let pairs = || map.clone().into_iter();
        prop_assert_eq!((objects.len(), objects.is_empty()), (map.len(), map.is_empty()));
        prop_assert_eq!(objects.iter().collect::<Vec<_>>(), pairs().collect::<Vec<_>>());
        prop_assert_eq!(&objects, &pairs().collect::<Objects>());
        let text = serde_json::to_string(&objects).unwrap();
        prop_assert_eq!(&text, &serde_json::to_string(&pairs().collect::<Vec<_>>()).unwrap());
        prop_assert_eq!(&objects, &serde_json::from_str::<Objects>(&text).unwrap());

        let (at, _) = at;
        prop_assert_eq!(objects.get(&at), map.get(&at).cloned());
        prop_assert_eq!(objects.contains_key(&at), map.contains_key(&at));
        let behind = pairs().filter(|(key, _)| *key > at).collect::<Vec<_>>();
        prop_assert_eq!(objects.after(Some(&at)).collect::<Vec<_>>(), behind);
        if let Some(dev) = at.stands_on() {
            let on = pairs().map(|(key, _)| key).filter(|key| key.stands_on() == Some(dev));
            prop_assert_eq!(objects.keys_on(dev), on.collect::<Vec<_>>());
        }
        let drained: Vec<_> = std::iter::from_fn(|| objects.pop_first()).collect();
        prop_assert_eq!(drained, pairs().collect::<Vec<_>>());
        prop_assert!(objects.is_empty());
    }
}

#[test]
fn an_object_that_does_not_belong_under_its_key_is_not_held() {
    let key = ObjectKey::Neigh(Vni::new(7).unwrap().bridge(), [10, 9, 0, 5].into());
    let mut objects = Objects::new();
    objects.insert(key.clone(), Object::Neigh { mac: MacAddr::ZERO });
    objects.insert(key.clone(), Object::Flood);
    assert_eq!(objects.get(&key), None);
}
