//! Starts and stops a server.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    account::{Account, Handover, change_owner},
    binaries::Binaries,
    cluster::{self, Cluster, Durability},
    error::{Error, Named},
    folder::{accessible_to, open_lock, private_file, remove},
    process::{end_orphan, server_on, signal},
    supervisor::{Owner, Supervisor},
};

const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Log messages of failures to start that a retry can overcome: another program took the port between its
/// choice and the start (a race), or the previous server has not quite ended.
const TRANSIENT: [&str; 4] = [
    "could not bind IPv4 address",
    "could not create any TCP/IP sockets",
    "lock file \"postmaster.pid\" already exists",
    "is still in use",
];

/// A PostgreSQL server that this process owns. The server stops at [`Server::stop`], when the value is
/// dropped, and when the process ends in any way.
#[derive(Debug)]
pub struct Server {
    plan: Plan,
    cluster: Cluster,
    port: u16,
    supervisor: Option<Supervisor>,
    /// An exclusive lock, held so that no other process starts a server on the same data.
    _lock: File,
}

/// How to run a server.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The folder of the data directory, the log and the password.
    pub(crate) folder: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Option<Account>,
    pub(crate) durability: Durability,
    pub(crate) owner: Owner,
    /// `name=value`, as on the server's command line.
    pub(crate) settings: &'static [&'static str],
}

impl Server {
    /// Starts a server with its data in `folder`, which is kept between runs and created at the first start.
    /// Returns when the server accepts connections.
    pub async fn start(folder: &Path, binaries: &Binaries) -> Result<Server, Error> {
        let account = Account::choose(&folder.join("data"))?;
        let folder = accessible_to(account, folder)?;
        let plan = Plan {
            folder,
            binaries: binaries.clone(),
            account,
            durability: Durability::Kept,
            owner: Owner::ThisProcess,
            settings: &[],
        };
        Server::start_owned(plan).await
    }

    pub(crate) async fn start_owned(plan: Plan) -> Result<Server, Error> {
        let lock = acquire_lock(&plan.folder, plan.account)?;
        let cluster = plan.prepare().await?;
        let (supervisor, port) = plan.launch(&cluster, None).await?;
        Ok(Server { plan, cluster, port, supervisor: Some(supervisor), _lock: lock })
    }

    /// Returns the connection string of a database. The database `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        url(self.port, &self.cluster.password, database)
    }

    /// Returns the folder of the server's data, log and password.
    pub fn folder(&self) -> &Path {
        &self.plan.folder
    }

    /// Returns the process id of the server, if it is running.
    pub fn pid(&self) -> Option<u32> {
        server_on(&self.cluster.data)
    }

    /// Kills the server with SIGKILL, and waits until it has ended. For tests of crashes.
    pub async fn kill(&mut self) -> Result<(), Error> {
        if let Some(pid) = self.pid() {
            signal(pid, "KILL");
        }
        let Some(supervisor) = &mut self.supervisor else { return Ok(()) };
        if supervisor.ended(Duration::from_secs(10)).await {
            return Ok(());
        }
        Err(Error::failed("kill PostgreSQL", "the process does not end"))
    }

    /// Restarts the server on the same port and data. Stops it first if it is still running.
    pub async fn restart(&mut self) -> Result<(), Error> {
        if let Some(mut supervisor) = self.supervisor.take()
            && !supervisor.has_ended()
        {
            // Signals the server, not the supervisor, which would also remove throwaway data.
            if let Some(pid) = self.pid() {
                signal(pid, "INT");
            }
            supervisor.ended(Duration::from_secs(15)).await;
        }
        let (supervisor, _) = self.plan.launch(&self.cluster, Some(self.port)).await?;
        self.supervisor = Some(supervisor);
        Ok(())
    }

    /// Stops the server and waits until it has ended.
    pub async fn stop(mut self) {
        let Some(supervisor) = self.supervisor.take() else { return };
        supervisor.stop().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Drops the supervisor, which stops the server, before the lock is released.
        self.supervisor = None;
        if self.plan.durability == Durability::Throwaway {
            // The supervisor removes the folder too, unless it ended because the server was killed.
            let _ = remove(&self.plan.folder);
        }
    }
}

/// Erases all data that [`Server::start`] keeps in `folder`.
pub async fn erase(folder: &Path) -> Result<(), Error> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let _lock = acquire_lock(&folder, None)?;
    end_orphan(&folder.join("data")).await?;
    for dir in ["data", "data.unfinished"] {
        remove(&folder.join(dir))?;
    }
    Ok(())
}

