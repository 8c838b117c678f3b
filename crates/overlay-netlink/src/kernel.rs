//! The handle of a kernel: what the rest of the daemon holds.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use overlay_model::{
    ApplyReport, Foreign, Guard, IfName, KernelChange, KernelOp, KernelState, LinkKind, Object,
    ObjectKey, OpFailure, Refusal, Translation,
};
use tokio::sync::{mpsc, oneshot};

use crate::entries::BATCH;
use crate::error::{Failure, KernelError, NlError};
use crate::firewall::Dropped;
use crate::nat::{Memory, Translated};
use crate::nft::Nft;
use crate::offload::Offload;
use crate::watch::{self, Command, OwnNft, Touched};
use crate::wire::{Conn, Entries};
use crate::{firewall, holder, nat, netns, read};

/// The kernel of one network namespace. Clones are the same.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

struct Inner {
    writer: tokio::sync::Mutex<Writer>,
    reader: tokio::sync::Mutex<Conn>,
    /// For what was counted.
    counter: Mutex<Nft>,
    /// For what takes long, so that the reader is free for what somebody waits
    /// for.
    checker: tokio::sync::Mutex<(Conn, Entries, Nft)>,
    watch: mpsc::UnboundedSender<Command>,
    own_netns: Arc<File>,
}

/// What `ops` want of ports; `None`: nothing any more.
fn guards_of(ops: &[KernelOp]) -> BTreeMap<IfName, Option<Guard>> {
    let guard = |op: &KernelOp| match op {
        KernelOp::Put(ObjectKey::Guard(name), Object::Guard(guard)) => {
            Some((name.clone(), Some((**guard).clone())))
        }
        KernelOp::Del(ObjectKey::Guard(name), _) => Some((name.clone(), None)),
        _ => None,
    };
    ops.iter().filter_map(guard).collect()
}

fn removes(op: &KernelOp) -> bool {
    matches!(op, KernelOp::Del(..) | KernelOp::DelLink(_))
}

/// The indices of our links by name, kept by the watch and by whoever makes
/// one.
pub(crate) type Indices = Arc<Mutex<HashMap<IfName, u32>>>;

/// Performs operations, one at a time.
pub(crate) struct Writer {
    pub(crate) conn: Conn,
    pub(crate) table: Entries,
    /// What ports are to say by what is being performed.
    coming: BTreeMap<IfName, Option<Guard>>,
    pub(crate) own_netns: Arc<File>,
    indices: Indices,
    own_nft: Arc<OwnNft>,
    nft: Nft,
    nat: Memory,
    next_index: u32,
}

impl Kernel {
    /// Opens the kernel of the calling thread's network namespace and starts
    /// to watch it.
    ///
    /// Every change of what is ours, from before the first [`Kernel::dump`] on,
    /// is queued into the receiver. Should the kernel have lost notifications
    /// (it keeps 32 MiB of them), a [`KernelChange::Snapshot`] follows. An
    /// object may be told more than once, and `None` may be told of one that
    /// never was.
    ///
    /// # Errors
    /// [`KernelError`] if a socket cannot be opened or the links cannot be read.
    pub async fn open() -> Result<(Self, mpsc::UnboundedReceiver<KernelChange>), KernelError> {
        Self::open_with(None).await
    }

    /// [`Kernel::open`]; besides, the network card shall or shall not write the
    /// checksums of what VXLAN devices carry. `None`: as it is.
    ///
    /// # Errors
    /// As [`Kernel::open`].
    pub async fn open_with(
        tx_checksum: Option<bool>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<KernelChange>), KernelError> {
        let offload = tx_checksum.map(Offload::new).transpose().map_err(KernelError::Open)?;
        let offload = offload.map(Arc::new);
        let own_netns = Arc::new(netns::own().map_err(KernelError::Open)?);
        let conn = || {
            let mut conn = Conn::open().map_err(KernelError::Open)?;
            conn.offload.clone_from(&offload);
            Ok(conn)
        };
        let indices = Indices::default();
        let nft = Nft::open();
        let own_nft = Arc::new(OwnNft::of(nft.port()));
        let writing = conn()?;
        let table = || Entries::open().map_err(KernelError::Open);
        let writing_table = table()?;
        let own = vec![writing.port(), writing_table.port()];
        let (watch, changes) =
            watch::start((conn()?, table()?), Arc::clone(&indices), Arc::clone(&own_nft), own)
                .await?;
        let writer = Writer {
            conn: writing,
            table: writing_table,
            coming: BTreeMap::new(),
            own_nft,
            nft,
            nat: Memory::default(),
            own_netns: Arc::clone(&own_netns),
            indices,
            next_index: first_index(),
        };
        let inner = Inner {
            writer: tokio::sync::Mutex::new(writer),
            reader: tokio::sync::Mutex::new(conn()?),
            counter: Mutex::new(Nft::open()),
            checker: tokio::sync::Mutex::new((conn()?, table()?, Nft::open())),
            watch,
            own_netns,
        };
        Ok((Self(Arc::new(inner)), changes))
    }

