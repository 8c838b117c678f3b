//! The shell: all I/O around the engine, in one loop.
//!
//! ```text
//!  control socket ─┐                                   ┌─► kernel task
//!  gossip ─────────┼─► Input ─► Engine::step ─► Effect ┼─► state file (at once)
//!  kernel task ────┤                                   ├─► gossip
//!  signals, timer ─┘                                   └─► replies, log
//! ```
//!
//! One loop, so that the order of events is one order. The state file is
//! written in the loop: what it says stands before anything that follows from
//! it goes out. Looking things up for a request (a namespace, foreign devices)
//! happens in tasks of their own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use overlay_api::v1;
use overlay_engine::{
    Config, Effect, EndpointView, Event, Level, LocalEndpoint, Lost, Notice, Now, Place, PlanId,
    Reply, Request, Restored, Token,
};
use overlay_gossip::{Gossip, GossipConfig};
use overlay_model::{ApplyReport, ClusterEvent, EndpointId, IfName, KernelChange};
use overlay_netlink::{Home, Kernel, NetnsError, Underlay, UnderlayError};
use overlay_plugins::docker::Plugin;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::config::Settings;
use crate::convert::comma_separated;
use crate::events::Hub;
use crate::journal::Recorded;
use crate::kernel_task::{self, Work};
use crate::key_file::KeyFile;
use crate::keys::{KeyRequest, Keys};
use crate::ports::Ports;
use crate::resolver::Resolver;
use crate::state::{StateChange, StateFile};
use crate::surroundings::Surroundings;
use crate::{control_socket, convert};

/// How long the cluster is given to hear that this host stops or leaves.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often the peers of now are noted, for a start when none of `--join` is up.
const NOTE_PEERS: Duration = Duration::from_secs(10);

/// How long the peers at a lost address are told to forget it: there is hardly
/// a way to tell them.
const HASTY_FAREWELL: Duration = Duration::from_millis(50);

/// What chitchat calls every cluster. The key keeps clusters apart; this stands
/// in every question and is short.
const CLUSTER: &str = "o";

/// How often gossip is tried at an address that it cannot have yet.
const REJOIN_EVERY: Duration = Duration::from_millis(200);

/// Inputs that are taken in before gossip, timer and signals get their turn.
const AT_ONCE: usize = 64;

/// How long an attach waits for its door at most; names are answered later then.
const DOOR_PATIENCE: Duration = Duration::from_secs(2);

/// Where a request's answer goes.
pub type Answer = oneshot::Sender<Result<Vec<u8>, v1::Error>>;

/// Everything that can happen to the daemon.
#[derive(Debug)]
pub enum Input {
    /// Somebody asks through the socket.
    Request {
        /// What.
        request: Box<Request>,
        /// What the kernel holds that is not ours has been filled in.
        looked: bool,
        /// Where the answer goes.
        reply: Answer,
    },
    /// Somebody asks about keys.
    Keys {
        /// What.
        request: KeyRequest,
        /// Where the answer goes.
        reply: Answer,
    },
    /// The kernel told something.
    Kernel(KernelChange),
    /// A plan was carried out.
    Applied {
        /// Which.
        plan: PlanId,
        /// How it went.
        report: ApplyReport,
    },
}

struct Clock {
    start: Instant,
}

