//! Hosts that come for good and go for good: forgotten, drained, left.
//!
//! What may be done about a host that is away is decided in [`forget`](crate::forget);
//! here that is fed with what the view knows, and its steps are carried out:
//! written down, then published, then told.
//!
//! And the *fence*: a host that may have been forgotten meanwhile gives no address
//! out ([`Engine::may_give_out`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use overlay_model::{Family, Fate, HostId, HostIntent, NetworkId, Record, RecordKey, RingToken};

use crate::cluster_view::{HostState, ranges_hash};
use crate::engine::{After, Engine, SETTLE};
use crate::event::{
    Effect, ErrorKind, ForgetHost, Forgetting, Notice, Refused, Reply, StateChange, Token,
};
use crate::forget::{Scene, Seen, Step};
use crate::ipam::Changed;

/// How long a request to forget a host waits for the votes of others.
const VOTE_PATIENCE: Duration = Duration::from_secs(5);

/// While something is to be decided, and while nothing is: how often is looked.
const SOON: Duration = Duration::from_millis(250);
const LATER: Duration = Duration::from_secs(10);

/// Addresses that nobody is known to own for so long are taken over: before, a
/// gift may be on its way.
const GAPS_AFTER: Duration = Duration::from_secs(60);

/// How often is written down, at most, that this host is in touch with the others.
const CONTACT_EVERY: Duration = Duration::from_secs(600);

/// What [`Engine`] keeps for it.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// When is looked next; worked out when that was done last, since every step asks.
    next_look: Option<Duration>,
    gaps_since: Option<Duration>,
    /// Most of the cluster is up, since.
    in_touch: Option<Duration>,
    /// Before that, or at the start: for how long it was not, and since when that counts.
    out_of_touch: (Duration, Duration),
    /// It was out of touch for so long that it may have been forgotten.
    fenced: bool,
    contact_written: Option<Duration>,
    requests: Vec<(Token, HostId, Duration)>,
    pub(crate) drained: bool,
    /// The ranges that this host has published.
    published: BTreeMap<(NetworkId, Family, u128), RingToken>,
}

impl Membership {
    pub(crate) fn new(drained: bool) -> Self {
        Self { drained, ..Self::default() }
    }

    /// What was published of ranges before gossip begins anew.
    pub(crate) fn publish_anew(&mut self) {
        self.published.clear();
    }

    /// True if this host has published just that of a range.
    pub(crate) fn has_published(&self, key: RecordKey, token: RingToken) -> bool {
        let RecordKey::Ring(net, family, offset) = key else { return false };
        self.published.get(&(net, family, offset)) == Some(&token)
    }

    /// A range is published, or withdrawn.
    pub(crate) fn note_published(&mut self, key: RecordKey, record: Option<&Record>) {
        let RecordKey::Ring(net, family, offset) = key else { return };
        match record {
            Some(Record::Ring(token)) => self.published.insert((net, family, offset), *token),
            _ => self.published.remove(&(net, family, offset)),
        };
    }
}

/// What was changed of ranges, by network and family.
pub(crate) type Ranges = Vec<((NetworkId, Family), Changed)>;

impl Engine {
    /// Notes for how long this host was out of touch with the others before it started.
    pub(crate) fn restore_contact(&mut self, contact_ms: Option<u64>) {
        let age = match contact_ms {
            // A first start, or of a version that did not write it: nobody has been
            // forgotten by one either.
            None => Duration::ZERO,
            // A clock that went back tells nothing.
            Some(at) => {
                let age = self.now.wall_ms.checked_sub(at);
                age.map_or(Duration::MAX, Duration::from_millis)
            }
        };
        self.membership.out_of_touch = (age, self.now.mono);
        self.membership.fenced = self.is_long(age);
    }

    fn is_long(&self, silence: Duration) -> bool {
        self.config.forget_after.is_some_and(|after| silence >= after / 2)
    }

    /// How this host sees another one.
    pub(crate) fn seen(&self, host: HostId) -> Seen {
        let now = self.now.mono;
        match self.view.presence(host) {
            None => Seen::Silent(now.saturating_sub(self.started)),
            Some(p) => match p.state {
                HostState::Up | HostState::Suspect => Seen::Up,
                HostState::Stopped | HostState::Down => Seen::Silent(now.saturating_sub(p.since)),
                HostState::Left => Seen::Left,
            },
        }
    }

