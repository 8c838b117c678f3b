//! `make deb`: what is in the packages, and that systemd, bash and overlayd itself
//! take it. How they are installed, removed and upgraded on a real machine is told
//! by `make lab-test`, step `package`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::binaries::binaries;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/deb/build.sh");

/// Runs it and hands out what it printed; a failure comes with its words.
fn run(program: &str, args: &[&Path]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        // The same for every tree, or the day of the last commit would decide.
        .env("SOURCE_DATE_EPOCH", "1790000000")
        // Debug binaries are large.
        .env("DEB_COMPRESS", "none")
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let complained = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{program} {args:?}: {}\n{said}{complained}", out.status);
    Ok(said)
}

/// Packages of the binaries under test, unpacked: `DIR/overlayd/usr/bin/...`.
struct Packages {
    dir: tempfile::TempDir,
}

impl Packages {
    fn build() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let bin = binaries()?.overlayd.parent().context("a program is in a directory")?;
        run("bash", &[SCRIPT.as_ref(), bin, dir.path()])?;
        let packages = Self { dir };
        for name in ["overlayd", "overlayctl"] {
            run("dpkg-deb", &["-R".as_ref(), &packages.deb(name)?, &packages.unpacked(name)])?;
        }
        Ok(packages)
    }

    fn deb(&self, name: &str) -> Result<PathBuf> {
        for entry in std::fs::read_dir(self.dir.path())? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if file.starts_with(&format!("{name}_")) && file.ends_with(".deb") {
                return Ok(path);
            }
        }
        anyhow::bail!("there is no package {name}")
    }

    fn unpacked(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Mode, owner and path of everything in a package that is no directory.
    fn files(&self, name: &str) -> Result<BTreeSet<String>> {
        let listed = run("dpkg-deb", &["-c".as_ref(), &self.deb(name)?])?;
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[1], words[5])
        };
        Ok(listed.lines().filter(|l| !l.starts_with('d')).map(line).collect())
    }
}

#[test]
fn the_packages_hold_service_settings_drop_ins_pages_and_completions() -> Result<()> {
    let packages = Packages::build()?;
    let wanted = |paths: &[&str]| -> BTreeSet<String> {
        let mode = |path: &str| if path.contains("/bin/") { "-rwxr-xr-x" } else { "-rw-r--r--" };
        paths.iter().map(|path| format!("{} root/root .{path}", mode(path))).collect()
    };
    let there = packages.files("overlayd")?;
    let expected = wanted(&[
        "/etc/default/overlayd",
        "/etc/overlayd/overlayd.toml",
        "/lib/systemd/network/10-overlayd.network",
        "/lib/systemd/system/overlayd.service",
        "/usr/bin/overlayd",
        "/usr/lib/NetworkManager/conf.d/10-overlayd-unmanaged.conf",
        "/usr/share/doc/overlayd/changelog.gz",
        "/usr/share/doc/overlayd/copyright",
        "/usr/share/man/man8/overlayd.8.gz",
    ]);
    ensure!(there == expected, "overlayd holds {there:#?}");
    let conffiles =
        std::fs::read_to_string(packages.unpacked("overlayd").join("DEBIAN/conffiles"))?;
    ensure!(conffiles == "/etc/default/overlayd\n/etc/overlayd/overlayd.toml\n", "{conffiles}");

    let there = packages.files("overlayctl")?;
    for path in [
        "/usr/bin/overlayctl",
        "/usr/share/bash-completion/completions/overlayctl",
        "/usr/share/fish/vendor_completions.d/overlayctl.fish",
        "/usr/share/man/man1/overlayctl.1.gz",
        "/usr/share/man/man1/overlayctl-net-create.1.gz",
        "/usr/share/zsh/vendor-completions/_overlayctl",
    ] {
        ensure!(wanted(&[path]).is_subset(&there), "{path} is not in overlayctl: {there:#?}");
    }
    Ok(())
}

#[test]
fn the_same_tree_gives_the_same_bytes() -> Result<()> {
    let (one, two) = (Packages::build()?, Packages::build()?);
    for name in ["overlayd", "overlayctl"] {
        let same = std::fs::read(one.deb(name)?)? == std::fs::read(two.deb(name)?)?;
        ensure!(same, "{name} differs from one build to the next");
    }
    Ok(())
}

#[test]
fn systemd_and_shells_take_what_is_packed() -> Result<()> {
    let packages = Packages::build()?;
    let root = packages.unpacked("overlayd");
    // systemd wants to find the program that it starts: a unit that names it where it is now.
    let unit = std::fs::read_to_string(root.join("lib/systemd/system/overlayd.service"))?;
    let program = format!("ExecStart={}", root.join("usr/bin/overlayd").display());
    ensure!(unit.contains("ExecStart=/usr/bin/overlayd\n"), "{unit}");
    let moved = packages.dir.path().join("overlayd.service");
    std::fs::write(&moved, unit.replace("ExecStart=/usr/bin/overlayd", &program))?;
    run("systemd-analyze", &["verify".as_ref(), "--man=no".as_ref(), &moved])?;
    for script in ["postinst", "prerm", "postrm"] {
        run("sh", &["-n".as_ref(), &root.join("DEBIAN").join(script)])?;
    }
    let bash = "usr/share/bash-completion/completions/overlayctl";
    run("bash", &["-n".as_ref(), &packages.unpacked("overlayctl").join(bash)])?;
    Ok(())
}

#[test]
fn every_setting_that_is_shown_is_one_and_has_a_value_that_can_be_meant() -> Result<()> {
    let packages = Packages::build()?;
    let shown = packages.unpacked("overlayd").join("etc/overlayd/overlayd.toml");
    let shown = std::fs::read_to_string(shown)?;
    let overlayd = &binaries()?.overlayd;
    let key = packages.dir.path().join("key");
    std::fs::write(&key, run(&overlayd.to_string_lossy(), &["keygen".as_ref()])?)?;
    run("chmod", &["600".as_ref(), &key])?;
    // As somebody would who takes all the `#` away before a key.
    let settings: Vec<String> = shown
        .lines()
        .filter(|line| !line.starts_with("# ") && !line.is_empty())
        .map(|line| line.trim_start_matches('#').to_owned())
        .map(|line| line.replace("/etc/overlayd/key", &key.to_string_lossy()))
        .collect();
    ensure!(settings.len() >= 10, "{settings:?}");
    let file = packages.dir.path().join("all.toml");
    std::fs::write(&file, settings.join("\n"))?;
    let overlayd = overlayd.to_string_lossy();
    let said = run(&overlayd, &["check-config".as_ref(), "--config".as_ref(), &file])?;
    for setting in &settings {
        let key = setting.split(' ').next().unwrap_or_default();
        ensure!(said.contains(key), "{key} is not in force:\n{said}");
    }
    Ok(())
}
