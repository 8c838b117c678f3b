//! A host whose address on the underlay changes while its daemon runs.
//!
//! ```text
//!   c1 ── host a 192.0.2.1 → 192.0.2.101 ──── underlay ──── host b 192.0.2.2 ── c2
//!                                                 └──────── host c 192.0.2.3 ── c3
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, NetSpec, Vtep, eventually, eventually_within,
};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

fn three(lab: &Lab) -> Result<([Host; 3], [Container; 3])> {
    let options = DaemonOptions { vtep: Vtep::Device("eth0"), ..DaemonOptions::default() };
    let hosts = lab.hosts_with(["a", "b", "c"], &options)?;
    hosts[0].net_create("demo", DEMO)?;
    let mut containers = Vec::new();
    for (host, name) in hosts.iter().zip(["c1", "c2", "c3"]) {
        host.knows_net("demo")?;
        containers.push(host.attach("demo", name)?);
    }
    let Ok(containers) = <[Container; 3]>::try_from(containers) else { unreachable!("three") };
    for other in &containers[1..] {
        containers[0].ping(other.ip())?;
        other.ping(containers[0].ip())?;
    }
    Ok((hosts, containers))
}

/// `host` sends what is for `container` to `vtep` and nowhere else.
fn sends(host: &Host, container: &Container, vtep: &str, former: &str) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    ensure!(fdb.vtep_of(container.mac()) == Some(vtep.parse()?), "{fdb:?}");
    ensure!(fdb.flood().contains(&vtep.parse()?), "{fdb:?}");
    ensure!(!fdb.flood().contains(&former.parse()?), "{fdb:?}");
    Ok(())
}

fn device(host: &Host) -> Result<String> {
    host.exec("ip -d link show ovx4097")
}

/// Replaces the address of a, and says how long the traffic took to be back.
fn moves(
    a: &Host,
    away: Option<Duration>,
    from: &str,
    to: &str,
    streams: &[&overlay_tests::PingStream],
) -> Result<Duration> {
    a.exec(&format!("ip addr del {from}/24 dev eth0"))?;
    if let Some(least) = away {
        // Until the others have noticed.
        eventually("a says that its address is gone", || {
            let warnings = a.status()?.warnings;
            ensure!(
                warnings.iter().any(|w| w.contains(from) && w.contains("gone")),
                "{warnings:?}"
            );
            Ok(())
        })?;
        overlay_tests::holds_for(least, "a serves without an address", || a.status().map(drop))?;
    }
    a.exec(&format!("ip addr add {to}/24 dev eth0"))?;
    let back = Instant::now();
    for stream in streams {
        stream.answers(10)?;
    }
    Ok(back.elapsed())
}

#[test]
fn traffic_is_back_within_two_seconds_of_a_new_address() -> Result<()> {
    Lab::run(|lab| {
        let ([a, b, c], [c1, c2, c3]) = three(lab)?;
        let links = a.our_links()?;
        let pid = a.pid()?;
        let streams = [c2.ping_stream(c1.ip())?, c1.ping_stream(c3.ip())?];
        let all: Vec<_> = streams.iter().collect();

        let hops = ["192.0.2.1", "192.0.2.101", "192.0.2.102", "192.0.2.1"];
        for (n, hop) in hops.windows(2).enumerate() {
            // At once, as a renewed lease; after seconds, as a lost one; and back to the first.
            let away = (n == 1).then_some(Duration::from_secs(5));
            let took = moves(&a, away, hop[0], hop[1], &all)?;
            println!("{} to {}: traffic is back after {took:?}", hop[0], hop[1]);
            ensure!(took <= Duration::from_secs(2), "{took:?}");
            for host in [&b, &c] {
                eventually(&format!("{} sends to the new address", host.name()), || {
                    sends(host, &c1, hop[1], hop[0])
                })?;
                eventually("it is the same host, up, at another address", || {
                    let seen = host.hosts()?;
                    ensure!(seen.len() == 3, "{seen:?}");
                    let a = seen.iter().find(|h| h.name == "a").context("a is known")?;
                    ensure!(a.state == "up" && a.gossip == format!("{}:7946", hop[1]), "{a:?}");
                    Ok(())
                })?;
            }
            let own = device(&a)?;
            ensure!(own.contains(&format!("local {} ", hop[1])), "{own}");
            eventually("a hears the others", || {
                let up = a.hosts()?.iter().filter(|h| h.state == "up").count();
                ensure!(up == 3, "{:?}", a.hosts()?);
                let status = a.status()?;
                ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
                Ok(())
            })?;
        }
        ensure!(a.our_links()? == links, "devices were replaced: {:?}", a.our_links()?);
        ensure!(a.pid()? == pid && a.status()?.local_endpoints == 1, "{:?}", a.status()?);

        // What is attached, detached and created after it arrives as ever.
        let c4 = a.attach("demo", "c4")?;
        c4.ping(c2.ip())?;
        b.detach("c2")?;
        eventually("a has forgotten c2", || {
            let fdb = a.fdb("ovx4097")?;
            ensure!(!fdb.knows(c2.mac()), "{fdb:?}");
            Ok(())
        })?;
        a.at_rest()
    })
}

#[test]
fn what_happened_while_a_host_had_no_address_is_known_after_it() -> Result<()> {
    Lab::run(|lab| {
        let ([a, b, _c], [c1, c2, c3]) = three(lab)?;
        a.exec("ip addr del 192.0.2.1/24 dev eth0")?;
        b.sees("a", "suspect")?;
        b.detach("c2")?;
        let c5 = b.attach("demo", "c5")?;
        a.exec("ip addr add 192.0.2.101/24 dev eth0")?;
        eventually("a has what b has now", || {
            let fdb = a.fdb("ovx4097")?;
            ensure!(fdb.knows(c5.mac()) && !fdb.knows(c2.mac()), "{fdb:?}");
            Ok(())
        })?;
        c1.ping(c5.ip())?;
        c3.ping(c1.ip())
    })
}

#[test]
fn an_address_that_was_chosen_is_waited_for_and_the_mtu_is_noticed() -> Result<()> {
    Lab::run(|lab| {
        // --vtep-ip, as labs do.
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        c1.ping(c2.ip())?;
        let before = a.our_links()?;

        a.exec("ip link set eth0 mtu 1480")?;
        for host in [&a, &b] {
            eventually_within(Duration::from_secs(2), "the MTU of a is known", || {
                let seen = host.host_seen("a")?;
                ensure!(seen.underlay_mtu == 1480, "{seen:?}");
                Ok(())
            })?;
        }
        a.exec("ip link set eth0 mtu 1500")?;

        a.exec("ip addr add 192.0.2.101/24 dev eth0")?;
        a.exec("ip addr del 192.0.2.1/24 dev eth0")?;
        eventually("a says that its address is gone", || {
            let said = a.ctl(&["status"])?.stdout;
            ensure!(said.starts_with("attention: "), "{said}");
            ensure!(said.contains("--vtep-ip 192.0.2.1 is on no device"), "{said}");
            Ok(())
        })?;
        ensure!(device(&a)?.contains("local 192.0.2.1 "), "it moved: {}", device(&a)?);
        ensure!(a.our_links()? == before, "{before:?} became {:?}", a.our_links()?);
        a.exec("ip addr add 192.0.2.1/24 dev eth0")?;
        eventually("all is well again", || {
            let status = a.status()?;
            ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
            Ok(())
        })?;
        b.sees("a", "up")?;
        c1.ping(c2.ip())
    })
}
