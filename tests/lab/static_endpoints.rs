//! Endpoints without a port of ours: static ones, one by one and by the
//! thousand, and stations behind a device that somebody else made.
//!
//! ```text
//!   c1 ── host a 192.0.2.1 ──── underlay ──── host b 192.0.2.2 ── c2
//!            └ tap0 ═══ eth0  vm: a namespace that overlayd is not told of
//!
//!   demo: VNI 4097, 10.9.0.0/16; a made it, so its addresses are a's to give
//! ```

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::host::write_file;
use overlay_tests::kernel::difference;
use overlay_tests::shell::run;
use overlay_tests::{Container, CtlOutput, Host, Lab, NetSpec, eventually, eventually_within};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/16"], mtu: 0, extra: &[] };
const VM_MAC: &str = "52:54:00:00:00:01";
const VM_IP: &str = "10.9.0.77";

fn pair(lab: &Lab) -> Result<(Host, Host, Container)> {
    let [a, b] = lab.hosts(["a", "b"])?;
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let c2 = b.attach("demo", "c2")?;
    Ok((a, b, c2))
}

/// A station of the cluster: its MAC and its address.
fn station(n: u32) -> (String, String) {
    let [_, _, hi, lo] = n.to_be_bytes();
    (format!("02:aa:00:00:{hi:02x}:{lo:02x}"), format!("10.9.{}.{}", 10 + hi, lo))
}

/// `host` reaches `mac` and `ip` by the VTEP of `behind`.
fn leads(host: &Host, mac: &str, ip: &str, behind: &Host) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    ensure!(fdb.vtep_of(mac) == Some(behind.vtep()), "{mac} is not behind {}", behind.name());
    let entry = fdb.bridge_entry(mac).with_context(|| format!("no master entry of {mac}"))?;
    ensure!(entry.has("extern_learn"), "{entry:?}");
    let neigh = host.neigh("ovb4097")?;
    let entry = neigh.iter().find(|n| n.ip.to_string() == ip).context("no neighbour entry")?;
    ensure!(entry.mac.as_deref() == Some(mac) && entry.extern_learn, "{entry:?}");
    Ok(())
}

fn leads_nowhere(host: &Host, mac: &str, ip: &str) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    ensure!(!fdb.knows(mac), "{mac} is still known");
    let neigh = host.neigh("ovb4097")?;
    ensure!(neigh.iter().all(|n| n.ip.to_string() != ip), "{ip} is still known");
    Ok(())
}

/// Exactly those stations of `numbers`, and no other, are behind `behind`.
fn holds_exactly(host: &Host, numbers: std::ops::Range<u32>, behind: &Host) -> Result<()> {
    let fdb = host.fdb("ovx4097")?;
    let here = fdb.unicast().into_iter().filter(|e| e.0.starts_with("02:aa:")).count();
    ensure!(here == numbers.len(), "{here} stations, not {}", numbers.len());
    let neigh = host.neigh("ovb4097")?;
    for n in numbers {
        let (mac, ip) = station(n);
        ensure!(fdb.vtep_of(&mac) == Some(behind.vtep()), "{mac} is not known");
        let entry = neigh.iter().find(|e| e.ip.to_string() == ip);
        ensure!(entry.is_some_and(|e| e.mac.as_deref() == Some(&mac)), "{ip}: {entry:?}");
    }
    Ok(())
}

