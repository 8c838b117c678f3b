//! Gossip is sealed: with the cluster's key and no other, changed while the
//! cluster runs, in whole packets, and nobody is refused in silence.
//!
//! ```text
//!   host a 192.0.2.1 ──┐
//!   host b 192.0.2.2 ──┼── underlay, captured
//!   host c 192.0.2.3 ──┘
//! ```

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_api::v1;
use overlay_tests::binaries::binaries;
use overlay_tests::capture::Frames;
use overlay_tests::shell::command_in;
use overlay_tests::{DaemonOptions, Host, Lab, NetSpec, eventually};

/// In the names of all networks that a host makes: on the wire it would give
/// an open message away.
const MARK: &str = "marked-record";

fn count(host: &Host, counter: &str) -> Result<u64> {
    Ok(host.status()?.counters.get(counter).copied().unwrap_or(0))
}

fn counts(host: &Host, counter: &str) -> Result<()> {
    eventually(&format!("{} counts {counter}", host.name()), || {
        ensure!(count(host, counter)? > 0, "none: {:?}", host.status()?.counters);
        Ok(())
    })
}

fn logs(host: &Host, words: &[&str]) -> Result<()> {
    eventually(&format!("the log of {} has a line with {words:?}", host.name()), || {
        let log = std::fs::read_to_string(host.log_file())?;
        let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "it says: {}", host.log_tail(10));
        Ok(())
    })
}

/// `overlayd keygen`, and the id by which a host that adds it calls it.
fn keygen(host: &Host) -> Result<String> {
    let out = host.overlayd(&["keygen"])?;
    ensure!(out.code == 0 && out.stdout.trim().len() == 44, "{out:?}");
    Ok(out.stdout)
}

/// `overlayctl key add`, the key on standard input.
fn key_add(host: &Host, key: &str) -> Result<v1::Key> {
    let mut child = host
        .overlayctl()?
        .args(["--json", "key", "add"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("it was piped")?.write_all(key.as_bytes())?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "key add on {}: {}", host.name(), out.status);
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// A step that is refused because it locks `whom` out.
fn refused(host: &Host, step: &[&str], whom: &str) -> Result<()> {
    let out = host.ctl(step)?;
    ensure!(out.code == 1 && out.stderr.contains(whom), "{step:?} on {}: {out:?}", host.name());
    Ok(())
}

/// A step that works as soon as the others are heard to be ready for it.
fn step(host: &Host, step: &[&str]) -> Result<()> {
    eventually(&format!("{} does {step:?}", host.name()), || {
        let out = host.ctl(step)?;
        ensure!(out.code == 0, "{}", out.stderr);
        Ok(())
    })
}

/// News crosses in all directions.
fn all_hear_each_other(hosts: &[Host], round: &str) -> Result<()> {
    for host in hosts {
        let name = format!("{round}-{}", host.name());
        host.net_create(&name, NetSpec::default())?;
        for other in hosts {
            other.knows_net(&name)?;
        }
    }
    Ok(())
}

#[test]
fn the_key_of_a_live_cluster_is_changed_over_the_command_line() -> Result<()> {
    Lab::run(|lab| {
        let [a, b, c] = lab.hosts(["a", "b", "c"])?;
        let hosts = [a.clone(), b.clone(), c.clone()];
        all_hear_each_other(&hosts, "before")?;
        let old = a.host_seen("a")?.key_used.context("it is sealed")?;
        let secret = keygen(&a)?;

        let added = key_add(&a, &secret)?;
        ensure!(added.here && !added.used && added.lacking == ["b", "c"], "{added:?}");
        let new = added.id.as_str();
        ensure!(new != old, "{new}");
        key_add(&b, &secret)?;
        // Two of three have it.
        eventually("a knows that b has it", || {
            let keys: Vec<v1::Key> = a.ctl_json(&["key", "ls"])?;
            let key = keys.into_iter().find(|key| key.id == new).context("not listed")?;
            ensure!(key.held_by == ["b"] && key.lacking == ["c"], "{key:?}");
            Ok(())
        })?;
        refused(&a, &["key", "use", new], "c could not hear this host")?;
        key_add(&c, &secret)?;
        all_hear_each_other(&hosts, "added")?;

        step(&a, &["key", "use", new])?;
        refused(&a, &["key", "remove", &old], "still in use")?;
        refused(&a, &["key", "remove", new], "in use on this host")?;
        all_hear_each_other(&hosts, "mixed")?;
        step(&b, &["key", "use", new])?;
        step(&c, &["key", "use", new])?;
        all_hear_each_other(&hosts, "used")?;
        for host in &hosts {
            step(host, &["key", "remove", &old])?;
        }
        all_hear_each_other(&hosts, "removed")?;

        for host in &hosts {
            let lost = count(host, "gossip_seal_unknown_key")?
                + count(host, "gossip_seal_refused_by_peer")?;
            ensure!(lost == 0, "{} refused somebody: {:?}", host.name(), host.status()?.counters);
            let log = std::fs::read_to_string(host.log_file())?;
            ensure!(!log.contains("is suspect"), "{} lost somebody: {log}", host.name());
            ensure!(!log.contains(secret.trim()), "the key stands in the log of {}", host.name());
            let all = host.hosts()?;
            let clean = all.iter().all(|seen| seen.refused.is_empty() && seen.refuses_us == 0);
            ensure!(clean && host.status()?.refused.is_empty(), "on {}: {all:?}", host.name());
        }
        // It is in the file: a restart keeps it.
        b.kill()?;
        b.start()?;
        lab.all_up(&hosts)?;
        let used = b.host_seen("b")?.key_used;
        ensure!(used.as_deref() == Some(new), "{used:?}");
        ensure!(a.host_seen("b")?.keys == [new], "{:?}", a.host_seen("b")?);
        Ok(())
    })
}

#[test]
fn by_force_a_step_is_taken_that_locks_somebody_out_and_both_say_so() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let key = key_add(&a, &keygen(&a)?)?;
        refused(&a, &["key", "use", &key.id], "b could not hear this host")?;
        let out = a.ctl(&["key", "use", &key.id, "--force"])?;
        ensure!(out.code == 0, "{out:?}");
        counts(&b, "gossip_seal_unknown_key")?;
        counts(&a, "gossip_seal_refused_by_peer")?;
        logs(&b, &["WARN", "192.0.2.1", &key.id, "key that is not here"])?;
        logs(&a, &["WARN", "192.0.2.2", &key.id, "refuses our gossip"])?;
        // By host, since each knows the other.
        eventually("b shows what it refused of a", || {
            let seen = b.host_seen("a")?;
            ensure!(seen.refused.get("unknown_key").is_some_and(|n| *n > 0), "{seen:?}");
            ensure!(b.ctl(&["hosts"])?.stdout.contains("unknown_key="), "the column");
            Ok(())
        })?;
        eventually("a shows that b refuses it", || {
            let seen = a.host_seen("b")?;
            ensure!(seen.refuses_us > 0 && seen.refused.is_empty(), "{seen:?}");
            ensure!(a.ctl(&["hosts"])?.stdout.contains("has refused our gossip"), "the note");
            Ok(())
        })?;
        ensure!(b.status()?.refused.is_empty(), "no stranger: {:?}", b.status()?.refused);
        Ok(())
    })
}

