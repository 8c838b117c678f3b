use proptest::prelude::*;

use super::*;

/// A digest's entry, as chitchat 0.13 writes it.
pub(crate) fn node(n: u32) -> Vec<u8> {
    let name = format!("{n:010x}");
    let mut bytes = 10_u16.to_le_bytes().to_vec();
    bytes.extend(name.bytes());
    bytes.extend(u64::from(n).to_le_bytes());
    bytes.extend([4, 192, 0, 2, 1, 0x0a, 0x1f]);
    bytes.extend([1; 24]);
    bytes
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let block = zstd::bulk::compress(bytes, 0).unwrap();
    let len = u16::try_from(block.len()).unwrap();
    [&[COMPRESSED], &len.to_le_bytes()[..], &block].concat()
}

fn stream(bytes: &[u8]) -> Vec<u8> {
    let blocks: Vec<u8> = bytes.chunks(16_384).flat_map(compressed).collect();
    [&blocks[..], &[NO_MORE]].concat()
}

/// A syn of the cluster `overlayd` whose digest has these entries.
pub(crate) fn syn(nodes: &[u8]) -> Vec<u8> {
    [&header(1, 0)[..], &stream(nodes), &[8, 0], b"overlayd"].concat()
}

fn header(version: u8, kind: u8) -> [u8; 4] {
    let [a, b] = 45_139_u16.to_le_bytes();
    [a, b, version, kind]
}

fn nodes(n: usize) -> Vec<u8> {
    (0..n as u32).flat_map(node).collect()
}

#[test]
fn a_digest_names_so_many_nodes_and_no_more() {
    assert_eq!(check(&syn(&[])), Ok(()));
    assert_eq!(check(&syn(&nodes(MAX_NODES))), Ok(()));
    assert_eq!(check(&syn(&nodes(MAX_NODES + 1))), Err(Unfit::TooMuch));
    assert_eq!(check(&syn(&nodes(20_000))), Err(Unfit::TooMuch));
}

#[test]
fn an_uncompressed_digest_is_bounded_too() {
    let v0 = |n: usize| {
        let count = u16::try_from(n).unwrap().to_le_bytes();
        [&header(0, 0)[..], &count, &nodes(n)].concat()
    };
    assert_eq!(check(&v0(MAX_NODES)), Ok(()));
    assert_eq!(check(&v0(MAX_NODES + 1)), Err(Unfit::TooMuch));
    // It says that there are more than follow.
    let lies = [&header(0, 0)[..], &2000_u16.to_le_bytes(), &nodes(3)].concat();
    assert_eq!(check(&lies), Err(Unfit::Malformed));
}

#[test]
fn a_message_that_unpacks_to_very_much_is_refused() {
    // Entries that say again and again how far a node has come, which is nowhere.
    let nothing = [2, 0, 0, 0, 0, 0, 0, 0, 0].repeat(7200);
    let ack = |blocks: usize| {
        let blocks = compressed(&nothing).repeat(blocks);
        [&header(1, 2)[..], &blocks, &[NO_MORE]].concat()
    };
    assert!(ack(2000).len() < 65_507, "it fits a message: {}", ack(2000).len());
    let most = MAX_DELTA / nothing.len();
    assert_eq!(check(&ack(most)), Ok(()));
    assert_eq!(check(&ack(most + 1)), Err(Unfit::TooMuch));
    // A digest of that kind is refused long before.
    let digest = [&header(1, 0)[..], &compressed(&[0; 65_000]).repeat(10), &[NO_MORE]].concat();
    assert_eq!(check(&digest), Err(Unfit::TooMuch));
}

/// An ack whose delta has these entries, in blocks of `len` bytes.
fn ack(entries: &[Vec<u8>], len: usize) -> Vec<u8> {
    let blocks = entries.concat();
    let blocks: Vec<u8> = blocks.chunks(len).flat_map(compressed).collect();
    [&header(1, 2)[..], &blocks, &[NO_MORE]].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat()
}

/// A node that lacks nothing up to `from`.
fn of(name: &[u8], from: u64) -> Vec<u8> {
    let life = 7_u64.to_le_bytes();
    let addr = [4, 192, 0, 2, 1, 0x0a, 0x1f];
    [&[0], &text(name)[..], &life, &addr, &[0; 8], &from.to_le_bytes()].concat()
}

fn entry(key: usize, value: usize, version: u64) -> Vec<u8> {
    let (key, value) = (text(&vec![b'k'; key]), text(&vec![b'v'; value]));
    [&[1], &key[..], &value, &version.to_le_bytes(), &[0]].concat()
}

