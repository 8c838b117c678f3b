//! What other hosts say, told to the engine.

use std::time::Duration;

use overlay_engine::{CreateNetwork, Event, Request};
use overlay_gossip::fuzz::{decode_record, read_record};
use overlay_model::{ClusterEvent, Foreign, HostId, RecordKey};

use crate::desk::Desk;
use crate::input::Input;
use crate::record::place;
use crate::samples::{OWNER, US, name};

/// Events of one run, at most.
const EVENTS: usize = 64;

/// The owner of most records, another host, and ourselves.
fn host(n: u8) -> HostId {
    match n % 4 {
        0 => HostId(uuid::Uuid::from_u128(0x2222 << 112)),
        1 => US,
        _ => OWNER,
    }
}

/// 1. The engine takes whatever gossip can tell it, in whatever order, and comes
///    to rest after each piece of news.
/// 2. Told all of it again, it changes nothing in the kernel.
pub(crate) fn run(data: &[u8]) {
    let mut desk = Desk::new();
    let mut input = Input(data);
    let mut news = Vec::new();
    let mut token = 0;
    while !input.is_empty() && news.len() < EVENTS {
        let event = match input.byte() % 8 {
            0 => {
                desk.waits(Duration::from_millis(u64::from(input.u16()) * 10));
                continue;
            }
            1 => {
                token += 1;
                let ours = CreateNetwork {
                    name: Some(name("ours")),
                    subnets: vec!["10.9.0.0/30".parse().expect("a subnet")],
                    foreign: Foreign::default(),
                    ..CreateNetwork::default()
                };
                let request = Box::new(Request::CreateNetwork(ours));
                desk.happens(Event::Request { token, fresh: token, request });
                continue;
            }
            2 => {
                let (host, incarnation) = (host(input.byte()), input.byte().into());
                match input.byte() % 4 {
                    0 => ClusterEvent::Silent { host, incarnation },
                    1 => ClusterEvent::Forgotten { host, incarnation },
                    2 => {
                        let addrs = vec![([192, 0, 2, 1], 1).into(); usize::from(input.byte() % 3)];
                        ClusterEvent::Doubled { host, addrs }
                    }
                    _ => ClusterEvent::Alive { host, incarnation },
                }
            }
            // Under a key of the sender's choice.
            3 => {
                let (host, incarnation) = (host(input.byte()), input.byte().into());
                let Ok(text) = std::str::from_utf8(input.chunk()) else { continue };
                let Ok(key) = text.parse::<RecordKey>() else { continue };
                let bytes = input.long_chunk();
                let record = match decode_record(host, key, bytes) {
                    Ok(record) => Some(Box::new(record)),
                    Err(_) if bytes.is_empty() => None,
                    Err(_) => continue,
                };
                ClusterEvent::Record { host, incarnation, key, record }
            }
            // Where it belongs.
            what => {
                let incarnation = input.byte().into();
                let Ok(record) = read_record(input.long_chunk()) else { continue };
                let (host, key) = place(&record);
                let record = (what != 4).then(|| Box::new(record));
                ClusterEvent::Record { host, incarnation, key, record }
            }
        };
        desk.happens(Event::Cluster(event.clone()));
        news.push(event);
    }
    desk.waits(Duration::from_secs(3600));
    // The last word on each thing counts, and repeating it says nothing new.
    let Some(last) = news.pop() else { return };
    desk.happens(Event::Cluster(last.clone()));
    let before = desk.objects();
    desk.happens(Event::Cluster(last));
    assert_eq!(desk.objects(), before, "told twice, it is another thing");
}
