//! Docker's network and IPAM drivers (plugin protocol, version 1), inside overlayd.
//!
//! ```text
//!  docker run ─► dockerd ─► RequestAddress ─► an address is held
//!                           CreateEndpoint ─► veth pair; its near end is attached as a device
//!                           Join           ─► the far end's name, gateways: dockerd moves it
//!                           ProgramExternalConnectivity ─► ports are published
//!              dockerd's events ◄───────────── name and aliases of the container
//!  docker stop ─► RevokeExternalConnectivity, Leave, DeleteEndpoint ─► detached, pair removed
//! ```
//!
//! What dockerd wants to be remembered: which of its networks is which of the
//! cluster's is in a file ([`bindings`]); an endpoint bears dockerd's ids as labels.
//! A pair dies with its container's namespace, and the endpoint of a device that is
//! gone is detached by the daemon; what is left besides (dockerd was killed in
//! between) is found by asking dockerd which endpoints it has ([`watcher`]).
//!
//! Promises: a request is done wholly or not at all; the same request again does
//! nothing more; dockerd is never asked anything while it waits for us (it holds the
//! network's lock meanwhile). Failures are `Err` (`Error` of the IPAM driver) with
//! status 200, as dockerd reads them; a method that is not known is 404.
//!
//! Docker's own firewall drops what is not Docker's: see [`passage`].
//!
//! Absent: the global scope of a swarm. A network of the cluster is global without it.

mod bindings;
mod passage;
mod watcher;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use overlay_api::{Client, ClientError, v1};
use overlay_model::{IfName, MacAddr, Name};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::UnixListener;

use bindings::{Bindings, Network};
pub use passage::close as close_passage;
pub use watcher::follow;
use wire::{CreateNetwork, IpamData, Joined, OfEndpoint, OfPool, Pool, RequestPool};

/// The largest request that is read, bytes.
const MAX_BODY: usize = 1 << 20;

/// What dockerd accepts and sends (moby `pkg/plugins/transport/mimetype.go`).
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Where our addresses live: dockerd tells networks by it that use our IPAM driver.
const SPACE: &str = "overlayd";

/// Says which network of the cluster is meant (`-o`, `--ipam-opt`).
const OPT_NETWORK: &str = "overlayd.network";
/// Names of an endpoint (`--network name=N,driver-opt=overlayd.alias=a;b`): docker itself splits
/// at commas.
const OPT_ALIAS: &str = "overlayd.alias";
const OPT_NAME: &str = "overlayd.name";

const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";
const PORT_MAP: &str = "com.docker.network.portmap";
const GATEWAY: &str = "com.docker.network.gateway";
/// moby since 29: the container's name.
const ENDPOINT_NAME: &str = "com.docker.network.endpoint.name";

/// What an endpoint of Docker's bears.
const LABEL_ENDPOINT: &str = "docker.endpoint";
const LABEL_NETWORK: &str = "docker.network";

/// How long a daemon that is restarting is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why dockerd is refused: one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        Self(match error.to_v1() {
            v1::Error { message, hint: Some(hint), .. } => format!("{message}; {hint}"),
            v1::Error { message, .. } => message,
        })
    }
}

type Answer = Result<Value, Refusal>;

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(text.into()))
}

/// Both drivers.
#[derive(Debug)]
pub struct Plugin {
    client: Client,
    bindings: Mutex<Bindings>,
    /// Our endpoints by Docker's EndpointID, as far as they were asked for.
    endpoints: Mutex<BTreeMap<String, v1::Endpoint>>,
    /// Names that the IPAM driver was told, by network and address.
    named: Mutex<BTreeMap<(String, IpAddr), Name>>,
}

