//! Random sequences of requests and of time passing in the work queue, at two instances of the service,
//! compared with a reference model of the contract.
//!
//! Most sequences are sequential, and every answer must equal the model's. The others have several requests
//! in flight: invariants are checked that hold for every order, and the rest of the sequence must agree
//! with the model again.
//!
//! A failure names the seed of its sequence. `WORK_MODEL_SEED=<seed>` runs that one first.
mod dice;
mod reference;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Mutex,
};

use agent_coordinator::{App, router};
use futures_util::future::join_all;
use serde_json::{Value, json};

use self::{
    dice::Chooser,
    reference::{
        Ask, CLOSER, Caller, DEADLINE, NO_TASK, NOT_BEFORE, Place, Queue, Report, SILENCE, Status,
        Submission, Time, UNBOUND, name,
    },
};
use crate::support::{Client, Service, config, with, with_more};

/// 2,000 sequences in all.
const SEQUENCES_STEP_BY_STEP: u64 = 1_700;
const SEQUENCES_AT_ONCE: u64 = 300;

/// How many sequences run at the same time, each in a workspace of its own.
const LANES: u64 = 5;

/// The outcomes of steps. Each must occur in some sequence.
const OUTCOMES: [&str; 31] = [
    "cancel cancelled",
    "cancel not_submitter",
    "cancel task_already_finished",
    "cancel task_not_found",
    "claim 200",
    "claim destructive_operation_blocked: git_force_push",
    "claim no_tasks_available",
    "clean up 200",
    "complete again",
    "complete claim_superseded",
    "complete completed",
    "complete destructive_operation_blocked: git_force_push",
    "complete failed",
    "complete pending",
    "complete task_already_finished",
    "complete task_not_found_or_not_claimed_by_agent",
    "deregister 200",
    "deregister session_not_found",
    "get 200",
    "get task_not_found",
    "list 200",
    "maintain 200",
    "register 200",
    "renew claim_superseded",
    "renew running",
    "renew task_already_finished",
    "renew task_not_found_or_not_claimed_by_agent",
    "submit 422",
    "submit created",
    "submit deduplicated",
    "submit destructive_operation_blocked: git_force_push",
];

/// One workspace at two instances of the service.
struct Lane<'a> {
    service: &'a Service,
    /// The outcomes of the answers compared so far.
    outcomes: &'a Mutex<BTreeMap<String, u32>>,
    /// A client for each agent, for each instance.
    clients: [Vec<Client>; 2],
    workspace: String,
}

fn key(lane: u64, agent: usize) -> String {
    if agent < UNBOUND { format!("lane-{lane}") } else { format!("lane-{lane}-{agent}") }
}

