//! What addresses cost: the figures of docs/performance.md. Real daemons, sealed, a
//! namespace each; static endpoints by the API, so that no link is made.
//!
//! ```text
//!   local   a host that owns all     attach, detach, one after the other and 16 clients at once
//!   given   a owns all, b asks       b's first endpoint of a network (half of what is free), and
//!                                    one at an address that it says (just that one)
//!   full    h0 owns a /16, ten hosts  attaches on all of them until the last address is out
//! ```
//!
//! `make bench-ipam [ONLY="local full"] [PREFIX=20]`: root, release binaries, a quiet
//! machine; some minutes. Allocation alone, without a daemon: `cargo bench -p overlay-engine
//! --bench ipam`, which `make bench-ipam` runs, too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_api::{Client, ClientError, v1};
use overlay_tests::figures::{Section, median, rank, run_sections, spread};
use overlay_tests::kernel::ArpRoom;
use overlay_tests::stations::mac_text;
use overlay_tests::{DaemonOptions, Host, Lab, NetSpec, eventually, eventually_within};

const SECTIONS: [(&str, Section); 3] = [("local", local), ("given", given), ("full", full)];

/// Single requests that are measured.
const CHANGES: u32 = 2000;

/// Requests for addresses of another host.
const ASKED: u32 = 200;

/// Networks, each with one first endpoint of another host.
const NETWORKS: u32 = 60;

/// How many hosts fill a subnet.
const HOSTS: usize = 10;

/// Clients of each of them.
const CLIENTS: usize = 2;

fn main() -> Result<()> {
    run_sections(&SECTIONS, &[])
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn station(net: &str, n: u32, ips: Vec<IpAddr>) -> v1::Attach {
    let mac = Some(mac_text(n));
    v1::Attach { net: net.into(), is_static: true, mac, ips, ..v1::Attach::default() }
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

// ----- local -----------------------------------------------------------------

fn local() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let demo = NetSpec { vni: 4097, subnets: &["10.8.0.0/16"], mtu: 0, extra: &[] };
        a.net_create("demo", demo)?;
        println!("| ms, n = {CHANGES} | p50 | p99 | min | max |\n|---|---|---|---|---|");
        let (runtime, client) = (runtime()?, Client::new(&a.socket()));
        let (mut attach, mut detach) = (Vec::new(), Vec::new());
        // The first one makes bridge and device.
        runtime.block_on(client.attach(&station("demo", CHANGES, Vec::new())))?;
        for n in 0..CHANGES {
            let began = Instant::now();
            runtime.block_on(client.attach(&station("demo", n, Vec::new())))?;
            attach.push(ms(began));
        }
        for n in 0..CHANGES {
            let began = Instant::now();
            runtime.block_on(client.detach(&mac_text(n), None))?;
            detach.push(ms(began));
        }
        println!("{}", spread("attach: request until its answer", attach));
        println!("{}", spread("detach: request until its answer", detach));
        for clients in [1, 16] {
            let mut rates = Vec::new();
            for _ in 0..5 {
                rates.push(pairs_a_second(&a, clients)?);
            }
            println!("attach and detach, {clients} at a time: {} pairs a second", median(rates));
        }
        Ok(())
    })
}

/// [`CHANGES`] attaches, each with its detach, by so many clients.
fn pairs_a_second(host: &Host, clients: u32) -> Result<f64> {
    let began = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let one = |first: u32| -> Result<()> {
            let (runtime, client) = (runtime()?, Client::new(&host.socket()));
            for n in (first..CHANGES).step_by(clients as usize) {
                runtime.block_on(client.attach(&station("demo", n, Vec::new())))?;
                runtime.block_on(client.detach(&mac_text(n), None))?;
            }
            Ok(())
        };
        let all: Vec<_> = (0..clients).map(|first| scope.spawn(move || one(first))).collect();
        all.into_iter().try_for_each(|each| each.join().expect("no client panics"))
    })?;
    Ok(f64::from(CHANGES) / began.elapsed().as_secs_f64())
}

// ----- given -----------------------------------------------------------------

