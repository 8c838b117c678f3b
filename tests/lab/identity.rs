//! Two hosts that share what each should have of its own: a name, which
//! confuses people only, or an identity, because a state directory was copied.
//!
//! ```text
//!   host a 192.0.2.1 ──── underlay ──── host b 192.0.2.2
//!     c1      │                           c2, pinging c1
//!             └ host x 192.0.2.3, with a copy of the state directory of a
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::shell::run;
use overlay_tests::{DaemonOptions, Host, Lab, NetSpec, eventually, holds_for};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

fn warns(host: &Host, all_of: &[&str]) -> Result<()> {
    let warnings = host.status()?.warnings;
    let one = warnings.iter().any(|w| all_of.iter().all(|part| w.contains(part)));
    ensure!(one, "{} warns only of {warnings:?}", host.name());
    Ok(())
}

fn warns_of_nothing(host: &Host) -> Result<()> {
    let warnings = host.status()?.warnings;
    ensure!(warnings.is_empty(), "{} warns of {warnings:?}", host.name());
    Ok(())
}

fn joining(host: &Host) -> DaemonOptions {
    DaemonOptions { join: vec![format!("{}:7946", host.address())], ..DaemonOptions::default() }
}

#[test]
fn two_hosts_of_one_name_work_and_everybody_says_so_until_it_is_over() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let x = lab.host("x")?;
        x.start_with(&DaemonOptions { name: Some("b"), ..joining(&a) })?;
        lab.all_up(&[a.clone(), b.clone(), x.clone()])?;
        for host in [&a, &b, &x] {
            eventually("it is told with both addresses", || {
                warns(host, &["two hosts are called b", "192.0.2.2", "192.0.2.3", "--name"])
            })?;
            let noted = host.hosts()?.iter().filter(|h| !h.notes.is_empty()).count();
            ensure!(noted == 2, "{:?}", host.hosts()?);
            let told = std::fs::read_to_string(host.log_file())?;
            let times = told.matches("two hosts are called b").count();
            ensure!(times == 1, "{} says it {times} times", host.name());
        }
        a.net_create("demo", DEMO)?;
        let mut containers = Vec::new();
        for (host, name) in [(&b, "c2"), (&x, "c3")] {
            host.knows_net("demo")?;
            containers.push(host.attach("demo", name)?);
        }
        containers[0].ping(containers[1].ip())?;

        x.stop()?;
        x.start_with(&DaemonOptions { name: Some("x"), ..joining(&a) })?;
        for host in [&a, &b, &x] {
            eventually("it is over", || warns_of_nothing(host))?;
        }
        Ok(())
    })
}

#[test]
fn a_copied_state_directory_is_told_everywhere_and_cuts_nobody_off() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", DEMO)?;
        b.knows_net("demo")?;
        // The copy has it as well, and with it a bridge that says whose it is.
        let printer = ["endpoint", "add", "--net", "demo", "--mac", "02:00:00:00:00:99"];
        ensure!(a.ctl(&printer)?.code == 0);
        // The copy is made of a machine that is off, and started when a is back.
        let x = lab.host("x")?;
        a.stop()?;
        run(&format!("cp -a {} {}", a.state_dir().display(), x.state_dir().display()))?;
        a.start()?;
        b.sees("a", "up")?;
        let (c1, c2) = (a.attach("demo", "c1")?, b.attach("demo", "c2")?);
        c2.ping(c1.ip())?;
        let stream = c2.ping_stream(c1.ip())?;

        x.start_with(&joining(&b))?;
        let both = ["192.0.2.1:7946", "192.0.2.3:7946", "delete its state directory"];
        for host in [&a, &b, &x] {
            eventually("it is told with both addresses", || warns(host, &both))?;
            let noted = host.hosts()?.into_iter().filter(|h| !h.notes.is_empty()).count();
            ensure!(noted == 1, "{:?}", host.hosts()?);
        }
        warns(&x, &[&x.state_dir().display().to_string()])?;
        holds_for(Duration::from_secs(5), "b follows the original", || {
            let fdb = b.fdb("ovx4097")?;
            ensure!(fdb.vtep_of(c1.mac()) == Some(a.vtep()), "{fdb:?}");
            warns(&b, &both)
        })?;
        for host in [&a, &x] {
            let container = host.container(&format!("n-{}", host.name()))?;
            let refused = host.ctl(&["attach", "--net", "demo", "--netns", container.netns()])?;
            ensure!(refused.code == 1, "both own the same addresses: {refused:?}");
            ensure!(refused.stderr.contains("machines claim to be host"), "{refused:?}");
        }
        // Each copy that starts again takes a later incarnation, and nothing else.
        x.kill()?;
        x.start()?;
        eventually("it is told again", || warns(&x, &both))?;
        stream.stop()?.expect_lossless("a copy of a was started, twice")?;
        for host in [&a, &b] {
            let log = std::fs::read_to_string(host.log_file())?;
            let times = log.matches("claim to be host").count();
            ensure!(times <= 2, "{} says it {times} times, at each start of the copy", host.name());
        }

        // As the warning says. The kernel of x must not bring the identity back.
        let id = b.host_seen("a")?.id;
        let names_nobody = |host: &Host| -> Result<()> {
            let link = host.exec("ip -d link show ovb4097")?;
            ensure!(link.contains("alias overlayd:") && !link.contains(&id), "{link}");
            Ok(())
        };
        for host in [&a, &x] {
            eventually("its bridge does not say whose it is", || names_nobody(host))?;
        }
        x.stop()?;
        std::fs::remove_dir_all(x.state_dir())?;
        x.start()?;
        ensure!(x.status()?.host.id != id, "x is a again");
        for host in [&a, &b, &x] {
            eventually("it is over", || warns_of_nothing(host))?;
        }
        lab.all_up(&[a.clone(), b, x.clone()])?;
        a.attach("demo", "c4").context("a gives out addresses again")?;
        eventually("the bridge of a says whose it is", || {
            ensure!(a.exec("ip -d link show ovb4097")?.contains(&id));
            Ok(())
        })?;
        eventually("x has nothing of a", || {
            ensure!(x.our_links()?.is_empty(), "{:?}", x.our_links()?);
            Ok(())
        })?;
        x.knows_net("demo")?;
        x.attach("demo", "c3")?.ping(c2.ip())
    })
}