fn import(host: &Host, more: &[&str], stdin: &str) -> Result<CtlOutput> {
    let mut child = host
        .overlayctl()?
        .args(["endpoint", "import", "--net", "demo"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(stdin.as_bytes())?;
    let out = child.wait_with_output()?;
    Ok(CtlOutput {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

fn succeeds(out: CtlOutput, said: &str) -> Result<()> {
    ensure!(out.code == 0 && out.stdout.trim() == said, "{out:?}");
    Ok(())
}

#[test]
fn a_static_endpoint_is_known_everywhere_and_after_its_removal_nowhere() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, _c2) = pair(lab)?;
        let args =
            ["endpoint", "add", "--net", "demo", "--mac", VM_MAC, "--ip", VM_IP, "--name", "nas"];
        let ep: v1::Endpoint = a.ctl_json(&args)?;
        ensure!(ep.state == "ready" && ep.host_ifname.is_none() && ep.netns.is_none(), "{ep:?}");
        eventually("b leads to the station", || leads(&b, VM_MAC, VM_IP, &a))?;
        // On a: the network is there, ARP knows the station, and no port is made up for it.
        ensure!(a.link("ovx4097")?.up && a.link("ovb4097")?.up);
        let neigh = a.neigh("ovb4097")?;
        ensure!(neigh.iter().any(|n| n.ip.to_string() == VM_IP), "{neigh:?}");
        ensure!(!a.fdb("ovb4097")?.knows(VM_MAC) && !a.fdb("ovx4097")?.knows(VM_MAC));
        a.at_rest()?;
        b.at_rest()?;

        // Neither it nor its address can be had again.
        let twice = a.ctl(&["endpoint", "add", "--net", "demo", "--mac", VM_MAC])?;
        ensure!(twice.code == 1 && twice.stderr.contains("is taken by endpoint nas"), "{twice:?}");
        let on_b =
            ["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:00:01", "--ip", VM_IP];
        let twice = b.ctl(&on_b)?;
        ensure!(twice.code == 1 && twice.stderr.contains("is taken by endpoint nas"), "{twice:?}");

        // It outlives the daemon, and needs no namespace to do so.
        a.kill()?;
        a.start()?;
        eventually("a has it still", || {
            let all = a.endpoints()?;
            ensure!(all.iter().any(|e| e.id == ep.id && e.local && e.state == "ready"), "{all:?}");
            Ok(())
        })?;
        a.at_rest()?;
        leads(&b, VM_MAC, VM_IP, &a)?;

        let out = a.ctl(&["endpoint", "rm", VM_MAC])?;
        ensure!(out.code == 0 && out.stdout == "detached nas from demo\n", "{out:?}");
        eventually("b has forgotten it", || leads_nowhere(&b, VM_MAC, VM_IP))?;
        eventually("a has let the network go", || {
            let links = a.our_links()?;
            ensure!(links.is_empty(), "{links:?}");
            Ok(())
        })
    })
}

#[test]
fn a_thousand_come_from_a_file_or_a_pipe_and_replace_makes_the_file_the_truth() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, _c2) = pair(lab)?;
        let text: String = (0..1000)
            .map(|n| {
                let (mac, ip) = station(n);
                format!("{mac} {ip} s{n}\n")
            })
            .collect();
        let file = write_file(&a, "stations.txt", &format!("# a thousand\n{text}"))?;
        let file = file.to_str().context("a path of ASCII")?;
        succeeds(import(&a, &[file], "")?, "1000 added, 0 changed, 0 removed, 0 unchanged")?;
        eventually("b holds all of them", || holds_exactly(&b, 0..1000, &a))?;
        a.at_rest()?;

        // From a pipe, as JSON: one is renamed, the last hundred are gone, all the rest stays.
        let json: String = (0..900)
            .map(|n| {
                let (mac, ip) = station(n);
                let name = if n == 7 { "seven".to_owned() } else { format!("s{n}") };
                format!("{{\"mac\":\"{mac}\",\"addresses\":[\"{ip}\"],\"name\":\"{name}\"}}\n")
            })
            .collect();
        let said = "0 added, 1 changed, 100 removed, 899 unchanged";
        succeeds(import(&a, &["--replace", "-"], &json)?, said)?;
        eventually("b holds those that are left", || holds_exactly(&b, 0..900, &a))?;
        eventually("b knows the new name", || {
            let all = b.endpoints()?;
            let name = all.iter().find(|e| e.mac == station(7).0).and_then(|e| e.name.clone());
            ensure!(name.as_deref() == Some("seven"), "it is {name:?}");
            Ok(())
        })?;
        // Their addresses can be had again.
        let again: String = (900..1000)
            .map(|n| {
                let (mac, ip) = station(n);
                format!("{mac} {ip}\n")
            })
            .collect();
        succeeds(import(&a, &["-"], &again)?, "100 added, 0 changed, 0 removed, 0 unchanged")?;
        eventually("b holds a thousand again", || holds_exactly(&b, 0..1000, &a))?;

        a.kill()?;
        a.start()?;
        a.knows_all()?;
        a.at_rest()?;
        holds_exactly(&b, 0..1000, &a)?;
        ensure!(a.endpoints()?.iter().filter(|e| e.local).count() == 1000);

        succeeds(
            import(&a, &["--replace", "-"], "")?,
            "0 added, 0 changed, 1000 removed, 0 unchanged",
        )?;
        eventually("b holds none", || holds_exactly(&b, 0..0, &a))
    })
}

