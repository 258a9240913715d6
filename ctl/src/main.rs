//! clusterctl: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use clusterctl::args::Arguments;
use clusterctl::{commands, exit};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&exit::Stop::unexpected(error)),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => exit::report(&stop),
    }
}
