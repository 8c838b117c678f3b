//! Which hosts are gone for good, and who takes their addresses over.
//!
//! Only the owner of a range changes it (see [`ipam`](crate::ipam)), so what a
//! dead host owned would be lost. To *forget* a host is to let one other, its
//! *heir*, take its ranges over. That two hosts take over the same ranges, or
//! that the forgotten one goes on giving them out, must not happen, whatever is
//! lost, late or cut off. There is no leader to ask. Instead:
//!
//! ```text
//!  heir-to-be             every other host there is            the dead one, back
//!  claim(D, gen) ───────► vote(D, heir, gen): binding
//!        ◄─────────────────────────┘
//!  all have voted, and they are most of the cluster
//!  take over: ranges at generation gen; done ────────────────► drops what it owned
//!                                                              notes gen: all is well
//! ```
//!
//! 1. **A vote binds.** Who has voted for X as D's heir votes for nobody else,
//!    before X has given its claim up, has been forgotten itself, or is dead by an
//!    operator's word. X gives up for good: a later claim of it has a higher
//!    generation, and what it says of D never goes back in generation, so that what it
//!    said before the claim is not taken for the end of it.
//! 2. **All vote** that are not being forgotten themselves, and they are more
//!    than half of all. Who was forgotten counts on, since it may come back, unless
//!    an operator has vouched that it is dead. So of two who would take over, one lacks a vote; both
//!    sides of a partition cannot do without the other. Who is away and not to
//!    be forgotten is waited for. Who does not vote because it is to be forgotten
//!    itself may be alive, with something that D gave it: all who vote must have
//!    voted for an heir of it, too, so that whichever majority it meets stops it.
//! 3. **A vote says what its host has published of ranges** (a hash), whom it
//!    knows, and who was forgotten. The heir waits until it has heard just that: what D gave away in its
//!    last moment is known to whom it was given, and is not taken over; what D was
//!    given is known to who gave it. After its vote a host gives back
//!    whatever it is given by D, and gives it nothing.
//! 4. **Generations.** What is taken over has a higher generation than all that
//!    the dead host can have said of it (`version >> 32`). A range of a higher
//!    generation voids what it covers.
//! 5. **Who was forgotten drops all it owned** before it gives anything out
//!    again, says so, and takes in nothing of a lower generation from then on:
//!    what it was given before may come late. Who gives it anything raises the
//!    generation of that. A host that has not been in touch with most of the
//!    cluster for half of the time after which it might be forgotten gives
//!    nothing out at all (the *fence*). So it may be forgotten too early.
//!
//! 6. **What nobody is known to own** is left over where hosts die in the middle of
//!    gifts to hosts that are forgotten. It is taken over as if it was that of one
//!    more dead host, [`HostId::NOBODY`]: when all are there, and have said what they
//!    own.
//!
//! What an operator vouches for (`--dead`) shortens the time of the fence, and
//! takes the host out of the count; it is not a vote. `--force` takes over without votes: it is for the survivor of a
//! cluster of which most is lost, and safe if that is true.
//!
//! Pure: who is up, and what was heard, comes in; what is to be written down and
//! published goes out as [`Step`]s. `tests.rs` runs a million random operations
//! on it, with every kind of loss.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use overlay_model::{Fate, Fnv, HostId, RingToken};

/// How this host sees another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Heard, or silent for a moment only.
    Up,
    /// Silent for so long.
    Silent(Duration),
    /// It said that it leaves, and is gone.
    Left,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write down, then publish, what this host says of that one.
    Say(HostId, Option<Fate>),
    /// All have voted: take over what it owns, and write that down together
    /// with this, which says that it is done. Then publish the ranges first.
    TakeOver {
        /// Whose ranges.
        from: HostId,
        /// The generation of what is taken over.
        generation: u32,
        /// What is said of it from now on.
        fate: Fate,
        /// All others have said what they own: what nobody is known to own was its,
        /// too. Of a range that it split, one piece was heard and one was not.
        gaps: bool,
    },
    /// Another host has taken over what that one owned.
    Forgotten(HostId),
    /// It has left, and owned nothing.
    Gone(HostId),
    /// This host has been forgotten: drop all ranges that it owns of a lower
    /// generation than this, and write that down together with this fate of its
    /// own.
    Drop(Fate),
}

