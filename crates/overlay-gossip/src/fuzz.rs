//! Doors for `tests/fuzz` to what hostile bytes meet here. No API: only with the
//! feature `fuzzing`, and free to change with what is behind.
//!
//! | door | leads to |
//! |---|---|
//! | [`Sealer`], [`is_authentic`], [`seal_by_hand`] | `seal`: who is let in |
//! | [`Frames`], [`serve`] | `tcp`: a connection, bytes as they come |
//! | [`decode_push`], [`encode_push`] | `push`: the fast path |
//! | [`read_record`], [`decode_record`], [`decode_value`], [`encode_record`] | `codec`: records |
//! | [`is_fit`], [`Chatter`] | `limits`, and chitchat behind it |
//! | [`Watcher`] | `view`: what comes of it all |

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatEnvelope, ChitchatId, DeletionStatus, FailureDetectorConfig,
    ProtocolVersion, VersionedValue, spawn_chitchat,
};
use overlay_model::{ClusterEvent, HostId, Record, RecordKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::time::Instant;

use crate::keyring::{Key, Keyring};
use crate::look::Look;
use crate::push::{Change, Push};
use crate::seal::{Seal, Verdict, open_with, seal_with};
use crate::stats::Counters;
use crate::view::{END, ID, View};
use crate::{GossipStats, codec, limits, push, tcp};

/// Long enough that nothing is sent of chitchat's own accord.
const NEVER: Duration = Duration::from_secs(1 << 20);

// Sealed datagrams.

/// One end of the sealed gossip, without a socket.
pub struct Sealer(Seal);

/// What an end does about a datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// Kind and body of a message that was let in.
    pub message: Option<(u8, Vec<u8>)>,
    /// What is sent, and to where.
    pub send: Vec<(SocketAddr, Vec<u8>)>,
}

impl Sealer {
    /// An end that has just started.
    pub fn new(keys: Option<Arc<Keyring>>) -> Self {
        Self(Seal::new(keys, Arc::default()))
    }

    /// The datagram that carries a message.
    pub fn seal(&self, to: SocketAddr, kind: u8, body: &[u8], now: Instant) -> Vec<u8> {
        self.0.seal(to, kind, body, now)
    }

    /// What it does about a datagram.
    pub fn open(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> Judged {
        let Verdict { message, send } = self.0.open(from, datagram, now);
        Judged { message, send }
    }
}

/// Says whether somebody who has one of `keys` made this datagram, at some time.
pub fn is_authentic(keys: &Keyring, datagram: &[u8]) -> bool {
    open_with(keys, &[], datagram).is_ok()
}

/// What somebody who has `key` can make, well-behaved or not. `text` begins
/// with a kind.
pub fn seal_by_hand(key: &Key, association: [u8; 16], counter: u64, text: &[u8]) -> Vec<u8> {
    seal_with(key, association, counter, &[], &[text])
}

// Connections.

/// What was let in: from whom, of which kind, its body.
pub type Letter = (SocketAddr, u8, Vec<u8>);

/// Makes the frames of one connection.
pub struct Frames {
    /// What the acceptor said.
    pub challenge: [u8; 16],
    /// `None`: not sealed.
    pub key: Option<Key>,
    /// Of all frames.
    pub association: [u8; 16],
}

impl Frames {
    /// The frame with this number, its length before it.
    pub fn frame(&self, number: u64, (sender, kind, body): &Letter) -> Vec<u8> {
        let place = tcp::Place { challenge: self.challenge, association: self.association, number };
        place.frame(self.key.clone(), *sender, *kind, body)
    }
}

/// Serves a connection to its end; returns what was let in, and the counters.
pub async fn serve(
    keys: Option<Arc<Keyring>>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> (Vec<Letter>, GossipStats) {
    let counters = Arc::new(Counters::default());
    let seal = Arc::new(Seal::new(keys, counters.clone()));
    let came: Arc<Mutex<Vec<Letter>>> = Arc::default();
    let taken = came.clone();
    let deliver: tcp::Deliver = Arc::new(move |from, kind, body| {
        taken.lock().unwrap_or_else(PoisonError::into_inner).push((from, kind, body));
    });
    let from = SocketAddr::from(([192, 0, 2, 1], 40_000));
    // An error of the connection ends it, as its end does.
    let _ = tcp::serve_one(seal, counters.clone(), deliver, stream, from).await;
    let came = std::mem::take(&mut *came.lock().unwrap_or_else(PoisonError::into_inner));
    (came, counters.read())
}

// The fast path.

/// [`Push`] as a value of this door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Whose.
    pub host: HostId,
    /// In which life.
    pub incarnation: u64,
    /// Which one.
    pub number: u64,
    /// Since when.
    pub since: u64,
    /// Version, key, and value unless withdrawn.
    pub changes: Vec<(u64, String, Option<Vec<u8>>)>,
}

/// Reads a body; `None`: it is none.
pub fn decode_push(body: &[u8]) -> Option<Pushed> {
    let Push { host, incarnation, number, since, changes } = push::decode(body).ok()?;
    let changes = changes.into_iter().map(|c| (c.version, c.key, c.value)).collect();
    Some(Pushed { host, incarnation, number, since, changes })
}

/// Writes one.
pub fn encode_push(pushed: &Pushed) -> Vec<u8> {
    let Pushed { host, incarnation, number, since, changes } = pushed.clone();
    let change = |(version, key, value)| Change { version, key, value };
    let changes = changes.into_iter().map(change).collect();
    push::body(Push { host, incarnation, number, since, changes })
}

// Records.

/// A record from bytes, as pushes have them; the error is its counter's name.
pub fn decode_record(owner: HostId, key: RecordKey, bytes: &[u8]) -> Result<Record, &'static str> {
    codec::decode_bytes(owner, key, bytes).map_err(codec::DecodeError::counter)
}

