use std::net::UdpSocket as StdSocket;

use super::*;
use crate::wire::{RecordType, Reply, question};
use crate::zone::tests::network;

fn forwarder(conf: &str) -> (Forwarder, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, conf).unwrap();
    let names = Arc::new(Names::default());
    names.apply([network(7, "demo", &["10.9.0.0/24"], false)]);
    (Forwarder::new(ResolvConf::follow(&path), names, Arc::default()), dir)
}

/// A resolver at a port of its own that answers what `reply` makes of a query.
async fn asks(reply: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> io::Result<Vec<u8>> {
    let (forwarder, _dir) = forwarder("");
    let server = StdSocket::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    server.set_nonblocking(true).unwrap();
    let server = UdpSocket::from_std(server).unwrap();
    let bytes = question(7, "wWw.example.com", RecordType::A).unwrap();
    let Message::Query(query) = Query::read(&bytes) else { panic!("it is one") };
    let serve = async {
        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).await.unwrap();
        for reply in reply(&buffer[..length]) {
            server.send_to(&reply, from).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = forwarder.by_udp(at, &query) => result,
        () = serve => unreachable!("it goes on"),
    }
}

fn answered(query: &[u8]) -> Vec<u8> {
    let Message::Query(query) = Query::read(query) else { panic!("it is one") };
    let mut out = Vec::new();
    let mut reply = Reply::new(&query, 512, 5, &mut out);
    reply.address("198.51.100.1".parse().unwrap());
    reply.end(ResponseCode::NoError, false);
    out
}

#[tokio::test]
async fn a_reply_is_taken_from_among_forged_ones() {
    let reply = asks(|query| {
        let sound = answered(query);
        let mut number = sound.clone();
        number[0] ^= 1;
        let mut other = question(0, "www.example.org", RecordType::A).unwrap();
        other[..2].copy_from_slice(&query[..2]);
        vec![vec![], vec![0; 5], query.to_vec(), number, answered(&other), sound]
    });
    let reply = reply.await.unwrap();
    assert!(reply.ends_with(&[198, 51, 100, 1]));
}

#[tokio::test]
async fn who_says_nothing_is_given_up() {
    let start = Instant::now();
    let err = asks(|_| Vec::new()).await.unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= TRY);
}

#[tokio::test]
async fn numbers_are_not_in_order() {
    let (forwarder, _dir) = forwarder("");
    let numbers: std::collections::BTreeSet<u16> = (0..100).map(|_| forwarder.number()).collect();
    assert!(numbers.len() > 90, "{numbers:?}");
}

#[tokio::test]
async fn our_own_gateways_are_not_asked() {
    let (forwarder, _dir) = forwarder("nameserver 10.9.0.1\nnameserver 192.0.2.1\n");
    assert_eq!(forwarder.servers(), ["192.0.2.1:53".parse().unwrap()]);
    let (forwarder, _dir) = self::forwarder("nameserver 10.9.0.1\n");
    assert_eq!(forwarder.servers(), []);
    let query = question(7, "www.example.com", RecordType::A).unwrap();
    assert_eq!(forwarder.ask(&query, false).await, Err(Missed::Nobody));
}
