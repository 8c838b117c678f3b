//! The door: [`Engine::step`], and the state behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use overlay_model::mtu::{DEFAULT_INNER_MTU, DEFAULT_INNER_MTU_V6, MIN_INNER_MTU, overhead};
use overlay_model::records::way_between;
use overlay_model::{
    Access, AddressRange, Announcement, ClusterEvent, EndpointId, Family, Fate, Foreign, Hand,
    Host, HostId, HostIntent, HostKeys, IfName, KernelChange, KernelOp, KernelState, MacAddr, Name,
    Network, NetworkId, Object, ObjectKey, Outer, Publish, Record, RecordKey, RingToken, Service,
    Stamp, Subnet, Vni,
};

use crate::audit::Crowds;
use crate::cluster_view::{ClusterView, HostState, Patience, Shift, subjects};
use crate::desired::{endpoint_of, vni_of};
use crate::endpoints::{Local, Phase, Waiting, gone_text, unsaved};
use crate::event::{
    Attach, CreateNetwork, Effect, ErrorKind, Event, Import, LocalEndpoint, Notice, Now, Place,
    Refused, Reply, Request, StateChange, Token, Where,
};
use crate::forget::Register;
use crate::ipam::{Pool, first_address, is_host_address};
use crate::kept::{Kept, KeptSet};
use crate::leaks::Gone;
use crate::leaks::local_keys;
use crate::leasable;
use crate::membership::{Membership, Ranges, ring_change};
use crate::moves::Moves;
use crate::names::Herald;
use crate::network_changes::DetachedOn;
use crate::networks::Networks;
use crate::once::Once;
use crate::plan::{Completeness, Delta, plan};
use crate::publish::{NOBODY_ASKS, is_own};
use crate::reconcile::{Cause, Observed, Reconciler, Round};
use crate::recovery::{Lost, Recovery};
use crate::repairs::Found;
use crate::reserved::Reserved;
use crate::services::Services;
use crate::statics::{Draft, WaitingImport};

/// How long after the start the live hosts are given to be heard, at least.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);

/// The first VNI that is chosen by itself, as Docker does.
const FIRST_VNI: u32 = 4097;

/// How many hosts that do not use a network keep its definition alive.
const KEEPERS: usize = 3;

/// A container remembers a MAC for so long that nobody confirms (Linux: up to
/// 45 s, then 5 s of doubt and three questions).
const CACHED: Duration = Duration::from_secs(60);

/// Of so many neighbours that went lately the MAC is remembered.
const FORMER_MACS: usize = 1024;

/// Bytes that the labels of a network may take together.
const LABEL_BYTES: usize = 400;

/// What the engine must be told of its host. Fixed while the daemon runs.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Identity of this host.
    pub host: HostId,
    /// Which life of it this is.
    pub incarnation: u64,
    /// What people call it.
    pub name: Name,
    /// Addresses that VXLAN packets for this host come to: one, or one of IPv4
    /// and one of IPv6, in this order.
    pub vteps: Vec<IpAddr>,
    /// It has addresses of both families, or is to have them: one may be gone
    /// for a while.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dual: bool,
    /// The device that has the first of them.
    pub underlay_dev: IfName,
    /// The device that has the second, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_dev: Option<IfName>,
    /// Bytes of IP packet that it takes; the lesser of two devices.
    pub underlay_mtu: u16,
    /// UDP port for VXLAN.
    pub vxlan_port: u16,
    /// What stands in the outer headers of its VXLAN packets.
    #[serde(default, skip_serializing_if = "Outer::is_default")]
    pub outer: Outer,
    /// Where it receives gossip.
    pub gossip: SocketAddr,
    /// Version of the software.
    pub version: String,
    /// Which cluster keys it has; none if gossip is not sealed.
    pub keys: HostKeys,
    /// Which boot of the machine this is.
    pub boot_id: String,
    /// A suspect host is down after so long.
    pub down_after: Duration,
    /// Entries of a down host go after so long.
    pub down_grace: Duration,
    /// Entries of a stopped host go after so long.
    pub stop_grace: Duration,
    /// Without hearing anybody, the view counts as complete after so long.
    pub alone_after: Duration,
    /// A host that is silent for so long is forgotten; `None`: only when an operator
    /// says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget_after: Option<Duration>,
    /// An endpoint whose namespace is gone is kept so long for a container that is
    /// restarted; zero: not at all.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub leak_grace: Duration,
    /// Which of its ports containers get to.
    #[serde(default, skip_serializing_if = "Access::is_closed")]
    pub host_access: Access,
    /// Where its state is, for people who are to delete a copy of it.
    pub state_dir: String,
}

impl Config {
    /// The first of its addresses, which names the host to people.
    pub fn vtep(&self) -> IpAddr {
        self.vteps[0]
    }
}

/// What the state file had.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Restored {
    /// Networks, tombstones included.
    pub networks: Vec<Network>,
    /// Endpoints of this host.
    pub endpoints: Vec<LocalEndpoint>,
    /// Those of them whose namespace or device is not there any more.
    pub gone: BTreeSet<EndpointId>,
    /// Ring tokens.
    pub ring: Vec<((NetworkId, Family, u128), RingToken)>,
    /// Hosts of the cluster.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<HostId>,
    /// What this host says of others that are away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fates: BTreeMap<HostId, Fate>,
    /// When it was last in touch with most of the cluster, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_ms: Option<u64>,
    /// It takes no new endpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// What is kept for names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// Services, tombstones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// The state file of before was lost, with all that this does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// What goes on when the state file has been written.
#[derive(Debug)]
pub(crate) enum After {
    Nothing,
    Created {
        token: Option<Token>,
        id: NetworkId,
    },
    Removed {
        token: Token,
        id: NetworkId,
        before: Box<Network>,
        /// Endpoints that go with it, where they may.
        detached: Option<Vec<DetachedOn>>,
    },
    Changed {
        token: Token,
        before: Box<Network>,
    },
    Forgotten {
        token: Token,
        kept: Kept,
    },
    Attached(EndpointId),
    EndpointChanged {
        token: Token,
        before: Box<LocalEndpoint>,
        after: Box<LocalEndpoint>,
    },
    Service {
        token: Token,
        service: Box<Service>,
    },
    Imported(Box<Draft>, Token),
    Detached {
        id: EndpointId,
        token: Token,
        /// The reply waits until the kernel has nothing of it.
        settled: bool,
    },
    Said {
        whom: HostId,
        fate: Option<Fate>,
        before: Option<Fate>,
    },
    TookOver {
        from: HostId,
        fate: Fate,
        taken: Ranges,
    },
    Dropped {
        fate: Fate,
        dropped: Vec<RecordKey>,
    },
    Drained {
        token: Token,
        drained: bool,
    },
    FoundAgain,
    GaveAll {
        token: Token,
        endpoints: usize,
        given: Ranges,
    },
    HandedOver {
        net: NetworkId,
        family: Family,
        ip: IpAddr,
        tokens: Vec<(u128, RingToken)>,
        before: BTreeMap<u128, RingToken>,
    },
    Donated {
        net: NetworkId,
        family: Family,
        tokens: Vec<(u128, RingToken)>,
        count: u128,
        to: HostId,
        before: Box<Pool>,
    },
}

/// One host's reasoning. See the crate's header.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) started: Duration,
    pub(crate) now: Now,
    pub(crate) networks: Networks,
    pub(crate) view: ClusterView,
    pub(crate) pools: BTreeMap<(NetworkId, Family), Pool>,
    pub(crate) local: BTreeMap<EndpointId, Local>,
    /// Devices that are attached here.
    pub(crate) by_device: BTreeMap<IfName, EndpointId>,
    /// Endpoints of this host that are [`Phase::Making`].
    pub(crate) making: BTreeSet<EndpointId>,
    /// Endpoints of this host that have moved away.
    pub(crate) moved: BTreeSet<EndpointId>,
    /// Endpoints of this host whose namespace is gone.
    pub(crate) gone: BTreeMap<EndpointId, Gone>,
    /// Records of endpoints whose place others have taken, and when they go.
    pub(crate) farewells: Vec<(Duration, RecordKey)>,
    /// Which networks run out of addresses.
    pub(crate) crowds: Crowds,
    pub(crate) moves: Moves,
    /// What the resolver is told.
    pub(crate) herald: Herald,
    /// Which hosts are gone for good.
    pub(crate) fates: Register,
    /// Something has happened that may decide one.
    pub(crate) fates_due: bool,
    pub(crate) membership: Membership,
    /// What this host looks for, if it has lost its state file.
    pub(crate) recovery: Option<Recovery>,
    pub(crate) kept: KeptSet,
    /// Addresses that are held for attaches.
    pub(crate) reserved: Reserved,
    /// Endpoints on their way whose addresses are to be kept.
    pub(crate) keeping: BTreeSet<EndpointId>,
    /// Networks that are not programmed, and why, as told.
    pub(crate) told_clashes: BTreeMap<NetworkId, String>,
    /// What is told when the plan under way is done.
    announcements: Vec<Announcement>,
    /// Which MAC a neighbour had that is gone, and since when.
    former_macs: BTreeMap<ObjectKey, (MacAddr, Duration)>,
    /// Endpoints of this host that publish ports.
    pub(crate) with_ports: BTreeSet<EndpointId>,
    pub(crate) services: Services,
    /// Aliases that ports of the whole cluster lead to.
    pub(crate) nat_aliases: BTreeSet<(NetworkId, Name)>,
    /// Ports of the host that are to be held, as told.
    pub(crate) held: BTreeSet<Publish>,
    /// Something has happened that ports may depend on.
    pub(crate) nat_due: bool,
    /// In this run something was attached or published.
    pub(crate) nat_known: bool,
    /// The host's own endpoints.
    pub(crate) own_endpoints: BTreeMap<NetworkId, EndpointId>,
    /// Where it lacks one, and when it tries again.
    pub(crate) own_waiting: BTreeSet<NetworkId>,
    pub(crate) own_retry: Duration,
    pub(crate) own_failure: Option<String>,
    /// Networks that are to be there once.
    pub(crate) once: Once,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) waiting_imports: Vec<WaitingImport>,
    /// Imports whose network is on its way into the kernel.
    pub(crate) importing: BTreeMap<Token, Draft>,
    /// How often who owns which addresses has changed.
    pub(crate) ring_changes: u64,
    pub(crate) want_seq: u64,
    pub(crate) wants_handled: BTreeMap<(HostId, NetworkId, Family), u64>,
    pub(crate) kernel: Reconciler,
    pub(crate) completeness: Completeness,
    /// What this run has wanted at some time, noted while the view is partial:
    /// of this alone it knows that nobody wants it when nobody does.
    ever_wanted: BTreeSet<ObjectKey>,
    pub(crate) revision: u64,
    pub(crate) applied_revision: u64,
    /// What is wanted changed in this step.
    pub(crate) revised: bool,
    /// Which networks this host publishes must be worked out anew.
    pub(crate) republish: bool,
    published: BTreeMap<NetworkId, Stamp>,
    intent: HostIntent,
    /// What was last told of each host.
    told: BTreeMap<HostId, &'static str>,
    /// Hosts of one name, as told.
    pub(crate) namesakes: BTreeMap<(Name, HostId), [String; 2]>,
    /// Other hosts that are there, with their VTEPs, by name; and the other way round.
    names: BTreeMap<Name, BTreeMap<HostId, String>>,
    named: BTreeMap<HostId, (Name, String)>,
    /// Where the machines gossip that claim to be one host.
    pub(crate) doubled: BTreeMap<HostId, Vec<SocketAddr>>,
    /// This host has had VTEP addresses of both families.
    pub(crate) had_both: bool,
    /// Hosts that were told to have no address family in common with this one.
    pub(crate) told_apart: BTreeSet<HostId>,
    /// Why the VTEP address is gone, if it is.
    pub(crate) underlay_lost: Option<String>,
    stamp: (u64, u32),
    persisting: BTreeMap<u64, After>,
    last_persist: u64,
    /// Those that wait for a round of the kernel.
    replies: Vec<(Round, Token, Result<Reply, Refused>)>,
    changes: Vec<(RecordKey, Option<Record>)>,
    effects: Vec<Effect>,
}

