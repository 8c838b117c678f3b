//! Format 4: what is said of hosts that are away. FROZEN as the others are: see
//! format 1.

use bincode::{Decode, Encode};
use overlay_model as model;
use overlay_model::HostId;
use uuid::Uuid;

#[derive(Encode, Decode)]
pub(super) enum Record {
    Fate(Fate),
}

#[derive(Encode, Decode)]
pub(super) struct Fate {
    generation: u32,
    floor: u32,
    noted: u32,
    heir: Option<[u8; 16]>,
    done: bool,
    vouched: bool,
    ranges: u64,
    members: u64,
}

impl From<&model::Fate> for Record {
    fn from(fate: &model::Fate) -> Self {
        let model::Fate { generation, floor, noted, heir, done, vouched, ranges, members } = *fate;
        let heir = heir.map(|heir| heir.0.into_bytes());
        Self::Fate(Fate { generation, floor, noted, heir, done, vouched, ranges, members })
    }
}

impl From<Record> for model::Record {
    fn from(record: Record) -> Self {
        let Record::Fate(Fate { generation, floor, noted, heir, done, vouched, ranges, members }) =
            record;
        let heir = heir.map(|heir| HostId(Uuid::from_bytes(heir)));
        Self::Fate(model::Fate { generation, floor, noted, heir, done, vouched, ranges, members })
    }
}
