//! The journal: every event that the engine took in, so that what a daemon did
//! can be done again elsewhere, step by step.
//!
//! ```text
//!   Event, Now ─► Recorded::step ─┬─► Engine::step ─► effects ─► the shell
//!                                 └─► a line: the event, and a hash of the effects
//!
//!   overlayd replay FILE: lines ─► a fresh engine ─► effects, as text
//! ```
//!
//! The engine is a function of what it is given, so the effects need not be
//! kept: a replay by the same version makes the same ones, and the hashes prove
//! it. A replay by another version shows where they begin to differ.
//!
//! One JSON object a line, written at once: `kill -9` loses at most the half of
//! a line. Each start of the daemon begins with a head that has settings and
//! state. The file never grows beyond its limit; the journal then ends and says
//! so, in the file and in the log. Keys and other secrets are in no event.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use overlay_engine::{Config, Effect, Engine, Event, Now, Restored};
use overlay_model::{Fnv, Record, RecordKey};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// How the lines are to be read.
const FORMAT: u32 = 1;

/// Room for the line that says that the journal is full.
const LAST_WORD: u64 = 64;

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Head { format: u32, now: Now, config: Box<Config>, restored: Box<Restored> },
    Records { hash: String },
    Step { now: Now, event: Box<Event>, hash: String },
    Stop { now: Now, hash: String },
    Full,
}

fn hash<T: Serialize + ?Sized>(value: &T) -> String {
    let mut hash = Fnv::default();
    match serde_json::to_writer(&mut hash, value) {
        Ok(()) => format!("{:016x}", hash.get()),
        Err(err) => format!("none: {err}"),
    }
}

/// An engine, and the journal of it if there is one.
#[derive(Debug)]
pub struct Recorded {
    engine: Engine,
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    left: u64,
}

impl Recorded {
    /// An engine that has just started; with a path, its events are appended
    /// there until the file has `limit` bytes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new(
        config: Config,
        restored: Restored,
        now: Now,
        path: Option<&Path>,
        limit: u64,
    ) -> anyhow::Result<Self> {
        let mut journal = path.map(|path| Journal::open(path, limit)).transpose()?;
        if let Some(open) = &mut journal {
            let head = Line::Head {
                format: FORMAT,
                now,
                config: Box::new(config.clone()),
                restored: Box::new(restored.clone()),
            };
            let head = serde_json::to_string(&head).context("cannot write down the settings")?;
            if !open.write(&head) {
                journal = None;
            }
        }
        Ok(Self { engine: Engine::new(config, restored, now), journal })
    }

    /// [`Engine::step`].
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let before = self.journal.is_some().then(|| serde_json::to_string(&event));
        let effects = self.engine.step(event, now);
        if let Some(event) = before {
            let line = event.and_then(|event| {
                let (now, hash) = (serde_json::to_string(&now)?, hash(&effects));
                Ok(format!(r#"{{"Step":{{"now":{now},"event":{event},"hash":"{hash}"}}}}"#))
            });
            self.write(line);
        }
        effects
    }

    /// [`Engine::stop`].
    pub fn stop(&mut self, now: Now) -> Vec<Effect> {
        let effects = self.engine.stop(now);
        if self.journal.is_some() {
            self.write(serde_json::to_string(&Line::Stop { now, hash: hash(&effects) }));
        }
        effects
    }

    /// [`Engine::own_records`].
    pub fn own_records(&mut self) -> Vec<(RecordKey, Record)> {
        let records = self.engine.own_records();
        if self.journal.is_some() {
            self.write(serde_json::to_string(&Line::Records { hash: hash(&records) }));
        }
        records
    }

    fn write(&mut self, line: serde_json::Result<String>) {
        let Some(journal) = &mut self.journal else { return };
        let goes_on = match line {
            Ok(line) => journal.write(&line),
            Err(err) => {
                warn!("the journal ends: cannot write down an event: {err}");
                false
            }
        };
        if !goes_on {
            self.journal = None;
        }
    }
}

impl Deref for Recorded {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl DerefMut for Recorded {
    fn deref_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl Journal {
    fn open(path: &Path, limit: u64) -> anyhow::Result<Self> {
        let what = || format!("cannot write the journal {}", path.display());
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true).mode(0o600);
        let mut file = options.open(path).with_context(what)?;
        let size = file.seek(SeekFrom::End(0)).with_context(what)?;
        if size > 0 {
            // A former daemon may have died over half a line.
            file.seek(SeekFrom::End(-1)).with_context(what)?;
            let mut last = [0];
            file.read_exact(&mut last).with_context(what)?;
            if last != *b"\n" {
                file.write_all(b"\n").with_context(what)?;
            }
        }
        Ok(Self { path: path.to_owned(), file, left: limit.saturating_sub(size) })
    }

