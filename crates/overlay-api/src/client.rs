//! A client for the Unix socket.
//!
//! One method a row of the table in the crate's header. Each request has a
//! connection of its own: with nothing kept between requests, nothing can go
//! stale when the daemon restarts, and a first request over a new connection
//! takes 0.3 ms, where a kept one would take 0.06 ms.
//!
//! Promises: a reply is never larger in memory than [`MAX_REPLY`], a request
//! never takes longer than its timeout, and every failure is one line that says
//! what to do. Absent: retries. The caller knows whether it may ask twice; see
//! [`ClientError`] for what each failure says about that.
//!
//! ```no_run
//! # async fn example() -> Result<(), overlay_api::ClientError> {
//! let client = overlay_api::Client::new(overlay_api::DEFAULT_SOCKET.as_ref());
//! for network in client.networks().await? {
//!     println!("{} has VNI {}", network.name, network.vni);
//! }
//! # Ok(())
//! # }
//! ```

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::v1;

/// The largest reply that is read: about 200,000 endpoints.
pub const MAX_REPLY: usize = 64 << 20;

/// The longest event that is read, bytes.
const MAX_EVENT: usize = 1 << 20;

/// How long a request may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request has no good reply. The text is one line and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket. Nothing was changed.
    #[error(
        "overlayd does not answer on {}: is it running? start it with: systemctl start overlayd",
        socket.display()
    )]
    NotRunning {
        /// Where it should listen.
        socket: PathBuf,
    },

    /// The socket is not for us. Nothing was changed.
    #[error("no permission on {}: be root or join the group overlayd", socket.display())]
    Permission {
        /// Which socket.
        socket: PathBuf,
    },

    /// The daemon refused. Nothing was changed.
    #[error(transparent)]
    Api(#[from] v1::Error),

    /// More at once than overlayd takes. Nothing was changed.
    #[error(
        "{request} has {bytes} bytes, and overlayd takes {} MiB at once; do it in parts",
        crate::MAX_IMPORT >> 20
    )]
    TooLarge {
        /// Method and path.
        request: String,
        /// How much.
        bytes: usize,
    },

    /// What came back is not the contract, or the daemon ended meanwhile. The
    /// request may have taken effect: look before asking again.
    #[error("{0}")]
    Protocol(String),

    /// No reply in time. The request may yet take effect: look before asking
    /// again.
    #[error("overlayd has not answered {request} for {} s; see: journalctl -u overlayd", after.as_secs_f32())]
    Timeout {
        /// Method and path.
        request: String,
        /// How long we waited.
        after: Duration,
    },
}

impl ClientError {
    /// The same as the daemon would say it, for a caller that shows only one
    /// kind of error.
    pub fn to_v1(&self) -> v1::Error {
        let code = match self {
            Self::Api(error) => return error.clone(),
            Self::NotRunning { .. } | Self::Timeout { .. } => v1::ErrorCode::Unavailable,
            Self::Permission { .. } => v1::ErrorCode::Forbidden,
            Self::TooLarge { .. } => v1::ErrorCode::InvalidRequest,
            Self::Protocol(_) => v1::ErrorCode::Internal,
        };
        v1::Error::new(code, self.to_string())
    }
}

