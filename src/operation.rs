//! An operation is one typed request with one typed answer.
//!
//! It is written once and reached wherever its [`Meta`] says. Identity, trust, policy, audit of
//! denials, idempotency and the session's heartbeat happen in `execute` and nowhere else: only
//! it can make a [`Context`], so no operation has a way round them.
use std::{
    borrow::Cow,
    future::Future,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    App, Config, Error, Result,
    audit::{self, Denial},
    auth::{Caller, Claims, Key},
    connection,
    db::Db,
    gathering::{self, Acting, Transition},
    idempotency,
    policy::Question,
    telemetry::{Noted, record_caller},
    tool::Tool,
    waiting::{Look, Patience, Ticket},
};

/// One thing the service can do. The struct is the input: its fields with their doc comments are
/// the schema, the check and the documentation.
pub trait Operation: DeserializeOwned + JsonSchema + Send + 'static {
    /// What is answered with status 200, refusals included.
    type Output: Serialize + JsonSchema + Send + 'static;

    /// Everything about the operation but its types.
    const META: Meta;

    /// A valid input: shown in the documents and run by the tests.
    fn example() -> Value;

    /// What the operation acts on, for policy and audit.
    fn resource(&self) -> Cow<'_, str> {
        "".into()
    }

    /// How many seconds the request wants to wait for a better answer than one that could be given
    /// at once; the service sets an upper bound.
    fn wait_seconds(&self) -> i64 {
        0
    }

    /// Whether an answer tells of a change of state. Only such answers are kept for an
    /// idempotency key; a refusal is judged anew when the request is repeated.
    fn took_effect(_answer: &Self::Output) -> bool {
        true
    }

    /// The agent whose trust or profile the answer changed, if it did: from the next request on
    /// this process judges that agent by what the database says now.
    fn changes_standing_of(_answer: &Self::Output) -> Option<&str> {
        None
    }

    /// Does the work. A write calls one database function, which writes its audit row on every path.
    fn run(self, cx: Context<'_>) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// What a running operation may use.
pub struct Context<'a> {
    pub(crate) app: &'a App,
    pub(crate) db: &'a mut Db,
    pub(crate) caller: &'a Caller,
    pub(crate) request: &'a RequestInfo,
    pub(crate) config: &'a Config,
    /// Where the request is one that waits.
    pub(crate) wait: Option<Wait<'a>>,
}

/// The wait of a request, of which this is one attempt.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    patience: &'a Patience,
    /// Whether there is time left for another attempt.
    goes_on: bool,
}

impl Context<'_> {
    /// The place of a request that waits, the same in each of its attempts.
    pub(crate) fn place(&self) -> Option<Uuid> {
        self.wait.map(|it| it.patience.place())
    }

    /// Whom the operation acts for, as a transition takes it.
    pub(crate) fn acting(&self) -> Acting {
        Acting {
            workspace: self.caller.workspace.clone(),
            request_id: self.request.id.clone(),
            agent_id: self.caller.agent_id.clone(),
            agent_type: self.caller.agent_type.clone(),
            session_id: self.caller.session_id.clone(),
            started: self.request.started,
            silence: self.config.session_timeout(),
        }
    }

    /// Runs a transition, together with those of other requests when many arrive at once. Within a
    /// transaction of this request (an idempotency key) it runs alone.
    pub(crate) async fn transition<T: Transition>(&mut self, transition: T) -> Result<T::Row> {
        if self.db.is_in_transaction() || !self.config.gather {
            return transition.run(self.db).await;
        }
        // It may have been taken to read what the caller may do.
        self.db.give_back();
        gathering::run(T::gatherer(&self.app.gatherers), &self.app.db, transition).await
    }

    /// Whether the request may wait instead of being refused now. What it is refused for is then not
    /// recorded, and [`Context::postpone`] says what it waits for.
    pub(crate) fn may_wait(&self) -> bool {
        self.wait.is_some_and(|it| it.goes_on)
    }

    /// Has the request wait and try again, if it may.
    pub(crate) fn postpone(&self, kind: &'static str, task_types: Option<&[String]>, look: Look) {
        let Some(Wait { patience, goes_on: true }) = self.wait else { return };
        let (place, caller) = (patience.place(), self.caller.clone());
        let number = patience.number(&self.app.waiting);
        let task_types = task_types.map(<[String]>::to_vec);
        patience.postpone(Ticket { place, number, caller, task_types, kind, look });
    }
}

