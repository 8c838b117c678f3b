//! Names for containers: what the engine tells of them, and the places where they are asked for.
//!
//! ```text
//!   Effect::Names ─┬─► names: overlay_dns::Names, at once
//!                  ├─► gateways: sockets at port 53 of each, at once
//!                  └─► doors of namespaces: opened and closed one after the other by a task
//! ```
//!
//! A door is opened while the rest goes on; an attach is answered when its door is open
//! ([`Resolver::opening`]). What cannot be opened is told and tried again, and costs nothing else:
//! names are still answered everywhere but there.
//!
//! Sockets in a namespace keep it (see `overlay_netlink::door`), so that of a container that has
//! died is looked for whenever a named namespace goes, and every second: nobody else would notice
//! that it is gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use overlay_api::v1;
use overlay_dns::{
    At, DoorId, HostResolvers, NameChange, NamedNetwork, Names, ResolvConf, Server, Standing,
    answer, resolv_conf, wire,
};
use overlay_engine::{EndpointView, HostState, NameNews, Place};
use overlay_model::{EndpointId, HostId, Name, NetnsRef, NetworkId, Placed};
use overlay_netlink::{DOOR, DoorError, Sockets};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::config::Settings;

/// How often namespaces are looked at that nobody may be in any more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often what could not be opened is tried again, in such looks.
const RETRY_EVERY: u32 = 5;

/// Problems of single doors that are told in full.
const TOLD: usize = 3;

/// Where named namespaces are: whoever dies there is noticed at once.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Clones are the same.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    names: Arc<Names>,
    server: Server,
    state: Mutex<State>,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<NetworkId, NamedNetwork>,
    gateways: BTreeMap<IpAddr, Gateway>,
    /// By the cookie of the namespace.
    doors: BTreeMap<u64, Door>,
    /// Which namespace an endpoint is in.
    endpoints: BTreeMap<EndpointId, u64>,
}

#[derive(Debug)]
struct Gateway {
    network: NetworkId,
    door: Option<DoorId>,
    problem: Option<String>,
}

/// 127.0.0.11 of one namespace.
#[derive(Debug)]
struct Door {
    netns: NetnsRef,
    /// Who is in it, in the order in which they were attached.
    endpoints: Vec<(EndpointId, NetworkId)>,
    open: Option<Open>,
    problem: Option<String>,
    /// Ends when it has been opened, or could not be.
    opening: Option<watch::Sender<()>>,
}

#[derive(Debug)]
struct Open {
    id: DoorId,
    inode: u64,
    /// A process that was seen in it.
    process: Option<i32>,
}

/// What takes its time in a namespace.
#[derive(Debug)]
enum Job {
    Open(NetnsRef),
    Close(NetnsRef),
}

impl Door {
    fn networks(&self) -> Vec<NetworkId> {
        let mut networks: Vec<NetworkId> = Vec::new();
        for (_, network) in &self.endpoints {
            if !networks.contains(network) {
                networks.push(*network);
            }
        }
        networks
    }
}

