//! What published ports cost: the figures of docs/performance.md, beside what the
//! kernel does with one rule by hand in the same rounds.
//!
//! ```text
//!   outside 192.0.2.200 ──┬── a  overlayd                                 ── web
//!                         ├── r  overlayd's bridges and rules, but of its table
//!                         │      `overlayd_nat` one DNAT rule in its place ── web
//!                         └── x  bridge, veth and one DNAT rule by hand   ── web
//!
//!   path    throughput (iperf3), and connections that open, ask and close
//!   service the same from a container to one of another host: its own address, and that
//!           of a service with one and with two behind it
//!   change  publish and withdraw one port beside 1,000: the answer, and the first
//!           connection that gets through, or is refused
//! ```
//!
//! `make bench-ports [ONLY="path service change"] [ROUNDS=15]`: root, release binaries, a quiet
//! machine; three minutes (`path` alone may be asked for more rounds).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use overlay_api::v1;
use overlay_tests::figures::{Section, median, rank, run_sections, spread};
use overlay_tests::shell::{command_in, feed_in, inside, run_in};
use overlay_tests::talk::{Outside, Server, ask_tcp};
use overlay_tests::{Host, Lab, NetSpec, eventually};

const SECTIONS: [(&str, Section); 3] = [("path", path), ("service", service), ("change", change)];

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// Ports of the host, and behind them those of the container.
const IPERF: (u16, u16) = (8001, 5201);
const ECHO: (u16, u16) = (8002, 80);

fn main() -> Result<()> {
    run_sections(&SECTIONS, &[])
}

fn rounds(default: usize) -> Result<usize> {
    match std::env::var("ROUNDS") {
        Ok(text) => text.parse().context("ROUNDS is a whole number"),
        Err(_) => Ok(default),
    }
}

// ----- path ------------------------------------------------------------------

/// One rule in, one out, and nothing else.
fn one_rule(host: &Host, container: &str) -> Result<()> {
    let script = format!(
        "table ip byhand {{
           map to {{ type inet_service : ipv4_addr . inet_service
             elements = {{ {} : {container} . {}, {} : {container} . {} }} }}
           chain pre {{ type nat hook prerouting priority dstnat; fib daddr type local dnat to tcp dport map @to; }}
           chain post {{ type nat hook postrouting priority srcnat; ip saddr 10.9.0.0/24 oifname eth0 masquerade; }}
         }}\n",
        IPERF.0, IPERF.1, ECHO.0, ECHO.1
    );
    feed_in(host.netns(), "nft -f -", &script).map(drop)
}

/// A container on `host` behind its ports, by overlayd; where it is.
fn by_overlayd(host: &Host) -> Result<(String, String)> {
    host.start()?;
    host.net_create("demo", DEMO)?;
    let ports = [IPERF, ECHO].map(|(from, to)| format!("{from}:{to}"));
    let web = format!("web-{}", host.name());
    let web = host.attach_with("demo", &web, &["-p", &ports[0], "-p", &ports[1]])?;
    host.at_rest()?;
    Ok((web.netns().to_owned(), web.ip().to_string()))
}

fn by_hand(lab: &Lab, host: &Host) -> Result<String> {
    let container = lab.netns("web-x")?;
    let script = format!(
        "sysctl -qw net.ipv4.ip_forward=1
         ip link add br0 mtu 1450 type bridge mcast_snooping 0
         ip addr add 10.9.0.1/24 dev br0
         ip link add v0 mtu 1450 type veth peer name eth0 netns {container} mtu 1450
         ip link set v0 master br0 up
         ip link set br0 up
         ip -n {container} link set lo up
         ip -n {container} addr add 10.9.0.2/24 dev eth0
         ip -n {container} link set eth0 up
         ip -n {container} route add default via 10.9.0.1\n"
    );
    feed_in(host.netns(), "sh -e", &script)?;
    one_rule(host, "10.9.0.2")?;
    Ok(container)
}