impl Clock {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono: self.start.elapsed(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Runs the daemon until it is told to stop or has left the cluster; gossip
/// with all its tasks on a runtime of its own.
///
/// # Errors
/// Whatever keeps it from starting: each says what to do.
pub async fn run(settings: Settings, gossip_on: &Handle) -> anyhow::Result<()> {
    require_root()?;
    let underlay = overlay_netlink::underlay_for(&settings.underlay())
        .await
        .context("cannot tell which address VXLAN packets come to")?;
    let keys = match &settings.key_file {
        Some(path) => {
            let (file, ring) = KeyFile::open(path)?;
            Some(Keys { file, ring: Arc::new(ring) })
        }
        None => None,
    };
    if !settings.outer.checksum
        && let Some(addr) = underlay.addrs().find(IpAddr::is_ipv6)
    {
        bail!(
            "vxlan-checksum=false needs IPv4 VTEPs: this one is {addr}, and over IPv6 the other \
             hosts drop packets without a checksum (RFC 8200 section 8.1); leave it true"
        );
    }
    let advertise = settings.gossip_advertise(underlay.addr);
    let listen = settings.gossip_listen(underlay.addr, has_address);
    let vteps: Vec<IpAddr> = underlay.addrs().collect();
    let listen_also = settings.gossip_listen_also(listen, &vteps);
    if keys.is_none()
        && !settings.insecure
        && let Some(listen) =
            std::iter::once(listen).chain(listen_also).find(|addr| !addr.ip().is_loopback())
    {
        bail!(
            "gossip on {listen} would be open to everybody there: make a key with (umask 077; \
             overlayd keygen > /etc/overlayd/key), give it to every host of the cluster, and say \
             --key-file /etc/overlayd/key; or do without, with --insecure"
        );
    }
    // Needed only where nothing in the directory says who this host is.
    let former = if StateFile::lacks_host_id(&settings.state_dir) {
        overlay_netlink::former_host().await.context("cannot read the links of this host")?
    } else {
        None
    };
    let (state, found) = StateFile::open_as(&settings.state_dir, former)?;
    let state = Arc::new(state);
    let aside = found.damaged.as_ref().map(|aside| aside.display());
    if found.rebuilt {
        warn!(
            aside = aside.map(tracing::field::display),
            networks = found.networks.len(),
            endpoints = found.endpoints.len(),
            "the state file was damaged or missing, and has been written anew from its copy: \
             nothing is lost"
        );
    } else if found.lost_ms.is_some() {
        warn!(
            aside = aside.map(tracing::field::display),
            host = %found.host,
            "the state file was damaged or missing, and there is no copy of it: what this host had \
             is looked for in the kernel and at the other hosts; until all of them have been heard \
             it gives out no address of the networks of before"
        );
    }
    let lost = match found.lost_ms {
        Some(at_ms) => Some(Lost { at_ms, homes: homes().await? }),
        None => None,
    };
    // The socket before anything that changes the world: a second daemon ends here.
    let listener = control_socket::bind(&settings.socket)?;

    // Whatever ends this function takes the socket's file along.
    let _socket_file = SocketFile(settings.socket.clone());
    let docker = docker(&settings)?;

    let clock = Clock { start: Instant::now() };
    let config = Config {
        host: found.host,
        incarnation: found.incarnation,
        name: settings.name.clone(),
        vteps,
        dual: settings.dual(),
        underlay_dev: underlay.dev.clone(),
        other_dev: underlay.devs().nth(1).cloned(),
        underlay_mtu: underlay.mtu,
        vxlan_port: settings.vxlan_port,
        outer: settings.outer,
        gossip: advertise,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: keys.as_ref().map(|keys| keys.ring.ids()).unwrap_or_default(),
        boot_id: found.boot_id,
        down_after: settings.down_after,
        down_grace: settings.down_grace,
        stop_grace: settings.stop_grace,
        alone_after: settings.alone_after,
        forget_after: settings.forget_after,
        leak_grace: settings.leak_grace,
        host_access: settings.host_access.clone(),
        state_dir: settings.state_dir.display().to_string(),
    };
    let restored = Restored {
        gone: gone(&found.endpoints, &config.boot_id),
        networks: found.networks,
        endpoints: found.endpoints,
        ring: found.ring,
        members: found.members,
        fates: found.fates,
        contact_ms: found.contact_ms,
        drained: found.drained,
        kept: found.kept,
        services: found.services,
        lost,
    };
    info!(
        host = %config.host,
        name = %config.name,
        vtep = comma_separated(&config.vteps),
        dev = %underlay.dev,
        mtu = underlay.mtu,
        gossip = %listen,
        gossip_also = listen_also.map(tracing::field::display),
        networks = restored.networks.len(),
        endpoints = restored.endpoints.len(),
        "overlayd {} starts",
        config.version
    );

    match &keys {
        Some(keys) => {
            info!(keys = ?keys.ring.ids().ids, "gossip is sealed with the first of these")
        }
        None => {
            warn!("gossip is not sealed: whoever reaches {listen} can read and write everything")
        }
    }

    let wrong = underlay.devs().find_map(overlay_netlink::broken_tx_checksum);
    if let (None, Some(why)) = (settings.tx_checksum, &wrong) {
        warn!(
            "checksums of what VXLAN carries are written by the kernel, not by the network card: \
             {why}; vxlan-tx-checksum=on trusts the card, off says that this is meant"
        );
    }
    let tx_checksum = settings.tx_checksum.or(wrong.map(|_| false));
    let (kernel, changes) =
        Kernel::open_with(tx_checksum).await.context("cannot talk to the kernel")?;
    let mut engine = Recorded::new(
        config,
        restored,
        clock.now(),
        settings.journal.as_deref(),
        settings.journal_limit,
    )?;
    let gossip = GossipConfig {
        host: found.host,
        incarnation: found.incarnation,
        next_incarnation: incarnations(&state),
        listen,
        listen_also,
        advertise,
        join: settings
            .join
            .iter()
            .cloned()
            .chain(found.peers.iter().map(ToString::to_string))
            .collect(),
        cluster: CLUSTER.to_owned(),
        interval: settings.gossip_interval,
        dead_grace: Duration::from_secs(15 * 60),
        keys: keys.as_ref().map(|keys| keys.ring.clone()),
        mtu: underlay.mtu,
    };
    let joined = gossip.clone();
    let (gossip, news) = gossip_on
        .spawn(Gossip::start(gossip, engine.own_records()))
        .await?
        .with_context(|| format!("cannot gossip on {listen}"))?;

    let (inputs, queue) = mpsc::unbounded_channel();
    let (work, todo) = mpsc::unbounded_channel();
    let (ending, ended) = watch::channel(false);
    tokio::spawn(kernel_task::run(kernel.clone(), changes, todo, inputs.clone()));
    let events = Hub::new(found.incarnation);
    let surroundings = Surroundings::default();
    let ports = Ports::default();
    let resolver = settings.dns.then(|| Resolver::start(&settings, found.host)).transpose();
    let resolver = resolver.context("cannot start the resolver")?;
    let server = control_socket::serve(
        listener,
        inputs.clone(),
        events.clone(),
        surroundings.clone(),
        ports.clone(),
        resolver.clone(),
        wait_for(ended),
    );
    let server = tokio::spawn(server);
    let (_docker_file, docker) = docker.unzip();
    if let Some((listener, plugin)) = docker {
        let (asked, socket) = (plugin.clone(), settings.docker_socket.clone());
        tokio::spawn(async move { overlay_plugins::docker::follow(&asked, &socket).await });
        tokio::spawn(plugin.serve(listener, wait_for(ending.subscribe())));
    }
    tokio::spawn(surroundings.clone().keep_looking());

    let follow = overlay_netlink::follow_underlay(settings.underlay(), underlay)
        .context("cannot follow the underlay")?;
    let mut shell = Shell {
        engine,
        clock,
        state,
        settings,
        gossip: Some(gossip),
        gossip_on: gossip_on.clone(),
        news,
        joined,
        rejoin_at: None,
        cannot_rejoin: false,
        former_stats: BTreeMap::new(),
        keys,
        kernel,
        work,
        inputs,
        events: events.clone(),
        surroundings,
        ports,
        resolver,
        answers: BTreeMap::new(),
        last_token: 0,
        noted_peers: found.peers,
        last_peers: Vec::new(),
        leaving: false,
        ready: false,
    };
    shell.run_loop(queue, follow).await?;

    let told = match shell.gossip.take() {
        Some(gossip) => gossip.stop(FAREWELL).await,
        None => 0,
    };
    info!(told, "overlayd ends; forwarding stays in place");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    events.end();
    let _ = ending.send(true);
    // Answers that are under way, bounded: an idle keep-alive connection must not hold us.
    let _ = tokio::time::timeout(Duration::from_millis(200), server).await;
    Ok(())
}

/// Where dockerd asks, and who answers it.
type DockerDoor = (SocketFile, (UnixListener, Arc<Plugin>));

fn docker(settings: &Settings) -> anyhow::Result<Option<DockerDoor>> {
    let Some(path) = &settings.docker_plugin else { return Ok(None) };
    let file = settings.state_dir.join("docker.json");
    let plugin = Plugin::new(&settings.socket, &file);
    let plugin = plugin.with_context(|| format!("cannot read {}", file.display()))?;
    let listener = control_socket::bind_for_root(path)
        .context("cannot be a plugin of Docker: is docker-plugin in the settings right?")?;
    Ok(Some((SocketFile(path.clone()), (listener, Arc::new(plugin)))))
}

/// Where the veths of this host lead.
async fn homes() -> anyhow::Result<Vec<(EndpointId, Place)>> {
    let homes = overlay_netlink::homes().await.context("cannot read the links of this host")?;
    let place = |home: Home| Place::Netns {
        netns: home.netns,
        ifname: home.ifname,
        default_route: home.default_route,
        no_dns: false,
    };
    Ok(homes.into_iter().map(|(id, home)| (id, place(home))).collect())
}

/// # Errors
/// For anybody else than root.
pub fn require_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "overlayd must be root: it makes and removes network devices; start it with \
             sudo, or with systemctl start overlayd"
        );
    }
    Ok(())
}