fn comes_to(version: u64) -> Vec<u8> {
    [&[2], &version.to_le_bytes()[..]].concat()
}

#[test]
fn a_node_comes_as_far_as_its_last_record_at_least() {
    let good = [of(b"a", 3), entry(1, 9, 4), comes_to(7), of(b"b", 0), comes_to(1)];
    for len in [1, 2, 10, 20, 16_384] {
        assert_eq!(check(&ack(&good, len)), Ok(()), "{len}");
    }
    let back = [of(b"a", 3), entry(1, 9, 4), comes_to(3)];
    assert_eq!(check(&ack(&back, 16_384)), Err(Unfit::Malformed));
    let cut = [of(b"a", 3), entry(1, 9, 4)[..8].to_vec()];
    assert_eq!(check(&ack(&cut, 16_384)), Err(Unfit::Malformed));
    assert_eq!(check(&ack(&[vec![3; 30]], 16_384)), Err(Unfit::Malformed));
}

#[test]
fn chitchat_can_count_on_from_every_version() {
    for delta in [
        vec![of(b"a", u64::MAX)],
        vec![of(b"a", 0), comes_to(u64::MAX)],
        vec![of(b"a", 0), entry(1, 1, MAX_VERSION + 1)],
    ] {
        assert_eq!(check(&ack(&delta, 16_384)), Err(Unfit::TooMuch));
    }
    assert_eq!(check(&ack(&[of(b"a", 0), entry(1, 1, MAX_VERSION)], 16_384)), Ok(()));
}

#[test]
fn a_stream_has_so_many_blocks_and_no_more() {
    let syn = |blocks: usize| {
        let empty = [UNCOMPRESSED, 0, 0].repeat(blocks);
        [&header(1, 0)[..], &empty, &[NO_MORE], &[8, 0], b"overlayd"].concat()
    };
    assert_eq!(check(&syn(MAX_BLOCKS)), Ok(()));
    assert_eq!(check(&syn(MAX_BLOCKS + 1)), Err(Unfit::TooMuch));
}

/// chitchat slices the first byte off a key, whoever listens.
#[test]
fn keys_are_ascii() {
    let mut entry = entry(2, 1, 1);
    assert_eq!(check(&ack(&[of(b"a", 0), entry.clone()], 16_384)), Ok(()));
    entry[3..5].copy_from_slice("\u{3cb}".as_bytes());
    assert_eq!(check(&ack(&[of(b"a", 0), entry], 16_384)), Err(Unfit::Malformed));
}

#[test]
fn what_chitchat_could_not_pass_on_is_refused() {
    let delta = |key, value| ack(&[of(b"a", 0), entry(key, value, 1)], 16_384);
    assert_eq!(check(&delta(MAX_TEXT, MAX_TEXT)), Ok(()));
    assert_eq!(check(&delta(MAX_TEXT + 1, 1)), Err(Unfit::TooMuch));
    assert_eq!(check(&delta(1, 65_535)), Err(Unfit::TooMuch));
    let long = [b'n'; MAX_NAME + 1];
    assert_eq!(check(&ack(&[of(&long, 0)], 16_384)), Err(Unfit::TooMuch));
    let digest = [&text(&long)[..], &[0; 8], &[4, 192, 0, 2, 1, 0, 1], &[0; 24]].concat();
    assert_eq!(check(&syn(&digest)), Err(Unfit::TooMuch));
}

#[test]
fn what_is_no_message_is_malformed() {
    for bytes in [&b""[..], b"junk", &header(2, 0), &header(1, 9), &header(1, 0)[..3]] {
        assert_eq!(check(bytes), Err(Unfit::Malformed), "{bytes:?}");
    }
    assert_eq!(check(&header(1, 3)), Ok(()), "bad cluster has nothing in it");
    let whole = syn(&nodes(3));
    let digest = whole.len() - 2 - b"overlayd".len();
    for len in 0..digest {
        assert_eq!(check(&whole[..len]), Err(Unfit::Malformed), "{len}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(kind in 0..5u8, version in 0..2u8, bytes: Vec<u8>) {
        let _ = check(&[&header(version, kind)[..], &bytes].concat());
    }

    #[test]
    fn no_damage_makes_it_panic(at: usize, byte: u8) {
        let mut message = syn(&nodes(50));
        let at = at % message.len();
        message[at] = byte;
        let _ = check(&message);
    }
}
