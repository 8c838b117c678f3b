//! Names: what containers are answered, where they ask, and how soon.
//!
//! ```text
//!   host a ──── underlay ──── host b                 asked at 127.0.0.11 of each container,
//!    c1 web1                   c2 web2               and at the gateway 10.9.0.1 of its host
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::host::write_file;
use overlay_tests::names::with_resolv_conf;
use overlay_tests::{
    Container, DaemonOptions, Dnsmasq, Host, Lab, NetSpec, dig, eventually, holds_for,
};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/16", "fd00:9::/64"], mtu: 0, extra: &[] };
const V4: NetSpec<'_> = NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], mtu: 0, extra: &[] };

/// c1 on a, c2 on b, both with the alias `web`.
fn pair(lab: &Lab) -> Result<([Host; 2], [Container; 2])> {
    let [a, b] = lab.hosts(["a", "b"])?;
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let c1 = a.attach_with("demo", "c1", &["--alias", "web"])?;
    let c2 = b.attach_with("demo", "c2", &["--alias", "web"])?;
    is_answered(&c1, "c2", &c2)?;
    is_answered(&c2, "c1", &c1)?;
    Ok(([a, b], [c1, c2]))
}

/// `asker` is answered the IPv4 address of `other` to `name`.
fn is_answered(asker: &Container, name: &str, other: &Container) -> Result<()> {
    eventually(&format!("{} knows {name}", asker.name()), || {
        let told = asker.dig(&format!("{name} A"))?;
        ensure!(told.is("NOERROR")?.ips() == [other.ip()], "{}", told.text);
        Ok(())
    })
}

fn ips(containers: &[&Container]) -> BTreeSet<IpAddr> {
    containers.iter().map(|container| container.ip()).collect()
}

fn add_static(host: &Host, net: &str, n: u32, more: &[&str]) -> Result<v1::Endpoint> {
    let [_, _, hi, lo] = n.to_be_bytes();
    let (mac, ip) = (format!("02:aa:00:00:{hi:02x}:{lo:02x}"), format!("10.9.{}.{lo}", 10 + hi));
    let args = [&["endpoint", "add", "--net", net, "--mac", &mac, "--ip", &ip], more].concat();
    host.ctl_json(&args)
}

#[test]
fn an_endpoint_is_answered_by_name_short_and_whole_in_both_families_and_backwards() -> Result<()> {
    Lab::run(|lab| {
        let (_, [c1, c2]) = pair(lab)?;
        for name in ["c2", "c2.demo.overlay.internal", "C2.Demo.Overlay.INTERNAL"] {
            let v4 = c1.dig(&format!("{name} A"))?;
            ensure!(v4.is("NOERROR")?.ips() == [c2.ip()], "{}", v4.text);
            ensure!(v4.flags.contains("aa") && v4.answers[0].ttl == 5, "{}", v4.text);
            let v6 = c1.dig(&format!("{name} AAAA"))?;
            ensure!(v6.is("NOERROR")?.ips() == [c2.ip6()], "{}", v6.text);
        }
        for ip in [c2.ip(), c2.ip6()] {
            let told = c1.dig(&format!("-x {ip}"))?;
            ensure!(told.is("NOERROR")?.data() == ["c2.demo.overlay.internal."], "{}", told.text);
        }
        let nobody = c1.dig("-x 10.9.200.200")?;
        ensure!(nobody.is("NXDOMAIN")?.authority[0].kind == "SOA", "{}", nobody.text);
        Ok(())
    })
}

#[test]
fn a_name_that_is_none_is_nxdomain_with_how_long_that_may_be_remembered() -> Result<()> {
    Lab::run(|lab| {
        let (_, [c1, _]) = pair(lab)?;
        for name in ["nobody.demo.overlay.internal", "c2.nowhere.overlay.internal"] {
            let told = c1.dig(&format!("{name} A"))?;
            let soa = &told.is("NXDOMAIN")?.authority;
            ensure!(soa.len() == 1 && soa[0].kind == "SOA" && soa[0].ttl == 5, "{}", told.text);
            ensure!(soa[0].name == "overlay.internal." && soa[0].data.ends_with(" 5"), "{soa:?}");
        }
        Ok(())
    })
}

