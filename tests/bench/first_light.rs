//! What an attach costs, and how long it takes to be known: the figures of
//! docs/performance.md. Prints a table in Markdown.
//!
//! ```text
//!   attach on a:  overlayctl starts ──► it has ended ──► first answer to a ping begun then
//!                        │
//!   on b and c:          └─────────────► `bridge monitor` shows the entry
//! ```
//!
//! Times on b and c are those of `bridge -timestamp monitor`, not the daemon's
//! own word. All hosts are namespaces of one machine: one clock, and an
//! underlay without a cable's delay.
//!
//! Run it with `make bench-first`: root, release binaries, a quiet machine.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::figures::{machine, ms, spread};
use overlay_tests::{Container, Host, Lab, Monitor, NetSpec, eventually};

/// How many attaches are measured; p99 of a hundred is the largest but one.
const ATTACHES: usize = 100;

/// Attaches that are made before, so that links are there and pages are warm.
const WARM_UP: usize = 3;

/// Networks whose first attach is measured.
const FIRSTS: usize = 20;

struct Attach {
    mac: String,
    began: SystemTime,
    returned: SystemTime,
    answered: SystemTime,
}

fn main() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        let idle: Vec<u64> = hosts.iter().map(Host::resident_kib).collect::<Result<_>>()?;
        let [a, b, c] = &hosts;
        let spec = NetSpec { vni: 4097, subnets: &["10.9.0.0/22"], mtu: 0, extra: &[] };
        a.net_create("demo", spec)?;
        let remote = {
            b.knows_net("demo")?;
            c.knows_net("demo")?;
            c.attach("demo", "on-c")?;
            b.attach("demo", "on-b")?
        };
        for n in 0..WARM_UP {
            a.attach("demo", &format!("warm-{n}"))?.ping(remote.ip())?;
        }

        let monitors = [b.monitor_fdb()?, c.monitor_fdb()?];
        let mut attaches = Vec::with_capacity(ATTACHES);
        for n in 0..ATTACHES {
            attaches.push(attach(a, &remote, &format!("n{n}"))?);
        }
        let last = &attaches[ATTACHES - 1].mac;
        for monitor in &monitors {
            monitor.first("the last entry arrived", |e| e.text.starts_with(last.as_str()))?;
        }

        let mut rows = vec![
            row("attach: `overlayctl` starts until it has ended", &attaches, |x| {
                ms(x.began, x.returned)
            }),
            row(
                "attach: `overlayctl` starts until the first answer to a ping from the container",
                &attaches,
                |x| ms(x.began, x.answered),
            ),
        ];
        let known = [arrivals(&monitors[0], &attaches)?, arrivals(&monitors[1], &attaches)?];
        let at_both: Vec<SystemTime> =
            known[0].iter().zip(&known[1]).map(|(one, other)| *one.max(other)).collect();
        let reach = |name: &str, from: fn(&Attach) -> SystemTime, to: &[SystemTime]| {
            let spans = attaches.iter().zip(to).map(|(x, at)| ms(from(x), *at)).collect();
            spread(name, spans)
        };
        rows.push(reach(
            "attach on a starts until the entry is in b's kernel",
            |x| x.began,
            &known[0],
        ));
        rows.push(reach("the same, in the kernels of b and c", |x| x.began, &at_both));
        rows.push(reach(
            "attach on a has returned until the entry is in b's kernel (negative: before)",
            |x| x.returned,
            &known[0],
        ));

        // The other way: from the start of the detach until b's kernel has dropped it.
        let mut began = Vec::with_capacity(ATTACHES);
        for n in 0..ATTACHES {
            began.push(SystemTime::now());
            a.detach(&format!("n{n}"))?;
        }
        let gone: Vec<f64> = attaches
            .iter()
            .zip(&began)
            .map(|(x, began)| {
                let event = monitors[0].first("the entry went", |e| {
                    e.is_deletion() && e.text.contains(&x.mac) && e.text.contains(" dst ")
                })?;
                Ok(ms(*began, event.at))
            })
            .collect::<Result<_>>()?;
        rows.push(spread("detach on a starts until the entry is gone from b's kernel", gone));

        // Bridge, VXLAN device and firewall have to be made first.
        let mut firsts = Vec::with_capacity(FIRSTS);
        for n in 0..FIRSTS {
            let net = format!("net{n}");
            a.net_create(&net, NetSpec { vni: 5000 + u32::try_from(n)?, ..NetSpec::default() })?;
            let container = a.container(&format!("first-{n}"))?;
            let began = SystemTime::now();
            let out = a.ctl(&["attach", "--net", &net, "--netns", container.netns()])?;
            ensure!(out.code == 0, "{out:?}");
            firsts.push(ms(began, SystemTime::now()));
        }
        rows.push(spread(
            &format!("first attach of a host to a network, until it has ended (n = {FIRSTS})"),
            firsts,
        ));

        eventually("the daemon on a is at rest", || a.at_rest())?;
        println!("\n{} at the end\n", machine()?);
        println!(
            "| ms, three hosts, n = {ATTACHES} | p50 | p99 | min | max |\n|---|---|---|---|---|"
        );
        for row in rows {
            println!("{row}");
        }
        println!("\n| resident memory of a daemon | KiB |\n|---|---|");
        println!(
            "| idle, in a cluster of three, no network | {} |",
            idle.iter().max().context("three")?
        );
        println!("| after {ATTACHES} attaches and detaches | {} |", a.resident_kib()?);
        Ok(())
    })
}

fn attach(host: &Host, remote: &Container, name: &str) -> Result<Attach> {
    let container = host.container(name)?;
    let mut command = host.overlayctl()?;
    command.args(["--json", "attach", "--net", "demo", "--name", name, "--netns"]);
    command.arg(container.netns()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = SystemTime::now();
    let output = command.output()?;
    let returned = SystemTime::now();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let endpoint: overlay_api::v1::Endpoint = serde_json::from_slice(&output.stdout)?;

    // ping prints the time of the answer: [1795262050.754735] 64 bytes from …
    let said = container.exec(&format!("ping -D -n -c 1 -W 5 {}", remote.ip()))?;
    let stamp = said
        .lines()
        .find_map(|l| l.strip_prefix('[')?.split_once(']')?.0.parse::<f64>().ok())
        .with_context(|| format!("no answer with a time in: {said}"))?;
    let answered = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(stamp);
    Ok(Attach { mac: endpoint.mac, began, returned, answered })
}

/// When the entry of each attach was told of, in their order.
fn arrivals(monitor: &Monitor, attaches: &[Attach]) -> Result<Vec<SystemTime>> {
    let events = monitor.events()?;
    attaches
        .iter()
        .map(|x| {
            events
                .iter()
                .find(|e| e.text.starts_with(&x.mac) && e.text.contains(" dst "))
                .map(|e| e.at)
                .with_context(|| format!("the entry {} never arrived", x.mac))
        })
        .collect()
}

fn row(name: &str, attaches: &[Attach], span: impl Fn(&Attach) -> f64) -> String {
    spread(name, attaches.iter().map(span).collect())
}
