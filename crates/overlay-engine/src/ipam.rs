//! Who may give out which address.
//!
//! The address space of a subnet is cut into ranges; each has one owner and a
//! version. The argument for "no address is ever given twice":
//!
//! 1. At first one range covers everything, and the creator owns it.
//! 2. Only the owner of a range changes it, and writes that to its state file
//!    before anybody is told. All that can happen to a range is that it is
//!    split, and that pieces get another owner; every piece of a split has a
//!    higher version, also the piece that keeps the old beginning.
//! 3. So the truth is a partition that only gets finer, and under one beginning
//!    versions only grow. Merging takes the higher version of each beginning.
//! 4. A host leases only what a range in its own memory names it the owner of.
//!    Such a range is there from when the giver gave it, and is replaced when
//!    the host itself gives it on; a late copy of it has a lower version than
//!    what then stands under that beginning. So while one host may lease an
//!    address, no other may, whatever is lost, repeated, delayed or reordered.
//!
//! An endpoint that moves (`moves.rs`) takes its addresses along and asks nobody:
//! the owner may be dead, and packets are not to wait. So for a while somebody
//! has an address whose range is another's. That no other endpoint gets it:
//!
//! 5. While the owner has not heard of the move, the address is leased there, by
//!    the endpoint that has moved away. When it hears, it gives the range of
//!    that one address to the host that has it ([`Pool::hand_over`]), in the
//!    same step, before it can lease anything else. So the range follows the
//!    endpoint from host to host, also when it comes late to a host that has lost
//!    the endpoint in turn; and a detach at the last place frees the address
//!    there as it does any other. A handing over that the state file does not
//!    take is not told: the address stays leased where it was.
//! 6. What a host forgets by a restart it does not give out again before it has
//!    heard the others ([`Pool::hold`]): addresses of endpoints that the restart
//!    has dropped, and ranges of one address, which may have come along with an
//!    endpoint that has gone on. An address that a user says is not held back.
//!
//! What remains: an owner that is cut off from the move, and on which the former
//! endpoint is detached in that time, may give the address out once more. No rule
//! can prevent that but one that refuses a move away from a dead host. Then the
//! larger move sequence wins, and the other endpoint is told that it has lost.
//!
//! A range carries its end: with beginnings alone, a host that heard of its own
//! piece but not of the one behind it would take its piece for larger. A
//! property test found that.
//!
//! Addresses are reused as late as possible: allocation goes on from where it
//! last was (next-fit). The network address, the broadcast address of IPv4,
//! the gateway and what the network excludes are never leased, and what the
//! network's range leaves out only to who asks for it (`leasable.rs`). Such
//! addresses have owners like all others; a gift is of what can be leased.
//!
//! What an owner that is gone for ever has left behind another host takes over
//! ([`Pool::take_over`]): when it may is decided in [`forget`](crate::forget).
//!
//! Absent: asking for addresses (see `endpoints.rs`).

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnet::IpNet;
use overlay_model::{HostId, Network, RingToken, Subnet};

use crate::leasable::{Leasable, Span};

pub(crate) use report::Segment;

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// It is not one that can be leased: outside, network, broadcast, gateway,
    /// excluded.
    NotLeasable,
    /// An endpoint of this host has it.
    Leased,
    /// Another host owns it.
    OwnedBy(HostId),
    /// Nobody is known to own it yet.
    NoOwner,
    /// Everything that this host owns is leased.
    Exhausted,
}

/// The addresses of one subnet, as this host knows them.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Subnet,
    leasable: Leasable,
    /// By the offset of their beginning from the network address.
    tokens: BTreeMap<u128, RingToken>,
    leased: BTreeSet<u128>,
    /// Not given out unless somebody says just that address.
    held: BTreeSet<u128>,
    /// Where the next search begins.
    next: u128,
    /// The highest generation of any range.
    newest: u64,
    /// Of this host, which was forgotten once, only ranges of this generation on
    /// are its own: it may hear late what it was given before.
    floor: Option<(HostId, u64)>,
}

