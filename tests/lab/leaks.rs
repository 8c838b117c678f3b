//! Containers that die without being detached: nothing of them is lost while
//! they may come back, and nothing leaks when they do not.
//!
//! ```text
//!   host a 192.0.2.1 ──── underlay 192.0.2.0/24 ──── host b 192.0.2.2
//!     c1, whose namespace goes                         c2
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, NetSpec, eventually, eventually_within, holds_for,
};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

fn grace(time: &str) -> DaemonOptions {
    DaemonOptions { extra: vec!["--leak-grace".into(), time.into()], ..DaemonOptions::default() }
}

fn pair(a: &Host, b: &Host) -> Result<(Container, Container)> {
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
    c1.ping(c2.ip())?;
    c2.ping(c1.ip())?;
    Ok((c1, c2))
}

fn named(host: &Host, name: &str) -> Result<v1::Endpoint> {
    let all = host.endpoints()?;
    all.into_iter().find(|e| e.name.as_deref() == Some(name)).context("there is none")
}

fn is_gone(host: &Host, name: &str) -> Result<v1::Endpoint> {
    eventually("it is told as gone", || {
        let ep = named(host, name)?;
        ensure!(ep.state == "gone" && ep.gone_ms.is_some(), "{ep:?}");
        Ok(ep)
    })
}

/// The audit finds nothing.
fn all_is_well(host: &Host) -> Result<()> {
    eventually("overlayctl ipam check is content", || {
        let audit = host.ctl(&["ipam", "check"])?;
        ensure!(audit.code == 0 && audit.stdout.starts_with("ok: "), "{audit:?}");
        Ok(())
    })
}

#[test]
fn a_container_that_comes_back_is_where_it_was_and_its_peer_reaches_it() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b)?;
        a.remove_container(&c1)?;
        let gone = is_gone(&a, "c1")?;
        let reason = gone.reason.unwrap_or_default();
        ensure!(reason.contains("namespace is gone; it is released in"), "{reason}");
        holds_for(Duration::from_secs(2), "b keeps its entry", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(fdb.vtep_of(c1.mac()) == Some(a.vtep()), "{fdb:?}");
            Ok(())
        })?;
        a.at_rest()?;
        let monitor = b.monitor_fdb()?;

        // Another namespace, under the same name.
        let back = a.attach("demo", "c1")?;
        ensure!((back.ip(), back.mac()) == (c1.ip(), c1.mac()), "{:?}", back.endpoint());
        ensure!(back.endpoint().id != c1.endpoint().id);
        c2.ping(back.ip())?;
        back.ping(c2.ip())?;
        ensure!(a.endpoints()?.len() == 2, "{:?}", a.endpoints()?);
        eventually("b has forgotten the old one", || {
            ensure!(b.endpoints()?.len() == 2, "{:?}", b.endpoints()?);
            Ok(())
        })?;
        let flaps: Vec<_> = monitor.events()?.into_iter().filter(|e| e.is_deletion()).collect();
        ensure!(flaps.is_empty(), "the entry on b went and came: {flaps:#?}");

        // And from the same path, without a name.
        a.remove_container(&back)?;
        is_gone(&a, "c1")?;
        let again = a.container("c1")?;
        let path = again.netns_path();
        let ep: v1::Endpoint = a.ctl_json(&["attach", "--net", "demo", "--netns", &path])?;
        ensure!(ep.mac == c1.mac() && ep.name.as_deref() == Some("c1"), "{ep:?}");
        c2.ping(c1.ip())
    })
}

#[test]
fn one_that_does_not_come_back_is_released_everywhere_when_the_grace_is_over() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts_with(["a", "b"], &grace("5s"))?;
        let (c1, c2) = pair(&a, &b)?;
        let before = a.our_links()?;
        a.remove_container(&c1)?;
        is_gone(&a, "c1")?;
        let refused = a.ctl(&["attach", "--net", "demo", "--netns", c1.netns(), "--name", "c1"])?;
        ensure!(refused.code == 1, "a namespace that is not there: {refused:?}");
        eventually_within(Duration::from_secs(8), "a has released it", || {
            ensure!(a.endpoints()?.iter().all(|e| !e.local), "{:?}", a.endpoints()?);
            Ok(())
        })?;
        eventually("b has forgotten it", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(!fdb.knows(c1.mac()) && b.endpoints()?.len() == 1, "{fdb:?}");
            Ok(())
        })?;
        eventually("the network has left a's kernel", || {
            let links = a.our_links()?;
            ensure!(links.is_empty() && !before.is_empty(), "{links:?}");
            Ok(())
        })?;
        // Its address can be had again, by that very address.
        let ip = c1.ip().to_string();
        let next = a.attach_with("demo", "c3", &["--ip", &ip])?;
        next.ping(c2.ip())?;
        all_is_well(&a)?;
        all_is_well(&b)
    })
}