/// What surrounds this host at the moment.
pub struct Scene<'a> {
    /// How each host is seen that was ever heard.
    pub seen: &'a dyn Fn(HostId) -> Seen,
    /// A hash of the ranges that a host has published, as far as heard.
    pub heard_ranges: &'a dyn Fn(HostId) -> u64,
    /// The same of this host.
    pub ranges: &'a dyn Fn() -> u64,
    /// Nobody is known to own some addresses ([`Pool::has_gaps`](crate::ipam::Pool::has_gaps)).
    pub gaps: bool,
    /// The highest generation of any range that is known.
    pub newest: u32,
    /// That of the ranges of one host; `None`: it owns nothing.
    pub newest_of: &'a dyn Fn(HostId) -> Option<u32>,
    /// After what silence a host is forgotten; `None`: never by itself.
    pub forget_after: Option<Duration>,
}

/// What this host and the others say of hosts that are away.
#[derive(Debug, Clone)]
pub struct Register {
    me: HostId,
    /// All hosts of the cluster that were not forgotten, this one among them.
    members: BTreeSet<HostId>,
    /// What this host says.
    own: BTreeMap<HostId, Fate>,
    /// What others say: by who says it, and of whom.
    heard: BTreeMap<HostId, BTreeMap<HostId, Fate>>,
}

impl Register {
    /// A register with what the state file had.
    pub fn new(me: HostId, members: BTreeSet<HostId>, own: BTreeMap<HostId, Fate>) -> Self {
        let mut register = Self { me, members, own, heard: BTreeMap::new() };
        register.members.insert(me);
        register
    }

    /// All hosts of the cluster that were not forgotten.
    pub fn members(&self) -> &BTreeSet<HostId> {
        &self.members
    }

    /// What this host says of others.
    pub fn own(&self) -> &BTreeMap<HostId, Fate> {
        &self.own
    }

    /// A host was heard. Returns true if it was no member.
    pub fn meet(&mut self, host: HostId) -> bool {
        self.members.insert(host)
    }

    /// All that others say now.
    pub fn listen(&mut self, heard: BTreeMap<HostId, BTreeMap<HostId, Fate>>) {
        self.heard = heard;
    }

    /// Takes back what could not be written down.
    pub fn unsay(&mut self, whom: HostId, before: Option<Fate>) {
        match before {
            Some(fate) => self.own.insert(whom, fate),
            None => self.own.remove(&whom),
        };
    }

    /// True if this host has bound itself to let another take over what `host` owns:
    /// it gives it nothing, and gives back what it is given by it
    /// ([`Pool::is_gift_of`](crate::ipam::Pool::is_gift_of)).
    pub fn is_given_up(&self, host: HostId) -> bool {
        self.own.get(&host).is_some_and(|fate| fate.heir.is_some())
    }

    /// True if another host has taken over what `host` owned, or this one has.
    pub fn is_forgotten(&self, host: HostId) -> bool {
        self.own.get(&host).is_some_and(|fate| fate.done)
    }

    /// Who says that this host is to be forgotten, or has been, which it has not
    /// taken note of: it must not give anything out.
    pub fn accuser(&self, seen: impl Fn(HostId) -> Seen) -> Option<HostId> {
        let noted = self.own.get(&self.me).map_or(0, |fate| fate.noted);
        let of_me = |(who, said): (&HostId, &BTreeMap<HostId, Fate>)| {
            let fate = said.get(&self.me)?;
            let open = fate.heir.is_some() && fate.generation > noted;
            ((open || fate.floor > noted) && seen(*who) == Seen::Up).then_some(*who)
        };
        self.heard.iter().find_map(of_me)
    }

    /// Most hosts of the cluster are up.
    pub fn most_are_up(&self, seen: impl Fn(HostId) -> Seen) -> bool {
        let counted = self.counted(&seen);
        let up = counted.iter().filter(|h| **h == self.me || seen(**h) == Seen::Up).count();
        up * 2 > counted.len()
    }

