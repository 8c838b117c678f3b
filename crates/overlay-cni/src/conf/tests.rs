use expect_test::{Expect, expect};

use super::*;

#[track_caller]
fn refused(verb: Verb, stdin: &str, expected: Expect) {
    let failure = Conf::read(verb, stdin.as_bytes()).unwrap_err();
    expected.assert_eq(&format!("{}\n", failure.to_json(Version::NEWEST)));
}

#[test]
fn a_verb_that_is_younger_than_the_version_is_refused() {
    for (verb, since) in [(Verb::Check, 1), (Verb::Gc, 3), (Verb::Status, 3), (Verb::Add, 0)] {
        for (n, version) in Version::ALL.into_iter().enumerate() {
            let stdin = format!(r#"{{"cniVersion": "{}", "name": "demo"}}"#, version.as_str());
            let read = Conf::read(verb, stdin.as_bytes());
            assert_eq!(read.is_ok(), n >= since, "{verb:?} of {version:?}");
        }
    }
    refused(
        Verb::Check,
        r#"{"cniVersion": "0.3.1", "name": "demo"}"#,
        expect![[r#"
            {
              "cniVersion": "1.1.0",
              "code": 1,
              "msg": "cniVersion 0.3.1 has no CHECK",
              "details": "it is there since 0.4.0"
            }
        "#]],
    );
}

#[test]
fn what_is_wrong_with_a_configuration_is_said() {
    refused(
        Verb::Add,
        "",
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "code": 6,
          "msg": "cannot understand the configuration on stdin: EOF while parsing a value at line 1 column 0"
        }
    "#]],
    );
    refused(
        Verb::Add,
        r#"{"name": "demo"}"#,
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "code": 1,
          "msg": "cniVersion `0.1.0` is not spoken here",
          "details": "use one of 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        }
    "#]],
    );
    refused(
        Verb::Add,
        r#"{"cniVersion": "1.1.0", "name": "a/b"}"#,
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "code": 7,
          "msg": "the name of the network is `a/b`; it must begin with a letter or digit, and have letters, digits, `_`, `.` and `-` only"
        }
    "#]],
    );
    refused(
        Verb::Add,
        r#"{"cniVersion": "1.1.0", "name": "demo", "overlay": {"subnet": "10.9.0.0"}}"#,
        expect![[r#"
            {
              "cniVersion": "1.1.0",
              "code": 6,
              "msg": "cannot understand the configuration on stdin: `10.9.0.0`: `10.9.0.0` is not a subnet; write an address and a prefix length like 10.0.9.0/24, or ipv4 or ipv6 for one that is free at line 1 column 73"
            }
        "#]],
    );
    refused(
        Verb::Add,
        r#"{"cniVersion": "1.1.0", "name": "demo", "overlay": {"nework": "x"}}"#,
        expect![[r#"
            {
              "cniVersion": "1.1.0",
              "code": 6,
              "msg": "cannot understand the configuration on stdin: unknown field `nework`, expected one of `network`, `vni`, `subnet`, `gateway`, `mtu`, `internal`, `noFlood`, `exclude`, `ipRange`, `defaultRoute`, `names` at line 1 column 60"
            }
        "#]],
    );
}

#[test]
fn a_network_is_described_by_a_vni_or_a_subnet_and_else_must_be_there() {
    let definition = |overlay: &str| {
        let stdin = format!(r#"{{"cniVersion": "1.1.0", "name": "demo", "overlay": {overlay}}}"#);
        let definition = Conf::read(Verb::Add, stdin.as_bytes()).unwrap().definition();
        definition.map(|d| serde_json::to_string(&d).unwrap())
    };
    assert_eq!(definition("{}"), None);
    assert_eq!(definition(r#"{"network": "pods", "internal": true}"#), None);
    expect![[r#"{"name":"pods","subnets":["10.9.0.0/24","ipv6"],"gateways":["10.9.0.9"],"internal":true,"exclude":["10.9.0.5"],"once":true}"#]]
    .assert_eq(
        &definition(
            r#"{"network": "pods", "subnet": ["10.9.0.0/24", "ipv6"], "internal": true,
                "gateway": "10.9.0.9", "exclude": "10.9.0.5"}"#,
        )
        .unwrap(),
    );
}

#[test]
fn aliases_are_a_list_or_as_podman_has_them() {
    let on = |aliases: &str| {
        let stdin = format!(
            r#"{{"cniVersion": "1.1.0", "name": "demo", "runtimeConfig": {{"aliases": {aliases}}}}}"#
        );
        let conf = Conf::read(Verb::Add, stdin.as_bytes()).unwrap();
        conf.asked.runtime_config.aliases.on("demo").join(" ")
    };
    assert_eq!(on(r#"["a", "b"]"#), "a b");
    assert_eq!(on(r#"{"demo": ["a"], "other": ["b"]}"#), "a");
    assert_eq!(on(r#"{"other": ["b"]}"#), "");
}
