//! Measures the service: `make bench` and `make bench-short` run it. `bench hostile` (`make hostile`)
//! attacks it, and `bench soak` (`make soak`) looks for what grows.
//!
//! For each operation, in turn and repeatedly: the least that its rows cost (floor), its database function
//! (transition), and its request (HTTP). Figures depend on the machine and the moment, so compare only ratios
//! of figures that were measured alternately in one run.

mod agent;
mod arguments;
mod bounds;
mod chart;
mod cluster;
mod compare;
mod figures;
mod growth;
mod hostile;
mod load;
mod machine;
mod measure;
mod operations;
mod pgbench;
mod report;
mod results;
mod service;
mod soak;
mod statements;
mod table;
mod usage;

use std::process::ExitCode;

use crate::arguments::{Arguments, Command};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Command::read();
    // Dropping `run` stops the database and the services that it started, so Ctrl-C leaves none behind.
    let finished = tokio::select! {
        finished = run(&command) => finished,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    match finished {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: &Command) -> Result<()> {
    match command {
        Command::Measure(arguments) => measure(arguments).await,
        Command::Hostile(arguments) => hostile::run(arguments).await,
        Command::Soak(arguments) => soak::run(arguments).await,
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let (facts, results) = measure::run(arguments).await?;
    println!("{}", report::text(&facts, &results));
    if let Some(folder) = &arguments.report {
        report::write(folder, &facts, &results)?;
    }
    Ok(())
}
