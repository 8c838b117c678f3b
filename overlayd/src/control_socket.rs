//! The Unix socket that `overlayctl`, the plugins and `curl` talk to.
//!
//! A request is checked here as far as that needs no state, its namespace is
//! looked up, and then it goes into the one loop; the reply comes back the same
//! way. Nothing is decided here. Bodies are bounded; whatever is wrong with a
//! request is answered with a [`v1::Error`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path as UrlPath, Query, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use overlay_api::{MAX_IMPORT, v1};
use overlay_engine::{ChangePorts, ForgetHost, Request, Table};
use overlay_netlink::NetnsError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::convert::{self, invalid};
use crate::events::{Hub, MAX_WATCHERS};
use crate::keys::KeyRequest;
use crate::ports::Ports;
use crate::resolver::Resolver;
use crate::shell::Input;
use crate::surroundings::Surroundings;

/// Longest body that is read, bytes.
const MAX_BODY: usize = 1 << 20;

/// How long a request may take before the daemon says that it is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers on it.
    #[error(
        "another overlayd answers on {0}; stop it first, or give this one another --socket and \
         --state-dir"
    )]
    InUse(PathBuf),
    /// Something else is in its place.
    #[error("{0} exists and is not a socket; remove it or choose another --socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {path}; is its directory writable?")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        #[source]
        err: std::io::Error,
    },
}

/// Takes the socket: `0660 root:overlayd` if there is such a group, else
/// `0600`. One that a dead daemon left is replaced.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    use std::os::unix::fs::PermissionsExt;
    let io = |err| SocketError::Io { path: path.to_owned(), err };
    let listener = bind_for_root(path)?;
    let group = nix::unistd::Group::from_name("overlayd").ok().flatten();
    if let Some(group) = group {
        let chowned = nix::unistd::chown(path, None, Some(group.gid));
        chowned.map_err(|errno| io(errno.into()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
    }
    Ok(listener)
}

/// The same for nobody but root.
///
/// # Errors
/// As [`bind`].
pub fn bind_for_root(path: &Path) -> Result<UnixListener, SocketError> {
    use std::os::unix::fs::FileTypeExt;
    let io = |err| SocketError::Io { path: path.to_owned(), err };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(io)?;
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(SocketError::InUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(io)?;
    }
    // Nobody else may come in between bind and chmod.
    let former = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(former);
    bound.map_err(io)
}

type Answer = Result<Vec<u8>, v1::Error>;

#[derive(Clone)]
struct Door {
    inputs: mpsc::UnboundedSender<Input>,
    events: Hub,
    surroundings: Surroundings,
    ports: Ports,
    resolver: Option<Resolver>,
}

impl Door {
    /// Asks for ports to be published: they are held before anybody is told, and let go
    /// if the answer is no.
    async fn ask_with_ports(&self, mut request: Request) -> Answer {
        let wanted = match &mut request {
            Request::Attach(attach) => &mut attach.ports,
            Request::ChangePorts { change: ChangePorts::Add(ports), .. } => ports,
            _ => return self.ask(request).await,
        };
        if wanted.is_empty() {
            return self.ask(request).await;
        }
        let claim = match self.ports.claim(wanted) {
            Ok(claim) => claim,
            Err(taken) => {
                // Whose it is the engine says better, if it is one of ours.
                let why = || v1::Error::new(v1::ErrorCode::Taken, taken.to_string());
                return match taken.by_us {
                    true => self.ask(request).await.and_then(|_| Err(why())),
                    false => Err(why().with_hint(
                        "stop that program, choose another port, or 0 for any free one",
                    )),
                };
            }
        };
        let answer = self.ask(request).await;
        drop(claim);
        answer
    }

    async fn ask(&self, request: Request) -> Answer {
        let request = Box::new(request);
        self.put(|reply| Input::Request { request, looked: false, reply }).await
    }

    async fn ask_keys(&self, request: KeyRequest) -> Answer {
        self.put(|reply| Input::Keys { request, reply }).await
    }

    async fn put(&self, input: impl FnOnce(oneshot::Sender<Answer>) -> Input) -> Answer {
        let (reply, answer) = oneshot::channel();
        let stopping = || v1::Error::new(v1::ErrorCode::Unavailable, "overlayd is stopping");
        self.inputs.send(input(reply)).map_err(|_| stopping())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(stopping())),
            Err(_) => Err(v1::Error::new(
                v1::ErrorCode::Unavailable,
                format!("no answer within {} s", PATIENCE.as_secs()),
            )
            .with_hint("see what it waits for with: overlayctl status")),
        }
    }
}