    /// True if this host could be forgotten against its will: the others are more
    /// than half of all.
    pub fn could_be_forgotten(&self, seen: impl Fn(HostId) -> Seen) -> bool {
        let all = self.counted(&seen).len();
        (all - 1) * 2 > all
    }

    /// An operator has said that `host` is dead, to whomever, and it has not been back since.
    fn is_dead_by_word(&self, host: HostId) -> bool {
        let noted = self.noted_by(host);
        let said = self.heard.values().chain([&self.own]).filter_map(|said| said.get(&host));
        said.into_iter().any(|f| f.vouched && f.heir.is_some() && f.generation > noted)
    }

    /// True if somebody says that `host` was forgotten, or an operator that it is dead.
    pub(crate) fn is_no_more(&self, host: HostId) -> bool {
        let said = self.heard.values().chain([&self.own]).filter_map(|said| said.get(&host));
        said.into_iter().any(|fate| fate.done || (fate.vouched && fate.heir.is_some()))
    }

    /// Hosts of which anybody says anything.
    pub(crate) fn named(&self) -> impl Iterator<Item = HostId> {
        let said = self.heard.values().chain([&self.own]).flat_map(BTreeMap::keys);
        said.chain(self.heard.keys()).copied()
    }

    /// Claims to be the heir of `host`, at the word of an operator who vouches
    /// that it is dead, or not.
    ///
    /// # Errors
    /// Whom this host has already voted for; and that `host` is dead is to be said beside the
    /// vote, if an operator vouches for it.
    pub fn claim(
        &mut self,
        host: HostId,
        vouched: bool,
        newest: u32,
    ) -> Result<Step, (HostId, Option<Step>)> {
        match self.own.get(&host).copied() {
            Some(fate @ Fate { heir: Some(heir), .. })
                if heir != self.me && (fate.done || !vouched || !self.is_dead_by_word(heir)) =>
            {
                let also = (vouched && !fate.done && !fate.vouched)
                    .then(|| self.say(host, Fate { vouched, ..fate }));
                Err((heir, also))
            }
            Some(fate) if fate.done => Ok(Step::Say(host, Some(fate))),
            _ => {
                let generation = self.next_generation(newest);
                let fate = Fate { vouched, ..Fate::claim(self.me, generation) };
                Ok(self.say(host, fate))
            }
        }
    }

    /// Takes over without a vote.
    pub fn force(&mut self, host: HostId, newest: u32) -> Step {
        let generation = self.next_generation(newest);
        self.done(host, Fate { vouched: true, ..Fate::claim(self.me, generation) }, false)
    }

    /// The hosts whose vote for this one as the heir of `host` is missing.
    pub fn missing_votes(&self, host: HostId, scene: &Scene<'_>) -> Vec<HostId> {
        let Some(fate) = self.own.get(&host).filter(|fate| fate.heir == Some(self.me)) else {
            return Vec::new();
        };
        let members = self.members_hash(scene);
        let voters = self.voters(scene);
        // Who is not asked because it is to be forgotten as well may have been given some of it:
        // so all that are asked must have bound themselves that it gives nothing out.
        let unasked: Vec<HostId> = self
            .counted(scene.seen)
            .into_iter()
            .filter(|other| *other != host && !voters.contains(other))
            .collect();
        let has_voted = |voter: &HostId| {
            let Some(said) = self.heard.get(voter) else { return false };
            let binds = |other| said.get(other).is_some_and(|fate: &Fate| fate.heir.is_some());
            unasked.iter().all(binds)
                && said.get(&host).is_some_and(|vote| {
                    vote.heir == Some(self.me)
                        && vote.generation == fate.generation
                        && vote.ranges == (scene.heard_ranges)(*voter)
                        && vote.members == members
                })
        };
        let others = voters.into_iter().filter(|voter| *voter != self.me);
        others.filter(|voter| !has_voted(voter)).collect()
    }

    /// True if those who are to vote are more than half of the cluster.
    pub fn is_majority(&self, scene: &Scene<'_>) -> bool {
        self.voters(scene).len() * 2 > self.counted(scene.seen).len()
    }

