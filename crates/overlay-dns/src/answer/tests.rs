use expect_test::{Expect, expect};
use hickory_proto::op::Message as Theirs;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::wire::{TCP_LIMIT, question};
use crate::zone::tests::{comes, host, network, placed};
use crate::zone::{NameChange, Names};

/// demo: web on 1, db on 1 and 2 as twins, `shop` their alias; nameless with an alias on 3.
/// inner: internal. other: nobody asks on it.
fn names() -> Names {
    let names = Names::default();
    names.apply([
        network(7, "demo", &["10.9.0.0/24", "fd00:9::/64"], false),
        network(8, "inner", &["10.8.0.0/24"], true),
        network(9, "other", &["10.7.0.0/24"], false),
        comes(placed(7, 1, 1, "web", &["10.9.0.2", "fd00:9::2"])),
        comes(published(placed(7, 1, 2, "db shop", &["10.9.0.3"]), &["15432:5432"])),
        comes(placed(7, 2, 3, "db shop", &["10.9.0.4"])),
        comes(published(
            placed(7, 3, 4, "- shop", &["10.9.0.5", "fd00:9::5"]),
            &["5432:5432", "52-54:52-54/udp", "0:90/sctp,mode=cluster"],
        )),
        comes(placed(8, 1, 5, "web", &["10.8.0.2"])),
        comes(placed(8, 1, 6, "vault", &["10.8.0.3"])),
        comes(placed(9, 1, 7, "secret", &["10.7.0.2"])),
    ]);
    names
}

fn published(mut placed: Arc<Placed>, ports: &[&str]) -> Arc<Placed> {
    let all = ports.iter().map(|ports| ports.parse().unwrap()).collect();
    Arc::get_mut(&mut placed).unwrap().endpoint.ports = all;
    placed
}

fn stands(names: &Names, n: u8, standing: Standing) {
    names.apply([NameChange::Host { host: host(n), name: None, standing }]);
}

/// What who is on `networks` is answered; answers that have turns are sorted.
fn ask(names: &Names, networks: &[u64], name: &str, kind: RecordType) -> String {
    let networks: Vec<NetworkId> = networks.iter().map(|id| NetworkId(*id)).collect();
    let bytes = question(7, name, kind).unwrap();
    let Message::Query(query) = Query::read(&bytes) else { panic!("it is one") };
    let asker = Asker { networks: &networks, forwards: true };
    let (mut answerer, mut out) = (Answerer::default(), Vec::new());
    let outcome = answerer.answer(&names.read(), asker, &query, (TCP_LIMIT, 5), &mut out);
    let theirs = Theirs::from_vec(&out).unwrap();
    assert_eq!(theirs.queries[0].name().to_ascii().trim_end_matches('.'), name);
    if outcome == Outcome::Forward {
        return "forwarded".to_owned();
    }
    let code = format!("{:?}", theirs.metadata.response_code);
    let mut lines = Vec::new();
    for (mark, records) in
        [("", &theirs.answers), ("authority ", &theirs.authorities), ("more ", &theirs.additionals)]
    {
        let mut text: Vec<String> = records
            .iter()
            .map(|r| {
                let data = match &r.data {
                    hickory_proto::rr::RData::SOA(soa) => format!("{} {}", soa.mname, soa.minimum),
                    data => data.to_string(),
                };
                format!("\n{mark}{} {} {data}", r.name, r.record_type())
            })
            .collect();
        text.sort();
        lines.extend(text);
    }
    format!("{code}{}", lines.concat())
}

#[track_caller]
fn check(networks: &[u64], name: &str, kind: RecordType, said: Expect) {
    said.assert_eq(&ask(&names(), networks, name, kind));
}

