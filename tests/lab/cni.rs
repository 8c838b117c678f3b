//! The CNI plugin, driven as libcni drives it, against a real overlayd. Each claim
//! names the verb, and the clause of the specification (CNI 1.1.0) stands above it.
//!
//! ```text
//!   outside 192.0.2.200 ──┬── host a 192.0.2.1 ──┬── host b 192.0.2.2
//!                         │     pods             │     pods
//!                   underlay 192.0.2.0/24
//!   network demo of CNI: overlay network demo, VNI 4097, 10.9.0.0/24
//! ```

use std::fs::File;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use expect_test::{Expect, expect};
use overlay_api::v1;
use overlay_tests::shell::{netns_path, run_in};
use overlay_tests::talk::{Outside, Server, ask_tcp, expect};
use overlay_tests::{Cni, Container, Host, Lab, NetSpec, binaries, eventually, kernel};
use serde_json::{Value, json};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// A host with the network `demo`, and the plugin of it.
fn alone(lab: &Lab) -> Result<(Host, Cni)> {
    let [a] = lab.hosts(["a"])?;
    a.net_create("demo", DEMO)?;
    let cni = Cni::new(&a, "1.1.0", json!({}));
    Ok((a, cni))
}

fn local(host: &Host) -> Result<Vec<v1::Endpoint>> {
    host.ctl_json(&["endpoints", "--local"])
}

fn address(result: &Value) -> Result<IpAddr> {
    let text = result["ips"][0]["address"].as_str().context("a result has an address")?;
    Ok(text.split('/').next().unwrap_or_default().parse()?)
}

/// The kernel takes its time, which a DEL does not wait for.
fn gone(pod: &Container, ifname: &str) -> Result<()> {
    eventually(&format!("{ifname} is gone"), || {
        ensure!(pod.link(ifname).is_err(), "it is there");
        Ok(())
    })
}

/// What differs from run to run is replaced.
fn golden(result: &Value, pod: &Container, expected: &Expect) -> Result<()> {
    let host = result["interfaces"][0]["name"].as_str().context("the host's side has a name")?;
    ensure!(host.starts_with("ove"), "{host}");
    let text = serde_json::to_string_pretty(result)?;
    expected.assert_eq(&(text.replace(host, "HOST").replace(&pod.netns_path(), "NETNS") + "\n"));
    Ok(())
}

/// SPEC "ADD": "creates the interface defined by CNI_IFNAME inside the container at
/// CNI_NETNS", and "the plugin must output a JSON result object" of its version.
fn added(version: &str, expected: Expect) -> Result<()> {
    Lab::run(|lab| {
        let (a, _) = alone(lab)?;
        let pod = a.container("pod")?;
        let cni = Cni::new(&a, version, json!({}));
        let result = cni.add("c1", pod.netns())?;
        golden(&result, &pod, &expected)?;
        let link = pod.link("eth0")?;
        ensure!(Some(&*link.mac) == result["interfaces"][1]["mac"].as_str(), "{link:?}");
        let shown = pod.exec("ip -4 -brief addr show dev eth0")?;
        let ip = result["ips"][0]["address"].as_str().context("it has an address")?;
        ensure!(shown.contains(ip), "{shown}");
        let route = pod.exec("ip -4 route show default")?;
        ensure!(route.contains("via 10.9.0.1"), "{route}");
        pod.ping_once([10, 9, 0, 1].into())?;
        cni.del("c1", Some(pod.netns()), Some(&result))
    })
}