#[test]
fn a_wrong_line_is_named_and_nothing_is_imported() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c2) = pair(lab)?;
        let refuses = |text: &str, code: i32, said: &str| -> Result<()> {
            let out = import(&a, &["-"], text)?;
            ensure!(out.code == code, "{out:?}");
            ensure!(out.stderr.trim_end() == said.trim_end(), "it said:\n{}", out.stderr);
            ensure!(a.endpoints()?.len() == 1, "something was imported: {:?}", a.endpoints()?);
            ensure!(a.our_links()?.is_empty(), "{:?}", a.our_links()?);
            Ok(())
        };
        refuses(
            "02:aa:00:00:00:01 10.9.10.1\nrubbish\n02:aa:00:00:00:02 10.9.10.2 -x\n",
            2,
            "overlayctl: standard input has 2 lines that are wrong, so nothing was imported
            line 2: there is no address; write MAC IP[,IP] [NAME]
            line 3: `-x` cannot be a name: it starts or ends with `-`; use 1 to 63 of a-z, 0-9 and \
             `-`, no `-` at the ends",
        )?;
        let text = format!(
            "02:aa:00:00:00:01 10.9.10.1 one\n# what is wrong now only the daemon can tell\n\
             02:aa:00:00:00:02 10.8.0.1\n02:aa:00:00:00:01 10.9.10.3\n02:aa:00:00:00:04 10.9.10.1\n\
             02:aa:00:00:00:05 {}\n01:00:5e:00:00:01 10.9.10.6\n02:aa:00:00:00:07 10.9.0.1\n\
             02:aa:00:00:00:08 10.9.10.8 c2\n",
            c2.ip()
        );
        refuses(
            &text,
            1,
            &format!(
                "overlayctl: cannot import standard input into demo: 7 of 8 endpoints are wrong, so \
                 none was taken in
            line 3: 10.8.0.1 is outside network demo (10.9.0.0/16)
            line 4: 02:aa:00:00:00:01 is given twice, as in line 1
            line 5: 10.9.10.1 is given twice, as in line 1
            line 6: {} is taken by endpoint c2 on host b
            line 7: 01:00:5e:00:00:01 is not the address of one station
            line 8: 10.9.0.1 is the gateway of network demo
            line 9: the name c2 is taken by endpoint c2 on host b",
                c2.ip()
            ),
        )?;
        ensure!(b.endpoints()?.len() == 1);
        Ok(())
    })
}

#[test]
fn addresses_that_another_host_may_give_are_asked_of_it() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c2) = pair(lab)?;
        // b has got the upper half of the subnet for c2: all but what runs there can be a's.
        ensure!(c2.ip().to_string().starts_with("10.9.128."), "{}", c2.ip());
        let text: String = (0..500)
            .map(|n| {
                format!(
                    "02:aa:00:00:{:02x}:{:02x} 10.9.{}.{}\n",
                    n / 256,
                    n % 256,
                    129 + n / 250,
                    1 + n % 250
                )
            })
            .collect();
        succeeds(import(&a, &["-"], &text)?, "500 added, 0 changed, 0 removed, 0 unchanged")?;
        eventually("b leads to the last of them", || {
            leads(&b, "02:aa:00:00:01:f3", "10.9.130.250", &a)
        })?;
        // And what is left there can still be used there.
        b.attach("demo", "c3")?.ping(c2.ip())?;
        // Of a host that is gone nobody can ask.
        b.kill()?;
        a.sees("b", "down")?;
        let out = import(&a, &["-"], "02:bb:00:00:00:01 10.9.128.200\n")?;
        ensure!(
            out.code == 1 && out.stderr.contains("belong to host b, which cannot be reached"),
            "{out:?}"
        );
        Ok(())
    })
}

/// A VM: a namespace behind a device of the host that is called `tap0`.
struct Vm {
    host: Host,
    netns: String,
}

impl Vm {
    fn on(lab: &Lab, host: &Host) -> Result<Self> {
        let netns = lab.netns("vm")?;
        let vm = Self { host: host.clone(), netns };
        vm.boot()?;
        Ok(vm)
    }

    fn boot(&self) -> Result<()> {
        let (vm, host) = (&self.netns, self.host.netns());
        run(&format!(
            "ip -n {host} link add dev tap0 mtu 1450 address 06:00:00:00:00:01 type veth \
             peer name eth0 netns {vm} mtu 1450 address {VM_MAC}"
        ))?;
        run(&format!("ip -n {host} link set dev tap0 alias mine"))?;
        run(&format!("ip -n {vm} addr add {VM_IP}/16 dev eth0"))?;
        run(&format!("ip -n {vm} link set dev eth0 up")).map(drop)
    }

    fn ping(&self, ip: std::net::IpAddr) -> Result<()> {
        overlay_tests::ping::ping(&self.netns, ip)
    }