fn given() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        println!("| ms | p50 | p99 | min | max |\n|---|---|---|---|---|");
        let (runtime, client) = (runtime()?, Client::new(&b.socket()));
        let (mut first, mut next) = (Vec::new(), Vec::new());
        for n in 0..NETWORKS {
            let (name, subnet) = (format!("n{n}"), format!("10.{n}.0.0/24"));
            let spec = NetSpec { vni: 5000 + n, subnets: &[&subnet], mtu: 0, extra: &[] };
            a.net_create(&name, spec)?;
            b.knows_net(&name)?;
            for (second, figures) in [(0, &mut first), (1, &mut next)] {
                let mac = 2 * n + second;
                let began = Instant::now();
                runtime.block_on(client.attach(&station(&name, 0x10_0000 + mac, Vec::new())))?;
                figures.push(ms(began));
            }
        }
        println!("{}", spread("the first of a network: half of a's is given", first));
        println!("{}", spread("the second: an address of its own", next));
        let demo = NetSpec { vni: 4097, subnets: &["10.200.0.0/16"], mtu: 0, extra: &[] };
        a.net_create("demo", demo)?;
        b.knows_net("demo")?;
        runtime.block_on(client.attach(&station("demo", 0x20_0000, Vec::new())))?;
        let (mut asked, mut own) = (Vec::new(), Vec::new());
        for n in 0..ASKED {
            // Of the lower half, which is a's, and of the upper one, in turn.
            for (half, figures) in [(0, &mut asked), (192, &mut own)] {
                let [_, _, hi, lo] = (2 + 7 * n).to_be_bytes();
                let ip = Ipv4Addr::new(10, 200, half + hi, lo);
                let mac = 0x30_0000 + u32::from(half) * 0x1000 + n;
                let began = Instant::now();
                runtime.block_on(client.attach(&station("demo", mac, vec![ip.into()])))?;
                figures.push(ms(began));
            }
        }
        println!("{}", spread("an address that is said, of a's", asked));
        println!("{}", spread("an address that is said, of its own", own));
        Ok(())
    })
}

// ----- full ------------------------------------------------------------------

/// What became of the attaches.
#[derive(Default)]
struct Filled {
    /// Milliseconds of each, in the order in which they were answered.
    took: Vec<f64>,
    /// Who has each address.
    given: BTreeMap<IpAddr, String>,
    refused: Vec<String>,
}

