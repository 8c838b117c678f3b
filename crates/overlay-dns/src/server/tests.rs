use std::io::{Read as _, Write as _};
use std::net::TcpStream as Stream;

use super::*;
use crate::wire::{RecordType, question};
use crate::zone::tests::{comes, goes, network, placed};

const NET: NetworkId = NetworkId(7);

fn code_of(reply: &[u8]) -> Option<ResponseCode> {
    header_of(reply).map(|said| said.response_code)
}

struct Served {
    server: Server,
    names: Arc<Names>,
    udp: SocketAddr,
    tcp: SocketAddr,
    door: DoorId,
    _dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

/// A door at ports of its own, for those on demo; nobody is asked for other names.
fn serve(at: At) -> Served {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 10.9.0.1\n").unwrap();
    let names = Arc::new(Names::default());
    names.apply([network(7, "demo", &["10.9.0.0/24"], false)]);
    names.apply([comes(placed(7, 1, 1, "web", &["10.9.0.2"]))]);
    let settings = Settings { ttl: 5, resolv_conf: ResolvConf::follow(&path) };
    let server = Server::start(settings, names.clone(), runtime.handle().clone()).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let [by_udp, by_tcp] = [udp.local_addr().unwrap(), tcp.local_addr().unwrap()];
    let door = server.open(at, vec![NET], udp, Some(tcp)).unwrap();
    Served { server, names, udp: by_udp, tcp: by_tcp, door, _dir: dir, _runtime: runtime }
}

impl Served {
    fn ask(&self, name: &str) -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.connect(self.udp)?;
        socket.send(&question(7, name, RecordType::A).unwrap())?;
        let mut reply = vec![0; 1500];
        let length = socket.recv(&mut reply)?;
        reply.truncate(length);
        Ok(reply)
    }
}

#[test]
fn changes_are_answered_at_once_and_other_names_fail_where_nobody_can_be_asked() {
    let served = serve(At::Namespace);
    assert!(served.ask("web").unwrap().ends_with(&[10, 9, 0, 2]));
    let db = placed(7, 1, 2, "db", &["10.9.0.3"]);
    served.names.apply([comes(db.clone())]);
    assert!(served.ask("db").unwrap().ends_with(&[10, 9, 0, 3]));
    served.names.apply([goes(db)]);
    assert_eq!(
        code_of(&served.ask("db.demo.overlay.internal").unwrap()),
        Some(ResponseCode::NXDomain)
    );
    assert_eq!(code_of(&served.ask("example.com").unwrap()), Some(ResponseCode::ServFail));
    let counters = served.server.counters().all();
    assert_eq!((counters["queries"], counters["noerror"], counters["nxdomain"]), (4, 2, 1));
    assert_eq!((counters["forwarded"], counters["servfail"]), (1, 1));
}

#[test]
fn who_is_moved_to_another_network_sees_that() {
    let served = serve(At::Namespace);
    served.names.apply([network(8, "other", &["10.8.0.0/24"], true)]);
    served.names.apply([comes(placed(8, 1, 3, "vault", &["10.8.0.9"]))]);
    assert_eq!(
        code_of(&served.ask("vault.other.overlay.internal").unwrap()),
        Some(ResponseCode::NXDomain)
    );
    served.server.set_networks(served.door, vec![NetworkId(8)]);
    assert!(served.ask("vault.other.overlay.internal").unwrap().ends_with(&[10, 8, 0, 9]));
    assert_eq!(
        code_of(&served.ask("web.demo.overlay.internal").unwrap()),
        Some(ResponseCode::NXDomain)
    );
    assert_eq!(code_of(&served.ask("example.com").unwrap()), Some(ResponseCode::Refused));
}

/// Loopback is in no subnet of the network.
#[test]
fn at_a_gateway_strangers_are_refused() {
    let served = serve(At::Gateway("10.9.0.1".parse().unwrap()));
    assert_eq!(code_of(&served.ask("web").unwrap()), Some(ResponseCode::Refused));
}

#[test]
fn several_questions_of_one_connection_are_answered_in_order() {
    let served = serve(At::Namespace);
    let mut stream = Stream::connect(served.tcp).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let framed = |name: &str| {
        let query = question(7, name, RecordType::A).unwrap();
        [&(query.len() as u16).to_be_bytes()[..], &query].concat()
    };
    stream.write_all(&[framed("web"), framed("nobody.demo.overlay.internal")].concat()).unwrap();
    for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(code_of(&reply), Some(code));
    }
    assert_eq!(served.server.counters().all()["tcp"], 2);
}

#[test]
fn a_closed_door_holds_no_socket() {
    let served = serve(At::Namespace);
    served.ask("web").unwrap();
    let open = Stream::connect(served.tcp).unwrap();
    served.server.close(served.door);
    // Its ports can be had when the tasks have ended.
    let start = std::time::Instant::now();
    while UdpSocket::bind(served.udp).is_err() || Stream::connect(served.tcp).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10), "the sockets are still there");
        std::thread::yield_now();
    }
    drop(open);
    served.server.close(served.door);
}
