//! Endpoints of this host: from a request to a reply, and back.
//!
//! ```text
//!  attach ─► waiting for addresses ─► making ─► saving ─► ready ─► detach
//!               │  (asks an owner)      │         │
//!               └──────── refused ◄─────┴─────────┘   nothing is left behind
//! ```
//!
//! An endpoint is published when it is in the kernel and in the state file. A
//! refusal is replied when the kernel holds nothing of it any more.
//!
//! An endpoint stands in a [`Place`]: behind a veth pair of ours, behind a
//! device that somebody else made and we only borrow, or behind nothing of ours
//! (see `statics.rs` for many of these at once).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use overlay_model::{
    Device, Endpoint, EndpointId, Family, Foreign, HostId, IfName, MacAddr, Name, NetnsRef,
    Network, NetworkId, ObjectKey, Placed, Port, Record, RecordKey, Refusal, Subnet, Want,
    WantWhat, mtu,
};

use crate::desired::{endpoint_of, gateways};
use crate::engine::{After, Config, Engine, check_routes};
use crate::event::{
    Attach, ErrorKind, LocalEndpoint, Notice, Place, Refused, Reply, StateChange, Token, Where,
    doubled_text,
};
use crate::ipam::{NoAddress, is_host_address};
use crate::publish::is_own;
use crate::reconcile::Cause;
use crate::reserved::Reserve;
use crate::services::CreateService;

/// How long an owner has to answer a request for addresses.
const WANT_PATIENCE: Duration = Duration::from_millis(700);

/// The same where no way leads to it: question and answer go through others,
/// from round to round of gossip.
const WANT_PATIENCE_APART: Duration = Duration::from_secs(4);

/// Bytes that labels, and aliases, may take together: a record must stay
/// within what gossip carries well.
const LABEL_BYTES: usize = 400;
const ALIAS_BYTES: usize = 256;

/// How far an endpoint of this host has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The kernel is told.
    Making(Token),
    /// The state file is told.
    Saving(Token),
    /// Published.
    Ready,
    /// The state file is told that it goes.
    Leaving,
}

#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) local: LocalEndpoint,
    pub(crate) phase: Phase,
}

/// An attach, or a service, that waits for addresses of another host.
#[derive(Debug)]
pub(crate) struct Waiting {
    token: Token,
    network: NetworkId,
    wanted: Wanted,
    /// What it waits for, if it is its turn to ask.
    asking: Option<Asking>,
    /// Owners that did not answer, by family.
    tried: BTreeSet<(Family, HostId)>,
}

/// What addresses are waited for.
#[derive(Debug)]
enum Wanted {
    Endpoint(EndpointId, Box<Attach>),
    /// A random number for its id, and what is asked.
    Service(u64, CreateService),
    /// One that somebody comes back for.
    Reservation(Family, Option<IpAddr>),
}

impl Wanted {
    /// `None`: no address of that family is wanted; `Some(None)`: any.
    fn of_family(&self, family: Family) -> Option<Option<IpAddr>> {
        let (ips, all) = match self {
            // Of a station that others have set up, what is said is all there is.
            Self::Endpoint(_, attach) => {
                let is_static = attach.place == Where::Static && !attach.ips.is_empty();
                (&attach.ips, is_static || attach.reserved)
            }
            Self::Service(_, service) => (&service.vips, !service.vips.is_empty()),
            Self::Reservation(of, ip) => return (*of == family).then_some(*ip),
        };
        match ips.iter().copied().find(|ip| Family::of(ip) == family) {
            None if all => None,
            asked => Some(asked),
        }
    }

    fn attach(&self) -> Option<&Attach> {
        match self {
            Self::Endpoint(_, attach) => Some(attach),
            Self::Service(..) | Self::Reservation(..) => None,
        }
    }
}

/// A request for addresses that is under way.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) family: Family,
    pub(crate) target: HostId,
    pub(crate) until: Duration,
    /// For half of what it has, not for an address that somebody has said.
    pub(crate) half: bool,
}

/// What is checked of any endpoint.
pub(crate) struct Station<'a> {
    pub(crate) ips: &'a [IpAddr],
    pub(crate) mac: Option<MacAddr>,
    pub(crate) name: Option<&'a Name>,
    pub(crate) aliases: &'a BTreeSet<Name>,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

impl Waiting {
    /// It is on `network`, and `token` asked for it.
    pub(crate) fn is_on(&self, network: NetworkId, token: Token) -> bool {
        self.network == network && self.token == token
    }

    /// What it asks for, if it is its turn.
    pub(crate) fn asks(&self) -> Option<(NetworkId, Family)> {
        self.asking.as_ref().map(|a| (self.network, a.family))
    }
}

/// What is missing of an attach.
enum Missing {
    /// Nothing would help.
    Never(Refused),
    /// Nobody is known to own it. In the middle of a gift that is so for a
    /// moment: its pieces may come in any order.
    Unowned(Refused),
    /// Another owner might give this.
    Ask { family: Family, what: WantWhat },
}

/// The other owners in the order in which `me` asks them: at random, who has
/// more the sooner (weighted rendezvous hashing). An owner halves what it has for
/// everyone who asks; if all asked the largest, hosts that come at the same time
/// would wait for each other.
fn in_turn(me: HostId, owners: Vec<(HostId, u128)>) -> Vec<HostId> {
    let mut list: Vec<(f64, HostId)> = owners
        .into_iter()
        .filter(|(host, _)| *host != me)
        .map(|(host, addresses)| {
            let mut hasher = DefaultHasher::new();
            (me, host).hash(&mut hasher);
            let chance = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
            (-chance.max(f64::MIN_POSITIVE).ln() / addresses as f64, host)
        })
        .collect();
    list.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    list.into_iter().map(|(_, host)| host).collect()
}

impl Engine {
    /// A namespace is to be attached.
    pub(crate) fn attach(&mut self, token: Token, fresh: u64, mut request: Attach) {
        if request.take_over
            && let Err(refused) = self.complete_take_over(&mut request)
        {
            return self.reply(token, Err(refused));
        }
        if let Err(refused) = self.complete_kept(&mut request) {
            return self.reply(token, Err(refused));
        }
        self.complete_return(&mut request);
        match self.check_moves(&request).and_then(|()| self.check_attach(&request)) {
            Err(refused) => self.reply(token, Err(refused)),
            Ok(network) => {
                let mut id = EndpointId::from_bits(fresh);
                while self.local.contains_key(&id) {
                    id = EndpointId::from_bits(id.bits().wrapping_add(1));
                }
                self.wait(token, network, Wanted::Endpoint(id, Box::new(request)));
            }
        }
    }

