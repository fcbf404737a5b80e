//! The context of a running operation.
use std::time::Instant;

use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use super::{
    gathering::{self, Gatherer, Transition},
    request::RequestInfo,
    services::Services,
    waiting::Wait,
};
use crate::{
    access::{Caller, Key},
    config::Config,
    database::Db,
    values::Result,
};

/// What a running operation can use. Only `execute` creates one.
pub struct Context<'a> {
    pub(crate) services: &'a Services,
    pub(crate) config: &'a Config,
    pub(crate) db: &'a mut Db,
    pub(crate) caller: &'a Caller,
    pub(crate) request: &'a RequestInfo,
    /// `None` only on a route that can be used without a key.
    pub(super) key: Option<&'a Key>,
    /// Set where the request can wait.
    pub(super) wait: Option<Wait>,
}

impl Context<'_> {
    /// Returns the id of a request that can wait. It is the same each time the operation runs for it.
    pub(crate) fn waiter_id(&self) -> Option<Uuid> {
        self.wait.map(|wait| wait.waiter_id)
    }

    /// Whether the request can wait instead of being refused now. Such a refusal is not recorded.
    pub(crate) fn can_wait(&self) -> bool {
        self.wait.is_some_and(|wait| wait.can_wait)
    }

    /// Whether the request has left the queue instead of waiting on.
    pub(crate) fn has_given_up(&self) -> bool {
        self.wait.is_some_and(|wait| wait.has_given_up)
    }

    /// Returns whom a transition acts for.
    pub(crate) fn actor(&self) -> Actor {
        Actor {
            workspace: self.caller.workspace.clone(),
            request_id: self.request.id.clone(),
            agent_id: self.caller.agent_id.clone(),
            agent_type: self.caller.agent_type.clone(),
            session_id: self.caller.session_id.clone(),
            started: self.request.started,
            session_timeout: self.config.session_timeout(),
        }
    }

    /// Runs a transition, together with those of other requests when many arrive at once. Within a
    /// transaction of this request, which an idempotency key needs, it runs alone.
    pub(crate) async fn transition<T: Transition>(&mut self, transition: T) -> Result<T::Row> {
        if self.db.is_in_transaction() || !self.config.gather {
            return transition.call(self.db).await;
        }
        // A connection can have been taken to read the standing of the caller.
        self.db.release();
        gathering::gather(self.services.state::<Gatherer<T>>(), &self.services.db, transition).await
    }
}

/// Whom a transition acts for: the workspace and the columns of the database type `request`.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) workspace: String,
    pub(crate) request_id: String,
    pub(crate) agent_id: String,
    pub(crate) agent_type: String,
    pub(crate) session_id: Option<String>,
    pub(crate) started: Instant,
    pub(crate) session_timeout: PgInterval,
}

impl Actor {
    /// Returns the milliseconds since the request arrived.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }
}
