//! A disk that fails or loses power at each single operation in turn: what was
//! acknowledged is there afterwards, and of what was under way all or nothing.

use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::*;

/// What is done to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// From then on every write is refused; the machine lives.
    Full,
    /// Power fails: of what was not synced any part is lost, by this seed, and a
    /// write may be torn.
    PowerCut(u64),
}

#[derive(Debug, Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Inner {
    /// As programs see it.
    seen: Vec<u8>,
    /// As it would be after a power cut that loses all that can be lost.
    synced: Vec<u8>,
    pending: Vec<Pending>,
    operations: usize,
    /// The operation that fails, and all after it.
    fails_at: Option<usize>,
}

impl Inner {
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fails_at {
            Some(at) if self.operations > at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

/// A file in memory.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    fn holding(bytes: &[u8], fails_at: Option<usize>) -> Self {
        let (seen, synced) = (bytes.to_vec(), bytes.to_vec());
        Self(Arc::new(Mutex::new(Inner { seen, synced, fails_at, ..Inner::default() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// What is on it after `fault`.
    fn after(&self, fault: Fault) -> Vec<u8> {
        let inner = self.inner();
        let Fault::PowerCut(seed) = fault else { return inner.seen.clone() };
        let mut bytes = inner.synced.clone();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for pending in &inner.pending {
            // Lost, torn, or written.
            match (pending, next() % 3) {
                (_, 0) => {}
                (Pending::Length(len), _) => bytes.resize(*len as usize, 0),
                (Pending::Write(at, data), how) => {
                    let torn = next() as usize % (data.len() + 1);
                    let data = if how == 1 { &data[..torn] } else { &data[..] };
                    let end = *at as usize + data.len();
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[*at as usize..end].copy_from_slice(data);
                }
            }
        }
        bytes
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        let from = offset as usize;
        let found = inner.seen.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operate()?;
        inner.seen.resize(len as usize, 0);
        inner.pending.push(Pending::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operate()?;
        inner.synced = inner.seen.clone();
        inner.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operate()?;
        let (from, end) = (offset as usize, offset as usize + data.len());
        if inner.seen.len() < end {
            inner.seen.resize(end, 0);
        }
        inner.seen[from..end].copy_from_slice(data);
        inner.pending.push(Pending::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// What a daemon writes one after the other: attaches, a gift, an import, and
/// detaches.
fn steps() -> Vec<Vec<StateChange>> {
    let attach = |id| vec![StateChange::Endpoint(Box::new(endpoint(id)))];
    vec![
        vec![StateChange::Network(network(7)), ring(7, 0)],
        attach(1),
        vec![ring(7, 0), ring(7, 128), ring(7, 192)],
        (10..60).flat_map(attach).collect(),
        vec![StateChange::DropEndpoint(EndpointId::from_bits(1))],
        attach(2),
        (10..60).map(|id| StateChange::DropEndpoint(EndpointId::from_bits(id))).collect(),
    ]
}

/// Networks, endpoints and ranges.
type Content = (Vec<Network>, Vec<LocalEndpoint>, Vec<((NetworkId, Family, u128), RingToken)>);

/// The content after each number of steps.
fn contents() -> Vec<Content> {
    let steps = steps();
    (0..=steps.len()).map(|n| content(&copy::replay(steps[..n].concat()))).collect()
}

fn content(loaded: &Loaded) -> Content {
    (loaded.networks.clone(), loaded.endpoints.clone(), loaded.ring.clone())
}

/// The bytes of a file that was just begun.
fn begun() -> Vec<u8> {
    let dir = dir();
    drop(open(&dir));
    fs::read(dir.path().join(FILE)).unwrap()
}

/// Takes the steps on `disk` until one is not taken; says how many were.
fn take_steps(disk: &Disk) -> usize {
    let Ok(db) = builder().create_with_backend(disk.clone()) else { return 0 };
    let steps = steps();
    let taken =
        |changes: &Vec<StateChange>| transact(&db, &mut |txn| write_changes(txn, changes)).is_ok();
    let acknowledged = steps.iter().take_while(|changes| taken(changes)).count();
    // A daemon that is killed closes nothing.
    disk.inner().fails_at = Some(0);
    acknowledged
}

/// Opens what is left as a daemon does that starts, without a copy.
#[track_caller]
fn start_on(dir: &TempDir, bytes: &[u8], at: &str) -> Loaded {
    for file in [FILE, "state.copy"] {
        let _ = fs::remove_file(dir.path().join(file));
    }
    fs::write(dir.path().join(FILE), bytes).unwrap();
    let (_file, restored) = open(dir);
    assert_eq!(restored.damaged, None, "{at}: taken for damaged");
    let Restored { networks, endpoints, ring, .. } = restored;
    Loaded { networks, endpoints, ring, ..Loaded::default() }
}

#[track_caller]
fn check(dir: &TempDir, begun: &[u8], at: usize, fault: Fault) -> usize {
    let disk = Disk::holding(begun, Some(at));
    let acknowledged = take_steps(&disk);
    let at = format!("operation {at}, {fault:?}, {acknowledged} acknowledged");
    let found = content(&start_on(dir, &disk.after(fault), &at));
    let contents = contents();
    let whole = contents.iter().position(|content| *content == found);
    let whole = whole.unwrap_or_else(|| panic!("{at}: half of a step is there: {found:#?}"));
    assert!(whole == acknowledged || whole == acknowledged + 1, "{at}, and {whole} are there");
    acknowledged
}

#[test]
fn a_disk_that_fails_or_loses_power_at_any_operation_loses_nothing_that_was_acknowledged() {
    let (begun, dir) = (begun(), dir());
    let whole = Disk::holding(&begun, None);
    assert_eq!(take_steps(&whole), steps().len());
    let operations = whole.inner().operations;
    assert!(operations > 60, "{operations} operations are no disk");
    let mut counts = BTreeSet::new();
    for at in 0..operations {
        counts.insert(check(&dir, &begun, at, Fault::Full));
        for seed in 0..4 {
            check(&dir, &begun, at, Fault::PowerCut(at as u64 * 4 + seed));
        }
    }
    assert_eq!(counts, (0..=steps().len()).collect(), "each step was interrupted");
}

#[test]
fn a_first_start_that_is_cut_short_leaves_nothing_that_looks_damaged() {
    // The file has its name when it is whole: what is under the other name counts for nothing.
    let dir = dir();
    make_dir(dir.path()).unwrap();
    let whole = begun();
    for cut in [0, 100, 4096, whole.len() / 2] {
        fs::write(dir.path().join("state.redb.new"), &whole[..cut]).unwrap();
        let (_, restored) = open(&dir);
        assert_eq!(restored.damaged, None);
        fs::remove_file(dir.path().join(FILE)).unwrap();
    }
}

#[test]
fn a_file_cut_at_any_place_is_read_whole_or_told_as_damaged_and_never_a_panic() {
    let dir = dir();
    let (file, _) = open(&dir);
    for changes in steps() {
        file.commit(&changes).unwrap();
    }
    drop(file);
    let whole = fs::read(dir.path().join(FILE)).unwrap();
    let all = contents().pop().unwrap();
    let mut damaged = 0;
    for cut in (0..whole.len()).step_by(whole.len() / 150) {
        for file in [FILE, "state.copy"] {
            let _ = fs::remove_file(dir.path().join(file));
        }
        fs::write(dir.path().join(FILE), &whole[..cut]).unwrap();
        let (_file, restored) = open(&dir);
        let Restored { networks, endpoints, ring, .. } = restored;
        match restored.damaged {
            Some(aside) => {
                damaged += 1;
                assert!(networks.is_empty() && endpoints.is_empty() && ring.is_empty());
                fs::remove_file(aside).unwrap();
            }
            None => {
                assert!(content(&Loaded { networks, endpoints, ring, ..Loaded::default() }) == all)
            }
        }
    }
    assert!(damaged > 100, "{damaged} of 150");
}
