//! Networks that are created when somebody first needs them, by whichever host is
//! first: one in the whole cluster.
//!
//! ```text
//!  asked ─► waiting ─► settling ─► there          replied, addresses are given out
//!            │ (the view is complete)  │
//!            │                         └─► withdrawn, if an older one turns up: replied that one
//!            └─► refused, if most of the cluster cannot be heard
//! ```
//!
//! Two plugins on two hosts ask for the same network within a millisecond, before
//! either host has heard of the other's. Both create it; the older claim wins
//! everywhere, as always (`networks.rs`). What an operator has to settle
//! otherwise settles itself here, because nothing stands on the younger one yet:
//!
//! 1. While a network settles, its creator gives no address of it to anybody,
//!    itself included. Attaches wait, and so do requests of other hosts.
//! 2. If it loses in that time, its creator removes it, and whoever waits for it
//!    gets the other one.
//! 3. Whoever waits is told of another host's network not before that could have lost
//!    to a third: as long after it was first heard of.
//! 4. It is created only by a host that hears more than half of the cluster:
//!    of two sides of a partition at most one creates it.
//!
//! An identifier made of what is asked for would give one network without any
//! waiting; but then two hosts would have founded its addresses (`ipam.rs`, 1),
//! and each would give the same ones out.
//!
//! Until it is withdrawn, hosts that hear of both may tell of a conflict, and that it is over.
//!
//! What remains: two hosts that hear more than half of the cluster, and each
//! other, but of whose news none arrives for as long as a network settles. Then
//! the younger network is in conflict and told, as if people had made it.

use std::collections::BTreeMap;
use std::time::Duration;

use overlay_model::{Family, HostId, Network, NetworkId, Want};

use crate::cluster_view::HostState;
use crate::engine::{After, Engine};
use crate::event::{CreateNetwork, ErrorKind, Refused, Reply, StateChange, Token};
use crate::plan::Completeness;

/// How long a network settles: twenty times what the news of it takes, and less
/// than another host waits for addresses of it.
const SETTLE: Duration = Duration::from_millis(600);

/// How long somebody waits who asks a host that has not heard everybody yet.
const PATIENCE: Duration = Duration::from_secs(18);

/// How often one who has lost for its VNI alone tries another.
const TRIES: u8 = 5;

/// Somebody who wants a network to be there.
#[derive(Debug)]
pub(crate) struct Asker {
    token: Token,
    fresh: u64,
    request: CreateNetwork,
    until: Duration,
    tries: u8,
}

/// A network that this host has just created.
#[derive(Debug)]
struct Settling {
    /// `None` while the state file has not taken it.
    until: Option<Duration>,
    askers: Vec<Asker>,
    wants: Vec<(HostId, Family, Want)>,
}

/// What is asked for once, and has not been answered.
#[derive(Debug, Default)]
pub(crate) struct Once {
    /// Those whom this host cannot serve yet.
    waiting: Vec<Asker>,
    settling: BTreeMap<NetworkId, Settling>,
    /// Networks of others that were just heard of, and until when they might yet lose.
    young: BTreeMap<NetworkId, Duration>,
}

impl Once {
    /// A network of another host was heard of.
    pub(crate) fn note_young(&mut self, net: NetworkId, now: Duration) {
        self.young.retain(|_, until| *until > now);
        self.young.insert(net, now + SETTLE);
    }

    /// Whether nobody is to have an address of `net` yet.
    pub(crate) fn is_settling(&self, net: NetworkId) -> bool {
        self.settling.contains_key(&net)
    }

    /// When something of it is due.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let waiting = self.waiting.iter().map(|asker| asker.until);
        let young = self.young.values().copied().filter(|_| !self.waiting.is_empty());
        waiting
            .chain(young)
            .chain(self.settling.values().filter_map(|settling| settling.until))
            .min()
    }

    /// A request for addresses comes too early: it is served when they are given out.
    pub(crate) fn put_off(&mut self, host: HostId, net: NetworkId, family: Family, want: Want) {
        if let Some(settling) = self.settling.get_mut(&net) {
            // The newest of each host counts, and one is enough.
            settling.wants.retain(|(other, of, _)| (*other, *of) != (host, family));
            settling.wants.push((host, family, want));
        }
    }
}

impl Engine {
    /// A network is to be there.
    pub(crate) fn create_once(&mut self, token: Token, fresh: u64, request: CreateNetwork) {
        let until = self.now.mono + PATIENCE;
        self.once.waiting.push(Asker { token, fresh, request, until, tries: 0 });
        self.settle_once();
    }

    /// Goes on with what can be gone on with: at the end of each step.
    pub(crate) fn settle_once(&mut self) {
        for id in self.once.settling.keys().copied().collect::<Vec<_>>() {
            if self.networks.get(id).is_none() {
                // Somebody has removed it: whoever wants it asks anew.
                self.ask_anew(id);
            } else if self.networks.conflict(id).is_some() {
                self.withdraw_loser(id);
            } else if self.once.settling[&id].until.is_some_and(|until| until <= self.now.mono) {
                self.settled(id);
            }
        }
        let now = self.now.mono;
        self.once.young.retain(|_, until| *until > now);
        for asker in std::mem::take(&mut self.once.waiting) {
            self.serve_asker(asker);
        }
    }

