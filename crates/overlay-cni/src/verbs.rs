//! What each verb does, with the daemon at hand.
//!
//! | verb | asks | and |
//! |---|---|---|
//! | ADD | its endpoints, attach | creates the network when it is missing and described; detaches again what the result cannot be told of |
//! | DEL | its endpoints, detach | written down when the daemon does not answer |
//! | CHECK | its endpoints | looks into the container |
//! | GC | all endpoints of the network | detaches those that are not listed |
//! | STATUS | status, the network, its addresses | |
//!
//! Each of them first does what is written down ([`Queue`]).

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use overlay_api::blocking::Connection;
use overlay_api::{ClientError, v1};

use crate::Version;
use crate::attach::{attached, check_network, wish};
use crate::call::{self, Attachment, Container, LABEL, Verb};
use crate::conf::{Conf, version_of};
use crate::failure::{Code, Failure};
use crate::namespace;
use crate::queue::{Queue, Tried};
use crate::result::{Attached, Interface};
use crate::stdin;

/// How long a CHECK right after an ADD waits for the kernel, and a DEL for an
/// attach of the same container that is under way.
const SETTLE: Duration = Duration::from_secs(3);

/// How long an ADD waits for an interface of that name to go: a DEL is answered
/// before the kernel is done with it.
const GOING: Duration = Duration::from_millis(250);

/// How often an ADD begins anew because its network went in the middle of it.
const TRIES: usize = 4;

/// How long a DEL waits for the daemon's answer before it is written down:
/// runtimes stop pods one after the other.
const DEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Does what the environment and stdin say; the exit code is for `main`.
pub fn main() -> ExitCode {
    let variable = |key: &str| std::env::var_os(key)?.into_string().ok();
    if std::env::args().nth(1).as_deref() == Some("replay") {
        return replay_from_command_line();
    }
    // A bug of ours is to be answered like any other error; what it says is on stderr.
    let mut version = Version::NEWEST;
    let answered = catch_unwind(AssertUnwindSafe(|| answer(variable, &mut version)));
    let answer = answered.unwrap_or_else(|_| {
        let msg = "overlay-cni has panicked; please report what it wrote to stderr";
        Err(Failure::new(Code::Internal, msg))
    });
    match answer {
        Ok(Answer { text, undo }) => {
            if text.is_empty() || say(&text) {
                return ExitCode::SUCCESS;
            }
            // Nobody has heard of it: it would be nobody's.
            undo.iter().for_each(Undo::run);
            ExitCode::FAILURE
        }
        Err(failure) => {
            say(&failure.to_json(version));
            ExitCode::FAILURE
        }
    }
}

/// What goes to stdout, and how to take it back.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    undo: Option<Undo>,
}

/// What was attached.
#[derive(Debug)]
struct Undo {
    queue: Queue,
    socket: std::path::PathBuf,
    endpoint: String,
    label: String,
}

impl Undo {
    fn run(&self) {
        let mut daemon = Connection::new(&self.socket).with_timeout(DEL_TIMEOUT);
        let undone = match daemon.detach(&self.endpoint) {
            Err(error) if Failure::is_for_later(&error) => self.queue.put(&self.label),
            Err(error) => Err(Failure::of_daemon("undo the ADD", &error)),
            Ok(_) => Ok(()),
        };
        if let Err(failure) = undone {
            eprintln!("overlay-cni: {}", failure.msg);
        }
    }
}

fn say(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).is_ok()
        && stdout.flush().is_ok()
}

fn answer(
    variable: impl Fn(&str) -> Option<String>,
    version: &mut Version,
) -> Result<Answer, Failure> {
    let Some(verb) = call::verb(&variable)? else {
        let ours = Version::ALL.map(Version::as_str).join(", ");
        eprintln!(
            "overlay-cni {}: a CNI plugin, protocol versions {ours}. Container runtimes start it; \
             docs/cni.md says how. `overlay-cni replay [STATE_DIR [SOCKET]]` does what waits for \
             overlayd.",
            env!("CARGO_PKG_VERSION")
        );
        return Ok(Answer::default());
    };
    let input = stdin::read()?;
    if verb == Verb::Version {
        return Ok(Answer { text: versions(&input)?, undo: None });
    }
    *version = version_of(&input).unwrap_or(*version);
    let conf = Conf::read(verb, &input)?;
    let session = Session::new(&conf);
    let done = |()| Answer::default();
    match verb {
        Verb::Add => session.add(&Container::read(verb, variable)?),
        Verb::Del => session.del(&Container::read(verb, variable)?).map(done),
        Verb::Check => session.check(&Container::read(verb, variable)?).map(done),
        Verb::Gc => session.gc().map(done),
        Verb::Status => session.status().map(done),
        Verb::Version => unreachable!("answered above"),
    }
}

