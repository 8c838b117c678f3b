//! The simulated network.
//!
//! A message is lost, repeated and delayed as [`Weather`] says. Chitchat's
//! messages are written and read by chitchat's own in-process transport on the
//! way, so that what arrives is what a wire would bring, and its size is known.
//! What is larger than [`DATAGRAM`] goes by TCP in reality: it arrives whole,
//! after two more trips, or after a second of retransmission where packets are
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket, Transport};
use overlay_gossip::{Parcel, Pushes};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

/// Bytes that one datagram carries.
const DATAGRAM: usize = 1400;

/// Bytes that seal and headers add to a message, IPv4.
const OVERHEAD: usize = 46 + 28;

/// How the network is at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// One way, at least.
    pub delay: Duration,
    /// Up to so much more, drawn for each message: they overtake each other.
    pub jitter: Duration,
    /// Of a thousand messages so many are lost.
    pub loss: u32,
    /// Of a thousand messages so many arrive twice.
    pub twice: u32,
}

impl Weather {
    /// A rack: 0.1 ms, nothing lost.
    pub const FAIR: Self = Self {
        delay: Duration::from_micros(100),
        jitter: Duration::from_micros(50),
        loss: 0,
        twice: 0,
    };

    /// 5 ms, a fifth lost, some twice, all out of order.
    pub const STORM: Self = Self {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(30),
        loss: 200,
        twice: 50,
    };

    /// Two continents: 20 ms, one in a hundred lost.
    pub const WIDE: Self = Self {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(2),
        loss: 10,
        twice: 0,
    };
}

/// A pair of directions: who is not heard by whom.
type Cut = (IpAddr, IpAddr);

struct Inner {
    rng: SmallRng,
    weather: Weather,
    cuts: BTreeSet<Cut>,
    gossip: BTreeMap<SocketAddr, mpsc::UnboundedSender<RecvOutcome>>,
    pushes: BTreeMap<SocketAddr, mpsc::UnboundedSender<Parcel>>,
    /// Bytes on the wire, by sender.
    sent: BTreeMap<IpAddr, u64>,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Mutex<Inner>>);

/// What becomes of a message: one entry a copy.
type Fates = Vec<Duration>;

impl Net {
    /// A network in fair weather.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng: SmallRng::seed_from_u64(seed),
            weather: Weather::FAIR,
            cuts: BTreeSet::new(),
            gossip: BTreeMap::new(),
            pushes: BTreeMap::new(),
            sent: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is so.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// What `from` sends no longer reaches `to`.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.lock().cuts.insert((from, to));
    }

    /// Everybody hears everybody again.
    pub fn heal(&self) {
        self.lock().cuts.clear();
    }

    /// Bytes that each host has put on the wire so far, headers included.
    pub fn bytes_sent(&self) -> BTreeMap<IpAddr, u64> {
        self.lock().sent.clone()
    }

    /// What a host plugs in at `addr`. Whoever was there before hears no more.
    pub fn plug(&self, addr: SocketAddr) -> (Arc<dyn Transport>, Arc<dyn Pushes>) {
        let (tx, inbox) = mpsc::unbounded_channel();
        self.lock().pushes.insert(addr, tx);
        let transport = SimTransport { net: self.clone(), addr };
        let pushes = SimPushes { net: self.clone(), addr, inbox: tokio::sync::Mutex::new(inbox) };
        (Arc::new(transport), Arc::new(pushes))
    }

    /// The host at `addr` is off: nothing reaches it.
    pub fn unplug(&self, addr: SocketAddr) {
        let mut inner = self.lock();
        inner.pushes.remove(&addr);
        inner.gossip.remove(&addr);
    }

    fn fates(&self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Fates {
        let mut inner = self.lock();
        let packets = bytes.div_ceil(DATAGRAM).max(1);
        *inner.sent.entry(from.ip()).or_default() += (bytes + packets * OVERHEAD) as u64;
        if inner.cuts.contains(&(from.ip(), to.ip())) {
            return Vec::new();
        }
        let Weather { delay, jitter, loss, twice } = inner.weather;
        let mut trip = || delay + jitter.mul_f64(inner.rng.random::<f64>());
        if bytes > DATAGRAM {
            let mut takes = trip() * 3;
            if (0..packets).any(|_| inner.rng.random_range(0..1000) < loss) {
                takes += Duration::from_secs(1);
            }
            return vec![takes];
        }
        let first = trip();
        let second = trip();
        if inner.rng.random_range(0..1000) < loss {
            return Vec::new();
        }
        if inner.rng.random_range(0..1000) < twice { vec![first, second] } else { vec![first] }
    }

    /// Does `deliver` after each of `fates`.
    fn later(fates: Fates, deliver: impl Fn() + Clone + Send + 'static) {
        for after in fates {
            let deliver = deliver.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                deliver();
            });
        }
    }
}

struct SimTransport {
    net: Net,
    addr: SocketAddr,
}

#[async_trait]
impl Transport for SimTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (tx, inbox) = mpsc::unbounded_channel();
        self.net.lock().gossip.insert(self.addr, tx);
        // Two ends of a wire of its own, on which chitchat writes and reads.
        let wire = ChannelTransport::default();
        let writer = wire.open(([192, 0, 2, 1], 1).into()).await?;
        let reader = wire.open(([192, 0, 2, 2], 1).into()).await?;
        let net = self.net.clone();
        Ok(Box::new(SimSocket { net, addr: self.addr, inbox, writer, reader }))
    }
}

struct SimSocket {
    net: Net,
    addr: SocketAddr,
    inbox: mpsc::UnboundedReceiver<RecvOutcome>,
    writer: Box<dyn Socket>,
    reader: Box<dyn Socket>,
}

#[async_trait]
impl Socket for SimSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.addr)
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        let outcome = self.writer.send(self.reader.local_addr()?, envelope).await?;
        let RecvOutcome { envelope, num_bytes_received, .. } = self.reader.recv().await?;
        let (net, from_addr) = (self.net.clone(), self.addr);
        let message = Arc::new(Mutex::new(Some(envelope)));
        Net::later(self.net.fates(self.addr, to, num_bytes_received), move || {
            // The second copy of a message is another: chitchat's cannot be cloned cheaply,
            // and a repeated handshake differs from none in nothing but its cost.
            let envelope = message.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let (Some(envelope), Some(inbox)) = (envelope, net.lock().gossip.get(&to)) {
                let _ = inbox.send(RecvOutcome { from_addr, envelope, num_bytes_received });
            }
        });
        Ok(outcome)
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        match self.inbox.recv().await {
            Some(outcome) => Ok(outcome),
            // Unplugged: silence.
            None => std::future::pending().await,
        }
    }
}

struct SimPushes {
    net: Net,
    addr: SocketAddr,
    inbox: tokio::sync::Mutex<mpsc::UnboundedReceiver<Parcel>>,
}

#[async_trait]
impl Pushes for SimPushes {
    fn send(&self, to: SocketAddr, body: &[u8]) {
        let (net, from) = (self.net.clone(), self.addr);
        let body: Arc<[u8]> = body.into();
        Net::later(self.net.fates(self.addr, to, body.len()), move || {
            if let Some(inbox) = net.lock().pushes.get(&to) {
                let _ = inbox.send((from, body.to_vec()));
            }
        });
    }

    async fn next(&self) -> Parcel {
        match self.inbox.lock().await.recv().await {
            Some(push) => push,
            None => std::future::pending().await,
        }
    }
}
