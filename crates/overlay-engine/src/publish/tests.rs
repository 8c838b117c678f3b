use std::time::Duration;

use super::*;
use crate::event::Request;
use crate::tests::world::{World, attach, create};

fn with_ports(name: &str, ports: &[&str], aliases: &[&str]) -> Attach {
    Attach {
        ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
        aliases: aliases.iter().map(|alias| Name::new(alias).unwrap()).collect(),
        ..attach("demo", name)
    }
}

fn world(hosts: usize) -> World {
    let mut w = World::new(hosts);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w
}

/// Where the ports of host `i` lead, by what its kernel was told.
fn leads(w: &mut World, i: usize) -> Vec<String> {
    let views = match w.request(i, Request::Ports).unwrap() {
        Reply::Ports(views) => views,
        other => panic!("{other:?}"),
    };
    views.iter().map(|view| format!("{} {:?}", view.publish, view.to)).collect()
}

#[test]
fn a_published_port_is_held_and_leads_to_its_endpoint_until_it_goes() {
    let mut w = world(1);
    w.attach(0, with_ports("web", &["8080:80", "53:5353/udp"], &[])).unwrap();
    assert_eq!(w.held(0), ["8080:80/tcp", "53:5353/udp"]);
    assert_eq!(leads(&mut w, 0), ["8080:80/tcp [10.9.0.2:80]", "53:5353/udp [10.9.0.2:5353]"]);
    w.detach(0, "web").unwrap();
    assert_eq!(w.held(0), Vec::<String>::new());
    assert_eq!(leads(&mut w, 0), Vec::<String>::new());
}

#[test]
fn ports_that_cannot_be_are_refused_and_nothing_stays() {
    let mut w = world(2);
    w.attach(0, with_ports("web", &["8080:80"], &[])).unwrap();
    let refused = |w: &mut World, i: usize, ports: &[&str]| {
        w.attach(i, with_ports("x", ports, &[])).unwrap_err().message
    };
    assert!(refused(&mut w, 0, &["8080:81"]).contains("published by endpoint web on host"));
    assert!(refused(&mut w, 0, &["1.2.3.4:8080:81"]).contains("published by endpoint web"));
    assert!(refused(&mut w, 0, &["8081:81", "8081:82"]).contains("claim the same port"));
    assert!(refused(&mut w, 0, &["[fd00::1]:8081:81"]).contains("no such addresses"));
    assert!(refused(&mut w, 0, &["4789:1/udp"]).contains("VXLAN"));
    assert!(refused(&mut w, 0, &["1000-3000:1000-3000"]).contains("too many"));
    // Of another host it is another port, unless it is every host's.
    assert!(refused(&mut w, 1, &["8080:80,mode=cluster"]).contains("published by endpoint web"));
    w.attach(1, with_ports("y", &["8080:80"], &[])).unwrap();
    assert_eq!(w.held(0), ["8080:80/tcp"]);
}

#[test]
fn a_disk_that_is_full_changes_no_port() {
    let mut w = world(1);
    w.attach(0, with_ports("web", &["8080:80"], &[])).unwrap();
    w.disk_full(0, true);
    let change = ChangePorts::Add(vec!["9090:90".parse().unwrap()]);
    let ask = |change| Request::ChangePorts { target: "web".into(), net: None, change };
    let refused = w.request(0, ask(change.clone())).unwrap_err();
    assert!(refused.message.starts_with("cannot write the state file"), "{refused}");
    assert_eq!(w.held(0), ["8080:80/tcp"]);
    w.disk_full(0, false);
    w.request(0, ask(change)).unwrap();
    assert_eq!(w.held(0), ["8080:80/tcp", "9090:90/tcp"]);
    w.request(0, ask(ChangePorts::Remove(vec![(Protocol::Tcp, 8080)]))).unwrap();
    assert_eq!(w.held(0), ["9090:90/tcp"]);
    w.request(0, ask(ChangePorts::Remove(Vec::new()))).unwrap();
    assert_eq!(w.held(0), Vec::<String>::new());
}

