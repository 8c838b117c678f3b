//! What chitchat says it has changed since we last looked.
//!
//! Its notices come under its lock, so they must be short: they leave a note
//! here. Without notes a single change would cost a look at all records of its
//! host; they say where to look, and never what is there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chitchat::ChitchatId;
use tokio::sync::Notify;

/// Notes that are kept; beyond, only that there were too many.
const KEPT: usize = 1 << 16;

/// Keys that have changed, by node.
pub(crate) type Changed = BTreeMap<ChitchatId, Vec<String>>;

/// Notes of changes, and who waits for them.
#[derive(Default)]
pub(crate) struct Look {
    notify: Notify,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// Not a map: a delta brings many changes of one node in a row.
    changed: Vec<(ChitchatId, Vec<String>)>,
    kept: usize,
    /// What is noted is not all.
    lost: bool,
}

impl Look {
    /// A key of a node has another value.
    pub(crate) fn note(&self, node: &ChitchatId, key: &str) {
        {
            let mut notes = self.notes();
            if notes.kept >= KEPT {
                notes.lost = true;
            } else {
                notes.kept += 1;
                match notes.changed.last_mut() {
                    Some((last, keys)) if last == node => keys.push(key.to_owned()),
                    _ => notes.changed.push((node.clone(), vec![key.to_owned()])),
                }
            }
        }
        self.notify.notify_one();
    }

    /// Something is not as it was.
    pub(crate) fn lost_track(&self) {
        self.notes().lost = true;
        self.notify.notify_one();
    }

    /// Waits for a note.
    pub(crate) async fn noted(&self) {
        self.notify.notified().await;
    }

    /// What has changed since this was last asked; `None`: it may be anything.
    /// To be called under chitchat's lock, so that it tells of what is there.
    pub(crate) fn take(&self) -> Option<Changed> {
        let notes = std::mem::take(&mut *self.notes());
        if notes.lost {
            return None;
        }
        let mut changed = Changed::new();
        for (node, keys) in notes.changed {
            changed.entry(node).or_default().extend(keys);
        }
        Some(changed)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u64) -> ChitchatId {
        ChitchatId::new("n", n, ([127, 0, 0, 1], 1).into())
    }

    #[test]
    fn notes_are_taken_once_and_by_node() {
        let look = Look::default();
        for (n, key) in [(1, "a"), (1, "b"), (2, "a"), (1, "a")] {
            look.note(&node(n), key);
        }
        let expected = [(node(1), vec!["a", "b", "a"]), (node(2), vec!["a"])];
        let taken: Vec<_> = look.take().unwrap().into_iter().collect();
        assert_eq!(format!("{taken:?}"), format!("{expected:?}"));
        assert_eq!(look.take(), Some(Changed::new()));
    }

    #[test]
    fn too_many_notes_are_no_notes() {
        let look = Look::default();
        (0..KEPT).for_each(|n| look.note(&node(1), &n.to_string()));
        assert_eq!(look.take().unwrap()[&node(1)].len(), KEPT);
        (0..=KEPT).for_each(|n| look.note(&node(1), &n.to_string()));
        assert_eq!(look.take(), None);
        look.lost_track();
        assert_eq!(look.take(), None);
        assert_eq!(look.take(), Some(Changed::new()));
    }
}
