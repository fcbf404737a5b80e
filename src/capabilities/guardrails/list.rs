//! The list of patterns.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    pattern_set::{fallback, read},
    patterns::Pattern,
};
use crate::{
    operation::{Context, Meta, Operation, Tool},
    values::{Limit, ListPage, Result, list_page::default_limit},
};

/// See which patterns check_guardrails looks for and how far you are bound by them.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListGuardrails {
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit::<100>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

/// The patterns in the order in which they are looked for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PatternList {
    /// The patterns.
    pub patterns: Vec<Pattern>,
    /// How many there are and whether that is all.
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
        let read = read(cx.db, &cx.caller.workspace).await?;
        let patterns = read.filter(|it| !it.is_empty()).map_or_else(|| fallback(cx.config), Ok)?;
        let (patterns, page) = Limit::new(self.limit).cut(patterns);
        Ok(PatternList { patterns, page })
    }
}
