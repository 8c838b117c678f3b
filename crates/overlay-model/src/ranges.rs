//! Stretches of addresses, as people say them: one address, the first and the
//! last, or a prefix.
//!
//! Sets of them are kept in one form: in order, and without two that meet. So
//! two definitions that mean the same are equal.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All addresses from a first to a last one, both of one family.
///
/// ```
/// # use overlay_model::AddressRange;
/// let range: AddressRange = "10.0.9.8-10.0.9.15".parse()?;
/// assert_eq!(range.to_string(), "10.0.9.8/29");
/// assert!(range.contains("10.0.9.15".parse().unwrap()));
/// # Ok::<(), overlay_model::InvalidRange>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// The text, or the pair, is no [`AddressRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no range of addresses; write one address, FIRST-LAST, or a prefix like 10.0.9.64/27"
)]
pub struct InvalidRange(pub String);

impl AddressRange {
    /// From `first` to `last`.
    ///
    /// # Errors
    /// [`InvalidRange`] if they are of two families, or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, InvalidRange> {
        if first.is_ipv4() == last.is_ipv4() && first <= last {
            Ok(Self { first, last })
        } else {
            Err(InvalidRange(format!("{first}-{last}")))
        }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Says whether `ip` is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// Says whether any address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.first <= other.last
            && other.first <= self.last
    }

    /// What is in one of `ranges`, in order, and without two that meet.
    ///
    /// ```
    /// # use overlay_model::AddressRange;
    /// let ranges = ["10.0.9.9", "10.0.9.8", "10.0.9.16/28"].map(|r| r.parse().unwrap());
    /// let texts: Vec<String> = AddressRange::union(ranges).iter().map(|r| r.to_string()).collect();
    /// assert_eq!(texts, ["10.0.9.8/31", "10.0.9.16/28"]);
    /// ```
    pub fn union(ranges: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut sorted: Vec<Self> = ranges.into_iter().collect();
        sorted.sort();
        let mut list: Vec<Self> = Vec::new();
        for range in sorted {
            match list.last_mut() {
                Some(before)
                    if before.first.is_ipv4() == range.first.is_ipv4()
                        && (range.first <= before.last
                            || next(before.last) == Some(range.first)) =>
                {
                    before.last = before.last.max(range.last);
                }
                _ => list.push(range),
            }
        }
        list
    }

    /// What is in one of `ranges` and not in `less`: nothing, one, or two pieces
    /// of each.
    pub fn difference(ranges: &[Self], less: &Self) -> Vec<Self> {
        let mut list = Vec::new();
        for range in ranges {
            if !range.overlaps(less) {
                list.push(*range);
                continue;
            }
            if let Some(last) = previous(less.first).filter(|_| range.first < less.first) {
                list.push(Self { first: range.first, last });
            }
            if let Some(first) = next(less.last).filter(|_| less.last < range.last) {
                list.push(Self { first, last: range.last });
            }
        }
        list
    }
}

/// The address after `ip`, if there is one.
fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

fn previous(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

impl From<IpNet> for AddressRange {
    fn from(cidr: IpNet) -> Self {
        Self { first: cidr.network(), last: cidr.broadcast() }
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl TryFrom<String> for AddressRange {
    type Error = InvalidRange;
    fn try_from(text: String) -> Result<Self, InvalidRange> {
        text.parse()
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let invalid = || InvalidRange(text.chars().take(100).collect());
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { first: ip, last: ip });
        }
        if let Some((first, last)) = text.split_once('-') {
            let [first, last] = [first, last].map(|part| part.trim().parse().ok());
            let (first, last) = first.zip(last).ok_or_else(invalid)?;
            return Self::new(first, last).map_err(|_| invalid());
        }
        let cidr: IpNet = text.parse().map_err(|_| invalid())?;
        // With host bits it may be a typing error of either part.
        if cidr.addr() == cidr.network() { Ok(cidr.into()) } else { Err(invalid()) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last {
            return write!(f, "{first}");
        }
        let differing = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => 32 - (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => 128 - (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return write!(f, "{first}-{last}"),
        };
        let most = if first.is_ipv4() { 32 } else { 128 };
        match IpNet::new(*first, (most - differing) as u8) {
            Ok(cidr) if cidr.network() == *first && cidr.broadcast() == *last => {
                write!(f, "{cidr}")
            }
            _ => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests;
