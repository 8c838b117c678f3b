//! Endpoints.

use overlay_api::v1::{Endpoint, Frozen, Imported};

use super::{age, clean, fields, labels, list, or_dash, table};

/// `endpoints`.
pub(crate) fn endpoints(endpoints: &[Endpoint], now_ms: u64) -> String {
    let header = ["NET", "NAME", "ID", "ADDRESS", "MAC", "HOST", "VTEP", "STATE", "AGE", "REASON"];
    table(
        header,
        sorted(endpoints).into_iter().map(|e| {
            [
                e.net.clone(),
                or_dash(e.name.as_deref()),
                e.id.clone(),
                list(&e.ips),
                e.mac.clone(),
                e.host.clone(),
                e.vtep.map(|vtep| vtep.to_string()).unwrap_or_default(),
                e.state.clone(),
                age(e.attached_ms, now_ms),
                reason(e),
            ]
        }),
    )
}

/// `endpoints --local`.
pub(crate) fn local_endpoints(endpoints: &[Endpoint], now_ms: u64) -> String {
    let header = [
        "NET",
        "NAME",
        "ID",
        "ADDRESS",
        "MAC",
        "INTERFACE",
        "NETNS",
        "HOST-SIDE",
        "STATE",
        "AGE",
        "REASON",
    ];
    table(
        header,
        sorted(endpoints).into_iter().map(|e| {
            [
                e.net.clone(),
                or_dash(e.name.as_deref()),
                e.id.clone(),
                list(&e.ips),
                e.mac.clone(),
                or_dash(e.ifname.as_deref()),
                or_dash(e.netns.as_deref()),
                or_dash(e.host_ifname.as_deref()),
                e.state.clone(),
                age(e.attached_ms, now_ms),
                reason(e),
            ]
        }),
    )
}

/// Why it is as it is; else that its addresses stay with its name.
fn reason(endpoint: &Endpoint) -> String {
    or_dash(endpoint.reason.as_deref().or(endpoint.kept.then_some("addresses kept")))
}

/// By network, then by address: what has no name still has its place.
fn sorted(endpoints: &[Endpoint]) -> Vec<&Endpoint> {
    let mut sorted: Vec<_> = endpoints.iter().collect();
    sorted.sort_by_key(|e| (&e.net, &e.ips, &e.id));
    sorted
}

/// `attach`.
pub(crate) fn attached(endpoint: &Endpoint) -> String {
    let interface = match (&endpoint.ifname, &endpoint.netns) {
        (Some(ifname), Some(netns)) => format!("{ifname} in {netns}"),
        (Some(ifname), None) => ifname.clone(),
        (None, _) => String::new(),
    };
    let state = match &endpoint.reason {
        Some(reason) => format!("{}: {reason}", endpoint.state),
        None => endpoint.state.clone(),
    };
    let head = format!("attached {} to {}\n", clean(called(endpoint)), clean(&endpoint.net));
    head + &fields(
        "  ",
        [
            ("id", endpoint.id.clone()),
            ("address", list(&endpoint.ips)),
            ("mac", endpoint.mac.clone()),
            ("interface", interface),
            ("host side", endpoint.host_ifname.clone().unwrap_or_default()),
            ("aliases", list(&endpoint.aliases)),
            ("labels", labels(&endpoint.labels)),
            ("ports", list(&endpoint.ports)),
            ("kept", if endpoint.kept { "yes: for this name on this host" } else { "" }.to_owned()),
            ("state", state),
        ],
    )
}

/// `endpoint import`.
pub(crate) fn imported(done: &Imported) -> String {
    let Imported { added, changed, removed, unchanged } = done;
    format!("{added} added, {changed} changed, {removed} removed, {unchanged} unchanged\n")
}

/// `endpoint thaw`, one list for each thing that was named.
pub(crate) fn thawed(lifted: &[Vec<Frozen>]) -> String {
    let each = lifted.iter().flatten();
    each.map(|f| format!("{} of {} may move again\n", clean(&f.what.join(" ")), clean(&f.net)))
        .collect()
}

/// `detach`.
pub(crate) fn detached(endpoints: &[Endpoint]) -> String {
    endpoints
        .iter()
        .map(|e| format!("detached {} from {}\n", clean(called(e)), clean(&e.net)))
        .collect()
}

/// Its name, or else its id.
fn called(endpoint: &Endpoint) -> &str {
    endpoint.name.as_deref().unwrap_or(&endpoint.id)
}
