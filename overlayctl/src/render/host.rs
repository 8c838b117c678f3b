//! Hosts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use overlay_api::v1::{Drained, Forgotten, Host, Left};

use super::{count, duration, list, table};

/// `hosts`.
pub(crate) fn hosts(hosts: &[Host]) -> String {
    let mut sorted: Vec<_> = hosts.iter().collect();
    sorted.sort_by_key(|h| (&h.name, &h.id));
    let header = [
        "NAME",
        "STATE",
        "FOR",
        "HEARD",
        "RTT",
        "VTEP",
        "PORT",
        "GOSSIP",
        "MTU",
        "ENDPOINTS",
        "KEY",
        "REFUSED",
        "VERSION",
        "ID",
        "NOTES",
    ];
    table(
        header,
        sorted.into_iter().map(|h| {
            [
                h.name.clone(),
                h.state.clone(),
                duration(h.since_ms),
                h.last_heard_ms.map(duration).unwrap_or_default(),
                h.rtt_us.map(round_trip).unwrap_or_default(),
                list(&h.vteps),
                h.vxlan_port.to_string(),
                h.gossip.clone(),
                h.underlay_mtu.to_string(),
                h.endpoints.to_string(),
                h.key_used.clone().unwrap_or_default(),
                kinds(&h.refused),
                h.version.clone(),
                h.id.clone(),
                notes(h),
            ]
        }),
    )
}

fn notes(host: &Host) -> String {
    let mut notes = Vec::new();
    if host.local {
        notes.push("this host".to_owned());
    }
    if host.drained {
        notes.push("drained".to_owned());
    }
    if !host.entries_in_use {
        notes.push("its entries are not in use".to_owned());
    }
    if host.undecodable > 0 {
        notes.push(format!("{} not understood", count(records(host), "record")));
    }
    if host.refuses_us > 0 {
        notes.push(format!("has refused our gossip {}", times(host.refuses_us)));
    }
    notes.extend(host.notes.iter().cloned());
    notes.join(", ")
}

fn records(host: &Host) -> usize {
    usize::try_from(host.undecodable).unwrap_or(usize::MAX)
}

/// `1 time`, `7 times`.
pub(super) fn times(n: u64) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX), "time")
}

/// `unknown_key=12,replayed=3`, most of them first. No spaces: it is a column.
pub(super) fn kinds(refused: &BTreeMap<String, u64>) -> String {
    let mut kinds: Vec<_> = refused.iter().filter(|(_, n)| **n > 0).collect();
    kinds.sort_by_key(|(kind, n)| (Reverse(**n), *kind));
    kinds.iter().map(|(kind, n)| format!("{kind}={n}")).collect::<Vec<_>>().join(",")
}

/// `0.4ms`, `12.3ms`.
fn round_trip(us: u64) -> String {
    format!("{}.{}ms", us / 1000, us % 1000 / 100)
}

/// `host forget`.
pub(crate) fn host_forgotten(forgotten: &Forgotten) -> String {
    let Forgotten { host, done, waits_for, majority } = forgotten;
    if *done {
        return format!("host {host} is forgotten: its addresses are this host's\n");
    }
    let mut text = format!("host {host} is not forgotten yet; this host goes on trying\n");
    if !waits_for.is_empty() {
        text.push_str(&format!("the vote is missing of: {}\n", waits_for.join(", ")));
        text.push_str("who of them is gone for good as well, forget too\n");
    }
    if !majority {
        text.push_str(
            "those who may vote are not more than half of the cluster: say --force if most of it \
             is lost for good\n",
        );
    }
    text
}

/// `drain`.
pub(crate) fn drained(drained: &Drained) -> String {
    if drained.drained {
        let stay = count(drained.endpoints, "endpoint");
        format!("drained: this host takes no new endpoint; attached still: {stay}\n")
    } else {
        "this host takes new endpoints again\n".to_owned()
    }
}

/// `leave`.
pub(crate) fn left(left: &Left) -> String {
    let mut text = format!("left the cluster: {} told\n", count(left.told, "host"));
    if left.endpoints > 0 {
        let stay = count(left.endpoints, "endpoint");
        text.push_str(&format!("attached here still, cut off from other hosts: {stay}\n"));
    }
    text
}
