//! IPv4 and IPv6, inside networks and on the underlay.
//!
//! ```text
//!   host a  192.0.2.1 ─────────────┐              ┌── host d  192.0.2.3, 2001:db8::3
//!           (no IPv6)              ├── underlay ──┤
//!   host s  2001:db8::2 ───────────┘              └── host e  192.0.2.4, 2001:db8::4
//!           (no IPv4)
//!
//!   a-d, a-e, d-e by IPv4; s-d, s-e by IPv6; a-s not at all
//!
//!   demo: VNI 4097, 10.9.0.0/24 and fd00:9::/64, a container on each: ca, cs, cd, ce
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::capture::Frames;
use overlay_tests::{Container, DaemonOptions, Host, Lab, NetSpec, Vtep, eventually};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

/// Router and neighbour solicitation and advertisement, and redirect.
const ND: &str = "vxlan && icmpv6.type >= 133 && icmpv6.type <= 137";

/// The hosts of the drawing, each with the addresses that it shows and no other.
fn drawn(lab: &Lab) -> Result<[Host; 4]> {
    let [a, s, d, e] = ["a", "s", "d", "e"].map(|name| lab.host(name));
    let [a, s, d, e] = [a?, s?, d?, e?];
    a.exec("ip -6 addr flush dev eth0")?;
    s.exec("ip -4 addr flush dev eth0")?;
    let start = |host: &Host, vtep, join: String| {
        host.start_with(&DaemonOptions { vtep, join: vec![join], ..DaemonOptions::default() })
    };
    let (d4, d6) = (format!("{}:7946", d.address()), format!("[{}]:7946", d.address_v6()));
    start(&d, Vtep::Both, format!("{}:7946", e.address()))?;
    start(&e, Vtep::Families, d4.clone())?;
    start(&a, Vtep::V4, d4)?;
    start(&s, Vtep::V6Alone, d6)?;
    let all = [a, s, d, e];
    lab.all_up(&all)?;
    Ok(all)
}

/// A container on each of them, which the others' kernels know.
fn peopled(all: &[Host; 4]) -> Result<[Container; 4]> {
    let net = all[0].net_create("demo", DEMO)?;
    ensure!(net.mtu == 1430, "what crosses between IPv6 VTEPs on an underlay of 1500: {net:?}");
    let mut containers = Vec::new();
    for host in all {
        host.knows_net("demo")?;
        containers.push(host.attach("demo", &format!("c{}", host.name()))?);
    }
    let [a, s, d, e] = [0, 1, 2, 3];
    for (here, there) in [(a, d), (a, e), (s, d), (s, e), (d, a), (d, s), (d, e), (e, s)] {
        let (host, far) = (&all[here], &containers[there]);
        eventually(&format!("{} knows {}", host.name(), far.name()), || {
            let neighbours = host.neigh("ovb4097")?;
            ensure!(neighbours.iter().any(|n| n.ip == far.ip6()), "{neighbours:?}");
            Ok(())
        })?;
    }
    for host in all {
        host.at_rest()?;
    }
    let Ok(containers) = containers.try_into() else { bail!("one a host") };
    Ok(containers)
}

/// Where the VXLAN device `dev` sends frames for a container.
fn way(host: &Host, dev: &str, to: &Container) -> Result<Option<IpAddr>> {
    Ok(host.fdb(dev)?.vtep_of(to.mac()))
}

