//! More neighbours than the kernel has room for: what the operator is told.
//!
//! ```text
//!   host a: eth0 ── 1,024 neighbours of others ── underlay
//! ```
//!
//! The table is one for the whole machine: for a moment nobody on it finds a
//! new neighbour. So this is a lab of its own, beside which no other runs
//! (`.config/nextest.toml`).

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::shell::script_in;
use overlay_tests::{Lab, eventually};

#[test]
fn a_neighbour_table_that_is_full_is_told_with_what_helps() -> Result<()> {
    const THRESHOLD: &str = "/proc/sys/net/ipv4/neigh/default/gc_thresh3";
    let threshold = std::fs::read_to_string(THRESHOLD).context(THRESHOLD)?;
    let threshold: u32 = threshold.trim().parse()?;
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let says = |text: &str| -> Result<Option<String>> {
            Ok(a.status()?.warnings.into_iter().find(|warning| warning.contains(text)))
        };
        ensure!(says("table is full")?.is_none(), "it is full before we fill it");

        let (mut add, mut del) = (String::new(), String::new());
        for n in 0..threshold + 200 {
            let [_, x, y, z] = n.to_be_bytes();
            let _ = writeln!(
                add,
                "neigh replace 10.{x}.{y}.{z} lladdr 02:cc:00:{x:02x}:{y:02x}:{z:02x} \
                 dev eth0 nud reachable"
            );
            let _ = writeln!(del, "neigh del 10.{x}.{y}.{z} dev eth0");
        }
        let (adds, dels) = (a.dir().join("adds"), a.dir().join("dels"));
        std::fs::write(&adds, add)?;
        std::fs::write(&dels, del)?;
        let fill = format!(
            "ip -force -batch {} 2>&1 | grep -c 'No buffer space' || true\n\
             ip -force -batch {} 2>/dev/null || true",
            adds.display(),
            dels.display()
        );
        let refused = script_in(a.netns(), &fill)?;
        ensure!(refused.trim() != "0", "the kernel took {} neighbours", threshold + 200);

        eventually("a says so", || {
            let warning = says("ARP table is full")?.context("it does not")?;
            ensure!(warning.contains(&format!("at {threshold} entries")), "{warning}");
            let remedy = format!("sysctl -w net.ipv4.neigh.default.gc_thresh3={}", threshold * 4);
            ensure!(warning.contains(&remedy), "{warning}");
            Ok(())
        })?;
        let log = std::fs::read_to_string(a.log_file())?;
        ensure!(log.contains("ARP table is full"), "not in its log");
        eventually("b says so: it is one kernel", || {
            let warnings = b.status()?.warnings;
            ensure!(warnings.iter().any(|w| w.contains("ARP table is full")), "{warnings:?}");
            Ok(())
        })?;
        ensure!(says("ND table")?.is_none(), "that one has room");
        Ok(())
    })
}
