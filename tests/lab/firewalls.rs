//! Beside the firewalls of others: the way out of containers and published ports, which are
//! routed, while firewalld, ufw, Docker's policy or somebody's `flush` have their say.
//!
//! ```text
//!   outside 192.0.2.200 ─── underlay ─── eth0  host a 192.0.2.1  ovb4097 ─── web 10.9.0.2
//!                                              firewalld, ufw, or the rules of Docker
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::neighbour::{advice, dockers_rules};
use overlay_tests::shell::run;
use overlay_tests::talk::{Outside, Server, Transfer, ask_tcp, ask_udp, expect};
use overlay_tests::{
    Container, Host, Lab, Neighbour, NetSpec, Quarters, dig, eventually, eventually_within,
};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

/// A host with a published container, and somebody outside; both serve.
struct Scene {
    a: Host,
    web: Container,
    outside: Outside,
    _servers: [Server; 3],
}

impl Scene {
    fn new(lab: &Lab) -> Result<Self> {
        let [a] = lab.hosts(["a"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        let ports = ["-p", "8080:80", "-p", "8081:81", "-p", "5353:5353/udp"];
        let web = a.attach_with("demo", "web", &ports)?;
        let servers = [
            Server::tcp(web.netns(), "web", 80)?,
            Server::udp(web.netns(), "dns", 5353)?,
            Server::tcp(outside.netns(), "outside", 80)?,
        ];
        let scene = Self { a, web, outside, _servers: servers };
        scene.all_is_well()?;
        Ok(scene)
    }

    fn at(&self, ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
        SocketAddr::new(ip.into(), port)
    }

    fn port_answers(&self) -> Result<()> {
        let answer = ask_tcp(self.outside.netns(), self.at(self.a.address(), 8080))?;
        expect(&answer, "web", self.outside.ip())
    }

    fn way_out_answers(&self) -> Result<()> {
        let answer = ask_tcp(self.web.netns(), self.at(self.outside.ip(), 80))?;
        expect(&answer, "outside", self.a.address().into())
    }

    /// In both families, from everywhere.
    fn all_is_well(&self) -> Result<()> {
        let (a, out) = (&self.a, self.outside.netns());
        self.port_answers().context("the port")?;
        self.way_out_answers().context("the way out")?;
        let answer = ask_udp(out, self.at(a.address(), 5353)).context("the port of UDP")?;
        expect(&answer, "dns", self.outside.ip())?;
        let answer = ask_tcp(out, self.at(a.address_v6(), 8080)).context("the port, IPv6")?;
        expect(&answer, "web", self.outside.ip6())?;
        let answer = ask_tcp(self.web.netns(), self.at(self.outside.ip6(), 80));
        expect(&answer.context("the way out, IPv6")?, "outside", a.address_v6().into())?;
        let answer = ask_tcp(a.netns(), self.at([127, 0, 0, 1], 8080)).context("from the host")?;
        ensure!(answer.0 == "web", "{answer:?}");
        let answer = ask_tcp(self.web.netns(), self.at(a.address(), 8080)).context("hairpin")?;
        expect(&answer, "web", "10.9.0.1".parse()?)
    }

    /// Connections that are there while `act` is done, in and out, go on, and all is well then.
    fn survives(&self, what: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let (web, out) = (self.web.netns(), self.outside.netns());
        let inward = Transfer::start(web, 81, out, self.at(self.a.address(), 8081))?;
        let outward = Transfer::start(out, 82, web, self.at(self.outside.ip(), 82))?;
        inward.goes_on()?;
        outward.goes_on()?;
        act().with_context(|| what.to_owned())?;
        inward.goes_on().with_context(|| format!("by the published port, after {what}"))?;
        outward.goes_on().with_context(|| format!("by the way out, after {what}"))?;
        eventually(&format!("all is well after {what}"), || self.all_is_well())
    }

    /// The warnings of what is routed.
    fn warnings(&self) -> Result<Vec<String>> {
        let mut warnings = self.a.status()?.warnings;
        warnings.retain(|warning| warning.contains("eth0"));
        Ok(warnings)
    }

    /// The warning that has all of `words`.
    fn warning(&self, words: &[&str]) -> Result<String> {
        eventually(&format!("a warning of {words:?}"), || {
            let warnings = self.warnings()?;
            let fits = |w: &&String| words.iter().all(|word| w.contains(word));
            warnings.iter().find(fits).cloned().with_context(|| format!("{warnings:?}"))
        })
    }

    fn no_warning(&self) -> Result<()> {
        eventually("there is no warning", || {
            let warnings = self.warnings()?;
            ensure!(warnings.is_empty(), "{warnings:?}");
            Ok(())
        })
    }

    /// Types what the warnings say, until there is none.
    fn follow(&self, mut exec: impl FnMut(&str) -> Result<String>) -> Result<()> {
        // One for each of two protocols.
        for _ in 0..3 {
            let warnings = self.warnings()?;
            let Some(warning) = warnings.first() else { return Ok(()) };
            println!("{warning}");
            for line in advice(warning)? {
                exec(line)?;
            }
            eventually("what was told is no longer so", || {
                ensure!(!self.warnings()?.contains(warning), "{warning}");
                Ok(())
            })?;
        }
        bail!("there is no end of warnings: {:?}", self.warnings()?)
    }
}

fn firewalld(quarters: &Quarters) -> Result<Neighbour> {
    let mut firewalld = quarters.start("firewalld", &["--nofork", "--nopid"])?;
    firewalld.serves(|| quarters.exec("firewall-cmd --state"))?;
    Ok(firewalld)
}

/// PEERS' moby#15254, #12294, #48657: published ports dead after a reload.
#[test]
fn transfers_in_and_out_survive_each_reload_of_firewalld_and_ports_answer_afterwards() -> Result<()>
{
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        scene.no_warning()?;
        let quarters = Quarters::on(&scene.a)?;
        let firewalld = firewalld(&quarters)?;
        // Nothing is known of our bridges: what comes from them is rejected, ports are let in.
        let warning = scene.warning(&["inet firewalld", "ovb4097", "eth0", "zone=trusted"])?;
        ensure!(scene.way_out_answers().is_err(), "there is a way out, though: {warning}");
        scene.port_answers().context("firewalld accepts what was sent elsewhere on its way")?;
        scene.follow(|line| quarters.exec(line))?;
        scene.all_is_well()?;
        for reload in ["firewall-cmd --reload", "firewall-cmd --complete-reload"] {
            scene.survives(reload, || quarters.exec(reload).map(drop))?;
            scene.no_warning()?;
        }
        scene.survives("the end of firewalld", || firewalld.stop())
    })
}

