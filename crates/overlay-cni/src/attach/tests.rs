use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::call::{Attachment, Verb};

fn container(args: &[(&str, &str)]) -> Container {
    Container {
        attachment: Attachment { container: "c1".into(), ifname: "eth0".into() },
        netns: Some("/run/netns/web1".into()),
        netns_override: false,
        args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn conf(version: &str, more: serde_json::Value) -> Conf {
    let mut conf = json!({"cniVersion": version, "name": "demo", "type": "overlay-cni"});
    let more = more.as_object().unwrap().clone();
    conf.as_object_mut().unwrap().extend(more);
    Conf::read(Verb::Add, conf.to_string().as_bytes()).unwrap()
}

#[track_caller]
fn check(more: serde_json::Value, args: &[(&str, &str)], expected: Expect) {
    let shown = match wish(&conf("1.1.0", more), &container(args)) {
        Ok(wish) => {
            let left_out: String = wish.left_out.iter().map(|line| format!("{line}\n")).collect();
            format!("{}\n{left_out}", serde_json::to_string_pretty(&wish.attach).unwrap())
        }
        Err(failure) => format!("{} {}: {}\n", failure.code as u32, failure.msg, failure.details),
    };
    expected.assert_eq(&shown);
}

#[test]
fn everything_that_can_be_asked_for() {
    check(
        json!({
            "overlay": {"network": "pods", "defaultRoute": false, "names": false},
            "runtimeConfig": {
                "portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
                    {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "::1"},
                    {"hostPort": 81, "containerPort": 81, "hostIP": "0.0.0.0"},
                    {"hostPort": 0, "containerPort": 9000}
                ],
                "ips": ["10.9.0.5/24"],
                "mac": "02:00:5e:10:00:05",
                "aliases": ["web", "quirky_wiles", "web"]
            },
            "args": {"cni": {"labels": [{"key": "app", "value": "shop"}], "ips": ["10.9.0.6"]}}
        }),
        &[("IP", "10.9.0.7"), ("K8S_POD_NAME", "web-0"), ("K8S_POD_NAMESPACE", "shop")],
        expect![[r#"
            {
              "net": "pods",
              "netns": "/run/netns/web1",
              "ips": [
                "10.9.0.5"
              ],
              "mac": "02:00:5e:10:00:05",
              "aliases": [
                "web"
              ],
              "labels": {
                "app": "shop",
                "cni": "demo/c1/eth0",
                "k8s.namespace": "shop",
                "k8s.pod": "web-0"
              },
              "ifname": "eth0",
              "no_default_route": true,
              "publish": [
                "8080:80/tcp",
                "81:81/tcp",
                "[::1]:53:5353/udp"
              ],
              "no_dns": true
            }
            the alias is left out: `quirky_wiles` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends
        "#]],
    );
}

#[test]
fn addresses_are_taken_from_the_newest_way_of_saying_them() {
    let ips = |more, args: &[(&str, &str)]| {
        let wish = wish(&conf("1.1.0", more), &container(args)).unwrap();
        wish.attach.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let args = [("IP", "10.9.0.7,fd00::7")];
    assert_eq!(ips(json!({}), &args), "10.9.0.7 fd00::7");
    assert_eq!(ips(json!({"args": {"cni": {"ips": ["10.9.0.6"]}}}), &args), "10.9.0.6");
    assert_eq!(ips(json!({"runtimeConfig": {"ips": ["10.9.0.5/16"]}}), &args), "10.9.0.5");
}

#[test]
fn what_other_plugins_are_for_and_what_makes_no_sense_is_refused() {
    let refused = |more, expected| check(more, &[], expected);
    refused(
        json!({"ipam": {"type": "host-local"}}),
        expect![[r#"
        2 ipam is not supported here: leave it out: overlayd gives out addresses; overlay.ipRange and overlay.exclude say which
    "#]],
    );
    refused(
        json!({"runtimeConfig": {"ipRanges": []}}),
        expect![[r#"
        2 runtimeConfig.ipRanges is not supported here: say overlay.ipRange in the configuration
    "#]],
    );
    refused(
        json!({"runtimeConfig": {"bandwidth": {}}}),
        expect![[r#"
        2 runtimeConfig.bandwidth is not supported here: chain the plugin `bandwidth` after this
    "#]],
    );
    refused(
        json!({"runtimeConfig": {"ips": ["x"]}}),
        expect![[r#"
        7 runtimeConfig.ips has `x`, which is no address: 
    "#]],
    );
    refused(
        json!({"args": {"cni": {"labels": {"cni": "x"}}}}),
        expect![[r#"
        7 args.cni.labels has `cni`, by which this plugin finds its endpoints; choose another key: 
    "#]],
    );
    let mapping = |mapping| json!({"runtimeConfig": {"portMappings": [mapping]}});
    refused(
        mapping(json!({"hostPort": 70000, "containerPort": 1})),
        expect![[r#"
        7 runtimeConfig.portMappings has the hostPort 70000; use 1 to 65535: 
    "#]],
    );
    refused(
        mapping(json!({"hostPort": 1, "containerPort": -1})),
        expect![[r#"
        7 runtimeConfig.portMappings has the containerPort -1; use 1 to 65535: 
    "#]],
    );
    refused(
        mapping(json!({"hostPort": 1, "containerPort": 1, "protocol": "x"})),
        expect![[r#"
        7 runtimeConfig.portMappings has the protocol `x`; use tcp, udp or sctp: 
    "#]],
    );
    refused(
        mapping(json!({"hostPort": 1, "containerPort": 1, "hostIP": "x"})),
        expect![[r#"
        7 runtimeConfig.portMappings has the hostIP `x`, which is no address: 
    "#]],
    );
}

#[test]
fn a_container_of_podman_is_found_by_its_name_and_a_pod_of_kubernetes_is_not() {
    let aliases = |args: &[(&str, &str)]| {
        wish(&conf("0.4.0", json!({})), &container(args)).unwrap().attach.aliases
    };
    assert_eq!(aliases(&[("K8S_POD_NAME", "web")]), ["web"]);
    assert!(aliases(&[("K8S_POD_NAME", "quirky_wiles")]).is_empty());
    assert!(aliases(&[("K8S_POD_NAME", "web"), ("K8S_POD_NAMESPACE", "default")]).is_empty());
}

#[test]
fn labels_of_a_pod_that_find_no_room_are_left_out_the_least_telling_first() {
    let (namespace, name, uid) = ("n".repeat(63), "p".repeat(200), "u".repeat(36));
    let args =
        [("K8S_POD_NAMESPACE", &*namespace), ("K8S_POD_NAME", &*name), ("K8S_POD_UID", &*uid)];
    let mut container = container(&args);
    container.attachment.container = "0".repeat(64);
    let wish = wish(&conf("1.1.0", json!({})), &container).unwrap();
    let bytes: usize = wish.attach.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    assert!(bytes <= LABEL_BYTES, "{bytes}");
    assert_eq!(wish.attach.labels.get("k8s.pod"), Some(&name));
    assert_eq!(wish.left_out, ["the label k8s.uid is left out: there is no room"]);
}

fn endpoint() -> v1::Endpoint {
    serde_json::from_value(json!({
        "id": "0123456789ab", "name": null, "net": "demo", "vni": 4097,
        "mac": "02:42:0a:00:09:02", "ips": ["10.0.9.2/24", "fd00:9::2/64"], "aliases": [],
        "labels": {}, "host": "a", "local": true, "vtep": "192.0.2.1", "attached_ms": 0,
        "state": "ready", "host_ifname": "ove0123456789ab", "ifname": "eth0",
        "netns": "/run/netns/web1", "mtu": 1450, "gateways": ["10.0.9.1", "fd00:9::1"],
        "resolv_conf": "nameserver 127.0.0.11\nsearch demo.overlay.internal\noptions ndots:1\n"
    }))
    .unwrap()
}

#[track_caller]
fn result(version: &str, expected: Expect) {
    let conf = conf(version, json!({"dns": {"search": ["corp.example"]}}));
    let result = attached(&conf, &container(&[]), &endpoint(), Attached::default());
    expected.assert_eq(&format!("{}\n", result.to_json(conf.version)));
}

#[test]
fn the_result_of_0_3_1() {
    result(
        "0.3.1",
        expect![[r#"
        {
          "cniVersion": "0.3.1",
          "interfaces": [
            {
              "name": "ove0123456789ab"
            },
            {
              "name": "eth0",
              "mac": "02:42:0a:00:09:02",
              "sandbox": "/run/netns/web1"
            }
          ],
          "ips": [
            {
              "version": "4",
              "interface": 1,
              "address": "10.0.9.2/24",
              "gateway": "10.0.9.1"
            },
            {
              "version": "6",
              "interface": 1,
              "address": "fd00:9::2/64",
              "gateway": "fd00:9::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.0.9.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:9::1"
            }
          ],
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "search": [
              "demo.overlay.internal",
              "corp.example"
            ],
            "options": [
              "ndots:1"
            ]
          }
        }
    "#]],
    );
}

#[test]
fn the_result_of_0_4_0() {
    result(
        "0.4.0",
        expect![[r#"
        {
          "cniVersion": "0.4.0",
          "interfaces": [
            {
              "name": "ove0123456789ab"
            },
            {
              "name": "eth0",
              "mac": "02:42:0a:00:09:02",
              "sandbox": "/run/netns/web1"
            }
          ],
          "ips": [
            {
              "version": "4",
              "interface": 1,
              "address": "10.0.9.2/24",
              "gateway": "10.0.9.1"
            },
            {
              "version": "6",
              "interface": 1,
              "address": "fd00:9::2/64",
              "gateway": "fd00:9::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.0.9.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:9::1"
            }
          ],
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "search": [
              "demo.overlay.internal",
              "corp.example"
            ],
            "options": [
              "ndots:1"
            ]
          }
        }
    "#]],
    );
}

#[test]
fn the_result_of_1_0_0() {
    result(
        "1.0.0",
        expect![[r#"
        {
          "cniVersion": "1.0.0",
          "interfaces": [
            {
              "name": "ove0123456789ab"
            },
            {
              "name": "eth0",
              "mac": "02:42:0a:00:09:02",
              "sandbox": "/run/netns/web1"
            }
          ],
          "ips": [
            {
              "interface": 1,
              "address": "10.0.9.2/24",
              "gateway": "10.0.9.1"
            },
            {
              "interface": 1,
              "address": "fd00:9::2/64",
              "gateway": "fd00:9::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.0.9.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:9::1"
            }
          ],
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "search": [
              "demo.overlay.internal",
              "corp.example"
            ],
            "options": [
              "ndots:1"
            ]
          }
        }
    "#]],
    );
}

#[test]
fn the_result_of_1_1_0() {
    result(
        "1.1.0",
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "interfaces": [
            {
              "name": "ove0123456789ab",
              "mtu": 1450
            },
            {
              "name": "eth0",
              "mac": "02:42:0a:00:09:02",
              "mtu": 1450,
              "sandbox": "/run/netns/web1"
            }
          ],
          "ips": [
            {
              "interface": 1,
              "address": "10.0.9.2/24",
              "gateway": "10.0.9.1"
            },
            {
              "interface": 1,
              "address": "fd00:9::2/64",
              "gateway": "fd00:9::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.0.9.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:9::1"
            }
          ],
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "search": [
              "demo.overlay.internal",
              "corp.example"
            ],
            "options": [
              "ndots:1"
            ]
          }
        }
    "#]],
    );
}

#[test]
fn what_the_plugins_before_us_made_goes_out_as_it_came_in() {
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "lo", "sandbox": "/run/netns/web1", "pciID": "0000:00:1f.6"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0, "later": true}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "127.0.0.1", "mtu": 1400, "table": 7}],
        "dns": {"nameservers": ["192.0.2.53"], "domain": "example"},
        "unheardOf": {"a": [1]}
    });
    let read = Attached::read(&before).unwrap();
    let conf = conf("1.1.0", json!({}));
    let same: serde_json::Value = serde_json::from_str(&read.to_json(conf.version)).unwrap();
    assert_eq!(same, before);
    let after = attached(&conf, &container(&[]), &endpoint(), read);
    expect![[r#"
        {
          "cniVersion": "1.1.0",
          "interfaces": [
            {
              "name": "lo",
              "sandbox": "/run/netns/web1",
              "pciID": "0000:00:1f.6"
            },
            {
              "name": "ove0123456789ab",
              "mtu": 1450
            },
            {
              "name": "eth0",
              "mac": "02:42:0a:00:09:02",
              "mtu": 1450,
              "sandbox": "/run/netns/web1"
            }
          ],
          "ips": [
            {
              "interface": 0,
              "address": "127.0.0.1/8",
              "later": true
            },
            {
              "interface": 2,
              "address": "10.0.9.2/24",
              "gateway": "10.0.9.1"
            },
            {
              "interface": 2,
              "address": "fd00:9::2/64",
              "gateway": "fd00:9::1"
            }
          ],
          "routes": [
            {
              "dst": "198.51.100.0/24",
              "gw": "127.0.0.1",
              "mtu": 1400,
              "table": 7
            },
            {
              "dst": "0.0.0.0/0",
              "gw": "10.0.9.1"
            },
            {
              "dst": "::/0",
              "gw": "fd00:9::1"
            }
          ],
          "dns": {
            "nameservers": [
              "192.0.2.53",
              "127.0.0.11"
            ],
            "domain": "example",
            "search": [
              "demo.overlay.internal"
            ],
            "options": [
              "ndots:1"
            ]
          },
          "unheardOf": {
            "a": [
              1
            ]
          }
        }
    "#]]
    .assert_eq(&format!("{}\n", after.to_json(conf.version)));
}

#[test]
fn a_network_that_is_not_what_the_configuration_says_is_refused() {
    let refused = |overlay| {
        let conf = conf("1.1.0", json!({"overlay": overlay}));
        check_network(&conf, &endpoint()).err().map(|failure| failure.msg)
    };
    assert_eq!(refused(json!({})), None);
    assert_eq!(refused(json!({"vni": 4097, "subnet": ["10.0.9.0/24", "fd00:9::/64"]})), None);
    assert_eq!(refused(json!({"subnet": ["ipv4", "ipv6"]})), None);
    assert_eq!(
        refused(json!({"vni": 7})).unwrap(),
        "network demo has VNI 4097, and the configuration says VNI 7"
    );
    assert_eq!(
        refused(json!({"subnet": "10.9.0.0/24"})).unwrap(),
        "network demo has subnet 10.0.9.0/24, fd00:9::/64, and the configuration says 10.9.0.0/24"
    );
}
