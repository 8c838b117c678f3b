//! Another hand at what is ours: it is put back at once, told and counted; a
//! hand that will not stop is met with patience; what is not ours stays.
//!
//! ```text
//!   host a                                          host b
//!     c1 ── ovb4097 ── ovx4097 ── underlay ────────── c2, and static endpoints
//!     another hand: ip, bridge, nft
//!     br-x, vx-x, table inet other: not ours
//! ```
//!
//! Times are those of `ip monitor` and `bridge monitor`: from the event that
//! shows the other hand's work to the event that shows it undone.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use overlay_api::v1::Event as Told;
use overlay_tests::kernel::difference;
use overlay_tests::monitor::Event;
use overlay_tests::shell::{command_in, feed_in, script_in, signal};
use overlay_tests::{
    Container, DaemonOptions, Host, Lab, Monitor, NetSpec, Watcher, eventually, eventually_within,
    patience,
};

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/16", "fd00:9::/64"], mtu: 0, extra: &[] };

/// A single object is back within this, in half of the cases.
const AT_ONCE: Duration = Duration::from_millis(50);

/// And in all of them, with a debug build beside other labs.
const AT_LAST: Duration = Duration::from_millis(500);

/// Everything that monitors of a host have heard, and how long repairs took.
struct Scene {
    host: Host,
    monitors: Vec<Monitor>,
    watcher: Watcher,
    took: Vec<(String, Duration)>,
}

impl Scene {
    fn new(host: &Host) -> Result<Self> {
        let monitors = vec![
            host.monitor("ip -ts -d monitor link address neigh")?,
            host.monitor("bridge -timestamp monitor fdb")?,
            host.monitor("bridge -d -timestamp monitor link")?,
        ];
        let watcher = Watcher::start(host, "repairs.json", &["--json"])?;
        Ok(Self { host: host.clone(), monitors, watcher, took: Vec::new() })
    }

    /// What was heard since `start`, in the order of time.
    fn since(&self, start: SystemTime) -> Result<Vec<Event>> {
        let mut all = Vec::new();
        for monitor in &self.monitors {
            all.extend(monitor.events()?);
        }
        all.retain(|event| event.at >= start);
        all.sort_by_key(|event| event.at);
        Ok(all)
    }

    /// The other hand does `script`; the monitors show `broken` and later
    /// `healed`, and the watcher is told of `object`.
    fn heals(&mut self, script: &str, broken: &str, healed: &str, object: &str) -> Result<()> {
        let told = self.watcher.events()?.len();
        let start = SystemTime::now();
        script_in(self.host.netns(), script)?;
        let took = eventually(&format!("`{script}` is undone"), || {
            let all = self.since(start)?;
            let shows = |words: &str| all.iter().position(|event| says(&event.text, words));
            let from = shows(broken).with_context(|| format!("no `{broken}` in {all:#?}"))?;
            let to = all[from..].iter().find(|event| says(&event.text, healed));
            let to = to.with_context(|| format!("no `{healed}` in {all:#?}"))?;
            Ok(to.at.duration_since(all[from].at)?)
        })?;
        println!("{:8.1} ms  {script}", took.as_secs_f64() * 1e3);
        self.took.push((script.to_owned(), took));
        eventually(&format!("the watcher is told of {object} after `{script}`"), || {
            let all = self.watcher.events()?;
            let is_it = |e: &&Told| {
                e.kind == "repaired" && e.object.as_deref().is_some_and(|o| o.contains(object))
            };
            let texts: Vec<_> = all[told..].iter().map(|e| &e.text).collect();
            let event = all[told..].iter().find(is_it).with_context(|| format!("{texts:#?}"))?;
            ensure!(event.command.is_some() && event.after_ms.is_some(), "{event:?}");
            Ok(())
        })?;
        self.host.at_rest()
    }

    /// The claim of all repairs so far: how long they took, and that they are
    /// counted.
    fn in_time(&self) -> Result<()> {
        let mut took: Vec<Duration> = self.took.iter().map(|(_, took)| *took).collect();
        took.sort();
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let (median, p99) = (took[took.len() / 2], took[(took.len() * 99).div_ceil(100) - 1]);
        println!(
            "{} repairs: median {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
            took.len(),
            ms(median),
            ms(p99),
            ms(took[took.len() - 1])
        );
        ensure!(median <= patience(AT_ONCE), "the median repair took {median:?}");
        ensure!(p99 <= patience(AT_LAST), "{:#?}", self.took);
        let status = self.host.status()?;
        let counted = status.counters.get("kernel_repairs").copied().unwrap_or(0);
        ensure!(counted >= took.len() as u64, "{counted} of {} are counted", took.len());
        ensure!(!status.repairs.is_empty(), "status shows none");
        Ok(())
    }
}

