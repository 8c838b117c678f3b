//! Nftables over netlink, without the `nft` program: elements of sets that come
//! and go with every attach, and reading.
//!
//! Tables, chains and rules are written by `nft` ([`crate::firewall`]), which
//! takes 6 ms to start: too long for what every attach waits for, and for what
//! is read once a minute. Elements are a few attributes, and their notifications
//! are read with the same words, so this module knows just these.
//!
//! All of it is done in the system calls themselves: the kernel has answered
//! when `send` returns, so nothing here waits.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use overlay_model::Fnv;

use crate::error::NlError;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const NFGENMSG: usize = 4;

const F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const F_ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const F_DUMP: u16 = libc::NLM_F_DUMP as u16;
const F_CREATE: u16 = libc::NLM_F_CREATE as u16;
const NESTED: u16 = 0x8000;

/// `linux/netfilter/nfnetlink.h`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Of the beginning of a batch: the generation of rules that it is meant for.
const BATCH_GENERATION: u16 = 1;
const SUBSYS: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;

/// `linux/netfilter/nf_tables.h`: messages.
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
pub(crate) const GET_CHAIN: u16 = 4;
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const GET_SET: u16 = 10;
pub(crate) const NEW_ELEMENT: u16 = 12;
pub(crate) const GET_ELEMENT: u16 = 13;
pub(crate) const DEL_ELEMENT: u16 = 14;
const GET_GENERATION: u16 = 16;
pub(crate) const GET_OBJECT: u16 = 19;
/// Of a message about elements, and of one of them: the list, and what it counts with.
const LIST_ELEMENTS: u16 = 3;
const EXPRESSION: u16 = 7;
/// Attributes of chains, rules and sets that say what they do; others say where
/// they are kept, how many there are, and what was counted.
const OF_CHAIN: &[u16] = &[3, 4, 5, 7, 10];
const OF_RULE: &[u16] = &[2, 4];
const OF_SET: &[u16] = &[2, 3, 4, 5, 6, 7, 11, 15];

/// Which table: its family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: i32,
    pub(crate) name: &'static str,
}

/// What a packet of IPv4 has: its protocol, where it goes to, and at which port.
pub(crate) type Destination = (u8, Ipv4Addr, u16);

/// An element of a set: its key in the kernel's bytes.
pub(crate) type Key = Vec<u8>;

/// An element that comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) add: bool,
    pub(crate) set: String,
    pub(crate) key: Key,
    /// What a map leads the key to; nothing in a set.
    pub(crate) data: Option<Vec<u8>>,
}

/// Packets and bytes.
pub(crate) type Count = (u64, u64);

/// A socket of nftables, in the network namespace in which it was opened.
pub(crate) struct Nft {
    /// `None` where the kernel has no nftables.
    socket: Option<Socket>,
    sequence: u32,
    port: u32,
    buffer: Vec<u8>,
}

impl Nft {
    pub(crate) fn open() -> Self {
        let (socket, port) = match Self::socket() {
            Ok((socket, port)) => (Some(socket), port),
            Err(err) => {
                tracing::warn!(%err, "cannot talk to nftables");
                (None, 0)
            }
        };
        Self { socket, sequence: 0, port, buffer: Vec::new() }
    }

    fn socket() -> io::Result<(Socket, u32)> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        // Answers are there when a request returns: see the header.
        socket.set_non_blocking(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        crate::wire::widen(&socket, 4 << 20);
        // A transaction is one datagram: of a thousand ports half a megabyte.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &(64 << 20));
        Ok((socket, port))
    }

    /// Closes it without waiting: the kernel lets the grace period of RCU after the last
    /// transaction pass before it returns from that, some 10 ms (`nft_rcv_nl_event`).
    pub(crate) fn put_away(self) {
        // Where there is no thread to be had it is closed here.
        let _ = std::thread::Builder::new().name("overlay-close".into()).spawn(move || drop(self));
    }

    /// The number that the kernel knows this socket by.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Adds and deletes elements in one transaction: all, or none.
    ///
    /// One that is there is added without error; deleting one that is not there
    /// is `ENOENT`, and nothing has changed.
    pub(crate) fn elements(
        &mut self,
        table: Table,
        changes: &[(bool, &str, Key)],
    ) -> Result<(), NlError> {
        let changes = changes.iter().map(|(add, set, key)| {
            let (set, key) = ((*set).to_owned(), key.clone());
            Change { add: *add, set, key, data: None }
        });
        self.change(table, &changes.collect::<Vec<_>>(), None)
    }

