//! Sockets, and who asks at them.
//!
//! A *door* is a place to ask at: an address in a container's namespace, or the gateway's address
//! of a network. One thread serves all of them by UDP: what it answers it answers in the time that
//! handing it to another thread would take. What is forwarded, and what comes by TCP, are tasks.
//!
//! A door's sockets are made by the caller and end with [`Server::close`]: nothing that is still
//! under way holds them. A socket keeps the namespace that it was made in.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt};
use overlay_model::NetworkId;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::answer::{Answerer, Asker, Outcome};
use crate::counters::Counters;
use crate::forward::{Forwarder, MOST_OF_A_DOOR, Missed, write_message};
use crate::resolv_conf::ResolvConf;
use crate::wire::{Message, PLAIN_LIMIT, Query, Reply, ResponseCode, TCP_LIMIT, header_of};
use crate::zone::{Book, Names};

/// Queries of one socket that are answered before the next one has its turn.
const AT_ONCE: usize = 128;

/// Longest query by UDP: what is longer is cut off, and cannot be read.
const DATAGRAM: usize = 4096;

/// Bytes of questions that may wait for their turn, with what the kernel needs for each.
const RECEIVED: usize = 1 << 20;

/// TCP connections at once, of all doors.
const CONNECTIONS: usize = 256;

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(5);

/// What the thread is woken by that is no door.
const WAKE: u64 = 0;

/// The stack of the thread: nothing on it is large.
const STACK: usize = 256 << 10;

/// What is the same at every door.
#[derive(Debug)]
pub struct Settings {
    /// How many seconds an answer may be remembered.
    pub ttl: u32,
    /// Where the host's resolvers are named.
    pub resolv_conf: ResolvConf,
}

/// Where a door is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// In a namespace: whoever can ask there is in it.
    Namespace,
    /// At an address of this host.
    Gateway(IpAddr),
}

/// Names a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DoorId(u64);

struct Door {
    at: At,
    networks: RwLock<Arc<[NetworkId]>>,
    udp: UdpSocket,
    under_way: AtomicUsize,
}

/// Answers at doors until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<HashMap<DoorId, AbortHandle>>,
    last: AtomicU64,
}

struct Shared {
    names: Arc<Names>,
    counters: Arc<Counters>,
    forwarder: Arc<Forwarder>,
    ttl: u32,
    runtime: Handle,
    epoll: Epoll,
    wake: EventFd,
    ended: AtomicBool,
    doors: Mutex<HashMap<u64, Arc<Door>>>,
    connections: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} doors", self.shared.doors().len())
    }
}

impl Server {
    /// Begins with no doors. Tasks run on `runtime`.
    ///
    /// # Errors
    /// If the system has no more threads or descriptors.
    pub fn start(settings: Settings, names: Arc<Names>, runtime: Handle) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let forwarder = Forwarder::new(settings.resolv_conf, names.clone(), counters.clone());
        let shared = Arc::new(Shared {
            names,
            counters,
            forwarder: Arc::new(forwarder),
            ttl: settings.ttl,
            runtime,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            ended: AtomicBool::new(false),
            doors: Mutex::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        });
        shared.epoll.add(&shared.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let serving = shared.clone();
        let thread = std::thread::Builder::new().name("dns".into()).stack_size(STACK);
        thread.spawn(move || serving.serve())?;
        Ok(Self { shared, listeners: Mutex::default(), last: AtomicU64::new(WAKE) })
    }

    /// Opens a door for those who are on `networks`.
    ///
    /// # Errors
    /// If the sockets cannot be waited for.
    pub fn open(
        &self,
        at: At,
        networks: Vec<NetworkId>,
        udp: UdpSocket,
        tcp: Option<TcpListener>,
    ) -> io::Result<DoorId> {
        udp.set_nonblocking(true)?;
        // Refused beyond what root may have: then a burst loses some, and they are asked again.
        let _ = setsockopt(&udp, sockopt::RcvBufForce, &RECEIVED);
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (networks, under_way) = (RwLock::new(networks.into()), AtomicUsize::new(0));
        let door = Arc::new(Door { at, networks, udp, under_way });
        if let Some(tcp) = tcp {
            tcp.set_nonblocking(true)?;
            let (shared, door) = (self.shared.clone(), Arc::downgrade(&door));
            let listening = self.shared.runtime.spawn(listen(shared, door, tcp));
            let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.insert(DoorId(id), listening.abort_handle());
        }
        self.shared.doors().insert(id, door.clone());
        let watched = self.shared.epoll.add(&door.udp, EpollEvent::new(EpollFlags::EPOLLIN, id));
        if let Err(err) = watched {
            self.close(DoorId(id));
            return Err(err.into());
        }
        Ok(DoorId(id))
    }

