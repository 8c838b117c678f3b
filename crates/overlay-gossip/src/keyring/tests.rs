use super::*;

const A: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn key(byte: u8) -> Key {
    Key::new(Zeroizing::new([byte; LENGTH]))
}

#[test]
fn a_key_has_this_id_and_this_text_for_ever() {
    let key: Key = A.parse().unwrap();
    assert_eq!(key.to_text().as_str(), A);
    // SHA-256 of the context and the bytes, by another implementation.
    assert_eq!(key.id().to_string(), "5f6f1c09");
}

#[test]
fn new_keys_differ() {
    assert_ne!(Key::generate().unwrap(), Key::generate().unwrap());
}

#[test]
fn what_is_no_key_is_not_repeated() {
    for text in ["", "secret", &A[..40], &format!("{A}AAAA"), &A.replace('=', "")] {
        let err = text.parse::<Key>().unwrap_err();
        assert!(text.is_empty() || !err.to_string().contains(text), "{err}");
    }
    let err = Keyring::parse(&format!("# ours\n{A}\n\nsecret\n")).unwrap_err();
    assert_eq!(err, KeyringError::Line { line: 4, err: InvalidKey });
    assert!(!err.to_string().contains("secret"));
}

#[test]
fn a_ring_is_what_its_text_says() {
    let ring = Keyring::parse(&format!("# a comment\n\n  {A} # the old one\n")).unwrap();
    let ring = ring.with(key(7)).unwrap();
    let again = Keyring::parse(&ring.to_text()).unwrap();
    assert_eq!(ring.ids(), again.ids());
    assert_eq!(ring.ids().ids.len(), 2);
    assert_eq!(ring.ids().used, Some(A.parse::<Key>().unwrap().id()));
}

#[test]
fn a_ring_is_never_empty_overfull_or_ambiguous() {
    assert_eq!(Keyring::parse("# nothing\n").unwrap_err(), KeyringError::Empty);
    let three = Keyring::new(vec![key(1), key(2), key(3)]).unwrap();
    assert_eq!(three.with(key(4)).unwrap_err(), KeyringError::TooMany);
    let one = Keyring::new(vec![key(1)]).unwrap();
    assert_eq!(one.with(key(1)).unwrap_err(), KeyringError::Twice(key(1).id()));
    assert_eq!(one.without(key(1).id()).unwrap_err(), KeyringError::InUse(key(1).id()));
    assert_eq!(one.without(key(2).id()).unwrap_err(), KeyringError::Unknown(key(2).id()));
}

#[test]
fn a_ring_rotates() {
    let ring = Keyring::new(vec![key(1)]).unwrap();
    ring.replace(&ring.with(key(2)).unwrap());
    assert_eq!(ring.used(), key(1));
    ring.replace(&ring.using(key(2).id()).unwrap());
    assert_eq!(ring.used(), key(2));
    assert!(ring.find(key(1).id()).is_some());
    ring.replace(&ring.without(key(1).id()).unwrap());
    assert_eq!(ring.ids(), HostKeys { ids: vec![key(2).id()], used: Some(key(2).id()) });
}

#[test]
fn no_debug_output_shows_a_key() {
    let ring = Keyring::parse(A).unwrap();
    let shown = format!("{ring:?} {:?}", ring.used());
    assert!(!shown.contains(&A[..8]) && !shown.contains("0, 1, 2"), "{shown}");
}
