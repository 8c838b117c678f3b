//! Captures on the underlay, and their decoding by tshark.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::shell::{command_in, signal};
use crate::wait::eventually;

/// The address that a capture's end marker is sent to.
const BROADCAST: &str = "192.0.2.255";

/// A capture that runs, on a device of the underlay's namespace.
///
/// Its end is exact: [`Capture::finish`] sends a marked broadcast through the
/// underlay, and returns when that has been captured. What was on the wire
/// before is then in the file, so that "there is no such frame" can be said.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    underlay: String,
    file: PathBuf,
}

/// A finished capture.
#[derive(Debug)]
pub struct Frames {
    file: PathBuf,
}

/// One frame, as tshark sums it up in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(pub String);

impl Capture {
    /// Captures on `dev` of the namespace `underlay` into `file`; returns when
    /// it has begun.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub fn start(underlay: &str, dev: &str, file: PathBuf) -> Result<Self> {
        let log = file.with_extension("log");
        let child = command_in(underlay, "tcpdump")
            .args([
                "-i",
                dev,
                "-n",
                "-U",
                "--immediate-mode",
                "-B",
                "65536",
                "-s",
                "0",
                "-Z",
                "root",
                "-w",
            ])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start tcpdump")?;
        let capture = Self { child, underlay: underlay.to_owned(), file };
        eventually(&format!("tcpdump captures on {dev}"), || {
            let said = std::fs::read_to_string(&log)?;
            if said.contains("listening on") { Ok(()) } else { bail!("it says: {said}") }
        })?;
        Ok(capture)
    }

    /// Ends the capture, with all frames that were on the wire until now.
    ///
    /// # Errors
    /// If the marker is not captured, or tcpdump dropped frames.
    pub fn finish(mut self) -> Result<Frames> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mark = format!("MK{:06x}", NEXT.fetch_add(1, Ordering::Relaxed) & 0xff_ffff);
        let hex: String = mark.bytes().map(|b| format!("{b:02x}")).collect();
        let mut marker = command_in(&self.underlay, "ping");
        marker.args(["-b", "-c", "1", "-W", "0.1", "-s", "40", "-p", &hex, BROADCAST]);
        eventually("the end marker is in the capture", || {
            // Nobody answers a broadcast: that ping ends with 1 is as it should be.
            let said = marker.output()?;
            let bytes = std::fs::read(&self.file)?;
            if bytes.windows(mark.len()).any(|w| w == mark.as_bytes()) {
                return Ok(());
            }
            bail!("{} bytes without it; ping says {said:?}", bytes.len())
        })?;
        signal(&self.child, Signal::SIGINT)?;
        self.child.wait()?;
        let said = std::fs::read_to_string(self.file.with_extension("log"))?;
        if !said.lines().any(|l| l.starts_with("0 packets dropped by kernel")) {
            bail!("the capture is not complete: {said}");
        }
        Ok(Frames { file: self.file.clone() })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = signal(&self.child, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Frames {
    /// The frames that match a display filter of Wireshark, such as
    /// `vxlan && arp`. The markers of captures never match.
    ///
    /// # Errors
    /// If tshark does not understand the filter.
    pub fn matching(&self, filter: &str) -> Result<Vec<Frame>> {
        Ok(self.tshark(filter, &[])?.lines().map(|l| Frame(l.trim().to_owned())).collect())
    }

    /// The values of `fields` (`udp.dstport`, `vxlan.vni`) in each frame that
    /// matches `filter`, first occurrence: the outer one.
    ///
    /// # Errors
    /// If tshark does not know the filter or a field.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut args = vec!["-T", "fields", "-E", "occurrence=f"];
        for field in fields {
            args.extend(["-e", field]);
        }
        Ok(self
            .tshark(filter, &args)?
            .lines()
            .map(|l| l.split('\t').map(str::to_owned).collect())
            .collect())
    }

    /// Fails with the first frames if any matches `filter`.
    ///
    /// # Errors
    /// If any does.
    pub fn expect_none(&self, claim: &str, filter: &str) -> Result<()> {
        let found = self.matching(filter)?;
        if found.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = found.iter().take(5).map(|f| f.0.as_str()).collect();
        bail!("{claim}: but {} frames match `{filter}`:\n{}", found.len(), shown.join("\n"))
    }

    /// Fails unless a frame matches `filter`: what a negative claim rests on.
    ///
    /// # Errors
    /// If none does.
    pub fn expect_some(&self, claim: &str, filter: &str) -> Result<Vec<Frame>> {
        let found = self.matching(filter)?;
        if found.is_empty() {
            let all = self.matching("frame")?;
            let shown: Vec<&str> = all.iter().take(10).map(|f| f.0.as_str()).collect();
            bail!(
                "{claim}: but none of {} frames matches `{filter}`; the first are:\n{}",
                all.len(),
                shown.join("\n")
            );
        }
        Ok(found)
    }

    /// The file, in pcap format.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn tshark(&self, filter: &str, args: &[&str]) -> Result<String> {
        let filter = format!("({filter}) && !(ip.dst == {BROADCAST})");
        let output = Command::new("tshark")
            .args(["-n", "-d", "udp.port==4789,vxlan", "-r"])
            .arg(&self.file)
            .args(["-Y", &filter])
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .context("cannot start tshark")?;
        if !output.status.success() {
            bail!("tshark -Y '{filter}': {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
