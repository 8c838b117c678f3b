//! Networks that come, change and go: what may be leased, a gateway that is taken
//! away and put back, removal by force, two networks of one VNI, the loss of the
//! host that created one, and addresses that stay with a name.
//!
//! ```text
//!   host a 192.0.2.1 ──────┬──── host b 192.0.2.2 ──────┬──── host c 192.0.2.3
//!     c1                   │       c2                   │
//!                     underlay 192.0.2.0/24
//! ```

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::{Container, Host, Lab, NetSpec, Watcher, eventually};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// Says that `host` refuses `args`, with a line that has `text` in it.
fn refused(host: &Host, args: &[&str], text: &str) -> Result<()> {
    let out = host.ctl(args)?;
    ensure!(out.code == 1 && out.stderr.contains(text), "{args:?}: {out:?}");
    Ok(())
}

fn set(host: &Host, args: &[&str]) -> Result<v1::Network> {
    host.ctl_json(&[&["net", "set", "demo"], args].concat())
}

/// The endpoint of that name, as `host` shows it.
fn endpoint(host: &Host, name: &str) -> Result<v1::Endpoint> {
    let all = host.endpoints()?;
    let found = all.iter().find(|e| e.name.as_deref() == Some(name)).cloned();
    found.with_context(|| format!("no {name}: {all:#?}"))
}

/// Nothing of any network is on `host`, or known there.
fn is_bare(host: &Host) -> Result<()> {
    eventually(&format!("{} has dropped it all", host.name()), || {
        let (nets, endpoints, links) = (host.networks()?, host.endpoints()?, host.our_links()?);
        ensure!(nets.is_empty() && endpoints.is_empty(), "{nets:?} {endpoints:?}");
        ensure!(links.is_empty(), "{links:?}");
        Ok(())
    })
}

fn has_no_interface(container: &Container) -> Result<()> {
    eventually(&format!("{} has lost its interface", container.name()), || {
        let links = container.exec("ip -br link")?;
        ensure!(!links.contains("eth0"), "{links}");
        Ok(())
    })
}

#[test]
fn two_hosts_lease_a_range_without_its_exclusions_until_it_is_exhausted() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let extra = &["--ip-range", "10.9.0.64/29", "--exclude", "10.9.0.66"];
        let demo = a.net_create("demo", NetSpec { extra, ..DEMO })?;
        ensure!(b.knows_net("demo")? == demo, "{demo:?}");
        // Owns nothing but an address outside the range, so it must ask for one inside.
        let outside = b.attach_with("demo", "outside", &["--ip", "10.9.0.200"])?;
        let mut containers = Vec::new();
        for n in 0..7 {
            let host = if n % 2 == 0 { &b } else { &a };
            containers.push(host.attach("demo", &format!("c{n}"))?);
        }
        let mut got: Vec<String> = containers.iter().map(|c| c.ip().to_string()).collect();
        got.sort();
        let want: Vec<String> =
            [64, 65, 67, 68, 69, 70, 71].iter().map(|n| format!("10.9.0.{n}")).collect();
        ensure!(got == want, "{got:?}");
        outside.ping(containers[1].ip())?;
        let more = |ip: &[&'static str]| {
            let add = ["endpoint", "add", "--net", "demo", "--mac", "02:00:00:00:00:99"];
            [add.as_slice(), ip].concat()
        };
        for host in [&a, &b] {
            refused(host, &more(&[]), "no free address in 10.9.0.64/29 of 10.9.0.0/24")?;
            let excluded = "10.9.0.66 is excluded from network demo";
            refused(host, &more(&["--ip", "10.9.0.66"]), excluded)?;
        }
        let c0 = containers[0].ip().to_string();
        refused(
            &a,
            &["net", "set", "demo", "--exclude", &c0],
            "is the address of endpoint c0 on host b",
        )?;
        // What is included again is there for whoever asks first.
        set(&b, &["--include", "10.9.0.66"])?;
        eventually("a may lease it", || {
            let out = a.ctl(&more(&[]))?;
            ensure!(out.code == 0 && out.stdout.contains("10.9.0.66"), "{out:?}");
            Ok(())
        })
    })
}

