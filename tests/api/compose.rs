//! The database of `docker-compose.yml`: what its first start creates, with the script that the container
//! runs.
use std::{path::Path, process::Output, str};

use agent_coordinator::{App, router};
use managed_postgres::Binaries;
use serde_json::json;
use sqlx::PgPool;
use tokio::process::Command;

use crate::{
    processes::empty_database,
    support::{Client, config, scalar, variables},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs the script of the container's first start.
async fn first_start(url: &str, migrations: &Path) -> Output {
    let binaries = Binaries::installed().expect("PostgreSQL is installed");
    Command::new("bash")
        .args(["-c", "PATH=$1:$PATH; exec \"$2\"", "bash"])
        .arg(binaries.dir())
        .arg(Path::new(ROOT).join("docker/migrate.sh"))
        // A name or a connection string: the script passes it to psql.
        .env("POSTGRES_DB", url)
        .env("POSTGRES_USER", "postgres")
        .env("MIGRATIONS", migrations)
        .env("FUNCTIONS", Path::new(ROOT).join("src"))
        .output()
        .await
        .expect("the script runs")
}

/// The schema of the database, as pg_dump writes it.
async fn schema(url: &str) -> String {
    let binaries = Binaries::installed().expect("PostgreSQL is installed");
    let output = Command::new(binaries.dir().join("pg_dump"))
        .args(["--schema-only", "--dbname", url])
        .output()
        .await
        .expect("pg_dump runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("CREATE TABLE public.file_lock"), "{text}");
    // These two lines contain a token that is different in each dump.
    let is_same =
        |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(is_same).collect::<Vec<_>>().join("\n")
}

/// The records of the migrator about migrations and functions, and when and how fast they were applied.
async fn records(db: &PgPool) -> (String, String) {
    let of_migrations = "select string_agg(
        concat_ws(' ', version, description, success, encode(checksum, 'hex')), E'\n'
        order by version) || (select digest from installed_functions) from _sqlx_migrations";
    let of_runs = "select string_agg(
        concat_ws(' ', version, installed_on, execution_time), E'\n'
        order by version) from _sqlx_migrations where execution_time > 0";
    (scalar(db, of_migrations).await, scalar(db, of_runs).await)
}

/// The time limits of the role.
async fn limits(db: &PgPool) -> String {
    let sql = "select array_to_string(setconfig, ' ') from pg_db_role_setting
        where setrole = 'postgres'::regrole
        and setdatabase = (select oid from pg_database where datname = current_database())";
    scalar(db, sql).await
}

