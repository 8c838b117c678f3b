//! Static endpoints, many at once: all of a list or nothing.
//!
//! ```text
//!  import ─► draft ─► leased ─► network is in the kernel ─► saved ─► in use, published
//!              │  ▲
//!              ▼  │ asks the owner of addresses that are not ours, until it
//!            waiting  has given them or gives no more
//! ```
//!
//! What holds for any endpoint holds here: an address is leased only from a
//! range that this host owns (see [`crate::ipam`]), and success is replied when
//! the state file has it, in one transaction. What a list of `n` costs is
//! `n log n`: nothing here looks at all endpoints for each.
//!
//! An address that stays in the list stays leased, whichever MAC it goes to;
//! one that is no longer in it is free when the state file has let it go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use overlay_model::{
    Endpoint, EndpointId, Family, HostId, MacAddr, Network, NetworkId, Record, RecordKey, Want,
    WantWhat,
};

use crate::cluster_view::HostState;
use crate::endpoints::{Asking, Local, Phase, Station, needed, unsaved};
use crate::engine::{After, Engine};
use crate::event::{
    Detail, ErrorKind, Import, LocalEndpoint, Notice, Place, Refused, Reply, StateChange, Token,
};
use crate::ipam::NoAddress;

/// How many wrong items are named.
const DETAILS: usize = 20;

/// So few addresses are asked for one by one, more by halves of what the owner
/// has.
const SINGLES: usize = 32;

/// An owner is asked so often for one list.
const ROUNDS: u32 = 96;

/// What an import comes to.
#[derive(Debug)]
pub(crate) struct Draft {
    network: NetworkId,
    /// New ones and those that change.
    upserts: Vec<LocalEndpoint>,
    dropped: Vec<EndpointId>,
    /// Addresses to lease.
    fresh: Vec<IpAddr>,
    /// Addresses that come along from other hosts.
    carried: Vec<IpAddr>,
    /// Addresses to give back afterwards.
    freed: Vec<IpAddr>,
    added: usize,
    unchanged: usize,
}

impl Draft {
    /// Addresses that it has leased.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &IpAddr> {
        self.fresh.iter().chain(&self.carried)
    }
}

/// An import that waits for addresses of other hosts.
#[derive(Debug)]
pub(crate) struct WaitingImport {
    token: Token,
    first_id: EndpointId,
    request: Import,
    asking: Option<(NetworkId, Asking)>,
    /// What the owner had when it was asked: if it has less now, it gives.
    had: u128,
    rounds: u32,
    /// The changes of ownership that the last look has seen.
    seen: u64,
}

/// Why there is no draft.
enum NoDraft {
    Never(Refused),
    /// Nobody is known to own an address. In the middle of a gift that is so
    /// for a moment: its pieces may come in any order.
    Unowned(Refused),
    /// `count` addresses are `owner`'s, `first` to `last`.
    Owned {
        network: NetworkId,
        owner: HostId,
        count: usize,
        first: IpAddr,
        last: IpAddr,
    },
}

impl Engine {
    /// Static endpoints are to be taken in.
    pub(crate) fn import(&mut self, token: Token, fresh: u64, request: Import) {
        let first_id = EndpointId::from_bits(fresh);
        let waiting = WaitingImport {
            token,
            first_id,
            request,
            asking: None,
            had: 0,
            rounds: 0,
            seen: self.ring_changes,
        };
        self.waiting_imports.push(waiting);
        self.serve_imports();
    }

    /// What imports ask for: one request a network and family is under way.
    pub(crate) fn imports_asking(&self) -> impl Iterator<Item = (NetworkId, Family)> {
        self.waiting_imports.iter().filter_map(|w| {
            let (network, asking) = w.asking.as_ref()?;
            Some((*network, asking.family))
        })
    }

    pub(crate) fn imports_ask(&self, host: HostId) -> bool {
        let mut asked = self.waiting_imports.iter().filter_map(|w| w.asking.as_ref());
        asked.any(|(_, asked)| asked.target == host)
    }

