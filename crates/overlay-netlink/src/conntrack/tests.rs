use std::collections::BTreeMap;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Port 53 of the host leads to a container, and so does a virtual address.
fn nat() -> Nat {
    let host = Front::Host { protocol: Protocol::Udp, port: 53, at: None };
    let service = Front::Virtual {
        bridge: overlay_model::IfName::new("ovb4097").unwrap(),
        ip: "10.9.0.200".parse().unwrap(),
        protocol: Protocol::Udp,
        port: 514,
    };
    Nat {
        subnets: BTreeSet::from(["10.9.0.0/24".parse().unwrap()]),
        forwards: BTreeMap::from([
            (host, BTreeSet::from([at("10.9.0.2:5353")])),
            (service, BTreeSet::from([at("10.9.0.3:514"), at("10.9.0.4:514")])),
        ]),
        ..Nat::default()
    }
}

/// A flow from one to another, and who answers.
#[track_caller]
fn says(stale: bool, from: &str, to: &str, answers: &str) {
    let here = BTreeSet::from(["192.0.2.1".parse().unwrap(), "10.9.0.1".parse().unwrap()]);
    let there = Way { from: at(from), to: at(to) };
    let back = Way { from: at(answers), to: at(from) };
    assert_eq!(is_stale(&nat(), &here, there, back), stale, "{from} to {to} by {answers}");
}

#[test]
fn a_flow_that_is_led_as_it_would_be_today_stays() {
    says(false, "198.51.100.7:4000", "192.0.2.1:53", "10.9.0.2:5353");
    says(false, "10.9.0.9:4000", "10.9.0.200:514", "10.9.0.4:514");
}

#[test]
fn a_flow_to_an_endpoint_that_is_no_longer_behind_the_port_goes() {
    says(true, "198.51.100.7:4000", "192.0.2.1:53", "10.9.0.77:5353");
    says(true, "198.51.100.7:4000", "192.0.2.1:5000", "10.9.0.77:5000");
    says(true, "10.9.0.9:4000", "10.9.0.200:514", "10.9.0.77:514");
}

#[test]
fn a_flow_to_the_host_itself_goes_when_an_endpoint_is_behind_the_port_now() {
    says(true, "198.51.100.7:4000", "192.0.2.1:53", "192.0.2.1:53");
}

#[test]
fn flows_that_are_others_business_stay() {
    // Of a container to a resolver outside, masqueraded or not; of another program's rules.
    says(false, "10.9.0.2:4000", "203.0.113.9:53", "203.0.113.9:53");
    says(false, "192.0.2.1:4000", "203.0.113.9:53", "203.0.113.9:53");
    says(false, "198.51.100.7:4000", "192.0.2.1:53", "172.17.0.2:53");
    says(false, "198.51.100.7:4000", "192.0.2.1:9999", "172.17.0.2:53");
    says(false, "10.9.0.2:4000", "10.9.0.3:53", "10.9.0.3:53");
}

#[test]
fn a_tuple_is_read_and_one_of_another_protocol_is_none() {
    let mut tuple = Vec::new();
    let build = |tuple: &mut Vec<u8>, protocol: u8| {
        nft::nest(tuple, 1, |out| {
            nft::attribute(out, 1, &[192, 0, 2, 1]);
            nft::attribute(out, 2, &[192, 0, 2, 2]);
        });
        nft::nest(tuple, 2, |out| {
            nft::attribute(out, 1, &[protocol]);
            nft::attribute(out, 2, &4000u16.to_be_bytes());
            nft::attribute(out, 3, &53u16.to_be_bytes());
        });
    };
    build(&mut tuple, 17);
    assert_eq!(udp_way(&tuple), Some(Way { from: at("192.0.2.1:4000"), to: at("192.0.2.2:53") }));
    let mut tuple = Vec::new();
    build(&mut tuple, 6);
    assert_eq!(udp_way(&tuple), None);
    assert_eq!(udp_way(&[1, 2, 3]), None);
}