impl Engine {
    /// An engine that has just started with what the state file had.
    ///
    /// Endpoints of an earlier boot of the machine, and those whose namespace
    /// or device is gone, are dropped: that is among the effects of the first
    /// step. Static ones stand behind nothing that could be gone.
    pub fn new(config: Config, restored: Restored, now: Now) -> Self {
        let patience = Patience {
            down_after: config.down_after,
            down_grace: config.down_grace,
            stop_grace: config.stop_grace,
        };
        let mut engine = Self {
            started: now.mono,
            now,
            networks: Networks::default(),
            view: ClusterView::new(config.host, patience),
            pools: BTreeMap::new(),
            local: BTreeMap::new(),
            by_device: BTreeMap::new(),
            making: BTreeSet::new(),
            moved: BTreeSet::new(),
            gone: BTreeMap::new(),
            farewells: Vec::new(),
            crowds: Crowds::default(),
            moves: Moves::default(),
            herald: Herald::default(),
            fates: Register::new(config.host, restored.members, restored.fates),
            fates_due: true,
            membership: Membership::new(restored.drained),
            recovery: restored.lost.map(Recovery::new),
            kept: KeptSet::default(),
            reserved: Reserved::default(),
            keeping: BTreeSet::new(),
            told_clashes: BTreeMap::new(),
            announcements: Vec::new(),
            former_macs: BTreeMap::new(),
            with_ports: BTreeSet::new(),
            services: Services::default(),
            nat_aliases: BTreeSet::new(),
            held: BTreeSet::new(),
            nat_due: true,
            nat_known: false,
            own_endpoints: BTreeMap::new(),
            own_waiting: BTreeSet::new(),
            own_retry: Duration::ZERO,
            own_failure: None,
            once: Once::default(),
            waiting: Vec::new(),
            waiting_imports: Vec::new(),
            importing: BTreeMap::new(),
            ring_changes: 0,
            // Requests of a former life must not look newer than ours.
            want_seq: config.incarnation,
            wants_handled: BTreeMap::new(),
            kernel: Reconciler::default(),
            completeness: Completeness::Partial,
            ever_wanted: BTreeSet::new(),
            revision: 0,
            applied_revision: 0,
            revised: false,
            republish: true,
            published: BTreeMap::new(),
            intent: HostIntent::Up,
            told: BTreeMap::new(),
            namesakes: BTreeMap::new(),
            names: BTreeMap::new(),
            named: BTreeMap::new(),
            doubled: BTreeMap::new(),
            had_both: config.vteps.len() > 1,
            told_apart: BTreeSet::new(),
            underlay_lost: None,
            stamp: (0, 0),
            persisting: BTreeMap::new(),
            last_persist: 0,
            replies: Vec::new(),
            changes: Vec::new(),
            effects: Vec::new(),
            config,
        };
        engine.restore_contact(restored.contact_ms);
        for network in restored.networks {
            engine.see_stamp(network.updated);
            engine.networks.merge(network.clone());
            engine.make_pools(&network);
        }
        for ((net, family, offset), token) in restored.ring {
            if let Some(pool) = engine.pools.get_mut(&(net, family)) {
                pool.merge(offset, token);
            }
        }
        engine.restore_services(restored.services);
        let mut dropped = engine.restore_kept(restored.kept);
        for local in restored.endpoints {
            let id = local.endpoint.id;
            let net = local.endpoint.network;
            let settled = matches!(local.place, Place::Static);
            let why = if !settled && local.boot_id != engine.config.boot_id {
                Some("the machine has booted since")
            } else if restored.gone.contains(&id) {
                Some(gone_text(&local.place))
            } else if engine.networks.get(net).is_none() {
                Some("its network is gone")
            } else {
                None
            };
            if let Some(why) = why {
                dropped.push(StateChange::DropEndpoint(id));
                let name = local.endpoint.name.clone();
                engine.notice(Notice::Detached { id, name, why });
                for ip in &local.endpoint.addresses {
                    if let Some(pool) = engine.pools.get_mut(&(net, Family::of(ip))) {
                        pool.hold(*ip);
                    }
                }
                continue;
            }
            for ip in &local.endpoint.addresses {
                if let Some(pool) = engine.pools.get_mut(&(net, Family::of(ip))) {
                    pool.note_lease(*ip);
                }
            }
            // What the former life wanted of it: if it is detached before the kernel was read,
            // nobody else knows.
            engine.ever_wanted.extend(local_keys(&local));
            let endpoint = Some(local.endpoint.clone()).filter(|_| local.moved.is_none());
            engine.insert_local(id, Local { local, phase: Phase::Ready });
            engine.activate(id, endpoint);
        }
        let me = engine.config.host;
        engine.pools.values_mut().for_each(|pool| pool.hold_singles(me));
        engine.settle_clashes();
        engine.herald.look_at_networks();
        if !dropped.is_empty() {
            engine.persist(dropped, After::Nothing);
        }
        engine
    }

    /// The records that stand when gossip starts, in the order in which they
    /// are to be written: the host last, so that its arrival says that all is
    /// there.
    pub fn own_records(&mut self) -> Vec<(RecordKey, Record)> {
        // Gossip that begins anew has nothing of what was published before.
        let none = Stamp { wall_ms: 0, counter: 0, host: self.config.host };
        self.published.values_mut().for_each(|stamp| *stamp = none);
        self.services.publish_anew();
        self.publish_networks();
        let mut records: Vec<(RecordKey, Record)> = Vec::new();
        // Ranges of others too: one that was given away just before a crash may
        // have reached nobody yet.
        for ((net, family), pool) in &self.pools {
            for (offset, token) in pool.tokens().clone() {
                records.push((RecordKey::Ring(*net, *family, offset), Record::Ring(token)));
            }
        }
        for (key, record) in std::mem::take(&mut self.changes) {
            records.extend(record.map(|record| (key, record)));
        }
        let here = |l: &&Local| l.phase == Phase::Ready && l.local.moved.is_none();
        for local in self.local.values().filter(here) {
            let ep = &local.local.endpoint;
            records.push((RecordKey::Endpoint(ep.network, ep.id), Record::Endpoint(ep.clone())));
        }
        for (whom, fate) in self.fates.own() {
            records.push((RecordKey::Fate(*whom), Record::Fate(*fate)));
        }
        self.membership.publish_anew();
        for (key, record) in &records {
            self.membership.note_published(*key, Some(record));
        }
        if self.membership.drained {
            records.push((RecordKey::Drained, Record::Drained));
        }
        if !self.config.keys.ids.is_empty() {
            records.push((RecordKey::Keys, Record::Keys(self.config.keys.clone())));
        }
        if !self.is_unsaid() {
            records.push((RecordKey::Host, Record::Host(self.own_host())));
        }
        records
    }

    /// True if `request` needs a fresh look at what the kernel holds that is
    /// not ours.
    pub fn needs_foreign(&self, request: &Request) -> bool {
        match request {
            Request::CreateNetwork(_) => true,
            Request::Attach(Attach { place: Where::Device(_), .. }) => true,
            Request::Attach(Attach { net, .. }) | Request::Import(Import { net, .. }) => self
                .networks
                .find(net)
                .is_some_and(|net| !self.view.is_user(net.id, self.config.host)),
            _ => false,
        }
    }

    /// When [`Event::Tick`] has something to do next, on the clock of
    /// [`Now::mono`].
    pub fn next_deadline(&self) -> Option<Duration> {
        let complete = match self.completeness {
            Completeness::Complete => None,
            Completeness::Partial if self.recovery_holds_view() => self.recovery_deadline(),
            Completeness::Partial => {
                let settled = self.started + SETTLE;
                let alone = self.started + self.config.alone_after;
                Some(if self.now.mono < settled { settled.min(alone) } else { alone })
            }
        };
        let waiting = self.waiting_deadline().into_iter().chain(self.imports_deadline()).min();
        let moves = self.moves_deadline();
        let fates = self.fates_deadline();
        let leaks = [self.leaks_deadline(), self.crowds_deadline()].into_iter().flatten().min();
        let once = self.once.next_deadline();
        let reserved = self.reserved.deadline();
        let own = [complete, fates, waiting, moves, leaks, once, reserved, self.own_deadline()];
        own.into_iter()
            .chain([self.view.next_deadline(), self.kernel.next_deadline()])
            .flatten()
            .min()
    }

    /// The daemon stops in good order: says so to the cluster. Forwarding
    /// stays in place.
    pub fn stop(&mut self, now: Now) -> Vec<Effect> {
        self.now = now;
        if self.intent == HostIntent::Up {
            self.intent = HostIntent::Stopped;
            self.publish_host();
        }
        self.flush()
    }

