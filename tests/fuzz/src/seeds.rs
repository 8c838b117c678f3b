//! What the corpus begins with: real messages, records and files, made by the
//! code that makes them. A test compares it with the folder.

use std::net::SocketAddr;

use overlay_dns::wire::{RecordType, question};
use overlay_engine::{LocalEndpoint, Place};
use overlay_gossip::Keyring;
use overlay_gossip::fuzz::{Pushed, encode_push, encode_record};
use overlay_model::{IfName, NetnsRef, Record};
use serde::Serialize;

use crate::record::place;
use crate::samples::{OWNER, endpoint, host, key, network, records, token};

/// A file of the corpus.
pub struct Seed {
    /// Of which target.
    pub target: &'static str,
    /// What it is.
    pub name: String,
    /// What stands in it.
    pub bytes: Vec<u8>,
}

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target, name: &str, bytes: Vec<u8>| {
        seeds.push(Seed { target, name: name.to_owned(), bytes });
    };
    for (n, record) in records().iter().enumerate() {
        let (_, key) = place(record);
        let (_, bytes) = encode_record(record).expect("it is short");
        add("record", &format!("{n}"), bytes);
        add("record", &format!("key-{n}"), key.to_string().into_bytes());
    }
    for (n, (who, name, kind)) in [
        (0, "c5.demo.overlay.internal", 1),
        (10, "many.inner.overlay.internal", 255),
        (2, "c5", 28),
        (0, "_80._tcp.many.demo.overlay.internal", 33),
        (0, "7.0.9.10.in-addr.arpa", 12),
        (1, "example.com", 1),
        (0, "overlay.internal", 6),
    ]
    .into_iter()
    .enumerate()
    {
        let kind = RecordType::from(kind);
        let asked = question(7, name, kind).expect("a name");
        add("dns_query", &format!("{n}"), [&[who], &asked[..]].concat());
        let mut told = question(9, name, kind).expect("a name");
        told[2] |= 0x80;
        let length = u16::try_from(asked.len()).expect("it is short").to_le_bytes();
        let id = 9u16.to_le_bytes();
        add("dns_reply", &format!("{n}"), [&length[..], &asked, &id, &told].concat());
    }
    let mut edns = [&[0], &question(7, "many", RecordType::A).expect("a name")[..]].concat();
    edns[12] = 1;
    edns.extend([0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 0]);
    add("dns_query", "edns", edns);
    let conf =
        "# stub\nnameserver 127.0.0.53\nnameserver fe80::1%1\nsearch a.example b\noptions edns0\n";
    add("resolv_conf", "stub", conf.as_bytes().to_vec());
    add("push", "all-kinds", encode_push(&pushed()));
    add("push", "empty", encode_push(&Pushed { changes: Vec::new(), ..pushed() }));

    add("sealed_datagram", "first-contact", talk(&[]));
    add(
        "sealed_datagram",
        "restart",
        talk(&[11, 0, 3, 0, 3, 1, 0, 0, 0, 2, b'h', b'i', 1, 1, 1, 1]),
    );
    // Another key is used.
    add("sealed_datagram", "key", talk(&[11, 2, 0, 0, 0, 2, b'h', b'i', 1, 1, 1]));
    add("sealed_datagram", "changed", talk(&[5, 0, 40, 0, 1, 6, 0, 30, 0, 0, 3, 0, 4, 3, 1, 0]));
    add("sealed_datagram", "stranger", talk(&[&[8, 1, 0][..], &[7; 24], &[2, 1, 9]].concat()));
    let member = [&[9, 0, 0][..], &[0; 15], &[0, 3, b'a', b'b', b'c'], &[200; 8], &[1, 1]].concat();
    add("sealed_datagram", "member", talk(&member));
    let raw = [&[7, 1, 1, 30, 0, 2][..], &[1; 29]].concat();
    add("sealed_datagram", "raw", raw);

    let letter = |kind, body: &[u8], times: u16| {
        [&[0, 2, kind, u8::try_from(body.len()).expect("short")][..], body, &times.to_le_bytes()]
            .concat()
    };
    let two = [letter(1, b"one", 0), letter(2, b"two", 3000)].concat();
    let sealed = |pieces: &[u8], frames: &[u8]| [&[1], &chunk(pieces)[..], frames].concat();
    add("tcp_frames", "two", sealed(&[1, 2, 3, 255], &two));
    add("tcp_frames", "plain", [&[0, 0], &two[..]].concat());
    let claim = [&two[..], &[5, 0, 1, 1, 9, 0, 0], &u32::MAX.to_le_bytes()].concat();
    add("tcp_frames", "claim", sealed(&[], &claim));
    let changed = [&two[..], &[3, 0, 1, 1, 9, 0, 0, 40, 0, 0, 0, 1], &two].concat();
    add("tcp_frames", "changed", sealed(&[4, 4], &changed));
    let elsewhere = [&[6, 0, 1, 1, 9, 0, 0][..], &[0; 8], &[7, 0, 1, 1, 9, 0, 0]].concat();
    add("tcp_frames", "elsewhere", sealed(&[200], &elsewhere));

    gossip(&mut add);
    cluster(&mut add);
    state(&mut add);

    let ring = |keys: &[u8]| {
        Keyring::new(keys.iter().map(|n| key(*n)).collect()).expect("few").to_text().to_string()
    };
    add("key_file", "one", ring(&[1]).into_bytes());
    add("key_file", "three", ring(&[2, 0, 3]).into_bytes());
    add("key_file", "twice", format!("{}{}", ring(&[1]), ring(&[1])).into_bytes());
    add("key_file", "cut", ring(&[1]).into_bytes()[..120].to_vec());

    let requests = [
        r#"N{"name":"demo","subnets":["10.9.0.0/24","fd00::/64"],"labels":{"a":"b"}}"#,
        r#"A{"net":"demo","netns":"c1","name":"web","aliases":["www"]}"#,
        r#"A{"net":"demo","device":"tap0","mac":"02:00:00:00:00:09","ips":["10.9.0.9"]}"#,
        r#"I{"net":"demo","replace":true,"endpoints":[{"mac":"02:00:00:00:00:01","addresses":["10.9.0.5"]}]}"#,
        r#"Edemo"#,
        "S",
        "P",
        r#"K{"key":"x"}"#,
        r#"Dweb"#,
        r#"Rdemo"#,
        r#"Fdemo"#,
        r#"C{"labels":{"a":"b"},"unlabel":["c"],"exclude":["10.9.0.64/27"],"include":["10.9.0.5"],"internal":true}"#,
        r#"Gweb"#,
        r#"L{"force":true}"#,
    ];
    add("api_request", "a-day", requests.join("\n").into_bytes());
    for (n, request) in requests.iter().enumerate() {
        add("api_request", &format!("{n}"), request.as_bytes().to_vec());
    }

    let lines = [
        r#"{"mac":"02:00:00:00:00:01","addresses":["10.0.9.5"],"name":"web"}"#,
        r#"{"mac":"02:00:00:00:00:02","addresses":["10.0.9.6","fd00::6"],"labels":{"a":"b"}}"#,
    ];
    add("import_list", "lines", lines.join("\n").into_bytes());
    add("import_list", "array", format!("[\n  {}\n]\n", lines.join(",\n  ")).into_bytes());
    let text = "# stations\n02:00:00:00:00:01 10.0.9.5 web # the first\n\n\
                02:00:00:00:00:02\t10.0.9.6,fd00::6\n";
    add("import_list", "text", text.into());
    for (name, text) in cni() {
        add("cni", name, text.into_bytes());
    }
    for (name, text) in engines() {
        add("engines", name, text.as_bytes().to_vec());
    }
    add("import_list", "wrong", b"nonsense\n02:00:00:00:00:01 10.0.9.500\n{\"mac\":7}\n".to_vec());
    seeds
}

