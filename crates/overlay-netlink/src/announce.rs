//! Tells the containers of this host that an address has another MAC now: a
//! gratuitous ARP request (RFC 5227 section 3), or an unsolicited neighbour
//! advertisement (RFC 4861 section 7.2.6).
//!
//! Without it whoever has talked to the address goes on to send to the former
//! MAC until its own cache doubts that, which takes up to a minute. The host
//! that has the address now cannot tell everybody: a bridge keeps announcements
//! off ports with `neigh_suppress` (net/bridge/br_arp_nd_proxy.c), and rightly,
//! for every host knows by itself. So each tells its own containers, by its own
//! bridge; for the same reason nothing of this gets on the underlay.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use overlay_model::{Announcement, MacAddr};

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;

/// Says all of it, once.
///
/// # Errors
/// The first refusal, after all were tried. A bridge that is gone or down is no
/// error: then nobody is on it.
pub fn announce(all: &[Announcement]) -> io::Result<()> {
    // Protocol 0: it receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let mut first = Ok(());
    for one in all {
        let Ok(index) = if_nametoindex(one.bridge.as_str()) else { continue };
        match send(&socket, index, &frame(one)) {
            Ok(()) | Err(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => {}
            Err(errno) => first = first.and(Err(io::Error::from(errno))),
        }
    }
    first
}

fn send(socket: &impl AsRawFd, index: u32, frame: &[u8]) -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    #[allow(unsafe_code)]
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as _;
    to.sll_ifindex = index as _;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the descriptor is open; frame and address live until the call
    // returns, and their lengths are theirs.
    #[allow(unsafe_code)]
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            length,
        )
    };
    Errno::result(sent).map(drop)
}

fn frame(one: &Announcement) -> Vec<u8> {
    let mac = one.mac.0;
    match one.ip {
        IpAddr::V4(ip) => {
            let mut frame = ethernet(MacAddr([0xff; 6]), one.mac, ARP);
            // Ethernet, IPv4, their lengths, a request.
            frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend(ip.octets());
            frame.extend([0; 6]);
            frame.extend(ip.octets());
            frame
        }
        IpAddr::V6(ip) => {
            let all_nodes: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            // Advertisement, override; the target; its link-layer address.
            let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            icmp.extend(ip.octets());
            icmp.extend([2, 1]);
            icmp.extend(mac);
            let length = u8::try_from(icmp.len()).expect("it has 32 bytes");
            let pseudo = [&ip.octets()[..], &all_nodes, &[0, 0, 0, length, 0, 0, 0, ICMPV6], &icmp];
            let sum = checksum(&pseudo.concat());
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());

            let mut frame = ethernet(MacAddr([0x33, 0x33, 0, 0, 0, 1]), one.mac, IPV6);
            frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
            frame.extend(ip.octets());
            frame.extend(all_nodes);
            frame.extend(icmp);
            frame
        }
    }
}

fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes()].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) as u16 + (sum >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str) -> Vec<u8> {
        let mac = "02:00:00:00:00:66".parse().unwrap();
        let bridge = overlay_model::IfName::new("ovb7").unwrap();
        frame(&Announcement { bridge, ip: ip.parse().unwrap(), mac })
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn of_an_ipv4_address_it_is_a_gratuitous_arp_request() {
        assert_eq!(
            hex(&of("10.9.0.5")),
            "ffffffffffff0200000000660806\
             00010800060400010200000000660a090005\
             0000000000000a090005"
        );
    }

    #[test]
    fn of_an_ipv6_address_it_is_an_advertisement_that_overrides_and_sums_up() {
        let frame = of("fd00:9::5");
        assert_eq!(
            hex(&frame[..58]),
            "33330000000102000000006686dd\
             6000000000203affFD000009000000000000000000000005ff020000000000000000000000000001\
             8800cafe"
                .to_lowercase()
                .replace("cafe", &hex(&frame[56..58]))
        );
        assert_eq!(hex(&frame[58..]), "20000000fd0000090000000000000000000000050201020000000066");
        // With its own sum in place, the sum of it all is nothing.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, ICMPV6], &frame[54..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
