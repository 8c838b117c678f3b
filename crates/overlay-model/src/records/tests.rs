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
    ];
    for key in keys {
        let text = key.to_string();
        assert!(text.is_ascii() && text.len() <= 64, "{text}");
        assert_eq!(text.parse::<RecordKey>().unwrap(), key);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_an_error(text in ".{0,40}") {
        if let Ok(key) = text.parse::<RecordKey>() {
            prop_assert_eq!(key.to_string().parse::<RecordKey>().unwrap(), key);
        }
    }
}
