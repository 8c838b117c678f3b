//! The daemon's entry: settings, log, and which of its few things to do.
//!
//! Exit codes: 0 it ended as asked, 1 it could not start or could not do what
//! was asked, 2 a setting is wrong (flag, environment or file): trying again
//! without changing it is of no use.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use overlay_gossip::Key;
use overlayd::config::{Cli, Command, LogForm, Resolved, Settings};
use overlayd::key_file::KeyFile;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

/// Records, entries and their indices are millions of small allocations on
/// several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.command() == Command::Keygen {
        // Before there is a configuration, and whatever is wrong with one.
        return finish(keygen());
    }
    if cli.command() == Command::Man {
        return finish(man());
    }
    // Needs no settings: journals are read where they were not made.
    if let Command::Replay { file } = cli.command() {
        return finish(replay(&file));
    }
    let resolved = match overlayd::config::resolve(&cli.flags) {
        Ok(resolved) => resolved,
        Err(problems) => {
            for problem in problems.0 {
                eprintln!("overlayd: {problem}");
            }
            return ExitCode::from(2);
        }
    };
    match cli.command() {
        Command::CheckConfig => {
            print!("{}", resolved.to_toml());
            for warning in &resolved.warnings {
                eprintln!("overlayd: {warning}");
            }
            let keys = resolved.settings.key_file.as_deref().map(KeyFile::open).transpose();
            finish(keys.map(drop).map_err(Into::into))
        }
        Command::Keygen => finish(keygen()),
        Command::Man => finish(man()),
        Command::Teardown => finish(teardown(&resolved.settings)),
        Command::Replay { file } => finish(replay(&file)),
        Command::Run => {
            // The allocator asks for huge pages, of which an idle daemon would fill little.
            if let Err(err) = nix::sys::prctl::set_thp_disable(true) {
                eprintln!(
                    "overlayd: cannot do without huge pages: {err}; it will need more memory"
                );
            }
            raise_descriptors();
            finish(run(resolved))
        }
    }
}

/// Two descriptors a container, for names: more than the 1024 that many systems begin with.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(err) = raised {
        eprintln!("overlayd: cannot have more descriptors: {err}");
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // One line: what was attempted, then each cause that adds something.
            let mut text = err.to_string();
            for cause in err.chain().skip(1) {
                let cause = cause.to_string();
                if !text.contains(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            eprintln!("overlayd: {text}");
            ExitCode::FAILURE
        }
    }
}

fn keygen() -> anyhow::Result<()> {
    let key = Key::generate().context("the kernel gives no random bytes")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", key.to_text().as_str()).context("cannot write the key")?;
    out.flush().context("cannot write the key")
}

fn man() -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(<Cli as clap::CommandFactory>::command())
        .section("8")
        .render(&mut page)?;
    std::io::stdout().lock().write_all(&page).context("cannot write the page")
}

fn replay(file: &std::path::Path) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let done = overlayd::journal::replay(file, &mut out)?;
    std::io::Write::flush(&mut out)?;
    if done.cut > 0 {
        eprintln!("overlayd: {} lines of the journal were cut; replayed up to there", done.cut);
    }
    if done.differ > 0 {
        anyhow::bail!(
            "{} of {} steps had other effects than were recorded; is this the release that wrote \
             the journal?",
            done.differ,
            done.steps
        );
    }
    eprintln!("overlayd: {} steps, all with the effects that were recorded", done.steps);
    Ok(())
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    Ok(builder.worker_threads(threads).thread_name(name).enable_all().build()?)
}

fn teardown(settings: &Settings) -> anyhow::Result<()> {
    runtime("teardown", 1)?.block_on(overlayd::teardown::run(&settings.socket))
}

fn run(resolved: Resolved) -> anyhow::Result<()> {
    start_log(&resolved.settings)?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    // A thread for the engine; two for the kernel and the API, so that what the kernel tells is
    // read while more is written; one for gossip: nearly all that happens at rest is gossip, and
    // costs least where nothing goes from thread to thread.
    let (runtime, gossip) = (runtime("kernel", 2)?, runtime("gossip", 1)?);
    let result = runtime.block_on(overlayd::shell::run(resolved.settings, gossip.handle()));
    // A name server that does not answer must not hold the end up.
    gossip.shutdown_timeout(std::time::Duration::from_millis(100));
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    result
}

fn start_log(settings: &Settings) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_new(&settings.log_level)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log {
        LogForm::Json => log.json().init(),
        LogForm::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