/// True if `text` has all of `words`, which `|` parts, and none of those that
/// begin with `!`.
fn says(text: &str, words: &str) -> bool {
    words.split('|').all(|word| match word.strip_prefix('!') {
        Some(not) => !text.contains(not),
        None => text.contains(word),
    })
}

/// `n` static endpoints on `host`: 10.9.64.0 and on.
fn import(host: &Host, n: u32) -> Result<()> {
    let mut lines = String::new();
    for i in 0..n {
        let (high, low) = (i / 256, i % 256);
        let _ = writeln!(lines, "02:aa:00:00:{high:02x}:{low:02x} 10.9.{}.{low}", 64 + high);
    }
    let path = host.dir().join("stations");
    std::fs::write(&path, lines)?;
    let path = path.display().to_string();
    let out = host.ctl(&["endpoint", "import", "--net", "demo", &path])?;
    ensure!(out.code == 0, "{out:?}");
    Ok(())
}

/// The network on both, which know enough to delete; c1 on a and c2 on b.
fn pair(lab: &Lab) -> Result<(Host, Host, Container, Container)> {
    let [a, b] = lab.hosts(["a", "b"])?;
    b.net_create("demo", DEMO)?;
    a.knows_net("demo")?;
    let c1 = a.attach("demo", "c1")?;
    let c2 = b.attach("demo", "c2")?;
    a.knows_all()?;
    eventually("a has c2", || {
        let fdb = a.fdb("ovx4097")?;
        ensure!(fdb.knows(c2.mac()), "{fdb:?}");
        Ok(())
    })?;
    a.at_rest()?;
    Ok((a, b, c1, c2))
}

/// What is somebody else's, beside ours.
fn settle_strangers(host: &Host) -> Result<()> {
    for line in [
        "ip link add br-x address 02:00:00:00:77:01 type bridge stp_state 0",
        "ip link set br-x addrgenmode none",
        "ip addr add 10.77.0.1/24 dev br-x",
        "ip link add vx-x type vxlan id 9999 dstport 4789 local 192.0.2.99 nolearning",
        "ip link set vx-x addrgenmode none",
        "ip link set vx-x master br-x up",
        "ip link set br-x up",
        "bridge fdb add 02:42:0a:09:00:02 dev vx-x dst 192.0.2.98 self permanent",
        "ip neigh add 10.77.0.9 lladdr 02:42:0a:4d:00:09 dev br-x nud permanent",
    ] {
        host.exec(line)?;
    }
    feed_in(host.netns(), "nft -f -", "table inet other {\n chain c {\n counter accept\n }\n}\n")?;
    Ok(())
}

/// What is not ours is still as `before`.
fn untouched(host: &Host, before: &str) -> Result<()> {
    let changed = difference(before, &strangers(host)?);
    ensure!(changed.is_none(), "what is not ours changed: {changed:?}");
    Ok(())
}

fn strangers(host: &Host) -> Result<String> {
    Ok(host.snapshot_of(&["br-x", "vx-x"])? + &host.exec("nft list table inet other")?)
}

