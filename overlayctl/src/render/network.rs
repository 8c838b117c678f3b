//! Networks.

use overlay_api::v1::{Deleted, Kept, Network};

use super::{age, clean, fields, labels, list, table};

/// `net ls`.
pub(crate) fn networks(networks: &[Network]) -> String {
    let mut sorted: Vec<_> = networks.iter().collect();
    sorted.sort_by_key(|n| (&n.name, n.vni, &n.id));
    let header =
        ["NAME", "VNI", "SUBNET", "GATEWAY", "MTU", "ENDPOINTS", "HERE", "CREATED-BY", "NOTES"];
    table(
        header,
        sorted.into_iter().map(|n| {
            let gateways = n.subnets.iter().filter(|_| !n.internal).map(|s| s.gateway);
            [
                n.name.clone(),
                n.vni.to_string(),
                list(n.subnets.iter().map(|s| s.cidr)),
                list(gateways),
                n.mtu.to_string(),
                n.endpoints.to_string(),
                n.local_endpoints.to_string(),
                n.created_by.clone(),
                notes(n),
            ]
        }),
    )
}

fn notes(network: &Network) -> String {
    let mut notes = Vec::new();
    if let Some(conflict) = &network.conflict {
        notes.push(format!("conflict: {conflict}"));
    }
    if network.internal {
        notes.push("internal".to_owned());
    }
    if !network.flood {
        notes.push("no flooding".to_owned());
    }
    notes.join(", ")
}

/// `net create`.
pub(crate) fn created(network: &Network) -> String {
    format!("created {}\n", clean(&network.name)) + &fields("  ", definition(network))
}

/// `net rm`.
pub(crate) fn deleted(networks: &[Deleted]) -> String {
    let one = |n: &Deleted| format!("deleted {}{}\n", clean(&n.network.name), detached(n));
    networks.iter().map(one).collect()
}

/// What went with it.
fn detached(deleted: &Deleted) -> String {
    let sum: usize = deleted.detached.iter().map(|on| on.endpoints).sum();
    if sum == 0 {
        return String::new();
    }
    let hosts = deleted.detached.iter().map(|on| {
        let later = if on.later { ", which cannot be reached: when it is back" } else { "" };
        format!("{} on {}{later}", on.endpoints, clean(&on.host))
    });
    let endpoints = if sum == 1 { "endpoint" } else { "endpoints" };
    format!(" and detached {sum} {endpoints}: {}", hosts.collect::<Vec<_>>().join("; "))
}

/// `net set`.
pub(crate) fn changed(network: &Network) -> String {
    format!("changed {}\n", clean(&network.name)) + &fields("  ", definition(network))
}

/// `endpoint forget-ip`.
pub(crate) fn forgotten(all: &[Kept]) -> String {
    let one =
        |kept: &Kept| format!("{} is no longer kept for {}\n", list(&kept.ips), clean(&kept.name));
    all.iter().map(one).collect()
}

fn kept_text(kept: &Kept) -> String {
    format!("{} {}", kept.name, list(&kept.ips))
}

/// `net inspect`.
pub(crate) fn networks_in_full(networks: &[Network], now_ms: u64) -> String {
    let blocks: Vec<_> = networks.iter().map(|n| in_full(n, now_ms)).collect();
    blocks.join("\n")
}

fn in_full(network: &Network, now_ms: u64) -> String {
    let here = network.local_endpoints;
    let mut pairs = vec![("name", network.name.clone())];
    pairs.extend(definition(network));
    pairs.extend([
        ("created", format!("{} ago by {}", age(network.created_ms, now_ms), network.created_by)),
        ("endpoints", format!("{}, {here} of them on this host", network.endpoints)),
        ("kept here", network.kept.iter().map(kept_text).collect::<Vec<_>>().join("; ")),
        ("conflict", network.conflict.clone().unwrap_or_default()),
    ]);
    fields("", pairs)
}

/// What it is, as far as it does not change by itself.
fn definition(network: &Network) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("id", network.id.clone()), ("vni", network.vni.to_string())];
    for subnet in &network.subnets {
        let gateway = match network.internal {
            true => "no gateway".to_owned(),
            false => format!("gateway {}", subnet.gateway),
        };
        pairs.push(("subnet", format!("{}, {gateway}", subnet.cidr)));
    }
    pairs.extend([
        ("mtu", network.mtu.to_string()),
        ("internal", if network.internal { "yes: no way out" } else { "no" }.to_owned()),
        ("flooding", if network.flood { "yes" } else { "no" }.to_owned()),
        ("excluded", list(&network.exclude)),
        ("chosen from", list(&network.ip_ranges)),
        ("labels", labels(&network.labels)),
    ]);
    pairs
}