    /// The same, of maps too. With the number of a `generation`, only while the kernel's
    /// rules are still of it: `ERESTART` otherwise.
    pub(crate) fn change(
        &mut self,
        table: Table,
        changes: &[Change],
        generation: Option<u32>,
    ) -> Result<(), NlError> {
        if changes.is_empty() {
            return Ok(());
        }
        while self.receive().is_ok() {}
        let mut batch = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let end = |batch: &mut Vec<u8>, kind: u16, sequence: u32| {
            let at = begin(batch, kind, F_REQUEST, sequence, libc::AF_UNSPEC, SUBSYS);
            if let Some(generation) = generation.filter(|_| kind == BATCH_BEGIN) {
                attribute(batch, BATCH_GENERATION, &generation.to_be_bytes());
            }
            finish(batch, at);
        };
        end(&mut batch, BATCH_BEGIN, first);
        let mut sequence = first;
        // As many of one set as fit an attribute go into one message.
        let mut rest = changes;
        while let Some(Change { add, set, .. }) = rest.first() {
            let same = rest.iter().take(512).take_while(|c| c.add == *add && c.set == *set).count();
            let (now, later) = rest.split_at(same);
            rest = later;
            sequence = sequence.wrapping_add(1);
            let (kind, create) = if *add { (NEW_ELEMENT, F_CREATE) } else { (DEL_ELEMENT, 0) };
            let flags = F_REQUEST | create | if rest.is_empty() { F_ACK } else { 0 };
            let at = begin(&mut batch, SUBSYS << 8 | kind, flags, sequence, table.family, 0);
            text(&mut batch, 1, table.name);
            text(&mut batch, 2, set);
            nest(&mut batch, 3, |batch| {
                for Change { key, data, .. } in now {
                    nest(batch, 1, |batch| {
                        nest(batch, 1, |batch| attribute(batch, 1, key));
                        if let Some(data) = data {
                            nest(batch, 2, |batch| attribute(batch, 1, data));
                        }
                    });
                }
            });
            finish(&mut batch, at);
        }
        sequence = sequence.wrapping_add(1);
        end(&mut batch, BATCH_END, sequence);
        self.sequence = sequence;
        self.commit(&batch)
    }

    /// The number of the kernel's rules, which grows with each change of any table.
    pub(crate) fn generation(&mut self) -> Result<Option<u32>, NlError> {
        let mut number = None;
        self.ask(SUBSYS << 8 | GET_GENERATION, F_ACK, libc::AF_UNSPEC, &[], |message| {
            let id = attributes(body(message)).find(|(kind, _)| *kind == 1);
            number = id.and_then(|(_, id)| Some(u32::from_be_bytes(id.try_into().ok()?)));
        })?;
        Ok(number)
    }

    /// Replaces a table by one that leads what this host sends elsewhere, all at once.
    pub(crate) fn put_redirections(
        &mut self,
        table: Table,
        chain: &str,
        rules: &[(Destination, (Ipv4Addr, u16))],
    ) -> Result<(), NlError> {
        let named = |out: &mut Vec<u8>| text(out, 1, table.name);
        self.transact(table, |messages| {
            // Deleting what is not there is an error, and what is there is not what we want.
            messages.add(NEW_TABLE, F_CREATE, named);
            messages.add(DEL_TABLE, 0, named);
            messages.add(NEW_TABLE, F_CREATE, named);
            messages.add(NEW_CHAIN, F_CREATE, |out| {
                named(out);
                text(out, 3, chain);
                nest(out, 4, |hook| {
                    attribute(hook, 1, &(libc::NF_INET_LOCAL_OUT as u32).to_be_bytes());
                    attribute(hook, 2, &libc::NF_IP_PRI_NAT_DST.to_be_bytes());
                });
                text(out, 7, "nat");
            });
            for (from, to) in rules {
                messages.add(NEW_RULE, F_CREATE | libc::NLM_F_APPEND as u16, |out| {
                    named(out);
                    text(out, 2, chain);
                    nest(out, 4, |list| redirection(list, *from, *to));
                });
            }
        })
    }

    /// Deletes a table; `ENOENT` if there is none.
    pub(crate) fn delete_table(&mut self, table: Table) -> Result<(), NlError> {
        self.transact(table, |messages| {
            messages.add(DEL_TABLE, 0, |out| text(out, 1, table.name));
        })
    }

