//! Published ports: in from outside, from the host itself, from containers; conflicts;
//! changes; and ports of the whole cluster.
//!
//! ```text
//!   outside 192.0.2.200 ──┬── host a 192.0.2.1 ──┬── host b 192.0.2.2 ──┬── host c
//!   2001:db8::c8          │     web, client      │     other            │
//!                   underlay 192.0.2.0/24, 2001:db8::/64
//! ```

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::shell::{command_in, script_in};
use overlay_tests::talk::{Outside, Server, UdpClient, ask_tcp, ask_udp, expect};
use overlay_tests::{Container, Host, Lab, NetSpec, eventually};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

const SCTP: &str = include_str!("sctp.py");

fn refused(host: &Host, args: &[&str], texts: &[&str]) -> Result<()> {
    let out = host.ctl(args)?;
    let said = texts.iter().all(|text| out.stderr.contains(text));
    ensure!(out.code == 1 && said, "{args:?}: {out:?}");
    Ok(())
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn ports(host: &Host) -> Result<Vec<v1::Port>> {
    host.ctl_json(&["ports"])
}

fn closed(netns: &str, to: SocketAddr) -> Result<()> {
    ensure!(ask_tcp(netns, to).is_err(), "{to} answers");
    Ok(())
}

#[test]
fn a_port_leads_to_its_container_and_the_clients_address_is_kept() -> Result<()> {
    Lab::run(|lab| {
        let [a, _b] = lab.hosts(["a", "b"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let args = ["-p", "8080:80", "-p", "5353:53/udp", "-p", "6000-6002:7000-7002"];
        let web = a.attach_with("demo", "web", &args)?;
        ensure!(
            web.endpoint().ports == ["8080:80/tcp", "5353:53/udp", "6000-6002:7000-7002/tcp"],
            "{:?}",
            web.endpoint()
        );
        let _tcp = Server::tcp(web.netns(), "web", 80)?;
        let _udp = Server::udp(web.netns(), "dns", 53)?;
        let _range = Server::tcp(web.netns(), "range", 7002)?;
        let out = outside.netns();
        expect(&ask_tcp(out, at(a.address(), 8080))?, "web", outside.ip())?;
        expect(&ask_tcp(out, at(a.address_v6(), 8080))?, "web", outside.ip6())?;
        expect(&ask_udp(out, at(a.address(), 5353))?, "dns", outside.ip())?;
        expect(&ask_udp(out, at(a.address_v6(), 5353))?, "dns", outside.ip6())?;
        expect(&ask_tcp(out, at(a.address(), 6002))?, "range", outside.ip())?;
        closed(out, at(a.address(), 80))?;
        let all = ports(&a)?;
        let tcp = all.iter().find(|port| port.published == "8080:80/tcp").context("8080")?;
        ensure!(tcp.connections == 2 && tcp.problem.is_none(), "{tcp:?}");
        ensure!(tcp.to.contains(&at(web.ip(), 80)), "{tcp:?}");
        Ok(())
    })
}

#[test]
fn a_port_answers_on_its_own_host_at_localhost_and_every_address() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let web = a.attach_with("demo", "web", &["-p", "8080:80", "-p", "5353:53/udp"])?;
        let _tcp = Server::tcp(web.netns(), "web", 80)?;
        let _udp = Server::udp(web.netns(), "dns", 53)?;
        for to in ["127.0.0.1:8080", "192.0.2.1:8080", "10.9.0.1:8080", "[2001:db8::1]:8080"] {
            let answer = ask_tcp(a.netns(), to.parse()?).with_context(|| to.to_owned())?;
            ensure!(answer.0 == "web", "{to}: {answer:?}");
        }
        let answer = ask_udp(a.netns(), "127.0.0.1:5353".parse()?)?;
        ensure!(answer.0 == "dns", "{answer:?}");
        // Containers do not get to the host's 127.0.0.1 by that.
        let _local = Server::tcp(a.netns(), "local", 9999)?;
        web.exec("ip route add 127.0.0.2/32 via 10.9.0.1 dev eth0")?;
        web.exec("sysctl -qw net.ipv4.conf.eth0.route_localnet=1")?;
        web.exec("ip addr del 127.0.0.1/8 dev lo").ok();
        closed(web.netns(), "127.0.0.2:9999".parse()?)
    })
}