/// A name of one family is not one that does not exist: programs that ask for AAAA and are told
/// NXDOMAIN give the name up.
#[test]
fn the_family_that_a_name_has_not_is_an_empty_answer() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("four", V4)?;
        let c1 = a.attach("four", "c1")?;
        let told = c1.dig("c1.four.overlay.internal AAAA")?;
        ensure!(told.is("NOERROR")?.answers.is_empty(), "{}", told.text);
        ensure!(told.authority[0].kind == "SOA", "{}", told.text);
        let told = c1.dig("c1 MX")?;
        ensure!(told.answers.is_empty(), "{}", told.text);
        Ok(())
    })
}

#[test]
fn an_alias_is_answered_with_all_its_holders_in_turn() -> Result<()> {
    Lab::run(|lab| {
        let (_, [c1, c2]) = pair(lab)?;
        let both = ips(&[&c1, &c2]);
        let mut first = BTreeSet::new();
        eventually("each has been the first", || {
            let told = c1.dig("web A")?.ips();
            ensure!(told.iter().copied().collect::<BTreeSet<_>>() == both, "{told:?}");
            first.insert(told[0]);
            ensure!(first == both, "only {first:?}");
            Ok(())
        })?;
        // Both asked for at a time, as getaddrinfo does: the turns do not follow the questions.
        let mut first = BTreeSet::new();
        eventually("each has been the first while AAAA is asked for, too", || {
            first.insert(c1.dig("web A")?.ips()[0]);
            c1.dig("web AAAA")?;
            ensure!(first == both, "only {first:?}");
            Ok(())
        })
    })
}

/// By what containers listen at, whatever port of the host leads there, and on every host.
#[test]
fn published_ports_are_found_by_srv_from_when_to_when_they_are() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let more = ["--alias", "web", "--publish", "8080:80", "--publish", "5000-5009:53-62/udp"];
        let c1 = a.attach_with("demo", "c1", &more)?;
        let c2 = b.attach_with("demo", "c2", &["--alias", "web"])?;
        is_answered(&c2, "c1", &c1)?;
        let srv = |name: &str| c2.dig(&format!("{name} SRV"));
        for name in ["_80._tcp.web.demo.overlay.internal", "_80._tcp.c1", "_80._TCP.Web"] {
            let told = srv(name)?;
            let is = told.is("NOERROR")?.data() == ["0 0 80 c1.demo.overlay.internal."];
            ensure!(is && told.additional.len() == 2, "{}", told.text);
            let beside: Vec<&str> = told.additional.iter().map(|r| r.data.as_str()).collect();
            ensure!(beside == [c1.ip().to_string(), c1.ip6().to_string()], "{beside:?}");
        }
        for name in ["_53._udp.web", "_62._udp.web"] {
            ensure!(srv(name)?.is("NOERROR")?.answers.len() == 1, "{name}");
        }
        for name in ["_8080._tcp", "_80._udp", "_63._udp"] {
            srv(&format!("{name}.web.demo.overlay.internal"))?.is("NXDOMAIN")?;
        }
        // Published while it runs, by the other of the two, and taken back.
        let name = "_80._tcp.web.demo.overlay.internal";
        b.ctl_json::<v1::Endpoint>(&["publish", "c2", "0:80"])?;
        eventually("both are told", || {
            let told = srv(name)?;
            ensure!(told.answers.len() == 2 && told.additional.len() == 4, "{}", told.text);
            Ok(())
        })?;
        a.ctl_json::<v1::Endpoint>(&["unpublish", "c1", "8080"])?;
        eventually("only c2 is told", || {
            let told = srv(name)?;
            ensure!(told.data() == ["0 0 80 c2.demo.overlay.internal."], "{}", told.text);
            Ok(())
        })
    })
}

#[test]
fn letters_come_back_as_they_were_asked_with() -> Result<()> {
    Lab::run(|lab| {
        let (_, [c1, _]) = pair(lab)?;
        let told = c1.dig("wEb.dEMo.OvErLaY.inTERnal A +question")?;
        ensure!(told.text.contains("wEb.dEMo.OvErLaY.inTERnal."), "{}", told.text);
        ensure!(told.answers.iter().all(|r| r.name == "wEb.dEMo.OvErLaY.inTERnal."), "{told:?}");
        Ok(())
    })
}

