//! A thousand hosts on a wide network: the figures of docs/performance.md that
//! no machine here could measure with real daemons. Virtual time: what a
//! processor takes counts as nothing, delay and loss of the network as they are.
//!
//! `make bench-thousand [HOSTS=n]`; half an hour for a thousand.

use std::time::Duration;

use anyhow::{Context as _, Result};
use overlay_sim::host::Settings;
use overlay_sim::{Weather, World};

/// As the daemon has it; with glibc's, more than half of the time is malloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Changes that are measured.
const CHANGES: usize = 30;
/// How long nothing happens, for the traffic at rest.
const IDLE: Duration = Duration::from_secs(10);
/// When a change is called lost.
const LOST: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let hosts = match std::env::var("HOSTS") {
        Ok(text) => text.parse().context("HOSTS is a whole number")?,
        Err(_) => 1000,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(measure(hosts))
}

async fn measure(n: usize) -> Result<()> {
    let began = std::time::Instant::now();
    let start = tokio::time::Instant::now();
    let say = |what: &str| {
        let (real, virtually) = (began.elapsed().as_secs_f64(), start.elapsed().as_secs_f64());
        eprintln!("{real:>6.0} s, of the simulation {virtually:.1} s: {what}");
    };
    let mut world = World::new(1, n, Settings::default());
    world.weather(Weather::WIDE);
    world.start_all().await?;
    say("started");
    let joined = world.all_up(Duration::from_secs(120)).await?;
    say("all see all");
    world.create(0, "red", "10.1.0.0/16").await?.context("created")?;
    world.pass(Duration::from_secs(5)).await;
    // Who has no addresses of its own yet asks another host, which may be busy giving to others:
    // as many at a time as there are hosts that have some to give.
    let mut waiting: Vec<usize> = (0..n).rev().collect();
    for tries in 0.. {
        let now = waiting.split_off(waiting.len().saturating_sub((n - waiting.len()).max(1)));
        waiting.extend(world.attach_all(&now, "red").await?);
        if waiting.is_empty() {
            break;
        }
        anyhow::ensure!(tries < 100, "hosts {waiting:?} got no address");
        world.pass(Duration::from_millis(100)).await;
        say(&format!("{} attached", n - waiting.len()));
    }
    say("all attached");
    let settled = world.converge(Duration::from_secs(60)).await?;
    say("every kernel is right");
    let before: Vec<u64> = (0..n).map(|i| world.bytes_sent(i)).collect();
    world.pass(IDLE).await;
    let mut rates: Vec<f64> = (0..n)
        .map(|i| (world.bytes_sent(i) - before[i]) as f64 / IDLE.as_secs_f64() / 1e3)
        .collect();
    rates.sort_by(f64::total_cmp);
    say("idle traffic counted");

    // For each change, when each host had it.
    let (mut each, mut last) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let ep = world.attach(change * 37 % n, "red").await?.context("attached")?.endpoint;
        let start = world.now();
        let mut had = 0;
        while had < n - 1 {
            world.pass(Duration::from_millis(1)).await;
            let has = world.who_has(ep.mac);
            let took = world.now() - start;
            anyhow::ensure!(took < LOST, "only {has} of {n} hosts have {}", ep.mac);
            each.extend(std::iter::repeat_n(took.as_secs_f64() * 1e3, has.saturating_sub(had)));
            had = had.max(has);
        }
        last.push((world.now() - start).as_secs_f64() * 1e3);
        world.pass(Duration::from_millis(200)).await;
    }
    say("changes measured");
    each.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);
    let rank = |figures: &[f64], per_mille: usize| {
        figures[(figures.len() * per_mille).div_ceil(1000).max(1) - 1]
    };
    println!("| {n} simulated hosts, one network, 20 to 22 ms one way, 1 % lost | |\n|---|---|");
    println!("| all started at once until all see all | {:.1} s |", joined.as_secs_f64());
    println!("| last attach of {n} until every kernel is right | {:.2} s |", settled.as_secs_f64());
    println!(
        "| traffic at rest, sent by a host, with seal and headers | {:.1} kB/s (largest {:.1}) |",
        rank(&rates, 500),
        rates[rates.len() - 1]
    );
    println!(
        "| an endpoint on one host until another has it, p50, p99, p99.9 | {:.0}, **{:.0}**, {:.0} ms |",
        rank(&each, 500),
        rank(&each, 990),
        rank(&each, 999)
    );
    println!(
        "| until the last has it, p50, largest of {CHANGES} | {:.0}, **{:.0}** ms |",
        rank(&last, 500),
        last[last.len() - 1]
    );
    Ok(())
}
