//! The underlay's device goes away, comes back, is made anew, gets narrower:
//! traffic is back when it is, and no daemon is started again.
//!
//! ```text
//!   c1 ── host a ── eth0 192.0.2.1 ──── underlay ──── host b 192.0.2.2 ── c2
//!                └─ eth1 192.0.2.201 ──────┘
//! ```

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use overlay_tests::shell::run;
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, PingStream, Vtep, eventually, holds_for, patience,
};

/// What a ping carries that fills the network's MTU of 1450 bytes.
const LARGEST: u16 = 1450 - 28;
/// Within what traffic is to be back after the underlay.
const BACK: Duration = Duration::from_secs(2);

fn by(vtep: Vtep) -> DaemonOptions {
    DaemonOptions { vtep, ..DaemonOptions::default() }
}

/// How long it takes from now until both streams have answers again.
fn back(streams: &[PingStream]) -> Result<Duration> {
    let began = Instant::now();
    for stream in streams {
        stream.answers(10)?;
    }
    let took = began.elapsed();
    println!("traffic is back after {took:?}");
    ensure!(took <= patience(BACK), "{took:?}");
    Ok(took)
}

fn streams([c1, c2]: &[Container; 2]) -> Result<[PingStream; 2]> {
    Ok([c1.ping_stream(c2.ip())?, c2.ping_stream(c1.ip())?])
}

/// The daemon is the one that was started, and says that all is well.
fn is_well(a: &Host, b: &Host, pid: u32) -> Result<()> {
    ensure!(a.pid()? == pid, "the daemon was started again");
    eventually("all is well", || {
        let status = a.status()?;
        ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        Ok(())
    })?;
    b.sees("a", "up")?;
    a.sees("b", "up")?;
    a.at_rest()?;
    b.at_rest()
}

#[test]
fn a_device_that_was_down_carries_traffic_again_when_it_is_up() -> Result<()> {
    for vtep in [Vtep::V4, Vtep::Device("eth0"), Vtep::Found] {
        Lab::run(|lab| {
            let ([a, b], containers) = lab.talking(lab.host("a")?, &by(vtep))?;
            let (pid, links) = (a.pid()?, a.our_links()?);
            let streams = streams(&containers)?;
            for away in [Duration::from_millis(100), Duration::from_secs(5)] {
                a.exec("ip link set eth0 down")?;
                holds_for(away, "a serves meanwhile", || a.status().map(drop))?;
                a.exec("ip link set eth0 up")?;
                // As dhclient or networkd would: the kernel has forgotten it.
                a.exec("ip route replace default via 192.0.2.254")?;
                back(&streams)?;
            }
            ensure!(a.our_links()? == links, "devices were replaced: {:?}", a.our_links()?);
            is_well(&a, &b, pid)
        })?;
    }
    Ok(())
}

/// A device on eth0 that has its address.
#[derive(Debug, Clone, Copy)]
enum Upper {
    Macvlan,
    /// Where the kernel can: `make vm-lab` has one that can.
    Bond,
    Vlan,
}

impl Upper {
    /// How it is made, on the host; the last two lines are every one's.
    fn lines(self) -> Vec<&'static str> {
        let mut lines = match self {
            Self::Macvlan => {
                vec![
                    "ip link add link eth0 name ul0 address 02:00:00:00:03:01 type macvlan mode bridge",
                ]
            }
            Self::Bond => vec![
                "ip link add ul0 type bond mode active-backup miimon 100",
                "ip link set eth0 down",
                "ip link set eth0 master ul0",
            ],
            Self::Vlan => vec!["ip link add link eth0 name ul0 type vlan id 7"],
        };
        lines.extend(["ip addr add 192.0.2.1/24 dev ul0", "ip link set ul0 up"]);
        lines
    }

    fn make(self, a: &Host) -> Result<()> {
        self.lines().into_iter().try_for_each(|line| a.exec(line).map(drop))
    }

    /// What it needs at the other end of the cable.
    fn prepare(self, lab: &Lab, a: &Host) -> Result<()> {
        a.exec("ip addr del 192.0.2.1/24 dev eth0")?;
        if matches!(self, Self::Vlan) {
            let (ul, port) = (lab.underlay_netns(), a.port());
            run(&format!("ip -n {ul} link set {port} nomaster"))?;
            run(&format!("ip -n {ul} link add link {port} name {port}.7 type vlan id 7"))?;
            run(&format!("ip -n {ul} link set {port}.7 master br0 up"))?;
        }
        Ok(())
    }

    /// Those that this kernel can make.
    fn all(a: &Host) -> Vec<Self> {
        let can = |line: &str| a.exec(line).and_then(|_| a.exec("ip link del ovtry")).is_ok();
        let mut all = vec![Self::Macvlan];
        all.extend(can("ip link add ovtry type bond").then_some(Self::Bond));
        all.extend(can("ip link add link eth0 name ovtry type vlan id 7").then_some(Self::Vlan));
        all
    }
}

