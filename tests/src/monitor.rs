//! `ip monitor` and `bridge monitor`: what the kernel tells of by itself, with
//! the time at which it told.

use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::shell::{command_in, signal};
use crate::wait::eventually;

/// A monitor that runs.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    file: PathBuf,
}

/// One thing that the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When `ip` or `bridge` read it: microseconds after the kernel wrote it.
    pub at: SystemTime,
    /// As printed; lines of one event are joined by a blank.
    pub text: String,
}

impl Event {
    /// True if something went away.
    pub fn is_deletion(&self) -> bool {
        self.text.starts_with("Deleted")
    }
}

impl Monitor {
    /// Starts `line` (`bridge -timestamp monitor fdb`, `ip -ts monitor link`)
    /// in `netns`, writing to `file`, and returns when it hears the kernel.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(netns: &str, line: &str, file: PathBuf) -> Result<Self> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let out = File::create(&file).with_context(|| format!("cannot make {}", file.display()))?;
        let child = command_in(netns, program)
            .args(words)
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        let monitor = Self { child, file };
        let pid = monitor.child.id();
        eventually(&format!("`{line}` listens"), || {
            // Columns: sk Eth Pid Groups …; route netlink is Eth 0. A socket with groups listens.
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink"))?;
            let listens = table.lines().any(|l| {
                let columns: Vec<&str> = l.split_whitespace().collect();
                matches!(columns.as_slice(), [_, "0", p, groups, ..]
                    if *p == pid.to_string() && groups.bytes().any(|b| b != b'0'))
            });
            if listens { Ok(()) } else { bail!("no netlink socket of {pid} with groups") }
        })?;
        Ok(monitor)
    }

    /// All that was told until now.
    ///
    /// # Errors
    /// If the output cannot be read, or a time in it not be understood.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = std::fs::read_to_string(&self.file)?;
        parse(&text)
    }

    /// The first event that `wanted` accepts, waited for.
    ///
    /// # Errors
    /// If there is none until patience ends.
    pub fn first(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        eventually(what, || {
            let events = self.events()?;
            match events.iter().find(|e| wanted(e)) {
                Some(event) => Ok(event.clone()),
                None => bail!("{} events, none of them it", events.len()),
            }
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = signal(&self.child, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What iproute2 says when a namespace goes while it learns their names, one of
/// another lab; and when links come and go while it learns theirs.
const NO_CONCERN: [&str; 2] =
    ["Error: Peer netns reference is invalid.", "Dump was interrupted and may be inconsistent."];

/// Events of `ip -ts monitor` (`[2026-11-21T11:54:10.753976] text`) and of
/// `bridge -timestamp monitor` (`Timestamp: Sat Nov 21 11:54:10 2026 754735
/// usec`, and the text on the next line), both in UTC.
fn parse(text: &str) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    let mut stamp: Option<SystemTime> = None;
    // A last line without its end is still being written.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in complete.lines().filter(|l| !l.trim().is_empty()) {
        if NO_CONCERN.contains(&line) {
            continue;
        }
        if let Some(time) = line.strip_prefix("Timestamp: ") {
            stamp = Some(long_time(time).with_context(|| format!("no time: {line}"))?);
        } else if let Some((time, rest)) = line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
            let at = short_time(time).with_context(|| format!("no time: {line}"))?;
            events.push(Event { at, text: rest.trim().to_owned() });
        } else if let Some(at) = stamp.take() {
            events.push(Event { at, text: line.trim().to_owned() });
        } else if let Some(last) = events.last_mut() {
            last.text.push(' ');
            last.text.push_str(line.trim());
        } else {
            bail!("the monitor says: {line}");
        }
    }
    Ok(events)
}

fn long_time(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, month, day, clock, year, micros, "usec"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|m| m == month)? as u64 + 1;
    time(year.parse().ok()?, month, day.parse().ok()?, clock, micros.parse().ok()?)
}

fn short_time(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once('T')?;
    let (clock, micros) = rest.split_once('.')?;
    let mut parts = date.split('-').map(|p| p.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    time(year, month, day, clock, micros.parse().ok()?)
}

fn time(year: u64, month: u64, day: u64, clock: &str, micros: u64) -> Option<SystemTime> {
    let mut parts = clock.split(':').map(|p| p.parse::<u64>().ok());
    let (h, m, s) = (parts.next()??, parts.next()??, parts.next()??);
    // Days since 1970 of the proleptic Gregorian calendar; years begin in March, so that a leap
    // day is the last of its year.
    let (y, m_from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m_from_march + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = ((days * 24 + h) * 60 + m) * 60 + s;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_time_are_the_same_time() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_262_050_754_735);
        let text = "Timestamp: Sat Nov 21 11:54:10 2026 754735 usec\n\
                    Deleted d6:3d:b7:17:73:28 dev br1 master br1 permanent\n\
                    [2026-11-21T11:54:10.754735] 2: br1: <UP> mtu 1500\n    link/ether d6:3d\n";
        let events = parse(text).unwrap();
        assert_eq!(events.iter().map(|e| e.at).collect::<Vec<_>>(), [at, at]);
        assert!(events[0].is_deletion());
        assert_eq!(events[1].text, "2: br1: <UP> mtu 1500 link/ether d6:3d");
    }

    #[test]
    fn a_line_that_is_still_being_written_is_not_read() {
        assert_eq!(parse("[2026-11-21T11:54:10.754735] 2: br").unwrap(), []);
    }
}
