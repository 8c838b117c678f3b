//! The disk of the state directory is read-only, full, or somebody else's: what is said,
//! and that nothing is lost of what was acknowledged, nor of packets.
//!
//! ```text
//!   c1 ── host a ── c2      the state directory of a is a file system of 6 MiB
//!    └ a hundred pings a second ┘
//! ```

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{Container, DaemonOptions, Host, Lab, NetSpec, PingStream, eventually, shell};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// A small file system, until it is dropped.
struct Small(PathBuf);

impl Small {
    fn on(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        shell::run(&format!("mount -t tmpfs -o size=6m,mode=0700 tmpfs {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn remount(&self, how: &str) -> Result<()> {
        shell::run(&format!("mount -o remount,{how} {}", self.0.display())).map(drop)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = shell::run(&format!("umount -l {}", self.0.display()));
    }
}

/// A host with two containers that talk, on a disk of its own.
fn talking(lab: &Lab) -> Result<(Host, Small, [Container; 2], PingStream)> {
    let a = lab.host("a")?;
    let small = Small::on(a.state_dir())?;
    a.start()?;
    a.net_create("demo", DEMO)?;
    let (c1, c2) = (a.attach("demo", "c1")?, a.attach("demo", "c2")?);
    c1.ping(c2.ip())?;
    a.at_rest()?;
    let stream = c1.ping_stream(c2.ip())?;
    Ok((a, small, [c1, c2], stream))
}

/// It ends at once with exit code 1, and says this in one line.
fn does_not_start(a: &Host, all_of: &[&str]) -> Result<()> {
    let args = a.daemon_args(&DaemonOptions::default());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = a.overlayd(&args)?;
    let last = out.stderr.lines().last().unwrap_or_default();
    ensure!(out.code == 1, "{out:?}");
    ensure!(last.starts_with("overlayd: "), "{out:?}");
    for part in all_of {
        ensure!(last.contains(part), "{part} is not in: {last}");
    }
    Ok(())
}

/// All is there again, and in hand.
fn is_as_before(a: &Host, stream: PingStream, what: &str) -> Result<()> {
    a.knows_all()?;
    a.at_rest()?;
    let names: Vec<String> = a.endpoints()?.into_iter().filter_map(|e| e.name).collect();
    ensure!(names.len() == 2, "{names:?}");
    stream.answers(50)?;
    stream.stop()?.expect_lossless(what)?;
    a.attach("demo", "c3")?;
    a.detach("c3")
}

fn bytes(dir: &Path) -> Result<Vec<u8>> {
    fs::read(dir.join("state.redb")).context("the state file is there")
}

#[test]
fn on_a_read_only_disk_it_does_not_start_and_says_why() -> Result<()> {
    Lab::run(|lab| {
        let (a, small, _containers, stream) = talking(lab)?;
        a.kill()?;
        small.remount("ro")?;
        let before = bytes(&small.0)?;
        let advice = "the file system is read-only: remount it, or choose another directory with";
        does_not_start(&a, &["Read-only file system", advice, &small.0.display().to_string()])?;
        ensure!(bytes(&small.0)? == before, "it was written to");
        small.remount("rw")?;
        a.start()?;
        is_as_before(&a, stream, "the disk was read-only at a start")
    })
}

#[test]
fn a_state_directory_or_file_of_another_user_is_refused() -> Result<()> {
    Lab::run(|lab| {
        let (a, small, _containers, stream) = talking(lab)?;
        a.kill()?;
        for path in [small.0.clone(), small.0.join("state.redb"), small.0.join("host-id")] {
            chown(&path, Some(65534), Some(65534))?;
            let said = format!("{} belongs to uid 65534", path.display());
            let advice = format!("chown -R 0 {}", small.0.display());
            does_not_start(&a, &[&said, &advice, "--state-dir"])?;
            // As it says.
            shell::run(&format!("chown -R 0 {}", small.0.display()))?;
        }
        a.start()?;
        is_as_before(&a, stream, "the state directory was another's")
    })
}

#[test]
fn a_disk_that_fills_up_or_becomes_read_only_refuses_changes_and_recovers() -> Result<()> {
    Lab::run(|lab| {
        let (a, small, _containers, stream) = talking(lab)?;
        let labels = format!("x={}", "y".repeat(390));
        let add = |n: u32| {
            let mac = format!("02:00:00:00:{:02x}:{:02x}", n >> 8, n & 255);
            let ip = format!("10.9.0.{}", 10 + n);
            let args = ["--mac", &mac, "--ip", &ip, "--label", &labels];
            a.ctl(&[&["endpoint", "add", "--net", "demo"][..], &args].concat())
        };
        // The file has some room of its own.
        let ballast = small.0.join("ballast");
        let _ = fs::write(&ballast, vec![0; 8 << 20]);
        let mut refused = None;
        let mut added = 0;
        for n in 0..200 {
            let out = add(n)?;
            if out.code != 0 {
                refused = Some(out.stderr);
                break;
            }
            added = n + 1;
        }
        let refused = refused.context("the disk was never full")?;
        for part in ["cannot write the state file", "the disk is full", "nothing was changed"] {
            ensure!(refused.contains(part), "{part} is not in: {refused}");
        }
        let count = || Ok::<_, anyhow::Error>(a.endpoints()?.len());
        ensure!(count()? == 2 + added as usize);

        small.remount("ro")?;
        let refused = add(added)?;
        ensure!(refused.code != 0, "{refused:?}");
        for part in ["Read-only file system", "remount it", "nothing was changed"] {
            ensure!(refused.stderr.contains(part), "{part} is not in: {}", refused.stderr);
        }
        let refused = a.ctl(&["detach", "c1"])?;
        ensure!(refused.code != 0 && refused.stderr.contains("nothing was changed"), "{refused:?}");
        ensure!(a.ctl(&["net", "create", "other"])?.code != 0);
        ensure!(count()? == 2 + added as usize);

        // Mended, and nobody had to start anything.
        small.remount("rw")?;
        fs::remove_file(&ballast)?;
        eventually("changes are taken again", || {
            let out = add(added)?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })?;
        stream.answers(50)?;
        stream.stop()?.expect_lossless("the disk was full, then read-only")?;
        // And all that was acknowledged is there after a crash.
        a.kill()?;
        a.start()?;
        ensure!(count()? == 3 + added as usize);
        a.detach("c1")
    })
}
