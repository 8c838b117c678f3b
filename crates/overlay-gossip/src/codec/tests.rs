use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use overlay_model::{
    AddressRange, Endpoint, EndpointId, Family, Fate, Host, HostIntent, HostKeys, KeyId, MacAddr,
    Name, Network, NetworkId, Protocol, Publish, RingToken, Service, ServicePort, Stamp, Subnet,
    Vni, Want, WantWhat,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

pub(crate) const OWNER: HostId = HostId(Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888));

pub(crate) fn host(name: &str) -> (RecordKey, Record) {
    let host = Host {
        id: OWNER,
        name: Name::new(name).unwrap(),
        vteps: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        vxlan_port: 4789,
        gossip: "192.0.2.1:7946".parse().unwrap(),
        underlay_mtu: 1500,
        version: "0.1.0".to_owned(),
        intent: HostIntent::Up,
    };
    (RecordKey::Host, Record::Host(host))
}

fn stamp(wall_ms: u64) -> Stamp {
    Stamp { wall_ms, counter: 1, host: OWNER }
}

fn network() -> (RecordKey, Record) {
    let network = Network {
        id: NetworkId(7),
        name: Name::new("demo").unwrap(),
        vni: Vni::new(4097).unwrap(),
        subnets: vec![Subnet {
            cidr: "10.0.9.0/24".parse().unwrap(),
            gateway: "10.0.9.1".parse().unwrap(),
        }],
        mtu: 1450,
        internal: false,
        flood: true,
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        exclude: Vec::new(),
        ip_ranges: Vec::new(),
        created: stamp(1_700_000_000_000),
        updated: stamp(1_700_000_000_001),
        deleted: false,
    };
    (RecordKey::Network(network.id), Record::Network(network))
}

pub(crate) fn endpoint(bits: u64) -> (RecordKey, Record) {
    let endpoint = Endpoint {
        id: EndpointId::from_bits(bits),
        network: NetworkId(7),
        name: Some(Name::new("web").unwrap()),
        aliases: BTreeSet::from([Name::new("www").unwrap()]),
        mac: MacAddr([2, 0x42, 10, 0, 9, 5]),
        addresses: vec!["10.0.9.5".parse().unwrap()],
        labels: BTreeMap::new(),
        ports: Vec::new(),
        move_seq: 3,
        attached_ms: 1_700_000_000_002,
    };
    (RecordKey::Endpoint(endpoint.network, endpoint.id), Record::Endpoint(endpoint))
}

fn ring() -> (RecordKey, Record) {
    let token = RingToken { owner: OWNER, version: 9, until: 256 };
    (RecordKey::Ring(NetworkId(7), Family::V4, 0), Record::Ring(token))
}