#[test]
fn add_makes_the_interface_and_says_so_as_0_3_1_has_it() -> Result<()> {
    added(
        "0.3.1",
        expect![[r#"
        {
          "cniVersion": "0.3.1",
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "options": [
              "ndots:1"
            ],
            "search": [
              "demo.overlay.internal"
            ]
          },
          "interfaces": [
            {
              "name": "HOST"
            },
            {
              "mac": "02:42:0a:09:00:02",
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.9.0.2/24",
              "gateway": "10.9.0.1",
              "interface": 1,
              "version": "4"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.9.0.1"
            }
          ]
        }
    "#]],
    )
}

#[test]
fn add_makes_the_interface_and_says_so_as_0_4_0_has_it() -> Result<()> {
    added(
        "0.4.0",
        expect![[r#"
        {
          "cniVersion": "0.4.0",
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "options": [
              "ndots:1"
            ],
            "search": [
              "demo.overlay.internal"
            ]
          },
          "interfaces": [
            {
              "name": "HOST"
            },
            {
              "mac": "02:42:0a:09:00:02",
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.9.0.2/24",
              "gateway": "10.9.0.1",
              "interface": 1,
              "version": "4"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.9.0.1"
            }
          ]
        }
    "#]],
    )
}

#[test]
fn add_makes_the_interface_and_says_so_as_1_0_0_has_it() -> Result<()> {
    added(
        "1.0.0",
        expect![[r#"
        {
          "cniVersion": "1.0.0",
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "options": [
              "ndots:1"
            ],
            "search": [
              "demo.overlay.internal"
            ]
          },
          "interfaces": [
            {
              "name": "HOST"
            },
            {
              "mac": "02:42:0a:09:00:02",
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.9.0.2/24",
              "gateway": "10.9.0.1",
              "interface": 1
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.9.0.1"
            }
          ]
        }
    "#]],
    )
}

#[test]
fn add_makes_the_interface_and_says_so_as_1_1_0_has_it() -> Result<()> {
    added(
        "1.1.0",
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "dns": {
            "nameservers": [
              "127.0.0.11"
            ],
            "options": [
              "ndots:1"
            ],
            "search": [
              "demo.overlay.internal"
            ]
          },
          "interfaces": [
            {
              "mtu": 1450,
              "name": "HOST"
            },
            {
              "mac": "02:42:0a:09:00:02",
              "mtu": 1450,
              "name": "eth0",
              "sandbox": "NETNS"
            }
          ],
          "ips": [
            {
              "address": "10.9.0.2/24",
              "gateway": "10.9.0.1",
              "interface": 1
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "10.9.0.1"
            }
          ]
        }
    "#]],
    )
}

/// SPEC "ADD": "If the requested interface name already exists in the container, the CNI
/// plugin MUST return with an error."
#[test]
fn add_of_an_interface_that_exists_is_refused_and_changes_nothing() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        let result = cni.add("c1", pod.netns())?;
        let before = (pod.snapshot()?, local(&a)?);
        cni.one(0, "ADD", "c1", Some(pod.netns()), None)?.refused(100, "attached already")?;
        // Another container, the same namespace: the kernel has that name.
        cni.one(0, "ADD", "c2", Some(pod.netns()), None)?.refused(100, "an interface eth0")?;
        ensure!(before == (pod.snapshot()?, local(&a)?), "something changed");
        // A second interface of one container is fine.
        let second = Cni::new(&a, "1.1.0", json!({})).ifname("net1");
        let other = second.add("c1", pod.netns())?;
        ensure!(address(&other)? != address(&result)?, "{other}");
        // A DEL does not wait for the kernel, and the next ADD meets nothing of it.
        for _ in 0..10 {
            second.del("c1", Some(pod.netns()), None)?;
            second.add("c1", pod.netns())?;
        }
        second.del("c1", Some(pod.netns()), None)?;
        pod.link("eth0").map(drop)
    })
}

/// SPEC "ADD": "A runtime should not call ADD twice (without a corresponding DEL)"; after a
/// reboot of the machine there is nobody who could have called DEL.
#[test]
fn add_after_the_namespace_has_gone_takes_the_place_of_what_is_left() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        cni.add("c1", pod.netns())?;
        a.remove_container(&pod)?;
        let again = a.container("again")?;
        cni.add("c1", again.netns())?;
        let all = local(&a)?;
        ensure!(all.len() == 1 && all[0].netns.as_deref() == Some(&*again.netns_path()), "{all:?}");
        Ok(())
    })
}

