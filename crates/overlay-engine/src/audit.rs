//! What people are shown of addresses, and the audit of all that must hold of
//! them: `overlayctl ipam`.
//!
//! Of other hosts this one knows what they publish: who owns which range, and
//! which endpoints there are. What is leased there is counted from that; an
//! endpoint whose record is on its way is missing for a moment, and an audit that
//! is made in that moment may say so.
//!
//! A repair does what is safe whoever is right: it gives back what no endpoint of
//! this host has, notes what one has, gives the range of an address to the host
//! that it has moved to, and has the kernel put right. Whatever takes something
//! from somebody is left to people, and the finding says how.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use overlay_model::{Endpoint, Family, HostId, KernelOp, Name, Network, NetworkId, ObjectKey};
use serde::Serialize;

use crate::cluster_view::HostState;

use crate::endpoints::{Phase, chosen_from, host_text_of};
use crate::engine::Engine;
use crate::event::{ErrorKind, Notice, Refused, Reply, Token};
use crate::ipam::{Pool, Segment};
use crate::plan::Completeness;
use crate::reconcile::Cause;

/// How long after a change it is looked whether addresses run out: many changes
/// are one look.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A subnet, and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubnetView {
    /// Its network.
    pub net: Name,
    /// Network address and prefix length.
    pub cidr: IpNet,
    /// How many addresses can be leased at all.
    pub capacity: u128,
    /// How many endpoints have, on all hosts, as far as is known here.
    pub leased: usize,
    /// How many endpoints of this host have.
    pub leased_here: usize,
    /// How many could be leased by this host or one that it can reach.
    pub free: u128,
    /// How many this host could lease now, asking nobody.
    pub free_here: u128,
    /// How many hosts own some.
    pub owners: usize,
    /// How many are free, but in ranges of hosts that cannot be reached.
    pub unreachable: u128,
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RangeView {
    /// Its first address.
    pub first: IpAddr,
    /// Its last one.
    pub last: IpAddr,
    /// Name of its owner, or its id; none if nobody is known to own it.
    pub owner: Option<String>,
    /// This host owns it.
    pub local: bool,
    /// State of the owner, as in the list of hosts; `unknown` if it is not there.
    pub state: &'static str,
    /// How often who owns it has changed.
    pub version: u64,
    /// How many of its addresses can be leased at all.
    pub addresses: u128,
    /// How many endpoints have, on any host.
    pub leased: usize,
}

/// An address that an endpoint has on a host that does not own it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AbroadView {
    /// Which.
    pub ip: IpAddr,
    /// Name of the endpoint, or its id.
    pub endpoint: String,
    /// Name of its host, or its id.
    pub host: String,
    /// Who owns the address, if anybody is known to.
    pub owner: Option<String>,
}

/// A subnet with all that is known of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RangesView {
    /// The sums.
    pub subnet: SubnetView,
    /// From the first address to the last, without a gap.
    pub ranges: Vec<RangeView>,
    /// What this host does not give out yet: somebody may have it, of whom it has
    /// not heard since its start.
    pub held: Vec<IpAddr>,
    /// Endpoints that have moved, and whose range has not come after them.
    pub abroad: Vec<AbroadView>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which kind, for code.
    pub kind: &'static str,
    /// Its network.
    pub net: Name,
    /// What is wrong, and what to do: one line.
    pub text: String,
    /// What has been done, if anything has.
    pub repaired: Option<String>,
}

/// What an audit has looked at, and what it has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditView {
    /// How many networks.
    pub networks: usize,
    /// How many endpoints, of all hosts.
    pub endpoints: usize,
    /// How many leases of this host.
    pub leases: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A finding, and what can be done about it here.
struct Fault {
    kind: &'static str,
    text: String,
    remedy: Remedy,
}

enum Remedy {
    /// Nothing that is safe.
    People,
    /// Give this back.
    Release(IpAddr),
    /// Note this as leased.
    Note(IpAddr),
    /// Give the range of this address to that host.
    HandOver(IpAddr, HostId),
    /// Plan this once more.
    Kernel(Vec<ObjectKey>),
}