/// A version is a generation, and how often the range was split in it.
const GENERATION_BITS: u32 = 32;

/// What was changed under each beginning; `None`: no range begins there any more.
pub type Changed = Vec<(u128, Option<RingToken>)>;

fn changes(before: &BTreeMap<u128, RingToken>, after: &BTreeMap<u128, RingToken>) -> Changed {
    let gone = before.keys().filter(|at| !after.contains_key(at)).map(|at| (*at, None));
    let new = after.iter().filter(|(at, t)| before.get(at) != Some(t));
    gone.chain(new.map(|(at, token)| (*at, Some(*token)))).collect()
}

/// How often what the range is a part of was taken over from a host that was
/// forgotten.
fn generation(token: RingToken) -> u64 {
    token.version >> GENERATION_BITS
}

impl Pool {
    /// A pool that knows of no owner.
    pub fn new(subnet: Subnet) -> Self {
        let (leased, held) = (BTreeSet::new(), BTreeSet::new());
        let leasable = Leasable::new(&subnet, &[], &[]);
        let tokens = BTreeMap::new();
        Self { subnet, leasable, tokens, leased, held, next: 0, newest: 0, floor: None }
    }

    /// From now on what `network` says may be leased is leased, and nothing else.
    pub fn follow(&mut self, network: &Network) {
        self.leasable = Leasable::new(&self.subnet, &network.exclude, &network.ip_ranges);
    }

    /// The range that makes `host`, the creator, own all of it.
    pub fn founding_token(&self, host: HostId) -> (u128, RingToken) {
        (0, RingToken { owner: host, version: 1, until: self.size() })
    }

    /// The subnet.
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// All ranges known, by the offset of their beginning.
    pub fn tokens(&self) -> &BTreeMap<u128, RingToken> {
        &self.tokens
    }

    /// Takes a range over if it is newer than what is known of its beginning.
    ///
    /// What ranges of a higher generation cover of it is void, as what it covers
    /// of a lower one is: what a dead host had split, or given away to another
    /// one that was forgotten too, comes late and under beginnings of its own.
    ///
    /// Returns true if something changed. A range outside the subnet changes
    /// nothing.
    pub fn merge(&mut self, offset: u128, token: RingToken) -> bool {
        if offset >= token.until || token.until > self.size() {
            return false;
        }
        let generation = generation(token);
        if self.floor.is_some_and(|(host, floor)| token.owner == host && generation < floor) {
            return false;
        }
        self.newest = self.newest.max(generation);
        let before = self.tokens.get(&offset).copied();
        if self.newest == 0 {
            let is_news = self.merge_piece(offset, token);
            if let Some(before) = before.filter(|_| is_news) {
                self.keep_rest(before, token);
            }
            return is_news;
        }
        // Pieces of what is not covered by a higher generation.
        let mut at = offset;
        let mut pieces = Vec::new();
        for (from, until) in self.covered(offset, token.until, |g| g > generation) {
            if at < from {
                pieces.push((at, from));
            }
            at = at.max(until);
        }
        if at < token.until {
            pieces.push((at, token.until));
        }
        let mut pieces = pieces.into_iter();
        // The first tells whether it is news: an older one must not come back in pieces.
        let Some((from, until)) = pieces.next() else { return false };
        if !self.merge_piece(from, RingToken { until, ..token }) {
            return false;
        }
        for (from, until) in pieces {
            self.merge_piece(from, RingToken { until, ..token });
        }
        self.void_below(offset, token);
        if let Some(before) = before {
            self.keep_rest(before, token);
        }
        true
    }

    /// Of a range that was split, the first piece has come and shrinks what was `before`.
    /// What is behind it is not forgotten until its own piece comes: it would look as if nobody
    /// owned it, and be taken over for that; or a range of a lower generation, late from somebody
    /// who never heard of this one, would be taken for it.
    fn keep_rest(&mut self, before: RingToken, first: RingToken) {
        if first.until >= before.until || generation(before) != generation(first) {
            return;
        }
        let rest = self.tokens.entry(first.until).or_insert(before);
        if rest.version < before.version {
            *rest = before;
        }
    }

