//! An endpoint that moves to another host is reached there at once, while it is
//! attached at the old place still; what is left there is cut off and told; a
//! dead host's endpoint moves too; its address is given to nobody; what flaps is
//! frozen. Reached by whom it is never needs an ARP or ND question.
//!
//! ```text
//!   host a 192.0.2.1 ──────┬──── host b 192.0.2.2 ──────┬──── host c 192.0.2.3
//!     web 10.9.0.5, near   │       web, when it moves   │       caller
//!                     underlay 192.0.2.0/24
//! ```
//!
//! Gaps are told in the output (`--nocapture`). They are asserted with much room,
//! because labs share their machine.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::ping::PingStream;
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, NetSpec, Watcher, eventually, eventually_within,
};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

const WEB: &str = "02:00:00:00:00:05";
const WEB4: &str = "10.9.0.5";
const WEB6: &str = "fd00:9::5";

/// The longest that pings may stay unanswered by a move, in steps of 10 ms.
const GAP: u64 = 20;

struct Scene {
    a: Host,
    b: Host,
    c: Host,
    web: Container,
    near: Container,
    caller: Container,
}

/// `web` is on a, in the namespace `web-0`.
fn scene(lab: &Lab, options: &DaemonOptions) -> Result<Scene> {
    let [a, b, c] = lab.hosts_with(["a", "b", "c"], options)?;
    a.net_create("demo", DEMO)?;
    for host in [&b, &c] {
        host.knows_net("demo")?;
    }
    let web = a.container("web-0")?;
    let said = ["--mac", WEB, "--ip", WEB4, "--ip", WEB6];
    attach(&web, &[&["--name", "web"], said.as_slice()].concat())?;
    let (near, caller) = (a.attach("demo", "near")?, c.attach("demo", "caller")?);
    for from in [&near, &caller] {
        from.ping(WEB4.parse()?)?;
        from.ping(WEB6.parse()?)?;
    }
    Ok(Scene { a, b, c, web, near, caller })
}

fn attach(container: &Container, extra: &[&str]) -> Result<v1::Endpoint> {
    let args = ["attach", "--net", "demo", "--netns", container.netns()];
    container.host().ctl_json(&[&args, extra].concat())
}

/// A new container of that name, into which `web` moves.
fn moves(to: &Host, name: &str) -> Result<Container> {
    let container = to.container(name)?;
    let web = attach(&container, &["--name", "web", "--take-over"])?;
    ensure!(web.mac == WEB && web.state == "ready", "{web:?}");
    let ips: Vec<String> = web.ips.iter().map(|ip| ip.addr().to_string()).collect();
    ensure!(ips == [WEB4, WEB6], "{ips:?}");
    Ok(container)
}

/// What `host` has of `web` itself, in the state `state`.
fn web_on(host: &Host, state: &str) -> Result<v1::Endpoint> {
    let all = host.endpoints()?;
    let mut own = all.iter().filter(|e| e.local && e.mac == WEB);
    own.find(|e| e.state == state).cloned().with_context(|| format!("none is {state}: {all:#?}"))
}

/// Detaches what is left of `web` where it has moved away from.
fn tidy(host: &Host) -> Result<()> {
    let web = eventually("it has moved away", || web_on(host, "moved"))?;
    host.ctl_json::<serde_json::Value>(&["detach", &web.id]).map(drop)
}

fn led_to(host: &Host, to: &Host) -> Result<()> {
    eventually(&format!("{} leads to {}", host.name(), to.name()), || {
        let fdb = host.fdb("ovx4097")?;
        ensure!(fdb.vtep_of(WEB) == Some(to.vtep()), "{fdb:?}");
        Ok(())
    })
}

