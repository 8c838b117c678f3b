//! Endpoints that move between hosts: live migration, and the service of a dead
//! host that goes on elsewhere.
//!
//! ```text
//!   host b: attach --take-over                    host a, which has it
//!      move_seq = the holder's + 1
//!      kernel, state file, record ────────────►  a larger sequence: lost
//!      has it                                    withdraws, closes its port,
//!           ◄───────── range of the address ───  hands the address over
//! ```
//!
//! - **Who asks.** Without `take_over` an attach is refused that wants what
//!   another host has: a typing error must not cut anybody off. With it, nobody
//!   is asked; the holder may be attached still, or dead.
//! - **Who wins** (RFC 7432 section 15, and `cluster_view.rs`): the larger
//!   sequence, then the lower host. Two that take over at the same time, or on
//!   both sides of a partition, so end with one, everywhere the same.
//! - **Who loses** ([`Engine::lose`]) withdraws its record, so that its own
//!   containers are led to the new place, and keeps the port, because the
//!   container is not ours to cut apart; but the port's guard lets nothing pass
//!   any more. It stays like that, over restarts, until it is detached. A claim
//!   of sequence 0 takes nothing from anybody in this way: two stations that
//!   were given one MAC by mistake are a conflict, which is shown as one.
//! - **Whose address it is**: see `ipam.rs`, points 5 and 6.
//! - **Flapping.** Every host counts the moves of a MAC or address that it sees.
//!   After five within 180 s the sixth is refused where it is asked for. If it
//!   comes all the same (from a host that has just started and counted nothing),
//!   it is *frozen*: the entries stay with the host that had it, which goes on to
//!   have it. It thaws after 180 s without a move, or when somebody says so.
//!   FRR does the same (`dup-addr-detection`, five in 180 s, `freeze`).
//!
//! Counting begins when the view is complete: what is told to a newcomer is
//! history.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use overlay_model::{
    Endpoint, EndpointId, Family, HostId, MacAddr, Network, NetworkId, ObjectKey, Record,
    RecordKey, RingToken,
};
use serde::{Deserialize, Serialize};

use crate::cluster_view::{HostState, Subject, subjects};
use crate::endpoints::Phase;
use crate::engine::{After, Engine};
use crate::event::{Attach, ErrorKind, Notice, Place, Refused, Reply, StateChange, Token};
use crate::plan::Completeness;

/// So many moves are taken for honest ones, within [`WINDOW`].
const MOST: usize = 5;

/// How long a move counts, and how long what is frozen must be quiet.
const WINDOW: Duration = Duration::from_secs(180);

/// Where an endpoint of this host has moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The host that has it now, as far as this one was told.
    pub to: HostId,
    /// The move sequence that it has there.
    pub seq: u32,
}

/// Something that moved too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FrozenView {
    /// MAC and addresses that were frozen together.
    pub what: Vec<String>,
    /// Name of the network.
    pub net: String,
    /// Name of the host that keeps them, or its id.
    pub kept: String,
    /// Name of the other host, or its id.
    pub other: String,
    /// How often they moved within 180 s.
    pub moves: usize,
    /// When they thaw by themselves, if they do not move.
    pub thaws_in: Duration,
}

/// Says what was frozen, and what to do.
pub(crate) fn frozen_text(frozen: &FrozenView) -> String {
    let FrozenView { what, net, kept, other, moves, .. } = frozen;
    let first = what.first().map_or("", String::as_str);
    format!(
        "{} of {net} moved {moves} times within {} s, between hosts {other} and {kept}: frozen on \
         {kept}; see what attaches it on both, then: overlayctl endpoint thaw {first}",
        what.join(" "),
        WINDOW.as_secs()
    )
}

/// The moves of one MAC or address.
#[derive(Debug, Clone)]
struct Track {
    seq: u32,
    /// Who has it since the last move, or keeps it.
    at: (HostId, EndpointId),
    /// The last other host.
    other: HostId,
    /// When it moved, not longer ago than [`WINDOW`] when it was last looked at.
    times: Vec<Duration>,
    frozen: bool,
}

impl Track {
    fn prune(&mut self, now: Duration) {
        self.times.retain(|at| *at + WINDOW > now);
    }