    /// Why this host gives no address out, and gives none away.
    pub(crate) fn may_give_out(&self) -> Result<(), Refused> {
        let refused = |message: String| Refused::new(ErrorKind::Unavailable, message);
        if let Some(host) = self.fates.accuser(|host| self.seen(host)) {
            return Err(refused(format!(
                "this host was away for so long that others take its addresses over: host {} says \
                 so",
                self.host_name(host)
            ))
            .hint("try again in a moment; if it stays so, see: overlayctl hosts"));
        }
        if self.membership.fenced && self.fates.could_be_forgotten(|host| self.seen(host)) {
            let silent: Vec<String> = self
                .fates
                .members()
                .iter()
                .filter(|host| **host != self.config.host && self.seen(**host) != Seen::Up)
                .map(|host| self.host_name(*host))
                .collect();
            if self.membership.in_touch.is_some() {
                return Err(refused(
                    "this host was away for so long that its addresses may have been taken over; \
                     it is hearing the others about that"
                        .to_owned(),
                )
                .hint("try again in a moment"));
            }
            return Err(refused(format!(
                "this host has not been in touch with most of the cluster for so long that its \
                 addresses may have been taken over; it waits for {}",
                silent.join(", ")
            ))
            .hint("if they are gone for good: overlayctl host forget HOST --dead --force"));
        }
        Ok(())
    }

    /// Says whether most of the cluster is up, whenever that may be another than before.
    pub(crate) fn note_contact(&mut self) {
        let now = self.now.mono;
        // Who has been up for a moment only has not said yet what it says of this host.
        let most = self.fates.most_are_up(|host| match self.view.presence(host) {
            Some(p) if p.state == HostState::Up && now < p.since + SETTLE => {
                Seen::Silent(Duration::ZERO)
            }
            _ => self.seen(host),
        });
        match (most, self.membership.in_touch) {
            (true, None) => {
                let (age, since) = self.membership.out_of_touch;
                let away = age.saturating_add(now.saturating_sub(since));
                self.membership.fenced |= self.is_long(away);
                self.membership.in_touch = Some(now);
            }
            (false, Some(_)) => {
                self.membership.in_touch = None;
                self.membership.out_of_touch = (Duration::ZERO, now);
            }
            (false, None) => {
                let (age, since) = self.membership.out_of_touch;
                let away = age.saturating_add(now.saturating_sub(since));
                self.membership.fenced |= self.is_long(away);
            }
            (true, Some(_)) => {}
        }
        // As long as anybody would forget it, it is not in touch.
        if self.fates.accuser(|host| self.seen(host)).is_some() {
            self.membership.fenced = true;
            self.membership.in_touch = self.membership.in_touch.map(|_| now);
        }
        let Some(since) = self.membership.in_touch else { return };
        let settled = now >= since + SETTLE && self.view.live().all(|(_, spoken)| spoken);
        if self.membership.fenced && settled {
            self.membership.fenced = false;
        }
        let every = self.config.forget_after.map_or(CONTACT_EVERY, |t| CONTACT_EVERY.min(t / 8));
        let due = self.membership.contact_written.is_none_or(|at| now >= at + every);
        if due && !self.membership.fenced && self.fates.members().len() > 1 {
            self.membership.contact_written = Some(now);
            self.persist(vec![StateChange::Contact(self.now.wall_ms)], After::Nothing);
        }
    }

    /// When [`Engine::decide_fates`] has something to do next.
    pub(crate) fn fates_deadline(&self) -> Option<Duration> {
        self.membership.next_look
    }

    /// How long it may rest if nothing happens.
    fn rest(&self) -> Duration {
        let away = self
            .fates
            .members()
            .iter()
            .any(|host| *host != self.config.host && self.seen(*host) != Seen::Up);
        let open = self.fates.own().values().any(|fate| fate.heir.is_some() && !fate.done);
        let after = self.config.forget_after.unwrap_or(Duration::MAX);
        if open || !self.membership.requests.is_empty() {
            SOON
        } else if away
            || self.lacks_memory()
            || self.membership.fenced
            || self.membership.gaps_since.is_some()
        {
            LATER.min(after / 16).max(SOON)
        } else {
            CONTACT_EVERY.min(after / 8).max(SOON)
        }
    }

