//! The gossip port: whole messages between hosts, of two kinds.
//!
//! ```text
//!   transport (chitchat's messages) ─┐         ┌─ fits one packet: seal ─► UDP
//!                                    ├─► Port ─┤
//!   push (changes, at once) ─────────┘         └─ larger: tcp ───────────► TCP
//!
//!   UDP, TCP ─► seal (who may) ─► limits (what may be in it) ─► Inbox: gossip, push
//! ```
//!
//! One byte before the body says which [`Kind`] it is. Everything that goes to
//! and comes from the network passes through [`Port::send`] and
//! [`Incoming::deliver`], and nowhere else.
//!
//! Promises: sending never waits, and a message that cannot go now is lost, as
//! messages are; nothing leaves as an IP fragment: what does not fit the MTU of
//! the underlay goes by TCP, and so does what the kernel finds too large for
//! the way; what came and nobody has taken yet is bounded, and what does not
//! fit is counted and dropped; the port stays ours until the last handle of it
//! is gone, whatever becomes of chitchat.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::keyring::Keyring;
use crate::limits::{self, Unfit};
use crate::refusals::Why;
use crate::seal::Seal;
use crate::stats::Counters;
use crate::tcp::Tcp;
use crate::ways::Ways;

/// What our socket can hold while we are busy, bytes, if the kernel lets us:
/// the default loses 190 of 200 simultaneous answers.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The largest UDP payload over IPv4.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// How many messages of a kind may wait to be taken.
const WAITING: usize = 8192;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message of chitchat.
    Gossip,
    /// Changes, sent at once: see `push`.
    Push,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Gossip => 1,
            Self::Push => 2,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Gossip),
            2 => Some(Self::Push),
            _ => None,
        }
    }
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Message {
    /// Who sent it, as the network says.
    pub(crate) from: SocketAddr,
    /// Without the byte of its kind.
    pub(crate) body: Vec<u8>,
}

/// The messages of one kind that came and were not taken yet.
pub(crate) struct Inbox(Mutex<mpsc::Receiver<Message>>);

impl Inbox {
    /// The next message. Given up at any point, it loses none.
    pub(crate) async fn next(&self) -> Message {
        match self.0.lock().await.recv().await {
            Some(message) => message,
            // The receiving task ends with the port, and then nobody asks.
            None => std::future::pending().await,
        }
    }
}

/// How the port is opened.
#[derive(Debug, Clone)]
pub(crate) struct PortOptions {
    /// Where it listens, UDP and TCP: at one address, or one of each family.
    pub(crate) listen: Vec<SocketAddr>,
    /// What peers are told of where it listens.
    pub(crate) advertise: SocketAddr,
    /// What messages are sealed with; `None`: they are not.
    pub(crate) keys: Option<Arc<Keyring>>,
    /// The underlay's MTU, bytes of IP packet.
    pub(crate) mtu: u16,
}

#[cfg(test)]
impl PortOptions {
    /// A port of the loopback device, without keys.
    pub(crate) fn loopback() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { listen: vec![listen], advertise: listen, keys: None, mtu: 1500 }
    }
}

/// Ways that turned out narrower than the underlay's MTU; beyond so many, all
/// are forgotten and found again.
const NARROW: usize = 4096;

/// Our end of the network.
pub(crate) struct Port {
    /// The same sockets as the receiving tasks'; sending by them never waits.
    pub(crate) sockets: Vec<UdpSocket>,
    ways: Arc<Ways>,
    pub(crate) gossip: Inbox,
    pub(crate) push: Inbox,
    seal: Arc<Seal>,
    tcp: Tcp,
    mtu: u16,
    /// The largest datagram that the way to an address may take.
    narrow: std::sync::Mutex<HashMap<IpAddr, usize>>,
    counters: Arc<Counters>,
    receiving: Vec<JoinHandle<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.receiving.iter().for_each(JoinHandle::abort);
    }
}

