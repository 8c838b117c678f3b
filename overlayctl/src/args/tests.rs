use clap::CommandFactory as _;
use expect_test::{Expect, expect};

use super::*;

/// The failure of a command line, as its first line of text.
#[track_caller]
fn check(line: &str, text: Expect) {
    let err = Args::try_parse_from(line.split(' ')).expect_err("a refusal");
    assert!(err.use_stderr(), "{line} should have exit code 2");
    let stop = Stop(err);
    let said = stop.one_line().unwrap_or_else(|| stop.0.to_string());
    text.assert_eq(said.lines().next().unwrap());
}

fn attach(line: &str) -> AttachArgs {
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let Command::Attach(args) = args.command else { panic!("{args:?}") };
    *args
}

#[test]
fn clap_finds_no_mistake_in_the_definition() {
    Args::command().debug_assert();
}

#[test]
fn a_wrong_value_is_one_line_that_says_what_to_write() {
    check(
        "overlayctl net create Bad_Name",
        expect![
            "overlayctl: NAME: `Bad_Name` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends"
        ],
    );
    check(
        "overlayctl net create x --vni 16777216",
        expect![[
            r#"overlayctl: --vni: VNI 16777216 is out of range; choose one from 1 to 16777215"#
        ]],
    );
    check(
        "overlayctl net create x --vni seven",
        expect![[r#"overlayctl: --vni: VNI seven is out of range; choose one from 1 to 16777215"#]],
    );
    check(
        "overlayctl net create x --subnet 10.0.9.0",
        expect![
            "overlayctl: --subnet: `10.0.9.0` is not a subnet; write an address and a prefix length like 10.0.9.0/24, or ipv4 or ipv6 for one that is free"
        ],
    );
    check(
        "overlayctl net create x --gateway 10.0.9.1/24",
        expect![[
            r#"overlayctl: --gateway: `10.0.9.1/24` is not an IP address; write it like 10.0.9.5 or fd00::5, without a prefix length"#
        ]],
    );
    check(
        "overlayctl net create x --mtu 900",
        expect![[
            r#"overlayctl: --mtu: `900` is not an MTU; write bytes of IP packet, 1280 (what IPv6 needs) or more"#
        ]],
    );
    check(
        "overlayctl net create x --label tier",
        expect![[r#"overlayctl: --label: `tier` is not a label; write it like tier=front"#]],
    );
    check(
        "overlayctl attach --net x --netns y --mac 02:42",
        expect![[
            r#"overlayctl: --mac: `02:42` is not a MAC address; write six hex bytes like 02:42:0a:00:09:05"#
        ]],
    );
    check(
        "overlayctl attach --net x --netns y --ifname a/b",
        expect![[
            r#"overlayctl: --ifname: `a/b` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`"#
        ]],
    );
    check(
        "overlayctl attach --net x --netns y --alias -x",
        expect![[r#"error: unexpected argument '-x' found"#]],
    );
    check(
        "overlayctl attach --net x --netns y --name -x",
        expect![[r#"error: unexpected argument '-x' found"#]],
    );
    check(
        "overlayctl attach --net x --pid 0",
        expect![[r#"overlayctl: --pid: `0` is not a process id; write a number like 4711"#]],
    );
}

#[test]
fn a_namespace_is_needed_and_only_one() {
    check(
        "overlayctl attach --net x",
        expect![[r#"error: the following required arguments were not provided:"#]],
    );
    check(
        "overlayctl attach --net x --netns y --pid 7",
        expect![[r#"error: the argument '--netns <PATH|NAME>' cannot be used with '--pid <PID>'"#]],
    );
    check(
        "overlayctl attach --netns y",
        expect![[r#"error: the following required arguments were not provided:"#]],
    );
    check(
        "overlayctl detach",
        expect![[r#"error: the following required arguments were not provided:"#]],
    );
    check(
        "overlayctl net rm",
        expect![[r#"error: the following required arguments were not provided:"#]],
    );
}

#[test]
fn no_name_is_empty() {
    for line in ["net inspect ", "net rm ", "detach ", "attach --pid 7 --net ", "endpoints --net "]
    {
        let err = Args::try_parse_from(format!("overlayctl {line}").split(' ')).unwrap_err();
        assert_eq!(err.exit_code(), 2, "{line}: {err}");
    }
}

#[test]
fn labels_keep_what_follows_the_first_equals_sign() {
    let labels = attach("overlayctl attach --net x --pid 7 --label a=b=c --label d=").called.labels;
    let labels = labels.into_map().unwrap();
    assert_eq!(labels, [("a", "b=c"), ("d", "")].map(|(k, v)| (k.into(), v.into())).into());
}

#[test]
fn a_label_given_twice_is_refused() {
    let labels = attach("overlayctl attach --net x --pid 7 --label a=b --label a=c").called.labels;
    expect![[r#"the label a is given twice; give each key once"#]]
        .assert_eq(&labels.into_map().unwrap_err());
}

#[test]
fn names_are_lowered_as_dns_does_not_tell_the_cases_apart() {
    let args = attach("overlayctl attach --net x --pid 7 --name Web");
    assert_eq!(args.called.name.unwrap().as_str(), "web");
}

#[test]
fn global_options_stand_anywhere() {
    for line in
        ["--json --socket /s net ls", "net --json ls --socket /s", "net ls --socket=/s --json"]
    {
        let args = Args::try_parse_from(format!("overlayctl {line}").split(' ')).unwrap();
        assert!(args.json && args.socket.as_os_str() == "/s", "{line}: {args:?}");
    }
}

#[test]
fn every_command_and_every_option_is_in_the_page_about_them() {
    fn walk(path: &str, command: &clap::Command, page: &str) {
        let mut leaf = true;
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(&format!("{path} {}", sub.get_name()), sub, page);
            leaf = false;
        }
        assert!(!leaf || page.contains(path), "`{path}` is not in docs/cli.md");
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{option}")), "--{option} is not in docs/cli.md");
        }
    }
    walk("overlayctl", &Args::command(), include_str!("../../../docs/cli.md"));
}

#[test]
fn addresses_and_changes_that_cannot_be_meant_are_refused() {
    check(
        "overlayctl net create x --exclude 10.0.9.9-10.0.9.5",
        expect![
            "overlayctl: --exclude: `10.0.9.9-10.0.9.5` is no range of addresses; write one address, FIRST-LAST, or a prefix like 10.0.9.64/27"
        ],
    );
    check(
        "overlayctl net create x --ip-range 10.0.9.1/27",
        expect![
            "overlayctl: --ip-range: `10.0.9.1/27` is no range of addresses; write one address, FIRST-LAST, or a prefix like 10.0.9.64/27"
        ],
    );
    check(
        "overlayctl net set x",
        expect!["error: the following required arguments were not provided:"],
    );
    check(
        "overlayctl net set x --internal --no-internal",
        expect!["error: the argument '--internal' cannot be used with '--no-internal'"],
    );
    check(
        "overlayctl attach --net x --pid 7 --keep-ip",
        expect!["error: the following required arguments were not provided:"],
    );
    check(
        "overlayctl endpoint set web",
        expect!["error: the following required arguments were not provided:"],
    );
    check(
        "overlayctl endpoint set web --alias x --no-aliases",
        expect!["error: the argument '--alias <NAME>' cannot be used with '--no-aliases'"],
    );
    check(
        "overlayctl endpoint forget-ip web",
        expect!["error: the following required arguments were not provided:"],
    );
}
