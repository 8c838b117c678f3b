//! The file with the cluster's keys: who may have it, and how it changes.
//!
//! It is read at the start and after that only written: `overlayctl key` changes
//! the ring in memory and here, in one step that either happened or did not (a
//! new file beside it, renamed over it). A file that others can read is refused,
//! for then its keys are no secret any more. Nothing of what stands in it is in
//! any error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use overlay_gossip::{Keyring, KeyringError};
use zeroize::Zeroizing;

/// Three keys and room for remarks.
const LONGEST: u64 = 16 * 1024;

/// Why there are no keys, or why a change of them was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is not there.
    #[error(
        "there is no key file {0}; copy it from another host of the cluster, or make the first one \
         with: (umask 077; overlayd keygen > {0})"
    )]
    Missing(PathBuf),
    /// It is something else than a file.
    #[error("the key file {0} is not a regular file")]
    NotAFile(PathBuf),
    /// Others than its owner can get at it.
    #[error(
        "the key file {path} has mode {mode:04o}: others can read or change it; say: chmod 0600 \
         {path} (and if they may have read it, make another key)"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "the key file {path} belongs to user {owner}, who could change it; say: chown root {path}"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It is far longer than keys are.
    #[error("the key file {0} is longer than {LONGEST} bytes; it should have a key a line")]
    TooLong(PathBuf),
    /// What stands in it is no ring of keys.
    #[error("the key file {path}: {err}")]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        err: KeyringError,
    },
    /// It could not be read.
    #[error("cannot read the key file {path}: {err}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It could not be written; it is as it was.
    #[error("cannot write the key file {path}: {err}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// A key file that was found good.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Without symbolic links, so that a link is not replaced by a file.
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
}

impl KeyFile {
    /// Reads the keys in `path`.
    ///
    /// # Errors
    /// If it is not there, anybody but root or this user can get at it, or it
    /// holds something else than one to three keys.
    pub fn open(path: &Path) -> Result<(Self, Keyring), KeyFileError> {
        let read = |err: io::Error| match err.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
            _ => KeyFileError::Read { path: path.to_owned(), err },
        };
        let real = path.canonicalize().map_err(read)?;
        // A FIFO would wait for a writer.
        let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file =
            OpenOptions::new().read(true).custom_flags(nonblock).open(&real).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(KeyFileError::NotAFile(path.to_owned()));
        }
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { path: path.to_owned(), mode });
        }
        if ![0, nix::unistd::geteuid().as_raw()].contains(&meta.uid()) {
            return Err(KeyFileError::Foreign { path: path.to_owned(), owner: meta.uid() });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > LONGEST {
            return Err(KeyFileError::TooLong(path.to_owned()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| KeyFileError::Content {
            path: path.to_owned(),
            err: KeyringError::Line { line: 1, err: overlay_gossip::InvalidKey },
        })?;
        let ring = Keyring::parse(text)
            .map_err(|err| KeyFileError::Content { path: path.to_owned(), err })?;
        Ok((Self { path: real, mode, owner: (meta.uid(), meta.gid()) }, ring))
    }

    /// Puts `ring` in the place of what it holds, with the owner and permissions
    /// that it had. Remarks are lost.
    ///
    /// # Errors
    /// If it cannot be written; it is then as it was.
    pub fn write(&self, ring: &Keyring) -> Result<(), KeyFileError> {
        self.try_write(ring).map_err(|err| KeyFileError::Write { path: self.path.clone(), err })
    }

    fn try_write(&self, ring: &Keyring) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = dir.join(name);
        // One that a crash has left; never written through, for it may be a link.
        match std::fs::remove_file(&new) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = (|| {
            file.write_all(ring.to_text().as_bytes())?;
            let (uid, gid) = self.owner;
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            file.set_permissions(std::fs::Permissions::from_mode(self.mode))?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            File::open(dir)?.sync_all()
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    }
}

#[cfg(test)]
mod tests;
