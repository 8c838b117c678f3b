use super::*;

#[test]
fn a_vni_is_24_bits_and_not_zero() {
    assert_eq!("4097".parse::<Vni>().unwrap().get(), 4097);
    assert_eq!(Vni::new(Vni::MAX).unwrap().vxlan().as_str(), "ovx16777215");
    for bad in ["0", "16777216", "-1", "x", ""] {
        let err = bad.parse::<Vni>().unwrap_err().to_string();
        assert!(err.contains("choose one from 1 to 16777215"), "{err}");
    }
}

#[test]
fn an_endpoint_id_makes_an_interface_name_of_15_bytes() {
    let id = EndpointId::from_bits(u64::MAX);
    assert_eq!(id.ifname().as_str(), "oveffffffffffff");
    assert!(IfName::new(id.ifname().as_str()).is_ok());
    assert_eq!(id.to_string().parse::<EndpointId>().unwrap(), id);
    assert!("ffffffffffff0".parse::<EndpointId>().is_err());
}

#[test]
fn names_are_dns_labels() {
    assert_eq!(Name::new("Web-1").unwrap().as_str(), "web-1");
    let long = "a".repeat(64);
    for bad in ["", "-a", "a-", "a_b", "a.b", "é", long.as_str()] {
        assert!(Name::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn interface_names_are_what_the_kernel_takes() {
    for good in ["eth0", "a", "123456789012345"] {
        assert!(IfName::new(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a b", "1234567890123456", "a:b", "eth\u{e9}"] {
        assert!(IfName::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn macs_parse_as_they_print() {
    let mac: MacAddr = "02:42:0a:00:09:05".parse().unwrap();
    assert_eq!(mac, MacAddr::of_ipv4("10.0.9.5".parse().unwrap()));
    assert_eq!(mac.to_string(), "02:42:0a:00:09:05");
    assert!(mac.is_unicast());
    assert!(!"01:00:5e:00:00:01".parse::<MacAddr>().unwrap().is_unicast());
    for bad in [
        "",
        "02:42:0a:00:09",
        "02:42:0a:00:09:05:06",
        "2:42:a:0:9:5",
        "02-42-0a-00-09-05",
        "+2:42:0a:00:09:05",
    ] {
        assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
    }
}

#[test]
fn a_derived_mac_is_unicast_and_stable() {
    assert_eq!(MacAddr::derived(b"x"), MacAddr::derived(b"x"));
    assert_ne!(MacAddr::derived(b"x"), MacAddr::derived(b"y"));
    assert!(MacAddr::derived(b"x").is_unicast());
}

#[test]
fn ids_travel_as_text_in_json() {
    let id = NetworkId(0xabc);
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"0000000000000abc\"");
    assert_eq!(serde_json::from_str::<NetworkId>("\"0000000000000abc\"").unwrap(), id);
    assert!(serde_json::from_str::<Name>("\"a b\"").is_err());
    assert!(serde_json::from_str::<Vni>("0").is_err());
}

#[test]
fn names_of_links_are_as_they_print_and_sort_as_their_texts() {
    for n in [1, 9, 10, 4097, Vni::MAX] {
        let vni = Vni::new(n).unwrap();
        assert_eq!(vni.bridge().as_str(), format!("ovb{n}"));
        assert_eq!(vni.vxlan(), IfName::new(&format!("ovx{n}")).unwrap());
    }
    for bits in [0, 0xabc, u64::MAX] {
        let id = EndpointId::from_bits(bits);
        assert_eq!(id.ifname().as_str(), format!("ove{id}"));
    }
    let texts = ["a", "a0", "a00", "ab", "abcdefghijklmno", "b", "ovb1", "ovb10", "ovb2"];
    let names: Vec<IfName> = texts.iter().map(|t| IfName::new(t).unwrap()).collect();
    assert!(texts.is_sorted() && names.is_sorted());
    assert!(names.iter().zip(texts).all(|(name, text)| name.to_string() == text));
}

#[test]
fn the_id_of_a_key_is_8_hex_digits_and_what_is_none_is_not_repeated() {
    let id = KeyId([0, 0xab, 0xcd, 1]);
    assert_eq!(id.to_string(), "00abcd01");
    assert_eq!("00ABCD01".parse::<KeyId>().unwrap(), id);
    for text in ["", "abc", "+0abcd01", "00abcd0g", "00abcd012"] {
        assert!(text.parse::<KeyId>().is_err(), "{text}");
    }
    let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let said = secret.parse::<KeyId>().unwrap_err().to_string();
    assert_eq!(said, "`AAECAwQF` is not the id of a key (8 hex digits)");
}
