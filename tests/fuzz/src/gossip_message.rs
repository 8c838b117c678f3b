//! Messages of chitchat, and chitchat.

use std::cell::RefCell;

use overlay_gossip::fuzz::{Chatter, encode_record, is_fit};
use overlay_model::Record;

use crate::input::Input;
use crate::samples::{OWNER, US, endpoint, host};
use crate::within;

/// Messages of one run, at most.
const MESSAGES: usize = 4;

/// Nodes that a message names in short, at most: what several members could do
/// between them by naming nodes is known, see `limits`.
const NODES: u16 = 40;

thread_local! {
    static CHATTER: RefCell<Option<Chatter>> = const { RefCell::new(None) };
}

/// 1. What is let through kills neither chitchat nor what reads it, and chitchat
///    goes on: it takes what we write, answers, and ends when told to.
/// 2. Looking into a message takes little memory, whatever it unpacks to.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < MESSAGES {
        messages.push(message(&mut input));
    }
    for message in &messages {
        within(1536 * 1024, || is_fit(message));
    }
    if !messages.iter().any(|message| is_fit(message)) {
        return;
    }
    let value = |record| encode_record(&record).expect("it is short").0;
    let own = [
        ("id".to_owned(), US.to_string()),
        ("ep/0000000000000007/000000000005".to_owned(), value(Record::Endpoint(endpoint(5)))),
        ("host".to_owned(), value(Record::Host(host()))),
        ("end".to_owned(), "1".to_owned()),
    ];
    CHATTER.with_borrow_mut(|chatter| {
        chatter.get_or_insert_default().show(&messages, &own);
    });
}

/// Bytes as they are, or a message put together of parts.
fn message(input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.byte();
    if kind.is_multiple_of(4) {
        return input.long_chunk().to_vec();
    }
    let (version, kind) = (input.byte() % 2, kind % 4 - 1);
    let mut bytes = [&45_139_u16.to_le_bytes()[..], &[version, kind]].concat();
    if kind <= 1 {
        let nodes = nodes(input);
        if version == 0 {
            let count = u16::try_from(nodes.len()).unwrap_or(u16::MAX);
            bytes.extend(count.to_le_bytes());
            bytes.extend(nodes.concat());
        } else {
            bytes.extend(stream(&nodes.concat(), input.byte()));
        }
    }
    if kind >= 1 {
        let operations = operations(input);
        bytes.extend(stream(&operations, input.byte()));
    } else {
        let name: &[u8] = if input.byte() < 128 { b"overlayd" } else { input.chunk() };
        bytes.extend(text(name));
    }
    bytes
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("it is bounded by those that call");
    [&len.to_le_bytes()[..], bytes].concat()
}

/// Blocks of a stream, packed or not.
fn stream(bytes: &[u8], how: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for block in bytes.chunks(if how.is_multiple_of(3) { 100 } else { 16_384 }) {
        // The fastest there is: that it was packed is all that counts.
        let packed = zstd::bulk::compress(block, -7).expect("zstd packs anything");
        let (tag, block) = if how.is_multiple_of(2) { (1, &packed[..]) } else { (2, block) };
        out.push(tag);
        out.extend(text(block));
    }
    out.push(0);
    out
}

/// Our own node, that of `OWNER`, or another.
fn node(input: &mut Input<'_>) -> Vec<u8> {
    let which = input.byte();
    let (name, life, last): (String, u64, u8) = match which % 4 {
        0 => (US.short(), 5, 9),
        1 => (OWNER.short(), 1, 1),
        2 => (OWNER.short(), input.u64(), which),
        _ => (String::from_utf8_lossy(input.chunk()).into_owned(), input.u64(), which),
    };
    let mut bytes = text(name.as_bytes());
    bytes.extend(life.to_le_bytes());
    bytes.extend([4, 192, 0, 2, last, 0x0a, 0x1f]);
    bytes
}

fn nodes(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut nodes = Vec::new();
    for _ in 0..input.byte() % 8 {
        let id = node(input);
        nodes.push([&id[..], &input.array::<24>()].concat());
    }
    for n in 0..input.u16() % NODES {
        let id = [&text(format!("{n:010x}").as_bytes())[..], &[0; 8], &[4, 192, 0, 2, 3, 1, 1]];
        nodes.push([&id.concat()[..], &[1; 24]].concat());
    }
    nodes
}

/// Operations of a delta.
fn operations(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..input.byte() % 32 {
        match input.byte() % 8 {
            0 | 1 => {
                bytes.push(0);
                bytes.extend(node(input));
                // Garbage-collected up to, and from.
                let (gc, from) = (number(input), number(input));
                bytes.extend(gc.to_le_bytes());
                bytes.extend(from.to_le_bytes());
            }
            2 => {
                bytes.push(2);
                bytes.extend(number(input).to_le_bytes());
            }
            3 => bytes.extend_from_slice(input.chunk()),
            what => {
                let key = ["id", "host", "end", "keys", "ep/0000000000000007/000000000005"];
                let key = match input.byte() {
                    n @ 0..=4 => key[usize::from(n)].as_bytes().to_vec(),
                    _ => input.chunk().repeat(1 + usize::from(input.byte())),
                };
                let value = input.chunk().repeat(1 + usize::from(input.byte()));
                bytes.push(1);
                bytes.extend(text(&key));
                bytes.extend(text(&value));
                bytes.extend(number(input).to_le_bytes());
                // Set, deleted, to be deleted; or nothing that there is.
                bytes.push(if what == 7 { input.byte() } else { what - 4 });
            }
        }
    }
    bytes
}

/// A version: small, or anything.
fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        255 => input.u64(),
        254 => u64::MAX,
        small => small.into(),
    }
}
