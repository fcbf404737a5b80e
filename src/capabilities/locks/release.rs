//! Giving a lock back, and freeing one that somebody else holds.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{NOT_LOCKED, STALE_FENCING_TOKEN};
use crate::{
    LockKey, Result, Timestamp,
    audit::audited,
    operation::{Context, IdentityMode, Meta, Operation},
    tool::Tool,
};

const LOCK_NOT_FOUND_OR_NOT_OWNER: &str = "lock_not_found_or_not_owner";

/// Give back a lock you hold, as soon as you are done with it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ReleaseLock {
    /// The key, as when it was locked.
    pub file_path: LockKey,
    /// The calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// When given, it must be the session that holds the lock, if one does.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// When given, it must be the lock's current token.
    pub fencing_token: Option<i64>,
}

/// What became of a release.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Released {
    /// Whether the lock was released.
    pub success: bool,
    /// `released`.
    pub action: Option<&'static str>,
    /// The key in canonical form; null when refused.
    pub file_path: Option<String>,
    /// Why it was refused: `lock_not_found_or_not_owner` or `stale_fencing_token`.
    pub reason: Option<String>,
}

struct ReleaseRow {
    reason: Option<String>,
}

impl Operation for ReleaseLock {
    type Output = Released;
    const META: Meta = Meta::write("release_lock")
        .at(&["POST /locks/release"])
        .identity(IdentityMode::StrictId)
        .tool(Tool::named("release_lock"));

    fn example() -> Value {
        json!({ "file_path": "src/main.rs", "agent_id": "claude-1" })
    }

    fn resource(&self) -> Cow<'_, str> {
        self.file_path.as_str().into()
    }

    fn took_effect(answer: &Released) -> bool {
        answer.success
    }

    async fn run(self, cx: Context<'_>) -> Result<Released> {
        // The row is locked only when it is the caller's: nobody else's lock is touched.
        let row = audited!(
            ReleaseRow,
            cx,
            Self::META.audit(),
            json!({ "file_path": self.file_path.as_str() }),
            r#"
            mine as (
                select workspace, key, token from file_lock
                where workspace = $1 and key = $10 and expires_at > clock_timestamp()
                    and not session_lost(workspace, agent_id, session_id, locked_at, $9)
                    and agent_id = $2 and coalesce(session_id = $4, true)
                for update
            ), freed as (
                update file_lock l set
                    agent_id = null, agent_type = null, session_id = null, reason = null,
                    locked_at = null, expires_at = null
                from mine
                where l.workspace = mine.workspace and l.key = mine.key
                    and coalesce(mine.token = $11::bigint, true)
                returning l.key
            ), judged as (
                select case
                    when exists (select from freed) then null
                    when exists (select from mine) then $12::text
                    else $13::text
                end as reason
            ), op as (
                select
                    reason,
                    reason is null as audit_success,
                    case when reason is null then jsonb_build_object('action', 'released')
                        else jsonb_build_object('reason', reason) end as audit_result
                from judged
            )
            "#,
            r#"op.reason as "reason?""#,
            self.file_path.as_str(),
            self.fencing_token,
            STALE_FENCING_TOKEN,
            LOCK_NOT_FOUND_OR_NOT_OWNER,
        )
        .fetch_one(cx.db)
        .await?;
        let success = row.reason.is_none();
        Ok(Released {
            success,
            action: success.then_some("released"),
            file_path: success.then(|| self.file_path.as_str().to_owned()),
            reason: row.reason,
        })
    }
}

/// Free a lock whoever holds it, when its holder is gone or stuck. Needs elevated trust.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ForceReleaseLock {
    /// The key; the rest of the path with its slashes.
    pub path: LockKey,
    /// When given, the lock is freed only while this is its current token.
    pub fencing_token: Option<i64>,
}

/// What became of a forced release.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ForceReleased {
    /// Whether a lock was freed.
    pub released: bool,
    /// Who held it.
    #[schemars(extend("x-untrusted" = true))]
    pub prior_holder_agent_id: Option<String>,
    /// Since when.
    pub prior_acquired_at: Option<Timestamp>,
    /// Why nothing was freed: `not_locked` or `stale_fencing_token`.
    pub reason: Option<String>,
}

impl Operation for ForceReleaseLock {
    type Output = ForceReleased;
    const META: Meta = Meta::admin("force_release_lock")
        .at(&["DELETE /locks/{*path}"])
        .tool(Tool::named("force_release_lock").rename(&[("path", "file_path")]));

    fn example() -> Value {
        json!({ "path": "src/main.rs" })
    }

    fn resource(&self) -> Cow<'_, str> {
        self.path.as_str().into()
    }

    fn took_effect(answer: &ForceReleased) -> bool {
        answer.released
    }

    async fn run(self, cx: Context<'_>) -> Result<ForceReleased> {
        let released = audited!(
            ForceReleased,
            cx,
            Self::META.audit(),
            json!({ "file_path": self.path.as_str() }),
            r#"
            prior as (
                select workspace, key, token, agent_id, locked_at from file_lock
                where workspace = $1 and key = $10 and expires_at > clock_timestamp()
                    and not session_lost(workspace, agent_id, session_id, locked_at, $9)
                for update
            ), freed as (
                update file_lock l set
                    agent_id = null, agent_type = null, session_id = null, reason = null,
                    locked_at = null, expires_at = null
                from prior
                where l.workspace = prior.workspace and l.key = prior.key
                    and coalesce(prior.token = $11::bigint, true)
                returning prior.agent_id, prior.locked_at, prior.token
            ), op as (
                select
                    f.token is not null as released, f.agent_id, f.locked_at,
                    case
                        when f.token is not null then null
                        when exists (select from prior) then $12::text
                        else $13::text
                    end as reason,
                    f.token is not null as audit_success,
                    case
                        when f.token is not null then jsonb_build_object(
                            'prior_holder_agent_id', f.agent_id, 'fencing_token', f.token)
                        when exists (select from prior) then jsonb_build_object('reason', $12::text)
                        else jsonb_build_object('reason', $13::text)
                    end as audit_result
                from (select) one left join freed f on true
            )
            "#,
            r#"
            op.released as "released!", op.agent_id as "prior_holder_agent_id?",
            op.locked_at as "prior_acquired_at?: Timestamp", op.reason as "reason?"
            "#,
            self.path.as_str(),
            self.fencing_token,
            STALE_FENCING_TOKEN,
            NOT_LOCKED,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(released)
    }
}
