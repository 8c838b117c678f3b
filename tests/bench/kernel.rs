//! What the kernel side costs: the figures of docs/performance.md that stand
//! beside what the kernel itself can do. Real daemons, real kernel, and the
//! peer that a figure is compared with in the same round.
//!
//! ```text
//!   burst   100,000 remote endpoints at once ──► 300,000 entries, against raw netlink and ip/bridge -batch
//!   one     one endpoint of 100,000 changes on a ──► datagram at b ──► b's kernel; nothing is dumped
//!   adopt   b starts, and its kernel is right already: nothing written, no packet lost
//!   rest    the full check, memory and processor of a host that holds them all
//!   path    container to container across hosts, against a bridge and VXLAN made by hand
//!   shorter ways past the bridge, made by hand, against the bare underlay (docs/shorter-path.md)
//! ```
//!
//! `make bench-kernel [ONLY="burst one"]`: root, release binaries, strace, a quiet
//! machine; `ONLY=shorter` also clang, libbpf-dev and bpftool. The whole takes a
//! quarter of an hour.
//! When an entry is in a kernel says a socket that hears it ([`Tally`]), for
//! the peers as well: so that all pay for being listened to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::socket::{MsgFlags, NetlinkAddr, recv, sendto};
use nix::unistd::Pid;
use overlay_api::{Client, v1};
use overlay_tests::figures::{Section, median, ms, rank, run_sections, spread};
use overlay_tests::shell::{command_in, feed_in, netns_path, run_in, script_in};
use overlay_tests::stations::{self, DEMO, held, import, station};
use overlay_tests::tally::rtnetlink;
use overlay_tests::{DaemonOptions, Host, Lab, Monitor, Tally, eventually_within};

const SECTIONS: [(&str, Section); 6] = [
    ("burst", burst),
    ("one", one),
    ("adopt", adopt),
    ("rest", rest),
    ("path", path),
    ("shorter", shorter),
];

/// Remote endpoints; each is three entries.
const N: u32 = 100_000;

/// So long without a word: that was the last entry.
const QUIET: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    // What the last one needs beside it nobody else does.
    run_sections(&SECTIONS, &["shorter"])
}

/// How often each figure is taken; `ROUNDS` says otherwise.
fn rounds(default: usize) -> Result<usize> {
    match std::env::var("ROUNDS") {
        Ok(text) => text.parse().context("ROUNDS is a whole number"),
        Err(_) => Ok(default),
    }
}

// ----- two hosts, and stations of the first ----------------------------------

/// Two hosts; a uses the network and has `n` stations on it, b knows them all
/// and does not use it yet.
fn with_stations(lab: &Lab, n: u32) -> Result<[Host; 2]> {
    let [a, b] = lab.hosts(["a", "b"])?;
    a.net_create("demo", DEMO)?;
    b.knows_net("demo")?;
    a.attach("demo", "ca")?;
    // Once, so that b has addresses of its own to give: nobody is to wait for those later.
    b.attach("demo", "early")?;
    b.detach("early")?;
    unused(&b)?;
    let mut at = 0;
    while at < n {
        let next = n.min(at + 50_000);
        import(&a, "demo", (at..next).map(station).collect())?;
        at = next;
    }
    knows(&b, n)?;
    Ok([a, b])
}

fn knows(host: &Host, n: u32) -> Result<()> {
    eventually_within(LIMIT, "all stations are known", || {
        let known = host.status()?.endpoints;
        ensure!(known >= n as usize, "{known} of {n}");
        Ok(())
    })
}

/// Nothing of the network is in the kernel of `host`.
fn unused(host: &Host) -> Result<()> {
    eventually_within(LIMIT, "the network is not used any more", || {
        ensure!(!host.links()?.iter().any(|l| l.name == "ovx4097"), "it is");
        Ok(())
    })
}

/// Nanoseconds of processor that the daemon of `host` has used, all threads.
fn processor_ns(host: &Host) -> Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", host.pid()?))? {
        // A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        total += text.split(' ').next().context("a figure")?.parse::<u64>()?;
    }
    Ok(total)
}

// ----- burst -----------------------------------------------------------------

/// Makes bridge and VXLAN device in `netns` as a daemon would.
const DEVICES: &str = "
    ip link add ovb4097 address 02:00:00:00:10:01 type bridge mcast_snooping 0
    ip link add ovx4097 address 02:00:00:00:10:02 type vxlan id 4097 \
        local 192.0.2.1 dstport 4789 nolearning
    ip link set ovb4097 addrgenmode none
    ip link set ovx4097 addrgenmode none
    ip link set ovx4097 master ovb4097
    ip link set ovx4097 type bridge_slave neigh_suppress on learning off
    ip link set ovx4097 up
    ip link set ovb4097 up";

