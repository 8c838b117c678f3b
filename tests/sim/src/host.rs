//! One simulated daemon: the loop around an engine, as `overlayd` has it, with
//! a disk and a kernel that are here when it is gone.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlay_engine::fake_disk::FakeDisk;
use overlay_engine::fake_kernel::FakeKernel;
use overlay_engine::{Config, Effect, Engine, Event, Notice, Now, Refused, Reply, Request, Token};
use overlay_gossip::{Gossip, GossipConfig, PeerInfo};
use overlay_model::{ClusterEvent, HostId, IfName, KernelChange, Name};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Net;

/// What is there of a host whether its daemon runs or not.
pub struct Machine {
    pub(crate) id: HostId,
    pub(crate) name: Name,
    pub(crate) addr: SocketAddr,
    pub(crate) disk: FakeDisk,
    pub(crate) kernel: FakeKernel,
    pub(crate) incarnation: u64,
    /// How wrong its wall clock is, milliseconds.
    pub(crate) clock_off: i64,
    /// Everything that it told operators, with the time since the world began.
    pub(crate) told: Vec<(Duration, Notice)>,
}

/// A machine that its daemon and the test share.
pub type Shared = Arc<Mutex<Machine>>;

pub(crate) fn lock(machine: &Shared) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

type Answer = oneshot::Sender<Result<Reply, Refused>>;

enum Input {
    Request(Box<Request>, Answer),
    Meddled(Vec<KernelChange>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Stop,
}

/// A daemon that runs.
pub struct Daemon {
    inputs: mpsc::UnboundedSender<Input>,
    task: JoinHandle<()>,
}

/// How the daemons of a world are set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `--gossip-interval`.
    pub interval: Duration,
    /// `--down-after`.
    pub down_after: Duration,
    /// `--down-grace`.
    pub down_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            down_after: Duration::from_secs(1),
            down_grace: Duration::from_secs(10),
        }
    }
}

impl Daemon {
    /// Starts one on `machine`.
    ///
    /// # Errors
    /// If gossip does not start.
    pub async fn start(
        machine: &Shared,
        net: &Net,
        join: &[SocketAddr],
        began: Instant,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let (config, restored, mut gossip) = {
            let mut machine = lock(machine);
            machine.incarnation += 1;
            let restored = machine.disk.restored();
            let gossip = GossipConfig::new(machine.id, machine.incarnation, machine.addr);
            (config(&machine, settings), restored, gossip)
        };
        let mut engine = Engine::new(config, restored, now(machine, began));
        let (transport, pushes) = net.plug(gossip.advertise);
        gossip.join = join.iter().map(SocketAddr::to_string).collect();
        gossip.interval = settings.interval;
        let shared = Arc::clone(machine);
        gossip.next_incarnation = Arc::new(move || {
            let mut machine = lock(&shared);
            machine.incarnation += 1;
            machine.incarnation
        });
        let records = engine.own_records();
        let (gossip, news) = Gossip::start_simulated(gossip, records, transport, pushes).await?;
        let state = lock(machine).kernel.read();
        let (inputs, queue) = mpsc::unbounded_channel();
        let mut shell = Shell {
            machine: Arc::clone(machine),
            engine,
            gossip,
            began,
            answers: BTreeMap::new(),
            last_token: 0,
        };
        let task = tokio::spawn(async move {
            shell.step(Event::Kernel(KernelChange::Snapshot(Box::new(state)))).await;
            shell.run(queue, news).await;
        });
        Ok(Self { inputs, task })
    }

    /// `kill -9`.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// SIGTERM.
    pub async fn stop(self) {
        let _ = self.inputs.send(Input::Stop);
        let _ = self.task.await;
    }

    /// Asks, and waits for the answer for ten seconds.
    ///
    /// # Errors
    /// Whatever the engine refuses; no answer is an [`anyhow::Error`].
    pub async fn ask(&self, request: Request) -> anyhow::Result<Result<Reply, Refused>> {
        let (answer, wait) = oneshot::channel();
        self.inputs.send(Input::Request(Box::new(request), answer))?;
        Ok(tokio::time::timeout(Duration::from_secs(10), wait).await??)
    }

    /// What its gossip knows of the others.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn peers(&self) -> anyhow::Result<Vec<PeerInfo>> {
        let (answer, wait) = oneshot::channel();
        self.inputs.send(Input::Peers(answer))?;
        Ok(wait.await?)
    }

    /// Tells it what somebody else did to its kernel.
    pub fn meddled(&self, changes: Vec<KernelChange>) {
        let _ = self.inputs.send(Input::Meddled(changes));
    }
}