    /// [`Pool::merge`], and what that has changed, to be written down: the new range
    /// under each beginning, or that there is none any more.
    pub fn merge_noting(&mut self, offset: u128, token: RingToken) -> Changed {
        if self.newest == 0 && generation(token) == 0 {
            let behind = self.tokens.get(&token.until).copied();
            if !self.merge(offset, token) {
                return Changed::new();
            }
            let rest = self.tokens.get(&token.until).copied();
            let rest = rest.filter(|rest| behind != Some(*rest));
            let rest = rest.map(|rest| (token.until, Some(rest)));
            return rest.into_iter().chain([(offset, Some(token))]).collect();
        }
        let before = self.tokens.clone();
        if self.merge(offset, token) { changes(&before, &self.tokens) } else { Changed::new() }
    }

    fn merge_piece(&mut self, offset: u128, token: RingToken) -> bool {
        match self.tokens.get(&offset) {
            Some(known) if known.version >= token.version => false,
            _ => {
                self.tokens.insert(offset, token);
                true
            }
        }
    }

    /// The parts of `from..until` that ranges of such a generation cover, in order.
    fn covered(&self, from: u128, until: u128, which: impl Fn(u64) -> bool) -> Vec<(u128, u128)> {
        let tokens = self.tokens.range(..until);
        let such = tokens.filter(|(_, t)| t.until > from && which(generation(**t)));
        such.map(|(at, t)| ((*at).max(from), t.until.min(until))).collect()
    }

    /// Cuts what `token` covers out of ranges of lower generations.
    fn void_below(&mut self, offset: u128, token: RingToken) {
        let lower: Vec<(u128, RingToken)> = self
            .tokens
            .range(..token.until)
            .filter(|(_, t)| t.until > offset && generation(**t) < generation(token))
            .map(|(at, t)| (*at, *t))
            .collect();
        for (at, old) in lower {
            self.tokens.remove(&at);
            if at < offset {
                self.tokens.insert(at, RingToken { until: offset, ..old });
            }
            if old.until > token.until {
                let behind = self.tokens.entry(token.until).or_insert(old);
                if behind.version < old.version {
                    *behind = old;
                }
            }
        }
    }

    /// Takes over every range that `from` owns, as far as it is known: at this
    /// generation, which is higher than that of any range of it; with `gaps`, where
    /// those are, also what nobody is known to own.
    ///
    /// Returns what that has changed.
    pub fn take_over(
        &mut self,
        me: HostId,
        from: HostId,
        generation: u32,
        gaps: Option<&dyn Fn(HostId) -> u32>,
    ) -> Changed {
        let before = self.tokens.clone();
        let mut taken: Vec<(u128, u128)> = Vec::new();
        for segment in self.segments() {
            let is_gap = gaps.is_some_and(|floor_of| is_gap(&segment, floor_of));
            if segment.owner() == Some(from) || is_gap {
                match taken.last_mut() {
                    Some((_, last)) if *last == segment.from => *last = segment.until,
                    _ => taken.push((segment.from, segment.until)),
                }
            }
        }
        let version = u64::from(generation) << GENERATION_BITS;
        for (at, until) in taken {
            self.merge(at, RingToken { owner: me, version, until });
        }
        changes(&before, &self.tokens)
    }

    /// True if nobody is known to own some addresses: no range covers them, or one of
    /// a host that was forgotten since
    /// ([`Register::floor_of`](crate::forget::Register::floor_of)).
    pub fn has_gaps(&self, floor_of: &dyn Fn(HostId) -> u32) -> bool {
        self.segments().iter().any(|segment| is_gap(segment, floor_of))
    }