/// SPEC "ADD" and "Error": "If an error is encountered, […] clean up".
#[test]
fn add_that_fails_leaves_nothing() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        let other = a.attach_with("demo", "other", &["-p", "8080:80", "--ip", "10.9.0.9"])?;
        let before = (pod.snapshot()?, local(&a)?);
        let add = |cni: &Cni| cni.one(0, "ADD", "c1", Some(pod.netns()), None);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        add(&cni.clone().runtime("portMappings", ports))?.refused(100, "8080")?;
        add(&cni.clone().runtime("ips", json!(["10.9.0.9"])))?.refused(100, "10.9.0.9 is taken")?;
        add(&cni.clone().runtime("ips", json!(["10.8.0.9"])))?
            .refused(7, "outside network demo")?;
        add(&cni.clone().runtime("mac", json!("x")))?.refused(7, "x")?;
        add(&cni.clone().with("overlay", json!({"network": "none"})))?.refused(7, "none")?;
        add(&cni.clone().with("ipam", json!({"type": "host-local"})))?.refused(2, "ipam")?;
        let differs = cni.clone().with("overlay", json!({"vni": 5}));
        add(&differs)?.refused(7, "network demo has VNI 4097, and the configuration says VNI 5")?;
        // Nobody can hear the result: stdout is full.
        let env = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", &pod.netns_path()),
        ];
        let full = Stdio::from(File::options().write(true).open("/dev/full")?);
        let said = cni.start_to(0, &env, &cni.conf(0, None).to_string(), full)?;
        ensure!(said.code != 0, "{said:?}");
        eventually("nothing is left", || {
            let now = (pod.snapshot()?, local(&a)?);
            ensure!(now.0 == before.0, "{:?}", kernel::difference(&before.0, &now.0));
            ensure!(now.1 == before.1, "{:?}", now.1);
            Ok(())
        })?;
        a.detach(other.name())
    })
}

/// SPEC "DEL": "Plugins should generally complete a DEL action without error even if some
/// resources are missing", and "multiple DEL calls for the same […] must be accepted".
#[test]
fn del_succeeds_whatever_is_missing_and_however_often() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let other = a.attach("demo", "other")?;
        // Never added.
        cni.del("c0", None, None)?;
        // Without prevResult and namespace, then again with both.
        let pod = a.container("pod")?;
        let result = cni.add("c1", pod.netns())?;
        cni.del("c1", None, None)?;
        gone(&pod, "eth0")?;
        cni.del("c1", Some(pod.netns()), Some(&result))?;
        // The namespace is gone.
        cni.add("c1", pod.netns())?;
        a.remove_container(&pod)?;
        cni.del("c1", Some(pod.netns()), Some(&result))?;
        cni.del("c1", Some(pod.netns()), None)?;
        // The network is gone.
        let pod2 = a.container("pod2")?;
        let elsewhere =
            cni.clone().with("overlay", json!({"subnet": "10.8.0.0/24", "network": "x"}));
        elsewhere.add("c2", pod2.netns())?;
        a.ctl_json::<Value>(&["net", "rm", "--force", "x"])?;
        elsewhere.del("c2", Some(pod2.netns()), None)?;
        // A prevResult that is none.
        cni.one(0, "DEL", "c1", None, Some(&json!("?")))?.ok()?;
        let left = local(&a)?;
        ensure!(left.len() == 1 && left[0].id == other.endpoint().id, "{left:?}");
        Ok(())
    })
}

/// SPEC "DEL": a runtime that is told of a success does not ask again.
#[test]
fn del_while_the_daemon_is_down_waits_for_it_and_is_done_before_anything_else() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let [p1, p2, p3] = ["p1", "p2", "p3"].map(|name| a.container(name));
        let (p1, p2, p3) = (p1?, p2?, p3?);
        let first = cni.add("c1", p1.netns())?;
        cni.add("c2", p2.netns())?;
        cni.add("c3", p3.netns())?;
        a.stop()?;
        cni.del("c1", Some(p1.netns()), Some(&first))?;
        cni.del("c2", None, None)?;
        cni.del("c2", None, None)?;
        let waiting = || -> Result<usize> {
            let files = std::fs::read_dir(cni.state_dir())?.flatten();
            Ok(files.filter(|file| file.path().extension().is_some_and(|e| e == "json")).count())
        };
        ensure!(waiting()? == 2, "{} wait", waiting()?);
        // Nothing can be added meanwhile, and the runtime is told to come again.
        cni.one(0, "ADD", "c4", Some(p1.netns()), None)?.refused(11, "does not answer")?;
        cni.status()?.refused(50, "does not answer")?;
        a.start()?;
        // c1 comes back under its name: what waits is done first, and not afterwards.
        cni.add("c1", p1.netns())?;
        ensure!(waiting()? == 0, "{} wait", waiting()?);
        let names = |host: &Host| -> Result<Vec<String>> {
            let all = local(host)?.into_iter();
            let mut labels: Vec<_> = all.filter_map(|e| e.labels.get("cni").cloned()).collect();
            labels.sort();
            Ok(labels)
        };
        ensure!(names(&a)? == ["demo/c1/eth0", "demo/c3/eth0"], "{:?}", names(&a)?);
        gone(&p2, "eth0")?;
        // Without a runtime: what the unit file of overlayd does.
        a.kill()?;
        cni.del("c3", None, None)?;
        a.start()?;
        let program = binaries::plugin("overlay-cni")?;
        let (dir, socket) = (cni.state_dir(), a.socket());
        run_in(
            a.netns(),
            &format!("{} replay {} {}", program.display(), dir.display(), socket.display()),
        )?;
        ensure!(names(&a)? == ["demo/c1/eth0"], "{:?}", names(&a)?);
        Ok(())
    })
}

