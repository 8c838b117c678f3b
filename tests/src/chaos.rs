//! Random faults on a lab of real daemons, and what must be true after each of them.
//!
//! ```text
//!   seed ──draw──► steps of one to three faults ──► World: hosts, containers, streams of pings
//!                                                     │
//!   what clients were told ──► the model ──compared──► every kernel, and packets
//! ```
//!
//! A step: pings begin to run, faults are made at once (`fault.rs`), containers come and go
//! meanwhile, the faults are healed. Then (`world.rs`), within ten seconds times patience:
//!
//! 1. Every host sees all hosts up, and has the networks and endpoints that were acknowledged,
//!    and no others.
//! 2. Its FDB, flood lists, neighbours and links are those that follow from them; nothing is
//!    planned, pending or failed; the audit of addresses is content.
//! 3. Every container reaches every address of its network, and none of another one.
//! 4. No address was given twice; no daemon has died or panicked, or holds many more
//!    descriptors or much more memory than at the start.
//! 5. Streams of pings that no fault of the step concerned (`Fault::concerns`) lost nothing.
//!
//! The faults, in their order, are a function of the seed. What the threads of a machine make of
//! them is not: a seed that failed once may pass.
//!
//! Not yet: a disk that is full, clocks, hosts that are forgotten or cloned,
//! reordered packets, TCP streams, names, published ports.

mod fault;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use fault::{Dice, Fault, Step, draw};
use world::World;

use crate::figures::rank;
use crate::kernel;
use crate::lab::Lab;
use crate::ping::{PingStream, PingSummary};

/// What a run is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// What faults are drawn from.
    pub seed: u64,
    /// How many.
    pub faults: usize,
    /// On how many hosts, 3 to 20.
    pub hosts: usize,
    /// No step begins later than this.
    pub until: Duration,
}

/// What a step cost.
#[derive(Debug, Clone)]
struct Cost {
    kinds: Vec<&'static str>,
    /// Until every kernel was right, after all was healed.
    agreed: Duration,
    /// Pings of the streams that were concerned.
    lost: u64,
    sent: u64,
    /// The longest run of pings without an answer; ping sends fewer a second while none comes.
    gap: u64,
}

/// A stream of pings, and between which hosts.
struct Stream {
    net: usize,
    from: usize,
    to: usize,
    pings: PingStream,
}

/// Runs a lab as ordered.
///
/// # Errors
/// The first violation: which claim, at which step, of which seed, and where its bundle is.
pub fn run(orders: Orders) -> Result<()> {
    let began = Instant::now();
    let steps = draw(orders.seed, orders.hosts, orders.faults);
    println!(
        "SEED={} N={} HOSTS={}: {} faults in {} steps",
        orders.seed,
        orders.faults,
        orders.hosts,
        orders.faults,
        steps.len()
    );
    Lab::run(|lab| {
        let world = World::new(lab, orders.hosts)?;
        let mut costs = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            if began.elapsed() > orders.until {
                println!("{} s are over", orders.until.as_secs());
                break;
            }
            let words: Vec<String> = step.faults.iter().map(ToString::to_string).collect();
            println!(
                "step {number} at {:.0} s: {}",
                began.elapsed().as_secs_f64(),
                words.join("; ")
            );
            match one_step(&world, step) {
                Ok(cost) => {
                    println!(
                        "    agreed after {:.1} s; {} of {} pings concerned lost, {} in a row",
                        cost.agreed.as_secs_f64(),
                        cost.lost,
                        cost.sent,
                        cost.gap
                    );
                    costs.push(cost);
                }
                Err(err) => {
                    let bundle = bundle(&world, orders, number, &steps[..=number], &err);
                    let bundle = bundle
                        .map_or_else(|e| format!("none: {e:#}"), |path| path.display().to_string());
                    return Err(err.context(format!(
                        "SEED={} N={} HOSTS={}, step {number} ({}); bundle: {bundle}",
                        orders.seed,
                        orders.faults,
                        orders.hosts,
                        words.join("; ")
                    )));
                }
            }
        }
        ensure!(!costs.is_empty(), "no fault was made");
        report(&world, &costs);
        Ok(())
    })
}

/// That what is checked after each step is noticed when it is wrong.
///
/// # Errors
/// What was not.
pub fn checks_notice() -> Result<()> {
    Lab::run(|lab| World::new(lab, 3)?.checks_notice())
}

fn streams(world: &World) -> Result<Vec<Stream>> {
    let residents = world.residents();
    let count = world.hosts.len();
    let mut streams = Vec::new();
    for (net, from, container, _) in &residents {
        // Two rings, of which each pair of five hosts is in one.
        let to = (from + 1 + net) % count;
        let found = residents.iter().find(|(n, host, ..)| n == net && *host == to);
        let ip = found.context("a resident on each host")?.3;
        streams.push(Stream { net: *net, from: *from, to, pings: container.ping_stream(ip)? });
    }
    Ok(streams)
}