    /// When nothing of it counts any more.
    fn ends(&self) -> Duration {
        self.times.last().copied().unwrap_or_default() + WINDOW
    }
}

/// All moves that count.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    tracks: BTreeMap<(NetworkId, Subject), Track>,
    /// When they are looked through for what has ended.
    sweep: Option<Duration>,
    /// Since the start.
    pub(crate) seen: u64,
    /// Since the start.
    pub(crate) frozen: u64,
}

impl Engine {
    // ----- asking for it ---------------------------------------------------

    /// Who elsewhere has `mac` or one of `ips`, as far as is known: also on
    /// hosts that are down.
    fn holders(
        &self,
        net: NetworkId,
        mac: Option<MacAddr>,
        ips: &[IpAddr],
    ) -> Vec<(HostId, &Endpoint)> {
        let has =
            |ep: &Endpoint| Some(ep.mac) == mac || ep.addresses.iter().any(|ip| ips.contains(ip));
        let all = self.view.remote_endpoints().map(|(host, _, ep)| (host, ep));
        all.filter(|(_, ep)| ep.network == net && has(ep)).collect()
    }

    /// Fills in what a request that takes over does not say.
    pub(crate) fn complete_take_over(&self, request: &mut Attach) -> Result<(), Refused> {
        let net = self.find_network(&request.net)?;
        let mut holders = self.holders(net.id, request.mac, &request.ips);
        if request.mac.is_none() && request.ips.is_empty() {
            let Some(name) = &request.name else {
                return Err(Refused::new(
                    ErrorKind::Invalid,
                    "nothing says what is to be taken over",
                )
                .hint("say its name, address or MAC"));
            };
            let all = self.view.remote_endpoints().map(|(host, _, ep)| (host, ep));
            holders = all
                .filter(|(_, ep)| ep.network == net.id && ep.name.as_ref() == Some(name))
                .collect();
            if holders.is_empty() {
                return Err(Refused::new(
                    ErrorKind::NotFound,
                    format!("there is no endpoint {name} on network {} to take over", net.name),
                )
                .hint(format!("list them with: overlayctl endpoints --net {}", net.name)));
            }
        }
        // Of two it is not clear whose rest is meant.
        let [(_, holder)] = holders.as_slice() else { return Ok(()) };
        request.mac = request.mac.or(Some(holder.mac));
        for ip in &holder.addresses {
            let said = request.ips.iter().any(|said| Family::of(said) == Family::of(ip));
            if !said {
                request.ips.push(*ip);
            }
        }
        if request.name.is_none() {
            request.name.clone_from(&holder.name);
        }
        if request.ports.is_empty() {
            request.ports.clone_from(&holder.ports);
        }
        if request.aliases.is_empty() {
            request.aliases.clone_from(&holder.aliases);
        }
        if request.labels.is_empty() {
            request.labels.clone_from(&holder.labels);
        }
        Ok(())
    }

    /// Who loses by a move of all this to here.
    pub(crate) fn overtaken(
        &self,
        net: NetworkId,
        mac: Option<MacAddr>,
        ips: &[IpAddr],
    ) -> BTreeSet<(HostId, EndpointId)> {
        self.holders(net, mac, ips).into_iter().map(|(host, ep)| (host, ep.id)).collect()
    }

    /// The sequence of an endpoint that has all this from now on (RFC 7432
    /// section 15.1): larger than anybody's whose place it takes.
    pub(crate) fn next_seq(
        &self,
        net: NetworkId,
        mac: MacAddr,
        ips: &[IpAddr],
    ) -> Result<u32, Refused> {
        let remote = self.holders(net, Some(mac), ips).into_iter().map(|(_, ep)| ep);
        // What stood here before and has gone on.
        let left = self.moved.iter().filter_map(|id| self.local.get(id)).filter(|local| {
            let ep = &local.local.endpoint;
            let same = ep.mac == mac || ep.addresses.iter().any(|ip| ips.contains(ip));
            ep.network == net && same
        });
        let left = left.filter_map(|local| local.local.moved).map(|moved| moved.seq);
        let highest = remote.map(|ep| ep.move_seq).chain(left).max();
        // Taken from a host of which nothing is known any more, it moves as well.
        let ours = |ip: &IpAddr| {
            let pool = self.pools.get(&(net, Family::of(ip)));
            pool.and_then(|pool| pool.owner(*ip)) == Some(self.config.host)
        };
        let first = u32::from(!ips.iter().all(ours));
        let next = highest.map_or(Some(first), |seq| seq.checked_add(1));
        next.ok_or_else(|| {
            Refused::new(ErrorKind::Unsupported, format!("{mac} has moved as often as can be said"))
                .hint("detach it where it is, then attach it here")
        })
    }

