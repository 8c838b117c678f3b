//! The one task that owns chitchat.
//!
//! ```text
//!   publish, stop, contact ─► ┌────────┐ ─► set, gossip(peer)   ┌──────────┐
//!                             │ Driver │                        │ chitchat │
//!   ClusterEvents ◄── View ◄─ └────────┘ ◄─ "look again", state └──────────┘
//! ```
//!
//! Besides passing on, it does what chitchat lacks:
//!
//! - **the fast path**: a change goes to every peer that needs it at once, see
//!   `push`; whoever misses one asks the origin;
//! - **catching up**: a newcomer asks peer after peer until it stops learning
//!   (1.5 s instead of 17 s for 100,000 records), and who misses much of one
//!   host goes on asking that host;
//! - **a new life** when chitchat's task dies, which a hostile message can make
//!   it do: same records, next incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use overlay_model::{ClusterEvent, NetworkId, Record, RecordKey};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout_at};

use crate::codec;
use crate::look::Look;
use crate::push::{self, Outbox, Pushes};
use crate::refusals::Why;
use crate::stats::Counters;
use crate::transport::{Tap, Tapped};
use crate::view::{END, ID, Pushed, View};
use crate::ways::Ways;
use crate::{Change, GossipConfig, GossipError, Net};

/// Who misses something asks one peer no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Of those who use a network that we begin to use, so many are asked what
/// changed on it lately: pushes of that did not come here.
const ASK_USERS: usize = 8;
/// Between two questions of a newcomer.
const CATCH_UP_EVERY: Duration = Duration::from_millis(25);
/// So many questions without news end the catching up.
const CATCH_UP_IDLE: u32 = 20;
/// Who learns nothing more of a host for so many times [`CATCH_UP_EVERY`] stops
/// asking it.
const PURSUED_IDLE: u32 = 8;
/// Either ends in any case after this.
const CATCH_UP_FOR: Duration = Duration::from_secs(10);
/// How often everything is compared, in case that something vanished unsaid.
const ANTI_ENTROPY: Duration = Duration::from_secs(30);
/// chitchat's own detector decides only whom it prefers to talk to and when to
/// forget; ours is in `view`, with the reason. High enough that a burst of
/// changes (a mean of 24 ms between heartbeats, at worst) kills nobody.
const PHI: f64 = 64.0;

/// Between two lives of chitchat: this at first, twice as long each time,
const PAUSE_AT_FIRST: Duration = Duration::from_millis(50);
/// never longer than this,
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// and from the beginning after a life that lasted so long.
const PAUSE_FORGOTTEN: Duration = Duration::from_secs(60);

/// What the driver is asked to do.
pub(crate) enum Command {
    /// Write and withdraw records of ours, in this order.
    Publish { changes: Vec<Change>, done: oneshot::Sender<()> },
    /// Talk to these, who may be peers: all that `--join` names at present.
    Contact(Vec<SocketAddr>),
    /// Tell the peers and end.
    Stop { flush: Duration, done: oneshot::Sender<usize> },
}

pub(crate) struct Driver {
    config: GossipConfig,
    transport: Tapped,
    chitchat: ChitchatHandle,
    /// What has changed in chitchat's state.
    look: Arc<Look>,
    view: View,
    own: Own,
    /// The version up to which nobody else has written in our name.
    own_version: u64,
    events: mpsc::UnboundedSender<ClusterEvent>,
    live: watch::Sender<Vec<SocketAddr>>,
    counters: Arc<Counters>,
    pushes: Arc<dyn Pushes>,
    ways: Arc<Ways>,
    outbox: Outbox,
    /// When peers were asked for what is missing.
    asked: BTreeMap<SocketAddr, Instant>,
    /// Hosts of which something is missing, and what we have of them.
    pursued: BTreeMap<SocketAddr, Pursuit>,
    catch_up: Option<CatchUp>,
    /// When the view is due for a look in any case.
    look_at: Instant,
    /// Whether somebody is to be asked straight for a sign of life.
    suspects: bool,
    /// Where among them the next turn begins.
    turn: usize,
    /// Seeds that were found, for a newcomer to ask.
    contacts: BTreeSet<SocketAddr>,
    /// When this life of chitchat began.
    born: Instant,
    /// How long to wait before the next one.
    pause: Duration,
}