    /// When [`Engine::serve_imports`] gives an owner up.
    pub(crate) fn imports_deadline(&self) -> Option<Duration> {
        self.waiting_imports.iter().filter_map(|w| Some(w.asking.as_ref()?.1.until)).min()
    }

    /// Goes on with imports that wait for addresses.
    pub(crate) fn serve_imports(&mut self) {
        for mut waiting in std::mem::take(&mut self.waiting_imports) {
            let late = waiting.asking.as_ref().is_some_and(|(_, a)| a.until <= self.now.mono);
            if waiting.asking.is_some() && !late && waiting.seen == self.ring_changes {
                // Nothing that it waits for: a list is not to be looked
                // through at every word of another host.
                self.waiting_imports.push(waiting);
                continue;
            }
            waiting.seen = self.ring_changes;
            match self.draft(&waiting) {
                Ok(draft) => {
                    self.stop_asking(&mut waiting);
                    self.begin_import(waiting.token, draft);
                }
                Err(NoDraft::Unowned(_)) if waiting.asking.is_some() && !late => {
                    self.waiting_imports.push(waiting);
                }
                Err(NoDraft::Never(refused) | NoDraft::Unowned(refused)) => {
                    self.stop_asking(&mut waiting);
                    self.reply(waiting.token, Err(refused));
                }
                Err(NoDraft::Owned { network, owner, count, first, last }) => {
                    let family = Family::of(&first);
                    let has = self.owned_by(network, family, owner);
                    let same = |(_, asking): &(_, Asking)| {
                        asking.target == owner && asking.family == family && has == waiting.had
                    };
                    if waiting.asking.as_ref().is_some_and(same) && !late {
                        self.waiting_imports.push(waiting);
                        continue;
                    }
                    let silent = late && has == waiting.had;
                    let up = self
                        .view
                        .presence(owner)
                        .is_some_and(|presence| presence.state == HostState::Up);
                    self.stop_asking(&mut waiting);
                    if silent || !up || waiting.rounds >= ROUNDS {
                        let refused = self.not_given(&waiting, owner, up, (count, first, last));
                        self.reply(waiting.token, Err(refused));
                        continue;
                    }
                    let busy = |net: NetworkId| {
                        let attaches = self.waiting.iter().filter_map(|w| w.asks());
                        attaches.chain(self.imports_asking()).any(|slot| slot == (net, family))
                    };
                    if busy(network) {
                        self.waiting_imports.push(waiting);
                        continue;
                    }
                    self.want_seq += 1;
                    let what =
                        if count <= SINGLES { WantWhat::Address(first) } else { WantWhat::Half };
                    let want = Want { target: owner, seq: self.want_seq, what };
                    self.publish(RecordKey::Want(network, family), Some(Record::Want(want)));
                    let until = self.answer_due(owner);
                    waiting.asking =
                        Some((network, Asking { family, target: owner, until, half: false }));
                    waiting.had = has;
                    waiting.rounds += 1;
                    self.waiting_imports.push(waiting);
                }
            }
        }
    }

    fn stop_asking(&mut self, waiting: &mut WaitingImport) {
        if let Some((network, asking)) = waiting.asking.take() {
            self.withdraw_want(network, asking.family);
        }
    }

    fn owned_by(&self, network: NetworkId, family: Family, owner: HostId) -> u128 {
        let pool = self.pools.get(&(network, family));
        pool.map_or(0, |pool| pool.tokens_of(owner).iter().map(|(at, t)| t.until - at).sum())
    }

