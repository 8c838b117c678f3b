//! Gossip between hosts: chitchat, and what it needs around it.
//!
//! A host publishes records under keys; every other host is told of each as a
//! [`ClusterEvent`], whatever was lost, repeated or reordered on the way. What
//! records mean is somebody else's business.
//!
//! | module | holds |
//! |---|---|
//! | `driver` | the one task that owns chitchat: writes, pushes, catches up, restarts it |
//! | `push` | the fast path: a change leaves at once |
//! | `look` | what chitchat says it has changed |
//! | `told` | which records stand, as far as told |
//! | `view` | from chitchat's state to an exact stream of events; liveness |
//! | `doubles` | two machines with one identity |
//! | `codec` | records as text, in frozen formats; hostile bytes end here |
//! | `wire` | the gossip port: whole messages between hosts |
//! | `seal`, `keyring` | what goes through it is sealed with the cluster's key, and is let in once |
//! | `tcp` | messages that are larger than a packet of the underlay |
//! | `refusals` | from which addresses what was refused |
//! | `round_trip` | how long a peer takes to answer |
//! | `limits` | what chitchat must not be shown |
//! | `transport` | chitchat's messages through that port |
//! | `ways` | hosts that advertise an address of a family that this one has not |
//! | `join` | from `--join` names to addresses, for ever |
//!
//! Promises:
//!
//! 1. Records of one (host, incarnation) that stand when it is first heard of
//!    are told in the order in which they were written, the host's own [`RecordKey::Host`] first when all else is
//!    here (see `view`).
//! 2. A change leaves at once, to every live peer that needs it, and not at the
//!    next tick; changes within about a millisecond share a datagram. Records
//!    that come this way may overtake others of their host.
//! 3. With a key, nobody who does not have it can read a message, write one, or
//!    have a recorded one taken in; what is refused is counted by kind, and a host with
//!    another key is named in the log of both ends (see `seal`).
//! 4. Nothing is sent as an IP fragment.
//! 5. What cannot be read is counted, passed on to other hosts, and otherwise
//!    ignored. It never panics and never allocates by a length it claims.
//! 6. No peer that is down, no name that does not resolve and no death of
//!    chitchat's task stops us; all are tried again for ever.
//!
//! How chitchat is used (each point measured, the reasons stand where it
//! happens): compressed digests, node ids of 10 characters, a sampling window
//! of 100, values of at most 1 kB, withdrawals as empty values with a time to
//! live and never as deletions (which raise no event), a generation that grows
//! with every life.
//!
//! Absent: trust among those who have the key. Each of them can write any
//! record of any host.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use overlay_model::{ClusterEvent, HostId, Record, RecordKey};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

mod codec;
mod doubles;
mod driver;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod join;
mod keyring;
mod limits;
mod look;
mod push;
mod refusals;
mod round_trip;
mod seal;
mod stats;
mod tcp;
mod told;
mod transport;
mod view;
mod ways;
mod wire;

pub use codec::{MAX_VALUE, TooLong};
pub use keyring::{InvalidKey, Key, Keyring, KeyringError};
pub use push::{Parcel, Pushes};
pub use refusals::{Refusals, RefusedFrom};
pub use round_trip::RoundTrip;
pub use stats::{GossipStats, PeerInfo};

use driver::{Command, Driver};
use stats::Counters;
use ways::Ways;

/// Gives the incarnation of the next life: larger than all before, and
/// persisted before it is returned.
pub type NextIncarnation = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who we are to the cluster, and where it is.
#[derive(Clone)]
pub struct GossipConfig {
    /// Our identity.
    pub host: HostId,
    /// Which life of it: larger than all before, persisted already. A life that
    /// repeats an old incarnation gets its old records back from its peers and
    /// loses the new ones.
    pub incarnation: u64,
    /// For the case that chitchat's task dies and has to begin a new life.
    pub next_incarnation: NextIncarnation,
    /// Where we receive.
    pub listen: SocketAddr,
    /// And where besides, at an address of the other family: hosts that have that
    /// one only reach us there, if it is a VTEP address of our host record.
    pub listen_also: Option<SocketAddr>,
    /// Where others reach us.
    pub advertise: SocketAddr,
    /// Peers to find the cluster by, `HOST:PORT`. Names are resolved again and
    /// again, peers that are down are tried for ever.
    pub join: Vec<String>,
    /// Name of the cluster; hosts of another one are refused. `overlayd`.
    pub cluster: String,
    /// Time between rounds of gossip. 500 ms.
    pub interval: Duration,
    /// How long a dead host's records are kept. 15 min: every host known, dead
    /// or alive, is named in every message.
    pub dead_grace: Duration,
    /// What messages are sealed with. `None`: they are not, and whoever reaches
    /// the port can write any record of any host.
    pub keys: Option<Arc<Keyring>>,
    /// The underlay's MTU, bytes of IP packet: what is larger goes by TCP.
    pub mtu: u16,
}