/// Warnings about unfit messages come no faster than this.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Where messages go that were let in.
struct Incoming {
    gossip: mpsc::Sender<Message>,
    push: mpsc::Sender<Message>,
    counters: Arc<Counters>,
    warned: std::sync::Mutex<Option<Instant>>,
}

impl Incoming {
    /// Says no to a message of somebody who has our key: a bug, or worse.
    fn refuse(&self, from: SocketAddr, body: &[u8], why: Unfit) {
        let now = Instant::now();
        let counted = match why {
            Unfit::Malformed => Why::Malformed,
            Unfit::TooMuch => Why::TooMuch,
        };
        self.counters.refuse(from, counted, now);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
            *warned = Some(now);
            tracing::warn!(
                %from, bytes = body.len(), ?why,
                "a message of a member is not fit for gossip and was dropped (more of them in the \
                 next minute are only counted); does it run another release?",
            );
        }
    }

    fn deliver(&self, from: SocketAddr, kind: u8, body: Vec<u8>) {
        let inbox = match Kind::of(kind) {
            Some(Kind::Gossip) => match limits::check(&body) {
                Ok(()) => &self.gossip,
                Err(why) => return self.refuse(from, &body, why),
            },
            Some(Kind::Push) => &self.push,
            None => return self.counters.refuse(from, Why::UnknownKind, Instant::now()),
        };
        if inbox.try_send(Message { from, body }).is_err() {
            self.counters.add("wire_overrun", 1);
        }
    }
}

/// Both sockets. A port that the system chooses is one that is free for both.
fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 16;
    loop {
        tries -= 1;
        let udp = UdpSocket::bind(listen)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(err)
                if listen.port() == 0 && tries > 0 && err.kind() == io::ErrorKind::AddrInUse => {}
            Err(err) => return Err(err),
        }
    }
}

/// [`bind`], with what both sockets are to be like.
fn open(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let (socket, listener) = bind(listen)?;
    never_fragment(&socket)?;
    // `FORCE` passes net.core.rmem_max and needs CAP_NET_ADMIN.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    let bytes = getsockopt(&socket, sockopt::RcvBuf).unwrap_or(0);
    let listen = socket.local_addr()?;
    tracing::debug!(%listen, bytes, "gossip receive buffer");
    socket.set_nonblocking(true)?;
    Ok((socket, listener))
}

/// The kernel neither fragments nor lets routers do so.
fn never_fragment(socket: &UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
    } else {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
        // For IPv4 through a socket of both families; one of IPv6 alone may refuse.
        let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO);
    }
    Ok(())
}