impl Plugin {
    /// Asks the daemon that listens on `socket`; bindings are kept in `file`.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn new(socket: &Path, file: &Path) -> io::Result<Self> {
        Ok(Self {
            client: Client::new(socket).with_timeout(PATIENCE),
            bindings: Mutex::new(Bindings::read(file)?),
            endpoints: Mutex::default(),
            named: Mutex::default(),
        })
    }

    /// Answers dockerd until `stopped`.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn serve(
        self: Arc<Self>,
        listener: UnixListener,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router =
            Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(stopped).await
    }

    fn bindings(&self) -> MutexGuard<'_, Bindings> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, v1::Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self) -> MutexGuard<'_, BTreeMap<(String, IpAddr), Name>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of a request, by its path; `None`: there is no such.
    async fn dispatch(&self, path: &str, body: &[u8]) -> Option<Answer> {
        Some(match path {
            "/Plugin.Activate" => Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
            "/NetworkDriver.GetCapabilities" => {
                Ok(json!({ "Scope": "local", "ConnectivityScope": "global" }))
            }
            "/NetworkDriver.CreateNetwork" => self.with(body, Self::create_network).await,
            "/NetworkDriver.DeleteNetwork" => self.with(body, Self::delete_network).await,
            "/NetworkDriver.CreateEndpoint" => self.with(body, Self::create_endpoint).await,
            "/NetworkDriver.DeleteEndpoint" => self.with(body, Self::delete_endpoint).await,
            "/NetworkDriver.Join" => self.with(body, Self::join).await,
            "/NetworkDriver.ProgramExternalConnectivity" => self.with(body, Self::publish).await,
            "/NetworkDriver.RevokeExternalConnectivity" => self.with(body, Self::withdraw).await,
            // dockerd moves the interface out of the container by itself.
            "/NetworkDriver.Leave"
            | "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete" => Ok(json!({})),
            "/NetworkDriver.EndpointOperInfo" => Ok(json!({ "Value": {} })),
            "/NetworkDriver.AllocateNetwork" | "/NetworkDriver.FreeNetwork" => refuse(
                "overlayd is a driver of scope local: create the network on each host, without \
                 --scope swarm",
            ),
            "/IpamDriver.GetCapabilities" => {
                Ok(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }))
            }
            "/IpamDriver.GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": SPACE,
                "GlobalDefaultAddressSpace": SPACE,
            })),
            "/IpamDriver.RequestPool" => self.with(body, Self::request_pool).await,
            "/IpamDriver.ReleasePool" => self.with(body, Self::release_pool).await,
            "/IpamDriver.RequestAddress" => self.with(body, Self::request_address).await,
            "/IpamDriver.ReleaseAddress" => self.with(body, Self::release_address).await,
            _ => return None,
        })
    }

    async fn with<'a, T: DeserializeOwned, F: Future<Output = Answer>>(
        &'a self,
        body: &[u8],
        handle: impl FnOnce(&'a Self, T) -> F,
    ) -> Answer {
        match serde_json::from_slice(body) {
            Ok(request) => handle(self, request).await,
            Err(err) => refuse(format!("dockerd has sent what overlayd does not read: {err}")),
        }
    }

    // ----- IpamDriver ------------------------------------------------------

    async fn request_pool(&self, asked: RequestPool) -> Answer {
        if !asked.sub_pool.is_empty() {
            return refuse(
                "--ip-range is said of the cluster's network: overlayctl net create --ip-range",
            );
        }
        options_are_known(asked.options.keys(), &[OPT_NETWORK])?;
        let wanted: Option<IpNet> = match asked.pool.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(pool) => Some(pool),
                Err(_) => return refuse(format!("`{text}` is no subnet")),
            },
        };
        let family = if asked.v6 { "IPv6" } else { "IPv4" };
        let nets = match asked.options.get(OPT_NETWORK) {
            Some(name) => vec![self.client.network(name).await?],
            None => self.client.networks().await?,
        };
        let said = asked.options.contains_key(OPT_NETWORK);
        let fits = |subnet: &&v1::Subnet| {
            subnet.cidr.addr().is_ipv6() == asked.v6 && wanted.is_none_or(|w| w == subnet.cidr)
        };
        let fitting: Vec<(&v1::Network, &v1::Subnet)> = nets
            .iter()
            .filter(|net| net.conflict.is_none())
            .filter_map(|net| Some((net, net.subnets.iter().find(fits)?)))
            .collect();
        match (fitting.as_slice(), wanted) {
            ([(net, subnet)], _) => Ok(pool_of(net, subnet, asked.v6)),
            ([], Some(pool)) => refuse(format!(
                "no network of the cluster has the subnet {pool}: see overlayctl net ls, or create \
                 one: overlayctl net create NAME --subnet {pool}"
            )),
            ([], None) if said => refuse(format!(
                "network {} has no subnet of {family}: leave --ipv6 out",
                nets[0].name
            )),
            ([], None) => refuse(format!(
                "the cluster has no network with a subnet of {family}: create one with overlayctl \
                 net create"
            )),
            (several, Some(pool)) => refuse(format!(
                "{} networks of the cluster have the subnet {pool}: say which with --ipam-opt \
                 {OPT_NETWORK}=NAME",
                several.len()
            )),
            (_, None) => {
                let random = getrandom::u64().map_err(|err| Refusal(err.to_string()))?;
                let stood = self.bindings().stand_in(random, asked.v6);
                let (id, pool) = stood.map_err(|err| unwritten(&err))?;
                let data = BTreeMap::from([(GATEWAY, pool.to_string())]);
                to_value(&Pool { pool_id: id, pool: pool.to_string(), data })
            }
        }
    }

    async fn release_pool(&self, asked: OfPool) -> Answer {
        self.bindings().release_pool(&asked.pool_id).map_err(|err| unwritten(&err))?;
        Ok(json!({}))
    }

    /// The network behind a pool, and whether it is the pool of its IPv6 subnet.
    fn bound(&self, pool_id: &str) -> Result<(String, bool), Refusal> {
        if let Some(standing) = self.bindings().standing(pool_id) {
            return match standing {
                Some(bound) => Ok((bound.net.clone(), bound.v6)),
                None => refuse(format!(
                    "it is not said which network of the cluster this is: create it with -o \
                     {OPT_NETWORK}=NAME, and without --gateway"
                )),
            };
        }
        let mut parts = pool_id.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(SPACE), Some(net), Some(family @ ("4" | "6")), None) => {
                Ok((net.to_owned(), family == "6"))
            }
            _ => refuse(format!("pool `{pool_id}` is not one of overlayd's")),
        }
    }

    async fn request_address(&self, asked: OfPool) -> Answer {
        let (net, v6) = self.bound(&asked.pool_id)?;
        let net = self.client.network(&net).await?;
        let address = match asked.address.as_str() {
            "" => None,
            text => Some(address_of(text)?),
        };
        if asked.options.get("RequestAddressType").is_some_and(|kind| kind == GATEWAY) {
            let subnet = net.subnets.iter().find(|subnet| subnet.cidr.addr().is_ipv6() == v6);
            let Some(subnet) = subnet else {
                return refuse(format!("network {} has no subnet of that family", net.name));
            };
            return match address {
                Some(ip) if ip != subnet.gateway => refuse(format!(
                    "the gateway of network {} is {}, not {ip}: leave --gateway out",
                    net.name, subnet.gateway
                )),
                _ => Ok(address_answer(gateway_of(subnet))),
            };
        }
        let family = if v6 { "ipv6" } else { "ipv4" };
        let family = address.is_none().then(|| family.to_owned());
        let request = v1::ReserveAddress { address, family };
        let held = self.client.reserve_address(&net.id, &request).await?;
        if let Some(name) = asked.options.get(ENDPOINT_NAME).and_then(|name| label_of(name)) {
            let mut named = self.named();
            if named.len() >= 1000 {
                named.clear();
            }
            named.insert((net.id, held.address.addr()), name);
        }
        Ok(address_answer(held.address))
    }

    async fn release_address(&self, asked: OfPool) -> Answer {
        let Ok((net, _)) = self.bound(&asked.pool_id) else { return Ok(json!({})) };
        let Ok(ip) = address_of(&asked.address) else { return Ok(json!({})) };
        match self.client.unreserve_address(&net, ip).await {
            // It is an endpoint's, which has let it go, or nobody's.
            Err(ClientError::Api(error)) if error.code == v1::ErrorCode::NotFound => {}
            other => drop(other?),
        }
        Ok(json!({}))
    }

    // ----- NetworkDriver: networks -----------------------------------------

    async fn create_network(&self, asked: CreateNetwork) -> Answer {
        let generic = asked.options.get(GENERIC).and_then(Value::as_object);
        let generic = generic.cloned().unwrap_or_default();
        options_are_known(generic.keys(), &[OPT_NETWORK])?;
        let pools: Vec<&IpamData> = asked.ipv4.iter().chain(&asked.ipv6).collect();
        if let Some(other) = pools.iter().find(|data| data.address_space != SPACE) {
            return refuse(format!(
                "addresses would be given out by each host for itself, and twice ({}): say \
                 --ipam-driver overlayd",
                other.pool.map_or_else(String::new, |pool| pool.to_string())
            ));
        }
        if let Some(data) = pools.iter().find(|data| !data.aux_addresses.is_empty()) {
            let names: Vec<&str> = data.aux_addresses.keys().map(String::as_str).collect();
            return refuse(format!(
                "--aux-address ({}) is said of the cluster's network: overlayctl net set NAME \
                 --exclude ADDRESS",
                names.join(", ")
            ));
        }
        let pools: Vec<IpNet> = pools.iter().filter_map(|data| data.pool).collect();
        let said = generic.get(OPT_NETWORK).and_then(Value::as_str);
        let net = self.network_for(said, &pools).await?;
        if let Some(why) = &net.conflict {
            return refuse(format!("network {} is not programmed: {why}", net.name));
        }
        let is_true = |value: &Value| value.as_bool() == Some(true) || value == "true";
        let internal = asked.options.get(INTERNAL).is_some_and(is_true);
        if internal && !net.internal {
            return refuse(format!(
                "network {} of the cluster is not internal: leave --internal out, or make it so for \
                 all: overlayctl net set {} --internal",
                net.name, net.name
            ));
        }
        let network = Network { net: net.id.clone(), internal: net.internal };
        let bound = self.bindings().bind(&asked.network_id, network, &pools);
        bound.map_err(|err| unwritten(&err))?;
        tracing::info!(docker = asked.network_id, net = net.name, "a network of Docker is bound");
        Ok(json!({}))
    }

    /// The network of the cluster that is said, or that has these pools.
    async fn network_for(
        &self,
        said: Option<&str>,
        pools: &[IpNet],
    ) -> Result<v1::Network, Refusal> {
        let real: Vec<IpNet> =
            pools.iter().copied().filter(|pool| !self.bindings().is_stand_in(*pool)).collect();
        let has = |net: &v1::Network, pool: &IpNet| net.subnets.iter().any(|s| s.cidr == *pool);
        let Some(name) = said else {
            let mut nets = self.client.networks().await?;
            nets.retain(|net| real.len() == pools.len() && real.iter().all(|pool| has(net, pool)));
            return match nets.len() {
                1 => Ok(nets.remove(0)),
                _ => refuse(format!(
                    "it is not said which network of the cluster is meant: say -o \
                     {OPT_NETWORK}=NAME; they are listed by overlayctl net ls"
                )),
            };
        };
        let net = match self.client.network(name).await {
            Err(ClientError::Api(error)) if error.code == v1::ErrorCode::NotFound => {
                return refuse(format!(
                    "the cluster has no network {name}: create it with overlayctl net create {name}"
                ));
            }
            other => other?,
        };
        if let Some(other) = real.iter().find(|pool| !has(&net, pool)) {
            let subnets: Vec<String> = net.subnets.iter().map(|s| s.cidr.to_string()).collect();
            return refuse(format!(
                "{other} is not a subnet of network {} ({}): leave --subnet out, or say --ipam-opt \
                 {OPT_NETWORK}={name}",
                net.name,
                subnets.join(", ")
            ));
        }
        Ok(net)
    }

    async fn delete_network(&self, asked: CreateNetwork) -> Answer {
        self.bindings().unbind(&asked.network_id).map_err(|err| unwritten(&err))?;
        Ok(json!({}))
    }

    fn network_of(&self, network_id: &str) -> Result<Network, Refusal> {
        match self.bindings().network(network_id) {
            Some(network) => Ok(network.clone()),
            None => refuse(format!(
                "overlayd does not know Docker's network {network_id:.12}: remove it and create it \
                 anew (docker network rm, docker network create)"
            )),
        }
    }

    // ----- NetworkDriver: endpoints ----------------------------------------

    async fn create_endpoint(&self, asked: OfEndpoint) -> Answer {
        let network = self.network_of(&asked.network_id)?;
        let net = self.client.network(&network.net).await?;
        let (near, far) = names_of(&asked.endpoint_id)?;
        let interface = asked.interface.unwrap_or_default();
        let said = [&interface.address, &interface.address_ipv6];
        let said = said.into_iter().filter(|text| !text.is_empty());
        let ips: Vec<IpAddr> = said.map(|text| address_of(text)).collect::<Result<_, _>>()?;
        if ips.is_empty() {
            return refuse("the endpoint has no address: say --ipam-driver overlayd");
        }
        let mac = match interface.mac_address.as_str() {
            "" => None,
            text => Some(text.parse::<MacAddr>().map_err(|err| Refusal(err.to_string()))?),
        };
        let derived = MacAddr::for_addresses(&ips, asked.endpoint_id.as_bytes());
        let names = Names::of(&asked.options)?;
        let labels = BTreeMap::from([
            (LABEL_ENDPOINT.to_owned(), asked.endpoint_id.clone()),
            (LABEL_NETWORK.to_owned(), asked.network_id.clone()),
        ]);
        let answer = || match mac {
            Some(_) => json!({ "Interface": {} }),
            None => json!({ "Interface": { "MacAddress": derived.to_string() } }),
        };
        // dockerd asks again when our answer has not come to it.
        if self.endpoint(&asked.endpoint_id).await?.is_some() {
            return Ok(answer());
        }
        let told = ips.iter().filter_map(|ip| self.named().remove(&(net.id.clone(), *ip)));
        let name = names.name.or(told.last());
        let request = v1::Attach {
            net: net.id.clone(),
            device: Some(near.to_string()),
            ips,
            mac: Some(mac.unwrap_or(derived).to_string()),
            aliases: names.aliases.iter().map(ToString::to_string).collect(),
            labels,
            reserved: true,
            ..v1::Attach::default()
        };
        overlay_netlink::make_pair(&near, &far, net.mtu, mac.unwrap_or(derived))
            .await
            .map_err(|err| Refusal(with_causes(&err)))?;
        match self.attach(&request, name).await {
            Ok(endpoint) => {
                self.known().insert(asked.endpoint_id, endpoint);
                Ok(answer())
            }
            Err(error) => {
                if let Err(err) = overlay_netlink::remove_pair(&near).await {
                    tracing::warn!("{}", with_causes(&err));
                }
                Err(error.into())
            }
        }
    }

    /// By that name, or, if another has it, with it as an alias.
    async fn attach(
        &self,
        request: &v1::Attach,
        name: Option<Name>,
    ) -> Result<v1::Endpoint, ClientError> {
        let Some(name) = name else { return self.client.attach(request).await };
        let named = v1::Attach { name: Some(name.to_string()), ..request.clone() };
        match self.client.attach(&named).await {
            Err(ClientError::Api(error)) if error.code == v1::ErrorCode::Taken => {
                tracing::warn!("{}: {name} is an alias of the container then", error.message);
                let mut request = request.clone();
                request.aliases.push(name.to_string());
                self.client.attach(&request).await
            }
            other => other,
        }
    }

    /// Ours of that id of Docker's.
    async fn endpoint(&self, endpoint_id: &str) -> Result<Option<v1::Endpoint>, Refusal> {
        if let Some(known) = self.known().get(endpoint_id) {
            return Ok(Some(known.clone()));
        }
        let all = self.client.endpoints(None, true).await?;
        let is_it =
            |ep: &v1::Endpoint| ep.labels.get(LABEL_ENDPOINT).is_some_and(|l| l == endpoint_id);
        let found = all.into_iter().find(is_it);
        if let Some(found) = &found {
            self.known().insert(endpoint_id.to_owned(), found.clone());
        }
        Ok(found)
    }

    async fn known_endpoint(&self, endpoint_id: &str) -> Result<v1::Endpoint, Refusal> {
        match self.endpoint(endpoint_id).await? {
            Some(endpoint) => Ok(endpoint),
            None => refuse(format!(
                "overlayd has no endpoint for Docker's {endpoint_id:.12}: it was detached meanwhile"
            )),
        }
    }

    async fn join(&self, asked: OfEndpoint) -> Answer {
        let network = self.network_of(&asked.network_id)?;
        passage::open().await;
        let endpoint = self.known_endpoint(&asked.endpoint_id).await?;
        let (_, far) = names_of(&asked.endpoint_id)?;
        let net = self.client.network(&network.net).await?;
        let gateway = |v6: bool| {
            let has = endpoint.ips.iter().any(|ip| ip.addr().is_ipv6() == v6);
            let subnet = net.subnets.iter().find(|subnet| subnet.cidr.addr().is_ipv6() == v6);
            subnet.filter(|_| has && !network.internal).map(|subnet| subnet.gateway)
        };
        to_value(&Joined {
            interface_name: wire::InterfaceName { src_name: far.to_string(), dst_prefix: "eth" },
            gateway: gateway(false),
            gateway_ipv6: gateway(true),
            disable_gateway_service: true,
        })
    }

    async fn delete_endpoint(&self, asked: OfEndpoint) -> Answer {
        let endpoint = self.endpoint(&asked.endpoint_id).await?;
        self.remove(&asked.endpoint_id, endpoint).await?;
        Ok(json!({}))
    }

    /// Detaches what there is and removes its pair.
    async fn remove(
        &self,
        endpoint_id: &str,
        endpoint: Option<v1::Endpoint>,
    ) -> Result<(), Refusal> {
        if let Some(endpoint) = endpoint {
            match self.client.detach(&endpoint.id, None).await {
                Err(ClientError::Api(error)) if error.code == v1::ErrorCode::NotFound => {}
                other => drop(other?),
            }
        }
        self.known().remove(endpoint_id);
        let (near, _) = names_of(endpoint_id)?;
        overlay_netlink::remove_pair(&near).await.map_err(|err| Refusal(with_causes(&err)))
    }

    // ----- NetworkDriver: ports --------------------------------------------

    async fn publish(&self, asked: OfEndpoint) -> Answer {
        let ports = ports_of(&asked)?;
        if ports.is_empty() {
            return Ok(json!({}));
        }
        let endpoint = self.known_endpoint(&asked.endpoint_id).await?;
        // dockerd asks again when our answer has not come to it.
        self.client.unpublish(&endpoint.id, None, None).await?;
        // Fixed ones in one request: all or none. Of a range, the first that is free.
        let mut fixed: Vec<String> = Vec::new();
        for port in ports.iter().filter(|port| port.host_port_end <= port.host_port) {
            let text = publish_text(port, port.host_port)?;
            if !fixed.contains(&text) {
                fixed.push(text);
            }
        }
        if !fixed.is_empty() {
            self.client.publish(&endpoint.id, None, &v1::Publish { ports: fixed }).await?;
        }
        for port in ports.iter().filter(|port| port.host_port_end > port.host_port) {
            if let Err(refusal) = self.publish_one_of(&endpoint.id, port).await {
                self.client.unpublish(&endpoint.id, None, None).await?;
                return Err(refusal);
            }
        }
        Ok(json!({}))
    }

    async fn publish_one_of(&self, id: &str, port: &wire::PortBinding) -> Result<(), Refusal> {
        let mut last = Refusal("no port of the range is free".to_owned());
        for host_port in port.host_port..=port.host_port_end {
            let ports = vec![publish_text(port, host_port)?];
            match self.client.publish(id, None, &v1::Publish { ports }).await {
                Ok(_) => return Ok(()),
                Err(ClientError::Api(error)) if error.code == v1::ErrorCode::Taken => {
                    last = ClientError::Api(error).into();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }

    async fn withdraw(&self, asked: OfEndpoint) -> Answer {
        let Some(endpoint) = self.endpoint(&asked.endpoint_id).await? else { return Ok(json!({})) };
        match self.client.unpublish(&endpoint.id, None, None).await {
            Err(ClientError::Api(error)) if error.code == v1::ErrorCode::NotFound => {}
            other => drop(other?),
        }
        Ok(json!({}))
    }
}

async fn answer(State(plugin): State<Arc<Plugin>>, uri: Uri, body: Bytes) -> Response {
    let path = uri.path();
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let Some(answer) = plugin.dispatch(path, body).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let value = answer.unwrap_or_else(|refusal| {
        tracing::warn!("{path} of dockerd is refused: {refusal}");
        let field = if path.starts_with("/IpamDriver.") { "Error" } else { "Err" };
        json!({ field: format!("overlayd: {refusal}") })
    });
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], value.to_string()).into_response()
}

