//! The daemon as a service: what it tells systemd and when, and its log for
//! machines.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{DaemonOptions, Lab, patience};

#[test]
fn systemd_is_told_ready_when_the_socket_answers_and_stopping_at_the_end() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let path = a.dir().join("notify");
        let notify = UnixDatagram::bind(&path)?;
        notify.set_read_timeout(Some(patience(Duration::from_secs(10))))?;
        let hears = || -> Result<String> {
            let mut text = [0; 512];
            let n = notify.recv(&mut text).context("nothing was told")?;
            Ok(String::from_utf8_lossy(&text[..n]).trim().to_owned())
        };
        a.spawn(&DaemonOptions { notify: Some(path.clone()), ..DaemonOptions::default() })?;
        let told = hears()?;
        ensure!(told == "READY=1", "{told}");
        // At the first try.
        let status = a.status()?;
        ensure!(status.desired_revision == status.applied_revision, "{status:?}");
        a.stop()?;
        let told = hears()?;
        ensure!(told == "STOPPING=1", "{told}");
        Ok(())
    })
}

#[test]
fn with_log_json_every_line_is_one_object() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let extra = vec!["--log".to_owned(), "json".to_owned()];
        a.start_with(&DaemonOptions { extra, ..DaemonOptions::default() })?;
        a.net_create("demo", overlay_tests::NetSpec::default())?;
        a.stop()?;
        let log = std::fs::read_to_string(a.log_file())?;
        let mut created = false;
        for line in log.lines() {
            let object: serde_json::Value =
                serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            for key in ["timestamp", "level", "target"] {
                ensure!(object[key].is_string(), "no {key} in {line}");
            }
            let message = object["fields"]["message"].as_str().context("no message")?;
            created |= message.contains("network demo");
        }
        ensure!(created, "nothing tells of the network:\n{log}");
        Ok(())
    })
}
