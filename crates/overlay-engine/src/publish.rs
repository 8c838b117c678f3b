//! Ports of a host, or of every host, that lead to endpoints, and the way out.
//!
//! What follows for this host is [`Engine::want_nat`], a function of what is known,
//! as all that is wanted: the ports of its own endpoints lead to them, and ports of
//! the whole cluster (`mode=cluster`) to all that share an alias with whoever
//! published them, wherever these are.
//!
//! What a host sends on to endpoints of other hosts must bear an address that leads
//! back to it. The gateway's is every host's; so where a network has ports of the
//! whole cluster, each host takes a static endpoint of its own there, with the MAC
//! of its VXLAN device: frames to that come up to the host by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use overlay_model::{
    Endpoint, EndpointId, Family, Foreign, Front, HostId, MacAddr, Name, Nat, Network, NetworkId,
    Object, ObjectKey, Protocol, Publish, Record, RecordKey, Translation,
};
use serde::Serialize;

use crate::cluster_view::HostState;
use crate::endpoints::{Local, Phase, Station, host_text_of, unsaved};
use crate::engine::{After, Engine};
use crate::event::{
    Attach, ChangeEndpoint, Effect, ErrorKind, LocalEndpoint, Notice, Place, Refused, Reply,
    StateChange, Token, Where,
};
use crate::plan::Completeness;

/// How many entries, and how many ports, one endpoint may publish.
const MAX_ENTRIES: usize = 16;
const MAX_PORTS: usize = 1000;

/// Bytes that aliases, labels and ports may take together in a record.
const RECORD_BYTES: usize = 656;

/// What marks a host's own endpoint on a network.
const OWN_LABEL: (&str, &str) = ("overlayd", "host");

/// The token of what nobody asks for: no reply goes anywhere.
pub(crate) const NOBODY_ASKS: Token = 0;

/// A port that this host takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortView {
    /// Which.
    pub publish: Publish,
    /// Who published it.
    pub endpoint: EndpointId,
    /// Its name.
    pub name: Option<Name>,
    /// Its network.
    pub net: Option<Name>,
    /// Its host.
    pub host: String,
    /// Where the first of its ports leads to from here.
    pub to: Vec<SocketAddr>,
}

impl Engine {
    // ----- what is asked ---------------------------------------------------

