//! How chitchat's messages reach the [`Port`].
//!
//! ```text
//!             send ->                                          -> the network
//!   chitchat ── its own UdpSocket ── relay (127.0.0.1) ────────── Port
//!             <- recv                                          <- the network
//! ```
//!
//! Since 0.12 chitchat keeps its serialisers to itself (its issue 207), so a
//! transport of ours can hold a message but not write it. [`Relay`] therefore
//! keeps one of chitchat's own sockets on the loopback device as a serialiser:
//! what goes in as a message comes out as bytes, and the other way round.
//! When chitchat opens its serialisers, everything between it and the port
//! goes, and nothing outside this file notices.
//!
//! [`Tapped`] wraps any transport: it counts, it keeps a failed send from
//! filling the log twice a second, it knows to whom an answer has left, it
//! sees questions leave and answers come (see `round_trip`), and it spares
//! answers in which there is nothing and questions that have just been put the
//! other way round.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket};
use chitchat::{ChitchatEnvelope, ChitchatMessage, Serializable as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::stats::Counters;
use crate::wire::{Kind, MAX_DATAGRAM, Message, Port};

/// How many datagrams may be on their way through chitchat's socket before an
/// answer could go to the wrong peer (which would waste it, and nothing more).
const SLOTS: usize = 16;

/// The real thing: through chitchat's own socket as the serialiser.
pub(crate) struct Relay(pub(crate) Arc<Port>);

#[async_trait]
impl Transport for Relay {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let inner = UdpSocket::open(loopback).await?;
        let inner_addr = inner.local_addr()?;
        let relay = std::net::UdpSocket::bind(loopback)?;
        relay.connect(inner_addr)?;
        relay.set_nonblocking(true)?;
        let slots = (0..SLOTS)
            .map(|_| {
                let socket = std::net::UdpSocket::bind(loopback)?;
                socket.connect(inner_addr)?;
                socket.set_nonblocking(true)?;
                Ok(Slot { addr: socket.local_addr()?, socket, from: None })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Box::new(RelaySocket {
            port: self.0.clone(),
            inner,
            relay_addr: relay.local_addr()?,
            relay,
            slots,
            next_slot: 0,
            out: vec![0; MAX_DATAGRAM],
        }))
    }
}

/// One way into chitchat's socket. Which one a message came through tells
/// which peer sent it.
struct Slot {
    socket: std::net::UdpSocket,
    addr: SocketAddr,
    from: Option<SocketAddr>,
}

struct RelaySocket {
    port: Arc<Port>,
    inner: UdpSocket,
    /// Not the runtime's: it would be woken by what is there already.
    relay: std::net::UdpSocket,
    relay_addr: SocketAddr,
    slots: Vec<Slot>,
    next_slot: usize,
    out: Vec<u8>,
}

impl RelaySocket {
    /// Hands a message to chitchat's socket. No await in here: `recv` may be
    /// dropped at any await, and must lose nothing.
    fn forward(&mut self, Message { from, body }: &Message) {
        let from = *from;
        let slot = &mut self.slots[self.next_slot];
        self.next_slot = (self.next_slot + 1) % SLOTS;
        slot.from = Some(from);
        if let Err(err) = slot.socket.send(body) {
            tracing::debug!(%from, %err, "gossip datagram dropped on the loopback device");
        }
    }

    /// What chitchat's socket wrote. The loopback device delivers while it is
    /// sent, as a rule.
    async fn come_out(&mut self) -> io::Result<usize> {
        for patience in [0, 0, 0, 0, 1, 1, 2, 4, 8, 16, 32] {
            match self.relay.recv(&mut self.out) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            match patience {
                0 => tokio::task::yield_now().await,
                ms => tokio::time::sleep(Duration::from_millis(ms)).await,
            }
        }
        Err(io::Error::other("the loopback device has lost a message"))
    }

    /// Puts the peer's address in the place of our slot's. `None`: it came from
    /// another program on this machine that has found the loopback socket.
    fn attribute(&self, mut outcome: RecvOutcome) -> Option<RecvOutcome> {
        let slot = self.slots.iter().find(|slot| slot.addr == outcome.from_addr)?;
        outcome.from_addr = slot.from?;
        Some(outcome)
    }
}

#[async_trait]
impl Socket for RelaySocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.port.local_addr()?)
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        // One that came too late for its own turn must not go to somebody else.
        while self.relay.recv(&mut self.out).is_ok() {}
        self.inner.send(self.relay_addr, envelope).await?;
        let len = self.come_out().await?;
        let num_bytes_sent = self.port.send(to, Kind::Gossip, &self.out[..len])?;
        Ok(SendOutcome { num_bytes_sent })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let message = tokio::select! {
                biased;
                outcome = self.inner.recv() => match self.attribute(outcome?) {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                },
                message = self.port.gossip.next() => message,
            };
            self.forward(&message);
            // The loopback device delivers at once; tokio needs a turn or two to
            // notice. What is no gossip message never comes out, so no waiting.
            for _ in 0..4 {
                tokio::select! {
                    biased;
                    outcome = self.inner.recv() => match self.attribute(outcome?) {
                        Some(outcome) => return Ok(outcome),
                        None => continue,
                    },
                    () = tokio::task::yield_now() => {}
                }
            }
        }
    }
}

