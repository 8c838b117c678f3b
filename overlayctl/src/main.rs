//! `overlayctl`: what people and scripts type to talk to the overlayd of this host.
//!
//! ```text
//! what was typed ── args.rs ──► Args ── commands/*.rs ──► v1 request ── overlay-api ──► overlayd
//!                                                              v1 reply ── render ──► table or JSON
//! ```
//!
//! Promises: everything that can be done here can be done with `curl
//! --unix-socket` (docs/api.md); one struct has two outputs, a table and
//! `--json`; a failure is one line that says what to do, with a second one for
//! the daemon's hint; the exit code is 0, 1 or 2 and means what `--help` says.
//!
//! Absent: any knowledge of how the daemon does it, any state, any retry.
//! Starting up is part of the time that an attach takes, so nothing is loaded,
//! read or asked that the command does not need.

mod args;
mod commands;
mod output;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    match args::Args::from_command_line() {
        Ok(args) => {
            let output = output::Output { json: args.json };
            output.exit_code(commands::run(args, output))
        }
        Err(stop) => stop.tell(),
    }
}
