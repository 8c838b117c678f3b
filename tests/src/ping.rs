//! Pings: one answer now, none ever, or a stream that counts what is lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::shell::{command_in, run_in, signal};
use crate::wait::{DEFAULT_WAIT, eventually, eventually_within};

/// Waits until `ip` answers one ping from `netns`.
///
/// # Errors
/// If it does not before patience ends.
pub fn ping(netns: &str, ip: IpAddr) -> Result<()> {
    eventually(&format!("{ip} answers a ping from {netns}"), || ping_once(netns, ip))
}

/// One ping, one second: an error without an answer.
///
/// # Errors
/// If there is no answer.
pub fn ping_once(netns: &str, ip: IpAddr) -> Result<()> {
    run_in(netns, &format!("ping -n -c 1 -W 1 {ip}")).map(drop)
}

/// Fails if `ip` answers any of three pings from `netns` within a second:
/// to be asked only after something else has shown that answers would come.
///
/// # Errors
/// If it answers.
pub fn ping_unanswered(netns: &str, ip: IpAddr) -> Result<()> {
    match run_in(netns, &format!("ping -n -c 3 -i 0.1 -W 1 {ip}")) {
        Err(_) => Ok(()),
        Ok(said) => bail!("{ip} answers a ping from {netns}: {said}"),
    }
}

/// A ping with `size` bytes of payload that no router may cut: 8 bytes of
/// ICMP and 20 of IPv4 come on top.
///
/// # Errors
/// If there is no answer, with what ping said.
pub fn ping_unfragmented(netns: &str, ip: IpAddr, size: u16) -> Result<()> {
    run_in(netns, &format!("ping -n -c 1 -W 2 -M do -s {size} {ip}")).map(drop)
}

/// A hundred pings a second, until it is stopped.
#[derive(Debug)]
pub struct PingStream {
    child: Child,
    file: PathBuf,
}

/// What came of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingSummary {
    /// Requests that must have been answered: those up to the last answer, or
    /// all of them if answers had stopped coming.
    pub sent: u64,
    /// Distinct answers.
    pub received: u64,
    /// Answers that came twice.
    pub duplicates: u64,
    /// The longest run of unanswered requests, 10 ms each.
    pub longest_gap: u64,
}

impl PingSummary {
    /// Requests without an answer.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Fails unless every request had exactly one answer.
    ///
    /// # Errors
    /// Says how many were lost or doubled, and the longest gap.
    pub fn expect_lossless(&self, claim: &str) -> Result<()> {
        if self.lost() == 0 && self.duplicates == 0 && self.received > 0 {
            return Ok(());
        }
        bail!(
            "{claim}: but {} of {} pings were lost (longest gap {} ms), {} answered twice",
            self.lost(),
            self.sent,
            self.longest_gap * 10,
            self.duplicates
        )
    }
}

impl PingStream {
    /// Starts to ping `ip` from `netns`; returns when answers come.
    ///
    /// # Errors
    /// If none comes.
    pub fn start(netns: &str, ip: IpAddr, file: PathBuf) -> Result<Self> {
        let out = File::create(&file)?;
        // A line at a time, or answers would show up in blocks of 4 KiB.
        let child = command_in(netns, "stdbuf")
            .args(["-oL", "ping", "-n", "-i", "0.01"])
            .arg(ip.to_string())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("cannot start ping")?;
        let stream = Self { child, file };
        stream.answers(5)?;
        Ok(stream)
    }

    /// Waits for `n` more answers than there are now.
    ///
    /// # Errors
    /// If they do not come.
    pub fn answers(&self, n: u64) -> Result<()> {
        self.answers_within(DEFAULT_WAIT, n)
    }

    fn answers_within(&self, wait: Duration, n: u64) -> Result<()> {
        let count = || -> Result<u64> {
            Ok(std::fs::read_to_string(&self.file)?.matches("bytes from").count() as u64)
        };
        let before = count()?;
        eventually_within(wait, &format!("{n} more answers"), || match count()? - before {
            came if came >= n => Ok(()),
            came => bail!("{came} came"),
        })
    }

