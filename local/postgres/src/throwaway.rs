//! Servers and databases for tests. Invariant: nothing is left of them after the test run, and every test
//! has a database of its own.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, Row,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgRow},
};
use tokio::sync::OnceCell;

use crate::{
    account::{Account, change_owner},
    binaries::Binaries,
    cluster::Durability,
    error::{Error, Named},
    folder::{create_own, hash, open_lock, random_hex, remove, write_private},
    process::{end_orphan, is_alive, server_on, variable},
    server::{Plan, Server},
    supervisor::Owner,
};

const PREFIX: &str = "agent-coordinator-test-";

/// A file system in memory, on Linux.
const MEMORY: &str = "/dev/shm";
const ENOUGH_KILOBYTES: u64 = 2 * 1024 * 1024;

/// Settings of a server whose data does not have to survive anything, not even a crash of the server.
const SHARED: &[&str] = &[
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=128MB",
    "max_connections=300",
    "dynamic_shared_memory_type=mmap",
];

/// Settings of a server that survives being killed, but not a crash of the machine. With `mmap` the shared
/// memory is in the server's folder, which is removed; a killed server would leave other kinds behind.
const PRIVATE: &[&str] = &["fsync=off", "max_connections=300", "dynamic_shared_memory_type=mmap"];

/// The variable that names the folder of running servers, which tests then use instead of starting a server:
/// one with an extension, or those of a Citus cluster. Each line of its file `address` is the connection
/// string of a database `postgres`: in a cluster first that of the coordinator, then those of the workers.
const CLUSTER: &str = "TEST_SERVERS";

/// The server shared by all tests of a run.
#[derive(Debug)]
pub struct Shared {
    folder: PathBuf,
    /// The connection string of the database `postgres`. With a Citus cluster there are several: first that
    /// of the coordinator, to which clients connect.
    urls: Vec<String>,
}

/// A database of one test. It is dropped some time after the value is, at the latest with the server.
#[derive(Debug)]
pub struct Database {
    /// The connection string, with the password.
    pub url: String,
    name: String,
}

/// Databases of tests that have ended. The next test that creates a database drops them, because a destructor
/// cannot wait for the database.
static FINISHED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Drop for Database {
    fn drop(&mut self) {
        let mut finished = FINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        finished.push(std::mem::take(&mut self.name));
    }
}

/// Returns the server of this test run. The first test starts it, and it stops when the run ends. One
/// `cargo test` or `cargo nextest run` is one run, however many processes it starts.
pub async fn server() -> Result<&'static Shared, Error> {
    static SERVER: OnceCell<Shared> = OnceCell::const_new();
    match variable(CLUSTER) {
        Some(folder) => SERVER.get_or_try_init(|| Shared::of_cluster(folder.into())).await,
        None => SERVER.get_or_try_init(|| Shared::of_run(run_pid())).await,
    }
}

/// Creates a database on the shared server, applies migrations and then runs a script.
pub async fn database(migrator: &Migrator, script: &str) -> Result<Database, Error> {
    server().await?.database(migrator, script).await
}

/// Applies migrations to a database and then runs a script, in a transaction.
#[expect(clippy::disallowed_methods, reason = "there is no schema here to check it against")]
pub async fn prepare(
    connection: &mut PgConnection,
    migrator: &Migrator,
    script: &str,
) -> Result<(), Error> {
    migrator.run_direct(None, connection, false).await?;
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// Starts a server for the caller alone, which can kill and restart it. Its database `postgres` is empty.
pub async fn private() -> Result<Server, Error> {
    start_own(PRIVATE).await
}

/// Starts a server for the caller alone, with the settings of the shared server: apart from checkpoints, only
/// the caller's statements change its pages and write to its log. Killing it would lose its data.
pub async fn quiet() -> Result<Server, Error> {
    start_own(SHARED).await
}

async fn start_own(settings: &'static [&'static str]) -> Result<Server, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{PREFIX}{}-{number}", std::process::id());
    let server_folder = ServerFolder::create(&name)?;
    let folder = server_folder.path.clone();
    remove_orphans().await;
    let started = match server_folder.plan(Owner::ThisProcess, settings) {
        Ok(plan) => Server::start_owned(plan).await,
        Err(error) => Err(error),
    };
    if started.is_err() {
        // The error of the start is the one to report. A later run removes what cannot be removed now.
        let _ = remove(&folder);
    }
    started
}

impl Shared {
    async fn of_cluster(folder: PathBuf) -> Result<Shared, Error> {
        let path = folder.join("address");
        let addresses = fs::read_to_string(&path).named("read", &path)?;
        Ok(Shared { folder, urls: addresses.lines().map(str::to_owned).collect() })
    }