#[test]
fn hundreds_of_containers_that_die_undetached_leak_no_address() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts_with(["a"], &grace("1s"))?;
        // Thirteen addresses for endpoints.
        a.net_create("demo", NetSpec { subnets: &["10.9.0.0/28"], ..DEMO })?;
        for round in 0..8 {
            let dead = (0..13)
                .map(|n| a.attach("demo", &format!("r{round}n{n}")))
                .collect::<Result<Vec<_>>>()
                .with_context(|| format!("round {round}"))?;
            for container in &dead {
                a.remove_container(container)?;
            }
            eventually("all are released", || {
                let all = a.endpoints()?;
                ensure!(all.is_empty(), "{all:?}");
                Ok(())
            })?;
        }
        all_is_well(&a)?;
        let [subnet] = a.ctl_json::<[v1::IpamSubnet; 1]>(&["ipam", "ls"])?;
        ensure!((subnet.leased, subnet.leased_here, subnet.free) == (0, 0, 13), "{subnet:?}");
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_killed_meanwhile_drops_it_at_its_start_and_gives_its_address_to_nobody_early()
-> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, _c2) = pair(&a, &b)?;
        a.remove_container(&c1)?;
        is_gone(&a, "c1")?;
        a.kill()?;
        a.start()?;
        eventually("it is dropped", || {
            ensure!(a.endpoints()?.iter().all(|e| !e.local), "{:?}", a.endpoints()?);
            Ok(())
        })?;
        let next = a.attach("demo", "c1")?;
        ensure!(next.ip() != c1.ip(), "an address goes round before it is given again");
        Ok(())
    })
}

#[test]
fn what_a_dead_host_holds_is_told_when_addresses_run_out() -> Result<()> {
    Lab::run(|lab| {
        let options = DaemonOptions {
            down_after: Some("1s"),
            down_grace: Some("2s"),
            ..DaemonOptions::default()
        };
        let [a, b] = lab.hosts_with(["a", "b"], &options)?;
        a.net_create("demo", NetSpec { subnets: &["10.9.0.0/28"], ..DEMO })?;
        b.knows_net("demo")?;
        let _c1 = a.attach("demo", "c1")?;
        let _c2 = b.attach("demo", "c2")?;
        b.kill()?;
        a.sees("b", "down")?;
        let mut alive = Vec::new();
        let refused = loop {
            let [subnet] = a.ctl_json::<[v1::IpamSubnet; 1]>(&["ipam", "ls"])?;
            ensure!(subnet.free == subnet.free_here && subnet.unreachable > 0, "{subnet:?}");
            let name = format!("n{}", alive.len());
            let container = a.container(&name)?;
            let netns = container.netns_path();
            let said = a.ctl(&["attach", "--net", "demo", "--netns", &netns, "--name", &name])?;
            alive.push(container);
            if said.code != 0 {
                ensure!(subnet.free == 0, "{subnet:?} and yet {said:?}");
                break said.stderr;
            }
            ensure!(subnet.free > 0 && alive.len() < 14, "{subnet:?}");
        };
        ensure!(refused.contains("held by hosts that cannot be reached: b ("), "{refused}");
        ensure!(refused.contains("overlayctl ipam show demo"), "{refused}");
        ensure!(refused.contains("overlayctl host forget b"), "{refused}");
        eventually("status warns", || {
            let warnings = a.status()?.warnings;
            let few = warnings.iter().any(|w| w.starts_with("network demo runs out of addresses"));
            ensure!(few, "{warnings:?}");
            Ok(())
        })?;
        let shown = a.ctl(&["ipam", "show", "demo"])?.stdout;
        ensure!(shown.lines().any(|line| line.contains(" b ") && line.contains("down")), "{shown}");
        Ok(())
    })
}