/// Asks one daemon. Cheap to make and to clone: it holds a path, no connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Connects to nothing yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: DEFAULT_TIMEOUT }
    }

    /// Waits at most `timeout` for each reply, from connecting to its last byte.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Creates a network.
    ///
    /// # Errors
    /// Any [`ClientError`]; so for all the methods below.
    pub async fn create_network(
        &self,
        request: &v1::CreateNetwork,
    ) -> Result<v1::Network, ClientError> {
        self.ask(Method::POST, "/v1/networks", Some(request)).await
    }

    /// Lists the networks.
    pub async fn networks(&self) -> Result<Vec<v1::Network>, ClientError> {
        self.get("/v1/networks").await
    }

    /// Shows the network of this name or id.
    pub async fn network(&self, net: &str) -> Result<v1::Network, ClientError> {
        self.get(&format!("/v1/networks/{}", encode(net))).await
    }

    /// Changes the network of this name or id; the reply shows it as it is then.
    pub async fn change_network(
        &self,
        net: &str,
        request: &v1::ChangeNetwork,
    ) -> Result<v1::Network, ClientError> {
        let path = format!("/v1/networks/{}", encode(net));
        self.ask(Method::PATCH, &path, Some(request)).await
    }

    /// Deletes the network of this name or id, with `force` although it has
    /// endpoints: these are detached, on all hosts. The reply shows it as it was.
    pub async fn delete_network(&self, net: &str, force: bool) -> Result<v1::Deleted, ClientError> {
        let path = format!("/v1/networks/{}", encode(net));
        self.delete(&with_query(&path, [("force", force.then_some("true"))])).await
    }

    /// Lets the addresses go that the host keeps for `name` on `net`. The reply
    /// shows what they were.
    pub async fn forget_ip(&self, net: &str, name: &str) -> Result<v1::Kept, ClientError> {
        self.delete(&format!("/v1/networks/{}/kept/{}", encode(net), encode(name))).await
    }

    /// Attaches a network namespace or a device to a network, or takes a static
    /// endpoint in.
    pub async fn attach(&self, request: &v1::Attach) -> Result<v1::Endpoint, ClientError> {
        self.ask(Method::POST, "/v1/endpoints", Some(request)).await
    }

    /// Takes many static endpoints in, all or none.
    pub async fn import(&self, request: &v1::Import) -> Result<v1::Imported, ClientError> {
        self.ask(Method::POST, "/v1/endpoints/import", Some(request)).await
    }

    /// Lists the endpoints of all networks or of `net`, of all hosts or only
    /// this one.
    pub async fn endpoints(
        &self,
        net: Option<&str>,
        local: bool,
    ) -> Result<Vec<v1::Endpoint>, ClientError> {
        let query = [("net", net), ("local", local.then_some("true"))];
        self.get(&with_query("/v1/endpoints", query)).await
    }

    /// Lists the endpoints of this host that have a label: `KEY`, or `KEY=VALUE`.
    pub async fn labelled(&self, label: &str) -> Result<Vec<v1::Endpoint>, ClientError> {
        let query = [("local", Some("true")), ("label", Some(label))];
        self.get(&with_query("/v1/endpoints", query)).await
    }

    /// Detaches the endpoint of this name, id or MAC; `net` is needed when endpoints
    /// of two networks have the name. The reply shows it as it was.
    pub async fn detach(
        &self,
        endpoint: &str,
        net: Option<&str>,
    ) -> Result<v1::Endpoint, ClientError> {
        let path = format!("/v1/endpoints/{}", encode(endpoint));
        self.delete(&with_query(&path, [("net", net)])).await
    }

    /// Leads more ports to an endpoint of this host.
    pub async fn publish(
        &self,
        endpoint: &str,
        net: Option<&str>,
        request: &v1::Publish,
    ) -> Result<v1::Endpoint, ClientError> {
        let path = format!("/v1/endpoints/{}/ports", encode(endpoint));
        self.ask(Method::POST, &with_query(&path, [("net", net)]), Some(request)).await
    }

    /// Leads these ports (`8080/tcp`, with commas between) to an endpoint of this host
    /// no longer; `None`: no port at all.
    pub async fn unpublish(
        &self,
        endpoint: &str,
        net: Option<&str>,
        ports: Option<&str>,
    ) -> Result<v1::Endpoint, ClientError> {
        let path = format!("/v1/endpoints/{}/ports", encode(endpoint));
        self.delete(&with_query(&path, [("net", net), ("ports", ports)])).await
    }

    /// Changes the name, aliases or labels of an endpoint of this host.
    pub async fn change_endpoint(
        &self,
        endpoint: &str,
        net: Option<&str>,
        request: &v1::ChangeEndpoint,
    ) -> Result<v1::Endpoint, ClientError> {
        let path = format!("/v1/endpoints/{}", encode(endpoint));
        self.ask(Method::PATCH, &with_query(&path, [("net", net)]), Some(request)).await
    }

    /// Creates a service.
    pub async fn create_service(
        &self,
        request: &v1::CreateService,
    ) -> Result<v1::Service, ClientError> {
        self.ask(Method::POST, "/v1/services", Some(request)).await
    }

    /// Lists services, of all networks or of `net`.
    pub async fn services(&self, net: Option<&str>) -> Result<Vec<v1::Service>, ClientError> {
        self.get(&with_query("/v1/services", [("net", net)])).await
    }

    /// Removes the service of this name; `net` is needed when two networks have one. The
    /// reply shows it as it was.
    pub async fn remove_service(
        &self,
        name: &str,
        net: Option<&str>,
    ) -> Result<v1::Service, ClientError> {
        let path = format!("/v1/services/{}", encode(name));
        self.delete(&with_query(&path, [("net", net)])).await
    }

    /// Lists the ports that the host takes.
    pub async fn ports(&self) -> Result<Vec<v1::Port>, ClientError> {
        self.get("/v1/ports").await
    }

    /// Tells what the rules of the kernel have done so far.
    pub async fn firewall(&self) -> Result<v1::Firewall, ClientError> {
        self.get("/v1/firewall").await
    }

    /// Lifts what the host has frozen because it moved too often: a MAC or an
    /// address, of `net` or of all networks. The reply shows it as it was.
    pub async fn thaw(
        &self,
        what: &str,
        net: Option<&str>,
    ) -> Result<Vec<v1::Frozen>, ClientError> {
        let path = format!("/v1/frozen/{}", encode(what));
        self.delete(&with_query(&path, [("net", net)])).await
    }

    /// Says how much of each subnet is used.
    pub async fn ipam(&self) -> Result<Vec<v1::IpamSubnet>, ClientError> {
        self.get("/v1/ipam").await
    }

    /// Shows who owns which addresses of the network of this name or id.
    pub async fn ipam_of(&self, net: &str) -> Result<Vec<v1::IpamRanges>, ClientError> {
        self.get(&format!("/v1/ipam/{}", encode(net))).await
    }

    /// Holds an address of `net` for an attach that comes for it.
    pub async fn reserve_address(
        &self,
        net: &str,
        request: &v1::ReserveAddress,
    ) -> Result<v1::ReservedAddress, ClientError> {
        self.ask(Method::POST, &format!("/v1/ipam/{}/reserve", encode(net)), Some(request)).await
    }

    /// Lets an address of `net` go that is held for an attach.
    pub async fn unreserve_address(
        &self,
        net: &str,
        address: std::net::IpAddr,
    ) -> Result<v1::ReleasedAddress, ClientError> {
        self.delete(&format!("/v1/ipam/{}/reserve/{address}", encode(net))).await
    }

    /// Gives an address of `net` back that no endpoint has.
    pub async fn release_address(
        &self,
        net: &str,
        request: &v1::ReleaseAddress,
    ) -> Result<v1::ReleasedAddress, ClientError> {
        let path = format!("/v1/ipam/{}/release", encode(net));
        self.ask(Method::POST, &path, Some(request)).await
    }

    /// Audits addresses.
    pub async fn check_ipam(&self, request: &v1::CheckIpam) -> Result<v1::IpamAudit, ClientError> {
        self.ask(Method::POST, "/v1/ipam/check", Some(request)).await
    }

    /// Lists the hosts of the cluster.
    pub async fn hosts(&self) -> Result<Vec<v1::Host>, ClientError> {
        self.get("/v1/hosts").await
    }

    /// Tells how the daemon is.
    pub async fn status(&self) -> Result<v1::Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Watches what happens; with `since`, first what has happened after the
    /// event of that number, as far as the daemon remembers (0: all of it).
    ///
    /// The timeout is for the beginning of the reply; then there is none.
    pub async fn events(&self, since: Option<u64>) -> Result<Events, ClientError> {
        let since = since.map(|seq| seq.to_string());
        let path = with_query("/v1/events", [("since", since.as_deref())]);
        let request = format!("GET {path}");
        let timeout = || ClientError::Timeout { request: request.clone(), after: self.timeout };
        let begin = async {
            let reply = self.begin(Method::GET, &path, None::<&()>).await?;
            if reply.status().is_success() {
                return Ok(Events { body: reply.into_body(), rest: Vec::new() });
            }
            let status = reply.status();
            Err(refusal(&request, status, &self.whole(&request, reply).await?))
        };
        tokio::time::timeout(self.timeout, begin).await.map_err(|_| timeout())?
    }

    /// Lists the FDB entries of all networks or of `net`.
    pub async fn fdb(&self, net: Option<&str>) -> Result<Vec<v1::Entry>, ClientError> {
        self.get(&with_query("/v1/fdb", [("net", net)])).await
    }

    /// Lists the ARP and ND entries of all networks or of `net`.
    pub async fn neigh(&self, net: Option<&str>) -> Result<Vec<v1::Entry>, ClientError> {
        self.get(&with_query("/v1/neigh", [("net", net)])).await
    }

    /// Shows where names are answered, and from what.
    pub async fn dns(&self) -> Result<v1::Dns, ClientError> {
        self.get("/v1/dns").await
    }

    /// Says what would be answered who asks for `name` on each network, or on `net`.
    pub async fn look_up(&self, name: &str, net: Option<&str>) -> Result<v1::Looked, ClientError> {
        self.get(&with_query(&format!("/v1/dns/{}", encode(name)), [("net", net)])).await
    }

    /// Tells what the reconciler would do now.
    pub async fn plan(&self) -> Result<v1::Plan, ClientError> {
        self.get("/v1/plan").await
    }

    /// Lists the cluster keys of this host and of all live ones, by id.
    pub async fn keys(&self) -> Result<Vec<v1::Key>, ClientError> {
        self.get("/v1/keys").await
    }

    /// Gives this host a further key, which is not used yet.
    pub async fn add_key(&self, request: &v1::AddKey) -> Result<v1::Key, ClientError> {
        self.ask(Method::POST, "/v1/keys", Some(request)).await
    }

    /// Seals with the key of this id from now on.
    pub async fn use_key(&self, id: &str, request: &v1::UseKey) -> Result<v1::Key, ClientError> {
        self.ask(Method::POST, &format!("/v1/keys/{}/use", encode(id)), Some(request)).await
    }

    /// Forgets the key of this id; the reply shows it as it was.
    pub async fn remove_key(&self, id: &str, force: bool) -> Result<v1::Key, ClientError> {
        let path = format!("/v1/keys/{}", encode(id));
        self.delete(&with_query(&path, [("force", force.then_some("true"))])).await
    }

    /// Lets another host take over what `host`, by name or id, owned.
    pub async fn forget(
        &self,
        host: &str,
        request: &v1::Forget,
    ) -> Result<v1::Forgotten, ClientError> {
        self.ask(Method::POST, &format!("/v1/hosts/{}/forget", encode(host)), Some(request)).await
    }

    /// Takes no new endpoint on this host, or does so again.
    pub async fn drain(&self, request: &v1::Drain) -> Result<v1::Drained, ClientError> {
        self.ask(Method::POST, "/v1/drain", Some(request)).await
    }

    /// Leaves the cluster; the daemon then ends.
    pub async fn leave(&self, request: &v1::Leave) -> Result<v1::Left, ClientError> {
        self.ask(Method::POST, "/v1/leave", Some(request)).await
    }

    /// The contract as the daemon describes it, OpenAPI 3.1.
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/openapi.json").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let request = format!("{method} {path}");
        let (status, body) =
            tokio::time::timeout(self.timeout, self.send(method, path, body)).await.map_err(
                |_| ClientError::Timeout { request: request.clone(), after: self.timeout },
            )??;
        if !status.is_success() {
            return Err(refusal(&request, status, &body));
        }
        understood(&request, &body)
    }

    /// Sends one request and reads the whole reply, whatever it says.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let request = format!("{method} {path}");
        let reply = self.begin(method, path, body).await?;
        Ok((reply.status(), self.whole(&request, reply).await?))
    }

    /// Sends one request and reads the head of the reply.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = format!("{method} {path}");
        let broken = |err| broken_off(&request, &err);
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|err| cannot_connect(&self.socket, &err))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when `sender` and the reply are dropped; its errors reach us through them.
        tokio::spawn(connection);

        let bytes = match body {
            None => Bytes::new(),
            Some(body) => serde_json::to_vec(body)
                .expect("the types of v1 have string keys and no failing serialiser")
                .into(),
        };
        if bytes.len() > crate::MAX_IMPORT {
            return Err(ClientError::TooLarge { request, bytes: bytes.len() });
        }
        let mut message = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "overlayd")
            .header(header::ACCEPT, "application/json");
        if body.is_some() {
            message = message.header(header::CONTENT_TYPE, "application/json");
        }
        let message = message
            .body(Full::new(bytes))
            .map_err(|err| ClientError::Protocol(format!("cannot ask for {request}: {err}")))?;

        sender.send_request(message).await.map_err(broken)
    }

    /// Reads the body of a reply.
    async fn whole(&self, request: &str, reply: Response<Incoming>) -> Result<Bytes, ClientError> {
        match Limited::new(reply.into_body(), MAX_REPLY).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(err) if err.is::<LengthLimitError>() => Err(ClientError::Protocol(format!(
                "the reply of overlayd to {request} is larger than {} MiB; ask for less, or for \
                 one network",
                MAX_REPLY >> 20
            ))),
            Err(err) => Err(match err.downcast::<hyper::Error>() {
                Ok(err) => broken_off(request, &err),
                Err(err) => ClientError::Protocol(format!("cannot read the reply: {err}")),
            }),
        }
    }
}

