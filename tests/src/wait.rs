//! Waiting for what is about to be true, without a sleep in any test.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

/// How long [`eventually`] waits, before `OVERLAY_PATIENCE`.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(15);

const FIRST_POLL: Duration = Duration::from_millis(5);
const SLOWEST_POLL: Duration = Duration::from_millis(100);

/// `wait`, times `OVERLAY_PATIENCE` (a factor such as `3` or `0.5`; 1 when it
/// is not set): slow machines need no change of any test.
///
/// # Panics
/// If `OVERLAY_PATIENCE` is set to something that is no positive number: a
/// misspelt factor must not silently mean "the default".
pub fn patience(wait: Duration) -> Duration {
    let factor = match std::env::var("OVERLAY_PATIENCE") {
        Err(_) => 1.0,
        Ok(text) => text
            .parse::<f64>()
            .ok()
            .filter(|f| f.is_finite() && *f > 0.0)
            .unwrap_or_else(|| panic!("OVERLAY_PATIENCE={text} is not a positive number")),
    };
    wait.mul_f64(factor)
}

/// Polls `probe` until it returns `Ok`, and returns that.
///
/// `what` is the claim in words ("the FDB points at a"). An `Err` of `probe`
/// means "not yet" and says what was seen instead.
///
/// # Errors
/// When patience ends: the claim, how long it was waited for, and the last
/// thing seen.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Result<T>) -> Result<T> {
    eventually_within(DEFAULT_WAIT, what, probe)
}

/// [`eventually`] with a wait of its own, for claims that state a time.
///
/// # Errors
/// As [`eventually`].
pub fn eventually_within<T>(
    wait: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let wait = patience(wait);
    let start = Instant::now();
    let mut pause = FIRST_POLL;
    let mut tries = 0u32;
    loop {
        tries += 1;
        let last = match probe() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if start.elapsed() >= wait {
            return Err(anyhow!("last seen: {last:#}"))
                .with_context(|| format!("not within {wait:?} ({tries} tries): {what}"));
        }
        std::thread::sleep(pause.min(wait.saturating_sub(start.elapsed())));
        pause = (pause * 3 / 2).min(SLOWEST_POLL);
    }
}

/// Polls `probe` for the whole of `period`, and fails at the first `Err`: for
/// claims that something stays as it is. The period is not stretched by
/// patience, since a longer one makes the claim stronger, not safer.
///
/// # Errors
/// The claim, when it stopped being true, and what was seen.
pub fn holds_for(
    period: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        probe().with_context(|| {
            format!("held for {:?} only, not {period:?}: {what}", start.elapsed())
        })?;
        if start.elapsed() >= period {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
