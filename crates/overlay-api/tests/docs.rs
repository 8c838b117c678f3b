//! `docs/api.md` says what the types say: every request in it is one of the
//! contract, every body and every reply is taken by its type whole.

use std::collections::BTreeSet;

use overlay_api::v1;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/api.md");

/// One `ovl` command of the page, with the JSON block that follows it, if any.
struct Example {
    method: String,
    path: String,
    body: Option<String>,
    reply: Option<String>,
}

/// The page's code blocks as (language, text).
fn blocks() -> Vec<(&'static str, &'static str)> {
    // Every other part lies between two fences.
    PAGE.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for (language, text) in blocks() {
        if language == "json" {
            examples.last_mut().expect("a reply follows a request").reply = Some(text.to_owned());
        } else if language == "ndjson" {
            examples.last_mut().expect("a stream follows a request").reply = Some(text.to_owned());
        } else if let Some(command) = text.strip_prefix("ovl ") {
            let method =
                command.strip_prefix("-X ").map_or("GET", |m| m.split(' ').next().unwrap());
            let (_, url) = command.split_once("http://overlayd").unwrap();
            let path = url.split([' ', '\'', '\n']).next().unwrap();
            let body = command.split_once("-d '").map(|(_, body)| body.trim_end_matches('\''));
            examples.push(Example {
                method: method.to_owned(),
                path: path.to_owned(),
                body: body.map(str::to_owned),
                reply: None,
            });
        }
    }
    assert!(examples.len() > 15, "the page has changed its form: {} examples", examples.len());
    examples
}

/// The row of the contract that an example belongs to.
fn row(example: &Example) -> String {
    let path = example.path.split('?').next().unwrap();
    let parts: Vec<_> = path.split('/').collect();
    match parts.as_slice() {
        ["", "v1", "networks", _] => format!("{} /v1/networks/{{net}}", example.method),
        ["", "v1", "endpoints", "import"] => format!("{} {path}", example.method),
        ["", "v1", "endpoints", _] => format!("{} /v1/endpoints/{{endpoint}}", example.method),
        ["", "v1", "hosts", _, "forget"] => {
            format!("{} /v1/hosts/{{host}}/forget", example.method)
        }
        ["", "v1", "networks", _, "kept", _] => {
            format!("{} /v1/networks/{{net}}/kept/{{name}}", example.method)
        }
        ["", "v1", "ipam", "check"] => format!("{} {path}", example.method),
        ["", "v1", "ipam", _] => format!("{} /v1/ipam/{{net}}", example.method),
        ["", "v1", "ipam", _, "reserve"] => format!("{} /v1/ipam/{{net}}/reserve", example.method),
        ["", "v1", "ipam", _, "reserve", _] => {
            format!("{} /v1/ipam/{{net}}/reserve/{{address}}", example.method)
        }
        ["", "v1", "ipam", _, "release"] => format!("{} /v1/ipam/{{net}}/release", example.method),
        ["", "v1", "services", _] => format!("{} /v1/services/{{name}}", example.method),
        ["", "v1", "endpoints", _, "ports"] => {
            format!("{} /v1/endpoints/{{endpoint}}/ports", example.method)
        }
        ["", "v1", "dns", _] => format!("{} /v1/dns/{{name}}", example.method),
        ["", "v1", "frozen", _] => format!("{} /v1/frozen/{{what}}", example.method),
        ["", "v1", "keys", _] => format!("{} /v1/keys/{{id}}", example.method),
        ["", "v1", "keys", _, "use"] => format!("{} /v1/keys/{{id}}/use", example.method),
        _ => format!("{} {path}", example.method),
    }
}

/// `text` as a `T`, and nothing in it that `T` does not know or has not got.
#[track_caller]
fn is<T: DeserializeOwned + Serialize>(text: &str) {
    let given: Value = serde_json::from_str(text).unwrap_or_else(|err| panic!("{err}: {text}"));
    let taken: T =
        serde_json::from_value(given.clone()).unwrap_or_else(|err| panic!("{err}: {text}"));
    assert_eq!(serde_json::to_value(taken).unwrap(), given);
}

#[test]
fn every_request_of_the_contract_has_an_example_and_every_example_is_in_the_contract() {
    let document = serde_json::to_value(overlay_api::openapi::document()).unwrap();
    let mut contract = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            contract.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(contract, examples().iter().map(row).collect());
}

#[test]
fn parameters_in_queries_are_in_the_contract() {
    let document = serde_json::to_value(overlay_api::openapi::document()).unwrap();
    for example in examples() {
        let Some((_, query)) = example.path.split_once('?') else { continue };
        let row = row(&example);
        let (method, path) = row.split_once(' ').unwrap();
        let known = &document["paths"][path][method.to_lowercase()]["parameters"];
        for pair in query.split('&') {
            let key = pair.split('=').next().unwrap();
            let found =
                known.as_array().unwrap().iter().any(|p| p["name"] == key && p["in"] == "query");
            assert!(found, "{row} has no parameter {key}");
        }
    }
}

