//! Identifiers and names, valid by construction.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identity of a host: a UUID kept in its state directory.
///
/// It survives restarts, renames and address changes; two hosts with one id
/// are a cloned machine, never a coincidence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(pub Uuid);

impl HostId {
    /// The first ten hex digits: the node id that gossip uses, short because
    /// every gossip message names every node.
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(10);
        text
    }
}

impl HostId {
    /// The host that there never is: who owns what nobody is known to own.
    pub const NOBODY: Self = Self(Uuid::nil());
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for HostId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Uuid::parse_str(s)
            .map(Self)
            .map_err(|_| InvalidId { text: s.to_owned(), form: "a UUID (8-4-4-4-12 hex digits)" })
    }
}

/// The text is not an identifier of the wanted form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {form}")]
pub struct InvalidId {
    /// What was given.
    pub text: String,
    /// What was wanted, as a noun phrase.
    pub form: &'static str,
}

/// Names a cluster key without giving it away: 4 bytes of a hash of it, written
/// as 8 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let form = "the id of a key (8 hex digits)";
        // What is no id may be a key: it is not repeated.
        let invalid = || InvalidId { text: s.chars().take(8).collect(), form };
        if s.len() != 8 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let bits = u32::from_str_radix(s, 16).map_err(|_| invalid())?;
        Ok(Self(bits.to_be_bytes()))
    }
}

/// Identity of a network: 64 random bits, written as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkId(pub u64);

/// Identity of an endpoint: 48 random bits, written as 12 hex digits, so that
/// `ove` and the id make an interface name of exactly the kernel's 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointId(u64);

impl EndpointId {
    /// Keeps the low 48 bits of `bits`.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & 0xffff_ffff_ffff)
    }

    /// The 48 bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The host's end of the endpoint's veth pair: `ove<id>`.
    pub fn ifname(self) -> IfName {
        let mut text = *b"ove000000000000";
        for (i, digit) in text[3..].iter_mut().enumerate() {
            let nibble = (self.0 >> (44 - 4 * i)) & 0xf;
            *digit = b"0123456789abcdef"[nibble as usize];
        }
        IfName::of(&text)
    }
}

macro_rules! hex_id {
    ($ty:ident, $width:literal, $form:literal, $make:expr) => {
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $ty {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                let invalid = || InvalidId { text: s.to_owned(), form: $form };
                if s.len() != $width || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(invalid());
                }
                u64::from_str_radix(s, 16).map($make).map_err(|_| invalid())
            }
        }
        impl TryFrom<String> for $ty {
            type Error = InvalidId;
            fn try_from(s: String) -> Result<Self, InvalidId> {
                s.parse()
            }
        }
        impl From<$ty> for String {
            fn from(id: $ty) -> String {
                id.to_string()
            }
        }
    };
}
hex_id!(NetworkId, 16, "a network id (16 hex digits)", NetworkId);
hex_id!(EndpointId, 12, "an endpoint id (12 hex digits)", EndpointId);

/// VXLAN Network Identifier: 1 to 16777215 (RFC 7348 section 5, 24 bits).
///
/// Zero is left out: several NICs and tools take it for "no VNI".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// The number is no VNI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VNI {0} is out of range; choose one from 1 to 16777215")]
pub struct InvalidVni(pub String);

impl Vni {
    /// The largest VNI.
    pub const MAX: u32 = (1 << 24) - 1;