#[test]
fn the_ipv6_localhost_refuses_at_once_so_that_localhost_is_asked_by_ipv4() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let web = a.attach_with("demo", "web", &["-p", "8080:80"])?;
        let _tcp = Server::tcp(web.netns(), "web", 80)?;
        let refused = format!("{:?}", ask_tcp(a.netns(), "[::1]:8080".parse()?));
        ensure!(refused.contains("Connection refused"), "{refused}");
        let asks = "timeout 5 bash -c 'cat < /dev/tcp/localhost/8080'";
        let answer = script_in(a.netns(), asks)?;
        ensure!(answer.starts_with("web "), "{answer}");
        Ok(())
    })
}

#[test]
fn containers_reach_a_port_of_their_own_host_their_own_port_too() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        a.net_create(
            "other",
            NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], ..NetSpec::default() },
        )?;
        b.knows_net("demo")?;
        let web = a.attach_with("demo", "web", &["-p", "8080:80", "-p", "5353:53/udp"])?;
        let [near, far] = [a.attach("demo", "near")?, b.attach("demo", "far")?];
        let apart = a.attach("other", "apart")?;
        let _tcp = Server::tcp(web.netns(), "web", 80)?;
        let _udp = Server::udp(web.netns(), "dns", 53)?;
        let front = at(a.address(), 8080);
        // Hairpin: they are seen as the gateway.
        for client in [&web, &near] {
            let answer =
                ask_tcp(client.netns(), front).with_context(|| client.name().to_owned())?;
            expect(&answer, "web", "10.9.0.1".parse()?)?;
            expect(&ask_udp(client.netns(), at(a.address(), 5353))?, "dns", "10.9.0.1".parse()?)?;
        }
        // By way of the underlay, as its host.
        let answer = ask_tcp(far.netns(), front).context("far")?;
        expect(&answer, "web", b.address().into())?;
        // From another network: only to what is published.
        ensure!(ask_tcp(apart.netns(), front)?.0 == "web", "by the port");
        closed(apart.netns(), at(web.ip(), 80))
    })
}

#[test]
fn a_port_that_is_taken_is_refused_at_once_with_who_has_it() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        a.net_create("inner", NetSpec { vni: 4098, extra: &["--internal"], ..NetSpec::default() })?;
        let web = a.attach_with("demo", "web", &["-p", "8080:80"])?;
        let other = a.container("other")?;
        let ns = other.netns().to_owned();
        let attach = |ports: &str| {
            ["attach", "--net", "demo", "--netns", &ns, "-p", ports].map(str::to_owned)
        };
        let check = |ports: &str, texts: &[&str]| {
            let args = attach(ports);
            refused(&a, &args.iter().map(String::as_str).collect::<Vec<_>>(), texts)
        };
        check("8080:81", &["8080/tcp is published by endpoint web", "overlayctl ports"])?;
        check("8000-8090:8000-8090", &["8080/tcp is published by endpoint web"])?;
        let _there = Server::tcp(a.netns(), "there", 9000)?;
        let me = format!("(pid {})", std::process::id());
        check("9000:80", &["port 9000/tcp is taken by", &me, "0 for any free one"])?;
        check("203.0.113.7:9001:80", &["203.0.113.7 is no address of this host"])?;
        check("7946:80", &["overlayd's own, for gossip"])?;
        check("4789:80/udp", &["taken by the kernel", "VXLAN"])?;
        refused(
            &a,
            &["attach", "--net", "inner", "--netns", &ns, "-p", "9001:80"],
            &["internal: nothing gets in"],
        )?;
        // Nothing of it has stayed.
        ensure!(a.endpoints()?.len() == 1 && ports(&a)?.len() == 1, "{:?}", ports(&a)?);
        ensure!(other.exec("ip -br link")?.lines().count() == 1, "{}", other.exec("ip -br link")?);
        // And the host's own programs cannot take what is published.
        ensure!(Server::tcp(a.netns(), "late", 8080).is_err(), "8080 is held");
        let any: v1::Endpoint = a.ctl_json(&["publish", "web", "0:81"])?;
        let chosen = any.ports.iter().find(|p| p.ends_with(":81/tcp")).context("a port")?;
        let chosen: u16 = chosen.split(':').next().unwrap_or_default().parse()?;
        let _tcp = Server::tcp(web.netns(), "web", 81)?;
        ensure!(ask_tcp(a.netns(), at([127, 0, 0, 1], chosen))?.0 == "web", "{chosen}");
        Ok(())
    })
}

