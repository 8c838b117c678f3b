//! Our nftables tables: `inet overlayd`, what the host takes and forwards, and
//! `bridge overlayd`, what every port of a container is held to.
//!
//! Tables, chains and rules are written by the `nft` program, each table as a
//! whole and in one transaction, with all elements that it is to hold: nothing
//! passes unseen and nothing is dropped in between. Elements of ports come and go
//! with attaches, by [`crate::nft`], a transaction for a whole batch of them.
//!
//! Whether a table is as we wrote it is judged by what the kernel holds, not by
//! our memory: the set `written` has a number that was made of our script and of
//! what the kernel had made of it. What differs reads as `altered`, which nobody
//! wants, so that it is written again. What was counted is carried over.
//!
//! `inet overlayd`: what is routed between two bridges of ours is dropped (what
//! stays on one bridge, which the host sees only with `br_netfilter`, passes),
//! unless it is on its way to a published port, or back (`ct status dnat`).
//! VXLAN packets of our networks are taken from the other hosts alone; nothing
//! from a container gets to VXLAN or gossip, of this host or of another one. Of its own host
//! a container gets to ICMP, to DNS at its gateway and to what [`Access`] says: to nothing
//! else, whatever the host serves there. The
//! fragment rule: of IPv6 the host's own rules see fragments, and the first one
//! may be too short to have the VNI. What most packets match is asked first, before
//! what kind of packet it is: no container can send from a VTEP's address.
//!
//! The kernel's connection tracking keeps no account of VXLAN packets: no rule has use
//! of it, and each flow inside has an outer source port of its own. What a container
//! sends to 127.0.0.0/8 of the host is dropped, for our bridges let such answers in.
//!
//! `bridge overlayd`, for frames that come in by a port of ours ([`Guard`]):
//!
//! | frame | passes with |
//! |---|---|
//! | any | the port's MAC as its source |
//! | IPv4 | an address of the port as its source |
//! | ARP | that MAC and an address of the port as its sender; a probe: no address |
//! | IPv6 | an address of the port or its link-local one as its source; without one: what duplicate detection and multicast need |
//! | neighbour advertisement | besides: the target its own, the link-layer address its own |
//! | neighbour solicitation | besides: the link-layer address its own; without a source: the target its own |
//! | router advertisement, redirect | never |
//! | any other ethertype, a VLAN tag too | never |
//!
//! All rules that let pass are positive: what is too short to be judged falls
//! through to the end, where it is counted and dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use overlay_model::kernel::NFT_TABLE;
use overlay_model::{
    Access, Firewall, Fnv, Guard, IfName, MacAddr, Object, ObjectKey, Protocol, Refusal,
};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Failure, NlError};
use crate::nft::{Count, Key, Nft, Table};

pub(crate) const INET: Table = Table { family: libc::NFPROTO_INET, name: NFT_TABLE };
pub(crate) const BRIDGE: Table = Table { family: libc::NFPROTO_BRIDGE, name: NFT_TABLE };

const NOT_INSTALLED: &str = "nft is not installed: apt-get install nftables";

/// What was dropped, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The port that it came in by; `None` where nobody's port is known.
    pub port: Option<IfName>,
    /// What it was: `mac`, `arp`, `nd`, `ipv4`, `ipv6`, `ethertype` of a port;
    /// `vxlan-from-strangers` and the like of the host.
    pub kind: String,
    /// Packets since the rules are there.
    pub packets: u64,
    /// Bytes since then.
    pub bytes: u64,
}

// ----- what the host takes and forwards --------------------------------------

const HOST_COUNTERS: [&str; 5] = [
    "vxlan_from_strangers",
    "vxlan_from_containers",
    "gossip_from_containers",
    "between_networks",
    "host_from_containers",
];

