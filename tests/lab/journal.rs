//! What a daemon did, done again from its journal.
//!
//! ```text
//!   host a: overlayd --journal FILE, c1 and c2 attached, kill -9
//!   overlayd replay FILE: the commands of the attaches
//! ```

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{DaemonOptions, Lab, NetSpec};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

#[test]
fn what_a_killed_daemon_did_is_replayed_and_so_is_half_a_journal() -> Result<()> {
    Lab::run(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let path = a.dir().join("journal");
        let journal = path.display().to_string();
        a.start_with(&DaemonOptions {
            extra: vec!["--journal".into(), journal.clone()],
            ..DaemonOptions::default()
        })?;
        b.start_with(&DaemonOptions {
            join: vec![format!("{}:7946", a.address())],
            ..DaemonOptions::default()
        })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        a.net_create("demo", DEMO)?;
        let (c1, c2) = (a.attach("demo", "c1")?, a.attach("demo", "c2")?);
        b.knows_net("demo")?;
        b.attach("demo", "c3")?.ping(c1.ip())?;
        a.kill()?;
        a.start()?;
        a.detach("c2")?;
        a.kill()?;

        let whole = a.overlayd(&["replay", &journal])?;
        ensure!(whole.code == 0, "{}", whole.stderr);
        for c in [&c1, &c2] {
            let made = format!(
                "netns {} address {}",
                c.endpoint().netns.clone().context("it is local")?,
                c.mac()
            );
            ensure!(whole.stdout.contains(&made), "no {made} in {}", whole.stdout);
        }
        let starts = whole.stdout.matches(" starts as a\n").count();
        ensure!(starts == 2, "{starts} lives in {}", whole.stdout);

        let bytes = std::fs::read(&path)?;
        std::fs::write(&path, &bytes[..bytes.len() - 20])?;
        let cut = a.overlayd(&["replay", &journal])?;
        ensure!(cut.code == 0 && cut.stderr.contains("1 lines of the journal were cut"), "{cut:?}");

        let text = String::from_utf8(bytes)?;
        std::fs::write(&path, text.replace("10.9.0.0/24", "10.8.0.0/24"))?;
        let altered = a.overlayd(&["replay", &journal])?;
        ensure!(altered.code == 1, "{}", altered.stderr);
        ensure!(altered.stderr.contains("had other effects"), "{}", altered.stderr);
        Ok(())
    })
}