/// What VERSION answers, in the version that was asked in if we speak that.
fn versions(input: &[u8]) -> Result<String, Failure> {
    serde_json::from_slice::<serde_json::Value>(input).map_err(|err| {
        let said = "cannot understand what is on stdin";
        Failure::new(Code::Decode, format!("{said}: {err}"))
    })?;
    let asked = version_of(input).unwrap_or(Version::NEWEST);
    let shown = serde_json::json!({
        "cniVersion": asked.as_str(),
        "supportedVersions": Version::ALL.map(Version::as_str),
    });
    Ok(format!("{shown:#}"))
}

/// One call.
struct Session<'a> {
    conf: &'a Conf,
    queue: Queue,
}

impl<'a> Session<'a> {
    fn new(conf: &'a Conf) -> Self {
        Self { conf, queue: Queue::new(&conf.state_dir(), &conf.socket()) }
    }

    fn daemon(&self) -> Connection {
        Connection::new(&self.conf.socket())
    }

    /// Does what is written down, and says what of it is left.
    fn catch_up(&self, daemon: &mut Connection) -> Result<Vec<String>, Failure> {
        self.queue.replay(|label| detach_all(daemon, label))
    }

    fn add(&self, container: &Container) -> Result<Answer, Failure> {
        let path = container.netns.as_deref().unwrap_or_default();
        namespace::check(path, container.netns_override)?;
        let wish = wish(self.conf, container)?;
        let prev = self.conf.asked.prev_result.as_ref();
        let before = prev.map(Attached::read).transpose()?.unwrap_or_default();
        wish.left_out.iter().for_each(|line| eprintln!("overlay-cni: {line}"));

        let mut daemon = self.daemon();
        let label = container.attachment.label(&self.conf.name);
        if self.catch_up(&mut daemon)?.contains(&label) {
            let msg = format!("the former DEL of {label} waits for overlayd");
            return Err(Failure::new(Code::TryAgainLater, msg)
                .with("see what it waits for with: overlayctl status"));
        }
        self.make_way(&mut daemon, &label)?;
        let endpoint = match self.attach(&mut daemon, &wish.attach) {
            Ok(endpoint) => endpoint,
            Err(Attempt { failure, unsure }) => {
                if unsure {
                    // It may yet take effect, or has: then as a DEL would.
                    let _ = self.queue.put(&label);
                    let _ = self.catch_up(&mut self.daemon());
                }
                return Err(failure);
            }
        };
        let undo = Undo {
            queue: self.queue.clone(),
            socket: self.conf.socket(),
            endpoint: endpoint.id.clone(),
            label,
        };
        if let Err(failure) = check_network(self.conf, &endpoint) {
            undo.run();
            return Err(failure);
        }
        let result = attached(self.conf, container, &endpoint, before);
        Ok(Answer { text: result.to_json(self.conf.version), undo: Some(undo) })
    }

