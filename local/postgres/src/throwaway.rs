//! Servers and databases for tests. The invariant: nothing of them is left when the test run is
//! over, and no test can see another test's database.

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
    account::{Account, give},
    binaries::Binaries,
    cluster::Worth,
    error::{Error, Named},
    folder::{hash, make_own, open_lock, random_hex, remove, write_private},
    process::{end_orphan, is_alive, server_on, variable},
    server::{Plan, Server},
    supervisor::Owner,
};

const PREFIX: &str = "agent-coordinator-test-";

/// A file system in memory, on Linux.
const MEMORY: &str = "/dev/shm";
const ENOUGH_KILOBYTES: u64 = 2 * 1024 * 1024;

/// Nothing of it has to survive, not even a crash of the server.
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

/// The server may be killed, the machine may not. What a killed server leaves in shared memory
/// nobody would remove, so it keeps that in its folder.
const PRIVATE: &[&str] = &["fsync=off", "max_connections=300", "dynamic_shared_memory_type=mmap"];

/// Names the folder of a running Citus cluster, which tests then use instead of a server that they start.
/// Its file `address` has the address of the coordinator's database `postgres`, then those of the workers,
/// one to a line.
const CLUSTER: &str = "CITUS_CLUSTER";

/// The server that all tests of one run share.
#[derive(Debug)]
pub struct Shared {
    folder: PathBuf,
    /// The address of the database `postgres`, with another name put in for the others. The servers of a
    /// Citus cluster: first the coordinator, which is the one that clients connect to.
    urls: Vec<String>,
}

/// A database of one test's own. It goes some time after the value does, or with the server.
#[derive(Debug)]
pub struct Database {
    /// Its address, password included.
    pub url: String,
    name: String,
}

/// Databases whose tests are over; the next test to make one drops them. A drop takes a few
/// milliseconds, which nobody should spend while their own test is being timed out.
static FINISHED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Drop for Database {
    fn drop(&mut self) {
        let mut finished = FINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        finished.push(std::mem::take(&mut self.name));
    }
}

/// The server of this test run, started by whichever test comes first and ended when the run is
/// over. One `cargo test` or `cargo nextest run` is one run, however many processes it starts.
pub async fn server() -> Result<&'static Shared, Error> {
    static SERVER: OnceCell<Shared> = OnceCell::const_new();
    match variable(CLUSTER) {
        Some(folder) => SERVER.get_or_try_init(|| Shared::cluster(folder.into())).await,
        None => SERVER.get_or_try_init(|| Shared::of_run(run_pid())).await,
    }
}

/// A new database of the shared server with these migrations applied, and then this script run.
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

/// A server of the caller's own, which it may kill and restart. Its database `postgres` is empty.
pub async fn private() -> Result<Server, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{PREFIX}{}-{number}", std::process::id());
    let place = Place::named(&name)?;
    let folder = place.folder.clone();
    sweep().await;
    let started = match place.plan(Owner::ThisProcess, PRIVATE) {
        Ok(plan) => Server::owned(plan).await,
        Err(error) => Err(error),
    };
    if started.is_err() {
        // The error is the one to tell, and what cannot be removed now goes with a later run.
        let _ = remove(&folder);
    }
    started
}

impl Shared {
    async fn cluster(folder: PathBuf) -> Result<Shared, Error> {
        let path = folder.join("address");
        let addresses = fs::read_to_string(&path).named("read", &path)?;
        Ok(Shared { folder, urls: addresses.lines().map(str::to_owned).collect() })
    }

    async fn of_run(pid: u32) -> Result<Shared, Error> {
        let place = Place::named(&format!("{PREFIX}{pid}"))?;
        let folder = place.folder.clone();
        let _lock = lock(&folder).await?;

        let (address, data) = (folder.join("address"), folder.join("data"));
        if let Ok(url) = fs::read_to_string(&address)
            && server_on(&data).is_some()
        {
            return Ok(Shared { folder, urls: vec![url] });
        }
        sweep().await;
        // It would be that of an earlier run with the same number, or of a server that failed.
        end_orphan(&data).await?;
        remove(&data)?;
        let plan = place.plan(Owner::Process(pid), SHARED)?;
        let cluster = plan.prepare().await?;
        let (_supervisor, port) = plan.launch(&cluster, None).await?;
        let url = crate::server::url(port, &cluster.password, "postgres");
        write_private(&address, &url)?;
        give(&address, plan.account)?;
        Ok(Shared { folder, urls: vec![url] })
    }

