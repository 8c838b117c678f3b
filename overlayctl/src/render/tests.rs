use expect_test::expect;
use overlay_api::v1::{
    self, Deleted, DetachedOn, Dropped, Endpoint, Entry, FailedObject, Fight, Host, Left, Network,
    PendingObject, Plan, RefusedFrom, Repair, Status, Subnet,
};

use super::*;

const HOUR: u64 = 3_600_000;
const NOW: u64 = 1_700_000_000_000;

fn network() -> Network {
    Network {
        id: "00000000000000aa".into(),
        name: "demo".into(),
        vni: 4097,
        subnets: vec![Subnet {
            cidr: "10.0.9.0/24".parse().unwrap(),
            gateway: "10.0.9.1".parse().unwrap(),
        }],
        mtu: 1450,
        internal: false,
        flood: true,
        labels: BTreeMap::new(),
        exclude: vec![],
        ip_ranges: vec![],
        created_ms: NOW - 26 * HOUR,
        created_by: "a".into(),
        endpoints: 5,
        local_endpoints: 2,
        conflict: None,
        kept: vec![],
    }
}

fn inner() -> Network {
    let v6 = Subnet { cidr: "fd00:9::/64".parse().unwrap(), gateway: "fd00:9::1".parse().unwrap() };
    Network {
        name: "inner".into(),
        vni: 4098,
        subnets: [network().subnets, vec![v6]].concat(),
        internal: true,
        flood: false,
        labels: [("tier".into(), "back".into()), ("x".into(), String::new())].into(),
        conflict: Some("VNI 4098 is held by front".into()),
        ..network()
    }
}

fn gone(network: Network) -> Deleted {
    Deleted { network, detached: vec![] }
}

/// It took endpoints of two hosts along.
fn forced() -> Deleted {
    let on = |host: &str, endpoints, later| DetachedOn { host: host.into(), endpoints, later };
    Deleted { network: network(), detached: vec![on("a", 2, false), on("b", 1, true)] }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: "0123456789ab".into(),
        name: Some("web".into()),
        net: "demo".into(),
        vni: 4097,
        mac: "02:42:0a:00:09:0a".into(),
        ips: vec!["10.0.9.10/24".parse().unwrap()],
        aliases: vec![],
        labels: BTreeMap::new(),
        ports: Vec::new(),
        host: "a".into(),
        local: true,
        vtep: Some("192.0.2.1".parse().unwrap()),
        attached_ms: NOW - 192_000,
        moves: 0,
        state: "ready".into(),
        reason: None,
        kept: false,
        gone_ms: None,
        host_ifname: Some("ove0123456789ab".into()),
        ifname: Some("eth0".into()),
        netns: Some("/run/netns/web1".into()),
        mtu: Some(1450),
        gateways: vec![[10, 0, 9, 1].into()],
        resolv_conf: None,
    }
}

fn remote() -> Endpoint {
    Endpoint {
        id: "0000000000ff".into(),
        name: None,
        mac: "02:42:0a:00:09:02".into(),
        ips: vec!["10.0.9.2/24".parse().unwrap(), "fd00:9::2/64".parse().unwrap()],
        ports: Vec::new(),
        host: "b".into(),
        local: false,
        vtep: None,
        attached_ms: NOW + 5,
        moves: 0,
        state: "host-down".into(),
        reason: Some("b has been down for 1m2s".into()),
        host_ifname: None,
        ifname: None,
        netns: None,
        ..endpoint()
    }
}

fn host() -> Host {
    Host {
        id: "0b0e9a4c-66e8-4d6e-8f0e-000000000001".into(),
        name: "a".into(),
        local: true,
        state: "up".into(),
        since_ms: 2 * HOUR,
        entries_in_use: true,
        drained: false,
        vteps: vec!["192.0.2.1".parse().unwrap()],
        vxlan_port: 4789,
        gossip: "192.0.2.1:7946".into(),
        underlay_mtu: 1500,
        endpoints: 2,
        version: "0.1.0".into(),
        incarnation: 4,
        keys: vec!["5f6f1c09".into()],
        key_used: Some("5f6f1c09".into()),
        last_heard_ms: None,
        rtt_us: None,
        rtt_age_ms: None,
        refused: BTreeMap::new(),
        refuses_us: 0,
        undecodable: 0,
        notes: vec![],
    }
}