/// Messages of a send that raw netlink is tried with.
const RAW_BATCHES: [usize; 3] = [16, 64, 256];

fn burst() -> Result<()> {
    Lab::run(|lab| {
        let [_, b] = with_stations(lab, N)?;
        let raw = lab.netns("raw")?;
        let (fdb, neigh) = (lab.dir().join("fdb"), lab.dir().join("neigh"));
        let lines = |line: &dyn Fn(u32) -> String| (0..N).map(line).collect::<String>();
        let (vxlan, bridge) = (
            lines(&|n| {
                format!(
                    "fdb replace {} dev ovx4097 dst 192.0.2.2 self permanent\n",
                    stations::mac_text(n)
                )
            }),
            lines(&|n| {
                format!(
                    "fdb replace {} dev ovx4097 master static extern_learn\n",
                    stations::mac_text(n)
                )
            }),
        );
        std::fs::write(&fdb, vxlan + &bridge)?;
        std::fs::write(
            &neigh,
            lines(&|n| {
                format!(
                    "neigh replace {} lladdr {} dev ovb4097 nud permanent extern_learn\n",
                    stations::ip(n),
                    stations::mac_text(n)
                )
            }),
        )?;
        // What the raw writer, then ip and bridge, then the daemon take, in each round.
        let mut raw_by: Vec<Vec<f64>> = vec![Vec::new(); RAW_BATCHES.len()];
        let (mut unheard, mut tools, mut ours) = (vec![], vec![], vec![]);
        let (mut of_raw, mut of_tools) = (vec![], vec![]);
        let mut kernel_part = vec![];
        for round in 0..rounds(5)? {
            // The order changes, so that nobody always comes first.
            let mut best = f64::INFINITY;
            for i in 0..RAW_BATCHES.len() {
                let which = (i + round) % RAW_BATCHES.len();
                let took =
                    in_fresh_tables(&raw, true, || write_raw(&raw, RAW_BATCHES[which]).map(drop))?;
                raw_by[which].push(took / 1e3);
                best = best.min(took);
            }
            unheard.push(in_fresh_tables(&raw, false, || write_raw(&raw, 64).map(drop))? / 1e3);
            let by_tools = in_fresh_tables(&raw, true, || {
                let paths = (fdb.display(), neigh.display());
                run_in(&raw, &format!("bridge -batch {}", paths.0))?;
                run_in(&raw, &format!("ip -batch {}", paths.1)).map(drop)
            })?;
            tools.push(by_tools / 1e3);
            let tally = Tally::start(b.netns(), stations::PREFIX)?;
            let began = SystemTime::now();
            b.attach("demo", &format!("cb{round}"))?;
            let told = tally.settled(3 * N as usize, QUIET, LIMIT)?;
            let (first, last) = told.span.context("told")?;
            let took = ms(began, last);
            held(&b, N as usize, LIMIT)?;
            ours.push(took / 1e3);
            kernel_part.push(ms(first, last) / 1e3);
            of_raw.push(best / took);
            of_tools.push(by_tools / took);
            drop(tally);
            b.detach(&format!("cb{round}"))?;
            unused(&b)?;
        }
        let entries = f64::from(3 * N);
        let row = |name: &str, seconds: &[f64]| {
            let rate = median(seconds.iter().map(|s| entries / s / 1e3).collect());
            println!("| {name} | {} | {rate} |", median(seconds.to_vec()));
        };
        println!("| {} entries | s | thousand entries a second |\n|---|---|---|", 3 * N);
        for (batch, took) in RAW_BATCHES.iter().zip(&raw_by) {
            row(&format!("raw netlink, {batch} messages a send"), took);
        }
        row("raw netlink, 64 a send, nobody listens", &unheard);
        row("`bridge -batch` and `ip -batch`", &tools);
        row("overlayd, from the start of `overlayctl attach`", &ours);
        row("the same, from the first entry", &kernel_part);
        println!("\n| overlayd's rate, median of {} rounds | |\n|---|---|", ours.len());
        println!("| **of the fastest raw netlink of the round** | **{}** |", median(of_raw));
        println!("| **of `bridge -batch` and `ip -batch`** | **{}** |", median(of_tools));
        Ok(())
    })
}