    fn not_given(
        &self,
        waiting: &WaitingImport,
        owner: HostId,
        up: bool,
        (count, first, last): (usize, IpAddr, IpAddr),
    ) -> Refused {
        let host = self.host_name(owner);
        let range =
            if count == 1 { first.to_string() } else { format!("{first} to {last} ({count})") };
        let net = &waiting.request.net;
        if !up {
            return Refused::new(
                ErrorKind::Unavailable,
                format!("{range} of the addresses belong to host {host}, which cannot be reached"),
            )
            .hint("try again when it is up, or use other addresses");
        }
        Refused::new(
            ErrorKind::Unavailable,
            format!("{range} of the addresses belong to host {host}, which did not give them"),
        )
        .hint(format!("some may be in use there: overlayctl endpoints --net {net}"))
    }

    /// Works out what an import comes to. Nothing is changed.
    fn draft(&self, waiting: &WaitingImport) -> Result<Draft, NoDraft> {
        let Import { net, replace, take_over, endpoints, foreign } = &waiting.request;
        let net = self.find_network(net).map_err(NoDraft::Never)?;
        self.check_network(net, foreign).map_err(NoDraft::Never)?;

        // What the list stands for, if it is the whole truth.
        let me = self.config.host;
        let mut known: BTreeMap<MacAddr, EndpointId> = BTreeMap::new();
        if *replace {
            let here = self.view.active_on(net.id).filter(|(host, _)| *host == me);
            for (_, ep) in here {
                let local = self.local.get(&ep.id);
                if local.is_some_and(|l| l.local.place == Place::Static && l.phase == Phase::Ready)
                {
                    known.insert(ep.mac, ep.id);
                }
            }
        }
        let elsewhere = if *take_over { self.elsewhere(net.id) } else { Elsewhere::default() };
        let leaving: BTreeSet<IpAddr> = known
            .values()
            .filter_map(|id| self.local.get(id))
            .flat_map(|l| l.local.endpoint.addresses.iter().copied())
            .collect();

        let mut wrong = Wrong::default();
        let mut missing: BTreeMap<(Family, HostId), (usize, IpAddr, IpAddr)> = BTreeMap::new();
        let mut macs = BTreeMap::new();
        let mut ips = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut draft = Draft {
            network: net.id,
            upserts: Vec::new(),
            dropped: Vec::new(),
            fresh: Vec::new(),
            carried: Vec::new(),
            freed: Vec::new(),
            added: 0,
            unchanged: 0,
        };
        let may_lease = self.may_give_out_on(net.id);
        let mut next_id = waiting.first_id;
        for (index, item) in endpoints.iter().enumerate() {
            let twice = macs.insert(item.mac, index).map(|at| (at, item.mac.to_string()));
            let twice = item.addresses.iter().fold(twice, |twice, ip| {
                let before = ips.insert(*ip, index).filter(|at| *at != index);
                twice.or(before.map(|at| (at, ip.to_string())))
            });
            let before = item.name.as_ref().and_then(|name| names.insert(name, index));
            let twice = twice.or(before.map(|at| (at, format!("the name {}", names_of(item)))));
            if let Some((also, what)) = twice {
                let message = format!("{what} is given twice");
                wrong.push(ErrorKind::Invalid, Detail { index, also: Some(also), message });
                continue;
            }
            let station = Station {
                ips: &item.addresses,
                mac: Some(item.mac),
                name: item.name.as_ref(),
                aliases: &item.aliases,
                labels: &item.labels,
            };
            let checked = if item.addresses.is_empty() {
                Err(Refused::new(ErrorKind::Invalid, format!("{} has no address", item.mac)))
            } else {
                let overtaken = elsewhere.holders(item);
                self.check_station(net, &station, |host, ep| {
                    (host == me && known.get(&ep.mac) == Some(&ep.id))
                        || overtaken.iter().any(|(h, other)| (*h, other.id) == (host, ep.id))
                })
            };
            if let Err(refused) = checked {
                wrong.push(refused.kind, Detail { index, also: None, message: refused.message });
                continue;
            }
            for ip in item.addresses.iter().filter(|ip| !leaving.contains(*ip)) {
                match self.leasable(net, *ip) {
                    _ if elsewhere.by_ip.contains_key(ip) => draft.carried.push(*ip),
                    Ok(()) => match &may_lease {
                        Ok(()) => draft.fresh.push(*ip),
                        Err(refused) => return Err(NoDraft::Never(refused.clone())),
                    },
                    Err(NoAddress::OwnedBy(owner)) if *take_over && !self.is_up(owner) => {
                        draft.carried.push(*ip);
                    }
                    Err(NoAddress::OwnedBy(owner)) => {
                        let of = missing.entry((Family::of(ip), owner)).or_insert((0, *ip, *ip));
                        *of = (of.0 + 1, of.1.min(*ip), of.2.max(*ip));
                    }
                    Err(NoAddress::NoOwner) => return Err(NoDraft::Unowned(self.no_owner(net))),
                    Err(NoAddress::Leased | NoAddress::NotLeasable | NoAddress::Exhausted) => {
                        let message = format!("{ip} is taken");
                        wrong.push(ErrorKind::Taken, Detail { index, also: None, message });
                    }
                }
            }
            let former = known.get(&item.mac).and_then(|id| self.local.get(id));
            let before = former.map_or(0, |l| l.local.endpoint.move_seq);
            let overtaken = elsewhere.holders(item).into_iter().map(|(_, ep)| ep.move_seq).max();
            let move_seq = match overtaken.map(|seq| seq.checked_add(1)) {
                None => before,
                Some(Some(next)) => before.max(next),
                Some(None) => {
                    let message = format!("{} has moved as often as can be said", item.mac);
                    wrong.push(ErrorKind::Taken, Detail { index, also: None, message });
                    continue;
                }
            };
            let id = match former {
                Some(former) if overtaken.is_none() && is_so(&former.local.endpoint, item) => {
                    draft.unchanged += 1;
                    continue;
                }
                Some(former) => former.local.endpoint.id,
                None => {
                    while self.local.contains_key(&next_id) {
                        next_id = after(next_id);
                    }
                    draft.added += 1;
                    let id = next_id;
                    next_id = after(id);
                    id
                }
            };
            let mut addresses = item.addresses.clone();
            addresses.sort_by_key(|ip| net.subnets.iter().position(|s| s.cidr.contains(ip)));
            draft.upserts.push(LocalEndpoint {
                endpoint: Endpoint {
                    id,
                    network: net.id,
                    name: item.name.clone(),
                    aliases: item.aliases.clone(),
                    mac: item.mac,
                    addresses,
                    labels: item.labels.clone(),
                    ports: former.map_or_else(Vec::new, |l| l.local.endpoint.ports.clone()),
                    move_seq,
                    attached_ms: former.map_or(self.now.wall_ms, |l| l.local.endpoint.attached_ms),
                },
                place: Place::Static,
                boot_id: self.config.boot_id.clone(),
                moved: None,
            });
        }
        if let Some(refused) = wrong.refused(endpoints.len()) {
            return Err(NoDraft::Never(refused));
        }
        // What nobody can give is said before anybody is asked.
        if let Some(((_, owner), (count, first, last))) = missing.into_iter().next() {
            return Err(NoDraft::Owned { network: net.id, owner, count, first, last });
        }
        draft.freed = leaving.into_iter().filter(|ip| !ips.contains_key(ip)).collect();
        draft.dropped =
            known.iter().filter(|(mac, _)| !macs.contains_key(*mac)).map(|(_, id)| *id).collect();
        Ok(draft)
    }