impl GossipConfig {
    /// The usual cluster name, times and MTU, no peers, no keys, and `incarnation` growing
    /// from the given one in memory only.
    pub fn new(host: HostId, incarnation: u64, addr: SocketAddr) -> Self {
        let next = std::sync::atomic::AtomicU64::new(incarnation + 1);
        Self {
            host,
            incarnation,
            next_incarnation: Arc::new(move || {
                next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            }),
            listen: addr,
            listen_also: None,
            advertise: addr,
            join: Vec::new(),
            cluster: "overlayd".to_owned(),
            interval: Duration::from_millis(500),
            dead_grace: Duration::from_secs(15 * 60),
            keys: None,
            mtu: 1500,
        }
    }
}

impl fmt::Debug for GossipConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipConfig")
            .field("host", &self.host)
            .field("incarnation", &self.incarnation)
            .field("listen", &self.listen)
            .field("listen_also", &self.listen_also)
            .field("advertise", &self.advertise)
            .field("join", &self.join)
            .field("cluster", &self.cluster)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// Why gossip did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The port cannot be had.
    #[error(
        "cannot listen for gossip on {addr} (UDP and TCP); {}",
        if err.kind() == std::io::ErrorKind::AddrInUse {
            "another program has the port (`ss -tulnp` says which): stop it, or choose another with --gossip-port"
        } else {
            "choose an address of this host with --gossip-bind"
        }
    )]
    Listen {
        /// Which one.
        addr: SocketAddr,
        /// The cause.
        #[source]
        err: std::io::Error,
    },
    /// Chitchat did not start: its messages pass through the loopback device.
    #[error("cannot start gossip ({0}); is the loopback device up? try: ip link set lo up")]
    Start(String),
}

/// Why a record was not published. The others of the same call were.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Records that gossip cannot carry; what stood under their keys before
    /// still stands.
    #[error("cannot publish {}", list(.0))]
    Refused(Vec<(RecordKey, RefusedBecause)>),
    /// Gossip has ended.
    #[error("cannot publish: gossip has stopped")]
    Stopped,
}

/// Why gossip cannot carry a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedBecause {
    /// It does not fit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The record says another id than its key, or is of another kind.
    #[error("it does not belong under this key")]
    Misplaced,
}

fn list(refused: &[(RecordKey, RefusedBecause)]) -> String {
    let texts: Vec<_> = refused.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    texts.join("; ")
}

/// Says whether `record` fits into gossip, so that it can be refused where a
/// person still hears of it.
///
/// # Errors
/// [`TooLong`], with the size that it would have.
pub fn check(record: &Record) -> Result<(), TooLong> {
    codec::encode(record).map(drop)
}

/// So many records are written in one go.
const AT_ONCE: usize = 4096;

/// What messages go by.
struct Net {
    transport: Arc<dyn chitchat::transport::Transport>,
    pushes: Arc<dyn Pushes>,
    ways: Arc<Ways>,
}

/// Our part in the cluster's gossip.
pub struct Gossip {
    host: HostId,
    commands: mpsc::UnboundedSender<Command>,
    live: watch::Receiver<Vec<SocketAddr>>,
    counters: Arc<Counters>,
    ways: Arc<Ways>,
    task: JoinHandle<()>,
    /// For what is still on its way when all else has ended.
    port: Option<Arc<wire::Port>>,
}

impl Gossip {
    /// Joins the cluster with these records standing from the first message on.
    ///
    /// They are written in their order, [`RecordKey::Host`] last. One that is
    /// too long is left out, logged and counted: a restart must not fail for it.
    ///
    /// # Errors
    /// [`GossipError`] if the port cannot be had. Peers that are down and names
    /// that do not resolve are no errors.
    pub async fn start(
        config: GossipConfig,
        initial: Vec<(RecordKey, Record)>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<ClusterEvent>), GossipError> {
        let counters = Arc::new(Counters::default());
        let listen: Vec<_> = std::iter::once(config.listen).chain(config.listen_also).collect();
        let ways = Arc::new(Ways::of(&listen));
        let options = wire::PortOptions {
            listen,
            advertise: config.advertise,
            keys: config.keys.clone(),
            mtu: config.mtu,
        };
        let port = wire::Port::bind(&options, ways.clone(), counters.clone())
            .map_err(|(addr, err)| GossipError::Listen { addr, err })?;
        let relay = Arc::new(transport::Relay(port.clone()));
        let (mut gossip, events) = Self::start_on(
            config,
            initial,
            Net { transport: relay, pushes: port.clone(), ways },
            counters,
        )
        .await?;
        gossip.port = Some(port);
        Ok((gossip, events))
    }

    /// The same on a network of somebody else's making, for simulations.
    ///
    /// # Errors
    /// [`GossipError`] if the transport does not open.
    pub async fn start_simulated(
        config: GossipConfig,
        initial: Vec<(RecordKey, Record)>,
        transport: Arc<dyn chitchat::transport::Transport>,
        pushes: Arc<dyn Pushes>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<ClusterEvent>), GossipError> {
        let net = Net { transport, pushes, ways: Arc::default() };
        Self::start_on(config, initial, net, Arc::default()).await
    }

