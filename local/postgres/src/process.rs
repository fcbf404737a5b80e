//! Looks at other processes and signals them, through `/proc` and the shell: the standard library
//! offers neither. A process that has ended but was not yet collected counts as gone.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::error::Error;

/// How often a condition is looked at. Short, because a person or a test waits for it.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `done` says so, but no longer than `limit`; tells whether it did.
pub async fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Is there such a process, and has it not ended yet?
pub fn is_alive(pid: u32) -> bool {
    if has_proc() {
        return fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !is_ended(&stat));
    }
    // `kill -0` also fails for a living process of another user; `ps` sees that one.
    shell(r#"kill -0 "$1" || ps -p "$1""#, &[&pid.to_string()])
}

/// Sends a signal, like `INT`; tells whether there was a process to send it to.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    shell(r#"kill -s "$1" "$2""#, &[name, &pid.to_string()])
}

/// The living server on that data, if there is one, by the file that every server leaves there.
pub(crate) fn server_on(data: &Path) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    // The number may have gone to another process since.
    let is_server = is_alive(pid) && command_line(pid)?.contains(data.to_str()?);
    is_server.then_some(pid)
}

/// Ends a server whose owner is gone. It is given the time to end by itself first, as it does
/// when its owner was killed a moment ago.
pub(crate) async fn end_orphan(data: &Path) -> Result<(), Error> {
    let Some(pid) = server_on(data) else { return Ok(()) };
    let steps = [(None, 2), (Some("INT"), 10), (Some("QUIT"), 5)];
    for (name, seconds) in steps {
        if let Some(name) = name {
            signal(pid, name);
        }
        if until(Duration::from_secs(seconds), || server_on(data) != Some(pid)).await {
            return Ok(());
        }
    }
    Err(Error::failed(
        format!("stop the PostgreSQL server left on {}", data.display()),
        format!("process {pid} does not end; end it by hand"),
    ))
}

/// A variable of this process's environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this package has no part in the configuration")]
    std::env::var_os(name)?.into_string().ok()
}

fn command_line(pid: u32) -> Option<String> {
    if has_proc() {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&words).replace('\0', " "));
    }
    let output =
        Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn has_proc() -> bool {
    Path::new("/proc/self/stat").exists()
}

/// The state is the letter after the name, which is in brackets and may hold any character.
fn is_ended(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    state.starts_with(['Z', 'X'])
}

fn shell(script: &str, arguments: &[&str]) -> bool {
    Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_behind_a_name_with_brackets() {
        assert!(is_ended("12 (a) S (b) Z 1 1"));
        assert!(!is_ended("12 (Z) X) S 1 1"));
    }

    #[test]
    fn this_process_is_alive_and_an_ended_child_is_not() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();

        assert!(is_alive(std::process::id()));
        assert!(!is_alive(pid));
    }
}
