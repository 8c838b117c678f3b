//! Addresses that are held for who comes back for them: Docker asks for an address
//! first, and says in another request what is to have it.
//!
//! ```text
//!  reserve ─► leased, and nobody's ─► attach with `reserved` ─► the endpoint's
//!                  │
//!                  └─► two minutes, or let go ─► free
//! ```
//!
//! They are not in the state file: after a restart an address is free that was
//! held, and the attach that comes for it leases it anew, or is refused because
//! somebody else has it by then. It is never given twice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use overlay_model::{Family, NetworkId};
use serde::{Deserialize, Serialize};

use crate::endpoints::Station;
use crate::engine::Engine;
use crate::event::{ErrorKind, Refused, Reply, Token};

/// How long an address is held for an attach.
const HELD: Duration = Duration::from_secs(120);

/// How many are held at a time on one host.
const MAX_HELD: usize = 4096;

/// An address to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// Name or id of the network.
    pub net: String,
    /// This one; a free one when left out.
    pub ip: Option<IpAddr>,
    /// Of which family a free one is to be; that of the network's first subnet
    /// when left out.
    pub family: Option<Family>,
}

/// What is held, until when on the clock of [`crate::Now::mono`].
#[derive(Debug, Default)]
pub(crate) struct Reserved(BTreeMap<(NetworkId, IpAddr), Duration>);

impl Reserved {
    /// Whoever asks has it now.
    pub(crate) fn take(&mut self, net: NetworkId, ip: IpAddr) -> bool {
        self.0.remove(&(net, ip)).is_some()
    }

    pub(crate) fn holds(&self, net: NetworkId, ip: IpAddr) -> bool {
        self.0.contains_key(&(net, ip))
    }

    /// When [`Engine::let_reserved_go`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.0.values().min().copied()
    }
}

impl Engine {
    /// Whether an address can be held at all; on which network, and of which family.
    pub(crate) fn check_reserve(&self, asked: &Reserve) -> Result<(NetworkId, Family), Refused> {
        let net = self.find_network(&asked.net)?;
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        if self.reserved.0.len() >= MAX_HELD {
            return Err(Refused::new(
                ErrorKind::Unavailable,
                format!("{MAX_HELD} addresses are held already for attaches that do not come"),
            )
            .hint(format!("each is let go after {} s", HELD.as_secs())));
        }
        let family = match (asked.ip, asked.family) {
            (Some(ip), Some(family)) if Family::of(&ip) != family => {
                return Err(invalid(format!("{ip} is not of the family that is asked for")));
            }
            (Some(ip), _) => {
                let ips = [ip];
                let none = (BTreeMap::new(), std::collections::BTreeSet::new());
                let station =
                    Station { ips: &ips, mac: None, name: None, labels: &none.0, aliases: &none.1 };
                self.check_station(net, &station, |_, _| false)?;
                Family::of(&ip)
            }
            (None, family) => {
                let mut families = net.subnets.iter().map(|subnet| Family::of(&subnet.gateway));
                let found = families.find(|has| family.is_none_or(|family| family == *has));
                found.ok_or_else(|| {
                    let message = format!("network {} has no subnet of that family", net.name);
                    invalid(message).hint("see its subnets: overlayctl net ls")
                })?
            }
        };
        Ok((net.id, family))
    }

    /// There is one.
    pub(crate) fn hold(&mut self, token: Token, net: NetworkId, addresses: &[IpAddr]) {
        let found = addresses.first().zip(self.networks.get(net));
        let Some((ip, network)) = found else {
            let gone = Refused::new(ErrorKind::NotFound, "its network has been removed meanwhile");
            return self.reply(token, Err(gone));
        };
        let subnet = network.subnets.iter().find(|subnet| subnet.cidr.contains(ip));
        let full = if ip.is_ipv4() { 32 } else { 128 };
        let length = subnet.map_or(full, |subnet| subnet.cidr.prefix_len());
        let address = IpNet::new(*ip, length).unwrap_or_else(|_| IpNet::from(*ip));
        let net_name = network.name.clone();
        self.reserved.0.insert((net, *ip), self.now.mono + HELD);
        self.reply(token, Ok(Reply::Reserved { net: net_name, ip: address, held: HELD }));
    }

    /// It is not needed after all. Nothing else is let go by this: what an endpoint has by now
    /// is the endpoint's.
    pub(crate) fn unreserve(&mut self, net: &str, ip: IpAddr) -> Result<Reply, Refused> {
        let (id, name) = self.find_network(net).map(|net| (net.id, net.name.clone()))?;
        if !self.reserved.take(id, ip) {
            let message = format!("{ip} of network {name} is not held for an attach");
            return Err(Refused::new(ErrorKind::NotFound, message));
        }
        self.release_lease(id, ip);
        Ok(Reply::Released { net: name, ip })
    }

    /// Those that nobody has come for are free again.
    pub(crate) fn let_reserved_go(&mut self) {
        let due = self.reserved.0.iter().filter(|(_, until)| **until <= self.now.mono);
        let due: Vec<(NetworkId, IpAddr)> = due.map(|(place, _)| *place).collect();
        for (net, ip) in due {
            self.reserved.take(net, ip);
            self.release_lease(net, ip);
        }
    }
}

#[cfg(test)]
mod tests;
