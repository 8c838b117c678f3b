//! Who is there, and what they say: every host's records, merged.
//!
//! A host has *lives* (incarnations). The newest life that has said everything
//! it had (its host record comes last) speaks for the host; until then the
//! former life does, so a restart leaves no gap.
//!
//! Two lives may be two machines: a copied state directory. The copy starts
//! later, so its incarnation is larger, and it knows nothing of the original's
//! containers. The rule ([`HostEntry::elect`]): **while the life that speaks is
//! heard, one at another VTEP address does not take its place**, whatever its
//! incarnation. So a copy changes no entry, and neither does the original when
//! the copy spoke first. When the one that speaks falls silent, the newest that
//! is heard speaks, and goes on to: the two never take turns. A restart is at
//! the same address and is followed at once; a host that moved is followed when
//! its former life has been silent for a second (gossip says so sooner of a
//! life that has a successor). That there are two is told by gossip
//! ([`ClusterEvent::Doubled`](overlay_model::ClusterEvent::Doubled)), shown on
//! every host, and keeps the two themselves from giving out addresses: both
//! think that they own the same ranges.
//!
//! ```text
//!            silent            down_after            grace
//!   up ────────────► suspect ───────────────► down ───────────► down, entries
//!    ▲                  │                       │               out of use
//!    └──────────────────┴─── heard again ───────┴──────────────────┘
//! ```
//!
//! A host that said `stopped` before it went silent is *stopped* instead, with
//! a longer grace; one that said `left` loses its entries at once.
//!
//! Of several claims to one MAC or address the larger move sequence wins, then
//! the lower host (RFC 7432 section 15), then the lower endpoint. Claims are a
//! set and the rule is a total order, so the order of messages cannot matter.
//! The exception is what moves too often, which is pinned to whom it was with
//! (see `moves.rs`).
//!
//! **Memory.** Of a hundred thousand endpoints each is held once, as a
//! [`Placed`], and found from four or five places. So these are maps of small
//! keys to pointers, one for each network or host, and not one for all.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::forget::add_range;
use overlay_model::{
    Endpoint, EndpointId, Family, Fate, Fnv, Host, HostId, HostIntent, HostKeys, MacAddr, Name,
    Network, NetworkId, Placed, Record, RecordKey, RingToken, Service, Want,
};

/// Whether a host is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum HostState {
    /// Heard.
    Up,
    /// Silent for a moment.
    Suspect,
    /// Silent after it said that its daemon stops.
    Stopped,
    /// Silent for longer than a moment.
    Down,
    /// Said that it leaves.
    Left,
}

impl HostState {
    /// As `overlayctl hosts` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Stopped => "stopped",
            Self::Down => "down",
            Self::Left => "left",
        }
    }
}

/// A host's state and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Its state.
    pub state: HostState,
    /// Since when, on the clock of [`Now::mono`](crate::Now).
    pub since: Duration,
    /// Its endpoints are in the kernel.
    pub in_use: bool,
}

/// A hash of ranges: the same for the same ones, on every host.
pub(crate) fn ranges_hash<'a>(
    ranges: impl Iterator<Item = (&'a (NetworkId, Family, u128), &'a RingToken)>,
) -> u64 {
    let mut hash = Fnv::default();
    for ((net, family, offset), token) in ranges {
        hash.add(&(u128::from(net.0) << 8 | *family as u128).to_be_bytes());
        add_range(&mut hash, *offset, *token);
    }
    hash.get()
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) down_after: Duration,
    pub(crate) down_grace: Duration,
    pub(crate) stop_grace: Duration,
}

/// A life that was heard of, but that the failure detector has not judged yet,
/// counts as heard for so long: it takes two heartbeats to be heard.
const FIRST_HEARING: Duration = Duration::from_secs(3);

/// What a life says of its endpoints.
#[derive(Debug, Default)]
struct Said(BTreeMap<NetworkId, BTreeMap<EndpointId, Arc<Placed>>>);

