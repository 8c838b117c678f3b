use expect_test::expect;

use super::*;

fn front(text: &str) -> Front {
    let publish: overlay_model::Publish = text.parse().unwrap();
    Front::Host { protocol: publish.protocol, port: publish.host_port, at: publish.at }
}

fn some() -> Nat {
    let to = |all: &[&str]| all.iter().map(|to| to.parse().unwrap()).collect();
    let bridge = overlay_model::IfName::new("ovb4097").unwrap();
    Nat {
        subnets: ["10.9.0.0/24", "fd00:9::/64", "2001:db8:9::/64"]
            .map(|subnet| subnet.parse().unwrap())
            .into(),
        forwards: BTreeMap::from([
            (front("8080:80"), to(&["10.9.0.2:80", "[fd00:9::2]:80"])),
            (front("192.0.2.1:53:53/udp"), to(&["10.9.0.3:53"])),
            (front("90:90"), to(&["10.9.0.2:90", "10.9.0.3:90"])),
            (
                Front::Virtual {
                    bridge: bridge.clone(),
                    ip: "10.9.0.200".parse().unwrap(),
                    protocol: Protocol::Tcp,
                    port: 80,
                },
                to(&["10.9.0.2:8080"]),
            ),
        ]),
        direct: BTreeSet::from(["10.9.0.2".parse().unwrap()]),
        own: BTreeMap::from([(bridge, BTreeSet::from(["10.9.0.7".parse().unwrap()]))]),
    }
}

#[test]
fn the_table_as_text() {
    let text = script(&some(), &Counted::default(), &Marks::default());
    expect![[r#"
        add table inet overlayd_nat
        delete table inet overlayd_nat
        table inet overlayd_nat {
          counter masqueraded4 { packets 0 bytes 0 }
          counter masqueraded6 { packets 0 bytes 0 }
          counter many_tcp_90 { packets 0 bytes 0 }
          map host4 { type inet_proto . inet_service : ipv4_addr . inet_service; counter; elements = { tcp . 8080 counter packets 0 bytes 0 : 10.9.0.2 . 80 } }
          map host4_many { type inet_proto . inet_service : verdict; elements = { tcp . 90 : goto many_tcp_90 } }
          map at4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; counter; elements = { 192.0.2.1 . udp . 53 counter packets 0 bytes 0 : 10.9.0.3 . 53 } }
          map at4_many { type ipv4_addr . inet_proto . inet_service : verdict; }
          map virtual4 { type ifname . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; counter; elements = { "ovb4097" . 10.9.0.200 . tcp . 80 counter packets 0 bytes 0 : 10.9.0.2 . 8080, "lo" . 10.9.0.200 . tcp . 80 counter packets 0 bytes 0 : 10.9.0.2 . 8080 } }
          map virtual4_many { type ifname . ipv4_addr . inet_proto . inet_service : verdict; }
          set targets4 { type ipv4_addr . inet_proto . inet_service; elements = { 10.9.0.2 . tcp . 90, 10.9.0.3 . tcp . 90, 10.9.0.2 . tcp . 80, 10.9.0.3 . udp . 53, 10.9.0.2 . tcp . 8080 } }
          set direct4 { type ipv4_addr; elements = { 10.9.0.2 } }
          set stations4 { type ipv4_addr; flags interval; elements = { 10.9.0.0/24 } }
          set hidden4 { type ipv4_addr; flags interval; elements = { 10.9.0.0/24 } }
          map own4 { type ifname : ipv4_addr; elements = { "ovb4097" : 10.9.0.7 } }
          map host6 { type inet_proto . inet_service : ipv6_addr . inet_service; counter; elements = { tcp . 8080 counter packets 0 bytes 0 : fd00:9::2 . 80 } }
          map host6_many { type inet_proto . inet_service : verdict; }
          map at6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; counter; }
          map at6_many { type ipv6_addr . inet_proto . inet_service : verdict; }
          map virtual6 { type ifname . ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; counter; }
          map virtual6_many { type ifname . ipv6_addr . inet_proto . inet_service : verdict; }
          set targets6 { type ipv6_addr . inet_proto . inet_service; elements = { fd00:9::2 . tcp . 80 } }
          set direct6 { type ipv6_addr; }
          set stations6 { type ipv6_addr; flags interval; elements = { 2001:db8:9::/64, fd00:9::/64 } }
          set hidden6 { type ipv6_addr; flags interval; elements = { fd00:9::/64 } }
          map own6 { type ifname : ipv6_addr; }
          set were_off { type mark; }
          set took_ra { type ifname; }
          set written { type mark . mark . mark . mark; }
          chain many_tcp_90 {
            counter name many_tcp_90
            meta nfproto ipv4 meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.9.0.2 . 90, 1 : 10.9.0.3 . 90 }
          }
          chain prerouting {
            type nat hook prerouting priority dstnat - 1; policy accept;
            iifname "ovb*" th dport 53 fib daddr . iif type local return
            iifname "ovb*" jump virtual_in
            fib daddr type local goto host
          }
          chain output {
            type nat hook output priority -101; policy accept;
            ip6 daddr ::1 return
            oifname "lo" jump virtual_out
            fib daddr type local goto host
          }
          chain host {
            meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @at4
            meta nfproto ipv4 ip daddr . meta l4proto . th dport vmap @at4_many
            meta nfproto ipv4 dnat ip to meta l4proto . th dport map @host4
            meta nfproto ipv4 meta l4proto . th dport vmap @host4_many
            meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
            meta nfproto ipv6 ip6 daddr . meta l4proto . th dport vmap @at6_many
            meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @host6
            meta nfproto ipv6 meta l4proto . th dport vmap @host6_many
          }
          chain virtual_in {
            meta nfproto ipv4 dnat ip to iifname . ip daddr . meta l4proto . th dport map @virtual4
            meta nfproto ipv4 iifname . ip daddr . meta l4proto . th dport vmap @virtual4_many
            meta nfproto ipv6 dnat ip6 to iifname . ip6 daddr . meta l4proto . th dport map @virtual6
            meta nfproto ipv6 iifname . ip6 daddr . meta l4proto . th dport vmap @virtual6_many
          }
          chain virtual_out {
            meta nfproto ipv4 dnat ip to oifname . ip daddr . meta l4proto . th dport map @virtual4
            meta nfproto ipv4 oifname . ip daddr . meta l4proto . th dport vmap @virtual4_many
            meta nfproto ipv6 dnat ip6 to oifname . ip6 daddr . meta l4proto . th dport map @virtual6
            meta nfproto ipv6 oifname . ip6 daddr . meta l4proto . th dport vmap @virtual6_many
          }
          chain postrouting {
            type nat hook postrouting priority srcnat - 1; policy accept;
            oifname "ovb*" ct status dnat meta nfproto ipv4 goto inward4
            oifname "ovb*" ct status dnat meta nfproto ipv6 goto inward6
            oifname "ovb*" return
            oifname "lo" return
            ip saddr @hidden4 counter name masqueraded4 masquerade fully-random
            ip6 saddr @hidden6 counter name masqueraded6 masquerade fully-random
          }
          chain inward4 {
            ip daddr . meta l4proto . th dport != @targets4 return
            ip saddr != @stations4 ip saddr != 127.0.0.0/8 ip daddr @direct4 return
            snat ip to oifname map @own4
            masquerade
          }
          chain inward6 {
            ip6 daddr . meta l4proto . th dport != @targets6 return
            ip6 saddr != @stations6 ip6 saddr != ::1 ip6 daddr @direct6 return
            snat ip6 to oifname map @own6
            masquerade
          }
        }
    "#]].assert_eq(&text);
}