    /// Forgets every range of `me` that is of a lower generation, and takes none in
    /// from now on: others have taken them over. Returns where they began.
    pub fn drop_owned(&mut self, me: HostId, below: u32) -> Vec<u128> {
        self.floor = Some((me, u64::from(below)));
        let own = self.tokens_of(me);
        let own = own.into_iter().filter(|(_, t)| generation(*t) < u64::from(below));
        let dropped: Vec<u128> = own.map(|(at, _)| at).collect();
        for at in &dropped {
            self.tokens.remove(at);
        }
        dropped
    }

    /// Cuts what others own out of the ranges of `me`. Those are exact otherwise, because
    /// `me` alone splits them; but who has lost its memory of a split has the piece that it
    /// gave away by the word of who got it, inside of what it was a part of.
    ///
    /// Returns what that has changed.
    pub fn cut_own(&mut self, me: HostId) -> Vec<(u128, RingToken)> {
        let mut changed = Vec::new();
        for segment in self.segments() {
            let Some(token) = segment.token.filter(|token| token.owner == me) else { continue };
            let there = self.tokens.get(&segment.from).copied();
            if there.is_some_and(|there| there.owner == me && there.until == segment.until) {
                continue;
            }
            let newest = there.map_or(0, |there| there.version).max(token.version);
            let cut = RingToken { owner: me, version: newest + 1, until: segment.until };
            changed.push((segment.from, cut));
        }
        self.tokens.extend(changed.iter().copied());
        changed
    }

    /// The highest generation of any range.
    pub fn newest_generation(&self) -> u32 {
        u32::try_from(self.newest).unwrap_or(u32::MAX)
    }

    /// The highest generation of any range of `host`; `None`: it has none.
    pub fn newest_generation_of(&self, host: HostId) -> Option<u32> {
        let own = self.tokens.values().filter(|token| token.owner == host);
        own.map(|t| u32::try_from(generation(*t)).unwrap_or(u32::MAX)).max()
    }

    /// Gives everything that `me` owns to `to`, leased or not. Returns the tokens
    /// that changed.
    pub fn give_all(&mut self, me: HostId, to: HostId, floor: u32) -> Vec<(u128, RingToken)> {
        let own = self.owned(me);
        own.into_iter().flat_map(|(from, until)| self.give(me, to, floor, from..until)).collect()
    }

    /// Who owns the address at this offset from the network address.
    pub fn owner_at(&self, offset: u128) -> Option<HostId> {
        self.owner_of(offset)
    }

    /// True if `token` is a part of what `host` owns, as far as is known here: a gift
    /// of its own, and not of whoever took it over.
    pub fn is_gift_of(&self, host: HostId, offset: u128, token: RingToken) -> bool {
        let covering = self.covering(offset);
        covering.is_some_and(|t| t.owner == host && generation(t) == generation(token))
    }

    /// What a merge must not be.
    #[cfg(test)]
    pub(crate) fn force_merge(&mut self, offset: u128, token: RingToken) {
        self.tokens.insert(offset, token);
    }

    /// Notes that an endpoint of this host has `ip`, whoever owns it: what
    /// runs is never taken back.
    pub fn note_lease(&mut self, ip: IpAddr) {
        if let Some(offset) = self.offset_of(ip) {
            self.leased.insert(offset);
            self.next = self.next.max(offset + 1);
        }
    }

    /// Notes that an endpoint of this host has brought `ip` along from another.
    pub fn carry(&mut self, ip: IpAddr) {
        self.leased.extend(self.offset_of(ip));
    }

    /// Holds `ip` back until [`Pool::let_go`]: somebody may have it, of whom
    /// this host has not heard yet.
    pub fn hold(&mut self, ip: IpAddr) {
        self.held.extend(self.offset_of(ip));
    }

    /// Holds back every range of one address that `me` owns and has not leased.
    pub fn hold_singles(&mut self, me: HostId) {
        let single = |(from, until): &(u128, u128)| until - from == 1;
        let singles = self.owned(me).into_iter().filter(single).map(|(from, _)| from);
        self.held.extend(singles.filter(|from| !self.leased.contains(from)));
    }

    /// Everybody has been heard: nothing is held back any more.
    pub fn let_go(&mut self) {
        self.held.clear();
    }