#[test]
fn a_port_of_the_cluster_is_every_hosts_as_long_as_somebody_publishes_it() {
    let mut w = world(3);
    w.pass(Duration::from_secs(20));
    w.attach(0, with_ports("w1", &["80:8080,mode=cluster"], &["web"])).unwrap();
    w.attach(1, with_ports("w2", &[], &["web"])).unwrap();
    w.pass(Duration::from_secs(2));
    let first = leads(&mut w, 0);
    assert!(
        first[0].contains("10.9.0.2:8080") && first[0].contains("10.9.0.130:8080"),
        "{first:?}"
    );
    for i in 0..3 {
        assert_eq!(w.held(i), ["80:8080/tcp,mode=cluster"], "host {i}");
        assert_eq!(leads(&mut w, i), first, "host {i}");
    }
    w.assert_kernels_match_the_cluster();
    // The host without any container has an endpoint of its own there.
    let own = w.endpoints(2);
    assert_eq!(own.iter().filter(|view| is_own(&view.endpoint)).count(), 3, "{own:?}");
    w.detach(0, "w1").unwrap();
    w.pass(Duration::from_secs(2));
    let left = w.endpoints(2);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(w.held(2), Vec::<String>::new());
    assert_eq!(w.kernel(2).objects().len(), 0);
}

fn rename(target: &str, name: Option<&str>, aliases: Option<&[&str]>) -> Request {
    let names = |all: &[&str]| all.iter().map(|a| Name::new(a).unwrap()).collect();
    let change = crate::event::ChangeEndpoint {
        name: name.map(|name| Name::new(name).unwrap()),
        aliases: aliases.map(names),
        labels: None,
    };
    Request::ChangeEndpoint { target: target.into(), net: None, change }
}

#[test]
fn an_endpoint_gets_another_name_and_aliases_and_all_hosts_follow() {
    let mut w = World::new(2);
    w.create(0, create("demo", 7, "10.9.0.0/24")).unwrap();
    w.pass(Duration::from_secs(20));
    w.attach(0, attach("demo", "c0")).unwrap();
    w.attach(1, attach("demo", "c1")).unwrap();
    let service = crate::services::CreateService {
        net: "demo".into(),
        name: Name::new("shop").unwrap(),
        alias: Name::new("web").unwrap(),
        ports: vec!["80".parse().unwrap()],
        vips: Vec::new(),
    };
    w.request(1, Request::CreateService(service)).unwrap();
    w.request(0, rename("c0", Some("front"), Some(&["web"]))).unwrap();
    w.pass(Duration::from_secs(3));
    for i in 0..2 {
        let names: Vec<String> = w
            .endpoints(i)
            .iter()
            .filter_map(|ep| ep.endpoint.name.as_ref().map(Name::to_string))
            .collect();
        assert!(names.contains(&"front".to_owned()) && !names.contains(&"c0".to_owned()), "{i}");
        w.assert_names_match(i);
    }
    w.assert_kernels_match_the_cluster();
    let behind = |w: &mut World| match w.request(1, Request::Services { net: None }).unwrap() {
        Reply::Services(views) => views[0].endpoints.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(behind(&mut w), 1);
    w.request(0, rename("front", None, Some(&[]))).unwrap();
    w.pass(Duration::from_secs(3));
    assert_eq!(behind(&mut w), 0);
    w.assert_kernels_match_the_cluster();
    // It is so after a restart, too.
    w.restart(0);
    w.pass(Duration::from_secs(20));
    w.request(0, rename("front", Some("front"), None)).unwrap();
    let refused = w.request(0, rename("front", Some("c1"), None)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken, "{refused}");
    let refused = w.request(0, rename("front", Some("shop"), None)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Taken, "{refused}");
    w.disk_full(0, true);
    let refused = w.request(0, rename("front", Some("later"), None)).unwrap_err();
    assert!(refused.message.starts_with("cannot write the state file"), "{refused}");
    let kept = Attach { keep_ip: true, ..attach("demo", "db") };
    w.disk_full(0, false);
    w.attach(0, kept).unwrap();
    let refused = w.request(0, rename("db", Some("other"), None)).unwrap_err();
    assert!(refused.message.contains("are kept for that name"), "{refused}");
}