    /// The address of one of the server's databases. `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        url_of(&self.urls[0], database)
    }

    /// A new database with these migrations applied, and then this script run.
    pub async fn database(&self, migrator: &Migrator, script: &str) -> Result<Database, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut admin = Admin::connect(&self.urls).await?;
        let template = self.template(migrator, script, &mut admin).await?;
        admin.drop_finished().await?;

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}_{}", std::process::id(), random_hex(3)?);
        // Copying in the log instead takes twice as long when nothing is synchronised to a disk.
        admin.run(format!("create database {name} template {template} strategy file_copy")).await?;
        admin.close().await?;
        Ok(Database { url: self.url(&name), name })
    }

    /// The name of the database that has just these migrations and this script, made if it is missing.
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
            self.join(&name, &mut connection).await?;
        }
        prepare(&mut connection, migrator, script).await?;
        if self.urls.len() > 1 {
            run(&mut connection, "select distribute()").await?;
        }
        connection.close().await?;
        // A database with a connection cannot be copied, so there shall never be one again. It
        // is also what says that the template is complete.
        admin
            .run(format!("alter database {name} allow_connections false is_template true"))
            .await?;
        // Citus keeps connections between the servers, and a background worker in each database.
        admin
            .run(format!(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"
            ))
            .await?;
        Ok(name)
    }

    /// Makes the databases of this name one Citus cluster. `coordinator` is a connection to the first of them.
    async fn join(&self, name: &str, coordinator: &mut PgConnection) -> Result<(), Error> {
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

/// A connection to each server, which makes and drops databases. Their names are ours and need no quotes.
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

    /// The names of all databases and whether they are templates.
    #[expect(clippy::disallowed_methods, reason = "there is no schema here to check it against")]
    async fn databases(&mut self) -> Result<Vec<(String, bool)>, Error> {
        let rows =
            self.0[0].fetch_all("select datname::text, datistemplate from pg_database").await?;
        let read = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect()
    }

    async fn has_template(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.databases().await?.iter().any(|(known, sealed)| known == name && *sealed))
    }

    /// Drops the databases of tests that are over, in this process or in one that has ended.
    async fn drop_finished(&mut self) -> Result<(), Error> {
        let mut finished =
            std::mem::take(&mut *FINISHED.lock().unwrap_or_else(PoisonError::into_inner));
        let all = self.databases().await?.into_iter().map(|(name, _)| name);
        finished.extend(all.filter(|name| creator(name).is_some_and(|pid| !is_alive(pid))));
        for name in finished {
            // Another process may be dropping it too; if it stays, it goes with the server.
            let _ = self.run(format!("drop database if exists {name} with (force)")).await;
        }
        Ok(())
    }
}

/// A folder for a server and the account that root lets it run as.
struct Place {
    folder: PathBuf,
    account: Option<Account>,
}

impl Place {
    /// The folder of that name, made if it is missing.
    fn named(name: &str) -> Result<Place, Error> {
        // Asked before the folder is there, so that it is the usual account and not the folder's.
        let account = Account::choose(Path::new("/nonexistent"))?;
        let all: Vec<PathBuf> = places().collect();
        // What is there goes first: less may be free now than when it was made.
        let place = all.iter().find(|place| place.join(name).exists()).or_else(|| {
            all.iter().find(|place| {
                let is_roomy = *place != Path::new(MEMORY) || has_room(place);
                is_roomy && account.is_none_or(|account| account.can_reach(place))
            })
        });
        let missing = || Error::failed("keep test data", "there is no folder for temporary files");
        let folder = place.ok_or_else(missing)?.join(name);
        make_own(&folder)?;
        Ok(Place { folder, account })
    }

    fn plan(self, owner: Owner, settings: &'static [&'static str]) -> Result<Plan, Error> {
        Ok(Plan {
            folder: self.folder,
            binaries: Binaries::installed()?,
            account: self.account,
            worth: Worth::Nothing,
            owner,
            settings,
        })
    }
}

/// Where test data may be kept. In memory if there is enough of it: a new database is three
/// hundred new files, for which a file system on a disk may take ten times as long.
fn places() -> impl Iterator<Item = PathBuf> {
    let all = [MEMORY.into(), env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    all.into_iter().filter_map(|place: PathBuf| place.canonicalize().ok())
}

fn has_room(dir: &Path) -> bool {
    let Ok(output) = Command::new("df").arg("-Pk").arg(dir).output() else { return false };
    // The second line is: device, size, used, free, …
    let answer = String::from_utf8_lossy(&output.stdout);
    let free = answer.lines().nth(1).and_then(|line| line.split_whitespace().nth(3));
    free.and_then(|free| free.parse().ok()).is_some_and(|free: u64| free >= ENOUGH_KILOBYTES)
}

/// The process whose end is the end of the test run: the one that runs the test programs, or
/// this one if it was started by hand.
fn run_pid() -> u32 {
    if variable("CARGO").is_some() { parent_id() } else { std::process::id() }
}

/// Removes what runs have left behind whose end nobody saw.
async fn sweep() {
    let entries = places().filter_map(|place| place.read_dir().ok()).flatten();
    for entry in entries.flatten() {
        let is_stale = pid_of(&entry.file_name()).is_some_and(|pid| !is_alive(pid));
        if is_stale && end_orphan(&entry.path().join("data")).await.is_ok() {
            // It may be another user's, or just be going by itself.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn pid_of(folder: &OsStr) -> Option<u32> {
    let rest = folder.to_str()?.strip_prefix(PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

/// Waits for the right to change what the tests of a run share.
async fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("shared-lock");
    let locked = tokio::task::spawn_blocking(move || {
        let file = open_lock(&path)?;
        file.lock().named("lock", &path)?;
        Ok(file)
    });
    locked.await.map_err(|error| Error::failed("wait for other tests", error))?
}

#[expect(clippy::disallowed_methods, reason = "the name of a database cannot be a parameter")]
async fn run(connection: &mut PgConnection, statement: &str) -> Result<(), Error> {
    connection.execute(AssertSqlSafe(statement.to_owned())).await?;
    Ok(())
}

async fn connect(url: &str) -> Result<PgConnection, Error> {
    Ok(PgConnection::connect_with(&PgConnectOptions::from_str(url)?).await?)
}

/// The process that a test database was made by.
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
