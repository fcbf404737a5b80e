//! Releasing a lock, and force-releasing a lock of another agent.
use std::{borrow::Cow, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    access::{IdentityMode, TargetKind},
    database::Db,
    operation::{Actor, Context, Meta, Operation, Tool, Transition, column},
    values::{LockKey, Result, Timestamp},
};

/// Release a lock that you hold, as soon as you no longer need it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ReleaseLock {
    /// The lock key, as given to acquire_lock.
    pub file_path: LockKey,
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// The holder's session. Absent, or if the holder named none: not checked.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// The lock's current fencing token. Absent: not checked.
    pub fencing_token: Option<i64>,
}

/// The outcome of a release.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Released {
    /// Whether the lock was released.
    pub success: bool,
    /// `released`. Null when refused.
    pub action: Option<&'static str>,
    /// The key in canonical form. Null when refused.
    pub file_path: Option<String>,
    /// Why the release was refused: `lock_not_found_or_not_owner` or `stale_fencing_token`.
    pub reason: Option<String>,
}

impl Operation for ReleaseLock {
    type Output = Released;
    const META: Meta = Meta::write("release_lock")
        .acts_on(TargetKind::File)
        .at(&["POST /locks/release"])
        .identity(IdentityMode::StrictId)
        .tool(Tool::named("release_lock").takes_any_key());

    fn example() -> Value {
        json!({ "file_path": "src/main.rs", "agent_id": "claude-1" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.file_path.as_str().into()
    }

    fn took_effect(answer: &Released) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Released> {
        let release = Release {
            actor: cx.actor(),
            key: self.file_path.as_str().to_owned(),
            token: self.fencing_token,
        };
        let reason = cx.transition(release).await?;
        let is_released = reason.is_none();
        Ok(Released {
            success: is_released,
            action: is_released.then_some("released"),
            file_path: is_released.then(|| self.file_path.as_str().to_owned()),
            reason,
        })
    }
}

/// A call of the database function `release_lock`, which returns a refusal or null.
#[derive(Debug)]
pub(crate) struct Release {
    actor: Actor,
    key: String,
    token: Option<i64>,
}

impl Transition for Release {
    type Row = Option<String>;

    async fn call(&self, db: &mut Db) -> Result<Option<String>> {
        let refusal = sqlx::query_scalar!(
            "select refusal from release_lock($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9)",
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.key,
            self.token,
        )
        .fetch_one(db)
        .await?;
        Ok(refusal)
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<Option<String>>> {
        let refusals = sqlx::query_scalar!(
            r#"
            select a.refusal
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::bigint[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, key, token, n
            ),
            release_lock(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.key, r.token
            ) a (refusal)
            order by r.n
            "#,
            &column(requests, |request| request.actor.workspace.as_str()) as _,
            &column(requests, |request| request.actor.request_id.as_str()) as _,
            &column(requests, |request| request.actor.agent_id.as_str()) as _,
            &column(requests, |request| request.actor.agent_type.as_str()) as _,
            &column(requests, |request| request.actor.session_id.as_deref()) as _,
            &column(requests, |request| request.actor.elapsed_ms()),
            &column(requests, |request| request.actor.session_timeout.clone()),
            &column(requests, |request| request.key.as_str()) as _,
            &column(requests, |request| request.token) as _,
        )
        .fetch_all(db)
        .await?;
        Ok(refusals)
    }

    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        format!("{}\n{}", self.actor.workspace, self.key)
    }
}

/// Release a lock of any agent when its holder is gone or stuck. Needs elevated trust.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ForceReleaseLock {
    /// The lock key. In a URL: the rest of the path, with its slashes.
    pub path: LockKey,
    /// The lock's current fencing token. Absent: not checked.
    pub fencing_token: Option<i64>,
}

/// The outcome of a forced release.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ForceReleased {
    /// Whether a lock was released.
    pub released: bool,
    /// The agent that held the lock. Null if nothing was released.
    #[schemars(extend("x-untrusted" = true))]
    pub prior_holder_agent_id: Option<String>,
    /// When that agent acquired the lock.
    pub prior_acquired_at: Option<Timestamp>,
    /// Why nothing was released: `not_locked` or `stale_fencing_token`.
    pub reason: Option<String>,
}

impl Operation for ForceReleaseLock {
    type Output = ForceReleased;
    const META: Meta = Meta::admin("force_release_lock")
        .acts_on(TargetKind::File)
        .at(&["DELETE /locks/{*path}"])
        .tool(Tool::named("force_release_lock").rename(&[("path", "file_path")]).takes_any_key());

    fn example() -> Value {
        json!({ "path": "src/main.rs" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.path.as_str().into()
    }

    fn took_effect(answer: &ForceReleased) -> bool {
        answer.released
    }

    async fn run(self, cx: Context<'_>) -> Result<ForceReleased> {
        let released = sqlx::query_as!(
            ForceReleased,
            r#"
            select
                released as "released!", prior_agent_id as prior_holder_agent_id,
                prior_locked_at as "prior_acquired_at: Timestamp", reason
            from force_release_lock($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.path.as_str(),
            self.fencing_token,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(released)
    }
}
