//! Where containers ask for names: sockets in their namespaces, and at gateways' addresses.
//!
//! In a namespace names are asked for at 127.0.0.11, port 53, whatever the container listens at:
//! our sockets are at another port of that address, which the kernel chooses, and a table of ours
//! in the namespace leads there.
//!
//! ```text
//!   table ip overlayd {
//!     chain names { type nat hook output priority dstnat;
//!       ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:PORT
//!       ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:PORT } }
//! ```
//!
//! So a container that has `dnsmasq` at 0.0.0.0:53 keeps it. The table is written over netlink in
//! one transaction, without the `nft` program, which every attach would wait for.
//!
//! **A socket keeps its namespace.** One of ours would keep that of a container that has died, and
//! with it the veth pair whose end tells of the death. So whoever has such sockets asks
//! [`is_used`] from time to time, and closes them when nobody else is there.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use overlay_model::NetnsRef;
use overlay_model::kernel::NFT_TABLE;

use crate::error::NlError;
use crate::holder;
use crate::netns::{self, NetnsError, inside_blocking, open_netns};
use crate::nft::{Nft, Table};
use crate::read::{self, RowKind};
use crate::wire::Conn;

/// Where containers ask.
pub const DOOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const TABLE: Table = Table { family: libc::NFPROTO_IPV4, name: NFT_TABLE };

/// Names, everywhere.
const DNS: u16 = 53;

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The namespace cannot be had.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Another namespace has the path now.
    #[error("another network namespace is at {} now", .0.display())]
    Another(PathBuf),
    /// No socket could be made in it.
    #[error("cannot listen at {DOOR} in network namespace {}", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// No rule could be written in it.
    #[error(
        "cannot lead port 53 of {DOOR} to overlayd in network namespace {}; does the kernel have \
         nft_nat?", path.display()
    )]
    Rules {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        err: NlError,
    },
}

/// Sockets to answer at.
#[derive(Debug)]
pub struct Sockets {
    /// For what is asked in one packet.
    pub udp: UdpSocket,
    /// For what is longer.
    pub tcp: TcpListener,
    /// The number of the namespace that they are in, as `/proc` shows it.
    pub inode: u64,
}

/// Opens a door in `ns`: sockets, and rules that lead there. What an earlier door has left is
/// replaced. Blocks for some hundred microseconds.
///
/// # Errors
/// [`DoorError`]; nothing is left behind then, but that the loopback device is up.
pub fn open_door(ns: &NetnsRef) -> Result<Sockets, DoorError> {
    let file = open_netns(&ns.path)?;
    let path = || ns.path.clone();
    let socket = |err| DoorError::Socket { path: path(), err };
    let inode = file.metadata().map_err(socket)?.ino();
    let opened = inside_blocking(&file, || {
        if netns::cookie().map_err(socket)? != ns.cookie {
            return Err(DoorError::Another(path()));
        }
        loopback_up().map_err(socket)?;
        let udp = UdpSocket::bind((DOOR, 0)).map_err(socket)?;
        let tcp = TcpListener::bind((DOOR, 0)).map_err(socket)?;
        let [by_udp, by_tcp] = [udp.local_addr(), tcp.local_addr()];
        let ports = [by_udp.map_err(socket)?.port(), by_tcp.map_err(socket)?.port()];
        let rules = lead_to(ports);
        rules.map_err(|err| DoorError::Rules { path: path(), err })?;
        Ok(Sockets { udp, tcp, inode })
    });
    opened.map_err(socket)?
}

