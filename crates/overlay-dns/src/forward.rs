//! Queries of names that are not ours, to the host's resolvers.
//!
//! A query goes on as it came, but for its number, from a socket of its own: whoever would forge
//! the reply must guess number and port. Replies come back as they are, with the number and the
//! letters of the question that was asked here.
//!
//! At most [`MOST`] are under way, and each is given up after [`PATIENCE`]; a resolver that does not
//! answer costs the first one who asks it [`TRY`], and is not the first to be asked after that.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::counters::Counters;
use crate::resolv_conf::ResolvConf;
use crate::wire::{Message, Query, ResponseCode, header_of};
use crate::zone::Names;

/// Queries that are under way at once, of all doors.
pub(crate) const MOST: usize = 1024;

/// The same of one door: a container that asks without end leaves room for others.
pub(crate) const MOST_OF_A_DOOR: usize = 256;

/// How long one resolver has to answer.
const TRY: Duration = Duration::from_millis(1500);

/// How long all of them have: less than the 5 s after which libc asks again.
const PATIENCE: Duration = Duration::from_millis(4500);

/// How often a query is sent, at least: packets are lost.
const TRIES: usize = 3;

/// Bytes of a reply by UDP; more is cut off, and is asked for by TCP.
const DATAGRAM: usize = 8 << 10;

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missed {
    /// Nobody answered in time.
    TimedOut,
    /// There is nobody to ask: the host's resolvers cannot be reached, or are ourselves.
    Nobody,
}

pub(crate) struct Forwarder {
    resolv_conf: ResolvConf,
    names: Arc<Names>,
    counters: Arc<Counters>,
    under_way: Arc<Semaphore>,
    /// Which resolver answered last, by its place in the list.
    first: AtomicUsize,
    random: RandomState,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: ResolvConf, names: Arc<Names>, counters: Arc<Counters>) -> Self {
        let (under_way, first) = (Arc::new(Semaphore::new(MOST)), AtomicUsize::new(0));
        Self { resolv_conf, names, counters, under_way, first, random: RandomState::new() }
    }

    pub(crate) fn resolv_conf(&self) -> &ResolvConf {
        &self.resolv_conf
    }

    /// A place among those under way; `None` if there is none.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.under_way.clone().try_acquire_owned().ok()
    }

    /// How many are under way.
    pub(crate) fn under_way(&self) -> usize {
        MOST - self.under_way.available_permits()
    }

    /// Who is asked: never ourselves, at a gateway's address.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        let host = self.resolv_conf.now();
        let book = self.names.read();
        let others = host.servers.iter().filter(|server| !book.is_gateway(server.ip()));
        others.copied().collect()
    }

    /// Asks until somebody answers.
    pub(crate) async fn ask(&self, query: &[u8], by_tcp: bool) -> Result<Vec<u8>, Missed> {
        Counters::add(&self.counters.forwarded);
        let result = timeout(PATIENCE, self.ask_each(query, by_tcp)).await;
        let result = result.unwrap_or(Err(Missed::TimedOut));
        if result == Err(Missed::TimedOut) {
            Counters::add(&self.counters.timeouts);
        }
        result
    }

    async fn ask_each(&self, bytes: &[u8], by_tcp: bool) -> Result<Vec<u8>, Missed> {
        let servers = self.servers();
        let Message::Query(query) = Query::read(bytes) else { return Err(Missed::Nobody) };
        let first = self.first.load(Ordering::Relaxed);
        let mut missed = Missed::Nobody;
        let mut second_best = None;
        for n in 0..if servers.is_empty() { 0 } else { servers.len().max(TRIES) } {
            let at = (first + n) % servers.len();
            let asked = match by_tcp {
                true => timeout(TRY, self.by_tcp(servers[at], &query)).await,
                false => timeout(TRY, self.by_udp(servers[at], &query)).await,
            };
            match asked {
                Ok(Ok(mut reply)) => {
                    query.adopt(&mut reply);
                    let failed =
                        [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp];
                    if header_of(&reply).is_some_and(|said| failed.contains(&said.response_code)) {
                        // Another one may know; the same one again does not.
                        second_best = Some(reply);
                        if n + 1 < servers.len() {
                            continue;
                        }
                        break;
                    }
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(reply);
                }
                Ok(Err(err)) => {
                    tracing::debug!(server = %servers[at], "a resolver cannot be asked: {err}");
                }
                Err(_) => missed = Missed::TimedOut,
            }
        }
        second_best.ok_or(missed)
    }

    async fn by_udp(&self, server: SocketAddr, query: &Query<'_>) -> io::Result<Vec<u8>> {
        let any: IpAddr = match server.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        // Replies of others do not get here.
        socket.connect(server).await?;
        let id = self.number();
        socket.send(&renumbered(query.bytes(), id)).await?;
        let mut reply = vec![0; DATAGRAM];
        let until = Instant::now() + TRY;
        loop {
            let length = timeout_at(until, socket.recv(&mut reply)).await??;
            if query.is_answered_by(&reply[..length], id) {
                reply.truncate(length);
                return Ok(reply);
            }
        }
    }

    async fn by_tcp(&self, server: SocketAddr, query: &Query<'_>) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        let id = self.number();
        write_message(&mut stream, &renumbered(query.bytes(), id)).await?;
        let length = stream.read_u16().await?;
        let mut reply = vec![0; length.into()];
        stream.read_exact(&mut reply).await?;
        match query.is_answered_by(&reply, id) {
            true => Ok(reply),
            false => Err(io::Error::other("it answers something else than was asked")),
        }
    }

    /// A number that nobody can guess.
    fn number(&self) -> u16 {
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(RandomState::new().build_hasher().finish());
        hasher.finish() as u16
    }
}

fn renumbered(query: &[u8], id: u16) -> Vec<u8> {
    let mut query = query.to_vec();
    query[..2].copy_from_slice(&id.to_be_bytes());
    query
}

/// Writes a message with its length before it, as TCP has it, in one piece.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests;