/// What [`Tapped`] has seen go by.
#[derive(Default)]
pub(crate) struct Tap {
    /// While someone watches: to whom the last word of a handshake has left.
    told: Mutex<Option<HashSet<SocketAddr>>>,
    /// When there was something to tell or to learn.
    stirred: Mutex<Option<Instant>>,
    heard: Notify,
}

impl Tap {
    /// Waits until chitchat has taken in another message.
    pub(crate) async fn heard(&self) {
        self.heard.notified().await;
    }

    /// There is news, or somebody in particular is to be asked: peers that were
    /// answered before are asked all the same.
    pub(crate) fn stir(&self) {
        *self.stirred.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn at_rest_since(&self, at: Instant) -> bool {
        self.stirred.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|then| then < at)
    }

    /// Starts to note whom we tell.
    pub(crate) fn watch(&self) {
        *self.lock() = Some(HashSet::new());
    }

    /// Says whether `peer` was told something since [`Tap::watch`].
    pub(crate) fn has_told(&self, peer: &SocketAddr) -> bool {
        self.lock().as_ref().is_some_and(|told| told.contains(peer))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashSet<SocketAddr>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport with a [`Tap`] in it.
pub(crate) struct Tapped {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) counters: Arc<Counters>,
    /// Of gossip: how long a round is, and as whom we speak.
    pub(crate) interval: Duration,
    pub(crate) own: SocketAddr,
}

#[async_trait]
impl Transport for Tapped {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(TappedSocket {
            socket: self.transport.open(listen).await?,
            tap: self.tap.clone(),
            counters: self.counters.clone(),
            taken: false,
            talks: Talks::new(self.interval, self.own),
        }))
    }
}

struct TappedSocket {
    socket: Box<dyn Socket>,
    tap: Arc<Tap>,
    counters: Arc<Counters>,
    /// Chitchat took a message from here, and has not come back for another.
    taken: bool,
    talks: Talks,
}

/// Who has asked whom of late.
///
/// An exchange tells both ends all that either knows. A peer that has asked us
/// within the last round and was answered need not be asked in this one: in a
/// small cluster that is up to half of all messages. Lest both leave it to the
/// other, it is mostly left to the one with the smaller address. A peer is asked
/// all the same when there was news since, when it owes us an answer (datagrams
/// are lost on the way, and each exchange is needed), and after [`SPARED`] rounds
/// in a row (its answers are what round trips are measured by).
///
/// And a question names every host, as its answer does: among hundreds that is
/// most of the traffic at rest. There two peers a round are asked and not three;
/// records go ahead by the fast path anyway, and a heartbeat needs one round more
/// to reach a thousand hosts.
struct Talks {
    interval: Duration,
    own: SocketAddr,
    peers: HashMap<SocketAddr, Talk>,
    /// Bytes of the last question.
    asking_takes: usize,
    /// Questions that were to be asked.
    asked: usize,
}

#[derive(Default)]
struct Talk {
    asked_us: Option<Instant>,
    owes: bool,
    spared: u8,
}

/// Rounds in a row in which a peer is not asked because it asks us.
const SPARED: u8 = 3;

