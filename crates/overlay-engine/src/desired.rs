//! What the kernel should hold: [`Engine::want`], a function of one key.
//!
//! Nothing is kept: the answer follows from the networks, the cluster view and
//! the local endpoints each time. A change there touches just the keys that
//! it concerns; a full check enumerates them all with [`Engine::wanted_keys`].
//!
//! For each network that this host uses (an endpoint of it is attached here):
//!
//! | key | object |
//! |---|---|
//! | bridge `ovb<VNI>` | MAC of the anycast gateway, the same on every host |
//! | vxlan `ovx<VNI>` | port of the bridge, learning off, `neigh_suppress` on; a second one, `ovx<VNI>-6`, on a host with VTEP addresses of both families (see `ways.rs`) |
//! | gateway address on the bridge | unless the network is internal; and the host's own, if it has one there (see `publish.rs`) |
//! | flood entry per VTEP | of every other host that uses the network |
//! | vxlan FDB, bridge FDB, neighbour | for each remote MAC and address |
//! | bridge FDB, neighbour | for each local one too: a bridge that knows them keeps ARP and ND for them off the VXLAN port. No FDB entry where no port is known: a static endpoint |
//! | veth `ove<id>` | for each namespace that is attached here |
//! | port | for each device that is attached here |
//! | guard | for each of those two: which MAC and addresses it may send from; none, once its endpoint has moved away |
//!
//! And for the host: the rules of all ports, whom it takes VXLAN from, and what it does to
//! addresses of packets (`publish.rs`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use overlay_model::{
    EndpointId, Family, Firewall, Guard, IfName, Link, LinkKind, MacAddr, Network, Object,
    ObjectKey, Port, PortFlags, VethPeer, Vni,
};

use crate::engine::Engine;
use crate::event::Place;
use crate::plan::Completeness;
use crate::reconcile::{WantedCursor, WantedPart};

/// MACs or addresses of a slice.
const WANTED_SLICE: usize = 128;

/// The network that a link name of ours stands for, if it is a bridge or VXLAN
/// device.
pub(crate) fn vni_of(name: &IfName) -> Option<Vni> {
    let text = name.as_str();
    let digits = match text.strip_prefix("ovx") {
        Some(rest) => rest.strip_suffix("-6").unwrap_or(rest),
        None => text.strip_prefix("ovb")?,
    };
    digits.parse().ok()
}

/// The endpoint that a link name of ours stands for.
pub(crate) fn endpoint_of(name: &IfName) -> Option<EndpointId> {
    name.as_str().strip_prefix("ove")?.parse().ok()
}

impl Engine {
    /// What the kernel should hold under `key`.
    pub(crate) fn want(&self, key: &ObjectKey) -> Option<Object> {
        match key {
            ObjectKey::Firewall => {
                self.want_firewall().map(|firewall| Object::Firewall(Box::new(firewall)))
            }
            ObjectKey::PortRules => {
                self.used_networks().next().map(|_| Object::PortRules { altered: false })
            }
            ObjectKey::Nat => self.want_nat().map(Object::Nat),
            ObjectKey::Guard(name) => {
                self.want_guard(name).map(|guard| Object::Guard(Box::new(guard)))
            }
            ObjectKey::Link(name) => self.want_link(name).map(|link| Object::Link(Box::new(link))),
            ObjectKey::Port(name) => self.want_port(name).map(Object::Port),
            ObjectKey::Address(dev, address) => {
                let net = self.used_by_bridge(dev)?;
                let own = self.own_addresses(net.id).unwrap_or_default();
                let mut single = own.iter().copied().chain(self.vips(net.id)).map(IpNet::from);
                (gateways(net).any(|gateway| gateway == *address)
                    || (!net.internal && single.any(|own| own == *address)))
                .then_some(Object::Address)
            }
            ObjectKey::Flood(dev, vtep) => {
                let (net, family) = self.used_by_vxlan(dev)?;
                let hosts = || self.view.users_of(net.id);
                (net.flood
                    && Family::of(vtep) == family
                    && hosts().any(|host| self.vtep_of(host) == Some(*vtep)))
                .then_some(Object::Flood)
            }
            ObjectKey::VxlanFdb(dev, mac) => {
                let (net, family) = self.used_by_vxlan(dev)?;
                let (host, _) = self.view.mac_winner(net.id, *mac)?;
                if host == self.config.host {
                    return None;
                }
                let dst = self.vtep_of(host).filter(|dst| Family::of(dst) == family)?;
                Some(Object::VxlanFdb { dst })
            }
            ObjectKey::BridgeFdb(dev, mac) => {
                let net = self.used_by_bridge(dev)?;
                let (host, ep) = self.view.mac_winner(net.id, *mac)?;
                Some(if host == self.config.host {
                    let port = self.port_of(ep.id)?;
                    Object::BridgeFdb { port, extern_learn: false }
                } else {
                    let way = Family::of(&self.vtep_of(host)?);
                    Object::BridgeFdb { port: self.config.device(net.vni, way), extern_learn: true }
                })
            }
            ObjectKey::Neigh(dev, ip) => {
                let net = self.used_by_bridge(dev)?;
                let (host, ep) = self.view.ip_winner(net.id, *ip)?;
                // Who asks for an address that cannot be reached hears no answer.
                if host != self.config.host {
                    self.vtep_of(host)?;
                }
                Some(Object::Neigh { mac: ep.mac })
            }
        }
    }

