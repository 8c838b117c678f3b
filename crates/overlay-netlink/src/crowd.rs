//! Whether the kernel's neighbour tables have room: what `neighbour: arp_cache:
//! neighbor table overflow!` in the kernel's log tells, told where one looks
//! first.
//!
//! A table that is full drops what is sent to a neighbour that is not in it
//! (net/core/neighbour.c, `neigh_alloc`), and a UDP socket is not told. Hosts that
//! share a segment with a thousand others then come and go in each other's view,
//! and nothing else says why. The count of these refusals is read by
//! `RTM_GETNEIGHTBL`, which every network namespace may ask; the threshold is
//! set in the first one only. Our own entries are never counted (see `entries`).

use std::fmt;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage};

use crate::error::KernelError;
use crate::wire::Conn;

/// So long a table counts as full after the last refusal: twice the time between
/// looks that nobody asked for.
const REMEMBERED: Duration = Duration::from_secs(120);

/// A neighbour table of the kernel, all network namespaces together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourTable {
    /// ND's, not ARP's.
    pub v6: bool,
    /// The most entries that it holds, those that are permanent or
    /// `extern_learn` not counted.
    pub gc_thresh3: u32,
    /// How often a neighbour was refused since the kernel started.
    pub fulls: u64,
}

impl fmt::Display for NeighbourTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, family) = if self.v6 { ("ND", "ipv6") } else { ("ARP", "ipv4") };
        let (now, more) = (self.gc_thresh3, self.gc_thresh3.saturating_mul(4));
        write!(
            f,
            "this kernel's {name} table is full at {now} entries, and packets to neighbours that \
             are not in it are dropped: raise it with \
             `sysctl -w net.{family}.neigh.default.gc_thresh3={more}` (in the first network \
             namespace)"
        )
    }
}

/// The tables of ARP and ND.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn neighbour_tables() -> Result<Vec<NeighbourTable>, KernelError> {
    let mut conn = Conn::open().map_err(KernelError::Open)?;
    let ask = RouteNetlinkMessage::GetNeighbourTable(NeighbourTableMessage::default());
    let rows = conn.dump("neighbour tables", ask).await?;
    Ok(rows.iter().filter_map(table_of).collect())
}

/// `None` for a row of a device, which has no thresholds, and for other tables.
fn table_of(row: &RouteNetlinkMessage) -> Option<NeighbourTable> {
    let RouteNetlinkMessage::NewNeighbourTable(row) = row else { return None };
    let (mut v6, mut gc_thresh3, mut fulls) = (None, None, None);
    for attribute in &row.attributes {
        match attribute {
            NeighbourTableAttribute::Name(name) if name == "arp_cache" => v6 = Some(false),
            NeighbourTableAttribute::Name(name) if name == "ndisc_cache" => v6 = Some(true),
            NeighbourTableAttribute::Threshold3(entries) => gc_thresh3 = Some(*entries),
            NeighbourTableAttribute::Stats(stats) => fulls = Some(stats.table_fulls),
            _ => {}
        }
    }
    Some(NeighbourTable { v6: v6?, gc_thresh3: gc_thresh3?, fulls: fulls? })
}

/// Remembers when tables were full.
#[derive(Debug, Default)]
pub struct Crowd {
    /// How often each had been full at the last look, and when that last grew.
    seen: [Option<(u64, Option<Instant>)>; 2],
}

impl Crowd {
    /// Those of `tables`, as they are at `now`, that have refused somebody
    /// lately; the first look shows none, since nobody knows when it was.
    pub fn full(&mut self, tables: Vec<NeighbourTable>, now: Instant) -> Vec<NeighbourTable> {
        let mut full = tables;
        full.retain(|table| {
            let seen = &mut self.seen[usize::from(table.v6)];
            let at = match *seen {
                Some((fulls, _)) if table.fulls > fulls => Some(now),
                Some((_, at)) => at,
                None => None,
            };
            *seen = Some((table.fulls, at));
            at.is_some_and(|at| now.duration_since(at) < REMEMBERED)
        });
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_counts_as_full_for_two_minutes_from_the_last_refusal_on() {
        const NONE: [bool; 0] = [];
        let start = Instant::now();
        let mut crowd = Crowd::default();
        let mut at = |seconds, arp, nd| {
            let table = |v6, fulls| NeighbourTable { v6, gc_thresh3: 1024, fulls };
            let tables = vec![table(false, arp), table(true, nd)];
            let full = crowd.full(tables, start + Duration::from_secs(seconds));
            full.iter().map(|table| table.v6).collect::<Vec<_>>()
        };
        assert_eq!(at(0, 7, 9), NONE, "what was before we started");
        assert_eq!(at(60, 7, 9), NONE);
        assert_eq!(at(90, 8, 9), [false]);
        assert_eq!(at(150, 8, 12), [false, true]);
        assert_eq!(at(209, 9, 12), [false, true]);
        assert_eq!(at(280, 9, 12), [false]);
        assert_eq!(at(329, 9, 12), NONE);
    }

    #[test]
    fn it_is_said_with_what_helps() {
        let table = NeighbourTable { v6: false, gc_thresh3: 1024, fulls: 3 };
        let text = table.to_string();
        assert!(text.contains("ARP table is full at 1024"), "{text}");
        assert!(text.contains("sysctl -w net.ipv4.neigh.default.gc_thresh3=4096"), "{text}");
    }
}
