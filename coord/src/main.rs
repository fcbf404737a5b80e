//! The program `coord`, the command line client of agent-coordinator.
use std::process::ExitCode;

fn main() -> ExitCode {
    coord::run(std::env::args_os())
}