/// What of a request is understood without asking anybody: the names and ports that the daemon
/// would be asked for. For fuzzing.
///
/// # Errors
/// What dockerd would be told.
#[doc(hidden)]
pub fn understood(path: &str, body: &[u8]) -> Result<Vec<String>, String> {
    let read = || -> Result<Vec<String>, Refusal> {
        let wrong = |err: serde_json::Error| Refusal(err.to_string());
        match path {
            "/IpamDriver.RequestPool" => {
                let asked: RequestPool = serde_json::from_slice(body).map_err(wrong)?;
                options_are_known(asked.options.keys(), &[OPT_NETWORK])?;
                Ok(Vec::new())
            }
            "/IpamDriver.RequestAddress" => {
                let asked: OfPool = serde_json::from_slice(body).map_err(wrong)?;
                let name = asked.options.get(ENDPOINT_NAME).and_then(|name| label_of(name));
                let ip = Some(asked.address.as_str()).filter(|text| !text.is_empty());
                let ip = ip.map(address_of).transpose()?.map(|ip| ip.to_string());
                Ok(name.map(|name| name.to_string()).into_iter().chain(ip).collect())
            }
            "/NetworkDriver.CreateNetwork" => {
                let _: CreateNetwork = serde_json::from_slice(body).map_err(wrong)?;
                Ok(Vec::new())
            }
            _ => {
                let asked: OfEndpoint = serde_json::from_slice(body).map_err(wrong)?;
                names_of(&asked.endpoint_id)?;
                let Names { name, aliases } = Names::of(&asked.options)?;
                let names = name.into_iter().chain(aliases).map(|name| name.to_string());
                let mut all: Vec<String> = names.collect();
                for port in ports_of(&asked)? {
                    all.push(publish_text(&port, port.host_port)?);
                }
                Ok(all)
            }
        }
    };
    read().map_err(|refusal| refusal.to_string())
}