impl Plan {
    /// Creates the data directory if necessary. Runs on a blocking thread: `initdb` takes about a second.
    pub(crate) async fn prepare(&self) -> Result<Cluster, Error> {
        end_orphan(&self.folder.join("data")).await?;
        let plan = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            cluster::prepare(&plan.folder, &plan.binaries, plan.account, plan.durability)
        });
        made.await.map_err(|error| Error::failed("create a database cluster", error))?
    }

    /// Starts the server and waits until it accepts connections.
    pub(crate) async fn launch(
        &self,
        cluster: &Cluster,
        port: Option<u16>,
    ) -> Result<(Supervisor, u16), Error> {
        if let Some(account) = self.account
            && !account.can_reach(self.binaries.dir())
        {
            let details = format!(
                "as root, PostgreSQL runs as another account, which cannot reach {}",
                self.binaries.dir().display()
            );
            return Err(Error::failed("start PostgreSQL", details));
        }

        let deadline = Instant::now() + START_LIMIT;
        loop {
            let port = port.map_or_else(free_port, Ok)?;
            let log_path = self.folder.join("postgres.log");
            let log = private_file(&log_path)?;
            change_owner(&log_path, self.account)?;
            let mut supervisor = self.spawn(cluster, port, &log)?;

            let url = url(port, &cluster.password, "postgres");
            if wait_until_reachable(&url, &mut supervisor, deadline).await {
                return Ok((supervisor, port));
            }
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let is_transient = TRANSIENT.iter().any(|reason| log.contains(reason));
            if !is_transient || Instant::now() >= deadline {
                return Err(Error::failed("start PostgreSQL", last_lines(&log, &log_path)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn spawn(&self, cluster: &Cluster, port: u16, log: &File) -> Result<Supervisor, Error> {
        let mut server: Vec<OsString> = vec![self.binaries.program("postgres").into()];
        server.extend(["-D".into(), cluster.data.clone().into()]);
        server.extend(["-p".into(), port.to_string().into()]);
        let fixed = [
            "listen_addresses=127.0.0.1",
            // No Unix socket: its path can exceed the system's limit of about 100 bytes.
            "unix_socket_directories=",
            "logging_collector=off",
            "log_destination=stderr",
            "lc_messages=C",
        ];
        for setting in fixed.iter().chain(self.settings) {
            server.extend(["-c".into(), (*setting).into()]);
        }

        let remove = (self.durability == Durability::Throwaway).then_some(self.folder.as_path());
        Supervisor::start(server, &Handover::choose(self.account), self.owner, remove, log)
    }
}

/// Waits until a connection succeeds. Returns `false` if the server ends or the deadline passes.
async fn wait_until_reachable(url: &str, supervisor: &mut Supervisor, deadline: Instant) -> bool {
    while Instant::now() < deadline && !supervisor.has_ended() {
        // Another program on the same port would not accept the password.
        if can_connect(url).await {
            return true;
        }
        tokio::time::sleep(POLL).await;
    }
    false
}

async fn can_connect(url: &str) -> bool {
    let Ok(options) = PgConnectOptions::from_str(url) else { return false };
    let attempt =
        tokio::time::timeout(Duration::from_secs(2), PgConnection::connect_with(&options));
    let Ok(Ok(connection)) = attempt.await else { return false };
    connection.close().await.is_ok()
}

pub(crate) fn url(port: u16, password: &str, database: &str) -> String {
    // The server does not support TLS. Asking for it (`SSLRequest`) would cost a round trip.
    format!("postgresql://postgres:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// Locks a folder for as long as the returned file is open.
fn acquire_lock(folder: &Path, account: Option<Account>) -> Result<File, Error> {
    let path = folder.join("lock");
    let mut lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).named("read", &path)?;
            return Err(Error::AlreadyRunning { lock: path, pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(error).named("lock", &path),
    }
    change_owner(&path, account)?;
    lock.set_len(0).named("write", &path)?;
    lock.seek(SeekFrom::Start(0)).named("write", &path)?;
    writeln!(lock, "{}", std::process::id()).named("write", &path)?;
    Ok(lock)
}

fn free_port() -> Result<u16, Error> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| Error::failed("find a free port", error))
}

fn last_lines(log: &str, path: &Path) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(10);
    format!("the end of {}:\n{}", path.display(), lines[from..].join("\n"))
}
