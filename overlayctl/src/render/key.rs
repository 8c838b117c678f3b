//! Cluster keys, by id.

use overlay_api::v1::Key;

use super::{list, table};

/// `key ls`.
pub(crate) fn keys(keys: &[Key]) -> String {
    let mut sorted: Vec<_> = keys.iter().collect();
    sorted.sort_by_key(|key| (!key.used, !key.here, &key.id));
    table(
        ["ID", "HERE", "USED-BY", "HELD-BY", "LACKING"],
        sorted.into_iter().map(|key| {
            let here = match (key.used, key.here) {
                (true, _) => "used",
                (false, true) => "held",
                (false, false) => "no",
            };
            [
                key.id.clone(),
                here.to_owned(),
                list(&key.used_by),
                list(&key.held_by),
                list(&key.lacking),
            ]
        }),
    )
}

/// `key add`.
pub(crate) fn key_added(key: &Key) -> String {
    let next = if key.lacking.is_empty() {
        format!("every live host has it; go on with: overlayctl key use {}", key.id)
    } else {
        format!("add it there next: {}", super::clean(&key.lacking.join(", ")))
    };
    format!("added key {}, not used yet\n{next}\n", key.id)
}

/// `key use`.
pub(crate) fn key_used(key: &Key) -> String {
    format!("gossip of this host is sealed with key {}\n", key.id)
}

/// `key remove`.
pub(crate) fn key_removed(key: &Key) -> String {
    format!("removed key {}\n", key.id)
}
