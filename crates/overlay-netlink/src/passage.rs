//! Whether the rules of others let through what goes over a bridge of ours.
//!
//! What containers send out, what comes back, and connections to published ports
//! are routed, and pass the forward hook of iptables and nftables: with the policy
//! that Docker and ufw set there, or behind firewalld, they end. An accept in a
//! table of ours overrides no drop in another: nothing that we may touch helps. So
//! it is looked for and said, with what does.
//!
//! With `br_netfilter` in the kernel and `net.bridge.bridge-nf-call-iptables`
//! at 1 (a host with Docker or Kubernetes), frames from one port of a bridge
//! to another pass there too, and the bridge's own attribute (`nf_call_iptables 0`)
//! is only or-ed to the sysctl.
//!
//! A packet of each [`Way`] is thought through the foreign forward chains. Of a
//! rule that asks for anything but interfaces and the state of its connection it is
//! not known whether it applies; it is passed over. What is told is therefore what
//! happens to traffic that nobody has made an exception for.
//!
//! Reading only, and at no cost where there is no bridge of ours.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;

use overlay_model::kernel::{NAT_TABLE, NFT_TABLE};
use serde_json::Value;
use tokio::process::Command;

/// A chain of somebody else's that drops what crosses a bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Where, in the words of the tool that made it.
    place: String,
    /// The bridge.
    bridge: String,
    /// What it drops.
    what: What,
    /// What lets it through.
    remedy: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// What stays on the bridge, for the sake of this sysctl.
    Across(&'static str),
    /// What is routed between the bridge and this interface.
    Routed { dev: String, out: bool, ports: bool },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, bridge, what, remedy } = self;
        match what {
            What::Across(sysctl) => write!(
                f,
                "{place} drops what containers send across {bridge}, since {sysctl} is 1: let it \
                 pass with `{remedy}`, or, if nothing else on this host needs it, set the sysctl \
                 to 0"
            ),
            What::Routed { dev, out, ports } => {
                let what = match (out, ports) {
                    (true, true) => format!(
                        "what containers on {bridge} send out by {dev}, or what comes back, and \
                         connections to published ports"
                    ),
                    (true, false) => {
                        format!("what containers on {bridge} send out by {dev}, or what comes back")
                    }
                    (false, _) => format!("connections from {dev} to published ports"),
                };
                write!(f, "{place} drops {what}: let it pass with `{remedy}`")
            }
        }
    }
}

/// How a packet goes that is thought through the rules of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From one port of a bridge of ours to another, the first of a connection.
    Across,
    /// From a container to the outside, the first of a connection.
    Out,
    /// The answer to it.
    Back,
    /// From the outside to a published port, the first of a connection.
    In,
}

#[derive(Debug, Clone)]
struct Packet {
    way: Way,
    from: String,
    to: String,
}

impl Packet {
    /// The state of its connection, as nftables and iptables name it.
    fn is_in_state(&self, name: &str) -> bool {
        let own = if self.way == Way::Back { "established" } else { "new" };
        name.eq_ignore_ascii_case(own) || self.way == Way::In && name.eq_ignore_ascii_case("dnat")
    }
}

/// One of the two protocols that `br_netfilter` knows.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    v4: bool,
    sysctl: &'static str,
    /// The nftables family of iptables, beside `inet`.
    family: &'static str,
    iptables: &'static str,
    /// The same rules, as iptables itself lists those that it has put into nftables.
    lister: &'static str,
    /// What is led to published ports.
    targets: &'static str,
    legacy: &'static str,
    legacy_tables: &'static str,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol {
        v4: true,
        sysctl: "net.bridge.bridge-nf-call-iptables",
        family: "ip",
        iptables: "iptables",
        lister: "iptables-nft",
        targets: "targets4",
        legacy: "iptables-legacy",
        legacy_tables: "/proc/net/ip_tables_names",
    },
    Protocol {
        v4: false,
        sysctl: "net.bridge.bridge-nf-call-ip6tables",
        family: "ip6",
        iptables: "ip6tables",
        lister: "ip6tables-nft",
        targets: "targets6",
        legacy: "ip6tables-legacy",
        legacy_tables: "/proc/net/ip6_tables_names",
    },
];