    fn elsewhere(&self, net: NetworkId) -> Elsewhere<'_> {
        let mut all = Elsewhere::default();
        for (host, _, ep) in self.view.remote_endpoints().filter(|(_, _, ep)| ep.network == net) {
            all.by_mac.entry(ep.mac).or_default().push((host, ep));
            for ip in &ep.addresses {
                all.by_ip.entry(*ip).or_default().push((host, ep));
            }
        }
        all
    }

    /// Says whether [`Engine::begin_import`] will get `ip`.
    fn leasable(&self, net: &Network, ip: IpAddr) -> Result<(), NoAddress> {
        let pool = self.pools.get(&(net.id, Family::of(&ip))).ok_or(NoAddress::NoOwner)?;
        pool.can_allocate_exact(self.config.host, ip)
    }

    /// Leases what it needs; then the network must be in the kernel.
    fn begin_import(&mut self, token: Token, draft: Draft) {
        let me = self.config.host;
        for ip in &draft.fresh {
            if let Some(pool) = self.pools.get_mut(&(draft.network, Family::of(ip))) {
                pool.allocate_exact(me, *ip).expect("the draft has seen that it can be leased");
            }
        }
        for ip in &draft.carried {
            if let Some(pool) = self.pools.get_mut(&(draft.network, Family::of(ip))) {
                pool.carry(*ip);
            }
        }
        let Some(net) = self.networks.get(draft.network) else { return };
        let needed: Vec<_> = needed(&self.config, net).collect();
        let used = self.view.is_user(draft.network, me);
        let failure = needed.iter().filter(|_| used).find_map(|k| self.kernel.failures().get(k));
        if let Some(failure) = failure {
            let refused = Refused::new(ErrorKind::Kernel, failure.text.clone());
            self.release_draft(&draft);
            return self.reply(token, Err(refused));
        }
        let there = used && needed.iter().all(|key| self.kernel.mirror().contains_key(key));
        let Some(first) = draft.upserts.first().filter(|_| !there).cloned() else {
            return self.save_import(token, draft);
        };
        // One of them goes ahead, so that the network is wanted in the kernel.
        let (id, endpoint) = (first.endpoint.id, first.endpoint.clone());
        self.insert_local(id, Local { local: first, phase: Phase::Making(token) });
        self.importing.insert(token, draft);
        self.activate(id, Some(endpoint));
    }

    /// The network is there, which took a while: nobody may have taken the
    /// MACs and names meanwhile.
    pub(crate) fn resume_import(&mut self, id: EndpointId, token: Token, draft: Draft) {
        let me = self.config.host;
        let stolen = draft.upserts.iter().map(|l| &l.endpoint).find_map(|own| {
            let macs = self.view.mac_claims(own.network, own.mac);
            let names = own.name.iter().flat_map(|n| self.view.name_claims(own.network, n));
            let mut others = macs.chain(names).filter(|(host, ep)| (*host, ep.id) != (me, own.id));
            // Whom it takes the place of has a lower sequence.
            others.find(|(_, ep)| ep.move_seq >= own.move_seq).map(|_| own.mac)
        });
        let Some(mac) = stolen else { return self.save_import(token, draft) };
        let message = format!("{mac}, or its name, was taken by another endpoint meanwhile");
        self.remove_local(id);
        self.release_draft(&draft);
        self.reply_when_settled(token, Err(Refused::new(ErrorKind::Taken, message)));
    }

    /// The network is there: into the state file with all of them.
    pub(crate) fn save_import(&mut self, token: Token, draft: Draft) {
        let mut changes: Vec<StateChange> =
            draft.dropped.iter().map(|id| StateChange::DropEndpoint(*id)).collect();
        changes.extend(draft.upserts.iter().map(|l| StateChange::Endpoint(Box::new(l.clone()))));
        self.persist(changes, After::Imported(Box::new(draft), token));
    }

    /// Gives back what an import that did not come about has leased.
    pub(crate) fn release_draft(&mut self, draft: &Draft) {
        for ip in draft.fresh.iter().chain(&draft.carried) {
            self.release_lease(draft.network, *ip);
        }
    }

    /// The state file has taken an import, or could not.
    pub(crate) fn imported(&mut self, draft: Draft, token: Token, result: Result<(), String>) {
        let ahead =
            draft.upserts.first().map(|l| l.endpoint.id).filter(|id| {
                self.local.get(id).is_some_and(|l| matches!(l.phase, Phase::Saving(_)))
            });
        let mut result = result.map_err(|why| unsaved(&why));
        if result.is_ok() && self.networks.get(draft.network).is_none() {
            let drop = |local: &LocalEndpoint| StateChange::DropEndpoint(local.endpoint.id);
            self.persist(draft.upserts.iter().map(drop).collect(), After::Nothing);
            result = Err(Refused::new(ErrorKind::NotFound, "the network has been removed"));
        }
        if let Err(refused) = result {
            if let Some(id) = ahead {
                self.remove_local(id);
            }
            self.release_draft(&draft);
            return self.reply_when_settled(token, Err(refused));
        }
        let Draft { network, upserts, dropped, freed, added, unchanged, .. } = draft;
        let (changed, removed) = (upserts.len() - added, dropped.len());
        for local in upserts {
            let (id, endpoint) = (local.endpoint.id, local.endpoint.clone());
            self.publish(
                RecordKey::Endpoint(network, id),
                Some(Record::Endpoint(endpoint.clone())),
            );
            self.insert_local(id, Local { local, phase: Phase::Ready });
            self.activate(id, Some(endpoint.clone()));
            self.arrived(&endpoint);
        }
        for id in dropped {
            self.forget_local(id);
            self.publish(RecordKey::Endpoint(network, id), None);
        }
        for ip in freed {
            self.release_lease(network, ip);
        }
        if let Some(net) = self.networks.get(network) {
            let notice = Notice::Imported { net: net.name.clone(), added, changed, removed };
            self.notice(notice);
        }
        let reply = Reply::Imported { added, changed, removed, unchanged };
        self.reply(token, Ok(reply));
    }
}

