//! The limits that protect the service from its clients: how often each was reached, and by whom.
use std::{
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{access::Key, config::Quota, database::ShareObserver, values::lock};

/// The time between two log lines about one limit, so that a flood of requests is not a flood of lines.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A limit that a client can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The head of a request did not arrive in time.
    HeadTime,
    /// The head of a request was too large.
    HeadSize,
    /// The body of a request did not arrive in time.
    BodyTime,
    /// The client took no part of an answer in time.
    WriteTime,
    /// The connection was closed to accept another one.
    Connections,
    /// Too many requests without a key were in work.
    WithoutKey,
    /// Too many requests of one agent waited.
    WaitingOfAgent,
    /// Too many requests of one key waited.
    WaitingOfKey,
    /// Too many requests waited.
    Waiting,
    /// The statement of a read took too long.
    ReadTime,
    /// Too many requests without a key from one address were in work.
    RequestsOfAddress,
    /// Every connection had a request in work, and this one asked for more than the state of the service.
    AllInWork,
    /// A workspace that used half of the database connections had to wait for another one.
    DatabaseShare,
    /// An agent or a workspace had too many live locks.
    QuotaOfLocks,
    /// Too many live sessions.
    QuotaOfSessions,
    /// Too many open tasks.
    QuotaOfTasks,
    /// Too many memories.
    QuotaOfMemories,
    /// Too many handoffs.
    QuotaOfHandoffs,
    /// Too many idempotency keys.
    QuotaOfIdempotencyKeys,
    /// Too many MCP connections.
    QuotaOfMcpConnections,
    /// Bodies and answers of one key had too many bytes.
    BytesOfKey,
    /// Bodies and answers had too many bytes.
    Bytes,
}

impl Limit {
    const ALL: [Self; 22] = [
        Self::HeadTime,
        Self::HeadSize,
        Self::BodyTime,
        Self::WriteTime,
        Self::Connections,
        Self::WithoutKey,
        Self::WaitingOfAgent,
        Self::WaitingOfKey,
        Self::Waiting,
        Self::ReadTime,
        Self::RequestsOfAddress,
        Self::AllInWork,
        Self::DatabaseShare,
        Self::QuotaOfLocks,
        Self::QuotaOfSessions,
        Self::QuotaOfTasks,
        Self::QuotaOfMemories,
        Self::QuotaOfHandoffs,
        Self::QuotaOfIdempotencyKeys,
        Self::QuotaOfMcpConnections,
        Self::BytesOfKey,
        Self::Bytes,
    ];

    /// Returns the limit that is counted when a quota is reached.
    pub(super) fn of(quota: Quota) -> Self {
        match quota {
            Quota::Locks => Self::QuotaOfLocks,
            Quota::Sessions => Self::QuotaOfSessions,
            Quota::Tasks => Self::QuotaOfTasks,
            Quota::Memories => Self::QuotaOfMemories,
            Quota::Handoffs => Self::QuotaOfHandoffs,
            Quota::IdempotencyKeys => Self::QuotaOfIdempotencyKeys,
            Quota::McpConnections => Self::QuotaOfMcpConnections,
        }
    }

    /// Returns the name of the limit in metrics, log and answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HeadTime => "head_time",
            Self::HeadSize => "head_size",
            Self::BodyTime => "body_time",
            Self::WriteTime => "write_time",
            Self::Connections => "connections",
            Self::WithoutKey => "requests_without_key",
            Self::WaitingOfAgent => "waiting_per_agent",
            Self::WaitingOfKey => "waiting_per_key",
            Self::Waiting => "waiting",
            Self::ReadTime => "read_time",
            Self::RequestsOfAddress => "requests_per_address",
            Self::AllInWork => "connections_in_work",
            Self::DatabaseShare => "database_share",
            Self::QuotaOfLocks => "quota_locks",
            Self::QuotaOfSessions => "quota_sessions",
            Self::QuotaOfTasks => "quota_tasks",
            Self::QuotaOfMemories => "quota_memories",
            Self::QuotaOfHandoffs => "quota_handoffs",
            Self::QuotaOfIdempotencyKeys => "quota_idempotency_keys",
            Self::QuotaOfMcpConnections => "quota_mcp_connections",
            Self::BytesOfKey => "bytes_in_flight_per_key",
            Self::Bytes => "bytes_in_flight",
        }
    }
}

/// The client that reached a limit, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Party<'a> {
    /// The other end of the connection. Behind a proxy, the proxy.
    pub(crate) address: Option<IpAddr>,
    pub(crate) key: Option<&'a Key>,
    /// The workspace that the caller acts in. Unknown before authorization: then that of the key.
    pub(crate) workspace: Option<&'a str>,
    pub(crate) agent_id: Option<&'a str>,
}

/// Counts how often each limit was reached.
#[derive(Debug, Default)]
pub(crate) struct Limits([Reached; Limit::ALL.len()]);

#[derive(Debug, Default)]
struct Reached {
    count: AtomicU64,
    last_logged: Mutex<Option<Instant>>,
}

impl Limits {
    /// Counts that a limit was reached. Logs the client, unless another one was logged a moment ago.
    pub(crate) fn count(&self, limit: Limit, party: Party<'_>) {
        let Reached { count, last_logged } = &self.0[limit as usize];
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut last_logged = lock(last_logged);
        if last_logged.is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            return;
        }
        *last_logged = Some(now);
        drop(last_logged);
        let key = party.key.map(Key::fingerprint);
        let of_key = party.key.map(|key| key.identity.workspace.as_str());
        let address = party.address.map(|address| address.to_string());
        let workspace = party.workspace.or(of_key);
        let (limit, agent) = (limit.name(), party.agent_id);
        tracing::warn!(limit, count, address, key, workspace, agent, "a limit was reached");
    }

    /// Returns the samples for `/metrics`.
    pub(super) fn samples(&self) -> String {
        let samples = Limit::ALL.iter().zip(&self.0).map(|(limit, Reached { count, .. })| {
            let (name, count) = (limit.name(), count.load(Ordering::Relaxed));
            format!("coordinator_limits_reached_total{{limit=\"{name}\"}} {count}\n")
        });
        samples.collect()
    }
}

impl ShareObserver for Limits {
    fn waits_for_share(&self, workspace: &str) {
        self.count(Limit::DatabaseShare, Party { workspace: Some(workspace), ..Party::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_under_its_own_name() {
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place);
            let limits = Limits::default();
            limits.count(limit, Party::default());
            limits.count(limit, Party::default());
            let samples = limits.samples();
            let counted: Vec<_> = samples.lines().filter(|line| line.ends_with(" 2")).collect();
            let name = limit.name();
            let expected = format!("coordinator_limits_reached_total{{limit=\"{name}\"}} 2");
            assert_eq!(counted, [expected]);
        }
    }
}
