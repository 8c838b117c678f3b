//! All hosts, what tests do to them, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use overlay_engine::fake_disk::FakeDisk;
use overlay_engine::{Attach, CreateNetwork, EndpointView, Notice, Refused, Reply, Request, Where};
use overlay_gossip::PeerInfo;
use overlay_model::{Foreign, HostId, Name, NetnsRef, Network, NetworkId, Object, ObjectKey};
use tokio::time::Instant;

use crate::host::{Daemon, Machine, Settings, Shared, address, lock};
use crate::{Net, Weather};

/// Where daemons receive gossip.
const PORT: u16 = 7946;

struct Host {
    machine: Shared,
    daemon: Option<Daemon>,
}

/// A cluster.
pub struct World {
    /// What connects them.
    pub net: Net,
    hosts: Vec<Host>,
    began: Instant,
    settings: Settings,
    next_netns: u64,
}

impl World {
    /// `n` machines, none of them started. Inside a runtime whose time is paused.
    pub fn new(seed: u64, n: usize, settings: Settings) -> Self {
        let hosts = (0..n)
            .map(|i| {
                let machine = Machine {
                    // Spread, so that the first characters differ.
                    id: HostId(uuid::Uuid::from_u128(
                        (i as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
                    )),
                    name: Name::new(&format!("h{i}")).expect("a label"),
                    addr: SocketAddr::new(address(i), PORT),
                    disk: FakeDisk::default(),
                    kernel: Default::default(),
                    incarnation: 0,
                    clock_off: 0,
                    told: Vec::new(),
                };
                Host { machine: std::sync::Arc::new(std::sync::Mutex::new(machine)), daemon: None }
            })
            .collect();
        Self { net: Net::new(seed), hosts, began: Instant::now(), settings, next_netns: 0 }
    }

    /// Since the world began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many machines there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// True for a world of no machines.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// True if the daemon of host `i` runs.
    pub fn runs(&self, i: usize) -> bool {
        self.hosts[i].daemon.is_some()
    }

    /// Starts the daemon of host `i`, which is told of hosts 0 and 1.
    ///
    /// # Errors
    /// If gossip does not start.
    pub async fn start(&mut self, i: usize) -> Result<()> {
        ensure!(self.hosts[i].daemon.is_none(), "host {i} runs already");
        let join: Vec<SocketAddr> = [0, 1]
            .into_iter()
            .filter(|j| *j != i)
            .map(|j| SocketAddr::new(address(j), PORT))
            .collect();
        let machine = &self.hosts[i].machine;
        let daemon = Daemon::start(machine, &self.net, &join, self.began, self.settings).await?;
        self.hosts[i].daemon = Some(daemon);
        Ok(())
    }

    /// Starts all.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn start_all(&mut self) -> Result<()> {
        for i in 0..self.hosts.len() {
            self.start(i).await?;
        }
        Ok(())
    }

    /// `kill -9` of a daemon: kernel, disk and containers stay.
    pub async fn kill(&mut self, i: usize) {
        if let Some(daemon) = self.hosts[i].daemon.take() {
            daemon.kill().await;
            self.net.unplug(SocketAddr::new(address(i), PORT));
        }
    }

    /// The wall clock of host `i` jumps.
    pub fn jump_clock(&self, i: usize, ms: i64) {
        lock(&self.hosts[i].machine).clock_off += ms;
    }

    /// Nothing passes between the two groups; `one_way`: the first still hears
    /// the second.
    pub fn partition(&self, first: &[usize], second: &[usize], one_way: bool) {
        for a in first {
            for b in second {
                self.net.cut(address(*a), address(*b));
                if !one_way {
                    self.net.cut(address(*b), address(*a));
                }
            }
        }
    }

    /// Somebody deletes an object of ours from a kernel.
    pub fn meddle(&self, i: usize, key: ObjectKey) {
        let changes = lock(&self.hosts[i].machine).kernel.meddle(key, None);
        if let Some(daemon) = &self.hosts[i].daemon {
            daemon.meddled(changes);
        }
    }

    /// Asks the daemon of host `i`.
    ///
    /// # Errors
    /// If it does not run or does not answer; the inner error is its refusal.
    pub async fn ask(&self, i: usize, request: Request) -> Result<Result<Reply, Refused>> {
        let daemon = self.hosts[i].daemon.as_ref().with_context(|| format!("host {i} is off"))?;
        daemon.ask(request).await.with_context(|| format!("host {i} does not answer"))
    }

