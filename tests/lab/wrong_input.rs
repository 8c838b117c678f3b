//! Wrong input: each gets one line (and a hint below it) that says what to do,
//! the right exit code,
//! and leaves no trace behind, neither in the kernel nor in the cluster.
//!
//! ```text
//!   host a: demo, VNI 4097, 10.9.0.0/24, with c1 on it     victim: attached to nothing
//!
//!   exit codes: 1 the request failed, 2 the command line makes no sense
//! ```
//!
//! The texts are the contract with the reader: a change of one shows up here.
//! `UPDATE_EXPECT=1` rewrites them.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, bail, ensure};
use expect_test::{Expect, expect};
use overlay_tests::kernel::difference;
use overlay_tests::shell::{occupy_udp, run};
use overlay_tests::{Container, CtlOutput, DaemonOptions, Host, Lab, NetSpec, eventually};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

struct Scene {
    host: Host,
    c1: Container,
    victim: Container,
}

impl Scene {
    fn set(lab: &Lab) -> Result<Self> {
        let [host] = lab.hosts(["a"])?;
        host.net_create("demo", DEMO)?;
        let c1 = host.attach("demo", "c1")?;
        let victim = host.container("victim")?;
        host.at_rest()?;
        eventually("the container's link-local address has settled", || {
            let tentative = c1.exec("ip -6 addr show tentative")?;
            ensure!(tentative.is_empty(), "{tentative}");
            Ok(())
        })?;
        Ok(Self { host, c1, victim })
    }

    /// Everything that a refused request could have changed.
    fn traces(&self) -> Result<[String; 4]> {
        Ok([
            self.host.snapshot()?,
            self.c1.snapshot()?,
            self.victim.snapshot()?,
            format!("{:#?}\n{:#?}", self.host.networks()?, self.host.endpoints()?),
        ])
    }

    /// Runs `overlayctl` with `args`, in which `VICTIM` stands for the name of
    /// the victim's namespace.
    #[track_caller]
    fn refuses(&self, args: &[&str], code: i32, line: Expect) -> Result<()> {
        let before = self.traces()?;
        let args: Vec<&str> =
            args.iter().map(|a| if *a == "VICTIM" { self.victim.netns() } else { a }).collect();
        self.is_refusal(&self.host.ctl(&args)?, code, line)?;
        for (before, after) in before.iter().zip(self.traces()?) {
            if let Some(lines) = difference(before, &after) {
                bail!("`overlayctl {}` left a trace:\n{lines}", args.join(" "));
            }
        }
        Ok(())
    }

    #[track_caller]
    fn is_refusal(&self, out: &CtlOutput, code: i32, line: Expect) -> Result<()> {
        is_refusal(&self.host, out, code, line)
    }
}

/// Its log goes to stderr too; here only what it says last is of interest.
fn quiet() -> DaemonOptions {
    DaemonOptions { log_level: Some("error"), ..DaemonOptions::default() }
}

/// One line on stderr, with the daemon's hint below it if it gave one; nothing
/// on stdout; this exit code.
#[track_caller]
fn is_refusal(host: &Host, out: &CtlOutput, code: i32, line: Expect) -> Result<()> {
    // What differs from run to run gets a name.
    let dir = host.dir().display().to_string();
    let lab = host.netns().trim_end_matches(&format!("-{}", host.name())).to_owned();
    let said = out.stderr.replace(&dir, "DIR").replace(&lab, "LAB");
    let said = without_ids(&said);
    line.assert_eq(said.trim_end_matches('\n'));
    ensure!(out.code == code, "exit code {}, not {code}: {out:?}", out.code);
    ensure!(out.stdout.is_empty(), "stdout is for results: {out:?}");
    let mut lines = said.lines();
    ensure!(lines.next().is_some_and(|l| l.starts_with("overlay")), "who says so? {said}");
    ensure!(
        lines.next().is_none_or(|l| l.starts_with("   ")),
        "the second line is no hint: {said}"
    );
    ensure!(lines.next().is_none(), "more than a line and its hint: {said}");
    Ok(())
}