#[test]
fn an_entry_that_another_hand_changes_is_back_at_once() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c1, c2) = pair(lab)?;
        settle_strangers(&a)?;
        let before = strangers(&a)?;
        import(&b, 40)?;
        eventually("a has all stations", || {
            let n = a.fdb("ovx4097")?.unicast().len();
            ensure!(n == 41, "{n}");
            Ok(())
        })?;
        a.at_rest()?;
        let mut scene = Scene::new(&a)?;
        let (mac, ip, ip6) = (c2.mac().to_owned(), c2.ip(), c2.ip6());
        for (script, broken, healed, object) in [
            (
                format!("bridge fdb del {mac} dev ovx4097 dst 192.0.2.2 self"),
                format!("Deleted|{mac}|192.0.2.2"),
                format!("!Deleted|{mac}|dst 192.0.2.2|permanent"),
                format!("{mac} of ovx4097"),
            ),
            (
                format!("bridge fdb replace {mac} dev ovx4097 dst 192.0.2.99 self permanent"),
                format!("{mac}|dst 192.0.2.99"),
                format!("!Deleted|{mac}|dst 192.0.2.2|permanent"),
                format!("{mac} of ovx4097"),
            ),
            (
                format!("bridge fdb del {mac} dev ovx4097 master"),
                format!("Deleted|{mac}|master ovb4097"),
                format!("!Deleted|{mac}|master ovb4097|extern_learn"),
                format!("{mac} of ovb4097"),
            ),
            (
                format!(
                    "bridge fdb replace {mac} dev {} master static",
                    c1.endpoint().host_ifname.as_deref().context("a veth")?
                ),
                format!("{mac}|ove"),
                format!("!Deleted|{mac}|ovx4097|master ovb4097"),
                format!("{mac} of ovb4097"),
            ),
            (
                "bridge fdb del 00:00:00:00:00:00 dev ovx4097 dst 192.0.2.2 self".into(),
                "Deleted|00:00:00:00:00:00|192.0.2.2".into(),
                "!Deleted|00:00:00:00:00:00|192.0.2.2".into(),
                "192.0.2.2 of ovx4097".into(),
            ),
            (
                "bridge fdb append 00:00:00:00:00:00 dev ovx4097 dst 192.0.2.77 self permanent"
                    .into(),
                "!Deleted|192.0.2.77".into(),
                "Deleted|192.0.2.77".into(),
                "192.0.2.77 of ovx4097".into(),
            ),
            (
                format!("ip neigh del {ip} dev ovb4097"),
                format!("{ip} dev ovb4097|!PERMANENT"),
                format!("!Deleted|{ip} dev ovb4097|{mac}|PERMANENT"),
                format!("neighbour {ip} on ovb4097"),
            ),
            (
                format!("ip neigh replace {ip} lladdr 02:00:00:00:00:99 dev ovb4097 nud permanent"),
                format!("{ip} dev ovb4097|02:00:00:00:00:99"),
                format!("!Deleted|{ip} dev ovb4097|{mac}|PERMANENT"),
                format!("neighbour {ip} on ovb4097"),
            ),
            (
                format!("ip neigh replace {ip} lladdr {mac} dev ovb4097 nud reachable"),
                format!("{ip} dev ovb4097|REACHABLE"),
                format!("!Deleted|{ip} dev ovb4097|{mac}|PERMANENT"),
                format!("neighbour {ip} on ovb4097"),
            ),
            (
                format!("ip neigh del {ip6} dev ovb4097"),
                format!("{ip6} dev ovb4097|!PERMANENT"),
                format!("!Deleted|{ip6} dev ovb4097|{mac}|PERMANENT"),
                format!("neighbour {ip6} on ovb4097"),
            ),
            (
                "ip addr del 10.9.0.1/16 dev ovb4097".into(),
                "Deleted|10.9.0.1/16".into(),
                "!Deleted|10.9.0.1/16".into(),
                "address 10.9.0.1/16 on ovb4097".into(),
            ),
            (
                "ip addr del fd00:9::1/64 dev ovb4097".into(),
                "Deleted|fd00:9::1/64".into(),
                "!Deleted|fd00:9::1/64".into(),
                "address fd00:9::1/64 on ovb4097".into(),
            ),
            (
                "ip addr add 10.9.0.250/16 dev ovb4097".into(),
                "!Deleted|10.9.0.250/16".into(),
                "Deleted|10.9.0.250/16".into(),
                "address 10.9.0.250/16 on ovb4097".into(),
            ),
        ] {
            scene.heals(&script, &broken, &healed, &object)?;
        }
        // Many of a kind, for the figures.
        for i in 0..40 {
            let mac = format!("02:aa:00:00:00:{i:02x}");
            scene.heals(
                &format!("bridge fdb del {mac} dev ovx4097 dst 192.0.2.2 self"),
                &format!("Deleted|{mac}"),
                &format!("!Deleted|{mac}|dst 192.0.2.2"),
                &format!("{mac} of ovx4097"),
            )?;
        }
        scene.in_time()?;

        // All of them at once: one event, not forty.
        let told = scene.watcher.events()?.len();
        a.exec("ip neigh flush dev ovb4097 nud all")?;
        eventually("all neighbours are back", || {
            let all = a.neigh("ovb4097")?;
            let n = all.iter().filter(|n| n.state.contains(&"PERMANENT".to_owned())).count();
            // Two of each container, one of each station.
            ensure!(n == 44, "{n}: {all:?}");
            Ok(())
        })?;
        let count = |e: &Told| e.count.unwrap_or(0);
        eventually("and told together", || {
            let all = scene.watcher.events()?;
            let of: Vec<&Told> = all[told..].iter().filter(|e| e.kind == "repaired").collect();
            let (n, objects) = (of.len() as u64, of.iter().map(|e| count(e)).sum::<u64>());
            // `ip` goes on until all are gone, for ten rounds at most.
            ensure!(objects >= 44 && n * 3 < objects, "{n} events of {objects} objects");
            Ok(())
        })?;
        c1.ping(c2.ip())?;
        untouched(&a, &before)
    })
}

