//! The mirror of the kernel, and what is under way to bring it into line.
//!
//! Keys wait here until the planner takes them. One plan is in flight at a
//! time, or two in a large round (see below); what is refused is tried again
//! with back-off, and seen in `status`.
//!
//! **A round** is all that waits at one time. It is planned [`PLAN`] keys at a
//! time, in order: operations take as much memory as all the rest of an entry,
//! and 100,000 endpoints are 300,000. As many of what came meanwhile go along,
//! or what the kernel tells of a part would gather until the end of the round.
//! While the kernel carries out a part that holds entries alone, the next part is
//! planned and sent after it: or the kernel would wait for the planner 19 times
//! in such a round, and the planner for the kernel.
//!
//! **An echo is no news.** The kernel tells of each entry that we write. Where
//! it is under way, and is as it is wanted, nothing is left to be planned.
//!
//! **The full check goes in slices.** What a dump has read is compared with the
//! mirror a few hundred keys at a time, a slice each [`crate::Event::Tick`], so
//! that a change in the middle of it waits for one slice and not for all. What
//! the kernel tells meanwhile, and while the dump was read, is newer than what
//! was read: those keys are passed over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use overlay_model::{
    Hand, IfName, KernelOp, KernelState, LinkKind, Object, ObjectKey, Objects, OpFailure, Refusal,
};

use crate::event::PlanId;
use crate::repairs::{Repairs, Sight};

/// First and longest time between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Keys that are planned at once.
pub(crate) const PLAN: usize = 16 * 1024;

/// Keys of a slice: half a millisecond, on a busy machine two.
const SLICE: usize = 256;

/// Why a key waits to be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Somebody wants to be sure: a full check, or another try.
    Check,
    /// The kernel was seen to differ.
    Seen,
    /// What is wanted changed by an event of this run.
    Touched,
}

/// Counts the rounds.
pub(crate) type Round = u64;

/// An object that the kernel refused.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) command: String,
    pub(crate) refusal: Refusal,
    pub(crate) text: String,
    pub(crate) since: Duration,
    pub(crate) attempts: u32,
    pub(crate) next_try: Duration,
}

/// What is known of the kernel, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    /// What time it is in this step.
    pub(crate) now: Duration,
    mirror: Objects,
    /// The first dump has come: before it nothing can be planned.
    seen_kernel: bool,
    dirty: BTreeMap<ObjectKey, (Cause, Duration)>,
    /// What is left to be planned of this round.
    left: BTreeMap<ObjectKey, (Cause, Duration)>,
    round: Round,
    /// In the order in which they are carried out: two at most.
    in_flight: VecDeque<InFlight>,
    last_plan: PlanId,
    failures: BTreeMap<ObjectKey, Failure>,
    /// Somebody reads everything: what was told since.
    reading: Option<BTreeSet<ObjectKey>>,
    check: Option<Check>,
    pub(crate) repairs: Repairs,
    pub(crate) written: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) overruns: u64,
    pub(crate) checks: u64,
    pub(crate) plans: u64,
}

#[derive(Debug)]
struct InFlight {
    plan: PlanId,
    since: Duration,
    /// In order.
    keys: Vec<ObjectKey>,
    /// Links that it makes, deletes or releases: what falls with them is our
    /// own doing.
    remade: BTreeSet<IfName>,
}

/// A full check under way.
#[derive(Debug)]
struct Check {
    /// What was read and is not yet compared.
    left: Objects,
    /// What was told since it was read.
    since: BTreeSet<ObjectKey>,
    /// Everything up to this key has been compared.
    cursor: Option<ObjectKey>,
    /// It was told in its order: nothing that is not in it is in the kernel.
    told: bool,
    /// All is compared; where the search for what is missing stands.
    wanted: Option<WantedCursor>,
}

/// How far all wanted keys have been gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WantedCursor {
    /// Not begun.
    #[default]
    Start,
    /// Everything of the networks before this one, and this of it.
    In(overlay_model::NetworkId, WantedPart),
}

/// Of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WantedPart {
    /// All but its endpoints' entries; these up to this MAC.
    Macs(Option<overlay_model::MacAddr>),
    /// All MACs; neighbours up to this address.
    Ips(Option<std::net::IpAddr>),
    /// Everything.
    All,
}

