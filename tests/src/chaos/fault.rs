//! The faults: which there are, how a seed draws them, whom each concerns, how it is made and
//! healed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::world::World;
use crate::shell::{feed_in, run_in, script_in};
use crate::wait::eventually;

/// SplitMix64: the same numbers from the same seed, on every machine, for ever.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// Begins anew.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    /// A time from `least` to `most`, in milliseconds.
    pub(super) fn time(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.roll() % (most - least + 1))
    }
}

/// What another hand deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// An FDB entry of the VXLAN device.
    Fdb,
    /// All neighbours of the bridge.
    Neighbours,
    /// The VXLAN device.
    Vxlan,
    /// The bridge.
    Bridge,
    /// All of nftables.
    Ruleset,
}

const OBJECTS: [Object; 5] =
    [Object::Fdb, Object::Neighbours, Object::Vxlan, Object::Bridge, Object::Ruleset];

/// A fault. Hosts are by number, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9`, and a start after a while.
    Kill { host: usize, away: Duration },
    /// SIGSTOP for a while.
    Freeze { host: usize, length: Duration },
    /// SIGTERM, the state file cut to so many percent, a start.
    Truncate { host: usize, percent: u64 },
    /// The cable out, and in again.
    Unplug { host: usize, length: Duration },
    /// Nothing gets from one host to another; nor back, unless it is one way.
    Cut { from: usize, to: usize, one_way: bool, length: Duration },
    /// Some hosts apart from all others. On their side a network is created, on the other one
    /// that was created so before is removed.
    Split { apart: BTreeSet<usize>, length: Duration, net: usize },
    /// Packets of a host are lost, at random.
    Loss { host: usize, percent: u64, length: Duration },
    /// The key of the cluster is changed, a host after the other, while all else goes on.
    Rekey,
    /// Another hand deletes something of ours.
    Foreign { host: usize, net: usize, object: Object },
}

/// The kinds that are drawn, with equal odds.
const KINDS: usize = 9;

/// Where at most one fault of a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Host(usize),
    Underlay,
    Cluster,
}

/// Faults that are made at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// At most one of the underlay, one of the cluster, and one of each host.
    pub(super) faults: Vec<Fault>,
    /// What attaches and detaches meanwhile are drawn from.
    pub(super) churn: u64,
}

/// Draws `count` faults for `hosts` hosts, one to three a step: the same from the same seed.
pub(super) fn draw(seed: u64, hosts: usize, count: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut steps = Vec::new();
    let mut drawn = 0;
    while drawn < count {
        let most = (count - drawn).min(1 + dice.below(3));
        let mut faults: Vec<Fault> = Vec::new();
        // Bounded: what collides with the others of its step is left out.
        for _ in 0..most {
            let fault = one(&mut dice, hosts, drawn + faults.len());
            let collides = faults.iter().any(|other| other.place() == fault.place());
            if !collides {
                faults.push(fault);
            }
        }
        drawn += faults.len();
        steps.push(Step { faults, churn: dice.roll() });
    }
    steps
}

fn one(dice: &mut Dice, hosts: usize, number: usize) -> Fault {
    let host = dice.below(hosts);
    // One in four is longer than it takes to give a host up, and to drop its entries.
    let long = dice.below(4) == 0;
    let length = if long { dice.time(14_000, 17_000) } else { dice.time(1000, 5000) };
    match dice.below(KINDS) {
        0 => Fault::Kill { host, away: dice.time(0, 3000) },
        1 => Fault::Freeze { host, length: dice.time(500, 4000) },
        2 => Fault::Truncate { host, percent: dice.roll() % 100 },
        3 => Fault::Unplug { host, length },
        4 => {
            let to = (host + 1 + dice.below(hosts - 1)) % hosts;
            Fault::Cut { from: host, to, one_way: dice.below(2) == 0, length }
        }
        5 => {
            let mut apart = BTreeSet::from([host]);
            for other in 0..hosts {
                // Never all of them: somebody must be on the other side.
                if dice.below(3) == 0 && apart.len() + 1 < hosts {
                    apart.insert(other);
                }
            }
            Fault::Split { apart, length, net: number }
        }
        6 => {
            let percent = 1 + dice.roll() % 40;
            Fault::Loss { host, percent, length: dice.time(2000, 6000) }
        }
        7 => Fault::Rekey,
        _ => {
            let object = OBJECTS[dice.below(OBJECTS.len())];
            Fault::Foreign { host, net: dice.below(2), object }
        }
    }
}

impl Fault {
    /// What it is done to.
    fn place(&self) -> Place {
        match *self {
            Self::Kill { host, .. }
            | Self::Freeze { host, .. }
            | Self::Truncate { host, .. }
            | Self::Unplug { host, .. }
            | Self::Foreign { host, .. } => Place::Host(host),
            Self::Cut { .. } | Self::Split { .. } | Self::Loss { .. } => Place::Underlay,
            Self::Rekey => Place::Cluster,
        }
    }

