//! A private PostgreSQL server with ordinary settings, and the databases of the measurements. Invariant: every
//! measurement starts on a fresh database, copied from the same template.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use managed_postgres::{Binaries, Server, erase, throwaway};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, migrate::Migrator,
    postgres::PgConnectOptions,
};

use crate::Result;

/// The settings that differ from PostgreSQL's defaults. A commit is flushed to disk, as by default.
pub(crate) const SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "1GB"),
    ("max_connections", "200"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("maintenance_work_mem", "512MB"),
];

/// The template of every measurement's database.
pub(crate) const BASE: &str = "base";

/// The server of one run.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Server,
    folder: PathBuf,
    pub(crate) binaries: Binaries,
}

impl Cluster {
    /// Starts a server with its data in `folder`, which [`Cluster::stop`] removes.
    pub(crate) async fn start(folder: &Path) -> Result<Cluster> {
        let binaries = Binaries::installed()?;
        erase(folder).await?;
        let mut server = Server::start(folder, &binaries).await?;
        for (name, value) in SETTINGS {
            execute(&server.url("postgres"), &format!("alter system set {name} = '{value}'"))
                .await?;
        }
        server.restart().await?;
        Ok(Cluster { server, folder: folder.to_owned(), binaries })
    }

    /// Stops the server and removes its data.
    pub(crate) async fn stop(self) -> Result<()> {
        self.server.stop().await;
        Ok(erase(&self.folder).await?)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// Returns the process id of the server's first process.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.server.pid().ok_or("PostgreSQL has ended")?)
    }

    /// Creates the template from this source tree: the tables, the functions, and the floor functions.
    pub(crate) async fn prepare(&self) -> Result<()> {
        execute(&self.url("postgres"), &format!("create database {BASE}")).await?;
        let mut functions = "set local check_function_bodies = off;\n".to_owned();
        let mut files = sql_files(Path::new("src"))?;
        files
            .sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
        for file in files {
            functions += &fs::read_to_string(file)?;
        }
        functions += "\nselect finish_installation('measured');";
        let migrator = Migrator::new(Path::new("migrations")).await?;
        let mut connection = connect(&self.url(BASE)).await?;
        throwaway::prepare(&mut connection, &migrator, &functions).await?;
        connection.close().await?;
        for file in sql_files(Path::new("benches/floor"))? {
            execute(&self.url(BASE), &fs::read_to_string(file)?).await?;
        }
        Ok(())
    }

    /// Replaces a database by a copy of a template, and runs statements in the copy.
    pub(crate) async fn create(&self, name: &str, template: &str, seed: &str) -> Result<()> {
        let admin = self.url("postgres");
        execute(&admin, &format!("drop database if exists {name} with (force)")).await?;
        execute(&admin, &format!("create database {name} template {template} strategy file_copy"))
            .await?;
        if !seed.is_empty() {
            execute(&self.url(name), seed).await?;
        }
        Ok(())
    }

    /// Drops a database.
    pub(crate) async fn drop(&self, name: &str) -> Result<()> {
        execute(&self.url("postgres"), &format!("drop database {name} with (force)")).await
    }

    /// Returns the number that a query returns.
    pub(crate) async fn number(&self, database: &str, statement: &str) -> Result<i64> {
        Ok(self.text(database, &format!("select ({statement})::text")).await?.parse()?)
    }

    /// Returns the text that a query returns.
    pub(crate) async fn text(&self, database: &str, statement: &str) -> Result<String> {
        text(&self.url(database), statement).await
    }
}

/// Returns the text that a query returns.
pub(crate) async fn text(url: &str, statement: &str) -> Result<String> {
    let first = rows(url, statement).await?.into_iter().next();
    first.ok_or_else(|| "a query returned no row".into())
}

/// Returns the text in each row that a query returns.
#[expect(clippy::disallowed_methods, reason = "statements of the measurements, not of the service")]
pub(crate) async fn rows(url: &str, statement: &str) -> Result<Vec<String>> {
    let mut connection = connect(url).await?;
    let rows = connection.fetch_all(AssertSqlSafe(statement.to_owned())).await?;
    connection.close().await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn connect(url: &str) -> Result<PgConnection> {
    Ok(PgConnection::connect_with(&PgConnectOptions::from_str(url)?).await?)
}

/// Runs one or several statements.
#[expect(clippy::disallowed_methods, reason = "statements of the measurements, not of the service")]
pub(crate) async fn execute(url: &str, statements: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await?;
    Ok(connection.close().await?)
}

/// Returns all `.sql` files in a folder and below.
fn sql_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sql_files(&path)?);
        } else if path.extension().is_some_and(|it| it == "sql") {
            files.push(path);
        }
    }
    Ok(files)
}
