//! Acquiring a lock, and refreshing one that the caller holds.
use std::{borrow::Cow, sync::Arc};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::reasons::INVALID_FILE_PATH;
use crate::{
    access::{IdentityMode, TargetKind, policy},
    config::{Config, Quota, QuotaLimits},
    database::Db,
    operation::{
        Actor, Context, Meta, Operation, Poll, Tool, Transition, Waiter, column, is_quota_refusal,
    },
    values::{Error, LockKey, Result, Timestamp},
};

/// The agent id is blank.
const INVALID_AGENT_ID: &str = "invalid_agent_id";

/// `ttl_minutes` is negative or above the maximum.
const TTL_OUT_OF_RANGE: &str = "ttl_out_of_range";

/// The maximum lifetime of a lock that is not refreshed, in minutes.
const MAX_TTL_MINUTES: i64 = 480;

/// Lock a file, or another shared thing such as `db:migration-slot`, before you change it. Call it
/// again to extend a lock that you hold. If another agent holds the lock, the answer says who, why
/// and until when. Subagents with your agent id share your locks: `refreshed` says that you or one of
/// them held the lock already.
///
/// Keep the `fencing_token`: with it, verify_locks proves later that you did not lose the lock in
/// between.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct AcquireLock {
    /// What to lock: a path from the root of the repository, or a key with a namespace, such as
    /// `api:GET /users`, `db:schema:users` or `feature:FEAT-1:pause`.
    pub file_path: LockKey,
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Type of the calling agent. Empty: the key's own, else `X-Agent-Type`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_type: String,
    /// Session of the calling agent. With it, the lock belongs to this session only.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// Why you need the lock; shown to agents that it blocks. Absent: no reason, or, when you
    /// refresh the lock, the previous one.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub reason: Option<String>,
    /// Minutes until the lock expires, 1 to 480. 0: the service's default.
    #[serde(default = "default_ttl_minutes")]
    pub ttl_minutes: i64,
    /// Seconds to wait while another agent holds the lock. Waiters get the lock in the order of
    /// arrival, and each is answered as soon as it has it. The service sets a maximum. Over MCP, a
    /// call never waits for another session of your own agent.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub wait_seconds: i64,
}

fn default_ttl_minutes() -> i64 {
    30
}

/// The outcome of an acquisition.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Acquired {
    /// Whether you hold the lock now.
    pub success: bool,
    /// `acquired`, or `refreshed` if you, or another session or subagent of yours, held the lock
    /// already. Null when refused.
    pub action: Option<&'static str>,
    /// The key in canonical form. Null when refused.
    pub file_path: Option<String>,
    /// When your lock expires; when refused, when the holder's lock expires.
    pub expires_at: Option<Timestamp>,
    /// Why the lock was refused: `locked_by_other`, `locked_by_other_session`, `invalid_file_path`,
    /// `invalid_agent_id`, `ttl_out_of_range`, or `quota_exceeded: <what you or the workspace have too
    /// much of>`.
    pub reason: Option<String>,
    /// When refused: the agent that holds the lock.
    #[schemars(extend("x-untrusted" = true))]
    pub locked_by: Option<String>,
    /// When refused: the reason that the holder gave.
    #[schemars(extend("x-untrusted" = true))]
    pub lock_reason: Option<String>,
    /// A number that increases with each new holder of the key. A refresh keeps it. Null when
    /// refused.
    pub fencing_token: Option<i64>,
    /// Type of the agent that holds the lock.
    #[schemars(extend("x-untrusted" = "locked_by"))]
    pub agent_type: Option<String>,
    /// When the holder acquired the lock.
    pub locked_at: Option<Timestamp>,
    /// The holder's session. Null if it named none.
    #[schemars(extend("x-untrusted" = "locked_by"))]
    pub session_id: Option<String>,
    /// Position in the queue, starting at 1, when a request that waited is refused. Null if it left the
    /// queue before its time was over, because another session of yours holds the lock.
    pub position: Option<i64>,
    /// When another holder prevents the acquisition: true if you, or another session or subagent of
    /// yours, hold the lock. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_agent: Option<bool>,
    /// What to consider when the lock is held under your own agent id, by you or by another session
    /// or subagent of yours. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A lock that a cancelled call has acquired.
