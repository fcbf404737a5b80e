//! Runs pgbench and reads its log of single transactions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Result,
    cluster::Cluster,
    figures::{Figures, Rounds},
    usage,
};

/// One run of pgbench.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) database: &'a str,
    pub(crate) script: &'a str,
    /// Variables with their texts; `:client_id` is there without.
    pub(crate) variables: &'a [(&'static str, String)],
    pub(crate) clients: usize,
    pub(crate) length: Length,
    /// Whether each commit waits for the disk.
    pub(crate) flushed: bool,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Seconds(u64),
    /// So many rounds of each client.
    Rounds(u64),
}

/// Runs a script over and over. Fails when any transaction failed.
pub(crate) fn run(cluster: &Cluster, folder: &Path, run: &Run<'_>) -> Result<Figures> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let script = folder.join("script.sql");
    fs::write(&script, run.script)?;
    let mut command = Command::new(cluster.binaries.dir().join("pgbench"));
    command
        .args(["--no-vacuum", "--protocol=prepared", "--log", "--log-prefix"])
        .arg(folder.join("log"))
        .args(["--client", &run.clients.to_string(), "--jobs", "1"])
        .arg("--file")
        .arg(&script);
    match run.length {
        Length::Seconds(seconds) => command.args(["--time", &seconds.to_string()]),
        Length::Rounds(rounds) => command.args(["--transactions", &rounds.to_string()]),
    };
    for (name, value) in run.variables {
        command.args(["--define", &format!("{name}={value}")]);
    }
    if !run.flushed {
        command.env("PGOPTIONS", "-c synchronous_commit=off");
    }
    command.arg(cluster.url(run.database));

    let before = usage::cpu_of_tree(cluster.pid()?)?;
    let started = Instant::now();
    let output = command.output()?;
    let elapsed = started.elapsed();
    let after = usage::cpu_of_tree(cluster.pid()?)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || errors.contains("ERROR") || errors.contains("aborted") {
        return Err(format!("pgbench failed: {errors}\nwith this script:\n{}", run.script).into());
    }
    let rounds = read_logs(folder)?;
    let length = match run.length {
        Length::Seconds(seconds) => Duration::from_secs(seconds).min(elapsed),
        Length::Rounds(_) => elapsed,
    };
    let mut figures = Figures::of(&rounds, length)?;
    figures.database_ms = 1000.0 * (after - before).as_secs_f64() / rounds.count() as f64;
    Ok(figures)
}

/// Reads `client transaction microseconds script seconds microseconds` from each line.
fn read_logs(folder: &Path) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    let logs: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|it| Ok(it?.path()))
        .filter(|it: &Result<_>| {
            it.as_ref().is_ok_and(|it| it.extension().is_some_and(|it| it != "sql"))
        })
        .collect::<Result<_>>()?;
    for log in logs {
        for line in fs::read_to_string(&log)?.lines() {
            let mut fields = line.split(' ').map(str::parse::<u64>).skip(2);
            let (Some(Ok(took)), _, Some(Ok(seconds)), Some(Ok(micros))) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err(format!("pgbench logged a failure: {line}").into());
            };
            let ended = Duration::from_secs(seconds) + Duration::from_micros(micros);
            rounds.push(ended, Duration::from_micros(took));
        }
    }
    Ok(rounds)
}
