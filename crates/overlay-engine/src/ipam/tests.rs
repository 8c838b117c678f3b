use std::collections::BTreeMap;

use overlay_model::Family;
use proptest::prelude::*;

use super::*;

fn host(n: u128) -> HostId {
    HostId(uuid::Uuid::from_u128(n))
}

fn pool(cidr: &str) -> Pool {
    let cidr: IpNet = cidr.parse().unwrap();
    Pool::new(Subnet { cidr, gateway: first_address(cidr) })
}

fn founded(cidr: &str, owner: HostId) -> Pool {
    let mut pool = pool(cidr);
    let (offset, token) = pool.founding_token(owner);
    pool.merge(offset, token);
    pool
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_founder_gives_out_all_but_network_gateway_and_broadcast() {
    let mut pool = founded("10.9.0.0/29", host(1));
    let got: Vec<String> = (0..5).map(|_| pool.allocate(host(1)).unwrap().to_string()).collect();
    assert_eq!(got, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
    assert_eq!(pool.allocate(host(1)), Err(NoAddress::Exhausted));
    assert_eq!(pool.capacity(), 5);
}

#[test]
fn of_a_split_that_is_heard_by_halves_the_rest_stays_with_its_owner() {
    let mut giver = founded("10.9.0.0/24", host(1));
    let mut other = founded("10.9.0.0/24", host(1));
    let (tokens, _) = giver.donate_half(host(1), host(2), 0).unwrap();
    let first = tokens.iter().find(|(at, _)| *at == 0).unwrap();
    let changed = other.merge_noting(first.0, first.1);
    assert_eq!(changed.len(), 2, "both are written down: {changed:?}");
    assert!(!other.has_gaps(&|_| 0));
    assert_eq!(other.owner(ip("10.9.0.200")), Some(host(1)), "as far as is known");
    for (at, token) in tokens {
        other.merge_noting(at, token);
    }
    assert_eq!(other.tokens(), giver.tokens());
}

#[test]
fn choices_of_an_owner_are_its_own_from_the_last_one_on() {
    let mut pool = founded("10.9.0.0/29", host(1));
    pool.donate_exact(host(1), host(2), 0, ip("10.9.0.5")).unwrap();
    let of = |owner| pool.choices_of(host(owner)).map(|ip| ip.to_string()).collect::<Vec<_>>();
    assert_eq!(of(1), ["10.9.0.6", "10.9.0.4", "10.9.0.3", "10.9.0.2"]);
    assert_eq!(of(2), ["10.9.0.5"]);
}

#[test]
fn an_address_is_reused_as_late_as_possible() {
    let mut pool = founded("10.9.0.0/29", host(1));
    let first = pool.allocate(host(1)).unwrap();
    pool.release(first);
    let rest: Vec<IpAddr> = (0..4).map(|_| pool.allocate(host(1)).unwrap()).collect();
    assert!(!rest.contains(&first));
    assert_eq!(pool.allocate(host(1)), Ok(first));
}

#[test]
fn who_owns_nothing_gives_out_nothing() {
    let mut pool = founded("10.9.0.0/24", host(1));
    assert_eq!(pool.allocate(host(2)), Err(NoAddress::Exhausted));
    assert_eq!(pool.allocate_exact(host(2), ip("10.9.0.9")), Err(NoAddress::OwnedBy(host(1))));
    let mut unknown = super::tests::pool("10.9.0.0/24");
    assert_eq!(unknown.allocate_exact(host(2), ip("10.9.0.9")), Err(NoAddress::NoOwner));
}

#[test]
fn an_address_can_be_chosen_once() {
    let mut pool = founded("10.9.0.0/24", host(1));
    assert_eq!(pool.allocate_exact(host(1), ip("10.9.0.9")), Ok(()));
    assert_eq!(pool.allocate_exact(host(1), ip("10.9.0.9")), Err(NoAddress::Leased));
    for bad in ["10.9.0.0", "10.9.0.1", "10.9.0.255", "10.9.1.9"] {
        assert_eq!(pool.allocate_exact(host(1), ip(bad)), Err(NoAddress::NotLeasable), "{bad}");
    }
}

#[test]
fn half_of_the_largest_free_run_is_given_and_both_go_on() {
    let mut a = founded("10.9.0.0/24", host(1));
    let mut b = founded("10.9.0.0/24", host(1));
    let (tokens, count) = a.donate_half(host(1), host(2), 0).unwrap();
    assert_eq!(count, 127);
    for (offset, token) in &tokens {
        assert!(b.merge(*offset, *token));
    }
    let from_b = b.allocate(host(2)).unwrap();
    assert_eq!(a.owner(from_b), Some(host(2)));
    let from_a = a.allocate(host(1)).unwrap();
    assert_eq!(b.owner(from_a), Some(host(1)));
}

#[test]
fn one_address_can_be_given() {
    let mut a = founded("10.9.0.0/24", host(1));
    let tokens = a.donate_exact(host(1), host(2), 0, ip("10.9.0.77")).unwrap();
    let mut b = founded("10.9.0.0/24", host(1));
    for (offset, token) in tokens {
        b.merge(offset, token);
    }
    assert_eq!(b.allocate_exact(host(2), ip("10.9.0.77")), Ok(()));
    assert_eq!(b.owner(ip("10.9.0.78")), Some(host(1)));
    assert!(a.donate_exact(host(1), host(3), 0, ip("10.9.0.77")).is_none());
}

#[test]
fn an_address_that_has_moved_follows_leased_or_not_and_is_free_at_its_last_place() {
    let mut pools = [1, 2, 3].map(|_| founded("10.9.0.0/29", host(1)));
    let web = ip("10.9.0.3");
    pools[0].allocate_exact(host(1), web).unwrap();
    pools[1].carry(web);
    pools[2].carry(web);
    // It goes on to the third before the second has heard that it owns it.
    let first = pools[0].hand_over(host(1), host(2), 0, web);
    assert!(pools[0].hand_over(host(1), host(3), 0, web).is_empty(), "it is not its own any more");
    pools[1].release(web);
    for (offset, token) in &first {
        pools[1].merge(*offset, *token);
        pools[2].merge(*offset, *token);
    }
    for (offset, token) in pools[1].hand_over(host(2), host(3), 0, web) {
        pools[0].merge(offset, token);
        pools[2].merge(offset, token);
    }
    for pool in &mut pools[..2] {
        assert_eq!(pool.can_allocate_exact(host(1), web), Err(NoAddress::OwnedBy(host(3))));
        let got: Vec<IpAddr> = (0..4).map_while(|_| pool.allocate(host(1)).ok()).collect();
        assert!(!got.contains(&web), "{got:?}");
    }
    assert_eq!(pools[2].allocate(host(3)), Err(NoAddress::Exhausted));
    pools[2].release(web);
    assert_eq!(pools[2].allocate(host(3)), Ok(web));
}

#[test]
fn what_is_held_back_is_given_to_nobody_but_who_asks_for_it() {
    let mut pool = founded("10.9.0.0/29", host(1));
    for held in ["10.9.0.2", "10.9.0.4", "10.9.0.5"] {
        pool.hold(ip(held));
    }
    assert_eq!(pool.allocate(host(1)), Ok(ip("10.9.0.3")));
    assert_eq!(pool.allocate(host(1)), Ok(ip("10.9.0.6")));
    assert_eq!(pool.allocate(host(1)), Err(NoAddress::Exhausted));
    assert!(pool.donate_exact(host(1), host(2), 0, ip("10.9.0.4")).is_none());
    assert!(pool.donate_half(host(1), host(2), 0).is_none());
    assert_eq!(pool.allocate_exact(host(1), ip("10.9.0.4")), Ok(()));
    pool.let_go();
    assert_eq!(pool.can_allocate_exact(host(1), ip("10.9.0.4")), Err(NoAddress::Leased));
    assert_eq!(pool.allocate(host(1)), Ok(ip("10.9.0.2")));
}

#[test]
fn a_token_outside_the_subnet_changes_nothing() {
    let mut pool = founded("10.9.0.0/24", host(1));
    for (from, until) in [(256, 300), (200, 257), (9, 9), (9, 3), (u128::MAX, 1)] {
        assert!(!pool.merge(from, RingToken { owner: host(2), version: 9, until }), "{from}");
    }
}

#[test]
fn a_64_bit_subnet_is_no_trouble() {
    let mut pool = founded("2001:db8::/64", host(1));
    assert_eq!(pool.allocate(host(1)).unwrap(), ip("2001:db8::2"));
    let (_, count) = pool.donate_half(host(1), host(2), 0).unwrap();
    assert!(count > 1 << 62);
    assert_eq!(Family::of(&pool.subnet().gateway), Family::V6);
}

/// What can happen between hosts: the network may lose, repeat and reorder.
#[derive(Debug, Clone)]
enum Op {
    Allocate(usize),
    Release(usize, usize),
    DonateHalf(usize, usize),
    DonateOne(usize, usize, u8),
    /// One host hears one token of another.
    Hear(usize, usize, usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let h = 0usize..4;
    prop_oneof![
        4 => h.clone().prop_map(Op::Allocate),
        2 => (h.clone(), any::<usize>()).prop_map(|(a, n)| Op::Release(a, n)),
        2 => (h.clone(), h.clone()).prop_map(|(a, b)| Op::DonateHalf(a, b)),
        2 => (h.clone(), h.clone(), any::<u8>()).prop_map(|(a, b, o)| Op::DonateOne(a, b, o)),
        6 => (h.clone(), h, any::<usize>()).prop_map(|(a, b, n)| Op::Hear(a, b, n)),
    ]
}

/// Publishes what has changed since `before` and is to be published.
fn say(
    said: &mut BTreeMap<u128, RingToken>,
    before: &BTreeMap<u128, RingToken>,
    pool: &Pool,
    is_ours: impl Fn(&RingToken) -> bool,
) {
    let news = pool.tokens().iter().filter(|(at, token)| before.get(at) != Some(token));
    said.extend(news.filter(|(_, token)| is_ours(token)).map(|(at, token)| (*at, *token)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_address_is_leased_twice_and_none_is_lost(ops in prop::collection::vec(any_op(), 0..200)) {
        let cidr = "10.9.0.0/27";
        let mut pools: Vec<Pool> = (0..4).map(|_| pool(cidr)).collect();
        let (offset, token) = pools[0].founding_token(host(0));
        pools[0].merge(offset, token);
        // What each has published: what it gave, and what it owns. Nobody passes on what it
        // takes for true of others.
        let mut said: Vec<BTreeMap<u128, RingToken>> = vec![BTreeMap::new(); 4];
        said[0].insert(offset, token);
        let mut leased: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Allocate(a) => {
                    if let Ok(ip) = pools[a].allocate(host(a as u128)) {
                        prop_assert_eq!(leased.insert(ip, a), None, "{} twice", ip);
                    }
                }
                Op::Release(a, n) => {
                    let own: Vec<IpAddr> =
                        leased.iter().filter(|(_, h)| **h == a).map(|(ip, _)| *ip).collect();
                    if !own.is_empty() {
                        let ip = own[n % own.len()];
                        leased.remove(&ip);
                        pools[a].release(ip);
                    }
                }
                Op::DonateHalf(a, b) if a != b => {
                    let before = pools[a].tokens().clone();
                    pools[a].donate_half(host(a as u128), host(b as u128), 0);
                    say(&mut said[a], &before, &pools[a], |_| true);
                }
                Op::DonateOne(a, b, octet) if a != b => {
                    let ip = IpAddr::from([10, 9, 0, octet % 32]);
                    let before = pools[a].tokens().clone();
                    pools[a].donate_exact(host(a as u128), host(b as u128), 0, ip);
                    say(&mut said[a], &before, &pools[a], |_| true);
                }
                Op::Hear(a, b, n) if a != b => {
                    let Some((offset, token)) =
                        said[b].iter().nth(n % said[b].len().max(1)).map(|(o, t)| (*o, *t))
                    else {
                        continue;
                    };
                    let before = pools[a].tokens().clone();
                    pools[a].merge(offset, token);
                    say(&mut said[a], &before, &pools[a], |t| t.owner == host(a as u128));
                }
                _ => {}
            }
        }
        // Everybody hears everything: one ring, and every address has an owner.
        for pool in &mut pools {
            for (offset, token) in said.iter().flatten() {
                pool.merge(*offset, *token);
            }
        }
        for pool in &pools {
            prop_assert_eq!(pool.tokens(), pools[0].tokens());
            prop_assert_eq!(pool.owners().iter().map(|(_, n)| n).sum::<u128>(), 32);
        }
    }
}

/// The pool of a network that excludes, and chooses from, these.
fn ruled(cidr: &str, exclude: &str, within: &str) -> Pool {
    let mut pool = founded(cidr, host(1));
    let stamp = overlay_model::Stamp { wall_ms: 0, counter: 0, host: host(1) };
    let ranges = |text: &str| text.split_whitespace().map(|r| r.parse().unwrap()).collect();
    pool.follow(&Network {
        id: overlay_model::NetworkId(7),
        name: overlay_model::Name::new("demo").unwrap(),
        vni: overlay_model::Vni::new(7).unwrap(),
        subnets: vec![pool.subnet().clone()],
        mtu: 1450,
        internal: false,
        flood: true,
        labels: BTreeMap::new(),
        exclude: ranges(exclude),
        ip_ranges: ranges(within),
        created: stamp,
        updated: stamp,
        deleted: false,
    });
    pool
}

#[test]
fn what_is_excluded_is_not_leased_and_what_is_outside_the_range_only_when_asked_for() {
    let mut pool = ruled("10.9.0.0/24", "10.9.0.66", "10.9.0.64/30");
    let got: Vec<String> = (0..3).map(|_| pool.allocate(host(1)).unwrap().to_string()).collect();
    assert_eq!(got, ["10.9.0.64", "10.9.0.65", "10.9.0.67"]);
    assert_eq!(pool.allocate(host(1)), Err(NoAddress::Exhausted));
    assert_eq!(pool.capacity(), 3);
    assert_eq!(pool.allocate_exact(host(1), ip("10.9.0.66")), Err(NoAddress::NotLeasable));
    assert_eq!(pool.allocate_exact(host(1), ip("10.9.0.9")), Ok(()));
    assert_eq!(pool.donate_exact(host(1), host(2), 0, ip("10.9.0.66")), None);
    assert!(pool.donate_exact(host(1), host(2), 0, ip("10.9.0.10")).is_some());
}

#[test]
fn a_gift_is_of_what_addresses_are_chosen_from() {
    let mut a = ruled("10.9.0.0/24", "10.9.0.68-10.9.0.79", "10.9.0.64/28");
    let mut b = a.clone();
    let (tokens, count) = a.donate_half(host(1), host(2), 0).unwrap();
    assert_eq!(count, 2);
    for (offset, token) in &tokens {
        assert!(b.merge(*offset, *token));
    }
    let got = [b.allocate(host(2)), b.allocate(host(2)), b.allocate(host(2))];
    let [Ok(one), Ok(two), Err(NoAddress::Exhausted)] = got else { panic!("{got:?}") };
    assert_eq!([one, two], [ip("10.9.0.66"), ip("10.9.0.67")]);
    // A host that owns only what is outside is nobody to ask.
    let mut outside = ruled("10.9.0.0/24", "", "10.9.0.64/28");
    let tokens = outside.donate_exact(host(1), host(3), 0, ip("10.9.0.9")).unwrap();
    assert!(!tokens.is_empty());
    assert_eq!(outside.sources(), [(host(1), 16)]);
    assert!(outside.owners().contains(&(host(3), 1)));
}

/// Address by address this would take a minute.
#[test]
fn a_large_exclusion_costs_nothing() {
    let mut pool = ruled("10.0.0.0/8", "10.0.0.2-10.255.255.200", "");
    for n in 201..=254 {
        assert_eq!(pool.allocate(host(1)), Ok(IpAddr::from([10, 255, 255, n])));
    }
    assert_eq!(pool.allocate(host(1)), Err(NoAddress::Exhausted));
    let mut pool = ruled("fd00::/16", "fd00::2-fd00:ffff::", "");
    assert_eq!(pool.allocate(host(1)), Ok(ip("fd00:ffff::1")));
}

#[test]
fn what_is_behind_the_first_piece_of_a_split_is_not_taken_for_an_older_range() {
    let [a, b] = [1u128, 2].map(|n| HostId(uuid::Uuid::from_u128(n)));
    let version = |generation: u64, splits: u64| generation << GENERATION_BITS | splits;
    let token = |owner, version, until| RingToken { owner, version, until };
    let cidr: ipnet::IpNet = "10.9.0.0/26".parse().unwrap();
    let mut pool = Pool::new(Subnet { cidr, gateway: first_address(cidr) });
    // All is a's, but for what it gave to b, which was forgotten once.
    assert!(pool.merge(0, token(a, version(2, 0), 64)));
    assert!(pool.merge(20, token(b, version(6, 0), 24)));
    // b splits that, and the first piece comes alone; then what somebody thinks who heard of
    // no other piece.
    assert!(pool.merge(20, token(a, version(6, 1), 21)));
    pool.merge(21, token(a, version(2, 0), 64));
    assert_eq!(pool.owner_at(20), Some(a));
    assert_eq!(pool.owner_at(21), Some(b), "as before: b alone may give it away");
    assert_eq!(pool.owner_at(24), Some(a));
    assert!(pool.merge(21, token(b, version(6, 1), 24)));
    assert_eq!(pool.owner_at(21), Some(b));
}
