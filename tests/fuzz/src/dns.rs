//! Questions of containers, replies of the host's resolvers, and the file that names those.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use hickory_proto::op::Message as Theirs;
use hickory_proto::rr::RData;
use overlay_dns::answer::{Answerer, Asker, Outcome};
use overlay_dns::wire::{self, HEADER, Message, Query, Reply, TCP_LIMIT};
use overlay_dns::{DOMAIN, resolv_conf};
use overlay_dns::{HostResolvers, NameChange, NamedNetwork, Names, Standing};
use overlay_model::{Endpoint, EndpointId, HostId, MacAddr, Name, NetworkId, Placed, Subnet};

use crate::input::Input;

/// Two networks: `demo`, and `inner`, which is internal. Addresses of the one begin with 10.9, of
/// the other with 10.8.
static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let names = Names::default();
    for (id, name, cidr) in [(7, "demo", "10.9.0.0/24"), (8, "inner", "10.8.0.0/24")] {
        let cidr: ipnet::IpNet = cidr.parse().expect("a subnet");
        let gateway = cidr.hosts().next().expect("it has hosts");
        names.apply([NameChange::Network(NamedNetwork {
            id: NetworkId(id),
            name: Name::new(name).expect("a label"),
            subnets: vec![Subnet { cidr, gateway }],
            internal: id == 8,
        })]);
        for n in 0..70u8 {
            let alias = Name::new("many").expect("a label");
            let published = "8000:80".parse().expect("it is one");
            let placed = Placed {
                host: HostId(uuid::Uuid::from_u128(u128::from(n % 3))),
                endpoint: Endpoint {
                    id: EndpointId::from_bits(n.into()),
                    network: NetworkId(id),
                    name: Some(Name::new(&format!("c{n}")).expect("a label")),
                    aliases: BTreeSet::from([alias]),
                    mac: MacAddr([2, 0, 0, 0, 0, n]),
                    addresses: vec![IpAddr::from([10, 16 - id as u8, 0, n + 2])],
                    labels: BTreeMap::new(),
                    ports: vec![published],
                    move_seq: 0,
                    attached_ms: 0,
                },
            };
            names.apply([NameChange::Endpoint { before: None, after: Some(Arc::new(placed)) }]);
        }
    }
    let host = HostId(uuid::Uuid::from_u128(1));
    names.apply([NameChange::Host { host, name: None, standing: Standing::Suspect }]);
    names
});

/// First who asks and how, then what is asked.
///
/// 1. Replies are not replied to, and nothing that has no header.
/// 2. What is written has no more than it may have, and can be read: a reply, with the number and
///    the letters of the question.
/// 3. Nobody is told an address or a name of a network that he is not on.
/// 4. What is not ours is sent on for those who may alone.
pub(crate) fn query(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let networks: &[NetworkId] = match how & 3 {
        0 => &[NetworkId(7)],
        1 => &[NetworkId(8)],
        2 => &[NetworkId(7), NetworkId(8)],
        _ => &[],
    };
    let asker = Asker { networks, forwards: how & 4 == 0 };
    let bytes = input.0;
    let query = match Query::read(bytes) {
        Message::Ignore => {
            assert!(bytes.len() < HEADER || bytes[2] & 0x80 != 0);
            return;
        }
        Message::Refuse(reply) => {
            let theirs = Theirs::from_vec(&reply).expect("a reply that can be read");
            assert_eq!(theirs.metadata.id.to_be_bytes(), bytes[..2]);
            assert!(reply.len() <= bytes.len() && reply[2] & 0x80 != 0);
            assert!(bytes[HEADER..].starts_with(&reply[HEADER..]), "other letters");
            return;
        }
        Message::Query(query) => query,
    };
    assert!(bytes[2] & 0x80 == 0, "a reply is replied to");
    let limit = if how & 8 == 0 { query.udp_limit() } else { TCP_LIMIT };
    let mut out = Vec::new();
    let outcome = Answerer::starting_at(how.into()).answer(
        &NAMES.read(),
        asker,
        &query,
        (limit, 5),
        &mut out,
    );
    assert!(out.len() <= limit, "{} of {limit}", out.len());
    let theirs = Theirs::from_vec(&out).expect("a reply that can be read");
    assert_eq!(theirs.metadata.id, query.id());
    assert_eq!(&out[HEADER..HEADER + query.question_bytes().len()], query.question_bytes());
    assert_eq!(theirs.edns.is_some(), query.edns.is_some());
    if outcome == Outcome::Forward {
        assert!(asker.forwards && networks.contains(&NetworkId(7)));
        assert!(theirs.answers.is_empty());
    }
    let (demo, inner) = (networks.contains(&NetworkId(7)), networks.contains(&NetworkId(8)));
    for record in theirs.answers.iter().chain(&theirs.additionals) {
        match &record.data {
            RData::A(ip) => match ip.octets() {
                [10, 9, ..] => assert!(demo),
                [10, 8, ..] => assert!(inner),
                other => panic!("whose is {other:?}"),
            },
            RData::PTR(name) => is_of(&name.0.to_ascii(), demo, inner),
            RData::SRV(srv) => is_of(&srv.target.to_ascii(), demo, inner),
            _ => {}
        }
    }
}

fn is_of(name: &str, demo: bool, inner: bool) {
    let of = |net: &str| name.ends_with(&format!(".{net}.{DOMAIN}."));
    assert!((of("demo") && demo) || (of("inner") && inner), "{name}");
}

/// A question as a resolver was asked it, and what that replied.
///
/// 1. A reply is taken that has the number and the question, and no other.
/// 2. What is taken has the number and the letters that we were asked with, and is cut off to
///    something that can be read, with no more bytes than the question.
pub(crate) fn reply(data: &[u8]) {
    let mut input = Input(data);
    let asked = input.long_chunk();
    let Message::Query(query) = Query::read(asked) else { return };
    let id = input.u16();
    let mut reply = input.0.to_vec();
    if !query.is_answered_by(&reply, id) {
        return;
    }
    assert!(reply[..2] == id.to_be_bytes() && reply[2] & 0x80 != 0);
    let bare = reply.len() == HEADER;
    query.adopt(&mut reply);
    assert_eq!(reply[..2], asked[..2]);
    if !bare {
        assert!(reply[HEADER..].starts_with(query.question_bytes()));
        let code = wire::header_of(&reply).expect("it has one").response_code;
        let mut short = Vec::new();
        Reply::cut_off(&query, code, &mut short);
        assert!(short[HEADER..].starts_with(query.question_bytes()));
        let theirs = Theirs::from_vec(&short).expect("a header and a question");
        assert!(theirs.metadata.truncation && short.len() <= asked.len());
    }
}

/// 1. A file names one to three resolvers.
/// 2. What a container gets of it is three lines, whatever stands in it.
pub(crate) fn resolv_conf(data: &[u8]) {
    let host = HostResolvers::read(&String::from_utf8_lossy(data));
    assert!((1..=3).contains(&host.servers.len()));
    let text = resolv_conf::write(&[IpAddr::from([127, 0, 0, 11])], &["demo"], &host.search);
    assert_eq!(text.lines().count(), 3, "{text}");
    let again = HostResolvers::read(&text);
    assert_eq!(again.search.first().map(String::as_str), Some("demo.overlay.internal"));
    let handed_on = host.search.len().min(again.search.len() - 1);
    assert_eq!(again.search[1..], host.search[..handed_on]);
}