    /// Gives an address back.
    pub fn release(&mut self, ip: IpAddr) {
        if let Some(offset) = self.offset_of(ip) {
            self.leased.remove(&offset);
        }
    }

    /// Leases the next free address that `me` owns.
    ///
    /// # Errors
    /// [`NoAddress::Exhausted`] if `me` owns none that is free, which is so
    /// too if it owns none at all.
    pub fn allocate(&mut self, me: HostId) -> Result<IpAddr, NoAddress> {
        let start = self.next;
        let ranges = self.to_choose_from(me);
        let (before, after): (Vec<_>, Vec<_>) =
            (ranges.clone(), ranges.into_iter().map(|(a, b)| (a.max(start), b)).collect());
        for (from, to) in after.into_iter().chain(before) {
            if let Some(offset) = self.first_free(from, to) {
                self.leased.insert(offset);
                self.next = offset + 1;
                return Ok(self.ip_at(offset));
            }
        }
        Err(NoAddress::Exhausted)
    }

    /// Goes along what is leased, and does not search for each address in it: of a full /16
    /// that is most of what a request costs.
    fn first_free(&self, from: u128, until: u128) -> Option<u128> {
        if from >= until {
            return None;
        }
        let mut leased = self.leased.range(from..until).peekable();
        let is_free = |offset: &u128| {
            leased.next_if(|at| *at == offset).is_none() && !self.held.contains(offset)
        };
        (from..until).find(is_free)
    }

    /// Leases `ip`.
    ///
    /// # Errors
    /// Each of [`NoAddress`] but `Exhausted`.
    pub fn allocate_exact(&mut self, me: HostId, ip: IpAddr) -> Result<(), NoAddress> {
        self.can_allocate_exact(me, ip)?;
        if let Some(offset) = self.offset_of(ip) {
            self.leased.insert(offset);
            self.held.remove(&offset);
        }
        Ok(())
    }

    /// Says what [`Pool::allocate_exact`] would, and leases nothing.
    ///
    /// # Errors
    /// As there.
    pub fn can_allocate_exact(&self, me: HostId, ip: IpAddr) -> Result<(), NoAddress> {
        let offset = self.offset_of(ip).ok_or(NoAddress::NotLeasable)?;
        if !self.is_leasable(offset) {
            return Err(NoAddress::NotLeasable);
        }
        if self.leased.contains(&offset) {
            return Err(NoAddress::Leased);
        }
        match self.owner_of(offset) {
            None => Err(NoAddress::NoOwner),
            Some(owner) if owner != me => Err(NoAddress::OwnedBy(owner)),
            Some(_) => Ok(()),
        }
    }

    /// Gives the upper half of the largest free run that `me` owns to `to`, which
    /// takes in only what is at least of the generation `floor`.
    ///
    /// Returns the tokens that changed, to be written down before they are
    /// published, with the number of addresses; nothing if none is free.
    pub fn donate_half(
        &mut self,
        me: HostId,
        to: HostId,
        floor: u32,
    ) -> Option<(Vec<(u128, RingToken)>, u128)> {
        let (from, until) = self.largest_free_run(me)?;
        let middle = from + (until - from) / 2;
        Some((self.give(me, to, floor, middle..until), until - middle))
    }

    /// Gives `ip` to `to`, if `me` owns it and has not leased it; `floor` as in
    /// [`Pool::donate_half`].
    pub fn donate_exact(
        &mut self,
        me: HostId,
        to: HostId,
        floor: u32,
        ip: IpAddr,
    ) -> Option<Vec<(u128, RingToken)>> {
        let offset = self.offset_of(ip)?;
        let free =
            self.is_leasable(offset) && self.is_free(offset) && self.owner_of(offset) == Some(me);
        free.then(|| self.give(me, to, floor, offset..offset + 1))
    }

