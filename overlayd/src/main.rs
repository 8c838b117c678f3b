//! overlayd
use clap::Parser;
fn main() -> std::process::ExitCode {
    let s = overlayd::config::Settings::parse();
    tracing_subscriber::fmt().with_env_filter(s.log_level.as_str()).with_writer(std::io::stderr).init();
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let r = rt.block_on(async { if s.cmd.as_deref() == Some("teardown") { overlayd::teardown::run(&s.socket).await } else { overlayd::shell::run(s).await } });
    match r { Ok(()) => std::process::ExitCode::SUCCESS, Err(e) => { eprintln!("overlayd: {e:#}"); std::process::ExitCode::FAILURE } }
}
