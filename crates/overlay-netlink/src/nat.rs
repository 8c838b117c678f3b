//! Our third nftables table, `inet overlayd_nat`: where connections to this host
//! are sent, and under which address its containers are seen outside.
//!
//! It is written as a whole, in one transaction, like the other two
//! ([`crate::firewall`]); what was counted is carried over. Where only elements
//! differ (a port more, a port less) and the table is as we left it, only they are
//! written ([`by_elements`]): among a thousand ports that takes a quarter of the time.
//! Connections that are there go on as they are: the kernel's connection tracking has their addresses.
//! UDP has no end that it could see, so what the table would now send elsewhere is
//! taken out of there ([`crate::conntrack`]).
//!
//! | map, set | what |
//! |---|---|
//! | `host4`, `at4` | a port of the host, at any address or at one, and the one endpoint behind it |
//! | `virtual4` | the same of an address that no station has, by bridge |
//! | `host4_many`, … | the same with several behind it: a chain that chooses at random |
//! | `targets4` | all those endpoints and ports |
//! | `direct4` | those of them whose answers come back by this host: they see who asks |
//! | `stations4`, `hidden4` | subnets of networks with a way out; those that are masqueraded |
//! | `own4` | the host's own address on a bridge: who else gets what is sent on answers to it |
//!
//! Each has a twin for IPv6. At `::1` a port answers nobody: what the kernel takes from there
//! it drops on its way back (`ip6_rcv_core`), and IPv6 has no `route_localnet`. Who asks for
//! `localhost` is refused there at once, and goes on to 127.0.0.1. A station that comes to an endpoint of its own bridge
//! by a detour over the host is seen there under the host's address: the answer
//! would not come back otherwise (hairpin)..

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use ipnet::IpNet;
use nix::libc;
use overlay_model::kernel::NAT_TABLE;
use overlay_model::{Front, Nat, Object, Protocol, Refusal, Translation};

use crate::conntrack;
use crate::error::{Failure, NlError};
use crate::firewall::{counters, ip_of, name_of, plain, run_script};
use crate::nft::{Change, Count, Key, Nft, Table};

pub(crate) const NAT: Table = Table { family: libc::NFPROTO_INET, name: NAT_TABLE };

/// Sets and maps that say where packets go.
const CONTENT: [&str; 23] = [
    "host4",
    "host6",
    "at4",
    "at6",
    "virtual4",
    "virtual6",
    "host4_many",
    "host6_many",
    "at4_many",
    "at6_many",
    "virtual4_many",
    "virtual6_many",
    "targets4",
    "targets6",
    "direct4",
    "direct6",
    "stations4",
    "stations6",
    "hidden4",
    "hidden6",
    "own4",
    "own6",
    MARKS,
];

/// What we have changed of the host's own settings: 4 or 6, it did not forward
/// that family; an interface's name, it took router advertisements as a host does.
const MARKS: &str = "were_off";
const RA_MARKS: &str = "took_ra";

const COUNTERS: [&str; 2] = ["masqueraded4", "masqueraded6"];

/// How often something was done to addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    /// What: a port of the host, a virtual address with its port, or
    /// `masquerade IPv4`.
    pub what: String,
    /// Connections of which it was done.
    pub connections: u64,
}

/// What is remembered between two writings of the table.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What was written last.
    last: Option<Nat>,
    /// It outlives a table that another hand has deleted.
    marks: Marks,
}