fn ports_of(asked: &OfEndpoint) -> Result<Vec<wire::PortBinding>, Refusal> {
    match asked.options.get(PORT_MAP).filter(|value| !value.is_null()) {
        None => Ok(Vec::new()),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|err| Refusal(format!("the ports make no sense: {err}"))),
    }
}

/// What people have said with an endpoint.
struct Names {
    name: Option<Name>,
    aliases: Vec<Name>,
}

impl Names {
    fn of(options: &Map<String, Value>) -> Result<Self, Refusal> {
        options_are_known(options.keys(), &[OPT_NAME, OPT_ALIAS])?;
        let text = |key: &str| options.get(key).and_then(Value::as_str);
        let label = |text: &str| Name::new(text).map_err(|err| Refusal(err.to_string()));
        let aliases = text(OPT_ALIAS).into_iter().flat_map(split);
        Ok(Self {
            name: text(OPT_NAME).map(label).transpose()?,
            aliases: aliases.map(label).collect::<Result<_, _>>()?,
        })
    }
}

/// A list in an option.
fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split([';', ',', ' ']).filter(|item| !item.is_empty())
}

/// Refuses options that are meant for us and that we do not know.
fn options_are_known<'a>(
    mut keys: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), Refusal> {
    let ours = |key: &&String| key.starts_with("overlayd.") && !known.contains(&key.as_str());
    match keys.find(ours) {
        Some(key) => refuse(format!("there is no option {key}: use {}", known.join(" or "))),
        None => Ok(()),
    }
}

