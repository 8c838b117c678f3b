//! Which records of a host stand, as far as told.
//!
//! Nearly all of them are endpoints, and there may be a hundred thousand: a
//! [`RecordKey`] each would take four times the memory of its id.

use std::collections::{BTreeMap, BTreeSet};

use overlay_model::{EndpointId, NetworkId, RecordKey};

/// A set of [`RecordKey`].
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// By network; none is empty.
    endpoints: BTreeMap<NetworkId, BTreeSet<EndpointId>>,
    others: BTreeSet<RecordKey>,
}

impl Told {
    pub(crate) fn contains(&self, key: RecordKey) -> bool {
        match key {
            RecordKey::Endpoint(net, id) => {
                self.endpoints.get(&net).is_some_and(|ids| ids.contains(&id))
            }
            other => self.others.contains(&other),
        }
    }

    /// True if it was not in it.
    pub(crate) fn insert(&mut self, key: RecordKey) -> bool {
        match key {
            RecordKey::Endpoint(net, id) => self.endpoints.entry(net).or_default().insert(id),
            other => self.others.insert(other),
        }
    }

    /// True if it was in it.
    pub(crate) fn remove(&mut self, key: RecordKey) -> bool {
        let RecordKey::Endpoint(net, id) = key else { return self.others.remove(&key) };
        let Some(ids) = self.endpoints.get_mut(&net) else { return false };
        let was = ids.remove(&id);
        if ids.is_empty() {
            self.endpoints.remove(&net);
        }
        was
    }

    /// True if the host has an endpoint on `net`.
    pub(crate) fn uses(&self, net: NetworkId) -> bool {
        self.endpoints.contains_key(&net)
    }

    /// All, the endpoints last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RecordKey> + '_ {
        let endpoints = self
            .endpoints
            .iter()
            .flat_map(|(net, ids)| ids.iter().map(|id| RecordKey::Endpoint(*net, *id)));
        self.others.iter().copied().chain(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use overlay_model::Family;

    use super::*;

    #[test]
    fn it_is_a_set_of_all_kinds_of_keys() {
        let net = NetworkId(7);
        let endpoint = |n| RecordKey::Endpoint(net, EndpointId::from_bits(n));
        let keys = [RecordKey::Host, RecordKey::Ring(net, Family::V4, 0), endpoint(1), endpoint(2)];
        let mut told = Told::default();
        for key in keys {
            assert!(!told.contains(key) && told.insert(key) && !told.insert(key));
        }
        assert!(told.iter().eq(keys));
        assert!(told.remove(endpoint(1)) && !told.remove(endpoint(1)) && told.uses(net));
        assert!(told.remove(endpoint(2)) && !told.uses(net));
        assert!(told.remove(RecordKey::Host) && !told.contains(RecordKey::Host));
        assert_eq!(told.iter().count(), 1);
    }
}