/// SPEC "CHECK": "must return an error if the container's networking is not as expected".
#[test]
fn check_fails_if_anything_is_not_as_it_was_made() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        let check = |prev: Option<&Value>| cni.one(0, "CHECK", "c1", Some(pod.netns()), prev);
        let result = cni.add("c1", pod.netns())?;
        cni.check("c1", pod.netns(), &result)?;
        // What others add is theirs.
        pod.exec("ip addr add 198.51.100.1/32 dev eth0")?;
        pod.exec("ip link add name extra type veth peer name extra-peer")?;
        cni.check("c1", pod.netns(), &result)?;

        check(None)?.refused(7, "prevResult")?;
        check(Some(&json!({"cniVersion": "1.1.0"})))?.refused(7, "no interface eth0")?;
        let mut other = result.clone();
        other["ips"][0]["address"] = json!("10.9.0.77/24");
        check(Some(&other))?.refused(103, "10.9.0.77/24 is not leased")?;

        pod.exec("ip route del default")?;
        check(Some(&result))?.refused(103, "default route")?;
        pod.exec("ip route add default via 10.9.0.1")?;
        cni.check("c1", pod.netns(), &result)?;
        let ip = result["ips"][0]["address"].as_str().context("it has one")?;
        pod.exec(&format!("ip addr del {ip} dev eth0"))?;
        check(Some(&result))?.refused(103, "has not the address")?;
        pod.exec(&format!("ip addr add {ip} dev eth0"))?;
        pod.exec("ip link set dev eth0 name eth7")?;
        check(Some(&result))?.refused(103, "the interface eth0 is not in")?;
        pod.exec("ip link set dev eth7 name eth0")?;
        // Over a restart of the daemon, whose view is partial then.
        a.stop()?;
        check(Some(&result))?.refused(11, "does not answer")?;
        a.start()?;
        cni.check("c1", pod.netns(), &result)?;
        cni.del("c1", None, None)?;
        check(Some(&result))?.refused(3, "not attached")?;
        a.remove_container(&pod)?;
        check(Some(&result))?.refused(3, "does not exist")
    })
}

/// SPEC "GC": "the plugin MUST remove any resources […] not in the list of valid
/// attachments", and nothing else.
#[test]
fn gc_removes_exactly_what_is_not_listed() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let other = cni.clone().named("demo2").with("overlay", json!({"network": "demo"}));
        let second = cni.clone().ifname("net1");
        let pods = ["p1", "p2", "p3"].map(|name| a.container(name));
        let [p1, p2, p3] = pods;
        let (p1, p2, p3) = (p1?, p2?, p3?);
        cni.add("c1", p1.netns())?;
        second.add("c1", p1.netns())?;
        cni.add("c2", p2.netns())?;
        // Of another network of CNI, which uses the same overlay network.
        other.add("c3", p3.netns())?;
        let by_hand = a.attach("demo", "by-hand")?;
        let labels = || -> Result<Vec<String>> {
            let all = local(&a)?.into_iter().map(|e| match (e.labels.get("cni"), e.name) {
                (Some(label), _) => label.clone(),
                (None, name) => name.unwrap_or_default(),
            });
            let mut all: Vec<_> = all.collect();
            all.sort();
            Ok(all)
        };
        let said = cni.gc(&[("c1", "eth0"), ("c2", "eth0"), ("gone", "eth0")])?;
        ensure!(said.code == 0 && said.stdout.is_empty(), "{said:?}");
        ensure!(
            labels()? == ["by-hand", "demo/c1/eth0", "demo/c2/eth0", "demo2/c3/eth0"],
            "{:?}",
            labels()?
        );
        gone(&p1, "net1")?;
        cni.gc(&[("c2", "eth0")])?.ok()?;
        // A DEL that waits is done with it.
        a.stop()?;
        cni.del("c2", None, None)?;
        cni.gc(&[])?.refused(11, "does not answer")?;
        a.start()?;
        cni.gc(&[])?.ok()?;
        ensure!(labels()? == ["by-hand", "demo2/c3/eth0"], "{:?}", labels()?);
        // Without a list all would go: it is refused.
        let conf = other.conf(0, None).to_string();
        other.start(0, &[("CNI_COMMAND", "GC")], &conf)?.refused(7, "valid-attachments")?;
        other.gc(&[])?.ok()?;
        let left = local(&a)?;
        ensure!(left.len() == 1 && left[0].id == by_hand.endpoint().id, "{left:?}");
        Ok(())
    })
}

