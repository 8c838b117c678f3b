//! How large a container's packet may be.

use std::net::IpAddr;

/// The smallest MTU a network may have: what IPv6 needs (RFC 8200 section 5).
pub const MIN_INNER_MTU: u16 = 1280;

/// The MTU of a network unless told: plain Ethernet less the IPv4 envelope.
pub const DEFAULT_INNER_MTU: u16 = 1450;

/// The same where hosts have IPv6 VTEP addresses only: less the IPv6 envelope.
pub const DEFAULT_INNER_MTU_V6: u16 = 1430;

/// Bytes that VXLAN adds to an inner IP packet: outer IP (20 or 40), UDP 8,
/// VXLAN 8, inner Ethernet 14 (RFC 7348 section 5).
pub fn overhead(vtep: &IpAddr) -> u16 {
    const UDP_VXLAN_ETHERNET: u16 = 8 + 8 + 14;
    match vtep {
        IpAddr::V4(_) => 20 + UDP_VXLAN_ETHERNET,
        IpAddr::V6(_) => 40 + UDP_VXLAN_ETHERNET,
    }
}

/// The underlay cannot carry a network's packets in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an MTU of {inner} needs an underlay MTU of {needed} ({inner} + {overhead} for VXLAN), \
     but the underlay has {underlay}"
)]
pub struct UnderlayTooSmall {
    /// MTU of the network, bytes of inner IP packet.
    pub inner: u16,
    /// MTU of the underlay device, bytes of outer IP packet.
    pub underlay: u16,
    /// What VXLAN adds, bytes.
    pub overhead: u16,
    /// The sum, bytes; more than `u16::MAX` is possible.
    pub needed: u32,
}

/// Checks that `inner` (bytes of inner IP packet, what `ip link set mtu`
/// takes) crosses an underlay of `underlay` bytes unfragmented: a VTEP must
/// not fragment (RFC 7348 section 4.3).
///
/// # Errors
/// [`UnderlayTooSmall`], which names both figures.
///
/// ```
/// # use overlay_model::mtu::fits;
/// let vtep = "192.0.2.1".parse().unwrap();
/// assert!(fits(1450, 1500, &vtep).is_ok());
/// assert!(fits(1451, 1500, &vtep).is_err());
/// ```
pub fn fits(inner: u16, underlay: u16, vtep: &IpAddr) -> Result<(), UnderlayTooSmall> {
    let overhead = overhead(vtep);
    let needed = u32::from(inner) + u32::from(overhead);
    if needed <= u32::from(underlay) {
        Ok(())
    } else {
        Err(UnderlayTooSmall { inner, underlay, overhead, needed })
    }
}