#[test]
fn an_answer_that_is_too_long_is_cut_and_had_whole_by_tcp() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let conf = lab.dir().join("resolv.conf");
        let asker =
            a.attach_with("demo", "asker", &["--write-resolv-conf", &conf.display().to_string()])?;
        for n in 1..=60 {
            add_static(&a, "demo", n, &["--alias", "many"])?;
        }
        let cut = asker.dig("many A +ignore +noedns")?;
        ensure!(cut.flags.contains("tc") && cut.answers.len() < 60, "{}", cut.text);
        let whole = asker.dig("many A +noedns")?;
        ensure!(whole.text.contains("retrying in TCP mode"), "{}", whole.text);
        let all: BTreeSet<IpAddr> = whole.ips().into_iter().collect();
        ensure!(all.len() == 60 && !whole.flags.contains("tc"), "{}", whole.text);
        let edns = asker.dig("many A +ignore +bufsize=1232")?;
        ensure!(edns.answers.len() == 60 && !edns.flags.contains("tc"), "{}", edns.text);
        // And as programs ask.
        let told: BTreeSet<IpAddr> = asker.resolves(&conf, "many")?.into_iter().collect();
        ensure!(told == all, "{told:?}");
        Ok(())
    })
}

#[test]
fn programs_find_names_by_the_resolv_conf_that_attach_writes() -> Result<()> {
    Lab::run(|lab| {
        let ([a, _], [_, c2]) = pair(lab)?;
        let conf = lab.dir().join("resolv.conf");
        let c3 =
            a.attach_with("demo", "c3", &["--write-resolv-conf", &conf.display().to_string()])?;
        let text = std::fs::read_to_string(&conf)?;
        ensure!(text.starts_with("nameserver 127.0.0.11\nsearch demo.overlay.internal"), "{text}");
        ensure!(c3.endpoint().resolv_conf.as_deref() == Some(&text), "{:?}", c3.endpoint());
        for name in ["c2", "c2.demo.overlay.internal"] {
            let told = c3.resolves(&conf, name)?;
            ensure!(told.contains(&c2.ip()) && told.contains(&c2.ip6()), "{told:?}");
        }
        let python =
            "python3 -c \"import socket; print(socket.getaddrinfo(\\\"c2\\\", 80)[0][4][0])\"";
        let told = c3.script(&with_resolv_conf(&conf, python))?;
        ensure!([c2.ip(), c2.ip6()].contains(&told.trim().parse()?), "{told}");
        let back = c3.script(&with_resolv_conf(&conf, &format!("getent hosts {}", c2.ip())))?;
        ensure!(back.contains("c2.demo.overlay.internal"), "{back}");
        Ok(())
    })
}

#[test]
fn nobody_is_answered_names_of_a_network_that_he_is_not_on() -> Result<()> {
    Lab::run(|lab| {
        // Nobody to ask for other names: what is not ours fails at once.
        let nowhere = vec!["--resolv-conf".into(), "/nonexistent".into()];
        let alone = DaemonOptions { extra: nowhere, ..DaemonOptions::default() };
        let [a] = lab.hosts_with(["a"], &alone)?;
        a.net_create("demo", DEMO)?;
        a.net_create("other", V4)?;
        let (c1, mut c2) = (a.attach("demo", "c1")?, a.attach("other", "c2")?);
        c1.dig("c2.other.overlay.internal A")?.is("NXDOMAIN")?;
        ensure!(c1.dig("c2 A")?.answers.is_empty());
        ensure!(c1.dig(&format!("-x {}", c2.ip()))?.answers.is_empty());
        // Whoever is on both sees both, the first one first.
        c2.attach_with("demo", &[])?;
        ensure!(c2.dig("c1.demo.overlay.internal A")?.ips() == [c1.ip()]);
        let told = c2.dig("c2 A")?.ips();
        ensure!(told == [c2.endpoint_on("other").ips[0].addr()], "{told:?}");
        a.ctl_json::<serde_json::Value>(&["detach", "c2", "--net", "demo"])?;
        c2.dig("c1.demo.overlay.internal A")?.is("NXDOMAIN")?;
        c2.dig("c2.other.overlay.internal A")?.is("NOERROR")?;
        Ok(())
    })
}

