//! What a message of chitchat may hold before chitchat sees it.
//!
//! Whoever has a key is trusted, and may still be wrong. These in a message
//! could end chitchat's task or fill the memory:
//!
//! - a **digest** that names very many nodes: chitchat adds them all to its
//!   own, and once that leaves less than 100 bytes of a message of 65,507 for
//!   anything else, it panics (`DeltaSerializer::with_mtu` in 0.13);
//! - **compressed blocks**, each of at most 64 KiB when unpacked, but as many
//!   as 20,000 of them in a message, for each of which chitchat makes itself a
//!   decompressor anew;
//! - a **delta** that says of a node that it has come less far than its last
//!   record (`NodeState::apply_delta` asserts the contrary), or further than can
//!   be counted on from; and names, keys and values so long that chitchat takes
//!   them and then cannot pass them on, nor what their host writes after them;
//! - a **key** whose first character is more than a byte, which it cuts in the
//!   middle (`InnerListeners::trigger_event`). Ours are ASCII.
//!
//! All are measured here, with a buffer of one block and of one entry, and what
//! is beyond the bounds is refused. So is what is no message at all.
//!
//! Several members that each name other nodes could still overfill a digest
//! between them. Then chitchat's task dies, and the driver begins a new life of
//! it that knows none of those nodes.
//!
//! Format (chitchat 0.13, little endian): magic 2, version 1, type 1 (0 syn, 1
//! syn-ack, 2 ack, 3 bad cluster); a digest in syn and syn-ack; a delta in
//! syn-ack and ack; in syn, a cluster name. A digest of version 1 and a delta
//! are streams: blocks of tag 1 (1 compressed, 2 not, 0 end), length 2, bytes.
//! In a delta's stream: 0 node (name, generation, address, two versions), 1
//! record (key, value, version, status 1), 2 version that the node has come to.

/// Nodes that a digest may name: about 1,000 hosts, each with a former life
/// that is not forgotten yet, fill a message.
pub(crate) const MAX_NODES: usize = 2500;

/// Of the unpacked digest, bytes: ours takes 51 to 63 a node.
const MAX_DIGEST: usize = MAX_NODES * 128;

/// Of the unpacked delta, bytes. A message of the most repetitive records that
/// there could be takes less.
const MAX_DELTA: usize = 32 << 20;

/// Of a stream, blocks: twice what chitchat makes of so much, 16 KiB each. It
/// takes a new decompressor for every one, however small.
const MAX_BLOCKS: usize = 2 * MAX_DELTA / (16 << 10);

/// Of a node's name, bytes: ours have 10.
const MAX_NAME: usize = 255;

/// Of a key and of a value, bytes: eight times what any host writes.
const MAX_TEXT: usize = 8 * crate::codec::MAX_VALUE;

/// The largest version: a host that writes a million records a second comes to
/// it in 146,000 years, and from it chitchat can count on.
const MAX_VERSION: u64 = 1 << 62;

// Tags of blocks.
const NO_MORE: u8 = 0;
const COMPRESSED: u8 = 1;
const UNCOMPRESSED: u8 = 2;

/// What one block unpacks to, at most.
const BLOCK: usize = u16::MAX as usize;

/// Why a message is kept from chitchat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is no message of chitchat.
    Malformed,
    /// It holds more than the bounds above.
    TooMuch,
}

/// Looks into a message.
pub(crate) fn check(message: &[u8]) -> Result<(), Unfit> {
    let rest = message.strip_prefix(&45_139_u16.to_le_bytes()).ok_or(Unfit::Malformed)?;
    let [version @ (0 | 1), kind, rest @ ..] = rest else { return Err(Unfit::Malformed) };
    match kind {
        0 => check_digest(*version, rest).map(drop),
        1 => check_delta(check_digest(*version, rest)?),
        2 => check_delta(rest),
        3 => Ok(()),
        _ => Err(Unfit::Malformed),
    }
}

/// Returns what follows the digest.
fn check_digest(version: u8, bytes: &[u8]) -> Result<&[u8], Unfit> {
    if version == 0 {
        let (count, mut rest) = bytes.split_first_chunk::<2>().ok_or(Unfit::Malformed)?;
        let count = usize::from(u16::from_le_bytes(*count));
        if count > MAX_NODES {
            return Err(Unfit::TooMuch);
        }
        for _ in 0..count {
            rest = skip_node(rest)?;
        }
        return Ok(rest);
    }
    let mut unpacked = Vec::new();
    let rest = unpack(bytes, |block| {
        unpacked.extend_from_slice(block);
        if unpacked.len() > MAX_DIGEST { Err(Unfit::TooMuch) } else { Ok(()) }
    })?;
    let mut nodes = unpacked.as_slice();
    let mut count = 0;
    while !nodes.is_empty() {
        nodes = skip_node(nodes)?;
        count += 1;
        if count > MAX_NODES {
            return Err(Unfit::TooMuch);
        }
    }
    Ok(rest)
}

