//! The state file: what must survive a restart.
//!
//! Promises:
//!
//! 1. **What [`StateFile::commit`] has returned for is on the disk**, all of it
//!    or nothing.
//! 2. **An incarnation is used once**: it is on the disk before it is returned,
//!    and larger than every one before, even if the clock went back.
//! 3. **A damaged file stops nobody**: it is moved aside (as the database left
//!    it, which may have begun to repair it), reported, and a fresh one begun
//!    under the same [`HostId`], which stands in a plain text file of its own
//!    beside it. What it held comes from the copy (`state/copy.rs`), as long as
//!    the machine has not booted since; then nothing that runs is touched. So it
//!    is if it is missing. Without the copy the host is said to have lost its state
//!    ([`Restored::lost_ms`]) until it has found again what kernel and cluster tell
//!    (`overlay-engine/src/recovery.rs`). Where the text file is gone as well, who
//!    the host is says the copy, else what the kernel has ([`StateFile::open_as`]).
//! 4. **A file of a newer version is left alone**, with an error that says so.
//! 5. **One daemon at a time** has the directory.
//!
//! ```text
//! /var/lib/overlayd/         0700
//!   state.redb               0600  redb, values are a version byte and JSON
//!   host-id                  0600  the HostId as text
//!   lock                     0600  locked while a daemon runs; its pid
//!   state.copy               0600  the same once more, a line each change
//!   state.redb.damaged-...         files moved aside, for whoever wants to look
//! ```
//!
//! The version byte stands for the JSON of `overlay-model` as it was in that
//! version; `tests.rs` keeps literals of each kind that must stay readable.

mod copy;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use overlay_engine::{Kept, LocalEndpoint, Place};
use overlay_model::{
    EndpointId, Family, Fate, HostId, Name, Network, NetworkId, RingToken, Service,
};
use redb::backends::FileBackend;
use redb::{
    Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use copy::Copy;

/// The format that we write.
const FORMAT: u8 = 1;
/// The format of an endpoint that is in no namespace: what knows only of those
/// that are must not take the file for damaged.
const PLACES: u8 = 2;
/// The format of a network that says which addresses may be leased: what does
/// not know of that must not lease any.
const RANGES: u8 = 2;
/// Enough for what is read once and then only written; redb's default is 1 GiB.
const CACHE: usize = 8 << 20;

const FILE: &str = "state.redb";
const HOST_ID_FILE: &str = "host-id";
const LOCK_FILE: &str = "lock";

/// Singular values, by name. `format` is one bare byte, so that any version can
/// read it.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("endpoints");
/// What is kept, by network and name. Missing in files of before there was any.
const KEPT: TableDefinition<'_, (u64, &str), &[u8]> = TableDefinition::new("kept");
/// Services by their id. Missing in files of before there were any.
const SERVICES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("services");
/// By network, family (4 or 6) and offset in the subnet.
const RING: TableDefinition<'_, (u64, u8, u128), &[u8]> = TableDefinition::new("ring");
/// Hosts of the cluster. This table and the next are not in files of the first
/// versions.
const MEMBERS: TableDefinition<'_, u128, ()> = TableDefinition::new("members");
/// What this host says of others that are away.
const FATES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("fates");

/// What the state file knew when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Identity of this host; new at the first start.
    pub host: HostId,
    /// This life's incarnation.
    pub incarnation: u64,
    /// The boot that the machine is in now. An endpoint of another one has lost
    /// its namespace.
    pub boot_id: String,
    /// Networks, tombstones included.
    pub networks: Vec<Network>,
    /// Endpoints attached here.
    pub endpoints: Vec<LocalEndpoint>,
    /// Address ownership.
    pub ring: Vec<((NetworkId, Family, u128), RingToken)>,
    /// Hosts of the cluster.
    pub members: BTreeSet<HostId>,
    /// What this host says of others that are away.
    pub fates: BTreeMap<HostId, Fate>,
    /// When it was last in touch with most of the cluster, milliseconds since 1970.
    pub contact_ms: Option<u64>,
    /// It takes no new endpoint.
    pub drained: bool,
    /// Addresses that stay with names.
    pub kept: Vec<Kept>,
    /// Services, tombstones included.
    pub services: Vec<Service>,
    /// Gossip addresses of the peers of last time.
    pub peers: Vec<std::net::SocketAddr>,
    /// This host has left the cluster and was not told to come back.
    pub left: bool,
    /// The state of this host was lost then, milliseconds since 1970, and has not all
    /// been found again.
    pub lost_ms: Option<u64>,
    /// The file was damaged; this is where it was moved. All of the above but
    /// `host` and `lost_ms` is as at a first start, unless it is `rebuilt`.
    pub damaged: Option<PathBuf>,
    /// The file was damaged or missing, and all of the above is from the copy.
    pub rebuilt: bool,
}

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateChange {
    /// Remember this definition, which may be a tombstone.
    Network(Network),
    /// Forget a network altogether.
    DropNetwork(NetworkId),
    /// Remember an endpoint of ours.
    Endpoint(Box<LocalEndpoint>),
    /// Forget one.
    DropEndpoint(EndpointId),
    /// Remember whose the addresses from this offset on are.
    Ring(NetworkId, Family, u128, RingToken),
    /// Forget all address ownership of a network.
    DropRing(NetworkId),
    /// Forget whose the addresses from this offset on are.
    DropToken(NetworkId, Family, u128),
    /// Remember that a host is one of the cluster, or is not any more.
    Member(HostId, bool),
    /// Remember, or forget, what this host says of one that is away.
    Fate(HostId, Option<Fate>),
    /// Remember when this host was in touch with the others, milliseconds since 1970.
    Contact(u64),
    /// Remember that this host takes no new endpoint, or does.
    Drained(bool),
    /// Remember a service, which may be a tombstone.
    Service(Service),
    /// Remember which addresses stay with a name.
    Kept(Kept),
    /// Forget them.
    DropKept(NetworkId, Name),
    /// Remember the peers, all of them.
    Peers(Vec<std::net::SocketAddr>),
    /// Remember that this host left, or that it is back.
    Left(bool),
    /// Remember when the state was lost, or that it is found again.
    Lost(Option<u64>),
}

