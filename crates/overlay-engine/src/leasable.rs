//! Which addresses of a subnet may be leased, and from which of them one is
//! chosen if nobody says which: the network's exclusions and its range, as
//! offsets from the network address.
//!
//! Excluded blocks may be millions of addresses large, so nothing here, and
//! nothing that asks here, goes through them one by one.

use std::net::IpAddr;

use overlay_model::{AddressRange, Subnet};

/// Offsets from a first one up to, and without, another.
pub(crate) type Span = (u128, u128);

/// The rules of one subnet.
#[derive(Debug, Clone)]
pub(crate) struct Leasable {
    /// Network and broadcast address, gateway, exclusions: in order, and without
    /// two that meet.
    blocked: Vec<Span>,
    /// Where addresses are chosen from.
    within: Span,
}

impl Leasable {
    /// The rules of `subnet`; of `exclude` and `ip_ranges`, what lies in it counts.
    pub(crate) fn new(
        subnet: &Subnet,
        exclude: &[AddressRange],
        ip_ranges: &[AddressRange],
    ) -> Self {
        let all = AddressRange::from(subnet.cidr);
        let base = bits_of(all.first());
        let span = |range: &AddressRange| {
            let first = bits_of(range.first().max(all.first())) - base;
            (first, (bits_of(range.last().min(all.last())) - base).saturating_add(1))
        };
        let size = span(&all).1;
        let gateway = bits_of(subnet.gateway).wrapping_sub(base);
        let mut blocked: Vec<Span> = vec![(0, 1), (gateway, gateway.saturating_add(1))];
        if subnet.cidr.addr().is_ipv4() {
            blocked.push((size - 1, size));
        }
        blocked.extend(exclude.iter().filter(|range| range.overlaps(&all)).map(span));
        let within = ip_ranges.iter().find(|range| range.overlaps(&all)).map_or((0, size), span);
        Self { blocked: merged(blocked), within }
    }

    /// Says whether the address at `offset` may be leased to who asks for it.
    pub(crate) fn allows(&self, offset: u128) -> bool {
        let at = self.blocked.partition_point(|(_, until)| *until <= offset);
        self.blocked.get(at).is_none_or(|(from, _)| *from > offset)
    }

    /// Adds to `list` what of `from..until` addresses are chosen from.
    pub(crate) fn pieces(&self, (from, until): Span, list: &mut Vec<Span>) {
        let (mut from, until) = (from.max(self.within.0), until.min(self.within.1));
        let at = self.blocked.partition_point(|(_, end)| *end <= from);
        for (begin, end) in &self.blocked[at..] {
            if *begin >= until {
                break;
            }
            if *begin > from {
                list.push((from, *begin));
            }
            from = *end;
        }
        if from < until {
            list.push((from, until));
        }
    }
}

fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut list: Vec<Span> = Vec::new();
    for (from, until) in spans {
        match list.last_mut() {
            Some((_, end)) if from <= *end => *end = until.max(*end),
            _ => list.push((from, until)),
        }
    }
    list
}

fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The most exclusions and ranges that a network may have, together.
const MOST: usize = 32;

/// Bytes that they, and the labels, may take in the record together.
const BYTES: usize = 540;

/// What is wrong with exclusions and ranges: a line, and what to do about it.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Checks what a network is to say of its addresses.
///
/// * `label_bytes`: what its labels take, with two bytes more for each.
pub(crate) fn check(
    subnets: &[Subnet],
    exclude: &[AddressRange],
    ip_ranges: &[AddressRange],
    label_bytes: usize,
) -> Result<(), Wrong> {
    let wrong = |message: String, hint: String| Err(Wrong { message, hint });
    let of = |range: &AddressRange| {
        subnets.iter().find(|s| s.cidr.contains(&range.first()) && s.cidr.contains(&range.last()))
    };
    let cidrs = || {
        let texts: Vec<String> = subnets.iter().map(|s| s.cidr.to_string()).collect();
        format!("the network has {}", texts.join(" and "))
    };
    for range in exclude {
        let Some(subnet) = of(range) else {
            return wrong(format!("the exclusion {range} is not within a subnet"), cidrs());
        };
        if range.contains(subnet.gateway) {
            return wrong(
                format!("the exclusion {range} has the gateway {} in it", subnet.gateway),
                "the gateway is never leased anyway: exclude what is beside it, or choose another \
                 with --gateway"
                    .into(),
            );
        }
    }
    for (i, range) in ip_ranges.iter().enumerate() {
        if of(range).is_none() {
            return wrong(format!("the range {range} is not within a subnet"), cidrs());
        }
        if let Some(other) =
            ip_ranges[..i].iter().find(|o| o.first().is_ipv4() == range.first().is_ipv4())
        {
            return wrong(
                format!("{range} is the second range of its family, after {other}"),
                "give one range, and leave parts of it out with --exclude".into(),
            );
        }
    }
    for subnet in subnets {
        let rules = Leasable::new(subnet, exclude, ip_ranges);
        let mut left = Vec::new();
        rules.pieces((0, u128::MAX), &mut left);
        if left.is_empty() {
            let family = |r: &&AddressRange| r.first().is_ipv4() == subnet.gateway.is_ipv4();
            let from = ip_ranges.iter().find(family).map_or_else(
                || subnet.cidr.to_string(),
                |range| format!("the range {range} of {}", subnet.cidr),
            );
            return wrong(
                format!("no address of {from} is left that could be leased"),
                "exclude less, or choose a larger range or subnet".into(),
            );
        }
    }
    let count = exclude.len() + ip_ranges.len();
    if count > MOST {
        return wrong(
            format!("{count} exclusions and ranges are too many: at most {MOST} are carried"),
            "put those that lie beside each other into one, FIRST-LAST".into(),
        );
    }
    let bytes = |r: &AddressRange| if r.first().is_ipv4() { 10 } else { 34 };
    let taken = exclude.iter().chain(ip_ranges).map(bytes).sum::<usize>();
    if taken > 0 && taken + label_bytes > BYTES {
        return wrong(
            format!(
                "labels, exclusions and ranges take {} bytes together; at most {BYTES} are carried",
                taken + label_bytes
            ),
            "an exclusion takes 10 bytes in IPv4 and 34 in IPv6: put some into one, or drop labels"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
