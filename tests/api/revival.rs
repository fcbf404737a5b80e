//! A call in a lost session revives the session and acquires a lock, a task or ports, while another agent
//! requests the same. Exactly one of the two gets it.
//!
//! The race is forced: the commit of the revival, or that of the grant which follows it, is blocked until the
//! other call has an answer or waits for it.
use futures_util::future::join;
use serde_json::{Value, json};

use crate::support::{BOSS, Client, FREE, Service, blocked, execute};

/// Blocks commits of agent `p` while the test holds the advisory lock.
const HOLD: &str = "
    create function hold_commit() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock(77);
        return null;
    end
    $$";

/// The commit of the revival.
const OF_REVIVAL: &str = "
    create constraint trigger hold_commit after update on agent_session
    deferrable initially deferred for each row
    when (new.revived_at is distinct from old.revived_at) execute function hold_commit()";

/// The commit of what is granted to the revived session.
const OF_GRANT: &str = "
    create constraint trigger hold_commit after insert or update on file_lock
    deferrable initially deferred for each row
    when (new.agent_id = 'p') execute function hold_commit();
    create constraint trigger hold_commit after update on work_task
    deferrable initially deferred for each row
    when (new.claimed_by = 'p') execute function hold_commit();
    create constraint trigger hold_commit after insert or update on port_block
    deferrable initially deferred for each row
    when (new.agent_id = 'p') execute function hold_commit()";

/// Which commit is blocked, and which agent then is the first to commit.
const HELD: [(&str, &str); 2] = [(OF_REVIVAL, "q"), (OF_GRANT, "p")];

/// How a session was lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Ended,
    Silent,
}

struct Race {
    service: Service,
    client: Client,
    held: &'static str,
}