    /// Refuses a second ADD of what is there. What is left of a container whose
    /// namespace is gone goes: a runtime that knows nothing of the time before a
    /// reboot starts with an ADD.
    fn make_way(&self, daemon: &mut Connection, label: &str) -> Result<(), Failure> {
        let found = daemon.labelled(&format!("{LABEL}={label}")).map_err(|error| {
            Failure::of_daemon("ask for the endpoints of the container", &error)
        })?;
        for endpoint in found {
            if endpoint.state != "gone" && !is_gone(&endpoint) {
                let msg = format!(
                    "{label} is attached already, as endpoint {} in {}",
                    endpoint.id,
                    endpoint.netns.as_deref().unwrap_or("-")
                );
                return Err(Failure::new(Code::Taken, msg).with("a DEL comes before another ADD"));
            }
            match daemon.detach(&endpoint.id) {
                Err(error) if !is_not_found(&error) => {
                    return Err(Failure::of_daemon("detach what is left of it", &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Attaches, and creates the network first if it is missing and described.
    fn attach(&self, daemon: &mut Connection, wish: &v1::Attach) -> Result<v1::Endpoint, Attempt> {
        let net = self.conf.network();
        let mut last = None;
        let mut again = true;
        for _ in 0..TRIES {
            let refused = match daemon.attach(wish) {
                Ok(endpoint) => return Ok(endpoint),
                Err(error) if is_not_found(&error) => error,
                // Of a DEL a moment ago, say.
                Err(error) if is_taken(&error) && again && has_gone(wish)? => {
                    again = false;
                    continue;
                }
                Err(error) => {
                    let unsure =
                        matches!(error, ClientError::Timeout { .. } | ClientError::Protocol(_));
                    let failure = Failure::of_daemon(&format!("attach to {net}"), &error);
                    return Err(Attempt { failure, unsure });
                }
            };
            // The network or the namespace: the daemon has one code for both.
            match daemon.network(net) {
                // Another host has made it meanwhile, or the container has gone.
                Ok(_) if last.is_some() => break,
                Ok(_) => {}
                Err(error) if !is_not_found(&error) => {
                    return Err(Failure::of_daemon(&format!("ask for {net}"), &error).into());
                }
                Err(error) => {
                    let Some(definition) = self.conf.definition() else {
                        let failure =
                            Failure::of_daemon(&format!("attach to {net}"), &error).with(format!(
                                "create it with: overlayctl net create {net}; or say overlay.vni \
                                 or overlay.subnet in the configuration, and it is created"
                            ));
                        return Err(failure.into());
                    };
                    daemon.create_network(&definition).map_err(|error| {
                        Failure::of_daemon(&format!("create network {net}"), &error)
                    })?;
                    last = None;
                    continue;
                }
            }
            last = Some(refused);
        }
        let failure = match last {
            Some(error) => Failure {
                code: Code::UnknownContainer,
                ..Failure::of_daemon(&format!("attach to {net}"), &error)
            },
            None => Failure::new(
                Code::TryAgainLater,
                format!("network {net} was removed again each time that it was created"),
            ),
        };
        Err(failure.into())
    }

    fn del(&self, container: &Container) -> Result<(), Failure> {
        let label = container.attachment.label(&self.conf.name);
        let mut daemon = self.daemon().with_timeout(DEL_TIMEOUT);
        // What waits goes first; if it is this very one, it is done with it.
        self.catch_up(&mut daemon)?;
        match detach_all(&mut daemon, &label) {
            Tried::Done => {
                // Of a DEL that was refused before.
                let _ = self.queue.forget(&label);
                Ok(())
            }
            Tried::NotNow => {
                eprintln!("overlay-cni: overlayd does not answer: the DEL of {label} waits for it");
                self.queue.put(&label)
            }
            Tried::Refused => Err(Failure::new(
                Code::Io,
                format!("overlayd has refused to detach {label}; what it said is on stderr"),
            )),
        }
    }

    fn check(&self, container: &Container) -> Result<(), Failure> {
        let prev =
            self.conf.asked.prev_result.as_ref().ok_or_else(|| {
                Failure::config("CHECK needs prevResult, what the ADD has answered")
            })?;
        let prev = Attached::read(prev)?;
        let path = container.netns.as_deref().unwrap_or_default();
        namespace::check(path, container.netns_override)?;
        let mut daemon = self.daemon();
        self.catch_up(&mut daemon)?;
        let label = container.attachment.label(&self.conf.name);
        let until = Instant::now() + SETTLE;
        let endpoint = loop {
            let mut found = daemon
                .labelled(&format!("{LABEL}={label}"))
                .map_err(|error| Failure::of_daemon(&format!("check {label}"), &error))?;
            let Some(endpoint) = found.pop() else {
                let msg = format!("{label} is not attached: overlayd has no such endpoint");
                return Err(Failure::new(Code::UnknownContainer, msg));
            };
            match endpoint.state.as_str() {
                "ready" => break endpoint,
                // Right after an ADD, or a restart of the daemon.
                "pending" if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                state => {
                    let why = endpoint.reason.map(|why| format!(": {why}")).unwrap_or_default();
                    let msg = format!("endpoint {} of {label} is {state}{why}", endpoint.id);
                    return Err(Failure::new(Code::NotAsMade, msg));
                }
            }
        };
        compare(container, path, &endpoint, &prev)
    }

    fn gc(&self) -> Result<(), Failure> {
        let Some(valid) = &self.conf.asked.valid else {
            return Err(Failure::config(
                "GC needs cni.dev/valid-attachments; without it all containers would go",
            ));
        };
        let valid: Vec<Attachment> = valid
            .iter()
            .map(|one| Attachment { container: one.container.clone(), ifname: one.ifname.clone() })
            .collect();
        let mut daemon = self.daemon();
        self.catch_up(&mut daemon)?;
        let name = &self.conf.name;
        let found = daemon.labelled(LABEL).map_err(|error| {
            Failure::of_daemon(&format!("collect what is left of {name}"), &error)
        })?;
        let mut failed = Vec::new();
        for endpoint in found {
            let label = endpoint.labels.get(LABEL).map(String::as_str).unwrap_or_default();
            match Attachment::of_label(name, label) {
                Some(attachment) if !valid.contains(&attachment) => {}
                _ => continue,
            }
            match daemon.detach(&endpoint.id) {
                Err(error) if !is_not_found(&error) => failed.push(format!("{label}: {error}")),
                _ => eprintln!("overlay-cni: GC has detached {label}, endpoint {}", endpoint.id),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let msg = format!("{} attachments of {name} could not be removed", failed.len());
        Err(Failure::new(Code::Incomplete, msg).with(failed.join("; ")))
    }

    fn status(&self) -> Result<(), Failure> {
        let net = self.conf.network();
        let mut daemon = self.daemon();
        let not_available = |msg: String| Err(Failure::new(Code::NotAvailable, msg));
        let failed = |error: &ClientError| Failure {
            code: Code::NotAvailable,
            ..Failure::of_daemon("attach containers now", error)
        };
        let status = daemon.status().map_err(|error| failed(&error))?;
        self.catch_up(&mut daemon)?;
        if status.host.drained {
            let msg = "this host takes no new endpoint: it is drained".to_owned();
            return Err(
                Failure::new(Code::NotAvailable, msg).with("end it: overlayctl drain --undo")
            );
        }
        let network = match daemon.network(net) {
            Ok(network) => network,
            Err(error) if is_not_found(&error) && self.conf.definition().is_some() => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        if let Some(why) = network.conflict {
            let msg = format!("network {net} is not programmed: {why}");
            return Err(Failure::new(Code::LimitedConnectivity, msg)
                .with("remove one of the two with: overlayctl net rm"));
        }
        let subnets = daemon.ipam().map_err(|error| failed(&error))?;
        match subnets.iter().find(|subnet| subnet.net == network.name && subnet.free == 0) {
            Some(full) => not_available(format!(
                "no address of {} is free: {} of {} are leased",
                full.cidr, full.leased, full.capacity
            )),
            None => Ok(()),
        }
    }
}

/// Why an attach did not succeed.
struct Attempt {
    failure: Failure,
    /// Whether it has taken effect nobody has said.
    unsure: bool,
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self { failure, unsure: false }
    }
}

/// Detaches all that bears `label`. Nothing there is a success.
pub(crate) fn detach_all(daemon: &mut Connection, label: &str) -> Tried {
    let until = Instant::now() + SETTLE;
    let refused = |error: &ClientError| {
        if Failure::is_for_later(error) {
            return Tried::NotNow;
        }
        eprintln!("overlay-cni: cannot detach {label}: {error}");
        Tried::Refused
    };
    loop {
        let mut in_a_moment = false;
        let found = match daemon.labelled(&format!("{LABEL}={label}")) {
            Ok(found) => found,
            Err(error) => return refused(&error),
        };
        let mut outcome = Tried::Done;
        for endpoint in found {
            match daemon.detach(&endpoint.id) {
                Err(error) if !is_not_found(&error) => {
                    outcome = refused(&error);
                    // It is just being attached, say.
                    in_a_moment |= matches!(error, ClientError::Api(_));
                }
                _ => {}
            }
        }
        if outcome != Tried::NotNow || !in_a_moment || Instant::now() >= until {
            return outcome;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives the interface that is in the way time to go, and says whether there is
/// none. What was taken may have been something else: that is said once more.
fn has_gone(wish: &v1::Attach) -> Result<bool, Failure> {
    let path = wish.netns.as_deref().unwrap_or_default();
    let ifname = wish.ifname.as_deref().unwrap_or_default();
    let until = Instant::now() + GOING;
    while namespace::look(path, ifname)?.there {
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

fn is_taken(error: &ClientError) -> bool {
    matches!(error, ClientError::Api(error) if error.code == v1::ErrorCode::Taken)
}

fn is_not_found(error: &ClientError) -> bool {
    matches!(error, ClientError::Api(error) if error.code == v1::ErrorCode::NotFound)
}

/// Its namespace does not exist any more: overlayd has yet to notice.
fn is_gone(endpoint: &v1::Endpoint) -> bool {
    let path = endpoint.netns.as_deref().map(std::path::Path::new);
    path.is_some_and(|path| matches!(path.try_exists(), Ok(false)))
}

/// Fails if the container is not as the ADD has left it. What others have added is
/// none of our business.
fn compare(
    container: &Container,
    path: &str,
    endpoint: &v1::Endpoint,
    prev: &Attached,
) -> Result<(), Failure> {
    let ifname = &container.attachment.ifname;
    let differs = |what: String| Err(Failure::new(Code::NotAsMade, what));
    let is_ours = |interface: &Interface| {
        interface.name == *ifname && interface.sandbox.as_deref().is_some_and(|s| !s.is_empty())
    };
    let Some(index) = prev.interfaces.iter().position(is_ours) else {
        return Err(Failure::config(format!(
            "prevResult has no interface {ifname} of a container"
        )));
    };
    let held = namespace::look(path, ifname)?;
    if !held.there {
        return differs(format!("the interface {ifname} is not in {path}"));
    }
    let mac = prev.interfaces[index].mac.as_deref().unwrap_or(&endpoint.mac);
    if held.mac.as_deref().is_some_and(|held| !held.eq_ignore_ascii_case(mac)) {
        let held = held.mac.unwrap_or_default();
        return differs(format!("{ifname} has the MAC {held}, not {mac}"));
    }
    let ours =
        |ip: &&crate::result::Ip| ip.interface.is_some_and(|n| usize::try_from(n) == Ok(index));
    for ip in prev.ips.iter().filter(ours) {
        if !endpoint.ips.contains(&ip.address) {
            let id = &endpoint.id;
            return differs(format!("{} is not leased to endpoint {id} any more", ip.address));
        }
        if !held.ips.contains(&ip.address.addr()) {
            return differs(format!("{ifname} has not the address {}", ip.address));
        }
    }
    for route in &prev.routes {
        let by_us = route.gw.is_some_and(|gw| endpoint.gateways.contains(&gw));
        let family = usize::from(route.dst.addr().is_ipv6());
        if by_us && route.dst.prefix_len() == 0 && !held.default_routes[family] {
            return differs(format!("there is no default route like {} in {path}", route.dst));
        }
    }
    Ok(())
}

/// `overlay-cni replay [STATE_DIR [SOCKET]]`: what waits, without a runtime. For
/// the unit file of overlayd.
fn replay_from_command_line() -> ExitCode {
    let mut args = std::env::args().skip(2);
    let dir = args.next().unwrap_or_else(|| crate::conf::STATE_DIR.to_owned());
    let socket = args.next().unwrap_or_else(|| overlay_api::DEFAULT_SOCKET.to_owned());
    let queue = Queue::new(dir.as_ref(), socket.as_ref());
    let mut daemon = Connection::new(socket.as_ref());
    match queue.replay(|label| detach_all(&mut daemon, label)) {
        Ok(left) if left.is_empty() => ExitCode::SUCCESS,
        Ok(left) => {
            eprintln!("overlay-cni: {} DELs still wait for overlayd", left.len());
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("overlay-cni: {}", failure.msg);
            ExitCode::FAILURE
        }
    }
}
