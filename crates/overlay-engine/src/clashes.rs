//! Two networks that claim one VNI or one name: whom it concerns is told, when
//! it begins and when it is over.
//!
//! That happens when both were created while their hosts did not hear each
//! other. Who wins is in `networks.rs`: the older one, everywhere alike. The
//! loser keeps its definition, its ranges and its endpoints, and has nothing in
//! any kernel until one of the two is removed. Its endpoints are then put back as
//! they were: nobody has to attach them again.

use std::collections::BTreeMap;

use overlay_model::NetworkId;

use crate::endpoints::Phase;
use crate::engine::Engine;
use crate::event::Notice;

impl Engine {
    /// Networks may have come, gone or changed: tells of conflicts that are new
    /// or over, and plans for what they are about.
    ///
    /// Not only the network that has just come is concerned: it may be the older
    /// one of two.
    pub(crate) fn settle_clashes(&mut self) {
        let now: BTreeMap<NetworkId, String> = self.networks.conflicts().clone();
        if now == self.told_clashes {
            return;
        }
        let before = std::mem::replace(&mut self.told_clashes, now.clone());
        for (id, why) in &now {
            if before.get(id) != Some(why) {
                self.tell_clash(*id, Some(why));
            }
        }
        for id in before.keys().filter(|id| !now.contains_key(id)) {
            self.tell_clash(*id, None);
        }
    }

    fn tell_clash(&mut self, id: NetworkId, why: Option<&String>) {
        // One that was removed has been told as removed, its endpoints as detached.
        let Some(net) = self.networks.get(id).cloned() else { return };
        let why = why.cloned();
        self.notice(Notice::NetworkConflict { loser: net.name.clone(), why: why.clone() });
        let here = self.local.values().filter(|l| {
            l.local.endpoint.network == id && l.phase == Phase::Ready && l.local.moved.is_none()
        });
        let told: Vec<Notice> = here
            .map(|l| Notice::CutOff {
                id: l.local.endpoint.id,
                name: l.local.endpoint.name.clone(),
                net: net.name.clone(),
                why: why.clone(),
            })
            .collect();
        told.into_iter().for_each(|notice| self.notice(notice));
        self.touch_network(id);
        self.republish = true;
    }
}

#[cfg(test)]
mod tests;