/// Replaces the table in one transaction. Says into `pid` which process does
/// it, before it does.
pub(crate) async fn put(
    firewall: &Firewall,
    nft: &mut Nft,
    pid: &AtomicU32,
) -> Result<(), Failure> {
    if let Some(odd) = firewall.bridges.iter().find(|name| !plain(name)) {
        let text = format!("bridge name `{odd}` cannot stand in an nftables rule");
        return Err(Failure::new(Refusal::Other, text));
    }
    let counted = nft.counters(INET).unwrap_or_default();
    run_script(&script(firewall, &counted), pid).await?;
    let Some(hash) = host_hash(firewall, nft) else {
        return Err(Failure::new(Refusal::Busy, "the table was gone as soon as it was written"));
    };
    let ports = [firewall.vxlan_port.to_be_bytes(), firewall.gossip_port.to_be_bytes()];
    let mut key = hash.to_be_bytes().to_vec();
    for port in ports {
        key.extend(port);
        key.extend([0; 2]);
    }
    nft.elements(INET, &[(true, "written", key)])?;
    Ok(())
}

/// Deletes a table, if it is there; `pid` as in [`put`].
pub(crate) async fn del(table: Table, pid: &AtomicU32) -> Result<(), Failure> {
    let family = if table == INET { "inet" } else { "bridge" };
    // `add` first: deleting a table that is not there is an error.
    let script = format!("add table {family} {NFT_TABLE}\ndelete table {family} {NFT_TABLE}\n");
    run_script(&script, pid).await
}

/// The table as an object; `None` if there is none.
///
/// One that cannot be read (a kernel without nftables) counts as none: it is
/// wanted, so it is put, and the refusal of that says what is missing. The rest
/// of a dump must not depend on it.
pub(crate) fn read(nft: &mut Nft) -> Option<Object> {
    nft.fingerprint(INET).unwrap_or_default()?;
    let firewall = read_sound(nft).unwrap_or(Firewall { altered: true, ..Firewall::default() });
    Some(Object::Firewall(Box::new(firewall)))
}

fn read_sound(nft: &mut Nft) -> Option<Firewall> {
    let mut set = |name: &str| Some(nft.read_set(INET, name).ok()??.into_keys());
    let mut written = set("written")?;
    let (Some(key), None) = (written.next(), written.next()) else { return None };
    let port = |at: usize| Some(u16::from_be_bytes(key.get(at..at + 2)?.try_into().ok()?));
    let mut firewall =
        Firewall { vxlan_port: port(8)?, gossip_port: port(12)?, ..Firewall::default() };
    for key in set("same_bridge")? {
        let (from, to) = (name_of(&key)?, name_of(key.get(16..)?)?);
        (from == to).then_some(())?;
        firewall.bridges.insert(from);
    }
    for set_name in ["vteps4", "vteps6"] {
        for key in set(set_name)? {
            firewall.vteps.insert(ip_of(&key)?);
        }
    }
    for (set_name, length) in [("gossip4", 4), ("gossip6", 16)] {
        for key in set(set_name)? {
            let port = key.get(length..length + 2)?.try_into().ok()?;
            let addr = (ip_of(key.get(..length)?)?, u16::from_be_bytes(port));
            firewall.gossip.insert(addr.into());
        }
    }
    let mut ports = BTreeSet::new();
    for key in set("host_ports")? {
        let protocol = Protocol::ALL.into_iter().find(|p| Some(&p.number()) == key.first());
        ports.insert((protocol, u16::from_be_bytes(key.get(4..6)?.try_into().ok()?)));
    }
    firewall.access = match ports.first() {
        None => Access::Closed,
        Some((None, _)) => Access::Open,
        Some(_) => {
            Access::Ports(ports.into_iter().filter_map(|(p, port)| Some((p?, port))).collect())
        }
    };
    let vnis: BTreeSet<u32> =
        set("vnis")?.map(|key| u32::from_be_bytes([0, key[0], key[1], key[2]])).collect();
    (vnis == vnis_of(&firewall)).then_some(())?;
    (key.get(..8)? == host_hash(&firewall, nft)?.to_be_bytes()).then_some(firewall)
}

