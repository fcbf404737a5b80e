//! `coord`, the command line client of agent-coordinator. Everything it does is in the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    coord::run(std::env::args_os())
}
