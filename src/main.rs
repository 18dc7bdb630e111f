//! The thin binary: argument vector in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(oardocker::cli::run(std::env::args_os().skip(1).collect()))
}