/// Requests as dockerd and netavark make them.
fn engines() -> [(&'static str, &'static str); 5] {
    [
        (
            "docker-endpoint",
            "/NetworkDriver.CreateEndpoint\n{\"NetworkID\":\"d1\",\"EndpointID\":\"0123456789abcdef\",\
             \"Interface\":{\"Address\":\"10.0.9.5/24\",\"AddressIPv6\":\"\",\"MacAddress\":\"\"},\
             \"Options\":{\"overlayd.alias\":\"a;b\",\"overlayd.name\":\"web\"}}",
        ),
        (
            "docker-ports",
            "/NetworkDriver.ProgramExternalConnectivity\n{\"EndpointID\":\"0123456789abcdef\",\
             \"Options\":{\"com.docker.network.portmap\":[{\"Proto\":6,\"Port\":80,\
             \"HostIP\":\"2001:db8::1\",\"HostPort\":8080,\"HostPortEnd\":8090}]}}",
        ),
        (
            "docker-address",
            "/IpamDriver.RequestAddress\n{\"PoolID\":\"overlayd/0a/4\",\"Address\":\"10.0.9.5\",\
             \"Options\":{\"com.docker.network.endpoint.name\":\"Web_1\"}}",
        ),
        (
            "docker-pool",
            "/IpamDriver.RequestPool\n{\"Pool\":\"10.0.9.0/24\",\"Options\":{\"overlayd.network\":\"demo\"}}",
        ),
        (
            "netavark-setup",
            "setup\n{\"container_id\":\"aa11\",\"container_name\":\"web\",\"port_mappings\":[{\
             \"container_port\":80,\"host_port\":8080,\"host_ip\":\"::1\",\"protocol\":\"tcp,udp\",\
             \"range\":2}],\"network\":{\"name\":\"demo\",\"id\":\"bb22\"},\"network_options\":{\
             \"interface_name\":\"eth0\",\"aliases\":[\"www\"],\"static_ips\":[\"10.0.9.5\"]}}",
        ),
    ]
}