/// SPEC "STATUS": "exit with a zero return code if the plugin is ready to service ADD
/// requests", with code 50 if not.
#[test]
fn status_says_whether_an_add_would_work() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let said = cni.status()?;
        ensure!(said.code == 0 && said.stdout.is_empty(), "{said:?}");
        let missing = cni.clone().with("overlay", json!({"network": "none"}));
        missing.status()?.refused(50, "none")?;
        // It would be created.
        cni.clone().with("overlay", json!({"network": "none", "vni": 7})).status()?.ok()?;
        a.ctl_json::<Value>(&["drain"])?;
        cni.status()?.refused(50, "drained")?;
        a.ctl_json::<Value>(&["drain", "--undo"])?;
        cni.status()?.ok()?;
        let small =
            cni.clone().with("overlay", json!({"network": "tiny", "subnet": "10.8.0.0/30"}));
        let pod = a.container("pod")?;
        small.add("c1", pod.netns())?;
        small.status()?.refused(50, "no address of 10.8.0.0/30 is free")?;
        small.del("c1", None, None)?;
        small.status()?.ok()?;
        a.stop()?;
        cni.status()?.refused(50, "does not answer")
    })
}

/// SPEC "VERSION": "output a version information JSON object" with nothing but
/// `cniVersion` on stdin.
#[test]
fn version_needs_nothing_but_its_own_name() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = (lab.host("a")?, "CNI_COMMAND");
        let plugin = Cni::new(&a, "1.1.0", json!({}));
        let ask = |stdin: &str| plugin.start(0, &[(cni, "VERSION")], stdin)?.ok();
        let all = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        let expected = |version: &str| json!({"cniVersion": version, "supportedVersions": all});
        ensure!(ask(r#"{"cniVersion": "0.4.0"}"#)? == expected("0.4.0"));
        // A runtime may be newer than we.
        ensure!(ask(r#"{"cniVersion": "9.9.9"}"#)? == expected("1.1.0"));
        // Somebody types the name of the program.
        let said = plugin.start(0, &[], "")?;
        ensure!(said.code == 0 && said.stderr.contains("a CNI plugin"), "{said:?}");
        Ok(())
    })
}

/// SPEC "Error": the codes 1 to 99, each with what was wrong.
#[test]
fn every_error_has_its_code_and_says_what_is_wrong() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        let path = pod.netns_path();
        let conf = cni.conf(0, None).to_string();
        let mut said = String::new();
        let mut ask = |what: &str, env: &[(&str, &str)], stdin: &str| -> Result<()> {
            let all = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", &*path),
            ];
            let kept = all.into_iter().filter(|(key, _)| env.iter().all(|(other, _)| other != key));
            let env: Vec<_> = kept.chain(env.iter().copied()).collect();
            let (code, msg) = cni.start(0, &env, stdin)?.error()?;
            said += &format!("{what}: {code} {}\n", msg.replace(&path, "NETNS"));
            Ok(())
        };
        ask("verb", &[("CNI_COMMAND", "add")], &conf)?;
        ask("id", &[("CNI_CONTAINERID", "")], &conf)?;
        ask("id", &[("CNI_CONTAINERID", "a/b")], &conf)?;
        ask("ifname", &[("CNI_IFNAME", "..")], &conf)?;
        ask("ifname", &[("CNI_IFNAME", "sixteen-letters-")], &conf)?;
        ask("args", &[("CNI_ARGS", "FOO=1")], &conf)?;
        ask("netns", &[("CNI_NETNS", "")], &conf)?;
        ask("netns", &[("CNI_NETNS", "/run/netns/none")], &conf)?;
        ask("netns", &[("CNI_NETNS", "/etc/hostname")], &conf)?;
        ask("netns", &[("CNI_NETNS", "netns")], &conf)?;
        let own = netns_path(a.netns()).display().to_string();
        ask("own netns", &[("CNI_NETNS", &own)], &conf)?;
        ask("no JSON", &[], "nonsense")?;
        ask("version", &[], r#"{"cniVersion": "0.2.0", "name": "demo", "type": "overlay-cni"}"#)?;
        ask("name", &[], r#"{"cniVersion": "1.1.0", "name": "", "type": "overlay-cni"}"#)?;
        let old = r#"{"cniVersion": "0.3.1", "name": "demo", "type": "overlay-cni"}"#;
        for verb in ["CHECK", "GC", "STATUS"] {
            ask(verb, &[("CNI_COMMAND", verb)], old)?;
        }
        ask("too long", &[], &" ".repeat(3 << 20))?;
        expect![[r#"
            verb: 4 CNI_COMMAND is `add`, not one of ADD, DEL, CHECK, GC, STATUS, VERSION
            id: 4 CNI_CONTAINERID is not set; ADD needs it
            id: 4 CNI_CONTAINERID `a/b` must begin with a letter or digit, and have letters, digits, `_`, `.` and `-` only
            ifname: 4 CNI_IFNAME `..` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`
            ifname: 4 CNI_IFNAME `sixteen-letters-` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`
            args: 4 CNI_ARGS has `FOO`, which means nothing here; say IgnoreUnknown=1 with it
            netns: 4 CNI_NETNS is not set; ADD needs it
            netns: 3 CNI_NETNS /run/netns/none does not exist: is the container running?
            netns: 8 CNI_NETNS /etc/hostname is not a network namespace
            netns: 8 CNI_NETNS netns is no path from the root
            own netns: 8 CNI_NETNS OWN is the plugin's own network namespace; a container needs its own
            no JSON: 6 cannot understand the configuration on stdin: expected ident at line 1 column 2
            version: 1 cniVersion `0.2.0` is not spoken here
            name: 7 the name of the network is ``; it must begin with a letter or digit, and have letters, digits, `_`, `.` and `-` only
            CHECK: 1 cniVersion 0.3.1 has no CHECK
            GC: 1 cniVersion 0.3.1 has no GC
            STATUS: 1 cniVersion 0.3.1 has no STATUS
            too long: 5 the configuration on stdin is longer than 2 MiB
        "#]].assert_eq(&said.replace(&own, "OWN"));
        ensure!(local(&a)?.is_empty(), "{:?}", local(&a)?);
        Ok(())
    })
}

/// SPEC "Section 2": stdin is closed by the runtime; one that does not is not waited for.
#[test]
fn a_configuration_without_an_end_is_given_up() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let program = binaries::plugin("overlay-cni")?;
        let mut command = overlay_tests::shell::command_in(a.netns(), program);
        let mut child = command
            .env("CNI_COMMAND", "STATUS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let open = child.stdin.take();
        let ended = eventually("it ends", || child.try_wait()?.context("it runs"))?;
        drop(open);
        ensure!(ended.code() == Some(1), "{ended}");
        Ok(())
    })
}

