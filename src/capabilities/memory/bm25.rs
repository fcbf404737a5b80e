//! Ranking memories by BM25, where the database has the index.
//!
//! The index only orders what the native search has found. If it fails, or has silently lost rows,
//! the order suffers, but no memory is missing.
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    database::Db,
    values::{Cache, Generation, Result},
};

/// How long a process caches the state of the index: usable, absent or failed.
const MAX_AGE: Duration = Duration::from_secs(300);

/// The maximum number of memories of a workspace that the index ranks. Other matches follow in
/// native order.
const MAX_RANKED: i64 = 1000;

/// What this process knows about the index.
#[derive(Debug)]
pub(crate) struct Bm25(Cache<(), Index>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Index {
    Absent,
    Usable,
    Failed,
}

/// The scores of the memories of a workspace.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// The score of each memory by its id. `None` if the index is absent or failed.
    pub(super) scores: Option<Value>,
    /// Whether the index exists but failed, or is locked.
    pub(super) is_degraded: bool,
}

impl Bm25 {
    pub(crate) fn new() -> Self {
        Self(Cache::new(1))
    }

    /// Queries the index, unless it is absent or failed recently. A failure is logged, and only returned
    /// if the connection is lost. A locked index is asked again by the next request.
    pub(super) async fn rank(&self, db: &mut Db, workspace: &str, query: &str) -> Result<Ranks> {
        match self.index(db).await? {
            Index::Absent => Ok(Ranks::default()),
            Index::Failed => Ok(Ranks { scores: None, is_degraded: true }),
            Index::Usable => self.query_index(db, workspace, query).await,
        }
    }

    /// Returns the state of the index, cached for `MAX_AGE`.
    async fn index(&self, db: &mut Db) -> Result<Index> {
        let generation = match self.0.get(&()) {
            Ok(index) => return Ok(index),
            Err(generation) => generation,
        };
        let read_at = Instant::now();
        let is_usable = sqlx::query_scalar!(
            r#"
            select exists (
                select from pg_index where indexrelid = to_regclass('memory_bm25') and indisvalid
            ) as "usable!"
            "#
        )
        .fetch_one(db)
        .await?;
        let index = if is_usable { Index::Usable } else { Index::Absent };
        self.0.insert(generation, (), index, read_at, MAX_AGE);
        Ok(index)
    }

    /// Queries the index. The function catches its errors, so that only the loss of the connection is
    /// an error here.
    async fn query_index(&self, db: &mut Db, workspace: &str, query: &str) -> Result<Ranks> {
        let answer = sqlx::query!(
            r#"select scores, problem, is_busy as "is_busy!" from bm25_scores($1, $2, $3)"#,
            workspace,
            query,
            MAX_RANKED,
        )
        .fetch_one(db)
        .await;
        let problem = match &answer {
            Ok(answer) => answer.problem.clone(),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            // Before the error is returned: if the index crashes the server, a retry of this request must
            // not query the index again.
            self.0.insert(Generation::default(), (), Index::Failed, Instant::now(), MAX_AGE);
            tracing::warn!(problem, "the BM25 index failed; memories are ranked without it");
        }
        let answer = answer?;
        let is_degraded = answer.is_busy || answer.problem.is_some();
        Ok(Ranks { scores: answer.scores, is_degraded })
    }
}
