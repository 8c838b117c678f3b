//! The local contract of overlayd: what goes over its Unix socket.
//!
//! HTTP/1.1 with JSON bodies under `/v1/`. Everything that `overlayctl` can do
//! is a request in [`v1`]; `curl --unix-socket` can do the same. Fields may be
//! added to replies; none is removed or changes its meaning within `v1`.
//!
//! | request | body | reply |
//! |---|---|---|
//! | `POST /v1/networks` | [`v1::CreateNetwork`] | [`v1::Network`] |
//! | `GET /v1/networks` | - | [`v1::Network`], a list |
//! | `GET /v1/networks/{name or id}` | - | [`v1::Network`] |
//! | `PATCH /v1/networks/{name or id}` | [`v1::ChangeNetwork`] | [`v1::Network`] |
//! | `DELETE /v1/networks/{name or id}?force=true` | - | [`v1::Deleted`] |
//! | `DELETE /v1/networks/{name or id}/kept/{name}` | - | [`v1::Kept`] as it was |
//! | `POST /v1/endpoints` | [`v1::Attach`] | [`v1::Endpoint`] |
//! | `POST /v1/endpoints/import` | [`v1::Import`] | [`v1::Imported`] |
//! | `GET /v1/endpoints?net=…&local=true&label=…` | - | [`v1::Endpoint`], a list |
//! | `DELETE /v1/endpoints/{name, id or MAC}?net=…&wait=false` | - | [`v1::Endpoint`] as it was |
//! | `PATCH /v1/endpoints/{name, id or MAC}?net=…` | [`v1::ChangeEndpoint`] | [`v1::Endpoint`] |
//! | `POST /v1/endpoints/{name, id or MAC}/ports?net=…` | [`v1::Publish`] | [`v1::Endpoint`] |
//! | `DELETE /v1/endpoints/{name, id or MAC}/ports?net=…&ports=…` | - | [`v1::Endpoint`] |
//! | `POST /v1/services` | [`v1::CreateService`] | [`v1::Service`] |
//! | `GET /v1/services?net=…` | - | [`v1::Service`], a list |
//! | `DELETE /v1/services/{name}?net=…` | - | [`v1::Service`] as it was |
//! | `GET /v1/ports` | - | [`v1::Port`], a list |
//! | `GET /v1/firewall` | - | [`v1::Firewall`] |
//! | `DELETE /v1/frozen/{MAC or address}?net=…` | - | [`v1::Frozen`] as they were, a list |
//! | `GET /v1/dns` | - | [`v1::Dns`] |
//! | `GET /v1/dns/{name}` | - | [`v1::Looked`] |
//! | `GET /v1/ipam` | - | [`v1::IpamSubnet`], a list |
//! | `GET /v1/ipam/{name or id}` | - | [`v1::IpamRanges`], a list |
//! | `POST /v1/ipam/{name or id}/reserve` | [`v1::ReserveAddress`] | [`v1::ReservedAddress`] |
//! | `DELETE /v1/ipam/{name or id}/reserve/{address}` | - | [`v1::ReleasedAddress`] |
//! | `POST /v1/ipam/{name or id}/release` | [`v1::ReleaseAddress`] | [`v1::ReleasedAddress`] |
//! | `POST /v1/ipam/check` | [`v1::CheckIpam`] | [`v1::IpamAudit`] |
//! | `GET /v1/hosts` | - | [`v1::Host`], a list |
//! | `GET /v1/status` | - | [`v1::Status`] |
//! | `GET /v1/events?since=…` | - | [`v1::Event`], one a line, without end |
//! | `GET /v1/fdb?net=…` | - | [`v1::Entry`], a list |
//! | `GET /v1/neigh?net=…` | - | [`v1::Entry`], a list |
//! | `GET /v1/plan` | - | [`v1::Plan`] |
//! | `GET /v1/keys` | - | [`v1::Key`], a list |
//! | `POST /v1/keys` | [`v1::AddKey`] | [`v1::Key`] |
//! | `POST /v1/keys/{id}/use` | [`v1::UseKey`] | [`v1::Key`] |
//! | `DELETE /v1/keys/{id}?force=true` | - | [`v1::Key`] as it was |
//! | `POST /v1/hosts/{host}/forget` | [`v1::Forget`] | [`v1::Forgotten`] |
//! | `POST /v1/drain` | [`v1::Drain`] | [`v1::Drained`] |
//! | `POST /v1/leave` | [`v1::Leave`] | [`v1::Left`] |
//! | `GET /v1/openapi.json` | - | OpenAPI 3.1 |
//! | `GET /metrics` | - | Prometheus' text format |
//!
//! Every success has status 200, every failure is a [`v1::Error`] with a status
//! of 4xx or 5xx. What is in `{}` and in the query is percent-encoded; the
//! query may be left out.
//!
//! [`Client`] asks these questions; [`openapi::document`] describes them.
//! [`blocking::Connection`] asks those that a short-lived program has, without a
//! runtime.

pub mod blocking;
pub mod client;
pub mod openapi;
pub mod v1;

pub use client::{Client, ClientError, Events};

/// The largest body that overlayd takes, bytes: that of an import.
pub const MAX_IMPORT: usize = 64 << 20;

/// Where overlayd listens and overlayctl calls, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/overlayd/overlayd.sock";
