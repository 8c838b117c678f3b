//! What one address costs, without a daemon: no request, disk, record or kernel in it.
//!
//! `cargo bench -p overlay-engine --bench ipam`. A /16 that is full to some part: an address is
//! released at random and one is leased, a hundred thousand times; medians of five rounds.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use overlay_engine::ipam::{Pool, first_address};
use overlay_model::{HostId, Subnet};

const PAIRS: usize = 100_000;

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn main() {
    let me = HostId(uuid::Uuid::from_u128(1));
    let cidr: IpNet = "10.8.0.0/16".parse().expect("a subnet");
    println!("| full to | release and lease, ns: median (smallest..largest) |\n|---|---|");
    for percent in [0, 50, 90, 99, 100] {
        let mut figures: Vec<u128> = Vec::new();
        for round in 0..5 {
            let mut pool = Pool::new(Subnet { cidr, gateway: first_address(cidr) });
            let (at, founding) = pool.founding_token(me);
            pool.merge(at, founding);
            let count = (65_533 * percent / 100).max(1);
            let lease = |pool: &mut Pool| pool.allocate(me).expect("there is room");
            let mut leased: Vec<IpAddr> = (0..count).map(|_| lease(&mut pool)).collect();
            let mut state = round;
            let pairs = if percent == 100 { PAIRS / 100 } else { PAIRS };
            let began = Instant::now();
            for _ in 0..pairs {
                let n = (next(&mut state) % leased.len() as u64) as usize;
                pool.release(leased[n]);
                leased[n] = lease(&mut pool);
            }
            figures.push(began.elapsed().as_nanos() / pairs as u128);
        }
        figures.sort_unstable();
        println!("| {percent} % | {} ({}..{}) |", figures[2], figures[0], figures[4]);
    }
}
