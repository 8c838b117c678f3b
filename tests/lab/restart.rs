//! A daemon is restarted, or its machine: packets do not notice the one, and
//! the other restores what a reboot can restore.
//!
//! ```text
//!   c1 ── host a 192.0.2.1 ──── underlay ──── host b 192.0.2.2 ── c2
//!              └ a hundred pings a second, all the time ┘
//! ```

use anyhow::{Result, bail, ensure};
use overlay_tests::kernel::named_like_ours;
use overlay_tests::monitor::Event;
use overlay_tests::{Container, Host, Lab, Monitor, NetSpec, eventually};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

fn pair(a: &Host, b: &Host) -> Result<(Container, Container)> {
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
    c1.ping(c2.ip())?;
    c2.ping(c1.ip())?;
    a.at_rest()?;
    b.at_rest()?;
    Ok((c1, c2))
}

/// Watches a host's links and entries while something happens to its daemon.
struct Watch {
    host: Host,
    links: Vec<(String, u32)>,
    endpoints: Vec<String>,
    monitors: [Monitor; 2],
}

impl Watch {
    fn over(host: &Host) -> Result<Self> {
        Ok(Self {
            host: host.clone(),
            links: host.our_links()?,
            endpoints: Self::ids(host)?,
            monitors: [host.monitor_fdb()?, host.monitor("ip -ts monitor link neigh addr")?],
        })
    }

    fn ids(host: &Host) -> Result<Vec<String>> {
        let mut ids: Vec<String> = host.endpoints()?.into_iter().map(|e| e.id).collect();
        ids.sort();
        Ok(ids)
    }

    /// Every link is the one that it was, and nothing of ours went away, not
    /// even to come back.
    fn nothing_flapped(&self) -> Result<()> {
        let links = self.host.our_links()?;
        ensure!(links == self.links, "links were {:?}, are {links:?}", self.links);
        eventually("the endpoints are those from before", || {
            let ids = Self::ids(&self.host)?;
            ensure!(ids == self.endpoints, "{:?} were, {ids:?} are", self.endpoints);
            Ok(())
        })?;
        for monitor in &self.monitors {
            let gone: Vec<Event> = monitor
                .events()?
                .into_iter()
                .filter(Event::is_deletion)
                .filter(|e| e.text.split([' ', ':', '@']).any(named_like_ours))
                .collect();
            ensure!(
                gone.is_empty(),
                "on {} went, to come back or not: {gone:#?}",
                self.host.name()
            );
        }
        Ok(())
    }
}

/// What is done to a daemon that must not be felt.
fn is_not_felt(what: &str, act: impl FnOnce(&Host, &Host) -> Result<()>) -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b)?;
        let watches = [Watch::over(&a)?, Watch::over(&b)?];
        let streams = [c1.ping_stream(c2.ip())?, c2.ping_stream(c1.ip())?];

        act(&a, &b)?;

        lab.all_up(&[a.clone(), b.clone()])?;
        for host in [&a, &b] {
            host.knows_all()?;
            host.at_rest()?;
        }
        streams[0].answers(50)?;
        for stream in streams {
            stream.stop()?.expect_lossless(what)?;
        }
        for watch in watches {
            watch.nothing_flapped()?;
        }
        // What was adopted is also in hand: it can be changed.
        a.detach("c1")?;
        eventually("b has forgotten c1", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(!fdb.knows(c1.mac()), "{fdb:?}");
            Ok(())
        })
    })
}

#[test]
fn kill_9_and_start_loses_no_packet_and_moves_no_entry() -> Result<()> {
    is_not_felt("a was killed and started", |a, _| {
        a.kill()?;
        a.start()
    })
}

#[test]
fn sigterm_and_start_loses_no_packet_and_moves_no_entry() -> Result<()> {
    is_not_felt("a was stopped and started", |a, _| {
        a.stop()?;
        a.start()
    })
}

#[test]
fn five_kills_in_a_row_lose_no_packet_and_move_no_entry() -> Result<()> {
    is_not_felt("a was killed five times", |a, _| {
        for _ in 0..5 {
            a.kill()?;
            a.start()?;
        }
        Ok(())
    })
}

#[test]
fn all_daemons_killed_at_once_lose_no_packet_and_move_no_entry() -> Result<()> {
    is_not_felt("all were killed and started", |a, b| {
        a.kill()?;
        b.kill()?;
        a.start()?;
        b.start()
    })
}

#[test]
fn what_changed_while_a_daemon_was_dead_is_put_right_when_it_starts() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b)?;
        let doomed = a.attach("demo", "doomed")?;
        eventually("b has it", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(fdb.knows(doomed.mac()), "{fdb:?}");
            Ok(())
        })?;

        a.kill()?;
        let c3 = b.attach("demo", "c3")?;
        b.detach("c2")?;
        a.remove_container(&doomed)?;
        a.exec("bridge link set dev ovx4097 neigh_suppress off")?;
        a.exec("bridge fdb append 00:00:00:00:00:00 dev ovx4097 dst 192.0.2.77 self permanent")?;
        a.start()?;

        eventually("a has c3, not c2, and no false replication", || {
            let fdb = a.fdb("ovx4097")?;
            ensure!(fdb.vtep_of(c3.mac()) == Some(b.vtep()) && !fdb.knows(c2.mac()), "{fdb:?}");
            ensure!(fdb.flood() == [b.vtep()].into(), "{fdb:?}");
            Ok(())
        })?;
        eventually("b has forgotten the container whose namespace is gone", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(!fdb.knows(doomed.mac()), "{fdb:?}");
            ensure!(b.endpoints()?.iter().all(|e| e.id != doomed.endpoint().id));
            Ok(())
        })?;
        a.at_rest()?;
        c1.ping(c3.ip())
    })
}

#[test]
fn a_reboot_restores_networks_and_drops_endpoints_whose_namespaces_are_gone() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let (c1, c2) = pair(&a, &b)?;
        a.net_create("alone", NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], ..DEMO })?;
        let before = a.networks()?;

        a.power_off()?;
        a.power_on()?;
        // A new container under the old name is another container: not to be adopted.
        let successor = a.container("c1")?;
        a.start()?;

        let after = a.networks()?;
        let names = |nets: &[overlay_api::v1::Network]| {
            nets.iter().map(|n| (n.id.clone(), n.name.clone(), n.vni)).collect::<Vec<_>>()
        };
        ensure!(names(&before) == names(&after), "{before:?} became {after:?}");
        eventually("a has dropped c1", || {
            let local: Vec<_> = a.endpoints()?.into_iter().filter(|e| e.local).collect();
            ensure!(local.is_empty(), "{local:?}");
            Ok(())
        })?;
        eventually("b has dropped c1", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(!fdb.knows(c1.mac()), "{fdb:?}");
            Ok(())
        })?;
        if let Ok(link) = successor.link("eth0") {
            bail!("the daemon touched a namespace that it was never given: {link:?}");
        }

        let back = a.attach("demo", "c1-again")?;
        back.ping(c2.ip())?;
        c2.ping(back.ip())
    })
}

#[test]
fn an_address_that_was_given_before_a_restart_is_not_given_again_after_it() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        a.net_create("demo", DEMO)?;
        let mut given = vec![a.attach("demo", "n0")?.ip(), a.attach("demo", "n1")?.ip()];
        a.kill()?;
        a.start()?;
        for n in 2..6 {
            given.push(a.attach("demo", &format!("n{n}"))?.ip());
        }
        let distinct: std::collections::BTreeSet<_> = given.iter().collect();
        ensure!(distinct.len() == given.len(), "{given:?}");
        Ok(())
    })
}