#[test]
fn every_body_and_every_reply_is_what_its_type_says() {
    for example in examples() {
        let row = row(&example);
        match (row.as_str(), &example.body) {
            ("POST /v1/networks", Some(body)) => is::<v1::CreateNetwork>(body),
            ("PATCH /v1/networks/{net}", Some(body)) => is::<v1::ChangeNetwork>(body),
            ("POST /v1/endpoints", Some(body)) => is::<v1::Attach>(body),
            ("POST /v1/endpoints/import", Some(body)) => is::<v1::Import>(body),
            ("POST /v1/endpoints/{endpoint}/ports", Some(body)) => is::<v1::Publish>(body),
            ("PATCH /v1/endpoints/{endpoint}", Some(body)) => is::<v1::ChangeEndpoint>(body),
            ("POST /v1/ipam/{net}/reserve", Some(body)) => is::<v1::ReserveAddress>(body),
            ("POST /v1/services", Some(body)) => is::<v1::CreateService>(body),
            ("POST /v1/ipam/check", Some(body)) => is::<v1::CheckIpam>(body),
            ("POST /v1/ipam/{net}/release", Some(body)) => is::<v1::ReleaseAddress>(body),
            ("POST /v1/hosts/{host}/forget", Some(body)) => is::<v1::Forget>(body),
            ("POST /v1/drain", Some(body)) => is::<v1::Drain>(body),
            ("POST /v1/leave", Some(body)) => is::<v1::Leave>(body),
            ("POST /v1/keys", Some(body)) => is::<v1::AddKey>(body),
            ("POST /v1/keys/{id}/use", Some(body)) => is::<v1::UseKey>(body),
            (row, body) => assert!(!row.starts_with("POST") && body.is_none(), "{row}: {body:?}"),
        }
        let Some(reply) = &example.reply else { continue };
        match row.as_str() {
            "POST /v1/networks" => is::<v1::Network>(reply),
            "POST /v1/endpoints" => is::<v1::Endpoint>(reply),
            "POST /v1/endpoints/import" => is::<v1::Imported>(reply),
            "DELETE /v1/frozen/{what}" => is::<Vec<v1::Frozen>>(reply),
            "POST /v1/services" => is::<v1::Service>(reply),
            "POST /v1/ipam/{net}/reserve" => is::<v1::ReservedAddress>(reply),
            "GET /v1/services" => is::<Vec<v1::Service>>(reply),
            "GET /v1/ports" => is::<Vec<v1::Port>>(reply),
            "GET /v1/firewall" => is::<v1::Firewall>(reply),
            "GET /v1/ipam" => is::<Vec<v1::IpamSubnet>>(reply),
            "GET /v1/ipam/{net}" => is::<Vec<v1::IpamRanges>>(reply),
            "POST /v1/ipam/check" => is::<v1::IpamAudit>(reply),
            "GET /v1/keys" => is::<Vec<v1::Key>>(reply),
            "GET /v1/dns" => is::<v1::Dns>(reply),
            "GET /v1/dns/{name}" => is::<v1::Looked>(reply),
            "GET /v1/hosts" => is::<Vec<v1::Host>>(reply),
            "GET /v1/status" => is::<v1::Status>(reply),
            "GET /v1/fdb" | "GET /v1/neigh" => is::<Vec<v1::Entry>>(reply),
            "GET /v1/events" => reply.lines().for_each(is::<v1::Event>),
            "GET /v1/plan" => is::<v1::Plan>(reply),
            "POST /v1/hosts/{host}/forget" => is::<v1::Forgotten>(reply),
            "POST /v1/drain" => is::<v1::Drained>(reply),
            "POST /v1/leave" => is::<v1::Left>(reply),
            "GET /v1/networks/{net}" => is::<v1::Error>(reply),
            row => panic!("{row} has a reply that nothing here checks"),
        }
    }
}

#[test]
fn error_codes_stand_there_with_their_status() {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows =
        rows.filter_map(|row| row.split_once("` | ")).filter(|(code, _)| !code.contains(' '));
    let mut checked = 0;
    for (code, rest) in rows {
        let Ok(code) = serde_json::from_value::<v1::ErrorCode>(code.into()) else { continue };
        assert!(rest.starts_with(&code.status().to_string()), "{code:?}: {rest}");
        checked += 1;
    }
    assert_eq!(checked, 11, "a code is missing from the page");
}
