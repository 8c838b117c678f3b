//! A state file that somebody has damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use overlay_model::{Family, NetworkId};
use overlayd::state::{Restored, StateChange, StateError, StateFile};
use redb::{Database, TableDefinition};
use tempfile::TempDir;

use crate::input::Input;
use crate::local_files::temporary_dir;
use crate::samples::{OWNER, network, token};
use crate::seeds::{local_endpoint, peers};

// As released software has them: a change here is a change of the format.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("endpoints");
const RING: TableDefinition<'_, (u64, u8, u128), &[u8]> = TableDefinition::new("ring");

/// The daemon contains what the database panics of.
static CONTAINED: AtomicBool = AtomicBool::new(false);

/// Says whether a panic now is the database's, which the daemon survives.
pub(crate) fn expects_panics() -> bool {
    CONTAINED.load(Ordering::Relaxed)
}

/// A host that had state and was stopped: the bytes of its file, and the state.
static SAMPLE: LazyLock<(Vec<u8>, Restored)> = LazyLock::new(|| {
    let dir = temporary_dir();
    begin(dir.path());
    let (file, _) = StateFile::open(dir.path()).expect("an empty directory");
    file.commit(&[
        StateChange::Network(network()),
        StateChange::Endpoint(Box::new(local_endpoint(5))),
        StateChange::Ring(NetworkId(7), Family::V4, 0, token()),
        StateChange::Peers(peers()),
    ])
    .expect("there is room");
    file.commit(&[
        StateChange::Endpoint(Box::new(local_endpoint(6))),
        StateChange::Ring(NetworkId(7), Family::V6, 1 << 64, token()),
        StateChange::Left(true),
    ])
    .expect("there is room");
    drop(file);
    let bytes = fs::read(path(dir.path())).expect("it was written");
    let (_, restored) = StateFile::open(dir.path()).expect("it was written");
    (bytes, restored)
});

fn path(dir: &Path) -> PathBuf {
    dir.join("state.redb")
}

/// A directory of `OWNER` without a state file.
fn begin(dir: &Path) {
    fs::write(dir.join("host-id"), OWNER.to_string()).expect("there is room");
}

/// What a whole file must hold after it was read.
enum Whole {
    /// Nobody knows.
    Unknown,
    /// What the sample holds.
    Sample,
    /// So many networks, endpoints and tokens.
    Rows([usize; 3]),
}

/// 1. Any file, any damage and any values are read, or reported and moved aside
///    as they are, or refused as of a newer version and left there; the
///    host stays who it is, and nothing is lost unsaid.
/// 2. What is open then works: what is committed is there at the next start.
/// 3. What the database panics of ends nobody.
pub(crate) fn run(data: &[u8]) {
    static DIR: LazyLock<TempDir> = LazyLock::new(temporary_dir);
    let dir = DIR.path();
    for entry in fs::read_dir(dir).expect("our own directory").flatten() {
        fs::remove_file(entry.path()).expect("our own file");
    }
    begin(dir);
    let mut input = Input(data);
    let whole = match input.byte() % 3 {
        0 => {
            fs::write(path(dir), input.0).expect("there is room");
            Whole::Unknown
        }
        1 => {
            fs::write(path(dir), damaged(&mut input)).expect("there is room");
            Whole::Sample
        }
        _ => Whole::Rows(with_values(&path(dir), &mut input)),
    };
    let written = fs::read(path(dir)).expect("it was written");
    CONTAINED.store(true, Ordering::Relaxed);
    let opened = StateFile::open(dir);
    CONTAINED.store(false, Ordering::Relaxed);
    let (file, restored) = match opened {
        Ok(opened) => opened,
        Err(StateError::Newer { .. }) => {
            let again = StateFile::open(dir);
            assert!(matches!(again, Err(StateError::Newer { .. })), "it was changed");
            return;
        }
        Err(err) => panic!("it stops the daemon: {err}"),
    };
    match &restored.damaged {
        Some(aside) => {
            assert_eq!(restored.host, OWNER);
            let kept = fs::read(aside).expect("it was moved there");
            // What the database took for its own it may have marked, or begun to repair.
            assert!(kept == written || written.starts_with(b"redb"), "not kept as it was");
            assert!(kept.is_empty() == written.is_empty());
            assert!(restored.networks.is_empty() && restored.endpoints.is_empty());
        }
        None => match whole {
            Whole::Unknown => {}
            Whole::Sample => {
                let (_, sample) = &*SAMPLE;
                assert!(
                    content(&restored) == content(sample) && restored.host == OWNER,
                    "lost without a word: {restored:?}"
                );
            }
            Whole::Rows(rows) => {
                let Restored { networks, endpoints, ring, .. } = &restored;
                assert_eq!([networks.len(), endpoints.len(), ring.len()], rows);
            }
        },
    }
    let more = network();
    file.commit(&[StateChange::Network(more.clone())]).expect("what is open takes more");
    let next = file.next_incarnation().expect("what is open takes more");
    assert!(next > restored.incarnation);
    drop(file);
    let (_, later) = StateFile::open(dir).unwrap_or_else(|err| panic!("the next start: {err}"));
    assert_eq!((later.host, later.damaged.as_ref()), (restored.host, None));
    assert!(later.networks.contains(&more) && later.incarnation > next);
}

