//! Names and addresses of the networks that this host uses, as whoever is asked reads them.
//!
//! A [`Zone`] a network. Of an endpoint it holds a pointer to the one that the rest of the daemon
//! holds, once under each of its names and addresses: some 50 bytes of a hundred thousand
//! endpoints each, and nothing of networks that nobody on this host could ask about.
//!
//! Names need not be unique: two hosts may attach the same name while they cannot hear each other,
//! and aliases are there to be shared. All that have one are its *holders*.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use overlay_model::{Endpoint, HostId, Name, NetworkId, Placed, Subnet};

/// Changes that are taken in before whoever asks gets a turn.
const AT_ONCE: usize = 64;

/// What is to be known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Its endpoints are answered.
    #[default]
    Up,
    /// They are answered last: it is silent for a moment.
    Suspect,
    /// They are not answered: it is down, or has left.
    Out,
}

impl Standing {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Out => "down",
        }
    }
}

/// A network whose names are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedNetwork {
    /// Which.
    pub id: NetworkId,
    /// The label between an endpoint's name and [`crate::DOMAIN`].
    pub name: Name,
    /// Whose addresses have names.
    pub subnets: Vec<Subnet>,
    /// Nothing that is not ours is looked up for it.
    pub internal: bool,
}

/// What is known of a name changes.
#[derive(Debug, Clone)]
pub enum NameChange {
    /// This host uses a network from now on, or it is defined otherwise.
    Network(NamedNetwork),
    /// This host does not use it any more.
    NoNetwork(NetworkId),
    /// An endpoint of such a network comes, changes or goes.
    Endpoint {
        /// As it was.
        before: Option<Arc<Placed>>,
        /// As it is.
        after: Option<Arc<Placed>>,
    },
    /// A host is there, or not.
    Host {
        /// Which.
        host: HostId,
        /// What people call it.
        name: Option<Name>,
        /// How it stands.
        standing: Standing,
    },
}

/// An endpoint as found by one of its keys: the `n`th name or address that it has.
#[derive(Debug, Clone)]
struct Held {
    placed: Arc<Placed>,
    n: u16,
}

/// A key by which endpoints are found.
trait Key: Hash + Eq {
    /// The `n`th that `endpoint` has.
    fn of(endpoint: &Endpoint, n: u16) -> &Self;
    /// How many it has.
    fn count(endpoint: &Endpoint) -> usize;
}

impl Key for str {
    /// Its name is the first, if it has one; aliases follow.
    fn of(endpoint: &Endpoint, n: u16) -> &Self {
        let mut names = endpoint.name.iter().chain(&endpoint.aliases);
        names.nth(n.into()).map_or("", Name::as_str)
    }

    fn count(endpoint: &Endpoint) -> usize {
        usize::from(endpoint.name.is_some()) + endpoint.aliases.len()
    }
}

impl Key for IpAddr {
    fn of(endpoint: &Endpoint, n: u16) -> &Self {
        &endpoint.addresses[usize::from(n)]
    }

    fn count(endpoint: &Endpoint) -> usize {
        endpoint.addresses.len()
    }
}

/// All that have one key: nearly always one.
#[derive(Debug)]
enum Holders {
    One(Held),
    /// At least two; the key is that of the first.
    #[expect(clippy::box_collection, reason = "a hundred thousand of one would be as large")]
    Many(Box<Vec<Held>>),
}

impl Holders {
    fn all(&self) -> &[Held] {
        match self {
            Self::One(held) => std::slice::from_ref(held),
            Self::Many(all) => all,
        }
    }
}

/// [`Holders`] in a set, found by their key, which stands in the endpoint only.
struct Slot<K: ?Sized>(Holders, std::marker::PhantomData<fn() -> Box<K>>);

impl<K: Key + ?Sized> Slot<K> {
    fn key(&self) -> &K {
        let first = &self.0.all()[0];
        K::of(&first.placed.endpoint, first.n)
    }
}

impl<K: Key + ?Sized> PartialEq for Slot<K> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<K: Key + ?Sized> Eq for Slot<K> {}

impl<K: Key + ?Sized> Hash for Slot<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// Endpoints by one kind of key.
struct Index<K: Key + ?Sized>(HashSet<Slot<K>>);

macro_rules! borrowed {
    ($key:ty) => {
        impl Borrow<$key> for Slot<$key> {
            fn borrow(&self) -> &$key {
                self.key()
            }
        }
    };
}

borrowed!(str);
borrowed!(IpAddr);

impl<K: Key + ?Sized> Index<K>
where
    Slot<K>: Borrow<K>,
{
    fn holders(&self, key: &K) -> &[Held] {
        self.0.get(key).map_or(&[], |slot| slot.0.all())
    }

    fn add(&mut self, placed: &Arc<Placed>) {
        for n in 0..K::count(&placed.endpoint) {
            let held = Held { placed: placed.clone(), n: n as u16 };
            let holders = match self.0.take(K::of(&placed.endpoint, held.n)) {
                None => Holders::One(held),
                // Its name may be among its aliases.
                Some(slot) if slot.0.all().iter().any(|h| Arc::ptr_eq(&h.placed, placed)) => slot.0,
                Some(Slot(Holders::One(other), _)) => Holders::Many(Box::new(vec![other, held])),
                Some(Slot(Holders::Many(mut all), _)) => {
                    all.push(held);
                    Holders::Many(all)
                }
            };
            self.0.insert(Slot(holders, std::marker::PhantomData));
        }
    }

    fn remove(&mut self, gone: &Placed) {
        for n in 0..K::count(&gone.endpoint) {
            let Some(Slot(holders, _)) = self.0.take(K::of(&gone.endpoint, n as u16)) else {
                continue;
            };
            let Holders::Many(mut all) = holders else {
                let Holders::One(held) = holders else { continue };
                if !held.placed.is(gone.host, gone.endpoint.id) {
                    self.0.insert(Slot(Holders::One(held), std::marker::PhantomData));
                }
                continue;
            };
            if let Some(at) = all.iter().position(|h| h.placed.is(gone.host, gone.endpoint.id)) {
                all.swap_remove(at);
            }
            let left = match all.len() {
                0 => continue,
                1 => Holders::One(all.swap_remove(0)),
                _ => Holders::Many(all),
            };
            self.0.insert(Slot(left, std::marker::PhantomData));
        }
    }
}