/// Removes the rules of a door from `ns`. No such namespace, and no rules, are success.
///
/// # Errors
/// If they are still there.
pub fn close_door(ns: &NetnsRef) -> Result<(), DoorError> {
    let file = match open_netns(&ns.path) {
        Ok(file) => file,
        Err(NetnsError::NotFound(_)) => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    let path = || ns.path.clone();
    let removed = inside_blocking(&file, || match netns::cookie() {
        Ok(cookie) if cookie == ns.cookie => remove_rules(),
        // It is gone.
        _ => Ok(()),
    });
    let removed = removed.map_err(|err| DoorError::Socket { path: path(), err })?;
    removed.map_err(|err| DoorError::Rules { path: path(), err })
}

/// Removes the rules of doors from every namespace that a port of ours leads to, and says from how
/// many. To be called before the ports are removed. What cannot be looked into is passed over.
pub async fn close_all_doors() -> usize {
    let Ok(mut conn) = Conn::open() else { return 0 };
    let Ok(links) = read::links(&mut conn).await else { return 0 };
    let ports = links.values().filter(|row| row.ours() && row.kind == RowKind::Veth);
    let mut behind: BTreeSet<i32> = ports.filter_map(|row| row.link_netnsid).collect();
    let of_processes = processes().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
    let mut closed = 0;
    for path in holder::named().into_iter().chain(of_processes) {
        if behind.is_empty() {
            break;
        }
        let Ok(file) = open_netns(&path) else { continue };
        let Some(id) = holder::nsid_of(&mut conn, &file).await else { continue };
        if behind.remove(&id) {
            let removed = inside_blocking(&file, || {
                let there = Nft::open().fingerprint(TABLE).is_ok_and(|there| there.is_some());
                there && remove_rules().is_ok()
            });
            closed += usize::from(removed.unwrap_or(false));
        }
    }
    closed
}

/// Sockets at port 53 of `ip`, an address of a bridge of ours, which may come later.
///
/// Others who listen at other addresses of that port, and those who come later and listen at all
/// of them by UDP, are not in our way, nor we in theirs: what is for `ip` comes to whoever is bound
/// to just that. By TCP the kernel allows that only if both are not at all addresses.
///
/// # Errors
/// For UDP, if somebody has the port at all addresses and does not share it; why there is none for
/// TCP stands beside what there is.
pub fn gateway_sockets(ip: IpAddr) -> io::Result<(UdpSocket, io::Result<TcpListener>)> {
    let udp = bound(ip, SockType::Datagram)?;
    let tcp = bound(ip, SockType::Stream).and_then(|tcp| {
        listen(&tcp, Backlog::new(128)?)?;
        Ok(tcp.into())
    });
    Ok((udp.into(), tcp))
}

fn bound(ip: IpAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    match ip {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::IpFreebind, &true)?,
        IpAddr::V6(_) => freebind6(&socket)?,
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((ip, DNS))))?;
    Ok(socket)
}

/// `IPV6_FREEBIND`, which nix does not have.
fn freebind6(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the call, and `on` is an `int` that is valid for reads of
    // as many bytes as the call is told, which is what this option takes (do_ipv6_setsockopt).
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IPV6,
            libc::IPV6_FREEBIND,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Who listens at `port` of all addresses: a program and its process.
pub fn port_holder(port: u16, by_tcp: bool) -> Option<String> {
    let protocol = if by_tcp { "tcp" } else { "udp" };
    let inode = ["", "6"].iter().find_map(|family| {
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{protocol}{family}"));
        table.ok()?.lines().skip(1).find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (ip, at) = fields.nth(1)?.split_once(':')?;
            let is_it = ip.bytes().all(|b| b == b'0') && u16::from_str_radix(at, 16) == Ok(port);
            // Behind the local address seven more are before the inode.
            fields.nth(7).filter(|_| is_it).map(str::to_owned)
        })
    })?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let has = |pid: &i32| {
        let held = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        held.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|at| at == socket))
    };
    let pid = processes().find(has)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

/// True if anybody but sockets uses the namespace with this number: a process is in it, or it has
/// a name. `last` is the process that was found the last time, and is looked at first.
///
/// A namespace that is held by an open descriptor alone counts as unused: nobody is in it who
/// could ask.
pub fn is_used(inode: u64, last: &mut Option<i32>) -> bool {
    let link = PathBuf::from(format!("net:[{inode}]"));
    let is_in =
        |pid: &i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|at| at == link);
    if last.as_ref().is_some_and(is_in) {
        return true;
    }
    // Fourth of the fields of a mount: what of its file system is mounted.
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    if mounts.lines().any(|mount| mount.split(' ').nth(3).is_some_and(|r| Path::new(r) == link)) {
        return true;
    }
    *last = processes().find(is_in);
    last.is_some()
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Puts up the loopback device of the calling thread's namespace, which gives it 127.0.0.0/8.
fn loopback_up() -> io::Result<()> {
    const LOOPBACK: i32 = 1;
    let up = libc::IFF_UP as u32;
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(up.to_ne_bytes());
    message.extend(up.to_ne_bytes());
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&message, &NetlinkAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // A header, then the number of the error, 0 for none.
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Writes the table of the calling thread's namespace; `ports` are that of UDP and that of TCP.
fn lead_to(ports: [u16; 2]) -> Result<(), NlError> {
    let rules: Vec<_> = [libc::IPPROTO_UDP, libc::IPPROTO_TCP]
        .into_iter()
        .zip(ports)
        .map(|(protocol, port)| ((protocol as u8, DOOR, DNS), (DOOR, port)))
        .collect();
    let mut nft = Nft::open();
    let result = nft.put_redirections(TABLE, "names", &rules);
    nft.put_away();
    result
}

fn remove_rules() -> Result<(), NlError> {
    let mut nft = Nft::open();
    let result = nft.delete_table(TABLE);
    nft.put_away();
    match result {
        Err(NlError::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
        result => result,
    }
}
