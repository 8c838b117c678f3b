//! What stands in the outer headers of VXLAN packets is what the operator said.
//!
//! ```text
//!   c1 ── host a (as told) ──── underlay, captured ──── host b (by default) ── c2
//! ```

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{Container, DaemonOptions, Host, Lab, Vtep, eventually};

const TOLD: [&str; 5] = [
    "--vxlan-checksum=false",
    "--vxlan-source-ports=50000-50999",
    "--vxlan-df=set",
    "--vxlan-ttl=9",
    "--vxlan-dscp=46",
];

fn options(extra: &[&str]) -> DaemonOptions {
    DaemonOptions {
        extra: extra.iter().map(|flag| (*flag).to_owned()).collect(),
        ..DaemonOptions::default()
    }
}

/// The outer headers of what each host sends while the containers talk: checksum, source port,
/// DF, TTL and DSCP of each packet, those of a first.
fn headers(lab: &Lab, hosts: &[Host; 2], [c1, c2]: &[Container; 2]) -> Result<[Vec<[u32; 5]>; 2]> {
    let capture = lab.capture()?;
    for _ in 0..3 {
        c1.ping(c2.ip())?;
    }
    let frames = capture.finish()?;
    let mut seen = [Vec::new(), Vec::new()];
    for (host, seen) in hosts.iter().zip(&mut seen) {
        let filter = format!("udp.dstport == 4789 && ip.src == {}", host.address());
        let fields = ["udp.checksum", "udp.srcport", "ip.flags.df", "ip.ttl", "ip.dsfield.dscp"];
        for row in frames.fields(&filter, &fields)? {
            // Of packets in packets tshark prints one value each, the outer first.
            let number = |text: &String| -> Result<u32> {
                let outer = text.split(',').next().unwrap_or_default();
                Ok(match (outer.strip_prefix("0x"), outer) {
                    (Some(hex), _) => u32::from_str_radix(hex, 16)?,
                    (None, "True") => 1,
                    (None, "False") => 0,
                    (None, plain) => plain.parse()?,
                })
            };
            let row = row.iter().map(number).collect::<Result<Vec<_>>>()?;
            seen.push(row.try_into().ok().context("five fields")?);
        }
        ensure!(seen.len() >= 3, "{} sent {seen:?}", host.name());
    }
    Ok(seen)
}

#[test]
fn what_was_told_stands_in_every_packet_and_by_default_what_the_kernel_writes() -> Result<()> {
    Lab::run(|lab| {
        let (hosts, containers) = lab.talking(lab.host("a")?, &options(&TOLD))?;
        let [told, by_default] = headers(lab, &hosts, &containers)?;
        for packet in told {
            let [checksum, port, df, ttl, dscp] = packet;
            ensure!(checksum == 0 && (50000..51000).contains(&port), "{packet:?}");
            ensure!((df, ttl, dscp) == (1, 9, 46), "{packet:?}");
        }
        for packet in by_default {
            let [checksum, _, df, ttl, dscp] = packet;
            ensure!(checksum != 0 && (df, ttl, dscp) == (0, 64, 0), "{packet:?}");
        }
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_told_otherwise_changes_its_devices_when_it_starts() -> Result<()> {
    Lab::run(|lab| {
        let (hosts, containers) = lab.talking(lab.host("a")?, &options(&[]))?;
        let [a, _b] = &hosts;
        let index = a.link("ovx4097")?.ifindex;
        // In place, and nothing is lost.
        let stream = containers[1].ping_stream(containers[0].ip())?;
        a.stop()?;
        a.start_with(&options(&["--vxlan-dscp=46", "--vxlan-ttl=9"]))?;
        eventually("the device is as told", || {
            let shown = a.exec("ip -d link show ovx4097")?;
            ensure!(shown.contains("ttl 9 ") && shown.contains("tos 0xb8 "), "{shown}");
            Ok(())
        })?;
        stream.answers(10)?;
        stream.stop()?.expect_lossless("a change of DSCP and TTL loses no packet")?;
        ensure!(a.link("ovx4097")?.ifindex == index, "the device was made anew");

        // Another hand is not the operator's word.
        a.exec("ip link set ovx4097 type vxlan ttl 3 df set")?;
        eventually("the device is as told again", || {
            let shown = a.exec("ip -d link show ovx4097")?;
            ensure!(shown.contains("ttl 9 ") && !shown.contains("df set"), "{shown}");
            Ok(())
        })?;
        ensure!(a.link("ovx4097")?.ifindex == index, "the device was made anew");

        // What the kernel does not change takes another device.
        a.stop()?;
        a.start_with(&options(&TOLD))?;
        eventually("the device is as told", || {
            let shown = a.exec("ip -d link show ovx4097")?;
            ensure!(
                shown.contains("noudpcsum") && shown.contains("srcport 50000 50999"),
                "{shown}"
            );
            Ok(())
        })?;
        containers[0].ping(containers[1].ip())?;
        containers[1].ping(containers[0].ip())?;
        a.at_rest()
    })
}

/// Whether the network card is to write the checksums of what `ovx4097` of a host carries.
fn offloads(host: &Host) -> Result<bool> {
    let shown = host.exec("ethtool -k ovx4097")?;
    Ok(shown.contains("tx-checksum-ip-generic: on"))
}

#[test]
fn the_kernel_writes_checksums_where_the_network_card_is_not_trusted() -> Result<()> {
    Lab::run(|lab| {
        let (hosts, containers) =
            lab.talking(lab.host("a")?, &options(&["--vxlan-tx-checksum=off"]))?;
        let [a, b] = &hosts;
        ensure!(!offloads(a)? && offloads(b)?, "a was told, b was not");
        // Another hand: told of and put back.
        a.exec("ethtool -K ovx4097 tx-checksum-ip-generic on")?;
        eventually("it is off again", || {
            ensure!(!offloads(a)?);
            Ok(())
        })?;
        // A device made anew has it by default.
        a.exec("ip link del ovx4097")?;
        eventually("the device is back and as told", || {
            ensure!(!offloads(a)?);
            Ok(())
        })?;
        containers[0].ping(containers[1].ip())?;
        a.at_rest()?;

        // What was off stays off where nothing is said of it: somebody may have meant it.
        a.stop()?;
        a.start_with(&options(&[]))?;
        a.at_rest()?;
        ensure!(!offloads(a)?, "it was changed");
        a.stop()?;
        a.start_with(&options(&["--vxlan-tx-checksum=on"]))?;
        eventually("it is on", || {
            ensure!(offloads(a)?);
            Ok(())
        })
    })
}

#[test]
fn without_a_checksum_over_ipv6_no_daemon_starts() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let options = DaemonOptions { vtep: Vtep::V6, ..options(&["--vxlan-checksum=false"]) };
        let args = a.daemon_args(&options);
        let said = a.overlayd(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        ensure!(said.code == 1, "{said:?}");
        ensure!(said.stderr.contains("vxlan-checksum=false needs IPv4 VTEPs"), "{said:?}");
        ensure!(a.our_links()?.is_empty(), "{:?}", a.our_links()?);
        Ok(())
    })
}
