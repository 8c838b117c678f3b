//! DNS messages: queries read, replies written (RFC 1035 section 4, EDNS0 of RFC 6891).
//!
//! A query is read without being copied, but for its name in lower case. A reply is the query's
//! header and question as they came, letter by letter (some resolvers draw the case of letters at
//! random and look for it in the reply), and the records behind them. Nothing here allocates but
//! the buffer that a reply is written into.

use std::net::IpAddr;

/// Bytes of a message's header.
pub const HEADER: usize = 12;

/// What a reply by UDP may have if the query does not say otherwise.
pub const PLAIN_LIMIT: usize = 512;

/// What a reply by UDP may have at most: no underlay or VPN makes two packets of it (the DNS flag
/// day of 2020).
pub const UDP_LIMIT: usize = 1232;

/// What a reply by TCP may have.
pub const TCP_LIMIT: usize = 65_535;

/// Labels that a name of 255 bytes can have.
const MAX_LABELS: usize = 128;

/// Records that are looked at behind a question, for its OPT.
const MAX_EXTRA: u16 = 16;

/// Types of records that are answered.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// A zone's begin.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Where a service is.
    pub const SRV: u16 = 33;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// Whatever there is.
    pub const ANY: u16 = 255;
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Code {
    /// There is such a name.
    NoError = 0,
    /// The query cannot be read.
    FormErr = 1,
    /// No answer could be had.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Not a question.
    NotImp = 4,
    /// Not answered here.
    Refused = 5,
    /// EDNS of another version.
    BadVers = 16,
}

impl Code {
    /// As `dig` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::BadVers => "BADVERS",
        }
    }
}

/// A name, in lower case.
#[derive(Clone, Copy)]
pub struct QName {
    text: [u8; 256],
    /// Where labels begin in `text`, each behind the byte of its length.
    starts: [u8; MAX_LABELS],
    count: u8,
}

impl QName {
    /// How many labels it has; the root has none.
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// True for the root.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its `n`th label, the leftmost first; empty if there is none.
    pub fn label(&self, n: usize) -> &[u8] {
        let Some(start) = self.starts[..self.len()].get(n) else { return &[] };
        let start = usize::from(*start);
        &self.text[start + 1..start + 1 + usize::from(self.text[start])]
    }

    /// Where its `n`th label stands in a message that it is the question of.
    fn offset(&self, n: usize) -> u16 {
        HEADER as u16 + u16::from(self.starts[n])
    }

    /// True if it ends in these labels.
    pub fn ends_in(&self, labels: &[&str]) -> bool {
        let Some(first) = self.len().checked_sub(labels.len()) else { return false };
        labels.iter().enumerate().all(|(n, label)| self.label(first + n) == label.as_bytes())
    }

    /// Reads a name at the beginning of `bytes`, and says how many it has. No pointers: nothing
    /// stands before a question that one could point to.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut name = Self { text: [0; 256], starts: [0; MAX_LABELS], count: 0 };
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length == 0 {
                return Some((name, at + 1));
            }
            let label = bytes.get(at..at + 1 + length).filter(|_| length <= 63)?;
            // 255 with the root's byte (RFC 1035 section 2.3.4).
            let room = name.text.get_mut(at..at + 1 + length).filter(|_| at + length + 2 <= 255)?;
            room.copy_from_slice(label);
            room[1..].make_ascii_lowercase();
            name.starts[name.len()] = at as u8;
            name.count += 1;
            at += 1 + length;
        }
    }
}

impl std::fmt::Display for QName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for n in 0..self.len() {
            write!(f, "{}{}", if n > 0 { "." } else { "" }, self.label(n).escape_ascii())?;
        }
        if self.is_empty() { f.write_str(".") } else { Ok(()) }
    }
}

impl std::fmt::Debug for QName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What EDNS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Bytes that a reply by UDP may have.
    pub size: u16,
    /// Its version.
    pub version: u8,
    /// Signatures are wanted: said again, as it must be.
    dnssec_ok: bool,
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    bytes: &'a [u8],
    /// Of what.
    pub name: QName,
    /// Of which type.
    pub kind: u16,
    /// Of which class; 1 is the Internet.
    pub class: u16,
    /// Where the question ends.
    end: usize,
    /// EDNS, if it has that.
    pub edns: Option<Edns>,
}