fn host_hash(firewall: &Firewall, nft: &mut Nft) -> Option<u64> {
    let rules = Firewall {
        vxlan_port: firewall.vxlan_port,
        gossip_port: firewall.gossip_port,
        access: firewall.access.clone(),
        ..Firewall::default()
    };
    let mut hash = Fnv::default();
    hash.add(script(&rules, &BTreeMap::new()).as_bytes());
    hash.add(&nft.fingerprint(INET).ok()??.to_be_bytes());
    Some(hash.get())
}

fn vnis_of(firewall: &Firewall) -> BTreeSet<u32> {
    let vni = |name: &IfName| name.as_str().strip_prefix("ovb")?.parse().ok();
    firewall.bridges.iter().filter_map(vni).collect()
}

fn script(firewall: &Firewall, counted: &BTreeMap<String, Count>) -> String {
    let set = |name: &str, kind: &str, elements: Vec<String>| {
        let elements = match elements.as_slice() {
            [] => String::new(),
            some => format!(" elements = {{ {} }}", some.join(", ")),
        };
        format!("  set {name} {{ {kind};{elements} }}\n")
    };
    let of_family = |v4: bool| firewall.vteps.iter().filter(move |ip| ip.is_ipv4() == v4);
    let gossip = |v4: bool| {
        let of_family = firewall.gossip.iter().filter(move |addr| addr.is_ipv4() == v4);
        of_family.map(|addr| format!("{} . {}", addr.ip(), addr.port())).collect()
    };
    let mut sets = set(
        "same_bridge",
        "type ifname . ifname",
        firewall.bridges.iter().map(|b| format!("\"{b}\" . \"{b}\"")).collect(),
    );
    let texts = |v4| of_family(v4).map(ToString::to_string).collect();
    sets += &set("vteps4", "type ipv4_addr", texts(true));
    sets += &set("vteps6", "type ipv6_addr", texts(false));
    sets += &set("gossip4", "type ipv4_addr . inet_service", gossip(true));
    sets += &set("gossip6", "type ipv6_addr . inet_service", gossip(false));
    let vnis = vnis_of(firewall).iter().map(|vni| format!("{vni:#x}")).collect();
    sets += &set("vnis", "typeof @th,96,24", vnis);
    // Where all are open there is no port to say, but 0 of a protocol that has none.
    let ports = match &firewall.access {
        Access::Closed => Vec::new(),
        Access::Open => vec!["255 . 0".to_owned()],
        Access::Ports(ports) => ports.iter().map(|(p, port)| format!("{p} . {port}")).collect(),
    };
    sets += &set("host_ports", "type inet_proto . inet_service", ports);
    let open = if firewall.access == Access::Open { "    accept\n" } else { "" };
    sets += &set("written", "type mark . mark . inet_service . inet_service", Vec::new());
    let counters = counters(&HOST_COUNTERS, counted);
    let (vxlan, gossip) = (firewall.vxlan_port, firewall.gossip_port);
    format!(
        "add table inet {NFT_TABLE}
delete table inet {NFT_TABLE}
table inet {NFT_TABLE} {{
{counters}{sets}  chain untracked {{
    type filter hook prerouting priority raw; policy accept;
    udp dport {vxlan} notrack
    iifname \"ovb*\" ip daddr 127.0.0.0/8 drop
  }}
  chain untracked_out {{
    type filter hook output priority raw; policy accept;
    udp dport {vxlan} notrack
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ip saddr @vteps4 accept
    ip6 saddr @vteps6 accept
    udp dport {vxlan} goto vxlan
    iifname \"ovb*\" goto from_containers
  }}
  chain from_containers {{
    meta l4proto {{ tcp, udp }} th dport {gossip} counter name gossip_from_containers drop
{open}    ct state established,related accept
    meta l4proto {{ icmp, icmpv6 }} accept
    meta l4proto {{ tcp, udp }} th dport 53 fib daddr . iif type local accept
    meta l4proto . th dport @host_ports accept
    fib daddr type {{ broadcast, multicast }} drop
    counter name host_from_containers drop
  }}
  chain vxlan {{
    iifname \"ovb*\" counter name vxlan_from_containers drop
    @th,96,24 @vnis counter name vxlan_from_strangers drop
    exthdr frag exists @th,96,24 0x0-0xffffff accept
    exthdr frag exists counter name vxlan_from_strangers drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @same_bridge accept
    iifname \"ovb*\" goto routed
  }}
  chain routed {{
    oifname \"ovb*\" ct status dnat accept
    oifname \"ovb*\" counter name between_networks drop
    udp dport {vxlan} ip daddr @vteps4 counter name vxlan_from_containers drop
    udp dport {vxlan} ip6 daddr @vteps6 counter name vxlan_from_containers drop
    meta l4proto {{ tcp, udp }} ip daddr . th dport @gossip4 counter name gossip_from_containers drop
    meta l4proto {{ tcp, udp }} ip6 daddr . th dport @gossip6 counter name gossip_from_containers drop
  }}
}}
"
    )
}

