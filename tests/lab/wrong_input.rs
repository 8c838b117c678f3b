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

/// One line on stderr, with the daemon's hint below it if it gave one; nothing
/// on stdout; this exit code.
#[track_caller]
fn is_refusal(host: &Host, out: &CtlOutput, code: i32, line: Expect) -> Result<()> {
    // What differs from run to run gets a name.
    let dir = host.dir().display().to_string();
    let lab = host.netns().trim_end_matches(&format!("-{}", host.name())).to_owned();
    let said = out.stderr.replace(&dir, "DIR").replace(&lab, "LAB");
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

#[test]
fn networks_that_cannot_be() -> Result<()> {
    Lab::run(|lab| {
        let s = Scene::set(lab)?;
        s.host.exec("ip route add 10.60.0.0/16 dev eth0")?;
        s.host.exec("ip link add vx-foreign type vxlan id 5000 dstport 4789 local 192.0.2.1")?;
        s.host.at_rest()?;

        s.refuses(&["net", "create", "demo", "--vni", "5"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--vni", "4097"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--vni", "5000"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--vni", "16777216"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "Not_A_Label"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--subnet", "10.60.7.0/24"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--subnet", "192.0.2.0/25"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--subnet", "10.9.0.128/25"], 1, expect![[""]])?;
        s.refuses(&["net", "create", "x", "--subnet", "10.1.0.0/33"], 2, expect![[""]])?;
        s.refuses(
            &["net", "create", "x", "--subnet", "10.1.0.0/24", "--gateway", "10.2.0.1"],
            1,
            expect![[""]],
        )?;
        s.refuses(&["net", "create", "x", "--mtu", "1279"], 1, expect![[""]])?;
        s.refuses(&["net", "rm", "nosuch"], 1, expect![[""]])?;
        s.refuses(&["net", "rm", "demo"], 1, expect![[""]])?;
        s.refuses(&["net", "inspect", "nosuch"], 1, expect![[""]])
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
        s.is_refusal(&refused, 1, expect![[""]])?;
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

        s.refuses(&["attach", "--net", "nosuch", "--netns", "VICTIM"], 1, expect![[""]])?;
        s.refuses(&["attach", "--net", "demo", "--netns", "nosuch"], 1, expect![[""]])?;
        s.refuses(&["attach", "--net", "demo", "--netns", "/run/nosuch"], 1, expect![[""]])?;
        s.refuses(&["attach", "--net", "demo", "--netns", "/etc/hostname"], 1, expect![[""]])?;
        s.refuses(&["attach", "--net", "demo", "--pid", "4194303"], 1, expect![[""]])?;
        s.refuses(&["attach", "--net", "demo"], 2, expect![[""]])?;
        let taken = s.c1.ip().to_string();
        ensure!(taken == "10.9.0.2", "the first address is {taken}");
        s.refuses(&with(&["--ip", "10.9.0.2"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ip", "10.9.0.1"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ip", "10.9.0.255"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ip", "10.7.0.2"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ip", "10.9.0.300"]), 2, expect![[""]])?;
        s.refuses(&with(&["--mac", "02:42:0a:09:00:02"]), 1, expect![[""]])?;
        s.refuses(&with(&["--mac", "01:00:5e:00:00:01"]), 1, expect![[""]])?;
        s.refuses(&with(&["--mac", "nonsense"]), 1, expect![[""]])?;
        s.refuses(&with(&["--name", "c1"]), 1, expect![[""]])?;
        s.refuses(&with(&["--name", "web_1"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ifname", "eth7"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ifname", "lo"]), 1, expect![[""]])?;
        s.refuses(&with(&["--ifname", "sixteen-letters-"]), 1, expect![[""]])?;
        s.refuses(&["detach", "nosuch"], 1, expect![[""]])?;

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
        is_refusal(&a, &never, 1, expect![[""]])?;
        a.start()?;
        a.kill()?;
        let killed = a.ctl(&["status"])?;
        is_refusal(&a, &killed, 1, expect![[""]])
    })
}

#[test]
fn a_socket_without_permission() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let mode = std::fs::metadata(a.socket())?.permissions().mode() & 0o777;
        ensure!(mode == 0o660, "the socket's mode is {mode:o}");
        is_refusal(&a, &a.ctl_as_nobody(&["status"])?, 1, expect![[""]])
    })
}

#[test]
fn a_port_in_use() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let before = a.snapshot()?;
        let owner = occupy_udp(a.netns(), "0.0.0.0:7946".parse()?)?;
        let args = a.daemon_args(&DaemonOptions::default());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        is_refusal(&a, &a.overlayd(&args)?, 1, expect![[""]])?;
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
        is_refusal(&a, &out, 1, expect![[""]])?;
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
        let args = a.daemon_args(&DaemonOptions::default());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        is_refusal(&a, &a.overlayd(&args)?, 1, expect![[""]])?;
        a.status().map(drop)
    })
}

#[test]
fn not_root() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let before = a.snapshot()?;
        let args = a.daemon_args(&DaemonOptions::default());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        is_refusal(&a, &a.overlayd_as_nobody(&args)?, 1, expect![[""]])?;
        if let Some(lines) = difference(&before, &a.snapshot()?) {
            bail!("it left a trace:\n{lines}");
        }
        let out = a.overlayd_as_nobody(&["teardown"])?;
        is_refusal(&a, &out, 1, expect![[""]])
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
        is_refusal(&a, &check("gosip-port = 7946\n")?, 1, expect![[""]])?;
        is_refusal(&a, &check("gossip-port = \"many\"\n")?, 1, expect![[""]])?;
        is_refusal(&a, &check("vtep-ip = \"192.0.2.300\"\n")?, 1, expect![[""]])?;
        is_refusal(&a, &check("name = \"web_1\"\n")?, 1, expect![[""]])?;
        let missing = a.overlayd(&["check-config", "--config", "/nosuch/overlayd.toml"])?;
        is_refusal(&a, &missing, 1, expect![[""]])?;
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
        let common = ["--name", "a", "--state-dir", &state, "--socket", &socket];
        let with = |extra: &[&'static str]| [common.as_slice(), extra].concat();
        is_refusal(&a, &a.overlayd(&with(&["--vtep-ip", "192.0.2.77"]))?, 1, expect![[""]])?;
        is_refusal(&a, &a.overlayd(&with(&["--underlay-dev", "nosuch0"]))?, 1, expect![[""]])?;
        is_refusal(&a, &a.overlayd(&with(&["--name", "web_1"]))?, 2, expect![[""]])
    })
}