    fn wait(&mut self, token: Token, network: NetworkId, wanted: Wanted) {
        self.waiting.push(Waiting { token, network, wanted, asking: None, tried: BTreeSet::new() });
        self.serve_waiting();
    }

    /// A service is to be created.
    ///
    /// # Errors
    /// What is wrong with it. Whether there are addresses for it is answered later.
    pub(crate) fn create_service(
        &mut self,
        token: Token,
        fresh: u64,
        request: CreateService,
    ) -> Result<(), Refused> {
        let network = self.check_service(&request)?;
        self.wait(token, network, Wanted::Service(fresh, request));
        Ok(())
    }

    /// An address is to be held for an attach.
    ///
    /// # Errors
    /// What is wrong with it. Whether there is one is answered later.
    pub(crate) fn reserve(&mut self, token: Token, asked: &Reserve) -> Result<(), Refused> {
        let (network, family) = self.check_reserve(asked)?;
        self.wait(token, network, Wanted::Reservation(family, asked.ip));
        Ok(())
    }

    /// Refuses to move what moves too often.
    fn check_moves(&mut self, request: &Attach) -> Result<(), Refused> {
        if !request.take_over {
            return Ok(());
        }
        let net = self.find_network(&request.net)?.clone();
        self.check_flapping(&net, request.mac, &request.ips)
    }

    fn check_attach(&self, request: &Attach) -> Result<NetworkId, Refused> {
        self.check_drained()?;
        let net = self.find_network(&request.net)?;
        if request.reserved && request.ips.is_empty() {
            let message = "`reserved` is for addresses that were reserved, and none is given";
            return Err(Refused::new(ErrorKind::Invalid, message));
        }
        self.check_network(net, &request.foreign)?;
        let station = Station {
            ips: &request.ips,
            mac: request.mac,
            name: request.name.as_ref(),
            aliases: &request.aliases,
            labels: &request.labels,
        };
        let overtaken = if request.take_over {
            self.overtaken(net.id, request.mac, &request.ips)
        } else {
            BTreeSet::new()
        };
        let former = self.gives_way(net, request);
        self.check_station(net, &station, |host, ep| {
            overtaken.contains(&(host, ep.id)) || former == Some((host, ep.id))
        })?;
        let labels: usize = request.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
        let bytes = labels + request.aliases.iter().map(|a| a.as_str().len()).sum::<usize>();
        self.check_ports(net, &request.ports, bytes, &request.aliases, |host, ep| {
            overtaken.contains(&(host, ep.id)) || former == Some((host, ep.id))
        })?;
        match &request.place {
            Where::Netns { netns, taken_ifnames, ifname: Some(ifname), .. }
                if taken_ifnames.contains(ifname) =>
            {
                Err(peer_name_taken(ifname, netns))
            }
            Where::Netns { .. } => Ok(net.id),
            Where::Device(ifname) => {
                self.check_device(net, ifname, request)?;
                Ok(net.id)
            }
            Where::Static if request.mac.is_none() => Err(Refused::new(
                ErrorKind::Invalid,
                "a static endpoint needs a MAC: nothing here could be asked for it",
            )
            .hint("say the station's own with --mac")),
            Where::Static => Ok(net.id),
        }
    }

    /// Refuses a network that cannot be had on this host.
    pub(crate) fn check_network(&self, net: &Network, foreign: &Foreign) -> Result<(), Refused> {
        let me = self.config.host;
        if let Some(addrs) = self.doubled.get(&me) {
            // Both own the same ranges: an address could be given out twice.
            let text = doubled_text(self.config.name.as_str(), me, addrs, &self.config.state_dir);
            return Err(Refused::new(ErrorKind::Unavailable, text));
        }
        if let Some(why) = self.networks.conflict(net.id) {
            return Err(Refused::new(
                ErrorKind::Unsupported,
                format!("network {} is not programmed: {why}", net.name),
            )
            .hint("remove one of the two with: overlayctl net rm"));
        }
        let vtep = self.config.vtep();
        mtu::fits(net.mtu, self.config.underlay_mtu, &vtep).map_err(|small| {
            let dev = &self.config.underlay_dev;
            Refused::new(ErrorKind::Unsupported, format!("{small} ({dev}, {vtep})")).hint(format!(
                "raise the MTU of {dev} to {}, or make a network with --mtu {}",
                small.needed,
                small.underlay.saturating_sub(small.overhead)
            ))
        })?;
        if !self.view.is_user(net.id, self.config.host) {
            for subnet in net.subnets.iter().filter(|_| !net.internal) {
                check_routes(subnet.cidr, foreign).map_err(|r| {
                    r.hint("remove the route, or make a network with another subnet")
                })?;
            }
        }
        Ok(())
    }

