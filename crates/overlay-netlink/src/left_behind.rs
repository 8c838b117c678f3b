//! What the kernel still tells of a daemon whose state file is lost: which host
//! it was, and where its veths lead.
//!
//! Which host says the alias of every bridge. It is worth more than a file: it
//! is not on a disk that is copied, and goes with the machine's boot.
//!
//! A veth says the index of its other end, and the number of the namespace that
//! this is in. Which path leads there it does not say, so all namespaces are
//! looked through that are mounted somewhere or that a process is in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use overlay_model::{EndpointId, HostId, IfName, NetnsRef};

use crate::error::KernelError;
use crate::holder::nsid_of;
use crate::netns::{self, netns_of};
use crate::read::{self, LinkRow, Links, RowKind};
use crate::wire::Conn;

/// Where the other end of a veth is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Its namespace, by a path that leads there now.
    pub netns: NetnsRef,
    /// Its name there.
    pub ifname: IfName,
    /// A default route of the namespace goes by it.
    pub default_route: bool,
}

/// Which host made the bridges of ours that are here; `None` if there are none,
/// or if they do not all say the same.
///
/// # Errors
/// [`KernelError`] if the kernel cannot be read.
pub async fn former_host() -> Result<Option<HostId>, KernelError> {
    let links = read::links(&mut open()?).await?;
    let hosts: BTreeSet<HostId> = links.values().filter_map(LinkRow::host).collect();
    Ok(hosts.first().copied().filter(|_| hosts.len() == 1))
}

/// Where the veths of ours lead, as far as that is found.
///
/// # Errors
/// [`KernelError`] if the kernel cannot be read.
pub async fn homes() -> Result<BTreeMap<EndpointId, Home>, KernelError> {
    let mut conn = open()?;
    let links = read::links(&mut conn).await?;
    let mut veths: Vec<(EndpointId, &LinkRow)> = links
        .values()
        .filter(|row| row.kind == RowKind::Veth && row.ours())
        .filter_map(|row| Some((row.name.strip_prefix("ove")?.parse().ok()?, row)))
        .collect();
    let mut found = BTreeMap::new();
    for path in namespaces() {
        if veths.is_empty() {
            break;
        }
        let Ok(file) = netns::open_netns(&path) else { continue };
        let Some(number) = nsid_of(&mut conn, &file).await else { continue };
        let leads_there = |row: &LinkRow| row.link_netnsid == Some(number);
        if !veths.iter().any(|(_, row)| leads_there(row)) {
            continue;
        }
        let Ok(Ok(mut inside)) = netns::inside(&file, Conn::open).await else { continue };
        let Ok(there) = read::links(&mut inside).await else { continue };
        let Ok(routes) = read::routes(&mut inside).await else { continue };
        let Ok(netns) = netns_of(&path) else { continue };
        let routed: BTreeSet<u32> = routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .flat_map(|route| route.devices.iter().copied())
            .collect();
        veths.retain(|(id, row)| {
            let far = leads_there(row).then(|| other_end(row, &there)).flatten();
            let Some(far) = far else { return true };
            let Some(ifname) = far.ifname() else { return true };
            let default_route = routed.contains(&far.index);
            found.insert(*id, Home { netns: netns.clone(), ifname, default_route });
            false
        });
    }
    Ok(found)
}

fn open() -> Result<Conn, KernelError> {
    Conn::open().map_err(KernelError::Open)
}

fn other_end<'a>(near: &LinkRow, there: &'a Links) -> Option<&'a LinkRow> {
    let far = there.get(&near.other_end?)?;
    (far.kind == RowKind::Veth && far.other_end == Some(near.index)).then_some(far)
}

/// A path to each namespace: those that somebody has given a name first, since
/// they outlive processes.
fn namespaces() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut paths: Vec<PathBuf> = mounts.lines().filter_map(mounted).collect();
    paths.sort();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    paths.extend(pids.iter().map(|pid| Path::new("/proc").join(format!("{pid}/ns/net"))));
    let mut seen = BTreeSet::new();
    paths.retain(|path| fs::metadata(path).is_ok_and(|meta| seen.insert((meta.dev(), meta.ino()))));
    paths
}

/// Where a line of mountinfo (proc(5)) has a network namespace mounted.
fn mounted(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(' ');
    let root = fields.nth(3)?;
    let at = fields.next()?;
    // Blanks and the like are written as octal numbers; such a path is found by its process.
    (root.starts_with("net:[") && !at.contains('\\')).then(|| PathBuf::from(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_mounts_those_of_network_namespaces_are_found() {
        let netns = "612 29 0:4 net:[4026532610] /run/netns/web rw shared:5 - nsfs nsfs rw";
        assert_eq!(mounted(netns), Some("/run/netns/web".into()));
        let other = "613 29 0:4 mnt:[4026532611] /run/mnt/web rw shared:5 - nsfs nsfs rw";
        assert_eq!(mounted(other), None);
        assert_eq!(mounted("36 35 98:0 / /mnt rw,noatime - ext3 /dev/root rw"), None);
        assert_eq!(mounted(""), None);
    }
}
