//! What a kernel holds, read with `ip` and `bridge`: never the daemon's own
//! word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::shell::{command_in, run_in, script_in};

/// One entry of `bridge fdb`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FdbEntry {
    /// Ethernet address.
    pub mac: String,
    /// VTEP, for entries of a VXLAN device.
    pub dst: Option<IpAddr>,
    /// `self`, `master`, `extern_learn`, `offload`.
    #[serde(default)]
    pub flags: Vec<String>,
    /// The bridge, for its entries.
    pub master: Option<String>,
    /// `permanent` or `static`; empty for one that was learned, and for one
    /// that `bridge fdb add … master static` made.
    #[serde(default)]
    pub state: String,
}

/// The FDB of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fdb(pub Vec<FdbEntry>);

/// Key of the broadcast replication list.
pub const ZERO_MAC: &str = "00:00:00:00:00:00";

impl Fdb {
    /// Where a VXLAN device sends frames for `mac`, if the entry is
    /// `self permanent` as it should be.
    pub fn vtep_of(&self, mac: &str) -> Option<IpAddr> {
        self.0
            .iter()
            .find(|e| e.mac == mac && e.has("self") && e.state == "permanent")
            .and_then(|e| e.dst)
    }

    /// True if anything at all is known of `mac`, learned entries included.
    pub fn knows(&self, mac: &str) -> bool {
        self.0.iter().any(|e| e.mac == mac)
    }

    /// The broadcast replication list of a VXLAN device.
    pub fn flood(&self) -> BTreeSet<IpAddr> {
        self.0.iter().filter(|e| e.mac == ZERO_MAC).filter_map(|e| e.dst).collect()
    }

    /// MAC addresses that the VXLAN device sends to one VTEP.
    pub fn unicast(&self) -> BTreeMap<String, IpAddr> {
        self.0
            .iter()
            .filter(|e| e.mac != ZERO_MAC && e.has("self"))
            .filter_map(|e| Some((e.mac.clone(), e.dst?)))
            .collect()
    }

    /// The entry of the bridge for `mac`.
    pub fn bridge_entry(&self, mac: &str) -> Option<&FdbEntry> {
        self.0.iter().find(|e| e.mac == mac && e.master.is_some())
    }
}

impl FdbEntry {
    /// True if the entry has `flag`.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

/// One entry of `ip neigh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neigh {
    /// The address.
    pub ip: IpAddr,
    /// Its MAC; `None` while it is being asked for.
    pub mac: Option<String>,
    /// The device.
    pub dev: String,
    /// `PERMANENT`, `STALE` and so on.
    pub state: Vec<String>,
    /// Has the flag `extern_learn`.
    pub extern_learn: bool,
}

/// One entry of `ip -d link`, as far as labs ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Index: a link that was made anew has another one.
    pub ifindex: u32,
    /// MTU, bytes.
    pub mtu: u32,
    /// Ethernet address.
    pub mac: String,
    /// `ifalias`.
    pub alias: Option<String>,
    /// The bridge that it is a port of.
    pub master: Option<String>,
    /// `bridge`, `vxlan`, `veth`; empty for other devices.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
}

fn json<T: DeserializeOwned>(netns: &str, line: &str) -> Result<T> {
    let text = run_in(netns, line)?;
    // Of nothing, iproute2 prints nothing rather than `[]`.
    let text = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(text).with_context(|| format!("`{line}` did not print JSON: {text}"))
}

/// The FDB of `dev`: for a VXLAN device both its own (`self`) and the
/// bridge's entries behind it (`master`).
///
/// # Errors
/// If there is no such device.
pub fn fdb(netns: &str, dev: &str) -> Result<Fdb> {
    json(netns, &format!("bridge -j fdb show dev {dev}")).map(Fdb)
}

/// All neighbour entries of `dev`, permanent ones included; those of multicast
/// groups, which the kernel makes for itself, are left out.
///
/// # Errors
/// If there is no such device.
pub fn neigh(netns: &str, dev: &str) -> Result<Vec<Neigh>> {
    #[derive(Deserialize)]
    struct Raw {
        dst: IpAddr,
        lladdr: Option<String>,
        #[serde(default)]
        state: Vec<String>,
        #[serde(default, deserialize_with = "present")]
        extern_learn: bool,
    }
    let raw: Vec<Raw> = json(netns, &format!("ip -j neigh show dev {dev} nud all"))?;
    Ok(raw
        .into_iter()
        .filter(|r| !r.dst.is_multicast())
        .map(|r| Neigh {
            ip: r.dst,
            mac: r.lladdr,
            dev: dev.to_owned(),
            state: r.state,
            extern_learn: r.extern_learn,
        })
        .collect())
}

/// iproute2 prints a flag as a key with the value `null`.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(d).map(|_| true)
}

/// All links of a namespace.
///
/// # Errors
/// If the namespace is gone.
pub fn links(netns: &str) -> Result<Vec<Link>> {
    #[derive(Deserialize)]
    struct Raw {
        ifname: String,
        ifindex: u32,
        mtu: u32,
        #[serde(default)]
        address: String,
        ifalias: Option<String>,
        master: Option<String>,
        flags: Vec<String>,
        #[serde(default)]
        linkinfo: Info,
    }
    #[derive(Deserialize, Default)]
    struct Info {
        #[serde(default)]
        info_kind: String,
    }
    let raw: Vec<Raw> = json(netns, "ip -j -d link show")?;
    Ok(raw
        .into_iter()
        .map(|r| Link {
            up: r.flags.iter().any(|f| f == "UP"),
            name: r.ifname,
            ifindex: r.ifindex,
            mtu: r.mtu,
            mac: r.address,
            alias: r.ifalias,
            master: r.master,
            kind: r.linkinfo.info_kind,
        })
        .collect())
}