impl Lane<'_> {
    async fn clear(&self) {
        let workspace = &self.workspace;
        let tables = ["work_task", "work_dependency", "agent_session", "session_loss"];
        let statements =
            tables.map(|it| format!("delete from {it} where workspace = '{workspace}';"));
        self.service.execute(&statements.concat()).await;
    }

    async fn send(&self, instance: usize, caller: Caller, ask: &Ask, ids: &[String]) -> Answer {
        let mut client = self.clients[instance][caller.agent].clone();
        let named = |place: &Place| place.map_or(NO_TASK, |it| &ids[it]).to_owned();
        let mut body = json!({
            "agent_id": name(caller.agent), "agent_type": "t", "session_id": caller.session,
        });
        let (route, more) = match ask {
            Ask::Submit(it) => {
                let depends_on: Vec<_> = it.depends_on.iter().map(named).collect();
                let more = json!({
                    "task_type": it.kind, "task_description": it.description(),
                    "input_data": it.input_data(), "depends_on": depends_on,
                    "agent_requirements": it.requirements(), "unique_key": it.unique_key,
                    "max_attempts": it.max_attempts, "retry_on_failure": it.retries,
                    "deadline": it.has_deadline.then_some(DEADLINE),
                    "not_before": it.is_for_later.then_some(NOT_BEFORE),
                    "replaces": it.replaces.as_ref().map(named),
                });
                if let Some(priority) = it.priority {
                    body["priority"] = json!(priority);
                }
                ("/work/submit", more)
            }
            Ask::Claim { kinds, minutes } => {
                ("/work/claim", json!({ "task_types": kinds, "lease_minutes": minutes }))
            }
            Ask::Renew { task, token, minutes } => {
                let more = json!({ "claim_token": token, "lease_minutes": minutes });
                body["task_id"] = json!(named(task));
                ("/work/renew", more)
            }
            Ask::Complete { task, token, report } => {
                let more = json!({
                    "task_id": named(task), "claim_token": token, "success": report.success,
                    "result": report.result, "error_message": report.error,
                });
                ("/work/complete", more)
            }
            Ask::Cancel { task, reason } => {
                ("/work/cancel", json!({ "task_id": named(task), "reason": reason }))
            }
            Ask::Register { capabilities } => {
                ("/discovery/register", json!({ "capabilities": capabilities }))
            }
            Ask::Deregister => ("/discovery/deregister", json!({})),
            Ask::CleanUp => {
                ("/discovery/cleanup", json!({ "stale_threshold_minutes": SILENCE - 1 }))
            }
            Ask::Maintain => ("/maintenance/run", json!({ "tasks": ["sessions", "work"] })),
            Ask::Get { task } => ("/work/get", json!({ "task_id": named(task) })),
            Ask::List { status, claimed_by, limit } => {
                let mut path = format!("/work?limit={limit}");
                if let Some(status) = status {
                    write!(path, "&status={status}").expect("a string takes it");
                }
                if let Some(agent) = claimed_by {
                    write!(path, "&claimed_by={}", name(*agent)).expect("a string takes it");
                }
                return Answer::of(client.get(&path).await);
            }
        };
        // The session is a member of the body if the route has it, otherwise a header.
        let is_in_body = matches!(ask, Ask::Claim { .. } | Ask::Register { .. } | Ask::Deregister);
        if !is_in_body && let Some(session) = caller.session {
            body["session_id"] = Value::Null;
            client = client.header("x-session-id", session);
        }
        Answer::of(client.post(route, with(body, more)).await)
    }

    /// Moves time for one task or session.
    async fn pass(&self, time: Time, ids: &[String]) {
        let workspace = &self.workspace;
        let of = |task: usize| format!("where workspace = '{workspace}' and id = '{}'", ids[task]);
        let past = "now() - interval '1 second'";
        let ago = format!("interval '{SILENCE} minutes'");
        let sql = match time {
            Time::EndsLease(task) => format!(
                "update work_task set lease_expires_at = {past}, claim_expires_at = {past} {}
                    and status in ('claimed', 'running')",
                of(task)
            ),
            Time::MakesDue(task) => {
                format!("update work_task set available_at = {past} {}", of(task))
            }
            Time::PassesDeadline(task) => {
                format!("update work_task set deadline = {past} {}", of(task))
            }
            Time::Silences(caller) => {
                let (agent, session) = (name(caller.agent), caller.session.expect("a session"));
                format!(
                    "update agent_session set last_heartbeat_at =
                        (last_heartbeat_at at time zone 'utc' - {ago}) at time zone 'utc'
                     where workspace = '{workspace}' and agent_id = '{agent}'
                        and session_id = '{session}';
                     update work_task set lease_expires_at =
                        (lease_expires_at at time zone 'utc' - {ago}) at time zone 'utc',
                        claim_expires_at = (claim_expires_at at time zone 'utc' - {ago}) at time zone 'utc'
                     where workspace = '{workspace}' and claimed_by = '{agent}'
                        and claimed_session_id = '{session}' and status in ('claimed', 'running')"
                )
            }
        };
        self.service.execute(&sql).await;
    }

    /// Ends all leases and delays.
    async fn let_go(&self) {
        let (workspace, past) = (&self.workspace, "now() - interval '1 second'");
        let sql = format!(
            "update work_task set available_at = {past} where workspace = '{workspace}';
             update work_task set lease_expires_at = {past}, claim_expires_at = {past}
             where workspace = '{workspace}' and status in ('claimed', 'running')"
        );
        self.service.execute(&sql).await;
    }

    async fn tasks(&self) -> Vec<Value> {
        let listed = self.clients[0][CLOSER].get("/work?limit=500").await;
        listed.json["tasks"].as_array().expect("tasks").clone()
    }

    /// Sends a request and compares the answer with the model's.
    async fn check(
        &self,
        dice: &mut Chooser,
        queue: &mut Queue,
        step: (Caller, Ask),
        log: &mut Log,
    ) {
        let ids: Vec<_> = queue.tasks.iter().map(|it| it.id.clone()).collect();
        let (caller, ask) = step;
        let instance = dice.roll(2);
        let actual = self.send(instance, caller, &ask, &ids).await;
        log.add(
            &format!("{instance} {} {:?} {ask:?}", name(caller.agent), caller.session),
            &actual.body,
        );
        let repeats = queue.repeats;
        let (status, body) = queue.answer(caller, &ask, &actual.body);
        let expected = Answer { status, body };
        assert!(actual == expected, "{log}\n{}", actual.differences(&expected));
        let is_repeat = queue.repeats > repeats;
        let what = if is_repeat { "again".to_owned() } else { expected.outcome() };
        let outcome = format!("{} {what}", ask.name());
        *self.outcomes.lock().expect("whole").entry(outcome).or_default() += 1;
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    /// The location of the first issue of a 422.
    body: Value,
}

