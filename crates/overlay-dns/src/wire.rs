//! DNS messages: queries read, replies written, by `hickory-proto`.
//!
//! What is here is what we want of it: a query is a question and perhaps EDNS, and a reply is its
//! question letter by letter (some resolvers draw the case of letters at random and look for it in
//! the reply) with as many records as it may have bytes.
//!
//! Ours in place of hickory's are:
//!
//! - **the order in which a message is read**. `op::Message` is read whole or not at all, makes
//!   room for as many questions as a header claims, and cannot give back the question of a message
//!   that goes wrong behind it.
//! - **where a reply ends.** The encoder writes a name out before it makes a pointer of it, so that
//!   its own limit leaves out records that fit, and with them EDNS.
//! - **two places in a relayed message**: its number, and the letters of its question. Whatever
//!   else it has goes through as it came.

use std::net::IpAddr;
use std::sync::LazyLock;

use hickory_proto::op::{self, Edns, Header, HeaderCounts, MessageType, Metadata, OpCode};
use hickory_proto::rr::rdata::{NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{
    BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder, DecodeError, EncodedSize as _,
    Place,
};

pub use hickory_proto::op::ResponseCode;
pub use hickory_proto::rr::RecordType;

/// Bytes of a message's header.
pub const HEADER: usize = Header::LEN;

/// What a reply by UDP may have if the query does not say otherwise.
pub const PLAIN_LIMIT: usize = 512;

/// What a reply by UDP may have at most: no underlay or VPN makes two packets of it (the DNS flag
/// day of 2020).
pub const UDP_LIMIT: usize = op::DEFAULT_MAX_PAYLOAD_LEN as usize;

/// What a reply by TCP may have.
pub const TCP_LIMIT: usize = 65_535;

/// Records that are read behind a question, for its OPT.
const MAX_EXTRA: u16 = 16;

/// What every name of ours ends in.
pub(crate) static DOMAIN: LazyLock<Name> = LazyLock::new(|| name_of(&[crate::DOMAIN]));

/// A code as `dig` prints it.
pub fn mnemonic(code: ResponseCode) -> String {
    format!("{code:?}").to_uppercase()
}

/// A question.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    bytes: &'a [u8],
    metadata: Metadata,
    /// As it came.
    pub asked: op::Query,
    /// Of what, in lower case.
    pub name: Name,
    /// Where the question ends.
    end: usize,
    /// EDNS, if it has that.
    pub edns: Option<Edns>,
}