#[test]
fn a_host_with_another_key_or_none_is_named_at_both_ends() -> Result<()> {
    Lab::run(|lab| {
        let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);
        a.start()?;
        let join = vec!["192.0.2.1:7946".to_owned()];
        let other = b.write_key_file("other", &keygen(&b)?)?;
        let key_file = Some(other);
        b.start_with(&DaemonOptions { join: join.clone(), key_file, ..Default::default() })?;
        c.start_with(&DaemonOptions { join, insecure: true, ..Default::default() })?;

        counts(&a, "gossip_seal_unknown_key")?;
        counts(&b, "gossip_seal_refused_by_peer")?;
        logs(&a, &["WARN", "192.0.2.2", "key that is not here", "overlayctl key add"])?;
        logs(&b, &["WARN", "192.0.2.1", "refuses our gossip", "overlayctl key"])?;
        counts(&a, "gossip_seal_plain")?;
        counts(&c, "gossip_seal_refused_by_peer")?;
        logs(&a, &["WARN", "192.0.2.3", "not sealed"])?;
        logs(&c, &["WARN", "192.0.2.1", "--key-file"])?;
        for host in [&a, &b, &c] {
            ensure!(host.hosts()?.len() == 1, "{} met somebody: {:?}", host.name(), host.hosts()?);
        }
        // By address, since they are no hosts to each other; with what to do.
        let shown = |host: &Host, address: &str, kind: &str, advice: &str| {
            eventually(&format!("{} shows what it refused of {address}", host.name()), || {
                let status = host.status()?;
                let from = status.refused.iter().find(|from| from.address.to_string() == address);
                let from = from.with_context(|| format!("{:?}", status.refused))?;
                let n = if kind == "by it" {
                    from.refuses_us
                } else {
                    from.kinds.get(kind).copied().unwrap_or(0)
                };
                ensure!(n > 0 && from.last_ms < 60_000, "{from:?}");
                let text = host.ctl(&["status"])?.stdout;
                let said = text.starts_with("attention: ") && text.contains("the keys of ");
                ensure!(said && text.contains(address) && text.contains(advice), "{text}");
                Ok(())
            })
        };
        shown(&a, "192.0.2.2", "unknown_key", "it has another key")?;
        shown(&a, "192.0.2.3", "plain", "it has no key")?;
        shown(&b, "192.0.2.1", "by it", "it lacks the key")?;
        shown(&c, "192.0.2.1", "by it", "it has a key")?;
        let out = c.ctl(&["key", "ls"])?;
        ensure!(out.code == 1 && out.stderr.contains("--key-file"), "{out:?}");
        Ok(())
    })
}

