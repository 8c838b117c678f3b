use hickory_proto::op::Message as Theirs;
use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Query<'_> {
    match Query::read(bytes) {
        Message::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

/// With EDNS of that size.
fn with_edns(name: &str, size: u16) -> Vec<u8> {
    let mut bytes = question(7, name, kind::A).unwrap();
    bytes[11] = 1;
    bytes.extend([0, 0, 41]);
    bytes.extend(size.to_be_bytes());
    bytes.extend([0, 0, 0x80, 0, 0, 0]);
    bytes
}

#[test]
fn a_question_is_read_in_lower_case_and_kept_as_it_came() {
    let bytes = question(7, "wEb.Demo.Overlay.Internal", kind::AAAA).unwrap();
    let query = read(&bytes);
    assert_eq!(query.name.to_string(), "web.demo.overlay.internal");
    assert!(
        query.name.ends_in(&["overlay", "internal"]) && !query.name.ends_in(&["internal", "x"])
    );
    assert_eq!((query.id(), query.kind, query.class), (7, kind::AAAA, 1));
    assert_eq!(&query.question_bytes()[..4], b"\x03wEb");
    let root = question(7, "", kind::NS).unwrap();
    assert_eq!(read(&root).name.to_string(), ".");
}

#[test]
fn the_size_that_edns_says_counts_within_bounds() {
    assert_eq!(read(&question(7, "web", 1).unwrap()).udp_limit(), 512);
    for (said, counts) in [(0, 512), (512, 512), (1000, 1000), (1232, 1232), (65_535, 1232)] {
        assert_eq!(read(&with_edns("web", said)).udp_limit(), counts);
    }
}

#[test]
fn what_is_wrong_is_said_and_replies_are_not_replied_to() {
    let sound = question(7, "web", 1).unwrap();
    let refused = |bytes: &[u8]| match Query::read(bytes) {
        Message::Refuse(message, code) => {
            let mut out = Vec::new();
            refuse(message, code, &mut out);
            let theirs = Theirs::from_vec(&out).unwrap();
            assert_eq!(theirs.metadata.id, 7);
            Some(code)
        }
        Message::Query(_) => None,
        Message::Ignore => Some(Code::NoError),
    };
    assert_eq!(refused(&sound), None);
    let with = |at: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(refused(&with(2, 0x81)), Some(Code::NoError), "a reply is ignored");
    assert_eq!(refused(&sound[..11]), Some(Code::NoError), "what has no header, too");
    assert_eq!(refused(&with(2, 0x29)), Some(Code::NotImp), "an update");
    assert_eq!(refused(&with(5, 2)), Some(Code::FormErr), "two questions");
    assert_eq!(refused(&with(7, 1)), Some(Code::FormErr), "an answer in a question");
    assert_eq!(refused(&with(11, 1)), Some(Code::FormErr), "a record that is not there");
    assert_eq!(refused(&with(12, 0xc0)), Some(Code::FormErr), "a pointer");
    assert_eq!(refused(&with(12, 9)), Some(Code::FormErr), "a label that goes beyond the end");
    let twice = [with_edns("web", 512), with_edns("web", 512)[21..].to_vec()].concat();
    let mut twice = twice;
    twice[11] = 2;
    assert_eq!(refused(&twice), Some(Code::FormErr), "EDNS twice");
}

#[test]
fn names_may_have_255_bytes_and_labels_63() {
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "y".repeat(61));
    assert_eq!(read(&question(7, &longest, 1).unwrap()).name.len(), 4);
    assert_eq!(question(7, &format!("{longest}y"), 1), None);
    assert_eq!(question(7, &"x".repeat(64), 1), None);
    assert_eq!(question(7, "a..b", 1), None);
    let mut bytes = question(7, &longest, 1).unwrap();
    // One more byte in the last label.
    bytes[12 + 3 * 64] += 1;
    bytes.insert(12 + 3 * 64 + 1, b'y');
    assert!(matches!(Query::read(&bytes), Message::Refuse(_, Code::FormErr)));
    let many = vec!["a"; 127].join(".");
    assert_eq!(read(&question(7, &many, 1).unwrap()).name.len(), 127);
}

#[test]
fn a_reply_is_as_long_as_it_may_be_and_says_that_it_is_not_all() {
    for limit in [512, 600, 1232] {
        let bytes =
            if limit == 512 { question(7, "web", 1).unwrap() } else { with_edns("web", limit) };
        let query = read(&bytes);
        let mut out = Vec::new();
        let mut reply = Reply::new(&query, query.udp_limit(), 5, &mut out);
        let told =
            (0..200u32).take_while(|n| reply.address(std::net::Ipv4Addr::from_bits(*n).into()));
        let told = told.count();
        reply.end(Code::NoError, true);
        assert!(
            out.len() <= limit.into() && out.len() + 16 > limit.into(),
            "{} of {limit}",
            out.len()
        );
        let theirs = Theirs::from_vec(&out).unwrap();
        assert_eq!(theirs.answers.len(), told);
        assert!(theirs.metadata.truncation && theirs.metadata.authoritative);
        assert_eq!(theirs.edns.is_some(), limit != 512);
    }
}

#[test]
fn a_reply_of_others_is_taken_for_what_was_asked_only_and_gets_our_letters() {
    let bytes = question(7, "wWw.example.com", 1).unwrap();
    let query = read(&bytes);
    let mut reply = question(99, "www.EXAMPLE.com", 1).unwrap();
    assert!(!query.is_answered_by(&reply, 99), "it is a question");
    reply[2] |= 0x80;
    assert!(query.is_answered_by(&reply, 99));
    assert!(!query.is_answered_by(&reply, 98), "another number");
    let mut other = question(99, "www.example.org", 1).unwrap();
    other[2] |= 0x80;
    assert!(!query.is_answered_by(&other, 99), "another name");
    let mut other = question(99, "www.example.com", 28).unwrap();
    other[2] |= 0x80;
    assert!(!query.is_answered_by(&other, 99), "another type");
    assert!(!query.is_answered_by(&reply[..20], 99), "half of it");
    assert!(!query.is_answered_by(&[], 99));
    query.adopt(&mut reply);
    assert_eq!(&reply[..2], &bytes[..2]);
    assert_eq!(&reply[12..], &bytes[12..]);
    let mut long = [&reply[..], &[0; 600]].concat();
    truncate(&query, &mut long);
    let theirs = Theirs::from_vec(&long).unwrap();
    assert!(theirs.metadata.truncation && theirs.queries.len() == 1);
}

proptest! {
    /// Whatever comes: it is read as hickory-proto reads it, or refused.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Message::Refuse(message, code) = Query::read(&bytes) {
            let mut out = Vec::new();
            refuse(message, code, &mut out);
            prop_assert_eq!(&out[..2], &bytes[..2]);
        }
    }

    #[test]
    fn any_name_is_read_as_hickory_reads_it(labels in prop::collection::vec("[a-zA-Z0-9]([a-zA-Z0-9_-]{0,28}[a-zA-Z0-9])?", 1..7)) {
        let name = labels.join(".");
        let bytes = question(7, &name, kind::A).unwrap();
        let theirs = Theirs::from_vec(&bytes).unwrap();
        let read_by_them = theirs.queries[0].name().to_ascii();
        prop_assert_eq!(read_by_them.trim_end_matches('.'), &name);
        prop_assert_eq!(read(&bytes).name.to_string(), name.to_ascii_lowercase());
    }
}