    /// Says whether an endpoint brings `ip` along that moves here, and nobody
    /// is to be asked for it.
    pub(crate) fn is_carried(&self, net: &Network, ip: IpAddr) -> bool {
        if !self.holders(net.id, None, &[ip]).is_empty() {
            return true;
        }
        let pool = self.pools.get(&(net.id, Family::of(&ip)));
        let owner = pool.and_then(|pool| pool.owner(ip)).filter(|host| *host != self.config.host);
        // Whoever had it is as unreachable as the host whose address it is.
        owner.is_some_and(|host| !self.is_up(host))
    }

    pub(crate) fn is_up(&self, host: HostId) -> bool {
        self.view.presence(host).is_some_and(|p| p.state == HostState::Up)
    }

    /// Refuses to move what has moved too often.
    pub(crate) fn check_flapping(
        &mut self,
        net: &Network,
        mac: Option<MacAddr>,
        ips: &[IpAddr],
    ) -> Result<(), Refused> {
        if self.holders(net.id, mac, ips).is_empty() {
            return Ok(());
        }
        let now = self.now.mono;
        let asked = mac.map(Subject::Mac).into_iter().chain(ips.iter().copied().map(Subject::Ip));
        let mut too_often = Vec::new();
        for subject in asked {
            let Some(track) = self.moves.tracks.get_mut(&(net.id, subject)) else { continue };
            track.prune(now);
            if track.frozen || track.times.len() >= MOST {
                too_often.push(subject);
            }
        }
        let Some(first) = too_often.first().copied() else { return Ok(()) };
        let kept = self.moves.tracks[&(net.id, first)].at.0;
        if kept == self.config.host {
            // Nothing moves: whatever else is wrong will be said.
            return Ok(());
        }
        self.freeze(net.id, &too_often);
        let frozen = self.frozen_view(net.id, &too_often);
        Err(Refused::new(ErrorKind::Taken, frozen_text(&frozen)))
    }

    // ----- counting --------------------------------------------------------

    /// A record of an endpoint is new here: says whether somebody has moved.
    pub(crate) fn note_moves(&mut self, host: HostId, ep: &Endpoint) {
        if ep.move_seq == 0 {
            return;
        }
        let now = self.now.mono;
        let mut too_often = Vec::new();
        let mut moved = false;
        for subject in subjects(ep) {
            let key = (ep.network, subject);
            let at = (host, ep.id);
            let Some(track) = self.moves.tracks.get_mut(&key) else {
                if self.completeness == Completeness::Complete {
                    let (seq, times) = (ep.move_seq, vec![now]);
                    let track = Track { seq, at, other: host, times, frozen: false };
                    self.moves.tracks.insert(key, track);
                    self.moves.sweep.get_or_insert(now + WINDOW);
                    moved = true;
                }
                continue;
            };
            if ep.move_seq < track.seq || (ep.move_seq == track.seq && host >= track.at.0) {
                continue;
            }
            let times = (ep.move_seq - track.seq).min(MOST as u32 + 1);
            track.seq = ep.move_seq;
            track.prune(now);
            track.times.extend((0..times).map(|_| now));
            // More would be no news, and need not be kept.
            let surplus = track.times.len().saturating_sub(MOST + 1);
            track.times.drain(..surplus);
            moved |= times > 0;
            if track.frozen || track.times.len() > MOST {
                track.other = if host == track.at.0 { track.other } else { host };
                too_often.push(subject);
            } else {
                track.other = track.at.0;
                track.at = at;
            }
        }
        self.moves.seen += u64::from(moved);
        self.freeze(ep.network, &too_often);
    }