    /// While too little is known, what the kernel has of hosts stays.
    fn want_firewall(&self) -> Option<Firewall> {
        let bridges: BTreeSet<IfName> = self.used_networks().map(|net| net.vni.bridge()).collect();
        if bridges.is_empty() {
            return None;
        }
        let mut firewall = Firewall {
            bridges,
            vxlan_port: self.config.vxlan_port,
            gossip_port: self.config.gossip.port(),
            access: self.config.host_access.clone(),
            ..Firewall::default()
        };
        for host in self.view.at_large() {
            firewall.vteps.extend(&host.vteps);
            firewall.gossip.insert(host.gossip);
            if host.vteps.len() > 1 {
                // It receives gossip at both.
                let port = host.gossip.port();
                firewall.gossip.extend(host.vteps.iter().map(|ip| SocketAddr::new(*ip, port)));
            }
        }
        if self.completeness == Completeness::Partial
            && let Some(Object::Firewall(now)) = self.kernel.mirror().get(&ObjectKey::Firewall)
        {
            firewall.vteps.extend(&now.vteps);
            firewall.gossip.extend(&now.gossip);
        }
        Some(firewall)
    }

    /// The MAC and addresses of the endpoint behind a port.
    fn want_guard(&self, name: &IfName) -> Option<Guard> {
        let id = endpoint_of(name).or_else(|| self.by_device.get(name).copied())?;
        let local = &self.local.get(&id)?.local;
        let net = self.networks.get(local.endpoint.network)?;
        if self.port_of(id).as_ref() != Some(name) || self.used(net.vni)?.id != net.id {
            return None;
        }
        let ep = &local.endpoint;
        if local.moved.is_some() {
            // No station has this MAC: nothing passes.
            return Some(Guard { mac: MacAddr::ZERO, addresses: BTreeSet::new(), altered: false });
        }
        Some(Guard {
            mac: ep.mac,
            addresses: ep.addresses.iter().copied().collect(),
            altered: false,
        })
    }

    fn want_link(&self, name: &IfName) -> Option<Link> {
        if let Some(id) = endpoint_of(name) {
            return self.want_veth(id);
        }
        let net = self.used(vni_of(name)?)?;
        let me = self.config.host;
        let bridge = Link {
            network: net.id,
            // A machine that is told apart from its copy by a new state directory must not
            // find its former identity here.
            host: (!self.doubled.contains_key(&me)).then_some(me),
            mtu: net.mtu,
            mac: bridge_mac(net),
            up: true,
            master: None,
            port: None,
            altered: BTreeSet::new(),
            kind: LinkKind::Bridge,
        };
        if *name == net.vni.bridge() {
            return Some(bridge);
        }
        let family = self.config.family_of(name, net.vni)?;
        let isolated = self.config.vteps.len() > 1;
        Some(Link {
            host: None,
            mac: self.vxlan_mac(name, net.vni),
            master: Some(net.vni.bridge()),
            port: Some(PortFlags { neigh_suppress: true, isolated, ..PortFlags::default() }),
            kind: LinkKind::Vxlan {
                vni: net.vni,
                port: self.config.vxlan_port,
                local: self.config.vtep_in(family)?,
                outer: self.config.outer,
            },
            ..bridge
        })
    }

    /// The MAC of a VXLAN device: this host's alone, on this network.
    pub(crate) fn vxlan_mac(&self, name: &IfName, vni: Vni) -> MacAddr {
        let mut seed = self.config.host.0.as_bytes().to_vec();
        seed.extend(vni.get().to_be_bytes());
        if *name != vni.vxlan() {
            seed.push(6);
        }
        MacAddr::derived(&seed)
    }

