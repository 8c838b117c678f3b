//! The way out: the anycast gateway, masquerade, what a container gets to of its own
//! host, and what the host's settings were before.
//!
//! ```text
//!   outside 192.0.2.200 ──┬── host a 192.0.2.1 ──┬── host b 192.0.2.2
//!   2001:db8::c8          │     c1  c3           │     c2
//!                   underlay 192.0.2.0/24, 2001:db8::/64
//! ```

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use overlay_tests::shell::run_in;
use overlay_tests::talk::{Outside, Server, ask_tcp, ask_udp, expect};
use overlay_tests::{DaemonOptions, Host, Lab, NetSpec, eventually};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

fn sysctl(host: &Host, name: &str) -> Result<String> {
    Ok(host.exec(&format!("sysctl -n {name}"))?.trim().to_owned())
}

#[test]
fn a_container_gets_out_under_the_address_of_its_own_host_in_both_families() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let outside = Outside::new(lab)?;
        let (_tcp, _udp) =
            (Server::tcp(outside.netns(), "t", 80)?, Server::udp(outside.netns(), "u", 53)?);
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        for host in [&a, &b] {
            let container = host.attach("demo", &format!("c-{}", host.name()))?;
            let at = |ip, port| SocketAddr::new(ip, port);
            let v4 = ask_tcp(container.netns(), at(outside.ip(), 80))?;
            expect(&v4, "t", host.address().into())?;
            expect(&ask_udp(container.netns(), at(outside.ip(), 53))?, "u", host.address().into())?;
            let v6 = ask_tcp(container.netns(), at(outside.ip6(), 80))?;
            expect(&v6, "t", host.address_v6().into())?;
            container.ping(outside.ip())?;
        }
        let fw = a.ctl(&["fw"])?.stdout;
        ensure!(fw.contains("masquerade IPv4") && fw.contains("masquerade IPv6"), "{fw}");
        Ok(())
    })
}

#[test]
fn what_was_off_before_is_said_and_off_again_after_teardown() -> Result<()> {
    Lab::run(|lab| {
        let host = lab.host("a")?;
        host.exec("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")?;
        host.start()?;
        host.net_create(
            "inner",
            NetSpec { vni: 4098, extra: &["--internal"], ..NetSpec::default() },
        )?;
        host.attach("inner", "c0")?;
        ensure!(
            sysctl(&host, "net.ipv4.ip_forward")? == "0",
            "an internal network needs no way out"
        );
        host.net_create("demo", DEMO)?;
        host.attach("demo", "c1")?;
        for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            ensure!(sysctl(&host, name)? == "1", "{name}");
            let status = host.ctl(&["status"])?.stdout;
            ensure!(status.contains(&format!("{name} was 0")), "{status}");
        }
        // The host still takes routes from routers, as it did.
        ensure!(sysctl(&host, "net.ipv6.conf.eth0.accept_ra")? == "2", "accept_ra");
        // A restart forgets nothing of it.
        host.stop()?;
        host.start()?;
        let status = host.ctl(&["status"])?.stdout;
        ensure!(status.contains("net.ipv4.ip_forward was 0"), "{status}");
        host.stop()?;
        let torn = host.overlayd(&["teardown"])?;
        ensure!(torn.code == 0, "{torn:?}");
        for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            ensure!(sysctl(&host, name)? == "0", "{name} after teardown");
        }
        ensure!(sysctl(&host, "net.ipv6.conf.eth0.accept_ra")? == "1", "accept_ra after teardown");
        Ok(())
    })
}

#[test]
fn settings_that_somebody_else_had_made_stay_after_teardown() -> Result<()> {
    Lab::run(|lab| {
        let host = lab.host("a")?;
        host.exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        host.start()?;
        host.net_create("demo", DEMO)?;
        host.attach("demo", "c1")?;
        let status = host.ctl(&["status"])?.stdout;
        ensure!(!status.contains("was 0"), "{status}");
        host.stop()?;
        host.overlayd(&["teardown"])?;
        ensure!(sysctl(&host, "net.ipv4.ip_forward")? == "1", "ip_forward");
        ensure!(sysctl(&host, "net.ipv6.conf.all.forwarding")? == "1", "forwarding");
        Ok(())
    })
}

