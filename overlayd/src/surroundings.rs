//! What our traffic suffers from on this host and is not ours to change, rules
//! of others and full tables: told in `overlayctl status`, and once in the log.
//!
//! Looked at once a minute, and whenever somebody asks for the status: what an
//! operator has just put right is right in the next answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlay_netlink::{Crowd, neighbour_tables};
use tokio::time::Instant;
use tracing::{debug, info, warn};

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
    crowd: Arc<Mutex<Crowd>>,
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
        let look = async { (overlay_netlink::blocked().await, neighbour_tables().await) };
        let seen = tokio::time::timeout(PATIENCE, look).await;
        *looked = Some(Instant::now());
        // Too slow to be told: what was found before still stands.
        let Ok((blocked, tables)) = seen else { return };
        let mut now: Vec<String> = blocked.iter().map(ToString::to_string).collect();
        match tables {
            Ok(tables) => {
                let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
                let full = crowd.full(tables, std::time::Instant::now());
                now.extend(full.iter().map(ToString::to_string));
            }
            Err(err) => debug!("{err}"),
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in now.iter().filter(|warning| !found.contains(warning)) {
            warn!("{warning}");
        }
        for warning in found.iter().filter(|warning| !now.contains(warning)) {
            info!("no longer so: {warning}");
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