    /// Refuses a station that cannot be on `net`, or has something of another;
    /// those that are `going` have nothing.
    pub(crate) fn check_station(
        &self,
        net: &Network,
        station: &Station<'_>,
        going: impl Fn(HostId, &Endpoint) -> bool,
    ) -> Result<(), Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        for (i, ip) in station.ips.iter().enumerate() {
            if station.ips[..i].iter().any(|other| Family::of(other) == Family::of(ip)) {
                return Err(invalid(format!("{ip} is the second address of its family")));
            }
            let Some(subnet) = net.subnets.iter().find(|s| s.cidr.contains(ip)) else {
                let cidrs: Vec<_> = net.subnets.iter().map(|s| s.cidr.to_string()).collect();
                return Err(invalid(format!(
                    "{ip} is outside network {} ({})",
                    net.name,
                    cidrs.join(", ")
                )));
            };
            if *ip == subnet.gateway {
                return Err(Refused::new(
                    ErrorKind::Taken,
                    format!("{ip} is the gateway of network {}", net.name),
                ));
            }
            if !is_host_address(subnet.cidr, *ip) {
                return Err(invalid(format!(
                    "{ip} is the network or broadcast address of {}",
                    subnet.cidr
                )));
            }
            check_excluded(net, *ip, || {
                self.is_kept_for(net.id, *ip, station.name)
                    || self.view.ip_claims(net.id, *ip).any(|(host, ep)| going(host, ep))
            })?;
            let mut claims = self.view.ip_claims(net.id, *ip);
            if let Some((host, ep)) = claims.find(|(host, ep)| !going(*host, ep)) {
                return Err(self.taken(&ip.to_string(), host, ep));
            }
        }
        if let Some(mac) = station.mac {
            if !mac.is_unicast() {
                return Err(invalid(format!("{mac} is not the address of one station"))
                    .hint("use a unicast MAC: the lowest bit of the first byte clear"));
            }
            let mut claims = self.view.mac_claims(net.id, mac);
            if let Some((host, ep)) = claims.find(|(host, ep)| !going(*host, ep)) {
                return Err(self.taken(&mac.to_string(), host, ep));
            }
        }
        if let Some(name) = station.name
            && self.services.on(net.id).any(|service| service.name == *name)
        {
            let message = format!("the name {name} is that of a service of network {}", net.name);
            return Err(Refused::new(ErrorKind::Taken, message).hint("choose another name"));
        }
        if let Some(name) = station.name {
            let mut claims = self.view.name_claims(net.id, name);
            if let Some((host, ep)) = claims.find(|(host, ep)| !going(*host, ep)) {
                return Err(self.taken(&format!("the name {name}"), host, ep));
            }
        }
        let labels: usize = station.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
        if labels > LABEL_BYTES {
            return Err(invalid(format!(
                "the labels have {labels} bytes together; at most {LABEL_BYTES} are carried"
            )));
        }
        let aliases: usize = station.aliases.iter().map(|a| a.as_str().len()).sum();
        if aliases > ALIAS_BYTES {
            return Err(invalid(format!(
                "the aliases have {aliases} bytes together; at most {ALIAS_BYTES} are carried"
            )));
        }
        Ok(())
    }

    /// Refuses a device that cannot be a port, or whose loss would hurt.
    fn check_device(
        &self,
        net: &Network,
        ifname: &IfName,
        request: &Attach,
    ) -> Result<Device, Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        let ours = ObjectKey::Link(ifname.clone());
        if self.kernel.mirror().contains_key(&ours) {
            return Err(invalid(format!("{ifname} is a link of overlayd's own")));
        }
        let Some(device) = request.foreign.devices.get(ifname) else {
            return Err(Refused::new(
                ErrorKind::NotFound,
                format!("there is no interface {ifname} on this host"),
            )
            .hint("list them with: ip link"));
        };
        if self.config.underlay_devs().any(|dev| dev == ifname) {
            return Err(invalid(format!(
                "{ifname} is the underlay: VXLAN packets leave by it; attach a VLAN of it, or \
                 another interface"
            )));
        }
        if let Some(local) = self.by_device.get(ifname).and_then(|id| self.local.get(id)) {
            let name = host_text_of(&local.local.endpoint);
            return Err(Refused::new(
                ErrorKind::Taken,
                format!("{ifname} is attached already, as endpoint {name}"),
            )
            .hint("detach that one first; further stations behind it: overlayctl endpoint add"));
        }
        let lent = self.lent(ifname, device);
        if let Some(master) = device.master.as_ref().filter(|_| lent.is_none()) {
            return Err(Refused::new(ErrorKind::Taken, format!("{ifname} belongs to {master}"))
                .hint(format!("take it out with: ip link set {ifname} nomaster")));
        }
        let Some(own) = device.mac else {
            return Err(Refused::new(
                ErrorKind::Unsupported,
                format!("{ifname} has no Ethernet address: it cannot be a port of a bridge"),
            ));
        };
        match request.mac {
            None => {
                return Err(invalid(format!(
                    "an endpoint behind a device needs a MAC: that of the station, which is not \
                     that of {ifname}"
                ))
                .hint("say it with --mac; a VM's is in its configuration"));
            }
            Some(mac) if mac == own => {
                return Err(invalid(format!(
                    "{mac} is the MAC of {ifname} itself, which the host answers to"
                ))
                .hint("say that of the station behind it with --mac"));
            }
            Some(_) => {}
        }
        if let Some((route, _)) = request.foreign.routes.iter().find(|(_, dev)| dev == ifname) {
            return Err(Refused::new(
                ErrorKind::InUse,
                format!("this host's route {route} leads through {ifname}: it would be cut off"),
            )
            .hint(format!("remove the addresses first with: ip addr flush dev {ifname}")));
        }
        if let Some(mtu) = request.foreign.mtus.get(ifname).filter(|mtu| **mtu < net.mtu) {
            return Err(Refused::new(
                ErrorKind::Unsupported,
                format!(
                    "{ifname} has an MTU of {mtu}, network {} of {}: what does not fit would be \
                     lost without a word",
                    net.name, net.mtu
                ),
            )
            .hint(format!("raise it with: ip link set {ifname} mtu {}", net.mtu)));
        }
        Ok(device.clone())
    }

    /// What the kernel has of `device` as a port that a former life of ours
    /// did not give back.
    fn lent(&self, ifname: &IfName, device: &Device) -> Option<&Port> {
        self.kernel.mirror().port(ifname).filter(|port| port.index == device.index)
    }

    fn taken(&self, what: &str, host: HostId, ep: &Endpoint) -> Refused {
        let hint = self.gone_hint(host, ep).unwrap_or_else(|| {
            if host == self.config.host {
                "list them with: overlayctl endpoints".to_owned()
            } else {
                "if it has moved here, say --take-over; list them with: overlayctl endpoints"
                    .to_owned()
            }
        });
        let name = host_text_of(ep);
        let host = self.host_name(host);
        Refused::new(ErrorKind::Taken, format!("{what} is taken by endpoint {name} on host {host}"))
            .hint(hint)
    }

    /// Goes on with attaches that wait for addresses.
    pub(crate) fn serve_waiting(&mut self) {
        let mut asking: BTreeSet<(NetworkId, Family)> =
            self.waiting.iter().filter_map(Waiting::asks).chain(self.imports_asking()).collect();
        // Of what this host has none left: not to be looked for once more for each that waits.
        let mut dry = BTreeSet::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if self.once.is_settling(waiting.network) {
                self.waiting.push(waiting);
                continue;
            }
            let net = waiting.network;
            let over = |a: &mut Asking| {
                a.until <= self.now.mono || a.half && !self.may_spare(net, a.family, a.target)
            };
            if let Some(at) = waiting.asking.take_if(over) {
                waiting.tried.insert((at.family, at.target));
                asking.remove(&(waiting.network, at.family));
                self.withdraw_want(waiting.network, at.family);
            }
            match self.addresses_for(&waiting, &mut dry) {
                Ok(addresses) => {
                    if let Some(asked) = waiting.asking.take() {
                        asking.remove(&(waiting.network, asked.family));
                        self.withdraw_want(waiting.network, asked.family);
                    }
                    match waiting.wanted {
                        Wanted::Endpoint(id, request) => {
                            self.make(waiting.token, id, waiting.network, *request, addresses);
                        }
                        Wanted::Service(fresh, request) => {
                            self.make_service(waiting.token, fresh, request, addresses);
                        }
                        Wanted::Reservation(..) => {
                            self.hold(waiting.token, waiting.network, &addresses);
                        }
                    }
                }
                Err(Missing::Unowned(_)) if waiting.asking.is_some() => self.waiting.push(waiting),
                Err(Missing::Never(refused) | Missing::Unowned(refused)) => {
                    if let Some(asked) = waiting.asking.take() {
                        asking.remove(&(waiting.network, asked.family));
                        self.withdraw_want(waiting.network, asked.family);
                    }
                    self.reply(waiting.token, Err(refused));
                }
                Err(Missing::Ask { family, what }) => {
                    let slot = (waiting.network, family);
                    if waiting.asking.is_none() && !asking.contains(&slot) {
                        let target = match self.whom_to_ask(&waiting, family, what) {
                            Ok(target) => target,
                            Err(refused) => {
                                self.reply(waiting.token, Err(refused));
                                continue;
                            }
                        };
                        asking.insert(slot);
                        self.want_seq += 1;
                        let want = Want { target, seq: self.want_seq, what };
                        self.publish(
                            RecordKey::Want(waiting.network, family),
                            Some(Record::Want(want)),
                        );
                        let until = self.answer_due(target);
                        let half = what == WantWhat::Half;
                        waiting.asking = Some(Asking { family, target, until, half });
                    }
                    self.waiting.push(waiting);
                }
            }
        }
        self.serve_imports();
    }

    /// Until when an owner that is asked for addresses now may answer.
    pub(crate) fn answer_due(&self, owner: HostId) -> Duration {
        let apart = self.apart(owner).is_some();
        self.now.mono + if apart { WANT_PATIENCE_APART } else { WANT_PATIENCE }
    }

    /// Says whether an answer of `host` is waited for.
    pub(crate) fn is_asked(&self, host: HostId) -> bool {
        self.waiting.iter().filter_map(|w| w.asking.as_ref()).any(|asked| asked.target == host)
            || self.imports_ask(host)
    }

    /// When [`Engine::serve_waiting`] gives an owner up.
    pub(crate) fn waiting_deadline(&self) -> Option<Duration> {
        self.waiting.iter().filter_map(|w| w.asking.as_ref().map(|a| a.until)).min()
    }

    /// Those first that answer soon.
    pub(crate) fn nearest_first(&self, owners: impl Iterator<Item = HostId>) -> Vec<HostId> {
        let mut owners: Vec<HostId> = owners.collect();
        owners.sort_by_key(|owner| self.apart(*owner).is_some());
        owners
    }

    pub(crate) fn withdraw_want(&mut self, network: NetworkId, family: Family) {
        self.publish(RecordKey::Want(network, family), None);
    }

    /// Leases what the attach needs, all of it or nothing.
    fn addresses_for(
        &mut self,
        waiting: &Waiting,
        dry: &mut BTreeSet<(NetworkId, Family)>,
    ) -> Result<Vec<IpAddr>, Missing> {
        let Some(net) = self.networks.get(waiting.network).cloned() else {
            let message = format!("network {} has been removed meanwhile", waiting.network);
            return Err(Missing::Never(Refused::new(ErrorKind::NotFound, message)));
        };
        let me = self.config.host;
        let attach = waiting.wanted.attach();
        let take_over = attach.is_some_and(|attach| attach.take_over);
        let mut got: Vec<IpAddr> = Vec::new();
        let mut missing = None;
        // What is carried along was given out elsewhere.
        if !take_over {
            self.may_give_out_on(waiting.network).map_err(Missing::Never)?;
        }
        for subnet in &net.subnets {
            let family = Family::of(&subnet.gateway);
            let Some(asked) = waiting.wanted.of_family(family) else { continue };
            let carried = asked.filter(|ip| {
                (take_over && self.is_carried(&net, *ip))
                    || attach.is_some_and(|attach| self.inherits(&net, attach, *ip))
            });
            let name = attach.and_then(|attach| attach.name.as_ref());
            let kept =
                asked.is_some_and(|ip| attach.is_some() && self.is_kept_for(net.id, ip, name));
            let Some(pool) = self.pools.get_mut(&(net.id, family)) else { continue };
            if let Some(ip) = asked.filter(|ip| kept && pool.owner(*ip) != Some(me)) {
                // It came along with a move, and its owner may have it back.
                pool.release(ip);
            }
            let result = match asked {
                Some(ip)
                    if attach.is_some_and(|attach| attach.reserved)
                        && self.reserved.take(net.id, ip) =>
                {
                    Ok(ip)
                }
                Some(ip) if kept && pool.owner(ip) == Some(me) => Ok(ip),
                Some(ip) if carried.is_some() => {
                    pool.carry(ip);
                    Ok(ip)
                }
                Some(ip) => pool.allocate_exact(me, ip).map(|()| ip),
                None if dry.contains(&(net.id, family)) => Err(NoAddress::Exhausted),
                None => self.allocate_unclaimed(net.id, family),
            };
            if result == Err(NoAddress::Exhausted) {
                dry.insert((net.id, family));
            }
            match result {
                Ok(ip) => got.push(ip),
                Err(why) => {
                    missing = Some(self.missing(&net, family, asked, why));
                    break;
                }
            }
        }
        match missing {
            None => Ok(got),
            Some(missing) => {
                for ip in got {
                    self.release_lease(net.id, ip);
                }
                Err(missing)
            }
        }
    }

    /// A free address that no endpoint elsewhere claims: one of a host that was
    /// forgotten may have one that is ours to give now.
    pub(crate) fn allocate_unclaimed(
        &mut self,
        net: NetworkId,
        family: Family,
    ) -> Result<IpAddr, NoAddress> {
        let me = self.config.host;
        let Some(pool) = self.pools.get_mut(&(net, family)) else {
            return Err(NoAddress::NoOwner);
        };
        let mut claimed = Vec::new();
        let found = loop {
            match pool.allocate(me) {
                Ok(ip) if self.view.ip_claims(net, ip).any(|(host, _)| host != me) => {
                    claimed.push(ip);
                }
                other => break other,
            }
        };
        claimed.into_iter().for_each(|ip| pool.release(ip));
        found
    }

    fn missing(
        &self,
        net: &Network,
        family: Family,
        asked: Option<IpAddr>,
        why: NoAddress,
    ) -> Missing {
        let pool = &self.pools[&(net.id, family)];
        if let Some(ip) = asked {
            return match why {
                NoAddress::OwnedBy(owner) if self.is_up(owner) => {
                    Missing::Ask { family, what: WantWhat::Address(ip) }
                }
                NoAddress::OwnedBy(owner) => Missing::Never(Refused::new(
                    ErrorKind::Unavailable,
                    format!(
                        "{ip} belongs to host {}, which cannot be reached",
                        self.host_name(owner)
                    ),
                )),
                NoAddress::NoOwner => Missing::Unowned(self.no_owner(net)),
                NoAddress::Leased if self.kept.keeper(net.id, ip).is_some() => {
                    let name = self.kept.keeper(net.id, ip).map_or("", Name::as_str);
                    let message = format!("{ip} is kept for {name} on this host");
                    Missing::Never(Refused::new(ErrorKind::Taken, message).hint(format!(
                        "let it go with: overlayctl endpoint forget-ip {name} --net {}",
                        net.name
                    )))
                }
                NoAddress::Leased | NoAddress::NotLeasable | NoAddress::Exhausted => {
                    Missing::Never(
                        Refused::new(ErrorKind::Taken, format!("{ip} is taken"))
                            .hint(list_hint(net)),
                    )
                }
            };
        }
        if pool.tokens().is_empty() {
            return Missing::Unowned(self.no_owner(net));
        }
        Missing::Ask { family, what: WantWhat::Half }
    }

    /// The next owner that might give `waiting` what it lacks, or why there is none.
    fn whom_to_ask(
        &self,
        waiting: &Waiting,
        family: Family,
        what: WantWhat,
    ) -> Result<HostId, Refused> {
        let net = self.networks.get(waiting.network).expect("it was there a moment ago");
        let pool = &self.pools[&(net.id, family)];
        let untried = |owner: &HostId| !waiting.tried.contains(&(family, *owner));
        match what {
            WantWhat::Address(ip) => {
                let owner = pool.owner(ip).expect("it was another host's a moment ago");
                if untried(&owner) {
                    return Ok(owner);
                }
                Err(Refused::new(
                    ErrorKind::Unavailable,
                    format!(
                        "host {} owns {ip} and did not give it: it is in use there, or the host \
                         did not answer",
                        self.host_name(owner)
                    ),
                )
                .hint(list_hint(net)))
            }
            WantWhat::Half => {
                let others = in_turn(self.config.host, pool.sources()).into_iter();
                let others = others.filter(|owner| self.is_up(*owner) && untried(owner));
                // Who has nothing left does not answer: it would be waited for in vain.
                let others = others.filter(|owner| self.may_spare(net.id, family, *owner));
                self.nearest_first(others).first().copied().ok_or_else(|| self.exhausted(net, pool))
            }
        }
    }

    /// True if `owner` has an address to choose from that no endpoint has, as far as is known
    /// here: at rest, what is known is the truth but for what is kept or held back there.
    fn may_spare(&self, net: NetworkId, family: Family, owner: HostId) -> bool {
        let pool = self.pools.get(&(net, family));
        pool.is_some_and(|pool| {
            pool.choices_of(owner).any(|ip| self.view.ip_claims(net, ip).next().is_none())
        })
    }

    /// An endpoint of `host` came or went: true if somebody here waits for addresses of that
    /// host, which has none left now.
    pub(crate) fn asks_in_vain(&self, host: HostId) -> bool {
        let asked = self.waiting.iter().filter_map(|w| Some((w.network, w.asking.as_ref()?)));
        let mut of_host = asked.filter(|(_, asking)| asking.target == host && asking.half);
        of_host.any(|(net, asking)| !self.may_spare(net, asking.family, host))
    }

    pub(crate) fn no_owner(&self, net: &Network) -> Refused {
        Refused::new(
            ErrorKind::Unavailable,
            format!("the addresses of network {} are not known here yet", net.name),
        )
        .hint("try again in a moment; if it stays so, see: overlayctl hosts")
    }

    /// Gives an address back, unless it is kept, or another endpoint of this host
    /// has it: one that has moved away and back again was two for a while.
    pub(crate) fn release_lease(&mut self, net: NetworkId, ip: IpAddr) {
        let me = self.config.host;
        if self.is_vip(net, ip) {
            return;
        }
        let moved = self.moved.iter().filter_map(|id| self.local.get(id));
        let mut moved = moved.map(|local| &local.local.endpoint);
        if self.kept.keeper(net, ip).is_some()
            || self.view.ip_claims(net, ip).any(|(host, _)| host == me)
            || moved.any(|ep| ep.network == net && ep.addresses.contains(&ip))
        {
            return;
        }
        if let Some(pool) = self.pools.get_mut(&(net, Family::of(&ip))) {
            pool.release(ip);
        }
    }

    /// Everything is known: into the kernel with it.
    fn make(
        &mut self,
        token: Token,
        id: EndpointId,
        network: NetworkId,
        mut request: Attach,
        addresses: Vec<IpAddr>,
    ) {
        let derived = MacAddr::for_addresses(&addresses, &id.bits().to_be_bytes());
        let mac = *request.mac.get_or_insert(derived);
        // The name, address or MAC may have been taken while this one waited.
        let checked = self.check_attach(&request).and_then(|_| {
            if request.take_over { self.next_seq(network, mac, &addresses) } else { Ok(0) }
        });
        let mut move_seq = match checked {
            Ok(move_seq) => move_seq,
            Err(refused) => {
                for ip in addresses {
                    self.release_lease(network, ip);
                }
                return self.reply(token, Err(refused));
            }
        };
        let net = self.networks.get(network);
        if let Some(former) = net.and_then(|net| self.predecessor(net, &request)) {
            move_seq = move_seq.max(self.begin_return(former, id));
        }
        let place = match request.place {
            Where::Netns { netns, taken_ifnames, ifname, default_route, no_dns } => Place::Netns {
                ifname: ifname.unwrap_or_else(|| free_ifname(&taken_ifnames)),
                netns,
                default_route,
                no_dns,
            },
            Where::Device(ifname) => {
                let device = &request.foreign.devices[&ifname];
                let lent = self.lent(&ifname, device).map(|port| port.was_up);
                let (index, was_up) = (device.index, lent.unwrap_or(device.up));
                let net_mtu = self.networks.get(network).map_or(0, |net| net.mtu);
                let wide = request.foreign.mtus.get(&ifname).filter(|mtu| **mtu > net_mtu);
                if let Some(mtu) = wide {
                    let what = format!(
                        "its MTU is {mtu}, that of its network {net_mtu}: the station behind it \
                         must send no packet larger than that"
                    );
                    self.notice(Notice::Device { ifname: ifname.clone(), what });
                }
                Place::Device { ifname, index, was_up }
            }
            Where::Static => Place::Static,
        };
        let endpoint = Endpoint {
            id,
            network,
            name: request.name,
            aliases: request.aliases,
            mac,
            addresses,
            labels: request.labels,
            ports: request.ports,
            move_seq,
            attached_ms: self.now.wall_ms,
        };
        if request.keep_ip {
            self.keeping.insert(id);
        }
        self.nat_known = true;
        let local = LocalEndpoint {
            endpoint: endpoint.clone(),
            place,
            boot_id: self.config.boot_id.clone(),
            moved: None,
        };
        self.insert_local(id, Local { local, phase: Phase::Making(token) });
        self.activate(id, Some(endpoint));
    }

    /// The only way into `local`: the indices go along.
    pub(crate) fn insert_local(&mut self, id: EndpointId, local: Local) {
        if let Place::Device { ifname, .. } = &local.local.place {
            self.by_device.insert(ifname.clone(), id);
        }
        if matches!(local.phase, Phase::Making(_)) {
            self.making.insert(id);
        }
        if local.local.moved.is_some() {
            self.moved.insert(id);
        }
        let own = Some(local.local.endpoint.clone()).filter(is_own);
        if matches!(local.local.place, Place::Netns { .. }) {
            self.herald.look_at_door(id);
        }
        self.local.insert(id, local);
        self.note_local_ports(id);
        if let Some(own) = own {
            self.note_own(&own, true);
        }
    }

    /// The only way out of `local`.
    fn take_local(&mut self, id: EndpointId) -> Option<Local> {
        let local = self.local.remove(&id)?;
        if let Place::Device { ifname, .. } = &local.local.place {
            self.by_device.remove(ifname);
        }
        self.making.remove(&id);
        self.keeping.remove(&id);
        self.gone.remove(&id);
        self.nat_known |= !local.local.endpoint.ports.is_empty();
        self.note_local_ports(id);
        if is_own(&local.local.endpoint) {
            self.note_own(&local.local.endpoint, false);
        }
        self.herald.look_at_door(id);
        Some(local)
    }

    /// Puts an own endpoint into the view or takes it out.
    pub(crate) fn activate(&mut self, id: EndpointId, endpoint: Option<Endpoint>) {
        let me = self.config.host;
        let Some(local) = self.local.get(&id).map(|l| &l.local) else { return };
        let net = local.endpoint.network;
        let guard = local.port().map(ObjectKey::Guard);
        for key in local.port_key().into_iter().chain(guard) {
            self.touch(key);
        }
        let used = self.view.is_user(net, me);
        let placed = endpoint.map(|endpoint| Arc::new(Placed { host: me, endpoint }));
        if let Some(shift) = self.view.set_active(me, net, id, placed) {
            self.on_shift(shift);
        }
        let left = self.moved.iter().filter_map(|id| self.local.get(id));
        let lingering = left.into_iter().any(|l| l.local.endpoint.network == net);
        self.view.set_lingering(net, lingering);
        if used != self.view.is_user(net, me) {
            self.touch_network(net);
            self.republish = true;
        }
    }

    /// A plan has been carried out: see how far the endpoints have come.
    pub(crate) fn advance_endpoints(&mut self) {
        let making: Vec<(EndpointId, Token)> = self
            .making
            .iter()
            .filter_map(|id| match self.local.get(id)?.phase {
                Phase::Making(token) => Some((*id, token)),
                _ => None,
            })
            .collect();
        for (id, token) in making {
            let Some(net) = self.networks.get(self.local[&id].local.endpoint.network) else {
                let refused = Refused::new(ErrorKind::NotFound, "the network has been removed");
                self.roll_back(id, token, refused);
                continue;
            };
            let port = self.local[&id].local.port_key();
            let guard = self.local[&id].local.port().map(ObjectKey::Guard);
            let needed: Vec<ObjectKey> =
                needed(&self.config, net).chain(guard).chain(port.clone()).collect();
            if let Some(why) = self.networks.conflict(net.id) {
                // It came while this one was on its way.
                let message = format!("network {} is not programmed: {why}", net.name);
                let refused = Refused::new(ErrorKind::Unsupported, message);
                self.roll_back(id, token, refused);
                continue;
            }
            let failed = needed.iter().find_map(|key| self.kernel.failures().get(key));
            if let Some(failure) = failed {
                let kind = match failure.refusal {
                    Refusal::Taken | Refusal::PeerNameTaken => ErrorKind::Taken,
                    Refusal::NetnsGone | Refusal::DeviceGone => ErrorKind::NotFound,
                    Refusal::NoDevice | Refusal::Permission | Refusal::Busy | Refusal::Other => {
                        ErrorKind::Kernel
                    }
                };
                let refused = Refused::new(kind, failure.text.clone());
                self.roll_back(id, token, refused);
            } else if needed.iter().all(|key| self.kernel.mirror().contains_key(key))
                && port.is_none_or(|key| self.is_as_wanted(&key))
                && (!self.with_ports.contains(&id) || self.is_as_wanted(&ObjectKey::Nat))
            {
                self.making.remove(&id);
                let local = self.local.get_mut(&id).expect("listed above");
                local.phase = Phase::Saving(token);
                if let Some(draft) = self.importing.remove(&token) {
                    self.resume_import(id, token, draft);
                    continue;
                }
                let endpoint = StateChange::Endpoint(Box::new(local.local.clone()));
                let mut changes: Vec<_> =
                    self.succession(id).into_iter().chain([endpoint]).collect();
                changes.extend(self.to_keep(id).map(StateChange::Kept));
                self.persist(changes, After::Attached(id));
            }
        }

        let orphans: Vec<EndpointId> = self
            .kernel
            .failures()
            .iter()
            .filter_map(|(key, failure)| match (key, failure.refusal) {
                (ObjectKey::Link(name), Refusal::NetnsGone) => endpoint_of(name),
                (ObjectKey::Port(name), Refusal::DeviceGone) => self.by_device.get(name).copied(),
                _ => None,
            })
            .filter(|id| self.local.get(id).is_some_and(|l| l.phase == Phase::Ready))
            .filter(|id| !self.gone.contains_key(id))
            .collect();
        for id in orphans {
            self.lost_namespace(id);
        }
    }

    /// Another port of that name would not do.
    fn is_as_wanted(&self, port: &ObjectKey) -> bool {
        match port {
            ObjectKey::Port(_) | ObjectKey::Nat => {
                self.kernel.mirror().get(port) == self.want(port)
            }
            _ => true,
        }
    }

    /// The state file has taken a new endpoint, or could not.
    pub(crate) fn attached(&mut self, id: EndpointId, result: Result<(), String>) {
        let Some(local) = self.local.get_mut(&id) else { return };
        let Phase::Saving(token) = local.phase else { return };
        let ep = local.local.endpoint.clone();
        match result {
            Err(why) => self.roll_back(id, token, unsaved(&why)),
            Ok(()) if self.networks.get(ep.network).is_none() => {
                let mut changes = vec![StateChange::DropEndpoint(id)];
                if let Some(kept) = self.to_keep(id) {
                    changes.push(StateChange::DropKept(kept.network, kept.name));
                }
                self.persist(changes, After::Nothing);
                let refused = Refused::new(ErrorKind::NotFound, "the network has been removed");
                self.roll_back(id, token, refused);
            }
            Ok(()) => {
                local.phase = Phase::Ready;
                self.herald.look_at_door(id);
                if let Some(kept) = self.to_keep(id) {
                    self.keep(kept);
                    self.keeping.remove(&id);
                }
                self.publish(
                    RecordKey::Endpoint(ep.network, id),
                    Some(Record::Endpoint(ep.clone())),
                );
                if let Some(net) = self.networks.get(ep.network) {
                    let notice = Notice::Attached {
                        id,
                        name: ep.name.clone(),
                        net: net.name.clone(),
                        addresses: ep.addresses.clone(),
                    };
                    self.notice(notice);
                }
                self.complete_succession(id);
                self.arrived(&ep);
                if let Some(view) = self.local_view(id) {
                    self.reply(token, Ok(Reply::Endpoint(Box::new(view))));
                }
            }
        }
    }

    fn roll_back(&mut self, id: EndpointId, token: Token, refused: Refused) {
        self.undo_succession(id);
        self.remove_local(id);
        if let Some(draft) = self.importing.remove(&token) {
            self.release_draft(&draft);
        }
        self.reply_when_settled(token, Err(refused));
    }

    /// Takes an own endpoint out of everything but the state file and gossip.
    pub(crate) fn remove_local(&mut self, id: EndpointId) {
        let Some(ep) = self.forget_local(id) else { return };
        for ip in ep.addresses {
            self.release_lease(ep.network, ip);
        }
    }

    /// The same, but its addresses stay leased.
    pub(crate) fn forget_local(&mut self, id: EndpointId) -> Option<Endpoint> {
        self.moved.remove(&id);
        self.activate(id, None);
        Some(self.take_local(id)?.local.endpoint)
    }

    /// Own endpoints go without anybody having asked.
    pub(crate) fn drop_endpoints(
        &mut self,
        ids: impl IntoIterator<Item = EndpointId>,
        why: &'static str,
    ) {
        let mut changes = Vec::new();
        for id in ids {
            let Some(local) = self.local.get(&id) else { continue };
            let net = local.local.endpoint.network;
            let name = local.local.endpoint.name.clone();
            self.remove_local(id);
            self.publish(RecordKey::Endpoint(net, id), None);
            changes.push(StateChange::DropEndpoint(id));
            self.notice(Notice::Detached { id, name, why });
        }
        if !changes.is_empty() {
            self.persist(changes, After::Nothing);
        }
    }

    /// An endpoint of this host is to be detached.
    /// `settled`: the reply waits until the kernel has nothing of it.
    pub(crate) fn detach(&mut self, token: Token, target: &str, net: Option<&str>, settled: bool) {
        match self.find_local(target, net) {
            Err(refused) => self.reply(token, Err(refused)),
            Ok(id) => {
                let local = self.local.get_mut(&id).expect("found above");
                local.phase = Phase::Leaving;
                self.persist(
                    vec![StateChange::DropEndpoint(id)],
                    After::Detached { id, token, settled },
                );
            }
        }
    }

    pub(crate) fn find_local(
        &self,
        target: &str,
        net: Option<&str>,
    ) -> Result<EndpointId, Refused> {
        let net = net.map(|text| self.find_network(text).map(|n| n.id)).transpose()?;
        let (mac, name) = (target.parse::<MacAddr>().ok(), target.parse::<Name>().ok());
        let named = |ep: &Endpoint| {
            ep.id.to_string() == target
                || ep.name.as_ref().is_some_and(|n| n.as_str() == target)
                || mac == Some(ep.mac)
        };
        let on = |ep: &Endpoint| net.is_none_or(|net| ep.network == net);
        let me = self.config.host;
        let mut ids: BTreeSet<EndpointId> = target.parse().into_iter().collect();
        for net in self.networks.iter() {
            let by_name = name.as_ref().map(|name| self.view.name_claims(net.id, name));
            let by_mac = mac.map(|mac| self.view.mac_claims(net.id, mac));
            let claims = by_name.into_iter().flatten().chain(by_mac.into_iter().flatten());
            ids.extend(claims.filter(|(host, _)| *host == me).map(|(_, ep)| ep.id));
        }
        let left = self.moved.iter().filter_map(|id| self.local.get(id));
        let left = left.map(|local| &local.local.endpoint);
        ids.extend(left.filter(|ep| named(ep)).map(|ep| ep.id));
        let found: Vec<&Local> = ids
            .iter()
            .filter_map(|id| self.local.get(id))
            .filter(|l| on(&l.local.endpoint))
            .collect();
        match found.as_slice() {
            [one] if one.phase == Phase::Ready => Ok(one.local.endpoint.id),
            [_] => Err(Refused::new(
                ErrorKind::Unavailable,
                format!("endpoint {target} is being attached or detached"),
            )),
            [] => {
                let elsewhere = self.view.remote_endpoints().find(|(_, _, ep)| named(ep) && on(ep));
                Err(match elsewhere {
                    Some((host, ..)) => Refused::new(
                        ErrorKind::NotFound,
                        format!("endpoint {target} is on host {}, not here", self.host_name(host)),
                    )
                    .hint("detach it there"),
                    None => {
                        Refused::new(ErrorKind::NotFound, format!("no endpoint `{target}` here"))
                            .hint("list them with: overlayctl endpoints --local")
                    }
                })
            }
            _ => Err(Refused::new(
                ErrorKind::Invalid,
                format!("{} endpoints here are named {target}", found.len()),
            )
            .hint("say which with --net NETWORK, or use the id")),
        }
    }

    /// The state file has let an endpoint go, or could not.
    pub(crate) fn detached(
        &mut self,
        id: EndpointId,
        token: Token,
        settled: bool,
        result: Result<(), String>,
    ) {
        let Some(view) = self.local_view(id) else { return };
        match result {
            Err(why) => {
                self.local.get_mut(&id).expect("seen above").phase = Phase::Ready;
                self.follow_own(id);
                self.reply(token, Err(unsaved(&why)));
            }
            Ok(()) => {
                let net = view.endpoint.network;
                self.remove_local(id);
                self.publish(RecordKey::Endpoint(net, id), None);
                let name = view.endpoint.name.clone();
                self.notice(Notice::Detached { id, name, why: "asked for" });
                let reply = Ok(Reply::Endpoint(Box::new(view)));
                match settled {
                    true => self.reply_when_settled(token, reply),
                    false => self.reply(token, reply),
                }
            }
        }
    }

    /// Another host asks for addresses.
    pub(crate) fn on_want(&mut self, host: HostId, net: NetworkId, family: Family, want: Want) {
        let me = self.config.host;
        // While another machine has our ranges too, it might give the same.
        if want.target != me || self.doubled.contains_key(&me) {
            return;
        }
        if self.once.is_settling(net) {
            return self.once.put_off(host, net, family, want);
        }
        let handled = self.wants_handled.entry((host, net, family)).or_default();
        if want.seq <= *handled {
            return;
        }
        *handled = want.seq;
        // Nor to whom it has given up, nor while it may have been given up itself.
        if self.fates.is_given_up(host) || self.may_give_out_on(net).is_err() {
            return;
        }
        let floor = self.fates.floor_of(host);
        let Some(pool) = self.pools.get_mut(&(net, family)) else { return };
        let before = pool.clone();
        let given = match want.what {
            WantWhat::Half => pool.donate_half(me, host, floor),
            WantWhat::Address(ip) => {
                pool.donate_exact(me, host, floor, ip).map(|tokens| (tokens, 1))
            }
        };
        let Some((tokens, count)) = given else { return };
        let changes = tokens
            .iter()
            .map(|(offset, token)| StateChange::Ring(net, family, *offset, *token))
            .collect();
        let after =
            After::Donated { net, family, tokens, count, to: host, before: Box::new(before) };
        self.persist(changes, after);
    }

    /// Counts endpoints of this host on `net`.
    pub(crate) fn locals_on(&self, net: NetworkId) -> usize {
        self.local.values().filter(|l| l.local.endpoint.network == net).count()
    }

    pub(crate) fn touch(&mut self, key: ObjectKey) {
        self.kernel.touch(key, Cause::Touched);
        self.revised = true;
    }
}

