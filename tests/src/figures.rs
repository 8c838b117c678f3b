//! Figures: how they are spread, and what machine they are of.

use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};

/// What measures and prints one table.
pub type Section = fn() -> Result<()>;

/// Runs the sections of a bench, one after the other: those that `ONLY` names,
/// or all but `asked_for`, which are to be named.
///
/// # Errors
/// If `ONLY` names another one, or a section fails.
pub fn run_sections(sections: &[(&str, Section)], asked_for: &[&str]) -> Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
    for name in &only {
        ensure!(names.contains(name), "ONLY={name} is none of {names:?}");
    }
    println!("{} at the start\n", machine()?);
    for (name, section) in sections {
        if only.contains(name) || only.is_empty() && !asked_for.contains(name) {
            let start = Instant::now();
            section().with_context(|| format!("section {name}"))?;
            println!("\n({name}: {:.0} s, {})\n", start.elapsed().as_secs_f64(), machine()?);
        }
    }
    Ok(())
}

/// Milliseconds from `from` to `to`; negative if `to` was earlier.
pub fn ms(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(after) => after.as_secs_f64() * 1e3,
        Err(before) => -before.duration().as_secs_f64() * 1e3,
    }
}

/// The figure below which `p` percent of `sorted` are, by nearest rank: p99 of
/// a hundred is the 99th.
///
/// # Panics
/// If there is none.
pub fn rank(sorted: &[f64], p: usize) -> f64 {
    sorted[(sorted.len() * p).div_ceil(100).max(1) - 1]
}

/// A row of a table in Markdown: name, p50, p99, smallest, largest.
pub fn spread(name: &str, mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let rank = |p| rank(&figures, p);
    format!(
        "| {name} | {:.1} | {:.1} | {:.1} | {:.1} |",
        rank(50),
        rank(99),
        figures[0],
        figures[figures.len() - 1]
    )
}

/// Median, smallest and largest: `12 (10..15)`.
pub fn median(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let last = figures[figures.len() - 1];
    let digits = if last < 10.0 { 2 } else { 1 };
    format!("{:.digits$} ({:.digits$}..{last:.digits$})", rank(&figures, 50), figures[0])
}

/// Kernel, cores and load, for the head of a table.
///
/// # Errors
/// If /proc is not there.
pub fn machine() -> Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or("?");
    Ok(format!("Linux {}, {cores} cores, load {load}", kernel.trim()))
}