/// Where something on a bridge of ours is dropped by the rules of others; at
/// most two places for each of the two protocols and tools.
///
/// What cannot be read (no `nft`, no `iptables-legacy`) is not told: this is
/// advice, and nothing depends on it.
pub async fn blocked() -> Vec<Blocked> {
    let mut found = Vec::new();
    if a_bridge().is_none() {
        return found;
    }
    let listing = list(&["-j", "list", "chains"]).await;
    for protocol in PROTOCOLS {
        let packets = packets(&protocol).await;
        for (family, table) in forwarding(&listing, protocol.family) {
            let rules = list(&["-j", "-t", "list", "table", &family, &table]).await;
            let text = match (family == protocol.family, table.as_str()) {
                (true, "filter") => output(protocol.lister, &["-w", "1", "-S"]).await,
                _ => None,
            };
            let text = text.and_then(|text| String::from_utf8(text).ok());
            // What iptables has put there it shows whole, nft only by name. What it cannot read it
            // leaves out, and says so in such a line.
            let text = text.filter(|text| !text.lines().any(|line| line.starts_with('#')));
            let read = |packet: &Packet| match &text {
                Some(text) => Rules::of_iptables(text, packet),
                None => Rules::of_nft(&rules, packet),
            };
            let place = format!("of nftables table {family} {table}");
            let tool = Tool::of_nft(&protocol, &family, &table, &rules);
            for told in judge(&protocol, &packets, read, &place, &tool) {
                // What is in a table of both protocols is told of one of them.
                if !found.iter().any(|other| same(other, &told)) {
                    found.push(told);
                }
            }
        }
        if let Some(text) = legacy(&protocol).await {
            let place = format!("of {}", protocol.legacy);
            let tool = Tool::of_iptables(protocol.legacy, &text);
            let read = |packet: &Packet| Rules::of_iptables(&text, packet);
            found.extend(judge(&protocol, &packets, read, &place, &tool));
        }
    }
    found
}

fn same(one: &Blocked, other: &Blocked) -> bool {
    let kind = |blocked: &Blocked| std::mem::discriminant(&blocked.what);
    one.place == other.place && kind(one) == kind(other)
}

/// What a set of rules, as `read` for a packet, drops of `packets`.
fn judge(
    protocol: &Protocol,
    packets: &[Packet],
    read: impl Fn(&Packet) -> Rules,
    place: &str,
    tool: &Tool,
) -> Vec<Blocked> {
    let mut found = Vec::new();
    let dropped: Vec<(&Packet, String)> =
        packets.iter().filter_map(|p| Some((p, read(p).drops()?))).collect();
    let by = |way: Way| dropped.iter().find(|(packet, _)| packet.way == way);
    let named = |chain: &str| format!("chain {chain} {place}");
    if let Some((packet, chain)) = by(Way::Across) {
        found.push(Blocked {
            place: named(chain),
            bridge: packet.from.clone(),
            what: What::Across(protocol.sysctl),
            remedy: tool.across(chain),
        });
    }
    let (out, back, ports) = (by(Way::Out), by(Way::Back), by(Way::In));
    if let Some((packet, chain)) = out.or(back).or(ports) {
        let (bridge, dev) = match packet.way {
            Way::Across | Way::Out => (&packet.from, &packet.to),
            Way::Back | Way::In => (&packet.to, &packet.from),
        };
        let what =
            What::Routed { dev: dev.clone(), out: out.or(back).is_some(), ports: ports.is_some() };
        let remedy = tool.routed(chain, out.is_some(), back.or(ports).is_some());
        found.push(Blocked { place: named(chain), bridge: bridge.clone(), what, remedy });
    }
    found
}

/// What is sent over bridges of ours, where it passes the rules of others.
async fn packets(protocol: &Protocol) -> Vec<Packet> {
    let mut packets = Vec::new();
    let mut add = |way, from: &str, to: &str| {
        packets.push(Packet { way, from: from.to_owned(), to: to.to_owned() });
    };
    if is_on(protocol.sysctl)
        && let Some(bridge) = a_bridge()
    {
        add(Way::Across, &bridge, &bridge);
    }
    if let (Some(bridge), Some(dev)) = (a_gateway(protocol.v4), outside(protocol)) {
        add(Way::Out, &bridge, &dev);
        add(Way::Back, &dev, &bridge);
        let targets = list(&["-j", "list", "set", "inet", NAT_TABLE, protocol.targets]).await;
        let items = targets["nftables"].as_array().into_iter().flatten();
        if items.filter_map(|item| item["set"]["elem"].as_array()).any(|all| !all.is_empty()) {
            add(Way::In, &dev, &bridge);
        }
    }
    packets
}

/// The interface of the default route; where IPv6 has none, that of IPv4.
fn outside(protocol: &Protocol) -> Option<String> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v6 = default_v6(&read("/proc/net/ipv6_route")).filter(|_| !protocol.v4);
    v6.or_else(|| default_v4(&read("/proc/net/route")))
}

fn default_v4(table: &str) -> Option<String> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Device, destination, …, mask.
    let mut rows = rows.filter(|row| row.get(1) == Some(&"00000000") && row.get(7) == row.get(1));
    rows.next().map(|row| row[0].to_owned())
}

