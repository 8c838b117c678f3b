//! Services: addresses that no station has, whose connections are spread over all
//! endpoints that share an alias.
//!
//! A service is a record of the whole cluster, like a network: the newest definition
//! wins, a deletion is a tombstone, and whoever publishes its network publishes it
//! too, so that no host's loss loses it. Of two that claim one name or address on a
//! network (created on both sides of a partition) the older works, the other does not
//! and says so.
//!
//! Its address is taken from the ranges of the host that creates it, to which others give if
//! it has none ([`crate::endpoints`]), and which keeps it leased; everywhere it is excluded from being leased, so that nobody gets it who
//! comes by that range later. On every host that uses the network it is an address of
//! the bridge: so ARP and ND for it are answered there and never cross the underlay,
//! and a packet to it comes to the host, where the rules of `publish.rs` lead it on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use overlay_model::{
    AddressRange, Endpoint, EndpointId, Family, Front, HostId, MacAddr, Name, Nat, Network,
    NetworkId, ObjectKey, Placed, Record, RecordKey, Service, ServicePort, Stamp,
};
use serde::{Deserialize, Serialize};

use crate::endpoints::{host_text_of, unsaved};
use crate::engine::{After, Engine};
use crate::event::{ErrorKind, Notice, Refused, Reply, StateChange, Token};

/// How many ports one service may have.
const MAX_PORTS: usize = 16;

/// A service to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateService {
    /// Name or id of the network.
    pub net: String,
    /// Its name in DNS.
    pub name: Name,
    /// Whose holders are behind it.
    pub alias: Name,
    /// At least one.
    pub ports: Vec<ServicePort>,
    /// At most one a family; none: free ones, one for each subnet.
    pub vips: Vec<IpAddr>,
}

/// A service, with what is known of it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// It.
    pub service: Service,
    /// Its network.
    pub net: Name,
    /// Endpoints behind it that connections from here go to.
    pub endpoints: Vec<IpAddr>,
    /// Why it does not work, if so.
    pub conflict: Option<String>,
}

/// All that are known, tombstones included.
#[derive(Debug, Default)]
pub(crate) struct Services {
    known: BTreeMap<u64, Service>,
    published: BTreeMap<u64, Stamp>,
    /// Those that the resolver has been told of.
    named: BTreeMap<u64, Service>,
}

impl Services {
    pub(crate) fn new(all: Vec<Service>) -> Self {
        Self { known: all.into_iter().map(|s| (s.id, s)).collect(), ..Self::default() }
    }

    /// Those of a network that are not deleted, the oldest first.
    pub(crate) fn on(&self, net: NetworkId) -> impl Iterator<Item = &Service> {
        let mut all: Vec<&Service> =
            self.known.values().filter(|s| s.network == net && !s.deleted).collect();
        all.sort_by_key(|service| (service.created, service.id));
        all.into_iter()
    }

    /// Those of them that work.
    pub(crate) fn working(&self, net: NetworkId) -> impl Iterator<Item = &Service> {
        self.on(net).filter(move |service| self.conflict(service).is_none())
    }

    /// The older one that has its name or an address of it.
    fn conflict(&self, service: &Service) -> Option<&Service> {
        self.on(service.network).take_while(|other| other.id != service.id).find(|other| {
            other.name == service.name
                || other.addresses.iter().any(|ip| service.addresses.contains(ip))
        })
    }

    /// The resolver has been told of all that work on `net`, or forgets that network.
    pub(crate) fn note_named(&mut self, net: NetworkId, told: bool) {
        self.named.retain(|_, service| service.network != net);
        if told {
            let working: Vec<Service> = self.working(net).cloned().collect();
            self.named.extend(working.into_iter().map(|service| (service.id, service)));
        }
    }

    /// Gossip begins anew.
    pub(crate) fn publish_anew(&mut self) {
        self.published.clear();
    }
}