impl Port {
    /// Takes `options.listen`, UDP and TCP. Of an error, which of them.
    pub(crate) fn bind(
        options: &PortOptions,
        ways: Arc<Ways>,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>, (SocketAddr, io::Error)> {
        let mut bound = Vec::new();
        for addr in &options.listen {
            bound.push(open(*addr).map_err(|err| (*addr, err))?);
        }
        Self::on(bound, options, ways, counters).map_err(|err| (options.listen[0], err))
    }

    fn on(
        bound: Vec<(UdpSocket, TcpListener)>,
        options: &PortOptions,
        ways: Arc<Ways>,
        counters: Arc<Counters>,
    ) -> io::Result<Arc<Self>> {
        let (sockets, listeners): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
        let listen = sockets[0].local_addr()?;
        let (gossip_tx, gossip) = mpsc::channel(WAITING);
        let (push_tx, push) = mpsc::channel(WAITING);
        let incoming = Arc::new(Incoming {
            gossip: gossip_tx,
            push: push_tx,
            counters: counters.clone(),
            warned: std::sync::Mutex::default(),
        });
        let seal = Arc::new(Seal::new(options.keys.clone(), counters.clone()));
        let mut advertise = options.advertise;
        if advertise.port() == 0 {
            advertise.set_port(listen.port());
        }
        let deliver = {
            let incoming = incoming.clone();
            Arc::new(move |from, kind, body| incoming.deliver(from, kind, body))
        };
        let tcp = Tcp::new(listeners, advertise, seal.clone(), counters.clone(), deliver)?;
        let receiving = sockets.iter().map(|socket| {
            // Not for writing: each datagram that leaves would wake the receiver.
            #[expect(
                deprecated,
                reason = "a std socket keeps its descriptor, which its unsafe successor asks for"
            )]
            let receiver = AsyncFd::with_interest(socket.try_clone()?, Interest::READABLE)?;
            let (seal, ways) = (seal.clone(), ways.clone());
            let receiving = receive(receiver, seal, ways, incoming.clone(), counters.clone());
            Ok(tokio::spawn(receiving))
        });
        let receiving = receiving.collect::<io::Result<_>>()?;
        Ok(Arc::new(Self {
            sockets,
            ways,
            gossip: Inbox(Mutex::new(gossip)),
            push: Inbox(Mutex::new(push)),
            seal,
            tcp,
            mtu: options.mtu,
            narrow: std::sync::Mutex::default(),
            counters,
            receiving,
        }))
    }

    /// Where it listens, first of all.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets[0].local_addr()
    }

    /// The socket by which datagrams go to an address.
    fn socket_to(&self, to: SocketAddr) -> &UdpSocket {
        let of_its_family = |socket: &&UdpSocket| {
            socket.local_addr().is_ok_and(|own| own.is_ipv4() == to.is_ipv4())
        };
        match self.sockets.as_slice() {
            // It may be of both families.
            [one] => one,
            more => more.iter().find(of_its_family).unwrap_or(&more[0]),
        }
    }

    /// Sends one message. Returns the bytes that went, or that a connection
    /// will take.
    pub(crate) fn send(&self, to: SocketAddr, kind: Kind, body: &[u8]) -> io::Result<usize> {
        let kind = kind.byte();
        let to = self.ways.to(to);
        let len = body.len() + self.seal.overhead();
        if len <= self.largest(to.ip()) {
            let datagram = self.seal.seal(to, kind, body, Instant::now());
            match self.socket_to(to).send_to(&datagram, to) {
                Err(err) if err.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                    self.counters.add("too_large_for_way", 1);
                    self.narrow(to.ip(), len - 1);
                }
                result => return result,
            }
        }
        self.tcp.send(to, kind, body)?;
        Ok(len)
    }

    /// Waits until what goes by TCP has gone, or `until`.
    pub(crate) async fn flush(&self, until: Instant) {
        while self.tcp.under_way() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The largest datagram for `to`, bytes of UDP payload.
    fn largest(&self, to: IpAddr) -> usize {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        let by_mtu = usize::from(self.mtu).saturating_sub(headers).min(MAX_DATAGRAM);
        let narrow = self.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        narrow.get(&to).copied().unwrap_or(by_mtu).min(by_mtu)
    }

    fn narrow(&self, to: IpAddr, largest: usize) {
        let mut narrow = self.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        if narrow.len() >= NARROW {
            narrow.clear();
        }
        narrow.insert(to, largest);
    }
}

async fn receive(
    socket: AsyncFd<UdpSocket>,
    seal: Arc<Seal>,
    ways: Arc<Ways>,
    incoming: Arc<Incoming>,
    counters: Arc<Counters>,
) {
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        let came = socket.async_io(Interest::READABLE, |socket| socket.recv_from(&mut buf)).await;
        let (len, from) = match came {
            Ok(read) => read,
            // A peer's port is closed, memory is short: the next may do.
            Err(err) => {
                tracing::debug!(%err, "gossip receive");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let verdict = seal.open(from, &buf[..len], Instant::now());
        for (to, datagram) in verdict.send {
            if let Err(err) = socket.get_ref().send_to(&datagram, to) {
                counters.add("send_failed", 1);
                tracing::debug!(%to, %err, "not answered");
            }
        }
        if let Some((kind, body)) = verdict.message {
            incoming.deliver(ways.from(from), kind, body);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
