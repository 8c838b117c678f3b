//! Rule sets as the tools list them, and what becomes of a packet on a bridge.

use serde_json::json;

use super::*;

fn legacy(text: &str) -> Option<String> {
    Rules::of_legacy(text, "ovb4097").drops()
}

const DOCKER: &str = "-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
";

#[test]
fn the_policy_that_docker_sets_is_seen() {
    assert_eq!(legacy(&format!("{DOCKER}-A DOCKER-USER -j RETURN\n")), Some("FORWARD".into()));
}

#[test]
fn an_accept_where_docker_wants_it_is_seen() {
    let allowed = format!("{DOCKER}-A DOCKER-USER -i ovb+ -o ovb+ -j ACCEPT\n");
    assert_eq!(legacy(&allowed), None);
    let commented = "-A DOCKER-USER -i ovb4097 -m comment --comment \"two words\" -j ACCEPT\n";
    assert_eq!(legacy(&format!("{DOCKER}{commented}")), None);
    let another = format!("{DOCKER}-A DOCKER-USER -i ovb4098 -j ACCEPT\n");
    assert!(legacy(&another).is_some());
    let not_ours = format!("{DOCKER}-A DOCKER-USER ! -i ovb+ -j ACCEPT\n");
    assert!(legacy(&not_ours).is_some());
}

#[test]
fn an_accept_of_all_that_is_bridged_is_seen() {
    let rule = "-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n";
    assert_eq!(legacy(&format!("-P FORWARD DROP\n{rule}")), None);
    let not = "-A FORWARD -m physdev ! --physdev-is-bridged -j ACCEPT\n";
    assert!(legacy(&format!("-P FORWARD DROP\n{not}")).is_some());
    let xt = |name: &str| json!({ "xt": { "type": "match", "name": name } });
    let accepts = |name: &str| json!([["fwd", [xt(name), { "accept": null }]]]);
    assert_eq!(nft(accepts("physdev"), "drop"), None);
    assert_eq!(nft(accepts("comment"), "drop"), None);
    assert!(nft(accepts("owner"), "drop").is_some());
}

#[test]
fn a_rule_that_asks_for_more_decides_nothing() {
    let some = format!("{DOCKER}-A DOCKER-USER -p tcp -j ACCEPT\n");
    assert!(legacy(&some).is_some());
    assert_eq!(legacy("-P FORWARD ACCEPT\n-A FORWARD -m state --state INVALID -j DROP\n"), None);
}

fn nft(rules: serde_json::Value, policy: &str) -> Option<String> {
    let mut all = vec![
        json!({ "chain": { "name": "fwd", "hook": "forward", "type": "filter", "policy": policy } }),
        json!({ "chain": { "name": "zone" } }),
    ];
    for (chain, expr) in rules.as_array().unwrap().iter().map(|r| (&r[0], &r[1])) {
        all.push(json!({ "rule": { "chain": chain, "expr": expr } }));
    }
    Rules::of_nft(&json!({ "nftables": all }), "ovb4097").drops()
}

fn named(key: &str, op: &str, name: &str) -> Value {
    json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": name } })
}

#[test]
fn a_reject_at_the_end_drops_as_a_policy_does() {
    let state = json!({ "match": { "op": "in", "left": { "ct": { "key": "state" } },
        "right": ["established", "related"] } });
    let end = json!(["fwd", [{ "reject": { "type": "icmpx" } }]]);
    let established = json!(["fwd", [state, { "accept": null }]]);
    assert_eq!(nft(json!([established, end]), "accept"), Some("fwd".into()));
    assert_eq!(nft(json!([established]), "accept"), None);
    assert_eq!(nft(json!([established]), "drop"), Some("fwd".into()));
}

#[test]
fn a_chain_for_our_interfaces_is_followed() {
    let enter = json!(["fwd", [named("iifname", "==", "ovb*"), { "goto": { "target": "zone" } }]]);
    let accept = json!(["zone", [{ "counter": { "packets": 1 } }, { "accept": null }]]);
    let end = json!(["fwd", [{ "drop": null }]]);
    assert_eq!(nft(json!([enter, accept, end]), "accept"), None);
    let other = json!(["fwd", [named("iifname", "!=", "ovb4097"), { "accept": null }]]);
    assert_eq!(nft(json!([other, end]), "accept"), Some("fwd".into()));
}

#[test]
fn chains_that_jump_in_a_circle_come_to_an_end() {
    let there = json!(["fwd", [{ "jump": { "target": "zone" } }]]);
    let back = json!(["zone", [{ "jump": { "target": "fwd" } }]]);
    assert_eq!(nft(json!([there, back]), "drop"), Some("fwd".into()));
}

#[test]
fn our_own_table_is_not_looked_at() {
    let chain = |family: &str, table: &str| json!({ "chain": { "family": family, "table": table, "type": "filter", "hook": "forward" } });
    let listing = json!({ "nftables": [
        chain("inet", "overlayd"), chain("ip", "filter"), chain("ip6", "filter"),
        chain("inet", "firewalld"), chain("bridge", "x"),
    ] });
    let named = |f: &str, t: &str| (f.to_owned(), t.to_owned());
    assert_eq!(forwarding(&listing, "ip"), [named("ip", "filter"), named("inet", "firewalld")]);
}

#[test]
fn what_is_told_says_what_helps() {
    let told = Blocked {
        sysctl: PROTOCOLS[0].sysctl,
        bridge: "ovb4097".into(),
        place: "chain FORWARD of iptables-legacy".into(),
        remedy: iptables_rule("iptables-legacy", true),
    };
    assert_eq!(
        told.to_string(),
        "chain FORWARD of iptables-legacy drops what containers send across ovb4097, since \
         net.bridge.bridge-nf-call-iptables is 1: let it pass with `iptables-legacy -I \
         DOCKER-USER -i ovb+ -o ovb+ -j ACCEPT`, or, if nothing else on this host needs it, set \
         the sysctl to 0"
    );
}