    /// Goes on as far as it can be gone on now. Not to be called while what was taken
    /// over has not been published yet.
    pub fn advance(&mut self, scene: &Scene<'_>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.note_own_fate(&mut steps);
        let said = self.heard.values().flat_map(BTreeMap::keys).copied();
        let mut named: BTreeSet<HostId> =
            said.chain(self.members.iter().copied()).chain(self.own.keys().copied()).collect();
        named.extend(scene.gaps.then_some(HostId::NOBODY));
        let me = self.me;
        for host in named.into_iter().filter(|host| *host != me) {
            if host != HostId::NOBODY && (scene.seen)(host) == Seen::Up {
                self.is_back(host, scene, &mut steps);
            } else {
                self.is_away(host, scene, &mut steps);
            }
            if matches!(steps.last(), Some(Step::TakeOver { .. })) {
                // A vote says what is owned: not before that is published.
                return steps;
            }
        }
        self.tell_of_the_silent(scene, &mut steps);
        self.refresh(scene, &mut steps);
        steps
    }

    /// As far as it goes for who does not know whom it has voted for: it takes note of having
    /// been forgotten.
    pub fn advance_unvoiced(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.note_own_fate(&mut steps);
        steps
    }

    /// Others say that this host was forgotten.
    fn note_own_fate(&mut self, steps: &mut Vec<Step>) {
        let noted = self.own.get(&self.me).map_or(0, |fate| fate.noted);
        let of_me = self.heard.values().filter_map(|said| said.get(&self.me));
        let floor = of_me.map(|fate| fate.floor).max().filter(|floor| *floor > noted);
        if let Some(floor) = floor {
            let fate = Fate { generation: floor, floor, noted: floor, ..Fate::default() };
            self.own.insert(self.me, fate);
            steps.push(Step::Drop(fate));
        }
    }

    fn is_back(&mut self, host: HostId, scene: &Scene<'_>, steps: &mut Vec<Step>) {
        let Some(fate) = self.own.get(&host).copied() else {
            self.members.insert(host);
            return;
        };
        if fate.done {
            self.is_of_the_cluster(host, fate, scene, steps);
        } else if fate.heir == Some(self.me) || (fate.heir.is_some() && !self.is_bound(host, fate))
        {
            let given_up = Fate { generation: fate.generation, ..Fate::default() };
            steps.push(self.say(host, given_up));
        }
    }

    /// A host that was forgotten says so when it has dropped what it owned; or it owns
    /// something that it has got since. Then it is one of the cluster again. Returns
    /// true if it is.
    fn is_of_the_cluster(
        &mut self,
        host: HostId,
        done: Fate,
        scene: &Scene<'_>,
        steps: &mut Vec<Step>,
    ) -> bool {
        let again = !self.stands(host, done, scene);
        if again {
            self.members.insert(host);
            let back = Fate { generation: done.generation, ..Fate::default() };
            steps.push(self.say(host, back));
        }
        again
    }

    /// True if what `done` says of `host` is still so: who was away may not have heard
    /// that it came back.
    fn stands(&self, host: HostId, done: Fate, scene: &Scene<'_>) -> bool {
        done.generation > self.noted_by(host)
            && (scene.newest_of)(host).is_none_or(|newest| done.generation > newest)
    }

