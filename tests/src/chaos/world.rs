//! What the world should be, by what was acknowledged, and whether it is: the oracle is the
//! kernel of every host, and packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use overlay_api::{Client, ClientError, v1};

use super::fault::Dice;
use crate::container::Container;
use crate::host::{DaemonOptions, Host, NetSpec};
use crate::kernel::{ZERO_MAC, named_like_ours};
use crate::lab::Lab;
use crate::shell::{script_in, signal_pid};
use crate::wait::{eventually, eventually_within};

/// Within this, times patience, every host is as it should be after all faults are healed.
pub(super) const AGREED_WITHIN: Duration = Duration::from_secs(10);

/// The networks that are there all along: one of both families, one internal.
const NETS: [(&str, NetSpec<'_>); 2] = [
    ("blue", NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] }),
    ("green", NetSpec { vni: 4098, subnets: &["10.10.0.0/24"], mtu: 0, extra: &["--internal"] }),
];

/// Containers of each host that come and go.
const GUESTS: usize = 2;

/// More file descriptors than at the start, for what is under way.
const MORE_FDS: usize = 48;

/// More RAM than at the start, KiB.
const MORE_KIB: u64 = 96 << 10;

/// An endpoint as clients were told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    net: String,
    name: String,
    host: String,
    mac: String,
    ips: Vec<IpAddr>,
}

impl Told {
    fn of(endpoint: &v1::Endpoint) -> Self {
        let mut ips: Vec<IpAddr> = endpoint.ips.iter().map(ipnet::IpNet::addr).collect();
        ips.sort();
        Self {
            net: endpoint.net.clone(),
            name: endpoint.name.clone().unwrap_or_default(),
            host: endpoint.host.clone(),
            mac: endpoint.mac.clone(),
            ips,
        }
    }
}

/// What was last acknowledged of a container, or of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known<T> {
    There(T),
    Gone,
    /// Asked for, and the answer did not come: either.
    Unknown,
}

/// A namespace that is attached to its network, or is not.
#[derive(Debug)]
struct Site {
    host: usize,
    net: usize,
    container: Container,
    known: Mutex<Known<Told>>,
}

/// A network that was created in a partition, and where it was asked for last.
#[derive(Debug)]
struct Extra {
    asked: usize,
    known: Known<()>,
}

/// What a daemon held when all was well first.
#[derive(Debug, Clone, Copy)]
struct Size {
    fds: usize,
    kib: u64,
}