/// Calls as runtimes make them.
fn cni() -> [(&'static str, String); 6] {
    let head = |verb: &str| {
        format!(
            "CNI_COMMAND={verb}\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/c1\n\
             CNI_PATH=/opt/cni/bin"
        )
    };
    let conf = |version: &str, more: &str| {
        format!(r#"{{"cniVersion":"{version}","name":"demo","type":"overlay-cni"{more}}}"#)
    };
    let overlay = r#","overlay":{"network":"pods","vni":4097,"subnet":["10.0.9.0/24","ipv6"],"gateway":"10.0.9.1","mtu":1400,"internal":false,"noFlood":true,"exclude":["10.0.9.5","10.0.9.7-10.0.9.9"],"ipRange":"10.0.9.64/26","defaultRoute":true,"names":true}"#;
    let runtime = r#","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":"::1"}],"ips":["10.0.9.5/24"],"mac":"02:00:5e:10:00:05","dns":{"servers":["192.0.2.53"],"searches":["a.example"],"options":["ndots:2"]},"aliases":{"demo":["web"]}},"args":{"cni":{"labels":[{"key":"a","value":"b"}],"ips":["10.0.9.6"]}},"dns":{"nameservers":["192.0.2.54"],"domain":"b.example"}"#;
    let prev = r#","prevResult":{"cniVersion":"0.4.0","interfaces":[{"name":"lo","sandbox":"/n","pciID":"x"}],"ips":[{"version":"4","interface":0,"address":"127.0.0.1/8","x":1}],"routes":[{"dst":"0.0.0.0/0","gw":"127.0.0.1","mtu":9}],"dns":{"search":["c"]},"y":[]}"#;
    let args = "CNI_ARGS=IgnoreUnknown=1;IP=10.0.9.9,fd00::9;MAC=02:00:5e:10:00:09;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u;X=y";
    let gc = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
    [
        ("add", format!("{}\n{args}\n\n{}", head("ADD"), conf("1.1.0", overlay))),
        ("add-runtime", format!("{}\n\n{}", head("ADD"), conf("1.0.0", runtime))),
        ("add-chained", format!("{}\n\n{}", head("ADD"), conf("0.4.0", prev))),
        ("del", format!("{}\n\n{}", head("DEL"), conf("0.3.1", ""))),
        ("check", format!("{}\n\n{}", head("CHECK"), conf("0.4.0", prev))),
        ("gc", format!("CNI_COMMAND=GC\n\n{}", conf("1.1.0", gc))),
    ]
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("a seed is short")], bytes].concat()
}

fn long_chunk(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("a seed is short").to_le_bytes()[..], bytes].concat()
}

fn pushed() -> Pushed {
    let known = records().into_iter().map(|record| {
        let (_, key) = place(&record);
        (key.to_string(), encode_record(&record).map(|(_, bytes)| bytes))
    });
    let later = [("later/kind".to_owned(), Some(vec![9, 9])), ("keys".to_owned(), None)];
    let changes =
        (10..).zip(known.chain(later)).map(|(version, (key, value))| (version, key, value));
    Pushed { host: OWNER, incarnation: 7, number: 1, since: 3, changes: changes.collect() }
}