/// Replaces the table in one transaction, or what differs of it; `pid` as in
/// [`crate::firewall::put`].
pub(crate) async fn put(
    nat: &Nat,
    memory: &mut Memory,
    nft: &mut Nft,
    pid: &AtomicU32,
) -> Result<(), Failure> {
    if let Some(odd) = nat.own.keys().find(|name| !plain(name)) {
        let text = format!("bridge name `{odd}` cannot stand in an nftables rule");
        return Err(Failure::new(Refusal::Other, text));
    }
    let marks = &mut memory.marks;
    let marked = Marks::read(nft);
    marks.add(marked.clone());
    let wanted = |v4: bool| nat.subnets.iter().any(|subnet| subnet.addr().is_ipv4() == v4);
    marks.forward(wanted(true), wanted(false))?;
    let had_udp = match memory.last.take() {
        Some(last) if *marks == marked && by_elements(&last, nat, nft)? => leads_udp(&last),
        _ => {
            let before = Counted::read(nft);
            let had_udp = has_udp(nft);
            run_script(&script(nat, &before, marks), pid).await?;
            had_udp
        }
    };
    let Some(content) = nft.content(NAT, &CONTENT).unwrap_or_default() else {
        return Err(Failure::new(Refusal::Busy, "the table was gone as soon as it was written"));
    };
    let key = [nat.digest().to_be_bytes(), content.to_be_bytes()].concat();
    nft.elements(NAT, &[(true, "written", key)])?;
    if had_udp || leads_udp(nat) {
        conntrack::forget_stale(nat, nft)?;
    }
    memory.last = Some(nat.clone());
    Ok(())
}

fn leads_udp(nat: &Nat) -> bool {
    nat.forwards.keys().any(|front| front.protocol() == Protocol::Udp)
}

/// Writes what differs, if that is nothing but elements and the table is as it was written
/// last. It has no mark of being ours then ([`put`] makes one). False: nothing was written.
fn by_elements(last: &Nat, nat: &Nat, nft: &mut Nft) -> Result<bool, NlError> {
    let Some(mut changes) = difference(last, nat) else { return Ok(false) };
    // Whoever changes something between this and the writing makes it fail.
    let Some(generation) = nft.generation()? else { return Ok(false) };
    match read_sound(nft) {
        Some(now) if now.digest == last.digest() => {}
        _ => return Ok(false),
    }
    let written = nft.read_set(NAT, "written")?.unwrap_or_default().into_keys();
    changes.extend(written.map(|key| Change {
        add: false,
        set: "written".into(),
        key,
        data: None,
    }));
    match nft.change(NAT, &changes, Some(generation)) {
        Ok(()) => Ok(true),
        // `ERESTART` if another generation came between; whatever it is, the whole helps.
        Err(NlError::Refused { .. }) => Ok(false),
        Err(err) => Err(err),
    }
}

/// The elements by which two tables differ, those that go first; `None` if they differ in
/// anything else.
fn difference(last: &Nat, nat: &Nat) -> Option<Vec<Change>> {
    (last.subnets == nat.subnets && last.own == nat.own).then_some(())?;
    (several(last).eq(several(nat))).then_some(())?;
    let (before, after) = (elements(last), elements(nat));
    let change = |add, ((set, key), data): (&(String, Key), &Option<Vec<u8>>)| Change {
        add,
        set: set.clone(),
        key: key.clone(),
        data: data.clone(),
    };
    let mut changes = Vec::new();
    for (place, data) in &before {
        match after.get(place) {
            Some(same) if same == data => {}
            // It has counted, and goes on with that.
            Some(_) => return None,
            None => changes.push(change(false, (place, data))),
        }
    }
    let new = after.iter().filter(|(place, _)| !before.contains_key(*place));
    changes.extend(new.map(|element| change(true, element)));
    Some(changes)
}

/// Those that have a chain: several behind one front.
fn several(nat: &Nat) -> impl Iterator<Item = (&Front, &BTreeSet<SocketAddr>)> {
    nat.forwards.iter().filter(|(_, targets)| {
        [true, false].iter().any(|v4| targets.iter().filter(|to| to.is_ipv4() == *v4).count() > 1)
    })
}

/// The elements of a table that come and go with ports, in the kernel's bytes: by set and
/// key, what a map leads to. Fronts with several behind them lead to chains and are left out.
fn elements(nat: &Nat) -> BTreeMap<(String, Key), Option<Vec<u8>>> {
    let mut elements = BTreeMap::new();
    for (front, targets) in &nat.forwards {
        for v4 in [true, false] {
            let of_family: Vec<&SocketAddr> = targets_of(front, targets, v4).collect();
            let family = if v4 { '4' } else { '6' };
            for to in &of_family {
                let key = [octets(to.ip()), end(front.protocol(), to.port())].concat();
                elements.insert((format!("targets{family}"), key), None);
            }
            if let [to] = of_family.as_slice() {
                let (map, keys) = place(front, v4);
                let port = to.port().to_be_bytes();
                let data = [octets(to.ip()), port.to_vec(), vec![0; 2]].concat();
                let keys = keys.into_iter().map(|(_, key)| (map.clone(), key));
                elements.extend(keys.map(|place| (place, Some(data.clone()))));
            }
        }
    }
    for ip in &nat.direct {
        let set = if ip.is_ipv4() { "direct4" } else { "direct6" };
        elements.insert((set.to_owned(), octets(*ip)), None);
    }
    elements
}