/// Without what every start changes.
fn content(restored: &Restored) -> impl PartialEq {
    let Restored { networks, endpoints, ring, kept, peers, left, .. } = restored.clone();
    (networks, endpoints, ring, kept, peers, left)
}

/// The sample with some of its bytes changed, cut or grown.
fn damaged(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = SAMPLE.0.clone();
    while !input.is_empty() {
        let how = input.byte();
        // Where the file says how it is built is where damage does most.
        let span = if how < 128 { bytes.len().min(4096) } else { bytes.len() }.max(1);
        let at = input.u32() as usize % span;
        match how % 4 {
            0 | 1 => {
                let new = input.chunk();
                let len = new.len().min(bytes.len().saturating_sub(at));
                bytes[at..at + len].copy_from_slice(&new[..len]);
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= input.byte();
                }
            }
            // Cut, or grown by zeros.
            _ if input.byte() < 128 => bytes.truncate(at),
            _ => bytes.resize(bytes.len() + at % 8192, 0),
        }
    }
    bytes
}

/// A sound database with any values in it; how many rows each table has.
fn with_values(path: &Path, input: &mut Input<'_>) -> [usize; 3] {
    let mut write = || -> Result<[usize; 3], redb::Error> {
        let db = Database::create(path)?;
        let txn = db.begin_write()?;
        let mut rows = [0; 3];
        {
            let mut meta = txn.open_table(META)?;
            meta.insert("format", &[1][..])?;
            let (mut networks, mut endpoints) =
                (txn.open_table(NETWORKS)?, txn.open_table(ENDPOINTS)?);
            let mut ring = txn.open_table(RING)?;
            while !input.is_empty() {
                let table = input.byte() % 5;
                let new = match table {
                    0 => {
                        let names = ["format", "host", "incarnation", "peers", "left", "later"];
                        let name = input.pick(&names).expect("there are some");
                        meta.insert(name, value(input).as_slice())?.is_none()
                    }
                    1 => networks.insert(u64::from(input.byte()), &*value(input))?.is_none(),
                    2 => endpoints.insert(u64::from(input.byte()), &*value(input))?.is_none(),
                    3 => {
                        let key = (input.byte().into(), input.byte(), input.byte().into());
                        ring.insert(key, &*value(input))?.is_none()
                    }
                    // What a later version might add.
                    _ => {
                        let more: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("more");
                        txn.open_table(more)?.insert(1, input.chunk())?;
                        false
                    }
                };
                if let (1..=3, true) = (table, new) {
                    rows[usize::from(table) - 1] += 1;
                }
            }
        }
        txn.commit()?;
        Ok(rows)
    };
    write().expect("a sound database in memory")
}

/// A version and JSON, or anything.
fn value(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() {
        0 => [&[1], input.long_chunk()].concat(),
        _ => input.long_chunk().to_vec(),
    }
}