    async fn of_run(pid: u32) -> Result<Shared, Error> {
        let server_folder = ServerFolder::create(&format!("{PREFIX}{pid}"))?;
        let folder = server_folder.path.clone();
        let _lock = lock(&folder).await?;

        let (address, data) = (folder.join("address"), folder.join("data"));
        if let Ok(url) = fs::read_to_string(&address)
            && server_on(&data).is_some()
        {
            return Ok(Shared { folder, urls: vec![url] });
        }
        remove_orphans().await;
        // Data here is that of an earlier run with the same process id, or of a server that failed.
        end_orphan(&data).await?;
        remove(&data)?;
        let plan = server_folder.plan(Owner::Process(pid), SHARED)?;
        let cluster = plan.prepare().await?;
        let (_supervisor, port) = plan.launch(&cluster, None).await?;
        let url = crate::server::url(port, &cluster.password, "postgres");
        write_private(&address, &url)?;
        change_owner(&address, plan.account)?;
        Ok(Shared { folder, urls: vec![url] })
    }

    /// Returns the connection string of a database. The database `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        url_of(&self.urls[0], database)
    }

    /// Creates a database, applies migrations and then runs a script.
    pub async fn database(&self, migrator: &Migrator, script: &str) -> Result<Database, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut admin = Admin::connect(&self.urls).await?;
        let template = self.template(migrator, script, &mut admin).await?;
        admin.drop_finished().await?;

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}_{}", std::process::id(), random_hex(3)?);
        // The default strategy, `wal_log`, takes twice as long when nothing is flushed to disk.
        admin.run(format!("create database {name} template {template} strategy file_copy")).await?;
        admin.close().await?;
        Ok(Database { url: self.url(&name), name })
    }

    /// Returns the name of the template with these migrations and this script. Creates it if it is missing.
    async fn template(
        &self,
        migrator: &Migrator,
        script: &str,
        admin: &mut Admin,
    ) -> Result<String, Error> {
        let name = template_name(migrator, script);
        if admin.has_template(&name).await? {
            return Ok(name);
        }
        let _lock = lock(&self.folder).await?;
        if admin.has_template(&name).await? {
            return Ok(name);
        }

        admin.run(format!("drop database if exists {name} with (force)")).await?;
        admin.run(format!("create database {name}")).await?;
        let mut connection = connect(&self.url(&name)).await?;
        if self.urls.len() > 1 {
            self.join_cluster(&name, &mut connection).await?;
        }
        prepare(&mut connection, migrator, script).await?;
        if self.urls.len() > 1 {
            run(&mut connection, "select distribute()").await?;
        }
        connection.close().await?;
        // A database with connections cannot be copied, so none are allowed from here on. The flag
        // `is_template` also marks the template as complete.
        admin
            .run(format!("alter database {name} allow_connections false is_template true"))
            .await?;
        // Ends the connections that Citus keeps between servers, and its background worker.
        admin
            .run(format!(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"
            ))
            .await?;
        Ok(name)
    }

    /// Joins the databases of one name into a Citus cluster. `coordinator` is a connection to the first.
    async fn join_cluster(&self, name: &str, coordinator: &mut PgConnection) -> Result<(), Error> {
        run(coordinator, "create extension citus").await?;
        let options = PgConnectOptions::from_str(&self.urls[0])?;
        let (host, port) = (options.get_host(), options.get_port());
        run(coordinator, &format!("select citus_set_coordinator_host('{host}', {port})")).await?;
        for url in &self.urls[1..] {
            let mut worker = connect(&url_of(url, name)).await?;
            run(&mut worker, "create extension citus").await?;
            worker.close().await?;
            let options = PgConnectOptions::from_str(url)?;
            let (host, port) = (options.get_host(), options.get_port());
            run(coordinator, &format!("select citus_add_node('{host}', {port})")).await?;
        }
        Ok(())
    }
}

fn url_of(url: &str, database: &str) -> String {
    url.replace("/postgres?", &format!("/{database}?"))
}

/// A connection to each server, to create and drop databases. This module makes all names, so they need no
/// quotes.
struct Admin(Vec<PgConnection>);

impl Admin {
    async fn connect(urls: &[String]) -> Result<Admin, Error> {
        let mut connections = Vec::new();
        for url in urls {
            connections.push(connect(url).await?);
        }
        Ok(Admin(connections))
    }

    async fn close(self) -> Result<(), Error> {
        for connection in self.0 {
            connection.close().await?;
        }
        Ok(())
    }

    /// Runs a statement on each server.
    async fn run(&mut self, statement: String) -> Result<(), Error> {
        for connection in &mut self.0 {
            run(connection, &statement).await?;
        }
        Ok(())
    }

    /// Returns the names of all databases, and whether each is a template.
    #[expect(clippy::disallowed_methods, reason = "there is no schema here to check it against")]
    async fn databases(&mut self) -> Result<Vec<(String, bool)>, Error> {
        let rows =
            self.0[0].fetch_all("select datname::text, datistemplate from pg_database").await?;
        let read = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect()
    }

