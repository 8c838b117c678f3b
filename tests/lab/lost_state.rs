//! All that a daemon has written is lost: its state file, the copy of it, and who it
//! is. Packets do not notice, and what runs is found again.
//!
//! ```text
//!   c1, c3 ── host a 192.0.2.1 ──── underlay ──── host b 192.0.2.2 ── c2
//!   tap, printer ┘  └ a hundred pings a second, all the time ┘
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, NetSpec, eventually, eventually_within, holds_for,
};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// What there is of an endpoint that people see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    id: String,
    name: String,
    mac: String,
    ips: Vec<String>,
    labels: Vec<(String, String)>,
    netns: String,
    state: String,
}

fn seen(endpoint: v1::Endpoint) -> Seen {
    Seen {
        id: endpoint.id,
        name: endpoint.name.unwrap_or_default(),
        mac: endpoint.mac,
        ips: endpoint.ips.iter().map(ToString::to_string).collect(),
        labels: endpoint.labels.into_iter().collect(),
        netns: endpoint.netns.unwrap_or_default(),
        state: endpoint.state,
    }
}

fn endpoints_of(host: &Host, by: &Host) -> Result<BTreeSet<Seen>> {
    let all = by.endpoints()?.into_iter().filter(|e| e.host == host.name());
    Ok(all.map(seen).collect())
}

fn remove(dir: &Path, files: &[&str]) -> Result<()> {
    for file in files {
        let path = dir.join(file);
        fs::remove_file(&path).with_context(|| format!("{} is there", path.display()))?;
    }
    Ok(())
}

fn empty(dir: &Path) -> Result<()> {
    Ok(fs::remove_dir_all(dir)?)
}

struct Peopled {
    a: Host,
    b: Host,
    c1: Container,
    c2: Container,
    c3: Container,
}

/// Containers, a device and a static endpoint on host a, a container on host b.
fn peopled(lab: &Lab) -> Result<Peopled> {
    let [a, b] = lab.hosts(["a", "b"])?;
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    let c1 = a.attach_with("demo", "c1", &["--label", "tier=front", "--alias", "www"])?;
    let (c2, c3) = (b.attach("demo", "c2")?, a.attach("demo", "c3")?);
    a.exec("ip link add tap7 mtu 1450 type veth peer name tap7far")?;
    a.exec("ip link set tap7far up")?;
    let device = ["--device", "tap7", "--mac", "02:00:00:00:00:07", "--name", "vm"];
    let attached = a.ctl(&[&["attach", "--net", "demo"][..], &device].concat())?;
    ensure!(attached.code == 0, "{attached:?}");
    let printer = ["--mac", "02:00:00:00:00:99", "--ip", "10.9.0.99", "--name", "printer"];
    let added = a.ctl(&[&["endpoint", "add", "--net", "demo"][..], &printer].concat())?;
    ensure!(added.code == 0, "{added:?}");
    c1.ping(c2.ip())?;
    c1.ping(c3.ip())?;
    a.at_rest()?;
    b.at_rest()?;
    eventually("b knows all of a", || {
        let known = endpoints_of(&a, &b)?;
        ensure!(known.len() == 4, "{known:?}");
        Ok(())
    })?;
    Ok(Peopled { a, b, c1, c2, c3 })
}

/// Ends the daemon of a host that is talked to, has `loss` done to its state directory,
/// and starts it again.
fn is_found_again(kill: bool, loss: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    Lab::run(|lab| {
        let Peopled { a, b, c1, c2, c3 } = peopled(lab)?;
        let (id, before) = (b.host_seen("a")?.id, endpoints_of(&a, &a)?);
        let (links, entries) = (a.our_links()?, b.fdb("ovx4097")?);
        let streams =
            [c1.ping_stream(c2.ip())?, c2.ping_stream(c1.ip())?, c1.ping_stream(c3.ip())?];

        if kill {
            a.kill()?
        } else {
            a.stop()?
        };
        loss(&a.state_dir())?;
        a.start()?;

        eventually("a has its endpoints again", || {
            let now = endpoints_of(&a, &a)?;
            ensure!(now == before, "{before:#?} were, {now:#?} are");
            Ok(())
        })?;
        lab.all_up(&[a.clone(), b.clone()])?;
        a.knows_all()?;
        a.at_rest()?;
        eventually("b sees them as before", || {
            let now = endpoints_of(&a, &b)?;
            ensure!(now.len() == before.len(), "{now:#?}");
            ensure!(b.host_seen("a")?.id == id, "a is another host");
            Ok(())
        })?;
        streams[0].answers(50)?;
        for stream in streams {
            stream.stop()?.expect_lossless("the state directory was lost")?;
        }
        ensure!(a.our_links()? == links, "links were made anew");
        ensure!(b.fdb("ovx4097")? == entries, "{entries:?} were, {:?} are", b.fdb("ovx4097")?);
        let log = a.log_tail(2000);
        ensure!(log.contains("there is no copy of it"), "{log}");

        // It is in hand, and no address is given twice.
        eventually("all are heard", || {
            ensure!(a.status()?.warnings.is_empty(), "{:?}", a.status()?.warnings);
            Ok(())
        })?;
        let c4 = a.attach("demo", "c4")?;
        let used: BTreeSet<String> = before.iter().flat_map(|e| e.ips.clone()).collect();
        ensure!(used.iter().all(|ip| !ip.starts_with(&format!("{}/", c4.ip()))), "{}", c4.ip());
        c4.ping(c2.ip())?;
        for name in ["c3", "vm"] {
            a.detach(name)?;
        }
        ensure!(a.ctl(&["endpoint", "rm", "printer"])?.code == 0);
        eventually("the audit is content", || {
            let audit = a.ctl(&["ipam", "check"])?;
            ensure!(audit.code == 0, "{audit:?}");
            Ok(())
        })?;
        // And is what it is from now on.
        a.kill()?;
        a.start()?;
        a.knows_all()?;
        let names: BTreeSet<String> = endpoints_of(&a, &a)?.into_iter().map(|e| e.name).collect();
        ensure!(names == ["c1".to_owned(), "c4".to_owned()].into(), "{names:?}");
        c1.ping(c2.ip())
    })
}

