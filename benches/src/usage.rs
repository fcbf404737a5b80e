//! Reads CPU time and memory of processes from /proc. Linux only. By hand, because the crate `procfs` covers all of
//! /proc for the six fields that are read here.

use std::{collections::HashMap, fs, time::Duration};

use crate::Result;

/// The unit of CPU time in /proc: hundredths of a second, on every architecture (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

struct Stat {
    pid: u32,
    parent: u32,
    own: u64,
    /// The CPU time of children that have ended and were waited for.
    reaped: u64,
}

/// Returns the CPU time of a process.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = read(pid).ok_or_else(|| format!("process {pid} has ended"))?;
    Ok(TICK * u32::try_from(stat.own)?)
}

/// Returns the CPU time of a process and of all its descendants, including ended ones.
pub(crate) fn cpu_of_tree(root: u32) -> Result<Duration> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|it| it.parse().ok())
            && let Some(stat) = read(pid)
        {
            stats.insert(pid, stat);
        }
    }
    let belongs = |stat: &Stat| {
        let mut pid = stat.pid;
        while let Some(ancestor) = stats.get(&pid) {
            if ancestor.pid == root {
                return true;
            }
            pid = ancestor.parent;
        }
        false
    };
    let ticks: u64 = stats.values().filter(|it| belongs(it)).map(|it| it.own + it.reaped).sum();
    Ok(TICK * u32::try_from(ticks)?)
}

/// Returns the CPU time of each child of a process in nanoseconds, by process id.
pub(crate) fn nanoseconds_of_children(parent: u32) -> Result<HashMap<u32, u64>> {
    let mut children = String::new();
    for thread in fs::read_dir(format!("/proc/{parent}/task"))? {
        children += &fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
    }
    let time = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let pids = children.split_whitespace().filter_map(|it| it.parse().ok());
    Ok(pids.filter_map(|pid| Some((pid, time(pid)?))).collect())
}

/// Returns the resident memory of a process in megabytes.
pub(crate) fn memory(pid: u32) -> Result<f64> {
    megabytes(pid, "VmRSS:")
}

/// Returns the most resident memory that a process has had since [`reset_peak`], in megabytes.
pub(crate) fn peak_memory(pid: u32) -> Result<f64> {
    megabytes(pid, "VmHWM:")
}

/// Lets the peak of a process's memory begin anew, at what is resident now.
pub(crate) fn reset_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn megabytes(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|it| it.strip_prefix(field))
        .ok_or_else(|| format!("process {pid} has ended: no {field}"))?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// Returns the number of sockets of a process.
pub(crate) fn sockets(pid: u32) -> Result<usize> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let is_socket = |file: fs::DirEntry| {
        fs::read_link(file.path()).is_ok_and(|it| it.to_string_lossy().starts_with("socket:"))
    };
    // A file that was closed in between counts for nothing.
    Ok(files.flatten().map(is_socket).filter(|it| *it).count())
}

fn read(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and can contain any character.
    let rest = text.get(text.rfind(')')? + 2..)?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |n: usize| fields.get(n)?.trim().parse::<u64>().ok();
    Some(Stat {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory() {
        let own = std::process::id();
        assert!(memory(own).expect("memory") > 0.5);
        assert!(cpu_of_tree(own).expect("of the tree") >= cpu(own).expect("of the process"));
        assert!(cpu(u32::MAX).is_err());
    }

    #[test]
    fn a_peak_begins_anew() {
        let own = std::process::id();
        let large = vec![1u8; 64 << 20];
        assert!(peak_memory(own).expect("a peak") > 64.0, "{}", large.len());
        drop(large);
        reset_peak(own).expect("a reset");
        assert!(peak_memory(own).expect("a peak") < 64.0);
    }

    #[test]
    fn sockets_are_counted() {
        let own = std::process::id();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        assert!(sockets(own).expect("files") >= 1);
        drop(listener);
    }

    #[test]
    fn a_child_has_used_time_that_is_counted_finely() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("`cat` starts");
        let used = nanoseconds_of_children(std::process::id()).expect("children");
        assert!(used.contains_key(&child.id()), "{used:?}");
        drop(child.stdin.take());
        child.wait().expect("`cat` ends");
    }
}