    /// Gives `ip`, which has moved to `to`, after it: leased or not; `floor` as in
    /// [`Pool::donate_half`]. Empty if `me` does not own it.
    pub fn hand_over(
        &mut self,
        me: HostId,
        to: HostId,
        floor: u32,
        ip: IpAddr,
    ) -> Vec<(u128, RingToken)> {
        let Some(offset) = self.offset_of(ip) else { return Vec::new() };
        if self.owner_of(offset) != Some(me) {
            return Vec::new();
        }
        let changed = self.give(me, to, floor, offset..offset + 1);
        if !changed.is_empty() {
            self.leased.remove(&offset);
            self.held.remove(&offset);
        }
        changed
    }

    /// Takes [`Pool::hand_over`] back, which nobody has been told of.
    pub fn keep(&mut self, tokens: BTreeMap<u128, RingToken>, ip: IpAddr) {
        self.tokens = tokens;
        self.leased.extend(self.offset_of(ip));
    }

    /// The first and the last address of a range.
    pub fn bounds(&self, from: u128, token: RingToken) -> (IpAddr, IpAddr) {
        (self.ip_at(from), self.ip_at(token.until - 1))
    }

    /// Who owns `ip`.
    pub fn owner(&self, ip: IpAddr) -> Option<HostId> {
        self.offset_of(ip).and_then(|offset| self.owner_of(offset))
    }

    /// Owners of addresses to choose from, with how many each has, leased or not.
    pub fn sources(&self) -> Vec<(HostId, u128)> {
        let mut sums: BTreeMap<HostId, u128> = BTreeMap::new();
        let mut pieces = Vec::new();
        for (from, token) in &self.tokens {
            self.leasable.pieces((*from, token.until), &mut pieces);
            for (from, until) in pieces.drain(..) {
                *sums.entry(token.owner).or_default() += until - from;
            }
        }
        sums.into_iter().collect()
    }

    /// The addresses to choose from that `owner` owns, as far as is known: the last ones first,
    /// since the first ones are given out first.
    pub(crate) fn choices_of(&self, owner: HostId) -> impl Iterator<Item = IpAddr> {
        let mut pieces = Vec::new();
        for segment in self.segments().into_iter().filter(|s| s.owner() == Some(owner)) {
            self.leasable.pieces((segment.from, segment.until), &mut pieces);
        }
        let each = pieces.into_iter().rev().flat_map(|(from, until)| (from..until).rev());
        each.map(|offset| self.ip_at(offset))
    }

    /// Owners with how many addresses each has, the largest first.
    pub fn owners(&self) -> Vec<(HostId, u128)> {
        let mut sums: BTreeMap<HostId, u128> = BTreeMap::new();
        for (from, token) in &self.tokens {
            *sums.entry(token.owner).or_default() += token.until - from;
        }
        let mut list: Vec<_> = sums.into_iter().collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        list
    }

    /// How many addresses endpoints of this host have.
    pub fn leased(&self) -> usize {
        self.leased.len()
    }

    /// How many addresses there are to choose from.
    pub fn capacity(&self) -> u128 {
        let mut pieces = Vec::new();
        self.leasable.pieces((0, self.size()), &mut pieces);
        pieces.into_iter().map(|(from, until)| until - from).sum()
    }

    /// Every range owned by `me`.
    pub fn tokens_of(&self, me: HostId) -> Vec<(u128, RingToken)> {
        self.tokens.iter().filter(|(_, t)| t.owner == me).map(|(o, t)| (*o, *t)).collect()
    }

