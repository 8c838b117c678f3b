//! What the cluster tells a host.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{HostId, Record, RecordKey};

/// One piece of news from gossip.
///
/// Order, repetition and delay are harmless, except that the records of one
/// (host, incarnation) arrive in the order in which it wrote them: a host
/// publishes its [`RecordKey::Host`] last when it starts, so that its arrival
/// says "everything that I had is here".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterEvent {
    /// The failure detector hears this incarnation.
    Alive {
        /// Whom.
        host: HostId,
        /// Which life of it; grows at every start.
        incarnation: u64,
    },
    /// The failure detector no longer hears this incarnation. Moves nothing.
    Silent {
        /// Whom.
        host: HostId,
        /// Which life of it.
        incarnation: u64,
    },
    /// Gossip has dropped this incarnation and all its records.
    Forgotten {
        /// Whom.
        host: HostId,
        /// Which life of it.
        incarnation: u64,
    },
    /// Several machines claim to be this host, each with its heart beating: a
    /// copied state directory. Told when it changes.
    Doubled {
        /// Whom.
        host: HostId,
        /// Where they gossip, in order; empty when it is over.
        addrs: Vec<SocketAddr>,
    },
    /// A record was written (`Some`) or withdrawn (`None`) by its owner.
    Record {
        /// The owner.
        host: HostId,
        /// In which life it wrote it.
        incarnation: u64,
        /// Which record.
        key: RecordKey,
        /// Its value, boxed because most events carry none.
        record: Option<Box<Record>>,
    },
}
