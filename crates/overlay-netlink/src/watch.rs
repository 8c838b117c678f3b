//! The watch: notifications of the kernel, turned into changes of objects.
//!
//! It holds a mirror of all links (an entry says an index, an object says a
//! name), and nothing of the entries: what a notification says is passed on.
//!
//! 1. **Same words as a dump.** Both go through [`crate::read`].
//! 2. **A link is told whole.** Some changes come as fragments (`AF_BRIDGE`
//!    messages about ports) or not at all (see [`Touched`]): then the link is
//!    read again.
//! 3. **Lost notifications are made good** by a snapshot.
//!
//! What it cannot know: an alias that another hand changes on a link that is
//! down. The kernel says nothing; the next dump does.
//!
//! Notifications are queued on the socket before the kernel acknowledges the
//! request that caused them. So when [`Command::Settle`] has read the socket
//! until it is empty, it has seen all that was acknowledged before.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use overlay_model::{IfName, KernelChange, Link, Object, ObjectKey};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::error::KernelError;
use crate::firewall;
use crate::kernel::{Indices, lock};
use crate::read::{self, LinkRow, Links};
use crate::wire::{Conn, widen};

/// Receive buffer; the kernel doubles it. About 40,000 notifications.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Notifications that are read before others may run.
const TURN: usize = 1024;

/// How long a failed reading of the kernel waits for its repetition.
const RETRY: Duration = Duration::from_secs(1);

/// What the watch is asked for.
pub(crate) enum Command {
    /// Tell of everything that has happened so far, then say so.
    Settle(Touched, oneshot::Sender<()>),
}

/// What was changed in ways of which the kernel does not tell, or not at once.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Links: an alias set on a link that is down.
    pub(crate) links: BTreeSet<IfName>,
    /// Addresses: one of IPv6 without duplicate detection is told by a work
    /// queue, some time after it was acknowledged.
    pub(crate) addresses: BTreeSet<ObjectKey>,
    /// The nftables table is not watched at all.
    pub(crate) firewall: bool,
}

struct Watch {
    socket: Arc<AsyncFd<Socket>>,
    buffer: Vec<u8>,
    conn: Conn,
    out: mpsc::UnboundedSender<KernelChange>,
    indices: Indices,
    links: Links,
    /// What was told last of each link of ours.
    told: HashMap<u32, (IfName, Link)>,
    /// Links to be read again.
    dirty: BTreeSet<u32>,
    /// Notifications were lost, or one says that entries went unseen.
    resync: bool,
}

/// Subscribes, reads the links, and starts the watch.
pub(crate) async fn start(
    mut conn: Conn,
    indices: Indices,
) -> Result<(mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<KernelChange>), KernelError> {
    let socket = subscribe(&GROUPS).map_err(KernelError::Open)?;
    widen(socket.get_ref(), RECEIVE_BUFFER);
    let links = read::links(&mut conn).await?;
    let (out, changes) = mpsc::unbounded_channel();
    let (commands, inbox) = mpsc::unbounded_channel();
    let mut watch = Watch {
        socket: Arc::new(socket),
        buffer: Vec::with_capacity(1 << 16),
        conn,
        out,
        indices,
        links: Links::new(),
        told: HashMap::new(),
        dirty: BTreeSet::new(),
        resync: false,
    };
    watch.adopt(links);
    tokio::spawn(watch.run(inbox));
    Ok((commands, changes))
}

const GROUPS: [u32; 4] =
    [libc::RTNLGRP_LINK, libc::RTNLGRP_NEIGH, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];

/// A socket that is told what happens in these groups.
pub(crate) fn subscribe(groups: &[u32]) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    // SAFETY: `socket` owns its descriptor and closes it only when dropped;
    // the AsyncFd owns it from here on, and nobody takes it out or changes it.
    #[allow(unsafe_code)]
    let socket = unsafe { AsyncFd::register(socket) }?;
    Ok(socket)
}

