use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;

/// A daemon that takes connections one after the other; on each it answers one
/// request with each of the replies in turn, then hangs up.
struct Daemon {
    connection: Connection,
    requests: JoinHandle<Vec<String>>,
    _dir: TempDir,
}

impl Daemon {
    fn answering(connections: Vec<Vec<String>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("overlayd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let requests = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for replies in connections {
                let (mut stream, _) = listener.accept().unwrap();
                for reply in replies {
                    requests.push(read_request(&mut stream));
                    stream.write_all(reply.as_bytes()).unwrap();
                }
            }
            requests
        });
        Self { connection: Connection::new(&socket), requests, _dir: dir }
    }
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The request line and the body.
fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
                return format!("{line} {body}").trim_end().to_owned();
            }
        }
        let mut buffer = [0; 1000];
        let n = stream.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "half a request: {text}");
        bytes.extend(&buffer[..n]);
    }
}

#[test]
fn requests_share_a_connection_and_a_new_one_is_made_when_that_one_was_closed() {
    let closing = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]".to_owned();
    let mut daemon = Daemon::answering(vec![
        vec![http("200 OK", "[]"), http("404 Not Found", "{}"), closing],
        vec![http("200 OK", "[]")],
    ]);
    daemon.connection.labelled("cni=demo/c1/eth0").unwrap();
    let attach = v1::Attach { net: "demo".into(), ..Default::default() };
    daemon.connection.attach(&attach).unwrap_err();
    daemon.connection.ipam().unwrap();
    daemon.connection.labelled("cni").unwrap();
    expect![[r#"
        GET /v1/endpoints?local=true&label=cni%3Ddemo%2Fc1%2Feth0
        POST /v1/endpoints {"net":"demo"}
        GET /v1/ipam
        GET /v1/endpoints?local=true&label=cni
    "#]]
    .assert_eq(&(daemon.requests.join().unwrap().join("\n") + "\n"));
}

#[track_caller]
fn check(reply: String, expected: Expect) {
    let mut daemon = Daemon::answering(vec![vec![reply]]);
    let error = daemon.connection.ipam().unwrap_err();
    let text = format!("{error}\n");
    expected.assert_eq(&text.replace(&daemon.connection.socket.display().to_string(), "SOCKET"));
}

#[test]
fn what_is_wrong_with_a_reply_is_said() {
    check(
        http("409 Conflict", r#"{"code": "taken", "message": "10.0.9.2 is taken"}"#),
        expect![[r#"
            10.0.9.2 is taken
        "#]],
    );
    check(
        http("200 OK", "{"),
        expect![[r#"
            cannot understand the reply of overlayd to GET /v1/ipam: invalid type: map, expected a sequence at line 1 column 0; are overlayd and its callers of one release?
        "#]],
    );
    check(
        "SSH-2.0-x\r\n\r\n".to_owned(),
        expect![[r#"
            overlayd broke off while it answered GET /v1/ipam (`SSH-2.0-x` is no status line of HTTP/1.1); see: journalctl -u overlayd
        "#]],
    );
    check(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        expect![[r#"
            overlayd broke off while it answered GET /v1/ipam (its reply does not say how long it is); see: journalctl -u overlayd
        "#]],
    );
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_owned(),
        expect![[r#"
            overlayd broke off while it answered GET /v1/ipam (its reply is larger than 64 MiB); see: journalctl -u overlayd
        "#]],
    );
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".to_owned(),
        expect![[r#"
            overlayd broke off while it answered GET /v1/ipam (it hung up); see: journalctl -u overlayd
        "#]],
    );
}

#[test]
fn nobody_at_the_socket_is_told_apart_from_one_who_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("overlayd.sock");
    let mut connection = Connection::new(&socket).with_timeout(Duration::from_millis(20));
    assert_eq!(
        connection.ipam(),
        Err(ClientError::NotRunning { socket: socket.clone() }),
        "nothing is there"
    );
    let _silent = UnixListener::bind(&socket).unwrap();
    assert_eq!(
        connection.ipam(),
        Err(ClientError::Timeout {
            request: "GET /v1/ipam".into(),
            after: Duration::from_millis(20)
        })
    );
}