impl Answer {
    fn of(answer: crate::support::Answer) -> Self {
        let status = answer.status.as_u16();
        let body =
            if status == 422 { answer.json["detail"][0]["loc"].clone() } else { answer.json };
        Self { status, body }
    }

    /// The outcome of this answer.
    fn outcome(&self) -> String {
        let members = ["reason", "error", "action", "status"];
        let member = members.iter().find_map(|it| self.body[it].as_str());
        member.map_or_else(|| self.status.to_string(), str::to_owned)
    }

    /// The differences between this answer and the expected one.
    fn differences(&self, expected: &Self) -> String {
        let mut lines = format!("status {}, expected {}", self.status, expected.status);
        differences("", &self.body, &expected.body, &mut lines);
        lines
    }
}

fn differences(place: &str, actual: &Value, expected: &Value, lines: &mut String) {
    match (actual, expected) {
        _ if actual == expected => {}
        (Value::Object(one), Value::Object(two)) => {
            let names: BTreeSet<_> = one.keys().chain(two.keys()).collect();
            for name in names {
                let (actual, expected) = (&actual[name], &expected[name]);
                differences(&format!("{place}/{name}"), actual, expected, lines);
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (n, (actual, expected)) in one.iter().zip(two).enumerate() {
                differences(&format!("{place}/{n}"), actual, expected, lines);
            }
        }
        _ => write!(lines, "\n{place}: {actual}, expected {expected}").expect("a string takes it"),
    }
}

/// The steps of a sequence so far, for the message of a failure.
struct Log {
    seed: u64,
    steps: Vec<String>,
}

impl Log {
    fn new(seed: u64) -> Self {
        Self { seed, steps: Vec::new() }
    }

    fn add(&mut self, step: &str, answer: &Value) {
        self.steps.push(format!("{step}\n    {answer}"));
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}", self.seed)?;
        self.steps.iter().enumerate().try_for_each(|(n, step)| write!(f, "\n{n:3} {step}"))
    }
}

/// The seed of the first sequence. The others have the following numbers.
#[expect(clippy::disallowed_methods, reason = "a seed is the test's own configuration")]
fn first_seed() -> u64 {
    let seed = match std::env::var("WORK_MODEL_SEED") {
        Ok(seed) => seed.parse().expect("WORK_MODEL_SEED is a number"),
        Err(_) => u64::from(uuid::Uuid::new_v4().as_fields().0),
    };
    println!("WORK_MODEL_SEED={seed}");
    seed
}

