//! Views of addresses, for the wire.

use overlay_api::v1;
use overlay_engine::{AuditView, RangesView, SubnetView};

/// A subnet with its sums.
pub(super) fn subnet(view: SubnetView) -> v1::IpamSubnet {
    let percent = (view.leased as u128 * 100).checked_div(view.capacity).unwrap_or(100);
    v1::IpamSubnet {
        net: view.net.into(),
        cidr: view.cidr,
        capacity: most(view.capacity),
        leased: view.leased as u64,
        percent: u8::try_from(percent).unwrap_or(100).min(100),
        leased_here: view.leased_here as u64,
        free: most(view.free),
        free_here: most(view.free_here),
        owners: view.owners,
        unreachable: most(view.unreachable),
    }
}

/// A subnet with its ranges.
pub(super) fn ranges(view: RangesView) -> v1::IpamRanges {
    let ranges = view.ranges.into_iter().map(|range| v1::IpamRange {
        first: range.first,
        last: range.last,
        owner: range.owner,
        local: range.local,
        state: range.state.to_owned(),
        version: range.version,
        addresses: most(range.addresses),
        leased: range.leased as u64,
    });
    let abroad = view.abroad.into_iter().map(|abroad| v1::IpamAbroad {
        address: abroad.ip,
        endpoint: abroad.endpoint,
        host: abroad.host,
        owner: abroad.owner,
    });
    v1::IpamRanges {
        subnet: subnet(view.subnet),
        ranges: ranges.collect(),
        held: view.held,
        abroad: abroad.collect(),
    }
}

/// What an audit has found.
pub(super) fn audit(view: AuditView) -> v1::IpamAudit {
    let findings = view.findings.into_iter().map(|finding| v1::IpamFinding {
        kind: finding.kind.to_owned(),
        net: finding.net.into(),
        text: finding.text,
        repaired: finding.repaired,
    });
    v1::IpamAudit {
        networks: view.networks,
        endpoints: view.endpoints,
        leases: view.leases,
        findings: findings.collect(),
    }
}

fn most(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use overlay_model::Name;

    use super::*;

    #[test]
    fn a_subnet_larger_than_can_be_said_is_as_large_as_can_be_said() {
        let view = SubnetView {
            net: Name::new("demo").unwrap(),
            cidr: "fd00::/16".parse().unwrap(),
            capacity: (1 << 112) - 2,
            leased: 3,
            leased_here: 1,
            free: (1 << 112) - 5,
            free_here: 7,
            owners: 2,
            unreachable: 0,
        };
        let said = subnet(view.clone());
        assert_eq!((said.capacity, said.free, said.free_here), (u64::MAX, u64::MAX, 7));
        assert_eq!((said.leased, said.percent), (3, 0));
        let full = SubnetView { capacity: 5, leased: 5, ..view.clone() };
        assert_eq!(subnet(full).percent, 100);
        // More than fit, when two have one.
        let over = SubnetView { capacity: 5, leased: 6, ..view };
        assert_eq!(subnet(over).percent, 100);
    }
}
