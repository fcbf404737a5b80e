//! A running server: starting it, connecting to it, ending it.

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
    account::{Account, Handover, give},
    binaries::Binaries,
    cluster::{self, Cluster, Worth},
    error::{Error, Named},
    folder::{accessible_to, open_lock, private_file, remove},
    process::{end_orphan, server_on, signal},
    supervisor::{Owner, Supervisor},
};

const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// What a server says when it cannot start for a reason that passes: another program took the
/// port between our look and its start, or its predecessor is not quite gone.
const PASSING: [&str; 4] = [
    "could not bind IPv4 address",
    "could not create any TCP/IP sockets",
    "lock file \"postmaster.pid\" already exists",
    "is still in use",
];

/// A PostgreSQL server that this process owns. It ends with [`Server::stop`], when the value is
/// dropped, and when the process ends in whatever way.
#[derive(Debug)]
pub struct Server {
    plan: Plan,
    cluster: Cluster,
    port: u16,
    supervisor: Option<Supervisor>,
    /// Held so that no second process starts a server on the same data.
    _lock: File,
}

/// How a server is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where everything is kept that belongs to the server.
    pub(crate) folder: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Option<Account>,
    pub(crate) worth: Worth,
    pub(crate) owner: Owner,
    /// `name=value`, as on the server's command line.
    pub(crate) settings: &'static [&'static str],
}

impl Server {
    /// Starts a server whose data is kept in `folder` between runs; a first start makes it.
    /// Answers when the server does.
    pub async fn start(folder: &Path, binaries: &Binaries) -> Result<Server, Error> {
        let account = Account::choose(&folder.join("data"))?;
        let folder = accessible_to(account, folder)?;
        let plan = Plan {
            folder,
            binaries: binaries.clone(),
            account,
            worth: Worth::Kept,
            owner: Owner::ThisProcess,
            settings: &[],
        };
        Server::owned(plan).await
    }

    pub(crate) async fn owned(plan: Plan) -> Result<Server, Error> {
        let lock = take(&plan.folder, plan.account)?;
        let cluster = plan.prepare().await?;
        let (supervisor, port) = plan.launch(&cluster, None).await?;
        Ok(Server { plan, cluster, port, supervisor: Some(supervisor), _lock: lock })
    }

    /// The address of one of the server's databases. `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        url(self.port, &self.cluster.password, database)
    }

    /// Where the server keeps its data, its log and its password.
    pub fn folder(&self) -> &Path {
        &self.plan.folder
    }

    /// The process id of the server, if it runs.
    pub fn pid(&self) -> Option<u32> {
        server_on(&self.cluster.data)
    }

    /// Kills the server as a crash would, and waits until it is gone. For tests of such crashes.
    pub async fn kill(&mut self) -> Result<(), Error> {
        if let Some(pid) = self.pid() {
            signal(pid, "KILL");
        }
        let Some(supervisor) = &mut self.supervisor else { return Ok(()) };
        if supervisor.ended(Duration::from_secs(10)).await {
            return Ok(());
        }
        Err(Error::failed("kill PostgreSQL", "it does not end"))
    }

    /// Starts the server anew on the same port and data, ending it first if it still runs.
    pub async fn restart(&mut self) -> Result<(), Error> {
        if let Some(mut supervisor) = self.supervisor.take()
            && !supervisor.has_ended()
        {
            // Through the server and not the supervisor, which would take the data with it.
            if let Some(pid) = self.pid() {
                signal(pid, "INT");
            }
            supervisor.ended(Duration::from_secs(15)).await;
        }
        let (supervisor, _) = self.plan.launch(&self.cluster, Some(self.port)).await?;
        self.supervisor = Some(supervisor);
        Ok(())
    }

    /// Ends the server and waits until it is gone.
    pub async fn stop(mut self) {
        let Some(supervisor) = self.supervisor.take() else { return };
        supervisor.stop().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The supervisor is dropped, and thereby ends the server, before the lock is given back.
        self.supervisor = None;
        if self.plan.worth == Worth::Nothing {
            // The supervisor removes it too, but it is not there when the server was killed.
            let _ = remove(&self.plan.folder);
        }
    }
}

/// Throws away everything that [`Server::start`] keeps in `folder`.
pub async fn erase(folder: &Path) -> Result<(), Error> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let _lock = take(&folder, None)?;
    end_orphan(&folder.join("data")).await?;
    for dir in ["data", "data.unfinished"] {
        remove(&folder.join(dir))?;
    }
    Ok(())
}

impl Plan {
    /// Makes the data ready, which may take a second and must not hold up other tasks.
    pub(crate) async fn prepare(&self) -> Result<Cluster, Error> {
        end_orphan(&self.folder.join("data")).await?;
        let plan = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            cluster::prepare(&plan.folder, &plan.binaries, plan.account, plan.worth)
        });
        made.await.map_err(|error| Error::failed("make a database", error))?
    }

    /// Starts the server and waits until it answers.
    pub(crate) async fn launch(
        &self,
        cluster: &Cluster,
        port: Option<u16>,
    ) -> Result<(Supervisor, u16), Error> {
        if let Some(account) = self.account
            && !account.can_reach(self.binaries.dir())
        {
            let details = format!(
                "root lets another user run it, who cannot get to {}",
                self.binaries.dir().display()
            );
            return Err(Error::failed("start PostgreSQL", details));
        }

        let deadline = Instant::now() + START_LIMIT;
        loop {
            let port = port.map_or_else(free_port, Ok)?;
            let log_path = self.folder.join("postgres.log");
            let log = private_file(&log_path)?;
            give(&log_path, self.account)?;
            let mut supervisor = self.spawn(cluster, port, &log)?;

            let url = url(port, &cluster.password, "postgres");
            let answers = answers(&url, &mut supervisor, deadline).await;
            if answers {
                return Ok((supervisor, port));
            }
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let passes = PASSING.iter().any(|reason| log.contains(reason));
            if !passes || Instant::now() >= deadline {
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
            // A socket's path may be too long for the system, and nobody needs one.
            "unix_socket_directories=",
            "logging_collector=off",
            "log_destination=stderr",
            "lc_messages=C",
        ];
        for setting in fixed.iter().chain(self.settings) {
            server.extend(["-c".into(), (*setting).into()]);
        }

        let remove = (self.worth == Worth::Nothing).then_some(self.folder.as_path());
        Supervisor::start(server, &Handover::choose(self.account), self.owner, remove, log)
    }
}

/// Waits until a connection can be made; `false` if the server ends or takes too long.
async fn answers(url: &str, supervisor: &mut Supervisor, deadline: Instant) -> bool {
    while Instant::now() < deadline && !supervisor.has_ended() {
        // Whoever else may have got the port does not know the password.
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
    // Asking whether the server speaks TLS, which this one does not, is a round trip.
    format!("postgresql://postgres:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// Takes the right to a folder for as long as the answer is held.
fn take(folder: &Path, account: Option<Account>) -> Result<File, Error> {
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
    give(&path, account)?;
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
