//! Engines, kernels and a gossip that delivers at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use overlay_model::{
    Announcement, ClusterEvent, EndpointId, Foreign, HostId, IfName, KernelChange, MacAddr, Name,
    NetnsRef, NetworkId, Object, ObjectKey, Publish, Record, RecordKey, Refusal, Vni,
};

use crate::engine::{Config, Engine, Restored};
use crate::event::{
    Attach, CreateNetwork, Effect, Event, Import, LocalEndpoint, Notice, Now, Place, Refused,
    Reply, Request, StaticEndpoint, Where,
};
use crate::fake_disk::FakeDisk;
use crate::fake_kernel::FakeKernel;
use crate::names::tests::Told;
use crate::recovery::Lost;
use crate::views::{EndpointState, EndpointView, NetworkView};

pub(crate) fn create(name: &str, vni: u32, cidr: &str) -> CreateNetwork {
    CreateNetwork {
        name: Some(Name::new(name).unwrap()),
        vni: Some(Vni::new(vni).unwrap()),
        subnets: vec![cidr.parse().unwrap()],
        ..CreateNetwork::default()
    }
}

pub(crate) fn attach(net: &str, name: &str) -> Attach {
    Attach {
        net: net.into(),
        place: Where::Netns {
            netns: NetnsRef { path: format!("/run/netns/{name}").into(), cookie: 1 },
            taken_ifnames: [IfName::new("lo").unwrap()].into(),
            ifname: None,
            default_route: true,
            no_dns: false,
        },
        ips: vec![],
        mac: None,
        name: Some(Name::new(name).unwrap()),
        aliases: BTreeSet::new(),
        labels: BTreeMap::new(),
        ports: Vec::new(),
        take_over: false,
        keep_ip: false,
        reserved: false,
        foreign: Foreign::default(),
    }
}

/// A static endpoint of that MAC and address, as one that is asked for.
pub(crate) fn add(net: &str, mac: &str, ip: &str) -> Attach {
    Attach {
        place: Where::Static,
        mac: Some(mac.parse().unwrap()),
        ips: vec![ip.parse().unwrap()],
        name: None,
        ..attach(net, "x")
    }
}

/// A VM behind a device that is there, with an MTU that fits and `index`.
pub(crate) fn plug(net: &str, dev: &str, index: u32, mac: &str) -> Attach {
    let dev = IfName::new(dev).unwrap();
    let mut foreign = Foreign::default();
    foreign.mtus.insert(dev.clone(), 1450);
    let own = "06:00:00:00:00:01".parse().ok();
    let device = overlay_model::Device { index, mac: own, up: false, master: None };
    foreign.devices.insert(dev.clone(), device);
    Attach {
        place: Where::Device(dev),
        mac: Some(mac.parse().unwrap()),
        name: None,
        foreign,
        ..attach(net, "x")
    }
}

/// A list of a MAC and addresses each.
pub(crate) fn list(net: &str, replace: bool, items: &[(&str, &str)]) -> Import {
    let endpoints = items.iter().map(|(mac, ips)| StaticEndpoint {
        mac: mac.parse().unwrap(),
        addresses: ips.split(',').filter_map(|ip| ip.parse().ok()).collect(),
        name: None,
        aliases: BTreeSet::new(),
        labels: BTreeMap::new(),
    });
    let endpoints = endpoints.collect();
    Import { net: net.into(), replace, take_over: false, endpoints, foreign: Foreign::default() }
}

/// Long enough that no test meets it that does not mean to.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

struct Node {
    engine: Engine,
    kernel: FakeKernel,
    disk: FakeDisk,
    /// Endpoints whose namespace is found gone at the next start.
    gone: BTreeSet<overlay_model::EndpointId>,
    incarnation: u64,
    boot: u32,
    alive: bool,
    heard: bool,
    records: Vec<(RecordKey, Option<Record>)>,
    applied: Vec<String>,
    replies: BTreeMap<u64, Result<Reply, Refused>>,
    notices: Vec<Notice>,
    announced: Vec<Announcement>,
    held: Vec<Publish>,
    /// What its resolver was told.
    named: Told,
    /// How far its wall clock is off, milliseconds.
    clock_off: i64,
    /// Its VTEP addresses.
    vteps: Vec<IpAddr>,
    /// It was set up with both families.
    dual: bool,
    /// It had other addresses at some time of its life.
    moved: bool,
}