/// The request that an operation answers, for its audit row.
#[derive(Clone, Debug)]
pub(crate) struct RequestInfo {
    pub(crate) id: String,
    pub(crate) started: Instant,
    pub(crate) noted: Noted,
}

impl RequestInfo {
    /// Milliseconds since the request came in.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }
}

/// Everything about an operation but its types.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The name that policy, profiles and audit know.
    pub name: &'static str,
    /// Unique name of this form of the operation, where one operation has several.
    pub id: &'static str,
    /// The tier of trust it needs.
    pub category: Category,
    /// How a body may name the agent.
    pub identity: IdentityMode,
    /// Methods and paths, as in `POST /locks/acquire`; the first one is documented.
    pub routes: &'static [&'static str],
    /// Whether it is answered without a key where public reads are on.
    pub open: bool,
    /// How it is offered over MCP, if it is.
    pub tool: Option<Tool>,
    /// Name of its audit row, where that is not the operation's own or the operation is a read.
    recorded_as: Option<&'static str>,
    /// Whether an operation of the read tier changes something all the same.
    writes: bool,
}

/// What an operation may change, which decides the trust it needs (conventions 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Needs trust 1.
    Read,
    /// Needs trust 2.
    Write,
    /// Needs trust 3.
    Admin,
}

/// Which members of a body name the calling agent (conventions 4). Headers always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    /// `agent_id` and `agent_type`, checked against the key.
    Strict,
    /// `agent_id`, checked; `agent_type` is ignored.
    StrictId,
    /// Both, for a key that is bound to no agent; ignored for a bound one.
    Soft,
    /// None.
    HeadersOnly,
}

impl Meta {
    /// An operation that changes nothing.
    pub const fn read(name: &'static str) -> Self {
        Self::new(name, Category::Read)
    }

    /// An operation that changes what belongs to its caller or to everybody.
    pub const fn write(name: &'static str) -> Self {
        Self::new(name, Category::Write)
    }

    /// An operation that overrides others.
    pub const fn admin(name: &'static str) -> Self {
        Self::new(name, Category::Admin)
    }

    const fn new(name: &'static str, category: Category) -> Self {
        let identity = IdentityMode::HeadersOnly;
        Self {
            name,
            id: name,
            category,
            identity,
            routes: &[],
            open: false,
            tool: None,
            recorded_as: None,
            writes: false,
        }
    }

    /// Reached by these methods and paths.
    pub const fn at(mut self, routes: &'static [&'static str]) -> Self {
        self.routes = routes;
        self
    }

    /// The unique name of this form, where `name` is shared by several.
    pub const fn id(mut self, id: &'static str) -> Self {
        self.id = id;
        self
    }

    /// How a body may name the agent.
    pub const fn identity(mut self, mode: IdentityMode) -> Self {
        self.identity = mode;
        self
    }

    /// Answered without a key where public reads are on.
    pub const fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Offered as a tool of the MCP endpoint.
    pub const fn tool(mut self, tool: Tool) -> Self {
        self.tool = Some(tool);
        self
    }

    /// Recorded in the audit log under this name. A read is recorded only when this says so.
    pub const fn recorded_as(mut self, name: &'static str) -> Self {
        self.recorded_as = Some(name);
        self
    }

    /// In the read tier although it changes something: the caller's own presence, or a log.
    pub const fn writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Whether an `Idempotency-Key` is honoured.
    pub fn idempotent(&self) -> bool {
        self.category != Category::Read
    }

    /// Whether it never changes anything but its own audit row.
    pub fn is_pure_read(&self) -> bool {
        self.category == Category::Read && !self.writes
    }

    /// Whether each call leaves an audit row.
    pub fn is_audited(&self) -> bool {
        self.category != Category::Read || self.recorded_as.is_some()
    }

    /// Name of the audit row.
    pub fn audit(&self) -> &'static str {
        self.recorded_as.unwrap_or(self.name)
    }
}

