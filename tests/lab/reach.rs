//! Who reaches whom.
//!
//! ```text
//!   host a 192.0.2.1 ─────┐   underlay    ┌───── host b 192.0.2.2
//!     blue-a  red-a       ├─ 192.0.2.0/24 ┤       blue-b  red-b
//!   host c 192.0.2.3 ─────┘               │
//!     blue-c  red-c                       │
//!
//!   blue: VNI 4097, 10.9.0.0/24           red: VNI 4098, 10.8.0.0/24
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::shell::inside;
use overlay_tests::{Container, DaemonOptions, Host, Lab, NetSpec};

const BLUE: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };
const RED: NetSpec<'_> = NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], mtu: 0, extra: &[] };

/// One container a host on `net`, which the first host creates.
fn spread(hosts: &[Host], net: &str, spec: NetSpec<'_>) -> Result<Vec<Container>> {
    hosts[0].net_create(net, spec)?;
    hosts
        .iter()
        .map(|host| {
            host.knows_net(net)?;
            host.attach(net, &format!("{net}-{}", host.name()))
        })
        .collect()
}

fn all_reach_all(containers: &[Container]) -> Result<()> {
    for from in containers {
        for to in containers {
            from.ping(to.ip()).with_context(|| format!("{} to {}", from.name(), to.name()))?;
        }
    }
    Ok(())
}

#[test]
fn two_hosts_any_container_reaches_any_other_on_its_network() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b"])?;
        let mut blue = spread(&hosts, "blue", BLUE)?;
        // A second one on a: neighbours on one host reach each other too.
        blue.push(hosts[0].attach("blue", "blue-a2")?);
        all_reach_all(&blue)
    })
}

#[test]
fn three_hosts_any_container_reaches_any_other_on_its_network() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        all_reach_all(&spread(&hosts, "blue", BLUE)?)
    })
}

#[test]
fn containers_on_different_networks_do_not_reach_each_other_though_their_hosts_share_both()
-> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b"])?;
        let blue = spread(&hosts, "blue", BLUE)?;
        let red = spread(&hosts, "red", RED)?;
        // Both work, so that silence below means isolation.
        all_reach_all(&blue)?;
        all_reach_all(&red)?;
        for one in &blue {
            for other in &red {
                one.cannot_ping(other.ip())?;
                other.cannot_ping(one.ip())?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_container_on_two_networks_reaches_both_and_joins_them_for_nobody() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b"])?;
        let blue = spread(&hosts, "blue", BLUE)?;
        let red = spread(&hosts, "red", RED)?;
        let mut both = hosts[0].container("both")?;
        both.attach_with("blue", &[])?;
        both.attach_with("red", &["--no-default-route"])?;
        both.ping(blue[1].ip())?;
        both.ping(red[1].ip())?;
        blue[1].ping(both.endpoint_on("blue").ips[0].addr())?;
        blue[1].cannot_ping(red[0].ip())
    })
}

#[test]
fn ipv6_reaches_as_ipv4_does() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b"])?;
        let dual = NetSpec { subnets: &["10.9.0.0/24", "fd00:9::/64"], ..BLUE };
        let blue = spread(&hosts, "blue", dual)?;
        all_reach_all(&blue)?;
        blue[0].ping(blue[1].ip6())?;
        blue[1].ping(blue[0].ip6())
    })
}

#[test]
fn every_container_reaches_the_gateway_of_its_network() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b"])?;
        for container in spread(&hosts, "blue", BLUE)? {
            container.ping("10.9.0.1".parse()?)?;
        }
        Ok(())
    })
}

#[test]
fn a_host_that_comes_later_and_knows_one_peer_learns_of_all() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let mut blue = spread(&[a.clone(), b.clone()], "blue", BLUE)?;
        let c = lab.host("c")?;
        c.start_with(&DaemonOptions {
            join: vec![format!("{}:7946", b.address())],
            ..DaemonOptions::default()
        })?;
        lab.all_up(&[a, b, c.clone()])?;
        c.knows_net("blue")?;
        blue.push(c.attach("blue", "blue-c")?);
        all_reach_all(&blue)
    })
}

#[test]
fn a_peer_that_comes_up_after_the_one_that_joins_it_is_fine() -> Result<()> {
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        a.start_with(&DaemonOptions {
            join: vec![format!("{}:7946", b.address())],
            ..DaemonOptions::default()
        })?;
        a.net_create("blue", BLUE)?;
        b.start()?;
        lab.all_up(&[a.clone(), b.clone()])?;
        b.knows_net("blue")?;
        all_reach_all(&[a.attach("blue", "blue-a")?, b.attach("blue", "blue-b")?])
    })
}

#[test]
fn tcp_carries_a_gigabit_of_data_across_whole() -> Result<()> {
    // What byte stands where: a stream that lost, repeated or reordered one is not this.
    const BLOCKS: u64 = 2000;
    fn block(number: u64) -> Vec<u8> {
        number.to_le_bytes().repeat(8192)
    }
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b"])?;
        let blue = spread(&hosts, "blue", BLUE)?;
        let to = SocketAddr::new(blue[1].ip(), 5201);
        let listener = inside(blue[1].netns(), move || Ok(TcpListener::bind(to)?))?;
        let sender = inside(blue[0].netns(), move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            stream.set_write_timeout(Some(Duration::from_secs(30)))?;
            Ok(stream)
        })?;
        let (mut receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(Duration::from_secs(30)))?;
        let sending = std::thread::spawn(move || -> Result<()> {
            let mut sender = sender;
            for number in 0..BLOCKS {
                sender.write_all(&block(number))?;
            }
            Ok(())
        });
        let mut got = vec![0; block(0).len()];
        for number in 0..BLOCKS {
            receiver.read_exact(&mut got).with_context(|| format!("block {number}"))?;
            ensure!(got == block(number), "block {number} is not what was sent");
        }
        ensure!(receiver.read(&mut got)? == 0, "more arrived than was sent");
        sending.join().expect("the thread does not panic")
    })
}
