//! Entries: FDB, ARP and ND, broadcast destinations, addresses. One message
//! each, sent in batches.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use overlay_model::{
    ApplyReport, IfName, KernelOp, MacAddr, Object, ObjectKey, OpFailure, Refusal,
};

use crate::error::{Failure, NlError};
use crate::kernel::Writer;
use crate::wire::Request;

/// Messages in one system call. Measured on 6.18: 64 to 256 are alike, larger
/// ones are slower again for large tables.
pub(crate) const BATCH: usize = 256;

impl Writer {
    /// Performs up to [`BATCH`] entry operations in one system call.
    pub(crate) async fn entries(&mut self, ops: Vec<KernelOp>, report: &mut ApplyReport) {
        let stale = self.send_entries(ops, false, report).await;
        // A link that was replaced under its name has a new index. Only those
        // whose index was wrong are tried again.
        if !stale.is_empty() {
            self.send_entries(stale, true, report).await;
        }
    }

    /// Returns what failed as a wrong index would; with `again`, that is final.
    async fn send_entries(
        &mut self,
        ops: Vec<KernelOp>,
        again: bool,
        report: &mut ApplyReport,
    ) -> Vec<KernelOp> {
        let mut indices: HashMap<IfName, Option<u32>> = HashMap::new();
        let mut sent = Vec::with_capacity(ops.len());
        let mut requests = Vec::with_capacity(ops.len());
        for op in ops {
            let Some(dev) = device(&op).cloned() else {
                let text = format!("`{op}` is not an entry");
                fail(report, op, Failure::new(Refusal::Other, text));
                continue;
            };
            let index = match indices.get(&dev) {
                Some(index) => *index,
                None => match self.index_of(&dev, again).await {
                    Ok(index) => *indices.entry(dev.clone()).or_insert(index),
                    Err(err) => {
                        fail(report, op, err.into());
                        continue;
                    }
                },
            };
            match index.and_then(|index| request(&op, index)) {
                Some(request) => {
                    if let Some(release) = self.release(&op).await {
                        requests.push(release);
                        sent.push(None);
                    }
                    requests.push(request);
                    sent.push(Some(op));
                }
                None if matches!(op, KernelOp::Del(..)) => report.done += 1,
                None => {
                    let text = format!("there is no link {dev} of ours");
                    fail(report, op, Failure::new(Refusal::NoDevice, text));
                }
            }
        }
        let mut stale = Vec::new();
        for (op, result) in sent.into_iter().zip(self.table.send(requests)) {
            // A release has nobody to tell: what it was for says what came of it.
            let Some(op) = op else { continue };
            match settle(&op, result) {
                Ok(()) => report.done += 1,
                Err(err) if !again && may_be_a_wrong_index(&err) => stale.push(op),
                Err(err) => {
                    // Where the port has left its bridge, nothing of it is left
                    // in the bridge's FDB.
                    if matches!(&op, KernelOp::Del(ObjectKey::BridgeFdb(..), _))
                        && (err.is(Errno::EINVAL) || err.is(Errno::EOPNOTSUPP))
                        && !self.is_port(device(&op)).await
                    {
                        report.done += 1;
                    } else {
                        fail(report, op, err.into());
                    }
                }
            }
        }
        stale
    }

    /// What has to go before a MAC that was behind the VXLAN device can be a
    /// local endpoint's (it moved here): a bridge that replaces an entry keeps
    /// its `extern_learn`. Both travel in one batch.
    async fn release(&mut self, op: &KernelOp) -> Option<Request> {
        let KernelOp::Put(
            ObjectKey::BridgeFdb(bridge, mac),
            Object::BridgeFdb { extern_learn: false, .. },
        ) = op
        else {
            return None;
        };
        let bridge = self.index_of(bridge, false).await.ok()??;
        let mut look = fdb(0, *mac, None, NeighbourState::None, NeighbourFlags::empty());
        look.attributes.push(NeighbourAttribute::Controller(bridge));
        let RouteNetlinkMessage::NewNeighbour(found) =
            self.conn.get(RouteNetlinkMessage::GetNeighbour(look)).await.ok()??
        else {
            return None;
        };
        if !found.header.flags.contains(NeighbourFlags::ExtLearned) {
            return None;
        }
        let port = found.header.ifindex;
        let entry = fdb(port, *mac, None, NeighbourState::None, NeighbourFlags::Controller);
        Some(Request { flags: 0, message: RouteNetlinkMessage::DelNeighbour(entry) })
    }

