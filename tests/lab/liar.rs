//! A container that lies gets nowhere: frames from another's MAC or address,
//! by ARP, ND, IPv4 and IPv6, arrive with nobody, move no cache and are counted
//! by kind; so are VXLAN and gossip from a container, and VXLAN from somebody on
//! the underlay who is no member. Who is honest loses nothing meanwhile.
//!
//! ```text
//!   host a 192.0.2.1 ─────────── underlay ─────────── host b 192.0.2.2
//!     liar, victim, near             │                  far
//!     └── demo, VNI 4097 ────────────┼───────────────────┘
//!                           stranger 192.0.2.66
//! ```
//!
//! The frames are made by `liar.py`. Every one of them bears a word that is
//! looked for in what `near` and `far` receive; an honest frame that is sent
//! last and arrives shows that they were not just late.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use overlay_tests::shell::{command_in, feed_in, run, signal};
use overlay_tests::{Container, Host, Lab, NetSpec, eventually};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

const LIAR: &str = include_str!("liar.py");
const LIE: &[u8] = b"LIARLIAR";
const HONEST: &[u8] = b"HONEST";

/// Everything that a port counts.
const KINDS: [&str; 6] = ["mac", "arp", "ipv4", "ipv6", "nd", "ethertype"];

struct Scene {
    a: Host,
    b: Host,
    liar: Container,
    victim: Container,
    near: Container,
    far: Container,
}

fn scene(lab: &Lab) -> Result<Scene> {
    let [a, b] = lab.hosts(["a", "b"])?;
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let attach = |host: &Host, name: &str| host.attach("demo", name);
    let (liar, victim, near) = (attach(&a, "liar")?, attach(&a, "victim")?, attach(&a, "near")?);
    let far = attach(&b, "far")?;
    for to in [&victim, &near, &far, &liar] {
        for from in [&near, &far, &liar] {
            if from.name() != to.name() {
                from.ping(to.ip())?;
                from.ping(to.ip6())?;
            }
        }
    }
    a.at_rest()?;
    b.at_rest()?;
    Ok(Scene { a, b, liar, victim, near, far })
}

fn station(of: &Container) -> String {
    format!("{},{},{}", of.mac(), of.ip(), of.ip6())
}

impl Scene {
    /// Sends frames of `kind` as the liar, to `near` and `far`; how many.
    fn lie(&self, kind: &str) -> Result<u64> {
        let [liar, victim, near, far] =
            [&self.liar, &self.victim, &self.near, &self.far].map(station);
        let line = format!("python3 - {kind} {liar} {victim} {near} {far}");
        Ok(feed_in(self.liar.netns(), &line, LIAR)?.trim().parse()?)
    }

    /// What is counted of the liar's port.
    fn counted(&self) -> Result<BTreeMap<String, u64>> {
        let port = self.liar.endpoint().host_ifname.clone();
        let dropped = self.a.status()?.dropped;
        let ours = dropped.into_iter().filter(|d| d.port == port);
        Ok(ours.map(|d| (d.kind, d.packets)).collect())
    }

    /// Which MAC each station has for each address, and each bridge's entries.
    fn beliefs(&self) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for who in [&self.victim, &self.near, &self.far] {
            for entry in who.exec("ip neigh show dev eth0")?.lines() {
                let words: Vec<&str> = entry.split_whitespace().collect();
                if let [ip, "lladdr", mac, ..] = words.as_slice() {
                    all.insert(format!("{}: {ip} is at {mac}", who.name()));
                }
            }
        }
        for host in [&self.a, &self.b] {
            for dev in ["ovb4097", "ovx4097"] {
                let rows = host.exec(&format!("bridge fdb show dev {dev}"))?;
                all.extend(rows.lines().map(|row| format!("{} {dev}: {row}", host.name())));
            }
            let ports = host.exec("bridge fdb show br ovb4097")?;
            let ports = ports.lines().filter(|row| row.contains("dev ove"));
            all.extend(ports.map(|row| format!("{}: {row}", host.name())));
        }
        Ok(all)
    }
}

