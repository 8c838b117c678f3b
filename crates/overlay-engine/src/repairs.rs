//! What another hand changed and we put back: for how long it was wrong, whose
//! hand it was, and when repairing becomes a fight.
//!
//! ```text
//!  the kernel tells ─► seen ─► planned ─► carried out ─► told as repaired
//!                        │
//!                        └─► the sixth time in ten seconds: held ─► planned …
//! ```
//!
//! 1. **One event, one repair.** What falls because its link went belongs to
//!    the link, although the kernel tells of each entry before it tells of the
//!    link.
//! 2. **A fight costs little.** An object that was put back five times within
//!    [`WINDOW`] is held, first for a second, then twice as long each time, up
//!    to [`HOLD`]`.1`. It is put back for good when the other hand rests, and
//!    forgotten after [`WINDOW`] without another change.
//! 3. **Our own doing is no repair**: what goes with a link that we replace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use overlay_model::{Hand, IfName, Object, ObjectKey};

/// In which time repairs of one object are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// So many in [`WINDOW`] go at once; the next one waits.
const AT_ONCE: usize = 5;

/// First and longest time for which an object is held.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// So many repairs are remembered for `status`.
const REMEMBERED: usize = 10;

/// How an object was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Found {
    /// It should be there, and was not.
    Deleted,
    /// It was another than it should be.
    Changed,
    /// It should not be there, and was.
    Added,
}

impl Found {
    /// `deleted`, `changed`, `added`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Changed => "changed",
            Self::Added => "added",
        }
    }
}

/// A change of an object that may not be as it should.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) at: Duration,
    /// How it was before, as far as known.
    pub(crate) was: Option<Object>,
    pub(crate) hand: Option<Hand>,
    /// Not told by the kernel when it happened: found by reading all of it.
    pub(crate) read: bool,
}

/// A repair under way.
#[derive(Debug, Clone)]
struct Open {
    sight: Sight,
    found: Found,
    command: String,
    /// How many things on it go back with it.
    with: usize,
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Repair {
    /// What, for people: `neighbour 10.9.0.5 on ovb4097`.
    pub object: String,
    /// How it was found.
    pub found: Found,
    /// What put it back, as an operator would type it.
    pub command: String,
    /// How many objects it stands for: those that fell with it, or were changed
    /// at the same time.
    pub objects: usize,
    /// From when it was seen to when it was right.
    pub after: Duration,
    /// Whose hand it was, if the kernel told.
    pub hand: Option<Hand>,
    /// It was found by reading everything.
    pub read: bool,
    /// How often within the last ten seconds.
    pub times: usize,
}

/// A fight over an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Contest {
    /// Over what, for people.
    pub object: String,
    /// Whose hand it was last, if the kernel told.
    pub hand: Option<Hand>,
    /// When it became one.
    pub since: Duration,
    /// How often it was put back.
    pub repairs: u64,
    /// Until when it is left as it is; `None`: it is right for now.
    pub until: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
struct Count {
    /// When it was put back, the last [`AT_ONCE`] times.
    times: VecDeque<Duration>,
    /// It was held so often in this fight; 0: no fight.
    holds: u32,
    until: Option<Duration>,
    /// Its time has come: the next repair goes at once.
    due: bool,
    since: Duration,
    last: Duration,
    repairs: u64,
    hand: Option<Hand>,
}

impl Count {
    /// How often it was put back within [`WINDOW`].
    fn lately(&self, now: Duration) -> usize {
        self.times.iter().filter(|at| is_within(**at, now)).count()
    }
}

/// See the header.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    sights: BTreeMap<ObjectKey, Sight>,
    open: BTreeMap<ObjectKey, Open>,
    counts: BTreeMap<ObjectKey, Count>,
    /// Those of which [`Count::holds`] is not 0.
    fights: BTreeSet<ObjectKey>,
    /// When the counts that are over were dropped last.
    pruned: Duration,
    /// When each was told, and what: the last of them.
    pub(crate) last: VecDeque<(Duration, Repair)>,
    /// Objects put back since the start.
    pub(crate) repaired: u64,
    /// Fights since the start.
    pub(crate) contests: u64,
}

impl Repairs {
    /// `key` was seen to change.
    pub(crate) fn see(&mut self, key: ObjectKey, sight: Sight) {
        let Sight { hand, .. } = &sight;
        match self.sights.get_mut(&key) {
            // The first time counts, and what it was then; of hands the last.
            Some(seen) => seen.hand = hand.clone().or(seen.hand.take()),
            None => drop(self.sights.insert(key, sight)),
        }
    }

    /// It was our own doing, or it is right as it is.
    pub(crate) fn overlook(&mut self, key: &ObjectKey) {
        self.sights.remove(key);
        self.open.remove(key);
        if let Some(count) = self.counts.get_mut(key) {
            count.due = false;
        }
    }

    /// What was seen of `key` is not to be repaired, but something else is under
    /// way.
    pub(crate) fn forget_sight(&mut self, key: &ObjectKey) {
        self.sights.remove(key);
    }

    /// Nothing was seen that is not done with.
    pub(crate) fn is_idle(&self) -> bool {
        self.sights.is_empty() && self.open.is_empty()
    }

    pub(crate) fn is_seen(&self, key: &ObjectKey) -> bool {
        self.sights.contains_key(key)
    }