    async fn has_template(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.databases().await?.iter().any(|(known, is_template)| known == name && *is_template))
    }

    /// Drops the databases of tests that have ended, and of processes that have.
    async fn drop_finished(&mut self) -> Result<(), Error> {
        let mut finished =
            std::mem::take(&mut *FINISHED.lock().unwrap_or_else(PoisonError::into_inner));
        let all = self.databases().await?.into_iter().map(|(name, _)| name);
        finished.extend(all.filter(|name| creator(name).is_some_and(|pid| !is_alive(pid))));
        for name in finished {
            // Fails if another process is dropping the database too. At the latest it goes with the server.
            let _ = self.run(format!("drop database if exists {name} with (force)")).await;
        }
        Ok(())
    }
}

/// A folder for a server, and the account that runs the server if this process runs as root.
struct ServerFolder {
    path: PathBuf,
    account: Option<Account>,
}

impl ServerFolder {
    /// Creates the folder of a name, if it is missing, on the fastest file system with enough room.
    fn create(name: &str) -> Result<ServerFolder, Error> {
        // A path that does not exist gives the default account, not the owner of the folder.
        let account = Account::choose(Path::new("/nonexistent"))?;
        let parents: Vec<PathBuf> = temporary_folders().collect();
        // An existing folder is reused, even if the file system has become too full for a new one.
        let parent = parents.iter().find(|parent| parent.join(name).exists()).or_else(|| {
            parents.iter().find(|parent| {
                let has_room = *parent != Path::new(MEMORY) || has_room(parent);
                has_room && account.is_none_or(|account| account.can_reach(parent))
            })
        });
        let missing =
            || Error::failed("create test data", "no folder for temporary files was found");
        let folder = parent.ok_or_else(missing)?.join(name);
        create_own(&folder)?;
        Ok(ServerFolder { path: folder, account })
    }

    fn plan(self, owner: Owner, settings: &'static [&'static str]) -> Result<Plan, Error> {
        Ok(Plan {
            folder: self.path,
            binaries: Binaries::installed()?,
            account: self.account,
            durability: Durability::Throwaway,
            owner,
            settings,
        })
    }
}

/// Returns the folders that can hold test data, fastest first. Memory comes first, because a database is
/// about 300 files, and a file system on disk can take ten times as long to create them.
fn temporary_folders() -> impl Iterator<Item = PathBuf> {
    let all = [MEMORY.into(), env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    all.into_iter().filter_map(|folder: PathBuf| folder.canonicalize().ok())
}

fn has_room(dir: &Path) -> bool {
    let Ok(output) = Command::new("df").arg("-Pk").arg(dir).output() else { return false };
    // The fields of the second line are: device, size, used, free, …
    let answer = String::from_utf8_lossy(&output.stdout);
    let free = answer.lines().nth(1).and_then(|line| line.split_whitespace().nth(3));
    free.and_then(|free| free.parse().ok()).is_some_and(|free: u64| free >= ENOUGH_KILOBYTES)
}

/// Returns the process id of the test run: that of cargo, which runs the test programs, or that of this
/// process if it was started by hand.
fn run_pid() -> u32 {
    if variable("CARGO").is_some() { parent_id() } else { std::process::id() }
}

/// Stops the servers and removes the folders of runs that ended without a cleanup.
async fn remove_orphans() {
    let entries = temporary_folders().filter_map(|folder| folder.read_dir().ok()).flatten();
    for entry in entries.flatten() {
        let is_stale = pid_of(&entry.file_name()).is_some_and(|pid| !is_alive(pid));
        if is_stale && end_orphan(&entry.path().join("data")).await.is_ok() {
            // Fails if the folder belongs to another user, or its supervisor is removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn pid_of(folder: &OsStr) -> Option<u32> {
    let rest = folder.to_str()?.strip_prefix(PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

/// Waits for the lock on what the tests of a run share.
async fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("shared-lock");
    let locked = tokio::task::spawn_blocking(move || {
        let file = open_lock(&path)?;
        file.lock().named("lock", &path)?;
        Ok(file)
    });
    locked.await.map_err(|error| Error::failed("wait for other tests", error))?
}

#[expect(clippy::disallowed_methods, reason = "a database name cannot be a parameter")]
async fn run(connection: &mut PgConnection, statement: &str) -> Result<(), Error> {
    connection.execute(AssertSqlSafe(statement.to_owned())).await?;
    Ok(())
}

async fn connect(url: &str) -> Result<PgConnection, Error> {
    Ok(PgConnection::connect_with(&PgConnectOptions::from_str(url)?).await?)
}

/// Returns the process id of the creator of a test database, from its name.
fn creator(database: &str) -> Option<u32> {
    database.strip_prefix("test_")?.split('_').next()?.parse().ok()
}

fn template_name(migrator: &Migrator, script: &str) -> String {
    let content = migrator.iter().flat_map(|migration| {
        migration.version.to_be_bytes().into_iter().chain(migration.checksum.iter().copied())
    });
    let content = content.chain(script.bytes());
    format!("template_{:016x}", hash(content))
}