    /// Its kind, for the table of costs.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill -9",
            Self::Freeze { .. } => "SIGSTOP",
            Self::Truncate { .. } => "state file cut",
            Self::Unplug { .. } => "unplugged",
            Self::Cut { one_way: true, .. } => "cut one way",
            Self::Cut { .. } => "cut",
            Self::Split { .. } => "split",
            Self::Loss { .. } => "loss",
            Self::Rekey => "key changed",
            Self::Foreign { object, .. } => match object {
                Object::Fdb => "FDB entry deleted",
                Object::Neighbours => "neighbours deleted",
                Object::Vxlan => "VXLAN device deleted",
                Object::Bridge => "bridge deleted",
                Object::Ruleset => "nftables flushed",
            },
        }
    }

    /// True if packets of network `net` between two hosts may be lost to it. What a daemon
    /// suffers concerns no packet, nor do filters that go.
    pub(super) fn concerns(&self, net: usize, one: usize, other: usize) -> bool {
        let at = |host: usize| one == host || other == host;
        match self {
            Self::Kill { .. } | Self::Freeze { .. } | Self::Truncate { .. } | Self::Rekey => false,
            Self::Unplug { host, .. } | Self::Loss { host, .. } => one != other && at(*host),
            Self::Cut { from, to, .. } => at(*from) && at(*to) && one != other,
            Self::Split { apart, .. } => apart.contains(&one) != apart.contains(&other),
            Self::Foreign { object: Object::Ruleset, .. } => false,
            // A container is told of local neighbours by the bridge, too; but only its ports
            // forward between them.
            Self::Foreign { host, net: of, object: Object::Bridge } => *of == net && at(*host),
            Self::Foreign { host, net: of, .. } => *of == net && one != other && at(*host),
        }
    }

    /// Makes the fault, lets it last, and heals it. `number` is one of its own.
    ///
    /// # Errors
    /// If the lab cannot do it, or a daemon does not start again.
    pub(super) fn happen(&self, world: &World, number: usize) -> Result<()> {
        self.happen_to(world, number).with_context(|| format!("cannot do: {self}"))
    }

    fn happen_to(&self, world: &World, number: usize) -> Result<()> {
        let port = |host: usize| world.hosts[host].port();
        match self {
            Self::Kill { host, away } => {
                let host = &world.hosts[*host];
                host.kill()?;
                std::thread::sleep(*away);
                host.start()
            }
            Self::Freeze { host, length } => {
                let host = &world.hosts[*host];
                host.freeze()?;
                std::thread::sleep(*length);
                host.thaw()
            }
            Self::Truncate { host, percent } => {
                let host = &world.hosts[*host];
                host.stop()?;
                let path = host.state_dir().join("state.redb");
                let file = std::fs::OpenOptions::new().write(true).open(&path)?;
                file.set_len(file.metadata()?.len() * percent / 100)?;
                drop(file);
                host.start()
            }
            Self::Unplug { host, length } => {
                let host = &world.hosts[*host];
                host.unplug()?;
                std::thread::sleep(*length);
                host.plug()
            }
            Self::Cut { from, to, one_way, length } => {
                let (from, to) = (port(*from), port(*to));
                let mut rules = format!("iifname {from} oifname {to} drop\n");
                if !one_way {
                    rules += &format!("iifname {to} oifname {from} drop\n");
                }
                rules_for(world, number, &rules, || {
                    std::thread::sleep(*length);
                    Ok(())
                })
            }
            Self::Split { apart, length, net } => {
                let of = |is_apart: bool| {
                    let side = (0..world.hosts.len()).filter(|h| apart.contains(h) == is_apart);
                    side.map(port).collect::<Vec<_>>().join(", ")
                };
                let (here, there) = (of(true), of(false));
                let rules = format!(
                    "iifname {{ {here} }} oifname {{ {there} }} drop\n\
                     iifname {{ {there} }} oifname {{ {here} }} drop\n"
                );
                let outside = (0..world.hosts.len()).find(|h| !apart.contains(h));
                let (inside, outside) = (apart.first().copied(), outside);
                rules_for(world, number, &rules, || {
                    let began = std::time::Instant::now();
                    world.change_networks(
                        inside.context("somebody is apart")?,
                        outside.context("and somebody is not")?,
                        *net,
                    );
                    std::thread::sleep(length.saturating_sub(began.elapsed()));
                    Ok(())
                })
            }
            Self::Loss { host, percent, length } => {
                let port = port(*host);
                let lose = format!("numgen random mod 100 < {percent} drop");
                let rules = format!("iifname {port} {lose}\noifname {port} {lose}\n");
                rules_for(world, number, &rules, || {
                    std::thread::sleep(*length);
                    Ok(())
                })
            }
            Self::Rekey => world.change_key(),
            Self::Foreign { host, net, object } => {
                let (host, vni) = (&world.hosts[*host], world.vni(*net));
                let (bridge, vxlan) = (format!("ovb{vni}"), format!("ovx{vni}"));
                match object {
                    // Which one there is changes all along.
                    Object::Fdb => eventually("an FDB entry is deleted", || {
                        let all = host.fdb(&vxlan)?.unicast();
                        let (mac, vtep) = all.first_key_value().context("there is none")?;
                        let line = format!("bridge fdb del {mac} dev {vxlan} dst {vtep} self");
                        host.exec(&line).map(drop)
                    }),
                    // It goes on while they come back, and gives up in the end.
                    Object::Neighbours => script_in(
                        host.netns(),
                        &format!("ip neigh flush dev {bridge} nud all || true"),
                    )
                    .map(drop),
                    Object::Vxlan => host.exec(&format!("ip link del {vxlan}")).map(drop),
                    Object::Bridge => host.exec(&format!("ip link del {bridge}")).map(drop),
                    Object::Ruleset => host.exec("nft flush ruleset").map(drop),
                }
            }
        }
    }
}