#[test]
fn ports_come_and_go_with_publish_unpublish_and_their_endpoint() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let web = a.attach("demo", "web")?;
        let _tcp = Server::tcp(web.netns(), "web", 80)?;
        let asks = |port| ask_tcp(outside.netns(), at(a.address(), port));
        ensure!(asks(8080).is_err(), "nothing is published");
        a.ctl_json::<v1::Endpoint>(&["publish", "web", "8080:80", "8081:80"])?;
        expect(&asks(8080)?, "web", outside.ip())?;
        expect(&asks(8081)?, "web", outside.ip())?;
        let left: v1::Endpoint = a.ctl_json(&["unpublish", "web", "8080"])?;
        ensure!(left.ports == ["8081:80/tcp"], "{left:?}");
        ensure!(asks(8080).is_err(), "it was withdrawn");
        expect(&asks(8081)?, "web", outside.ip())?;
        refused(&a, &["unpublish", "web", "8080"], &["does not publish 8080/tcp"])?;
        // The freed port is anybody's.
        drop(Server::tcp(a.netns(), "mine", 8080)?);
        // A daemon that is killed comes back to the same, and misses nothing meanwhile.
        a.kill()?;
        expect(&asks(8081)?, "web", outside.ip())?;
        a.start()?;
        expect(&asks(8081)?, "web", outside.ip())?;
        ensure!(Server::tcp(a.netns(), "late", 8081).is_err(), "8081 is held again");
        a.detach("web")?;
        ensure!(asks(8081).is_err() && ports(&a)?.is_empty(), "{:?}", ports(&a)?);
        drop(Server::tcp(a.netns(), "mine", 8081)?);
        Ok(())
    })
}

/// PEERS' moby#8795: a client that never stops asking is led to the new container.
#[test]
fn a_flow_of_udp_follows_when_the_endpoint_behind_its_port_is_replaced() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let first = a.attach_with("demo", "first", &["-p", "5353:53/udp"])?;
        let _old = Server::udp(first.netns(), "old", 53)?;
        let client = UdpClient::new(outside.netns(), at(a.address(), 5353))?;
        expect(&client.ask()?, "old", outside.ip())?;
        a.detach("first")?;
        // Asks into nothing: that is remembered too.
        ensure!(client.ask().is_err(), "nobody is there");
        let second = a.attach_with("demo", "second", &["-p", "5353:53/udp"])?;
        let _new = Server::udp(second.netns(), "new", 53)?;
        eventually("the flow follows", || expect(&client.ask()?, "new", outside.ip()))
    })
}

/// The same with somebody who sends without a pause and hears no answer: iperf3, whose end
/// of the connection that it began with is dead by then.
#[test]
fn a_stream_of_udp_goes_on_to_the_endpoint_that_replaces_another() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let args = ["-p", "5201:5201", "-p", "5201:5201/udp"];
        let first = a.attach_with("demo", "first", &args)?;
        let mut server = command_in(first.netns(), "iperf3");
        let mut server = Process(server.args(["-s", "-1"]).stdout(Stdio::null()).spawn()?);
        // Told that nobody is there for a moment, it would end.
        script_in(
            outside.netns(),
            "nft 'add table ip t; add chain ip t in { type filter hook input priority 0; }; \
             add rule ip t in icmp type destination-unreachable drop'",
        )?;
        eventually("iperf3 listens", || {
            script_in(first.netns(), "ss -Hltn 'sport = 5201' | grep -q .").map(drop)
        })?;
        let mut client = command_in(outside.netns(), "iperf3");
        client.args(["-u", "-c", &a.address().to_string(), "-b", "2M", "-l", "500", "-t", "600"]);
        let mut client = Process(client.stdout(Stdio::null()).spawn()?);
        let packets = || -> Result<u64> {
            let text = first.exec("cat /sys/class/net/eth0/statistics/rx_packets");
            Ok(text?.trim().parse()?)
        };
        eventually("the stream comes to the first", || {
            let packets = packets()?;
            ensure!(packets > 500, "{packets} packets");
            Ok(())
        })?;
        a.detach("first")?;
        server.end();
        let second = a.attach_with("demo", "second", &args)?;
        let sink = Server::udp(second.netns(), "second", 5201)?;
        eventually("the stream comes to the second", || {
            ensure!(client.0.try_wait()?.is_none(), "iperf3 has ended");
            ensure!(sink.asked() > 500, "{} datagrams", sink.asked());
            Ok(())
        })
    })
}

