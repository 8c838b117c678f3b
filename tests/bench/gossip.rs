//! What the control plane costs and how soon it is where it should be: the
//! figures of docs/performance.md. Real daemons, sealed, a namespace each.
//!
//! ```text
//!   reach    an endpoint on a ──► its entries in the kernels of all others, 3, 10, 20 hosts
//!   bulk     10,000 and 50,000 endpoints on a at once ──► b holds all of them
//!   joiner   c starts where a has 100,000 endpoints ──► c knows them, c's kernel holds them
//!   idle     bytes, processor time and memory of daemons that have nothing to do
//!   memory   100,000 endpoints, of 100 hosts
//!   killed   a host loses power ──► every other one says so
//!   loss     minutes of lost packets: nobody is called down who lives
//! ```
//!
//! `make bench-gossip [ONLY="reach bulk"] [MINUTES=10]`: root, release
//! binaries, a quiet machine. Times on other hosts are those of `bridge
//! -timestamp monitor`, or for thousands of entries those of a socket that
//! hears the same ([`Tally`]), not the daemon's own word.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_api::{Client, v1};
use overlay_tests::figures::{Section, median, ms, run_sections, spread};
use overlay_tests::kernel::ArpRoom;
use overlay_tests::stations::{self, DEMO, held, import, station};
use overlay_tests::{
    DaemonOptions, Host, Lab, Monitor, NetSpec, Tally, Watcher, eventually_within,
};

const SECTIONS: [(&str, Section); 7] = [
    ("reach", reach),
    ("bulk", bulk),
    ("joiner", joiner),
    ("idle", idle),
    ("memory", memory),
    ("killed", killed),
    ("loss", loss),
];

/// Single changes that are measured, for each number of hosts.
const CHANGES: usize = 200;

fn main() -> Result<()> {
    // A hundred hosts, each a neighbour of every other one.
    let _room = ArpRoom::for_entries(100 * 100)?;
    run_sections(&SECTIONS, &[])
}

// ----- hosts, and what one asks of them ------------------------------------

/// `n` hosts that all see each other; each was told of the first two.
fn cluster(lab: &Lab, n: usize) -> Result<Vec<Host>> {
    let hosts: Vec<Host> = (0..n).map(|i| lab.host(&format!("h{i}"))).collect::<Result<_>>()?;
    let seeds: Vec<String> =
        hosts.iter().take(2).map(|h| format!("{}:7946", h.address())).collect();
    for host in &hosts {
        let own = format!("{}:7946", host.address());
        let join = seeds.iter().filter(|s| **s != own).cloned().collect();
        host.start_with(&DaemonOptions { join, ..DaemonOptions::default() })?;
    }
    let patience = Duration::from_secs(180);
    for host in &hosts {
        eventually_within(patience, &format!("{} sees all up", host.name()), || {
            let seen = host.ask(async |c| c.hosts().await)?;
            let up = seen.iter().filter(|h| h.state == "up").count();
            ensure!(up == n, "{up} of {n}");
            Ok(())
        })?;
    }
    Ok(hosts)
}

/// A network that all hosts use: the first made it, each has one station.
fn demo(hosts: &[Host]) -> Result<()> {
    hosts[0].net_create("demo", DEMO)?;
    for (i, host) in hosts.iter().enumerate() {
        host.knows_net("demo")?;
        host.attach("demo", &format!("c{i}"))?;
    }
    for host in hosts {
        eventually_within(Duration::from_secs(60), "all VTEPs are known", || {
            let flood = host.fdb("ovx4097")?.flood().len();
            ensure!(flood == hosts.len() - 1, "{flood}");
            Ok(())
        })?;
    }
    Ok(())
}

// ----- reach ---------------------------------------------------------------

/// One change on a, and when each other kernel had it.
struct Change {
    began: SystemTime,
    done: SystemTime,
    mac: String,
}