    /// Splits the range of `me` that covers `from..until` and gives that part
    /// to `to`. What changed has `to`'s piece first and the one that shrinks
    /// last, so that whoever hears it in order never finds an address without
    /// an owner.
    fn give(
        &mut self,
        me: HostId,
        to: HostId,
        floor: u32,
        part: Range<u128>,
    ) -> Vec<(u128, RingToken)> {
        let Range { start: from, end: until } = part;
        let covering = self.tokens.range(..=from).next_back().map(|(start, t)| (*start, *t));
        let Some((start, range)) = covering.filter(|(_, t)| t.owner == me && t.until >= until)
        else {
            return Vec::new();
        };
        let version = range.version + 1;
        let given = version.max(u64::from(floor) << GENERATION_BITS);
        self.newest = self.newest.max(given >> GENERATION_BITS);
        let mut changed = vec![(from, RingToken { owner: to, version: given, until })];
        if until < range.until {
            changed.push((until, RingToken { owner: me, version, until: range.until }));
        }
        if start < from {
            changed.push((start, RingToken { owner: me, version, until: from }));
        }
        for (offset, token) in &changed {
            self.tokens.insert(*offset, *token);
        }
        changed
    }

    fn size(&self) -> u128 {
        let bits = u32::from(self.subnet.cidr.max_prefix_len() - self.subnet.cidr.prefix_len());
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    }

    fn owned(&self, me: HostId) -> Vec<(u128, u128)> {
        let own = self.tokens.iter().filter(|(_, token)| token.owner == me);
        own.map(|(from, token)| (*from, token.until)).collect()
    }

    fn owner_of(&self, offset: u128) -> Option<HostId> {
        self.covering(offset).map(|token| token.owner)
    }

    /// The finest range that covers `offset`: what is split is older.
    fn covering(&self, offset: u128) -> Option<RingToken> {
        let before = self.tokens.range(..=offset).rev();
        before.into_iter().find(|(_, t)| t.until > offset).map(|(_, token)| *token)
    }

    fn largest_free_run(&self, me: HostId) -> Option<(u128, u128)> {
        let mut best: Option<(u128, u128)> = None;
        let mut consider = |from: u128, until: u128| {
            if until > from && best.is_none_or(|(a, b)| until - from > b - a) {
                best = Some((from, until));
            }
        };
        for (from, until) in self.to_choose_from(me) {
            let mut start = from;
            let blocked = self.leased.range(from..until).chain(self.held.range(from..until));
            let mut stops: Vec<u128> = blocked.copied().collect();
            stops.sort_unstable();
            for stop in stops {
                consider(start, stop);
                start = start.max(stop + 1);
            }
            consider(start, until);
        }
        best
    }

    /// What of the ranges of `me` addresses are chosen from, leased or not.
    fn to_choose_from(&self, me: HostId) -> Vec<Span> {
        let mut pieces = Vec::new();
        for range in self.owned(me) {
            self.leasable.pieces(range, &mut pieces);
        }
        pieces
    }

    fn is_free(&self, offset: u128) -> bool {
        !self.leased.contains(&offset) && !self.held.contains(&offset)
    }

    fn is_leasable(&self, offset: u128) -> bool {
        self.leasable.allows(offset)
    }

    fn base(&self) -> u128 {
        bits_of(self.subnet.cidr.network())
    }

    fn offset_of(&self, ip: IpAddr) -> Option<u128> {
        self.subnet.cidr.contains(&ip).then(|| bits_of(ip) - self.base())
    }

    fn ip_at(&self, offset: u128) -> IpAddr {
        ip_of(self.subnet.cidr, self.base() + offset)
    }
}

fn is_gap(segment: &Segment, floor_of: &dyn Fn(HostId) -> u32) -> bool {
    segment.token.is_none_or(|token| generation(token) < u64::from(floor_of(token.owner)))
}

fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn ip_of(cidr: IpNet, bits: u128) -> IpAddr {
    match cidr {
        // A subnet's addresses are 32 bits, so this cuts nothing off.
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// The first address of `cidr` that a station can have: where the gateway is
/// unless told.
pub fn first_address(cidr: IpNet) -> IpAddr {
    ip_of(cidr, bits_of(cidr.network()) + 1)
}

/// True if `ip` is in `cidr` and neither its network address nor, in IPv4, its
/// broadcast address.
pub fn is_host_address(cidr: IpNet, ip: IpAddr) -> bool {
    cidr.contains(&ip) && ip != cidr.network() && (ip.is_ipv6() || ip != cidr.broadcast())
}

#[cfg(test)]
mod tests;