/// What a container receives, until an honest frame arrives.
struct Ear {
    child: Child,
    file: PathBuf,
}

impl Ear {
    fn at(lab: &Lab, netns: &str, what: &str) -> Result<Self> {
        let file = lab.dir().join(format!("{what}.pcap"));
        let log = file.with_extension("log");
        let child = command_in(netns, "tcpdump")
            .args(["-i", "eth0", "-Q", "in", "-n", "-U", "--immediate-mode", "-Z", "root", "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start tcpdump")?;
        let ear = Self { child, file };
        eventually("tcpdump listens", || {
            let said = std::fs::read_to_string(&log)?;
            ensure!(said.contains("listening on"), "it says: {said}");
            Ok(())
        })?;
        Ok(ear)
    }

    fn heard(&self, word: &[u8]) -> Result<bool> {
        Ok(std::fs::read(&self.file)?.windows(word.len()).any(|bytes| bytes == word))
    }

    /// After an honest frame was sent last: it arrived, and no lie did.
    fn heard_no_lie(&self) -> Result<()> {
        eventually("the honest frame arrives", || {
            ensure!(self.heard(HONEST)?, "not in {}", self.file.display());
            Ok(())
        })?;
        ensure!(!self.heard(LIE)?, "a lie arrived: {}", self.file.display());
        Ok(())
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = signal(&self.child, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn count_of(counted: &BTreeMap<String, u64>, kind: &str) -> u64 {
    counted.get(kind).copied().unwrap_or_default()
}

#[test]
fn every_lie_is_dropped_and_counted_by_kind_and_who_is_honest_loses_nothing() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab)?;
        // What is true may be learned, and is so before.
        scene.lie("honest")?;
        let before = scene.beliefs()?;
        let honest = [
            scene.liar.ping_stream(scene.far.ip())?,
            scene.victim.ping_stream(scene.far.ip6())?,
            scene.far.ping_stream(scene.near.ip())?,
        ];
        let ears =
            [Ear::at(lab, scene.near.netns(), "near")?, Ear::at(lab, scene.far.netns(), "far")?];
        ensure!(scene.counted()?.is_empty(), "before any lie: {:?}", scene.counted()?);
        let mut sent = BTreeMap::new();
        for kind in KINDS {
            sent.insert(kind.to_owned(), scene.lie(kind)?);
        }
        // A bridge keeps these to itself, and must learn nothing from them.
        scene.lie("reserved")?;
        ensure!(scene.counted()? == sent, "sent {sent:?}, counted {:?}", scene.counted()?);
        ensure!(scene.lie("honest")? > 0);
        ears.iter().try_for_each(Ear::heard_no_lie)?;
        ensure!(scene.counted()? == sent, "honest frames counted: {:?}", scene.counted()?);
        let after = scene.beliefs()?;
        let moved: Vec<_> = before.symmetric_difference(&after).collect();
        ensure!(moved.is_empty(), "what was believed has changed: {moved:?}");
        for stream in honest {
            stream.stop()?.expect_lossless("who is honest loses nothing")?;
        }
        let said = scene.a.ctl(&["status"])?.stdout;
        ensure!(said.contains("dropped frames"), "{said}");
        Ok(())
    })
}

#[test]
fn lies_are_dropped_while_no_daemon_runs_and_a_restart_opens_cuts_and_writes_nothing() -> Result<()>
{
    Lab::run(|lab| {
        let scene = scene(lab)?;
        let tables = || -> Result<String> {
            // With handles: what is written anew gets others.
            Ok(scene.a.exec("nft -s -a list ruleset")? + &scene.b.exec("nft -s -a list ruleset")?)
        };
        let before = tables()?;
        let stream = scene.far.ping_stream(scene.liar.ip())?;
        let ear = Ear::at(lab, scene.far.netns(), "far")?;
        scene.a.kill()?;
        scene.lie("arp")?;
        scene.a.start()?;
        scene.lie("nd")?;
        scene.a.knows_all()?;
        scene.a.at_rest()?;
        scene.lie("ipv4")?;
        scene.b.kill()?;
        scene.b.start()?;
        scene.b.knows_all()?;
        scene.b.at_rest()?;
        scene.lie("honest")?;
        ear.heard_no_lie()?;
        stream.stop()?.expect_lossless("a restart cuts nothing")?;
        let after = tables()?;
        ensure!(before == after, "rewritten:\n{before}\nis now\n{after}");
        let counted = scene.counted()?;
        for kind in ["arp", "nd", "ipv4"] {
            ensure!(count_of(&counted, kind) > 0, "{counted:?}");
        }
        Ok(())
    })
}

