//! The messages of Docker's plugin protocol, version 1: moby
//! `daemon/libnetwork/drivers/remote/api/api.go` and `ipams/remote/api/api.go`.
//!
//! What dockerd sends beyond what is read here is ignored: later engines say more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Go writes an empty list or map as `null`.
fn null_as_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    pub(super) pool: String,
    pub(super) sub_pool: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) options: BTreeMap<String, String>,
    pub(super) v6: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pool {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    pub(super) pool: String,
    pub(super) data: BTreeMap<&'static str, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct OfPool {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    /// An address, or none.
    pub(super) address: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) options: BTreeMap<String, String>,
}

/// Of the plugin's own `IPAMData`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamData {
    pub(super) address_space: String,
    pub(super) pool: Option<IpNet>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) aux_addresses: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "null_as_default")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "null_as_default")]
    pub(super) ipv6: Vec<IpamData>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    pub(super) address: String,
    #[serde(rename = "AddressIPv6")]
    pub(super) address_ipv6: String,
    pub(super) mac_address: String,
}

/// All requests about an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    pub(super) interface: Option<Interface>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) options: Map<String, Value>,
}

/// `types.PortBinding` of moby.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PortBinding {
    pub(super) proto: u8,
    pub(super) port: u16,
    #[serde(rename = "HostIP")]
    pub(super) host_ip: Option<String>,
    pub(super) host_port: u16,
    pub(super) host_port_end: u16,
}

/// The interface that dockerd moves into the container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<IpAddr>,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub(super) gateway_ipv6: Option<IpAddr>,
    /// dockerd gives the container no way out of its own (`docker_gwbridge`).
    pub(super) disable_gateway_service: bool,
}