#[test]
fn a_device_that_is_deleted_and_made_again_carries_traffic_again() -> Result<()> {
    let mut uppers = Vec::new();
    Lab::run(|lab| {
        uppers = Upper::all(&lab.host("a")?);
        Ok(())
    })?;
    println!("this kernel can make {uppers:?}");
    let each = |upper: Upper| [Vtep::V4, Vtep::Device("ul0")].map(|vtep| (upper, vtep));
    for (upper, vtep) in uppers.into_iter().flat_map(each) {
        Lab::run(|lab| {
            let a = lab.host("a")?;
            upper.prepare(lab, &a)?;
            upper.make(&a)?;
            let ([a, b], containers) = lab.talking(a, &by(vtep))?;
            let pid = a.pid()?;
            let streams = streams(&containers)?;
            for away in [Duration::ZERO, Duration::from_secs(5)] {
                a.exec("ip link del ul0")?;
                if !away.is_zero() {
                    eventually("a says what it misses", || {
                        let warnings = a.status()?.warnings;
                        ensure!(warnings.iter().any(|w| w.contains("192.0.2.1")), "{warnings:?}");
                        Ok(())
                    })?;
                    holds_for(away, "a serves meanwhile", || a.status().map(drop))?;
                }
                upper.make(&a)?;
                back(&streams)?;
            }
            is_well(&a, &b, pid)?;
            let fdb = a.fdb("ovx4097")?;
            ensure!(fdb.vtep_of(containers[1].mac()) == Some(b.vtep()), "{fdb:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_narrower_underlay_is_told_and_large_packets_pass_when_it_is_wide_again() -> Result<()> {
    Lab::run(|lab| {
        let ([a, b], containers) = lab.talking(lab.host("a")?, &by(Vtep::V4))?;
        let [c1, c2] = &containers;
        let pid = a.pid()?;
        c1.ping_unfragmented(c2.ip(), LARGEST)?;
        let streams = streams(&containers)?;
        a.exec("ip link set eth0 mtu 1400")?;
        back(&streams)?;
        for host in [&a, &b] {
            eventually("what is too narrow is named", || {
                let warnings = host.status()?.warnings;
                let told = warnings.iter().any(|w| w.contains("demo") && w.contains("1400"));
                ensure!(told, "{warnings:?}");
                Ok(())
            })?;
        }
        // The kernel tells the sender how much passes, so that TCP goes on in smaller pieces.
        let size = format!("ping -n -c 3 -i 0.2 -W 2 -M do -s {LARGEST} {}", c2.ip());
        let refused = c1.exec(&size).expect_err("it is too large").to_string();
        ensure!(refused.contains("mtu=1350") || refused.contains("mtu = 1350"), "{refused}");
        a.exec("ip link set eth0 mtu 1500")?;
        back(&streams)?;
        // What it was told it forgets after ten minutes, or here and now.
        c1.exec("ip route flush cache")?;
        c1.ping_unfragmented(c2.ip(), LARGEST)?;
        c2.ping_unfragmented(c1.ip(), LARGEST)?;
        is_well(&a, &b, pid)
    })
}

#[test]
fn a_default_route_that_moves_takes_the_tunnels_along_only_when_their_address_goes() -> Result<()> {
    Lab::run(|lab| {
        let ul = lab.underlay_netns();
        let a = lab.host("a")?;
        run(&format!(
            "ip -n {ul} link add dev p-a1 type veth peer name eth1 netns {} \
             address 02:00:00:00:04:01",
            a.netns()
        ))?;
        run(&format!("ip -n {ul} link set dev p-a1 master br0 up"))?;
        a.exec("sysctl -q -w net.ipv4.conf.all.arp_filter=1")?;
        a.exec("ip addr add 192.0.2.201/24 dev eth1 metric 200")?;
        a.exec("ip link set eth1 up")?;
        let ([a, b], containers) = lab.talking(a, &by(Vtep::Found))?;
        let pid = a.pid()?;
        let streams = streams(&containers)?;
        let vtep = |addr: &str| -> Result<()> {
            let device = a.exec("ip -d link show ovx4097")?;
            ensure!(device.contains(&format!("local {addr} ")), "{device}");
            Ok(())
        };
        vtep("192.0.2.1")?;
        a.exec("ip route replace default via 192.0.2.254 dev eth1")?;
        back(&streams)?;
        vtep("192.0.2.1")?;

        a.exec("ip addr del 192.0.2.1/24 dev eth0")?;
        back(&streams)?;
        vtep("192.0.2.201")?;
        let fdb = b.fdb("ovx4097")?;
        ensure!(fdb.vtep_of(containers[0].mac()) == Some("192.0.2.201".parse()?), "{fdb:?}");

        // And back, with the device that it is on.
        a.exec("ip addr add 192.0.2.1/24 dev eth0")?;
        a.exec("ip route replace default via 192.0.2.254 dev eth0")?;
        a.exec("ip link del eth1")?;
        back(&streams)?;
        vtep("192.0.2.1")?;
        is_well(&a, &b, pid)
    })
}
