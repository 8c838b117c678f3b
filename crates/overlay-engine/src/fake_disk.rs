//! A state file for tests and simulation: what a daemon has written, in memory.
//!
//! It is here when the daemon is gone, as the real one is, and refuses to be
//! written when it is told to be full.

use std::collections::{BTreeMap, BTreeSet};

use overlay_model::{
    EndpointId, Family, Fate, HostId, Name, Network, NetworkId, RingToken, Service,
};

use crate::engine::Restored;
use crate::event::{LocalEndpoint, StateChange};
use crate::kept::Kept;
use crate::recovery::Lost;

/// What it holds.
#[derive(Debug, Clone, Default)]
pub struct FakeDisk {
    /// Networks, tombstones included.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Endpoints of the host.
    pub endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    ring: BTreeMap<(NetworkId, Family, u128), RingToken>,
    members: BTreeSet<HostId>,
    fates: BTreeMap<HostId, Fate>,
    contact_ms: Option<u64>,
    drained: bool,
    kept: BTreeMap<(NetworkId, Name), Kept>,
    services: BTreeMap<u64, Service>,
    /// What was lost with the disk before this one, and has not all been found again.
    pub lost: Option<Lost>,
    /// It takes nothing more.
    pub full: bool,
    /// How often it was written to.
    pub writes: usize,
}

impl FakeDisk {
    /// Writes `changes`, all or none.
    ///
    /// # Errors
    /// In the words of the system, while it is [`full`](Self::full).
    pub fn write(&mut self, changes: Vec<StateChange>) -> Result<(), String> {
        if self.full {
            return Err("no space left on device".into());
        }
        self.writes += 1;
        for change in changes {
            match change {
                StateChange::Network(net) => drop(self.networks.insert(net.id, net)),
                StateChange::Endpoint(local) => {
                    self.endpoints.insert(local.endpoint.id, *local);
                }
                StateChange::DropEndpoint(id) => drop(self.endpoints.remove(&id)),
                StateChange::Ring(net, family, offset, token) => {
                    self.ring.insert((net, family, offset), token);
                }
                StateChange::DropRing(net) => self.ring.retain(|(n, ..), _| *n != net),
                StateChange::DropToken(net, family, offset) => {
                    self.ring.remove(&(net, family, offset));
                }
                StateChange::Member(host, true) => drop(self.members.insert(host)),
                StateChange::Member(host, false) => drop(self.members.remove(&host)),
                StateChange::Fate(host, Some(fate)) => drop(self.fates.insert(host, fate)),
                StateChange::Fate(host, None) => drop(self.fates.remove(&host)),
                StateChange::Contact(at) => self.contact_ms = Some(at),
                StateChange::Drained(drained) => self.drained = drained,
                StateChange::Kept(kept) => {
                    self.kept.insert((kept.network, kept.name.clone()), kept);
                }
                StateChange::DropKept(net, name) => drop(self.kept.remove(&(net, name))),
                StateChange::Service(service) => {
                    self.services.insert(service.id, service);
                }
                StateChange::Recovered => self.lost = None,
            }
        }
        Ok(())
    }

    /// What a daemon that starts finds.
    pub fn restored(&self) -> Restored {
        let disk = self.clone();
        Restored {
            networks: disk.networks.into_values().collect(),
            endpoints: disk.endpoints.into_values().collect(),
            gone: BTreeSet::new(),
            ring: disk.ring.into_iter().collect(),
            members: disk.members,
            fates: disk.fates,
            contact_ms: disk.contact_ms,
            drained: disk.drained,
            kept: disk.kept.into_values().collect(),
            services: disk.services.into_values().collect(),
            lost: disk.lost,
        }
    }
}
