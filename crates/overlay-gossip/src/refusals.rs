//! What was refused, by the address that it came from.
//!
//! Totals are in [`Counters`](crate::stats::Counters); this is for the question
//! that comes next: whose was it? The source of a datagram can be forged, so
//! what stands here is what somebody *says* of an address. Nothing but text for
//! people may come from it.
//!
//! Memory is bounded: [`SOURCES`] addresses are remembered, and the one that was
//! refused longest ago makes room. How often that happened is counted: somebody
//! with many addresses, invented ones perhaps, can push the others out.
//!
//! Addresses are without ports: a connection comes from any port.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses that are remembered.
pub(crate) const SOURCES: usize = 256;

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is not sealed, and this host has a key.
    Plain,
    /// Too short.
    Truncated,
    /// Of no form that we know.
    UnknownVersion,
    /// Not as it was sealed.
    Forged,
    /// Sealed with a key that is not here.
    UnknownKey,
    /// It came a second time, or too late to tell.
    Replayed,
    /// It is neither gossip nor a push.
    UnknownKind,
    /// It is said to be a message of chitchat, and is none.
    Malformed,
    /// The same of a push.
    MalformedPush,
    /// More is in it than a message may hold.
    TooMuch,
    /// It is longer than a frame may be.
    Oversize,
}

impl Why {
    /// The total of all addresses.
    pub(crate) fn counter(self) -> &'static str {
        match self {
            Self::Plain => "seal_plain",
            Self::Truncated => "seal_truncated",
            Self::UnknownVersion => "seal_unknown_version",
            Self::Forged => "seal_forged",
            Self::UnknownKey => "seal_unknown_key",
            Self::Replayed => "seal_replayed",
            Self::UnknownKind => "wire_unknown_kind",
            Self::Malformed => "gossip_malformed",
            Self::MalformedPush => "push_malformed",
            Self::TooMuch => "gossip_too_much",
            Self::Oversize => "tcp_oversize",
        }
    }

    /// What people and programs are told. A contract: see `overlay_api::v1`.
    fn kind(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Truncated => "truncated",
            Self::UnknownVersion => "unknown_version",
            Self::Forged => "forged",
            Self::UnknownKey => "unknown_key",
            Self::Replayed => "replayed",
            Self::UnknownKind => "unknown_kind",
            Self::Malformed | Self::MalformedPush => "malformed",
            Self::TooMuch | Self::Oversize => "too_much",
        }
    }
}

/// What was refused of one address, and by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFrom {
    /// Whose, as the network says.
    pub addr: IpAddr,
    /// Messages that were refused here, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// How often it said that it cannot open ours.
    pub refuses_us: u64,
    /// How long ago either last happened.
    pub last: Duration,
}

/// What was refused, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The addresses that are remembered, the last refused first.
    pub sources: Vec<RefusedFrom>,
    /// How often an address was forgotten to make room for another.
    pub forgotten: u64,
}

#[derive(Default)]
pub(crate) struct Sources {
    known: HashMap<IpAddr, Source>,
    forgotten: u64,
}

struct Source {
    kinds: BTreeMap<&'static str, u64>,
    refuses_us: u64,
    last: Instant,
}

impl Sources {
    /// A message from there was refused.
    pub(crate) fn refused(&mut self, from: SocketAddr, why: Why, now: Instant) {
        *self.source(from, now).kinds.entry(why.kind()).or_default() += 1;
    }

    /// It says that it refuses ours.
    pub(crate) fn refuses_us(&mut self, from: SocketAddr, now: Instant) {
        self.source(from, now).refuses_us += 1;
    }

    fn source(&mut self, from: SocketAddr, now: Instant) -> &mut Source {
        // A socket of both families says `::ffff:192.0.2.1`.
        let addr = from.ip().to_canonical();
        if self.known.len() >= SOURCES && !self.known.contains_key(&addr) {
            let oldest = self.known.iter().min_by_key(|(_, source)| source.last);
            if let Some(oldest) = oldest.map(|(addr, _)| *addr) {
                self.known.remove(&oldest);
                self.forgotten += 1;
            }
        }
        let source = self.known.entry(addr).or_insert_with(|| Source {
            kinds: BTreeMap::new(),
            refuses_us: 0,
            last: now,
        });
        source.last = now;
        source
    }

    pub(crate) fn read(&self, now: Instant) -> Refusals {
        let told = |(addr, source): (&IpAddr, &Source)| RefusedFrom {
            addr: *addr,
            kinds: source.kinds.clone(),
            refuses_us: source.refuses_us,
            last: now.saturating_duration_since(source.last),
        };
        let mut sources: Vec<_> = self.known.iter().map(told).collect();
        sources.sort_by_key(|source| (source.last, source.addr));
        Refusals { sources, forgotten: self.forgotten }
    }
}

#[cfg(test)]
mod tests;