/// `a` speaks to `b`, is asked, answers, is let in; and then what follows.
fn talk(then: &[u8]) -> Vec<u8> {
    let hello = [0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'];
    [&hello[..], &[1, 1, 1, 1], &hello, &[1], then].concat()
}

/// Messages put together of parts; see `gossip_message`.
fn gossip(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    let node = [&[1][..], &[1; 24]].concat();
    let digest = [&[1], &node[..], &[3, 0, 0]].concat();
    // Named by a syn; then its records in a delta.
    let syn = [&[1, 1][..], &digest, &[0]].concat();
    let mut operations = vec![0, 1, 0, 0];
    for (n, (what, value)) in (0..).zip([(4, &b"1111"[..]), (4, b"x"), (5, b""), (6, b"z")]) {
        operations.extend([&[what, n][..], &chunk(value), &[0, n + 1]].concat());
    }
    let delta = [&[5][..], &operations, &[0]].concat();
    add("gossip_message", "syn", syn.clone());
    add("gossip_message", "syn-ack", [&[2, 1][..], &digest, &delta].concat());
    add("gossip_message", "ack", [&syn[..], &[3, 1], &delta].concat());
    // What would end chitchat: a node that has come less far than its record, or as far as one
    // can count, a key whose first byte is half a character; and an entry that it could not
    // pass on to whoever asks next.
    let whoever = [1, 1, 0, 0, 0, 0, 0];
    let deadly = [
        ("goes-back", [&[3, 0, 1, 0, 0, 4, 1][..], &chunk(b"x"), &[0, 9, 2, 3]].concat()),
        ("no-more-versions", vec![3, 0, 0, 0, 0, 4, 1, 1, b'x', 0, 9, 2, 254]),
        (
            "key-not-ascii",
            [&[2, 0, 1, 0, 0, 4, 200][..], &chunk("\u{3cb}".as_bytes()), &[0, 1, b'x', 0, 1]]
                .concat(),
        ),
        ("long", [&[2, 0, 1, 0, 0, 4, 1][..], &chunk(&[b'v'; 255]), &[254, 1]].concat()),
    ];
    for (name, operations) in deadly {
        let message = [&syn[..], &[3, 1], &operations, &[0], &whoever].concat();
        add("gossip_message", name, message);
    }
    let v0 = [&[0x53, 0xb0, 0, 0, 0, 0][..], &[8, 0], b"overlayd"].concat();
    add("gossip_message", "raw", [&[0], &long_chunk(&v0)[..]].concat());
    add("gossip_message", "bad-cluster", [&[0], &long_chunk(&[0x53, 0xb0, 1, 3])[..]].concat());
}

fn cluster(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    let mut all = Vec::new();
    for (n, record) in records().into_iter().enumerate() {
        let (_, bytes) = encode_record(&record).expect("it is short");
        let told = [&[5, 1], &long_chunk(&bytes)[..]].concat();
        add("cluster_records", &format!("{n}"), told.clone());
        all.extend(told);
    }
    // Network and endpoint are there before the host that says that all is.
    let of = |record| {
        let (_, bytes) = encode_record(&record).expect("it is short");
        [&[5, 1], &long_chunk(&bytes)[..]].concat()
    };
    let alive = [2, 2, 1, 3];
    let life = [
        &of(Record::Network(network()))[..],
        &of(Record::Endpoint(endpoint(5))),
        &of(Record::Ring(token())),
        &of(Record::Host(host())),
        &alive,
        &[0, 100, 0, 1],
        // Its ring, under a key of this network.
        &[3, 2, 1],
        &chunk(b"ring/0000000000000007/4/0"),
        &long_chunk(&encode_record(&Record::Ring(token())).expect("it is short").1),
        &[0, 255, 255, 2, 2, 1, 0],
    ];
    add("cluster_records", "a-life", life.concat());
    add("cluster_records", "all", [&alive[..], &all].concat());
}

pub(crate) fn local_endpoint(bits: u64) -> LocalEndpoint {
    LocalEndpoint {
        endpoint: endpoint(bits),
        place: Place::Netns {
            netns: NetnsRef { path: "/run/netns/web1".into(), cookie: 42 },
            ifname: IfName::new("eth0").expect("a good name"),
            default_route: true,
            no_dns: false,
        },
        boot_id: "b".to_owned(),
        moved: None,
    }
}

pub(crate) fn peers() -> Vec<SocketAddr> {
    vec![([192, 0, 2, 1], 7946).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 7946).into()]
}

fn state(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    add("state_file", "empty", vec![0]);
    add("state_file", "garbage", [&[0][..], &[b'x'; 64]].concat());
    add("state_file", "sound", vec![1]);
    // In the header, in the middle, and cut.
    add("state_file", "header", vec![1, 0, 9, 0, 0, 0, 1, 3]);
    add("state_file", "flipped", vec![1, 130, 0, 80, 0, 0, 85]);
    add("state_file", "cut", vec![1, 131, 0, 32, 0, 0, 0]);
    fn json<T: Serialize>(value: &T) -> Vec<u8> {
        let json = serde_json::to_vec(value).expect("it is JSON");
        [&[0], &long_chunk(&json)[..]].concat()
    }
    let rows = [
        [&[0, 1], &json(&OWNER)[..]].concat(),
        [&[0, 2], &json(&77)[..]].concat(),
        [&[0, 3], &json(&peers())[..]].concat(),
        [&[0, 4], &json(&true)[..]].concat(),
        [&[1, 7], &json(&network())[..]].concat(),
        [&[2, 5], &json(&local_endpoint(5))[..]].concat(),
        [&[3, 7, 4, 0], &json(&token())[..]].concat(),
        [&[4], &chunk(b"of a later version")[..]].concat(),
    ];
    add("state_file", "values", [&[2], &rows.concat()[..]].concat());
    for (n, row) in rows.iter().enumerate() {
        add("state_file", &format!("value-{n}"), [&[2], &row[..]].concat());
    }
    add("state_file", "newer", vec![2, 0, 0, 1, 1, 0, 9]);
}
