//! Doors in namespaces, on the kernel that runs this.
//!
//! ```text
//!   Container: 0.0.0.0:53 its own server ── 127.0.0.11:53 ─► table ip overlayd ─► ours
//! ```

// Shared with the other tests of the kernel, which need more of it.
#[allow(dead_code)]
mod lab;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use lab::{Container, eventually, lab, run};
use overlay_netlink::{
    DoorError, close_all_doors, close_door, gateway_sockets, is_used, open_door,
};

/// Says `text` to 127.0.0.11:53 by UDP from a container, and prints what comes back.
fn ask(container: &Container, text: &str) -> String {
    container.run(&format!(
        "python3 -c \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
         s.settimeout(5); s.sendto(b'{text}', ('127.0.0.11', 53)); \
         d, a = s.recvfrom(99); print(d.decode(), a[0], a[1])\""
    ))
}

#[test]
fn what_is_sent_to_port_53_comes_to_our_sockets_whatever_the_container_listens_at() {
    lab(async {
        let container = Container::new();
        let ours = open_door(&container.netns()).unwrap();
        ours.udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 99];
            let (length, from) = ours.udp.recv_from(&mut buffer).unwrap();
            ours.udp.send_to(&[b"ours:", &buffer[..length]].concat(), from).unwrap();
            let (mut stream, _) = ours.tcp.accept().unwrap();
            stream.read_exact(&mut buffer[..3]).unwrap();
            stream.write_all(b"tcp").unwrap();
        });
        // Somebody else has the port, at all addresses.
        let theirs = "import socket; t = socket.socket(); t.bind(('0.0.0.0', 53)); t.listen(); \
                      u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('0.0.0.0', 53))";
        container.run(&format!("python3 -c \"{theirs}\""));
        assert_eq!(ask(&container, "hello").trim(), "ours:hello 127.0.0.11 53");
        let said = container.run(
            "python3 -c \"import socket; s = socket.create_connection(('127.0.0.11', 53), 5); \
             s.sendall(b'abc'); print(s.recv(9).decode())\"",
        );
        assert_eq!(said.trim(), "tcp");
        answering.join().unwrap();
    });
}

#[test]
fn a_door_is_opened_again_with_other_ports_and_closed_without_a_trace() {
    lab(async {
        let container = Container::new();
        let before = container.run("nft list ruleset");
        let first = open_door(&container.netns()).unwrap();
        let again = open_door(&container.netns()).unwrap();
        let rules = container.run("nft list table ip overlayd");
        assert_eq!(rules.matches("dnat to 127.0.0.11").count(), 2, "{rules}");
        for (socket, protocol) in [(again.udp.local_addr(), "17"), (again.tcp.local_addr(), "6")] {
            let to = format!("dnat to {}", socket.unwrap());
            assert!(rules.contains(&to), "{protocol}: {rules}");
        }
        drop(first);
        close_door(&container.netns()).unwrap();
        assert_eq!(container.run("nft list ruleset"), before);
        close_door(&container.netns()).unwrap();
        let gone = container.netns();
        drop((container, again));
        close_door(&gone).unwrap();
        assert!(matches!(open_door(&gone), Err(DoorError::Netns(_) | DoorError::Another(_))));
    });
}

#[test]
fn a_path_that_another_namespace_has_now_is_not_entered() {
    lab(async {
        let (was, is) = (Container::new(), Container::new());
        let mut other = is.netns();
        other.cookie = was.netns().cookie;
        assert!(matches!(open_door(&other), Err(DoorError::Another(_))));
        open_door(&is.netns()).unwrap();
        close_door(&other).unwrap();
        assert!(is.run("nft list ruleset").contains("overlayd"), "it is not its");
    });
}

#[test]
fn all_doors_behind_ports_of_ours_are_closed_at_once_and_no_others() {
    lab(async {
        run("mkdir -p /run/netns && ip netns add one && ip netns add two && ip netns add three");
        let netns = |name: &str| overlay_netlink::netns_of(std::path::Path::new(name)).unwrap();
        let _open = ["one", "two", "three"].map(|name| open_door(&netns(name)).unwrap());
        for (n, name) in [(1, "one"), (2, "two")] {
            run(&format!(
                "ip link add ove00000000000{n} type veth peer name eth0 netns {name} && \
                 ip link set ove00000000000{n} alias overlayd:0000000000000001"
            ));
        }
        run("ip netns exec two nft add table ip theirs");
        assert_eq!(close_all_doors().await, 2);
        assert_eq!(run("ip netns exec one nft list ruleset"), "");
        assert_eq!(run("ip netns exec two nft list ruleset").trim(), "table ip theirs {\n}");
        assert!(run("ip netns exec three nft list ruleset").contains("overlayd"));
        assert_eq!(close_all_doors().await, 0);
    });
}

#[test]
fn a_namespace_is_used_while_it_has_a_name_or_a_process() {
    lab(async {
        run("mkdir -p /run/netns && ip netns add one");
        let netns = overlay_netlink::netns_of(std::path::Path::new("one")).unwrap();
        let door = open_door(&netns).unwrap();
        let mut last = None;
        assert!(is_used(door.inode, &mut last));
        assert_eq!(last, None, "by its name");
        let mut process = std::process::Command::new("ip")
            .args(["netns", "exec", "one", "cat"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        eventually("it is in there", || {
            let at = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            (at.to_str() == Some(&format!("net:[{}]", door.inode))).then_some(())
        })
        .await;
        run("ip netns del one");
        assert!(is_used(door.inode, &mut last));
        assert_eq!(last, Some(pid));
        drop(process.stdin.take());
        process.wait().unwrap();
        assert!(!is_used(door.inode, &mut last));
    });
}

#[test]
fn a_gateway_is_bound_before_its_address_is_there_and_beside_others_at_that_port() {
    lab(async {
        let theirs = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
        let (v4, tcp) = gateway_sockets("10.9.0.1".parse().unwrap()).unwrap();
        tcp.unwrap();
        let (v6, tcp) = gateway_sockets("fd00:9::1".parse().unwrap()).unwrap();
        tcp.unwrap();
        drop((theirs, v4, v6));
        // Somebody who has it at all addresses and shares nothing.
        let all = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
        let err = gateway_sockets("10.9.0.1".parse().unwrap()).unwrap_err();
        assert_eq!(err.kind(), std::io::ErrorKind::AddrInUse);
        drop(all);
        let (stays, _) = gateway_sockets("10.9.0.1".parse().unwrap()).unwrap();
        run("ip link add d0 type bridge && ip addr add 10.9.0.1/24 dev d0 && ip link set d0 up");
        stays.set_nonblocking(false).unwrap();
        stays.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let asker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        asker.send_to(b"x", "10.9.0.1:53").unwrap();
        assert_eq!(stays.recv(&mut [0; 9]).unwrap(), 1);
    });
}
