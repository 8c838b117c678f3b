//! A host that has lost its state file and the copy of it: what is found again,
//! and what it may do meanwhile.
//!
//! ```text
//!  start ─► hearing ─► saving ─► found ─────────────► as any other
//!             │                    │  gives out no address of networks of before
//!             │                    ▼  until all hosts have been heard
//!             └ not published: what others have of the former life stays in use
//! ```
//!
//! | what | from where |
//! |---|---|
//! | networks, ranges, votes, drained | the others, who remember what the former life said, and say what they have of each other |
//! | an endpoint, its network and place | the kernel: a veth, a device that was lent, a neighbour without either (static) |
//! | its MAC and addresses | the record of the former life; else what its port may say ([`ObjectKey::Guard`]), else FDB and neighbours |
//! | its name, aliases, labels, ports, move sequence | the record; else nothing is known of them |
//! | addresses kept for names | nowhere: they are lost |
//!
//! The kernel decides what there is, the record what it is called: what was
//! detached while gossip did not hear of it has no port.
//!
//! **That no address is given twice.** What this host gave away at the end of
//! its former life may be known to the one host only that it was given to, and
//! a vote of it to the one host that it was for. So it leases nothing of the
//! networks of before, gives nothing away and does not vote, before every host
//! that anybody has named has been heard, has left, was forgotten, or is dead by
//! the word of an operator. Then what stands in its memory is what it would have
//! been: ranges are merged by their versions, in whatever order they come. (Two
//! that lose their state at once, one of which had just given something to the
//! other, may both take it for theirs: the claims of endpoints that run keep
//! them apart then, see [`Engine::allocate_unclaimed`].)
//!
//! **That nothing that runs is torn down.** Until endpoints are found and
//! written down the view is partial, and the host record unsaid. A network
//! that nobody has told of leaves the view partial for as long as something of
//! it is in the kernel: its containers go on, and cannot be changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use overlay_model::{
    Endpoint, EndpointId, Family, Fate, Fnv, Guard, HostId, IfName, LinkKind, MacAddr, NetnsRef,
    NetworkId, Object, ObjectKey, Record, RecordKey, RingToken, Vni,
};
use serde::{Deserialize, Serialize};

use crate::cluster_view::HostState;
use crate::desired::{endpoint_of, gateways};
use crate::endpoints::{Local, Phase};
use crate::engine::{After, Engine, SETTLE};
use crate::event::{ErrorKind, LocalEndpoint, Notice, Place, Refused, StateChange};
use crate::forget::Seen;

/// After what could not be written down.
const AGAIN: Duration = Duration::from_secs(1);

/// How often it is looked, while nobody else is there, whether what is left still is.
const LOOK_ALONE: Duration = Duration::from_secs(10);

/// What the shell knows of a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// When it was found out, milliseconds since 1970.
    pub at_ms: u64,
    /// Where the veths of this host lead, as far as that is known.
    pub homes: Vec<(EndpointId, Place)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The others say what they know.
    Hearing,
    /// The state file is told what was found.
    Saving,
    /// Endpoints are back; other hosts may be waited for.
    Found,
}

/// What [`Engine`] keeps of it.
#[derive(Debug)]
pub(crate) struct Recovery {
    at_ms: u64,
    homes: BTreeMap<EndpointId, Place>,
    stage: Stage,
    /// What former lives have said, by life.
    former: BTreeMap<u64, Former>,
    /// Somebody else has been heard, since.
    live_since: Option<Duration>,
    /// Not before, since the state file could not be written.
    retry_at: Option<Duration>,
    /// Networks that nobody has told of, of which something is in the kernel.
    unknown: BTreeSet<NetworkId>,
    /// When it is looked whether there is something still that nobody can tell of.
    alone_look: Option<Duration>,
    /// When what was found was said, and the others were asked whom they know.
    said_at: Duration,
}

/// What one life of this host had published, as others remember it.
#[derive(Debug, Default)]
struct Former {
    /// It is heard now: another machine has the same identity.
    alive: bool,
    /// All of it is here.
    whole: bool,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    ring: BTreeMap<(NetworkId, Family, u128), RingToken>,
    fates: BTreeMap<HostId, Fate>,
    drained: bool,
}

