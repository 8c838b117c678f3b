//! What requests that only look are answered with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use overlay_model::mtu::fits;
use overlay_model::{
    Endpoint, EndpointId, Host, HostId, HostKeys, IfName, Name, Network, NetworkId, Object,
    ObjectKey,
};
use serde::{Deserialize, Serialize};

use crate::cluster_view::{HostState, Presence};
use crate::desired::vni_of;
use crate::endpoints::Phase;
use crate::engine::Engine;
use crate::event::{ErrorKind, Place, Refused, doubled_text, fight_text, host_text};
use crate::kept::Kept;
use crate::moves::{FrozenView, Moved, frozen_text};
use crate::plan::Completeness;
use crate::repairs::{Contest, Repair};

/// A network, with what is known about its use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkView {
    /// The definition.
    pub network: Network,
    /// Name of the creator, or its id.
    pub created_by: String,
    /// Endpoints on all hosts.
    pub endpoints: usize,
    /// Endpoints on this host.
    pub local_endpoints: usize,
    /// Why it is not programmed.
    pub conflict: Option<String>,
    /// What this host keeps for names on it, attached or not.
    pub kept: Vec<Kept>,
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum EndpointState {
    /// In the kernel.
    Ready,
    /// On its way into the kernel.
    Pending,
    /// The kernel refused.
    Failed(String),
    /// Its host is down beyond the grace.
    HostDown,
    /// Its host and this one have no address family in common.
    Unreachable(String),
    /// Another endpoint holds its MAC or address, or another network its VNI.
    Conflict(String),
    /// It is on another host now, and what is left of it here is cut off.
    Moved(String),
    /// Its namespace is gone, since then (milliseconds since 1970), and it will be
    /// released.
    Gone(u64, String),
}

/// An endpoint, here or elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointView {
    /// What its host publishes of it.
    pub endpoint: Endpoint,
    /// Its network, if known.
    pub network: Option<Network>,
    /// Addresses with prefix lengths.
    pub ips: Vec<IpNet>,
    /// Name of its host, or its id.
    pub host: String,
    /// It is here.
    pub local: bool,
    /// Where its frames go.
    pub vtep: Option<IpAddr>,
    /// How it is.
    pub state: EndpointState,
    /// What it stands behind, when local.
    pub place: Option<Place>,
    /// Its addresses stay with its name when it is detached; known of local ones.
    pub kept: bool,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostView {
    /// Identity.
    pub id: HostId,
    /// Its record, if it has arrived.
    pub host: Option<Host>,
    /// This host.
    pub local: bool,
    /// Its state.
    pub state: HostState,
    /// For how long.
    pub since: Duration,
    /// Its endpoints are in the kernel.
    pub in_use: bool,
    /// It takes no new endpoint.
    pub drained: bool,
    /// How many endpoints it says it has.
    pub endpoints: usize,
    /// Which life of it.
    pub incarnation: u64,
    /// Which cluster keys it says that it has.
    pub keys: HostKeys,
    /// What an operator should know of it.
    pub notes: Vec<String>,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusView {
    /// This host.
    pub host: HostView,
    /// Since the start.
    pub uptime: Duration,
    /// Hosts by state, this one among them.
    pub hosts: BTreeMap<&'static str, usize>,
    /// Networks known.
    pub networks: usize,
    /// Endpoints known.
    pub endpoints: usize,
    /// Of these, here.
    pub local_endpoints: usize,
    /// Stale things may be deleted.
    pub view_complete: bool,
    /// How often the desired state has changed.
    pub desired_revision: u64,
    /// The revision that the kernel holds.
    pub applied_revision: u64,
    /// Things the kernel should hold.
    pub desired_objects: usize,
    /// Keys that wait or are under way.
    pub pending: usize,
    /// What is not as it should be and not refused either, the first twenty.
    pub waiting: Vec<PendingView>,
    /// What the kernel refused.
    pub failed: Vec<FailedView>,
    /// What was put back last, and how long ago.
    pub repairs: Vec<(Duration, Repair)>,
    /// What another hand will not leave alone.
    pub fights: Vec<Contest>,
    /// What moved too often, and stays where it is.
    pub frozen: Vec<FrozenView>,
    /// Counters.
    pub counters: BTreeMap<String, u64>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// An object that is on its way into the kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PendingView {
    /// What, for people.
    pub object: String,
    /// What it waits for.
    pub why: String,
    /// For how long, if that is known.
    pub since: Option<Duration>,
}

/// An object that the kernel refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedView {
    /// As an operator would type it.
    pub command: String,
    /// Why.
    pub reason: String,
    /// For how long.
    pub since: Duration,
    /// How often it was tried.
    pub attempts: u32,
}

