//! The handle of a kernel: what the rest of the daemon holds.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use overlay_model::{
    ApplyReport, Foreign, IfName, KernelChange, KernelOp, KernelState, Object, ObjectKey,
    OpFailure, Refusal,
};
use tokio::sync::{mpsc, oneshot};

use crate::entries::BATCH;
use crate::error::{Failure, KernelError, NlError};
use crate::offload::Offload;
use crate::watch::{self, Command, OwnNft, Touched};
use crate::wire::Conn;
use crate::{firewall, holder, netns, read};

/// The kernel of one network namespace. Clones are the same.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

struct Inner {
    writer: tokio::sync::Mutex<Writer>,
    reader: tokio::sync::Mutex<Conn>,
    /// For what takes long, so that the reader is free for what somebody waits
    /// for.
    checker: tokio::sync::Mutex<Conn>,
    watch: mpsc::UnboundedSender<Command>,
    own_netns: Arc<File>,
}

/// The indices of our links by name, kept by the watch and by whoever makes
/// one.
pub(crate) type Indices = Arc<Mutex<HashMap<IfName, u32>>>;

/// Performs operations, one at a time.
pub(crate) struct Writer {
    pub(crate) conn: Conn,
    pub(crate) own_netns: Arc<File>,
    indices: Indices,
    own_nft: Arc<OwnNft>,
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
        let offload = Arc::new(Offload::new(tx_checksum).map_err(KernelError::Open)?);
        let own_netns = Arc::new(netns::own().map_err(KernelError::Open)?);
        let conn = || {
            let mut conn = Conn::open().map_err(KernelError::Open)?;
            conn.offload = Some(Arc::clone(&offload));
            Ok(conn)
        };
        let indices = Indices::default();
        let own_nft = Arc::new(OwnNft::default());
        let writing = conn()?;
        let own = vec![writing.port()];
        let (watch, changes) =
            watch::start(conn()?, Arc::clone(&indices), Arc::clone(&own_nft), own).await?;
        let writer = Writer {
            conn: writing,
            own_nft,
            own_netns: Arc::clone(&own_netns),
            indices,
            next_index: first_index(),
        };
        let inner = Inner {
            writer: tokio::sync::Mutex::new(writer),
            reader: tokio::sync::Mutex::new(conn()?),
            checker: tokio::sync::Mutex::new(conn()?),
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
        let mut conn = self.0.checker.lock().await;
        Ok(read::state(&mut conn).await?.0)
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
            for op in ops {
                match op.key() {
                    ObjectKey::Link(name) | ObjectKey::Port(name) => {
                        touched.links.insert(name);
                    }
                    ObjectKey::Firewall => touched.firewall = true,
                    key => {
                        if matches!(key, ObjectKey::Address(..)) {
                            touched.addresses.insert(key);
                        }
                        batch.push(op);
                        if batch.len() == BATCH {
                            writer.entries(std::mem::take(&mut batch), &mut report).await;
                        }
                        continue;
                    }
                }
                writer.entries(std::mem::take(&mut batch), &mut report).await;
                match writer.single(&op).await {
                    Ok(()) => report.done += 1,
                    Err(Failure { refusal, errno, text }) => {
                        report.failed.push(OpFailure { op, refusal, errno, text });
                    }
                }
            }
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
            KernelOp::AddLink(name, link) => self.add_link(name, link).await,
            KernelOp::SetLink(name, change) => self.set_link(name, change).await,
            KernelOp::DelLink(name) => self.del_link(name).await,
            KernelOp::Put(ObjectKey::Port(name), Object::Port(port)) => {
                self.put_port(name, port).await
            }
            KernelOp::Del(ObjectKey::Port(name), Object::Port(port)) => {
                self.release_port(name, port).await
            }
            KernelOp::Put(ObjectKey::Firewall, Object::Firewall { bridges }) => {
                self.own_nft.busy.store(true, Ordering::Release);
                firewall::put(bridges, &self.own_nft.pid).await
            }
            KernelOp::Del(ObjectKey::Firewall, _) => {
                self.own_nft.busy.store(true, Ordering::Release);
                firewall::del(&self.own_nft.pid).await
            }
            KernelOp::Put(..) | KernelOp::Del(..) => {
                Err(Failure::new(Refusal::Other, format!("`{op}` is no operation on an entry")))
            }
        }
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
