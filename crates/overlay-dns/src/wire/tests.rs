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
    let mut bytes = question(7, name, RecordType::A).unwrap();
    bytes[11] = 1;
    bytes.extend([0, 0, 41]);
    bytes.extend(size.to_be_bytes());
    bytes.extend([0, 0, 0x80, 0, 0, 0]);
    bytes
}

#[test]
fn a_question_is_read_in_lower_case_and_kept_as_it_came() {
    let bytes = question(7, "wEb.Demo.Overlay.Internal", RecordType::AAAA).unwrap();
    let query = read(&bytes);
    assert_eq!(query.name.to_string(), "web.demo.overlay.internal.");
    let (kind, class) = (query.asked.query_type, query.asked.query_class);
    assert_eq!((query.id(), kind, u16::from(class)), (7, RecordType::AAAA, 1));
    assert_eq!(&query.question_bytes()[..4], b"\x03wEb");
    for root in ["", "."] {
        let bytes = question(7, root, RecordType::NS).unwrap();
        assert_eq!(read(&bytes).name.to_string(), ".");
    }
}

/// The only test that knows what a message looks like: hickory reads what it writes everywhere
/// else.
#[test]
fn an_answer_is_these_bytes() {
    let bytes = with_edns("wEb.x", 1232);
    let query = read(&bytes);
    let mut out = Vec::new();
    let mut reply = Reply::new(&query, query.udp_limit(), 5, &mut out);
    assert!(reply.address("10.9.0.2".parse().unwrap()));
    reply.end(ResponseCode::NoError, true);
    let expected: Vec<u8> = [
        // Number, QR AA RD, RA, counts.
        &[0, 7, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 1][..],
        b"\x03wEb\x01x\0\0\x01\0\x01",
        // A pointer to the question, A, IN, 5 s, four bytes.
        &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 0, 2],
        // OPT of 1232 bytes, DO as it was asked.
        &[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0],
    ]
    .concat();
    assert_eq!(out, expected);
}

#[test]
fn the_size_that_edns_says_counts_within_bounds() {
    assert_eq!(read(&question(7, "web", RecordType::A).unwrap()).udp_limit(), 512);
    for (said, counts) in [(0, 512), (512, 512), (1000, 1000), (1232, 1232), (65_535, 1232)] {
        assert_eq!(read(&with_edns("web", said)).udp_limit(), counts);
    }
}

#[test]
fn what_is_wrong_is_said_and_replies_are_not_replied_to() {
    let sound = question(7, "web", RecordType::A).unwrap();
    let refused = |bytes: &[u8]| match Query::read(bytes) {
        Message::Refuse(reply) => {
            let reply = Theirs::from_vec(&reply).unwrap();
            assert_eq!(reply.metadata.id, 7);
            assert!(reply.queries.iter().all(|asked| asked.name.to_ascii() == "web."));
            Some(reply.metadata.response_code)
        }
        Message::Query(_) => None,
        Message::Ignore => Some(ResponseCode::NoError),
    };
    assert_eq!(refused(&sound), None);
    let with = |at: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(refused(&with(2, 0x81)), Some(ResponseCode::NoError), "a reply is ignored");
    assert_eq!(refused(&sound[..11]), Some(ResponseCode::NoError), "what has no header, too");
    assert_eq!(refused(&with(2, 0x29)), Some(ResponseCode::NotImp), "an update");
    assert_eq!(refused(&with(5, 2)), Some(ResponseCode::FormErr), "two questions");
    assert_eq!(refused(&with(7, 1)), Some(ResponseCode::FormErr), "an answer in a question");
    assert_eq!(refused(&with(11, 1)), Some(ResponseCode::FormErr), "a record that is not there");
    assert_eq!(refused(&with(12, 0xc0)), Some(ResponseCode::FormErr), "a pointer");
    assert_eq!(
        refused(&with(12, 9)),
        Some(ResponseCode::FormErr),
        "a label that goes beyond the end"
    );
    let twice = [with_edns("web", 512), with_edns("web", 512)[21..].to_vec()].concat();
    let mut twice = twice;
    twice[11] = 2;
    assert_eq!(refused(&twice), Some(ResponseCode::FormErr), "EDNS twice");
    let mut many = sound.clone();
    many[10] = 0xff;
    assert_eq!(refused(&many), Some(ResponseCode::FormErr), "more records than are read");
}