    /// Learning is off: what stands behind the device has been said.
    fn want_port(&self, name: &IfName) -> Option<Port> {
        let local = &self.local.get(self.by_device.get(name)?)?.local;
        let net = self.networks.get(local.endpoint.network)?;
        let Place::Device { index, was_up, .. } = local.place else { return None };
        let hairpin = self.may_ask_itself(&local.endpoint);
        if self.used(net.vni)?.id != net.id {
            return None;
        }
        Some(Port {
            endpoint: local.endpoint.id,
            index,
            bridge: Some(net.vni.bridge()),
            flags: Some(PortFlags { hairpin, ..PortFlags::default() }),
            up: true,
            was_up,
        })
    }

    /// The port of an endpoint of this host, if it is to have one.
    fn port_of(&self, id: EndpointId) -> Option<IfName> {
        self.local.get(&id).filter(|_| !self.gone.contains_key(&id))?.local.port()
    }

    fn want_veth(&self, id: EndpointId) -> Option<Link> {
        self.port_of(id)?;
        let local = &self.local.get(&id)?.local;
        let Place::Netns { netns, ifname, default_route, .. } = &local.place else { return None };
        let net = self.networks.get(local.endpoint.network)?;
        if self.used(net.vni)?.id != net.id {
            return None;
        }
        let ep = &local.endpoint;
        let prefix = |ip: &IpAddr| {
            let subnet = net.subnets.iter().find(|s| s.cidr.contains(ip))?;
            IpNet::new(*ip, subnet.cidr.prefix_len()).ok()
        };
        let wanted =
            |gateway: &IpAddr| ep.addresses.iter().any(|ip| Family::of(ip) == Family::of(gateway));
        let routed = *default_route && !net.internal;
        Some(Link {
            network: net.id,
            host: None,
            mtu: net.mtu,
            mac: MacAddr::derived(&id.bits().to_be_bytes()),
            up: true,
            master: Some(net.vni.bridge()),
            // Its one MAC has been said; a frame to a reserved group address
            // would be learned from without having passed any rule.
            port: Some(PortFlags { hairpin: self.may_ask_itself(ep), ..PortFlags::default() }),
            altered: BTreeSet::new(),
            kind: LinkKind::Veth {
                peer: Some(Box::new(VethPeer {
                    netns: netns.clone(),
                    ifname: ifname.clone(),
                    mac: ep.mac,
                    mtu: net.mtu,
                    addresses: ep.addresses.iter().filter_map(prefix).collect(),
                    gateways: net
                        .subnets
                        .iter()
                        .map(|s| s.gateway)
                        .filter(|gateway| routed && wanted(gateway))
                        .collect(),
                })),
            },
        })
    }

    /// Every key that the kernel should hold for `net`, and perhaps a few that
    /// it should not.
    pub(crate) fn wanted_keys(&self, net: &Network) -> Vec<ObjectKey> {
        let bridge = net.vni.bridge();
        let mut keys = self.wanted_frame(net);
        for mac in self.view.macs_on(net.id) {
            keys.push(ObjectKey::VxlanFdb(self.device_to(net, mac), mac));
            keys.push(ObjectKey::BridgeFdb(bridge.clone(), mac));
        }
        keys.extend(self.view.ips_on(net.id).map(|ip| ObjectKey::Neigh(bridge.clone(), ip)));
        keys
    }

    /// Those of them that are not about the MAC or address of an endpoint.
    fn wanted_frame(&self, net: &Network) -> Vec<ObjectKey> {
        let bridge = net.vni.bridge();
        let mut keys =
            vec![ObjectKey::Firewall, ObjectKey::PortRules, ObjectKey::Link(bridge.clone())];
        keys.extend(self.config.devices(net.vni).map(ObjectKey::Link));
        if !net.internal {
            keys.push(ObjectKey::Nat);
        }
        let own = self.own_addresses(net.id).unwrap_or_default().iter().copied();
        let addresses = gateways(net).chain(own.chain(self.vips(net.id)).map(IpNet::from));
        keys.extend(addresses.map(|address| ObjectKey::Address(bridge.clone(), address)));
        keys.extend(
            self.view
                .users_of(net.id)
                .filter_map(|host| self.vtep_of(host))
                .map(|vtep| self.flood_key(net, vtep)),
        );
        let here = self.local.values().filter(|l| l.local.endpoint.network == net.id);
        for local in here {
            keys.extend(local.local.port_key());
            keys.extend(local.local.port().map(ObjectKey::Guard));
        }
        keys
    }

