//! Events.

use overlay_api::v1::Event;

use super::clean;

/// One line of `watch`: `HH:MM:SS.mmm  level    text`.
pub(crate) fn event(event: &Event) -> String {
    // 2026-11-21T15:40:23.123Z, of whatever precision: the time of day.
    let time = event.time.split('T').nth(1).unwrap_or(&event.time).trim_end_matches('Z');
    format!("{}  {:7}  {}\n", clean(time), clean(&event.level), clean(&event.text))
}
