//! The other programs that run networks on a host, the real ones: started,
//! reloaded and restarted beside us while containers ping each other.
//!
//! ```text
//!   host a: systemd-networkd, NetworkManager,          host b
//!           firewalld, or the rules of Docker
//!     c1, c3 ── ovb4097 ── ovx4097 ── eth0 ── underlay ── c2
//! ```
//!
//! Each claim says what is lost of a hundred pings a second: nothing, where
//! nothing of ours or of the underlay is touched.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::kernel::difference;
use overlay_tests::neighbour::{advice, dockers_rules};
use overlay_tests::{
    Container, Host, Lab, Neighbour, NetSpec, PingSummary, Quarters, eventually, patience,
};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/16", "fd00:9::/64"], mtu: 0, extra: &[] };

/// What `deploy` has for an operator who runs one of these programs.
const FOR_NETWORKD: &str = include_str!("../../deploy/10-overlayd.network");
const FOR_NETWORKMANAGER: &str = include_str!("../../deploy/10-overlayd-unmanaged.conf");

/// Two hosts and three containers that reach each other.
struct Scene {
    a: Host,
    b: Host,
    c1: Container,
    c2: Container,
    c3: Container,
}

impl Scene {
    fn new(lab: &Lab) -> Result<Self> {
        let [a, b] = lab.hosts(["a", "b"])?;
        b.net_create("demo", DEMO)?;
        a.knows_net("demo")?;
        let (c1, c2, c3) =
            (a.attach("demo", "c1")?, b.attach("demo", "c2")?, a.attach("demo", "c3")?);
        c1.ping(c2.ip())?;
        c1.ping(c3.ip())?;
        a.knows_all()?;
        a.at_rest()?;
        Ok(Self { a, b, c1, c2, c3 })
    }

    /// Everything of ours on a, as `ip`, `bridge` and `nft` show it.
    fn ours(&self) -> Result<String> {
        let links = self.a.our_links()?;
        let names: Vec<&str> = links.iter().map(|(name, _)| name.as_str()).collect();
        Ok(self.a.snapshot_of(&names)? + &self.a.exec("nft -s list table inet overlayd")?)
    }

    fn unchanged(&self, before: &str, after: &str) -> Result<()> {
        let lines = difference(before, &self.ours()?);
        ensure!(lines.is_none(), "{after}, ours differs: {}", lines.unwrap_or_default());
        let repairs = self.repairs()?;
        ensure!(repairs == 0, "{after}, {repairs} objects had been changed");
        Ok(())
    }

