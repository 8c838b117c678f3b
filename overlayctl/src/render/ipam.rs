//! Addresses: who owns, gives and has them.

use overlay_api::v1::{IpamAudit, IpamRange, IpamRanges, IpamSubnet, ReleasedAddress};

use super::{clean, count, fields, list, table};

/// `ipam ls`.
pub(crate) fn subnets(subnets: &[IpamSubnet]) -> String {
    let header = [
        "NET",
        "SUBNET",
        "CAPACITY",
        "LEASED",
        "%",
        "HERE",
        "FREE",
        "FREE-HERE",
        "OWNERS",
        "UNREACHABLE",
    ];
    table(
        header,
        subnets.iter().map(|s| {
            [
                s.net.clone(),
                s.cidr.to_string(),
                s.capacity.to_string(),
                s.leased.to_string(),
                s.percent.to_string(),
                s.leased_here.to_string(),
                s.free.to_string(),
                s.free_here.to_string(),
                s.owners.to_string(),
                s.unreachable.to_string(),
            ]
        }),
    )
}

/// `ipam show`, the subnets of each network that was named.
pub(crate) fn ranges(nets: &[Vec<IpamRanges>]) -> String {
    let blocks: Vec<_> = nets.iter().flatten().map(in_full).collect();
    blocks.join("\n")
}

fn in_full(ranges: &IpamRanges) -> String {
    let s = &ranges.subnet;
    let here = s.leased_here;
    let mut text = fields(
        "",
        [
            ("net", s.net.clone()),
            ("subnet", s.cidr.to_string()),
            ("leased", format!("{} of {} ({}%), {here} here", s.leased, s.capacity, s.percent)),
            ("free", format!("{}, {} of them here", s.free, s.free_here)),
            (
                "unreachable",
                match s.unreachable {
                    0 => String::new(),
                    n => format!("{n} free addresses of hosts that cannot be reached"),
                },
            ),
            ("held back", list(&ranges.held)),
        ],
    );
    let header = ["FIRST", "LAST", "OWNER", "STATE", "VERSION", "ADDRESSES", "LEASED"];
    text.push_str(&table(header, ranges.ranges.iter().map(range)));
    if !ranges.abroad.is_empty() {
        text.push_str("on another host than their owner:\n");
        let header = ["ADDRESS", "ENDPOINT", "HOST", "OWNER"];
        let rows = ranges.abroad.iter().map(|a| {
            let owner = a.owner.clone().unwrap_or_default();
            [a.address.to_string(), a.endpoint.clone(), a.host.clone(), owner]
        });
        text.push_str(&table(header, rows));
    }
    text
}

fn range(range: &IpamRange) -> [String; 7] {
    let state = if range.local { "here".to_owned() } else { range.state.clone() };
    [
        range.first.to_string(),
        range.last.to_string(),
        range.owner.clone().unwrap_or_default(),
        state,
        range.version.to_string(),
        range.addresses.to_string(),
        range.leased.to_string(),
    ]
}

/// `ipam check`: a line for each finding, then how much was looked at.
pub(crate) fn audit(audit: &IpamAudit) -> String {
    let mut text = String::new();
    for finding in &audit.findings {
        text.push_str(&format!("{}: {}\n", clean(&finding.net), clean(&finding.text)));
        if let Some(done) = &finding.repaired {
            text.push_str(&format!("  repaired: {}\n", clean(done)));
        }
    }
    let open = audit.findings.iter().filter(|finding| finding.repaired.is_none()).count();
    let verdict = match (open, audit.findings.len()) {
        (0, 0) => "ok".to_owned(),
        (0, n) => format!("ok: {n} repaired"),
        (open, n) if n > open => format!("{open} wrong, {} repaired", n - open),
        (open, _) => format!("{open} wrong"),
    };
    let (networks, endpoints) =
        (count(audit.networks, "network"), count(audit.endpoints, "endpoint"));
    let leases = count(audit.leases, "lease");
    text + &format!("{verdict}: checked {networks}, {endpoints}, {leases} of this host\n")
}

/// `ipam release`.
pub(crate) fn released(released: &ReleasedAddress) -> String {
    format!("released {} of {}\n", released.address, clean(&released.net))
}
