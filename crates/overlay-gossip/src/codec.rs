//! Records as text that gossip can carry, and back.
//!
//! A value is base64 (no padding) of one byte that says the format and the
//! bytes of that format. Formats live in modules of their own and are frozen
//! once released: [`v1`] has all kinds of the beginning, [`v2`] the one that came
//! later, [`v3`] networks that say which addresses may be leased, [`v4`] what is said
//! of hosts that are away, [`v5`] that a host is drained, [`v6`] endpoints to which ports of
//! hosts lead, [`v7`] services. A record is
//! written in the oldest format that has all of it, so that as many hosts as
//! possible can read it, and in no other. A reader that does not know a format or a
//! key counts it and passes it on.
//!
//! What arrives is hostile until proven otherwise: [`decode`] checks the length
//! before it looks, never allocates by a length that the bytes claim, accepts
//! no bytes left over, and never panics.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use overlay_model::{HostId, Record, RecordKey};

mod v1;
mod v2;
mod v3;
mod v4;
mod v5;
mod v6;
mod v7;

/// The longest value, bytes of text. Gossip packs values into datagrams, and
/// one that does not fit blocks every later record of its host.
pub const MAX_VALUE: usize = 1024;

/// What a decoder may claim in memory for one record, bytes: more than any
/// value of [`MAX_VALUE`] needs, too little to hurt.
const DECODE_LIMIT: usize = 64 * 1024;

/// A record is too long for gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it takes {len} bytes of {MAX_VALUE}; shorten its labels or names")]
pub struct TooLong {
    /// How long its value would be, bytes of text.
    pub len: usize,
}

/// Why a value is no record to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("longer than {MAX_VALUE} bytes")]
    TooLong,
    #[error("not base64")]
    NotBase64,
    #[error("no bytes")]
    Empty,
    #[error("format {0}, which this version does not know")]
    UnknownVersion(u8),
    #[error("bytes that are no record")]
    Malformed,
    #[error("bytes after the record")]
    Trailing,
    #[error("{0} out of range")]
    Invalid(&'static str),
    #[error("a record that does not belong under this key or to this host")]
    Misplaced,
}