fn full() -> Result<()> {
    // 65,533 addresses, unless told.
    let prefix = std::env::var("PREFIX").ok().map_or(Ok(16), |n| n.parse::<u8>())?;
    let capacity = (1usize << (32 - prefix)) - 3;
    let _room = ArpRoom::for_entries(HOSTS * (capacity + 1000))?;
    Lab::run(|lab| {
        let hosts: Vec<Host> =
            (0..HOSTS).map(|i| lab.host(&format!("h{i}"))).collect::<Result<_>>()?;
        let seed = format!("{}:7946", hosts[0].address());
        for (i, host) in hosts.iter().enumerate() {
            let join = (i > 0).then(|| seed.clone()).into_iter().collect();
            host.start_with(&DaemonOptions { join, ..DaemonOptions::default() })?;
        }
        lab.all_up(&hosts)?;
        let subnet = format!("10.8.0.0/{prefix}");
        let demo = NetSpec { vni: 4097, subnets: &[&subnet], mtu: 0, extra: &[] };
        hosts[0].net_create("demo", demo)?;
        for host in &hosts {
            host.knows_net("demo")?;
        }
        let (ticket, filled) = (AtomicUsize::new(0), Mutex::new(Filled::default()));
        let began = Instant::now();
        thread::scope(|scope| -> Result<()> {
            let client_of = |host: &Host| -> Result<()> {
                let (runtime, client) = (runtime()?, Client::new(&host.socket()));
                let client = client.with_timeout(Duration::from_secs(60));
                loop {
                    let n = ticket.fetch_add(1, Ordering::SeqCst);
                    if n >= capacity {
                        return Ok(());
                    }
                    let began = Instant::now();
                    let answer = runtime.block_on(client.attach(&station(
                        "demo",
                        u32::try_from(n)?,
                        Vec::new(),
                    )));
                    let took = ms(began);
                    let mut filled = filled.lock().unwrap_or_else(PoisonError::into_inner);
                    match answer {
                        Ok(endpoint) => {
                            let ip = endpoint.ips.first().context("an address")?.addr();
                            if let Some(other) = filled.given.insert(ip, endpoint.mac.clone()) {
                                bail!("{ip} was given to {other} and to {}", endpoint.mac);
                            }
                            filled.took.push(took);
                        }
                        Err(why) => {
                            let text = format!("after {}: {why:?}", filled.given.len());
                            filled.refused.push(text);
                        }
                    }
                }
            };
            let of_hosts = hosts.iter().flat_map(|host| [host; CLIENTS]);
            let all: Vec<_> = of_hosts.map(|host| scope.spawn(move || client_of(host))).collect();
            all.into_iter().try_for_each(|each| each.join().expect("no client panics"))
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let filled = filled.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Filled { took, given, refused } = filled;
        println!(
            "{} of {capacity} addresses given to {HOSTS} hosts in {seconds:.1} s: {:.0} a second; \
             {} refused",
            given.len(),
            given.len() as f64 / seconds,
            refused.len()
        );
        refused.iter().take(5).for_each(|text| println!("  {text}"));
        println!("| ms | p50 | p99 | min | max |\n|---|---|---|---|---|");
        let tenth = took.len().div_ceil(10);
        for (n, part) in took.chunks(tenth).enumerate() {
            println!("{}", spread(&format!("attach, tenth {}", n + 1), part.to_vec()));
        }
        let last = took[took.len().saturating_sub(50)..].to_vec();
        println!("{}", spread("attach, the last fifty", last));
        let mut sorted = took.clone();
        sorted.sort_by(f64::total_cmp);
        println!("a second or longer: {}", sorted.iter().filter(|t| **t >= 1e3).count());
        println!("p99.9: {:.1} ms", rank(&sorted, 100).min(sorted[sorted.len() * 999 / 1000]));
        ensure!(refused.is_empty(), "{} were refused before all were out", refused.len());
        ensure!(given.len() == capacity, "{} of {capacity}", given.len());

        // One more on each host, when all have heard of all.
        for host in &hosts {
            eventually_within(Duration::from_secs(120), "all is known", || {
                let [subnet] = &host.ask(async |c| c.ipam().await)?[..] else { bail!("one") };
                ensure!(subnet.leased == capacity as u64, "{} leased", subnet.leased);
                Ok(())
            })?;
        }
        let mut more = Vec::new();
        for (i, host) in hosts.iter().enumerate() {
            let request = station("demo", 0x20_0000 + u32::try_from(i)?, Vec::new());
            let began = Instant::now();
            let (runtime, client) = (runtime()?, Client::new(&host.socket()));
            match runtime.block_on(client.attach(&request)) {
                Err(ClientError::Api(error)) if error.code == v1::ErrorCode::Exhausted => {
                    if i == 0 {
                        println!("one more: {error}");
                    }
                }
                other => bail!("one more on {}: {other:?}", host.name()),
            }
            more.push(ms(began));
        }
        println!("{}", spread("one more, on each host: refused after", more));
        // What is given back on one host, another one gets.
        let (first, last) = (&hosts[0], &hosts[HOSTS - 1]);
        let one = first.ask(async |c| c.endpoints(Some("demo"), true).await)?.swap_remove(0);
        let mut again = Vec::new();
        first.ask(async |c| c.detach(&one.mac, Some("demo")).await)?;
        let began = Instant::now();
        let request = station("demo", 0x30_0000, Vec::new());
        eventually("the only free address is given to who asks", || {
            let endpoint = last.ask(async |c| c.attach(&request).await)?;
            ensure!(endpoint.ips == one.ips, "{endpoint:?}");
            Ok(())
        })?;
        again.push(ms(began));
        println!("{}", spread("the only free address, from another host", again));
        for host in [first, last] {
            let audit = host.ask(async |c| c.check_ipam(&v1::CheckIpam::default()).await)?;
            ensure!(audit.findings.is_empty(), "{:?}", audit.findings);
            println!("memory of {}: {} KiB", host.name(), host.resident_kib()?);
        }
        Ok(())
    })
}
