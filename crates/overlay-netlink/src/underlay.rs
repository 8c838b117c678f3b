//! The addresses under which other hosts reach this one: the VTEP's, one or one
//! of each family.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressMessage, AddressScope};
use overlay_model::IfName;

use crate::error::KernelError;
use crate::read::{self, LinkRow, Links, RouteRow};
use crate::wire::Conn;

/// Where VXLAN packets leave and arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Device that has the address.
    pub dev: IfName,
    /// The VTEP's address; IPv4 if there are two.
    pub addr: IpAddr,
    /// MTU of the device, bytes; at most 65535. The lesser one of two devices.
    pub mtu: u16,
    /// The IPv6 address beside it, and the device that has that.
    pub other: Option<(IpAddr, IfName)>,
}

impl Underlay {
    /// The VTEP's addresses.
    pub fn addrs(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.addr).chain(self.other.as_ref().map(|(addr, _)| *addr))
    }

    /// The devices that have them.
    pub fn devs(&self) -> impl Iterator<Item = &IfName> {
        let other = self.other.as_ref().map(|(_, dev)| dev).filter(|dev| **dev != self.dev);
        std::iter::once(&self.dev).chain(other)
    }
}

/// Which underlay is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses that devices must have, at most one a family.
    pub vteps: Vec<IpAddr>,
    /// A device; its first global address is taken where none is said.
    pub dev: Option<IfName>,
    /// An address of each family, as far as there is one.
    pub both: bool,
}

/// Why no underlay address was found.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The address is on no device, or not on the wanted one.
    #[error("--vtep-ip {addr} is on no device {}; this host has {}",
        dev.as_ref().map_or("of this host".to_owned(), ToString::to_string), list(have))]
    AddressNotHere {
        /// Which address.
        addr: IpAddr,
        /// The wanted device.
        dev: Option<IfName>,
        /// The addresses that there are.
        have: Vec<IpAddr>,
    },
    /// There is no such device.
    #[error("--underlay-dev {dev} does not exist; this host has {}", list(have))]
    NoSuchDevice {
        /// Which device.
        dev: IfName,
        /// The devices that there are.
        have: Vec<IfName>,
    },
    /// The device has no address that other hosts could reach.
    #[error("--underlay-dev {0} has no global address; give it one or choose another device")]
    NoAddress(IfName),
    /// The address in use has gone, and what there is cannot take its place.
    #[error(
        "this host has no other {} address, only {}; tunnels to other hosts cannot change their \
         family: add one, or restart overlayd with the addresses of the other family everywhere",
        if was.is_ipv4() { "IPv4" } else { "IPv6" }, list(have)
    )]
    OtherFamily {
        /// The address that has gone.
        was: IpAddr,
        /// The addresses that there are.
        have: Vec<IpAddr>,
    },
    /// Nothing says which address is meant.
    #[error(
        "cannot tell which address other hosts reach this one at: no default route, and {}; \
         pass --vtep-ip or --underlay-dev",
        if have.is_empty() { "no address".to_owned() } else { format!("a choice of {}", list(have)) }
    )]
    Undecided {
        /// The addresses that there are.
        have: Vec<IpAddr>,
    },
    /// The kernel could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

fn list<T: ToString>(things: &[T]) -> String {
    if things.is_empty() {
        return "none".to_owned();
    }
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One global address of the host, none of our own networks.
struct Candidate {
    dev: u32,
    addr: IpAddr,
}

/// Finds the underlay of the calling thread's network namespace.
///
/// Without an address that is said, it is the first global one of the device
/// that is said, IPv4 before IPv6; without a device either, the preferred
/// source address of the default route, or else the only global address that
/// there is. Where both families are wanted, so it is for each of them.
///
/// # Errors
/// [`UnderlayError`], whose text says which option to pass. Of two families one
/// is enough, but an address that is said must be there.
pub async fn underlay_for(wanted: &Wanted) -> Result<Underlay, UnderlayError> {
    choose(wanted, &[]).await
}

/// [`underlay_for`], when `was` has been in use: an address is kept as long as
/// there is a device that has it, and is followed by one of its family only.
///
/// # Errors
/// As [`underlay_for`], and [`UnderlayError::OtherFamily`].
pub(crate) async fn choose(wanted: &Wanted, was: &[IpAddr]) -> Result<Underlay, UnderlayError> {
    let dev = wanted.dev.as_ref();
    if !wanted.both && wanted.vteps.len() < 2 {
        let (vtep, was) = (wanted.vteps.first().copied(), was.first().copied());
        return choose_one(vtep, dev, was, None).await;
    }
    let of = |addrs: &[IpAddr], v6: bool| addrs.iter().copied().find(|ip| ip.is_ipv6() == v6);
    let mut found = Vec::new();
    for v6 in [false, true] {
        let one = choose_one(of(&wanted.vteps, v6), dev, of(was, v6), Some(v6)).await;
        // That the kernel cannot be read says nothing about addresses.
        if let Err(err @ UnderlayError::Kernel(_)) = one {
            return Err(err);
        }
        // At the start, an address that was said must be there, as a single one must.
        let said = of(&wanted.vteps, v6).is_some();
        if one.is_err() && was.is_empty() && said {
            return one;
        }
        found.push(one);
    }
    let [v4, v6] = <[_; 2]>::try_from(found).expect("two were pushed");
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => {
            Ok(Underlay { mtu: v4.mtu.min(v6.mtu), other: Some((v6.addr, v6.dev)), ..v4 })
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(why), Err(_)) => Err(why),
    }
}

