use std::path::Path;
use std::time::Duration;

use overlay_model::{ObjectKey, Refusal};

use crate::event::{Attach, ErrorKind, Notice, Where};
use crate::tests::world::{World, attach, create};
use crate::views::{EndpointState, EndpointView};

/// c1 on the first host, c2 on the second.
fn pair() -> World {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.attach(0, attach("demo", "c1")).unwrap();
    w.attach(1, attach("demo", "c2")).unwrap();
    w
}

/// The container of `name` on the first host dies, and its veth pair with it.
fn dies(w: &mut World, name: &str) {
    let view = view(w, name);
    w.kernel(0).netns.remove(Path::new(&format!("/run/netns/{name}")));
    w.meddle(0, ObjectKey::Link(view.endpoint.id.ifname()), None);
}

#[track_caller]
fn view(w: &mut World, name: &str) -> EndpointView {
    let all = w.endpoints(0);
    let found =
        all.into_iter().find(|v| v.endpoint.name.as_ref().is_some_and(|n| n.as_str() == name));
    found.unwrap_or_else(|| panic!("no endpoint {name}"))
}

/// As `attach`, without a name, from a namespace of that path.
fn unnamed(path: &str) -> Attach {
    let mut request = attach("demo", "c1");
    request.name = None;
    let Where::Netns { netns, .. } = &mut request.place else { panic!("a namespace") };
    netns.path = path.into();
    netns.cookie = 2;
    request
}

#[test]
fn of_what_is_gone_nothing_is_lost_before_the_grace_is_over() {
    let mut w = pair();
    let before = view(&mut w, "c1").endpoint;
    dies(&mut w, "c1");
    let gone = view(&mut w, "c1");
    assert_eq!(gone.endpoint, before);
    let EndpointState::Gone(since, why) = &gone.state else { panic!("{:?}", gone.state) };
    assert!(*since > 0);
    assert_eq!(why, "its network namespace is gone; it is released in 60 s");
    assert!(matches!(w.notices(0).last(), Some(Notice::Gone { .. })), "{:?}", w.notices(0));
    w.pass(Duration::from_secs(59));
    assert_eq!(view(&mut w, "c1").endpoint, before);
    assert!(w.endpoints(1).iter().any(|v| v.endpoint == before), "the others have it too");
    assert!(w.plan_is_empty(0), "nothing is tried again and again");
    // Nobody else gets its address or name.
    let mut other = attach("demo", "c3");
    other.ips = before.addresses.clone();
    let refused = w.attach(0, other).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken);
    assert!(refused.hint.as_ref().unwrap().contains("overlayctl detach c1"), "{refused:?}");

    w.pass(Duration::from_secs(2));
    assert!(w.endpoints(0).iter().all(|v| v.endpoint.id != before.id), "released");
    assert!(w.endpoints(1).iter().all(|v| v.endpoint.id != before.id), "and withdrawn");
    let Some(Notice::Detached { id, why, .. }) = w.notices(0).last() else { panic!("not told") };
    assert_eq!((*id, *why), (before.id, "its network namespace is gone, and the grace is over"));
    let mut other = attach("demo", "c3");
    other.ips = before.addresses.clone();
    w.attach(0, other).unwrap();
    w.assert_kernels_match_the_cluster();
}

#[test]
fn attached_again_by_its_name_it_is_where_it_was_at_once() {
    let mut w = pair();
    let before = view(&mut w, "c1").endpoint;
    dies(&mut w, "c1");
    let after = w.attach(0, attach("demo", "c1")).unwrap().endpoint;
    assert_eq!((&after.addresses, after.mac), (&before.addresses, before.mac));
    assert_ne!(after.id, before.id, "who detaches the old one by its id does not hit this one");
    assert_eq!(w.endpoints(0).len(), 2, "{:#?}", w.endpoints(0));
    assert_eq!(w.endpoints(1).len(), 3, "the old record stays until the new one has come");
    w.pass(Duration::from_secs(2));
    assert_eq!(w.endpoints(1).len(), 2);
    w.pass(Duration::from_secs(120));
    assert_eq!(view(&mut w, "c1").endpoint, after, "no grace ends it");
    assert_eq!(view(&mut w, "c1").state, EndpointState::Ready);
    w.assert_no_address_is_given_twice();
    w.assert_kernels_match_the_cluster();
    // The state file has the new one alone.
    w.restart(0);
    assert_eq!(view(&mut w, "c1").endpoint, after);
    assert_eq!(w.endpoints(0).len(), 2);
}