/// What a message is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are questions, and none is kept")]
pub enum Message<'a> {
    /// A question.
    Query(Query<'a>),
    /// Something that is refused, by this reply, with the question if it can be read.
    Refuse(Vec<u8>),
    /// Nothing to answer: too short, or a reply. Who answers replies can be made to answer himself
    /// for ever.
    Ignore,
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub fn read(bytes: &'a [u8]) -> Message<'a> {
        let mut decoder = BinDecoder::new(bytes);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else {
            return Message::Ignore;
        };
        if metadata.message_type == MessageType::Response {
            return Message::Ignore;
        }
        if metadata.op_code != OpCode::Query {
            return refuse(&metadata, None, ResponseCode::NotImp);
        }
        let asked = if counts.queries == 1 { read_question(&mut decoder) } else { None };
        let Some(asked) = asked else { return refuse(&metadata, None, ResponseCode::FormErr) };
        let end = decoder.index();
        match read_edns(&mut decoder, counts) {
            Some(edns) => {
                let name = asked.name.to_lowercase();
                Message::Query(Self { bytes, metadata, asked, name, end, edns })
            }
            None => refuse(&metadata, Some(asked), ResponseCode::FormErr),
        }
    }

    /// Its number.
    pub fn id(&self) -> u16 {
        self.metadata.id
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
        let said = self.edns.as_ref().map_or(PLAIN_LIMIT, |edns| edns.max_payload().into());
        said.clamp(PLAIN_LIMIT, UDP_LIMIT)
    }

    /// True if `reply` is one to this query, as it was sent under `id`.
    pub fn is_answered_by(&self, reply: &[u8], id: u16) -> bool {
        let mut decoder = BinDecoder::new(reply);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return false };
        metadata.id == id
            && metadata.message_type == MessageType::Response
            && match counts.queries {
                // Some say no question when they refuse.
                0 => decoder.is_empty(),
                // Upper and lower case are the same here.
                1 => read_question(&mut decoder).is_some_and(|asked| asked == self.asked),
                _ => false,
            }
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

/// Reads a question without pointers: nothing stands before it that one could point to.
fn read_question(decoder: &mut BinDecoder<'_>) -> Option<op::Query> {
    let start = decoder.index();
    let asked = op::Query::read(decoder).ok()?;
    // hickory counts dots, and the root as one. A pointer and what it stands for differ in length.
    let name = asked.name.len() + usize::from(!asked.name.is_root());
    (decoder.index() - start == name + 4).then_some(asked)
}

/// Finds EDNS behind the question; `None` if what stands there is not sound.
fn read_edns(decoder: &mut BinDecoder<'_>, counts: HeaderCounts) -> Option<Option<Edns>> {
    // A query has no answers, and nothing is known that would say something there.
    if (counts.answers, counts.authorities) != (0, 0) || counts.additionals > MAX_EXTRA {
        return None;
    }
    match op::Message::read_records(decoder, counts.additionals.into(), true, OpCode::Query) {
        Ok((_, edns, _)) => Some(edns),
        // Nobody's subnet, of family 0, by which older getdns asks not to be told on. hickory knows
        // 1 and 2 only; it is answered as if it came without EDNS.
        Err(DecodeError::UnknownAddressFamily(_)) => Some(None),
        Err(_) => None,
    }
}

/// The reply to a message that is refused as it stands.
fn refuse<'a>(request: &Metadata, asked: Option<op::Query>, code: ResponseCode) -> Message<'a> {
    let mut reply = op::Message::response(request.id, request.op_code);
    reply.metadata = response_to(request, code);
    reply.add_queries(asked);
    reply.to_vec().map_or(Message::Ignore, Message::Refuse)
}

fn response_to(request: &Metadata, code: ResponseCode) -> Metadata {
    let mut metadata = Metadata::response_from_request(request);
    metadata.recursion_available = true;
    metadata.response_code = code;
    metadata
}

/// A question for `name`; `None` if that is no name.
pub fn question(id: u16, name: &str, kind: RecordType) -> Option<Vec<u8>> {
    let mut message = op::Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(op::Query::query(Name::from_ascii(name).ok()?, kind));
    message.to_vec().ok()
}

/// What the header of a reply says.
pub fn header_of(reply: &[u8]) -> Option<Metadata> {
    Header::read(&mut BinDecoder::new(reply)).ok().map(|header| header.metadata)
}

/// The name of these labels, which are ours: of texts with dots between, too.
fn name_of(labels: &[&str]) -> Name {
    let labels = labels.iter().flat_map(|text| text.split('.')).map(str::as_bytes);
    Name::from_labels(labels).expect("names of endpoints and networks are labels, and two are few")
}

/// A reply that is being written.
pub struct Reply<'a, 'q> {
    encoder: BinEncoder<'a>,
    header: Place<Header>,
    query: &'a Query<'q>,
    limit: usize,
    ttl: u32,
    counts: HeaderCounts,
    truncated: bool,
}

/// Bytes of an OPT record without options.
const OPT: usize = 11;

impl<'a, 'q> Reply<'a, 'q> {
    /// Begins one of at most `limit` bytes; records in it may be kept for `ttl` seconds.
    pub fn new(query: &'a Query<'q>, limit: usize, ttl: u32, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        let mut encoder = BinEncoder::new(out);
        let header = encoder.place().expect("a buffer has room for a header");
        query.asked.emit(&mut encoder).expect("a question that was read can be written");
        let limit = limit - if query.edns.is_some() { OPT } else { 0 };
        let counts = HeaderCounts { queries: 1, ..HeaderCounts::default() };
        Self { encoder, header, query, limit, ttl, counts, truncated: false }
    }

    /// In place of a reply that came from elsewhere and is too long: who asked asks again by TCP.
    pub fn cut_off(query: &'a Query<'q>, code: ResponseCode, out: &'a mut Vec<u8>) {
        let mut reply = Self::new(query, PLAIN_LIMIT, 0, out);
        reply.truncated = true;
        reply.end(code, false);
    }

    /// True if something had no room.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// How many answers it has.
    pub fn answers(&self) -> u16 {
        self.counts.answers
    }

    /// Writes a record, if it has room.
    fn record(&mut self, owner: Name, data: RData) -> bool {
        let start = self.encoder.offset();
        let written = Record::from_rdata(owner, self.ttl, data).emit(&mut self.encoder);
        let fits = written.is_ok() && self.encoder.offset() <= self.limit;
        if !fits {
            self.encoder.set_offset(start);
            self.encoder.trim();
        }
        fits
    }

    /// An answer under the name that was asked for. False if there was no room: then the reply
    /// says that it is not all.
    fn answer(&mut self, data: RData) -> bool {
        let fits = self.record(self.query.asked.name.clone(), data);
        self.counts.answers += u16::from(fits);
        self.truncated |= !fits;
        fits
    }

    /// An address.
    pub fn address(&mut self, ip: IpAddr) -> bool {
        self.answer(ip.into())
    }

    /// The name of an address, of these labels.
    pub fn pointer(&mut self, labels: &[&str]) -> bool {
        self.answer(RData::PTR(PTR(name_of(labels))))
    }

    /// Where a service is: at a name of these labels.
    pub fn service(&mut self, port: u16, labels: &[&str]) -> bool {
        // Priority and weight: all alike.
        self.answer(RData::SRV(SRV::new(0, 0, port, name_of(labels))))
    }

    /// An address that goes with an answer. False if there was no room: nobody misses it.
    pub fn additional(&mut self, labels: &[&str], ip: IpAddr) -> bool {
        let fits = self.record(name_of(labels), ip.into());
        self.counts.additionals += u16::from(fits);
        fits
    }

    /// The name server of our zone, which is whoever is asked.
    pub fn name_server(&mut self) -> bool {
        self.answer(RData::NS(NS(name_of(&["ns", crate::DOMAIN]))))
    }

    /// The zone's begin, as the answer.
    pub fn start_of_authority(&mut self) -> bool {
        self.answer(soa(self.ttl))
    }

    /// Says for how long it may be remembered that there is nothing: by a SOA of the zone that the
    /// last `labels` of the name asked for are (RFC 2308 section 3).
    pub fn nothing(&mut self, labels: usize) {
        let fits = self.record(self.query.asked.name.trim_to(labels), soa(self.ttl));
        self.counts.authorities += u16::from(fits);
    }

    /// Ends it.
    pub fn end(mut self, code: ResponseCode, authoritative: bool) {
        if let Some(asked) = &self.query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(op::DEFAULT_MAX_PAYLOAD_LEN);
            edns.set_dnssec_ok(asked.flags().dnssec_ok).set_rcode_high(code.high());
            let fits = edns.emit(&mut self.encoder).is_ok();
            self.counts.additionals += u16::from(fits);
        }
        let mut metadata = response_to(&self.query.metadata, code);
        metadata.authoritative = authoritative;
        metadata.truncation = self.truncated;
        let header = Header { metadata, counts: self.counts };
        self.header.replace(&mut self.encoder, header).expect("its place is there");
    }
}

fn soa(ttl: u32) -> RData {
    let [server, person] = ["ns", "hostmaster"].map(|label| name_of(&[label, crate::DOMAIN]));
    // Serial, refresh, retry, expire: nobody transfers it. The last is how long nothing lasts.
    RData::SOA(SOA::new(server, person, 1, 3600, 600, 86_400, ttl))
}

#[cfg(test)]
mod tests;