impl DecodeError {
    /// The name of its counter.
    pub(crate) fn counter(self) -> &'static str {
        match self {
            Self::TooLong => "undecodable_too_long",
            Self::NotBase64 => "undecodable_not_base64",
            Self::Empty => "undecodable_empty",
            Self::UnknownVersion(_) => "undecodable_unknown_version",
            Self::Malformed => "undecodable_malformed",
            Self::Trailing => "undecodable_trailing",
            Self::Invalid(_) => "undecodable_invalid",
            Self::Misplaced => "undecodable_misplaced",
        }
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

/// The value of `record`.
pub(crate) fn encode(record: &Record) -> Result<String, TooLong> {
    let standard = bincode::config::standard();
    let (version, body) = match record {
        Record::Drained => (5, bincode::encode_to_vec(v5::Record::Drained, standard)),
        Record::Service(service) => {
            (7, bincode::encode_to_vec(v7::Record::from(service), standard))
        }
        Record::Fate(fate) => (4, bincode::encode_to_vec(v4::Record::from(fate), standard)),
        Record::Keys(keys) => (2, bincode::encode_to_vec(v2::Record::from(keys), standard)),
        Record::Host(host) => (1, bincode::encode_to_vec(v1::Record::Host(host.into()), standard)),
        Record::Network(network) if v3::is_needed(network) => {
            (3, bincode::encode_to_vec(v3::Record::from(network), standard))
        }
        Record::Network(network) => {
            (1, bincode::encode_to_vec(v1::Record::Network(network.into()), standard))
        }
        Record::Endpoint(endpoint) if v6::is_needed(endpoint) => {
            (6, bincode::encode_to_vec(v6::Record::from(endpoint), standard))
        }
        Record::Endpoint(endpoint) => {
            (1, bincode::encode_to_vec(v1::Record::Endpoint(endpoint.into()), standard))
        }
        Record::Ring(token) => {
            (1, bincode::encode_to_vec(v1::Record::Ring(token.into()), standard))
        }
        Record::Want(want) => (1, bincode::encode_to_vec(v1::Record::Want(want.into()), standard)),
    };
    let mut bytes = vec![version];
    bytes.extend(body.expect("encoding to memory has nothing that can fail"));
    let len = text_len(&bytes);
    if len > MAX_VALUE {
        return Err(TooLong { len });
    }
    Ok(STANDARD_NO_PAD.encode(bytes))
}

/// How long the value is that has these bytes.
fn text_len(bytes: &[u8]) -> usize {
    (bytes.len() * 4).div_ceil(3)
}

/// The record that `value` is, under `key`, written by `owner`.
pub(crate) fn decode(owner: HostId, key: RecordKey, value: &str) -> Result<Record, DecodeError> {
    let record = decode_value(value)?;
    if fits(owner, key, &record) { Ok(record) } else { Err(DecodeError::Misplaced) }
}

/// The value that has these bytes.
#[cfg(feature = "fuzzing")]
pub(crate) fn text_of(bytes: &[u8]) -> String {
    STANDARD_NO_PAD.encode(bytes)
}

/// The bytes of a value, as they are pushed.
pub(crate) fn bytes_of(value: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(value).ok()
}

/// [`decode`] of the bytes of a value.
pub(crate) fn decode_bytes(
    owner: HostId,
    key: RecordKey,
    bytes: &[u8],
) -> Result<Record, DecodeError> {
    // As gossip would refuse it: what a push tells must be what gossip tells.
    if text_len(bytes) > MAX_VALUE {
        return Err(DecodeError::TooLong);
    }
    let record = read(bytes)?;
    if fits(owner, key, &record) { Ok(record) } else { Err(DecodeError::Misplaced) }
}

fn decode_value(value: &str) -> Result<Record, DecodeError> {
    if value.len() > MAX_VALUE {
        return Err(DecodeError::TooLong);
    }
    read(&STANDARD_NO_PAD.decode(value).map_err(|_| DecodeError::NotBase64)?)
}

pub(crate) fn read(bytes: &[u8]) -> Result<Record, DecodeError> {
    let (version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    match version {
        1 => whole::<v1::Record>(body)?
            .try_into()
            .map_err(|v1::OutOfRange(what)| DecodeError::Invalid(what)),
        2 => whole::<v2::Record>(body)?
            .try_into()
            .map_err(|v2::OutOfRange(what)| DecodeError::Invalid(what)),
        3 => whole::<v3::Record>(body)?
            .try_into()
            .map_err(|v1::OutOfRange(what)| DecodeError::Invalid(what)),
        4 => Ok(whole::<v4::Record>(body)?.into()),
        5 => Ok(whole::<v5::Record>(body)?.into()),
        7 => whole::<v7::Record>(body)?
            .try_into()
            .map_err(|v1::OutOfRange(what)| DecodeError::Invalid(what)),
        6 => whole::<v6::Record>(body)?
            .try_into()
            .map_err(|v1::OutOfRange(what)| DecodeError::Invalid(what)),
        other => Err(DecodeError::UnknownVersion(*other)),
    }
}

/// What `body` is in one format, all of it.
fn whole<T: bincode::Decode<()>>(body: &[u8]) -> Result<T, DecodeError> {
    let (record, read) =
        bincode::decode_from_slice(body, config()).map_err(|_| DecodeError::Malformed)?;
    if read == body.len() { Ok(record) } else { Err(DecodeError::Trailing) }
}

/// Says whether `record` may stand under `key` in the records of `owner`: what
/// key and value both say, they must say alike.
pub(crate) fn fits(owner: HostId, key: RecordKey, record: &Record) -> bool {
    match (key, record) {
        (RecordKey::Host, Record::Host(host)) => host.id == owner,
        (RecordKey::Network(id), Record::Network(network)) => network.id == id,
        (RecordKey::Service(net, id), Record::Service(service)) => {
            service.network == net && service.id == id
        }
        (RecordKey::Endpoint(net, id), Record::Endpoint(endpoint)) => {
            endpoint.network == net && endpoint.id == id
        }
        (RecordKey::Ring(..), Record::Ring(_))
        | (RecordKey::Want(..), Record::Want(_))
        | (RecordKey::Keys, Record::Keys(_))
        | (RecordKey::Fate(_), Record::Fate(_))
        | (RecordKey::Drained, Record::Drained) => true,
        (
            RecordKey::Host
            | RecordKey::Network(_)
            | RecordKey::Endpoint(..)
            | RecordKey::Ring(..)
            | RecordKey::Want(..)
            | RecordKey::Keys
            | RecordKey::Fate(_)
            | RecordKey::Service(..)
            | RecordKey::Drained,
            _,
        ) => false,
    }
}

/// A short description of where a value stood, for one log line.
pub(crate) struct Place<'a> {
    pub(crate) host: HostId,
    pub(crate) key: &'a str,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/", self.host)?;
        self.key.chars().take(80).try_for_each(|c| write!(f, "{}", c.escape_debug()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
