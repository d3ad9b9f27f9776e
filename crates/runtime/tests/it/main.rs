//! The runtime on a real kernel: pods, containers, streams, and what survives a killed runtime.
//!
//! The payload is Debian's static busybox in an image made here. Needs root, cgroups and overlayfs; without
//! them every test is skipped and says why. This binary is also the shim (`<binary> shim …`) and, for the
//! tests that kill it, the runtime (`<binary> serve <root>`), and a set-uid program (`<binary> euid`).

mod containers;
mod escapes;
mod figures;
mod place;
mod recovery;
mod streams;

use std::process::ExitCode;

/// Name and body; a body panics to fail.
type Test = (&'static str, fn());

const TESTS: &[&[Test]] = &[containers::TESTS, escapes::TESTS, recovery::TESTS, streams::TESTS];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|word| word.to_str()) {
        Some("shim") => return runtime::shim::main(args.skip(1)),
        // What a set-uid program becomes.
        Some("euid") => {
            println!("{}", rustix::process::geteuid().as_raw());
            return ExitCode::SUCCESS;
        }
        Some("serve") => return recovery::serve(args.nth(1).expect("a root to serve")),
        _ => {}
    }
    let words: Vec<String> = args.filter_map(|word| word.into_string().ok()).collect();
    if words.iter().any(|word| word == "--list") {
        for (name, _) in TESTS.iter().copied().flatten() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = place::missing() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    if words.iter().any(|word| word == "figures") {
        figures::print();
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        let mut filters = words.iter().filter(|word| !word.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    let mut failed = 0;
    for (name, test) in TESTS.iter().copied().flatten().filter(|(name, _)| wanted(name)) {
        let start = std::time::Instant::now();
        let result = std::panic::catch_unwind(test);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({} ms)", start.elapsed().as_millis());
        failed += usize::from(result.is_err());
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
