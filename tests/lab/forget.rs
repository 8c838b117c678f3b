//! Hosts that go for good: who gives out what they owned, and what happens when
//! they come back after all.
//!
//! ```text
//!   host a ──┐
//!   host b ──┼── underlay      demo: VNI 4097, 10.9.0.0/24, a made it
//!   host c ──┘                 c owns half of what it asked for, and loses power
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::shell::run;
use overlay_tests::{DaemonOptions, Host, Lab, NetSpec, eventually, eventually_within};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// Down after three seconds; forgotten after `forget`.
fn options(forget: &str) -> DaemonOptions {
    DaemonOptions {
        down_after: Some("1s"),
        down_grace: Some("2s"),
        extra: vec![format!("--forget-after={forget}")],
        ..DaemonOptions::default()
    }
}

/// Every host has a container, and so addresses of its own.
fn peopled(hosts: &[Host]) -> Result<()> {
    hosts[0].net_create("demo", DEMO)?;
    for host in hosts {
        host.knows_net("demo")?;
        host.attach("demo", &format!("first-{}", host.name()))?;
    }
    for host in hosts {
        eventually(&format!("{} knows who owns what", host.name()), || {
            let owners = owners(host)?;
            ensure!(owners.len() == hosts.len(), "{owners:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Who owns addresses of the network, as `host` sees it: all have an owner.
fn owners(host: &Host) -> Result<BTreeSet<String>> {
    let shown = host.ask(async |c| c.ipam_of("demo").await)?;
    let ranges = shown.into_iter().flat_map(|subnet| subnet.ranges);
    ranges.map(|range| range.owner.context("addresses without an owner")).collect()
}

fn owned_by(host: &Host, names: &[&str]) -> Result<()> {
    let owners = owners(host)?;
    let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    ensure!(owners == names, "{owners:?}");
    Ok(())
}

fn is_down(host: &Host, other: &str) -> Result<()> {
    eventually(&format!("{other} is down"), || {
        let down = host.hosts()?.iter().any(|h| h.name == other && h.state == "down");
        ensure!(down, "it is not");
        Ok(())
    })
}

/// Starts `host` again, with the state that it had.
fn back(host: &Host, peer: &Host, forget: &str) -> Result<()> {
    let join = vec![format!("{}:7946", peer.address())];
    host.start_with(&DaemonOptions { join, ..options(forget) })
}

/// All that there is can be leased, once each.
fn fill(hosts: &[&Host], already: usize) -> Result<()> {
    let mut stations = 0;
    let capacity = 253 - already;
    while stations < capacity {
        let host = hosts[stations % hosts.len()];
        let mac = format!("02:aa:00:00:{:02x}:{:02x}", stations / 256, stations % 256);
        let args = ["endpoint", "add", "--net", "demo", "--mac", &mac];
        let out = host.ctl(&args)?;
        ensure!(out.code == 0, "after {stations} of {capacity}: {out:?}");
        stations += 1;
    }
    let all = hosts[0].ask(async |c| c.endpoints(Some("demo"), false).await)?;
    let ips: BTreeSet<String> =
        all.iter().flat_map(|e| e.ips.iter().map(|ip| ip.addr().to_string())).collect();
    ensure!(ips.len() == 253, "{} addresses of 253", ips.len());
    let out = hosts[0].ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:ff:ff"])?;
    ensure!(out.code != 0 && out.stderr.contains("no free address"), "{out:?}");
    Ok(())
}

#[test]
fn after_the_time_that_is_set_the_others_take_over_what_a_dead_host_owned() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts_with(["a", "b", "c"], &options("12s"))?;
        lab.all_up(&hosts)?;
        peopled(&hosts)?;
        let [a, b, c] = &hosts;
        c.power_off()?;
        for host in [a, b] {
            eventually_within(Duration::from_secs(60), "c is forgotten", || {
                owned_by(host, &["a", "b"])
            })?;
        }
        // The two of c and its container are gone: theirs is free again.
        fill(&[a, b], 2)?;

        // It comes back with its state, and is one of the cluster.
        c.power_on()?;
        back(c, a, "12s")?;
        lab.all_up(&hosts)?;
        // It gives nothing out before it has heard the others.
        eventually("c knows that all is leased", || {
            let out = c.ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:ff:fe"])?;
            ensure!(out.code != 0 && out.stderr.contains("no free address"), "{out:?}");
            Ok(())
        })?;
        let out = a.ctl(&["endpoint", "rm", "02:aa:00:00:00:00"])?;
        ensure!(out.code == 0, "{out:?}");
        eventually("c is given what is free", || {
            let out = c.ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:ff:fe"])?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })
    })
}

#[test]
fn an_operator_who_vouches_need_not_wait_and_who_does_not_is_told_why() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts_with(["a", "b", "c"], &options("24h"))?;
        lab.all_up(&hosts)?;
        peopled(&hosts)?;
        let [a, b, c] = &hosts;
        let out = a.ctl(&["host", "forget", "c"])?;
        ensure!(out.code != 0 && out.stderr.contains("host c is up"), "{out:?}");
        let out = a.ctl(&["host", "forget", "nobody"])?;
        ensure!(out.code != 0 && out.stderr.contains("there is no host nobody"), "{out:?}");
        c.power_off()?;
        is_down(a, "c")?;
        let out = a.ctl(&["host", "forget", "c"])?;
        ensure!(out.code != 0 && out.stderr.contains("--dead"), "{out:?}");
        owned_by(a, &["a", "b", "c"])?;
        let out = a.ctl(&["host", "forget", "c", "--dead"])?;
        ensure!(out.code == 0 && out.stdout.contains("host c is forgotten"), "{out:?}");
        for host in [a, b] {
            eventually("c owns nothing", || owned_by(host, &["a", "b"]))?;
        }
        // Two are left of two that count: one alone is no majority.
        b.power_off()?;
        is_down(a, "b")?;
        let out = a.ctl(&["host", "forget", "b", "--dead"])?;
        ensure!(out.code == 0 && out.stdout.contains("not more than half"), "{out:?}");
        owned_by(a, &["a", "b"])?;
        let out = a.ctl(&["host", "forget", "b", "--dead", "--force"])?;
        ensure!(out.code == 0 && out.stdout.contains("host b is forgotten"), "{out:?}");
        owned_by(a, &["a"])
    })
}

#[test]
fn who_leaves_gives_its_addresses_away_and_who_is_drained_takes_nothing_new() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts_with(["a", "b", "c"], &options("24h"))?;
        lab.all_up(&hosts)?;
        peopled(&hosts)?;
        let [a, b, c] = &hosts;
        let out = c.ctl(&["drain"])?;
        ensure!(out.code == 0 && out.stdout.contains("1 endpoint"), "{out:?}");
        let out = c.ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:00:01"])?;
        ensure!(out.code != 0 && out.stderr.contains("drained"), "{out:?}");
        ensure!(out.stderr.contains("overlayctl drain --undo"), "{out:?}");
        let shown = |drained: &[&str]| {
            for host in &hosts {
                eventually(&format!("{} shows who is drained", host.name()), || {
                    let seen = host.hosts()?.into_iter().filter(|h| h.drained).map(|h| h.name);
                    let seen: Vec<String> = seen.collect();
                    ensure!(seen == drained, "{seen:?}");
                    Ok(())
                })?;
            }
            Ok::<_, anyhow::Error>(())
        };
        shown(&["c"])?;
        c.kill()?;
        back(c, a, "24h")?;
        lab.all_up(&hosts)?;
        shown(&["c"])?;
        let text = a.ctl(&["hosts"])?.stdout;
        let line = text.lines().find(|line| line.starts_with("c ")).context("c is not shown")?;
        ensure!(line.contains("drained"), "{text}");
        let out = c.ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:00:01"])?;
        ensure!(out.code != 0 && out.stderr.contains("drained"), "after a restart: {out:?}");
        let out = c.ctl(&["drain", "--undo"])?;
        ensure!(out.code == 0, "{out:?}");
        lab.all_up(&hosts)?;
        shown(&[])?;
        let out = c.ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:00:01"])?;
        ensure!(out.code == 0, "{out:?}");

        let out = c.ctl(&["leave", "--force"])?;
        ensure!(out.code == 0, "{out:?}");
        c.ended()?;
        for host in [a, b] {
            eventually("c owns nothing", || owned_by(host, &["a", "b"]))?;
        }
        fill(&[a, b], 2)
    })
}

