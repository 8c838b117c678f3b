//! Endpoints of this host whose namespace is gone: what a container leaves
//! behind that dies without being detached.
//!
//! ```text
//!  ready ─► the pair goes with its namespace ─► gone ─► released after the grace
//!                                                │
//!                          attached again ───────┘  same address, same MAC
//! ```
//!
//! While it is gone nothing of it is lost: its address stays leased, its name
//! taken, its record published, its network in the kernel; only what stands in
//! the namespace is wanted no more. So a container that is restarted is where it
//! was, as soon as it is attached again: an attach with its name takes its place,
//! or one of the same namespace path that does not say another name. What such
//! an attach leaves out is as it was. A path under `/proc` names a process and
//! says nothing: its number may be another's by now.
//!
//! Who takes the place is another endpoint, with an id of its own: whoever still
//! detaches the old one by its id does not hit the new one. The old one goes in
//! the same transaction that brings the new one; if that does not come about, it
//! is gone as before. Its record goes a little later: records come in any order,
//! and who hears that one has gone before the other has come deletes entries.
//!
//! With a grace of zero nothing is kept. That was so before there was one, and
//! is what a journal of that time says.
//!
//! Absent: devices. What stands behind one has its MAC, and mostly its
//! addresses, from its own configuration, and they are said again.

use std::net::IpAddr;
use std::time::Duration;

use overlay_model::{Endpoint, EndpointId, Family, HostId, Network, ObjectKey, RecordKey};

use crate::endpoints::Phase;
use crate::engine::Engine;
use crate::event::{Attach, LocalEndpoint, Notice, Place, StateChange, Where};

/// How long the record of an endpoint stays whose place another has taken.
const FAREWELL: Duration = Duration::from_secs(1);

/// Since when an endpoint's namespace is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    since: Duration,
    pub(crate) since_ms: u64,
    /// The endpoint that is on its way to take the place.
    successor: Option<EndpointId>,
}

impl Engine {
    /// The kernel has found no namespace for an endpoint that was there.
    pub(crate) fn lost_namespace(&mut self, id: EndpointId) {
        let Some(local) = self.local.get(&id).map(|l| &l.local) else { return };
        let why = crate::endpoints::gone_text(&local.place);
        let grace = self.config.leak_grace;
        // Of what has moved away there is nothing left to keep.
        if grace.is_zero() || local.moved.is_some() || !matches!(local.place, Place::Netns { .. }) {
            return self.drop_endpoints([id], why);
        }
        let ep = local.endpoint.clone();
        let since = self.now.mono;
        let gone = Gone { since, since_ms: self.now.wall_ms, successor: None };
        self.gone.insert(id, gone);
        self.tell_gone(id);
        let port = local_keys(&self.local[&id].local);
        port.into_iter().for_each(|key| self.touch(key));
        self.touch_endpoint(self.config.host, &ep);
        let net = self.networks.get(ep.network).map(|net| net.name.clone());
        let net = net.map_or_else(|| ep.network.to_string(), String::from);
        let (name, addresses) = (ep.name, ep.addresses);
        self.notice(Notice::Gone { id, name, net, addresses, grace });
    }

    /// When [`Engine::release_gone`] has something to do.
    pub(crate) fn leaks_deadline(&self) -> Option<Duration> {
        let waiting = self.gone.values().filter(|gone| gone.successor.is_none());
        let releases = waiting.map(|gone| gone.since + self.config.leak_grace);
        releases.chain(self.farewells.iter().map(|(at, _)| *at)).min()
    }

    /// Releases what nobody has attached again within the grace.
    pub(crate) fn release_gone(&mut self) {
        let (now, grace) = (self.now.mono, self.config.leak_grace);
        let over: Vec<EndpointId> = self
            .gone
            .iter()
            .filter(|(id, gone)| {
                gone.successor.is_none()
                    && gone.since + grace <= now
                    && self.local.get(id).is_some_and(|l| l.phase == Phase::Ready)
            })
            .map(|(id, _)| *id)
            .collect();
        self.drop_endpoints(over, "its network namespace is gone, and the grace is over");
        let due = self.farewells.extract_if(.., |(at, _)| *at <= now);
        for (_, key) in due.collect::<Vec<_>>() {
            self.publish(key, None);
        }
    }

    /// When an endpoint is released whose namespace is gone.
    pub(crate) fn released_in(&self, gone: &Gone) -> Duration {
        (gone.since + self.config.leak_grace).saturating_sub(self.now.mono)
    }