/// Why there is no connection.
pub(crate) fn cannot_connect(socket: &Path, err: &io::Error) -> ClientError {
    let socket = socket.to_owned();
    match err.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { socket }
        }
        io::ErrorKind::PermissionDenied => ClientError::Permission { socket },
        _ => ClientError::Protocol(format!("cannot connect to {}: {err}", socket.display())),
    }
}

/// The reply to [`Client::events`], as it comes.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    rest: Vec<u8>,
}

impl Events {
    /// Waits for the next event. `None`: the daemon has stopped in good order.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] if the daemon died, or says what we do not
    /// understand.
    pub async fn next(&mut self) -> Result<Option<v1::Event>, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|err| {
                    let shown: String = String::from_utf8_lossy(&line).chars().take(80).collect();
                    ClientError::Protocol(format!("cannot understand the event {shown:?}: {err}"))
                });
            }
            if self.rest.len() > MAX_EVENT {
                return Err(ClientError::Protocol(format!(
                    "overlayd sends an event of more than {MAX_EVENT} bytes"
                )));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.rest.extend(frame.data_ref().into_iter().flatten()),
                Some(Err(err)) => return Err(broken_off("GET /v1/events", &err)),
                None => return Ok(None),
            }
        }
    }
}

fn broken_off(request: &str, err: &hyper::Error) -> ClientError {
    ClientError::Protocol(format!(
        "overlayd broke off while it answered {request} ({}); see: journalctl -u overlayd",
        innermost(err)
    ))
}