fn reach() -> Result<()> {
    println!("| ms, n = {CHANGES} | p50 | p99 | min | max |\n|---|---|---|---|---|");
    for n in [3, 10, 20] {
        Lab::run(|lab| {
            let hosts = cluster(lab, n)?;
            demo(&hosts)?;
            let monitors: Vec<Monitor> =
                hosts[1..].iter().map(Host::monitor_fdb).collect::<Result<_>>()?;
            // The last entry of a station is its neighbour's; seen on one host.
            let neigh = hosts[1].monitor("ip -ts monitor neigh dev ovb4097")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let client = Client::new(&hosts[0].socket());
            let change = |i: usize, add: bool| -> Result<Change> {
                // Not in step with anything that beats.
                std::thread::sleep(Duration::from_millis(40 + (i as u64 * 7919) % 37));
                let endpoint = station(u32::try_from(i)?);
                let mac = endpoint.mac.clone();
                let began = SystemTime::now();
                if add {
                    let request = v1::Import {
                        net: "demo".into(),
                        endpoints: vec![endpoint],
                        ..Default::default()
                    };
                    runtime.block_on(client.import(&request))?;
                } else {
                    runtime.block_on(client.detach(&mac, Some("demo")))?;
                }
                Ok(Change { began, done: SystemTime::now(), mac })
            };
            for i in 0..5 {
                change(100_000 + i, true)?;
            }
            let repeated = hosts[0].counter("gossip_push_repeated")?;
            for add in [true, false] {
                let changes: Vec<Change> =
                    (0..CHANGES).map(|i| change(i, add)).collect::<Result<_>>()?;
                let last = &changes[CHANGES - 1].mac;
                for monitor in &monitors {
                    monitor.first("the last one arrived", |e| {
                        e.is_deletion() != add && e.text.contains(last) && e.text.contains(" dst ")
                    })?;
                }
                let mut all: BTreeMap<&str, SystemTime> = BTreeMap::new();
                let mut first: BTreeMap<&str, SystemTime> = BTreeMap::new();
                let mut events: Vec<_> = Vec::new();
                for monitor in &monitors {
                    events.push(monitor.events()?);
                }
                events.push(neigh.events()?);
                for (m, events) in events.iter().enumerate() {
                    let mut latest: BTreeMap<&str, SystemTime> = BTreeMap::new();
                    for event in events.iter().filter(|e| e.is_deletion() != add) {
                        if let Some(at) = event.text.find("02:aa:")
                            && let Some(mac) = event.text.get(at..at + 17)
                        {
                            latest.insert(mac, event.at);
                        }
                    }
                    for change in &changes {
                        // A deleted neighbour is told of without its MAC.
                        let Some(at) = latest.get(change.mac.as_str()) else {
                            ensure!(m == monitors.len(), "{} never arrived", change.mac);
                            continue;
                        };
                        let to = all.entry(&change.mac).or_insert(*at);
                        *to = (*to).max(*at);
                        if m == 0 {
                            first.insert(&change.mac, *at);
                        }
                    }
                }
                let what = if add { "added" } else { "removed" };
                let took = |to: &dyn Fn(&Change) -> SystemTime| {
                    changes.iter().map(|c| ms(c.began, to(c))).collect::<Vec<_>>()
                };
                let name = format!("{n} hosts, {what} on a: request until");
                println!("{}", spread(&format!("{name} answered"), took(&|c| c.done)));
                let one = took(&|c| first[c.mac.as_str()]);
                println!("{}", spread(&format!("{name} in b's kernel"), one));
                let every = took(&|c| all[c.mac.as_str()]);
                println!("{}", spread(&format!("**{name} in all kernels**"), every));
            }
            let repeated = hosts[0].counter("gossip_push_repeated")? - repeated;
            println!("\n({n} hosts: {repeated} pushes were repeated)\n");
            Ok(())
        })?;
    }
    Ok(())
}

// ----- bulk ----------------------------------------------------------------

/// A second of silence: that was the last entry.
const QUIET: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

