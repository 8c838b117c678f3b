//! Networks that change: what of a definition may become another one, and what
//! happens to those who use it.
//!
//! A change is a new definition with a later stamp, which wins everywhere as any
//! other does: of two at the same time the later one, whole. Labels, exclusions
//! and whether there is a gateway can change. VNI, subnets and MTU cannot: they
//! are what running containers were given.
//!
//! An exclusion of an address that somebody has is refused. One that is attached
//! at the same moment on a host that has not heard of the exclusion keeps its
//! address: what runs is never taken back.

use std::collections::{BTreeMap, BTreeSet};

use overlay_model::{AddressRange, HostId, Network, NetworkId};
use serde::{Deserialize, Serialize};

use crate::endpoints::{host_text_of, unsaved};
use crate::engine::{After, Engine, check_rules};
use crate::event::{ErrorKind, Notice, Refused, Reply, StateChange, Token};

/// What of a network is to become otherwise; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeNetwork {
    /// Name or id of the network.
    pub net: String,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Keys of labels to remove.
    pub unlabel: BTreeSet<String>,
    /// Never leased any more.
    pub exclude: Vec<AddressRange>,
    /// No longer excluded.
    pub include: Vec<AddressRange>,
    /// Whether there is no gateway and no way out.
    pub internal: Option<bool>,
}

/// Endpoints of one host that went with their network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DetachedOn {
    /// Name of the host, or its id.
    pub host: String,
    /// How many.
    pub endpoints: usize,
    /// The host cannot be reached now: they go when it is back.
    pub later: bool,
}

impl Engine {
    /// A network is to become otherwise.
    pub(crate) fn change_network(
        &mut self,
        token: Token,
        request: &ChangeNetwork,
    ) -> Result<(), Refused> {
        let before = self.find_network(&request.net)?.clone();
        let mut network = self.changed_definition(&before, request)?;
        if network == before {
            let view = self.network_view(&before);
            self.reply(token, Ok(Reply::Network(Box::new(view))));
            return Ok(());
        }
        network.updated = self.new_stamp(Some(before.updated));
        self.networks.merge(network.clone());
        // At once: nothing may be leased meanwhile that is excluded.
        self.make_pools(&network);
        let change = StateChange::Network(network);
        self.persist(vec![change], After::Changed { token, before: Box::new(before) });
        Ok(())
    }

    fn changed_definition(
        &self,
        before: &Network,
        request: &ChangeNetwork,
    ) -> Result<Network, Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        let mut labels = before.labels.clone();
        for key in &request.unlabel {
            if request.labels.contains_key(key) {
                return Err(invalid(format!("the label {key} is to be both set and removed")));
            }
            if labels.remove(key).is_none() {
                return Err(invalid(format!("network {} has no label {key}", before.name))
                    .hint(format!("see what it has: overlayctl net inspect {}", before.name)));
            }
        }
        labels.extend(request.labels.clone());
        let mut exclude =
            AddressRange::union(before.exclude.iter().chain(&request.exclude).copied());
        for range in &request.include {
            if let Some(both) = request.exclude.iter().find(|other| other.overlaps(range)) {
                return Err(invalid(format!("{range} is to be included, and {both} excluded")));
            }
            if !before.exclude.iter().any(|other| other.overlaps(range)) {
                return Err(invalid(format!(
                    "{range} is not excluded from network {}",
                    before.name
                ))
                .hint(format!("see what is: overlayctl net inspect {}", before.name)));
            }
            exclude = AddressRange::difference(&exclude, range);
        }
        check_rules(&before.subnets, &labels, &exclude, &before.ip_ranges)?;
        for range in &request.exclude {
            self.check_unused(before, range)?;
        }
        let internal = request.internal.unwrap_or(before.internal);
        Ok(Network { labels, exclude, internal, ..before.clone() })
    }

    /// Refuses to exclude what somebody has.
    fn check_unused(&self, net: &Network, range: &AddressRange) -> Result<(), Refused> {
        let here = self.local.values().map(|l| (self.config.host, &l.local.endpoint));
        let elsewhere = self.view.remote_endpoints().map(|(host, _, ep)| (host, ep));
        let mut holders = here.chain(elsewhere).filter(|(_, ep)| ep.network == net.id).filter_map(
            |(host, ep)| {
                let ip = ep.addresses.iter().find(|ip| range.contains(**ip))?;
                Some((*ip, host, ep))
            },
        );
        if let Some((ip, host, ep)) = holders.next() {
            let more = match holders.count() {
                0 => String::new(),
                n => format!(", and {n} more of {range} are in use"),
            };
            return Err(Refused::new(
                ErrorKind::InUse,
                format!(
                    "{ip} is the address of endpoint {} on host {}{more}",
                    host_text_of(ep),
                    self.host_name(host)
                ),
            )
            .hint("detach what has them first, or exclude what is beside them"));
        }
        match self.kept.within(net.id, range) {
            None => Ok(()),
            Some((ip, name)) => {
                Err(Refused::new(ErrorKind::InUse, format!("{ip} is kept for {name} on this host"))
                    .hint(format!(
                        "let it go with: overlayctl endpoint forget-ip {name} --net {}",
                        net.name
                    )))
            }
        }
    }

    /// The state file has taken a change, or could not.
    pub(crate) fn changed(&mut self, token: Token, before: Network, result: Result<(), String>) {
        let id = before.id;
        if let Err(why) = result {
            // Unless something newer has come meanwhile.
            let ours = self.networks.get(id).is_some_and(|net| {
                net.updated.host == self.config.host && net.updated > before.updated
            });
            if ours {
                self.make_pools(&before);
                self.networks.restore(id, Some(before));
            }
            return self.reply(token, Err(unsaved(&why)));
        }
        let Some(network) = self.networks.get(id).cloned() else {
            let gone = format!("network {} has been removed meanwhile", before.name);
            return self.reply(token, Err(Refused::new(ErrorKind::NotFound, gone)));
        };
        self.tell_change(&before, &network);
        self.republish = true;
        self.touch_network(id);
        let view = self.network_view(&network);
        self.reply_when_settled(token, Ok(Reply::Network(Box::new(view))));
    }

    /// Tells of a definition that has become otherwise, not of one that is only
    /// written anew.
    pub(crate) fn tell_change(&mut self, before: &Network, now: &Network) {
        if (Network { updated: now.updated, ..before.clone() }) != *now {
            let (name, vni) = (now.name.clone(), now.vni);
            self.notice(Notice::Network { name, vni, what: "changed" });
        }
    }

    /// How many endpoints of a network there are on which host.
    pub(crate) fn users_counted(&self, net: NetworkId) -> Vec<DetachedOn> {
        let mut counts: BTreeMap<HostId, usize> = BTreeMap::new();
        let here = self.local.values().filter(|l| l.local.endpoint.network == net);
        let elsewhere = self.view.remote_endpoints().filter(|(_, _, ep)| ep.network == net);
        let hosts = here.map(|_| self.config.host).chain(elsewhere.map(|(host, ..)| host));
        for host in hosts {
            *counts.entry(host).or_default() += 1;
        }
        let mut list: Vec<DetachedOn> = counts
            .into_iter()
            .map(|(host, endpoints)| DetachedOn {
                host: self.host_name(host),
                endpoints,
                later: host != self.config.host && !self.is_up(host),
            })
            .collect();
        list.sort_by(|a, b| a.host.cmp(&b.host));
        list
    }
}

#[cfg(test)]
mod tests;