/// Runs `write` in new tables, and says how many milliseconds it took until the
/// last entry was told; if nobody listens, until it was done.
fn in_fresh_tables(netns: &str, heard: bool, write: impl FnOnce() -> Result<()>) -> Result<f64> {
    script_in(netns, DEVICES)?;
    let tally = heard.then(|| Tally::start(netns, stations::PREFIX)).transpose()?;
    let began = SystemTime::now();
    write()?;
    let mut took = ms(began, SystemTime::now());
    if let Some(tally) = tally {
        let told = tally.settled(3 * N as usize, Duration::from_millis(200), LIMIT)?;
        took = ms(began, told.span.context("told")?.1);
    }
    script_in(netns, "ip link del ovx4097\nip link del ovb4097")?;
    Ok(took)
}

// linux/rtnetlink.h and linux/neighbour.h.
const RTM_NEWNEIGH: u16 = 28;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const NTF_MASTER: u8 = 4;
const NTF_EXT_LEARNED: u8 = 16;
/// REQUEST, REPLACE and CREATE; the last of a batch is acknowledged, too.
const WRITE: u16 = 1 | 0x100 | 0x400;
const ACK: u16 = 4;

/// Writes all entries, `batch` messages a `sendto`, as fast as one can: the
/// bytes of a batch are ready before the one before it is acknowledged, and only
/// its last message is.
fn write_raw(netns: &str, batch: usize) -> Result<Duration> {
    let file = File::open(netns_path(netns))?;
    std::thread::spawn(move || -> Result<Duration> {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let socket = rtnetlink(0, 4 << 20)?;
        let vxlan = nix::net::if_::if_nametoindex("ovx4097")?;
        let bridge = nix::net::if_::if_nametoindex("ovb4097")?;
        let mut out = Vec::with_capacity(batch * 64);
        let began = Instant::now();
        for kind in 0..3 {
            let mut n = 0;
            while n < N {
                out.clear();
                let last = N.min(n + batch as u32);
                for i in n..last {
                    let flags = if i + 1 == last { WRITE | ACK } else { WRITE };
                    put_raw(&mut out, kind, i, flags, vxlan, bridge);
                }
                n = last;
                exchange(&socket, &out)?;
            }
        }
        Ok(began.elapsed())
    })
    .join()
    .expect("the writer does not panic")
}

fn exchange(socket: &OwnedFd, out: &[u8]) -> Result<()> {
    let to = NetlinkAddr::new(0, 0);
    let fd = socket.as_raw_fd();
    sendto(fd, out, &to, MsgFlags::empty())?;
    let mut answer = [0; 8192];
    let length = recv(fd, &mut answer, MsgFlags::empty())?;
    ensure!(length >= 20, "an answer of {length} bytes");
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(code == 0, "refused: {}", nix::errno::Errno::from_raw(-code));
    Ok(())
}