impl Recovery {
    pub(crate) fn new(lost: Lost) -> Self {
        Self {
            at_ms: lost.at_ms,
            homes: lost.homes.into_iter().collect(),
            stage: Stage::Hearing,
            former: BTreeMap::new(),
            live_since: None,
            retry_at: None,
            unknown: BTreeSet::new(),
            alone_look: None,
            said_at: Duration::ZERO,
        }
    }

    /// What this host was is not said yet.
    fn is_unsaid(&self) -> bool {
        self.stage != Stage::Found
    }

    /// Former lives that are over, the oldest first.
    fn lives(&self) -> impl DoubleEndedIterator<Item = &Former> {
        self.former.values().filter(|former| !former.alive)
    }

    /// Some former life is known as a whole.
    fn is_remembered(&self) -> bool {
        self.lives().any(|former| former.whole)
    }
}

/// An endpoint as the kernel knows it.
#[derive(Debug)]
struct Trace {
    id: EndpointId,
    network: NetworkId,
    place: Place,
    mac: Option<MacAddr>,
    addresses: Vec<IpAddr>,
}

impl Engine {
    /// True while the host record must not be said: whoever hears it takes what the former
    /// life had for withdrawn.
    pub(crate) fn is_unsaid(&self) -> bool {
        self.recovery.as_ref().is_some_and(Recovery::is_unsaid)
    }

