//! The fast path: a change leaves at once, to every host that needs it, and not
//! with the next round of gossip.
//!
//! ```text
//!   publish ─► Outbox ─► one datagram a peer ─► View::pushed ─► events
//!                 │                                  │
//!                 └── once more after 20 ms          └── something is missing: gossip(origin)
//! ```
//!
//! Nothing rests on it: every change is in chitchat's state as well, and
//! reaches everybody by anti-entropy. So a push may be lost, repeated or
//! reordered. Each change carries the version that it has in its owner's state,
//! and the receiver takes only what is newer than what it has been told.
//!
//! - **Who gets it.** Changes of endpoints go to the hosts that have endpoints
//!   on their network, all others to everybody. Up to [`EVERYBODY`] hosts get
//!   everything; so does everybody the first and the last endpoint of a host on
//!   a network, by which others know that they need each other's.
//! - **Gaps.** Pushes to a peer are numbered, and say from which version on it
//!   gets them. A receiver that misses one, or has not come so far, asks the
//!   origin.
//! - **Twice.** A small push is sent again after [`AGAIN_AFTER`]: where one
//!   packet in a hundred is lost, one in ten thousand then is.
//! - **Together.** The first change goes at once; those of the following
//!   [`COALESCE`] share a push.
//!
//! Bytes: one byte [`VERSION`], then bincode 2 `standard()` of [`v1::Head`] and
//! of a list of [`v1::Change`]. FROZEN, as the records in it are: see `codec`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use overlay_model::{HostId, NetworkId, RecordKey};
use tokio::time::Instant;

use crate::wire::{Kind, Message, Port};

/// Changes so close together share a push.
pub(crate) const COALESCE: Duration = Duration::from_millis(1);

/// When a small push is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A push of more bodies than this is not repeated.
const SMALL: usize = 4;

/// Up to so many peers, all of them get everything.
pub(crate) const EVERYBODY: usize = 64;

/// Bytes of a body that goes as one datagram, with room for seal and headers
/// on an underlay of 1280.
const BODY: usize = 1100;

/// Bytes of a body when there are many changes: fewer seals, fewer wake-ups.
const LARGE_BODY: usize = 48 * 1024;

/// So many changes are many.
const MANY: usize = 200;

/// The longest body that is looked at.
const MAX_BODY: usize = 64 * 1024;

/// What a decoder may claim in memory for one body, bytes.
const DECODE_LIMIT: usize = 512 * 1024;

/// The format that we write.
const VERSION: u8 = 1;

/// Format 1. FROZEN.
mod v1 {
    use bincode::{Decode, Encode};

    #[derive(Debug, PartialEq, Encode, Decode)]
    pub(super) struct Head {
        pub(super) host: [u8; 16],
        pub(super) incarnation: u64,
        pub(super) number: u64,
        pub(super) since: u64,
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    pub(super) struct Change {
        pub(super) version: u64,
        pub(super) key: String,
        pub(super) value: Option<Vec<u8>>,
    }
}

/// Carries pushes: the gossip port, or a simulated network.
#[async_trait]
pub trait Pushes: Send + Sync {
    /// Sends a body; never waits; what cannot go is lost.
    fn send(&self, to: SocketAddr, body: &[u8]);
    /// The next body that came, and from where. Given up, it loses none.
    async fn next(&self) -> Parcel;
}

#[async_trait]
impl Pushes for Port {
    fn send(&self, to: SocketAddr, body: &[u8]) {
        if let Err(err) = Port::send(self, to, Kind::Push, body) {
            tracing::debug!(%to, %err, "push not sent");
        }
    }

    async fn next(&self) -> Parcel {
        let Message { from, body } = self.push.next().await;
        (from, body)
    }
}

/// One changed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// What it has in its owner's state.
    pub(crate) version: u64,
    /// As text: this version may not know it.
    pub(crate) key: String,
    /// The bytes of the record with their format byte; `None`: withdrawn.
    pub(crate) value: Option<Vec<u8>>,
}

/// Some changes of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Push {
    /// Whose.
    pub(crate) host: HostId,
    /// In which life.
    pub(crate) incarnation: u64,
    /// How many came before it in this life, to the same peer, and one.
    pub(crate) number: u64,
    /// Everything after this version is pushed to this peer, if it needs it.
    pub(crate) since: u64,
    /// In no particular order.
    pub(crate) changes: Vec<Change>,
}

/// A body that is no push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadPush;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

fn encode<T: bincode::Encode>(value: T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard())
        .expect("encoding to memory has nothing that can fail")
}

/// A body without its changes.
fn head(host: HostId, incarnation: u64, number: u64, since: u64) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(v1::Head { host: host.0.into_bytes(), incarnation, number, since }));
    bytes
}

/// The body that says this.
#[cfg(feature = "fuzzing")]
pub(crate) fn body(push: Push) -> Vec<u8> {
    let Push { host, incarnation, number, since, changes } = push;
    let change = |Change { version, key, value }| v1::Change { version, key, value };
    let mut body = head(host, incarnation, number, since);
    body.extend(encode(changes.into_iter().map(change).collect::<Vec<_>>()));
    body
}

/// Reads a body.
pub(crate) fn decode(body: &[u8]) -> Result<Push, BadPush> {
    if body.len() > MAX_BODY {
        return Err(BadPush);
    }
    let (&VERSION, rest) = body.split_first().ok_or(BadPush)? else { return Err(BadPush) };
    let (head, read) =
        bincode::decode_from_slice::<v1::Head, _>(rest, config()).map_err(|_| BadPush)?;
    let rest = &rest[read..];
    let (changes, read) =
        bincode::decode_from_slice::<Vec<v1::Change>, _>(rest, config()).map_err(|_| BadPush)?;
    if read != rest.len() {
        return Err(BadPush);
    }
    Ok(Push {
        host: HostId(uuid::Uuid::from_bytes(head.host)),
        incarnation: head.incarnation,
        number: head.number,
        since: head.since,
        changes: changes
            .into_iter()
            .map(|v1::Change { version, key, value }| Change { version, key, value })
            .collect(),
    })
}