impl Node {
    fn has(&self, v6: bool) -> Option<IpAddr> {
        self.vteps.iter().copied().find(|ip| ip.is_ipv6() == v6)
    }

    /// Where VXLAN packets for `other` go to from here, and by which device:
    /// what `ways.rs` says, said once more.
    fn way_to(&self, other: &Self, vni: Vni) -> Option<(IfName, IpAddr)> {
        let common = |v6: bool| self.has(v6).and(other.has(v6));
        match (common(false), common(true)) {
            (Some(v4), _) => Some((vni.vxlan(), v4)),
            (None, Some(v6)) if self.dual => {
                Some((IfName::new(&format!("ovx{vni}-6")).unwrap(), v6))
            }
            (None, Some(v6)) => Some((vni.vxlan(), v6)),
            (None, None) => None,
        }
    }
}

/// The VTEP addresses of a host: `4`, `6` or `46`.
fn vteps(i: usize, families: &str) -> Vec<IpAddr> {
    let of = |family: char| match family {
        '4' => IpAddr::from([192, 0, 2, i as u8 + 1]),
        '6' => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, i as u16 + 1]),
        other => panic!("no family: {other}"),
    };
    families.chars().map(of).collect()
}

pub(crate) struct World {
    nodes: Vec<Node>,
    now: Duration,
    cut: bool,
    /// What is published together arrives in the reverse of its order.
    reversed: bool,
    /// Who does not hear whom, otherwise than both ways.
    deaf: BTreeSet<(usize, usize)>,
    last_token: u64,
    last_fresh: u64,
}

fn host(i: usize) -> HostId {
    HostId(uuid::Uuid::from_u128(i as u128 + 1))
}

fn config(i: usize, incarnation: u64, boot: u32, vteps: &[IpAddr], dual: bool) -> Config {
    Config {
        host: host(i),
        incarnation,
        name: Name::new(&format!("h{i}")).unwrap(),
        vteps: vteps.to_vec(),
        dual,
        underlay_dev: IfName::new("eth0").unwrap(),
        other_dev: None,
        underlay_mtu: 1500,
        vxlan_port: 4789,
        outer: Default::default(),
        gossip: ([192, 0, 2, i as u8 + 1], 7946).into(),
        version: "0".into(),
        keys: overlay_model::HostKeys::default(),
        boot_id: boot.to_string(),
        down_after: Duration::from_secs(1),
        down_grace: Duration::from_secs(10),
        stop_grace: Duration::from_secs(600),
        alone_after: Duration::from_secs(15),
        forget_after: Some(FORGET_AFTER),
        leak_grace: Duration::from_secs(60),
        host_access: Default::default(),
        state_dir: "/var/lib/overlayd".into(),
    }
}

impl World {
    /// Hosts that hear each other; their views are complete.
    pub(crate) fn new(n: usize) -> Self {
        Self::of_families(&vec!["4"; n])
    }

