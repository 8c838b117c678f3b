//! Whose hand it was: from the port id in a notification to a process.
//!
//! The kernel notes in a notification which netlink socket asked for the
//! change (`nlmsg_pid`). A program's first socket has the number of its
//! process; further ones have any number. `/proc/net/netlink` ties a number to
//! a socket's inode, and `/proc/<pid>/fd` the inode to a process.
//!
//! What stays unknown: FDB entries, of which the kernel notes nobody; and a
//! program such as `ip`, which may have ended before we can look.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use overlay_model::Hand;

/// Ports are looked up once while no more than these are known.
const REMEMBERED: usize = 64;

/// Route netlink in the second column of `/proc/net/netlink`.
const ROUTE: &str = "0";

/// Looks hands up.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    /// Ports of our own sockets: what they do is no news.
    own: Vec<u32>,
    known: HashMap<u32, Hand>,
}

impl Hands {
    pub(crate) fn new(own: Vec<u32>) -> Self {
        Self { own, known: HashMap::new() }
    }

    /// Who has the route netlink socket `port`; `None` for the kernel and for
    /// ourselves.
    pub(crate) fn of_port(&mut self, port: u32) -> Option<Box<Hand>> {
        if port == 0 || self.own.contains(&port) {
            return None;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let hand = self.known.entry(port).or_insert_with(|| look_up(port));
        Some(Box::new(hand.clone()))
    }

    /// Forgets who had which port: another process may have it now.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }
}

fn look_up(port: u32) -> Hand {
    let unknown = Hand { port: Some(port), pid: None, program: None };
    let named = |pid: u32| Hand { port: Some(port), pid: Some(pid), program: program(pid) };
    let table = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    match inode_of(&table, port) {
        Some(inode) if holds(port, inode) => named(port),
        Some(inode) => pids().find(|pid| holds(*pid, inode)).map_or(unknown, named),
        // Its socket is closed; it may be about to end.
        None if program(port).is_some() => named(port),
        None => unknown,
    }
}

/// The inode of the socket with that port, of lines as
/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`.
fn inode_of(table: &str, port: u32) -> Option<u64> {
    let port = port.to_string();
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let wanted = columns.get(1) == Some(&ROUTE) && columns.get(2) == Some(&port.as_str());
        if wanted { columns.last()?.parse().ok() } else { None }
    })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|to| to == Path::new(&wanted))
}

fn program(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000ab2f0f5c 0   4711       00000000 0        0        0     2        0        123
00000000ab2f0f5d 12  4712       00000040 0        0        0     2        0        124
00000000ab2f0f5e 0   3221225473 00000411 0        0        0     2        0        125
";

    #[test]
    fn a_port_is_found_among_route_sockets_only() {
        assert_eq!(inode_of(TABLE, 4711), Some(123));
        assert_eq!(inode_of(TABLE, 4712), None, "nftables");
        assert_eq!(inode_of(TABLE, 3_221_225_473), Some(125));
    }

    #[test]
    fn a_socket_of_this_process_is_found_whatever_its_port() {
        let bind = || {
            let mut socket =
                netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
            let port = socket.bind_auto().unwrap().port_number();
            (socket, port)
        };
        // Only one of them can have our process id for a port.
        for (_socket, port) in [bind(), bind()].iter().map(|(s, port)| (s, *port)) {
            let hand = Hands::default().of_port(port).unwrap();
            assert_eq!(hand.pid, Some(std::process::id()), "{hand:?}");
            assert!(hand.program.is_some(), "{hand:?}");
        }
        let (_socket, own) = bind();
        assert_eq!(Hands::new(vec![own]).of_port(own), None, "our own");
        assert_eq!(Hands::default().of_port(0), None, "the kernel's");
        let gone = Hands::default().of_port(u32::MAX - 7).unwrap();
        assert_eq!(gone.to_string(), "netlink port 4294967288, whose process has ended");
    }
}