    /// Whose place `request` takes.
    pub(crate) fn predecessor(&self, net: &Network, request: &Attach) -> Option<EndpointId> {
        let asked = match &request.place {
            Where::Netns { netns, .. } => Some(&netns.path),
            Where::Device(_) | Where::Static => None,
        };
        let is_its = |ep: &Endpoint, place: &Place| {
            let Place::Netns { netns, .. } = place else { return false };
            let same_path = asked == Some(&netns.path) && !netns.path.starts_with("/proc");
            match (&request.name, &ep.name) {
                (Some(asked), Some(name)) => asked == name,
                (Some(_), None) | (None, _) => same_path,
            }
        };
        let free = self.gone.iter().filter(|(_, gone)| gone.successor.is_none());
        let all = free.filter_map(|(id, _)| self.local.get(id));
        let here = all.filter(|l| l.phase == Phase::Ready && l.local.endpoint.network == net.id);
        let mut found: Vec<&Endpoint> = here
            .filter(|l| is_its(&l.local.endpoint, &l.local.place))
            .map(|l| &l.local.endpoint)
            .collect();
        // A namespace may have had several interfaces on the network.
        found.sort_by_key(|ep| {
            let named = request.name.is_some() && ep.name == request.name;
            let said = Some(ep.mac) == request.mac
                || ep.addresses.iter().any(|ip| request.ips.contains(ip));
            (!named, !said, ep.attached_ms, ep.id)
        });
        found.first().map(|ep| ep.id)
    }

    /// Fills in what a request does not say that takes the place of an endpoint
    /// whose namespace is gone.
    pub(crate) fn complete_return(&self, request: &mut Attach) {
        let Ok(net) = self.find_network(&request.net) else { return };
        let Some(id) = self.predecessor(net, request) else { return };
        let former = &self.local[&id].local.endpoint;
        for ip in &former.addresses {
            if !request.ips.iter().any(|said| Family::of(said) == Family::of(ip)) {
                request.ips.push(*ip);
            }
        }
        // A MAC is made from the address: whoever gets that next gets it, too.
        if former.addresses.iter().all(|ip| request.ips.contains(ip)) {
            request.mac = request.mac.or(Some(former.mac));
        }
        if request.name.is_none() {
            request.name.clone_from(&former.name);
        }
        if request.ports.is_empty() {
            request.ports.clone_from(&former.ports);
        }
        if request.aliases.is_empty() {
            request.aliases.clone_from(&former.aliases);
        }
        if request.labels.is_empty() {
            request.labels.clone_from(&former.labels);
        }
    }

    /// What gives way to `request`, as an exception for who checks it.
    pub(crate) fn gives_way(
        &self,
        net: &Network,
        request: &Attach,
    ) -> Option<(HostId, EndpointId)> {
        self.predecessor(net, request).map(|id| (self.config.host, id))
    }

    /// Says whether the endpoint whose place `request` takes has `ip`.
    pub(crate) fn inherits(&self, net: &Network, request: &Attach, ip: IpAddr) -> bool {
        let former = self.predecessor(net, request).and_then(|id| self.local.get(&id));
        former.is_some_and(|l| l.local.endpoint.addresses.contains(&ip))
    }

    /// `new` is on its way to take the place of `old`. Returns the move sequence
    /// that its claims had.
    pub(crate) fn begin_return(&mut self, old: EndpointId, new: EndpointId) -> u32 {
        if let Some(gone) = self.gone.get_mut(&old) {
            gone.successor = Some(new);
        }
        self.activate(old, None);
        self.local.get(&old).map_or(0, |l| l.local.endpoint.move_seq)
    }

    /// Whose place `new` takes.
    pub(crate) fn precedes(&self, new: EndpointId) -> Option<EndpointId> {
        self.gone.iter().find(|(_, gone)| gone.successor == Some(new)).map(|(id, _)| *id)
    }

    /// The state file has `new` in its place.
    pub(crate) fn complete_succession(&mut self, new: EndpointId) {
        let Some(old) = self.precedes(new) else { return };
        let Some(local) = self.local.get(&old) else { return };
        let (net, name) = (local.local.endpoint.network, local.local.endpoint.name.clone());
        self.remove_local(old);
        self.farewells.push((self.now.mono + FAREWELL, RecordKey::Endpoint(net, old)));
        let why = "its network namespace is gone, and another has been attached in its place";
        self.notice(Notice::Detached { id: old, name, why });
    }

    /// `new` has not come about.
    pub(crate) fn undo_succession(&mut self, new: EndpointId) {
        let Some(old) = self.precedes(new) else { return };
        if let Some(gone) = self.gone.get_mut(&old) {
            gone.successor = None;
        }
        let former = self.local.get(&old).map(|l| l.local.endpoint.clone());
        self.activate(old, former);
        self.follow_own(old);
    }

    /// What the state file is told when `new` is ready, besides itself.
    pub(crate) fn succession(&self, new: EndpointId) -> Option<StateChange> {
        self.precedes(new).map(StateChange::DropEndpoint)
    }

    /// Says what is known of the endpoint that a name, address or MAC is taken by.
    pub(crate) fn gone_hint(&self, host: HostId, ep: &Endpoint) -> Option<String> {
        let gone = self.gone.get(&ep.id).filter(|_| host == self.config.host)?;
        let s = self.released_in(gone).as_secs();
        let name = ep.name.as_ref().map_or_else(|| ep.id.to_string(), ToString::to_string);
        Some(format!(
            "its namespace is gone: it is released in {s} s, or at once with: overlayctl detach \
             {name}"
        ))
    }
}

/// What stands in the kernel for the endpoint alone.
pub(crate) fn local_keys(local: &LocalEndpoint) -> Vec<ObjectKey> {
    local.port_key().into_iter().chain(local.port().map(ObjectKey::Guard)).collect()
}

#[cfg(test)]
mod tests;