#[derive(Debug, Deserialize)]
struct TakenLock {
    key: String,
    token: i64,
    locked_at: Timestamp,
    expires_at: Timestamp,
}

/// The result of the database function `acquire_lock`.
#[derive(Debug)]
pub(crate) struct AcquireRow {
    verdict: String,
    agent_id: Option<String>,
    agent_type: Option<String>,
    session_id: Option<String>,
    reason: Option<String>,
    locked_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    token: Option<i64>,
    position: Option<i64>,
}

impl Operation for AcquireLock {
    type Output = Acquired;
    const META: Meta = Meta::write("acquire_lock")
        .acts_on(TargetKind::File)
        .at(&["POST /locks/acquire"])
        .identity(IdentityMode::Strict)
        .tool(
            Tool::named("acquire_lock")
                .default(&[("ttl_minutes", "0")])
                .remedies(&[(TTL_OUT_OF_RANGE, "ttl_minutes from 1 to 480, or 0 for the default")]),
        );

    const POLL: Option<Poll> = Some(Poll { kind: Self::META.name, find_ready: find_ready_waiters });

    fn example() -> Value {
        json!({
            "file_path": "src/main.rs",
            "agent_id": "claude-1",
            "agent_type": "claude_code",
            "session_id": "s-1",
            "reason": "refactor",
            "ttl_minutes": 30,
        })
    }

    fn target(&self) -> Cow<'_, str> {
        self.file_path.as_str().into()
    }

    fn should_wait(answer: &Acquired) -> bool {
        answer.locked_by.is_some()
    }

    fn waits_for_itself(answer: &Acquired) -> bool {
        answer.same_agent == Some(true)
    }

    fn took_effect(answer: &Acquired) -> bool {
        answer.success
    }

    /// A lock that the caller held before is in use.
    fn taken(answer: &Acquired) -> Option<Value> {
        let is_new = answer.action == Some("acquired");
        is_new.then(|| {
            json!({
                "key": answer.file_path,
                "token": answer.fencing_token,
                "locked_at": answer.locked_at,
                "expires_at": answer.expires_at,
            })
        })
    }

    fn give_back<'a>(taken: &'a Value, cx: Context<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let TakenLock { key, token, locked_at, expires_at } =
                TakenLock::deserialize(taken).map_err(|error| Error::Internal(error.into()))?;
            let actor = cx.actor();
            sqlx::query!(
                "select give_back_lock($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11)",
                actor.workspace,
                actor.request_id,
                actor.agent_id,
                actor.agent_type,
                actor.session_id,
                actor.elapsed_ms(),
                actor.session_timeout,
                key,
                token,
                locked_at as Timestamp,
                expires_at as Timestamp,
            )
            .execute(cx.db)
            .await?;
            Ok(())
        })
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Acquired> {
        let acquisition = self.acquisition(&cx);
        let denial = acquisition.denial.clone();
        let mut row = cx.transition(acquisition).await?;
        // A request that has left the queue has no place in it.
        row.position = row.position.filter(|_| !cx.has_given_up());
        cx.count_refusal(&row.verdict);
        self.to_answer(row, denial, &cx.caller.agent_id)
    }
}

