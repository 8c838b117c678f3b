use clap::CommandFactory;
use expect_test::{Expect, expect};

use overlay_model::outer::{Df, Dscp, SourcePorts, Ttl};

use super::*;

/// A machine made of words.
struct Machine {
    host_name: &'static str,
    files: Vec<(&'static str, String)>,
    devices: Vec<(&'static str, Vec<&'static str>)>,
}

impl Surroundings for Machine {
    fn host_name(&self) -> String {
        self.host_name.to_owned()
    }
    fn read(&self, path: &Path) -> io::Result<String> {
        let found = self.files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| text.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn addresses(&self, device: &IfName) -> Option<Vec<IpAddr>> {
        let (_, addresses) = self.devices.iter().find(|(name, _)| *name == device.as_str())?;
        Some(addresses.iter().map(|text| text.parse().unwrap()).collect())
    }
}

/// Flags as typed, variables, and the text of the default file.
#[derive(Default, Clone, Copy)]
struct Told<'a> {
    flags: &'a str,
    env: &'a [(&'a str, &'a str)],
    file: &'a str,
    host_name: &'static str,
}

impl Told<'_> {
    fn resolve(self) -> Result<Resolved, Problems> {
        let args = std::iter::once("overlayd").chain(self.flags.split_whitespace());
        let cli = Cli::try_parse_from(args).unwrap();
        let env = self.env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let file = (DEFAULT_FILE, self.file.to_owned());
        let machine = Machine {
            host_name: if self.host_name.is_empty() { "box1.example.org" } else { self.host_name },
            files: if self.file.is_empty() { vec![] } else { vec![file] },
            devices: vec![("eth0", vec!["192.0.2.1", "2001:db8::1"]), ("eth1", vec![])],
        };
        resolve_in(&cli.flags, &env, &machine)
    }
    #[track_caller]
    fn settings(self) -> Settings {
        self.resolve().unwrap().settings
    }
    #[track_caller]
    fn problems(self, lines: Expect) {
        lines.assert_eq(&self.resolve().unwrap_err().to_string());
    }
}

#[track_caller]
fn flags(flags: &str) -> Settings {
    Told { flags, ..Told::default() }.settings()
}
#[track_caller]
fn bad_flags(flags: &str, lines: Expect) {
    Told { flags, ..Told::default() }.problems(lines);
}
#[track_caller]
fn bad_file(file: &str, lines: Expect) {
    Told { file, ..Told::default() }.problems(lines);
}

#[test]
fn the_flags_are_sound() {
    <Cli as CommandFactory>::command().debug_assert();
}

#[test]
fn every_key_is_a_flag_and_every_flag_a_key() {
    let command = <Cli as CommandFactory>::command();
    let mut flags: Vec<_> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|long| !["config", "help", "version"].contains(long))
        .collect();
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    flags.sort_unstable();
    keys.sort_unstable();
    assert_eq!(flags, keys);
    for key in keys {
        let cli = Cli::try_parse_from(["overlayd", &format!("--{key}=x")]).unwrap();
        assert_eq!(cli.flags.get(key), Some(vec!["x".to_owned()]), "{key} is not looked up");
    }
}

