//! What others on this host do that our traffic suffers from, and that is not
//! ours to change: told in `overlayctl status`, and once in the log.
//!
//! Looked at once a minute, and whenever somebody asks for the status: what an
//! operator has just put right is right in the next answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

/// How often is looked when nobody asks.
const EVERY: Duration = Duration::from_secs(60);

/// Who asks again within this time is told the same: status may be polled.
const FRESH: Duration = Duration::from_secs(1);

/// The longest that a status waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Held while somebody looks, so that others wait for what he finds.
    looked: Arc<tokio::sync::Mutex<Option<Instant>>>,
    found: Arc<Mutex<Vec<String>>>,
}

impl Surroundings {
    /// What was found last.
    pub fn warnings(&self) -> Vec<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks, unless that was done just now.
    pub async fn look(&self) {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let blocked = tokio::time::timeout(PATIENCE, overlay_netlink::blocked()).await;
        *looked = Some(Instant::now());
        // Too slow to be told: what was found before still stands.
        let Ok(blocked) = blocked else { return };
        let now: Vec<String> = blocked.iter().map(ToString::to_string).collect();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in now.iter().filter(|warning| !found.contains(warning)) {
            warn!("{warning}");
        }
        if now.is_empty() && !found.is_empty() {
            info!("nothing on this host drops what containers send across our bridges any more");
        }
        *found = now;
    }

    /// Looks again and again.
    pub async fn keep_looking(self) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            self.look().await;
        }
    }
}