/// Both families, from afar and from beside the old place.
struct Streams(Vec<(&'static str, PingStream)>);

impl Streams {
    fn of(scene: &Scene) -> Result<Self> {
        let mut all = Vec::new();
        let from = [("caller", &scene.caller), ("near", &scene.near)];
        for (who, container) in from {
            all.push((who, container.ping_stream(WEB4.parse()?)?));
            all.push((who, container.ping_stream(WEB6.parse()?)?));
        }
        Ok(Self(all))
    }

    fn stop(self, what: &str) -> Result<()> {
        for ((who, stream), family) in self.0.into_iter().zip([4, 6, 4, 6]) {
            let sum = stream.stop()?;
            println!(
                "{what}: {who}, IPv{family}: {} of {} lost, longest gap {} ms",
                sum.lost(),
                sum.sent,
                sum.longest_gap * 10
            );
            ensure!(sum.longest_gap < GAP, "{what}: {who}, IPv{family}: {sum:?}");
        }
        Ok(())
    }
}

#[test]
fn a_container_moves_while_it_is_attached_still_and_back_again() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab, &DaemonOptions::default())?;
        let watcher = Watcher::start(&scene.a, "watch.json", &["--json", "--since", "0"])?;
        let streams = Streams::of(&scene)?;
        moves(&scene.b, "web-1")?;
        led_to(&scene.a, &scene.b)?;
        led_to(&scene.c, &scene.b)?;
        streams.stop("from a to b")?;

        // What is left on a is told there, and says nothing to anybody.
        let left = eventually("a has lost it", || web_on(&scene.a, "moved"))?;
        ensure!(left.reason.as_deref() == Some("it has moved to host b (move 1)"), "{left:?}");
        let (_, told) = watcher.sees("it has moved", |e| e.kind == "moved")?;
        ensure!((told.host.as_deref(), told.there) == (Some("b"), Some(false)), "{told:?}");
        ensure!(web_on(&scene.b, "ready")?.moves == 1);
        for host in [&scene.b, &scene.c] {
            let seen = host.endpoints()?.into_iter().filter(|e| e.mac == WEB);
            let hosts: Vec<String> = seen.map(|e| e.host).collect();
            ensure!(hosts == ["b"], "{} sees it on {hosts:?}", host.name());
        }
        let (old, caller) = (&scene.web, scene.caller.ip());
        let stream = scene.caller.ping_stream(WEB4.parse()?)?;
        old.cannot_ping(caller)?;
        old.cannot_ping(scene.near.ip())?;
        stream.stop()?.expect_lossless("what the old one says moves nothing")?;
        let dropped = scene.a.status()?.dropped;
        ensure!(dropped.iter().any(|d| d.port == left.host_ifname && d.packets > 0), "{dropped:?}");

        // It stays so when the daemon dies, and when it comes back.
        scene.a.kill()?;
        scene.a.start()?;
        scene.a.knows_all()?;
        scene.a.at_rest()?;
        web_on(&scene.a, "moved")?;
        old.cannot_ping(caller)?;

        // And back, into another namespace; then on again, with both at hand.
        let streams = Streams::of(&scene)?;
        moves(&scene.a, "web-2")?;
        led_to(&scene.c, &scene.a)?;
        led_to(&scene.b, &scene.a)?;
        streams.stop("from b back to a")?;
        ensure!(web_on(&scene.a, "ready")?.moves == 2);
        tidy(&scene.a)?;
        tidy(&scene.b)?;
        scene.caller.ping(WEB4.parse()?)?;
        let streams = Streams::of(&scene)?;
        moves(&scene.b, "web-3")?;
        led_to(&scene.c, &scene.b)?;
        streams.stop("from a to b once more")?;
        tidy(&scene.a)?;
        for host in [&scene.a, &scene.b, &scene.c] {
            host.at_rest()?;
        }
        Ok(())
    })
}