/// Runs so many sequences, a few of them concurrently.
async fn run(sequences: u64, sequence: impl AsyncFn(&Lane<'_>, u64)) -> BTreeMap<String, u32> {
    let agents = || (0..LANES).flat_map(|lane| (UNBOUND..=CLOSER).map(move |it| (lane, it)));
    let mut identities: BTreeMap<_, _> = (0..LANES)
        .map(|lane| (key(lane, 0), json!({ "workspace": format!("lane-{lane}") })))
        .collect();
    identities.extend(agents().map(|(lane, agent)| {
        let identity = json!({
            "agent_id": name(agent), "workspace": format!("lane-{lane}"),
            "profile": "strands_orchestrator",
        });
        (key(lane, agent), identity)
    }));
    let keys: Vec<_> = identities.keys().map(String::as_str).collect();
    let service = Service::configured(&[], |config| config).await;
    let more = [
        // A connection for each request in flight.
        ("POSTGRES_POOL_MAX", "30"),
        ("COORDINATION_API_KEYS", &keys.join(",")),
        ("COORDINATION_API_KEY_IDENTITIES", &json!(identities).to_string()),
    ];
    let twins = [0, 1].map(|_| router(App::new(config(&with_more(&service.url, &more)))));
    let (seed, outcomes) = (first_seed(), Mutex::default());
    join_all((0..LANES).map(async |lane| {
        let clients = twins.clone().map(|router| {
            let client = Client::new(router);
            (0..=CLOSER).map(|it| client.clone().header("x-api-key", &key(lane, it))).collect()
        });
        let workspace = format!("lane-{lane}");
        let place = Lane { service: &service, outcomes: &outcomes, clients, workspace };
        for number in (lane..sequences).step_by(LANES as usize) {
            place.clear().await;
            sequence(&place, seed.wrapping_add(number)).await;
        }
    }))
    .await;
    outcomes.into_inner().expect("whole")
}

#[tokio::test]
async fn sequences_of_steps_agree_with_the_model_in_every_answer() {
    let outcomes = run(SEQUENCES_STEP_BY_STEP, async |lane, seed| {
        let (mut dice, mut queue) = (Chooser::new(seed), Queue::default());
        let (mut log, mut old) = (Log::new(seed), Vec::new());
        for step in 0..10 + dice.roll(16) {
            let time = if dice.hits(dice.time) { dice.moment(&queue) } else { None };
            if let Some(time) = time {
                let ids: Vec<_> = queue.tasks.iter().map(|it| it.id.clone()).collect();
                lane.pass(time, &ids).await;
                queue.pass(time);
                log.add(&format!("time {time:?}"), &Value::Null);
                continue;
            }
            let request = if step < 2 {
                (dice.caller(), Ask::Submit(dice.submission(&queue)))
            } else {
                dice.request(&queue, &old)
            };
            lane.check(&mut dice, &mut queue, request, &mut log).await;
            let tokens = queue.tasks.iter().filter_map(|it| it.claim.as_ref()).map(|it| &it.token);
            let new: Vec<_> = tokens.filter(|it| !old.contains(*it)).cloned().collect();
            old.extend(new);
        }
        let everything = Ask::List { status: None, claimed_by: None, limit: 500 };
        let closer = Caller { agent: CLOSER, session: None };
        lane.check(&mut dice, &mut queue, (closer, everything), &mut log).await;
    })
    .await;
    println!("{outcomes:#?}");
    assert!(outcomes.keys().eq(OUTCOMES), "every outcome is to be reached, and no other");
}

/// A completion that was accepted.
#[derive(Debug)]
struct Completion {
    by: Caller,
    token: Option<String>,
    report: Report,
    answer: Value,
}

/// The answers of concurrent requests.
#[derive(Default)]
struct History {
    created: BTreeMap<String, (Caller, Submission)>,
    /// The claimant and the token of each attempt of a task.
    claims: BTreeMap<(String, i64), (Caller, String)>,
    /// Accepted completions by task. An identical repetition gets an identical answer and counts once.
    completions: BTreeMap<String, Vec<Completion>>,
    cancelled: Vec<String>,
    /// Renewals, which move a claim to the session of their caller: task, agent and session.
    renewals: Vec<(String, Caller)>,
}

impl History {
    fn record(&mut self, ids: &[String], caller: Caller, ask: Ask, answer: &Answer, log: &Log) {
        let body = &answer.body;
        if let (422, Ask::Submit(_)) = (answer.status, &ask) {
            return;
        }
        assert_eq!(answer.status, 200, "{log}");
        if body["success"] != true {
            return;
        }
        let id = body["task_id"].as_str().unwrap_or_default().to_owned();
        let attempts = self.claims.iter().filter(|((task, _), _)| *task == id);
        // The session is not compared: a claim that was renewed with its token moves to another one.
        let attempts = attempts.filter(|(_, (by, _))| by.agent == caller.agent);
        let mut held = attempts.map(|(_, (_, token))| token);
        match ask {
            Ask::Submit(asked) if body["action"] == "created" => {
                let twin = self.created.insert(id, (caller, asked));
                assert!(twin.is_none(), "an id was given twice; {log}");
            }
            Ask::Submit(_) => assert_eq!(body["action"], "deduplicated", "{log}"),
            Ask::Claim { .. } => {
                let attempt = body["attempt"].as_i64().expect("an attempt");
                let token = body["claim_token"].as_str().expect("a token").to_owned();
                assert!(self.claims.values().all(|it| it.1 != token), "the token is old; {log}");
                let rival = self.claims.insert((id, attempt), (caller, token));
                assert!(rival.is_none(), "the attempt was handed out twice; {log}");
            }
            Ask::Renew { token, .. } => {
                let is_theirs = held.any(|it| token.as_ref().is_none_or(|token| token == it));
                assert!(is_theirs, "the report is not of the claimant: {log}");
                self.renewals.push((id, caller));
            }
            Ask::Complete { task, token, report } => {
                let is_theirs = held.any(|it| token.as_ref().is_none_or(|token| token == it));
                assert!(is_theirs, "the report is not of the claimant: {log}");
                assert_eq!(Some(&id), task.map(|it| &ids[it]), "{log}");
                let answer = body.clone();
                let taken = self.completions.entry(id).or_default();
                if !taken.iter().any(|it| it.report == report && it.answer == answer) {
                    taken.push(Completion { by: caller, token, report, answer });
                }
            }
            Ask::Cancel { .. } => self.cancelled.push(id),
            _ => {}
        }
    }

    fn tokens(&self) -> Vec<String> {
        self.claims.values().map(|it| it.1.clone()).collect()
    }

    /// The queue as any client can see it now.
    fn queue(&self, listed: &[Value]) -> Queue {
        let token = |id: &str, attempt| {
            self.claims.get(&(id.to_owned(), attempt)).map(|(_, token)| token.clone())
        };
        Queue::resumed(listed, |id| self.created[id].clone(), token)
    }

    /// Compares the answers with the current tasks.
    fn check(&self, listed: &[Value], log: &Log) {
        let ids: BTreeSet<_> = listed.iter().filter_map(|it| it["id"].as_str()).collect();
        assert!(ids.into_iter().eq(self.created.keys()), "a task was lost; {log}");
        let mut live_keys = BTreeSet::new();
        for task in listed {
            let id = task["id"].as_str().expect("an id");
            let place = format!("task {task}; {log}");
            let status = Status::of(&task["status"]);
            let attempt = task["attempt"].as_i64().expect("an attempt");
            let most = task["max_attempts"].as_i64().expect("a number");
            assert!(attempt <= most, "it was claimed too often; {place}");
            let attempts = self.claims.keys().filter(|it| it.0 == id).map(|it| it.1);
            assert!(attempts.eq(1..=attempt), "an attempt was lost; {place}");
            if let (false, Some(key)) = (status.is_final(), task["unique_key"].as_str()) {
                assert!(live_keys.insert(key), "the key has another task; {place}");
            }
            if attempt > 0 {
                assert_eq!(task["blocked_by"], json!([]), "handed out too early; {place}");
            }
            let latest = self.claims.get(&(id.to_owned(), attempt));
            if status.is_claimed() {
                let (by, _) = latest.expect("an answer reported the claim");
                assert_eq!(task["claimed_by"], name(by.agent), "{place}");
                let renewals = self.renewals.iter().filter(|(task, _)| task == id);
                let mut sessions = renewals.map(|(_, by)| by.session).chain([by.session]);
                let is_known = sessions.any(|it| task["claimed_session_id"] == json!(it));
                assert!(is_known, "the claim is in another session; {place}");
            }
            let taken = self.completions.get(id).map_or(&[][..], |it| it);
            let ends: Vec<_> = taken.iter().filter(|it| it.answer["status"] != "pending").collect();
            let cancelled = self.cancelled.iter().filter(|it| *it == id).count();
            match (status, &ends[..], cancelled) {
                (Status::Completed | Status::Failed, [end], 0) => {
                    assert_eq!(task["status"], end.answer["status"], "{place}");
                    assert_eq!(task["result"], end.report.result, "{place}");
                    assert_eq!(task["error_message"], end.report.error, "{place}");
                    let (claimant, token) = latest.expect("it was claimed");
                    let is_latest = claimant.agent == end.by.agent
                        && end.token.as_ref().is_none_or(|it| it == token);
                    assert!(is_latest, "a superseded claimant completed it; {place}");
                }
                (Status::Cancelled, [], 1) => {}
                (Status::Failed, [], 0) => {
                    let is_out = task["error_message"] == "max_attempts_exceeded";
                    let is_late = task["error_message"] == "deadline_exceeded";
                    assert!(is_late || is_out && attempt == most, "{place}");
                }
                (Status::Pending | Status::Claimed | Status::Running, [], 0) => {}
                _ => panic!("ended {ends:?} times, cancelled {cancelled} times; {place}"),
            }
        }
    }
}

/// Asserts that no claimed task is handed out: compares how often tasks were claimed before and after some
/// requests with how often they were requeued meanwhile. `ended` are tasks whose lease had ended before.
fn check_claims(
    before: &[Value],
    after: &[Value],
    ended: &BTreeSet<(String, i64)>,
    answers: &[Answer],
    log: &Log,
) {
    let requeued: i64 = answers.iter().filter_map(|it| it.body["tasks_requeued"].as_i64()).sum();
    for task in after {
        let id = &task["id"];
        let old = before.iter().find(|it| it["id"] == *id);
        let retried = answers
            .iter()
            .filter(|it| it.body["task_id"] == *id && it.body["status"] == "pending")
            .map(|it| it.body["retry_at"].as_str());
        let retried = retried.collect::<BTreeSet<_>>().len() as i64;
        let attempts = |it: &Value| it["attempt"].as_i64().expect("a number");
        let is_free = old.is_none_or(|it| {
            !Status::of(&it["status"]).is_claimed()
                || ended.contains(&(it["id"].as_str().unwrap_or_default().into(), attempts(it)))
        });
        let claims = attempts(task) - old.map_or(0, attempts);
        let most = i64::from(is_free) + requeued + retried;
        assert!(claims <= most, "claimed {claims} times at once, free {most} times: {task}; {log}");
    }
}

#[tokio::test]
async fn requests_at_once_hand_out_each_attempt_once_and_lose_no_task() {
    run(SEQUENCES_AT_ONCE, async |lane, seed| {
        let (mut dice, mut log) = (Chooser::new(seed), Log::new(seed));
        let mut history = History::default();
        let mut listed = Vec::new();
        // Tasks whose lease has ended, by their attempt.
        let mut ended = BTreeSet::new();
        let mut said = 0;
        for round in 0..3 + dice.roll(3) {
            let queue = history.queue(&listed);
            let ids: Vec<_> = queue.tasks.iter().map(|it| it.id.clone()).collect();
            while let Some(time) = dice.moment(&queue).filter(|_| dice.hits(50)) {
                lane.pass(time, &ids).await;
                log.add(&format!("time {time:?}"), &Value::Null);
                if let Time::EndsLease(task) = time {
                    ended.insert((ids[task].clone(), queue.tasks[task].attempt));
                }
            }
            let requests = dice.requests(&queue, &history.tokens(), &mut said);
            let send = requests.iter().map(|(at, caller, ask)| lane.send(*at, *caller, ask, &ids));
            let answers = join_all(send).await;
            for ((at, caller, ask), answer) in requests.iter().zip(&answers) {
                let caller = format!("{} {:?}", name(caller.agent), caller.session);
                log.add(&format!("{round}: {at} {caller} {ask:?}"), &answer.body);
            }
            // Claims first, because a renewal or completion of one can be answered earlier.
            let is_claim = |ask: &Ask| matches!(ask, Ask::Claim { .. });
            let mut told: Vec<_> = requests.into_iter().zip(&answers).collect();
            told.sort_by_key(|((_, _, ask), _)| !is_claim(ask));
            for ((_, caller, ask), answer) in told {
                history.record(&ids, caller, ask, answer, &log);
            }
            let now = lane.tasks().await;
            check_claims(&listed, &now, &ended, &answers, &log);
            history.check(&now, &log);
            listed = now;
        }
        lane.let_go().await;
        let mut queue = history.queue(&lane.tasks().await);
        queue.let_go();
        log.add("time ends all leases and delays", &Value::Null);
        finish(lane, &mut dice, &mut queue, &mut log).await;
    })
    .await;
}

/// Completes the remaining tasks, with every answer equal to the model's, and asserts that none is lost.
async fn finish(lane: &Lane<'_>, dice: &mut Chooser, queue: &mut Queue, log: &mut Log) {
    let closer = Caller { agent: CLOSER, session: None };
    let everything = Ask::List { status: None, claimed_by: None, limit: 500 };
    lane.check(dice, queue, (closer, everything.clone()), log).await;
    // Each round completes a task.
    for _ in 0..=queue.tasks.len() {
        lane.check(dice, queue, (closer, Ask::Claim { kinds: None, minutes: None }), log).await;
        let claimed = queue.tasks.iter().enumerate().find_map(|(place, task)| {
            let claim = task.claim.as_ref().filter(|it| it.is_held && task.status.is_claimed());
            claim.map(|it| (place, it.token.clone()))
        });
        let Some((task, token)) = claimed else { break };
        let report = Report { success: true, result: Value::Null, error: Value::Null };
        let complete = Ask::Complete { task: Some(task), token: Some(token), report };
        lane.check(dice, queue, (closer, complete), log).await;
    }
    lane.check(dice, queue, (closer, everything), log).await;
    for (place, task) in queue.tasks.iter().enumerate() {
        assert!(task.status.is_final() || queue.is_stuck(place), "{} is lost; {log}", task.id);
    }
}