impl Race {
    async fn new(held: &'static str) -> Self {
        // Without the sweep, which ends silent sessions.
        let more = [("PORT_ALLOC_MAX_SESSIONS", "1"), ("SLEEP_FRIENDLY", "true")];
        let service = Service::with(&more).await;
        service.execute(HOLD).await;
        service.execute(held).await;
        let client = service.client();
        let race = Self { service, client, held };
        let body = json!({ "agent_id": "p", "agent_type": "t", "session_id": "s" });
        race.post("/discovery/register", &body).await;
        race
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.client.post(path, body.clone()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    async fn lose(&self, loss: Loss) {
        match loss {
            Loss::Ended => {
                let body = json!({ "agent_id": "p", "session_id": "s" });
                self.post("/discovery/deregister", &body).await;
            }
            Loss::Silent => {
                let silent = "update agent_session
                    set last_heartbeat_at = last_heartbeat_at - interval '1 day'";
                self.service.execute(silent).await;
            }
        }
    }

    /// Sends a request of agent `p` in its lost session and, before it commits, the same of agent `q`. A call
    /// during the revival need not wait for it: what the lost session held is free before and after it. A call
    /// during the grant waits for it.
    async fn run(&self, path: &str, body: Value) -> (Value, Value) {
        let mut gate = self.service.db.begin().await.expect("a transaction");
        execute(&mut *gate, "select pg_advisory_xact_lock(77)").await;
        let (mut first, mut second) = (body.clone(), body);
        (first["agent_id"], first["session_id"]) = (json!("p"), json!("s"));
        (second["agent_id"], second["session_id"]) = (json!("q"), json!("of-q"));
        let other = async {
            blocked(&self.service.db, 1).await;
            if self.held == OF_REVIVAL {
                let answer = self.post(path, &second).await;
                gate.rollback().await.expect("rolled back");
                return answer;
            }
            let release = async {
                blocked(&self.service.db, 2).await;
                gate.rollback().await.expect("rolled back");
            };
            join(self.post(path, &second), release).await.0
        };
        join(self.post(path, &first), other).await
    }

    /// How many successful audit rows of this name each agent has.
    async fn successes(&self, operation: &str) -> Value {
        let sql = format!(
            "select agent_id, count(*) as times from audit_log
             where operation = '{operation}' and success group by agent_id order by agent_id"
        );
        json!(self.service.rows(&sql).await)
    }
}

/// Each way to lose a session with each commit that is blocked.
fn losses() -> impl Iterator<Item = (Loss, (&'static str, &'static str))> {
    [Loss::Ended, Loss::Silent].into_iter().flat_map(|loss| HELD.map(|held| (loss, held)))
}

/// A member of each loss of a kind that the answer of a reviving call tells.
fn told(answer: &Value, kind: &str, member: &str) -> Value {
    assert_eq!(answer["revived"], true, "{answer}");
    let losses = answer["lost"][kind].as_array().expect("a list").iter();
    losses.map(|it| it[member].clone()).collect()
}

/// Which of the two answers are successes.
fn winner<'a>(
    answers: &'a (Value, Value),
    member: &str,
    value: &Value,
) -> (&'static str, &'a Value) {
    let (p, q) = answers;
    match (&p[member] == value, &q[member] == value) {
        (true, false) => ("p", p),
        (false, true) => ("q", q),
        _ => panic!("exactly one of the two gets it: {p} {q}"),
    }
}

#[tokio::test]
async fn of_a_reviving_call_and_a_rival_one_gets_the_lock() {
    for (loss, held) in losses() {
        for held_before in ["no session", "its own session", "another session, which released it"] {
            let race = Race::new(held.0).await;
            match held_before {
                "its own session" => {
                    race.client.acquire("p", "k", json!({ "session_id": "s" })).await;
                }
                "another session, which released it" => {
                    race.client.acquire("other", "k", json!({})).await;
                    race.client.release("other", "k", json!({})).await;
                }
                _ => {}
            }
            race.lose(loss).await;
            let body = json!({ "file_path": "k", "agent_type": "t" });
            let answers = race.run("/locks/acquire", body).await;
            let what = format!("{loss:?}, held before by {held_before}: {answers:?}");

            let (name, answer) = winner(&answers, "action", &json!("acquired"));
            assert_eq!(name, held.1, "{what}");
            let lost = match held_before {
                "its own session" => json!(["k"]),
                _ => json!([]),
            };
            assert_eq!(told(&answers.0, "locks", "file_path"), lost, "{what}");
            let loser = if name == "p" { &answers.1 } else { &answers.0 };
            assert_eq!(loser["locked_by"], name, "{what}");
            let token = answer["fencing_token"].as_i64().expect("a token");
            let verify =
                |token: i64| json!({ "locks": [{ "file_path": "k", "fencing_token": token }] });
            for (token, valid) in [(token, true), (token - 1, false), (token + 1, false)] {
                if token > 0 {
                    let verified = race.post("/locks/verify", &verify(token)).await;
                    assert_eq!(verified["valid"], valid, "{what}");
                }
            }
            let held = race.service.rows("select agent_id, token from file_lock").await;
            assert_eq!(held, [json!({ "agent_id": name, "token": token })], "{what}");
            let granted = "select agent_id, result ->> 'action' as action from audit_log
                where operation = 'acquire_lock' and (result -> 'fencing_token')::bigint >= ";
            let granted = race.service.rows(&format!("{granted}{token}")).await;
            assert_eq!(granted, [json!({ "agent_id": name, "action": "acquired" })], "{what}");
        }
    }
}

#[tokio::test]
async fn of_a_reviving_call_and_a_rival_one_gets_the_task() {
    for (loss, held) in losses() {
        for claimed_before in [false, true] {
            let race = Race::new(held.0).await;
            let task = json!({ "agent_id": "sub", "task_type": "t", "task_description": "d" });
            race.post("/work/submit", &task).await;
            let body = json!({ "agent_type": "t" });
            if claimed_before {
                let own = json!({ "agent_id": "p", "agent_type": "t", "session_id": "s" });
                race.post("/work/claim", &own).await;
            }
            race.lose(loss).await;
            let lapsed = "update work_task set claim_expires_at = clock_timestamp()
                where status = 'claimed'";
            race.service.execute(lapsed).await;
            let answers = race.run("/work/claim", body).await;
            let what = format!("{loss:?}, claimed before: {claimed_before}: {answers:?}");

            let (name, answer) = winner(&answers, "success", &json!(true));
            assert_eq!(name, held.1, "{what}");
            assert_eq!(answers.0["revived"], true, "{what}");
            let loser = if name == "p" { &answers.1 } else { &answers.0 };
            assert_eq!(loser["reason"], "no_tasks_available", "{what}");
            let attempt = 1 + i64::from(claimed_before);
            assert_eq!(answer["attempt"], attempt, "{what}");
            let held = race.service.rows("select claimed_by, attempt from work_task").await;
            assert_eq!(held, [json!({ "claimed_by": name, "attempt": attempt })], "{what}");
            let granted =
                "select count(*) from audit_log where operation = 'claim_task' and success";
            assert_eq!(race.service.scalar::<i64>(granted).await, attempt, "{what}");
            let report = json!({ "agent_id": name, "task_id": answer["task_id"], "success": true,
                "claim_token": answer["claim_token"] });
            let completed = race.post("/work/complete", &report).await;
            assert_eq!(completed["status"], "completed", "{what}");
        }
    }
}

#[tokio::test]
async fn of_a_reviving_call_and_a_rival_one_gets_the_last_ports() {
    for (loss, held) in losses() {
        for held_before in [false, true] {
            let race = Race::new(held.0).await;
            if held_before {
                let own = json!({ "agent_id": "p", "session_id": "s" });
                race.post("/ports/allocate", &own).await;
            }
            race.lose(loss).await;
            let answers = race.run("/ports/allocate", json!({})).await;
            let what = format!("{loss:?}, held before: {held_before}: {answers:?}");

            let (name, _) = winner(&answers, "success", &json!(true));
            assert_eq!(name, held.1, "{what}");
            let lost = if held_before { json!(["s"]) } else { json!([]) };
            assert_eq!(told(&answers.0, "ports", "session_id"), lost, "{what}");
            let loser = if name == "p" { &answers.1 } else { &answers.0 };
            assert_eq!(loser["error"], "no_ports_available", "{what}");
            let held = race.service.rows("select agent_id, slot from port_block").await;
            assert_eq!(held, [json!({ "agent_id": name, "slot": 0 })], "{what}");
            let granted = race.successes("allocate_ports").await;
            let times = 1 + i64::from(held_before && name == "p");
            assert!(
                granted
                    .as_array()
                    .expect("rows")
                    .contains(&json!({ "agent_id": name, "times": times })),
                "{what}: {granted}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_revived_session_takes_is_not_tidied_away_by_maintenance_that_began_before() {
    let race = Race::new(OF_REVIVAL).await;
    // More rows than the database reads ahead during the clean-up.
    for n in 0..80 {
        race.client.acquire("p", &format!("k{n:02}"), json!({ "session_id": "s" })).await;
    }
    race.lose(Loss::Silent).await;
    race.service
        .execute(
            "create function hold_first() returns trigger language plpgsql as $$
             begin
                perform pg_advisory_xact_lock(78);
                return null;
             end
             $$;
             create trigger hold_first after update on file_lock for each row
             when (new.key = 'k00' and new.agent_id is null) execute function hold_first()",
        )
        .await;
    let mut gate = race.service.db.begin().await.expect("a transaction");
    execute(&mut *gate, "select pg_advisory_xact_lock(78)").await;
    let boss = race.service.client_with(BOSS);
    let tidy = boss.post("/maintenance/run", json!({ "tasks": ["locks"] }));
    let revive = async {
        // Maintenance has begun.
        blocked(&race.service.db, 1).await;
        let again = race.client.acquire("p", "k79", json!({ "session_id": "s" })).await;
        gate.rollback().await.expect("rolled back");
        again
    };
    let (tidied, again) = join(tidy, revive).await;
    assert_eq!(tidied.json["locks_expired"], 79, "{}", tidied.text);
    let lock = json!({ "file_path": "k79", "fencing_token": again["fencing_token"] });
    let verified = race.post("/locks/verify", &json!({ "locks": [lock] })).await;
    assert_eq!((&again["action"], &verified["valid"]), (&json!("acquired"), &json!(true)));
}

#[tokio::test]
async fn an_adopted_lock_is_not_granted_to_a_rival_that_saw_its_earlier_session_silent() {
    const OF_ADOPTION: &str = "
        create constraint trigger hold_commit after update on file_lock
        deferrable initially deferred for each row
        when (new.session_id is distinct from old.session_id) execute function hold_commit()";
    let race = Race::new(OF_ADOPTION).await;
    let other = json!({ "agent_id": "p", "agent_type": "t", "session_id": "before" });
    race.post("/discovery/register", &other).await;
    let held = race.client.acquire("p", "k", json!({ "session_id": "before" })).await;
    let quiet = "update agent_session
        set last_heartbeat_at = last_heartbeat_at - interval '10 minutes' where session_id = 'before'";
    race.service.execute(quiet).await;
    let impatient = race.service.replica(&[("SESSION_TIMEOUT_MINUTES", "5")]).await;
    let impatient = impatient.header("x-api-key", FREE);
    let mut gate = race.service.db.begin().await.expect("a transaction");
    execute(&mut *gate, "select pg_advisory_xact_lock(77)").await;
    let adoption = json!({ "agent_id": "p", "agent_type": "t", "session_id": "s", "adopt": true });
    let rival = async {
        // The adoption has seen the earlier session live. For the rival, that session is silent.
        blocked(&race.service.db, 1).await;
        let release = async {
            blocked(&race.service.db, 2).await;
            gate.rollback().await.expect("rolled back");
        };
        join(impatient.acquire("q", "k", json!({})), release).await.0
    };
    let (adopted, refused) = join(race.post("/discovery/register", &adoption), rival).await;
    assert_eq!(adopted["adopted"]["locks"][0]["fencing_token"], held["fencing_token"]);
    let holder = (&refused["locked_by"], &refused["session_id"]);
    assert_eq!(holder, (&json!("p"), &json!("s")), "{refused}");
    let lock = json!({ "file_path": "k", "fencing_token": held["fencing_token"] });
    let verified = race.post("/locks/verify", &json!({ "locks": [lock] })).await;
    assert_eq!(verified["valid"], true);
}

#[tokio::test]
async fn a_registration_that_meets_the_end_of_its_session_revives_it_and_keeps_what_it_adopts() {
    for adopt in [false, true] {
        // The end has locked the row of the session, and not written it yet.
        let race = Race::new(AT_KEY_B).await;
        race.client.acquire("p", "b", json!({ "session_id": "s" })).await;
        let other = json!({ "agent_id": "p", "agent_type": "t", "session_id": "other" });
        race.post("/discovery/register", &other).await;
        let held = race.client.acquire("p", "k", json!({ "session_id": "other" })).await;
        let mut gate = race.service.db.begin().await.expect("a transaction");
        execute(&mut *gate, "select pg_advisory_xact_lock(77)").await;
        let end = json!({ "agent_id": "p", "session_id": "s" });
        let again =
            json!({ "agent_id": "p", "agent_type": "t", "session_id": "s", "adopt": adopt });
        let register = async {
            blocked(&race.service.db, 1).await;
            let release = async {
                blocked(&race.service.db, 2).await;
                gate.rollback().await.expect("rolled back");
            };
            join(race.post("/discovery/register", &again), release).await.0
        };
        let (ended, registered) = join(race.post("/discovery/deregister", &end), register).await;
        assert_eq!(ended["success"], true, "{ended}");
        assert_eq!(registered["revived"], true, "adopt {adopt}: {registered}");
        let lasting =
            "select count(*) from agent_session where session_id = 's' and ended_at is null";
        assert_eq!(race.service.scalar::<i64>(lasting).await, 1, "adopt {adopt}");
        if adopt {
            assert_eq!(registered["adopted"]["locks"][0]["file_path"], "k", "{registered}");
        }
        let lock = json!({ "file_path": "k", "fencing_token": held["fencing_token"] });
        let verified = race.post("/locks/verify", &json!({ "locks": [lock] })).await;
        assert_eq!(verified["valid"], true, "adopt {adopt}");
    }
}

/// Blocks the end of the session that holds key `b`, before it goes on to the next session.
const AT_KEY_B: &str = "
    create trigger hold_commit after update on file_lock for each row
    when (new.key = 'b' and new.agent_id is null) execute function hold_commit()";

/// Two sessions of agent `p`, of which the earlier holds the later key.
async fn two_sessions() -> Race {
    let race = Race::new(AT_KEY_B).await;
    for (session, key) in [("x-1", "b"), ("x-2", "a")] {
        let body = json!({ "agent_id": "p", "agent_type": "t", "session_id": session });
        race.post("/discovery/register", &body).await;
        race.client.acquire("p", key, json!({ "session_id": session })).await;
    }
    race
}

const ADOPTION: &str =
    r#"{ "agent_id": "p", "agent_type": "t", "session_id": "s", "adopt": true }"#;

#[tokio::test]
async fn an_adoption_does_not_wait_for_the_sweep_of_sessions_that_are_silent() {
    let race = two_sessions().await;
    let silent = "update agent_session set last_heartbeat_at = last_heartbeat_at - interval '1 day'
        where session_id <> 's'";
    race.service.execute(silent).await;
    let mut gate = race.service.db.begin().await.expect("a transaction");
    execute(&mut *gate, "select pg_advisory_xact_lock(77)").await;
    let boss = race.service.client_with(BOSS);
    let sweep = boss.post("/maintenance/run", json!({ "tasks": ["sessions"] }));
    let adoption = async {
        blocked(&race.service.db, 1).await;
        let adoption = serde_json::from_str(ADOPTION).expect("JSON");
        let adopted = tokio::select! {
            adopted = race.post("/discovery/register", &adoption) => adopted,
            () = blocked(&race.service.db, 2) => panic!("the adoption waits for the sweep"),
        };
        gate.rollback().await.expect("rolled back");
        adopted
    };
    let (swept, adopted) = join(sweep, adoption).await;
    assert_eq!(swept.json["locks_released"], 2, "{}", swept.text);
    assert_eq!(adopted["adopted"]["locks"], json!([]), "{adopted}");
}

#[tokio::test]
async fn an_adoption_that_meets_a_cleanup_of_live_sessions_holds_nothing_that_it_needs() {
    let race = two_sessions().await;
    let quiet =
        "update agent_session set last_heartbeat_at = last_heartbeat_at - interval '10 minutes'
        where session_id <> 's'";
    race.service.execute(quiet).await;
    let mut gate = race.service.db.begin().await.expect("a transaction");
    execute(&mut *gate, "select pg_advisory_xact_lock(77)").await;
    let boss = race.service.client_with(BOSS);
    let body = json!({ "agent_id": "boss", "stale_threshold_minutes": 5 });
    let cleanup = boss.post("/discovery/cleanup", body);
    let adoption = async {
        blocked(&race.service.db, 1).await;
        let adoption = serde_json::from_str(ADOPTION).expect("JSON");
        let release = async {
            blocked(&race.service.db, 2).await;
            let free = "select key from file_lock where key = 'a' for update nowait";
            assert_eq!(race.service.rows(free).await, [json!({ "key": "a" })]);
            gate.rollback().await.expect("rolled back");
        };
        join(race.post("/discovery/register", &adoption), release).await.0
    };
    let (cleaned, adopted) = join(cleanup, adoption).await;
    assert_eq!(cleaned.json["locks_released"], 2, "{}", cleaned.text);
    assert_eq!(adopted["adopted"]["locks"], json!([]), "{adopted}");
    let lost = adopted["lost"]["locks"].as_array().map(Vec::len);
    assert_eq!(lost, Some(2), "{adopted}");
}