/// A request on its way to an operation: who presents what.
pub(crate) struct Call<'a> {
    pub(crate) app: &'a App,
    /// `None` only on an open route without a key.
    pub(crate) key: Option<&'a Key>,
    pub(crate) claims: Claims,
    pub(crate) request: RequestInfo,
    pub(crate) patience: Patience,
    /// SHA-256 of method, target and body, when the request carries an idempotency key.
    pub(crate) fingerprint: Option<[u8; 32]>,
}

/// The answer of an operation.
#[derive(Debug)]
pub(crate) struct Reply {
    /// As JSON.
    pub(crate) body: String,
    /// Whether the answer is that of an earlier request with the same idempotency key.
    pub(crate) replayed: bool,
    /// Workspace and id of the agent whose standing the answer changed.
    pub(crate) restanding: Option<(String, String)>,
}

/// Runs one operation in the order that the contract fixes: identity, workspace, policy,
/// idempotency, the work. A request that waits does so several times.
pub(crate) async fn execute<O: Operation>(call: &Call<'_>, input: &Value) -> Result<Reply> {
    let operation: O = read(input)?;
    let resource = operation.resource().into_owned();
    let wait = call.app.config.longest_wait(operation.wait_seconds());
    if wait.is_zero() {
        return attempt(call, input, operation, &resource, None).await;
    }
    wait_and_run(call, input, operation, &resource, wait).await
}

fn read<O: Operation>(input: &Value) -> Result<O> {
    O::deserialize(input).map_err(|error| Error::Internal(error.into()))
}

/// Tries until the answer is one to send, or the time is over: then whatever the answer is.
async fn wait_and_run<O: Operation>(
    call: &Call<'_>,
    input: &Value,
    mut operation: O,
    resource: &str,
    wait: Duration,
) -> Result<Reply> {
    let (waiting, patience) = (&call.app.waiting, &call.patience);
    let until = call.request.started + wait;
    patience.grant(wait);
    loop {
        let goes_on = Instant::now() < until && !waiting.is_stopped();
        let wait = Some(Wait { patience, goes_on });
        // An attempt that failed after it had asked to wait must not postpone this one.
        patience.take();
        let reply = attempt(call, input, operation, resource, wait).await?;
        let Some(ticket) = patience.take() else { return Ok(reply) };
        waiting.wait(call.app, ticket, until).await;
        operation = read(input)?;
    }
}

/// One run of the operation, on a connection of its own.
async fn attempt<O: Operation>(
    call: &Call<'_>,
    input: &Value,
    operation: O,
    resource: &str,
    wait: Option<Wait<'_>>,
) -> Result<Reply> {
    let mut db = call.app.db.lazily();
    let answered = async {
        let caller = admit(call, &O::META, input, resource, &mut db).await?;
        let answered = answer(call, operation, &caller, wait, &mut db).await;
        // A transition records the heartbeat itself, unless it was not run.
        if answered.as_ref().is_ok_and(|it| !O::META.is_audited() || it.replayed) {
            hear(call, &mut db, &caller).await?;
        }
        answered
    }
    .await;
    // After a failure of the database nobody knows what state the connection is in.
    if matches!(answered, Err(Error::Unavailable(_) | Error::Internal(_))) {
        return answered;
    }
    db.done().await?;
    // Committed by now, so whoever reads it next reads what holds.
    if let Ok(Reply { restanding: Some((workspace, agent_id)), .. }) = &answered {
        call.app.authority.forget(workspace, agent_id);
    }
    answered
}

async fn hear(call: &Call<'_>, db: &mut Db, caller: &Caller) -> Result<()> {
    if call.key.is_none() {
        return Ok(());
    }
    call.app.heartbeats.hear(db, &call.app.config, caller).await
}