/// A record from bytes, wherever it belongs.
pub fn read_record(bytes: &[u8]) -> Result<Record, &'static str> {
    codec::read(bytes).map_err(codec::DecodeError::counter)
}

/// A record from text, as chitchat has it.
pub fn decode_value(owner: HostId, key: RecordKey, value: &str) -> Result<Record, &'static str> {
    codec::decode(owner, key, value).map_err(codec::DecodeError::counter)
}

/// The text that has these bytes, whatever they are.
pub fn value_of(bytes: &[u8]) -> String {
    codec::text_of(bytes)
}

/// Text of a record, and the bytes of that text.
pub fn encode_record(record: &Record) -> Option<(String, Vec<u8>)> {
    let value = codec::encode(record).ok()?;
    let bytes = codec::bytes_of(&value)?;
    Some((value, bytes))
}

// Chitchat.

/// Says whether chitchat may see `message`.
pub fn is_fit(message: &[u8]) -> bool {
    limits::check(message).is_ok()
}

/// Gives chitchat messages to read, on one socket of the loopback device for
/// many runs. Nothing that chitchat sends leaves this process.
pub struct Chatter {
    runtime: tokio::runtime::Runtime,
    desk: Arc<Desk>,
    at: SocketAddr,
    hostile: std::net::UdpSocket,
    marker: std::net::UdpSocket,
}

/// Chitchat's own socket, which is its deserialiser.
struct Desk {
    socket: AsyncMutex<UdpSocket>,
    /// Where its replies are dropped.
    sink: SocketAddr,
    /// Whose message comes last.
    last: SocketAddr,
    answered: Notify,
}

/// [`Desk`] for one life of chitchat.
struct Seat(Arc<Desk>);

#[async_trait]
impl Transport for Seat {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

#[async_trait]
impl Socket for Seat {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.0.last)
    }

    async fn send(&mut self, to: SocketAddr, out: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let sent = self.0.socket.lock().await.send(self.0.sink, out).await;
        if to == self.0.last {
            self.0.answered.notify_one();
        }
        sent
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        self.0.socket.lock().await.recv().await
    }
}

/// A syn of another cluster, which is answered and changes nothing.
const MARKER: [u8; 7] = [0x53, 0xb0, 1, 0, 0, 0, 0];

impl Default for Chatter {
    fn default() -> Self {
        Self::new()
    }
}

