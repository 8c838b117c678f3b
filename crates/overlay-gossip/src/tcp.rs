//! Messages that are too large for one packet of the underlay: over TCP, on the
//! same address and port.
//!
//! ```text
//!   dialler                                 acceptor
//!      ◄──────────── challenge, 16 random bytes
//!      ── length 4 | sealed( address of the dialler | kind 1 | body ) ──►   number 0
//!      ── length 4 | sealed( ... ) ─────────────────────────────────────►   number 1
//! ```
//!
//! A frame is sealed as a datagram is (see `seal`), with the acceptor's
//! challenge in what is authenticated besides, and numbered within the
//! connection. So a frame fits no other connection, no datagram, and no other
//! place in its own; what was recorded is of no use.
//!
//! Whom a message is from stands inside the seal: the address that the sender
//! advertises, to which it is answered, and which its records say as well. The
//! connection's own source has a port that nobody listens on.
//!
//! Promises:
//!
//! 1. Sending never waits. Each peer has a queue of [`QUEUE`] bytes and a task,
//!    all together have [`QUEUES`]; what does not fit pushes the oldest for the
//!    same peer out. Who does not answer holds up nobody else.
//! 2. A length is checked before anything is allocated for it, and memory is
//!    taken as bytes come.
//! 3. Who opens a connection and does not send a good frame within
//!    [`HANDSHAKE`] is hung up on; [`UNPROVEN`] may be at this at a time, and
//!    [`PER_ADDRESS`] connections may come from one address.
//! 4. A connection on which anything is wrong ends.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use crate::keyring::Key;
use crate::refusals::Why;
use crate::seal::{NotOpened, OVERHEAD, REFUSAL, Seal, open_with, random, seal_with};
use crate::stats::Counters;

/// The longest body, bytes: chitchat's socket takes 65,507, a push 64 KiB.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// An address and a kind before it.
const PREFIX: usize = 1 + 16 + 2 + 1;
/// The longest frame that is read.
const MAX_FRAME: usize = MAX_BODY + PREFIX + OVERHEAD;

/// Bytes that wait for one peer: what a hundred thousand new endpoints take.
const QUEUE: usize = 16 << 20;
/// Bytes that wait for all peers.
const QUEUES: usize = 64 << 20;
/// Peers that messages wait for.
const PEERS: usize = 1024;
/// For a connection to be made, and for its first frame.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// For a frame to come or go once it has begun.
const FRAME: Duration = Duration::from_secs(10);
/// Without a message for so long, the acceptor hangs up,
const IDLE: Duration = Duration::from_secs(30);
/// and the dialler a little before it, so that no message meets a closed door.
const IDLE_DIALLER: Duration = Duration::from_secs(20);

/// Accepted connections.
const ACCEPTED: usize = 1024;
/// Of these, without a good frame so far.
const UNPROVEN: usize = 128;
/// And from one address.
const PER_ADDRESS: usize = 32;

/// Takes a message that came: from whom, of which kind, its body.
pub(crate) type Deliver = Arc<dyn Fn(SocketAddr, u8, Vec<u8>) + Send + Sync>;

/// Sends and receives large messages. Everything ends when it is dropped.
pub(crate) struct Tcp {
    shared: Arc<Shared>,
    runtime: Handle,
    diallers: Mutex<JoinSet<()>>,
    acceptors: Vec<JoinHandle<()>>,
}

struct Shared {
    seal: Arc<Seal>,
    advertise: SocketAddr,
    /// Where connections are made from, by family: peers may know us by it.
    sources: Vec<IpAddr>,
    counters: Arc<Counters>,
    deliver: Deliver,
    peers: Mutex<HashMap<SocketAddr, Arc<Queue>>>,
    /// Messages that wait or are being sent.
    under_way: AtomicUsize,
    /// Bytes that wait, for all peers.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(u8, Vec<u8>)>,
    bytes: usize,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.acceptors.iter().for_each(JoinHandle::abort);
    }
}