    /// Ours is as it was, put back if need be. Which groups the kernel listens to follows from
    /// settings of the links that NetworkManager makes as it likes (those of routers). A link-local address that NetworkManager has
    /// given a link of ours stays there: addresses that we did not set are not ours to remove.
    fn as_before(&self, before: &str) -> Result<()> {
        let is_ours = |line: &str| {
            !["inet6 fe80::", "33:33:00:00:00:02", "33:33:ff:00:00:00", "anycast"]
                .iter()
                .any(|w| line.contains(w))
        };
        // What was made anew is listed in another order.
        let sorted = |text: &str| {
            let mut lines: Vec<&str> = text.lines().filter(|line| is_ours(line)).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        eventually("ours is as before", || {
            let lines = difference(&sorted(before), &sorted(&self.ours()?));
            ensure!(lines.is_none(), "{}", lines.unwrap_or_default());
            Ok(())
        })?;
        println!("{} objects were put back", self.repairs()?);
        self.a.at_rest()
    }

    fn repairs(&self) -> Result<u64> {
        Ok(self.a.status()?.counters.get("kernel_repairs").copied().unwrap_or(0))
    }

    /// What is lost between c1 and c2, and between c1 and c3, while `act` is done.
    fn lost_while(&self, act: impl FnOnce() -> Result<()>) -> Result<[PingSummary; 2]> {
        let streams = [self.c1.ping_stream(self.c2.ip())?, self.c1.ping_stream(self.c3.ip())?];
        act()?;
        let [far, near] = streams;
        let lost = [far.stop()?, near.stop()?];
        for (what, pings) in ["across hosts", "on the host"].iter().zip(&lost) {
            println!(
                "{what}: {} of {} pings lost, longest gap {} ms",
                pings.lost(),
                pings.sent,
                pings.longest_gap * 10
            );
        }
        Ok(lost)
    }

    fn lossless_while(&self, claim: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        for pings in self.lost_while(act)? {
            pings.expect_lossless(claim)?;
        }
        Ok(())
    }

    /// The warning that has all of `words`.
    fn warning(&self, words: &[&str]) -> Result<String> {
        eventually(&format!("a warning of {words:?}"), || {
            let warnings = self.a.status()?.warnings;
            let fits = |w: &&String| words.iter().all(|word| w.contains(word));
            warnings.iter().find(fits).cloned().with_context(|| format!("{warnings:?}"))
        })
    }

    /// What is bridged passes the rules of others; what is routed is the business of
    /// `firewalls.rs`.
    fn no_warning(&self) -> Result<()> {
        eventually("there is no warning", || {
            let mut warnings = self.a.status()?.warnings;
            warnings.retain(|warning| !warning.contains(" by eth0"));
            ensure!(warnings.is_empty(), "{warnings:?}");
            Ok(())
        })
    }
}

fn networkd(scene: &Scene, quarters: &Quarters) -> Result<Neighbour> {
    // systemd makes it, by RuntimeDirectory= of the unit.
    quarters.exec("install -d -o systemd-network -g systemd-network /run/systemd/netif")?;
    let mut networkd = quarters.start("/lib/systemd/systemd-networkd", &[])?;
    networkd.serves(|| {
        let list = quarters.exec("networkctl --no-pager --no-legend list")?;
        let eth0 = list.lines().find(|line| line.contains(" eth0 "));
        ensure!(eth0.is_some_and(|line| line.trim_end().ends_with("configured")), "{list}");
        let route = scene.a.exec("ip route show default")?;
        ensure!(route.contains("proto static"), "{route}");
        Ok(())
    })?;
    Ok(networkd)
}

/// The underlay's address goes and comes in one breath of networkd.
const READDRESSED: Duration = Duration::from_millis(500);

#[test]
fn systemd_networkd_that_manages_the_underlay_costs_no_packet() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let (a, quarters) = (&scene.a, Quarters::on(&scene.a)?);
        // With ManageForeignRoutes, ManageForeignRoutingPolicyRules and KeepConfiguration as they
        // are when nobody says anything: it removes what it does not know of links that it manages.
        quarters.write(
            "/etc/systemd/network/80-eth.network",
            "[Match]\nName=eth*\n[Network]\nAddress=192.0.2.1/24\nAddress=2001:db8::1/64\n\
             Gateway=192.0.2.254\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        )?;
        let before = scene.ours()?;
        let mut second = None;
        scene.lossless_while("networkd starts, reloads and restarts", || {
            let first = networkd(&scene, &quarters)?;
            quarters.exec("networkctl reload")?;
            first.stop()?;
            second = Some(networkd(&scene, &quarters)?);
            scene.unchanged(&before, "with networkd")?;

            // And what is networkd's stays, whatever the daemon does.
            let theirs =
                a.exec("ip route show proto static")? + &a.exec("ip addr show dev eth0")?;
            a.kill()?;
            a.start()?;
            a.at_rest()?;
            let now = a.exec("ip route show proto static")? + &a.exec("ip addr show dev eth0")?;
            ensure!(theirs == now, "{:?}", difference(&theirs, &now));
            Ok(())
        })?;

        // Told to begin anew, it takes the address of the underlay away and gives it back.
        println!("networkctl reconfigure");
        let lost = scene.lost_while(|| quarters.exec("networkctl reconfigure eth0").map(drop))?;
        let gap = Duration::from_millis(lost[0].longest_gap * 10);
        ensure!(gap < patience(READDRESSED), "{gap:?} without an answer");
        lost[1].expect_lossless("the underlay is without address for a moment")?;
        second.context("it was started")?.stop()?;
        scene.unchanged(&before, "after networkd")
    })
}