/// A table that entries are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// FDB of a VXLAN device.
    Vxlan,
    /// FDB of a bridge.
    Bridge,
    /// Broadcast list of a VXLAN device.
    Flood,
    /// Neighbours of a bridge.
    Neigh,
}

/// One entry, as it should be and as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntryView {
    /// Its network, if known.
    pub network: Option<Name>,
    /// The device.
    pub dev: IfName,
    /// The table.
    pub table: Table,
    /// MAC, or address of a neighbour or VTEP.
    pub key: String,
    /// As it should be.
    pub desired: Option<String>,
    /// As it is.
    pub kernel: Option<String>,
    /// The endpoint that it serves.
    pub endpoint: Option<String>,
    /// The host that it leads to.
    pub host: Option<String>,
}

/// What would be done now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanView {
    /// The desired state that it leads to.
    pub revision: u64,
    /// Stale things may be deleted.
    pub view_complete: bool,
    /// As an operator would type them.
    pub commands: Vec<String>,
}

fn table_of(key: &ObjectKey) -> Option<(Table, &IfName, String)> {
    match key {
        ObjectKey::VxlanFdb(dev, mac) => Some((Table::Vxlan, dev, mac.to_string())),
        ObjectKey::BridgeFdb(dev, mac) => Some((Table::Bridge, dev, mac.to_string())),
        ObjectKey::Flood(dev, ip) => Some((Table::Flood, dev, ip.to_string())),
        ObjectKey::Neigh(dev, ip) => Some((Table::Neigh, dev, ip.to_string())),
        ObjectKey::Firewall
        | ObjectKey::PortRules
        | ObjectKey::Nat
        | ObjectKey::Guard(_)
        | ObjectKey::Link(_)
        | ObjectKey::Port(_)
        | ObjectKey::Address(..) => None,
    }
}

fn value_of(key: &ObjectKey, object: &Object) -> String {
    match (key, object) {
        (ObjectKey::Flood(_, vtep), _) => vtep.to_string(),
        (_, Object::VxlanFdb { dst }) => dst.to_string(),
        (_, Object::BridgeFdb { port, .. }) => port.to_string(),
        (_, Object::Neigh { mac }) => mac.to_string(),
        (
            _,
            Object::Link(_)
            | Object::Port(_)
            | Object::Address
            | Object::Flood
            | Object::Firewall(_)
            | Object::PortRules { .. }
            | Object::Nat(_)
            | Object::Guard(_),
        ) => String::new(),
    }
}

impl Engine {
    pub(crate) fn host_name(&self, id: HostId) -> String {
        if id == self.config.host {
            return self.config.name.to_string();
        }
        host_text(id, self.view.host_name(id))
    }

    pub(crate) fn network_view(&self, net: &Network) -> NetworkView {
        let everywhere = self.view.remote_endpoints().filter(|(_, _, ep)| ep.network == net.id);
        let here = self.locals_on(net.id);
        NetworkView {
            network: net.clone(),
            created_by: self.host_name(net.created.host),
            endpoints: everywhere.count() + here,
            local_endpoints: here,
            conflict: self.networks.conflict(net.id).map(str::to_owned),
            kept: self.kept.on(net.id).cloned().collect(),
        }
    }

    pub(crate) fn network_views(&self) -> Vec<NetworkView> {
        let mut views: Vec<_> = self.networks.iter().map(|net| self.network_view(net)).collect();
        views.sort_by(|a, b| {
            (&a.network.name, a.network.created).cmp(&(&b.network.name, b.network.created))
        });
        views
    }

    pub(crate) fn find_network(&self, text: &str) -> Result<&Network, Refused> {
        self.networks.find(text).ok_or_else(|| {
            let names: BTreeSet<&str> = self.networks.iter().map(|n| n.name.as_str()).collect();
            let known = if names.is_empty() {
                "there is none yet; create one with: overlayctl net create".to_owned()
            } else {
                format!("known: {}", names.into_iter().collect::<Vec<_>>().join(", "))
            };
            Refused::new(ErrorKind::NotFound, format!("no network `{text}`")).hint(known)
        })
    }

