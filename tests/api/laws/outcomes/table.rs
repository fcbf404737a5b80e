//! Every outcome of every operation that is audited.
use http::Method;
use serde_json::{Value, json};

use super::{
    Outcome,
    Recorded::{As, Nothing, Refusal, Success},
    Step,
    Who::{self, Boss, Codex, Free},
};
use crate::support::with;

const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";

fn post(who: Who, path: &'static str, body: Value) -> Step {
    Step::Ask(who, Method::POST, path, body)
}

pub(in super::super) fn outcomes() -> Vec<Outcome> {
    let parts = [
        sessions(),
        locks(),
        releases(),
        submissions(),
        batches(),
        claims(),
        ends_of_claims(),
        others(),
        ports(),
        admins(),
    ];
    parts.into_iter().flatten().collect()
}

fn register() -> Step {
    post(
        Free,
        "/discovery/register",
        json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" }),
    )
}

fn deregister() -> Step {
    post(Free, "/discovery/deregister", json!({ "agent_id": "a", "session_id": "s" }))
}

/// Every quota of the workspace is reached, as a count has found that is believed for ever.
const REACHED: Step = Step::Sql(
    "insert into quota_reached (workspace, kind, agent_id, counted_at)
     select '$w', kind, '', 'infinity'
     from unnest('{locks,sessions,tasks,memories,handoffs}'::text[]) kind",
);

const SILENT: Step = Step::Sql(
    "update agent_session set last_heartbeat_at = now() - interval '1 day'
     where workspace = '$w'",
);

fn sessions() -> Vec<Outcome> {
    let clean = |dry_run: bool| post(Boss, "/discovery/cleanup", json!({ "dry_run": dry_run }));
    // A session with a lock, a claim and ports, which its end releases.
    let holding = [register(), acquire("a"), submit(), claim(), allocate("a", "s"), SILENT];
    vec![
        Outcome::new("register_session", "registered", Success, &[], register()).shown_as("\"s\""),
        Outcome::new("register_session", "changed", Success, &[register()], register())
            .shown_as("\"s\""),
        Outcome::new(
            "register_session",
            "revived",
            Success,
            &[register(), deregister()],
            register(),
        )
        .shown_as("\"s\""),
        Outcome::new("register_session", "quota_exceeded", Refusal, &[REACHED], register()),
        Outcome::new("deregister_session", "ended", Success, &holding[..5], deregister())
            .shown_as("\"locks_released\":1"),
        Outcome::new("deregister_session", "session_not_found", Refusal, &[], deregister()),
        Outcome::new("cleanup_agents", "ended", Success, &holding, clean(false))
            .shown_as("\"sessions_cleaned\":1"),
        Outcome::new("cleanup_agents", "counted", Success, &holding, clean(true))
            .shown_as("\"sessions_cleaned\":1"),
    ]
}

fn acquire(agent: &str) -> Step {
    acquire_with(agent, json!({ "session_id": "s" }))
}

fn acquire_with(agent: &str, more: Value) -> Step {
    post(
        Free,
        "/locks/acquire",
        with(json!({ "file_path": "k", "agent_id": agent, "agent_type": "t" }), more),
    )
}

/// A waiter: a request of agent `a` in session `s` that waits for the key.
const WAITER: Step = Step::Sql(
    "insert into lock_waiter (workspace, id, key, agent_id, agent_type, session_id, alive_until)
     values ('$w', gen_random_uuid(), 'k', 'a', 't', 's', clock_timestamp() + interval '1 hour')",
);