fn bulk() -> Result<()> {
    println!(
        "| ms from the start of `overlayctl endpoint import` | it has ended | first entry in b's kernel | \
         b holds all | removed: b holds none | processor of a, b |\n|---|---|---|---|---|---|"
    );
    for n in [10_000, 50_000] {
        Lab::run(|lab| {
            let hosts = cluster(lab, 2)?;
            demo(&hosts)?;
            let [a, b] = &hosts[..] else { bail!("two") };
            let text: String = (0..n)
                .map(|i| {
                    let s = station(i);
                    format!("{} {}\n", s.mac, s.addresses[0])
                })
                .collect();
            let file = a.dir().join("stations");
            std::fs::write(&file, text)?;
            let empty = a.dir().join("none");
            std::fs::write(&empty, "")?;
            let tally = Tally::start(b.netns(), stations::PREFIX)?;
            let mut figures: [Vec<f64>; 6] = Default::default();
            for _ in 0..5 {
                tally.reset();
                let used = [Use::of(a)?, Use::of(b)?];
                let began = SystemTime::now();
                let run = |file: &PathBuf| -> Result<()> {
                    let file = file.to_str().context("ASCII")?;
                    let args = ["endpoint", "import", "--net", "demo", "--replace", file];
                    let out = a.ctl(&args)?;
                    ensure!(out.code == 0, "{out:?}");
                    Ok(())
                };
                run(&file)?;
                figures[0].push(ms(began, SystemTime::now()));
                let told = tally.settled(3 * n as usize, QUIET, LIMIT)?;
                let (first, last) = told.span.context("told")?;
                figures[1].push(ms(began, first));
                figures[2].push(ms(began, last));
                for (n, (host, used)) in [a, b].into_iter().zip(used).enumerate() {
                    figures[4 + n].push((Use::of(host)?.ticks - used.ticks) as f64 * 10.0);
                }
                held(b, n as usize, LIMIT)?;
                tally.reset();
                let began = SystemTime::now();
                run(&empty)?;
                // Removed neighbours are told of without their MACs.
                let told = tally.settled(2 * n as usize, QUIET, LIMIT)?;
                figures[3].push(ms(began, told.span.context("told")?.1));
                held(b, 0, LIMIT)?;
            }
            let [ended, first, all, none, by_a, by_b] = figures.map(median);
            println!("| {n} endpoints | {ended} | {first} | **{all}** | {none} | {by_a}, {by_b} |");
            Ok(())
        })?;
    }
    Ok(())
}

// ----- joiner --------------------------------------------------------------

fn joiner() -> Result<()> {
    const N: u32 = 100_000;
    println!("| s, {N} endpoints on a, n = 5 | |\n|---|---|");
    Lab::run(|lab| {
        let hosts = cluster(lab, 2)?;
        demo(&hosts)?;
        for part in 0..2 {
            let part = part * N / 2;
            import(&hosts[0], "demo", (part..part + N / 2).map(station).collect())?;
        }
        held(&hosts[1], N as usize, LIMIT)?;
        let c = lab.host("c")?;
        let options = DaemonOptions {
            join: hosts.iter().map(|h| format!("{}:7946", h.address())).collect(),
            ..DaemonOptions::default()
        };
        let (mut known, mut programmed, mut resident) = (vec![], vec![], vec![]);
        for _ in 0..5 {
            // A host that nobody has heard of: it has no state.
            let began = Instant::now();
            c.start_with(&options)?;
            eventually_within(LIMIT, "c knows all", || {
                let status = c.status()?;
                ensure!(status.endpoints >= N as usize, "{}", status.endpoints);
                Ok(())
            })?;
            known.push(began.elapsed().as_secs_f64());
            // Its first endpoint: now its kernel needs them.
            let tally = Tally::start(c.netns(), stations::PREFIX)?;
            let began = SystemTime::now();
            let own = c.attach("demo", "own")?;
            let told = tally.settled(3 * N as usize, QUIET, LIMIT)?;
            programmed.push(ms(began, told.span.context("told")?.1) / 1e3);
            held(&c, N as usize, LIMIT)?;
            resident.push(c.resident_kib()? as f64 / 1024.0);
            c.detach("own")?;
            c.remove_container(&own)?;
            let out = c.ctl(&["leave", "--force"])?;
            ensure!(out.code == 0, "{out:?}");
            c.ended()?;
            std::fs::remove_dir_all(c.state_dir())?;
        }
        println!("| c starts until it knows all, {N} records | **{}** |", median(known));
        println!("| then its first attach until its kernel holds all | {} |", median(programmed));
        println!("| resident memory of c then, MiB | {} |", median(resident));
        println!("| of a, MiB | {:.1} |", hosts[0].resident_kib()? as f64 / 1024.0);

        // With a state of its own: an endpoint that needs the entries from the first record on.
        let mut back = vec![];
        c.start_with(&options)?;
        eventually_within(LIMIT, "c has taken a station in", || {
            let mac = "02:bb:00:00:00:01".to_owned();
            import(&c, "demo", vec![v1::StaticEndpoint { mac, ..station(N + 1) }])
        })?;
        for _ in 0..5 {
            c.power_off()?;
            c.power_on()?;
            let tally = Tally::start(c.netns(), stations::PREFIX)?;
            let began = SystemTime::now();
            c.spawn(&options)?;
            let told = tally.settled(3 * N as usize, QUIET, LIMIT)?;
            back.push(ms(began, told.span.context("told")?.1) / 1e3);
            held(&c, N as usize, LIMIT)?;
        }
        println!(
            "| c starts after a loss of power until its kernel holds all | **{}** |",
            median(back)
        );
        Ok(())
    })
}