    pub(crate) fn local_view(&self, id: EndpointId) -> Option<EndpointView> {
        let local = self.local.get(&id)?;
        let ep = &local.local.endpoint;
        let failure = local.local.port_key().and_then(|key| self.kernel.failures().get(&key));
        let state = match failure {
            Some(failure) => EndpointState::Failed(failure.text.clone()),
            None if local.phase != Phase::Ready => EndpointState::Pending,
            None if self.gone.contains_key(&id) => {
                let gone = &self.gone[&id];
                let s = self.released_in(gone).as_secs();
                let why = format!("its network namespace is gone; it is released in {s} s");
                EndpointState::Gone(gone.since_ms, why)
            }
            None => match (local.local.moved, self.lost(self.config.host, ep)) {
                (Some(Moved { to, seq }), _) => {
                    let to = self.host_name(to);
                    EndpointState::Moved(format!("it has moved to host {to} (move {seq})"))
                }
                (None, Some(why)) => EndpointState::Conflict(why),
                (None, None) => EndpointState::Ready,
            },
        };
        let place = Some(local.local.place.clone());
        Some(EndpointView { place, state, ..self.endpoint_view(self.config.host, ep) })
    }

    fn endpoint_view(&self, host: HostId, ep: &Endpoint) -> EndpointView {
        let network = self.networks.get(ep.network).cloned();
        let local = host == self.config.host;
        let prefix = |ip: &IpAddr| {
            let subnets = network.as_ref().map(|n| n.subnets.as_slice()).unwrap_or_default();
            let len = subnets.iter().find(|s| s.cidr.contains(ip)).map(|s| s.cidr.prefix_len());
            IpNet::new(*ip, len.unwrap_or(if ip.is_ipv4() { 32 } else { 128 })).ok()
        };
        EndpointView {
            endpoint: ep.clone(),
            ips: ep.addresses.iter().filter_map(prefix).collect(),
            network,
            host: self.host_name(host),
            local,
            vtep: if local { Some(self.config.vtep()) } else { self.vtep_of(host) },
            state: EndpointState::Ready,
            place: None,
            kept: local && self.is_kept(ep),
        }
    }

    /// Why an endpoint's entries are another's.
    fn lost(&self, host: HostId, ep: &Endpoint) -> Option<String> {
        if let Some(why) = self.networks.conflict(ep.network) {
            return Some(why.to_owned());
        }
        let other = |winner: Option<(HostId, &Endpoint)>| {
            winner.filter(|(h, e)| (*h, e.id) != (host, ep.id)).map(|(h, _)| self.host_name(h))
        };
        if let Some(host) = other(self.view.mac_winner(ep.network, ep.mac)) {
            return Some(format!("{} is held by an endpoint on host {host}", ep.mac));
        }
        ep.addresses.iter().find_map(|ip| {
            let host = other(self.view.ip_winner(ep.network, *ip))?;
            Some(format!("{ip} is held by an endpoint on host {host}"))
        })
    }