fn want() -> (RecordKey, Record) {
    let what = WantWhat::Address("10.0.9.77".parse().unwrap());
    let want = Want { target: OWNER, seq: 2, what };
    (RecordKey::Want(NetworkId(7), Family::V4), Record::Want(want))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The literal is what released software writes and reads. If this fails, the
/// code is wrong, not the literal.
#[track_caller]
fn frozen((key, record): (RecordKey, Record), bytes: &str) {
    let value = encode(&record).unwrap();
    assert_eq!(hex(&STANDARD_NO_PAD.decode(&value).unwrap()), bytes);
    assert_eq!(decode(OWNER, key, &value).unwrap(), record);
}

#[test]
fn a_host_record_has_these_bytes_for_ever() {
    frozen(
        host("a"),
        "01001111222233334444555566667777888801610200c00002010120010db8000000000000000000000001fbb51200c0000201fb0a1ffbdc0505302e312e3000",
    );
}

#[test]
fn a_network_record_has_these_bytes_for_ever() {
    frozen(
        network(),
        "0101070464656d6ffb011001000a00090018000a000901fbaa05000101047465616d0161fd0068e5cf8b0100000111112222333344445555666677778888fd0168e5cf8b010000011111222233334444555566667777888800",
    );
}

#[test]
fn an_endpoint_record_has_these_bytes_for_ever() {
    frozen(
        endpoint(5),
        "010205070103776562010377777702420a00090501000a0009050003fd0268e5cf8b010000",
    );
}

#[test]
fn an_endpoint_with_ports_has_these_bytes_for_ever() {
    let (key, Record::Endpoint(plain)) = endpoint(5) else { panic!("an endpoint") };
    let ports = ["8080:80", "192.0.2.1:53-54:53-54/udp", "90:90/sctp,mode=cluster"]
        .map(|text| text.parse().unwrap())
        .into();
    frozen(
        (key, Record::Endpoint(Endpoint { ports, ..plain })),
        "060005070103776562010377777702420a00090501000a0009050003fd0268e5cf8b010000030000fb901f500100010100c00002013535020002005a5a0101",
    );
}

#[test]
fn a_service_has_these_bytes_for_ever() {
    let service = Service {
        id: 5,
        network: NetworkId(7),
        name: Name::new("web").unwrap(),
        alias: Name::new("www").unwrap(),
        ports: vec!["80:8080".parse().unwrap(), "53/udp".parse().unwrap()],
        addresses: vec!["10.0.9.200".parse().unwrap()],
        created: stamp(1_700_000_000_000),
        updated: stamp(1_700_000_000_001),
        deleted: false,
    };
    frozen(
        (RecordKey::Service(NetworkId(7), 5), Record::Service(service)),
        "070005070377656203777777020050fb901f01353501000a0009c8fd0068e5cf8b0100000111112222333344445555666677778888fd0168e5cf8b010000011111222233334444555566667777888800",
    );
}

#[test]
fn a_ring_token_has_these_bytes_for_ever() {
    frozen(ring(), "01031111222233334444555566667777888809fb0001");
}

#[test]
fn a_request_for_addresses_has_these_bytes_for_ever() {
    frozen(want(), "0104111122223333444455556666777788880201000a00094d");
    let half = Want { target: OWNER, seq: 300, what: WantWhat::Half };
    frozen(
        (RecordKey::Want(NetworkId(7), Family::V6), Record::Want(half)),
        "010411112222333344445555666677778888fb2c0100",
    );
}

/// As above: the kinds again, with what they did not have there.
#[test]
fn every_variant_has_these_bytes_for_ever() {
    let with_intent = |intent| {
        let (key, Record::Host(host)) = host("a") else { unreachable!() };
        (
            key,
            Record::Host(Host {
                intent,
                vteps: vec![],
                gossip: "[2001:db8::1]:1".parse().unwrap(),
                ..host
            }),
        )
    };
    frozen(
        with_intent(HostIntent::Stopped),
        "010011112222333344445555666677778888016100fbb5120120010db800000000000000000000000101fbdc0505302e312e3001",
    );
    frozen(
        with_intent(HostIntent::Left),
        "010011112222333344445555666677778888016100fbb5120120010db800000000000000000000000101fbdc0505302e312e3002",
    );
    let (key, Record::Network(network)) = network() else { unreachable!() };
    let subnet = Subnet { cidr: "fd00::/64".parse().unwrap(), gateway: "fd00::1".parse().unwrap() };
    let gone = Network {
        subnets: vec![subnet],
        internal: true,
        flood: false,
        labels: BTreeMap::new(),
        deleted: true,
        ..network
    };
    frozen(
        (key, Record::Network(gone)),
        "0101070464656d6ffb01100101fd0000000000000000000000000000004001fd000000000000000000000000000001fbaa05010000fd0068e5cf8b0100000111112222333344445555666677778888fd0168e5cf8b010000011111222233334444555566667777888801",
    );
    let (key, Record::Endpoint(endpoint)) = endpoint(5) else { unreachable!() };
    let nameless = Endpoint {
        name: None,
        aliases: BTreeSet::new(),
        addresses: vec!["fd00::5".parse().unwrap()],
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..endpoint
    };
    frozen(
        (key, Record::Endpoint(nameless)),
        "01020507000002420a0009050101fd000000000000000000000000000005010161016203fd0268e5cf8b010000",
    );
    let what = WantWhat::Address("fd00::77".parse().unwrap());
    let want = Want { target: OWNER, seq: 2, what };
    frozen(
        (RecordKey::Want(NetworkId(7), Family::V6), Record::Want(want)),
        "010411112222333344445555666677778888020101fd000000000000000000000000000077",
    );
}

#[track_caller]
fn refused(value: &str, want: DecodeError) {
    assert_eq!(decode(OWNER, RecordKey::Host, value), Err(want));
}

/// The bytes of a good record, changed, as a value.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = STANDARD_NO_PAD.decode(encode(&host("a").1).unwrap()).unwrap();
    change(&mut bytes);
    STANDARD_NO_PAD.encode(bytes)
}

