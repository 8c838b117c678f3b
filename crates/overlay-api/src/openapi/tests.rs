use std::collections::BTreeSet;

use expect_test::expect;
use serde_json::Value;

use crate::v1::ErrorCode;

fn document() -> Value {
    serde_json::to_value(super::document()).unwrap()
}

/// Each operation as (method, path, operation).
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    all.sort_by_key(|(method, path, _)| (path.clone(), method.clone()));
    all
}

#[test]
fn operations_have_these_ids() {
    let lines: String = operations(&document())
        .iter()
        .map(|(method, path, op)| {
            format!("{method} {path} → {}\n", op["operationId"].as_str().unwrap())
        })
        .collect();
    expect![[r#"
        GET /metrics → get_metrics
        GET /v1/dns → get_dns
        GET /v1/dns/{name} → look_name_up
        POST /v1/drain → drain
        GET /v1/endpoints → list_endpoints
        POST /v1/endpoints → attach
        POST /v1/endpoints/import → import
        DELETE /v1/endpoints/{endpoint} → detach
        PATCH /v1/endpoints/{endpoint} → change_endpoint
        DELETE /v1/endpoints/{endpoint}/ports → unpublish
        POST /v1/endpoints/{endpoint}/ports → publish
        GET /v1/events → watch_events
        GET /v1/fdb → list_fdb
        GET /v1/firewall → get_firewall
        DELETE /v1/frozen/{what} → thaw
        GET /v1/hosts → list_hosts
        POST /v1/hosts/{host}/forget → forget
        GET /v1/ipam → list_ipam
        POST /v1/ipam/check → check_ipam
        GET /v1/ipam/{net} → get_ipam
        POST /v1/ipam/{net}/release → release_address
        POST /v1/ipam/{net}/reserve → reserve_address
        DELETE /v1/ipam/{net}/reserve/{address} → unreserve_address
        GET /v1/keys → list_keys
        POST /v1/keys → add_key
        DELETE /v1/keys/{id} → remove_key
        POST /v1/keys/{id}/use → use_key
        POST /v1/leave → leave
        GET /v1/neigh → list_neigh
        GET /v1/networks → list_networks
        POST /v1/networks → create_network
        DELETE /v1/networks/{net} → delete_network
        GET /v1/networks/{net} → get_network
        PATCH /v1/networks/{net} → change_network
        DELETE /v1/networks/{net}/kept/{name} → forget_ip
        GET /v1/openapi.json → get_openapi
        GET /v1/plan → get_plan
        GET /v1/ports → list_ports
        GET /v1/services → list_services
        POST /v1/services → create_service
        DELETE /v1/services/{name} → remove_service
        GET /v1/status → get_status
    "#]]
    .assert_eq(&lines);
}

#[test]
fn every_route_of_the_table_is_described_and_no_other() {
    let in_braces = |path: &str| match path.find('{') {
        Some(at) => {
            let after = path.find('}').map_or("", |end| &path[end + 1..]);
            format!("{}{{}}{after}", &path[..at])
        }
        None => path.to_owned(),
    };
    let table: BTreeSet<String> = include_str!("../lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .map(|line| line.split('`').next().unwrap())
        .map(|request| in_braces(request.split('?').next().unwrap()))
        .collect();
    let described: BTreeSet<String> = operations(&document())
        .iter()
        .map(|(method, path, _)| in_braces(&format!("{method} {path}")))
        .collect();
    assert_eq!(table, described);
}

#[test]
fn every_reference_resolves() {
    fn walk(value: &Value, root: &Value, seen: &mut usize) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("references stay in the document");
            assert!(root.pointer(pointer).is_some(), "{reference} leads nowhere");
            *seen += 1;
        }
        match value {
            Value::Object(map) => map.values().for_each(|v| walk(v, root, seen)),
            Value::Array(list) => list.iter().for_each(|v| walk(v, root, seen)),
            _ => {}
        }
    }
    let document = document();
    let mut seen = 0;
    walk(&document, &document, &mut seen);
    assert!(seen > 50, "the walk found only {seen} references");
}

#[test]
fn every_failure_is_the_error_of_v1_and_every_code_has_its_status_somewhere() {
    let mut statuses = BTreeSet::new();
    for (method, path, op) in operations(&document()) {
        for (status, reply) in op["responses"].as_object().unwrap() {
            let schema = &reply["content"]["application/json"]["schema"];
            if status == "200" {
                let others = ["application/x-ndjson", "text/plain"];
                let other = others.iter().any(|of| reply["content"][of]["schema"].is_object());
                assert!(schema.is_object() || other, "{method} {path}: a success without a body");
            } else {
                let schema = &schema["$ref"];
                assert_eq!(schema, "#/components/schemas/Error", "{method} {path}: {status}");
                statuses.insert(status.parse::<u16>().unwrap());
            }
        }
    }
    let all = [
        ErrorCode::InvalidRequest,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::Taken,
        ErrorCode::InUse,
        ErrorCode::Exhausted,
        ErrorCode::LocksOut,
        ErrorCode::Unsupported,
        ErrorCode::KernelRefused,
        ErrorCode::Unavailable,
        ErrorCode::Internal,
    ];
    assert_eq!(statuses, all.map(ErrorCode::status).into());
}

#[test]
fn parameters_are_described_and_names_in_paths_are_parameters() {
    for (method, path, op) in operations(&document()) {
        let empty = Vec::new();
        let parameters = op["parameters"].as_array().unwrap_or(&empty);
        for parameter in parameters {
            assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
        }
        let in_path = parameters.iter().filter(|p| p["in"] == "path");
        let named: Vec<_> =
            in_path.map(|p| format!("{{{}}}", p["name"].as_str().unwrap())).collect();
        assert_eq!(named.len(), path.matches('{').count(), "{method} {path}");
        assert!(named.iter().all(|name| path.contains(name)), "{method} {path}");
        assert!(op["summary"].is_string(), "{method} {path} has no summary");
    }
}

#[test]
fn it_is_openapi_3_1_and_requests_refuse_unknown_fields() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    for request in [
        "CreateNetwork",
        "Attach",
        "Import",
        "CheckIpam",
        "ReleaseAddress",
        "AddKey",
        "UseKey",
        "Leave",
    ] {
        let schema = &document["components"]["schemas"][request];
        assert_eq!(schema["additionalProperties"], false, "{request}");
        assert!(schema.get("required").is_none(), "{request}: everything may be left out");
    }
}
