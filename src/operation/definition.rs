//! The trait of all operations.
use std::{borrow::Cow, future::Future};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{context::Context, meta::Meta, waiting::Poll};
use crate::values::Result;

/// One thing that the service can do. The struct is the input: its fields with their doc comments are
/// the schema, the validation and the documentation.
pub trait Operation: DeserializeOwned + JsonSchema + Send + 'static {
    /// What is answered with status 200, refusals included.
    type Output: Serialize + JsonSchema + Send + 'static;

    /// Everything about the operation except its types.
    const META: Meta;

    /// How waiting requests are polled for. `None` for an operation that does not wait. The input of one
    /// that does has a member `wait_seconds`, and the service sets an upper bound for its value.
    const POLL: Option<Poll> = None;

    /// Returns a valid input. The documents show it and the tests run it.
    fn example() -> Value;

    /// Returns what the operation acts on, for policy and audit.
    fn target(&self) -> Cow<'_, str> {
        "".into()
    }

    /// Whether a request that can still wait does so instead of being sent this answer.
    fn should_wait(_answer: &Self::Output) -> bool {
        false
    }

    /// Whether a request that waits after this answer waits for another session of its own agent. Over MCP,
    /// such a request is answered at once: the agent cannot go on before its own call ends.
    fn waits_for_itself(_answer: &Self::Output) -> bool {
        false
    }

    /// Whether an answer reports a change of state. Only such answers are stored for an idempotency key.
    /// A refusal is decided again when the request is repeated.
    fn took_effect(_answer: &Self::Output) -> bool {
        true
    }

    /// Returns the agent whose trust or profile the answer changed, if any. This process then reads the
    /// standing of that agent from the database with the next request.
    fn changes_standing_of(_answer: &Self::Output) -> Option<&str> {
        None
    }

    /// Returns what a client that has cancelled its request must not keep, if the answer gave it anything.
    fn taken(_answer: &Self::Output) -> Option<Value> {
        None
    }

    /// Gives back what was taken, unless it is in use.
    fn give_back<'a>(_taken: &'a Value, _cx: Context<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Does the work. A write calls one database function, which writes its audit row on every path.
    fn run(self, cx: Context<'_>) -> impl Future<Output = Result<Self::Output>> + Send;
}