fn list_hint(net: &Network) -> String {
    format!("list them with: overlayctl endpoints --net {}", net.name)
}

/// Where addresses of `subnet` are chosen from, for people.
pub(crate) fn chosen_from(net: &Network, subnet: &Subnet) -> String {
    let family = |ip: &IpAddr| ip.is_ipv4() == subnet.gateway.is_ipv4();
    match net.ip_ranges.iter().find(|range| family(&range.first())) {
        Some(range) => format!("{range} of {}", subnet.cidr),
        None => subnet.cidr.to_string(),
    }
}

/// Refuses an address that the network excludes, unless it moves or changes
/// with an endpoint that has it already.
pub(crate) fn check_excluded(
    net: &Network,
    ip: IpAddr,
    has_it: impl FnOnce() -> bool,
) -> Result<(), Refused> {
    if !net.excludes(ip) || has_it() {
        return Ok(());
    }
    Err(Refused::new(ErrorKind::Invalid, format!("{ip} is excluded from network {}", net.name))
        .hint(format!("choose another, or: overlayctl net set {} --include {ip}", net.name)))
}

pub(crate) fn host_text_of(ep: &Endpoint) -> String {
    ep.name.as_ref().map_or_else(|| ep.id.to_string(), ToString::to_string)
}

/// The state file could not be written, so the request did not happen.
pub(crate) fn unsaved(why: &str) -> Refused {
    Refused::new(ErrorKind::Unavailable, format!("cannot write the state file: {why}"))
        .hint("nothing was changed; free or mend the disk, then try again")
}

