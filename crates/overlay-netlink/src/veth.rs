//! A container's link: a veth pair whose far end is made in the container's
//! namespace, complete and up when the operation returns.
//!
//! ```text
//!   our namespace                      the container's
//!   ovb7 ─── ove0123456789ab ════════ eth0  addresses, up, default routes
//! ```
//!
//! Order: the pair is made and marked (one batch), then the far end is set up,
//! then the near end joins its bridge and comes up. Should we die in between,
//! the near end is down and in no bridge: it can be told from a whole one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use nix::errno::Errno;
use overlay_model::{IfName, Link, NetnsRef, Refusal, VethPeer};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::entries::address_request;
use crate::error::{Failure, NlError};
use crate::kernel::Writer;
use crate::links::{at, change, create, joining, marking, no_link_local, stranger};
use crate::netns::{self, NetnsError};
use crate::read::{self, LinkRow, RowKind};
use crate::wire::{Conn, Request};

/// A container's namespace, and a connection in it.
struct Inside {
    file: File,
    conn: Conn,
}

pub(crate) async fn add(
    writer: &mut Writer,
    name: &IfName,
    link: &Link,
    peer: &VethPeer,
    master: Option<u32>,
) -> Result<(), Failure> {
    let mut inside = enter(&peer.netns).await?;
    let there = read::link_by_name(&mut inside.conn, &peer.ifname).await?;
    if let Some(row) = read::link_by_name(&mut writer.conn, name).await? {
        return adopt(writer, name, link, peer, &row, there.as_ref(), &mut inside).await;
    }
    if there.is_some() {
        return Err(peer_name_taken(peer));
    }
    let index = writer.free_index().await?;
    let mut requests = vec![create_pair(name, link, peer, index, &inside.file)];
    requests.extend(marking(index, link));
    let results = writer.conn.send(requests).await;
    if let Err(err) = &results[0] {
        // Somebody was faster than our look.
        if err.is(Errno::EEXIST) {
            let there = read::link_by_name(&mut inside.conn, &peer.ifname).await?;
            return Err(if there.is_some() { peer_name_taken(peer) } else { stranger(name) });
        }
        return Err(err.clone().into());
    }
    let rest = async {
        first_refusal(results)?;
        set_up_peer(&mut inside, peer).await?;
        first_refusal(writer.conn.send(joining(index, link, master)).await)?;
        Ok(())
    };
    match rest.await {
        Ok(()) => {
            writer.remember(name, index);
            Ok(())
        }
        Err(failure) => {
            // Takes the far end with it.
            writer.undo(index).await;
            Err(failure)
        }
    }
}

/// A pair of that name is there: the one that is wanted, or one in the way.
async fn adopt(
    writer: &mut Writer,
    name: &IfName,
    link: &Link,
    peer: &VethPeer,
    row: &LinkRow,
    there: Option<&LinkRow>,
    inside: &mut Inside,
) -> Result<(), Failure> {
    if !row.ours() {
        return Err(stranger(name));
    }
    let pair = there.is_some_and(|far| {
        far.kind == RowKind::Veth
            && far.other_end == Some(row.index)
            && row.other_end == Some(far.index)
            && far.mac == Some(peer.mac)
    });
    if !pair || row.kind != RowKind::Veth || row.network() != Some(link.network) {
        let text = format!(
            "{name} exists, but its far end is not {} in {}: delete it first",
            peer.ifname,
            peer.netns.path.display()
        );
        return Err(Failure::new(Refusal::Taken, text));
    }
    set_up_peer(inside, peer).await?;
    writer.change_to(name, link, row).await
}

fn peer_name_taken(peer: &VethPeer) -> Failure {
    let text = format!(
        "an interface {} exists already in network namespace {}; choose another name",
        peer.ifname,
        peer.netns.path.display()
    );
    Failure::new(Refusal::PeerNameTaken, text)
}

fn first_refusal(results: Vec<Result<(), NlError>>) -> Result<(), NlError> {
    results
        .into_iter()
        .find(|result| match result {
            Ok(()) => false,
            // IPv6 is off altogether: no address will be generated.
            Err(err) => !err.is(Errno::EAFNOSUPPORT),
        })
        .unwrap_or(Ok(()))
}

fn create_pair(name: &IfName, link: &Link, peer: &VethPeer, index: u32, netns: &File) -> Request {
    let far = LinkUnspec::new_with_name(peer.ifname.as_str())
        .address(peer.mac.0.to_vec())
        .mtu(peer.mtu.into())
        .setns_by_fd(netns.as_raw_fd())
        .build();
    let near = LinkVeth::new(name.as_str(), peer.ifname.as_str())
        .index(index)
        .address(link.mac.0.to_vec())
        .append_extra_attribute(LinkAttribute::Mtu(link.mtu.into()))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .build();
    create(near)
}

