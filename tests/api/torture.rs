//! Many concurrent clients whose sessions end, fall silent and are revived. Triggers record every grant and
//! every event that can end a grant, in the order of commits for each row. No lock, task or block of ports may be
//! granted while a grant of it is in force.
//!
//! `make torture` runs these tests for a minute each.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BOSS, Client, Dice, Service, new_seed};

const CLIENTS: u64 = 32;
const KEYS: u64 = 20;
/// Steps of each client: 2,000 in all.
const STEPS: u64 = 60;

/// The first port of the first slot, and how many ports lie between the first ports of two slots.
const FIRST_PORT: i64 = 10_000;
const PORTS_OF_A_SLOT: i64 = 100;

/// The largest number of attempts of a task.
const MOST_ATTEMPTS: i64 = 20;

/// How long each client goes on: for a number of steps, or as many seconds as `TORTURE_SECONDS` says.
#[derive(Clone, Copy)]
enum Length {
    Steps(u64),
    Until(Instant),
}

impl Length {
    #[expect(clippy::disallowed_methods, reason = "this is no configuration of the service")]
    fn chosen() -> Self {
        let Ok(seconds) = std::env::var("TORTURE_SECONDS") else { return Self::Steps(STEPS) };
        let seconds = seconds.parse().expect("TORTURE_SECONDS is a number of seconds");
        Self::Until(Instant::now() + Duration::from_secs(seconds))
    }

    /// Whether a client that has done so many steps does another one.
    fn goes_on(self, steps: u64) -> bool {
        match self {
            Self::Steps(number) => steps < number,
            Self::Until(end) => Instant::now() < end,
        }
    }
}

/// One row for each change of a lock, a claim, a block of ports or a session. A trigger runs while the changed
/// row is locked, so the numbers of its changes are in the order of their commits. The grade of a grant tells it
/// from other grants of its key: the token, the attempt, or the expiry in microseconds.
const HISTORY: &str = "
    create table history (
        number bigserial primary key, kind text, key text, agent_id text, session_id text, grade bigint,
        transaction text default pg_current_xact_id()::text);
    create function log_lock() returns trigger language plpgsql as $$
    begin
        insert into history (kind, key, agent_id, session_id, grade) values (
            case when tg_op = 'INSERT' or new.token > old.token then 'granted'
                when new.agent_id is null then 'freed'
                when new.expires_at < old.expires_at then 'expired'
                else 'extended' end,
            new.key, new.agent_id, new.session_id, new.token);
        return null;
    end $$;
    create trigger log_lock after insert or update on file_lock
    for each row execute function log_lock();
    create function log_claim() returns trigger language plpgsql as $$
    begin
        insert into history (kind, key, agent_id, session_id, grade) values (
            case when new.attempt > old.attempt then 'granted'
                when new.status not in ('claimed', 'running') then 'freed'
                when new.claim_expires_at < old.claim_expires_at then 'expired'
                else 'extended' end,
            new.id, new.claimed_by, new.claimed_session_id, new.attempt);
        return null;
    end $$;
    create trigger log_claim after update on work_task
    for each row execute function log_claim();
    create function log_ports() returns trigger language plpgsql as $$
    declare
        block port_block := case when tg_op = 'DELETE' then old else new end;
    begin
        insert into history (kind, key, agent_id, session_id, grade) values (
            case when tg_op = 'INSERT' then 'granted'
                when tg_op = 'DELETE' then 'freed'
                when new.expires_at < old.expires_at then 'expired'
                else 'extended' end,
            block.slot, block.agent_id, block.session_id, extract(epoch from block.expires_at) * 1000000);
        return null;
    end $$;
    create trigger log_ports after insert or update or delete on port_block
    for each row execute function log_ports();
    create function log_session() returns trigger language plpgsql as $$
    begin
        insert into history (kind, agent_id, session_id)
        values ('lost', new.agent_id, new.session_id);
        return null;
    end $$;
    create trigger log_session after update on agent_session for each row
    when ((old.ended_at is null and new.ended_at is not null)
        or new.last_heartbeat_at < old.last_heartbeat_at)
    execute function log_session()";

/// A client with its own agent and session, and its grants.
struct Worker<'a> {
    service: &'a Service,
    client: Client,
    dice: Dice,
    length: Length,
    agent: String,
    granted: Vec<(String, i64)>,
}

impl<'a> Worker<'a> {
    async fn new(service: &'a Service, seed: u64, number: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_add(number));
        dice.roll(2);
        let agent = format!("a{number}");
        let (client, length, granted) = (service.client(), Length::chosen(), Vec::new());
        let worker = Self { service, client, dice, length, agent, granted };
        worker.post("/discovery/register", json!({})).await;
        worker
    }

    /// Its session. A block of ports belongs to a session id, whatever the agent.
    fn session(&self) -> String {
        format!("s-{}", self.agent)
    }

