//! Listing the patterns.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    pattern_set::{fallback_patterns, read_patterns},
    patterns::Pattern,
};
use crate::{
    operation::{Context, Meta, Operation, Tool},
    values::{Limit, ListPage, Result, list_page::default_limit},
};

/// List the patterns of check_guardrails, with the trust from which on each does not apply.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListGuardrails {
    /// Maximum number of patterns, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<100>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

/// Patterns, in the order in which they are applied.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PatternList {
    /// The patterns.
    pub patterns: Vec<Pattern>,
    /// How many patterns are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
}

impl Operation for ListGuardrails {
    type Output = PatternList;
    const META: Meta = Meta::read("list_guardrails")
        .at(&["GET /guardrails/patterns"])
        .tool(Tool::named("list_guardrail_patterns").hide(&["limit"]));

    fn example() -> Value {
        json!({ "limit": 100 })
    }

    async fn run(self, cx: Context<'_>) -> Result<PatternList> {
        let read = read_patterns(cx.db, &cx.caller.workspace).await?;
        let patterns = read
            .filter(|patterns| !patterns.is_empty())
            .map_or_else(|| fallback_patterns(cx.config), Ok)?;
        let (patterns, page) = Limit::new(self.limit).cut(patterns);
        Ok(PatternList { patterns, page })
    }
}