#[test]
fn a_link_that_another_hand_bends_is_bent_back_at_once() -> Result<()> {
    Lab::run(|lab| {
        let (a, _b, c1, c2) = pair(lab)?;
        settle_strangers(&a)?;
        let before = strangers(&a)?;
        let mut scene = Scene::new(&a)?;
        let port = c1.endpoint().host_ifname.clone().context("a veth")?;
        let mac = a.link("ovb4097")?.mac;
        // At most four a link, since a sixth within ten seconds is a fight.
        for (script, broken, healed, object) in [
            (
                "ip link set ovx4097 nomaster",
                "ovx4097|!master",
                "!Deleted|ovx4097|master ovb4097",
                "link ovx4097",
            ),
            (
                "ip link set ovx4097 master br-x",
                "ovx4097|master br-x",
                "!Deleted|ovx4097|master ovb4097",
                "link ovx4097",
            ),
            ("ip link set ovx4097 down", "ovx4097:|!,UP", "ovx4097:|,UP|!Deleted", "link ovx4097"),
            (
                "ip link set ovx4097 mtu 1400",
                "ovx4097|mtu 1400",
                "ovx4097|mtu 1450|!Deleted",
                "link ovx4097",
            ),
            (
                "ip link set ovb4097 mtu 1300",
                "ovb4097|mtu 1300",
                "ovb4097|mtu 1450|!Deleted",
                "link ovb4097",
            ),
            (
                "ip link set ovb4097 address 02:00:00:00:00:01",
                "ovb4097|link/ether 02:00:00:00:00:01",
                "ovb4097|link/ether MAC",
                "link ovb4097",
            ),
            (
                "ip link set ovb4097 type bridge mcast_snooping 1",
                "ovb4097|mcast_snooping 1",
                "ovb4097|mcast_snooping 0",
                "link ovb4097",
            ),
            (
                "ip link set PORT nomaster",
                "PORT|!master",
                "!Deleted|PORT|master ovb4097",
                "link PORT",
            ),
            ("ip link set PORT down", "PORT|!,UP", "PORT|,UP|!Deleted", "link PORT"),
            (
                "bridge link set dev PORT isolated on",
                "PORT|isolated on",
                "PORT|isolated off",
                "link PORT",
            ),
        ] {
            let fill = |text: &str| text.replace("PORT", &port).replace("MAC", &mac);
            scene.heals(&fill(script), &fill(broken), &fill(healed), &fill(object))?;
        }
        c1.ping(c2.ip())?;
        scene.in_time()?;
        untouched(&a, &before)
    })
}