/// PEERS: a name takes 30 s before a new container resolves, or never does.
#[test]
fn a_name_is_there_when_attach_returns_and_on_other_hosts_as_soon_as_the_endpoint() -> Result<()> {
    Lab::run(|lab| {
        let ([a, b], [c1, c2]) = pair(lab)?;
        for n in 0..5 {
            let name = format!("new{n}");
            let new = b.attach("demo", &name)?;
            // At once where it is, and for itself.
            ensure!(new.dig(&format!("{name} A"))?.ips() == [new.ip()]);
            ensure!(c2.dig(&format!("{name} A"))?.ips() == [new.ip()]);
            eventually("its entry is on a", || {
                ensure!(a.fdb("ovx4097")?.knows(new.mac()));
                Ok(())
            })?;
            let told = c1.dig(&format!("{name} A"))?;
            ensure!(
                told.ips() == [new.ip()],
                "the entry is there and the name is not: {}",
                told.text
            );
            b.detach(&name)?;
            c2.dig(&format!("{name}.demo.overlay.internal A"))?.is("NXDOMAIN")?;
            eventually("a has forgotten it", || {
                c1.dig(&format!("{name}.demo.overlay.internal A"))?.is("NXDOMAIN").map(drop)
            })?;
        }
        Ok(())
    })
}

/// PEERS: a name resolves to a dead container.
#[test]
fn a_host_that_is_suspect_is_answered_last_and_one_that_is_down_is_not_and_back_at_once()
-> Result<()> {
    Lab::run(|lab| {
        let slow = DaemonOptions { down_after: Some("4s"), ..DaemonOptions::default() };
        let [a, b] = lab.hosts_with(["a", "b"], &slow)?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        let c1 = a.attach_with("demo", "c1", &["--alias", "web"])?;
        let c2 = b.attach_with("demo", "c2", &["--alias", "web"])?;
        eventually("both are answered", || {
            ensure!(c1.dig("web A")?.ips().len() == 2);
            Ok(())
        })?;
        b.freeze()?;
        a.sees("b", "suspect")?;
        for _ in 0..8 {
            let told = c1.dig("web A")?.ips();
            // It may be down by now.
            ensure!(told == [c1.ip(), c2.ip()] || told == [c1.ip()], "{told:?}");
        }
        a.sees("b", "down")?;
        let told = c1.dig("web A")?.ips();
        ensure!(told == [c1.ip()], "{told:?}");
        c1.dig("c2.demo.overlay.internal A")?.is("NXDOMAIN")?;
        ensure!(a.fdb("ovx4097")?.knows(c2.mac()), "its entries stay for the grace");
        let why = a.ctl(&["dns", "web"])?;
        ensure!(why.stdout.contains("left out: 1 endpoint on hosts that are down"), "{why:?}");
        b.thaw()?;
        a.sees("b", "up")?;
        eventually("it is answered again", || {
            let told: BTreeSet<IpAddr> = c1.dig("web A")?.ips().into_iter().collect();
            ensure!(told == ips(&[&c1, &c2]), "{told:?}");
            Ok(())
        })
    })
}