/// The control socket's file, gone when the daemon is.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.0) {
            debug!("cannot remove {}: {err}", self.0.display());
        }
    }
}

/// True if a device of this host has `ip`.
fn has_address(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// The endpoints that cannot come back: their port is not there, and neither is
/// the namespace to make it in. While the port is there so is its other end,
/// whatever became of the path that the namespace had. A device is the same one
/// while it has its index.
fn gone(endpoints: &[LocalEndpoint], boot_id: &str) -> BTreeSet<EndpointId> {
    let index_of = |name: &IfName| nix::net::if_::if_nametoindex(name.as_str()).ok();
    let is_gone = |local: &LocalEndpoint| match &local.place {
        Place::Netns { netns, .. } => {
            index_of(&local.endpoint.id.ifname()).is_none()
                && match overlay_netlink::netns_of(&netns.path) {
                    Ok(now) => now != *netns,
                    Err(err) => matches!(
                        err,
                        NetnsError::NotFound(_) | NetnsError::NotANetns(_) | NetnsError::Own(_)
                    ),
                }
        }
        Place::Device { ifname, index, .. } => index_of(ifname) != Some(*index),
        Place::Static => false,
    };
    endpoints
        .iter()
        .filter(|local| local.boot_id == boot_id && is_gone(local))
        .map(|local| local.endpoint.id)
        .collect()
}

async fn wait_for(mut ended: watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

/// What gossip asks for when it has to begin a new life by itself.
fn incarnations(state: &Arc<StateFile>) -> overlay_gossip::NextIncarnation {
    let state = Arc::clone(state);
    Arc::new(move || {
        state.next_incarnation().unwrap_or_else(|err| {
            // The wall clock still grows; a repeat would lose our records.
            error!("cannot write the next incarnation: {err}");
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)
        })
    })
}

struct Shell {
    engine: Recorded,
    clock: Clock,
    state: Arc<StateFile>,
    settings: Settings,
    /// None while it is between two addresses.
    gossip: Option<Gossip>,
    /// Where it runs.
    gossip_on: Handle,
    news: mpsc::UnboundedReceiver<ClusterEvent>,
    /// With what gossip was started last, or will be.
    joined: GossipConfig,
    /// Gossip is to begin anew, at the addresses of `joined`.
    rejoin_at: Option<Instant>,
    cannot_rejoin: bool,
    /// What gossip counted before it began anew.
    former_stats: BTreeMap<&'static str, u64>,
    keys: Option<Keys>,
    kernel: Kernel,
    work: mpsc::UnboundedSender<Work>,
    inputs: mpsc::UnboundedSender<Input>,
    events: Hub,
    surroundings: Surroundings,
    ports: Ports,
    /// None if containers are answered no names.
    resolver: Option<Resolver>,
    answers: BTreeMap<Token, Answer>,
    last_token: Token,
    noted_peers: Vec<SocketAddr>,
    /// Who was there when gossip ended last.
    last_peers: Vec<SocketAddr>,
    leaving: bool,
    ready: bool,
}

impl Shell {
    async fn run_loop(
        &mut self,
        mut queue: mpsc::UnboundedReceiver<Input>,
        mut underlay: mpsc::UnboundedReceiver<Result<Underlay, UnderlayError>>,
    ) -> anyhow::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut note_peers = tokio::time::interval(NOTE_PEERS);
        loop {
            let deadline = self.engine.next_deadline().map(|at| self.clock.start + at);
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let rejoin_at = self.rejoin_at.unwrap_or_else(Instant::now);
            tokio::select! {
                input = queue.recv() => {
                    self.take_in(input.context("the shell keeps a sender")?).await;
                    // The kernel tells of entries by the hundred thousand.
                    for _ in 0..AT_ONCE {
                        if self.leaving {
                            break;
                        }
                        let Ok(input) = queue.try_recv() else { break };
                        self.take_in(input).await;
                    }
                }
                Some(found) = underlay.recv() => self.follow(found).await,
                () = tokio::time::sleep_until(rejoin_at), if self.rejoin_at.is_some() => {
                    self.rejoin().await;
                }
                event = self.news.recv(), if self.gossip.is_some() => {
                    let event = event.context("gossip has ended by itself")?;
                    self.step(Event::Cluster(event)).await;
                }
                () = timer => self.step(Event::Tick).await,
                _ = note_peers.tick() => self.note_peers(),
                _ = term.recv() => {
                    let effects = self.engine.stop(self.clock.now());
                    self.perform(effects).await;
                    return Ok(());
                }
                _ = int.recv() => {
                    let effects = self.engine.stop(self.clock.now());
                    self.perform(effects).await;
                    return Ok(());
                }
            }
            if self.leaving {
                return Ok(());
            }
        }
    }

    async fn take_in(&mut self, input: Input) {
        if let Input::Keys { request, reply } = input {
            self.keys(request, reply).await;
        } else if let Some(event) = self.event_of(input) {
            self.step(event).await;
        }
    }

    /// The underlay is another, or there is none.
    async fn follow(&mut self, found: Result<Underlay, UnderlayError>) {
        let Underlay { addr, dev, mtu, other } = match found {
            Ok(underlay) => underlay,
            Err(err) => return self.step(Event::UnderlayLost { why: err.to_string() }).await,
        };
        let gossip = self.settings.gossip_advertise(addr);
        let listen = self.settings.gossip_listen(addr, has_address);
        let vteps: Vec<IpAddr> =
            std::iter::once(addr).chain(other.as_ref().map(|(addr, _)| *addr)).collect();
        let also = self.settings.gossip_listen_also(listen, &vteps);
        self.step(Event::Underlay { addr, other, dev, mtu, gossip }).await;
        let joined = &mut self.joined;
        if (listen, also, gossip) != (joined.listen, joined.listen_also, joined.advertise) {
            let held = [Some(joined.listen), joined.listen_also];
            let wanted = [Some(listen), also];
            let port_is_ours = held.iter().flatten().any(|addr| wanted.contains(&Some(*addr)))
                || listen.ip().is_unspecified()
                || joined.listen.ip().is_unspecified();
            (joined.listen, joined.listen_also, joined.advertise) = (listen, also, gossip);
            if port_is_ours {
                self.end_gossip().await;
            }
            self.rejoin_at = Some(Instant::now());
        }
    }

    async fn end_gossip(&mut self) {
        if let Some(gossip) = self.gossip.take() {
            self.last_peers = gossip.peers_everywhere();
            for (name, n) in gossip.stats().0 {
                *self.former_stats.entry(name).or_default() += n;
            }
            let _ = gossip.stop(HASTY_FAREWELL).await;
        }
    }

    /// Begins gossip anew: its address is part of who we are to the peers, so
    /// this is another life of this host, with the same records.
    async fn rejoin(&mut self) {
        let incarnation = (self.joined.next_incarnation)().max(self.joined.incarnation + 1);
        let mut config = GossipConfig { incarnation, ..self.joined.clone() };
        config.join.extend(self.noted_peers.iter().map(ToString::to_string));
        let live = self.gossip.as_ref().map(Gossip::peers_everywhere);
        let live = live.as_ref().unwrap_or(&self.last_peers);
        config.join.extend(live.iter().map(ToString::to_string));
        let started = self.gossip_on.spawn(Gossip::start(config, self.engine.own_records()));
        match started.await.map_err(anyhow::Error::from).and_then(|done| Ok(done?)) {
            Ok((gossip, news)) => {
                self.end_gossip().await;
                (self.gossip, self.news) = (Some(gossip), news);
                (self.rejoin_at, self.cannot_rejoin) = (None, false);
                self.joined.incarnation = incarnation;
                info!(gossip = %self.joined.advertise, incarnation, "gossip has begun anew");
                self.step(Event::Rejoined { incarnation }).await;
            }
            Err(err) => {
                // An IPv6 address is not ours before its duplicates were looked for.
                if !std::mem::replace(&mut self.cannot_rejoin, true) {
                    warn!("cannot gossip at the new address, trying again: {err:#}");
                }
                self.rejoin_at = Some(Instant::now() + REJOIN_EVERY);
            }
        }
    }

    fn note_peers(&mut self) {
        let peers = self.gossip.as_ref().map(Gossip::peers_everywhere).unwrap_or_default();
        // Alone is no news: it is then that the former peers are needed.
        if peers.is_empty() || peers == self.noted_peers {
            return;
        }
        match self.state.commit(&[StateChange::Peers(peers.clone())]) {
            Ok(()) => self.noted_peers = peers,
            Err(err) => warn!("cannot note the peers: {err}"),
        }
    }

    fn event_of(&mut self, input: Input) -> Option<Event> {
        match input {
            Input::Keys { .. } => None,
            Input::Kernel(change) => Some(Event::Kernel(change)),
            Input::Applied { plan, report } => Some(Event::Applied { plan, report }),
            Input::Request { request, looked: false, reply }
                if self.engine.needs_foreign(&request) =>
            {
                self.look(request, reply);
                None
            }
            Input::Request { request, reply, .. } => {
                self.last_token += 1;
                self.answers.insert(self.last_token, reply);
                let fresh = uuid::Uuid::new_v4().as_u64_pair();
                Some(Event::Request {
                    token: self.last_token,
                    // A UUID's fixed bits are spread: version in the one half,
                    // variant in the other.
                    fresh: fresh.0 ^ fresh.1.rotate_left(32),
                    request,
                })
            }
        }
    }

    async fn keys(&mut self, request: KeyRequest, reply: Answer) {
        let now = self.clock.now();
        let result = Keys::answer(self.keys.as_ref(), &mut self.engine, request, now);
        let answer = match result {
            Ok((body, effects)) => {
                self.perform(effects).await;
                Ok(body)
            }
            Err(error) => Err(error),
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    /// Reads what the kernel holds that is not ours, then asks again.
    fn look(&self, mut request: Box<Request>, reply: Answer) {
        let (kernel, inputs) = (self.kernel.clone(), self.inputs.clone());
        tokio::spawn(async move {
            match kernel.foreign().await {
                Ok(found) => {
                    match request.as_mut() {
                        Request::CreateNetwork(create) => create.foreign = found,
                        Request::Attach(attach) => attach.foreign = found,
                        Request::Import(import) => import.foreign = found,
                        _ => {}
                    }
                    let _ = inputs.send(Input::Request { request, looked: true, reply });
                }
                Err(err) => {
                    let _ = reply.send(Err(v1::Error::new(
                        v1::ErrorCode::KernelRefused,
                        format!("cannot read the kernel's devices and routes: {err}"),
                    )));
                }
            }
        });
    }

    async fn step(&mut self, event: Event) {
        let first_look = matches!(&event, Event::Kernel(KernelChange::Snapshot(_)));
        let effects = self.engine.step(event, self.clock.now());
        self.perform(effects).await;
        if first_look && !self.ready {
            self.ready = true;
            if let Err(err) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                debug!("cannot tell systemd: {err}");
            }
            info!("ready");
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        let mut todo: VecDeque<Effect> = effects.into();
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::Persist { id, changes } => {
                    let changes: Vec<StateChange> = changes.into_iter().map(Into::into).collect();
                    let result = self.state.commit(&changes).map_err(|err| err.to_string());
                    let event = Event::Persisted { id, result };
                    let more = self.engine.step(event, self.clock.now());
                    // What follows from it goes out before what came after it.
                    for effect in more.into_iter().rev() {
                        todo.push_front(effect);
                    }
                }
                Effect::Publish(changes) => {
                    // What is published meanwhile stands when gossip begins anew.
                    if let Some(gossip) = &self.gossip
                        && let Err(err) = gossip.publish(changes).await
                    {
                        error!("a record was not published: {err}");
                    }
                }
                Effect::Apply { plan, ops } => {
                    for op in &ops {
                        debug!(plan, "{op}");
                    }
                    let _ = self.work.send(Work { plan, ops });
                }
                Effect::Announce(all) => {
                    tokio::task::spawn_blocking(move || {
                        if let Err(err) = overlay_netlink::announce(&all) {
                            warn!("containers are not told of other MACs: {err}");
                        }
                    });
                }
                Effect::Names(news) => {
                    if let Some(resolver) = &self.resolver {
                        resolver.take_in(news);
                    }
                }
                Effect::Reply { token, result } => self.answer(token, result),
                Effect::Hold(ports) => {
                    for (port, why) in self.ports.hold(&ports) {
                        warn!("port {port} is published, but not ours alone: {why}");
                    }
                }
                Effect::Notice(notice) => self.tell(&notice),
                Effect::Exit => self.leaving = true,
            }
        }
    }

    fn tell(&self, notice: &Notice) {
        match notice.level() {
            Level::Warning => warn!("{notice}"),
            Level::Info => info!("{notice}"),
            Level::Detail => debug!("{notice}"),
        }
        self.events.tell(convert::event(notice));
    }

    fn answer(&mut self, token: Token, result: Result<Reply, overlay_engine::Refused>) {
        let Some(answer) = self.answers.remove(&token) else { return };
        let result = match result {
            Ok(Reply::Endpoint(view)) if self.resolver.is_some() => {
                return self.answer_attach(answer, *view);
            }
            Ok(reply) => {
                let gossip = self.gossip.as_ref();
                let mut stats = self.former_stats.clone();
                for (name, n) in gossip.map(|gossip| gossip.stats().0).unwrap_or_default() {
                    *stats.entry(name).or_default() += n;
                }
                let mut counters: BTreeMap<String, u64> =
                    stats.into_iter().map(|(name, n)| (format!("gossip_{name}"), n)).collect();
                let live = gossip.map_or(0, |gossip| gossip.peers().len());
                counters.insert("peers".to_owned(), live as u64);
                // Nothing that an attach should wait for.
                let shown = gossip.filter(|_| matches!(reply, Reply::Hosts(_) | Reply::Status(_)));
                let peers = shown.map(Gossip::peers_info).unwrap_or_default();
                let refusals = shown.map(Gossip::refusals).unwrap_or_default();
                let mut heard =
                    convert::Heard { counters, peers, refusals, ..convert::Heard::default() };
                match reply {
                    Reply::Status(_) => {
                        heard.warnings = self.surroundings.warnings();
                        heard.warnings.extend(self.ports.warnings());
                        heard.dropped = self.kernel.dropped();
                        heard.settings = self.kernel.changed_settings();
                        if let Some(resolver) = &self.resolver {
                            heard.warnings.extend(resolver.warnings());
                            heard.counters.extend(resolver.counters());
                        }
                    }
                    Reply::Ports(_) => {
                        heard.translated = self.kernel.translated();
                        heard.unheld = self.ports.unheld();
                    }
                    Reply::Firewall => {
                        heard.translated = self.kernel.translated();
                        heard.dropped = self.kernel.dropped();
                        heard.settings = self.kernel.changed_settings();
                    }
                    _ => {}
                }
                written(convert::reply(reply, &heard))
            }
            Err(refused) => Err(convert::error(refused)),
        };
        // Whoever asked may have gone.
        let _ = answer.send(result);
    }

    /// Answers with an endpoint when names are answered where it is.
    fn answer_attach(&self, answer: Answer, view: EndpointView) {
        let Some(resolver) = self.resolver.clone() else { return };
        let opening = resolver.opening(view.endpoint.id);
        let tell = move || {
            let resolv_conf = resolver.resolv_conf(&view);
            let endpoint = v1::Endpoint { resolv_conf, ..convert::endpoint(view) };
            // Whoever asked may have gone.
            let _ = answer.send(written(serde_json::to_vec(&endpoint)));
        };
        match opening {
            None => tell(),
            Some(opening) => {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(DOOR_PATIENCE, opening).await;
                    tell();
                });
            }
        }
    }
}

fn written(body: serde_json::Result<Vec<u8>>) -> Result<Vec<u8>, v1::Error> {
    body.map_err(|err| {
        v1::Error::new(v1::ErrorCode::Internal, format!("cannot write the reply: {err}"))
    })
}