fn config(machine: &Machine, settings: Settings) -> Config {
    Config {
        host: machine.id,
        incarnation: machine.incarnation,
        name: machine.name.clone(),
        vteps: vec![machine.addr.ip()],
        dual: false,
        underlay_dev: IfName::new("eth0").expect("a name"),
        other_dev: None,
        underlay_mtu: 1500,
        vxlan_port: 4789,
        outer: Default::default(),
        gossip: machine.addr,
        version: "0".into(),
        keys: overlay_model::HostKeys::default(),
        boot_id: "1".into(),
        forget_after: Some(Duration::from_secs(24 * 3600)),
        state_dir: "/var/lib/overlayd".into(),
        down_after: settings.down_after,
        down_grace: settings.down_grace,
        stop_grace: Duration::from_secs(600),
        alone_after: Duration::from_secs(15),
        leak_grace: Duration::from_secs(60),
        host_access: Default::default(),
    }
}

fn now(machine: &Shared, began: Instant) -> Now {
    let mono = began.elapsed();
    let off = lock(machine).clock_off;
    let wall = 1_700_000_000_000_i64 + i64::try_from(mono.as_millis()).unwrap_or(0) + off;
    Now { mono, wall_ms: u64::try_from(wall).unwrap_or(0) }
}

struct Shell {
    machine: Shared,
    engine: Engine,
    gossip: Gossip,
    began: Instant,
    answers: BTreeMap<Token, Answer>,
    last_token: Token,
}

impl Shell {
    async fn run(
        &mut self,
        mut queue: mpsc::UnboundedReceiver<Input>,
        mut news: mpsc::UnboundedReceiver<ClusterEvent>,
    ) {
        loop {
            let deadline = self.engine.next_deadline().map(|at| self.began + at);
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                input = queue.recv() => match input {
                    Some(Input::Request(request, answer)) => {
                        self.last_token += 1;
                        self.answers.insert(self.last_token, answer);
                        let host = lock(&self.machine).id.0.as_u64_pair().0;
                        let fresh = host
                            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                            .wrapping_add(self.began.elapsed().as_nanos() as u64)
                            .wrapping_add(self.last_token << 48);
                        let token = self.last_token;
                        self.step(Event::Request { token, fresh, request }).await;
                    }
                    Some(Input::Meddled(changes)) => {
                        for change in changes {
                            self.step(Event::Kernel(change)).await;
                        }
                    }
                    Some(Input::Peers(answer)) => {
                        let _ = answer.send(self.gossip.peers_info());
                    }
                    Some(Input::Stop) => {
                        let effects = self.engine.stop(now(&self.machine, self.began));
                        self.perform(effects).await;
                        return;
                    }
                    None => return,
                },
                event = news.recv() => match event {
                    Some(event) => self.step(Event::Cluster(event)).await,
                    None => return,
                },
                () = timer => self.step(Event::Tick).await,
            }
        }
    }

    async fn step(&mut self, event: Event) {
        let effects = self.engine.step(event, now(&self.machine, self.began));
        self.perform(effects).await;
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        let mut todo: VecDeque<Effect> = effects.into();
        let first = |todo: &mut VecDeque<Effect>, more: Vec<Effect>| {
            more.into_iter().rev().for_each(|effect| todo.push_front(effect));
        };
        while let Some(effect) = todo.pop_front() {
            let now = now(&self.machine, self.began);
            match effect {
                Effect::Persist { id, changes } => {
                    let result = lock(&self.machine).disk.write(changes);
                    let more = self.engine.step(Event::Persisted { id, result }, now);
                    first(&mut todo, more);
                }
                Effect::Publish(changes) => {
                    // A record that is too long stays unpublished, as in the daemon.
                    let _ = self.gossip.publish(changes).await;
                }
                Effect::Apply { plan, ops } => {
                    let (changes, report) = lock(&self.machine).kernel.apply(&ops);
                    for change in changes {
                        todo.extend(self.engine.step(Event::Kernel(change), now));
                    }
                    todo.extend(self.engine.step(Event::Applied { plan, report }, now));
                }
                Effect::Reply { token, result } => {
                    if let Some(answer) = self.answers.remove(&token) {
                        let _ = answer.send(result);
                    }
                }
                Effect::Notice(notice) => {
                    let at = self.began.elapsed();
                    lock(&self.machine).told.push((at, notice));
                }
                Effect::Announce(_) | Effect::Hold(_) | Effect::Names(_) | Effect::Exit => {}
            }
        }
    }
}

/// The address of host `n`.
pub fn address(n: usize) -> IpAddr {
    let n = n as u32 + 1;
    IpAddr::from([100, 64 + (n >> 16) as u8, (n >> 8) as u8, n as u8])
}