#[test]
fn systemd_networkd_that_takes_every_link_leaves_ours_with_the_file_from_deploy() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let quarters = Quarters::on(&scene.a)?;
        quarters.write(
            "/etc/systemd/network/80-eth.network",
            "[Match]\nName=eth*\n[Network]\nAddress=192.0.2.1/24\nAddress=2001:db8::1/64\n\
             Gateway=192.0.2.254\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        )?;
        quarters.write("/etc/systemd/network/10-overlayd.network", FOR_NETWORKD)?;
        quarters.write(
            "/etc/systemd/network/90-all.network",
            "[Match]\nName=*\n[Network]\nLinkLocalAddressing=ipv6\nAddress=198.51.100.1/24\n",
        )?;
        let before = scene.ours()?;
        scene.lossless_while("networkd starts and reloads", || {
            let networkd = networkd(&scene, &quarters)?;
            quarters.exec("networkctl reload")?;
            let list = quarters.exec("networkctl --no-pager --no-legend list")?;
            for (name, _) in scene.a.our_links()? {
                let line = list.lines().find(|line| line.contains(&name)).context(list.clone())?;
                ensure!(line.trim_end().ends_with("unmanaged"), "{line}");
            }
            networkd.stop()
        })?;
        scene.unchanged(&before, "with networkd")
    })
}

/// What NetworkManager undoes is done again within this.
const MENDED: Duration = Duration::from_secs(2);

fn network_manager(quarters: &Quarters) -> Result<Neighbour> {
    let mut manager = quarters.start("NetworkManager", &["--no-daemon"])?;
    manager.serves(|| {
        let devices = quarters.exec("nmcli --terse --fields DEVICE,STATE device")?;
        ensure!(devices.lines().any(|line| line.starts_with("ovb4097:")), "{devices}");
        // All are looked at by then.
        quarters.exec("nmcli --terse --fields STARTUP general").and_then(|startup| {
            ensure!(startup.trim() == "started", "{startup}");
            Ok(())
        })
    })?;
    Ok(manager)
}

#[test]
fn network_manager_without_configuration_looks_on() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let quarters = Quarters::on(&scene.a)?;
        let before = scene.ours()?;
        scene.lossless_while("NetworkManager starts, reloads and restarts", || {
            let first = network_manager(&quarters)?;
            quarters.exec("nmcli general reload")?;
            first.stop()?;
            let second = network_manager(&quarters)?;
            second.stop()
        })?;
        scene.unchanged(&before, "with NetworkManager")
    })
}

#[test]
fn network_manager_leaves_ours_when_told_to_manage_nothing_with_the_file_from_deploy() -> Result<()>
{
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let quarters = Quarters::on(&scene.a)?;
        quarters
            .write("/etc/NetworkManager/conf.d/10-overlayd-unmanaged.conf", FOR_NETWORKMANAGER)?;
        // The cable is not the question here.
        quarters.write(
            "/etc/NetworkManager/conf.d/20-eth.conf",
            "[keyfile]\nunmanaged-devices+=interface-name:eth0\n",
        )?;
        let before = scene.ours()?;
        // For links that it lets go it sets addrgenmode, which is put back.
        scene.lossless_while("networking goes off and on", || {
            let manager = network_manager(&quarters)?;
            let devices = quarters.exec("nmcli --terse --fields DEVICE,STATE device")?;
            for (name, _) in scene.a.our_links()? {
                ensure!(devices.contains(&format!("{name}:unmanaged")), "{name}: {devices}");
            }
            quarters.exec("nmcli networking off")?;
            quarters.exec("nmcli networking on")?;
            quarters.exec("nmcli general reload")?;
            manager.stop()
        })?;
        scene.as_before(&before)
    })
}

#[test]
fn network_manager_that_ends_all_networking_is_mended() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let quarters = Quarters::on(&scene.a)?;
        quarters.write(
            "/etc/NetworkManager/conf.d/20-eth.conf",
            "[keyfile]\nunmanaged-devices+=interface-name:eth0\n",
        )?;
        let before = scene.ours()?;
        let lost = scene.lost_while(|| {
            let manager = network_manager(&quarters)?;
            quarters.exec("nmcli networking off")?;
            quarters.exec("nmcli networking on")?;
            manager.stop()
        })?;
        for pings in lost {
            let gap = Duration::from_millis(pings.longest_gap * 10);
            ensure!(gap < patience(MENDED), "{gap:?} without an answer");
        }
        scene.as_before(&before)
    })
}

