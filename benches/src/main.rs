//! Measures the service: `make bench` and `make bench-short` run it.
//!
//! For each operation, in turn and several times over: the least that its rows cost (floor), the function
//! of the database that does it (transition), and the request (HTTP). Figures are those of one machine at
//! one time; what counts is the ratio of two that were taken alternately in one run.

mod arguments;
mod bounds;
mod chart;
mod cluster;
mod compare;
mod figures;
mod growth;
mod load;
mod machine;
mod measure;
mod operations;
mod pgbench;
mod report;
mod results;
mod service;
mod statements;
mod table;
mod usage;

use std::process::ExitCode;

use crate::arguments::Arguments;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::read();
    // Dropping `run` stops the database and the services that it started, so Ctrl-C leaves none behind.
    let finished = tokio::select! {
        finished = run(&arguments) => finished,
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

async fn run(arguments: &Arguments) -> Result<()> {
    let (facts, results) = measure::all(arguments).await?;
    println!("{}", report::text(&facts, &results));
    if let Some(folder) = &arguments.report {
        report::write(folder, &facts, &results)?;
    }
    Ok(())
}
