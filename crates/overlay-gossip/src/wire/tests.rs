use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::keyring::Key;
use crate::limits::tests as chitchat;

pub(crate) fn keys() -> Arc<Keyring> {
    Arc::new(Keyring::new(vec![Key::generate().unwrap()]).unwrap())
}

struct End {
    port: Arc<Port>,
    at: SocketAddr,
    counters: Arc<Counters>,
}

fn end(keys: Option<Arc<Keyring>>, mtu: u16) -> End {
    let counters = Arc::new(Counters::default());
    let options = PortOptions { keys, mtu, ..PortOptions::loopback() };
    let port = Port::bind(&options, Arc::default(), counters.clone()).unwrap();
    End { at: port.local_addr().unwrap(), port, counters }
}

impl End {
    fn count(&self, name: &str) -> u64 {
        self.counters.read().get(name)
    }

    async fn counts(&self, name: &str, n: u64) {
        self.counters.reach(name, n).await;
    }

    async fn next_push(&self) -> Message {
        let next = timeout(Duration::from_secs(20), self.port.push.next()).await;
        next.unwrap_or_else(|_| panic!("nothing came: {:?}", self.counters.read()))
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

async fn all_sizes_arrive(keys: Option<Arc<Keyring>>) {
    let (a, b) = (end(keys.clone(), 1500), end(keys, 1500));
    for len in [0, 1, 1400, 1425, 1426, 1427, 1470, 1471, 5000, 48 * 1024, 64 * 1024] {
        a.port.send(b.at, Kind::Push, &body(len)).unwrap();
        let Message { from, body: came } = b.next_push().await;
        assert_eq!((from, came), (a.at, body(len)), "{len}");
    }
    assert!(b.count("tcp_messages_received") >= 4, "{:?}", b.counters.read());
    assert_eq!(b.count("tcp_accepted"), 1, "one connection serves them all");
    let err = a.port.send(b.at, Kind::Push, &body(64 * 1024 + 1)).unwrap_err();
    assert!(err.to_string().contains("65536"), "{err}");
    assert_eq!(a.count("tcp_oversize"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_all_sizes_arrive_sealed_and_name_their_sender() {
    all_sizes_arrive(Some(keys())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_all_sizes_arrive_plain_and_name_their_sender() {
    all_sizes_arrive(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_datagram_is_larger_than_the_mtu_lets_it_be() {
    for (keys, mtu) in [(Some(keys()), 1500), (None, 1500), (Some(keys()), 1280)] {
        let a = end(keys, mtu);
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_nonblocking(true).unwrap();
        let to = peer.local_addr().unwrap();
        let mut largest = 0;
        let mut buf = [0; 4096];
        for len in 1..3000 {
            a.port.send(to, Kind::Push, &body(len)).unwrap();
            while let Ok(len) = peer.recv(&mut buf) {
                largest = largest.max(len);
            }
        }
        assert_eq!(largest, usize::from(mtu) - 28, "used to the last byte, and not beyond");
        a.counts("tcp_failed", 1).await;
    }
}

#[tokio::test]
async fn neither_the_kernel_nor_a_router_may_fragment() {
    let a = end(None, 1500);
    let how = rustix::net::sockopt::ip_mtu_discover(&a.port.sockets[0]).unwrap();
    assert_eq!(how, Ipv4PathMtuDiscovery::DO);
    let v6 = PortOptions {
        listen: vec!["[::1]:0".parse().unwrap()],
        advertise: "[::1]:0".parse().unwrap(),
        ..PortOptions::loopback()
    };
    let v6 = Port::bind(&v6, Arc::default(), Arc::default()).unwrap();
    let how = rustix::net::sockopt::ipv6_mtu_discover(&v6.sockets[0]).unwrap();
    assert_eq!(how, Ipv6PathMtuDiscovery::DO);
    assert_eq!(v6.largest("::2".parse().unwrap()), 1452);
}

#[tokio::test]
async fn a_way_that_turned_out_narrow_gets_smaller_datagrams_from_then_on() {
    let a = end(None, 1500);
    let ip = IpAddr::from([192, 0, 2, 9]);
    assert_eq!(a.port.largest(ip), 1472);
    a.port.narrow(ip, 1371);
    assert_eq!(a.port.largest(ip), 1371);
    assert_eq!(a.port.largest([192, 0, 2, 8].into()), 1472);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_seen_at_both_ends_over_tcp_too() {
    let (a, b) = (end(Some(keys()), 1500), end(Some(keys()), 1500));
    a.port.send(b.at, Kind::Push, &body(10)).unwrap();
    b.counts("seal_unknown_key", 1).await;
    a.counts("seal_refused_by_peer", 1).await;
    a.port.send(b.at, Kind::Push, &body(10_000)).unwrap();
    b.counts("seal_unknown_key", 2).await;
    a.counts("seal_refused_by_peer", 2).await;
    assert_eq!(b.count("tcp_messages_received"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_would_end_chitchat_is_kept_from_it() {
    let keys = keys();
    let (a, b) = (end(Some(keys.clone()), 1500), end(Some(keys), 1500));
    let nodes: Vec<u8> = (0..5000).flat_map(chitchat::node).collect();
    a.port.send(b.at, Kind::Gossip, &chitchat::syn(&nodes)).unwrap();
    b.counts("gossip_too_much", 1).await;
    a.port.send(b.at, Kind::Gossip, b"junk").unwrap();
    b.counts("gossip_malformed", 1).await;
    let good = chitchat::syn(&chitchat::node(1));
    a.port.send(b.at, Kind::Gossip, &good).unwrap();
    let came = timeout(Duration::from_secs(20), b.port.gossip.next()).await.unwrap();
    assert_eq!(came.body, good, "and nothing came before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_one_family_reaches_who_has_both_and_knows_him_by_what_he_advertises() {
    let keys = keys();
    let open = |listen: Vec<SocketAddr>| {
        let (ways, counters) = (Arc::new(Ways::of(&listen)), Arc::new(Counters::default()));
        let (advertise, keys) = (listen[0], Some(keys.clone()));
        let options = PortOptions { listen, advertise, keys, mtu: 1500 };
        let port = Port::bind(&options, ways.clone(), counters.clone()).unwrap();
        (End { at: port.local_addr().unwrap(), port, counters }, ways)
    };
    let free = || UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let port = free();
    let (both, _) =
        open(vec![([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()]);
    let (six, ways) = open(vec![(std::net::Ipv6Addr::LOCALHOST, 0).into()]);
    let (_, overlay_model::Record::Host(host)) = crate::codec::tests::host("a") else {
        unreachable!()
    };
    let vteps = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    ways.note(&overlay_model::Host { gossip: both.at, vteps, ..host });
    for len in [10, 5000] {
        // The larger one by TCP.
        six.port.send(both.at, Kind::Push, &body(len)).unwrap();
        let Message { from, body: came } = both.next_push().await;
        assert_eq!((from.is_ipv6(), came), (true, body(len)));
        both.port.send(six.at, Kind::Push, &body(len)).unwrap();
        let Message { from, body: came } = six.next_push().await;
        assert_eq!((from, came), (both.at, body(len)), "by the address that it advertises");
    }
    assert_eq!((both.count("tcp_accepted"), six.count("tcp_accepted")), (1, 1));
}
