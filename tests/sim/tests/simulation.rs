//! Clusters that live through what networks and machines do to them, and end
//! with every kernel right.
//!
//! A failing run prints its seed; `make sim SEED=n` runs it again, exactly.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_engine::{ChangeNetwork, Reply, Request};
use overlay_model::{ObjectKey, Vni};
use overlay_sim::host::Settings;
use overlay_sim::{Weather, World};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Seeds to run: `SIM_SEED` alone, or `SIM_RUNS` of them, or `few`.
fn seeds(few: u64) -> Vec<u64> {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (read("SIM_SEED"), read("SIM_RUNS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(runs)) => (0..runs).collect(),
        (None, None) => (0..few).collect(),
    }
}

/// Runs `life` once a seed, each in a runtime and a time of its own.
fn simulate<F: Future<Output = Result<()>>>(few: u64, life: impl Fn(u64) -> F) {
    for seed in seeds(few) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        if let Err(err) = runtime.block_on(life(seed)) {
            panic!("seed {seed}: {err:#}\nrun it again with: make sim SEED={seed}");
        }
    }
}

/// One thing that happens.
async fn happen(world: &mut World, rng: &mut SmallRng, log: &mut Vec<String>) -> Result<()> {
    let n = world.len();
    let i = rng.random_range(0..n);
    let net = ["red", "blue"][rng.random_range(0..2)];
    let at = world.now();
    let what = match rng.random_range(0..100) {
        0..35 if world.runs(i) => {
            // Refused for want of an address while its owner is out of reach.
            let result = world.attach(i, net).await?.map(|ep| ep.endpoint.id.to_string());
            format!("attach on {i} to {net}: {:?}", result.map_err(|r| r.message))
        }
        35..43 if world.runs(i) => {
            let n = rng.random_range(0..1000);
            let Some(result) = world.take_over(i, n).await? else { return Ok(()) };
            let result = result.map(|ep| (ep.endpoint.mac, ep.endpoint.move_seq));
            format!("{i} takes over {:?}", result.map_err(|r| r.message))
        }
        43..60 if world.runs(i) => {
            let ids = world.endpoints_of(i);
            let Some(id) = ids.get(rng.random_range(0..ids.len().max(1))) else { return Ok(()) };
            let result = world.detach(i, id).await?;
            format!("detach {id} on {i}: {:?}", result.map_err(|r| r.message))
        }
        60..68 => {
            world.kill(i).await;
            format!("kill {i}")
        }
        68..78 if !world.runs(i) => {
            world.start(i).await?;
            format!("start {i}")
        }
        78..83 => {
            let cut = rng.random_range(1..n);
            let one_way = rng.random::<bool>();
            let (first, second): (Vec<_>, Vec<_>) = (0..n).partition(|i| *i < cut);
            world.partition(&first, &second, one_way);
            format!("partition at {cut}, one way {one_way}")
        }
        83..88 => {
            world.net.heal();
            "heal".to_owned()
        }
        88..92 => {
            let weather = [Weather::FAIR, Weather::WIDE, Weather::STORM][rng.random_range(0..3)];
            world.weather(weather);
            format!("{weather:?}")
        }
        92..96 => {
            let hours = rng.random_range(-10..=10);
            world.jump_clock(i, hours * 3_600_000);
            format!("clock of {i} jumps by {hours} h")
        }
        96..98 if world.runs(i) => {
            let first = rng.random_range(2..250);
            let change = ChangeNetwork {
                net: net.to_owned(),
                internal: Some(rng.random()),
                exclude: vec![
                    format!("{}.{first}", if net == "red" { "10.1.0" } else { "10.2.0" })
                        .parse()?,
                ],
                ..ChangeNetwork::default()
            };
            let result = world.ask(i, Request::ChangeNetwork(change)).await?;
            format!("{net} excludes {first}, on {i}: {:?}", result.map(drop).map_err(|r| r.message))
        }
        _ => {
            world.meddle(i, ObjectKey::Link(Vni::new(4097)?.vxlan()));
            format!("ovx4097 deleted on {i}")
        }
    };
    log.push(format!("{at:>12.3?} {what}"));
    world.no_address_given_twice()
}

