//! Starts the service for a measurement. Invariant: the service stops when its `Service` is dropped.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{Result, load};

/// The API key of the requests.
pub(crate) const KEY: &str = "bench-key-of-one-run";

/// Quotas that no measurement reaches.
fn quotas() -> impl Iterator<Item = (String, &'static str)> {
    let kinds = ["LOCKS", "SESSIONS", "TASKS", "MEMORIES", "HANDOFFS"];
    kinds.into_iter().flat_map(|kind| {
        ["AGENT", "WORKSPACE"].map(|per| (format!("QUOTA_{kind}_PER_{per}"), "100000000"))
    })
}

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    pub(crate) port: u16,
}

impl Service {
    /// Starts the service and waits until `path` is answered with 200.
    pub(crate) async fn start(
        program: &Path,
        dsn: &str,
        gathers: bool,
        path: &str,
    ) -> Result<Service> {
        let port = free_port()?;
        Service::start_with(program, dsn, port, &[("API_GATHER", &gathers.to_string())], path).await
    }

    /// Starts the service on a port and with further variables, and waits until `path` is answered with 200.
    pub(crate) async fn start_with(
        program: &Path,
        dsn: &str,
        port: u16,
        variables: &[(&str, &str)],
        path: &str,
    ) -> Result<Service> {
        let child = Command::new(program)
            .env("POSTGRES_DSN", dsn)
            .env("DATABASE_URL", dsn)
            .env("API_HOST", "127.0.0.1")
            .env("API_PORT", port.to_string())
            .env("COORDINATION_API_KEYS", KEY)
            .envs(quotas())
            .env("RUST_LOG", "warn")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut service = Service { child, port };
        for _ in 0..300 {
            if load::is_answered(port, path).await {
                return Ok(service);
            }
            if let Some(status) = service.child.try_wait()? {
                return Err(format!("{} ended: {status}", program.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("{} did not answer {path} with 200 within 15 s", program.display()).into())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the process has ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks the process to stop, as a platform does, and waits until it has ended.
    pub(crate) async fn terminate(mut self) -> Result<()> {
        let pid = self.pid().to_string();
        if !Command::new("kill").args(["-TERM", &pid]).status()?.success() {
            return Err(format!("process {pid} cannot be signalled").into());
        }
        for _ in 0..600 {
            if let Some(status) = self.ended()? {
                let problem = || format!("the service stopped with {status} after SIGTERM").into();
                return status.success().then_some(()).ok_or_else(problem);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the service did not stop within 30 s after SIGTERM".into())
    }
}

/// Returns a port on which nothing listens.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