fn check_delta(bytes: &[u8]) -> Result<(), Unfit> {
    let mut total = 0;
    let mut entries = Entries::default();
    unpack(bytes, |block| {
        total += block.len();
        if total > MAX_DELTA { Err(Unfit::TooMuch) } else { entries.take(block) }
    })?;
    if entries.begun.is_empty() { Ok(()) } else { Err(Unfit::Malformed) }
}

/// The entries of a delta, as its blocks come.
#[derive(Default)]
struct Entries {
    /// The entry that goes on in the next block.
    begun: Vec<u8>,
    /// How far the present node has come.
    version: u64,
}

impl Entries {
    fn take(&mut self, block: &[u8]) -> Result<(), Unfit> {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(block);
        let mut rest = bytes.as_slice();
        while let Some(after) = self.entry(rest)? {
            rest = after;
        }
        self.begun = rest.to_vec();
        Ok(())
    }

    /// Returns what follows the first entry. `None`: it is not all here.
    fn entry<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Unfit> {
        let Some((tag, rest)) = bytes.split_first() else { return Ok(None) };
        let (versions, rest) = match tag {
            0 => {
                let Some(rest) = skip_id(rest)? else { return Ok(None) };
                let Some((versions, rest)) = take_versions::<2>(rest) else { return Ok(None) };
                self.version = 0;
                (versions.to_vec(), rest)
            }
            1 => {
                let Some((key, rest)) = take_text(rest, MAX_TEXT)? else { return Ok(None) };
                if !key.is_ascii() {
                    return Err(Unfit::Malformed);
                }
                let Some((_value, rest)) = take_text(rest, MAX_TEXT)? else { return Ok(None) };
                let Some(([version], rest)) = take_versions(rest) else { return Ok(None) };
                let Some((_status, rest)) = rest.split_first() else { return Ok(None) };
                self.comes_to(version)?;
                (vec![version], rest)
            }
            2 => {
                let Some(([version], rest)) = take_versions(rest) else { return Ok(None) };
                self.comes_to(version)?;
                (vec![version], rest)
            }
            _ => return Err(Unfit::Malformed),
        };
        let countable = versions.iter().all(|version| *version <= MAX_VERSION);
        if countable { Ok(Some(rest)) } else { Err(Unfit::TooMuch) }
    }

    fn comes_to(&mut self, version: u64) -> Result<(), Unfit> {
        if version < self.version {
            return Err(Unfit::Malformed);
        }
        self.version = version;
        Ok(())
    }
}

fn take_versions<const N: usize>(bytes: &[u8]) -> Taken<'_, [u64; N]> {
    let (versions, rest) = bytes.split_at_checked(N * 8)?;
    let mut versions = versions.chunks_exact(8).map(|version| {
        u64::from_le_bytes(*version.first_chunk().expect("chunks of eight are eight"))
    });
    Some((std::array::from_fn(|_| versions.next().expect("there are N")), rest))
}

/// Something and what follows it. `None`: it is not all here.
type Taken<'a, T> = Option<(T, &'a [u8])>;

fn take_text(bytes: &[u8], most: usize) -> Result<Taken<'_, &[u8]>, Unfit> {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let len = usize::from(u16::from_le_bytes(*len));
    if len > most { Err(Unfit::TooMuch) } else { Ok(rest.split_at_checked(len)) }
}

/// Returns what follows a node's name, generation and address. `None`: they are
/// not all here.
fn skip_id(bytes: &[u8]) -> Result<Option<&[u8]>, Unfit> {
    let Some((_name, rest)) = take_text(bytes, MAX_NAME)? else { return Ok(None) };
    let Some((&ip, rest)) = rest.get(8..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let ip = match ip {
        4 => 4,
        6 => 16,
        _ => return Err(Unfit::Malformed),
    };
    Ok(rest.get(ip + 2..))
}

/// Returns what follows a node of a digest: its id, heartbeat, two versions.
fn skip_node(bytes: &[u8]) -> Result<&[u8], Unfit> {
    skip_id(bytes)?.and_then(|rest| rest.get(24..)).ok_or(Unfit::Malformed)
}

/// Shows each block of a stream, unpacked, to `take`. Returns what follows the
/// stream.
fn unpack(
    mut bytes: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<(), Unfit>,
) -> Result<&[u8], Unfit> {
    let mut buffer = vec![0; BLOCK];
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(|_| Unfit::Malformed)?;
    for _ in 0..=MAX_BLOCKS {
        let (&tag, rest) = bytes.split_first().ok_or(Unfit::Malformed)?;
        if tag == NO_MORE {
            return Ok(rest);
        }
        let (len, rest) = rest.split_first_chunk::<2>().ok_or(Unfit::Malformed)?;
        let len = usize::from(u16::from_le_bytes(*len));
        let (block, rest) = rest.split_at_checked(len).ok_or(Unfit::Malformed)?;
        match tag {
            COMPRESSED => {
                let len = decompressor
                    .decompress_to_buffer(block, &mut buffer)
                    .map_err(|_| Unfit::Malformed)?;
                take(&buffer[..len])?;
            }
            UNCOMPRESSED => take(block)?,
            _ => return Err(Unfit::Malformed),
        }
        bytes = rest;
    }
    Err(Unfit::TooMuch)
}

#[cfg(test)]
pub(crate) mod tests;
