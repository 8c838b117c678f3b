//! Published ports, and what the rules of the kernel have done.

use overlay_api::v1::{Endpoint, Firewall, Port};

use super::{clean, list, or_dash, table};

/// `publish`, `unpublish`.
pub(crate) fn published(endpoint: &Endpoint) -> String {
    let name = clean(endpoint.name.as_deref().unwrap_or(&endpoint.id));
    match endpoint.ports.as_slice() {
        [] => format!("{name} publishes no ports\n"),
        ports => format!("{name} publishes {}\n", clean(&ports.join(" "))),
    }
}

/// `ports`.
pub(crate) fn ports(ports: &[Port]) -> String {
    let header = ["PUBLISHED", "MODE", "TO", "ENDPOINT", "NET", "HOST", "CONNECTIONS", "STATE"];
    table(
        header,
        ports.iter().map(|port| {
            [
                // The mode has a column of its own.
                port.published.split(',').next().unwrap_or_default().to_owned(),
                port.mode.clone(),
                list(&port.to),
                port.name.clone().unwrap_or_else(|| port.endpoint.clone()),
                or_dash(port.net.as_deref()),
                port.host.clone(),
                port.connections.to_string(),
                port.problem.clone().unwrap_or_else(|| "ok".to_owned()),
            ]
        }),
    )
}

/// `fw`.
pub(crate) fn firewall(firewall: &Firewall) -> String {
    let translated = firewall.translated.iter().map(|t| {
        let does = if t.what.starts_with("masquerade") { "masqueraded" } else { "led" };
        [does.to_owned(), t.what.clone(), t.connections.to_string(), String::new()]
    });
    let dropped = firewall.dropped.iter().map(|d| {
        let what = match &d.port {
            Some(port) => format!("{} of {port}", d.kind),
            None => d.kind.clone(),
        };
        ["dropped".to_owned(), what, d.packets.to_string(), d.bytes.to_string()]
    });
    let mut text = table(["DONE", "WHAT", "TIMES", "BYTES"], translated.chain(dropped));
    for setting in &firewall.settings {
        text += &format!("# {}\n", clean(setting));
    }
    text
}