fn locks() -> Vec<Outcome> {
    let codex = |key: &str| {
        let body = json!({ "file_path": key, "agent_id": "codex-1", "agent_type": "codex" });
        post(Codex, "/locks/acquire", body)
    };
    let expired = Step::Sql("update file_lock set expires_at = now() where workspace = '$w'");
    let outcome = |name, recorded, before: &[Step], more: Value| {
        Outcome::new("acquire_lock", name, recorded, before, acquire_with("b", more))
    };
    vec![
        outcome("acquired", Success, &[], json!({})),
        outcome("acquired", Success, &[acquire("a"), expired], json!({})),
        outcome("acquired", Success, &[register(), acquire("a"), SILENT], json!({})),
        outcome("acquired", Success, &[], json!({ "wait_seconds": 1 })),
        outcome("refreshed", Success, &[acquire("b")], json!({})),
        outcome("locked_by_other", Refusal, &[acquire("a")], json!({})),
        outcome("locked_by_other", Refusal, &[acquire("a")], json!({ "wait_seconds": 1 })),
        outcome("locked_by_other", Refusal, &[WAITER], json!({})),
        Outcome::new(
            "acquire_lock",
            "locked_by_other_session",
            Refusal,
            &[acquire("a")],
            acquire_with("a", json!({ "session_id": "other" })),
        ),
        Outcome::new(
            "acquire_lock",
            "locked_by_other_session",
            Refusal,
            &[WAITER],
            acquire_with("a", json!({ "session_id": "other" })),
        ),
        outcome("quota_exceeded", Refusal, &[REACHED], json!({})),
        outcome("quota_exceeded", Refusal, &[REACHED], json!({ "wait_seconds": 1 })),
        outcome("invalid_file_path", Refusal, &[], json!({ "file_path": " " })),
        outcome("invalid_agent_id", Refusal, &[], json!({ "agent_id": " " })),
        outcome("ttl_out_of_range", Refusal, &[], json!({ "ttl_minutes": 481 })),
        Outcome::new("acquire_lock", "acquired", Success, &[codex("one")], codex("two")),
        Outcome::new(
            "acquire_lock",
            "over_limit",
            As("policy_decision"),
            &[codex("one"), codex("two")],
            codex("three"),
        )
        .shown_as("max_file_modifications=2"),
    ]
}

fn releases() -> Vec<Outcome> {
    let release = |more: Value| {
        post(Free, "/locks/release", with(json!({ "file_path": "k", "agent_id": "a" }), more))
    };
    let free = |path| Step::Ask(Boss, Method::DELETE, path, Value::Null);
    let missing = "lock_not_found_or_not_owner";
    vec![
        Outcome::new("release_lock", "released", Success, &[acquire("a")], release(json!({}))),
        Outcome::new("release_lock", missing, Refusal, &[], release(json!({}))),
        Outcome::new("release_lock", missing, Refusal, &[acquire("b")], release(json!({}))),
        Outcome::new(
            "release_lock",
            "stale_fencing_token",
            Refusal,
            &[acquire("a")],
            release(json!({ "fencing_token": 9 })),
        ),
        Outcome::new("force_release_lock", "released", Success, &[acquire("a")], free("/locks/k"))
            .shown_as("prior_holder_agent_id"),
        Outcome::new("force_release_lock", "not_locked", Refusal, &[], free("/locks/k")),
        Outcome::new(
            "force_release_lock",
            "stale_fencing_token",
            Refusal,
            &[acquire("a")],
            free("/locks/k?fencing_token=9"),
        ),
    ]
}

fn submit() -> Step {
    submit_with(json!({}))
}

fn submit_with(more: Value) -> Step {
    post(
        Free,
        "/work/submit",
        with(json!({ "agent_id": "sub", "task_type": "t", "task_description": "d" }), more),
    )
}

fn submissions() -> Vec<Outcome> {
    let keyed = json!({ "unique_key": "u", "deadline": "2100-01-01T00:00:00Z" });
    let overdue = Step::Sql("update work_task set deadline = now() where workspace = '$w'");
    let outcome = |name, recorded, before: &[Step], more: Value| {
        Outcome::new("submit_work", name, recorded, before, submit_with(more))
    };
    vec![
        outcome("created", Success, &[], json!({})),
        outcome("created", Success, &[submit()], json!({ "depends_on": ["$task"] })),
        outcome("created", Success, &[submit_with(keyed.clone()), overdue], keyed.clone()),
        outcome("created", Success, &[submit(), cancel("sub")], json!({ "replaces": "$task" })),
        outcome("deduplicated", Success, &[submit_with(keyed.clone())], keyed),
        outcome("blocked", Refusal, &[], json!({ "task_description": "rm -rf /" }))
            .shown_as("destructive_operation_blocked"),
        outcome("quota_exceeded", Refusal, &[REACHED], json!({})),
        outcome("unknown_dependency", Nothing, &[], json!({ "depends_on": [UNKNOWN] }))
            .shown_as("expected the id of a task"),
        outcome("not_replaceable", Nothing, &[submit()], json!({ "replaces": "$task" }))
            .shown_as("failed or cancelled"),
        outcome("deadline_past", Nothing, &[], json!({ "deadline": "2001-01-01T00:00:00Z" }))
            .shown_as("a time in the future"),
    ]
}

