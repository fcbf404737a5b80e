//! The service behind PgBouncer in transaction mode, in Debian's version, which does not support prepared
//! statements.
use std::{
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use agent_coordinator::App;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::support::{Service, config, eventually, variables};

/// A pooler in front of one server, for one test.
pub(crate) struct Pooler {
    port: u16,
    folder: PathBuf,
    _child: Child,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // An error is ignored: the folder is a temporary one.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Pooler {
    /// Starts a pooler in front of the server at this address, and waits until it listens.
    pub(crate) async fn start(url: &str) -> Self {
        let server: PgConnectOptions = url.parse().expect("an address");
        let password = url.split([':', '@']).nth(2).expect("a password");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let folder = std::env::temp_dir().join(format!("pooler-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("readable");
        let file = folder.join("pgbouncer.ini");
        let (host, to) = (server.get_host(), server.get_port());
        let user = server.get_username();
        // By default PgBouncer tries a server that has failed again only after 15 s.
        let text = format!(
            "[databases]\n* = host={host} port={to} user={user} password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 500\n\
             server_login_retry = 1\n"
        );
        std::fs::write(&file, text).expect("written");
        let child = command(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("pgbouncer is installed");
        let pooler = Self { port, folder, _child: child };
        // The server behind it need not be reachable.
        let connect = async || TcpStream::connect(("127.0.0.1", port)).await;
        eventually("PgBouncer listens", connect, Result::is_ok).await.expect("it listens");
        pooler
    }

    /// The address of the same database through the pooler.
    pub(crate) fn url(&self, url: &str) -> String {
        let server: PgConnectOptions = url.parse().expect("an address");
        let database = server.get_database().expect("a database");
        let user = server.get_username();
        format!("postgresql://{user}:any@127.0.0.1:{}/{database}", self.port)
    }
}

/// The command of PgBouncer, which refuses to run as root.
fn command(file: &Path) -> Command {
    let mut command = Command::new("pgbouncer");
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    if is_root {
        command.args(["-u", "nobody"]);
    }
    command.arg(file);
    command
}

#[tokio::test]
async fn migrations_are_not_tried_through_a_pooler() {
    let service = Service::start().await;
    let mut variables = variables(&service.url);
    variables.insert("POSTGRES_POOLER".to_owned(), "transaction".to_owned());
    let error = App::new(config(&variables)).migrate().await.expect_err("refused");
    assert!(error.to_string().contains("direct address"), "{error}");
}

/// Tests that need PgBouncer, which a machine with only Rust and Postgres does not have. `make test-pooler`
/// runs them, and all other tests behind PgBouncer.
#[cfg(feature = "test-behind-pgbouncer")]
mod behind {
    use std::collections::HashMap;

    use agent_coordinator::{App, router};
    use futures_util::future::join_all;
    use serde_json::json;

    use super::Pooler;
    use crate::support::{Client, FREE, Service, config, variables};

    /// A replica on the database of `service`, with these variables in addition to the usual ones.
    fn client(service: &Service, url: &str, more: &[(&str, &str)]) -> Client {
        let mut variables: HashMap<_, _> = variables(&service.url);
        variables.insert("POSTGRES_DSN".to_owned(), url.to_owned());
        variables.extend(more.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        Client::new(router(App::new(config(&variables)))).header("x-api-key", FREE)
    }

    #[tokio::test]
    async fn a_pooler_in_transaction_mode_is_detected_before_any_request() {
        let service = Service::start().await;
        let pooler = Pooler::start(&service.url).await;
        let client = client(&service, &pooler.url(&service.url), &[]);
        let ready = client.get("/ready").await;
        assert_eq!(ready.status, 503);
        let db = ready.json["db"].as_str().expect("a text");
        assert!(db.contains("POSTGRES_POOLER=transaction"), "{db}");
        let rest = (&ready.json["schema"], &ready.json["write"], &ready.json["failed"]);
        assert_eq!(rest, (&json!("unknown"), &json!("unknown"), &json!(["db"])));
        let asked = (0..20).map(|n| {
            let client = client.clone();
            async move {
                let body =
                    json!({ "file_path": format!("k{n}"), "agent_id": "a", "agent_type": "t" });
                client.post("/locks/acquire", body).await.status.as_u16()
            }
        });
        assert_eq!(join_all(asked).await, [503; 20]);
        assert_eq!(client.get("/health").await.status, 503);
        let mut variables: HashMap<_, _> = variables(&service.url);
        variables.insert("POSTGRES_DSN".to_owned(), pooler.url(&service.url));
        let error = App::new(config(&variables)).migrate().await.expect_err("refused");
        assert!(error.to_string().contains("direct address"), "{error}");
        assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 0);
        assert_eq!(service.audit_rows().await, 0);
    }

    #[tokio::test]
    async fn with_the_setting_every_request_gets_its_own_answer() {
        let service = Service::start().await;
        let pooler = Pooler::start(&service.url).await;
        let more = [("POSTGRES_POOLER", "transaction"), ("POSTGRES_POOL_MAX", "8")];
        // Two processes, whose prepared statements have the same names.
        let clients = [0, 1].map(|_| client(&service, &pooler.url(&service.url), &more));
        for client in &clients {
            assert_eq!(client.get("/ready").await.status, 200);
        }
        let asked = (0..200).map(|n| {
            let client = clients[n % 2].clone();
            async move {
                let (agent, key) = (format!("agent-{n}"), format!("src/{n}.rs"));
                let got = client.acquire(&agent, &key, json!({ "reason": key })).await;
                assert_eq!((&got["action"], &got["file_path"]), (&json!("acquired"), &json!(key)));
                let status = client.get(&format!("/locks/status/{key}")).await.json;
                assert_eq!(status["lock"]["locked_by"], agent);
                let once = client.clone().header("idempotency-key", "once");
                let body =
                    json!({ "agent_id": agent, "task_type": "test", "task_description": key });
                let first = once.post("/work/submit", body.clone()).await.json;
                let again = once.post("/work/submit", body).await.json;
                assert_eq!((&first["action"], &first), (&json!("created"), &again));
                let task =
                    client.post("/work/get", json!({ "task_id": first["task_id"] })).await.json;
                assert_eq!(task["task"]["description"], key);
                assert_eq!(client.release(&agent, &key, json!({})).await["success"], true);
            }
        });
        join_all(asked).await;
        // One row for each audited request: none was lost and none was executed twice.
        let rows = "select operation, count(*)::int as n from audit_log group by 1 order by 1";
        let rows: Vec<_> = service.rows(rows).await;
        let expected = ["acquire_lock", "release_lock", "submit_task"];
        assert_eq!(rows, expected.map(|it| json!({ "operation": it, "n": 200 })));
        // Every connection has committed its transactions.
        assert_eq!(service.scalar::<i64>("select count(*) from work_task").await, 200);
    }
}