impl Said {
    fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    fn contains(&self, net: NetworkId, id: EndpointId) -> bool {
        self.0.get(&net).is_some_and(|said| said.contains_key(&id))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Placed>> {
        self.0.values().flat_map(BTreeMap::values)
    }

    fn set(&mut self, placed: Arc<Placed>) {
        let Endpoint { network, id, .. } = placed.endpoint;
        self.0.entry(network).or_default().insert(id, placed);
    }

    fn unset(&mut self, net: NetworkId, id: EndpointId) {
        if let Some(said) = self.0.get_mut(&net) {
            said.remove(&id);
            if said.is_empty() {
                self.0.remove(&net);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Life {
    alive: bool,
    /// The failure detector has heard it at least once.
    judged: bool,
    /// Since when `alive` is what it is.
    since: Duration,
    host: Option<Host>,
    networks: BTreeMap<NetworkId, Network>,
    endpoints: Said,
    ring: BTreeMap<(NetworkId, Family, u128), RingToken>,
    wants: BTreeMap<(NetworkId, Family), Want>,
    keys: Option<HostKeys>,
    drained: bool,
    /// What it says of hosts that are away.
    fates: BTreeMap<HostId, Fate>,
    /// Endpoints that a former stream of gossip told of, and this one has not.
    unconfirmed: BTreeSet<(NetworkId, EndpointId)>,
}

impl Life {
    fn is_heard(&self, now: Duration) -> bool {
        self.alive || (!self.judged && now < self.since + FIRST_HEARING)
    }

    fn silent_since(&self) -> Duration {
        if self.judged { self.since } else { self.since + FIRST_HEARING }
    }
}

#[derive(Debug)]
struct HostEntry {
    lives: BTreeMap<u64, Life>,
    /// The life that was elected last to speak.
    speaker: Option<u64>,
    presence: Presence,
    /// What the active endpoints were last brought into line with: the life
    /// that spoke, and whether it was in use. Records of that life are taken
    /// in one by one from then on.
    aligned: Option<(u64, bool)>,
    /// When time alone changes its state, as it stands in the list of all.
    deadline: Option<Duration>,
}

impl HostEntry {
    /// When the last of its lives fell silent.
    fn silent_since(&self) -> Duration {
        self.lives.values().map(Life::silent_since).max().unwrap_or_default()
    }

    /// The life that speaks for the host.
    fn voice(&self) -> Option<(u64, &Life)> {
        let elected = self.speaker.and_then(|n| self.lives.get_key_value(&n));
        elected.or_else(|| self.lives.last_key_value()).map(|(n, life)| (*n, life))
    }

    /// Chooses the life that speaks: see the header.
    fn elect(&mut self, now: Duration) {
        let spoken = || self.lives.iter().rev().filter(|(_, life)| life.host.is_some());
        let Some((newest, candidate)) = spoken().next() else {
            self.speaker = self.lives.last_key_value().map(|(n, _)| *n);
            return;
        };
        let place = |life: &Life| life.host.as_ref().map(|h| h.vteps.clone());
        let stays = |life: &Life| {
            let up = life.host.as_ref().is_some_and(|h| h.intent == HostIntent::Up);
            let heard = life.alive || (life.is_heard(now) && !candidate.alive);
            up && heard && place(life) != place(candidate)
        };
        if self.speaker.and_then(|n| self.lives.get(&n)).is_some_and(stays) {
            return;
        }
        // At one place, the newest is the one that is there.
        let heard = spoken().find(|(_, l)| l.is_heard(now) && place(l) != place(candidate));
        let speaker = match heard {
            Some((n, _)) if !candidate.is_heard(now) => n,
            _ => newest,
        };
        self.speaker = Some(*speaker);
    }
}

/// What changed for the rest of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shift {
    /// This endpoint's entries may differ. In `before` or `after` it is in use.
    Endpoint { host: HostId, before: Option<Arc<Placed>>, after: Option<Arc<Placed>> },
    /// A definition was heard: merge it.
    Network(Network),
    /// A service was heard: merge it.
    Service(Service),
    /// A ring token was heard: merge it.
    Ring(NetworkId, Family, u128, RingToken),
    /// Something is said of hosts that are away.
    Fates,
    /// Somebody asks for addresses.
    Want(HostId, NetworkId, Family, Want),
    /// The state of a host, or its record, is another.
    Host(HostId),
    /// Its entries went out of use or came back.
    InUse(HostId, bool),
    /// Another life of it speaks; the former one was at these addresses.
    Voice(HostId, Vec<IpAddr>),
}

/// What is in use on one network, this host's own among it.
#[derive(Debug, Default)]
struct Used {
    /// Hosts without an endpoint are not in it.
    by_host: BTreeMap<HostId, BTreeMap<EndpointId, Arc<Placed>>>,
    by_mac: Claims<MacAddr>,
    by_ip: Claims<IpAddr>,
    by_name: Claims<Name>,
}

impl Used {
    fn get(&self, host: HostId, id: EndpointId) -> Option<&Arc<Placed>> {
        self.by_host.get(&host)?.get(&id)
    }

    fn claim(&mut self, placed: &Arc<Placed>) {
        let Endpoint { mac, addresses, name, .. } = &placed.endpoint;
        self.by_mac.add(mac, placed);
        addresses.iter().for_each(|ip| self.by_ip.add(ip, placed));
        name.iter().for_each(|name| self.by_name.add(name, placed));
    }

    fn unclaim(&mut self, placed: &Placed) {
        let Endpoint { mac, addresses, name, .. } = &placed.endpoint;
        self.by_mac.remove(mac, placed);
        addresses.iter().for_each(|ip| self.by_ip.remove(ip, placed));
        name.iter().for_each(|name| self.by_name.remove(name, placed));
    }
}

/// What endpoints claim, and what moves between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Mac(MacAddr),
    Ip(IpAddr),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// All that `endpoint` claims.
pub(crate) fn subjects(endpoint: &Endpoint) -> impl Iterator<Item = Subject> + use<'_> {
    let ips = endpoint.addresses.iter().map(|ip| Subject::Ip(*ip));
    std::iter::once(Subject::Mac(endpoint.mac)).chain(ips)
}

/// Every host but this one.
#[derive(Debug)]
pub(crate) struct ClusterView {
    me: HostId,
    patience: Patience,
    hosts: BTreeMap<HostId, HostEntry>,
    used: BTreeMap<NetworkId, Used>,
    /// Endpoints in use that publish ports.
    ported: BTreeSet<(NetworkId, HostId, EndpointId)>,
    /// Networks that have a port here of an endpoint that has moved away.
    lingering: BTreeSet<NetworkId>,
    /// Who wins what, whatever the ranks say, as long as he claims it.
    pins: BTreeMap<(NetworkId, Subject), (HostId, EndpointId)>,
    /// Of all hosts that have one.
    deadlines: BTreeSet<(Duration, HostId)>,
}

impl ClusterView {
    pub(crate) fn new(me: HostId, patience: Patience) -> Self {
        let (hosts, used) = (BTreeMap::new(), BTreeMap::new());
        let (lingering, pins) = (BTreeSet::new(), BTreeMap::new());
        let (ported, deadlines) = (BTreeSet::new(), BTreeSet::new());
        Self { me, patience, hosts, used, ported, lingering, pins, deadlines }
    }

    // ----- what is known ---------------------------------------------------

    pub(crate) fn hosts(&self) -> impl Iterator<Item = (HostId, Presence, u64, Option<&Host>)> {
        self.hosts.iter().filter_map(|(id, entry)| {
            let (incarnation, life) = entry.voice()?;
            Some((*id, entry.presence, incarnation, life.host.as_ref()))
        })
    }

    /// What every host says of itself that may send to us: of all its lives, as
    /// one that moves sends before its new life speaks for it.
    pub(crate) fn at_large(&self) -> impl Iterator<Item = &Host> {
        let there = |entry: &&HostEntry| match entry.presence.state {
            HostState::Up | HostState::Suspect | HostState::Stopped => true,
            HostState::Down | HostState::Left => entry.presence.in_use,
        };
        let lives = self.hosts.values().filter(there).flat_map(|entry| entry.lives.values());
        lives.filter_map(|life| life.host.as_ref())
    }

    pub(crate) fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.get(&id)?.voice()?.1.host.as_ref()
    }

    /// Which cluster keys a host says that it has; nothing if it does not say.
    pub(crate) fn keys_of(&self, id: HostId) -> Option<&HostKeys> {
        self.hosts.get(&id)?.voice()?.1.keys.as_ref()
    }

    /// Says whether a host takes no new endpoint.
    pub(crate) fn is_drained(&self, id: HostId) -> bool {
        let life = self.hosts.get(&id).and_then(HostEntry::voice);
        life.is_some_and(|(_, life)| life.drained)
    }

    pub(crate) fn presence(&self, id: HostId) -> Option<Presence> {
        self.hosts.get(&id).map(|entry| entry.presence)
    }

    pub(crate) fn host_name(&self, id: HostId) -> Option<&Name> {
        self.host(id).map(|h| &h.name)
    }

    /// Hosts heard now, with the record of each known or not.
    pub(crate) fn live(&self) -> impl Iterator<Item = (HostId, bool)> {
        self.hosts.iter().filter_map(|(id, entry)| {
            let newest = entry.lives.values().rev().find(|l| l.alive)?;
            Some((*id, newest.host.is_some()))
        })
    }

    /// Endpoints in use on `net`, this host's own among them.
    pub(crate) fn active_on(&self, net: NetworkId) -> impl Iterator<Item = (HostId, &Endpoint)> {
        let hosts = self.used.get(&net).into_iter().flat_map(|used| used.by_host.values());
        hosts.flat_map(BTreeMap::values).map(|placed| placed.parts())
    }

    /// Endpoints in use that publish ports, this host's own among them.
    pub(crate) fn with_ports(&self) -> impl Iterator<Item = (HostId, &Endpoint)> {
        self.ported
            .iter()
            .filter_map(|(net, host, id)| Some(self.used.get(net)?.get(*host, *id)?.parts()))
    }

    /// The same, as they are held.
    pub(crate) fn placed_on(&self, net: NetworkId) -> impl Iterator<Item = &Arc<Placed>> {
        let hosts = self.used.get(&net).into_iter().flat_map(|used| used.by_host.values());
        hosts.flat_map(BTreeMap::values)
    }

    /// An endpoint in use, as it is held.
    pub(crate) fn placed(
        &self,
        net: NetworkId,
        host: HostId,
        id: EndpointId,
    ) -> Option<&Arc<Placed>> {
        self.used.get(&net)?.get(host, id)
    }

    /// All endpoints that other hosts say they have, in use or not.
    pub(crate) fn remote_endpoints(&self) -> impl Iterator<Item = (HostId, Presence, &Endpoint)> {
        self.remote_lives().flat_map(|(id, presence, life)| {
            let all = life.endpoints.all();
            all.map(move |placed| (id, presence, &placed.endpoint))
        })
    }

    /// How many there are of them.
    pub(crate) fn remote_count(&self) -> usize {
        self.remote_lives().map(|(_, _, life)| life.endpoints.len()).sum()
    }

    fn remote_lives(&self) -> impl Iterator<Item = (HostId, Presence, &Life)> {
        let stayed = self.hosts.iter().filter(|(_, e)| e.presence.state != HostState::Left);
        stayed.filter_map(|(id, entry)| Some((*id, entry.presence, entry.voice()?.1)))
    }

    pub(crate) fn count_of(&self, host: HostId) -> usize {
        self.hosts.get(&host).and_then(HostEntry::voice).map_or(0, |(_, l)| l.endpoints.len())
    }

    pub(crate) fn mac_winner(&self, net: NetworkId, mac: MacAddr) -> Option<(HostId, &Endpoint)> {
        let pin = self.pin(net, Subject::Mac(mac));
        self.used.get(&net)?.by_mac.chosen(&mac, pin).map(|placed| placed.parts())
    }

    pub(crate) fn ip_winner(&self, net: NetworkId, ip: IpAddr) -> Option<(HostId, &Endpoint)> {
        let pin = self.pin(net, Subject::Ip(ip));
        self.used.get(&net)?.by_ip.chosen(&ip, pin).map(|placed| placed.parts())
    }

    /// Who has `subject`.
    pub(crate) fn winner(&self, net: NetworkId, subject: Subject) -> Option<(HostId, &Endpoint)> {
        match subject {
            Subject::Mac(mac) => self.mac_winner(net, mac),
            Subject::Ip(ip) => self.ip_winner(net, ip),
        }
    }

    fn pin(&self, net: NetworkId, subject: Subject) -> Option<(HostId, EndpointId)> {
        if self.pins.is_empty() { None } else { self.pins.get(&(net, subject)).copied() }
    }

    /// Keeps `subject` with one of those who claim it, or lets the ranks decide.
    pub(crate) fn set_pin(
        &mut self,
        net: NetworkId,
        subject: Subject,
        pin: Option<(HostId, EndpointId)>,
    ) {
        match pin {
            Some(pin) => self.pins.insert((net, subject), pin),
            None => self.pins.remove(&(net, subject)),
        };
    }

    /// Says whether a port stands here whose endpoint has moved away.
    pub(crate) fn set_lingering(&mut self, net: NetworkId, lingering: bool) {
        if lingering {
            self.lingering.insert(net);
        } else {
            self.lingering.remove(&net);
        }
    }

    /// Endpoints in use that have `mac`.
    pub(crate) fn mac_claims(
        &self,
        net: NetworkId,
        mac: MacAddr,
    ) -> impl Iterator<Item = (HostId, &Endpoint)> {
        let used = self.used.get(&net).into_iter();
        used.flat_map(move |used| used.by_mac.all(&mac)).map(|placed| placed.parts())
    }

    /// Endpoints in use that have `ip`.
    pub(crate) fn ip_claims(
        &self,
        net: NetworkId,
        ip: IpAddr,
    ) -> impl Iterator<Item = (HostId, &Endpoint)> {
        let used = self.used.get(&net).into_iter();
        used.flat_map(move |used| used.by_ip.all(&ip)).map(|placed| placed.parts())
    }

    /// Endpoints in use that are called `name`.
    pub(crate) fn name_claims(
        &self,
        net: NetworkId,
        name: &Name,
    ) -> impl Iterator<Item = (HostId, &Endpoint)> {
        let used = self.used.get(&net).into_iter();
        used.flat_map(move |used| used.by_name.all(name)).map(|placed| placed.parts())
    }

    /// True if `host` has an endpoint on `net`, or what is left of one.
    pub(crate) fn is_user(&self, net: NetworkId, host: HostId) -> bool {
        self.has_active(net, host) || (host == self.me && self.lingering.contains(&net))
    }

    fn has_active(&self, net: NetworkId, host: HostId) -> bool {
        self.used.get(&net).is_some_and(|used| used.by_host.contains_key(&host))
    }

    /// Networks that `host` uses.
    pub(crate) fn used_by(&self, host: HostId) -> impl Iterator<Item = NetworkId> {
        let active = self.used.iter().filter(move |(_, u)| u.by_host.contains_key(&host));
        let left = self.lingering.iter().copied().filter(move |_| host == self.me);
        let left = left.filter(move |net| !self.has_active(*net, host));
        active.map(|(net, _)| *net).chain(left)
    }

    /// MACs that somebody has on `net`.
    pub(crate) fn macs_on(&self, net: NetworkId) -> impl Iterator<Item = MacAddr> {
        self.macs_after(net, None)
    }

    /// [`ClusterView::macs_on`], those behind `after` only.
    pub(crate) fn macs_after(
        &self,
        net: NetworkId,
        after: Option<MacAddr>,
    ) -> impl Iterator<Item = MacAddr> {
        self.used.get(&net).into_iter().flat_map(move |used| used.by_mac.keys_after(after))
    }

    /// Addresses that somebody has on `net`.
    pub(crate) fn ips_on(&self, net: NetworkId) -> impl Iterator<Item = IpAddr> {
        self.ips_after(net, None)
    }

    /// [`ClusterView::ips_on`], those behind `after` only.
    pub(crate) fn ips_after(
        &self,
        net: NetworkId,
        after: Option<IpAddr>,
    ) -> impl Iterator<Item = IpAddr> {
        self.used.get(&net).into_iter().flat_map(move |used| used.by_ip.keys_after(after))
    }

    /// Hosts that use `net`, other than this one.
    pub(crate) fn users_of(&self, net: NetworkId) -> impl Iterator<Item = HostId> {
        let me = self.me;
        let hosts = self.used.get(&net).into_iter().flat_map(|used| used.by_host.keys().copied());
        hosts.filter(move |host| *host != me)
    }

    // ----- what changes it -------------------------------------------------

    /// Puts an endpoint into use or takes it out.
    pub(crate) fn set_active(
        &mut self,
        host: HostId,
        net: NetworkId,
        id: EndpointId,
        after: Option<Arc<Placed>>,
    ) -> Option<Shift> {
        let used = self.used.entry(net).or_default();
        let before = match &after {
            Some(placed) => used.by_host.entry(host).or_default().insert(id, placed.clone()),
            None => used.by_host.get_mut(&host).and_then(|endpoints| endpoints.remove(&id)),
        };
        if before != after {
            let ports = |placed: &Arc<Placed>| !placed.endpoint.ports.is_empty();
            if after.as_ref().is_some_and(ports) {
                self.ported.insert((net, host, id));
            } else if before.as_ref().is_some_and(ports) {
                self.ported.remove(&(net, host, id));
            }
            before.iter().for_each(|placed| used.unclaim(placed));
            after.iter().for_each(|placed| used.claim(placed));
        }
        if after.is_none() {
            // Who has nothing on a network does not use it.
            if used.by_host.get(&host).is_some_and(BTreeMap::is_empty) {
                used.by_host.remove(&host);
            }
            if used.by_host.is_empty() {
                self.used.remove(&net);
            }
        }
        (before != after).then_some(Shift::Endpoint { host, before, after })
    }

    /// The failure detector hears, or no longer hears, a life of a host.
    pub(crate) fn set_alive(
        &mut self,
        host: HostId,
        incarnation: u64,
        alive: bool,
        now: Duration,
    ) -> Vec<Shift> {
        let life = self.life(host, incarnation, now);
        if life.alive != alive || !life.judged {
            life.alive = alive;
            life.since = now;
            life.judged = true;
        }
        self.reassess(host, now)
    }

    /// Gossip has dropped a life of a host.
    pub(crate) fn forget(&mut self, host: HostId, incarnation: u64, now: Duration) -> Vec<Shift> {
        let Some(entry) = self.hosts.get_mut(&host) else { return Vec::new() };
        let speaks = entry.voice().is_some_and(|(n, _)| n == incarnation);
        if speaks {
            // What it last said stays on show until it is back; it only counts
            // as silent.
            return self.set_alive(host, incarnation, false, now);
        }
        entry.lives.remove(&incarnation);
        self.reassess(host, now)
    }

    /// A record was written or withdrawn.
    pub(crate) fn set_record(
        &mut self,
        host: HostId,
        incarnation: u64,
        key: RecordKey,
        record: Option<Record>,
        now: Duration,
    ) -> Vec<Shift> {
        let speaks = |view: &Self| view.hosts[&host].voice().is_some_and(|(n, _)| n == incarnation);
        let life = self.life(host, incarnation, now);
        let mut shifts = Vec::new();
        match (key, record) {
            (RecordKey::Host, Some(Record::Host(record))) => {
                if record.id != host {
                    return Vec::new();
                }
                life.host = Some(record);
                // It comes when all else is here.
                for (net, id) in std::mem::take(&mut life.unconfirmed) {
                    life.endpoints.unset(net, id);
                }
                // And what is in use is looked through once more.
                self.hosts.get_mut(&host).expect("it has this life").aligned = None;
                shifts.push(Shift::Host(host));
            }
            (RecordKey::Endpoint(net, id), Some(Record::Endpoint(ep))) => {
                if ep.id != id || ep.network != net {
                    return Vec::new();
                }
                let placed = Arc::new(Placed { host, endpoint: ep });
                life.unconfirmed.remove(&(net, id));
                life.endpoints.set(placed.clone());
                if speaks(self) && self.hosts[&host].presence.in_use {
                    shifts.extend(self.set_active(host, net, id, Some(placed)));
                }
            }
            (RecordKey::Endpoint(net, id), None) => {
                life.endpoints.unset(net, id);
                if speaks(self) {
                    shifts.extend(self.set_active(host, net, id, None));
                }
            }
            (RecordKey::Network(net), Some(Record::Network(network))) => {
                if network.id != net {
                    return Vec::new();
                }
                life.networks.insert(net, network.clone());
                shifts.push(Shift::Network(network));
            }
            (RecordKey::Network(net), None) => {
                life.networks.remove(&net);
            }
            (RecordKey::Ring(net, family, offset), Some(Record::Ring(token))) => {
                life.ring.insert((net, family, offset), token);
                shifts.push(Shift::Ring(net, family, offset, token));
            }
            (RecordKey::Want(net, family), Some(Record::Want(want))) => {
                life.wants.insert((net, family), want);
                shifts.push(Shift::Want(host, net, family, want));
            }
            (RecordKey::Want(net, family), None) => {
                life.wants.remove(&(net, family));
            }
            (RecordKey::Keys, Some(Record::Keys(keys))) => life.keys = Some(keys),
            (RecordKey::Keys, None) => life.keys = None,
            (RecordKey::Drained, record) => life.drained = record.is_some(),
            (RecordKey::Ring(net, family, offset), None) => {
                life.ring.remove(&(net, family, offset));
            }
            (RecordKey::Service(net, id), Some(Record::Service(service)))
                if (service.network, service.id) == (net, id) =>
            {
                shifts.push(Shift::Service(service));
            }
            (RecordKey::Fate(whom), Some(Record::Fate(fate))) => {
                life.fates.insert(whom, fate);
                shifts.push(Shift::Fates);
            }
            (RecordKey::Fate(whom), None) => {
                life.fates.remove(&whom);
                shifts.push(Shift::Fates);
            }
            // A withdrawn host record says nothing, and a record that
            // does not fit its key is somebody's bug: it changes nothing.
            _ => {}
        }
        shifts.extend(self.reassess(host, now));
        shifts
    }

    /// Gossip has begun anew, and will tell everything again: what it does not
    /// tell again is gone. Until a host has been told of again it counts as
    /// heard, for as long as a newcomer would.
    pub(crate) fn begin_anew(&mut self, now: Duration) {
        for life in self.hosts.values_mut().flat_map(|entry| entry.lives.values_mut()) {
            let told = life.endpoints.all().map(|placed| &placed.endpoint);
            life.unconfirmed = told.map(|ep| (ep.network, ep.id)).collect();
            life.wants.clear();
            if life.alive {
                (life.alive, life.judged, life.since) = (false, false, now);
            }
        }
        let hosts: Vec<HostId> = self.hosts.keys().copied().collect();
        hosts.into_iter().for_each(|host| self.note_deadline(host));
    }

    /// All ring tokens that anybody has published for `net`.
    pub(crate) fn ring_of(
        &self,
        net: NetworkId,
    ) -> impl Iterator<Item = (Family, u128, RingToken)> {
        self.hosts
            .values()
            .flat_map(|entry| entry.lives.values())
            .flat_map(|life| life.ring.iter())
            .filter(move |((n, _, _), _)| *n == net)
            .map(|((_, family, offset), token)| (*family, *offset, *token))
    }

    /// What the life that speaks for `host` says of a range.
    pub(crate) fn range_of(
        &self,
        host: HostId,
        key: (NetworkId, Family, u128),
    ) -> Option<RingToken> {
        self.hosts.get(&host)?.voice()?.1.ring.get(&key).copied()
    }

    /// What each host says of those that are away.
    pub(crate) fn fates(&self) -> BTreeMap<HostId, BTreeMap<HostId, Fate>> {
        let voices = self.hosts.iter().filter_map(|(id, entry)| Some((*id, entry.voice()?.1)));
        let said = voices.filter(|(_, life)| !life.fates.is_empty());
        said.map(|(id, life)| (id, life.fates.clone())).collect()
    }

    /// A hash of all ranges that `host` has published.
    pub(crate) fn ranges_of(&self, host: HostId) -> u64 {
        let life = self.hosts.get(&host).and_then(|entry| entry.voice());
        ranges_hash(life.map(|(_, life)| &life.ring).into_iter().flatten())
    }

    /// Moves hosts on whose time has come.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Shift> {
        let due: Vec<HostId> =
            self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        due.into_iter().flat_map(|host| self.reassess(host, now)).collect()
    }

    /// When [`ClusterView::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// To be called when anything has changed that [`Self::deadline_of`] asks.
    fn note_deadline(&mut self, host: HostId) {
        let Some(entry) = self.hosts.get(&host) else { return };
        let (before, now) = (entry.deadline, self.deadline_of(entry));
        if before == now {
            return;
        }
        self.deadlines.extend(now.map(|at| (at, host)));
        if let Some(before) = before {
            self.deadlines.remove(&(before, host));
        }
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.deadline = now;
        }
    }

