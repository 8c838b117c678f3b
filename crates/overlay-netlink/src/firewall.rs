//! The nftables table `inet overlayd`, by way of the `nft` program.
//!
//! The table is replaced as a whole, in one transaction, and read back as a
//! whole. Whether it is as we wrote it is judged by its rules, not by our
//! memory: a table that anybody else has touched reads as the bridge set
//! [`ALTERED`], which nobody wants, so that it is written again.
//!
//! What it does: packets forwarded between two bridges of ours (the host
//! routes between its networks' gateways) are dropped; packets that stay on
//! one bridge, which the host sees only with `br_netfilter`, pass.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use overlay_model::kernel::NFT_TABLE;
use overlay_model::{IfName, Object, Refusal};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::Failure;

/// Stands for "not as we wrote it" in a set of bridges that was read.
pub const ALTERED: &str = "altered-by-hand";

const SET: &str = "same_bridge";
const NOT_INSTALLED: &str = "nft is not installed: apt-get install nftables";

/// Replaces the table in one transaction. Says into `pid` which process does
/// it, before it does.
pub(crate) async fn put(bridges: &BTreeSet<IfName>, pid: &AtomicU32) -> Result<(), Failure> {
    if let Some(odd) = bridges.iter().find(|name| !plain(name)) {
        let text = format!("bridge name `{odd}` cannot stand in an nftables rule");
        return Err(Failure::new(Refusal::Other, text));
    }
    run_script(&script(bridges), pid).await
}

/// Deletes the table, if it is there; `pid` as in [`put`].
pub(crate) async fn del(pid: &AtomicU32) -> Result<(), Failure> {
    // `add` first: deleting a table that is not there is an error.
    let script = format!("add table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n");
    run_script(&script, pid).await
}

/// The table as an object; `None` if there is none.
///
/// One that cannot be read (no `nft`, or a kernel without nftables) counts as
/// none: it is wanted, so it is put, and the refusal of that says what is
/// missing. The rest of a dump must not depend on it.
pub(crate) async fn read() -> Option<Object> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "table", "inet", NFT_TABLE]).stdin(Stdio::null());
    let output = match command.kill_on_drop(true).output().await {
        Ok(output) => output,
        Err(err) => {
            if err.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%err, "cannot run nft");
            }
            return None;
        }
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        if !text.contains("No such file or directory") {
            tracing::warn!(why = first_line(&text), "cannot read nftables table inet {NFT_TABLE}");
        }
        return None;
    }
    let listing = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let bridges = bridges_of(&listing).unwrap_or_else(|| {
        BTreeSet::from([IfName::new(ALTERED).expect("15 printable bytes without / and :")])
    });
    Some(Object::Firewall { bridges })
}

fn plain(name: &IfName) -> bool {
    name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn script(bridges: &BTreeSet<IfName>) -> String {
    let mut elements = String::new();
    for (i, bridge) in bridges.iter().enumerate() {
        let before = if i == 0 { "elements = { " } else { ", " };
        let _ = write!(elements, "{before}\"{bridge}\" . \"{bridge}\"");
    }
    if !bridges.is_empty() {
        elements.push_str(" }");
    }
    format!(
        "add table inet {NFT_TABLE}
delete table inet {NFT_TABLE}
table inet {NFT_TABLE} {{
  set {SET} {{ type ifname . ifname; {elements} }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @{SET} accept
    iifname \"ovb*\" oifname \"ovb*\" counter drop
  }}
}}
"
    )
}

/// The bridges of a table that is exactly what [`script`] makes.
fn bridges_of(listing: &Value) -> Option<BTreeSet<IfName>> {
    let mut bridges = None;
    let mut chains = 0;
    let mut rules = Vec::new();
    for item in listing["nftables"].as_array()? {
        let (what, body) = item.as_object()?.iter().next()?;
        match what.as_str() {
            "metainfo" | "table" => {}
            "set" if body["name"] == SET && bridges.is_none() => {
                bridges = Some(elements(&body["elem"])?);
            }
            "chain" => {
                let as_made = body["name"] == "forward"
                    && body["type"] == "filter"
                    && body["hook"] == "forward"
                    && body["prio"] == 0
                    && body["policy"] == "accept";
                chains += 1;
                as_made.then_some(())?;
            }
            "rule" => rules.push(without_counts(&body["expr"])),
            _ => return None,
        }
    }
    let between = |key: &str| json!({ "meta": { "key": key } });
    let matches = |left: Value, right: Value| json!({ "match": { "op": "==", "left": left, "right": right } });
    let wanted = vec![
        json!([
            matches(
                json!({ "concat": [between("iifname"), between("oifname")] }),
                json!(format!("@{SET}")),
            ),
            { "accept": null },
        ]),
        json!([
            matches(between("iifname"), json!("ovb*")),
            matches(between("oifname"), json!("ovb*")),
            { "counter": null },
            { "drop": null },
        ]),
    ];
    if chains == 1 && rules == wanted { bridges } else { None }
}

fn elements(list: &Value) -> Option<BTreeSet<IfName>> {
    if list.is_null() {
        return Some(BTreeSet::new());
    }
    list.as_array()?
        .iter()
        .map(|element| match element["concat"].as_array()?.as_slice() {
            [from, to] if from == to => IfName::new(from.as_str()?).ok(),
            _ => None,
        })
        .collect()
}

/// A rule's expressions, with what its counter has counted left out.
fn without_counts(expressions: &Value) -> Value {
    let mut expressions = expressions.clone();
    for expression in expressions.as_array_mut().into_iter().flatten() {
        if let Some(counter) = expression.get_mut("counter") {
            *counter = Value::Null;
        }
    }
    expressions
}

async fn run_script(script: &str, pid: &AtomicU32) -> Result<(), Failure> {
    let failed = |err: io::Error| match err.kind() {
        io::ErrorKind::NotFound => Failure::new(Refusal::Other, NOT_INSTALLED),
        _ => Failure::new(Refusal::Other, format!("cannot run nft: {err}")),
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    pid.store(child.id().unwrap_or(0), Ordering::Release);
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    // Should nft end before it has read all, its exit status says why.
    let _ = stdin.write_all(script.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let refusal =
        if text.contains("Operation not permitted") { Refusal::Permission } else { Refusal::Other };
    Err(Failure::new(refusal, format!("nft: {}", first_line(&text))))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("no reason given").trim().to_owned()
}
