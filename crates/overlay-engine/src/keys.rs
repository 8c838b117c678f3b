//! Cluster keys: who has which, and which step of a rotation locks nobody out.
//!
//! A rotation goes host by host: every host adds the new key, then every host
//! uses it, then every host removes the old one. Each step is safe for a host
//! as long as every *live* host (up or suspect) can still open what it says,
//! and the other way round. That is judged here, from what hosts publish about
//! themselves; ids only, the keys themselves are the shell's.
//!
//! A host that is down, stopped or gone is not asked: it must be given the new
//! key before it comes back. News takes a moment, so two operators who go on at
//! the same time on two hosts can still cross each other.

use std::collections::{BTreeMap, BTreeSet};

use overlay_model::{HostId, HostKeys, KeyId};

use crate::cluster_view::HostState;
use crate::engine::Engine;
use crate::event::{ErrorKind, Refused, host_text};

/// A cluster key, and which live hosts have it. Hosts are named, or else shown
/// by their id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyView {
    /// This host has it.
    pub here: bool,
    /// This host seals with it.
    pub used: bool,
    /// Other live hosts that have it,
    pub held_by: Vec<String>,
    /// those of them that seal with it,
    pub used_by: Vec<String>,
    /// and those that do not have it, or do not say.
    pub lacking: Vec<String>,
}

impl Engine {
    /// The hosts that are up or suspect, without this one.
    fn live_keys(&self) -> impl Iterator<Item = (HostId, String, Option<&HostKeys>)> {
        self.view
            .hosts()
            .filter(|(_, presence, ..)| {
                matches!(presence.state, HostState::Up | HostState::Suspect)
            })
            .map(|(id, _, _, host)| {
                (id, host_text(id, host.map(|h| &h.name)), self.view.keys_of(id))
            })
    }

    /// All keys that this host or a live one has.
    pub fn keys(&self) -> BTreeMap<KeyId, KeyView> {
        let own = &self.config.keys;
        let ids: BTreeSet<KeyId> = self
            .live_keys()
            .filter_map(|(_, _, keys)| keys)
            .chain([own])
            .flat_map(|keys| keys.ids.iter().copied())
            .collect();
        ids.into_iter().map(|id| (id, self.key(id))).collect()
    }

    /// One key, whoever has it.
    pub fn key(&self, id: KeyId) -> KeyView {
        let own = &self.config.keys;
        let mut view =
            KeyView { here: own.has(id), used: own.used == Some(id), ..KeyView::default() };
        for (_, name, keys) in self.live_keys() {
            if keys.is_some_and(|keys| keys.used == Some(id)) {
                view.used_by.push(name.clone());
            }
            if keys.is_some_and(|keys| keys.has(id)) {
                view.held_by.push(name);
            } else {
                view.lacking.push(name);
            }
        }
        for names in [&mut view.held_by, &mut view.used_by, &mut view.lacking] {
            names.sort();
        }
        view
    }

    /// Says whether this host may begin to seal with `id`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it does not have it, [`ErrorKind::LocksOut`]
    /// while a live host lacks it, unless `force`d.
    pub fn may_use_key(&self, id: KeyId, force: bool) -> Result<(), Refused> {
        let key = self.key(id);
        if !key.here {
            return Err(self.no_such_key(id));
        }
        if key.lacking.is_empty() || force {
            return Ok(());
        }
        let names = key.lacking.join(", ");
        Err(Refused::new(
            ErrorKind::LocksOut,
            format!(
                "key {id} is not on every live host: {names} could not hear this host any more"
            ),
        )
        .hint("add it there first with: overlayctl key add; or say --force"))
    }

    /// Says whether this host may forget `id`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it does not have it, [`ErrorKind::InUse`] if it
    /// seals with it, [`ErrorKind::LocksOut`] while a live host does, or does
    /// not say what it uses, unless `force`d.
    pub fn may_remove_key(&self, id: KeyId, force: bool) -> Result<(), Refused> {
        let key = self.key(id);
        if !key.here {
            return Err(self.no_such_key(id));
        }
        if key.used {
            return Err(Refused::new(ErrorKind::InUse, format!("key {id} is in use on this host"))
                .hint("use another one first with: overlayctl key use"));
        }
        let mut users = key.used_by;
        let silent = self.live_keys().filter(|(_, _, keys)| keys.is_none());
        users.extend(silent.map(|(_, name, _)| name));
        users.sort();
        if users.is_empty() || force {
            return Ok(());
        }
        let names = users.join(", ");
        Err(Refused::new(
            ErrorKind::LocksOut,
            format!("key {id} is still in use: this host could not hear {names} any more"),
        )
        .hint("use another one there first with: overlayctl key use; or say --force"))
    }

    fn no_such_key(&self, id: KeyId) -> Refused {
        let here: Vec<_> = self.config.keys.ids.iter().map(KeyId::to_string).collect();
        let hint = if here.is_empty() {
            "gossip is not sealed on this host; start it with --key-file".to_owned()
        } else {
            format!("it has {}", here.join(", "))
        };
        Refused::new(ErrorKind::NotFound, format!("there is no key {id} on this host")).hint(hint)
    }
}

#[cfg(test)]
mod tests;