    /// Says which networks those are on who ask at a door.
    pub fn set_networks(&self, door: DoorId, networks: Vec<NetworkId>) {
        if let Some(door) = self.shared.doors().get(&door.0) {
            *door.networks.write().unwrap_or_else(PoisonError::into_inner) = networks.into();
        }
    }

    /// Closes a door, with its sockets.
    pub fn close(&self, door: DoorId) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listening) = listeners.remove(&door) {
            listening.abort();
        }
        if let Some(door) = self.shared.doors().remove(&door.0) {
            // It goes by itself when the socket does; the thread may hold that for one more round.
            let _ = self.shared.epoll.delete(&door.udp);
        }
    }

    /// What was asked, and how it was answered.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The host's resolvers, without ourselves: who is asked what is not ours.
    pub fn upstream(&self) -> Vec<SocketAddr> {
        self.shared.forwarder.servers()
    }

    /// Where those are named.
    pub fn resolv_conf(&self) -> &ResolvConf {
        self.shared.forwarder.resolv_conf()
    }

    /// Queries to them that are under way.
    pub fn under_way(&self) -> usize {
        self.shared.forwarder.under_way()
    }

    /// How many seconds an answer may be remembered.
    pub fn ttl(&self) -> u32 {
        self.shared.ttl
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = self.shared.wake.write(1);
        let listeners = self.listeners.get_mut().unwrap_or_else(PoisonError::into_inner);
        listeners.drain().for_each(|(_, listening)| listening.abort());
        self.shared.doors().clear();
    }
}

/// What is to be done with a query.
enum Next {
    /// Nothing.
    Ignore,
    /// The reply is written.
    Reply,
    /// Others are to be asked. The reply that says no is written.
    Forward,
}

impl Shared {
    fn doors(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Door>>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: Arc<Self>) {
        let mut events = [EpollEvent::empty(); 64];
        let mut query = vec![0; DATAGRAM];
        let mut reply = Vec::with_capacity(DATAGRAM);
        let mut answerer = Answerer::default();
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(err) => {
                    tracing::error!("the resolver has ended: {err}");
                    return;
                }
            };
            for event in &events[..ready] {
                if self.ended.load(Ordering::Relaxed) {
                    return;
                }
                let door = self.doors().get(&event.data()).cloned();
                if let Some(door) = door {
                    self.serve_door(&door, &mut query, &mut reply, &mut answerer);
                }
            }
        }
    }

    fn serve_door(
        self: &Arc<Self>,
        door: &Arc<Door>,
        buffer: &mut [u8],
        reply: &mut Vec<u8>,
        answerer: &mut Answerer,
    ) {
        let networks = door.networks();
        for _ in 0..AT_ONCE {
            let (length, from) = match door.udp.recv_from(buffer) {
                Ok(received) => received,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing more; or an ICMP message, which is about one of our replies.
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            Counters::add(&self.counters.queries);
            let bytes = &buffer[..length];
            let next = {
                let book = self.names.read();
                self.answer(&book, door.at, &networks, from.ip(), bytes, None, answerer, reply)
            };
            match next {
                Next::Ignore => {}
                Next::Reply => self.send(door, reply, from),
                Next::Forward => match self.may_forward(door) {
                    Some(place) => {
                        let (shared, weak) = (self.clone(), Arc::downgrade(door));
                        let query = bytes.to_vec();
                        self.runtime.spawn(shared.relay(weak, place, query, from));
                    }
                    None => self.send(door, reply, from),
                },
            }
        }
    }

    /// Writes what is to be replied; `limit` is that of UDP, as the query says, if it is not given.
    #[expect(clippy::too_many_arguments, reason = "buffers that are used again")]
    fn answer(
        &self,
        book: &Book,
        at: At,
        networks: &[NetworkId],
        from: IpAddr,
        bytes: &[u8],
        limit: Option<usize>,
        answerer: &mut Answerer,
        reply: &mut Vec<u8>,
    ) -> Next {
        let query = match Query::read(bytes) {
            Message::Query(query) => query,
            Message::Refuse(refusal) => {
                *reply = refusal;
                return Next::Reply;
            }
            Message::Ignore => return Next::Ignore,
        };
        let asker = match at {
            At::Namespace => Asker { networks, forwards: true },
            // The host asks its resolvers by itself. If it asks us, its resolver has been told to,
            // and would ask itself through us.
            At::Gateway(ip) => {
                let zones = || networks.iter().filter_map(|id| book.zone(*id));
                let from = from.to_canonical();
                match zones().any(|zone| zone.contains(from)) {
                    true => Asker { networks, forwards: from != ip },
                    // Somebody beyond this host.
                    false => Asker { networks: &[], forwards: false },
                }
            }
        };
        if asker.networks.is_empty() {
            Reply::new(&query, PLAIN_LIMIT, 0, reply).end(ResponseCode::Refused, false);
            return Next::Reply;
        }
        let limit = limit.unwrap_or_else(|| query.udp_limit());
        match answerer.answer(book, asker, &query, (limit, self.ttl), reply) {
            Outcome::Answered(_) => Next::Reply,
            Outcome::Forward => Next::Forward,
        }
    }

    fn may_forward(&self, door: &Arc<Door>) -> Option<Place> {
        let place = self.forwarder.place();
        let of_door = door.under_way.fetch_add(1, Ordering::Relaxed) < MOST_OF_A_DOOR;
        let door = Arc::downgrade(door);
        match place {
            Some(place) if of_door => Some(Place { _of_all: place, door }),
            _ => {
                drop(Left(&door));
                Counters::add(&self.counters.overloaded);
                None
            }
        }
    }

    /// Asks the host's resolvers, and says what they say.
    async fn relay(
        self: Arc<Self>,
        door: Weak<Door>,
        _place: Place,
        query: Vec<u8>,
        from: SocketAddr,
    ) {
        let reply = self.forward(&query, false).await;
        if let (Some(door), Some(reply)) = (door.upgrade(), reply) {
            self.send(&door, &reply, from);
        }
    }

    async fn forward(&self, bytes: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let Message::Query(query) = Query::read(bytes) else { return None };
        let mut ours = Vec::new();
        match self.forwarder.ask(bytes, by_tcp).await {
            Ok(reply) if by_tcp || reply.len() <= query.udp_limit() => return Some(reply),
            Ok(reply) => Reply::cut_off(&query, header_of(&reply)?.response_code, &mut ours),
            Err(Missed::TimedOut | Missed::Nobody) => {
                Reply::new(&query, PLAIN_LIMIT, 0, &mut ours).end(ResponseCode::ServFail, false);
            }
        }
        Some(ours)
    }

    fn count(&self, reply: &[u8]) {
        let Some(said) = header_of(reply) else { return };
        self.counters.answered(said.response_code);
        if said.truncation {
            Counters::add(&self.counters.truncated);
        }
    }

    fn send(&self, door: &Door, reply: &[u8], to: SocketAddr) {
        self.count(reply);
        // A full buffer: whoever asked asks again.
        let _ = door.udp.send_to(reply, to);
    }
}