/// What other hosts have on a network.
#[derive(Default)]
struct Elsewhere<'a> {
    by_mac: BTreeMap<MacAddr, Vec<(HostId, &'a Endpoint)>>,
    by_ip: BTreeMap<IpAddr, Vec<(HostId, &'a Endpoint)>>,
}

impl<'a> Elsewhere<'a> {
    /// Those whose place `item` takes.
    fn holders(&self, item: &crate::event::StaticEndpoint) -> Vec<(HostId, &'a Endpoint)> {
        let by_mac = self.by_mac.get(&item.mac).into_iter();
        let by_ip = item.addresses.iter().filter_map(|ip| self.by_ip.get(ip));
        by_mac.chain(by_ip).flatten().copied().collect()
    }
}

/// What is wrong with the items of a list.
#[derive(Default)]
struct Wrong {
    details: Vec<Detail>,
    count: usize,
    /// Something else than that another has it.
    invalid: bool,
    last: Option<usize>,
}

impl Wrong {
    fn push(&mut self, kind: ErrorKind, detail: Detail) {
        if self.last.replace(detail.index) != Some(detail.index) {
            self.count += 1;
        }
        self.invalid |= kind != ErrorKind::Taken;
        if self.details.len() < DETAILS {
            self.details.push(detail);
        }
    }

    fn refused(self, of: usize) -> Option<Refused> {
        if self.count == 0 {
            return None;
        }
        let kind = if self.invalid { ErrorKind::Invalid } else { ErrorKind::Taken };
        let verb = if self.count == 1 { "is" } else { "are" };
        let message =
            format!("{} of {of} endpoints {verb} wrong, so none was taken in", self.count);
        Some(Refused { details: self.details, ..Refused::new(kind, message) })
    }
}

fn names_of(item: &crate::event::StaticEndpoint) -> &str {
    item.name.as_ref().map_or("", |name| name.as_str())
}

/// True if an endpoint is already as the list says.
fn is_so(ep: &Endpoint, item: &crate::event::StaticEndpoint) -> bool {
    ep.mac == item.mac
        && ep.name == item.name
        && ep.aliases == item.aliases
        && ep.labels == item.labels
        && ep.addresses.len() == item.addresses.len()
        && item.addresses.iter().all(|ip| ep.addresses.contains(ip))
}

fn after(id: EndpointId) -> EndpointId {
    EndpointId::from_bits(id.bits().wrapping_add(1))
}