    fn attach(&self) -> Result<v1::Endpoint> {
        self.host.ctl_json(&[
            "attach", "--net", "demo", "--device", "tap0", "--mac", VM_MAC, "--ip", VM_IP,
            "--name", "vm",
        ])
    }

    /// The device by itself: what overlayd must give back.
    fn state(&self) -> Result<String> {
        let text = self.host.exec("ip -d link show dev tap0")?;
        // Its carrier comes and goes with the other end; a queue discipline stays once it was up.
        Ok(text
            .replace(",UP,LOWER_UP>", ">")
            .replace(" state UP ", " ")
            .replace(" state DOWN ", " ")
            .replace(" qdisc noop ", " ")
            .replace(" qdisc noqueue ", " "))
    }

    fn is_up(&self) -> Result<bool> {
        Ok(self.host.link("tap0")?.up)
    }
}

#[test]
fn a_vm_behind_a_device_is_reached_from_everywhere_and_gives_the_device_back() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c2) = pair(lab)?;
        let c1 = a.attach("demo", "c1")?;
        let vm = Vm::on(lab, &a)?;
        let before = vm.state()?;

        for was_up in [false, true] {
            if was_up {
                a.exec("ip link set dev tap0 up")?;
            }
            let ep = vm.attach()?;
            ensure!(ep.state == "ready" && ep.host_ifname.as_deref() == Some("tap0"), "{ep:?}");
            let link = a.link("tap0")?;
            ensure!(link.up && link.master.as_deref() == Some("ovb4097"), "{link:?}");
            ensure!(link.alias.as_deref() == Some("mine"), "its alias is its owner's: {link:?}");
            let fdb = a.fdb("tap0")?;
            let entry = fdb.bridge_entry(VM_MAC).with_context(|| format!("{fdb:?}"))?;
            ensure!(!entry.has("extern_learn"), "{entry:?}");
            eventually("b leads to the VM", || leads(&b, VM_MAC, VM_IP, &a))?;
            vm.ping(c2.ip())?;
            vm.ping(c1.ip())?;
            c2.ping(VM_IP.parse()?)?;
            c1.ping(VM_IP.parse()?)?;
            a.at_rest()?;

            a.detach("vm")?;
            ensure!(vm.is_up()? == was_up, "it was up: {was_up}");
            let after = vm.state()?;
            ensure!(difference(&before, &after).is_none(), "{before}\nbecame\n{after}");
            eventually("b has forgotten the VM", || leads_nowhere(&b, VM_MAC, VM_IP))?;
        }
        Ok(())
    })
}

#[test]
fn a_device_is_adopted_after_kill_9_put_back_by_teardown_and_mended_after_meddling() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c2) = pair(lab)?;
        let vm = Vm::on(lab, &a)?;
        let before = vm.state()?;
        let ep = vm.attach()?;
        c2.ping(VM_IP.parse()?)?;
        a.at_rest()?;

        let stream = c2.ping_stream(VM_IP.parse()?)?;
        a.kill()?;
        a.start()?;
        a.knows_all()?;
        a.at_rest()?;
        stream.answers(50)?;
        stream.stop()?.expect_lossless("a was killed and started")?;
        ensure!(a.endpoints()?.iter().any(|e| e.id == ep.id), "{:?}", a.endpoints()?);

        // Another hand takes it out, or its entry: back it goes.
        a.exec("ip link set dev tap0 nomaster")?;
        eventually("it is a port again", || {
            let link = a.link("tap0")?;
            ensure!(link.master.as_deref() == Some("ovb4097"), "{link:?}");
            ensure!(a.fdb("tap0")?.bridge_entry(VM_MAC).is_some(), "no FDB entry");
            Ok(())
        })?;
        c2.ping(VM_IP.parse()?)?;
        // So it does when the bridge goes from under it.
        a.exec("ip link del dev ovb4097")?;
        eventually("it is a port of the new bridge", || {
            let link = a.link("tap0")?;
            ensure!(link.master.as_deref() == Some("ovb4097"), "{link:?}");
            Ok(())
        })?;
        a.at_rest()?;
        c2.ping(VM_IP.parse()?)?;

        a.stop()?;
        let socket = a.socket().display().to_string();
        let state = a.state_dir().display().to_string();
        let out = a.overlayd(&["teardown", "--socket", &socket, "--state-dir", &state])?;
        ensure!(out.code == 0, "{out:?}");
        ensure!(a.our_links()?.is_empty(), "{:?}", a.our_links()?);
        ensure!(!vm.is_up()?, "it was down before");
        let after = vm.state()?;
        ensure!(difference(&before, &after).is_none(), "{before}\nbecame\n{after}");
        drop(b);
        Ok(())
    })
}