/// The hosts, and what they should hold.
#[derive(Debug)]
pub(super) struct World {
    /// The hosts, by number.
    pub(super) hosts: Vec<Host>,
    /// The namespace of the underlay.
    pub(super) underlay: String,
    sites: Vec<Site>,
    extras: Mutex<BTreeMap<String, Extra>>,
    sizes: Vec<Size>,
    /// Requests that were acknowledged, refused, and not answered.
    pub(super) asked: [AtomicU64; 3],
    /// What refusals said, and how often.
    pub(super) refusals: Mutex<BTreeMap<String, u64>>,
    /// Most file descriptors and KiB that a daemon had after a step.
    pub(super) largest: Mutex<(usize, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a request ended.
enum Outcome<T> {
    Done(T),
    Refused(v1::Error),
    Unknown,
}

fn ask<T>(
    host: &Host,
    request: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> Result<Outcome<T>> {
    let client = Client::new(&host.socket()).with_timeout(Duration::from_secs(20));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(match runtime.block_on(request(client)) {
        Ok(done) => Outcome::Done(done),
        // It says of itself whether anything was changed.
        Err(ClientError::NotRunning { .. }) => {
            Outcome::Refused(v1::Error::new(v1::ErrorCode::Unavailable, "it does not run"))
        }
        Err(ClientError::Api(error)) => Outcome::Refused(error),
        Err(ClientError::Protocol(_) | ClientError::Timeout { .. }) => Outcome::Unknown,
        Err(other) => return Err(other).context(format!("asked {}", host.name())),
    })
}

impl World {
    /// Makes so many hosts with both networks, a container on each that stays, and those that
    /// come and go.
    ///
    /// # Errors
    /// If any of it fails.
    pub(super) fn new(lab: &Lab, count: usize) -> Result<Self> {
        ensure!((3..=20).contains(&count), "{count} hosts are not 3 to 20");
        let hosts = (0..count)
            .map(|number| lab.host(&super::fault::letter(number)))
            .collect::<Result<Vec<_>>>()?;
        for host in &hosts {
            let others = hosts.iter().filter(|other| other.name() != host.name());
            let join = others.map(|other| format!("{}:7946", other.address())).collect();
            let journal = host.dir().join("journal").display().to_string();
            let extra = vec!["--journal".to_owned(), journal];
            host.start_with(&DaemonOptions { join, extra, ..DaemonOptions::default() })?;
        }
        lab.all_up(&hosts)?;
        for (name, spec) in NETS {
            hosts[0].net_create(name, spec)?;
        }
        let mut sites = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            for (net, (name, _)) in NETS.iter().enumerate() {
                host.knows_net(name)?;
                // Guests of either network, in turn.
                let guests = (0..GUESTS).filter(|guest| guest % NETS.len() == net);
                let names = guests.map(|guest| format!("guest{guest}-{}", host.name()));
                for (n, name) in
                    [format!("{name}-{}", host.name())].into_iter().chain(names).enumerate()
                {
                    let container = host.container(&name)?;
                    let known = Mutex::new(Known::Gone);
                    let site = Site { host: number, net, container, known };
                    if n == 0 {
                        attach(host, &site)?;
                        ensure!(matches!(*lock(&site.known), Known::There(_)), "{name} is refused");
                    }
                    sites.push(site);
                }
            }
        }
        let mut world = Self {
            hosts,
            underlay: lab.underlay_netns(),
            sites,
            extras: Mutex::default(),
            sizes: Vec::new(),
            asked: Default::default(),
            refusals: Mutex::default(),
            largest: Mutex::default(),
        };
        world.agrees()?;
        world.sizes = world.hosts.iter().map(size).collect::<Result<_>>()?;
        Ok(world)
    }

    /// The VNI of a network that is there all along.
    pub(super) fn vni(&self, net: usize) -> u32 {
        NETS[net].1.vni
    }

    /// The containers that stay, with network, host and first address.
    pub(super) fn residents(&self) -> Vec<(usize, usize, &Container, IpAddr)> {
        let stay = self.sites.iter().filter(|site| !is_guest(site));
        let of = |site: &Site| match &*lock(&site.known) {
            Known::There(told) => told.ips.first().copied(),
            _ => None,
        };
        stay.filter_map(|s| Some((s.net, s.host, &s.container, of(s)?))).collect()
    }

    // ----- what is asked for ---------------------------------------------------

    /// Attaches and detaches guests of one host, one at a time, until `stop`.
    ///
    /// # Errors
    /// If what can only be a bug was answered.
    pub(super) fn churn(&self, host: usize, mut dice: Dice, stop: &AtomicBool) -> Result<()> {
        let guests: Vec<&Site> =
            self.sites.iter().filter(|site| site.host == host && is_guest(site)).collect();
        while !stop.load(Ordering::SeqCst) {
            std::thread::sleep(dice.time(200, 800));
            let site = guests[dice.below(guests.len())];
            let known = lock(&site.known).clone();
            let outcome = match known {
                Known::There(told) => detach(&self.hosts[host], site, &told)?,
                Known::Gone => attach(&self.hosts[host], site)?,
                // Looked up when all is healed.
                Known::Unknown => continue,
            };
            self.count(&outcome);
        }
        Ok(())
    }

    fn count<T>(&self, outcome: &Outcome<T>) {
        let n = match outcome {
            Outcome::Done(_) => 0,
            Outcome::Refused(error) => {
                *lock(&self.refusals).entry(format!("{:?}", error.code)).or_insert(0) += 1;
                1
            }
            Outcome::Unknown => 2,
        };
        self.asked[n].fetch_add(1, Ordering::SeqCst);
    }

    /// Creates a network at one host, and removes at another one that was created so before.
    /// What is refused, or not answered, is remembered as that.
    pub(super) fn change_networks(&self, inside: usize, outside: usize, number: usize) {
        let oldest = {
            let extras = lock(&self.extras);
            let there = extras.iter().find(|(_, extra)| extra.known == Known::There(()));
            there.map(|(name, _)| name.clone())
        };
        let name = format!("extra{number}");
        let request = v1::CreateNetwork {
            name: Some(name.clone()),
            vni: u32::try_from(5000 + number).ok(),
            ..v1::CreateNetwork::default()
        };
        let made = ask(&self.hosts[inside], async |c| c.create_network(&request).await);
        let made = made.unwrap_or(Outcome::Unknown);
        self.count(&made);
        let known = match made {
            Outcome::Done(_) => Known::There(()),
            Outcome::Refused(_) => Known::Gone,
            Outcome::Unknown => Known::Unknown,
        };
        // One that was refused is one that there never was.
        if known != Known::Gone {
            lock(&self.extras).insert(name, Extra { asked: inside, known });
        }
        let Some(name) = oldest else { return };
        let removed = ask(&self.hosts[outside], async |c| c.delete_network(&name, false).await);
        let removed = removed.unwrap_or(Outcome::Unknown);
        self.count(&removed);
        let known = match removed {
            Outcome::Done(_) => Known::Gone,
            Outcome::Refused(_) => Known::There(()),
            Outcome::Unknown => Known::Unknown,
        };
        lock(&self.extras).insert(name, Extra { asked: outside, known });
    }

    /// Changes the key of the cluster, each step on every host before the next one, as
    /// docs/cli.md says: as soon as the daemon runs, and lets it.
    ///
    /// # Errors
    /// If a step is refused for longer than any fault lasts.
    pub(super) fn change_key(&self) -> Result<()> {
        let made = self.hosts[0].overlayd(&["keygen"])?;
        ensure!(made.code == 0, "{made:?}");
        let request = v1::AddKey { key: made.stdout.trim().to_owned() };
        let used = |host: &Host| -> Result<String> {
            let keys: Vec<v1::Key> = host.ctl_json(&["key", "ls"])?;
            Ok(keys.into_iter().find(|key| key.used).context("it uses none")?.id)
        };
        let old = eventually("the key in use is known", || used(&self.hosts[0]))?;
        let mut new = String::new();
        for step in ["add", "use", "remove"] {
            for host in &self.hosts {
                let what = format!("{} does key {step}", host.name());
                eventually_within(Duration::from_secs(30), &what, || {
                    let keys: Vec<v1::Key> = host.ctl_json(&["key", "ls"])?;
                    let is = |id: &str, want: fn(&v1::Key) -> bool| {
                        keys.iter().any(|key| key.id == id && want(key))
                    };
                    match step {
                        "add" => match keys.iter().find(|key| key.here && key.id != old) {
                            // Also one that was added before the daemon was killed over it.
                            Some(there) => new = there.id.clone(),
                            None => new = host.ask(async |c| c.add_key(&request).await)?.id,
                        },
                        "use" if is(&new, |key| key.used) => {}
                        "use" => {
                            let plainly = v1::UseKey::default();
                            host.ask(async |c| c.use_key(&new, &plainly).await)?;
                        }
                        _ if !is(&old, |key| key.here) => {}
                        _ => drop(host.ask(async |c| c.remove_key(&old, false).await)?),
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// How many networks were created in splits, and how many of them are gone.
    pub(super) fn networks_made(&self) -> (usize, usize) {
        let extras = lock(&self.extras);
        (extras.len(), extras.values().filter(|extra| extra.known == Known::Gone).count())
    }

    /// What was not answered: the host that was asked says what became of it.
    fn resolve(&self) -> Result<()> {
        for site in &self.sites {
            if *lock(&site.known) != Known::Unknown {
                continue;
            }
            let (host, name) = (&self.hosts[site.host], site.container.name());
            let found = host.endpoints()?.into_iter().find(|e| e.name.as_deref() == Some(name));
            let found = found.as_ref().map(Told::of);
            *lock(&site.known) = found.map_or(Known::Gone, Known::There);
        }
        for (name, extra) in lock(&self.extras).iter_mut() {
            if extra.known == Known::Unknown {
                let nets = self.hosts[extra.asked].networks()?;
                let there = nets.iter().any(|net| net.name == *name);
                extra.known = if there { Known::There(()) } else { Known::Gone };
            }
        }
        Ok(())
    }

    // ----- whether it is so ----------------------------------------------------

    /// Waits until the kernel of every host is as the model, then has every pair talk that
    /// should, no other, and looks for what leaked. A daemon that died is not there to say that
    /// its kernel is right: nobody but a fault starts one. Returns how long the kernels took.
    ///
    /// # Errors
    /// The claim that does not hold, and at which host.
    pub(super) fn agrees(&self) -> Result<Duration> {
        let began = Instant::now();
        eventually("who was asked says what became of it", || self.resolve())?;
        let model = self.told();
        is_unique(&model)?;
        let each = |check: &(dyn Fn(usize) -> Result<()> + Sync)| -> Result<()> {
            std::thread::scope(|scope| {
                let all: Vec<_> =
                    (0..self.hosts.len()).map(|host| scope.spawn(move || check(host))).collect();
                // All are waited for; the first that failed is told.
                let ends: Vec<_> = all.into_iter().map(|one| one.join()).collect();
                ends.into_iter().try_for_each(|end| end.expect("no check panics"))
            })
        };
        each(&|host| {
            let what = format!("host {} is as it should be", self.hosts[host].name());
            eventually_within(AGREED_WITHIN, &what, || self.is_as(host, &model))
        })?;
        let took = began.elapsed();
        each(&|host| self.talks(host))?;
        each(&|host| self.is_apart(host))?;
        each(&|host| self.has_not_leaked(host))?;
        Ok(took)
    }

    fn told(&self) -> BTreeSet<Told> {
        let there = |site: &Site| match &*lock(&site.known) {
            Known::There(told) => Some(told.clone()),
            _ => None,
        };
        self.sites.iter().filter_map(there).collect()
    }

    fn is_as(&self, number: usize, model: &BTreeSet<Told>) -> Result<()> {
        let host = &self.hosts[number];
        host.runs()?;
        let status = host.status()?;
        ensure!(
            status.view_complete
                && status.pending == 0
                && status.failed.is_empty()
                && status.fights.is_empty()
                && status.applied_revision == status.desired_revision,
            "view_complete {}, pending {:?}, failed {:?}, fights {:?}, revision {} of {}",
            status.view_complete,
            status.pending_objects,
            status.failed,
            status.fights,
            status.applied_revision,
            status.desired_revision
        );
        let keys: Vec<v1::Key> = host.ctl_json(&["key", "ls"])?;
        ensure!(keys.len() == 1 && keys[0].used && keys[0].lacking.is_empty(), "{keys:?}");
        let hosts = host.hosts()?;
        let up = hosts.iter().filter(|seen| seen.state == "up").count();
        ensure!(
            up == self.hosts.len() && hosts.len() == up,
            "hosts {:?}",
            hosts.iter().map(|seen| (&seen.name, &seen.state)).collect::<Vec<_>>()
        );
        let mut nets: BTreeSet<String> = NETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let extras = lock(&self.extras);
        let there = extras.iter().filter(|(_, extra)| extra.known == Known::There(()));
        nets.extend(there.map(|(name, _)| name.clone()));
        drop(extras);
        let seen: BTreeSet<String> = host.networks()?.into_iter().map(|net| net.name).collect();
        same("networks", &nets, &seen)?;

        let all = host.endpoints()?;
        same("endpoints", model, &all.iter().map(Told::of).collect())?;
        for endpoint in &all {
            ensure!(endpoint.state == "ready", "{:?} {endpoint:?}", endpoint.name);
        }
        self.holds(number, model)?;
        let plan = host.plan()?;
        ensure!(plan.commands.is_empty(), "would do {:?}", plan.commands);
        let audit = host.ctl(&["ipam", "check"])?;
        ensure!(audit.code == 0, "ipam check: {}{}", audit.stdout, audit.stderr);
        Ok(())
    }

    /// The kernel of a host, and nobody's word: links, tables, and what is in containers.
    fn holds(&self, number: usize, model: &BTreeSet<Told>) -> Result<()> {
        let host = &self.hosts[number];
        let mut wanted = BTreeMap::new();
        for (name, spec) in NETS {
            let of_net: Vec<&Told> = model.iter().filter(|told| told.net == name).collect();
            let local = of_net.iter().filter(|told| told.host == host.name()).count();
            if local > 0 {
                let (bridge, vxlan) = (format!("ovb{}", spec.vni), format!("ovx{}", spec.vni));
                self.entries_are(host, &bridge, &vxlan, &of_net)?;
                // Ports of containers are counted by their bridge.
                wanted.insert(format!("ports of {bridge}"), local);
                wanted.extend([(bridge, 1), (vxlan, 1)]);
            }
        }
        let mut seen = BTreeMap::new();
        for link in host.links()?.into_iter().filter(|link| named_like_ours(&link.name)) {
            let bridge = link.master.unwrap_or_else(|| "none".to_owned());
            let is_port = link.name.starts_with("ove");
            let key = if is_port { format!("ports of {bridge}") } else { link.name };
            *seen.entry(key).or_insert(0) += 1;
        }
        same("links", &wanted.into_iter().collect(), &seen.into_iter().collect())?;
        for site in self.sites.iter().filter(|site| site.host == number) {
            let links = site.container.exec("ip -br link")?;
            let interfaces = links.lines().filter(|line| !line.starts_with("lo ")).count();
            let there = lock(&site.known).clone();
            let wanted = usize::from(matches!(there, Known::There(_)));
            ensure!(interfaces == wanted, "{}: {links}", site.container.name());
            ensure!(wanted == 0 || links.contains("eth0"), "{}: {links}", site.container.name());
        }
        Ok(())
    }

    /// The tables of a network on a host that uses it.
    fn entries_are(&self, host: &Host, bridge: &str, vxlan: &str, all: &[&Told]) -> Result<()> {
        let vtep = |name: &str| -> Result<IpAddr> {
            let holder = self.hosts.iter().find(|host| host.name() == name);
            Ok(holder.with_context(|| format!("no host {name}"))?.vtep())
        };
        let far: Vec<&&Told> = all.iter().filter(|told| told.host != host.name()).collect();
        let fdb = host.fdb(vxlan)?;
        let mut unicast = BTreeMap::new();
        let mut flood = BTreeSet::new();
        for told in &far {
            unicast.insert(told.mac.clone(), vtep(&told.host)?);
            flood.insert(vtep(&told.host)?);
        }
        let is = fdb.unicast();
        same(
            &format!("FDB of {vxlan}"),
            &unicast.iter().collect(),
            &is.iter().collect::<BTreeSet<_>>(),
        )?;
        same(&format!("flood list of {vxlan}"), &flood, &fdb.flood())?;
        let macs: BTreeSet<&str> = unicast.keys().map(String::as_str).collect();
        // The device's own address is one, too.
        let own = host.link(vxlan)?.mac;
        let behind = fdb.0.iter().filter(|e| e.master.is_some() && e.mac != own);
        let behind = behind.filter(|e| e.mac != ZERO_MAC && !is_multicast(&e.mac));
        let behind: BTreeSet<&str> = behind.map(|e| e.mac.as_str()).collect();
        same(&format!("entries of {bridge} behind {vxlan}"), &macs, &behind)?;
        let wanted: BTreeSet<(IpAddr, String)> =
            all.iter().flat_map(|told| told.ips.iter().map(|ip| (*ip, told.mac.clone()))).collect();
        let is = host.neigh(bridge)?.into_iter();
        let is = is.filter(|n| n.state.iter().any(|state| state == "PERMANENT"));
        let is: BTreeSet<(IpAddr, String)> = is.filter_map(|n| Some((n.ip, n.mac?))).collect();
        same(&format!("neighbours of {bridge}"), &wanted, &is)
    }

    /// Every container of a host reaches every address of its network.
    fn talks(&self, number: usize) -> Result<()> {
        let model = self.told();
        for site in self.sites.iter().filter(|site| site.host == number) {
            let Known::There(own) = lock(&site.known).clone() else { continue };
            let others = model.iter().filter(|told| told.net == own.net && told.name != own.name);
            let mut silent: BTreeSet<IpAddr> = others.flat_map(|told| told.ips.clone()).collect();
            let what = format!("{} reaches all of {}", own.name, own.net);
            eventually_within(AGREED_WITHIN, &what, || {
                silent = unanswered(&site.container, &silent, 2)?;
                ensure!(silent.is_empty(), "no answer from {silent:?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// No container of a host reaches one of another network.
    fn is_apart(&self, number: usize) -> Result<()> {
        let model = self.told();
        for site in self.sites.iter().filter(|site| site.host == number) {
            let Known::There(own) = lock(&site.known).clone() else { continue };
            let others = model.iter().filter(|told| told.net != own.net);
            let others: BTreeSet<IpAddr> = others.flat_map(|told| told.ips.clone()).collect();
            let silent = unanswered(&site.container, &others, 1)?;
            ensure!(
                silent == others,
                "{} reaches {:?} of another network",
                own.name,
                others.difference(&silent).collect::<Vec<_>>()
            );
        }
        Ok(())
    }

    fn has_not_leaked(&self, number: usize) -> Result<()> {
        let host = &self.hosts[number];
        host.runs()?;
        let log = std::fs::read_to_string(host.log_file())?;
        let bad = log.lines().find(|line| line.contains("panicked at"));
        ensure!(bad.is_none(), "overlayd on {} says {bad:?}", host.name());
        let Some(first) = self.sizes.get(number) else { return Ok(()) };
        // What is under way just now ends.
        let now = eventually(&format!("overlayd on {} is no larger", host.name()), || {
            let now = size(host)?;
            ensure!(now.fds <= first.fds + MORE_FDS, "{now:?} after {first:?}");
            ensure!(now.kib <= first.kib + MORE_KIB, "{now:?} after {first:?}");
            Ok(now)
        })?;
        let mut largest = lock(&self.largest);
        largest.0 = largest.0.max(now.fds);
        largest.1 = largest.1.max(now.kib);
        Ok(())
    }

    /// That each check fails when what it looks at is wrong: daemons that are stopped put
    /// nothing back.
    ///
    /// # Errors
    /// The damage that was not noticed, or was noticed as something else.
    pub(super) fn checks_notice(&self) -> Result<()> {
        let model = self.told();
        let host = &self.hosts[0];
        let far = model.iter().find(|told| told.net == "blue" && told.host != host.name());
        let far = far.context("a resident elsewhere")?;
        let vtep = self.hosts[1].vtep();
        for (script, told) in [
            (format!("bridge fdb del {} dev ovx4097 self dst {vtep}", far.mac), "FDB of ovx4097"),
            (
                format!("bridge fdb del {ZERO_MAC} dev ovx4097 self dst {vtep}"),
                "flood list of ovx4097",
            ),
            (format!("bridge fdb del {} dev ovx4097 master", far.mac), "entries of ovb4097"),
            (format!("ip neigh del {} dev ovb4097", far.ips[0]), "neighbours of ovb4097"),
            (
                format!(
                    "ip neigh add {} lladdr {} dev ovb4097 nud permanent extern_learn",
                    "10.9.0.250", far.mac
                ),
                "10.9.0.250",
            ),
            ("ip link add ovb9 type bridge".to_owned(), "ovb9"),
            (
                "ip link set $(ip -br link show master ovb4097 | grep -o '^ove[^@ ]*' | head -1) \
                 nomaster"
                    .to_owned(),
                "ports of ovb4097",
            ),
        ] {
            self.holds(0, &model).with_context(|| format!("before `{script}`"))?;
            host.freeze()?;
            let done = script_in(host.netns(), &script);
            let noticed = self.holds(0, &model);
            host.thaw()?;
            done?;
            let said = noticed.err().with_context(|| format!("`{script}` was not noticed"))?;
            ensure!(format!("{said:#}").contains(told), "`{script}` was noticed as: {said:#}");
            // Somebody else's, which nobody takes away.
            if told == "ovb9" {
                host.exec("ip link del ovb9")?;
            }
            eventually("it is put back", || self.holds(0, &model))?;
        }
        // What clients were told, and is not so.
        let mut more = model.clone();
        more.insert(Told { name: "nobody".to_owned(), ..far.clone() });
        let said = is_unique(&more).err().context("an address that is given twice")?;
        ensure!(format!("{said:#}").contains("given twice"), "{said:#}");
        more.retain(|told| told.name != far.name);
        let said = self.is_as(0, &more).err().context("an endpoint that is not there")?;
        ensure!(format!("{said:#}").contains("endpoints: missing"), "{said:#}");
        // A daemon that dies, of whatever.
        let pid = host.pid()?;
        signal_pid(pid, Signal::SIGKILL)?;
        let said = eventually("a death is noticed", || {
            self.is_as(0, &model)
                .err()
                .filter(|e| format!("{e:#}").contains("has died"))
                .context("it is not")
        })?;
        ensure!(format!("{said:#}").contains("signal: 9"), "{said:#}");
        host.ended()?;
        host.start()?;
        // Packets: somebody who is not there, and somebody who should not be.
        let site = self.sites.iter().find(|site| !is_guest(site)).context("a resident")?;
        let nobody = BTreeSet::from(["10.9.0.251".parse()?]);
        ensure!(unanswered(&site.container, &nobody, 1)? == nobody, "nobody answers");
        let there = BTreeSet::from([far.ips[0]]);
        ensure!(unanswered(&site.container, &there, 2)?.is_empty(), "{far:?} answers");
        Ok(())
    }

    /// What was acknowledged, for a bundle.
    pub(super) fn in_words(&self) -> String {
        let mut text = String::new();
        for site in &self.sites {
            text += &format!("{}: {:?}\n", site.container.name(), lock(&site.known));
        }
        for (name, extra) in lock(&self.extras).iter() {
            text += &format!("network {name}: {extra:?}\n");
        }
        text
    }
}

fn is_guest(site: &Site) -> bool {
    site.container.name().starts_with("guest")
}

fn is_multicast(mac: &str) -> bool {
    mac.starts_with("33:33:") || mac.starts_with("01:00:5e:")
}

/// Nobody has acknowledged an address, or a MAC, twice in a network.
fn is_unique(model: &BTreeSet<Told>) -> Result<()> {
    let mut taken = BTreeMap::new();
    for told in model {
        for ip in &told.ips {
            if let Some(other) = taken.insert((told.net.clone(), ip.to_string()), told) {
                bail!("{ip} of {} was given twice: {other:?} and {told:?}", told.net);
            }
        }
    }
    Ok(())
}

/// What only one of two sets has.
fn same<T: Ord + std::fmt::Debug>(
    what: &str,
    wanted: &BTreeSet<T>,
    is: &BTreeSet<T>,
) -> Result<()> {
    let missing: Vec<_> = wanted.difference(is).collect();
    let surplus: Vec<_> = is.difference(wanted).collect();
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "{what}: missing {missing:?}, surplus {surplus:?}"
    );
    Ok(())
}

/// Those of `ips` that do not answer a ping within so many seconds, asked all at once.
fn unanswered(
    container: &Container,
    ips: &BTreeSet<IpAddr>,
    seconds: u32,
) -> Result<BTreeSet<IpAddr>> {
    if ips.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut script = String::new();
    for ip in ips {
        script += &format!("(ping -n -c 1 -W {seconds} {ip} >/dev/null 2>&1 || echo {ip}) &\n");
    }
    let said = container.script(&(script + "wait"))?;
    said.split_whitespace().map(|ip| Ok(ip.parse()?)).collect()
}

fn size(host: &Host) -> Result<Size> {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", host.pid()?))?.count();
    Ok(Size { fds, kib: host.resident_kib()? })
}

/// Attaches a container, and remembers what was said.
fn attach(host: &Host, site: &Site) -> Result<Outcome<()>> {
    let name = site.container.name();
    let request = v1::Attach {
        net: NETS[site.net].0.to_owned(),
        netns: Some(site.container.netns_path()),
        name: Some(name.to_owned()),
        ..v1::Attach::default()
    };
    match ask(host, async |c| c.attach(&request).await)? {
        Outcome::Done(endpoint) => {
            ensure!(endpoint.state == "ready", "attach of {name} returned with {endpoint:?}");
            *lock(&site.known) = Known::There(Told::of(&endpoint));
            Ok(Outcome::Done(()))
        }
        Outcome::Refused(error) => {
            ensure!(
                error.code != v1::ErrorCode::Taken,
                "{name} is detached, and {} says: {error}",
                host.name()
            );
            Ok(Outcome::Refused(error))
        }
        Outcome::Unknown => {
            *lock(&site.known) = Known::Unknown;
            Ok(Outcome::Unknown)
        }
    }
}

/// Detaches it, in the same way.
fn detach(host: &Host, site: &Site, told: &Told) -> Result<Outcome<()>> {
    match ask(host, async |c| c.detach(&told.name, None).await)? {
        Outcome::Done(_) => {
            *lock(&site.known) = Known::Gone;
            Ok(Outcome::Done(()))
        }
        Outcome::Refused(error) => {
            ensure!(
                error.code != v1::ErrorCode::NotFound,
                "{} was attached, and {} says: {error}",
                told.name,
                host.name()
            );
            Ok(Outcome::Refused(error))
        }
        Outcome::Unknown => {
            *lock(&site.known) = Known::Unknown;
            Ok(Outcome::Unknown)
        }
    }
}