fn one_step(world: &World, step: &Step) -> Result<Cost> {
    let streams = streams(world).context("before the faults")?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let mut churn = Dice::new(step.churn);
        let clients: Vec<_> = (0..world.hosts.len())
            .map(|host| {
                let dice = Dice::new(churn.roll());
                let stop = &stop;
                scope.spawn(move || world.churn(host, dice, stop))
            })
            .collect();
        let faults: Vec<_> = step
            .faults
            .iter()
            .enumerate()
            .map(|(number, fault)| scope.spawn(move || fault.happen(world, number)))
            .collect();
        let join = |all: Vec<std::thread::ScopedJoinHandle<'_, Result<()>>>| {
            let ends: Vec<_> = all
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
                .collect();
            ends.into_iter().collect::<Result<()>>()
        };
        let faults = join(faults);
        stop.store(true, Ordering::SeqCst);
        let clients = join(clients);
        faults.and(clients)
    })?;
    let agreed = world.agrees()?;

    let mut cost = Cost {
        kinds: step.faults.iter().map(Fault::kind).collect(),
        agreed,
        lost: 0,
        sent: 0,
        gap: 0,
    };
    for Stream { net, from, to, pings } in streams {
        let summary: PingSummary = pings.stop()?;
        if step.faults.iter().any(|fault| fault.concerns(net, from, to)) {
            cost.lost += summary.lost();
            cost.sent += summary.sent;
            cost.gap = cost.gap.max(summary.longest_gap);
            continue;
        }
        let (from, to) = (fault::letter(from), fault::letter(to));
        let vni = world.vni(net);
        summary.expect_lossless(&format!("no fault concerns {from} to {to} in VNI {vni}"))?;
    }
    Ok(cost)
}

/// What each kind cost: the figures are of steps, in which other faults may have been.
fn report(world: &World, costs: &[Cost]) {
    let mut kinds: BTreeMap<&str, Vec<&Cost>> = BTreeMap::new();
    for cost in costs {
        for kind in &cost.kinds {
            kinds.entry(kind).or_default().push(cost);
        }
    }
    println!(
        "\n| fault | times | agreed after, s: p50 | max | pings lost: p50 | max | most in a row |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (kind, costs) in kinds {
        let mut agreed: Vec<f64> = costs.iter().map(|c| c.agreed.as_secs_f64()).collect();
        let mut lost: Vec<f64> = costs.iter().map(|c| c.lost as f64).collect();
        agreed.sort_by(f64::total_cmp);
        lost.sort_by(f64::total_cmp);
        let gap = costs.iter().map(|c| c.gap).max().unwrap_or(0);
        println!(
            "| {kind} | {} | {:.1} | {:.1} | {} | {} | {gap} |",
            costs.len(),
            rank(&agreed, 50),
            rank(&agreed, 100),
            rank(&lost, 50),
            rank(&lost, 100),
        );
    }
    let [done, refused, unknown] = &world.asked;
    let (fds, kib) = *world.largest.lock().unwrap_or_else(|e| e.into_inner());
    let (made, removed) = world.networks_made();
    println!("\n{made} networks were created in a split, and {removed} of them removed in another");
    println!(
        "{} requests acknowledged, {} refused {:?}, {} without an answer; a daemon had at most {fds} \
         descriptors and {} MiB",
        done.load(Ordering::SeqCst),
        refused.load(Ordering::SeqCst),
        world.refusals.lock().unwrap_or_else(|e| e.into_inner()),
        unknown.load(Ordering::SeqCst),
        kib >> 10
    );
}

/// Everything there is to see, in files under target/chaos.
fn bundle(
    world: &World,
    orders: Orders,
    number: usize,
    steps: &[Step],
    err: &anyhow::Error,
) -> Result<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has a parent")?;
    let dir = top.join(format!("target/chaos/seed-{}-step-{number}", orders.seed));
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let mut story = format!("{orders:?}\n\n{err:?}\n\n");
    for (number, step) in steps.iter().enumerate() {
        let words: Vec<String> = step.faults.iter().map(ToString::to_string).collect();
        let _ = writeln!(story, "step {number}: {}", words.join("; "));
    }
    let _ = writeln!(story, "\nacknowledged:\n{}", world.in_words());
    std::fs::write(dir.join("story"), story)?;
    for host in &world.hosts {
        let to = dir.join(host.name());
        std::fs::create_dir_all(&to)?;
        std::fs::write(to.join("tables"), kernel::describe(host.netns()))?;
        std::fs::write(to.join("host"), host.describe())?;
        for file in
            [host.log_file(), host.dir().join("journal"), host.state_dir().join("state.redb")]
        {
            if let (true, Some(name)) = (file.exists(), file.file_name()) {
                std::fs::copy(&file, to.join(name))?;
            }
        }
    }
    Ok(dir)
}