struct Answered(StatusCode, Answer);

impl IntoResponse for Answered {
    fn into_response(self) -> Response {
        let (status, body) = match self.1 {
            Ok(body) => (self.0, body),
            Err(error) => {
                let status = StatusCode::from_u16(error.code.status())
                    .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, serde_json::to_vec(&error).unwrap_or_default())
            }
        };
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

fn ok(answer: Answer) -> Answered {
    Answered(StatusCode::OK, answer)
}

fn body<T: DeserializeOwned>(bytes: Result<Bytes, BytesRejection>) -> Result<T, v1::Error> {
    body_within(MAX_BODY, bytes)
}

fn body_within<T: DeserializeOwned>(
    most: usize,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<T, v1::Error> {
    let bytes = bytes.map_err(|_| invalid(format!("the body is larger than {most} bytes")))?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|err| invalid(format!("the body is wrong: {err}")))
}

/// The path or the query of a request; if it is wrong, that is said as every
/// other error is.
struct Part<T>(T);

impl<T, S> FromRequestParts<S> for Part<T>
where
    T: FromRequestParts<S>,
    T::Rejection: std::fmt::Display,
    S: Send + Sync,
{
    type Rejection = Answered;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Answered> {
        match T::from_request_parts(parts, state).await {
            Ok(part) => Ok(Self(part)),
            Err(why) => Err(ok(Err(invalid(why.to_string())))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointsQuery {
    net: Option<String>,
    local: Option<bool>,
    label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetOnlyQuery {
    net: Option<String>,
}

/// Answers requests until `stopped` resolves.
pub async fn serve(
    listener: UnixListener,
    inputs: mpsc::UnboundedSender<Input>,
    events: Hub,
    surroundings: Surroundings,
    ports: Ports,
    resolver: Option<Resolver>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let door = Door { inputs, events, surroundings, ports, resolver };
    let router = Router::new()
        .route("/v1/networks", get(networks).post(create_network))
        .route("/v1/networks/{net}", get(network).patch(change_network).delete(remove_network))
        .route("/v1/networks/{net}/kept/{name}", axum::routing::delete(forget_ip))
        .route("/v1/endpoints", get(endpoints).post(attach))
        .route(
            "/v1/endpoints/import",
            // An endpoint may be called so.
            post(import).layer(DefaultBodyLimit::max(MAX_IMPORT)).delete(detach_import),
        )
        .route("/v1/endpoints/{endpoint}", axum::routing::delete(detach).patch(change_endpoint))
        .route("/v1/services", get(services).post(create_service))
        .route("/v1/services/{name}", axum::routing::delete(remove_service))
        .route("/v1/endpoints/{endpoint}/ports", post(publish).delete(unpublish))
        .route(
            "/v1/ports",
            get(|State(door): State<Door>| async move { ok(door.ask(Request::Ports).await) }),
        )
        .route(
            "/v1/firewall",
            get(|State(door): State<Door>| async move { ok(door.ask(Request::Firewall).await) }),
        )
        .route("/v1/frozen/{what}", axum::routing::delete(thaw))
        .route("/v1/ipam", get(ipam))
        .route("/v1/ipam/{net}", get(ipam_of))
        .route("/v1/ipam/{net}/reserve", post(reserve_address))
        .route("/v1/ipam/{net}/reserve/{address}", axum::routing::delete(unreserve_address))
        .route("/v1/ipam/{net}/release", post(release_address))
        // A network may be called so.
        .route("/v1/ipam/check", post(check_ipam).get(ipam_of_check))
        .route(
            "/v1/hosts",
            get(|State(door): State<Door>| async move { ok(door.ask(Request::Hosts).await) }),
        )
        .route("/v1/status", get(status))
        .route(
            "/v1/plan",
            get(|State(door): State<Door>| async move { ok(door.ask(Request::Plan).await) }),
        )
        .route("/v1/dns", get(dns))
        .route("/v1/dns/{name}", get(look_name_up))
        .route("/v1/events", get(watch_events))
        .route("/v1/fdb", get(fdb))
        .route("/v1/neigh", get(neigh))
        .route("/v1/keys", get(keys).post(add_key))
        .route("/v1/keys/{id}/use", post(use_key))
        .route("/v1/keys/{id}", axum::routing::delete(remove_key))
        .route("/v1/hosts/{host}/forget", post(forget))
        .route("/v1/drain", post(drain))
        .route("/v1/leave", post(leave))
        .route("/v1/openapi.json", get(openapi))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(door);
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

async fn unknown(uri: Uri) -> Answered {
    ok(Err(v1::Error::new(v1::ErrorCode::NotFound, format!("no such path: {}", uri.path()))
        .with_hint("the paths are listed at /v1/openapi.json")))
}

async fn wrong_method(method: Method, uri: Uri) -> Answered {
    ok(Err(v1::Error::new(
        v1::ErrorCode::InvalidRequest,
        format!("{method} is not answered at {}", uri.path()),
    )
    .with_hint("the paths and methods are listed at /v1/openapi.json")))
}

async fn openapi() -> Answered {
    ok(serde_json::to_vec(&overlay_api::openapi::document())
        .map_err(|err| v1::Error::new(v1::ErrorCode::Internal, err.to_string())))
}

async fn status(State(door): State<Door>) -> Answered {
    door.surroundings.look().await;
    ok(door.ask(Request::Status).await)
}

async fn metrics(State(door): State<Door>) -> Response {
    door.surroundings.look().await;
    let read = async {
        let status = door.ask(Request::Status).await?;
        Ok((status, door.ask(Request::Subnets).await?))
    };
    let page = read.await.and_then(|(status, subnets): (Vec<u8>, Vec<u8>)| {
        let wrong = |err: serde_json::Error| {
            v1::Error::new(v1::ErrorCode::Internal, format!("cannot read our own status: {err}"))
        };
        let status = serde_json::from_slice(&status).map_err(wrong)?;
        let subnets: Vec<v1::IpamSubnet> = serde_json::from_slice(&subnets).map_err(wrong)?;
        Ok(crate::metrics::page(&status, &subnets))
    });
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => ok(Err(error)).into_response(),
    }
}

async fn dns(State(door): State<Door>) -> Answered {
    let shown = door.resolver.as_ref().map(Resolver::show).unwrap_or_default();
    ok(written(&shown))
}

async fn look_name_up(
    State(door): State<Door>,
    Part(UrlPath(name)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
) -> Answered {
    let off = || {
        v1::Error::new(v1::ErrorCode::Unavailable, "this overlayd answers no names: dns = \"off\"")
            .with_hint("start it with --dns on")
    };
    let looked = door.resolver.as_ref().ok_or_else(off);
    let looked = looked.and_then(|resolver| resolver.look_up(&name, query.net.as_deref()));
    ok(looked.and_then(|looked| written(&looked)))
}

fn written(body: &impl serde::Serialize) -> Answer {
    serde_json::to_vec(body).map_err(|err| v1::Error::new(v1::ErrorCode::Internal, err.to_string()))
}

async fn networks(State(door): State<Door>) -> Answered {
    ok(door.ask(Request::Networks).await)
}

async fn network(State(door): State<Door>, Part(UrlPath(net)): Part<UrlPath<String>>) -> Answered {
    ok(door.ask(Request::Network(net)).await)
}

async fn create_network(
    State(door): State<Door>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    let answer = match body(bytes).and_then(convert::create_network) {
        Ok(request) => door.ask(Request::CreateNetwork(request)).await,
        Err(error) => Err(error),
    };
    ok(answer)
}

async fn change_network(
    State(door): State<Door>,
    Part(UrlPath(net)): Part<UrlPath<String>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    let answer = match body(bytes).and_then(|body| convert::change_network(net, body)) {
        Ok(request) => door.ask(Request::ChangeNetwork(request)).await,
        Err(error) => Err(error),
    };
    ok(answer)
}

async fn remove_network(
    State(door): State<Door>,
    Part(UrlPath(net)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<ForceQuery>>,
) -> Answered {
    let request = match query.force.unwrap_or(false) {
        true => Request::ForceRemoveNetwork(net),
        false => Request::RemoveNetwork(net),
    };
    ok(door.ask(request).await)
}

async fn forget_ip(
    State(door): State<Door>,
    Part(UrlPath((net, name))): Part<UrlPath<(String, String)>>,
) -> Answered {
    ok(match convert::name(&name) {
        Ok(name) => door.ask(Request::ForgetIp { net, name }).await,
        Err(error) => Err(error),
    })
}

async fn endpoints(
    State(door): State<Door>,
    Part(Query(query)): Part<Query<EndpointsQuery>>,
) -> Answered {
    let EndpointsQuery { net, local, label } = query;
    let local = local.unwrap_or(false);
    let request = match label {
        None => Request::Endpoints { net, local },
        Some(label) => {
            let (label, value) = match label.split_once('=') {
                Some((label, value)) => (label.to_owned(), Some(value.to_owned())),
                None => (label, None),
            };
            Request::Labelled { net, local, label, value }
        }
    };
    ok(door.ask(request).await)
}

async fn attach(State(door): State<Door>, bytes: Result<Bytes, BytesRejection>) -> Answered {
    let answer = match look_up(bytes).await {
        Ok(request) => door.ask_with_ports(request).await,
        Err(error) => Err(error),
    };
    ok(answer)
}

async fn import(State(door): State<Door>, bytes: Result<Bytes, BytesRejection>) -> Answered {
    // Tens of megabytes of JSON take their time, which others need not wait for.
    let read = move || body_within(MAX_IMPORT, bytes).and_then(convert::import);
    let answer = match tokio::task::spawn_blocking(read).await {
        Ok(Ok(request)) => door.ask(Request::Import(request)).await,
        Ok(Err(error)) => Err(error),
        Err(err) => {
            Err(v1::Error::new(v1::ErrorCode::Internal, format!("reading the list failed: {err}")))
        }
    };
    ok(answer)
}

/// Finds the namespace, on a thread of its own: opening one can block.
async fn look_up(bytes: Result<Bytes, BytesRejection>) -> Result<Request, v1::Error> {
    let body: v1::Attach = body(bytes)?;
    let Some(path) = convert::netns_path(&body)? else {
        return Ok(Request::Attach(convert::attach(body, None)?));
    };
    let asked = body.netns.clone();
    let looked = tokio::task::spawn_blocking(move || overlay_netlink::look_into(&path)).await;
    let (netns, taken) = match looked {
        Ok(Ok(found)) => found,
        Ok(Err(err)) => return Err(netns_error(&err, asked.as_deref())),
        Err(err) => {
            let message = format!("looking into the namespace failed: {err}");
            let code = v1::ErrorCode::Internal;
            return Err(v1::Error::new(code, message));
        }
    };
    Ok(Request::Attach(convert::attach(body, Some((netns, taken)))?))
}

fn netns_error(err: &NetnsError, asked: Option<&str>) -> v1::Error {
    let (code, hint) = match err {
        NetnsError::NotFound { .. } => {
            let hint = match asked {
                Some(name) if !name.contains('/') => {
                    format!("list them with: ip netns; make it with: ip netns add {name}")
                }
                _ => "is the container running?".to_owned(),
            };
            (v1::ErrorCode::NotFound, Some(hint))
        }
        _ => (v1::ErrorCode::InvalidRequest, None),
    };
    v1::Error { hint, ..v1::Error::new(code, err.to_string()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetachQuery {
    net: Option<String>,
    wait: Option<bool>,
}

async fn detach(
    State(door): State<Door>,
    Part(UrlPath(target)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<DetachQuery>>,
) -> Answered {
    let DetachQuery { net, wait } = query;
    ok(door
        .ask(match wait {
            Some(false) => Request::DetachAtOnce { target, net },
            _ => Request::Detach { target, net },
        })
        .await)
}

async fn detach_import(
    State(door): State<Door>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
) -> Answered {
    ok(door.ask(Request::Detach { target: "import".into(), net: query.net }).await)
}

async fn change_endpoint(
    State(door): State<Door>,
    Part(UrlPath(target)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    ok(match body(bytes).and_then(convert::change_endpoint) {
        Ok(change) => door.ask(Request::ChangeEndpoint { target, net: query.net, change }).await,
        Err(error) => Err(error),
    })
}

async fn publish(
    State(door): State<Door>,
    Part(UrlPath(target)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    let ports = body::<v1::Publish>(bytes).and_then(|body| match convert::ports(&body.ports)? {
        none if none.is_empty() => Err(invalid("no port is given")),
        some => Ok(some),
    });
    ok(match ports {
        Ok(ports) => {
            let change = ChangePorts::Add(ports);
            door.ask_with_ports(Request::ChangePorts { target, net: query.net, change }).await
        }
        Err(error) => Err(error),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortsQuery {
    net: Option<String>,
    ports: Option<String>,
}

async fn create_service(
    State(door): State<Door>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    ok(match body(bytes).and_then(convert::create_service) {
        Ok(request) => door.ask(Request::CreateService(request)).await,
        Err(error) => Err(error),
    })
}

async fn services(
    State(door): State<Door>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
) -> Answered {
    ok(door.ask(Request::Services { net: query.net }).await)
}

async fn remove_service(
    State(door): State<Door>,
    Part(UrlPath(name)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
) -> Answered {
    ok(door.ask(Request::RemoveService { name, net: query.net }).await)
}

async fn unpublish(
    State(door): State<Door>,
    Part(UrlPath(target)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<PortsQuery>>,
) -> Answered {
    let fronts = query.ports.as_deref().map(convert::fronts).transpose();
    ok(match fronts {
        Ok(fronts) => {
            let change = ChangePorts::Remove(fronts.unwrap_or_default());
            door.ask(Request::ChangePorts { target, net: query.net, change }).await
        }
        Err(error) => Err(error),
    })
}

async fn thaw(
    State(door): State<Door>,
    Part(UrlPath(what)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
) -> Answered {
    ok(door.ask(Request::Thaw { what, net: query.net }).await)
}

async fn ipam(State(door): State<Door>) -> Answered {
    ok(door.ask(Request::Subnets).await)
}

async fn ipam_of(State(door): State<Door>, Part(UrlPath(net)): Part<UrlPath<String>>) -> Answered {
    ok(door.ask(Request::Ranges(net)).await)
}

async fn ipam_of_check(State(door): State<Door>) -> Answered {
    ok(door.ask(Request::Ranges("check".into())).await)
}

async fn reserve_address(
    State(door): State<Door>,
    Part(UrlPath(net)): Part<UrlPath<String>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    ok(match body(bytes).and_then(|body| convert::reserve(net, &body)) {
        Ok(asked) => door.ask(Request::Reserve(asked)).await,
        Err(error) => Err(error),
    })
}

async fn unreserve_address(
    State(door): State<Door>,
    Part(UrlPath((net, address))): Part<UrlPath<(String, String)>>,
) -> Answered {
    ok(match address.parse() {
        Ok(ip) => door.ask(Request::Unreserve { net, ip }).await,
        Err(_) => Err(invalid(format!("`{address}` is no address"))),
    })
}

async fn release_address(
    State(door): State<Door>,
    Part(UrlPath(net)): Part<UrlPath<String>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    let missing = || invalid("the address is not given");
    let address = body::<v1::ReleaseAddress>(bytes).and_then(|b| b.address.ok_or_else(missing));
    ok(match address {
        Ok(ip) => door.ask(Request::Release { net, ip }).await,
        Err(error) => Err(error),
    })
}

async fn check_ipam(State(door): State<Door>, bytes: Result<Bytes, BytesRejection>) -> Answered {
    ok(match body::<v1::CheckIpam>(bytes) {
        Ok(v1::CheckIpam { net, repair }) => door.ask(Request::Audit { net, repair }).await,
        Err(error) => Err(error),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    since: Option<u64>,
}

async fn watch_events(
    State(door): State<Door>,
    Part(Query(query)): Part<Query<EventsQuery>>,
) -> Response {
    let Some(watcher) = door.events.watch(query.since) else {
        let full = v1::Error::new(
            v1::ErrorCode::Unavailable,
            format!("{MAX_WATCHERS} watch the events already"),
        )
        .with_hint("end one of them: pgrep -af 'overlayctl.* watch'");
        return ok(Err(full)).into_response();
    };
    // A line is made when the reader has taken the one before.
    let lines = futures::stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        let line = serde_json::to_vec(&*event).map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        });
        Some((line, watcher))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn fdb(State(door): State<Door>, Part(Query(query)): Part<Query<NetOnlyQuery>>) -> Answered {
    let tables = vec![Table::Vxlan, Table::Bridge, Table::Flood];
    ok(door.ask(Request::Entries { tables, net: query.net }).await)
}

async fn neigh(
    State(door): State<Door>,
    Part(Query(query)): Part<Query<NetOnlyQuery>>,
) -> Answered {
    ok(door.ask(Request::Entries { tables: vec![Table::Neigh], net: query.net }).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForceQuery {
    force: Option<bool>,
}

async fn keys(State(door): State<Door>) -> Answered {
    ok(door.ask_keys(KeyRequest::List).await)
}

async fn add_key(State(door): State<Door>, bytes: Result<Bytes, BytesRejection>) -> Answered {
    // What is wrong with the body is not said in detail: it would repeat a secret.
    let wrong = || invalid("the body is not {\"key\": \"…\"} with a key of overlayd keygen in it");
    let key = body::<v1::AddKey>(bytes).ok().and_then(|body| {
        let text = Zeroizing::new(body.key);
        text.parse().ok()
    });
    ok(match key {
        Some(key) => door.ask_keys(KeyRequest::Add(key)).await,
        None => Err(wrong()),
    })
}

async fn use_key(
    State(door): State<Door>,
    Part(UrlPath(id)): Part<UrlPath<String>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    let request = id
        .parse()
        .map_err(invalid)
        .and_then(|id| Ok(KeyRequest::Use { id, force: body::<v1::UseKey>(bytes)?.force }));
    ok(match request {
        Ok(request) => door.ask_keys(request).await,
        Err(error) => Err(error),
    })
}

async fn remove_key(
    State(door): State<Door>,
    Part(UrlPath(id)): Part<UrlPath<String>>,
    Part(Query(query)): Part<Query<ForceQuery>>,
) -> Answered {
    ok(match id.parse() {
        Ok(id) => {
            let force = query.force.unwrap_or(false);
            door.ask_keys(KeyRequest::Remove { id, force }).await
        }
        Err(err) => Err(invalid(err)),
    })
}

async fn forget(
    State(door): State<Door>,
    Part(UrlPath(host)): Part<UrlPath<String>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answered {
    ok(match body::<v1::Forget>(bytes) {
        Ok(v1::Forget { dead, force }) => {
            door.ask(Request::ForgetHost(ForgetHost { host, dead, force })).await
        }
        Err(error) => Err(error),
    })
}

async fn drain(State(door): State<Door>, bytes: Result<Bytes, BytesRejection>) -> Answered {
    ok(match body::<v1::Drain>(bytes) {
        Ok(drain) => door.ask(Request::Drain(!drain.undo)).await,
        Err(error) => Err(error),
    })
}

async fn leave(State(door): State<Door>, bytes: Result<Bytes, BytesRejection>) -> Answered {
    ok(match body::<v1::Leave>(bytes) {
        Ok(leave) => door.ask(Request::Leave { force: leave.force }).await,
        Err(error) => Err(error),
    })
}