#[test]
fn without_the_word_it_is_refused_by_name_and_a_dead_hosts_endpoint_moves_with_it() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab, &DaemonOptions::default())?;
        let web = scene.b.container("web-1")?;
        let out =
            scene.b.ctl(&["attach", "--net", "demo", "--netns", web.netns(), "--ip", WEB4])?;
        ensure!(out.code == 1, "{out:?}");
        let said = format!(
            "overlayctl: cannot attach {} to demo: {WEB4} is taken by endpoint web on host a\n            \
             if it has moved here, say --take-over; list them with: overlayctl endpoints\n",
            web.netns()
        );
        ensure!(out.stderr == said, "{}", out.stderr);

        // The daemon dies, and its kernel forwards on: a stream goes on, too.
        scene.a.kill()?;
        let stream = scene.caller.ping_stream(WEB4.parse()?)?;
        let began = Instant::now();
        attach(&web, &["--name", "web", "--take-over"])?;
        println!("taken over from a dead daemon within {:?}", began.elapsed());
        led_to(&scene.c, &scene.b)?;
        let sum = stream.stop()?;
        println!("of a dead daemon: longest gap {} ms", sum.longest_gap * 10);
        ensure!(sum.longest_gap < GAP, "{sum:?}");
        // It comes back, and is told; it never asks for anything back.
        let stream = scene.caller.ping_stream(WEB4.parse()?)?;
        scene.a.start()?;
        eventually("a is told", || web_on(&scene.a, "moved"))?;
        led_to(&scene.a, &scene.b)?;
        scene.near.ping(WEB4.parse()?)?;
        stream.stop()?.expect_lossless("the return of the old host costs nothing")?;
        tidy(&scene.a)?;

        // The whole machine dies; it is noticed, or not yet.
        scene.b.power_off()?;
        let dead = Instant::now();
        moves(&scene.a, "web-2")?;
        scene.caller.ping(WEB4.parse()?)?;
        println!("reached {:?} after the machine died", dead.elapsed());
        // An audit says that its addresses are another's, by its exit code too.
        let audit = scene.a.ctl(&["ipam", "check"])?;
        ensure!(audit.code == 1 && audit.stdout.contains(WEB4), "{audit:?}");
        let figures = scene.a.exec(&format!(
            "curl -sS --unix-socket {} http://overlayd/metrics",
            scene.a.socket().display()
        ))?;
        let free = figures.lines().find_map(|line| {
            line.strip_prefix("overlayd_addresses_free{net=\"demo\"")?.rsplit(' ').next()
        });
        ensure!(free.is_some_and(|free| free.parse::<u64>().is_ok_and(|n| n > 0)), "{figures}");
        scene.b.power_on()?;
        scene.b.start()?;
        scene.b.knows_all()?;
        led_to(&scene.c, &scene.a)?;
        ensure!(scene.c.endpoints()?.iter().filter(|e| e.mac == WEB).count() == 1);
        Ok(())
    })
}

#[test]
fn an_address_that_moves_to_another_mac_is_reached_at_once_too() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab, &DaemonOptions::default())?;
        // Their caches have the former MAC, freshly confirmed.
        let streams = Streams::of(&scene)?;
        let other = scene.b.container("web-1")?;
        let mac = "02:00:00:00:00:66";
        let began = Instant::now();
        attach(
            &other,
            &["--mac", mac, "--ip", WEB4, "--ip", WEB6, "--name", "web", "--take-over"],
        )?;
        println!("attached within {:?}", began.elapsed());
        for (who, container) in [("caller", &scene.caller), ("near", &scene.near)] {
            for ip in [WEB4, WEB6] {
                eventually_within(Duration::from_secs(60), "the cache has the new MAC", || {
                    let neigh = container.exec(&format!("ip neigh show {ip}"))?;
                    ensure!(neigh.contains(mac), "{neigh}");
                    Ok(())
                })?;
                println!("{who} knows the new MAC of {ip} {:?} later", began.elapsed());
            }
        }
        streams.stop("to another MAC")
    })
}

