//! The compiled patterns of each workspace, cached in the process.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use regex::Regex;
use sha2::{Digest, Sha256};

use super::patterns::{Compiled, Pattern, built_in, compile, find_matches};
use crate::{
    config::Config,
    database::Db,
    operation::{Context, Services},
    values::{Cache, Error, Result},
};

/// The maximum number of workspaces, and of compiled patterns, in the cache.
const CAPACITY: usize = 1_000;

/// Returns the patterns of the caller's workspace.
pub(super) async fn patterns_of_caller(cx: &mut Context<'_>) -> Result<PatternSet> {
    let caller = cx.caller;
    let cache = cx.services.state::<PatternCache>();
    cache.patterns(cx.config, cx.db, &caller.workspace).await
}

/// Returns the version of the patterns of the caller's workspace.
pub(crate) async fn current_version(cx: &mut Context<'_>) -> Result<String> {
    Ok(patterns_of_caller(cx).await?.version)
}

/// Compiled patterns: by workspace, as last read, and by their text, which most workspaces share.
#[derive(Debug)]
pub(crate) struct PatternCache {
    by_workspace: Cache<String, PatternSet>,
    by_text: Cache<String, Regex>,
}

/// Compiled patterns, with a version that changes when one of them does.
#[derive(Clone, Debug)]
pub(super) struct PatternSet {
    pub(super) version: String,
    pub(super) patterns: Arc<[Compiled]>,
}

impl PatternCache {
    pub(crate) fn new() -> Self {
        Self { by_workspace: Cache::new(CAPACITY), by_text: Cache::new(CAPACITY) }
    }

    /// Returns the enabled patterns of a workspace, in list order. Fails if they cannot be read or
    /// compiled: a scan without patterns would call every text safe.
    ///
    /// The database is queried only when the cached patterns are too old, in a nested transaction,
    /// so that a failed query does not break the caller's transaction.
    async fn patterns(&self, config: &Config, db: &mut Db, workspace: &str) -> Result<PatternSet> {
        let generation = match self.by_workspace.get(workspace) {
            Ok(set) => return Ok(set),
            Err(generation) => generation,
        };
        let read_at = Instant::now();
        let read = read_patterns(db, workspace).await?;
        let is_readable = read.is_some();
        let patterns = read
            .filter(|patterns| !patterns.is_empty())
            .map_or_else(|| fallback_patterns(config), Ok)?;
        let enabled = patterns.into_iter().filter(|pattern| pattern.enabled);
        let compiled = enabled.map(|pattern| {
            let regex = self.compile(&pattern.pattern).map_err(|error| {
                let name = &pattern.name;
                Error::Unavailable(format!("pattern `{name}` of `{workspace}`: {error}").into())
            })?;
            Ok(Compiled { pattern, regex })
        });
        let patterns: Arc<[Compiled]> = compiled.collect::<Result<_>>()?;
        let set = PatternSet { version: digest_of(&patterns), patterns };
        if is_readable {
            let (key, max_age) = (workspace.to_owned(), config.guardrails_max_age);
            self.by_workspace.insert(generation, key, set.clone(), read_at, max_age);
        }
        Ok(set)
    }

    /// Returns the compiled form of a pattern, from the cache if it is there.
    fn compile(&self, pattern: &str) -> Result<Regex, regex::Error> {
        let generation = match self.by_text.get(pattern) {
            Ok(regex) => return Ok(regex),
            Err(generation) => generation,
        };
        let regex = compile(pattern)?;
        let (key, now) = (pattern.to_owned(), Instant::now());
        self.by_text.insert(generation, key, regex.clone(), now, Duration::MAX);
        Ok(regex)
    }
}

/// Returns a digest of everything that determines what the patterns find.
fn digest_of(patterns: &[Compiled]) -> String {
    let mut hash = Sha256::new();
    for Compiled { pattern, .. } in patterns {
        let decisive =
            (&pattern.name, &pattern.severity, pattern.min_trust_level, &pattern.pattern);
        hash.update(format!("{decisive:?}\n"));
    }
    hex::encode(&hash.finalize()[..8])
}

/// Returns the built-in patterns, or an error where the configuration forbids them.
pub(super) fn fallback_patterns(config: &Config) -> Result<Vec<Pattern>> {
    if config.guardrails_code_fallback {
        return Ok(built_in());
    }
    Err(Error::Unavailable("there are no guardrail patterns".into()))
}

/// Returns a function that scans a text with the built-in patterns and counts the findings for
/// trust 2. For `measured`.
pub(crate) fn built_in_scan() -> impl Fn(&str) -> usize {
    let compiled = built_in().into_iter().map(|pattern| {
        let regex = compile(&pattern.pattern).expect("the built-in patterns compile");
        Compiled { pattern, regex }
    });
    let patterns: Vec<_> = compiled.collect();
    move |text| find_matches(text, &patterns, 2).len()
}

/// Reads the patterns of a workspace, or those of `default` if it has none. Returns `None` if they
/// cannot be read. The nested transaction keeps a failure from breaking the one around it.
pub(super) async fn read_patterns(db: &mut Db, workspace: &str) -> Result<Option<Vec<Pattern>>> {
    db.begin().await?;
    let read = sqlx::query_as!(
        Pattern,
        r#"
        select name, category, severity, min_trust_level, pattern, explanation, enabled
        from guardrail_pattern
        where workspace = case
            when exists (select from guardrail_pattern where workspace = $1) then $1
            else 'default'
        end
        order by list_order, name
        "#,
        workspace,
    )
    .fetch_all(&mut *db)
    .await;
    match read {
        Ok(patterns) => {
            db.commit().await?;
            Ok(Some(patterns))
        }
        Err(error) => {
            db.rollback().await?;
            tracing::error!(%error, workspace, "the guardrail patterns cannot be read");
            Ok(None)
        }
    }
}

/// Whether every enabled pattern of every workspace compiles. For the readiness check, which
/// concerns all workspaces.
pub(crate) async fn all_compile(services: &Services, db: &mut Db) -> Result<bool> {
    let patterns =
        sqlx::query_scalar!("select distinct pattern from guardrail_pattern where enabled")
            .fetch_all(db)
            .await?;
    let cache = services.state::<PatternCache>();
    Ok(patterns.iter().all(|pattern| cache.compile(pattern).is_ok()))
}