/// Has rules on the underlay while `meanwhile` runs.
fn rules_for(
    world: &World,
    number: usize,
    rules: &str,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let table = format!("chaos{number}");
    let text = format!(
        "table bridge {table} {{\n chain forward {{\n type filter hook forward priority 0;\n \
         {rules} }}\n}}\n"
    );
    feed_in(&world.underlay, "nft -f -", &text)?;
    let outcome = meanwhile();
    run_in(&world.underlay, &format!("nft delete table bridge {table}"))?;
    outcome
}

/// A host's letter, as labs name them.
pub(super) fn letter(host: usize) -> String {
    char::from(b'a' + u8::try_from(host % 26).unwrap_or(0)).to_string()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        let s = Duration::as_secs_f64;
        match self {
            Self::Kill { host, away } => {
                write!(f, "{kind} of {}, back after {:.1} s", letter(*host), s(away))
            }
            Self::Freeze { host, length } => {
                write!(f, "{kind} of {} for {:.1} s", letter(*host), s(length))
            }
            Self::Truncate { host, percent } => {
                write!(f, "{kind} of {} to {percent} %", letter(*host))
            }
            Self::Unplug { host, length } => {
                write!(f, "{} {kind} for {:.1} s", letter(*host), s(length))
            }
            Self::Cut { from, to, length, .. } => {
                write!(f, "{kind} from {} to {}, {:.1} s", letter(*from), letter(*to), s(length))
            }
            Self::Split { apart, length, .. } => {
                let apart: Vec<_> = apart.iter().map(|host| letter(*host)).collect();
                write!(f, "{kind}: {} apart for {:.1} s", apart.join(" "), s(length))
            }
            Self::Loss { host, percent, length } => {
                write!(f, "{kind} of {percent} % at {} for {:.1} s", letter(*host), s(length))
            }
            Self::Rekey => f.write_str(kind),
            Self::Foreign { host, object: Object::Ruleset, .. } => {
                write!(f, "{kind} on {}", letter(*host))
            }
            Self::Foreign { host, net, .. } => {
                write!(f, "{kind} on {}, network {net}", letter(*host))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_again_and_another_one_others() {
        assert_eq!(draw(7, 5, 100), draw(7, 5, 100));
        assert_ne!(draw(7, 5, 100), draw(8, 5, 100));
    }

    #[test]
    fn as_many_as_asked_for_of_every_kind_and_no_two_at_one_place() {
        let steps = draw(1, 5, 400);
        assert_eq!(steps.iter().map(|s| s.faults.len()).sum::<usize>(), 400);
        let kinds: BTreeSet<_> =
            steps.iter().flat_map(|s| s.faults.iter().map(Fault::kind)).collect();
        assert_eq!(kinds.len(), KINDS + 1 + OBJECTS.len() - 1, "{kinds:?}");
        for step in steps {
            let places: BTreeSet<_> = step.faults.iter().map(Fault::place).collect();
            assert_eq!(places.len(), step.faults.len(), "{step:?}");
        }
    }

    #[test]
    fn a_fault_concerns_the_packets_that_pass_it_and_no_others() {
        let length = Duration::ZERO;
        let split = Fault::Split { apart: BTreeSet::from([0, 1]), length, net: 0 };
        assert!(split.concerns(0, 0, 2) && split.concerns(0, 3, 1));
        assert!(!split.concerns(0, 0, 1) && !split.concerns(0, 2, 3));
        let cut = Fault::Cut { from: 0, to: 1, one_way: true, length };
        assert!(cut.concerns(0, 1, 0) && !cut.concerns(0, 0, 2) && !cut.concerns(0, 0, 0));
        let unplug = Fault::Unplug { host: 2, length };
        assert!(unplug.concerns(0, 2, 0) && !unplug.concerns(0, 2, 2));
        let bridge = Fault::Foreign { host: 2, net: 1, object: Object::Bridge };
        assert!(bridge.concerns(1, 2, 2) && !bridge.concerns(0, 2, 0));
        assert!(!Fault::Kill { host: 0, away: length }.concerns(0, 0, 1));
    }
}