/// Where a front leads in a family; nowhere if it is of the other one.
fn targets_of<'a>(
    front: &Front,
    targets: &'a BTreeSet<SocketAddr>,
    v4: bool,
) -> impl Iterator<Item = &'a SocketAddr> {
    let fits = match front {
        Front::Host { at: Some(ip), .. } | Front::Virtual { ip, .. } => ip.is_ipv4() == v4,
        Front::Host { at: None, .. } => true,
    };
    targets.iter().filter(move |to| fits && to.is_ipv4() == v4)
}

/// Deletes the table, if it is there, and gives back what of the host's settings
/// was changed for it.
pub(crate) async fn del(
    memory: &mut Memory,
    nft: &mut Nft,
    pid: &AtomicU32,
) -> Result<(), Failure> {
    memory.last = None;
    memory.marks.add(Marks::read(nft));
    run_script(&format!("add table inet {NAT_TABLE}\ndelete table inet {NAT_TABLE}\n"), pid)
        .await?;
    std::mem::take(&mut memory.marks).give_back()
}

/// The table as an object; `None` if there is none.
pub(crate) fn read(nft: &mut Nft) -> Option<Object> {
    nft.fingerprint(NAT).unwrap_or_default()?;
    let altered = Translation { digest: 0, altered: true, nat: None };
    Some(Object::Nat(read_sound(nft).unwrap_or(altered)))
}

fn read_sound(nft: &mut Nft) -> Option<Translation> {
    let mut written = nft.read_set(NAT, "written").ok()??.into_keys();
    let (Some(key), None) = (written.next(), written.next()) else { return None };
    let content = nft.content(NAT, &CONTENT).ok()??;
    (key.get(8..16)? == content.to_be_bytes()).then_some(())?;
    for (set, sysctl) in [("stations4", FORWARD4), ("stations6", FORWARD6)] {
        let any = !nft.read_set(NAT, set).ok()??.is_empty();
        (!any || value(sysctl).is_none_or(|value| value != "0")).then_some(())?;
    }
    let digest = u64::from_be_bytes(key.get(..8)?.try_into().ok()?);
    Some(Translation { digest, altered: false, nat: None })
}

/// What the host did not do of itself before we came, for people.
pub(crate) fn changed_settings(nft: &mut Nft) -> Vec<String> {
    let marks = Marks::read(nft);
    let forward = marks.off.iter().map(|family| {
        let name =
            if *family == 4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
        format!("{name} was 0 and is 1, for the way out of containers")
    });
    let ra = marks.took_ra.iter().map(|dev| {
        format!(
            "net.ipv6.conf.{dev}.accept_ra was 1 and is 2: the host goes on taking its own \
                 routes from routers while it forwards"
        )
    });
    forward.chain(ra).collect()
}

/// What was done so far, by where it leads.
pub(crate) fn translated(nft: &mut Nft) -> Vec<Translated> {
    let counted = Counted::read(nft);
    let mut all: Vec<Translated> = Vec::new();
    for (name, (packets, _)) in &counted.named {
        let what = match name.as_str() {
            "masqueraded4" => "masquerade IPv4".to_owned(),
            "masqueraded6" => "masquerade IPv6".to_owned(),
            many => match many_text(many) {
                Some(text) => text,
                None => continue,
            },
        };
        all.push(Translated { what, connections: *packets });
    }
    for (map, elements) in &counted.elements {
        for (key, (packets, _)) in elements {
            if let Some(what) = front_text(map, key) {
                all.push(Translated { what, connections: *packets });
            }
        }
    }
    // A port of both families is one to whoever published it.
    all.sort_by(|a, b| a.what.cmp(&b.what));
    all.dedup_by(|later, first| {
        let same = later.what == first.what;
        if same {
            first.connections += later.connections;
        }
        same
    });
    all
}

