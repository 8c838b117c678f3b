//! `overlay-netavark`: the plugin of netavark (Podman 4.5 and later), started for one call.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_cni::netavark::main()
}