/// True for a name that overlayd gives to its links.
pub fn named_like_ours(link: &str) -> bool {
    ["ovb", "ovx", "ove"].iter().any(|p| link.starts_with(p))
}

/// Everything that a namespace holds, as text, without what changes by itself
/// (counters, ages, resolved neighbours of the underlay): two snapshots are
/// equal exactly if nobody left anything behind.
///
/// # Errors
/// If the namespace is gone.
pub fn snapshot(netns: &str) -> Result<String> {
    let text = script_in(
        netns,
        "echo '# links'; ip -d link show
         echo '# addresses'; ip addr show | sed 's/ tentative//'
         echo '# routes'; ip -4 route show table all; ip -6 route show table all
         echo '# rules'; ip -4 rule; ip -6 rule
         echo '# fdb'; bridge fdb show
         echo '# neighbours'; ip neigh show nud permanent
         echo '# port flags'; bridge -d link show
         echo '# nftables'; nft list ruleset",
    )?;
    Ok(without_timers(&text))
}

/// A bridge's timers (`gc_timer  299.90`) run whatever happens.
fn without_timers(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.split(' ').filter(|w| !w.is_empty()).peekable();
        // Indentation tells continuation lines from others.
        kept.push_str(&line[..line.len() - line.trim_start().len()]);
        while let Some(word) = words.next() {
            if word.ends_with("_timer") {
                words.next_if(|value| value.parse::<f64>().is_ok());
            } else {
                kept.push_str(word);
                kept.push(' ');
            }
        }
        kept.push('\n');
    }
    kept
}

/// What the links called `devs` hold, word for word as `ip` and `bridge` print
/// it but for the timers of bridges: for objects that belong to somebody else.
///
/// # Errors
/// If one of them is gone.
pub fn snapshot_of(netns: &str, devs: &[&str]) -> Result<String> {
    let mut text = String::new();
    for dev in devs {
        for line in [
            format!("ip -d link show dev {dev}"),
            format!("ip addr show dev {dev}"),
            format!("bridge -d link show dev {dev}"),
            format!("bridge -d fdb show dev {dev}"),
            format!("bridge -d fdb show br {dev}"),
            format!("ip neigh show dev {dev} nud permanent"),
            format!("ip -4 route show table all dev {dev}"),
            format!("ip -6 route show table all dev {dev}"),
        ] {
            let _ = writeln!(text, "$ {line}\n{}", run_in(netns, &line)?);
        }
    }
    Ok(without_timers(&text))
}

/// Room in the kernel's ARP table while it lives: its thresholds are one for all
/// network namespaces (net/core/neighbour.c, `neigh_alloc`), so that the hosts of
/// a lab drop each other's packets at a thousand entries, and ask anew for what
/// was collected at five hundred, which hosts with a kernel each would not.
#[derive(Debug)]
pub struct ArpRoom {
    before: Vec<(String, String)>,
}

impl ArpRoom {
    /// Room for `entries`, of all namespaces together.
    ///
    /// # Errors
    /// If the thresholds cannot be read or raised: they can from the first
    /// namespace only.
    pub fn for_entries(entries: usize) -> Result<Self> {
        let mut room = Self { before: Vec::new() };
        for (threshold, entries) in [(3, 2 * entries), (2, entries), (1, entries)] {
            let file = format!("/proc/sys/net/ipv4/neigh/default/gc_thresh{threshold}");
            let before = std::fs::read_to_string(&file).with_context(|| file.clone())?;
            if before.trim().parse::<usize>()? < entries {
                std::fs::write(&file, entries.to_string()).with_context(|| file.clone())?;
                room.before.push((file, before));
            }
        }
        Ok(room)
    }
}

impl Drop for ArpRoom {
    fn drop(&mut self) {
        for (file, before) in &self.before {
            // Nobody is there any more who could be told.
            let _ = std::fs::write(file, before);
        }
    }
}

/// What people look at first, for a failed lab: never fails itself.
pub fn describe(netns: &str) -> String {
    let mut text = String::new();
    for line in [
        "ip -d -br link",
        "ip -br addr",
        "ip route show table main",
        "bridge fdb show",
        "ip neigh show nud all",
        "nft list ruleset",
    ] {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or("true");
        let shown = match command_in(netns, program).args(words).output() {
            Ok(out) => {
                let mut shown = String::from_utf8_lossy(&out.stdout).into_owned();
                shown.push_str(&String::from_utf8_lossy(&out.stderr));
                shown
            }
            Err(e) => e.to_string(),
        };
        let _ = writeln!(text, "$ {line}\n{}", shown.trim_end());
    }
    text
}

/// Both texts if they differ, as the lines that only one of them has: the
/// message of a failed "byte-identical".
pub fn difference(before: &str, after: &str) -> Option<String> {
    if before == after {
        return None;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let gone = old.iter().filter(|l| !new.contains(l)).map(|l| format!("- {l}"));
    let come = new.iter().filter(|l| !old.contains(l)).map(|l| format!("+ {l}"));
    let lines: Vec<String> = gone.chain(come).collect();
    Some(if lines.is_empty() { "the order of lines changed".to_owned() } else { lines.join("\n") })
}
