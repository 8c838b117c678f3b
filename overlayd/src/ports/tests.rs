use std::net::{TcpListener, UdpSocket};

use super::*;

fn publish(text: &str) -> Publish {
    text.parse().unwrap()
}

/// A port that nobody has, most likely: somebody has just had it.
fn free() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[test]
fn a_port_is_held_as_long_as_it_is_published() {
    let (ports, port) = (Ports::default(), free());
    let wanted = publish(&format!("{port}:80"));
    let claim = ports.claim(&mut [wanted]).unwrap();
    assert!(!is_free(port));
    assert_eq!(ports.hold(&[wanted]), []);
    drop(claim);
    assert!(!is_free(port), "it is published");
    assert_eq!(ports.hold(&[]), []);
    assert!(is_free(port));
}

#[test]
fn a_claim_that_comes_to_nothing_lets_the_port_go() {
    let (ports, port) = (Ports::default(), free());
    let wanted = publish(&format!("{port}:80"));
    drop(ports.claim(&mut [wanted]).unwrap());
    assert!(is_free(port));
}

#[test]
fn any_free_port_is_chosen_and_said() {
    let ports = Ports::default();
    let mut wanted = [publish("80"), publish("127.0.0.1:0:53/udp")];
    let _claim = ports.claim(&mut wanted).unwrap();
    assert!(wanted.iter().all(|publish| publish.host_port > 0), "{wanted:?}");
    assert!(!is_free(wanted[0].host_port));
}

#[test]
fn who_has_a_port_is_named_and_nothing_is_held() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = there.local_addr().unwrap().port();
    let (ports, port) = (Ports::default(), free());
    let mut wanted = [publish(&format!("{port}:80")), publish(&format!("{taken}:81"))];
    let refused = ports.claim(&mut wanted).unwrap_err();
    assert!(refused.by_us, "this process has it");
    let text = refused.to_string();
    assert!(text.starts_with(&format!("port {taken}/tcp is taken by ")), "{text}");
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(is_free(port), "the first of them");
    let there = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = there.local_addr().unwrap().port();
    let refused = ports.claim(&mut [publish(&format!("127.0.0.1:{taken}:53/udp"))]).unwrap_err();
    assert!(refused.to_string().contains("(pid "), "{refused}");
}

#[test]
fn one_that_is_ours_already_is_the_engines_to_judge() {
    let (ports, port) = (Ports::default(), free());
    let wide = publish(&format!("{port}:80"));
    let _held = ports.claim(&mut [wide]).unwrap();
    ports.hold(&[wide]);
    drop(ports.claim(&mut [wide]).unwrap());
    assert!(!is_free(port), "the second claim was for the same");
    let narrow = publish(&format!("127.0.0.1:{port}:80"));
    assert!(ports.claim(&mut [narrow]).unwrap_err().by_us);
}

#[test]
fn an_address_of_another_host_cannot_be_had() {
    let refused = Ports::default().claim(&mut [publish("203.0.113.9:8080:80")]).unwrap_err();
    assert!(refused.to_string().contains("203.0.113.9 is no address of this host"), "{refused}");
}

#[test]
fn what_cannot_be_held_after_a_restart_is_told_once_and_stays_known() {
    let there = TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = publish(&format!("{}:80", there.local_addr().unwrap().port()));
    let ports = Ports::default();
    assert_eq!(ports.hold(&[taken]).len(), 1);
    assert_eq!(ports.hold(&[taken]), []);
    assert_eq!(ports.warnings().len(), 1);
    drop(there);
    assert_eq!(ports.hold(&[taken]), []);
    assert_eq!(ports.warnings(), Vec::<String>::new());
}

#[test]
fn addresses_are_read_as_the_kernel_writes_them() {
    assert_eq!(local_of("0100007F:1F90"), Some(("127.0.0.1".parse().unwrap(), 8080)));
    assert_eq!(
        local_of("B80D0120000000000000000001000000:0035"),
        Some(("2001:db8::1".parse().unwrap(), 53))
    );
    assert_eq!(local_of("zz:1"), None);
    assert_eq!(local_of("00:1"), None);
}