impl Door {
    fn networks(&self) -> Arc<[NetworkId]> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A place among the queries that are under way.
struct Place {
    _of_all: OwnedSemaphorePermit,
    door: Weak<Door>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(Left(&self.door));
    }
}

/// One query of a door is not under way any more.
struct Left<'a>(&'a Weak<Door>);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if let Some(door) = self.0.upgrade() {
            door.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Takes connections of a door until it is aborted, which ends those that are open, too.
async fn listen(shared: Arc<Shared>, door: Weak<Door>, tcp: TcpListener) {
    let tcp = match tokio::net::TcpListener::from_std(tcp) {
        Ok(tcp) => tcp,
        Err(err) => return tracing::warn!("no DNS by TCP: {err}"),
    };
    let mut open = JoinSet::new();
    loop {
        let accepted = tcp.accept().await;
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                let Ok(place) = shared.connections.clone().try_acquire_owned() else {
                    Counters::add(&shared.counters.overloaded);
                    continue;
                };
                let (shared, door) = (shared.clone(), door.clone());
                open.spawn(async move {
                    // Who does not read, or says nothing, is hung up on.
                    let _ = converse(&shared, &door, stream, from.ip()).await;
                    drop(place);
                });
            }
            // No descriptors, most likely: there will be some.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Answers the queries of a connection, one after the other.
async fn converse(
    shared: &Arc<Shared>,
    door: &Weak<Door>,
    mut stream: TcpStream,
    from: IpAddr,
) -> io::Result<()> {
    let (mut query, mut reply) = (Vec::new(), Vec::new());
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        query.resize(length.into(), 0);
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        Counters::add(&shared.counters.queries);
        Counters::add(&shared.counters.tcp);
        let next = {
            let Some(door) = door.upgrade() else { return Ok(()) };
            let (book, networks) = (shared.names.read(), door.networks());
            let turn = shared.counters.queries.load(Ordering::Relaxed);
            let (limit, mut answerer) = (Some(TCP_LIMIT), Answerer::starting_at(turn));
            let (at, answerer) = (door.at, &mut answerer);
            shared.answer(&book, at, &networks, from, &query, limit, answerer, &mut reply)
        };
        match next {
            Next::Ignore => return Ok(()),
            Next::Reply => {}
            Next::Forward => {
                let place = door.upgrade().and_then(|door| shared.may_forward(&door));
                if let Some(_place) = place
                    && let Some(told) = shared.forward(&query, true).await
                {
                    reply = told;
                }
            }
        }
        shared.count(&reply);
        timeout(IDLE, write_message(&mut stream, &reply)).await??;
    }
}

#[cfg(test)]
mod tests;