impl From<overlay_engine::StateChange> for StateChange {
    fn from(change: overlay_engine::StateChange) -> Self {
        use overlay_engine::StateChange as Engine;
        match change {
            Engine::Network(network) => Self::Network(network),
            Engine::Endpoint(endpoint) => Self::Endpoint(endpoint),
            Engine::DropEndpoint(id) => Self::DropEndpoint(id),
            Engine::Ring(net, family, offset, token) => Self::Ring(net, family, offset, token),
            Engine::DropRing(net) => Self::DropRing(net),
            Engine::DropToken(net, family, offset) => Self::DropToken(net, family, offset),
            Engine::Member(host, is) => Self::Member(host, is),
            Engine::Fate(host, fate) => Self::Fate(host, fate),
            Engine::Contact(at) => Self::Contact(at),
            Engine::Drained(drained) => Self::Drained(drained),
            Engine::Service(service) => Self::Service(service),
            Engine::Kept(kept) => Self::Kept(kept),
            Engine::DropKept(net, name) => Self::DropKept(net, name),
            Engine::Recovered => Self::Lost(None),
        }
    }
}

/// Why the state file cannot be used.
///
/// After a failed [`StateFile::commit`] the state is as before it; the same
/// commit may succeed later.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {what} {}: {err}; {}", path.display(), advice(err))]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// Another daemon has the directory.
    #[error(
        "another overlayd{} uses {}; stop it, or give this one a directory of its own with --state-dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        dir.display()
    )]
    InUse {
        /// Which directory.
        dir: PathBuf,
        /// Its process, if it says.
        pid: Option<u32>,
    },
    /// Somebody else could change what is remembered.
    #[error(
        "{} belongs to uid {owner}, who could change what this host remembers; if it is the right \
         one: chown -R {us} {}; else choose another directory with --state-dir",
        path.display(),
        dir.display()
    )]
    Foreign {
        /// Which directory or file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
        /// The state directory.
        dir: PathBuf,
    },
    /// A later version wrote the file.
    #[error(
        "{} was written by a newer overlayd (format {found}, this one reads up to {FORMAT}); \
         install that version, or move the file away to begin anew",
        path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
    /// The database refused.
    #[error("cannot {what} {}: {err}; the state is as it was before", path.display())]
    Database {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: Box<redb::Error>,
    },
    /// A value cannot be written as JSON: a path that is not UTF-8.
    #[error("cannot remember {what}: {err}")]
    Value {
        /// What it is.
        what: &'static str,
        /// The cause.
        #[source]
        err: serde_json::Error,
    },
}