/// Both sides of a partition attach the same name: names are for finding, and both are found.
#[test]
fn two_endpoints_of_one_name_on_two_hosts_are_both_answered() -> Result<()> {
    Lab::run(|lab| {
        let ([a, b], [c1, c2]) = pair(lab)?;
        lab.cut(&a, &b)?;
        a.sees("b", "down")?;
        b.sees("a", "down")?;
        let twin = |host: &Host, netns: &str| -> Result<IpAddr> {
            let netns = host.container(netns)?.netns().to_owned();
            let args = ["attach", "--net", "demo", "--netns", &netns, "--name", "twin"];
            Ok(host.ctl_json::<v1::Endpoint>(&args)?.ips[0].addr())
        };
        let (here, there) = (twin(&a, "t1")?, twin(&b, "t2")?);
        ensure!(c1.dig("twin A")?.ips() == [here]);
        lab.heal()?;
        for container in [&c1, &c2] {
            eventually("both are answered", || {
                let told: BTreeSet<IpAddr> = container.dig("twin A")?.ips().into_iter().collect();
                ensure!(told == BTreeSet::from([here, there]), "{told:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_container_keeps_the_dnsmasq_that_it_has_at_port_53_and_asks_ours_beside_it() -> Result<()> {
    Lab::run(|lab| {
        let ([a, _], [c1, c2]) = pair(lab)?;
        let own = Dnsmasq::start(c1.netns(), &["--address=/own.example/198.51.100.7"])?;
        eventually("it answers", || {
            let told = dig(c1.netns(), &format!("@{} own.example A", c1.ip()))?;
            ensure!(told.data() == ["198.51.100.7"], "{}", told.text);
            Ok(())
        })?;
        ensure!(c1.dig("c2 A")?.ips() == [c2.ip()]);
        ensure!(c1.dig("c2 A +tcp")?.ips() == [c2.ip()]);
        // Attached while it runs.
        let c4 = a.container("c4")?;
        let second = Dnsmasq::start(c4.netns(), &["--address=/own.example/198.51.100.8"])?;
        let mut c4 = c4;
        c4.attach_with("demo", &[])?;
        ensure!(c4.dig("c2 A")?.ips() == [c2.ip()]);
        eventually("and its own, too", || {
            let told = dig(c4.netns(), "@127.0.0.1 own.example A")?;
            ensure!(told.data() == ["198.51.100.8"], "{}", told.text);
            Ok(())
        })?;
        drop((own, second));
        Ok(())
    })
}

#[test]
fn detached_nothing_of_a_door_is_left_and_no_dns_leaves_the_container_alone() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let mut c1 = a.container("c1")?;
        let rules = |c: &Container| c.exec("nft list ruleset");
        c1.attach_with("demo", &[])?;
        ensure!(rules(&c1)?.contains("table ip overlayd"));
        c1.dig("c1 A")?.is("NOERROR")?;
        a.detach("c1")?;
        eventually("its rules are gone", || {
            ensure!(rules(&c1)?.is_empty(), "{}", rules(&c1)?);
            Ok(())
        })?;
        ensure!(c1.exec("ss -Hlnu")?.is_empty() && c1.exec("ss -Hlnt")?.is_empty());
        // And again, at once.
        for _ in 0..3 {
            c1.attach_with("demo", &[])?;
            c1.dig("c1 A")?.is("NOERROR")?;
            a.detach("c1")?;
        }
        let mut c2 = a.container("c2")?;
        c2.attach_with("demo", &["--no-dns"])?;
        ensure!(rules(&c2)?.is_empty());
        ensure!(c2.endpoint().resolv_conf.is_none());
        ensure!(c2.exec("ss -Hlnu")?.is_empty());
        a.kill()?;
        a.start()?;
        ensure!(rules(&c2)?.is_empty(), "after a restart neither");
        // It is answered to others, and asks at the gateway if it likes.
        let told = dig(c2.netns(), "@10.9.0.1 c2.demo.overlay.internal A")?;
        ensure!(told.ips() == [c2.ip()], "{}", told.text);
        Ok(())
    })
}

#[test]
fn after_a_restart_of_any_kind_names_are_answered_again() -> Result<()> {
    Lab::run(|lab| {
        let ([a, _], [c1, c2]) = pair(lab)?;
        for kill in [true, false] {
            if kill {
                a.kill()?
            } else {
                a.stop()?
            }
            ensure!(c1.dig("c2 A").is_err(), "nobody is there to answer");
            a.start()?;
            is_answered(&c1, "c2", &c2)?;
            is_answered(&c1, "c1", &c1)?;
            ensure!(c1.dig("c2 A +tcp")?.ips() == [c2.ip()]);
            let told = dig(c1.netns(), "@10.9.0.1 c2 A")?;
            ensure!(told.ips() == [c2.ip()], "{}", told.text);
            let doors: v1::Dns = a.ctl_json(&["dns"])?;
            ensure!(doors.doors.iter().all(|door| door.open), "{doors:?}");
        }
        Ok(())
    })
}

#[test]
fn a_namespace_that_is_gone_is_let_go_of() -> Result<()> {
    Lab::run(|lab| {
        let ([a, _], [c1, c2]) = pair(lab)?;
        let c3 = a.attach("demo", "c3")?;
        a.remove_container(&c3)?;
        eventually("it is told as gone", || {
            let all = a.endpoints()?;
            let c3 = all.into_iter().find(|e| e.name.as_deref() == Some("c3")).context("c3")?;
            ensure!(c3.state == "gone", "{c3:?}");
            Ok(())
        })?;
        eventually("it has no name any more", || {
            c1.dig("c3.demo.overlay.internal A")?.is("NXDOMAIN").map(drop)
        })?;
        is_answered(&c1, "c2", &c2)
    })
}

#[test]
fn virtual_machines_ask_at_the_gateway_in_both_families() -> Result<()> {
    Lab::run(|lab| {
        let ([_, b], [c1, c2]) = pair(lab)?;
        for at in ["10.9.0.1", "fd00:9::1"] {
            eventually("the gateway answers", || {
                let told = dig(c1.netns(), &format!("@{at} c2 A"))?;
                ensure!(told.is("NOERROR")?.ips() == [c2.ip()], "{}", told.text);
                let told = dig(c1.netns(), &format!("@{at} c2 A +tcp"))?;
                ensure!(told.ips() == [c2.ip()], "{}", told.text);
                Ok(())
            })?;
        }
        // The host itself is answered, and sends nothing on through itself.
        let told = dig(b.netns(), "@10.9.0.1 c1.demo.overlay.internal A")?;
        ensure!(told.ips() == [c1.ip()], "{}", told.text);
        dig(b.netns(), "@10.9.0.1 example.com A")?.is("REFUSED")?;
        let vm: v1::Endpoint = add_static(&b, "demo", 77, &["--name", "vm"])?;
        let conf = vm.resolv_conf.context("it has none")?;
        ensure!(conf.starts_with("nameserver 10.9.0.1\nsearch demo.overlay.internal"), "{conf}");
        is_answered_vm(&c1, "vm", vm.ips[0].addr())
    })
}

fn is_answered_vm(asker: &Container, name: &str, ip: IpAddr) -> Result<()> {
    eventually("it is answered", || {
        let told = asker.dig(&format!("{name} A"))?;
        ensure!(told.ips() == [ip], "{}", told.text);
        Ok(())
    })
}

#[test]
fn somebody_beyond_the_host_is_not_answered_at_the_gateway() -> Result<()> {
    Lab::run(|lab| {
        let ([a, b], [_, c2]) = pair(lab)?;
        // b reaches the gateway of a, which is its own as well: so it goes by another address.
        b.stop()?;
        b.exec("ip route add 10.9.0.1/32 via 192.0.2.1 dev eth0 table 7")?;
        b.exec("ip rule add pref 1 to 10.9.0.1 lookup 7")?;
        b.exec("ip rule add pref 2 lookup local")?;
        b.exec("ip rule del pref 0 lookup local")?;
        let told = dig(b.netns(), "@10.9.0.1 c2.demo.overlay.internal A -b 192.0.2.2");
        if let Ok(told) = told {
            ensure!(told.answers.is_empty() && told.status == "REFUSED", "{}", told.text);
        }
        let told = dig(c2.netns(), "@10.9.0.1 c1.demo.overlay.internal A");
        ensure!(told.is_err(), "b does not answer");
        ensure!(a.counter("dns_refused")? >= 1, "it was asked");
        Ok(())
    })
}

#[test]
fn a_listener_at_all_addresses_of_the_host_is_named_and_nothing_else_suffers() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let theirs = Dnsmasq::start(a.netns(), &["--address=/own.example/198.51.100.7"])?;
        eventually("it answers", || {
            let told = dig(a.netns(), "@192.0.2.1 own.example A")?;
            ensure!(told.data() == ["198.51.100.7"], "{}", told.text);
            Ok(())
        })?;
        a.start_with(&DaemonOptions::default())?;
        a.net_create("demo", DEMO)?;
        let c1 = a.attach("demo", "c1")?;
        c1.dig("c1 A")?.is("NOERROR")?;
        eventually("status names it", || {
            let status = a.ctl(&["status"])?;
            let told = status.stdout.contains("at the gateway 10.9.0.1")
                && status.stdout.contains("dnsmasq (process");
            ensure!(told, "{status:?}");
            Ok(())
        })?;
        let told = dig(a.netns(), "@192.0.2.1 own.example A")?;
        ensure!(told.data() == ["198.51.100.7"], "it is not disturbed: {}", told.text);
        drop(theirs);
        eventually("when it has gone the gateway answers", || {
            let told = dig(c1.netns(), "@10.9.0.1 c1 A +tcp")?;
            ensure!(told.ips() == [c1.ip()], "{}", told.text);
            let status = a.ctl(&["status"])?;
            ensure!(!status.stdout.contains("at the gateway"), "{status:?}");
            Ok(())
        })
    })
}