    async fn is_port(&mut self, dev: Option<&IfName>) -> bool {
        let Some(dev) = dev else { return false };
        match crate::read::link_by_name(&mut self.conn, dev).await {
            Ok(Some(row)) => row.master.is_some(),
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

fn fail(report: &mut ApplyReport, op: KernelOp, failure: Failure) {
    let Failure { refusal, errno, text } = failure;
    report.failed.push(OpFailure { op, refusal, errno, text });
}

/// The link that the kernel wants named: for the FDB of a bridge, the port.
fn device(op: &KernelOp) -> Option<&IfName> {
    let (KernelOp::Put(key, object) | KernelOp::Del(key, object)) = op else { return None };
    match (key, object) {
        (ObjectKey::BridgeFdb(..), Object::BridgeFdb { port, .. }) => Some(port),
        (ObjectKey::BridgeFdb(..), _) => None,
        (ObjectKey::Address(dev, _), Object::Address)
        | (ObjectKey::Flood(dev, _), Object::Flood)
        | (ObjectKey::VxlanFdb(dev, _), Object::VxlanFdb { .. })
        | (ObjectKey::Neigh(dev, _), Object::Neigh { .. }) => Some(dev),
        _ => None,
    }
}

/// Present already and gone already are success.
fn settle(op: &KernelOp, result: Result<(), NlError>) -> Result<(), NlError> {
    let Err(err) = result else { return Ok(()) };
    let fine: &[Errno] = match op {
        KernelOp::Del(..) => &[Errno::ENOENT, Errno::ENODEV, Errno::ESRCH, Errno::EADDRNOTAVAIL],
        _ => &[Errno::EEXIST],
    };
    if err.errno().is_some_and(|errno| fine.contains(&errno)) { Ok(()) } else { Err(err) }
}

fn may_be_a_wrong_index(err: &NlError) -> bool {
    matches!(err.errno(), Some(Errno::ENODEV | Errno::EINVAL | Errno::ENXIO | Errno::EOPNOTSUPP))
}

/// The message of an entry operation; `None` for what is no entry.
fn request(op: &KernelOp, index: u32) -> Option<Request> {
    let (key, object, put) = match op {
        KernelOp::Put(key, object) => (key, object, true),
        KernelOp::Del(key, object) => (key, object, false),
        _ => return None,
    };
    if let ObjectKey::Address(_, net) = key {
        return Some(address_request(index, *net, put));
    }
    let mut flags = NLM_F_CREATE | NLM_F_REPLACE;
    let message = match (key, object) {
        (ObjectKey::Flood(_, dst), _) => {
            // The zero MAC has many destinations: REPLACE is refused for it.
            flags = NLM_F_CREATE | NLM_F_APPEND;
            fdb(index, MacAddr::ZERO, Some(*dst), NeighbourState::Permanent, NeighbourFlags::Own)
        }
        (ObjectKey::VxlanFdb(_, mac), Object::VxlanFdb { dst }) => {
            fdb(index, *mac, Some(*dst), NeighbourState::Permanent, NeighbourFlags::Own)
        }
        (ObjectKey::BridgeFdb(_, mac), Object::BridgeFdb { extern_learn, .. }) => {
            let mut flags = NeighbourFlags::Controller;
            if *extern_learn && put {
                flags |= NeighbourFlags::ExtLearned;
            }
            fdb(index, *mac, None, NeighbourState::Noarp, flags)
        }
        (ObjectKey::Neigh(_, ip), Object::Neigh { mac }) => {
            let mut message = NeighbourMessage::default();
            message.header.family = family(*ip);
            message.header.ifindex = index;
            message.attributes.push(NeighbourAttribute::Destination((*ip).into()));
            if put {
                // EXT_LEARNED keeps it out of the garbage collector's hands,
                // which silently evicts other kinds past gc_thresh3.
                message.header.state = NeighbourState::Permanent;
                message.header.flags = NeighbourFlags::ExtLearned;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
            }
            message
        }
        _ => return None,
    };
    Some(if put {
        Request { flags, message: RouteNetlinkMessage::NewNeighbour(message) }
    } else {
        Request { flags: 0, message: RouteNetlinkMessage::DelNeighbour(message) }
    })
}

fn fdb(
    index: u32,
    mac: MacAddr,
    dst: Option<IpAddr>,
    state: NeighbourState,
    flags: NeighbourFlags,
) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = state;
    message.header.flags = flags;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    if let Some(dst) = dst {
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(dst)));
    }
    message
}

pub(crate) fn address_request(index: u32, net: IpNet, put: bool) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    if net.addr().is_ipv6() {
        // Addresses here are given once in the whole cluster; the second that
        // duplicate detection takes would be a second without the address.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    if put {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        Request { flags, message: RouteNetlinkMessage::NewAddress(message) }
    } else {
        Request { flags: 0, message: RouteNetlinkMessage::DelAddress(message) }
    }
}

pub(crate) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