/// What the reader of the error may do about it.
fn advice(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::PermissionDenied => {
            "run overlayd as root, or choose a directory that it may write with --state-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: remount it, or choose another directory with --state-dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space; nothing was changed"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "something else stands there: remove it, or choose another directory with --state-dir"
        }
        _ => "check the directory, or choose another with --state-dir",
    }
}

/// The state file, open and locked.
pub struct StateFile {
    dir: PathBuf,
    /// `None` after an error of the disk, until it opens again.
    db: Mutex<Option<Database>>,
    copy: Mutex<Copy>,
    _lock: Flock<File>,
}

impl StateFile {
    /// Opens the state file in `dir`, or begins one; both are made if missing.
    ///
    /// # Errors
    /// [`StateError`] if the directory cannot be used, another daemon uses it, or
    /// a newer version wrote the file. A damaged file is no error.
    pub fn open(dir: &Path) -> Result<(Self, Restored), StateError> {
        Self::open_as(dir, None)
    }

    /// True if nothing in `dir` may say who the host is but the state file: if that is
    /// damaged or missing, see [`StateFile::open_as`].
    pub fn lacks_host_id(dir: &Path) -> bool {
        !matches!(read_host_id(dir), Ok(Some(_)))
    }

    /// [`StateFile::open`], where the host is `former` if nothing in `dir` says who it is.
    ///
    /// # Errors
    /// As there.
    pub fn open_as(dir: &Path, former: Option<HostId>) -> Result<(Self, Restored), StateError> {
        make_dir(dir)?;
        guard(dir)?;
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        let side = read_host_id(dir)?;
        let exists = fs::exists(&path).map_err(io_error("look for", &path))?;

        let (mut damaged, mut rebuilt) = (None, false);
        let mut opened = None;
        if exists {
            match open_existing(&path)? {
                Opened::Good(good) => opened = Some(*good),
                Opened::Damaged(why) => {
                    let aside = move_aside(&path)?;
                    tracing::error!(
                        %why, moved_to = %aside.display(),
                        "the state file is damaged; beginning a fresh one: look after the disk",
                    );
                    damaged = Some(aside);
                }
            }
        }
        let boot_id = boot_id();
        let (db, mut loaded) = match opened {
            Some(opened) => opened,
            None => {
                let copied = copy::read(dir, side, &boot_id);
                rebuilt = copied.is_some();
                (create(&path)?, copied.unwrap_or_default())
            }
        };
        let known = loaded.host.or(side).or(former);
        // One that was begun and not written to when the daemon died names no host either.
        if loaded.host.is_none() && known.is_some() {
            loaded.lost_ms = Some(now_ms());
        }
        let host = known.unwrap_or_else(|| HostId(Uuid::new_v4()));
        let incarnation = later_than(loaded.incarnation);
        let copy = Mutex::new(Copy::begin(dir, host, boot_id.clone(), &loaded));
        let file = Self { dir: dir.to_owned(), db: Mutex::new(Some(db)), copy, _lock: lock };
        let lost = StateChange::Lost(loaded.lost_ms);
        let again = if rebuilt { loaded.changes() } else { vec![lost] };
        file.write("begin a life in", |txn| {
            let mut meta = txn.open_table(META)?;
            meta.insert("host", &*value(&host))?;
            meta.insert("incarnation", &*value(&incarnation))?;
            drop(meta);
            write_changes(txn, &again)
        })?;
        if side != Some(host) {
            write_host_id(dir, host)?;
        }
        let restored = Restored {
            host,
            incarnation,
            boot_id,
            networks: std::mem::take(&mut loaded.networks),
            endpoints: std::mem::take(&mut loaded.endpoints),
            ring: std::mem::take(&mut loaded.ring),
            members: std::mem::take(&mut loaded.members),
            fates: std::mem::take(&mut loaded.fates),
            contact_ms: loaded.contact_ms,
            drained: loaded.drained,
            kept: std::mem::take(&mut loaded.kept),
            services: std::mem::take(&mut loaded.services),
            peers: std::mem::take(&mut loaded.peers),
            left: loaded.left,
            lost_ms: loaded.lost_ms,
            damaged,
            rebuilt,
        };
        Ok((file, restored))
    }