/// Servers of a container, for as long as it lives.
struct Served {
    iperf: std::process::Child,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Served {
    fn in_netns(netns: &str) -> Result<Self> {
        let port = IPERF.1.to_string();
        let mut command = command_in(netns, "iperf3");
        command.args(["-s", "-p", &port]).stdout(std::process::Stdio::null());
        let iperf = command.spawn().context("cannot start iperf3")?;
        let listener = inside(netns, || Ok(TcpListener::bind(("0.0.0.0", ECHO.1))?))?;
        // Who waits for a connection looks now and then whether it is over.
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|_| {
            let (listener, stop) = (listener.try_clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let Ok(listener) = listener else { return };
                while !stop.load(Ordering::Acquire) {
                    let Ok((mut stream, _)) = listener.accept() else { continue };
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_ok() {
                        let _ = stream.write_all(&byte);
                    }
                }
            })
        });
        let threads = threads.collect();
        Ok(Self { iperf, stop, threads })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.iperf.kill();
        let _ = self.iperf.wait();
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A way from a client to the servers behind it.
struct Way {
    what: &'static str,
    client: String,
    /// None where connections are spread: iperf3 needs two to the same server.
    iperf: Option<SocketAddr>,
    echo: SocketAddr,
}

impl Way {
    fn published(what: &'static str, outside: &Outside, host: &Host) -> Self {
        let at = |port: u16| (host.address(), port).into();
        Self {
            what,
            client: outside.netns().to_owned(),
            iperf: Some(at(IPERF.0)),
            echo: at(ECHO.0),
        }
    }