    /// The same over any transport: the sealed one, or one of a test.
    async fn start_on(
        config: GossipConfig,
        mut initial: Vec<(RecordKey, Record)>,
        net: Net,
        counters: Arc<Counters>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<ClusterEvent>), GossipError> {
        initial.sort_by_key(|(key, _)| *key == RecordKey::Host);
        let changes = initial.into_iter().map(|(key, record)| (key, Some(record))).collect();
        let (initial, refused) = encode(config.host, changes);
        for (key, why) in refused {
            counters.add("refused", 1);
            tracing::error!(%key, %why, "a record cannot be published");
        }
        let (host, ways) = (config.host, net.ways.clone());
        let (events, events_rx) = mpsc::unbounded_channel();
        let (commands, commands_rx) = mpsc::unbounded_channel();
        let (live_tx, live) = watch::channel(Vec::new());
        let resolver = join::Resolver {
            names: config.join.clone(),
            own: [config.listen, config.advertise].into_iter().chain(config.listen_also).collect(),
            live: live.clone(),
            commands: commands.downgrade(),
            lookup: join::system_lookup(),
        };
        let driver = Driver::start(config, initial, net, counters.clone(), events, live_tx).await?;
        let resolver = tokio::spawn(resolver.run());
        let task = tokio::spawn(async move {
            driver.run(commands_rx).await;
            // It may be waiting for a name server.
            resolver.abort();
        });
        Ok((Self { host, commands, live, counters, ways, task, port: None }, events_rx))
    }

    /// Writes (`Some`) and withdraws (`None`) records of ours.
    ///
    /// Returns when they stand here; within about a millisecond they are on
    /// their way to every live peer that needs them.
    ///
    /// # Errors
    /// [`PublishError::Refused`] names the records that gossip cannot carry; all
    /// others are published.
    pub async fn publish(
        &self,
        mut changes: Vec<(RecordKey, Option<Record>)>,
    ) -> Result<(), PublishError> {
        changes.sort_by_key(|(key, _)| *key == RecordKey::Host);
        let mut refused = Vec::new();
        let mut left = changes.into_iter();
        loop {
            // The first of many are under way while the last are made ready.
            let part: Vec<_> = left.by_ref().take(AT_ONCE).collect();
            if part.is_empty() {
                break;
            }
            let (changes, bad) = encode(self.host, part);
            refused.extend(bad);
            if changes.is_empty() {
                continue;
            }
            let (done, wait) = oneshot::channel();
            self.commands
                .send(Command::Publish { changes, done })
                .map_err(|_| PublishError::Stopped)?;
            wait.await.map_err(|_| PublishError::Stopped)?;
        }
        if refused.is_empty() {
            Ok(())
        } else {
            self.counters.add("refused", refused.len() as u64);
            Err(PublishError::Refused(refused))
        }
    }

    /// Gossip addresses of the peers that are alive, in order.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.live.borrow().clone()
    }

    /// The same, and the other addresses of those that have one of each family:
    /// to find them by when this host has another family than now.
    pub fn peers_everywhere(&self) -> Vec<SocketAddr> {
        let live = self.peers();
        let others: Vec<_> = live.iter().filter_map(|peer| self.ways.other(peer)).collect();
        live.into_iter().chain(others).collect()
    }

    /// Every life of every other host that gossip knows, at most a quarter of
    /// an interval old.
    pub fn peers_info(&self) -> Vec<PeerInfo> {
        self.counters.peers(tokio::time::Instant::now())
    }

    /// Tells live peers what they may lack, for at most `flush`, and ends.
    ///
    /// Returns how many were told. The records stay with the peers.
    pub async fn stop(self, flush: Duration) -> usize {
        let until = tokio::time::Instant::now() + flush;
        let (done, wait) = oneshot::channel();
        let told = match self.commands.send(Command::Stop { flush, done }) {
            Ok(()) => wait.await.unwrap_or(0),
            Err(_) => 0,
        };
        let _ = self.task.await;
        if let Some(port) = self.port {
            port.flush(until).await;
        }
        told
    }

    /// What was refused since this gossip began, by address. Addresses can be
    /// forged.
    pub fn refusals(&self) -> Refusals {
        self.counters.refusals(tokio::time::Instant::now())
    }

    /// What happened so far, in numbers.
    pub fn stats(&self) -> GossipStats {
        self.counters.read()
    }
}

/// A record as it goes to chitchat; `None` withdraws it.
type Change = (RecordKey, Option<String>);

fn encode(
    owner: HostId,
    changes: Vec<(RecordKey, Option<Record>)>,
) -> (Vec<Change>, Vec<(RecordKey, RefusedBecause)>) {
    let mut good = Vec::with_capacity(changes.len());
    let mut refused = Vec::new();
    for (key, record) in changes {
        match record {
            None => good.push((key, None)),
            Some(record) if !codec::fits(owner, key, &record) => {
                refused.push((key, RefusedBecause::Misplaced));
            }
            Some(record) => match codec::encode(&record) {
                Ok(value) => good.push((key, Some(value))),
                Err(err) => refused.push((key, err.into())),
            },
        }
    }
    (good, refused)
}

#[cfg(test)]
mod tests;
