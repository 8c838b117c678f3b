//! What the kernel's connection tracking remembers of UDP, where that is no longer
//! so.
//!
//! A flow of UDP ends when nothing has come for a while; a client that goes on
//! keeps its entry for ever, and with it the endpoint that it was led to when the
//! entry was made. `nf_conntrack_netlink.c` has the words.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use overlay_model::{Front, Nat, Protocol};

use crate::error::NlError;
use crate::nft::{self, Nft, attributes, body};

const SUBSYS: u16 = libc::NFNL_SUBSYS_CTNETLINK as u16;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// `enum ctattr_type`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;

/// One direction of a flow: from where, to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    from: SocketAddr,
    to: SocketAddr,
}

/// Forgets flows of UDP that would be led elsewhere today than they were.
pub(crate) fn forget_stale(nat: &Nat, nft: &mut Nft) -> Result<(), NlError> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let here: BTreeSet<IpAddr> = addresses
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut stale: Vec<Vec<u8>> = Vec::new();
        nft.ask(SUBSYS << 8 | GET, nft::F_DUMP, family, &[], |message| {
            let mut ways = [None, None];
            let (mut tuple, mut zone) = (None, None);
            for (kind, value) in attributes(body(message)) {
                match kind {
                    TUPLE_ORIG => {
                        ways[0] = udp_way(value);
                        tuple = Some(value);
                    }
                    TUPLE_REPLY => ways[1] = udp_way(value),
                    ZONE => zone = Some(value),
                    _ => {}
                }
            }
            if let ([Some(there), Some(back)], Some(tuple)) = (ways, tuple)
                && is_stale(nat, &here, there, back)
            {
                let mut which = Vec::new();
                nft::nest(&mut which, TUPLE_ORIG, |out| out.extend(tuple));
                if let Some(zone) = zone {
                    nft::attribute(&mut which, ZONE, zone);
                }
                stale.push(which);
            }
        })?;
        for which in stale {
            // One that has ended meanwhile is what was wanted.
            nft.ask(SUBSYS << 8 | DELETE, nft::F_ACK, family, &which, |_| {})?;
        }
    }
    Ok(())
}

/// Says whether a flow that was led so would be led elsewhere by `nat`, on a host
/// that has the addresses `here`.
fn is_stale(nat: &Nat, here: &BTreeSet<IpAddr>, there: Way, back: Way) -> bool {
    let targets = nat.forwards.iter().find_map(|(front, targets)| {
        let leads = match front {
            Front::Host { protocol, port, at } => {
                *protocol == Protocol::Udp
                    && *port == there.to.port()
                    && at.map_or(here.contains(&there.to.ip()), |at| at == there.to.ip())
            }
            Front::Virtual { ip, protocol, port, .. } => {
                *protocol == Protocol::Udp && SocketAddr::new(*ip, *port) == there.to
            }
        };
        leads.then_some(targets)
    });
    let led_to_station =
        back.from != there.to && nat.subnets.iter().any(|subnet| subnet.contains(&back.from.ip()));
    match targets {
        // Somebody else's rules may lead it elsewhere.
        Some(targets) => !targets.contains(&back.from) && (led_to_station || back.from == there.to),
        None => led_to_station,
    }
}

/// Reads a tuple; `None` if it is not of UDP.
fn udp_way(tuple: &[u8]) -> Option<Way> {
    let (mut from, mut to, mut ports, mut protocol) = (None, None, [0; 2], 0);
    for (kind, value) in attributes(tuple) {
        match kind {
            1 => {
                for (kind, value) in attributes(value) {
                    let ip = match value.len() {
                        4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
                        16 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
                        _ => continue,
                    };
                    match kind {
                        1 | 3 => from = Some(ip),
                        2 | 4 => to = Some(ip),
                        _ => {}
                    }
                }
            }
            2 => {
                for (kind, value) in attributes(value) {
                    match kind {
                        1 => protocol = *value.first()?,
                        2 | 3 => {
                            ports[usize::from(kind) - 2] =
                                u16::from_be_bytes(value.get(..2)?.try_into().ok()?);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (protocol == Protocol::Udp.number()).then_some(Way {
        from: SocketAddr::new(from?, ports[0]),
        to: SocketAddr::new(to?, ports[1]),
    })
}

#[cfg(test)]
mod tests;
