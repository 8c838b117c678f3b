//! Hosts that fall silent, die, leave and return: whose entries stay, whose go
//! and when.
//!
//! ```text
//!   host a 192.0.2.1 ──── underlay 192.0.2.0/24 ──── host b 192.0.2.2
//!     c1                                               c2
//!                     host c 192.0.2.3: c3
//!
//!   suspect after 1 s of silence; down, and its entries gone, 4 s after that
//! ```

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, NetSpec, eventually, eventually_within, holds_for,
};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };
const GRACE: Duration = Duration::from_secs(4);

fn short_grace() -> DaemonOptions {
    DaemonOptions { down_after: Some("1s"), down_grace: Some("4s"), ..DaemonOptions::default() }
}

fn pair(a: &Host, b: &Host) -> Result<(Container, Container)> {
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
    eventually("a has c2", || has(a, &c2))?;
    eventually("b has c1", || has(b, &c1))?;
    c1.ping(c2.ip())?;
    Ok((c1, c2))
}

fn has(host: &Host, container: &Container) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    ensure!(fdb.vtep_of(container.mac()) == Some(container.host().vtep()), "{fdb:?}");
    let neigh = host.neigh("ovb4097")?;
    ensure!(neigh.iter().any(|n| n.ip == container.ip()), "{neigh:?}");
    Ok(())
}

fn has_not(host: &Host, container: &Container) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    ensure!(!fdb.knows(container.mac()), "{fdb:?}");
    ensure!(!fdb.flood().contains(&container.host().vtep()), "{fdb:?}");
    let neigh = host.neigh("ovb4097")?;
    ensure!(neigh.iter().all(|n| n.ip != container.ip()), "{neigh:?}");
    Ok(())
}

#[test]
fn entries_of_a_host_that_lost_power_stay_through_the_grace_and_go_after_it() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts_with(["a", "b"], &short_grace())?;
        let (c1, c2) = pair(&a, &b)?;
        let monitor = a.monitor_fdb()?;

        let died = SystemTime::now();
        b.power_off()?;
        a.sees("b", "suspect")?;
        has(&a, &c2).context("suspicion moved an entry")?;
        a.sees("b", "down")?;
        eventually("a has forgotten c2", || has_not(&a, &c2))?;
        let gone = monitor
            .first("the kernel told of it", |e| e.is_deletion() && e.text.contains(c2.mac()))?;
        let after = gone.at.duration_since(died)?;
        ensure!(after >= GRACE, "gone {after:?} after the death, before the grace ended");
        ensure!(!a.host_seen("b")?.entries_in_use, "{:?}", a.host_seen("b")?);

        // Back, with its state directory and without its containers.
        b.power_on()?;
        b.start()?;
        a.sees("b", "up")?;
        let again = b.attach_with("demo", "c2-again", &["--ip", &c2.ip().to_string()])?;
        eventually("a has the entries of b again", || has(&a, &again))?;
        c1.ping(again.ip())
    })
}

#[test]
fn a_host_that_lost_power_is_called_down_everywhere_within_four_seconds() -> Result<()> {
    Lab::run(|lab| {
        // Every interval and delay as it is by default.
        let [a, b, c, d] = lab.hosts(["a", "b", "c", "d"])?;
        let died = Instant::now();
        d.power_off()?;
        let mut figures = Vec::new();
        for host in [&a, &b, &c] {
            host.sees("d", "down")?;
            figures.push((host.name().to_owned(), died.elapsed()));
        }
        println!("d is down as seen by {figures:?}");
        ensure!(figures.iter().all(|(_, took)| *took <= Duration::from_secs(4)), "{figures:?}");
        Ok(())
    })
}

#[test]
fn every_host_that_is_up_is_shown_with_its_round_trip() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        for on in &hosts {
            eventually(&format!("{} shows the round trip to the others", on.name()), || {
                for host in on.hosts()?.iter().filter(|host| !host.local) {
                    let trip = host.rtt_us.with_context(|| format!("none to {}", host.name))?;
                    let age = host.rtt_age_ms.with_context(|| format!("no age: {host:?}"))?;
                    println!("{} to {}: {trip} us, {age} ms ago", on.name(), host.name);
                    // Microseconds on the wire; the rest is two busy daemons.
                    ensure!((1..50_000).contains(&trip), "{trip} us to {}", host.name);
                    ensure!(age < 10_000, "{age} ms ago to {}", host.name);
                }
                Ok(())
            })?;
        }
        let shown = hosts[0].ctl(&["hosts"])?.stdout;
        let column = shown.lines().next().and_then(|line| line.find("RTT")).context("a column")?;
        for line in shown.lines().skip(1) {
            let cell = line[column..].split(' ').next().unwrap_or_default();
            ensure!(cell.ends_with("ms") != line.starts_with("a "), "{cell}: {shown}");
        }
        Ok(())
    })
}

#[test]
fn a_host_whose_peers_are_all_down_at_the_start_serves_and_finds_them_later() -> Result<()> {
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let join = |host: &Host| DaemonOptions {
            join: vec![format!("{}:7946", host.address()), "no-such-host.invalid:7946".into()],
            ..DaemonOptions::default()
        };
        a.start_with(&join(&b))?;
        a.net_create("demo", DEMO)?;
        a.attach("demo", "c1")?;
        b.start_with(&DaemonOptions::default())?;
        lab.all_up(&[a, b.clone()])?;
        b.knows_net("demo").map(drop)
    })
}