#[test]
fn a_name_is_answered_whole_and_short_and_as_it_was_written() {
    check(
        &[7],
        "web.demo.overlay.internal",
        RecordType::A,
        expect![[r#"
        NoError
        web.demo.overlay.internal. A 10.9.0.2"#]],
    );
    check(
        &[7],
        "wEb",
        RecordType::AAAA,
        expect![[r#"
        NoError
        wEb. AAAA fd00:9::2"#]],
    );
    check(
        &[7],
        "web",
        RecordType::ANY,
        expect![[r#"
        NoError
        web. A 10.9.0.2
        web. AAAA fd00:9::2"#]],
    );
}

#[test]
fn all_holders_are_answered_those_of_one_name_too() {
    check(
        &[7],
        "shop",
        RecordType::A,
        expect![[r#"
        NoError
        shop. A 10.9.0.3
        shop. A 10.9.0.4
        shop. A 10.9.0.5"#]],
    );
    check(
        &[7],
        "db.demo.overlay.internal",
        RecordType::A,
        expect![[r#"
        NoError
        db.demo.overlay.internal. A 10.9.0.3
        db.demo.overlay.internal. A 10.9.0.4"#]],
    );
}

#[test]
fn what_exists_and_has_no_such_record_is_an_empty_answer() {
    check(
        &[7],
        "db",
        RecordType::AAAA,
        expect![[r#"
        NoError
        authority . SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "web.demo.overlay.internal",
        RecordType::MX,
        expect![[r#"
        NoError
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "demo.overlay.internal",
        RecordType::A,
        expect![[r#"
        NoError
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "_tcp.db.demo.overlay.internal",
        RecordType::SRV,
        expect![[r#"
        NoError
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "overlay.internal",
        RecordType::A,
        expect![[r#"
        NoError
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
}

#[test]
fn the_zone_says_where_it_begins() {
    check(
        &[7],
        "overlay.internal",
        RecordType::SOA,
        expect![[r#"
        NoError
        overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "overlay.internal",
        RecordType::NS,
        expect![[r#"
        NoError
        overlay.internal. NS ns.overlay.internal."#]],
    );
}

#[test]
fn what_is_not_there_and_what_is_none_of_his_business_are_one_answer() {
    check(
        &[7],
        "nobody.demo.overlay.internal",
        RecordType::A,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "secret.other.overlay.internal",
        RecordType::A,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "secret.nowhere.overlay.internal",
        RecordType::A,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "a.b.c.demo.overlay.internal",
        RecordType::A,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
}

#[test]
fn addresses_have_names() {
    check(
        &[7],
        "2.0.9.10.in-addr.arpa",
        RecordType::PTR,
        expect![[r#"
        NoError
        2.0.9.10.in-addr.arpa. PTR web.demo.overlay.internal."#]],
    );
    check(
        &[7],
        "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa",
        RecordType::PTR,
        expect![[r#"
        NoError
        2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa. PTR web.demo.overlay.internal."#]],
    );
    // Who has no name of his own, and nobody.
    check(
        &[7],
        "5.0.9.10.in-addr.arpa",
        RecordType::PTR,
        expect![[r#"
        NoError
        5.0.9.10.in-addr.arpa. PTR shop.demo.overlay.internal."#]],
    );
    check(
        &[7],
        "99.0.9.10.in-addr.arpa",
        RecordType::PTR,
        expect![[r#"
        NXDomain
        authority in-addr.arpa. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "2.0.9.10.in-addr.arpa",
        RecordType::A,
        expect![[r#"
        NoError
        authority in-addr.arpa. SOA ns.overlay.internal. 5"#]],
    );
    // Of another network, and what is no address.
    check(&[7], "2.0.7.10.in-addr.arpa", RecordType::PTR, expect!["forwarded"]);
    check(&[7], "0.9.10.in-addr.arpa", RecordType::PTR, expect!["forwarded"]);
    check(&[7], "x.0.9.10.in-addr.arpa", RecordType::PTR, expect!["forwarded"]);
}

#[test]
fn services_are_found_by_name_and_by_alias() {
    check(
        &[7],
        "_5432._tcp.db.demo.overlay.internal",
        RecordType::SRV,
        expect![[r#"
        NoError
        _5432._tcp.db.demo.overlay.internal. SRV 0 0 5432 db.demo.overlay.internal.
        more db.demo.overlay.internal. A 10.9.0.3"#]],
    );
    check(
        &[7],
        "_5432._tcp.shop.demo.overlay.internal",
        RecordType::SRV,
        expect![[r#"
        NoError
        _5432._tcp.shop.demo.overlay.internal. SRV 0 0 5432 db.demo.overlay.internal.
        _5432._tcp.shop.demo.overlay.internal. SRV 0 0 5432 shop.demo.overlay.internal.
        more db.demo.overlay.internal. A 10.9.0.3
        more shop.demo.overlay.internal. A 10.9.0.5
        more shop.demo.overlay.internal. AAAA fd00:9::5"#]],
    );
    check(
        &[7],
        "_53._udp.shop",
        RecordType::SRV,
        expect![[r#"
        NoError
        _53._udp.shop. SRV 0 0 53 shop.demo.overlay.internal.
        more shop.demo.overlay.internal. A 10.9.0.5
        more shop.demo.overlay.internal. AAAA fd00:9::5"#]],
    );
    // The ends of a range, and what is beyond them.
    for (port, there) in [(51, false), (52, true), (54, true), (55, false)] {
        let name = format!("_{port}._udp.shop.demo.overlay.internal");
        let told = ask(&names(), &[7], &name, RecordType::SRV);
        assert_eq!(told.starts_with("NoError"), there, "{told}");
    }
    check(
        &[7],
        "_90._sctp.shop",
        RecordType::SRV,
        expect![[r#"
        NoError
        _90._sctp.shop. SRV 0 0 90 shop.demo.overlay.internal.
        more shop.demo.overlay.internal. A 10.9.0.5
        more shop.demo.overlay.internal. AAAA fd00:9::5"#]],
    );
    // As the host is asked at, not the container.
    check(
        &[7],
        "_15432._tcp.db.demo.overlay.internal",
        RecordType::SRV,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "_53._tcp.shop.demo.overlay.internal",
        RecordType::SRV,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "_http._tcp.shop.demo.overlay.internal",
        RecordType::SRV,
        expect![[r#"
        NXDomain
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
    check(
        &[7],
        "_53._udp.shop.demo.overlay.internal",
        RecordType::A,
        expect![[r#"
        NoError
        authority overlay.internal. SOA ns.overlay.internal. 5"#]],
    );
}

#[test]
fn a_short_name_is_of_the_first_network_that_has_it() {
    check(
        &[7, 8],
        "web",
        RecordType::A,
        expect![[r#"
        NoError
        web. A 10.9.0.2"#]],
    );
    check(
        &[8, 7],
        "web",
        RecordType::A,
        expect![[r#"
        NoError
        web. A 10.8.0.2"#]],
    );
    check(
        &[7, 8],
        "vault",
        RecordType::A,
        expect![[r#"
        NoError
        vault. A 10.8.0.3"#]],
    );
}

#[test]
fn other_names_go_to_others_unless_every_network_is_internal() {
    check(&[7], "example.com", RecordType::A, expect!["forwarded"]);
    check(&[7], "nobody", RecordType::A, expect!["forwarded"]);
    check(&[8, 7], "example.com", RecordType::A, expect!["forwarded"]);
    check(&[8], "example.com", RecordType::A, expect!["Refused"]);
    check(
        &[8],
        "nobody",
        RecordType::A,
        expect![[r#"
        NXDomain
        authority . SOA ns.overlay.internal. 5"#]],
    );
    check(&[8], "1.2.0.192.in-addr.arpa", RecordType::PTR, expect!["Refused"]);
    // A top level domain may be called as an endpoint is.
    check(&[7], "web", RecordType::NS, expect!["forwarded"]);
    check(&[7], "", RecordType::NS, expect!["forwarded"]);
}

/// The addresses in their order, of many answers.
fn orders(names: &Names, name: &str) -> BTreeMap<Vec<String>, usize> {
    let bytes = question(7, name, RecordType::A).unwrap();
    let Message::Query(query) = Query::read(&bytes) else { panic!("it is one") };
    let asker = Asker { networks: &[NetworkId(7)], forwards: true };
    let (mut answerer, mut out) = (Answerer::default(), Vec::new());
    let mut orders = BTreeMap::new();
    for _ in 0..300 {
        answerer.answer(&names.read(), asker, &query, (512, 5), &mut out);
        let theirs = Theirs::from_vec(&out).unwrap();
        let order = theirs.answers.iter().map(|r| r.data.to_string()).collect();
        *orders.entry(order).or_default() += 1;
    }
    orders
}

#[test]
fn each_holder_is_first_as_often_as_others() {
    let orders = orders(&names(), "shop");
    assert_eq!(orders.len(), 3, "{orders:?}");
    assert!(orders.values().all(|times| (60..=140).contains(times)), "{orders:?}");
}

#[test]
fn suspects_come_last_and_those_who_are_down_not_at_all() {
    let names = names();
    stands(&names, 2, Standing::Suspect);
    let last = |order: &Vec<String>| order.last().map(String::as_str) == Some("10.9.0.4");
    let orders_now = orders(&names, "shop");
    assert!(orders_now.len() > 1 && orders_now.keys().all(last), "{orders_now:?}");
    stands(&names, 2, Standing::Out);
    stands(&names, 3, Standing::Out);
    assert_eq!(orders(&names, "shop").keys().collect::<Vec<_>>(), [&["10.9.0.3"]]);
    stands(&names, 1, Standing::Out);
    let gone = ask(&names, &[7], "web.demo.overlay.internal", RecordType::A);
    assert!(gone.starts_with("NXDomain"), "{gone}");
    let gone = ask(&names, &[7], "2.0.9.10.in-addr.arpa", RecordType::PTR);
    assert!(gone.starts_with("NXDomain"), "{gone}");
    stands(&names, 1, Standing::Up);
    let back = ask(&names, &[7], "web", RecordType::A);
    assert!(back.contains("10.9.0.2"), "{back}");
}

#[test]
fn an_address_that_moves_is_answered_once() {
    let names = names();
    names.apply([comes(placed(7, 2, 9, "web", &["10.9.0.2", "fd00:9::2"]))]);
    assert_eq!(orders(&names, "web").keys().collect::<Vec<_>>(), [&["10.9.0.2"]]);
}

#[test]
fn of_very_many_holders_as_many_are_answered_as_fit() {
    let names = names();
    for n in 0..3000u32 {
        let ip = format!("10.9.{}.{}", 1 + n / 250, 1 + n % 250);
        names.apply([comes(placed(7, 1, 100 + u64::from(n), "- many", &[&ip]))]);
    }
    let told = ask(&names, &[7], "many", RecordType::A);
    assert_eq!(told.lines().count(), 3001);
    let short: usize = orders(&names, "many").keys().map(Vec::len).max().unwrap();
    assert_eq!(short, (512 - 12 - 10) / 16);
}

#[test]
fn another_class_and_another_edns_are_refused() {
    let names = names();
    let mut bytes = question(7, "web", RecordType::A).unwrap();
    let at = bytes.len() - 1;
    bytes[at] = 3;
    let mut out = Vec::new();
    let mut answer = |bytes: &[u8]| {
        let Message::Query(query) = Query::read(bytes) else { panic!("it is one") };
        let asker = Asker { networks: &[NetworkId(7)], forwards: true };
        Answerer::default().answer(&names.read(), asker, &query, (512, 5), &mut out)
    };
    assert_eq!(answer(&bytes), Outcome::Answered(ResponseCode::Refused));
    bytes[at] = 1;
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 2, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(answer(&bytes), Outcome::Answered(ResponseCode::BADVERS));
    let theirs = Theirs::from_vec(&out).unwrap();
    assert_eq!(u16::from(theirs.metadata.response_code), 16);
}

#[test]
fn what_is_shown_is_what_is_answered_with_those_who_are_left_out() {
    let names = names();
    stands(&names, 2, Standing::Out);
    let book = names.read();
    let told = explain(&book, NetworkId(7), "shop").unwrap();
    assert_eq!((told.code, told.answers.len(), told.holders.len()), (ResponseCode::NoError, 3, 3));
    assert!(told.holders.iter().all(|holder| holder.by_alias));
    let out = told.holders.iter().filter(|holder| holder.standing == Standing::Out);
    assert_eq!(out.count(), 1);
    let back = explain(&book, NetworkId(7), "fd00:9::2").unwrap();
    assert_eq!(back.answers, ["web.demo.overlay.internal"]);
    assert!(explain(&book, NetworkId(7), "example.com").unwrap().forward);
    assert_eq!(explain(&book, NetworkId(8), "example.com").unwrap().code, ResponseCode::Refused);
    assert_eq!(explain(&book, NetworkId(99), "web"), None);
    assert_eq!(explain(&book, NetworkId(7), "a..b"), None);
}
