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
