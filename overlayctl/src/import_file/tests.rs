use expect_test::{Expect, expect};

use super::*;

#[track_caller]
fn check(text: &str, result: Expect) {
    result.assert_eq(&match parse(text) {
        Ok((items, lines)) => items
            .iter()
            .zip(lines)
            .map(|(e, line)| format!("{line}: {} {:?} {:?}\n", e.mac, e.addresses, e.name))
            .collect(),
        Err(wrong) => {
            let summary = wrong.summary("f") + "\n";
            wrong.details.iter().fold(summary, |text, detail| text + &detail.message + "\n")
        }
    });
}

#[test]
fn text_is_a_line_each_with_remarks() {
    check(
        "# stations\n02:00:00:00:00:01 10.0.9.5 web # the first\n\n  02:00:00:00:00:02\t10.0.9.6,fd00::6\n",
        expect![[r#"
            2: 02:00:00:00:00:01 [10.0.9.5] Some("web")
            4: 02:00:00:00:00:02 [10.0.9.6, fd00::6] None
        "#]],
    );
    check("", expect![""]);
    check("# nothing\n", expect![""]);
}

#[test]
fn json_is_an_array_or_a_line_each() {
    let lines = [
        r#"{"mac":"02:00:00:00:00:01","addresses":["10.0.9.5"],"name":"web"}"#,
        r#"{"mac":"02:00:00:00:00:02","addresses":["10.0.9.6"],"labels":{"a":"b"}}"#,
    ];
    let expected = expect![[r#"
        1: 02:00:00:00:00:01 [10.0.9.5] Some("web")
        2: 02:00:00:00:00:02 [10.0.9.6] None
    "#]];
    check(&lines.join("\n"), expected);
    check(
        &format!("[\n  {},\n  {}\n]\n", lines[0], lines[1]),
        expect![[r#"
            2: 02:00:00:00:00:01 [10.0.9.5] Some("web")
            3: 02:00:00:00:00:02 [10.0.9.6] None
        "#]],
    );
}

#[test]
fn every_wrong_line_is_named() {
    check(
        "02:00:00:00:00:01\nnonsense 10.0.9.5\n02:00:00:00:00:01 10.0.9.500\n\
         02:00:00:00:00:01 10.0.9.5 web www\n02:00:00:00:00:01 10.0.9.5 -web\n{\"mac\":7}\n\
         {\"addresses\":[]}\n{\"mac\":\"02:00:00:00:00:01\",\"adresses\":[]}\n",
        expect![[r#"
            f has 8 lines that are wrong, so nothing was imported
            line 1: there is no address; write MAC IP[,IP] [NAME]
            line 2: `nonsense` is not a MAC address; write six hex bytes like 02:42:0a:00:09:05
            line 3: `10.0.9.500` is not an IP address
            line 4: `www` is too much; write MAC IP[,IP] [NAME]
            line 5: `-web` cannot be a name: it starts or ends with `-`; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends
            line 6: invalid type: integer `7`, expected a string
            line 7: it has no "mac"
            line 8: unknown field `adresses`, expected one of `mac`, `addresses`, `name`, `aliases`, `labels`
        "#]],
    );
    check(
        "[\n {\"mac\": \"02:00:00:00:00:01\", \"addresses\": [\"10.0.9.5\"]},\n {\"mac\": \"x\"}\n]",
        expect![[r#"
            f has a line that is wrong, so nothing was imported
            line 3: `x` is not a MAC address; write six hex bytes like 02:42:0a:00:09:05
        "#]],
    );
    check(
        "[\n {\"mac\": \"02:00:00:00:00:01\"}\n",
        expect![[r#"
            f has a line that is wrong, so nothing was imported
            line 3: EOF while parsing a list
        "#]],
    );
}

#[test]
fn no_more_than_twenty_are_named() {
    let Err(wrong) = parse(&"nonsense\n".repeat(50)) else { panic!("it was taken") };
    assert_eq!((wrong.count, wrong.details.len()), (50, 20));
}
