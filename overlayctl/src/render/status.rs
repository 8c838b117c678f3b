//! `status`: written for the colleague who is woken at three.
//!
//! The first line is the verdict. It says "attention" if anything below it
//! wants a person: a refusal of the kernel, a host that is not heard, a view
//! that is not complete, a warning, gossip of somebody who seems to have the
//! wrong key. Work under way is no reason: it is done
//! in milliseconds, or else it fails and is then listed as failed.

use std::collections::BTreeMap;

use overlay_api::v1::{RefusedFrom, Repair, Status};

use super::host::{kinds, times};
use super::{clean, count, duration, fields, list};

/// `status`.
pub(crate) fn status(status: &Status) -> String {
    let mut text = verdict(status) + "\n";
    text.push_str(&fields("", facts(status)));
    if !status.failed.is_empty() {
        text.push_str("failed:\n");
    }
    for failed in &status.failed {
        let (command, reason) = (clean(&failed.command), clean(&failed.reason));
        let since = duration(failed.since_ms);
        let tried = count(failed.attempts as usize, "time");
        text.push_str(&format!("  {command}\n    {reason}\n    for {since}, tried {tried}\n"));
    }
    if !status.pending_objects.is_empty() {
        text.push_str("pending:\n");
    }
    for pending in &status.pending_objects {
        let since = pending.since_ms.map(|ms| format!(", for {}", duration(ms)));
        text.push_str(&format!(
            "  {}\n    {}{}\n",
            clean(&pending.object),
            clean(&pending.reason),
            since.unwrap_or_default()
        ));
    }
    if !status.repairs.is_empty() {
        text.push_str("put back after another hand:\n");
    }
    for repair in &status.repairs {
        text.push_str(&repaired(repair));
    }
    text.push_str(&dropped(status));
    for setting in &status.settings {
        text.push_str(&format!("setting: {}\n", clean(setting)));
    }
    if !status.warnings.is_empty() {
        text.push_str("warnings:\n");
    }
    for warning in &status.warnings {
        text.push_str(&format!("  {}\n", clean(warning)));
    }
    text + &refused(status)
}

/// What the rules in the kernel have dropped, a line for each port.
fn dropped(status: &Status) -> String {
    let mut ports: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    for dropped in &status.dropped {
        let what = format!("{} {}", dropped.packets, clean(&dropped.kind));
        ports.entry(dropped.port.as_deref()).or_default().push(what);
    }
    let mut text = String::new();
    if !ports.is_empty() {
        text.push_str("dropped frames, by what was false of them:\n");
    }
    for (port, what) in ports.iter().take(SHOWN) {
        let place = port.map_or_else(|| "this host".to_owned(), clean);
        text.push_str(&format!("  {place}: {}\n", what.join(", ")));
    }
    let more = ports.len().saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more: overlayctl status --json\n"));
    }
    text
}

/// So many addresses are shown; JSON has all.
const SHOWN: usize = 10;

/// So long does a refusal want attention.
const FRESH_MS: u64 = 60_000;

/// Gossip that was refused of addresses that belong to no host.
fn refused(status: &Status) -> String {
    let mut text = String::new();
    if !status.refused.is_empty() || status.refused_forgotten > 0 {
        text.push_str("refused gossip, by source (which can be forged):\n");
    }
    for from in status.refused.iter().take(SHOWN) {
        let mut what = Vec::new();
        if from.kinds.values().any(|n| *n > 0) {
            what.push(clean(&kinds(&from.kinds)));
        }
        if from.refuses_us > 0 {
            what.push(format!("refused ours {}", times(from.refuses_us)));
        }
        let (address, what, last) = (from.address, what.join(", "), duration(from.last_ms));
        text.push_str(&format!("  {address}: {what}; {last} ago\n"));
        for advice in advice(from, status.host.key_used.is_some()) {
            text.push_str(&format!("    {advice}\n"));
        }
    }
    let more = status.refused.len().saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more: overlayctl status --json\n"));
    }
    if status.refused_forgotten > 0 {
        let n = times(status.refused_forgotten);
        text.push_str(&format!("  forgotten to make room: {n}\n"));
    }
    text
}

fn repaired(repair: &Repair) -> String {
    let more = match repair.objects {
        0 | 1 => String::new(),
        n => format!(" and {} more objects", n - 1),
    };
    let by = match &repair.by {
        Some(by) => format!(" by {}", clean(by)),
        None => String::new(),
    };
    let times =
        if repair.times > 1 { format!(", {} times in 10 s", repair.times) } else { String::new() };
    format!(
        "  {}{more}\n    {}{by} {} ago, right again after {}{times}\n",
        clean(&repair.object),
        clean(&repair.found),
        duration(repair.ago_ms),
        duration(repair.after_ms)
    )
}