#[test]
fn entries_of_a_daemon_that_was_killed_return_with_it() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts_with(["a", "b"], &short_grace())?;
        let (c1, c2) = pair(&a, &b)?;
        b.kill()?;
        eventually("a has forgotten c2", || has_not(&a, &c2))?;
        a.sees("b", "down")?;
        b.start()?;
        eventually_within(Duration::from_secs(5), "a has c2 again", || has(&a, &c2))?;
        a.sees("b", "up")?;
        c1.ping(c2.ip())
    })
}

#[test]
fn both_sides_of_a_cut_forget_each_other_after_the_grace_and_remember_when_it_heals() -> Result<()>
{
    Lab::run(|lab| {
        let [a, b] = lab.hosts_with(["a", "b"], &short_grace())?;
        let (c1, c2) = pair(&a, &b)?;
        lab.cut(&a, &b)?;
        a.sees("b", "down")?;
        b.sees("a", "down")?;
        eventually("a has forgotten c2", || has_not(&a, &c2))?;
        eventually("b has forgotten c1", || has_not(&b, &c1))?;
        lab.heal()?;
        eventually("a has c2 again", || has(&a, &c2))?;
        eventually("b has c1 again", || has(&b, &c1))?;
        c1.ping(c2.ip())
    })
}

#[test]
fn a_suspect_host_loses_nothing() -> Result<()> {
    Lab::run(|lab| {
        // The default grace of 10 s: b is silent for a part of it.
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b)?;
        let (fdb, neigh) = (a.monitor_fdb()?, a.monitor("ip -ts monitor neigh dev ovb4097")?);
        let stream = c1.ping_stream(c2.ip())?;

        b.freeze()?;
        a.sees("b", "suspect")?;
        holds_for(Duration::from_secs(2), "a keeps c2 while b is suspect", || {
            has(&a, &c2)?;
            ensure!(a.host_seen("b")?.entries_in_use, "{:?}", a.host_seen("b")?);
            Ok(())
        })?;
        b.thaw()?;
        a.sees("b", "up")?;

        stream.stop()?.expect_lossless("b was suspect for seconds")?;
        for monitor in [fdb, neigh] {
            let gone: Vec<_> = monitor
                .events()?
                .into_iter()
                .filter(overlay_tests::monitor::Event::is_deletion)
                .collect();
            ensure!(gone.is_empty(), "entries went: {gone:?}");
        }
        Ok(())
    })
}

#[test]
fn a_stopped_daemon_keeps_its_entries_beyond_the_grace_of_a_dead_one() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts_with(["a", "b"], &short_grace())?;
        let (c1, c2) = pair(&a, &b)?;
        let stream = c1.ping_stream(c2.ip())?;
        b.stop()?;
        a.sees("b", "stopped")?;
        holds_for(GRACE * 2, "a keeps c2 while b's daemon is stopped", || {
            has(&a, &c2)?;
            let seen = a.host_seen("b")?;
            ensure!(seen.state == "stopped" && seen.entries_in_use, "{seen:?}");
            Ok(())
        })?;
        b.start()?;
        a.sees("b", "up")?;
        stream.stop()?.expect_lossless("b's daemon was stopped and started")
    })
}

#[test]
fn entries_of_a_host_that_leaves_go_at_once_and_it_may_come_back() -> Result<()> {
    Lab::run(|lab| {
        // The default grace of 10 s: what goes in 2 s did not wait for it.
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let (c1, c2) = pair(&a, &b)?;
        c.knows_net("demo")?;
        let c3 = c.attach("demo", "c3")?;
        c3.ping(c2.ip())?;

        let out = b.ctl(&["leave"])?;
        ensure!(out.code == 1, "it left with an endpoint attached: {out:?}");
        a.sees("b", "up")?;

        let out = b.ctl(&["leave", "--force"])?;
        ensure!(out.code == 0, "{out:?}");
        for host in [&a, &c] {
            eventually_within(Duration::from_secs(2), "the entries of b are gone", || {
                has_not(host, &c2)
            })?;
            host.sees("b", "left")?;
        }
        ensure!(b.ended()?.success(), "the daemon ended in good order");
        c1.ping(c3.ip()).context("the others keep each other")?;

        b.start()?;
        a.sees("b", "up")?;
        eventually("a has c2 again", || has(&a, &c2))?;
        c1.ping(c2.ip())
    })
}

#[test]
fn two_of_three_keep_talking_while_the_third_dies() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts_with(["a", "b", "c"], &short_grace())?;
        let (c1, c2) = pair(&a, &b)?;
        c.knows_net("demo")?;
        let c3 = c.attach("demo", "c3")?;
        c1.ping(c3.ip())?;
        let stream = c1.ping_stream(c2.ip())?;
        c.power_off()?;
        for host in [&a, &b] {
            eventually("the entries of c are gone", || has_not(host, &c3))?;
        }
        stream.stop()?.expect_lossless("only c died")
    })
}