/// A handshake by `sctp.py`: this kernel translates SCTP, but has no sockets of it.
#[test]
fn a_port_of_sctp_leads_to_its_container_and_back() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let web = a.attach_with("demo", "web", &["-p", "3868:3868/sctp"])?;
        let mut server = command_in(web.netns(), "python3");
        server.args(["-c", SCTP, "serve", "3868"]).stdout(Stdio::piped());
        let mut server = Process(server.spawn()?);
        let text = format!("ask {} 3868", a.address());
        let mut client = command_in(outside.netns(), "python3");
        let answer = client.args(["-c", SCTP]).args(text.split(' ')).output()?;
        let answer = String::from_utf8(answer.stdout)?;
        ensure!(answer.trim() == format!("{} 3868", a.address()), "answer: {answer:?}");
        let mut asked = String::new();
        BufReader::new(server.0.stdout.take().context("a pipe")?).read_line(&mut asked)?;
        ensure!(asked.trim() == outside.ip().to_string(), "asked by {asked:?}");
        ensure!(
            a.ctl_json::<serde_json::Value>(&["fw"])?.to_string().contains("3868/sctp"),
            "not counted"
        );
        Ok(())
    })
}

/// Ends with the test.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn an_endpoint_without_a_way_back_by_this_host_is_reached_all_the_same() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let web = a.attach_with("demo", "web", &["-p", "8080:80", "--no-default-route"])?;
        let _tcp = Server::tcp(web.netns(), "web", 80)?;
        let answer = ask_tcp(outside.netns(), at(a.address(), 8080))?;
        expect(&answer, "web", "10.9.0.1".parse()?)
    })
}

fn spread(container: &Container, name: &str, port: u16) -> Result<Server> {
    Server::tcp(container.netns(), name, port)
}

#[test]
fn a_port_of_the_cluster_is_taken_by_every_host_and_spread_over_all_that_share_the_alias()
-> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        let [a, b, c] = &hosts;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let args = ["--alias", "web", "-p", "8080:80,mode=cluster"];
        let [w1, w2] = [a.attach_with("demo", "w1", &args)?, b.attach_with("demo", "w2", &args)?];
        // It shares the alias, and publishes nothing itself.
        let w3 = b.attach_with("demo", "w3", &["--alias", "web"])?;
        let servers = [spread(&w1, "w1", 80)?, spread(&w2, "w2", 80)?, spread(&w3, "w3", 80)?];
        // Host c has no container of the network at all.
        for host in [a, b, c] {
            eventually(&format!("{} leads to all three", host.name()), || {
                let mut seen = std::collections::BTreeSet::new();
                for _ in 0..60 {
                    seen.insert(ask_tcp(outside.netns(), at(host.address(), 8080))?.0);
                }
                ensure!(seen.len() == 3, "{seen:?}");
                Ok(())
            })?;
            ensure!(ask_tcp(outside.netns(), at(host.address_v6(), 8080)).is_ok(), "IPv6");
        }
        ensure!(servers.iter().all(|server| server.asked() > 20), "spread");
        refused(
            c,
            &["attach", "--net", "demo", "--netns", c.container("x")?.netns(), "-p", "8080:80"],
            &["8080/tcp is published by endpoint"],
        )?;
        // Who goes is asked no more.
        b.detach("w2")?;
        a.detach("w1")?;
        eventually("nothing is left of it, for w3 published nothing", || {
            ensure!(ports(c)?.is_empty(), "{:?}", ports(c)?);
            closed(outside.netns(), at(c.address(), 8080))
        })?;
        eventually("hosts that pass nothing on need no address there", || {
            let left = c.endpoints()?;
            ensure!(left.len() == 1, "{left:?}");
            ensure!(c.our_links()?.is_empty(), "{:?}", c.our_links()?);
            Ok(())
        })
    })
}

