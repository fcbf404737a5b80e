//! The queue as the contract describes it: in memory, sequential and without a clock. Time passes only by a
//! [`Time`] step.
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::DateTime;
use serde_json::{Value, json};

/// Unbound agents first, then bound ones with trust 3.
pub(super) const UNBOUND: usize = 6;
/// The agent that completes the remaining tasks, in addition to those that act at random.
pub(super) const AGENTS: usize = 8;
pub(super) const CLOSER: usize = AGENTS;

pub(super) const SESSIONS: [&str; 2] = ["s-1", "s-2"];

pub(super) const NO_TASK: &str = "00000000-0000-0000-0000-000000000000";
pub(super) const DEADLINE: &str = "2999-01-01T00:00:00+00:00";
pub(super) const NOT_BEFORE: &str = "2998-01-01T00:00:00+00:00";
pub(super) const DESTRUCTIVE: &str = "git push --force";
const BLOCKED: &str = "destructive_operation_blocked: git_force_push";
const NOT_MINE: &str = "task_not_found_or_not_claimed_by_agent";

/// The session timeout in minutes.
pub(super) const SILENCE: i64 = 121;
const DEFAULT_LEASE: i64 = 60;

pub(super) fn name(agent: usize) -> String {
    match agent {
        CLOSER => "closer".to_owned(),
        _ if agent < UNBOUND => format!("agent-{agent}"),
        _ => format!("chief-{agent}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) agent: usize,
    pub(super) session: Option<&'static str>,
}

impl Caller {
    fn trust(self) -> i64 {
        if self.agent < UNBOUND { 2 } else { 3 }
    }

    /// Whether two callers are the same holder. Sessions are compared if both name one.
    pub(super) fn is(self, other: Self) -> bool {
        self.agent == other.agent
            && (self.session.is_none() || other.session.is_none() || self.session == other.session)
    }
}

/// A task by its index in the order of submission. `None` is an id that no task has.
pub(super) type Place = Option<usize>;

#[derive(Clone, Debug, Default)]
pub(super) struct Submission {
    pub(super) kind: &'static str,
    pub(super) is_destructive: bool,
    /// The agent that `input_data` names as the author.
    pub(super) author: Option<usize>,
    pub(super) priority: Option<i64>,
    pub(super) depends_on: Vec<Place>,
    pub(super) min_trust: Option<i64>,
    pub(super) archetype: Option<&'static str>,
    pub(super) unique_key: Option<&'static str>,
    pub(super) max_attempts: i64,
    pub(super) retries: bool,
    pub(super) has_deadline: bool,
    pub(super) is_for_later: bool,
    pub(super) replaces: Option<Place>,
}

impl Submission {
    pub(super) fn description(&self) -> &'static str {
        if self.is_destructive { DESTRUCTIVE } else { "sweep" }
    }

    pub(super) fn input_data(&self) -> Value {
        self.author.map_or(Value::Null, |it| json!({ "submitted_by": name(it) }))
    }

    pub(super) fn requirements(&self) -> Value {
        match (self.archetype, self.min_trust) {
            (None, None) => Value::Null,
            (Some(it), None) => json!({ "archetype": it }),
            (None, Some(it)) => json!({ "min_trust_level": it }),
            (Some(one), Some(two)) => json!({ "archetype": one, "min_trust_level": two }),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    pub(super) success: bool,
    pub(super) result: Value,
    pub(super) error: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Submit(Submission),
    Claim { kinds: Option<Vec<&'static str>>, minutes: Option<i64> },
    Renew { task: Place, token: Option<String>, minutes: Option<i64> },
    Complete { task: Place, token: Option<String>, report: Report },
    Cancel { task: Place, reason: Option<&'static str> },
    Register { capabilities: &'static [&'static str] },
    Deregister,
    CleanUp,
    Maintain,
    Get { task: Place },
    List { status: Option<&'static str>, claimed_by: Option<usize>, limit: usize },
}

impl Ask {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Submit(_) => "submit",
            Self::Claim { .. } => "claim",
            Self::Renew { .. } => "renew",
            Self::Complete { .. } => "complete",
            Self::Cancel { .. } => "cancel",
            Self::Register { .. } => "register",
            Self::Deregister => "deregister",
            Self::CleanUp => "clean up",
            Self::Maintain => "maintain",
            Self::Get { .. } => "get",
            Self::List { .. } => "list",
        }
    }
}

/// An effect of time on one task or session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Time {
    EndsLease(usize),
    MakesDue(usize),
    PassesDeadline(usize),
    Silences(Caller),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    Claimed,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Pending, "pending"),
        (Self::Claimed, "claimed"),
        (Self::Running, "running"),
        (Self::Completed, "completed"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|it| it.0 == self).expect("all are listed").1
    }

    pub(super) fn of(name: &Value) -> Self {
        Self::ALL.iter().find(|it| name == it.1).unwrap_or_else(|| panic!("status {name}")).0
    }

    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    pub(super) fn is_claimed(self) -> bool {
        matches!(self, Self::Claimed | Self::Running)
    }
}

