//! The task that owns the kernel: applies plans one at a time, passes on what
//! the kernel tells, and checks everything with a full dump now and then.
//!
//! Order is what it is for. What a plan changed is passed on before the report
//! that the plan is done. The first dump goes before everything else. Later ones
//! are read by a task of their own while changes and plans go on: the engine is
//! told when a dump begins ([`KernelChange::Reading`]), so that it takes what is
//! told from then on for newer, and gets what was read after all that was told.

use std::pin::pin;
use std::time::Duration;

use overlay_engine::PlanId;
use overlay_model::{KernelChange, KernelOp, KernelState};
use overlay_netlink::{Kernel, KernelError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tracing::warn;

use crate::shell::Input;

/// How long after a full check the next one comes: a minute, where tables are small.
const FULL_CHECK: Duration = Duration::from_secs(60);

/// And where they are large, so many times as long as reading them has taken: a
/// host at rest spends about a thousandth of a processor on it. What it finds is
/// what the kernel does not tell, and that is little.
const READING: u32 = 1500;

/// However long it has taken, no longer than this.
const RAREST_CHECK: Duration = Duration::from_secs(15 * 60);

/// When to read again after a reading that took so long.
fn until_next_check(took: Duration) -> Duration {
    took.saturating_mul(READING).clamp(FULL_CHECK, RAREST_CHECK)
}

/// A plan to carry out.
#[derive(Debug)]
pub struct Work {
    /// Ties the report to it.
    pub plan: PlanId,
    /// In order.
    pub ops: Vec<KernelOp>,
}

/// Runs until the shell hangs up.
pub async fn run(
    kernel: Kernel,
    mut changes: UnboundedReceiver<KernelChange>,
    mut work: UnboundedReceiver<Work>,
    inputs: UnboundedSender<Input>,
) {
    let mut reading: Option<Reading> = None;
    let mut first = true;
    let mut next_check = Instant::now();
    loop {
        tokio::select! {
            biased;
            todo = work.recv() => {
                let Some(Work { plan, ops }) = todo else { return };
                let mut applying = pin!(kernel.apply(ops));
                // A large plan is taken note of while it is carried out.
                let report = loop {
                    tokio::select! {
                        report = &mut applying => break report,
                        Some(change) = changes.recv() => {
                            let _ = inputs.send(Input::Kernel(change));
                        }
                    }
                };
                pass_on(&mut changes, &inputs);
                let _ = inputs.send(Input::Applied { plan, report });
            }
            change = changes.recv() => {
                let Some(change) = change else {
                    warn!("the kernel no longer tells of changes");
                    return;
                };
                let _ = inputs.send(Input::Kernel(change));
            }
            read = read_of(&mut reading), if reading.is_some() => {
                reading = None;
                match read {
                    Ok((Ok(state), took)) => {
                        next_check = Instant::now() + until_next_check(took);
                        kernel.settle().await;
                        pass_on(&mut changes, &inputs);
                        let _ = inputs.send(Input::Kernel(KernelChange::Read(Box::new(state))));
                    }
                    Ok((Err(err), _)) => warn!("cannot read the kernel: {err}"),
                    Err(err) => warn!("cannot read the kernel: {err}"),
                }
            }
            () = tokio::time::sleep_until(next_check) => {
                next_check = Instant::now() + FULL_CHECK;
                pass_on(&mut changes, &inputs);
                if !first {
                    if reading.is_none() {
                        let _ = inputs.send(Input::Kernel(KernelChange::Reading));
                        let kernel = kernel.clone();
                        reading = Some(tokio::spawn(async move {
                            let began = Instant::now();
                            (kernel.dump().await, began.elapsed())
                        }));
                    }
                    continue;
                }
                match kernel.dump().await {
                    Ok(state) => {
                        first = false;
                        let snapshot = KernelChange::Snapshot(Box::new(state));
                        let _ = inputs.send(Input::Kernel(snapshot));
                    }
                    Err(err) => warn!("cannot read the kernel: {err}"),
                }
            }
        }
    }
}

/// Passes on all that the kernel has told so far.
fn pass_on(changes: &mut UnboundedReceiver<KernelChange>, inputs: &UnboundedSender<Input>) {
    while let Ok(change) = changes.try_recv() {
        let _ = inputs.send(Input::Kernel(change));
    }
}

/// What was read, and how long that took.
type Reading = JoinHandle<(Result<KernelState, KernelError>, Duration)>;

/// What comes of a reading that goes on.
async fn read_of(
    reading: &mut Option<Reading>,
) -> Result<(Result<KernelState, KernelError>, Duration), JoinError> {
    match reading {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tables_are_read_more_rarely() {
        let next = |ms| until_next_check(Duration::from_millis(ms)).as_secs();
        assert_eq!([2, 40, 100, 300, 5000].map(next), [60, 60, 150, 450, 900]);
    }
}