#[test]
fn what_another_hand_does_to_the_rules_is_undone_and_what_was_counted_stays() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab)?;
        let sent = scene.lie("arp")?;
        // Its words, sorted: a table that is made anew is listed last, and the
        // elements of a set come in any order.
        let listed = || -> Result<Vec<String>> {
            let all = scene.a.exec("nft -s list ruleset")?;
            let words = all.split(|c: char| c.is_whitespace() || c == ',');
            let mut words: Vec<String> = words.map(str::to_owned).collect();
            words.sort();
            words.dedup();
            Ok(words)
        };
        let before = listed()?;
        let undone = |hand: &str| -> Result<()> {
            scene.a.exec(hand)?;
            eventually(&format!("`{hand}` is undone"), || {
                let now = listed()?;
                ensure!(now == before, "{now:?}");
                Ok(())
            })?;
            scene.a.at_rest()
        };
        let stream = scene.far.ping_stream(scene.liar.ip())?;
        for hand in [
            "nft insert rule bridge overlayd prerouting accept",
            "nft flush chain bridge overlayd port",
            "nft flush set bridge overlayd own_mac",
            "nft flush set inet overlayd vteps4",
            "nft add rule inet overlayd input accept",
            "nft flush chain inet overlayd vxlan",
        ] {
            undone(hand)?;
            let counted = scene.counted()?;
            ensure!(count_of(&counted, "arp") == sent, "after `{hand}`: {counted:?}");
        }
        // `flush set own_mac` and `vteps4` cut until they are undone.
        let lost = stream.stop()?;
        ensure!(lost.longest_gap < 50, "{lost:?}");
        for hand in ["nft delete table bridge overlayd", "nft flush ruleset"] {
            undone(hand)?;
        }
        let again = scene.lie("arp")?;
        ensure!(count_of(&scene.counted()?, "arp") == again, "{:?}", scene.counted()?);
        scene.liar.ping(scene.far.ip())?;
        scene.a.stop()?;
        ensure!(scene.a.overlayd(&["teardown"])?.code == 0, "teardown failed");
        ensure!(scene.a.exec("nft list ruleset")?.is_empty(), "teardown left rules");
        Ok(())
    })
}

/// Sends `n` UDP datagrams that bear VXLAN of this VNI around an Ethernet frame
/// to everybody, with the word of a lie.
fn vxlan_to(netns: &str, ip: &str, vni: u32, n: usize) -> Result<()> {
    let script = format!(
        "import socket
s = socket.socket(socket.AF_INET6 if ':' in '{ip}' else socket.AF_INET, socket.SOCK_DGRAM)
inner = b'\\xff' * 6 + bytes.fromhex('020000000066') + b'\\x08\\x06' + b'LIARLIAR' * 8
for i in range({n}):
    try:
        s.sendto(bytes([8, 0, 0, 0]) + ({vni}).to_bytes(3, 'big') + b'\\x00' + inner, ('{ip}', 4789))
    except OSError as err:
        print(err)
"
    );
    feed_in(netns, "python3 -", &script).map(drop)
}

