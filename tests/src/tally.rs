//! Counts what the kernel tells of stations' entries: what `bridge monitor` and
//! `ip monitor` print, without the cost of printing, for a hundred thousand of
//! them.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::shell::netns_path;

/// `RTMGRP_NEIGH` of linux/rtnetlink.h: FDB, ARP and ND.
const GROUP: u32 = 4;
const NEW: u16 = 28;
const DEL: u16 = 29;
/// `NDA_LLADDR` of linux/neighbour.h.
const LLADDR: u16 = 2;
/// Of a whole table.
const BUFFER: usize = 64 << 20;

/// What was told since the start, or since it was last taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Entries that were added or changed.
    pub added: u64,
    /// Entries that were removed.
    pub removed: u64,
    /// When the first and the last were read.
    pub span: Option<(SystemTime, SystemTime)>,
    /// The kernel told more than we could read.
    pub lost: bool,
}

/// A count that goes on.
#[derive(Debug)]
pub struct Tally {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tally {
    /// Counts in `netns` the entries of the MACs that begin with `prefix`.
    ///
    /// # Errors
    /// If the namespace or the socket cannot be opened.
    pub fn start(netns: &str, prefix: [u8; 2]) -> Result<Self> {
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let netns = File::open(netns_path(netns))?;
        let thread = {
            let (told, stop) = (Arc::clone(&told), Arc::clone(&stop));
            std::thread::spawn(move || {
                let opened = open(&netns);
                let socket = match opened {
                    Ok(socket) => socket,
                    Err(err) => return drop(ready.send(Err(err))),
                };
                let _ = ready.send(Ok(()));
                listen(&socket, prefix, &told, &stop);
            })
        };
        is_ready.recv().context("the thread ended")??;
        Ok(Self { told, stop, thread: Some(thread) })
    }

    /// What was told so far.
    pub fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    /// Begins to count anew.
    pub fn reset(&self) {
        *lock(&self.told) = Told::default();
    }

    /// Waits until at least `n` were added or removed and nothing was told for
    /// `quiet`.
    ///
    /// # Errors
    /// If that is not so within `limit`, or the kernel's buffer ran over.
    pub fn settled(&self, n: usize, quiet: Duration, limit: Duration) -> Result<Told> {
        let start = Instant::now();
        loop {
            let told = self.told();
            ensure!(!told.lost, "the kernel told more than could be read: {told:?}");
            let enough = told.added + told.removed >= n as u64;
            if enough && told.span.is_some_and(|(_, last)| last.elapsed().is_ok_and(|t| t > quiet))
            {
                return Ok(told);
            }
            ensure!(start.elapsed() < limit, "not {n} entries within {limit:?}: {told:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(netns: &File) -> Result<OwnedFd> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let socket = rtnetlink(GROUP, BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

/// A socket of `NETLINK_ROUTE` (rtnetlink(7)) in this thread's namespace, that
/// hears `groups` and has `buffer` bytes each way.
///
/// # Errors
/// If the kernel refuses.
pub fn rtnetlink(groups: u32, buffer: usize) -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    setsockopt(&socket, sockopt::SndBufForce, &buffer)?;
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, prefix: [u8; 2], told: &Mutex<Told>, stop: &AtomicBool) {
    let mut buf = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buf, MsgFlags::empty()) {
            Ok(len) => {
                let (added, removed) = count(&buf[..len], prefix);
                if added + removed > 0 {
                    let now = SystemTime::now();
                    let mut told = lock(told);
                    told.added += added;
                    told.removed += removed;
                    told.span = Some((told.span.map_or(now, |(first, _)| first), now));
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => lock(told).lost = true,
        }
    }
}

/// How many messages of a datagram add, and how many remove, an entry of a MAC
/// with this prefix. The layout is that of linux/netlink.h and
/// linux/neighbour.h: header of 16 bytes, `ndmsg` of 12, attributes.
fn count(mut datagram: &[u8], prefix: [u8; 2]) -> (u64, u64) {
    let u16_at = |b: &[u8], at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
    let (mut added, mut removed) = (0, 0);
    while datagram.len() >= 28 {
        let len = u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        if len < 28 || len > datagram.len() {
            break;
        }
        let kind = u16_at(datagram, 4);
        let mut attrs = &datagram[28..len];
        while attrs.len() >= 4 {
            let size = usize::from(u16_at(attrs, 0));
            if size < 4 || size > attrs.len() {
                break;
            }
            if u16_at(attrs, 2) == LLADDR && attrs[4..size].starts_with(&prefix) {
                match kind {
                    NEW => added += 1,
                    DEL => removed += 1,
                    _ => {}
                }
            }
            attrs = &attrs[size.next_multiple_of(4).min(attrs.len())..];
        }
        datagram = &datagram[len.next_multiple_of(4).min(datagram.len())..];
    }
    (added, removed)
}
