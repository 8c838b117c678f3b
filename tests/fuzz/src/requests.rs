//! What people ask for: bodies of API requests, files of `endpoint import`.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use overlay_api::v1;
use overlay_engine::{Effect, Event, Request};
use overlay_model::NetnsRef;
use overlayctl::import_file;
use overlayd::convert;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::desk::Desk;

/// Requests of one run, at most.
const REQUESTS: usize = 16;

/// 1. A body is what it says, and says the same again, or an error.
/// 2. The engine answers each request once at most and comes to rest.
///
/// One request a line: a letter that says which, and the body.
pub(crate) fn api_request(data: &[u8]) {
    let mut desk = Desk::new();
    let lines = data.split(|byte| *byte == b'\n').filter_map(|line| line.split_first());
    for (token, (what, body)) in (1..).zip(lines.take(REQUESTS)) {
        let Some(request) = request(*what, body) else { continue };
        let event = Event::Request { token, fresh: token * 0x1_0001, request: Box::new(request) };
        let said = desk.happens(event);
        let reply =
            |effect: &&Effect| matches!(effect, Effect::Reply { token: t, .. } if *t == token);
        assert!(said.iter().filter(reply).count() <= 1, "answered twice");
        for effect in said {
            if let Effect::Reply { result: Ok(reply), .. } = effect {
                convert::reply(reply, &convert::Heard::default()).expect("a reply is JSON");
            }
        }
    }
    desk.waits(Duration::from_secs(60));
}

fn parse<T: DeserializeOwned + Serialize + PartialEq + Debug>(body: &[u8]) -> Option<T> {
    let body: T = serde_json::from_slice(body).ok()?;
    let text = serde_json::to_string(&body).expect("what was JSON is JSON");
    let again: T = serde_json::from_str(&text).expect("it was read before");
    assert_eq!(again, body);
    Some(body)
}

fn request(what: u8, body: &[u8]) -> Option<Request> {
    let text = || String::from_utf8_lossy(body).into_owned();
    Some(match what {
        b'N' => Request::CreateNetwork(convert::create_network(parse(body)?).ok()?),
        b'A' => {
            let body: v1::Attach = parse(body)?;
            let found = convert::netns_path(&body).ok()?;
            let found = found.map(|path| (NetnsRef { path, cookie: 1 }, BTreeSet::new()));
            Request::Attach(convert::attach(body, found).ok()?)
        }
        b'I' => match convert::import(parse(body)?) {
            Ok(import) => Request::Import(import),
            Err(error) => {
                assert!(!error.details.is_empty() && error.details.len() <= 20, "{error:?}");
                return None;
            }
        },
        b'L' => Request::Leave { force: parse::<v1::Leave>(body)?.force },
        b'R' => Request::RemoveNetwork(text()),
        b'F' => Request::ForceRemoveNetwork(text()),
        b'C' => Request::ChangeNetwork(convert::change_network("demo".into(), parse(body)?).ok()?),
        b'G' => Request::ForgetIp { net: "demo".into(), name: text().parse().ok()? },
        b'D' => Request::Detach { target: text(), net: None },
        b'E' => Request::Endpoints { net: Some(text()), local: false },
        b'S' => Request::Status,
        b'P' => Request::Plan,
        b'K' => {
            parse::<v1::AddKey>(body);
            parse::<v1::UseKey>(body);
            return None;
        }
        _ => return None,
    })
}

/// 1. A file is a list or names its wrong lines: twenty at most, each by a
///    number that there is.
/// 2. What was read, written as JSON, is read as the same.
pub(crate) fn import_list(data: &[u8]) {
    // As `read_to_string` has it.
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split('\n').count();
    match import_file::parse(text) {
        Ok((items, at)) => {
            assert_eq!(items.len(), at.len());
            assert!(at.is_sorted() && at.iter().all(|line| (1..=lines).contains(line)), "{at:?}");
            let json = serde_json::to_string(&items).expect("strings and addresses");
            let (again, _) = import_file::parse(&json).expect("it was read before");
            assert_eq!(again, items);
        }
        Err(wrong) => {
            assert!(wrong.details.len() == wrong.count.min(20) && wrong.count > 0);
            assert!(wrong.summary("f").starts_with("f has "));
            for detail in wrong.details {
                assert!((0..lines).contains(&detail.index), "{detail:?} of {lines} lines");
                assert!(detail.message.starts_with(&format!("line {}: ", detail.index + 1)));
            }
        }
    }
}
