//! The plugins that container runtimes start: `overlay-cni` and `overlay-netavark`.
//!
//! ```text
//!  containerd, CRI-O, podman            overlay-cni                      overlayd
//!   CNI_COMMAND=ADD … ──► call.rs ──► Call
//!   config on stdin ────► conf.rs ──► Conf ── attach.rs ──► v1::Attach ───► /v1/endpoints
//!   result on stdout ◄── result.rs ◄───────── attach.rs ◄── v1::Endpoint ◄──
//! ```
//!
//! A plugin translates and decides nothing about networks: addresses, names,
//! ports and conflicts are the daemon's affair, and what it refuses is passed on
//! with its own words. The endpoint of a container bears a label that says whose
//! it is ([`call::Attachment::label`]): nothing else is remembered, so that
//! nothing can differ from what the daemon knows.
//!
//! Promises:
//!
//! 1. What is refused leaves nothing behind; what was begun is undone.
//! 2. DEL succeeds when there is nothing to do, however often, and whatever of
//!    the container is gone. While the daemon does not answer it is written down
//!    and done later, in order ([`queue`]).
//! 3. GC and DEL touch no endpoint but those that a plugin made for that network.
//! 4. Whatever comes in, a result or an error of the specification goes out, and
//!    nothing panics (`tests/fuzz`, target `cni`).
//!
//! Absent: a runtime, threads, retries of what the daemon refused, and an
//! `ipam` plugin: overlayd gives addresses out itself, across hosts.
//!
//! The specification is CNI 1.1.0, `SPEC.md` and `CONVENTIONS.md` of
//! containernetworking/cni. docs/cni.md is for who uses it.

pub mod attach;
pub mod call;
pub mod conf;
pub mod failure;
pub mod namespace;
pub mod netavark;
pub mod queue;
pub mod result;
pub mod stdin;
pub mod verbs;

/// Versions of the specification, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1: results with lists.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses do not say their family any more.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl Version {
    /// Those that we speak.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest one.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As a configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The one that `text` names.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}