/// What to do if it is a host that should be in the cluster.
fn advice(from: &RefusedFrom, sealed: bool) -> Vec<&'static str> {
    let came = |kind: &str| from.kinds.get(kind).is_some_and(|n| *n > 0);
    let mut advice = Vec::new();
    if came("unknown_key") && sealed {
        advice.push("it has another key: give it ours, or add its key here: overlayctl key add");
    }
    if came("plain") {
        advice.push("it has no key: start overlayd there with ours, in --key-file");
    }
    if from.refuses_us > 0 && sealed {
        advice.push("it lacks the key that this host uses: overlayctl key add, there");
    }
    if (came("unknown_key") || from.refuses_us > 0) && !sealed {
        advice.push("it has a key: start overlayd here with it, in --key-file");
    }
    if came("malformed") || came("too_much") || came("unknown_kind") {
        advice.push("what it says makes no sense here: does it run another release?");
    }
    if advice.is_empty() {
        advice.push("no host that belongs here does that: find out what it is");
    }
    advice
}

/// True if that may well be a host that is set up wrongly, and is so now.
fn locked_out(from: &RefusedFrom) -> bool {
    let of_a_host = ["unknown_key", "plain"].iter().any(|kind| from.kinds.contains_key(*kind));
    from.last_ms < FRESH_MS && (of_a_host || from.refuses_us > 0)
}

fn verdict(status: &Status) -> String {
    let problems = problems(status);
    if !problems.is_empty() {
        return format!("attention: {}", problems.join("; "));
    }
    let kernel = if status.pending == 0 && status.applied_revision == status.desired_revision {
        format!("the kernel holds revision {}", status.applied_revision)
    } else {
        format!("the kernel is being brought to revision {}", status.desired_revision)
    };
    let up = status.hosts.get("up").copied().unwrap_or(0);
    format!("ok: {kernel}, {} up", count(up, "host"))
}

fn problems(status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    if !status.failed.is_empty() {
        problems.push(format!("the kernel refuses {}", count(status.failed.len(), "object")));
    }
    if !status.fights.is_empty() {
        problems.push(format!("another hand fights over {}", count(status.fights.len(), "object")));
    }
    if status.host.state != "up" {
        problems.push(format!("the state of this host is {}", clean(&status.host.state)));
    }
    for state in ["down", "suspect"] {
        if let Some(n) = status.hosts.get(state).copied().filter(|n| *n > 0) {
            problems.push(format!("{} {state}", count(n, "host")));
        }
    }
    if !status.view_complete {
        problems.push("too little is known yet to delete anything".to_owned());
    }
    let locked_out = status.refused.iter().filter(|from| locked_out(from)).count();
    if locked_out > 0 {
        let these = if locked_out == 1 { "address" } else { "addresses" };
        problems.push(format!("the keys of {locked_out} {these} and ours do not fit"));
    }
    if !status.warnings.is_empty() {
        problems.push(count(status.warnings.len(), "warning"));
    }
    problems
}

/// Those that are up first, and a state that this release does not know last.
fn hosts(status: &Status) -> String {
    let place = |state: &str| {
        let known = ["up", "suspect", "stopped", "down", "left"];
        known.iter().position(|k| *k == state).unwrap_or(known.len())
    };
    let mut states: Vec<_> = status.hosts.iter().filter(|(_, n)| **n > 0).collect();
    states.sort_by_key(|(state, _)| place(state));
    states.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ")
}

fn facts(status: &Status) -> [(&'static str, String); 7] {
    let host = &status.host;
    let here = status.local_endpoints;
    [
        ("host", format!("{}, id {}", host.name, host.id)),
        (
            "underlay",
            format!(
                "VTEP {}, UDP port {}, MTU {}, gossip {}",
                if host.vteps.is_empty() { "-".to_owned() } else { list(&host.vteps) },
                host.vxlan_port,
                host.underlay_mtu,
                host.gossip
            ),
        ),
        (
            "daemon",
            format!(
                "version {}, up {}, incarnation {}",
                host.version,
                duration(status.uptime_ms),
                host.incarnation
            ),
        ),
        ("hosts", hosts(status)),
        ("networks", status.networks.to_string()),
        ("endpoints", format!("{}, {here} of them on this host", status.endpoints)),
        (
            "kernel",
            format!(
                "revision {} of {}, {} desired, {} pending",
                status.applied_revision,
                status.desired_revision,
                count(status.desired_objects, "object"),
                count(status.pending, "operation")
            ),
        ),
    ]
}