/// Asks the daemon of `host` for `n` networks, on one connection: as many runs
/// of overlayctl would take a minute.
fn make_networks(host: &Host, n: usize) -> Result<()> {
    let stream = UnixStream::connect(host.socket())?;
    let mut replies = BufReader::new(stream.try_clone()?);
    for n in 0..n {
        let body = serde_json::to_vec(&v1::CreateNetwork {
            name: Some(format!("{MARK}-{n}")),
            subnets: vec![
                format!("10.{}.{}.0/24", 64 + n / 250, n % 250).parse()?,
                format!("fd00:{n:x}::/64").parse()?,
            ],
            labels: [("note".to_owned(), format!("{n:0>200}"))].into(),
            ..Default::default()
        })?;
        let len = body.len();
        let head = format!(
            "POST /v1/networks HTTP/1.1\r\nhost: overlayd\r\ncontent-length: {len}\r\n\r\n"
        );
        (&stream).write_all(&[head.as_bytes(), &body].concat())?;
        let (mut status, mut length) = (String::new(), 0);
        replies.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            replies.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut reply = vec![0; length];
        replies.read_exact(&mut reply)?;
        ensure!(status.contains("200"), "{status}: {}", String::from_utf8_lossy(&reply));
    }
    Ok(())
}

/// Two hosts, two thousand records (a network and its two ranges each), a third
/// host that comes late: all that is on the underlay meanwhile.
fn two_thousand_records(insecure: bool, n: usize) -> Result<(Frames, Vec<u8>)> {
    let mut result = None;
    Lab::run(|lab| {
        let options = DaemonOptions { insecure, ..Default::default() };
        let [a, b] = lab.hosts_with(["a", "b"], &options)?;
        let c = lab.host("c")?;
        let capture = lab.capture()?;
        make_networks(&a, n)?;
        let join = vec!["192.0.2.2:7946".to_owned()];
        c.start_with(&DaemonOptions { join, ..options })?;
        for host in [&b, &c] {
            eventually(&format!("{} knows all networks", host.name()), || {
                let known = host.networks()?.len();
                ensure!(known == n, "{known} of {n}");
                Ok(())
            })?;
        }
        let frames = capture.finish()?;
        let bytes = std::fs::read(frames.file())?;
        frames.expect_some("gossip was captured", "udp.port == 7946")?;
        if !insecure {
            let largest = largest_payload(&frames)?;
            ensure!((1000..=1472).contains(&largest), "a datagram of {largest} bytes");
            frames.expect_some("large messages go by TCP", "tcp.port == 7946 && tcp.len > 0")?;
            frames
                .expect_none("nothing is a fragment", "ip.flags.mf == 1 || ip.frag_offset > 0")?;
            frames.expect_none(
                "no datagram may be fragmented on its way",
                "udp.port == 7946 && ip.flags.df == 0",
            )?;
        }
        result = Some((frames, bytes));
        Ok(())
    })?;
    result.context("the lab ran")
}

fn largest_payload(frames: &Frames) -> Result<u32> {
    let mut largest = 0;
    for row in frames.fields("udp.port == 7946", &["udp.length"])? {
        largest = largest.max(row[0].parse::<u32>()? - 8);
    }
    Ok(largest)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn two_thousand_records_cross_sealed_and_in_whole_packets() -> Result<()> {
    let (_, bytes) = two_thousand_records(false, 700)?;
    ensure!(!contains(&bytes, MARK), "the name of a network can be read on the underlay");
    // That this would be seen, a cluster shows that is not sealed.
    let (_, bytes) = two_thousand_records(true, 20)?;
    ensure!(contains(&bytes, MARK), "nothing to be read at all");
    Ok(())
}

#[test]
fn a_way_that_is_narrower_than_the_device_gets_large_messages_by_tcp() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        a.exec("ip route replace 192.0.2.2/32 dev eth0 mtu 500")?;
        let capture = lab.capture()?;
        let label = format!("note={}", "x".repeat(390));
        let spec = NetSpec { extra: &["--label", &label], ..NetSpec::default() };
        for name in ["one", "two", "three"] {
            a.net_create(name, spec)?;
            b.knows_net(name)?;
        }
        counts(&a, "gossip_too_large_for_way")?;
        let frames = capture.finish()?;
        frames.expect_none("nothing is a fragment", "ip.flags.mf == 1 || ip.frag_offset > 0")?;
        let large =
            "udp.port == 7946 && ip.src == 192.0.2.1 && ip.dst == 192.0.2.2 && ip.len > 500";
        frames.expect_none("no datagram is larger than the way", large)?;
        frames.expect_some("they go by TCP", "tcp.port == 7946 && tcp.len > 500").map(drop)
    })
}

