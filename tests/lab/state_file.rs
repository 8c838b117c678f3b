//! The state file is damaged, deleted, or finds no room: packets do not notice,
//! and nothing that was acknowledged is lost.
//!
//! ```text
//!   c1, c3 ── host a 192.0.2.1 ──── underlay ──── host b 192.0.2.2 ── c2
//!      └ pings ┘     └ a hundred pings a second, all the time ┘
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use overlay_api::v1;
use overlay_tests::{Host, Lab, NetSpec, eventually, shell};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// What others can tell of a host: who it is, what it has and owns.
#[derive(Debug, PartialEq)]
struct Known {
    id: String,
    endpoints: BTreeSet<(String, String, Vec<String>)>,
    owned: Vec<(String, String)>,
    links: Vec<(String, u32)>,
}

fn known(host: &Host, by: &Host) -> Result<Known> {
    let endpoints = by.endpoints()?.into_iter().filter(|e| e.host == host.name());
    let of = |e: v1::Endpoint| (e.id, e.mac, e.ips.iter().map(ToString::to_string).collect());
    let [ranges] = by.ctl_json::<[Vec<v1::IpamRanges>; 1]>(&["ipam", "show", "demo"])?;
    let ranges = ranges.into_iter().flat_map(|subnet| subnet.ranges);
    let owned = ranges.filter(|range| range.owner.as_deref() == Some(host.name()));
    Ok(Known {
        id: by.host_seen(host.name())?.id,
        endpoints: endpoints.map(of).collect(),
        owned: owned.map(|r| (r.first.to_string(), r.last.to_string())).collect(),
        links: host.our_links()?,
    })
}

/// Kills the daemon of a host that is talked to, has `damage` done to its state
/// file, and starts it again.
fn is_not_felt(what: &str, damage: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let (c1, c2, c3) =
            (a.attach("demo", "c1")?, b.attach("demo", "c2")?, a.attach("demo", "c3")?);
        c1.ping(c2.ip())?;
        c1.ping(c3.ip())?;
        a.at_rest()?;
        b.at_rest()?;
        let before = known(&a, &b)?;
        let streams =
            [c1.ping_stream(c2.ip())?, c2.ping_stream(c1.ip())?, c1.ping_stream(c3.ip())?];

        a.kill()?;
        damage(&a.state_dir().join("state.redb"))?;
        a.start()?;

        lab.all_up(&[a.clone(), b.clone()])?;
        a.knows_all()?;
        b.knows_all()?;
        // Only then would it delete what it does not know.
        eventually("its view is complete", || {
            ensure!(a.status()?.view_complete);
            Ok(())
        })?;
        a.at_rest()?;
        eventually("all is as it was", || {
            let after = known(&a, &b)?;
            ensure!(after == before, "{before:#?} was, {after:#?} is");
            Ok(())
        })?;
        streams[0].answers(50)?;
        for stream in streams {
            stream.stop()?.expect_lossless(what)?;
        }
        let log = a.log_tail(2000);
        ensure!(log.contains("has been written anew from its copy"), "{log}");
        eventually("the audit is content", || {
            let audit = a.ctl(&["ipam", "check"])?;
            ensure!(audit.code == 0, "{audit:?}");
            Ok(())
        })?;
        // It is in hand, and no address is given twice.
        let c4 = a.attach("demo", "c4")?;
        ensure!([&c1, &c2, &c3].iter().all(|c| c.ip() != c4.ip()), "{}", c4.ip());
        c4.ping(c2.ip())?;
        a.detach("c3")
    })
}

fn aside(file: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(file.parent().unwrap_or(file)).into_iter().flatten().flatten();
    all.map(|e| e.path()).filter(|p| p.to_string_lossy().contains(".damaged-")).collect()
}

#[test]
fn garbage_in_the_state_file_loses_no_packet_and_nothing_else() -> Result<()> {
    is_not_felt("the state file was garbage", |file| {
        let len = fs::metadata(file)?.len() as usize;
        fs::write(file, vec![b'x'; len])?;
        ensure!(aside(file).is_empty());
        Ok(())
    })
}

#[test]
fn a_truncated_state_file_loses_no_packet_and_nothing_else() -> Result<()> {
    is_not_felt("the state file was cut", |file| {
        let bytes = fs::read(file)?;
        Ok(fs::write(file, &bytes[..bytes.len() / 3])?)
    })
}

#[test]
fn a_deleted_state_file_loses_no_packet_and_nothing_else() -> Result<()> {
    is_not_felt("the state file was deleted", |file| Ok(fs::remove_file(file)?))
}

/// A small file system, until it is dropped.
struct Small(PathBuf);

impl Small {
    fn on(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        shell::run(&format!("mount -t tmpfs -o size=6m tmpfs {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = shell::run(&format!("umount -l {}", self.0.display()));
    }
}

#[test]
fn a_full_disk_refuses_and_keeps_all_that_was_acknowledged() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let small = Small::on(a.state_dir())?;
        a.start()?;
        a.net_create("demo", DEMO)?;
        let ballast = small.0.join("ballast");
        let add = |n: u32| {
            let (mac, ip) = (format!("02:00:00:00:00:{n:02x}"), format!("10.9.0.{n}"));
            a.ctl(&["endpoint", "add", "--net", "demo", "--mac", &mac, "--ip", &ip])
        };
        let mut acknowledged = BTreeSet::new();
        for n in 10..40 {
            ensure!(add(n)?.code == 0, "there is room");
            acknowledged.insert(format!("02:00:00:00:00:{n:02x}"));
        }
        // All that is left is taken; the file has some room of its own.
        let _ = fs::write(&ballast, vec![0; 8 << 20]);
        let labels = format!("x={}", "y".repeat(390));
        let mut refused = None;
        for n in 0..4000u32 {
            let mac = format!("02:00:00:01:{:02x}:{:02x}", n >> 8, n & 255);
            let ip = format!("10.9.0.{}", 100 + n % 100);
            let said = a.ctl(&[
                "endpoint", "add", "--net", "demo", "--mac", &mac, "--ip", &ip, "--label", &labels,
            ])?;
            if said.code != 0 {
                refused = Some(said.stderr);
                break;
            }
            acknowledged.insert(mac.clone());
            if n >= 90 {
                let out = a.ctl(&["endpoint", "rm", &mac])?;
                if out.code != 0 {
                    refused = Some(out.stderr);
                    break;
                }
                acknowledged.remove(&mac);
            }
        }
        let macs = || -> Result<BTreeSet<String>> {
            Ok(a.endpoints()?.into_iter().map(|e| e.mac).collect())
        };
        if let Some(refused) = &refused {
            ensure!(refused.contains("cannot write the state file"), "{refused}");
            ensure!(refused.contains("nothing was changed"), "{refused}");
        }
        ensure!(macs()? == acknowledged);
        a.kill()?;
        fs::remove_file(&ballast)?;
        a.start()?;
        ensure!(macs()? == acknowledged, "{:?} instead of {acknowledged:?}", macs()?);
        ensure!(refused.is_some(), "the disk was never full");
        ensure!(add(50)?.code == 0, "there is room again");
        a.stop()
    })
}