impl Resolver {
    /// Begins to answer; nothing is known yet. `host` is this one.
    ///
    /// # Errors
    /// If the system has no more threads or descriptors.
    pub fn start(settings: &Settings, host: HostId) -> std::io::Result<Self> {
        let names = Arc::new(Names::default());
        let own = Some(settings.name.clone());
        names.apply([NameChange::Host { host, name: own, standing: Standing::Up }]);
        let conf = ResolvConf::follow(&settings.resolv_conf);
        let settings = overlay_dns::Settings { ttl: settings.dns_ttl, resolv_conf: conf };
        let server = Server::start(settings, names.clone(), tokio::runtime::Handle::current())?;
        let (jobs, todo) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner { names, server, state: Mutex::default(), jobs });
        tokio::spawn(work(Resolver(inner.clone()), todo));
        tokio::spawn(keep_looking(Resolver(inner.clone())));
        Ok(Self(inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the engine tells.
    pub fn take_in(&self, news: Vec<NameNews>) {
        let mut changes = Vec::with_capacity(news.len());
        let mut state = self.state();
        for one in news {
            match one {
                NameNews::Network(net) => {
                    let network = NamedNetwork {
                        id: net.id,
                        name: net.name,
                        subnets: net.subnets,
                        internal: net.internal,
                    };
                    state.networks.insert(net.id, network.clone());
                    changes.push(NameChange::Network(network));
                }
                NameNews::NoNetwork(id) => {
                    state.networks.remove(&id);
                    changes.push(NameChange::NoNetwork(id));
                }
                NameNews::Endpoint { before, after } => {
                    changes.push(NameChange::Endpoint { before, after });
                }
                NameNews::Host { host, name, state } => {
                    changes.push(NameChange::Host { host, name, standing: standing(state) });
                }
                NameNews::Door { endpoint, network, netns } => {
                    self.enter(&mut state, endpoint, network, netns);
                }
                NameNews::NoDoor(endpoint) => self.leave(&mut state, endpoint),
            }
        }
        self.0.names.apply(changes);
        self.settle_gateways(&mut state, false);
    }

    fn enter(&self, state: &mut State, endpoint: EndpointId, network: NetworkId, netns: NetnsRef) {
        state.endpoints.insert(endpoint, netns.cookie);
        let door = state.doors.entry(netns.cookie).or_insert_with(|| Door {
            netns: netns.clone(),
            endpoints: Vec::new(),
            open: None,
            problem: None,
            opening: None,
        });
        door.endpoints.push((endpoint, network));
        match &door.open {
            Some(open) => self.0.server.set_networks(open.id, door.networks()),
            None if door.opening.is_none() => self.open(door),
            None => {}
        }
    }

    fn open(&self, door: &mut Door) {
        door.opening = Some(watch::Sender::new(()));
        let _ = self.0.jobs.send(Job::Open(door.netns.clone()));
    }

    fn leave(&self, state: &mut State, endpoint: EndpointId) {
        let Some(cookie) = state.endpoints.remove(&endpoint) else { return };
        let Some(door) = state.doors.get_mut(&cookie) else { return };
        door.endpoints.retain(|(id, _)| *id != endpoint);
        if !door.endpoints.is_empty() {
            if let Some(open) = &door.open {
                self.0.server.set_networks(open.id, door.networks());
            }
            return;
        }
        let Some(door) = state.doors.remove(&cookie) else { return };
        if let Some(open) = door.open {
            self.0.server.close(open.id);
        }
        let _ = self.0.jobs.send(Job::Close(door.netns));
    }

    /// A door has been opened, or could not be.
    fn opened(&self, netns: &NetnsRef, result: Result<Sockets, DoorError>) {
        let mut state = self.state();
        // Who has gone meanwhile: its closing is the next job.
        let Some(door) = state.doors.get_mut(&netns.cookie) else { return };
        door.opening = None;
        let opened = result.map_err(|err| text_of(&err)).and_then(|sockets| {
            let Sockets { udp, tcp, inode } = sockets;
            let id = self.0.server.open(At::Namespace, door.networks(), udp, Some(tcp));
            let id = id.map_err(|err| format!("cannot wait for questions: {err}"))?;
            Ok(Open { id, inode, process: None })
        });
        match opened {
            Ok(open) => {
                if let Some(was) = door.problem.take() {
                    info!("no longer so: {was}");
                }
                door.open = Some(open);
            }
            Err(why) => {
                let why = format!("no names in {}: {why}", netns.path.display());
                if door.problem.as_ref() != Some(&why) {
                    warn!("{why}");
                }
                door.problem = Some(why);
            }
        }
    }

    /// Ends when the door of an endpoint is open, or could not be opened; `None` if there is
    /// nothing to wait for.
    pub fn opening(&self, endpoint: EndpointId) -> Option<impl Future<Output = ()> + use<>> {
        let state = self.state();
        let door = state.doors.get(state.endpoints.get(&endpoint)?)?;
        let mut opening = door.opening.as_ref()?.subscribe();
        Some(async move {
            // It never changes, and ends with what is waited for.
            while opening.changed().await.is_ok() {}
        })
    }

    /// What belongs into the `resolv.conf` of an endpoint of this host; `None` if it is not to
    /// ask here, or is not attached.
    pub fn resolv_conf(&self, view: &EndpointView) -> Option<String> {
        let endpoint = &view.endpoint;
        let state = self.state();
        let network = state.networks.get(&endpoint.network)?;
        let of_door = state.endpoints.get(&endpoint.id).and_then(|cookie| state.doors.get(cookie));
        let named = |id: &NetworkId| state.networks.get(id).map(|net| net.name.as_str());
        let (servers, ids) = match (&view.place, of_door) {
            (Some(Place::Netns { no_dns: false, .. }), Some(door)) if door.problem.is_none() => {
                (vec![IpAddr::from(DOOR)], door.networks())
            }
            (Some(Place::Netns { no_dns: true, .. }) | None, _) => return None,
            // Of an endpoint that has been detached there is no name.
            (Some(Place::Netns { .. }), None) => return None,
            (Some(_), _)
                if !is_named(
                    &self.0.names,
                    endpoint.network,
                    &view.endpoint.id,
                    &endpoint.addresses,
                ) =>
            {
                return None;
            }
            // Whoever is not in a namespace asks at the gateway.
            (Some(_), _) => {
                let families: Vec<bool> = endpoint.addresses.iter().map(IpAddr::is_ipv6).collect();
                let gateways = network.subnets.iter().map(|subnet| subnet.gateway);
                let gateways = gateways.filter(|ip| families.contains(&ip.is_ipv6()));
                (gateways.filter(|_| !network.internal).collect(), vec![endpoint.network])
            }
        };
        if servers.is_empty() {
            return None;
        }
        let networks: Vec<&str> = ids.iter().filter_map(named).collect();
        let internal =
            ids.iter().all(|id| state.networks.get(id).is_none_or(|network| network.internal));
        let host = self.0.server.resolv_conf().now();
        let search: &[String] = if internal { &[] } else { &host.search };
        Some(resolv_conf::write(&servers, &networks, search))
    }

    /// Opens what is wanted of gateways and closes what is not; what could not be had before is
    /// tried again with `again`.
    fn settle_gateways(&self, state: &mut State, again: bool) {
        let wanted: BTreeMap<IpAddr, NetworkId> = state
            .networks
            .values()
            .filter(|network| !network.internal)
            .flat_map(|network| network.subnets.iter().map(|subnet| (subnet.gateway, network.id)))
            .collect();
        state.gateways.retain(|ip, gateway| {
            let stays = wanted.get(ip) == Some(&gateway.network);
            if let (false, Some(door)) = (stays, gateway.door) {
                self.0.server.close(door);
            }
            stays
        });
        for (ip, network) in wanted {
            let known = state.gateways.get(&ip);
            if known.is_some_and(|gateway| gateway.problem.is_none() || !again) {
                continue;
            }
            let before = state.gateways.remove(&ip).unwrap_or(Gateway {
                network,
                door: None,
                problem: None,
            });
            // What there is of it is in the way of the whole.
            if let Some(door) = before.door {
                self.0.server.close(door);
            }
            let (door, problem) = self.open_gateway(ip, network);
            match (&before.problem, &problem) {
                (was, Some(why)) if was.as_ref() != Some(why) => warn!("{why}"),
                (Some(was), None) => info!("no longer so: {was}"),
                _ => {}
            }
            state.gateways.insert(ip, Gateway { network, door, problem });
        }
    }

    fn open_gateway(&self, ip: IpAddr, network: NetworkId) -> (Option<DoorId>, Option<String>) {
        let held = |by_tcp: bool, err: &std::io::Error| {
            let by = overlay_netlink::port_holder(53, by_tcp);
            let by = by.map(|by| format!(", which {by} has at all addresses")).unwrap_or_default();
            let what = if by_tcp { "long answers" } else { "names" };
            let protocol = if by_tcp { "TCP" } else { "UDP" };
            format!(
                "no {what} at the gateway {ip}: {protocol} port 53{by} cannot be had ({err}); tell \
                 that to listen at its own addresses only (dnsmasq: bind-interfaces); containers \
                 that ask 127.0.0.11 are not concerned"
            )
        };
        match overlay_netlink::gateway_sockets(ip) {
            Ok((udp, tcp)) => {
                let problem = tcp.as_ref().err().map(|err| held(true, err));
                match self.0.server.open(At::Gateway(ip), vec![network], udp, tcp.ok()) {
                    Ok(door) => (Some(door), problem),
                    Err(err) => (None, Some(format!("no names at the gateway {ip}: {err}"))),
                }
            }
            Err(err) => (None, Some(held(false, &err))),
        }
    }

    /// Closes the doors of namespaces that nobody is in.
    fn look(&self) {
        let mut state = self.state();
        for door in state.doors.values_mut() {
            let Some(open) = &mut door.open else { continue };
            let there = std::fs::metadata(&door.netns.path).map(|meta| meta.ino());
            let named = there.is_ok_and(|inode| inode == open.inode);
            if !named && !overlay_netlink::is_used(open.inode, &mut open.process) {
                debug!(netns = %door.netns.path.display(), "nobody is in it any more");
                self.0.server.close(open.id);
                door.open = None;
            }
        }
    }

    /// Tries again what could not be had.
    fn retry(&self) {
        let mut state = self.state();
        for door in state.doors.values_mut() {
            let idle = door.open.is_none() && door.opening.is_none();
            if idle
                && overlay_netlink::netns_of(&door.netns.path).is_ok_and(|now| now == door.netns)
            {
                self.open(door);
            }
        }
        if state.gateways.values().any(|gateway| gateway.problem.is_some()) {
            self.settle_gateways(&mut state, true);
        }
    }

    fn is_idle(&self) -> bool {
        let state = self.state();
        state.doors.is_empty() && state.gateways.values().all(|gateway| gateway.problem.is_none())
    }

    // ----- what is shown ---------------------------------------------------

    /// What an operator should know, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let state = self.state();
        let doors: Vec<&String> = state.doors.values().filter_map(|d| d.problem.as_ref()).collect();
        let gateways = state.gateways.values().filter_map(|gateway| gateway.problem.clone());
        let mut warnings: Vec<String> = gateways.collect();
        warnings.extend(doors.iter().take(TOLD).map(ToString::to_string));
        if doors.len() > TOLD {
            let more = doors.len() - TOLD;
            warnings.push(format!("no names in {more} more namespaces: see overlayctl dns"));
        }
        warnings
    }

    /// Counters, by name.
    pub fn counters(&self) -> impl Iterator<Item = (String, u64)> {
        let all = self.0.server.counters().all();
        all.into_iter().map(|(name, n)| (format!("dns_{name}"), n))
    }

    /// Where is answered, from what, and whom others are asked.
    pub fn show(&self) -> v1::Dns {
        let state = self.state();
        let book = self.0.names.read();
        let name_of = |id: &NetworkId| {
            state.networks.get(id).map_or_else(|| id.to_string(), |net| net.name.to_string())
        };
        let networks = state.networks.values().map(|net| v1::NamedNetwork {
            net: net.name.to_string(),
            names: book.zone(net.id).map_or(0, overlay_dns::zone::Zone::len),
            forwards: !net.internal,
        });
        let gateways = state.gateways.iter().map(|(ip, gateway)| v1::DnsDoor {
            at: ip.to_string(),
            nets: vec![name_of(&gateway.network)],
            open: gateway.door.is_some(),
            problem: gateway.problem.clone(),
        });
        let doors = state.doors.values().map(|door| v1::DnsDoor {
            at: door.netns.path.display().to_string(),
            nets: door.networks().iter().map(name_of).collect(),
            open: door.open.is_some(),
            problem: door.problem.clone(),
        });
        let HostResolvers { search, .. } = &*self.0.server.resolv_conf().now();
        let networks = networks.collect();
        let doors = gateways.chain(doors).collect();
        drop((state, book));
        v1::Dns {
            answering: true,
            domain: overlay_dns::DOMAIN.to_owned(),
            ttl_s: self.0.server.ttl(),
            networks,
            doors,
            resolv_conf: self.0.server.resolv_conf().path().display().to_string(),
            resolvers: self.0.server.upstream().iter().map(ToString::to_string).collect(),
            search: search.clone(),
            under_way: self.0.server.under_way(),
            counters: self
                .0
                .server
                .counters()
                .all()
                .into_iter()
                .map(|(k, n)| (k.into(), n))
                .collect(),
        }
    }

    /// What would be answered to those who ask for `name` on each network that this host uses, or
    /// on the one called `net`.
    ///
    /// # Errors
    /// If this host does not use it, or `name` is none.
    pub fn look_up(&self, name: &str, net: Option<&str>) -> Result<v1::Looked, v1::Error> {
        let networks: Vec<(NetworkId, Name)> = {
            let state = self.state();
            let all = state.networks.values().map(|network| (network.id, network.name.clone()));
            let is_asked = |id: &NetworkId, name: &Name| {
                net.is_none_or(|net| name.as_str() == net || id.to_string() == net)
            };
            all.filter(|(id, name)| is_asked(id, name)).collect()
        };
        if let (Some(net), true) = (net, networks.is_empty()) {
            return Err(v1::Error::new(
                v1::ErrorCode::NotFound,
                format!(
                    "this host does not use a network {net}, so nobody here asks for its names"
                ),
            )
            .with_hint("ask on a host that has an endpoint on it: overlayctl endpoints"));
        }
        if wire::question(0, name, wire::RecordType::A).is_none() {
            return Err(v1::Error::new(
                v1::ErrorCode::InvalidRequest,
                format!(
                    "`{name}` is no name: labels of up to 63 bytes with dots between, 253 in all"
                ),
            ));
        }
        let book = self.0.names.read();
        let answers = networks.iter().filter_map(|(id, net)| {
            let told = answer::explain(&book, *id, name)?;
            Some(v1::DnsAnswer {
                net: net.to_string(),
                code: wire::mnemonic(told.code),
                forwarded: told.forward,
                answers: told.answers,
                holders: told.holders.into_iter().map(holder).collect(),
            })
        });
        Ok(v1::Looked { name: name.to_owned(), answers: answers.collect() })
    }
}

fn holder(holder: answer::Holder) -> v1::DnsHolder {
    v1::DnsHolder {
        endpoint: holder.endpoint.to_string(),
        name: holder.name.map(String::from),
        by_alias: holder.by_alias,
        host: holder.host,
        host_state: holder.standing.as_str().to_owned(),
        answered: holder.standing != Standing::Out,
        ips: holder.addresses,
    }
}

fn is_named(names: &Names, network: NetworkId, id: &EndpointId, ips: &[IpAddr]) -> bool {
    let book = names.read();
    let Some(zone) = book.zone(network) else { return false };
    let is_it = |placed: &Placed| placed.endpoint.id == *id;
    ips.iter().any(|ip| zone.at(*ip).any(is_it))
}

fn standing(state: HostState) -> Standing {
    match state {
        // A daemon that stops in good order takes no container along.
        HostState::Up | HostState::Stopped => Standing::Up,
        HostState::Suspect => Standing::Suspect,
        HostState::Down | HostState::Left => Standing::Out,
    }
}

/// What went wrong, and each cause of it.
fn text_of(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |err| err.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Opens and closes doors, one after the other: a namespace that is detached and attached again
/// is closed before it is opened.
async fn work(resolver: Resolver, mut todo: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = todo.recv().await {
        let resolver = resolver.clone();
        let done = tokio::task::spawn_blocking(move || match job {
            Job::Open(netns) => {
                let sockets = overlay_netlink::open_door(&netns);
                resolver.opened(&netns, sockets);
            }
            Job::Close(netns) => {
                if let Err(err) = overlay_netlink::close_door(&netns) {
                    warn!("the rules of a door are left behind: {}", text_of(&err));
                }
            }
        });
        if let Err(err) = done.await {
            warn!("a door could not be seen to: {err}");
        }
    }
}

/// The directories of named namespaces.
struct Watched {
    inotify: Inotify,
    /// The same, to wait for.
    news: pipe::Receiver,
}

impl Watched {
    fn new() -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // It is read as a pipe is.
        let same = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self { inotify, news: pipe::Receiver::from_owned_fd_unchecked(same)? })
    }

