//! What the seal costs: how many datagrams a second one processor seals, and
//! opens, beside the same without a key.
//!
//! `cargo bench -p overlay-gossip --features fuzzing --bench seal`. Each figure
//! is the median of [`ROUNDS`] rounds, with the smallest and the largest.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use overlay_gossip::fuzz::Sealer;
use overlay_gossip::{Key, Keyring};
use tokio::time::Instant;

const ROUNDS: usize = 15;
const DATAGRAMS: usize = 5_000;
/// Bytes of a message: a question of three hosts at rest, one of fifty, and what
/// fills a datagram of the underlay.
const SIZES: [usize; 3] = [120, 420, 1400];
const GOSSIP: u8 = 1;

fn main() {
    let (a, b): (SocketAddr, SocketAddr) =
        (([192, 0, 2, 1], 7946).into(), ([192, 0, 2, 2], 7946).into());
    let key = Key::generate().expect("random bytes");
    println!(
        "| bytes of a message | sealed, a second | opened, a second | µs both | µs both without a key |"
    );
    println!("|---|---|---|---|---|");
    for size in SIZES {
        let sealed = rounds(Some(&key), size, a, b);
        let plain = rounds(None, size, a, b);
        let rate = |(median, small, large): (f64, f64, f64)| {
            format!("{:.0} ({:.0}..{:.0})", 1e9 / median, 1e9 / large, 1e9 / small)
        };
        let both = |(seal, open): &(Vec<f64>, Vec<f64>)| (spread(seal).0 + spread(open).0) / 1e3;
        println!(
            "| {size} | **{}** | **{}** | {:.2} | {:.2} |",
            rate(spread(&sealed.0)),
            rate(spread(&sealed.1)),
            both(&sealed),
            both(&plain),
        );
    }
}

/// Nanoseconds to seal and to open one, by round.
fn rounds(key: Option<&Key>, size: usize, a: SocketAddr, b: SocketAddr) -> (Vec<f64>, Vec<f64>) {
    let end = || {
        let ring = key.map(|key| Keyring::new(vec![key.clone()]).expect("one key"));
        Sealer::new(ring.map(Arc::new))
    };
    let (sender, receiver) = (end(), end());
    let body: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut figures = (Vec::new(), Vec::new());
    meet(&sender, &receiver, a, b);
    for _ in 0..ROUNDS {
        let began = std::time::Instant::now();
        let datagrams: Vec<_> = (0..DATAGRAMS)
            .map(|_| sender.seal(b, GOSSIP, black_box(&body), Instant::now()))
            .collect();
        figures.0.push(each(began.elapsed()));
        let began = std::time::Instant::now();
        let opened = datagrams
            .iter()
            .filter(|datagram| receiver.open(a, datagram, Instant::now()).message.is_some())
            .count();
        figures.1.push(each(began.elapsed()));
        assert_eq!(opened, DATAGRAMS, "of {size} bytes");
    }
    figures
}

/// The first message of a stranger is answered with a challenge.
fn meet(sender: &Sealer, receiver: &Sealer, a: SocketAddr, b: SocketAddr) {
    let mut on_their_way = vec![(a, sender.seal(b, GOSSIP, b"first", Instant::now()))];
    for _ in 0..8 {
        let Some((from, datagram)) = on_their_way.pop() else { return };
        let at = if from == a { receiver } else { sender };
        let other = if from == a { b } else { a };
        let judged = at.open(from, &datagram, Instant::now());
        on_their_way.extend(judged.send.into_iter().map(|(_, datagram)| (other, datagram)));
    }
}

fn each(all: Duration) -> f64 {
    all.as_secs_f64() * 1e9 / DATAGRAMS as f64
}

/// The median, the smallest, the largest.
fn spread(figures: &[f64]) -> (f64, f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}
