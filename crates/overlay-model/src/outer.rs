//! What a VXLAN device writes into the outer headers of its packets, beside the
//! addresses and the destination port.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The outer headers of a VXLAN device. By default what the kernel makes of a
/// device of which nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// A UDP checksum over each packet. RFC 7348 section 5 allows none over
    /// IPv4; over IPv6 a receiver drops packets without (RFC 8200 section 8.1).
    pub checksum: bool,
    /// UDP source ports, chosen by the inner flow (RFC 7348 section 5), so that
    /// routers and network cards spread flows; `None`: of the range of
    /// `net.ipv4.ip_local_port_range`.
    pub source_ports: Option<SourcePorts>,
    /// Whether routers may fragment.
    pub df: Df,
    /// Hops.
    pub ttl: Ttl,
    /// Class of traffic.
    pub dscp: Dscp,
}

impl Default for Outer {
    fn default() -> Self {
        Self {
            checksum: true,
            source_ports: None,
            df: Df::default(),
            ttl: Ttl::default(),
            dscp: Dscp::default(),
        }
    }
}

impl Outer {
    /// True if nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// True if a device of `self` can become one of `other` in place: the kernel
    /// changes DF, DSCP and a TTL, and refuses the rest (drivers/net/vxlan
    /// `vxlan_nl2conf`).
    pub fn can_become(&self, other: &Self) -> bool {
        self.checksum == other.checksum
            && self.source_ports == other.source_ports
            && (self.ttl == Ttl::Inherit) == (other.ttl == Ttl::Inherit)
    }
}

impl fmt::Display for Outer {
    /// As words for `ip link add ... type vxlan`, each with a space before it;
    /// nothing of what is by default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.checksum {
            f.write_str(" noudpcsum")?;
        }
        if let Some(SourcePorts { first, last }) = self.source_ports {
            write!(f, " srcport {first} {last}")?;
        }
        if self.df != Df::default() {
            write!(f, " df {}", self.df)?;
        }
        if self.ttl != Ttl::default() {
            write!(f, " ttl {}", self.ttl)?;
        }
        match self.dscp {
            Dscp::Set(0) => Ok(()),
            Dscp::Set(_) => write!(f, " tos {:#04x}", self.dscp.tos()),
            Dscp::Inherit => f.write_str(" tos inherit"),
        }
    }
}

/// A range of UDP ports, both ends in it; at least two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePorts {
    /// From 1.
    pub first: u16,
    /// Larger than the first: the kernel takes a range of one port for none.
    pub last: u16,
}

impl FromStr for SourcePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('-')
            .and_then(|(first, last)| {
                Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
            })
            .filter(|ports| ports.first > 0 && ports.first < ports.last)
            .ok_or_else(|| {
                format!("`{text}` is no range of two ports or more; write it like 49152-65535")
            })
    }
}

/// The bit that forbids to fragment, in IPv4; without meaning over IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Df {
    /// Not set: what does not fit is fragmented underway.
    #[default]
    Unset,
    /// Set: what does not fit is dropped, and the sender hears of it.
    Set,
    /// As in the inner packet.
    Inherit,
}

impl fmt::Display for Df {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unset => "unset",
            Self::Set => "set",
            Self::Inherit => "inherit",
        })
    }
}

impl FromStr for Df {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Unset, Self::Set, Self::Inherit]
            .into_iter()
            .find(|df| df.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of unset, set, inherit"))
    }
}

/// How far packets go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ttl {
    /// What the host uses for packets of its own, 64 as a rule.
    #[default]
    Auto,
    /// As in the inner packet.
    Inherit,
    /// So many hops, from 1.
    Hops(u8),
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Inherit => f.write_str("inherit"),
            Self::Hops(hops) => write!(f, "{hops}"),
        }
    }
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            ("inherit", _) => Ok(Self::Inherit),
            (_, Ok(hops)) if hops > 0 => Ok(Self::Hops(hops)),
            _ => Err(format!("`{text}` is none of auto, inherit, 1 to 255")),
        }
    }
}

