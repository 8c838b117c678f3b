//! `overlayd teardown`: removes everything of ours from the kernel, and nothing
//! else. The state file stays: the next start restores what can be restored.

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use overlay_engine::{Completeness, Delta, plan};
use overlay_netlink::Kernel;

use crate::shell::require_root;

/// Removes it, going on past what fails.
///
/// # Errors
/// Unless root, if a daemon answers on `socket` (it would put everything back), if the
/// kernel cannot be read, or if something could not be removed.
pub async fn run(socket: &Path) -> anyhow::Result<()> {
    require_root()?;
    if UnixStream::connect(socket).is_ok() {
        bail!(
            "an overlayd answers on {}: it would put everything back; stop it first",
            socket.display()
        );
    }
    let (kernel, _changes) = Kernel::open().await.context("cannot talk to the kernel")?;
    let state = kernel.dump().await.context("cannot read the kernel")?;
    let doors = overlay_netlink::close_all_doors().await;
    let deltas = state.objects.keys().map(|key| Delta { key, want: None, retired: true });
    let ops = plan(deltas, &state.objects, Completeness::Complete);
    for op in &ops {
        println!("{op}");
    }
    let count = ops.len();
    let report = kernel.apply(ops).await;
    for failure in &report.failed {
        eprintln!("overlayd: `{}` failed: {}", failure.op, failure.text);
    }
    if !report.failed.is_empty() {
        bail!("{} of {count} things could not be removed", report.failed.len());
    }
    if doors > 0 {
        println!("nft delete table ip overlayd (in {doors} namespaces)");
    }
    let pairs = overlay_netlink::remove_all_pairs().await?;
    if pairs > 0 {
        println!("ip link del ovd... ({pairs} pairs of containers of Docker)");
    }
    let passages = overlay_plugins::docker::close_passage();
    if passages > 0 {
        println!("iptables -D DOCKER-USER -j OVERLAYD");
    }
    println!(
        "removed {} things of overlayd; nothing else was touched",
        count + doors + pairs + passages
    );
    Ok(())
}
