//! What a message of chitchat may hold before chitchat sees it.
//!
//! Whoever has a key is trusted, and may still be wrong. Two things in a
//! message could end chitchat's task or fill the memory:
//!
//! - a **digest** that names very many nodes: chitchat adds them all to its
//!   own, and once that leaves less than 100 bytes of a message of 65,507 for
//!   anything else, it panics (`DeltaSerializer::with_mtu` in 0.13);
//! - **compressed blocks**, each of at most 64 KiB when unpacked, but as many
//!   as 20,000 of them in a message.
//!
//! Both are measured here, with a buffer of one block, and what is beyond the
//! bounds is refused. So is what is no message at all.
//!
//! Several members that each name other nodes could still overfill a digest
//! between them. Then chitchat's task dies, and the driver begins a new life of
//! it that knows none of those nodes.
//!
//! Format (chitchat 0.13, little endian): magic 2, version 1, type 1 (0 syn, 1
//! syn-ack, 2 ack, 3 bad cluster); a digest in syn and syn-ack; a delta in
//! syn-ack and ack; in syn, a cluster name. A digest of version 1 and a delta
//! are streams: blocks of tag 1 (1 compressed, 2 not, 0 end), length 2, bytes.

/// Nodes that a digest may name: about 1,000 hosts, each with a former life
/// that is not forgotten yet, fill a message.
pub(crate) const MAX_NODES: usize = 2500;

/// Of the unpacked digest, bytes: ours takes 51 to 63 a node.
const MAX_DIGEST: usize = MAX_NODES * 128;

/// Of the unpacked delta, bytes. A message of the most repetitive records that
/// there could be takes less.
const MAX_DELTA: usize = 32 << 20;

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
            rest = skip_node(rest).ok_or(Unfit::Malformed)?;
        }
        return Ok(rest);
    }
    let mut unpacked = Vec::new();
    let rest = unpack(bytes, |block| {
        unpacked.extend_from_slice(block);
        unpacked.len() <= MAX_DIGEST
    })?;
    let mut nodes = unpacked.as_slice();
    let mut count = 0;
    while !nodes.is_empty() {
        nodes = skip_node(nodes).ok_or(Unfit::Malformed)?;
        count += 1;
        if count > MAX_NODES {
            return Err(Unfit::TooMuch);
        }
    }
    Ok(rest)
}

fn check_delta(bytes: &[u8]) -> Result<(), Unfit> {
    // Most cannot hold too much, however well they are packed: no need to unpack.
    let mut blocks = 0;
    walk(bytes, |_, _| {
        blocks += 1;
        Ok(())
    })?;
    if blocks * BLOCK <= MAX_DELTA {
        return Ok(());
    }
    let mut total = 0;
    unpack(bytes, |block| {
        total += block.len();
        total <= MAX_DELTA
    })
    .map(drop)
}

/// A node of a digest: name, generation, address; heartbeat and two versions.
fn skip_node(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let rest = rest.get(usize::from(u16::from_le_bytes(*len))..)?;
    let (_, rest) = rest.split_first_chunk::<8>()?;
    let ip = match rest.first()? {
        4 => 4,
        6 => 16,
        _ => return None,
    };
    rest.get(1 + ip + 2 + 24..)
}

/// Shows each block of a stream, unpacked, to `take`, until it says that it is
/// enough. Returns what follows the stream.
fn unpack(bytes: &[u8], mut take: impl FnMut(&[u8]) -> bool) -> Result<&[u8], Unfit> {
    let mut buffer = vec![0; BLOCK];
    walk(bytes, |compressed, block| {
        let block = if compressed {
            let len = zstd::bulk::decompress_to_buffer(block, &mut buffer)
                .map_err(|_| Unfit::Malformed)?;
            &buffer[..len]
        } else {
            block
        };
        if take(block) { Ok(()) } else { Err(Unfit::TooMuch) }
    })
}

/// Shows each block as it is, and whether it is compressed.
fn walk(
    mut bytes: &[u8],
    mut show: impl FnMut(bool, &[u8]) -> Result<(), Unfit>,
) -> Result<&[u8], Unfit> {
    loop {
        let (&tag, rest) = bytes.split_first().ok_or(Unfit::Malformed)?;
        let compressed = match tag {
            NO_MORE => return Ok(rest),
            COMPRESSED => true,
            UNCOMPRESSED => false,
            _ => return Err(Unfit::Malformed),
        };
        let (len, rest) = rest.split_first_chunk::<2>().ok_or(Unfit::Malformed)?;
        let len = usize::from(u16::from_le_bytes(*len));
        let (block, rest) = rest.split_at_checked(len).ok_or(Unfit::Malformed)?;
        show(compressed, block)?;
        bytes = rest;
    }
}

#[cfg(test)]
pub(crate) mod tests;
