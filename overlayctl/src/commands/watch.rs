//! `watch`: prints events until it is interrupted or overlayd stops.

use overlay_api::v1;

use super::{Session, asking};
use crate::args::WatchArgs;
use crate::output::{Failure, say, write};
use crate::render;

/// Kinds of which there may be thousands.
const ELSEWHERE: [&str; 2] = ["seen", "withdrawn"];

impl Session {
    pub(super) async fn watch(&self, args: WatchArgs) -> Result<(), Failure> {
        let mut events = asking("watch", self.client.events(args.since)).await?;
        // To stderr, so that who starts it from a script can wait until nothing is missed.
        say("# watching; times are UTC; end with ^C");
        while let Some(event) = asking("go on watching", events.next()).await? {
            if !wanted(&args, &event) {
                continue;
            }
            if self.output.json {
                let line = serde_json::to_string(&event)
                    .expect("the types of v1 have string keys and no failing serialiser");
                write(&format!("{line}\n"))?;
            } else {
                write(&render::event(&event))?;
            }
        }
        let error = v1::Error::new(v1::ErrorCode::Unavailable, "overlayd has stopped");
        asking("go on watching", async { Err(error.into()) }).await
    }
}

fn wanted(args: &WatchArgs, event: &v1::Event) -> bool {
    let kind = event.kind.as_str();
    if kind == "missed" || args.all {
        return true;
    }
    if args.kinds.is_empty() {
        return !ELSEWHERE.contains(&kind);
    }
    args.kinds.iter().any(|asked| asked == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_hosts_attach_is_shown_when_asked_for_and_what_was_missed_always() {
        let shown = |all: bool, kinds: &[&str]| {
            let kinds = kinds.iter().map(ToString::to_string).collect();
            let args = WatchArgs { all, kinds, since: None };
            ["host", "seen", "withdrawn", "missed"]
                .into_iter()
                .filter(|kind| {
                    wanted(&args, &v1::Event { kind: (*kind).into(), ..v1::Event::default() })
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown(false, &[]), "host missed");
        assert_eq!(shown(true, &[]), "host seen withdrawn missed");
        assert_eq!(shown(false, &["seen"]), "seen missed");
        assert_eq!(shown(false, &["host", "withdrawn"]), "host withdrawn missed");
    }
}