#[test]
fn flags_of_ports_and_tables_of_nftables_are_put_back_and_told_by_whom() -> Result<()> {
    Lab::run(|lab| {
        let (a, _b, c1, c2) = pair(lab)?;
        settle_strangers(&a)?;
        let before = strangers(&a)?;
        let mut scene = Scene::new(&a)?;
        for (script, broken, healed) in [
            (
                "bridge link set dev ovx4097 neigh_suppress off",
                "ovx4097|neigh_suppress off",
                "ovx4097|neigh_suppress on",
            ),
            (
                "bridge link set dev ovx4097 learning on",
                "ovx4097|learning on",
                "ovx4097|learning off",
            ),
            ("bridge link set dev ovx4097 flood off", "ovx4097| flood off", "ovx4097| flood on"),
            (
                "ip link set ovx4097 type vxlan learning",
                "ovx4097|vxlan id 4097|!nolearning",
                "ovx4097|vxlan id 4097|nolearning",
            ),
        ] {
            scene.heals(script, broken, healed, "link ovx4097")?;
        }
        scene.in_time()?;

        // nft monitor says no times: from when the other hand has done its work.
        let listed = || a.exec("nft -s list table inet overlayd");
        let table = listed()?;
        for (round, script) in [
            "nft flush table inet overlayd",
            "nft delete table inet overlayd",
            "nft delete rule inet overlayd forward handle $(nft -a list chain inet overlayd forward | \
             sed -n 's/.*goto routed # handle //p')",
            "nft add rule inet overlayd forward ip saddr 10.9.0.66 counter drop",
            "nft 'add chain inet overlayd mine { type filter hook input priority 0; }'",
        ]
        .into_iter()
        .enumerate()
        {
            let told = scene.watcher.events()?.len();
            script_in(a.netns(), script)?;
            let start = Instant::now();
            eventually(&format!("the table is back after `{script}`"), || {
                let now = listed().unwrap_or_default();
                ensure!(now == table, "{now}");
                Ok(())
            })?;
            let took = start.elapsed();
            println!("{:8.1} ms  {script}", took.as_secs_f64() * 1e3);
            ensure!(took <= patience(AT_LAST), "{took:?}");
            eventually("the watcher is told that it was nft", || {
                let all = scene.watcher.events()?;
                let by = all[told..].iter().find(|e| {
                    e.kind == "repaired" && e.object.as_deref() == Some("nftables table inet overlayd")
                });
                let by = by.with_context(|| format!("round {round}: {:#?}", &all[told..]))?;
                let text = by.by.clone().unwrap_or_default();
                ensure!(text.starts_with("nft (pid "), "{by:?}");
                Ok(())
            })?;
        }
        c1.ping(c2.ip())?;
        a.at_rest()?;
        untouched(&a, &before)
    })
}

#[test]
fn a_device_that_another_hand_deletes_or_makes_anew_is_back_with_all_that_is_on_it() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c1, c2) = pair(lab)?;
        settle_strangers(&a)?;
        import(&b, 40)?;
        eventually("a has all stations", || {
            let n = a.fdb("ovx4097")?.unicast().len();
            ensure!(n == 41, "{n}");
            Ok(())
        })?;
        a.at_rest()?;
        let before = strangers(&a)?;
        let mut scene = Scene::new(&a)?;
        let port = c1.endpoint().host_ifname.clone().context("a veth")?;
        let alias = a.link("ovx4097")?.alias.context("an alias")?;
        let (mac, ip) = (c2.mac().to_owned(), c2.ip());

        let back = format!("!Deleted|{mac}|dst 192.0.2.2|permanent");
        scene.heals("ip link del ovx4097", "Deleted|ovx4097", &back, "link ovx4097")?;
        // Others of its name that claim to be ours: the same in what is fixed, then not. A
        // daemon that runs would be back before them.
        for with in ["dstport 4789 local 192.0.2.1", "dstport 8472 local 192.0.2.1"] {
            let told = scene.watcher.events()?.len();
            a.freeze()?;
            for line in [
                "ip link del ovx4097".to_owned(),
                format!("ip link add ovx4097 mtu 1400 type vxlan id 4097 {with}"),
                format!("ip link set ovx4097 alias {alias}"),
            ] {
                a.exec(&line)?;
            }
            let start = SystemTime::now();
            a.thaw()?;
            let took = eventually(&format!("the device is right again, made with {with}"), || {
                let all = scene.since(start)?;
                let to = all.iter().find(|event| says(&event.text, &back));
                Ok(to.context("no entry")?.at.duration_since(start)?)
            })?;
            println!("{:8.1} ms  made anew with {with}", took.as_secs_f64() * 1e3);
            scene.took.push((with.to_owned(), took));
            eventually("the watcher is told", || {
                let all = scene.watcher.events()?;
                let is_it = |e: &Told| e.kind == "repaired" && e.text.contains("link ovx4097");
                ensure!(all[told..].iter().any(is_it), "{:#?}", &all[told..]);
                Ok(())
            })?;
            a.at_rest()?;
        }
        let link = a.exec("ip -d link show ovx4097")?;
        ensure!(says(&link, "mtu 1450|id 4097|dstport 4789|nolearning|master ovb4097"), "{link}");

        scene.heals(
            "ip link del ovb4097",
            "Deleted|ovb4097",
            &format!("!Deleted|{ip} dev ovb4097|{mac}|PERMANENT"),
            "link ovb4097",
        )?;
        scene.heals(
            &format!("ip link del {port}"),
            &format!("Deleted|{port}"),
            &format!("!Deleted|{port}|master ovb4097"),
            &format!("link {port}"),
        )?;
        eventually("c1 reaches c2", || c1.ping_once(c2.ip()))?;
        scene.in_time()?;
        // What fell with a link is told with it: one event a time.
        let told: Vec<Told> =
            scene.watcher.events()?.into_iter().filter(|e| e.kind == "repaired").collect();
        let with: Vec<_> = told.iter().map(|e| (e.object.clone(), e.count)).collect();
        ensure!(told.iter().any(|e| e.count.is_some_and(|n| n > 40)), "{with:?}");
        ensure!(told.len() < 20, "{with:#?}");

        // A stranger in its place is not ours to touch: refused, told; when it goes, ours comes.
        a.freeze()?;
        a.exec("ip link del ovx4097")?;
        a.exec("ip link add ovx4097 type bridge")?;
        a.thaw()?;
        eventually("status says who is in the way", || {
            let failed = a.status()?.failed;
            let why = failed.first().context("nothing failed")?;
            ensure!(why.reason.contains("a link ovx4097 exists that is not overlayd's"), "{why:?}");
            Ok(())
        })?;
        let link = a.exec("ip -d link show ovx4097")?;
        ensure!(says(&link, " bridge |!vxlan"), "{link}");
        a.exec("ip link del ovx4097")?;
        eventually("ours is back", || {
            let n = a.fdb("ovx4097")?.unicast().len();
            ensure!(n == 41, "{n}");
            Ok(())
        })?;
        a.at_rest()?;
        untouched(&a, &before)
    })
}

