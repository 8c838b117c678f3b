//! Follows one endpoint from the attach on b into the kernel of a, and out of
//! it again: one wait a hop.
//!
//! ```text
//!   host a 192.0.2.1 ──── underlay 192.0.2.0/24 ──── host b 192.0.2.2
//!     c1                                               c2
//!   host c 192.0.2.3: in the cluster, does not use the network
//!
//!   demo: VNI 4097, 10.9.0.0/24 and fd00:9::/64
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{Container, Host, Lab, NetSpec, eventually, eventually_within};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };
const SECOND: Duration = Duration::from_secs(1);

/// `container` is in the kernel of `host` as DESIGN says: behind its VTEP, as
/// the bridge's own knowledge, and as ARP and ND entries.
fn holds(host: &Host, container: &Container) -> Result<()> {
    let (mac, vtep) = (container.mac(), container.host().vtep());
    let fdb = host.fdb("ovx4097")?;
    ensure!(fdb.vtep_of(mac) == Some(vtep), "no `{mac} dst {vtep} self permanent` in {fdb:?}");
    let behind = fdb.bridge_entry(mac).with_context(|| format!("no master entry in {fdb:?}"))?;
    ensure!(behind.has("extern_learn"), "{behind:?}");
    let neigh = host.neigh("ovb4097")?;
    for ip in container.endpoint().ips.iter().map(ipnet::IpNet::addr) {
        let entry = neigh
            .iter()
            .find(|n| n.ip == ip)
            .with_context(|| format!("{ip} is not in {neigh:?}"))?;
        ensure!(
            entry.mac.as_deref() == Some(mac) && entry.extern_learn && entry.state == ["PERMANENT"],
            "{entry:?}"
        );
    }
    Ok(())
}

fn holds_nothing_of(host: &Host, container: &Container) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    ensure!(!fdb.knows(container.mac()), "{fdb:?}");
    let ips: Vec<IpAddr> = container.endpoint().ips.iter().map(ipnet::IpNet::addr).collect();
    let neigh = host.neigh("ovb4097")?;
    ensure!(neigh.iter().all(|n| !ips.contains(&n.ip)), "{neigh:?}");
    Ok(())
}

#[test]
fn the_fdb_of_a_has_the_endpoint_on_b_within_a_second_of_the_attach_and_not_after_the_detach()
-> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let c1 = a.attach("demo", "c1")?;

        let c2 = b.attach("demo", "c2")?;
        eventually_within(SECOND, "the kernel of a has c2", || holds(&a, &c2))?;
        eventually_within(SECOND, "a lists c2", || {
            let listed = a.endpoints()?;
            let seen = listed.iter().find(|e| e.id == c2.endpoint().id);
            let seen = seen.with_context(|| format!("only {listed:?}"))?;
            ensure!((seen.host.as_str(), seen.local) == ("b", false), "{seen:?}");
            Ok(())
        })?;
        eventually("the kernel of b has c1", || holds(&b, &c1))?;
        c1.ping(c2.ip())?;
        c1.ping(c2.ip6())?;

        b.detach("c2")?;
        eventually_within(SECOND, "the kernel of a has forgotten c2", || {
            holds_nothing_of(&a, &c2)
        })?;
        ensure!(c2.link("eth0").is_err(), "the container kept its interface");
        c1.cannot_ping(c2.ip())
    })
}

#[test]
fn an_attach_that_returned_can_be_used_at_once() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let c2 = b.attach("demo", "c2")?;
        // The attach of the first on a host makes bridge and VXLAN device too, and the far host
        // has to learn of it: one ping may be early.
        a.attach("demo", "first")?.ping(c2.ip())?;
        for n in 0..10 {
            let late = a.attach("demo", &format!("late-{n}"))?;
            let start = Instant::now();
            late.ping(c2.ip())?;
            ensure!(start.elapsed() < SECOND, "the first answer took {:?}", start.elapsed());
        }
        Ok(())
    })
}

