//! Network namespaces: found, told apart, entered.
//!
//! A thread that enters another namespace never comes back: it is made for
//! the purpose and ends. A socket that it opened stays in that namespace and
//! can be used from any thread.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use overlay_model::{IfName, NetnsRef};

/// Where `ip netns` keeps namespaces by name.
const RUN_NETNS: &str = "/run/netns";

/// Where namespaces are bound by name: `ip netns`, and Docker.
pub(crate) const NAMED: [&str; 2] = [RUN_NETNS, "/run/docker/netns"];

/// Why a path is no network namespace that a container can be attached in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is there.
    #[error("network namespace {} does not exist; list them with: ip netns", .0.display())]
    NotFound(PathBuf),
    /// Something else is there.
    #[error(
        "{} is not a network namespace; give a name of `ip netns`, or a path like /proc/PID/ns/net",
        .0.display()
    )]
    NotANetns(PathBuf),
    /// We may not open or enter it.
    #[error("no permission to enter network namespace {}; run as root", .0.display())]
    Permission(PathBuf),
    /// It is the namespace that we are in.
    #[error(
        "{} is the host's own network namespace; a container needs one of its own",
        .0.display()
    )]
    Own(PathBuf),
    /// Anything else.
    #[error("cannot enter network namespace {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// Finds a network namespace by path, or by a name of `ip netns`.
///
/// # Errors
/// [`NetnsError`]; also for the calling thread's own namespace, which would
/// make a container of the host.
pub fn netns_of(path_or_name: &Path) -> Result<NetnsRef, NetnsError> {
    find(path_or_name, || Ok(())).map(|(found, ())| found)
}

/// Finds a network namespace, and the names of the interfaces in it: one visit for
/// what every attach needs.
///
/// # Errors
/// As [`netns_of`].
pub fn look_into(path_or_name: &Path) -> Result<(NetnsRef, BTreeSet<IfName>), NetnsError> {
    find(path_or_name, ifnames)
}

/// Finds a namespace, and runs `look` in it.
fn find<T: Send>(
    path_or_name: &Path,
    look: impl FnOnce() -> io::Result<T> + Send,
) -> Result<(NetnsRef, T), NetnsError> {
    let path = if path_or_name.components().count() == 1 && path_or_name.is_relative() {
        Path::new(RUN_NETNS).join(path_or_name)
    } else {
        path_or_name.to_owned()
    };
    let failed = |err: io::Error| error_of(&path, err);
    let file = open_netns(&path)?;
    let looked = inside_blocking(&file, || Ok((cookie()?, look()?)));
    let (cookie, seen) = looked.and_then(|looked| looked).map_err(failed)?;
    if cookie == self::cookie().map_err(failed)? {
        return Err(NetnsError::Own(path));
    }
    Ok((NetnsRef { path, cookie }, seen))
}

/// The names of the interfaces in the calling thread's namespace.
fn ifnames() -> io::Result<BTreeSet<IfName>> {
    let names = nix::net::if_::if_nameindex()?;
    let names = names.iter();
    Ok(names.filter_map(|name| IfName::new(name.name().to_str().ok()?).ok()).collect())
}

/// The names of the interfaces in `ns`.
///
/// # Errors
/// [`NetnsError`]; [`NetnsError::NotFound`] too if another namespace is there
/// now than `ns` meant.
pub fn peer_ifnames(ns: &NetnsRef) -> Result<BTreeSet<IfName>, NetnsError> {
    let failed = |err: io::Error| error_of(&ns.path, err);
    let file = open_netns(&ns.path)?;
    let (cookie, names) = inside_blocking(&file, || Ok::<_, io::Error>((cookie()?, ifnames()?)))
        .and_then(|read| read)
        .map_err(failed)?;
    if cookie == ns.cookie { Ok(names) } else { Err(NetnsError::NotFound(ns.path.clone())) }
}

/// Opens `path` after making sure that it is a network namespace: opening
/// whatever a path names can block (a FIFO) or do things (a device).
pub(crate) fn open_netns(path: &Path) -> Result<File, NetnsError> {
    let failed = |errno: Errno| error_of(path, errno.into());
    let look = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    if fstatfs(&look).map_err(failed)?.filesystem_type() != NSFS_MAGIC {
        return Err(NetnsError::NotANetns(path.to_owned()));
    }
    let held = PathBuf::from(format!("/proc/self/fd/{}", look.as_raw_fd()));
    let file = File::open(held).map_err(|err| error_of(path, err))?;
    if namespace_type(&file).map_err(failed)? == libc::CLONE_NEWNET {
        Ok(file)
    } else {
        Err(NetnsError::NotANetns(path.to_owned()))
    }
}

fn error_of(path: &Path, err: io::Error) -> NetnsError {
    let path = path.to_owned();
    match err.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => NetnsError::NotFound(path),
        // A process in /proc/<pid> that ended between two looks.
        Some(Errno::ESRCH) => NetnsError::NotFound(path),
        Some(Errno::EPERM | Errno::EACCES) => NetnsError::Permission(path),
        _ => NetnsError::Io { path, err },
    }
}

/// The namespace of the calling thread.
pub(crate) fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// `SO_NETNS_COOKIE` of the calling thread's namespace.
pub(crate) fn cookie() -> io::Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        // A kernel booted without IPv4 sockets has no overlay either.
        .map_err(io::Error::from)?;
    let mut cookie: u64 = 0;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call; `cookie` and `len` are
    // valid for writes, and `len` says how many bytes `cookie` has, which is
    // what the kernel requires for this option (sock_getsockopt, lv = 8).
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}

/// `ioctl(NS_GET_NSTYPE)`: the `CLONE_NEW…` constant of a namespace.
fn namespace_type(file: &File) -> nix::Result<libc::c_int> {
    const NSIO: u8 = 0xb7;
    const NS_GET_NSTYPE: u8 = 0x3;
    // SAFETY: the descriptor is open for the call, belongs to nsfs (the caller
    // has checked), and this request takes no argument and returns a number.
    #[allow(unsafe_code)]
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), nix::request_code_none!(NSIO, NS_GET_NSTYPE)) };
    Errno::result(result)
}

/// Runs `f` in the namespace of `file` on a thread made for it, and waits.
pub(crate) fn inside_blocking<T: Send>(file: &File, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("overlay-netns".into())
            .spawn_scoped(scope, || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `f` in the namespace of `file` on a thread made for it, in the context
/// of the current runtime, so that `f` may open a `Conn`.
pub(crate) async fn inside<T: Send + 'static>(
    file: &File,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let file = file.try_clone()?;
    let runtime = tokio::runtime::Handle::current();
    let (done, result) = tokio::sync::oneshot::channel();
    thread::Builder::new().name("overlay-netns".into()).spawn(move || {
        let _runtime = runtime.enter();
        let entered = setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // Nobody listens if the caller was cancelled.
        let _ = done.send(entered.map(|()| f()));
    })?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("a thread in another namespace died")))
}
