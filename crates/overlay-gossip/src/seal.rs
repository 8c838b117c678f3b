//! What a message looks like on the network, and which of those that come are
//! let in.
//!
//! ```text
//!  sealed    01 | key id 4 | association 16, counter 8 | XChaCha20-Poly1305( kind 1 | body ) | tag 16
//!            '------ header, authenticated -----------'  the nonce is association and counter
//!  refusal   02 | key id 4 | n 1 | key id 4 ...            "that key is not here; these are"
//!  plain     00 | kind 1 | body                            with --insecure on both ends, else refused
//! ```
//!
//! An *association* is one sender's process and one address that it sends to;
//! the sender draws it at random. Its counter never repeats, so no nonce does,
//! whichever key is in use: a key can change between two messages.
//!
//! No message is let in twice, nor one that was recorded before this process
//! started, and no clock is asked about that. A receiver believes an
//! association only after a challenge:
//!
//! ```text
//!   sender                          receiver
//!     ── message, counter 7 ──────►   authentic, but the association is unknown
//!     ◄───────── challenge (cookie)   the message is dropped
//!     ── answer (cookie), 8 ──────►   from now on: this address, counters above 8
//!     ── message again, 9 ────────►   let in
//! ```
//!
//! The cookie is random and counts once, so the answer is fresh, and so is all
//! that has a larger counter. What the receiver did not believe yet, the sender
//! sends again: it keeps the last few messages of the last second for this.
//! First contact, and a restart of either end, cost one round trip. (A receiver
//! that kept the message until the cookie is back would have to take the word
//! of a recording: the answer proves that the sender is there now, not that the
//! message was sent now.)
//!
//! Promises, checked in `seal/tests.rs`:
//!
//! 1. What was cut, changed, sealed with another key, or not sealed at all is
//!    counted by kind and dropped.
//! 2. A datagram is let in at most once, out of order within `WINDOW` counters.
//!    (What the sender sends again when it is asked are datagrams of their own:
//!    a message of the last second may come twice then, which gossip and pushes
//!    bear.)
//! 3. A datagram that is not authentic creates nothing but counters (see
//!    `refusals`), a line in the log once a minute, and at most one refusal a
//!    second and source, which is shorter than the datagram. A refusal is never
//!    answered.
//! 4. All tables are bounded. Recordings can at worst make us challenge.
//!
//! Known and accepted: who can divert packets on the underlay can have a
//! message that was meant for one member let in by another one (once), and can
//! make a member appear at another address, as a router that translates
//! addresses does. Members trust each other, and gossip says the same to all.
//!
//! There is no I/O here. Time comes in as an argument, random bytes from the kernel.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chacha20poly1305::XNonce;
use chacha20poly1305::aead::{Aead as _, AeadInPlace as _, Payload};
use overlay_model::{HostKeys, KeyId};
use tokio::time::Instant;

use crate::keyring::{Key, Keyring};
use crate::refusals::Why;
use crate::stats::Counters;

const PLAIN: u8 = 0;
const SEALED: u8 = 1;
pub(crate) const REFUSAL: u8 = 2;
/// How a message of chitchat begins that nobody has put into anything.
const BARE_CHITCHAT: [u8; 2] = 45_139_u16.to_le_bytes();

/// Version, key id, nonce.
pub(crate) const HEADER: usize = 1 + 4 + 24;
const TAG: usize = 16;
/// What sealing adds to a body: header, kind and tag.
pub(crate) const OVERHEAD: usize = HEADER + 1 + TAG;

/// A receiver's question. Its body is an association and a cookie.
const CHALLENGE: u8 = 0x80;
/// The answer, under that association. Its body is the cookie.
const ANSWER: u8 = 0x81;

/// How far behind the newest counter a message may be.
pub(crate) const WINDOW: u64 = 2048;

/// Associations that are believed, at most; the one unused longest makes room.
const BELIEVED: usize = 4096;
/// Associations that are being asked, at most; the oldest makes room.
const ASKED: usize = 1024;
/// Addresses that we send to, at most; the one unused longest makes room.
const SENT_TO: usize = 4096;

