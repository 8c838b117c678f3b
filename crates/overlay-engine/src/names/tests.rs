use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use overlay_model::{EndpointId, HostId, Network, NetworkId, ObjectKey};

use super::NameNews;
use crate::cluster_view::HostState;
use crate::endpoints::Phase;
use crate::engine::Engine;
use crate::event::{Effect, Event, Now, Place, Request, Where};
use crate::network_changes::ChangeNetwork;
use crate::tests::world::{World, add, attach, create};

/// A resolver that only keeps what it is told.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Told {
    networks: BTreeMap<NetworkId, Network>,
    endpoints: BTreeMap<(NetworkId, HostId, EndpointId), String>,
    hosts: BTreeMap<HostId, HostState>,
    doors: BTreeSet<EndpointId>,
    pub(crate) news: usize,
}

fn text(placed: &overlay_model::Placed) -> String {
    let ep = &placed.endpoint;
    format!("{:?} {:?} {:?}", ep.name, ep.aliases, ep.addresses)
}

impl Told {
    pub(crate) fn take_in(&mut self, news: Vec<NameNews>) {
        self.news += news.len();
        for one in news {
            match one {
                NameNews::Network(net) => {
                    self.networks.insert(net.id, *net);
                }
                NameNews::NoNetwork(id) => {
                    self.networks.remove(&id);
                    self.endpoints.retain(|(net, ..), _| *net != id);
                }
                NameNews::Endpoint { before, after } => {
                    let key =
                        |p: &overlay_model::Placed| (p.endpoint.network, p.host, p.endpoint.id);
                    if let Some(placed) = before {
                        self.endpoints.remove(&key(&placed));
                    }
                    if let Some(placed) = after {
                        self.endpoints.insert(key(&placed), text(&placed));
                    }
                }
                NameNews::Host { host, state, .. } => {
                    self.hosts.insert(host, state);
                }
                NameNews::Door { endpoint, .. } => {
                    self.doors.insert(endpoint);
                }
                NameNews::NoDoor(endpoint) => {
                    self.doors.remove(&endpoint);
                }
            }
        }
    }

    /// What was told bit by bit is what there is.
    #[track_caller]
    pub(crate) fn assert_matches(&self, engine: &Engine) {
        let networks: BTreeMap<_, _> =
            engine.used_networks().map(|net| (net.id, net.clone())).collect();
        assert_eq!(self.networks.keys().collect::<Vec<_>>(), networks.keys().collect::<Vec<_>>());
        let mut endpoints = BTreeMap::new();
        for net in networks.keys() {
            for placed in engine.view.placed_on(*net) {
                let key = (*net, placed.host, placed.endpoint.id);
                if !engine.gone.contains_key(&placed.endpoint.id) {
                    endpoints.insert(key, text(placed));
                }
            }
        }
        for net in networks.keys() {
            for service in engine.services.working(*net) {
                let placed = engine.placed_service(service);
                endpoints.insert((*net, placed.host, placed.endpoint.id), text(&placed));
            }
        }
        assert_eq!(self.endpoints, endpoints);
        for (host, state) in &self.hosts {
            assert_eq!(engine.view.presence(*host).map(|p| p.state), Some(*state));
        }
        let doors: BTreeSet<EndpointId> = engine
            .local
            .iter()
            .filter(|(id, l)| {
                let named = matches!(l.local.place, Place::Netns { no_dns: false, .. });
                named && l.phase == Phase::Ready && !engine.gone.contains_key(id)
            })
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(self.doors, doors);
    }
}

#[track_caller]
fn told_of(w: &World, i: usize, names: &[&str]) {
    let told: BTreeSet<String> = w.told(i).endpoints.values().cloned().collect();
    let has = |name: &&str| told.iter().any(|text| text.contains(&format!("Some(\"{name}\")")));
    assert!(names.iter().all(has) && told.len() == names.len(), "{told:?}");
    w.assert_names_match(i);
}

#[test]
fn a_host_is_told_of_the_names_of_the_networks_that_it_uses_and_of_no_others() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.create(0, create("other", 8, "10.8.0.0/24")).unwrap();
    w.attach(1, attach("demo", "c1")).unwrap();
    w.attach(1, attach("other", "c2")).unwrap();
    told_of(&w, 0, &[]);
    w.attach(0, attach("demo", "c3")).unwrap();
    told_of(&w, 0, &["c1", "c3"]);
    told_of(&w, 1, &["c1", "c2", "c3"]);
    w.detach(0, "c3").unwrap();
    told_of(&w, 0, &[]);
    told_of(&w, 1, &["c1", "c2"]);
}