async fn life(seed: u64, hosts: usize, lasts: Duration) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::new(seed, hosts, Settings::default());
    world.start_all().await?;
    world.all_up(Duration::from_secs(20)).await?;
    for (net, cidr) in [("red", "10.1.0.0/24"), ("blue", "10.2.0.0/24")] {
        world.create(0, net, cidr).await?.context("created")?;
    }
    world.pass(Duration::from_secs(2)).await;
    let mut log = Vec::new();
    let result = async {
        while world.now() < lasts {
            world.pass(Duration::from_millis(rng.random_range(0..400))).await;
            happen(&mut world, &mut rng, &mut log).await?;
        }
        world.net.heal();
        world.weather(Weather::FAIR);
        for i in 0..hosts {
            if !world.runs(i) {
                world.start(i).await?;
            }
        }
        // A daemon that has just started waits up to 15 s before it calls anything stale.
        let took = match world.converge(Duration::from_secs(40)).await {
            Ok(took) => took,
            // What moved too often, by hosts that had forgotten, stays until somebody says so.
            Err(_) => {
                world.thaw_all().await?;
                world.converge(Duration::from_secs(5)).await?
            }
        };
        println!("seed {seed}: {} things happened, right after {took:?}", log.len());
        world.no_address_twice()
    }
    .await;
    result.with_context(|| format!("after\n{}", log.join("\n")))
}

#[test]
fn whatever_happens_to_four_hosts_every_kernel_is_right_in_the_end() {
    simulate(8, |seed| life(seed, 4, Duration::from_secs(60)));
}

#[test]
fn whatever_happens_to_twenty_hosts_every_kernel_is_right_in_the_end() {
    simulate(2, |seed| life(seed, 20, Duration::from_secs(40)));
}

#[test]
fn in_fair_weather_a_change_is_everywhere_within_three_milliseconds() {
    simulate(1, |seed| async move {
        let mut world = World::new(seed, 10, Settings::default());
        world.start_all().await?;
        world.all_up(Duration::from_secs(20)).await?;
        world.create(0, "red", "10.1.0.0/24").await?.context("created")?;
        world.pass(Duration::from_secs(2)).await;
        for i in 0..10 {
            world.attach(i, "red").await?.context("attached")?;
        }
        world.converge(Duration::from_secs(5)).await?;
        for n in 0..50 {
            let start = world.now();
            let ep = world.attach(n % 10, "red").await?.context("attached")?.endpoint;
            while world.who_has(ep.mac) < 9 {
                world.pass(Duration::from_micros(100)).await;
            }
            let took = world.now() - start;
            ensure!(took <= Duration::from_millis(3), "{took:?}");
            world.pass(Duration::from_millis(50)).await;
        }
        Ok(())
    });
}

#[test]
fn hosts_that_create_a_network_at_once_have_one_whatever_one_of_fifty_messages_does() {
    simulate(4, |seed| async move {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = World::new(seed, 8, Settings::default());
        world.start_all().await?;
        world.all_up(Duration::from_secs(20)).await?;
        world.pass(Duration::from_secs(5)).await;
        for (n, loss) in [0, 0, 0, 20, 20, 20].into_iter().enumerate() {
            world.weather(Weather { loss, ..Weather::FAIR });
            let name = format!("net{n}");
            let hosts: Vec<usize> = (0..8).filter(|_| rng.random_range(0..2) == 0).collect();
            let ids = world.create_once(&hosts, &name).await?;
            ensure!(ids.iter().all(|id| *id == ids[0]), "{name}: {ids:?} on {hosts:?}");
            // What is attached there at once has an address of its own.
            let refused = world.attach_all(&hosts, &name).await?;
            ensure!(refused.is_empty(), "{refused:?} of {hosts:?} were refused on {name}");
            world.no_address_given_twice()?;
        }
        world.weather(Weather::FAIR);
        world.converge(Duration::from_secs(40)).await?;
        for i in 0..8 {
            let Ok(Reply::Networks(views)) = world.ask(i, Request::Networks).await? else {
                anyhow::bail!("host {i} does not list its networks");
            };
            let lost = views.iter().any(|view| view.conflict.is_some());
            ensure!(views.len() == 6 && !lost, "host {i}: {views:?}");
        }
        world.no_address_twice()
    });
}