    /// The device whose FDB has `mac`, or would have it.
    fn device_to(&self, net: &Network, mac: MacAddr) -> IfName {
        let way = match self.config.vteps.as_slice() {
            [one] => *one,
            _ => {
                let host = self.view.mac_winner(net.id, mac).map(|(host, _)| host);
                host.and_then(|host| self.vtep_of(host)).unwrap_or(self.config.vtep())
            }
        };
        self.config.device(net.vni, Family::of(&way))
    }

    /// The key of a broadcast destination.
    pub(crate) fn flood_key(&self, net: &Network, vtep: IpAddr) -> ObjectKey {
        ObjectKey::Flood(self.config.device(net.vni, Family::of(&vtep)), vtep)
    }

    /// The next few of all keys that [`Engine::wanted_keys`] says of all used
    /// networks, and where to go on; `None` after the last.
    pub(crate) fn wanted_slice(
        &self,
        cursor: WantedCursor,
    ) -> (Vec<ObjectKey>, Option<WantedCursor>) {
        let (at, part) = match cursor {
            WantedCursor::Start => (None, None),
            WantedCursor::In(net, part) => (Some(net), Some(part)),
        };
        let part = part.filter(|part| *part != WantedPart::All);
        // Sorted by their ids, so that one that comes or goes meanwhile moves
        // no other one.
        let mut nets: Vec<&Network> = self.used_networks().collect();
        nets.sort_by_key(|net| net.id);
        let next = nets.into_iter().find(|net| match (at, part) {
            (None, _) => true,
            (Some(at), None) => net.id > at,
            (Some(at), Some(_)) => net.id >= at,
        });
        let Some(net) = next else { return (Vec::new(), None) };
        let bridge = net.vni.bridge();
        let part = part.filter(|_| at == Some(net.id));
        let (keys, part) = match part {
            None | Some(WantedPart::All) => (self.wanted_frame(net), WantedPart::Macs(None)),
            Some(WantedPart::Macs(after)) => {
                let macs: Vec<MacAddr> =
                    self.view.macs_after(net.id, after).take(WANTED_SLICE).collect();
                let pair = |mac: &MacAddr| {
                    let fdb = ObjectKey::VxlanFdb(self.device_to(net, *mac), *mac);
                    [fdb, ObjectKey::BridgeFdb(bridge.clone(), *mac)]
                };
                let part = match macs.last() {
                    Some(last) => WantedPart::Macs(Some(*last)),
                    None => WantedPart::Ips(None),
                };
                (macs.iter().flat_map(pair).collect(), part)
            }
            Some(WantedPart::Ips(after)) => {
                let ips: Vec<IpAddr> =
                    self.view.ips_after(net.id, after).take(WANTED_SLICE).collect();
                let part = ips.last().map_or(WantedPart::All, |last| WantedPart::Ips(Some(*last)));
                (ips.into_iter().map(|ip| ObjectKey::Neigh(bridge.clone(), ip)).collect(), part)
            }
        };
        (keys, Some(WantedCursor::In(net.id, part)))
    }

    /// Networks that have an endpoint here and are programmed.
    pub(crate) fn used_networks(&self) -> impl Iterator<Item = &Network> {
        self.view
            .used_by(self.config.host)
            .filter_map(|id| self.networks.get(id))
            .filter(|net| self.networks.conflict(net.id).is_none())
    }

    /// The network that holds `vni`, if it has an endpoint here.
    pub(crate) fn used(&self, vni: Vni) -> Option<&Network> {
        self.networks.programmed(vni).filter(|net| self.view.is_user(net.id, self.config.host))
    }

    fn used_by_bridge(&self, dev: &IfName) -> Option<&Network> {
        self.used(vni_of(dev)?).filter(|net| net.vni.bridge() == *dev)
    }

    /// The network of a VXLAN device that there is to be, and the device's family.
    fn used_by_vxlan(&self, dev: &IfName) -> Option<(&Network, Family)> {
        let net = self.used(vni_of(dev)?)?;
        Some((net, self.config.family_of(dev, net.vni)?))
    }
}

/// The addresses that the bridge of `net` has.
pub(crate) fn gateways(net: &Network) -> impl Iterator<Item = IpNet> {
    net.subnets
        .iter()
        .filter(|_| !net.internal)
        .filter_map(|s| IpNet::new(s.gateway, s.cidr.prefix_len()).ok())
}

/// The MAC of the bridge: the anycast gateway's, the same on every host.
fn bridge_mac(net: &Network) -> MacAddr {
    let gateways: Vec<IpAddr> = net.subnets.iter().map(|s| s.gateway).collect();
    MacAddr::for_addresses(&gateways, &net.id.0.to_be_bytes())
}
