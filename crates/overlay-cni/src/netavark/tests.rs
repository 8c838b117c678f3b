use super::*;

/// The example of `plugin-API.md`.
const SETUP: &str = r#"{
    "container_id": "752947ff91f961eb3cb47ffe9315016979f3ffbec09e4d96a4fae3fb03391697",
    "container_name": "testctr",
    "port_mappings": [{
        "container_port": 80, "host_ip": "127.0.0.1", "host_port": 8080,
        "protocol": "tcp", "range": 1
    }],
    "network": {
        "dns_enabled": false, "driver": "overlay-netavark",
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "internal": false, "ipv6_enabled": false, "name": "demo",
        "network_interface": "podman0", "options": null,
        "ipam_options": { "driver": "overlayd" },
        "subnets": [{ "gateway": "10.9.0.1", "lease_range": null, "subnet": "10.9.0.0/24" }],
        "network_dns_servers": null
    },
    "network_options": {
        "aliases": ["752947ff91f9", "testctr", "not a name"], "interface_name": "eth0",
        "static_ips": ["10.9.0.50"], "static_mac": "02:bb:cc:dd:aa:00"
    }
}"#;

fn exec() -> Exec {
    parse(SETUP.as_bytes()).unwrap()
}

fn net() -> v1::Network {
    serde_json::from_value(json!({
        "id": "0123456789abcdef", "name": "demo", "vni": 4097, "mtu": 1450, "internal": false,
        "flood": true, "labels": {}, "created_ms": 0, "created_by": "a", "endpoints": 0,
        "local_endpoints": 0,
        "subnets": [{ "cidr": "10.9.0.0/24", "gateway": "10.9.0.1" },
                    { "cidr": "fd00:9::/64", "gateway": "fd00:9::1" }],
    }))
    .unwrap()
}

#[test]
fn what_podman_says_of_a_container_becomes_an_attach() {
    let (attach, left_out) = wish("/run/netns/x", &exec()).unwrap();
    assert_eq!(attach.net, "demo");
    assert_eq!(attach.name.as_deref(), Some("testctr"));
    assert_eq!(attach.aliases, ["752947ff91f9"]);
    assert_eq!(attach.ips, ["10.9.0.50".parse::<IpAddr>().unwrap()]);
    assert_eq!(attach.publish, ["127.0.0.1:8080:80/tcp"]);
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    let label = &attach.labels[LABEL];
    assert!(label.starts_with("752947ff") && label.ends_with("/2f259bab93aa/eth0"), "{label}");
    assert!(wish("", &Exec { container_id: "../x".into(), ..exec() }).is_err());
}

#[test]
fn ports_that_follow_each_other_are_a_range_and_protocols_are_a_list() {
    let mapping = PortMapping {
        container_port: 80,
        host_port: 8000,
        protocol: "tcp,udp".into(),
        range: 3,
        ..PortMapping::default()
    };
    assert_eq!(texts_of(&mapping).unwrap(), ["8000-8002:80-82/tcp", "8000-8002:80-82/udp"]);
    let beyond = PortMapping { host_port: 65535, range: 2, ..mapping.clone() };
    assert!(texts_of(&beyond).is_err());
    assert!(texts_of(&PortMapping { protocol: "icmp".into(), ..mapping }).is_err());
}

#[test]
fn a_network_is_filled_in_with_what_the_cluster_says() {
    let asked = Network { name: "demo".into(), id: "aa".into(), ..Network::default() };
    let made = created(asked.clone(), &net()).unwrap();
    assert!(made.ipv6_enabled && !made.dns_enabled);
    assert_eq!(made.subnets.unwrap()[1].gateway, Some("fd00:9::1".parse().unwrap()));
    let refused = |asked: Network| created(asked, &net()).unwrap_err();
    let option = |key: &str| Some(BTreeMap::from([(key.to_owned(), "x".to_owned())]));
    assert!(refused(Network { options: option("vni"), ..asked.clone() }).contains("no option vni"));
    let internal = Network { internal: true, ..asked.clone() };
    assert!(refused(internal).contains("overlayctl net set demo --internal"));
    let other = Subnet { subnet: "10.1.0.0/24".parse().unwrap(), gateway: None, lease_range: None };
    let other = Network { subnets: Some(vec![other]), ..asked };
    assert!(refused(other).contains("leave --subnet out"));
}

#[test]
fn what_is_not_known_of_a_network_goes_out_as_it_came() {
    let text = r#"{"name":"demo","id":"aa","driver":"overlay-netavark","created":"2026-01-01"}"#;
    let made = created(parse(text.as_bytes()).unwrap(), &net()).unwrap();
    let value = serde_json::to_value(made).unwrap();
    assert_eq!(
        (&value["driver"], &value["created"]),
        (&json!("overlay-netavark"), &json!("2026-01-01"))
    );
}