    fn deadline_of(&self, entry: &HostEntry) -> Option<Duration> {
        let Presence { state, since, in_use } = entry.presence;
        match state {
            HostState::Left => None,
            // Heard of, but not heard yet.
            HostState::Up => {
                let heard = entry.lives.values().any(|l| l.alive);
                (!heard).then(|| entry.silent_since())
            }
            HostState::Suspect => Some(entry.silent_since() + self.patience.down_after),
            HostState::Down => in_use.then(|| since + self.patience.down_grace),
            HostState::Stopped => in_use.then(|| since + self.patience.stop_grace),
        }
    }

    fn life(&mut self, host: HostId, incarnation: u64, now: Duration) -> &mut Life {
        let entry = self.hosts.entry(host).or_insert_with(|| HostEntry {
            lives: BTreeMap::new(),
            speaker: None,
            presence: Presence { state: HostState::Up, since: now, in_use: true },
            aligned: None,
            deadline: None,
        });
        if let Entry::Vacant(none) = entry.lives.entry(incarnation) {
            none.insert(Life { since: now, ..Life::default() });
            self.note_deadline(host);
        }
        let entry = self.hosts.get_mut(&host).expect("it is there or was made above");
        entry.lives.get_mut(&incarnation).expect("it is there or was made above")
    }

