//! The one error type of the service. Status and body of every error are assigned here, so that no text
//! of the database or its driver can reach a client: those texts go to the log.
use std::{io::ErrorKind, time::Duration};

use http::StatusCode;
use serde_json::{Value, json};
use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::issue::Issue;

/// Not a registered status.
const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// The result of a step on the way to an answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input does not match its schema: 422 with every issue.
    #[error("invalid input")]
    Invalid(Vec<Issue>),
    /// A request that the endpoint answers with 400 by contract, such as an unparsable `since`.
    #[error("{0}")]
    BadRequest(String),
    /// No key, or an unknown key: 401.
    #[error("Invalid API key")]
    Unauthenticated,
    /// Denied because of identity, workspace or policy: 403.
    #[error("{0}")]
    Forbidden(String),
    /// The target does not exist: 404.
    #[error("{0}")]
    NotFound(String),
    /// The request names an MCP connection that its client has ended: 404. The client must initialize a
    /// new connection.
    #[error("the MCP connection has ended: initialize a new one")]
    ConnectionEnded,
    /// The client has cancelled the request, so nobody reads the answer: 499, as proxies log it.
    #[error("the client has cancelled the call")]
    Cancelled,
    /// The body of the request did not arrive within its time limit: 408, and the connection is closed.
    #[error("Request body took too long")]
    TooSlow,
    /// The body of the request exceeds the size limit: 413.
    #[error("Request body too large")]
    TooLarge,
    /// A quota allows no other idempotency key or MCP connection: 429.
    #[error("{0}")]
    QuotaExceeded(String),
    /// Bodies and answers have too many bytes, by the limit that this variable sets: 429. The client can repeat
    /// the request.
    #[error(
        "too many bytes of requests and answers at once ({0}): repeat the request when others are answered"
    )]
    TooManyBytes(&'static str),
    /// Too many requests without a key are in work: 503. The client can repeat the request.
    #[error("Service temporarily unavailable")]
    Busy,
    /// The statement of a read took longer than its time limit: 503. A narrower request can succeed.
    #[error(
        "The read took longer than {} s: narrow it, for example with a filter, a shorter time or a lower limit",
        .0.as_secs()
    )]
    TooLong(Duration),
    /// The database is unreachable or too slow: 503. The client can repeat the request.
    #[error("Service temporarily unavailable")]
    Unavailable(#[source] BoxError),
    /// A fault of the service: 500.
    #[error("Internal Server Error")]
    Internal(#[source] BoxError),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The maximum number of issues in an answer.
const MAX_ISSUES: usize = 100;

impl Error {
    /// Returns the HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::ConnectionEnded => StatusCode::NOT_FOUND,
            Self::Cancelled => CLIENT_CLOSED_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::QuotaExceeded(_) | Self::TooManyBytes(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::TooLong(_) | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the body of the response. Logs failures of the service itself; no other code does.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        match self {
            Self::Invalid(issues) => json!({ "detail": &issues[..issues.len().min(MAX_ISSUES)] }),
            Self::Unavailable(source) | Self::Internal(source) => {
                let (sqlstate, function) = database_context(source);
                tracing::error!(
                    request_id,
                    sqlstate,
                    function,
                    error = ?self,
                    "request failed: {self}"
                );
                json!({ "detail": self.to_string(), "request_id": request_id })
            }
            Self::Busy | Self::TooLong(_) => {
                json!({ "detail": self.to_string(), "request_id": request_id })
            }
            error => json!({ "detail": error.to_string() }),
        }
    }

    /// Whether the state of the connection is unknown, so that it is closed.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(self, Self::TooLong(_) | Self::Unavailable(_) | Self::Internal(_))
    }

    /// Whether the database rolled back the work in favour of another transaction, because of a deadlock
    /// or a serialization failure. The work then had no effect and can be retried.
    pub(crate) fn is_retryable(&self) -> bool {
        let Self::Unavailable(source) = self else { return false };
        let Some(error) = database_error(source) else { return false };
        ["40001", "40P01"].contains(&error.code().as_deref().unwrap_or_default())
    }

    /// Whether the session in which the call acts has ended or was silent for too long. The call had no
    /// effect, and can be run again once the session is revived. The database function
    /// `mark_session_alive` raises this.
    pub(crate) fn is_session_lost(&self) -> bool {
        let Self::Internal(source) = self else { return false };
        database_error(source).is_some_and(|error| error.code().as_deref() == Some("AC002"))
    }

    /// Whether the database refused a statement, which then had no effect. After any other failure, such
    /// as a lost connection, the effect is unknown.
    pub(crate) fn is_statement_error(&self) -> bool {
        let (Self::Unavailable(source) | Self::Internal(source)) = self else { return false };
        database_error(source).is_some()
    }

    /// Whether the connection to the database was lost. Unless only reads were sent, whether they had an
    /// effect is unknown.
    pub(crate) fn is_lost_connection(&self) -> bool {
        let Self::Unavailable(source) = self else { return false };
        source.downcast_ref().is_some_and(is_lost_connection)
    }

    /// Whether a row has no monthly partition of the audit log. The first write of a month fails with
    /// this error when the partition was not created in advance.
    pub(crate) fn lacks_audit_partition(&self) -> bool {
        let Self::Internal(source) = self else { return false };
        let Some(error) = database_error(source) else { return false };
        // Citus passes on the message of its worker. The message names the shard; table and constraint
        // are unset.
        error.code().as_deref() == Some("23514")
            && error.constraint().is_none()
            && error.table().map_or_else(
                || error.message().contains("\"audit_log_"),
                |table| table == "audit_log",
            )
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as Sql;
        if let Sql::Io(io) = &error
            && let Some(ReadTooLong(limit)) = io.get_ref().and_then(|it| it.downcast_ref())
        {
            return Self::TooLong(*limit);
        }
        let unavailable = match &error {
            Sql::Io(_) | Sql::Tls(_) | Sql::PoolTimedOut | Sql::PoolClosed | Sql::WorkerCrashed => {
                true
            }
            // The driver's error for a connection that broke in the middle of a message.
            Sql::Protocol(_) => true,
            Sql::Database(database) => database.code().is_some_and(|code| means_unavailable(&code)),
            _ => false,
        };
        if unavailable { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}

/// The SQLSTATE of the end of a session whose transaction was idle for too long.
const IDLE_TOO_LONG: &str = "25P03";

/// The time limit of a read has ended a statement: [`Error::TooLong`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the read took longer than {0:?}")]
pub(crate) struct ReadTooLong(pub(crate) Duration);

/// What reading from and writing to a connection that has ended fails with. Time-outs are not among them:
/// a second try would only take as long again.
const LOSSES: [ErrorKind; 5] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::BrokenPipe,
    ErrorKind::NotConnected,
];

/// Whether an error of the driver means that a connection ended: it broke, or the server or a pooler ended
/// it.
pub(crate) fn is_lost_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => LOSSES.contains(&error.kind()),
        sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // The class connection, and the ends of a session by an administrator, a crash or a time limit.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08") || ["57P01", "57P02", "57P05", IDLE_TOO_LONG].contains(&&*code)
        }),
        _ => false,
    }
}