#[test]
fn hosts_of_ipv4_of_ipv6_and_of_both_reach_each_other_by_what_they_have_in_common() -> Result<()> {
    Lab::run(|lab| {
        let all = drawn(lab)?;
        let containers = peopled(&all)?;
        let [a, s, d, e] = &all;
        let [ca, cs, cd, ce] = &containers;
        let v4 = |host: &Host| Some(IpAddr::from(host.address()));
        let v6 = |host: &Host| Some(IpAddr::from(host.address_v6()));

        // One device where there is one family, and each entry on one device.
        for (host, to, dev, other, vtep) in [
            (a, cd, "ovx4097", None, v4(d)),
            (s, cd, "ovx4097", None, v6(d)),
            (d, ca, "ovx4097", Some("ovx4097-6"), v4(a)),
            (d, cs, "ovx4097-6", Some("ovx4097"), v6(s)),
            (d, ce, "ovx4097", Some("ovx4097-6"), v4(e)),
            (e, cd, "ovx4097", Some("ovx4097-6"), v4(d)),
        ] {
            ensure!(way(host, dev, to)? == vtep, "{} to {}", host.name(), to.name());
            ensure!(host.link("ovx4097-6").is_ok() == other.is_some(), "{:?}", host.our_links()?);
            if let Some(other) = other {
                ensure!(way(host, other, to)?.is_none(), "{} to {} twice", host.name(), to.name());
            }
        }
        for (from, to) in [(ca, cd), (ca, ce), (cs, cd), (cs, ce), (cd, ce)] {
            for (from, to) in [(from, to), (to, from)] {
                from.ping(to.ip()).with_context(|| format!("{} to {}", from.name(), to.name()))?;
                from.ping(to.ip6())?;
            }
        }

        // a and s: no hole without a name.
        for (here, there, far, near) in [(a, "s", cs, ca), (s, "a", ca, cs)] {
            near.cannot_ping(far.ip())?;
            near.cannot_ping(far.ip6())?;
            let word = "no address family in common";
            let seen = here.host_seen(there)?;
            ensure!(seen.state == "up", "{seen:?}");
            ensure!(seen.notes.iter().any(|note| note.contains(word)), "{seen:?}");
            let status = here.status()?;
            ensure!(
                status.warnings.iter().any(|w| w.starts_with(&format!("host {there} cannot"))),
                "{:?}",
                status.warnings
            );
            let endpoints = here.endpoints()?;
            let lost = endpoints.iter().find(|e| e.mac == far.mac()).context("it is listed")?;
            ensure!(lost.state == "unreachable" && lost.vtep.is_none(), "{lost:?}");
            ensure!(lost.reason.as_ref().is_some_and(|why| why.contains(word)), "{lost:?}");
            let log = std::fs::read_to_string(here.log_file())?;
            let said = log.matches("cannot reach each other").count();
            ensure!(said == 1, "said {said} times");
            let neighbours = here.neigh("ovb4097")?;
            ensure!(!neighbours.iter().any(|n| n.ip == far.ip()), "{neighbours:?}");
        }
        for host in [d, e] {
            ensure!(host.status()?.warnings.is_empty(), "{:?}", host.status()?.warnings);
        }
        Ok(())
    })
}

/// How often each VTEP was sent what matches, by the outer address.
fn sent(frames: &Frames, filter: &str) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for outer in frames.fields(filter, &["ipv6.dst", "ip.dst"])? {
        // Inside is IPv4, so there is an IPv6 address on the outside only.
        let vtep = outer.into_iter().find(|text| !text.is_empty()).context("an address")?;
        *counts.entry(vtep).or_default() += 1;
    }
    Ok(counts)
}

#[test]
fn a_broadcast_reaches_each_host_once_by_its_family_and_is_passed_on_by_none() -> Result<()> {
    Lab::run(|lab| {
        let all = drawn(lab)?;
        let containers = peopled(&all)?;
        let [a, s, d, e] = &all;
        let [ca, cs, cd, _] = &containers;
        let (v4, v6) = (|h: &Host| h.address().to_string(), |h: &Host| h.address_v6().to_string());
        for (from, to) in
            [(ca, vec![v4(d), v4(e)]), (cs, vec![v6(d), v6(e)]), (cd, vec![v4(a), v4(e), v6(s)])]
        {
            let underlay = lab.capture()?;
            // Nobody answers a broadcast ping, so that it ends with an error.
            let _ = from.exec("ping -b -n -c 3 -i 0.1 -W 0.1 10.9.0.255");
            let sent = sent(&underlay.finish()?, "vxlan && icmp.type == 8")?;
            let expected: BTreeMap<String, usize> = to.into_iter().map(|vtep| (vtep, 3)).collect();
            ensure!(sent == expected, "{} of {}: {sent:?}", from.name(), from.host().name());
        }
        Ok(())
    })
}

