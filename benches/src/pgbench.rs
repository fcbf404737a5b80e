//! Runs pgbench and reads its log of transactions.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
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
    /// The variables with their values. pgbench itself defines `:client_id`.
    pub(crate) variables: &'a [(&'static str, String)],
    pub(crate) clients: usize,
    pub(crate) length: Length,
    /// Whether each commit waits for the disk (`synchronous_commit`).
    pub(crate) flushed: bool,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Seconds(u64),
    /// The rounds of each client. CPU time is then read in nanoseconds, which itself costs some.
    Rounds(u64),
}

/// How often the CPU time of backends is read while they run.
const PERIOD: Duration = Duration::from_millis(2);

/// Repeats a script. Fails if any transaction failed.
pub(crate) async fn run(cluster: &Cluster, folder: &Path, run: &Run<'_>) -> Result<Figures> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let mut command = command(cluster, folder, run)?;
    let pid = cluster.pid()?;
    let started = Instant::now();
    let (errors, used) = match run.length {
        Length::Seconds(_) => {
            let before = usage::cpu_of_tree(pid)?;
            let output = command.output()?;
            let used = usage::cpu_of_tree(pid)? - before;
            (failure(output.status, &output.stderr), used)
        }
        Length::Rounds(_) => {
            let errors = folder.join("errors");
            let child = command.stdout(Stdio::null()).stderr(File::create(&errors)?).spawn()?;
            let (status, used) = watch(child, pid).await?;
            (failure(status, &fs::read(&errors)?), used)
        }
    };
    let elapsed = started.elapsed();
    if let Some(errors) = errors {
        return Err(format!("pgbench failed: {errors}\nwith this script:\n{}", run.script).into());
    }
    let rounds = read_logs(folder)?;
    let length = match run.length {
        Length::Seconds(seconds) => Duration::from_secs(seconds).min(elapsed),
        Length::Rounds(_) => elapsed,
    };
    let mut figures = Figures::of(&rounds, length)?;
    figures.database_ms = 1000.0 * used.as_secs_f64() / rounds.count() as f64;
    Ok(figures)
}

fn command(cluster: &Cluster, folder: &Path, run: &Run<'_>) -> Result<Command> {
    let script = folder.join("script.sql");
    fs::write(&script, run.script)?;
    let mut command = Command::new(cluster.binaries.dir().join("pgbench"));
    command
        .args(["--no-vacuum", "--protocol=prepared", "--log", "--log-prefix"])
        .arg(folder.join("log"))
        .args(["--client", &run.clients.to_string(), "--jobs", "1", "--file"])
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
    Ok(command)
}

/// Returns the errors of pgbench, if there are any.
fn failure(status: ExitStatus, errors: &[u8]) -> Option<String> {
    let errors = String::from_utf8_lossy(errors);
    let has_failed = !status.success() || errors.contains("ERROR") || errors.contains("aborted");
    has_failed.then(|| errors.into_owned())
}

/// Waits for pgbench, and adds up the CPU time of PostgreSQL's processes while they run, in nanoseconds. The
/// kernel reports that of ended processes only in hundredths of a second, too coarse for short runs.
async fn watch(mut pgbench: Child, postgres: u32) -> Result<(ExitStatus, Duration)> {
    let before = usage::nanoseconds_of_children(postgres)?;
    let mut seen = before.clone();
    loop {
        let status = pgbench.try_wait()?;
        seen.extend(usage::nanoseconds_of_children(postgres)?);
        if let Some(status) = status {
            let used = seen.iter().map(|(pid, now)| now - before.get(pid).unwrap_or(&0)).sum();
            return Ok((status, Duration::from_nanos(used)));
        }
        tokio::time::sleep(PERIOD).await;
    }
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
