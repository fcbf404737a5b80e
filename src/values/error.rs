//! One error type for everything that is not an answer; the only place that turns a failure into
//! what a client may see. Texts of the database or its driver go to the log, never to a client.
use http::StatusCode;
use serde_json::{Value, json};
use sqlx::postgres::PgDatabaseError;

use super::issue::Issue;

/// The result of anything that can fail on the way to an answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks its schema: 422 with every problem found.
    #[error("invalid input")]
    Invalid(Vec<Issue>),
    /// A request that the endpoint answers with 400 by contract, such as an unparsable `since`.
    #[error("{0}")]
    BadRequest(String),
    /// No key, or one the service does not know: 401.
    #[error("Invalid API key")]
    Unauthenticated,
    /// Identity, workspace or policy say no: 403.
    #[error("{0}")]
    Forbidden(String),
    /// No such thing: 404.
    #[error("{0}")]
    NotFound(String),
    /// The client has ended the MCP connection that it uses: 404, and it has to connect anew.
    #[error("the MCP connection has ended: initialize a new one")]
    ConnectionEnded,
    /// The request's body did not come in within its time: 408, and the connection is closed.
    #[error("Request body took too long")]
    TooSlow,
    /// The request's body is over the limit: 413.
    #[error("Request body too large")]
    TooLarge,
    /// The database cannot be reached or is too slow; the request may be repeated: 503.
    #[error("Service temporarily unavailable")]
    Unavailable(#[source] BoxError),
    /// A fault of the service: 500.
    #[error("Internal Server Error")]
    Internal(#[source] BoxError),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// The HTTP status of this error.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::ConnectionEnded => StatusCode::NOT_FOUND,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the body of the response. Logs failures of the service itself, here and nowhere else.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        match self {
            Self::Invalid(issues) => json!({ "detail": issues }),
            Self::Unavailable(source) | Self::Internal(source) => {
                let (sqlstate, function) = place_of(source);
                tracing::error!(
                    request_id,
                    sqlstate,
                    function,
                    error = ?self,
                    "request failed: {self}"
                );
                json!({ "detail": self.to_string(), "request_id": request_id })
            }
            error => json!({ "detail": error.to_string() }),
        }
    }

    /// Whether the database rolled the work back for the sake of another transaction, so that the
    /// same work may be done again: a deadlock or a failed serialisation.
    pub(crate) fn gave_way(&self) -> bool {
        let Self::Unavailable(source) = self else { return false };
        let Some(sqlx::Error::Database(error)) = source.downcast_ref() else { return false };
        ["40001", "40P01"].contains(&error.code().as_deref().unwrap_or_default())
    }

    /// Whether the database refused a statement, which then had no effect. After any other failure the
    /// effect is not known.
    pub(crate) fn is_of_statement(&self) -> bool {
        let (Self::Unavailable(source) | Self::Internal(source)) = self else { return false };
        matches!(source.downcast_ref(), Some(sqlx::Error::Database(_)))
    }

    /// Whether a row found no monthly partition of the audit log: the first write of a month that
    /// nothing has prepared.
    pub(crate) fn lacks_audit_partition(&self) -> bool {
        let Self::Internal(source) = self else { return false };
        let Some(sqlx::Error::Database(error)) = source.downcast_ref() else { return false };
        // Citus passes on the message of a worker, which names the shard, and neither table nor constraint.
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
        let unavailable = match &error {
            Sql::Io(_) | Sql::Tls(_) | Sql::PoolTimedOut | Sql::PoolClosed | Sql::WorkerCrashed => {
                true
            }
            // The driver's word for a connection that broke in the middle of a message.
            Sql::Protocol(_) => true,
            Sql::Database(database) => database.code().is_some_and(|code| means_unavailable(&code)),
            _ => false,
        };
        if unavailable { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}

/// For a failure in the database: its SQLSTATE, and the innermost database function that it happened in.
fn place_of(source: &BoxError) -> (Option<String>, Option<String>) {
    let Some(sqlx::Error::Database(error)) = source.downcast_ref() else { return (None, None) };
    let context = error.try_downcast_ref::<PgDatabaseError>().and_then(|it| it.r#where());
    (error.code().map(Into::into), context.and_then(function_in))
}

/// The first function that the context of an error names.
fn function_in(context: &str) -> Option<String> {
    let name = |line: &str| {
        let plpgsql = line.strip_prefix("PL/pgSQL function ").and_then(|it| it.split('(').next());
        let sql = || line.strip_prefix("SQL function \"").and_then(|it| it.split('"').next());
        plpgsql.or_else(sql).map(str::to_owned)
    };
    context.lines().find_map(name)
}

/// Whether an SQLSTATE says that the database cannot serve now, rather than that the service asked
/// for something wrong.
fn means_unavailable(sqlstate: &str) -> bool {
    match sqlstate {
        // Not there, or not for us: no such database, wrong password, read-only.
        "3D000" | "25006" => true,
        // Rolled back for another's sake: serialisation failure, deadlock; lock not available.
        "40001" | "40P01" | "55P03" => true,
        // Connection failures, bad credentials, out of resources, cancelled or shutting down, I/O.
        code => ["08", "28", "53", "57", "58"].contains(&code.get(..2).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_database_is_unavailable_and_a_wrong_statement_is_internal() {
        for code in ["57P01", "57014", "08006", "53300", "28P01", "40P01", "25006", "3D000"] {
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
    fn the_innermost_function_of_a_failure_is_found() {
        let context = "SQL statement \"delete from only x\"
PL/pgSQL function free_lock(text,text) line 3 at SQL statement
SQL statement \"SELECT free_lock(in_workspace, in_key)\"
PL/pgSQL function release_lock(text,request,text,bigint) line 14 at PERFORM";
        assert_eq!(function_in(context).as_deref(), Some("free_lock"));
        let inlined = "SQL function \"task_status\" statement 1";
        assert_eq!(function_in(inlined).as_deref(), Some("task_status"));
        assert_eq!(function_in("COPY x, line 1"), None);
    }

    #[test]
    fn the_texts_of_failures_stay_inside() {
        for error in [
            Error::Internal("password=hunter2".into()),
            Error::Unavailable("host db.internal refused".into()),
        ] {
            assert!(!error.to_string().contains("hunter2"));
            assert!(!error.to_string().contains("db.internal"));
        }
    }
}