pub(crate) fn counters(names: &[&str], counted: &BTreeMap<String, Count>) -> String {
    names.iter().fold(String::new(), |mut text, name| {
        let (packets, bytes) = counted.get(*name).copied().unwrap_or_default();
        let _ = writeln!(text, "  counter {name} {{ packets {packets} bytes {bytes} }}");
        text
    })
}

// ----- what ports are held to ------------------------------------------------

/// The sets of ports: first what a port may say, then what it was caught at.
const SETS: [&str; 12] = [
    "ports",
    "own_mac",
    "own_ip4",
    "own_ip6",
    "nd_target",
    "nd_mac",
    "lied_mac",
    "lied_arp",
    "lied_nd",
    "lied_ipv4",
    "lied_ipv6",
    "lied_ethertype",
];
const PORTS: usize = 0;
const OWN_MAC: usize = 1;
const OWN_IP4: usize = 2;
const OWN_IP6: usize = 3;
const ND_TARGET: usize = 4;
const ND_MAC: usize = 5;
const LIED: usize = 6;

/// A frame of a port without an element that counts: nobody's doing but
/// another hand's.
const PORT_COUNTERS: [&str; 1] = ["uncounted"];

/// The elements of all ports, as the kernel holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Guards(BTreeMap<IfName, BTreeSet<(usize, Key)>>);

impl Guards {
    /// Takes in that an element is there, or is gone. Says whose it is.
    pub(crate) fn note(&mut self, set: &str, key: Key, there: bool) -> Option<IfName> {
        let set = SETS.iter().position(|name| *name == set)?;
        let name = name_of(&key)?;
        if there {
            self.0.entry(name.clone()).or_default().insert((set, key));
        } else if let Some(elements) = self.0.get_mut(&name) {
            elements.remove(&(set, key));
            if elements.is_empty() {
                self.0.remove(&name);
            }
        }
        Some(name)
    }

    /// All ports that have an element.
    pub(crate) fn names(&self) -> impl Iterator<Item = &IfName> {
        self.0.keys()
    }

    /// What the port may say, as an object.
    pub(crate) fn object(&self, name: &IfName) -> Option<Object> {
        let there = self.0.get(name)?;
        let mut macs = there.iter().filter(|(set, _)| *set == OWN_MAC);
        let mac = macs.next().and_then(|(_, key)| mac_of(key)).unwrap_or(MacAddr::ZERO);
        let ip = |(set, key): &(usize, Key)| match *set {
            OWN_IP4 => ip_of(key.get(24..28)?),
            OWN_IP6 => ip_of(key.get(24..40)?).filter(|ip| *ip != IpAddr::V6(mac.link_local())),
            _ => None,
        };
        let mut guard =
            Guard { mac, addresses: there.iter().filter_map(ip).collect(), altered: false };
        guard.altered = elements(name, &guard) != *there;
        Some(Object::Guard(Box::new(guard)))
    }

    /// What to add and to delete so that the port has just what `want` says.
    fn difference(
        &self,
        name: &IfName,
        want: Option<&Guard>,
    ) -> impl Iterator<Item = (bool, &'static str, Key)> + use<> {
        let want = want.map(|guard| elements(name, guard)).unwrap_or_default();
        let there = self.0.get(name).cloned().unwrap_or_default();
        let gone: Vec<(usize, Key)> = there.difference(&want).cloned().collect();
        let del = gone.into_iter().map(|(set, key)| (false, SETS[set], key));
        del.chain(want.into_iter().map(|(set, key)| (true, SETS[set], key)))
    }
}

