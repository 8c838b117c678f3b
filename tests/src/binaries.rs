//! Finds the programs under test, and what labs need from the machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail};

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The daemon.
    pub overlayd: PathBuf,
    /// Its command line.
    pub overlayctl: PathBuf,
}

/// The top of the tree.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Programs that labs run, with the Debian package of each.
const TOOLS: [(&str, &str); 11] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("iperf3", "iperf3"),
    ("jq", "jq"),
    ("dig", "dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
];

/// The programs under test: from the directory that `OVERLAY_BIN_DIR` names,
/// else built now (once a process) from the tree that this kit is part of, so
/// that no lab ever runs yesterday's daemon.
///
/// # Errors
/// If they cannot be built or are not where they should be.
pub fn binaries() -> Result<&'static Binaries> {
    static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
    FOUND.get_or_init(|| find().map_err(|e| format!("{e:#}"))).as_ref().map_err(|e| anyhow!("{e}"))
}

/// The plugin called `name`, from where the programs under test are.
///
/// # Errors
/// If it was not built.
pub fn plugin(name: &str) -> Result<PathBuf> {
    let path = binaries()?.overlayd.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    bail!("there is no {}; build it with: cargo build -p overlay-cni", path.display())
}

fn find() -> Result<Binaries> {
    let dir = match std::env::var_os("OVERLAY_BIN_DIR") {
        // From the top of the tree, where people stand: cargo starts tests elsewhere.
        Some(dir) => PathBuf::from(ROOT).join(dir),
        None => build()?,
    };
    let program = |name: &str| {
        let path = dir.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            bail!("there is no {}; build it with: cargo build -p {name}", path.display())
        }
    };
    Ok(Binaries { overlayd: program("overlayd")?, overlayctl: program("overlayctl")? })
}

fn build() -> Result<PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "overlayd", "-p", "overlayctl", "-p", "overlay-cni"])
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo; name built programs with OVERLAY_BIN_DIR")?;
    if !status.success() {
        bail!("cannot build the programs under test: cargo build ended with {status}");
    }
    // The test program is target/debug/deps/<name>: two levels down.
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(3).context("a test program is in target/<profile>/deps")?;
    Ok(target.join("debug"))
}

/// Checks what a lab needs of the machine, all of it before anything is made.
///
/// # Errors
/// Names everything that is missing and how to get it.
pub fn check_machine() -> Result<()> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    CHECKED
        .get_or_init(|| {
            let mut wants = Vec::new();
            if !nix::unistd::geteuid().is_root() {
                wants.push(
                    "root, to make network namespaces (run as root, or: sudo -E make test)"
                        .to_owned(),
                );
            }
            for (tool, package) in TOOLS {
                if !on_path(tool) {
                    wants.push(format!("the program {tool} (apt-get install {package})"));
                }
            }
            if wants.is_empty() {
                return Ok(());
            }
            Err(format!(
                "labs need {}; `make setup` installs all programs; labs are left out with \
                 `make test-unit`",
                wants.join(", and ")
            ))
        })
        .clone()
        .map_err(|e| anyhow!(e))
}

fn on_path(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}