#[test]
fn a_change_is_told_alone_however_many_names_there_are() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/16")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    for n in 1..=50 {
        let (mac, ip) = (format!("02:00:00:00:00:{n:02x}"), format!("10.9.1.{n}"));
        w.attach(1, add("demo", &mac, &ip)).unwrap();
    }
    let before = [w.told(0).news, w.told(1).news];
    w.attach(1, attach("demo", "c2")).unwrap();
    assert_eq!(w.told(0).news - before[0], 1, "the endpoint");
    assert_eq!(w.told(1).news - before[1], 2, "the endpoint and its door");
    w.assert_names_match(0);
}

/// PEERS: a name resolves to a dead container.
#[test]
fn an_endpoint_whose_namespace_is_gone_loses_its_name_here_at_once() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.attach(0, attach("demo", "c2")).unwrap();
    let c1 =
        w.endpoints(0).into_iter().find(|v| v.endpoint.name.as_ref().unwrap().as_str() == "c1");
    w.kernel(0).netns.remove(Path::new("/run/netns/c1"));
    w.meddle(0, ObjectKey::Link(c1.unwrap().endpoint.id.ifname()), None);
    told_of(&w, 0, &["c2"]);
    assert_eq!(w.told(0).doors.len(), 1);
    w.pass(Duration::from_secs(61));
    told_of(&w, 0, &["c2"]);
    w.restart(0);
    told_of(&w, 0, &["c2"]);
}

#[test]
fn a_host_that_is_down_is_told_of_before_its_entries_go() {
    let mut w = World::new(3);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    let other = w.engine(1).config.host;
    w.fall_silent(1);
    assert_eq!(w.told(0).hosts[&other], HostState::Suspect);
    w.pass(Duration::from_secs(2));
    assert_eq!(w.told(0).hosts[&other], HostState::Down);
    told_of(&w, 0, &["c1", "c2"]);
    w.pass(Duration::from_secs(11));
    told_of(&w, 0, &["c1"]);
    w.be_heard(1);
    assert_eq!(w.told(0).hosts[&other], HostState::Up);
    told_of(&w, 0, &["c1", "c2"]);
}

#[test]
fn a_namespace_with_a_resolver_of_its_own_gets_no_door_and_after_a_restart_neither() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    let mut own = attach("demo", "c1");
    let Where::Netns { no_dns, .. } = &mut own.place else { panic!("a namespace") };
    *no_dns = true;
    w.attach(0, own).unwrap();
    w.attach(0, attach("demo", "c2")).unwrap();
    assert_eq!(w.told(0).doors.len(), 1);
    w.restart(0);
    assert_eq!(w.told(0).doors.len(), 1);
    told_of(&w, 0, &["c1", "c2"]);
}

#[test]
fn a_network_that_becomes_internal_is_told_again_and_its_labels_are_not() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    let before = w.told(0).news;
    let change = |internal, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let net = "demo".to_owned();
        Request::ChangeNetwork(ChangeNetwork { net, internal, labels, ..Default::default() })
    };
    w.request(0, change(None, &[("a", "b")])).unwrap();
    assert_eq!(w.told(0).news, before);
    w.request(0, change(Some(true), &[])).unwrap();
    assert_eq!(w.told(0).news, before + 1);
    let net = w.net(0, "demo");
    assert!(w.told(0).networks[&net].internal);
    told_of(&w, 0, &["c1"]);
}

#[test]
fn an_attach_is_replied_to_when_its_name_is_told() {
    let mut w = World::new(1);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.kernel(0).netns.insert("/run/netns/c1".into());
    let request = Event::Request {
        token: 900,
        fresh: 5,
        request: Box::new(Request::Attach(attach("demo", "c1"))),
    };
    let now = w.now();
    let mut todo = w.engine(0).step(request, now);
    let mut order = Vec::new();
    // Everything is carried out, and the effects are noted in their order.
    for _ in 0..20 {
        let Some(effect) = (!todo.is_empty()).then(|| todo.remove(0)) else { break };
        let now = Now { mono: now.mono, wall_ms: now.wall_ms };
        match effect {
            Effect::Persist { id, .. } => {
                let more = w.engine(0).step(Event::Persisted { id, result: Ok(()) }, now);
                todo.splice(0..0, more);
            }
            Effect::Apply { plan, ops } => {
                let (changes, report) = w.kernel(0).apply(&ops);
                for change in changes {
                    todo.extend(w.engine(0).step(Event::Kernel(change), now));
                }
                todo.extend(w.engine(0).step(Event::Applied { plan, report }, now));
            }
            Effect::Names(news) => order.extend(news.iter().map(|news| match news {
                NameNews::Door { .. } => "door",
                NameNews::Endpoint { .. } => "endpoint",
                _ => "other",
            })),
            Effect::Reply { .. } => order.push("reply"),
            _ => {}
        }
    }
    order.retain(|what| *what != "other");
    assert_eq!(order, ["endpoint", "door", "reply"]);
}