#[test]
fn between_any_two_no_arp_and_no_nd_crosses_and_the_outer_family_is_the_pairs() -> Result<()> {
    Lab::run(|lab| {
        let all = drawn(lab)?;
        let [ca, cs, cd, ce] = peopled(&all)?;
        let underlay = lab.capture()?;
        for (from, to) in [(&ca, &cd), (&cd, &ca), (&cs, &ce), (&cd, &cs), (&cd, &ce)] {
            from.exec("ip neigh flush dev eth0")?;
            from.ping(to.ip())?;
            from.ping(to.ip6())?;
        }
        let frames = underlay.finish()?;
        frames.expect_none("no ARP crosses", "vxlan && arp")?;
        frames.expect_none("no ND crosses", ND)?;
        let [a, s, d, e] = all.each_ref().map(|h| (h.address(), h.address_v6()));
        for (one, other) in [(a, d), (d, e)] {
            let pair = format!("vxlan && ip.addr == {} && ip.addr == {}", one.0, other.0);
            frames.expect_some("by IPv4", &pair)?;
        }
        for (one, other) in [(s, d), (s, e)] {
            let pair = format!("vxlan && ipv6.addr == {} && ipv6.addr == {}", one.1, other.1);
            frames.expect_some("by IPv6", &pair)?;
        }
        let pair = format!("vxlan && ipv6.addr == {} && ipv6.addr == {}", d.1, e.1);
        frames.expect_none("who has both uses IPv4", &pair)
    })
}

#[test]
fn a_network_must_fit_the_header_of_the_family_and_says_so_where_it_does_not() -> Result<()> {
    Lab::run(|lab| {
        let all = drawn(lab)?;
        let [_, cs, cd, _] = peopled(&all)?;
        let [a, s, d, _] = &all;
        for (from, to) in [(&cs, &cd), (&cd, &cs)] {
            from.ping_unfragmented(to.ip(), 1430 - 28)?;
            ensure!(from.ping_unfragmented(to.ip(), 1431 - 28).is_err(), "1431 bytes crossed");
            let size = 1430 - 48;
            from.exec(&format!("ping -n -c 1 -W 2 -M do -s {size} {}", to.ip6()))?;
        }

        // 20 bytes more fit between those that have IPv4.
        let large = NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], mtu: 1450, ..DEMO };
        a.net_create("large", large)?;
        d.knows_net("large")?;
        s.knows_net("large")?;
        let (la, ld) = (a.attach("large", "la")?, d.attach("large", "ld")?);
        la.ping(ld.ip())?;
        ld.ping_unfragmented(la.ip(), 1450 - 28)?;
        let victim = s.container("victim")?;
        let out = s.ctl(&["attach", "--net", "large", "--netns", victim.netns()])?;
        ensure!(
            out.code == 1 && out.stderr.contains("1520 (1450 + 70 for VXLAN)"),
            "refused with the figures: {out:?}"
        );
        Ok(())
    })
}

#[test]
fn a_host_of_both_that_loses_one_address_goes_on_by_the_other_and_comes_back() -> Result<()> {
    Lab::run(|lab| {
        let [d, e] = [lab.host("d")?, lab.host("e")?];
        let options = DaemonOptions { vtep: Vtep::Families, ..DaemonOptions::default() };
        d.start_with(&DaemonOptions { vtep: Vtep::Both, ..options.clone() })?;
        e.start_with(&DaemonOptions { join: vec![format!("{}:7946", d.address())], ..options })?;
        lab.all_up(&[d.clone(), e.clone()])?;
        d.net_create("demo", NetSpec { mtu: 1430, ..DEMO })?;
        e.knows_net("demo")?;
        let (cd, ce) = (d.attach("demo", "cd")?, e.attach("demo", "ce")?);
        cd.ping(ce.ip())?;
        ensure!(way(&d, "ovx4097", &ce)? == Some(e.address().into()), "IPv4 at first");

        let stream = cd.ping_stream(ce.ip())?;
        let address = format!("{}/24 dev eth0", e.address());
        for (change, dev, vtep) in [
            ("del", "ovx4097-6", IpAddr::from(e.address_v6())),
            ("add", "ovx4097", IpAddr::from(e.address())),
        ] {
            e.exec(&format!("ip addr {change} {address}"))?;
            eventually(&format!("d sends by {dev}"), || {
                let seen = way(&d, dev, &ce)?;
                ensure!(seen == Some(vtep), "{seen:?}");
                Ok(())
            })?;
            stream.answers(100)?;
            for host in [&d, &e] {
                host.at_rest()?;
            }
        }
        let summary = stream.stop()?;
        println!("one address gone and back: {summary:?}");
        ensure!(summary.longest_gap < 500, "{summary:?}");
        Ok(())
    })
}