    /// Appends a line; false if it was the last.
    fn write(&mut self, line: &str) -> bool {
        let size = line.len() as u64 + 1;
        if size + LAST_WORD > self.left {
            warn!(
                "the journal {} is full and ends here; move it away, or raise --journal-limit, \
                 and restart overlayd",
                self.path.display()
            );
            let _ = self.file.write_all(b"\"Full\"\n");
            return false;
        }
        self.left -= size;
        let result = self.file.write_all(format!("{line}\n").as_bytes());
        if let Err(err) = &result {
            warn!("the journal ends: cannot write {}: {err}", self.path.display());
        }
        result.is_ok()
    }
}

/// What came of a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Steps of the engine.
    pub steps: u64,
    /// Of these, how many had other effects than were recorded.
    pub differ: u64,
    /// Lines that were cut, at the end of a daemon's life.
    pub cut: u64,
}

/// Feeds the journal in `path` to fresh engines, and writes to `out` what each
/// event made them do.
///
/// # Errors
/// If the file cannot be read, or is no journal.
pub fn replay(path: &Path, out: &mut dyn Write) -> anyhow::Result<Replayed> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    replay_from(BufReader::new(file), path, out)
}

/// [`replay`] of what `journal` reads; `path` is what errors call it.
///
/// # Errors
/// As [`replay`].
pub fn replay_from(
    journal: impl BufRead,
    path: &Path,
    out: &mut dyn Write,
) -> anyhow::Result<Replayed> {
    let mut lines = journal.split(b'\n').enumerate().peekable();
    let mut engine: Option<Engine> = None;
    let mut done = Replayed::default();
    while let Some((n, bytes)) = lines.next() {
        let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
        let line = match serde_json::from_slice::<Line>(&bytes) {
            Ok(line) => line,
            // The end of a life: of the file, or before the head of the next.
            Err(_) if n > 0 && lines.peek().is_none_or(|(_, next)| is_head(next)) => {
                writeln!(out, "line {}: cut in the middle", n + 1)?;
                done.cut += 1;
                continue;
            }
            Err(err) => bail!("{} line {} is no journal: {err}", path.display(), n + 1),
        };
        let (recorded, made) = match (line, &mut engine) {
            (Line::Head { format, .. }, _) if format != FORMAT => {
                bail!("{} line {}: of another release (format {format})", path.display(), n + 1)
            }
            (Line::Head { now, config, restored, .. }, engine) => {
                writeln!(
                    out,
                    "line {}: overlayd {} starts as {}",
                    n + 1,
                    config.version,
                    config.name
                )?;
                *engine = Some(Engine::new(*config, *restored, now));
                continue;
            }
            (Line::Full, _) => {
                writeln!(out, "line {}: the journal was full", n + 1)?;
                continue;
            }
            (_, None) => bail!("{} does not begin with a head", path.display()),
            (Line::Records { hash: recorded }, Some(engine)) => {
                let records = engine.own_records();
                writeln!(out, "line {}: gossip begins with {} records", n + 1, records.len())?;
                (recorded, hash(&records))
            }
            (Line::Stop { now, hash: recorded }, Some(engine)) => {
                writeln!(out, "line {}: {} stop", n + 1, at(now))?;
                let effects = engine.stop(now);
                effects.iter().try_for_each(|effect| show(effect, out))?;
                (recorded, hash(&effects))
            }
            (Line::Step { now, event, hash: recorded }, Some(engine)) => {
                let text: String = serde_json::to_string(&event)?.chars().take(240).collect();
                writeln!(out, "line {}: {} {text}", n + 1, at(now))?;
                let effects = engine.step(*event, now);
                effects.iter().try_for_each(|effect| show(effect, out))?;
                (recorded, hash(&effects))
            }
        };
        done.steps += 1;
        if recorded != made {
            done.differ += 1;
            writeln!(out, "  DIFFERS: the daemon did something else here")?;
        }
    }
    Ok(done)
}

fn is_head(line: &io::Result<Vec<u8>>) -> bool {
    line.as_ref().is_ok_and(|bytes| bytes.starts_with(b"{\"Head\""))
}

fn at(now: Now) -> String {
    format!("+{:.6}s", now.mono.as_secs_f64())
}

fn show(effect: &Effect, out: &mut dyn Write) -> io::Result<()> {
    match effect {
        Effect::Persist { changes, .. } => writeln!(out, "  writes {} changes", changes.len()),
        Effect::Publish(changes) => changes.iter().try_for_each(|(key, record)| {
            let verb = if record.is_some() { "publishes" } else { "withdraws" };
            writeln!(out, "  {verb} {key}")
        }),
        Effect::Apply { ops, .. } => ops.iter().try_for_each(|op| writeln!(out, "  {op}")),
        Effect::Hold(ports) => {
            write!(out, "  holds")?;
            ports.iter().try_for_each(|port| write!(out, " {port}"))?;
            writeln!(out)
        }
        Effect::Announce(all) => all.iter().try_for_each(|one| {
            writeln!(out, "  tells those on {} that {} is at {}", one.bridge, one.ip, one.mac)
        }),
        Effect::Names(news) => writeln!(out, "  tells the resolver {} news", news.len()),
        Effect::Reply { token, result: Ok(_) } => writeln!(out, "  answers request {token}"),
        Effect::Reply { token, result: Err(why) } => {
            writeln!(out, "  refuses request {token}: {why}")
        }
        Effect::Notice(notice) => writeln!(out, "  says: {notice}"),
        Effect::Exit => writeln!(out, "  ends"),
    }
}

#[cfg(test)]
mod tests;