/// The latest claim of a task. A final task keeps it. A pending task has no claim.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) by: Caller,
    pub(super) token: String,
    /// The requested lease, and what is left of it.
    minutes: i64,
    left: i64,
    /// Whether neither the lease nor the session has ended.
    pub(super) is_held: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) id: String,
    asked: Submission,
    submitter: Caller,
    pub(super) depends_on: Vec<usize>,
    pub(super) status: Status,
    pub(super) attempt: i64,
    pub(super) claim: Option<Claim>,
    /// Whether its delay has not ended.
    pub(super) is_early: bool,
    deadline_has_passed: bool,
    result: Value,
    error: Value,
    /// The latest completion: the caller, the report, the answer and the token of the claim.
    completion: Option<(Caller, Report, Value, String)>,
}

impl Task {
    pub(super) fn has_deadline_ahead(&self) -> bool {
        self.asked.has_deadline && !self.deadline_has_passed
    }

    pub(super) fn completion(&self) -> Option<(Caller, &Report)> {
        self.completion.as_ref().map(|(by, report, ..)| (*by, report))
    }

    /// Sets the status to failed if the deadline or the attempts require it.
    fn settle(&mut self) {
        let is_lapsed =
            self.status.is_claimed() && !self.claim.as_ref().is_some_and(|it| it.is_held);
        if is_lapsed && self.attempt >= self.asked.max_attempts {
            self.fail("max_attempts_exceeded");
        } else if (is_lapsed || self.status == Status::Pending) && self.deadline_has_passed {
            self.fail("deadline_exceeded");
        }
    }

    fn fail(&mut self, reason: &str) {
        (self.status, self.error) = (Status::Failed, json!(reason));
    }

