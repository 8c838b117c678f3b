//! Whether the rules of others let through what stays on a bridge of ours.
//!
//! With `br_netfilter` in the kernel and `net.bridge.bridge-nf-call-iptables`
//! at 1 (a host with Docker or Kubernetes), frames from one port of a bridge
//! to another pass the forward hook of iptables and nftables. An accept in a
//! table of ours overrides no drop in another, and the bridge's own attribute
//! (`nf_call_iptables 0`) is only or-ed to the sysctl: nothing that we may
//! touch helps. So it is looked for and said, with what does.
//!
//! A frame that opens a connection is thought through the foreign forward
//! chains, with the bridge's name as the interface on both sides. Of a rule
//! that asks for anything else it is not known whether it applies; it is
//! passed over. What is told is therefore what happens to traffic that nobody
//! has made an exception for.
//!
//! Reading only, and at no cost where the sysctl is 0 or not there.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;

use overlay_model::kernel::NFT_TABLE;
use serde_json::Value;
use tokio::process::Command;

/// A chain of somebody else's that drops what crosses a bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The sysctl that leads bridged packets there.
    sysctl: &'static str,
    /// The bridge.
    bridge: String,
    /// Where, in the words of the tool that made it.
    place: String,
    /// What lets it through.
    remedy: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} drops what containers send across {}, since {} is 1: let it pass with `{}`, or, \
             if nothing else on this host needs it, set the sysctl to 0",
            self.place, self.bridge, self.sysctl, self.remedy
        )
    }
}

/// One of the two protocols that `br_netfilter` knows.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    sysctl: &'static str,
    /// The nftables family of iptables, beside `inet`.
    family: &'static str,
    iptables: &'static str,
    legacy: &'static str,
    legacy_tables: &'static str,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol {
        sysctl: "net.bridge.bridge-nf-call-iptables",
        family: "ip",
        iptables: "iptables",
        legacy: "iptables-legacy",
        legacy_tables: "/proc/net/ip_tables_names",
    },
    Protocol {
        sysctl: "net.bridge.bridge-nf-call-ip6tables",
        family: "ip6",
        iptables: "ip6tables",
        legacy: "ip6tables-legacy",
        legacy_tables: "/proc/net/ip6_tables_names",
    },
];

/// Where something on a bridge of ours is dropped by the rules of others; at
/// most one place for each of the two protocols and tools.
///
/// What cannot be read (no `nft`, no `iptables-legacy`) is not told: this is
/// advice, and nothing depends on it.
pub async fn blocked() -> Vec<Blocked> {
    let called: Vec<Protocol> = PROTOCOLS.into_iter().filter(|p| is_on(p.sysctl)).collect();
    let Some(bridge) = a_bridge().filter(|_| !called.is_empty()) else { return Vec::new() };
    let mut found = Vec::new();
    let mut told_inet = false;
    let listing = list(&["-j", "list", "chains"]).await;
    for protocol in called {
        for (family, table) in forwarding(&listing, protocol.family) {
            if family == "inet" && told_inet {
                continue;
            }
            let rules = list(&["-j", "-t", "list", "table", &family, &table]).await;
            let Some(chain) = Rules::of_nft(&rules, &bridge).drops() else { continue };
            told_inet |= family == "inet";
            let docker = chains(&rules).any(|c| c["name"] == "DOCKER-USER");
            found.push(Blocked {
                sysctl: protocol.sysctl,
                bridge: bridge.clone(),
                place: format!("chain {chain} of nftables table {family} {table}"),
                remedy: remedy(&protocol, &family, &table, &chain, docker),
            });
        }
        if let Some(text) = legacy(&protocol).await {
            let rules = Rules::of_legacy(&text, &bridge);
            if rules.drops().is_some() {
                let docker = rules.chains.contains_key("DOCKER-USER");
                found.push(Blocked {
                    sysctl: protocol.sysctl,
                    bridge: bridge.clone(),
                    place: format!("chain FORWARD of {}", protocol.legacy),
                    remedy: iptables_rule(protocol.legacy, docker),
                });
            }
        }
    }
    found
}

fn remedy(protocol: &Protocol, family: &str, table: &str, chain: &str, docker: bool) -> String {
    if family == "inet" && table == "firewalld" {
        "firewall-cmd --permanent --zone=trusted --add-interface=ovb+ && firewall-cmd --reload"
            .to_owned()
    } else if family == protocol.family && table == "filter" && chain == "FORWARD" {
        iptables_rule(protocol.iptables, docker)
    } else {
        format!("nft insert rule {family} {table} {chain} iifname ovb* oifname ovb* accept")
    }
}

