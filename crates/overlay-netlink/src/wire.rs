//! One netlink connection, and how requests travel over it.
//!
//! The only module that knows `netlink_proto`; messages themselves are built
//! where they mean something. A [`Conn`] is used by one caller at a time
//! (`&mut self`), because the answers to a batch are told apart by sequence
//! numbers that are counted here.
//!
//! Why not `rtnetlink::Handle`: it sends one message per system call (23,000
//! FDB entries a second against 300,000 in batches), and drops the header in
//! which the kernel says that a dump was interrupted.

use std::io;
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_proto::{ConnectionHandle, ReplyExpectation};
use netlink_sys::{AsyncSocket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::error::{KernelError, NlError};
use crate::offload::Offload;

/// How often an interrupted dump is tried before we give up.
const DUMP_TRIES: u32 = 16;

/// Room for the refusals of a whole batch, and for dumps.
const RECEIVE_BUFFER: usize = 4 << 20;

/// `NLMSGERR_ATTR_MSG` of `linux/netlink.h`.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One request: its message, and flags besides `NLM_F_REQUEST` and `NLM_F_ACK`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) message: RouteNetlinkMessage,
}

/// Which messages of a batch are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Each: success is told by the kernel.
    Each,
    /// The last; of the others only refusals are told. Twice as fast, and as
    /// sure: the kernel works through a batch in order.
    Last,
}

type Reply = NetlinkMessage<RouteNetlinkMessage>;

/// A netlink connection in the network namespace in which it was opened.
pub(crate) struct Conn {
    /// Before `handle`, so that it is dropped first: the connection's task
    /// wakes up when the handle goes, and ends only if it finds this gone too.
    unsolicited: UnboundedReceiver<(Reply, SocketAddr)>,
    handle: ConnectionHandle<RouteNetlinkMessage>,
    /// Sequence number of the message sent last; `netlink_proto` counts alike.
    sequence: u32,
    port: u32,
    /// How VXLAN devices are to have it; `None`: as they have it.
    pub(crate) offload: Option<Arc<Offload>>,
}

impl Conn {
    /// Opens a connection in the network namespace of the calling thread, which
    /// must be in the context of a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (mut connection, handle, unsolicited) =
            netlink_proto::new_connection(netlink_sys::protocols::NETLINK_ROUTE)?;
        // Answers must come to us, and not to the streams' silence: without
        // these a closed socket and a success look alike.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        // With the request capped off, the kernel's words always follow the
        // 16 bytes of the request's header.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        widen(&*socket, RECEIVE_BUFFER);
        let port = socket.bind_auto()?.port_number();
        tokio::spawn(connection);
        Ok(Self { handle, unsolicited, sequence: 0, port, offload: None })
    }

    /// The number that the kernel knows this connection by.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends `requests` in one system call and says what came of each.
    pub(crate) async fn send(
        &mut self,
        requests: Vec<Request>,
        ack: Ack,
    ) -> Vec<Result<(), NlError>> {
        let count = requests.len();
        if count == 0 {
            return Vec::new();
        }
        while self.unsolicited.try_recv().is_ok() {}
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count as u32);

        let acked = |i: usize| ack == Ack::Each || i + 1 == count;
        let mut results: Vec<Result<(), NlError>> =
            (0..count).map(|i| if acked(i) { Err(NlError::Closed) } else { Ok(()) }).collect();
        let messages = requests.into_iter().enumerate().map(|(i, request)| {
            let mut message = NetlinkMessage::from(request.message);
            message.header.flags = NLM_F_REQUEST | request.flags;
            if acked(i) {
                message.header.flags |= NLM_F_ACK;
                (message, ReplyExpectation::Expected)
            } else {
                (message, ReplyExpectation::NotExpected)
            }
        });
        let Ok(mut replies) =
            self.handle.request_batch_with_expectation(messages, SocketAddr::new(0, 0))
        else {
            return vec![Err(NlError::Closed); count];
        };
        let mut note = |reply: Reply| {
            let index = reply.header.sequence_number.wrapping_sub(first) as usize;
            if let (NetlinkPayload::Error(err), Some(slot)) =
                (reply.payload, results.get_mut(index))
            {
                *slot = result_of(&err);
            }
        };
        while let Some(reply) = replies.next().await {
            note(reply);
        }
        // The refusals of what was not acknowledged came before the last
        // acknowledgement, and netlink_proto forwards them first.
        while let Ok((reply, _)) = self.unsolicited.try_recv() {
            note(reply);
        }
        results
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) async fn one(
        &mut self,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<(), NlError> {
        self.send(vec![Request { flags, message }], Ack::Each).await.remove(0)
    }

    /// Asks for one object.
    pub(crate) async fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NlError> {
        let mut replies = self.request(message, 0)?;
        let mut found = None;
        let mut answered = false;
        while let Some(reply) = replies.next().await {
            answered = true;
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => found = Some(message),
                NetlinkPayload::Error(err) => result_of(&err)?,
                _ => {}
            }
        }
        if answered { Ok(found) } else { Err(NlError::Closed) }
    }

    /// Reads a whole table.
    pub(crate) async fn dump(
        &mut self,
        table: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        self.gather(table, message, Vec::push).await
    }

    /// Reads a whole table, again and from nothing if it changed meanwhile.
    /// `take` takes in each row as it comes: as a message it is large.
    pub(crate) async fn gather<T: Default>(
        &mut self,
        table: &'static str,
        message: RouteNetlinkMessage,
        take: impl Fn(&mut T, RouteNetlinkMessage),
    ) -> Result<T, KernelError> {
        let failed = |err| KernelError::Read { table, err };
        for _ in 0..DUMP_TRIES {
            let mut replies = self.request(message.clone(), NLM_F_DUMP).map_err(failed)?;
            let mut rows = T::default();
            let mut stable = true;
            let mut complete = false;
            while let Some(reply) = replies.next().await {
                stable &= reply.header.flags & NLM_F_DUMP_INTR == 0;
                match reply.payload {
                    NetlinkPayload::InnerMessage(row) => take(&mut rows, row),
                    NetlinkPayload::Done(done) if done.code == 0 => complete = true,
                    NetlinkPayload::Done(done) => {
                        let errno = Errno::from_raw(-done.code);
                        return Err(failed(NlError::Refused { errno, text: None }));
                    }
                    NetlinkPayload::Error(err) => result_of(&err).map_err(failed)?,
                    _ => {}
                }
            }
            if !complete {
                return Err(failed(NlError::Closed));
            }
            if stable {
                return Ok(rows);
            }
        }
        Err(KernelError::UnstableDump { table, tries: DUMP_TRIES })
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl futures::Stream<Item = Reply> + use<>, NlError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        self.handle.request(message, SocketAddr::new(0, 0)).map_err(|_| NlError::Closed)
    }
}

/// Gives `socket` a receive buffer of `bytes`, or what an unprivileged process
/// may have.
pub(crate) fn widen(socket: &netlink_sys::Socket, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}

fn result_of(err: &ErrorMessage) -> Result<(), NlError> {
    match err.code {
        None => Ok(()),
        Some(code) => Err(NlError::Refused {
            errno: Errno::from_raw(-code.get()),
            text: explanation(&err.header),
        }),
    }
}

/// The kernel's own words: an attribute behind the header of the request.
fn explanation(payload: &[u8]) -> Option<String> {
    const REQUEST_HEADER: usize = 16;
    NlasIterator::new(payload.get(REQUEST_HEADER..)?)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned())
        .filter(|text| !text.is_empty())
}