    /// Removes the claim and voids its token.
    fn return_to_queue(&mut self) {
        (self.status, self.claim) = (Status::Pending, None);
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    capabilities: &'static [&'static str],
    is_silent: bool,
    has_ended: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    pub(super) tasks: Vec<Task>,
    sessions: BTreeMap<(usize, &'static str), Session>,
    tokens: HashSet<String>,
    /// Sessions that a call has revived whose answer, an error, did not tell it.
    untold: HashSet<(usize, &'static str)>,
    /// How many completions were identical repetitions.
    pub(super) repeats: u32,
}

/// An expected answer: the status, and the body or the location of the issue of a 422.
pub(super) type Expected = (u16, Value);

impl Queue {
    /// Applies a request and returns the expected answer. Ids, tokens and times, which the service chooses, are
    /// taken from the actual answer if they are possible.
    pub(super) fn answer(&mut self, caller: Caller, ask: &Ask, actual: &Value) -> Expected {
        // Before the call: a claim that has expired is lost, and its claimant can still renew it.
        let can_be_lost = self.can_be_lost(&actual["lost"]);
        let session = caller.session.map(|it| (caller.agent, it));
        let is_untold = session.is_some_and(|it| self.untold.contains(&it));
        let was_lost = (self.is_lost(caller) || is_untold) && !matches!(ask, Ask::Deregister);
        if !matches!(ask, Ask::Register { .. } | Ask::Deregister) {
            self.record_heartbeat(caller);
        }
        let mut body = match ask {
            Ask::Submit(asked) => match self.submit(caller, asked, actual) {
                Ok(body) => body,
                Err(place) => {
                    self.untold.extend(session.filter(|_| was_lost));
                    return (422, place);
                }
            },
            Ask::Claim { kinds, minutes } => self.claim(caller, kinds.as_deref(), *minutes, actual),
            Ask::Renew { task, token, minutes } => {
                self.renew(caller, *task, token.as_deref(), *minutes, actual)
            }
            Ask::Complete { task, token, report } => {
                self.complete(caller, *task, token.as_deref(), report, actual)
            }
            Ask::Cancel { task, reason } => self.cancel(caller, *task, *reason),
            Ask::Register { capabilities } => self.register(caller, capabilities, actual),
            Ask::Deregister => self.deregister(caller),
            Ask::CleanUp => {
                let (agents, sessions, requeued) = self.end_silent_sessions();
                json!({
                    "success": true, "agents_cleaned": agents, "locks_released": 0,
                    "sessions_cleaned": sessions, "tasks_requeued": requeued, "ports_released": 0,
                    "dry_run": false,
                })
            }
            Ask::Maintain => {
                let (_, sessions, requeued) = self.end_silent_sessions();
                json!({
                    "success": true, "sessions_expired": sessions, "locks_expired": 0,
                    "locks_released": 0, "tasks_requeued": requeued,
                    // Which request stores an effect of time is not part of the contract.
                    "tasks_failed": actual["tasks_failed"], "ports_released": 0,
                    "approvals_expired": 0, "rows_deleted": 0, "audit_partitions_dropped": 0,
                    "duration_ms": actual["duration_ms"],
                })
            }
            Ask::Get { task: None } => json!({ "success": false, "reason": "task_not_found" }),
            Ask::Get { task: Some(task) } => {
                json!({ "success": true, "task": self.show(*task, &actual["task"]) })
            }
            Ask::List { status, claimed_by, limit } => {
                self.list(*status, *claimed_by, *limit, actual)
            }
        };
        self.settle();
        if was_lost {
            session.map(|it| self.untold.remove(&it));
            body["revived"] = json!(true);
        }
        if was_lost || matches!(ask, Ask::Register { .. }) && actual["lost"].is_object() {
            body["lost"] = chosen(&actual["lost"], "given tokens", |_| can_be_lost);
        }
        (200, body)
    }

    /// Whether a caller's session has ended or was silent for too long.
    fn is_lost(&self, caller: Caller) -> bool {
        let session = caller.session.and_then(|it| self.sessions.get(&(caller.agent, it)));
        session.is_some_and(|it| it.is_silent || it.has_ended)
    }

    /// Whether an answer tells that claims are lost which were granted once and are not held any more.
    fn can_be_lost(&self, lost: &Value) -> bool {
        let mut claims = lost["claims"].as_array().into_iter().flatten();
        let is_held = |token: &str| {
            let mut claims = self.tasks.iter().filter(|it| it.status.is_claimed());
            claims.any(|it| it.claim.as_ref().is_some_and(|it| it.is_held && it.token == token))
        };
        lost["locks"] == json!([])
            && lost["ports"] == json!([])
            && claims.all(|it| {
                let token = it["claim_token"].as_str().unwrap_or_default();
                self.tokens.contains(token) && !is_held(token)
            })
    }

    /// The other open claims that an answer to a claim lists, or nothing.
    fn add_open_claims(&self, by: Caller, new: Option<usize>, actual: &Value, body: &mut Value) {
        let is_open = |(place, task): &(usize, &Task)| {
            let claim = task.claim.as_ref().filter(|_| task.status.is_claimed());
            Some(*place) != new && claim.is_some_and(|it| it.is_held && it.by.is(by))
        };
        let open: BTreeSet<_> = self
            .tasks
            .iter()
            .enumerate()
            .filter(is_open)
            .map(|(_, task)| task.claim.as_ref().expect("a claim").token.clone())
            .collect();
        if open.is_empty() {
            return;
        }
        let listed = |it: &Value| {
            let claims = it.as_array().into_iter().flatten();
            let tokens = claims.map(|it| it["claim_token"].as_str().unwrap_or_default().to_owned());
            tokens.collect::<BTreeSet<_>>() == open
        };
        body["open_claims"] = chosen(&actual["open_claims"], "the open claims", listed);
    }

    /// A queue as the service lists it. The list does not show whether a delay has ended, whether a claim is
    /// held and which caller can repeat a completion.
    pub(super) fn resumed(
        listed: &[Value],
        submitted: impl Fn(&str) -> (Caller, Submission),
        token: impl Fn(&str, i64) -> Option<String>,
    ) -> Self {
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let ids: Vec<_> = listed.iter().map(|it| text(&it["id"])).collect();
        let tasks = listed.iter().zip(&ids).map(|(it, id)| {
            let (submitter, asked) = submitted(id);
            let attempt = it["attempt"].as_i64().unwrap_or_default();
            let depends_on = it["depends_on"].as_array().into_iter().flatten();
            let place = |id: &Value| ids.iter().position(|it| id == it).expect("a listed task");
            let claimant = (0..=CLOSER).find(|agent| it["claimed_by"] == name(*agent));
            let session = SESSIONS.into_iter().find(|name| it["claimed_session_id"] == *name);
            Task {
                id: id.clone(),
                asked,
                submitter,
                depends_on: depends_on.map(place).collect(),
                status: Status::of(&it["status"]),
                attempt,
                claim: claimant.map(|agent| Claim {
                    by: Caller { agent, session },
                    token: token(id, attempt).unwrap_or_default(),
                    minutes: 0,
                    left: 0,
                    is_held: true,
                }),
                is_early: true,
                deadline_has_passed: it["deadline"].is_string() && it["deadline"] != DEADLINE,
                result: it["result"].clone(),
                error: it["error_message"].clone(),
                completion: None,
            }
        });
        Self { tasks: tasks.collect(), ..Self::default() }
    }

    /// Ends all leases and delays.
    pub(super) fn let_go(&mut self) {
        for task in &mut self.tasks {
            task.is_early = false;
            if let Some(claim) = &mut task.claim {
                (claim.is_held, claim.left) = (false, 0);
            }
        }
        self.settle();
    }

    /// Whether no agent can ever claim the task: none has enough trust, or a dependency cannot be completed.
    pub(super) fn is_stuck(&self, task: usize) -> bool {
        !self.blockers(task).is_empty() || self.tasks[task].asked.min_trust == Some(4)
    }

    pub(super) fn pass(&mut self, time: Time) {
        match time {
            Time::EndsLease(task) => {
                let claim = self.tasks[task].claim.as_mut().expect("a claim");
                (claim.is_held, claim.left) = (false, 0);
            }
            Time::MakesDue(task) => self.tasks[task].is_early = false,
            Time::PassesDeadline(task) => self.tasks[task].deadline_has_passed = true,
            Time::Silences(caller) => {
                let session = caller.session.expect("a session");
                self.sessions.get_mut(&(caller.agent, session)).expect("registered").is_silent =
                    true;
                let claims = self.tasks.iter_mut().filter(|it| it.status.is_claimed());
                for claim in claims.filter_map(|it| it.claim.as_mut()).filter(|it| it.by == caller)
                {
                    (claim.is_held, claim.left) = (false, claim.left - SILENCE);
                }
            }
        }
        self.settle();
    }

    /// Sessions that are registered and live.
    pub(super) fn live_sessions(&self) -> Vec<Caller> {
        let live = self.sessions.iter().filter(|(_, it)| !it.is_silent && !it.has_ended);
        live.map(|((agent, session), _)| Caller { agent: *agent, session: Some(session) }).collect()
    }

    /// Sessions that were ever registered.
    pub(super) fn sessions(&self) -> Vec<Caller> {
        let all = self.sessions.keys();
        all.map(|(agent, session)| Caller { agent: *agent, session: Some(session) }).collect()
    }

    /// The order in which tasks are handed out.
    fn in_order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.tasks.len()).collect();
        order.sort_by_key(|it| (self.tasks[*it].asked.priority.unwrap_or(5), *it));
        order
    }

