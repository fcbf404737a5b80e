//! Facts about the machine and the run.

use std::{fs, path::Path, process::Command};

use crate::{
    Result,
    arguments::Arguments,
    cluster::{Cluster, SETTINGS},
};

/// The facts of a run, by name.
pub(crate) type Facts = Vec<(&'static str, String)>;

/// Reads the facts about the machine and the run for the report.
pub(crate) async fn facts(cluster: &Cluster, arguments: &Arguments) -> Result<Facts> {
    let settings: Vec<_> =
        SETTINGS.iter().map(|(name, value)| format!("`{name} = {value}`")).collect();
    Ok(vec![
        ("Date", cluster.text("postgres", "select to_char(now(), 'YYYY-MM-DD')").await?),
        ("Commit", commit()?),
        ("Command", format!("`{}`", command(std::env::args().skip(1)))),
        ("Processor", processor()?),
        ("Memory", format!("{:.0} GB", total_memory()?)),
        ("Kernel", format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim())),
        (
            "PostgreSQL",
            format!(
                "{}, {}, otherwise defaults",
                cluster.text("postgres", "select current_setting('server_version')").await?,
                settings.join(", ")
            ),
        ),
        (
            "Measurements",
            format!(
                "{} of {} s for each row of the table of rates",
                arguments.repetitions, arguments.seconds
            ),
        ),
    ])
}

/// Returns the command line without the folders of this machine.
fn command(words: impl Iterator<Item = String>) -> String {
    let mut text = "bench".to_owned();
    for word in words {
        let (name, path) = word.split_once('=').map_or(("", word.as_str()), |it| it);
        let path = Path::new(path);
        let shown = match path.file_name().and_then(|it| it.to_str()) {
            Some(file) if path.is_absolute() && name.is_empty() => file.to_owned(),
            Some(file) if path.is_absolute() => format!("{name}={file}"),
            _ => word.clone(),
        };
        text += &if shown.contains(' ') { format!(" '{shown}'") } else { format!(" {shown}") };
    }
    text
}

/// Returns the commit, and whether the sources differ from it.
fn commit() -> Result<String> {
    let git = |words: &[&str]| Command::new("git").args(words).output();
    let known = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "src", "migrations", "benches", "Cargo.lock"])?;
    let commit = String::from_utf8(known.stdout)?.trim().to_owned();
    Ok(match (known.status.success(), changes.stdout.is_empty()) {
        (false, _) => "unknown".to_owned(),
        (true, true) => commit,
        (true, false) => format!("{commit} with changes"),
    })
}

fn processor() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let model = text
        .lines()
        .find_map(|it| it.strip_prefix("model name")?.split_once(": ").map(|it| it.1))
        .unwrap_or("unknown");
    Ok(format!("{model}, {} cores", std::thread::available_parallelism()?))
}

/// Returns the memory of the machine in gigabytes.
fn total_memory() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|it| it.strip_prefix("MemTotal:"))
        .ok_or("/proc/meminfo has no MemTotal")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_without_folders_of_this_machine() {
        let words = ["--report", "docs", "--compare", "release one=/opt/old/run", "/opt/run"];
        assert_eq!(
            command(words.into_iter().map(str::to_owned)),
            "bench --report docs --compare 'release one=run' run"
        );
    }
}