/// Which subnets run out of addresses, and when that is looked at.
#[derive(Debug, Default)]
pub(crate) struct Crowds {
    crowded: BTreeSet<(NetworkId, Family)>,
    /// When to look: something has changed.
    due: Option<Duration>,
}

impl Engine {
    // ----- showing ---------------------------------------------------------

    /// True if `host` can be asked for addresses, or soon again.
    fn can_be_reached(&self, host: HostId) -> bool {
        let state = self.view.presence(host).map(|presence| presence.state);
        host == self.config.host || matches!(state, Some(HostState::Up | HostState::Suspect))
    }

    fn state_of_owner(&self, host: HostId) -> &'static str {
        if host == self.config.host {
            return HostState::Up.as_str();
        }
        self.view.presence(host).map_or("unknown", |presence| presence.state.as_str())
    }

    /// Every endpoint that is known of on `net`, on hosts that are down too, but
    /// not what is left of one that has moved away.
    fn known_on(&self, net: NetworkId) -> impl Iterator<Item = (HostId, &Endpoint)> {
        let remote = self.view.remote_endpoints().map(|(host, _, ep)| (host, ep));
        let own = self.local.values().map(|l| &l.local).filter(|l| l.moved.is_none());
        let own = own.map(|l| (self.config.host, &l.endpoint));
        remote.chain(own).filter(move |(_, ep)| ep.network == net)
    }

    /// The addresses that they have.
    fn leased_on(&self, net: NetworkId) -> BTreeSet<IpAddr> {
        self.known_on(net).flat_map(|(_, ep)| ep.addresses.iter().copied()).collect()
    }

    fn pools_of<'a>(&'a self, net: &'a Network) -> impl Iterator<Item = &'a Pool> {
        let families = net.subnets.iter().map(|subnet| Family::of(&subnet.gateway));
        families.filter_map(|family| self.pools.get(&(net.id, family)))
    }

    fn subnet_view(&self, net: &Network, pool: &Pool, leased: &BTreeSet<IpAddr>) -> SubnetView {
        let me = self.config.host;
        let segments = pool.segments();
        let owners: BTreeSet<HostId> = segments.iter().filter_map(Segment::owner).collect();
        let (mut free, mut unreachable) = (0, 0);
        for segment in &segments {
            let rest = rest_of(pool, segment, leased);
            match segment.owner() {
                Some(owner) if self.can_be_reached(owner) => free += rest,
                Some(_) => unreachable += rest,
                None => {}
            }
        }
        let cidr = pool.subnet().cidr;
        SubnetView {
            net: net.name.clone(),
            cidr,
            capacity: pool.capacity(),
            leased: leased.iter().filter(|ip| cidr.contains(*ip)).count(),
            leased_here: pool.leased(),
            free,
            free_here: pool.free_of(me),
            owners: owners.len(),
            unreachable,
        }
    }

    pub(crate) fn subnet_views(&self) -> Vec<SubnetView> {
        let mut nets: Vec<&Network> = self.networks.iter().collect();
        nets.sort_by_key(|net| (&net.name, net.created));
        let mut views = Vec::new();
        for net in nets {
            let leased = self.leased_on(net.id);
            views.extend(self.pools_of(net).map(|pool| self.subnet_view(net, pool, &leased)));
        }
        views
    }

    pub(crate) fn ranges_views(&self, net: &Network) -> Vec<RangesView> {
        let leased = self.leased_on(net.id);
        let views = self.pools_of(net).map(|pool| {
            let ranges = pool.segments().into_iter().map(|segment| {
                let (first, last) = pool.ends(&segment);
                RangeView {
                    first,
                    last,
                    owner: segment.owner().map(|owner| self.host_name(owner)),
                    local: segment.owner() == Some(self.config.host),
                    state: segment.owner().map_or("unknown", |owner| self.state_of_owner(owner)),
                    version: segment.token.map_or(0, |token| token.version),
                    addresses: pool.leasable_in(segment.from, segment.until),
                    leased: leased.range(first..=last).count(),
                }
            });
            let mut abroad: Vec<AbroadView> = self
                .abroad(net, pool)
                .map(|(ip, host, ep, owner)| AbroadView {
                    ip,
                    endpoint: host_text_of(ep),
                    host: self.host_name(host),
                    owner: owner.map(|owner| self.host_name(owner)),
                })
                .collect();
            abroad.sort_by_key(|abroad| abroad.ip);
            RangesView {
                subnet: self.subnet_view(net, pool, &leased),
                ranges: ranges.collect(),
                held: pool.held().collect(),
                abroad,
            }
        });
        views.collect()
    }

    /// Endpoints that have an address whose range is another host's.
    fn abroad<'a>(
        &'a self,
        net: &'a Network,
        pool: &'a Pool,
    ) -> impl Iterator<Item = (IpAddr, HostId, &'a Endpoint, Option<HostId>)> {
        let all = self.known_on(net.id);
        let each = all.flat_map(|(host, ep)| ep.addresses.iter().map(move |ip| (*ip, host, ep)));
        let inside = each.filter(|(ip, ..)| pool.subnet().cidr.contains(ip));
        let owned = inside.map(|(ip, host, ep)| (ip, host, ep, pool.owner(ip)));
        owned.filter(|(_, host, _, owner)| *owner != Some(*host))
    }

    // ----- running out -----------------------------------------------------

    /// Why there is no address left, and how to get at more.
    pub(crate) fn exhausted(&self, net: &Network, pool: &Pool) -> Refused {
        let leased = self.leased_on(net.id);
        let view = self.subnet_view(net, pool, &leased);
        let message = format!(
            "no free address in {}: {} of {} leased",
            chosen_from(net, pool.subnet()),
            leased.iter().filter(|ip| pool.chooses(**ip)).count(),
            view.capacity
        );
        let mut refused = Refused::new(ErrorKind::Exhausted, message);
        let show = format!("see who holds which with: overlayctl ipam show {}", net.name);
        let held = self.held_by_unreachable(pool, &leased);
        if let Some((first, _)) = held.first() {
            let list: Vec<String> = held.iter().map(|(host, n)| format!("{host} ({n})")).collect();
            refused.message += &format!(
                ", {} held by hosts that cannot be reached: {}",
                view.unreachable,
                list.join(", ")
            );
            return refused.hint(format!(
                "{show}; take over what a host held that does not come back: overlayctl host \
                 forget {first}"
            ));
        }
        refused.hint(format!("{show}; detach what is not needed with: overlayctl detach"))
    }

    /// Hosts that cannot be reached with the addresses that are free in their
    /// ranges, by name.
    fn held_by_unreachable(&self, pool: &Pool, leased: &BTreeSet<IpAddr>) -> Vec<(String, u128)> {
        let mut held: BTreeMap<String, u128> = BTreeMap::new();
        for segment in pool.segments() {
            let Some(owner) = segment.owner().filter(|owner| !self.can_be_reached(*owner)) else {
                continue;
            };
            let rest = rest_of(pool, &segment, leased);
            if rest > 0 {
                *held.entry(self.host_name(owner)).or_default() += rest;
            }
        }
        held.into_iter().collect()
    }

    /// Who has which addresses has changed.
    pub(crate) fn addresses_changed(&mut self) {
        self.crowds.due.get_or_insert(self.now.mono + LOOK_AFTER);
    }

    /// When [`Engine::look_for_crowds`] has something to do.
    pub(crate) fn crowds_deadline(&self) -> Option<Duration> {
        // What nobody has told yet looks as if nobody owned it.
        self.crowds.due.filter(|_| self.completeness == Completeness::Complete)
    }

    /// Tells of subnets that run out of addresses, and of those that have room
    /// again.
    pub(crate) fn look_for_crowds(&mut self) {
        if self.crowds_deadline().is_none_or(|due| due > self.now.mono) {
            return;
        }
        self.crowds.due = None;
        let before = std::mem::take(&mut self.crowds.crowded);
        let mut told = Vec::new();
        for (key, view) in self.scarce(&before) {
            if let Some(view) = view {
                if !before.contains(&key) {
                    told.push(Notice::Crowded {
                        text: crowded_text(&view),
                        net: view.net,
                        over: false,
                    });
                }
                self.crowds.crowded.insert(key);
            }
        }
        for (net, family) in before {
            if self.crowds.crowded.contains(&(net, family)) {
                continue;
            }
            if let Some(net) = self.networks.get(net).map(|net| net.name.clone()) {
                let text =
                    format!("network {net} has free {} addresses again", family_text(family));
                told.push(Notice::Crowded { net, text, over: true });
            }
        }
        told.into_iter().for_each(|notice| self.notice(notice));
    }

    /// Subnets that concern this host, each with its sums if little is free:
    /// those of `crowded` until they have half as much again.
    fn scarce(
        &self,
        crowded: &BTreeSet<(NetworkId, Family)>,
    ) -> Vec<((NetworkId, Family), Option<SubnetView>)> {
        let me = self.config.host;
        // No more can be leased than there are endpoints: that is cheap to know.
        let most = (self.local.len() + self.view.remote_count()) as u128;
        let mut found = Vec::new();
        for net in self.networks.iter() {
            let mut leased = None;
            for pool in self.pools_of(net) {
                let key = (net.id, Family::of(&pool.subnet().gateway));
                let concerns = self.view.is_user(net.id, me) || !pool.tokens_of(me).is_empty();
                let least = scarcity(pool.capacity());
                let least =
                    if crowded.contains(&key) { least.saturating_add(least / 2) } else { least };
                let cut_off = pool.owners().iter().any(|(host, _)| !self.can_be_reached(*host));
                let roomy = !cut_off && pool.capacity().saturating_sub(most) > least;
                if !concerns || roomy {
                    continue;
                }
                let leased = leased.get_or_insert_with(|| self.leased_on(net.id));
                let view = self.subnet_view(net, pool, leased);
                found.push((key, Some(view).filter(|view| view.free < least)));
            }
        }
        found
    }

    /// What `status` says of it.
    pub(crate) fn crowd_warnings(&self) -> Vec<String> {
        let mut list = Vec::new();
        for (id, family) in &self.crowds.crowded {
            let Some(net) = self.networks.get(*id) else { continue };
            let Some(pool) = self.pools.get(&(*id, *family)) else { continue };
            list.push(crowded_text(&self.subnet_view(net, pool, &self.leased_on(*id))));
        }
        list
    }

    // ----- giving back -----------------------------------------------------

    /// An address is to be given back that no endpoint has.
    pub(crate) fn release_leaked(&mut self, token: Token, net: &str, ip: IpAddr) {
        let result = self.release_now(net, ip);
        self.reply(token, result);
    }

    fn release_now(&mut self, net: &str, ip: IpAddr) -> Result<Reply, Refused> {
        let net = self.find_network(net)?.clone();
        let show = format!("see who has which with: overlayctl ipam show {}", net.name);
        let Some(pool) = self.pools_of(&net).find(|pool| pool.subnet().cidr.contains(&ip)) else {
            let cidrs: Vec<_> = net.subnets.iter().map(|s| s.cidr.to_string()).collect();
            let message = format!("{ip} is outside network {} ({})", net.name, cidrs.join(", "));
            return Err(Refused::new(ErrorKind::Invalid, message));
        };
        let held = |(_, ep): &(HostId, &Endpoint)| ep.addresses.contains(&ip);
        // What is left of one that has moved away counts too.
        let left = self.moved.iter().filter_map(|id| self.local.get(id));
        let left = left.map(|l| (self.config.host, &l.local.endpoint));
        let left = left.filter(|(_, ep)| ep.network == net.id);
        if let Some((host, ep)) = self.known_on(net.id).chain(left).find(held) {
            let (name, host_name) = (host_text_of(ep), self.host_name(host));
            let message = format!("endpoint {name} on host {host_name} has {ip}");
            return Err(Refused::new(ErrorKind::InUse, message).hint(format!(
                "it is free when that is detached, there: overlayctl detach {name}"
            )));
        }
        if self.importing.values().any(|draft| draft.leases().any(|lease| *lease == ip)) {
            let message = format!("{ip} is being taken in by an import");
            return Err(Refused::new(ErrorKind::Unavailable, message));
        }
        if !pool.is_leased(ip) {
            let owner = pool.owner(ip).map(|owner| self.host_name(owner));
            let whose = owner.map(|owner| format!(", host {owner} owns it")).unwrap_or_default();
            let message = format!("{ip} is not leased on this host{whose}");
            return Err(Refused::new(ErrorKind::NotFound, message).hint(show));
        }
        self.reserved.take(net.id, ip);
        self.give_back(&net, ip);
        Ok(Reply::Released { net: net.name, ip })
    }

    fn give_back(&mut self, net: &Network, ip: IpAddr) {
        if let Some(pool) = self.pools.get_mut(&(net.id, Family::of(&ip))) {
            pool.release(ip);
        }
        self.addresses_changed();
        self.notice(Notice::Released { net: net.name.clone(), ip });
        self.serve_waiting();
    }

    // ----- the audit -------------------------------------------------------

    /// Looks at all that must hold of addresses; with `repair`, does what is safe.
    pub(crate) fn audit(&mut self, net: Option<&str>, repair: bool) -> Result<AuditView, Refused> {
        let mut nets: Vec<Network> = match net {
            Some(text) => vec![self.find_network(text)?.clone()],
            None => self.networks.iter().cloned().collect(),
        };
        nets.sort_by(|a, b| (&a.name, a.created).cmp(&(&b.name, b.created)));
        let mut view =
            AuditView { networks: nets.len(), endpoints: 0, leases: 0, findings: Vec::new() };
        for net in nets {
            view.endpoints += self.known_on(net.id).count();
            view.leases += self.pools_of(&net).map(Pool::leased).sum::<usize>();
            let mut faults = self.doubly_held(&net);
            faults.extend(self.not_in_the_kernel(&net));
            for pool in self.pools_of(&net) {
                faults.extend(self.wrong_leases(&net, pool));
                faults.extend(self.wrong_owners(&net, pool));
            }
            for Fault { kind, text, remedy } in faults {
                let repaired = if repair { self.remedy(&net, remedy) } else { None };
                view.findings.push(Finding { kind, net: net.name.clone(), text, repaired });
            }
        }
        Ok(view)
    }

    /// Addresses that two endpoints have.
    fn doubly_held(&self, net: &Network) -> Vec<Fault> {
        let mut faults = Vec::new();
        for ip in self.view.ips_on(net.id) {
            let mut claims: Vec<(HostId, &Endpoint)> = self.view.ip_claims(net.id, ip).collect();
            if claims.len() < 2 {
                continue;
            }
            claims.sort_by_key(|(host, ep)| (*host, ep.id));
            let all: Vec<String> = claims
                .iter()
                .map(|(host, ep)| format!("{} on host {}", host_text_of(ep), self.host_name(*host)))
                .collect();
            let text = format!("{ip} is held by {}: detach all but one", all.join(" and by "));
            faults.push(Fault { kind: "held_twice", text, remedy: Remedy::People });
        }
        faults
    }

    /// Endpoints of this host that the kernel does not serve as it should.
    fn not_in_the_kernel(&self, net: &Network) -> Vec<Fault> {
        if self.used(net.vni).is_none_or(|used| used.id != net.id) {
            return Vec::new();
        }
        let bridge = net.vni.bridge();
        let mut faults = Vec::new();
        for local in self.local.values() {
            let ep = &local.local.endpoint;
            let whole = local.phase == Phase::Ready && local.local.moved.is_none();
            if ep.network != net.id || !whole || self.gone.contains_key(&ep.id) {
                continue;
            }
            let mut keys = vec![ObjectKey::BridgeFdb(bridge.clone(), ep.mac)];
            keys.extend(local.local.port_key());
            keys.extend(local.local.port().map(ObjectKey::Guard));
            keys.extend(ep.addresses.iter().map(|ip| ObjectKey::Neigh(bridge.clone(), *ip)));
            let ops = self.plan_of(keys.iter().cloned());
            let Some(op) = ops.first() else { continue };
            let more = match ops.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let why = self.kernel.failures().get(&op.key());
            let why = why.map(|why| format!(" (refused: {})", why.text)).unwrap_or_default();
            let text = format!(
                "the kernel lacks `{op}`{more} for endpoint {}{why}: overlayd does it by itself; \
                 if it stays so, see: overlayctl status",
                host_text_of(ep)
            );
            let keys = ops.iter().map(KernelOp::key).collect();
            faults.push(Fault { kind: "not_in_kernel", text, remedy: Remedy::Kernel(keys) });
        }
        faults
    }

    /// Leases of this host without an endpoint, and the other way round.
    fn wrong_leases(&self, net: &Network, pool: &Pool) -> Vec<Fault> {
        let cidr = pool.subnet().cidr;
        let mut faults = Vec::new();
        let mut had: BTreeSet<IpAddr> = BTreeSet::new();
        for local in self.local.values().filter(|l| l.local.endpoint.network == net.id) {
            let ep = &local.local.endpoint;
            for ip in ep.addresses.iter().filter(|ip| cidr.contains(*ip)) {
                had.insert(*ip);
                if local.local.moved.is_none() && !pool.is_leased(*ip) {
                    let text = format!(
                        "endpoint {} has {ip}, which is not leased: it could be given to another; \
                         overlayctl ipam check {} --repair",
                        host_text_of(ep),
                        net.name
                    );
                    faults.push(Fault { kind: "not_leased", text, remedy: Remedy::Note(*ip) });
                }
            }
        }
        had.extend(self.services.on(net.id).flat_map(|service| service.addresses.clone()));
        had.extend(self.kept.on(net.id).flat_map(|kept| kept.addresses.clone()));
        had.extend(pool.leases().filter(|ip| self.reserved.holds(net.id, *ip)));
        had.extend(self.importing.values().flat_map(|draft| draft.leases().copied()));
        for ip in pool.leases().filter(|ip| !had.contains(ip)) {
            let text = format!(
                "{ip} is leased on this host and no endpoint has it: overlayctl ipam release {} \
                 {ip}",
                net.name
            );
            faults.push(Fault { kind: "leaked", text, remedy: Remedy::Release(ip) });
        }
        faults
    }

    /// Addresses that nobody owns, or somebody who is not there, and those whose
    /// endpoint is elsewhere.
    fn wrong_owners(&self, net: &Network, pool: &Pool) -> Vec<Fault> {
        let mut faults = Vec::new();
        for segment in pool.segments() {
            let (first, last) = pool.ends(&segment);
            let range =
                if first == last { first.to_string() } else { format!("{first} to {last}") };
            let people = |kind, text| Fault { kind, text, remedy: Remedy::People };
            let Some(owner) = segment.owner() else {
                let text = format!(
                    "nobody is known to own {range}: wait until the hosts have heard of each \
                     other; then: overlayctl host forget, for a host that does not come back"
                );
                faults.push(people("no_owner", text));
                continue;
            };
            let name = self.host_name(owner);
            let state = self.state_of_owner(owner);
            if matches!(state, "unknown" | "left") {
                let why = if state == "left" { "has left" } else { "is not known here" };
                let text = format!(
                    "{range} belongs to host {name}, which {why}: overlayctl host forget {name}"
                );
                faults.push(people("owner_absent", text));
            }
            if let Some(also) = segment.also {
                let also = self.host_name(also);
                let text = format!(
                    "{range} is of hosts {name} and {also}: so it is for a moment while one gives \
                     it to the other; look again"
                );
                faults.push(people("two_owners", text));
            }
        }
        for (ip, host, ep, owner) in self.abroad(net, pool) {
            let (name, at) = (host_text_of(ep), self.host_name(host));
            let whose = match owner {
                Some(owner) => format!("belongs to host {}", self.host_name(owner)),
                None => "belongs to nobody that is known".to_owned(),
            };
            let wins = self.view.ip_winner(net.id, ip).is_some_and(|(winner, _)| winner == host);
            let (todo, remedy) = match owner {
                Some(owner) if owner == self.config.host && wins && ep.move_seq > 0 => (
                    format!("let its range follow: overlayctl ipam check {} --repair", net.name),
                    Remedy::HandOver(ip, host),
                ),
                Some(owner) if owner == self.config.host => {
                    (format!("detach {name} on {at}, or take it over"), Remedy::People)
                }
                Some(owner) if self.can_be_reached(owner) => {
                    let owner = self.host_name(owner);
                    let todo = format!(
                        "on {owner}: overlayctl ipam check {} --repair, if it stays so",
                        net.name
                    );
                    (todo, Remedy::People)
                }
                Some(owner) => {
                    let owner = self.host_name(owner);
                    let todo = format!(
                        "its range follows when that host is back; if it does not come back: \
                         overlayctl host forget {owner}"
                    );
                    (todo, Remedy::People)
                }
                None => ("wait until its owner is heard".to_owned(), Remedy::People),
            };
            let text = format!("{ip} of endpoint {name} on host {at} {whose}: {todo}");
            faults.push(Fault { kind: "abroad", text, remedy });
        }
        faults
    }

    fn remedy(&mut self, net: &Network, remedy: Remedy) -> Option<String> {
        match remedy {
            Remedy::People => None,
            Remedy::Release(ip) => {
                self.give_back(net, ip);
                Some(format!("gave {ip} back"))
            }
            Remedy::Note(ip) => {
                let pool = self.pools.get_mut(&(net.id, Family::of(&ip)))?;
                pool.carry(ip);
                Some(format!("noted {ip} as leased"))
            }
            Remedy::HandOver(ip, to) => {
                self.hand_over(net.id, ip, to);
                let name = self.host_name(to);
                let pool = self.pools.get(&(net.id, Family::of(&ip)))?;
                (pool.owner(ip) == Some(to))
                    .then(|| format!("gave the range of {ip} to host {name}"))
            }
            Remedy::Kernel(keys) => {
                for key in keys {
                    self.kernel.touch(key, Cause::Check);
                }
                Some("tried again".to_owned())
            }
        }
    }
}

/// How many addresses of a segment nobody is known to have.
fn rest_of(pool: &Pool, segment: &Segment, leased: &BTreeSet<IpAddr>) -> u128 {
    let (first, last) = pool.ends(segment);
    let taken = leased.range(first..=last).count() as u128;
    pool.leasable_in(segment.from, segment.until).saturating_sub(taken)
}

/// Fewer free addresses than these are few: a tenth, or 8 where that is more, but
/// of a small subnet no more than a quarter, or it would always have too few.
fn scarcity(capacity: u128) -> u128 {
    (capacity / 10).max((capacity / 4).min(8))
}

fn crowded_text(view: &SubnetView) -> String {
    let SubnetView { net, cidr, capacity, leased, free, unreachable, .. } = view;
    let held = match unreachable {
        0 => String::new(),
        n => format!(", {n} held by hosts that cannot be reached"),
    };
    format!(
        "network {net} runs out of addresses: {free} free in {cidr}, {leased} of {capacity} leased\
         {held}; see: overlayctl ipam show {net}"
    )
}

fn family_text(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests;