#[test]
fn without_state_file_and_copy_a_killed_daemon_finds_all_again() -> Result<()> {
    is_found_again(true, |dir| remove(dir, &["state.redb", "state.copy"]))
}

#[test]
fn without_a_state_directory_a_killed_daemon_is_who_it_was_and_finds_all_again() -> Result<()> {
    is_found_again(true, empty)
}

#[test]
fn without_a_state_directory_a_stopped_daemon_is_who_it_was_and_finds_all_again() -> Result<()> {
    is_found_again(false, empty)
}

#[test]
fn garbage_in_all_files_is_no_more_than_their_loss() -> Result<()> {
    is_found_again(true, |dir| {
        for file in ["state.redb", "state.copy", "host-id"] {
            fs::write(dir.join(file), "x".repeat(5000))?;
        }
        Ok(())
    })
}

#[test]
fn alone_what_runs_goes_on_and_is_found_when_the_others_are_back() -> Result<()> {
    Lab::run(|lab| {
        let Peopled { a, b, c1, c2, c3 } = peopled(lab)?;
        let before = endpoints_of(&a, &a)?;
        let links = a.our_links()?;
        let stream = c1.ping_stream(c3.ip())?;
        b.stop()?;
        a.kill()?;
        empty(&a.state_dir())?;
        a.start()?;
        eventually("a says what it lacks", || {
            let warnings = a.status()?.warnings;
            let said = warnings.iter().any(|w| w.contains("nobody has told of network"));
            ensure!(said, "{warnings:?}");
            Ok(())
        })?;
        // By then it takes what it knows for all there is, otherwise.
        eventually_within(Duration::from_secs(60), "a has waited for long enough", || {
            let log = a.log_tail(2000);
            ensure!(log.contains("nobody has told of network"), "{log}");
            Ok(())
        })?;
        holds_for(Duration::from_secs(2), "nothing of a is torn down", || {
            ensure!(a.our_links()? == links);
            ensure!(!a.status()?.view_complete);
            Ok(())
        })?;
        let refused = a.ctl(&["net", "create", "other", "--vni", "4097"])?;
        ensure!(refused.code != 0 && refused.stderr.contains("nobody has told yet"), "{refused:?}");

        b.start_with(&DaemonOptions {
            join: vec![format!("{}:7946", a.address())],
            ..DaemonOptions::default()
        })?;
        let stations = |all: &BTreeSet<Seen>| -> BTreeSet<(String, Vec<String>)> {
            all.iter().map(|e| (e.mac.clone(), e.ips.clone())).collect()
        };
        eventually("a has its endpoints again", || {
            let now = endpoints_of(&a, &a)?;
            ensure!(stations(&now) == stations(&before), "{before:#?} were, {now:#?} are");
            Ok(())
        })?;
        stream.stop()?.expect_lossless("nobody was there who knew anything")?;
        eventually("all is as it should be", || {
            ensure!(a.status()?.warnings.is_empty(), "{:?}", a.status()?.warnings);
            Ok(())
        })?;
        ensure!(a.our_links()? == links);
        c2.ping(c1.ip())?;
        let c4 = a.attach("demo", "c4")?;
        c4.ping(c2.ip())?;
        // Its names are nowhere: it goes by its MAC.
        a.detach(c3.mac())
    })
}

#[test]
fn addresses_wait_for_a_host_that_may_have_been_given_some() -> Result<()> {
    Lab::run(|lab| {
        let hosts = lab.hosts(["a", "b", "c"])?;
        lab.all_up(&hosts)?;
        let [a, b, c] = &hosts;
        a.net_create("demo", DEMO)?;
        for host in &hosts {
            host.knows_net("demo")?;
            host.attach("demo", &format!("first-{}", host.name()))?;
        }
        c.kill()?;
        a.kill()?;
        empty(&a.state_dir())?;
        a.start()?;
        eventually("a has its endpoint again", || {
            ensure!(endpoints_of(a, a)?.len() == 1);
            Ok(())
        })?;
        let add = ["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:00:01"];
        eventually("it is told whom a waits for", || {
            let refused = a.ctl(&add)?;
            ensure!(refused.code != 0, "{refused:?}");
            ensure!(refused.stderr.contains("hosts that are away since: c"), "{refused:?}");
            ensure!(refused.stderr.contains("overlayctl host forget HOST --dead"), "{refused:?}");
            Ok(())
        })?;
        ensure!(b.ctl(&add)?.code == 0, "b is not concerned");
        c.start()?;
        lab.all_up(&hosts)?;
        eventually("a gives addresses out again", || {
            let added =
                a.ctl(&["endpoint", "add", "--net", "demo", "--mac", "02:aa:00:00:00:02"])?;
            ensure!(added.code == 0, "{added:?}");
            Ok(())
        })?;
        let all = b.endpoints()?;
        let ips: BTreeSet<String> =
            all.iter().flat_map(|e| e.ips.iter().map(ToString::to_string)).collect();
        ensure!(ips.len() == 5, "{all:?}");
        Ok(())
    })
}