    /// Keeps `subjects` where they were.
    fn freeze(&mut self, net: NetworkId, subjects: &[Subject]) {
        let mut fresh = Vec::new();
        for subject in subjects {
            let Some(track) = self.moves.tracks.get_mut(&(net, *subject)) else { continue };
            if !std::mem::replace(&mut track.frozen, true) {
                fresh.push(*subject);
                self.view.set_pin(net, *subject, Some(track.at));
                self.touch_subject(net, *subject);
            }
        }
        if !fresh.is_empty() {
            self.moves.frozen += 1;
            let frozen = self.frozen_view(net, &fresh);
            self.notice(Notice::Frozen(frozen));
        }
    }

    /// When [`Engine::sweep_moves`] has something to do.
    pub(crate) fn moves_deadline(&self) -> Option<Duration> {
        self.moves.sweep
    }

    /// Forgets what is over, which ends what was frozen.
    pub(crate) fn sweep_moves(&mut self) {
        let now = self.now.mono;
        if self.moves.sweep.is_none_or(|at| at > now) {
            return;
        }
        let over: Vec<(NetworkId, Subject)> = self
            .moves
            .tracks
            .iter()
            .filter(|(_, track)| track.frozen && track.ends() <= now)
            .map(|(key, _)| *key)
            .collect();
        self.lift(&over, "it was quiet for 180 s");
        self.moves.tracks.retain(|_, track| track.ends() > now);
        // Not for each of many by itself.
        let next = self.moves.tracks.values().map(Track::ends).min();
        self.moves.sweep = next.map(|at| at.max(now + Duration::from_secs(1)));
    }

    /// Somebody has seen to it that nothing flaps any more.
    pub(crate) fn thaw(&mut self, token: Token, what: &str, net: Option<&str>) {
        let result = self.thaw_now(what, net);
        self.reply(token, result.map(Reply::Thawed));
    }

    fn thaw_now(&mut self, what: &str, net: Option<&str>) -> Result<Vec<FrozenView>, Refused> {
        let net = net.map(|text| self.find_network(text).map(|net| net.id)).transpose()?;
        let subject = what.parse().map(Subject::Mac).or_else(|_| what.parse().map(Subject::Ip));
        let Ok(subject) = subject else {
            let message = format!("`{what}` is neither a MAC nor an address");
            return Err(Refused::new(ErrorKind::Invalid, message)
                .hint("what is frozen says: overlayctl status"));
        };
        let is_meant = |at: NetworkId| net.is_none_or(|net| net == at);
        // What belongs to one endpoint was frozen together, and is lifted so.
        let kept: BTreeSet<(NetworkId, HostId, EndpointId)> = self
            .moves
            .tracks
            .iter()
            .filter(|((at, of), track)| *of == subject && is_meant(*at) && track.frozen)
            .map(|((at, _), track)| (*at, track.at.0, track.at.1))
            .collect();
        let keys: Vec<(NetworkId, Subject)> = self
            .moves
            .tracks
            .iter()
            .filter(|((at, _), t)| t.frozen && kept.contains(&(*at, t.at.0, t.at.1)))
            .map(|(key, _)| *key)
            .collect();
        if keys.is_empty() {
            let message = format!("{what} is not frozen on this host");
            return Err(Refused::new(ErrorKind::NotFound, message)
                .hint("what is frozen says: overlayctl status"));
        }
        let lifted = self.frozen_groups(&keys);
        self.lift(&keys, "somebody said so");
        Ok(lifted)
    }

    /// Follows whoever has `keys` by now, and counts anew.
    fn lift(&mut self, keys: &[(NetworkId, Subject)], why: &'static str) {
        let lifted = self.frozen_groups(keys);
        for (net, subject) in keys {
            self.moves.tracks.remove(&(*net, *subject));
            self.view.set_pin(*net, *subject, None);
            self.touch_subject(*net, *subject);
        }
        for frozen in lifted {
            self.notice(Notice::Thawed { frozen, why });
        }
        for (net, subject) in keys {
            self.follow(*net, [*subject]);
        }
    }

    fn frozen_view(&self, net: NetworkId, subjects: &[Subject]) -> FrozenView {
        let tracks = &self.moves.tracks;
        let first = subjects.first().and_then(|subject| tracks.get(&(net, *subject)));
        let first = first.expect("what is frozen is tracked");
        let known = self.networks.get(net);
        FrozenView {
            what: subjects.iter().map(ToString::to_string).collect(),
            net: known.map_or_else(|| net.to_string(), |net| net.name.to_string()),
            kept: self.host_name(first.at.0),
            other: self.host_name(first.other),
            moves: first.times.len(),
            thaws_in: first.ends().saturating_sub(self.now.mono),
        }
    }