// ----- the host's settings -----------------------------------------------------

const FORWARD4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const CONF4: &str = "/proc/sys/net/ipv4/conf";
const CONF6: &str = "/proc/sys/net/ipv6/conf";

fn value(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn set(path: impl AsRef<Path>, to: &str) -> Result<(), Failure> {
    let path = path.as_ref();
    std::fs::write(path, to).map_err(|err| {
        Failure::new(Refusal::Other, format!("cannot write {to} to {}: {err}", path.display()))
    })
}

/// Lets what comes from 127.0.0.1 out by a bridge of ours, and its answers in;
/// what a container sends there is dropped ([`crate::firewall`]).
pub(crate) fn route_localnet(bridge: &str) {
    let path = Path::new(CONF4).join(bridge).join("route_localnet");
    if let Err(err) = std::fs::write(&path, "1") {
        tracing::warn!(%err, "cannot write {}: published ports do not answer at 127.0.0.1", path.display());
    }
}

/// The bridges of ours that there are.
pub(crate) fn bridges() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(CONF4).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("ovb"))
}

/// What we have changed of the host's own settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    off: BTreeSet<u8>,
    took_ra: BTreeSet<String>,
}

impl Marks {
    fn read(nft: &mut Nft) -> Self {
        let mut keys = |set| nft.read_set(NAT, set).ok().flatten().unwrap_or_default().into_keys();
        // A mark is a number in the host's byte order.
        let off =
            keys(MARKS).filter_map(|key| Some(u32::from_ne_bytes(key.try_into().ok()?) as u8));
        let off = off.collect();
        let took_ra = keys(RA_MARKS).filter_map(|key| Some(name_of(&key)?.to_string())).collect();
        Self { off, took_ra }
    }

    fn add(&mut self, others: Self) {
        self.off.extend(others.off);
        self.took_ra.extend(others.took_ra);
    }

    /// Forwarding of these families is on from now on.
    fn forward(&mut self, v4: bool, v6: bool) -> Result<(), Failure> {
        if v4 && value(FORWARD4).as_deref() == Some("0") {
            set(FORWARD4, "1")?;
            self.off.insert(4);
        }
        if v6 && value(FORWARD6).as_deref() == Some("0") {
            // A router takes no advertisements, unless it is told to: the host would lose the
            // default route that it has from one.
            for (dev, path) in interfaces() {
                if value(&path).as_deref() == Some("1") {
                    set(&path, "2")?;
                    self.took_ra.insert(dev);
                }
            }
            set(FORWARD6, "1")?;
            self.off.insert(6);
        }
        Ok(())
    }

    fn give_back(&self) -> Result<(), Failure> {
        for family in &self.off {
            let path = if *family == 4 { FORWARD4 } else { FORWARD6 };
            set(path, "0")?;
        }
        for (_, path) in interfaces().filter(|(dev, _)| self.took_ra.contains(dev)) {
            if value(&path).as_deref() == Some("2") {
                set(&path, "1")?;
            }
        }
        Ok(())
    }
}

/// Interfaces that are not ours, with where it is said whether they take router
/// advertisements.
fn interfaces() -> impl Iterator<Item = (String, PathBuf)> {
    let entries = std::fs::read_dir(CONF6).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        // Of `all` it counts for nothing, and what cannot be written in a rule is passed over.
        let odd = name == "all" || !overlay_model::IfName::new(&name).is_ok_and(|n| plain(&n));
        (!odd && !name.starts_with("ov")).then(|| (name, entry.path().join("accept_ra")))
    })
}

// ----- text --------------------------------------------------------------------

/// What the table has counted.
#[derive(Debug, Default)]
struct Counted {
    named: BTreeMap<String, Count>,
    elements: BTreeMap<&'static str, BTreeMap<Key, Count>>,
}