#[test]
fn a_host_of_both_is_killed_and_started_and_no_packet_is_lost() -> Result<()> {
    Lab::run(|lab| {
        let all = drawn(lab)?;
        let [ca, cs, cd, _] = peopled(&all)?;
        let d = &all[2];
        let by_v4 = ca.ping_stream(cd.ip())?;
        let by_v6 = cs.ping_stream(cd.ip6())?;
        let links = d.our_links()?;
        d.kill()?;
        by_v4.answers(50)?;
        d.start()?;
        lab.all_up(&all)?;
        d.knows_all()?;
        d.at_rest()?;
        by_v4.answers(50)?;
        by_v6.answers(50)?;
        by_v4.stop()?.expect_lossless("by IPv4")?;
        by_v6.stop()?.expect_lossless("by IPv6")?;
        ensure!(d.our_links()? == links, "links were made anew");
        Ok(())
    })
}

/// They gossip by IPv4, and each has one VTEP address.
#[test]
fn a_cluster_of_ipv4_and_ipv6_vteps_without_any_host_of_both_names_each_pair() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = [lab.host("a")?, lab.host("b")?];
        let join = vec![format!("{}:7946", a.address())];
        a.start()?;
        b.start_with(&DaemonOptions { vtep: Vtep::V6, join, ..DaemonOptions::default() })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        for (host, other, near, far) in [(&a, "b", &c1, &c2), (&b, "a", &c2, &c1)] {
            eventually(&format!("{} has heard of both", host.name()), || {
                ensure!(host.endpoints()?.len() == 2, "{:?}", host.endpoints()?);
                Ok(())
            })?;
            near.cannot_ping(far.ip())?;
            let status = host.ctl(&["status"])?.stdout;
            ensure!(status.starts_with("attention"), "{status}");
            let why = format!("host {other} cannot be reached: no address family in common");
            ensure!(status.contains(&why), "{status}");
            let hosts = host.ctl(&["hosts"])?.stdout;
            ensure!(hosts.contains("no address family in common"), "{hosts}");
            let endpoints = host.ctl(&["endpoints"])?.stdout;
            ensure!(endpoints.contains("unreachable"), "{endpoints}");
            host.at_rest()?;
        }

        // The one is given the other family too: the hole closes.
        b.stop()?;
        b.start_with(&DaemonOptions {
            vtep: Vtep::Both,
            join: vec![format!("{}:7946", a.address())],
            ..DaemonOptions::default()
        })?;
        c1.ping(c2.ip())?;
        c2.ping(c1.ip6())?;
        eventually("a has nothing to say", || {
            let warnings = a.status()?.warnings;
            ensure!(warnings.is_empty(), "{warnings:?}");
            Ok(())
        })
    })
}

#[test]
fn on_an_ipv6_underlay_networks_of_both_families_work_and_stay_quiet() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = [lab.host("a")?, lab.host("b")?];
        for host in [&a, &b] {
            host.exec("ip -4 addr flush dev eth0")?;
        }
        let options = DaemonOptions { vtep: Vtep::V6Alone, ..DaemonOptions::default() };
        a.start_with(&options)?;
        b.start_with(&DaemonOptions {
            join: vec![format!("[{}]:7946", a.address_v6())],
            ..options
        })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        let net = a.net_create("demo", DEMO)?;
        ensure!(net.mtu == 1430, "{net:?}");
        b.knows_net("demo")?;
        let underlay = lab.capture()?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;
        for (from, to) in [(&c1, &c2), (&c2, &c1)] {
            from.ping(to.ip())?;
            from.ping(to.ip6())?;
        }
        let frames = underlay.finish()?;
        frames.expect_some("IPv4 inside IPv6", "vxlan && ipv6 && icmp.type == 8")?;
        frames.expect_some("IPv6 inside IPv6", "vxlan && icmpv6.type == 128")?;
        frames.expect_none("no ARP crosses", "vxlan && arp")?;
        frames.expect_none("no ND crosses", ND)?;
        for host in [&a, &b] {
            ensure!(host.our_links()?.iter().filter(|(n, _)| n.starts_with("ovx")).count() == 1);
        }
        Ok(())
    })
}