#[test]
fn every_reason_not_to_decode_has_its_own_word() {
    refused(&"A".repeat(MAX_VALUE + 1), DecodeError::TooLong);
    refused("not base64!", DecodeError::NotBase64);
    refused("", DecodeError::Empty);
    refused(&altered(|b| b[0] = 99), DecodeError::UnknownVersion(99));
    refused(&altered(|b| b.truncate(30)), DecodeError::Malformed);
    refused(&altered(|b| b[1] = 77), DecodeError::Malformed);
    refused(&altered(|b| b.push(0)), DecodeError::Trailing);
    // The name of one letter follows version, kind and id.
    refused(&altered(|b| b[19] = b'!'), DecodeError::Invalid("name"));
    refused(&encode(&ring().1).unwrap(), DecodeError::Misplaced);
}

#[test]
fn a_record_is_refused_under_a_key_or_by_a_host_that_it_does_not_name() {
    let (_, record) = host("a");
    let value = encode(&record).unwrap();
    let other = HostId(Uuid::from_u128(2));
    assert_eq!(decode(other, RecordKey::Host, &value), Err(DecodeError::Misplaced));
    let (key, _) = endpoint(6);
    let (_, record) = endpoint(5);
    assert_eq!(decode(OWNER, key, &encode(&record).unwrap()), Err(DecodeError::Misplaced));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    // A host record whose name claims 2^63 bytes, then 2^32, then 65,536.
    for claim in [
        &[253u8, 0, 0, 0, 0, 0, 0, 0, 0x80][..],
        &[253, 0, 0, 0, 0, 1, 0, 0, 0],
        &[252, 0, 0, 1, 0],
    ] {
        let value = altered(|b| drop(b.splice(18..19, claim.iter().copied())));
        refused(&value, DecodeError::Malformed);
    }
}

#[test]
fn a_record_that_does_not_fit_says_by_how_much() {
    let (_, Record::Endpoint(mut endpoint)) = endpoint(5) else { unreachable!() };
    endpoint.labels = BTreeMap::from([("x".to_owned(), "y".repeat(800))]);
    let err = encode(&Record::Endpoint(endpoint.clone())).unwrap_err();
    assert!(err.len > MAX_VALUE && err.to_string().contains("of 1024"), "{err}");
    endpoint.labels = BTreeMap::from([("x".to_owned(), "y".repeat(600))]);
    assert!(encode(&Record::Endpoint(endpoint)).unwrap().len() <= MAX_VALUE);
}

#[test]
fn the_largest_records_that_fit_also_decode() {
    let (key, Record::Endpoint(mut endpoint)) = endpoint(5) else { unreachable!() };
    // Many small labels claim the most memory for their bytes.
    for n in 0..170u32 {
        endpoint.labels.insert(format!("{n}"), String::new());
        let record = Record::Endpoint(endpoint.clone());
        let Ok(value) = encode(&record) else { return };
        assert_eq!(decode(OWNER, key, &value).unwrap(), record);
    }
    panic!("more labels fit than this test has thought of");
}