fn batches() -> Vec<Outcome> {
    let task = |text: &str| json!({ "task_type": "t", "task_description": text });
    let submit_all = |tasks: [Value; 2]| {
        post(Free, "/work/submit-batch", json!({ "agent_id": "sub", "tasks": tasks }))
    };
    let both = json!([
        { "task_id": "$task", "success": true },
        { "task_id": UNKNOWN, "success": true },
    ]);
    let complete_all = post(
        Free,
        "/work/complete-batch",
        json!({ "agent_id": "a", "session_id": "s", "completions": both }),
    );
    vec![
        Outcome::new(
            "submit_work_batch",
            "created",
            Success,
            &[],
            submit_all([task("d"), task("e")]),
        )
        .of_parts(&[("submit_task", true), ("submit_task", true)]),
        Outcome::new(
            "submit_work_batch",
            "batch_refused",
            Refusal,
            &[],
            submit_all([task("d"), task("rm -rf /")]),
        )
        .of_parts(&[("submit_task", false), ("submit_task", false)]),
        Outcome::new(
            "submit_work_batch",
            "quota_exceeded",
            Refusal,
            &[REACHED],
            submit_all([task("d"), task("e")]),
        )
        .of_parts(&[("submit_task", false), ("submit_task", false)]),
        // The order is that of the ids, so the unknown task comes first.
        Outcome::new(
            "complete_work_batch",
            "completed",
            Success,
            &[submit(), claim()],
            complete_all,
        )
        .of_parts(&[("complete_task", false)]),
        Outcome::new(
            "get_work",
            "claimed",
            Success,
            &[submit(), submit()],
            claim_with(json!({ "count": 2 })),
        )
        .of_parts(&[("claim_task", true)])
        .shown_as("\"tasks\""),
    ]
}

fn claim() -> Step {
    claim_with(json!({}))
}

