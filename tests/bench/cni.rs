//! What a container's network costs a runtime: ADD, CHECK and DEL of our CNI plugin beside
//! the reference plugins `bridge` and `host-local` in the same rounds.
//!
//! ```text
//!   a  overlayd    ── pods by overlay-cni
//!   r  no daemon   ── pods by bridge + host-local
//!
//!   one       one container after the other: ROUNDS of each, by turns
//!   cluster   the same with two more hosts on the network, which share this machine's cores
//!   parallel  fifty ADDs at once, then fifty DELs: until the last one has ended
//! ```
//!
//! A plugin is started as a runtime does it, from a process in the host's namespace; a
//! figure is from there to its end.
//!
//! `make bench-cni [ONLY="one cluster parallel"] [ROUNDS=200]`: root, release binaries, a quiet
//! machine; two minutes.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::figures::{Section, median, rank, run_sections, spread};
use overlay_tests::shell::{inside, netns_path};
use overlay_tests::{Host, Lab, NetSpec, binaries};
use serde_json::{Value, json};

const SECTIONS: [(&str, Section); 3] = [("one", one), ("cluster", cluster), ("parallel", parallel)];

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/16"], mtu: 0, extra: &[] };

const REFERENCE: &str = overlay_tests::cni::REFERENCE;

fn main() -> Result<()> {
    run_sections(&SECTIONS, &[])
}

fn rounds(default: usize) -> Result<usize> {
    match std::env::var("ROUNDS") {
        Ok(text) => text.parse().context("ROUNDS is a whole number"),
        Err(_) => Ok(default),
    }
}

/// A plugin and its configuration.
#[derive(Clone)]
struct Plugin {
    program: PathBuf,
    conf: Value,
}

impl Plugin {
    fn ours(host: &Host) -> Result<Self> {
        let conf = json!({
            "cniVersion": "0.4.0", "name": "demo", "type": "overlay-cni",
            "socket": host.socket(), "stateDir": host.dir().join("cni"),
        });
        Ok(Self { program: binaries::plugin("overlay-cni")?, conf })
    }