    fn is_away(&mut self, host: HostId, scene: &Scene<'_>, steps: &mut Vec<Step>) {
        let mut own = self.own.get(&host).copied();
        if host != HostId::NOBODY
            && (scene.seen)(host) == Seen::Left
            && (scene.newest_of)(host).is_none()
            && own.is_none()
        {
            // It gave all away before it left.
            if self.members.remove(&host) {
                steps.push(Step::Gone(host));
            }
            return;
        }
        if let Some(done) = own.filter(|fate| fate.done) {
            if !self.is_of_the_cluster(host, done, scene, steps) {
                return;
            }
            // It was back, and is away again.
            own = None;
        }
        let noted = self.noted_by(host);
        let of_it = self.heard.values().filter_map(|said| said.get(&host));
        let done = of_it.filter(|fate| fate.done && self.stands(host, **fate, scene));
        if let Some(fate) = done.max_by_key(|fate| fate.generation).copied() {
            self.members.remove(&host);
            steps.push(self.say(host, fate));
            steps.push(Step::Forgotten(host));
            return;
        }
        let is_claim = |who: HostId, fate: &Fate| {
            let open = !fate.done && fate.generation > noted;
            open && who != self.me && fate.heir == Some(who) && (scene.seen)(who) == Seen::Up
        };
        let claims = self.heard.iter().filter_map(|(who, said)| {
            said.get(&host).filter(|fate| is_claim(*who, fate)).map(|fate| (*who, *fate))
        });
        let claim = claims.min_by_key(|(who, _)| *who);
        // What one host says of another never goes back in generation: so it is known what was
        // said last. A claim that is too low for that is made anew.
        let votable = claim.filter(|(_, fate)| {
            self.own.get(&host).is_none_or(|own| {
                fate.generation > own.generation
                    || (fate.generation == own.generation && own.heir != Some(self.me))
            })
        });
        let vote = |(heir, fate): (HostId, Fate)| Fate {
            heir: Some(heir),
            generation: fate.generation,
            vouched: fate.vouched,
            ..Fate::default()
        };
        let seen = if host == HostId::NOBODY { Seen::Left } else { (scene.seen)(host) };
        let silent = match seen {
            Seen::Up => Duration::ZERO,
            Seen::Silent(silent) => silent,
            Seen::Left => Duration::MAX,
        };
        match own {
            Some(fate) if fate.heir == Some(self.me) => {
                if let Some((who, _)) = claim
                    && who < self.me
                {
                    let given_up = Fate { generation: fate.generation, ..Fate::default() };
                    steps.push(self.say(host, votable.map_or(given_up, vote)));
                } else if fate.generation <= self.newest_taken_over(scene)
                    || fate.generation < self.newest_said_of(host, scene)
                {
                    // Ranges were taken over meanwhile, or may have been; or there was a later
                    // claim, which was given up.
                    let generation = self.next_generation(scene.newest);
                    steps.push(self.say(host, Fate { generation, ..fate }));
                } else if self.is_majority(scene) && self.missing_votes(host, scene).is_empty() {
                    // None but this one is away: nobody else can own what is not heard of.
                    let voters = self.voters(scene);
                    let mut silent = self.counted(scene.seen).into_iter().filter(|other| {
                        !voters.contains(other) && *other != host && !self.is_forgotten(*other)
                    });
                    let all_others = silent.next().is_none();
                    if host != HostId::NOBODY {
                        steps.push(self.done(host, fate, all_others));
                    } else if all_others {
                        let fate = Fate { generation: fate.generation, ..Fate::default() };
                        self.own.insert(host, fate);
                        steps.push(Step::TakeOver {
                            from: host,
                            fate,
                            gaps: true,
                            generation: fate.generation,
                        });
                    }
                }
            }
            Some(fate) if fate.heir.is_some() => {
                let again = claim.filter(|(who, said)| {
                    fate.heir == Some(*who) && fate.generation != said.generation
                });
                if let Some(again) = again {
                    steps.push(self.say(host, vote(again)));
                } else if !self.is_bound(host, fate) {
                    let next = votable.map(vote);
                    let given_up = Fate { generation: fate.generation, ..Fate::default() };
                    steps.push(self.say(host, next.unwrap_or(given_up)));
                }
            }
            _ => {
                let gone = |after: Duration| silent >= after;
                let may = |vouched: bool| {
                    vouched
                        || silent == Duration::MAX
                        || scene.forget_after.is_some_and(|t| gone(t / 2))
                };
                if claim.is_some() {
                    if let Some(claim) = votable.filter(|claim| may(claim.1.vouched)) {
                        steps.push(self.say(host, vote(claim)));
                    }
                } else if (scene.forget_after.is_some_and(gone) || silent == Duration::MAX)
                    && match host {
                        // It may be that only some see the gap.
                        HostId::NOBODY => scene.gaps,
                        _ => self.members.contains(&host) && self.is_first(scene.seen),
                    }
                {
                    let generation = self.next_generation(scene.newest);
                    steps.push(self.say(host, Fate::claim(self.me, generation)));
                }
            }
        }
    }

