//! `GET /metrics`: figures for Prometheus, in its text format (version 0.0.4).
//!
//! They are those of `overlayctl status` and `overlayctl ipam ls`; nothing is
//! counted for them alone. Names follow Prometheus' rules: units in the name,
//! `_total` for what only grows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use overlay_api::v1;

/// What the format is called in `content-type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Each figure once with its meaning, its kind, and a line for each set of labels.
struct Page(String);

impl Page {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP overlayd_{name} {help}\n# TYPE overlayd_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let _ = write!(self.0, "overlayd_{name}");
        for (i, (key, value)) in labels.iter().enumerate() {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{key}=\"{escaped}\"", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.begin(name, kind, help);
        self.line(name, &[], value);
    }
}

/// The page.
pub fn page(status: &v1::Status, subnets: &[v1::IpamSubnet]) -> String {
    let mut page = Page(String::new());
    let count = |n: usize| n as u64;
    page.one("uptime_seconds", "gauge", "Since the daemon started.", status.uptime_ms / 1000);
    page.begin("hosts", "gauge", "Hosts known here, by state.");
    for (state, n) in &status.hosts {
        page.line("hosts", &[("state", state)], count(*n));
    }
    page.one("networks", "gauge", "Networks known here.", count(status.networks));
    page.one("endpoints", "gauge", "Endpoints on all hosts.", count(status.endpoints));
    let local = count(status.local_endpoints);
    page.one("local_endpoints", "gauge", "Endpoints on this host.", local);
    let complete = u64::from(status.view_complete);
    page.one("view_complete", "gauge", "0 while too little is known to delete anything.", complete);
    let wanted = count(status.desired_objects);
    page.one("desired_objects", "gauge", "Things that the kernel should hold.", wanted);
    let pending = count(status.pending);
    page.one("pending_operations", "gauge", "Kernel operations that wait or run.", pending);
    let failed = count(status.failed.len());
    page.one("failed_objects", "gauge", "Things that the kernel has refused.", failed);
    let warnings = count(status.warnings.len());
    page.one("warnings", "gauge", "Lines of overlayctl status that want somebody.", warnings);

    type Of = fn(&v1::IpamSubnet) -> u64;
    let figures: [(&str, &str, Of); 4] = [
        ("capacity", "Addresses that endpoints can have at all.", |subnet| subnet.capacity),
        ("leased", "Addresses that endpoints have, on all hosts.", |subnet| subnet.leased),
        ("free", "Addresses that this host, or one that it reaches, could give.", |s| s.free),
        ("unreachable", "Free addresses of hosts that cannot be reached.", |s| s.unreachable),
    ];
    for (what, help, of) in figures {
        let name = format!("addresses_{what}");
        page.begin(&name, "gauge", help);
        for subnet in subnets {
            let labels = [("net", subnet.net.as_str()), ("subnet", &subnet.cidr.to_string())];
            page.line(&name, &labels, of(subnet));
        }
    }

    page.begin("dropped_packets_total", "counter", "Packets that our rules have dropped.");
    let mut dropped: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for drop in &status.dropped {
        let key = (drop.port.as_deref().unwrap_or("host"), drop.kind.as_str());
        *dropped.entry(key).or_default() += drop.packets;
    }
    for ((port, kind), packets) in dropped {
        page.line("dropped_packets_total", &[("port", port), ("kind", kind)], packets);
    }
    for (name, value) in &status.counters {
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        page.one(&format!("{name}_total"), "counter", "A counter of overlayctl status.", *value);
    }
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_every_figure_is_introduced() {
        let mut page = Page(String::new());
        page.one("x_total", "counter", "An x.", 7);
        page.begin("y", "gauge", "A y.");
        page.line("y", &[("a", "1"), ("b", "q\"\\\n")], 3);
        expect_test::expect![[r#"
            # HELP overlayd_x_total An x.
            # TYPE overlayd_x_total counter
            overlayd_x_total 7
            # HELP overlayd_y A y.
            # TYPE overlayd_y gauge
            overlayd_y{a="1",b="q\"\\\n"} 3
        "#]]
        .assert_eq(&page.0);
    }
}