#[test]
fn a_fight_costs_little_is_told_and_ends_when_the_other_hand_rests() -> Result<()> {
    Lab::run(|lab| {
        let (a, _b, c1, c2) = pair(lab)?;
        let scene = Scene::new(&a)?;
        let writes = || -> Result<u64> {
            Ok(a.status()?.counters.get("kernel_writes").copied().unwrap_or(0))
        };
        let before = writes()?;
        // As soon as it is back, it goes again.
        let (ip, mac) = (c2.ip(), c2.mac());
        let script = format!(
            "while :; do ip neigh show {ip} dev ovb4097 | grep -q PERMANENT && \
             ip neigh del {ip} dev ovb4097; done"
        );
        let mut hand =
            command_in(a.netns(), "sh").args(["-c", &script]).stderr(Stdio::null()).spawn()?;
        let started = Instant::now();
        let (_, told) = scene
            .watcher
            .sees("there is a fight", |e| e.kind == "fight" && e.there == Some(true))?;
        println!("{}", told.text);
        let expected = format!("neighbour {ip} on ovb4097");
        ensure!(told.object.as_deref() == Some(&expected) && told.by.is_some(), "{told:?}");
        eventually("status names it", || {
            let status = a.status()?;
            let fight = status.fights.first().context("no fight")?;
            ensure!(fight.object == expected, "{fight:?}");
            let warned = status.warnings.iter().any(|w| w.contains(&expected));
            ensure!(warned, "{:?}", status.warnings);
            // Held for 1 s, 2 s, 4 s: eight put-backs within seven seconds or more.
            ensure!(fight.repairs >= 7, "{fight:?}");
            Ok(())
        })?;
        let lasted = started.elapsed();
        let cost = writes()? - before;
        println!("{cost} writes in {lasted:?} of fight");
        ensure!(cost <= 10, "{cost} writes in {lasted:?}");

        signal(&hand, Signal::SIGKILL)?;
        hand.wait()?;
        eventually("it is put back for good", || {
            let all = a.neigh("ovb4097")?;
            let entry = all.iter().find(|n| n.ip == ip).context("not there")?;
            ensure!(entry.mac.as_deref() == Some(mac), "{entry:?}");
            Ok(())
        })?;
        c1.ping(ip)?;
        eventually_within(Duration::from_secs(30), "the fight is over", || {
            let fights = a.status()?.fights;
            ensure!(fights.is_empty(), "{fights:?}");
            Ok(())
        })?;
        let over = |e: &Told| e.kind == "fight" && e.there == Some(false);
        scene.watcher.sees("it is over", over)?;
        a.at_rest()
    })
}