/// Frames that stay on a bridge pass the forward hook of the host.
fn bridged_packets_are_filtered(host: &Host) -> Result<()> {
    host.exec("sysctl -q -w net.bridge.bridge-nf-call-iptables=1")
        .context("this lab needs br_netfilter in the kernel (modprobe br_netfilter)")?;
    host.exec("sysctl -q -w net.bridge.bridge-nf-call-ip6tables=1").map(drop)
}

/// A reload of firewalld replaces all of its rules; until they are there, it
/// lets pass only what was under way, and VXLAN has no replies by which it
/// could tell.
const RELOAD: Duration = Duration::from_secs(4);

#[test]
fn firewalld_has_to_be_told_of_the_overlay_and_then_reloads_do_no_harm() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let (a, quarters) = (&scene.a, Quarters::on(&scene.a)?);
        bridged_packets_are_filtered(a)?;
        scene.no_warning()?;
        let before = scene.ours()?;
        let mut firewalld = quarters.start("firewalld", &["--nofork", "--nopid"])?;
        firewalld.serves(|| quarters.exec("firewall-cmd --state"))?;
        // With nothing allowed it is told, and traffic stops: firewalld is not ours to change.
        let warning = scene.warning(&["inet firewalld", "ovb4097", "bridge-nf-call-iptables"])?;
        scene.c1.cannot_ping(scene.c3.ip())?;
        scene.c1.cannot_ping(scene.c2.ip())?;

        for line in [
            "firewall-cmd -q --permanent --add-port=4789/udp",
            "firewall-cmd -q --permanent --add-port=7946/udp",
            "firewall-cmd -q --permanent --add-port=7946/tcp",
        ] {
            quarters.exec(line)?;
        }
        for line in advice(&warning)? {
            quarters.exec(line)?;
        }
        scene.c1.ping(scene.c3.ip())?;
        scene.c1.ping(scene.c2.ip())?;
        scene.no_warning()?;
        for reload in ["firewall-cmd --reload", "firewall-cmd --complete-reload"] {
            println!("{reload}");
            let lost = scene.lost_while(|| quarters.exec(reload).map(drop))?;
            for pings in lost {
                let gap = Duration::from_millis(pings.longest_gap * 10);
                ensure!(gap < patience(RELOAD), "{reload}: {gap:?} without an answer");
            }
            scene.unchanged(&before, reload)?;
        }
        firewalld.stop()?;
        scene.c1.ping(scene.c2.ip())?;
        scene.unchanged(&before, "after firewalld")
    })
}

fn docker_with(iptables: &str, named: &str) -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let a = &scene.a;
        bridged_packets_are_filtered(a)?;
        scene.no_warning()?;
        dockers_rules(a, iptables)?;
        let theirs = a.exec(&format!("{iptables} -S"))?;

        // Neither a rule of ours nor the setting of our bridge helps: it is told.
        scene.c1.cannot_ping(scene.c3.ip())?;
        scene.c1.cannot_ping(scene.c2.ip())?;
        a.exec("ip link set dev ovb4097 type bridge nf_call_iptables 0")?;
        scene.c1.cannot_ping(scene.c3.ip())?;
        let warning = scene.warning(&["FORWARD", named, "net.bridge.bridge-nf-call-iptables"])?;
        ensure!(theirs == a.exec(&format!("{iptables} -S"))?, "Docker's rules were touched");

        // What it says helps, and is enough.
        let [rule] = advice(&warning)?[..] else { bail!("{warning}") };
        ensure!(rule.contains("DOCKER-USER"), "{rule}");
        a.exec(rule)?;
        scene.lossless_while("Docker's rules stand, with ours among them", || {
            scene.c1.ping(scene.c3.ip())?;
            scene.c1.ping(scene.c2.ip())?;
            scene.c2.ping(scene.c1.ip())?;
            scene.c1.ping(scene.c2.ip6())
        })?;
        scene.no_warning()?;

        // And so does the sysctl, where it is nobody's.
        a.exec(&rule.replace(" -I ", " -D "))?;
        scene.c1.cannot_ping(scene.c3.ip())?;
        scene.warning(&["FORWARD"])?;
        a.exec("sysctl -q -w net.bridge.bridge-nf-call-iptables=0")?;
        scene.c1.ping(scene.c3.ip())?;
        scene.no_warning()?;

        // IPv6 has a sysctl and a policy of its own.
        a.exec(&format!("{} -w -P FORWARD DROP", iptables.replacen("ip", "ip6", 1)))?;
        scene.c1.cannot_ping(scene.c3.ip6())?;
        let warning = scene.warning(&["FORWARD", "net.bridge.bridge-nf-call-ip6tables"])?;
        advice(&warning)?.iter().try_for_each(|line| a.exec(line).map(drop))?;
        scene.c1.ping(scene.c3.ip6())?;
        scene.no_warning()
    })
}