/// A push must not tell what gossip then refuses.
#[test]
fn a_record_is_too_long_for_a_push_where_it_is_for_gossip() {
    let (key, Record::Endpoint(mut endpoint)) = endpoint(5) else { unreachable!() };
    let bytes_with_label = |endpoint: &mut Endpoint, len: usize| {
        endpoint.labels = BTreeMap::from([("x".to_owned(), "y".repeat(len))]);
        let body = v1::Record::Endpoint((&*endpoint).into());
        let body = bincode::encode_to_vec(body, bincode::config::standard()).unwrap();
        [&[1], &body[..]].concat()
    };
    for len in 600..800 {
        let bytes = bytes_with_label(&mut endpoint, len);
        let value = STANDARD_NO_PAD.encode(&bytes);
        let read = decode_bytes(OWNER, key, &bytes);
        assert_eq!(read, decode(OWNER, key, &value), "{} bytes", bytes.len());
        assert_eq!(read.is_ok(), value.len() <= MAX_VALUE, "{} bytes", bytes.len());
    }
}

prop_compose! {
    fn any_host_id()(bits: u128) -> HostId { HostId(Uuid::from_u128(bits)) }
}
prop_compose! {
    fn any_name()(text in "[a-z]([a-z0-9-]{0,10}[a-z0-9])?") -> Name { Name::new(&text).unwrap() }
}
prop_compose! {
    fn any_stamp()(wall_ms: u64, counter: u32, host in any_host_id()) -> Stamp {
        Stamp { wall_ms, counter, host }
    }
}
prop_compose! {
    fn any_subnet()(address: IpAddr, len in 0..=32u8, gateway: IpAddr) -> Subnet {
        Subnet { cidr: IpNet::new(address, len).unwrap(), gateway }
    }
}
prop_compose! {
    fn any_labels()(map in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..4))
        -> BTreeMap<String, String> { map }
}
prop_compose! {
    fn any_range()(a: u128, b: u128, v6: bool) -> AddressRange {
        let ip = |bits: u128| match v6 {
            true => IpAddr::from(std::net::Ipv6Addr::from_bits(bits)),
            false => IpAddr::from(std::net::Ipv4Addr::from_bits(bits as u32)),
        };
        let (a, b) = (ip(a), ip(b));
        AddressRange::new(a.min(b), a.max(b)).unwrap()
    }
}
prop_compose! {
    fn a_host()(
        id in any_host_id(), name in any_name(), vteps: Vec<IpAddr>, vxlan_port: u16, ip: IpAddr,
        port: u16, underlay_mtu: u16, version in "\\PC{0,20}",
        intent in prop_oneof![Just(HostIntent::Up), Just(HostIntent::Stopped), Just(HostIntent::Left)],
    ) -> Host {
        let vteps = vteps.into_iter().take(2).collect();
        let gossip = SocketAddr::new(ip, port);
        Host { id, name, vteps, vxlan_port, gossip, underlay_mtu, version, intent }
    }
}
prop_compose! {
    fn a_network()(
        id: u64, name in any_name(), vni in 1..=Vni::MAX,
        subnets in proptest::collection::vec(any_subnet(), 0..3), mtu: u16,
        flags: [bool; 3], labels in any_labels(), created in any_stamp(), updated in any_stamp(),
        exclude in proptest::collection::vec(any_range(), 0..4),
        ip_ranges in proptest::collection::vec(any_range(), 0..3),
    ) -> Network {
        let [internal, flood, deleted] = flags;
        let (id, vni) = (NetworkId(id), Vni::new(vni).unwrap());
        Network {
            id, name, vni, subnets, mtu, internal, flood, labels, exclude, ip_ranges, created,
            updated, deleted,
        }
    }
}
prop_compose! {
    fn a_publish()(
        which in 0..3usize, at: Option<IpAddr>, host_port in 1..60_000u16, port in 1..60_000u16,
        count in 1..5_000u16, cluster: bool,
    ) -> Publish {
        let at = at.filter(|_| !cluster);
        Publish { protocol: Protocol::ALL[which], at, host_port, port, count, cluster }
    }
}
prop_compose! {
    fn an_endpoint()(
        bits: u64, network: u64, name in proptest::option::of(any_name()),
        aliases in proptest::collection::btree_set(any_name(), 0..3), mac: [u8; 6],
        addresses in proptest::collection::vec(any::<IpAddr>(), 0..3), labels in any_labels(),
        move_seq: u32, attached_ms: u64, ports in proptest::collection::vec(a_publish(), 0..3),
    ) -> Endpoint {
        let (id, network, mac) = (EndpointId::from_bits(bits), NetworkId(network), MacAddr(mac));
        Endpoint {
            id, network, name, aliases, mac, addresses, labels, ports, move_seq, attached_ms,
        }
    }
}
prop_compose! {
    fn a_want()(target in any_host_id(), seq: u64, ip: Option<IpAddr>) -> Want {
        Want { target, seq, what: ip.map_or(WantWhat::Half, WantWhat::Address) }
    }
}