    /// Sends messages that take effect together, or not at all.
    fn transact(&mut self, table: Table, fill: impl FnOnce(&mut Messages)) -> Result<(), NlError> {
        while self.receive().is_ok() {}
        let mut messages = Messages { batch: Vec::new(), last: 0, sequence: self.sequence, table };
        messages.bound(BATCH_BEGIN);
        fill(&mut messages);
        messages.acknowledge_last();
        messages.bound(BATCH_END);
        self.sequence = messages.sequence;
        self.commit(&messages.batch)
    }

    /// Sends a transaction, and says what came of it.
    fn commit(&mut self, batch: &[u8]) -> Result<(), NlError> {
        self.send(batch)?;
        // Refusals of any message come before the acknowledgement of the last.
        let mut outcome = Err(NlError::Closed);
        while let Ok(()) = self.receive() {
            for message in messages(&self.buffer) {
                if let Some(code) = error_code(message) {
                    let refused =
                        |code: i32| NlError::Refused { errno: Errno::from_raw(-code), text: None };
                    match (&outcome, code) {
                        (Err(NlError::Closed), 0) => outcome = Ok(()),
                        (Err(NlError::Closed) | Ok(()), code) if code != 0 => {
                            outcome = Err(refused(code));
                        }
                        _ => {}
                    }
                }
            }
        }
        outcome
    }

    /// The elements of a set, with what each has counted; `None` if there is
    /// no such set.
    pub(crate) fn read_set(
        &mut self,
        table: Table,
        set: &str,
    ) -> Result<Option<BTreeMap<Key, Count>>, NlError> {
        let mut found = BTreeMap::new();
        let there = self.dump(GET_ELEMENT, table, Some(set), |message| {
            for (key, count) in elements_of(message) {
                found.insert(key, count);
            }
        })?;
        Ok(there.then_some(found))
    }

    /// The counters of a table that have a name.
    pub(crate) fn counters(&mut self, table: Table) -> Result<BTreeMap<String, Count>, NlError> {
        let mut found = BTreeMap::new();
        self.dump(GET_OBJECT, table, None, |message| {
            let (mut name, mut count) = (None, None);
            let mut ours = false;
            for (kind, value) in attributes(body(message)) {
                match kind {
                    1 => ours = text_of(value) == table.name,
                    2 => name = Some(text_of(value)),
                    4 => count = Some(count_of(value)),
                    _ => {}
                }
            }
            if let (true, Some(name), Some(count)) = (ours, name, count) {
                found.insert(name, count);
            }
        })?;
        Ok(found)
    }

    /// A number that stands for everything that a table does but its named
    /// sets' elements, which come and go; `None` if there is no such table.
    pub(crate) fn fingerprint(&mut self, table: Table) -> Result<Option<u64>, NlError> {
        let mut hash = Fnv::default();
        let mut chains = 0;
        let mut anonymous = Vec::new();
        for (what, telling) in [(GET_CHAIN, OF_CHAIN), (GET_SET, OF_SET), (GET_RULE, OF_RULE)] {
            self.dump(what, table, None, |message| {
                let ours = attributes(body(message))
                    .any(|(kind, value)| kind == 1 && text_of(value) == table.name);
                if !ours || message[HEADER] != table.family as u8 {
                    return;
                }
                chains += usize::from(what == GET_CHAIN);
                hash.add(&what.to_ne_bytes());
                for (kind, value) in attributes(body(message)) {
                    if telling.contains(&kind) {
                        hash.add(&kind.to_ne_bytes());
                        hash.add(value);
                    }
                    if what == GET_SET && kind == 2 && value.starts_with(b"__") {
                        anonymous.push(text_of(value));
                    }
                }
            })?;
        }
        for set in anonymous {
            self.add_elements(&mut hash, table, &set)?;
        }
        Ok((chains > 0).then_some(hash.get()))
    }

    /// The same with the elements of these sets and maps, but for what they have
    /// counted.
    pub(crate) fn content(&mut self, table: Table, sets: &[&str]) -> Result<Option<u64>, NlError> {
        let Some(fingerprint) = self.fingerprint(table)? else { return Ok(None) };
        let mut hash = Fnv::default();
        hash.add(&fingerprint.to_ne_bytes());
        for set in sets {
            hash.add(set.as_bytes());
            self.add_elements(&mut hash, table, set)?;
        }
        Ok(Some(hash.get()))
    }

