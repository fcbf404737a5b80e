//! The rank of memories by BM25, where the database has an index for it.
//!
//! The index orders what the native search has found and decides nothing: one that fails, or
//! silently lost rows, costs order and never a memory.
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::{
    database::Db,
    values::{Cache, Generation, Result},
};

/// How long a process believes what it found out about the index: that it exists, or that it does
/// not, or that it failed.
const MAX_AGE: Duration = Duration::from_secs(300);

/// How many memories of a workspace the index ranks; what is found beyond them follows in native
/// order.
const MOST_RANKED: i64 = 1000;

/// What this process knows about the index.
#[derive(Debug)]
pub(crate) struct Bm25(Cache<(), Index>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Index {
    Absent,
    Usable,
    Failed,
}

/// What the index says of the memories of a workspace.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// The score of each memory by its id, when there is an index and it answered.
    pub(super) scores: Option<Value>,
    /// Whether there is an index that does not answer.
    pub(super) degraded: bool,
}

impl Bm25 {
    pub(crate) fn new() -> Self {
        Self(Cache::new(1))
    }

    /// Asks the index, unless there is none or it failed lately. Its failure is no error.
    pub(super) async fn rank(&self, db: &mut Db, workspace: &str, query: &str) -> Result<Ranks> {
        let words = words(query);
        if words.is_empty() {
            return Ok(Ranks::default());
        }
        match self.index(db).await? {
            Index::Absent => Ok(Ranks::default()),
            Index::Failed => Ok(Ranks { scores: None, degraded: true }),
            Index::Usable => self.ask(db, workspace, &words).await,
        }
    }

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

    /// The transaction, or savepoint within one, is for the failure alone: after it the connection
    /// answers as if nothing had been asked.
    async fn ask(&self, db: &mut Db, workspace: &str, words: &str) -> Result<Ranks> {
        db.begin().await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "its operator and function exist only where the extension is installed"
        )]
        // Planned anew each time: the extension has had faults with the parameters of kept plans.
        let asked = sqlx::query_as::<_, (String, Option<f32>)>(
            "select id::text, pdb.score(id) from memory_words
             where workspace = $1 and words ||| $2
             order by pdb.score(id) desc, id limit $3",
        )
        .bind(workspace)
        .bind(words)
        .bind(MOST_RANKED)
        .persistent(false)
        .fetch_all(&mut *db)
        .await;
        if let Err(error) = &asked {
            // Before anything else: an index that brings the server down must not be asked again by
            // the repetition of this request.
            self.0.insert(Generation::default(), (), Index::Failed, Instant::now(), MAX_AGE);
            tracing::warn!(%error, "the BM25 index failed; memories are ranked without it");
        }
        db.rollback().await?;
        Ok(match asked {
            Ok(rows) => Ranks { scores: Some(scores(rows)), degraded: false },
            Err(_) => Ranks { scores: None, degraded: true },
        })
    }
}

/// The query as words of the index, which holds the segments of every word.
fn words(query: &str) -> String {
    let segments = query.split(|it: char| it.is_whitespace() || it.is_ascii_punctuation());
    segments.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" ")
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
        assert_eq!(words(" E0433,\n`src/locks.rs` "), "E0433 src locks rs");
        assert_eq!(words("-- ?!"), "");
    }

    #[test]
    fn a_memory_without_a_score_is_not_ranked() {
        let rows = vec![("a".to_owned(), Some(1.5)), ("b".to_owned(), None)];
        assert_eq!(scores(rows), serde_json::json!({ "a": 1.5 }));
    }
}