/// What a successful reply says.
pub(crate) fn understood<T: DeserializeOwned>(
    request: &str,
    body: &[u8],
) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|err| {
        ClientError::Protocol(format!(
            "cannot understand the reply of overlayd to {request}: {err}; are overlayd and its \
             callers of one release?"
        ))
    })
}

/// What an unsuccessful reply says. A newer daemon may use codes, and fields,
/// that we do not know: its message must reach the reader all the same.
pub(crate) fn refusal(request: &str, status: StatusCode, body: &[u8]) -> ClientError {
    if let Ok(error) = serde_json::from_slice::<v1::Error>(body) {
        return ClientError::Api(error);
    }
    let loose: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(message) = loose["message"].as_str() else {
        let shown: String = String::from_utf8_lossy(body).chars().take(80).collect();
        return ClientError::Protocol(format!(
            "overlayd answered {request} with {status} and no error that we understand ({shown:?}); \
             are overlayd and its callers of one release?"
        ));
    };
    let code = match status.as_u16() {
        403 => v1::ErrorCode::Forbidden,
        404 => v1::ErrorCode::NotFound,
        409 => v1::ErrorCode::Taken,
        422 => v1::ErrorCode::Unsupported,
        503 => v1::ErrorCode::Unavailable,
        400..=499 => v1::ErrorCode::InvalidRequest,
        _ => v1::ErrorCode::Internal,
    };
    let hint = loose["hint"].as_str().map(str::to_owned);
    ClientError::Api(v1::Error { hint, ..v1::Error::new(code, message) })
}

/// The cause that names the fact; hyper's own text is "error reading a body
/// from connection" for whatever happened.
fn innermost(err: &hyper::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}

/// Percent-encodes one part of a path or query: all but the unreserved
/// characters (RFC 3986 section 2.3).
pub(crate) fn encode(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    text
}

pub(crate) fn with_query<const N: usize>(path: &str, query: [(&str, Option<&str>); N]) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (key, value) in query {
        if let Some(value) = value {
            text.push(separator);
            text.push_str(key);
            text.push('=');
            text.push_str(&encode(value));
            separator = '&';
        }
    }
    text
}

#[cfg(test)]
mod tests;