/// The elements of a port that may say what `guard` says.
fn elements(name: &IfName, guard: &Guard) -> BTreeSet<(usize, Key)> {
    let mut port = name.as_str().as_bytes().to_vec();
    port.resize(16, 0);
    let padded = |bytes: &[u8]| {
        let mut key = port.clone();
        key.extend(bytes);
        key.resize(key.len().next_multiple_of(4), 0);
        key
    };
    let mac = padded(&guard.mac.0);
    let mut all =
        BTreeSet::from([(PORTS, port.clone()), (OWN_MAC, mac.clone()), (ND_MAC, mac.clone())]);
    all.extend((LIED..SETS.len()).map(|set| (set, port.clone())));
    for ip in &guard.addresses {
        if let IpAddr::V4(v4) = ip {
            all.insert((OWN_IP4, [mac.as_slice(), &v4.octets()].concat()));
        }
    }
    for v6 in guard.ipv6() {
        let key = [mac.as_slice(), &v6.octets()].concat();
        all.insert((ND_TARGET, key.clone()));
        all.insert((OWN_IP6, key));
    }
    all
}

/// Brings ports to what they may say, all in one transaction; `None`: to
/// nothing. `guards` is what the kernel is thought to hold.
pub(crate) fn put_guards(
    wanted: &BTreeMap<IfName, Option<Guard>>,
    guards: &Guards,
    nft: &mut Nft,
) -> Result<(), NlError> {
    let changes = |guards: &Guards| -> Vec<(bool, &'static str, Key)> {
        let each = wanted.iter().flat_map(|(name, want)| guards.difference(name, want.as_ref()));
        let mut all: Vec<_> = each.collect();
        // Messages take the elements of one set together.
        all.sort();
        all
    };
    match nft.elements(BRIDGE, &changes(guards)) {
        Err(err) if err.is(nix::errno::Errno::ENOENT) => {}
        done => return done,
    }
    // Another hand was faster than its notification, or the table is not there.
    let there = read_guards(nft)?;
    let nothing = there.0.is_empty() && wanted.values().all(Option::is_none);
    if nothing { Ok(()) } else { nft.elements(BRIDGE, &changes(&there)) }
}

/// The elements of all ports.
pub(crate) fn read_guards(nft: &mut Nft) -> Result<Guards, NlError> {
    let mut guards = Guards::default();
    for set in SETS {
        for key in nft.read_set(BRIDGE, set)?.unwrap_or_default().into_keys() {
            guards.note(set, key, true);
        }
    }
    Ok(guards)
}

/// Replaces the rules in one transaction, with the elements that are there and
/// those of `coming`; `pid` as in [`put`].
pub(crate) async fn put_port_rules(
    coming: &BTreeMap<IfName, Option<Guard>>,
    nft: &mut Nft,
    pid: &AtomicU32,
) -> Result<(), Failure> {
    let counted = nft.counters(BRIDGE).unwrap_or_default();
    let mut all: Vec<BTreeMap<Key, Count>> = Vec::new();
    for set in SETS {
        all.push(nft.read_set(BRIDGE, set).ok().flatten().unwrap_or_default());
    }
    for (name, guard) in coming {
        let wanted = guard.as_ref().map(|guard| elements(name, guard)).unwrap_or_default();
        for (set, there) in all.iter_mut().enumerate() {
            there.retain(|key, _| {
                name_of(key).as_ref() != Some(name) || wanted.contains(&(set, key.clone()))
            });
        }
        for (set, key) in wanted {
            all[set].entry(key).or_default();
        }
    }
    run_script(&port_script(&all, &counted), pid).await?;
    let Some(hash) = port_hash(nft) else {
        return Err(Failure::new(Refusal::Busy, "the table was gone as soon as it was written"));
    };
    nft.elements(BRIDGE, &[(true, "written", hash.to_be_bytes().to_vec())])?;
    Ok(())
}

