//! The answer of an operation on its way to the client.
use serde_json::Value;

use super::{definition::Operation, limits::Limit, schema::WAIT_LIMIT, waiting::Wait};
use crate::{
    access::Caller,
    values::{Error, Result},
};

/// The answer of an operation and its follow-up actions.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The body, as JSON text.
    pub(crate) body: String,
    /// Whether this is the stored answer of an earlier request with the same idempotency key.
    pub(crate) replayed: bool,
    /// Workspace and id of the agent whose standing the answer changed.
    pub(super) changed_standing: Option<(String, String)>,
    /// Whether a request that can wait does so instead of being sent this answer.
    pub(super) should_wait: bool,
    /// Whether such a request would wait for its own agent.
    pub(super) waits_for_itself: bool,
    /// What a cancellation of the request takes back, where its client can cancel it.
    pub(super) taken: Option<Value>,
}

impl Reply {
    /// Creates the reply of an operation that ran for this request.
    pub(super) fn new<O: Operation>(
        answer: &O::Output,
        caller: &Caller,
        wait: Option<Wait>,
    ) -> Result<Self> {
        let body = serde_json::to_string(answer).map_err(|error| Error::Internal(error.into()))?;
        let changed = O::changes_standing_of(answer);
        Ok(Self {
            body,
            replayed: false,
            changed_standing: changed.map(|id| (caller.workspace.clone(), id.to_owned())),
            should_wait: O::should_wait(answer),
            waits_for_itself: O::waits_for_itself(answer),
            taken: wait.filter(|wait| wait.can_be_cancelled).and_then(|_| O::taken(answer)),
        })
    }

    /// Creates the reply to a repeated request.
    pub(super) fn stored(body: String) -> Self {
        Self {
            body,
            replayed: true,
            changed_standing: None,
            should_wait: false,
            waits_for_itself: false,
            taken: None,
        }
    }

    /// Whether members can be added to the body: it is an object and not a list.
    pub(super) fn can_tell(&self) -> bool {
        self.body.starts_with('{')
    }

    /// Adds that the call has revived its session, and what that session had lost. An answer that tells of
    /// losses itself, as that of a registration can, keeps them.
    pub(super) fn tell(mut self, mut lost: Value) -> Result<Self> {
        let mut body = self.value()?;
        if let Some(members) = body.as_object_mut() {
            for (kind, told) in members.get("lost").and_then(Value::as_object).into_iter().flatten()
            {
                match (lost[kind.as_str()].as_array_mut(), told) {
                    (Some(list), Value::Array(told)) => list.extend(told.iter().cloned()),
                    _ => lost[kind.as_str()] = told.clone(),
                }
            }
            members.insert("revived".to_owned(), true.into());
            members.insert("lost".to_owned(), lost);
            self.body = body.to_string();
        }
        Ok(self)
    }

    /// Adds which limit kept the request from waiting.
    pub(super) fn tell_wait_limit(mut self, limit: Limit) -> Result<Self> {
        let mut body = self.value()?;
        body[WAIT_LIMIT] = limit.name().into();
        self.body = body.to_string();
        Ok(self)
    }

    /// Parses the body, for callers that read a part of it.
    pub(crate) fn value(&self) -> Result<Value> {
        serde_json::from_str(&self.body).map_err(|error| Error::Internal(error.into()))
    }
}