#[test]
fn the_forward_policy_of_docker_is_told_with_what_helps() -> Result<()> {
    docker_with("iptables-nft", "nftables table ip filter")
}

#[test]
fn the_forward_policy_of_docker_by_iptables_legacy_is_told_with_what_helps() -> Result<()> {
    docker_with("iptables-legacy", "iptables-legacy")
}

fn threshold(family: &str) -> Result<usize> {
    let path = format!("/proc/sys/net/{family}/neigh/default/gc_thresh3");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    text.trim().parse().with_context(|| format!("{path}: {text}"))
}

/// `gc_thresh3` is one number for all network namespaces, and only the first
/// may write it: this is a machine with the number that it has.
#[test]
fn more_endpoints_than_gc_thresh3_have_their_neighbours_and_no_one_else_is_crowded_out()
-> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let threshold = threshold("ipv4")?.max(threshold("ipv6")?);
        let n = threshold + 500;
        ensure!(n < 30_000, "gc_thresh3 is {threshold} here: there is no subnet for more");
        let mut lines = String::new();
        for i in 0..n {
            let (high, low) = (i / 250, i % 250 + 1);
            let _ = writeln!(
                lines,
                "02:aa:00:00:{high:02x}:{low:02x} 10.9.{}.{low},fd00:9::5:{high:x}:{low:x}",
                high + 64
            );
        }
        let path = scene.b.dir().join("stations");
        std::fs::write(&path, lines)?;
        let path = path.display().to_string();
        let out = scene.b.ctl(&["endpoint", "import", "--net", "demo", &path])?;
        ensure!(out.code == 0, "{out:?}");
        eventually(&format!("a has the neighbours of {n} endpoints, of both families"), || {
            let all = scene.a.neigh("ovb4097")?;
            let held = |v4: bool| {
                let is_kept = |state: &[String]| state.iter().any(|s| s == "PERMANENT");
                let of = all.iter().filter(|e| e.ip.is_ipv4() == v4 && e.extern_learn);
                of.filter(|e| e.mac.is_some() && is_kept(&e.state)).count()
            };
            ensure!(held(true) > n && held(false) > n, "{} and {}", held(true), held(false));
            Ok(())
        })?;
        scene.a.at_rest()?;
        ensure!(scene.a.status()?.failed.is_empty(), "the kernel refused some");
        println!("{n} endpoints, two neighbours each, with gc_thresh3 {threshold}");

        // Ours are not counted: there is room for those that are.
        for i in 0..100 {
            scene.a.exec(&format!(
                "ip neigh replace 192.0.2.{} lladdr 02:00:00:00:02:99 dev eth0 nud reachable",
                100 + i
            ))?;
        }
        let others = scene.a.neigh("eth0")?.iter().filter(|e| e.mac.is_some()).count();
        ensure!(others >= 100, "{others} of 100 others");
        scene.a.exec("ip neigh flush dev eth0")?;
        scene.c1.ping(scene.c2.ip())
    })
}
