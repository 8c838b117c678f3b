use expect_test::{Expect, expect};

use super::*;

/// `A=1 B=2`, as a function of the key.
fn environment(text: &str) -> impl Fn(&str) -> Option<String> {
    let pairs: BTreeMap<String, String> = text
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    move |key| pairs.get(key).cloned()
}

#[track_caller]
fn check(verb: Verb, text: &str, expected: Expect) {
    let shown = match Container::read(verb, environment(text)) {
        Ok(container) => format!("{container:?}\n"),
        Err(failure) => format!("{} {}\n", failure.code as u32, failure.msg),
    };
    expected.assert_eq(&shown);
}

#[test]
fn a_del_needs_no_namespace_and_does_not_look_at_arguments() {
    check(
        Verb::Del,
        "CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_ARGS=WHATEVER",
        expect![[r#"
            Container { attachment: Attachment { container: "c1", ifname: "eth0" }, netns: None, netns_override: false, args: {} }
        "#]],
    );
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let add = |text: &str, expected| check(Verb::Add, text, expected);
    add(
        "",
        expect![[r#"
        4 CNI_CONTAINERID is not set; ADD needs it
    "#]],
    );
    add(
        "CNI_CONTAINERID=c1",
        expect![[r#"
        4 CNI_IFNAME is not set; ADD needs it
    "#]],
    );
    add(
        "CNI_CONTAINERID=c1 CNI_IFNAME=eth0",
        expect![[r#"
        4 CNI_NETNS is not set; ADD needs it
    "#]],
    );
    add(
        "CNI_CONTAINERID=../c1 CNI_IFNAME=eth0",
        expect![[r#"
        4 CNI_CONTAINERID `../c1` must begin with a letter or digit, and have letters, digits, `_`, `.` and `-` only
    "#]],
    );
    add(
        "CNI_CONTAINERID=c1 CNI_IFNAME=eth0:1",
        expect![[r#"
        4 CNI_IFNAME `eth0:1` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`
    "#]],
    );
    add(
        "CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/n CNI_ARGS=IP",
        expect![[r#"
        4 CNI_ARGS has `IP`, which is no KEY=VALUE; pairs have `;` between them
    "#]],
    );
}

#[test]
fn an_unknown_argument_is_refused_unless_it_may_be_ignored() {
    let all = "CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/n";
    check(
        Verb::Add,
        &format!("{all} CNI_ARGS=IP=10.9.0.5;FOO=bar"),
        expect![[r#"
        4 CNI_ARGS has `FOO`, which means nothing here; say IgnoreUnknown=1 with it
    "#]],
    );
    check(
        Verb::Add,
        &format!("{all} CNI_ARGS=IgnoreUnknown=1;FOO=bar;IP=10.9.0.5"),
        expect![[r#"
        Container { attachment: Attachment { container: "c1", ifname: "eth0" }, netns: Some("/n"), netns_override: false, args: {"FOO": "bar", "IP": "10.9.0.5", "IgnoreUnknown": "1"} }
    "#]],
    );
}

#[test]
fn a_label_leads_back_to_its_attachment_and_to_that_network_only() {
    let one = Attachment { container: "c1".into(), ifname: "eth0".into() };
    let label = one.label("demo");
    assert_eq!(label, "demo/c1/eth0");
    assert_eq!(Attachment::of_label("demo", &label), Some(one));
    assert_eq!(Attachment::of_label("dem", &label), None);
    assert_eq!(Attachment::of_label("demo", "demo/c1"), None);
}

#[test]
fn no_verb_is_no_error_and_an_unknown_one_is() {
    assert_eq!(verb(environment("")), Ok(None));
    assert_eq!(verb(environment("CNI_COMMAND=GC")), Ok(Some(Verb::Gc)));
    let failure = verb(environment("CNI_COMMAND=add")).unwrap_err();
    assert_eq!(
        failure.msg,
        "CNI_COMMAND is `add`, not one of ADD, DEL, CHECK, GC, STATUS, VERSION"
    );
}
