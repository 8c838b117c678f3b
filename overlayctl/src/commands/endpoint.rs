//! `endpoint add`, `endpoint import`, `endpoint rm`: static endpoints.
//!
//! A file is read here, in any of its three forms, so that the daemon has one
//! to understand; what is wrong is said with the number of its line, whoever
//! found it.

use std::io::Read as _;
use std::path::Path;

use overlay_api::{ClientError, v1};
use serde_json::value::RawValue;

use super::{Session, asking};
use crate::args::{AddArgs, EndpointCommand, ImportArgs, RmArgs};
use crate::output::Failure;
use crate::render;

/// How many wrong lines are named.
const NAMED: usize = 20;

impl Session {
    pub(super) async fn endpoint(&self, command: EndpointCommand) -> Result<(), Failure> {
        match command {
            EndpointCommand::Add(args) => self.add(*args).await,
            EndpointCommand::Import(args) => self.import(args).await,
            EndpointCommand::Rm(args) => self.rm(args).await,
        }
    }

    async fn add(&self, args: AddArgs) -> Result<(), Failure> {
        let doing = format!("add {} to {}", args.mac, args.net);
        let request = v1::Attach {
            net: args.net,
            is_static: true,
            ips: args.ips,
            mac: Some(args.mac.to_string()),
            name: args.called.name.map(String::from),
            aliases: args.called.aliases.into_iter().map(String::from).collect(),
            labels: args.called.labels.into_map().map_err(Failure::Usage)?,
            ..v1::Attach::default()
        };
        let endpoint = asking(doing, self.client.attach(&request)).await?;
        self.output.show(&endpoint, render::attached)
    }

    async fn import(&self, args: ImportArgs) -> Result<(), Failure> {
        let ImportArgs { net, replace, file } = args;
        let from = if file == Path::new("-") {
            "standard input".to_owned()
        } else {
            file.display().to_string()
        };
        let text =
            read(&file).map_err(|err| Failure::Usage(format!("cannot read {from}: {err}")))?;
        let (endpoints, lines) = parse(&text).map_err(|wrong| wrong.of(&from))?;
        let request = v1::Import { net, replace, endpoints };
        let reply = self.client.import(&request).await.map_err(|error| named(error, &lines));
        let doing = format!("import {from} into {}", request.net);
        let done = asking(doing, async { reply }).await?;
        self.output.show(&done, render::imported)
    }

    async fn rm(&self, args: RmArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let doing = |endpoint: &str| format!("remove {endpoint}");
        let remove = async |endpoint: &str| self.client.detach(endpoint, net).await;
        self.each(&args.endpoints, doing, remove, render::detached).await
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

/// What the daemon says of items, with the lines that they came from.
fn named(error: ClientError, lines: &[usize]) -> ClientError {
    let ClientError::Api(mut error) = error else { return error };
    for detail in &mut error.details {
        let line = |index: usize| lines.get(index).copied();
        if let Some(at) = line(detail.index) {
            let also = detail.also.and_then(line);
            let also = also.map(|also| format!(", as in line {also}")).unwrap_or_default();
            detail.message = format!("line {at}: {}{also}", detail.message);
        }
    }
    ClientError::Api(error)
}

/// Lines that cannot be read.
#[derive(Debug, Default)]
struct Wrong {
    count: usize,
    details: Vec<v1::Detail>,
}

impl Wrong {
    fn push(&mut self, line: usize, why: impl std::fmt::Display) {
        self.count += 1;
        if self.details.len() < NAMED {
            let message = format!("line {line}: {why}");
            self.details.push(v1::Detail { index: line - 1, also: None, message });
        }
    }

    fn of(self, from: &str) -> Failure {
        let what = match self.count {
            1 => format!("{from} has a line that is wrong, so nothing was imported"),
            n => format!("{from} has {n} lines that are wrong, so nothing was imported"),
        };
        Failure::Lines { what, lines: self.details }
    }
}

/// The endpoints of a file, with the line that each begins in.
fn parse(text: &str) -> Result<(Vec<v1::StaticEndpoint>, Vec<usize>), Wrong> {
    let mut wrong = Wrong::default();
    let mut found = Vec::new();
    let mut at = Vec::new();
    let mut take = |line: usize, item: Result<v1::StaticEndpoint, String>| match item {
        Ok(item) => {
            found.push(item);
            at.push(line);
        }
        Err(why) => wrong.push(line, why),
    };
    if text.trim_start().starts_with('[') {
        match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(items) => {
                // Each is a part of the text: where it stands tells its line.
                let (mut line, mut counted) = (1, 0);
                for item in items {
                    let start = item.get().as_ptr() as usize - text.as_ptr() as usize;
                    line += text.as_bytes()[counted..start].iter().filter(|b| **b == b'\n').count();
                    counted = start;
                    take(line, json(item.get()));
                }
            }
            Err(err) => wrong.push(err.line().max(1), cause(&err)),
        }
    } else {
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim_start().starts_with('{') {
                take(line, json(text));
            } else if let Some(item) = plain(text) {
                take(line, item);
            }
        }
    }
    if wrong.count > 0 { Err(wrong) } else { Ok((found, at)) }
}

