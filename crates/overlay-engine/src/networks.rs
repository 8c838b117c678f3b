//! The networks of the cluster: definitions, newest first, and who may use a
//! VNI or a name.
//!
//! A definition is merged by its `updated` stamp; a deletion is a tombstone.
//! Two networks that claim one VNI or one name (created on both sides of a
//! partition): the older claim wins everywhere, the other is in conflict and
//! is not programmed.

use std::collections::BTreeMap;

use overlay_model::{Network, NetworkId, Vni};

/// Every network known, tombstones included.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    known: BTreeMap<NetworkId, Network>,
    /// Loser and why; recomputed at every change.
    conflicts: BTreeMap<NetworkId, String>,
    programmed: BTreeMap<Vni, NetworkId>,
}

impl Networks {
    /// Takes a definition over if it is newer than what is known, and says
    /// what it replaces; `None` if it is not newer.
    pub(crate) fn merge(&mut self, network: Network) -> Option<Option<Network>> {
        let newer = self.known.get(&network.id).is_none_or(|old| network.updated > old.updated);
        if !newer {
            return None;
        }
        let before = self.known.insert(network.id, network);
        self.settle();
        Some(before)
    }

    /// Takes back a merge that could not be written down.
    pub(crate) fn restore(&mut self, id: NetworkId, before: Option<Network>) {
        match before {
            Some(network) => self.known.insert(id, network),
            None => self.known.remove(&id),
        };
        self.settle();
    }

    /// A network that is not deleted.
    pub(crate) fn get(&self, id: NetworkId) -> Option<&Network> {
        self.known.get(&id).filter(|n| !n.deleted)
    }

    /// True if it is known that there was such a network, and is no longer.
    pub(crate) fn is_removed(&self, id: NetworkId) -> bool {
        self.known.get(&id).is_some_and(|n| n.deleted)
    }

    /// Networks that are not deleted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Network> {
        self.known.values().filter(|n| !n.deleted)
    }

    /// All definitions, tombstones included.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Network> {
        self.known.values()
    }

    /// Finds a network by id, else by name; of two with one name the one that
    /// holds it.
    pub(crate) fn find(&self, text: &str) -> Option<&Network> {
        let by_id = text.parse().ok().and_then(|id| self.get(id));
        by_id.or_else(|| {
            let named = || self.iter().filter(|n| n.name.as_str() == text);
            named().find(|n| !self.conflicts.contains_key(&n.id)).or_else(|| named().next())
        })
    }

    /// The network that holds `vni` by the oldest claim.
    pub(crate) fn programmed(&self, vni: Vni) -> Option<&Network> {
        self.programmed.get(&vni).and_then(|id| self.get(*id))
    }

    /// Why a network is not programmed.
    pub(crate) fn conflict(&self, id: NetworkId) -> Option<&str> {
        self.conflicts.get(&id).map(String::as_str)
    }

    /// All that are not programmed, and why.
    pub(crate) fn conflicts(&self) -> &BTreeMap<NetworkId, String> {
        &self.conflicts
    }

    fn settle(&mut self) {
        self.conflicts.clear();
        self.programmed.clear();
        let mut live: Vec<&Network> = self.known.values().filter(|n| !n.deleted).collect();
        live.sort_by_key(|n| (n.created, n.id));
        let mut names = BTreeMap::new();
        for network in live {
            let by_vni = self.programmed.get(&network.vni).map(|id| (*id, "VNI"));
            let by_name = names.get(&network.name).map(|id| (*id, "name"));
            if let Some((holder, what)) = by_vni.or(by_name) {
                let held = match what {
                    "VNI" => format!("VNI {}", network.vni),
                    _ => format!("the name {}", network.name),
                };
                let other = self
                    .known
                    .get(&holder)
                    .map_or_else(|| holder.to_string(), |n| format!("{} ({holder})", n.name));
                self.conflicts
                    .insert(network.id, format!("{held} is held by the older network {other}"));
            } else {
                self.programmed.insert(network.vni, network.id);
                names.insert(network.name.clone(), network.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
