//! What a kernel holds, in little memory.
//!
//! A host that holds the entries of 100,000 endpoints has 300,000 of them. As
//! pairs of [`ObjectKey`] and [`Object`] each would be as large as the largest
//! of all kinds, some 130 bytes with its share of the tree. Here they stand by
//! device, and each is what tells it from the next: some 50 bytes. Things of
//! all other kinds are few, and stand as pairs.
//!
//! It is a map all the same, in the order of [`ObjectKey`]. Entries are put
//! together for whoever asks, and so are given as values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Link, Object, ObjectKey, Port};
use crate::{IfName, MacAddr};

/// A map of [`ObjectKey`] to [`Object`]. See the header.
///
/// An object that does not belong under its key is not held.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// All but the following. Their keys sort before those.
    few: BTreeMap<ObjectKey, Object>,
    vxlan_fdb: Table<MacAddr, IpAddr>,
    /// The port, and whether it is marked `extern_learn`.
    bridge_fdb: Table<MacAddr, (IfName, bool)>,
    neigh: Table<IpAddr, MacAddr>,
}

impl Objects {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many objects are held.
    pub fn len(&self) -> usize {
        self.few.len() + self.vxlan_fdb.len() + self.bridge_fdb.len() + self.neigh.len()
    }

    /// The object under `key`.
    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        match key {
            ObjectKey::VxlanFdb(dev, mac) => self.vxlan_fdb.get(dev, mac).map(vxlan_fdb),
            ObjectKey::BridgeFdb(dev, mac) => self.bridge_fdb.get(dev, mac).map(bridge_fdb),
            ObjectKey::Neigh(dev, ip) => self.neigh.get(dev, ip).map(neigh),
            _ => self.few.get(key).cloned(),
        }
    }

    /// True if something is held under `key`.
    pub fn contains_key(&self, key: &ObjectKey) -> bool {
        match key {
            ObjectKey::VxlanFdb(dev, mac) => self.vxlan_fdb.get(dev, mac).is_some(),
            ObjectKey::BridgeFdb(dev, mac) => self.bridge_fdb.get(dev, mac).is_some(),
            ObjectKey::Neigh(dev, ip) => self.neigh.get(dev, ip).is_some(),
            _ => self.few.contains_key(key),
        }
    }

    /// The link of ours of that name.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        match self.few.get(&ObjectKey::Link(name.clone())) {
            Some(Object::Link(link)) => Some(link),
            _ => None,
        }
    }

    /// The device of that name that is not ours, and a port of a bridge of ours.
    pub fn port(&self, name: &IfName) -> Option<&Port> {
        match self.few.get(&ObjectKey::Port(name.clone())) {
            Some(Object::Port(port)) => Some(port),
            _ => None,
        }
    }

    /// Holds `object` under `key`; returns what stood there.
    pub fn insert(&mut self, key: ObjectKey, object: Object) -> Option<Object> {
        match (key, object) {
            (ObjectKey::VxlanFdb(dev, mac), Object::VxlanFdb { dst }) => {
                self.vxlan_fdb.insert(dev, mac, dst).map(vxlan_fdb)
            }
            (ObjectKey::BridgeFdb(dev, mac), Object::BridgeFdb { port, extern_learn }) => {
                self.bridge_fdb.insert(dev, mac, (port, extern_learn)).map(bridge_fdb)
            }
            (ObjectKey::Neigh(dev, ip), Object::Neigh { mac }) => {
                self.neigh.insert(dev, ip, mac).map(neigh)
            }
            (
                key @ (ObjectKey::VxlanFdb(..) | ObjectKey::BridgeFdb(..) | ObjectKey::Neigh(..)),
                _,
            ) => self.remove(&key),
            (key, object) => self.few.insert(key, object),
        }
    }

    /// Holds nothing under `key` any more; returns what stood there.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Object> {
        match key {
            ObjectKey::VxlanFdb(dev, mac) => self.vxlan_fdb.remove(dev, mac).map(vxlan_fdb),
            ObjectKey::BridgeFdb(dev, mac) => self.bridge_fdb.remove(dev, mac).map(bridge_fdb),
            ObjectKey::Neigh(dev, ip) => self.neigh.remove(dev, ip).map(neigh),
            _ => self.few.remove(key),
        }
    }

    /// Holds all that `others` holds, too; that counts where both hold something.
    pub fn append(&mut self, mut others: Self) {
        self.few.append(&mut others.few);
        self.vxlan_fdb.append(others.vxlan_fdb);
        self.bridge_fdb.append(others.bridge_fdb);
        self.neigh.append(others.neigh);
    }

    /// Takes the first out.
    pub fn pop_first(&mut self) -> Option<(ObjectKey, Object)> {
        if let Some(first) = self.few.pop_first() {
            return Some(first);
        }
        if let Some((dev, mac, dst)) = self.vxlan_fdb.pop_first() {
            return Some((ObjectKey::VxlanFdb(dev, mac), vxlan_fdb(dst)));
        }
        if let Some((dev, mac, port)) = self.bridge_fdb.pop_first() {
            return Some((ObjectKey::BridgeFdb(dev, mac), bridge_fdb(port)));
        }
        let (dev, ip, mac) = self.neigh.pop_first()?;
        Some((ObjectKey::Neigh(dev, ip), neigh(mac)))
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectKey, Object)> + '_ {
        self.after(None)
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = ObjectKey> + '_ {
        self.iter().map(|(key, _)| key)
    }

    /// Those behind `key`, in order.
    pub fn after(&self, key: Option<&ObjectKey>) -> impl Iterator<Item = (ObjectKey, Object)> + '_ {
        use Low::{After, End, Start};
        let (vxlan, bridge, neighbours) = match key {
            Some(ObjectKey::VxlanFdb(dev, mac)) => (After(dev, *mac), Start, Start),
            Some(ObjectKey::BridgeFdb(dev, mac)) => (End, After(dev, *mac), Start),
            Some(ObjectKey::Neigh(dev, ip)) => (End, End, After(dev, *ip)),
            _ => (Start, Start, Start),
        };
        let (vxlan, bridge) = (self.vxlan_fdb.behind(vxlan), self.bridge_fdb.behind(bridge));
        let neighbours = self.neigh.behind(neighbours);
        let low = key.map_or(Bound::Unbounded, Bound::Excluded);
        let few = self.few.range((low, Bound::Unbounded));
        few.map(|(key, object)| (key.clone(), object.clone()))
            .chain(
                vxlan
                    .map(|(dev, mac, dst)| (ObjectKey::VxlanFdb(dev.clone(), mac), vxlan_fdb(dst))),
            )
            .chain(
                bridge.map(|(dev, mac, port)| {
                    (ObjectKey::BridgeFdb(dev.clone(), mac), bridge_fdb(port))
                }),
            )
            .chain(neighbours.map(|(dev, ip, mac)| (ObjectKey::Neigh(dev.clone(), ip), neigh(mac))))
    }

    /// The keys of all that stands on the link `name`, in order.
    pub fn keys_on(&self, name: &IfName) -> Vec<ObjectKey> {
        let few = self.few.keys().filter(|key| key.stands_on() == Some(name)).cloned();
        let vxlan = self.vxlan_fdb.on(name).map(|mac| ObjectKey::VxlanFdb(name.clone(), *mac));
        let bridge = self.bridge_fdb.on(name).map(|mac| ObjectKey::BridgeFdb(name.clone(), *mac));
        let neighbours = self.neigh.on(name).map(|ip| ObjectKey::Neigh(name.clone(), *ip));
        few.chain(vxlan).chain(bridge).chain(neighbours).collect()
    }
}