    /// Whoever makes the first namespace makes the directory: to be called again and again.
    fn watch(&self) {
        for dir in NAMED {
            let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            let _ = self.inotify.add_watch(dir, gone);
        }
    }

    async fn something_is_gone(&self) {
        let mut buffer = [0; 4096];
        if self.news.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
        // What it was does not matter; at most as many as a queue holds.
        for _ in 0..1024 {
            if self.news.try_read(&mut buffer).is_err() {
                break;
            }
        }
    }
}

/// Looks for namespaces that nobody is in, and tries again what could not be opened.
async fn keep_looking(resolver: Resolver) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let watched = Watched::new();
    for n in 0u32.. {
        if let Ok(watched) = &watched {
            watched.watch();
        }
        let gone = async {
            match &watched {
                Ok(watched) => watched.something_is_gone().await,
                // Every second is enough.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tick.tick() => {}
            () = gone => {}
        }
        if resolver.is_idle() {
            continue;
        }
        let resolver = resolver.clone();
        let again = n.is_multiple_of(RETRY_EVERY);
        let looked = tokio::task::spawn_blocking(move || {
            resolver.look();
            if again {
                resolver.retry();
            }
        });
        if let Err(err) = looked.await {
            warn!("looking at namespaces failed: {err}");
        }
    }
}
