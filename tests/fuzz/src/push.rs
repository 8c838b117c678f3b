//! Bodies of the fast path.

use std::collections::BTreeMap;

use overlay_gossip::fuzz::{
    Pushed, Watcher, decode_push, decode_record, encode_push, encode_record, value_of,
};
use overlay_model::{ClusterEvent, Host, Record, RecordKey};

use crate::samples;
use crate::within;

/// 1. What was read is written with the same bytes, or fewer if they were not
///    our form: versions, keys that we do not know and values that we cannot
///    read included.
/// 2. What is told of it stands in it, under its own key and in its newest
///    version, and nothing is told twice, by push or by gossip.
/// 3. Memory does not depend on what the bytes claim.
pub(crate) fn run(data: &[u8]) {
    let decoded = within(1024 * 1024 + 8 * data.len(), || decode_push(data));
    let Some(push) = decoded else {
        assert!(Watcher::new().pushed(data).is_none());
        return;
    };
    let bytes = encode_push(&push);
    assert!(bytes.len() <= data.len());
    assert_eq!(decode_push(&bytes).as_ref(), Some(&push));
    if bytes.len() == data.len() {
        assert_eq!(bytes, data);
    }
    tell(&push, data);
}

fn tell(push: &Pushed, body: &[u8]) {
    let host = Host { id: push.host, ..samples::host() };
    let (value, _) = encode_record(&Record::Host(host)).expect("it is short");
    let known = ("host".to_owned(), value, 2);
    let mut watcher = Watcher::new();
    watcher.holds(push.host, push.incarnation, std::slice::from_ref(&known));
    watcher.read();

    let events = watcher.pushed(body).expect("it was read before");
    let mut told = BTreeMap::new();
    for event in &events {
        let ClusterEvent::Record { host, incarnation, key, record } = event else {
            panic!("no push says {event:?}");
        };
        assert_eq!((*host, *incarnation), (push.host, push.incarnation));
        // The record that was told for a key last is that of its newest readable version.
        told.insert(*key, record.clone());
    }
    let mut newest: BTreeMap<RecordKey, (u64, &Option<Vec<u8>>)> = BTreeMap::new();
    for (version, text, value) in &push.changes {
        let Ok(key) = text.parse::<RecordKey>() else { continue };
        let readable =
            value.as_ref().is_none_or(|bytes| decode_record(push.host, key, bytes).is_ok());
        if readable && newest.get(&key).is_none_or(|(other, _)| other < version) {
            newest.insert(key, (*version, value));
        }
    }
    for (key, record) in &told {
        let (_, value) = newest.get(key).expect("told, and nothing says so");
        let said = value.as_ref().map(|bytes| {
            decode_record(push.host, *key, bytes).expect("what cannot be read is not told")
        });
        assert_eq!(record.as_deref(), said.as_ref());
    }
    assert_eq!(watcher.pushed(body), Some(Vec::new()), "told twice");

    // Gossip brings the same, in an order of versions that gossip can have.
    let mut all: BTreeMap<String, (String, u64)> = BTreeMap::new();
    all.insert(known.0, (known.1, known.2));
    for (version, key, value) in &push.changes {
        let text = value.as_ref().map(|bytes| value_of(bytes)).unwrap_or_default();
        // Others are not let through to chitchat.
        if key.is_ascii()
            && !["id", "end"].contains(&key.as_str())
            && all.get(key).is_none_or(|(_, other)| other < version)
        {
            all.insert(key.clone(), (text, *version));
        }
    }
    let brought: Vec<_> = all.into_iter().map(|(key, (value, v))| (key, value, v)).collect();
    if brought.iter().all(|(.., version)| *version <= 2) {
        return;
    }
    watcher.holds(push.host, push.incarnation, &brought);
    for event in watcher.read() {
        let ClusterEvent::Record { key, record: Some(record), .. } = event else { continue };
        let newest_of_all = brought.iter().find(|(text, ..)| *text == key.to_string());
        let pushed = newest.get(&key).map(|(version, _)| *version);
        let twice = told.get(&key) == Some(&Some(record))
            && newest_of_all.is_some_and(|(.., version)| Some(*version) == pushed);
        assert!(!twice, "{key} was told by the push already");
    }
}
