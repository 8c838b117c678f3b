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
use tracing::warn;

use crate::shell::Input;

/// How often everything is compared with a fresh dump.
const FULL_CHECK: Duration = Duration::from_secs(60);

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
    let mut reading: Option<JoinHandle<Result<KernelState, KernelError>>> = None;
    let mut first = true;
    let mut check = tokio::time::interval(FULL_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once: the first dump.
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
                    Ok(Ok(state)) => {
                        kernel.settle().await;
                        pass_on(&mut changes, &inputs);
                        let _ = inputs.send(Input::Kernel(KernelChange::Read(Box::new(state))));
                    }
                    Ok(Err(err)) => warn!("cannot read the kernel: {err}"),
                    Err(err) => warn!("cannot read the kernel: {err}"),
                }
            }
            _ = check.tick() => {
                pass_on(&mut changes, &inputs);
                if !first {
                    if reading.is_none() {
                        let _ = inputs.send(Input::Kernel(KernelChange::Reading));
                        let kernel = kernel.clone();
                        reading = Some(tokio::spawn(async move { kernel.dump().await }));
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

/// What comes of a reading that goes on.
async fn read_of(
    reading: &mut Option<JoinHandle<Result<KernelState, KernelError>>>,
) -> Result<Result<KernelState, KernelError>, JoinError> {
    match reading {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}