fn default_v6(table: &str) -> Option<String> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Destination, its length, …, device; what is not to be reached is led to `lo`.
    let is_default = |row: &Vec<&str>| {
        row.get(1) == Some(&"00") && row.first().is_some_and(|ip| ip.bytes().all(|b| b == b'0'))
    };
    let devs = rows.filter(is_default).filter_map(|row| Some((*row.get(9)?).to_owned()));
    devs.into_iter().find(|dev| dev != "lo")
}

/// Who made a set of rules, and is to be told what lets something pass.
#[derive(Debug)]
enum Tool {
    /// `docker`: Docker keeps what is in a chain of its own, and puts it before its other rules.
    Iptables {
        program: &'static str,
        docker: bool,
    },
    Ufw,
    Firewalld,
    Nft {
        family: String,
        table: String,
    },
}

impl Tool {
    fn of_nft(protocol: &Protocol, family: &str, table: &str, rules: &Value) -> Self {
        let has = |name: &str| chains(rules).any(|chain| chain["name"] == name);
        if family == "inet" && table == "firewalld" {
            Self::Firewalld
        } else if family != protocol.family || table != "filter" || !has("FORWARD") {
            Self::Nft { family: family.to_owned(), table: table.to_owned() }
        } else if has("ufw-user-forward") || has("ufw6-user-forward") {
            Self::Ufw
        } else {
            Self::Iptables { program: protocol.iptables, docker: has("DOCKER-USER") }
        }
    }

    fn of_iptables(program: &'static str, text: &str) -> Self {
        let has = |name: &str| text.lines().any(|line| line == format!("-N {name}"));
        if has("ufw-user-forward") || has("ufw6-user-forward") {
            return Self::Ufw;
        }
        Self::Iptables { program, docker: has("DOCKER-USER") }
    }

    /// Between two networks of ours our own table drops, so that one rule does for all.
    fn across(&self, chain: &str) -> String {
        match self {
            Self::Iptables { program, docker } => {
                let chain = if *docker { "DOCKER-USER" } else { "FORWARD" };
                format!("{program} -I {chain} -i ovb+ -o ovb+ -j ACCEPT")
            }
            Self::Ufw => "ufw route allow in on ovb+ out on ovb+".to_owned(),
            Self::Firewalld => TRUSTED.to_owned(),
            Self::Nft { family, table } => {
                format!("nft insert rule {family} {table} {chain} iifname ovb* oifname ovb* accept")
            }
        }
    }

    /// `out`: what comes from containers; `inward`: what comes to them as an answer, or by a
    /// published port.
    fn routed(&self, chain: &str, out: bool, inward: bool) -> String {
        let [from, to] = match self {
            Self::Iptables { program, docker } => {
                let chain = if *docker { "DOCKER-USER" } else { "FORWARD" };
                let states = "RELATED,ESTABLISHED,DNAT";
                [
                    format!("{program} -I {chain} -i ovb+ -j ACCEPT"),
                    format!(
                        "{program} -I {chain} -o ovb+ -m conntrack --ctstate {states} -j ACCEPT"
                    ),
                ]
            }
            Self::Ufw => {
                ["in", "out"].map(|direction| format!("ufw route allow {direction} on ovb+"))
            }
            Self::Firewalld => return TRUSTED.to_owned(),
            Self::Nft { family, table } => {
                let rule = format!("nft insert rule {family} {table} {chain}");
                [
                    format!("{rule} iifname ovb* accept"),
                    format!(
                        "{rule} oifname ovb* ct state established,related accept && {rule} \
                         oifname ovb* ct status dnat accept"
                    ),
                ]
            }
        };
        match (out, inward) {
            (true, true) => format!("{from} && {to}"),
            (true, false) => from,
            (false, _) => to,
        }
    }
}

const TRUSTED: &str =
    "firewall-cmd --permanent --zone=trusted --add-interface=ovb+ && firewall-cmd --reload";

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