/// Between two networks of ours our own table drops, so that one rule does for all.
fn iptables_rule(program: &str, docker: bool) -> String {
    // Docker keeps what is in this chain, and puts it before its own.
    let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
    format!("{program} -I {chain} -i ovb+ -o ovb+ -j ACCEPT")
}

fn is_on(sysctl: &str) -> bool {
    let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// The name of a bridge like ours: the rules of others rarely tell one from another.
fn a_bridge() -> Option<String> {
    let links = nix::net::if_::if_nameindex().ok()?;
    links.iter().find_map(|link| {
        let name = link.name().to_str().ok()?;
        name.starts_with("ovb").then(|| name.to_owned())
    })
}

async fn list(args: &[&str]) -> Value {
    output("nft", args).await.and_then(|out| serde_json::from_slice(&out).ok()).unwrap_or_default()
}

/// What iptables-legacy has in its table `filter`; `None` if it has none, which
/// is looked up first since asking for it makes it.
async fn legacy(protocol: &Protocol) -> Option<String> {
    let tables = std::fs::read_to_string(protocol.legacy_tables).ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
    String::from_utf8(output(protocol.legacy, &["-w", "1", "-S"]).await?).ok()
}

async fn output(program: &str, args: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok()?;
    output.status.success().then_some(output.stdout)
}

fn chains(listing: &Value) -> impl Iterator<Item = &Value> {
    listing["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("chain"))
}

/// The foreign tables with a forward chain that packets of `family` pass.
fn forwarding(listing: &Value, family: &str) -> Vec<(String, String)> {
    let mut tables: Vec<(String, String)> = chains(listing)
        .filter(|c| c["hook"] == "forward" && c["type"] == "filter")
        .filter_map(|c| Some((c["family"].as_str()?.into(), c["table"].as_str()?.into())))
        .filter(|(f, t): &(String, String)| {
            (f == family || f == "inet") && !(f == "inet" && t == NFT_TABLE)
        })
        .collect();
    tables.dedup();
    tables
}

/// What a rule does with the packet thought of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Debug, Default)]
struct Chain {
    /// It stands at the forward hook itself.
    forward: bool,
    /// What becomes of a packet that no rule decides on.
    drop: bool,
    /// The verdicts of those rules that surely apply.
    rules: Vec<Verdict>,
}

/// A table, as far as a packet of one bridge is concerned.
#[derive(Debug, Default)]
struct Rules {
    chains: BTreeMap<String, Chain>,
}

/// Deeper jumps than this are not followed; the kernel's own limit is 16.
const DEPTH: u8 = 16;

impl Rules {
    fn of_nft(listing: &Value, bridge: &str) -> Self {
        let mut rules = Self::default();
        for chain in chains(listing) {
            let forward = chain["hook"] == "forward" && chain["type"] == "filter";
            let made = Chain { forward, drop: chain["policy"] == "drop", rules: Vec::new() };
            rules.chains.insert(chain["name"].as_str().unwrap_or_default().to_owned(), made);
        }
        for item in listing["nftables"].as_array().into_iter().flatten() {
            let Some(rule) = item.get("rule") else { continue };
            let chain = rule["chain"].as_str().and_then(|name| rules.chains.get_mut(name));
            if let (Some(chain), Some(verdict)) = (chain, nft_verdict(&rule["expr"], bridge)) {
                chain.rules.push(verdict);
            }
        }
        rules
    }

    fn of_legacy(text: &str, bridge: &str) -> Self {
        let mut rules = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["-P", name, policy] => {
                    let (forward, drop) = (*name == "FORWARD", *policy == "DROP");
                    let made = Chain { forward, drop, rules: Vec::new() };
                    rules.chains.insert((*name).to_owned(), made);
                }
                ["-N", name] => {
                    rules.chains.insert((*name).to_owned(), Chain::default());
                }
                ["-A", name, rest @ ..] => {
                    let chain = rules.chains.get_mut(*name);
                    if let (Some(chain), Some(verdict)) = (chain, legacy_verdict(rest, bridge)) {
                        chain.rules.push(verdict);
                    }
                }
                _ => {}
            }
        }
        rules
    }

    /// The chain at the hook in which the packet ends, if it does.
    fn drops(&self) -> Option<String> {
        let dropping = self.chains.iter().filter(|(_, chain)| chain.forward);
        dropping
            .filter(|(name, chain)| match self.walk(name, DEPTH) {
                Some(Verdict::Accept) => false,
                Some(Verdict::Drop) => true,
                _ => chain.drop,
            })
            .map(|(name, _)| name.clone())
            .next()
    }

    /// Accept or drop, or nothing if the chain comes to its end.
    fn walk(&self, name: &str, depth: u8) -> Option<Verdict> {
        let chain = self.chains.get(name).filter(|_| depth > 0)?;
        for verdict in &chain.rules {
            match verdict {
                Verdict::Accept | Verdict::Drop => return Some(verdict.clone()),
                Verdict::Return => return None,
                Verdict::Goto(to) => return self.walk(to, depth - 1),
                Verdict::Jump(to) => {
                    if let Some(decided) = self.walk(to, depth - 1) {
                        return Some(decided);
                    }
                }
            }
        }
        None
    }
}

