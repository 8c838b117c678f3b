//! A second writing of the state, for when the state file is damaged or gone.
//!
//! Each change that the state file has taken is appended as a line, and nobody
//! waits for the disk: what is here survives the death of the daemon, not that of
//! the machine. It need not, because namespaces do not either; so the copy counts
//! for the boot of the machine that it was written in. Its first line says whose
//! it is and of which boot.
//!
//! A line is a checksum and JSON. A last line that is not whole was being written
//! when the daemon died; nobody had been told of it. Anything else that is wrong,
//! and the copy is not used at all: half a memory of who owns which address is
//! worse than none.
//!
//! A copy that cannot be written is removed: an old one would tell of leases that
//! are no more.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use overlay_model::{Fnv, HostId};
use serde::{Deserialize, Serialize};

use super::{Loaded, StateChange};

const FILE: &str = "state.copy";

/// It is written anew when it is so much larger than it need be.
const SLACK: u64 = 4;
/// And no sooner than at this size, bytes.
const LEAST: u64 = 4 << 20;
/// So many changes after an error it is tried again.
const RETRY: u32 = 64;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    host: HostId,
    boot_id: String,
}

/// The copy, open for more.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    /// `None` after an error, and while it rests.
    file: Option<File>,
    /// It is whole, and opened again when there is more.
    rests: bool,
    head: Head,
    size: u64,
    /// What it had when it was last written anew.
    base: u64,
    /// Changes to go until it is tried again after an error.
    wait: u32,
}

impl Copy {
    /// Begins one that holds `changes`, in the place of any that is there.
    pub(super) fn begin(dir: &Path, host: HostId, boot_id: String, all: &Loaded) -> Self {
        let head = Head { host, boot_id };
        let path = dir.join(FILE);
        let mut copy = Self { path, file: None, rests: false, head, size: 0, base: 0, wait: 0 };
        copy.rewrite(all);
        copy
    }

    /// Notes what the state file has taken. Says whether it should be rewritten.
    pub(super) fn append(&mut self, changes: &[StateChange]) -> bool {
        let mut text = Vec::new();
        if std::mem::take(&mut self.rests) {
            match OpenOptions::new().append(true).open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(err) => self.give_up(&err),
            }
        }
        let written =
            changes.iter().try_for_each(|change| line(&mut text, change)).and_then(|()| {
                let Some(file) = self.file.as_mut() else { return Ok(()) };
                self.size += text.len() as u64;
                file.write_all(&text)
            });
        if let Err(err) = written {
            self.give_up(&err);
        }
        if self.file.is_none() {
            // All of it must be read for that: not at every change while a disk is full.
            self.wait = self.wait.saturating_sub(1);
            return self.wait == 0;
        }
        self.size > LEAST.max(self.base.saturating_mul(SLACK))
    }

    /// The state file cannot be written: until it can, nothing keeps its file system from
    /// being mounted otherwise.
    pub(super) fn rest(&mut self) {
        self.rests |= self.file.take().is_some();
    }

    /// Writes it anew, whole or not at all.
    pub(super) fn rewrite(&mut self, all: &Loaded) {
        let new = self.path.with_extension("copy.new");
        let write = || -> io::Result<(File, u64)> {
            let mut text = Vec::new();
            line(&mut text, &self.head)?;
            all.changes().iter().try_for_each(|change| line(&mut text, change))?;
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&new)
                .and_then(|file| file.set_len(0).map(|()| file))?;
            file.write_all(&text)?;
            fs::rename(&new, &self.path)?;
            Ok((file, text.len() as u64))
        };
        match write() {
            Ok((file, size)) => {
                (self.file, self.size, self.base) = (Some(file), size, size);
                self.rests = false;
            }
            Err(err) => {
                let _ = fs::remove_file(&new);
                self.give_up(&err);
            }
        }
    }

    fn give_up(&mut self, err: &io::Error) {
        if self.file.take().is_some() || self.path.exists() {
            tracing::warn!(%err, path = %self.path.display(),
                "there is no copy of the state now: if the state file is damaged, endpoints of \
                 this host are lost");
        }
        let _ = fs::remove_file(&self.path);
        self.wait = RETRY;
    }
}

/// What the copy in `dir` holds, if it is of `host`, of whoever wrote it if that is not
/// known, and of this boot, and sound.
pub(super) fn read(dir: &Path, host: Option<HostId>, boot_id: &str) -> Option<Loaded> {
    let bytes = fs::read(dir.join(FILE)).ok()?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    let mut lines = bytes[..end].split(|byte| *byte == b'\n');
    let head: Head = parse(lines.next()?)?;
    let is_other = host.is_some_and(|host| host != head.host);
    if is_other || head.boot_id != boot_id || boot_id.is_empty() {
        return None;
    }
    let changes = lines.map(parse).collect::<Option<Vec<StateChange>>>()?;
    Some(Loaded { host: Some(head.host), ..replay(changes) })
}

pub(super) fn replay(changes: Vec<StateChange>) -> Loaded {
    let mut loaded = Loaded::default();
    let (mut networks, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
    let (mut ring, mut kept, mut services) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for change in changes {
        match change {
            StateChange::Network(network) => drop(networks.insert(network.id, network)),
            StateChange::DropNetwork(id) => drop(networks.remove(&id)),
            StateChange::Endpoint(local) => drop(endpoints.insert(local.endpoint.id, *local)),
            StateChange::DropEndpoint(id) => drop(endpoints.remove(&id)),
            StateChange::Ring(net, family, offset, token) => {
                ring.insert((net, family, offset), token);
            }
            StateChange::DropRing(net) => ring.retain(|(of, ..), _| *of != net),
            StateChange::DropToken(net, family, offset) => {
                ring.remove(&(net, family, offset));
            }
            StateChange::Service(service) => drop(services.insert(service.id, service)),
            StateChange::Kept(one) => drop(kept.insert((one.network, one.name.clone()), one)),
            StateChange::DropKept(net, name) => drop(kept.remove(&(net, name))),
            StateChange::Member(host, true) => drop(loaded.members.insert(host)),
            StateChange::Member(host, false) => drop(loaded.members.remove(&host)),
            StateChange::Fate(host, Some(fate)) => drop(loaded.fates.insert(host, fate)),
            StateChange::Fate(host, None) => drop(loaded.fates.remove(&host)),
            StateChange::Contact(at) => loaded.contact_ms = Some(at),
            StateChange::Drained(drained) => loaded.drained = drained,
            StateChange::Peers(peers) => loaded.peers = peers,
            StateChange::Left(left) => loaded.left = left,
            StateChange::Lost(at) => loaded.lost_ms = at,
        }
    }
    loaded.networks = networks.into_values().collect();
    loaded.endpoints = endpoints.into_values().collect();
    loaded.ring = ring.into_iter().collect();
    loaded.services = services.into_values().collect();
    loaded.kept = kept.into_values().collect();
    loaded
}

fn line(text: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    write!(text, "{:016x} ", Fnv::of(&json))?;
    text.extend(json);
    text.push(b'\n');
    Ok(())
}

fn parse<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    let (sum, json) = line.split_at_checked(17)?;
    let sum = u64::from_str_radix(std::str::from_utf8(&sum[..16]).ok()?, 16).ok()?;
    if sum != Fnv::of(json) { None } else { serde_json::from_slice(json).ok() }
}