/// One that is a gateway of IPv4, or of IPv6: its containers have a way out.
fn a_gateway(v4: bool) -> Option<String> {
    let mut addresses = nix::ifaddrs::getifaddrs().ok()?;
    let found = addresses.find(|interface| {
        let address = interface.address.as_ref();
        let has = address.is_some_and(|address| match address.as_sockaddr_in6() {
            Some(v6) => !v4 && !v6.ip().is_unicast_link_local(),
            None => v4 && address.as_sockaddr_in().is_some(),
        });
        has && interface.interface_name.starts_with("ovb")
    })?;
    Some(found.interface_name)
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

/// A table, as far as one packet is concerned.
#[derive(Debug, Default)]
struct Rules {
    chains: BTreeMap<String, Chain>,
}

/// Deeper jumps than this are not followed; the kernel's own limit is 16.
const DEPTH: u8 = 16;

impl Rules {
    fn of_nft(listing: &Value, packet: &Packet) -> Self {
        let mut rules = Self::default();
        for chain in chains(listing) {
            let forward = chain["hook"] == "forward" && chain["type"] == "filter";
            let made = Chain { forward, drop: chain["policy"] == "drop", rules: Vec::new() };
            rules.chains.insert(chain["name"].as_str().unwrap_or_default().to_owned(), made);
        }
        for item in listing["nftables"].as_array().into_iter().flatten() {
            let Some(rule) = item.get("rule") else { continue };
            let chain = rule["chain"].as_str().and_then(|name| rules.chains.get_mut(name));
            if let (Some(chain), Some(verdict)) = (chain, nft_verdict(&rule["expr"], packet)) {
                chain.rules.push(verdict);
            }
        }
        rules
    }

    /// As `iptables -S` lists them.
    fn of_iptables(text: &str, packet: &Packet) -> Self {
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
                    if let (Some(chain), Some(verdict)) = (chain, iptables_verdict(rest, packet)) {
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

/// The verdict of a rule that surely applies to the packet.
fn nft_verdict(expressions: &Value, packet: &Packet) -> Option<Verdict> {
    let target = |body: &Value| Some(body["target"].as_str()?.to_owned());
    for expression in expressions.as_array()? {
        let (what, body) = expression.as_object()?.iter().next()?;
        match what.as_str() {
            "match" => {
                let (left, right) = (&body["left"], &body["right"]);
                let key = |kind: &str| left[kind]["key"].as_str();
                let applies = match (key("meta"), key("ct")) {
                    (Some("iifname"), _) => nft_name(right, &packet.from)?,
                    (Some("oifname"), _) => nft_name(right, &packet.to)?,
                    (_, Some("state")) => {
                        nft_state(right, &|name| name != "dnat" && packet.is_in_state(name))?
                    }
                    (_, Some("status")) => {
                        nft_state(right, &|name| name == "dnat" && packet.is_in_state(name))?
                    }
                    _ => return None,
                };
                match body["op"].as_str()? {
                    "==" | "in" if applies => {}
                    "!=" if !applies => {}
                    _ => return None,
                }
            }
            "counter" | "log" => {}
            // Matches of iptables are shown by name only. Who asks for a bridge port at all hardly
            // asks for anything else than whether there is one (`--physdev-is-bridged`).
            "xt" if body["name"] == "comment" => {}
            "xt" if body["name"] == "physdev" && packet.way == Way::Across => {}
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

/// Whether one of the states that are named, in any of nft's ways to do so, `is` the packet's.
fn nft_state(right: &Value, is: &dyn Fn(&str) -> bool) -> Option<bool> {
    match right.as_array().or_else(|| right["set"].as_array()) {
        Some(names) => Some(names.iter().any(|name| nft_state(name, is) == Some(true))),
        None => right.as_str().map(is),
    }
}

fn fits(pattern: &str, any: char, name: &str) -> bool {
    pattern.strip_suffix(any).map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// As [`nft_verdict`], of a line of `iptables -S` behind its chain.
fn iptables_verdict(words: &[&str], packet: &Packet) -> Option<Verdict> {
    let mut words = words.iter();
    let mut not = false;
    while let Some(word) = words.next() {
        match *word {
            "!" => not = true,
            "-i" | "-o" => {
                let name = if *word == "-i" { &packet.from } else { &packet.to };
                if fits(words.next()?, '+', name) == std::mem::take(&mut not) {
                    return None;
                }
            }
            "-m" if words.as_slice().first().is_some_and(|name| KNOWN.contains(name)) => {
                words.next();
            }
            "--ctstate" | "--state" => {
                let is = words.next()?.split(',').any(|name| packet.is_in_state(name));
                if is == std::mem::take(&mut not) {
                    return None;
                }
            }
            "--physdev-is-bridged" => {
                if (packet.way == Way::Across) == std::mem::take(&mut not) {
                    return None;
                }
            }
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

/// The matches of iptables that are understood.
const KNOWN: [&str; 4] = ["comment", "physdev", "conntrack", "state"];

/// `"two words"`, or one.
fn skip_quoted(words: &mut std::slice::Iter<'_, &str>) -> Option<()> {
    let first = words.next()?;
    if first.starts_with('"') && (first.len() == 1 || !first.ends_with('"')) {
        words.find(|word| word.ends_with('"'))?;
    }
    Some(())
}
