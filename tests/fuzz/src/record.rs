//! Records, and the keys that they stand under.

use overlay_gossip::MAX_VALUE;
use overlay_gossip::fuzz::{decode_record, decode_value, encode_record, read_record, value_of};
use overlay_model::{Family, HostId, NetworkId, Record, RecordKey};

use crate::samples::OWNER;
use crate::within;

/// An owner and a key that `record` fits.
pub(crate) fn place(record: &Record) -> (HostId, RecordKey) {
    let (net, family) = (NetworkId(1), Family::V6);
    match record {
        Record::Host(host) => (host.id, RecordKey::Host),
        Record::Network(network) => (OWNER, RecordKey::Network(network.id)),
        Record::Endpoint(e) => (OWNER, RecordKey::Endpoint(e.network, e.id)),
        Record::Ring(_) => (OWNER, RecordKey::Ring(net, family, u128::MAX)),
        Record::Want(_) => (OWNER, RecordKey::Want(net, family)),
        Record::Keys(_) => (OWNER, RecordKey::Keys),
        Record::Fate(_) => (OWNER, RecordKey::Fate(OWNER)),
        Record::Service(service) => (OWNER, RecordKey::Service(service.network, service.id)),
        Record::Drained => (OWNER, RecordKey::Drained),
    }
}

/// One list of bytes can mean it, and no other.
fn has_one_form(record: &Record) -> bool {
    match record {
        Record::Network(network) => network.labels.len() < 2,
        Record::Endpoint(e) => e.labels.len() < 2 && e.aliases.len() < 2,
        Record::Host(_)
        | Record::Ring(_)
        | Record::Want(_)
        | Record::Keys(_)
        | Record::Fate(_)
        | Record::Service(_)
        | Record::Drained => true,
    }
}

/// 1. Bytes are a record or an error; a format that we do not know has its own.
/// 2. A record that was read is written so that it is read as the same, and its
///    bytes are those that it was read from wherever those were our form.
/// 3. It is taken under its own key only, and alike from pushes and from gossip.
/// 4. Every key has one text.
/// 5. Memory does not depend on what the bytes claim.
pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = text.parse::<RecordKey>()
    {
        assert_eq!(key.to_string(), text, "another text of the same key");
    }
    let read = within(128 * 1024 + 8 * data.len(), || read_record(data));
    let version = data.first().copied();
    assert_eq!(
        read == Err("undecodable_unknown_version"),
        version.is_some_and(|version| !(1..=7).contains(&version))
    );
    let text = value_of(data);
    let Ok(record) = read else {
        assert!(decode_record(OWNER, RecordKey::Host, data).is_err());
        assert!(decode_value(OWNER, RecordKey::Host, &text).is_err());
        return;
    };
    let (owner, key) = place(&record);
    let fits = text.len() <= MAX_VALUE;
    let wanted = if fits { Ok(record.clone()) } else { Err("undecodable_too_long") };
    assert_eq!(decode_record(owner, key, data), wanted);
    assert_eq!(decode_value(owner, key, &text), wanted);
    let misplaced = if key == RecordKey::Keys { RecordKey::Host } else { RecordKey::Keys };
    assert!(decode_record(owner, misplaced, data).is_err());
    let Some((value, bytes)) = encode_record(&record) else {
        assert!(!fits, "it was read from less");
        return;
    };
    assert!(bytes.len() <= data.len() && value.is_ascii() && value.len() <= MAX_VALUE);
    assert_eq!(decode_value(owner, key, &value).as_ref(), Ok(&record));
    // Names are taken in either case.
    if bytes.len() == data.len() && has_one_form(&record) {
        assert!(bytes.eq_ignore_ascii_case(data), "{bytes:?}");
    }
}