    /// The same, of hosts with VTEP addresses of these families each.
    pub(crate) fn of_families(families: &[&str]) -> Self {
        let n = families.len();
        let mut world = Self {
            nodes: Vec::new(),
            now: Duration::ZERO,
            cut: false,
            reversed: false,
            deaf: BTreeSet::new(),
            last_token: 0,
            last_fresh: 0,
        };
        for (i, families) in families.iter().enumerate() {
            let (vteps, dual) = (vteps(i, families), families.len() > 1);
            let config = config(i, 1, 1, &vteps, dual);
            let engine = Engine::new(config, Restored::default(), world.now());
            world.nodes.push(Node {
                engine,
                kernel: FakeKernel::default(),
                disk: FakeDisk::default(),
                gone: BTreeSet::new(),
                incarnation: 1,
                boot: 1,
                alive: true,
                heard: true,
                records: Vec::new(),
                applied: Vec::new(),
                replies: BTreeMap::new(),
                notices: Vec::new(),
                announced: Vec::new(),
                held: Vec::new(),
                named: Told::default(),
                clock_off: 0,
                vteps,
                dual,
                moved: false,
            });
        }
        for i in 0..n {
            world.start(i);
        }
        world.pass(Duration::from_secs(20));
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.now, wall_ms: 1_800_000_000_000 + self.now.as_millis() as u64 }
    }

    fn now_of(&self, i: usize) -> Now {
        let now = self.now();
        Now { wall_ms: now.wall_ms.saturating_add_signed(self.nodes[i].clock_off), ..now }
    }

    /// Its wall clock is set forward or back.
    pub(crate) fn clock_jumps(&mut self, i: usize, hours: i64) {
        self.nodes[i].clock_off += hours * 3_600_000;
    }

    /// One no longer hears another, who may well hear it.
    pub(crate) fn deafen(&mut self, listener: usize, speaker: usize) {
        if listener != speaker && self.deaf.insert((listener, speaker)) {
            let incarnation = self.nodes[speaker].incarnation;
            let event = ClusterEvent::Silent { host: host(speaker), incarnation };
            self.step(listener, Event::Cluster(event));
        }
    }

    /// Nobody is deaf any more.
    pub(crate) fn heal(&mut self) {
        for (listener, speaker) in std::mem::take(&mut self.deaf) {
            self.tell_of(speaker, listener);
        }
    }

    pub(crate) fn engine(&mut self, i: usize) -> &mut Engine {
        &mut self.nodes[i].engine
    }

    pub(crate) fn kernel(&mut self, i: usize) -> &mut FakeKernel {
        &mut self.nodes[i].kernel
    }

    /// Commands since the last call.
    pub(crate) fn applied(&mut self, i: usize) -> Vec<String> {
        std::mem::take(&mut self.nodes[i].applied)
    }

    pub(crate) fn request(&mut self, i: usize, request: Request) -> Result<Reply, Refused> {
        self.last_token += 1;
        self.last_fresh += 1;
        let (token, fresh) = (self.last_token, self.last_fresh);
        self.step(i, Event::Request { token, fresh, request: Box::new(request) });
        // Owners have their time to answer.
        for _ in 0..120 {
            if let Some(result) = self.nodes[i].replies.remove(&token) {
                return result;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("no reply within twelve seconds");
    }

    /// What was replied to a request that was put in by hand.
    pub(crate) fn reply_to(&mut self, i: usize, token: u64) -> Option<Result<Reply, Refused>> {
        self.nodes[i].replies.remove(&token)
    }

    pub(crate) fn create(
        &mut self,
        i: usize,
        create: CreateNetwork,
    ) -> Result<NetworkView, Refused> {
        match self.request(i, Request::CreateNetwork(create))? {
            Reply::Network(view) => Ok(*view),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn remove(&mut self, i: usize, net: &str) -> Result<Reply, Refused> {
        self.request(i, Request::RemoveNetwork(net.into()))
    }

    /// Attaches a namespace that is there.
    pub(crate) fn attach(&mut self, i: usize, attach: Attach) -> Result<EndpointView, Refused> {
        if let Where::Netns { netns, .. } = &attach.place {
            self.nodes[i].kernel.netns.insert(netns.path.clone());
        }
        self.attach_at(i, attach)
    }

    pub(crate) fn attach_at(&mut self, i: usize, attach: Attach) -> Result<EndpointView, Refused> {
        match self.request(i, Request::Attach(attach))? {
            Reply::Endpoint(view) => Ok(*view),
            other => panic!("{other:?}"),
        }
    }

    /// Attaches a device, which is there under the index that is said.
    pub(crate) fn plug(&mut self, i: usize, attach: Attach) -> Result<EndpointView, Refused> {
        for (name, device) in &attach.foreign.devices {
            self.nodes[i].kernel.devices.insert(name.clone(), device.index);
        }
        self.attach_at(i, attach)
    }

    /// A device goes, while the daemon looks.
    pub(crate) fn unplug(&mut self, i: usize, dev: &str) {
        for change in self.nodes[i].kernel.unplug(&IfName::new(dev).unwrap()) {
            self.step(i, Event::Kernel(change));
        }
    }

    /// What came of an import: added, changed, removed, unchanged.
    pub(crate) fn import(&mut self, i: usize, import: Import) -> Result<[usize; 4], Refused> {
        match self.request(i, Request::Import(import))? {
            Reply::Imported { added, changed, removed, unchanged } => {
                Ok([added, changed, removed, unchanged])
            }
            other => panic!("{other:?}"),
        }
    }

    /// From now on what is published together arrives in the reverse order.
    pub(crate) fn reverse(&mut self) {
        self.reversed = true;
    }

    /// What operators were told on a host.
    pub(crate) fn notices(&self, i: usize) -> &[Notice] {
        &self.nodes[i].notices
    }

    /// What the containers of a host were told, since the last call.
    /// The ports of a host that are to be held.
    pub(crate) fn held(&self, i: usize) -> Vec<String> {
        self.nodes[i].held.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn announced(&mut self, i: usize) -> Vec<String> {
        let all = std::mem::take(&mut self.nodes[i].announced);
        all.iter().map(|one| format!("{} {} {}", one.bridge, one.ip, one.mac)).collect()
    }

    /// How often the disk of a host was written to.
    pub(crate) fn writes(&self, i: usize) -> usize {
        self.nodes[i].disk.writes
    }

    pub(crate) fn detach(&mut self, i: usize, target: &str) -> Result<Reply, Refused> {
        self.request(i, Request::Detach { target: target.into(), net: None })
    }

    pub(crate) fn endpoints(&mut self, i: usize) -> Vec<EndpointView> {
        match self.request(i, Request::Endpoints { net: None, local: false }).unwrap() {
            Reply::Endpoints(views) => views,
            other => panic!("{other:?}"),
        }
    }

    /// The id of a network.
    pub(crate) fn net(&self, i: usize, name: &str) -> NetworkId {
        self.nodes[i].engine.networks.find(name).expect("it knows the network").id
    }

    /// Nothing is to be done in its kernel.
    pub(crate) fn plan_is_empty(&mut self, i: usize) -> bool {
        match self.request(i, Request::Plan) {
            Ok(Reply::Plan(plan)) => plan.commands.is_empty(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn networks(&mut self, i: usize) -> Vec<NetworkView> {
        match self.request(i, Request::Networks).unwrap() {
            Reply::Networks(views) => views,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn refuse(&mut self, i: usize, key: ObjectKey, refusal: Option<Refusal>) {
        match refusal {
            Some(refusal) => self.nodes[i].kernel.refuse.insert(key, refusal),
            None => self.nodes[i].kernel.refuse.remove(&key),
        };
    }

    pub(crate) fn disk_full(&mut self, i: usize, full: bool) {
        self.nodes[i].disk.full = full;
    }

    /// Another hand deletes or sets an object.
    pub(crate) fn meddle(&mut self, i: usize, key: ObjectKey, object: Option<Object>) {
        let changes = self.nodes[i].kernel.meddle(key, object);
        for change in changes {
            self.step(i, Event::Kernel(change));
        }
    }

    /// A full check, while which another hand deletes something.
    pub(crate) fn is_checked(&mut self, i: usize, doomed: Option<ObjectKey>) {
        self.step(i, Event::Kernel(KernelChange::Reading));
        let state = self.nodes[i].kernel.read();
        if let Some(key) = doomed {
            self.meddle(i, key, None);
        }
        self.step(i, Event::Kernel(KernelChange::Read(Box::new(state))));
    }

    /// The kernel tells all of this before it carries out anything.
    pub(crate) fn tell_before_anything_is_done(&mut self, i: usize, changes: Vec<KernelChange>) {
        let now = self.now_of(i);
        let mut effects = Vec::new();
        for change in changes {
            effects.extend(self.nodes[i].engine.step(Event::Kernel(change), now));
        }
        self.perform(i, effects);
    }

    /// Does what an engine has said when it was stepped by hand.
    pub(crate) fn carry_out(&mut self, i: usize, effects: Vec<Effect>) {
        self.perform(i, effects);
    }

    /// Lets time pass, in the steps that the engines ask for.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..10_000 {
            let next = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.alive)
                .filter_map(|(i, node)| node.engine.next_deadline().map(|at| (at, i)))
                .min();
            match next {
                Some((at, i)) if at <= until => {
                    self.now = self.now.max(at);
                    self.step(i, Event::Tick);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("an engine asks for ticks without end");
    }

    /// Somebody gives the host other keys.
    pub(crate) fn set_keys(&mut self, i: usize, keys: overlay_model::HostKeys) {
        self.step(i, Event::Keys(keys));
    }

    /// kill -9 and start again: the kernel and the disk stay.
    pub(crate) fn restart(&mut self, i: usize) {
        self.restart_unread(i);
        self.kernel_is_read(i);
    }

    /// The same, before it has read the kernel.
    pub(crate) fn restart_unread(&mut self, i: usize) {
        if std::mem::take(&mut self.nodes[i].moved) {
            self.former_lives_are_silent(i, self.nodes[i].incarnation + 1);
        }
        self.nodes[i].incarnation += 1;
        let gone = std::mem::take(&mut self.nodes[i].gone);
        let restored = Restored { gone, ..self.nodes[i].disk.restored() };
        let now = self.now_of(i);
        let node = &mut self.nodes[i];
        let config = config(i, node.incarnation, node.boot, &node.vteps, node.dual);
        node.engine = Engine::new(config, restored, now);
        node.named = Told::default();
        node.alive = true;
        node.heard = true;
    }

    /// What a start reads of the kernel is there.
    pub(crate) fn kernel_is_read(&mut self, i: usize) {
        self.start(i);
    }

    /// Its addresses are of these families from now on.
    pub(crate) fn has_families(&mut self, i: usize, families: &str) {
        self.former_lives_are_silent(i, self.nodes[i].incarnation);
        self.nodes[i].vteps = vteps(i, families);
        self.nodes[i].moved = true;
        let addrs = self.nodes[i].vteps.clone();
        let eth0 = IfName::new("eth0").unwrap();
        let event = Event::Underlay {
            addr: addrs[0],
            other: addrs.get(1).map(|ip| (*ip, eth0.clone())),
            dev: eth0,
            mtu: 1500,
            gossip: ([192, 0, 2, i as u8 + 1], 7946).into(),
        };
        self.step(i, event);
    }

    /// One at other addresses counts when those before it are heard no more.
    fn former_lives_are_silent(&mut self, i: usize, now: u64) {
        for incarnation in 1..now {
            self.tell_others(i, &ClusterEvent::Silent { host: host(i), incarnation });
        }
    }

    /// The daemon is stopped, told of other families, and started.
    pub(crate) fn restart_with(&mut self, i: usize, families: &str) {
        let node = &mut self.nodes[i];
        (node.vteps, node.dual, node.moved) = (vteps(i, families), families.len() > 1, true);
        self.restart(i);
    }

    /// Its containers and VMs end while nobody looks, and take their ports along.
    pub(crate) fn loses_namespaces(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        for (id, ep) in &node.disk.endpoints {
            match &ep.place {
                Place::Netns { .. } => {
                    let _ = node.kernel.meddle(ObjectKey::Link(id.ifname()), None);
                }
                Place::Device { ifname, .. } => drop(node.kernel.unplug(ifname)),
                Place::Static => continue,
            }
            node.gone.insert(*id);
        }
    }

    /// The machine boots: kernel and namespaces are new, the disk stays.
    pub(crate) fn reboot(&mut self, i: usize) {
        self.nodes[i].kernel = FakeKernel::default();
        self.nodes[i].boot += 1;
        self.restart(i);
    }

    /// Its disk is lost with it: a new start from nothing but the cluster.
    pub(crate) fn wipe(&mut self, i: usize) {
        self.nodes[i].disk = FakeDisk::default();
        self.nodes[i].kernel = FakeKernel::default();
        self.restart(i);
    }

    /// The daemon is killed, and all that it had written is lost; the kernel and what the
    /// others remember are not, if `remembered`. It is started again.
    pub(crate) fn loses_state(&mut self, i: usize, remembered: bool) {
        let netns = |(id, local): (&EndpointId, &LocalEndpoint)| {
            matches!(local.place, Place::Netns { .. }).then(|| (*id, local.place.clone()))
        };
        let homes = self.nodes[i].disk.endpoints.iter().filter_map(netns).collect();
        let lost = Lost { at_ms: self.now_of(i).wall_ms, homes };
        let incarnation = self.nodes[i].incarnation;
        self.tell_others(i, &ClusterEvent::Silent { host: host(i), incarnation });
        let records = std::mem::take(&mut self.nodes[i].records);
        self.nodes[i].disk = FakeDisk::default();
        self.nodes[i].disk.lost = Some(lost);
        self.restart(i);
        for (key, record) in records.into_iter().filter(|_| remembered) {
            let record = record.map(Box::new);
            let event = ClusterEvent::Record { host: host(i), incarnation, key, record };
            self.step(i, Event::Cluster(event));
        }
    }

    /// Gone for good, with everything that gossip had of it.
    pub(crate) fn kill(&mut self, i: usize) {
        self.fall_silent(i);
        self.nodes[i].alive = false;
        self.nodes[i].records.clear();
    }

    pub(crate) fn fall_silent(&mut self, i: usize) {
        self.nodes[i].heard = false;
        let incarnation = self.nodes[i].incarnation;
        self.tell_others(i, &ClusterEvent::Silent { host: host(i), incarnation });
    }

    pub(crate) fn be_heard(&mut self, i: usize) {
        if !self.nodes[i].alive {
            return;
        }
        self.nodes[i].heard = true;
        self.tell_all_of(i);
        // What it missed meanwhile.
        for other in 0..self.nodes.len() {
            if other != i && self.nodes[other].alive && self.nodes[other].heard {
                self.tell_of(other, i);
            }
        }
    }

    pub(crate) fn partition(&mut self, cut: bool) {
        self.cut = cut;
        let n = self.nodes.len();
        for i in 0..n {
            if cut {
                let incarnation = self.nodes[i].incarnation;
                for j in 0..n {
                    if j != i {
                        let event = ClusterEvent::Silent { host: host(i), incarnation };
                        self.step(j, Event::Cluster(event));
                    }
                }
            } else if self.nodes[i].alive && self.nodes[i].heard {
                self.tell_all_of(i);
            }
        }
    }

    /// Host `i` takes one of the endpoints that it knows of elsewhere over, in
    /// one of several ways.
    pub(crate) fn takes_any_over(&mut self, i: usize, n: usize, how: u8) {
        let mut views = self.endpoints(i);
        views.retain(|v| !v.local);
        if views.is_empty() {
            return;
        }
        let view = views.swap_remove(n % views.len());
        let Some(net) = view.network else { return };
        let mut request = attach(net.name.as_str(), &format!("t{n}"));
        request.take_over = true;
        request.name = None;
        if how != 1 {
            request.mac = Some(view.endpoint.mac);
        }
        if how != 2 {
            request.ips = view.endpoint.addresses.clone();
        }
        match how {
            3 => request.mac = Some(MacAddr::derived(&n.to_be_bytes())),
            4 => request.place = Where::Static,
            5 => {
                let endpoints = vec![StaticEndpoint {
                    mac: view.endpoint.mac,
                    addresses: view.endpoint.addresses,
                    name: None,
                    aliases: BTreeSet::new(),
                    labels: BTreeMap::new(),
                }];
                let import =
                    Import { take_over: true, endpoints, ..list(net.name.as_str(), false, &[]) };
                let _ = self.import(i, import);
                return;
            }
            _ => {}
        }
        let _ = self.attach(i, request);
    }

    /// Of endpoints that have never moved no two have one address: whoever has
    /// taken one over on a host that its owner could not hear may have one that
    /// its owner has given out since.
    pub(crate) fn assert_no_address_is_given_twice(&self) {
        self.assert_unique(|ep| ep.endpoint.move_seq == 0);
    }

    pub(crate) fn assert_no_address_twice(&self) {
        self.assert_unique(|_| true);
    }

    fn assert_unique(&self, counts: impl Fn(&LocalEndpoint) -> bool) {
        let mut seen: BTreeMap<(NetworkId, IpAddr), usize> = BTreeMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let here = node.disk.endpoints.values().filter(|ep| ep.moved.is_none() && counts(ep));
            for ep in here {
                for ip in &ep.endpoint.addresses {
                    let former = seen.insert((ep.endpoint.network, *ip), i);
                    assert_eq!(former, None, "{ip} is on host {i} too");
                }
            }
        }
    }

    /// Works out by itself, from the disks, what forwarding each kernel must
    /// have, and compares.
    ///
    /// Hosts that did not hear each other may have given one MAC twice: the
    /// lower host has it, the other shows a conflict.
    pub(crate) fn assert_kernels_match_the_cluster(&mut self) {
        let mut winners: BTreeMap<(NetworkId, MacAddr), (usize, EndpointId)> = BTreeMap::new();
        let mut ranks: BTreeMap<(NetworkId, MacAddr), _> = BTreeMap::new();
        for (j, node) in self.nodes.iter().enumerate() {
            let here = node.disk.endpoints.values().filter(|ep| ep.moved.is_none());
            for ep in here.map(|ep| &ep.endpoint) {
                let (key, rank) = ((ep.network, ep.mac), (Reverse(ep.move_seq), j, ep.id));
                if ranks.get(&key).is_none_or(|other| rank < *other) {
                    ranks.insert(key, rank);
                    winners.insert(key, (j, ep.id));
                }
            }
        }
        for i in 0..self.nodes.len() {
            let programmed: BTreeSet<NetworkId> = self
                .networks(i)
                .into_iter()
                .filter(|v| v.conflict.is_none())
                .map(|v| v.network.id)
                .collect();
            let uses = |net: NetworkId| {
                let mut own = self.nodes[i].disk.endpoints.values();
                programmed.contains(&net) && own.any(|own| own.endpoint.network == net)
            };
            let vni_of = |net: NetworkId| {
                let disks = self.nodes.iter().map(|node| &node.disk);
                disks.filter_map(|disk| disk.networks.get(&net)).next().unwrap().vni
            };
            let way = |net, j: usize| self.nodes[i].way_to(&self.nodes[j], vni_of(net));
            let remote = winners.iter().filter(|((net, _), (j, _))| i != *j && uses(*net));
            let mut want: BTreeSet<(String, String, String)> = BTreeSet::new();
            for ((net, mac), (j, _)) in remote {
                let Some((dev, vtep)) = way(*net, *j) else { continue };
                want.insert((dev.to_string(), mac.to_string(), vtep.to_string()));
                want.insert(("bridge".into(), mac.to_string(), dev.to_string()));
                want.insert((dev.to_string(), "flood".into(), vtep.to_string()));
            }
            // Whoever uses it hears broadcast, though others have won his MACs; with what has
            // moved away nobody does.
            for (j, node) in self.nodes.iter().enumerate().filter(|(j, _)| *j != i) {
                let here = node.disk.endpoints.values().filter(|ep| ep.moved.is_none());
                for net in here.map(|ep| ep.endpoint.network) {
                    if let Some((dev, vtep)) = way(net, j).filter(|_| uses(net)) {
                        want.insert((dev.to_string(), "flood".into(), vtep.to_string()));
                    }
                }
            }
            let have: BTreeSet<(String, String, String)> = self.nodes[i]
                .kernel
                .objects()
                .iter()
                .filter_map(|(key, object)| match (key, object) {
                    (ObjectKey::VxlanFdb(dev, mac), Object::VxlanFdb { dst }) => {
                        Some((dev.to_string(), mac.to_string(), dst.to_string()))
                    }
                    (
                        ObjectKey::BridgeFdb(_, mac),
                        Object::BridgeFdb { port, extern_learn: true },
                    ) => Some(("bridge".into(), mac.to_string(), port.to_string())),
                    (ObjectKey::Flood(dev, vtep), _) => {
                        Some((dev.to_string(), "flood".into(), vtep.to_string()))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(have, want, "host {i}");
            // On its own host an endpoint is behind its port, if it has one, and
            // a device that was lent is a port exactly while it is attached.
            let own: Vec<&LocalEndpoint> = self.nodes[i]
                .disk
                .endpoints
                .values()
                .filter(|ep| programmed.contains(&ep.endpoint.network))
                .collect();
            let want: BTreeSet<(String, String)> = own
                .iter()
                .filter(|ep| ep.moved.is_none())
                .filter(|ep| {
                    let ep = &ep.endpoint;
                    winners.get(&(ep.network, ep.mac)) == Some(&(i, ep.id))
                })
                .filter_map(|ep| Some((ep.endpoint.mac.to_string(), ep.port()?.to_string())))
                .collect();
            let lent: BTreeSet<String> = own
                .iter()
                .filter(|ep| matches!(ep.place, Place::Device { .. }))
                .filter_map(|ep| Some(ep.port()?.to_string()))
                .collect();
            let objects = self.nodes[i].kernel.objects();
            let have: BTreeSet<(String, String)> = objects
                .iter()
                .filter_map(|(key, object)| match (key, object) {
                    (
                        ObjectKey::BridgeFdb(_, mac),
                        Object::BridgeFdb { port, extern_learn: false },
                    ) => Some((mac.to_string(), port.to_string())),
                    _ => None,
                })
                .collect();
            assert_eq!(have, want, "ports of host {i}");
            let ports: BTreeSet<String> = objects
                .keys()
                .filter_map(|key| match key {
                    ObjectKey::Port(name) => Some(name.to_string()),
                    _ => None,
                })
                .collect();
            assert_eq!(ports, lent, "devices of host {i}");
            let states = self
                .endpoints(i)
                .into_iter()
                .filter(|v| v.local && programmed.contains(&v.endpoint.network));
            for v in states {
                let winner = winners.get(&(v.endpoint.network, v.endpoint.mac));
                let wins = winner == Some(&(i, v.endpoint.id));
                let fits = match &v.state {
                    EndpointState::Ready => wins,
                    EndpointState::Conflict(_) | EndpointState::Moved(_) => !wins,
                    _ => false,
                };
                assert!(fits, "host {i}, wins {wins}: {v:?}");
            }
            self.assert_names_match(i);
        }
    }

    /// What the resolver of a host was told.
    pub(crate) fn told(&self, i: usize) -> &Told {
        &self.nodes[i].named
    }

    /// What it was told bit by bit is what there is.
    #[track_caller]
    pub(crate) fn assert_names_match(&self, i: usize) {
        self.nodes[i].named.assert_matches(&self.nodes[i].engine);
    }

    // ----- the machinery ---------------------------------------------------

    fn start(&mut self, i: usize) {
        let records = self.nodes[i].engine.own_records();
        self.nodes[i].records =
            records.into_iter().map(|(key, record)| (key, Some(record))).collect();
        let state = self.nodes[i].kernel.read();
        self.step(i, Event::Kernel(KernelChange::Snapshot(Box::new(state))));
        self.be_heard(i);
    }

    fn hears(&self, listener: usize, speaker: usize) -> bool {
        listener != speaker
            && !self.cut
            && !self.deaf.contains(&(listener, speaker))
            && [listener, speaker].iter().all(|i| self.nodes[*i].alive && self.nodes[*i].heard)
    }

    /// `listener` gets all records of `speaker`, and hears it.
    fn tell_of(&mut self, speaker: usize, listener: usize) {
        if !self.hears(listener, speaker) {
            return;
        }
        let incarnation = self.nodes[speaker].incarnation;
        let who = host(speaker);
        for (key, record) in self.nodes[speaker].records.clone() {
            let record = record.map(Box::new);
            let event = ClusterEvent::Record { host: who, incarnation, key, record };
            self.step(listener, Event::Cluster(event));
        }
        self.step(listener, Event::Cluster(ClusterEvent::Alive { host: who, incarnation }));
    }

    fn tell_all_of(&mut self, speaker: usize) {
        for listener in 0..self.nodes.len() {
            self.tell_of(speaker, listener);
        }
    }

    fn tell_others(&mut self, speaker: usize, event: &ClusterEvent) {
        for listener in 0..self.nodes.len() {
            if listener != speaker && self.nodes[listener].alive {
                self.step(listener, Event::Cluster(event.clone()));
            }
        }
    }

    fn step(&mut self, i: usize, event: Event) {
        if !self.nodes[i].alive {
            return;
        }
        let now = self.now_of(i);
        let effects = self.nodes[i].engine.step(event, now);
        self.perform(i, effects);
    }

    fn perform(&mut self, i: usize, effects: Vec<Effect>) {
        let mut todo: VecDeque<Effect> = effects.into();
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::Persist { id, changes } => {
                    let result = self.nodes[i].disk.write(changes);
                    let now = self.now_of(i);
                    let more = self.nodes[i].engine.step(Event::Persisted { id, result }, now);
                    for effect in more.into_iter().rev() {
                        todo.push_front(effect);
                    }
                }
                Effect::Publish(mut changes) => {
                    if self.reversed {
                        changes.reverse();
                    }
                    let incarnation = self.nodes[i].incarnation;
                    for (key, record) in changes {
                        let records = &mut self.nodes[i].records;
                        records.retain(|(k, _)| *k != key);
                        records.push((key, record.clone()));
                        for j in 0..self.nodes.len() {
                            if self.hears(j, i) {
                                let record = record.clone().map(Box::new);
                                let event = ClusterEvent::Record {
                                    host: host(i),
                                    incarnation,
                                    key,
                                    record,
                                };
                                self.step(j, Event::Cluster(event));
                            }
                        }
                    }
                }
                Effect::Apply { plan, ops } => {
                    let node = &mut self.nodes[i];
                    node.applied.extend(ops.iter().map(ToString::to_string));
                    let (changes, report) = node.kernel.apply(&ops);
                    for change in changes {
                        self.step(i, Event::Kernel(change));
                    }
                    self.step(i, Event::Applied { plan, report });
                }
                Effect::Reply { token, result } => {
                    self.nodes[i].replies.insert(token, result);
                }
                Effect::Hold(ports) => self.nodes[i].held = ports,
                Effect::Announce(all) => self.nodes[i].announced.extend(all),
                Effect::Notice(notice) => self.nodes[i].notices.push(notice),
                Effect::Names(news) => self.nodes[i].named.take_in(news),
                Effect::Exit => {}
            }
        }
    }
}