impl Chatter {
    /// Takes its sockets.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime of one thread");
        let bind = || std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback is up");
        let (hostile, marker) = (bind(), bind());
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = runtime.block_on(UdpSocket::open(loopback)).expect("loopback is up");
        let at = socket.local_addr().expect("it is bound");
        let address = |socket: &std::net::UdpSocket| socket.local_addr().expect("it is bound");
        let desk = Desk {
            socket: AsyncMutex::new(socket),
            // Whoever sends the hostile messages reads nothing.
            sink: address(&hostile),
            last: address(&marker),
            answered: Notify::new(),
        };
        Self { runtime, desk: Arc::new(desk), at, hostile, marker }
    }

    /// Shows `messages` to a new life of chitchat, whose own records are `own`,
    /// and to our view of it. Those that are not fit are left out.
    ///
    /// # Panics
    /// If chitchat or the view do.
    pub fn show(&self, messages: &[Vec<u8>], own: &[(String, String)]) -> Vec<ClusterEvent> {
        self.runtime.block_on(self.show_all(messages, own))
    }

    async fn show_all(&self, messages: &[Vec<u8>], own: &[(String, String)]) -> Vec<ClusterEvent> {
        // One reads as the driver does, where notes say so, the other everything.
        let (mut config, mut view) = us();
        let (_, mut thorough) = us();
        let id = config.chitchat_id.clone();
        let look = Arc::new(Look::default());
        let on_reset = look.clone();
        config.catchup_callback = Some(Box::new(move || on_reset.lost_track()));
        let chitchat = spawn_chitchat(config, own.to_vec(), &Seat(self.desk.clone()))
            .await
            .expect("its socket is there already");
        let (us, on_change) = (id.clone(), look.clone());
        let subscribed = chitchat.chitchat().lock().await.subscribe_event("", move |change| {
            if *change.node != us {
                on_change.note(change.node, change.key);
            }
        });
        subscribed.forever();
        let mut events = Vec::new();
        for message in messages.iter().filter(|message| is_fit(message)) {
            for (socket, bytes) in [(&self.hostile, &message[..]), (&self.marker, &MARKER)] {
                socket.send_to(bytes, self.at).expect("the loopback device takes it");
            }
            tokio::select! {
                () = self.desk.answered.notified() => {}
                end = chitchat.termination_watcher() => panic!("chitchat ended: {end:?}"),
            }
            // What the driver does with it.
            let states = chitchat.chitchat();
            let mut states = states.lock().await;
            let version = states.self_node_state().max_version();
            states.self_node_state().set("host", version);
            states.self_node_state().set_with_ttl(format!("want/{version}"), "");
            assert_eq!(states.self_node_state().max_version(), version + 2, "{id:?} goes on");
            let now = Instant::now();
            let told = view.read(states.node_states(), look.take(), now, false);
            assert_eq!(told, thorough.read(states.node_states(), None, now, false));
            events.extend(told);
            let _ = (view.learnt(), view.lacks_records(), view.hopeful_peers(now));
        }
        chitchat.shutdown().await.expect("it ends when told to");
        events
    }
}

/// The host that all this comes to.
const US: HostId = HostId(uuid::Uuid::from_u128(0x9999 << 112));

fn us() -> (ChitchatConfig, View) {
    let id = ChitchatId::new(US.short(), 5, ([192, 0, 2, 9], 7946).into());
    let config = ChitchatConfig {
        chitchat_id: id.clone(),
        cluster_id: "overlayd".to_owned(),
        gossip_interval: NEVER,
        listen_addr: id.gossip_advertise_addr,
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            sampling_window_size: 100,
            ..FailureDetectorConfig::default()
        },
        marked_for_deletion_grace_period: NEVER,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    };
    let view = View::new(US, id, Duration::from_millis(500), NEVER, Arc::default());
    (config, view)
}

// The view.

/// A [`View`] of a chitchat that holds what it is told to.
pub struct Watcher {
    chitchat: Chitchat,
    view: View,
    now: Instant,
}

impl Default for Watcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Watcher {
    /// Of nobody yet.
    pub fn new() -> Self {
        let (config, view) = us();
        let (_, seeds) = watch::channel(HashSet::new());
        let chitchat = Chitchat::with_chitchat_id_and_seeds(config, seeds, Vec::new());
        Self { chitchat, view, now: Instant::now() }
    }

    /// Chitchat now holds these (key, value, version) of `host`, and who it is.
    pub fn holds(&mut self, host: HostId, incarnation: u64, records: &[(String, String, u64)]) {
        let addr = ([192, 0, 2, 1], 7946).into();
        let id = ChitchatId::new(host.short(), incarnation, addr);
        let max = records.iter().map(|record| record.2).max().unwrap_or(0).max(2);
        let value = |text: &str, version| {
            let (value, status) = (text.to_owned(), DeletionStatus::Set);
            VersionedValue { value, version, status }
        };
        let first = [(ID.to_owned(), value(&host.to_string(), 1))];
        let last = [(END.to_owned(), value("1", max))];
        let records =
            records.iter().map(|(key, text, version)| (key.clone(), value(text, *version)));
        let all = first.into_iter().chain(records).chain(last);
        self.chitchat.reset_node_state_if_update(&id, all, max, 0);
    }

    /// What is new in chitchat.
    pub fn read(&mut self) -> Vec<ClusterEvent> {
        self.view.read(self.chitchat.node_states(), None, self.now, true)
    }

    /// What is new in a push; `None`: it is none.
    pub fn pushed(&mut self, body: &[u8]) -> Option<Vec<ClusterEvent>> {
        Some(self.view.pushed(push::decode(body).ok()?, self.now).0)
    }
}