/// Differentiated services (RFC 2474); ECN is always carried over as RFC 6040
/// says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dscp {
    /// As in the inner packet.
    Inherit,
    /// This code point, 0 to 63.
    Set(u8),
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Set(0)
    }
}

impl Dscp {
    /// The kernel's figure for it: the code point in the upper six bits, 1 for
    /// the inner packet's.
    pub fn tos(self) -> u8 {
        match self {
            Self::Inherit => 1,
            Self::Set(code) => code << 2,
        }
    }

    /// The same the other way round.
    pub fn of_tos(tos: u8) -> Self {
        if tos == 1 { Self::Inherit } else { Self::Set(tos >> 2) }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("inherit"),
            Self::Set(code) => write!(f, "{code}"),
        }
    }
}

impl FromStr for Dscp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("inherit", _) => Ok(Self::Inherit),
            (_, Ok(code)) if code < 64 => Ok(Self::Set(code)),
            _ => Err(format!("`{text}` is none of inherit, 0 to 63")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_print() {
        for df in [Df::Unset, Df::Set, Df::Inherit] {
            assert_eq!(df.to_string().parse(), Ok(df));
        }
        for ttl in [Ttl::Auto, Ttl::Inherit, Ttl::Hops(1), Ttl::Hops(255)] {
            assert_eq!(ttl.to_string().parse(), Ok(ttl));
        }
        for dscp in (0..64).map(Dscp::Set).chain([Dscp::Inherit]) {
            assert_eq!(dscp.to_string().parse(), Ok(dscp));
            assert_eq!(Dscp::of_tos(dscp.tos()), dscp);
        }
        assert_eq!("1-2".parse(), Ok(SourcePorts { first: 1, last: 2 }));
        assert_eq!("1 - 65535".parse(), Ok(SourcePorts { first: 1, last: 65535 }));
    }

    #[test]
    fn what_is_none_is_refused_with_what_is_one() {
        for text in ["", "1", "1-", "-1", "2-1", "7-7", "0-9", "1-65536", "a-b"] {
            let why = text.parse::<SourcePorts>().unwrap_err();
            assert!(why.contains("49152-65535"), "{why}");
        }
        for (result, wanted) in [
            ("yes".parse::<Df>().map(drop), "unset, set, inherit"),
            ("0".parse::<Ttl>().map(drop), "1 to 255"),
            ("256".parse::<Ttl>().map(drop), "1 to 255"),
            ("64".parse::<Dscp>().map(drop), "0 to 63"),
            ("-1".parse::<Dscp>().map(drop), "0 to 63"),
        ] {
            let why = result.unwrap_err();
            assert!(why.contains(wanted), "{why}");
        }
    }

    #[test]
    fn it_prints_as_the_command_that_makes_it() {
        assert_eq!(Outer::default().to_string(), "");
        let all = Outer {
            checksum: false,
            source_ports: Some(SourcePorts { first: 5000, last: 6000 }),
            df: Df::Set,
            ttl: Ttl::Hops(9),
            dscp: Dscp::Set(46),
        };
        assert_eq!(all.to_string(), " noudpcsum srcport 5000 6000 df set ttl 9 tos 0xb8");
        let inherit = Outer { ttl: Ttl::Inherit, dscp: Dscp::Inherit, ..Outer::default() };
        assert_eq!(inherit.to_string(), " ttl inherit tos inherit");
    }

    #[test]
    fn what_the_kernel_changes_in_place_is_known() {
        let is = Outer::default();
        for (other, in_place) in [
            (Outer { df: Df::Set, ttl: Ttl::Hops(3), dscp: Dscp::Inherit, ..is }, true),
            (Outer { ttl: Ttl::Inherit, ..is }, false),
            (Outer { checksum: false, ..is }, false),
            (Outer { source_ports: Some(SourcePorts { first: 1, last: 2 }), ..is }, false),
        ] {
            assert_eq!(is.can_become(&other), in_place, "{other:?}");
            assert_eq!(other.can_become(&is), in_place, "{other:?}");
        }
    }
}
