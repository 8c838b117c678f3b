//! Nothing floods: what containers say to each other goes to the host that
//! needs it, once, and nothing that the daemon knows is asked of the wire.
//!
//! ```text
//!   host a 192.0.2.1 ──┐                        ┌── host b 192.0.2.2
//!     c1               ├── underlay, captured ──┤     c2
//!   host c 192.0.2.3 ──┘
//!     (in the cluster, does not use the network; its cable is captured too)
//!
//!   demo: VNI 4097, 10.9.0.0/24 and fd00:9::/64
//! ```

use anyhow::{Result, ensure};
use overlay_tests::capture::Frames;
use overlay_tests::{Container, Host, Lab, NetSpec};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

/// Router and neighbour solicitation and advertisement, and redirect.
const ND: &str = "vxlan && icmpv6.type >= 133 && icmpv6.type <= 137";

fn pair(a: &Host, b: &Host, spec: NetSpec<'_>) -> Result<(Container, Container)> {
    a.net_create("demo", spec)?;
    b.knows_net("demo")?;
    Ok((a.attach("demo", "c1")?, b.attach("demo", "c2")?))
}

fn all_is_vni_4097_to_port_4789(frames: &Frames) -> Result<()> {
    frames.expect_some("containers talked", "vxlan && icmp")?;
    for outer in frames.fields("vxlan || udp.dstport == 4789", &["udp.dstport", "vxlan.vni"])? {
        ensure!(outer == ["4789", "4097"], "a frame with another port or VNI: {outer:?}");
    }
    Ok(())
}

#[test]
fn while_containers_talk_the_underlay_carries_no_arp_and_no_nd_and_spares_other_hosts() -> Result<()>
{
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let (c1, c2) = pair(&a, &b, DEMO)?;
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;

        let (underlay, at_c) = (lab.capture()?, lab.capture_at(&c)?);
        for (from, to) in [(&c1, &c2), (&c2, &c1)] {
            // Containers ask for each other's address: the bridge answers.
            from.exec("ip neigh flush dev eth0")?;
            from.ping(to.ip())?;
            from.ping(to.ip6())?;
        }

        let underlay = underlay.finish()?;
        all_is_vni_4097_to_port_4789(&underlay)?;
        underlay.expect_some("IPv6 too", "vxlan && icmpv6.type == 128")?;
        underlay.expect_none("no ARP crosses", "vxlan && arp")?;
        underlay.expect_none("no ND crosses", ND)?;
        let at_c = at_c.finish()?;
        at_c.expect_none("c does not use the network", "udp.port == 4789 || vxlan")?;
        at_c.expect_some("c's cable was captured: it gossips", "udp.port == 7946")?;
        Ok(())
    })
}

#[test]
fn from_the_first_attach_on_no_arp_and_no_nd_crosses() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let (underlay, at_c) = (lab.capture()?, lab.capture_at(&c)?);
        let (c1, c2) = pair(&a, &b, DEMO)?;
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;
        c1.ping(c2.ip())?;
        c2.ping(c1.ip6())?;

        let underlay = underlay.finish()?;
        all_is_vni_4097_to_port_4789(&underlay)?;
        underlay.expect_none("no ARP crosses", "vxlan && arp")?;
        underlay.expect_none("no ND crosses", ND)?;
        at_c.finish()?.expect_none("c does not use the network", "udp.port == 4789 || vxlan")
    })
}

#[test]
fn each_unicast_frame_crosses_once() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b, DEMO)?;
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;
        c1.ping(c2.ip())?;
        let underlay = lab.capture()?;
        c1.exec(&format!("ping -n -c 20 -i 0.01 {}", c2.ip()))?;
        let echoes = underlay.finish()?.matching("vxlan && icmp")?;
        ensure!(echoes.len() == 40, "20 requests and 20 answers, but {}", echoes.len());
        Ok(())
    })
}

#[test]
fn a_broadcast_goes_once_to_each_host_that_uses_the_network_and_to_no_other() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let (c1, c2) = pair(&a, &b, DEMO)?;
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;
        let (underlay, at_c) = (lab.capture()?, lab.capture_at(&c)?);
        // Nobody answers a broadcast ping, so that it ends with an error.
        let _ = c1.exec("ping -b -n -c 3 -i 0.1 -W 0.1 10.9.0.255");
        let sent = underlay.finish()?.fields("vxlan && icmp.type == 8", &["ip.dst"])?;
        ensure!(sent == vec![vec![b.vtep().to_string()]; 3], "{sent:?}");
        at_c.finish()?.expect_none("c does not use the network", "vxlan")
    })
}

#[test]
fn a_network_made_with_no_flood_sends_no_broadcast_and_still_works() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b, NetSpec { extra: &["--no-flood"], ..DEMO })?;
        a.reaches(4097, &c2)?;
        b.reaches(4097, &c1)?;
        let underlay = lab.capture()?;
        let _ = c1.exec("ping -b -n -c 3 -i 0.1 -W 0.1 10.9.0.255");
        c1.ping(c2.ip())?;
        let underlay = underlay.finish()?;
        underlay.expect_some("unicast crosses", "vxlan && icmp.type == 0")?;
        underlay.expect_none("broadcast does not", "vxlan && eth.dst == ff:ff:ff:ff:ff:ff")
    })
}