    /// Goes on with what is to be decided about hosts that are away.
    pub(crate) fn decide_fates(&mut self) {
        let due = std::mem::take(&mut self.fates_due)
            || self.fates_deadline().is_none_or(|at| at <= self.now.mono);
        if !due {
            return;
        }
        self.meet_hosts();
        self.note_contact();
        self.fates.listen(self.view.fates());
        self.end_recovery();
        // What is being taken over is published first.
        if !self.is_taking_over(None) {
            let before = self.fates.own().clone();
            let lacks_memory = self.lacks_memory();
            let steps = self.with_scene(|fates, scene| match lacks_memory {
                true => fates.advance_unvoiced(),
                false => fates.advance(scene),
            });
            for step in steps {
                self.carry_out(step, &before);
            }
        }
        self.answer_forgetting();
        self.serve_waiting();
        self.membership.next_look = Some(self.now.mono + self.rest());
    }

    fn meet_hosts(&mut self) {
        let there: Vec<HostId> = self
            .view
            .hosts()
            .filter(|(_, presence, _, host)| {
                host.is_some() && matches!(presence.state, HostState::Up | HostState::Suspect)
            })
            .map(|(id, ..)| id)
            .filter(|id| !self.fates.members().contains(id) && !self.fates.is_forgotten(*id))
            .collect();
        for host in there {
            self.fates.meet(host);
            self.persist(vec![StateChange::Member(host, true)], After::Nothing);
        }
    }