/// The rules as an object; `None` if there is no such table.
pub(crate) fn read_port_rules(nft: &mut Nft) -> Option<Object> {
    nft.fingerprint(BRIDGE).unwrap_or_default()?;
    let sound = || {
        let hash = port_hash(nft)?;
        let written = nft.read_set(BRIDGE, "written").ok()??;
        Some(written.keys().eq([&hash.to_be_bytes().to_vec()]))
    };
    let mut sound = sound;
    Some(Object::PortRules { altered: sound() != Some(true) })
}

fn port_hash(nft: &mut Nft) -> Option<u64> {
    let mut hash = Fnv::default();
    hash.add(port_script(&[], &BTreeMap::new()).as_bytes());
    hash.add(&nft.fingerprint(BRIDGE).ok()??.to_be_bytes());
    Some(hash.get())
}

fn port_script(sets: &[BTreeMap<Key, Count>], counted: &BTreeMap<String, Count>) -> String {
    let mut text = String::new();
    for (i, name) in SETS.iter().enumerate() {
        let kind = match i {
            OWN_MAC => "type ifname . ether_addr;",
            OWN_IP4 => "type ifname . ether_addr . ipv4_addr;",
            OWN_IP6 => "type ifname . ether_addr . ipv6_addr;",
            ND_TARGET => "typeof iifname . ether saddr . @th,64,128;",
            ND_MAC => "typeof iifname . @th,208,48;",
            PORTS => "type ifname;",
            _ => "type ifname; counter;",
        };
        let elements: Vec<String> = sets
            .get(i)
            .into_iter()
            .flatten()
            .filter_map(|(key, count)| element_text(i, key, *count))
            .collect();
        let elements = match elements.as_slice() {
            [] => String::new(),
            some => format!(" elements = {{ {} }}", some.join(", ")),
        };
        let _ = writeln!(text, "  set {name} {{ {kind}{elements} }}");
    }
    let counters = counters(&PORT_COUNTERS, counted);
    let end = |set: &str| format!("iifname @{set} drop\n    counter name uncounted drop");
    let (mac, arp, nd) = (end("lied_mac"), end("lied_arp"), end("lied_nd"));
    let (ipv4, ipv6, ethertype) = (end("lied_ipv4"), end("lied_ipv6"), end("lied_ethertype"));
    format!(
        "add table bridge {NFT_TABLE}
delete table bridge {NFT_TABLE}
table bridge {NFT_TABLE} {{
{counters}{text}  set written {{ type mark . mark; }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"ovx*\" accept
    ether type ip iifname . ether saddr . ip saddr @own_ip4 accept
    iifname @ports goto port
  }}
  chain port {{
    iifname . ether saddr @own_mac goto own_mac_used
    {mac}
  }}
  chain own_mac_used {{
    ether type vmap {{ arp : goto say_arp, ip6 : goto say_ip6, ip : goto foreign_ip4 }}
    {ethertype}
  }}
  chain foreign_ip4 {{
    {ipv4}
  }}
  chain say_arp {{
    iifname . arp saddr ether . arp saddr ip @own_ip4 accept
    arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether @own_mac accept
    {arp}
  }}
  chain say_ip6 {{
    icmpv6 type {{ nd-router-advert, nd-redirect }} goto bad_nd
    icmpv6 type nd-neighbor-advert goto advert
    icmpv6 type nd-neighbor-solicit goto solicit
    iifname . ether saddr . ip6 saddr @own_ip6 accept
    ip6 saddr :: icmpv6 type {{ nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report }} accept
    {ipv6}
  }}
  chain advert {{
    iifname . ether saddr . ip6 saddr @own_ip6 goto own_advert
    {nd}
  }}
  chain own_advert {{
    ip6 length 24 iifname . ether saddr . @th,64,128 @nd_target accept
    ip6 length 32 @th,192,16 0x0201 iifname . @th,208,48 @nd_mac iifname . ether saddr . @th,64,128 @nd_target accept
    {nd}
  }}
  chain solicit {{
    iifname . ether saddr . ip6 saddr @own_ip6 goto own_solicit
    ip6 saddr :: ip6 length 24 iifname . ether saddr . @th,64,128 @nd_target accept
    ip6 saddr :: ip6 length 32 @th,192,16 0x0e01 iifname . ether saddr . @th,64,128 @nd_target accept
    {nd}
  }}
  chain own_solicit {{
    ip6 length 24 accept
    ip6 length 32 @th,192,16 0x0101 iifname . @th,208,48 @nd_mac accept
    ip6 length 32 @th,192,16 0x0e01 accept
    {nd}
  }}
  chain bad_nd {{
    {nd}
  }}
}}
"
    )
}