/// The verdict of a rule that surely applies to what comes in and goes out by
/// `bridge`.
fn nft_verdict(expressions: &Value, bridge: &str) -> Option<Verdict> {
    let target = |body: &Value| Some(body["target"].as_str()?.to_owned());
    for expression in expressions.as_array()? {
        let (what, body) = expression.as_object()?.iter().next()?;
        match what.as_str() {
            "match" => {
                let key = body["left"]["meta"]["key"].as_str()?;
                if key != "iifname" && key != "oifname" {
                    return None;
                }
                let same = nft_name(&body["right"], bridge)?;
                match body["op"].as_str()? {
                    "==" if same => {}
                    "!=" if !same => {}
                    _ => return None,
                }
            }
            "counter" | "log" => {}
            // Matches of iptables are shown by name only. Who asks for a bridge port at all hardly
            // asks for anything else than whether there is one (`--physdev-is-bridged`).
            "xt" if body["name"] == "comment" || body["name"] == "physdev" => {}
            "accept" => return Some(Verdict::Accept),
            "drop" | "reject" => return Some(Verdict::Drop),
            "return" => return Some(Verdict::Return),
            "jump" => return target(body).map(Verdict::Jump),
            "goto" => return target(body).map(Verdict::Goto),
            _ => return None,
        }
    }
    None
}

/// Whether a name, or a set of names written out, has the bridge in it.
fn nft_name(right: &Value, bridge: &str) -> Option<bool> {
    if let Some(names) = right["set"].as_array() {
        return Some(names.iter().any(|name| nft_name(name, bridge) == Some(true)));
    }
    let pattern = right.as_str().filter(|name| !name.starts_with('@'))?;
    Some(fits(pattern, '*', bridge))
}

fn fits(pattern: &str, any: char, name: &str) -> bool {
    pattern.strip_suffix(any).map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// As [`nft_verdict`], of a line of `iptables -S` behind its chain.
fn legacy_verdict(words: &[&str], bridge: &str) -> Option<Verdict> {
    let mut words = words.iter();
    let mut not = false;
    while let Some(word) = words.next() {
        match *word {
            "!" => not = true,
            "-i" | "-o" => {
                if fits(words.next()?, '+', bridge) == std::mem::take(&mut not) {
                    return None;
                }
            }
            "-m" if matches!(words.as_slice().first(), Some(&("comment" | "physdev"))) => {
                words.next();
            }
            "--physdev-is-bridged" if !not => {}
            "--comment" => skip_quoted(&mut words)?,
            "-j" => {
                return Some(match *words.next()? {
                    "ACCEPT" => Verdict::Accept,
                    "DROP" | "REJECT" => Verdict::Drop,
                    "RETURN" => Verdict::Return,
                    "LOG" | "NFLOG" | "MARK" => return None,
                    chain => Verdict::Jump(chain.to_owned()),
                });
            }
            "-g" => return Some(Verdict::Goto((*words.next()?).to_owned())),
            _ => return None,
        }
    }
    None
}

/// `"two words"`, or one.
fn skip_quoted(words: &mut std::slice::Iter<'_, &str>) -> Option<()> {
    let first = words.next()?;
    if first.starts_with('"') && (first.len() == 1 || !first.ends_with('"')) {
        words.find(|word| word.ends_with('"'))?;
    }
    Some(())
}
