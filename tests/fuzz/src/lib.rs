//! What outsiders can send or leave behind, against what we promise about it.
//!
//! ```text
//!   corpus/NAME/*  ─┬─► tests/corpus.rs    every file once, in every `cargo test`
//!                   └─► libFuzzer (main.rs) ─► Target::run(bytes) ─► a promise is broken: panic
//! ```
//!
//! | target | bytes are | behind it |
//! |---|---|---|
//! | `sealed_datagram` | a course of events between two hosts and a stranger | `overlay-gossip` seal |
//! | `tcp_frames` | frames, good and bad, and how they are cut | `overlay-gossip` tcp |
//! | `push` | a body of the fast path | `overlay-gossip` push, view |
//! | `record` | a record | `overlay-gossip` codec |
//! | `gossip_message` | messages of chitchat | `overlay-gossip` limits, and chitchat itself |
//! | `cluster_records` | records and lives of other hosts | `overlay-engine` |
//! | `state_file` | a state file, its damage, or values in it | `overlayd` state |
//! | `journal` | a journal | `overlayd` replay |
//! | `key_file` | a key file | `overlayd` key_file |
//! | `api_request` | bodies of API requests | `overlay-api`, `overlayd` convert, `overlay-engine` |
//! | `import_list` | a file of `endpoint import` | `overlayctl` |
//! | `dns_query` | a question, and who asks | `overlay-dns` wire, answer |
//! | `dns_reply` | a question, and what another resolver replied | `overlay-dns` wire |
//! | `resolv_conf` | a `resolv.conf` | `overlay-dns` resolv_conf |
//! | `cni` | the environment and stdin of the CNI plugin | `overlay-cni` |
//! | `engines` | what dockerd and netavark ask | `overlay-plugins`, `overlay-cni` |
//!
//! A target says in the comment above its function what it claims; "does not
//! panic" is the least of it. Keys, ids and addresses are constants, so that a
//! file of the corpus means the same for ever; what the code draws at random
//! stays random.

use std::sync::OnceLock;

mod cluster_records;
mod cni;
mod desk;
mod dns;
mod engines;
mod gossip_message;
mod input;
mod local_files;
mod push;
mod record;
mod requests;
mod samples;
mod sealed_datagram;
pub mod seeds;
mod state_file;
mod tcp_frames;

/// Something to fuzz.
#[derive(Clone, Copy)]
pub struct Target {
    /// Of its folder in `corpus`, too.
    pub name: &'static str,
    /// Panics if a promise does not hold for these bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 16] = [
    Target { name: "sealed_datagram", run: sealed_datagram::run },
    Target { name: "tcp_frames", run: tcp_frames::run },
    Target { name: "push", run: push::run },
    Target { name: "record", run: record::run },
    Target { name: "gossip_message", run: gossip_message::run },
    Target { name: "cluster_records", run: cluster_records::run },
    Target { name: "state_file", run: state_file::run },
    Target { name: "journal", run: local_files::journal },
    Target { name: "key_file", run: local_files::key_file },
    Target { name: "api_request", run: requests::api_request },
    Target { name: "import_list", run: requests::import_list },
    Target { name: "dns_query", run: dns::query },
    Target { name: "dns_reply", run: dns::reply },
    Target { name: "resolv_conf", run: dns::resolv_conf },
    Target { name: "cni", run: cni::cni },
    Target { name: "engines", run: engines::engines },
];

/// The target called `name`.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// The target that the environment names in `FUZZ_TARGET`.
///
/// # Panics
/// If it names none.
pub fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let names = TARGETS.map(|target| target.name).join(", ");
        target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET is `{name}`, not one of {names}"))
    })
}

/// To be called once, before any target: a panic that the code behind a target
/// contains says nothing, and ends nothing.
pub fn start() {
    // libFuzzer's ends the process, even if the panic would be caught.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !state_file::expects_panics() {
            hook(info);
        }
    }));
}

/// Runs `f`, which may hold `most` bytes of memory at once.
#[track_caller]
fn within<T>(most: usize, f: impl FnOnce() -> T) -> T {
    let mut result = None;
    let held = allocation_counter::measure(|| result = Some(f())).bytes_max;
    assert!(held <= most as u64, "{held} bytes were held, {most} are allowed");
    result.expect("it was called")
}
