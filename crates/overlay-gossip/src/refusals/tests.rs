use super::*;

fn addr(n: usize) -> SocketAddr {
    let [.., high, low] = n.to_be_bytes();
    ([198, 51, high, low], 7946).into()
}

#[test]
fn what_is_refused_is_counted_by_address_and_kind() {
    let start = Instant::now();
    let at = |s: u64| start + Duration::from_secs(s);
    let mut sources = Sources::default();
    sources.refused(addr(1), Why::UnknownKey, at(0));
    sources.refused(addr(1), Why::UnknownKey, at(1));
    sources.refused(addr(1), Why::Malformed, at(2));
    sources.refused(addr(1), Why::MalformedPush, at(3));
    sources.refuses_us(addr(2), at(4));
    // From another port, over a socket of both families.
    sources.refused("[::ffff:198.51.0.1]:555".parse().unwrap(), Why::Replayed, at(5));
    let told = sources.read(at(9));
    assert_eq!(
        told.sources,
        [
            RefusedFrom {
                addr: addr(1).ip(),
                kinds: [("malformed", 2), ("replayed", 1), ("unknown_key", 2)].into(),
                refuses_us: 0,
                last: Duration::from_secs(4),
            },
            RefusedFrom {
                addr: addr(2).ip(),
                kinds: BTreeMap::new(),
                refuses_us: 1,
                last: Duration::from_secs(5),
            },
        ]
    );
    assert_eq!(told.forgotten, 0);
}

#[test]
fn the_address_that_was_refused_longest_ago_makes_room() {
    let start = Instant::now();
    let at = |ms: usize| start + Duration::from_millis(ms as u64);
    let mut sources = Sources::default();
    for n in 0..SOURCES {
        sources.refused(addr(n), Why::Forged, at(n));
    }
    // The first is refused again: now the second is the oldest.
    sources.refused(addr(0), Why::Forged, at(SOURCES));
    assert_eq!(sources.read(at(SOURCES)).forgotten, 0);
    sources.refused(addr(SOURCES), Why::Forged, at(SOURCES + 1));
    let told = sources.read(at(SOURCES + 1));
    assert_eq!((told.sources.len(), told.forgotten), (SOURCES, 1));
    let of = |n| told.sources.iter().find(|source| source.addr == addr(n).ip());
    assert_eq!(of(0).unwrap().kinds, [("forged", 2)].into());
    assert!(of(1).is_none());
    assert_eq!(told.sources[0].addr, addr(SOURCES).ip(), "the last one first");
    for n in 0..10_000 {
        sources.refused(addr(n), Why::Plain, at(1000 + n));
    }
    assert_eq!(sources.read(at(20_000)).sources.len(), SOURCES);
}
