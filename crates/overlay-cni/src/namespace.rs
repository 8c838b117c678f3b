//! What a CHECK looks at inside the container: its interface, addresses, and
//! default routes.
//!
//! The thread that looks enters the namespace and ends there; what it looks with
//! needs no netlink of our own.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::failure::{Code, Failure};

/// What a namespace holds, as far as a CHECK wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The interface is there.
    pub there: bool,
    /// Its Ethernet address.
    pub mac: Option<String>,
    /// Its addresses.
    pub ips: BTreeSet<IpAddr>,
    /// There is a default route, of IPv4 and of IPv6, by whatever interface.
    pub default_routes: [bool; 2],
}

/// Refuses what is no network namespace that a container can have: before
/// anything is asked of the daemon, so that the runtime gets the code for it.
///
/// # Errors
/// [`Code::UnknownContainer`] if nothing is there, else [`Code::InvalidNetns`].
pub fn check(path: &str, may_be_own: bool) -> Result<(), Failure> {
    let wrong = |why: &str| {
        let msg = format!("CNI_NETNS {path} {why}");
        Failure::new(Code::InvalidNetns, msg)
    };
    if !Path::new(path).is_absolute() {
        return Err(wrong("is no path from the root"));
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            let msg = format!("CNI_NETNS {path} does not exist: is the container running?");
            return Err(Failure::new(Code::UnknownContainer, msg));
        }
        Err(err) => return Err(wrong(&format!("cannot be opened: {err}"))),
    };
    let is_netns = fstatfs(&file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
    if !is_netns {
        return Err(wrong("is not a network namespace"));
    }
    let inode = |meta: std::io::Result<std::fs::Metadata>| meta.ok().map(|m| (m.dev(), m.ino()));
    let (theirs, own) = (inode(file.metadata()), inode(std::fs::metadata("/proc/self/ns/net")));
    if theirs == own && !may_be_own {
        return Err(wrong("is the plugin's own network namespace; a container needs its own"));
    }
    Ok(())
}

/// Looks at the interface `ifname` in the namespace at `path`.
///
/// # Errors
/// If the namespace cannot be entered.
pub fn look(path: &str, ifname: &str) -> Result<Held, Failure> {
    let (path, ifname) = (path.to_owned(), ifname.to_owned());
    let looked = std::thread::spawn(move || -> std::io::Result<Held> {
        setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
        let mut held = Held::default();
        // Where an interface was renamed, further addresses bear `eth0:2` as a label.
        let is_it = |name: &str| name.split(':').next() == Some(&*ifname);
        for address in getifaddrs()?.filter(|address| is_it(&address.interface_name)) {
            held.there = true;
            let Some(storage) = address.address else { continue };
            if let Some(v4) = storage.as_sockaddr_in() {
                held.ips.insert(v4.ip().into());
            } else if let Some(v6) = storage.as_sockaddr_in6() {
                held.ips.insert(v6.ip().into());
            } else if let Some(mac) = storage.as_link_addr().and_then(|link| link.addr()) {
                let bytes = mac.map(|byte| format!("{byte:02x}"));
                held.mac = Some(bytes.join(":"));
            }
        }
        held.default_routes = [
            has_default("/proc/thread-self/net/route", &["00000000"], 1, 7),
            has_default("/proc/thread-self/net/ipv6_route", &[&"0".repeat(32), "00"], 0, 1),
        ];
        Ok(held)
    })
    .join();
    let failed = |why: String| {
        Failure::new(Code::Io, format!("cannot look into the container's namespace: {why}"))
    };
    match looked {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(err)) => Err(failed(err.to_string())),
        Err(_) => Err(failed("the thread that looks has panicked".to_owned())),
    }
}

/// Whether a table of routes has one to everywhere. `first` stands in the columns
/// from `at` on, and what is in column `mask` is zero, too. Of IPv6 there is one
/// by `lo` in every namespace, which leads nowhere.
fn has_default(table: &str, first: &[&str], at: usize, mask: usize) -> bool {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fits = first.iter().enumerate().all(|(n, word)| words.get(at + n) == Some(word));
        let by_lo = words.last() == Some(&"lo");
        fits && !by_lo && words.get(mask).is_some_and(|word| word.bytes().all(|b| b == b'0'))
    })
}