    fn reference(host: &Host) -> Self {
        let conf = json!({
            "cniVersion": "0.4.0", "name": "ref", "type": "bridge", "bridge": "cb0",
            "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": host.dir().join("host-local"),
                "ranges": [[{"subnet": "10.66.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        Self { program: PathBuf::from(REFERENCE).join("bridge"), conf }
    }

    /// Milliseconds from its start to its end, and what it said. To be called inside.
    fn call(&self, verb: &str, netns: &str, prev: Option<&Value>) -> Result<(f64, Value)> {
        let mut conf = self.conf.clone();
        if let Some(prev) = prev {
            conf["prevResult"] = prev.clone();
        }
        let stdin = conf.to_string();
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", netns)
            .env("CNI_NETNS", netns_path(netns))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        child.stdin.take().context("it is piped")?.write_all(stdin.as_bytes())?;
        let output = child.wait_with_output()?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{verb}: {text}");
        Ok((ms, serde_json::from_str(&text).unwrap_or_default()))
    }
}

/// A host of a cluster, with as many others, and one without a daemon.
fn hosts(lab: &Lab, others: bool) -> Result<(Host, Host)> {
    let (a, others) = match others {
        true => {
            let [a, b, c] = lab.hosts(["a", "b", "c"])?;
            (a, vec![b, c])
        }
        false => {
            let [a] = lab.hosts(["a"])?;
            (a, vec![])
        }
    };
    let r = lab.host("r")?;
    a.net_create("demo", DEMO)?;
    a.attach("demo", "first")?;
    for other in others {
        other.knows_net("demo")?;
        other.attach("demo", &format!("first-{}", other.name()))?;
    }
    a.at_rest()?;
    Ok((a, r))
}

fn one() -> Result<()> {
    by_turns(false)
}

fn cluster() -> Result<()> {
    by_turns(true)
}

fn by_turns(others: bool) -> Result<()> {
    let rounds = rounds(200)?;
    Lab::run(|lab| {
        let (a, r) = hosts(lab, others)?;
        let sides = [(a.clone(), Plugin::ours(&a)?), (r.clone(), Plugin::reference(&r))];
        let mut figures: [[Vec<f64>; 3]; 2] = Default::default();
        for n in 0..rounds + 3 {
            for (side, (host, plugin)) in sides.iter().enumerate() {
                let pod = host.container(&format!("{}{n}", host.name()))?;
                let (plugin, netns) = (plugin.clone(), pod.netns().to_owned());
                let took = inside(host.netns(), move || {
                    let (add, result) = plugin.call("ADD", &netns, None)?;
                    let (check, _) = plugin.call("CHECK", &netns, Some(&result))?;
                    let (del, _) = plugin.call("DEL", &netns, Some(&result))?;
                    Ok([add, check, del])
                })?;
                host.remove_container(&pod)?;
                // The first ones warm up: files, the bridge.
                if n >= 3 {
                    for (all, ms) in figures[side].iter_mut().zip(took) {
                        all.push(ms);
                    }
                }
            }
        }
        println!("| ms, {rounds} each | p50 | p99 | least | most |\n|---|---|---|---|---|");
        for (side, name) in ["overlay-cni", "bridge + host-local"].into_iter().enumerate() {
            for (verb, all) in ["ADD", "CHECK", "DEL"].into_iter().zip(&figures[side]) {
                println!("{}", spread(&format!("{verb}: {name}"), all.clone()));
            }
        }
        println!("\n| ratio of the two | p50 | p99 |\n|---|---|---|");
        for (verb, n) in [("ADD", 0), ("CHECK", 1), ("DEL", 2)] {
            let [ours, theirs] = [0, 1].map(|side| {
                let mut all = figures[side][n].clone();
                all.sort_by(f64::total_cmp);
                all
            });
            let ratio = |p| rank(&ours, p) / rank(&theirs, p);
            println!("| {verb} | {:.2} | {:.2} |", ratio(50), ratio(99));
        }
        Ok(())
    })
}

fn parallel() -> Result<()> {
    const PODS: usize = 50;
    let rounds = rounds(5)?.min(20);
    Lab::run(|lab| {
        let (a, r) = hosts(lab, false)?;
        let sides = [(a.clone(), Plugin::ours(&a)?), (r.clone(), Plugin::reference(&r))];
        let mut figures: [[Vec<f64>; 2]; 2] = Default::default();
        for round in 0..rounds {
            for (side, (host, plugin)) in sides.iter().enumerate() {
                let pods =
                    (0..PODS).map(|n| host.container(&format!("{}{round}-{n}", host.name())));
                let pods = pods.collect::<Result<Vec<_>>>()?;
                for (n, verb) in ["ADD", "DEL"].into_iter().enumerate() {
                    let start = Arc::new(Barrier::new(PODS + 1));
                    let threads: Vec<_> = pods
                        .iter()
                        .map(|pod| {
                            let (plugin, netns) = (plugin.clone(), pod.netns().to_owned());
                            let (start, host) = (Arc::clone(&start), host.netns().to_owned());
                            std::thread::spawn(move || {
                                inside(&host, move || {
                                    start.wait();
                                    plugin.call(verb, &netns, None)
                                })
                            })
                        })
                        .collect();
                    start.wait();
                    let begin = Instant::now();
                    for thread in threads {
                        thread.join().expect("no bench panics in here")?;
                    }
                    figures[side][n].push(begin.elapsed().as_secs_f64() * 1e3);
                }
                for pod in &pods {
                    host.remove_container(pod)?;
                }
            }
        }
        println!("| ms until the last of {PODS} has ended, {rounds} rounds | ADD | DEL |");
        println!("|---|---|---|");
        for (side, name) in ["overlay-cni", "bridge + host-local"].into_iter().enumerate() {
            let [add, del] = figures[side].clone().map(median);
            println!("| {name} | {add} | {del} |");
        }
        Ok(())
    })
}