    /// Waits until all that the kernel has told so far is in the receiver.
    pub async fn settle(&self) {
        self.settle_after(Touched::default()).await;
    }

    /// The same of what the kernel does not tell of `touched` by itself.
    async fn settle_after(&self, touched: Touched) {
        let (done, told) = oneshot::channel();
        if self.0.watch.send(Command::Settle(touched, done)).is_err() || told.await.is_err() {
            tracing::error!("the watch of the kernel has ended: its changes go unseen");
        }
    }

    /// Reads everything that is ours, and what is foreign in this namespace.
    ///
    /// # Errors
    /// [`KernelError`]; nothing has changed.
    pub async fn dump(&self) -> Result<KernelState, KernelError> {
        let mut checker = self.0.checker.lock().await;
        let (conn, table, nft) = &mut *checker;
        Ok(read::state(conn, table, nft).await?.0)
    }

    /// What our rules have dropped so far, each kind on each port. Costs a few
    /// system calls, on demand.
    pub fn dropped(&self) -> Vec<Dropped> {
        firewall::dropped(&mut self.0.counter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often connections were sent elsewhere or given another address.
    pub fn translated(&self) -> Vec<Translated> {
        nat::translated(&mut self.0.counter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Settings of the host that are changed as long as our tables stand, for people.
    pub fn changed_settings(&self) -> Vec<String> {
        nat::changed_settings(&mut self.0.counter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads what is foreign; besides [`Kernel::dump`], this looks into the
    /// namespaces that have a name for VXLAN devices that hold a VNI here.
    ///
    /// # Errors
    /// [`KernelError`]; nothing has changed.
    pub async fn foreign(&self) -> Result<Foreign, KernelError> {
        let mut foreign = {
            let mut conn = self.0.reader.lock().await;
            let links = read::links(&mut conn).await?;
            read::foreign(&mut conn, &links).await?
        };
        foreign.vxlans.extend(holder::foreign_elsewhere(&self.0.own_netns).await);
        Ok(foreign)
    }

    /// Tries all of `ops` in their order.
    ///
    /// When it returns, every change that they caused is in the receiver.
    pub async fn apply(&self, ops: Vec<KernelOp>) -> ApplyReport {
        let mut report = ApplyReport::default();
        let mut touched = Touched::default();
        {
            let mut writer = self.0.writer.lock().await;
            let mut batch = Vec::new();
            writer.coming = guards_of(&ops);
            let mut guards = Vec::new();
            let mut unguarded = BTreeMap::new();
            for op in ops {
                if matches!(op.key(), ObjectKey::Guard(_)) {
                    guards.push(op);
                    continue;
                }
                unguarded.append(&mut writer.guard(std::mem::take(&mut guards), &mut report));
                match op.key() {
                    ObjectKey::Link(name) | ObjectKey::Port(name) => {
                        touched.links.insert(name);
                    }
                    ObjectKey::Firewall | ObjectKey::PortRules | ObjectKey::Nat => {
                        touched.firewall = true;
                    }
                    key => {
                        if matches!(key, ObjectKey::Address(..)) {
                            touched.addresses.insert(key);
                        }
                        batch.push(op);
                        if batch.len() == BATCH {
                            writer.entries(std::mem::take(&mut batch), &mut report).await;
                            // Whoever reads what the kernel tells of it gets a turn.
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                }
                writer.entries(std::mem::take(&mut batch), &mut report).await;
                let done = match unguarded.remove(&op.key()) {
                    // No port is made that could send before its rules stand.
                    Some(why) if !removes(&op) => Err(why),
                    _ => writer.single(&op).await,
                };
                match done {
                    Ok(()) => report.done += 1,
                    Err(Failure { refusal, errno, text }) => {
                        report.failed.push(OpFailure { op, refusal, errno, text });
                    }
                }
            }
            writer.guard(guards, &mut report);
            writer.entries(batch, &mut report).await;
        }
        self.settle_after(touched).await;
        report
    }
}

impl Writer {
    /// Performs an operation on a link or the firewall.
    async fn single(&mut self, op: &KernelOp) -> Result<(), Failure> {
        match op {
            KernelOp::AddLink(name, link) => {
                self.add_link(name, link).await?;
                if matches!(link.kind, LinkKind::Bridge) {
                    nat::route_localnet(name.as_str());
                }
                Ok(())
            }
            KernelOp::SetLink(name, change) => self.set_link(name, change).await,
            KernelOp::DelLink(name) => self.del_link(name).await,
            KernelOp::Put(ObjectKey::Port(name), Object::Port(port)) => {
                self.put_port(name, port).await
            }
            KernelOp::Del(ObjectKey::Port(name), Object::Port(port)) => {
                self.release_port(name, port).await
            }
            KernelOp::Put(ObjectKey::Firewall, Object::Firewall(firewall)) => {
                self.own_nft.busy.store(true, Ordering::Release);
                firewall::put(firewall, &mut self.nft, &self.own_nft.pid).await
            }
            KernelOp::Put(ObjectKey::Nat, Object::Nat(Translation { nat: Some(nat), .. })) => {
                self.own_nft.busy.store(true, Ordering::Release);
                nat::put(nat, &mut self.nat, &mut self.nft, &self.own_nft.pid).await?;
                nat::bridges().for_each(|bridge| nat::route_localnet(&bridge));
                Ok(())
            }
            KernelOp::Del(ObjectKey::Nat, _) => {
                self.own_nft.busy.store(true, Ordering::Release);
                nat::del(&mut self.nat, &mut self.nft, &self.own_nft.pid).await
            }
            KernelOp::Put(ObjectKey::PortRules, _) => {
                self.own_nft.busy.store(true, Ordering::Release);
                firewall::put_port_rules(&self.coming, &mut self.nft, &self.own_nft.pid).await
            }
            KernelOp::Del(ObjectKey::Firewall, _) => {
                self.own_nft.busy.store(true, Ordering::Release);
                firewall::del(firewall::INET, &self.own_nft.pid).await
            }
            KernelOp::Del(ObjectKey::PortRules, _) => {
                self.own_nft.busy.store(true, Ordering::Release);
                firewall::del(firewall::BRIDGE, &self.own_nft.pid).await
            }
            KernelOp::Put(..) | KernelOp::Del(..) => {
                Err(Failure::new(Refusal::Other, format!("`{op}` is no operation on an entry")))
            }
        }
    }

    /// Performs operations on what ports may say, in one transaction. Returns
    /// the ports that may say nothing yet, with the reason.
    fn guard(
        &mut self,
        ops: Vec<KernelOp>,
        report: &mut ApplyReport,
    ) -> BTreeMap<ObjectKey, Failure> {
        let mut unguarded = BTreeMap::new();
        if ops.is_empty() {
            return unguarded;
        }
        let wanted = guards_of(&ops);
        let done = {
            let known = self.own_nft.guards.lock().unwrap_or_else(PoisonError::into_inner);
            firewall::put_guards(&wanted, &known, &mut self.nft)
        };
        match done {
            Ok(()) => report.done += ops.len(),
            Err(err) => {
                let failure = Failure::from(err).during("nftables elements of ports");
                for op in ops {
                    if let KernelOp::Put(ObjectKey::Guard(name), _) = &op {
                        for key in [ObjectKey::Link(name.clone()), ObjectKey::Port(name.clone())] {
                            unguarded.insert(key, failure.clone());
                        }
                    }
                    let Failure { refusal, errno, text } = failure.clone();
                    report.failed.push(OpFailure { op, refusal, errno, text });
                }
            }
        }
        unguarded
    }

    /// The index of a link of ours; `fresh` asks the kernel even if we know one.
    pub(crate) async fn index_of(
        &mut self,
        name: &IfName,
        fresh: bool,
    ) -> Result<Option<u32>, NlError> {
        if !fresh && let Some(index) = lock(&self.indices).get(name) {
            return Ok(Some(*index));
        }
        match read::link_by_name(&mut self.conn, name).await? {
            Some(row) if row.carries_ours() && row.name == name.as_str() => {
                self.remember(name, row.index);
                Ok(Some(row.index))
            }
            _ => {
                self.forget(name);
                Ok(None)
            }
        }
    }

    pub(crate) fn remember(&mut self, name: &IfName, index: u32) {
        lock(&self.indices).insert(name.clone(), index);
    }

    pub(crate) fn forget(&mut self, name: &IfName) {
        lock(&self.indices).remove(name);
    }

    pub(crate) fn next_index(&mut self) -> u32 {
        let index = self.next_index;
        self.next_index = if index >= LAST_INDEX { FIRST_INDEX } else { index + 1 };
        index
    }
}

pub(crate) fn lock(indices: &Indices) -> std::sync::MutexGuard<'_, HashMap<IfName, u32>> {
    // A map of numbers is whole whatever its holder died of.
    indices.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The indices that we choose from: above what the kernel gives in any life
/// of a host (it counts up from 1), and below what a reader cannot remember.
pub(crate) const FIRST_INDEX: u32 = 1 << 20;
const LAST_INDEX: u32 = (1 << 24) - 1;

/// Where this process begins to count: anywhere, so that two of us (a daemon
/// and `overlayd teardown`) do not choose the same index at the same moment.
fn first_index() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    FIRST_INDEX + (random % u64::from(LAST_INDEX - FIRST_INDEX)) as u32
}
