//! The wall clock of a host jumps by hours, while packets run.
//!
//! ```text
//!   c1 ── host a, its clock at +0, +10 h, -10 h ──── underlay ──── host b ── c2
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{DaemonOptions, Lab, NetSpec, eventually, holds_for};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// What gives a process a wall clock of its own.
fn libfaketime() -> Result<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let all = dirs.chain([Path::new("/usr/lib").to_owned()]);
    all.map(|dir| dir.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .context("no libfaketimeMT.so.1 under /usr/lib; try: apt-get install faketime")
}

#[test]
fn a_clock_that_jumps_by_hours_both_ways_changes_nothing() -> Result<()> {
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let clock = a.dir().join("clock");
        // Renamed into place: the daemon reads it at any moment.
        let jump = |text: &str| -> Result<()> {
            let new = clock.with_extension("new");
            std::fs::write(&new, text)?;
            Ok(std::fs::rename(&new, &clock)?)
        };
        jump("+0\n")?;
        let env = vec![
            ("LD_PRELOAD", libfaketime()?.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let join = |host: &overlay_tests::Host| vec![format!("{}:7946", host.address())];
        a.start_with(&DaemonOptions { env, ..DaemonOptions::default() })?;
        b.start_with(&DaemonOptions { join: join(&a), ..DaemonOptions::default() })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        c1.ping(c2.ip())?;
        let stream = c1.ping_stream(c2.ip())?;

        for (n, hours) in [10i64, -10, 0].into_iter().enumerate() {
            jump(&format!("{hours:+}h\n"))?;
            holds_for(Duration::from_secs(4), "the hosts hear each other", || {
                for (host, other) in [(&a, "b"), (&b, "a")] {
                    let seen = host.host_seen(other)?;
                    ensure!(seen.state == "up" && seen.entries_in_use, "{seen:?}");
                }
                Ok(())
            })?;
            // A definition of each is seen and removed by the other.
            for (n, (maker, other)) in [(2 * n, (&a, &b)), (2 * n + 1, (&b, &a))] {
                let name = format!("n{n}");
                let net = maker.net_create(&name, NetSpec::default())?;
                other.knows_net(&name)?;
                // Stamps follow what was seen, so that only a fast clock shows in them.
                if hours > 0 && maker.name() == "a" {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                    let off = Duration::from_millis(net.created_ms).saturating_sub(now);
                    ensure!(off.as_secs().abs_diff(36_000) < 60, "the clock is off by {off:?}");
                }
                let removed = other.ctl(&["net", "rm", &name])?;
                ensure!(removed.code == 0, "{removed:?}");
                for host in [&a, &b] {
                    eventually("it is removed everywhere", || {
                        let nets = host.networks()?;
                        ensure!(nets.iter().all(|net| net.name != name), "{nets:?}");
                        Ok(())
                    })?;
                }
            }
            let more = a.attach("demo", &format!("m{n}"))?;
            more.ping(c2.ip())?;
        }
        // A start with a clock that is behind that of the life before.
        jump("-10h\n")?;
        a.kill()?;
        a.start()?;
        b.sees("a", "up")?;
        let later = a.attach("demo", "later")?;
        later.ping(c2.ip())?;
        stream.stop()?.expect_lossless("the clock of a jumped by ten hours, four times")
    })
}
