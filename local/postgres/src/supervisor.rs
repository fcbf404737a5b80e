//! Runs a server under a supervisor: a small shell script that shares only a pipe or a process id with the
//! owner. Invariant: the server stops when the owner ends, because the kernel closes the pipe and removes
//! the process id of every process that ends, even after SIGKILL.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use crate::{
    account::Handover,
    error::{Error, Named},
    process::until,
};

const SCRIPT: &str = include_str!("supervise.sh");

/// The process that the server must not outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This process. The server also stops when the `Supervisor` is dropped.
    ThisProcess,
    /// Another process. The server can outlive this process.
    Process(u32),
}

/// A running supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    /// The pipe that tells the supervisor to stop the server: closed here, or by the kernel when this
    /// process ends.
    lifeline: Option<ChildStdin>,
    owner: Owner,
}

impl Supervisor {
    /// Starts a command under a supervisor. All output goes to the log.
    pub(crate) fn start(
        server: impl IntoIterator<Item = OsString>,
        handover: &Handover,
        owner: Owner,
        remove: Option<&Path>,
        log: &File,
    ) -> Result<Supervisor, Error> {
        let shell = Path::new("/bin/sh");
        let (watched, signal, input) = match owner {
            Owner::ThisProcess => (String::new(), "INT", Stdio::piped()),
            // An immediate shutdown: the owner has ended, and nothing waits for a clean one.
            Owner::Process(pid) => (pid.to_string(), "QUIT", Stdio::null()),
        };
        let mut command = Command::new(shell);
        command
            .args(["-c", SCRIPT, "supervise"])
            .arg(remove.map_or(OsStr::new(""), Path::as_os_str))
            .args([watched.as_str(), signal])
            .args(&handover.words)
            .args(server)
            .env("LC_ALL", "C")
            .current_dir("/")
            // A process group of its own: Ctrl-C in the terminal signals only the owner, which needs the
            // server for its own shutdown.
            .process_group(0)
            .stdin(input)
            .stdout(log.try_clone().named("use", Path::new("the log"))?)
            .stderr(log.try_clone().named("use", Path::new("the log"))?);
        if let Some(account) = handover.supervisor {
            account.run_as(&mut command);
        }

        let mut child = command.spawn().named("run", shell)?;
        let lifeline = child.stdin.take();
        Ok(Supervisor { child, lifeline, owner })
    }

    /// Returns whether the server has ended. Its supervisor ends right after it.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the server has ended, or `limit` has passed. Returns whether the server has ended.
    pub(crate) async fn ended(&mut self, limit: Duration) -> bool {
        until(limit, || self.has_ended()).await
    }

    /// Stops the server and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        self.lifeline = None;
        // The script sends SIGQUIT after ten seconds.
        self.ended(Duration::from_secs(15)).await;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.owner == Owner::ThisProcess {
            self.lifeline = None;
            let _ = self.child.wait();
        }
    }
}
