//! Files that the daemon reads and somebody else may have had in hand: the
//! journal, the key file.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use overlay_gossip::Keyring;
use overlayd::journal::replay_from;
use overlayd::key_file::KeyFile;
use tempfile::TempDir;

/// In memory where the machine has a place for that.
pub(crate) fn temporary_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(dir).expect("a directory can be made")
}

/// 1. A journal is replayed or refused, with the number of the line.
/// 2. A replay comes out the same each time.
pub(crate) fn journal(data: &[u8]) {
    let replay = || {
        let mut out = Vec::new();
        let done = replay_from(data, Path::new("journal"), &mut out);
        (done.map_err(|err| format!("{err:#}")), out)
    };
    let (done, out) = replay();
    assert_eq!((done.clone(), out), replay());
    if let Err(why) = done {
        assert!(why.contains("journal line ") || why.contains("does not begin"), "{why}");
    }
}

/// 1. A file is one to three keys or an error, in which nothing of it stands.
/// 2. Written again it holds the same keys, first the one in use.
pub(crate) fn key_file(data: &[u8]) {
    static DIR: LazyLock<TempDir> = LazyLock::new(temporary_dir);
    let path: PathBuf = DIR.path().join("key");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .expect("our own directory");
    file.write_all(data).expect("there is room");
    match KeyFile::open(&path) {
        Ok((file, ring)) => {
            let ids = ring.ids();
            assert!((1..=3).contains(&ids.ids.len()) && ids.used == ids.ids.first().copied());
            let again = Keyring::parse(&ring.to_text()).expect("it was a ring");
            assert_eq!(again.to_text(), ring.to_text());
            file.write(&ring).expect("there is room");
            let (_, kept) = KeyFile::open(&path).expect("it was written");
            assert_eq!(kept.to_text(), ring.to_text());
            assert_eq!(fs::metadata(&path).map(|m| m.permissions()).ok(), Some(private()));
        }
        Err(err) => {
            let said = format!("{err} {err:?}");
            // Half a key is a long word of base64.
            let text = String::from_utf8_lossy(data);
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c));
            for word in words.filter(|word| word.len() >= 22) {
                assert!(!said.contains(word), "{said} repeats {word}");
            }
        }
    }
}

fn private() -> Permissions {
    Permissions::from_mode(0o100_600)
}
