//! Tells when two machines claim one identity: a state directory was copied,
//! usually with the virtual machine that it is in.
//!
//! A restart looks alike for a moment: two lives of one host, the heartbeat of
//! the former still fresh. But a heartbeat of a life that is over does not
//! move any more. So two lives are two machines when the heartbeats of both
//! have moved long after the later of them was met. Whether one incarnation is
//! larger says nothing: each start takes a new one, whoever copied whom.
//!
//! It is told as a level: the addresses of all such machines when they change,
//! and none when it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use overlay_model::{ClusterEvent, HostId};
use tokio::time::Instant;

/// What is known of one life of a host.
pub(crate) struct Sight {
    pub(crate) host: HostId,
    pub(crate) addr: SocketAddr,
    /// When it was first seen.
    pub(crate) met: Instant,
    /// When its heartbeat last moved.
    pub(crate) moved: Instant,
}

impl Sight {
    fn is_beside(&self, other: &Self, now: Instant, silent_after: Duration) -> bool {
        let both_met = self.met.max(other.met);
        let beats = |sight: &Self| {
            sight.moved > both_met + silent_after && now <= sight.moved + silent_after
        };
        self.addr != other.addr && beats(self) && beats(other)
    }
}

/// What was told.
#[derive(Default)]
pub(crate) struct Doubles(BTreeMap<HostId, BTreeSet<SocketAddr>>);

impl Doubles {
    /// Looks at all lives there are, and says what is new.
    pub(crate) fn look(
        &mut self,
        sights: impl Iterator<Item = Sight>,
        now: Instant,
        silent_after: Duration,
    ) -> Vec<ClusterEvent> {
        let mut lives: BTreeMap<HostId, Vec<Sight>> = BTreeMap::new();
        for sight in sights {
            lives.entry(sight.host).or_default().push(sight);
        }
        let mut found: BTreeMap<HostId, BTreeSet<SocketAddr>> = BTreeMap::new();
        for (host, lives) in lives {
            for one in &lives {
                if lives.iter().any(|other| one.is_beside(other, now, silent_after)) {
                    found.entry(host).or_default().insert(one.addr);
                }
            }
        }
        let mut events = Vec::new();
        let hosts: BTreeSet<HostId> = self.0.keys().chain(found.keys()).copied().collect();
        for host in hosts {
            let addrs = found.get(&host).cloned().unwrap_or_default();
            if self.0.get(&host).cloned().unwrap_or_default() != addrs {
                let addrs = addrs.into_iter().collect();
                events.push(ClusterEvent::Doubled { host, addrs });
            }
        }
        self.0 = found;
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Duration = Duration::from_millis(2500);

    /// Looks every half second at lives that are met and beat from one second
    /// to another; says at which second how many machines are told.
    fn told(lives: &[(u64, u64)]) -> Vec<(f64, usize)> {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut doubles = Doubles::default();
        let mut told = Vec::new();
        for half in 0..80u32 {
            let now = start + Duration::from_millis(500) * half;
            let sights = lives.iter().zip(1u8..).filter(|((from, _), _)| now >= at(*from));
            let sights = sights.map(|((from, to), n)| Sight {
                host: HostId(uuid::Uuid::nil()),
                addr: ([192, 0, 2, n], 7946).into(),
                met: at(*from),
                moved: now.min(at(*to)),
            });
            for event in doubles.look(sights, now, SILENT) {
                let ClusterEvent::Doubled { addrs, .. } = event else { panic!("{event:?}") };
                told.push((f64::from(half) / 2.0, addrs.len()));
            }
        }
        told
    }

    #[test]
    fn two_that_beat_long_after_both_were_met_are_two_machines_until_one_rests() {
        assert_eq!(told(&[(0, 99), (10, 20)]), [(13.0, 2), (23.0, 0)]);
        assert_eq!(told(&[(0, 20), (10, 99)]), [(13.0, 2), (23.0, 0)], "whichever rests");
        assert_eq!(told(&[(0, 99), (10, 99), (20, 30)]), [(13.0, 2), (23.0, 3), (33.0, 2)]);
    }

    #[test]
    fn a_restart_is_one_machine_even_if_the_old_heartbeat_comes_late() {
        assert_eq!(told(&[(0, 10), (10, 99)]), []);
        assert_eq!(told(&[(0, 12), (10, 99)]), [], "news that went a long way round");
        assert_eq!(told(&[(0, 5), (5, 10), (10, 15), (15, 99)]), [], "many restarts");
    }
}
