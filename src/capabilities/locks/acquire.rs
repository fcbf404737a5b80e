//! Taking a lock, or extending one.
use std::{borrow::Cow, sync::Arc};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::INVALID_FILE_PATH;
use crate::{
    Config, Error, LockKey, Result, Timestamp,
    audit::audited,
    db::Db,
    operation::{Context, IdentityMode, Meta, Operation},
    policy,
    tool::Tool,
    waiting::Ticket,
};

const INVALID_AGENT_ID: &str = "invalid_agent_id";
const TTL_OUT_OF_RANGE: &str = "ttl_out_of_range";

/// The longest a lock may live without being refreshed, in minutes.
const MAX_TTL_MINUTES: i64 = 480;

/// Seconds that a place in a queue lasts after the last look for the request that waits there.
const PLACE_SECONDS: f64 = 3.0;

/// How often an acquisition that lost a race is judged again before it gives up.
const MAX_RACES: u32 = 32;

/// Lock a file, or another shared thing such as `db:migration-slot`, before changing it. Repeat the
/// call to extend a lock you hold. When somebody else holds it, the answer says who, why and until
/// when.
///
/// Keep the `fencing_token`: it proves later, with verify_locks, that the lock was never lost.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct AcquireLock {
    /// Path from the repository's root, or a namespaced key such as `api:GET /users`,
    /// `db:schema:users`, `feature:FEAT-1:pause`.
    pub file_path: LockKey,
    /// The calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Type of the calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_type: String,
    /// Session of the calling agent; the lock then belongs to this session alone.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// Why you need it; shown to the agents it holds up. A refresh without one keeps the old one.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub reason: Option<String>,
    /// Minutes until the lock expires by itself, 1 to 480; 0 takes the service's default.
    #[serde(default = "default_ttl_minutes")]
    pub ttl_minutes: i64,
    /// Seconds to wait for the lock while another holds it: whoever waits gets it in the order of
    /// arrival, and is answered as soon as it does. The service sets an upper bound.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub wait_seconds: i64,
}

fn default_ttl_minutes() -> i64 {
    30
}

/// What became of an acquisition.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Acquired {
    /// Whether you hold the lock now.
    pub success: bool,
    /// `acquired`, or `refreshed` when you held it already.
    pub action: Option<&'static str>,
    /// The key in canonical form; null when refused.
    pub file_path: Option<String>,
    /// When your lock, or that of its holder, expires.
    pub expires_at: Option<Timestamp>,
    /// Why it was refused: `locked_by_other`, `locked_by_other_session`, `invalid_file_path`,
    /// `invalid_agent_id` or `ttl_out_of_range`.
    pub reason: Option<String>,
    /// Who holds it, when refused.
    #[schemars(extend("x-untrusted" = true))]
    pub locked_by: Option<String>,
    /// Why the holder locked it.
    #[schemars(extend("x-untrusted" = true))]
    pub lock_reason: Option<String>,
    /// Number that only rises for this key; unchanged by a refresh.
    pub fencing_token: Option<i64>,
    /// Type of the holder.
    #[schemars(extend("x-untrusted" = "locked_by"))]
    pub agent_type: Option<String>,
    /// Since when the holder has it.
    pub locked_at: Option<Timestamp>,
    /// Session of the holder.
    #[schemars(extend("x-untrusted" = "locked_by"))]
    pub session_id: Option<String>,
    /// Place in the queue, when the request waited.
    pub position: Option<i64>,
}

struct AcquireRow {
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
        .at(&["POST /locks/acquire"])
        .identity(IdentityMode::Strict)
        .tool(Tool::named("acquire_lock").default(&[("ttl_minutes", "0")]));

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

    fn resource(&self) -> Cow<'_, str> {
        self.file_path.as_str().into()
    }

    fn wait_seconds(&self) -> i64 {
        self.wait_seconds
    }

    fn took_effect(answer: &Acquired) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Acquired> {
        let file_limit = policy::file_limit(cx.caller, cx.config.enforce_profile_limits);
        for _ in 0..MAX_RACES {
            let Some(row) = self.attempt(&mut cx, file_limit).await? else {
                // Somebody took the key after this statement's snapshot was made: the next one
                // sees who.
                continue;
            };
            return self.answer(&cx, row, file_limit);
        }
        Err(Error::Unavailable("the key changed hands too often to be judged".into()))
    }
}