#[test]
fn a_network_of_ipv6_alone_has_a_unique_local_subnet_and_all_that_goes_with_it() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let spec = NetSpec { vni: 4097, subnets: &["ipv6"], ..NetSpec::default() };
        let net = a.net_create("six", spec)?;
        let [subnet] = net.subnets.as_slice() else { bail!("one subnet: {net:?}") };
        let (cidr, gateway) = (subnet.cidr, subnet.gateway);
        let IpAddr::V6(prefix) = cidr.addr() else { bail!("not IPv6: {cidr}") };
        // RFC 4193 section 3.1: fc00::/7 with the L bit, 40 random bits, 16 of the subnet.
        ensure!(prefix.octets()[0] == 0xfd && cidr.prefix_len() == 64, "{cidr}");
        ensure!(prefix.octets()[1..6] != [0; 5], "{cidr} has no random bits");
        let other = a.net_create("seven", NetSpec { vni: 4098, ..spec })?;
        let random = |cidr: ipnet::IpNet| cidr.to_string()[..14].to_owned();
        ensure!(random(other.subnets[0].cidr) != random(cidr), "each network has its own");

        b.knows_net("six")?;
        let underlay = lab.capture()?;
        let (c1, c2) = (a.attach("six", "c1")?, b.attach("six", "c2")?);
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;
        for (from, to) in [(&c1, &c2), (&c2, &c1)] {
            ensure!(from.endpoint().ips.len() == 1 && cidr.contains(&from.ip()), "{from:?}");
            let v4 = from.exec("ip -4 -br addr show dev eth0")?;
            ensure!(v4.trim().is_empty(), "{v4}");
            let route = from.exec("ip -6 route show default")?;
            ensure!(route.contains(&gateway.to_string()), "{route}");
            from.ping(to.ip())?;
            from.ping(gateway)?;
        }
        let frames = underlay.finish()?;
        frames.expect_some("they talked", "vxlan && icmpv6.type == 128")?;
        frames.expect_none("no ND crosses", ND)
    })
}

#[test]
fn without_a_subnet_a_network_has_ipv4_and_with_two_words_both() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let families = |net: &overlay_api::v1::Network| {
            net.subnets.iter().map(|s| s.cidr.addr().is_ipv6()).collect::<Vec<_>>()
        };
        let none = a.net_create("none", NetSpec::default())?;
        ensure!(families(&none) == [false] && none.mtu == 1450, "{none:?}");
        let both = NetSpec { subnets: &["ipv4", "ipv6"], ..NetSpec::default() };
        let both = a.net_create("both", both)?;
        ensure!(families(&both) == [false, true], "{both:?}");
        let container = a.attach("both", "c1")?;
        ensure!(container.ip().is_ipv4() && container.ip6().is_ipv6(), "{container:?}");
        Ok(())
    })
}

#[test]
fn every_host_has_the_gateway_in_both_families_and_nobody_asks_the_underlay_for_it() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let underlay = lab.capture()?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        let mut macs = Vec::new();
        for (host, container) in [(&a, &c1), (&b, &c2)] {
            let addresses = host.exec("ip -br addr show dev ovb4097")?;
            for gateway in ["10.9.0.1/24", "fd00:9::1/64"] {
                ensure!(addresses.contains(gateway), "{}: {addresses}", host.name());
            }
            macs.push(host.link("ovb4097")?.mac);
            for gateway in ["10.9.0.1", "fd00:9::1"] {
                container.exec("ip neigh flush dev eth0")?;
                container.ping(gateway.parse()?)?;
                let entry = container.exec(&format!("ip neigh show to {gateway} dev eth0"))?;
                ensure!(entry.contains(&macs[0]), "not the gateway's MAC {macs:?}: {entry}");
            }
        }
        ensure!(macs[0] == macs[1], "one MAC on every host: {macs:?}");
        // Both are known to each other, so that what follows is not about them.
        c1.ping(c2.ip())?;
        let frames = underlay.finish()?;
        frames.expect_some("containers talked", "vxlan && icmp")?;
        frames.expect_none("no ARP for the gateway crosses", "vxlan && arp")?;
        frames.expect_none("no ND for the gateway crosses", ND)?;
        let to_it = "vxlan && (ip.addr == 10.9.0.1 || ipv6.addr == fd00:9::1)";
        frames.expect_none("nor does what is for it", to_it)?;

        let internal = NetSpec {
            vni: 4098,
            subnets: &["10.8.0.0/24", "fd00:8::/64"],
            extra: &["--internal"],
            ..DEMO
        };
        a.net_create("back", internal)?;
        a.attach("back", "c3")?;
        let addresses = a.exec("ip -br addr show dev ovb4098")?;
        ensure!(!addresses.contains("10.8.0.1") && !addresses.contains("fd00:8::1"), "{addresses}");
        Ok(())
    })
}
