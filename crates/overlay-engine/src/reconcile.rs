//! The mirror of the kernel, and what is under way to bring it into line.
//!
//! Keys wait here until the planner takes them. One plan is in flight at a
//! time; what is refused is tried again with back-off, and seen in `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use overlay_model::{
    IfName, KernelChange, KernelOp, LinkKind, Object, ObjectKey, OpFailure, Refusal,
};

use crate::event::PlanId;

/// First and longest time between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

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
    mirror: BTreeMap<ObjectKey, Object>,
    /// The first dump has come: before it nothing can be planned.
    seen_kernel: bool,
    dirty: BTreeMap<ObjectKey, Cause>,
    /// The keys in order.
    in_flight: Option<(PlanId, Vec<ObjectKey>)>,
    last_plan: PlanId,
    failures: BTreeMap<ObjectKey, Failure>,
    pub(crate) written: u64,
    pub(crate) refused: u64,
    pub(crate) repaired: u64,
    pub(crate) plans: u64,
}

impl Reconciler {
    pub(crate) fn mirror(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.mirror
    }

    pub(crate) fn failures(&self) -> &BTreeMap<ObjectKey, Failure> {
        &self.failures
    }

    /// How many keys wait or are under way.
    pub(crate) fn pending(&self) -> usize {
        self.dirty.len() + self.in_flight.as_ref().map_or(0, |(_, keys)| keys.len())
    }

    /// True if nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.in_flight.is_none()
    }

    /// The plan that will have carried out everything that waits now.
    pub(crate) fn settled_by(&self) -> PlanId {
        if self.is_idle() {
            self.last_plan
        } else {
            self.last_plan + u64::from(!self.dirty.is_empty())
        }
    }

    /// The last plan that was carried out.
    pub(crate) fn done(&self) -> PlanId {
        match &self.in_flight {
            Some((plan, _)) => plan - 1,
            None => self.last_plan,
        }
    }

    /// `key` is to be planned.
    pub(crate) fn touch(&mut self, key: ObjectKey, cause: Cause) {
        let entry = self.dirty.entry(key).or_insert(cause);
        *entry = (*entry).max(cause);
    }

    /// Takes a change of the kernel in. Returns the keys that changed, and the
    /// links that are new or gone, and ports that changed.
    pub(crate) fn observe(&mut self, change: KernelChange) -> (Vec<ObjectKey>, Vec<IfName>) {
        match change {
            KernelChange::Object(key, object) => {
                if !self.seen_kernel {
                    // The snapshot that is on its way includes it.
                    return (Vec::new(), Vec::new());
                }
                self.observe_one(key, object)
            }
            KernelChange::Snapshot(state) => {
                self.seen_kernel = true;
                let gone: Vec<ObjectKey> = self
                    .mirror
                    .keys()
                    .filter(|key| !state.objects.contains_key(key))
                    .cloned()
                    .collect();
                let mut changed = Vec::new();
                let mut links = Vec::new();
                let all = gone
                    .into_iter()
                    .map(|key| (key, None))
                    .chain(state.objects.into_iter().map(|(key, object)| (key, Some(object))));
                for (key, object) in all {
                    let (keys, names) = self.observe_one(key, object);
                    changed.extend(keys);
                    links.extend(names);
                }
                (changed, links)
            }
        }
    }

    fn observe_one(
        &mut self,
        key: ObjectKey,
        object: Option<Object>,
    ) -> (Vec<ObjectKey>, Vec<IfName>) {
        let mut changed = Vec::new();
        let mut links = Vec::new();
        match object {
            Some(object) => {
                let before = self.mirror.insert(key.clone(), object);
                if before.as_ref() == self.mirror.get(&key) {
                    return (changed, links);
                }
                if let (ObjectKey::Link(name), None) | (ObjectKey::Port(name), _) = (&key, &before)
                {
                    links.push(name.clone());
                }
            }
            None => {
                let Some(before) = self.mirror.remove(&key) else { return (changed, links) };
                if let ObjectKey::Link(name) = &key {
                    links.push(name.clone());
                    // A container's port carries nothing but an FDB entry of
                    // the bridge, whose going the kernel tells of by itself.
                    let bare = matches!(&before, Object::Link(l) if matches!(l.kind, LinkKind::Veth { .. }));
                    if !bare {
                        let fallen = keys_on(&self.mirror, name);
                        for key in &fallen {
                            self.mirror.remove(key);
                        }
                        changed.extend(fallen);
                    }
                }
            }
        }
        changed.push(key);
        (changed, links)
    }

    /// Takes what can be planned now: nothing while a plan is in flight or the
    /// kernel has not been read.
    pub(crate) fn take(&mut self) -> Option<BTreeMap<ObjectKey, Cause>> {
        if self.in_flight.is_some() || !self.seen_kernel || self.dirty.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.dirty))
    }

    /// A plan begins.
    pub(crate) fn begin(&mut self, ops: &[KernelOp]) -> PlanId {
        self.last_plan += 1;
        self.plans += 1;
        let mut keys: Vec<ObjectKey> = ops.iter().map(KernelOp::key).collect();
        keys.sort();
        keys.dedup();
        self.in_flight = Some((self.last_plan, keys));
        self.last_plan
    }

    /// There was nothing to do: what waited for this plan need not wait.
    pub(crate) fn skip(&mut self) {
        self.last_plan += 1;
    }

    /// A plan was carried out. Failures are noted with the time of the next
    /// try, successes forgotten.
    pub(crate) fn finish(
        &mut self,
        plan: PlanId,
        done: usize,
        failed: &[OpFailure],
        now: Duration,
    ) -> bool {
        let Some((_, keys)) = self.in_flight.take_if(|(current, _)| *current == plan) else {
            return false;
        };
        self.written += done as u64;
        self.refused += failed.len() as u64;
        if !self.failures.is_empty() {
            let failed_keys: BTreeSet<ObjectKey> = failed.iter().map(|f| f.op.key()).collect();
            for key in keys.iter().filter(|key| !failed_keys.contains(key)) {
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
        true
    }

    /// Nobody wants `key` any more, or it is as wanted.
    pub(crate) fn forgive(&mut self, key: &ObjectKey) {
        self.failures.remove(key);
    }

    /// Puts failures whose time has come back to be planned.
    pub(crate) fn tick(&mut self, now: Duration) {
        let due: Vec<ObjectKey> = self
            .failures
            .iter()
            .filter(|(key, f)| f.next_try <= now && !self.dirty.contains_key(key))
            .filter(|(key, _)| !self.is_in_flight(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.touch(key, Cause::Check);
        }
    }

    fn is_in_flight(&self, key: &ObjectKey) -> bool {
        self.in_flight.as_ref().is_some_and(|(_, keys)| keys.binary_search(key).is_ok())
    }

    /// When [`Reconciler::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let waits = |key: &ObjectKey| !self.dirty.contains_key(key) && !self.is_in_flight(key);
        self.failures.iter().filter(|(k, _)| waits(k)).map(|(_, f)| f.next_try).min()
    }
}

/// Everything in `objects` that stands on the link `name`.
pub(crate) fn keys_on(objects: &BTreeMap<ObjectKey, Object>, name: &IfName) -> Vec<ObjectKey> {
    objects.keys().filter(|key| key.stands_on() == Some(name)).cloned().collect()
}