/// Ids of networks (16 hex digits) and pids are `ID` and `PID`.
fn without_ids(text: &str) -> String {
    let masked = |word: &str| {
        let bare = word.trim_end_matches([')', ',', ':', ';']);
        let is_id = bare.len() == 16 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id { word.replace(bare, "ID") } else { word.to_owned() }
    };
    let text = text.split(' ').map(masked).collect::<Vec<_>>().join(" ");
    match text.split_once("(pid ").and_then(|(a, b)| Some((a, b.split_once(')')?.1))) {
        Some((before, after)) => format!("{before}(pid PID){after}"),
        None => text,
    }
}

#[test]
fn networks_that_cannot_be() -> Result<()> {
    Lab::run(|lab| {
        let s = Scene::set(lab)?;
        s.host.exec("ip route add 10.60.0.0/16 dev eth0")?;
        s.host.exec("ip link add vx-foreign type vxlan id 5000 dstport 4789 local 192.0.2.1")?;
        s.host.at_rest()?;

        s.refuses(&["net", "create", "demo", "--vni", "5"], 1, expect!["overlayctl: cannot create network demo: the name demo is taken by network ID (VNI 4097)"])?;
        s.refuses(
            &["net", "create", "x", "--vni", "4097"],
            1,
            expect![[r#"
            overlayctl: cannot create network x: VNI 4097 is taken by network demo
                        choose another, or leave --vni out for a free one"#]],
        )?;
        s.refuses(&["net", "create", "x", "--vni", "5000"], 1, expect![[r#"
            overlayctl: cannot create network x: VNI 5000 is taken on this host by the VXLAN device vx-foreign (UDP port 4789)
                        choose another VNI, or remove that device"#]])?;
        s.refuses(
            &["net", "create", "x", "--vni", "16777216"],
            2,
            expect![
                "overlayctl: --vni: VNI 16777216 is out of range; choose one from 1 to 16777215"
            ],
        )?;
        s.refuses(&["net", "create", "Not_A_Label"], 2, expect!["overlayctl: NAME: `Not_A_Label` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends"])?;
        s.refuses(&["net", "create", "x", "--subnet", "10.60.7.0/24"], 1, expect![[r#"
            overlayctl: cannot create network x: 10.60.7.0/24 overlaps this host's route 10.60.0.0/16 dev eth0
                        choose another subnet, or leave --subnet out for a free one"#]])?;
        s.refuses(&["net", "create", "x", "--subnet", "192.0.2.0/25"], 1, expect![[r#"
            overlayctl: cannot create network x: 192.0.2.0/25 overlaps this host's route 192.0.2.0/24 dev eth0
                        choose another subnet, or leave --subnet out for a free one"#]])?;
        s.refuses(
            &["net", "create", "x", "--subnet", "10.9.0.128/25"],
            1,
            expect![[r#"
            overlayctl: cannot create network x: 10.9.0.128/25 overlaps 10.9.0.0/24 of network demo
                        choose another subnet, or leave --subnet out for a free one"#]],
        )?;
        s.refuses(&["net", "create", "x", "--subnet", "10.1.0.0/33"], 2, expect!["overlayctl: --subnet: `10.1.0.0/33` is not a subnet; write an address and a prefix length like 10.0.9.0/24, or ipv4 or ipv6 for one that is free"])?;
        s.refuses(
            &["net", "create", "x", "--subnet", "10.1.0.0/24", "--gateway", "10.2.0.1"],
            1,
            expect!["overlayctl: cannot create network x: the gateway 10.2.0.1 is in no subnet of the network"],
        )?;
        s.refuses(&["net", "create", "x", "--mtu", "1279"], 2, expect!["overlayctl: --mtu: `1279` is not an MTU; write bytes of IP packet, 1280 (what IPv6 needs) or more"])?;
        s.refuses(
            &["net", "rm", "nosuch"],
            1,
            expect![[r#"
            overlayctl: cannot delete network nosuch: no network `nosuch`
                        known: demo"#]],
        )?;
        s.refuses(
            &["net", "rm", "demo"],
            1,
            expect![[r#"
            overlayctl: cannot delete network demo: network demo still has 1 endpoints: c1 on a
                        detach them first, or all with it: overlayctl net rm --force demo"#]],
        )?;
        s.refuses(
            &["net", "inspect", "nosuch"],
            1,
            expect![[r#"
            overlayctl: cannot show network nosuch: no network `nosuch`
                        known: demo"#]],
        )
    })
}

#[test]
fn a_vni_that_a_device_hidden_in_another_namespace_holds_is_refused_and_leaves_no_trace()
-> Result<()> {
    Lab::run(|lab| {
        let s = Scene::set(lab)?;
        // Made on the host and moved away: it still holds VNI and port of the host.
        let elsewhere = lab.netns("elsewhere")?;
        s.host.exec("ip link add vx-hidden type vxlan id 5001 dstport 4789 local 192.0.2.1")?;
        s.host.exec(&format!("ip link set vx-hidden netns {elsewhere}"))?;
        run(&format!("ip -n {elsewhere} link set vx-hidden up"))?;

        let before = s.traces()?;
        let created = s.host.ctl(&["net", "create", "x", "--vni", "5001"])?;
        let refused = if created.code == 0 {
            s.host.ctl(&["attach", "--net", "x", "--netns", s.victim.netns()])?
        } else {
            created
        };
        s.is_refusal(&refused, 1, expect![[r#"
            overlayctl: cannot create network x: VNI 5001 is taken on this host by the VXLAN device vx-hidden in namespace LAB-elsewhere (UDP port 4789)
                        choose another VNI, or remove that device"#]])?;
        for (before, after) in before[..3].iter().zip(s.traces()?) {
            if let Some(lines) = difference(before, &after) {
                bail!("it left a trace:\n{lines}");
            }
        }
        Ok(())
    })
}

#[test]
fn attaches_that_cannot_be() -> Result<()> {
    Lab::run(|lab| {
        let s = Scene::set(lab)?;
        s.victim.exec("ip link add eth7 type bridge")?;
        let demo = ["attach", "--net", "demo", "--netns", "VICTIM"];
        let with = |extra: &[&'static str]| [demo.as_slice(), extra].concat();

        s.refuses(
            &["attach", "--net", "nosuch", "--netns", "VICTIM"],
            1,
            expect![[r#"
            overlayctl: cannot attach LAB-victim to nosuch: no network `nosuch`
                        known: demo"#]],
        )?;
        s.refuses(&["attach", "--net", "demo", "--netns", "nosuch"], 1, expect![[r#"
            overlayctl: cannot attach nosuch to demo: network namespace /run/netns/nosuch does not exist; list them with: ip netns
                        list them with: ip netns; make it with: ip netns add nosuch"#]])?;
        s.refuses(&["attach", "--net", "demo", "--netns", "/run/nosuch"], 1, expect![[r#"
            overlayctl: cannot attach /run/nosuch to demo: network namespace /run/nosuch does not exist; list them with: ip netns
                        is the container running?"#]])?;
        s.refuses(&["attach", "--net", "demo", "--netns", "/etc/hostname"], 1, expect!["overlayctl: cannot attach /etc/hostname to demo: /etc/hostname is not a network namespace; give a name of `ip netns`, or a path like /proc/PID/ns/net"])?;
        s.refuses(&["attach", "--net", "demo", "--pid", "4194303"], 1, expect![[r#"
            overlayctl: cannot attach process 4194303 to demo: network namespace /proc/4194303/ns/net does not exist; list them with: ip netns
                        is the container running?"#]])?;
        let taken = s.c1.ip().to_string();
        ensure!(taken == "10.9.0.2", "the first address is {taken}");
        s.refuses(
            &with(&["--ip", "10.9.0.2"]),
            1,
            expect![[r#"
            overlayctl: cannot attach LAB-victim to demo: 10.9.0.2 is taken by endpoint c1 on host a
                        list them with: overlayctl endpoints"#]],
        )?;
        s.refuses(&with(&["--ip", "10.9.0.1"]), 1, expect!["overlayctl: cannot attach LAB-victim to demo: 10.9.0.1 is the gateway of network demo"])?;
        s.refuses(&with(&["--ip", "10.9.0.255"]), 1, expect!["overlayctl: cannot attach LAB-victim to demo: 10.9.0.255 is the network or broadcast address of 10.9.0.0/24"])?;
        s.refuses(&with(&["--ip", "10.7.0.2"]), 1, expect!["overlayctl: cannot attach LAB-victim to demo: 10.7.0.2 is outside network demo (10.9.0.0/24)"])?;
        s.refuses(&with(&["--ip", "10.9.0.300"]), 2, expect!["overlayctl: --ip: `10.9.0.300` is not an IP address; write it like 10.0.9.5 or fd00::5, without a prefix length"])?;
        s.refuses(&with(&["--mac", "02:42:0a:09:00:02"]), 1, expect![[r#"
            overlayctl: cannot attach LAB-victim to demo: 02:42:0a:09:00:02 is taken by endpoint c1 on host a
                        list them with: overlayctl endpoints"#]])?;
        s.refuses(&with(&["--mac", "01:00:5e:00:00:01"]), 1, expect![[r#"
            overlayctl: cannot attach LAB-victim to demo: 01:00:5e:00:00:01 is not the address of one station
                        use a unicast MAC: the lowest bit of the first byte clear"#]])?;
        s.refuses(&with(&["--mac", "nonsense"]), 2, expect!["overlayctl: --mac: `nonsense` is not a MAC address; write six hex bytes like 02:42:0a:00:09:05"])?;
        s.refuses(
            &with(&["--name", "c1"]),
            1,
            expect![[r#"
            overlayctl: cannot attach c1 to demo: the name c1 is taken by endpoint c1 on host a
                        list them with: overlayctl endpoints"#]],
        )?;
        s.refuses(&with(&["--name", "web_1"]), 2, expect!["overlayctl: --name: `web_1` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends"])?;
        s.refuses(&with(&["--ifname", "eth7"]), 1, expect![[r#"
            overlayctl: cannot attach LAB-victim to demo: an interface eth7 exists in /run/netns/LAB-victim
                        choose another with --ifname, or leave it out for the first free eth<n>"#]])?;
        s.refuses(&with(&["--ifname", "lo"]), 1, expect![[r#"
            overlayctl: cannot attach LAB-victim to demo: an interface lo exists in /run/netns/LAB-victim
                        choose another with --ifname, or leave it out for the first free eth<n>"#]])?;
        s.refuses(&with(&["--ifname", "sixteen-letters-"]), 2, expect!["overlayctl: --ifname: `sixteen-letters-` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`"])?;
        s.refuses(
            &["detach", "nosuch"],
            1,
            expect![[r#"
            overlayctl: cannot detach nosuch: no endpoint `nosuch` here
                        list them with: overlayctl endpoints --local"#]],
        )?;

        // After all that, the victim is as good as new.
        let mut victim = s.victim.clone();
        victim.attach_with("demo", &[])?;
        victim.ping(s.c1.ip())
    })
}

#[test]
fn command_lines_that_make_no_sense() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        for args in [
            ["--nosuch"].as_slice(),
            &["nosuch"],
            &["attach", "--net", "demo"],
            &["net"],
            &["net", "create", "x", "--vni", "many"],
        ] {
            let out = a.ctl(args)?;
            ensure!(out.code == 2 && out.stdout.is_empty(), "{args:?}: {out:?}");
            ensure!(out.stderr.contains("overlayctl"), "{args:?}: {out:?}");
        }
        Ok(())
    })
}

#[test]
fn a_daemon_that_does_not_run() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let never = a.ctl(&["status"])?;
        is_refusal(
            &a,
            &never,
            1,
            expect![
                "overlayctl: cannot read the status: overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd"
            ],
        )?;
        a.start()?;
        a.kill()?;
        let killed = a.ctl(&["status"])?;
        is_refusal(
            &a,
            &killed,
            1,
            expect![
                "overlayctl: cannot read the status: overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd"
            ],
        )
    })
}

#[test]
fn a_socket_without_permission() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        // 0660 where there is a group overlayd, else 0600.
        let mode = std::fs::metadata(a.socket())?.permissions().mode() & 0o777;
        ensure!(mode & 0o007 == 0, "the socket's mode is {mode:o}");
        is_refusal(
            &a,
            &a.ctl_as_nobody(&["status"])?,
            1,
            expect![
                "overlayctl: cannot read the status: no permission on DIR/overlayd.sock: be root or join the group overlayd"
            ],
        )
    })
}

#[test]
fn a_port_in_use() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let before = a.snapshot()?;
        let owner = occupy_udp(a.netns(), "0.0.0.0:7946".parse()?)?;
        let args = a.daemon_args(&quiet());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        is_refusal(
            &a,
            &a.overlayd(&args)?,
            1,
            expect![
                "overlayd: cannot gossip on 192.0.2.1:7946: cannot listen for gossip on 192.0.2.1:7946 (UDP and TCP); another program has the port (`ss -tulnp` says which): stop it, or choose another with --gossip-port: Address already in use (os error 98)"
            ],
        )?;
        if let Some(lines) = difference(&before, &a.snapshot()?) {
            bail!("it left a trace:\n{lines}");
        }
        ensure!(!a.socket().exists(), "it left its socket");
        drop(owner);
        a.start()
    })
}

#[test]
fn a_vxlan_port_that_another_program_holds() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let owner = occupy_udp(a.netns(), "0.0.0.0:4789".parse()?)?;
        a.start()?;
        a.net_create("demo", DEMO)?;
        let (victim, before) = (a.container("victim")?, a.snapshot()?);
        let out = a.ctl(&["attach", "--net", "demo", "--netns", victim.netns()])?;
        is_refusal(
            &a,
            &out,
            1,
            expect![
                "overlayctl: cannot attach LAB-victim to demo: VNI 4097 on UDP port 4789 is held by a device in another network namespace, or the port by another program"
            ],
        )?;
        if let Some(lines) = difference(&before, &a.snapshot()?) {
            bail!("it left a trace:\n{lines}");
        }
        drop(owner);
        eventually("with the port free again, the attach works", || {
            let out = a.ctl(&["attach", "--net", "demo", "--netns", victim.netns()])?;
            ensure!(out.code == 0, "{out:?}");
            Ok(())
        })
    })
}

#[test]
fn a_second_daemon_on_one_state_directory() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let args = a.daemon_args(&quiet());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        is_refusal(
            &a,
            &a.overlayd(&args)?,
            1,
            expect![
                "overlayd: another overlayd (pid PID) uses DIR/state; stop it, or give this one a directory of its own with --state-dir"
            ],
        )?;
        a.status().map(drop)
    })
}

#[test]
fn not_root() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let before = a.snapshot()?;
        let args = a.daemon_args(&quiet());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        is_refusal(
            &a,
            &a.overlayd_as_nobody(&args)?,
            1,
            expect![
                "overlayd: overlayd must be root: it makes and removes network devices; start it with sudo, or with systemctl start overlayd"
            ],
        )?;
        if let Some(lines) = difference(&before, &a.snapshot()?) {
            bail!("it left a trace:\n{lines}");
        }
        let out = a.overlayd_as_nobody(&["teardown"])?;
        is_refusal(
            &a,
            &out,
            1,
            expect![
                "overlayd: overlayd must be root: it makes and removes network devices; start it with sudo, or with systemctl start overlayd"
            ],
        )
    })
}

#[test]
fn a_configuration_that_is_wrong() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let check = |text: &str| -> Result<CtlOutput> {
            let file = overlay_tests::host::write_file(&a, "overlayd.toml", text)?;
            a.overlayd(&["check-config", "--config", &file.to_string_lossy()])
        };
        is_refusal(
            &a,
            &check("gosip-port = 7946\n")?,
            2,
            expect![
                "overlayd: DIR/overlayd.toml line 1: there is no setting `gosip-port`; did you mean `gossip-port`?"
            ],
        )?;
        is_refusal(
            &a,
            &check("gossip-port = \"many\"\n")?,
            2,
            expect![
                "overlayd: DIR/overlayd.toml line 1: gossip-port: `many` is not a port; use a number from 1 to 65535"
            ],
        )?;
        is_refusal(
            &a,
            &check("vtep-ip = \"192.0.2.300\"\n")?,
            2,
            expect![
                "overlayd: DIR/overlayd.toml line 1: vtep-ip: `192.0.2.300` is not an IP address"
            ],
        )?;
        is_refusal(
            &a,
            &check("name = \"web_1\"\n")?,
            2,
            expect![
                "overlayd: DIR/overlayd.toml line 1: name: `web_1` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends"
            ],
        )?;
        let missing = a.overlayd(&["check-config", "--config", "/nosuch/overlayd.toml"])?;
        is_refusal(
            &a,
            &missing,
            2,
            expect![
                "overlayd: cannot read the file /nosuch/overlayd.toml (given by --config): No such file or directory (os error 2)"
            ],
        )?;
        let good = check("name = \"a\"\ngossip-port = 7946\njoin = [\"192.0.2.2:7946\"]\n")?;
        ensure!(good.code == 0, "{good:?}");
        Ok(())
    })
}

#[test]
fn a_vtep_address_that_this_host_does_not_have() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let state = a.state_dir().display().to_string();
        let socket = a.socket().display().to_string();
        let common = ["--state-dir", &state, "--socket", &socket];
        let with = |extra: &[&'static str]| [common.as_slice(), extra].concat();
        is_refusal(
            &a,
            &a.overlayd(&with(&["--vtep-ip", "192.0.2.77"]))?,
            1,
            expect![
                "overlayd: cannot tell which address VXLAN packets come to: --vtep-ip 192.0.2.77 is on no device of this host; this host has 192.0.2.1, 2001:db8::1"
            ],
        )?;
        is_refusal(
            &a,
            &a.overlayd(&with(&["--underlay-dev", "nosuch0"]))?,
            1,
            expect![
                "overlayd: cannot tell which address VXLAN packets come to: --underlay-dev nosuch0 does not exist; this host has eth0"
            ],
        )?;
        is_refusal(
            &a,
            &a.overlayd(&with(&["--name", "web_1"]))?,
            2,
            expect![
                "overlayd: --name: `web_1` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends"
            ],
        )
    })
}

#[test]
fn http_requests_that_make_no_sense_get_an_error_body_and_change_nothing() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        a.start()?;
        let before = a.snapshot()?;
        let socket = a.socket().display().to_string();
        let large = a.dir().join("large");
        std::fs::write(&large, vec![b' '; 2 << 20])?;
        let large = format!("@{}", large.display());
        let expect = |args: &[&str], wanted: Expect| -> Result<()> {
            let out = std::process::Command::new("curl")
                .args(["-sS", "--max-time", "10", "-w", "%{http_code} %{content_type}"])
                .args(["--unix-socket", &socket])
                .args(args)
                .output()?;
            ensure!(out.status.success(), "{out:?}");
            wanted.assert_eq(&String::from_utf8_lossy(&out.stdout).replace("}", "}\n"));
            Ok(())
        };
        let net = "http://o/v1/networks";
        expect(
            &["http://o/v2/networks"],
            expect![[r#"
            {"code":"not_found","message":"no such path: /v2/networks","hint":"the paths are listed at /v1/openapi.json"}
            404 application/json"#]],
        )?;
        expect(
            &["-X", "PUT", net],
            expect![[r#"
            {"code":"invalid_request","message":"PUT is not answered at /v1/networks","hint":"the paths and methods are listed at /v1/openapi.json"}
            400 application/json"#]],
        )?;
        expect(
            &["http://o/v1/endpoints?nett=demo"],
            expect![[r#"
                {"code":"invalid_request","message":"Failed to deserialize query string: nett: unknown field `nett`, expected one of `net`, `local`, `label`"}
                400 application/json"#]],
        )?;
        expect(
            &["http://o/v1/endpoints?local=perhaps"],
            expect![[r#"
            {"code":"invalid_request","message":"Failed to deserialize query string: local: provided string was not `true` or `false`"}
            400 application/json"#]],
        )?;
        expect(
            &["http://o/v1/networks/%ff"],
            expect![[r#"
            {"code":"invalid_request","message":"Invalid UTF-8 in `net`"}
            400 application/json"#]],
        )?;
        expect(
            &["--data", "{", net],
            expect![[r#"
            {"code":"invalid_request","message":"the body is wrong: EOF while parsing an object at line 1 column 1"}
            400 application/json"#]],
        )?;
        expect(
            &["--data", r#"{"vni":"many"}"#, net],
            expect![[r#"
            {"code":"invalid_request","message":"the body is wrong: invalid type: string \"many\", expected u32 at line 1 column 13"}
            400 application/json"#]],
        )?;
        expect(
            &["--data", r#"{"vnii":7}"#, net],
            expect![[r#"
                {"code":"invalid_request","message":"the body is wrong: unknown field `vnii`, expected one of `name`, `vni`, `subnets`, `gateways`, `mtu`, `internal`, `no_flood`, `labels`, `exclude`, `ip_ranges`, `once` at line 1 column 7"}
                400 application/json"#]],
        )?;
        expect(
            &["--data-binary", &large, net],
            expect![[r#"
            {"code":"invalid_request","message":"the body is larger than 1048576 bytes"}
            400 application/json"#]],
        )?;
        if let Some(lines) = difference(&before, &a.snapshot()?) {
            bail!("it left a trace:\n{lines}");
        }
        let _: overlay_api::v1::Status = a.ctl_json(&["status"])?;
        Ok(())
    })
}