    /// What is frozen, by the endpoint that keeps it.
    fn frozen_groups(&self, keys: &[(NetworkId, Subject)]) -> Vec<FrozenView> {
        let mut groups: BTreeMap<(NetworkId, HostId, EndpointId), Vec<Subject>> = BTreeMap::new();
        for (net, subject) in keys {
            if let Some(track) = self.moves.tracks.get(&(*net, *subject)) {
                groups.entry((*net, track.at.0, track.at.1)).or_default().push(*subject);
            }
        }
        groups.into_iter().map(|((net, ..), subjects)| self.frozen_view(net, &subjects)).collect()
    }

    pub(crate) fn frozen_views(&self) -> Vec<FrozenView> {
        let frozen = self.moves.tracks.iter().filter(|(_, track)| track.frozen);
        let keys: Vec<(NetworkId, Subject)> = frozen.map(|(key, _)| *key).collect();
        self.frozen_groups(&keys)
    }

    fn touch_subject(&mut self, net: NetworkId, subject: Subject) {
        let Some(vni) = self.networks.get(net).map(|net| net.vni) else { return };
        match subject {
            Subject::Mac(mac) => {
                self.touch(ObjectKey::VxlanFdb(vni.vxlan(), mac));
                self.touch(ObjectKey::BridgeFdb(vni.bridge(), mac));
            }
            Subject::Ip(ip) => self.touch(ObjectKey::Neigh(vni.bridge(), ip)),
        }
    }

    // ----- following -------------------------------------------------------

    /// Does what follows for this host from who has `subjects` now: its own
    /// endpoints may have moved away, and its addresses with them.
    pub(crate) fn follow(&mut self, net: NetworkId, subjects: impl IntoIterator<Item = Subject>) {
        let me = self.config.host;
        let mut lost = BTreeMap::new();
        let mut gone = Vec::new();
        for subject in subjects {
            let Some((to, winner)) = self.view.winner(net, subject) else { continue };
            if to == me || winner.move_seq == 0 {
                continue;
            }
            let moved = Moved { to, seq: winner.move_seq };
            let own: Vec<EndpointId> = match subject {
                Subject::Mac(mac) => own_ids(me, self.view.mac_claims(net, mac)),
                Subject::Ip(ip) => own_ids(me, self.view.ip_claims(net, ip)),
            };
            lost.extend(own.into_iter().map(|id| (id, moved)));
            if let Subject::Ip(ip) = subject {
                gone.push((ip, to));
            }
        }
        for (id, moved) in lost {
            self.lose(id, moved);
        }
        for (ip, to) in gone {
            self.hand_over(net, ip, to);
        }
    }

    /// An endpoint of this host is published now.
    pub(crate) fn arrived(&mut self, ep: &Endpoint) {
        if ep.move_seq > 0 {
            if let Some(from) = self.overtakes(ep) {
                let notice = self.moved_notice(ep, from, ep.move_seq, true);
                self.notice(notice);
            }
            self.note_moves(self.config.host, ep);
        }
        self.follow_own(ep.id);
    }

    /// A host that has something of an endpoint of this one.
    fn overtakes(&self, ep: &Endpoint) -> Option<HostId> {
        let ips = ep.addresses.iter().flat_map(|ip| self.view.ip_claims(ep.network, *ip));
        let mut claims = self.view.mac_claims(ep.network, ep.mac).chain(ips);
        claims.find(|(host, _)| *host != self.config.host).map(|(host, _)| host)
    }

    /// What follows for an endpoint of this host from who has its MAC and
    /// addresses.
    pub(crate) fn follow_own(&mut self, id: EndpointId) {
        let Some(local) = self.local.get(&id) else { return };
        let ep = local.local.endpoint.clone();
        self.follow(ep.network, subjects(&ep));
    }