/// Tries gossip by UDP and TCP; says whether TCP was answered in any way.
fn gossip_to(netns: &str, ip: &str) -> Result<String> {
    let script = format!(
        "import socket
family = socket.AF_INET6 if ':' in '{ip}' else socket.AF_INET
for i in range(3):
    try:
        socket.socket(family, socket.SOCK_DGRAM).sendto(b'LIARLIAR' * 9, ('{ip}', 7946))
    except OSError as err:
        print('udp:', err)
t = socket.socket(family, socket.SOCK_STREAM)
t.settimeout(0.4)
try:
    t.connect(('{ip}', 7946))
    print('connected')
except socket.timeout:
    print('silence')
except OSError as err:
    print('tcp:', err)
"
    );
    Ok(feed_in(netns, "python3 -", &script)?.trim().to_owned())
}

fn of_host(host: &Host, kind: &str) -> Result<u64> {
    let dropped = host.status()?.dropped;
    let ours = dropped.iter().filter(|d| d.port.is_none() && d.kind == kind);
    Ok(ours.map(|d| d.packets).sum())
}

#[test]
fn no_container_reaches_vxlan_or_gossip_of_any_host() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab)?;
        let (a, b) = (&scene.a, &scene.b);
        // Host a routes what its containers send, as one that gives them a way out.
        a.exec("sysctl -q -w net.ipv4.ip_forward=1")?;
        let net = "10.9.0.0/24";
        b.exec(&format!("ip route add 10.99.0.0/24 via {}", a.address()))?;
        let underlay = lab.capture()?;
        let ear = Ear::at(lab, scene.far.netns(), "far")?;
        let own = a.address().to_string();
        let other = b.address().to_string();
        for (nth, ip) in ["10.9.0.1", own.as_str(), other.as_str(), "fd00:9::1"].iter().enumerate()
        {
            vxlan_to(scene.liar.netns(), ip, 4097, 4)?;
            let want = 4 * (nth as u64 + 1);
            ensure!(
                of_host(a, "vxlan-from-containers")? == want,
                "{ip}: {:?}",
                a.status()?.dropped
            );
            let before = of_host(a, "gossip-from-containers")?;
            let said = gossip_to(scene.liar.netns(), ip)?;
            ensure!(said == "silence", "gossip of {ip}: {said}");
            let counted = of_host(a, "gossip-from-containers")? - before;
            ensure!(counted >= 4, "{ip}: {counted} of 3 datagrams and a SYN or more");
        }
        // What is no business of ours goes the same way: to another port.
        let script = format!(
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'HONEST', ('{other}', 4790))"
        );
        feed_in(scene.liar.netns(), "python3 -", &script)?;
        let underlay = underlay.finish()?;
        underlay.expect_none("VXLAN and gossip of containers", &format!(
            "ip.src == {net} && !vxlan && (udp.dstport == 4789 || udp.dstport == 7946 || tcp.dstport == 7946)"
        ))?;
        underlay.expect_some(
            "other packets are routed",
            // Under the address of the host.
            &format!("ip.src == {} && udp.dstport == 4790", a.address()),
        )?;
        scene.lie("honest")?;
        ear.heard_no_lie()
    })
}

/// Somebody on the underlay who is no member.
fn stranger(lab: &Lab) -> Result<String> {
    let netns = lab.netns("stranger")?;
    let ul = lab.underlay_netns();
    run(&format!("ip -n {ul} link add stranger type veth peer name eth0 netns {netns}"))?;
    run(&format!("ip -n {ul} link set stranger master br0 up"))?;
    run(&format!("ip -n {netns} addr add 192.0.2.66/24 dev eth0"))?;
    run(&format!("ip -n {netns} addr add 2001:db8::66/64 dev eth0 nodad"))?;
    run(&format!("ip -n {netns} link set eth0 up"))?;
    Ok(netns)
}

