//! A request on its way to an operation.
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use http::StatusCode;

use super::{
    client_call::ClientCall, connection::Connection, limits::Party, notice::Notice,
    services::Services, waiting::TimeLimit,
};
use crate::{
    access::{Claims, Key},
    database::Consumer,
};

/// Data of one request: id, arrival time, time limit, log fields, connection.
#[derive(Clone, Debug)]
pub(crate) struct RequestInfo {
    pub(crate) id: String,
    pub(crate) started: Instant,
    pub(crate) log: RequestLog,
    pub(crate) time_limit: TimeLimit,
    /// `None` on Lambda.
    pub(crate) connection: Option<Arc<Connection>>,
}

impl RequestInfo {
    /// Creates the information about a request that has just arrived.
    pub(crate) fn new(id: String, started: Instant, limit: Duration) -> Self {
        let time_limit = TimeLimit::new(started + limit);
        Self { id, started, log: RequestLog::default(), time_limit, connection: None }
    }

    /// Waits for something that the client has to send.
    pub(crate) async fn wait_for_client<T>(&self, sent: impl Future<Output = T>) -> T {
        match &self.connection {
            Some(connection) => connection.wait_for_client(sent).await,
            None => sent.await,
        }
    }

    /// Returns the client, with the key that the request has shown.
    pub(crate) fn party<'a>(&self, key: Option<&'a Key>) -> Party<'a> {
        let address = self.connection.as_ref().map(|connection| connection.address);
        Party { address, key, ..Party::default() }
    }

    /// Returns the milliseconds since the request arrived.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    /// Creates the span of the request, or of one tool call where a request carries several. Agent and
    /// target are recorded when they are known.
    pub(crate) fn span(&self, operation: &'static str) -> tracing::Span {
        tracing::info_span!(
            "http",
            otel.name = operation,
            otel.kind = "server",
            operation,
            request_id = self.id,
            agent.id = tracing::field::Empty,
            resource = tracing::field::Empty,
            http.response.status_code = tracing::field::Empty,
        )
    }
}

/// What becomes known about a request, for its line in the log. The first value of each counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestLog(Arc<(OnceLock<&'static str>, OnceLock<String>)>);

impl RequestLog {
    /// Sets the operation, or the path of the page.
    pub(crate) fn set_operation(&self, name: &'static str) {
        self.0.0.get_or_init(|| name);
    }

    pub(crate) fn set_agent(&self, agent_id: &str) {
        self.0.1.get_or_init(|| agent_id.to_owned());
    }

    pub(crate) fn operation(&self) -> Option<&'static str> {
        self.0.0.get().copied()
    }

    pub(crate) fn agent(&self) -> Option<&str> {
        self.0.1.get().map(String::as_str)
    }
}

/// A request to an operation: who sends it, and what it claims.
pub(crate) struct Call<'a> {
    pub(crate) services: &'a Services,
    /// `None` only on a route that can be used without a key.
    pub(crate) key: Option<&'a Key>,
    pub(crate) claims: Claims,
    pub(crate) request: &'a RequestInfo,
    /// SHA-256 of method, path and body, when the request carries an idempotency key.
    pub(crate) fingerprint: Option<[u8; 32]>,
    /// What the answer tells besides its own content.
    pub(crate) notice: Notice,
    /// Set where the client can cancel the request while it waits.
    pub(crate) client_call: Option<&'a ClientCall>,
}

impl<'a> Call<'a> {
    /// Creates a call that has noticed nothing and that its client cannot cancel.
    pub(crate) fn new(
        services: &'a Services,
        key: Option<&'a Key>,
        claims: Claims,
        request: &'a RequestInfo,
        fingerprint: Option<[u8; 32]>,
    ) -> Self {
        let (notice, client_call) = (Notice::default(), None);
        Self { services, key, claims, request, fingerprint, notice, client_call }
    }

    /// Returns for whom its database connections are used, as far as the key tells.
    pub(super) fn consumer(&self) -> Consumer {
        self.key.map_or(Consumer::WithoutKey, |key| Consumer::workspace(&key.identity.workspace))
    }
}

/// Adds agent and target to the span of a request. Builds without the feature `otel` send no spans, and
/// these fields would cost more than the rest of the span.
pub(super) fn record_caller(agent_id: &str, target: &str) {
    if cfg!(feature = "otel") {
        let span = tracing::Span::current();
        tracing::record_all!(span, agent.id = agent_id, resource = target);
    }
}

/// Adds the status of the answer to the span of a request, in builds that send spans.
pub(crate) fn record_status(span: &tracing::Span, status: StatusCode) {
    if cfg!(feature = "otel") {
        span.record("http.response.status_code", status.as_u16());
    }
}
