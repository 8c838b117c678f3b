//! Notifications of nftables, as far as they tell that our table was touched
//! and by whom. The table itself is read by [`crate::firewall`].
//!
//! Every message of a transaction names its table; the last one is a new
//! generation, which names the process that asked for it. `netlink-packet-*`
//! has no words for these, and we need five fields, so they are read here.

use netlink_packet_core::NlasIterator;
use nix::libc;
use overlay_model::Hand;
use overlay_model::kernel::{NAT_TABLE, NFT_TABLE};

use crate::nft::{self, Key};

/// The multicast group of nftables (`NFNLGRP_NFTABLES`).
pub(crate) const GROUP: u32 = 7;

/// `NFT_MSG_NEWGEN`, and its attributes.
const NEWGEN: u16 = 15;
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;

/// The first attribute of every other message: the name of the table.
const TABLE: u16 = 1;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// What a notification tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// A table of ours was touched, by the socket of this number.
    Ours { port: u32 },
    /// Elements of ports came or went.
    Elements { set: String, keys: Vec<Key>, there: bool },
    /// A transaction is complete; this was its process.
    Generation(Hand),
    /// No business of ours.
    Other,
}

/// Reads what one datagram of the kernel tells.
pub(crate) fn read(datagram: &[u8]) -> Vec<Told> {
    nft::messages(datagram).map(one).collect()
}

fn one(message: &[u8]) -> Told {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let (subsystem, kind) = (kind >> 8, kind & 0xff);
    let body = message.get(HEADER..).unwrap_or_default();
    let (Some(family), Some(attributes)) = (body.first(), body.get(NFGENMSG..)) else {
        return Told::Other;
    };
    if i32::from(subsystem) != libc::NFNL_SUBSYS_NFTABLES {
        return Told::Other;
    }
    let port = u32::from_ne_bytes([message[12], message[13], message[14], message[15]]);
    let mut hand = Hand { port: Some(port), ..Hand::default() };
    let mut ours = false;
    let family = i32::from(*family);
    for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
        let value = attribute.value();
        let text = || String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        match (kind, attribute.kind()) {
            (NEWGEN, GEN_PROC_PID) => {
                hand.pid = value.try_into().ok().map(u32::from_be_bytes);
            }
            (NEWGEN, GEN_PROC_NAME) => hand.program = Some(text()),
            (NEWGEN, _) => {}
            (_, TABLE) => {
                ours = match family {
                    libc::NFPROTO_INET => [NFT_TABLE, NAT_TABLE].contains(&text().as_str()),
                    libc::NFPROTO_BRIDGE => text() == NFT_TABLE,
                    _ => false,
                };
            }
            _ => {}
        }
    }
    match (kind, ours) {
        (NEWGEN, _) => Told::Generation(hand),
        (nft::NEW_ELEMENT | nft::DEL_ELEMENT, true) if family == libc::NFPROTO_BRIDGE => {
            match nft::set_of(message) {
                Some(set) if set != "written" => Told::Elements {
                    set,
                    keys: nft::elements_of(message).into_iter().map(|(key, _)| key).collect(),
                    there: kind == nft::NEW_ELEMENT,
                },
                _ => Told::Ours { port },
            }
        }
        (_, true) => Told::Ours { port },
        (_, false) => Told::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&(10 << 8 | kind).to_ne_bytes());
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attributes.concat());
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn our_table_and_the_process_are_told_and_nothing_else() {
        let mut datagram =
            message(8, 1, &[attribute(1, b"overlayd\0"), attribute(2, b"forward\0")]);
        datagram.extend(message(0, 2, &[attribute(1, b"overlayd\0")]));
        datagram.extend(message(0, 1, &[attribute(1, b"filter\0")]));
        let process = [
            attribute(1, &7u32.to_be_bytes()),
            attribute(2, &4711u32.to_be_bytes()),
            attribute(3, b"nft\0"),
        ];
        datagram.extend(message(15, 0, &process));
        let hand = Hand { port: Some(0), pid: Some(4711), program: Some("nft".into()) };
        assert_eq!(
            read(&datagram),
            [Told::Ours { port: 0 }, Told::Other, Told::Other, Told::Generation(hand)]
        );
        // Whatever is cut off is no reason to fall over.
        for end in 0..datagram.len() {
            let _ = read(&datagram[..end]);
        }
    }
}