    fn with_scene<T>(
        &mut self,
        act: impl FnOnce(&mut crate::forget::Register, &Scene<'_>) -> T,
    ) -> T {
        let now = self.now.mono;
        let floor_of = |host: HostId| self.fates.floor_of(host);
        let holes = self.pools.values().any(|pool| pool.has_gaps(&floor_of));
        let since = holes.then(|| self.membership.gaps_since.unwrap_or(now));
        self.membership.gaps_since = since;
        // The first sooner than the others: so that rarely two claim what all see.
        let first = self.fates.is_first(&|host| self.seen(host));
        let gaps_after = if first { GAPS_AFTER } else { GAPS_AFTER * 2 };
        let mut fates = std::mem::replace(
            &mut self.fates,
            crate::forget::Register::new(self.config.host, BTreeSet::new(), BTreeMap::new()),
        );
        let result = {
            let scene = Scene {
                seen: &|host| self.seen(host),
                heard_ranges: &|host| self.view.ranges_of(host),
                ranges: &|| ranges_hash(self.membership.published.iter()),
                gaps: since.is_some_and(|since| now >= since + gaps_after) && !self.lacks_memory(),
                newest: self.pools.values().map(|pool| pool.newest_generation()).max().unwrap_or(0),
                newest_of: &|host| {
                    self.pools.values().filter_map(|pool| pool.newest_generation_of(host)).max()
                },
                forget_after: self.config.forget_after,
            };
            act(&mut fates, &scene)
        };
        self.fates = fates;
        result
    }

    /// `before` is what this host said of others before the step.
    fn carry_out(&mut self, step: Step, before: &BTreeMap<HostId, Fate>) {
        match step {
            Step::Say(whom, fate) => {
                let change = StateChange::Fate(whom, fate);
                let before = before.get(&whom).copied();
                self.persist(vec![change], After::Said { whom, fate, before });
            }
            Step::TakeOver { from, generation, fate, gaps } => {
                let (fates, me) = (&self.fates, self.config.host);
                let floor_of = |host: HostId| fates.floor_of(host);
                let floor_of: &dyn Fn(HostId) -> u32 = &floor_of;
                let taken: Ranges = self
                    .pools
                    .iter()
                    .map(|(key, pool)| {
                        let mut after = pool.clone();
                        let gaps = gaps.then_some(floor_of);
                        (*key, after.take_over(me, from, generation, gaps))
                    })
                    .filter(|(_, ranges)| !ranges.is_empty())
                    .collect();
                let mut changes = ring_changes(&taken);
                changes.push(StateChange::Fate(from, Some(fate)));
                changes.push(StateChange::Member(from, false));
                self.persist(changes, After::TookOver { from, fate, taken });
            }
            Step::Forgotten(host) => {
                self.persist(vec![StateChange::Member(host, false)], After::Nothing);
                let heir = self.fates.own().get(&host).and_then(|fate| fate.heir);
                let by = heir.map_or_else(String::new, |heir| self.host_name(heir));
                let host = Some(self.host_name(host));
                self.notice(Notice::Forgotten { host, by, addresses: 0 });
            }
            Step::Gone(host) => {
                self.persist(vec![StateChange::Member(host, false)], After::Nothing);
            }
            Step::Drop(fate) => {
                let me = self.config.host;
                let mut changes = vec![StateChange::Fate(me, Some(fate))];
                let mut dropped = Vec::new();
                for ((net, family), pool) in &mut self.pools {
                    for offset in pool.drop_owned(me, fate.noted) {
                        changes.push(StateChange::DropToken(*net, *family, offset));
                        dropped.push(RecordKey::Ring(*net, *family, offset));
                    }
                }
                self.ring_changes += 1;
                self.persist(changes, After::Dropped { fate, dropped });
            }
        }
    }

    // What the state file does not take is tried again at the next look, not at once: a full
    // disk stays full for a while.

    pub(crate) fn said(
        &mut self,
        whom: HostId,
        (fate, before): (Option<Fate>, Option<Fate>),
        result: Result<(), String>,
    ) {
        match result {
            Ok(()) => self.publish(RecordKey::Fate(whom), fate.map(Record::Fate)),
            // Nobody has heard of it: it binds nobody.
            Err(_) => self.fates.unsay(whom, before),
        }
    }

    pub(crate) fn took_over(
        &mut self,
        from: HostId,
        fate: Fate,
        taken: Ranges,
        result: Result<(), String>,
    ) {
        if result.is_err() {
            // Claimed still: all have voted, so it is tried again.
            let claim = Fate { done: false, floor: 0, ..fate };
            self.fates.unsay(from, Some(claim));
            self.fates.meet(from);
            return;
        }
        let mut addresses = 0u128;
        let me = self.config.host;
        for ((net, family), ranges) in taken {
            for (offset, token) in ranges {
                let Some(token) = token.filter(|token| token.owner == me) else { continue };
                addresses = addresses.saturating_add(token.until - offset);
                let Some(pool) = self.pools.get_mut(&(net, family)) else { continue };
                pool.merge(offset, token);
                let (first, last) = pool.bounds(offset, token);
                self.publish(RecordKey::Ring(net, family, offset), Some(Record::Ring(token)));
                self.pass_on(net, first, last);
            }
        }
        self.ring_changes += 1;
        self.fates_due = true;
        self.publish(RecordKey::Fate(from), Some(Record::Fate(fate)));
        if from != HostId::NOBODY || addresses > 0 {
            let host = (from != HostId::NOBODY).then(|| self.host_name(from));
            let by = self.config.name.to_string();
            self.notice(Notice::Forgotten { host, by, addresses });
        }
        self.answer_forgetting();
        self.serve_waiting();
    }

    pub(crate) fn dropped(
        &mut self,
        fate: Fate,
        dropped: Vec<RecordKey>,
        result: Result<(), String>,
    ) {
        if result.is_err() {
            self.fates.unsay(self.config.host, None);
            return;
        }
        for key in dropped {
            self.publish(key, None);
        }
        self.publish(RecordKey::Fate(self.config.host), Some(Record::Fate(fate)));
        self.notice(Notice::WasForgotten);
    }

    /// What is to be taken in instead of `token`, if it is a gift of a host that this
    /// one has given up: it is given back.
    pub(crate) fn given_back(
        &self,
        net: NetworkId,
        family: Family,
        offset: u128,
        token: RingToken,
    ) -> Option<RingToken> {
        let pool = self.pools.get(&(net, family))?;
        let giver = pool.owner_at(offset).filter(|giver| {
            token.owner == self.config.host
                && *giver != self.config.host
                && self.fates.is_given_up(*giver)
                && pool.is_gift_of(*giver, offset, token)
        })?;
        Some(RingToken { owner: giver, version: token.version + 1, ..token })
    }

    // ----- requests --------------------------------------------------------

    /// A host by its name or id: of those there are, and those there were.
    fn find_host(&self, text: &str) -> Result<HostId, Refused> {
        let known =
            self.view.hosts().map(|(id, ..)| id).chain(self.fates.members().iter().copied());
        let known: BTreeSet<HostId> = known.chain([self.config.host]).collect();
        let is = |id: &HostId| {
            id.to_string() == text || id.short() == text || self.host_name(*id) == text
        };
        let mut found = known.into_iter().filter(is);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => {
                let message = format!("there is no host {text}");
                Err(Refused::new(ErrorKind::NotFound, message)
                    .hint("list them with: overlayctl hosts"))
            }
            (Some(_), Some(_)) => {
                let message = format!("more than one host is called {text}");
                Err(Refused::new(ErrorKind::Invalid, message)
                    .hint("say its id; list them with: overlayctl hosts"))
            }
        }
    }

