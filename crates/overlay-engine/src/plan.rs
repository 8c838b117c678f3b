//! Turns the gap between what the kernel should hold and what it holds into an
//! ordered list of operations.
//!
//! ```text
//!  want(key) ─┐
//!             ├─► plan() ─► [KernelOp] ─► overlay-netlink applies it
//!  mirror ────┘                               │
//!     ▲                                       │
//!     └──── told by the kernel, next round ───┘
//! ```
//!
//! One planner serves one changed key and all keys: it is given the keys that
//! may differ. For every input, and checked in `plan/tests.rs`:
//!
//! 1. **It arrives and rests.** Applying the plans of a few rounds yields what
//!    is wanted; planning again yields nothing.
//! 2. **It touches only what is in the mirror or wanted**, and the mirror holds
//!    only what is ours.
//! 3. **It adds before it removes**, except for a link of which something that
//!    cannot be changed differs ([`must_replace`]).
//! 4. **It removes nothing while the view is partial**, except what this run
//!    has itself retired ([`Delta::retired`]).
//!
//! A link that is replaced takes what stands on it along; the mirror hears so
//! and the next round puts it back. There is no I/O here and no error.

use std::collections::BTreeSet;

use overlay_model::kernel::alias_of;
use overlay_model::{IfName, KernelOp, Link, LinkChange, LinkKind, Object, ObjectKey, Objects};

/// May the planner take what nobody wants for stale?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// No: too little has been heard yet.
    Partial,
    /// Yes.
    Complete,
}

/// One key that may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Which.
    pub key: ObjectKey,
    /// As it should be.
    pub want: Option<Object>,
    /// This run knows that it was wanted and no longer is: it may be deleted
    /// even while the view is partial.
    pub retired: bool,
}

/// Plans the operations that bring `deltas` about in a kernel that holds `have`.
///
/// The result is ordered: what makes things, in the order of [`ObjectKey`];
/// then what removes them, in the reverse order.
pub fn plan(
    deltas: impl IntoIterator<Item = Delta>,
    have: &Objects,
    completeness: Completeness,
) -> Vec<KernelOp> {
    let mut deltas: Vec<Delta> = deltas.into_iter().collect();
    deltas.sort_by(|a, b| a.key.cmp(&b.key));

    let mut make = Vec::new();
    let mut remove = Vec::new();
    let mut made: BTreeSet<IfName> = BTreeSet::new();
    let mut removed: BTreeSet<IfName> = BTreeSet::new();

    for Delta { key, want, retired } in deltas {
        let now = have.get(&key);
        match (want, now) {
            (None, None) => {}
            (None, Some(now)) => {
                if completeness == Completeness::Complete || retired {
                    if let ObjectKey::Link(name) | ObjectKey::Port(name) = &key {
                        removed.insert(name.clone());
                    }
                    remove.push((key, now));
                }
            }
            (Some(Object::Link(want)), now) => {
                let ObjectKey::Link(name) = &key else { continue };
                match now {
                    Some(Object::Link(now)) if must_replace(&want, &now) => {
                        make.push(KernelOp::DelLink(name.clone()));
                        make.push(KernelOp::AddLink(name.clone(), want));
                        made.insert(name.clone());
                    }
                    Some(Object::Link(now)) => {
                        if let Some(change) = difference(&want, &now) {
                            if change.master.is_some() {
                                made.insert(name.clone());
                            }
                            make.push(KernelOp::SetLink(name.clone(), change));
                        }
                    }
                    _ => {
                        make.push(KernelOp::AddLink(name.clone(), want));
                        made.insert(name.clone());
                    }
                }
            }
            (Some(want), now) => {
                // An entry on a device that is not there waits for the device:
                // when it appears, its keys are planned again.
                let stands = |dev: &IfName| made.contains(dev) || have.link(dev).is_some();
                // Where another hand has put the port on another bridge, the
                // entry would be written there.
                let is_port = |dev: &IfName| {
                    let link = have.link(dev);
                    made.contains(dev)
                        || link.is_some_and(|link| link.master.as_ref() == key.stands_on())
                };
                let lent = |dev: &IfName| have.port(dev).is_some_and(|port| port.bridge.is_some());
                let based = key.stands_on().is_none_or(stands)
                    && match &want {
                        Object::BridgeFdb { port, .. } => is_port(port) || lent(port),
                        Object::Port(port) => port.bridge.as_ref().is_none_or(stands),
                        _ => true,
                    };
                if based && now.as_ref() != Some(&want) {
                    if let (ObjectKey::Port(name), Object::Port(want)) = (&key, &want) {
                        // Another run's, or another device's: given back first.
                        if let Some(Object::Port(now)) = now
                            && (now.endpoint, now.index, now.was_up)
                                != (want.endpoint, want.index, want.was_up)
                        {
                            make.push(KernelOp::Del(key.clone(), Object::Port(now)));
                        }
                        made.insert(name.clone());
                    }
                    // The old broadcast list cannot be replaced, only extended.
                    make.push(KernelOp::Put(key, want));
                }
            }
        }
    }

    // What stands on a link that goes is gone with it, and what a bridge says of
    // a port that goes.
    remove.retain(|(key, object)| {
        let on = key.stands_on().is_some_and(|dev| removed.contains(dev));
        let by = matches!(object, Object::BridgeFdb { port, .. } if removed.contains(port));
        !on && !by
    });
    make.extend(remove.into_iter().rev().map(|(key, object)| match key {
        ObjectKey::Link(name) => KernelOp::DelLink(name),
        key => KernelOp::Del(key, object),
    }));
    make
}

