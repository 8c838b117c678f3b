//! A container of a lab: a namespace, what it was attached to, and what it
//! can reach.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;

use crate::host::Host;
use crate::kernel::{self, Link};
use crate::ping::{self, PingStream};
use crate::shell::{netns_path, run_in, script_in};

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    host: Host,
    name: String,
    netns: String,
    endpoints: Vec<v1::Endpoint>,
}

impl Container {
    pub(crate) fn new(host: Host, name: &str, netns: String) -> Self {
        Self { host, name: name.to_owned(), netns, endpoints: Vec::new() }
    }

    /// Attaches it to `net` under its name, and remembers the endpoint.
    ///
    /// # Errors
    /// If the attach is refused.
    pub fn attach_with(&mut self, net: &str, extra: &[&str]) -> Result<v1::Endpoint> {
        let mut args = vec!["attach", "--net", net, "--netns", &self.netns, "--name", &self.name];
        args.extend(extra);
        let endpoint: v1::Endpoint = self.host.ctl_json(&args)?;
        ensure!(
            endpoint.state == "ready",
            "attach of {} returned while it is {}: {:?}",
            self.name,
            endpoint.state,
            endpoint.reason
        );
        self.endpoints.push(endpoint.clone());
        Ok(endpoint)
    }

    /// Its name, in the lab and as an endpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its namespace's name.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Its namespace's path.
    pub fn netns_path(&self) -> String {
        netns_path(&self.netns).display().to_string()
    }

    /// Its first endpoint.
    ///
    /// # Panics
    /// If it was never attached: a bug of the test.
    pub fn endpoint(&self) -> &v1::Endpoint {
        self.endpoints.first().expect("the container was attached")
    }

    /// Its endpoint on `net`.
    ///
    /// # Panics
    /// If it was never attached there: a bug of the test.
    pub fn endpoint_on(&self, net: &str) -> &v1::Endpoint {
        self.endpoints.iter().find(|e| e.net == net).expect("the container was attached to it")
    }

    /// The first address of its first endpoint.
    pub fn ip(&self) -> IpAddr {
        self.endpoint().ips[0].addr()
    }

    /// Its first IPv6 address.
    ///
    /// # Panics
    /// If it has none: a bug of the test.
    pub fn ip6(&self) -> IpAddr {
        let ips = &self.endpoint().ips;
        ips.iter().map(ipnet::IpNet::addr).find(IpAddr::is_ipv6).expect("it has an IPv6 address")
    }

    /// The MAC of its first endpoint.
    pub fn mac(&self) -> &str {
        &self.endpoint().mac
    }

    /// Waits until `ip` answers a ping from here.
    ///
    /// # Errors
    /// If it does not.
    pub fn ping(&self, ip: IpAddr) -> Result<()> {
        ping::ping(&self.netns, ip)
    }

    /// One ping, one second.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn ping_once(&self, ip: IpAddr) -> Result<()> {
        ping::ping_once(&self.netns, ip)
    }

    /// Fails if `ip` answers.
    ///
    /// # Errors
    /// If it answers.
    pub fn cannot_ping(&self, ip: IpAddr) -> Result<()> {
        ping::ping_unanswered(&self.netns, ip)
    }

    /// A ping of `size` bytes of payload that may not be fragmented.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn ping_unfragmented(&self, ip: IpAddr, size: u16) -> Result<()> {
        ping::ping_unfragmented(&self.netns, ip, size)
    }

    /// Starts a hundred pings a second to `ip`.
    ///
    /// # Errors
    /// If no answer comes.
    pub fn ping_stream(&self, ip: IpAddr) -> Result<PingStream> {
        PingStream::start(&self.netns, ip, self.host.new_file(&format!("{}-ping", self.name)))
    }

    /// Runs a command line in it.
    ///
    /// # Errors
    /// If it ends with another code than 0.
    pub fn exec(&self, line: &str) -> Result<String> {
        run_in(&self.netns, line)
    }

    /// Runs a shell script in it.
    ///
    /// # Errors
    /// If it ends with another code than 0.
    pub fn script(&self, script: &str) -> Result<String> {
        script_in(&self.netns, script)
    }

    /// Its link `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn link(&self, name: &str) -> Result<Link> {
        kernel::links(&self.netns)?
            .into_iter()
            .find(|l| l.name == name)
            .with_context(|| format!("no link {name} in {}", self.netns))
    }

    /// Everything it holds, as text; see [`kernel::snapshot`].
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn snapshot(&self) -> Result<String> {
        kernel::snapshot(&self.netns)
    }
}