fn ufw(scene: &Scene) -> Result<Quarters> {
    let quarters = Quarters::on(&scene.a)?;
    // As its package does when it is installed.
    for file in ["before", "before6", "after", "after6", "user", "user6"] {
        quarters.exec(&format!("cp /usr/share/ufw/{file}.rules /etc/ufw/"))?;
    }
    for file in ["ufw.conf", "before.init", "after.init"] {
        quarters.exec(&format!("cp /usr/share/ufw/{file} /etc/ufw/"))?;
    }
    Ok(quarters)
}

/// PEERS' moby#4737, #22054: what ufw denies is reachable, and the other way round.
#[test]
fn ufw_has_its_say_over_ports_and_the_way_out_and_then_reloads_do_no_harm() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let quarters = ufw(&scene)?;
        quarters.exec("ufw default deny")?;
        quarters.exec("ufw --force enable")?;
        // Nothing gets round it.
        let warning = scene.warning(&["chain FORWARD", "table ip filter", "published ports"])?;
        ensure!(
            warning.ends_with("`ufw route allow in on ovb+ && ufw route allow out on ovb+`"),
            "{warning}"
        );
        ensure!(scene.port_answers().is_err(), "the port answers, though: {warning}");
        ensure!(scene.way_out_answers().is_err(), "there is a way out, though: {warning}");

        // But what the host says to its containers, it says.
        let from = |netns: &str, ip: IpAddr| ask_tcp(netns, scene.at(ip, 8080));
        let (host, web) = (scene.a.netns(), scene.web.netns());
        from(host, [127, 0, 0, 1].into()).context("from the host")?;

        // Only out: the ports stay closed but to containers, and that is told.
        quarters.exec("ufw route allow in on ovb+")?;
        eventually("there is a way out", || scene.way_out_answers())?;
        from(web, scene.a.address().into()).context("from a container")?;
        ensure!(scene.port_answers().is_err(), "only the way out was opened");
        scene.warning(&["connections from eth0 to published ports", "ufw route allow out"])?;
        // One port alone, as people want it.
        let one = format!("ufw route allow out on ovb+ to {} port 80 proto tcp", scene.web.ip());
        quarters.exec(&one)?;
        eventually("the port answers", || scene.port_answers())?;
        let other = ask_udp(scene.outside.netns(), scene.at(scene.a.address(), 5353));
        ensure!(other.is_err(), "only one was opened: {other:?}");

        // Names are asked for at the gateway, which is the host.
        let gateway = || {
            let told =
                dig(scene.web.netns(), "@10.9.0.1 +tries=1 +time=1 web.demo.overlay.internal A")?;
            ensure!(told.data() == [scene.web.ip().to_string()], "{}", told.text);
            Ok(())
        };
        ensure!(gateway().is_err(), "the gateway answers, though ufw denies it");
        quarters.exec("ufw allow in on ovb+ to any port 53")?;
        eventually("the gateway answers", gateway)?;

        scene.follow(|line| quarters.exec(line))?;
        for line in ["ufw reload", "ufw default deny", "ufw disable"] {
            scene.survives(line, || quarters.exec(line).map(drop))?;
        }
        scene.no_warning()
    })
}

