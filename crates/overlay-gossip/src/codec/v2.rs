//! Format 2: the kinds that came after format 1. FROZEN like that one: see there.

use bincode::{Decode, Encode};
use overlay_model as model;
use overlay_model::KeyId;

/// The bytes are well formed, but a value in them is not allowed.
#[derive(Debug)]
pub(super) struct OutOfRange(pub(super) &'static str);

#[derive(Encode, Decode)]
pub(super) enum Record {
    Keys(Keys),
}

#[derive(Encode, Decode)]
pub(super) struct Keys {
    ids: Vec<[u8; 4]>,
    used: Option<[u8; 4]>,
}

impl From<&model::HostKeys> for Record {
    fn from(keys: &model::HostKeys) -> Self {
        Self::Keys(Keys {
            ids: keys.ids.iter().map(|id| id.0).collect(),
            used: keys.used.map(|id| id.0),
        })
    }
}

impl TryFrom<Record> for model::Record {
    type Error = OutOfRange;
    fn try_from(record: Record) -> Result<Self, OutOfRange> {
        let Record::Keys(keys) = record;
        if keys.ids.len() > model::HostKeys::MAX {
            return Err(OutOfRange("number of keys"));
        }
        let ids: Vec<KeyId> = keys.ids.into_iter().map(KeyId).collect();
        let used = keys.used.map(KeyId);
        if used.is_some_and(|used| !ids.contains(&used)) {
            return Err(OutOfRange("key in use"));
        }
        Ok(Self::Keys(model::HostKeys { ids, used }))
    }
}