    /// What the gossip of host `i` knows of the others.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn peers(&self, i: usize) -> Result<Vec<PeerInfo>> {
        let daemon = self.hosts[i].daemon.as_ref().with_context(|| format!("host {i} is off"))?;
        daemon.peers().await
    }

    /// Creates a network.
    ///
    /// # Errors
    /// As [`World::ask`].
    pub async fn create(&self, i: usize, name: &str, cidr: &str) -> Result<Result<(), Refused>> {
        let request = CreateNetwork {
            name: Some(Name::new(name)?),
            subnets: vec![cidr.parse()?],
            ..CreateNetwork::default()
        };
        Ok(self.ask(i, Request::CreateNetwork(request)).await?.map(drop))
    }

    /// Each of `hosts` is to see to it, all at once, that there is a network; says which
    /// id each was told.
    ///
    /// # Errors
    /// As [`World::ask`], and if one was refused.
    pub async fn create_once(&self, hosts: &[usize], name: &str) -> Result<Vec<NetworkId>> {
        let asked = hosts.iter().map(async |i| {
            // Whatever VNI and subnet is free: the hosts may choose differently.
            let request =
                CreateNetwork { name: Some(Name::new(name)?), once: true, ..Default::default() };
            match self.ask(*i, Request::CreateNetwork(request)).await? {
                Ok(Reply::Network(view)) => Ok(view.network.id),
                other => bail!("host {i} was told {other:?}"),
            }
        });
        futures::future::try_join_all(asked).await
    }

    /// Attaches a new namespace.
    ///
    /// # Errors
    /// As [`World::ask`].
    pub async fn attach(&mut self, i: usize, net: &str) -> Result<Result<EndpointView, Refused>> {
        let request = Request::Attach(self.new_namespace(i, net));
        attached(self.ask(i, request).await?)
    }

    /// Host `i` takes one of the endpoints over that it knows of elsewhere; says
    /// which, if it knows any.
    ///
    /// # Errors
    /// As [`World::ask`].
    pub async fn take_over(
        &mut self,
        i: usize,
        n: usize,
    ) -> Result<Option<Result<EndpointView, Refused>>> {
        let elsewhere = match self.ask(i, Request::Endpoints { net: None, local: false }).await? {
            Ok(Reply::Endpoints(views)) => views.into_iter().filter(|v| !v.local).collect(),
            other => bail!("endpoints: {other:?}"),
        };
        let elsewhere: Vec<EndpointView> = elsewhere;
        let Some(view) = elsewhere.get(n % elsewhere.len().max(1)) else { return Ok(None) };
        let Some(net) = &view.network else { return Ok(None) };
        let request = Attach {
            take_over: true,
            keep_ip: false,
            reserved: false,
            mac: Some(view.endpoint.mac),
            ips: view.endpoint.addresses.clone(),
            ..self.new_namespace(i, net.name.as_str())
        };
        let request = Request::Attach(request);
        attached(self.ask(i, request).await?).map(Some)
    }

    /// Lifts all that is frozen anywhere.
    ///
    /// # Errors
    /// As [`World::ask`].
    pub async fn thaw_all(&self) -> Result<()> {
        for i in (0..self.len()).filter(|i| self.runs(*i)) {
            let Ok(Reply::Status(status)) = self.ask(i, Request::Status).await? else {
                bail!("no status of host {i}");
            };
            for what in status.frozen.iter().filter_map(|frozen| frozen.what.first()) {
                let thaw = Request::Thaw { what: what.clone(), net: None };
                let _ = self.ask(i, thaw).await?;
            }
        }
        Ok(())
    }

    /// Attaches a new namespace on each of `hosts`, all at once; says which
    /// were refused.
    ///
    /// # Errors
    /// As [`World::ask`].
    pub async fn attach_all(&mut self, hosts: &[usize], net: &str) -> Result<Vec<usize>> {
        let requests: Vec<_> =
            hosts.iter().map(|i| (*i, Request::Attach(self.new_namespace(*i, net)))).collect();
        let world = &*self;
        let asked = requests.into_iter().map(async |(i, request)| {
            let reply = attached(world.ask(i, request).await?)?;
            anyhow::Ok(reply.is_err().then_some(i))
        });
        let refused = futures::future::try_join_all(asked).await?;
        Ok(refused.into_iter().flatten().collect())
    }

    fn new_namespace(&mut self, i: usize, net: &str) -> Attach {
        self.next_netns += 1;
        let path: std::path::PathBuf = format!("/run/netns/{}", self.next_netns).into();
        lock(&self.hosts[i].machine).kernel.netns.insert(path.clone());
        Attach {
            net: net.to_owned(),
            place: Where::Netns {
                netns: NetnsRef { path, cookie: self.next_netns },
                taken_ifnames: BTreeSet::new(),
                ifname: None,
                default_route: true,
                no_dns: false,
            },
            ips: Vec::new(),
            mac: None,
            name: None,
            aliases: BTreeSet::new(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            take_over: false,
            keep_ip: false,
            reserved: false,
            foreign: Foreign::default(),
        }
    }

    /// Detaches an endpoint of host `i`, by id.
    ///
    /// # Errors
    /// As [`World::ask`].
    pub async fn detach(&self, i: usize, id: &str) -> Result<Result<(), Refused>> {
        let request = Request::Detach { target: id.to_owned(), net: None };
        Ok(self.ask(i, request).await?.map(drop))
    }

    /// Ids of the endpoints that host `i` has on its disk.
    pub fn endpoints_of(&self, i: usize) -> Vec<String> {
        lock(&self.hosts[i].machine).disk.endpoints.keys().map(ToString::to_string).collect()
    }

    /// What host `i` told operators since `since`.
    pub fn told(&self, i: usize, since: Duration) -> Vec<(Duration, Notice)> {
        let machine = lock(&self.hosts[i].machine);
        machine.told.iter().filter(|(at, _)| *at >= since).cloned().collect()
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    // ----- what must hold --------------------------------------------------

    /// No address is on two endpoints of a network.
    ///
    /// # Errors
    /// Names the first that is.
    pub fn no_address_twice(&self) -> Result<()> {
        self.unique(|_| true)
    }

    /// No address was given to two endpoints of a network. One that was taken
    /// over does not count: an owner that could not hear of that, and on which
    /// the former endpoint was detached, may have given it once more.
    ///
    /// # Errors
    /// Names the first that was.
    pub fn no_address_given_twice(&self) -> Result<()> {
        self.unique(|endpoint| endpoint.move_seq == 0)
    }

    fn unique(&self, counts: impl Fn(&overlay_model::Endpoint) -> bool) -> Result<()> {
        let mut seen = BTreeMap::new();
        for (i, host) in self.hosts.iter().enumerate() {
            let machine = lock(&host.machine);
            let here = machine.disk.endpoints.values().filter(|local| local.moved.is_none());
            for local in here.filter(|local| counts(&local.endpoint)) {
                for ip in &local.endpoint.addresses {
                    if let Some(other) = seen.insert((local.endpoint.network, *ip), i) {
                        bail!("{ip} is on hosts {other} and {i}");
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until every daemon that runs has in its kernel exactly what follows
    /// from the endpoints of those that run, and says how long it took.
    ///
    /// # Errors
    /// The first difference, if it is there still after `patience`.
    pub async fn converge(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            match self.differences() {
                None => return Ok(start.elapsed()),
                Some(what) if start.elapsed() > patience => {
                    bail!("not within {patience:?}: {what}");
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// The first network that two hosts have different definitions of.
    fn unlike(&self) -> Option<String> {
        let mut seen: BTreeMap<NetworkId, (usize, Network)> = BTreeMap::new();
        for (i, host) in self.hosts.iter().enumerate().filter(|(_, h)| h.daemon.is_some()) {
            for (id, network) in lock(&host.machine).disk.networks.clone() {
                let (first, known) = seen.entry(id).or_insert_with(|| (i, network.clone()));
                if *known != network {
                    return Some(format!("{first} has {known:?}, {i} has {network:?}"));
                }
            }
        }
        None
    }

    /// The first difference between two hosts' definitions of a network, or
    /// between a kernel and what should be in it.
    pub fn differences(&self) -> Option<String> {
        if let Some(what) = self.unlike() {
            return Some(what);
        }
        // What each network has where.
        let mut truth: BTreeMap<u32, Vec<(usize, overlay_model::Endpoint)>> = BTreeMap::new();
        // Where a port of each stands, be it of one that has moved away.
        let mut users: BTreeSet<(u32, usize)> = BTreeSet::new();
        for (i, host) in self.hosts.iter().enumerate().filter(|(_, h)| h.daemon.is_some()) {
            let machine = lock(&host.machine);
            for local in machine.disk.endpoints.values() {
                let network = machine.disk.networks.get(&local.endpoint.network)?;
                users.insert((network.vni.get(), i));
                if local.moved.is_none() {
                    truth.entry(network.vni.get()).or_default().push((i, local.endpoint.clone()));
                }
            }
        }
        for (i, host) in self.hosts.iter().enumerate().filter(|(_, h)| h.daemon.is_some()) {
            let machine = lock(&host.machine);
            let mut wanted: BTreeSet<String> = BTreeSet::new();
            for (vni, endpoints) in &truth {
                if !users.contains(&(*vni, i)) {
                    continue;
                }
                for (at, ep) in endpoints {
                    if *at != i {
                        wanted.insert(format!("{vni} {} via {}", ep.mac, address(*at)));
                        wanted.insert(format!("{vni} flood {}", address(*at)));
                    }
                    for ip in &ep.addresses {
                        wanted.insert(format!("{vni} {ip} is {}", ep.mac));
                    }
                }
            }
            let held: BTreeSet<String> =
                machine.kernel.objects().iter().filter_map(|(k, o)| brief(k, o)).collect();
            if let Some(lack) = wanted.difference(&held).next() {
                return Some(format!("{} lacks: {lack}", machine.name));
            }
            if let Some(stale) = held.difference(&wanted).next() {
                return Some(format!("{} still has: {stale}", machine.name));
            }
        }
        None
    }

    /// Hosts whose kernel has the MAC of a remote endpoint, of those that run.
    pub fn who_has(&self, mac: overlay_model::MacAddr) -> usize {
        self.hosts
            .iter()
            .filter(|host| host.daemon.is_some())
            .filter(|host| {
                let machine = lock(&host.machine);
                machine
                    .kernel
                    .objects()
                    .keys()
                    .any(|key| matches!(key, ObjectKey::VxlanFdb(_, m) if *m == mac))
            })
            .count()
    }

    /// Host `i` has the MAC.
    pub fn has(&self, i: usize, vni: overlay_model::Vni, mac: overlay_model::MacAddr) -> bool {
        let key = ObjectKey::VxlanFdb(vni.vxlan(), mac);
        lock(&self.hosts[i].machine).kernel.objects().contains_key(&key)
    }

    /// Bytes that host `i` has sent so far.
    pub fn bytes_sent(&self, i: usize) -> u64 {
        let ip: IpAddr = address(i);
        self.net.bytes_sent().get(&ip).copied().unwrap_or(0)
    }

    /// Waits until every running daemon sees every other one up.
    ///
    /// # Errors
    /// Who does not see whom, after `patience`.
    pub async fn all_up(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        let running = self.hosts.iter().filter(|h| h.daemon.is_some()).count();
        for i in (0..self.len()).filter(|i| self.runs(*i)) {
            loop {
                let up = match self.ask(i, Request::Hosts).await? {
                    Ok(Reply::Hosts(hosts)) => hosts
                        .iter()
                        .filter(|h| {
                            h.local || h.state == overlay_engine::HostState::Up && h.host.is_some()
                        })
                        .count(),
                    other => bail!("hosts: {other:?}"),
                };
                if up == running {
                    break;
                }
                ensure!(start.elapsed() < patience, "host {i} sees {up} of {running}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(start.elapsed())
    }

    /// Bad weather or good, for all.
    pub fn weather(&self, weather: Weather) {
        self.net.set_weather(weather);
    }
}

fn attached(reply: Result<Reply, Refused>) -> Result<Result<EndpointView, Refused>> {
    Ok(match reply {
        Ok(Reply::Endpoint(view)) => Ok(*view),
        Ok(other) => bail!("an attach is answered with {other:?}"),
        Err(refused) => Err(refused),
    })
}

/// An entry that other hosts decide on, as a line.
fn brief(key: &ObjectKey, object: &Object) -> Option<String> {
    let vni = |dev: &overlay_model::IfName| dev.as_str()[3..].to_owned();
    match (key, object) {
        (ObjectKey::VxlanFdb(dev, mac), Object::VxlanFdb { dst, .. }) => {
            Some(format!("{} {mac} via {dst}", vni(dev)))
        }
        (ObjectKey::Flood(dev, vtep), _) => Some(format!("{} flood {vtep}", vni(dev))),
        (ObjectKey::Neigh(dev, ip), Object::Neigh { mac, .. }) => {
            Some(format!("{} {ip} is {mac}", vni(dev)))
        }
        _ => None,
    }
}