#[tokio::test]
async fn the_migrator_finds_the_database_of_a_first_start_up_to_date() {
    let (composed, usual) = (empty_database().await, empty_database().await);
    let output = first_start(&composed, &Path::new(ROOT).join("migrations")).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    App::new(config(&variables(&usual))).migrate().await.expect("it is migrated");

    let db = PgPool::connect(&composed).await.expect("it answers");
    let usual_db = PgPool::connect(&usual).await.expect("it answers");
    let (before, runs) = records(&db).await;
    assert_eq!(before, records(&usual_db).await.0);
    assert_eq!(runs.lines().count(), agent_coordinator::schema().migrator.iter().count());
    assert_eq!(schema(&composed).await, schema(&usual).await);
    assert_eq!(limits(&db).await, limits(&usual_db).await);

    let app = App::new(config(&variables(&composed)));
    app.migrate().await.expect("there is no conflict");
    assert_eq!(records(&db).await, (before, runs), "nothing was applied");
    let ready = Client::new(router(app)).get("/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json["schema"]), (200, &json!("ok")), "{ready:?}");
}

#[tokio::test]
async fn a_migration_that_fails_in_a_first_start_leaves_nothing_and_fails_the_start() {
    let url = empty_database().await;
    let folder = std::env::temp_dir().join(format!("migrations-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).expect("a folder");
    let files =
        [("0001_one.sql", "create table one ();"), ("0002_two.sql", "create table two (); oops;")];
    for (name, sql) in files {
        std::fs::write(folder.join(name), sql).expect("a file");
    }
    let output = first_start(&url, &folder).await;
    std::fs::remove_dir_all(&folder).expect("removed");
    assert!(!output.status.success());
    let text = str::from_utf8(&output.stderr).expect("UTF-8");
    assert!(text.contains("0002_two.sql") && text.contains("oops"), "{text}");
    let db = PgPool::connect(&url).await.expect("it answers");
    let left: String = scalar(
        &db,
        "select concat(to_regclass('one'), to_regclass('two'), to_regclass('_sqlx_migrations'))",
    )
    .await;
    assert_eq!(left, "");
}

/// The mounts of a service in the compose file: source, target and mode of each, in order.
fn mounts(service: &str) -> Vec<(String, String, String)> {
    let file = std::fs::read_to_string(Path::new(ROOT).join("docker-compose.yml")).expect("a file");
    let depth = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> =
        file.lines().filter(|it| !it.trim().is_empty() && !it.trim().starts_with('#')).collect();
    // The lines below a key: those that are indented further.
    let below = |lines: &[&str], key: &str| -> Vec<String> {
        let at = lines.iter().position(|it| it.trim() == key).expect("the key");
        let inner = lines[at + 1..].iter().take_while(|it| depth(it) > depth(lines[at]));
        inner.map(|it| (*it).to_owned()).collect()
    };
    let service = below(&lines, &format!("{service}:"));
    let service: Vec<_> = service.iter().map(String::as_str).collect();
    let mount = |line: String| {
        let parts: Vec<_> =
            line.trim().trim_start_matches("- ").split(':').map(str::to_owned).collect();
        let [source, target, mode @ ..] = &parts[..] else { panic!("no mount: {line}") };
        (source.clone(), target.clone(), mode.join(":"))
    };
    below(&service, "volumes:").into_iter().map(mount).collect()
}

/// The folders that the script reads where its environment names no others.
async fn default_folders() -> Vec<String> {
    let print = "eval \"$(grep --extended-regexp '^(migrations|functions)=' \"$1\")\"
        printf '%s\\n' \"$migrations\" \"$functions\"";
    let output = Command::new("bash")
        .args(["-euc", print, "bash"])
        .arg(Path::new(ROOT).join("docker/migrate.sh"))
        .env_remove("MIGRATIONS")
        .env_remove("FUNCTIONS")
        .output()
        .await
        .expect("the script runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_script_finds_its_folders_where_the_compose_file_mounts_them() {
    let mounts = mounts("paradedb");
    let target = |source: &str| {
        let found: Vec<_> = mounts.iter().filter(|it| it.0 == source).collect();
        let [(_, target, mode)] = found[..] else { panic!("{source} in {mounts:?}") };
        assert_eq!(mode, "ro", "{source}");
        assert!(Path::new(ROOT).join(source).exists(), "{source}");
        target.clone()
    };
    assert_eq!(default_folders().await, [target("./migrations"), target("./src")]);
}

#[test]
fn the_image_runs_the_script_after_its_own_scripts() {
    // The image runs the scripts of this folder in the order of their names. Its own script, which makes
    // the extensions, is named 10_bootstrap_paradedb.sh.
    let mounts = mounts("paradedb");
    let in_folder = |it: &(String, String, String)| {
        let name = it.1.strip_prefix("/docker-entrypoint-initdb.d/")?;
        Some((it.0.clone(), name.to_owned()))
    };
    let scripts: Vec<_> = mounts.iter().filter_map(in_folder).collect();
    let [(source, name)] = &scripts[..] else { panic!("{scripts:?}") };
    assert_eq!(source, "./docker/migrate.sh");
    assert!(Path::new(ROOT).join(source).is_file());
    assert!(name.ends_with(".sh") && name.as_str() > "10_bootstrap_paradedb.sh", "{name}");
}