/// Why an endpoint of this host goes whose place is gone.
pub(crate) fn gone_text(place: &Place) -> &'static str {
    match place {
        Place::Netns { .. } => "its network namespace is gone",
        Place::Device { .. } => "its device is gone",
        Place::Static => "what it stood behind is gone",
    }
}

/// What must be in the kernel of a network for an endpoint to be of use.
pub(crate) fn needed(config: &Config, net: &Network) -> impl Iterator<Item = ObjectKey> {
    let bridge = net.vni.bridge();
    let vxlans: Vec<ObjectKey> = config.devices(net.vni).map(ObjectKey::Link).collect();
    [ObjectKey::Firewall, ObjectKey::PortRules, ObjectKey::Link(bridge.clone())]
        .into_iter()
        .chain((!net.internal).then_some(ObjectKey::Nat))
        .chain(vxlans)
        .chain(gateways(net).map(move |g| ObjectKey::Address(bridge.clone(), g)))
}

fn peer_name_taken(ifname: &IfName, netns: &NetnsRef) -> Refused {
    Refused::new(
        ErrorKind::Taken,
        format!("an interface {ifname} exists in {}", netns.path.display()),
    )
    .hint("choose another with --ifname, or leave it out for the first free eth<n>")
}

fn free_ifname(taken: &BTreeSet<IfName>) -> IfName {
    (0..=taken.len())
        .map(|n| IfName::new(&format!("eth{n}")).expect("eth and a few digits fit"))
        .find(|name| !taken.contains(name))
        .expect("one more name than there are taken")
}