/// Opens the namespace that `netns` means, and no other.
async fn enter(netns: &NetnsRef) -> Result<Inside, Failure> {
    let gone = |why: &str| {
        let text = format!("network namespace {} {why}", netns.path.display());
        Failure::new(Refusal::NetnsGone, text)
    };
    let file = netns::open_netns(&netns.path).map_err(|err| match err {
        NetnsError::NotFound(_) => gone("does not exist any more"),
        NetnsError::NotANetns(_) => gone("is not a network namespace any more"),
        NetnsError::Permission(_) => Failure::new(Refusal::Permission, err.to_string()),
        NetnsError::Own(_) | NetnsError::Io { .. } => Failure::new(Refusal::Other, err.to_string()),
    })?;
    let opened = netns::inside(&file, || -> io::Result<(u64, Conn)> {
        Ok((netns::cookie()?, Conn::open()?))
    });
    let (cookie, conn) = opened.await.and_then(|opened| opened).map_err(|err| {
        let refusal = match err.kind() {
            io::ErrorKind::PermissionDenied => Refusal::Permission,
            _ => Refusal::Other,
        };
        let path = netns.path.display();
        Failure::new(refusal, format!("cannot enter network namespace {path}: {err}"))
    })?;
    if cookie != netns.cookie {
        return Err(gone("was replaced by another one of that name"));
    }
    Ok(Inside { file, conn })
}

/// Gives the far end its addresses and default routes, and brings it up.
/// Whatever of it is there already stays.
async fn set_up_peer(inside: &mut Inside, peer: &VethPeer) -> Result<(), Failure> {
    let row = read::link_by_name(&mut inside.conn, &peer.ifname).await?.ok_or_else(|| {
        let text = format!("{} is gone from its network namespace", peer.ifname);
        Failure::new(Refusal::NoDevice, text)
    })?;
    let index = row.index;
    let (v6, v4): (Vec<IpNet>, Vec<IpNet>) =
        peer.addresses.iter().partition(|net| net.addr().is_ipv6());

    let mut steps = Vec::new();
    if v6.is_empty() {
        // A container without IPv6 says nothing in IPv6.
        steps.push(("no link-local address".to_owned(), no_link_local(index)));
    } else {
        quiet_ipv6(inside, &peer.ifname).await?;
    }
    let mut address = |net: &IpNet| (format!("address {net}"), address_request(index, *net, true));
    steps.extend(v4.iter().map(&mut address));
    steps.push(("up".to_owned(), change(at(index).up())));
    // IPv6 addresses on a link that is down get no route to their subnet.
    steps.extend(v6.iter().map(&mut address));
    let mut optional = None;
    for gateway in &peer.gateways {
        optional.get_or_insert(steps.len());
        steps.push((format!("default route via {gateway}"), default_route(index, *gateway)?));
    }

    let (names, requests): (Vec<String>, Vec<Request>) = steps.into_iter().unzip();
    let results = inside.conn.send(requests).await;
    for (i, (what, result)) in names.iter().zip(results).enumerate() {
        let Err(err) = result else { continue };
        // The container has a default route from another network: that stays.
        let route_exists = err.is(Errno::EEXIST) && optional.is_some_and(|first| i >= first);
        let no_ipv6 = err.is(Errno::EAFNOSUPPORT) && v6.is_empty();
        if !route_exists && !no_ipv6 {
            return Err(Failure::from(err).during(&format!("{} of {}", what, peer.ifname)));
        }
    }
    Ok(())
}

fn default_route(index: u32, gateway: std::net::IpAddr) -> Result<Request, Failure> {
    let message = match gateway {
        std::net::IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .gateway(v4)
            .output_interface(index)
            .build(),
        std::net::IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .gateway(v6)
            .output_interface(index)
            .build(),
    };
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Ok(Request { flags, message: RouteNetlinkMessage::NewRoute(message) })
}

/// Switches IPv6 on for the far end (containers often have it off), without
/// router advertisements and without duplicate detection: what there is to
/// know, we configure.
async fn quiet_ipv6(inside: &Inside, ifname: &IfName) -> Result<(), Failure> {
    let dir = format!("/proc/sys/net/ipv6/conf/{ifname}");
    let written = netns::inside(&inside.file, move || -> io::Result<()> {
        for (name, value) in
            [("accept_ra", "0"), ("accept_dad", "0"), ("dad_transmits", "0"), ("disable_ipv6", "0")]
        {
            let path = format!("{dir}/{name}");
            std::fs::write(&path, value)
                .map_err(|err| io::Error::new(err.kind(), format!("{path}: {err}")))?;
        }
        Ok(())
    });
    written.await.and_then(|written| written).map_err(|err| {
        Failure::new(Refusal::Other, format!("cannot set up IPv6 of {ifname}: {err}"))
    })
}
