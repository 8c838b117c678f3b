//! `overlayctl watch`: what happens on one host is told on the other, in order,
//! and one who does not listen holds nobody up.
//!
//! ```text
//!   host a 192.0.2.1 ──── underlay 192.0.2.0/24 ──── host b 192.0.2.2
//!     overlayctl watch                                 c2: attached, then killed with b
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use overlay_api::v1::Event;
use overlay_tests::shell::script_in;
use overlay_tests::{DaemonOptions, Lab, NetSpec, Watcher, eventually, eventually_within};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

fn of(kind: &str, name: &str) -> impl Fn(&Event) -> bool {
    move |event| event.kind == kind && event.name.as_deref() == Some(name)
}

fn host_is(state: &str) -> impl Fn(&Event) -> bool {
    move |e| e.kind == "host" && e.host.as_deref() == Some("b") && e.state.as_deref() == Some(state)
}

#[test]
fn an_attach_on_b_and_its_death_are_told_on_a_in_order() -> Result<()> {
    let options = DaemonOptions { down_grace: Some("2s"), ..DaemonOptions::default() };
    Lab::run(|lab| {
        let [a, b] = lab.hosts_with(["a", "b"], &options)?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        a.attach("demo", "c1")?;
        let mut json = Watcher::start(&a, "watch.json", &["--json", "--all", "--since", "0"])?;
        let mut text = Watcher::start(&a, "watch.text", &["--since", "0"])?;

        let mut order = vec![json.sees("b is up", host_is("up"))?];
        order.push(json.sees("the network is there", |e| e.kind == "network_created")?);
        order.push(json.sees("c1 is attached", of("attached", "c1"))?);
        let c2 = b.attach("demo", "c2")?;
        order.push(json.sees("c2 is on b", of("seen", "c2"))?);
        let (_, seen) = &order[3];
        ensure!(seen.host.as_deref() == Some("b") && seen.ips == [c2.ip()], "{seen:?}");
        b.kill()?;
        order.push(json.sees("b is suspect", host_is("suspect"))?);
        order.push(json.sees("b is down", host_is("down"))?);
        order.push(json.sees("its entries are out of use", |e| e.kind == "entries")?);
        ensure!(order.is_sorted_by(|x, y| x.0 < y.0), "{order:#?}");
        ensure!(order.is_sorted_by(|x, y| x.1.seq < y.1.seq), "{order:#?}");
        ensure!(order.is_sorted_by(|x, y| x.1.time <= y.1.time), "{order:#?}");
        let (_, gone) = &order[6];
        ensure!((gone.there, gone.count) == (Some(false), Some(1)), "{gone:?}");

        // Later ones are told from where they say.
        let since = order[4].1.seq.context("an event has a number")?.to_string();
        let later = Watcher::start(&a, "later.json", &["--json", "--since", &since])?;
        let (at, _) = later.sees("b is down", host_is("down"))?;
        ensure!(at == 0, "{:#?}", later.events()?);

        a.stop()?;
        for watcher in [&mut json, &mut text] {
            ensure!(watcher.ended()?.code() == Some(1), "it ended otherwise");
            let said = watcher.complaints()?;
            ensure!(said.contains("overlayd has stopped"), "{said}");
        }
        let told = text.output()?;
        ensure!(told.contains("  warning  host b is suspect (1 endpoints)\n"), "{told}");
        let names_it = told.split_whitespace().any(|word| word == "c2");
        ensure!(!names_it, "endpoints elsewhere without --all: {told}");
        Ok(())
    })
}

#[test]
fn a_watcher_that_does_not_read_slows_nobody_and_is_told_what_it_missed() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        a.attach("demo", "c1")?;
        let c2 = b.attach("demo", "c2")?;
        eventually("a has c2", || {
            let fdb = a.fdb("ovx4097")?;
            ensure!(fdb.knows(c2.mac()), "{fdb:?}");
            Ok(())
        })?;
        let stopped = Watcher::start(&a, "stopped.json", &["--json", "--all", "--since", "0"])?;
        stopped.sees("the network is there", |e| e.kind == "network_created")?;
        stopped.signal(Signal::SIGSTOP)?;

        // Another hand that adds what does not belong there, each time another entry: an
        // event each time.
        a.knows_all()?;
        let before = a.resident_kib()?;
        let mut attaches = Vec::new();
        for round in 0..4 {
            let meddle = format!(
                "for i in $(seq 1500); do bridge fdb add \
                 02:bb:00:0{round}:$((i / 90 + 10)):$((i % 90 + 10)) dev ovx4097 dst 192.0.2.99 \
                 self permanent; done"
            );
            script_in(a.netns(), &meddle)?;
            let start = Instant::now();
            a.attach("demo", &format!("n{round}"))?;
            attaches.push(start.elapsed());
        }
        println!("attaches beside a watcher that does not read: {attaches:?}");
        ensure!(attaches.iter().all(|took| *took < Duration::from_secs(1)), "{attaches:?}");
        let grown = a.resident_kib()?.saturating_sub(before);
        println!("the daemon grew by {grown} KiB");
        ensure!(grown < 16 << 10, "the daemon grew by {grown} KiB");

        stopped.signal(Signal::SIGCONT)?;
        let patience = Duration::from_secs(30);
        eventually_within(patience, "it is told of the last attach", || {
            let all = stopped.events()?;
            ensure!(all.iter().any(of("attached", "n3")), "{} events", all.len());
            Ok(())
        })?;
        let all = stopped.events()?;
        let missed: u64 = all.iter().filter(|e| e.kind == "missed").filter_map(|e| e.count).sum();
        let seqs: Vec<u64> = all.iter().filter_map(|e| e.seq).collect();
        println!("told {} events, {missed} missed", seqs.len());
        // Each gap has the size that it was said to have, and there is no other.
        let mut expected = seqs[0];
        for event in &all {
            match (event.seq, event.count) {
                (None, Some(missed)) => expected += missed,
                (seq, _) => {
                    ensure!(seq == Some(expected), "expected {expected}, came {event:?}");
                    expected += 1;
                }
            }
        }
        ensure!(missed > 0, "nothing was missed: {} events", all.len());
        ensure!(seqs.is_sorted_by(|x, y| x < y), "each once and in order");
        let (first, last) = (seqs[0], seqs[seqs.len() - 1]);
        ensure!(
            seqs.len() as u64 + missed == last - first + 1,
            "{} told and {missed} missed are not {} to {}",
            seqs.len(),
            first,
            last
        );
        Ok(())
    })
}

#[test]
fn the_sixty_fifth_watcher_is_refused_with_a_reason() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let mut watchers = Vec::new();
        for n in 0..64 {
            watchers.push(Watcher::start(&a, &format!("w{n}"), &["--json", "--since", "0"])?);
        }
        for watcher in &watchers {
            watcher.sees("the network is there", |e| e.kind == "network_created")?;
        }
        let refused = a.ctl(&["watch"])?;
        ensure!(refused.code == 1, "{refused:?}");
        ensure!(refused.stderr.contains("64 watch the events already"), "{refused:?}");
        drop(watchers.pop());
        let next = Watcher::start(&a, "next", &["--json", "--since", "0"])?;
        eventually("a place is free again", || {
            ensure!(!next.events()?.is_empty(), "{}", next.complaints()?);
            Ok(())
        })
    })
}
