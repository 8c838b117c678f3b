//! A daemon is killed in the middle of a storm of attaches: after it starts again,
//! what was acknowledged is there, and nothing that was refused.
//!
//! ```text
//!   16 clients ── POST /v1/endpoints ──► host a: kill -9, start, again
//!    8 clients ── overlayctl attach --netns ──┘
//! ```
//!
//! 2,000 static endpoints, or as many as `STORM` says: `STORM=10000`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use overlay_api::{Client, ClientError, v1};
use overlay_tests::{Host, Lab, NetSpec, eventually, stations};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.8.0.0/13"], mtu: 0, extra: &[] };

const CLIENTS: usize = 16;
const CONTAINERS: usize = 40;

/// What clients were told.
#[derive(Default)]
struct Told {
    /// By the MAC of a static endpoint, or the name of a container.
    acknowledged: Mutex<BTreeSet<String>>,
    /// Asked for, and nobody knows: the daemon died over it.
    unknown: Mutex<BTreeSet<String>>,
    done: AtomicUsize,
}

impl Told {
    fn note(&self, set: &Mutex<BTreeSet<String>>, what: String) {
        set.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Attaches every static endpoint whose turn it is, until none is left.
fn statics(host: &Host, count: usize, next: &AtomicUsize, told: &Told) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&host.socket());
    loop {
        let n = next.fetch_add(1, Ordering::SeqCst);
        if n >= count {
            return Ok(());
        }
        let station = stations::station(n as u32);
        let request = v1::Attach {
            net: "demo".into(),
            is_static: true,
            ips: station.addresses.clone(),
            mac: Some(station.mac.clone()),
            ..v1::Attach::default()
        };
        loop {
            match runtime.block_on(client.attach(&request)) {
                Ok(endpoint) => break told.note(&told.acknowledged, endpoint.mac),
                // It died over it, and may have it: asked again, it would be taken.
                Err(ClientError::Api(error)) if error.code == v1::ErrorCode::Taken => {
                    break told.note(&told.unknown, station.mac.clone());
                }
                Err(ClientError::Api(error)) if error.code != v1::ErrorCode::Unavailable => {
                    return Err(error).context(station.mac);
                }
                Err(_) => thread::yield_now(),
            }
        }
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_9_is_there_and_nothing_else() -> Result<()> {
    let count: usize = match std::env::var("STORM") {
        Ok(text) => text.parse()?,
        Err(_) => 2000,
    };
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let containers =
            (0..CONTAINERS).map(|n| a.container(&format!("n{n}"))).collect::<Result<Vec<_>>>()?;
        let (told, next, next_container) =
            (Told::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let began = Instant::now();
        let kills = thread::scope(|scope| -> Result<usize> {
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                clients.push(scope.spawn(|| statics(&a, count, &next, &told)));
            }
            for _ in 0..CLIENTS / 2 {
                clients.push(scope.spawn(|| -> Result<()> {
                    loop {
                        let n = next_container.fetch_add(1, Ordering::SeqCst);
                        let Some(container) = containers.get(n) else { return Ok(()) };
                        let (netns, name) = (container.netns_path(), container.name());
                        let line = ["attach", "--net", "demo", "--netns", &netns, "--name", name];
                        let said = a.ctl(&line)?;
                        let set = if said.code == 0 { &told.acknowledged } else { &told.unknown };
                        told.note(set, name.to_owned());
                    }
                }));
            }
            // Three times, in the middle of it.
            let all = count + CONTAINERS;
            let mut kills = 0;
            for part in 1..=3 {
                while told.done.load(Ordering::SeqCst) < all * part / 4
                    && !clients.iter().all(thread::ScopedJoinHandle::is_finished)
                {
                    thread::yield_now();
                }
                a.kill()?;
                kills += 1;
                a.start()?;
            }
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            Ok(kills)
        })?;
        let took = began.elapsed();
        // Once more with all of it.
        a.kill()?;
        a.start()?;
        let acknowledged = told.acknowledged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let unknown = told.unknown.into_inner().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            acknowledged.len() + unknown.len() == count + CONTAINERS,
            "some were not asked for"
        );
        ensure!(acknowledged.len() > count * 9 / 10, "{} acknowledged", acknowledged.len());
        let found: Vec<v1::Endpoint> = a.endpoints()?;
        let key = |e: &v1::Endpoint| e.name.clone().unwrap_or_else(|| e.mac.clone());
        let there: BTreeSet<String> = found.iter().map(key).collect();
        ensure!(there.len() == found.len(), "some are there twice");
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let asked: BTreeSet<String> = acknowledged.union(&unknown).cloned().collect();
        let surplus: Vec<_> = there.difference(&asked).collect();
        ensure!(surplus.is_empty(), "nobody has asked for {surplus:?}");
        let addresses: BTreeSet<_> = found.iter().flat_map(|e| e.ips.iter()).collect();
        ensure!(addresses.len() == found.len(), "an address was given twice");
        eventually("the audit is content", || {
            let audit = a.ctl(&["ipam", "check"])?;
            ensure!(audit.code == 0, "{}", audit.stdout.chars().take(2000).collect::<String>());
            Ok(())
        })?;
        let veths = a.our_links()?.into_iter().filter(|(name, _)| name.starts_with("ove")).count();
        let attached = found.iter().filter(|e| e.netns.is_some()).count();
        ensure!(veths == attached, "{veths} veths for {attached} containers");
        println!(
            "{} attaches in {:.1} s with {kills} kills: {:.0} a second; {} cut off by them",
            count + CONTAINERS,
            took.as_secs_f64(),
            (count + CONTAINERS) as f64 / took.as_secs_f64(),
            unknown.len()
        );
        Ok(())
    })
}
