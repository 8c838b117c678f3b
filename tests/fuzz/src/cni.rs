//! What a container runtime says to the CNI plugin.

use std::collections::BTreeMap;

use overlay_api::v1;
use overlay_cni::Version;
use overlay_cni::attach::{attached, check_network, wish};
use overlay_cni::call::{self, Attachment, Container, LABEL, Verb};
use overlay_cni::conf::{Conf, version_of};
use overlay_cni::failure::Failure;
use overlay_cni::result::Attached;
use serde_json::Value;

/// An endpoint as the daemon might reply it, whatever was asked.
fn endpoint() -> v1::Endpoint {
    serde_json::from_str(
        r#"{"id": "0123456789ab", "name": null, "net": "demo", "vni": 4097,
            "mac": "02:42:0a:00:09:02", "ips": ["10.0.9.2/24", "fd00:9::2/64"], "aliases": [],
            "labels": {}, "host": "a", "local": true, "vtep": "192.0.2.1", "attached_ms": 0,
            "state": "ready", "host_ifname": "ove0123456789ab", "ifname": "eth0", "mtu": 1450,
            "gateways": ["10.0.9.1", "fd00:9::1"],
            "resolv_conf": "nameserver 127.0.0.11\nsearch demo.overlay.internal\n"}"#,
    )
    .expect("an endpoint")
}

/// The bytes are `KEY=VALUE` lines, an empty line, and what is on stdin.
///
/// 1. What is refused has a code of the specification or of ours, and a text; the
///    error is JSON that says both.
/// 2. What is asked of the daemon is a body that it takes, and bears the label by
///    which a DEL of the same container finds it: one that leads back to it.
/// 3. The result is one that a plugin behind ours can read, in the version that was
///    asked for, and nothing of `prevResult` is lost or changed.
pub(crate) fn cni(data: &[u8]) {
    let end = data.windows(2).position(|w| w == b"\n\n");
    let (head, stdin) = match end {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let head = String::from_utf8_lossy(head);
    let variables: BTreeMap<&str, &str> =
        head.lines().filter_map(|line| line.split_once('=')).collect();
    let variable = |key: &str| variables.get(key).map(|value| (*value).to_owned());
    let refused = |failure: &Failure| {
        assert!(!failure.msg.is_empty() && failure.code as u32 > 0);
        let version = version_of(stdin).unwrap_or(Version::NEWEST);
        let shown: Value = serde_json::from_str(&failure.to_json(version)).expect("it is JSON");
        assert_eq!(shown["code"], failure.code as u32);
        assert_eq!(shown["msg"], *failure.msg);
        assert_eq!(shown["cniVersion"], version.as_str());
    };
    let verb = match call::verb(variable) {
        Ok(Some(verb)) => verb,
        Ok(None) => return,
        Err(failure) => return refused(&failure),
    };
    let conf = match Conf::read(verb, stdin) {
        Ok(conf) => conf,
        Err(failure) => return refused(&failure),
    };
    if let Some(definition) = conf.definition() {
        let json = serde_json::to_vec(&definition).expect("it has string keys");
        let again: v1::CreateNetwork = serde_json::from_slice(&json).expect("it was one before");
        assert!(again == definition && again.once);
    }
    if !matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
        return;
    }
    let container = match Container::read(verb, variable) {
        Ok(container) => container,
        Err(failure) => return refused(&failure),
    };
    let label = container.attachment.label(&conf.name);
    assert_eq!(Attachment::of_label(&conf.name, &label).as_ref(), Some(&container.attachment));
    if verb != Verb::Add {
        return;
    }
    let attach = match wish(&conf, &container) {
        Ok(wish) => wish.attach,
        Err(failure) => return refused(&failure),
    };
    assert_eq!(attach.labels.get(LABEL), Some(&label));
    let json = serde_json::to_vec(&attach).expect("it has string keys");
    assert_eq!(serde_json::from_slice::<v1::Attach>(&json).expect("it was one before"), attach);

    if let Err(failure) = check_network(&conf, &endpoint()) {
        refused(&failure);
    }
    let prev = conf.asked.prev_result.as_ref().map(Attached::read);
    let before = match prev {
        Some(Ok(before)) => before,
        Some(Err(failure)) => return refused(&failure),
        None => Attached::default(),
    };
    let result = attached(&conf, &container, &endpoint(), before.clone());
    let json: Value =
        serde_json::from_str(&result.to_json(conf.version)).expect("a result is JSON");
    assert_eq!(json["cniVersion"], conf.version.as_str());
    let again = Attached::read(&json).expect("a plugin behind ours can read it");
    assert_eq!(again.interfaces[..before.interfaces.len()], before.interfaces);
    assert_eq!(again.ips[..before.ips.len()], before.ips);
    assert_eq!(again.routes[..before.routes.len()], before.routes);
    assert_eq!(again.rest, before.rest);
    for ip in &again.ips[before.ips.len()..] {
        let index = usize::try_from(ip.interface.expect("ours have one")).expect("from 0 on");
        assert_eq!(again.interfaces[index].name, container.attachment.ifname);
        assert_eq!(ip.version.is_some(), conf.version < Version::V1_0_0);
    }
}