/// One association is not asked more often than this.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// All together are asked no more than so often a second.
const ASK_RATE: u32 = 2000;
/// One association answers no more often than this.
const ANSWER_EVERY: Duration = Duration::from_millis(5);
/// A question that nobody has answered is forgotten.
const ASK_FOR: Duration = Duration::from_secs(10);

/// Messages that are kept to be sent again, for one address,
const KEPT: usize = 8;
/// for so long.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// One source is refused no more often than this.
const REFUSE_EVERY: Duration = Duration::from_secs(1);
/// One source is complained about in the log no more often than this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Sources that the two limits are kept for; beyond it nothing is said.
const SOURCES: usize = 1024;

type Association = [u8; 16];
type Cookie = [u8; 16];

/// Random bytes; the kernel has them or nothing works at all.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

/// A header and what it says.
#[derive(Clone, Copy)]
struct Header {
    key: KeyId,
    association: Association,
    counter: u64,
}

impl Header {
    fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = SEALED;
        bytes[1..5].copy_from_slice(&self.key.0);
        bytes[5..21].copy_from_slice(&self.association);
        bytes[21..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// `None`: too short to be one, or of another version.
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let [SEALED, rest @ ..] = bytes else { return None };
        let (key, rest) = rest.split_first_chunk::<4>()?;
        let (association, counter) = rest.split_first_chunk::<16>()?;
        Some(Self {
            key: KeyId(*key),
            association: *association,
            counter: u64::from_be_bytes(*counter.first_chunk()?),
        })
    }
}

/// `extra` is authenticated with the header and not sent.
pub(crate) fn seal_with(
    key: &Key,
    association: Association,
    counter: u64,
    extra: &[u8],
    parts: &[&[u8]],
) -> Vec<u8> {
    let header = Header { key: key.id(), association, counter }.bytes();
    let aad = [&header, extra].concat();
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(HEADER + len + TAG);
    out.extend_from_slice(&header);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    let nonce = XNonce::from_slice(&header[5..]);
    let tag = key
        .cipher()
        .encrypt_in_place_detached(nonce, &aad, &mut out[HEADER..])
        .expect("a message is shorter than the 256 GiB that the cipher takes");
    out.extend_from_slice(&tag);
    out
}

/// Why a sealed message was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// Too short.
    Truncated,
    /// The first byte says something else.
    UnknownVersion,
    /// Sealed with a key that is not here.
    UnknownKey(KeyId),
    /// The tag does not verify.
    Forged,
}

/// What was opened.
pub(crate) struct Opened {
    pub(crate) association: Association,
    pub(crate) counter: u64,
    /// Never empty.
    pub(crate) text: Vec<u8>,
}

pub(crate) fn open_with(keys: &Keyring, extra: &[u8], message: &[u8]) -> Result<Opened, NotOpened> {
    if message.first().is_some_and(|version| *version != SEALED) {
        return Err(NotOpened::UnknownVersion);
    }
    if message.len() < OVERHEAD {
        return Err(NotOpened::Truncated);
    }
    let header = Header::read(message).ok_or(NotOpened::Truncated)?;
    let key = keys.find(header.key).ok_or(NotOpened::UnknownKey(header.key))?;
    let (head, sealed) = message.split_at(HEADER);
    let aad = [head, extra].concat();
    let text = key
        .cipher()
        .decrypt(XNonce::from_slice(&head[5..]), Payload { msg: sealed, aad: &aad })
        .map_err(|_| NotOpened::Forged)?;
    Ok(Opened { association: header.association, counter: header.counter, text })
}

/// What is to be done about a datagram that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Kind and body of a message that is let in.
    pub(crate) message: Option<(u8, Vec<u8>)>,
    /// Datagrams to send, in order.
    pub(crate) send: Vec<(SocketAddr, Vec<u8>)>,
}

impl Verdict {
    fn send(to: SocketAddr, datagram: Vec<u8>) -> Self {
        Self { message: None, send: vec![(to, datagram)] }
    }
}

