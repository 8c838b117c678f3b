use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(text: &str, said: Expect) {
    let read = HostResolvers::read(text);
    let servers: Vec<String> = read.servers.iter().map(ToString::to_string).collect();
    said.assert_eq(&format!("{} | {}", servers.join(" "), read.search.join(" ")));
}

#[test]
fn a_file_is_read_as_libc_reads_it() {
    check("# made by hand\nnameserver 192.0.2.1\n", expect!["192.0.2.1:53 | "]);
    check(
        "nameserver\t192.0.2.1  # here\nnameserver 2001:db8::1\n",
        expect!["192.0.2.1:53 [2001:db8::1]:53 | "],
    );
    check("nameserver 1.1.1.1\n".repeat(9).as_str(), expect!["1.1.1.1:53 | "]);
    check(
        "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
        expect!["192.0.2.1:53 192.0.2.2:53 192.0.2.3:53 | "],
    );
    check(
        "domain old.example\nsearch a.example b.example.\n",
        expect!["127.0.0.1:53 | a.example b.example"],
    );
    check(
        "search a.example\noptions ndots:5\nsearch . bad;domain x_y\n",
        expect!["127.0.0.1:53 | x_y"],
    );
    check("", expect!["127.0.0.1:53 | "]);
    check("nameserver nonsense\nnameserver\n; nameserver 192.0.2.1\n", expect!["127.0.0.1:53 | "]);
    check("nameserver fe80::1%lo\nnameserver fe80::1%nowhere\n", expect!["[fe80::1%1]:53 | "]);
}

#[test]
fn a_container_is_told_ours_first() {
    let search = ["corp.example".to_owned()];
    expect![[r#"
        nameserver 127.0.0.11
        search demo.overlay.internal other.overlay.internal corp.example
        options ndots:1
    "#]]
    .assert_eq(&write(&["127.0.0.11".parse().unwrap()], &["demo", "other"], &search));
}

#[test]
fn a_file_is_followed_wherever_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    let conf = ResolvConf::follow(&path);
    let now = || {
        // As if the last look were long ago.
        conf.last.lock().unwrap().looked = None;
        conf.now().servers[0].ip().to_string()
    };
    assert_eq!(now(), "127.0.0.1", "there is none");
    std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(now(), "192.0.2.1");
    let other = dir.path().join("other");
    std::fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert_eq!(now(), "192.0.2.2");
    // Not looked at again within the second.
    std::fs::write(&path, "nameserver 192.0.2.33\n").unwrap();
    assert_eq!(conf.now().servers[0].ip().to_string(), "192.0.2.2");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(now(), "127.0.0.1");
}

proptest! {
    #[test]
    fn any_text_is_read_to_at_most_three_servers_and_plain_domains(text in "(?s).{0,300}") {
        let read = HostResolvers::read(&text);
        prop_assert!((1..=3).contains(&read.servers.len()));
        let written = write(&["127.0.0.11".parse().unwrap()], &["demo"], &read.search);
        prop_assert_eq!(written.lines().count(), 3);
    }
}
