use super::*;

fn element(key: &[u8], counted: Option<Count>) -> Vec<u8> {
    let mut bytes = Vec::new();
    nest(&mut bytes, 1, |element| {
        nest(element, 1, |value| attribute(value, 1, key));
        if let Some((packets, octets)) = counted {
            nest(element, 7, |expression| {
                text(expression, 1, "counter");
                nest(expression, 2, |data| {
                    attribute(data, 1, &octets.to_be_bytes());
                    attribute(data, 2, &packets.to_be_bytes());
                });
            });
        }
    });
    bytes
}

#[test]
fn elements_are_read_with_what_they_counted_and_whatever_is_cut_off_is_no_reason_to_fall_over() {
    let mut message = Vec::new();
    let at = begin(&mut message, SUBSYS << 8 | NEW_ELEMENT, 0, 1, libc::NFPROTO_BRIDGE, 0);
    text(&mut message, 1, "overlayd");
    text(&mut message, 2, "lied_mac");
    let elements = [element(b"ove1", Some((5, 300))), element(b"ove22", None)].concat();
    nest(&mut message, 3, |list| list.extend(elements));
    finish(&mut message, at);
    assert_eq!(set_of(&message).as_deref(), Some("lied_mac"));
    assert_eq!(elements_of(&message), [(b"ove1".to_vec(), (5, 300)), (b"ove22".to_vec(), (0, 0))]);
    for end in 0..message.len() {
        let _ = (elements_of(&message[..end]), set_of(&message[..end]));
        assert_eq!(messages(&message[..end]).count(), 0);
    }
    assert_eq!(messages(&[message.clone(), message].concat()).count(), 2);
}
