//! Ports of a host that lead to an endpoint.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As it is written in a rule of nftables, and after a port's slash.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in an IP header (IANA).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = InvalidPublish;
    fn from_str(s: &str) -> Result<Self, InvalidPublish> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == s).ok_or_else(|| {
            InvalidPublish(format!("`{s}` is no protocol with ports: tcp, udp or sctp"))
        })
    }
}

/// Ports of a host, or of every host, that lead to ports of an endpoint.
///
/// Its text is what `--publish` takes.
///
/// ```
/// # use overlay_model::Publish;
/// let plain: Publish = "8080:80".parse()?;
/// assert_eq!(plain.to_string(), "8080:80/tcp");
/// let range: Publish = "192.0.2.1:5000-5009:6000-6009/udp".parse()?;
/// assert_eq!(range.pairs().last(), Some((5009, 6009)));
/// let anywhere: Publish = "53:53/udp,mode=cluster".parse()?;
/// assert!(anywhere.cluster);
/// let as_docker: Publish = "published=8080,target=80,protocol=tcp,mode=host".parse()?;
/// assert_eq!(as_docker, plain);
/// # Ok::<(), overlay_model::InvalidPublish>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Publish {
    /// Which kind of ports.
    pub protocol: Protocol,
    /// At this address of the host only; `None`: at all of them, of both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<IpAddr>,
    /// The first port of the host; 0: any that is free, before it is chosen.
    pub host_port: u16,
    /// The first port of the endpoint.
    pub port: u16,
    /// How many ports; at least 1.
    pub count: u16,
    /// Every host takes it and passes it on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster: bool,
}

/// The text says no ports to publish. Its message says why, and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPublish(pub String);

impl Publish {
    /// Checks that all its ports are there.
    ///
    /// # Errors
    /// [`InvalidPublish`] if some would lie outside 1 to 65535, or the endpoint's is 0.
    pub fn check(&self) -> Result<(), InvalidPublish> {
        let last = |first: u16| u32::from(first) + u32::from(self.count.max(1)) - 1;
        if self.port == 0 || self.count == 0 {
            return Err(InvalidPublish("an endpoint has no port 0: use 1 to 65535".to_owned()));
        }
        if self.host_port == 0 && self.count > 1 {
            let text = "a range needs its first host port: 0 is any one port".to_owned();
            return Err(InvalidPublish(text));
        }
        if last(self.port) > 65535 || last(self.host_port) > 65535 {
            return Err(InvalidPublish(format!("{self} goes beyond port 65535")));
        }
        if self.cluster && self.at.is_some() {
            let text = format!("{self}: every host takes a port of mode=cluster, at all addresses");
            return Err(InvalidPublish(text));
        }
        Ok(())
    }

    /// Each port of the host with the endpoint's.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (host, own) = (self.host_port, self.port);
        (0..self.count).map(move |n| (host.wrapping_add(n), own.wrapping_add(n)))
    }

    /// Says whether port `own` of the endpoint is among them.
    pub fn leads_to(&self, own: u16) -> bool {
        own.checked_sub(self.port).is_some_and(|n| n < self.count)
    }

    /// Says whether the two claim a port of one host at one address.
    pub fn meets(&self, other: &Self) -> bool {
        let last = |p: &Self| u32::from(p.host_port) + u32::from(p.count);
        self.protocol == other.protocol
            && u32::from(self.host_port) < last(other)
            && u32::from(other.host_port) < last(self)
            && match (self.at, other.at) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }

    /// The host's side, for people: `192.0.2.1:8080/tcp`.
    pub fn front(&self) -> String {
        let at = self.at.map(|ip| format!("{}:", bracketed(ip))).unwrap_or_default();
        format!("{at}{}/{}", stretch(self.host_port, self.count), self.protocol)
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn stretch(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{}:", bracketed(at))?;
        }
        let (host, own) = (stretch(self.host_port, self.count), stretch(self.port, self.count));
        write!(f, "{host}:{own}/{}", self.protocol)?;
        if self.cluster { f.write_str(",mode=cluster") } else { Ok(()) }
    }
}

