//! Replies as people read them. Pure: values in, text out; what time it is
//! comes in as an argument.
//!
//! Lists are columns without borders, sorted, one thing a line, so that `awk`
//! and `diff` work on them; one thing is a line that says what happened, then
//! `key: value` lines. What is unknown, or does not apply, is `-`.
//!
//! Names, labels and reasons come from other hosts and from whoever made the
//! containers: nothing that they contain reaches the terminal as a control
//! character (see [`clean`]).

mod dns;
mod endpoint;
mod entry;
mod event;
mod host;
mod ipam;
mod key;
mod network;
mod port;
mod service;
mod status;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::Table;

pub(crate) use dns::{dns, looked};
pub(crate) use endpoint::{attached, detached, endpoints, imported, local_endpoints, thawed};
pub(crate) use entry::{entries, plan};
pub(crate) use event::event;
pub(crate) use host::{drained, host_forgotten, hosts, left};
pub(crate) use ipam::{audit, ranges, released, subnets};
pub(crate) use key::{key_added, key_removed, key_used, keys};
pub(crate) use network::{changed, created, deleted, forgotten, networks, networks_in_full};
pub(crate) use port::{firewall, ports, published};
pub(crate) use service::{service_created, service_removed, services};
pub(crate) use status::status;

/// Milliseconds since 1970, now.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `text` with everything escaped that could move the cursor, change a colour,
/// start a new line, or reverse the reading direction.
pub(crate) fn clean(text: &str) -> String {
    let harmless = |c: char| {
        let steers = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}');
        !c.is_control() && !steers
    };
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if harmless(c) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// Columns under a header. An empty cell would shift what `awk` counts: `-`.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { clean(&cell) }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// `key: value` lines, the values aligned. What is empty is left out.
fn fields<'a>(indent: &str, pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = pairs.iter().map(|(key, _)| key.len() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let key = format!("{key}:");
        writeln!(text, "{indent}{key:width$} {}", clean(&value)).expect("a String takes it all");
    }
    text
}

/// `420ms`, `12s`, `3m12s`, `5h3m`, `2d4h`.
fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86400, s / 3600 % 24),
    }
}

/// How long ago; a clock that has been set back makes nothing older than zero.
fn age(since_ms: u64, now_ms: u64) -> String {
    duration(now_ms.saturating_sub(since_ms))
}

/// `1 host`, `2 hosts`.
fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

fn list<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(",")
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    list(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests;