/// Who is calling, where identity, workspace, trust and policy permit the operation. A denial is
/// recorded.
async fn admit(
    call: &Call<'_>,
    meta: &Meta,
    input: &Value,
    resource: &str,
    db: &mut Db,
) -> Result<Caller> {
    let (app, config) = (call.app, &*call.app.config);
    let allow_workspace_header = config.allow_workspace_header;
    let claimed = match call.key {
        None => Caller::check_anonymous(&call.claims).map(|()| Caller::anonymous()),
        Some(key) => {
            let (ring, claims) = (&config.keys, &call.claims);
            Caller::claim(key, ring, meta.identity, input, claims, allow_workspace_header)
        }
    };
    let mut caller = match claimed {
        Ok(caller) => caller,
        Err(denial) => {
            let own = call.key.map(Caller::of).unwrap_or_else(Caller::anonymous);
            record_denial(call, meta, resource, db, &own, &denial, &[]).await?;
            return Err(denial);
        }
    };
    if let Some(connection_id) = &call.claims.connection_id {
        connection::join(db, &mut caller, connection_id).await?;
    }
    record_caller(&caller.agent_id, resource);
    call.request.noted.set_agent(&caller.agent_id);
    if let Some(key) = call.key {
        app.authority.settle(db, config, key, &mut caller).await?;
    }
    let question = Question { operation: meta.name, category: Some(meta.category), resource };
    let decision = app.engine.decide(db, config, &caller, &question).await?;
    if decision.allowed {
        return Ok(caller);
    }
    let denial = Error::Forbidden(decision.reason);
    record_denial(call, meta, resource, db, &caller, &denial, &decision.diagnostics).await?;
    hear(call, db, &caller).await?;
    Err(denial)
}

/// Admits a request that is no operation, on a connection of its own, and hears its caller.
pub(crate) async fn admit_alone(call: &Call<'_>, meta: &Meta) -> Result<Caller> {
    let mut db = call.app.db.lazily();
    let admitted = async {
        let caller = admit(call, meta, &Value::Null, "", &mut db).await?;
        hear(call, &mut db, &caller).await?;
        Ok(caller)
    }
    .await;
    // A denial has its record on this connection.
    if !matches!(admitted, Err(Error::Unavailable(_) | Error::Internal(_))) {
        db.done().await?;
    }
    admitted
}

async fn record_denial(
    call: &Call<'_>,
    meta: &Meta,
    resource: &str,
    db: &mut Db,
    caller: &Caller,
    denial: &Error,
    diagnostics: &[String],
) -> Result<()> {
    let denial = Denial {
        operation: meta.name,
        resource,
        engine: call.app.engine.name(),
        reason: denial.to_string(),
        diagnostics,
    };
    audit::record_denial(db, &call.app.config, caller, &call.request, &denial).await
}

async fn answer<O: Operation>(
    call: &Call<'_>,
    operation: O,
    caller: &Caller,
    wait: Option<Wait<'_>>,
    db: &mut Db,
) -> Result<Reply> {
    let (app, request, config) = (call.app, &call.request, &*call.app.config);
    match (&call.claims.idempotency_key, &call.fingerprint) {
        (Some(key), Some(fingerprint)) => {
            let once = idempotency::Once { app, key, fingerprint, caller, request, config, wait };
            once.run(operation, db).await
        }
        _ => {
            let answer = operation.run(Context { app, db, caller, request, config, wait }).await?;
            Reply::new::<O>(&answer, caller)
        }
    }
}

impl Reply {
    /// The answer of an operation that was run for this request.
    pub(crate) fn new<O: Operation>(answer: &O::Output, caller: &Caller) -> Result<Self> {
        let body = serde_json::to_string(answer).map_err(|error| Error::Internal(error.into()))?;
        let changed = O::changes_standing_of(answer);
        let restanding = changed.map(|agent_id| (caller.workspace.clone(), agent_id.to_owned()));
        Ok(Self { body, replayed: false, restanding })
    }

    /// The answer as a value, where a part of it is looked at.
    pub(crate) fn value(&self) -> Result<Value> {
        serde_json::from_str(&self.body).map_err(|error| Error::Internal(error.into()))
    }
}
