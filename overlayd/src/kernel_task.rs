//! The task that owns the kernel: applies plans one at a time, passes on what
//! the kernel tells, and checks everything with a full dump now and then.
//!
//! Order is what it is for. What a plan changed is passed on before the report
//! that the plan is done. While a dump runs nothing is passed on: the dump goes
//! first, then every change told meanwhile, so that the newest word is the last.

use std::time::Duration;

use overlay_engine::PlanId;
use overlay_model::{KernelChange, KernelOp};
use overlay_netlink::Kernel;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
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
    let mut check = tokio::time::interval(FULL_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once: the first dump.
    loop {
        tokio::select! {
            biased;
            todo = work.recv() => {
                let Some(Work { plan, ops }) = todo else { return };
                let report = kernel.apply(ops).await;
                while let Ok(change) = changes.try_recv() {
                    let _ = inputs.send(Input::Kernel(change));
                }
                let _ = inputs.send(Input::Applied { plan, report });
            }
            change = changes.recv() => {
                let Some(change) = change else {
                    warn!("the kernel no longer tells of changes");
                    return;
                };
                let _ = inputs.send(Input::Kernel(change));
            }
            _ = check.tick() => {
                while let Ok(change) = changes.try_recv() {
                    let _ = inputs.send(Input::Kernel(change));
                }
                match kernel.dump().await {
                    Ok(state) => {
                        let snapshot = KernelChange::Snapshot(Box::new(state));
                        let _ = inputs.send(Input::Kernel(snapshot));
                    }
                    Err(err) => warn!("cannot read the kernel: {err}"),
                }
            }
        }
    }
}