    /// Ends the stream and counts, once answers have come after this call: then
    /// all that was sent before it is decided, and what is on its way when ping
    /// ends is not taken for lost.
    ///
    /// # Errors
    /// If ping did not end with its summary.
    pub fn stop(mut self) -> Result<PingSummary> {
        let flows = self.answers_within(Duration::from_secs(2), 10).is_ok();
        signal(&self.child, Signal::SIGINT)?;
        self.child.wait()?;
        summary(&std::fs::read_to_string(&self.file)?, flows)
    }
}

impl Drop for PingStream {
    fn drop(&mut self) {
        let _ = signal(&self.child, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn summary(text: &str, flows: bool) -> Result<PingSummary> {
    let transmitted: u64 = text
        .lines()
        .find_map(|l| l.split_once(" packets transmitted").and_then(|(n, _)| n.trim().parse().ok()))
        .with_context(|| format!("ping did not end with a summary: {text}"))?;
    let mut seen = BTreeSet::new();
    let mut duplicates = 0;
    // The kernel's counter has 16 bits; a stream of minutes wraps it.
    let (mut rounds, mut last) = (0u64, 0u64);
    for line in text.lines().filter(|l| l.contains("bytes from")) {
        let seq: u64 = line
            .split_once("icmp_seq=")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("an answer without its number: {line}"))?;
        if last > 60_000 && seq < 5_000 {
            rounds += 1;
        }
        last = seq;
        if !seen.insert(rounds * 65_536 + seq) {
            duplicates += 1;
        }
    }
    let last_answer = seen.last().copied().unwrap_or(0);
    let sent = if flows { last_answer } else { transmitted };
    let mut longest_gap = 0;
    let mut before = 0;
    for seq in seen.iter().copied().chain([sent + 1]) {
        longest_gap = longest_gap.max(seq - before - 1);
        before = seq;
    }
    Ok(PingSummary { sent, received: seen.len() as u64, duplicates, longest_gap })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seqs: &[u64], transmitted: u64, flows: bool) -> PingSummary {
        let mut text = String::from("PING 10.9.0.2 (10.9.0.2) 56(84) bytes of data.\n");
        for seq in seqs {
            text += &format!("64 bytes from 10.9.0.2: icmp_seq={seq} ttl=64 time=0.1 ms\n");
        }
        text += &format!("\n{transmitted} packets transmitted, {} received\n", seqs.len());
        summary(&text, flows).unwrap()
    }

    #[test]
    fn requests_that_are_on_their_way_at_the_end_are_not_lost() {
        let all = of(&[1, 2, 3], 5, true);
        assert_eq!((all.sent, all.lost(), all.longest_gap), (3, 0, 0));
        all.expect_lossless("").unwrap();
    }

    #[test]
    fn a_stream_that_ended_in_silence_has_lost_its_end() {
        let silent = of(&[1, 2, 3], 5, false);
        assert_eq!((silent.sent, silent.lost(), silent.longest_gap), (5, 2, 2));
        assert!(silent.expect_lossless("").is_err());
    }

    #[test]
    fn gaps_in_the_middle_are_lost() {
        let some = of(&[1, 2, 6], 7, true);
        assert_eq!((some.sent, some.lost(), some.longest_gap), (6, 3, 3));
        assert!(some.expect_lossless("").is_err());
    }

    #[test]
    fn an_answer_that_came_twice_is_no_lossless_stream() {
        let twice = of(&[1, 2, 2, 3], 3, true);
        assert_eq!((twice.lost(), twice.duplicates), (0, 1));
        assert!(twice.expect_lossless("").is_err());
    }

    #[test]
    fn the_counter_may_wrap() {
        let seqs: Vec<u64> = (60_000..65_536).chain(0..10).collect();
        let wrapped = of(&seqs, 65_546, true);
        assert_eq!(wrapped.received, 5_546);
        assert_eq!(wrapped.duplicates, 0);
    }
}
