//! `overlay-cni`: the CNI plugin, started by a container runtime for one call.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_cni::verbs::main()
}
