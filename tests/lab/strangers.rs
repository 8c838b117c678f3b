//! What belongs to others stays as it is, to the letter, whatever the daemon
//! does; and after a teardown nothing of ours is left.
//!
//! ```text
//!   host a                                        host b
//!     br-x, vx-x (VNI 9999, port 4789), FDB,        the same
//!     neighbours, a route, an nftables table,
//!     and a bridge ovb77 that only looks like ours
//!     c1 ───────────── demo, VNI 4097 ──────────────── c2
//! ```

use anyhow::{Result, bail, ensure};
use overlay_tests::kernel::difference;
use overlay_tests::shell::feed_in;
use overlay_tests::{Host, Lab, NetSpec, eventually};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

const STRANGERS: [&str; 3] = ["br-x", "vx-x", "ovb77"];

/// Everything of somebody else's that resembles what we make.
fn settle(host: &Host) -> Result<()> {
    for line in [
        "ip link add br-x type bridge stp_state 0",
        "ip addr add 10.77.0.1/24 dev br-x",
        "ip link add vx-x type vxlan id 9999 dstport 4789 local 192.0.2.99 nolearning",
        "ip link set vx-x alias overlayd:0123456789abcdef",
        "ip link set br-x addrgenmode none",
        "ip link set vx-x addrgenmode none",
        "ip link set vx-x master br-x up",
        "ip link set br-x up",
        "bridge fdb add 02:42:0a:09:00:02 dev vx-x dst 192.0.2.98 self permanent",
        "bridge fdb add 02:42:0a:09:00:02 dev vx-x master static",
        "bridge fdb append 00:00:00:00:00:00 dev vx-x dst 192.0.2.98 self permanent",
        "ip neigh add 10.77.0.9 lladdr 02:42:0a:4d:00:09 dev br-x nud permanent",
        "ip neigh add 10.77.0.10 lladdr 02:42:0a:4d:00:0a dev br-x nud permanent extern_learn",
        "ip route add 10.78.0.0/24 via 10.77.0.9",
        // Our prefix, but not our alias: the name of VNI 77's bridge is taken.
        "ip link add ovb77 type bridge",
        "ip link set ovb77 addrgenmode none",
    ] {
        host.exec(line)?;
    }
    feed_in(
        host.netns(),
        "nft -f -",
        "table inet x {
             chain forward {
                 type filter hook forward priority 0; policy accept;
                 udp dport 4789 accept
             }
         }
         table bridge overlayd-x {
             chain c {
             }
         }
",
    )?;
    // Ports that come up make a bridge forget and learn a little; then it rests.
    let mut last = String::new();
    eventually("the strangers are at rest", || {
        let now = of_strangers(host)?;
        let moved = difference(&last, &now);
        last = now;
        moved.map_or(Ok(()), |lines| bail!("{lines}"))
    })
}

fn of_strangers(host: &Host) -> Result<String> {
    let mut text = host.snapshot_of(&STRANGERS)?;
    for line in [
        "nft list table inet x",
        "nft list table bridge overlayd-x",
        "ip route show 10.78.0.0/24",
        "ip -d link show dev lo",
        "ip -d addr show dev eth0",
    ] {
        text += &host.exec(line)?;
    }
    Ok(text)
}

#[test]
fn foreign_objects_are_the_same_to_the_letter_after_all_that_a_daemon_does() -> Result<()> {
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        settle(&a)?;
        settle(&b)?;
        let before = [of_strangers(&a)?, of_strangers(&b)?];
        let unchanged = |after: &str| -> Result<()> {
            for (host, before) in [&a, &b].into_iter().zip(&before) {
                if let Some(lines) = difference(before, &of_strangers(host)?) {
                    bail!("{after}, foreign objects on {} differ:\n{lines}", host.name());
                }
            }
            Ok(())
        };

        a.start()?;
        b.start_with(&overlay_tests::DaemonOptions {
            join: vec![format!("{}:7946", a.address())],
            ..Default::default()
        })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        unchanged("after the start")?;

        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        c1.ping(c2.ip())?;
        a.at_rest()?;
        b.at_rest()?;
        unchanged("after two attaches")?;

        a.kill()?;
        a.start()?;
        a.at_rest()?;
        unchanged("after kill -9 and start")?;

        a.detach("c1")?;
        b.detach("c2")?;
        eventually("the network is removed", || {
            let out = a.ctl(&["net", "rm", "demo"])?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })?;
        eventually("its links are gone", || {
            ensure!(a.links()?.iter().all(|l| !l.name.ends_with("4097")), "{:?}", a.our_links()?);
            Ok(())
        })?;
        unchanged("after the end of the network")?;

        for host in [&a, &b] {
            host.stop()?;
            let out =
                host.overlayd(&["teardown", "--state-dir", &host.state_dir().to_string_lossy()])?;
            ensure!(out.code == 0, "{out:?}");
        }
        unchanged("after the teardown")
    })
}

#[test]
fn a_bridge_that_only_looks_like_ours_is_named_and_left_alone() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        settle(&a)?;
        let before = of_strangers(&a)?;
        a.start()?;
        let created = a.ctl(&["net", "create", "demo", "--vni", "77"])?;
        let refused = if created.code == 0 {
            let c1 = a.container("c1")?;
            a.ctl(&["attach", "--net", "demo", "--netns", c1.netns()])?
        } else {
            created
        };
        ensure!(refused.code == 1 && refused.stderr.contains("ovb77"), "{refused:?}");
        if let Some(lines) = difference(&before, &of_strangers(&a)?) {
            bail!("it was touched:\n{lines}");
        }
        Ok(())
    })
}

#[test]
fn teardown_leaves_nothing_of_ours_and_everything_else() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = [lab.host("a")?, lab.host("b")?];
        settle(&a)?;
        let before = a.snapshot()?;
        a.start()?;
        b.start_with(&overlay_tests::DaemonOptions {
            join: vec![format!("{}:7946", a.address())],
            ..Default::default()
        })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        for (name, vni, subnet) in [("demo", 4097, "10.9.0.0/24"), ("red", 4098, "10.8.0.0/24")] {
            a.net_create(name, NetSpec { vni, subnets: &[subnet], ..DEMO })?;
            b.knows_net(name)?;
            let one = a.attach(name, &format!("{name}-1"))?;
            a.attach(name, &format!("{name}-2"))?;
            one.ping(b.attach(name, &format!("{name}-3"))?.ip())?;
        }
        ensure!(a.our_links()?.len() >= 8, "{:?}", a.our_links()?);

        // SIGTERM leaves forwarding in place; teardown takes it away, and says so twice.
        a.stop()?;
        ensure!(a.our_links()?.len() >= 8, "{:?}", a.our_links()?);
        for _ in 0..2 {
            let out = a.overlayd(&["teardown", "--state-dir", &a.state_dir().to_string_lossy()])?;
            ensure!(out.code == 0, "{out:?}");
            if let Some(lines) = difference(&before, &a.snapshot()?) {
                bail!("teardown left, or took:\n{lines}");
            }
        }
        Ok(())
    })
}
