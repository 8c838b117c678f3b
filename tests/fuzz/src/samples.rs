//! Constants that targets and seeds share: who hosts are, what they say.

use std::collections::{BTreeMap, BTreeSet};

use overlay_gossip::Key;
use overlay_model::{
    Endpoint, EndpointId, Fate, Host, HostId, HostIntent, HostKeys, KeyId, Name, Network,
    NetworkId, Record, RingToken, Stamp, Subnet, Vni, Want, WantWhat,
};
use uuid::Uuid;

/// The host that most records are of.
pub(crate) const OWNER: HostId = HostId(Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888));

/// The host that everything comes to.
pub(crate) const US: HostId = HostId(Uuid::from_u128(0x9999 << 112));

/// A key that is no secret.
pub(crate) fn key(n: u8) -> Key {
    let text = ["AAAA", "BBBB", "CCCC", "DDDD"][usize::from(n % 4)].repeat(10) + "AAA=";
    text.parse().expect("44 characters of base64")
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

pub(crate) fn host() -> Host {
    Host {
        id: OWNER,
        name: name("a"),
        vteps: vec![[192, 0, 2, 1].into()],
        vxlan_port: 4789,
        gossip: ([192, 0, 2, 1], 7946).into(),
        underlay_mtu: 1500,
        version: "0.1.0".to_owned(),
        intent: HostIntent::Up,
    }
}

pub(crate) fn network() -> Network {
    let stamp = Stamp { wall_ms: 1_700_000_000_000, counter: 1, host: OWNER };
    Network {
        id: NetworkId(7),
        name: name("demo"),
        vni: Vni::new(4097).expect("24 bits"),
        subnets: vec![
            Subnet {
                cidr: "10.9.0.0/24".parse().expect("a subnet"),
                gateway: [10, 9, 0, 1].into(),
            },
            Subnet {
                cidr: "fd00::/64".parse().expect("a subnet"),
                gateway: "fd00::1".parse().expect("an address"),
            },
        ],
        mtu: 1450,
        internal: false,
        flood: true,
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        exclude: Vec::new(),
        ip_ranges: Vec::new(),
        created: stamp,
        updated: stamp,
        deleted: false,
    }
}

/// One that says which of its addresses may be leased.
pub(crate) fn narrow() -> Network {
    let range = |text: &str| text.parse().expect("a range");
    Network {
        id: NetworkId(8),
        exclude: vec![range("10.9.0.64/27"), range("fd00::5")],
        ip_ranges: vec![range("10.9.0.8-10.9.0.200")],
        ..network()
    }
}

pub(crate) fn endpoint(bits: u64) -> Endpoint {
    Endpoint {
        id: EndpointId::from_bits(bits),
        network: NetworkId(7),
        name: Some(name("web")),
        aliases: BTreeSet::from([name("www")]),
        mac: "02:42:0a:09:00:05".parse().expect("a MAC"),
        addresses: vec![[10, 9, 0, 5].into(), "fd00::5".parse().expect("an address")],
        labels: BTreeMap::new(),
        ports: Vec::new(),
        move_seq: 3,
        attached_ms: 1_700_000_000_002,
    }
}

pub(crate) fn token() -> RingToken {
    RingToken { owner: OWNER, version: 9, until: 256 }
}

/// One of each kind.
pub(crate) fn records() -> Vec<Record> {
    let ids = vec![KeyId([1, 2, 3, 4]), KeyId([5, 6, 7, 8])];
    let want = |what| Record::Want(Want { target: US, seq: 2, what });
    vec![
        Record::Host(host()),
        Record::Network(network()),
        Record::Network(narrow()),
        Record::Endpoint(endpoint(5)),
        Record::Ring(token()),
        want(WantWhat::Half),
        want(WantWhat::Address([10, 9, 0, 77].into())),
        Record::Keys(HostKeys { used: ids.first().copied(), ids }),
        Record::Fate(Fate { floor: 1, done: true, ..Fate::claim(US, 2) }),
        Record::Drained,
    ]
}