impl AcquireLock {
    /// Returns the call that acquires the lock.
    fn acquisition(&self, cx: &Context<'_>) -> Acquisition {
        let file_limit = policy::file_limit(cx.caller, cx.config.enforce_profile_limits);
        let ttl_minutes = match self.ttl_minutes {
            0 => cx.config.lock_ttl_minutes,
            minutes => minutes,
        };
        Acquisition {
            actor: cx.actor(),
            key: self.file_path.as_str().to_owned(),
            is_file: self.file_path.is_file(),
            reason: self.reason.clone(),
            ttl_minutes: ttl_minutes as i32,
            refusal: self.refusal(cx),
            file_limit,
            denial: file_limit.map(policy::over_file_limit),
            engine: cx.services.engine.name(),
            waiter: cx.waiter_id(),
            can_wait: cx.can_wait(),
            quota: cx.config.quotas.of(Quota::Locks),
        }
    }

    /// Returns the refusals that do not depend on the lock's state.
    fn refusal(&self, cx: &Context<'_>) -> Option<&'static str> {
        if self.file_path.as_str().is_empty() {
            return Some(INVALID_FILE_PATH);
        }
        if cx.caller.agent_id.trim().is_empty() {
            return Some(INVALID_AGENT_ID);
        }
        (!(0..=MAX_TTL_MINUTES).contains(&self.ttl_minutes)).then_some(TTL_OUT_OF_RANGE)
    }

    /// Translates the verdict of `acquire_lock` for the agent that called it.
    fn to_answer(
        &self,
        row: AcquireRow,
        denial: Option<String>,
        agent_id: &str,
    ) -> Result<Acquired> {
        let is_own = row.agent_id.as_deref() == Some(agent_id);
        let action = match row.verdict.as_str() {
            "acquired" => "acquired",
            "refreshed" => "refreshed",
            "over_limit" => return Err(Error::Forbidden(denial.unwrap_or_default())),
            INVALID_FILE_PATH | INVALID_AGENT_ID | TTL_OUT_OF_RANGE => {
                return Ok(refused(row.verdict));
            }
            verdict if is_quota_refusal(verdict) => return Ok(refused(row.verdict)),
            _ => {
                return Ok(Acquired {
                    same_agent: Some(is_own),
                    note: is_own.then(|| {
                        format!(
                            "{}{}",
                            note(row.locked_at),
                            how_to_go_on(row.session_id.as_deref())
                        )
                    }),
                    reason: Some(row.verdict),
                    expires_at: row.expires_at,
                    locked_by: row.agent_id,
                    lock_reason: row.reason,
                    agent_type: row.agent_type,
                    locked_at: row.locked_at,
                    session_id: row.session_id,
                    position: row.position,
                    ..Acquired::default()
                });
            }
        };
        Ok(Acquired {
            success: true,
            action: Some(action),
            file_path: Some(self.file_path.as_str().to_owned()),
            expires_at: row.expires_at,
            fencing_token: row.token,
            agent_type: row.agent_type,
            locked_at: row.locked_at,
            session_id: row.session_id,
            note: (action == "refreshed").then(|| note(row.locked_at)),
            ..Acquired::default()
        })
    }
}

/// Returns the answer to a request that no holder keeps from the lock.
fn refused(reason: String) -> Acquired {
    Acquired { reason: Some(reason), ..Acquired::default() }
}

/// Returns what an agent should consider that finds a lock held under its own id.
fn note(locked_at: Option<Timestamp>) -> String {
    let holder = "You, or another session or subagent of yours,";
    match locked_at {
        Some(since) => format!(
            "{holder} hold this lock since {since}: make sure that only one of you changes what it protects."
        ),
        None => format!("{holder} are ahead of this request in the queue of the lock."),
    }
}

/// Returns how an agent goes on that is refused because of another session of its own.
fn how_to_go_on(holder: Option<&str>) -> String {
    let Some(session_id) = holder else { return String::new() };
    format!(
        " It belongs to your session `{session_id}`. If that session still works, leave the lock to it. Its \
         fencing token proves and releases the lock in any session, and register_session with `adopt` lists \
         the token and takes over what your other sessions hold."
    )
}

/// A call of the database function `acquire_lock`.
#[derive(Debug)]
pub(crate) struct Acquisition {
    actor: Actor,
    key: String,
    is_file: bool,
    reason: Option<String>,
    ttl_minutes: i32,
    refusal: Option<&'static str>,
    file_limit: Option<i64>,
    /// The text of the 403 for a caller over its file limit.
    denial: Option<String>,
    engine: &'static str,
    waiter: Option<Uuid>,
    can_wait: bool,
    quota: QuotaLimits,
}

impl Transition for Acquisition {
    type Row = AcquireRow;

