//! Format 3: networks that say which addresses may be leased. FROZEN like format
//! 1: see there. What networks had then stands here as it does there.

use bincode::{Decode, Encode};
use overlay_model as model;
use overlay_model::AddressRange;

use super::v1::{self, OutOfRange};

#[derive(Encode, Decode)]
pub(super) enum Record {
    Network(Network),
}

#[derive(Encode, Decode)]
pub(super) struct Network {
    former: v1::Network,
    exclude: Vec<Range>,
    ip_ranges: Vec<Range>,
}

#[derive(Encode, Decode)]
pub(super) struct Range {
    first: v1::Ip,
    last: v1::Ip,
}

/// Says whether format 1 could not say all of `network`.
pub(super) fn is_needed(network: &model::Network) -> bool {
    !network.exclude.is_empty() || !network.ip_ranges.is_empty()
}

impl From<&model::Network> for Record {
    fn from(network: &model::Network) -> Self {
        let ranges = |ranges: &[AddressRange]| {
            let range = |r: &AddressRange| Range { first: r.first().into(), last: r.last().into() };
            ranges.iter().map(range).collect()
        };
        Self::Network(Network {
            former: network.into(),
            exclude: ranges(&network.exclude),
            ip_ranges: ranges(&network.ip_ranges),
        })
    }
}

impl TryFrom<Record> for model::Record {
    type Error = OutOfRange;
    fn try_from(record: Record) -> Result<Self, OutOfRange> {
        let Record::Network(Network { former, exclude, ip_ranges }) = record;
        let ranges = |ranges: Vec<Range>| {
            let range = |r: Range| {
                AddressRange::new(r.first.into(), r.last.into())
                    .map_err(|_| OutOfRange("range of addresses"))
            };
            ranges.into_iter().map(range).collect::<Result<Vec<_>, _>>()
        };
        let network = model::Network {
            exclude: ranges(exclude)?,
            ip_ranges: ranges(ip_ranges)?,
            ..former.try_into()?
        };
        // It has one form: format 1 would have said the same.
        if is_needed(&network) {
            Ok(Self::Network(network))
        } else {
            Err(OutOfRange("number of ranges"))
        }
    }
}
