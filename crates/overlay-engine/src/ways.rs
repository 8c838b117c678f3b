//! Over which address family two hosts send to each other, and by which device.
//!
//! A host may have a VTEP address of IPv4, of IPv6, or of both. Each pair of
//! hosts uses one family ([`way_between`]): IPv4 if both have it, else IPv6 if
//! both have that. Both ends know both records, so both choose alike; while one
//! of them has not heard of a change yet, packets arrive all the same, because a
//! host takes them at every address that it tells.
//!
//! A VXLAN device is of one family: the kernel refuses a destination of the
//! other (drivers/net/vxlan `vxlan_fdb_parse`), and takes two devices of one VNI
//! and port if their families differ. So a host with both has two in each bridge:
//!
//! ```text
//!                ovb4097
//!      ┌───────────┼──────────────┐
//!   ove...      ovx4097       ovx4097-6
//!               local IPv4    local IPv6      isolated, both: what one VTEP
//!                                             has sent goes on to no other
//! ```
//!
//! A host with one family has `ovx4097` alone, whichever it is.
//!
//! Pairs that have none in common have no entries of each other, and that is
//! said: once in the log, and in `hosts`, `endpoints` and `status` while it lasts.
//! Nothing passes packets on for them: it would make of one host a router that
//! nobody has set up as one.

use std::net::IpAddr;

use overlay_model::records::way_between;
use overlay_model::{Family, Host, HostId, IfName, ObjectKey, Vni};

use crate::cluster_view::HostState;
use crate::desired::vni_of;
use crate::engine::{Config, Engine};
use crate::event::Notice;

impl Config {
    /// The family of the device `ovx<VNI>`. It stays while the daemon runs,
    /// whichever of two addresses is there.
    fn first_family(&self) -> Family {
        if self.dual { Family::V4 } else { Family::of(&self.vtep()) }
    }

    /// The devices that have our VTEP addresses.
    pub(crate) fn underlay_devs(&self) -> impl Iterator<Item = &IfName> {
        std::iter::once(&self.underlay_dev).chain(&self.other_dev)
    }

    /// Our VTEP address of `family`.
    pub(crate) fn vtep_in(&self, family: Family) -> Option<IpAddr> {
        self.vteps.iter().copied().find(|ip| Family::of(ip) == family)
    }

    /// The device of `vni` by which packets go to an address of `family`.
    pub(crate) fn device(&self, vni: Vni, family: Family) -> IfName {
        if family == self.first_family() { vni.vxlan() } else { vni.vxlan6() }
    }

    /// The devices of `vni`.
    pub(crate) fn devices(&self, vni: Vni) -> impl Iterator<Item = IfName> {
        self.vteps.iter().map(move |ip| self.device(vni, Family::of(ip)))
    }

    /// The family of a VXLAN device of ours, if there is to be one.
    pub(crate) fn family_of(&self, dev: &IfName, vni: Vni) -> Option<Family> {
        let families = self.vteps.iter().map(Family::of);
        families.into_iter().find(|family| self.device(vni, *family) == *dev)
    }
}

impl Engine {
    /// The address that VXLAN packets for `host` go to.
    pub(crate) fn vtep_of(&self, host: HostId) -> Option<IpAddr> {
        way_between(&self.config.vteps, &self.view.host(host)?.vteps)
    }

    /// True for a VXLAN device of a family that this host has no address of: of
    /// no use whoever may still be heard, and in the way of the other family's.
    pub(crate) fn is_of_no_family(&self, key: &ObjectKey) -> bool {
        let ObjectKey::Link(name) = key else { return false };
        let Some(vni) = vni_of(name).filter(|vni| vni.bridge() != *name) else { return false };
        self.used(vni).is_some() && self.config.family_of(name, vni).is_none()
    }

    /// Why packets cannot go to `host` nor come from it, if it is there.
    pub(crate) fn apart(&self, id: HostId) -> Option<String> {
        let host = self.view.host(id)?;
        let left = |state| matches!(state, HostState::Left);
        if self.view.presence(id).is_none_or(|presence| left(presence.state))
            || way_between(&self.config.vteps, &host.vteps).is_some()
        {
            return None;
        }
        Some(apart_text(host, &self.config.vteps))
    }

    /// The same in a few words.
    pub(crate) fn apart_note(&self, id: HostId) -> Option<String> {
        self.apart(id).map(|_| "no address family in common with this host".to_owned())
    }

    /// Tells it when a host has come, or another address, and there is no way
    /// to it; and when there is one again.
    pub(crate) fn look_for_a_way(&mut self, id: HostId) {
        let now = self.apart(id);
        if now.is_some() == self.told_apart.contains(&id) {
            return;
        }
        let over = now.is_none();
        // Who has left is not reached either, which has been told.
        let gone = over && self.vtep_of(id).is_none();
        if over {
            self.told_apart.remove(&id);
        } else {
            self.told_apart.insert(id);
        }
        if !gone {
            let host = self.host_name(id);
            self.notice(Notice::Apart { host, why: now });
        }
    }
}

fn apart_text(host: &Host, ours: &[IpAddr]) -> String {
    let list = |vteps: &[IpAddr]| match vteps {
        [] => "no VTEP address".to_owned(),
        [first, ..] => {
            let texts: Vec<String> = vteps.iter().map(ToString::to_string).collect();
            let family = if first.is_ipv4() { "IPv4" } else { "IPv6" };
            format!("VTEP addresses of {family} only ({})", texts.join(", "))
        }
    };
    format!(
        "no address family in common: it has {}, this host {}; give one of the two the other \
         family as well (--vtep-ip, twice)",
        list(&host.vteps),
        list(ours)
    )
}