fn down() -> Host {
    Host {
        id: "0b0e9a4c-66e8-4d6e-8f0e-000000000002".into(),
        name: "b".into(),
        local: false,
        state: "down".into(),
        since_ms: 62_000,
        entries_in_use: false,
        drained: true,
        vteps: vec![],
        last_heard_ms: Some(64_500),
        rtt_us: Some(1_234),
        rtt_age_ms: Some(70_000),
        refused: [("replayed".into(), 3), ("unknown_key".into(), 12)].into(),
        refuses_us: 4,
        undecodable: 2,
        notes: vec!["two hosts are called b".into()],
        ..host()
    }
}

fn healthy() -> Status {
    Status {
        host: host(),
        uptime_ms: 2 * HOUR,
        hosts: [("up".into(), 3), ("stopped".into(), 1), ("left".into(), 0)].into(),
        networks: 1,
        endpoints: 5,
        local_endpoints: 2,
        view_complete: true,
        desired_revision: 42,
        applied_revision: 42,
        desired_objects: 40,
        pending: 0,
        pending_objects: vec![],
        repairs: vec![],
        fights: vec![],
        frozen: vec![],
        failed: vec![],
        refused: vec![],
        refused_forgotten: 0,
        dropped: vec![],
        counters: BTreeMap::new(),
        settings: Vec::new(),
        warnings: vec![],
    }
}

fn entry(table: &str, dev: &str, key: &str, desired: Option<&str>, kernel: Option<&str>) -> Entry {
    let state = match (desired, kernel) {
        (Some(desired), Some(kernel)) if desired == kernel => "ok",
        (Some(_), Some(_)) => "differs",
        (Some(_), None) => "missing",
        (None, _) => "extra",
    };
    Entry {
        net: "demo".into(),
        dev: dev.into(),
        table: table.into(),
        key: key.into(),
        desired: desired.map(Into::into),
        kernel: kernel.map(Into::into),
        state: state.into(),
        endpoint: desired.map(|_| "web".into()),
        host: desired.map(|_| "b".into()),
    }
}

