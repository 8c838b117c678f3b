//! What names cost, beside dnsmasq in the same rounds: the figures of docs/performance.md.
//!
//! ```text
//!   container  dnsperf ─┬─► 127.0.0.11:53   ours, by the rules of the door
//!              │        ├─► 10.9.0.1:53     ours, at the gateway of its host
//!              │        └─► 127.0.0.1:53    dnsmasq with the same names, beside dnsperf
//!   host       └───────────► 10.9.0.1:5300  dnsmasq with the same names, at the gateway
//! ```
//!
//! A thousand names, all of the cluster's; four clients, forty questions under way. Latency is
//! that of single questions at 20,000 a second, as dnsperf prints them. Run it with
//! `make bench-dns`: root, release binaries, a quiet machine.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::figures::{machine, spread};
use overlay_tests::host::write_file;
use overlay_tests::names::DOOR;
use overlay_tests::shell::command_in;
use overlay_tests::{Container, DaemonOptions, Dnsmasq, Host, Lab, NetSpec, dig, eventually};

const NAMES: u32 = 1000;

/// How many rounds; `ROUNDS=n` in the environment.
const ROUNDS: usize = 5;

/// Seconds of a round at each server.
const SECONDS: &str = "4";

/// Questions a second while latency is measured.
const RATE: &str = "20000";

fn ip(n: u32) -> String {
    format!("10.9.{}.{}", 4 + n / 250, 1 + n % 250)
}

/// Static endpoints of that many names, and a `dnsmasq` configuration of the same.
fn fill(host: &Host) -> Result<(String, String)> {
    let (mut list, mut records, mut questions) = (Vec::new(), String::new(), String::new());
    for n in 0..NAMES {
        let [_, _, hi, lo] = n.to_be_bytes();
        list.push(format!(
            "{{\"mac\":\"02:aa:00:00:{hi:02x}:{lo:02x}\",\"addresses\":[\"{}\"],\"name\":\"s{n}\"}}",
            ip(n)
        ));
        let _ = writeln!(records, "host-record=s{n}.demo.overlay.internal,{}", ip(n));
        let _ = writeln!(questions, "s{n}.demo.overlay.internal A");
    }
    let file = write_file(host, "stations", &list.join("\n"))?;
    let out = host.ctl(&["endpoint", "import", "--net", "demo", &file.display().to_string()])?;
    ensure!(out.code == 0, "{out:?}");
    let records = write_file(host, "dnsmasq.conf", &records)?;
    let questions = write_file(host, "questions", &questions)?;
    Ok((records.display().to_string(), questions.display().to_string()))
}

fn dnsperf(
    asker: &Container,
    server: (&str, u16),
    questions: &str,
    more: &[&str],
) -> Result<String> {
    let (at, port) = (server.0, server.1.to_string());
    let mut command = command_in(asker.netns(), "dnsperf");
    command.args(["-s", at, "-p", &port, "-d", questions, "-c", "4", "-q", "40"]).args(more);
    let out = command.stderr(Stdio::null()).output().context("cannot start dnsperf")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "dnsperf: {text}");
    Ok(text)
}

fn figure(text: &str, name: &str) -> Result<f64> {
    let (_, rest) = text.split_once(name).with_context(|| format!("no {name} in {text}"))?;
    let word = rest.split_whitespace().next().context("no number")?;
    Ok(word.parse()?)
}

fn main() -> Result<()> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    println!("{}\n", machine()?);
    Lab::run(|lab| {
        let a = lab.host("a")?;
        // The dnsmasq at the gateway is a program of the host like any other.
        let extra = vec!["--host-access=5300,5300/udp".to_owned()];
        a.start_with(&DaemonOptions { extra, ..DaemonOptions::default() })?;
        let spec = NetSpec { vni: 4097, subnets: &["10.9.0.0/16"], mtu: 0, extra: &[] };
        a.net_create("demo", spec)?;
        let asker = a.attach("demo", "asker")?;
        let before = a.resident_kib()?;
        let (records, questions) = fill(&a)?;
        let conf = format!("--conf-file={records}");
        let inside = [conf.as_str(), "--bind-interfaces", "--listen-address=127.0.0.1"];
        let _inside = Dnsmasq::start(asker.netns(), &inside)?;
        let outside =
            [conf.as_str(), "--bind-interfaces", "--listen-address=10.9.0.1", "--port=5300"];
        let _outside = Dnsmasq::start(a.netns(), &outside)?;
        let servers = [
            ("127.0.0.11, ours", (DOOR, 53)),
            ("dnsmasq beside the asker", ("127.0.0.1", 53)),
            ("the gateway, ours", ("10.9.0.1", 53)),
            ("dnsmasq at the gateway", ("10.9.0.1", 5300)),
        ];
        for (name, (at, port)) in servers {
            eventually(&format!("{name} answers"), || {
                let told =
                    dig(asker.netns(), &format!("@{at} -p {port} s7.demo.overlay.internal A"))?;
                ensure!(told.data() == [ip(7)], "{}", told.text);
                Ok(())
            })?;
        }
        let mut rates = servers.map(|_| Vec::new());
        let mut latencies = servers.map(|_| Vec::new());
        let mut lost = servers.map(|_| 0.0);
        for _ in 0..rounds {
            for (n, (_, server)) in servers.iter().enumerate() {
                let text = dnsperf(&asker, *server, &questions, &["-l", SECONDS])?;
                rates[n].push(figure(&text, "Queries per second:")?);
                lost[n] += figure(&text, "Queries lost:")?;
                let text = dnsperf(&asker, *server, &questions, &["-l", "1", "-Q", RATE, "-v"])?;
                let spans = text.lines().filter(|line| line.starts_with("> "));
                let spans = spans.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
                let mut spans: Vec<f64> = spans.map(|seconds| seconds * 1e6).collect();
                ensure!(spans.len() > 1000, "only {} answers: {text}", spans.len());
                spans.sort_by(f64::total_cmp);
                latencies[n].push(spans[spans.len() * 99 / 100]);
            }
        }
        for (n, (name, _)) in servers.iter().enumerate() {
            println!("{}", spread(&format!("{name}: queries a second"), rates[n].clone()));
            println!(
                "{}",
                spread(&format!("{name}: p99 at {RATE} a second, µs"), latencies[n].clone())
            );
            println!("{name}: {} lost", lost[n]);
        }
        println!("memory of overlayd: {before} KiB before, {} KiB after", a.resident_kib()?);
        Ok(())
    })?;
    println!("\n{}", machine()?);
    Ok(())
}
