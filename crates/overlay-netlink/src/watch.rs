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
//! 4. **Whose hand it was is told**, where the kernel notes it; see
//!    [`crate::hand`]. What our own sockets did is told without a hand.
//!
//! What it cannot know: an alias that another hand changes on a link that is
//! down. The kernel says nothing; the next dump does.
//!
//! Notifications are queued on the socket before the kernel acknowledges the
//! request that caused them. So when [`Command::Settle`] has read the socket
//! until it is empty, it has seen all that was acknowledged before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use overlay_model::{Hand, IfName, KernelChange, Object, ObjectKey};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::error::KernelError;
use crate::firewall::{self, Guards};
use crate::hand::Hands;
use crate::kernel::{FIRST_INDEX, Indices, lock};
use crate::nat;
use crate::nft::Nft;
use crate::read::{self, Entry, LinkRow, Links};
use crate::tables::{self, Told};
use crate::wire::{self, Conn, Entries, widen};

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
    /// Links: an alias or another name set on a link that is down.
    pub(crate) links: BTreeSet<IfName>,
    /// Addresses: one of IPv6 without duplicate detection is told by a work
    /// queue, some time after it was acknowledged.
    pub(crate) addresses: BTreeSet<ObjectKey>,
    /// The nftables table: read once when all is done, not at each of its
    /// notifications.
    pub(crate) firewall: bool,
}

/// What the watch must know of our own `nft`.
#[derive(Debug)]
pub(crate) struct OwnNft {
    /// It runs: the watch reads the table when it is told that all is done.
    pub(crate) busy: AtomicBool,
    /// Its process id, or that of the last one: what it does is our doing.
    pub(crate) pid: AtomicU32,
    /// The number of the socket by which we write without it.
    port: u32,
    /// What ports may say, as the kernel has told.
    pub(crate) guards: Mutex<Guards>,
}

impl OwnNft {
    /// Of the socket of this number.
    pub(crate) fn of(port: u32) -> Self {
        Self {
            busy: AtomicBool::new(false),
            pid: AtomicU32::new(0),
            port,
            guards: Mutex::default(),
        }
    }
}

struct Watch {
    socket: Arc<AsyncFd<Socket>>,
    /// Of nftables; `None` where the kernel has none to tell of.
    nft: Option<Arc<AsyncFd<Socket>>>,
    own_nft: Arc<OwnNft>,
    /// A table of ours was touched, and not read since.
    firewall_touched: bool,
    /// Who touched it last.
    firewall_hand: Option<Box<Hand>>,
    /// To read them.
    tables: Nft,
    /// What was told last of each port's elements.
    told_guards: BTreeMap<IfName, Object>,
    /// Ports of which elements came or went, and have not been told.
    guards_touched: BTreeSet<IfName>,
    /// Somebody has touched something of ours, and not said who he is.
    unsigned: bool,
    hands: Hands,
    buffer: Vec<u8>,
    conn: Conn,
    table: Entries,
    out: mpsc::UnboundedSender<KernelChange>,
    indices: Indices,
    links: Links,
    /// What was told last of each link and port of ours.
    told: HashMap<u32, (ObjectKey, Object)>,
    /// Links to be read again, and who made that necessary.
    dirty: BTreeMap<u32, Option<Box<Hand>>>,
    /// Notifications were lost, or one says that entries went unseen.
    resync: bool,
}

/// Subscribes, reads the links, and starts the watch.
///
/// `own` are the ports of the sockets that write for us.
pub(crate) async fn start(
    (mut conn, table): (Conn, Entries),
    indices: Indices,
    own_nft: Arc<OwnNft>,
    own: Vec<u32>,
) -> Result<(mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<KernelChange>), KernelError> {
    let socket = subscribe(NETLINK_ROUTE, &GROUPS).map_err(KernelError::Open)?;
    widen(socket.get_ref(), RECEIVE_BUFFER);
    let nft = match subscribe(NETLINK_NETFILTER, &[tables::GROUP]) {
        Ok(socket) => {
            widen(socket.get_ref(), RECEIVE_BUFFER);
            Some(Arc::new(socket))
        }
        Err(err) => {
            tracing::warn!(%err, "nftables is not watched: its table is checked once a minute");
            None
        }
    };
    let links = read::links(&mut conn).await?;
    let (out, changes) = mpsc::unbounded_channel();
    let (commands, inbox) = mpsc::unbounded_channel();
    let mut watch = Watch {
        socket: Arc::new(socket),
        nft,
        own_nft,
        firewall_touched: false,
        firewall_hand: None,
        tables: Nft::open(),
        told_guards: BTreeMap::new(),
        guards_touched: BTreeSet::new(),
        unsigned: false,
        hands: Hands::new(own),
        buffer: Vec::with_capacity(1 << 16),
        conn,
        table,
        out,
        indices,
        links: Links::new(),
        told: HashMap::new(),
        dirty: BTreeMap::new(),
        resync: false,
    };
    watch.adopt(links);
    watch.adopt_guards();
    tokio::spawn(watch.run(inbox));
    Ok((commands, changes))
}