/// Entry `n` of the VXLAN device's FDB, the bridge's, or of neighbours.
fn put_raw(out: &mut Vec<u8>, kind: u8, n: u32, flags: u16, vxlan: u32, bridge: u32) {
    let start = out.len();
    let (family, index, state, ntf) = match kind {
        0 => (7u8, vxlan, NUD_PERMANENT, NTF_SELF),
        1 => (7, vxlan, NUD_NOARP, NTF_MASTER | NTF_EXT_LEARNED),
        _ => (2, bridge, NUD_PERMANENT, NTF_EXT_LEARNED),
    };
    out.extend(0u32.to_ne_bytes());
    out.extend(RTM_NEWNEIGH.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(n.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([family, 0, 0, 0]);
    out.extend(index.to_ne_bytes());
    out.extend(state.to_ne_bytes());
    out.extend([ntf, 0]);
    let mut attribute = |kind: u16, value: &[u8]| {
        out.extend((4 + value.len() as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    match kind {
        0 => attribute(1, &[192, 0, 2, 2]),
        2 => attribute(1, &stations::ip(n).octets()),
        _ => {}
    }
    attribute(2, &stations::mac(n));
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

// ----- one -------------------------------------------------------------------

/// Single changes that are timed, of each kind.
const CHANGES: u32 = 200;

fn one() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = with_stations(lab, N)?;
        b.attach("demo", "cb")?;
        held(&b, N as usize, LIMIT)?;
        b.at_rest()?;
        // Of each: on a the request begins; at b's cable a datagram of a; in b's kernel.
        println!(
            "| ms, n = {CHANGES}, {N} endpoints there | p50 | p99 | min | max |\n|---|---|---|---|---|"
        );
        for add in [true, false] {
            let cable = lab.capture_at(&b)?;
            let fdb = b.monitor_fdb()?;
            let neigh = b.monitor("ip -ts monitor neigh dev ovb4097")?;
            let began = change(&a, N..N + CHANGES, add)?;
            let told = last_told(&began, add, &[&fdb, &neigh])?;
            let frames = cable.finish()?;
            let (from, to) = (a.address(), b.address());
            let filter = format!("ip.src == {from} && ip.dst == {to} && udp.dstport == 7946");
            let mut came: Vec<SystemTime> = Vec::new();
            for row in frames.fields(&filter, &["frame.time_epoch"])? {
                let seconds: f64 = row[0].parse()?;
                came.push(UNIX_EPOCH + Duration::from_secs_f64(seconds));
            }
            let (mut whole, mut arrived) = (vec![], vec![]);
            for (mac, began) in &began {
                let at = told.get(mac).with_context(|| format!("{mac} never arrived"))?;
                whole.push(ms(*began, *at));
                // The first after the request, and so never too late a one.
                let first = came.iter().find(|at| *at >= began).context("a datagram")?;
                arrived.push(ms(*first, *at));
            }
            let what = if add { "added" } else { "removed" };
            println!("{}", spread(&format!("{what}: request on a until in b's kernel"), whole));
            println!(
                "{}",
                spread(&format!("**{what}: datagram at b's cable until in b's kernel**"), arrived)
            );
        }
        // The same under the eyes of strace, which shows every request for a dump. Now and then
        // one comes that is nobody's doing: the full check.
        for next in [N, N + 50, N + 100] {
            if without_dumps(lab, [&a, &b], next)? {
                return Ok(());
            }
        }
        bail!("a full check came in between, three times")
    })
}

/// Says what a hundred changes make b ask its kernel for; false if a full check
/// came in between.
fn without_dumps(lab: &Lab, [a, b]: [&Host; 2], next: u32) -> Result<bool> {
    let trace = lab.dir().join("strace");
    // In b's namespace: it looks sockets up to know what is said on them.
    let mut strace = command_in(b.netns(), "strace")
        .args(["-f", "-qq", "-e", "trace=sendto,sendmsg", "-o"])
        .arg(&trace)
        .args(["-p", &b.pid()?.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start strace")?;
    eventually_within(LIMIT, "strace is attached", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", b.pid()?))?;
        let tracer = format!("TracerPid:\t{}\n", strace.id());
        ensure!(status.contains(&tracer), "{status}");
        Ok(())
    })?;
    let (checks, writes) = (b.counter("kernel_checks")?, b.counter("kernel_writes")?);
    for add in [true, false] {
        let fdb = b.monitor_fdb()?;
        let began = change(a, next..next + 50, add)?;
        last_told(&began, add, &[&fdb])?;
    }
    let writes = b.counter("kernel_writes")? - writes;
    let checked = b.counter("kernel_checks")? != checks;
    overlay_tests::shell::signal(&strace, nix::sys::signal::Signal::SIGINT)?;
    strace.wait()?;
    if checked {
        return Ok(false);
    }
    let text = std::fs::read_to_string(&trace)?;
    let of_entries = |l: &&str| l.contains("nlmsg_type=RTM_") && l.contains("NEIGH");
    let requests: Vec<&str> = text.lines().filter(of_entries).collect();
    let dumps: Vec<&&str> = requests.iter().filter(|l| l.contains("NLM_F_DUMP")).collect();
    println!("\n| 50 added, 50 removed, under strace | |\n|---|---|");
    println!("| sends to rtnetlink about entries | {} |", requests.len());
    println!("| entries written | {writes} |");
    println!("| **requests for a dump of entries** | **{}** |", dumps.len());
    let seen = text.lines().take(3).collect::<Vec<_>>();
    ensure!(requests.len() >= 100, "strace saw next to nothing: {seen:#?}");
    ensure!(dumps.is_empty(), "{dumps:#?}");
    Ok(true)
}

/// Adds or removes these stations on `a`, one after the other; says when each
/// request began.
fn change(a: &Host, which: std::ops::Range<u32>, add: bool) -> Result<Vec<(String, SystemTime)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&a.socket());
    let mut began = Vec::new();
    for n in which {
        // Not in step with anything that beats.
        std::thread::sleep(Duration::from_millis(30 + u64::from(n) * 7919 % 37));
        let station = station(n);
        let mac = station.mac.clone();
        began.push((mac.clone(), SystemTime::now()));
        if add {
            let request =
                v1::Import { net: "demo".into(), endpoints: vec![station], ..Default::default() };
            runtime.block_on(client.import(&request))?;
        } else {
            runtime.block_on(client.detach(&mac, Some("demo")))?;
        }
    }
    Ok(began)
}

/// When the last entry of each was told.
fn last_told(
    changes: &[(String, SystemTime)],
    add: bool,
    monitors: &[&Monitor],
) -> Result<BTreeMap<String, SystemTime>> {
    let (last, _) = changes.last().context("some")?;
    monitors[0].first("the last one arrived", |e| {
        e.is_deletion() != add && e.text.contains(last.as_str()) && e.text.contains(" dst ")
    })?;
    let mut told: BTreeMap<String, SystemTime> = BTreeMap::new();
    for monitor in monitors {
        for event in monitor.events()?.iter().filter(|e| e.is_deletion() != add) {
            // A deleted neighbour is told of without its MAC.
            if let Some(at) = event.text.find("02:aa:")
                && let Some(mac) = event.text.get(at..at + 17)
            {
                let to = told.entry(mac.to_owned()).or_insert(event.at);
                *to = (*to).max(event.at);
            }
        }
    }
    Ok(told)
}

// ----- adopt -----------------------------------------------------------------

fn adopt() -> Result<()> {
    println!(
        "| b is killed and starts, its kernel is right already | ready, s | knows that all is right, s | \
         written | told by the kernel | pings lost |\n|---|---|---|---|---|---|"
    );
    for n in [N / 3 + 1, N] {
        Lab::run(|lab| {
            let [a, b] = with_stations(lab, n)?;
            let ca = a.endpoints()?.into_iter().find(|e| e.name.as_deref() == Some("ca"));
            let to = ca.context("ca")?.ips[0].addr();
            let c = b.attach("demo", "cb")?;
            held(&b, n as usize, LIMIT)?;
            b.at_rest()?;
            c.ping(to)?;
            let (mut ready, mut right) = (vec![], vec![]);
            let (mut written, mut told, mut lost, mut sent) = (0, 0, 0, 0);
            for _ in 0..rounds(5)? {
                let pings = c.ping_stream(to)?;
                let tally = Tally::start(b.netns(), stations::PREFIX)?;
                b.kill()?;
                let began = Instant::now();
                b.start()?;
                let mut is_ready = None;
                eventually_within(LIMIT, "all is right", || {
                    let status = b.ask(async |c| c.status().await)?;
                    let checked = status.counters.get("kernel_checks") > Some(&0);
                    is_ready = is_ready.or(checked.then(|| began.elapsed()));
                    ensure!(
                        checked
                            && status.endpoints >= n as usize
                            && status.pending == 0
                            && status.applied_revision == status.desired_revision,
                        "{} known, {} pending",
                        status.endpoints,
                        status.pending
                    );
                    Ok(())
                })?;
                right.push(began.elapsed().as_secs_f64());
                ready.push(is_ready.context("ready")?.as_secs_f64());
                // Until it knows enough to call something stale, and beyond.
                eventually_within(LIMIT, "the view is complete", || {
                    let log = std::fs::read_to_string(b.log_file())?;
                    let life = log.rsplit_once(" starts").map_or("", |(_, life)| life);
                    ensure!(life.contains("complete"), "not yet");
                    Ok(())
                })?;
                b.at_rest()?;
                written += b.counter("kernel_writes")?;
                let seen = tally.told();
                told += seen.added + seen.removed;
                let summary = pings.stop()?;
                lost += summary.lost();
                sent += summary.sent;
            }
            println!(
                "| {} entries | {} | **{}** | **{written}** | {told} | **{lost}** of {sent} |",
                3 * n,
                median(ready),
                median(right)
            );
            Ok(())
        })?;
    }
    Ok(())
}

// ----- rest ------------------------------------------------------------------

fn rest() -> Result<()> {
    const SECONDS: u64 = 130;
    println!(
        "| b at rest for {SECONDS} s | processor, % of a core | in its median second | full checks \
         in it | processor of a check, ms | resident, MiB: at once, then |\n|---|---|---|---|---|---|"
    );
    // The dearest first, for who has no patience.
    for n in [N, N / 3 + 1, 0] {
        Lab::run(|lab| {
            let [_, b] = with_stations(lab, n)?;
            b.attach("demo", "cb")?;
            held(&b, n as usize, LIMIT)?;
            b.at_rest()?;
            let full = b.resident_kib()? as f64 / 1024.0;
            std::thread::sleep(Duration::from_secs(20));
            let before = (Instant::now(), processor_ns(&b)?, b.counter("kernel_checks")?);
            // Each second on its own: those with a check are the dear ones.
            let mut seconds = Vec::new();
            let mut last = before.1;
            for _ in 0..SECONDS {
                std::thread::sleep(Duration::from_secs(1));
                let now = processor_ns(&b)?;
                seconds.push((now - last) as f64 / 1e6);
                last = now;
            }
            let share = (last - before.1) as f64 / before.0.elapsed().as_nanos() as f64 * 100.0;
            let checks = b.counter("kernel_checks")? - before.2;
            seconds.sort_by(f64::total_cmp);
            let usual = rank(&seconds, 50);
            let dear: f64 = seconds.iter().map(|s| s - usual).filter(|s| *s > 5.0).sum();
            println!(
                "| {} entries | **{share:.2}** | {:.2} | {checks} | {:.0} | {full:.1}, **{:.1}** |",
                3 * n,
                usual / 10.0,
                dear / (checks.max(1) as f64),
                b.resident_kib()? as f64 / 1024.0
            );
            Ok(())
        })?;
    }
    Ok(())
}

// ----- path ------------------------------------------------------------------

/// So long flows one thing.
const SLICE: Duration = Duration::from_millis(400);

/// Two ends of a path: client, server, and where that is.
struct Ends {
    client: String,
    server: String,
    to: IpAddr,
}

/// A name, how it is measured, and whether more of it is better.
type Traffic = (&'static str, fn(&Ends) -> Result<f64>, bool);

const TRAFFIC: [Traffic; 5] = [
    ("one stream of TCP, Gbit/s", |e| tcp(e, 1), true),
    ("two streams of TCP, Gbit/s", |e| tcp(e, 2), true),
    ("UDP of 64 bytes, thousand a second", udp, true),
    ("round trip of TCP, µs", |e| round_trip(e, true), false),
    ("round trip of UDP, µs", |e| round_trip(e, false), false),
];

fn path() -> Result<()> {
    Lab::run(|lab| {
        let (_, [c1, c2]) = lab.talking(lab.host("a")?, &DaemonOptions::default())?;
        let ours = Ends { client: c1.netns().into(), server: c2.netns().into(), to: c2.ip() };
        let hand = by_hand(lab, ["x", "y"], Way::Bridge)?;
        compare(&[("by hand", hand), ("overlayd", ours)])
    })
}

/// Measures all ways in each round, in turn, and prints how each compares with
/// the first: 1 is as good, more is better.
fn compare(ways: &[(&str, Ends)]) -> Result<()> {
    // Of each kind of traffic and way, a figure a round.
    let mut figures = vec![vec![Vec::new(); ways.len()]; TRAFFIC.len()];
    for round in 0..rounds(40)? {
        for ((name, measure, _), figures) in TRAFFIC.iter().zip(&mut figures) {
            for i in 0..ways.len() {
                let way = (i + round) % ways.len();
                let (what, ends) = &ways[way];
                let figure = measure(ends).with_context(|| format!("{name}, {what}"))?;
                figures[way].push(figure);
            }
        }
    }
    println!(
        "| {} rounds of {} s | way | median (min..max) | ratio to {}: median (quartiles) |\n|---|---|---|---|",
        figures[0][0].len(),
        SLICE.as_secs_f64(),
        ways[0].0
    );
    for ((name, _, more), figures) in TRAFFIC.iter().zip(&figures) {
        for ((what, _), own) in ways.iter().zip(figures) {
            let ratio = |(own, first): (&f64, &f64)| if *more { own / first } else { first / own };
            let mut ratios: Vec<f64> = own.iter().zip(&figures[0]).map(ratio).collect();
            ratios.sort_by(f64::total_cmp);
            println!(
                "| {name} | {what} | {} | **{:.3}** ({:.3}..{:.3}) |",
                median(own.clone()),
                rank(&ratios, 50),
                rank(&ratios, 25),
                rank(&ratios, 75)
            );
        }
    }
    Ok(())
}

/// How a container made by hand gets to the VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// veth and bridge, as overlayd makes them.
    Bridge,
    /// The same, and known unicast goes past the bridge by tests/bench/shorter_path.bpf.c.
    Bpf,
    /// A macvlan on the VXLAN device in place of both.
    Macvlan,
}

/// Two hosts without a daemon, a container on each, and the entries that they
/// need, nothing else.
fn by_hand(lab: &Lab, names: [&str; 2], way: Way) -> Result<Ends> {
    let hosts = [lab.host(names[0])?, lab.host(names[1])?];
    let containers = [lab.netns(&format!("c{}", names[0]))?, lab.netns(&format!("c{}", names[1]))?];
    for (i, host) in hosts.iter().enumerate() {
        let (own, other) = (i + 1, 2 - i);
        let container = &containers[i];
        let (local, remote) = (host.address(), hosts[1 - i].address());
        let mut script = format!(
            "ip link add vx0 mtu 1450 type vxlan id 4097 local {local} dstport 4789 nolearning
             ip link set vx0 addrgenmode none
             bridge fdb replace 02:00:00:00:0a:0{other} dev vx0 dst {remote} self permanent\n"
        );
        if way == Way::Macvlan {
            script += &format!(
                "ip link set vx0 up
                 ip link add link vx0 name mv0 mtu 1450 address 02:00:00:00:0a:0{own} type macvlan mode bridge
                 ip link set mv0 netns {container} name eth0\n"
            );
        } else {
            script += &format!(
                "ip link add br0 mtu 1450 type bridge mcast_snooping 0
                 ip link set br0 addrgenmode none
                 ip link set vx0 master br0
                 ip link set vx0 type bridge_slave neigh_suppress on learning off
                 ip link add v0 mtu 1450 type veth peer name eth0 netns {container} mtu 1450 address 02:00:00:00:0a:0{own}
                 ip link set v0 addrgenmode none
                 ip link set v0 master br0
                 ip link set vx0 up
                 ip link set v0 up
                 ip link set br0 up
                 bridge fdb replace 02:00:00:00:0a:0{other} dev vx0 master static extern_learn
                 ip neigh replace 10.9.0.{other} lladdr 02:00:00:00:0a:0{other} dev br0 nud permanent extern_learn
                 bridge fdb replace 02:00:00:00:0a:0{own} dev v0 master static\n"
            );
        }
        feed_in(host.netns(), "sh -e", &script)?;
        feed_in(
            container,
            "sh -e",
            &format!(
                "ip link set eth0 addrgenmode none
                 ip addr add 10.9.0.{own}/24 dev eth0
                 ip link set eth0 up
                 ip neigh replace 10.9.0.{other} lladdr 02:00:00:00:0a:0{other} dev eth0 nud permanent\n"
            ),
        )?;
        if way == Way::Bpf {
            shortcut(lab, host, own as u8)?;
        }
    }
    let to: IpAddr = Ipv4Addr::new(10, 9, 0, 2).into();
    overlay_tests::ping::ping(&containers[0], to)?;
    let [client, server] = containers;
    Ok(Ends { client, server, to })
}

/// Attaches the programs to port and VXLAN device of `host`, which has
/// container `own` of two.
fn shortcut(lab: &Lab, host: &Host, own: u8) -> Result<()> {
    let object = lab.dir().join("shorter_path.o");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/shorter_path.bpf.c");
    overlay_tests::shell::run(&format!(
        "clang -O2 -g -target bpf -I/usr/include/x86_64-linux-gnu -c {source} -o {}",
        object.display()
    ))
    .context("it needs apt-get install clang libbpf-dev bpftool")?;
    let index = |dev: &str| -> Result<u32> { Ok(host.link(dev)?.ifindex) };
    let (port, vxlan) = (index("v0")?, index("vx0")?);
    let hex = |n: u32| n.to_ne_bytes().map(|byte| format!("{byte:02x}")).join(" ");
    let other = 3 - own;
    let (port_key, own_place, far) = (hex(port), hex(port), hex(vxlan | 1 << 31));
    // What is pinned goes with the mount namespace; the filters hold programs and maps.
    let dir = host.dir().join("bpf");
    std::fs::create_dir_all(&dir)?;
    let (dir, object) = (dir.display(), object.display());
    feed_in(
        host.netns(),
        "unshare -m sh -e",
        &format!(
            "mount -t bpf bpf {dir}
             bpftool prog loadall {object} {dir}/programs type classifier pinmaps {dir}/maps
             bpftool map update pinned {dir}/maps/owns key hex {port_key} value hex 02 00 00 00 0a 0{own} 00 00 0a 09 00 0{own}
             bpftool map update pinned {dir}/maps/places key hex 02 00 00 00 0a 0{own} value hex {own_place}
             bpftool map update pinned {dir}/maps/places key hex 02 00 00 00 0a 0{other} value hex {far}
             tc qdisc add dev v0 clsact
             tc qdisc add dev vx0 clsact
             tc filter add dev v0 ingress bpf da object-pinned {dir}/programs/outward
             tc filter add dev vx0 ingress bpf da object-pinned {dir}/programs/inward\n"
        ),
    )
    .map(drop)
}

// ----- shorter ---------------------------------------------------------------

fn shorter() -> Result<()> {
    Lab::run(|lab| {
        let bare = [lab.host("p")?, lab.host("q")?];
        let underlay = Ends {
            client: bare[0].netns().into(),
            server: bare[1].netns().into(),
            to: bare[1].address().into(),
        };
        compare(&[
            ("bare underlay", underlay),
            ("veth and bridge", by_hand(lab, ["r", "s"], Way::Bridge)?),
            ("the same, BPF past the bridge", by_hand(lab, ["t", "u"], Way::Bpf)?),
            ("macvlan on the VXLAN device", by_hand(lab, ["v", "w"], Way::Macvlan)?),
        ])
    })
}

/// Runs `work` on a thread in `netns`, on processor `cpu`.
fn on<T: Send + 'static>(
    netns: &str,
    cpu: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<T>>> {
    let file = File::open(netns_path(netns))?;
    Ok(std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
        work()
    }))
}

