//! What a [`Pool`] tells of itself: who owns what, what is leased, what is free.
//! Nothing here changes anything.

use std::net::IpAddr;

use overlay_model::{HostId, RingToken};

use super::Pool;

/// Addresses that follow each other and have one owner, or none that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset of the first.
    pub(crate) from: u128,
    /// Offset behind the last.
    pub(crate) until: u128,
    /// The range that counts.
    pub(crate) token: Option<RingToken>,
    /// Another host whose range covers it too, and does not count: so it is for a
    /// moment while a gift is on its way.
    pub(crate) also: Option<HostId>,
}

impl Segment {
    /// Its owner.
    pub(crate) fn owner(&self) -> Option<HostId> {
        self.token.map(|token| token.owner)
    }
}

impl Pool {
    /// The whole subnet, cut where the owner changes.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let mut segments = Vec::new();
        // Those that have begun; the last one counts that has not ended.
        let mut open: Vec<RingToken> = Vec::new();
        let mut at = 0;
        let starts = self.tokens.iter().map(|(from, token)| (*from, Some(*token)));
        for (from, begins) in starts.chain([(self.size(), None)]) {
            while at < from {
                open.retain(|token| token.until > at);
                let token = open.last().copied();
                let mut others = open.iter().filter(|o| token.is_some_and(|t| t.owner != o.owner));
                let ends = others.clone().chain(&token).map(|token| token.until).min();
                let until = ends.map_or(from, |end| end.min(from));
                let also = others.next_back().map(|token| token.owner);
                segments.push(Segment { from: at, until, token, also });
                at = until;
            }
            open.extend(begins);
        }
        segments
    }

    /// Addresses that endpoints of this host have.
    pub(crate) fn leases(&self) -> impl Iterator<Item = IpAddr> {
        self.leased.iter().map(|offset| self.ip_at(*offset))
    }

    /// True if `ip` is among them.
    pub(crate) fn is_leased(&self, ip: IpAddr) -> bool {
        self.offset_of(ip).is_some_and(|offset| self.leased.contains(&offset))
    }

    /// Addresses that are held back.
    pub(crate) fn held(&self) -> impl Iterator<Item = IpAddr> {
        self.held.iter().map(|offset| self.ip_at(*offset))
    }

    /// How many of `from..until` can be leased at all.
    pub(crate) fn leasable_in(&self, from: u128, until: u128) -> u128 {
        let mut pieces = Vec::new();
        self.leasable.pieces((from, until), &mut pieces);
        pieces.into_iter().map(|(from, until)| until - from).sum()
    }

    /// True if `ip` is one that is chosen when nobody asks for one.
    pub(crate) fn chooses(&self, ip: IpAddr) -> bool {
        self.offset_of(ip).is_some_and(|at| self.leasable_in(at, at + 1) == 1)
    }

    /// How many addresses `me` could lease now.
    pub(crate) fn free_of(&self, me: HostId) -> u128 {
        let own = self.segments().into_iter().filter(|s| s.owner() == Some(me));
        let mut pieces = Vec::new();
        own.for_each(|s| self.leasable.pieces((s.from, s.until), &mut pieces));
        let free = |(from, until): (u128, u128)| {
            let held = self.held.range(from..until).filter(|at| !self.leased.contains(at));
            let taken = self.leased.range(from..until).count() + held.count();
            (until - from).saturating_sub(taken as u128)
        };
        pieces.into_iter().map(free).sum()
    }

    /// The first and the last address of a segment.
    pub(crate) fn ends(&self, segment: &Segment) -> (IpAddr, IpAddr) {
        (self.ip_at(segment.from), self.ip_at(segment.until - 1))
    }
}