impl AcquireLock {
    /// What is wrong with the request whoever holds the lock.
    fn refusal(&self, cx: &Context<'_>) -> Option<&'static str> {
        if self.file_path.as_str().is_empty() {
            return Some(INVALID_FILE_PATH);
        }
        if cx.caller.agent_id.trim().is_empty() {
            return Some(INVALID_AGENT_ID);
        }
        (!(0..=MAX_TTL_MINUTES).contains(&self.ttl_minutes)).then_some(TTL_OUT_OF_RANGE)
    }

    /// Judges and records the acquisition in one statement. A key that is free still belongs to
    /// whoever waits for it the longest: to everybody else that one is its holder.
    /// A live holder is looked for first: the loser
    /// then never touches the holder's row, so losers do not queue behind one another. No
    /// row means that a race was lost to somebody the statement cannot see yet.
    ///
    /// Whether a lock is live is judged by the statement's start, which is the same in every
    /// clause and, after a wait for the row, too early rather than too late. What is granted is
    /// counted from the moment of the grant.
    async fn attempt(
        &self,
        cx: &mut Context<'_>,
        file_limit: Option<i64>,
    ) -> Result<Option<AcquireRow>> {
        let ttl_minutes = match self.ttl_minutes {
            0 => cx.config.lock_ttl_minutes,
            minutes => minutes,
        };
        let row = audited!(
            AcquireRow,
            cx,
            Self::META.audit(),
            json!({ "file_path": self.file_path.as_str(), "reason": self.reason }),
            r#"
            gate as materialized (
                select coalesce(
                    $12 and count_other_file_locks($1, $2, $10, $9) >= $15::bigint, false
                ) as over_limit
            ), holder as materialized (
                select
                    agent_id, agent_type, session_id, reason, locked_at, expires_at,
                    coalesce(agent_id <> $2 or session_id <> $4, false) as is_other
                from file_lock
                where workspace = $1 and key = $10 and expires_at > statement_timestamp()
                    and not session_lost(workspace, agent_id, session_id, locked_at, $9)
            ), own as materialized (
                select waiting_since, place from lock_waiter where workspace = $1 and place = $16
            ), ahead as materialized (
                select w.agent_id, w.agent_type, w.session_id, w.reason, w.alive_until
                from lock_waiter w left join own on true
                where w.workspace = $1 and w.key = $10 and w.alive_until > statement_timestamp()
                    and (w.agent_id <> $2 or w.session_id <> $4)
                    and (own.place is null
                        or (w.waiting_since, w.place) < (own.waiting_since, own.place))
                order by w.waiting_since, w.place
            ), held as materialized (
                select agent_id, agent_type, session_id, reason, locked_at, expires_at
                from holder where is_other
                union all (
                    select agent_id, agent_type, session_id, reason, null, alive_until
                    from ahead where not exists (select from holder) limit 1
                )
            ), taken as (
                insert into file_lock as l (
                    workspace, key, token, is_file, agent_id, agent_type, session_id, reason,
                    locked_at, expires_at
                )
                select
                    $1, $10, 1, $12, $2, $3, $4, $13,
                    clock_timestamp(), clock_timestamp() + make_interval(mins => $14)
                from gate
                where not over_limit and $11::text is null and not exists (select from held)
                on conflict (workspace, key) do update set (
                    token, agent_id, agent_type, session_id, reason, locked_at, expires_at,
                    refresh_count, took_over_from
                ) = (
                    select
                        case when live then l.token else l.token + 1 end,
                        excluded.agent_id,
                        case when live then l.agent_type else excluded.agent_type end,
                        case when live then l.session_id else excluded.session_id end,
                        case when live then coalesce(excluded.reason, l.reason)
                            else excluded.reason end,
                        case when live then l.locked_at else clock_timestamp() end,
                        clock_timestamp() + make_interval(mins => $14),
                        case when live then l.refresh_count + 1 else 0 end,
                        case when live then l.took_over_from else l.agent_id end
                    from (
                        select coalesce(l.expires_at > statement_timestamp(), false)
                            and not session_lost(l.workspace, l.agent_id, l.session_id, l.locked_at, $9)
                    ) of (live)
                )
                where l.expires_at is null
                    or l.expires_at <= statement_timestamp()
                    or session_lost(l.workspace, l.agent_id, l.session_id, l.locked_at, $9)
                    or (l.agent_id = $2 and coalesce(l.session_id = $4, true))
                returning *
            ), queued as (
                insert into lock_waiter as w (
                    workspace, place, key, agent_id, agent_type, session_id, reason, alive_until
                )
                select
                    $1, $16, $10, $2, $3, $4, $13,
                    clock_timestamp() + make_interval(secs => $18)
                from gate
                where $17 and not over_limit and $11::text is null and exists (select from held)
                    and not exists (select from taken)
                on conflict (workspace, place) do update set alive_until = excluded.alive_until
            ), unqueued as (
                delete from lock_waiter
                where workspace = $1 and place = $16 and (not $17 or exists (select from taken))
            ), op as (
                select
                    case
                        when g.over_limit then 'over_limit'
                        when $11 is not null then $11
                        when t.refresh_count = 0 then 'acquired'
                        when t.refresh_count > 0 then 'refreshed'
                        when h.agent_id = $2 then 'locked_by_other_session'
                        else 'locked_by_other'
                    end as verdict,
                    coalesce(t.agent_id, h.agent_id) as agent_id,
                    coalesce(t.agent_type, h.agent_type) as agent_type,
                    case when t.key is null then h.session_id else t.session_id end as session_id,
                    case when t.key is null then h.reason else t.reason end as reason,
                    coalesce(t.locked_at, h.locked_at) as locked_at,
                    coalesce(t.expires_at, h.expires_at) as expires_at,
                    t.token,
                    case when $16::uuid is not null then (select count(*) + 1 from ahead) end
                        as position,
                    case
                        when t.key is not null then true
                        when not g.over_limit and ($11 is not null or not $17) then false
                    end as audit_success,
                    case
                        when t.key is not null then jsonb_build_object(
                            'action', case when t.refresh_count = 0 then 'acquired'
                                else 'refreshed' end,
                            'fencing_token', t.token,
                            'took_over_from', case when t.refresh_count = 0
                                then t.took_over_from end
                        )
                        else jsonb_build_object(
                            'reason', case
                                when $11 is not null then $11
                                when h.agent_id = $2 then 'locked_by_other_session'
                                else 'locked_by_other'
                            end,
                            'locked_by', case when $11 is null then h.agent_id end
                        )
                    end as audit_result
                from gate g left join taken t on true left join held h on true
                where g.over_limit or $11 is not null or t.key is not null or h.agent_id is not null
            )
            "#,
            r#"
            op.verdict as "verdict!", op.agent_id as "agent_id?", op.agent_type as "agent_type?",
            op.session_id as "session_id?", op.reason as "reason?",
            op.locked_at as "locked_at?: Timestamp", op.expires_at as "expires_at?: Timestamp",
            op.token as "token?", op.position as "position?"
            "#,
            self.file_path.as_str(),
            self.refusal(cx),
            self.file_path.is_file(),
            self.reason,
            ttl_minutes as i32,
            file_limit,
            cx.place(),
            cx.may_wait(),
            PLACE_SECONDS,
        )
        .fetch_optional(&mut *cx.db)
        .await?;
        Ok(row)
    }

    fn answer(
        &self,
        cx: &Context<'_>,
        row: AcquireRow,
        file_limit: Option<i64>,
    ) -> Result<Acquired> {
        let action = match row.verdict.as_str() {
            "acquired" => "acquired",
            "refreshed" => "refreshed",
            "over_limit" => {
                let denial = policy::over_file_limit(file_limit.unwrap_or_default());
                return Err(Error::Forbidden(denial));
            }
            INVALID_FILE_PATH | INVALID_AGENT_ID | TTL_OUT_OF_RANGE => {
                return Ok(Acquired { reason: Some(row.verdict), ..Acquired::default() });
            }
            _ => {
                cx.postpone(Self::META.name, None, look);
                return Ok(Acquired {
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
            ..Acquired::default()
        })
    }
}

/// Keeps the places of those who wait, and finds those whose turn has come: the key is free for them,
/// and nobody waits for it longer. Places that nobody keeps any more are cleared away on the side.
fn look<'a>(
    db: &'a mut Db,
    config: &'a Config,
    tickets: &'a [Arc<Ticket>],
) -> BoxFuture<'a, Result<Vec<Uuid>>> {
    Box::pin(async move {
        let workspace = tickets.first().map(|it| it.caller.workspace.as_str());
        let places: Vec<_> = tickets.iter().map(|it| it.place).collect();
        let next = sqlx::query_scalar!(
            r#"
            with kept as (
                update lock_waiter set
                    alive_until = clock_timestamp() + make_interval(secs => $4)
                where workspace = $1 and place = any($2)
                returning *
            ), gone as (
                delete from lock_waiter
                where workspace = $1 and alive_until < statement_timestamp() - interval '1 minute'
                    and place <> all($2)
            )
            select k.place from kept k
            where not exists (
                select from lock_waiter w
                where w.workspace = $1 and w.key = k.key
                    and w.alive_until > statement_timestamp()
                    and (w.agent_id <> k.agent_id or w.session_id <> k.session_id)
                    and (w.waiting_since, w.place) < (k.waiting_since, k.place)
            ) and not exists (
                select from file_lock l
                where l.workspace = $1 and l.key = k.key and l.expires_at > statement_timestamp()
                    and (l.agent_id <> k.agent_id or l.session_id <> k.session_id)
                    and not session_lost(l.workspace, l.agent_id, l.session_id, l.locked_at, $3)
            )
            "#,
            workspace,
            &places,
            config.session_timeout(),
            PLACE_SECONDS,
        )
        .fetch_all(db)
        .await?;
        Ok(next)
    })
}