const GROUPS: [u32; 4] =
    [libc::RTNLGRP_LINK, libc::RTNLGRP_NEIGH, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];

/// A socket that is told what happens in these groups.
pub(crate) fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
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
        let nft = self.nft.clone();
        let nft_ready = async || match &nft {
            Some(nft) => nft.readable().await,
            None => std::future::pending().await,
        };
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
                ready = nft_ready() => match ready {
                    Ok(mut guard) => {
                        self.read_nft();
                        guard.clear_ready();
                        // What our own nft does is read when it is done.
                        if !self.own_nft.busy.load(Ordering::Acquire) {
                            self.tell_nft();
                        }
                    }
                    Err(err) => {
                        tracing::error!(%err, "cannot wait for nftables; its watch ends");
                        return;
                    }
                },
            }
            self.hands.forget();
        }
    }

    /// Reads all notifications of nftables.
    fn read_nft(&mut self) {
        let Some(nft) = self.nft.clone() else { return };
        let own_nft = Arc::clone(&self.own_nft);
        let own = |hand: &Hand| {
            hand.port == Some(own_nft.port) || hand.pid == Some(own_nft.pid.load(Ordering::Acquire))
        };
        loop {
            self.buffer.clear();
            match nft.get_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {
                    for told in tables::read(&self.buffer) {
                        match told {
                            // What we write without nft is elements of ports,
                            // and the mark by which a table is known for ours.
                            Told::Ours { port } if port == own_nft.port => {}
                            Told::Ours { .. } => {
                                self.firewall_touched = true;
                                self.unsigned = true;
                            }
                            Told::Elements { set, keys, there } => {
                                let mut guards = guards_in(&own_nft);
                                for key in keys {
                                    let name = guards.note(&set, key, there);
                                    self.guards_touched.extend(name);
                                }
                                self.unsigned = true;
                            }
                            Told::Generation(hand) => {
                                if std::mem::take(&mut self.unsigned) && !own(&hand) {
                                    let hand = Hand { port: None, ..hand };
                                    self.firewall_hand = Some(Box::new(hand));
                                }
                            }
                            Told::Other => {}
                        }
                    }
                }
                Err(err) => match err.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return,
                    Some(Errno::EINTR) => {}
                    // Whatever was lost may have been about our table.
                    Some(Errno::ENOBUFS) => self.firewall_touched = true,
                    _ => {
                        tracing::warn!(%err, "cannot read notifications of nftables");
                        self.firewall_touched = true;
                        return;
                    }
                },
            }
        }
    }

    /// Reads our tables, if they were touched, and tells how they are, and of
    /// ports' elements that came or went.
    fn tell_nft(&mut self) {
        let hand = self.firewall_hand.take();
        if std::mem::take(&mut self.firewall_touched) {
            let inet = firewall::read(&mut self.tables);
            self.tell(ObjectKey::Firewall, inet, hand.clone());
            let nat = nat::read(&mut self.tables);
            self.tell(ObjectKey::Nat, nat, hand.clone());
            // Elements go with their table without a word of their own.
            let rules = firewall::read_port_rules(&mut self.tables);
            self.tell(ObjectKey::PortRules, rules, hand.clone());
            match firewall::read_guards(&mut self.tables) {
                Ok(guards) => *guards_in(&self.own_nft) = guards,
                Err(err) => tracing::warn!(%err, "cannot read nftables elements of ports"),
            }
            self.guards_touched.extend(self.told_guards.keys().cloned());
            self.guards_touched.extend(guards_in(&self.own_nft).names().cloned());
        }
        for name in std::mem::take(&mut self.guards_touched) {
            let object = guards_in(&self.own_nft).object(&name);
            if object.as_ref() == self.told_guards.get(&name) {
                continue;
            }
            match &object {
                Some(object) => self.told_guards.insert(name.clone(), object.clone()),
                None => self.told_guards.remove(&name),
            };
            self.tell(ObjectKey::Guard(name), object, hand.clone());
        }
    }

    /// Begins anew with what ports may say.
    fn adopt_guards(&mut self) {
        let guards = firewall::read_guards(&mut self.tables).unwrap_or_default();
        let objects = guards.names().filter_map(|n| Some((n.clone(), guards.object(n)?)));
        self.told_guards = objects.collect();
        *guards_in(&self.own_nft) = guards;
        self.guards_touched.clear();
    }

    async fn settle(&mut self, touched: Touched) {
        while !self.read(usize::MAX) {}
        for name in touched.links {
            match read::link_by_name(&mut self.conn, &name).await {
                Ok(Some(row)) => self.see(row, None),
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
                        self.tell(key, object, None);
                    }
                }
                Err(err) => self.lost(&err.to_string()),
            }
        }
        self.read_nft();
        if touched.firewall {
            self.own_nft.busy.store(false, Ordering::Release);
            self.firewall_touched = true;
        }
        if !self.resync && !self.own_nft.busy.load(Ordering::Acquire) {
            self.tell_nft();
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
        for (header, body) in wire::messages(&buffer) {
            let kind = header.message_type();
            if [libc::RTM_NEWNEIGH, libc::RTM_DELNEIGH].contains(&kind) {
                let there = kind == libc::RTM_NEWNEIGH;
                self.entry_changed(body, there, header.port_number());
                continue;
            }
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(header.into_inner()) {
                Ok(message) => self.notice(message.header.port_number, message.payload),
                // A dump passes over what cannot be read as well.
                Err(err) => tracing::debug!(%err, "notification that cannot be read"),
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    fn notice(&mut self, port: u32, payload: NetlinkPayload<RouteNetlinkMessage>) {
        // Until the snapshot has been taken, anything is old news.
        if self.resync {
            return;
        }
        let NetlinkPayload::InnerMessage(message) = payload else { return };
        match message {
            RouteNetlinkMessage::NewLink(message) => self.link_changed(&message, port),
            RouteNetlinkMessage::DelLink(message) => self.link_gone(&message, port),
            RouteNetlinkMessage::NewAddress(message) => {
                if let Some(key) = read::address(&message, &self.links) {
                    let hand = self.hands.of_port(port);
                    self.tell(key, Some(Object::Address), hand);
                }
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(key) = read::address(&message, &self.links) {
                    let hand = self.hands.of_port(port);
                    self.tell(key, None, hand);
                }
            }
            _ => {}
        }
    }

    fn entry_changed(&mut self, body: &[u8], there: bool, port: u32) {
        if self.resync {
            return;
        }
        let entry = Entry::parse(body).and_then(|entry| read::neighbour(&entry, &self.links));
        if let Some((key, object)) = entry {
            let hand = self.hands.of_port(port);
            self.tell(key, object.filter(|_| there), hand);
        }
    }

    fn link_changed(&mut self, message: &LinkMessage, port: u32) {
        match message.header.interface_family {
            AddressFamily::Unspec => {
                if let Some(row) = read::judged(&self.conn, message) {
                    let hand = self.hand_on(message.header.index, port);
                    self.see(row, hand);
                }
            }
            // About a port's flags, and no more than those.
            AddressFamily::Bridge => self.look_again(message.header.index, port),
            _ => {}
        }
    }

    fn link_gone(&mut self, message: &LinkMessage, port: u32) {
        let index = message.header.index;
        match message.header.interface_family {
            AddressFamily::Unspec => {
                let hand = self.hand_on(index, port);
                let row = self.links.remove(&index);
                self.dirty.remove(&index);
                if self.told.contains_key(&index) {
                    self.untell(index, hand);
                } else if let Some(name) = row.filter(LinkRow::looks_like_ours)
                    && let Some(name) = name.ifname()
                {
                    // A stranger's that stood in the way of one of ours.
                    self.tell(ObjectKey::Link(name), None, hand);
                }
            }
            // It left its bridge, and is still there.
            AddressFamily::Bridge => self.look_again(index, port),
            _ => {}
        }
    }

    /// Whose hand changed that link, if it is one that we tell of.
    fn hand_on(&mut self, index: u32, port: u32) -> Option<Box<Hand>> {
        self.told.contains_key(&index).then(|| self.hands.of_port(port)).flatten()
    }

    fn look_again(&mut self, index: u32, port: u32) {
        let concerns = |row: &LinkRow| row.looks_like_ours() || row.mark.is_some();
        if self.links.get(&index).is_some_and(concerns) {
            let hand = self.hand_on(index, port);
            let noted = self.dirty.entry(index).or_default();
            *noted = hand.or(noted.take());
        }
    }

    async fn reread(&mut self) {
        while let Some((index, hand)) = self.dirty.pop_first() {
            match read::link_by_index(&mut self.conn, index).await {
                Ok(Some(row)) => self.see(row, hand),
                Ok(None) => {}
                Err(err) => self.lost(&format!("cannot read link {index}: {err}")),
            }
        }
    }

    /// Takes note of how a link is now.
    fn see(&mut self, row: LinkRow, hand: Option<Box<Hand>>) {
        let index = row.index;
        let before = self.links.insert(index, row.clone());
        match row.to_object(&self.links) {
            Some((key, object)) => {
                let link = matches!(key, ObjectKey::Link(_));
                if let Some((told_key, told)) = self.told.get(&index) {
                    if *told_key == key && *told == object {
                        return;
                    }
                    if *told_key != key {
                        // Its entries now stand under another name.
                        self.resync = true;
                    }
                } else if link && before.is_some_and(|row| row.up || index < FIRST_INDEX) {
                    // It was a stranger, and may have gathered entries that we
                    // did not tell. (One that we make has a higher index, and is
                    // marked before it is up.)
                    self.resync = true;
                }
                if let Some(name) = name_of(&key) {
                    lock(&self.indices).insert(name.clone(), index);
                }
                self.told.insert(index, (key.clone(), object.clone()));
                self.tell(key, Some(object), hand);
            }
            None if self.told.contains_key(&index) => {
                // It is there, and not ours any more: neither is what other
                // links of ours have that leads to it. A port that is released
                // has lost its entries, of which the kernel tells.
                let link = matches!(self.told.get(&index), Some((ObjectKey::Link(_), _)));
                self.untell(index, hand);
                self.resync |= link;
            }
            None => {}
        }
    }

    /// A link is not there any more, or not ours any more.
    fn untell(&mut self, index: u32, hand: Option<Box<Hand>>) {
        let Some((key, _)) = self.told.remove(&index) else { return };
        if let Some(name) = name_of(&key) {
            let mut indices = lock(&self.indices);
            // The name may have gone to a newer link already.
            if indices.get(name) == Some(&index) {
                indices.remove(name);
            }
        }
        self.tell(key, None, hand);
    }

    fn tell(&self, key: ObjectKey, object: Option<Object>, hand: Option<Box<Hand>>) {
        // Whoever asked may have lost interest; the mirror of links stays of use.
        let _ = self.out.send(KernelChange::Object(key, object, hand));
    }

    fn lost(&mut self, why: &str) {
        if !self.resync {
            tracing::warn!(why, "reading everything from the kernel again");
            let _ = self.out.send(KernelChange::Overrun);
        }
        self.resync = true;
    }

    /// Reads everything and tells it. What is queued on the socket is older
    /// and is passed over first; what comes during the dump is handled after
    /// it, and ends in the same state, because it is told in order.
    async fn snapshot(&mut self) {
        self.resync = true;
        while !self.read(usize::MAX) {}
        match read::state(&mut self.conn, &mut self.table, &mut self.tables).await {
            Ok((state, links)) => {
                self.resync = false;
                self.adopt(links);
                self.adopt_guards();
                let _ = self.out.send(KernelChange::Snapshot(Box::new(state)));
            }
            Err(err) => tracing::error!(%err, "cannot read the kernel"),
        }
    }

    /// Begins anew with these links.
    fn adopt(&mut self, links: Links) {
        self.told = links
            .iter()
            .filter_map(|(index, row)| Some((*index, row.to_object(&links)?)))
            .collect();
        *lock(&self.indices) = self
            .told
            .iter()
            .filter_map(|(index, (key, _))| Some((name_of(key)?.clone(), *index)))
            .collect();
        self.links = links;
        self.dirty.clear();
    }
}

fn guards_in(own: &OwnNft) -> MutexGuard<'_, Guards> {
    // A map of elements is whole whatever its holder died of.
    own.guards.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The link that a key names itself.
fn name_of(key: &ObjectKey) -> Option<&IfName> {
    match key {
        ObjectKey::Link(name) | ObjectKey::Port(name) => Some(name),
        _ => None,
    }
}