/// The maps of which each element counts.
const COUNTING: [&str; 6] = ["host4", "host6", "at4", "at6", "virtual4", "virtual6"];

impl Counted {
    fn read(nft: &mut Nft) -> Self {
        let named = nft.counters(NAT).unwrap_or_default();
        let mut read = |map| nft.read_set(NAT, map).ok().flatten().unwrap_or_default();
        let elements = COUNTING.into_iter().map(|map| (map, read(map))).collect();
        Self { named, elements }
    }

    /// As an element of `map` is to begin with.
    fn of(&self, map: &str, key: &Key) -> String {
        let count = self.elements.get(map).and_then(|elements| elements.get(key));
        let (packets, bytes) = count.copied().unwrap_or_default();
        format!("counter packets {packets} bytes {bytes}")
    }
}

fn has_udp(nft: &mut Nft) -> bool {
    COUNTING.iter().chain(&CONTENT[6..12]).any(|map| {
        let elements = nft.read_set(NAT, map).ok().flatten().unwrap_or_default();
        elements.keys().any(|key| front_of(map, key).is_some_and(|(_, _, p, _)| p == Protocol::Udp))
    })
}

/// A front as a map's key has it: bridge, address, protocol, port.
type Parts = (Option<String>, Option<IpAddr>, Protocol, u16);

fn front_of(map: &str, mut key: &[u8]) -> Option<Parts> {
    let bridge = map.starts_with("virtual").then(|| name_of(key)).flatten().map(|n| n.to_string());
    if bridge.is_some() {
        key = key.get(16..)?;
    }
    let length = if map.contains('4') { 4 } else { 16 };
    let ip = (!map.starts_with("host")).then(|| ip_of(key.get(..length)?)).flatten();
    if ip.is_some() {
        key = key.get(length..)?;
    }
    let protocol = Protocol::ALL.into_iter().find(|p| Some(&p.number()) == key.first())?;
    let port = u16::from_be_bytes(key.get(4..6)?.try_into().ok()?);
    Some((bridge, ip, protocol, port))
}

fn front_text(map: &str, key: &[u8]) -> Option<String> {
    let (_, ip, protocol, port) = front_of(map, key)?;
    Some(match ip {
        Some(ip) => format!("{}/{protocol}", SocketAddr::new(ip, port)),
        None => format!("{port}/{protocol}"),
    })
}

/// The chain of a front with several behind it, and its counter.
fn many_name(front: &Front) -> String {
    let (protocol, port) = (front.protocol(), front.port());
    let hex = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => format!("{:08x}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:032x}", v6.to_bits()),
    };
    match front {
        Front::Host { at: None, .. } => format!("many_{protocol}_{port}"),
        Front::Host { at: Some(ip), .. } | Front::Virtual { ip, .. } => {
            format!("many_{protocol}_{port}_{}", hex(ip))
        }
    }
}

/// Reads what [`many_name`] wrote, for people.
fn many_text(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix("many_")?.split('_');
    let (protocol, port) = (parts.next()?, parts.next()?.parse::<u16>().ok()?);
    let ip = match parts.next() {
        None => return Some(format!("{port}/{protocol}")),
        Some(hex) if hex.len() == 8 => {
            IpAddr::from(u32::from_str_radix(hex, 16).ok()?.to_be_bytes())
        }
        Some(hex) => IpAddr::from(u128::from_str_radix(hex, 16).ok()?.to_be_bytes()),
    };
    Some(format!("{}/{protocol}", SocketAddr::new(ip, port)))
}

/// Where a front stands: its map, its keys as text and as the kernel's bytes. A virtual address
/// is one of the host's own, so it has two: what the host itself sends there goes by `lo`.
fn place(front: &Front, v4: bool) -> (String, Vec<(String, Key)>) {
    let family = if v4 { '4' } else { '6' };
    let (protocol, port) = (front.protocol(), front.port());
    let end_text = format!("{protocol} . {port}");
    let end = end(protocol, port);
    match front {
        Front::Host { at: None, .. } => (format!("host{family}"), vec![(end_text, end)]),
        Front::Host { at: Some(ip), .. } => {
            let key = (format!("{ip} . {end_text}"), [octets(*ip), end].concat());
            (format!("at{family}"), vec![key])
        }
        Front::Virtual { bridge, ip, .. } => {
            let keys = [bridge.as_str(), "lo"].map(|device| {
                let mut key = device.as_bytes().to_vec();
                key.resize(16, 0);
                let text = format!("\"{device}\" . {ip} . {end_text}");
                (text, [key, octets(*ip), end.clone()].concat())
            });
            (format!("virtual{family}"), keys.to_vec())
        }
    }
}