#[test]
fn a_host_that_is_restored_from_a_backup_of_before_it_was_forgotten_gives_nothing_twice()
-> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts_with(["a", "b", "c"], &options("24h"))?;
        lab.all_up(&hosts)?;
        peopled(&hosts)?;
        let [a, b, c] = &hosts;
        let add =
            |host: &Host, mac: &str| host.ctl(&["endpoint", "add", "--net", "demo", "--mac", mac]);
        ensure!(add(c, "02:cc:00:00:00:01")?.code == 0);
        c.kill()?;
        let (state, backup) = (c.state_dir(), lab.dir().join("backup"));
        run(&format!("cp -a {} {}", state.display(), backup.display()))?;
        back(c, a, "24h")?;
        lab.all_up(&hosts)?;
        // What the backup does not know.
        eventually("c gives out what it owns", || {
            let out = add(c, "02:cc:00:00:00:02")?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })?;
        c.power_off()?;
        is_down(a, "c")?;
        let out = a.ctl(&["host", "forget", "c", "--dead"])?;
        ensure!(out.code == 0 && out.stdout.contains("host c is forgotten"), "{out:?}");
        for host in [a, b] {
            eventually("c owns nothing", || owned_by(host, &["a", "b"]))?;
        }
        // Of 253 all but the few that c may have: among them most that it owned.
        for n in 0..240 {
            let host = [a, b][n % 2];
            let out = add(host, &format!("02:aa:00:00:00:{n:02x}"))?;
            ensure!(out.code == 0, "after {n}: {out:?}");
        }

        c.power_on()?;
        std::fs::remove_dir_all(&state)?;
        run(&format!("cp -a {} {}", backup.display(), state.display()))?;
        back(c, a, "24h")?;
        // From its first moment on: whatever it answers, no address is given twice.
        let mut mac = 0;
        eventually("c is told that it was forgotten, and is given addresses anew", || {
            mac += 1;
            let out = add(c, &format!("02:cc:00:00:01:{mac:02x}"))?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })?;
        lab.all_up(&hosts)?;
        let log = std::fs::read_to_string(c.log_file())?;
        ensure!(log.contains("was forgotten"), "{}", c.log_tail(40));
        for host in &hosts {
            eventually("each address is on one endpoint, and the audit is content", || {
                let all = host.ask(async |c| c.endpoints(Some("demo"), false).await)?;
                let ips: Vec<String> =
                    all.iter().flat_map(|e| &e.ips).map(ToString::to_string).collect();
                let unique: BTreeSet<&String> = ips.iter().collect();
                ensure!(unique.len() == ips.len() && ips.len() > 242, "{ips:?}");
                // What c has of before stays while nobody else has its address: abroad, then.
                let audit = host.ask(async |c| c.check_ipam(&Default::default()).await)?;
                let worse = audit.findings.iter().find(|finding| finding.kind != "abroad");
                ensure!(worse.is_none(), "{audit:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
}
