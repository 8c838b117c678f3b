//! The result that a runtime and the plugins after us read, in each version of
//! the specification.
//!
//! What came from a plugin before us goes out as it came in: fields that we do
//! not know included.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

use crate::Version;
use crate::failure::{Code, Failure};

/// What a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attached {
    /// Set when it is shown.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// Of the host and of the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// Its routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// What it asks names of.
    pub dns: Dns,
    /// What later versions may have.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Bytes of IP packet; since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The container's namespace; absent for one of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What else there may be.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// `4` or `6`, before 1.0.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<i64>,
    /// With the prefix length of its subnet.
    pub address: IpNet,
    /// The way out of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// What else there may be.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub dst: IpNet,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// What else there may be.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What a container asks names of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain of its own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of `resolv.conf`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Attached {
    /// Reads what the plugins before us, or we ourselves, have said.
    ///
    /// # Errors
    /// If it is no result.
    pub fn read(prev: &Value) -> Result<Self, Failure> {
        Self::deserialize(prev).map_err(|err| {
            Failure::new(Code::Decode, format!("cannot understand prevResult: {err}"))
        })
    }

    /// As it goes out.
    pub fn to_json(&self, version: Version) -> String {
        let shown = Self { cni_version: version.as_str().to_owned(), ..self.clone() };
        serde_json::to_string_pretty(&shown).expect("maps have string keys")
    }
}