/// Protocol and port at the end of a key, each filled up to four bytes.
fn end(protocol: Protocol, port: u16) -> Key {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn script(nat: &Nat, counted: &Counted, marks: &Marks) -> String {
    let mut elements: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut chains = String::new();
    let mut names: Vec<String> = COUNTERS.map(str::to_owned).to_vec();
    for (front, targets) in &nat.forwards {
        let mut choices = String::new();
        for v4 in [true, false] {
            let targets: Vec<&SocketAddr> = targets_of(front, targets, v4).collect();
            let family = if v4 { '4' } else { '6' };
            if targets.is_empty() {
                continue;
            }
            let (map, keys) = place(front, v4);
            let protocol = front.protocol();
            let to = |to: &SocketAddr| format!("{} . {}", to.ip(), to.port());
            let all = targets.iter().map(|t| format!("{} . {protocol} . {}", t.ip(), t.port()));
            elements.entry(format!("targets{family}")).or_default().extend(all);
            if let [one] = targets.as_slice() {
                let texts = keys
                    .iter()
                    .map(|(text, key)| format!("{text} {} : {}", counted.of(&map, key), to(one)));
                elements.entry(map.clone()).or_default().extend(texts);
                continue;
            }
            let name = many_name(front);
            let elements = elements.entry(format!("{map}_many")).or_default();
            elements.extend(keys.iter().map(|(text, _)| format!("{text} : goto {name}")));
            let each: Vec<String> =
                targets.iter().enumerate().map(|(n, t)| format!("{n} : {}", to(t))).collect();
            let ip = if v4 { "ip" } else { "ip6" };
            let _ = writeln!(
                choices,
                "    meta nfproto ipv{family} meta l4proto {protocol} dnat {ip} to numgen random mod {} map {{ {} }}",
                targets.len(),
                each.join(", ")
            );
        }
        if !choices.is_empty() {
            let name = many_name(front);
            let _ = writeln!(chains, "  chain {name} {{\n    counter name {name}\n{choices}  }}");
            names.push(name);
        }
    }
    for ip in &nat.direct {
        let set = if ip.is_ipv4() { "direct4" } else { "direct6" };
        elements.entry(set.to_owned()).or_default().push(ip.to_string());
    }
    let family = |subnet: &IpNet| if subnet.addr().is_ipv4() { '4' } else { '6' };
    for subnet in &nat.subnets {
        elements.entry(format!("stations{}", family(subnet))).or_default().push(subnet.to_string());
        if Nat::hides(subnet) {
            let set = format!("hidden{}", family(subnet));
            elements.entry(set).or_default().push(subnet.to_string());
        }
    }
    for (bridge, own) in &nat.own {
        for ip in own {
            let map = if ip.is_ipv4() { "own4" } else { "own6" };
            elements.entry(map.to_owned()).or_default().push(format!("\"{bridge}\" : {ip}"));
        }
    }
    let off = marks.off.iter().map(ToString::to_string);
    elements.entry(MARKS.to_owned()).or_default().extend(off);
    let took_ra = marks.took_ra.iter().map(|dev| format!("\"{dev}\""));
    elements.entry(RA_MARKS.to_owned()).or_default().extend(took_ra);

    let mut sets = String::new();
    let mut declare = |word: &str, name: &str, kind: &str| {
        let elements = match elements.get(name).map(Vec::as_slice) {
            None | Some([]) => String::new(),
            Some(some) => format!(" elements = {{ {} }}", some.join(", ")),
        };
        let _ = writeln!(sets, "  {word} {name} {{ {kind};{elements} }}");
    };
    let port = "inet_proto . inet_service";
    for v in ['4', '6'] {
        let ip = format!("ipv{v}_addr");
        for (map, key) in [
            ("host", port.to_owned()),
            ("at", format!("{ip} . {port}")),
            ("virtual", format!("ifname . {ip} . {port}")),
        ] {
            let to = format!("type {key} : {ip} . inet_service; counter");
            declare("map", &format!("{map}{v}"), &to);
            declare("map", &format!("{map}{v}_many"), &format!("type {key} : verdict"));
        }
        declare("set", &format!("targets{v}"), &format!("type {ip} . {port}"));
        declare("set", &format!("direct{v}"), &format!("type {ip}"));
        declare("set", &format!("stations{v}"), &format!("type {ip}; flags interval"));
        declare("set", &format!("hidden{v}"), &format!("type {ip}; flags interval"));
        declare("map", &format!("own{v}"), &format!("type ifname : {ip}"));
    }
    declare("set", MARKS, "type mark");
    declare("set", RA_MARKS, "type ifname");
    declare("set", "written", "type mark . mark . mark . mark");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let counters = counters(&names, &counted.named);

    let by_port = |v: char, ip: &str| {
        format!(
            "    meta nfproto ipv{v} dnat {ip} to {ip} daddr . meta l4proto . th dport map @at{v}
    meta nfproto ipv{v} {ip} daddr . meta l4proto . th dport vmap @at{v}_many
    meta nfproto ipv{v} dnat {ip} to meta l4proto . th dport map @host{v}
    meta nfproto ipv{v} meta l4proto . th dport vmap @host{v}_many
"
        )
    };
    let by_address = |v: char, ip: &str, dev: &str| {
        format!(
            "    meta nfproto ipv{v} dnat {ip} to {dev} . {ip} daddr . meta l4proto . th dport map @virtual{v}
    meta nfproto ipv{v} {dev} . {ip} daddr . meta l4proto . th dport vmap @virtual{v}_many
"
        )
    };
    let inward = |v: char, ip: &str, loopback: &str| {
        format!(
            "    {ip} daddr . meta l4proto . th dport != @targets{v} return
    {ip} saddr != @stations{v} {ip} saddr != {loopback} {ip} daddr @direct{v} return
    snat {ip} to oifname map @own{v}
    masquerade
"
        )
    };
    let (host4, host6) = (by_port('4', "ip"), by_port('6', "ip6"));
    let (in4, in6) = (by_address('4', "ip", "iifname"), by_address('6', "ip6", "iifname"));
    let (out4, out6) = (by_address('4', "ip", "oifname"), by_address('6', "ip6", "oifname"));
    let (inward4, inward6) = (inward('4', "ip", "127.0.0.0/8"), inward('6', "ip6", "::1"));
    format!(
        "add table inet {NAT_TABLE}
delete table inet {NAT_TABLE}
table inet {NAT_TABLE} {{
{counters}{sets}{chains}  chain prerouting {{
    type nat hook prerouting priority dstnat - 1; policy accept;
    iifname \"ovb*\" th dport 53 fib daddr . iif type local return
    iifname \"ovb*\" jump virtual_in
    fib daddr type local goto host
  }}
  chain output {{
    type nat hook output priority -101; policy accept;
    ip6 daddr ::1 return
    oifname \"lo\" jump virtual_out
    fib daddr type local goto host
  }}
  chain host {{
{host4}{host6}  }}
  chain virtual_in {{
{in4}{in6}  }}
  chain virtual_out {{
{out4}{out6}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1; policy accept;
    oifname \"ovb*\" ct status dnat meta nfproto ipv4 goto inward4
    oifname \"ovb*\" ct status dnat meta nfproto ipv6 goto inward6
    oifname \"ovb*\" return
    oifname \"lo\" return
    ip saddr @hidden4 counter name masqueraded4 masquerade fully-random
    ip6 saddr @hidden6 counter name masqueraded6 masquerade fully-random
  }}
  chain inward4 {{
{inward4}  }}
  chain inward6 {{
{inward6}  }}
}}
"
    )
}

#[cfg(test)]
mod tests;
