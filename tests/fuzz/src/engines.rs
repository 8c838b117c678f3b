//! What dockerd and netavark say to their plugins.

use overlay_cni::netavark;
use overlay_model::{Name, Publish};

/// A line with the path that dockerd asks, or a verb of netavark, and the body.
///
/// 1. Whatever comes in is understood or refused with a text, and nothing panics.
/// 2. What the daemon would be asked for is something that it takes: names are DNS
///    labels, ports are read as it reads them, and a label finds its container again.
pub(crate) fn engines(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (verb, body) = data.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let verb = String::from_utf8_lossy(verb);
    if verb.starts_with('/') {
        match overlay_plugins::docker::understood(&verb, body) {
            Err(text) => assert!(!text.is_empty()),
            Ok(all) => all.iter().for_each(|text| {
                let known = Name::new(text).is_ok()
                    || text.parse::<std::net::IpAddr>().is_ok()
                    || text.parse::<Publish>().is_ok()
                    // Of a port without a host address or with one that is none, the daemon judges.
                    || text.contains(':');
                assert!(known, "{text}");
            }),
        }
        return;
    }
    let Ok(exec) = serde_json::from_slice::<netavark::Exec>(body) else { return };
    match netavark::wish(&verb, &exec) {
        Err(text) => assert!(!text.is_empty()),
        Ok((attach, _)) => {
            let label = netavark::label(&exec).expect("it was asked for with one");
            assert!(attach.labels.values().any(|has| *has == label) && label.len() < 100);
            assert!(attach.name.iter().chain(&attach.aliases).all(|name| Name::new(name).is_ok()));
            for port in &attach.publish {
                assert!(port.parse::<Publish>().is_ok(), "{port}");
            }
        }
    }
}
