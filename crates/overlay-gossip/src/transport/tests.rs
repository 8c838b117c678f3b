use std::time::Duration;

use chitchat::ProtocolVersion;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::time::timeout;

use super::*;
use crate::wire::PortOptions;

fn bad_cluster() -> ChitchatEnvelope {
    ChitchatEnvelope { version: ProtocolVersion::V1, message: ChitchatMessage::BadCluster }
}

fn relay() -> Relay {
    Relay(Port::bind(&PortOptions::loopback(), Arc::default(), Arc::default()).unwrap())
}

async fn open() -> Box<dyn Socket> {
    relay().open("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

async fn next(socket: &mut Box<dyn Socket>) -> RecvOutcome {
    timeout(Duration::from_secs(20), socket.recv()).await.expect("nothing arrived").unwrap()
}

#[tokio::test]
async fn messages_cross_the_wire_and_name_their_sender() {
    let (mut a, mut b, mut c) = (open().await, open().await, open().await);
    let to = c.local_addr().unwrap();
    for _ in 0..100 {
        a.send(to, bad_cluster()).await.unwrap();
        b.send(to, bad_cluster()).await.unwrap();
        for sender in [&a, &b] {
            let outcome = next(&mut c).await;
            assert_eq!(outcome.envelope, bad_cluster());
            assert_eq!(outcome.from_addr, sender.local_addr().unwrap());
        }
    }
}

#[tokio::test]
async fn what_is_no_message_delays_and_misattributes_nothing() {
    let (mut a, mut b) = (open().await, open().await);
    let to = b.local_addr().unwrap();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..200 {
        for _ in 0..n % 7 {
            stranger.send_to(b"junk", to).unwrap();
        }
        a.send(to, bad_cluster()).await.unwrap();
        assert_eq!(next(&mut b).await.from_addr, a.local_addr().unwrap());
    }
}

#[tokio::test]
async fn a_receive_that_is_given_up_loses_nothing() {
    let (mut a, mut b) = (open().await, open().await);
    let to = b.local_addr().unwrap();
    for _ in 0..200 {
        // Given up at its first wait, as chitchat does when its clock ticks.
        let _ = timeout(Duration::ZERO, b.recv()).await;
        a.send(to, bad_cluster()).await.unwrap();
        let given_up = tokio::select! {
            biased;
            outcome = b.recv() => Some(outcome.unwrap()),
            () = tokio::task::yield_now() => None,
        };
        let outcome = match given_up {
            Some(outcome) => outcome,
            None => next(&mut b).await,
        };
        assert_eq!(outcome.from_addr, a.local_addr().unwrap());
    }
}

#[tokio::test]
async fn the_port_stays_ours_from_one_life_of_chitchat_to_the_next() {
    let wire = relay();
    let any = "127.0.0.1:0".parse().unwrap();
    let first = wire.open(any).await.unwrap().local_addr().unwrap();
    let mut second = wire.open(any).await.unwrap();
    assert_eq!(first, second.local_addr().unwrap());
    let mut a = open().await;
    a.send(first, bad_cluster()).await.unwrap();
    next(&mut second).await;
}

#[tokio::test]
async fn the_receive_buffer_is_larger_than_the_default() {
    let default = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let size = |bytes: nix::Result<usize>| bytes.unwrap();
    assert!(
        size(getsockopt(&relay().0.sockets[0], sockopt::RcvBuf))
            > size(getsockopt(&default, sockopt::RcvBuf))
    );
}

const ROUND: Duration = Duration::from_millis(500);

fn talks() -> (Talks, Tap, SocketAddr) {
    let [peer, own] = [1, 2].map(|n| SocketAddr::from(([192, 0, 2, n], 7946)));
    (Talks::new(ROUND, own), Tap::default(), peer)
}

/// In each round `peer` asks us, and later we would ask it: in which rounds we do.
async fn asked(talks: &mut Talks, tap: &Tap, peer: SocketAddr, answers: bool) -> Vec<usize> {
    let mut asked = Vec::new();
    for round in 0..9 {
        talks.with(peer).asked_us = Some(Instant::now());
        tokio::time::advance(ROUND / 2).await;
        if !talks.spares(peer, tap, Instant::now()) {
            asked.push(round);
            talks.with(peer).owes = !answers;
        }
        tokio::time::advance(ROUND / 2).await;
    }
    asked
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_us_in_every_round_is_asked_in_every_fourth() {
    let (mut talks, tap, peer) = talks();
    assert_eq!(asked(&mut talks, &tap, peer, true).await, [3, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_owes_us_an_answer_is_asked_again_though_it_asks_us() {
    let (mut talks, tap, peer) = talks();
    assert_eq!(asked(&mut talks, &tap, peer, false).await, [3, 4, 5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asked_before_the_news_or_long_ago_or_never_is_asked() {
    let (mut talks, tap, peer) = talks();
    assert!(!talks.spares(peer, &tap, Instant::now()), "never");
    talks.with(peer).owes = false;
    talks.with(peer).asked_us = Some(Instant::now());
    tap.stir();
    assert!(!talks.spares(peer, &tap, Instant::now()), "news in the same moment");
    tokio::time::advance(ROUND / 100).await;
    talks.with(peer).owes = false;
    talks.with(peer).asked_us = Some(Instant::now());
    assert!(talks.spares(peer, &tap, Instant::now()), "it asked after the news");
    tokio::time::advance(ROUND * 12 / 10).await;
    assert!(!talks.spares(peer, &tap, Instant::now()), "long ago");
}

#[tokio::test(start_paused = true)]
async fn among_hundreds_of_hosts_two_of_three_questions_are_asked() {
    let (mut talks, tap, _) = talks();
    let mut put = |bytes: usize| {
        talks.asking_takes = bytes;
        let mut peers = (0..30).map(|n| SocketAddr::from(([192, 0, 2, 100 + n], 7946)));
        peers.by_ref().filter(|peer| !talks.spares(*peer, &tap, Instant::now())).count()
    };
    assert_eq!([put(LONG), put(LONG + 1)], [30, 20]);
}

#[tokio::test(start_paused = true)]
async fn two_hosts_talk_in_every_round_whenever_theirs_begin_and_seldom_twice() {
    let (_, tap, small) = talks();
    let (large, ..) = talks();
    let addrs = [small, large.own];
    for apart in (0..10).map(|tenth| ROUND * tenth / 10) {
        let mut ends = addrs.map(|own| Talks::new(ROUND, own));
        let began = Instant::now();
        let (mut exchanges, mut last, mut longest) = (0, began, Duration::ZERO);
        for turn in 0..200 {
            let (asks, answers) = (turn % 2, 1 - turn % 2);
            let now = began + ROUND * (turn / 2) as u32 + apart * asks as u32;
            if ends[asks].spares(addrs[answers], &tap, now) {
                continue;
            }
            ends[asks].with(addrs[answers]).owes = false;
            ends[answers].with(addrs[asks]).asked_us = Some(now);
            (exchanges, longest, last) = (exchanges + 1, longest.max(now - last), now);
        }
        assert!(longest < ROUND * 2, "{longest:?}, rounds {apart:?} apart");
        assert!((90..=135).contains(&exchanges), "{exchanges}, rounds {apart:?} apart");
    }
}

#[test]
fn what_is_known_of_talks_is_bounded() {
    let (mut talks, ..) = talks();
    for n in 0..3 * TALKS as u32 {
        talks.with((std::net::Ipv4Addr::from_bits(n), 7946).into());
    }
    assert!(talks.peers.len() <= TALKS, "{}", talks.peers.len());
}
