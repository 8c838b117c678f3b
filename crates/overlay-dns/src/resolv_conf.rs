//! `/etc/resolv.conf`: the host's, read and followed; a container's, written.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::DOMAIN;

/// Resolvers that are asked: as many as glibc takes.
const MAX_SERVERS: usize = 3;

/// Search domains that are handed on.
const MAX_SEARCH: usize = 16;

/// Bytes of the file that are read.
const MAX_SIZE: u64 = 64 << 10;

/// How often the file is looked at while somebody asks. At rest it is not looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a host's resolvers are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostResolvers {
    /// In order, at most three; as glibc, this host's port 53 if none is named.
    pub servers: Vec<SocketAddr>,
    /// Its search domains.
    pub search: Vec<String>,
}

impl HostResolvers {
    /// Reads the text of a `resolv.conf`. What makes no sense is left out, as libc does.
    pub fn read(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
            match words.next() {
                Some("nameserver") if read.servers.len() < MAX_SERVERS => {
                    let server = words.next().and_then(server);
                    read.servers.extend(server.filter(|server| !read.servers.contains(server)));
                }
                // The last one counts.
                Some("search" | "domain") => {
                    let domains = words.map(|word| word.trim_end_matches('.'));
                    let domains = domains.filter(|domain| is_domain(domain)).take(MAX_SEARCH);
                    read.search = domains.map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        if read.servers.is_empty() {
            read.servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        read
    }
}

/// An address, of IPv6 with the interface behind `%` that a link-local one needs.
fn server(text: &str) -> Option<SocketAddr> {
    let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| (ip, Some(scope)));
    Some(match (ip.parse().ok()?, scope) {
        (IpAddr::V6(ip), Some(scope)) => {
            let index = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok())?;
            SocketAddrV6::new(ip, 53, 0, index).into()
        }
        (ip, _) => (ip, 53).into(),
    })
}

fn is_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
}

/// The `resolv.conf` of a container: where it asks, on which networks it is, and where else short
/// names are looked for.
///
/// Ours come first, so that a name of ours is never asked of anybody else; `ndots:1`, whatever the
/// host has, so that a short name is looked for in them before it goes anywhere as it stands.
pub fn write(servers: &[IpAddr], networks: &[&str], search: &[String]) -> String {
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text.push_str("search");
    for network in networks {
        let _ = write!(text, " {network}.{DOMAIN}");
    }
    for domain in search {
        let _ = write!(text, " {domain}");
    }
    text.push_str("\noptions ndots:1\n");
    text
}

/// The host's `resolv.conf`, as it is when somebody asks.
#[derive(Debug)]
pub struct ResolvConf {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    looked: Option<Instant>,
    /// What tells one writing of the file from the next.
    stamp: Option<(u64, u64, i64, i64, u64)>,
    read: Arc<HostResolvers>,
}

impl ResolvConf {
    /// Follows the file at `path`.
    pub fn follow(path: &Path) -> Self {
        let read = Arc::new(HostResolvers::read(""));
        let last = Last { looked: None, stamp: None, read };
        Self { path: path.to_owned(), last: Mutex::new(last) }
    }

    /// Which file it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says. It is read again when it is another, a second later at most.
    pub fn now(&self) -> Arc<HostResolvers> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            last.looked = Some(Instant::now());
            let stamp = std::fs::metadata(&self.path).ok().map(|meta| stamp(&meta));
            if stamp != last.stamp || stamp.is_none() {
                last.stamp = stamp;
                last.read = Arc::new(HostResolvers::read(&self.text()));
                tracing::debug!(servers = ?last.read.servers, "the host's resolvers are read");
            }
        }
        last.read.clone()
    }

    /// Without a file that can be read it is as if it were empty.
    fn text(&self) -> String {
        use std::io::Read as _;
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(&self.path) {
            let _ = file.take(MAX_SIZE).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn stamp(meta: &Metadata) -> (u64, u64, i64, i64, u64) {
    (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}

#[cfg(test)]
mod tests;
