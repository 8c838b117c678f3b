//! Names that are not ours: who is asked, who is not, and what it may cost.
//!
//! ```text
//!   c1 ── host a ──── underlay ──── (nobody)
//!           └ dnsmasq at 127.0.0.53, .54: the host's resolvers, as --resolv-conf says
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use overlay_tests::host::write_file;
use overlay_tests::shell::{feed_in, script_in};
use overlay_tests::{
    Container, DaemonOptions, Dnsmasq, Host, Lab, NetSpec, dig, eventually, patience,
};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };
const INNER: NetSpec<'_> =
    NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], mtu: 0, extra: &["--internal"] };

/// A host whose resolvers are those that the text of its `resolv.conf` names.
fn host(lab: &Lab, conf: &str) -> Result<(Host, PathBuf)> {
    let a = lab.host("a")?;
    a.exec("ip link set lo up")?;
    let path = write_file(&a, "resolv.conf", conf)?;
    let extra = vec!["--resolv-conf".into(), path.display().to_string()];
    a.start_with(&DaemonOptions { extra, ..DaemonOptions::default() })?;
    a.net_create("demo", DEMO)?;
    Ok((a, path))
}

fn upstream(host: &Host, at: &str, says: &str) -> Result<Dnsmasq> {
    let (listen, address) =
        (format!("--listen-address={at}"), format!("--address=/example.com/{says}"));
    let dnsmasq = Dnsmasq::start(host.netns(), &["--bind-interfaces", &listen, &address])?;
    eventually(&format!("the resolver at {at} answers"), || {
        let told = dig(host.netns(), &format!("@{at} example.com A"))?;
        ensure!(told.data() == [says], "{}", told.text);
        Ok(())
    })?;
    Ok(dnsmasq)
}

fn is_told(asker: &Container, says: &str) -> Result<()> {
    eventually(&format!("it is told {says}"), || {
        let told = asker.dig("www.example.com A")?;
        ensure!(told.data() == [says], "{}", told.text);
        Ok(())
    })
}

/// systemd-resolved listens at 127.0.0.53, which is another place in a container.
#[test]
fn other_names_are_asked_of_the_hosts_resolvers_even_at_its_own_loopback() -> Result<()> {
    Lab::run(|lab| {
        let (a, _) = host(lab, "nameserver 127.0.0.53\nsearch corp.example\noptions edns0\n")?;
        let _stub = upstream(&a, "127.0.0.53", "198.51.100.1")?;
        let c1 = a.attach("demo", "c1")?;
        let told = c1.dig("wWw.exAMPle.com A")?;
        ensure!(told.data() == ["198.51.100.1"], "{}", told.text);
        ensure!(told.answers[0].name == "wWw.exAMPle.com.", "{}", told.text);
        let told = c1.dig("www.example.com A +tcp")?;
        ensure!(told.data() == ["198.51.100.1"], "{}", told.text);
        let told = dig(c1.netns(), "@10.9.0.1 www.example.com A")?;
        ensure!(told.data() == ["198.51.100.1"], "{}", told.text);
        // Ours are not asked of anybody.
        c1.dig("nobody.demo.overlay.internal A")?.is("NXDOMAIN")?;
        ensure!(a.counter("dns_forwarded")? == 3, "{:?}", a.status()?.counters);
        let conf = c1.endpoint().resolv_conf.clone().unwrap_or_default();
        ensure!(conf.contains("search demo.overlay.internal corp.example\n"), "{conf}");
        Ok(())
    })
}

#[test]
fn resolvers_that_change_while_it_runs_are_followed() -> Result<()> {
    Lab::run(|lab| {
        let (a, path) = host(lab, "nameserver 127.0.0.53\n")?;
        let _one = upstream(&a, "127.0.0.53", "198.51.100.1")?;
        let _other = upstream(&a, "127.0.0.54", "198.51.100.2")?;
        let c1 = a.attach("demo", "c1")?;
        is_told(&c1, "198.51.100.1")?;
        std::fs::write(&path, "nameserver 127.0.0.54\n")?;
        is_told(&c1, "198.51.100.2")?;
        // As most programs do it: another file in its place.
        let new = path.with_extension("new");
        std::fs::write(&new, "nameserver 127.0.0.53\n")?;
        std::fs::rename(&new, &path)?;
        is_told(&c1, "198.51.100.1")?;
        std::fs::remove_file(&path)?;
        eventually("without a file nobody is there", || {
            c1.dig("www.example.com A")?.is("SERVFAIL").map(drop)
        })?;
        std::fs::write(&path, "nameserver 127.0.0.54\n")?;
        is_told(&c1, "198.51.100.2")
    })
}

#[test]
fn internal_networks_ask_nobody() -> Result<()> {
    Lab::run(|lab| {
        let (a, _) = host(lab, "nameserver 127.0.0.53\nsearch corp.example\n")?;
        let _up = upstream(&a, "127.0.0.53", "198.51.100.1")?;
        a.net_create("inner", INNER)?;
        let mut c2 = a.attach("inner", "c2")?;
        ensure!(c2.dig("c2 A")?.ips() == [c2.ip()]);
        c2.dig("www.example.com A")?.is("REFUSED")?;
        c2.dig("www.example.com A +tcp")?.is("REFUSED")?;
        c2.dig("-x 198.51.100.1")?.is("REFUSED")?;
        c2.dig("nobody A")?.is("NXDOMAIN")?;
        ensure!(a.counter("dns_forwarded")? == 0, "{:?}", a.status()?.counters);
        let conf = c2.endpoint().resolv_conf.clone().unwrap_or_default();
        ensure!(conf.contains("search inner.overlay.internal\n"), "{conf}");
        // On another network as well, it may.
        c2.attach_with("demo", &[])?;
        is_told(&c2, "198.51.100.1")
    })
}

