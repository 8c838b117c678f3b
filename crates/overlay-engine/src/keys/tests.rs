use std::time::Duration;

use overlay_model::{HostKeys, KeyId};

use crate::event::{ErrorKind, Refused};
use crate::tests::world::World;

const OLD: KeyId = KeyId([1; 4]);
const NEW: KeyId = KeyId([2; 4]);

/// The first of `ids` in use.
fn keys(ids: &[KeyId]) -> HostKeys {
    HostKeys { ids: ids.to_vec(), used: ids.first().copied() }
}

/// Hosts that all have the old key only.
fn three() -> World {
    let mut w = World::new(3);
    for i in 0..3 {
        w.set_keys(i, keys(&[OLD]));
    }
    w
}

#[track_caller]
fn locks_out(result: Result<(), Refused>, whom: &str) {
    let refused = result.expect_err("a refusal");
    assert_eq!(refused.kind, ErrorKind::LocksOut, "{refused}");
    assert!(refused.message.contains(whom), "{refused}");
}

#[test]
fn a_rotation_in_order_is_never_refused() {
    let mut w = three();
    for i in 0..3 {
        w.set_keys(i, keys(&[OLD, NEW]));
    }
    for i in 0..3 {
        w.engine(i).may_use_key(NEW, false).unwrap();
        w.set_keys(i, keys(&[NEW, OLD]));
    }
    for i in 0..3 {
        w.engine(i).may_remove_key(OLD, false).unwrap();
        w.set_keys(i, keys(&[NEW]));
    }
    assert_eq!(w.engine(0).keys().len(), 1);
}

#[test]
fn a_key_is_not_used_while_a_live_host_lacks_it() {
    let mut w = three();
    w.set_keys(0, keys(&[OLD, NEW]));
    w.set_keys(1, keys(&[OLD, NEW]));
    locks_out(w.engine(0).may_use_key(NEW, false), "h2");
    w.engine(0).may_use_key(NEW, true).unwrap();
    let view = w.engine(0).key(NEW);
    assert_eq!((view.held_by, view.lacking), (vec!["h1".to_owned()], vec!["h2".to_owned()]));
    w.set_keys(2, keys(&[OLD, NEW]));
    w.engine(0).may_use_key(NEW, false).unwrap();
}

#[test]
fn a_key_is_not_removed_while_anybody_live_uses_it() {
    let mut w = three();
    w.set_keys(0, keys(&[NEW, OLD]));
    w.set_keys(1, keys(&[NEW, OLD]));
    w.set_keys(2, keys(&[OLD, NEW]));
    locks_out(w.engine(0).may_remove_key(OLD, false), "h2");
    w.engine(0).may_remove_key(OLD, true).unwrap();
    let here = w.engine(0).may_remove_key(NEW, true).unwrap_err();
    assert_eq!(here.kind, ErrorKind::InUse, "not even by force");
    w.set_keys(2, keys(&[NEW, OLD]));
    w.engine(0).may_remove_key(OLD, false).unwrap();
}

#[test]
fn a_host_that_does_not_say_what_it_has_counts_as_lacking_it() {
    let mut w = World::new(2);
    w.set_keys(0, keys(&[NEW, OLD]));
    locks_out(w.engine(0).may_use_key(OLD, false), "h1");
    locks_out(w.engine(0).may_remove_key(OLD, false), "h1");
}

#[test]
fn a_suspect_host_counts_and_one_that_is_down_does_not() {
    let mut w = three();
    w.set_keys(0, keys(&[OLD, NEW]));
    w.set_keys(1, keys(&[OLD, NEW]));
    w.fall_silent(2);
    locks_out(w.engine(0).may_use_key(NEW, false), "h2");
    w.pass(Duration::from_secs(5));
    w.engine(0).may_use_key(NEW, false).unwrap();
}

#[test]
fn a_key_that_is_not_here_is_not_found() {
    let mut w = three();
    w.set_keys(1, keys(&[OLD, NEW]));
    let unknown = KeyId([9; 4]);
    for id in [NEW, unknown] {
        for refused in [w.engine(0).may_use_key(id, true), w.engine(0).may_remove_key(id, true)] {
            assert_eq!(refused.unwrap_err().kind, ErrorKind::NotFound);
        }
    }
    let view = w.engine(0).key(NEW);
    assert!(!view.here && view.held_by == ["h1"], "it is shown all the same");
}
