//! Verifying locks by their fencing tokens, where the protected effect happens.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reasons::{INVALID_FILE_PATH, NOT_LOCKED, STALE_FENCING_TOKEN};
use crate::{
    access::{IdentityMode, TargetKind},
    operation::{Context, Meta, Operation, Tool},
    values::{LockKey, Result, Timestamp},
};

/// Check that you still hold your locks, by their fencing tokens: before a commit, a push or a
/// merge. All locks are judged at one moment.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct VerifyLocks {
    /// The locks to check, 1 to 1000.
    #[schemars(length(min = 1, max = 1000))]
    pub locks: Vec<HeldToken>,
}

/// A lock key and the fencing token that its lock should have.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct HeldToken {
    /// The lock key, as given to acquire_lock.
    pub file_path: LockKey,
    /// The token that acquire_lock returned.
    pub fencing_token: i64,
}

/// Whether all locks are held with the given tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Verified {
    /// Whether every result is valid.
    pub valid: bool,
    /// One result for each lock, in the order of the request.
    pub results: Vec<VerifiedLock>,
}

/// Whether one lock is held with the given token.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VerifiedLock {
    /// The key in canonical form.
    pub file_path: String,
    /// The token of the request.
    pub fencing_token: i64,
    /// Whether the key has a live lock with this token.
    pub valid: bool,
    /// `stale_fencing_token`, `not_locked` or `invalid_file_path`. Null if the lock is valid.
    pub reason: Option<String>,
    /// The agent that holds the lock. Null if the key is not locked.
    #[schemars(extend("x-untrusted" = true))]
    pub locked_by: Option<String>,
    /// When that lock expires.
    pub expires_at: Option<Timestamp>,
    /// True if the lock with this token was given back and nobody has locked the key since. Absent
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_back: Option<bool>,
}

impl Operation for VerifyLocks {
    type Output = Verified;
    const META: Meta = Meta::read("verify_locks")
        .acts_on(TargetKind::File)
        .at(&["POST /locks/verify"])
        .identity(IdentityMode::Strict)
        .tool(Tool::named("verify_locks").takes_any_key());

    fn example() -> Value {
        json!({ "locks": [{ "file_path": "src/main.rs", "fencing_token": 41 }] })
    }

    async fn run(self, cx: Context<'_>) -> Result<Verified> {
        let keys: Vec<_> =
            self.locks.iter().map(|lock| lock.file_path.as_str().to_owned()).collect();
        let tokens: Vec<_> = self.locks.iter().map(|lock| lock.fencing_token).collect();
        let results = sqlx::query_as!(
            VerifiedLock,
            r#"
            select
                asked.key as "file_path!",
                asked.token as "fencing_token!",
                coalesce(held.is_live and held.token = asked.token, false) as "valid!",
                case
                    when asked.key = '' then $4
                    when held.is_live is not true then $5
                    when held.token <> asked.token then $6
                end as reason,
                case when held.is_live then held.agent_id end as locked_by,
                case when held.is_live then held.expires_at end as "expires_at: Timestamp",
                case when held.agent_id is null and held.token = asked.token then true end
                    as given_back
            from unnest($2::text[], $3::bigint[]) with ordinality as asked (key, token, n)
            left join lateral (
                select l.token, l.agent_id, l.expires_at,
                    is_live_with_session(l.locked_at, l.expires_at, $7, statement_timestamp(),
                        s.ended_at, s.last_heartbeat_at, s.revived_at) as is_live
                from file_lock l
                left join lateral (
                    select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                    where s.workspace = $1 and s.agent_id = l.agent_id
                        and s.session_id = l.session_id
                    limit 1
                ) s on true
                where l.workspace = $1 and l.key = asked.key
                limit 1
            ) held on true
            order by asked.n
            "#,
            cx.caller.workspace,
            &keys,
            &tokens,
            INVALID_FILE_PATH,
            NOT_LOCKED,
            STALE_FENCING_TOKEN,
            cx.config.session_timeout(),
        )
        .fetch_all(cx.db)
        .await?;
        Ok(Verified { valid: results.iter().all(|lock| lock.valid), results })
    }
}
