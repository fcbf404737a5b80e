//! Runs a server under a supervisor, a small shell script that shares nothing with the owner but
//! a pipe or a process id. The invariant: when the owner is gone, so is the server, because the
//! system closes the pipe and ends the process id whatever the owner died of.

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

/// Whose end is the end of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This process, or the value that holds the supervisor if that goes first.
    ThisProcess,
    /// Another process; the server outlives this one.
    Process(u32),
}

/// The owner's hold on a supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    /// Closing it, which the system does for a dead owner, is the sign to end.
    lifeline: Option<ChildStdin>,
    owner: Owner,
}

impl Supervisor {
    /// Starts the command under a supervisor; all output goes to the log.
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
            // Nobody is left to wait for an orderly end.
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
            // Ctrl-C in the terminal is for the owner, who may still need the server to end well.
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

    /// Has the server ended? Its supervisor ends right after it.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the server has ended by itself, within limits.
    pub(crate) async fn ended(&mut self, limit: Duration) -> bool {
        until(limit, || self.has_ended()).await
    }

    /// Ends the server and waits for that.
    pub(crate) async fn stop(mut self) {
        self.lifeline = None;
        // The script itself gives the server ten seconds before it uses force.
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
