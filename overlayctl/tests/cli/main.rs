//! The real `overlayctl`, run against a fake daemon on a real socket.
//!
//! Each expectation is the whole conversation: lines with `>` are what the
//! daemon was asked, lines with `!` what came on standard error, the others
//! standard output, and at the end the exit code.

mod kit;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use expect_test::{Expect, expect};
use kit::{Daemon, http, overlayctl};

const NETWORK: &str = r#"{"id":"00000000000000aa","name":"demo","vni":4097,
    "subnets":[{"cidr":"10.0.9.0/24","gateway":"10.0.9.1"}],"mtu":1450,"internal":false,
    "flood":true,"labels":{},"created_ms":0,"created_by":"a","endpoints":1,"local_endpoints":1}"#;
const ENDPOINT: &str = r#"{"id":"0123456789ab","name":"web","net":"demo","vni":4097,
    "mac":"02:42:0a:00:09:02","ips":["10.0.9.2/24"],"aliases":[],"labels":{},"host":"a",
    "local":true,"vtep":"192.0.2.1","attached_ms":4102444800000,"state":"ready",
    "host_ifname":"ove0123456789ab","ifname":"eth0","netns":"/run/netns/web1"}"#;
const HOST: &str = r#"{"id":"0b0e9a4c-66e8-4d6e-8f0e-000000000001","name":"a","local":true,
    "state":"up","since_ms":7200000,"entries_in_use":true,"vteps":["192.0.2.1"],
    "vxlan_port":4789,"gossip":"192.0.2.1:7946","underlay_mtu":1500,"endpoints":1,
    "version":"0.1.0","incarnation":4,"refused":{"plain":1},"refuses_us":2,"undecodable":0,"notes":[]}"#;
const ENTRY: &str = r#"{"net":"demo","dev":"ovx4097","table":"vxlan","key":"02:42:0a:00:09:05",
    "desired":"192.0.2.2","kernel":null,"state":"missing","endpoint":"db","host":"b"}"#;
const REFUSED: &str = r#"{"code":"not_found","message":"there is no network demo","hint":"list them: overlayctl net ls"}"#;

fn status() -> String {
    format!(
        r#"{{"host":{HOST},"uptime_ms":7200000,"hosts":{{"up":1,"down":1}},"networks":1,
        "endpoints":1,"local_endpoints":1,"view_complete":true,"desired_revision":42,
        "applied_revision":42,"desired_objects":7,"pending":0,"failed":[],"refused":[],"refused_forgotten":3,"counters":{{"x":1}},
        "warnings":[]}}"#
    )
}

/// The conversation when the daemon answers its only request with `body`.
#[track_caller]
fn check(line: &str, body: &str, told: Expect) {
    told.assert_eq(&Daemon::answering("200 OK", body).run(line));
}