impl Watch {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let socket = Arc::clone(&self.socket);
        loop {
            if self.resync {
                self.snapshot().await;
                if self.resync {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Settle(touched, done)) => {
                        self.settle(touched).await;
                        // Whoever asked may have been cancelled.
                        let _ = done.send(());
                    }
                    None => return,
                },
                ready = socket.readable() => match ready {
                    Ok(mut guard) => {
                        if self.read(TURN) {
                            guard.clear_ready();
                        }
                        self.reread().await;
                    }
                    Err(err) => {
                        tracing::error!(%err, "cannot wait for the kernel; the watch ends");
                        return;
                    }
                },
            }
        }
    }

    async fn settle(&mut self, touched: Touched) {
        while !self.read(usize::MAX) {}
        for name in touched.links {
            match read::link_by_name(&mut self.conn, &name).await {
                Ok(Some(row)) => self.see(row),
                // It is gone, or going: its RTM_DELLINK says so.
                Ok(None) => {}
                Err(err) => self.lost(&format!("cannot read link {name}: {err}")),
            }
        }
        self.reread().await;
        if !touched.addresses.is_empty() && !self.resync {
            match read::addresses(&mut self.conn).await {
                Ok(all) => {
                    let there: BTreeSet<ObjectKey> =
                        all.iter().filter_map(|m| read::address(m, &self.links)).collect();
                    for key in touched.addresses {
                        let object = there.contains(&key).then_some(Object::Address);
                        self.tell(key, object);
                    }
                }
                Err(err) => self.lost(&err.to_string()),
            }
        }
        if touched.firewall && !self.resync {
            self.tell(ObjectKey::Firewall, firewall::read().await);
        }
        if self.resync {
            self.snapshot().await;
        }
    }

    /// Reads up to `most` notifications; true if none is left.
    fn read(&mut self, most: usize) -> bool {
        let mut count = 0;
        while count < most {
            match self.receive() {
                Ok(()) => count += 1,
                Err(err) => match err.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return true,
                    Some(Errno::EINTR) => {}
                    Some(Errno::ENOBUFS) => self.lost("the kernel dropped notifications"),
                    _ => {
                        self.lost(&format!("cannot read notifications: {err}"));
                        return true;
                    }
                },
            }
        }
        false
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.socket.get_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT)?;
        // Taken out so that handling may borrow the rest of us.
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        while let Ok(header) = NetlinkBuffer::new_checked(rest) {
            let length = header.length() as usize;
            let (message, next) = rest.split_at(length.min(rest.len()));
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                Ok(message) => self.notice(message.payload),
                // A dump passes over what cannot be read as well.
                Err(err) => tracing::debug!(%err, "notification that cannot be read"),
            }
            rest = next.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        }
        self.buffer = buffer;
        Ok(())
    }

    fn notice(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        // Until the snapshot has been taken, anything is old news.
        if self.resync {
            return;
        }
        let NetlinkPayload::InnerMessage(message) = payload else { return };
        match message {
            RouteNetlinkMessage::NewLink(message) => self.link_changed(&message),
            RouteNetlinkMessage::DelLink(message) => self.link_gone(&message),
            RouteNetlinkMessage::NewNeighbour(message) => {
                if let Some((key, object)) = read::neighbour(&message, &self.links) {
                    self.tell(key, object);
                }
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some((key, _)) = read::neighbour(&message, &self.links) {
                    self.tell(key, None);
                }
            }
            RouteNetlinkMessage::NewAddress(message) => {
                if let Some(key) = read::address(&message, &self.links) {
                    self.tell(key, Some(Object::Address));
                }
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(key) = read::address(&message, &self.links) {
                    self.tell(key, None);
                }
            }
            _ => {}
        }
    }

    fn link_changed(&mut self, message: &LinkMessage) {
        match message.header.interface_family {
            AddressFamily::Unspec => {
                if let Some(row) = LinkRow::parse(message) {
                    self.see(row);
                }
            }
            // About a port's flags, and no more than those.
            AddressFamily::Bridge => self.look_again(message.header.index),
            _ => {}
        }
    }

    fn link_gone(&mut self, message: &LinkMessage) {
        let index = message.header.index;
        match message.header.interface_family {
            AddressFamily::Unspec => {
                self.links.remove(&index);
                self.dirty.remove(&index);
                self.untell(index);
            }
            // It left its bridge, and is still there.
            AddressFamily::Bridge => self.look_again(index),
            _ => {}
        }
    }

    fn look_again(&mut self, index: u32) {
        if self.links.get(&index).is_some_and(LinkRow::looks_like_ours) {
            self.dirty.insert(index);
        }
    }

    async fn reread(&mut self) {
        while let Some(index) = self.dirty.pop_first() {
            match read::link_by_index(&mut self.conn, index).await {
                Ok(Some(row)) => self.see(row),
                Ok(None) => {}
                Err(err) => self.lost(&format!("cannot read link {index}: {err}")),
            }
        }
    }

    /// Takes note of how a link is now.
    fn see(&mut self, row: LinkRow) {
        let index = row.index;
        let before = self.links.insert(index, row.clone());
        match row.to_link(&self.links) {
            Some((name, link)) => {
                if let Some((told_name, told_link)) = self.told.get(&index) {
                    if *told_name == name && *told_link == link {
                        return;
                    }
                    if *told_name != name {
                        // Its entries now stand under another name.
                        self.resync = true;
                    }
                } else if before.is_some_and(|before| before.up) {
                    // It was a stranger, and may have gathered entries that we
                    // did not tell. (One that we make is marked before it is up.)
                    self.resync = true;
                }
                lock(&self.indices).insert(name.clone(), index);
                self.told.insert(index, (name.clone(), link.clone()));
                self.tell(ObjectKey::Link(name), Some(Object::Link(link)));
            }
            None if self.told.contains_key(&index) => {
                // It is there, and not ours any more: neither is what other
                // links of ours have that leads to it.
                self.untell(index);
                self.resync = true;
            }
            None => {}
        }
    }

    /// A link is not there any more, or not ours any more.
    fn untell(&mut self, index: u32) {
        let Some((name, _)) = self.told.remove(&index) else { return };
        {
            let mut indices = lock(&self.indices);
            // The name may have gone to a newer link already.
            if indices.get(&name) == Some(&index) {
                indices.remove(&name);
            }
        }
        self.tell(ObjectKey::Link(name), None);
    }

    fn tell(&self, key: ObjectKey, object: Option<Object>) {
        // Whoever asked may have lost interest; the mirror of links stays of use.
        let _ = self.out.send(KernelChange::Object(key, object));
    }

    fn lost(&mut self, why: &str) {
        if !self.resync {
            tracing::warn!(why, "reading everything from the kernel again");
        }
        self.resync = true;
    }

    /// Reads everything and tells it. What is queued on the socket is older
    /// and is passed over first; what comes during the dump is handled after
    /// it, and ends in the same state, because it is told in order.
    async fn snapshot(&mut self) {
        self.resync = true;
        while !self.read(usize::MAX) {}
        match read::state(&mut self.conn).await {
            Ok((state, links)) => {
                self.resync = false;
                self.adopt(links);
                let _ = self.out.send(KernelChange::Snapshot(Box::new(state)));
            }
            Err(err) => tracing::error!(%err, "cannot read the kernel"),
        }
    }

    /// Begins anew with these links.
    fn adopt(&mut self, links: Links) {
        self.told =
            links.iter().filter_map(|(index, row)| Some((*index, row.to_link(&links)?))).collect();
        *lock(&self.indices) =
            self.told.iter().map(|(index, (name, _))| (name.clone(), *index)).collect();
        self.links = links;
        self.dirty.clear();
    }
}
