//! Listing live locks, and the status of one key.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    access::TargetKind,
    capabilities::filter::non_empty,
    operation::{Context, Meta, Operation, Tool},
    values::{
        Limit, ListPage, LockKey, Order, Result, Timestamp,
        list_page::{Entry, default_limit},
        read_cursor,
    },
};

/// The maximum number of locks in the answer of `check_locks`.
const MAX_LISTED_LOCKS: i64 = 1000;

/// List the locks that are held, to plan your work around them.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListLocks {
    /// Only locks of this agent. Empty or absent: of every agent.
    #[schemars(extend("x-max-bytes" = 256))]
    pub locked_by: Option<String>,
    /// Only locks whose key begins with this text. Absent: every key.
    #[schemars(extend("x-max-bytes" = 1024))]
    pub prefix: Option<String>,
    /// Maximum number of locks, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<50>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// The `next_cursor` of an earlier answer, for the locks after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 4096))]
    pub cursor: Option<String>,
}

/// Live locks, ordered by key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LockList {
    /// The locks.
    pub locks: Vec<ListedLock>,
    /// How many locks are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
}

/// A live lock with its key.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct ListedLock {
    /// The key in canonical form.
    pub file_path: String,
    /// The lock.
    #[serde(flatten)]
    pub lock: Lock,
    /// Whether there are locks after this one.
    #[serde(skip)]
    has_more: bool,
}

impl Entry for ListedLock {
    fn has_more(&self) -> bool {
        self.has_more
    }
}

/// A live lock.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct Lock {
    /// The agent that holds the lock.
    pub locked_by: String,
    /// Type of that agent.
    pub agent_type: String,
    /// When the holder acquired the lock.
    pub locked_at: Timestamp,
    /// When the lock expires unless it is refreshed.
    pub expires_at: Timestamp,
    /// The reason that the holder gave. Null if it gave none.
    pub reason: Option<String>,
    /// The holder's session. Null if it named none.
    pub session_id: Option<String>,
    /// The current fencing token.
    pub fencing_token: i64,
    /// True if you, or another session or subagent of yours, hold the lock.
    pub same_agent: bool,
}

/// Selects a page of live locks for a caller by a condition, which can have an order and a limit. The first two arguments
/// are the workspace and the session timeout.
macro_rules! live_locks {
    ($caller:expr, $condition:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            r#"
            select
                key as "file_path!", agent_id as "locked_by!", agent_type as "agent_type!",
                locked_at as "locked_at!: Timestamp", expires_at as "expires_at!: Timestamp",
                reason, session_id, token as "fencing_token!", has_more as "has_more!"
            from (
                select found.*, row_number() over page as place, lead(true, 1, false) over page as has_more,
                    sum(octet_length(key) + coalesce(octet_length(reason), 0)) over page as bytes
                from (
                    select l.key, l.agent_id, l.agent_type, l.locked_at, l.expires_at, l.reason,
                        l.session_id, l.token
                    from file_lock l
                    left join lateral (
                        select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                        where s.workspace = $1 and s.agent_id = l.agent_id
                            and s.session_id = l.session_id
                        limit 1
                    ) s on true
                    where l.workspace = $1
                        and is_live_with_session(l.locked_at, l.expires_at, $2, statement_timestamp(),
                            s.ended_at, s.last_heartbeat_at, s.revived_at)
                        and "# + $condition + r#"
                ) found
                window page as (order by key rows unbounded preceding)
            ) listed
            where is_on_page(place, bytes)
            order by place
            "#
            $(, $argument)*
        )
        .map(|row| ListedLock {
            file_path: row.file_path,
            has_more: row.has_more,
            lock: Lock {
                same_agent: row.locked_by == $caller.agent_id,
                locked_by: row.locked_by,
                agent_type: row.agent_type,
                locked_at: row.locked_at,
                expires_at: row.expires_at,
                reason: row.reason,
                session_id: row.session_id,
                fencing_token: row.fencing_token,
            },
        })
    };
}

const ORDER: Order = Order::By(&["file_path"]);

impl Operation for ListLocks {
    type Output = LockList;
    const META: Meta = Meta::read("check_locks")
        .acts_on(TargetKind::File)
        .id("list_locks")
        .at(&["GET /locks"])
        .open();