impl Engine {
    /// Services that the state file had.
    pub(crate) fn restore_services(&mut self, all: Vec<Service>) {
        self.services = Services::new(all);
        let nets: BTreeSet<NetworkId> = self.services.known.values().map(|s| s.network).collect();
        for net in nets {
            self.follow_services(net);
        }
    }

    /// `network` with the addresses of its services excluded.
    pub(crate) fn with_services(&self, network: &Network) -> Network {
        let vips = self.services.on(network.id).flat_map(|service| &service.addresses);
        let vips = vips.filter_map(|ip| AddressRange::new(*ip, *ip).ok());
        let exclude = AddressRange::union(network.exclude.iter().copied().chain(vips));
        Network { exclude, ..network.clone() }
    }

    /// Pools keep what services have.
    fn follow_services(&mut self, net: NetworkId) {
        let Some(network) = self.networks.get(net).cloned() else { return };
        self.make_pools(&network);
        let vips: Vec<IpAddr> =
            self.services.on(net).flat_map(|service| service.addresses.clone()).collect();
        for ip in vips {
            if let Some(pool) = self.pools.get_mut(&(net, Family::of(&ip))) {
                pool.note_lease(ip);
            }
        }
    }

    /// True for the address of a service.
    pub(crate) fn is_vip(&self, net: NetworkId, ip: IpAddr) -> bool {
        self.services.on(net).any(|service| service.addresses.contains(&ip))
    }

    // ----- what is asked ---------------------------------------------------