/// Every host has measured every other within the last minute, and found `expected`.
async fn round_trips(world: &World, expected: std::ops::RangeInclusive<Duration>) -> Result<()> {
    for i in 0..world.len() {
        let peers = world.peers(i).await?;
        ensure!(peers.len() == world.len() - 1, "h{i} knows {peers:?}");
        for peer in peers {
            let trip =
                peer.round_trip.with_context(|| format!("h{i} has not measured {peer:?}"))?;
            ensure!(expected.contains(&trip.smoothed), "h{i} found {trip:?} to {}", peer.addr);
            ensure!(trip.age < Duration::from_secs(60), "h{i} found {trip:?} to {}", peer.addr);
        }
    }
    Ok(())
}

#[test]
fn the_round_trip_that_is_shown_is_twice_the_way_whatever_is_lost() {
    simulate(2, |seed| async move {
        let mut world = World::new(seed, 4, Settings::default());
        let calm = Weather { loss: 0, ..Weather::WIDE };
        world.weather(calm);
        world.start_all().await?;
        world.all_up(Duration::from_secs(20)).await?;
        world.pass(Duration::from_secs(5)).await;
        // 20 to 22 ms each way, by clocks that count in milliseconds.
        let twice = Duration::from_millis(40)..=Duration::from_millis(46);
        round_trips(&world, twice.clone()).await.context("nothing is lost")?;
        for loss in [10, 200] {
            world.weather(Weather { loss, ..calm });
            for _ in 0..4 {
                world.pass(Duration::from_secs(30)).await;
                let lossy = format!("{loss} of 1000 are lost");
                round_trips(&world, twice.clone()).await.context(lossy)?;
            }
        }
        // The way changes, and what is shown follows.
        world.weather(Weather { delay: Duration::from_millis(5), ..calm });
        world.pass(Duration::from_secs(60)).await;
        round_trips(&world, Duration::from_millis(10)..=Duration::from_millis(16)).await
    });
}

#[test]
fn nobody_is_called_down_for_a_fifth_of_lost_messages() {
    simulate(1, |seed| async move {
        let mut world = World::new(seed, 10, Settings::default());
        world.start_all().await?;
        world.all_up(Duration::from_secs(20)).await?;
        world.weather(Weather { loss: 200, ..Weather::FAIR });
        let start = world.now();
        // An hour, with `make sim`; ten minutes otherwise.
        let long = std::env::var_os("SIM_LONG").is_some();
        world.pass(Duration::from_secs(if long { 3600 } else { 600 })).await;
        for i in 0..10 {
            for (at, notice) in world.told(i, start) {
                let text = notice.to_string();
                ensure!(!text.contains("is down"), "h{i} at {at:?}: {text}");
            }
        }
        // The same cluster tells a real death in time, in bad weather and in fair.
        for victim in 3..9 {
            if victim == 6 {
                world.weather(Weather::FAIR);
                world.pass(Duration::from_secs(5)).await;
            }
            let killed = world.now();
            world.kill(victim).await;
            world.pass(Duration::from_secs(6)).await;
            for i in (0..10).filter(|i| world.runs(*i)) {
                let told = world.told(i, killed);
                let says = format!("host h{victim} is down");
                let down = told.iter().find(|(_, n)| n.to_string().starts_with(&says));
                let (at, _) = down.with_context(|| format!("h{i} never said so: {told:?}"))?;
                let after = *at - killed;
                println!("h{i} says that h{victim} is down after {after:?}");
                ensure!(after <= Duration::from_secs(4), "h{i} says so after {after:?}");
            }
        }
        Ok(())
    });
}