/// What we publish, as text, to begin a new life with.
#[derive(Default)]
struct Own {
    /// With the order of the first writing.
    records: BTreeMap<RecordKey, (u64, String)>,
    written: u64,
}

impl Own {
    fn put(&mut self, key: RecordKey, value: String) {
        self.written += 1;
        let order = self.written;
        self.records
            .entry(key)
            .and_modify(|old| old.1.clone_from(&value))
            .or_insert((order, value));
    }

    /// True if an endpoint of ours is on `net`.
    fn uses(&self, net: NetworkId) -> bool {
        self.records.range(RecordKey::endpoints_on(net)).next().is_some()
    }

    /// Initial key values of a life: who we are first, our host record after
    /// all others, and [`END`] after everything.
    fn key_values(&self, config: &GossipConfig) -> Vec<(String, String)> {
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_by_key(|(key, (order, _))| (**key == RecordKey::Host, *order));
        std::iter::once((ID.to_owned(), config.host.to_string()))
            .chain(records.into_iter().map(|(key, (_, value))| (key.to_string(), value.clone())))
            .chain(std::iter::once((END.to_owned(), self.written.to_string())))
            .collect()
    }
}

/// What is missing of a host may be more than one message holds.
struct Pursuit {
    until: Instant,
    learnt: u64,
    idle: u32,
}

/// A newcomer's round of questions.
struct CatchUp {
    until: Instant,
    asked: Option<Instant>,
    learnt: u64,
    idle: u32,
    next: usize,
}

/// So many suspects are asked at once, in turn: a whole site may be cut off.
const SUSPECTS: usize = 16;
/// Fewer in a cluster larger than this: a question holds a line for each host.
const SUSPECTS_UP_TO: usize = 32;