#[test]
fn a_device_that_goes_takes_its_endpoint_along() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c2) = pair(lab)?;
        a.attach("demo", "c1")?;
        let vm = Vm::on(lab, &a)?;
        let gone = |what: &str| {
            eventually_within(Duration::from_secs(10), what, || {
                for host in [&a, &b] {
                    let all = host.endpoints()?;
                    ensure!(all.iter().all(|e| e.name.as_deref() != Some("vm")), "{all:?}");
                }
                leads_nowhere(&b, VM_MAC, VM_IP)
            })
        };
        vm.attach()?;
        c2.ping(VM_IP.parse()?)?;
        a.exec("ip link del dev tap0")?;
        gone("the VM is gone everywhere")?;
        a.at_rest()?;

        // One that ends while nobody looks, and another under its name: not the same.
        vm.boot()?;
        vm.attach()?;
        c2.ping(VM_IP.parse()?)?;
        a.kill()?;
        a.exec("ip link del dev tap0")?;
        vm.boot()?;
        let stranger = vm.state()?;
        a.start()?;
        gone("the VM of before is gone everywhere")?;
        a.at_rest()?;
        let after = vm.state()?;
        ensure!(difference(&stranger, &after).is_none(), "{stranger}\nbecame\n{after}");
        // It can be attached as what it is.
        vm.attach()?;
        c2.ping(VM_IP.parse()?)
    })
}

#[test]
fn a_device_that_cannot_be_a_port_is_refused_by_name_and_left_alone() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, _c2) = pair(lab)?;
        a.attach("demo", "c1")?;
        let vm = Vm::on(lab, &a)?;
        a.exec("ip link add dev br9 type bridge")?;
        a.exec("ip link add dev p1 type veth peer name p2")?;
        a.exec("ip link set dev p1 master br9")?;
        a.exec("ip link add dev small mtu 1400 type veth peer name small2")?;
        a.exec("ip link add dev routed type veth peer name routed2")?;
        a.exec("ip addr add 198.51.100.1/24 dev routed")?;
        a.exec("ip link set dev routed2 up")?;
        a.exec("ip link set dev routed up")?;
        a.at_rest()?;
        let ours = a.our_links()?;
        let ove = ours.iter().find(|(name, _)| name.starts_with("ove")).context("a veth")?;
        let before = a.snapshot()?;
        let refuses = |dev: &str, mac: &str, code: i32, said: &str| -> Result<()> {
            let mut args = vec!["attach", "--net", "demo", "--device", dev];
            if !mac.is_empty() {
                args.extend(["--mac", mac]);
            }
            let out = a.ctl(&args)?;
            ensure!(out.code == code && out.stderr.contains(said), "{dev}: {out:?}");
            Ok(())
        };
        refuses("nope0", VM_MAC, 1, "there is no interface nope0 on this host")?;
        refuses("p1", VM_MAC, 1, "p1 belongs to br9")?;
        refuses("p1", VM_MAC, 1, "take it out with: ip link set p1 nomaster")?;
        refuses("eth0", VM_MAC, 1, "eth0 is the underlay")?;
        refuses("lo", VM_MAC, 1, "lo has no Ethernet address")?;
        refuses("small", VM_MAC, 1, "small has an MTU of 1400, network demo of 1450")?;
        refuses("routed", VM_MAC, 1, "this host's route 198.51.100.0/24 leads through routed")?;
        refuses("tap0", "06:00:00:00:00:01", 1, "is the MAC of tap0 itself")?;
        refuses("tap0", "", 2, "--mac")?;
        refuses(&ove.0, VM_MAC, 1, "is a link of overlayd's own")?;
        let after = a.snapshot()?;
        if let Some(lines) = difference(&before, &after) {
            anyhow::bail!("a refusal has left traces:\n{lines}");
        }
        // Only what is attached is given back: what another hand has put there stays.
        a.exec("ip link set dev p1 nomaster")?;
        a.exec("ip link set dev p1 master ovb4097")?;
        vm.attach()?;
        refuses("tap0", "52:54:00:00:00:09", 1, "tap0 is attached already, as endpoint vm")?;
        a.detach("vm")?;
        a.at_rest()?;
        ensure!(a.link("p1")?.master.as_deref() == Some("ovb4097"), "{:?}", a.link("p1")?);
        drop(b);
        Ok(())
    })
}
