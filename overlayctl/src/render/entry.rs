//! FDB and neighbour entries, and the plan: what the kernel holds, and what it
//! should.

use std::net::IpAddr;

use overlay_api::v1::{Entry, Plan};

use super::{clean, or_dash, table};

/// `fdb`, `neigh`.
pub(crate) fn entries(entries: &[Entry]) -> String {
    let mut sorted: Vec<_> = entries.iter().collect();
    // Addresses by their value: 10.0.9.2 comes before 10.0.9.10. A broadcast
    // list has one key for all its entries, so where they lead decides.
    sorted.sort_by_cached_key(|e| {
        let place = (e.net.clone(), e.dev.clone(), e.table.clone());
        (place, e.key.parse::<IpAddr>().ok(), e.key.clone(), e.desired.clone(), e.kernel.clone())
    });
    let header = ["NET", "DEV", "TABLE", "KEY", "DESIRED", "KERNEL", "STATE", "HOST", "ENDPOINT"];
    table(
        header,
        sorted.into_iter().map(|e| {
            [
                e.net.clone(),
                e.dev.clone(),
                e.table.clone(),
                e.key.clone(),
                or_dash(e.desired.as_deref()),
                or_dash(e.kernel.as_deref()),
                e.state.clone(),
                or_dash(e.host.as_deref()),
                or_dash(e.endpoint.as_deref()),
            ]
        }),
    )
}

/// `plan`.
pub(crate) fn plan(plan: &Plan) -> String {
    if plan.commands.is_empty() {
        return format!("nothing to do: the kernel holds revision {}\n", plan.revision);
    }
    plan.commands.iter().map(|command| clean(command) + "\n").collect()
}