fn json(text: &str) -> Result<v1::StaticEndpoint, String> {
    let item: v1::StaticEndpoint = serde_json::from_str(text).map_err(|err| cause(&err))?;
    if item.mac.is_empty() {
        return Err("it has no \"mac\"".to_owned());
    }
    check(item)
}

/// The parser's words without its own idea of the place.
fn cause(err: &serde_json::Error) -> String {
    let text = err.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(why, _)| why.to_owned())
}

/// `MAC IP[,IP] [NAME]`; nothing of an empty line or a remark.
fn plain(text: &str) -> Option<Result<v1::StaticEndpoint, String>> {
    let text = text.split('#').next().unwrap_or_default();
    let mut words = text.split_whitespace();
    let mac = words.next()?;
    let (ips, name, more) = (words.next(), words.next(), words.next());
    Some((|| {
        let ips = ips.ok_or("there is no address; write MAC IP[,IP] [NAME]")?;
        if let Some(more) = more {
            return Err(format!("`{more}` is too much; write MAC IP[,IP] [NAME]"));
        }
        let addresses: Result<_, String> = ips
            .split(',')
            .map(|ip| ip.parse().map_err(|_| format!("`{ip}` is not an IP address")))
            .collect();
        check(v1::StaticEndpoint {
            mac: mac.to_owned(),
            addresses: addresses?,
            name: name.map(str::to_owned),
            ..v1::StaticEndpoint::default()
        })
    })())
}

/// What can be said without a daemon.
fn check(item: v1::StaticEndpoint) -> Result<v1::StaticEndpoint, String> {
    item.mac.parse::<overlay_model::MacAddr>().map_err(|err| err.to_string())?;
    for name in item.name.iter().chain(&item.aliases) {
        overlay_model::Name::new(name).map_err(|err| err.to_string())?;
    }
    if item.addresses.is_empty() {
        return Err(format!("{} has no address", item.mac));
    }
    Ok(item)
}

#[cfg(test)]
mod tests {
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
            Err(wrong) => match wrong.of("f") {
                Failure::Lines { what, lines } => {
                    lines.iter().fold(what + "\n", |text, detail| text + &detail.message + "\n")
                }
                other => panic!("{other:?}"),
            },
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

    #[test]
    fn what_the_daemon_says_of_items_is_said_of_lines() {
        let detail =
            |index, also, message: &str| v1::Detail { index, also, message: message.into() };
        let error = ClientError::Api(v1::Error {
            code: v1::ErrorCode::Taken,
            message: "2 are wrong".into(),
            hint: None,
            details: vec![detail(0, None, "it is taken"), detail(2, Some(1), "it is given twice")],
        });
        let ClientError::Api(error) = named(error, &[2, 4, 5]) else { panic!("another error") };
        let lines: Vec<_> = error.details.into_iter().map(|d| d.message).collect();
        assert_eq!(lines, ["line 2: it is taken", "line 5: it is given twice, as in line 4"]);
    }
}