#[test]
fn ten_thousand_entries_are_back_soon_after_their_device_was_deleted() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c1, c2) = pair(lab)?;
        import(&b, 10_000)?;
        let all_there = || {
            let fdb = a.exec("bridge fdb show dev ovx4097")?;
            let (mut own, mut bridge) = (0, 0);
            for line in fdb.lines().filter(|l| l.starts_with("02:")) {
                *(if line.contains("dst 192.0.2.2 ") { &mut own } else { &mut bridge }) += 1;
            }
            ensure!(own == 10_001 && bridge >= 10_001, "{own} and {bridge} of 10001");
            Ok(())
        };
        eventually_within(Duration::from_secs(60), "a has all stations", all_there)?;
        a.at_rest()?;
        let watcher = Watcher::start(&a, "repairs.json", &["--json"])?;
        for round in 0..3 {
            let links = a.monitor("ip -ts monitor link")?;
            let told = watcher.events()?.len();
            a.exec("ip link del ovx4097")?;
            eventually_within(Duration::from_secs(60), "all entries are back", all_there)?;
            let now = SystemTime::now();
            let gone =
                links.first("it was deleted", |e| says(&e.text, "Deleted|ovx4097:|!master"))?;
            let took = now.duration_since(gone.at)?;
            println!("round {round}: deleted, and all of 20,002 entries back after {took:?}");
            // One second for a release build; see docs/performance.md.
            ensure!(took <= patience(Duration::from_secs(8)), "{took:?}");
            eventually("it is told as one", || {
                let all = watcher.events()?;
                let of: Vec<_> = all[told..].iter().filter(|e| e.kind == "repaired").collect();
                let one = of.iter().find(|e| e.count > Some(20_000));
                ensure!(one.is_some() && of.len() < 5, "{of:#?}");
                Ok(())
            })?;
        }
        ensure!(a.status()?.fights.is_empty(), "its entries are fought over by nobody");
        c1.ping(c2.ip())
    })
}

#[test]
fn what_was_changed_while_notifications_were_lost_is_put_back() -> Result<()> {
    let options = DaemonOptions { alone_after: Some("3s"), ..DaemonOptions::default() };
    Lab::run(|lab| {
        let [a] = lab.hosts_with(["a"], &options)?;
        a.net_create("demo", DEMO)?;
        let c1 = a.attach("demo", "c1")?;
        a.knows_all()?;
        a.at_rest()?;
        let watcher = Watcher::start(&a, "watch.json", &["--json"])?;
        // More than the daemon's socket holds, while it does not read.
        let mut batch = String::new();
        for i in 0..80_000u32 {
            let [_, x, y, z] = i.to_be_bytes();
            let _ = writeln!(
                batch,
                "fdb add 02:bb:00:{x:02x}:{y:02x}:{z:02x} dev ovx4097 dst 192.0.2.9 self permanent"
            );
        }
        let path = a.dir().join("batch");
        std::fs::write(&path, batch)?;
        a.freeze()?;
        a.exec(&format!("bridge -batch {}", path.display()))?;
        a.exec(&format!("ip neigh del {} dev ovb4097", c1.ip()))?;
        a.exec("ip link set ovb4097 mtu 1300")?;
        a.thaw()?;
        watcher.sees("notifications were lost", |e| e.kind == "overrun")?;
        eventually_within(Duration::from_secs(60), "all is as it should be", || {
            let fdb = a.fdb("ovx4097")?.unicast().len();
            let neigh = a.neigh("ovb4097")?.iter().any(|n| n.ip == c1.ip());
            let mtu = a.link("ovb4097")?.mtu;
            ensure!(fdb == 0 && neigh && mtu == 1450, "{fdb} entries, {neigh}, MTU {mtu}");
            Ok(())
        })?;
        a.at_rest()?;
        let counters = a.status()?.counters;
        ensure!(counters.get("kernel_overruns") >= Some(&1), "{counters:?}");
        Ok(())
    })
}
