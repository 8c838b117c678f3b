use proptest::prelude::*;

use super::*;
use crate::codec::tests::OWNER;

fn key(net: u64, ep: u64) -> RecordKey {
    RecordKey::Endpoint(NetworkId(net), overlay_model::EndpointId::from_bits(ep))
}

fn change(version: u64, key: RecordKey, len: usize) -> Change {
    Change { version, key: key.to_string(), value: Some(vec![1; len]) }
}

fn peer(n: u16) -> SocketAddr {
    ([192, 0, (n >> 8) as u8, n as u8], 7946).into()
}

fn nobody(_: NetworkId) -> BTreeSet<SocketAddr> {
    BTreeSet::new()
}

/// (peer, number, since, versions) of each body.
fn brief(out: &[(SocketAddr, Vec<u8>)]) -> Vec<(SocketAddr, u64, u64, Vec<u64>)> {
    out.iter()
        .map(|(to, body)| {
            let push = decode(body).unwrap();
            assert_eq!((push.host, push.incarnation), (OWNER, 7));
            let versions = push.changes.iter().map(|c| c.version).collect();
            (*to, push.number, push.since, versions)
        })
        .collect()
}

fn outbox() -> Outbox {
    Outbox::new(OWNER, 7, 10)
}

#[test]
fn the_first_change_goes_at_once_the_next_a_millisecond_later_and_all_again() {
    let (mut outbox, start) = (outbox(), Instant::now());
    let peers = [peer(1), peer(2)].into();
    assert_eq!(outbox.deadline(), None);
    outbox.put(key(1, 1), change(11, key(1, 1), 9), None);
    outbox.written_up_to(12);
    assert!(outbox.deadline().unwrap() <= Instant::now());
    let first = brief(&outbox.take(start, &peers, nobody));
    assert_eq!(first, [(peer(1), 1, 10, vec![11]), (peer(2), 1, 10, vec![11])]);

    outbox.put(key(1, 2), change(13, key(1, 2), 9), None);
    outbox.put(key(1, 1), change(15, key(1, 1), 9), None);
    outbox.written_up_to(16);
    assert_eq!(outbox.take(start, &peers, nobody), [], "too early");
    assert_eq!(outbox.deadline(), Some(start + COALESCE));
    let peers: BTreeSet<_> = [peer(2), peer(3)].into();
    let second = brief(&outbox.take(start + COALESCE, &peers, nobody));
    assert_eq!(second, [(peer(2), 2, 10, vec![15, 13]), (peer(3), 1, 12, vec![15, 13])]);

    let again = start + COALESCE + AGAIN_AFTER;
    assert_eq!(brief(&outbox.take(again, &peers, nobody)), [first, second].concat());
    assert_eq!(outbox.deadline(), None);
}

#[test]
fn in_a_large_cluster_an_endpoint_goes_to_the_hosts_on_its_network() {
    let peers: BTreeSet<_> = (0..EVERYBODY as u16 + 1).map(peer).collect();
    let users = |net: NetworkId| match net.0 {
        1 => [peer(1), peer(2)].into(),
        2 => [peer(2), peer(3)].into(),
        _ => BTreeSet::new(),
    };
    let (mut outbox, now) = (outbox(), Instant::now());
    outbox.put(key(1, 1), change(11, key(1, 1), 9), Some(NetworkId(1)));
    outbox.put(key(2, 1), change(12, key(2, 1), 9), Some(NetworkId(2)));
    let out = brief(&outbox.take(now, &peers, users));
    let got: Vec<_> = out.iter().map(|(to, _, _, versions)| (*to, versions.clone())).collect();
    assert_eq!(got, [(peer(1), vec![11]), (peer(2), vec![11, 12]), (peer(3), vec![12])]);

    // A host that changes its first endpoint before the news has left.
    outbox.put(key(1, 2), change(13, key(1, 2), 9), None);
    outbox.put(key(1, 2), change(14, key(1, 2), 9), Some(NetworkId(1)));
    let out = outbox.take(now + COALESCE, &peers, users);
    assert_eq!(out.len(), peers.len(), "everybody hears of it");

    let few: BTreeSet<_> = (0..EVERYBODY as u16).map(peer).collect();
    outbox.put(key(1, 3), change(15, key(1, 3), 9), Some(NetworkId(1)));
    assert_eq!(outbox.take(now + COALESCE * 2, &few, users).len(), few.len());
}

#[test]
fn many_changes_go_in_few_bodies_and_once() {
    let (mut outbox, now) = (outbox(), Instant::now());
    for n in 0..50_000 {
        outbox.put(key(1, n), change(11 + n, key(1, n), 60), None);
    }
    let out = outbox.take(now, &[peer(1)].into(), nobody);
    assert!(out.iter().all(|(_, body)| body.len() <= MAX_BODY));
    assert!(out.len() < 200, "{} bodies", out.len());
    let numbers: Vec<u64> = brief(&out).iter().map(|(_, number, ..)| *number).collect();
    assert_eq!(numbers, (1..=out.len() as u64).collect::<Vec<_>>());
    let all: usize = brief(&out).iter().map(|(.., versions)| versions.len()).sum();
    assert_eq!(all, 50_000);
    assert_eq!(outbox.deadline(), None, "not again");
}

#[test]
fn a_body_of_few_changes_fits_a_datagram() {
    for len in [1, 100, 700] {
        let (mut outbox, now) = (outbox(), Instant::now());
        for n in 0..100 {
            outbox.put(key(1, n), change(u64::MAX - n, key(1, n), len), None);
        }
        let out = outbox.take(now, &[peer(1)].into(), nobody);
        assert!(out.iter().all(|(_, body)| body.len() <= BODY + 64), "{len}");
    }
}

/// FROZEN: hosts of this version send these bytes for ever.
#[test]
fn the_bytes_of_format_1() {
    let mut body = head(OWNER, 7, 3, 300);
    body.extend(encode(vec![
        v1::Change { version: 301, key: "host".into(), value: Some(vec![1, 2]) },
        v1::Change { version: 302, key: "new/kind".into(), value: None },
    ]));
    let hex: String = body.iter().map(|b| format!("{b:02x}")).collect();
    expect_frozen(&hex);
    let push = decode(&body).unwrap();
    assert_eq!((push.host, push.incarnation, push.number, push.since), (OWNER, 7, 3, 300));
    assert_eq!(push.changes[0].value, Some(vec![1, 2]));
    assert_eq!((push.changes[1].key.as_str(), &push.changes[1].value), ("new/kind", &None));
}

fn expect_frozen(hex: &str) {
    let owner = OWNER.0.simple().to_string();
    let rest = "0703fb2c0102fb2d0104686f7374010201\
                02fb2e01086e65772f6b696e6400";
    assert_eq!(hex, format!("01{owner}{rest}"));
}

proptest! {
    #[test]
    fn hostile_bytes_end_here(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn a_push_with_a_byte_too_few_or_too_many_is_none(len in 0..40usize, cut in 1..60usize) {
        let mut outbox = outbox();
        outbox.put(key(1, 1), change(11, key(1, 1), len), None);
        let out = outbox.take(Instant::now(), &[peer(1)].into(), nobody);
        let mut body = out[0].1.clone();
        prop_assert!(decode(&body).is_ok());
        prop_assert_eq!(decode(&body[..body.len().saturating_sub(cut)]), Err(BadPush));
        body.push(0);
        prop_assert_eq!(decode(&body), Err(BadPush));
    }
}