    /// True while this host may have given away more than it knows, or have voted
    /// otherwise.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.recovery.is_some()
    }

    /// What somebody remembers that a former life of this host said.
    pub(crate) fn note_former(&mut self, life: u64, key: RecordKey, record: Option<Record>) {
        let Some(recovery) = &mut self.recovery else { return };
        if life == self.config.incarnation {
            return;
        }
        let former = recovery.former.entry(life).or_default();
        match (key, record) {
            (RecordKey::Host, Some(_)) => former.whole = true,
            (RecordKey::Network(_), Some(Record::Network(network))) => {
                // The newest definition counts, whoever says it.
                self.merge_network(network);
            }
            (RecordKey::Endpoint(_, id), Some(Record::Endpoint(ep))) if ep.id == id => {
                former.endpoints.insert(id, ep);
            }
            (RecordKey::Endpoint(_, id), _) => drop(former.endpoints.remove(&id)),
            (RecordKey::Ring(net, family, offset), Some(Record::Ring(token))) => {
                former.ring.insert((net, family, offset), token);
            }
            (RecordKey::Fate(whom), Some(Record::Fate(fate))) => {
                former.fates.insert(whom, fate);
            }
            (RecordKey::Fate(whom), _) => drop(former.fates.remove(&whom)),
            (RecordKey::Drained, record) => former.drained = record.is_some(),
            // What it asked for is not waited for any more, and which keys it has it knows.
            _ => {}
        }
    }

    /// A life of this host that is not this one is heard, or is not.
    pub(crate) fn note_former_alive(&mut self, life: u64, alive: bool) {
        if let Some(recovery) = &mut self.recovery
            && life != self.config.incarnation
        {
            recovery.former.entry(life).or_default().alive = alive;
        }
    }

    /// When [`Engine::recover`] has something to do next.
    pub(crate) fn recovery_deadline(&self) -> Option<Duration> {
        let recovery = self.recovery.as_ref().filter(|r| r.stage == Stage::Hearing)?;
        let alone = self.config.alone_after;
        let all = [
            Some(self.started + SETTLE),
            Some(self.started + alone),
            recovery.live_since.map(|since| since + alone),
            recovery.retry_at,
            recovery.alone_look,
        ];
        all.into_iter().flatten().filter(|at| *at > self.now.mono).min()
    }

    /// True if what was lost keeps the view partial.
    pub(crate) fn recovery_holds_view(&self) -> bool {
        let recovery = self.recovery.as_ref();
        recovery.is_some_and(|r| r.is_unsaid() || !r.unknown.is_empty())
    }

    /// Goes on as far as it can be gone on now.
    pub(crate) fn recover(&mut self) {
        if self.recovery.is_none() {
            return;
        }
        let now = self.now.mono;
        let live: Vec<bool> = self.view.live().map(|(_, spoken)| spoken).collect();
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.stage == Stage::Found && !recovery.unknown.is_empty() {
            let told = |net: &NetworkId| self.networks.all().any(|known| known.id == *net);
            if recovery.unknown.iter().any(told) {
                // Whoever told of it has more to say.
                (recovery.stage, recovery.live_since) = (Stage::Hearing, Some(now));
            }
        }
        if recovery.stage != Stage::Hearing || recovery.retry_at.is_some_and(|at| now < at) {
            return;
        }
        if live.is_empty() {
            recovery.live_since = None;
        } else {
            recovery.live_since.get_or_insert(now);
        }
        let waited = |since: Duration| now >= since + self.config.alone_after;
        let heard = !live.is_empty() && live.iter().all(|spoken| *spoken);
        let settled = now >= self.started + SETTLE && heard && recovery.is_remembered();
        if !settled && !recovery.live_since.is_some_and(waited) {
            if live.is_empty() && waited(self.started) {
                self.recover_alone();
            }
            return;
        }
        self.find_again();
    }

    /// Nobody is there who could tell anything.
    fn recover_alone(&mut self) {
        let now = self.now.mono;
        let former = self.recovery.as_ref().and_then(|recovery| recovery.alone_look);
        if former.is_some_and(|at| now < at) {
            return;
        }
        if self.traces().is_empty() {
            return self.find_again();
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.alone_look = Some(now + LOOK_ALONE);
        }
        if former.is_none() {
            let text = self.recovery_warning().unwrap_or_default();
            self.notice(Notice::Recovery { stage: "waiting", text });
        }
    }

    /// Everybody who is there has said what he knows.
    fn find_again(&mut self) {
        let me = self.config.host;
        let Some(recovery) = &self.recovery else { return };
        let mut ring = Vec::new();
        let (mut fates, mut drained) = (BTreeMap::new(), false);
        let mut records: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
        for former in recovery.lives() {
            ring.extend(former.ring.iter().map(|(key, token)| (*key, *token)));
            fates.extend(former.fates.iter().map(|(whom, fate)| (*whom, *fate)));
            records.extend(former.endpoints.iter().map(|(id, ep)| (*id, ep.clone())));
            drained = former.drained;
        }
        let mut changes = Vec::new();
        fates.retain(|whom, _| !self.fates.own().contains_key(whom));
        for (whom, fate) in &fates {
            self.fates.unsay(*whom, Some(*fate));
            changes.push(StateChange::Fate(*whom, Some(*fate)));
        }
        if let Some(of_me) = fates.get(&me) {
            for pool in self.pools.values_mut() {
                pool.drop_owned(me, of_me.noted);
            }
        }
        for ((net, family, offset), token) in ring {
            self.merge_token(net, family, offset, token);
        }
        if drained && !self.membership.drained {
            self.membership.drained = true;
            changes.push(StateChange::Drained(true));
        }

        let mut unknown = BTreeSet::new();
        let mut found = Vec::new();
        for trace in self.traces() {
            let network = trace.network;
            if self.networks.get(network).is_none() {
                // What was removed goes with its network.
                if !self.networks.is_removed(network) {
                    unknown.insert(network);
                }
                continue;
            }
            let record = records.get(&trace.id).filter(|ep| ep.network == network).cloned();
            if let Some(endpoint) = self.identify(&trace, record) {
                let id = endpoint.id;
                let boot_id = self.config.boot_id.clone();
                let local = LocalEndpoint { endpoint, place: trace.place, boot_id, moved: None };
                found.push((id, local));
            }
        }
        for (id, local) in found {
            let endpoint = local.endpoint.clone();
            for ip in &endpoint.addresses {
                if let Some(pool) = self.pools.get_mut(&(endpoint.network, Family::of(ip))) {
                    pool.note_lease(*ip);
                }
            }
            self.insert_local(id, Local { local, phase: Phase::Ready });
            self.activate(id, Some(endpoint));
        }
        // Those of a try that could not be written down among them.
        let all = self.local.values().filter(|local| local.phase == Phase::Ready);
        changes.extend(all.map(|local| StateChange::Endpoint(Box::new(local.local.clone()))));
        if let Some(recovery) = &mut self.recovery {
            (recovery.stage, recovery.unknown) = (Stage::Saving, unknown);
        }
        self.persist(changes, After::FoundAgain);
    }

    /// The state file has what was found, or could not be written.
    pub(crate) fn found_again(&mut self, result: Result<(), String>) {
        let now = self.now.mono;
        let Some(recovery) = &mut self.recovery else { return };
        if result.is_err() {
            (recovery.stage, recovery.retry_at) = (Stage::Hearing, Some(now + AGAIN));
            return;
        }
        (recovery.stage, recovery.said_at) = (Stage::Found, now);
        let mut own = Vec::new();
        for local in self.local.values() {
            if local.phase == Phase::Ready && local.local.moved.is_none() {
                own.push(local.local.endpoint.clone());
            }
        }
        for ep in &own {
            let key = RecordKey::Endpoint(ep.network, ep.id);
            self.publish(key, Some(Record::Endpoint(ep.clone())));
        }
        // Who says something of itself is told of all who are silent.
        let of_itself = [(self.config.host, Fate::default())];
        let own_fates = self.fates.own().iter().map(|(whom, fate)| (*whom, *fate));
        let fates: BTreeMap<HostId, Fate> = of_itself.into_iter().chain(own_fates).collect();
        for (whom, fate) in fates {
            self.publish(RecordKey::Fate(whom), Some(Record::Fate(fate)));
        }
        if self.membership.drained {
            self.publish(RecordKey::Drained, Some(Record::Drained));
        }
        // Last: it says that all is there.
        self.publish_networks();
        self.publish_host();
        for ep in &own {
            self.settle_with_others(ep);
        }
        let text = match self.recovery_warning() {
            Some(text) => text,
            None => format!("found {} endpoints of this host again", own.len()),
        };
        self.notice(Notice::Recovery { stage: "found", text });
        self.fates_due = true;
    }

    /// Others may have taken over meanwhile what this endpoint has.
    fn settle_with_others(&mut self, ep: &Endpoint) {
        self.follow_own(ep.id);
        let me = self.config.host;
        let by_ip = ep.addresses.iter().flat_map(|ip| self.view.ip_claims(ep.network, *ip));
        let claims = self.view.mac_claims(ep.network, ep.mac).chain(by_ip);
        let others: Vec<(HostId, Endpoint)> =
            claims.filter(|(host, _)| *host != me).map(|(host, ep)| (host, ep.clone())).collect();
        for (host, other) in others {
            self.look_for_conflict(host, &other);
        }
    }

    /// What was left behind by endpoints that are not known.
    fn traces(&self) -> Vec<Trace> {
        let mirror = self.kernel.mirror();
        let mut traces: Vec<Trace> = Vec::new();
        let mut bridges: Vec<(IfName, Vni, NetworkId)> = Vec::new();
        for (key, object) in mirror.iter() {
            match (key, object) {
                (ObjectKey::Link(name), Object::Link(link)) => match link.kind {
                    LinkKind::Bridge => {
                        if let Some(vni) = crate::desired::vni_of(&name) {
                            bridges.push((name, vni, link.network));
                        }
                    }
                    LinkKind::Veth { .. } => {
                        let Some(id) = endpoint_of(&name) else { continue };
                        let place = self.recovery.as_ref().and_then(|r| r.homes.get(&id)).cloned();
                        // Whole as it is; only if it had to be made again this would matter.
                        let place = place.unwrap_or_else(nowhere);
                        let (network, mac) = (link.network, None);
                        traces.push(Trace { id, network, place, mac, addresses: Vec::new() });
                    }
                    LinkKind::Vxlan { .. } => {}
                },
                (ObjectKey::Port(ifname), Object::Port(port)) => {
                    let bridge = port.bridge.as_ref().and_then(|bridge| mirror.link(bridge));
                    let Some(network) = bridge.map(|bridge| bridge.network) else { continue };
                    let (index, was_up) = (port.index, port.was_up);
                    let place = Place::Device { ifname, index, was_up };
                    let (id, mac) = (port.endpoint, None);
                    traces.push(Trace { id, network, place, mac, addresses: Vec::new() });
                }
                // Links and ports sort before entries.
                (ObjectKey::VxlanFdb(..) | ObjectKey::BridgeFdb(..) | ObjectKey::Neigh(..), _) => {
                    break;
                }
                _ => {}
            }
        }
        traces.retain(|trace| !self.local.contains_key(&trace.id));
        self.read_stations(&bridges, &mut traces);
        traces
    }

    /// Fills in which MAC and addresses the kernel knows behind each port, and adds those
    /// that are behind none.
    fn read_stations(&self, bridges: &[(IfName, Vni, NetworkId)], traces: &mut Vec<Trace>) {
        let me = self.config.host;
        let mirror = self.kernel.mirror();
        let mut ports: BTreeMap<IfName, Vec<MacAddr>> = BTreeMap::new();
        let mut stations: BTreeMap<(NetworkId, MacAddr), Vec<IpAddr>> = BTreeMap::new();
        let mut placed: BTreeSet<(NetworkId, MacAddr)> = BTreeSet::new();
        for (bridge, vni, network) in bridges {
            let fdb = self.config.devices(*vni);
            let remote: BTreeSet<MacAddr> = fdb
                .flat_map(|dev| mirror.keys_on(&dev))
                .filter_map(|key| match key {
                    ObjectKey::VxlanFdb(_, mac) => Some(mac),
                    _ => None,
                })
                .collect();
            placed.extend(remote.iter().map(|mac| (*network, *mac)));
            for key in mirror.keys_on(bridge) {
                match (&key, mirror.get(&key)) {
                    (ObjectKey::BridgeFdb(_, mac), Some(Object::BridgeFdb { port, .. })) => {
                        placed.insert((*network, *mac));
                        ports.entry(port).or_default().push(*mac);
                    }
                    (ObjectKey::Neigh(_, ip), Some(Object::Neigh { mac })) => {
                        stations.entry((*network, mac)).or_default().push(*ip);
                    }
                    _ => {}
                }
            }
        }
        // A container that has gone left its port's rules behind, and no static endpoint.
        for (key, object) in mirror.iter() {
            match (key, object) {
                (ObjectKey::Guard(_), Object::Guard(guard)) => {
                    placed.extend(bridges.iter().map(|(.., network)| (*network, guard.mac)));
                }
                (ObjectKey::VxlanFdb(..), _) => break,
                _ => {}
            }
        }
        for trace in traces.iter_mut() {
            let port = match &trace.place {
                Place::Device { ifname, .. } => ifname.clone(),
                _ => trace.id.ifname(),
            };
            if let Some(Object::Guard(guard)) = mirror.get(&ObjectKey::Guard(port.clone())) {
                let Guard { mac, addresses, .. } = *guard;
                // It has moved away: no station has this MAC.
                if mac != MacAddr::ZERO {
                    (trace.mac, trace.addresses) = (Some(mac), addresses.into_iter().collect());
                }
            } else if let Some([mac]) = ports.get(&port).map(Vec::as_slice) {
                let ips = stations.get(&(trace.network, *mac)).cloned();
                (trace.mac, trace.addresses) = (Some(*mac), ips.unwrap_or_default());
            }
        }
        let here: BTreeSet<MacAddr> = self
            .local
            .values()
            .map(|local| local.local.endpoint.mac)
            .chain(traces.iter().filter_map(|trace| trace.mac))
            .collect();
        let lives: Vec<&Former> = self.recovery.iter().flat_map(Recovery::lives).collect();
        let mut known: BTreeMap<(NetworkId, MacAddr), EndpointId> = BTreeMap::new();
        for ep in lives.iter().flat_map(|former| former.endpoints.values()) {
            known.insert((ep.network, ep.mac), ep.id);
        }
        for ((network, mac), addresses) in stations {
            let claimed = self.view.mac_claims(network, mac).any(|(host, _)| host != me)
                || addresses.iter().any(|ip| self.view.ip_claims(network, *ip).next().is_some());
            if placed.contains(&(network, mac)) || here.contains(&mac) || claimed {
                continue;
            }
            let id = known.get(&(network, mac)).copied().unwrap_or_else(|| {
                let mut hash = Fnv::default();
                hash.add(me.0.as_bytes());
                hash.add(&network.0.to_be_bytes());
                hash.add(&mac.0);
                EndpointId::from_bits(hash.get())
            });
            let (place, mac) = (Place::Static, Some(mac));
            traces.push(Trace { id, network, place, mac, addresses });
        }
    }

    /// The endpoint that a trace is of; `None` if that cannot be told, or it has moved away.
    fn identify(&self, trace: &Trace, record: Option<Endpoint>) -> Option<Endpoint> {
        let me = self.config.host;
        let net = self.networks.get(trace.network)?;
        if self.kernel_says_moved(trace) {
            return None;
        }
        // What the station may say was written last.
        if let Some(record) = record.filter(|ep| trace.mac.is_none_or(|mac| mac == ep.mac)) {
            return Some(record);
        }
        let mac = trace.mac?;
        let is_gateway = |ip: &IpAddr| gateways(net).any(|gateway| gateway.addr() == *ip);
        let of = |ip: &&IpAddr| net.subnets.iter().any(|s| s.cidr.contains(*ip));
        let mut addresses: Vec<IpAddr> =
            trace.addresses.iter().filter(of).filter(|ip| !is_gateway(ip)).copied().collect();
        addresses.sort_by_key(|ip| net.subnets.iter().position(|s| s.cidr.contains(ip)));
        addresses.dedup_by_key(|ip| Family::of(ip));
        // Who claims it now has a sequence, and this one has none.
        let elsewhere = self.view.mac_claims(net.id, mac).any(|(host, _)| host != me)
            || addresses.iter().any(|ip| self.view.ip_claims(net.id, *ip).any(|(h, _)| h != me));
        if addresses.is_empty() || elsewhere {
            return None;
        }
        Some(Endpoint {
            id: trace.id,
            network: net.id,
            name: None,
            aliases: BTreeSet::new(),
            mac,
            addresses,
            labels: BTreeMap::new(),
            ports: Vec::new(),
            move_seq: 0,
            attached_ms: self.now.wall_ms,
        })
    }

    fn kernel_says_moved(&self, trace: &Trace) -> bool {
        let port = match &trace.place {
            Place::Device { ifname, .. } => ifname.clone(),
            _ => trace.id.ifname(),
        };
        matches!(
            self.kernel.mirror().get(&ObjectKey::Guard(port)),
            Some(Object::Guard(guard)) if guard.mac == MacAddr::ZERO
        )
    }

    // ----- what it may do meanwhile ----------------------------------------

    /// Hosts that may have been given something by the former life, and have not been heard.
    pub(crate) fn unheard(&self) -> BTreeSet<HostId> {
        let me = self.config.host;
        let owners = self.pools.values().flat_map(|pool| pool.tokens().values().map(|t| t.owner));
        let all: BTreeSet<HostId> = owners
            .chain(self.fates.members().iter().copied())
            .chain(self.fates.named())
            .chain(self.view.hosts().map(|(id, ..)| id))
            .filter(|host| *host != me && *host != HostId::NOBODY)
            .collect();
        let is_unheard = |host: &HostId| {
            let spoken = self.view.host(*host).is_some();
            let up = self.view.presence(*host).is_some_and(|p| p.state == HostState::Up);
            let gone = self.seen(*host) == Seen::Left || self.fates.is_no_more(*host);
            !(gone || (up && spoken))
        };
        all.into_iter().filter(is_unheard).collect()
    }

    /// All hosts have been heard: what is known is all there is.
    pub(crate) fn end_recovery(&mut self) {
        let Some(recovery) = &self.recovery else { return };
        let nobody = self.view.hosts().next().is_none();
        // The others are given some time to say whom they know.
        if recovery.is_unsaid()
            || self.now.mono < recovery.said_at + SETTLE
            || !recovery.unknown.is_empty()
            || nobody
            || !self.unheard().is_empty()
        {
            return;
        }
        self.recovery = None;
        let me = self.config.host;
        let mut changes = vec![StateChange::Recovered];
        let mut cut = Vec::new();
        for ((net, family), pool) in &mut self.pools {
            for (offset, token) in pool.cut_own(me) {
                changes.push(StateChange::Ring(*net, *family, offset, token));
                cut.push((RecordKey::Ring(*net, *family, offset), token));
            }
        }
        self.ring_changes += 1;
        self.persist(changes, After::Nothing);
        for (key, token) in cut {
            self.publish(key, Some(Record::Ring(token)));
        }
        if !self.fates.own().contains_key(&me) {
            self.publish(RecordKey::Fate(me), None);
        }
        let text = "every host has been heard: addresses are given out again".to_owned();
        self.notice(Notice::Recovery { stage: "over", text });
        // What has moved away meanwhile takes its address along.
        let own: Vec<_> = self
            .pools
            .iter()
            .flat_map(|((net, _), pool)| {
                let own = pool.tokens_of(me).into_iter();
                own.map(|(at, token)| (*net, pool.bounds(at, token))).collect::<Vec<_>>()
            })
            .collect();
        for (net, (first, last)) in own {
            self.pass_on(net, first, last);
        }
    }

    /// True if this host may have given away more of `net` than it knows.
    pub(crate) fn may_have_given_of(&self, net: NetworkId) -> bool {
        // What was founded since was not given away before.
        let is_new = |at_ms: u64| {
            let net = self.networks.get(net).map(|net| net.created);
            net.is_some_and(|at| at.host == self.config.host && at.wall_ms > at_ms)
        };
        self.recovery.as_ref().is_some_and(|recovery| !is_new(recovery.at_ms))
    }

    /// Why this host gives no address of `net` out, besides [`Engine::may_give_out`].
    pub(crate) fn may_give_out_on(&self, net: NetworkId) -> Result<(), Refused> {
        self.may_give_out()?;
        if self.once.is_settling(net) {
            let message = "the network is just being created".to_owned();
            return Err(Refused::new(ErrorKind::Unavailable, message).hint("try again in a moment"));
        }
        let Some(recovery) = self.recovery.as_ref().filter(|_| self.may_have_given_of(net)) else {
            return Ok(());
        };
        let refused = |message: String| Refused::new(ErrorKind::Unavailable, message);
        let unheard = self.unheard();
        let somebody = self.view.hosts().next().is_some();
        if recovery.is_unsaid() || (somebody && unheard.is_empty()) {
            return Err(refused(
                "this host has lost its state file, and is hearing the others about what it had"
                    .to_owned(),
            )
            .hint("try again in a moment; if it stays so, see: overlayctl status"));
        }
        let unheard: Vec<String> = unheard.iter().map(|host| self.host_name(*host)).collect();
        if unheard.is_empty() {
            return Err(refused(
                "this host has lost its state file, and nobody is there who could tell which \
                 addresses it gave away"
                    .to_owned(),
            )
            .hint("start another host of the cluster"));
        }
        Err(refused(format!(
            "this host has lost its state file, and may have given addresses to hosts that are \
             away since: {}",
            unheard.join(", ")
        ))
        .hint(
            "when they are back it goes on; if they are gone for good: overlayctl host forget \
             HOST --dead",
        ))
    }

    /// What an operator should know of it.
    pub(crate) fn recovery_warning(&self) -> Option<String> {
        let recovery = self.recovery.as_ref()?;
        let mut unknown = recovery.unknown.clone();
        if recovery.is_unsaid() {
            let traces = self.traces();
            unknown.extend(traces.iter().map(|trace| trace.network));
            unknown.retain(|net| self.networks.all().all(|known| known.id != *net));
        }
        if !unknown.is_empty() {
            let nets: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            return Some(format!(
                "this host has lost its state file, and nobody has told of network {} yet: its \
                 containers here go on, and cannot be changed; start a host that has it, or remove \
                 what is left with: overlayd teardown",
                nets.join(", ")
            ));
        }
        if recovery.is_unsaid() {
            return Some(
                "this host has lost its state file, and is looking for what it had".into(),
            );
        }
        let fenced = self.networks.iter().find_map(|net| self.may_give_out_on(net.id).err());
        fenced.map(|refused| refused.message)
    }

    /// The network that something in the kernel belongs to which has this VNI, and that
    /// nobody has told of.
    pub(crate) fn stranded(&self, vni: Vni) -> Option<NetworkId> {
        self.recovery.as_ref()?;
        let there = self.kernel.mirror().link(&vni.bridge())?.network;
        self.networks.all().all(|net| net.id != there).then_some(there)
    }
}

/// The place of a container whose namespace is not found: it is there all the same.
fn nowhere() -> Place {
    Place::Netns {
        netns: NetnsRef { path: "(unknown)".into(), cookie: 0 },
        ifname: IfName::new("eth0").expect("a name"),
        no_dns: false,
        default_route: true,
    }
}

#[cfg(test)]
mod tests;
