//! Addresses that stay with a name: `attach --keep-ip`.
//!
//! ```text
//!  attach --keep-ip ─► kept ─► detach ─► kept ─► attach ─► kept ─► forget-ip
//!                       └────────────── leased all the time ────┘
//! ```
//!
//! What is kept is leased on this host, whether the endpoint is attached or not:
//! nobody else gets it. The next attach of that name on the network gets the same
//! addresses and the same MAC. It is in the state file, so it survives restarts
//! and reboots, and goes with its network, or when somebody says so.
//!
//! Only this host knows of it. Elsewhere the name gets other addresses, and who
//! asks for just those is refused by their owner as for any that are leased. When
//! an endpoint moves away with its addresses, they are kept no more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlay_model::{AddressRange, Endpoint, EndpointId, Family, MacAddr, Name, NetworkId};
use serde::{Deserialize, Serialize};

use crate::endpoints::unsaved;
use crate::engine::{After, Engine};
use crate::event::{Attach, ErrorKind, Refused, Reply, StateChange, Token};

/// What stays with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// On which network.
    pub network: NetworkId,
    /// Whose it is.
    pub name: Name,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
}

/// All that this host keeps.
#[derive(Debug, Default)]
pub(crate) struct KeptSet {
    by_name: BTreeMap<NetworkId, BTreeMap<Name, Kept>>,
    by_ip: BTreeMap<(NetworkId, IpAddr), Name>,
}

impl KeptSet {
    pub(crate) fn get(&self, net: NetworkId, name: &Name) -> Option<&Kept> {
        self.by_name.get(&net)?.get(name)
    }

    /// For whom `ip` is kept.
    pub(crate) fn keeper(&self, net: NetworkId, ip: IpAddr) -> Option<&Name> {
        self.by_ip.get(&(net, ip))
    }

    /// All of a network, by name.
    pub(crate) fn on(&self, net: NetworkId) -> impl Iterator<Item = &Kept> {
        self.by_name.get(&net).into_iter().flat_map(BTreeMap::values)
    }

    /// One that is in `range`, and for whom it is kept.
    pub(crate) fn within(&self, net: NetworkId, range: &AddressRange) -> Option<(IpAddr, &Name)> {
        let all = (net, range.first())..=(net, range.last());
        self.by_ip.range(all).next().map(|((_, ip), name)| (*ip, name))
    }

    fn insert(&mut self, kept: Kept) {
        for ip in &kept.addresses {
            self.by_ip.insert((kept.network, *ip), kept.name.clone());
        }
        self.by_name.entry(kept.network).or_default().insert(kept.name.clone(), kept);
    }

    fn remove(&mut self, net: NetworkId, name: &Name) -> Option<Kept> {
        let kept = self.by_name.get_mut(&net)?.remove(name)?;
        if self.by_name.get(&net).is_some_and(BTreeMap::is_empty) {
            self.by_name.remove(&net);
        }
        for ip in &kept.addresses {
            self.by_ip.remove(&(net, *ip));
        }
        Some(kept)
    }
}

impl Engine {
    /// What the state file had: as at [`Engine::new`], after the networks.
    pub(crate) fn restore_kept(&mut self, all: Vec<Kept>) -> Vec<StateChange> {
        let mut dropped = Vec::new();
        for kept in all {
            if self.networks.get(kept.network).is_none() {
                dropped.push(StateChange::DropKept(kept.network, kept.name));
                continue;
            }
            for ip in &kept.addresses {
                if let Some(pool) = self.pools.get_mut(&(kept.network, Family::of(ip))) {
                    pool.note_lease(*ip);
                }
            }
            self.kept.insert(kept);
        }
        dropped
    }

