//! Ranking memories by BM25, where the database has the index.
//!
//! The index only orders what the native search has found. If it fails, or has silently lost rows,
//! the order suffers, but no memory is missing.
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

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
    /// Whether the index exists but failed.
    pub(super) is_degraded: bool,
}

impl Bm25 {
    pub(crate) fn new() -> Self {
        Self(Cache::new(1))
    }

    /// Queries the index, unless it is absent or failed recently. A failure is logged and never
    /// returned.
    pub(super) async fn rank(&self, db: &mut Db, workspace: &str, query: &str) -> Result<Ranks> {
        let words = search_words(query);
        if words.is_empty() {
            return Ok(Ranks::default());
        }
        match self.index(db).await? {
            Index::Absent => Ok(Ranks::default()),
            Index::Failed => Ok(Ranks { scores: None, is_degraded: true }),
            Index::Usable => self.query_index(db, workspace, &words).await,
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

    /// Queries the index in a transaction, or in a savepoint within one. After a failure and its
    /// rollback, the connection can be used as before.
    async fn query_index(&self, db: &mut Db, workspace: &str, words: &str) -> Result<Ranks> {
        db.begin().await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "its operator and function exist only where the extension is installed"
        )]
        // Not a prepared statement: the extension has had bugs with the parameters of cached plans.
        let result = sqlx::query_as::<_, (String, Option<f32>)>(
            "select id::text, pdb.score(id) from memory_words
             where workspace = $1 and words ||| $2
             order by pdb.score(id) desc, id limit $3",
        )
        .bind(workspace)
        .bind(words)
        .bind(MAX_RANKED)
        .persistent(false)
        .fetch_all(&mut *db)
        .await;
        if let Err(error) = &result {
            // Before anything else can fail: if the index crashes the server, a retry of this request
            // must not query the index again.
            self.0.insert(Generation::default(), (), Index::Failed, Instant::now(), MAX_AGE);
            tracing::warn!(%error, "the BM25 index failed; memories are ranked without it");
        }
        db.rollback().await?;
        Ok(match result {
            Ok(rows) => Ranks { scores: Some(scores(rows)), is_degraded: false },
            Err(_) => Ranks { scores: None, is_degraded: true },
        })
    }
}

/// Splits a query into words of the index, which stores the segments of every word.
fn search_words(query: &str) -> String {
    let segments = query
        .split(|character: char| character.is_whitespace() || character.is_ascii_punctuation());
    segments.filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join(" ")
}

fn scores(rows: Vec<(String, Option<f32>)>) -> Value {
    let scored = rows.into_iter().filter_map(|(id, score)| Some((id, Value::from(score?))));
    Value::Object(scored.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_asked_for_by_its_segments() {
        assert_eq!(search_words(" E0433,\n`src/locks.rs` "), "E0433 src locks rs");
        assert_eq!(search_words("-- ?!"), "");
    }

    #[test]
    fn a_memory_without_a_score_is_not_ranked() {
        let rows = vec![("a".to_owned(), Some(1.5)), ("b".to_owned(), None)];
        assert_eq!(scores(rows), serde_json::json!({ "a": 1.5 }));
    }
}