/// One address; of IPv6 or not if that is said.
async fn choose_one(
    vtep: Option<IpAddr>,
    dev: Option<&IfName>,
    was: Option<IpAddr>,
    v6: Option<bool>,
) -> Result<Underlay, UnderlayError> {
    let mut conn = Conn::open().map_err(KernelError::Open)?;
    let links = read::links(&mut conn).await?;
    let mut all = candidates(&read::addresses(&mut conn).await?, &links);
    all.retain(|candidate| v6.is_none_or(|v6| candidate.addr.is_ipv6() == v6));
    if let Some(was) = was {
        let there = all.iter().find(|candidate| candidate.addr == was);
        if let Some(row) = there.and_then(|candidate| links.get(&candidate.dev))
            && let Some(dev) = row.ifname()
        {
            return Ok(Underlay {
                dev,
                addr: was,
                mtu: u16::try_from(row.mtu).unwrap_or(u16::MAX),
                other: None,
            });
        }
        let have: Vec<IpAddr> = all.iter().map(|candidate| candidate.addr).collect();
        all.retain(|candidate| candidate.addr.is_ipv4() == was.is_ipv4());
        if vtep.is_none() && all.is_empty() {
            return Err(UnderlayError::OtherFamily { was, have });
        }
    }
    let wanted = match dev {
        None => None,
        Some(name) => Some(
            links.values().find(|row| row.name == name.as_str()).map(|row| row.index).ok_or_else(
                || {
                    let mut have: Vec<IfName> = links
                        .values()
                        .filter(|row| !row.loopback && !row.ours())
                        .filter_map(LinkRow::ifname)
                        .collect();
                    have.sort();
                    UnderlayError::NoSuchDevice { dev: name.clone(), have }
                },
            )?,
        ),
    };
    let on_wanted = |candidate: &&Candidate| wanted.is_none_or(|index| candidate.dev == index);
    let have = || all.iter().map(|candidate| candidate.addr).collect::<Vec<_>>();

    let chosen = match (vtep, dev) {
        (Some(addr), _) => {
            all.iter().filter(on_wanted).find(|candidate| candidate.addr == addr).ok_or_else(
                || UnderlayError::AddressNotHere { addr, dev: dev.cloned(), have: have() },
            )?
        }
        (None, Some(name)) => all
            .iter()
            .filter(on_wanted)
            .min_by_key(|candidate| candidate.addr.is_ipv6())
            .ok_or_else(|| UnderlayError::NoAddress(name.clone()))?,
        (None, None) => {
            let routes = read::routes(&mut conn).await?;
            by_default_route(&routes, &all)
                .or_else(|| only(&all, &links))
                .ok_or_else(|| UnderlayError::Undecided { have: have() })?
        }
    };
    let undecided = || UnderlayError::Undecided { have: have() };
    let row = links.get(&chosen.dev).ok_or_else(undecided)?;
    Ok(Underlay {
        dev: row.ifname().ok_or_else(undecided)?,
        addr: chosen.addr,
        mtu: u16::try_from(row.mtu).unwrap_or(u16::MAX),
        other: None,
    })
}

fn candidates(addresses: &[AddressMessage], links: &Links) -> Vec<Candidate> {
    addresses
        .iter()
        .filter(|message| message.header.scope == AddressScope::Universe)
        .filter_map(|message| {
            let row = links.get(&message.header.index)?;
            let addr = read::local_address(message)?;
            (!row.ours() && !addr.is_loopback()).then_some(Candidate { dev: row.index, addr })
        })
        .collect()
}

/// The default route with the best metric, IPv4 before IPv6: its preferred
/// source, or the first address of its device.
fn by_default_route<'a>(routes: &[RouteRow], all: &'a [Candidate]) -> Option<&'a Candidate> {
    let mut defaults: Vec<&RouteRow> = routes
        .iter()
        .filter(|route| route.main_table && route.destination.prefix_len() == 0)
        .collect();
    defaults.sort_by_key(|route| (route.destination.addr().is_ipv6(), route.priority));
    defaults.into_iter().find_map(|route| {
        let family = route.destination.addr().is_ipv6();
        match route.source {
            Some(source) => all.iter().find(|candidate| candidate.addr == source),
            None => all.iter().find(|candidate| {
                route.devices.contains(&candidate.dev) && candidate.addr.is_ipv6() == family
            }),
        }
    })
}

/// The only global address, IPv4 before IPv6, on anything but the loopback.
fn only<'a>(all: &'a [Candidate], links: &Links) -> Option<&'a Candidate> {
    let off_loopback =
        |candidate: &&Candidate| links.get(&candidate.dev).is_some_and(|row| !row.loopback);
    let of = |v6: bool| {
        let mut found =
            all.iter().filter(off_loopback).filter(move |candidate| candidate.addr.is_ipv6() == v6);
        (found.next(), found.next().is_some())
    };
    match (of(false), of(true)) {
        ((Some(v4), false), _) => Some(v4),
        ((None, _), (Some(v6), false)) => Some(v6),
        _ => None,
    }
}