    pub(super) fn blockers(&self, task: usize) -> Vec<usize> {
        let depends_on = self.tasks[task].depends_on.iter().copied();
        depends_on.filter(|it| self.tasks[*it].status != Status::Completed).collect()
    }

    fn settle(&mut self) {
        self.tasks.iter_mut().for_each(Task::settle);
    }

    fn record_heartbeat(&mut self, caller: Caller) {
        if let Some(session) = caller.session
            && let Some(session) = self.sessions.get_mut(&(caller.agent, session))
        {
            (session.is_silent, session.has_ended) = (false, false);
        }
    }

    fn submit(&mut self, by: Caller, asked: &Submission, actual: &Value) -> Result<Value, Value> {
        if let Some(index) = asked.depends_on.iter().position(Option::is_none) {
            return Err(json!(["body", "depends_on", index]));
        }
        if let Some(replaced) = asked.replaces {
            let status = replaced.map(|it| self.tasks[it].status);
            if !matches!(status, Some(Status::Failed | Status::Cancelled)) {
                return Err(json!(["body", "replaces"]));
            }
        }
        if asked.is_destructive && by.trust() < 3 {
            return Ok(json!({
                "success": false, "task_id": null, "action": null, "reason": BLOCKED,
            }));
        }
        let twin = self.tasks.iter().find(|it| {
            asked.unique_key.is_some()
                && it.asked.unique_key == asked.unique_key
                && !it.status.is_final()
        });
        if let Some(twin) = twin {
            return Ok(json!({
                "success": true, "task_id": twin.id, "action": "deduplicated", "reason": null,
            }));
        }
        let is_new =
            |id: &Value| id.as_str().is_some_and(|id| self.tasks.iter().all(|it| it.id != id));
        let id = chosen(&actual["task_id"], "a new id", is_new);
        let mut depends_on = Vec::new();
        for task in asked.depends_on.iter().flatten() {
            if !depends_on.contains(task) {
                depends_on.push(*task);
            }
        }
        let new = self.tasks.len();
        if let Some(Some(replaced)) = asked.replaces {
            for task in self.tasks.iter_mut().filter(|it| it.status == Status::Pending) {
                for place in task.depends_on.iter_mut().filter(|it| **it == replaced) {
                    *place = new;
                }
            }
        }
        self.tasks.push(Task {
            id: id.as_str().unwrap_or_default().to_owned(),
            asked: asked.clone(),
            submitter: by,
            depends_on,
            status: Status::Pending,
            attempt: 0,
            claim: None,
            is_early: asked.is_for_later,
            deadline_has_passed: false,
            result: Value::Null,
            error: Value::Null,
            completion: None,
        });
        Ok(json!({ "success": true, "task_id": id, "action": "created", "reason": null }))
    }

