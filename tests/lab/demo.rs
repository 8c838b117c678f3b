//! `make demo`, the first thing that anybody runs: it shows what it promises,
//! and leaves nothing behind, also when it is cut short.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use overlay_tests::binaries::{binaries, check_machine};
use overlay_tests::{eventually, shell};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo.sh");

/// A demo that nobody else's can be mistaken for, and its name.
fn demo() -> Result<(Child, String)> {
    check_machine()?;
    let bin = binaries()?.overlayd.parent().context("a program is in a directory")?;
    let number = std::process::id().to_string();
    let child = Command::new("timeout")
        .args(["--kill-after=5", "120", "bash", SCRIPT, "up"])
        .env("OVERLAY_DEMO_PREPARED", "1")
        .env("OVERLAY_DEMO_NUMBER", &number)
        .env("OVERLAY_BIN_DIR", bin)
        .env_remove("KEEP")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start timeout")?;
    Ok((child, format!("ovdemo{number}")))
}

fn leaves_nothing(name: &str) -> Result<()> {
    ensure!(!Path::new("/tmp").join(name).exists(), "/tmp/{name} is left");
    for entry in std::fs::read_dir("/run/netns")? {
        let netns = entry?.file_name();
        let netns = netns.to_string_lossy();
        ensure!(!netns.starts_with(&format!("{name}-")), "namespace {netns} is left");
    }
    Ok(())
}

#[test]
fn the_demo_shows_pings_tcp_entries_and_a_packet_and_cleans_up() -> Result<()> {
    let (child, name) = demo()?;
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(
        out.status.success(),
        "{}\n{said}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    ensure!(said.matches(" 0% packet loss").count() == 6, "six pings without loss:\n{said}");
    for wanted in [
        "Gbits/sec",
        "dst 192.0.2.2 self permanent",
        "VXLAN Network Identifier (VNI): 4097",
        "Dst Port: 4789",
        "ARP packets inside VXLAN: 0",
        "done in ",
    ] {
        ensure!(said.contains(wanted), "`{wanted}` is not in:\n{said}");
    }
    leaves_nothing(&name)
}

#[test]
fn a_demo_that_is_cut_short_cleans_up_too() -> Result<()> {
    let (mut child, name) = demo()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let mut said = String::new();
    // Its daemons run, its network is about to be made.
    while !said.contains("A network, created") {
        ensure!(lines.read_line(&mut said)? > 0, "it ended early:\n{said}");
    }
    // `timeout` passes it on.
    shell::signal(&child, Signal::SIGTERM)?;
    lines.read_to_string(&mut said)?;
    let status = child.wait()?;
    ensure!(!status.success(), "{status}");
    let mut errors = String::new();
    child.stderr.take().context("stderr is piped")?.read_to_string(&mut errors)?;
    eventually("it has cleaned up", || leaves_nothing(&name))
        .with_context(|| format!("it ended with {status}:\n{said}\n{errors}"))
}
