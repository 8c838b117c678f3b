//! The daemon's shell, as a library for its binary and its tests.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | flags, environment and file, resolved into [`config::Settings`] |
//! | [`state`] | the state file: what must survive a restart |
//! | [`shell`] | the one loop around the engine |
//! | [`kernel_task`] | the task that owns the kernel |
//! | [`key_file`], [`keys`] | the cluster's keys: where they stand, and how they change |
//! | [`control_socket`] | the API on the Unix socket |
//! | [`convert`] | between the API's words and the engine's |
//! | [`events`] | what happened, for `overlayctl watch` |
//! | [`journal`] | every event on disk, and `overlayd replay` |
//! | [`resolver`] | names for containers, and where they ask for them |
//! | [`surroundings`] | what our traffic suffers from on this host, and is not ours to change |
//! | [`teardown`] | `overlayd teardown` |

pub mod config;
pub mod control_socket;
pub mod convert;
pub mod events;
pub mod journal;
pub mod kernel_task;
pub mod key_file;
pub mod keys;
pub mod metrics;
pub mod ports;
pub mod resolver;
pub mod shell;
pub mod state;
pub mod surroundings;
pub mod teardown;