    /// Works out a host's state anew, and what follows for its endpoints.
    fn reassess(&mut self, host: HostId, now: Duration) -> Vec<Shift> {
        let shifts = self.judge(host, now);
        self.note_deadline(host);
        shifts
    }

    fn judge(&mut self, host: HostId, now: Duration) -> Vec<Shift> {
        let Some(entry) = self.hosts.get_mut(&host) else { return Vec::new() };
        let vteps = |entry: &HostEntry| {
            let life = entry.speaker.and_then(|n| entry.lives.get(&n));
            life.and_then(|life| life.host.as_ref()).map(|host| host.vteps.clone())
        };
        let (former, former_vteps) = (entry.speaker, vteps(entry));
        entry.elect(now);
        let Some((voice, life)) = entry.voice() else { return Vec::new() };
        let before = entry.presence;
        let heard = entry.lives.values().any(|l| l.is_heard(now));
        let intent = life.host.as_ref().map_or(HostIntent::Up, |h| h.intent);

        let silent_since = entry.silent_since();
        let state = match (intent, heard) {
            (HostIntent::Left, _) => HostState::Left,
            (_, true) => HostState::Up,
            (HostIntent::Stopped, false) => HostState::Stopped,
            (HostIntent::Up, false) => {
                if now >= silent_since + self.patience.down_after {
                    HostState::Down
                } else {
                    HostState::Suspect
                }
            }
        };
        let since = match state {
            _ if state == before.state => before.since,
            HostState::Suspect | HostState::Stopped => silent_since,
            HostState::Up | HostState::Down | HostState::Left => now,
        };
        let in_use = match state {
            HostState::Up | HostState::Suspect => true,
            HostState::Left => false,
            HostState::Down => before.in_use && now < since + self.patience.down_grace,
            HostState::Stopped => before.in_use && now < since + self.patience.stop_grace,
        };
        // Suspicion moves nothing: neither out of use, nor back into it.
        let in_use = if state == HostState::Suspect { before.in_use } else { in_use };

        let entry = self.hosts.get_mut(&host).expect("looked up above");
        entry.presence = Presence { state, since, in_use };
        // Former lives have nothing more to say once the new one has spoken,
        // unless they are another machine.
        if entry.lives[&voice].host.is_some() {
            entry.lives.retain(|n, life| *n >= voice || life.is_heard(now));
        }

        let mut shifts = Vec::new();
        if former != Some(voice)
            && let Some(before) = former_vteps
        {
            shifts.push(Shift::Voice(host, before));
        }
        if state != before.state {
            shifts.push(Shift::Host(host));
        }
        if in_use != before.in_use {
            shifts.push(Shift::InUse(host, in_use));
        }
        // Not at every record: it looks at all endpoints of the host.
        if entry.aligned != Some((voice, in_use)) {
            entry.aligned = Some((voice, in_use));
            shifts.extend(self.align(host));
        }
        shifts
    }

