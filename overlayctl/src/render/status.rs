//! `status`: written for the colleague who is woken at three.
//!
//! The first line is the verdict. It says "attention" if anything below it
//! wants a person: a refusal of the kernel, a host that is not heard, a view
//! that is not complete, a warning. Work under way is no reason: it is done
//! in milliseconds, or else it fails and is then listed as failed.

use overlay_api::v1::{Repair, Status};

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
    if !status.warnings.is_empty() {
        text.push_str("warnings:\n");
    }
    for warning in &status.warnings {
        text.push_str(&format!("  {}\n", clean(warning)));
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
