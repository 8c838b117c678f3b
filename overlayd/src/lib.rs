//! The daemon's shell, as a library for its binary and its tests.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | flags, environment and file, resolved into [`config::Settings`] |
//! | [`state`] | the state file: what must survive a restart |

pub mod config;
pub mod state;
