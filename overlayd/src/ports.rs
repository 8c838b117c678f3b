//! Ports of the host that lead to endpoints: held, so that no other program takes
//! one, and so that whoever has one already is found out at once.
//!
//! A port is held by a socket that is bound to it and does nothing: packets to it
//! are led away before they come to any socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname,
    setsockopt, socket, sockopt,
};
use overlay_model::{Protocol, Publish};

/// One port at one address; no address: at all of them, of both families.
type Front = (Protocol, u16, Option<IpAddr>);

/// The ports that are held. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Ports(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    sockets: BTreeMap<Front, Socket>,
    /// Of the published ones, those that are not held, and why.
    unheld: BTreeMap<Publish, String>,
}

#[derive(Debug)]
struct Socket {
    /// `None`: the kernel knows no such protocol, so nobody can take it.
    _fd: Option<OwnedFd>,
    /// Requests that are under way and want it.
    claims: usize,
    /// It is published.
    published: bool,
}

/// A port cannot be had.
#[derive(Debug)]
pub struct Taken {
    what: String,
    why: String,
    /// One of our own endpoints has it.
    pub by_us: bool,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} {}", self.what, self.why)
    }
}

/// Ports that a request wants: let go with it, unless they were published.
#[derive(Debug)]
pub struct Claim {
    ports: Ports,
    fronts: Vec<Front>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.ports.held();
        for front in &self.fronts {
            if let Some(socket) = held.sockets.get_mut(front) {
                socket.claims -= 1;
                if socket.claims == 0 && !socket.published {
                    held.sockets.remove(front);
                }
            }
        }
    }
}

impl Ports {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Whoever died while he held it left sockets, which are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the ports of all of `wanted`, and chooses those that are to be any.
    ///
    /// # Errors
    /// [`Taken`] if one cannot be had; then none is.
    pub fn claim(&self, wanted: &mut [Publish]) -> Result<Claim, Taken> {
        let mut claim = Claim { ports: self.clone(), fronts: Vec::new() };
        for publish in wanted {
            for (port, _) in publish.pairs().collect::<Vec<_>>() {
                let mut front = (publish.protocol, port, publish.at);
                let mut held = self.held();
                let known = held.sockets.get_mut(&front).filter(|_| port != 0);
                if let Some(socket) = known {
                    // Two endpoints of one service: whether they are, the engine judges.
                    socket.claims += 1;
                    claim.fronts.push(front);
                    continue;
                }
                match take(front) {
                    Ok((fd, chosen)) => {
                        front.1 = chosen;
                        let socket = Socket { _fd: fd, claims: 1, published: false };
                        held.sockets.insert(front, socket);
                        claim.fronts.push(front);
                        if port == 0 {
                            publish.host_port = chosen;
                        }
                    }
                    Err(err) => {
                        let why = why(front, &err);
                        // Gossip, or another endpoint's.
                        let own = format!("(pid {})", std::process::id());
                        let by_us = held.meets(front) || why.ends_with(&own);
                        drop(held);
                        return Err(Taken { what: text(front), why, by_us });
                    }
                }
            }
        }
        Ok(claim)
    }

    /// From now on these are published, and no others. Says which of them cannot be
    /// held that could be before.
    pub fn hold(&self, published: &[Publish]) -> Vec<(Publish, String)> {
        let mut held = self.held();
        let mut wanted: BTreeSet<Front> = BTreeSet::new();
        let mut unheld = BTreeMap::new();
        for publish in published {
            for (port, _) in publish.pairs() {
                let front = (publish.protocol, port, publish.at);
                wanted.insert(front);
                if let Some(socket) = held.sockets.get_mut(&front) {
                    socket.published = true;
                    continue;
                }
                match take(front) {
                    Ok((fd, _)) => {
                        let socket = Socket { _fd: fd, claims: 0, published: true };
                        held.sockets.insert(front, socket);
                    }
                    Err(err) => {
                        unheld.entry(*publish).or_insert_with(|| why(front, &err));
                    }
                }
            }
        }
        for (front, socket) in &mut held.sockets {
            socket.published &= wanted.contains(front);
        }
        held.sockets.retain(|_, socket| socket.published || socket.claims > 0);
        let new = unheld.iter().filter(|(publish, _)| !held.unheld.contains_key(publish));
        let new = new.map(|(publish, why)| (*publish, why.clone())).collect();
        held.unheld = unheld;
        new
    }