/// SPEC "Section 3": plugins of a list get the result of the one before; `portmap` and
/// `bandwidth` are those of Debian.
#[test]
fn reference_plugins_chained_after_us_find_what_they_need() -> Result<()> {
    Lab::run(|lab| {
        let (a, _) = alone(lab)?;
        let outside = Outside::new(lab)?;
        let pod = a.container("pod")?;
        let chain = Cni::new(&a, "1.0.0", json!({}))
            .with("capabilities", json!({}))
            .chain(json!({"type": "portmap", "capabilities": {"portMappings": true}}))
            .chain(json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}))
            .runtime(
                "portMappings",
                json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
            )
            .runtime(
                "bandwidth",
                json!({
                    "ingressRate": 1_000_000, "ingressBurst": 800_000,
                    "egressRate": 1_000_000, "egressBurst": 800_000
                }),
            );
        let result = chain.add("c1", pod.netns())?;
        // Not of portmap 1.1.1: it looks for IPv6 rules of an IPv4 container, and finds none.
        for n in [0, 2] {
            chain.one(n, "CHECK", "c1", Some(pod.netns()), Some(&result))?.ok()?;
        }
        let host = result["interfaces"][0]["name"].as_str().context("the host's side")?;
        let shaped = run_in(a.netns(), &format!("tc qdisc show dev {host}"))?;
        ensure!(shaped.contains("tbf") && shaped.contains("rate 1Mbit"), "{shaped}");
        let _server = Server::tcp(pod.netns(), "pod", 80)?;
        let at = (IpAddr::from(a.address()), 8080).into();
        eventually("the port of portmap answers", || {
            expect(&ask_tcp(outside.netns(), at)?, "pod", outside.ip())
        })?;
        chain.del("c1", Some(pod.netns()), Some(&result))?;
        ensure!(local(&a)?.is_empty(), "{:?}", local(&a)?);
        Ok(())
    })
}