#[test]
fn a_container_gets_to_its_own_host_only_as_far_as_is_said() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let c1 = a.attach("demo", "c1")?;
        let (gateway, host) = ("10.9.0.1".parse()?, a.address().into());
        let _metrics = Server::tcp(a.netns(), "metrics", 9100)?;
        let _secret = Server::tcp(a.netns(), "secret", 9200)?;
        let reaches = |ip, port| ask_tcp(c1.netns(), SocketAddr::new(ip, port)).is_ok();
        c1.ping(gateway)?;
        c1.ping(host)?;
        ensure!(!reaches(host, 9100) && !reaches(gateway, 9200), "closed unless it is said");
        let dropped = a.status()?.dropped;
        ensure!(dropped.iter().any(|d| d.kind == "host-from-containers"), "{dropped:?}");
        // The host gets to its container, and hears the answer.
        let _web = Server::tcp(c1.netns(), "web", 80)?;
        expect(&ask_tcp(a.netns(), SocketAddr::new(c1.ip(), 80))?, "web", gateway)?;
        a.stop()?;
        let options =
            DaemonOptions { extra: vec!["--host-access=9100".into()], ..DaemonOptions::default() };
        a.start_with(&options)?;
        eventually("port 9100 is open", || {
            ensure!(reaches(host, 9100), "closed");
            Ok(())
        })?;
        ensure!(!reaches(host, 9200), "only what is said");
        a.stop()?;
        let options =
            DaemonOptions { extra: vec!["--host-access=all".into()], ..DaemonOptions::default() };
        a.start_with(&options)?;
        eventually("all are open", || {
            ensure!(reaches(gateway, 9200), "closed");
            Ok(())
        })
    })
}

#[test]
fn the_gateway_is_every_hosts_own_and_never_asked_for_on_the_underlay() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let [c1, c2] = [a.attach("demo", "c1")?, b.attach("demo", "c2")?];
        c1.ping(c2.ip())?;
        let capture = lab.capture()?;
        for container in [&c1, &c2] {
            // Asks for the gateway anew, by ARP and by ND.
            container.exec("ip neigh flush dev eth0")?;
            container.ping("10.9.0.1".parse()?)?;
            container.ping("fd00:9::1".parse()?)?;
            container.ping(outside.ip())?;
            // Errors of the host come from the gateway.
            let hop = run_in(container.netns(), &format!("ping -c 1 -W 2 -t 1 {}", outside.ip()));
            let text = format!("{hop:?}");
            ensure!(text.contains("10.9.0.1") && text.contains("Time to live exceeded"), "{text}");
            let mac = container.exec("ip neigh show 10.9.0.1")?;
            ensure!(mac.contains("02:42:0a:09:00:01"), "{mac}");
        }
        let frames = capture.finish()?;
        frames.expect_some("the way out", "icmp && ip.addr == 192.0.2.200")?;
        let gateway = "vxlan && (arp || icmp || icmpv6.type == 135 || icmpv6.type == 136)";
        frames.expect_none("anything of the gateway's", gateway)
    })
}

#[test]
fn two_networks_stay_separate_and_internal_ones_stay_in() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        a.net_create(
            "other",
            NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], ..NetSpec::default() },
        )?;
        let inner = &["--internal"];
        a.net_create(
            "inner",
            NetSpec { vni: 4099, subnets: &["10.7.0.0/24"], mtu: 0, extra: inner },
        )?;
        let [c1, c2, c3] =
            [a.attach("demo", "c1")?, a.attach("other", "c2")?, a.attach("inner", "c3")?];
        c1.ping(outside.ip())?;
        c2.ping(outside.ip())?;
        c1.cannot_ping(c2.ip())?;
        ensure!(c3.ping_once(outside.ip()).is_err(), "an internal network has no way out");
        Ok(())
    })
}