    /// Refuses ports that an endpoint of `net` cannot publish; those that are `going`
    /// have none any more.
    pub(crate) fn check_ports(
        &self,
        net: &Network,
        ports: &[Publish],
        other_bytes: usize,
        aliases: &BTreeSet<Name>,
        going: impl Fn(HostId, &Endpoint) -> bool,
    ) -> Result<(), Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        if ports.is_empty() {
            return Ok(());
        }
        if net.internal {
            return Err(invalid(format!("network {} is internal: nothing gets in", net.name))
                .hint("attach to a network that is not, too, and publish there"));
        }
        let count: usize = ports.iter().map(|p| usize::from(p.count)).sum();
        if ports.len() > MAX_ENTRIES || count > MAX_PORTS {
            return Err(invalid(format!(
                "{} entries with {count} ports are too many for one endpoint",
                ports.len()
            ))
            .hint(format!("at most {MAX_ENTRIES} entries and {MAX_PORTS} ports; a range is one")));
        }
        let bytes = other_bytes + ports.iter().map(bytes_of).sum::<usize>();
        if bytes > RECORD_BYTES {
            return Err(invalid(format!(
                "labels, aliases and ports have {bytes} bytes together; at most {RECORD_BYTES} \
                 are carried"
            )));
        }
        for (i, port) in ports.iter().enumerate() {
            port.check().map_err(|err| invalid(err.to_string()))?;
            if port.host_port == 0 {
                return Err(invalid(format!("no free port was chosen for {port}")));
            }
            let family =
                |ip: &IpAddr| net.subnets.iter().any(|s| s.cidr.contains(ip) || same(s.cidr, ip));
            if port.at.is_some_and(|at| !family(&at)) {
                return Err(invalid(format!("{port}: network {} has no such addresses", net.name)));
            }
            if let Some(other) = ports[..i].iter().find(|other| other.meets(port)) {
                return Err(invalid(format!("{other} and {port} claim the same port")));
            }
            self.check_reserved(port)?;
            let others = self.publishing().filter(|(host, ep)| !going(*host, ep));
            for (host, ep) in others {
                let here = host == self.config.host;
                let claims =
                    |other: &&Publish| other.meets(port) && (here || other.cluster || port.cluster);
                let Some(claimed) = ep.ports.iter().find(claims) else { continue };
                // Those of one service publish the same, each for all.
                let shares = ep.network == net.id && ep.aliases.iter().any(|a| aliases.contains(a));
                let alike = (claimed.protocol, claimed.host_port, claimed.count)
                    == (port.protocol, port.host_port, port.count);
                if port.cluster && claimed.cluster && shares && alike {
                    continue;
                }
                let name = host_text_of(ep);
                let message = format!(
                    "port {} is published by endpoint {name} on host {}",
                    claimed.front(),
                    self.host_name(host)
                );
                return Err(Refused::new(ErrorKind::Taken, message).hint(if port.cluster && claimed.cluster {
                    "endpoints that share it need an alias in common, and the same ports: --alias"
                } else {
                    "list them with: overlayctl ports; 0 as the host's port takes any that is free"
                }));
            }
        }
        Ok(())
    }

    fn check_reserved(&self, port: &Publish) -> Result<(), Refused> {
        let (gossip, vxlan) = (self.config.gossip.port(), self.config.vxlan_port);
        let taken = |what: &str, number: u16| {
            let message = format!("port {number}/{} is overlayd's own, for {what}", port.protocol);
            Err(Refused::new(ErrorKind::Taken, message).hint("choose another"))
        };
        for (number, _) in port.pairs() {
            if number == gossip && port.protocol != Protocol::Sctp {
                return taken("gossip", number);
            }
            if number == vxlan && port.protocol == Protocol::Udp {
                return taken("VXLAN", number);
            }
        }
        Ok(())
    }

    /// All endpoints that publish something, this host's on their way too.
    fn publishing(&self) -> impl Iterator<Item = (HostId, &Endpoint)> {
        let me = self.config.host;
        let others = self.view.with_ports().filter(move |(host, _)| *host != me);
        let local = self.with_ports.iter().filter_map(|id| self.local.get(id));
        others.chain(local.map(move |local| (me, &local.local.endpoint)))
    }

    /// Ports are to lead to an endpoint of this host, or no longer.
    pub(crate) fn change_ports(
        &mut self,
        token: Token,
        target: &str,
        net: Option<&str>,
        change: &ChangePorts,
    ) -> Result<(), Refused> {
        let id = self.find_local(target, net)?;
        let local = &self.local[&id].local;
        let ep = &local.endpoint;
        if local.moved.is_some() {
            let message = format!("endpoint {target} has moved away: publish where it is now");
            return Err(Refused::new(ErrorKind::Unavailable, message));
        }
        let Some(network) = self.networks.get(ep.network).cloned() else {
            return Err(Refused::new(ErrorKind::NotFound, "its network is gone"));
        };
        let mut ports = ep.ports.clone();
        match change {
            ChangePorts::Add(more) => ports.extend(more),
            ChangePorts::Remove(some) if some.is_empty() => ports.clear(),
            ChangePorts::Remove(some) => {
                for (protocol, port) in some {
                    let at = ports.iter().position(|p| {
                        p.protocol == *protocol && p.pairs().any(|(host, _)| host == *port)
                    });
                    let Some(at) = at else {
                        let message =
                            format!("endpoint {target} does not publish {port}/{protocol}");
                        return Err(Refused::new(ErrorKind::NotFound, message)
                            .hint("list what it does with: overlayctl ports"));
                    };
                    ports.remove(at);
                }
            }
        }
        self.check_ports(&network, &ports, record_bytes(ep), &ep.aliases, |host, other| {
            (host, other.id) == (self.config.host, id)
        })?;
        let mut changed = local.clone();
        changed.endpoint.ports = ports;
        self.write_endpoint(token, local.clone(), changed);
        Ok(())
    }

    /// An endpoint of this host is to have another name, other aliases or labels.
    pub(crate) fn change_endpoint(
        &mut self,
        token: Token,
        target: &str,
        net: Option<&str>,
        change: &ChangeEndpoint,
    ) -> Result<(), Refused> {
        let id = self.find_local(target, net)?;
        let local = &self.local[&id].local;
        if local.moved.is_some() {
            let message = format!("endpoint {target} has moved away: change it where it is now");
            return Err(Refused::new(ErrorKind::Unavailable, message));
        }
        let mut changed = local.clone();
        let ep = &mut changed.endpoint;
        if let Some(name) = &change.name {
            ep.name = Some(name.clone());
        }
        if let Some(aliases) = &change.aliases {
            ep.aliases.clone_from(aliases);
        }
        if let Some(labels) = &change.labels {
            ep.labels.clone_from(labels);
        }
        if let Some(name) = &local.endpoint.name
            && changed.endpoint.name != local.endpoint.name
            && self.is_kept(&local.endpoint)
        {
            let message = format!("the addresses of {name} are kept for that name");
            return Err(Refused::new(ErrorKind::Taken, message).hint(format!(
                "let them go first with: overlayctl endpoint forget-ip {name} --net {}",
                self.networks.get(local.endpoint.network).map_or("NETWORK", |n| n.name.as_str())
            )));
        }
        let ep = &changed.endpoint;
        let Some(network) = self.networks.get(ep.network) else {
            return Err(Refused::new(ErrorKind::NotFound, "its network is gone"));
        };
        let itself = |host, other: &Endpoint| (host, other.id) == (self.config.host, id);
        let station = Station {
            ips: &[],
            mac: None,
            name: ep.name.as_ref(),
            aliases: &ep.aliases,
            labels: &ep.labels,
        };
        self.check_station(network, &station, itself)?;
        self.check_ports(network, &ep.ports, record_bytes(ep), &ep.aliases, itself)?;
        self.write_endpoint(token, local.clone(), changed);
        Ok(())
    }

    fn write_endpoint(&mut self, token: Token, before: LocalEndpoint, after: LocalEndpoint) {
        let change = StateChange::Endpoint(Box::new(after.clone()));
        let (before, after) = (Box::new(before), Box::new(after));
        self.persist(vec![change], After::EndpointChanged { token, before, after });
    }

    /// The state file has taken what is otherwise with an endpoint, or could not.
    pub(crate) fn endpoint_changed(
        &mut self,
        token: Token,
        (before, after): (&Endpoint, &Endpoint),
        result: Result<(), String>,
    ) {
        if let Err(why) = result {
            return self.reply(token, Err(unsaved(&why)));
        }
        let id = after.id;
        self.nat_known = true;
        let Some(local) = self.local.get_mut(&id).filter(|l| l.phase == Phase::Ready) else {
            let gone = Refused::new(ErrorKind::NotFound, "it has been detached meanwhile");
            return self.reply(token, Err(gone));
        };
        let ep = &mut local.local.endpoint;
        if before.ports != after.ports {
            ep.ports.clone_from(&after.ports);
        }
        let named = |ep: &Endpoint| (ep.name.clone(), ep.aliases.clone(), ep.labels.clone());
        let renamed = named(before) != named(after);
        if renamed {
            (ep.name, ep.aliases, ep.labels) = named(after);
        }
        let ep = ep.clone();
        self.note_local_ports(id);
        self.activate(id, Some(ep.clone()));
        self.publish(RecordKey::Endpoint(ep.network, id), Some(Record::Endpoint(ep.clone())));
        if renamed {
            let (name, aliases) = (ep.name.clone(), ep.aliases.clone());
            self.notice(Notice::Renamed { id, before: before.name.clone(), name, aliases });
        } else {
            let other = |of: &Endpoint, than: &Endpoint| {
                of.ports.iter().filter(|p| !than.ports.contains(p)).copied().collect()
            };
            let (published, withdrawn) = (other(&ep, before), other(before, &ep));
            self.notice(Notice::Ports { id, name: ep.name.clone(), published, withdrawn });
        }
        if let Some(view) = self.local_view(id) {
            self.reply_when_settled(token, Ok(Reply::Endpoint(Box::new(view))));
        }
    }

    /// An endpoint of this host has come, gone, or changed: so may its ports.
    pub(crate) fn note_local_ports(&mut self, id: EndpointId) {
        let local = self.local.get(&id).map(|l| &l.local.endpoint);
        let has = local.is_some_and(|ep| !ep.ports.is_empty());
        let had = if has { !self.with_ports.insert(id) } else { self.with_ports.remove(&id) };
        if has || had {
            self.touch_nat();
        }
    }

    /// A host's own endpoint, of this host, has come (`there`) or gone.
    pub(crate) fn note_own(&mut self, ep: &Endpoint, there: bool) {
        if there {
            self.own_endpoints.insert(ep.network, ep.id);
            self.own_waiting.remove(&ep.network);
        } else {
            self.own_endpoints.remove(&ep.network);
        }
        if let Some(bridge) = self.networks.get(ep.network).map(|net| net.vni.bridge()) {
            for ip in &ep.addresses {
                self.touch(ObjectKey::Address(bridge.clone(), IpNet::from(*ip)));
            }
        }
        self.touch_nat();
    }

    /// Where connections go may be otherwise.
    pub(crate) fn touch_nat(&mut self) {
        self.touch(ObjectKey::Nat);
        self.nat_due = true;
    }

    /// An endpoint somewhere has come, gone, or changed.
    pub(crate) fn look_at_ports(&mut self, ep: &Endpoint) {
        let concerned = !ep.ports.is_empty()
            || ep.aliases.iter().any(|a| self.nat_aliases.contains(&(ep.network, a.clone())));
        if concerned {
            self.touch_nat();
        }
    }

    /// After a step in which it may have become otherwise: which ports of the host are
    /// to be held, and on which networks the host must have an endpoint of its own.
    pub(crate) fn settle_ports(&mut self) {
        if !std::mem::take(&mut self.nat_due) {
            return;
        }
        let me = self.config.host;
        let mut held: BTreeSet<Publish> = BTreeSet::new();
        let mut aliases = BTreeSet::new();
        let mut common: BTreeSet<NetworkId> = BTreeSet::new();
        let used: Vec<NetworkId> = self.used_networks().map(|net| net.id).collect();
        for net in used {
            let mut services = self.services.working(net).peekable();
            let others = |l: &&Local| l.local.endpoint.network == net && !is_own(&l.local.endpoint);
            if services.peek().is_some() && self.local.values().any(|l| others(&l)) {
                common.insert(net);
            }
            aliases.extend(services.map(|service| (net, service.alias.clone())));
        }
        for (host, ep) in self.publishing() {
            let programmed = self
                .networks
                .get(ep.network)
                .is_some_and(|net| !net.internal && self.networks.conflict(net.id).is_none());
            for port in ep.ports.iter().filter(|port| programmed && (host == me || port.cluster)) {
                held.insert(*port);
                if port.cluster {
                    common.insert(ep.network);
                    aliases.extend(ep.aliases.iter().map(|a| (ep.network, a.clone())));
                }
            }
        }
        let other: BTreeSet<(NetworkId, Name)> =
            self.nat_aliases.symmetric_difference(&aliases).cloned().collect();
        self.nat_aliases = aliases;
        // Their ports may have to lead back to where frames came from.
        let concerned = self.local.values().filter(|l| {
            let ep = &l.local.endpoint;
            ep.aliases.iter().any(|alias| other.contains(&(ep.network, alias.clone())))
        });
        for key in concerned.filter_map(|l| l.local.port_key()).collect::<Vec<_>>() {
            self.touch(key);
        }
        if held != self.held {
            self.held.clone_from(&held);
            self.push_effect(Effect::Hold(held.into_iter().collect()));
        }
        self.follow_own_endpoints(&common);
    }

    /// This host has an endpoint of its own where it sends on to others, and nowhere
    /// else.
    fn follow_own_endpoints(&mut self, common: &BTreeSet<NetworkId>) {
        let own = &self.own_endpoints;
        self.own_waiting = common.iter().filter(|net| !own.contains_key(net)).copied().collect();
        if self.completeness == Completeness::Complete {
            let idle = own.iter().filter(|(net, _)| !common.contains(net));
            let idle: Vec<EndpointId> = idle.map(|(_, id)| *id).collect();
            self.drop_endpoints(idle, "this host sends nothing on there any more");
        }
    }

    /// Attaches what [`Engine::follow_own_endpoints`] has found missing.
    pub(crate) fn attach_own(&mut self) {
        if self.own_waiting.is_empty()
            || self.completeness != Completeness::Complete
            || self.now.mono < self.own_retry
        {
            return;
        }
        self.own_retry = self.now.mono + OWN_RETRY;
        for id in self.own_waiting.clone() {
            let under_way = self.waiting.iter().any(|waiting| waiting.is_on(id, NOBODY_ASKS));
            let Some(net) = self.networks.get(id).filter(|_| !under_way) else { continue };
            let request = Attach {
                net: net.id.to_string(),
                place: Where::Static,
                ips: Vec::new(),
                mac: Some(self.vxlan_mac(&net.vni.vxlan(), net.vni)),
                name: None,
                aliases: BTreeSet::new(),
                labels: BTreeMap::from([(OWN_LABEL.0.to_owned(), OWN_LABEL.1.to_owned())]),
                ports: Vec::new(),
                take_over: false,
                keep_ip: false,
                reserved: false,
                foreign: Foreign::default(),
            };
            let seed = [self.config.host.0.as_bytes().as_slice(), &id.0.to_be_bytes()].concat();
            let fresh = MacAddr::derived(&seed).0;
            let fresh = fresh.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            self.attach(NOBODY_ASKS, fresh, request);
        }
    }

    /// When [`Engine::attach_own`] tries again.
    pub(crate) fn own_deadline(&self) -> Option<std::time::Duration> {
        (!self.own_waiting.is_empty() && self.completeness == Completeness::Complete)
            .then_some(self.own_retry)
    }

    /// The addresses of this host's own endpoint on `net`.
    pub(crate) fn own_addresses(&self, net: NetworkId) -> Option<&[IpAddr]> {
        let here = self.own_endpoints.get(&net)?;
        Some(&self.local.get(here)?.local.endpoint.addresses)
    }

    pub(crate) fn port_views(&self) -> Vec<PortView> {
        let me = self.config.host;
        let nat = self.nat();
        let mut views: Vec<PortView> = Vec::new();
        for (host, ep) in self.publishing() {
            for publish in ep.ports.iter().filter(|port| host == me || port.cluster) {
                let front = Front::Host {
                    protocol: publish.protocol,
                    port: publish.host_port,
                    at: publish.at,
                };
                views.push(PortView {
                    publish: *publish,
                    endpoint: ep.id,
                    name: ep.name.clone(),
                    net: self.networks.get(ep.network).map(|net| net.name.clone()),
                    host: self.host_name(host),
                    to: nat.forwards.get(&front).into_iter().flatten().copied().collect(),
                });
            }
        }
        views.sort_by(|a, b| {
            (a.publish, &a.host, a.endpoint).cmp(&(b.publish, &b.host, b.endpoint))
        });
        views
    }

    // ----- what the kernel should hold ----------------------------------------

    /// While too little is known, what the kernel has stays: endpoints of other hosts
    /// are not heard yet.
    pub(crate) fn want_nat(&self) -> Option<Translation> {
        let used = self.used_networks().any(|net| !net.internal);
        if !used {
            return None;
        }
        if self.completeness == Completeness::Partial
            && !self.nat_known
            && let Some(Object::Nat(now)) = self.kernel.mirror().get(&ObjectKey::Nat)
            && !now.altered
        {
            return Some(now);
        }
        Some(self.nat().into())
    }

    fn nat(&self) -> Nat {
        let me = self.config.host;
        let mut nat = Nat::default();
        for net in self.used_networks().filter(|net| !net.internal) {
            nat.subnets.extend(net.subnets.iter().map(|subnet| subnet.cidr));
            if let Some(own) = self.own_addresses(net.id) {
                nat.own.insert(net.vni.bridge(), own.iter().copied().collect());
            }
        }
        let mut direct = BTreeSet::new();
        for (host, ep) in self.publishing() {
            let Some(net) = self.networks.get(ep.network).filter(|net| !net.internal) else {
                continue;
            };
            if self.used(net.vni).is_none_or(|used| used.id != net.id) {
                continue;
            }
            for publish in &ep.ports {
                if publish.cluster {
                    let targets = self.sharing(ep.network, &ep.aliases, Some(ep.id));
                    for (host_port, port) in publish.pairs() {
                        let front =
                            Front::Host { protocol: publish.protocol, port: host_port, at: None };
                        let to = targets.iter().map(|ip| SocketAddr::new(*ip, port));
                        nat.forwards.entry(front).or_default().extend(to);
                    }
                    direct.extend(targets);
                } else if host == me && self.is_here(ep) {
                    for (host_port, port) in publish.pairs() {
                        let (protocol, at) = (publish.protocol, publish.at);
                        let front = Front::Host { protocol, port: host_port, at };
                        let to = ep.addresses.iter().map(|ip| SocketAddr::new(*ip, port));
                        let fits = to.filter(|to| at.is_none_or(|at| at.is_ipv4() == to.is_ipv4()));
                        nat.forwards.entry(front).or_default().extend(fits);
                    }
                    direct.extend(&ep.addresses);
                }
            }
        }
        for net in self.used_networks().filter(|net| !net.internal) {
            self.lead_services(net, &mut nat);
        }
        nat.forwards.retain(|_, to| !to.is_empty());
        nat.direct = direct.into_iter().filter(|ip| self.answers_here(*ip)).collect();
        nat
    }

    /// Its answers to anybody come by this host: it is here, with its default route.
    fn answers_here(&self, ip: IpAddr) -> bool {
        let me = self.config.host;
        self.used_networks().any(|net| {
            let here = self.view.ip_winner(net.id, ip).filter(|(host, _)| *host == me);
            here.and_then(|(_, ep)| self.local.get(&ep.id)).is_some_and(|l| match &l.local.place {
                Place::Netns { default_route, .. } => *default_route,
                Place::Device { .. } | Place::Static => true,
            })
        })
    }

    fn is_here(&self, ep: &Endpoint) -> bool {
        let local = self.local.get(&ep.id);
        local.is_some_and(|l| l.local.moved.is_none() && !self.gone.contains_key(&ep.id))
    }

    /// An endpoint whose connections to a published port, or to a service, may lead back to it.
    pub(crate) fn may_ask_itself(&self, ep: &Endpoint) -> bool {
        let leads_on = |alias: &Name| self.nat_aliases.contains(&(ep.network, alias.clone()));
        !ep.ports.is_empty() || ep.aliases.iter().any(leads_on)
    }

    /// Addresses of all endpoints that have one of `aliases`, and of the one that is
    /// `also` meant: of hosts that are there, or of those that may be if there is none.
    pub(crate) fn sharing(
        &self,
        net: NetworkId,
        aliases: &BTreeSet<Name>,
        also: Option<EndpointId>,
    ) -> BTreeSet<IpAddr> {
        let me = self.config.host;
        let reachable = self.own_addresses(net).is_some();
        let (mut up, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (host, other) in self.view.active_on(net) {
            let shares =
                Some(other.id) == also || other.aliases.iter().any(|a| aliases.contains(a));
            if !shares || (host != me && !reachable) || (host == me && !self.is_here(other)) {
                continue;
            }
            let alive =
                host == me || self.view.presence(host).is_some_and(|p| p.state == HostState::Up);
            let list = if alive { &mut up } else { &mut others };
            let wins =
                |ip: &&IpAddr| self.view.ip_winner(net, **ip).is_some_and(|(at, _)| at == host);
            list.extend(other.addresses.iter().filter(wins));
        }
        if up.is_empty() { others } else { up }
    }
}

/// Which ports of an endpoint are to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum ChangePorts {
    /// These too.
    Add(Vec<Publish>),
    /// Not those that have this port of the host; none said: none at all.
    Remove(Vec<(Protocol, u16)>),
}

/// Says whether this is a host's own endpoint.
pub(crate) fn is_own(ep: &Endpoint) -> bool {
    ep.labels.get(OWN_LABEL.0).map(String::as_str) == Some(OWN_LABEL.1)
}

/// What labels and aliases take of a record.
pub(crate) fn record_bytes(ep: &Endpoint) -> usize {
    let labels: usize = ep.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    labels + ep.aliases.iter().map(|a| a.as_str().len()).sum::<usize>()
}

fn bytes_of(publish: &Publish) -> usize {
    let at = publish.at.map_or(1, |ip| if ip.is_ipv4() { 6 } else { 18 });
    at + 1 + 3 * 3 + 1
}

fn same(cidr: IpNet, ip: &IpAddr) -> bool {
    Family::of(&cidr.addr()) == Family::of(ip)
}

/// How long after a failure a host's own endpoint is tried again.
const OWN_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests;