    /// The network of a service that can be created.
    pub(crate) fn check_service(&self, request: &CreateService) -> Result<NetworkId, Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        let net = self.find_network(&request.net)?;
        let CreateService { name, ports, vips, .. } = request;
        if net.internal {
            return Err(invalid(format!(
                "network {} is internal: its hosts lead nothing on there",
                net.name
            ))
            .hint("ask for the alias by DNS instead: it answers all that have it"));
        }
        if let Some(why) = self.networks.conflict(net.id) {
            let message = format!("network {} is not programmed: {why}", net.name);
            return Err(Refused::new(ErrorKind::Unsupported, message));
        }
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(invalid(format!(
                "a service has 1 to {MAX_PORTS} ports, not {}",
                ports.len()
            )));
        }
        for (i, port) in ports.iter().enumerate() {
            let same =
                |other: &&ServicePort| (other.protocol, other.port) == (port.protocol, port.port);
            if port.port == 0 || port.target == 0 {
                return Err(invalid("a service has no port 0: use 1 to 65535".to_owned()));
            }
            if ports[..i].iter().any(|other| same(&other)) {
                return Err(invalid(format!("port {}/{} is said twice", port.port, port.protocol)));
            }
        }
        if self.services.on(net.id).any(|service| service.name == *name) {
            let message = format!("network {} has a service {name} already", net.name);
            return Err(Refused::new(ErrorKind::Taken, message)
                .hint("list them with: overlayctl service ls"));
        }
        let taken = |what: String, host: HostId, ep: &Endpoint| {
            let (endpoint, host) = (host_text_of(ep), self.host_name(host));
            let text = format!("{what} is taken by endpoint {endpoint} on host {host}");
            Err(Refused::new(ErrorKind::Taken, text).hint("choose another"))
        };
        if let Some((host, ep)) = self.view.name_claims(net.id, name).next() {
            return taken(format!("the name {name}"), host, ep);
        }
        let stray = |ip: &&IpAddr| !net.subnets.iter().any(|s| s.cidr.contains(*ip));
        if let Some(stray) = vips.iter().find(stray) {
            return Err(invalid(format!("{stray} is outside network {}", net.name)));
        }
        for ip in vips {
            if let Some((host, ep)) = self.view.ip_claims(net.id, *ip).next() {
                return taken(ip.to_string(), host, ep);
            }
        }
        Ok(net.id)
    }

    /// There are addresses for it, leased from now on.
    pub(crate) fn make_service(
        &mut self,
        token: Token,
        fresh: u64,
        request: CreateService,
        addresses: Vec<IpAddr>,
    ) {
        // Its name or address may have been taken while it waited.
        let network = match self.check_service(&request) {
            Ok(network) => network,
            Err(refused) => {
                if let Ok(id) = self.find_network(&request.net).map(|net| net.id) {
                    addresses.into_iter().for_each(|ip| self.release_lease(id, ip));
                }
                return self.reply(token, Err(refused));
            }
        };
        let CreateService { name, alias, ports, .. } = request;
        let created = self.new_stamp(None);
        let mut id = fresh;
        while self.services.known.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let service = Service {
            id,
            network,
            name,
            alias,
            ports,
            addresses,
            created,
            updated: created,
            deleted: false,
        };
        let change = StateChange::Service(service.clone());
        self.persist(vec![change], After::Service { token, service: Box::new(service) });
    }

    pub(crate) fn remove_service(
        &mut self,
        token: Token,
        name: &str,
        net: Option<&str>,
    ) -> Result<(), Refused> {
        let net = net.map(|text| self.find_network(text).map(|n| n.id)).transpose()?;
        let named = self.services.known.values().filter(|s| {
            !s.deleted && s.name.as_str() == name && net.is_none_or(|net| s.network == net)
        });
        let named: Vec<Service> = named.cloned().collect();
        let service = match named.as_slice() {
            [one] => one.clone(),
            [] => {
                return Err(Refused::new(ErrorKind::NotFound, format!("no service `{name}`"))
                    .hint("list them with: overlayctl service ls"));
            }
            _ => {
                let message = format!("{} services are called {name}", named.len());
                return Err(
                    Refused::new(ErrorKind::Invalid, message).hint("say which with --net NETWORK")
                );
            }
        };
        let updated = self.new_stamp(Some(service.updated));
        let gone = Service { deleted: true, updated, ..service };
        self.persist(
            vec![StateChange::Service(gone.clone())],
            After::Service { token, service: Box::new(gone) },
        );
        Ok(())
    }

    /// The state file has taken a service, or could not.
    pub(crate) fn service_saved(
        &mut self,
        token: Token,
        service: Service,
        result: Result<(), String>,
    ) {
        if let Err(why) = result {
            if !service.deleted {
                for ip in &service.addresses {
                    self.release_lease(service.network, *ip);
                }
            }
            return self.reply(token, Err(unsaved(&why)));
        }
        let view = self.service_view(&service);
        self.take_service(service.clone());
        let view = if service.deleted { view } else { self.service_view(&service) };
        if let Some(view) = view {
            self.reply_when_settled(token, Ok(Reply::Service(Box::new(view))));
        }
    }

    /// A definition was heard.
    pub(crate) fn merge_service(&mut self, service: Service) {
        let known = self.services.known.get(&service.id);
        if known.is_some_and(|known| known.updated >= service.updated) {
            return;
        }
        self.persist(vec![StateChange::Service(service.clone())], After::Nothing);
        self.take_service(service);
    }

    fn take_service(&mut self, service: Service) {
        let (id, net, deleted) = (service.id, service.network, service.deleted);
        self.see_stamp(service.updated);
        let before = self.services.known.insert(id, service.clone()).filter(|s| !s.deleted);
        if deleted {
            for ip in &service.addresses {
                self.release_lease(net, *ip);
            }
        }
        self.follow_services(net);
        self.republish = true;
        if before.is_some() == deleted
            && let Some(name) = self.networks.get(net).map(|net| net.name.clone())
        {
            let what = if deleted { "removed" } else { "created" };
            self.notice(Notice::Service { name: service.name.clone(), net: name, what });
        }
        if let Some(network) = self.networks.get(net) {
            let bridge = network.vni.bridge();
            // Of two that claim the same, one may work now, or no longer.
            let others = self.services.on(net).flat_map(|other| other.addresses.clone());
            for ip in others.chain(service.addresses.clone()).collect::<BTreeSet<_>>() {
                self.touch(ObjectKey::Address(bridge.clone(), IpNet::from(ip)));
            }
        }
        if self.is_named(net) {
            let was: Vec<Service> =
                self.services.named.values().filter(|s| s.network == net).cloned().collect();
            self.services.note_named(net, true);
            let is = self.services.named.clone();
            for service in was.iter().filter(|was| is.get(&was.id) != Some(*was)) {
                self.tell_name(Some(self.placed_service(service)), None);
            }
            for service in is.values().filter(|is| is.network == net && !was.contains(*is)) {
                self.tell_name(None, Some(self.placed_service(service)));
            }
        }
        self.touch_nat();
    }

    /// A service as the resolver knows what has a name.
    pub(crate) fn placed_service(&self, service: &Service) -> Arc<Placed> {
        Arc::new(Placed {
            host: self.config.host,
            endpoint: Endpoint {
                id: EndpointId::from_bits(service.id),
                network: service.network,
                name: Some(service.name.clone()),
                aliases: BTreeSet::new(),
                mac: MacAddr::ZERO,
                addresses: service.addresses.clone(),
                labels: BTreeMap::new(),
                ports: Vec::new(),
                move_seq: 0,
                attached_ms: service.created.wall_ms,
            },
        })
    }

    /// Publishes what is new of the services of networks that `publishes` says.
    pub(crate) fn publish_services(&mut self, publishes: impl Fn(&Engine, NetworkId) -> bool) {
        let changed = self.services.known.values().filter(|service| {
            self.services.published.get(&service.id) != Some(&service.updated)
                && (service.updated.host == self.config.host || publishes(self, service.network))
        });
        for service in changed.cloned().collect::<Vec<_>>() {
            self.services.published.insert(service.id, service.updated);
            let key = RecordKey::Service(service.network, service.id);
            self.publish(key, Some(Record::Service(service)));
        }
    }

    fn service_view(&self, service: &Service) -> Option<ServiceView> {
        let net = self.networks.get(service.network)?;
        let conflict = self
            .services
            .conflict(service)
            .map(|other| format!("the older service {} has its name or its address", other.name));
        Some(ServiceView {
            net: net.name.clone(),
            endpoints: self.behind(service).into_iter().collect(),
            conflict,
            service: service.clone(),
        })
    }

    pub(crate) fn service_views(&self, net: Option<NetworkId>) -> Vec<ServiceView> {
        let all = self
            .services
            .known
            .values()
            .filter(|service| !service.deleted && net.is_none_or(|net| service.network == net));
        let mut views: Vec<ServiceView> =
            all.filter_map(|service| self.service_view(service)).collect();
        views.sort_by(|a, b| (&a.net, &a.service.name).cmp(&(&b.net, &b.service.name)));
        views
    }

    fn behind(&self, service: &Service) -> BTreeSet<IpAddr> {
        self.sharing(service.network, &BTreeSet::from([service.alias.clone()]), None)
    }

    // ----- what the kernel should hold ----------------------------------------

    /// Addresses of services on the bridge of `net`.
    pub(crate) fn vips(&self, net: NetworkId) -> impl Iterator<Item = IpAddr> {
        self.services.working(net).flat_map(|service| service.addresses.iter().copied())
    }

    /// Adds where connections to services of `net` go.
    pub(crate) fn lead_services(&self, net: &Network, nat: &mut Nat) {
        for service in self.services.working(net.id) {
            let behind = self.behind(service);
            for port in &service.ports {
                for vip in &service.addresses {
                    let front = Front::Virtual {
                        bridge: net.vni.bridge(),
                        ip: *vip,
                        protocol: port.protocol,
                        port: port.port,
                    };
                    let of_family = behind.iter().filter(|ip| ip.is_ipv4() == vip.is_ipv4());
                    let to = of_family.map(|ip| SocketAddr::new(*ip, port.target));
                    nat.forwards.entry(front).or_default().extend(to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
