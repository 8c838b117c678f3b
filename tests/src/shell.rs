//! Running programs, in a network namespace or not, with errors that show
//! what was run and what it said.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` keeps its namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// The path of the namespace `netns`.
pub fn netns_path(netns: &str) -> PathBuf {
    PathBuf::from(NETNS_DIR).join(netns)
}

/// A command that will run inside `netns`. `nsenter` executes it in its own
/// place, so that the pid of the child is the pid of the program.
pub fn command_in<S: AsRef<OsStr>>(netns: &str, program: S) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns_path(netns).display())).arg("--").arg(program);
    command.stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs `line` (a program and its arguments, split at white space) and returns
/// what it wrote to stdout.
///
/// # Errors
/// If it cannot be started or ends with another code than 0; the text holds
/// the command line and its stderr.
pub fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
    finish(&mut command)
}

/// [`run`], inside `netns`.
///
/// # Errors
/// As [`run`].
pub fn run_in(netns: &str, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    finish(command_in(netns, program).args(words))
}

/// Runs `script` in `sh -e`, inside `netns`: for pipes and several lines.
///
/// # Errors
/// As [`run`].
pub fn script_in(netns: &str, script: &str) -> Result<String> {
    finish(command_in(netns, "sh").args(["-ec", script]))
}

/// Feeds `input` to `line` inside `netns`.
///
/// # Errors
/// As [`run`].
pub fn feed_in(netns: &str, line: &str, input: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    let mut command = command_in(netns, program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    child
        .stdin
        .take()
        .context("stdin was piped")?
        .write_all(input.as_bytes())
        .with_context(|| format!("{command:?} did not read its input"))?;
    checked(&command, &child.wait_with_output()?)
}

fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    checked(command, &output)
}

pub(crate) fn checked(command: &Command, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            if stdout.trim().is_empty() { String::new() } else { format!(" / {}", stdout.trim()) }
        );
    }
    Ok(stdout)
}

/// Runs `work` in the network namespace `netns`: sockets that it makes belong
/// there, whoever uses them later.
///
/// # Errors
/// If there is no such namespace, or what `work` says.
///
/// # Panics
/// If `work` does.
pub fn inside<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let path = netns_path(netns);
    // A thread of its own enters the namespace and ends there.
    std::thread::spawn(move || {
        let namespace = File::open(&path).with_context(|| format!("no {}", path.display()))?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .join()
    .expect("the thread does not panic")
}

/// Binds a UDP socket in `netns`, as a program that was there first would. It
/// holds the port until it is dropped.
///
/// # Errors
/// If the port is taken.
pub fn occupy_udp(netns: &str, address: SocketAddr) -> Result<UdpSocket> {
    inside(netns, move || {
        UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))
    })
}

/// Sends `signal` to a child of ours, by its pid.
///
/// # Errors
/// If it is gone.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    signal_pid(child.id(), signal)
}

/// Sends `signal` to the process `pid`.
///
/// # Errors
/// If it is gone.
pub fn signal_pid(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).context("a pid fits i32")?;
    kill(Pid::from_raw(raw), signal).with_context(|| format!("cannot send {signal} to {pid}"))
}