impl Driver {
    pub(crate) async fn start(
        config: GossipConfig,
        initial: Vec<Change>,
        net: Net,
        counters: Arc<Counters>,
        events: mpsc::UnboundedSender<ClusterEvent>,
        live: watch::Sender<Vec<SocketAddr>>,
    ) -> Result<Self, GossipError> {
        let Net { transport, pushes, ways } = net;
        let transport = Tapped {
            transport,
            tap: Arc::new(Tap::default()),
            counters: counters.clone(),
            interval: config.interval,
            own: config.advertise,
        };
        let mut own = Own::default();
        for (key, value) in initial {
            if let Some(value) = value {
                own.put(key, value);
            }
        }
        let look = Arc::new(Look::default());
        let literal: BTreeSet<SocketAddr> =
            config.join.iter().filter_map(|text| text.parse().ok()).collect();
        let chitchat = spawn(&config, &own, &transport, &look, &literal)
            .await
            .map_err(|err| GossipError::Start(format!("{err:#}")))?;
        let view = View::new(
            config.host,
            chitchat.chitchat_id().clone(),
            config.interval,
            config.dead_grace,
            counters.clone(),
        );
        let version = written(&chitchat).await;
        let mut driver = Self {
            outbox: Outbox::new(config.host, config.incarnation, version),
            config,
            transport,
            chitchat,
            look,
            view,
            own,
            own_version: 0,
            events,
            live,
            counters,
            pushes,
            ways,
            asked: BTreeMap::new(),
            pursued: BTreeMap::new(),
            catch_up: None,
            look_at: Instant::now(),
            suspects: false,
            turn: 0,
            contacts: literal,
            born: Instant::now(),
            pause: PAUSE_AT_FIRST,
        };
        driver.begin_catching_up();
        Ok(driver)
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        // A suspect has twenty questions to answer before it is called down.
        let mut ask = interval_at(Instant::now(), self.config.interval / 8);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut anti_entropy = interval_at(Instant::now() + ANTI_ENTROPY, ANTI_ENTROPY);
        anti_entropy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut catch_up = interval_at(Instant::now(), CATCH_UP_EVERY);
        catch_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = self.look.clone();
        let tap = self.transport.tap.clone();
        let pushes = self.pushes.clone();
        loop {
            let look_at = self.look_at;
            let push_at = self.outbox.deadline();
            let died = self.chitchat.termination_watcher();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Publish { changes, done }) => {
                        self.publish(changes).await;
                        let _ = done.send(());
                    }
                    Some(Command::Contact(addrs)) => self.contact(&addrs),
                    Some(Command::Stop { flush, done }) => {
                        let _ = done.send(self.stop(flush).await);
                        return;
                    }
                    // The owner dropped us without a word: leave as a crash would.
                    None => {
                        self.chitchat.abort();
                        let _ = self.chitchat.shutdown().await;
                        return;
                    }
                },
                () = look.noted() => self.read(false).await,
                () = tap.heard() => {
                    let now = Instant::now();
                    match self.view.soonest_look() {
                        Some(soon) if now < soon => self.look_at = self.look_at.min(soon),
                        _ => self.read(false).await,
                    }
                }
                () = sleep_until(look_at) => self.read(false).await,
                _ = ask.tick(), if self.suspects => self.ask_suspects(),
                _ = anti_entropy.tick() => {
                    self.repair_own().await;
                    self.read(true).await;
                }
                () = sleep_until(push_at.unwrap_or_else(Instant::now)), if push_at.is_some() => {
                    self.push();
                }
                (from, body) = pushes.next() => self.pushed(from, &body),
                _ = catch_up.tick(), if self.catch_up.is_some() || !self.pursued.is_empty() => {
                    self.ask_next();
                    self.pursue(true);
                }
                result = died => {
                    let err = result.err().map_or_else(|| "it ended".to_owned(), |err| format!("{err:#}"));
                    if self.begin_new_life(&err, &mut commands).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn publish(&mut self, changes: Vec<Change>) {
        let own = &mut self.own;
        let chitchat = self.chitchat.chitchat();
        let mut chitchat = chitchat.lock().await;
        let state = chitchat.self_node_state();
        let at_first = state.max_version();
        let all_ours = at_first == self.own_version;
        let mut begun = BTreeSet::new();
        for (key, value) in changes {
            let before = state.max_version();
            let network = match key {
                RecordKey::Endpoint(net, _) => Some(net),
                _ => None,
            };
            let used = network.is_some_and(|net| own.uses(net));
            let bytes = value.as_deref().and_then(codec::bytes_of);
            match value {
                Some(value) => {
                    state.set(key, &value);
                    own.put(key, value);
                }
                None => {
                    if own.records.remove(&key).is_some() {
                        // Not `delete()`: peers would hear of that by chance only.
                        state.set_with_ttl(key, "");
                    }
                }
            }
            let version = state.max_version();
            if version == before {
                continue;
            }
            // The first and the last endpoint on a network are everybody's news.
            let narrow = network.filter(|net| used && own.uses(*net));
            begun.extend(network.filter(|_| !used));
            let change = push::Change { version, key: key.to_string(), value: bytes };
            self.outbox.put(key, change, narrow);
        }
        if state.max_version() == at_first {
            return;
        }
        own.written += 1;
        state.set(END, own.written);
        if all_ours {
            self.own_version = state.max_version();
        }
        self.outbox.written_up_to(state.max_version());
        drop(chitchat);
        self.transport.tap.stir();
        // Not by the timer, which counts in whole milliseconds.
        if self.outbox.deadline().is_some_and(|at| at <= Instant::now()) {
            self.push();
        }
        for net in begun {
            for user in self.view.users(net).into_iter().take(ASK_USERS) {
                self.ask(user);
            }
        }
    }

    /// Sends what is due to everybody who may listen.
    fn push(&mut self) {
        let now = Instant::now();
        let peers = self.reached(self.view.hopeful_peers(now));
        let view = &self.view;
        let out = self.outbox.take(now, &peers, |net| view.users(net));
        self.counters.add("pushes_sent", out.len() as u64);
        for (peer, body) in out {
            self.counters.add("bytes_sent", body.len() as u64);
            self.pushes.send(peer, &body);
        }
    }

    /// Takes in a push, and asks for what it shows to be missing.
    fn pushed(&mut self, from: SocketAddr, body: &[u8]) {
        self.counters.add("pushes_received", 1);
        self.counters.add("bytes_received", body.len() as u64);
        let Ok(push) = push::decode(body) else {
            self.counters.refuse(from, Why::MalformedPush, Instant::now());
            return;
        };
        if push.host == self.config.host {
            return;
        }
        let (events, outcome) = self.view.pushed(push, Instant::now());
        for event in events {
            self.tell(event);
        }
        match outcome {
            Pushed::Complete => {}
            Pushed::Gap(origin) => {
                self.counters.add("push_gaps", 1);
                self.ask(origin);
                let (until, learnt) = (Instant::now() + CATCH_UP_FOR, self.view.learnt_of(origin));
                self.pursued.entry(origin).or_insert(Pursuit { until, learnt, idle: 0 });
            }
            Pushed::Unknown => {
                self.counters.add("push_unknown", 1);
                self.ask(from);
            }
        }
    }

    /// Gossips with a peer that has something we lack, not too often.
    fn ask(&mut self, peer: SocketAddr) {
        let now = Instant::now();
        self.asked.retain(|_, at| now.duration_since(*at) < ASK_EVERY);
        if let std::collections::btree_map::Entry::Vacant(free) = self.asked.entry(peer) {
            free.insert(now);
            self.gossip(peer);
        }
    }

    fn contact(&mut self, addrs: &[SocketAddr]) {
        let new = addrs.iter().any(|addr| !self.contacts.contains(addr));
        self.contacts = addrs.iter().copied().collect();
        if new && self.live.borrow().is_empty() {
            self.begin_catching_up();
        } else {
            addrs.iter().for_each(|addr| self.gossip(*addr));
        }
    }

    fn ask_suspects(&mut self) {
        let suspects: Vec<_> =
            self.reached(self.view.lately_silent(Instant::now())).into_iter().collect();
        if suspects.is_empty() {
            return;
        }
        let many = SUSPECTS * SUSPECTS_UP_TO / self.view.hosts().max(SUSPECTS_UP_TO);
        let many = many.clamp(1, SUSPECTS).min(suspects.len());
        for i in 0..many {
            self.gossip(suspects[self.turn.wrapping_add(i) % suspects.len()]);
        }
        self.turn = self.turn.wrapping_add(many);
    }

    /// Tells what is new.
    fn tell(&self, event: ClusterEvent) {
        if let ClusterEvent::Record { record: Some(record), .. } = &event
            && let Record::Host(host) = record.as_ref()
        {
            self.ways.note(host);
        }
        // Nobody listens any more: about to be dropped.
        let _ = self.events.send(event);
    }

    /// Those of `peers` that messages may get to.
    fn reached(&self, mut peers: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        peers.retain(|peer| self.ways.reach(peer));
        peers
    }

    /// Starts a handshake. That chitchat has died is noticed elsewhere.
    fn gossip(&self, peer: SocketAddr) {
        self.transport.tap.stir();
        let _ = self.chitchat.gossip(peer);
    }

    async fn read(&mut self, suspicious: bool) {
        let now = Instant::now();
        let events = {
            let chitchat = self.chitchat.chitchat();
            let chitchat = chitchat.lock().await;
            let changed = self.look.take();
            self.view.read(chitchat.node_states(), changed, now, suspicious)
        };
        self.look_at = self.view.next_look(now);
        self.suspects = !self.view.lately_silent(now).is_empty();
        for event in events {
            self.tell(event);
        }
        let was_alone = self.live.borrow().is_empty();
        let live: Vec<_> = self.view.live_peers().into_iter().collect();
        let found_company = was_alone && !live.is_empty();
        self.live.send_if_modified(|old| std::mem::replace(old, live.clone()) != live);
        if self.catch_up.is_none() && (found_company || self.view.lacks_records()) {
            self.begin_catching_up();
        }
        // What has just come leads to the next question, not only the clock.
        if self.catch_up.as_ref().is_some_and(|round| round.learnt != self.view.learnt()) {
            self.ask_next();
        }
        self.pursue(false);
    }

    /// Asks hosts again of which something was missing and more has come.
    fn pursue(&mut self, tick: bool) {
        let now = Instant::now();
        let mut again = Vec::new();
        self.pursued.retain(|origin, pursuit| {
            let learnt = self.view.learnt_of(*origin);
            if learnt != pursuit.learnt {
                (pursuit.learnt, pursuit.idle) = (learnt, 0);
                again.push(*origin);
            } else if tick {
                pursuit.idle += 1;
            }
            pursuit.idle < PURSUED_IDLE && now < pursuit.until
        });
        again.into_iter().for_each(|origin| self.gossip(origin));
    }

    fn begin_catching_up(&mut self) {
        self.catch_up = Some(CatchUp {
            until: Instant::now() + CATCH_UP_FOR,
            asked: None,
            learnt: self.view.learnt(),
            idle: 0,
            next: 0,
        });
    }

    /// Asks the next peer, until peers have nothing new.
    fn ask_next(&mut self) {
        let now = Instant::now();
        let learnt = self.view.learnt();
        let Some(mut round) = self.catch_up.take_if(|round| {
            learnt != round.learnt
                || round.asked.is_none_or(|at| now.duration_since(at) >= CATCH_UP_EVERY)
        }) else {
            return;
        };
        round.asked = Some(now);
        round.idle = if learnt == round.learnt { round.idle + 1 } else { 0 };
        round.learnt = learnt;
        if round.idle >= CATCH_UP_IDLE || now >= round.until {
            return;
        }
        let mut peers = self.reached(self.view.hopeful_peers(now));
        if self.live.borrow().is_empty() {
            peers.extend(&self.contacts);
        }
        peers.remove(&self.config.advertise);
        if let Some(peer) = peers.iter().nth(round.next % peers.len().max(1)) {
            self.gossip(*peer);
        }
        round.next += 1;
        self.catch_up = Some(round);
    }

    /// Nothing in gossip keeps a peer from telling us our own records, wrongly.
    /// What another hand wrote among them is written over.
    async fn repair_own(&mut self) {
        let chitchat = self.chitchat.chitchat();
        let mut chitchat = chitchat.lock().await;
        let state = chitchat.self_node_state();
        // Whoever writes, raises it.
        if std::mem::replace(&mut self.own_version, state.max_version()) == state.max_version() {
            return;
        }
        let mut wanted: BTreeMap<String, String> =
            self.own.key_values(&self.config).into_iter().collect();
        let foreign: Vec<String> = state
            .key_values()
            .filter(|(key, value)| !value.is_empty() && !wanted.contains_key(*key))
            .map(|(key, _)| key.to_owned())
            .collect();
        wanted.retain(|key, value| key != END && state.get(key) != Some(value));
        if foreign.is_empty() && wanted.is_empty() {
            return;
        }
        self.counters.add("own_repaired", (foreign.len() + wanted.len()) as u64);
        tracing::error!(
            records = ?foreign.iter().chain(wanted.keys()).take(5).collect::<Vec<_>>(),
            "another host has written records in our name; put right",
        );
        for key in foreign {
            state.set_with_ttl(key, "");
        }
        for (key, value) in wanted {
            state.set(key, value);
        }
        self.own.written += 1;
        state.set(END, self.own.written);
        self.own_version = state.max_version();
        self.transport.tap.stir();
    }

    /// Begins again with the next incarnation; tries until it works. `None`: told
    /// to stop meanwhile.
    async fn begin_new_life(
        &mut self,
        err: &str,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Option<()> {
        tracing::error!(err, "chitchat's task died; beginning a new life with the same records");
        // It may write to disk.
        let next = self.config.next_incarnation.clone();
        match tokio::task::spawn_blocking(move || next()).await {
            Ok(incarnation) if incarnation > self.config.incarnation => {
                self.config.incarnation = incarnation;
            }
            Ok(_) | Err(_) => {
                tracing::error!("no new incarnation to be had; counting on from the last one");
                self.config.incarnation += 1;
            }
        }
        // What killed it may still be there: the sooner it died, the longer we wait.
        if self.born.elapsed() > PAUSE_FORGOTTEN {
            self.pause = PAUSE_AT_FIRST;
        }
        loop {
            self.idle(self.pause, commands).await?;
            self.pause = (self.pause * 2).min(PAUSE_AT_MOST);
            let mut seeds = self.view.live_peers();
            seeds.extend(&self.contacts);
            match spawn(&self.config, &self.own, &self.transport, &self.look, &seeds).await {
                Ok(chitchat) => {
                    self.counters.add("restarts", 1);
                    self.view.restarted(chitchat.chitchat_id().clone());
                    let version = written(&chitchat).await;
                    self.outbox = Outbox::new(self.config.host, self.config.incarnation, version);
                    self.chitchat = chitchat;
                    self.own_version = 0;
                    self.born = Instant::now();
                    self.begin_catching_up();
                    return Some(());
                }
                Err(err) => {
                    let again_in = self.pause;
                    tracing::error!(err = format!("{err:#}"), ?again_in, "chitchat does not start");
                }
            }
        }
    }

    /// Serves commands without chitchat for a while. What is published stands
    /// from the first message of the next life on. `None`: told to stop.
    async fn idle(
        &mut self,
        pause: Duration,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Option<()> {
        let until = Instant::now() + pause;
        while let Ok(command) = timeout_at(until, commands.recv()).await {
            match command? {
                Command::Publish { changes, done } => {
                    for (key, value) in changes {
                        match value {
                            Some(value) => self.own.put(key, value),
                            None => drop(self.own.records.remove(&key)),
                        }
                    }
                    let _ = done.send(());
                }
                Command::Contact(addrs) => self.contacts = addrs.into_iter().collect(),
                Command::Stop { done, .. } => {
                    let _ = done.send(0);
                    return None;
                }
            }
        }
        Some(())
    }

    async fn stop(mut self, flush: Duration) -> usize {
        self.push();
        let peers = self.reached(self.view.live_peers());
        let tap = self.transport.tap.clone();
        tap.watch();
        let deadline = Instant::now() + flush;
        let told = |peers: &BTreeSet<SocketAddr>| peers.iter().filter(|p| tap.has_told(p)).count();
        let mut ask_at = Instant::now();
        while told(&peers) < peers.len() && Instant::now() < deadline {
            if Instant::now() >= ask_at {
                ask_at += Duration::from_millis(100);
                for peer in peers.iter().filter(|peer| !tap.has_told(peer)) {
                    self.gossip(*peer);
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
        let told = told(&peers);
        if let Err(err) = self.chitchat.shutdown().await {
            tracing::debug!(err = format!("{err:#}"), "chitchat ended badly");
        }
        told
    }
}

/// The version of the last record that stands in our name.
async fn written(chitchat: &ChitchatHandle) -> u64 {
    chitchat.chitchat().lock().await.self_node_state().max_version()
}

async fn spawn(
    config: &GossipConfig,
    own: &Own,
    transport: &Tapped,
    look: &Arc<Look>,
    seeds: &BTreeSet<SocketAddr>,
) -> anyhow::Result<ChitchatHandle> {
    let id = ChitchatId::new(config.host.short(), config.incarnation, config.advertise);
    let on_reset = look.clone();
    let chitchat = spawn_chitchat(
        ChitchatConfig {
            chitchat_id: id.clone(),
            cluster_id: config.cluster.clone(),
            gossip_interval: config.interval,
            listen_addr: config.listen,
            // Literal addresses only: chitchat resolves names before it starts.
            seed_nodes: seeds
                .iter()
                .filter(|addr| **addr != config.advertise && **addr != config.listen)
                .map(SocketAddr::to_string)
                .collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: 100,
                max_interval: Duration::from_secs(10),
                initial_interval: config.interval,
                dead_node_grace_period: config.dead_grace,
            },
            marked_for_deletion_grace_period: config.dead_grace,
            catchup_callback: Some(Box::new(move || on_reset.lost_track())),
            // For whoever watches who is alive, which nobody does, it copies the whole state of
            // those that this lets pass, and keeps the copy: at every round that brought a change.
            extra_liveness_predicate: Some(Box::new(|_| false)),
            protocol_version: ProtocolVersion::V1,
        },
        own.key_values(config),
        transport,
    )
    .await?;
    let on_change = look.clone();
    chitchat
        .chitchat()
        .lock()
        .await
        .subscribe_event("", move |change| {
            if *change.node != id {
                on_change.note(change.node, change.key);
            }
        })
        .forever();
    Ok(chitchat)
}

#[cfg(test)]
mod tests;