    /// Brings what is in use of a host into line with its voice and presence.
    fn align(&mut self, host: HostId) -> Vec<Shift> {
        let entry = &self.hosts[&host];
        let said = match entry.voice() {
            Some((_, life)) if entry.presence.in_use => Some(&life.endpoints),
            _ => None,
        };
        let mut changes: Vec<(NetworkId, EndpointId, Option<Arc<Placed>>)> = Vec::new();
        for (net, used) in &self.used {
            for id in used.by_host.get(&host).into_iter().flat_map(BTreeMap::keys) {
                if said.is_none_or(|said| !said.contains(*net, *id)) {
                    changes.push((*net, *id, None));
                }
            }
        }
        for placed in said.into_iter().flat_map(Said::all) {
            let Endpoint { network, id, .. } = placed.endpoint;
            let active = self.used.get(&network).and_then(|used| used.get(host, id));
            if active != Some(placed) {
                changes.push((network, id, Some(placed.clone())));
            }
        }
        changes
            .into_iter()
            .filter_map(|(net, id, after)| self.set_active(host, net, id, after))
            .collect()
    }
}

/// Who has each of certain things.
///
/// Almost always it is one endpoint, so the winner stands by itself, and those
/// who lose against it are elsewhere.
#[derive(Debug)]
struct Claims<K> {
    winners: BTreeMap<K, Arc<Placed>>,
    /// In no order; no list is empty.
    others: BTreeMap<K, Vec<Arc<Placed>>>,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self { winners: BTreeMap::new(), others: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Claims<K> {
    /// The winner, unless one is pinned who still claims it.
    fn chosen(&self, key: &K, pin: Option<(HostId, EndpointId)>) -> Option<&Arc<Placed>> {
        let pinned = pin.and_then(|(host, id)| self.all(key).find(|placed| placed.is(host, id)));
        pinned.or_else(|| self.winners.get(key))
    }

    /// The winner first.
    fn all(&self, key: &K) -> impl Iterator<Item = &Arc<Placed>> + use<'_, K> {
        self.winners.get(key).into_iter().chain(self.others.get(key).into_iter().flatten())
    }

    fn add(&mut self, key: &K, placed: &Arc<Placed>) {
        let Some(winner) = self.winners.get_mut(key) else {
            self.winners.insert(key.clone(), placed.clone());
            return;
        };
        // It may say the same address twice.
        let endpoint = &placed.endpoint;
        let known = self.others.get(key).into_iter().flatten().chain([&*winner]);
        if known.into_iter().any(|other| other.is(placed.host, endpoint.id)) {
            return;
        }
        let wins = placed.rank() < winner.rank();
        let loser = if wins { std::mem::replace(winner, placed.clone()) } else { placed.clone() };
        self.others.entry(key.clone()).or_default().push(loser);
    }

    fn remove(&mut self, key: &K, placed: &Placed) {
        let is_it = |other: &Placed| other.is(placed.host, placed.endpoint.id);
        let Some(winner) = self.winners.get_mut(key) else { return };
        let won = is_it(winner);
        let Some(others) = self.others.get_mut(key) else {
            if won {
                self.winners.remove(key);
            }
            return;
        };
        if won {
            let ranks = others.iter().enumerate().min_by_key(|(_, other)| other.rank());
            let next = ranks.map(|(at, _)| at).expect("no list is empty");
            *winner = others.swap_remove(next);
        } else {
            others.retain(|other| !is_it(other));
        }
        if others.is_empty() {
            self.others.remove(key);
        }
    }
}

impl<K: Ord + Copy> Claims<K> {
    fn keys_after(&self, after: Option<K>) -> impl Iterator<Item = K> + use<'_, K> {
        let low = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.winners.range((low, Bound::Unbounded)).map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests;