/// True if `want` can be had only by deleting `now` and making it anew: the
/// kernel refuses to change these (drivers/net/vxlan `vxlan_changelink`), or
/// the link belongs to another network.
pub(crate) fn must_replace(want: &Link, now: &Link) -> bool {
    let kind = match (&want.kind, &now.kind) {
        // The peer cannot be read back.
        (LinkKind::Veth { .. }, LinkKind::Veth { .. }) => false,
        // An address of the same family can be changed, and entries stay.
        (
            LinkKind::Vxlan { vni, port, local, outer },
            LinkKind::Vxlan { vni: now_vni, port: now_port, local: now_local, outer: now_outer },
        ) => {
            vni != now_vni
                || port != now_port
                || local.is_ipv4() != now_local.is_ipv4()
                || !now_outer.can_become(outer)
        }
        (want, now) => want != now,
    };
    kind || want.network != now.network
}

/// What to set on a link that stays, or `None`.
pub(crate) fn difference(want: &Link, now: &Link) -> Option<LinkChange> {
    fn differs<T: Copy + PartialEq>(want: T, now: T) -> Option<T> {
        (want != now).then_some(want)
    }
    let master = if want.master == now.master { None } else { want.master.clone() };
    let port = match (want.port, now.port) {
        // A new master starts with default flags.
        (Some(want), _) if master.is_some() => Some(want),
        (Some(want), now) if now != Some(want) => Some(want),
        _ => None,
    };
    let (local, outer) = match (&want.kind, &now.kind) {
        (
            LinkKind::Vxlan { local, outer, .. },
            LinkKind::Vxlan { local: now_local, outer: now_outer, .. },
        ) => (differs(*local, *now_local), differs(*outer, *now_outer)),
        _ => (None, None),
    };
    let alias = (want.host != now.host).then(|| alias_of(want.network, want.host));
    let change = LinkChange {
        alias,
        local,
        outer,
        mtu: differs(want.mtu, now.mtu),
        mac: differs(want.mac, now.mac),
        up: differs(want.up, now.up),
        master,
        port,
        restore: now.altered.clone(),
    };
    (change != LinkChange::default()).then_some(change)
}

#[cfg(test)]
mod tests;