// ----- idle ----------------------------------------------------------------

fn idle() -> Result<()> {
    const SECONDS: u64 = 60;
    println!(
        "| idle, {SECONDS} s, median of the hosts (smallest..largest) | sent, kB/s | received, kB/s | \
         processor, % of a core | resident, MiB |\n|---|---|---|---|---|"
    );
    for n in [3, 10, 50] {
        Lab::run(|lab| {
            let hosts = cluster(lab, n)?;
            // The news of the start has gone round.
            std::thread::sleep(Duration::from_secs(20));
            let before: Vec<Use> = hosts.iter().map(Use::of).collect::<Result<_>>()?;
            std::thread::sleep(Duration::from_secs(SECONDS));
            let after: Vec<Use> = hosts.iter().map(Use::of).collect::<Result<_>>()?;
            let per = |f: &dyn Fn(&Use, &Use) -> f64| {
                median(before.iter().zip(&after).map(|(b, a)| f(b, a)).collect())
            };
            let seconds = |b: &Use, a: &Use| a.at.duration_since(b.at).as_secs_f64();
            println!(
                "| {n} hosts | **{}** | {} | **{}** | {} |",
                per(&|b, a| (a.sent - b.sent) as f64 / 1e3 / seconds(b, a)),
                per(&|b, a| (a.received - b.received) as f64 / 1e3 / seconds(b, a)),
                per(&|b, a| (a.ticks - b.ticks) as f64 / seconds(b, a)),
                median(
                    hosts
                        .iter()
                        .map(|h| Ok(h.resident_kib()? as f64 / 1024.0))
                        .collect::<Result<_>>()?
                ),
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// What a daemon and its host have used so far.
struct Use {
    at: Instant,
    /// Bytes of its cable, Ethernet headers included.
    sent: u64,
    received: u64,
    /// Hundredths of a second of processor.
    ticks: u64,
}

impl Use {
    fn of(host: &Host) -> Result<Self> {
        let bytes = |what: &str| -> Result<u64> {
            let json = host.exec("ip -s -j link show dev eth0")?;
            let links: serde_json::Value = serde_json::from_str(&json)?;
            let (side, _) = what.split_once('_').context("rx_bytes or tx_bytes")?;
            links[0]["stats64"][side]["bytes"].as_u64().context("bytes")
        };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", host.pid()?))?;
        // After the name in brackets: state is field 3, utime and stime are 14 and 15.
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("a name")?.1.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let at = Instant::now();
        Ok(Self { at, sent: bytes("tx_bytes")?, received: bytes("rx_bytes")?, ticks })
    }
}

// ----- memory --------------------------------------------------------------

fn memory() -> Result<()> {
    const HOSTS: usize = 100;
    const EACH: u32 = 1000;
    Lab::run(|lab| {
        let hosts = cluster(lab, HOSTS)?;
        let idle = hosts[0].resident_kib()? as f64 / 1024.0;
        // A network each: so that no host's kernel needs the entries of the others, and 100
        // daemons on one machine do not write thirty million.
        for (i, host) in hosts.iter().enumerate() {
            let subnet = format!("10.{i}.0.0/16");
            let vni = 5000 + u32::try_from(i)?;
            let spec = NetSpec { vni, subnets: &[&subnet], ..NetSpec::default() };
            host.net_create(&format!("n{i}"), spec)?;
            let second = u8::try_from(i)?;
            let endpoints = (0..EACH)
                .map(|s| {
                    let [_, _, hi, lo] = s.to_be_bytes();
                    v1::StaticEndpoint {
                        mac: format!("02:aa:00:{second:02x}:{hi:02x}:{lo:02x}"),
                        addresses: vec![[10, second, 4 + hi, lo].into()],
                        ..v1::StaticEndpoint::default()
                    }
                })
                .collect();
            import(host, &format!("n{i}"), endpoints)?;
        }
        let all = HOSTS * EACH as usize;
        let knows = |host: &Host| {
            eventually_within(Duration::from_secs(300), "all are known", || {
                let known = host.status()?.endpoints;
                ensure!(known >= all, "{known} of {all}");
                Ok(())
            })
        };
        for host in &hosts {
            knows(host)?;
        }
        let known =
            hosts.iter().map(|h| Ok(h.resident_kib()? as f64 / 1024.0)).collect::<Result<_>>()?;
        println!("| resident memory, {HOSTS} hosts, MiB | |\n|---|---|");
        println!("| idle | {idle:.1} |");
        println!(
            "| {all} endpoints known, of {HOSTS} networks, 1000 in the kernel | {} |",
            median(known)
        );

        // One more, that uses every network: its kernel holds the entries of all.
        let o = lab.host("o")?;
        let join = hosts[..2].iter().map(|h| format!("{}:7946", h.address())).collect();
        o.start_with(&DaemonOptions { join, ..DaemonOptions::default() })?;
        knows(&o)?;
        println!("| a host that has just learnt them | {:.1} |", o.resident_kib()? as f64 / 1024.0);
        let tally = Tally::start(o.netns(), stations::PREFIX)?;
        for i in 0..HOSTS {
            o.attach(&format!("n{i}"), &format!("o{i}"))?;
        }
        let _ = tally.settled(3 * all, QUIET, Duration::from_secs(120))?;
        println!(
            "| **with all {all} in its kernel, {} entries** | **{:.1}** |",
            3 * all,
            o.resident_kib()? as f64 / 1024.0
        );
        Ok(())
    })
}

// ----- killed --------------------------------------------------------------

/// When each of `watchers` says that host `name` is down, seconds after
/// `died`.
fn told_down(watchers: &[Host], name: &str, died: Instant) -> Result<Vec<f64>> {
    let mut told = vec![None; watchers.len()];
    while told.iter().any(Option::is_none) {
        ensure!(died.elapsed() < LIMIT, "{name} is not called down by all: {told:?}");
        for (host, told) in watchers.iter().zip(&mut told).filter(|(_, told)| told.is_none()) {
            let seen = host.ask(async |c| c.hosts().await)?;
            if seen.iter().any(|h| h.name == name && h.state == "down") {
                *told = Some(died.elapsed().as_secs_f64());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(told.into_iter().flatten().collect())
}

fn killed() -> Result<()> {
    println!("| s from the loss of power until | first says down | all say down |\n|---|---|---|");
    for n in [4, 10] {
        Lab::run(|lab| {
            let hosts = cluster(lab, n)?;
            let (mut first, mut all) = (vec![], vec![]);
            for round in 0..10 {
                let victim = &hosts[2 + round % (n - 2)];
                let others: Vec<Host> =
                    hosts.iter().filter(|h| h.name() != victim.name()).cloned().collect();
                // Not always at the same place of a round of gossip.
                std::thread::sleep(Duration::from_millis(round as u64 * 53));
                victim.power_off()?;
                let took = told_down(&others, victim.name(), Instant::now())?;
                first.push(took.iter().copied().fold(f64::INFINITY, f64::min));
                all.push(took.iter().copied().fold(0.0, f64::max));
                victim.power_on()?;
                victim.start()?;
                lab.all_up(&hosts)?;
                std::thread::sleep(Duration::from_secs(3));
            }
            println!("| {n} hosts, n = 10 | {} | **{}** |", median(first), median(all));
            Ok(())
        })?;
    }
    Ok(())
}

// ----- loss ----------------------------------------------------------------

fn loss() -> Result<()> {
    let minutes: u64 = match std::env::var("MINUTES") {
        Ok(text) => text.parse().context("MINUTES is a whole number")?,
        Err(_) => 10,
    };
    const PERCENT: u8 = 20;
    Lab::run(|lab| {
        let hosts = cluster(lab, 6)?;
        demo(&hosts)?;
        let watchers: Vec<Watcher> = hosts
            .iter()
            .map(|host| Watcher::start(host, "events", &["--json"]))
            .collect::<Result<_>>()?;
        lab.lose(PERCENT)?;
        let began = Instant::now();
        let mut changes = 0u32;
        let mut reached = Vec::new();
        let monitor = hosts[1].monitor_fdb()?;
        let mut added = Vec::new();
        // One station a second on the first host; each goes again two seconds later.
        while began.elapsed() < Duration::from_secs(60 * minutes) {
            let endpoint = station(changes % 60_000);
            added.push((endpoint.mac.clone(), SystemTime::now()));
            import(&hosts[0], "demo", vec![endpoint])?;
            if changes >= 2 {
                let mac = station((changes - 2) % 60_000).mac;
                hosts[0].ask(async |c| c.detach(&mac, Some("demo")).await)?;
            }
            changes += 1;
            std::thread::sleep(Duration::from_millis(900));
            print!(".");
            std::io::stdout().flush()?;
        }
        println!();
        std::thread::sleep(Duration::from_secs(5));
        let events = monitor.events()?;
        for (mac, at) in &added {
            let event = events
                .iter()
                .find(|e| !e.is_deletion() && e.text.starts_with(mac) && e.text.contains(" dst "))
                .with_context(|| format!("{mac} never arrived"))?;
            reached.push(ms(*at, event.at));
        }
        let (mut down, mut suspect) = (Vec::new(), 0);
        for (host, watcher) in hosts.iter().zip(&watchers) {
            for event in watcher.events()? {
                match (event.kind.as_str(), event.state.as_deref()) {
                    ("host", Some("down")) => down.push((host.name(), event)),
                    ("host", Some("suspect")) => suspect += 1,
                    _ => {}
                }
            }
        }
        println!(
            "| {PERCENT} % of all packets lost for {minutes} min, {} hosts | |\n|---|---|",
            hosts.len()
        );
        println!("| **called down though alive** | **{}** |", down.len());
        println!("| called suspect | {suspect} |");
        println!("\n| ms, n = {} | p50 | p99 | min | max |\n|---|---|---|---|---|", reached.len());
        println!("{}", spread("a station on a until in b's kernel", reached));
        ensure!(down.is_empty(), "called down though alive: {down:#?}");

        let mut all = Vec::new();
        for victim in &hosts[3..] {
            let others: Vec<Host> = hosts
                .iter()
                .filter(|h| h.name() != victim.name() && h.pid().is_ok())
                .cloned()
                .collect();
            victim.power_off()?;
            let took = told_down(&others, victim.name(), Instant::now())?;
            all.push(took.into_iter().fold(0.0, f64::max));
        }
        println!("\n| s, under that loss, n = {} | |\n|---|---|", all.len());
        println!("| loss of power until all say down | {} |", median(all));
        Ok(())
    })
}