#[test]
fn connections_go_to_no_host_that_is_dead() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        let [a, b, c] = &hosts;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let args = ["--alias", "web", "-p", "8080:80,mode=cluster"];
        let [w1, w2] = [a.attach_with("demo", "w1", &args)?, b.attach_with("demo", "w2", &args)?];
        let _servers = [spread(&w1, "w1", 80)?, spread(&w2, "w2", 80)?];
        eventually("c leads to both", || {
            let both = ports(c)?.first().context("a port")?.to.len();
            ensure!(both >= 4, "{:?}", ports(c)?);
            Ok(())
        })?;
        b.power_off()?;
        // As soon as the failure detector has a word for it.
        c.sees("b", "suspect").or_else(|_| c.sees("b", "down"))?;
        eventually("every connection finds the living", || {
            for _ in 0..20 {
                ensure!(ask_tcp(outside.netns(), at(c.address(), 8080))?.0 == "w1", "w2 is dead");
            }
            Ok(())
        })
    })
}

#[test]
fn a_service_is_spread_over_all_that_have_its_alias_and_survives_its_host() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        let [a, b, c] = &hosts;
        a.net_create("demo", DEMO)?;
        a.net_create(
            "other",
            NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], ..NetSpec::default() },
        )?;
        b.knows_net("demo")?;
        c.knows_net("demo")?;
        let [w1, w2] = [
            a.attach_with("demo", "w1", &["--alias", "web"])?,
            b.attach_with("demo", "w2", &["--alias", "web"])?,
        ];
        let _servers = [spread(&w1, "w1", 8080)?, spread(&w2, "w2", 8080)?];
        let create = ["service", "create", "shop", "--net", "demo", "--port", "80:8080"];
        let made: v1::Service = b.ctl_json(&[create.as_slice(), &["--alias", "web"]].concat())?;
        ensure!(made.vips.len() == 2, "one of each family: {made:?}");
        refused(
            b,
            &[create.as_slice(), &["--alias", "web"]].concat(),
            &["a service shop already"],
        )?;
        let clients = [c.attach("demo", "c1")?, a.attach("demo", "c2")?];
        let apart = a.attach("other", "apart")?;
        for client in clients.iter().chain([&w1]) {
            for vip in &made.vips {
                let text = format!("{} asks {vip} and is answered by both", client.name());
                eventually(&text, || {
                    let mut seen = std::collections::BTreeSet::new();
                    for _ in 0..40 {
                        seen.insert(ask_tcp(client.netns(), at(*vip, 80))?.0);
                    }
                    ensure!(seen.len() == 2, "{seen:?}");
                    Ok(())
                })?;
            }
        }
        // The host itself, too; another network does not.
        ensure!(ask_tcp(a.netns(), at(made.vips[0], 80)).is_ok(), "from the host");
        closed(apart.netns(), at(made.vips[0], 80))?;
        // By its name.
        let named = clients[0].exec("dig +short shop.demo.overlay.internal @127.0.0.11")?;
        ensure!(named.trim() == made.vips[0].to_string(), "{named}");
        // Asking for its address crosses nothing.
        let capture = lab.capture()?;
        clients[0].exec("ip neigh flush dev eth0")?;
        clients[0].ping(made.vips[0])?;
        let frames = capture.finish()?;
        frames.expect_none("anything about the address", "vxlan && (arp || icmp)")?;
        // The host that made it dies: it goes on, and connections find the living.
        b.power_off()?;
        eventually("every connection finds the living", || {
            for _ in 0..20 {
                ensure!(ask_tcp(clients[0].netns(), at(made.vips[0], 80))?.0 == "w1", "w2");
            }
            Ok(())
        })?;
        // Nobody gets its address, and an attach by it is refused.
        let ip = made.vips[0].to_string();
        let ns = c.container("x")?;
        refused(c, &["attach", "--net", "demo", "--netns", ns.netns(), "--ip", &ip], &[&ip])?;
        c.ctl_json::<v1::Service>(&["service", "rm", "shop"])?;
        eventually("it is gone everywhere", || {
            closed(clients[1].netns(), at(made.vips[0], 80))?;
            let left: Vec<v1::Service> = a.ctl_json(&["service", "ls"])?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    })
}
