use proptest::prelude::*;

use super::*;

fn subnet(cidr: &str, gateway: &str) -> Subnet {
    Subnet { cidr: cidr.parse().unwrap(), gateway: gateway.parse().unwrap() }
}

fn ranges(text: &str) -> Vec<AddressRange> {
    AddressRange::union(text.split_whitespace().map(|text| text.parse().unwrap()))
}

fn pieces(rules: &Leasable, span: Span) -> Vec<Span> {
    let mut list = Vec::new();
    rules.pieces(span, &mut list);
    list
}

#[track_caller]
fn refused(subnets: &[Subnet], exclude: &str, ip_ranges: &str, message: &str, hint: &str) {
    let ip_ranges: Vec<AddressRange> =
        ip_ranges.split_whitespace().map(|text| text.parse().unwrap()).collect();
    let wrong = check(subnets, &ranges(exclude), &ip_ranges, 0).expect_err("it was taken");
    assert_eq!((wrong.message.as_str(), wrong.hint.as_str()), (message, hint));
}

#[test]
fn what_is_chosen_from_lies_within_the_range_and_beside_the_exclusions() {
    let net = subnet("10.9.0.0/24", "10.9.0.1");
    let plain = Leasable::new(&net, &[], &[]);
    assert_eq!(pieces(&plain, (0, 256)), [(2, 255)]);
    let rules = Leasable::new(&net, &ranges("10.9.0.5 10.9.0.64/27"), &ranges("10.9.0.4/30"));
    assert_eq!(pieces(&rules, (0, 256)), [(4, 5), (6, 8)]);
    assert_eq!(pieces(&rules, (7, 100)), [(7, 8)]);
    assert_eq!(pieces(&rules, (8, 256)), []);
    assert!(rules.allows(100) && rules.allows(63) && rules.allows(96), "outside, but leasable");
    for blocked in [0, 1, 5, 64, 95, 255] {
        assert!(!rules.allows(blocked), "{blocked}");
    }
}

#[test]
fn exclusions_and_ranges_that_make_no_sense_are_refused() {
    let both = [subnet("10.9.0.0/24", "10.9.0.1"), subnet("fd00::/64", "fd00::1")];
    let has = "the network has 10.9.0.0/24 and fd00::/64";
    refused(&both, "10.8.0.5", "", "the exclusion 10.8.0.5 is not within a subnet", has);
    refused(&both, "10.9.0.0/23", "", "the exclusion 10.9.0.0/23 is not within a subnet", has);
    refused(&both, "", "fd01::/80", "the range fd01::/80 is not within a subnet", has);
    refused(
        &both,
        "10.9.0.0/28",
        "",
        "the exclusion 10.9.0.0/28 has the gateway 10.9.0.1 in it",
        "the gateway is never leased anyway: exclude what is beside it, or choose another with \
         --gateway",
    );
    refused(
        &both,
        "",
        "10.9.0.64/27 fd00::/80 10.9.0.96/27",
        "10.9.0.96/27 is the second range of its family, after 10.9.0.64/27",
        "give one range, and leave parts of it out with --exclude",
    );
    let more = "exclude less, or choose a larger range or subnet";
    refused(
        &both,
        "10.9.0.2-10.9.0.254",
        "",
        "no address of 10.9.0.0/24 is left that could be leased",
        more,
    );
    refused(
        &both,
        "fd00::100/120",
        "fd00::100/121",
        "no address of the range fd00::100/121 of fd00::/64 is left that could be leased",
        more,
    );
    let many: Vec<String> = (1..=33).map(|n| format!("10.9.0.{}", 2 * n)).collect();
    refused(
        &both,
        &many.join(" "),
        "",
        "33 exclusions and ranges are too many: at most 32 are carried",
        "put those that lie beside each other into one, FIRST-LAST",
    );
    let large: Vec<String> = (1..=16).map(|n| format!("fd00::{:x}", 2 * n)).collect();
    refused(
        &both,
        &large.join(" "),
        "",
        "labels, exclusions and ranges take 544 bytes together; at most 540 are carried",
        "an exclusion takes 10 bytes in IPv4 and 34 in IPv6: put some into one, or drop labels",
    );
    assert!(check(&both, &ranges(&many[1..].join(" ")), &[], 200).is_ok());
    assert!(check(&both, &[], &[], 1000).is_ok(), "labels alone have a limit of their own");
}

/// What a hostile record may say.
#[test]
fn nonsense_is_borne() {
    let whole = subnet("::/0", "10.0.0.1");
    let rules = Leasable::new(&whole, &ranges("::/0 10.0.0.0/8"), &ranges("0.0.0.0/0"));
    assert_eq!(pieces(&rules, (0, u128::MAX)), []);
    let rules = Leasable::new(&subnet("0.0.0.0/0", "::"), &[], &[]);
    assert!(rules.allows(7));
}

proptest! {
    #[test]
    fn pieces_are_what_is_allowed_and_within(
        exclude in prop::collection::vec((2..60u8, 2..60u8), 0..5),
        within in prop::option::of((0..64u8, 0..64u8)), span in (0..64u8, 0..64u8),
    ) {
        let range = |(a, b): (u8, u8)| {
            let ip = |n: u8| IpAddr::from([10, 9, 0, n]);
            AddressRange::new(ip(a.min(b)), ip(a.max(b))).unwrap()
        };
        let exclude = AddressRange::union(exclude.into_iter().map(range));
        let within: Vec<AddressRange> = within.map(range).into_iter().collect();
        let rules = Leasable::new(&subnet("10.9.0.0/26", "10.9.0.1"), &exclude, &within);
        let span = (u128::from(span.0.min(span.1)), u128::from(span.0.max(span.1)));
        let list = pieces(&rules, span);
        for n in 0..64u8 {
            let (offset, ip) = (u128::from(n), IpAddr::from([10, 9, 0, n]));
            let allowed = ![0, 1, 63].contains(&n) && !exclude.iter().any(|r| r.contains(ip));
            prop_assert_eq!(rules.allows(offset), allowed);
            let chosen = allowed && within.iter().all(|r| r.contains(ip))
                && (span.0..span.1).contains(&offset);
            let times = list.iter().filter(|(a, b)| (*a..*b).contains(&offset)).count();
            prop_assert_eq!(times, usize::from(chosen));
        }
    }
}
