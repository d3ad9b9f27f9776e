//! Kijabi, Kubernetes v1.36 in one binary. This crate is wiring: flags, certificates, start and stop.

mod access;
mod cli;
mod control_plane;
mod datastore;
mod demo;
mod demo_app;
mod host;
mod image;
mod instance;
mod node;
mod pki;
mod progress;
mod reload;
mod runtime_only;
mod status;
mod teardown;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The shim stays a process of one thread: it must not meet the runtime below.
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == "shim") {
        return runtime::shim::main(words);
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kijabi: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let log = match &command {
        Command::Up(up) => up.log.as_str(),
        Command::Runtime(options) => options.log.as_str(),
        _ => "error",
    };
    let filter = tracing_subscriber::EnvFilter::try_new(log)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // Libraries that speak TLS on their own (image pulls) use the cryptography we use.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider was installed before");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(dispatch(command));
    // Blocking work left behind (a read of standard input, say) must not hold up the end.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => up::run(&options).await?,
        Command::Runtime(options) => runtime_only::run(&options).await?,
        Command::Down(options) => teardown::run(&options, &progress::Progress::start()).await?,
        Command::Status(options) => return status::run(&options).await,
        Command::Check => return status::check(),
        Command::Image(options) => image::run(options).await?,
        Command::Demo(options) => demo::run(options).await?,
        Command::DemoApp => demo_app::run().await?,
        Command::Shim { .. } => unreachable!("handled before anything else"),
    }
    Ok(ExitCode::SUCCESS)
}