/// hickory reads families 1 and 2 only.
#[test]
fn a_client_that_gives_nobody_s_subnet_is_answered() {
    let mut bytes = with_edns("web", 1232);
    let at = bytes.len() - 1;
    bytes[at] = 8;
    bytes.extend([0, 8, 0, 4, 0, 0, 0, 0]);
    assert_eq!(read(&bytes).udp_limit(), PLAIN_LIMIT);
    bytes[at + 6] = 1;
    assert_eq!(read(&bytes).udp_limit(), UDP_LIMIT);
}

#[test]
fn names_may_have_255_bytes_and_labels_63() {
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "y".repeat(61));
    let labels = |name: &str| {
        let bytes = question(7, name, RecordType::A).unwrap();
        read(&bytes).name.iter().len()
    };
    assert_eq!(labels(&longest), 4);
    assert_eq!(question(7, &format!("{longest}y"), RecordType::A), None);
    assert_eq!(question(7, &"x".repeat(64), RecordType::A), None);
    assert_eq!(question(7, "a..b", RecordType::A), None);
    let mut bytes = question(7, &longest, RecordType::A).unwrap();
    // One more byte in the last label.
    bytes[12 + 3 * 64] += 1;
    bytes.insert(12 + 3 * 64 + 1, b'y');
    assert!(matches!(Query::read(&bytes), Message::Refuse(_)));
    let many = vec!["a"; 127].join(".");
    assert_eq!(labels(&many), 127);
}

#[test]
fn a_reply_is_as_long_as_it_may_be_and_says_that_it_is_not_all() {
    for limit in [512, 600, 1232] {
        let bytes = if limit == 512 {
            question(7, "web", RecordType::A).unwrap()
        } else {
            with_edns("web", limit)
        };
        let query = read(&bytes);
        let mut out = Vec::new();
        let mut reply = Reply::new(&query, query.udp_limit(), 5, &mut out);
        let told =
            (0..200u32).take_while(|n| reply.address(std::net::Ipv4Addr::from_bits(*n).into()));
        let told = told.count();
        reply.end(ResponseCode::NoError, true);
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
    let bytes = question(7, "wWw.example.com", RecordType::A).unwrap();
    let query = read(&bytes);
    let mut reply = question(99, "www.EXAMPLE.com", RecordType::A).unwrap();
    assert!(!query.is_answered_by(&reply, 99), "it is a question");
    reply[2] |= 0x80;
    assert!(query.is_answered_by(&reply, 99));
    assert!(!query.is_answered_by(&reply, 98), "another number");
    let mut other = question(99, "www.example.org", RecordType::A).unwrap();
    other[2] |= 0x80;
    assert!(!query.is_answered_by(&other, 99), "another name");
    let mut other = question(99, "www.example.com", RecordType::AAAA).unwrap();
    other[2] |= 0x80;
    assert!(!query.is_answered_by(&other, 99), "another type");
    assert!(!query.is_answered_by(&reply[..20], 99), "half of it");
    assert!(!query.is_answered_by(&[], 99));
    query.adopt(&mut reply);
    assert_eq!(&reply[..2], &bytes[..2]);
    assert_eq!(&reply[12..], &bytes[12..]);
    let mut short = Vec::new();
    Reply::cut_off(&query, ResponseCode::NXDomain, &mut short);
    let theirs = Theirs::from_vec(&short).unwrap();
    assert!(theirs.metadata.truncation && theirs.queries.len() == 1);
    assert_eq!(theirs.metadata.response_code, ResponseCode::NXDomain);
}

proptest! {
    /// What is refused is told by whom it was asked.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Message::Refuse(reply) = Query::read(&bytes) {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
        }
    }

    #[test]
    fn any_name_is_read_and_told_letter_by_letter(labels in prop::collection::vec("[a-zA-Z0-9]([a-zA-Z0-9_-]{0,28}[a-zA-Z0-9])?", 1..7)) {
        let name = labels.join(".");
        let bytes = question(7, &name, RecordType::A).unwrap();
        let query = read(&bytes);
        prop_assert_eq!(query.name.to_ascii(), format!("{}.", name.to_ascii_lowercase()));
        let mut out = Vec::new();
        Reply::new(&query, PLAIN_LIMIT, 5, &mut out).end(ResponseCode::NoError, true);
        prop_assert_eq!(&out[HEADER..], &bytes[HEADER..]);
    }
}