fn claim_with(more: Value) -> Step {
    post(
        Free,
        "/work/claim",
        with(json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" }), more),
    )
}

/// The lease has ended.
const LAPSED: Step =
    Step::Sql("update work_task set claim_expires_at = now() where workspace = '$w'");

fn claims() -> Vec<Outcome> {
    // As if another version of the patterns had judged the text of the task.
    let judged = Step::Sql(
        "update work_task set guard_version = 'another', guard_trust = 5, needed_trust = 5
         where workspace = '$w'",
    );
    let stale = Step::Sql("update work_task set guard_version = 'another' where workspace = '$w'");
    let guarded = Step::Sql(
        "update work_task set guard_trust = 5, needed_trust = 5, guard_findings =
            '[{\"pattern_name\": \"p\", \"severity\": \"block\", \"bypass_trust\": 5}]'
         where workspace = '$w'",
    );
    let wait = json!({ "wait_seconds": 1 });
    let outcome = |name, recorded, before: &[Step], more: Value| {
        Outcome::new("get_work", name, recorded, before, claim_with(more))
    };
    vec![
        outcome("claimed", Success, &[submit()], json!({})).shown_as("\"attempt\":1"),
        outcome("claimed", Success, &[submit(), claim(), LAPSED], json!({}))
            .shown_as("\"attempt\":2"),
        outcome("claimed", Success, &[submit()], wait.clone()).shown_as("\"attempt\":1"),
        outcome("rescan", Success, &[submit(), judged], json!({})).shown_as("\"attempt\":1"),
        outcome("rescan", Success, &[submit(), stale], json!({})).shown_as("\"attempt\":1"),
        outcome("no_tasks_available", Refusal, &[], json!({})),
        outcome("no_tasks_available", Refusal, &[], wait),
        outcome("destructive_operation_blocked", Refusal, &[submit(), guarded], json!({})),
    ]
}

fn report(agent: &str, more: Value) -> Value {
    with(json!({ "agent_id": agent, "task_id": "$task", "session_id": "s" }), more)
}

fn cancel(agent: &str) -> Step {
    post(Free, "/work/cancel", report(agent, json!({ "reason": "r" })))
}

fn complete(more: Value) -> Step {
    post(Free, "/work/complete", with(report("a", json!({ "success": true })), more))
}

fn renew(more: Value) -> Step {
    post(Free, "/work/renew", report("a", more))
}

fn ends_of_claims() -> Vec<Outcome> {
    let not_claimed = "task_not_found_or_not_claimed_by_agent";
    let claimed = [submit(), claim()];
    let retried = [submit_with(json!({ "retry_on_failure": true })), claim()];
    let done = [submit(), claim(), complete(json!({}))];
    let wrong = json!({ "claim_token": "wrong" });
    let failure = json!({ "success": false, "error_message": "e" });
    let destructive = json!({ "result": { "next": "rm -rf /" } });
    let unknown = json!({ "task_id": UNKNOWN });
    let ended = |name, recorded, before: &[Step], more| {
        Outcome::new("complete_work", name, recorded, before, complete(more))
    };
    let renewed = |name, recorded, before: &[Step], more| {
        Outcome::new("renew_work", name, recorded, before, renew(more))
    };
    let cancelled = |name, recorded, before: &[Step], step| {
        Outcome::new("cancel_work", name, recorded, before, step)
    };
    vec![
        renewed("running", Success, &claimed, json!({})),
        renewed("running", Success, &[submit(), claim(), LAPSED], json!({})),
        renewed(not_claimed, Refusal, &claimed[..1], json!({})),
        renewed(not_claimed, Refusal, &[], unknown.clone()),
        renewed("claim_superseded", Refusal, &claimed, wrong.clone()),
        renewed("task_already_finished", Refusal, &done, json!({})),
        ended("completed", Success, &claimed, json!({})),
        ended("completed", Success, &done, json!({})),
        ended("failed", Success, &claimed, failure.clone()),
        ended("pending", Success, &retried, failure),
        ended("blocked", Refusal, &claimed, destructive),
        ended(not_claimed, Refusal, &claimed[..1], json!({})),
        ended(not_claimed, Refusal, &[], unknown),
        ended("claim_superseded", Refusal, &claimed, wrong),
        ended("task_already_finished", Refusal, &done, json!({ "result": { "other": 1 } })),
        cancelled("cancelled", Success, &claimed[..1], cancel("sub")),
        cancelled("cancelled", Success, &claimed, cancel("sub")),
        cancelled("not_submitter", Refusal, &claimed, cancel("a")),
        cancelled("task_already_finished", Refusal, &done, cancel("sub")),
        cancelled(
            "task_not_found",
            Refusal,
            &[],
            post(Free, "/work/cancel", json!({ "agent_id": "sub", "task_id": UNKNOWN })),
        ),
    ]
}

fn others() -> Vec<Outcome> {
    let remember = || {
        let body =
            json!({ "agent_id": "a", "event_type": "e", "summary": "one pool", "tags": ["t"] });
        post(Free, "/memory/store", body)
    };
    let old = Step::Sql(
        "update memory set
            created_at = (created_at at time zone 'utc' - interval '2 hours') at time zone 'utc'
         where workspace = '$w'",
    );
    let check = |text: &str| post(Free, "/guardrails/check", json!({ "operation_text": text }));
    let write = |summary: &str| {
        post(Free, "/handoffs/write", json!({ "agent_id": "a", "summary": summary }))
    };
    let read = |body: Value| post(Free, "/handoffs/read", body);
    let ask = |who, operation: &str| {
        let body = json!({ "agent_id": if who == Codex { "codex-1" } else { "a" }, "agent_type": "",
            "operation": operation, "resource": "new" });
        post(who, "/policy/check", body)
    };
    let codex = |key: &str| {
        let body = json!({ "file_path": key, "agent_id": "codex-1", "agent_type": "codex" });
        post(Codex, "/locks/acquire", body)
    };
    vec![
        Outcome::new("remember", "created", Success, &[], remember()),
        Outcome::new("remember", "created", Success, &[remember(), old], remember()),
        Outcome::new("remember", "deduplicated", Success, &[remember()], remember()),
        Outcome::new("remember", "quota_exceeded", Refusal, &[REACHED], remember()),
        Outcome::new("check_guardrails", "safe", Success, &[], check("git status")),
        Outcome::new(
            "check_guardrails",
            "guardrail_violation",
            As("guardrail_violation"),
            &[],
            check("rm -rf /"),
        ),
        Outcome::new("write_handoff", "written", Success, &[], write("done"))
            .shown_as("handoff_id"),
        Outcome::new("write_handoff", "summary_required", Refusal, &[], write(" ")),
        Outcome::new("write_handoff", "quota_exceeded", Refusal, &[REACHED], write("done")),
        Outcome::new("read_handoff", "all", Success, &[write("done")], read(json!({})))
            .shown_as("\"count\":1"),
        Outcome::new(
            "read_handoff",
            "one agent's",
            Success,
            &[write("done")],
            read(json!({ "agent_name": "a" })),
        )
        .shown_as("\"count\":1"),
        Outcome::new("check_policy", "allowed", Success, &[], ask(Free, "acquire_lock"))
            .shown_as("write_permitted"),
        Outcome::new("check_policy", "denied", Refusal, &[], ask(Free, "manage_keys"))
            .shown_as("\"allowed\":false"),
        Outcome::new(
            "check_policy",
            "over_limit",
            Refusal,
            &[codex("one"), codex("two")],
            ask(Codex, "acquire_lock"),
        )
        .shown_as("max_file_modifications=2"),
    ]
}

fn allocate(agent: &str, session: &str) -> Step {
    post(Free, "/ports/allocate", json!({ "agent_id": agent, "session_id": session }))
}

fn ports() -> Vec<Outcome> {
    let release = |who| post(who, "/ports/release", json!({ "agent_id": "b", "session_id": "s" }));
    let held = [allocate("a", "s")];
    let full = [allocate("a", "s"), allocate("a", "s2")];
    let outcome = |name, recorded, before: &[Step], step| {
        Outcome::new("allocate_ports", name, recorded, before, step)
    };
    let released = |name, recorded, before: &[Step], step| {
        Outcome::new("release_ports", name, recorded, before, step)
    };
    vec![
        outcome("allocated", Success, &[], allocate("a", "s")).shown_as("\"slot\":0"),
        outcome("extended", Success, &held, allocate("a", "s")).shown_as("\"slot\":0"),
        outcome("session_owned_by_other_agent", Refusal, &held, allocate("b", "s")),
        outcome("no_ports_available", Refusal, &full, allocate("b", "s3")),
        released("released", Success, &[allocate("b", "s")], release(Free)).shown_as("\"slot\":0"),
        released("released for another", Success, &held, release(Boss)).shown_as("\"slot\":0"),
        released("nothing to release", Success, &[], release(Free)).shown_as("\"slot\":null"),
        released("not_owner", Refusal, &held, release(Free)),
    ]
}

fn admins() -> Vec<Outcome> {
    let assign = |target: &str, profile: &str| {
        let body = json!({ "target_agent_id": target, "profile": profile });
        post(Boss, "/profiles/assign", body)
    };
    let maintain = |tasks: Value| post(Boss, "/maintenance/run", json!({ "tasks": tasks }));
    // Gives the workspace profiles of its own: the caller's, and one with more trust.
    let own_profiles = Step::Sql(
        r#"insert into profile
        select (jsonb_populate_record(null::profile, to_jsonb(p) || changed)).*
        from profile p, (values
            (jsonb '{"workspace": "$w"}'),
            ('{"workspace": "$w", "name": "over", "trust_level": 4, "is_type_default": false}')
        ) changes (changed)
        where p.workspace = 'default' and p.name = 'strands_orchestrator'"#,
    );
    let left_over = [
        register(),
        acquire("a"),
        submit(),
        claim(),
        allocate("a", "s"),
        deregister(),
        acquire_with("b", json!({})),
        Step::Sql("update file_lock set expires_at = now() where workspace = '$w'"),
        submit_with(json!({ "deadline": "2100-01-01T00:00:00Z" })),
        Step::Sql("update work_task set deadline = now() where workspace = '$w'"),
    ];
    let worker = "codex_cloud_worker";
    let assigned = |name, recorded, before: &[Step], target, profile| {
        Outcome::new("assign_profile", name, recorded, before, assign(target, profile))
    };
    let parts = json!(["sessions", "locks", "work", "ports", "approvals"]);
    vec![
        assigned("assigned", Success, &[], "a", worker).shown_as("\"success\":true"),
        assigned("profile_not_found", Refusal, &[], "a", "none"),
        assigned("cannot_assign_self", Refusal, &[], "boss", worker),
        assigned("trust_above_caller", Refusal, &[own_profiles], "a", "over"),
        Outcome::new(
            "manage_keys",
            "listed",
            Success,
            &[],
            Step::Ask(Boss, Method::GET, "/keys", Value::Null),
        )
        .shown_as("\"count\":3"),
        Outcome::new("run_maintenance", "tidied up", Success, &left_over, maintain(parts))
            .shown_as("\"locks_expired\":1"),
        Outcome::new(
            "run_maintenance",
            "sessions",
            Success,
            &[register(), acquire("a"), SILENT],
            maintain(json!(["sessions"])),
        )
        .shown_as("\"locks_released\":1"),
        Outcome::new("run_maintenance", "retention", Success, &[], maintain(json!(["retention"])))
            .shown_as("rows_deleted"),
    ]
}
