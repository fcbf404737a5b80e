//! Starts the service for a measurement. Invariant: the service stops when its `Service` is dropped.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
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
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(program)
            .env("POSTGRES_DSN", dsn)
            .env("DATABASE_URL", dsn)
            .env("API_HOST", "127.0.0.1")
            .env("API_PORT", port.to_string())
            .env("COORDINATION_API_KEYS", KEY)
            .env("API_GATHER", gathers.to_string())
            .envs(quotas())
            .env("RUST_LOG", "warn")
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
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
