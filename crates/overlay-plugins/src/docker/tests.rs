use super::*;

#[test]
fn container_names_become_dns_labels() {
    let label = |text: &str| label_of(text).map(|name| name.to_string());
    assert_eq!(label("/web").as_deref(), Some("web"));
    assert_eq!(label("/Proj_Web.1").as_deref(), Some("proj-web-1"));
    assert_eq!(label("/x_").as_deref(), Some("x"));
    assert_eq!(label("/_"), None);
    assert_eq!(label(&"a".repeat(100)).map(|l| l.len()), Some(63));
}

#[test]
fn ports_are_said_as_overlayctl_says_them() {
    let port = |host_ip: &str| wire::PortBinding {
        proto: 17,
        port: 53,
        host_ip: Some(host_ip.to_owned()),
        host_port: 5353,
        host_port_end: 5353,
    };
    assert_eq!(publish_text(&port(""), 5353), Ok("5353:53/udp".into()));
    assert_eq!(publish_text(&port("0.0.0.0"), 0), Ok("0:53/udp".into()));
    assert_eq!(publish_text(&port("192.0.2.1"), 1), Ok("192.0.2.1:1:53/udp".into()));
    assert_eq!(publish_text(&port("2001:db8::1"), 1), Ok("[2001:db8::1]:1:53/udp".into()));
    assert!(publish_text(&wire::PortBinding { proto: 1, ..port("") }, 1).is_err());
}

#[test]
fn what_go_writes_is_read() {
    let text = r#"{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.9.0.2/24",
        "AddressIPv6":"","MacAddress":""},"Options":null,"Later":1}"#;
    let asked: OfEndpoint = serde_json::from_str(text).unwrap();
    assert_eq!(asked.interface.unwrap().address, "10.9.0.2/24");
    let text = r#"{"PoolID":"p","Address":"","Options":null}"#;
    assert_eq!(serde_json::from_str::<OfPool>(text).unwrap().options, BTreeMap::new());
    let text = r#"{"NetworkID":"n","Options":{},"IPv4Data":[{"AddressSpace":"overlayd",
        "Pool":"10.9.0.0/24","Gateway":"10.9.0.1/24","AuxAddresses":null}],"IPv6Data":null}"#;
    let asked: CreateNetwork = serde_json::from_str(text).unwrap();
    assert_eq!(asked.ipv4[0].pool, Some("10.9.0.0/24".parse().unwrap()));
}

#[test]
fn the_names_of_a_pair_fit_the_kernel() {
    let (near, far) = names_of(&"0123456789abcdef".repeat(4)).unwrap();
    assert_eq!((near.as_str(), far.as_str()), ("ovd0123456789a", "ovc0123456789a"));
    assert!(names_of("x").is_err() && names_of("../../../../etc").is_err());
}

#[test]
fn options_that_are_meant_for_us_must_be_known() {
    let keys = ["com.docker.x".to_owned(), "overlayd.vni".to_owned()];
    let refused = options_are_known(keys.iter(), &[OPT_NETWORK]).unwrap_err();
    assert_eq!(refused.to_string(), "there is no option overlayd.vni: use overlayd.network");
    assert_eq!(options_are_known(keys[..1].iter(), &[]), Ok(()));
}
