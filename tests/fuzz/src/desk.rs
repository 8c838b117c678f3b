//! An engine with a kernel and a disk that do what it wants, at once.

use std::collections::VecDeque;
use std::time::Duration;

use overlay_engine::fake_kernel::FakeKernel;
use overlay_engine::{Config, Effect, Engine, Event, Now, Restored};
use overlay_model::{HostKeys, IfName, KernelChange, ObjectKey};

use crate::samples::{US, name};

/// So many steps of its own making are no progress any more.
const STEPS: usize = 20_000;

pub(crate) struct Desk {
    pub(crate) engine: Engine,
    pub(crate) kernel: FakeKernel,
    at: Duration,
}

pub(crate) fn config() -> Config {
    Config {
        host: US,
        incarnation: 5,
        name: name("us"),
        vteps: vec![[192, 0, 2, 9].into()],
        dual: false,
        underlay_dev: IfName::new("eth0").expect("a good name"),
        other_dev: None,
        underlay_mtu: 1500,
        vxlan_port: 4789,
        outer: Default::default(),
        gossip: ([192, 0, 2, 9], 7946).into(),
        version: "0".into(),
        keys: HostKeys::default(),
        boot_id: "1".into(),
        down_after: Duration::from_secs(1),
        down_grace: Duration::from_secs(10),
        stop_grace: Duration::from_secs(600),
        alone_after: Duration::from_secs(15),
        forget_after: Some(Duration::from_secs(24 * 3600)),
        leak_grace: Duration::from_secs(60),
        host_access: Default::default(),
        state_dir: "/var/lib/overlayd".into(),
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        let mut kernel = FakeKernel::default();
        kernel.netns.insert("/run/netns/c1".into());
        kernel.devices.insert(IfName::new("tap0").expect("a good name"), 7);
        let at = Duration::ZERO;
        let engine = Engine::new(config(), Restored::default(), now(at));
        let mut desk = Self { engine, kernel, at };
        desk.engine.own_records();
        desk.happens(Event::Kernel(KernelChange::Snapshot(Box::default())));
        desk
    }

    /// One event, and all that follows from it. Returns what was said besides.
    pub(crate) fn happens(&mut self, event: Event) -> Vec<Effect> {
        let mut events = VecDeque::from([event]);
        let mut said = Vec::new();
        let mut steps = 0;
        while let Some(event) = events.pop_front() {
            steps += 1;
            assert!(steps < STEPS, "it never rests");
            for effect in self.engine.step(event, now(self.at)) {
                match effect {
                    Effect::Persist { id, .. } => {
                        events.push_back(Event::Persisted { id, result: Ok(()) });
                    }
                    Effect::Apply { plan, ops } => {
                        let (changes, report) = self.kernel.apply(&ops);
                        events.extend(changes.into_iter().map(Event::Kernel));
                        events.push_back(Event::Applied { plan, report });
                    }
                    other => said.push(other),
                }
            }
        }
        said
    }

    /// Time goes by.
    pub(crate) fn waits(&mut self, for_so_long: Duration) {
        self.at += for_so_long;
        self.happens(Event::Tick);
    }

    /// What it holds is what is wanted.
    pub(crate) fn objects(&self) -> Vec<ObjectKey> {
        self.kernel.objects().keys().cloned().collect()
    }
}

fn now(at: Duration) -> Now {
    Now { mono: at, wall_ms: 1_800_000_000_000 + u64::try_from(at.as_millis()).unwrap_or(0) }
}
