//! How hosts are reached that advertise an address of a family that this host
//! has not.
//!
//! A host gossips under one address. One with VTEP addresses of both families
//! receives gossip at both, on the same port; to a host that has the other
//! family only, it is reached there. Above the port everybody is known by the
//! address that he advertises: what goes to it is sent to the other one, and
//! what comes from that one counts as from it.
//!
//! Two hosts without a family in common never talk. They hear of each other
//! through those that have both, as any two hosts hear of each other through
//! others most of the time.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use overlay_model::{Family, Host};

/// Beyond so many, all are forgotten and learnt again: hosts that went leave
/// theirs behind.
const WAYS: usize = 4096;

/// See the header. By default every address is taken for reachable.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// Families of this host's sockets; none: whatever there is.
    families: BTreeSet<Family>,
    known: RwLock<Known>,
}

/// Hosts that have another address beside the one that they advertise.
#[derive(Debug, Default)]
struct Known {
    /// It, by that one.
    others: HashMap<SocketAddr, SocketAddr>,
    /// The other way round.
    advertised: HashMap<SocketAddr, SocketAddr>,
}

impl Ways {
    /// Those of a host that listens there. `::` stands for both families.
    pub(crate) fn of(listen: &[SocketAddr]) -> Self {
        let both = listen.iter().any(|addr| addr.is_ipv6() && addr.ip().is_unspecified());
        let families = listen.iter().map(|addr| Family::of(&addr.ip()));
        let families = families.chain(both.then_some(Family::V4)).collect();
        Self { families, known: RwLock::default() }
    }

    /// Takes note of how `host` is reached.
    pub(crate) fn note(&self, host: &Host) {
        let advertised = host.gossip;
        let other = host.vteps.iter().find(|ip| ip.is_ipv4() != advertised.is_ipv4());
        let other = other.map(|ip| SocketAddr::new(*ip, advertised.port()));
        if self.known().others.get(&advertised).copied() == other {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.others.len() >= WAYS {
            *known = Known::default();
        }
        if let Some(former) = known.others.remove(&advertised) {
            known.advertised.remove(&former);
        }
        if let Some(other) = other {
            known.others.insert(advertised, other);
            known.advertised.insert(other, advertised);
        }
    }

    /// The other address of a host that advertises `addr`.
    pub(crate) fn other(&self, addr: &SocketAddr) -> Option<SocketAddr> {
        self.known().others.get(addr).copied()
    }

    /// True if messages to a host that advertises `addr` may arrive.
    pub(crate) fn reach(&self, addr: &SocketAddr) -> bool {
        self.has(&self.to(*addr).ip())
    }

    /// Where a message for `addr` goes to.
    pub(crate) fn to(&self, addr: SocketAddr) -> SocketAddr {
        if self.has(&addr.ip()) { addr } else { self.other(&addr).unwrap_or(addr) }
    }

    /// Whom a message from `addr` is from.
    pub(crate) fn from(&self, addr: SocketAddr) -> SocketAddr {
        let advertised = self.known().advertised.get(&addr).copied();
        advertised.filter(|advertised| !self.has(&advertised.ip())).unwrap_or(addr)
    }

    fn has(&self, ip: &IpAddr) -> bool {
        self.families.is_empty() || self.families.contains(&Family::of(ip))
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use overlay_model::Record;

    fn host(gossip: &str, vteps: &[&str]) -> Host {
        let (_, Record::Host(host)) = codec::tests::host("a") else { unreachable!() };
        let vteps = vteps.iter().map(|ip| ip.parse().unwrap()).collect();
        Host { gossip: gossip.parse().unwrap(), vteps, ..host }
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_with_both_families_is_reached_by_the_one_that_we_have() {
        let ways = Ways::of(&[addr("[2001:db8::1]:7946")]);
        let both = host("192.0.2.2:7950", &["192.0.2.2", "2001:db8::2"]);
        assert!(!ways.reach(&both.gossip), "nothing is known of it yet");
        ways.note(&both);
        assert!(ways.reach(&both.gossip));
        assert_eq!(ways.to(both.gossip), addr("[2001:db8::2]:7950"));
        assert_eq!(ways.from(addr("[2001:db8::2]:7950")), both.gossip);
        assert_eq!(ways.to(addr("[2001:db8::9]:7946")), addr("[2001:db8::9]:7946"));

        // It advertises the other one now, and what was is no longer true.
        ways.note(&host("192.0.2.2:7950", &["192.0.2.2"]));
        assert!(!ways.reach(&both.gossip));
        assert_eq!(ways.from(addr("[2001:db8::2]:7950")), addr("[2001:db8::2]:7950"));
    }

    #[test]
    fn where_the_family_is_ours_nothing_is_changed() {
        let both = host("192.0.2.2:7946", &["192.0.2.2", "2001:db8::2"]);
        for listen in [&["192.0.2.1:1", "[2001:db8::1]:1"][..], &["[::]:1"], &["192.0.2.1:1"]] {
            let ways = Ways::of(&listen.iter().map(|text| addr(text)).collect::<Vec<_>>());
            ways.note(&both);
            assert_eq!(ways.to(both.gossip), both.gossip);
            assert!(ways.reach(&both.gossip));
            let other = addr("[2001:db8::2]:7946");
            assert_eq!(ways.from(other), other);
            assert_eq!(ways.other(&both.gossip), Some(other), "for when ours is another");
        }
        assert!(Ways::default().reach(&both.gossip), "a transport of somebody else's");
    }

    #[test]
    fn many_hosts_that_come_and_go_leave_little() {
        let ways = Ways::of(&[addr("[2001:db8::1]:7946")]);
        for n in 0..3 * WAYS as u32 {
            let gossip = SocketAddr::from((n.to_be_bytes(), 7946));
            let v6 = IpAddr::from((u128::from(n) | 0x2001_0db8 << 96).to_be_bytes());
            ways.note(&Host { gossip, vteps: vec![v6], ..host("192.0.2.2:1", &[]) });
            assert!(ways.reach(&gossip));
        }
        let known = ways.known();
        assert!(known.others.len() <= WAYS && known.advertised.len() <= WAYS);
    }
}