    pub(crate) fn endpoint_views(
        &self,
        net: Option<NetworkId>,
        local_only: bool,
        wanted: impl Fn(&Endpoint) -> bool,
    ) -> Vec<EndpointView> {
        let local = self.local.iter().filter(|(_, local)| wanted(&local.local.endpoint));
        let mut views: Vec<EndpointView> =
            local.filter_map(|(id, _)| self.local_view(*id)).collect();
        if !local_only {
            let remote = self.view.remote_endpoints().filter(|(_, _, ep)| wanted(ep));
            views.extend(remote.map(|(host, presence, ep)| {
                let state = if !presence.in_use {
                    EndpointState::HostDown
                } else if let Some(why) = self.lost(host, ep) {
                    EndpointState::Conflict(why)
                } else {
                    let why = self.apart_note(host).map(|why| format!("its host has {why}"));
                    why.map_or(EndpointState::Ready, EndpointState::Unreachable)
                };
                EndpointView { state, ..self.endpoint_view(host, ep) }
            }));
        }
        // A host that is away has not heard yet that its endpoints are gone.
        views.retain(|v| !self.networks.is_removed(v.endpoint.network));
        views.retain(|v| net.is_none_or(|net| v.endpoint.network == net));
        views.sort_by(|a, b| {
            fn key(v: &EndpointView) -> impl Ord + '_ {
                let net = v.network.as_ref().map(|n| &n.name);
                (net, &v.host, &v.endpoint.name, v.endpoint.id)
            }
            key(a).cmp(&key(b))
        });
        views
    }

    pub(crate) fn own_view(&self) -> HostView {
        HostView {
            id: self.config.host,
            host: Some(self.own_host()),
            local: true,
            state: HostState::Up,
            since: self.now.mono.saturating_sub(self.started),
            in_use: true,
            drained: self.membership.drained,
            endpoints: self.local.len(),
            incarnation: self.config.incarnation,
            keys: self.config.keys.clone(),
            notes: self.notes_on(self.config.host),
        }
    }

    pub(crate) fn host_views(&self) -> Vec<HostView> {
        let mut views: Vec<HostView> = self
            .view
            .hosts()
            .map(|(id, Presence { state, since, in_use }, incarnation, host)| HostView {
                id,
                host: host.cloned(),
                local: false,
                state,
                since: self.now.mono.saturating_sub(since),
                in_use,
                drained: self.view.is_drained(id),
                endpoints: self.view.count_of(id),
                incarnation,
                keys: self.view.keys_of(id).cloned().unwrap_or_default(),
                notes: self.notes_on(id),
            })
            .collect();
        let name = |v: &HostView| v.host.as_ref().map(|h| h.name.clone());
        views.sort_by_key(|v| (name(v), v.id));
        views.insert(0, self.own_view());
        views
    }

    pub(crate) fn status_view(&self) -> StatusView {
        let hosts = self.host_views();
        let mut by_state = BTreeMap::new();
        for host in &hosts {
            *by_state.entry(host.state.as_str()).or_default() += 1;
        }
        let (desired_objects, waiting) = self.waiting_views();
        let failed: Vec<FailedView> = self
            .kernel
            .failures()
            .values()
            .map(|f| FailedView {
                command: f.command.clone(),
                reason: f.text.clone(),
                since: self.now.mono.saturating_sub(f.since),
                attempts: f.attempts,
            })
            .collect();
        StatusView {
            host: self.own_view(),
            uptime: self.now.mono.saturating_sub(self.started),
            hosts: by_state,
            networks: self.networks.iter().count(),
            endpoints: self.local.len() + self.view.remote_count(),
            local_endpoints: self.local.len(),
            view_complete: self.completeness == Completeness::Complete,
            desired_revision: self.revision,
            applied_revision: self.applied_revision,
            desired_objects,
            pending: self.kernel.pending(),
            waiting,
            failed,
            repairs: self
                .kernel
                .repairs
                .last
                .iter()
                .map(|(at, repair)| (self.now.mono.saturating_sub(*at), repair.clone()))
                .collect(),
            fights: self
                .kernel
                .repairs
                .fights()
                .map(|fight| Contest {
                    since: self.now.mono.saturating_sub(fight.since),
                    until: fight.until.map(|until| until.saturating_sub(self.now.mono)),
                    ..fight
                })
                .collect(),
            frozen: self.frozen_views(),
            counters: self.counters(),
            warnings: self.warnings(),
        }
    }

    /// How many objects are wanted, and those that are not there and not
    /// refused, with the reason.
    fn waiting_views(&self) -> (usize, Vec<PendingView>) {
        const SHOWN: usize = 20;
        if self.is_at_rest() {
            // Then the kernel holds what is wanted and nothing else of ours: of a hundred
            // thousand endpoints, going through all that is wanted takes 180 ms.
            return (self.kernel.mirror().len(), Vec::new());
        }
        let mut views = Vec::new();
        let ago = |at: Duration| Some(self.now.mono.saturating_sub(at));
        let mut say = |key: &ObjectKey, why: String, since: Option<Duration>| {
            if views.len() < SHOWN {
                views.push(PendingView { object: key.to_string(), why, since });
            }
        };
        let mut known: BTreeSet<&ObjectKey> = self.kernel.failures().keys().collect();
        for (key, since) in self.kernel.under_way() {
            say(key, "is being written".into(), ago(since));
            known.insert(key);
        }
        for (key, since) in self.kernel.waiting() {
            say(key, "waits for what is being written".into(), ago(since));
            known.insert(key);
        }
        let mut networks = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for net in self.used_networks() {
            networks.insert(net.id);
            for key in self.wanted_keys(net) {
                // One firewall serves all networks, and so do the rules of ports.
                let shared =
                    matches!(key, ObjectKey::Firewall | ObjectKey::PortRules | ObjectKey::Nat);
                if shared && !seen.insert(key.clone()) {
                    continue;
                }
                let Some(want) = self.want(&key) else { continue };
                count += 1;
                if self.kernel.mirror().contains_key(&key) || known.contains(&key) {
                    continue;
                }
                let mut needs: Vec<&IfName> = key.stands_on().into_iter().collect();
                if let Object::BridgeFdb { port, .. } = &want {
                    needs.push(port);
                }
                let lacks = needs.into_iter().find(|dev| self.kernel.mirror().link(dev).is_none());
                match lacks {
                    _ if self.kernel.repairs.is_held(&key) => {
                        say(&key, "is fought over, and left alone for a while".into(), None);
                    }
                    Some(dev) => {
                        let failure = self.kernel.failures().get(&ObjectKey::Link(dev.clone()));
                        say(&key, format!("waits for {dev}"), failure.and_then(|f| ago(f.since)));
                    }
                    None => say(&key, "will be written".into(), None),
                }
            }
        }
        (count, views)
    }

    /// All that is wanted is in the kernel, and nothing stale is left there.
    fn is_at_rest(&self) -> bool {
        self.completeness == Completeness::Complete
            && self.kernel.is_idle()
            && self.applied_revision == self.revision
            && !self.kernel.is_checking()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let kernel = &self.kernel;
        let refused = kernel.refused.iter().map(|(why, n)| (format!("kernel_refused_{why}"), *n));
        let others = [
            ("kernel_writes", kernel.written),
            ("kernel_refusals", kernel.refused.values().sum()),
            ("kernel_repairs", kernel.repairs.repaired),
            ("kernel_fights", kernel.repairs.contests),
            ("kernel_overruns", kernel.overruns),
            ("kernel_checks", kernel.checks),
            ("plans", kernel.plans),
            ("moves", self.moves.seen),
            ("moves_frozen", self.moves.frozen),
        ];
        others.into_iter().map(|(name, n)| (name.to_owned(), n)).chain(refused).collect()
    }

    /// What an operator should know of a host.
    fn notes_on(&self, id: HostId) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(addrs) = self.doubled.get(&id) {
            let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            notes.push(format!("{} machines claim to be it: {}", addrs.len(), addrs.join(" and ")));
        }
        // The name is not the first one's own either.
        let name =
            if id == self.config.host { Some(&self.config.name) } else { self.view.host_name(id) };
        if let Some(name) = name
            && self.namesakes.keys().any(|(n, _)| n == name)
        {
            notes.push(format!("not the only host called {name}"));
        }
        notes.extend(self.apart_note(id));
        notes
    }

    fn warnings(&self) -> Vec<String> {
        let mut list = Vec::new();
        if let Some(why) = &self.underlay_lost {
            list.push(format!("the VTEP address {} is gone: {why}", self.config.vtep()));
        }
        list.extend(self.kernel.repairs.fights().map(|fight| fight_text(&fight)));
        list.extend(self.frozen_views().iter().map(frozen_text));
        list.extend(self.recovery_warning());
        list.extend(self.crowd_warnings());
        for (id, addrs) in &self.doubled {
            list.push(doubled_text(&self.host_name(*id), *id, addrs, &self.config.state_dir));
        }
        for ((name, _), [a, b]) in &self.namesakes {
            list.push(format!(
                "two hosts are called {name}, {a} and {b}: give each its own --name"
            ));
        }
        for net in self.networks.iter() {
            if let Some(why) = self.networks.conflict(net.id) {
                let cut_off = match self.locals_on(net.id) {
                    0 => String::new(),
                    1 => ", and its endpoint on this host cut off".to_owned(),
                    n => format!(", and its {n} endpoints on this host cut off"),
                };
                list.push(format!(
                    "network {} ({}) is not programmed{cut_off}: {why}; remove one of them",
                    net.name, net.id
                ));
            }
        }
        if let ([vtep], true) = (self.config.vteps.as_slice(), self.had_both) {
            let other = if vtep.is_ipv4() { "IPv6" } else { "IPv4" };
            list.push(format!(
                "the {other} VTEP address of this host is gone: {vtep} is used for all hosts, and \
                 those with {other} only are out of reach"
            ));
        }
        for net in self.used_networks() {
            let underlay = self.config.underlay_mtu;
            let own = fits(net.mtu, underlay, &self.config.vtep());
            if let Err(small) = own {
                list.push(format!("network {}: {small} ({})", net.name, self.config.underlay_dev));
            }
            for id in self.view.users_of(net.id) {
                let (Some(host), Some(way)) = (self.view.host(id), self.vtep_of(id)) else {
                    continue;
                };
                if let Err(small) = fits(net.mtu, host.underlay_mtu, &way) {
                    list.push(format!("network {} on host {}: {small}", net.name, host.name));
                }
                // What fits between others need not fit the larger header of this pair.
                if let (Ok(()), Err(small)) = (own, fits(net.mtu, underlay, &way)) {
                    let (net, host) = (&net.name, &host.name);
                    list.push(format!("network {net} to host {host} ({way}): {small}"));
                }
            }
        }
        for (id, presence, _, host) in self.view.hosts() {
            // Who has left, or is another now, leaves its record behind.
            let Some(host) = host.filter(|_| presence.state != HostState::Left) else { continue };
            if host.vxlan_port != self.config.vxlan_port {
                list.push(format!(
                    "host {} receives VXLAN on UDP port {}, this one on {}: give all hosts one \
                     --vxlan-port",
                    host.name, host.vxlan_port, self.config.vxlan_port
                ));
            }
            if let Some(why) = self.apart(id) {
                list.push(format!("host {} cannot be reached: {why}", host.name));
            }
            for vtep in self.config.vteps.iter().filter(|vtep| host.vteps.contains(vtep)) {
                list.push(format!(
                    "host {} announces this host's VTEP address {vtep}: give each its own --vtep-ip",
                    host.name,
                ));
            }
        }
        list
    }

    pub(crate) fn entry_views(&self, tables: &[Table], net: Option<&Network>) -> Vec<EntryView> {
        let wanted = self.used_networks().flat_map(|net| self.wanted_keys(net));
        let mut keys: BTreeSet<ObjectKey> = wanted.collect();
        keys.extend(self.kernel.mirror().keys());
        keys.into_iter()
            .filter_map(|key| {
                let (table, dev, text) = table_of(&key)?;
                let network = vni_of(dev).and_then(|vni| self.networks.programmed(vni));
                let asked = net.is_none_or(|net| network.is_some_and(|n| n.id == net.id));
                if !tables.contains(&table) || !asked {
                    return None;
                }
                let desired = self.want(&key).map(|o| value_of(&key, &o));
                let kernel = self.kernel.mirror().get(&key).map(|o| value_of(&key, &o));
                if desired.is_none() && kernel.is_none() {
                    return None;
                }
                let serves = network.and_then(|n| match &key {
                    ObjectKey::VxlanFdb(_, mac) | ObjectKey::BridgeFdb(_, mac) => {
                        self.view.mac_winner(n.id, *mac)
                    }
                    ObjectKey::Neigh(_, ip) => self.view.ip_winner(n.id, *ip),
                    _ => None,
                });
                let host = match &key {
                    ObjectKey::Flood(_, vtep) => self
                        .view
                        .hosts()
                        .find(|(_, _, _, h)| h.is_some_and(|h| h.vteps.contains(vtep)))
                        .map(|(id, ..)| self.host_name(id)),
                    _ => serves.map(|(host, _)| self.host_name(host)),
                };
                let endpoint = serves.map(|(_, ep)| {
                    ep.name.as_ref().map_or_else(|| ep.id.to_string(), ToString::to_string)
                });
                Some(EntryView {
                    network: network.map(|n| n.name.clone()),
                    dev: dev.clone(),
                    table,
                    key: text,
                    desired,
                    kernel,
                    endpoint,
                    host,
                })
            })
            .collect()
    }

    pub(crate) fn plan_view(&self) -> PlanView {
        let keys = self.all_keys();
        let ops = self.plan_of(keys);
        PlanView {
            revision: self.revision,
            view_complete: self.completeness == Completeness::Complete,
            commands: ops.iter().map(ToString::to_string).collect(),
        }
    }
}