/// What a message is.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "nearly all are questions, and none is kept")]
pub enum Message<'a> {
    /// A question.
    Query(Query<'a>),
    /// Something that is to be refused, with the question if it can be read.
    Refuse(&'a [u8], Code),
    /// Nothing to answer: too short, or a reply. Who answers replies can be made to answer himself
    /// for ever.
    Ignore,
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub fn read(bytes: &'a [u8]) -> Message<'a> {
        let Some(header) = bytes.get(..HEADER) else { return Message::Ignore };
        let is_reply = header[2] & 0x80 != 0;
        if is_reply {
            return Message::Ignore;
        }
        let opcode = header[2] >> 3 & 0xf;
        if opcode != 0 {
            return Message::Refuse(header, Code::NotImp);
        }
        match Self::question(bytes) {
            Some((query, Some(_))) => Message::Query(query),
            Some((query, None)) => Message::Refuse(&bytes[..query.end], Code::FormErr),
            None => Message::Refuse(header, Code::FormErr),
        }
    }

    /// The question, and whether what stands behind it is sound.
    fn question(bytes: &'a [u8]) -> Option<(Self, Option<()>)> {
        let count = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (name, length) = QName::read(&bytes[HEADER..]).filter(|_| count(4) == 1)?;
        let at = HEADER + length;
        let [kind, class] = [u16_at(bytes, at)?, u16_at(bytes, at + 2)?];
        let mut query = Self { bytes, name, kind, class, end: at + 4, edns: None };
        // A query has no answers, and nothing is known that would say something there.
        let sound = (count(6) == 0 && count(8) == 0)
            .then_some(())
            .and_then(|()| query.read_extra(count(10)));
        Some((query, sound))
    }

    /// Finds EDNS in the additional section.
    fn read_extra(&mut self, count: u16) -> Option<()> {
        let mut at = self.end;
        for _ in 0..(count <= MAX_EXTRA).then_some(count)? {
            let start = at;
            at = skip_name(self.bytes, at)?;
            let [kind, class] = [u16_at(self.bytes, at)?, u16_at(self.bytes, at + 2)?];
            let [flags, length] = [u16_at(self.bytes, at + 6)?, u16_at(self.bytes, at + 8)?];
            if kind == kind::OPT {
                let is_root = at == start + 1;
                if self.edns.is_some() || !is_root {
                    return None;
                }
                let [version, dnssec_ok] = [self.bytes[at + 5], (flags >> 8) as u8 & 0x80];
                let edns = Edns { size: class, version, dnssec_ok: dnssec_ok != 0 };
                self.edns = Some(edns);
            }
            at += 10;
            self.bytes.get(at..at + usize::from(length))?;
            at += usize::from(length);
        }
        Some(())
    }

    /// Its number.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// The whole message.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The question as it came: name, type and class.
    pub fn question_bytes(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.end]
    }

    /// Bytes that a reply by UDP may have.
    pub fn udp_limit(&self) -> usize {
        let said = self.edns.map_or(PLAIN_LIMIT, |edns| edns.size.into());
        said.clamp(PLAIN_LIMIT, UDP_LIMIT)
    }

    /// True if `reply` is one to this query, as it was sent under `id`.
    pub fn is_answered_by(&self, reply: &[u8], id: u16) -> bool {
        let Some(header) = reply.get(..HEADER) else { return false };
        let question = reply.get(HEADER..self.end);
        let refused = reply.len() == HEADER && u16_at(reply, 4) == Some(0);
        header[..2] == id.to_be_bytes()
            && header[2] & 0x80 != 0
            // Some say no question when they refuse.
            && (refused || (u16_at(reply, 4) == Some(1)
                && question.is_some_and(|q| q.eq_ignore_ascii_case(self.question_bytes()))))
    }

    /// Makes of the reply of another resolver the one to this query: its number, and the
    /// letters of its question.
    pub fn adopt(&self, reply: &mut [u8]) {
        reply[..2].copy_from_slice(&self.bytes[..2]);
        if let Some(question) = reply.get_mut(HEADER..self.end) {
            question.copy_from_slice(self.question_bytes());
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Where the name ends that begins at `at`; it may end in a pointer, which is not followed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..MAX_LABELS {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length if length <= 63 => at += 1 + length,
            pointer if pointer >= 0xc0 => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
    None
}

/// A question for `name`; `None` if that is no name.
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = id.to_be_bytes().to_vec();
    // RD, and one question.
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let labels = name.split('.').filter(|_| !name.is_empty());
    if labels.clone().any(|label| label.is_empty() || label.len() > 63) || name.len() > 253 {
        return None;
    }
    for label in labels {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    Some(out)
}

/// The code of a reply, as far as its header has it.
pub fn code_of(reply: &[u8]) -> Option<u8> {
    reply.get(3).map(|byte| byte & 0xf)
}

/// True if a reply is only the first part of one.
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|byte| byte & 2 != 0)
}

/// A reply that is being written.
pub struct Reply<'a, 'q> {
    out: &'a mut Vec<u8>,
    query: &'a Query<'q>,
    limit: usize,
    ttl: u32,
    answers: u16,
    authority: u16,
    additional: u16,
    truncated: bool,
}

/// Bytes of an OPT record without options.
const OPT: usize = 11;

impl<'a, 'q> Reply<'a, 'q> {
    /// Begins one of at most `limit` bytes; records in it may be kept for `ttl` seconds.
    pub fn new(query: &'a Query<'q>, limit: usize, ttl: u32, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&query.bytes[..query.end]);
        let limit = limit - if query.edns.is_some() { OPT } else { 0 };
        let (answers, authority, additional, truncated) = (0, 0, 0, false);
        Self { out, query, limit, ttl, answers, authority, additional, truncated }
    }

    /// True if something had no room.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// How many answers it has.
    pub fn answers(&self) -> u16 {
        self.answers
    }

    /// Writes a record, if it has room. `owner` is a name in the message, or bytes of one.
    fn record(
        &mut self,
        owner: &[u8],
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let start = self.out.len();
        self.out.extend_from_slice(owner);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&[0, 1]);
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        data(self.out);
        let length = (self.out.len() - at - 2) as u16;
        self.out[at..at + 2].copy_from_slice(&length.to_be_bytes());
        let fits = self.out.len() <= self.limit;
        if !fits {
            self.out.truncate(start);
        }
        fits
    }

    /// An answer under the name that was asked for. False if there was no room: then the reply
    /// says that it is not all.
    fn answer(&mut self, kind: u16, data: impl FnOnce(&mut Vec<u8>)) -> bool {
        let ttl = self.ttl;
        let fits = self.record(&pointer(HEADER as u16), kind, ttl, data);
        self.answers += u16::from(fits);
        self.truncated |= !fits;
        fits
    }

    /// An address.
    pub fn address(&mut self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.answer(kind::A, |out| out.extend_from_slice(&ip.octets())),
            IpAddr::V6(ip) => self.answer(kind::AAAA, |out| out.extend_from_slice(&ip.octets())),
        }
    }

    /// The name of an address, of these labels.
    pub fn pointer(&mut self, labels: &[&str]) -> bool {
        self.answer(kind::PTR, |out| write_name(out, labels))
    }

    /// Where a service is: at a name of these labels.
    pub fn service(&mut self, port: u16, labels: &[&str]) -> bool {
        self.answer(kind::SRV, |out| {
            // Priority and weight: all alike.
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&port.to_be_bytes());
            write_name(out, labels);
        })
    }

    /// An address that goes with an answer; left out if it has no room.
    pub fn additional(&mut self, labels: &[&str], ip: IpAddr) {
        let mut owner = Vec::with_capacity(64);
        write_name(&mut owner, labels);
        let ttl = self.ttl;
        let fits = match ip {
            IpAddr::V4(ip) => {
                self.record(&owner, kind::A, ttl, |out| out.extend_from_slice(&ip.octets()))
            }
            IpAddr::V6(ip) => {
                self.record(&owner, kind::AAAA, ttl, |out| out.extend_from_slice(&ip.octets()))
            }
        };
        self.additional += u16::from(fits);
    }

    /// The name server of our zone, which is whoever is asked.
    pub fn name_server(&mut self, labels: &[&str]) -> bool {
        self.answer(kind::NS, |out| write_name(out, labels))
    }

    /// The zone's begin, as the answer.
    pub fn start_of_authority(&mut self) -> bool {
        let ttl = self.ttl;
        self.answer(kind::SOA, |out| write_soa(out, ttl))
    }

    /// Says for how long it may be remembered that there is nothing: by a SOA of the zone that the
    /// last `labels` of the name asked for are (RFC 2308 section 3).
    pub fn nothing(&mut self, labels: usize) {
        let first = self.query.name.len().saturating_sub(labels);
        let owner = if labels == 0 { None } else { Some(pointer(self.query.name.offset(first))) };
        let ttl = self.ttl;
        let fits = match owner {
            Some(owner) => self.record(&owner, kind::SOA, ttl, |out| write_soa(out, ttl)),
            None => self.record(&[0], kind::SOA, ttl, |out| write_soa(out, ttl)),
        };
        self.authority += u16::from(fits);
    }

    /// Ends it.
    pub fn end(self, code: Code, authoritative: bool) {
        let low = code as u16;
        if let Some(edns) = self.query.edns {
            let extended = (low >> 4) as u8;
            let flags = if edns.dnssec_ok { 0x80 } else { 0 };
            self.out.extend_from_slice(&[0, 0, kind::OPT as u8]);
            self.out.extend_from_slice(&(UDP_LIMIT as u16).to_be_bytes());
            self.out.extend_from_slice(&[extended, 0, flags, 0, 0, 0]);
        }
        let bytes = self.query.bytes;
        // QR, the opcode 0, AA, TC, RD as it was; RA, CD as it was.
        let authoritative = if authoritative { 4 } else { 0 };
        let truncated = if self.truncated { 2 } else { 0 };
        self.out[2] = 0x80 | authoritative | truncated | (bytes[2] & 1);
        self.out[3] = 0x80 | (bytes[3] & 0x10) | (low & 0xf) as u8;
        let opt = u16::from(self.query.edns.is_some());
        let counts = [1, self.answers, self.authority, self.additional + opt];
        for (n, count) in counts.into_iter().enumerate() {
            self.out[4 + 2 * n..6 + 2 * n].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// A reply to a message that was refused as it stands: its header, and its question if it has one.
pub fn refuse(message: &[u8], code: Code, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(message);
    let question = u8::from(message.len() > HEADER);
    out[2] = 0x80 | (message[2] & 0x79);
    out[3] = 0x80 | (code as u16 & 0xf) as u8;
    out[4..HEADER].copy_from_slice(&[0, question, 0, 0, 0, 0, 0, 0]);
}

/// Cuts a reply off that came from elsewhere and is too long: who asked asks again by TCP.
pub fn truncate(query: &Query<'_>, reply: &mut Vec<u8>) {
    reply.truncate(query.end.max(HEADER));
    reply[2] |= 2;
    let question = u8::from(query.end > HEADER);
    reply[4..HEADER].copy_from_slice(&[0, question, 0, 0, 0, 0, 0, 0]);
}

fn pointer(offset: u16) -> [u8; 2] {
    (0xc000 | offset).to_be_bytes()
}

fn write_name(out: &mut Vec<u8>, labels: &[&str]) {
    // `overlay.internal` is one text.
    for label in labels.iter().flat_map(|text| text.split('.')) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

fn write_soa(out: &mut Vec<u8>, ttl: u32) {
    write_name(out, &["ns", crate::DOMAIN]);
    write_name(out, &["hostmaster", crate::DOMAIN]);
    // Serial, refresh, retry, expire: nobody transfers it. The last is how long nothing lasts.
    for number in [1, 3600, 600, 86_400, ttl] {
        out.extend_from_slice(&u32::to_be_bytes(number));
    }
}

#[cfg(test)]
mod tests;