    /// Writes `changes`, all or none, and returns when they are on the disk.
    ///
    /// # Errors
    /// [`StateError`]; nothing was written. A full disk that has room again is
    /// found out by trying again.
    pub fn commit(&self, changes: &[StateChange]) -> Result<(), StateError> {
        if changes.is_empty() {
            return Ok(());
        }
        // Only the path of a namespace can fail here; say so before anything is written.
        for change in changes {
            if let StateChange::Endpoint(endpoint) = change
                && let Place::Netns { netns, .. } = &endpoint.place
            {
                serde_json::to_vec(netns)
                    .map_err(|err| StateError::Value { what: "an endpoint", err })?;
            }
        }
        let written = self.write("write to", |txn| write_changes(txn, changes));
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_err() {
            copy.rest();
        }
        written?;
        if copy.append(changes)
            && let Some(Ok(all)) = self.db().as_ref().map(load)
        {
            copy.rewrite(&all);
        }
        Ok(())
    }

    /// The incarnation of the next life, on the disk already.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn next_incarnation(&self) -> Result<u64, StateError> {
        let mut next = 0;
        self.write("begin a new life in", |txn| {
            let mut meta = txn.open_table(META)?;
            let last = meta.get("incarnation")?.and_then(|bytes| read::<u64>(bytes.value()).ok());
            next = later_than(last.unwrap_or(0));
            meta.insert("incarnation", &*value(&next))?;
            Ok(())
        })?;
        Ok(next)
    }

    /// One durable transaction. After an error of the disk redb serves nobody
    /// any more; it is opened again, once now and once at each later try.
    fn write(
        &self,
        what: &'static str,
        mut change: impl FnMut(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        let path = self.dir.join(FILE);
        let mut db = self.db();
        if let Some(open) = db.as_ref() {
            match transact(open, &mut change) {
                Ok(()) => return Ok(()),
                Err(err) => {
                    *db = None;
                    if !matches!(err, redb::Error::PreviousIo | redb::Error::DatabaseClosed) {
                        return Err(database_error(what, &path, err));
                    }
                }
            }
        }
        let open = builder().open(&path).map_err(|err| database_error(what, &path, err))?;
        transact(&open, &mut change).map_err(|err| database_error(what, &path, err))?;
        *db = Some(open);
        Ok(())
    }

    fn db(&self) -> MutexGuard<'_, Option<Database>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_changes(txn: &WriteTransaction, changes: &[StateChange]) -> Result<(), redb::Error> {
    let mut meta = txn.open_table(META)?;
    let mut networks = txn.open_table(NETWORKS)?;
    let mut endpoints = txn.open_table(ENDPOINTS)?;
    let mut ring = txn.open_table(RING)?;
    let mut members = txn.open_table(MEMBERS)?;
    let mut fates = txn.open_table(FATES)?;
    let mut kept = txn.open_table(KEPT)?;
    let mut services = txn.open_table(SERVICES)?;
    for change in changes {
        match change {
            StateChange::Network(network) => {
                networks.insert(network.id.0, &*network_value(network))?;
            }
            StateChange::DropNetwork(id) => drop(networks.remove(id.0)?),
            StateChange::Endpoint(endpoint) => {
                endpoints.insert(endpoint.endpoint.id.bits(), &*endpoint_value(endpoint))?;
            }
            StateChange::DropEndpoint(id) => drop(endpoints.remove(id.bits())?),
            StateChange::Ring(network, family, offset, token) => {
                ring.insert((network.0, number(*family), *offset), &*value(token))?;
            }
            StateChange::DropRing(network) => {
                let all = (network.0, 0, 0)..=(network.0, u8::MAX, u128::MAX);
                ring.retain_in(all, |_, _| false)?;
            }
            StateChange::DropToken(network, family, offset) => {
                drop(ring.remove((network.0, number(*family), *offset))?);
            }
            StateChange::Member(host, true) => {
                members.insert(host.0.as_u128(), ())?;
            }
            StateChange::Member(host, false) => {
                members.remove(host.0.as_u128())?;
            }
            StateChange::Fate(host, Some(fate)) => {
                fates.insert(host.0.as_u128(), &*value(fate))?;
            }
            StateChange::Fate(host, None) => drop(fates.remove(host.0.as_u128())?),
            StateChange::Contact(at) => drop(meta.insert("contact", &*value(at))?),
            StateChange::Drained(is) => drop(meta.insert("drained", &*value(is))?),
            StateChange::Service(service) => {
                services.insert(service.id, &*value(service))?;
            }
            StateChange::Kept(one) => {
                kept.insert((one.network.0, one.name.as_str()), &*value(one))?;
            }
            StateChange::DropKept(network, name) => {
                drop(kept.remove((network.0, name.as_str()))?);
            }
            StateChange::Peers(peers) => drop(meta.insert("peers", &*value(peers))?),
            StateChange::Left(left) => drop(meta.insert("left", &*value(left))?),
            StateChange::Lost(Some(at)) => drop(meta.insert("lost", &*value(at))?),
            StateChange::Lost(None) => drop(meta.remove("lost")?),
        }
    }
    Ok(())
}