    /// An endpoint of this host is elsewhere now.
    fn lose(&mut self, id: EndpointId, moved: Moved) {
        let Some(local) = self.local.get_mut(&id) else { return };
        // One that is on its way loses when it has arrived.
        if local.phase != Phase::Ready || local.local.moved.is_some() {
            return;
        }
        local.local.moved = Some(moved);
        let ep = local.local.endpoint.clone();
        // There is nothing here that could be left of it.
        let all_of_it = local.local.place == Place::Static || self.gone.contains_key(&id);
        let change = if all_of_it {
            StateChange::DropEndpoint(id)
        } else {
            StateChange::Endpoint(Box::new(local.local.clone()))
        };
        if all_of_it {
            self.remove_local(id);
        } else {
            self.moved.insert(id);
            self.activate(id, None);
        }
        self.publish(RecordKey::Endpoint(ep.network, id), None);
        let kept = ep.name.as_ref().filter(|_| self.is_kept(&ep));
        let kept = kept.and_then(|name| self.lose_kept(ep.network, name));
        self.persist([change].into_iter().chain(kept).collect(), After::Nothing);
        let notice = self.moved_notice(&ep, moved.to, moved.seq, false);
        self.notice(notice);
    }

    pub(crate) fn moved_notice(&self, ep: &Endpoint, host: HostId, seq: u32, here: bool) -> Notice {
        let net = self.networks.get(ep.network);
        Notice::Moved {
            id: ep.id,
            name: ep.name.clone(),
            net: net.map_or_else(|| ep.network.to_string(), |net| net.name.to_string()),
            host: self.host_name(host),
            seq,
            here,
        }
    }

    /// `ip` is on host `to`: if it is ours to give, it is given there.
    pub(crate) fn hand_over(&mut self, net: NetworkId, ip: IpAddr, to: HostId) {
        let me = self.config.host;
        // While another machine has our ranges too, it might give the same.
        // Nor what it may have given already: see `end_recovery`.
        if self.doubled.contains_key(&me) || self.may_have_given_of(net) {
            return;
        }
        let family = Family::of(&ip);
        let Some(pool) = self.pools.get_mut(&(net, family)) else { return };
        if pool.owner(ip) != Some(me) {
            return;
        }
        let before = pool.tokens().clone();
        let tokens = pool.hand_over(me, to, self.fates.floor_of(to), ip);
        if tokens.is_empty() {
            return;
        }
        self.ring_changes += 1;
        let mut changes: Vec<StateChange> = tokens
            .iter()
            .map(|(offset, token)| StateChange::Ring(net, family, *offset, *token))
            .collect();
        let keeper = self.kept.keeper(net, ip).cloned();
        changes.extend(keeper.and_then(|name| self.lose_kept(net, &name)));
        self.persist(changes, After::HandedOver { net, family, ip, tokens, before });
    }

    /// The state file has noted that an address was handed over, or could not.
    pub(crate) fn handed_over(
        &mut self,
        net: NetworkId,
        family: Family,
        ip: IpAddr,
        (tokens, before): (Vec<(u128, RingToken)>, BTreeMap<u128, RingToken>),
        result: Result<(), String>,
    ) {
        if result.is_err() {
            // It stays here, leased: nobody gets it.
            if let Some(pool) = self.pools.get_mut(&(net, family)) {
                pool.keep(before, ip);
            }
            return;
        }
        for (offset, token) in tokens {
            self.publish(RecordKey::Ring(net, family, offset), Some(Record::Ring(token)));
        }
    }

    /// A range has become this host's: what in it has moved away goes on to
    /// where that is.
    pub(crate) fn pass_on(&mut self, net: NetworkId, first: IpAddr, last: IpAddr) {
        let there = self.view.ip_winner(net, first).map(|_| first);
        let behind = self.view.ips_after(net, Some(first)).take_while(|ip| *ip <= last);
        let ips: Vec<Subject> = there.into_iter().chain(behind).map(Subject::Ip).collect();
        self.follow(net, ips);
    }

    // ----- after a restart -------------------------------------------------

    /// Everybody has been heard who could know better.
    pub(crate) fn let_go(&mut self) {
        self.pools.values_mut().for_each(crate::ipam::Pool::let_go);
    }
}

fn own_ids<'a>(
    me: HostId,
    claims: impl Iterator<Item = (HostId, &'a Endpoint)>,
) -> Vec<EndpointId> {
    claims.filter(|(host, _)| *host == me).map(|(_, ep)| ep.id).collect()
}

#[cfg(test)]
mod tests;
