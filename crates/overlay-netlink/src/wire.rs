//! One netlink connection, and how requests travel over it.
//!
//! The only module that knows `netlink_proto`; messages themselves are built
//! where they mean something. A [`Conn`] is used by one caller at a time
//! (`&mut self`), because the answers to a batch are told apart by sequence
//! numbers that are counted here.
//!
//! Many entries go by a socket of their own, without `netlink_proto`: see
//! [`Entries`].
//!
//! Why not `rtnetlink::Handle`: it sends one message per system call (23,000
//! FDB entries a second against 300,000 in batches), and drops the header in
//! which the kernel says that a dump was interrupted.

use std::io;
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkMessage, NetlinkPayload, NlasIterator,
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

    /// Sends `requests` in one system call and says what came of each. Each is
    /// acknowledged; for many see [`Entries`].
    pub(crate) async fn send(&mut self, requests: Vec<Request>) -> Vec<Result<(), NlError>> {
        let count = requests.len();
        if count == 0 {
            return Vec::new();
        }
        while self.unsolicited.try_recv().is_ok() {}
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count as u32);

        let mut results = vec![Err(NlError::Closed); count];
        let messages = requests.into_iter().map(|request| {
            let mut message = NetlinkMessage::from(request.message);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            (message, ReplyExpectation::Expected)
        });
        let Ok(mut replies) =
            self.handle.request_batch_with_expectation(messages, SocketAddr::new(0, 0))
        else {
            return vec![Err(NlError::Closed); count];
        };
        while let Some(reply) = replies.next().await {
            let index = reply.header.sequence_number.wrapping_sub(first) as usize;
            if let (NetlinkPayload::Error(err), Some(slot)) =
                (reply.payload, results.get_mut(index))
            {
                *slot = result_of(&err);
            }
        }
        results
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) async fn one(
        &mut self,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<(), NlError> {
        self.send(vec![Request { flags, message }]).await.remove(0)
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

/// A socket for hundreds of thousands of entries, in the network namespace in
/// which it was opened.
///
/// The kernel has worked through a batch when `send` returns, and the next part
/// of a dump is there when one has been read: so all is done in the system calls
/// themselves. By way of the task of a [`Conn`], a message costs half as much
/// again as it costs the kernel.
pub(crate) struct Entries {
    socket: netlink_sys::Socket,
    sequence: u32,
    port: u32,
    buffer: Vec<u8>,
}

impl Entries {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.set_non_blocking(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        widen(&socket, RECEIVE_BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBufForce, &RECEIVE_BUFFER);
        Ok(Self { socket, sequence: 0, port, buffer: Vec::new() })
    }

    /// The number that the kernel knows this socket by.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends `requests` in one system call and says what came of each.
    ///
    /// The last is acknowledged; of the others only refusals are told. Twice as
    /// fast, and as sure: the kernel works through a batch in order.
    pub(crate) fn send(&mut self, requests: Vec<Request>) -> Vec<Result<(), NlError>> {
        let count = requests.len();
        if count == 0 {
            return Vec::new();
        }
        let mut results = vec![Ok(()); count];
        results[count - 1] = Err(NlError::Closed);
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count as u32);
        let mut out = std::mem::take(&mut self.buffer);
        out.clear();
        for (i, request) in requests.into_iter().enumerate() {
            let mut message = NetlinkMessage::from(request.message);
            message.header.flags = NLM_F_REQUEST | request.flags;
            if i + 1 == count {
                message.header.flags |= NLM_F_ACK;
            }
            message.header.sequence_number = first.wrapping_add(i as u32);
            message.finalize();
            let at = out.len();
            out.resize((at + message.buffer_len()).next_multiple_of(4), 0);
            message.serialize(&mut out[at..]);
        }
        // Of a batch that was given up, answers may still be there.
        let mut answer = Vec::with_capacity(1 << 15);
        while self.receive(&mut answer).is_ok() {}
        if let Err(err) = self.socket.send_to(&out, &SocketAddr::new(0, 0), 0) {
            let errno = Errno::from_raw(err.raw_os_error().unwrap_or_default());
            return vec![Err(NlError::Refused { errno, text: None }); count];
        }
        self.buffer = out;
        // The refusals of what was not acknowledged come before the last acknowledgement.
        while self.receive(&mut answer).is_ok() {
            for (header, _) in messages(&answer) {
                let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(header.into_inner());
                if let Ok(reply) = reply
                    && let NetlinkPayload::Error(err) = reply.payload
                    && let Some(slot) =
                        results.get_mut(reply.header.sequence_number.wrapping_sub(first) as usize)
                {
                    *slot = result_of(&err);
                }
            }
        }
        results
    }

    /// Reads the FDB (`AF_BRIDGE`) or all neighbours (`AF_UNSPEC`), again and
    /// from nothing if they changed meanwhile. `take` takes in each row, from
    /// behind its header.
    pub(crate) async fn dump<T: Default>(
        &mut self,
        table: &'static str,
        family: i32,
        take: impl Fn(&mut T, &[u8]),
    ) -> Result<T, KernelError> {
        let failed = |err| KernelError::Read { table, err };
        let refused = |errno: i32| NlError::Refused { errno: Errno::from_raw(errno), text: None };
        let mut buffer = Vec::with_capacity(1 << 16);
        'again: for _ in 0..DUMP_TRIES {
            while self.receive(&mut buffer).is_ok() {}
            self.sequence = self.sequence.wrapping_add(1);
            // The header, and `struct ndmsg` with nothing but the family.
            let mut request = [0; 28];
            request[0] = 28;
            request[4..6].copy_from_slice(&nix::libc::RTM_GETNEIGH.to_ne_bytes());
            request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
            request[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
            request[16] = family as u8;
            self.socket
                .send_to(&request, &SocketAddr::new(0, 0), 0)
                .map_err(|err| failed(refused(err.raw_os_error().unwrap_or_default())))?;
            let mut rows = T::default();
            let mut stable = true;
            let mut datagrams = 0u32;
            loop {
                self.receive(&mut buffer)
                    .map_err(|err| failed(refused(err.raw_os_error().unwrap_or_default())))?;
                for (header, body) in messages(&buffer) {
                    if header.sequence_number() != self.sequence {
                        continue;
                    }
                    stable &= header.flags() & NLM_F_DUMP_INTR == 0;
                    let code = || body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                    match i32::from(header.message_type()) {
                        nix::libc::NLMSG_DONE | nix::libc::NLMSG_ERROR if code() != 0 => {
                            return Err(failed(refused(-code())));
                        }
                        nix::libc::NLMSG_DONE if stable => return Ok(rows),
                        nix::libc::NLMSG_DONE => continue 'again,
                        _ => take(&mut rows, body),
                    }
                }
                // Somebody may wait for a change.
                datagrams += 1;
                if datagrams.is_multiple_of(16) {
                    tokio::task::yield_now().await;
                }
            }
        }
        Err(KernelError::UnstableDump { table, tries: DUMP_TRIES })
    }

    fn receive(&self, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        loop {
            match self.socket.recv(into, nix::libc::MSG_DONTWAIT) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map(drop),
            }
        }
    }
}

/// The messages of a datagram: each as a whole, and what is behind its header.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (NetlinkBuffer<&[u8]>, &[u8])> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(datagram).ok()?.length() as usize;
        let (message, next) = datagram.split_at_checked(length)?;
        datagram = next.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some((NetlinkBuffer::new(message), message.get(HEADER..)?))
    })
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
