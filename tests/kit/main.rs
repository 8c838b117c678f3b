//! The kit itself, on plain kernel objects: no daemon runs in here. A claim of
//! a lab is worth as much as its instruments, so each instrument is shown to
//! notice what it is for.
//!
//! ```text
//!   c1 10.9.0.5 ── host a 192.0.2.1 ──── underlay ──── host b 192.0.2.2 ── c2 10.9.0.6
//!                    br7 vx7              192.0.2.0/24        br7 vx7
//! ```

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::kernel::{difference, snapshot};
use overlay_tests::{Container, Host, Lab, Underlay, eventually, eventually_within, holds_for};

/// VNI 7 between two hosts, as a patient operator would make it by hand.
fn by_hand(lab: &Lab) -> Result<(Host, Host, Container, Container)> {
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let c1 = wire(&a, &b, "c1", 5)?;
    let c2 = wire(&b, &a, "c2", 6)?;
    Ok((a, b, c1, c2))
}

fn wire(host: &Host, peer: &Host, name: &str, number: u8) -> Result<Container> {
    let container = host.container(name)?;
    let (there, here) = (if number == 5 { 6 } else { 5 }, container.netns().to_owned());
    for line in [
        "ip link add br7 mtu 1450 type bridge mcast_snooping 0".to_owned(),
        "ip link set br7 addrgenmode none".to_owned(),
        format!(
            "ip link add vx7 mtu 1450 type vxlan id 7 dstport 4789 local {} nolearning",
            host.address()
        ),
        "ip link set vx7 addrgenmode none".to_owned(),
        "ip link set vx7 master br7 up".to_owned(),
        "bridge link set dev vx7 learning off neigh_suppress on".to_owned(),
        "ip link set br7 up".to_owned(),
        format!(
            "ip link add v{number} mtu 1450 type veth peer name eth0 address 02:00:00:00:00:0{number} mtu 1450 netns {here}"
        ),
        format!("ip link set v{number} addrgenmode none"),
        format!("ip link set v{number} master br7 up"),
        format!(
            "bridge fdb add 02:00:00:00:00:0{there} dev vx7 dst {} self permanent",
            peer.address()
        ),
        format!("bridge fdb add 02:00:00:00:00:0{there} dev vx7 master static extern_learn"),
        format!(
            "ip neigh replace 10.9.0.{there} lladdr 02:00:00:00:00:0{there} dev br7 nud permanent extern_learn"
        ),
        format!(
            "bridge fdb append 00:00:00:00:00:00 dev vx7 dst {} self permanent",
            peer.address()
        ),
    ] {
        host.exec(&line)?;
    }
    container.script(&format!(
        "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1
         ip addr add 10.9.0.{number}/24 dev eth0
         ip link set eth0 up"
    ))?;
    Ok(container)
}

const C2: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 6));

#[test]
fn packets_cross_and_a_capture_shows_what_was_on_the_wire_and_nothing_else() -> Result<()> {
    Lab::run(|lab| {
        let (a, _b, c1, _c2) = by_hand(lab)?;
        let bystander = lab.host("c")?;
        let (underlay, at_bystander) = (lab.capture()?, lab.capture_at(&bystander)?);
        c1.ping(C2)?;

        let frames = underlay.finish()?;
        frames.expect_some("the echo is there", "vxlan.vni == 7 && icmp.type == 8")?;
        frames.expect_none("ARP is suppressed", "vxlan && arp")?;
        let outer =
            frames.fields("vxlan && icmp.type == 8", &["udp.dstport", "vxlan.vni", "ip.src"])?;
        ensure!(outer[0] == ["4789", "7", &a.address().to_string()], "{outer:?}");
        ensure!(frames.expect_none("an echo is noticed", "vxlan && icmp").is_err());

        at_bystander.finish()?.expect_none("a bystander gets none", "vxlan")
    })
}

#[test]
fn a_frame_that_is_flooded_is_noticed_at_a_host_that_does_not_need_it() -> Result<()> {
    Lab::run(|lab| {
        let (a, _b, c1, _c2) = by_hand(lab)?;
        let bystander = lab.host("c")?;
        a.exec(&format!(
            "bridge fdb append 00:00:00:00:00:00 dev vx7 dst {} self permanent",
            bystander.address()
        ))?;
        let at_bystander = lab.capture_at(&bystander)?;
        ensure!(c1.ping_once("10.9.0.77".parse()?).is_err(), "nobody has that address");
        at_bystander
            .finish()?
            .expect_some("the request was flooded", "vxlan && arp.opcode == 1")?;
        Ok(())
    })
}