fn joined<T>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().expect("no end of a path panics")
}

fn tcp(ends: &Ends, streams: usize) -> Result<f64> {
    let mut threads = Vec::new();
    for stream in 0..streams {
        let (bound, to) = mpsc::channel();
        let ip = ends.to;
        // One: an end on each processor. Two: crosswise.
        let (server_cpu, client_cpu) = (1 - stream % 2, stream % 2);
        let server = on(&ends.server, server_cpu, move || {
            let listener = TcpListener::bind((ip, 0))?;
            bound.send(listener.local_addr()?)?;
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; 256 << 10];
            let (mut bytes, began) = (0u64, Instant::now());
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    n => bytes += n as u64,
                }
            }
            Ok(bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9)
        })?;
        let to: SocketAddr = to.recv()?;
        let client = on(&ends.client, client_cpu, move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            let buffer = vec![0; 128 << 10];
            let began = Instant::now();
            while began.elapsed() < SLICE {
                stream.write_all(&buffer)?;
            }
            Ok(())
        })?;
        threads.push((server, client));
    }
    let mut total = 0.0;
    for (server, client) in threads {
        joined(client)?;
        total += joined(server)?;
    }
    Ok(total)
}

fn udp(ends: &Ends) -> Result<f64> {
    let (bound, to) = mpsc::channel();
    let ip = ends.to;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let server = {
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        on(&ends.server, 1, move || {
            let socket = UdpSocket::bind((ip, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            bound.send(socket.local_addr()?)?;
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })?
    };
    let to: SocketAddr = to.recv()?;
    let counted = Arc::clone(&count);
    let client = on(&ends.client, 0, move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(to)?;
        let began = Instant::now();
        while began.elapsed() < SLICE {
            for _ in 0..32 {
                let _ = socket.send(&[0; 64]);
            }
        }
        Ok(counted.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64() / 1e3)
    })?;
    let rate = joined(client)?;
    stop.store(true, Ordering::Relaxed);
    joined(server)?;
    Ok(rate)
}

/// The median of a ping-pong of 64 bytes; both ends on one processor, so that it
/// is the path's own cost and not what waking another processor takes.
fn round_trip(ends: &Ends, tcp: bool) -> Result<f64> {
    let (bound, to) = mpsc::channel();
    let ip = ends.to;
    let server = on(&ends.server, 0, move || {
        let mut buffer = [0; 64];
        if tcp {
            let listener = TcpListener::bind((ip, 0))?;
            bound.send(listener.local_addr()?)?;
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            while stream.read_exact(&mut buffer).is_ok() {
                stream.write_all(&buffer)?;
            }
        } else {
            let socket = UdpSocket::bind((ip, 0))?;
            bound.send(socket.local_addr()?)?;
            loop {
                let (length, from) = socket.recv_from(&mut buffer)?;
                // A shorter one is the last.
                if length < buffer.len() {
                    break;
                }
                socket.send_to(&buffer, from)?;
            }
        }
        Ok(())
    })?;
    let to: SocketAddr = to.recv()?;
    let client = on(&ends.client, 0, move || {
        let mut buffer = [0; 64];
        let mut took = Vec::new();
        let began = Instant::now();
        let mut trip = |exchange: &mut dyn FnMut(&mut [u8; 64]) -> Result<()>| -> Result<()> {
            while began.elapsed() < SLICE {
                let sent = Instant::now();
                exchange(&mut buffer)?;
                took.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            Ok(())
        };
        if tcp {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            stream.set_nodelay(true)?;
            trip(&mut |buffer| {
                stream.write_all(buffer)?;
                Ok(stream.read_exact(buffer)?)
            })?;
        } else {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(to)?;
            trip(&mut |buffer| {
                socket.send(buffer)?;
                socket.recv(buffer).map(drop).context("an answer")
            })?;
            socket.send(&[0])?;
        }
        took.sort_by(f64::total_cmp);
        Ok(rank(&took, 50))
    })?;
    let median = joined(client)?;
    joined(server)?;
    Ok(median)
}