/// What was written and has not left yet.
struct Waiting {
    change: Change,
    /// `Some`: only hosts on this network need it.
    network: Option<NetworkId>,
}

/// A body, and to whom it goes or from whom it came.
pub type Parcel = (SocketAddr, Vec<u8>);

/// Changes of ours on their way out.
pub(crate) struct Outbox {
    host: HostId,
    incarnation: u64,
    waiting: BTreeMap<RecordKey, Waiting>,
    /// The version up to which everything has been put in here.
    to: u64,
    /// The same when the last push left: since then a new peer gets pushes.
    before: u64,
    /// When the last push left.
    left: Option<Instant>,
    /// How many pushes each peer got, and since which version.
    sent: BTreeMap<SocketAddr, (u64, u64)>,
    again: VecDeque<(Instant, Vec<Parcel>)>,
}

impl Outbox {
    pub(crate) fn new(host: HostId, incarnation: u64, version: u64) -> Self {
        Self {
            host,
            incarnation,
            waiting: BTreeMap::new(),
            to: version,
            before: version,
            left: None,
            sent: BTreeMap::new(),
            again: VecDeque::new(),
        }
    }

    /// A record was written. `network`: only hosts on it need it.
    pub(crate) fn put(&mut self, key: RecordKey, change: Change, network: Option<NetworkId>) {
        // Whoever waits for everybody goes on to: a host must not miss that
        // another began to use a network because it then changed its endpoint.
        let network = match self.waiting.get(&key) {
            Some(Waiting { network: None, .. }) => None,
            _ => network,
        };
        self.waiting.insert(key, Waiting { change, network });
    }

    /// Everything up to `version` has been put.
    pub(crate) fn written_up_to(&mut self, version: u64) {
        self.to = version;
    }

    /// When something is to be sent.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let push = (!self.waiting.is_empty()).then(|| match self.left {
            Some(left) => left + COALESCE,
            None => Instant::now(),
        });
        push.into_iter().chain(self.again.front().map(|(at, _)| *at)).min()
    }

    /// What is due. `users` says which peers have endpoints on a network.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        peers: &BTreeSet<SocketAddr>,
        users: impl Fn(NetworkId) -> BTreeSet<SocketAddr>,
    ) -> Vec<Parcel> {
        let mut out = Vec::new();
        while self.again.front().is_some_and(|(at, _)| *at <= now) {
            out.extend(self.again.pop_front().into_iter().flat_map(|(_, bodies)| bodies));
        }
        let due = self.left.is_none_or(|left| left + COALESCE <= now);
        if self.waiting.is_empty() || !due {
            return out;
        }
        self.left = Some(now);
        let mut waiting: Vec<Waiting> = std::mem::take(&mut self.waiting).into_values().collect();
        if peers.len() <= EVERYBODY {
            waiting.iter_mut().for_each(|w| w.network = None);
        }
        let networks: BTreeSet<NetworkId> = waiting.iter().filter_map(|w| w.network).collect();
        let networks: Vec<_> = networks.into_iter().map(|net| (net, users(net))).collect();
        // Peers that use the same of these networks get the same changes.
        let mut packed: BTreeMap<Vec<NetworkId>, Vec<Vec<u8>>> = BTreeMap::new();
        let mut fresh = Vec::new();
        self.sent.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            let used: Vec<NetworkId> = networks
                .iter()
                .filter(|(_, users)| users.contains(peer))
                .map(|(net, _)| *net)
                .collect();
            let bodies = packed.entry(used).or_insert_with_key(|used| {
                let wanted = |w: &&Waiting| w.network.is_none_or(|net| used.contains(&net));
                pack(waiting.iter().filter(wanted).map(|w| &w.change))
            });
            if bodies.is_empty() {
                continue;
            }
            let (number, since) = self.sent.entry(*peer).or_insert((0, self.before));
            for changes in bodies {
                *number += 1;
                let mut body = head(self.host, self.incarnation, *number, *since);
                body.extend_from_slice(changes);
                fresh.push((*peer, body));
            }
        }
        self.before = self.to;
        if packed.values().all(|bodies| bodies.len() <= SMALL) && !fresh.is_empty() {
            self.again.push_back((now + AGAIN_AFTER, fresh.clone()));
        }
        out.extend(fresh);
        out
    }
}

/// Lists of changes that fit a body each.
fn pack<'a>(changes: impl Iterator<Item = &'a Change> + Clone) -> Vec<Vec<u8>> {
    let limit = if changes.clone().nth(MANY).is_some() { LARGE_BODY } else { BODY };
    let mut bodies = Vec::new();
    let (mut list, mut size): (Vec<v1::Change>, usize) = (Vec::new(), 0);
    for Change { version, key, value } in changes {
        let len = key.len() + value.as_ref().map_or(0, Vec::len) + 24;
        if size + len > limit && !list.is_empty() {
            bodies.push(encode(std::mem::take(&mut list)));
            size = 0;
        }
        size += len;
        list.push(v1::Change { version: *version, key: key.clone(), value: value.clone() });
    }
    if !list.is_empty() {
        bodies.push(encode(list));
    }
    bodies
}

#[cfg(test)]
mod tests;
