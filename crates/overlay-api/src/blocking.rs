//! A client for programs that start, ask one thing or two, and end.
//!
//! No runtime, one thread, one connection for all requests: a plugin that a
//! container runtime starts for each container spends its time in starting, and
//! a second request on a connection costs a fifth of a first one. What can be
//! asked is what plugins ask; everything else is in [`Client`](crate::Client).
//!
//! Promises, as there: a reply is never larger in memory than [`MAX_REPLY`], a
//! request never takes longer than the timeout, and every failure says what to
//! do. A connection that broke is not used again: the next request makes
//! another one. Absent: retries.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{
    ClientError, DEFAULT_TIMEOUT, MAX_REPLY, cannot_connect, encode, refusal, understood,
    with_query,
};
use crate::v1;

/// The longest head of a reply that is read, bytes.
const MAX_HEAD: usize = 16 << 10;

/// Asks one daemon.
#[derive(Debug)]
pub struct Connection {
    socket: PathBuf,
    timeout: Duration,
    stream: Option<UnixStream>,
}

/// A reply: its status, and what came with it.
struct Reply {
    status: StatusCode,
    body: Vec<u8>,
    /// The daemon takes another request on this connection.
    goes_on: bool,
}

impl Connection {
    /// To the daemon that listens on `socket`. Connects when it is first asked.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: DEFAULT_TIMEOUT, stream: None }
    }

    /// Waits at most `timeout` for each reply, from connecting to its last byte.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Creates a network.
    ///
    /// # Errors
    /// Any [`ClientError`]; so for all the methods below.
    pub fn create_network(
        &mut self,
        request: &v1::CreateNetwork,
    ) -> Result<v1::Network, ClientError> {
        self.ask("POST", "/v1/networks", Some(request))
    }

    /// Shows the network of this name or id.
    pub fn network(&mut self, net: &str) -> Result<v1::Network, ClientError> {
        self.ask("GET", &format!("/v1/networks/{}", encode(net)), None::<&()>)
    }

    /// Deletes the network of this name or id, if it has no endpoints.
    pub fn delete_network(&mut self, net: &str) -> Result<v1::Deleted, ClientError> {
        self.ask("DELETE", &format!("/v1/networks/{}", encode(net)), None::<&()>)
    }

    /// Attaches a network namespace to a network.
    pub fn attach(&mut self, request: &v1::Attach) -> Result<v1::Endpoint, ClientError> {
        self.ask("POST", "/v1/endpoints", Some(request))
    }

    /// Lists the endpoints of this host that have a label: `KEY`, or `KEY=VALUE`.
    pub fn labelled(&mut self, label: &str) -> Result<Vec<v1::Endpoint>, ClientError> {
        let query = [("local", Some("true")), ("label", Some(label))];
        self.ask("GET", &with_query("/v1/endpoints", query), None::<&()>)
    }

    /// Detaches the endpoint of this id. The reply shows it as it was; its interface
    /// goes a moment later.
    pub fn detach(&mut self, endpoint: &str) -> Result<v1::Endpoint, ClientError> {
        let path = format!("/v1/endpoints/{}", encode(endpoint));
        self.ask("DELETE", &with_query(&path, [("wait", Some("false"))]), None::<&()>)
    }

    /// Says how much of each subnet is used.
    pub fn ipam(&mut self) -> Result<Vec<v1::IpamSubnet>, ClientError> {
        self.ask("GET", "/v1/ipam", None::<&()>)
    }

    /// Tells how the daemon is.
    pub fn status(&mut self) -> Result<v1::Status, ClientError> {
        self.ask("GET", "/v1/status", None::<&()>)
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let request = format!("{method} {path}");
        let mut message =
            format!("{request} HTTP/1.1\r\nhost: overlayd\r\naccept: application/json\r\n")
                .into_bytes();
        match body {
            None => message.extend(b"\r\n"),
            Some(body) => {
                let body = serde_json::to_vec(body)
                    .expect("the types of v1 have string keys and no failing serialiser");
                let head = format!(
                    "content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                message.extend(head.as_bytes());
                message.extend(body);
            }
        }
        let until = Instant::now() + self.timeout;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => UnixStream::connect(&self.socket)
                .map_err(|err| cannot_connect(&self.socket, &err))?,
        };
        let reply = exchange(&mut stream, &message, until).map_err(|err| match err.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Timeout { request: request.clone(), after: self.timeout }
            }
            _ => ClientError::Protocol(format!(
                "overlayd broke off while it answered {request} ({err}); see: journalctl -u \
                 overlayd"
            )),
        })?;
        if reply.goes_on {
            self.stream = Some(stream);
        }
        if !reply.status.is_success() {
            return Err(refusal(&request, reply.status, &reply.body));
        }
        understood(&request, &reply.body)
    }
}

fn exchange(stream: &mut UnixStream, message: &[u8], until: Instant) -> io::Result<Reply> {
    let left = |until: Instant| match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(Some(left)),
    };
    stream.set_write_timeout(left(until)?)?;
    stream.write_all(message)?;

    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>| -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        stream.set_read_timeout(left(until)?)?;
        match stream.read(&mut buffer)? {
            0 => Err(io::Error::other("it hung up")),
            n => {
                bytes.extend(&buffer[..n]);
                Ok(())
            }
        }
    };
    let body_at = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > MAX_HEAD {
            return Err(io::Error::other("the head of its reply has no end"));
        }
        read(&mut bytes)?;
    };
    let (status, length, goes_on) = head(&bytes[..body_at]).map_err(io::Error::other)?;
    if length > MAX_REPLY {
        let most = MAX_REPLY >> 20;
        return Err(io::Error::other(format!("its reply is larger than {most} MiB")));
    }
    while bytes.len() < body_at + length {
        read(&mut bytes)?;
    }
    let body = bytes[body_at..body_at + length].to_vec();
    // What we did not ask for would be taken for the next reply.
    let goes_on = goes_on && bytes.len() == body_at + length;
    Ok(Reply { status, body, goes_on })
}

/// Status, length of the body, and whether another request may follow.
fn head(bytes: &[u8]) -> Result<(StatusCode, usize, bool), String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| format!("`{first}` is no status line of HTTP/1.1"))?;
    let (mut length, mut goes_on) = (None, true);
    for line in lines {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "connection" => goes_on = !value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Ok((status, length.ok_or("its reply does not say how long it is")?, goes_on))
}

#[cfg(test)]
mod tests;