#[test]
fn another_address_may_be_asked_for_and_the_old_one_is_free_then() {
    let mut w = pair();
    let before = view(&mut w, "c1").endpoint;
    dies(&mut w, "c1");
    let mut elsewhere = attach("demo", "c1");
    elsewhere.ips = vec!["10.9.0.99".parse().unwrap()];
    let after = w.attach(0, elsewhere).unwrap().endpoint;
    assert_eq!(after.addresses, ["10.9.0.99".parse::<std::net::IpAddr>().unwrap()]);
    assert_ne!(after.mac, before.mac, "who gets the address next gets its MAC, too");
    let mut other = attach("demo", "c3");
    other.ips = before.addresses.clone();
    assert_eq!(w.attach(0, other).unwrap().endpoint.mac, before.mac);
}

#[test]
fn a_path_says_who_it_is_where_no_name_does_but_not_that_of_a_process() {
    let mut w = pair();
    let before = view(&mut w, "c1").endpoint;
    dies(&mut w, "c1");
    w.kernel(0).netns.extend(["/run/netns/c1", "/run/netns/cx", "/proc/7/ns/net"].map(Into::into));
    let stranger = w.attach_at(0, unnamed("/run/netns/cx")).unwrap().endpoint;
    assert_ne!(stranger.addresses, before.addresses);
    let after = w.attach_at(0, unnamed("/run/netns/c1")).unwrap().endpoint;
    assert_eq!((&after.addresses, after.mac), (&before.addresses, before.mac));
    assert_eq!(after.name, before.name);

    let process = w.attach_at(0, unnamed("/proc/7/ns/net")).unwrap().endpoint;
    w.kernel(0).netns.remove(Path::new("/proc/7/ns/net"));
    w.meddle(0, ObjectKey::Link(process.id.ifname()), None);
    w.kernel(0).netns.insert("/proc/7/ns/net".into());
    let another = w.attach_at(0, unnamed("/proc/7/ns/net")).unwrap().endpoint;
    assert_ne!(another.addresses, process.addresses, "the number is another process's by now");
}

#[test]
fn what_does_not_come_about_leaves_it_gone_as_it_was() {
    let mut w = pair();
    let before = view(&mut w, "c1").endpoint;
    dies(&mut w, "c1");
    // No such namespace, and then no room in the state file.
    assert_eq!(w.attach_at(0, attach("demo", "c1")).unwrap_err().kind, ErrorKind::NotFound);
    assert!(matches!(view(&mut w, "c1").state, EndpointState::Gone(..)));
    w.disk_full(0, true);
    assert_eq!(w.attach(0, attach("demo", "c1")).unwrap_err().kind, ErrorKind::Unavailable);
    w.disk_full(0, false);
    let gone = view(&mut w, "c1");
    assert_eq!(gone.endpoint, before);
    assert!(matches!(gone.state, EndpointState::Gone(..)));
    let after = w.attach(0, attach("demo", "c1")).unwrap().endpoint;
    assert_eq!(after.addresses, before.addresses);
    w.assert_kernels_match_the_cluster();
}

#[test]
fn detached_while_it_is_gone_it_goes_at_once() {
    let mut w = pair();
    dies(&mut w, "c1");
    w.detach(0, "c1").unwrap();
    assert_eq!(w.endpoints(0).len(), 1);
    w.pass(Duration::from_secs(120));
    w.attach(0, attach("demo", "c1")).unwrap();
    w.assert_kernels_match_the_cluster();
}

#[test]
fn taken_over_elsewhere_nothing_is_left_of_it_here() {
    let mut w = pair();
    let before = view(&mut w, "c1").endpoint;
    dies(&mut w, "c1");
    let mut over = attach("demo", "c1");
    over.take_over = true;
    let after = w.attach(1, over).unwrap().endpoint;
    assert_eq!((after.mac, &after.addresses), (before.mac, &before.addresses));
    let here: Vec<_> = w.endpoints(0).into_iter().filter(|v| v.local).collect();
    assert_eq!(here, vec![]);
    w.assert_no_address_is_given_twice();
}

#[test]
fn a_restart_of_the_daemon_forgets_what_is_gone_as_ever() {
    let mut w = pair();
    dies(&mut w, "c1");
    w.loses_namespaces(0);
    w.restart(0);
    w.pass(Duration::from_secs(5));
    assert!(w.endpoints(0).iter().all(|v| !v.local));
}

#[test]
fn a_refusal_of_another_kind_is_no_loss() {
    let mut w = pair();
    let id = view(&mut w, "c1").endpoint.id;
    let key = ObjectKey::Link(id.ifname());
    w.refuse(0, key.clone(), Some(Refusal::Busy));
    w.meddle(0, key.clone(), None);
    assert!(matches!(view(&mut w, "c1").state, EndpointState::Failed(_)));
    w.refuse(0, key, None);
    w.pass(Duration::from_secs(60));
    assert_eq!(view(&mut w, "c1").state, EndpointState::Ready);
}