#[test]
fn vxlan_of_a_stranger_stays_outside_and_that_of_other_networks_goes_on() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab)?;
        let b = &scene.b;
        let netns = stranger(lab)?;
        // Another's VXLAN on the same port: flannel's, or Docker's.
        b.exec(
            "ip link add vx-x type vxlan id 9999 dstport 4789 local 192.0.2.2 remote 192.0.2.66",
        )?;
        run(&format!(
            "ip -n {netns} link add vx-x type vxlan id 9999 dstport 4789 local 192.0.2.66 remote 192.0.2.2"
        ))?;
        b.exec("ip addr add 10.77.0.2/24 dev vx-x")?;
        b.exec("ip link set vx-x up")?;
        run(&format!("ip -n {netns} addr add 10.77.0.66/24 dev vx-x"))?;
        run(&format!("ip -n {netns} link set vx-x up"))?;
        let foreign = lab.dir().join("foreign.txt");
        let foreign =
            overlay_tests::ping::PingStream::start(&netns, "10.77.0.2".parse()?, foreign)?;
        let honest = scene.near.ping_stream(scene.far.ip())?;

        let ear = Ear::at(lab, scene.far.netns(), "far")?;
        let mut sent = 0;
        for to in [b.vtep().to_string(), "2001:db8::2".to_owned()] {
            vxlan_to(&netns, &to, 4097, 5)?;
            sent += 5;
            let counted = of_host(b, "vxlan-from-strangers")?;
            ensure!(counted == sent, "{to}: sent {sent}, counted {counted}");
        }
        // Of a VNI of nobody: not ours to judge.
        vxlan_to(&netns, &b.vtep().to_string(), 4242, 5)?;
        ensure!(of_host(b, "vxlan-from-strangers")? == sent, "another VNI was counted");
        scene.lie("honest")?;
        ear.heard_no_lie()?;
        drop(ear);

        // A host that joins is let in with its entries, one that leaves is not.
        let c = lab.host("c")?;
        c.start_with(&overlay_tests::DaemonOptions {
            join: vec![format!("{}:7946", b.address())],
            ..Default::default()
        })?;
        c.knows_net("demo")?;
        let new = c.attach("demo", "new")?;
        new.ping(scene.far.ip())?;
        scene.far.ping(new.ip())?;
        let out = c.ctl(&["leave", "--force"])?;
        ensure!(out.code == 0, "{out:?}");
        let vtep = c.vtep().to_string();
        eventually("the host that has left is let in no more", || {
            let set = b.exec("nft list set inet overlayd vteps4")?;
            if set.contains(&vtep) { bail!("{set}") } else { Ok(()) }
        })?;
        honest.stop()?.expect_lossless("members lose nothing")?;
        foreign.stop()?.expect_lossless("another's VXLAN loses nothing")
    })
}

#[test]
fn a_device_that_is_lent_is_held_to_its_endpoint_too() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab)?;
        // A VM, played by a namespace behind a veth of the operator's own.
        let vm = lab.netns("vm")?;
        let a = &scene.a;
        a.exec("ip link add tap0 type veth peer name tap0vm")?;
        a.exec(&format!("ip link set tap0vm netns {vm} name eth0"))?;
        let mac = "02:42:00:00:07:07";
        run(&format!("ip -n {vm} link set eth0 address {mac}"))?;
        let args = ["attach", "--net", "demo", "--device", "tap0", "--name", "vm", "--mac", mac];
        let endpoint: overlay_api::v1::Endpoint = a.ctl_json(&args)?;
        let ip = endpoint.ips[0].to_string();
        run(&format!("ip -n {vm} addr add {ip} dev eth0"))?;
        run(&format!("ip -n {vm} link set eth0 up"))?;
        let far = scene.far.ip();
        overlay_tests::ping::ping(&vm, far)?;
        let counted = || -> Result<u64> {
            let dropped = a.status()?.dropped;
            let ours = dropped.iter().filter(|d| d.port.as_deref() == Some("tap0"));
            Ok(ours.filter(|d| d.kind == "mac").map(|d| d.packets).sum())
        };
        let before = counted()?;
        run(&format!("ip -n {vm} link set eth0 address 02:42:00:00:07:08"))?;
        overlay_tests::ping::ping_unanswered(&vm, far)?;
        ensure!(counted()? > before, "nothing is counted");
        run(&format!("ip -n {vm} link set eth0 address {mac}"))?;
        overlay_tests::ping::ping(&vm, far)?;
        a.detach("vm")?;
        let left = a.exec("nft list ruleset")?;
        ensure!(!left.contains("tap0"), "{left}");
        Ok(())
    })
}