    /// A vote stands until whom it is for gives up, or is forgotten, or is dead by the word of an
    /// operator: what it may have taken over before, and told nobody of, is its own then, and
    /// goes to whoever is its heir.
    fn is_bound(&self, host: HostId, vote: Fate) -> bool {
        let Some(heir) = vote.heir else { return false };
        if self.is_forgotten(heir) || self.is_dead_by_word(heir) {
            return false;
        }
        match self.heard.get(&heir).and_then(|said| said.get(&host)) {
            // What it said before that claim comes late, by somebody who has not heard the claim.
            Some(said) => said.heir == Some(heir) || said.generation < vote.generation,
            // Not heard since we started.
            None => true,
        }
    }

    /// Up to which generation `host` has noted being forgotten, by what it or anybody
    /// says.
    fn noted_by(&self, host: HostId) -> u32 {
        let heard = self.heard.values().filter_map(|said| said.get(&host));
        heard.chain(self.own.get(&host)).map(|fate| fate.noted).max().unwrap_or(0)
    }

    /// Ranges of `host` of a lower generation than this are void: it was forgotten,
    /// whether it has noted that or not. Who gives it anything gives it of this
    /// generation.
    pub fn floor_of(&self, host: HostId) -> u32 {
        let heard = self.heard.values().filter_map(|said| said.get(&host));
        heard.chain(self.own.get(&host)).map(|fate| fate.floor).max().unwrap_or(0)
    }

    /// Higher than that of any range, also of what somebody has taken over and told nobody:
    /// his claim is known to those who voted for it.
    fn next_generation(&self, newest: u32) -> u32 {
        let heard = self.heard.values().flat_map(BTreeMap::values).chain(self.own.values());
        heard.map(|fate| fate.generation).max().unwrap_or(0).max(newest) + 1
    }

    /// The highest generation at which anything was taken over, or may have been. That it was may
    /// be heard before the ranges that were.
    fn newest_taken_over(&self, scene: &Scene<'_>) -> u32 {
        let said = self.heard.values().flat_map(BTreeMap::values).chain(self.own.values());
        let floor = said.map(|fate| fate.floor).max().unwrap_or(0);
        scene.newest.max(self.newest_of_the_silent(scene)).max(floor)
    }

    /// The highest generation that anybody who is up says of `host`.
    fn newest_said_of(&self, host: HostId, scene: &Scene<'_>) -> u32 {
        let up = self.heard.iter().filter(|(who, _)| (scene.seen)(**who) == Seen::Up);
        let of_it = up.filter_map(|(_, said)| said.get(&host));
        of_it.map(|fate| fate.generation).max().unwrap_or(0)
    }

    /// The highest generation at which a host that does not vote may have taken something over,
    /// and given some of it away, which nobody has heard of.
    fn newest_of_the_silent(&self, scene: &Scene<'_>) -> u32 {
        let voters = self.voters(scene);
        let said = self.heard.values().flat_map(BTreeMap::values).chain(self.own.values());
        let silent = said.filter(|f| f.heir.is_some_and(|heir| !voters.contains(&heir)));
        silent.map(|fate| fate.generation).max().unwrap_or(0)
    }

    /// The first of those who are up claims by itself: so that rarely two do.
    pub(crate) fn is_first(&self, seen: &dyn Fn(HostId) -> Seen) -> bool {
        let mut up = self.members.iter().filter(|h| **h == self.me || seen(**h) == Seen::Up);
        up.next() == Some(&self.me)
    }

