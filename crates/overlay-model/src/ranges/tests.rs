use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn ranges(text: &str) -> Vec<AddressRange> {
    text.split_whitespace().map(|text| text.parse().unwrap()).collect()
}

fn text(ranges: &[AddressRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(said: &str, shown: Expect) {
    shown.assert_eq(&match said.parse::<AddressRange>() {
        Ok(range) => range.to_string(),
        Err(err) => err.to_string(),
    });
}

#[test]
fn a_range_is_shown_as_shortly_as_it_can_be() {
    check("10.0.9.5", expect![["10.0.9.5"]]);
    check("10.0.9.5-10.0.9.5", expect![["10.0.9.5"]]);
    check("10.0.9.64 - 10.0.9.95", expect![["10.0.9.64/27"]]);
    check("10.0.9.64-10.0.9.96", expect![["10.0.9.64-10.0.9.96"]]);
    check("10.0.9.64/27", expect![["10.0.9.64/27"]]);
    check("0.0.0.0/0", expect![["0.0.0.0/0"]]);
    check("fd00::100-fd00::1ff", expect![["fd00::100/120"]]);
    check("::/0", expect![["::/0"]]);
}

#[test]
fn what_is_no_range_is_refused_with_the_forms_there_are() {
    for wrong in
        ["", "x", "10.0.9.9-10.0.9.5", "10.0.9.5-fd00::1", "10.0.9.65/27", "10.0.9.5-", "-"]
    {
        let err = wrong.parse::<AddressRange>().unwrap_err().to_string();
        assert_eq!(
            err,
            format!(
                "`{wrong}` is no range of addresses; write one address, FIRST-LAST, or a prefix \
                 like 10.0.9.64/27"
            )
        );
    }
}

#[test]
fn a_union_has_one_form() {
    let union = |said: &str| text(&AddressRange::union(ranges(said)));
    assert_eq!(union("10.0.0.4 10.0.0.1 10.0.0.2-10.0.0.3"), "10.0.0.1-10.0.0.4");
    assert_eq!(union("10.0.0.0/8 10.1.0.0/16 fd00::1"), "10.0.0.0/8 fd00::1");
    assert_eq!(union("255.255.255.255 ::"), "255.255.255.255 ::");
    assert_eq!(union(""), "");
}

#[test]
fn a_difference_leaves_what_is_on_both_sides() {
    let less = |said: &str, less: &str| {
        text(&AddressRange::difference(&ranges(said), &less.parse().unwrap()))
    };
    assert_eq!(less("10.0.0.0/29", "10.0.0.3"), "10.0.0.0-10.0.0.2 10.0.0.4/30");
    assert_eq!(less("10.0.0.0/29 10.0.1.0/29", "10.0.0.0/24"), "10.0.1.0/29");
    assert_eq!(less("0.0.0.0/0", "0.0.0.0/1"), "128.0.0.0/1");
    assert_eq!(less("10.0.0.1", "fd00::1"), "10.0.0.1");
}

proptest! {
    #[test]
    fn text_comes_back_as_it_was(a: u32, b: u32) {
        let ip = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n));
        let range = AddressRange::new(ip(a.min(b)), ip(a.max(b))).unwrap();
        prop_assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
    }

    #[test]
    fn unions_and_differences_have_just_the_addresses_that_they_should(
        said in prop::collection::vec((0..60u8, 0..60u8), 0..6), less in (0..60u8, 0..60u8),
    ) {
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let range = |(a, b): (u8, u8)| AddressRange::new(ip(a.min(b)), ip(a.max(b))).unwrap();
        let said: Vec<AddressRange> = said.into_iter().map(range).collect();
        let union = AddressRange::union(said.clone());
        let less = range(less);
        let rest = AddressRange::difference(&union, &less);
        for n in 0..60 {
            let ip = ip(n);
            let has = |list: &[AddressRange]| list.iter().filter(|r| r.contains(ip)).count();
            prop_assert_eq!(has(&union), usize::from(said.iter().any(|r| r.contains(ip))));
            prop_assert_eq!(has(&rest), usize::from(has(&union) == 1 && !less.contains(ip)));
        }
        prop_assert!(union.is_sorted());
    }
}