/// A question of more bytes is a long one: that of some 240 hosts.
const LONG: usize = 4096;

/// One of so many long questions is not asked: chitchat asks three peers a round.
const LONG_SPARED: usize = 3;

/// Addresses of which that is known; of more than this, all is forgotten.
const TALKS: usize = 4096;

impl Talks {
    fn new(interval: Duration, own: SocketAddr) -> Self {
        Self { interval, own, peers: HashMap::new(), asking_takes: 0, asked: 0 }
    }

    fn with(&mut self, peer: SocketAddr) -> &mut Talk {
        if self.peers.len() >= TALKS && !self.peers.contains_key(&peer) {
            self.peers.clear();
        }
        self.peers.entry(peer).or_default()
    }

    /// Says whether a question to `peer` would only repeat what it asked; notes that it is
    /// spared or put.
    fn spares(&mut self, peer: SocketAddr, tap: &Tap, now: Instant) -> bool {
        self.asked += 1;
        if self.asking_takes > LONG && self.asked.is_multiple_of(LONG_SPARED) {
            return true;
        }
        let within = self.interval * if self.own > peer { 12 } else { 5 } / 10;
        let talk = self.with(peer);
        let asked_us = talk.asked_us.filter(|at| now.duration_since(*at) < within);
        let spares =
            !talk.owes && talk.spared < SPARED && asked_us.is_some_and(|at| tap.at_rest_since(at));
        (talk.owes, talk.spared) = if spares { (false, talk.spared + 1) } else { (true, 0) };
        spares
    }
}

/// Bytes of a delta that holds nothing: the end of its stream.
const EMPTY_DELTA: usize = 1;

#[async_trait]
impl Socket for TappedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        // The third message of a handshake carries what the peer lacks.
        let tells = matches!(envelope.message, ChitchatMessage::Ack { .. });
        let asks = matches!(envelope.message, ChitchatMessage::Syn { .. });
        if let ChitchatMessage::Ack { delta } = &envelope.message
            && delta.serialized_len() <= EMPTY_DELTA
        {
            // The peer lacks nothing: that is a third of all messages of a cluster at rest.
            self.counters.add("acks_spared", 1);
            if let Some(told) = self.tap.lock().as_mut() {
                told.insert(to);
            }
            return Ok(SendOutcome { num_bytes_sent: 0 });
        }
        if asks && self.talks.spares(to, &self.tap, Instant::now()) {
            self.counters.add("syns_spared", 1);
            return Ok(SendOutcome { num_bytes_sent: 0 });
        }
        match self.socket.send(to, envelope).await {
            Ok(outcome) => {
                self.counters.add("messages_sent", 1);
                self.counters.add("bytes_sent", outcome.num_bytes_sent as u64);
                if tells && let Some(told) = self.tap.lock().as_mut() {
                    told.insert(to);
                }
                if asks {
                    self.talks.asking_takes = outcome.num_bytes_sent;
                    self.counters.asked(to, Instant::now());
                }
                Ok(outcome)
            }
            // No route, a firewall that says so, a full buffer: each is a lost
            // datagram, and gossip is made for those. chitchat would warn twice
            // a second.
            Err(err) => {
                self.counters.add("send_failed", 1);
                tracing::debug!(%to, err = format!("{err:#}"), "gossip not sent");
                Ok(SendOutcome { num_bytes_sent: 0 })
            }
        }
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        if std::mem::take(&mut self.taken) {
            self.tap.heard.notify_one();
        }
        let outcome = self.socket.recv().await?;
        self.taken = true;
        self.counters.add("messages_received", 1);
        self.counters.add("bytes_received", outcome.num_bytes_received as u64);
        let (from, now) = (outcome.from_addr, Instant::now());
        match &outcome.envelope.message {
            ChitchatMessage::Syn { .. } => self.talks.with(from).asked_us = Some(now),
            ChitchatMessage::SynAck { delta, .. } => {
                self.counters.answered(from, now);
                self.talks.with(from).owes = false;
                if delta.serialized_len() > EMPTY_DELTA {
                    self.tap.stir();
                }
            }
            ChitchatMessage::Ack { .. } => self.tap.stir(),
            ChitchatMessage::BadCluster => {}
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