impl Tcp {
    /// Serves `listeners`, and sends as `advertise`.
    pub(crate) fn new(
        listeners: Vec<std::net::TcpListener>,
        advertise: SocketAddr,
        seal: Arc<Seal>,
        counters: Arc<Counters>,
        deliver: Deliver,
    ) -> io::Result<Self> {
        let mut sources = Vec::new();
        let mut accepting = Vec::new();
        for listener in listeners {
            sources.push(listener.local_addr()?.ip());
            listener.set_nonblocking(true)?;
            accepting.push(TcpListener::from_std(listener)?);
        }
        let shared = Arc::new(Shared {
            seal,
            advertise,
            sources,
            counters,
            deliver,
            peers: Mutex::default(),
            under_way: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        let room = Room::default();
        let accept = |listener| tokio::spawn(accept(listener, shared.clone(), room.clone()));
        Ok(Self {
            acceptors: accepting.into_iter().map(accept).collect(),
            shared,
            runtime: Handle::current(),
            diallers: Mutex::default(),
        })
    }

    /// Puts a message into the queue for `to`.
    pub(crate) fn send(&self, to: SocketAddr, kind: u8, body: &[u8]) -> io::Result<()> {
        if body.len() > MAX_BODY {
            self.shared.counters.add("tcp_oversize", 1);
            let len = body.len();
            return Err(io::Error::other(format!("{len} bytes are more than {MAX_BODY}")));
        }
        let mut peers = self.shared.peers();
        let queue = match peers.get(&to) {
            Some(queue) => queue.clone(),
            None if peers.len() >= PEERS => {
                self.shared.counters.add("tcp_dropped", 1);
                return Err(io::Error::other(format!("large messages wait for {PEERS} peers")));
            }
            None => {
                let queue = Arc::<Queue>::default();
                peers.insert(to, queue.clone());
                let mut diallers = self.diallers.lock().unwrap_or_else(PoisonError::into_inner);
                while diallers.try_join_next().is_some() {}
                let task = dial(self.shared.clone(), to, queue.clone());
                diallers.spawn_on(task, &self.runtime);
                queue
            }
        };
        // Still under the lock of `peers`: a dialler leaves only under it.
        let mut waiting = queue.waiting();
        let too_much = |waiting: &Waiting| {
            waiting.bytes + body.len() > QUEUE
                || self.shared.waiting.load(Ordering::Relaxed) + body.len() > QUEUES
        };
        while too_much(&waiting) {
            self.shared.counters.add("tcp_dropped", 1);
            if self.shared.next_of(&mut waiting).is_none() {
                return Err(io::Error::other("large messages wait for many peers"));
            }
            self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.under_way.fetch_add(1, Ordering::Relaxed);
        self.shared.waiting.fetch_add(body.len(), Ordering::Relaxed);
        waiting.bytes += body.len();
        waiting.messages.push_back((kind, body.to_vec()));
        queue.more.notify_one();
        Ok(())
    }
}

impl Tcp {
    /// Messages that wait or are being sent.
    pub(crate) fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Queue>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the oldest message out of a queue.
    fn next_of(&self, waiting: &mut Waiting) -> Option<(u8, Vec<u8>)> {
        let (kind, body) = waiting.messages.pop_front()?;
        waiting.bytes -= body.len();
        self.waiting.fetch_sub(body.len(), Ordering::Relaxed);
        Some((kind, body))
    }

    /// The next frame on `link`, which carries a message.
    fn frame(&self, link: &Link, kind: u8, body: &[u8]) -> Vec<u8> {
        link.place.frame(self.seal.keys().map(|keys| keys.used()), self.advertise, kind, body)
    }
}

/// Where a frame stands: in which connection, and as which of its frames.
pub(crate) struct Place {
    pub(crate) challenge: [u8; 16],
    pub(crate) association: [u8; 16],
    /// From 0.
    pub(crate) number: u64,
}

impl Place {
    /// The frame that carries a message of `sender` there, its length before it.
    pub(crate) fn frame(
        &self,
        key: Option<Key>,
        sender: SocketAddr,
        kind: u8,
        body: &[u8],
    ) -> Vec<u8> {
        let address = address_bytes(sender);
        let parts = [address.as_slice(), &[kind], body];
        let sealed = match key {
            Some(key) => seal_with(&key, self.association, self.number, &self.challenge, &parts),
            None => [&[0], parts.concat().as_slice()].concat(),
        };
        let len = u32::try_from(sealed.len()).expect("a body is bounded");
        [&len.to_be_bytes(), sealed.as_slice()].concat()
    }
}

/// A connection that we made.
struct Link {
    stream: TcpStream,
    /// Of the next frame.
    place: Place,
}

/// Sends what waits for one peer, until nothing does.
async fn dial(shared: Arc<Shared>, to: SocketAddr, queue: Arc<Queue>) {
    let mut link: Option<Link> = None;
    loop {
        let next = shared.next_of(&mut queue.waiting());
        let Some((kind, body)) = next else {
            let more = match &mut link {
                Some(link) => wait_for_more(&shared, to, &queue, link).await,
                None => false,
            };
            if more {
                continue;
            }
            link = None;
            let mut peers = shared.peers();
            if queue.waiting().messages.is_empty() {
                peers.remove(&to);
                return;
            }
            continue;
        };
        // A connection that has been used may have ended meanwhile: once more on a new one.
        let mut tries = if link.is_some() { 2 } else { 1 };
        let sent = loop {
            tries -= 1;
            let result = send_on(&shared, to, &mut link, kind, &body).await;
            match result {
                Ok(()) => break Ok(()),
                Err(err) => {
                    link = None;
                    if tries == 0 {
                        break Err(err);
                    }
                }
            }
        };
        let done = match sent {
            Ok(()) => {
                shared.counters.add("tcp_messages_sent", 1);
                1
            }
            Err(err) => {
                tracing::debug!(%to, %err, "large message not sent");
                // What waits behind it would fail as well, only later.
                let mut waiting = queue.waiting();
                let lost = 1 + std::iter::from_fn(|| shared.next_of(&mut waiting)).count();
                drop(waiting);
                shared.counters.add("tcp_failed", lost as u64);
                lost
            }
        };
        shared.under_way.fetch_sub(done, Ordering::Relaxed);
    }
}

async fn send_on(
    shared: &Shared,
    to: SocketAddr,
    link: &mut Option<Link>,
    kind: u8,
    body: &[u8],
) -> io::Result<()> {
    let link = match link {
        Some(link) => link,
        None => link.insert(in_time(HANDSHAKE, connect(shared, to)).await?),
    };
    let frame = shared.frame(link, kind, body);
    link.place.number += 1;
    in_time(FRAME, link.stream.write_all(&frame)).await
}

async fn connect(shared: &Shared, to: SocketAddr) -> io::Result<Link> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let source = shared.sources.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
    if let Some(source) = source.filter(|ip| !ip.is_unspecified()) {
        socket.bind(SocketAddr::new(*source, 0))?;
    }
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let mut challenge = [0; 16];
    stream.read_exact(&mut challenge).await?;
    shared.counters.add("tcp_connected", 1);
    Ok(Link { stream, place: Place { challenge, association: random(), number: 0 } })
}

/// True if there is more to send; false if the connection is of no more use.
async fn wait_for_more(shared: &Shared, to: SocketAddr, queue: &Queue, link: &mut Link) -> bool {
    let mut said = [0; 32];
    tokio::select! {
        () = queue.more.notified() => true,
        read = timeout(IDLE_DIALLER, link.stream.read(&mut said)) => {
            // The acceptor speaks only to refuse.
            if let Ok(Ok(len)) = read
                && let Some(refusal) = said[..len].strip_prefix(&[REFUSAL])
            {
                shared.seal.refused_by_peer(to, refusal, Instant::now());
            }
            false
        }
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

// The other end.

/// How many connections there may be, by whichever listener they came.
#[derive(Clone)]
struct Room {
    all: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    seats: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ACCEPTED)),
            unproven: Arc::new(Semaphore::new(UNPROVEN)),
            seats: Arc::default(),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, room: Room) {
    let Room { all, unproven, seats } = room;
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            // Out of descriptors, or the peer has gone already.
            Err(err) => {
                tracing::debug!(%err, "accept");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let seat = Seat::take(&seats, from.ip());
        let permits = (all.clone().try_acquire_owned(), unproven.clone().try_acquire_owned());
        let (Some(seat), (Ok(permit), Ok(proving))) = (seat, permits) else {
            shared.counters.add("tcp_turned_away", 1);
            continue;
        };
        shared.counters.add("tcp_accepted", 1);
        let shared = shared.clone();
        connections.spawn(async move {
            let _held = (seat, permit);
            let mut proving = Some(proving);
            if let Err(err) = serve(&shared, stream, from, || drop(proving.take())).await {
                tracing::debug!(%from, %err, "gossip connection ended");
            }
        });
    }
}

/// One of the connections that an address may have.
struct Seat {
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Seat {
    fn take(all: &Arc<Mutex<HashMap<IpAddr, usize>>>, ip: IpAddr) -> Option<Self> {
        let mut counts = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= PER_ADDRESS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { all: all.clone(), ip })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

/// Takes messages from a connection until it ends or anything is wrong with it.
async fn serve(
    shared: &Shared,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    mut proven: impl FnMut(),
) -> io::Result<()> {
    let challenge = random();
    let handshake = Instant::now() + HANDSHAKE;
    in_time(HANDSHAKE, stream.write_all(&challenge)).await?;
    let mut association = None;
    for number in 0.. {
        let began = Instant::now();
        let (until_begun, until_here) =
            if number == 0 { (handshake, handshake) } else { (began + IDLE, began + IDLE + FRAME) };
        let len = match timeout_at(until_begun, stream.read_u32()).await {
            Ok(Ok(len)) => len as usize,
            Ok(Err(err)) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(err)) => return Err(err),
            Err(_) => {
                if number == 0 {
                    shared.counters.add("tcp_slow", 1);
                }
                return Ok(());
            }
        };
        if len > MAX_FRAME {
            shared.counters.refuse(from, Why::Oversize, Instant::now());
            return Ok(());
        }
        let frame = match timeout_at(until_here, read_growing(&mut stream, len)).await {
            Ok(frame) => frame?,
            Err(_) => {
                shared.counters.add("tcp_slow", 1);
                return Ok(());
            }
        };
        let text = match open(shared, &frame, &challenge, number, &mut association) {
            Ok(text) => text,
            Err(Wrong::Counted(why)) => {
                shared.counters.refuse(from, why, Instant::now());
                return Ok(());
            }
            Err(Wrong::Key(id)) => {
                let verdict = shared.seal.unknown_key(from, id, frame.len(), Instant::now());
                for (_, refusal) in verdict.send {
                    in_time(FRAME, stream.write_all(&refusal)).await?;
                }
                return Ok(());
            }
        };
        let Some((sender, kind, body)) = parse(&text) else {
            shared.counters.refuse(from, Why::Truncated, Instant::now());
            return Ok(());
        };
        if number == 0 {
            proven();
        }
        shared.counters.add("tcp_messages_received", 1);
        (shared.deliver)(sender, kind, body.to_vec());
    }
    Ok(())
}

enum Wrong {
    /// Count it.
    Counted(Why),
    /// Tell them that their key is not here.
    Key(overlay_model::KeyId),
}

fn open(
    shared: &Shared,
    frame: &[u8],
    challenge: &[u8; 16],
    number: u64,
    association: &mut Option<[u8; 16]>,
) -> Result<Vec<u8>, Wrong> {
    let Some(keys) = shared.seal.keys() else {
        return match frame.split_first() {
            Some((0, text)) => Ok(text.to_vec()),
            _ => Err(Wrong::Counted(Why::UnknownVersion)),
        };
    };
    let opened = open_with(keys, challenge, frame).map_err(|why| match why {
        NotOpened::Truncated => Wrong::Counted(Why::Truncated),
        NotOpened::UnknownVersion if frame.first() == Some(&0) => Wrong::Counted(Why::Plain),
        NotOpened::UnknownVersion => Wrong::Counted(Why::UnknownVersion),
        NotOpened::UnknownKey(id) => Wrong::Key(id),
        NotOpened::Forged => Wrong::Counted(Why::Forged),
    })?;
    let in_order = *association.get_or_insert(opened.association) == opened.association
        && opened.counter == number;
    if in_order { Ok(opened.text) } else { Err(Wrong::Counted(Why::Replayed)) }
}

/// Reads `len` bytes, taking memory as they come and not as they are promised.
async fn read_growing(stream: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Vec<u8>> {
    const STEP: usize = 8 * 1024;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let at = bytes.len();
        bytes.resize(len.min(at + STEP), 0);
        stream.read_exact(&mut bytes[at..]).await?;
    }
    Ok(bytes)
}

fn address_bytes(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX);
    match addr.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(addr.port().to_be_bytes());
    bytes
}

/// Sender, kind and body.
fn parse(text: &[u8]) -> Option<(SocketAddr, u8, &[u8])> {
    let (ip, rest): (IpAddr, _) = match text.split_first()? {
        (4, rest) => rest.split_first_chunk::<4>().map(|(ip, rest)| ((*ip).into(), rest))?,
        (6, rest) => rest.split_first_chunk::<16>().map(|(ip, rest)| ((*ip).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (kind, body) = rest.split_first()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), *kind, body))
}

/// Serves one connection, which need not be of a network, to its end.
#[cfg(feature = "fuzzing")]
pub(crate) async fn serve_one(
    seal: Arc<Seal>,
    counters: Arc<Counters>,
    deliver: Deliver,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
) -> io::Result<()> {
    let shared = Shared {
        seal,
        advertise: from,
        sources: vec![from.ip()],
        counters,
        deliver,
        peers: Mutex::default(),
        under_way: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
    };
    serve(&shared, stream, from, || {}).await
}

#[cfg(test)]
mod tests;