/// SPEC "Section 3": a plugin that is not the first gets `prevResult`, and must pass it on.
#[test]
fn add_after_another_plugin_passes_its_result_on() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        let before = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "lo", "sandbox": pod.netns_path(), "socketPath": "/x"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}],
            "dns": {"domain": "example"}
        });
        let result = cni.one(0, "ADD", "c1", Some(pod.netns()), Some(&before))?.ok()?;
        ensure!(result["interfaces"][0] == before["interfaces"][0], "{result}");
        ensure!(result["ips"][0] == before["ips"][0] && result["ips"][1]["interface"] == 2);
        ensure!(result["dns"]["domain"] == "example", "{result}");
        cni.check("c1", pod.netns(), &result)
    })
}

/// CONVENTIONS: portMappings, ips, mac, dns, aliases; `args.cni`; `CNI_ARGS` of Kubernetes.
#[test]
fn what_a_runtime_says_of_a_container_becomes_of_its_endpoint() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let pod = a.container("pod")?;
        let cni = cni
            .runtime("ips", json!(["10.9.0.50/24"]))
            .runtime("mac", json!("02:00:5e:10:00:50"))
            .runtime("aliases", json!(["web", "www"]))
            .runtime("dns", json!({"servers": ["192.0.2.53"], "searches": ["corp.example"]}))
            .runtime(
                "portMappings",
                json!([{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""}]),
            )
            .with("args", json!({"cni": {"labels": [{"key": "app", "value": "shop"}]}}))
            .with_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod-0;X=y");
        let result = cni.add("c1", pod.netns())?;
        ensure!(address(&result)? == IpAddr::from([10, 9, 0, 50]), "{result}");
        ensure!(result["dns"]["nameservers"] == json!(["192.0.2.53"]), "{result}");
        let all = local(&a)?;
        let [endpoint] = all.as_slice() else { anyhow::bail!("{all:?}") };
        ensure!(endpoint.mac == "02:00:5e:10:00:50" && endpoint.aliases == ["web", "www"]);
        ensure!(endpoint.ports == ["8080:80/tcp"], "{endpoint:?}");
        let labels: Vec<_> = endpoint.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        ensure!(
            labels == ["app=shop", "cni=demo/c1/eth0", "k8s.namespace=ns", "k8s.pod=pod-0"],
            "{labels:?}"
        );
        // The way before capabilities, and without a default route.
        let pod2 = a.container("pod2")?;
        let old = Cni::new(&a, "0.3.1", json!({"defaultRoute": false})).with_args("IP=10.9.0.51");
        let result = old.add("c2", pod2.netns())?;
        ensure!(address(&result)? == IpAddr::from([10, 9, 0, 51]), "{result}");
        ensure!(result["routes"].is_null(), "{result}");
        ensure!(pod2.exec("ip route show default")?.is_empty());
        Ok(())
    })
}

