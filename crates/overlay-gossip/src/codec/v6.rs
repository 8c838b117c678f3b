//! Format 6: endpoints to which ports of hosts lead. FROZEN as the others are: see
//! format 1. What endpoints had then stands here as it does there.

use bincode::{Decode, Encode};
use overlay_model as model;

use super::v1::{self, OutOfRange};

#[derive(Encode, Decode)]
pub(super) enum Record {
    Endpoint(Endpoint),
}

#[derive(Encode, Decode)]
pub(super) struct Endpoint {
    former: v1::Endpoint,
    ports: Vec<Publish>,
}

#[derive(Encode, Decode)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Encode, Decode)]
pub(super) struct Publish {
    protocol: Protocol,
    at: Option<v1::Ip>,
    host_port: u16,
    port: u16,
    count: u16,
    cluster: bool,
}

impl From<model::Protocol> for Protocol {
    fn from(protocol: model::Protocol) -> Self {
        match protocol {
            model::Protocol::Tcp => Self::Tcp,
            model::Protocol::Udp => Self::Udp,
            model::Protocol::Sctp => Self::Sctp,
        }
    }
}

impl From<Protocol> for model::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

/// Says whether format 1 could not say all of `endpoint`.
pub(super) fn is_needed(endpoint: &model::Endpoint) -> bool {
    !endpoint.ports.is_empty()
}

impl From<&model::Endpoint> for Record {
    fn from(endpoint: &model::Endpoint) -> Self {
        let port = |publish: &model::Publish| Publish {
            protocol: publish.protocol.into(),
            at: publish.at.map(v1::Ip::from),
            host_port: publish.host_port,
            port: publish.port,
            count: publish.count,
            cluster: publish.cluster,
        };
        Self::Endpoint(Endpoint {
            former: endpoint.into(),
            ports: endpoint.ports.iter().map(port).collect(),
        })
    }
}

impl TryFrom<Record> for model::Record {
    type Error = OutOfRange;
    fn try_from(record: Record) -> Result<Self, OutOfRange> {
        let Record::Endpoint(Endpoint { former, ports }) = record;
        let port = |publish: Publish| {
            let publish = model::Publish {
                protocol: publish.protocol.into(),
                at: publish.at.map(Into::into),
                host_port: publish.host_port,
                port: publish.port,
                count: publish.count,
                cluster: publish.cluster,
            };
            publish.check().map_err(|_| OutOfRange("published port"))?;
            Ok(publish)
        };
        let ports = ports.into_iter().map(port).collect::<Result<Vec<_>, _>>()?;
        let endpoint = model::Endpoint { ports, ..former.try_into()? };
        // It has one form: format 1 would have said the same.
        if is_needed(&endpoint) {
            Ok(Self::Endpoint(endpoint))
        } else {
            Err(OutOfRange("number of ports"))
        }
    }
}
