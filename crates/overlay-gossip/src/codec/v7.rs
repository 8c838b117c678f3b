//! Format 7: services. FROZEN as the others are: see format 1.

use bincode::{Decode, Encode};
use overlay_model as model;
use overlay_model::{Name, NetworkId};

use super::v1::{self, OutOfRange};
use super::v6::Protocol;

#[derive(Encode, Decode)]
pub(super) enum Record {
    Service(Service),
}

#[derive(Encode, Decode)]
pub(super) struct Service {
    id: u64,
    network: u64,
    name: String,
    alias: String,
    ports: Vec<Port>,
    addresses: Vec<v1::Ip>,
    created: v1::Stamp,
    updated: v1::Stamp,
    deleted: bool,
}

#[derive(Encode, Decode)]
pub(super) struct Port {
    protocol: Protocol,
    port: u16,
    target: u16,
}

impl From<&model::Service> for Record {
    fn from(service: &model::Service) -> Self {
        Self::Service(Service {
            id: service.id,
            network: service.network.0,
            name: service.name.to_string(),
            alias: service.alias.to_string(),
            ports: service
                .ports
                .iter()
                .map(|port| Port {
                    protocol: port.protocol.into(),
                    port: port.port,
                    target: port.target,
                })
                .collect(),
            addresses: service.addresses.iter().map(|ip| (*ip).into()).collect(),
            created: service.created.into(),
            updated: service.updated.into(),
            deleted: service.deleted,
        })
    }
}

impl TryFrom<Record> for model::Record {
    type Error = OutOfRange;
    fn try_from(record: Record) -> Result<Self, OutOfRange> {
        let Record::Service(service) = record;
        let name = |text: &str| Name::new(text).map_err(|_| OutOfRange("name"));
        let port = |port: Port| {
            if port.port == 0 || port.target == 0 {
                return Err(OutOfRange("port"));
            }
            let protocol = port.protocol.into();
            Ok(model::ServicePort { protocol, port: port.port, target: port.target })
        };
        Ok(Self::Service(model::Service {
            id: service.id,
            network: NetworkId(service.network),
            name: name(&service.name)?,
            alias: name(&service.alias)?,
            ports: service.ports.into_iter().map(port).collect::<Result<_, _>>()?,
            addresses: service.addresses.into_iter().map(Into::into).collect(),
            created: service.created.into(),
            updated: service.updated.into(),
            deleted: service.deleted,
        }))
    }
}