fn transact(
    db: &Database,
    change: &mut impl FnMut(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    change(&txn)?;
    txn.commit()?;
    Ok(())
}

/// Everything in a state file.
#[derive(Debug, Default)]
struct Loaded {
    host: Option<HostId>,
    incarnation: u64,
    networks: Vec<Network>,
    endpoints: Vec<LocalEndpoint>,
    ring: Vec<((NetworkId, Family, u128), RingToken)>,
    members: BTreeSet<HostId>,
    fates: BTreeMap<HostId, Fate>,
    contact_ms: Option<u64>,
    drained: bool,
    kept: Vec<Kept>,
    services: Vec<Service>,
    peers: Vec<std::net::SocketAddr>,
    left: bool,
    lost_ms: Option<u64>,
}

impl Loaded {
    /// What makes all of it but who the host is, and which life.
    fn changes(&self) -> Vec<StateChange> {
        let networks = self.networks.iter().cloned().map(StateChange::Network);
        let endpoints = self.endpoints.iter().cloned();
        let endpoints = endpoints.map(|local| StateChange::Endpoint(Box::new(local)));
        let ring = self.ring.iter().map(|((net, family, offset), token)| {
            StateChange::Ring(*net, *family, *offset, *token)
        });
        let services = self.services.iter().cloned().map(StateChange::Service);
        let kept = self.kept.iter().cloned().map(StateChange::Kept).chain(services);
        let members = self.members.iter().map(|host| StateChange::Member(*host, true));
        let fates = self.fates.iter().map(|(host, fate)| StateChange::Fate(*host, Some(*fate)));
        let contact = self.contact_ms.map(StateChange::Contact);
        let rest = [
            StateChange::Peers(self.peers.clone()),
            StateChange::Left(self.left),
            StateChange::Lost(self.lost_ms),
            StateChange::Drained(self.drained),
        ];
        let all = networks.chain(endpoints).chain(ring).chain(kept).chain(members).chain(fates);
        all.chain(contact).chain(rest).collect()
    }
}

enum Opened {
    Good(Box<(Database, Loaded)>),
    Damaged(String),
}

/// Why a file was not read.
enum Unread {
    Newer(u8),
    Damaged(String),
    Failed(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for Unread {
    fn from(err: E) -> Self {
        let err = err.into();
        let damage = match &err {
            redb::Error::Io(err) => {
                matches!(err.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            redb::Error::Corrupted(_)
            | redb::Error::RepairAborted
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_) => true,
            _ => false,
        };
        if damage { Self::Damaged(err.to_string()) } else { Self::Failed(Box::new(err)) }
    }
}

fn open_existing(path: &Path) -> Result<Opened, StateError> {
    // redb promises to return an error for any damage that its checksums find;
    // a panic in it is damage all the same, and no reason for us not to start.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let db = builder().open(path)?;
        let loaded = load(&db)?;
        Ok((db, loaded))
    }));
    match result {
        Ok(Ok((db, loaded))) => {
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .map_err(io_error("protect", path))?;
            Ok(Opened::Good(Box::new((db, loaded))))
        }
        Ok(Err(Unread::Newer(found))) => Err(StateError::Newer { path: path.to_owned(), found }),
        Ok(Err(Unread::Damaged(why))) => Ok(Opened::Damaged(why)),
        Ok(Err(Unread::Failed(err))) => Err(database_error("open", path, *err)),
        Err(_) => Ok(Opened::Damaged("reading it made the database panic".to_owned())),
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

/// Makes an empty state file. It gets its name when it is whole, so that a
/// power cut at the first start leaves nothing that looks damaged.
fn create(path: &Path) -> Result<Database, StateError> {
    let new = path.with_extension("redb.new");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(io_error("create", &new))?;
    let begin = || -> Result<Database, redb::Error> {
        let backend = FileBackend::new(file).map_err(redb::Error::from)?;
        let db = builder().create_with_backend(backend)?;
        transact(&db, &mut |txn| {
            txn.open_table(META)?.insert("format", &[FORMAT][..])?;
            txn.open_table(NETWORKS)?;
            txn.open_table(ENDPOINTS)?;
            txn.open_table(RING)?;
            txn.open_table(KEPT)?;
            Ok(())
        })?;
        Ok(db)
    };
    let db = begin().map_err(|err| database_error("create", path, err))?;
    fs::rename(&new, path).map_err(io_error("create", path))?;
    sync_dir(path)?;
    Ok(db)
}

fn load(db: &Database) -> Result<Loaded, Unread> {
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    let format = meta.get("format")?.and_then(|bytes| bytes.value().first().copied());
    match format {
        Some(found) if found > FORMAT => return Err(Unread::Newer(found)),
        Some(_) => {}
        None => return Err(Unread::Damaged("it does not say its format".to_owned())),
    }
    let mut loaded = Loaded::default();
    for row in meta.iter()? {
        let (key, bytes) = row?;
        match key.value() {
            "host" => loaded.host = Some(read(bytes.value())?),
            "incarnation" => loaded.incarnation = read(bytes.value())?,
            "peers" => loaded.peers = read(bytes.value())?,
            "left" => loaded.left = read(bytes.value())?,
            "contact" => loaded.contact_ms = Some(read(bytes.value())?),
            "drained" => loaded.drained = read(bytes.value())?,
            "lost" => loaded.lost_ms = Some(read(bytes.value())?),
            _ => {}
        }
    }
    for row in txn.open_table(NETWORKS)?.iter()? {
        loaded.networks.push(read_either(RANGES, row?.1.value())?);
    }
    for row in txn.open_table(ENDPOINTS)?.iter()? {
        loaded.endpoints.push(read_either(PLACES, row?.1.value())?);
    }
    for row in txn.open_table(RING)?.iter()? {
        let (key, bytes) = row?;
        let (network, family, offset) = key.value();
        let family = match family {
            4 => Family::V4,
            6 => Family::V6,
            other => return Err(Unread::Damaged(format!("address family {other}"))),
        };
        loaded.ring.push(((NetworkId(network), family, offset), read(bytes.value())?));
    }
    if let Some(kept) = if_there(txn.open_table(KEPT))? {
        for row in kept.iter()? {
            loaded.kept.push(read(row?.1.value())?);
        }
    }
    if let Some(services) = if_there(txn.open_table(SERVICES))? {
        for row in services.iter()? {
            loaded.services.push(read(row?.1.value())?);
        }
    }
    let host = |bits: u128| HostId(Uuid::from_u128(bits));
    if let Some(members) = if_there(txn.open_table(MEMBERS))? {
        for row in members.iter()? {
            loaded.members.insert(host(row?.0.value()));
        }
    }
    if let Some(fates) = if_there(txn.open_table(FATES))? {
        for row in fates.iter()? {
            let (key, bytes) = row?;
            loaded.fates.insert(host(key.value()), read(bytes.value())?);
        }
    }
    Ok(loaded)
}

/// A table that files of the first versions do not have.
fn if_there<T>(table: Result<T, TableError>) -> Result<Option<T>, TableError> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(err) => Err(err),
    }
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// A version byte and JSON.
fn value<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value)
        .expect("numbers, strings and maps with string keys; paths were checked before");
    bytes
}

