//! Who holds a VNI.
//!
//! A VXLAN device holds its VNI and port in the namespace in which it was
//! made, even after it was moved into another one. So the holder may be
//! invisible from here, and its name has to be looked for elsewhere.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use overlay_model::{ForeignVxlan, Vni};

use crate::links::clashes;
use crate::netns;
use crate::read::{self, LinkRow, RowKind};
use crate::wire::Conn;

/// Names the device that holds `vni` on `port` in the namespace of `conn`, in
/// the family of `local`.
pub(crate) async fn find(
    conn: &mut Conn,
    own: &File,
    vni: Vni,
    port: u16,
    local: IpAddr,
) -> Option<String> {
    let holds = |row: &LinkRow| match &row.kind {
        RowKind::Vxlan(vxlan) => clashes(vxlan, vni, port, local),
        _ => false,
    };
    if let Some(row) = read::links(conn).await.ok()?.values().find(|row| holds(row)) {
        return Some(format!("device {}; remove it or choose another VNI", row.name));
    }
    elsewhere(own).await.into_iter().find(|(_, row)| holds(row)).map(|(netns, row)| {
        format!("device {} in network namespace {netns}; remove it or choose another VNI", row.name)
    })
}

/// The VXLAN devices that hold a VNI in the namespace `own` from within another
/// namespace that has a name.
pub(crate) async fn foreign_elsewhere(own: &File) -> Vec<ForeignVxlan> {
    elsewhere(own)
        .await
        .into_iter()
        .filter_map(|(netns, row)| {
            let vxlan = read::foreign_vxlan(&row)?;
            Some(ForeignVxlan { netns: Some(netns), ..vxlan })
        })
        .collect()
}

/// What cannot be looked into (gone meanwhile, not permitted) is passed over.
async fn elsewhere(own: &File) -> Vec<(String, LinkRow)> {
    let mut found = Vec::new();
    for path in named() {
        let Ok(file) = netns::open_netns(&path) else { continue };
        let Ok(Ok(mut conn)) = netns::inside(&file, Conn::open).await else { continue };
        let Ok(links) = read::links(&mut conn).await else { continue };
        // A device that was made where it is has no LINK_NETNSID and holds
        // nothing here; our own namespace, seen under a name, drops out too.
        let vxlans: Vec<LinkRow> = links
            .into_values()
            .filter(|row| matches!(row.kind, RowKind::Vxlan(_)) && row.link_netnsid.is_some())
            .collect();
        if vxlans.is_empty() {
            continue;
        }
        let Some(here) = nsid_of(&mut conn, own).await else { continue };
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        found.extend(
            vxlans
                .into_iter()
                .filter(|row| row.link_netnsid == Some(here))
                .map(|row| (name.clone(), row)),
        );
    }
    found
}

pub(crate) fn named() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = netns::NAMED
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

/// The number under which the namespace of `conn` knows the namespace `of`.
pub(crate) async fn nsid_of(conn: &mut Conn, of: &File) -> Option<i32> {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(u32::try_from(of.as_raw_fd()).ok()?));
    match conn.get(RouteNetlinkMessage::GetNsId(message)).await.ok()?? {
        RouteNetlinkMessage::NewNsId(answer) => {
            answer.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            })
        }
        _ => None,
    }
}