/// An element as `nft` reads it; `None` for a name that it cannot read.
fn element_text(set: usize, key: &[u8], (packets, bytes): Count) -> Option<String> {
    let name = name_of(key).filter(plain)?;
    let number = |bytes: &[u8]| bytes.iter().fold(String::from("0x"), |t, b| format!("{t}{b:02x}"));
    Some(match set {
        PORTS => format!("\"{name}\""),
        OWN_MAC => format!("\"{name}\" . {}", mac_of(key)?),
        OWN_IP4 => format!("\"{name}\" . {} . {}", mac_of(key)?, ip_of(key.get(24..28)?)?),
        OWN_IP6 => format!("\"{name}\" . {} . {}", mac_of(key)?, ip_of(key.get(24..40)?)?),
        ND_TARGET => format!("\"{name}\" . {} . {}", mac_of(key)?, number(key.get(24..40)?)),
        ND_MAC => format!("\"{name}\" . {}", number(key.get(16..22)?)),
        _ => format!("\"{name}\" counter packets {packets} bytes {bytes}"),
    })
}

/// What was dropped so far, as far as it is anything.
pub(crate) fn dropped(nft: &mut Nft) -> Vec<Dropped> {
    let mut all = Vec::new();
    let mut note = |port: Option<IfName>, kind: &str, (packets, bytes): Count| {
        if packets > 0 {
            all.push(Dropped { port, kind: kind.replace('_', "-"), packets, bytes });
        }
    };
    for set in &SETS[LIED..] {
        for (key, count) in nft.read_set(BRIDGE, set).ok().flatten().unwrap_or_default() {
            note(name_of(&key), set.trim_start_matches("lied_"), count);
        }
    }
    for table in [BRIDGE, INET] {
        for (name, count) in nft.counters(table).unwrap_or_default() {
            note(None, &name, count);
        }
    }
    all.sort_by(|a, b| (&a.port, &a.kind).cmp(&(&b.port, &b.kind)));
    all
}

/// What is there of ports, and what the host takes, as objects.
pub(crate) fn objects(nft: &mut Nft) -> Vec<(ObjectKey, Object)> {
    let mut all = Vec::new();
    all.extend(read(nft).map(|object| (ObjectKey::Firewall, object)));
    all.extend(crate::nat::read(nft).map(|object| (ObjectKey::Nat, object)));
    let rules = read_port_rules(nft);
    if let Some(rules) = rules {
        all.push((ObjectKey::PortRules, rules));
        let guards = read_guards(nft).unwrap_or_default();
        let guard = |name: &IfName| Some((ObjectKey::Guard(name.clone()), guards.object(name)?));
        all.extend(guards.names().filter_map(guard));
    }
    all
}

// ----- words -----------------------------------------------------------------

pub(crate) fn plain(name: &IfName) -> bool {
    name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// The interface name that a key begins with.
pub(crate) fn name_of(key: &[u8]) -> Option<IfName> {
    let text = key.get(..16)?.split(|byte| *byte == 0).next()?;
    IfName::new(std::str::from_utf8(text).ok()?).ok()
}

fn mac_of(key: &[u8]) -> Option<MacAddr> {
    Some(MacAddr(key.get(16..22)?.try_into().ok()?))
}

pub(crate) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}

pub(crate) async fn run_script(script: &str, pid: &AtomicU32) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests;