#[test]
fn the_address_of_what_has_moved_is_given_to_nobody_until_it_is_free() -> Result<()> {
    let small = NetSpec { subnets: &["10.9.0.0/29"], ..DEMO };
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.net_create("demo", small)?;
        b.knows_net("demo")?;
        let web = a.attach("demo", "web")?;
        let ip = web.ip();
        let new = b.container("web-1")?;
        attach(&new, &["--name", "web", "--take-over"])?;
        eventually("a has lost it", || {
            ensure!(a.endpoints()?.iter().any(|e| e.local && e.state == "moved"));
            Ok(())
        })?;
        a.detach("web")?;
        // All that there are, on the host that gave the address.
        let mut got: Vec<IpAddr> = Vec::new();
        for n in 0..4 {
            got.push(a.attach("demo", &format!("c{n}"))?.ip());
        }
        ensure!(!got.contains(&ip), "{got:?}");
        a.kill()?;
        a.start()?;
        for host in [&a, &b] {
            let more = host.container(&format!("more-{}", host.name()))?;
            let out = host.ctl(&["attach", "--net", "demo", "--netns", more.netns()])?;
            ensure!(out.code == 1 && out.stderr.contains("no free address"), "{out:?}");
        }
        b.detach("web")?;
        let last = a.container("last")?;
        let endpoint = eventually("the address is free", || attach(&last, &["--name", "last"]))?;
        ensure!(endpoint.ips[0].addr() == ip, "{endpoint:?}");
        Ok(())
    })
}

#[test]
fn what_flaps_is_frozen_where_it_is_told_and_thawed() -> Result<()> {
    Lab::run(|lab| {
        let scene = scene(lab, &DaemonOptions::default())?;
        let Scene { a, b, c, .. } = &scene;
        for host in [a, b, c] {
            // Before that it takes what it hears for history.
            host.knows_all()?;
        }
        for n in 0..5 {
            let (from, to) = if n % 2 == 0 { (a, b) } else { (b, a) };
            moves(to, &format!("web-{}", n + 1))?;
            led_to(c, to)?;
            tidy(from)?;
        }
        // The sixth is refused where it is asked for.
        let sixth = a.container("web-6")?;
        let out = a.ctl(&[
            "attach",
            "--net",
            "demo",
            "--netns",
            sixth.netns(),
            "--name",
            "web",
            "--take-over",
        ])?;
        ensure!(out.code == 1, "{out:?}");
        let says = "moved 5 times within 180 s, between hosts a and b: frozen on b";
        ensure!(out.stderr.contains(says), "{}", out.stderr);
        ensure!(out.stderr.contains(WEB) && out.stderr.contains(WEB6), "{}", out.stderr);

        // One that has forgotten is let do it, and followed by nobody.
        let stream = scene.caller.ping_stream(WEB4.parse()?)?;
        a.kill()?;
        a.start()?;
        a.knows_all()?;
        let watcher = Watcher::start(c, "watch.json", &["--json", "--since", "0"])?;
        attach(&sixth, &["--name", "web", "--take-over"])?;
        let (_, told) = watcher.sees("it is frozen", |e| e.kind == "frozen")?;
        ensure!((told.host.as_deref(), told.count) == (Some("b"), Some(6)), "{told:?}");
        ensure!(told.level == "warning" && told.text.contains("between hosts a and b"), "{told:?}");
        for host in [b, c] {
            let status = host.status()?;
            ensure!(status.frozen.len() == 1 && status.frozen[0].what.len() == 3, "{status:#?}");
            ensure!(status.warnings.iter().any(|w| w.contains("endpoint thaw")), "{status:#?}");
            ensure!(status.counters["moves_frozen"] == 1, "{:?}", status.counters);
            ensure!(host.log_tail(40).contains("frozen on b"), "{}", host.log_tail(40));
        }
        led_to(c, b)?;
        web_on(b, "ready")?;
        stream.stop()?.expect_lossless("what is frozen goes on where it is")?;

        // Somebody has seen to it: they follow.
        for host in [b, c] {
            let out = host.ctl(&["endpoint", "thaw", WEB4])?;
            ensure!(out.code == 0, "{out:?}");
            ensure!(
                out.stdout == format!("{WEB} {WEB4} {WEB6} of demo may move again\n"),
                "{out:?}"
            );
            ensure!(host.status()?.frozen.is_empty());
        }
        led_to(c, a)?;
        tidy(b)?;
        scene.caller.ping(WEB4.parse()?)
    })
}
