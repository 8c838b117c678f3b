use super::*;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn guard(mac: u8, addresses: &[&str]) -> Guard {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Guard { mac: MacAddr([2, 0x42, 0, 0, 0, mac]), addresses, altered: false }
}

#[test]
fn what_ports_may_say_is_read_back_from_their_elements_and_one_more_or_less_is_seen() {
    let port = name("ove000000000001");
    for wanted in [guard(5, &["10.9.0.5", "fd00:9::5"]), guard(6, &["10.9.0.6"]), guard(7, &[])] {
        let mut guards = Guards::default();
        for (set, key) in elements(&port, &wanted) {
            assert_eq!(guards.note(SETS[set], key, true), Some(port.clone()));
        }
        assert_eq!(guards.object(&port), Some(Object::Guard(Box::new(wanted.clone()))));
        assert!(guards.difference(&port, Some(&wanted)).all(|(add, ..)| add));
        for (set, key) in elements(&port, &wanted) {
            let mut less = guards.clone();
            less.note(SETS[set], key, false);
            assert_ne!(less.object(&port), guards.object(&port), "without one of {}", SETS[set]);
        }
        for (set, key) in elements(&port, &guard(66, &["10.9.0.66", "fd00:9::66"])) {
            let mut more = guards.clone();
            more.note(SETS[set], key.clone(), true);
            if more == guards {
                continue;
            }
            assert_ne!(more.object(&port), guards.object(&port), "with one more of {}", SETS[set]);
            let gone: Vec<_> = more
                .difference(&port, Some(&wanted))
                .filter_map(|(add, set, key)| (!add).then_some((set, key)))
                .collect();
            assert_eq!(gone, [(SETS[set], key)]);
        }
    }
}

#[test]
fn the_script_names_every_network_host_and_port() {
    let firewall = Firewall {
        bridges: [name("ovb7"), name("ovb16777215")].into(),
        vxlan_port: 8472,
        gossip_port: 7947,
        vteps: ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()].into(),
        gossip: ["192.0.2.2:7946".parse().unwrap()].into(),
        access: Access::Closed,
        altered: false,
    };
    let text = script(&firewall, &[("between_networks".to_owned(), (3, 99))].into());
    for part in [
        "elements = { \"ovb16777215\" . \"ovb16777215\", \"ovb7\" . \"ovb7\" }",
        "set vteps4 { type ipv4_addr; elements = { 192.0.2.2 } }",
        "set vteps6 { type ipv6_addr; elements = { 2001:db8::2 } }",
        "set gossip4 { type ipv4_addr . inet_service; elements = { 192.0.2.2 . 7946 } }",
        "set vnis { typeof @th,96,24; elements = { 0x7, 0xffffff } }",
        "udp dport 8472 goto vxlan",
        "th dport 7947 counter name gossip_from_containers drop",
        "counter between_networks { packets 3 bytes 99 }",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

/// nft looks other names up in /etc/protocols, which small systems lack (Debian's `netbase`).
#[test]
fn protocols_are_named_in_words_of_nft_itself() {
    let firewall = Firewall {
        bridges: [name("ovb7")].into(),
        vxlan_port: 4789,
        gossip_port: 7946,
        vteps: ["192.0.2.2".parse().unwrap()].into(),
        gossip: ["192.0.2.2:7946".parse().unwrap()].into(),
        access: Access::Closed,
        altered: false,
    };
    let text = script(&firewall, &Default::default());
    let named = text.split("meta l4proto ").skip(1).filter(|rest| !rest.starts_with('.'));
    let named: BTreeSet<&str> = named
        .flat_map(|rest| match rest.strip_prefix("{ ") {
            Some(list) => list.split(" }").next().unwrap().split(", ").collect(),
            None => vec![rest.split(' ').next().unwrap()],
        })
        .collect();
    assert_eq!(named, ["icmp", "icmpv6", "tcp", "udp"].into());
}

#[test]
fn an_element_is_text_that_nft_reads() {
    let port = name("ove1");
    let texts: Vec<String> = elements(&port, &guard(5, &["10.9.0.5", "fd00:9::5"]))
        .iter()
        .filter(|(set, _)| *set != OWN_IP6)
        .filter_map(|(set, key)| element_text(*set, key, (2, 120)))
        .take(6)
        .collect();
    assert_eq!(
        texts,
        [
            "\"ove1\"",
            "\"ove1\" . 02:42:00:00:00:05",
            "\"ove1\" . 02:42:00:00:00:05 . 10.9.0.5",
            "\"ove1\" . 02:42:00:00:00:05 . 0xfd000009000000000000000000000005",
            "\"ove1\" . 02:42:00:00:00:05 . 0xfe80000000000000004200fffe000005",
            "\"ove1\" . 0x024200000005",
        ]
    );
    assert_eq!(
        element_text(LIED, &elements(&port, &guard(5, &[])).pop_first().unwrap().1, (2, 120)),
        Some("\"ove1\" counter packets 2 bytes 120".to_owned())
    );
    let odd: Key = b"a\"b\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    assert_eq!(element_text(PORTS, &odd, (0, 0)), None);
}