fn vxlan_fdb(dst: IpAddr) -> Object {
    Object::VxlanFdb { dst }
}

fn bridge_fdb((port, extern_learn): (IfName, bool)) -> Object {
    Object::BridgeFdb { port, extern_learn }
}

fn neigh(mac: MacAddr) -> Object {
    Object::Neigh { mac }
}

impl FromIterator<(ObjectKey, Object)> for Objects {
    fn from_iter<I: IntoIterator<Item = (ObjectKey, Object)>>(pairs: I) -> Self {
        let mut objects = Self::new();
        objects.extend(pairs);
        objects
    }
}

impl Extend<(ObjectKey, Object)> for Objects {
    fn extend<I: IntoIterator<Item = (ObjectKey, Object)>>(&mut self, pairs: I) {
        for (key, object) in pairs {
            self.insert(key, object);
        }
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A list of pairs: JSON has no maps whose keys are no text.
impl Serialize for Objects {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Vec::<(ObjectKey, Object)>::deserialize(from)?.into_iter().collect())
    }
}

/// Entries of one kind, by the device that they stand on. None is empty.
#[derive(Clone, PartialEq, Eq)]
struct Table<K, V>(BTreeMap<IfName, BTreeMap<K, V>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Where one begins to go through a [`Table`].
enum Low<'a, K> {
    Start,
    After(&'a IfName, K),
    End,
}

impl<K: Ord + Copy, V: Clone> Table<K, V> {
    fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    fn get(&self, dev: &IfName, key: &K) -> Option<V> {
        self.0.get(dev)?.get(key).cloned()
    }

    fn insert(&mut self, dev: IfName, key: K, value: V) -> Option<V> {
        self.0.entry(dev).or_default().insert(key, value)
    }

    fn remove(&mut self, dev: &IfName, key: &K) -> Option<V> {
        let entries = self.0.get_mut(dev)?;
        let removed = entries.remove(key);
        if entries.is_empty() {
            self.0.remove(dev);
        }
        removed
    }

    fn append(&mut self, others: Self) {
        for (dev, mut entries) in others.0 {
            self.0.entry(dev).or_default().append(&mut entries);
        }
    }

    fn pop_first(&mut self) -> Option<(IfName, K, V)> {
        let mut first = self.0.first_entry()?;
        let dev = first.key().clone();
        let (key, value) = first.get_mut().pop_first()?;
        if first.get().is_empty() {
            first.remove();
        }
        Some((dev, key, value))
    }

    fn on(&self, dev: &IfName) -> impl Iterator<Item = &K> {
        self.0.get(dev).into_iter().flat_map(BTreeMap::keys)
    }

    fn behind(&self, low: Low<'_, K>) -> impl Iterator<Item = (&IfName, K, V)> + use<'_, K, V> {
        let (begun, low) = match low {
            Low::Start => (None, Some(Bound::Unbounded)),
            Low::After(dev, key) => (
                self.0.get_key_value(dev).map(|(dev, entries)| {
                    (dev, entries.range((Bound::Excluded(key), Bound::Unbounded)))
                }),
                Some(Bound::Excluded(dev)),
            ),
            Low::End => (None, None),
        };
        let later = low.map(|low| self.0.range((low, Bound::Unbounded)));
        let later = later.into_iter().flatten().map(|(dev, entries)| (dev, entries.range(..)));
        let all = begun.into_iter().chain(later);
        all.flat_map(|(dev, entries)| entries.map(move |(key, value)| (dev, *key, value.clone())))
    }
}

#[cfg(test)]
mod tests;