    /// The link `name` is gone: what was seen to go from it went with it.
    pub(crate) fn fell_with(&mut self, name: &IfName) {
        let with = |key: &ObjectKey, was: Option<&Object>| {
            key.stands_on() == Some(name)
                || match was {
                    Some(Object::BridgeFdb { port, .. }) => port == name,
                    Some(Object::Link(link)) => link.master.as_ref() == Some(name),
                    Some(Object::Port(port)) => port.bridge.as_ref() == Some(name),
                    _ => false,
                }
        };
        self.sights.retain(|key, sight| !with(key, sight.was.as_ref()));
        let counts = &mut self.counts;
        self.open.retain(|key, open| {
            let fell = with(key, open.sight.was.as_ref());
            if fell && let Some(count) = counts.get_mut(key) {
                count.times.pop_back();
                count.repairs = count.repairs.saturating_sub(1);
            }
            !fell
        });
    }

    /// True if the next repair of `key` has to wait.
    pub(crate) fn is_fought_over(&self, key: &ObjectKey, now: Duration) -> bool {
        self.counts
            .get(key)
            .is_some_and(|count| !count.due && (count.holds > 0 || count.lately(now) >= AT_ONCE))
    }

    /// True while `key` is left as it is.
    pub(crate) fn is_held(&self, key: &ObjectKey) -> bool {
        self.counts.get(key).is_some_and(|count| count.until.is_some())
    }

    /// Leaves `key` as it is for a while. Returns the fight if it is a new one.
    pub(crate) fn hold(&mut self, key: &ObjectKey, now: Duration) -> Option<Contest> {
        let hand = self.sights.get(key).and_then(|sight| sight.hand.clone());
        let count = self.counts.entry(key.clone()).or_default();
        let wait = HOLD.0.saturating_mul(1 << count.holds.min(16)).min(HOLD.1);
        if count.holds == 0 {
            self.contests += 1;
            count.since = now;
            self.fights.insert(key.clone());
        }
        count.holds += 1;
        count.until = Some(now + wait);
        count.last = now;
        count.hand = hand.or(count.hand.take());
        (count.holds == 1).then(|| contest(key, count))
    }

    /// The fights of now.
    pub(crate) fn fights(&self) -> impl Iterator<Item = Contest> + '_ {
        self.fights.iter().filter_map(|key| Some(contest(key, self.counts.get(key)?)))
    }

    /// `key` is put back now, by `command`.
    pub(crate) fn begin(
        &mut self,
        key: &ObjectKey,
        found: Found,
        command: String,
        with: usize,
        now: Duration,
    ) {
        let Some(sight) = self.sights.remove(key) else { return };
        if now.saturating_sub(self.pruned) > WINDOW {
            self.pruned = now;
            self.counts.retain(|_, count| count.holds > 0 || is_within(count.last, now));
        }
        let count = self.counts.entry(key.clone()).or_default();
        if count.times.len() == AT_ONCE {
            count.times.pop_front();
        }
        count.times.push_back(now);
        count.due = false;
        count.repairs += 1;
        count.last = now;
        self.open.insert(key.clone(), Open { sight, found, command, with });
    }

    /// What was put back of `keys`, in order; several entries that were
    /// changed at once are told as one.
    pub(crate) fn end<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a ObjectKey>,
        now: Duration,
    ) -> Vec<Repair> {
        let mut each: Vec<Repair> = Vec::new();
        let mut entries: Vec<Repair> = Vec::new();
        for key in keys {
            let Some(open) = self.open.remove(key) else { continue };
            let times = self.counts.get(key).map_or(1, |count| count.lately(now));
            let repair = Repair {
                object: key.to_string(),
                found: open.found,
                command: open.command,
                objects: 1 + open.with,
                after: now.saturating_sub(open.sight.at),
                hand: open.sight.hand,
                read: open.sight.read,
                times,
            };
            let alone = matches!(
                key,
                ObjectKey::Link(_)
                    | ObjectKey::Port(_)
                    | ObjectKey::Firewall
                    | ObjectKey::PortRules
                    | ObjectKey::Nat
            );
            if alone { each.push(repair) } else { entries.push(repair) }
        }
        if entries.len() > 3 {
            let objects = entries.len();
            let after = entries.iter().map(|r| r.after).max().unwrap_or_default();
            each.extend(entries.into_iter().next().map(|first| Repair { objects, after, ..first }));
        } else {
            each.extend(entries);
        }
        for repair in &each {
            self.repaired += repair.objects as u64;
            if self.last.len() == REMEMBERED {
                self.last.pop_front();
            }
            self.last.push_back((now, repair.clone()));
        }
        each
    }

    /// The keys whose time to be put back has come, and the fights that are
    /// over.
    pub(crate) fn tick(&mut self, now: Duration) -> (Vec<ObjectKey>, Vec<Contest>) {
        let mut due = Vec::new();
        let mut over = Vec::new();
        let counts = &mut self.counts;
        self.fights.retain(|key| {
            let Some(count) = counts.get_mut(key) else { return false };
            match count.until {
                Some(until) if until <= now => {
                    count.until = None;
                    count.due = true;
                    count.last = now;
                    due.push(key.clone());
                }
                None if !is_within(count.last, now) => {
                    over.push(contest(key, count));
                    counts.remove(key);
                    return false;
                }
                _ => {}
            }
            true
        });
        (due, over)
    }

    /// When [`Repairs::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let fights = self.fights.iter().filter_map(|key| self.counts.get(key));
        fights.map(|count| count.until.unwrap_or(count.last + WINDOW)).min()
    }
}

/// True if `at` is in the [`WINDOW`] that ends now.
fn is_within(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < WINDOW
}

fn contest(key: &ObjectKey, count: &Count) -> Contest {
    Contest {
        object: key.to_string(),
        hand: count.hand.clone(),
        since: count.since,
        repairs: count.repairs,
        until: count.until,
    }
}