    fn add_elements(&mut self, hash: &mut Fnv, table: Table, set: &str) -> Result<(), NlError> {
        let mut rows: Vec<Vec<u8>> = Vec::new();
        self.dump(GET_ELEMENT, table, Some(set), |message| {
            let lists = attributes(body(message)).filter(|(kind, _)| *kind == LIST_ELEMENTS);
            for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
                let mut row = Vec::new();
                for (kind, value) in attributes(element).filter(|(kind, _)| *kind != EXPRESSION) {
                    row.extend(kind.to_ne_bytes());
                    row.extend(value);
                }
                rows.push(row);
            }
        })?;
        // A hash table of the kernel has no order of its own.
        rows.sort();
        rows.iter().for_each(|row| hash.add(row));
        Ok(())
    }

    /// Says every message of a dump to `each`. False if what was asked for is
    /// not there.
    fn dump(
        &mut self,
        kind: u16,
        table: Table,
        set: Option<&str>,
        each: impl FnMut(&[u8]),
    ) -> Result<bool, NlError> {
        let mut what = Vec::new();
        text(&mut what, 1, table.name);
        if let Some(set) = set {
            text(&mut what, 2, set);
        }
        self.ask(SUBSYS << 8 | kind, F_DUMP, table.family, &what, each)
    }

    /// Asks for something of netfilter, and says every message of the answer to
    /// `each`: to the end of a dump, or to the acknowledgement. False if what was
    /// asked for is not there.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        family: i32,
        attributes: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, NlError> {
        while self.receive().is_ok() {}
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::new();
        let at = begin(&mut request, kind, F_REQUEST | flags, self.sequence, family, 0);
        request.extend(attributes);
        finish(&mut request, at);
        self.send(&request)?;
        loop {
            self.receive()?;
            let buffer = std::mem::take(&mut self.buffer);
            for message in messages(&buffer) {
                match i32::from(u16::from_ne_bytes([message[4], message[5]])) {
                    libc::NLMSG_DONE => return Ok(true),
                    libc::NLMSG_ERROR => match error_code(message) {
                        Some(code) if code == -libc::ENOENT => return Ok(false),
                        Some(0) => return Ok(true),
                        Some(code) => {
                            let errno = Errno::from_raw(-code);
                            return Err(NlError::Refused { errno, text: None });
                        }
                        None => {}
                    },
                    _ => each(message),
                }
            }
            self.buffer = buffer;
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NlError> {
        let socket = self.socket.as_ref().ok_or(NlError::Closed)?;
        match socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
            Ok(_) => Ok(()),
            Err(err) => Err(failed(&err)),
        }
    }

    fn receive(&mut self) -> Result<(), NlError> {
        let socket = self.socket.as_ref().ok_or(NlError::Closed)?;
        self.buffer.clear();
        self.buffer.reserve(1 << 16);
        loop {
            match socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(failed(&err)),
            }
        }
    }
}

/// The messages of a transaction.
struct Messages {
    batch: Vec<u8>,
    /// Where the last one begins.
    last: usize,
    sequence: u32,
    table: Table,
}

impl Messages {
    fn bound(&mut self, kind: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let (batch, sequence) = (&mut self.batch, self.sequence);
        let at = begin(batch, kind, F_REQUEST, sequence, libc::AF_UNSPEC, SUBSYS);
        finish(batch, at);
    }

    fn add(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        self.sequence = self.sequence.wrapping_add(1);
        let (kind, flags) = (SUBSYS << 8 | kind, F_REQUEST | flags);
        self.last = begin(&mut self.batch, kind, flags, self.sequence, self.table.family, 0);
        fill(&mut self.batch);
        finish(&mut self.batch, self.last);
    }

    /// What is wrong with any is said of it; that nothing is, of the last.
    fn acknowledge_last(&mut self) {
        let flags = &mut self.batch[self.last + 6..self.last + 8];
        let asked = u16::from_ne_bytes([flags[0], flags[1]]) | F_ACK;
        flags.copy_from_slice(&asked.to_ne_bytes());
    }
}

