//! Measures the service: `make bench` and `make bench-short` run it.
//!
//! For each operation, in turn and repeatedly: the least that its rows cost (floor), its database function
//! (transition), and its request (HTTP). Figures depend on the machine and the moment, so compare only ratios
//! of figures that were measured alternately in one run.

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
    let (facts, results) = measure::run(arguments).await?;
    println!("{}", report::text(&facts, &results));
    if let Some(folder) = &arguments.report {
        report::write(folder, &facts, &results)?;
    }
    Ok(())
}