#[test]
fn many_endpoints_come_and_go_and_leave_exactly_those_that_are_there() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        a.attach("demo", "c1")?;
        let all: Vec<Container> =
            (0..20).map(|n| b.attach("demo", &format!("n{n}"))).collect::<Result<_>>()?;
        eventually("a has all twenty", || all.iter().try_for_each(|c| holds(&a, c)))?;
        for container in &all[5..] {
            b.detach(container.name())?;
        }
        eventually("a has the five that are left, and no other", || {
            all[..5].iter().try_for_each(|c| holds(&a, c))?;
            all[5..].iter().try_for_each(|c| holds_nothing_of(&a, c))?;
            let unicast = a.fdb("ovx4097")?.unicast();
            ensure!(unicast.len() == 5, "{unicast:?}");
            Ok(())
        })?;
        a.at_rest()?;
        b.at_rest()
    })
}

#[test]
fn the_replication_list_names_the_hosts_that_use_the_network_and_no_other() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        c.knows_net("demo")?;
        a.attach("demo", "c1")?;
        b.attach("demo", "c2")?;
        let list = |want: &[&Host]| {
            let want = want.iter().map(|h| h.vtep()).collect();
            eventually(&format!("the list of a is {want:?}"), || {
                let list = a.fdb("ovx4097")?.flood();
                ensure!(list == want, "it is {list:?}");
                Ok(())
            })
        };
        list(&[&b])?;
        ensure!(c.our_links()?.is_empty(), "c made links for a network that it does not use");

        c.attach("demo", "c3")?;
        list(&[&b, &c])?;
        b.detach("c2")?;
        list(&[&c])?;
        c.detach("c3")?;
        list(&[])
    })
}

#[test]
fn a_network_that_is_removed_is_gone_everywhere_with_its_links() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        a.attach("demo", "c1")?;
        b.attach("demo", "c2")?;
        let out = a.ctl(&["net", "rm", "demo"])?;
        ensure!(out.code == 1, "a network in use was removed: {out:?}");
        a.detach("c1")?;
        b.detach("c2")?;
        eventually("demo is removed", || {
            let out = a.ctl(&["net", "rm", "demo"])?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })?;
        for host in [&a, &b] {
            eventually(&format!("{} has forgotten demo", host.name()), || {
                ensure!(host.networks()?.is_empty(), "{:?}", host.networks()?);
                ensure!(host.our_links()?.is_empty(), "{:?}", host.our_links()?);
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn what_overlayctl_says_of_the_kernel_is_what_the_kernel_holds() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        a.attach("demo", "c1")?;
        let c2 = b.attach("demo", "c2")?;
        eventually("the kernel of a has c2", || holds(&a, &c2))?;
        a.at_rest()?;

        let entry = |table: &str, key: &str| -> Result<overlay_api::v1::Entry> {
            let command = if table == "neigh" { "neigh" } else { "fdb" };
            let all: Vec<overlay_api::v1::Entry> = a.ctl_json(&[command])?;
            let found = all.iter().find(|e| e.table == table && e.key == key).cloned();
            found.with_context(|| format!("no {table} entry {key} in {all:?}"))
        };
        let fdb = entry("vxlan", c2.mac())?;
        ensure!(fdb.kernel == Some(b.vtep().to_string()) && fdb.state == "ok", "{fdb:?}");
        let neigh = entry("neigh", &c2.ip().to_string())?;
        ensure!(neigh.kernel.as_deref() == Some(c2.mac()) && neigh.state == "ok", "{neigh:?}");

        // Behind the daemon's back: it notices by itself, and mends it.
        a.exec(&format!("bridge fdb del {} dev ovx4097 dst {} self", c2.mac(), b.vtep()))?;
        a.exec(&format!("ip neigh del {} dev ovb4097", c2.ip()))?;
        eventually("both entries are back", || holds(&a, &c2))
    })
}