    pub(crate) fn forget_host(
        &mut self,
        token: Token,
        request: &ForgetHost,
    ) -> Result<(), Refused> {
        let ForgetHost { host: text, dead, force } = request;
        let host = self.find_host(text)?;
        let name = self.host_name(host);
        let invalid = |message: String| Refused::new(ErrorKind::Invalid, message);
        if host == self.config.host {
            return Err(invalid("this is that host itself".to_owned())
                .hint("to take it out of the cluster: overlayctl leave"));
        }
        let silent = match self.seen(host) {
            Seen::Up => {
                return Err(Refused::new(ErrorKind::InUse, format!("host {name} is up"))
                    .hint("to take it out of the cluster, there: overlayctl leave"));
            }
            Seen::Silent(silent) => silent,
            Seen::Left => Duration::MAX,
        };
        if !*dead && !self.is_long(silent) && silent != Duration::MAX {
            let fence = self.config.forget_after.map(|after| after / 2);
            let until = fence.map_or(String::new(), |fence| {
                format!(" for the next {} min", (fence - silent).as_secs().div_ceil(60))
            });
            return Err(Refused::new(
                ErrorKind::InUse,
                format!(
                    "host {name} may only be cut off, and give addresses out where it is{until}"
                ),
            )
            .hint("if its machine is off for good, say --dead"));
        }
        if self.lacks_memory() && !*force {
            // To claim is to vote.
            let unheard = self.unheard();
            if self.is_unsaid() || unheard.iter().any(|other| *other != host || !*dead) {
                return Err(Refused::new(
                    ErrorKind::Unavailable,
                    "this host has lost its state file, and does not know yet whom it has voted for",
                )
                .hint("say that on another host, or when all others have been heard"));
            }
        }
        let before = self.fates.own().clone();
        if *force {
            let step = self.with_scene(|fates, scene| fates.force(host, scene.newest));
            self.carry_out(step, &before);
        } else {
            match self.with_scene(|fates, scene| fates.claim(host, *dead, scene.newest)) {
                Ok(step) => self.carry_out(step, &before),
                Err((heir, also)) => {
                    if let Some(also) = also {
                        self.carry_out(also, &before);
                    }
                    let heir = self.host_name(heir);
                    return Err(Refused::new(
                        ErrorKind::Unavailable,
                        format!("host {heir} is about to take the addresses of {name} over"),
                    )
                    .hint(format!(
                        "if it does not, because it is gone itself: overlayctl host forget {heir} \
                         --dead, then this again"
                    )));
                }
            }
        }
        self.membership.requests.push((token, host, self.now.mono + VOTE_PATIENCE));
        self.fates_due = true;
        Ok(())
    }