    /// A request in the worker's session.
    async fn post(&self, path: &str, mut body: Value) -> Value {
        body["agent_id"] = json!(self.agent);
        body["agent_type"] = json!("t");
        body["session_id"] = json!(self.session());
        let answer = self.client.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    /// Ends the session, and with it its locks and claims. Any later call revives it.
    async fn lose_session(&mut self) {
        if self.dice.roll(2) == 0 {
            self.post("/discovery/deregister", json!({})).await;
            return;
        }
        let sql = format!(
            "update agent_session set last_heartbeat_at = clock_timestamp() - interval '1 day'
             where agent_id = '{}'",
            self.agent
        );
        self.service.execute(&sql).await;
        if self.dice.roll(4) == 0 {
            let boss = self.service.client_with(BOSS);
            let answer = boss.post("/discovery/cleanup", json!({})).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }

    async fn take_and_give_back_locks(mut self) -> Vec<(String, i64)> {
        let length = self.length;
        for _ in (0..).take_while(|steps| length.goes_on(*steps)) {
            let key = format!("k{}", self.dice.roll(KEYS));
            match self.dice.roll(20) {
                0..12 => {
                    let answer = self.post("/locks/acquire", json!({ "file_path": key })).await;
                    if answer["action"] == "acquired" {
                        let token = answer["fencing_token"].as_i64().expect("a token");
                        self.granted.push((key, token));
                    }
                }
                12..15 => {
                    self.post("/locks/release", json!({ "file_path": key })).await;
                }
                15 => self.service.expire(&key).await,
                _ => self.lose_session().await,
            }
        }
        self.granted
    }

    async fn claim_and_finish_tasks(mut self) -> Vec<(String, i64)> {
        let (mut latest, length) = (Value::Null, self.length);
        for _ in (0..).take_while(|steps| length.goes_on(*steps)) {
            match self.dice.roll(20) {
                0..12 => {
                    let answer = self.post("/work/claim", json!({})).await;
                    if answer["success"] == true {
                        let id = answer["task_id"].as_str().expect("an id").to_owned();
                        let attempt = answer["attempt"].as_i64().expect("a number");
                        self.granted.push((id, attempt));
                        latest = answer;
                        if attempt == MOST_ATTEMPTS {
                            submit(&self.client).await;
                        }
                    }
                }
                12 if !latest.is_null() => {
                    let report = json!({ "task_id": latest["task_id"], "success": true,
                        "claim_token": latest["claim_token"] });
                    if self.post("/work/complete", report).await["status"] == "completed" {
                        // Keeps the queue from becoming empty.
                        submit(&self.client).await;
                    }
                    latest = Value::Null;
                }
                13..16 => {
                    let lapse = "update work_task set claim_expires_at = clock_timestamp()
                        where id = (select id from work_task where status = 'claimed'
                            order by random() limit 1) and status = 'claimed'";
                    self.service.execute(lapse).await;
                }
                _ => self.lose_session().await,
            }
        }
        self.granted
    }
}

impl Worker<'_> {
    /// Returns the slots with the expiries that the answers told.
    async fn take_and_give_back_ports(mut self) -> Vec<Value> {
        let (mut told, length) = (Vec::new(), self.length);
        for _ in (0..).take_while(|steps| length.goes_on(*steps)) {
            match self.dice.roll(20) {
                0..12 => {
                    let answer = self.post("/ports/allocate", json!({})).await;
                    if answer["success"] == true {
                        let block = &answer["allocation"];
                        let port = block["db_port"].as_i64().expect("a port");
                        let slot = (port - FIRST_PORT) / PORTS_OF_A_SLOT;
                        told.push(json!({ "key": slot.to_string(), "at": block["expires_at"] }));
                    }
                }
                12..15 => {
                    let answer = self.post("/ports/release", json!({})).await;
                    assert_eq!(answer["success"], true, "{answer}");
                }
                15 => {
                    let slot = self.dice.roll(KEYS);
                    let lapse = format!(
                        "update port_block set expires_at = clock_timestamp() - interval '1 second'
                         where slot = {slot} and expires_at > clock_timestamp()"
                    );
                    self.service.execute(&lapse).await;
                }
                _ => self.lose_session().await,
            }
        }
        told
    }
}

/// Asserts that nothing was granted during a grant in force, and returns all grants.
async fn grants(service: &Service, session_loss_frees: bool) -> BTreeSet<(String, i64)> {
    struct Held {
        number: i64,
        session: (String, String),
        /// The transaction that has freed it. A grant in the same one has taken it away.
        freed_by: Option<String>,
    }
    let rows = service.rows("select * from history order by number").await;
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let session = |row: &Value| (text(row, "agent_id"), text(row, "session_id"));
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    let mut lost: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut granted = BTreeSet::new();
    for row in &rows {
        let key = text(row, "key");
        let number = row["number"].as_i64().expect("a number");
        match row["kind"].as_str().expect("a kind") {
            "lost" => drop(lost.insert(session(row), number)),
            "freed" => {
                if let Some(held) = held.get_mut(&key) {
                    held.freed_by = Some(text(row, "transaction"));
                }
            }
            "expired" => drop(held.remove(&key)),
            "granted" => {
                let transaction = text(row, "transaction");
                let is_in_force = |it: &&Held| {
                    it.freed_by.as_ref().is_none_or(|freed_by| *freed_by == transaction)
                };
                if let Some(before) = held.get(&key).filter(is_in_force) {
                    let is_lost = lost.get(&before.session).is_some_and(|it| *it > before.number);
                    assert!(
                        session_loss_frees && is_lost,
                        "{key} was granted in {} and still held in {row}",
                        before.number
                    );
                }
                let grade = row["grade"].as_i64().expect("a number");
                assert!(granted.insert((key.clone(), grade)), "granted twice: {row}");
                held.insert(key, Held { number, session: session(row), freed_by: None });
            }
            _ => {}
        }
    }
    let losses = rows.iter().filter(|it| it["kind"] == "lost").count();
    assert!(granted.len() > 200 && losses > 100, "{} grants, {losses} losses", granted.len());
    granted
}

/// Asserts that each grant was answered to exactly one client.
fn assert_told_once(seed: u64, told: Vec<Vec<(String, i64)>>, granted: &BTreeSet<(String, i64)>) {
    let told: Vec<_> = told.into_iter().flatten().collect();
    let distinct: BTreeSet<_> = told.iter().cloned().collect();
    assert_eq!(told.len(), distinct.len(), "seed {seed}: two clients were told of one grant");
    assert_eq!(&distinct, granted, "seed {seed}: a grant without its answer");
}

/// Submits a task with the largest number of attempts.
async fn submit(client: &Client) {
    let task = json!({ "task_type": "t", "task_description": "d", "agent_id": "sub",
        "max_attempts": MOST_ATTEMPTS });
    let answer = client.post("/work/submit", task).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn service() -> Service {
    let service = Service::with(&[("POSTGRES_POOL_MAX", "32")]).await;
    service.execute(HISTORY).await;
    service
}

#[tokio::test]
async fn no_lock_is_granted_twice_while_sessions_end_and_come_back() {
    let (service, seed) = (service().await, new_seed());
    let workers = join_all((0..CLIENTS).map(|n| Worker::new(&service, seed, n))).await;
    let told = join_all(workers.into_iter().map(Worker::take_and_give_back_locks)).await;
    let granted = grants(&service, true).await;
    assert_told_once(seed, told, &granted);
    let recorded: i64 = service
        .scalar("select count(*) from audit_log where result ->> 'action' = 'acquired'")
        .await;
    assert_eq!(recorded, granted.len() as i64, "seed {seed}");
}

#[tokio::test]
async fn no_attempt_is_handed_out_twice_while_sessions_end_and_come_back() {
    let (service, seed) = (service().await, new_seed());
    for _ in 0..KEYS {
        submit(&service.client()).await;
    }
    let workers = join_all((0..CLIENTS).map(|n| Worker::new(&service, seed, n))).await;
    let told = join_all(workers.into_iter().map(Worker::claim_and_finish_tasks)).await;
    let granted = grants(&service, false).await;
    assert_told_once(seed, told, &granted);
    let recorded: i64 = service
        .scalar("select count(*) from audit_log where operation = 'claim_task' and success")
        .await;
    assert_eq!(recorded, granted.len() as i64, "seed {seed}");
}

#[tokio::test]
async fn no_ports_are_allocated_twice_while_sessions_end_and_come_back() {
    let (service, seed) = (service().await, new_seed());
    let workers = join_all((0..CLIENTS).map(|n| Worker::new(&service, seed, n))).await;
    let told = join_all(workers.into_iter().map(Worker::take_and_give_back_ports)).await;
    grants(&service, true).await;
    // Each answer tells the expiry that its call has stored, as a grant or as an extension.
    let told: Vec<_> = told.into_iter().flatten().collect();
    let difference = format!(
        "with told as (
            select it.key, (extract(epoch from it.at) * 1000000)::bigint as grade
            from jsonb_to_recordset('{}') as it (key text, at timestamptz)
        ), stored as (
            select h.key, h.grade from history h where h.kind in ('granted', 'extended')
        )
        (select 'only told' as how, t.* from (select * from told except all select * from stored) t)
        union all
        (select 'only stored', t.* from (select * from stored except all select * from told) t)",
        json!(told)
    );
    assert_eq!(service.rows(&difference).await, Vec::<Value>::new(), "seed {seed}");
    let recorded = "select count(*) from audit_log where operation = 'allocate_ports' and success";
    assert_eq!(service.scalar::<i64>(recorded).await, told.len() as i64, "seed {seed}");
}
