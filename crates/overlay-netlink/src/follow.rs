//! Follows the underlay: tells when its address, device or MTU is another.
//!
//! The kernel says that something happened to an address, a link or a default
//! route; what is the underlay now is then worked out from scratch, as at the
//! start ([`crate::underlay`]). So nothing depends on which notification came,
//! in which order, or at all: several together count once, and lost ones mean
//! "look".
//!
//! An address in use is kept while there is a device that has it, however
//! routes change: moving costs every tunnel a second.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::libc;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::error::KernelError;
use crate::read::LinkRow;
use crate::underlay::{Underlay, UnderlayError, Wanted, choose};
use crate::watch::subscribe;

/// Changes so close together are looked at once: an address that is replaced
/// is a deletion and an addition.
const COALESCE: Duration = Duration::from_millis(20);

/// How long a failed reading of the kernel waits for its repetition.
const RETRY: Duration = Duration::from_secs(1);

const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Tells how the underlay of the calling thread's network namespace is, each
/// time that it is not as was told before; at first compared with `was`.
///
/// `wanted` is as for [`crate::underlay_for`]. An address that is gone is followed
/// by another of its family, unless it was said to be the one.
///
/// An error says that there is none now; it ends nothing.
///
/// # Errors
/// [`KernelError`] if the kernel cannot be watched.
pub fn follow_underlay(
    wanted: Wanted,
    was: Underlay,
) -> Result<mpsc::UnboundedReceiver<Result<Underlay, UnderlayError>>, KernelError> {
    let socket = subscribe(NETLINK_ROUTE, &GROUPS).map_err(KernelError::Open)?;
    let (out, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut current: Vec<IpAddr> = was.addrs().collect();
        let mut last = Ok(was);
        loop {
            match choose(&wanted, &current).await {
                Err(UnderlayError::Kernel(err)) => {
                    tracing::warn!(%err, "cannot look at the underlay; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                now => {
                    let now = now.map_err(|err| (err.to_string(), err));
                    let known = now.as_ref().map_err(|(text, _)| text.clone()).cloned();
                    if let Ok(underlay) = &now {
                        // One that is gone for now is still the one to come back.
                        let now: Vec<IpAddr> = underlay.addrs().collect();
                        current.retain(|old| now.iter().all(|ip| ip.is_ipv6() != old.is_ipv6()));
                        current.extend(now);
                    }
                    if known != last {
                        last = known;
                        if out.send(now.map_err(|(_, err)| err)).is_err() {
                            return;
                        }
                    }
                }
            }
            tokio::select! {
                () = out.closed() => return,
                something = wait(&socket) => if let Err(err) = something {
                    tracing::error!(%err, "cannot wait for the kernel; the underlay is not followed");
                    return;
                },
            }
            tokio::time::sleep(COALESCE).await;
            while drain(&socket) {}
        }
    });
    Ok(told)
}

/// Returns when something has happened that may matter.
async fn wait(socket: &AsyncFd<Socket>) -> std::io::Result<()> {
    loop {
        let mut guard = socket.readable().await?;
        if drain(socket) {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// Reads what there is; true if any of it may matter.
fn drain(socket: &AsyncFd<Socket>) -> bool {
    let mut matters = false;
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        match socket.get_ref().recv(&mut buffer, libc::MSG_DONTWAIT) {
            Ok(_) => matters |= any_matters(&buffer),
            Err(err) => match err.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINTR) => {}
                Some(Errno::ENOBUFS) => matters = true,
                // Nothing is left; of anything else the next look will tell.
                _ => return matters,
            },
        }
    }
}

fn any_matters(mut rest: &[u8]) -> bool {
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = (header.length() as usize).min(rest.len());
        let (message, next) = rest.split_at(length);
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map(|m| m.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) if !may_matter(&message) => {}
            _ => return true,
        }
        rest = next.get(length.next_multiple_of(4) - length..).unwrap_or_default();
    }
    false
}

/// An attach makes links and tells of them; none of ours is an underlay.
fn may_matter(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            LinkRow::parse(link).is_none_or(|row| !row.looks_like_ours())
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route.header.destination_prefix_length == 0
        }
        _ => true,
    }
}
