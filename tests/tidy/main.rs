//! Rules of the tree that no compiler checks.
//!
//! | rule | why |
//! |---|---|
//! | who may depend on whom | the engine stays a function of its input; netlink and engine meet in the model only |
//! | only `tests/fuzz` opens the doors for fuzzing | what hostile bytes meet stays private |
//! | no clock, no randomness in engine and model | time comes in as an argument, so that a test can say when it is |
//! | `unsafe` only in overlay-netlink, each with its `SAFETY:` | one place to review |
//! | a fixed top level | a newcomer reads it as a table of contents |
//! | every source file says at its top what it is | the first question of a reader |
//! | no test switched off, no sleep in a lab, no forgotten test file | a test that does not run, or waits blindly, proves nothing |
//!
//! Each test prints every place that breaks its rule, not the first only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that bring a runtime, a socket or a clock.
const IMPURE: [&str; 12] = [
    "tokio",
    "mio",
    "rtnetlink",
    "netlink-packet-core",
    "netlink-packet-route",
    "netlink-proto",
    "netlink-sys",
    "chitchat",
    "axum",
    "hyper",
    "nix",
    "socket2",
];

/// Package, and what it must not depend on, directly or through others.
fn forbidden() -> BTreeMap<&'static str, Vec<&'static str>> {
    let ours =
        ["overlay-gossip", "overlay-engine", "overlay-netlink", "overlay-dns", "overlay-api"];
    let but = |own: &str| ours.into_iter().filter(|p| *p != own).collect::<Vec<_>>();
    BTreeMap::from([
        ("overlay-model", [ours.as_slice(), &IMPURE].concat()),
        ("overlay-engine", [but("overlay-engine").as_slice(), &IMPURE].concat()),
        ("overlay-netlink", but("overlay-netlink")),
        ("overlay-gossip", but("overlay-gossip")),
        ("overlay-dns", but("overlay-dns")),
        ("overlay-api", but("overlay-api")),
        ("overlay-cni", [but("overlay-api").as_slice(), &["overlayd", "overlayctl"]].concat()),
        ("overlayctl", vec!["overlay-engine", "overlay-netlink", "overlay-gossip", "overlayd"]),
        ("overlay-tests", vec!["overlay-engine", "overlay-netlink", "overlay-gossip", "overlayd"]),
    ])
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// Every file of the project, by its path from the top: what git would commit.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut files = match listed {
        Ok(out) if out.status.success() => {
            String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
        }
        // An unpacked archive.
        _ => walk(&root(), ""),
    };
    files.retain(|f: &String| root().join(f).is_file());
    assert!(files.len() > 20, "this is not the project: {files:?}");
    files
}

fn walk(dir: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a readable tree").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if ["target", ".git", ".lab"].contains(&path.as_str()) {
            continue;
        }
        if entry.path().is_dir() {
            found.extend(walk(&entry.path(), &format!("{path}/")));
        } else {
            found.push(path);
        }
    }
    found
}

/// (path, text) of each file that `wanted` accepts and that is text.
fn texts(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|f| wanted(f))
        .filter_map(|f| Some((f.clone(), std::fs::read_to_string(root().join(&f)).ok()?)))
        .collect()
}

fn rust() -> Vec<(String, String)> {
    texts(|f| f.ends_with(".rs"))
}

#[track_caller]
fn none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}; broken here:\n  {}\n", broken.join("\n  "));
}

/// The line without its comment; good enough for rules, not a parser.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

#[test]
fn dependencies_point_down_only() {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo prints JSON");
    let names: BTreeMap<&str, &str> =
        array(&metadata["packages"]).map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    // What a package is built with; what only its tests need is its own affair.
    let needs: BTreeMap<&str, Vec<&str>> = array(&metadata["resolve"]["nodes"])
        .map(|node| {
            let deps = array(&node["deps"])
                .filter(|d| array(&d["dep_kinds"]).any(|k| k["kind"].is_null()))
                .map(|d| text(&d["pkg"]))
                .collect();
            (text(&node["id"]), deps)
        })
        .collect();

    let mut broken = Vec::new();
    for (package, forbidden) in forbidden() {
        let id = names.iter().find(|(_, n)| **n == package).map(|(id, _)| *id);
        let id = id.unwrap_or_else(|| panic!("there is no package {package}"));
        // Breadth first, remembering the way, so that the message can show it.
        let mut ways = vec![vec![id]];
        let mut seen = BTreeSet::from([id]);
        while let Some(way) = ways.pop() {
            for next in &needs[way[way.len() - 1]] {
                if !seen.insert(next) {
                    continue;
                }
                let way = [way.as_slice(), &[*next]].concat();
                if forbidden.contains(&names[next]) {
                    let steps: Vec<&str> = way.iter().map(|id| names[id]).collect();
                    broken.push(steps.join(" -> "));
                }
                ways.push(way);
            }
        }
    }
    none("dependencies point down only (DESIGN, packages)", broken);
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("cargo metadata has it").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has it")
}

#[test]
fn engine_and_model_have_no_clock_and_no_randomness() {
    let mut broken = Vec::new();
    let pure = ["crates/overlay-engine/src/", "crates/overlay-model/src/"];
    for (file, text) in rust().iter().filter(|(f, _)| pure.iter().any(|p| f.starts_with(p))) {
        for (n, line) in text.lines().enumerate() {
            for word in
                ["Instant::now", "SystemTime::now", "Utc::now", "new_v4", "rand::", "RandomState"]
            {
                if code(line).contains(word) {
                    broken.push(format!("{file}:{}: {}", n + 1, line.trim()));
                }
            }
        }
    }
    none("time and randomness come in as arguments", broken);
}