/// The arguments of a daemon without a key and without `--insecure`.
fn without_a_key(host: &Host) -> Vec<String> {
    let mut args = host.daemon_args(&DaemonOptions::default());
    let at = args.iter().position(|arg| arg == "--key-file").unwrap_or(args.len());
    args.drain(at..at + 2);
    args
}

#[test]
fn without_a_key_the_daemon_keeps_to_the_loopback_device() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let mut args = without_a_key(&a);
        let texts: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = a.overlayd(&texts)?;
        let says = ["192.0.2.1:7946", "overlayd keygen", "--key-file", "--insecure"];
        ensure!(out.code == 1 && says.iter().all(|word| out.stderr.contains(word)), "{out:?}");
        ensure!(out.stderr.lines().count() == 1, "{out:?}");
        ensure!(!a.socket().exists() && !a.state_dir().exists(), "it left something behind");

        let at = args.iter().position(|arg| arg == "--advertise").context("advertised")?;
        args[at + 1] = "127.0.0.1".to_owned();
        let mut daemon: std::process::Child = Command::spawn(
            command_in(a.netns(), &binaries()?.overlayd).args(&args).stderr(Stdio::null()),
        )?;
        let served = eventually("it serves on the loopback device", || a.status().map(drop));
        let listens = a.exec("ss -Hlntu sport = :7946");
        daemon.kill()?;
        daemon.wait()?;
        served?;
        let listens = listens?;
        ensure!(listens.contains("127.0.0.1:7946") && !listens.contains("192.0.2.1"), "{listens}");
        Ok(())
    })
}

#[test]
fn a_key_file_that_is_no_secret_is_refused() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        let key = keygen(&a)?;
        let file = a.write_key_file("open", &key)?;
        let path = file.display().to_string();
        let refused = |says: &str| {
            let mut args = without_a_key(&a);
            args.extend(["--key-file".to_owned(), path.clone()]);
            let mut texts: Vec<&str> = args.iter().map(String::as_str).collect();
            for check in [false, true] {
                if check {
                    texts.push("check-config");
                }
                let out = a.overlayd(&texts)?;
                ensure!(out.code == 1 && out.stderr.contains(says), "{out:?}");
                ensure!(!out.stderr.contains(key.trim()), "it repeats the key: {out:?}");
            }
            Ok(())
        };
        a.exec(&format!("chmod 0644 {path}"))?;
        refused("mode 0644")?;
        a.exec(&format!("chmod 0600 {path}"))?;
        a.exec(&format!("chown 65534 {path}"))?;
        refused("belongs to user 65534")?;
        a.exec(&format!("chown 0 {path}"))?;
        a.write_key_file("open", &format!("{key}{key}"))?;
        refused("is there already")?;
        a.write_key_file("open", "nonsense")?;
        refused("line 1: that is no key")?;
        a.exec(&format!("rm {path}"))?;
        refused("overlayd keygen")
    })
}

#[test]
fn no_reply_repeats_a_key() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let key = keygen(&a)?;
        let key = key.trim();
        let half = &key[..30];
        for wrong in [half.to_owned(), format!("{key}{key}")] {
            let out = a.ctl(&["key", "add", &wrong])?;
            if out.code == 0 {
                bail!("{wrong} was taken");
            }
            ensure!(!out.stderr.contains(half), "{out:?}");
        }
        let body = format!("\"{key}\"");
        let url = "http://overlayd/v1/keys";
        let socket = a.socket().display().to_string();
        let said = a.exec(&format!("curl -s --unix-socket {socket} {url} -d {body}"))?;
        ensure!(said.contains("invalid_request") && !said.contains(half), "{said}");
        // Three are as many as there may be, and none twice.
        let mut ids = vec![key_add(&a, key)?.id];
        ensure!(a.ctl(&["key", "add", key])?.stderr.contains("is there already"));
        ids.push(key_add(&a, &keygen(&a)?)?.id);
        let out = a.ctl(&["key", "add", keygen(&a)?.trim()])?;
        ensure!(out.code == 1 && out.stderr.contains("at most 3 keys"), "{out:?}");
        let file = std::fs::read_to_string(a.key_file())?;
        ensure!(ids.iter().all(|id| file.contains(id.as_str())), "{file}");
        Ok(())
    })
}