/// What one more look at the kernel brought.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Keys that changed: how each was, and whether it only fell with its link.
    pub(crate) changed: Vec<(ObjectKey, Option<Object>, bool)>,
    /// Links that are new or gone, and ports that changed.
    pub(crate) links: Vec<IfName>,
    /// Keys to be looked at again, though nothing was seen to change.
    pub(crate) checked: Vec<ObjectKey>,
    /// It was read, not told.
    pub(crate) read: bool,
    /// It was read for the first time: what differs is nobody's doing.
    pub(crate) first: bool,
}

impl Reconciler {
    pub(crate) fn mirror(&self) -> &Objects {
        &self.mirror
    }

    pub(crate) fn failures(&self) -> &BTreeMap<ObjectKey, Failure> {
        &self.failures
    }

    /// How many keys wait or are under way.
    pub(crate) fn pending(&self) -> usize {
        self.dirty.len()
            + self.left.len()
            + self.in_flight.iter().map(|plan| plan.keys.len()).sum::<usize>()
    }

    /// Keys that are under way, and since when.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (&ObjectKey, Duration)> {
        self.in_flight.iter().flat_map(|plan| plan.keys.iter().map(|key| (key, plan.since)))
    }

    /// Keys that wait for the plan under way, and since when.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&ObjectKey, Duration)> {
        self.left.iter().chain(&self.dirty).map(|(key, (_, since))| (key, *since))
    }

    /// True if nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.is_between_rounds()
    }

    fn is_between_rounds(&self) -> bool {
        self.left.is_empty() && self.in_flight.is_empty()
    }

    /// The round that will have carried out everything that waits now.
    pub(crate) fn settled_by(&self) -> Round {
        self.round + u64::from(!self.dirty.is_empty())
    }

    /// The last round that was carried out.
    pub(crate) fn done(&self) -> Round {
        match self.is_idle() {
            // What was to wait for the next one has gone along with this one.
            true => Round::MAX,
            false => self.round - u64::from(!self.is_between_rounds()),
        }
    }

    /// What will be planned in this round after the plan under way.
    pub(crate) fn left(&self) -> impl Iterator<Item = &ObjectKey> {
        self.left.keys()
    }

    /// `key` is to be planned.
    pub(crate) fn touch(&mut self, key: ObjectKey, cause: Cause) {
        let entry = self.dirty.entry(key).or_insert((cause, self.now));
        entry.0 = entry.0.max(cause);
    }

    /// Takes in that an object is now so.
    pub(crate) fn observe(&mut self, key: ObjectKey, object: Option<Object>) -> Observed {
        let mut observed = Observed::default();
        if !self.seen_kernel {
            // The snapshot that is on its way includes it.
            return observed;
        }
        self.note_told(&key);
        self.observe_one(key, object, &mut observed);
        for i in 0..observed.changed.len() {
            let key = observed.changed[i].0.clone();
            self.note_told(&key);
        }
        observed
    }

    fn note_told(&mut self, key: &ObjectKey) {
        let check = self.check.as_mut().map(|check| &mut check.since);
        for since in self.reading.iter_mut().chain(check) {
            since.insert(key.clone());
        }
    }

    /// Somebody begins to read everything.
    pub(crate) fn begin_reading(&mut self) {
        self.reading = Some(BTreeSet::new());
    }

    /// Everything was read. `told` says that nothing was told while it was;
    /// otherwise it belongs to [`Reconciler::begin_reading`], and counts for
    /// nothing if that has been made void.
    ///
    /// The first time, and only then, all of it is taken in at once: there is
    /// nothing yet that could be planned by.
    pub(crate) fn take_in(&mut self, state: KernelState, told: bool) -> Observed {
        let since = match self.reading.take() {
            _ if told => BTreeSet::new(),
            Some(since) => since,
            None => return Observed::default(),
        };
        let left = state.objects;
        self.checks += 1;
        self.check = Some(Check { left, since, cursor: None, told, wanted: None });
        if self.seen_kernel {
            return Observed::default();
        }
        self.seen_kernel = true;
        Observed { first: true, ..self.compare(usize::MAX) }
    }

    /// True while a full check goes on.
    pub(crate) fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    /// True while the mirror may be wrong in what is not compared yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.told && check.wanted.is_none())
    }

    /// Compares the next slice.
    pub(crate) fn compare_slice(&mut self) -> Observed {
        self.compare(SLICE)
    }

    /// Compares the next `most` keys, links and the like all in the first slice.
    fn compare(&mut self, most: usize) -> Observed {
        let mut observed = Observed { read: true, ..Observed::default() };
        let Some(mut check) = self.check.take() else { return observed };
        let mut pairs: Vec<(ObjectKey, Option<Object>)> = Vec::new();
        let mut ours = self.mirror.after(check.cursor.as_ref()).map(|(key, _)| key).peekable();
        loop {
            let theirs = check.left.keys().next();
            let Some(next) = ours.peek().into_iter().chain(&theirs).min().cloned() else {
                check.wanted = Some(WantedCursor::default());
                break;
            };
            if pairs.len() >= most && next.stands_on().is_some() {
                break;
            }
            ours.next_if_eq(&next);
            let there = theirs.as_ref() == Some(&next);
            let object =
                if there { check.left.pop_first().map(|(_, object)| object) } else { None };
            pairs.push((next, object));
        }
        drop(ours);
        check.cursor = pairs.last().map(|(key, _)| key.clone()).or(check.cursor);
        for (key, object) in pairs {
            if !is_newer(&check.since, &key, object.as_ref()) {
                self.observe_one(key.clone(), object, &mut observed);
            }
            observed.checked.push(key);
        }
        self.check = Some(check);
        observed
    }

    /// Where the search for what is missing stands; `None` while there is
    /// something to compare, or no check at all.
    pub(crate) fn wanted_cursor(&self) -> Option<WantedCursor> {
        self.check.as_ref()?.wanted
    }

    /// The search stands here now; `None`: the check is over.
    pub(crate) fn set_wanted_cursor(&mut self, cursor: Option<WantedCursor>) {
        match (cursor, &mut self.check) {
            (Some(cursor), Some(check)) => check.wanted = Some(cursor),
            (_, check) => *check = None,
        }
    }

    fn observe_one(&mut self, key: ObjectKey, object: Option<Object>, observed: &mut Observed) {
        let before = match object {
            Some(object) => {
                let before = self.mirror.insert(key.clone(), object.clone());
                if before.as_ref() == Some(&object) {
                    return;
                }
                if let (ObjectKey::Link(name), None) | (ObjectKey::Port(name), _) = (&key, &before)
                {
                    observed.links.push(name.clone());
                }
                // A port that comes to a bridge has no entries there.
                if let (ObjectKey::Link(name), Some(Object::Link(was))) = (&key, &before)
                    && let Object::Link(is) = &object
                    && is.master.is_some()
                    && was.master != is.master
                {
                    observed.links.push(name.clone());
                }
                before
            }
            None => {
                let Some(before) = self.mirror.remove(&key) else {
                    // A stranger's thing that was in the way of ours.
                    if self.failures.contains_key(&key) {
                        observed.checked.push(key);
                    }
                    return;
                };
                if key == ObjectKey::PortRules {
                    let guards = |key: &ObjectKey| matches!(key, ObjectKey::Guard(_));
                    let fallen: Vec<_> = self.mirror.keys().filter(guards).collect();
                    for key in fallen {
                        let was = self.mirror.remove(&key);
                        observed.changed.push((key, was, true));
                    }
                }
                if let ObjectKey::Link(name) = &key {
                    observed.links.push(name.clone());
                    // A container's port carries nothing but an FDB entry of
                    // the bridge, whose going the kernel tells of by itself.
                    let bare = matches!(&before, Object::Link(l) if matches!(l.kind, LinkKind::Veth { .. }));
                    if !bare {
                        for key in self.mirror.keys_on(name) {
                            let was = self.mirror.remove(&key);
                            observed.changed.push((key, was, true));
                        }
                    }
                }
                Some(before)
            }
        };
        observed.changed.push((key, before, false));
    }

    /// Takes note of a change that may have been another hand's. Returns false
    /// if it was our own doing, or a consequence of something else.
    pub(crate) fn suspect(
        &mut self,
        key: &ObjectKey,
        was: Option<Object>,
        fell: bool,
        hand: Option<&Hand>,
        read: bool,
    ) -> bool {
        let now = self.mirror.get(key);
        if let (ObjectKey::Link(name) | ObjectKey::Port(name), None) = (key, &now) {
            self.repairs.fell_with(name);
        }
        if fell || self.is_our_doing(key, [was.as_ref(), now.as_ref()]) {
            return false;
        }
        let at = self.now;
        self.repairs.see(key.clone(), Sight { at, was, hand: hand.cloned(), read });
        true
    }

    /// What goes and comes with a link that the plan under way replaces.
    fn is_our_doing(&self, key: &ObjectKey, states: [Option<&Object>; 2]) -> bool {
        // Nothing is planned behind a plan that makes links: see `take`.
        let Some(InFlight { remade, .. }) = self.in_flight.front() else { return false };
        if remade.is_empty() {
            return false;
        }
        let mut states = states.into_iter().flatten();
        key.stands_on().is_some_and(|dev| remade.contains(dev))
            || states.any(|object| match object {
                Object::BridgeFdb { port, .. } => remade.contains(port),
                Object::Link(link) => link.master.as_ref().is_some_and(|m| remade.contains(m)),
                Object::Port(port) => port.bridge.as_ref().is_some_and(|b| remade.contains(b)),
                _ => false,
            })
    }

    /// An entry that is being written: what the kernel tells of it is likely our
    /// own doing.
    pub(crate) fn may_be_echo(&self, key: &ObjectKey) -> bool {
        self.is_plain(key) && self.is_under_way(key)
    }

    /// An entry of which nothing is noted that a plan would have to settle.
    pub(crate) fn is_plain(&self, key: &ObjectKey) -> bool {
        key.stands_on().is_some() && self.repairs.is_idle() && self.failures.is_empty()
    }

    fn is_under_way(&self, key: &ObjectKey) -> bool {
        self.in_flight.iter().any(|plan| plan.keys.binary_search(key).is_ok())
    }

    /// Takes what can be planned now: nothing before the kernel has been read,
    /// and while a plan is in flight only the next part of a large round.
    pub(crate) fn take(&mut self) -> Option<BTreeMap<ObjectKey, Cause>> {
        if !self.seen_kernel || self.is_idle() {
            return None;
        }
        if !self.in_flight.is_empty() {
            return self.take_behind();
        }
        if self.left.is_empty() {
            self.left = std::mem::take(&mut self.dirty);
            self.round += 1;
        }
        let mut part: BTreeMap<ObjectKey, Cause> = BTreeMap::new();
        for waiting in [&mut self.left, &mut self.dirty] {
            for (key, (cause, _)) in std::iter::from_fn(|| waiting.pop_first()).take(PLAN) {
                let noted = part.entry(key).or_insert(cause);
                *noted = cause.max(*noted);
            }
        }
        Some(part)
    }

    /// The next part, to be carried out after the plan in flight: of entries,
    /// whose links are in the mirror, and of none that this plan is about.
    fn take_behind(&mut self) -> Option<BTreeMap<ObjectKey, Cause>> {
        let [plan] = self.in_flight.make_contiguous() else { return None };
        let (first, _) = self.left.first_key_value()?;
        if !plan.remade.is_empty() || first.stands_on().is_none() || !self.repairs.is_idle() {
            return None;
        }
        let mut part = BTreeMap::new();
        for (key, (cause, since)) in std::iter::from_fn(|| self.left.pop_first()).take(PLAN) {
            if plan.keys.binary_search(&key).is_ok() {
                self.dirty.entry(key).or_insert((cause, since));
            } else {
                part.insert(key, cause);
            }
        }
        Some(part)
    }

    /// A plan begins.
    pub(crate) fn begin(&mut self, ops: &[KernelOp]) -> PlanId {
        self.last_plan += 1;
        self.plans += 1;
        let mut keys: Vec<ObjectKey> = ops.iter().map(KernelOp::key).collect();
        keys.sort();
        keys.dedup();
        let remade = |op: &KernelOp| match op {
            KernelOp::AddLink(name, _) | KernelOp::DelLink(name) => Some(name.clone()),
            KernelOp::Del(ObjectKey::Port(name), _) => Some(name.clone()),
            _ => None,
        };
        let remade = ops.iter().filter_map(remade).collect();
        self.in_flight.push_back(InFlight { plan: self.last_plan, since: self.now, keys, remade });
        self.last_plan
    }

    /// A plan was carried out. Failures are noted with the time of the next
    /// try, successes forgotten. Returns the keys that it has put right.
    pub(crate) fn finish(
        &mut self,
        plan: PlanId,
        done: usize,
        failed: &[OpFailure],
    ) -> Option<Vec<ObjectKey>> {
        let at = self.in_flight.iter().position(|in_flight| in_flight.plan == plan)?;
        let InFlight { mut keys, .. } = self.in_flight.remove(at)?;
        let now = self.now;
        self.written += done as u64;
        for failure in failed {
            let kind = match &failure.errno {
                Some(errno) => errno.clone(),
                None => format!("{:?}", failure.refusal).to_lowercase(),
            };
            *self.refused.entry(kind).or_default() += 1;
        }
        let failed_keys: BTreeSet<ObjectKey> = failed.iter().map(|f| f.op.key()).collect();
        keys.retain(|key| !failed_keys.contains(key));
        // An entry whose device went meanwhile is no failure: it waits for the
        // device, and is planned when that is there.
        let (waiting, failed): (Vec<_>, Vec<_>) =
            failed.iter().partition(|failure| self.waits_for_device(failure));
        for failure in waiting {
            self.repairs.overlook(&failure.op.key());
        }
        if !self.failures.is_empty() {
            for key in &keys {
                self.failures.remove(key);
            }
        }
        for failure in failed {
            let key = failure.op.key();
            let old = self.failures.remove(&key);
            let attempts = old.as_ref().map_or(1, |f| f.attempts.saturating_add(1));
            let wait = BACKOFF.0.saturating_mul(1 << (attempts - 1).min(16)).min(BACKOFF.1);
            self.failures.insert(
                key,
                Failure {
                    command: failure.op.to_string(),
                    refusal: failure.refusal,
                    text: failure.text.clone(),
                    since: old.map_or(now, |f| f.since),
                    attempts,
                    next_try: now + wait,
                },
            );
        }
        Some(keys)
    }

    fn waits_for_device(&self, failure: &OpFailure) -> bool {
        let KernelOp::Put(key, object) = &failure.op else { return false };
        let Some(dev) = key.stands_on() else { return false };
        let is_gone = self.mirror.link(dev).is_none();
        let is_no_port = match object {
            Object::BridgeFdb { port, .. } => {
                let link = self.mirror.link(port).and_then(|link| link.master.as_ref());
                let lent = self.mirror.port(port).and_then(|lent| lent.bridge.as_ref());
                link != Some(dev) && lent != Some(dev)
            }
            _ => false,
        };
        is_no_port || (is_gone && failure.refusal == Refusal::NoDevice)
    }

    /// Nobody wants `key` any more, or it is as wanted.
    pub(crate) fn forgive(&mut self, key: &ObjectKey) {
        self.failures.remove(key);
    }

    /// Puts failures whose time has come back to be planned.
    pub(crate) fn tick(&mut self) {
        let now = self.now;
        let due: Vec<ObjectKey> = self
            .failures
            .iter()
            .filter(|(key, f)| f.next_try <= now && !self.is_coming(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.touch(key, Cause::Check);
        }
    }

    /// It waits, or is under way.
    fn is_coming(&self, key: &ObjectKey) -> bool {
        self.dirty.contains_key(key) || self.left.contains_key(key) || self.is_under_way(key)
    }

    /// When [`Reconciler::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let failures = self.failures.iter().filter(|(key, _)| !self.is_coming(key));
        let failures = failures.map(|(_, failure)| failure.next_try);
        let slice = self.check.is_some().then_some(self.now);
        failures.chain(slice).chain(self.repairs.next_deadline()).min()
    }
}

/// True if the kernel has told of `key`, or of a link that the entry depends
/// on, since it was read.
fn is_newer(since: &BTreeSet<ObjectKey>, key: &ObjectKey, object: Option<&Object>) -> bool {
    let link = |name: &IfName| {
        since.contains(&ObjectKey::Link(name.clone()))
            || since.contains(&ObjectKey::Port(name.clone()))
    };
    !since.is_empty()
        && (since.contains(key)
            || key.stands_on().is_some_and(link)
            || matches!(object, Some(Object::BridgeFdb { port, .. }) if link(port)))
}

#[cfg(test)]
mod tests;