#[test]
fn unsafe_stands_in_overlay_netlink_only_and_says_why_it_is_safe() {
    // Put together here, or this file would be its own finding.
    let word = ["un", "safe"].concat();
    let begins = |line: &str| {
        let code = code(line);
        ["{", "fn", "impl", "extern", "trait"]
            .iter()
            .any(|next| code.contains(&format!("{word} {next}")))
            || code.trim_end().ends_with(&word)
    };
    let mut broken = Vec::new();
    for (file, text) in rust() {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let place = format!("{file}:{}: {}", n + 1, line.trim());
            if code(line).contains(&format!("allow({word}_code)"))
                && !file.starts_with("crates/overlay-netlink/")
            {
                broken.push(place);
                continue;
            }
            if !begins(line) {
                continue;
            }
            let argued = lines[..n].iter().rev().take(12).take_while(|l| {
                let l = l.trim_start();
                l.starts_with("//") || l.starts_with('#') || !l.ends_with(';')
            });
            let argued = argued.chain([line]).any(|l| l.contains("SAFETY:"));
            if !file.starts_with("crates/overlay-netlink/") || !argued {
                broken.push(place);
            }
        }
    }
    none("unsafe code is in overlay-netlink only, each with a SAFETY: comment above it", broken);
}

#[test]
fn the_top_level_stays_a_table_of_contents() {
    const ENTRIES: [&str; 12] = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "Makefile",
        "LICENSE",
        "overlayd",
        "overlayctl",
        "crates",
        "deploy",
        "vagrant",
        "tests",
        "docs",
    ];
    let top: BTreeSet<String> = files()
        .iter()
        .filter_map(|f| f.split('/').next())
        .filter(|entry| !entry.starts_with('.') && !ENTRIES.contains(entry))
        .map(str::to_owned)
        .collect();
    none(
        "tool configuration uses dot names, everything else has its place",
        top.into_iter().collect(),
    );
}

#[test]
fn nothing_refers_to_where_it_was_written() {
    let places = [["../", "shared"].concat(), ["/wo", "rk/"].concat()];
    let mut broken = Vec::new();
    for (file, text) in texts(|f| f != "Cargo.lock") {
        for (n, line) in text.lines().enumerate() {
            // A URL may well have such a path.
            if places.iter().any(|p| line.contains(p.as_str())) && !line.contains("://") {
                broken.push(format!("{file}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none("a checkout stands alone, wherever it is", broken);
}

#[test]
fn every_source_file_says_at_its_top_what_it_is() {
    let unfinished = ["Not written yet", "Being written"];
    let broken = rust()
        .into_iter()
        // A child module with the tests of its parent: the parent says it.
        .filter(|(file, _)| !file.ends_with("/tests.rs"))
        .filter(|(_, text)| {
            let first = text.lines().find(|l| !l.starts_with("#!")).unwrap_or("");
            !first.starts_with("//! ") || unfinished.iter().any(|u| first.contains(u))
        })
        .map(|(file, _)| file)
        .collect();
    none("a file begins with `//!` and what it is", broken);
}

#[test]
fn only_the_fuzzing_package_opens_the_doors_for_it() {
    let broken = texts(|f| f.ends_with("Cargo.toml"))
        .into_iter()
        .filter(|(file, text)| match file.as_str() {
            // Who has the doors, and who goes through them.
            "crates/overlay-gossip/Cargo.toml" => !text.contains("fuzzing = []"),
            "tests/fuzz/Cargo.toml" => false,
            _ => text.contains("fuzzing") || text.contains("overlay-fuzz"),
        })
        .map(|(file, _)| file)
        .collect();
    none("the feature `fuzzing` is for tests/fuzz, and nothing is built on that", broken);
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    let broken = texts(|f| f.ends_with("/Cargo.toml"))
        .into_iter()
        .filter(|(_, text)| !text.contains("[lints]\nworkspace = true"))
        .map(|(file, _)| file)
        .collect();
    none("each Cargo.toml has `[lints] workspace = true`", broken);
}

#[test]
fn no_test_is_switched_off_or_forgotten() {
    let ignore = ["#[ig", "nore"].concat();
    let mut broken: Vec<String> = rust()
        .into_iter()
        .filter(|(_, text)| text.contains(&ignore))
        .map(|(file, _)| format!("{file}: an ignored test"))
        .collect();
    let manifest = std::fs::read_to_string(root().join("tests/Cargo.toml")).expect("it is there");
    for file in files() {
        let Some(path) = file.strip_prefix("tests/") else { continue };
        // tests/sim and tests/fuzz are packages of their own, whose tests cargo finds.
        let elsewhere = ["src/", "sim/", "fuzz/"].iter().any(|dir| path.starts_with(dir));
        let is_target = path.ends_with(".rs") && !elsewhere;
        if is_target && !manifest.contains(&format!("path = \"{path}\"")) {
            broken.push(format!("{file}: not named in tests/Cargo.toml"));
        }
    }
    none("every test runs", broken);
}

#[test]
fn labs_wait_for_something_and_never_for_a_while() {
    let mut broken = Vec::new();
    for (file, text) in rust().iter().filter(|(f, _)| f.starts_with("tests/lab/")) {
        for (n, line) in text.lines().enumerate() {
            if code(line).contains("sleep") {
                broken.push(format!("{file}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none("a lab waits with `eventually`", broken);
}