    /// Published ports that are not held, and why.
    pub fn unheld(&self) -> BTreeMap<Publish, String> {
        self.held().unheld.clone()
    }

    /// The same, for people.
    pub fn warnings(&self) -> Vec<String> {
        let unheld = self.unheld();
        let line = |(publish, why): (&Publish, &String)| format!("published port {publish} {why}");
        unheld.iter().map(line).collect()
    }
}

impl Held {
    /// A port of ours is at the same number, at an address in common.
    fn meets(&self, (protocol, port, at): Front) -> bool {
        self.sockets.keys().any(|(p, n, other)| {
            (*p, *n) == (protocol, port) && (at.is_none() || other.is_none() || at == *other)
        })
    }
}

fn text((protocol, port, at): Front) -> String {
    match at {
        Some(ip) => format!("{}/{protocol}", SocketAddr::new(ip, port)),
        None => format!("{port}/{protocol}"),
    }
}

/// Binds a port; which it is, if it was 0.
fn take((protocol, port, at): Front) -> io::Result<(Option<OwnedFd>, u16)> {
    let bound = match at {
        Some(ip) => take_at(protocol, SocketAddr::new(ip, port)),
        // Of both families where the host has both.
        None => match take_at(protocol, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
                take_at(protocol, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
            }
            other => other,
        },
    };
    match bound {
        Err(Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT) if port != 0 => Ok((None, port)),
        Err(errno) => Err(errno.into()),
        Ok(fd) => {
            let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
            let v4 = name.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
            let v6 = name.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port);
            Ok((Some(fd), v4.or(v6).unwrap_or(port)))
        }
    }
}

fn take_at(protocol: Protocol, at: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, number)?;
    if at.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &!at.ip().is_unspecified())?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(fd)
}

/// Why a port cannot be had, for people.
fn why(front @ (_, _, at): Front, err: &io::Error) -> String {
    match err.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => match holder(front) {
            Some(holder) => format!("is taken by {holder}"),
            None => "is taken by the kernel, as VXLAN and WireGuard take theirs".to_owned(),
        },
        Some(Errno::EADDRNOTAVAIL) => {
            let ip = at.map_or_else(String::new, |ip| ip.to_string());
            format!("cannot be had: {ip} is no address of this host")
        }
        _ => format!("cannot be had: {err}"),
    }
}

/// The process that has a port, by what `/proc/net` tells.
fn holder((protocol, port, at): Front) -> Option<String> {
    let inodes = inodes_at(protocol, port, at);
    let mut named: BTreeSet<String> = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let has = fds.filter_map(Result::ok).any(|fd| {
            std::fs::read_link(fd.path()).is_ok_and(|to| {
                let to = to.to_string_lossy();
                let inode = to.strip_prefix("socket:[").and_then(|to| to.strip_suffix(']'));
                inode.is_some_and(|inode| inodes.contains(inode))
            })
        });
        if has {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            named.insert(format!("{} (pid {pid})", name.trim()));
        }
    }
    named.into_iter().next()
}

/// Inodes of the sockets that are bound so that `port` cannot be.
fn inodes_at(protocol: Protocol, port: u16, at: Option<IpAddr>) -> BTreeSet<String> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => return BTreeSet::new(),
    };
    let read = |table: &&str| std::fs::read_to_string(Path::new("/proc/net").join(table)).ok();
    let mut inodes = BTreeSet::new();
    for table in tables.iter().filter_map(read) {
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(inode)) = (words.get(1), words.get(9)) else { continue };
            let Some((ip, number)) = local_of(local) else { continue };
            let meets = number == port
                && (ip.is_unspecified() || at.is_none_or(|at| at == ip || at == ip.to_canonical()));
            if meets {
                inodes.insert((*inode).to_owned());
            }
        }
    }
    inodes
}

/// An address as `/proc/net/tcp` writes it: words in the host's byte order.
fn local_of(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for word in ip.as_bytes().chunks(8) {
        if word.len() < 8 {
            return None;
        }
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests;
