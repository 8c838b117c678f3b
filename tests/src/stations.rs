//! Static endpoints by the ten thousand: what benches fill tables with.
//!
//! Station `n` has the MAC `02:aa:00:…` and an address of 10.8.0.0/14, both of
//! its number; it is in the network [`DEMO`] unless a bench says otherwise.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_api::v1;

use crate::host::{Host, NetSpec};
use crate::wait::eventually_within;

/// What MACs of stations begin with.
pub const PREFIX: [u8; 2] = [0x02, 0xaa];

/// The network of stations.
pub const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.8.0.0/14"], mtu: 0, extra: &[] };

/// The MAC of station `n`.
pub fn mac(n: u32) -> [u8; 6] {
    let [_, b, c, d] = n.to_be_bytes();
    [PREFIX[0], PREFIX[1], 0, b, c, d]
}

/// [`mac`] as `ip` and `bridge` write it.
pub fn mac_text(n: u32) -> String {
    mac(n).map(|byte| format!("{byte:02x}")).join(":")
}

/// The address of station `n`; the first thousand are left to containers.
pub fn ip(n: u32) -> Ipv4Addr {
    let [_, hi, mid, lo] = (n + 1024).to_be_bytes();
    Ipv4Addr::new(10, 8 + hi, mid, lo)
}

/// Station `n`, as one imports it.
pub fn station(n: u32) -> v1::StaticEndpoint {
    v1::StaticEndpoint {
        mac: mac_text(n),
        addresses: vec![ip(n).into()],
        ..v1::StaticEndpoint::default()
    }
}

/// Adds `endpoints` to network `net`, on `host`.
///
/// # Errors
/// If the daemon refuses or does not answer.
pub fn import(host: &Host, net: &str, endpoints: Vec<v1::StaticEndpoint>) -> Result<v1::Imported> {
    let request = v1::Import { net: net.to_owned(), endpoints, ..Default::default() };
    host.ask(async |c| c.import(&request).await)
}

/// Waits until the kernel of `host` has all entries of `n` stations of [`DEMO`]
/// that are elsewhere, and no other's: two in FDBs, one neighbour each.
///
/// # Errors
/// If that is not so within `limit`.
pub fn held(host: &Host, n: usize, limit: Duration) -> Result<()> {
    eventually_within(limit, "the tables are complete", || {
        let count = |line: &str| -> Result<usize> {
            // A MAC is first in a line of `bridge`, and behind a word in one of `ip`.
            let is = |l: &&str| l.starts_with("02:aa:") || l.contains(" lladdr 02:aa:");
            Ok(host.exec(line)?.lines().filter(is).count())
        };
        let fdb = count("bridge fdb show dev ovx4097")?;
        let neigh = count("ip neigh show dev ovb4097")?;
        ensure!(fdb == 2 * n && neigh == n, "{fdb} in the FDB, {neigh} neighbours, of {n}");
        Ok(())
    })
}