fn docker_with(iptables: &str, named: &str) -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        scene.no_warning()?;
        let (out, host) = (scene.outside.netns(), scene.a.address());
        run(&format!("ip -n {out} route add 10.9.0.0/24 via {host}"))?;
        let past = || ask_tcp(out, scene.at(scene.web.ip(), 80));
        past().context("the host forwards what knows the way")?;
        dockers_rules(&scene.a, iptables)?;
        let six = iptables.replacen("ip", "ip6", 1);
        scene.a.exec(&format!("{six} -w -P FORWARD DROP"))?;
        let warning = scene.warning(&["chain FORWARD", named, "published ports"])?;
        ensure!(warning.contains("-I DOCKER-USER -i ovb+ -j ACCEPT"), "{warning}");
        ensure!(scene.port_answers().is_err(), "the port answers, though: {warning}");
        ensure!(scene.way_out_answers().is_err(), "there is a way out, though: {warning}");
        scene.follow(|line| scene.a.exec(line))?;
        scene.all_is_well()?;
        // It goes as far as it says: containers are reached by their ports alone.
        ensure!(past().is_err(), "{:?}", past());
        scene.survives("a restart of the daemon", || {
            scene.a.kill()?;
            scene.a.start()
        })
    })
}

/// PEERS' moby#48411, #48492.
#[test]
fn the_policy_that_docker_sets_by_iptables_is_told_for_what_is_routed_and_what_is_told_helps()
-> Result<()> {
    docker_with("iptables-nft", "nftables table ip filter")
}

#[test]
fn the_policy_that_docker_sets_by_iptables_legacy_is_told_for_what_is_routed_and_what_is_told_helps()
-> Result<()> {
    docker_with("iptables-legacy", "iptables-legacy")
}

/// PEERS' moby#50443 and its like: somebody cleans up.
#[test]
fn ports_are_back_within_a_second_when_somebody_flushes_all_rules() -> Result<()> {
    Lab::run(|lab| {
        let scene = Scene::new(lab)?;
        let a = &scene.a;
        for flush in [
            "iptables-nft -F",
            "iptables-nft -t nat -F",
            "iptables-legacy -F",
            "iptables-legacy -t nat -F",
            "nft flush ruleset",
            "nft delete table inet overlayd_nat",
            "nft flush table inet overlayd_nat",
        ] {
            scene.survives(flush, || {
                let began = Instant::now();
                a.exec(flush)?;
                eventually_within(Duration::from_secs(1), "the port answers", || {
                    scene.port_answers()?;
                    scene.way_out_answers()
                })?;
                println!("{flush}: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
                Ok(())
            })?;
            a.at_rest()?;
        }
        Ok(())
    })
}