    fn claim(
        &mut self,
        by: Caller,
        kinds: Option<&[&str]>,
        minutes: Option<i64>,
        actual: &Value,
    ) -> Value {
        let open: Vec<_> =
            self.in_order().into_iter().filter(|it| self.is_open_to(*it, by, kinds)).collect();
        let is_blocked = |task: &usize| self.tasks[*task].asked.is_destructive && by.trust() < 3;
        let Some(found) = open.iter().copied().find(|it| !is_blocked(it)) else {
            let reason = if open.is_empty() { "no_tasks_available" } else { BLOCKED };
            // What waits, and why, has tests of its own.
            let unavailable = ["blocked", "by_failed", "undeclared_archetypes"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), actual.get(name)?.clone())));
            let mut body = json!({
                "success": false, "task_id": null, "task_type": null, "description": null,
                "input_data": null, "priority": null, "deadline": null, "reason": reason,
                "attempt": null, "claim_token": null, "lease_expires_at": null,
            });
            body.as_object_mut().expect("an object").extend(unavailable);
            self.add_open_claims(by, None, actual, &mut body);
            return body;
        };
        let is_new = |it: &Value| it.as_str().is_some_and(|it| !self.tokens.contains(it));
        let token = chosen(&actual["claim_token"], "a token never given before", is_new);
        self.tokens.extend(token.as_str().map(str::to_owned));
        let minutes = minutes.unwrap_or(DEFAULT_LEASE);
        let task = &mut self.tasks[found];
        task.status = Status::Claimed;
        task.attempt += 1;
        task.claim = Some(Claim {
            by,
            token: token.as_str().unwrap_or_default().to_owned(),
            minutes,
            left: minutes,
            is_held: true,
        });
        (task.completion, task.result, task.error) = (None, Value::Null, Value::Null);
        let mut body = json!({
            "success": true, "task_id": task.id, "task_type": task.asked.kind,
            "description": task.asked.description(), "input_data": task.asked.input_data(),
            "priority": task.asked.priority.unwrap_or(5), "deadline": deadline(task),
            "reason": null, "attempt": task.attempt, "claim_token": token,
            "lease_expires_at": in_minutes(&actual["lease_expires_at"], minutes),
        });
        self.add_open_claims(by, Some(found), actual, &mut body);
        body
    }

    /// Whether an agent may claim a task, guardrails aside.
    fn is_open_to(&self, task: usize, by: Caller, kinds: Option<&[&str]>) -> bool {
        let it = &self.tasks[task];
        let is_free = match it.status {
            Status::Pending => !it.is_early && self.blockers(task).is_empty(),
            Status::Claimed | Status::Running => !it.claim.as_ref().is_some_and(|it| it.is_held),
            _ => false,
        };
        let is_own = it.submitter.agent == by.agent || it.asked.author == Some(by.agent);
        let is_review = matches!(it.asked.kind, "review" | "evaluate");
        let declared: BTreeSet<_> = self
            .sessions
            .iter()
            .filter(|((agent, _), it)| *agent == by.agent && !it.is_silent && !it.has_ended)
            .flat_map(|(_, it)| it.capabilities)
            .collect();
        is_free
            && kinds.is_none_or(|kinds| kinds.contains(&it.asked.kind))
            && !(is_review && is_own)
            && it.asked.min_trust.is_none_or(|it| it <= by.trust())
            && it.asked.archetype.is_none_or(|it| declared.contains(&it))
    }

    /// Why a renewal or a completion is refused.
    fn refusal(&self, by: Caller, task: Place, token: Option<&str>) -> Option<&'static str> {
        let Some(task) = task.map(|it| &self.tasks[it]) else { return Some(NOT_MINE) };
        let claim = task.claim.as_ref();
        if token.is_some() && token != claim.map(|it| &*it.token) {
            return Some("claim_superseded");
        }
        let is_proven = token.is_some() && claim.is_some_and(|it| it.by.agent == by.agent);
        if !is_proven && !claim.is_some_and(|it| it.by.is(by)) {
            return Some(NOT_MINE);
        }
        task.status.is_final().then_some("task_already_finished")
    }

    fn renew(
        &mut self,
        by: Caller,
        task: Place,
        token: Option<&str>,
        minutes: Option<i64>,
        actual: &Value,
    ) -> Value {
        let refusal = self.refusal(by, task, token);
        let Some(task) = task.filter(|_| refusal.is_none()) else {
            return json!({
                "success": false, "status": null, "task_id": null, "lease_expires_at": null,
                "reason": refusal,
            });
        };
        let of = self.tasks[task].claim.as_ref().expect("a claim").by;
        let session = match (of.session, by.session) {
            (Some(_), Some(_)) => by.session,
            (Some(_), None) if self.is_lost(of) => None,
            _ => of.session,
        };
        let task = &mut self.tasks[task];
        let claim = task.claim.as_mut().expect("a claim");
        claim.by.session = session;
        task.status = Status::Running;
        (claim.left, claim.is_held) = (minutes.unwrap_or(claim.minutes), true);
        json!({
            "success": true, "status": "running", "task_id": task.id,
            "lease_expires_at": in_minutes(&actual["lease_expires_at"], claim.left),
            "reason": null,
        })
    }

    fn complete(
        &mut self,
        by: Caller,
        task: Place,
        token: Option<&str>,
        report: &Report,
        actual: &Value,
    ) -> Value {
        let completion = task.and_then(|it| self.tasks[it].completion.as_ref());
        if let Some((who, what, answer, proof)) = completion
            && who.agent == by.agent
            && (who.is(by) || token == Some(proof))
            && what == report
        {
            self.repeats += 1;
            return answer.clone();
        }
        let refusal = self.refusal(by, task, token);
        let Some(task) = task.filter(|_| refusal.is_none()) else {
            return json!({
                "success": false, "status": null, "task_id": null, "reason": refusal,
                "retry_at": null,
            });
        };
        let task = &mut self.tasks[task];
        let is_destructive = report.result["command"] == DESTRUCTIVE;
        if report.success && is_destructive && by.trust() < 3 {
            return json!({
                "success": false, "status": "blocked", "task_id": task.id, "reason": BLOCKED,
                "retry_at": null,
            });
        }
        let claim = task.claim.as_ref().expect("a claim");
        let (claimant, proof) = (claim.by, claim.token.clone());
        (task.result, task.error) = (report.result.clone(), report.error.clone());
        let mut retry_at = Value::Null;
        if report.success {
            task.status = Status::Completed;
        } else if task.asked.retries && task.attempt < task.asked.max_attempts {
            retry_at = after_backoff(&actual["retry_at"], task.attempt);
            task.return_to_queue();
            task.is_early = true;
        } else {
            task.status = Status::Failed;
        }
        let answer = json!({
            "success": true, "status": task.status.name(), "task_id": task.id, "reason": null,
            "retry_at": retry_at,
        });
        task.completion = Some((claimant, report.clone(), answer.clone(), proof));
        answer
    }

    fn cancel(&mut self, by: Caller, task: Place, reason: Option<&str>) -> Value {
        let refusal = match task.map(|it| &self.tasks[it]) {
            None => Some("task_not_found"),
            Some(it) if it.submitter.agent != by.agent && by.trust() < 3 => Some("not_submitter"),
            Some(it) if it.status.is_final() => Some("task_already_finished"),
            Some(_) => None,
        };
        let Some(task) = task.filter(|_| refusal.is_none()) else {
            return json!({ "success": false, "status": null, "task_id": null, "reason": refusal });
        };
        let task = &mut self.tasks[task];
        (task.status, task.error) = (Status::Cancelled, json!(reason));
        json!({ "success": true, "status": "cancelled", "task_id": task.id, "reason": null })
    }

    fn register(
        &mut self,
        caller: Caller,
        capabilities: &'static [&'static str],
        actual: &Value,
    ) -> Value {
        let session = caller.session.expect("a session");
        let new = Session { capabilities, is_silent: false, has_ended: false };
        self.sessions.insert((caller.agent, session), new);
        let mut body = json!({ "success": true, "session_id": session, "error": null });
        let is_elsewhere = |task: &Task| {
            let claim = task.claim.as_ref().filter(|_| task.status.is_claimed());
            claim.is_some_and(|it| {
                let of = it.by.session.filter(|of| *of != session);
                it.is_held && it.by.agent == caller.agent && of.is_some()
            })
        };
        let claims = self.tasks.iter().filter(|it| is_elsewhere(it));
        let tokens: BTreeSet<_> =
            claims.map(|it| it.claim.as_ref().expect("a claim").token.clone()).collect();
        if !tokens.is_empty() {
            let listed = |it: &Value| {
                let claims = it["claims"].as_array().into_iter().flatten();
                let listed = claims.map(|it| it["claim_token"].as_str().unwrap_or_default());
                listed.map(str::to_owned).collect::<BTreeSet<_>>() == tokens
            };
            body["held_elsewhere"] =
                chosen(&actual["held_elsewhere"], "what other sessions hold", listed);
        }
        body
    }

    fn deregister(&mut self, caller: Caller) -> Value {
        let session = caller.session.expect("a session");
        let known = self.sessions.get(&(caller.agent, session)).copied();
        let requeued = if known.is_some_and(|it| !it.has_ended) { self.end(caller) } else { 0 };
        json!({
            "success": known.is_some(), "session_id": known.map(|_| session),
            "error": known.is_none().then_some("session_not_found"),
            "locks_released": 0, "tasks_requeued": requeued, "ports_released": 0,
        })
    }

    /// Ends a session and requeues its claims. Tasks out of attempts fail.
    fn end(&mut self, caller: Caller) -> i64 {
        let session = caller.session.expect("a session");
        let ended = self.sessions.get_mut(&(caller.agent, session)).expect("registered");
        ended.has_ended = true;
        let mut requeued = 0;
        for task in self.tasks.iter_mut().filter(|it| it.status.is_claimed()) {
            if task.claim.as_ref().is_none_or(|it| it.by != caller) {
                continue;
            }
            if task.attempt >= task.asked.max_attempts {
                task.fail("max_attempts_exceeded");
            } else {
                task.return_to_queue();
                requeued += 1;
            }
        }
        requeued
    }

    /// How many agents and sessions ended, and how many tasks were requeued.
    fn end_silent_sessions(&mut self) -> (usize, usize, i64) {
        let silent = self.sessions.iter().filter(|(_, it)| it.is_silent && !it.has_ended);
        let silent: Vec<_> = silent.map(|(key, _)| *key).collect();
        let agents: BTreeSet<_> = silent.iter().map(|it| it.0).collect();
        let requeued = silent
            .iter()
            .map(|(agent, session)| self.end(Caller { agent: *agent, session: Some(session) }))
            .sum();
        (agents.len(), silent.len(), requeued)
    }

    fn list(
        &self,
        status: Option<&str>,
        claimed_by: Option<usize>,
        limit: usize,
        actual: &Value,
    ) -> Value {
        let mut found = self.in_order();
        found.retain(|it| {
            let task = &self.tasks[*it];
            status.is_none_or(|it| task.status.name() == it)
                && claimed_by
                    .is_none_or(|it| task.claim.as_ref().is_some_and(|claim| claim.by.agent == it))
        });
        let is_truncated = found.len() > limit;
        found.truncate(limit);
        let tasks: Vec<_> = found
            .iter()
            .enumerate()
            .map(|(n, task)| self.show(*task, &actual["tasks"][n]))
            .collect();
        let mut list = json!({ "tasks": tasks, "count": tasks.len(), "truncated": is_truncated });
        if is_truncated {
            let hint = format!("showing first {limit}; re-run with a higher limit to see more");
            let next = if tasks.is_empty() {
                ""
            } else {
                "; or repeat the request with next_cursor as cursor for those that follow"
            };
            list["hint"] = json!(hint + next);
            if let Some(last) = tasks.last() {
                let text = |member: &str| last[member].as_str().expect("text").replace('+', "%2B");
                let (priority, created_at, id) =
                    (&last["priority"], text("created_at"), text("id"));
                list["next_cursor"] = json!(format!("{priority}~{created_at}~{id}"));
            }
        }
        list
    }

    /// A task as every caller sees it.
    fn show(&self, task: usize, actual: &Value) -> Value {
        let blockers: Vec<_> = self
            .blockers(task)
            .into_iter()
            .map(|it| json!({ "id": self.tasks[it].id, "status": self.tasks[it].status.name() }))
            .collect();
        let it = &self.tasks[task];
        let (asked, claim) = (&it.asked, it.claim.as_ref());
        let depends_on: Vec<_> = it.depends_on.iter().map(|it| &self.tasks[*it].id).collect();
        let given = |name: &str, is_given: bool| {
            if is_given {
                chosen(&actual[name], "a time", |it| seconds(it).is_some())
            } else {
                Value::Null
            }
        };
        let lease = match (it.status, claim) {
            (Status::Pending, _) => Value::Null,
            (Status::Claimed | Status::Running, Some(claim)) => {
                in_minutes(&actual["lease_expires_at"], claim.left)
            }
            // The contract does not say whether an ended lease is shown.
            _ => actual["lease_expires_at"].clone(),
        };
        json!({
            "id": it.id, "task_type": asked.kind, "description": asked.description(),
            "status": it.status.name(), "priority": asked.priority.unwrap_or(5),
            "input_data": asked.input_data(), "claimed_by": claim.map(|it| name(it.by.agent)),
            "claimed_at": match claim {
                Some(_) => given("claimed_at", true),
                None => actual["claimed_at"].clone(),
            },
            "result": it.result, "error_message": it.error, "depends_on": depends_on,
            "deadline": if it.deadline_has_passed { given("deadline", true) } else { deadline(it) },
            "created_at": given("created_at", true),
            "completed_at": given("completed_at", it.status.is_final()),
            "submitted_by": name(it.submitter.agent),
            "submitted_session_id": it.submitter.session,
            "claimed_session_id": claim.and_then(|it| it.by.session),
            "agent_requirements": asked.requirements(), "attempt": it.attempt,
            "max_attempts": asked.max_attempts, "retry_on_failure": asked.retries,
            "lease_expires_at": lease,
            "not_before": asked.is_for_later.then_some(NOT_BEFORE),
            "unique_key": asked.unique_key, "started_at": given("started_at", it.attempt > 0),
            "blocked_by": blockers,
        })
    }
}

