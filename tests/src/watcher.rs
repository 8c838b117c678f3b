//! `overlayctl watch`, running.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use overlay_api::v1::Event;

use crate::host::Host;
use crate::shell::signal;
use crate::wait::eventually;

/// An `overlayctl watch` whose output goes to files.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watcher {
    /// Starts it on `host`, with more arguments, into files of that name; it misses nothing
    /// from then on.
    ///
    /// # Errors
    /// If it cannot be started, or does not come to watch.
    pub fn start(host: &Host, name: &str, args: &[&str]) -> Result<Self> {
        let (out, err) = (host.dir().join(name), host.dir().join(format!("{name}.err")));
        let child = host
            .overlayctl()?
            .arg("watch")
            .args(args)
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        let watcher = Self { child, out, err };
        eventually("overlayctl watches", || {
            let said = watcher.complaints()?;
            ensure!(said.contains("# watching"), "{said}");
            Ok(())
        })?;
        Ok(watcher)
    }

    /// The events so far, of one that was started with `--json`; half a line is
    /// not yet one.
    ///
    /// # Errors
    /// If a line is no event.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = std::fs::read_to_string(&self.out)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits for an event that is `wanted`; says at which place it came.
    ///
    /// # Errors
    /// If it does not come; what has come instead.
    pub fn sees(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<(usize, Event)> {
        eventually(&format!("the watcher is told that {what}"), || {
            let all = self.events()?;
            let texts: Vec<_> = all.iter().map(|e| e.text.clone()).collect();
            let found = all.into_iter().enumerate().find(|(_, event)| wanted(event));
            found.with_context(|| format!("told {texts:#?}"))
        })
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it does not.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        eventually("overlayctl watch ends", || self.child.try_wait()?.context("it runs"))
    }

    /// What it has written to stdout.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn output(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.out)?)
    }

    /// What it has written to stderr.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn complaints(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.err)?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, s: Signal) -> Result<()> {
        signal(&self.child, s)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = signal(&self.child, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