#[test]
fn the_fdb_and_the_neighbours_are_read_as_the_kernel_holds_them() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, _c1, _c2) = by_hand(lab)?;
        let fdb = a.fdb("vx7")?;
        ensure!(fdb.vtep_of("02:00:00:00:00:06") == Some(b.vtep()), "{fdb:?}");
        ensure!(fdb.vtep_of("02:00:00:00:00:07").is_none() && !fdb.knows("02:00:00:00:00:07"));
        ensure!(fdb.flood() == [b.vtep()].into(), "{fdb:?}");
        ensure!(fdb.unicast().len() == 1, "{fdb:?}");
        let behind = fdb.bridge_entry("02:00:00:00:00:06").context("the bridge's own entry")?;
        ensure!(
            behind.has("extern_learn") && behind.master.as_deref() == Some("br7"),
            "{behind:?}"
        );

        let neigh = a.neigh("br7")?;
        ensure!(neigh.len() == 1, "{neigh:?}");
        ensure!(neigh[0].ip == C2 && neigh[0].mac.as_deref() == Some("02:00:00:00:00:06"));
        ensure!(neigh[0].extern_learn && neigh[0].state == ["PERMANENT"], "{neigh:?}");

        let vx = a.link("vx7")?;
        ensure!((vx.mtu, vx.kind.as_str(), vx.up) == (1450, "vxlan", true), "{vx:?}");
        ensure!(vx.master.as_deref() == Some("br7"), "{vx:?}");
        ensure!(a.fdb("vx8").is_err(), "a device that is not there is an error");
        Ok(())
    })
}

#[test]
fn a_stream_loses_nothing_on_a_whole_path_and_counts_what_a_cut_costs() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c1, _c2) = by_hand(lab)?;
        let stream = c1.ping_stream(C2)?;
        stream.answers(30)?;
        stream.stop()?.expect_lossless("nothing happened")?;

        let stream = c1.ping_stream(C2)?;
        for cut in [Lab::cut as fn(&Lab, &Host, &Host) -> Result<()>, |lab, a, _| lab.isolate(a)] {
            cut(lab, &a, &b)?;
            c1.cannot_ping(C2)?;
            lab.heal()?;
            stream.answers(5)?;
        }
        let summary = stream.stop()?;
        ensure!(summary.lost() >= 2 * 20, "{summary:?}");
        ensure!(summary.longest_gap >= 20, "{summary:?}");
        ensure!(summary.expect_lossless("cut twice").is_err());
        Ok(())
    })
}

#[test]
fn a_monitor_hears_an_entry_come_and_go_with_the_time_of_each() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, _c1, _c2) = by_hand(lab)?;
        let monitor = a.monitor_fdb()?;
        let before = SystemTime::now();
        a.exec(&format!(
            "bridge fdb add 02:00:00:00:00:09 dev vx7 dst {} self permanent",
            b.address()
        ))?;
        a.exec("bridge fdb del 02:00:00:00:00:09 dev vx7 self")?;
        let gone = monitor.first("it went", |e| e.is_deletion() && e.text.contains("00:09 "))?;
        let come = monitor.first("it came", |e| e.text.starts_with("02:00:00:00:00:09 "))?;
        ensure!(before <= come.at && come.at <= gone.at, "{before:?} {come:?} {gone:?}");
        ensure!(gone.at <= SystemTime::now(), "UTC is read as UTC: {gone:?}");
        Ok(())
    })
}