fn deadline(task: &Task) -> Value {
    json!(task.asked.has_deadline.then_some(DEADLINE))
}

/// The value that the service chose if it is possible, otherwise a text that no answer has.
fn chosen(actual: &Value, what: &str, is_possible: impl FnOnce(&Value) -> bool) -> Value {
    if is_possible(actual) { actual.clone() } else { json!(format!("<{what}>")) }
}

/// Whether a time is so many minutes from now, with a tolerance for slow machines.
fn in_minutes(actual: &Value, minutes: i64) -> Value {
    chosen(actual, &format!("in {minutes} minutes"), |it| {
        seconds(it).is_some_and(|it| (it - now() - minutes as f64 * 60.0).abs() < 300.0)
    })
}

/// Half a minute for the first attempt, doubled with each one, at most an hour, within a fifth.
fn after_backoff(actual: &Value, attempt: i64) -> Value {
    let delay = (30.0 * 2.0_f64.powi(attempt as i32 - 1)).min(3600.0);
    let (least, most) = (0.8 * delay - 20.0, 1.2 * delay);
    chosen(actual, &format!("in {least} to {most} seconds"), |it| {
        seconds(it).is_some_and(|it| it - now() > least && it - now() <= most)
    })
}

fn seconds(time: &Value) -> Option<f64> {
    let time = DateTime::parse_from_rfc3339(time.as_str()?).ok()?;
    Some(time.timestamp_micros() as f64 / 1e6)
}

#[expect(clippy::disallowed_methods, reason = "service, database and test run on one machine")]
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
