//! The configuration on stdin: what the network is called, and what is wanted of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use overlay_api::v1::{self, WantedSubnet};
use overlay_model::AddressRange;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::Version;
use crate::call::{Verb, is_name, shortened};
use crate::failure::{Code, Failure};
use crate::result::Dns;

/// Where a DEL is written down that the daemon has not heard of, unless `stateDir` says.
pub(crate) const STATE_DIR: &str = "/var/lib/overlay-cni";

/// A configuration that names its network and a version that we speak.
#[derive(Debug, Clone)]
pub struct Conf {
    /// Which version it is of, and its result is to be.
    pub version: Version,
    /// What the administrator calls it; the overlay network may be called otherwise.
    pub name: String,
    /// All the rest.
    pub asked: Asked,
}

/// What a configuration may have. What is not ours is passed over, as the
/// specification wants it: runtimes add keys of their own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asked {
    /// Where overlayd listens.
    pub socket: Option<PathBuf>,
    /// Where a DEL is written down that the daemon has not heard of.
    pub state_dir: Option<PathBuf>,
    /// The network.
    pub overlay: Overlay,
    /// An IPAM plugin, which we do not use.
    pub ipam: Value,
    /// What the container is to ask names of, besides what overlayd says.
    pub dns: Dns,
    /// What the runtime found out for this container.
    pub runtime_config: RuntimeConfig,
    /// The same, in the way before that.
    pub args: Args,
    /// What the plugins before us made.
    pub prev_result: Option<Value>,
    /// GC: what is to stay.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid: Option<Vec<Valid>>,
    cni_version: Option<String>,
    name: Option<String>,
}

/// Which overlay network, and what it is to be if there is none yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Overlay {
    /// Its name; that of the configuration when left out.
    pub network: Option<String>,
    /// Its VNI.
    pub vni: Option<u32>,
    /// Its subnets, one a family.
    pub subnet: OneOrMore<WantedSubnet>,
    /// Its gateways.
    pub gateway: OneOrMore<IpAddr>,
    /// Its MTU.
    pub mtu: Option<u16>,
    /// No gateway, no way out.
    pub internal: bool,
    /// Do not replicate broadcast to other hosts.
    pub no_flood: bool,
    /// Never leased.
    pub exclude: OneOrMore<AddressRange>,
    /// Where addresses are chosen from.
    pub ip_range: OneOrMore<AddressRange>,
    /// Of each container: a default route by this network.
    pub default_route: Option<bool>,
    /// Of each container: names are answered at 127.0.0.11.
    pub names: Option<bool>,
}

/// A value as text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T> Default for OneOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom("expected text, or a list of texts");
        let texts = match Value::deserialize(from)? {
            Value::String(one) => vec![one],
            Value::Array(more) => more
                .into_iter()
                .map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong()),
        };
        let parsed = texts.iter().map(|text| {
            text.parse().map_err(|err| D::Error::custom(format!("`{}`: {err}", shortened(text))))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }
}

/// What a runtime passes on if the configuration has it under `capabilities`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Ports to publish.
    pub port_mappings: Vec<PortMapping>,
    /// Addresses, with a prefix length or without.
    pub ips: Vec<String>,
    /// The interface's MAC.
    pub mac: Option<String>,
    /// What to ask names of.
    pub dns: RuntimeDns,
    /// Names to be found by: a list, or, as podman has it, one for each network.
    pub aliases: Aliases,
    /// Not ours: refused, or the container would silently go without.
    pub ip_ranges: Option<Value>,
    /// Not ours either.
    pub bandwidth: Option<Value>,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    /// Of the host; 0: none.
    pub host_port: i64,
    /// Of the container.
    pub container_port: i64,
    /// `tcp`, `udp` or `sctp`, in whatever case; `tcp` when empty.
    pub protocol: String,
    /// At this address of the host only.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

/// What a runtime wants the container to ask names of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains to search.
    pub searches: Vec<String>,
    /// Options of `resolv.conf`.
    pub options: Vec<String>,
}

/// Names to be found by.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Aliases {
    /// On this network.
    Here(Vec<String>),
    /// By the name of the network.
    By(BTreeMap<String, Vec<String>>),
}

impl Default for Aliases {
    fn default() -> Self {
        Self::Here(Vec::new())
    }
}

impl Aliases {
    /// Those on `network`.
    pub fn on(&self, network: &str) -> &[String] {
        match self {
            Self::Here(aliases) => aliases,
            Self::By(networks) => networks.get(network).map(Vec::as_slice).unwrap_or_default(),
        }
    }
}

