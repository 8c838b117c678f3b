//! The gossip port: whole messages between hosts, of two kinds.
//!
//! ```text
//!   transport (chitchat's messages) ─┐                      ┌─► Inbox: gossip
//!                                    ├─► Port ─► network ─► ─┤
//!   push (changes, at once) ─────────┘                      └─► Inbox: push
//! ```
//!
//! One byte before the body says which [`Kind`] it is. Everything that goes to
//! and comes from the network passes through [`Port::send`] and
//! [`Port::receive`], and nowhere else.
//!
//! Promises: sending never waits, and a message that cannot go now is lost, as
//! messages are; what came and nobody has taken yet is bounded, and what does
//! not fit is counted and dropped; the port stays ours until the last handle of
//! it is gone, whatever becomes of chitchat.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::stats::Counters;

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

/// Our end of the network.
pub(crate) struct Port {
    /// The same socket as the receiving task's; sending by it never waits.
    pub(crate) socket: std::net::UdpSocket,
    pub(crate) gossip: Inbox,
    pub(crate) push: Inbox,
    receiving: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl Port {
    /// Takes `listen`.
    pub(crate) fn bind(listen: SocketAddr, counters: Arc<Counters>) -> io::Result<Arc<Self>> {
        let socket = std::net::UdpSocket::bind(listen)?;
        // `FORCE` passes net.core.rmem_max and needs CAP_NET_ADMIN.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        let bytes = getsockopt(&socket, sockopt::RcvBuf).unwrap_or(0);
        tracing::debug!(%listen, bytes, "gossip receive buffer");
        socket.set_nonblocking(true)?;
        let receiver = UdpSocket::from_std(socket.try_clone()?)?;
        let (gossip_tx, gossip) = mpsc::channel(WAITING);
        let (push_tx, push) = mpsc::channel(WAITING);
        let receiving = tokio::spawn(Self::receive(receiver, gossip_tx, push_tx, counters));
        Ok(Arc::new(Self {
            socket,
            gossip: Inbox(Mutex::new(gossip)),
            push: Inbox(Mutex::new(push)),
            receiving,
        }))
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends one message. Returns the bytes that went.
    pub(crate) fn send(&self, to: SocketAddr, kind: Kind, body: &[u8]) -> io::Result<usize> {
        let mut framed = Vec::with_capacity(1 + body.len());
        framed.push(kind.byte());
        framed.extend_from_slice(body);
        self.socket.send_to(&framed, to)
    }

    async fn receive(
        socket: UdpSocket,
        gossip: mpsc::Sender<Message>,
        push: mpsc::Sender<Message>,
        counters: Arc<Counters>,
    ) {
        let mut buf = vec![0; MAX_DATAGRAM];
        loop {
            let (len, from) = match socket.recv_from(&mut buf).await {
                Ok(read) => read,
                // A peer's port is closed, memory is short: the next may do.
                Err(err) => {
                    tracing::debug!(%err, "gossip receive");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let Some((kind, body)) = buf[..len].split_first() else {
                counters.add("wire_unknown_kind", 1);
                continue;
            };
            let inbox = match Kind::of(*kind) {
                Some(Kind::Gossip) => &gossip,
                Some(Kind::Push) => &push,
                None => {
                    counters.add("wire_unknown_kind", 1);
                    continue;
                }
            };
            if inbox.try_send(Message { from, body: body.to_vec() }).is_err() {
                counters.add("wire_overrun", 1);
            }
        }
    }
}