    fn works(&self) -> Result<()> {
        eventually(&format!("{}: its servers answer", self.what), || {
            connections(self)?;
            throughput(self).map(drop)
        })
    }
}

/// Gbit/s of one stream.
fn throughput(way: &Way) -> Result<Option<f64>> {
    let Some(to) = way.iperf else { return Ok(None) };
    let line = format!("iperf3 -c {} -p {} -t 1 -J", to.ip(), to.port());
    let text = run_in(&way.client, &line)?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(Some(bits.with_context(|| format!("no figure in {text}"))? / 1e9))
}

/// How long connections are counted.
const SLICE: Duration = Duration::from_millis(500);

/// How many ask at the same time.
const CLIENTS: usize = 4;

/// Connections a second, each with a question and an answer of a byte.
fn connections(way: &Way) -> Result<Option<f64>> {
    let to = way.echo;
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (count, netns) = (Arc::clone(&count), way.client.clone());
        clients.push(std::thread::spawn(move || {
            inside(&netns, move || {
                while began.elapsed() < SLICE {
                    ask(to)?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        }));
    }
    for client in clients {
        client.join().expect("no client panics")?;
    }
    Ok(Some(count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()))
}

/// Microseconds that a connection takes, its median when one follows the other: what else
/// runs on the machine interrupts few of them.
fn connection(way: &Way) -> Result<Option<f64>> {
    let to = way.echo;
    let mut took = inside(&way.client, move || {
        let (mut took, began) = (Vec::new(), Instant::now());
        while began.elapsed() < SLICE {
            let start = Instant::now();
            ask(to)?;
            took.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(took)
    })?;
    took.sort_by(f64::total_cmp);
    Ok(Some(rank(&took, 50)))
}

/// Opens a connection, asks a byte, hears a byte, and ends it at once for both, so that no
/// port of ours waits for stragglers.
fn ask(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// How it is measured, and whether more of it is better.
type Measure = (fn(&Way) -> Result<Option<f64>>, bool);

/// Measures all ways in turn and prints what the others are to the first.
fn compare(ways: &[Way]) -> Result<()> {
    let kinds: [(&str, Measure); 3] = [
        ("one stream of TCP, Gbit/s", (throughput, true)),
        ("connections a second, four at a time", (connections, true)),
        ("a connection, one after the other, µs", (connection, false)),
    ];
    let mut figures = vec![vec![Vec::new(); ways.len()]; kinds.len()];
    let rounds = rounds(15)?;
    for round in 0..rounds {
        for ((name, (measure, _)), figures) in kinds.iter().zip(&mut figures) {
            for i in 0..ways.len() {
                let way = (i + round) % ways.len();
                let figure = measure(&ways[way]);
                figures[way].extend(figure.with_context(|| format!("{name}, {}", ways[way].what))?);
            }
        }
    }
    println!(
        "| {rounds} rounds | way | median (min..max) | ratio to the first: median (quartiles) |\n|---|---|---|---|"
    );
    for ((name, (_, more)), figures) in kinds.iter().zip(&figures) {
        for (Way { what, .. }, own) in ways.iter().zip(figures).filter(|(_, own)| !own.is_empty()) {
            let ratio = |(own, first): (&f64, &f64)| if *more { own / first } else { first / own };
            let mut ratios: Vec<f64> = own.iter().zip(&figures[0]).map(ratio).collect();
            ratios.sort_by(f64::total_cmp);
            println!(
                "| {name} | {what} | {} | **{:.3}** ({:.3}..{:.3}) |",
                median(own.clone()),
                rank(&ratios, 50),
                rank(&ratios, 25),
                rank(&ratios, 75)
            );
        }
    }
    Ok(())
}

/// Ten thousand ended connections a second fill the table otherwise.
fn forget_ended(netns: &str) -> Result<()> {
    run_in(netns, "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=1").map(drop)
}

fn path() -> Result<()> {
    Lab::run(|lab| {
        let outside = Outside::new(lab)?;
        let [a, r, x] = [lab.host("a")?, lab.host("r")?, lab.host("x")?];
        let hand = by_hand(lab, &x)?;
        let (ours, _) = by_overlayd(&a)?;
        let (replaced, ip) = by_overlayd(&r)?;
        // What it has made stays without it, but for what is put in its place.
        r.stop()?;
        r.exec("nft delete table inet overlayd_nat")?;
        one_rule(&r, &ip)?;
        let _served =
            [Served::in_netns(&hand)?, Served::in_netns(&replaced)?, Served::in_netns(&ours)?];
        let ways = [
            ("one rule in place of our table", &r),
            ("overlayd", &a),
            ("all by hand: bridge, veth, one rule", &x),
        ];
        let ways = ways.map(|(what, host)| (Way::published(what, &outside, host), host));
        for (way, host) in &ways {
            forget_ended(host.netns())?;
            way.works()?;
        }
        compare(&ways.map(|(way, _)| way))
    })
}

// ----- service ---------------------------------------------------------------

fn service() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        let client = a.attach("demo", "client")?;
        let alone = b.attach_with("demo", "w1", &["--alias", "one", "--alias", "two"])?;
        let second = b.attach_with("demo", "w2", &["--alias", "two"])?;
        let _served = [Served::in_netns(alone.netns())?, Served::in_netns(second.netns())?];
        let way = |what, ip: std::net::IpAddr, iperf: Option<u16>, echo| {
            let client = client.netns().to_owned();
            Way {
                what,
                client,
                iperf: iperf.map(|port| (ip, port).into()),
                echo: (ip, echo).into(),
            }
        };
        let mut ways = vec![way("its own address", alone.ip(), Some(IPERF.1), ECHO.1)];
        let ports = [IPERF, ECHO].map(|(from, to)| format!("{from}:{to}"));
        for (what, alias, iperf) in [
            ("service, one behind it", "one", Some(IPERF.0)),
            ("service, two behind it", "two", None),
        ] {
            let name = format!("of-{alias}");
            let mut args = vec!["service", "create", &name, "--net", "demo", "--alias", alias];
            args.extend(["--port", &ports[0], "--port", &ports[1]]);
            let made: v1::Service = a.ctl_json(&args)?;
            ways.push(way(what, made.vips[0], iperf, ECHO.0));
        }
        for netns in [a.netns(), b.netns(), client.netns()] {
            forget_ended(netns)?;
        }
        for way in &ways {
            way.works()?;
        }
        a.at_rest()?;
        compare(&ways)
    })
}

// ----- change ----------------------------------------------------------------

const PORTS: usize = 1000;

/// Endpoints that they are spread over.
const ENDPOINTS: usize = 100;

/// How often one is published and withdrawn.
const CHANGES: usize = 60;

const ONE: u16 = 9000;

/// Milliseconds from now on until connections to [`ONE`] get through, or no longer do.
fn until(outside: &str, host: &Host, open: bool) -> JoinHandle<Result<f64>> {
    let (to, netns) = (SocketAddr::from((host.address(), ONE)), outside.to_owned());
    let began = Instant::now();
    std::thread::spawn(move || {
        inside(&netns, move || {
            while began.elapsed() < Duration::from_secs(10) {
                let tried = TcpStream::connect_timeout(&to, Duration::from_secs(1));
                if tried.is_ok() == open {
                    return Ok(began.elapsed().as_secs_f64() * 1e3);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            anyhow::bail!("{to} is not {}", if open { "open" } else { "closed" })
        })
    })
}

fn measure_changes(name: &str, outside: &str, host: &Host) -> Result<()> {
    let publish = v1::Publish { ports: vec![format!("{ONE}:80")] };
    let ms = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
    let mut rows = [const { Vec::new() }; 6];
    for round in 0..CHANGES {
        let by_ctl = round % 2 == 0;
        for add in [true, false] {
            let watch = until(outside, host, add);
            let began = Instant::now();
            if by_ctl {
                let command = if add { format!("{ONE}:80") } else { ONE.to_string() };
                let out = host.ctl(&[if add { "publish" } else { "unpublish" }, "e0", &command])?;
                ensure!(out.code == 0, "{out:?}");
            } else if add {
                host.ask(async |c| c.publish("e0", None, &publish).await)?;
            } else {
                host.ask(async |c| c.unpublish("e0", None, Some("9000/tcp")).await)?;
            }
            let took = ms(began);
            let seen = watch.join().expect("no watch panics")?;
            let row = usize::from(!add) * 3;
            rows[row + usize::from(!by_ctl)].push(took);
            rows[row + 2].push(seen);
        }
    }
    let names = [
        "publish: `overlayctl` starts until it has ended",
        "publish: request until its answer",
        "publish: until a connection gets through",
        "withdraw: `overlayctl` starts until it has ended",
        "withdraw: request until its answer",
        "withdraw: until a connection is refused",
    ];
    for (what, figures) in names.into_iter().zip(rows) {
        println!("{}", spread(&format!("{name}, {what}"), figures));
    }
    Ok(())
}

fn change() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let e0 = a.attach("demo", "e0")?;
        let _server = Server::tcp(e0.netns(), "e0", 80)?;
        println!("| ms, n = {CHANGES} | p50 | p99 | min | max |\n|---|---|---|---|---|");
        measure_changes("no other port", outside.netns(), &a)?;
        for n in 1..=ENDPOINTS {
            let ports =
                (0..PORTS / ENDPOINTS).map(|i| format!("{}:{}", 10_000 + i * 200 + n, 80 + i));
            let flags: Vec<String> = ports.flat_map(|port| ["-p".to_owned(), port]).collect();
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            a.attach_with("demo", &format!("e{n}"), &flags)?;
        }
        let ports: Vec<v1::Port> = a.ctl_json(&["ports"])?;
        ensure!(ports.len() == PORTS, "{} ports", ports.len());
        a.at_rest()?;
        measure_changes(&format!("{PORTS} others"), outside.netns(), &a)?;
        ensure!(ask_tcp(outside.netns(), (a.address(), ONE).into()).is_err(), "it is withdrawn");
        println!("\nresident memory of the daemon: {} KiB", a.resident_kib()?);
        Ok(())
    })
}