/// Seals what we send and judges what comes.
pub(crate) struct Seal {
    /// `None`: nothing is sealed.
    keys: Option<Arc<Keyring>>,
    counters: Arc<Counters>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    sent_to: HashMap<SocketAddr, Outgoing>,
    address_of: HashMap<Association, SocketAddr>,
    believed: HashMap<Association, Believed>,
    asked: HashMap<(Association, SocketAddr), Asked>,
    /// Questions asked since the moment.
    asking: Option<(Instant, u32)>,
    refused: HashMap<SocketAddr, Instant>,
    complained: HashMap<(IpAddr, &'static str), Instant>,
}

/// An association of ours.
struct Outgoing {
    association: Association,
    next: u64,
    kept: VecDeque<(Instant, u8, Vec<u8>)>,
    used: Instant,
    answered: Option<Instant>,
}

impl Outgoing {
    fn take_counter(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// An association of somebody else's that has answered.
struct Believed {
    from: SocketAddr,
    window: Window,
    used: Instant,
}

/// One that has been asked.
struct Asked {
    cookie: Cookie,
    first: Instant,
    last: Instant,
}

/// Which counters were seen: the newest, and a bit for each of those below it.
struct Window {
    newest: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Window {
    /// Everything up to `newest` counts as seen.
    fn after(newest: u64) -> Self {
        Self { newest, seen: [u64::MAX; (WINDOW / 64) as usize] }
    }

    /// Notes `counter`; false if it was seen, or is too old to tell.
    fn take(&mut self, counter: u64) -> bool {
        if counter > self.newest {
            if counter - self.newest >= WINDOW {
                self.seen = [0; (WINDOW / 64) as usize];
            } else {
                for skipped in self.newest + 1..counter {
                    self.set(skipped, false);
                }
            }
            self.newest = counter;
            self.set(counter, true);
            return true;
        }
        if self.newest - counter >= WINDOW || self.get(counter) {
            return false;
        }
        self.set(counter, true);
        true
    }

    fn get(&self, counter: u64) -> bool {
        self.seen[(counter % WINDOW / 64) as usize] & (1 << (counter % 64)) != 0
    }

    fn set(&mut self, counter: u64, seen: bool) {
        let word = &mut self.seen[(counter % WINDOW / 64) as usize];
        if seen {
            *word |= 1 << (counter % 64);
        } else {
            *word &= !(1 << (counter % 64));
        }
    }
}

impl Seal {
    pub(crate) fn new(keys: Option<Arc<Keyring>>, counters: Arc<Counters>) -> Self {
        Self { keys, counters, tables: Mutex::default() }
    }

    /// The keys, if messages are sealed.
    pub(crate) fn keys(&self) -> Option<&Arc<Keyring>> {
        self.keys.as_ref()
    }

    /// What a datagram is longer than its body by.
    pub(crate) fn overhead(&self) -> usize {
        if self.keys.is_some() { OVERHEAD } else { 2 }
    }

    /// The datagram that carries `body` to `to`.
    pub(crate) fn seal(&self, to: SocketAddr, kind: u8, body: &[u8], now: Instant) -> Vec<u8> {
        let Some(keys) = &self.keys else {
            return [&[PLAIN, kind], body].concat();
        };
        let mut tables = self.tables();
        let outgoing = tables.outgoing(to, now, &self.counters);
        outgoing.kept.retain(|(at, ..)| now.duration_since(*at) < KEPT_FOR);
        if outgoing.kept.len() >= KEPT {
            outgoing.kept.pop_front();
        }
        outgoing.kept.push_back((now, kind, body.to_vec()));
        let (association, counter) = (outgoing.association, outgoing.take_counter());
        drop(tables);
        seal_with(&keys.used(), association, counter, &[], &[&[kind], body])
    }

    /// Judges a datagram.
    pub(crate) fn open(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        match datagram {
            [] => self.drop_from(from, Why::Truncated, now),
            [REFUSAL, rest @ ..] => self.refused_by_peer(from, rest, now),
            [PLAIN, rest @ ..] if self.keys.is_none() => match rest {
                [kind, body @ ..] => {
                    Verdict { message: Some((*kind, body.to_vec())), send: Vec::new() }
                }
                [] => self.drop_from(from, Why::Truncated, now),
            },
            // Told apart by their first bytes only: whoever sends these may as
            // well have meant something else.
            [PLAIN, ..] => self.plain(from, datagram, now),
            _ if datagram.starts_with(&BARE_CHITCHAT) => self.plain(from, datagram, now),
            _ => self.open_sealed(from, datagram, now),
        }
    }

    fn open_sealed(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        let opened = match &self.keys {
            Some(keys) => open_with(keys, &[], datagram),
            None => match Header::read(datagram) {
                Some(header) => Err(NotOpened::UnknownKey(header.key)),
                None if datagram.first() == Some(&SEALED) => Err(NotOpened::Truncated),
                None => Err(NotOpened::UnknownVersion),
            },
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(NotOpened::Truncated) => return self.drop_from(from, Why::Truncated, now),
            Err(NotOpened::UnknownVersion) => {
                return self.drop_from(from, Why::UnknownVersion, now);
            }
            Err(NotOpened::Forged) => return self.drop_from(from, Why::Forged, now),
            Err(NotOpened::UnknownKey(id)) => {
                return self.unknown_key(from, id, datagram.len(), now);
            }
        };
        let Opened { association, counter, mut text } = opened;
        match text[0] {
            CHALLENGE => self.challenged(&text[1..], now),
            ANSWER => self.answered(from, association, counter, &text[1..], now),
            kind => {
                let mut tables = self.tables();
                match tables.believed.get_mut(&association) {
                    Some(believed) if believed.from == from => {
                        if !believed.window.take(counter) {
                            return self.drop_from(from, Why::Replayed, now);
                        }
                        believed.used = now;
                        text.remove(0);
                        Verdict { message: Some((kind, text)), send: Vec::new() }
                    }
                    known => {
                        if known.is_some() {
                            self.counters.add("seal_moved", 1);
                        }
                        self.ask(&mut tables, from, association, now)
                    }
                }
            }
        }
    }

    /// Asks an association that we do not believe, or not at this address.
    fn ask(
        &self,
        tables: &mut Tables,
        from: SocketAddr,
        association: Association,
        now: Instant,
    ) -> Verdict {
        let Some(keys) = &self.keys else { return Verdict::default() };
        self.counters.add("seal_unproven", 1);
        let (since, asked) = tables.asking.get_or_insert((now, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *asked) = (now, 0);
        }
        if *asked >= ASK_RATE || from.port() == 0 {
            return Verdict::default();
        }
        *asked += 1;
        let place = (association, from);
        let cookie = match tables.asked.get_mut(&place) {
            Some(asked) if now.duration_since(asked.first) < ASK_FOR => {
                if now.duration_since(asked.last) < ASK_EVERY {
                    return Verdict::default();
                }
                asked.last = now;
                asked.cookie
            }
            _ => {
                if tables.asked.len() >= ASKED {
                    tables.asked.retain(|_, asked| now.duration_since(asked.first) < ASK_FOR);
                }
                if tables.asked.len() >= ASKED {
                    self.counters.add("seal_table_full", 1);
                    evict(&mut tables.asked, |asked| asked.first);
                }
                let cookie = random();
                tables.asked.insert(place, Asked { cookie, first: now, last: now });
                cookie
            }
        };
        self.counters.add("seal_challenges", 1);
        // Under an association of its own, so that asking costs no entry.
        let datagram =
            seal_with(&keys.used(), random(), 0, &[], &[&[CHALLENGE], &association, &cookie]);
        Verdict::send(from, datagram)
    }

    /// Answers, and sends again what was not believed.
    fn challenged(&self, text: &[u8], now: Instant) -> Verdict {
        let mut tables = self.tables();
        let known = text.split_first_chunk::<16>().filter(|(_, cookie)| cookie.len() == 16);
        let found = known
            .and_then(|(association, cookie)| Some((*tables.address_of.get(association)?, cookie)));
        let (Some((to, cookie)), Some(keys)) = (found, &self.keys) else {
            return self.stray();
        };
        let outgoing = tables.outgoing(to, now, &self.counters);
        if outgoing.answered.is_some_and(|at| now.duration_since(at) < ANSWER_EVERY) {
            return Verdict::default();
        }
        outgoing.answered = Some(now);
        self.counters.add("seal_answers", 1);
        let key = keys.used();
        let association = outgoing.association;
        let answer =
            seal_with(&key, association, outgoing.take_counter(), &[], &[&[ANSWER], cookie]);
        let mut send = vec![(to, answer)];
        outgoing.kept.retain(|(at, ..)| now.duration_since(*at) < KEPT_FOR);
        for n in 0..outgoing.kept.len() {
            let counter = outgoing.take_counter();
            let (_, kind, body) = &outgoing.kept[n];
            send.push((to, seal_with(&key, association, counter, &[], &[&[*kind], body])));
        }
        Verdict { message: None, send }
    }

    fn answered(
        &self,
        from: SocketAddr,
        association: Association,
        counter: u64,
        cookie: &[u8],
        now: Instant,
    ) -> Verdict {
        let mut tables = self.tables();
        let place = (association, from);
        if tables.asked.get(&place).is_none_or(|asked| asked.cookie != *cookie) {
            return self.stray();
        }
        tables.asked.remove(&place);
        if !tables.believed.contains_key(&association) && tables.believed.len() >= BELIEVED {
            self.counters.add("seal_table_full", 1);
            evict(&mut tables.believed, |believed| believed.used);
        }
        self.counters.add("seal_associations", 1);
        let window = Window::after(counter);
        tables.believed.insert(association, Believed { from, window, used: now });
        Verdict::default()
    }

    /// Somebody's key is not here: says so, to both ends.
    pub(crate) fn unknown_key(
        &self,
        from: SocketAddr,
        id: KeyId,
        len: usize,
        now: Instant,
    ) -> Verdict {
        self.counters.refuse(from, Why::UnknownKey, now);
        if self.may_complain(from, "unknown key", now) {
            match &self.keys {
                Some(keys) => tracing::warn!(
                    peer = %from, its_key = %id, our_keys = %list(&keys.ids()),
                    "a host seals its gossip with a key that is not here, and is refused; if it \
                     belongs to the cluster, give it our key, or add its key here with: overlayctl \
                     key add",
                ),
                None => tracing::warn!(
                    peer = %from, its_key = %id,
                    "a host seals its gossip and this one has no key (--insecure); to join it, \
                     start overlayd here with its key in --key-file",
                ),
            }
        }
        self.refuse(from, id, len, now)
    }

    fn plain(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        self.counters.refuse(from, Why::Plain, now);
        if self.keys.is_some() && self.may_complain(from, "plain", now) {
            tracing::warn!(
                peer = %from,
                "gossip that is not sealed came in and was refused; if the host belongs to the \
                 cluster, start overlayd there with our key in --key-file",
            );
        }
        self.refuse(from, KeyId([0; 4]), datagram.len(), now)
    }

    fn refuse(&self, from: SocketAddr, id: KeyId, len: usize, now: Instant) -> Verdict {
        let ours = self.keys.as_ref().map(|keys| keys.ids().ids).unwrap_or_default();
        let mut refusal = vec![REFUSAL];
        refusal.extend(id.0);
        refusal.push(u8::try_from(ours.len()).expect("a ring has at most three keys"));
        refusal.extend(ours.iter().flat_map(|id| id.0));
        let mut tables = self.tables();
        if from.port() == 0
            || refusal.len() >= len
            || !seldom(&mut tables.refused, from, now, REFUSE_EVERY)
        {
            return Verdict::default();
        }
        Verdict::send(from, refusal)
    }

    /// A peer says that our key is not there. Nobody vouches for that, so it is
    /// told to people and changes nothing.
    pub(crate) fn refused_by_peer(&self, from: SocketAddr, rest: &[u8], now: Instant) -> Verdict {
        let Some((id, rest)) = rest.split_first_chunk::<4>() else {
            return self.drop_from(from, Why::Truncated, now);
        };
        let Some((n, ids)) = rest.split_first() else {
            return self.drop_from(from, Why::Truncated, now);
        };
        if usize::from(*n) > HostKeys::MAX || ids.len() != usize::from(*n) * 4 {
            return self.drop_from(from, Why::Truncated, now);
        }
        let theirs = HostKeys {
            ids: ids.chunks_exact(4).map(|id| KeyId([id[0], id[1], id[2], id[3]])).collect(),
            used: None,
        };
        // We sent something there, and with that key.
        let id = KeyId(*id);
        let ours = match &self.keys {
            Some(keys) => keys.ids().has(id) && self.tables().sent_to.contains_key(&from),
            None => id == KeyId([0; 4]),
        };
        if !ours {
            return self.stray();
        }
        self.counters.refused_by(from, now);
        if self.may_complain(from, "refused", now) {
            if self.keys.is_some() {
                tracing::warn!(
                    peer = %from, our_key = %id, its_keys = %list(&theirs),
                    "a peer refuses our gossip: it does not have the key that this host uses; add \
                     the key there with: overlayctl key add, or use one here that it has with: \
                     overlayctl key use",
                );
            } else {
                tracing::warn!(
                    peer = %from, its_keys = %list(&theirs),
                    "a peer refuses our gossip because it is not sealed; start overlayd here with \
                     the cluster's key in --key-file",
                );
            }
        }
        Verdict::default()
    }

    fn may_complain(&self, from: SocketAddr, about: &'static str, now: Instant) -> bool {
        seldom(&mut self.tables().complained, (from.ip(), about), now, COMPLAIN_EVERY)
    }

    fn drop_from(&self, from: SocketAddr, why: Why, now: Instant) -> Verdict {
        self.counters.refuse(from, why, now);
        Verdict::default()
    }

    /// Nobody is to blame: a slow network repeats questions and answers.
    fn stray(&self) -> Verdict {
        self.counters.add("seal_stray", 1);
        Verdict::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn outgoing(&mut self, to: SocketAddr, now: Instant, counters: &Counters) -> &mut Outgoing {
        if !self.sent_to.contains_key(&to) && self.sent_to.len() >= SENT_TO {
            counters.add("seal_table_full", 1);
            if let Some(gone) = evict(&mut self.sent_to, |outgoing| outgoing.used) {
                self.address_of.remove(&gone.association);
            }
        }
        let outgoing = self.sent_to.entry(to).or_insert_with(|| {
            let association = random();
            self.address_of.insert(association, to);
            Outgoing { association, next: 0, kept: VecDeque::new(), used: now, answered: None }
        });
        outgoing.used = now;
        outgoing
    }
}

/// Removes the entry that is oldest by `age`.
fn evict<K: Copy + Eq + std::hash::Hash, V>(
    table: &mut HashMap<K, V>,
    age: impl Fn(&V) -> Instant,
) -> Option<V> {
    let oldest = table.iter().min_by_key(|(_, value)| age(value)).map(|(key, _)| *key)?;
    table.remove(&oldest)
}

/// True, and noted, if `what` was not noted for so long. A full table says no.
fn seldom<K: Eq + std::hash::Hash>(
    table: &mut HashMap<K, Instant>,
    what: K,
    now: Instant,
    every: Duration,
) -> bool {
    if table.len() >= SOURCES {
        table.retain(|_, at| now.duration_since(*at) < every);
    }
    let full = table.len() >= SOURCES;
    match table.get(&what) {
        Some(at) if now.duration_since(*at) < every => false,
        None if full => false,
        _ => {
            table.insert(what, now);
            true
        }
    }
}

fn list(keys: &HostKeys) -> String {
    if keys.ids.is_empty() {
        return "none".to_owned();
    }
    keys.ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