/// Returns the error with which the database refused a statement, if that is what failed.
fn database_error(source: &BoxError) -> Option<&dyn DatabaseError> {
    match source.downcast_ref() {
        Some(sqlx::Error::Database(error)) => Some(&**error),
        _ => None,
    }
}

/// Returns the SQLSTATE of a failure in the database, and the innermost database function that failed.
fn database_context(source: &BoxError) -> (Option<String>, Option<String>) {
    let Some(error) = database_error(source) else { return (None, None) };
    let context = error.try_downcast_ref::<PgDatabaseError>().and_then(|it| it.r#where());
    (error.code().map(Into::into), context.and_then(innermost_function))
}

/// Returns the first function that the context of an error names.
fn innermost_function(context: &str) -> Option<String> {
    let name = |line: &str| {
        let plpgsql = line.strip_prefix("PL/pgSQL function ").and_then(|it| it.split('(').next());
        let sql = || line.strip_prefix("SQL function \"").and_then(|it| it.split('"').next());
        plpgsql.or_else(sql).map(str::to_owned)
    };
    context.lines().find_map(name)
}

/// Whether an SQLSTATE means that the database cannot serve at the moment, and not that a statement of
/// the service is wrong.
fn means_unavailable(sqlstate: &str) -> bool {
    match sqlstate {
        // No such database; read-only, as on a standby; the process was frozen within a transaction.
        "3D000" | "25006" | IDLE_TOO_LONG => true,
        // Serialization failure, deadlock, lock not available.
        "40001" | "40P01" | "55P03" => true,
        // The classes connection, authorization, insufficient resources, operator intervention, system
        // error.
        code => ["08", "28", "53", "57", "58"].contains(&code.get(..2).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_database_is_unavailable_and_a_wrong_statement_is_internal() {
        for code in
            ["57P01", "57014", "08006", "25P03", "53300", "28P01", "40P01", "25006", "3D000"]
        {
            assert!(means_unavailable(code), "{code}");
        }
        for code in ["23505", "42P01", "22P02", "23514", ""] {
            assert!(!means_unavailable(code), "{code}");
        }
        let status = |error: sqlx::Error| Error::from(error).status();
        assert_eq!(status(sqlx::Error::PoolTimedOut), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(sqlx::Error::RowNotFound), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_lost_connection_is_told_from_other_failures() {
        use sqlx::Error as Sql;
        let io = |kind: ErrorKind| Sql::Io(kind.into());
        for error in [io(ErrorKind::UnexpectedEof), io(ErrorKind::ConnectionReset)] {
            assert!(Error::from(error).is_lost_connection());
        }
        for error in [io(ErrorKind::TimedOut), io(ErrorKind::Other), Sql::PoolTimedOut] {
            assert!(!Error::from(error).is_lost_connection());
        }
        assert!(!Error::Unavailable("too slow".into()).is_lost_connection());
    }

    #[test]
    fn the_innermost_function_of_a_failure_is_found() {
        let context = "SQL statement \"delete from only x\"
PL/pgSQL function free_lock(text,text) line 3 at SQL statement
SQL statement \"SELECT free_lock(in_workspace, in_key)\"
PL/pgSQL function release_lock(text,request,text,bigint) line 14 at PERFORM";
        assert_eq!(innermost_function(context).as_deref(), Some("free_lock"));
        let inlined = "SQL function \"task_status\" statement 1";
        assert_eq!(innermost_function(inlined).as_deref(), Some("task_status"));
        assert_eq!(innermost_function("COPY x, line 1"), None);
    }

    #[test]
    fn an_error_does_not_show_the_text_of_its_source() {
        for error in [
            Error::Internal("password=hunter2".into()),
            Error::Unavailable("host db.internal refused".into()),
        ] {
            assert!(!error.to_string().contains("hunter2"));
            assert!(!error.to_string().contains("db.internal"));
        }
    }
}