fn endpoint_value(endpoint: &LocalEndpoint) -> Vec<u8> {
    let mut bytes = value(endpoint);
    if !matches!(endpoint.place, Place::Netns { .. }) {
        bytes[0] = PLACES;
    }
    bytes
}

fn network_value(network: &Network) -> Vec<u8> {
    let mut bytes = value(network);
    if !network.exclude.is_empty() || !network.ip_ranges.is_empty() {
        bytes[0] = RANGES;
    }
    bytes
}

/// A value of [`FORMAT`], or of the later one that its kind has.
fn read_either<T: DeserializeOwned>(later: u8, bytes: &[u8]) -> Result<T, Unread> {
    match bytes.split_first() {
        Some((format, json)) if *format == later => {
            serde_json::from_slice(json).map_err(|err| Unread::Damaged(err.to_string()))
        }
        _ => read(bytes),
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unread> {
    match bytes.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|err| Unread::Damaged(err.to_string()))
        }
        Some((&found, _)) if found > FORMAT => Err(Unread::Newer(found)),
        _ => Err(Unread::Damaged("a value without a version".to_owned())),
    }
}

/// How much larger than the last an incarnation is, where the clock does not
/// say: a life numbers its requests from it on, and a later life's must be larger.
const ROOM: u64 = 1_000_000;