#[test]
fn pods_of_two_hosts_reach_each_other_by_name_and_port() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let outside = Outside::new(lab)?;
        a.knows_all()?;
        b.knows_all()?;
        let overlay =
            json!({"network": "pods", "vni": 4097, "subnet": ["10.9.0.0/24", "fd00:9::/64"]});
        let of = |host: &Host| Cni::new(host, "1.1.0", overlay.clone());
        let (p1, p2) = (a.container("p1")?, b.container("p2")?);
        let web = of(&a).runtime("aliases", json!(["web"])).runtime(
            "portMappings",
            json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
        );
        let web = web.add("c1", p1.netns())?;
        let other = of(&b).add("c2", p2.netns())?;
        p2.ping(address(&web)?)?;
        p1.ping(address(&other)?)?;
        let v6 = web["ips"][1]["address"].as_str().context("it has two")?;
        p2.ping(v6.trim_end_matches("/64").parse()?)?;
        eventually("the name is answered on the other host", || {
            let ips = p2.dig("web.pods.overlay.internal")?.ips();
            ensure!(ips == [address(&web)?], "{ips:?}");
            Ok(())
        })?;
        ensure!(other["dns"]["nameservers"] == json!(["127.0.0.11"]), "{other}");
        let _server = Server::tcp(p1.netns(), "web", 80)?;
        let at = (IpAddr::from(a.address()), 8080).into();
        expect(&ask_tcp(outside.netns(), at)?, "web", outside.ip())
    })
}

#[test]
fn two_hosts_that_create_the_network_at_once_have_one() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        for host in &hosts {
            host.knows_all()?;
        }
        for round in 0..4 {
            let net = format!("pods{round}");
            // Whatever VNI and subnet is free: the hosts may choose differently.
            let overlay = json!({"network": net, "subnet": "ipv4"});
            let pods: Vec<Container> = hosts
                .iter()
                .map(|host| host.container(&format!("{}{round}", host.name())))
                .collect::<Result<_>>()?;
            let start = Arc::new(std::sync::Barrier::new(hosts.len()));
            let added: Vec<_> = hosts
                .iter()
                .zip(&pods)
                .map(|(host, pod)| {
                    let cni = Cni::new(host, "1.1.0", overlay.clone());
                    let (start, netns) = (Arc::clone(&start), pod.netns().to_owned());
                    std::thread::spawn(move || {
                        start.wait();
                        cni.add(&format!("c{round}"), &netns)
                    })
                })
                .collect();
            let added: Vec<Value> = added
                .into_iter()
                .map(|thread| thread.join().expect("no test panics in here"))
                .collect::<Result<_>>()?;
            let mut ids = Vec::new();
            for host in &hosts {
                let of_name: Vec<_> =
                    host.networks()?.into_iter().filter(|n| n.name == net).collect();
                ensure!(of_name.len() == 1 && of_name[0].conflict.is_none(), "{of_name:?}");
                ids.push(of_name[0].id.clone());
            }
            ensure!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
            for (n, pod) in pods.iter().enumerate() {
                for result in added.iter().skip(n + 1) {
                    pod.ping(address(result)?)?;
                }
            }
        }
        Ok(())
    })
}

/// SPEC "Section 2": "runtimes may run plugins of different containers in parallel".
#[test]
fn fifty_adds_and_dels_at_once_leave_nothing() -> Result<()> {
    Lab::run(|lab| {
        let (a, cni) = alone(lab)?;
        let by_hand = a.attach("demo", "by-hand")?;
        a.at_rest()?;
        let before = a.snapshot()?;
        let pods: Vec<Container> =
            (0..50).map(|n| a.container(&format!("p{n}"))).collect::<Result<_>>()?;
        let all = |work: fn(&Cni, &str, &str) -> Result<Option<IpAddr>>| {
            let threads: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(n, pod)| {
                    let (cni, netns) = (cni.clone(), pod.netns().to_owned());
                    std::thread::spawn(move || work(&cni, &format!("c{n}"), &netns))
                })
                .collect();
            let joined = threads.into_iter().map(|t| t.join().expect("no test panics in here"));
            joined.collect::<Result<Vec<_>>>()
        };
        let mut ips = all(|cni, id, netns| address(&cni.add(id, netns)?).map(Some))?;
        ips.sort();
        ips.dedup();
        ensure!(ips.len() == 50, "{ips:?}");
        pods[0].ping(by_hand.ip())?;
        all(|cni, id, netns| cni.del(id, Some(netns), None).map(|()| None))?;
        ensure!(local(&a)?.len() == 1, "{:?}", local(&a)?);
        eventually("the kernel is as it was", || {
            let now = a.snapshot()?;
            ensure!(now == before, "{:?}", kernel::difference(&before, &now));
            Ok(())
        })
    })
}