#[test]
fn what_was_counted_and_changed_is_carried_over() {
    let front = front("192.0.2.1:53:53/udp");
    let (map, keys) = place(&front, true);
    let (_, key) = keys[0].clone();
    assert_eq!(map, "at4");
    let counted = Counted {
        named: BTreeMap::from([("masqueraded4".to_owned(), (3, 180))]),
        elements: BTreeMap::from([("at4", BTreeMap::from([(key, (7, 420))]))]),
    };
    let marks = Marks { off: [4].into(), took_ra: ["eth0".to_owned()].into() };
    let text = script(&some(), &counted, &marks);
    assert!(text.contains("counter masqueraded4 { packets 3 bytes 180 }"), "{text}");
    assert!(text.contains("udp . 53 counter packets 7 bytes 420 : 10.9.0.3 . 53"), "{text}");
    assert!(text.contains("set were_off { type mark; elements = { 4 } }"), "{text}");
    assert!(text.contains("set took_ra { type ifname; elements = { \"eth0\" } }"), "{text}");
}

#[test]
fn a_front_is_read_back_from_the_key_it_stands_under() {
    for (front, text) in
        some().forwards.keys().zip(["90/tcp", "8080/tcp", "192.0.2.1:53/udp", "10.9.0.200:80/tcp"])
    {
        let (map, keys) = place(front, true);
        for (_, key) in keys {
            assert_eq!(front_text(&map, &key).as_deref(), Some(text));
        }
        assert_eq!(many_text(&many_name(front)).as_deref(), Some(text));
    }
    assert_eq!(many_text("masqueraded4"), None);
    assert_eq!(front_text("at4", &[1, 2, 3]), None);
}

#[test]
fn a_port_more_or_less_is_its_elements_and_the_rest_is_written_whole() {
    let all = some();
    let mut less = all.clone();
    less.forwards.remove(&front("192.0.2.1:53:53/udp"));
    let texts = |changes: Option<Vec<Change>>| {
        let texts = changes?.into_iter().map(|c| {
            let sign = if c.add { '+' } else { '-' };
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let data = c.data.map(|data| format!(" : {}", hex(&data))).unwrap_or_default();
            format!("{sign}{} {}{data}", c.set, hex(&c.key))
        });
        Some(texts.collect::<Vec<_>>())
    };
    let elements = ["at4 c000020111000000", "targets4 0a09000311000000"];
    assert_eq!(
        texts(difference(&less, &all)).unwrap(),
        [
            format!("+{}00350000 : 0a09000300350000", elements[0]),
            format!("+{}00350000", elements[1]),
        ]
    );
    assert_eq!(
        texts(difference(&all, &less)).unwrap(),
        [
            format!("-{}00350000 : 0a09000300350000", elements[0]),
            format!("-{}00350000", elements[1]),
        ]
    );
    assert_eq!(difference(&all, &all), Some(Vec::new()));
    // What has counted goes on counting, and chains are none of this.
    let mut led = all.clone();
    led.forwards.insert(front("8080:80"), ["10.9.0.9:80".parse().unwrap()].into());
    assert_eq!(difference(&all, &led), None);
    let mut chain = all.clone();
    chain.forwards.remove(&front("90:90"));
    assert_eq!(difference(&all, &chain), None);
    let mut subnets = all.clone();
    subnets.subnets.pop_first();
    assert_eq!(difference(&all, &subnets), None);
}