    async fn call(&self, db: &mut Db) -> Result<AcquireRow> {
        let row = sqlx::query_as!(
            AcquireRow,
            r#"
            select
                verdict as "verdict!", agent_id, agent_type, session_id, reason,
                locked_at as "locked_at: Timestamp", expires_at as "expires_at: Timestamp", token,
                queue_position as position
            from acquire_lock(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, make_interval(mins => $11),
                $12, $13, $14, $15, $16, $17, $18
            )
            "#,
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.key,
            self.is_file,
            self.reason,
            self.ttl_minutes,
            self.refusal,
            self.file_limit,
            self.denial,
            self.engine,
            self.waiter,
            self.can_wait,
            &self.quota,
        )
        .fetch_one(db)
        .await?;
        Ok(row)
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<AcquireRow>> {
        let limited =
            column(requests, |request| request.file_limit.map(|_| request.actor.agent_id.as_str()));
        let rows = sqlx::query_as!(
            AcquireRow,
            r#"
            select
                a.verdict as "verdict!", a.agent_id, a.agent_type, a.session_id, a.reason,
                a.locked_at as "locked_at: Timestamp", a.expires_at as "expires_at: Timestamp",
                a.token, a.queue_position as position
            from begin_gathered_call($1, $18::text[]) as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::bool[], $10::text[],
                $11::int[], $12::text[], $13::bigint[], $14::text[], $15::text[], $16::uuid[],
                $17::bool[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, key, is_file,
                reason, ttl_minutes, refusal, file_limit, denial, engine, waiter_id, may_wait, n
            ),
            acquire_lock(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.key, r.is_file, r.reason, make_interval(mins => r.ttl_minutes), r.refusal,
                r.file_limit, r.denial, r.engine, r.waiter_id, r.may_wait, $19
            ) a
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
            &column(requests, |request| request.is_file),
            &column(requests, |request| request.reason.as_deref()) as _,
            &column(requests, |request| request.ttl_minutes),
            &column(requests, |request| request.refusal) as _,
            &column(requests, |request| request.file_limit) as _,
            &column(requests, |request| request.denial.as_deref()) as _,
            &column(requests, |request| request.engine) as _,
            &column(requests, |request| request.waiter) as _,
            &column(requests, |request| request.can_wait),
            &limited as _,
            quota(requests),
        )
        .fetch_all(db)
        .await?;
        Ok(rows)
    }

    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        format!("{}\n{}", self.actor.workspace, self.key)
    }
}

/// Returns the quota, which all requests of a process have in common.
fn quota(requests: &[Arc<Acquisition>]) -> Option<&[i32]> {
    requests.first().map(|request| &request.quota[..])
}

/// Extends the lifetimes of the waiters and returns those whose lock is free.
fn find_ready_waiters<'a>(
    db: &'a mut Db,
    config: &'a Config,
    waiters: &'a [Arc<Waiter>],
) -> BoxFuture<'a, Result<Vec<Uuid>>> {
    Box::pin(async move {
        let ready = sqlx::query_scalar!(
            r#"select id as "id!" from poll_lock_waiters($1, $2, $3) id"#,
            waiters.first().map(|waiter| waiter.caller.workspace.as_str()),
            &column(waiters, |waiter| waiter.id),
            config.session_timeout(),
        )
        .fetch_all(db)
        .await?;
        Ok(ready)
    })
}