    /// All that count: also those that were forgotten, for they may come back, and two
    /// majorities must have somebody in common for ever. Who has left does not, nor
    /// of whom an operator has said that it is dead.
    fn counted(&self, seen: &dyn Fn(HostId) -> Seen) -> BTreeSet<HostId> {
        let said = || self.heard.values().chain([&self.own]).flatten();
        let dead: BTreeSet<HostId> = said()
            .filter(|(whom, f)| f.done && f.vouched && f.generation > self.noted_by(**whom))
            .map(|(whom, _)| *whom)
            .collect();
        let known =
            self.members.iter().chain(self.heard.keys()).chain(said().map(|(whom, _)| whom));
        let known: BTreeSet<HostId> = known.copied().collect();
        let counts = |host: &HostId| {
            let gone = *host == HostId::NOBODY || dead.contains(host) || seen(*host) == Seen::Left;
            *host == self.me || !gone
        };
        known.into_iter().filter(counts).collect()
    }

    /// All that are to vote.
    fn voters(&self, scene: &Scene<'_>) -> BTreeSet<HostId> {
        let mut all = self.counted(scene.seen);
        all.retain(|host| {
            *host == self.me || (scene.seen)(*host) == Seen::Up || !self.is_given_up(*host)
        });
        all
    }

    fn members_hash(&self, scene: &Scene<'_>) -> u64 {
        let mut hash = Fnv::default();
        for host in self.counted(scene.seen) {
            hash.add(host.0.as_bytes());
            hash.add(&self.floor_of(host).to_be_bytes());
        }
        hash.get()
    }

    /// Who votes tells of all who are silent: a newcomer may not know them. So does whoever
    /// hears one that says something of itself: it has been forgotten, or has lost its memory.
    fn tell_of_the_silent(&mut self, scene: &Scene<'_>, steps: &mut Vec<Step>) {
        let open = self.own.values().any(|fate| fate.heir.is_some() && !fate.done);
        let asks = |(who, said): (&HostId, &BTreeMap<HostId, Fate>)| {
            said.contains_key(who) && (scene.seen)(*who) == Seen::Up
        };
        if !open && !self.heard.iter().any(asks) {
            return;
        }
        let untold = self.members.iter().filter(|host| {
            **host != self.me
                && !self.own.contains_key(host)
                && matches!((scene.seen)(**host), Seen::Silent(_))
        });
        for host in untold.copied().collect::<Vec<_>>() {
            steps.push(self.say(host, Fate::default()));
        }
    }

    /// Votes say what their host owns and whom it knows now.
    fn refresh(&mut self, scene: &Scene<'_>, steps: &mut Vec<Step>) {
        if !self.own.values().any(|fate| fate.heir.is_some() && !fate.done) {
            return;
        }
        // Who said it may be gone, and a newcomer has not heard it.
        let grown = self.own.iter().filter(|(host, f)| f.floor < self.floor_of(**host));
        for (host, fate) in grown.map(|(host, fate)| (*host, *fate)).collect::<Vec<_>>() {
            let said = self.say(host, fate);
            steps.push(said);
        }
        let (members, ranges) = (self.members_hash(scene), (scene.ranges)());
        let stale = self.own.iter_mut().filter(|(_, fate)| {
            fate.heir.is_some() && !fate.done && (fate.ranges, fate.members) != (ranges, members)
        });
        for (host, fate) in stale {
            (fate.ranges, fate.members) = (ranges, members);
            steps.retain(|step| !matches!(step, Step::Say(said, _) if said == host));
            steps.push(Step::Say(*host, Some(*fate)));
        }
    }

    fn say(&mut self, host: HostId, fate: Fate) -> Step {
        let fate = Fate { floor: self.floor_of(host), noted: self.noted_by(host), ..fate };
        self.own.insert(host, fate);
        Step::Say(host, Some(fate))
    }

    fn done(&mut self, host: HostId, claim: Fate, gaps: bool) -> Step {
        let (floor, noted) = (claim.generation, self.noted_by(host));
        let fate = Fate { done: true, floor, noted, ..claim };
        self.own.insert(host, fate);
        self.members.remove(&host);
        Step::TakeOver { from: host, generation: fate.generation, fate, gaps }
    }
}

/// Takes a range in, by the offset of its beginning.
pub fn add_range(hash: &mut Fnv, offset: u128, token: RingToken) {
    let RingToken { owner, version, until } = token;
    for number in [offset, until, owner.0.as_u128(), u128::from(version)] {
        hash.add(&number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
