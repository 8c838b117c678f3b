//! How large a packet may be, to the byte.
//!
//! ```text
//!   c1 ── host a ──── underlay, MTU 1500, 9000 or too small ──── host b ── c2
//!
//!   ping -s N: N bytes of payload, 8 of ICMP, 20 of IPv4 = the inner packet;
//!   14 of inner Ethernet, 8 of VXLAN, 8 of UDP, 20 of IPv4 = 50 more outside
//!   (70 between IPv6 VTEPs).
//! ```

use anyhow::{Result, bail, ensure};
use overlay_tests::kernel::difference;
use overlay_tests::{Container, DaemonOptions, Host, Lab, NetSpec, Underlay, Vtep};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

fn pair(a: &Host, b: &Host, mtu: u16) -> Result<(Container, Container)> {
    a.net_create("demo", NetSpec { mtu, ..DEMO })?;
    b.knows_net("demo")?;
    let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
    c1.ping(c2.ip())?;
    Ok((c1, c2))
}

/// A packet of `mtu` bytes crosses in one piece, one of a byte more does not
/// leave the container.
fn the_edge_is_at(mtu: u16, c1: &Container, c2: &Container) -> Result<()> {
    for (from, to) in [(c1, c2), (c2, c1)] {
        ensure!(from.link("eth0")?.mtu == u32::from(mtu), "{:?}", from.link("eth0")?);
        from.ping_unfragmented(to.ip(), mtu - 28)?;
        let Err(refusal) = from.ping_unfragmented(to.ip(), mtu - 27) else {
            bail!("a packet of {} bytes crossed", mtu + 1)
        };
        let refusal = format!("{refusal:#}");
        ensure!(refusal.contains(&format!("mtu={mtu}")), "{refusal}");
    }
    Ok(())
}

#[test]
fn on_an_underlay_of_1500_a_ping_of_1422_passes_and_one_of_1423_fails() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b, 0)?;
        the_edge_is_at(1450, &c1, &c2)
    })
}

#[test]
fn on_an_underlay_of_9000_a_network_of_8950_has_its_edge_there() -> Result<()> {
    Lab::run_on(Underlay { mtu: 9000 }, |lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b, 8950)?;
        the_edge_is_at(8950, &c1, &c2)
    })
}

#[test]
fn between_ipv6_vteps_the_envelope_is_20_bytes_larger() -> Result<()> {
    Lab::run(|lab| {
        let options = DaemonOptions { vtep: Vtep::V6, ..DaemonOptions::default() };
        let [a, b] = lab.hosts_with(["a", "b"], &options)?;
        let (c1, c2) = pair(&a, &b, 1430)?;
        the_edge_is_at(1430, &c1, &c2)?;
        refused(&a, 1431, 1501, 70, 1500)
    })
}

#[test]
fn a_host_whose_underlay_is_too_small_refuses_with_both_figures_and_leaves_no_trace() -> Result<()>
{
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        b.exec("ip link set dev eth0 mtu 1499")?;
        a.start()?;
        b.start_with(&DaemonOptions {
            join: vec![format!("{}:7946", a.address())],
            ..DaemonOptions::default()
        })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;

        // a has room enough: the network works there.
        let (c1, c2) = (a.attach("demo", "c1")?, a.attach("demo", "c2")?);
        c1.ping(c2.ip())?;

        let (victim, before) = (b.container("victim")?, b.snapshot()?);
        let inside = victim.snapshot()?;
        let out = b.ctl(&["attach", "--net", "demo", "--netns", victim.netns()])?;
        ensure!(out.code == 1, "{out:?}");
        ensure!(
            out.stderr.contains("1500 (1450 + 50 for VXLAN)") && out.stderr.contains("1499"),
            "{out:?}"
        );
        for (before, after) in [(before, b.snapshot()?), (inside, victim.snapshot()?)] {
            if let Some(lines) = difference(&before, &after) {
                bail!("a refused attach left a trace:\n{lines}");
            }
        }

        // One byte more, and it is welcome.
        b.exec("ip link set dev eth0 mtu 1500")?;
        overlay_tests::eventually("the attach succeeds", || {
            let out = b.ctl(&["attach", "--net", "demo", "--netns", victim.netns()])?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })
    })
}

#[test]
fn one_byte_more_than_the_underlay_carries_is_refused_with_both_figures() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        refused(&a, 1451, 1501, 50, 1500)
    })
}

/// A network of `inner` can be created, for other hosts may carry it; nothing
/// can be attached to it here.
fn refused(host: &Host, inner: u16, needed: u16, overhead: u16, underlay: u16) -> Result<()> {
    host.net_create("large", NetSpec { mtu: inner, ..NetSpec::default() })?;
    let (victim, before) = (host.container("victim")?, host.our_links()?);
    let out = host.ctl(&["attach", "--net", "large", "--netns", victim.netns()])?;
    ensure!(out.code == 1, "{out:?}");
    let figures = format!(
        "an MTU of {inner} needs an underlay MTU of {needed} ({inner} + {overhead} for VXLAN), \
         but the underlay has {underlay}"
    );
    ensure!(out.stderr.contains(&figures), "`{figures}` is not in {out:?}");
    ensure!(host.our_links()? == before, "links were made: {:?}", host.our_links()?);
    Ok(())
}