prop_compose! {
    fn a_fate()(
        numbers: [u32; 3], heir in prop::option::of(any_host_id()), is: [bool; 2], hashes: [u64; 2]
    ) -> Fate {
        let ([generation, floor, noted], [done, vouched]) = (numbers, is);
        let [ranges, members] = hashes;
        Fate { generation, floor, noted, heir, done, vouched, ranges, members }
    }
}

prop_compose! {
    fn a_service()(
        id: u64, network: u64, name in any_name(), alias in any_name(),
        ports in proptest::collection::vec((0..3usize, 1..=u16::MAX, 1..=u16::MAX), 0..4),
        addresses in proptest::collection::vec(any::<IpAddr>(), 0..3), wall: u64, deleted: bool,
    ) -> Service {
        let port = |(which, port, target): (usize, u16, u16)| {
            ServicePort { protocol: Protocol::ALL[which], port, target }
        };
        Service {
            id, network: NetworkId(network), name, alias, ports: ports.into_iter().map(port).collect(),
            addresses, created: stamp(wall), updated: stamp(wall), deleted,
        }
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        a_host().prop_map(Record::Host),
        a_network().prop_map(Record::Network),
        an_endpoint().prop_map(Record::Endpoint),
        (any_host_id(), any::<u64>(), any::<u128>()).prop_map(|(owner, version, until)| {
            Record::Ring(RingToken { owner, version, until })
        }),
        a_want().prop_map(Record::Want),
        prop::collection::vec(any::<[u8; 4]>().prop_map(KeyId), 0..=HostKeys::MAX)
            .prop_map(|ids| Record::Keys(HostKeys { used: ids.first().copied(), ids })),
        a_fate().prop_map(Record::Fate),
        a_service().prop_map(Record::Service),
        Just(Record::Drained),
    ]
}

/// A key and an owner that `record` fits.
fn place(record: &Record) -> (HostId, RecordKey) {
    match record {
        Record::Host(host) => (host.id, RecordKey::Host),
        Record::Network(network) => (OWNER, RecordKey::Network(network.id)),
        Record::Endpoint(e) => (OWNER, RecordKey::Endpoint(e.network, e.id)),
        Record::Ring(_) => (OWNER, RecordKey::Ring(NetworkId(1), Family::V6, u128::MAX)),
        Record::Want(_) => (OWNER, RecordKey::Want(NetworkId(1), Family::V6)),
        Record::Keys(_) => (OWNER, RecordKey::Keys),
        Record::Fate(_) => (OWNER, RecordKey::Fate(OWNER)),
        Record::Service(service) => (OWNER, RecordKey::Service(service.network, service.id)),
        Record::Drained => (OWNER, RecordKey::Drained),
    }
}

proptest! {
    #[test]
    fn any_record_comes_back_as_it_was(record in any_record()) {
        let (owner, key) = place(&record);
        let value = encode(&record).unwrap();
        prop_assert!(value.is_ascii() && value.len() <= MAX_VALUE);
        prop_assert_eq!(decode(owner, key, &value).unwrap(), record);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes: Vec<u8>) {
        let _ = decode_value(&STANDARD_NO_PAD.encode(&bytes));
    }

    #[test]
    fn any_bytes_of_our_versions_are_a_record_or_an_error(
        version in 1..=5u8, kind in 0..6u8, bytes: Vec<u8>
    ) {
        let bytes = [&[version, kind][..], &bytes].concat();
        let _ = decode_value(&STANDARD_NO_PAD.encode(bytes));
    }

    #[test]
    fn any_text_is_a_record_or_an_error(text in "\\PC*") {
        let _ = decode_value(&text);
    }

    #[test]
    fn a_damaged_record_is_a_record_or_an_error(record in any_record(), at: usize, byte: u8) {
        let mut bytes = STANDARD_NO_PAD.decode(encode(&record).unwrap()).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode_value(&STANDARD_NO_PAD.encode(bytes));
    }
}