#[test]
fn a_network_becomes_internal_on_every_host_and_gets_its_gateway_back() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        let gateway = "10.9.0.1".parse()?;
        let watcher = Watcher::start(&b, "watch", &["--json", "--kind", "network_changed"])?;
        for container in [&c1, &c2] {
            container.ping(gateway)?;
        }
        set(&a, &["--internal", "--label", "tier=back"])?;
        watcher.sees("the change", |e| e.net.as_deref() == Some("demo"))?;
        eventually("b knows of it", || {
            let demo = b.knows_net("demo")?;
            ensure!(demo.internal && demo.labels.contains_key("tier"), "{demo:?}");
            Ok(())
        })?;
        for (host, container) in [(&a, &c1), (&b, &c2)] {
            eventually(&format!("{} has no gateway", host.name()), || {
                let addresses = host.exec("ip -br addr show dev ovb4097")?;
                ensure!(!addresses.contains("10.9.0.1/24"), "{addresses}");
                Ok(())
            })?;
            container.cannot_ping(gateway)?;
            host.at_rest()?;
        }
        c1.ping(c2.ip())?;
        set(&b, &["--no-internal"])?;
        for container in [&c1, &c2] {
            eventually("the gateway is back", || container.ping_once(gateway))?;
        }
        c1.ping(c2.ip())?;
        let fixed = "the MTU of a network cannot change: what is attached was given it";
        refused(&a, &["net", "set", "demo", "--mtu", "1400"], fixed)
    })
}

#[test]
fn removal_by_force_detaches_everywhere_and_where_nobody_was_there_later() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        a.net_create("demo", DEMO)?;
        for host in [&b, &c] {
            host.knows_net("demo")?;
        }
        let (c1, c2, c3) =
            (a.attach("demo", "c1")?, b.attach("demo", "c2")?, c.attach("demo", "c3")?);
        c1.ping(c3.ip())?;
        c2.ping(c3.ip())?;
        refused(&b, &["net", "rm", "demo"], "network demo still has 3 endpoints")?;
        c.kill()?;
        b.sees("c", "down")?;
        let watcher = Watcher::start(&a, "watch", &["--json", "--kind", "detached"])?;
        let gone: Vec<v1::Deleted> = b.ctl_json(&["net", "rm", "--force", "demo"])?;
        let on = |host: &str, later| v1::DetachedOn { host: host.into(), endpoints: 1, later };
        ensure!(gone[0].detached == [on("a", false), on("b", false), on("c", true)], "{gone:?}");
        watcher.sees("the end of c1", |e| e.name.as_deref() == Some("c1"))?;
        for (host, container) in [(&a, &c1), (&b, &c2)] {
            is_bare(host)?;
            has_no_interface(container)?;
        }
        ensure!(c3.exec("ip -br link")?.contains("eth0"), "nobody has told c");
        c.start()?;
        is_bare(&c)?;
        has_no_interface(&c3)?;
        // The same again under its name is another network.
        c.net_create("demo", DEMO)?;
        a.knows_net("demo")?;
        let (c4, c5) = (a.attach("demo", "c4")?, c.attach("demo", "c5")?);
        c4.ping(c5.ip())
    })
}

#[test]
fn of_two_networks_made_in_a_partition_the_younger_waits_and_its_endpoints_are_told() -> Result<()>
{
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        lab.cut(&a, &b)?;
        a.sees("b", "down")?;
        b.sees("a", "down")?;
        a.net_create("front", DEMO)?;
        b.net_create("back", NetSpec { subnets: &["10.8.0.0/24"], ..DEMO })?;
        let (c1, c2) = (a.attach("front", "c1")?, b.attach("back", "c2")?);
        let watcher = Watcher::start(&b, "watch", &["--json", "--kind", "cut_off"])?;
        lab.heal()?;
        let (at, told) = watcher.sees("that c2 is cut off", |e| e.there == Some(false))?;
        ensure!(told.name.as_deref() == Some("c2"), "{told:?}");
        for host in [&a, &b] {
            let why = eventually("the younger is in conflict", || {
                let nets = host.networks()?;
                let back = nets.iter().find(|n| n.name == "back").context("no back yet")?;
                ensure!(nets.iter().any(|n| n.name == "front" && n.conflict.is_none()), "{nets:?}");
                back.conflict.clone().with_context(|| format!("no conflict: {back:?}"))
            })?;
            ensure!(why.contains("VNI 4097 is held by the older network front"), "{why}");
            eventually("so is its endpoint", || {
                let c2 = endpoint(host, "c2")?;
                ensure!(c2.state == "conflict", "{c2:?}");
                Ok(())
            })?;
        }
        has_no_interface(&c2)?;
        let warnings = b.status()?.warnings;
        ensure!(
            warnings.iter().any(|w| w.contains("and its endpoint on this host cut off")),
            "{warnings:?}"
        );
        // The older one goes on as if nothing were.
        let near = a.attach("front", "near")?;
        near.ping(c1.ip())?;

        b.ctl_json::<Vec<v1::Deleted>>(&["net", "rm", "--force", "front"])?;
        watcher
            .sees("that c2 is connected again", |e| e.seq > told.seq && e.there == Some(true))?;
        ensure!(at == 0, "it was told more than once");
        has_no_interface(&c1)?;
        eventually("c2 is back", || {
            let c2 = endpoint(&b, "c2")?;
            ensure!(c2.state == "ready", "{c2:?}");
            Ok(())
        })?;
        let c3 = a.attach("back", "c3")?;
        c3.ping(c2.ip())?;
        b.at_rest()
    })
}

