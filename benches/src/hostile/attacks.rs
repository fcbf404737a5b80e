//! The attacks.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;

use super::{lists, sockets};
use crate::Result;

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// 1,000 clients with small buffers that pipeline requests for the largest page and read no answer
    UnreadAnswers,
    /// 2,500 clients that send the beginning of a request, and come back when they are disconnected
    SlowHeads,
    /// 1,000 requests of one key that wait for a lock
    Waiters,
    /// 60 waiting requests with a body of 1 MB, nearly all of it unknown members
    LargeBodies,
    /// Lists of 40 rows that have 1 MiB each
    LargeRows,
    /// 200,000 silent sessions with a lock each, while the server sweeps them
    SilentSessions,
    /// 50 clients that search 100,000 audit entries for one that does not exist
    AuditSearch,
}

/// What is attacked.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The port of the service.
    pub(super) port: u16,
    pub(super) done: Arc<Done>,
}

/// What the attacker has done: the number of connections or requests.
#[derive(Debug, Default)]
pub(super) struct Done(AtomicUsize);

impl Done {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Attack {
    /// Returns the name, as on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|it| it.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns the name of its database.
    pub(super) fn database(self) -> String {
        self.name().replace('-', "_")
    }

    /// Attacks until it is dropped.
    pub(super) async fn run(self, target: &Target) -> Result<()> {
        match self {
            Attack::UnreadAnswers => sockets::read_nothing(target).await,
            Attack::SlowHeads => sockets::send_heads_slowly(target).await,
            Attack::Waiters => sockets::wait(target, sockets::WAITERS, sockets::NO_JUNK).await,
            Attack::LargeBodies => sockets::wait(target, sockets::BODIES, sockets::JUNK).await,
            Attack::LargeRows => lists::read_large_rows(target).await,
            Attack::SilentSessions => pending().await,
            Attack::AuditSearch => lists::search_audit(target).await,
        }
    }

    /// Returns what is counted as done.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Attack::UnreadAnswers | Attack::SlowHeads => "connections",
            Attack::Waiters | Attack::LargeBodies | Attack::LargeRows | Attack::AuditSearch => {
                "requests"
            }
            Attack::SilentSessions => "sessions ended",
        }
    }

    /// Returns the query that counts what was done, where the attacker cannot.
    pub(super) fn counted_by(self) -> Option<&'static str> {
        let ended = "select count(*)::text from agent_session where ended_at is not null";
        (self == Attack::SilentSessions).then_some(ended)
    }

    /// Returns the time from the start of the process to the attack. The first sweep comes after 30 s.
    pub(super) fn begins_after(self) -> Duration {
        match self {
            Attack::SilentSessions => Duration::from_secs(28),
            _ => Duration::ZERO,
        }
    }

    /// Returns the statements that insert the rows of the attack.
    pub(super) fn seed(self) -> &'static str {
        match self {
            Attack::LargeRows => LARGE_ROWS,
            Attack::SilentSessions => SILENT_SESSIONS,
            Attack::AuditSearch => AUDIT_ENTRIES,
            _ => "",
        }
    }
}

/// The sessions are in workspace `default`, which can be read without a key.
const LARGE_ROWS: &str = "
    insert into memory (workspace, agent_id, event_type, summary, summary_digest, details, lessons, tags)
    select 'attack', 'attacker', 'decision', 'Large memory ' || n, decode(md5(n::text), 'hex'),
        ('{\"a\":[0' || repeat(',0', 524000) || ']}')::jsonb, '{}', '{}'
    from generate_series(1, 40) n;
    insert into handoff (
        workspace, agent_id, agent_type, summary, completed_work, in_progress, decisions, next_steps,
        relevant_files, content)
    select 'attack', 'attacker', 'claude_code', 'Large handoff ' || n, '[]', '[]', '[]', '[]', '[]',
        ('{\"a\":[0' || repeat(',0', 524000) || ']}')::json
    from generate_series(1, 40) n;
    insert into agent_session (workspace, agent_id, session_id, agent_type, metadata)
    select 'default', 'agent-' || n, 'session', 'claude_code',
        ('{\"a\":[0' || repeat(',0', 524000) || ']}')::jsonb
    from generate_series(1, 40) n";

const SILENT_SESSIONS: &str = "
    insert into agent_session (workspace, agent_id, session_id, agent_type, started_at, last_heartbeat_at)
    select 'attack', 'agent-' || n / 100, 'session-' || n, 'claude_code', now() - interval '1 day',
        now() - interval '1 day'
    from generate_series(1, 200000) n;
    insert into file_lock (
        workspace, key, token, is_file, agent_id, agent_type, session_id, locked_at, expires_at)
    select 'attack', 'src/file-' || n || '.rs', 1, true, 'agent-' || n / 100, 'claude_code', 'session-' || n,
        now() - interval '1 day', now() + interval '8 hours'
    from generate_series(1, 200000) n";

const AUDIT_ENTRIES: &str = "
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms)
    select 'attack', 'agent-' || n % 500, 'claude_code', 'session-' || n % 2000, md5(n::text),
        'check_guardrails', '{\"operation_text\": \"git status --short\"}',
        '{\"blocked\": false, \"violations\": []}', true, 1
    from generate_series(1, 100000) n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_serve_as_names_of_databases() {
        for attack in Attack::value_variants() {
            let name = attack.database();
            assert!(
                !name.is_empty() && name.chars().all(|it| it.is_ascii_lowercase() || it == '_')
            );
        }
    }
}
