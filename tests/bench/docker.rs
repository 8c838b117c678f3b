//! What Docker's containers wait for: the figures of docs/performance.md, beside
//! Docker's own overlay between the same two engines, in the same rounds.
//!
//! ```text
//!   run      `docker run -d` begins ─► it returns ─► the first ping across hosts is answered
//!   connect  `docker network connect` begins ─► it returns ─► the same
//! ```
//!
//! `make bench-docker [ROUNDS=15]`: root, release binaries, a quiet machine; three minutes.

use std::time::Instant;

use anyhow::{Context as _, Result};
use overlay_tests::docker::{Engine, IMAGE, driver};
use overlay_tests::figures::spread;
use overlay_tests::{DaemonOptions, Lab, NetSpec, eventually};

const DEMO: NetSpec<'_> = NetSpec { vni: 5000, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

fn main() -> Result<()> {
    let rounds = match std::env::var("ROUNDS") {
        Ok(text) => text.parse().context("ROUNDS is a whole number")?,
        Err(_) => 15,
    };
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        // A swarm has port 7946 for its own gossip, and takes VNIs from 4097 on.
        let options = |join: Vec<String>| DaemonOptions {
            join,
            extra: vec!["--gossip-port=7947".to_owned()],
            ..DaemonOptions::default()
        };
        a.start_with(&driver(&a, options(Vec::new())))?;
        b.start_with(&driver(&b, options(vec![format!("{}:7947", a.address())])))?;
        lab.all_up(&[a.clone(), b.clone()])?;
        a.net_create("demo", DEMO)?;
        eventually("b knows the network", || b.knows_net("demo"))?;
        let (of_a, of_b) = (Engine::on(&a, false)?, Engine::on(&b, false)?);
        of_a.network("demo", "")?;
        of_b.network("demo", "")?;
        of_a.docker(&format!("swarm init --advertise-addr {}", a.address()))?;
        let token = of_a.docker("swarm join-token -q worker")?;
        of_b.docker(&format!(
            "swarm join --token {token} --advertise-addr {} {}:2377",
            b.address(),
            a.address()
        ))?;
        of_a.docker("network create -d overlay --attachable --subnet 10.10.0.0/24 ov")?;
        let target = |net: &str| -> Result<String> {
            let name = format!("target-{net}");
            of_a.run_idle(&name, &format!("--network {net}"))?;
            of_a.docker(&format!(
                "inspect -f {{{{.NetworkSettings.Networks.{net}.IPAddress}}}} {name}"
            ))
        };
        let nets = [("demo", target("demo")?), ("ov", target("ov")?)];
        // Each once before it counts: a worker learns of its first network late.
        for (net, ip) in &nets {
            eventually(&format!("{net} works"), || {
                let _ = of_b.docker("rm -f first");
                of_b.run_idle("first", &format!("--network {net}"))?;
                reached(&of_b, "first", ip)
            })?;
        }
        of_b.docker("rm -f first")?;
        let mut rows: Vec<[Vec<f64>; 4]> = vec![Default::default(); nets.len()];
        for round in 0..rounds {
            for i in 0..nets.len() {
                let at = (i + round) % nets.len();
                let (net, ip) = &nets[at];
                let ms = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
                let began = Instant::now();
                of_b.run_idle("probe", &format!("--network {net}"))?;
                rows[at][0].push(ms(began));
                reached(&of_b, "probe", ip)?;
                rows[at][1].push(ms(began));
                of_b.docker("rm -f probe")?;
                of_b.docker(&format!(
                    "run -d --init --name probe --network none {IMAGE} sleep 600"
                ))?;
                of_b.docker("network disconnect none probe")?;
                let began = Instant::now();
                of_b.docker(&format!("network connect {net} probe"))?;
                rows[at][2].push(ms(began));
                reached(&of_b, "probe", ip)?;
                rows[at][3].push(ms(began));
                of_b.docker("rm -f probe")?;
            }
        }
        println!("| ms, n = {rounds} | p50 | p99 | min | max |\n|---|---|---|---|---|");
        let names = [
            "run: until it returns",
            "run: until a ping",
            "connect: until it returns",
            "connect: until a ping",
        ];
        for (i, name) in names.into_iter().enumerate() {
            for ((net, _), figures) in nets.iter().zip(&rows) {
                let whose = if *net == "demo" { "overlayd" } else { "Docker's overlay" };
                println!("{}", spread(&format!("{name}, {whose}"), figures[i].clone()));
            }
        }
        Ok(())
    })
}

/// Waits for the first answer to a ping from a container, one every 5 ms.
fn reached(engine: &Engine, container: &str, ip: &str) -> Result<()> {
    let pid = engine.docker(&format!("inspect -f {{{{.State.Pid}}}} {container}"))?;
    let ping = ["-n", "ping", "-n", "-q", "-i", "0.005", "-c", "1", "-w", "15", ip];
    engine.run("nsenter", &[&["-t", pid.as_str()][..], &ping].concat()).map(drop)
}