/// A container's name as a DNS label: Docker takes dots and underscores, and upper case.
fn label_of(text: &str) -> Option<Name> {
    let mut label: String = text
        .trim_start_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(63)
        .collect();
    label.truncate(label.trim_end_matches('-').len());
    Name::new(label.trim_start_matches('-')).ok()
}

/// The ends of an endpoint's pair.
fn names_of(endpoint_id: &str) -> Result<(IfName, IfName), Refusal> {
    let name = |prefix: &str| IfName::new(&format!("{prefix}{endpoint_id:.11}"));
    let hex = endpoint_id.len() >= 11 && endpoint_id.bytes().all(|b| b.is_ascii_hexdigit());
    match (name("ovd"), name("ovc")) {
        (Ok(near), Ok(far)) if hex => Ok((near, far)),
        _ => refuse(format!("`{endpoint_id}` is no EndpointID")),
    }
}

fn address_of(text: &str) -> Result<IpAddr, Refusal> {
    let ip = text.parse().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()));
    ip.ok_or_else(|| Refusal(format!("`{text}` is no address")))
}

/// As `overlayctl publish` has it.
fn publish_text(port: &wire::PortBinding, host_port: u16) -> Result<String, Refusal> {
    let protocol = match port.proto {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        other => return refuse(format!("protocol {other} cannot be published")),
    };
    let at = match port.host_ip.as_deref().unwrap_or("") {
        // Any address.
        "" | "0.0.0.0" | "::" => String::new(),
        v6 if v6.contains(':') => format!("[{v6}]:"),
        v4 => format!("{v4}:"),
    };
    Ok(format!("{at}{host_port}:{}/{protocol}", port.port))
}

fn gateway_of(subnet: &v1::Subnet) -> IpNet {
    IpNet::new(subnet.gateway, subnet.cidr.prefix_len()).unwrap_or(subnet.cidr)
}

fn pool_of(net: &v1::Network, subnet: &v1::Subnet, v6: bool) -> Value {
    json!({
        "PoolID": format!("{SPACE}/{}/{}", net.id, if v6 { 6 } else { 4 }),
        "Pool": subnet.cidr.to_string(),
        "Data": { GATEWAY: gateway_of(subnet).to_string() },
    })
}

fn address_answer(address: IpNet) -> Value {
    json!({ "Address": address.to_string(), "Data": {} })
}

fn to_value(answer: &impl serde::Serialize) -> Answer {
    serde_json::to_value(answer).map_err(|err| Refusal(err.to_string()))
}

fn unwritten(err: &io::Error) -> Refusal {
    Refusal(format!("cannot write which networks of Docker are bound: {err}; nothing was changed"))
}

fn with_causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}

#[cfg(test)]
mod tests;