    fn example() -> Value {
        json!({ "prefix": "src/", "limit": 10 })
    }

    async fn run(self, cx: Context<'_>) -> Result<LockList> {
        let limit = Limit::new(self.limit);
        let locked_by = non_empty(self.locked_by);
        let after = read_cursor(self.cursor.as_deref(), |values| values.next())?;
        let filter = Filter { locked_by, prefix: self.prefix, keys: None, after };
        let rows = list_locks(cx, &filter, limit.rows()).await?;
        let (locks, page) = limit.cut_in_order(rows, ORDER, self.cursor.as_deref());
        Ok(LockList { locks, page })
    }
}

/// See which of the files that you are about to change are locked, by whom and until when. Files
/// that are not locked are not listed. Without `file_paths`: all locks, up to 1,000.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckLocks {
    /// Paths or other lock keys. Absent: every lock.
    pub file_paths: Option<Vec<LockKey>>,
    /// The `next_cursor` of an earlier answer, for the locks after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 4096))]
    pub cursor: Option<String>,
}

impl Operation for CheckLocks {
    type Output = Vec<ListedLock>;
    const META: Meta = Meta::read("check_locks").acts_on(TargetKind::File).tool(
        Tool::named("check_locks").takes_any_key().pages(ORDER).whole(
            "check_locks",
            "file_paths",
            "file_path",
        ),
    );

    fn example() -> Value {
        json!({ "file_paths": ["src/main.rs"] })
    }

    async fn run(self, cx: Context<'_>) -> Result<Vec<ListedLock>> {
        let keys: Option<Vec<String>> =
            self.file_paths.map(|keys| keys.iter().map(|key| key.as_str().to_owned()).collect());
        let after = read_cursor(self.cursor.as_deref(), |values| values.next())?;
        let filter = Filter { locked_by: None, prefix: None, keys, after };
        list_locks(cx, &filter, MAX_LISTED_LOCKS).await
    }
}

/// Conditions on the locks to list. Absent ones do not restrict the list.
struct Filter {
    locked_by: Option<String>,
    prefix: Option<String>,
    keys: Option<Vec<String>>,
    /// Only keys after this one.
    after: Option<String>,
}

/// Returns the live locks that match a filter, ordered by key.
async fn list_locks(cx: Context<'_>, filter: &Filter, max_locks: i64) -> Result<Vec<ListedLock>> {
    let locks = live_locks!(
        cx.caller,
        "l.agent_id is not null
            and ($3::text is null or l.agent_id = $3)
            and ($4::text is null or starts_with(l.key, $4))
            and ($5::text[] is null or l.key = any($5))
            and ($7::text is null or l.key > $7)
        order by l.key
        limit $6",
        cx.caller.workspace,
        cx.config.session_timeout(),
        filter.locked_by,
        filter.prefix,
        filter.keys.as_deref(),
        max_locks,
        filter.after,
    )
    .fetch_all(cx.db)
    .await?;
    Ok(locks)
}

/// See whether one file is locked, and by whom.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetLockStatus {
    /// The lock key. In a URL: the rest of the path, with its slashes.
    pub path: LockKey,
}

/// Whether a key is locked.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LockStatus {
    /// Whether the key has a live lock.
    pub locked: bool,
    /// The key in canonical form.
    pub file_path: String,
    /// The lock. Absent if the key is not locked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

impl Operation for GetLockStatus {
    type Output = LockStatus;
    const META: Meta = Meta::read("check_locks")
        .acts_on(TargetKind::File)
        .id("get_lock_status")
        .at(&["GET /locks/status/{*path}"])
        .open();

    fn example() -> Value {
        json!({ "path": "src/main.rs" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.path.as_str().into()
    }

    async fn run(self, cx: Context<'_>) -> Result<LockStatus> {
        let lock = live_locks!(
            cx.caller,
            "l.key = $3",
            cx.caller.workspace,
            cx.config.session_timeout(),
            self.path.as_str(),
        )
        .fetch_optional(cx.db)
        .await?;
        let lock = lock.map(|listed| listed.lock);
        Ok(LockStatus { locked: lock.is_some(), file_path: self.path.as_str().to_owned(), lock })
    }
}