#[test]
fn a_network_outlives_the_host_that_created_it() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let demo = a.net_create("demo", NetSpec { extra: &["--exclude", "10.9.0.9"], ..DEMO })?;
        b.knows_net("demo")?;
        let c2 = b.attach("demo", "c2")?;
        a.kill()?;
        lab.isolate(&a)?;
        b.sees("a", "down")?;
        c.sees("a", "down")?;
        ensure!(c.knows_net("demo")?.id == demo.id, "another network");
        let c3 = c.attach("demo", "c3")?;
        c3.ping(c2.ip())?;
        // Restarted, from its own state file and the others alone.
        c.stop()?;
        c.start()?;
        let again = c.knows_net("demo")?;
        ensure!((&again.id, &again.exclude) == (&demo.id, &demo.exclude), "{again:?}");
        set(&c, &["--label", "team=a"])?;
        eventually("b knows of the change", || {
            let demo = b.knows_net("demo")?;
            ensure!(demo.labels.contains_key("team"), "{demo:?}");
            Ok(())
        })?;
        c2.ping(c3.ip())
    })
}

#[test]
fn addresses_stay_with_a_name_over_detach_restart_and_kill() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let far = b.attach("demo", "far")?;
        let web = a.attach_with("demo", "web", &["--keep-ip"])?;
        let (ip, mac) = (web.ip(), web.mac().to_owned());
        far.ping(ip)?;
        a.detach("web")?;
        ensure!(a.knows_net("demo")?.kept.len() == 1, "{:?}", a.networks()?);
        let text = ip.to_string();
        let taken =
            ["endpoint", "add", "--net", "demo", "--mac", "02:00:00:00:00:99", "--ip", &text];
        refused(&a, &taken, "is kept for web on this host")?;
        refused(&b, &taken, "it is in use there")?;
        a.stop()?;
        a.start()?;
        let other = a.attach("demo", "other")?;
        ensure!(other.ip() != ip, "{ip} was given to another");
        let web = a.container("web-2")?;
        let back = attach_as_web(&web)?;
        ensure!((back.ips[0].addr(), back.mac.as_str()) == (ip, mac.as_str()), "{back:?}");
        ensure!(back.kept, "{back:?}");
        far.ping(ip)?;
        // Killed between detach and attach, and not told again that it is kept.
        a.detach("web")?;
        a.kill()?;
        a.start()?;
        let back = attach_as_web(&web)?;
        ensure!((back.ips[0].addr(), back.mac.as_str()) == (ip, mac.as_str()), "{back:?}");
        far.ping(ip)?;
        a.ctl_json::<Vec<v1::Kept>>(&["endpoint", "forget-ip", "web", "--net", "demo"])?;
        far.ping(ip)?;
        a.detach("web")?;
        ensure!(a.knows_net("demo")?.kept.is_empty(), "{:?}", a.networks()?);
        b.attach_with("demo", "heir", &["--ip", &ip.to_string()])?.ping(far.ip())
    })
}

fn attach_as_web(container: &Container) -> Result<v1::Endpoint> {
    let args = ["attach", "--net", "demo", "--netns", container.netns(), "--name", "web"];
    container.host().ctl_json(&args)
}
