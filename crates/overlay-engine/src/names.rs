//! What the resolver is told: which names there are, and where containers ask for them.
//!
//! ```text
//!   Shift::Endpoint ─► is its network used here? ─► NameNews::Endpoint, one a change
//!   a network is used from now on ────────────────► all that it has
//! ```
//!
//! News only: the resolver has what it was told, so that a change costs the same with ten names
//! and with a hundred thousand. Of networks that this host does not use nothing is told, as nobody
//! here can ask about them.
//!
//! An endpoint has its names while it is in use in the cluster view, so that name and entry come
//! and go together. Two things are told sooner: a host that is down has no names while its entries
//! wait for the end of the grace (it is still told of, with its state), and an endpoint of this
//! host loses them with its namespace. That other hosts answer until its record goes, since they
//! cannot know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use overlay_model::{EndpointId, HostId, Name, NetnsRef, Network, NetworkId, Placed};
use serde::{Serialize, Serializer};

use crate::cluster_view::HostState;
use crate::endpoints::Phase;
use crate::engine::Engine;
use crate::event::Place;

/// What the resolver is to know from now on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum NameNews {
    /// A network is used on this host, or is defined otherwise.
    Network(Box<Network>),
    /// It is not used on this host any more.
    NoNetwork(NetworkId),
    /// An endpoint of such a network came, changed or went.
    Endpoint {
        /// As it was.
        #[serde(serialize_with = "pointed_at")]
        before: Option<Arc<Placed>>,
        /// As it is.
        #[serde(serialize_with = "pointed_at")]
        after: Option<Arc<Placed>>,
    },
    /// The state or the name of a host is another.
    Host {
        /// Which.
        host: HostId,
        /// What people call it.
        name: Option<Name>,
        /// Whether it is there.
        state: HostState,
    },
    /// An endpoint of this host is in a namespace, where names are to be answered.
    Door {
        /// Which.
        endpoint: EndpointId,
        /// In which network.
        network: NetworkId,
        /// Where.
        netns: NetnsRef,
    },
    /// It is not there any more.
    NoDoor(EndpointId),
}

fn pointed_at<S: Serializer>(placed: &Option<Arc<Placed>>, to: S) -> Result<S::Ok, S::Error> {
    placed.as_deref().serialize(to)
}

/// What the resolver has been told, and what it is told next.
#[derive(Debug, Default)]
pub(crate) struct Herald {
    news: Vec<NameNews>,
    /// Networks that it has been told of, as far as they concern it.
    told: BTreeMap<NetworkId, Network>,
    doors: BTreeSet<EndpointId>,
    /// Which networks are used may be another set, or their definitions others.
    networks_due: bool,
    /// Endpoints of this host whose doors may have to come or go.
    doors_due: BTreeSet<EndpointId>,
}

impl Herald {
    /// What is to be told now.
    pub(crate) fn take(&mut self) -> Vec<NameNews> {
        std::mem::take(&mut self.news)
    }

    pub(crate) fn look_at_networks(&mut self) {
        self.networks_due = true;
    }

    pub(crate) fn look_at_door(&mut self, id: EndpointId) {
        self.doors_due.insert(id);
    }
}

impl Engine {
    /// The resolver knows of this network.
    pub(crate) fn is_named(&self, net: NetworkId) -> bool {
        self.herald.told.contains_key(&net)
    }

    /// An endpoint came, changed or went.
    pub(crate) fn tell_name(&mut self, before: Option<Arc<Placed>>, after: Option<Arc<Placed>>) {
        let placed = after.as_ref().or(before.as_ref());
        let network = placed.map(|placed| placed.endpoint.network);
        if network.is_some_and(|net| self.herald.told.contains_key(&net)) {
            self.herald.news.push(NameNews::Endpoint { before, after });
        }
    }

    /// The namespace of an endpoint of this host is gone: nobody listens at its addresses.
    pub(crate) fn tell_gone(&mut self, id: EndpointId) {
        self.herald.look_at_door(id);
        let net = self.local.get(&id).map(|local| local.local.endpoint.network);
        let placed = net.and_then(|net| self.view.placed(net, self.config.host, id));
        self.tell_name(placed.cloned(), None);
    }

    /// The state or the record of a host may be another.
    pub(crate) fn tell_standing(&mut self, host: HostId) {
        let Some(presence) = self.view.presence(host) else { return };
        let (name, state) = (self.view.host_name(host).cloned(), presence.state);
        self.herald.news.push(NameNews::Host { host, name, state });
    }

    /// Brings what was told of networks and doors into line with what is.
    pub(crate) fn settle_names(&mut self) {
        if std::mem::take(&mut self.herald.networks_due) {
            self.settle_named_networks();
        }
        for id in std::mem::take(&mut self.herald.doors_due) {
            let door = self.local.get(&id).filter(|l| l.phase == Phase::Ready);
            let door = door.filter(|_| !self.gone.contains_key(&id)).map(|local| &local.local);
            let netns = door.and_then(|local| match &local.place {
                Place::Netns { netns, no_dns: false, .. } => {
                    Some((local.endpoint.network, netns.clone()))
                }
                Place::Netns { .. } | Place::Device { .. } | Place::Static => None,
            });
            match netns {
                Some((network, netns)) if self.herald.doors.insert(id) => {
                    self.herald.news.push(NameNews::Door { endpoint: id, network, netns });
                }
                None if self.herald.doors.remove(&id) => {
                    self.herald.news.push(NameNews::NoDoor(id));
                }
                _ => {}
            }
        }
    }

    fn settle_named_networks(&mut self) {
        let used: BTreeMap<NetworkId, &Network> =
            self.used_networks().map(|net| (net.id, net)).collect();
        let is_used = |id: &NetworkId| used.contains_key(id);
        let ended: Vec<NetworkId> =
            self.herald.told.keys().filter(|id| !is_used(id)).copied().collect();
        let mut news = Vec::new();
        let (mut changed, mut fresh) = (Vec::new(), Vec::new());
        for (id, net) in used {
            let told = self.herald.told.get(&id);
            let same = |told: &Network| {
                (&told.name, &told.subnets, told.internal)
                    == (&net.name, &net.subnets, net.internal)
            };
            if told.is_some_and(same) {
                continue;
            }
            news.push(NameNews::Network(Box::new(net.clone())));
            if told.is_none() {
                let there = self.view.placed_on(id);
                let there = there.filter(|placed| {
                    placed.host != self.config.host || !self.gone.contains_key(&placed.endpoint.id)
                });
                news.extend(there.map(|placed| NameNews::Endpoint {
                    before: None,
                    after: Some(placed.clone()),
                }));
            }
            if told.is_none() {
                fresh.push(id);
                let services =
                    self.services.working(id).map(|service| self.placed_service(service));
                let told = |after| NameNews::Endpoint { before: None, after: Some(after) };
                news.extend(services.map(told));
            }
            changed.push(net.clone());
        }
        for id in fresh {
            self.services.note_named(id, true);
        }
        for id in ended {
            self.services.note_named(id, false);
            self.herald.told.remove(&id);
            news.push(NameNews::NoNetwork(id));
        }
        self.herald.told.extend(changed.into_iter().map(|net| (net.id, net)));
        self.herald.news.append(&mut news);
    }
}

#[cfg(test)]
pub(crate) mod tests;