/// `ip daddr A meta l4proto P th dport N dnat to B:M`.
fn redirection(list: &mut Vec<u8>, (protocol, ip, port): Destination, to: (Ipv4Addr, u16)) {
    /// Registers of sixteen bytes, the first two.
    const REGISTERS: [u32; 2] = [1, 2];
    let number = |out: &mut Vec<u8>, kind: u16, value: u32| {
        attribute(out, kind, &value.to_be_bytes());
    };
    let mut expression = |name: &str, fill: &dyn Fn(&mut Vec<u8>)| {
        nest(list, 1, |out| {
            text(out, 1, name);
            nest(out, 2, |out| fill(out));
        });
    };
    let value = |out: &mut Vec<u8>, kind: u16, bytes: &[u8]| {
        nest(out, kind, |out| attribute(out, 1, bytes));
    };
    let [first, second] = REGISTERS;
    let payload = |base: u32, offset: u32, length: u32| {
        move |out: &mut Vec<u8>| {
            let parts = [first, base, offset, length];
            parts.into_iter().enumerate().for_each(|(n, part)| number(out, n as u16 + 1, part));
        }
    };
    let is = |bytes: Vec<u8>| {
        move |out: &mut Vec<u8>| {
            number(out, 1, first);
            // Equal.
            number(out, 2, 0);
            value(out, 3, &bytes);
        }
    };
    let load = |register: u32, bytes: Vec<u8>| {
        move |out: &mut Vec<u8>| {
            number(out, 1, register);
            value(out, 2, &bytes);
        }
    };
    expression("meta", &|out| {
        number(out, 1, first);
        // Which protocol, of IPv6 behind all extension headers.
        number(out, 2, libc::NFT_META_L4PROTO as u32);
    });
    expression("cmp", &is(vec![protocol]));
    // Of the network header, where it goes to; of the transport header, at which port.
    expression("payload", &payload(1, 16, 4));
    expression("cmp", &is(ip.octets().to_vec()));
    expression("payload", &payload(2, 2, 2));
    expression("cmp", &is(port.to_be_bytes().to_vec()));
    expression("immediate", &load(first, to.0.octets().to_vec()));
    expression("immediate", &load(second, to.1.to_be_bytes().to_vec()));
    expression("nat", &|out| {
        // To another destination, of IPv4, that the registers have.
        let parts = [(1, 1), (2, libc::NFPROTO_IPV4 as u32), (3, first), (5, second)];
        parts.into_iter().for_each(|(kind, part)| number(out, kind, part));
    });
}

fn failed(err: &io::Error) -> NlError {
    match err.raw_os_error() {
        Some(errno) => NlError::Refused { errno: Errno::from_raw(errno), text: None },
        None => NlError::Closed,
    }
}

// ----- bytes ---------------------------------------------------------------

fn begin(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: i32,
    resource: u16,
) -> usize {
    let at = out.len();
    out.extend(0u32.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([family as u8, 0]);
    out.extend(resource.to_be_bytes());
    at
}

fn finish(out: &mut [u8], at: usize) {
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_ne_bytes());
}

pub(crate) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn text(out: &mut Vec<u8>, kind: u16, value: &str) {
    let bytes: Vec<u8> = value.bytes().chain([0]).collect();
    attribute(out, kind, &bytes);
}

pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    inside(out);
    let length = (out.len() - at) as u16;
    out[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    out[at + 2..at + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
}

/// The messages of a datagram, each with a whole header.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

pub(crate) fn body(message: &[u8]) -> &[u8] {
    message.get(HEADER + NFGENMSG..).unwrap_or_default()
}

pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn error_code(message: &[u8]) -> Option<i32> {
    let kind = i32::from(u16::from_ne_bytes([message[4], message[5]]));
    let code = message.get(HEADER..HEADER + 4)?.try_into().ok()?;
    (kind == libc::NLMSG_ERROR).then(|| i32::from_ne_bytes(code))
}

fn count_of(value: &[u8]) -> Count {
    let mut count = (0, 0);
    for (kind, value) in attributes(value) {
        let number = value.try_into().map(u64::from_be_bytes).unwrap_or_default();
        match kind {
            1 => count.1 = number,
            2 => count.0 = number,
            _ => {}
        }
    }
    count
}

/// The name of the set that a message about elements is of.
pub(crate) fn set_of(message: &[u8]) -> Option<String> {
    attributes(body(message)).find(|(kind, _)| *kind == 2).map(|(_, value)| text_of(value))
}

/// The elements that a message tells of, with what each has counted.
pub(crate) fn elements_of(message: &[u8]) -> Vec<(Key, Count)> {
    let lists = attributes(body(message)).filter(|(kind, _)| *kind == LIST_ELEMENTS);
    let each = lists.flat_map(|(_, list)| attributes(list));
    each.filter_map(|(_, element)| {
        let (mut key, mut count) = (None, (0, 0));
        for (kind, value) in attributes(element) {
            match kind {
                1 => key = attributes(value).next().map(|(_, bytes)| bytes.to_vec()),
                // Its name, its data.
                EXPRESSION => {
                    let inner = attributes(value).find(|(kind, _)| *kind == 2);
                    count = inner.map_or((0, 0), |(_, data)| count_of(data));
                }
                _ => {}
            }
        }
        Some((key?, count))
    })
    .collect()
}

#[cfg(test)]
mod tests;
