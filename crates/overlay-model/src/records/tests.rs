use proptest::prelude::*;

use super::*;

#[test]
fn keys_are_short_ascii_text_that_reads_back() {
    let net = NetworkId(7);
    let keys = [
        RecordKey::Host,
        RecordKey::Network(net),
        RecordKey::Endpoint(net, EndpointId::from_bits(5)),
        RecordKey::Ring(net, Family::V6, u128::MAX),
        RecordKey::Want(net, Family::V4),
        RecordKey::Keys,
        RecordKey::Drained,
    ];
    for key in keys {
        let text = key.to_string();
        assert!(text.is_ascii() && text.len() <= 64, "{text}");
        assert_eq!(text.parse::<RecordKey>().unwrap(), key);
    }
}

/// What released software writes and reads. If this fails, the code is wrong,
/// not the text.
#[test]
fn keys_have_these_texts_for_ever() {
    let net = NetworkId(0xab7);
    for (key, text) in [
        (RecordKey::Host, "host"),
        (RecordKey::Network(net), "net/0000000000000ab7"),
        (RecordKey::Endpoint(net, EndpointId::from_bits(5)), "ep/0000000000000ab7/000000000005"),
        (RecordKey::Ring(net, Family::V4, 0x80), "ring/0000000000000ab7/4/80"),
        (RecordKey::Ring(net, Family::V6, 0), "ring/0000000000000ab7/6/0"),
        (RecordKey::Want(net, Family::V4), "want/0000000000000ab7/4"),
        (RecordKey::Keys, "keys"),
        (RecordKey::Drained, "drained"),
    ] {
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse::<RecordKey>().unwrap(), key);
    }
}

#[test]
fn a_key_has_one_text() {
    for other in [
        "net/00000000000000AB",
        "ep/0000000000000007/0000000000AB",
        "ring/0000000000000007/4/+a",
        "ring/0000000000000007/4/0a",
        "ring/0000000000000007/4/A",
        "want/000000000000000F/6",
    ] {
        assert!(other.parse::<RecordKey>().is_err(), "{other}");
        let ours = other.to_lowercase().replace("/+a", "/a").replace("/0a", "/a");
        assert!(ours.parse::<RecordKey>().is_ok(), "{ours}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_an_error(text in "(net/|ep/|ring/|want/)?[0-9a-fA-F+/]{0,40}|.{0,40}") {
        if let Ok(key) = text.parse::<RecordKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}