#[test]
fn told_nothing_everything_has_its_default() {
    let resolved = Told::default().resolve().unwrap();
    assert_eq!(resolved.file, None);
    expect![[r##"
        # join: nobody; others may join this host
        name = "box1"                                       # the machine's host name
        # advertise: the gossip address
        # vtep-ip: the source address of the default route
        vtep-families = "one"                               # default
        # underlay-dev: the device that has the VTEP address
        gossip-port = 7946                                  # default
        # gossip-bind: the VTEP address
        # key-file: no key: gossip on the loopback device only, unless insecure
        insecure = false                                    # default
        vxlan-port = 4789                                   # default
        vxlan-checksum = true                               # default
        # vxlan-source-ports: the range of net.ipv4.ip_local_port_range
        vxlan-df = "unset"                                  # default
        vxlan-ttl = "auto"                                  # default
        vxlan-dscp = "0"                                    # default
        vxlan-tx-checksum = "auto"                          # default
        state-dir = "/var/lib/overlayd"                     # default
        socket = "/run/overlayd/overlayd.sock"              # default
        log = "text"                                        # default
        log-level = "info"                                  # default
        down-after = "1s"                                   # default
        down-grace = "10s"                                  # default
        stop-grace = "10m"                                  # default
        forget-after = "24h"                                # default
        gossip-interval = "500ms"                           # default
        alone-after = "15s"                                 # default
        leak-grace = "60s"                                  # default
        host-access = "none"                                # default
        dns = "on"                                          # default
        dns-ttl = "5s"                                      # default
        resolv-conf = "/etc/resolv.conf"                    # default
        # docker-plugin: not asked by dockerd
        docker-socket = "/run/docker.sock"                  # default
        # journal: no journal
        journal-limit = "64MiB"                             # default
    "##]]
    .assert_eq(&resolved.to_toml());
}

#[test]
fn a_flag_is_over_a_variable_is_over_the_file_is_over_the_default() {
    let mut told = Told {
        flags: "--gossip-port 1001",
        env: &[("OVERLAYD_GOSSIP_PORT", "1002")],
        file: "gossip-port = 1003",
        host_name: "",
    };
    assert_eq!(told.settings().gossip_port, 1001);
    told.flags = "";
    assert_eq!(told.settings().gossip_port, 1002);
    told.env = &[("OVERLAYD_GOSSIP_PORT", "")];
    assert_eq!(told.settings().gossip_port, 1003, "an empty variable says nothing");
    told.file = "";
    assert_eq!(told.settings().gossip_port, 7946);
}

#[test]
fn the_printed_settings_say_where_each_came_from_and_read_back_as_themselves() {
    let told = Told {
        flags: "--join a:1,b --join [2001:db8::2]:3 --name Web-1",
        env: &[("OVERLAYD_LOG", "json"), ("OVERLAYD_DOWN_GRACE", "1m 30s")],
        file: "# ours\nvtep-ip = \"192.0.2.1\"\n\nstate-dir = '/srv/o\"v'\n",
        host_name: "",
    };
    let resolved = told.resolve().unwrap();
    let toml = resolved.to_toml();
    expect![[r#"
        join = ["a:1", "b:7946", "[2001:db8::2]:3"]         # --join
        name = "web-1"                                      # --name
        # advertise: the gossip address
        vtep-ip = "192.0.2.1"                               # /etc/overlayd/overlayd.toml line 2
        vtep-families = "one"                               # default
        # underlay-dev: the device that has the VTEP address
        gossip-port = 7946                                  # default
        # gossip-bind: the VTEP address
        # key-file: no key: gossip on the loopback device only, unless insecure
        insecure = false                                    # default
        vxlan-port = 4789                                   # default
        vxlan-checksum = true                               # default
        # vxlan-source-ports: the range of net.ipv4.ip_local_port_range
        vxlan-df = "unset"                                  # default
        vxlan-ttl = "auto"                                  # default
        vxlan-dscp = "0"                                    # default
        vxlan-tx-checksum = "auto"                          # default
        state-dir = '/srv/o"v'                              # /etc/overlayd/overlayd.toml line 4
        socket = "/run/overlayd/overlayd.sock"              # default
        log = "json"                                        # OVERLAYD_LOG
        log-level = "info"                                  # default
        down-after = "1s"                                   # default
        down-grace = "1m 30s"                               # OVERLAYD_DOWN_GRACE
        stop-grace = "10m"                                  # default
        forget-after = "24h"                                # default
        gossip-interval = "500ms"                           # default
        alone-after = "15s"                                 # default
        leak-grace = "60s"                                  # default
        host-access = "none"                                # default
        dns = "on"                                          # default
        dns-ttl = "5s"                                      # default
        resolv-conf = "/etc/resolv.conf"                    # default
        # docker-plugin: not asked by dockerd
        docker-socket = "/run/docker.sock"                  # default
        # journal: no journal
        journal-limit = "64MiB"                             # default
    "#]]
    .assert_eq(&toml);
    let again = Told { file: &toml, ..Told::default() }.settings();
    assert_eq!(again, resolved.settings);
}

#[test]
fn every_setting_can_stand_in_the_file() {
    let settings = Told {
        file: r#"
            join = ["a:1", "b:2"]
            name = "x"
            advertise = "198.51.100.7:99"
            vtep-ip = "192.0.2.1"
            underlay-dev = "eth0"
            gossip-port = 1
            gossip-bind = "0.0.0.0"
            vxlan-port = "2"
            vxlan-checksum = false
            vxlan-source-ports = "49152-65535"
            vxlan-df = "set"
            vxlan-ttl = 7
            vxlan-dscp = "inherit"
            vxlan-tx-checksum = "off"
            state-dir = "/s"
            socket = "/r/s.sock"
            log = "json"
            log-level = "warn,overlay_gossip=debug"
            down-after = "2s"
            down-grace = "3s"
            stop-grace = "1h"
            gossip-interval = "1s"
            alone-after = "4s"
            leak-grace = "5s"
            dns = "off"
            dns-ttl = "1m"
            resolv-conf = "/r/resolv.conf"
            docker-plugin = "/run/docker/plugins/overlayd.sock"
            docker-socket = "/r/docker.sock"
        "#,
        ..Told::default()
    }
    .settings();
    let second = Duration::from_secs(1);
    assert_eq!(
        settings,
        Settings {
            join: vec!["a:1".to_owned(), "b:2".to_owned()],
            name: Name::new("x").unwrap(),
            advertise: Some(Advertise { ip: [198, 51, 100, 7].into(), port: Some(99) }),
            vtep_ips: vec![[192, 0, 2, 1].into()],
            both_families: false,
            underlay_dev: Some(IfName::new("eth0").unwrap()),
            gossip_port: 1,
            gossip_bind: Some([0; 4].into()),
            key_file: None,
            insecure: false,
            vxlan_port: 2,
            outer: Outer {
                checksum: false,
                source_ports: Some(SourcePorts { first: 49152, last: 65535 }),
                df: Df::Set,
                ttl: Ttl::Hops(7),
                dscp: Dscp::Inherit,
            },
            tx_checksum: Some(false),
            state_dir: "/s".into(),
            socket: "/r/s.sock".into(),
            log: LogForm::Json,
            log_level: "warn,overlay_gossip=debug".to_owned(),
            down_after: 2 * second,
            down_grace: 3 * second,
            stop_grace: 3600 * second,
            forget_after: Some(24 * 3600 * second),
            gossip_interval: second,
            alone_after: 4 * second,
            leak_grace: 5 * second,
            host_access: overlay_model::Access::Closed,
            dns: false,
            dns_ttl: 60,
            resolv_conf: "/r/resolv.conf".into(),
            docker_plugin: Some("/run/docker/plugins/overlayd.sock".into()),
            docker_socket: "/r/docker.sock".into(),
            journal: None,
            journal_limit: 64 << 20,
        }
    );
}

#[test]
fn peers_may_be_given_in_every_way_and_without_a_port() {
    let env = Told { env: &[("OVERLAYD_JOIN", "a:1, b:2,,c")], ..Told::default() };
    assert_eq!(env.settings().join, ["a:1", "b:2", "c:7946"]);
    let file = Told { file: "join = 'a:1,b'\ngossip-port = 99", ..Told::default() };
    assert_eq!(file.settings().join, ["a:1", "b:99"]);
    let join = flags("--join 192.0.2.7 --join 2001:db8::7 --join [2001:db8::8]").join;
    assert_eq!(join, ["192.0.2.7:7946", "[2001:db8::7]:7946", "[2001:db8::8]:7946"]);
}

#[test]
fn what_is_said_of_names_is_on_or_off_and_in_whole_seconds() {
    bad_flags(
        "--dns yes --dns-ttl 1500ms --resolv-conf resolv.conf",
        expect![[r#"
        --dns: `yes` is neither on nor off
        --dns-ttl: `1500ms` is not in whole seconds up to 1h
        --resolv-conf: `resolv.conf` depends on where overlayd is started; write the path from / on"#]],
    );
    bad_flags("--dns-ttl 2h", expect!["--dns-ttl: `2h` is not in whole seconds up to 1h"]);
}

#[test]
fn a_peer_that_is_no_address_is_shown_how() {
    bad_flags(
        "--join a:b --join :1 --join a:0 --join http://a:1",
        expect![[r#"
            --join: `a:b` is not HOST:PORT; write peer:7946, 192.0.2.1:7946 or [2001:db8::1]:7946
            --join: `:1` is not HOST:PORT; write peer:7946, 192.0.2.1:7946 or [2001:db8::1]:7946
            --join: `a:0` is not HOST:PORT; write peer:7946, 192.0.2.1:7946 or [2001:db8::1]:7946
            --join: `http://a:1` is not HOST:PORT; write peer:7946, 192.0.2.1:7946 or [2001:db8::1]:7946"#]],
    );
}

#[test]
fn the_name_is_the_host_name_up_to_its_first_dot_in_lower_case() {
    let told = Told { host_name: "Node-7.Example.ORG", ..Told::default() };
    assert_eq!(told.settings().name.as_str(), "node-7");
}

#[test]
fn a_host_name_that_is_no_label_asks_for_another() {
    Told { host_name: "my_box", ..Told::default() }.problems(expect!["the machine's host name does not serve: `my_box` cannot be a name: it is not a DNS label; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends; or give another one with --name"]);
    let told = Told { host_name: "my_box", flags: "--name mine", ..Told::default() };
    assert_eq!(told.settings().name.as_str(), "mine");
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    Told {
        flags: "--gossip-port 0 --vtep-ip 192.0.2.300",
        env: &[("OVERLAYD_LOG", "debug"), ("OVERLAYD_NAME", "-x")],
        file: "alone-after = 'soon'\nunderlay-dev = 'a/b'\ndown-grace = '0s'",
        host_name: "",
    }
    .problems(expect![[r#"
        --gossip-port: `0` is not a port; use a number from 1 to 65535
        OVERLAYD_NAME: `-x` cannot be a name: it starts or ends with `-`; use 1 to 63 of a-z, 0-9 and `-`, no `-` at the ends
        --vtep-ip: `192.0.2.300` is not an IP address
        /etc/overlayd/overlayd.toml line 2: underlay-dev: `a/b` cannot name an interface; use 1 to 15 printable ASCII characters without `/` and `:`
        OVERLAYD_LOG: `debug` is no form of log; use text or json (the level is set by log-level)
        /etc/overlayd/overlayd.toml line 3: down-grace: no time at all is not enough; use something like 10s
        /etc/overlayd/overlayd.toml line 1: alone-after: `soon` is not a time; write it like 500ms, 10s or 2m"#]]);
}

#[test]
fn a_key_that_does_not_exist_is_named_with_its_nearest_neighbour() {
    bad_file(
        "gossip_port = 1\nname = 'x'\nvtepip = '1.1.1.1'\n[network]\nmtu = 1",
        expect![[r#"
            /etc/overlayd/overlayd.toml line 1: there is no setting `gossip_port`; did you mean `gossip-port`?
            /etc/overlayd/overlayd.toml line 3: there is no setting `vtepip`; did you mean `vtep-ip`?
            /etc/overlayd/overlayd.toml line 4: there is no setting `network`; there are join, name, advertise, vtep-ip, vtep-families, underlay-dev, gossip-port, gossip-bind, key-file, insecure, vxlan-port, vxlan-checksum, vxlan-source-ports, vxlan-df, vxlan-ttl, vxlan-dscp, vxlan-tx-checksum, state-dir, socket, log, log-level, down-after, down-grace, stop-grace, forget-after, gossip-interval, alone-after, leak-grace, host-access, dns, dns-ttl, resolv-conf, docker-plugin, docker-socket, journal, journal-limit"#]],
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_shown_the_right_one() {
    bad_file(
        "join = [1]\ngossip-port = true\nname = 7\ndown-grace = 10",
        expect![[r#"
            /etc/overlayd/overlayd.toml line 1: join must be a list of texts, like ["host:7946"]
            /etc/overlayd/overlayd.toml line 2: gossip-port must be a number
            /etc/overlayd/overlayd.toml line 3: name must be a text in quotes
            /etc/overlayd/overlayd.toml line 4: down-grace must be a text in quotes"#]],
    );
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    bad_file(
        "name = 'x'\nlog = json\n",
        expect![
            "/etc/overlayd/overlayd.toml line 2: string values must be quoted, expected literal string"
        ],
    );
    bad_file(
        "name = 'x'\nname = 'y'\n",
        expect!["/etc/overlayd/overlayd.toml line 2: duplicate key"],
    );
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    bad_flags(
        "--config /nowhere.toml",
        expect!["cannot read the file /nowhere.toml (given by --config): entity not found"],
    );
    Told { env: &[("OVERLAYD_CONFIG", "/nowhere.toml")], ..Told::default() }.problems(expect![
        "cannot read the file /nowhere.toml (given by OVERLAYD_CONFIG): entity not found"
    ]);
}

#[test]
fn a_file_that_was_asked_for_is_read_in_place_of_the_usual_one() {
    let cli = Cli::try_parse_from(["overlayd", "--config", "/mine.toml"]).unwrap();
    let files = vec![
        (DEFAULT_FILE, "gossip-port = 1".to_owned()),
        ("/mine.toml", "gossip-port = 2".to_owned()),
    ];
    let machine = Machine { host_name: "a", files, devices: vec![] };
    let resolved = resolve_in(&cli.flags, &BTreeMap::new(), &machine).unwrap();
    assert_eq!(resolved.settings.gossip_port, 2);
    assert_eq!(resolved.file.as_deref(), Some(Path::new("/mine.toml")));
}

#[test]
fn values_that_do_not_go_together_are_told_as_a_pair() {
    bad_flags(
        "--gossip-port 4789",
        expect![
            "gossip-port 4789 (--gossip-port) and vxlan-port 4789 (default): both are UDP ports of this host: set another"
        ],
    );
    bad_flags(
        "--down-grace 20m",
        expect![
            "down-grace 20m (--down-grace) and stop-grace 10m (default): a host that was stopped in good order gets more time than one that vanished: make the second longer"
        ],
    );
    bad_flags(
        "--advertise 192.0.2.1 --gossip-bind 2001:db8::1",
        expect![
            "advertise 192.0.2.1 (--advertise) and gossip-bind 2001:db8::1 (--gossip-bind): one is IPv4 and the other IPv6: nobody could reach us"
        ],
    );
    bad_flags(
        "--vtep-ip 192.0.2.9 --underlay-dev eth0",
        expect![
            "vtep-ip 192.0.2.9 (--vtep-ip) and underlay-dev eth0 (--underlay-dev): that device has 192.0.2.1, 2001:db8::1: give one of the two, or the right address"
        ],
    );
    bad_flags(
        "--vtep-ip 192.0.2.9 --underlay-dev eth1",
        expect![
            "vtep-ip 192.0.2.9 (--vtep-ip) and underlay-dev eth1 (--underlay-dev): that device has no address: give one of the two, or the right address"
        ],
    );
}

#[test]
fn an_address_that_the_device_has_and_a_device_that_is_not_there_yet_are_fine() {
    flags("--vtep-ip 192.0.2.1 --underlay-dev eth0");
    flags("--vtep-ip 192.0.2.1 --underlay-dev later0");
    flags("--advertise 192.0.2.1 --gossip-bind ::");
}

#[test]
fn addresses_that_reach_nobody_are_refused() {
    for vtep in ["0.0.0.0", "224.0.0.1", "127.0.0.1"] {
        let told = Told { flags: &format!("--vtep-ip {vtep}"), ..Told::default() };
        let text = told.resolve().unwrap_err().to_string();
        assert!(text.contains("give the address of this host on the underlay"), "{text}");
    }
    bad_flags(
        "--advertise 0.0.0.0",
        expect!["--advertise: others cannot reach us at `0.0.0.0`; give one address of this host"],
    );
    bad_flags(
        "--advertise peer:7946",
        expect![
            "--advertise: `peer:7946` is not IP or IP:PORT; write 192.0.2.1:7946 or [2001:db8::1]:7946"
        ],
    );
    bad_flags(
        "--advertise 192.0.2.1:0",
        expect!["--advertise: `192.0.2.1:0` has port 0; use a number from 1 to 65535"],
    );
    bad_flags(
        "--gossip-bind 224.0.0.1",
        expect!["--gossip-bind: `224.0.0.1` is not one host's address; give one of this host's"],
    );
}

#[test]
fn paths_and_times_out_of_range_are_refused() {
    bad_flags(
        "--state-dir var/lib",
        expect![
            "--state-dir: `var/lib` depends on where overlayd is started; write the path from / on"
        ],
    );
    bad_flags(
        &format!("--socket /{}", "x".repeat(107)),
        expect!["--socket: a socket's path has at most 107 bytes, this has 108"],
    );
    bad_flags(
        "--gossip-interval 1ms",
        expect!["--gossip-interval: `1ms` is out of range; use 50ms to 10s"],
    );
    bad_flags(
        "--gossip-interval 500",
        expect!["--gossip-interval: `500` is not a time; write it like 500ms, 10s or 2m"],
    );
}

#[test]
fn a_log_level_is_a_level_or_a_filter() {
    assert_eq!(flags("--log-level DEBUG").log_level, "DEBUG");
    assert_eq!(flags("--log-level info,overlay_gossip=trace").log_level.len(), 25);
    bad_flags(
        "--log-level inof",
        expect![
            "--log-level: `inof` is no log filter (did you mean info?); use error, warn, info, debug or trace, or a filter like info,overlay_gossip=debug"
        ],
    );
    bad_flags(
        "--log-level info,x=loud",
        expect![[
            r#"--log-level: `info,x=loud` is no log filter (error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5); use error, warn, info, debug or trace, or a filter like info,overlay_gossip=debug"#
        ]],
    );
}

#[test]
fn a_variable_that_looks_like_ours_is_a_warning() {
    let env = [("OVERLAYD_GOSIP_PORT", "1"), ("OVERLAYD_CONFIG", ""), ("PATH", "/")];
    let resolved = Told { env: &env, ..Told::default() }.resolve().unwrap();
    assert_eq!(
        resolved.warnings,
        ["the environment has OVERLAYD_GOSIP_PORT, which is no setting; \
          did you mean OVERLAYD_GOSSIP_PORT?"]
    );
}

#[test]
fn run_is_what_is_done_unless_told_and_flags_may_stand_on_either_side() {
    let parse = |args: &str| Cli::try_parse_from(args.split_whitespace()).unwrap();
    assert_eq!(parse("overlayd").command(), Command::Run);
    let cli = parse("overlayd --name a check-config --gossip-port 7");
    assert_eq!(cli.command(), Command::CheckConfig);
    assert_eq!(
        (cli.flags.name.as_deref(), cli.flags.gossip_port.as_deref()),
        (Some("a"), Some("7"))
    );
    assert_eq!(parse("overlayd teardown").command(), Command::Teardown);
}

#[test]
fn gossip_listens_and_is_reached_where_it_was_told_to() {
    let vtep: IpAddr = [192, 0, 2, 1].into();
    let at = |settings: Settings| {
        let has = |ip: IpAddr| ["192.0.2.1", "192.0.2.9"].iter().any(|own| ip.to_string() == *own);
        let listen = settings.gossip_listen(vtep, has);
        let advertise = settings.gossip_advertise(vtep);
        (listen.to_string(), advertise.to_string())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(at(flags("")), pair("192.0.2.1:7946", "192.0.2.1:7946"));
    assert_eq!(at(flags("--gossip-bind 0.0.0.0")), pair("0.0.0.0:7946", "192.0.2.1:7946"));
    assert_eq!(
        at(flags("--advertise 198.51.100.1:99 --gossip-port 1")),
        pair("192.0.2.1:1", "198.51.100.1:99")
    );
    // A router translates that address, or it is another of this host's.
    assert_eq!(at(flags("--advertise 198.51.100.1")), pair("192.0.2.1:7946", "198.51.100.1:7946"));
    assert_eq!(at(flags("--advertise 192.0.2.9")), pair("192.0.2.9:7946", "192.0.2.9:7946"));
    assert_eq!(at(flags("--advertise 2001:db8::9")), pair("[::]:7946", "[2001:db8::9]:7946"));
}

#[test]
fn this_machine_knows_its_name_and_its_loopback_device() {
    assert!(!ThisMachine.host_name().is_empty());
    assert!(ThisMachine.addresses(&IfName::new("lo").unwrap()).is_some());
    assert!(ThisMachine.addresses(&IfName::new("no-such-dev").unwrap()).is_none());
}

#[test]
fn insecure_is_said_by_its_name_alone_or_with_a_word() {
    assert!(!flags("").insecure);
    assert!(flags("--insecure").insecure);
    assert!(flags("--insecure check-config").insecure, "what follows is no word of it");
    assert!(!flags("--insecure=false").insecure);
    assert!(Told { file: "insecure = true", ..Told::default() }.settings().insecure);
    let env = [("OVERLAYD_INSECURE", "true")];
    assert!(Told { env: &env, ..Told::default() }.settings().insecure);
    bad_flags("--insecure=yes", expect!["--insecure: `yes` is neither true nor false"]);
    bad_file(
        "insecure = 1",
        expect!["/etc/overlayd/overlayd.toml line 1: insecure must be true or false"],
    );
}

#[test]
fn a_key_file_is_a_path_from_the_root_and_no_friend_of_insecure() {
    assert_eq!(flags("--key-file /etc/overlayd/key").key_file, Some("/etc/overlayd/key".into()));
    bad_flags(
        "--key-file key",
        expect!["--key-file: `key` depends on where overlayd is started; write the path from / on"],
    );
    bad_flags(
        "--key-file /k --insecure",
        expect![
            "key-file /k (--key-file) and insecure true (--insecure): gossip is sealed or it is not: give one of the two"
        ],
    );
}

#[test]
fn outer_headers_that_cannot_be_are_refused_with_what_can() {
    bad_flags(
        "--vxlan-source-ports 9-9",
        expect![
            "--vxlan-source-ports: `9-9` is no range of two ports or more; write it like 49152-65535"
        ],
    );
    bad_flags("--vxlan-df never", expect!["--vxlan-df: `never` is none of unset, set, inherit"]);
    bad_flags("--vxlan-ttl 0", expect!["--vxlan-ttl: `0` is none of auto, inherit, 1 to 255"]);
    bad_flags("--vxlan-dscp 64", expect!["--vxlan-dscp: `64` is none of inherit, 0 to 63"]);
    bad_flags(
        "--vxlan-tx-checksum yes",
        expect!["--vxlan-tx-checksum: `yes` is none of auto, on, off"],
    );
    bad_flags("--vxlan-checksum=no", expect!["--vxlan-checksum: `no` is neither true nor false"]);
    bad_file(
        "vxlan-df = 1\nvxlan-ttl = true",
        expect![[r#"
        /etc/overlayd/overlayd.toml line 1: vxlan-df must be a text in quotes
        /etc/overlayd/overlayd.toml line 2: vxlan-ttl must be a number or a text in quotes"#]],
    );
}

#[test]
fn a_vtep_address_of_each_family_can_be_said_in_any_place() {
    let both: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
    let one: Vec<IpAddr> = both[..1].to_vec();
    let file = |file| Told { file, ..Told::default() }.settings();
    for settings in [
        flags("--vtep-ip 192.0.2.1 --vtep-ip 2001:db8::1 --underlay-dev eth0"),
        flags("--vtep-ip 192.0.2.1,2001:db8::1"),
        file("vtep-ip = ['192.0.2.1', '2001:db8::1']"),
        Told { env: &[("OVERLAYD_VTEP_IP", "192.0.2.1, 2001:db8::1")], ..Told::default() }
            .settings(),
    ] {
        assert_eq!(settings.vtep_ips, both);
        assert!(settings.dual() && !settings.both_families);
    }
    assert_eq!(file("vtep-ip = '192.0.2.1'").vtep_ips, one);
    assert_eq!(file("vtep-ip = ['192.0.2.1']").vtep_ips, one);
    assert!(!flags("--vtep-ip 192.0.2.1").dual());
    assert!(flags("--vtep-families both").dual());
    let printed = Told { flags: "--vtep-ip 192.0.2.1,2001:db8::1", ..Told::default() };
    let printed = printed.resolve().unwrap().to_toml();
    assert!(printed.contains(r#"vtep-ip = ["192.0.2.1", "2001:db8::1"]"#), "{printed}");

    bad_flags(
        "--vtep-ip 192.0.2.1 --vtep-ip 192.0.2.2",
        expect![
            "--vtep-ip: `192.0.2.2` is the second address of its family; give at most one of IPv4 and one of IPv6"
        ],
    );
    bad_flags(
        "--vtep-ip 192.0.2.1,::1 --vtep-families two",
        expect![[r#"
            --vtep-ip: `::1` reaches no other host; give the address of this host on the underlay
            --vtep-families: `two` is neither one nor both"#]],
    );
    bad_flags(
        "--vtep-ip 192.0.2.1,2001:db8::9 --underlay-dev eth0",
        expect![
            "vtep-ip 192.0.2.1,2001:db8::9 (--vtep-ip) and underlay-dev eth0 (--underlay-dev): that device has 192.0.2.1, 2001:db8::1: give one of the two, or the right address"
        ],
    );
    bad_file(
        "vtep-ip = 7",
        expect![
            "/etc/overlayd/overlayd.toml line 1: vtep-ip must be a text in quotes, or a list of two"
        ],
    );
}

#[test]
fn with_both_families_gossip_listens_at_both_unless_one_is_said() {
    let vteps: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
    let also = |text: &str, vteps: &[IpAddr]| {
        let settings = flags(text);
        let listen = settings.gossip_listen(vteps[0], |_| true);
        settings.gossip_listen_also(listen, vteps).map(|addr| addr.to_string())
    };
    let v6 = Some("[2001:db8::1]:7946".to_owned());
    assert_eq!(also("", &vteps), v6);
    assert_eq!(also("--advertise 192.0.2.9", &vteps), v6);
    let v4 = Some("192.0.2.1:99".to_owned());
    assert_eq!(also("--advertise 2001:db8::9 --gossip-port 99", &vteps), v4);
    assert_eq!(also("", &vteps[..1]), None, "there is no other one");
    assert_eq!(also("--gossip-bind 192.0.2.1", &vteps), None);
    assert_eq!(also("--gossip-bind ::", &vteps), None, "which is both already");
}