/// `args` of a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// What any plugin may read.
    pub cni: CniArgs,
}

/// `args.cni` of a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CniArgs {
    /// Labels of the endpoint.
    pub labels: Labels,
    /// Addresses.
    pub ips: Vec<String>,
}

/// Labels, in the way of the conventions or as a map.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    /// `[{"key": …, "value": …}]`.
    Pairs(Vec<Pair>),
    /// `{KEY: VALUE}`.
    Map(BTreeMap<String, String>),
}

impl Default for Labels {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

/// A label.
#[derive(Debug, Clone, Deserialize)]
pub struct Pair {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Labels {
    /// As a map; of two with one key the last.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        match self {
            Self::Pairs(pairs) => {
                pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect()
            }
            Self::Map(map) => map.clone(),
        }
    }
}

/// An attachment that a GC is to leave.
#[derive(Debug, Clone, Deserialize)]
pub struct Valid {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Its interface.
    pub ifname: String,
}

/// What a configuration says of its version, however wrong the rest is: errors
/// are shown in it.
pub fn version_of(stdin: &[u8]) -> Option<Version> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Only {
        cni_version: String,
    }
    serde_json::from_slice(stdin).ok().and_then(|only: Only| Version::of(&only.cni_version))
}

impl Conf {
    /// Reads what `verb` needs of it.
    ///
    /// # Errors
    /// If it is no configuration, its version is not spoken or does not know the
    /// verb, or its name breaks a rule of the specification.
    pub fn read(verb: Verb, stdin: &[u8]) -> Result<Self, Failure> {
        let asked: Asked = serde_json::from_slice(stdin).map_err(|err| {
            let said = "cannot understand the configuration on stdin";
            Failure::new(Code::Decode, format!("{said}: {err}"))
        })?;
        let text = asked.cni_version.as_deref().unwrap_or("0.1.0");
        let version = Version::of(text).ok_or_else(|| {
            let ours = Version::ALL.map(Version::as_str).join(", ");
            let msg = format!("cniVersion `{}` is not spoken here", shortened(text));
            Failure::new(Code::IncompatibleVersion, msg).with(format!("use one of {ours}"))
        })?;
        let since = match verb {
            Verb::Add | Verb::Del | Verb::Version => Version::V0_3_1,
            Verb::Check => Version::V0_4_0,
            Verb::Gc | Verb::Status => Version::V1_1_0,
        };
        if version < since {
            return Err(Failure::new(
                Code::IncompatibleVersion,
                format!("cniVersion {text} has no {}", verb.as_str()),
            )
            .with(format!("it is there since {}", since.as_str())));
        }
        let name = asked.name.clone().unwrap_or_default();
        if !is_name(&name) {
            return Err(Failure::config(format!(
                "the name of the network is `{}`; it must begin with a letter or digit, and have \
                 letters, digits, `_`, `.` and `-` only",
                shortened(&name)
            )));
        }
        Ok(Self { version, name, asked })
    }

    /// Where overlayd listens.
    pub fn socket(&self) -> PathBuf {
        self.asked.socket.clone().unwrap_or_else(|| overlay_api::DEFAULT_SOCKET.into())
    }

    /// Where a DEL is written down that the daemon has not heard of.
    pub fn state_dir(&self) -> PathBuf {
        self.asked.state_dir.clone().unwrap_or_else(|| STATE_DIR.into())
    }

    /// The overlay network's name.
    pub fn network(&self) -> &str {
        self.asked.overlay.network.as_deref().unwrap_or(&self.name)
    }

    /// The network to create if there is none of that name; `None` if the
    /// configuration does not say what it is to be.
    pub fn definition(&self) -> Option<v1::CreateNetwork> {
        let overlay = &self.asked.overlay;
        let subnets = overlay.subnet.0.clone();
        if subnets.is_empty() && overlay.vni.is_none() {
            return None;
        }
        Some(v1::CreateNetwork {
            name: Some(self.network().to_owned()),
            vni: overlay.vni,
            subnets,
            gateways: overlay.gateway.0.clone(),
            mtu: overlay.mtu,
            internal: overlay.internal,
            no_flood: overlay.no_flood,
            exclude: overlay.exclude.0.clone(),
            ip_ranges: overlay.ip_range.0.clone(),
            once: true,
            ..v1::CreateNetwork::default()
        })
    }
}

#[cfg(test)]
mod tests;
