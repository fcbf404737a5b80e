//! Values as scripts with unset variables and models send them.
use serde_json::json;

use crate::support::{Agents, Service};

#[tokio::test(flavor = "multi_thread")]
async fn blank_values_of_optional_arguments_count_as_absent() {
    let service = Service::start().await;
    let me = Agents::of(&service).me;
    let submitted = me.run(&[
        "submit",
        "--task-type",
        "test",
        "--description",
        "Run the tests",
        "--deadline",
        "",
        "--depends-on",
        "",
        "--input-data",
        "",
        "--agent-requirements",
        "null",
        "--priority",
        "",
        "--unique-key",
        " ",
    ]);
    submitted.assert_code(0);
    let other = Agents::of(&service).other;
    let claimed = other.run(&["--json", "claim", "--task-types", "", "--lease-minutes", ""]);
    claimed.assert_code(0);
    assert_eq!(claimed.json()["task_type"], "test");
    let stored = me.run(&[
        "remember",
        "--event-type",
        "discovery",
        "--summary",
        "the port is taken",
        "--tags",
        "",
        "--lessons",
        "",
        "--outcome",
        "",
        "--details",
        "",
    ]);
    stored.assert_code(0);
    let recalled = me.run(&["--json", "recall", "--tags", "", "--since", "", "--scope", ""]);
    recalled.assert_code(0);
    let memory = &recalled.json()["memories"][0];
    assert_eq!(memory["summary"], "the port is taken");
    assert_eq!((&memory["tags"], &memory["lessons"]), (&json!([]), &json!([])));
    me.run(&["handoff", "write", "--summary", "done", "--next-steps", ""]).assert_code(0);
    let read = me.run(&["--json", "handoff", "read"]);
    assert_eq!(read.json()["handoffs"][0]["next_steps"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn blank_values_of_required_arguments_are_refused_and_store_nothing() {
    let service = Service::start().await;
    let me = Agents::of(&service).me;
    me.run(&["submit", "--task-type", "test", "--description", " "])
        .assert_code(2)
        .assert_says("description: expected text that is not blank");
    me.run(&["remember", "--event-type", "discovery", "--summary", ""])
        .assert_code(2)
        .assert_says("summary: expected text that is not blank");
    assert_eq!(me.run(&["--json", "recall"]).json()["count"], 0);
    assert_eq!(me.run(&["--json", "tasks"]).json()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_as_json_is_the_list_of_its_words() {
    let service = Service::start().await;
    let Agents { me, other, .. } = Agents::of(&service);
    let remember = ["remember", "--event-type", "discovery", "--summary"];
    for (index, tags) in [
        &["ci", "arm"][..],
        &[r#"["ci","arm"]"#],
        &[r#" ["ci", "", "arm", null] "#],
        &["ci", r#"["arm"]"#],
    ]
    .into_iter()
    .enumerate()
    {
        let summary = index.to_string();
        let lists = [&["--tags"], tags, &["--lessons"], tags].concat();
        me.json(&[&remember[..], &[&summary], &lists].concat());
        let found = me.json(&[&["recall", "--limit", "1", "--tags"], tags].concat());
        let memory = &found["memories"][0];
        assert_eq!(memory["summary"], json!(summary), "{tags:?}: {found}");
        let both = json!(["ci", "arm"]);
        assert_eq!((&memory["tags"], &memory["lessons"]), (&both, &both), "{tags:?}");
    }
    me.json(&["submit", "--task-type", "test", "--description", "d"]);
    let none = other.run(&["--json", "claim", "--task-types", r#"["review","docs"]"#]);
    assert_eq!(none.json()["reason"], "no_tasks_available");
    let claimed = other.json(&["claim", "--task-types", r#"["review","test"]"#]);
    assert_eq!(claimed["task_type"], "test");
    for steps in [&["a", r#"{"do":"b"}"#][..], &[r#"["a",{"do":"b"}]"#]] {
        let expected = json!(["a", { "do": "b" }]);
        let lists = [&["--completed-work"], steps, &["--next-steps"], steps].concat();
        me.json(&[&["handoff", "write", "--summary", "s"][..], &lists].concat());
        let read = me.json(&["handoff", "read", "--limit", "1"]);
        assert_eq!(read["handoffs"][0]["next_steps"], expected, "{steps:?}");
        assert_eq!(read["handoffs"][0]["completed_work"], expected, "{steps:?}");
        me.json(&["session", "start", "--session-id", "s"]);
        let end = ["session", "end", "--session-id", "s", "--summary", "t"];
        me.run(&[&end[..], &lists].concat()).assert_code(0);
        let read = me.json(&["handoff", "read", "--limit", "1"]);
        assert_eq!(read["handoffs"][0]["summary"], "t");
        assert_eq!(read["handoffs"][0]["next_steps"], expected, "{steps:?}");
    }
    // Brackets within a text, and around one, are a part of it.
    for text in ["[wip] one", "[wip]", "["] {
        me.json(&[&remember[..], &[text, "--tags", text]].concat());
        let found = me.json(&["recall", "--limit", "1", "--tags", text]);
        assert_eq!(found["memories"][0]["tags"], json!([text]));
    }
    let count = me.json(&["recall", "--limit", "50"])["count"].clone();
    for wrong in ["['ci', 'arm']", r#"["ci" "arm"]"#, "[1]", r#"[["ci"]]"#] {
        let done = me.run(&[&remember[..], &["x", "--tags", wrong]].concat());
        done.assert_code(2).assert_says(r#"--tags: expected texts as words of their own"#);
    }
    let wrong = ["handoff", "write", "--summary", "x", "--next-steps", "['a']"];
    me.run(&wrong).assert_code(2).assert_says("--next-steps: expected");
    assert_eq!(me.json(&["recall", "--limit", "50"])["count"], count);
}

#[tokio::test(flavor = "multi_thread")]
async fn truth_values_and_words_are_taken_in_other_letters() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    agents.me.run(&["submit", "--task-type", "test", "--description", "d"]).assert_code(0);
    let claimed = agents.other.run(&["--json", "claim"]).json();
    let id = claimed["task_id"].as_str().expect("a task").to_owned();
    let done = agents.other.run(&["complete", "--task-id", &id, "--success", "True"]);
    done.assert_code(0);
    agents.me.run(&["--json", "recall", "--scope", "Own"]).assert_code(0);
    agents.me.run(&["recall", "--scope", "mine"]).assert_code(2).assert_says("possible values");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_for_people_have_remedies() {
    let service = Service::start().await;
    let me = Agents::of(&service).me;
    let done = me.run(&["lock", "a.rs", "--ttl-minutes", "481"]);
    done.assert_code(1)
        .assert_says("ttl_out_of_range")
        .assert_says("--ttl-minutes: ")
        .assert_says("1 to 480");
    me.run(&["remember", "--event-type", "discovery", "--summary", "one pool"]).assert_code(0);
    let done = me.run(&["recall", "--query", "xyzzy"]);
    done.assert_code(0).assert_says("Nothing here knows: xyzzy.");
}
