//! Rule sets as the tools list them, and what becomes of a packet on a bridge.

use serde_json::json;

use super::*;

fn packet(way: Way) -> Packet {
    let (from, to) = match way {
        Way::Across => ("ovb4097", "ovb4097"),
        Way::Out => ("ovb4097", "eth0"),
        Way::Back | Way::In => ("eth0", "ovb4097"),
    };
    Packet { way, from: from.to_owned(), to: to.to_owned() }
}

const WAYS: [Way; 4] = [Way::Across, Way::Out, Way::Back, Way::In];

fn legacy(text: &str) -> Option<String> {
    Rules::of_iptables(text, &packet(Way::Across)).drops()
}

/// Which ways end in these rules, as `iptables -S` lists them.
fn ends(text: &str) -> Vec<Way> {
    let dropped = |way: &Way| Rules::of_iptables(text, &packet(*way)).drops().is_some();
    WAYS.into_iter().filter(dropped).collect()
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
    let listing = json!({ "nftables": all });
    Rules::of_nft(&listing, &packet(Way::Across)).drops()
}

fn nft_ends(rules: serde_json::Value, policy: &str) -> Vec<Way> {
    let mut all = vec![
        json!({ "chain": { "name": "fwd", "hook": "forward", "type": "filter", "policy": policy } }),
    ];
    all.extend(
        rules
            .as_array()
            .unwrap()
            .iter()
            .map(|expr| json!({ "rule": { "chain": "fwd", "expr": expr } })),
    );
    let listing = json!({ "nftables": all });
    let dropped = |way: &Way| Rules::of_nft(&listing, &packet(*way)).drops().is_some();
    WAYS.into_iter().filter(dropped).collect()
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
fn each_way_ends_at_a_policy_and_passes_by_the_rules_that_are_told() {
    assert_eq!(ends(DOCKER), WAYS);
    let docker = Tool::of_iptables("iptables", DOCKER);
    let told = docker.routed("FORWARD", true, true);
    let rules: Vec<String> =
        told.split(" && ").map(|line| line.replace("iptables -I", "-A") + "\n").collect();
    assert_eq!(ends(&format!("{DOCKER}{}", rules[0])), [Way::Back, Way::In]);
    assert_eq!(ends(&format!("{DOCKER}{}", rules[1])), [Way::Across, Way::Out]);
    assert_eq!(ends(&format!("{DOCKER}{}{}", rules[0], rules[1])), []);
    let across = docker.across("FORWARD").replace("iptables -I", "-A");
    assert_eq!(ends(&format!("{DOCKER}{across}\n")), [Way::Out, Way::Back, Way::In]);
}

#[test]
fn the_state_of_a_connection_is_asked_for_in_several_words() {
    let policy = "-P FORWARD DROP\n";
    let ways = |rule: &str| ends(&format!("{policy}-A FORWARD {rule} -j ACCEPT\n"));
    let answers = [Way::Across, Way::Out, Way::In];
    assert_eq!(ways("-m conntrack --ctstate RELATED,ESTABLISHED"), answers);
    assert_eq!(ways("-m state --state RELATED,ESTABLISHED"), answers);
    assert_eq!(ways("-m conntrack ! --ctstate NEW"), answers);
    assert_eq!(ways("-m conntrack --ctstate DNAT"), [Way::Across, Way::Out, Way::Back]);
    assert_eq!(ways("-m physdev ! --physdev-is-bridged"), [Way::Across]);
}

#[test]
fn the_rules_of_firewalld_let_published_ports_pass_and_answers() {
    let ct = |key: &str, right: Value| json!({ "match": { "op": "in", "left": { "ct": { "key": key } }, "right": right } });
    let accept = || json!({ "accept": null });
    let states = json!([ct("state", json!(["established", "related"])), accept()]);
    let dnat = json!([ct("status", json!("dnat")), accept()]);
    let invalid = json!([ct("state", json!(["invalid"])), { "drop": null }]);
    let reject = json!([{ "reject": { "type": "icmpx" } }]);
    let rules = json!([states, dnat, invalid, reject]);
    assert_eq!(nft_ends(rules, "accept"), [Way::Across, Way::Out]);
    let new = json!([ct("state", json!({ "set": ["new", "untracked"] })), accept()]);
    assert_eq!(nft_ends(json!([new]), "drop"), [Way::Back]);
}

#[test]
fn ufw_is_told_in_its_own_words() {
    let rules = "-P FORWARD DROP\n-N ufw-before-forward\n-N ufw-user-forward\n\
        -A FORWARD -j ufw-before-forward\n\
        -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT\n\
        -A ufw-before-forward -j ufw-user-forward\n";
    assert_eq!(ends(rules), [Way::Across, Way::Out, Way::In]);
    let allowed = format!("{rules}-A ufw-user-forward -i ovb+ -j ACCEPT\n");
    assert_eq!(ends(&allowed), [Way::In]);
    let tool = Tool::of_iptables("iptables-legacy", rules);
    let told = tool.routed("FORWARD", true, true);
    assert_eq!(told, "ufw route allow in on ovb+ && ufw route allow out on ovb+");
    assert_eq!(tool.routed("FORWARD", false, true), "ufw route allow out on ovb+");
}

#[test]
fn the_interface_of_the_default_route_is_read() {
    let v4 = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        eth1 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
        eth0 00000000 FE0200C0 0003 0 0 0 00000000 0 0 0\n";
    assert_eq!(default_v4(v4).as_deref(), Some("eth0"));
    assert_eq!(default_v4("Iface Destination\neth0 00000001\n"), None);
    let zero = "0".repeat(32);
    let row =
        |length: &str, dev: &str| format!("{zero} {length} {zero} 00 {zero} 0400 1 0 3 {dev}\n");
    let table = row("80", "lo") + &row("00", "lo") + &row("00", "eth0");
    assert_eq!(default_v6(&table).as_deref(), Some("eth0"));
    assert_eq!(default_v6(&row("00", "lo")), None);
}

#[test]
fn what_is_told_says_what_helps() {
    let tool = Tool::of_iptables("iptables-legacy", DOCKER);
    let read = |packet: &Packet| Rules::of_iptables(DOCKER, packet);
    let judge = |ways: &[Way]| {
        let packets: Vec<Packet> = ways.iter().copied().map(packet).collect();
        judge(&PROTOCOLS[0], &packets, read, "of iptables-legacy", &tool)
    };
    let told = &judge(&[Way::Across])[0];
    assert_eq!(
        told.to_string(),
        "chain FORWARD of iptables-legacy drops what containers send across ovb4097, since \
         net.bridge.bridge-nf-call-iptables is 1: let it pass with `iptables-legacy -I \
         DOCKER-USER -i ovb+ -o ovb+ -j ACCEPT`, or, if nothing else on this host needs it, set \
         the sysctl to 0"
    );
    let told = judge(&[Way::Out, Way::Back, Way::In]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        told[0].to_string(),
        "chain FORWARD of iptables-legacy drops what containers on ovb4097 send out by eth0, or \
         what comes back, and connections to published ports: let it pass with `iptables-legacy \
         -I DOCKER-USER -i ovb+ -j ACCEPT && iptables-legacy -I DOCKER-USER -o ovb+ -m conntrack \
         --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT`"
    );
    let told = judge(&[Way::In])[0].to_string();
    assert!(told.contains("drops connections from eth0 to published ports"), "{told}");
    assert!(!told.contains("-i ovb+"), "{told}");
}