    /// Fills in what is kept for the name that is to be attached.
    pub(crate) fn complete_kept(&self, request: &mut Attach) -> Result<(), Refused> {
        let Some(name) = &request.name else {
            return match request.keep_ip {
                false => Ok(()),
                true => Err(Refused::new(
                    ErrorKind::Invalid,
                    "addresses are kept for a name, and none is given",
                )
                .hint("say it with --name, or leave --keep-ip out")),
            };
        };
        let net = self.find_network(&request.net)?;
        // Whoever takes over has what is there, and not what is here.
        let Some(kept) = self.kept.get(net.id, name).filter(|_| !request.take_over) else {
            return Ok(());
        };
        let another = |what: String, said: String| {
            Refused::new(
                ErrorKind::Taken,
                format!("{what} is kept for {name} on network {}, not {said}", net.name),
            )
            .hint(format!(
                "leave it out, or let it go with: overlayctl endpoint forget-ip {name} --net {}",
                net.name
            ))
        };
        if let Some(mac) = request.mac.filter(|mac| *mac != kept.mac) {
            return Err(another(kept.mac.to_string(), mac.to_string()));
        }
        for ip in &kept.addresses {
            match request.ips.iter().find(|said| Family::of(said) == Family::of(ip)) {
                Some(said) if said != ip => {
                    return Err(another(ip.to_string(), said.to_string()));
                }
                Some(_) => {}
                None => request.ips.push(*ip),
            }
        }
        request.mac = Some(kept.mac);
        // Until somebody lets them go.
        request.keep_ip = true;
        Ok(())
    }

    /// Says whether `ip` is kept for who asks for it.
    pub(crate) fn is_kept_for(&self, net: NetworkId, ip: IpAddr, name: Option<&Name>) -> bool {
        name.is_some() && self.kept.keeper(net, ip) == name
    }

    /// Says whether the addresses of an endpoint of this host are kept.
    pub(crate) fn is_kept(&self, ep: &Endpoint) -> bool {
        let kept = ep.name.as_ref().and_then(|name| self.kept.get(ep.network, name));
        kept.is_some_and(|kept| kept.addresses == ep.addresses)
    }

    /// What is to be written with a new endpoint, if its addresses are kept.
    pub(crate) fn to_keep(&self, id: EndpointId) -> Option<Kept> {
        let ep = &self.local.get(&id).filter(|_| self.keeping.contains(&id))?.local.endpoint;
        let (mac, addresses) = (ep.mac, ep.addresses.clone());
        Some(Kept { network: ep.network, name: ep.name.clone()?, mac, addresses })
    }

    /// The state file has it.
    pub(crate) fn keep(&mut self, kept: Kept) {
        let former = self.kept.remove(kept.network, &kept.name);
        let network = kept.network;
        self.kept.insert(kept);
        for ip in former.into_iter().flat_map(|former| former.addresses) {
            self.release_lease(network, ip);
        }
    }

    /// Addresses have gone elsewhere with what has moved, or with their network.
    pub(crate) fn lose_kept(&mut self, net: NetworkId, name: &Name) -> Option<StateChange> {
        let kept = self.kept.remove(net, name)?;
        for ip in kept.addresses {
            self.release_lease(net, ip);
        }
        Some(StateChange::DropKept(net, kept.name))
    }

    /// Of a network that is gone.
    pub(crate) fn lose_kept_on(&mut self, net: NetworkId) -> Vec<StateChange> {
        let names: Vec<Name> = self.kept.on(net).map(|kept| kept.name.clone()).collect();
        names.iter().filter_map(|name| self.lose_kept(net, name)).collect()
    }

    /// What is kept for a name is to be let go.
    pub(crate) fn forget_ip(
        &mut self,
        token: Token,
        net: &str,
        name: &Name,
    ) -> Result<(), Refused> {
        let net = self.find_network(net)?;
        let Some(kept) = self.kept.get(net.id, name).cloned() else {
            return Err(Refused::new(
                ErrorKind::NotFound,
                format!("nothing is kept for {name} on network {} on this host", net.name),
            )
            .hint(format!("see what is: overlayctl net inspect {}", net.name)));
        };
        let change = StateChange::DropKept(net.id, name.clone());
        self.persist(vec![change], After::Forgotten { token, kept });
        Ok(())
    }

    /// The state file has let it go, or could not.
    pub(crate) fn forgot_ip(&mut self, token: Token, kept: Kept, result: Result<(), String>) {
        if let Err(why) = result {
            return self.reply(token, Err(unsaved(&why)));
        }
        self.lose_kept(kept.network, &kept.name);
        self.reply(token, Ok(Reply::Kept(kept)));
    }
}

#[cfg(test)]
mod tests;