/// Larger than `last` and, if the clock is right, than any that a file lost
/// since has held: microseconds since 1970.
fn later_than(last: u64) -> u64 {
    let now = since_1970().as_micros();
    u64::try_from(now).unwrap_or(0).max(last.saturating_add(ROOM))
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn now_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}

/// The kernel's name for the time since the machine was switched on.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |err| StateError::Io { what, path, err }
}

/// The disk's own words where it was the disk.
fn database_error(what: &'static str, path: &Path, err: impl Into<redb::Error>) -> StateError {
    let path = path.to_owned();
    match err.into() {
        redb::Error::Io(err) => StateError::Io { what, path, err },
        err => StateError::Database { what, path, err: Box::new(err) },
    }
}

fn make_dir(dir: &Path) -> Result<(), StateError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(err) => Err(io_error("create the state directory", dir)(err)),
    }
}

/// The directory and what is in it are ours, and nobody else writes there.
fn guard(dir: &Path) -> Result<(), StateError> {
    let us = nix::unistd::geteuid().as_raw();
    for path in [dir.to_owned(), dir.join(FILE), dir.join(HOST_ID_FILE), dir.join(LOCK_FILE)] {
        match fs::metadata(&path) {
            Ok(meta) if meta.uid() != us => {
                return Err(StateError::Foreign {
                    path,
                    owner: meta.uid(),
                    us,
                    dir: dir.to_owned(),
                });
            }
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("look at", &path)(err));
            }
            _ => {}
        }
    }
    let mode = fs::metadata(dir).map_err(io_error("look at", dir))?.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        tracing::warn!(
            path = %dir.display(), was = format!("{mode:o}"),
            "others could write to the state directory; it is the daemon's alone now",
        );
        fs::set_permissions(dir, Permissions::from_mode(0o700))
            .map_err(io_error("protect", dir))?;
    }
    Ok(())
}

/// The file is written to and then held open for reading: so a file system whose state file
/// cannot be written, and is closed for that, is not kept from being mounted otherwise.
fn lock(dir: &Path) -> Result<Flock<File>, StateError> {
    let path = dir.join(LOCK_FILE);
    let open =
        || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    open().map_err(io_error("open", &path))?;
    let file = File::open(&path).map_err(io_error("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            let written = open().and_then(|mut file| {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())
            });
            written.map_err(io_error("write to", &path))?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            Err(StateError::InUse { dir: dir.to_owned(), pid: text.trim().parse().ok() })
        }
        Err((_, errno)) => Err(io_error("lock", &path)(errno.into())),
    }
}

/// `None` if there is none, or none that can be read as one.
fn read_host_id(dir: &Path) -> Result<Option<HostId>, StateError> {
    let path = dir.join(HOST_ID_FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(io_error("read", &path)(err)),
    }
}

/// Whole or not at all, also if the power fails.
fn write_host_id(dir: &Path, host: HostId) -> Result<(), StateError> {
    let path = dir.join(HOST_ID_FILE);
    let temporary = dir.join("host-id.new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{host}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(io_error("write", &path))?;
    sync_dir(&path)
}

/// Makes the name of `path` durable.
fn sync_dir(path: &Path) -> Result<(), StateError> {
    let dir = path.parent().unwrap_or(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("write to", dir))
}

/// Gives a damaged file another name, which it returns.
fn move_aside(path: &Path) -> Result<PathBuf, StateError> {
    let seconds = since_1970().as_secs();
    let name = |n: u32| {
        let more = if n == 0 { String::new() } else { format!("-{n}") };
        path.with_file_name(format!("{FILE}.damaged-{seconds}{more}"))
    };
    let aside = (0..).map(name).find(|aside| !aside.exists()).unwrap_or_else(|| name(0));
    fs::rename(path, &aside).map_err(io_error("move aside", path))?;
    sync_dir(path)?;
    Ok(aside)
}

#[cfg(test)]
mod tests;