#[test]
fn networks_are_columns_sorted_by_name() {
    expect![[r#"
        NAME   VNI   SUBNET                   GATEWAY   MTU   ENDPOINTS  HERE  CREATED-BY  NOTES
        demo   4097  10.0.9.0/24              10.0.9.1  1450  5          2     a           -
        inner  4098  10.0.9.0/24,fd00:9::/64  -         1450  5          2     a           conflict: VNI 4098 is held by front, internal, no flooding
    "#]].assert_eq(&networks(&[inner(), network()]));
}

#[test]
fn a_network_in_full() {
    expect![[r#"
        name:      demo
        id:        00000000000000aa
        vni:       4097
        subnet:    10.0.9.0/24, gateway 10.0.9.1
        mtu:       1450
        internal:  no
        flooding:  yes
        created:   1d2h ago by a
        endpoints: 5, 2 of them on this host

        name:      inner
        id:        00000000000000aa
        vni:       4098
        subnet:    10.0.9.0/24, no gateway
        subnet:    fd00:9::/64, no gateway
        mtu:       1450
        internal:  yes: no way out
        flooding:  no
        labels:    tier=back,x=
        created:   1d2h ago by a
        endpoints: 5, 2 of them on this host
        conflict:  VNI 4098 is held by front
    "#]]
    .assert_eq(&networks_in_full(&[network(), inner()], NOW));
}

#[test]
fn a_created_and_a_deleted_network() {
    expect![[r#"
        created inner
          id:       00000000000000aa
          vni:      4098
          subnet:   10.0.9.0/24, no gateway
          subnet:   fd00:9::/64, no gateway
          mtu:      1450
          internal: yes: no way out
          flooding: no
          labels:   tier=back,x=
        deleted inner
        deleted demo and detached 3 endpoints: 2 on a; 1 on b, which cannot be reached: when it is back
    "#]]
    .assert_eq(&(created(&inner()) + &deleted(&[gone(inner()), forced()])));
}

#[test]
fn endpoints_are_columns_sorted_by_network_and_address() {
    expect![[r#"
        NET   NAME  ID            ADDRESS                   MAC                HOST  VTEP       STATE      AGE    REASON
        demo  -     0000000000ff  10.0.9.2/24,fd00:9::2/64  02:42:0a:00:09:02  b     -          host-down  0ms    b has been down for 1m2s
        demo  web   0123456789ab  10.0.9.10/24              02:42:0a:00:09:0a  a     192.0.2.1  ready      3m12s  -
    "#]].assert_eq(&endpoints(&[endpoint(), remote()], NOW));
}

#[test]
fn endpoints_of_this_host_show_their_interfaces() {
    expect![[r#"
        NET   NAME  ID            ADDRESS       MAC                INTERFACE  NETNS            HOST-SIDE        STATE  AGE    REASON
        demo  web   0123456789ab  10.0.9.10/24  02:42:0a:00:09:0a  eth0       /run/netns/web1  ove0123456789ab  ready  3m12s  -
    "#]].assert_eq(&local_endpoints(&[endpoint()], NOW));
}

#[test]
fn an_attached_endpoint_shows_what_one_goes_on_with() {
    expect![[r#"
        attached web to demo
          id:        0123456789ab
          address:   10.0.9.10/24
          mac:       02:42:0a:00:09:0a
          interface: eth0 in /run/netns/web1
          host side: ove0123456789ab
          state:     ready
    "#]]
    .assert_eq(&attached(&endpoint()));
}

#[test]
fn an_attached_endpoint_that_is_not_ready_says_why() {
    let pending = Endpoint {
        name: None,
        aliases: vec!["www".into(), "shop".into()],
        labels: [("tier".into(), "front".into())].into(),
        state: "pending".into(),
        reason: Some("the kernel is busy".into()),
        ..endpoint()
    };
    expect![[r#"
        attached 0123456789ab to demo
          id:        0123456789ab
          address:   10.0.9.10/24
          mac:       02:42:0a:00:09:0a
          interface: eth0 in /run/netns/web1
          host side: ove0123456789ab
          aliases:   www,shop
          labels:    tier=front
          state:     pending: the kernel is busy
    "#]]
    .assert_eq(&attached(&pending));
}

#[test]
fn detached_endpoints_are_called_by_name_or_id() {
    expect![[r#"
        detached web from demo
        detached 0000000000ff from demo
    "#]]
    .assert_eq(&detached(&[endpoint(), remote()]));
}

#[test]
fn hosts_are_columns_sorted_by_name() {
    expect![[r#"
        NAME  STATE  FOR   HEARD  RTT    VTEP       PORT  GOSSIP          MTU   ENDPOINTS  KEY       REFUSED                    VERSION  ID                                    NOTES
        a     up     2h0m  -      -      192.0.2.1  4789  192.0.2.1:7946  1500  2          5f6f1c09  -                          0.1.0    0b0e9a4c-66e8-4d6e-8f0e-000000000001  this host
        b     down   1m2s  1m4s   1.2ms  -          4789  192.0.2.1:7946  1500  2          5f6f1c09  unknown_key=12,replayed=3  0.1.0    0b0e9a4c-66e8-4d6e-8f0e-000000000002  drained, its entries are not in use, 2 records not understood, has refused our gossip 4 times, two hosts are called b
    "#]].assert_eq(&hosts(&[down(), host()]));
}

#[test]
fn refused_gossip_of_strangers_is_shown_with_what_to_do_about_it() {
    let from = |n: u8, kinds: &[(&str, u64)], refuses_us, last_ms| RefusedFrom {
        address: [192, 0, 2, n].into(),
        kinds: kinds.iter().map(|(kind, n)| ((*kind).into(), *n)).collect(),
        refuses_us,
        last_ms,
    };
    let refused = vec![
        from(8, &[("unknown_key", 12)], 4, 1_500),
        from(9, &[("plain", 1)], 0, 59_999),
        from(10, &[("forged", 7), ("truncated", 9)], 0, 62_000),
        from(11, &[("malformed", 1)], 0, 64_000),
    ];
    let sealed = Status { refused, refused_forgotten: 1, ..healthy() };
    expect![[r#"
        attention: the keys of 2 addresses and ours do not fit
        host:      a, id 0b0e9a4c-66e8-4d6e-8f0e-000000000001
        underlay:  VTEP 192.0.2.1, UDP port 4789, MTU 1500, gossip 192.0.2.1:7946
        daemon:    version 0.1.0, up 2h0m, incarnation 4
        hosts:     3 up, 1 stopped
        networks:  1
        endpoints: 5, 2 of them on this host
        kernel:    revision 42 of 42, 40 objects desired, 0 operations pending
        refused gossip, by source (which can be forged):
          192.0.2.8: unknown_key=12, refused ours 4 times; 1s ago
            it has another key: give it ours, or add its key here: overlayctl key add
            it lacks the key that this host uses: overlayctl key add, there
          192.0.2.9: plain=1; 59s ago
            it has no key: start overlayd there with ours, in --key-file
          192.0.2.10: truncated=9,forged=7; 1m2s ago
            no host that belongs here does that: find out what it is
          192.0.2.11: malformed=1; 1m4s ago
            what it says makes no sense here: does it run another release?
          forgotten to make room: 1 time
    "#]]
    .assert_eq(&status(&sealed));

    let alone = Host { keys: vec![], key_used: None, ..host() };
    let refused = vec![from(8, &[("unknown_key", 12)], 4, 60_000); 12];
    let said = status(&Status { refused, host: alone, ..healthy() });
    assert!(said.starts_with("ok: "), "it is a minute ago: {said}");
    let advice = "\n    it has a key: start overlayd here with it, in --key-file\n";
    assert_eq!((said.matches("192.0.2.8: ").count(), said.matches(advice).count()), (10, 10));
    assert!(said.ends_with("\n  and 2 more: overlayctl status --json\n"), "{said}");
}

#[test]
fn leaving_says_who_was_told_and_what_stays_behind() {
    expect![[r#"
        left the cluster: 1 host told
    "#]]
    .assert_eq(&left(&Left { told: 1, endpoints: 0 }));
    expect![[r#"
        left the cluster: 2 hosts told
        attached here still, cut off from other hosts: 1 endpoint
    "#]]
    .assert_eq(&left(&Left { told: 2, endpoints: 1 }));
}

#[test]
fn entries_show_the_desired_beside_the_kernel() {
    let mac = "02:42:0a:00:09:02";
    let zero = "00:00:00:00:00:00";
    expect![[r#"
        NET   DEV      TABLE   KEY                DESIRED            KERNEL             STATE    HOST  ENDPOINT
        demo  ovb4097  bridge  02:42:0a:00:09:02  ovx4097            ovx4097            ok       b     web
        demo  ovb4097  neigh   10.0.9.2           02:42:0a:00:09:02  02:42:0a:00:09:02  ok       b     web
        demo  ovb4097  neigh   10.0.9.10          02:42:0a:00:09:02  -                  missing  b     web
        demo  ovb4097  neigh   fd00:9::2          02:42:0a:00:09:02  02:42:0a:00:09:03  differs  b     web
        demo  ovx4097  flood   00:00:00:00:00:00  192.0.2.2          192.0.2.2          ok       b     web
        demo  ovx4097  flood   00:00:00:00:00:00  192.0.2.3          192.0.2.3          ok       b     web
        demo  ovx4097  vxlan   02:42:0a:00:09:01  -                  192.0.2.9          extra    -     -
        demo  ovx4097  vxlan   02:42:0a:00:09:02  192.0.2.2          192.0.2.2          ok       b     web
    "#]].assert_eq(&entries(&[
        entry("neigh", "ovb4097", "10.0.9.10", Some(mac), None),
        entry("neigh", "ovb4097", "10.0.9.2", Some(mac), Some(mac)),
        entry("neigh", "ovb4097", "fd00:9::2", Some(mac), Some("02:42:0a:00:09:03")),
        entry("vxlan", "ovx4097", mac, Some("192.0.2.2"), Some("192.0.2.2")),
        entry("vxlan", "ovx4097", "02:42:0a:00:09:01", None, Some("192.0.2.9")),
        entry("flood", "ovx4097", zero, Some("192.0.2.3"), Some("192.0.2.3")),
        entry("flood", "ovx4097", zero, Some("192.0.2.2"), Some("192.0.2.2")),
        entry("bridge", "ovb4097", mac, Some("ovx4097"), Some("ovx4097")),
    ]));
}

#[test]
fn a_plan_is_commands_one_a_line() {
    let commands = vec!["ip link del ovx7".into(), "ip link del ovb7".into()];
    expect![[r#"
        ip link del ovx7
        ip link del ovb7
    "#]]
    .assert_eq(&plan(&Plan { revision: 42, view_complete: true, commands }));
}

#[test]
fn an_empty_plan_says_that_there_is_nothing_to_do() {
    expect![[r#"
        nothing to do: the kernel holds revision 42
    "#]]
    .assert_eq(&plan(&Plan { revision: 42, view_complete: true, commands: vec![] }));
}

#[test]
fn a_healthy_status_says_ok_first() {
    expect![[r#"
        ok: the kernel holds revision 42, 3 hosts up
        host:      a, id 0b0e9a4c-66e8-4d6e-8f0e-000000000001
        underlay:  VTEP 192.0.2.1, UDP port 4789, MTU 1500, gossip 192.0.2.1:7946
        daemon:    version 0.1.0, up 2h0m, incarnation 4
        hosts:     3 up, 1 stopped
        networks:  1
        endpoints: 5, 2 of them on this host
        kernel:    revision 42 of 42, 40 objects desired, 0 operations pending
    "#]]
    .assert_eq(&status(&healthy()));
}

#[test]
fn work_under_way_is_no_reason_for_attention() {
    let busy = Status { applied_revision: 41, pending: 3, ..healthy() };
    expect![[r#"ok: the kernel is being brought to revision 42, 3 hosts up"#]]
        .assert_eq(status(&busy).lines().next().unwrap());
}

#[test]
fn a_sick_status_says_what_wants_attention_and_then_why() {
    let failed = |attempts, since_ms| FailedObject {
        command: "ip link add ovx4097 type vxlan id 4097".into(),
        reason: "VNI 4097 on port 4789 is held by vxlan7".into(),
        since_ms,
        attempts,
    };
    let sick = Status {
        hosts: [("up".into(), 1), ("down".into(), 1), ("suspect".into(), 2)].into(),
        view_complete: false,
        applied_revision: 40,
        pending: 1,
        failed: vec![failed(1, 420), failed(12, 192_000)],
        warnings: vec!["the underlay MTU 1400 is too small for demo".into()],
        ..healthy()
    };
    expect![[r#"
        attention: the kernel refuses 2 objects; 1 host down; 2 hosts suspect; too little is known yet to delete anything; 1 warning
        host:      a, id 0b0e9a4c-66e8-4d6e-8f0e-000000000001
        underlay:  VTEP 192.0.2.1, UDP port 4789, MTU 1500, gossip 192.0.2.1:7946
        daemon:    version 0.1.0, up 2h0m, incarnation 4
        hosts:     1 up, 2 suspect, 1 down
        networks:  1
        endpoints: 5, 2 of them on this host
        kernel:    revision 40 of 42, 40 objects desired, 1 operation pending
        failed:
          ip link add ovx4097 type vxlan id 4097
            VNI 4097 on port 4789 is held by vxlan7
            for 420ms, tried 1 time
          ip link add ovx4097 type vxlan id 4097
            VNI 4097 on port 4789 is held by vxlan7
            for 3m12s, tried 12 times
        warnings:
          the underlay MTU 1400 is too small for demo
    "#]].assert_eq(&status(&sick));
}

#[test]
fn a_status_names_what_another_hand_changed_and_what_is_pending() {
    let repair = Repair {
        object: "link ovx4097".into(),
        found: "deleted".into(),
        command: "ip link add ovx4097".into(),
        objects: 31,
        after_ms: 42,
        ago_ms: 192_000,
        by: Some("ip (pid 4711)".into()),
        times: 1,
    };
    let entry = Repair {
        object: "FDB entry 02:42:0a:00:09:05 of ovx4097".into(),
        found: "changed".into(),
        objects: 1,
        by: None,
        times: 5,
        ..repair.clone()
    };
    let meddled = Status {
        repairs: vec![repair, entry],
        fights: vec![Fight {
            object: "FDB entry 02:42:0a:00:09:05 of ovx4097".into(),
            by: None,
            since_ms: 3000,
            repairs: 5,
            next_ms: Some(1000),
        }],
        pending_objects: vec![
            PendingObject {
                object: "neighbour 10.0.9.5 on ovb4097".into(),
                reason: "is being written".into(),
                since_ms: Some(3),
            },
            PendingObject {
                object: "neighbour 10.0.9.6 on ovb4097".into(),
                reason: "waits for ovb4097".into(),
                since_ms: None,
            },
        ],
        pending: 1,
        ..healthy()
    };
    let text = status(&meddled);
    let shown: Vec<&str> = text.lines().filter(|l| !l.contains(":  ")).collect();
    expect![[r#"
        attention: another hand fights over 1 object
        endpoints: 5, 2 of them on this host
        pending:
          neighbour 10.0.9.5 on ovb4097
            is being written, for 3ms
          neighbour 10.0.9.6 on ovb4097
            waits for ovb4097
        put back after another hand:
          link ovx4097 and 30 more objects
            deleted by ip (pid 4711) 3m12s ago, right again after 42ms
          FDB entry 02:42:0a:00:09:05 of ovx4097
            changed 3m12s ago, right again after 42ms, 5 times in 10 s
    "#]]
    .assert_eq(&(shown.join("\n") + "\n"));
}

#[test]
fn a_daemon_that_leaves_wants_attention() {
    let leaving = Status { host: Host { state: "left".into(), ..host() }, ..healthy() };
    expect![[r#"attention: the state of this host is left"#]]
        .assert_eq(status(&leaving).lines().next().unwrap());
}

#[test]
fn durations_have_two_units_at_most() {
    let all = [0, 999, 1000, 59_999, 192_000, HOUR, 5 * HOUR + 180_000, 52 * HOUR];
    expect![[r#"0ms 999ms 1s 59s 3m12s 1h0m 5h3m 2d4h"#]].assert_eq(&all.map(duration).join(" "));
}

#[test]
fn nothing_from_outside_reaches_the_terminal_as_a_control_character() {
    let evil = "x\x1b[2J\r\n\u{7f}\u{9b}31m\u{202e}ü";
    let status = Status {
        host: Host { name: evil.into(), state: evil.into(), version: evil.into(), ..host() },
        hosts: [(evil.into(), 1)].into(),
        failed: vec![FailedObject {
            command: evil.into(),
            reason: evil.into(),
            since_ms: 0,
            attempts: 0,
        }],
        warnings: vec![evil.into()],
        ..healthy()
    };
    let network = Network {
        name: evil.into(),
        labels: [(evil.into(), evil.into())].into(),
        created_by: evil.into(),
        conflict: Some(evil.into()),
        ..network()
    };
    let endpoint = Endpoint {
        name: Some(evil.into()),
        net: evil.into(),
        aliases: vec![evil.into()],
        labels: [(evil.into(), evil.into())].into(),
        host: evil.into(),
        state: evil.into(),
        reason: Some(evil.into()),
        netns: Some(evil.into()),
        ..endpoint()
    };
    let plan_of = Plan { revision: 1, view_complete: true, commands: vec![evil.into()] };
    let texts = [
        super::status(&status),
        hosts(&[status.host]),
        networks(std::slice::from_ref(&network)),
        networks_in_full(std::slice::from_ref(&network), NOW),
        created(&network),
        deleted(&[gone(network)]),
        endpoints(std::slice::from_ref(&endpoint), NOW),
        local_endpoints(std::slice::from_ref(&endpoint), NOW),
        attached(&endpoint),
        detached(&[endpoint]),
        plan(&plan_of),
        entries(&[entry(evil, evil, evil, Some(evil), Some(evil))]),
    ];
    for text in texts {
        let odd: Vec<_> = text.chars().filter(|c| c.is_control() && *c != '\n').collect();
        assert!(odd.is_empty() && !text.contains('\u{202e}'), "{odd:?} in {text}");
        assert!(text.contains("ü"), "{text}");
    }
    assert_eq!(clean("x\r\n\u{7f}ü"), r"x\r\n\u{7f}ü");
}

#[test]
fn a_name_wider_than_a_table_can_be_is_no_reason_to_panic() {
    let long = Network { name: "n".repeat(100_000), ..network() };
    assert!(networks(&[long]).lines().count() >= 2);
}

#[test]
fn an_event_is_a_time_of_day_a_level_and_a_text() {
    let told = overlay_api::v1::Event {
        time: "2026-11-21T15:40:23.123Z".into(),
        level: "warning".into(),
        text: "host b is suspect (3 endpoints)\x1b[2J".into(),
        ..overlay_api::v1::Event::default()
    };
    expect![[r#"
        15:40:23.123  warning  host b is suspect (3 endpoints)\u{1b}[2J
    "#]]
    .assert_eq(&super::event(&told));
    let odd = overlay_api::v1::Event { time: "now".into(), level: "info".into(), ..told };
    assert!(super::event(&odd).starts_with("now  info     host b"));
}

#[test]
fn what_the_rules_have_dropped_has_a_line_for_each_port_and_is_no_reason_for_attention() {
    let dropped = |port: Option<&str>, kind: &str, packets| Dropped {
        port: port.map(str::to_owned),
        kind: kind.to_owned(),
        packets,
        bytes: packets * 60,
    };
    let text = status(&Status {
        dropped: vec![
            dropped(None, "vxlan-from-strangers", 12),
            dropped(Some("ove000000000001"), "arp", 3),
            dropped(Some("ove000000000001"), "mac", 5),
        ],
        ..healthy()
    });
    let shown: Vec<&str> = text.lines().filter(|l| !l.contains(":  ")).collect();
    expect![[r#"
        ok: the kernel holds revision 42, 3 hosts up
        endpoints: 5, 2 of them on this host
        dropped frames, by what was false of them:
          this host: 12 vxlan-from-strangers
          ove000000000001: 3 arp, 5 mac
    "#]]
    .assert_eq(&(shown.join("\n") + "\n"));
}

#[test]
fn what_may_be_leased_and_what_is_kept_is_shown_where_there_is_any() {
    let kept = |name: &str, ips: &[&str]| v1::Kept {
        name: name.into(),
        mac: "02:42:0a:00:09:05".into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    };
    let narrow = Network {
        exclude: vec!["10.0.9.5".parse().unwrap(), "10.0.9.64/27".parse().unwrap()],
        ip_ranges: vec!["10.0.9.8-10.0.9.200".parse().unwrap()],
        kept: vec![kept("db", &["10.0.9.9"]), kept("web", &["10.0.9.10", "fd00:9::a"])],
        ..network()
    };
    expect![[r#"
        name:        demo
        id:          00000000000000aa
        vni:         4097
        subnet:      10.0.9.0/24, gateway 10.0.9.1
        mtu:         1450
        internal:    no
        flooding:    yes
        excluded:    10.0.9.5,10.0.9.64/27
        chosen from: 10.0.9.8-10.0.9.200
        created:     1d2h ago by a
        endpoints:   5, 2 of them on this host
        kept here:   db 10.0.9.9; web 10.0.9.10,fd00:9::a
        changed demo
          id:          00000000000000aa
          vni:         4097
          subnet:      10.0.9.0/24, gateway 10.0.9.1
          mtu:         1450
          internal:    no
          flooding:    yes
          excluded:    10.0.9.5,10.0.9.64/27
          chosen from: 10.0.9.8-10.0.9.200
        10.0.9.9 is no longer kept for db
        10.0.9.10,fd00:9::a is no longer kept for web
    "#]]
    .assert_eq(
        &(networks_in_full(std::slice::from_ref(&narrow), NOW)
            + &changed(&narrow)
            + &forgotten(&narrow.kept)),
    );
}

#[test]
fn an_endpoint_whose_addresses_are_kept_says_so() {
    let kept = Endpoint { kept: true, ..endpoint() };
    expect![[r#"
        NET   NAME  ID            ADDRESS       MAC                HOST  VTEP       STATE  AGE    REASON
        demo  web   0123456789ab  10.0.9.10/24  02:42:0a:00:09:0a  a     192.0.2.1  ready  3m12s  addresses kept
        attached web to demo
          id:        0123456789ab
          address:   10.0.9.10/24
          mac:       02:42:0a:00:09:0a
          interface: eth0 in /run/netns/web1
          host side: ove0123456789ab
          kept:      yes: for this name on this host
          state:     ready
    "#]].assert_eq(&(endpoints(std::slice::from_ref(&kept), NOW) + &attached(&kept)));
}