/// The names of one network.
pub struct Zone {
    network: NamedNetwork,
    names: Index<str>,
    addresses: Index<IpAddr>,
}

impl Zone {
    fn new(network: NamedNetwork) -> Self {
        let (names, addresses) = (Index(HashSet::new()), Index(HashSet::new()));
        Self { network, names, addresses }
    }

    /// Which network it is of.
    pub fn network(&self) -> &NamedNetwork {
        &self.network
    }

    /// True if `ip` is in a subnet of the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.network.subnets.iter().any(|subnet| subnet.cidr.contains(&ip))
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.names.0.len()
    }

    /// True if it has no name.
    pub fn is_empty(&self) -> bool {
        self.names.0.is_empty()
    }

    /// Who is called `name`, which is in lower case.
    pub fn named(&self, name: &str) -> impl ExactSizeIterator<Item = &Placed> {
        self.names.holders(name).iter().map(|held| &*held.placed)
    }

    /// Who has `ip`.
    pub fn at(&self, ip: IpAddr) -> impl Iterator<Item = &Placed> {
        self.addresses.holders(&ip).iter().map(|held| &*held.placed)
    }

    fn add(&mut self, placed: &Arc<Placed>) {
        self.names.add(placed);
        self.addresses.add(placed);
    }

    fn remove(&mut self, placed: &Placed) {
        self.names.remove(placed);
        self.addresses.remove(placed);
    }
}

/// Everything that is answered from, at one moment.
#[derive(Default)]
pub struct Book {
    zones: HashMap<NetworkId, Zone>,
    hosts: HashMap<HostId, (Option<Name>, Standing)>,
}

impl Book {
    /// The names of a network, if this host uses it.
    pub fn zone(&self, network: NetworkId) -> Option<&Zone> {
        self.zones.get(&network)
    }

    /// All of them.
    pub fn zones(&self) -> impl Iterator<Item = &Zone> {
        self.zones.values()
    }

    /// How a host stands. One that nothing was said of is this one, or will be told of.
    pub fn standing(&self, host: HostId) -> Standing {
        self.hosts.get(&host).map_or(Standing::Up, |(_, standing)| *standing)
    }

    /// What people call a host.
    pub fn host_name(&self, host: HostId) -> String {
        let name = self.hosts.get(&host).and_then(|(name, _)| name.as_ref());
        name.map_or_else(|| host.short(), Name::to_string)
    }

    /// True if `ip` is the gateway of a network: an address of ours.
    pub fn is_gateway(&self, ip: IpAddr) -> bool {
        let mut subnets = self.zones.values().flat_map(|zone| &zone.network.subnets);
        subnets.any(|subnet| subnet.gateway == ip)
    }

    fn apply(&mut self, change: NameChange) {
        match change {
            NameChange::Network(network) => match self.zones.get_mut(&network.id) {
                Some(zone) => zone.network = network,
                None => {
                    self.zones.insert(network.id, Zone::new(network));
                }
            },
            NameChange::NoNetwork(id) => {
                self.zones.remove(&id);
            }
            NameChange::Endpoint { before, after } => {
                let network = before.iter().chain(&after).map(|placed| placed.endpoint.network);
                let zone = { network }.next_back().and_then(|network| self.zones.get_mut(&network));
                let Some(zone) = zone else { return };
                // Nobody finds nothing in between: whoever asks waits for the end of it.
                before.iter().for_each(|placed| zone.remove(placed));
                after.iter().for_each(|placed| zone.add(placed));
            }
            NameChange::Host { host, name, standing } => {
                if standing == Standing::Up && name.is_none() {
                    self.hosts.remove(&host);
                } else {
                    self.hosts.insert(host, (name, standing));
                }
            }
        }
    }
}

/// The book, shared: who asks reads it while it is written a few entries at a time.
#[derive(Default)]
pub struct Names(RwLock<Book>);

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let book = self.read();
        let names: usize = book.zones.values().map(Zone::len).sum();
        write!(f, "{names} names of {} networks", book.zones.len())
    }
}

impl Names {
    /// As it is now. To be held for a few answers, never across waiting.
    pub fn read(&self) -> RwLockReadGuard<'_, Book> {
        // Who panicked while he wrote has left single entries at worst.
        self.0.read().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Takes changes in, in order.
    pub fn apply(&self, changes: impl IntoIterator<Item = NameChange>) {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let mut book = self.0.write().unwrap_or_else(|broken| broken.into_inner());
            changes.by_ref().take(AT_ONCE).for_each(|change| book.apply(change));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
