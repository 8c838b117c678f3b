//! What could not be said to the daemon: each DEL that it has not heard of, in
//! order, on disk.
//!
//! ```text
//!  DEL, the daemon is down ──► STATE_DIR/00…17.json ──► the next call of the plugin, or
//!                                                       `overlay-cni replay`: DELETE, remove
//! ```
//!
//! A runtime that was told of a success does not ask again, and one that was told
//! of a failure may keep a dead container for ever: so a DEL succeeds when it is
//! written down. Every later call does first what is written down, so that a
//! container that comes back under its name is not detached afterwards. One at a
//! time does so: a lock on the directory.
//!
//! At most [`MOST`] are kept; a further one is refused, and the runtime asks again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};

/// How many are kept.
pub const MOST: usize = 256;

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 64 << 10;

/// A DEL that the daemon has not heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Which daemon.
    pub socket: PathBuf,
    /// The label of the endpoint.
    pub label: String,
}

/// The directory in which they are.
#[derive(Debug, Clone)]
pub struct Queue {
    dir: PathBuf,
    socket: PathBuf,
}

/// What becomes of one that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// There is nothing of it any more.
    Done,
    /// The daemon refused: it stays, the next one is tried.
    Refused,
    /// The daemon does not answer: all that follow stay, too.
    NotNow,
}

impl Queue {
    /// That in `dir`, of the daemon at `socket`.
    pub fn new(dir: &Path, socket: &Path) -> Self {
        Self { dir: dir.to_owned(), socket: socket.to_owned() }
    }

    /// Writes a DEL down.
    ///
    /// # Errors
    /// [`Code::TryAgainLater`] if there are too many, or the disk is full.
    pub fn put(&self, label: &str) -> Result<(), Failure> {
        let pending = Pending { socket: self.socket.clone(), label: label.to_owned() };
        let failed = |err: io::Error| {
            let dir = self.dir.display();
            let msg = format!("cannot write the DEL of {label} down in {dir}: {err}");
            Failure::new(Code::TryAgainLater, msg)
        };
        let _lock = self.lock().map_err(failed)?;
        let files = self.files().map_err(failed)?;
        if files.iter().any(|file| read(file).is_some_and(|other| other == pending)) {
            return Ok(());
        }
        if files.len() >= MOST {
            let msg = format!("{MOST} DELs wait in {} for overlayd already", self.dir.display());
            return Err(Failure::new(Code::TryAgainLater, msg)
                .with("start it with: systemctl start overlayd"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        // Behind the last one, should the clock have been set back.
        let last = files.last().and_then(|file| file.file_stem()?.to_str()?.parse::<u128>().ok());
        let number = last.map_or(now, |last| now.max(last.saturating_add(1)));
        write_whole(&self.dir, &format!("{number:039}.json"), &pending).map_err(failed)
    }

    /// Tries all that are written down for this daemon, in order, and says which
    /// of them are left.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn replay(&self, mut attempt: impl FnMut(&str) -> Tried) -> Result<Vec<String>, Failure> {
        let failed = |err: io::Error| {
            let dir = self.dir.display();
            Failure::new(Code::Io, format!("cannot read what waits for overlayd in {dir}: {err}"))
        };
        // The usual case costs one look.
        if self.files().map_err(failed)?.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock().map_err(failed)?;
        let mut left = Vec::new();
        let mut answers = true;
        for file in self.files().map_err(failed)? {
            let Some(pending) = read(&file) else {
                eprintln!("overlay-cni: {} is no DEL; it is removed", file.display());
                fs::remove_file(&file).map_err(failed)?;
                continue;
            };
            if pending.socket != self.socket {
                continue;
            }
            let tried = if answers { attempt(&pending.label) } else { Tried::NotNow };
            match tried {
                Tried::Done => {
                    fs::remove_file(&file).map_err(failed)?;
                    continue;
                }
                Tried::Refused => {}
                Tried::NotNow => answers = false,
            }
            left.push(pending.label);
        }
        Ok(left)
    }

    /// Forgets one: what it was to detach has gone otherwise.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn forget(&self, label: &str) -> io::Result<()> {
        for file in self.files()? {
            if read(&file).is_some_and(|p| p.label == label && p.socket == self.socket) {
                fs::remove_file(&file)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        fs::create_dir_all(&self.dir)?;
        let file = File::create(self.dir.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    /// All of them, the oldest first.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(err) => return Err(err),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut files: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
        files.retain(|path| path.extension().is_some_and(|ext| ext == "json"));
        files.sort();
        Ok(files)
    }
}

fn read(file: &Path) -> Option<Pending> {
    if fs::metadata(file).ok()?.len() > MAX_FILE {
        return None;
    }
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// There whole or not at all, also after a power failure.
fn write_whole(dir: &Path, name: &str, pending: &Pending) -> io::Result<()> {
    let half = dir.join(format!("{name}.half"));
    let mut file = File::create(&half)?;
    file.write_all(&serde_json::to_vec(pending)?)?;
    file.sync_all()?;
    fs::rename(&half, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