#[test]
fn the_ids_of_keys_have_these_bytes_for_ever() {
    let keys = HostKeys {
        ids: vec![KeyId([0xde, 0xad, 0xbe, 0xef]), KeyId([1, 2, 3, 4])],
        used: Some(KeyId([1, 2, 3, 4])),
    };
    frozen((RecordKey::Keys, Record::Keys(keys)), "020002deadbeef010203040101020304");
    frozen((RecordKey::Keys, Record::Keys(HostKeys::default())), "02000000");
}

#[test]
fn that_a_host_is_drained_has_these_bytes_for_ever() {
    frozen((RecordKey::Drained, Record::Drained), "0500");
}

#[test]
fn the_fate_of_a_host_has_these_bytes_for_ever() {
    let fate = Fate {
        generation: 300,
        floor: 2,
        noted: 1,
        heir: Some(OWNER),
        done: true,
        vouched: false,
        ranges: 0x0102_0304_0506_0708,
        members: 7,
    };
    frozen(
        (RecordKey::Fate(OWNER), Record::Fate(fate)),
        "0400fb2c01020101111122223333444455556666777788880100fd080706050403020107",
    );
    frozen((RecordKey::Fate(OWNER), Record::Fate(Fate::default())), "04000000000000000000");
}

#[test]
fn ids_of_keys_that_make_no_sense_are_refused() {
    let value = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
    let decode = |value: &str| decode(OWNER, RecordKey::Keys, value);
    let too_many = [&[2, 0, 4][..], &[7; 16], &[0]].concat();
    assert_eq!(decode(&value(&too_many)), Err(DecodeError::Invalid("number of keys")));
    let not_held = [2, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2];
    assert_eq!(decode(&value(&not_held)), Err(DecodeError::Invalid("key in use")));
    assert_eq!(decode(&value(&[2, 0, 0, 0, 0])), Err(DecodeError::Trailing));
    assert_eq!(decode(&value(&[2, 1])), Err(DecodeError::Malformed));
}

#[test]
fn a_network_that_says_what_may_be_leased_has_these_bytes_for_ever() {
    let (key, Record::Network(network)) = network() else { unreachable!() };
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let narrow = Network {
        exclude: ranges(&["10.0.9.5", "10.0.9.64/27"]),
        ip_ranges: ranges(&["10.0.9.8-10.0.9.200", "fd00::100-fd00::1ff"]),
        ..network
    };
    frozen(
        (key, Record::Network(narrow)),
        "0300070464656d6ffb011001000a00090018000a000901fbaa05000101047465616d0161fd0068e5cf8b0100000111112222333344445555666677778888fd0168e5cf8b01000001111122223333444455556666777788880002000a000905000a000905000a000940000a00095f02000a000908000a0009c801fd00000000000000000000000000010001fd0000000000000000000000000001ff",
    );
}

#[test]
fn a_network_whose_ranges_make_no_sense_is_refused() {
    let (key, Record::Network(network)) = network() else { unreachable!() };
    let exclude = vec!["10.0.9.5-10.0.9.6".parse().unwrap()];
    let value = encode(&Record::Network(Network { exclude, ..network })).unwrap();
    let good = STANDARD_NO_PAD.decode(&value).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>), why: DecodeError| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_eq!(decode(OWNER, key, &STANDARD_NO_PAD.encode(bytes)), Err(why));
    };
    // At the end: one range of two addresses with a byte each for the family, then no range.
    let len = good.len();
    refused(&|b| b[len - 2] = 4, DecodeError::Invalid("range of addresses"));
    refused(&|b| drop(b.splice(len - 12.., [0, 0])), DecodeError::Invalid("number of ranges"));
    refused(&|b| b.push(0), DecodeError::Trailing);
}