    /// Takes in what happened, and says what is to be done.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        self.now = now;
        self.kernel.now = now.mono;
        if may_change_networks(&event) {
            self.herald.look_at_networks();
        }
        match event {
            Event::Request { token, fresh, request } => self.on_request(token, fresh, *request),
            Event::Cluster(event) => self.on_cluster(event),
            Event::Kernel(change) => self.on_kernel(change),
            Event::Applied { plan, report } => {
                // What is not compared yet may be what the plan has made.
                while self.kernel.is_behind() {
                    self.check_slice();
                }
                let quiet: BTreeSet<ObjectKey> = self.kernel.failures().keys().cloned().collect();
                if let Some(right) = self.kernel.finish(plan, report.done, &report.failed) {
                    for failure in &report.failed {
                        // Told once; `status` shows that it goes on.
                        let key = failure.op.key();
                        if !quiet.contains(&key) && self.kernel.failures().contains_key(&key) {
                            self.notice(Notice::KernelRefused {
                                command: failure.op.to_string(),
                                reason: failure.text.clone(),
                                retry_in: Duration::from_millis(100),
                            });
                        }
                    }
                    for repair in self.kernel.repairs.end(right.iter(), now.mono) {
                        self.notice(Notice::Repaired(repair));
                    }
                    self.advance_endpoints();
                }
                if !self.announcements.is_empty() {
                    let all = std::mem::take(&mut self.announcements);
                    self.effects.push(Effect::Announce(all));
                }
            }
            Event::Persisted { id, result } => self.on_persisted(id, result),
            Event::Keys(keys) => {
                if self.config.keys != keys {
                    self.config.keys = keys;
                    let keys = Record::Keys(self.config.keys.clone());
                    self.publish(RecordKey::Keys, Some(keys));
                }
            }
            Event::Underlay { addr, other, dev, mtu, gossip } => {
                self.on_underlay(addr, other, dev, mtu, gossip);
            }
            Event::UnderlayLost { why } => self.on_underlay_lost(why),
            Event::Rejoined { incarnation } => {
                self.config.incarnation = incarnation;
                self.view.begin_anew(now.mono);
                // It is told again if it is still so.
                self.doubled.clear();
            }
            Event::Tick => {
                for shift in self.view.tick(now.mono) {
                    self.on_shift(shift);
                }
                self.check_slice();
                self.kernel.tick();
                let (due, over) = self.kernel.repairs.tick(now.mono);
                for key in due {
                    self.kernel.touch(key, Cause::Check);
                }
                for contest in over {
                    self.notice(Notice::FightOver(contest));
                }
                self.sweep_moves();
                self.release_gone();
                self.let_reserved_go();
                self.look_for_crowds();
                self.serve_waiting();
            }
        }
        self.recover();
        self.consider_complete();
        self.decide_fates();
        self.settle_once();
        self.settle_ports();
        self.attach_own();
        if self.republish {
            self.publish_networks();
        }
        self.reconcile();
        if !self.making.is_empty() && self.kernel.is_idle() {
            // All was there already: no report will come.
            self.advance_endpoints();
            self.reconcile();
        }
        self.settle_names();
        self.flush()
    }

    fn flush(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        let (changes, names) = (std::mem::take(&mut self.changes), self.herald.take());
        // Before replies, so that what is replied has been published.
        let at = effects
            .iter()
            .position(|e| matches!(e, Effect::Reply { .. } | Effect::Exit))
            .unwrap_or(effects.len());
        if !changes.is_empty() {
            effects.insert(at, Effect::Publish(changes));
        }
        // Before all else: what follows from a write to the state file is carried out before what
        // stands behind that, and news are told in the order in which they came about.
        if !names.is_empty() {
            effects.insert(0, Effect::Names(names));
        }
        effects
    }

    // ----- requests --------------------------------------------------------

    fn on_request(&mut self, token: Token, fresh: u64, request: Request) {
        if let Request::CreateNetwork(CreateNetwork { foreign, .. })
        | Request::Attach(Attach { foreign, .. })
        | Request::Import(Import { foreign, .. }) = &request
        {
            self.note_underlay(foreign);
        }
        let result = match request {
            Request::CreateNetwork(request) if request.once => {
                return self.create_once(token, fresh, request);
            }
            Request::CreateNetwork(request) => {
                match self.define_network(fresh, request) {
                    Ok(network) => self.create_network(Some(token), network),
                    Err(refused) => self.reply(token, Err(refused)),
                }
                return;
            }
            Request::RemoveNetwork(text) => {
                if let Err(refused) = self.remove_network(token, &text, false) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::ForceRemoveNetwork(text) => {
                if let Err(refused) = self.remove_network(token, &text, true) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::ChangeNetwork(request) => {
                if let Err(refused) = self.change_network(token, &request) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::ForgetIp { net, name } => {
                if let Err(refused) = self.forget_ip(token, &net, &name) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::ChangePorts { target, net, change } => {
                let changed = self.change_ports(token, &target, net.as_deref(), &change);
                if let Err(refused) = changed {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::ChangeEndpoint { target, net, change } => {
                let changed = self.change_endpoint(token, &target, net.as_deref(), &change);
                if let Err(refused) = changed {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::Reserve(asked) => {
                if let Err(refused) = self.reserve(token, &asked) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::Unreserve { net, ip } => self.unreserve(&net, ip),
            Request::CreateService(request) => {
                if let Err(refused) = self.create_service(token, fresh, request) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::RemoveService { name, net } => {
                if let Err(refused) = self.remove_service(token, &name, net.as_deref()) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::Services { net } => net
                .map(|text| self.find_network(&text).map(|net| net.id))
                .transpose()
                .map(|net| Reply::Services(self.service_views(net))),
            Request::Ports => Ok(Reply::Ports(self.port_views())),
            Request::Firewall => Ok(Reply::Firewall),
            Request::Attach(request) => return self.attach(token, fresh, request),
            Request::Import(request) => return self.import(token, fresh, request),
            Request::DetachAtOnce { target, net } => {
                return self.detach(token, &target, net.as_deref(), false);
            }
            Request::Detach { target, net } => {
                return self.detach(token, &target, net.as_deref(), true);
            }
            Request::Thaw { what, net } => return self.thaw(token, &what, net.as_deref()),
            Request::Release { net, ip } => return self.release_leaked(token, &net, ip),
            Request::Subnets => Ok(Reply::Subnets(self.subnet_views())),
            Request::Ranges(text) => {
                self.find_network(&text).map(|net| Reply::Ranges(self.ranges_views(net)))
            }
            Request::Audit { net, repair } => {
                self.audit(net.as_deref(), repair).map(Reply::Audited)
            }
            Request::Leave { force } => return self.leave(token, force),
            Request::ForgetHost(request) => {
                if let Err(refused) = self.forget_host(token, &request) {
                    self.reply(token, Err(refused));
                }
                return;
            }
            Request::Drain(drained) => return self.drain(token, drained),
            Request::Networks => Ok(Reply::Networks(self.network_views())),
            Request::Network(text) => {
                self.find_network(&text).map(|net| Reply::Network(Box::new(self.network_view(net))))
            }
            Request::Endpoints { net, local } => net
                .map(|text| self.find_network(&text).map(|net| net.id))
                .transpose()
                .map(|net| Reply::Endpoints(self.endpoint_views(net, local, |_| true))),
            Request::Labelled { net, local, label, value } => {
                net.map(|text| self.find_network(&text).map(|net| net.id)).transpose().map(|net| {
                    let has = |ep: &overlay_model::Endpoint| {
                        let found = ep.labels.get(&label);
                        found.is_some_and(|has| value.as_ref().is_none_or(|value| has == value))
                    };
                    Reply::Endpoints(self.endpoint_views(net, local, has))
                })
            }
            Request::Hosts => Ok(Reply::Hosts(self.host_views())),
            Request::Status => Ok(Reply::Status(Box::new(self.status_view()))),
            Request::Entries { tables, net } => net
                .map(|text| self.find_network(&text))
                .transpose()
                .map(|net| Reply::Entries(self.entry_views(&tables, net))),
            Request::Plan => Ok(Reply::Plan(self.plan_view())),
        };
        self.reply(token, result);
    }

    pub(crate) fn define_network(
        &mut self,
        fresh: u64,
        request: CreateNetwork,
    ) -> Result<Network, Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        let taken = |message: String| Refused::new(ErrorKind::Taken, message);
        let vni = match request.vni {
            Some(vni) => {
                if let Some(net) = self.networks.iter().find(|n| n.vni == vni) {
                    return Err(taken(format!("VNI {vni} is taken by network {}", net.name))
                        .hint("choose another, or leave --vni out for a free one"));
                }
                if let Some(by) = self.vni_holder(vni, &request.foreign) {
                    return Err(taken(format!("VNI {vni} is taken on this host by {by}"))
                        .hint("choose another VNI, or remove that device"));
                }
                vni
            }
            None => (FIRST_VNI..=Vni::MAX)
                .filter_map(|n| Vni::new(n).ok())
                .find(|vni| {
                    self.networks.iter().all(|n| n.vni != *vni)
                        && self.vni_holder(*vni, &request.foreign).is_none()
                })
                .ok_or_else(|| Refused::new(ErrorKind::Exhausted, "no VNI is free"))?,
        };
        for name in std::iter::once(vni.bridge()).chain(self.config.devices(vni)) {
            if request.foreign.squatters.contains(&name) {
                return Err(taken(format!("a link {name} exists that is not overlayd's"))
                    .hint("rename or remove it, or choose another VNI"));
            }
        }
        let name = match &request.name {
            Some(name) => name.clone(),
            None => Name::new(&format!("net-{vni}")).expect("digits and letters"),
        };
        if let Some(net) = self.networks.iter().find(|n| n.name == name) {
            return Err(taken(format!(
                "the name {name} is taken by network {} (VNI {})",
                net.id, net.vni
            )));
        }
        let mtu = request.mtu.unwrap_or_else(|| self.default_mtu());
        let most = u16::MAX - overhead(&IpAddr::from([0u8; 16]));
        if !(MIN_INNER_MTU..=most).contains(&mtu) {
            return Err(invalid(format!("an MTU of {mtu} is out of range"))
                .hint(format!("use {MIN_INNER_MTU} to {most}")));
        }
        let subnets = self.define_subnets(vni, fresh, &request)?;
        let exclude = AddressRange::union(request.exclude);
        check_rules(&subnets, &request.labels, &exclude, &request.ip_ranges)?;
        let created = self.new_stamp(None);
        let mut id = NetworkId(fresh);
        while self.networks.all().any(|n| n.id == id) {
            id = NetworkId(id.0.wrapping_add(1));
        }
        Ok(Network {
            id,
            name,
            vni,
            subnets,
            mtu,
            internal: request.internal,
            flood: !request.no_flood,
            labels: request.labels,
            exclude,
            ip_ranges: request.ip_ranges,
            created,
            updated: created,
            deleted: false,
        })
    }

    /// What crosses between all hosts there are, on plain Ethernet: a host with
    /// an IPv6 VTEP address only needs the larger header.
    fn default_mtu(&self) -> u16 {
        let by_v4 = |vteps: &[IpAddr]| vteps.is_empty() || vteps.iter().any(IpAddr::is_ipv4);
        let others = self.view.hosts().filter(|(_, p, ..)| p.state != HostState::Left);
        let mut others = others.filter_map(|(.., host)| host);
        if by_v4(&self.config.vteps) && others.all(|host| by_v4(&host.vteps)) {
            DEFAULT_INNER_MTU
        } else {
            DEFAULT_INNER_MTU_V6
        }
    }

    fn define_subnets(
        &self,
        vni: Vni,
        fresh: u64,
        request: &CreateNetwork,
    ) -> Result<Vec<Subnet>, Refused> {
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        let mut cidrs = request.subnets.clone();
        let unsaid = cidrs.is_empty() && request.free.is_empty();
        for family in request.free.iter().copied().chain(unsaid.then_some(Family::V4)) {
            match family {
                Family::V4 => cidrs.insert(0, self.free_subnet(vni, &request.foreign)?),
                Family::V6 => cidrs.push(self.free_ula(vni, fresh, &request.foreign)?),
            }
        }
        let mut gateways = request.gateways.clone();
        let mut subnets: Vec<Subnet> = Vec::new();
        for cidr in cidrs {
            let (low, high) = if cidr.addr().is_ipv4() { (8, 30) } else { (16, 126) };
            if !(low..=high).contains(&cidr.prefix_len()) {
                return Err(invalid(format!("the prefix length of {cidr} is out of range"))
                    .hint(format!("use /{low} to /{high}")));
            }
            if cidr.addr() != cidr.network() {
                return Err(invalid(format!("{cidr} has host bits set"))
                    .hint(format!("you may mean {}", cidr.trunc())));
            }
            let bad = cidr.addr().is_multicast()
                || cidr.addr().is_loopback()
                || cidr.addr().is_unspecified();
            if bad {
                return Err(invalid(format!("{cidr} is not a range for stations")));
            }
            if let Some(other) =
                subnets.iter().find(|s| s.cidr.addr().is_ipv4() == cidr.addr().is_ipv4())
            {
                return Err(invalid(format!(
                    "{cidr} is the second subnet of its family, after {}",
                    other.cidr
                )));
            }
            self.check_overlap(cidr, &request.foreign)?;
            let at = gateways.iter().position(|g| cidr.contains(g));
            let gateway = at.map_or_else(|| first_address(cidr), |at| gateways.remove(at));
            if !is_host_address(cidr, gateway) {
                return Err(invalid(format!(
                    "the gateway {gateway} is the network or broadcast address of {cidr}"
                )));
            }
            subnets.push(Subnet { cidr, gateway });
        }
        if let Some(stray) = gateways.first() {
            return Err(invalid(format!("the gateway {stray} is in no subnet of the network")));
        }
        Ok(subnets)
    }

    /// Refuses a subnet that another network or a route of this host has.
    fn check_overlap(&self, cidr: IpNet, foreign: &Foreign) -> Result<(), Refused> {
        for net in self.networks.iter() {
            for subnet in &net.subnets {
                if overlaps(subnet.cidr, cidr) {
                    return Err(Refused::new(
                        ErrorKind::Taken,
                        format!("{cidr} overlaps {} of network {}", subnet.cidr, net.name),
                    )
                    .hint("choose another subnet, or leave --subnet out for a free one"));
                }
            }
        }
        check_routes(cidr, foreign)
            .map_err(|r| r.hint("choose another subnet, or leave --subnet out for a free one"))
    }

    /// True if another network or a route of this host has some of `cidr`.
    fn is_taken(&self, cidr: IpNet, foreign: &Foreign) -> bool {
        let nets = self.networks.iter().flat_map(|n| n.subnets.iter().map(|s| s.cidr));
        nets.chain(foreign.routes.iter().map(|(route, _)| *route)).any(|o| overlaps(o, cidr))
    }

    /// A unique local subnet (RFC 4193): fd, 40 random bits, 16 of the VNI, /64.
    ///
    /// Each network has random bits of its own: two that are made on both sides
    /// of a partition, or in two clusters that are joined one day, do not meet.
    fn free_ula(&self, vni: Vni, fresh: u64, foreign: &Foreign) -> Result<IpNet, Refused> {
        let mut seed = b"ULA".to_vec();
        seed.extend(fresh.to_be_bytes());
        // The first byte has bits of its own.
        let [_, random @ ..] = overlay_model::MacAddr::derived(&seed).0;
        (0..=0xffffu32)
            .map(|n| {
                let id = (vni.get().wrapping_add(n) & 0xffff) as u16;
                let mut bytes = [0; 16];
                bytes[0] = 0xfd;
                bytes[1..6].copy_from_slice(&random);
                bytes[6..8].copy_from_slice(&id.to_be_bytes());
                IpNet::new(IpAddr::from(bytes), 64).expect("64 is a prefix length")
            })
            .find(|cidr| !self.is_taken(*cidr, foreign))
            .ok_or_else(|| {
                Refused::new(ErrorKind::Exhausted, "no /64 of fd00::/8 is free")
                    .hint("choose one with --subnet")
            })
    }

    /// 10.x.y.0/24 with x.y from the VNI, or the next one that is free.
    fn free_subnet(&self, vni: Vni, foreign: &Foreign) -> Result<IpNet, Refused> {
        (0..=0xffffu32)
            .map(|n| {
                let third = vni.get().wrapping_add(n) & 0xffff;
                let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 | (third << 8));
                IpNet::new(IpAddr::V4(addr), 24).expect("24 is a prefix length")
            })
            .find(|cidr| !self.is_taken(*cidr, foreign))
            .ok_or_else(|| {
                Refused::new(ErrorKind::Exhausted, "no /24 of 10.0.0.0/8 is free")
                    .hint("choose one with --subnet")
            })
    }

    fn vni_holder(&self, vni: Vni, foreign: &Foreign) -> Option<String> {
        if let Some(net) = self.stranded(vni) {
            return Some(format!("containers of network {net}, of which nobody has told yet"));
        }
        foreign
            .vxlans
            .iter()
            .filter(|v| v.port == self.config.vxlan_port)
            .find(|v| v.vni.is_none_or(|n| n == vni))
            .map(|v| {
                let wherever =
                    v.netns.as_ref().map(|ns| format!(" in namespace {ns}")).unwrap_or_default();
                let all = if v.vni.is_none() { ", which takes every VNI of its port" } else { "" };
                format!("the VXLAN device {}{wherever} (UDP port {}){all}", v.name, v.port)
            })
    }

    /// `token`: who is to be told; nobody, if who waits is told otherwise.
    pub(crate) fn create_network(&mut self, token: Option<Token>, network: Network) {
        let (id, me) = (network.id, self.config.host);
        let mut changes = vec![StateChange::Network(network.clone())];
        self.make_pools(&network);
        for subnet in &network.subnets {
            let family = Family::of(&subnet.gateway);
            let Some(pool) = self.pools.get_mut(&(id, family)) else { continue };
            let (offset, founding) = pool.founding_token(me);
            pool.merge(offset, founding);
            changes.push(StateChange::Ring(id, family, offset, founding));
        }
        self.networks.merge(network);
        self.persist(changes, After::Created { token, id });
    }

    fn created(&mut self, token: Option<Token>, id: NetworkId, result: Result<(), String>) {
        if let Err(why) = result {
            self.networks.restore(id, None);
            self.pools.retain(|(net, _), _| *net != id);
            self.once_unsaved(id, &unsaved(&why));
            if let Some(token) = token {
                self.reply(token, Err(unsaved(&why)));
            }
            return;
        }
        let Some(network) = self.networks.get(id).cloned() else { return };
        // The tokens first: whoever knows the network knows its addresses.
        let own: Vec<_> = self
            .pools
            .iter()
            .filter(|((net, _), _)| *net == id)
            .flat_map(|((_, family), pool)| {
                pool.tokens_of(self.config.host).into_iter().map(|(at, token)| (*family, at, token))
            })
            .collect();
        for (family, offset, ring) in own {
            self.publish(RecordKey::Ring(id, family, offset), Some(Record::Ring(ring)));
        }
        self.published.insert(id, network.updated);
        self.publish(RecordKey::Network(id), Some(Record::Network(network.clone())));
        self.notice(Notice::Network {
            name: network.name.clone(),
            vni: network.vni,
            what: "created",
        });
        self.settle_clashes();
        self.once_saved(id);
        if let Some(token) = token {
            let view = self.network_view(&network);
            self.reply(token, Ok(Reply::Network(Box::new(view))));
        }
    }

    fn remove_network(&mut self, token: Token, text: &str, force: bool) -> Result<(), Refused> {
        let net = self.find_network(text)?.clone();
        if !force {
            self.check_unattached(&net)?;
        }
        let detached = force.then(|| self.users_counted(net.id));
        let gone = self.tombstone(&net);
        self.networks.merge(gone.clone());
        let changes = vec![StateChange::Network(gone), StateChange::DropRing(net.id)];
        let (id, before) = (net.id, Box::new(net));
        self.persist(changes, After::Removed { token, id, before, detached });
        Ok(())
    }

    /// Refuses to remove what somebody uses.
    fn check_unattached(&self, net: &Network) -> Result<(), Refused> {
        let holders: Vec<String> = self
            .endpoint_views(Some(net.id), false, |_| true)
            .into_iter()
            .filter(|v| !is_own(&v.endpoint))
            .map(|v| {
                let name =
                    v.endpoint.name.map_or_else(|| v.endpoint.id.to_string(), |n| n.to_string());
                format!("{name} on {}", v.host)
            })
            .collect();
        if !holders.is_empty() {
            let shown = holders.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let more = if holders.len() > 3 { ", …" } else { "" };
            return Err(Refused::new(
                ErrorKind::InUse,
                format!(
                    "network {} still has {} endpoints: {shown}{more}",
                    net.name,
                    holders.len()
                ),
            )
            .hint(format!(
                "detach them first, or all with it: overlayctl net rm --force {}",
                net.name
            )));
        }
        Ok(())
    }

    /// Without what only those must know who use it: as many hosts as possible
    /// are to read it.
    pub(crate) fn tombstone(&mut self, net: &Network) -> Network {
        Network {
            deleted: true,
            exclude: Vec::new(),
            ip_ranges: Vec::new(),
            updated: self.new_stamp(Some(net.updated)),
            ..net.clone()
        }
    }

    fn removed(
        &mut self,
        token: Token,
        id: NetworkId,
        before: Network,
        detached: Option<Vec<DetachedOn>>,
        result: Result<(), String>,
    ) {
        if let Err(why) = result {
            self.networks.restore(id, Some(before));
            return self.reply(token, Err(unsaved(&why)));
        }
        let network = Box::new(self.network_view(&before));
        self.bury_network(&before);
        self.settle_clashes();
        self.republish = true;
        let reply = match detached {
            Some(detached) => Reply::Removed { network, detached },
            None => Reply::Network(network),
        };
        self.reply_when_settled(token, Ok(reply));
    }

    /// A network is gone: so is all that stood on it.
    pub(crate) fn bury_network(&mut self, before: &Network) {
        let doomed: Vec<EndpointId> = self
            .local
            .iter()
            .filter(|(_, l)| l.local.endpoint.network == before.id && l.phase == Phase::Ready)
            .map(|(id, _)| *id)
            .collect();
        self.drop_endpoints(doomed, "its network was removed");
        let dropped = self.lose_kept_on(before.id);
        if !dropped.is_empty() {
            self.persist(dropped, After::Nothing);
        }
        let families: Vec<Family> =
            self.pools.keys().filter(|(net, _)| *net == before.id).map(|(_, f)| *f).collect();
        for family in families {
            if let Some(pool) = self.pools.remove(&(before.id, family)) {
                for (offset, _) in pool.tokens_of(self.config.host) {
                    self.publish(RecordKey::Ring(before.id, family, offset), None);
                }
            }
        }
        self.touch_vni(before.vni);
        self.notice(Notice::Network {
            name: before.name.clone(),
            vni: before.vni,
            what: "removed",
        });
    }

    pub(crate) fn set_intent(&mut self, intent: HostIntent) {
        self.intent = intent;
        self.publish_host();
    }

    pub(crate) fn publish_host(&mut self) {
        if !self.is_unsaid() || self.intent == HostIntent::Left {
            self.publish(RecordKey::Host, Some(Record::Host(self.own_host())));
        }
    }

    pub(crate) fn push_effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// True if a take-over, of this host's ranges or any, is on its way to the state file.
    pub(crate) fn is_taking_over(&self, host: Option<HostId>) -> bool {
        self.persisting.values().any(|after| match after {
            After::TookOver { from, .. } => host.is_none_or(|host| host == *from),
            _ => false,
        })
    }

    // ----- the cluster -----------------------------------------------------

    fn on_cluster(&mut self, event: ClusterEvent) {
        let now = self.now.mono;
        // Attaches wait for ranges, and for hosts that can be asked; of what comes, nearly all
        // is endpoints and ranges of others.
        let taker = match &event {
            ClusterEvent::Record { host, key: RecordKey::Endpoint(..), .. } => Some(*host),
            _ => None,
        };
        let waited_for = match &event {
            ClusterEvent::Record { host, key, record, .. } => match (key, record.as_deref()) {
                (
                    RecordKey::Endpoint(..)
                    | RecordKey::Want(..)
                    | RecordKey::Keys
                    | RecordKey::Drained,
                    _,
                ) => false,
                (RecordKey::Ring(..), Some(Record::Ring(token))) => {
                    token.owner == self.config.host || self.is_asked(*host)
                }
                _ => true,
            },
            _ => true,
        };
        let shifts = match event {
            ClusterEvent::Alive { host, incarnation } => {
                if host == self.config.host {
                    self.note_former_alive(incarnation, true);
                }
                self.unless_me(host, |v| v.set_alive(host, incarnation, true, now))
            }
            ClusterEvent::Silent { host, incarnation } => {
                if host == self.config.host {
                    self.note_former_alive(incarnation, false);
                }
                self.unless_me(host, |v| v.set_alive(host, incarnation, false, now))
            }
            ClusterEvent::Forgotten { host, incarnation } => {
                self.unless_me(host, |v| v.forget(host, incarnation, now))
            }
            ClusterEvent::Doubled { host, addrs } => {
                self.on_doubled(host, addrs);
                Vec::new()
            }
            ClusterEvent::Record { host, incarnation, key, record } if host == self.config.host => {
                self.note_former(incarnation, key, record.map(|record| *record));
                Vec::new()
            }
            ClusterEvent::Record { host, incarnation, key, record } => {
                let vtep = self.vtep_of(host);
                let shifts = self.unless_me(host, |v| {
                    v.set_record(host, incarnation, key, record.map(|r| *r), now)
                });
                match key {
                    RecordKey::Endpoint(..) => self.tell_elsewhere(&shifts),
                    RecordKey::Host => {
                        self.look_for_namesakes(host);
                        self.look_for_a_way(host);
                        self.tell_what_it_owns(host);
                    }
                    _ => {}
                }
                if vtep != self.vtep_of(host) {
                    self.touch_host(host, vtep);
                }
                shifts
            }
        };
        for shift in shifts {
            self.on_shift(shift);
        }
        if waited_for || taker.is_some_and(|host| self.asks_in_vain(host)) {
            self.serve_waiting();
        }
    }

    /// `host` has said all it has. What it owns and does not say, it does not know: it has
    /// lost its state file, and who remembered what it said may be gone.
    fn tell_what_it_owns(&mut self, host: HostId) {
        let mut untold = Vec::new();
        for ((net, family), pool) in &self.pools {
            for (offset, token) in pool.tokens_of(host) {
                let said = self.view.range_of(host, (*net, *family, offset));
                if said.is_none_or(|said| said.version < token.version) {
                    untold.push((RecordKey::Ring(*net, *family, offset), token));
                }
            }
        }
        for (key, token) in untold {
            if !self.membership.has_published(key, token) {
                self.publish(key, Some(Record::Ring(token)));
            }
        }
    }

    /// What others say of this host is old or forged: only it speaks for itself.
    fn unless_me(
        &mut self,
        host: HostId,
        change: impl FnOnce(&mut ClusterView) -> Vec<Shift>,
    ) -> Vec<Shift> {
        if host == self.config.host { Vec::new() } else { change(&mut self.view) }
    }

    /// Tells of the endpoints that a host has just published or withdrawn. Not
    /// of those that go and come with their host: that is told of the host.
    fn tell_elsewhere(&mut self, shifts: &[Shift]) {
        for shift in shifts {
            let (host, ep, there) = match shift {
                Shift::Endpoint { host, before: None, after: Some(now) } => (*host, now, true),
                Shift::Endpoint { host, before: Some(was), after: None } => (*host, was, false),
                _ => continue,
            };
            let ep = &ep.endpoint;
            let net = self.networks.get(ep.network);
            let notice = Notice::Elsewhere {
                id: ep.id,
                name: ep.name.clone(),
                net: net.map_or_else(|| ep.network.to_string(), |net| net.name.to_string()),
                host: self.host_name(host),
                addresses: ep.addresses.clone(),
                there,
            };
            self.notice(notice);
        }
    }

    pub(crate) fn on_shift(&mut self, shift: Shift) {
        if let Shift::Voice(..) | Shift::Host(_) | Shift::InUse(..) = shift {
            // Who may send to us.
            self.kernel.touch(ObjectKey::Firewall, Cause::Touched);
            if !self.nat_aliases.is_empty() {
                self.touch_nat();
            }
        }
        if let Shift::Endpoint { .. } | Shift::Ring(..) | Shift::Host(_) = shift {
            self.addresses_changed();
        }
        match shift {
            Shift::Endpoint { host, before, after } => {
                for placed in before.iter().chain(&after) {
                    self.touch_endpoint(host, &placed.endpoint);
                    self.look_at_ports(&placed.endpoint);
                }
                if host == self.config.host {
                    self.herald.look_at_networks();
                }
                self.tell_name(before, after.clone());
                if host != self.config.host
                    && let Some(placed) = after
                {
                    let ep = &placed.endpoint;
                    if ep.move_seq > 0 {
                        self.note_moves(host, ep);
                        self.follow(ep.network, subjects(ep));
                    }
                    self.look_for_conflict(host, ep);
                }
            }
            Shift::Network(network) => self.merge_network(network),
            Shift::Service(service) => self.merge_service(service),
            Shift::Ring(net, family, offset, token) => {
                self.merge_token(net, family, offset, token);
            }
            Shift::Fates => self.fates_due = true,
            Shift::Want(host, net, family, want) => self.on_want(host, net, family, want),
            Shift::Voice(host, before) => {
                self.touch_host(host, way_between(&self.config.vteps, &before));
                self.look_for_namesakes(host);
                self.look_for_a_way(host);
            }
            Shift::Host(host) => {
                self.republish = true;
                self.tell_standing(host);
                self.fates_due = true;
                self.look_for_namesakes(host);
                self.look_for_a_way(host);
                let presence = self.view.presence(host);
                if let Some(presence) = presence {
                    let state = presence.state.as_str();
                    if self.told.get(&host) != Some(&state) && self.view.host(host).is_some() {
                        self.told.insert(host, state);
                        let notice = Notice::Host {
                            host: self.host_name(host),
                            state,
                            endpoints: self.view.count_of(host),
                        };
                        self.notice(notice);
                    }
                }
            }
            Shift::InUse(host, in_use) => {
                self.republish = true;
                let notice = Notice::Entries {
                    host: self.host_name(host),
                    in_use,
                    endpoints: self.view.count_of(host),
                };
                self.notice(notice);
            }
        }
    }

    /// Two hosts of one name confuse people, not the cluster. Only those that
    /// are there count: one that was set up anew leaves its name behind.
    ///
    /// `changed` may have come, gone, or got another name or address.
    fn look_for_namesakes(&mut self, changed: HostId) {
        let there = self
            .view
            .presence(changed)
            .is_some_and(|p| matches!(p.state, HostState::Up | HostState::Suspect));
        let host = self.view.host(changed).filter(|_| there && changed != self.config.host);
        let is = host.map(|host| (host.name.clone(), vtep_text(host)));
        let was = self.named.get(&changed).cloned();
        if is == was {
            return;
        }
        let mut names = BTreeSet::new();
        if let Some((name, _)) = was {
            if let Some(same) = self.names.get_mut(&name) {
                same.remove(&changed);
                if same.is_empty() {
                    self.names.remove(&name);
                }
            }
            self.named.remove(&changed);
            names.insert(name);
        }
        if let Some((name, addr)) = is {
            self.names.entry(name.clone()).or_default().insert(changed, addr.clone());
            self.named.insert(changed, (name.clone(), addr));
            names.insert(name);
        }
        for name in names {
            self.tell_namesakes(&name);
        }
    }

    /// Tells what has changed among the hosts of this name.
    fn tell_namesakes(&mut self, name: &Name) {
        let own = self.own_host();
        let ours = (own.name == *name).then(|| (own.id, vtep_text(&own)));
        let mut hosts: BTreeMap<HostId, String> = self.names.get(name).cloned().unwrap_or_default();
        hosts.extend(ours);
        // Each beside the first: so many notices as there are hosts too many.
        let mut hosts = hosts.into_iter();
        let first = hosts.next().map(|(_, addr)| addr).unwrap_or_default();
        let found: BTreeMap<(Name, HostId), [String; 2]> =
            hosts.map(|(id, addr)| ((name.clone(), id), [first.clone(), addr])).collect();
        let all = std::mem::take(&mut self.namesakes);
        let (former, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|((known, _), _)| known == name);
        self.namesakes = others;
        self.namesakes.extend(found.clone());
        for ((name, id), addrs) in &former {
            if !found.contains_key(&(name.clone(), *id)) {
                let (name, addrs) = (name.clone(), addrs.clone());
                self.notice(Notice::SameName { name, addrs, over: true });
            }
        }
        for ((name, id), addrs) in found {
            if !former.contains_key(&(name.clone(), id)) {
                self.notice(Notice::SameName { name, addrs, over: false });
            }
        }
    }

    fn on_doubled(&mut self, host: HostId, addrs: Vec<SocketAddr>) {
        let notice = Notice::Doubled {
            host: self.host_name(host),
            id: host,
            addrs: addrs.clone(),
            state_dir: self.config.state_dir.clone(),
        };
        self.notice(notice);
        if addrs.is_empty() {
            self.doubled.remove(&host);
        } else {
            self.doubled.insert(host, addrs);
        }
        if host == self.config.host {
            // Bridges bear its name no longer, or again.
            let bridges: Vec<IfName> = self.used_networks().map(|net| net.vni.bridge()).collect();
            bridges.into_iter().for_each(|bridge| self.touch(ObjectKey::Link(bridge)));
        }
    }

    pub(crate) fn look_for_conflict(&mut self, host: HostId, ep: &overlay_model::Endpoint) {
        let me = self.config.host;
        let own = {
            let by_ip = ep.addresses.iter().flat_map(|ip| self.view.ip_claims(ep.network, *ip));
            let mut claims = self.view.mac_claims(ep.network, ep.mac).chain(by_ip);
            claims.find(|(host, _)| *host == me).map(|(_, own)| own.clone())
        };
        let Some(own) = own else { return };
        let what = own
            .addresses
            .iter()
            .find(|a| ep.addresses.contains(a))
            .map_or_else(|| own.mac.to_string(), ToString::to_string);
        // Who was forgotten, and is back, has lost what was given to another meanwhile.
        let lost = own.addresses.iter().find(|ip| {
            let pool = self.pools.get(&(ep.network, Family::of(ip)));
            let owner = pool.and_then(|pool| pool.owner(**ip));
            ep.addresses.contains(ip)
                && own.move_seq == ep.move_seq
                && owner.is_some_and(|owner| owner != me)
                && self.fates.floor_of(me) > 0
        });
        if lost.is_some() {
            let winner = self.host_name(host);
            self.notice(Notice::EndpointConflict { what, loser: own.id, winner });
            self.drop_endpoints(
                vec![own.id],
                "its address was given to another while this host was forgotten",
            );
            return;
        }
        let winner = self.view.mac_winner(ep.network, ep.mac).map(|(host, _)| host);
        if let Some(host) = winner.filter(|host| *host != me) {
            let winner = self.host_name(host);
            self.notice(Notice::EndpointConflict { what, loser: own.id, winner });
        }
    }

    pub(crate) fn merge_network(&mut self, network: Network) {
        self.see_stamp(network.updated);
        let id = network.id;
        let Some(before) = self.networks.merge(network.clone()) else { return };
        self.republish = true;
        let mut changes = vec![StateChange::Network(network.clone())];
        let known = before.filter(|n| !n.deleted);
        if network.deleted {
            changes.push(StateChange::DropRing(id));
            if let Some(before) = &known {
                self.bury_network(before);
            }
        } else {
            self.make_pools(&network);
            match &known {
                None => {
                    self.once.note_young(id, self.now.mono);
                    self.notice(Notice::Network {
                        name: network.name.clone(),
                        vni: network.vni,
                        what: "created",
                    });
                }
                Some(before) => self.tell_change(before, &network),
            }
            let heard: Vec<_> = self.view.ring_of(id).collect();
            for (family, offset, token) in heard {
                self.merge_token(id, family, offset, token);
            }
        }
        self.persist(changes, After::Nothing);
        self.settle_clashes();
        self.touch_vni(network.vni);
        if let Some(before) = known {
            self.touch_vni(before.vni);
        }
    }

    pub(crate) fn merge_token(
        &mut self,
        net: NetworkId,
        family: Family,
        offset: u128,
        token: RingToken,
    ) {
        let me = self.config.host;
        let given_back = self.given_back(net, family, offset, token);
        let token = given_back.unwrap_or(token);
        let Some(pool) = self.pools.get_mut(&(net, family)) else { return };
        let changed = pool.merge_noting(offset, token);
        if changed.is_empty() {
            return;
        }
        self.ring_changes += 1;
        let changes = changed.iter().map(|(at, token)| ring_change(net, family, *at, *token));
        self.persist(changes.collect(), After::Nothing);
        for (offset, token) in changed {
            let Some(token) = token.filter(|t| t.owner == me || given_back.is_some()) else {
                continue;
            };
            // Each owner publishes what it owns, so a giver's death loses nothing.
            self.publish(RecordKey::Ring(net, family, offset), Some(Record::Ring(token)));
            if token.owner == me {
                let pool = &self.pools[&(net, family)];
                let (first, last) = pool.bounds(offset, token);
                self.pass_on(net, first, last);
            }
        }
    }

    pub(crate) fn make_pools(&mut self, network: &Network) {
        if network.deleted {
            return;
        }
        let followed = self.with_services(network);
        for subnet in &network.subnets {
            let key = (network.id, Family::of(&subnet.gateway));
            let me = self.config.host;
            let noted = self.fates.own().get(&me).map_or(0, |fate| fate.noted);
            let pool = self.pools.entry(key).or_insert_with(|| {
                let mut pool = Pool::new(subnet.clone());
                if noted > 0 {
                    pool.drop_owned(me, noted);
                }
                pool
            });
            pool.follow(&followed);
        }
    }

    /// Publishes the newest definition of every network that this host uses,
    /// made, changed, removed, or is one of the keepers of. What was once published is kept up
    /// to date, never withdrawn: the loss of any host loses no network.
    pub(crate) fn publish_networks(&mut self) {
        self.republish = false;
        let me = self.config.host;
        let present: Vec<HostId> =
            self.view.hosts().filter(|(_, p, _, _)| p.in_use).map(|(id, ..)| id).collect();
        let mut changed = Vec::new();
        for net in self.networks.all() {
            let rank = |host: HostId| {
                let mut seed = net.id.0.to_be_bytes().to_vec();
                seed.extend(host.0.as_bytes());
                overlay_model::MacAddr::derived(&seed)
            };
            let own = rank(me);
            let keeper = present.iter().filter(|h| rank(**h) < own).count() < KEEPERS;
            let publishes = self.published.contains_key(&net.id)
                || net.created.host == me
                || net.updated.host == me
                || self.view.is_user(net.id, me)
                || keeper;
            if publishes && self.published.get(&net.id) != Some(&net.updated) {
                changed.push(net.clone());
            }
        }
        for net in changed {
            self.published.insert(net.id, net.updated);
            self.publish(RecordKey::Network(net.id), Some(Record::Network(net)));
        }
        self.publish_services(|engine, net| engine.published.contains_key(&net));
    }

    pub(crate) fn own_host(&self) -> Host {
        Host {
            id: self.config.host,
            name: self.config.name.clone(),
            vteps: self.config.vteps.clone(),
            vxlan_port: self.config.vxlan_port,
            gossip: self.config.gossip,
            underlay_mtu: self.config.underlay_mtu,
            version: self.config.version.clone(),
            intent: self.intent,
        }
    }

    // ----- the underlay ----------------------------------------------------

    /// The VTEP's addresses, their devices or the MTU may be others.
    fn on_underlay(
        &mut self,
        addr: IpAddr,
        other: Option<(IpAddr, IfName)>,
        dev: IfName,
        mtu: u16,
        gossip: SocketAddr,
    ) {
        let config = &mut self.config;
        let (other, other_dev) = other.unzip();
        let other_dev = other_dev.filter(|other| *other != dev);
        let addrs: Vec<IpAddr> = std::iter::once(addr).chain(other).collect();
        let same = config.vteps == addrs
            && config.underlay_dev == dev
            && config.other_dev == other_dev
            && config.underlay_mtu == mtu;
        if std::mem::take(&mut self.underlay_lost).is_none() && same && config.gossip == gossip {
            return;
        }
        let before = std::mem::replace(&mut config.vteps, addrs.clone());
        self.had_both |= addrs.len() > 1;
        config.underlay_mtu = mtu;
        config.gossip = gossip;
        config.underlay_dev = dev.clone();
        config.other_dev = other_dev;
        self.notice(Notice::Underlay { dev, addrs: addrs.clone(), before: before.clone(), mtu });
        self.publish_host();
        if before != addrs {
            let vnis: Vec<Vni> = self.used_networks().map(|net| net.vni).collect();
            vnis.into_iter().for_each(|vni| self.touch_vni(vni));
            let hosts: Vec<HostId> = self.view.hosts().map(|(id, ..)| id).collect();
            hosts.into_iter().for_each(|host| self.look_for_a_way(host));
        }
    }

    fn on_underlay_lost(&mut self, why: String) {
        if self.underlay_lost.is_none() {
            let addr = self.config.vtep();
            self.notice(Notice::UnderlayLost { addr, why: why.clone() });
        }
        self.underlay_lost = Some(why);
    }

    // ----- the kernel ------------------------------------------------------

    /// The underlay's MTU may be another than at the start.
    fn note_underlay(&mut self, foreign: &Foreign) {
        let mtu =
            self.config.underlay_devs().filter_map(|dev| foreign.mtus.get(dev)).min().copied();
        if let Some(mtu) = mtu.filter(|mtu| *mtu != self.config.underlay_mtu) {
            self.config.underlay_mtu = mtu;
            self.publish_host();
        }
    }

    fn on_kernel(&mut self, change: KernelChange) {
        match change {
            KernelChange::Object(key, object, hand) => {
                let observed = self.kernel.observe(key, object);
                self.take_note(observed, hand.as_deref());
            }
            KernelChange::Snapshot(state) => self.on_read(*state, true),
            KernelChange::Read(state) => self.on_read(*state, false),
            KernelChange::Reading => self.kernel.begin_reading(),
            KernelChange::Overrun => {
                self.kernel.overruns += 1;
                self.notice(Notice::Overrun);
            }
        }
    }

    fn on_read(&mut self, state: KernelState, told: bool) {
        self.note_underlay(&state.foreign);
        let observed = self.kernel.take_in(state, told);
        if observed.first {
            for key in self.all_keys() {
                self.kernel.touch(key, Cause::Check);
            }
            self.kernel.set_wanted_cursor(None);
        }
        self.take_note(observed, None);
    }

    /// Goes on with the full check, if there is one.
    fn check_slice(&mut self) {
        let Some(cursor) = self.kernel.wanted_cursor() else {
            if self.kernel.is_checking() {
                let observed = self.kernel.compare_slice();
                self.take_note(observed, None);
            }
            return;
        };
        // What is there has been looked at: now what is not.
        let (keys, cursor) = self.wanted_slice(cursor);
        for key in keys {
            if !self.kernel.mirror().contains_key(&key) {
                self.kernel.touch(key, Cause::Check);
            }
        }
        self.kernel.set_wanted_cursor(cursor);
    }

    /// What the kernel holds is another than the mirror had.
    fn take_note(&mut self, observed: Observed, hand: Option<&Hand>) {
        let Observed { changed, links, checked, read, first } = observed;
        for (key, was, fell) in changed {
            if hand.is_none() && self.kernel.may_be_echo(&key) {
                let now = self.kernel.mirror().get(&key);
                if now == self.want(&key) {
                    continue;
                }
            }
            match &key {
                ObjectKey::Guard(name) if was.is_none() => {
                    let port = match endpoint_of(name) {
                        Some(_) => ObjectKey::Link(name.clone()),
                        None => ObjectKey::Port(name.clone()),
                    };
                    self.kernel.touch(port, Cause::Check);
                }
                // What it may say goes when it has gone.
                ObjectKey::Link(name) | ObjectKey::Port(name) if vni_of(name).is_none() => {
                    self.kernel.touch(ObjectKey::Guard(name.clone()), Cause::Check);
                }
                // What was refused for want of them is tried again.
                ObjectKey::PortRules if was.is_none() => {
                    let ports = self.local.values().filter_map(|l| l.local.port());
                    for guard in ports.map(ObjectKey::Guard).collect::<Vec<_>>() {
                        self.kernel.touch(guard, Cause::Check);
                    }
                }
                _ => {}
            }
            let suspect = !first && self.kernel.suspect(&key, was, fell, hand, read);
            self.kernel.touch(key, if suspect { Cause::Seen } else { Cause::Check });
        }
        for key in checked {
            // Nearly all of a full check is as it should be, and needs no plan to say so.
            let is_right = !first
                && self.kernel.is_plain(&key)
                && self.kernel.mirror().get(&key) == self.want(&key);
            if !is_right {
                self.kernel.touch(key, Cause::Check);
            }
        }
        for link in links {
            // What stands on a link that is new waits to be put there.
            if let Some(net) = vni_of(&link).and_then(|vni| self.used(vni)).cloned() {
                for key in self.wanted_keys(&net) {
                    self.kernel.touch(key, Cause::Check);
                }
            } else if let Some(local) = endpoint_of(&link)
                .or_else(|| self.by_device.get(&link).copied())
                .and_then(|id| self.local.get(&id))
            {
                let ep = &local.local.endpoint;
                if let Some(net) = self.networks.get(ep.network) {
                    let key = ObjectKey::BridgeFdb(net.vni.bridge(), ep.mac);
                    self.kernel.touch(key, Cause::Check);
                }
            }
        }
    }

    /// Every key that is wanted or there.
    pub(crate) fn all_keys(&self) -> BTreeSet<ObjectKey> {
        let wanted = self.used_networks().flat_map(|net| self.wanted_keys(net));
        wanted.chain(self.kernel.mirror().keys()).collect()
    }

    /// Plans for `keys`.
    pub(crate) fn plan_of(&self, keys: impl IntoIterator<Item = ObjectKey>) -> Vec<KernelOp> {
        let deltas = keys.into_iter().map(|key| Delta {
            want: self.want(&key),
            retired: self.ever_wanted.contains(&key) || self.is_of_no_family(&key),
            key,
        });
        let mut ops = plan(deltas, self.kernel.mirror(), self.completeness);
        // No port before what holds it: it is planned again when that is there.
        let comes: BTreeSet<IfName> = ops
            .iter()
            .filter_map(|op| match op {
                KernelOp::Put(ObjectKey::Guard(name), _) => Some(name.clone()),
                _ => None,
            })
            .collect();
        ops.retain(|op| {
            let name = match op {
                KernelOp::AddLink(name, link)
                    if matches!(link.kind, overlay_model::LinkKind::Veth { .. }) =>
                {
                    name
                }
                KernelOp::Put(ObjectKey::Port(name), _) => name,
                _ => return true,
            };
            let guard = ObjectKey::Guard(name.clone());
            comes.contains(name) || self.kernel.mirror().contains_key(&guard)
        });
        ops
    }

    fn reconcile(&mut self) {
        if std::mem::take(&mut self.revised) {
            self.revision += 1;
        }
        while let Some(mut dirty) = self.kernel.take() {
            self.hold_back(&mut dirty);
            if self.completeness == Completeness::Partial {
                let wanted = dirty.keys().filter(|key| self.want(key).is_some());
                let wanted: Vec<ObjectKey> = wanted.cloned().collect();
                self.ever_wanted.extend(wanted);
            }
            let ops = self.plan_of(dirty.keys().cloned());
            if !self.kernel.failures().is_empty() {
                let planned: BTreeSet<ObjectKey> = ops.iter().map(KernelOp::key).collect();
                for key in dirty.keys().filter(|key| !planned.contains(key)) {
                    self.kernel.forgive(key);
                }
            }
            self.begin_repairs(&dirty, &ops);
            if ops.is_empty() {
                continue;
            }
            self.note_announcements(&ops);
            let plan = self.kernel.begin(&ops);
            self.effects.push(Effect::Apply { plan, ops });
        }
        let left_alone = self.kernel.repairs.fights().any(|fight| fight.until.is_some());
        if self.kernel.is_idle() && self.kernel.failures().is_empty() && !left_alone {
            self.applied_revision = self.revision;
        }
        let done = self.kernel.done();
        for (round, token, result) in std::mem::take(&mut self.replies) {
            if round <= done {
                self.reply(token, result);
            } else {
                self.replies.push((round, token, result));
            }
        }
    }

    /// Notes which addresses get another MAC by `ops`. The withdrawal of the old
    /// place may be heard before the record of the new one.
    fn note_announcements(&mut self, ops: &[KernelOp]) {
        let now = self.now.mono;
        for op in ops {
            match op {
                KernelOp::Put(key @ ObjectKey::Neigh(bridge, ip), Object::Neigh { mac }) => {
                    let former = match self.kernel.mirror().get(key) {
                        Some(Object::Neigh { mac }) => Some(mac),
                        _ => match self.former_macs.remove(key) {
                            Some((mac, at)) if at + CACHED > now => Some(mac),
                            _ => None,
                        },
                    };
                    if former.is_some_and(|former| former != *mac) {
                        let bridge = bridge.clone();
                        self.announcements.push(Announcement { bridge, ip: *ip, mac: *mac });
                    }
                }
                KernelOp::Del(key @ ObjectKey::Neigh(..), Object::Neigh { mac }) => {
                    if self.former_macs.len() >= FORMER_MACS {
                        self.former_macs.retain(|_, (_, at)| *at + CACHED > now);
                    }
                    if self.former_macs.len() < FORMER_MACS {
                        self.former_macs.insert(key.clone(), (*mac, now));
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes out what another hand will not leave alone, until its time comes.
    /// What is wanted otherwise than before goes at once.
    fn hold_back(&mut self, dirty: &mut BTreeMap<ObjectKey, Cause>) {
        let (now, repairs) = (self.now.mono, &self.kernel.repairs);
        if repairs.is_idle() {
            return;
        }
        let fought = dirty.iter().filter(|(key, cause)| {
            **cause != Cause::Touched && repairs.is_seen(key) && repairs.is_fought_over(key, now)
        });
        let fought: Vec<ObjectKey> = fought.map(|(key, _)| key.clone()).collect();
        for key in fought {
            if !self.kernel.repairs.is_held(&key) {
                if self.plan_of([key.clone()]).is_empty() {
                    continue;
                }
                if let Some(contest) = self.kernel.repairs.hold(&key, now) {
                    self.notice(Notice::Fight(contest));
                }
            }
            dirty.remove(&key);
        }
    }

    /// Notes which of `ops` put back what another hand has changed.
    fn begin_repairs(&mut self, dirty: &BTreeMap<ObjectKey, Cause>, ops: &[KernelOp]) {
        if self.kernel.repairs.is_idle() {
            return;
        }
        // Of a link that is replaced, the operation that makes it.
        let mut repairing: BTreeMap<ObjectKey, &KernelOp> = BTreeMap::new();
        for op in ops {
            let key = op.key();
            let again = self.kernel.failures().contains_key(&key);
            let wanted = dirty.get(&key) == Some(&Cause::Touched);
            if again {
                repairing.remove(&key);
            } else if !wanted && self.kernel.repairs.is_seen(&key) {
                repairing.insert(key, op);
            }
        }
        for (key, op) in &repairing {
            let there = self.kernel.mirror().contains_key(key);
            let found = match op {
                KernelOp::DelLink(_) | KernelOp::Del(..) => Found::Added,
                _ if there => Found::Changed,
                _ => Found::Deleted,
            };
            let with = match op {
                KernelOp::AddLink(name, _) => {
                    let along = |key: &ObjectKey, object: &Object| {
                        key.stands_on() == Some(name)
                            || matches!(object, Object::BridgeFdb { port, .. } if port == name)
                    };
                    let now = ops.iter().filter(|op| match op {
                        KernelOp::Put(key, object) => {
                            along(key, object) && !repairing.contains_key(key)
                        }
                        _ => false,
                    });
                    let next = self
                        .kernel
                        .left()
                        .filter(|key| self.want(key).is_some_and(|object| along(key, &object)));
                    now.count() + next.count()
                }
                _ => 0,
            };
            self.kernel.repairs.begin(key, found, op.to_string(), with, self.now.mono);
        }
        let under_way: BTreeSet<ObjectKey> = ops.iter().map(KernelOp::key).collect();
        for key in dirty.keys() {
            if !repairing.contains_key(key) {
                if under_way.contains(key) {
                    // It is tried again, or wanted otherwise.
                    self.kernel.repairs.forget_sight(key);
                } else {
                    self.kernel.repairs.overlook(key);
                }
            }
        }
    }

    fn consider_complete(&mut self) {
        if self.completeness == Completeness::Complete || self.recovery_holds_view() {
            return;
        }
        let age = self.now.mono.saturating_sub(self.started);
        let live: Vec<(HostId, bool)> = self.view.live().collect();
        let why = if age >= self.config.alone_after {
            "waited long enough"
        } else if age >= SETTLE && !live.is_empty() && live.iter().all(|(_, spoken)| *spoken) {
            "heard every live host"
        } else {
            return;
        };
        self.completeness = Completeness::Complete;
        self.let_go();
        self.ever_wanted.clear();
        self.nat_due = true;
        self.notice(Notice::ViewComplete { why });
        for key in self.all_keys() {
            self.kernel.touch(key, Cause::Check);
        }
    }

    pub(crate) fn touch_endpoint(&mut self, host: HostId, ep: &overlay_model::Endpoint) {
        let me = self.config.host;
        // A network that is not used here has nothing in the kernel.
        let Some(net) = self.networks.get(ep.network) else { return };
        if !self.view.is_user(ep.network, me) && host != me {
            return;
        }
        let bridge = net.vni.bridge();
        let mut keys = vec![ObjectKey::BridgeFdb(bridge.clone(), ep.mac)];
        // In all of them: it may have been behind another one.
        keys.extend(self.config.devices(net.vni).map(|dev| ObjectKey::VxlanFdb(dev, ep.mac)));
        keys.extend(ep.addresses.iter().map(|ip| ObjectKey::Neigh(bridge.clone(), *ip)));
        keys.extend(self.vtep_of(host).map(|vtep| self.flood_key(net, vtep)));
        for key in keys {
            self.touch(key);
        }
    }

    /// The VTEP of `host` was `before` and is another now.
    fn touch_host(&mut self, host: HostId, before: Option<IpAddr>) {
        let nets: Vec<NetworkId> = self.view.used_by(host).collect();
        for id in nets {
            let eps: Vec<_> = self
                .view
                .active_on(id)
                .filter(|(h, _)| *h == host)
                .map(|(_, e)| e.clone())
                .collect();
            for ep in eps {
                self.touch_endpoint(host, &ep);
            }
        }
        // Also where it may have ceased to use the network at the same time.
        let Some(before) = before else { return };
        let here = self.view.used_by(self.config.host).filter_map(|id| self.networks.get(id));
        let keys: Vec<ObjectKey> = here.map(|net| self.flood_key(net, before)).collect();
        for key in keys {
            self.touch(key);
        }
    }

    /// Everything of a network may differ.
    pub(crate) fn touch_network(&mut self, id: NetworkId) {
        if let Some(net) = self.networks.get(id) {
            self.touch_vni(net.vni);
        }
    }

    fn touch_vni(&mut self, vni: Vni) {
        let mut keys: Vec<ObjectKey> =
            self.networks.programmed(vni).map(|net| self.wanted_keys(net)).unwrap_or_default();
        for link in [vni.bridge(), vni.vxlan(), vni.vxlan6()] {
            keys.extend(self.kernel.mirror().keys_on(&link));
            keys.push(ObjectKey::Link(link));
        }
        keys.extend([ObjectKey::Firewall, ObjectKey::PortRules, ObjectKey::Nat]);
        self.nat_due = true;
        for key in keys {
            self.touch(key);
        }
    }

    // ----- what goes out ---------------------------------------------------

    fn on_persisted(&mut self, id: u64, result: Result<(), String>) {
        if let Err(why) = &result {
            self.notice(Notice::NotPersisted { why: why.clone() });
        }
        match self.persisting.remove(&id) {
            None | Some(After::Nothing) => {}
            Some(After::Created { token, id }) => self.created(token, id, result),
            Some(After::Removed { token, id, before, detached }) => {
                self.removed(token, id, *before, detached, result);
            }
            Some(After::Changed { token, before }) => self.changed(token, *before, result),
            Some(After::Forgotten { token, kept }) => self.forgot_ip(token, kept, result),
            Some(After::Attached(id)) => self.attached(id, result),
            Some(After::Service { token, service }) => {
                self.service_saved(token, *service, result);
            }
            Some(After::EndpointChanged { token, before, after }) => {
                self.endpoint_changed(token, (&before.endpoint, &after.endpoint), result);
            }
            Some(After::Imported(draft, token)) => self.imported(*draft, token, result),
            Some(After::Detached { id, token, settled }) => {
                self.detached(id, token, settled, result);
            }
            Some(After::Said { whom, fate, before }) => self.said(whom, (fate, before), result),
            Some(After::TookOver { from, fate, taken }) => {
                self.took_over(from, fate, taken, result);
            }
            Some(After::Dropped { fate, dropped }) => self.dropped(fate, dropped, result),
            Some(After::Drained { token, drained }) => self.drained(token, drained, result),
            Some(After::FoundAgain) => self.found_again(result),
            Some(After::GaveAll { token, endpoints, given }) => {
                self.gave_all(token, endpoints, given);
            }
            Some(After::HandedOver { net, family, ip, tokens, before }) => {
                self.handed_over(net, family, ip, (tokens, before), result);
            }
            Some(After::Donated { net, family, tokens, count, to, before }) => {
                if result.is_err() {
                    self.pools.insert((net, family), *before);
                    return;
                }
                for (offset, token) in tokens {
                    self.publish(RecordKey::Ring(net, family, offset), Some(Record::Ring(token)));
                }
                if let Some(name) = self.networks.get(net).map(|n| n.name.clone()) {
                    let to = self.host_name(to);
                    self.notice(Notice::Donated { net: name, count, to });
                }
            }
        }
    }

    pub(crate) fn persist(&mut self, changes: Vec<StateChange>, after: After) {
        self.last_persist += 1;
        self.persisting.insert(self.last_persist, after);
        self.effects.push(Effect::Persist { id: self.last_persist, changes });
    }

    pub(crate) fn publish(&mut self, key: RecordKey, record: Option<Record>) {
        self.membership.note_published(key, record.as_ref());
        self.changes.push((key, record));
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.effects.push(Effect::Notice(notice));
    }

    pub(crate) fn reply(&mut self, token: Token, result: Result<Reply, Refused>) {
        if token != NOBODY_ASKS {
            self.effects.push(Effect::Reply { token, result });
        } else if let Err(refused) = result
            && self.own_failure.as_ref() != Some(&refused.message)
        {
            self.own_failure = Some(refused.message.clone());
            self.notice(Notice::NoOwnAddress { why: refused.message });
        }
    }

    /// Replies when what waits for the kernel now has been carried out.
    pub(crate) fn reply_when_settled(&mut self, token: Token, result: Result<Reply, Refused>) {
        self.replies.push((self.kernel.settled_by(), token, result));
    }

    /// A stamp later than `over`, what it is to replace: the later wins, so
    /// nothing can be written over otherwise.
    ///
    /// It is also later than any stamp seen, but for those more than
    /// [`MAX_DRIFT`] ahead of the clock. Somebody's clock was wrong then, or
    /// ours is; to follow would carry that time into every stamp of every host
    /// for ever. Not to follow costs nothing: stamps are compared only between
    /// definitions of one network (settled by `over`), and between the creations
    /// of two that claim one VNI or name while their hosts could not hear each
    /// other, where a wrong clock decides wrongly in any case, but everywhere
    /// alike.
    pub(crate) fn new_stamp(&mut self, over: Option<Stamp>) -> Stamp {
        let now = self.now.wall_ms;
        let seen = Some(self.stamp).filter(|seen| !is_adrift(seen.0, now));
        let (wall, counter) = seen.max(over.map(|s| (s.wall_ms, s.counter))).unwrap_or((0, 0));
        let (wall, counter) = match counter.checked_add(1) {
            _ if now > wall => (now, 0),
            Some(counter) => (wall, counter),
            None => (wall.saturating_add(1), 0),
        };
        self.stamp = (wall, counter);
        Stamp { wall_ms: wall, counter, host: self.config.host }
    }

    pub(crate) fn see_stamp(&mut self, stamp: Stamp) {
        if !is_adrift(stamp.wall_ms, self.now.wall_ms) {
            self.stamp = self.stamp.max((stamp.wall_ms, stamp.counter));
        }
    }
}

/// True if networks may come, go or change by `event`, but for this host's own endpoints.
fn may_change_networks(event: &Event) -> bool {
    match event {
        Event::Request { .. } | Event::Persisted { .. } => true,
        Event::Cluster(ClusterEvent::Record { key, .. }) => matches!(key, RecordKey::Network(_)),
        _ => false,
    }
}

/// How far ahead of the clock a stamp may be to be followed: more than a wrong
/// time zone, and than clocks that were set by hand.
const MAX_DRIFT: Duration = Duration::from_secs(24 * 3600);

fn is_adrift(stamp_ms: u64, now_ms: u64) -> bool {
    u128::from(stamp_ms) > u128::from(now_ms) + MAX_DRIFT.as_millis()
}

/// The first VTEP address of a host, for people.
fn vtep_text(host: &Host) -> String {
    host.vteps.first().map_or_else(String::new, IpAddr::to_string)
}

/// Refuses labels, exclusions and ranges that make no sense, or do not fit into
/// the record of a network.
pub(crate) fn check_rules(
    subnets: &[Subnet],
    labels: &BTreeMap<String, String>,
    exclude: &[AddressRange],
    ip_ranges: &[AddressRange],
) -> Result<(), Refused> {
    let bytes: usize = labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > LABEL_BYTES {
        return Err(Refused::new(
            ErrorKind::Invalid,
            format!("the labels have {bytes} bytes together; at most {LABEL_BYTES} are carried"),
        ));
    }
    leasable::check(subnets, exclude, ip_ranges, bytes + 2 * labels.len())
        .map_err(|wrong| Refused::new(ErrorKind::Invalid, wrong.message).hint(wrong.hint))
}

fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Refuses a subnet that a route of this host leads to.
pub(crate) fn check_routes(cidr: IpNet, foreign: &Foreign) -> Result<(), Refused> {
    match foreign.routes.iter().find(|(route, _)| overlaps(*route, cidr)) {
        Some((route, dev)) => Err(Refused::new(
            ErrorKind::Taken,
            format!("{cidr} overlaps this host's route {route} dev {dev}"),
        )),
        None => Ok(()),
    }
}