#[test]
fn with_dns_off_nothing_listens_and_nothing_is_written() -> Result<()> {
    Lab::run(|lab| {
        let off = DaemonOptions { extra: vec!["--dns".into(), "off".into()], ..Default::default() };
        let [a] = lab.hosts_with(["a"], &off)?;
        a.net_create("demo", DEMO)?;
        let c1 = a.attach("demo", "c1")?;
        ensure!(c1.endpoint().resolv_conf.is_none());
        ensure!(c1.exec("nft list ruleset")?.is_empty());
        holds_for(Duration::from_secs(1), "nobody listens", || {
            ensure!(!a.exec("ss -Hlnu")?.contains(":53 "));
            ensure!(c1.exec("ss -Hlnu")?.is_empty());
            Ok(())
        })?;
        let told = a.ctl(&["dns"])?;
        ensure!(told.stdout.starts_with("no names are answered"), "{told:?}");
        Ok(())
    })
}

#[test]
fn overlayctl_dns_says_what_is_answered_and_why() -> Result<()> {
    Lab::run(|lab| {
        let ([a, _], [c1, c2]) = pair(lab)?;
        let shown = a.ctl(&["dns"])?.stdout;
        ensure!(shown.contains("10.9.0.1") && shown.contains(&c1.netns_path()), "{shown}");
        let looked: v1::Looked = a.ctl_json(&["dns", "web"])?;
        let answer = &looked.answers[0];
        ensure!(answer.code == "NOERROR" && answer.answers.len() == 4, "{answer:?}");
        ensure!(
            answer.holders.len() == 2 && answer.holders.iter().all(|h| h.by_alias),
            "{answer:?}"
        );
        let back: v1::Looked = a.ctl_json(&["dns", &c2.ip().to_string(), "--net", "demo"])?;
        ensure!(back.answers[0].answers == ["c2.demo.overlay.internal"], "{back:?}");
        let other = a.ctl(&["dns", "example.com"])?.stdout;
        ensure!(other.contains("not ours: the host's resolvers are asked"), "{other}");
        let wrong = a.ctl(&["dns", "web", "--net", "nowhere"])?;
        ensure!(
            wrong.code == 1 && wrong.stderr.contains("does not use a network nowhere"),
            "{wrong:?}"
        );
        let file = write_file(&a, "file", "")?;
        let odd = file.join("resolv.conf").display().to_string();
        let c9 = a.container("c9")?;
        let odd = a.ctl(&[
            "attach",
            "--net",
            "demo",
            "--netns",
            c9.netns(),
            "--write-resolv-conf",
            &odd,
        ])?;
        ensure!(odd.code == 1 && odd.stderr.contains("it is attached, but"), "{odd:?}");
        Ok(())
    })
}

#[test]
fn teardown_takes_the_rules_of_doors_along() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let c1 = a.attach("demo", "c1")?;
        a.stop()?;
        ensure!(c1.exec("nft list ruleset")?.contains("overlayd"));
        let done = a.overlayd(&["teardown"])?;
        ensure!(done.code == 0, "{done:?}");
        ensure!(c1.exec("nft list ruleset")?.is_empty(), "{done:?}");
        Ok(())
    })
}