#[test]
fn a_snapshot_rests_while_packets_flow_and_moves_with_any_object() -> Result<()> {
    Lab::run(|lab| {
        let (a, _b, c1, _c2) = by_hand(lab)?;
        c1.ping(C2)?;
        let before = (a.snapshot()?, a.snapshot_of(&["br7", "vx7"])?);
        c1.ping(C2)?;
        if let Some(lines) = difference(&before.0, &a.snapshot()?) {
            bail!("a ping changed the snapshot:\n{lines}");
        }
        if let Some(lines) = difference(&before.1, &a.snapshot_of(&["br7", "vx7"])?) {
            bail!("a ping changed the snapshot of two links:\n{lines}");
        }

        for (make, undo) in [
            ("ip link add x0 type bridge", "ip link del x0"),
            // Not on br7: with the last IPv4 address of a device its neighbour entries go, permanent or not.
            ("ip addr add 10.1.0.1/24 dev eth0", "ip addr del 10.1.0.1/24 dev eth0"),
            ("ip route add 10.2.0.0/24 via 192.0.2.9", "ip route del 10.2.0.0/24"),
            ("nft add table inet x", "nft delete table inet x"),
            (
                "bridge fdb add 02:00:00:00:00:09 dev vx7 dst 192.0.2.9 self permanent",
                "bridge fdb del 02:00:00:00:00:09 dev vx7 self",
            ),
            (
                "ip neigh add 10.9.0.9 lladdr 02:00:00:00:00:09 dev br7 nud permanent",
                "ip neigh del 10.9.0.9 dev br7",
            ),
            ("bridge link set dev vx7 isolated on", "bridge link set dev vx7 isolated off"),
        ] {
            a.exec(make)?;
            ensure!(difference(&before.0, &a.snapshot()?).is_some(), "not noticed: {make}");
            a.exec(undo)?;
            if let Some(lines) = difference(&before.0, &a.snapshot()?) {
                bail!("`{undo}` does not undo `{make}`:\n{lines}");
            }
        }
        Ok(())
    })
}

#[test]
fn jumbo_frames_cross_an_underlay_of_9000_and_not_one_of_1500() -> Result<()> {
    let payload = 8000;
    Lab::run_on(Underlay { mtu: 9000 }, |lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        a.exec(&format!("ping -c 1 -W 2 -M do -s {payload} {}", b.address())).map(drop)
    })?;
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let sent = a.exec(&format!("ping -c 1 -W 2 -M do -s {payload} {}", b.address()));
        ensure!(sent.is_err(), "it crossed");
        Ok(())
    })
}

#[test]
fn a_host_that_lost_power_is_back_with_its_address_and_without_its_links() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c1, _c2) = by_hand(lab)?;
        b.power_off()?;
        c1.cannot_ping(C2)?;
        b.power_on()?;
        eventually("b answers on the underlay", || {
            a.exec(&format!("ping -c 1 -W 1 {}", b.address())).map(drop)
        })?;
        ensure!(b.link("br7").is_err(), "the bridge survived");
        Ok(())
    })
}

#[test]
fn nothing_is_left_of_a_lab_after_a_panic_either() -> Result<()> {
    let left = std::panic::catch_unwind(|| {
        let lab = Lab::new(Underlay::default()).expect("root");
        let (a, ..) = by_hand(&lab).expect("made");
        let left = (lab.underlay_netns(), a.netns().to_owned(), lab.dir().to_owned());
        let stream = a.container("c9").expect("made");
        assert!(snapshot(&left.1).is_ok() && stream.netns().ends_with("c9"));
        std::panic::panic_any(left);
    })
    .expect_err("it panicked");
    let (underlay, host, dir) = *left
        .downcast::<(String, String, std::path::PathBuf)>()
        .map_err(|_| anyhow::anyhow!("another panic"))?;
    ensure!(snapshot(&underlay).is_err() && snapshot(&host).is_err(), "namespaces are left");
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

#[test]
fn waiting_ends_with_the_claim_and_the_last_thing_seen() {
    let mut n = 0;
    let start = Instant::now();
    let failure = eventually_within(Duration::from_millis(50), "it is done", || -> Result<()> {
        n += 1;
        bail!("try {n}")
    })
    .expect_err("it never is");
    let text = format!("{failure:#}");
    assert!(
        text.contains("it is done") && text.ends_with(&format!("last seen: try {n}")),
        "{text}"
    );
    assert!(n >= 2 && start.elapsed() < Duration::from_secs(30));

    let broken = holds_for(Duration::from_secs(30), "it rests", || bail!("it moved"));
    assert!(format!("{:#}", broken.expect_err("it moved")).contains("it rests: it moved"));
}