    /// Answers those who wait for a host to be forgotten.
    fn answer_forgetting(&mut self) {
        let now = self.now.mono;
        for (token, host, until) in std::mem::take(&mut self.membership.requests) {
            let persisted = !self.is_taking_over(Some(host));
            let done = self.fates.is_forgotten(host) && persisted;
            if !done && now < until {
                self.membership.requests.push((token, host, until));
                continue;
            }
            let (waits_for, majority) = self.with_scene(|fates, scene| {
                (fates.missing_votes(host, scene), fates.is_majority(scene))
            });
            let view = Forgetting {
                host: self.host_name(host),
                done,
                waits_for: waits_for.into_iter().map(|host| self.host_name(host)).collect(),
                majority,
            };
            self.reply(token, Ok(Reply::Forgetting(view)));
        }
    }

    pub(crate) fn drain(&mut self, token: Token, drained: bool) {
        self.persist(vec![StateChange::Drained(drained)], After::Drained { token, drained });
    }

    pub(crate) fn drained(&mut self, token: Token, drained: bool, result: Result<(), String>) {
        if let Err(why) = result {
            return self.reply(token, Err(crate::endpoints::unsaved(&why)));
        }
        self.membership.drained = drained;
        self.publish(RecordKey::Drained, drained.then_some(Record::Drained));
        self.notice(Notice::Drained { drained });
        let endpoints = self.local.len();
        self.reply(token, Ok(Reply::Drained { drained, endpoints }));
    }

    /// Refuses what a drained host takes no more.
    pub(crate) fn check_drained(&self) -> Result<(), Refused> {
        if self.membership.drained {
            let message = "this host is drained: it takes no new endpoint".to_owned();
            return Err(Refused::new(ErrorKind::Unavailable, message)
                .hint("end that with: overlayctl drain --undo"));
        }
        Ok(())
    }

    /// Gives everything that this host owns to others, and leaves.
    pub(crate) fn leave(&mut self, token: Token, force: bool) {
        let endpoints = self.local.len() - self.own_endpoints.len();
        if endpoints > 0 && !force {
            let refused = Refused::new(
                ErrorKind::InUse,
                format!("{endpoints} endpoints are attached here; leaving cuts them off"),
            )
            .hint("detach them first, or say --force");
            return self.reply(token, Err(refused));
        }
        let me = self.config.host;
        let heirs: Vec<HostId> = self
            .view
            .hosts()
            .filter(|(id, p, ..)| p.state == HostState::Up && !self.fates.is_given_up(*id))
            .map(|(id, ..)| id)
            .collect();
        let mut given: Ranges = Vec::new();
        // What it does not know that it gave away it must not give once more.
        let knows_all = self.may_give_out().is_ok() && !self.lacks_memory();
        if knows_all && !heirs.is_empty() && !self.doubled.contains_key(&me) {
            for (n, (key, pool)) in self.pools.iter_mut().enumerate() {
                // Not all to one, where there are several networks.
                let to = heirs[n % heirs.len()];
                let changed = pool.give_all(me, to, self.fates.floor_of(to));
                let changed = changed.into_iter().map(|(at, token)| (at, Some(token)));
                given.push((*key, changed.collect()));
            }
        }
        self.persist(ring_changes(&given), After::GaveAll { token, endpoints, given });
    }

    pub(crate) fn gave_all(&mut self, token: Token, endpoints: usize, given: Ranges) {
        // Whether that could be written down or not: nobody here gives anything out any more.
        for ((net, family), ranges) in given {
            for (offset, ring) in ranges {
                self.publish(RecordKey::Ring(net, family, offset), ring.map(Record::Ring));
            }
        }
        self.set_intent(HostIntent::Left);
        self.reply(token, Ok(Reply::Leaving { endpoints }));
        self.push_effect(Effect::Exit);
    }
}

fn ring_changes(ranges: &Ranges) -> Vec<StateChange> {
    let all = ranges.iter().flat_map(|((net, family), changed)| {
        changed.iter().map(|(at, token)| ring_change(*net, *family, *at, *token))
    });
    all.collect()
}

pub(crate) fn ring_change(
    net: NetworkId,
    family: Family,
    offset: u128,
    token: Option<RingToken>,
) -> StateChange {
    match token {
        Some(token) => StateChange::Ring(net, family, offset, token),
        None => StateChange::DropToken(net, family, offset),
    }
}
