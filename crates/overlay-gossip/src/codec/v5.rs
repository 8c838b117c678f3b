//! Format 5: that a host is drained. FROZEN as the others are: see format 1.

use bincode::{Decode, Encode};
use overlay_model as model;

#[derive(Encode, Decode)]
pub(super) enum Record {
    Drained,
}

impl From<Record> for model::Record {
    fn from(record: Record) -> Self {
        match record {
            Record::Drained => Self::Drained,
        }
    }
}
