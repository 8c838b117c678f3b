//! A real podman on two hosts, whose network is `overlay-cni`: runc, CNI, and a root file
//! system of busybox alone.
//!
//! ```text
//!   host a 192.0.2.1 ── podman ── web       host b 192.0.2.2 ── podman ── client
//!   network demo of CNI, created by whichever container comes first
//! ```
//!
//! Podman holds published ports itself, so `portmap` leads there and not overlayd.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::binaries;
use overlay_tests::shell::{command_in, run};
use overlay_tests::talk::Outside;
use overlay_tests::{Host, Lab, eventually};
use serde_json::json;

/// Podman on one host, with all its files in the host's directory.
struct Podman {
    host: Host,
    dir: PathBuf,
}

impl Podman {
    fn on(host: &Host) -> Result<Self> {
        for program in ["podman", "runc", "busybox"] {
            run(&format!("which {program}")).with_context(|| {
                format!("this lab needs {program}: apt-get install podman runc busybox-static")
            })?;
        }
        let dir = host.dir().join("podman");
        for sub in ["net.d", "tmp", "storage", "run"] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        let plugins = binaries::plugin("overlay-cni")?;
        let plugins = plugins.parent().context("a program is in a directory")?;
        let file = |name: &str, text: String| std::fs::write(dir.join(name), text);
        let shown = dir.display();
        file(
            "containers.conf",
            format!(
                "[network]\nnetwork_backend = \"cni\"\n\
                 cni_plugin_dirs = [\"{}\", \"{}\"]\nnetwork_config_dir = \"{shown}/net.d\"\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
                 runtime = \"runc\"\ntmp_dir = \"{shown}/tmp\"\n\
                 [containers]\nlog_driver = \"k8s-file\"\n",
                plugins.display(),
                overlay_tests::cni::REFERENCE,
            ),
        )?;
        file(
            "storage.conf",
            format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = \"{shown}/storage\"\n\
                 runroot = \"{shown}/run\"\n"
            ),
        )?;
        let conflist = json!({
            "cniVersion": "0.4.0", "name": "demo", "plugins": [
                {
                    "type": "overlay-cni", "socket": host.socket(), "stateDir": host.dir().join("cni"),
                    "overlay": {"vni": 4097, "subnet": "10.9.0.0/24"},
                    "capabilities": {"ips": true, "mac": true, "aliases": true},
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        file("net.d/10-demo.conflist", conflist.to_string())?;
        Ok(Self { host: host.clone(), dir })
    }

    /// A root file system of its own, for `--rootfs`.
    fn rootfs(&self, name: &str) -> Result<String> {
        let root = self.dir.join(format!("root-{name}"));
        for sub in ["bin", "proc", "sys", "dev", "etc", "tmp", "run"] {
            std::fs::create_dir_all(root.join(sub))?;
        }
        let busybox = run("which busybox")?;
        std::fs::copy(busybox.trim(), root.join("bin/busybox"))?;
        for tool in ["sh", "tail", "ping", "nslookup", "nc", "echo", "cat"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool))?;
        }
        Ok(root.display().to_string())
    }

    fn command(&self) -> Command {
        let mut command = command_in(self.host.netns(), "podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"));
        command.args(["--cgroup-manager", "cgroupfs"]);
        command
    }

    fn podman(&self, args: &[&str]) -> Result<String> {
        let output = self.command().args(args).output().context("cannot start podman")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {}: {stderr}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `podman run` of `script` in the background.
    fn run(&self, name: &str, options: &[&str], script: &str) -> Result<()> {
        let root = self.rootfs(name)?;
        // The default limits may be more than what this machine allows.
        let files = "nofile=1024:1024";
        let mut args = vec!["run", "-d", "--name", name, "--ulimit", files, "--ulimit"];
        args.extend(["nproc=1024:1024", "--network", "demo"]);
        args.extend(options);
        args.extend(["--rootfs", &root, "/bin/sh", "-c", script]);
        self.podman(&args).map(drop)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "-a", "-f", "-t", "0"]);
        // What it keeps for itself below its directories would keep these.
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut ours: Vec<&str> = ours.filter(|at| Path::new(at).starts_with(&self.dir)).collect();
        ours.sort_by_key(|at| std::cmp::Reverse(at.len()));
        for at in ours {
            let _ = run(&format!("umount -l {at}"));
        }
    }
}

fn local(host: &Host) -> Result<Vec<v1::Endpoint>> {
    host.ctl_json(&["endpoints", "--local"])
}

fn only(host: &Host) -> Result<v1::Endpoint> {
    let mut all = local(host)?;
    ensure!(all.len() == 1, "{all:?}");
    all.pop().context("there is one")
}

#[test]
fn containers_of_two_podmans_find_and_reach_each_other() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let outside = Outside::new(lab)?;
        a.knows_all()?;
        b.knows_all()?;
        let (on_a, on_b) = (Podman::on(&a)?, Podman::on(&b)?);
        let options = ["--ip", "10.9.0.50", "--network-alias", "shop", "-p", "8080:80"];
        on_a.run("web", &options, "while :; do echo hello from web | nc -l -p 80; done")?;
        on_b.run("client", &[], "tail -f /dev/null")?;
        let web = only(&a)?;
        ensure!(web.ips[0].addr() == IpAddr::from([10, 9, 0, 50]), "{web:?}");
        let has = |name: &str| web.aliases.iter().any(|alias| alias == name);
        ensure!(has("web") && has("shop"), "{web:?}");
        for name in ["web", "shop", "web.demo.overlay.internal"] {
            eventually(&format!("{name} is answered and reached"), || {
                on_b.podman(&["exec", "client", "ping", "-c", "1", "-W", "2", name])
            })?;
        }
        // The port of portmap, from outside.
        let at = a.address();
        eventually("the published port answers", || {
            let said = command_in(outside.netns(), "busybox")
                .args(["nc", "-w", "2", &at.to_string(), "8080"])
                .output()?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            ensure!(said.contains("hello from web"), "{said}");
            Ok(())
        })?;
        // Out of the network and back, in the namespace that it had.
        let before = only(&b)?;
        on_b.podman(&["network", "disconnect", "demo", "client"])?;
        ensure!(local(&b)?.is_empty(), "{:?}", local(&b)?);
        on_b.podman(&["network", "connect", "demo", "client"])?;
        ensure!(only(&b)?.id != before.id);
        eventually("web is reached again", || {
            on_b.podman(&["exec", "client", "ping", "-c", "1", "-W", "2", "web"])
        })?;
        on_b.podman(&["rm", "-f", "-t", "0", "client"])?;
        on_a.podman(&["rm", "-f", "-t", "0", "web"])?;
        ensure!(local(&a)?.is_empty() && local(&b)?.is_empty());
        Ok(())
    })
}

#[test]
fn a_container_that_is_removed_while_the_daemon_is_down_is_gone_when_it_is_back() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let podman = Podman::on(&a)?;
        podman.run("web", &[], "tail -f /dev/null")?;
        only(&a)?;
        a.stop()?;
        podman.podman(&["rm", "-f", "-t", "0", "web"])?;
        a.start()?;
        podman.run("next", &[], "tail -f /dev/null")?;
        let left = only(&a)?;
        ensure!(left.aliases.iter().any(|alias| alias == "next"), "{left:?}");
        Ok(())
    })
}
