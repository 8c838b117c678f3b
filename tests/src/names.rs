//! Names, as containers ask for them: `dig`, the resolver of glibc, and a `dnsmasq` to ask others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::container::Container;
use crate::shell::{command_in, run_in, script_in, signal};

/// Where containers ask.
pub const DOOR: &str = "127.0.0.11";

/// What `dig` was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dig {
    /// `NOERROR`, `NXDOMAIN` and the like.
    pub status: String,
    /// `qr`, `aa`, `tc` and the like.
    pub flags: BTreeSet<String>,
    /// The records of the answer: name, seconds, type and what it says.
    pub answers: Vec<Record>,
    /// Those of the authority section.
    pub authority: Vec<Record>,
    /// Those of the additional section.
    pub additional: Vec<Record>,
    /// All that it printed.
    pub text: String,
}

/// A record, as `dig` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of what.
    pub name: String,
    /// For how long, seconds.
    pub ttl: u32,
    /// `A`, `PTR` and the like.
    pub kind: String,
    /// The rest.
    pub data: String,
}

impl Dig {
    /// What the answers say, in their order.
    pub fn data(&self) -> Vec<&str> {
        self.answers.iter().map(|record| record.data.as_str()).collect()
    }

    /// The addresses that it was answered, in their order.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.answers.iter().filter_map(|record| record.data.parse().ok()).collect()
    }

    /// That there is such a name.
    ///
    /// # Errors
    /// Unless it was said so.
    pub fn is(&self, status: &str) -> Result<&Self> {
        ensure!(self.status == status, "not {status}: {}", self.text);
        Ok(self)
    }
}

/// Runs `dig` in a namespace: `line` is a server, a name, a type, options. It asks once.
///
/// # Errors
/// If nobody answers.
pub fn dig(netns: &str, line: &str) -> Result<Dig> {
    let options = "+tries=1 +time=3 +nocmd +noquestion +nostats";
    let text = run_in(netns, &format!("dig {options} {line}"))?;
    read(&text).with_context(|| format!("dig {line}: {text}"))
}

fn read(text: &str) -> Result<Dig> {
    let after = |mark: &str| {
        let (_, rest) = text.split_once(mark)?;
        rest.split([',', ';', '\n']).next().map(str::trim)
    };
    let status = after("status: ").context("no status")?.to_owned();
    let flags = after("flags: ").context("no flags")?;
    let section = |name: &str| -> Vec<Record> {
        let Some((_, rest)) = text.split_once(&format!(";; {name} SECTION:\n")) else {
            return Vec::new();
        };
        let lines = rest.lines().take_while(|line| !line.is_empty());
        lines.filter(|line| !line.starts_with(';')).filter_map(record).collect()
    };
    Ok(Dig {
        status,
        flags: flags.split(' ').map(str::to_owned).collect(),
        answers: section("ANSWER"),
        authority: section("AUTHORITY"),
        additional: section("ADDITIONAL"),
        text: text.to_owned(),
    })
}

fn record(line: &str) -> Option<Record> {
    let mut words = line.split_whitespace();
    let (name, ttl) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let kind = words.nth(1)?.to_owned();
    let data = words.collect::<Vec<_>>().join(" ");
    Some(Record { name, ttl, kind, data })
}

impl Container {
    /// Asks at 127.0.0.11; `line` is a name, a type, options.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn dig(&self, line: &str) -> Result<Dig> {
        dig(self.netns(), &format!("@{DOOR} {line}"))
    }

    /// What the resolver of glibc says to a program in this container whose `resolv.conf` is
    /// `conf`: the addresses of `name`, in its order.
    ///
    /// # Errors
    /// If it finds nothing.
    pub fn resolves(&self, conf: &Path, name: &str) -> Result<Vec<IpAddr>> {
        let line = format!("getent ahosts {name}");
        let text = script_in(self.netns(), &with_resolv_conf(conf, &line))?;
        let mut ips = Vec::new();
        for word in text.lines().filter_map(|line| line.split_whitespace().next()) {
            let ip = word.parse().with_context(|| text.clone())?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        Ok(ips)
    }
}

/// A script that runs `line` with another `/etc/resolv.conf`, which nobody else sees.
pub fn with_resolv_conf(conf: &Path, line: &str) -> String {
    let mount = format!("mount --bind {} /etc/resolv.conf", conf.display());
    format!("unshare --mount sh -ec 'mount --make-rprivate / && {mount} && {line}'")
}

/// A `dnsmasq`, until it is dropped.
#[derive(Debug)]
pub struct Dnsmasq(Child);

impl Dnsmasq {
    /// Starts one that reads no configuration of the machine: `args` say what it answers and
    /// where.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(netns: &str, args: &[&str]) -> Result<Self> {
        let mut command = command_in(netns, "dnsmasq");
        let own = ["-k", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="];
        let user = ["--user=root", "--group=root"];
        command.args(own).args(user).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot start dnsmasq")?))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = signal(&self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
