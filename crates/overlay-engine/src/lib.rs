//! One host's reasoning, behind one door: [`Engine::step`].
//!
//! ```text
//!   Event ──► Engine::step(event, now) ──► effects
//!
//!   requests ─► endpoints + ipam ─► own records ─► Effect::Publish
//!                      │                │
//!   gossip ───► cluster view ───────────┤
//!                                       ▼
//!                                  want(key) ──┐
//!                                              ├─► plan ─► Effect::Apply
//!   kernel ───► mirror ────────────────────────┘
//! ```
//!
//! Pure: no socket, clock, file, task or randomness of its own. Time and
//! fresh bits come in with the event; everything to be done goes out as an
//! [`Effect`]. Unit tests, simulation and replay use the door that production
//! uses. The order of effects is the order in which the shell performs them.
//!
//! What holds after every step:
//!
//! 1. The kernel is compared with what it holds (the mirror that
//!    [`Event::Kernel`] feeds), never with what we remember having written.
//! 2. Nothing is deleted that is not ours, and while the view is partial
//!    nothing that this run has not itself retired.
//! 3. Suspicion moves nothing: only a host that is down beyond the grace, has
//!    left, or withdraws a record loses entries.
//! 4. A success is replied only after what it depends on is in the state file.
//! 5. An address is given out only by the owner of its range (see [`ipam`]).
//!
//! Deliberately absent: API formats (the shell translates), gossip's wire
//! (overlay-gossip), netlink (overlay-netlink).

mod audit;
mod clashes;
mod cluster_view;
mod desired;
mod endpoints;
mod engine;
mod event;
pub mod fake_disk;
pub mod fake_kernel;
pub mod forget;
pub mod ipam;
mod kept;
mod keys;
mod leaks;
mod leasable;
mod membership;
mod moves;
mod names;
mod network_changes;
mod networks;
mod once;
mod plan;
mod publish;
mod reconcile;
mod recovery;
mod repairs;
mod reserved;
mod services;
mod statics;
mod views;
mod ways;

pub use audit::{AbroadView, AuditView, Finding, RangeView, RangesView, SubnetView};
pub use cluster_view::{HostState, Presence};
pub use engine::{Config, Engine, Restored};
pub use event::{
    Attach, ChangeEndpoint, CreateNetwork, Detail, Effect, ErrorKind, Event, ForgetHost,
    Forgetting, Import, Level, LocalEndpoint, Notice, Now, Place, PlanId, Refused, Reply, Request,
    StateChange, StaticEndpoint, Token, Where,
};
pub use kept::Kept;
pub use keys::KeyView;
pub use moves::{FrozenView, Moved};
pub use names::NameNews;
pub use network_changes::{ChangeNetwork, DetachedOn};
pub use plan::{Completeness, Delta, plan};
pub use publish::{ChangePorts, PortView};
pub use recovery::Lost;
pub use repairs::{Contest, Found, Repair};
pub use reserved::Reserve;
pub use services::{CreateService, ServiceView};
pub use views::{
    EndpointState, EndpointView, EntryView, FailedView, HostView, NetworkView, PendingView,
    PlanView, StatusView, Table,
};

#[cfg(test)]
mod tests;
