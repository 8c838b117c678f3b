use std::future::Future;

use expect_test::{Expect, expect};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

/// A daemon that takes one connection, reads one request and sends back fixed
/// bytes.
struct Daemon {
    client: Client,
    request: tokio::task::JoinHandle<String>,
    _dir: TempDir,
}

impl Daemon {
    fn answering(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("overlayd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let request = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            // A client that has read enough may hang up: no failure of ours.
            let _ = stream.write_all(&reply).await;
            request
        });
        Self { client: Client::new(&socket), request, _dir: dir }
    }

    fn ok(body: &str) -> Self {
        Self::answering(http("200 OK", body))
    }
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The request line and the body.
async fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
                return format!("{line} {body}").trim_end().to_owned();
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "half a request: {text}");
    }
}

/// What `ask` sends; that the empty reply does not satisfy it is no matter.
async fn sent<T, F: Future<Output = Result<T, ClientError>>>(
    ask: impl FnOnce(Client) -> F,
) -> String {
    let daemon = Daemon::ok("{}");
    let _ = ask(daemon.client).await;
    daemon.request.await.unwrap()
}

#[tokio::test]
async fn each_method_sends_its_row_of_the_table() {
    let attach = v1::Attach { net: "demo".into(), pid: Some(42), ..Default::default() };
    let create = v1::CreateNetwork { vni: Some(4097), ..Default::default() };
    let release = v1::ReleaseAddress { address: Some([10, 0, 9, 5].into()) };
    let lines = [
        sent(async |c: Client| c.create_network(&create).await).await,
        sent(async |c: Client| c.networks().await).await,
        sent(async |c: Client| c.network("demo").await).await,
        sent(async |c: Client| c.delete_network("demo", false).await).await,
        sent(async |c: Client| c.attach(&attach).await).await,
        sent(async |c: Client| c.endpoints(None, false).await).await,
        sent(async |c: Client| c.endpoints(Some("demo"), false).await).await,
        sent(async |c: Client| c.endpoints(None, true).await).await,
        sent(async |c: Client| c.endpoints(Some("demo"), true).await).await,
        sent(async |c: Client| c.detach("web", None).await).await,
        sent(async |c: Client| c.detach("web", Some("demo")).await).await,
        sent(async |c: Client| c.thaw("fd00::5", Some("demo")).await).await,
        sent(async |c: Client| c.ipam().await).await,
        sent(async |c: Client| c.ipam_of("demo").await).await,
        sent(async |c: Client| c.release_address("demo", &release).await).await,
        sent(async |c: Client| c.check_ipam(&v1::CheckIpam::default()).await).await,
        sent(async |c: Client| c.hosts().await).await,
        sent(async |c: Client| c.status().await).await,
        sent(async |c: Client| c.events(None).await).await,
        sent(async |c: Client| c.events(Some(7)).await).await,
        sent(async |c: Client| c.fdb(None).await).await,
        sent(async |c: Client| c.fdb(Some("demo")).await).await,
        sent(async |c: Client| c.neigh(Some("demo")).await).await,
        sent(async |c: Client| c.plan().await).await,
        sent(async |c: Client| c.leave(&v1::Leave { force: true }).await).await,
        sent(async |c: Client| c.openapi().await).await,
    ];
    expect![[r#"
        POST /v1/networks {"vni":4097}
        GET /v1/networks
        GET /v1/networks/demo
        DELETE /v1/networks/demo
        POST /v1/endpoints {"net":"demo","pid":42}
        GET /v1/endpoints
        GET /v1/endpoints?net=demo
        GET /v1/endpoints?local=true
        GET /v1/endpoints?net=demo&local=true
        DELETE /v1/endpoints/web
        DELETE /v1/endpoints/web?net=demo
        DELETE /v1/frozen/fd00%3A%3A5?net=demo
        GET /v1/ipam
        GET /v1/ipam/demo
        POST /v1/ipam/demo/release {"address":"10.0.9.5"}
        POST /v1/ipam/check {}
        GET /v1/hosts
        GET /v1/status
        GET /v1/events
        GET /v1/events?since=7
        GET /v1/fdb
        GET /v1/fdb?net=demo
        GET /v1/neigh?net=demo
        GET /v1/plan
        POST /v1/leave {"force":true}
        GET /v1/openapi.json
    "#]]
    .assert_eq(&(lines.join("\n") + "\n"));
}

#[tokio::test]
async fn what_people_type_cannot_become_another_request() {
    let line = sent(async |c: Client| c.detach("a/b?c d#ü", Some("x&local=true")).await).await;
    assert_eq!(line, "DELETE /v1/endpoints/a%2Fb%3Fc%20d%23%C3%BC?net=x%26local%3Dtrue");
    let line = sent(async |c: Client| c.network("x\r\nevil: 1").await).await;
    assert_eq!(line, "GET /v1/networks/x%0D%0Aevil%3A%201");
}

#[tokio::test]
async fn a_reply_becomes_its_type() {
    let daemon = Daemon::ok(r#"{"told": 2, "endpoints": 1, "added_later": true}"#);
    let left = daemon.client.leave(&v1::Leave::default()).await.unwrap();
    assert_eq!(left, v1::Left { told: 2, endpoints: 1 });
}

/// The text of the failure of `GET /v1/status` when the daemon answers so.
async fn failure(reply: impl Into<Vec<u8>>, text: Expect) -> ClientError {
    let daemon = Daemon::answering(reply);
    let err = daemon.client.status().await.unwrap_err();
    text.assert_eq(&err.to_string());
    err
}

#[tokio::test]
async fn a_refusal_is_the_daemons_own_error() {
    let body = r#"{"code":"taken","message":"VNI 7 is taken","hint":"choose another"}"#;
    let err = failure(http("409 Conflict", body), expect![[r#"VNI 7 is taken"#]]).await;
    let ClientError::Api(error) = err else { panic!("{err:?}") };
    assert_eq!(error.code, v1::ErrorCode::Taken);
    assert_eq!(error.hint.as_deref(), Some("choose another"));
}

#[tokio::test]
async fn a_refusal_of_a_newer_daemon_keeps_its_message() {
    let body = r#"{"code":"fenced","message":"this host was forgotten","hint":"rejoin"}"#;
    let err =
        failure(http("503 Service Unavailable", body), expect![[r#"this host was forgotten"#]]);
    let error = err.await.to_v1();
    assert_eq!(error.code, v1::ErrorCode::Unavailable);
    assert_eq!(error.hint.as_deref(), Some("rejoin"));
}

#[tokio::test]
async fn what_is_not_the_contract_is_said_to_be_so() {
    failure(
        http("404 Not Found", "<html>nginx\x1b[31m</html>"),
        expect![[r#"overlayd answered GET /v1/status with 404 Not Found and no error that we understand ("<html>nginx\u{1b}[31m</html>"); are overlayd and its callers of one release?"#]],
    )
    .await;
    failure(http("200 OK", "hello"), expect![[r#"cannot understand the reply of overlayd to GET /v1/status: expected value at line 1 column 1; are overlayd and its callers of one release?"#]]).await;
    failure(http("200 OK", r#"{"host": 5}"#), expect![[r#"cannot understand the reply of overlayd to GET /v1/status: invalid type: integer `5`, expected struct Host at line 1 column 10; are overlayd and its callers of one release?"#]]).await;
    failure("SSH-2.0-OpenSSH_9.2\r\n", expect![[r#"overlayd broke off while it answered GET /v1/status (invalid HTTP version parsed); see: journalctl -u overlayd"#]]).await;
}

#[tokio::test]
async fn a_daemon_that_breaks_off_is_said_to_have_done_so() {
    failure("", expect![[r#"overlayd broke off while it answered GET /v1/status (connection closed before message completed); see: journalctl -u overlayd"#]]).await;
    failure("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", expect![[r#"overlayd broke off while it answered GET /v1/status (end of file before message length reached); see: journalctl -u overlayd"#]]).await;
}

#[tokio::test]
async fn a_reply_without_end_is_not_read_to_its_end() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    let reply = head.to_owned() + &chunk.repeat((MAX_REPLY >> 20) + 1);
    failure(reply, expect![[r#"the reply of overlayd to GET /v1/status is larger than 64 MiB; ask for less, or for one network"#]]).await;
}

#[tokio::test]
async fn a_daemon_that_says_nothing_is_not_waited_for_longer_than_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("overlayd.sock");
    let _listens_but_never_accepts = UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).with_timeout(Duration::from_millis(20));
    let err = client.plan().await.unwrap_err();
    assert_eq!(err.to_v1().code, v1::ErrorCode::Unavailable);
    expect![[r#"overlayd has not answered GET /v1/plan for 0.02 s; see: journalctl -u overlayd"#]]
        .assert_eq(&err.to_string());
}

#[tokio::test]
async fn no_socket_and_nobody_behind_it_are_both_a_daemon_that_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("overlayd.sock");
    let client = Client::new(&socket);
    let not_running = ClientError::NotRunning { socket: socket.clone() };
    assert_eq!(client.hosts().await.unwrap_err(), not_running);

    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    assert_eq!(client.hosts().await.unwrap_err(), not_running);

    let text = not_running.to_string().replace(dir.path().to_str().unwrap(), "DIR");
    expect![[r#"overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd"#]]
        .assert_eq(&text);
}

#[tokio::test]
async fn a_path_that_no_socket_can_have_is_named() {
    let client = Client::new(Path::new(&format!("/{}", "x".repeat(200))));
    let err = client.hosts().await.unwrap_err();
    assert!(err.to_string().starts_with("cannot connect to /xxx"), "{err}");
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// What the stream of these chunks yields: texts of events, then how it ends.
async fn watched(chunks: &[&str]) -> String {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let daemon = Daemon::answering(head.to_owned() + &chunks.concat());
    let mut events = daemon.client.events(None).await.unwrap();
    let mut told = String::new();
    loop {
        match events.next().await {
            Ok(Some(event)) => told += &format!("{:?} {}\n", event.seq, event.text),
            Ok(None) => return told + "the end",
            Err(err) => return told + &err.to_string(),
        }
    }
}

#[tokio::test]
async fn events_come_line_by_line_however_they_are_cut() {
    let line = |seq: u64, text: &str| {
        format!(r#"{{"seq":{seq},"time":"","kind":"k","level":"info","text":"{text}"}}"#) + "\n"
    };
    let all = line(1, "one") + &line(2, "two") + &line(3, "three");
    let missed =
        r#"{"time":"","kind":"missed","level":"warning","text":"so many","count":3,"new":1}"#;
    let (a, b) = all.split_at(70);
    let told = watched(&[&chunk(a), &chunk(b), &chunk(&format!("{missed}\n")), "0\r\n\r\n"]).await;
    expect![[r#"
        Some(1) one
        Some(2) two
        Some(3) three
        None so many
        the end"#]]
    .assert_eq(&told);
}

#[tokio::test]
async fn a_stream_that_breaks_or_talks_nonsense_is_no_end_in_good_order() {
    expect!["overlayd broke off while it answered GET /v1/events (unexpected EOF during chunk size line); see: journalctl -u overlayd"]
        .assert_eq(&watched(&[]).await);
    expect![[r#"cannot understand the event "nonsense\n": expected ident at line 1 column 2"#]]
        .assert_eq(&watched(&[&chunk("nonsense\n")]).await);
    let long = "x".repeat((1 << 20) + 1);
    expect!["overlayd sends an event of more than 1048576 bytes"]
        .assert_eq(&watched(&[&chunk(&long)]).await);
}

#[tokio::test]
async fn a_daemon_with_too_many_watchers_says_so() {
    let body = r#"{"code":"unavailable","message":"64 watch the events already"}"#;
    let err = Daemon::answering(http("503 Service Unavailable", body)).client.events(None).await;
    assert_eq!(err.unwrap_err().to_string(), "64 watch the events already");
}
