//! Docker sets the policy of `FORWARD` to `DROP`, and lets others accept what is
//! theirs in its chain `DOCKER-USER`: there is a jump there to a chain of ours. Docker
//! loads `br_netfilter` too, so without it not even frames between two ports of one
//! of our bridges would pass.
//!
//! Nothing more is opened than Docker does for its own networks: what our containers
//! send to Docker's bridges is for Docker's rules to judge. (An uplink that is called
//! `br-…` is judged so, too; `overlayctl status` says what helps.) What goes from one
//! of our networks to another is dropped by our own table.
//!
//! `iptables` is asked, the program that dockerd uses itself, so that both mean the
//! same tables, of nftables or of old.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const CHAIN: &str = "OVERLAYD";

const RULES: [&str; 5] = [
    "-i ovb+ -o ovb+ -j ACCEPT",
    "-o ovb+ -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    "-i ovb+ -o docker+ -j RETURN",
    "-i ovb+ -o br-+ -j RETURN",
    "-i ovb+ -j ACCEPT",
];

/// Sees to it that the chain is there, where Docker's is.
pub(super) async fn open() {
    let opened = tokio::task::spawn_blocking(|| ["iptables", "ip6tables"].map(open_by)).await;
    for failed in opened.into_iter().flatten().flatten() {
        tracing::warn!("{failed}: what containers send may be dropped; see overlayctl status");
    }
}

/// Why it is not there, if Docker's is.
fn open_by(program: &str) -> Option<String> {
    let jumps = run(program, &["-w", "-C", "DOCKER-USER", "-j", CHAIN], "");
    let there = run(program, &["-w", "-S", "DOCKER-USER"], "");
    // No program, or a Docker that has no such chain here: nothing to do.
    if jumps.is_none_or(|done| done.status.success()) || !there?.status.success() {
        return None;
    }
    let rules: String = RULES.map(|rule| format!("-A {CHAIN} {rule}\n")).concat();
    let text = format!("*filter\n:{CHAIN} - [0:0]\n{rules}-I DOCKER-USER 1 -j {CHAIN}\nCOMMIT\n");
    let done = run(&format!("{program}-restore"), &["-w", "--noflush"], &text)?;
    (!done.status.success()).then(|| {
        let why = String::from_utf8_lossy(&done.stderr);
        format!("{program} takes no rules for our bridges: {}", why.trim())
    })
}

/// Takes the chain away; how many there were.
pub fn close() -> usize {
    let close_by = |program: &str| {
        let _ = run(program, &["-w", "-D", "DOCKER-USER", "-j", CHAIN], "");
        let _ = run(program, &["-w", "-F", CHAIN], "");
        run(program, &["-w", "-X", CHAIN], "").is_some_and(|done| done.status.success())
    };
    ["iptables", "ip6tables"].into_iter().filter(|program| close_by(program)).count()
}

/// `None`: it cannot be started.
fn run(program: &str, args: &[&str], input: &str) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    // A program that does not read what it is told says so when it ends.
    let _ = child.stdin.take()?.write_all(input.as_bytes());
    child.wait_with_output().ok()
}
