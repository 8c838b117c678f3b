//! What an answer costs, without sockets.
//!
//! `cargo bench -p overlay-dns --bench answer` prints nanoseconds, the median of nine rounds, of an
//! answer and of its parts, and what a hundred thousand names take of memory and time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use overlay_dns::answer::{Answerer, Asker};
use overlay_dns::wire::{Message, Query, RecordType, Reply, ResponseCode, question};
use overlay_dns::{NameChange, NamedNetwork, Names};
use overlay_model::{Endpoint, EndpointId, HostId, MacAddr, Name, NetworkId, Placed, Subnet};

const NET: NetworkId = NetworkId(7);
const ROUNDS: usize = 9;
const ANSWERS: usize = 200_000;

fn placed(n: u32) -> Arc<Placed> {
    let [a, b, c, d] = (0x0a00_0100 + n).to_be_bytes();
    Arc::new(Placed {
        host: HostId(uuid::Uuid::from_u128(1)),
        endpoint: Endpoint {
            id: EndpointId::from_bits(u64::from(n)),
            network: NET,
            name: Some(Name::new(&format!("c{n}")).expect("a label")),
            aliases: Default::default(),
            mac: MacAddr([2, 0x42, a, b, c, d]),
            addresses: vec![Ipv4Addr::new(a, b, c, d).into()],
            labels: Default::default(),
            ports: Vec::new(),
            move_seq: 0,
            attached_ms: 0,
        },
    })
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is one");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("it has that");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn each(what: &str, mut one: impl FnMut(usize)) {
    let mut round = || {
        let start = Instant::now();
        (0..ANSWERS).for_each(&mut one);
        start.elapsed().as_nanos() as f64 / ANSWERS as f64
    };
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    all.sort_by(f64::total_cmp);
    println!("{what:<24} {:>8.0} ns ({:.0}..{:.0})", all[ROUNDS / 2], all[0], all[ROUNDS - 1]);
}

fn main() {
    let names = Names::default();
    let subnet = Subnet {
        cidr: "10.0.0.0/8".parse().expect("a subnet"),
        gateway: "10.0.0.1".parse().expect("an address"),
    };
    let name = Name::new("demo").expect("a label");
    let network = NamedNetwork { id: NET, name, subnets: vec![subnet], internal: false };
    names.apply([NameChange::Network(network)]);
    let all: Vec<Arc<Placed>> = (0..100_000).map(placed).collect();
    let (before, start) = (resident_kib(), Instant::now());
    names.apply(
        all.iter().map(|placed| NameChange::Endpoint { before: None, after: Some(placed.clone()) }),
    );
    println!(
        "100,000 names: {} KiB more, in {:.1} ms",
        resident_kib() - before,
        start.elapsed().as_secs_f64() * 1e3
    );

    let queries: Vec<Vec<u8>> = (0..1000)
        .map(|n| {
            let name = format!("c{}.demo.overlay.internal", n * 97);
            question(n, &name, RecordType::A).expect("a name")
        })
        .collect();
    fn read(bytes: &[u8]) -> Query<'_> {
        let Message::Query(query) = Query::read(bytes) else { panic!("it is one") };
        query
    }
    let mut out = Vec::new();
    let mut answerer = Answerer::default();
    each("an answer", |n| {
        let book = names.read();
        let query = read(&queries[n % 1000]);
        let asker = Asker { networks: &[NET], forwards: true };
        answerer.answer(&book, asker, &query, (query.udp_limit(), 5), &mut out);
        assert!(out.len() > 40);
    });
    each("reading the question", |n| assert_eq!(read(&queries[n % 1000]).id(), (n % 1000) as u16));
    let query = read(&queries[7]);
    each("writing the answer", |n| {
        let mut reply = Reply::new(&query, query.udp_limit(), 5, &mut out);
        assert!(reply.address(Ipv4Addr::from_bits(n as u32).into()));
        reply.end(ResponseCode::NoError, true);
    });
}
