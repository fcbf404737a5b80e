//! The answer of an operation on its way to the client.
use serde_json::{Map, Value};

use super::{definition::Operation, limits::Limit, schema::WAIT_LIMIT, waiting::Wait};
use crate::{
    access::Caller,
    values::{
        Error, Result,
        raw_json::{members_of, with_members},
    },
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
    pub(super) fn tell(self, mut lost: Value) -> Result<Self> {
        let members = members_of(&self.body).map_err(|error| Error::Internal(error.into()))?;
        let own = members.iter().find(|(name, _)| name == "lost");
        let own = own.and_then(|(_, raw)| serde_json::from_str::<Map<_, Value>>(raw.get()).ok());
        for (kind, told) in own.unwrap_or_default() {
            match (lost[kind.as_str()].as_array_mut(), told) {
                (Some(list), Value::Array(told)) => list.extend(told),
                (_, told) => lost[kind.as_str()] = told,
            }
        }
        self.add(&[("revived", &true.into()), ("lost", &lost)])
    }

    /// Adds which limit kept the request from waiting.
    pub(super) fn tell_wait_limit(self, limit: Limit) -> Result<Self> {
        self.add(&[(WAIT_LIMIT, &limit.name().into())])
    }

    /// Adds members to the body. The others stay as they are.
    fn add(mut self, members: &[(&str, &Value)]) -> Result<Self> {
        self.body =
            with_members(&self.body, members).map_err(|error| Error::Internal(error.into()))?;
        Ok(self)
    }
}
