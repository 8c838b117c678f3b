use proptest::prelude::*;

use super::*;

const NET: NetworkId = NetworkId(7);

fn host(n: u8) -> HostId {
    HostId(uuid::Uuid::from_u128(u128::from(n)))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn view() -> ClusterView {
    let patience = Patience { down_after: secs(1), down_grace: secs(10), stop_grace: secs(600) };
    ClusterView::new(host(0), patience)
}

fn host_record(n: u8, intent: HostIntent) -> Record {
    Record::Host(Host {
        id: host(n),
        name: Name::new(&format!("h{n}")).unwrap(),
        vteps: vec![IpAddr::from([192, 0, 2, n])],
        vxlan_port: 4789,
        gossip: ([192, 0, 2, n], 7946).into(),
        underlay_mtu: 1500,
        version: "0".into(),
        intent,
    })
}

fn endpoint(id: u64, octet: u8, move_seq: u32) -> Endpoint {
    let ip = std::net::Ipv4Addr::new(10, 9, 0, octet);
    Endpoint {
        id: EndpointId::from_bits(id),
        network: NET,
        name: None,
        aliases: BTreeSet::new(),
        mac: MacAddr::of_ipv4(ip),
        addresses: vec![ip.into()],
        labels: BTreeMap::new(),
        ports: Vec::new(),
        move_seq,
        attached_ms: 0,
    }
}

fn add(view: &mut ClusterView, n: u8, life: u64, ep: Endpoint, now: Duration) {
    let key = RecordKey::Endpoint(NET, ep.id);
    view.set_record(host(n), life, key, Some(Record::Endpoint(ep)), now);
}

fn speak(view: &mut ClusterView, n: u8, life: u64, intent: HostIntent, now: Duration) {
    view.set_record(host(n), life, RecordKey::Host, Some(host_record(n, intent)), now);
}

/// A host that is up with one endpoint.
fn up(view: &mut ClusterView, n: u8, octet: u8) {
    add(view, n, 1, endpoint(u64::from(n), octet, 0), secs(0));
    speak(view, n, 1, HostIntent::Up, secs(0));
    view.set_alive(host(n), 1, true, secs(0));
}

fn active(view: &ClusterView) -> Vec<(HostId, EndpointId)> {
    view.active_on(NET).map(|(h, ep)| (h, ep.id)).collect()
}

fn state(view: &ClusterView, n: u8) -> (&'static str, bool) {
    let presence = view.presence(host(n)).unwrap();
    (presence.state.as_str(), presence.in_use)
}

#[test]
fn suspicion_moves_nothing_and_only_down_beyond_the_grace_does() {
    let mut view = view();
    up(&mut view, 1, 5);
    view.set_alive(host(1), 1, false, secs(100));
    assert_eq!((state(&view, 1), active(&view).len()), (("suspect", true), 1));
    assert_eq!(view.next_deadline(), Some(secs(101)));
    view.tick(secs(101));
    assert_eq!((state(&view, 1), active(&view).len()), (("down", true), 1));
    view.tick(secs(110));
    assert_eq!(active(&view).len(), 1);
    view.tick(secs(111));
    assert_eq!((state(&view, 1), active(&view).len()), (("down", false), 0));
    assert_eq!(view.next_deadline(), None);
}

#[test]
fn a_host_that_is_heard_again_has_its_entries_at_once() {
    let mut view = view();
    up(&mut view, 1, 5);
    view.set_alive(host(1), 1, false, secs(100));
    view.tick(secs(101));
    view.tick(secs(111));
    assert_eq!(active(&view).len(), 0);
    view.set_alive(host(1), 1, true, secs(200));
    assert_eq!((state(&view, 1), active(&view).len()), (("up", true), 1));
}

#[test]
fn a_stopped_host_keeps_its_entries_longer() {
    let mut view = view();
    up(&mut view, 1, 5);
    speak(&mut view, 1, 1, HostIntent::Stopped, secs(100));
    view.set_alive(host(1), 1, false, secs(101));
    view.tick(secs(130));
    assert_eq!((state(&view, 1), active(&view).len()), (("stopped", true), 1));
    view.tick(secs(702));
    assert_eq!((state(&view, 1), active(&view).len()), (("stopped", false), 0));
}

#[test]
fn a_host_that_leaves_loses_its_entries_at_once() {
    let mut view = view();
    up(&mut view, 1, 5);
    speak(&mut view, 1, 1, HostIntent::Left, secs(100));
    assert_eq!((state(&view, 1), active(&view).len()), (("left", false), 0));
    assert_eq!(view.remote_endpoints().count(), 0);
}

#[test]
fn a_restart_leaves_no_gap_and_drops_what_did_not_come_back() {
    let mut view = view();
    up(&mut view, 1, 5);
    add(&mut view, 1, 1, endpoint(20, 6, 0), secs(0));
    // The new life says one endpoint of two, then that it has said all.
    add(&mut view, 1, 2, endpoint(1, 5, 0), secs(50));
    assert_eq!(active(&view).len(), 2, "the former life speaks until then");
    view.set_alive(host(1), 1, false, secs(51));
    assert_eq!(active(&view).len(), 2);
    speak(&mut view, 1, 2, HostIntent::Up, secs(52));
    assert_eq!(active(&view), vec![(host(1), EndpointId::from_bits(1))]);
    // What the former life still says is not heard.
    add(&mut view, 1, 1, endpoint(20, 6, 0), secs(53));
    assert_eq!(active(&view).len(), 1);
}

#[test]
fn a_host_heard_of_but_never_heard_goes_down() {
    let mut view = view();
    add(&mut view, 1, 1, endpoint(1, 5, 0), secs(0));
    speak(&mut view, 1, 1, HostIntent::Up, secs(0));
    assert_eq!(state(&view, 1), ("up", true));
    let mut now;
    for _ in 0..5 {
        let Some(at) = view.next_deadline() else { break };
        now = at;
        view.tick(now);
    }
    assert_eq!(state(&view, 1), ("down", false));
}

#[test]
fn the_larger_move_sequence_wins_then_the_lower_host() {
    let mut view = view();
    up(&mut view, 1, 5);
    up(&mut view, 2, 5);
    let mac = endpoint(0, 5, 0).mac;
    assert_eq!(view.mac_winner(NET, mac).unwrap().0, host(1));
    add(&mut view, 2, 1, endpoint(2, 5, 1), secs(1));
    assert_eq!(view.mac_winner(NET, mac).unwrap().0, host(2));
    assert_eq!(view.ip_winner(NET, IpAddr::from([10, 9, 0, 5])).unwrap().0, host(2));
    view.set_record(host(2), 1, RecordKey::Endpoint(NET, EndpointId::from_bits(2)), None, secs(2));
    assert_eq!(view.mac_winner(NET, mac).unwrap().0, host(1));
}

#[test]
fn a_record_that_does_not_fit_its_key_changes_nothing() {
    let mut view = view();
    up(&mut view, 1, 5);
    let key = RecordKey::Endpoint(NET, EndpointId::from_bits(99));
    view.set_record(host(1), 1, key, Some(Record::Endpoint(endpoint(1, 9, 0))), secs(1));
    view.set_record(host(1), 1, RecordKey::Host, Some(host_record(2, HostIntent::Left)), secs(1));
    assert_eq!(active(&view), vec![(host(1), EndpointId::from_bits(1))]);
}

/// A life at another address says what it has.
fn speak_at(view: &mut ClusterView, n: u8, life: u64, octet: u8, now: Duration) {
    let Record::Host(record) = host_record(n, HostIntent::Up) else { unreachable!() };
    let vteps = vec![IpAddr::from([192, 0, 2, octet])];
    let record = Record::Host(Host { vteps, ..record });
    view.set_record(host(n), life, RecordKey::Host, Some(record), now);
}

fn vtep(view: &ClusterView, n: u8) -> String {
    view.host(host(n)).unwrap().vteps[0].to_string()
}

#[test]
fn a_copy_that_starts_later_takes_nothing_from_the_original_and_nor_does_its_end() {
    let mut view = view();
    up(&mut view, 1, 5);
    // The copy has no containers, a larger incarnation, and an address of its own.
    speak_at(&mut view, 1, 2, 99, secs(10));
    view.set_alive(host(1), 2, true, secs(11));
    assert_eq!((vtep(&view, 1).as_str(), active(&view).len()), ("192.0.2.1", 1));
    // A blip of the original's hearing, and the copy speaks; it does not flip back.
    view.set_alive(host(1), 1, false, secs(20));
    assert_eq!((vtep(&view, 1).as_str(), active(&view).len()), ("192.0.2.99", 0));
    view.set_alive(host(1), 1, true, secs(21));
    view.set_alive(host(1), 2, true, secs(21));
    assert_eq!(vtep(&view, 1), "192.0.2.99");
}

#[test]
fn when_the_copy_goes_the_original_has_its_entries_again() {
    let mut view = view();
    speak_at(&mut view, 1, 2, 99, secs(0));
    view.set_alive(host(1), 2, true, secs(1));
    up(&mut view, 1, 5);
    assert_eq!((vtep(&view, 1).as_str(), active(&view).len()), ("192.0.2.99", 0));
    let shifts = view.set_alive(host(1), 2, false, secs(20));
    assert!(shifts.contains(&Shift::Voice(host(1), vec![IpAddr::from([192, 0, 2, 99])])));
    assert_eq!((vtep(&view, 1).as_str(), active(&view).len()), ("192.0.2.1", 1));
    assert_eq!(state(&view, 1), ("up", true));
    view.forget(host(1), 2, secs(900));
    assert_eq!(vtep(&view, 1), "192.0.2.1");
}

#[test]
fn a_host_that_moved_is_followed_when_its_former_life_is_silent() {
    let mut view = view();
    up(&mut view, 1, 5);
    add(&mut view, 1, 2, endpoint(1, 5, 0), secs(10));
    speak_at(&mut view, 1, 2, 99, secs(10));
    assert_eq!(vtep(&view, 1), "192.0.2.1");
    let shifts = view.set_alive(host(1), 1, false, secs(11));
    assert_eq!((vtep(&view, 1).as_str(), active(&view).len()), ("192.0.2.99", 1));
    assert_eq!(shifts, [Shift::Voice(host(1), vec![IpAddr::from([192, 0, 2, 1])])]);
}

#[test]
fn a_dead_life_that_one_hears_of_first_keeps_nobody_waiting() {
    let mut view = view();
    speak(&mut view, 1, 1, HostIntent::Up, secs(0));
    speak_at(&mut view, 1, 2, 99, secs(0));
    view.set_alive(host(1), 2, true, secs(1));
    assert_eq!(vtep(&view, 1), "192.0.2.99");
}

#[test]
fn what_a_new_stream_of_gossip_does_not_tell_again_is_gone() {
    let mut view = view();
    up(&mut view, 1, 5);
    up(&mut view, 2, 6);
    add(&mut view, 1, 1, endpoint(20, 7, 0), secs(0));
    view.begin_anew(secs(50));
    assert_eq!((active(&view).len(), state(&view, 2)), (3, ("up", true)));
    // Host 1 is told of again, without one endpoint; host 2 is not there any more.
    add(&mut view, 1, 1, endpoint(1, 5, 0), secs(51));
    assert_eq!(active(&view).len(), 3, "half of it says nothing yet");
    speak(&mut view, 1, 1, HostIntent::Up, secs(51));
    view.set_alive(host(1), 1, true, secs(51));
    assert_eq!(active(&view).len(), 2);
    while let Some(at) = view.next_deadline() {
        view.tick(at);
    }
    assert_eq!((state(&view, 1), state(&view, 2)), (("up", true), ("down", false)));
}

#[derive(Debug, Clone)]
enum Said {
    Endpoint(u8, u64, Option<u8>),
    Spoke(u8),
}

proptest! {
    /// Records of one host arrive in order; those of different hosts in any.
    #[test]
    fn the_interleaving_of_hosts_does_not_matter(
        said in prop::collection::vec(
            prop_oneof![
                (1u8..4, 1u64..4, prop::option::of(2u8..6))
                    .prop_map(|(h, id, octet)| Said::Endpoint(h, id, octet)),
                (1u8..4).prop_map(Said::Spoke),
            ],
            0..40,
        ),
    ) {
        let play = |order: &[Said]| {
            let mut view = view();
            for said in order {
                match said {
                    Said::Endpoint(h, id, Some(octet)) => {
                        add(&mut view, *h, 1, endpoint(*id, *octet, 0), secs(0));
                    }
                    Said::Endpoint(h, id, None) => {
                        let key = RecordKey::Endpoint(NET, EndpointId::from_bits(*id));
                        view.set_record(host(*h), 1, key, None, secs(0));
                    }
                    Said::Spoke(h) => speak(&mut view, *h, 1, HostIntent::Up, secs(0)),
                }
            }
            let macs: Vec<MacAddr> = view.macs_on(NET).collect();
            let winners: Vec<_> = macs
                .iter()
                .map(|mac| view.mac_winner(NET, *mac).map(|(h, ep)| (h, ep.id)))
                .collect();
            (active(&view), macs, winners)
        };
        let mut by_host = said.clone();
        by_host.sort_by_key(|s| match s { Said::Endpoint(h, ..) | Said::Spoke(h) => *h });
        let mut repeated = Vec::new();
        for s in &by_host {
            repeated.push(s.clone());
            repeated.push(s.clone());
        }
        prop_assert_eq!(play(&said), play(&by_host));
        prop_assert_eq!(play(&said), play(&repeated));
    }
}