impl FromStr for Publish {
    type Err = InvalidPublish;
    fn from_str(s: &str) -> Result<Self, InvalidPublish> {
        let publish = if s.contains("target=") { by_words(s)? } else { by_colons(s)? };
        publish.check()?;
        Ok(publish)
    }
}

const FORM: &str = "write [IP:]HOSTPORT:PORT[/tcp|udp|sctp][,mode=cluster], ranges as 8000-8009, \
                    host port 0 for any free one";

fn by_colons(s: &str) -> Result<Publish, InvalidPublish> {
    let wrong = || InvalidPublish(format!("`{s}` says no ports to publish: {FORM}"));
    let (rest, cluster) = match s.split_once(',') {
        None => (s, false),
        Some((rest, mode)) => (rest, mode_of(mode.strip_prefix("mode=").ok_or_else(wrong)?)?),
    };
    let (rest, protocol) = match rest.rsplit_once('/') {
        None => (rest, Protocol::Tcp),
        Some((rest, protocol)) => (rest, protocol.parse()?),
    };
    let (front, own) = rest.rsplit_once(':').unwrap_or(("0", rest));
    let (at, host) = match front.rsplit_once(':') {
        None => (None, front),
        Some((at, host)) => {
            let bare = at.strip_prefix('[').and_then(|at| at.strip_suffix(']'));
            let ip: IpAddr = bare.unwrap_or(at).parse().map_err(|_| wrong())?;
            // Without brackets one could not tell where it ends.
            if ip.is_ipv6() && bare.is_none() {
                return Err(wrong());
            }
            (Some(ip), host)
        }
    };
    let (host_port, host_count) = ports(host).ok_or_else(wrong)?;
    let (port, count) = ports(own).ok_or_else(wrong)?;
    if host_count != count {
        return Err(InvalidPublish(format!(
            "`{s}` has {host_count} ports of the host for {count} of the endpoint: as many of both"
        )));
    }
    Ok(Publish {
        protocol,
        at: at.filter(|ip| !ip.is_unspecified()),
        host_port,
        port,
        count,
        cluster,
    })
}

/// The way in which `docker service create` says it.
fn by_words(s: &str) -> Result<Publish, InvalidPublish> {
    let wrong = || {
        InvalidPublish(format!(
            "`{s}` says no ports to publish: write published=8080,target=80 with protocol=, mode= \
             and ip= where needed"
        ))
    };
    let one = Publish {
        protocol: Protocol::Tcp,
        at: None,
        host_port: 0,
        port: 0,
        count: 1,
        cluster: false,
    };
    s.split(',').try_fold(one, |publish, word| {
        let (key, value) = word.split_once('=').ok_or_else(wrong)?;
        Ok(match key {
            "published" => Publish { host_port: value.parse().map_err(|_| wrong())?, ..publish },
            "target" => Publish { port: value.parse().map_err(|_| wrong())?, ..publish },
            "protocol" => Publish { protocol: value.parse()?, ..publish },
            "mode" => Publish { cluster: mode_of(value)?, ..publish },
            "ip" => Publish { at: Some(value.parse().map_err(|_| wrong())?), ..publish },
            _ => return Err(wrong()),
        })
    })
}

fn mode_of(mode: &str) -> Result<bool, InvalidPublish> {
    match mode {
        "host" => Ok(false),
        // Docker's word for it.
        "cluster" | "ingress" => Ok(true),
        _ => Err(InvalidPublish(format!("`{mode}` is no mode: host or cluster"))),
    }
}

/// A first port and how many.
fn ports(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    match text.split_once('-') {
        None => Some((number(text)?, 1)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            Some((first, last.checked_sub(first)?.checked_add(1)?))
        }
    }
}

#[cfg(test)]
mod tests;