#[test]
fn net_create_sends_what_was_given() {
    check(
        "net create demo --vni 4097 --subnet 10.0.9.0/24 --subnet fd00:9::/64 --gateway 10.0.9.1 \
         --mtu 1400 --internal --no-flood --label a=b --label c=",
        NETWORK,
        expect![[r#"
            > POST /v1/networks {"name":"demo","vni":4097,"subnets":["10.0.9.0/24","fd00:9::/64"],"gateways":["10.0.9.1"],"mtu":1400,"internal":true,"no_flood":true,"labels":{"a":"b","c":""}}
            created demo
              id:       00000000000000aa
              vni:      4097
              subnet:   10.0.9.0/24, gateway 10.0.9.1
              mtu:      1450
              internal: no
              flooding: yes
            exit 0
        "#]],
    );
}

#[test]
fn net_create_needs_nothing() {
    check(
        "net create",
        NETWORK,
        expect![[r#"
            > POST /v1/networks {}
            created demo
              id:       00000000000000aa
              vni:      4097
              subnet:   10.0.9.0/24, gateway 10.0.9.1
              mtu:      1450
              internal: no
              flooding: yes
            exit 0
        "#]],
    );
}

#[test]
fn net_ls() {
    check(
        "net ls",
        &format!("[{NETWORK}]"),
        expect![[r#"
            > GET /v1/networks
            NAME  VNI   SUBNET       GATEWAY   MTU   ENDPOINTS  HERE  CREATED-BY  NOTES
            demo  4097  10.0.9.0/24  10.0.9.1  1450  1          1     a           -
            exit 0
        "#]],
    );
}

#[test]
fn net_inspect_takes_several_and_one_that_fails_does_not_hide_the_others() {
    let daemon = Daemon::replying(vec![http("404 Not Found", REFUSED), http("200 OK", NETWORK)]);
    let told = daemon.run("net inspect nope demo");
    let told = told.lines().filter(|line| !line.starts_with("created:")).collect::<Vec<_>>();
    expect![[r#"
        > GET /v1/networks/nope
        > GET /v1/networks/demo
        name:      demo
        id:        00000000000000aa
        vni:       4097
        subnet:    10.0.9.0/24, gateway 10.0.9.1
        mtu:       1450
        internal:  no
        flooding:  yes
        endpoints: 1, 1 of them on this host
        ! overlayctl: cannot show network nope: there is no network demo
        !             list them: overlayctl net ls
        exit 1"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn net_rm_goes_on_after_a_refusal_and_fails() {
    let daemon = Daemon::replying(vec![
        http("200 OK", NETWORK),
        http("409 Conflict", r#"{"code":"in_use","message":"it has 3 endpoints"}"#),
        http("200 OK", NETWORK),
    ]);
    expect![[r#"
        > DELETE /v1/networks/demo
        > DELETE /v1/networks/busy
        > DELETE /v1/networks/other
        deleted demo
        deleted demo
        ! overlayctl: cannot delete network busy: it has 3 endpoints
        exit 1
    "#]]
    .assert_eq(&daemon.run("net rm demo busy other"));
}

#[test]
fn net_rm_force_says_what_went_along() {
    let detached =
        r#","detached":[{"host":"a","endpoints":2},{"host":"b","endpoints":1,"later":true}]}"#;
    let reply = NETWORK.trim_end().trim_end_matches('}').to_owned() + detached;
    check(
        "net rm --force demo",
        &reply,
        expect![[r#"
        > DELETE /v1/networks/demo?force=true
        deleted demo and detached 3 endpoints: 2 on a; 1 on b, which cannot be reached: when it is back
        exit 0
    "#]],
    );
}

#[test]
fn net_create_sends_what_may_be_leased() {
    check(
        "net create demo --exclude 10.0.9.5 --exclude 10.0.9.64-10.0.9.95 --ip-range 10.0.9.0/25",
        NETWORK,
        expect![[r#"
            > POST /v1/networks {"name":"demo","exclude":["10.0.9.5","10.0.9.64/27"],"ip_ranges":["10.0.9.0/25"]}
            created demo
              id:       00000000000000aa
              vni:      4097
              subnet:   10.0.9.0/24, gateway 10.0.9.1
              mtu:      1450
              internal: no
              flooding: yes
            exit 0
        "#]],
    );
}

#[test]
fn net_set_sends_what_is_to_change_and_shows_what_has_come_of_it() {
    check(
        "net set demo --label team=a --unlabel tier --exclude 10.0.9.5 --include 10.0.9.6 --internal",
        NETWORK,
        expect![[r#"
            > PATCH /v1/networks/demo {"labels":{"team":"a"},"unlabel":["tier"],"exclude":["10.0.9.5"],"include":["10.0.9.6"],"internal":true}
            changed demo
              id:       00000000000000aa
              vni:      4097
              subnet:   10.0.9.0/24, gateway 10.0.9.1
              mtu:      1450
              internal: no
              flooding: yes
            exit 0
        "#]],
    );
    check(
        "net set demo --no-internal",
        NETWORK,
        expect![[r#"
        > PATCH /v1/networks/demo {"internal":false}
        changed demo
          id:       00000000000000aa
          vni:      4097
          subnet:   10.0.9.0/24, gateway 10.0.9.1
          mtu:      1450
          internal: no
          flooding: yes
        exit 0
    "#]],
    );
    // What cannot change is asked for all the same: overlayd says why not.
    check(
        "net set demo --vni 7 --mtu 1400 --subnet 10.0.0.0/8",
        NETWORK,
        expect![[r#"
        > PATCH /v1/networks/demo {"vni":"7","subnets":"10.0.0.0/8","mtu":"1400"}
        changed demo
          id:       00000000000000aa
          vni:      4097
          subnet:   10.0.9.0/24, gateway 10.0.9.1
          mtu:      1450
          internal: no
          flooding: yes
        exit 0
    "#]],
    );
}

#[test]
fn what_is_kept_for_a_name_is_let_go() {
    check(
        "endpoint forget-ip web --net demo",
        r#"{"name":"web","mac":"02:42:0a:00:09:02","ips":["10.0.9.2"]}"#,
        expect![[r#"
            > DELETE /v1/networks/demo/kept/web
            10.0.9.2 is no longer kept for web
            exit 0
        "#]],
    );
    check(
        "attach --net demo --pid 7 --name web --keep-ip",
        ENDPOINT,
        expect![[r#"
        > POST /v1/endpoints {"net":"demo","pid":7,"name":"web","keep_ip":true}
        attached web to demo
          id:        0123456789ab
          address:   10.0.9.2/24
          mac:       02:42:0a:00:09:02
          interface: eth0 in /run/netns/web1
          host side: ove0123456789ab
          state:     ready
        exit 0
    "#]],
    );
}

#[test]
fn several_names_are_a_list_in_json_even_if_one_is_refused() {
    let daemon = Daemon::replying(vec![http("404 Not Found", REFUSED), http("200 OK", ENDPOINT)]);
    let output = daemon.command("detach nope web --json").output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["id"], "0123456789ab");
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["code"], "not_found");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn names_are_not_tried_one_by_one_on_a_daemon_that_is_not_there() {
    expect![[r#"
        ! overlayctl: cannot delete network a: overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd
        exit 1
    "#]].assert_eq(&Daemon::absent().run("net rm a b c"));
}

#[test]
fn attach_sends_what_was_given_and_shows_what_one_goes_on_with() {
    check(
        "attach --net demo --netns web1 --ip 10.0.9.2 --ip fd00:9::2 --mac 02:42:0A:00:09:02 \
         --name web --alias www --alias shop --label tier=front --ifname net0 --no-default-route",
        ENDPOINT,
        expect![[r#"
            > POST /v1/endpoints {"net":"demo","netns":"web1","ips":["10.0.9.2","fd00:9::2"],"mac":"02:42:0a:00:09:02","name":"web","aliases":["www","shop"],"labels":{"tier":"front"},"ifname":"net0","no_default_route":true}
            attached web to demo
              id:        0123456789ab
              address:   10.0.9.2/24
              mac:       02:42:0a:00:09:02
              interface: eth0 in /run/netns/web1
              host side: ove0123456789ab
              state:     ready
            exit 0
        "#]],
    );
}

#[test]
fn attach_by_process() {
    check(
        "attach --net demo --pid 4711",
        ENDPOINT,
        expect![[r#"
            > POST /v1/endpoints {"net":"demo","pid":4711}
            attached web to demo
              id:        0123456789ab
              address:   10.0.9.2/24
              mac:       02:42:0a:00:09:02
              interface: eth0 in /run/netns/web1
              host side: ove0123456789ab
              state:     ready
            exit 0
        "#]],
    );
}

#[test]
fn a_relative_namespace_path_is_sent_from_the_root() {
    let daemon = Daemon::answering("200 OK", ENDPOINT);
    let dir = daemon.socket().parent().unwrap().to_owned();
    let mut command = daemon.command("attach --net demo --netns ./ns/web1");
    let told = daemon.told(&command.current_dir(dir).output().unwrap());
    expect![[r#"> POST /v1/endpoints {"net":"demo","netns":"DIR/ns/web1"}"#]]
        .assert_eq(told.lines().next().unwrap());
}

#[test]
fn usage_that_only_several_arguments_make_wrong_asks_nothing() {
    for (line, told) in [
        (
            "attach --net demo --netns /proc/self/ns/net",
            expect![[r#"
                ! overlayctl: --netns: `/proc/self/ns/net` means another namespace to overlayd than to you; use --pid with the id of a process that stays in it
                exit 2
            "#]],
        ),
        (
            "attach --net demo --pid 7 --label a=1 --label a=2",
            expect![[r#"
                ! overlayctl: the label a is given twice; give each key once
                exit 2
            "#]],
        ),
        (
            "net create --label a=1 --label a=2 --json",
            expect![[r#"
                ! {"code":"invalid_request","message":"the label a is given twice; give each key once"}
                exit 2
            "#]],
        ),
        (
            "net create Bad_Name",
            expect![[r#"
                ! overlayctl: NAME: `Bad_Name` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends
                exit 2
            "#]],
        ),
    ] {
        told.assert_eq(&Daemon::answering("200 OK", ENDPOINT).run(line));
    }
}

#[test]
fn detach() {
    check(
        "detach web --net demo",
        ENDPOINT,
        expect![[r#"
            > DELETE /v1/endpoints/web?net=demo
            detached web from demo
            exit 0
        "#]],
    );
    check(
        "detach 0123456789ab",
        ENDPOINT,
        expect![[r#"
            > DELETE /v1/endpoints/0123456789ab
            detached web from demo
            exit 0
        "#]],
    );
}

#[test]
fn what_another_host_has_is_taken_over() {
    for (line, asked) in [
        (
            "attach --net demo --netns web1 --name web --take-over --json",
            r#"POST /v1/endpoints {"net":"demo","netns":"web1","name":"web","take_over":true}"#,
        ),
        (
            "endpoint add --net demo --mac 02:42:0a:00:09:02 --take-over --json",
            r#"POST /v1/endpoints {"net":"demo","static":true,"mac":"02:42:0a:00:09:02","take_over":true}"#,
        ),
    ] {
        let said = Daemon::answering("200 OK", ENDPOINT).run(line);
        assert_eq!(said.lines().next(), Some(format!("> {asked}").as_str()), "{said}");
    }
}

#[test]
fn thaw() {
    let frozen = r#"[{"what":["02:42:0a:00:09:02","10.0.9.2"],"net":"demo","host":"b","other":"a",
        "moves":6,"thaws_ms":171000}]"#;
    check(
        "endpoint thaw 10.0.9.2 --net demo",
        frozen,
        expect![[r#"
            > DELETE /v1/frozen/10.0.9.2?net=demo
            02:42:0a:00:09:02 10.0.9.2 of demo may move again
            exit 0
        "#]],
    );
}

#[test]
fn endpoints() {
    let all = format!("[{ENDPOINT}]");
    check(
        "endpoints",
        &all,
        expect![[r#"
            > GET /v1/endpoints
            NET   NAME  ID            ADDRESS      MAC                HOST  VTEP       STATE  AGE  REASON
            demo  web   0123456789ab  10.0.9.2/24  02:42:0a:00:09:02  a     192.0.2.1  ready  0ms  -
            exit 0
        "#]],
    );
    check(
        "ep --net demo --local",
        &all,
        expect![[r#"
            > GET /v1/endpoints?net=demo&local=true
            NET   NAME  ID            ADDRESS      MAC                INTERFACE  NETNS            HOST-SIDE        STATE  AGE  REASON
            demo  web   0123456789ab  10.0.9.2/24  02:42:0a:00:09:02  eth0       /run/netns/web1  ove0123456789ab  ready  0ms  -
            exit 0
        "#]],
    );
}

#[test]
fn hosts() {
    check(
        "hosts",
        &format!("[{HOST}]"),
        expect![[r#"
            > GET /v1/hosts
            NAME  STATE  FOR   HEARD  RTT  VTEP       PORT  GOSSIP          MTU   ENDPOINTS  KEY  REFUSED  VERSION  ID                                    NOTES
            a     up     2h0m  -      -    192.0.2.1  4789  192.0.2.1:7946  1500  1          -    plain=1  0.1.0    0b0e9a4c-66e8-4d6e-8f0e-000000000001  this host, has refused our gossip 2 times
            exit 0
        "#]],
    );
}

#[test]
fn status_is_no_failure_even_when_it_wants_attention() {
    check(
        "status",
        &status(),
        expect![[r#"
            > GET /v1/status
            attention: 1 host down
            host:      a, id 0b0e9a4c-66e8-4d6e-8f0e-000000000001
            underlay:  VTEP 192.0.2.1, UDP port 4789, MTU 1500, gossip 192.0.2.1:7946
            daemon:    version 0.1.0, up 2h0m, incarnation 4
            hosts:     1 up, 1 down
            networks:  1
            endpoints: 1, 1 of them on this host
            kernel:    revision 42 of 42, 7 objects desired, 0 operations pending
            refused gossip, by source (which can be forged):
              forgotten to make room: 3 times
            exit 0
        "#]],
    );
}

#[test]
fn fdb_and_neigh() {
    let all = format!("[{ENTRY}]");
    check(
        "fdb",
        &all,
        expect![[r#"
            > GET /v1/fdb
            NET   DEV      TABLE  KEY                DESIRED    KERNEL  STATE    HOST  ENDPOINT
            demo  ovx4097  vxlan  02:42:0a:00:09:05  192.0.2.2  -       missing  b     db
            exit 0
        "#]],
    );
    check(
        "neigh --net demo",
        &all,
        expect![[r#"
            > GET /v1/neigh?net=demo
            NET   DEV      TABLE  KEY                DESIRED    KERNEL  STATE    HOST  ENDPOINT
            demo  ovx4097  vxlan  02:42:0a:00:09:05  192.0.2.2  -       missing  b     db
            exit 0
        "#]],
    );
}

#[test]
fn plan() {
    check(
        "plan",
        r#"{"revision":42,"view_complete":false,"commands":["ip link del ovx7"]}"#,
        expect![[r#"
            > GET /v1/plan
            ip link del ovx7
            ! # too little is known yet to delete anything that another run left behind
            exit 0
        "#]],
    );
    check(
        "plan",
        r#"{"revision":42,"view_complete":true,"commands":[]}"#,
        expect![[r#"
            > GET /v1/plan
            nothing to do: the kernel holds revision 42
            exit 0
        "#]],
    );
}

#[test]
fn leave() {
    check(
        "leave",
        r#"{"told":2,"endpoints":0}"#,
        expect![[r#"
            > POST /v1/leave {}
            left the cluster: 2 hosts told
            exit 0
        "#]],
    );
    check(
        "leave --force",
        r#"{"told":2,"endpoints":3}"#,
        expect![[r#"
            > POST /v1/leave {"force":true}
            left the cluster: 2 hosts told
            attached here still, cut off from other hosts: 3 endpoints
            exit 0
        "#]],
    );
}

#[test]
fn an_empty_list_is_a_remark_for_people_and_an_empty_list_for_code() {
    check(
        "net ls",
        "[]",
        expect![[r#"
            > GET /v1/networks
            ! no networks yet; make one with: overlayctl net create
            exit 0
        "#]],
    );
    check(
        "net ls --json",
        "[]",
        expect![[r#"
            > GET /v1/networks
            []
            exit 0
        "#]],
    );
}

#[test]
fn json_is_the_reply() {
    for (line, body) in [
        ("net create --json", NETWORK.to_owned()),
        ("net ls --json", format!("[{NETWORK}]")),
        ("net inspect demo --json", NETWORK.to_owned()),
        ("net rm demo --json", NETWORK.to_owned()),
        ("net set demo --internal --json", NETWORK.to_owned()),
        ("attach --net demo --pid 7 --json", ENDPOINT.to_owned()),
        ("detach web --json", ENDPOINT.to_owned()),
        ("endpoints --json", format!("[{ENDPOINT}]")),
        ("hosts --json", format!("[{HOST}]")),
        ("status --json", status()),
        ("fdb --json", format!("[{ENTRY}]")),
        ("neigh --json", format!("[{ENTRY}]")),
        ("plan --json", r#"{"revision":1,"view_complete":false,"commands":["x"]}"#.to_owned()),
        ("leave --json", r#"{"told":2,"endpoints":0}"#.to_owned()),
    ] {
        let daemon = Daemon::answering("200 OK", &body);
        let output = daemon.command(line).output().unwrap();
        assert!(output.stderr.is_empty(), "{line}: {output:?}");
        let mut said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // Commands that take several names always give a list.
        if ["net inspect", "net rm", "detach"].iter().any(|several| line.starts_with(several)) {
            said = said[0].take();
        }
        let sent: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(said, sent, "{line}");
    }
}

#[test]
fn a_refusal_is_a_line_and_its_hint_another() {
    let daemon = Daemon::answering("404 Not Found", REFUSED);
    expect![[r#"
        > POST /v1/endpoints {"net":"demo","netns":"web1"}
        ! overlayctl: cannot attach web1 to demo: there is no network demo
        !             list them: overlayctl net ls
        exit 1
    "#]]
    .assert_eq(&daemon.run("attach --net demo --netns web1"));
}

#[test]
fn a_refusal_in_json_is_the_error_of_the_api() {
    let daemon = Daemon::answering("404 Not Found", REFUSED);
    expect![[r#"
        > POST /v1/endpoints {"net":"demo","netns":"web1"}
        ! {"code":"not_found","message":"there is no network demo","hint":"list them: overlayctl net ls"}
        exit 1
    "#]].assert_eq(&daemon.run("attach --net demo --netns web1 --json"));
}

#[test]
fn each_command_says_what_it_could_not_do() {
    let mut told = String::new();
    for line in [
        "net create",
        "net create demo",
        "net ls",
        "net inspect demo",
        "net rm demo",
        "attach --net demo --pid 7",
        "attach --net demo --netns web1",
        "attach --net demo --netns web1 --name web",
        "detach web",
        "detach web --net demo",
        "endpoints",
        "endpoints --net demo",
        "ipam ls",
        "ipam show demo",
        "ipam check",
        "ipam check demo --repair",
        "ipam release demo 10.0.9.9",
        "hosts",
        "status",
        "fdb",
        "fdb --net demo",
        "neigh",
        "plan",
        "leave",
    ] {
        let refused = r#"{"code":"internal","message":"no"}"#;
        let daemon = Daemon::answering("500 Internal Server Error", refused);
        let output = daemon.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        told += &String::from_utf8_lossy(&output.stderr);
    }
    expect![[r#"
        overlayctl: cannot create a network: no
        overlayctl: cannot create network demo: no
        overlayctl: cannot list networks: no
        overlayctl: cannot show network demo: no
        overlayctl: cannot delete network demo: no
        overlayctl: cannot attach process 7 to demo: no
        overlayctl: cannot attach web1 to demo: no
        overlayctl: cannot attach web to demo: no
        overlayctl: cannot detach web: no
        overlayctl: cannot detach web from demo: no
        overlayctl: cannot list endpoints: no
        overlayctl: cannot list endpoints of demo: no
        overlayctl: cannot list addresses: no
        overlayctl: cannot show the addresses of demo: no
        overlayctl: cannot check the addresses: no
        overlayctl: cannot check the addresses of demo: no
        overlayctl: cannot release 10.0.9.9 of demo: no
        overlayctl: cannot list hosts: no
        overlayctl: cannot read the status: no
        overlayctl: cannot list FDB entries: no
        overlayctl: cannot list FDB entries of demo: no
        overlayctl: cannot list ARP and ND entries: no
        overlayctl: cannot read the plan: no
        overlayctl: cannot leave the cluster: no
    "#]]
    .assert_eq(&told);
}

#[test]
fn no_daemon() {
    expect![[r#"
        ! overlayctl: cannot read the status: overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd
        exit 1
    "#]].assert_eq(&Daemon::absent().run("status"));
    expect![[r#"
        ! {"code":"unavailable","message":"overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd"}
        exit 1
    "#]].assert_eq(&Daemon::absent().run("status --json"));
}

#[test]
fn a_socket_that_nobody_listens_on_any_more() {
    let daemon = Daemon::absent();
    drop(UnixListener::bind(daemon.socket()).unwrap());
    expect![[r#"
        ! overlayctl: cannot list hosts: overlayd does not answer on DIR/overlayd.sock: is it running? start it with: systemctl start overlayd
        exit 1
    "#]].assert_eq(&daemon.run("hosts"));
}

#[test]
fn a_socket_option_goes_before_the_environment() {
    let daemon = Daemon::absent();
    let told = daemon.run("--socket /nonexistent/x hosts");
    expect![[r#"
        ! overlayctl: cannot list hosts: overlayd does not answer on /nonexistent/x: is it running? start it with: systemctl start overlayd
        exit 1
    "#]].assert_eq(&told);
}

/// As root we become nobody; as anybody else we take our own permission away.
#[test]
fn a_socket_without_permission() {
    let daemon = Daemon::answering("200 OK", "[]");
    let dir = daemon.socket().parent().unwrap().to_owned();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = daemon.command("hosts");
    // The directory is ours, so its owner is who we are.
    if fs::metadata(&dir).unwrap().uid() == 0 {
        // Nobody may be kept out of the target directory: it gets a copy. By
        // `cp`, because a file that this process has open for writing would be
        // inherited by what other tests start, and then cannot be executed.
        let copy = dir.join("overlayctl");
        let from = env!("CARGO_BIN_EXE_overlayctl");
        assert!(Command::new("cp").arg(from).arg(&copy).status().unwrap().success());
        command = Command::new(copy);
        command.arg("hosts").env("OVERLAYD_SOCKET", daemon.socket()).uid(65534).gid(65534);
    } else {
        fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o000)).unwrap();
    }
    expect![[r#"
        ! overlayctl: cannot list hosts: no permission on DIR/overlayd.sock: be root or join the group overlayd
        exit 1
    "#]].assert_eq(&daemon.told(&command.output().unwrap()));
}

#[test]
fn a_daemon_that_closes_early() {
    let nothing = Daemon::replying(vec![]);
    expect![[r#"
        > GET /v1/hosts
        ! overlayctl: cannot list hosts: overlayd broke off while it answered GET /v1/hosts (connection closed before message completed); see: journalctl -u overlayd
        exit 1
    "#]].assert_eq(&nothing.run("hosts"));
    let half = Daemon::replying(vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".to_vec()]);
    expect![[r#"
        > GET /v1/hosts
        ! overlayctl: cannot list hosts: overlayd broke off while it answered GET /v1/hosts (end of file before message length reached); see: journalctl -u overlayd
        exit 1
    "#]].assert_eq(&half.run("hosts"));
}

#[test]
fn a_reply_that_is_too_large() {
    let mut reply = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec();
    reply.resize(reply.len() + overlay_api::client::MAX_REPLY + 1, b' ');
    expect![[r#"
        > GET /v1/fdb
        ! overlayctl: cannot list FDB entries: the reply of overlayd to GET /v1/fdb is larger than 64 MiB; ask for less, or for one network
        exit 1
    "#]].assert_eq(&Daemon::replying(vec![reply]).run("fdb"));
}

#[test]
fn a_reply_that_is_not_the_contract() {
    check(
        "hosts",
        "<html>",
        expect![[r#"
            > GET /v1/hosts
            ! overlayctl: cannot list hosts: cannot understand the reply of overlayd to GET /v1/hosts: expected value at line 1 column 1; are overlayd and its callers of one release?
            exit 1
        "#]],
    );
    check(
        "hosts",
        r#"[{"name": "a"}]"#,
        expect![[r#"
            > GET /v1/hosts
            ! overlayctl: cannot list hosts: cannot understand the reply of overlayd to GET /v1/hosts: missing field `id` at line 1 column 14; are overlayd and its callers of one release?
            exit 1
        "#]],
    );
    let nginx = Daemon::answering("502 Bad Gateway", "<html>\x1b[31m");
    expect![[r#"
        > GET /v1/hosts
        ! overlayctl: cannot list hosts: overlayd answered GET /v1/hosts with 502 Bad Gateway and no error that we understand ("<html>\u{1b}[31m"); are overlayd and its callers of one release?
        exit 1
    "#]].assert_eq(&nginx.run("hosts"));
}

#[test]
fn fields_and_codes_of_a_newer_daemon_are_no_failure() {
    let newer = ENTRY.replacen('{', r#"{"added_later": [1],"#, 1);
    let output = Daemon::answering("200 OK", &format!("[{newer}]")).command("fdb").output();
    assert!(output.unwrap().status.success());
    let fenced = r#"{"code":"fenced","message":"this host was forgotten","hint":"rejoin"}"#;
    let daemon = Daemon::answering("503 Service Unavailable", fenced);
    expect![[r#"
        > GET /v1/plan
        ! overlayctl: cannot read the plan: this host was forgotten
        !             rejoin
        exit 1
    "#]]
    .assert_eq(&daemon.run("plan"));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    for line in ["hosts", "hosts --json", "completions bash", "--help", "--version"] {
        let daemon = Daemon::answering("200 OK", &format!("[{HOST}]"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = daemon.command(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
        assert_eq!(output.status.code(), Some(0), "{line}");
    }
}

#[test]
fn a_closed_pipe_does_not_hide_a_refusal() {
    let daemon = Daemon::replying(vec![http("404 Not Found", REFUSED), http("200 OK", NETWORK)]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = daemon.command("net rm nope demo").stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_full_disk_is_a_failure() {
    let daemon = Daemon::answering("200 OK", &format!("[{HOST}]"));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = daemon.command("hosts").stdout(full).stderr(Stdio::piped()).output().unwrap();
    expect![[r#"
        > GET /v1/hosts
        ! overlayctl: cannot write to standard output: No space left on device (os error 28)
        exit 1
    "#]]
    .assert_eq(&daemon.told(&output));
}

#[test]
fn wrong_usage_is_exit_code_2_and_asks_nothing() {
    for line in ["", "nets", "net", "net rm", "attach --net x", "plan extra", "net ls --jsn"] {
        let output = overlayctl(line).env("OVERLAYD_SOCKET", "/nonexistent").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}: {output:?}");
    }
}

#[test]
fn help_says_what_the_exit_codes_mean_and_gives_examples() {
    let output = overlayctl("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for part in ["Exit codes:\n  0  ", "\n  1  ", "\n  2  ", "Examples:\n", "OVERLAYD_SOCKET"] {
        assert!(help.contains(part), "{part:?} is not in:\n{help}");
    }
    assert!(output.status.success());
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = overlayctl("completions").arg(shell).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("endpoints"), "{shell}");
    }
}

const KEYS: &str = r#"[
    {"id": "a01b77e2", "here": true, "used": false, "held_by": ["b"], "used_by": [], "lacking": ["c"]},
    {"id": "5f6f1c09", "here": true, "used": true, "held_by": ["b", "c"], "used_by": ["b", "c"], "lacking": []}
]"#;

#[test]
fn key_ls() {
    check(
        "key ls",
        KEYS,
        expect![[r#"
            > GET /v1/keys
            ID        HERE  USED-BY  HELD-BY  LACKING
            5f6f1c09  used  b,c      b,c      -
            a01b77e2  held  -        b        c
            exit 0
        "#]],
    );
}

#[test]
fn key_add_reads_the_key_where_nobody_sees_it_and_says_what_is_next() {
    let one = |lacking: &str| {
        format!(
            r#"{{"id": "a01b77e2", "here": true, "used": false, "held_by": [], "used_by": [], "lacking": [{lacking}]}}"#
        )
    };
    for line in ["key add", "key add -"] {
        let daemon = Daemon::answering("200 OK", &one(r#""b", "c""#));
        let mut child = daemon
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"# new\nc2VjcmV0\n").unwrap();
        expect![[r#"
            > POST /v1/keys {"key":"c2VjcmV0"}
            added key a01b77e2, not used yet
            add it there next: b, c
            exit 0
        "#]]
        .assert_eq(&daemon.told(&child.wait_with_output().unwrap()));
    }
    check(
        "key add c2VjcmV0",
        &one(""),
        expect![[r#"
            > POST /v1/keys {"key":"c2VjcmV0"}
            added key a01b77e2, not used yet
            every live host has it; go on with: overlayctl key use a01b77e2
            exit 0
        "#]],
    );
}

#[test]
fn key_use_and_remove() {
    let key = r#"{"id": "a01b77e2", "here": true, "used": true, "held_by": [], "used_by": [], "lacking": []}"#;
    check(
        "key use a01b77e2",
        key,
        expect![[r#"
            > POST /v1/keys/a01b77e2/use {}
            gossip of this host is sealed with key a01b77e2
            exit 0
        "#]],
    );
    check(
        "key use a01b77e2 --force",
        key,
        expect![[r#"
            > POST /v1/keys/a01b77e2/use {"force":true}
            gossip of this host is sealed with key a01b77e2
            exit 0
        "#]],
    );
    check(
        "key remove a01b77e2 --force",
        key,
        expect![[r#"
            > DELETE /v1/keys/a01b77e2?force=true
            removed key a01b77e2
            exit 0
        "#]],
    );
}

#[test]
fn a_refused_step_of_a_rotation_says_whom_it_would_lock_out() {
    let body = r#"{"code": "locks_out", "message": "key a01b77e2 is not on every live host: c could not hear this host any more", "hint": "add it there first with: overlayctl key add; or say --force"}"#;
    let daemon = Daemon::answering("409 Conflict", body);
    expect![[r#"
        > POST /v1/keys/a01b77e2/use {}
        ! overlayctl: cannot use key a01b77e2: key a01b77e2 is not on every live host: c could not hear this host any more
        !             add it there first with: overlayctl key add; or say --force
        exit 1
    "#]]
    .assert_eq(&daemon.run("key use a01b77e2"));
}

#[test]
fn a_key_in_the_place_of_an_id_is_not_repeated() {
    let told = Daemon::absent().run("key use AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    assert!(told.contains("exit 2") && !told.contains("ODxAREhM"), "{told}");
}

const SUBNET: &str = r#"{"net":"demo","cidr":"10.0.9.0/24","capacity":253,"leased":3,"percent":1,
    "leased_here":2,"free":125,"free_here":125,"owners":2,"unreachable":125}"#;

#[test]
fn ipam_ls() {
    check(
        "ipam ls",
        &format!("[{SUBNET}]"),
        expect![[r#"
        > GET /v1/ipam
        NET   SUBNET       CAPACITY  LEASED  %  HERE  FREE  FREE-HERE  OWNERS  UNREACHABLE
        demo  10.0.9.0/24  253       3       1  2     125   125        2       125
        exit 0
    "#]],
    );
}

#[test]
fn ipam_show() {
    let reply = format!(
        r#"[{{"subnet":{SUBNET},"ranges":[
        {{"first":"10.0.9.0","last":"10.0.9.128","owner":"a","local":true,"state":"up","version":2,
          "addresses":127,"leased":2}},
        {{"first":"10.0.9.129","last":"10.0.9.254","owner":"b","local":false,"state":"down",
          "version":3,"addresses":126,"leased":1}},
        {{"first":"10.0.9.255","last":"10.0.9.255","owner":null,"local":false,"state":"unknown",
          "version":0,"addresses":0,"leased":0}}],
        "held":["10.0.9.7","10.0.9.8"],
        "abroad":[{{"address":"10.0.9.2","endpoint":"web","host":"b","owner":"a"}},
                  {{"address":"10.0.9.3","endpoint":"db","host":"b","owner":null}}]}}]"#
    );
    check(
        "ipam show demo",
        &reply,
        expect![[r#"
        > GET /v1/ipam/demo
        net:         demo
        subnet:      10.0.9.0/24
        leased:      3 of 253 (1%), 2 here
        free:        125, 125 of them here
        unreachable: 125 free addresses of hosts that cannot be reached
        held back:   10.0.9.7,10.0.9.8
        FIRST       LAST        OWNER  STATE    VERSION  ADDRESSES  LEASED
        10.0.9.0    10.0.9.128  a      here     2        127        2
        10.0.9.129  10.0.9.254  b      down     3        126        1
        10.0.9.255  10.0.9.255  -      unknown  0        0          0
        on another host than their owner:
        ADDRESS   ENDPOINT  HOST  OWNER
        10.0.9.2  web       b     a
        10.0.9.3  db        b     -
        exit 0
    "#]],
    );
}

#[test]
fn ipam_check_fails_if_anything_is_left_wrong() {
    let reply = |findings: &str| {
        format!(r#"{{"networks":2,"endpoints":3,"leases":1,"findings":[{findings}]}}"#)
    };
    let leaked = r#"{"kind":"leaked","net":"demo","text":"10.0.9.9 is leased\u001b"}"#;
    let repaired = r#"{"kind":"leaked","net":"demo","text":"10.0.9.9 is leased",
        "repaired":"gave 10.0.9.9 back"}"#;
    check(
        "ipam check",
        &reply(""),
        expect![[r#"
        > POST /v1/ipam/check {}
        ok: checked 2 networks, 3 endpoints, 1 lease of this host
        exit 0
    "#]],
    );
    check(
        "ipam check demo",
        &reply(leaked),
        expect![[r#"
        > POST /v1/ipam/check {"net":"demo"}
        demo: 10.0.9.9 is leased\u{1b}
        1 wrong: checked 2 networks, 3 endpoints, 1 lease of this host
        exit 1
    "#]],
    );
    check(
        "ipam check demo --repair",
        &reply(repaired),
        expect![[r#"
        > POST /v1/ipam/check {"net":"demo","repair":true}
        demo: 10.0.9.9 is leased
          repaired: gave 10.0.9.9 back
        ok: 1 repaired: checked 2 networks, 3 endpoints, 1 lease of this host
        exit 0
    "#]],
    );
    check(
        "ipam check --repair",
        &reply(&format!("{leaked},{repaired}")),
        expect![[r#"
        > POST /v1/ipam/check {"repair":true}
        demo: 10.0.9.9 is leased\u{1b}
        demo: 10.0.9.9 is leased
          repaired: gave 10.0.9.9 back
        1 wrong, 1 repaired: checked 2 networks, 3 endpoints, 1 lease of this host
        exit 1
    "#]],
    );
}

#[test]
fn ipam_release() {
    let reply = r#"{"net":"demo","address":"10.0.9.9"}"#;
    check(
        "ipam release demo 10.0.9.9",
        reply,
        expect![[r#"
        > POST /v1/ipam/demo/release {"address":"10.0.9.9"}
        released 10.0.9.9 of demo
        exit 0
    "#]],
    );
    let refused =
        r#"{"code":"in_use","message":"endpoint web on host a has 10.0.9.9","hint":"detach it"}"#;
    let told = Daemon::answering("409 Conflict", refused).run("ipam release demo 10.0.9.9");
    expect![[r#"
        > POST /v1/ipam/demo/release {"address":"10.0.9.9"}
        ! overlayctl: cannot release 10.0.9.9 of demo: endpoint web on host a has 10.0.9.9
        !             detach it
        exit 1
    "#]]
    .assert_eq(&told);
}
