//! Inspects and signals other processes, through `/proc` and the shell: the standard library cannot, and three calls
//! are not worth a crate in every test. A zombie process counts as ended.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::error::Error;

/// How often a condition is polled. Short, because a person or a test is waiting.
const INTERVAL: Duration = Duration::from_millis(10);

/// The limit of [`eventually`].
const EVENTUALLY_LIMIT: Duration = Duration::from_secs(10);

/// For tests: waits until a condition holds. `what` completes "waited in vain for …".
///
/// # Panics
/// When the condition does not hold within 10 seconds.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !done().await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let held = tokio::time::timeout(EVENTUALLY_LIMIT, poll).await;
    assert!(held.is_ok(), "waited {} s in vain for {what}", EVENTUALLY_LIMIT.as_secs());
}

/// Waits until `done` returns true, or `limit` has passed. Returns whether `done` did.
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

/// Returns whether a process exists and has not ended.
pub fn is_alive(pid: u32) -> bool {
    if has_proc() {
        return fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !is_ended(&stat));
    }
    // `kill -0` also fails for a running process of another user, which `ps` finds.
    shell(r#"kill -0 "$1" || ps -p "$1""#, &[&pid.to_string()])
}

/// Sends a signal such as `INT`. Returns whether the process existed.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    shell(r#"kill -s "$1" "$2""#, &[name, &pid.to_string()])
}

/// Returns the process id of the server that runs on a data directory, from its `postmaster.pid`.
pub(crate) fn server_on(data: &Path) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    // A stale file: the system can have reused the process id for another program.
    let is_server = is_alive(pid) && command_line(pid)?.contains(data.to_str()?);
    is_server.then_some(pid)
}

/// Stops a server whose owner has ended. First waits two seconds: the supervisor of an owner that was just
/// killed stops the server itself.
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
        format!("process {pid} does not end; stop it with `kill -KILL {pid}`"),
    ))
}

/// Returns a variable of this process's environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "not part of the service's configuration")]
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

/// Returns whether `/proc/<pid>/stat` describes an ended process. The state is the letter after the name,
/// which is in parentheses and can contain any character.
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
    fn the_state_is_read_after_a_name_with_parentheses() {
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