/// PEERS: 5 s DNS delays. A resolver that is dead costs the first who asks a second and a half,
/// and then nobody.
#[test]
fn a_dead_resolver_is_passed_over_and_not_asked_first_again() -> Result<()> {
    Lab::run(|lab| {
        let (a, _) = host(lab, "nameserver 192.0.2.99\nnameserver 127.0.0.53\n")?;
        let _up = upstream(&a, "127.0.0.53", "198.51.100.1")?;
        let c1 = a.attach("demo", "c1")?;
        is_told(&c1, "198.51.100.1")?;
        for _ in 0..10 {
            let start = Instant::now();
            let told = c1.dig("www.example.com A")?;
            ensure!(told.data() == ["198.51.100.1"], "{}", told.text);
            ensure!(start.elapsed() < patience(Duration::from_secs(1)), "{:?}", start.elapsed());
        }
        Ok(())
    })
}

#[test]
fn with_no_resolver_that_answers_it_fails_in_bounded_time_and_is_counted() -> Result<()> {
    Lab::run(|lab| {
        // The underlay's end answers no DNS, and drops nothing: an address that is not there.
        let (a, _) = host(lab, "nameserver 192.0.2.99\n")?;
        let c1 = a.attach("demo", "c1")?;
        let start = Instant::now();
        let told = dig(c1.netns(), "@127.0.0.11 www.example.com A +timeout=9")?;
        told.is("SERVFAIL")?;
        ensure!(start.elapsed() < patience(Duration::from_secs(6)), "{:?}", start.elapsed());
        // Ours do not wait for it.
        let many: String = (0..3000).map(|n| format!("n{n}.example.com A\n")).collect();
        let script = format!(
            "dig @127.0.0.11 -f {} +tries=1 +timeout=1 >/dev/null 2>&1 & \
             for i in 1 2 3 4 5 6 7 8; do \
             dig @127.0.0.11 c1 A +tries=1 +timeout=3 | grep -q NOERROR || exit 1; done; \
             kill %1 2>/dev/null || true",
            write_file(&a, "many", &many)?.display()
        );
        script_in(c1.netns(), &script)?;
        let counters = a.status()?.counters;
        ensure!(counters["dns_timeouts"] + counters["dns_servfail"] >= 1, "{counters:?}");
        Ok(())
    })
}

/// One container that asks without end for what nobody answers is refused the rest; others go on.
#[test]
fn so_many_questions_as_may_wait_wait_and_the_rest_is_refused_and_counted() -> Result<()> {
    Lab::run(|lab| {
        let (a, _) = host(lab, "nameserver 127.0.0.53\nnameserver 127.0.0.53\n")?;
        // Somebody who takes questions and says nothing.
        let silent = overlay_tests::shell::occupy_udp(a.netns(), "127.0.0.53:53".parse()?)?;
        let (c1, c2) = (a.attach("demo", "c1")?, a.attach("demo", "c2")?);
        let flood = "import socket, struct\n\
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)\n\
            for n in range(600):\n\
            \x20 q = struct.pack('>HHHHHH', n, 256, 1, 0, 0, 0) + b'\\x03www\\x07example\\x03com\\0' + b'\\0\\1\\0\\1'\n\
            \x20 s.sendto(q, ('127.0.0.11', 53))\n\
            s.settimeout(9)\n\
            codes = [s.recv(512)[3] & 15 for n in range(600)]\n\
            print(codes.count(5), codes.count(2))\n";
        let told = feed_in(c1.netns(), "python3 -", flood)?;
        let counts: Vec<usize> = told.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        ensure!(counts.len() == 2 && counts[0] >= 300 && counts[1] >= 1, "refused, failed: {told}");
        ensure!(counts[1] <= 300, "more were under way than may be: {told}");
        ensure!(a.counter("dns_overloaded")? >= 300, "{:?}", a.status()?.counters);
        drop(silent);
        let _up = upstream(&a, "127.0.0.53", "198.51.100.1")?;
        is_told(&c2, "198.51.100.1")?;
        is_told(&c1, "198.51.100.1")
    })
}

/// A host whose resolv.conf names our own gateway would ask itself for ever.
#[test]
fn ourselves_we_do_not_ask() -> Result<()> {
    Lab::run(|lab| {
        let (a, path) = host(lab, "nameserver 10.9.0.1\n")?;
        let c1 = a.attach("demo", "c1")?;
        c1.dig("www.example.com A")?.is("SERVFAIL")?;
        // By way of another resolver of the host neither.
        let _loop = Dnsmasq::start(
            a.netns(),
            &["--bind-interfaces", "--listen-address=127.0.0.53", "--server=10.9.0.1"],
        )?;
        std::fs::write(&path, "nameserver 127.0.0.53\n")?;
        eventually("it is refused by that", || {
            let told = c1.dig("www.example.com A")?;
            ensure!(["REFUSED", "SERVFAIL"].contains(&told.status.as_str()), "{}", told.text);
            ensure!(a.counter("dns_forwarded")? >= 2);
            Ok(())
        })?;
        let before = a.counter("dns_queries")?;
        let told = c1.dig("www.example.org A")?;
        ensure!(told.answers.is_empty(), "{}", told.text);
        let asked = a.counter("dns_queries")? - before;
        ensure!(asked < 10, "it went round: {asked}");
        Ok(())
    })
}
