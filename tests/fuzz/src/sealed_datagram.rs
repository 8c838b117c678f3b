//! Two hosts that share a key, and whatever is between them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use overlay_gossip::fuzz::{Judged, Sealer, is_authentic, seal_by_hand};
use overlay_gossip::{Key, Keyring};
use tokio::time::Instant;

use crate::input::Input;
use crate::samples::key;
use crate::within;

/// Events of one run, at most.
const EVENTS: usize = 96;

static BORN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn addr(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 7946).into()
}

/// Who made a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// The host, as it should.
    Host,
    /// Somebody with the key, by hand.
    Member,
}

#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
    maker: Maker,
    /// In which life of `b` it was made.
    life: u32,
}

struct World {
    a: Sealer,
    b: Sealer,
    keys: Arc<Keyring>,
    /// All that ever was on the wire.
    wire: Vec<Datagram>,
    /// What the two were told to say to each other.
    said: HashSet<(SocketAddr, u8, Vec<u8>)>,
    /// Associations and counters that `b` has let in in this life.
    taken: HashSet<Vec<u8>>,
    life: u32,
    now: Instant,
}

fn ring() -> Arc<Keyring> {
    Arc::new(Keyring::new(vec![key(1), key(2)]).expect("two keys"))
}

const A: u8 = 1;
const B: u8 = 2;

impl World {
    fn sends(&mut self, from: u8, kind: u8, body: &[u8]) {
        let (sealer, to) = if from == A { (&self.a, addr(B)) } else { (&self.b, addr(A)) };
        let bytes = sealer.seal(to, kind, body, self.now);
        self.said.insert((addr(from), kind, body.to_vec()));
        self.wire(addr(from), to, bytes, Maker::Host);
    }

    fn wire(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, maker: Maker) {
        self.wire.push(Datagram { from, to, bytes, maker, life: self.life });
    }

    /// Brings bytes to an end; what it sends is on the wire then.
    fn brings(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let mut made = self.wire.iter().filter(|datagram| datagram.bytes == bytes);
        let made = made.next().cloned();
        let end = match to {
            to if to == addr(A) => &self.a,
            to if to == addr(B) => &self.b,
            // Nobody is there.
            _ => return,
        };
        // What is kept to be sent again is not much, and not the stranger's.
        let most = 64 * 1024 + 8 * bytes.len();
        let Judged { message, send } = within(most, || end.open(from, bytes, self.now));
        if made.is_none() {
            assert!(message.is_none(), "let in, and nobody with the key has made it");
        }
        // libFuzzer remembers what was compared: a recording of an earlier run is authentic.
        if !is_authentic(&self.keys, bytes) {
            assert!(send.len() <= 1, "one answer to what is not authentic");
            assert!(send.iter().all(|(to, answer)| *to == from && answer.len() < bytes.len()));
        }
        if let Some((kind, body)) = message {
            let made = made.expect("seen above");
            if to == addr(B) {
                // Association and counter.
                assert!(self.taken.insert(bytes[5..29].to_vec()), "let in twice");
            }
            if made.maker == Maker::Host {
                // That another member than it was for lets it in is known: see `seal`.
                assert!(to != addr(B) || made.life == self.life, "let in, and it was a recording");
                assert!(self.said.contains(&(made.from, kind, body)), "let in as something else");
            }
        }
        for (next, bytes) in send {
            self.wire(to, next, bytes, Maker::Host);
        }
    }
}

/// 1. Nothing is let in that nobody with the key has sealed, byte for byte.
/// 2. No datagram is let in twice, by any address, nor after the receiver was
///    started again.
/// 3. What is not authentic is answered at most once, with less than it was.
/// 4. Memory does not depend on what the bytes claim.
pub(crate) fn run(data: &[u8]) {
    let keys = ring();
    let mut world = World {
        a: Sealer::new(Some(keys.clone())),
        b: Sealer::new(Some(keys.clone())),
        keys,
        wire: Vec::new(),
        said: HashSet::new(),
        taken: HashSet::new(),
        life: 0,
        now: *BORN,
    };
    let stranger = key(3);
    let mut input = Input(data);
    let mut next = 0;
    for _ in 0..EVENTS {
        if input.is_empty() {
            return;
        }
        match input.byte() % 12 {
            0 => {
                let (from, kind) = (A + input.byte() % 2, 1 + input.byte() % 2);
                world.sends(from, kind, input.chunk());
            }
            // The network does what it should: brings what was not brought yet.
            1 => {
                if let Some(Datagram { from, to, bytes, .. }) = world.wire.get(next).cloned() {
                    next += 1;
                    world.brings(from, to, &bytes);
                }
            }
            2 => next += 1,
            // It repeats.
            3 => {
                if let Some(Datagram { from, to, bytes, .. }) = input.pick(&world.wire).cloned() {
                    world.brings(from, to, &bytes);
                }
            }
            // Somebody brings it elsewhere, or from elsewhere.
            4 => {
                let (from, to) = (addr(input.byte() % 4), addr(A + input.byte() % 2));
                if let Some(Datagram { bytes, .. }) = input.pick(&world.wire).cloned() {
                    world.brings(from, to, &bytes);
                }
            }
            // Somebody changes it.
            5 => {
                if let Some(Datagram { from, to, mut bytes, .. }) = input.pick(&world.wire).cloned()
                {
                    let at = usize::from(input.u16()) % bytes.len();
                    bytes[at] ^= input.byte();
                    world.brings(from, to, &bytes);
                }
            }
            6 => {
                if let Some(Datagram { from, to, mut bytes, .. }) = input.pick(&world.wire).cloned()
                {
                    bytes.truncate(usize::from(input.u16()) % (bytes.len() + 1));
                    bytes.extend_from_slice(input.chunk());
                    world.brings(from, to, &bytes);
                }
            }
            7 => {
                let (from, to) = (addr(input.byte() % 4), addr(A + input.byte() % 2));
                world.brings(from, to, input.long_chunk());
            }
            // A stranger seals, under its own key or under the name of ours.
            8 => {
                let (to, named) = (addr(A + input.byte() % 2), input.byte() % 2 == 0);
                let mut bytes = seal_by_hand(&stranger, input.array(), input.u64(), input.chunk());
                if named {
                    bytes[1..5].copy_from_slice(&key(1).id().0);
                }
                world.brings(addr(3), to, &bytes);
            }
            // A member that has gone mad.
            9 => {
                let with: Key = key(1 + input.byte() % 2);
                let mut association = input.array();
                if let (true, Some(seen)) = (association[0] == 0, input.pick(&world.wire))
                    && let Some(known) = seen.bytes.get(5..21)
                {
                    association.copy_from_slice(known);
                }
                let text = [&[input.byte()], input.chunk()].concat();
                let bytes = seal_by_hand(&with, association, input.u64(), &text);
                let (from, to) = (addr(input.byte() % 4), addr(A + input.byte() % 2));
                world.wire(from, to, bytes.clone(), Maker::Member);
                world.brings(from, to, &bytes);
            }
            10 => world.now += Duration::from_millis(input.u16().into()),
            _ => match input.byte() % 3 {
                0 => {
                    world.b = Sealer::new(Some(world.keys.clone()));
                    world.taken.clear();
                    world.life += 1;
                }
                1 => world.a = Sealer::new(Some(world.keys.clone())),
                _ => {
                    let used = world.keys.ids().used.expect("a ring is never empty");
                    let other = if used == key(1).id() { key(2) } else { key(1) };
                    let turned = world.keys.using(other.id()).expect("it is there");
                    world.keys.replace(&turned);
                }
            },
        }
    }
}
