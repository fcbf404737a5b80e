//! The law that a workspace sees and changes nothing of another one. For writes it is also checked with
//! each of their outcomes: see `outcomes`.
use std::collections::BTreeMap;

use agent_coordinator::{Category, capabilities};
use serde_json::Value;

use super::{Asked, ask, changed, request, routes};
use crate::support::{FREE, Service, TEAM};

/// Operations whose answer is that of the installation where the workspace has nothing of its own.
const SAME_FOR_ALL: [&str; 3] = ["list_guardrails", "network_access", "validate_policy"];

/// What each operation that reads answers in a workspace.
async fn read(service: &Service, key: &str) -> BTreeMap<&'static str, Value> {
    let client = service.client_with(key);
    let mut answers = BTreeMap::new();
    for op in capabilities::all().iter() {
        let meta = &op.meta;
        if meta.category != Category::Read || meta.is_audited() || meta.routes.is_empty() {
            continue;
        }
        let Asked { method, path, body } = request(meta.routes[0], &op.example);
        let answer = client.send(method, &path, body).await;
        assert_eq!(answer.status, 200, "{}: {}", meta.id, answer.text);
        answers.insert(meta.id, answer.json);
    }
    answers
}

/// Something of every kind in workspace `$w`, where the examples look for it.
const CONTENTS: &str = "
    insert into agent_session (workspace, agent_id, session_id, agent_type, capabilities)
    values ('$w', 'claude-1', 's-1', 'claude_code', '{rust}');
    insert into file_lock
        (workspace, key, token, is_file, agent_id, agent_type, locked_at, expires_at)
    values ('$w', 'src/main.rs', 7, true, 'claude-1', 't', now(), now() + interval '1 hour');
    insert into work_task (
        workspace, id, task_type, description, priority, submitted_by, guard_version, guard_trust,
        guard_findings, needed_trust, max_attempts, retry_on_failure
    ) values ('$w', '1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1', 'test', 'd', 5, 'a', 'v', 0, '[]',
        0, 3, false);
    insert into memory (
        workspace, agent_id, event_type, summary, summary_digest, details, lessons, tags
    ) values ('$w', 'claude-1', 'decision', 'one pool', '', '{}', '{}', '{db}');
    insert into port_block values
        ('$w', 0, 'claude-1', 's-1', now(), now() + interval '1 hour');
    select record_audit('$w', row('r', 'claude-1', 't', 's-1', 0, '1 hour')::request,
        'acquire_lock', '{}', '{}', true);
";

#[tokio::test]
async fn what_is_read_in_a_workspace_is_its_own() {
    let service = Service::start().await;
    let empty = read(&service, TEAM).await;
    service.execute(&CONTENTS.replace("$w", "default")).await;
    let full = read(&service, FREE).await;
    assert_eq!(read(&service, TEAM).await, empty, "another workspace shows");
    for (operation, answer) in full {
        let differs = answer != empty[operation];
        assert_eq!(differs, !SAME_FOR_ALL.contains(&operation), "{operation}: {answer}");
    }
}

#[tokio::test]
async fn what_is_done_in_a_workspace_changes_no_other() {
    let service = Service::start().await;
    for workspace in ["default", "team"] {
        service.execute(&CONTENTS.replace("$w", workspace)).await;
    }
    // The same rows and the same requests in both: a statement that forgot the workspace would find
    // the other one's row.
    for (key, other) in [(TEAM, "default"), (FREE, "team")] {
        let client = service.client_with(key);
        let before = service.contents_of(other).await;
        for (op, route) in routes() {
            if op.meta.category != Category::Admin {
                let answer = ask(&client, &op, route).await;
                assert_eq!(answer.status, 200, "{route}: {}", answer.text);
                let changed = changed(&before, &service.contents_of(other).await);
                assert!(changed.is_empty(), "{route} changed another workspace: {changed:?}");
            }
        }
    }
}