    fn serve_asker(&mut self, mut asker: Asker) {
        let Some(name) = asker.request.name.clone() else {
            let why = "a network that is to be there once needs a name";
            return self.reply(asker.token, Err(Refused::new(ErrorKind::Invalid, why)));
        };
        if let Some(net) = self.networks.find(name.as_str()).filter(|net| net.name == name) {
            let (id, fits) = (net.id, fits(net, &asker.request));
            let view = self.network_view(net);
            match (fits, self.once.settling.get_mut(&id)) {
                (Err(refused), _) => self.reply(asker.token, Err(refused)),
                (Ok(()), Some(settling)) => settling.askers.push(asker),
                (Ok(()), None) if self.once.young.contains_key(&id) => {
                    self.once.waiting.push(asker);
                }
                (Ok(()), None) => self.reply(asker.token, Ok(Reply::Network(Box::new(view)))),
            }
            return;
        }
        if self.completeness == Completeness::Partial && self.now.mono < asker.until {
            self.once.waiting.push(asker);
            return;
        }
        if let Err(refused) = self.check_may_create(name.as_str(), asker.tries) {
            return self.reply(asker.token, Err(refused));
        }
        // A network that was withdrawn may have had this number.
        let fresh = asker.fresh.wrapping_add(u64::from(asker.tries));
        match self.define_network(fresh, asker.request.clone()) {
            Err(refused) => self.reply(asker.token, Err(refused)),
            Ok(network) => {
                asker.tries += 1;
                let settling = Settling { until: None, askers: vec![asker], wants: Vec::new() };
                self.once.settling.insert(network.id, settling);
                self.create_network(None, network);
            }
        }
    }

    /// Refuses to create what another side of a partition might create, too.
    fn check_may_create(&self, name: &str, tries: u8) -> Result<(), Refused> {
        let unavailable = |message: String| {
            Refused::new(ErrorKind::Unavailable, message)
                .hint(format!("or create it on one host with: overlayctl net create {name}"))
        };
        if self.completeness == Completeness::Partial {
            let why = "this host has not heard all others yet";
            return Err(unavailable(format!("network {name} cannot be created now: {why}")));
        }
        if tries >= TRIES {
            let why = "others were faster with its VNI each time";
            return Err(unavailable(format!("network {name} cannot be created now: {why}")));
        }
        // Who has stopped in good order creates nothing before it has heard us.
        let counted = |state| !matches!(state, HostState::Left | HostState::Stopped);
        let others: Vec<(HostId, HostState)> = self
            .view
            .hosts()
            .map(|(host, presence, ..)| (host, presence.state))
            .filter(|(_, state)| counted(*state))
            .collect();
        let here = 1 + others.iter().filter(|(_, state)| *state == HostState::Up).count();
        if here * 2 > others.len() + 1 {
            return Ok(());
        }
        let away = others.iter().filter(|(_, state)| *state != HostState::Up);
        let away: Vec<String> = away.map(|(host, _)| self.host_name(*host)).collect();
        Err(unavailable(format!(
            "network {name} cannot be created now: more than half of the hosts must be there for \
             that, and these are not: {}",
            away.join(", ")
        )))
    }

    /// The state file has taken the network, and the others are told.
    pub(crate) fn once_saved(&mut self, id: NetworkId) {
        let others = self.view.hosts().any(|(_, p, ..)| p.state == HostState::Up);
        if let Some(settling) = self.once.settling.get_mut(&id) {
            settling.until = Some(self.now.mono + if others { SETTLE } else { Duration::ZERO });
        }
    }

    /// The state file could not take it.
    pub(crate) fn once_unsaved(&mut self, id: NetworkId, refused: &Refused) {
        for asker in self.once.settling.remove(&id).into_iter().flat_map(|s| s.askers) {
            self.reply(asker.token, Err(refused.clone()));
        }
    }

    fn settled(&mut self, id: NetworkId) {
        let Some(settling) = self.once.settling.remove(&id) else { return };
        for asker in settling.askers {
            self.serve_asker(asker);
        }
        for (host, family, want) in settling.wants {
            self.on_want(host, id, family, want);
        }
        self.serve_waiting();
    }

    /// An older one has turned up, and nothing stands on ours.
    fn withdraw_loser(&mut self, id: NetworkId) {
        let Some(before) = self.networks.get(id).cloned() else { return };
        let gone = self.tombstone(&before);
        self.networks.merge(gone.clone());
        self.persist(vec![StateChange::Network(gone), StateChange::DropRing(id)], After::Nothing);
        self.bury_network(&before);
        self.settle_clashes();
        self.republish = true;
        self.ask_anew(id);
    }

    /// Whoever waits for a network that is none any more gets what has its name, or a
    /// new one.
    fn ask_anew(&mut self, id: NetworkId) {
        let Some(settling) = self.once.settling.remove(&id) else { return };
        self.once.waiting.extend(settling.askers);
        self.serve_waiting();
    }
}

/// Refuses a network that is not what was asked for.
fn fits(net: &Network, request: &CreateNetwork) -> Result<(), Refused> {
    let other = |is: String, asked: String| {
        let message = format!("network {} is there with {is}, not {asked}", net.name);
        Refused::new(ErrorKind::Taken, message)
            .hint(format!("ask for what it is, or remove it with: overlayctl net rm {}", net.name))
    };
    if let Some(vni) = request.vni.filter(|vni| *vni != net.vni) {
        return Err(other(format!("VNI {}", net.vni), vni.to_string()));
    }
    let has: Vec<String> = net.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
    for asked in &request.subnets {
        if !net.subnets.iter().any(|subnet| subnet.cidr == asked.trunc()) {
            return Err(other(format!("subnet {}", has.join(", ")), asked.to_string()));
        }
    }
    for family in &request.free {
        if !net.subnets.iter().any(|subnet| Family::of(&subnet.gateway) == *family) {
            return Err(other(format!("subnet {}", has.join(", ")), format!("one of {family}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
