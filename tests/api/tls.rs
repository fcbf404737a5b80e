//! TLS between the service and its database, with certificates that TLS libraries refuse, above all one of
//! X.509 version 1, which `openssl x509 -req` makes without extensions.
use std::collections::HashMap;

use managed_postgres::{Server, throwaway};
use serde_json::json;
use sqlx::PgPool;

use crate::{
    processes::Running,
    support::{eventually, execute, scalar, variables},
};

const VERSION_1: &str = include_str!("tls/version-1.crt");
/// A self-signed certificate of version 3, as `openssl req -x509` makes it.
const AUTHORITY: &str = include_str!("tls/authority.crt");
const KEY: &str = include_str!("tls/server.key");

/// A server with a certificate. The server writes the files itself, because it has an account of its
/// own where the tests run as root.
async fn server(certificate: &str) -> (Server, PgPool) {
    let server = throwaway::private().await.expect("a server");
    let db = PgPool::connect(&server.url("postgres")).await.expect("it answers");
    for (file, text) in [("server.crt", certificate), ("server.key", KEY)] {
        let folder: String = scalar(&db, "show data_directory").await;
        execute(
            &db,
            &format!(
                "copy (select line from unnest(string_to_array('{text}', E'\\n')) line)
                 to program 'umask 077; cat > \"{folder}/{file}\"'"
            ),
        )
        .await;
    }
    execute(&db, "alter system set ssl = on").await;
    execute(&db, "select pg_reload_conf()").await;
    let is_on = async || scalar::<String>(&db, "show ssl").await;
    eventually("TLS is on", is_on, |it| it == "on").await;
    (server, db)
}

/// The environment of a service that reaches the server with a mode of TLS.
fn environment(server: &Server, mode: &str) -> HashMap<String, String> {
    let url = server.url("postgres");
    let url = url.split_once('?').map_or(url.as_str(), |(address, _)| address);
    variables(&format!("{url}?sslmode={mode}"))
}

const ENCRYPTED: &str = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
    where application_name = 'agent-coordinator' and ssl";

#[tokio::test]
async fn a_certificate_that_is_refused_does_not_stop_a_service_that_only_prefers_tls() {
    let (server, db) = server(VERSION_1).await;
    for pooler in ["none", "transaction"] {
        let mut variables = environment(&server, "prefer");
        variables.insert("POSTGRES_POOLER".to_owned(), pooler.to_owned());
        let running = Running::start(variables).await;
        // The first of the two migrates the database, perhaps after it has begun to listen.
        let locks = async || running.request("GET", "/locks", "").await;
        let (status, _, body) = eventually("the service serves", locks, |it| it.0 == 200).await;
        assert_eq!((status, &body["count"]), (200, &json!(0)), "{pooler}");
        assert_eq!(scalar::<i64>(&db, ENCRYPTED).await, 0);
        running.signal("TERM");
        let (code, log) = running.end().await;
        assert_eq!(code, Some(0), "{log}");
        let warning = "connections are not encrypted, as sslmode=prefer allows";
        assert_eq!(log.matches(warning).count(), 1, "{log}");
        assert!(log.contains("X.509 version 1"), "{log}");
    }
}

#[tokio::test]
async fn a_service_that_requires_tls_names_the_certificate_and_the_remedy() {
    let (server, _db) = server(VERSION_1).await;
    for mode in ["require", "verify-full"] {
        let mut running = Running::start(environment(&server, mode)).await;
        let line = running.wait_for_line("unreachable; retrying the migration").await;
        assert!(line.contains("X.509 version 1"), "{line}");
        assert!(line.contains("sslmode=disable"), "{line}");
        let (status, _, _) = running.request("GET", "/locks", "").await;
        assert_eq!(status, 503);
        running.signal("TERM");
        let (code, log) = running.end().await;
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("connections are not encrypted"), "{log}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_encrypts_and_is_named_where_it_is_checked() {
    let (server, db) = server(AUTHORITY).await;
    for mode in ["prefer", "require"] {
        let running = Running::start(environment(&server, mode)).await;
        let locks = async || running.request("GET", "/locks", "").await.0;
        eventually("the service serves", locks, |status| *status == 200).await;
        assert!(scalar::<i64>(&db, ENCRYPTED).await > 0, "{mode}");
        running.signal("TERM");
        let (code, log) = running.end().await;
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("not encrypted"), "{log}");
    }
    let mut running = Running::start(environment(&server, "verify-full")).await;
    let line = running.wait_for_line("unreachable; retrying the migration").await;
    assert!(line.contains("the certificate of an authority (CA:TRUE)"), "{line}");
}