    /// Makes a VNI of `n`.
    ///
    /// # Errors
    /// [`InvalidVni`] if `n` is zero or does not fit 24 bits.
    pub fn new(n: u32) -> Result<Self, InvalidVni> {
        if n == 0 || n > Self::MAX { Err(InvalidVni(n.to_string())) } else { Ok(Self(n)) }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The network's bridge on a host that uses it: `ovb<VNI>`.
    pub fn bridge(self) -> IfName {
        IfName::numbered(*b"ovb", self.0)
    }

    /// The network's VXLAN device (the VTEP's port in the bridge): `ovx<VNI>`.
    pub fn vxlan(self) -> IfName {
        IfName::numbered(*b"ovx", self.0)
    }

    /// The second one, of IPv6, where the first is of IPv4: `ovx<VNI>-6`.
    pub fn vxlan6(self) -> IfName {
        IfName::new(&format!("{}-6", self.vxlan())).expect("13 characters at most, none strange")
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl FromStr for Vni {
    type Err = InvalidVni;
    fn from_str(s: &str) -> Result<Self, InvalidVni> {
        s.parse::<u32>().map_err(|_| InvalidVni(s.to_owned())).and_then(Self::new)
    }
}
impl TryFrom<u32> for Vni {
    type Error = InvalidVni;
    fn try_from(n: u32) -> Result<Self, InvalidVni> {
        Self::new(n)
    }
}
impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// The text is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; write six hex bytes like 02:42:0a:00:09:05")]
pub struct InvalidMac(pub String);

impl MacAddr {
    /// All zero: in a VXLAN FDB, the key of the broadcast replication list.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// `02:42:` and the four octets of `ip`, as Docker does: the ARP caches of
    /// other containers stay right when an address is used again.
    pub fn of_ipv4(ip: Ipv4Addr) -> Self {
        let o = ip.octets();
        Self([0x02, 0x42, o[0], o[1], o[2], o[3]])
    }

    /// The link-local IPv6 address that it makes (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let id = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(id))
    }

    /// The MAC of an endpoint or gateway: [`MacAddr::of_ipv4`] of the first
    /// IPv4 address, else derived from `seed`.
    pub fn for_addresses<'a>(addrs: impl IntoIterator<Item = &'a IpAddr>, seed: &[u8]) -> Self {
        addrs
            .into_iter()
            .find_map(|a| match a {
                IpAddr::V4(v4) => Some(Self::of_ipv4(*v4)),
                IpAddr::V6(_) => None,
            })
            .unwrap_or_else(|| Self::derived(seed))
    }

    /// A locally administered unicast address that depends on `seed` alone
    /// (FNV-1a, 64 bits), so that it is the same after every restart.
    pub fn derived(seed: &[u8]) -> Self {
        let b = crate::Fnv::of(seed).to_be_bytes();
        Self([0x06, b[3], b[4], b[5], b[6], b[7]])
    }

    /// True for an address that one station may have: not zero, and the group
    /// bit (the lowest of the first byte) clear.
    pub fn is_unicast(self) -> bool {
        self != Self::ZERO && self.0[0] & 1 == 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for MacAddr {
    type Err = InvalidMac;
    fn from_str(s: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(s.to_owned());
        let mut bytes = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(invalid)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}
impl TryFrom<String> for MacAddr {
    type Error = InvalidMac;
    fn try_from(s: String) -> Result<Self, InvalidMac> {
        s.parse()
    }
}
impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

/// A name that can stand in DNS: one label, lower case, 1 to 63 of
/// `a-z 0-9 -`, no hyphen at either end (RFC 1123 section 2.1).
///
/// Clones share the text: an endpoint is found by its name, too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The text is no DNS label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot be a name: {why}; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends")]
pub struct InvalidName {
    /// What was given, shortened to 80 characters.
    pub text: String,
    /// Which rule it breaks.
    pub why: &'static str,
}

impl Name {
    /// Makes a name of `text`; upper case is lowered, as DNS does not tell
    /// them apart.
    ///
    /// # Errors
    /// [`InvalidName`] if it is no DNS label; the value says which rule.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let invalid = |why| InvalidName { text: text.chars().take(80).collect(), why };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if text.len() > 63 {
            return Err(invalid("it is longer than 63"));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(invalid("it starts or ends with `-`"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(invalid("it is not a DNS label"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}
impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        Self::new(&s)
    }
}
impl From<Name> for String {
    fn from(name: Name) -> String {
        name.as_str().to_owned()
    }
}

/// The name of a network interface: 1 to 15 bytes, no `/`, no white space, not
/// `.` or `..` (kernel `net/core/dev.c`, `dev_valid_name`).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName {
    /// Zeros behind its end, so that names compare as their texts do. In place
    /// and not on the heap: every key of what a kernel holds has one.
    bytes: [u8; IFNAME_MAX],
    len: u8,
}

/// The kernel's `IFNAMSIZ` without its zero.
const IFNAME_MAX: usize = 15;

/// The text cannot name an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`"
)]
pub struct InvalidIfName(pub String);

impl IfName {
    /// Makes an interface name of `text`.
    ///
    /// # Errors
    /// [`InvalidIfName`] if the kernel would refuse it, or if it is not
    /// printable ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidIfName> {
        let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
        if fits && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
            Ok(Self::of(text.as_bytes()))
        } else {
            Err(InvalidIfName(text.chars().take(80).collect()))
        }
    }

    /// Of what is known to be a name.
    fn of(text: &[u8]) -> Self {
        let mut bytes = [0; IFNAME_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Self { bytes, len: text.len() as u8 }
    }

    /// A short prefix and a number.
    fn numbered(prefix: [u8; 3], mut number: u32) -> Self {
        let mut digits = [0; 10];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let mut text = [0; 13];
        let len = 3 + digits.len() - at;
        text[..3].copy_from_slice(&prefix);
        text[3..len].copy_from_slice(&digits[at..]);
        Self::of(&text[..len])
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let text = &self.bytes[..usize::from(self.len)];
        std::str::from_utf8(text).expect("it was made of printable ASCII")
    }
}

impl PartialOrd for IfName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the texts: as one number, since maps of a hundred thousand
/// entries compare little else.
impl Ord for IfName {
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |name: &Self| {
            let mut bytes = [0; 16];
            bytes[..IFNAME_MAX].copy_from_slice(&name.bytes);
            u128::from_be_bytes(bytes)
        };
        number(self).cmp(&number(other))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for IfName {
    type Err = InvalidIfName;
    fn from_str(s: &str) -> Result<Self, InvalidIfName> {
        Self::new(s)
    }
}
impl TryFrom<String> for IfName {
    type Error = InvalidIfName;
    fn try_from(s: String) -> Result<Self, InvalidIfName> {
        Self::new(&s)
    }
}
impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests;
