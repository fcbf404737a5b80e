//! The measured operations, each with its transition, its floor and its requests. Invariant: all three write the
//! same rows, and every answer is checked.

use crate::{Result, growth::Kind, statements::Statements};

/// The first arguments of every call: the workspace and the request.
const CALLER: [&str; 7] =
    [":workspace", ":request", ":agent", ":type", "null", ":elapsed", ":session_timeout"];

/// The first arguments of the floor functions: the workspace and the request.
const FLOOR_CALLER: &str =
    ":workspace, row(:request, :agent, :type, null, :elapsed, :session_timeout)::request";

/// The start of every script. Keys are random and practically unique. Tasks are counted, so that no two clients
/// claim the same task.
const START: &str = "\\set agent 1000 + :client_id
\\set key random(1, 1000000000000000)
\\set task :task + :stride
\\set own_task :task + :client_id
";

/// A call of a statement of the service.
#[derive(Debug)]
pub(crate) struct Call {
    /// A text that identifies the statement.
    pub(crate) mark: &'static str,
    /// The arguments after `CALLER`, by position: a variable, or `null`.
    pub(crate) arguments: &'static [&'static str],
    /// Whether a later call uses the columns of the returned row, as `:r_<column>`.
    pub(crate) is_kept: bool,
}

/// A request of a round, with the placeholders `{agent}`, `{key}`, `{task_id}` and `{claim_token}`.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) body: &'static str,
    /// A text that the body of the answer must contain.
    pub(crate) expected: &'static str,
}

impl Request {
    /// Checks the body of an answer.
    pub(crate) fn check(&self, body: &str) -> Result<()> {
        if body.contains(self.expected) {
            return Ok(());
        }
        let Request { path, expected, .. } = self;
        Err(format!("{path} was answered with {body}; expected `{expected}` in it").into())
    }
}

/// An operation, or two that belong together.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) calls: &'static [Call],
    /// The floor functions with their arguments after `FLOOR_CALLER`; empty if the operation writes nothing.
    pub(crate) floor: &'static [&'static str],
    pub(crate) requests: &'static [Request],
    pub(crate) seed: Seed,
    /// The number of audit rows of a round.
    pub(crate) audit_rows: i64,
    /// Whether the audit rows record a success.
    pub(crate) succeeds: bool,
    /// How the cost among many rows is measured.
    pub(crate) growth: Option<Growth>,
}

/// How an operation is measured among many rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) kind: Kind,
    /// The rounds of one measurement: few enough that claims do not empty the smallest database.
    pub(crate) rounds: u64,
}

/// The content of the database before a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    Nothing,
    /// A lock that another agent holds.
    HeldLock,
    /// More pending tasks than can be claimed.
    Tasks,
    /// Memories to search.
    Memories,
}

impl Seed {
    /// Returns the statements that insert the content, for a measurement of `seconds`. `guard_version` is the
    /// version of the guardrail patterns that the tasks were scanned with.
    pub(crate) fn sql(self, guard_version: &str, seconds: u64) -> String {
        match self {
            Seed::Nothing => String::new(),
            Seed::HeldLock => "insert into file_lock (workspace, key, token, is_file, agent_id, agent_type,
                    locked_at, expires_at)
                values ('default', 'src/held.rs', 1, true, 'holder', 'claude_code', now(),
                    now() + interval '8 hours')".to_owned(),
            Seed::Tasks => format!("insert into work_task (workspace, id, task_type, description, priority,
                    submitted_by, guard_version, guard_trust, guard_findings, needed_trust, max_attempts,
                    retry_on_failure)
                select 'default', ('00000000-0000-4000-8000-' || n)::uuid, 'implement',
                    'Write the parser of the configuration file and its tests', 5, 'submitter',
                    '{guard_version}', 0, '[]', 0, 3, true
                from generate_series(100000000000, {}) n;
                analyze work_task", 100_000_000_000 + 15_000 * seconds),
            Seed::Memories => "insert into memory (workspace, agent_id, event_type, summary,
                    summary_digest, details, lessons, tags)
                select 'default', 'agent-' || n % 50, 'decision',
                    'Memory ' || n || ': chose the parser of the library for topic-' || n % 97,
                    decode(md5(n::text), 'hex'), '{}', '{}', array['tag-' || n % 100]
                from generate_series(1, 5000) n;
                analyze memory".to_owned(),
        }
    }
}

/// Returns the variables of the scripts with their values.
pub(crate) fn variables(clients: usize) -> Vec<(&'static str, String)> {
    [
        ("workspace", "default"),
        ("request", "4f1c2e9a7b3d4c5e8f60718293a4b5c6"),
        ("type", "claude_code"),
        ("elapsed", "0.5"),
        ("session_timeout", "2 hours"),
        ("yes", "true"),
        ("no", "false"),
        ("zero", "0"),
        ("three", "3"),
        ("five", "5"),
        ("sixty", "60"),
        ("hundred", "100"),
        ("ttl", "120"),
        ("denial", "file limit reached"),
        ("engine", "native"),
        ("held", "src/held.rs"),
        ("task_type", "implement"),
        ("description", "Write the parser of the configuration file and its tests"),
        ("list", "[]"),
        ("object", "{}"),
        ("quota", "{100000000,100000000}"),
        ("guard_version", "bench"),
        ("result", "{\"files\": 3}"),
        ("event_type", "decision"),
        ("text", "git status --short"),
        ("safe", "{\"blocked\": false, \"violations\": []}"),
        ("summary", "The parser is done, its tests are missing"),
        ("words", "topic-13 parser"),
        ("ten", "10"),
        ("one", "1"),
        ("task", "100000000000"),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_owned()))
    .chain([("stride", clients.to_string())])
    .collect()
}

impl Operation {
    /// Returns the script that calls the service's statements.
    pub(crate) fn transition(&self, statements: &Statements) -> Result<String> {
        let mut script = START.to_owned();
        for call in self.calls {
            let arguments: Vec<_> = if call.mark == RECALL {
                call.arguments.to_vec()
            } else {
                CALLER.into_iter().chain(call.arguments.iter().copied()).collect()
            };
            script += statements.with(call.mark, &arguments)?.trim();
            script += if call.is_kept { " \\gset r_\n" } else { ";\n" };
        }
        Ok(script)
    }

    /// Returns the script that calls the floor functions, if the operation has any.
    pub(crate) fn floor(&self) -> Option<String> {
        let calls = self.floor.iter().map(|call| {
            let (name, arguments) = call.split_once('(').unwrap_or((call, ")"));
            format!("select * from {name}({FLOOR_CALLER}, {arguments};\n")
        });
        (!self.floor.is_empty()).then(|| START.to_owned() + &calls.collect::<String>())
    }
}

/// A text that identifies the statement of a search.
const RECALL: &str = "recall_memories(";

/// All measured operations.
pub(crate) const ALL: [Operation; 9] = [
    Operation {
        name: "acquire+release",
        calls: &[
            Call {
                mark: "acquire_lock(",
                arguments: &[
                    ":key", ":yes", "null", ":ttl", "null", ":hundred", ":denial", ":engine",
                    "null", ":no", ":quota",
                ],
                is_kept: false,
            },
            Call { mark: "release_lock(", arguments: &[":key", "null"], is_kept: false },
        ],
        floor: &["floor_acquire_lock(:key, '2 hours')", "floor_release_lock(:key)"],
        requests: &[
            Request {
                method: "POST",
                path: "/locks/acquire",
                body: r#"{"file_path":"src/bench/{key}.rs","agent_id":"{agent}","agent_type":"claude_code"}"#,
                expected: r#""success":true"#,
            },
            Request {
                method: "POST",
                path: "/locks/release",
                body: r#"{"file_path":"src/bench/{key}.rs","agent_id":"{agent}","agent_type":"claude_code"}"#,
                expected: r#""success":true"#,
            },
        ],
        seed: Seed::Nothing,
        audit_rows: 2,
        succeeds: true,
        growth: Some(Growth { kind: Kind::Locks, rounds: 1000 }),
    },
    Operation {
        name: "contended acquire",
        calls: &[Call {
            mark: "acquire_lock(",
            arguments: &[
                ":held", ":yes", "null", ":ttl", "null", ":hundred", ":denial", ":engine", "null",
                ":no", ":quota",
            ],
            is_kept: false,
        }],
        floor: &["floor_refused_lock(:held)"],
        requests: &[Request {
            method: "POST",
            path: "/locks/acquire",
            body: r#"{"file_path":"src/held.rs","agent_id":"{agent}","agent_type":"claude_code"}"#,
            expected: r#""reason":"locked_by_other""#,
        }],
        seed: Seed::HeldLock,
        audit_rows: 1,
        succeeds: false,
        growth: Some(Growth { kind: Kind::Locks, rounds: 4000 }),
    },
    Operation {
        name: "submit",
        calls: &[Call {
            mark: "submit_task(",
            arguments: &[
                ":task_type",
                ":description",
                "null",
                ":five",
                ":list",
                "null",
                "null",
                ":zero",
                "null",
                "null",
                ":three",
                ":yes",
                "null",
                "null",
                "null",
                "null",
                ":guard_version",
                ":zero",
                ":list",
                "null",
                ":list",
                ":list",
                ":quota",
            ],
            is_kept: false,
        }],
        floor: &["floor_submit_task(:description)"],
        requests: &[Request {
            method: "POST",
            path: "/work/submit",
            body: r#"{"task_type":"implement","task_description":"Write the parser of the configuration file and its tests","agent_id":"{agent}","agent_type":"claude_code"}"#,
            expected: r#""success":true"#,
        }],
        seed: Seed::Nothing,
        audit_rows: 1,
        succeeds: true,
        growth: Some(Growth { kind: Kind::Tasks, rounds: 1000 }),
    },
    Operation {
        name: "claim+complete",
        calls: &[
            Call {
                mark: "get_work(",
                arguments: &[
                    "null",
                    ":sixty",
                    ":three",
                    ":guard_version",
                    "null",
                    ":yes",
                    ":no",
                    ":one",
                ],
                is_kept: true,
            },
            Call {
                mark: "complete_task(",
                arguments: &[
                    ":r_task_id",
                    ":yes",
                    ":result",
                    "null",
                    ":r_claim_token",
                    "null",
                    ":list",
                    ":list",
                ],
                is_kept: false,
            },
        ],
        floor: &[
            "floor_claim_task(('00000000-0000-4000-8000-' || :own_task)::uuid, 60)",
            "floor_complete_task(('00000000-0000-4000-8000-' || :own_task)::uuid, :result)",
        ],
        requests: &[
            Request {
                method: "POST",
                path: "/work/claim",
                body: r#"{"agent_id":"{agent}","agent_type":"claude_code"}"#,
                expected: r#""success":true"#,
            },
            Request {
                method: "POST",
                path: "/work/complete",
                body: r#"{"task_id":"{task_id}","agent_id":"{agent}","agent_type":"claude_code","success":true,"result":{"files":3}}"#,
                expected: r#""success":true"#,
            },
        ],
        seed: Seed::Tasks,
        audit_rows: 2,
        succeeds: true,
        growth: Some(Growth { kind: Kind::Tasks, rounds: 500 }),
    },
    Operation {
        name: "remember",
        calls: &[Call {
            mark: "remember(",
            arguments: &[
                ":event_type",
                "('Chose the parser of the library, number ' || :key)",
                "decode(md5(:key), 'hex')",
                ":object",
                "null",
                ":list",
                ":list",
                ":quota",
            ],
            is_kept: false,
        }],
        floor: &[
            "floor_remember(:event_type, 'Chose the parser of the library, number ' || :key, \
                  decode(md5(:key), 'hex'))",
        ],
        requests: &[Request {
            method: "POST",
            path: "/memory/store",
            body: r#"{"agent_id":"{agent}","agent_type":"claude_code","event_type":"decision","summary":"Chose the parser of the library, number {key}"}"#,
            expected: r#""success":true"#,
        }],
        seed: Seed::Nothing,
        audit_rows: 1,
        succeeds: true,
        growth: Some(Growth { kind: Kind::Memories, rounds: 1000 }),
    },
    Operation {
        name: "recall",
        calls: &[Call {
            mark: RECALL,
            arguments: &[
                ":workspace",
                "null",
                "null",
                "null",
                "null",
                ":zero",
                ":words",
                "null",
                ":ten",
                ":agent",
                ":zero",
            ],
            is_kept: false,
        }],
        floor: &[],
        requests: &[Request {
            method: "POST",
            path: "/memory/query",
            body: r#"{"agent_id":"{agent}","agent_type":"claude_code","query":"topic-13 parser","scope":"workspace","limit":10}"#,
            expected: r#""relevance_score""#,
        }],
        seed: Seed::Memories,
        audit_rows: 0,
        succeeds: true,
        growth: Some(Growth { kind: Kind::Memories, rounds: 100 }),
    },
    Operation {
        name: "guardrails check",
        calls: &[Call {
            mark: "check_guardrails(",
            arguments: &[":text", ":list", ":safe"],
            is_kept: false,
        }],
        floor: &["floor_check_guardrails(:text, :safe)"],
        requests: &[Request {
            method: "POST",
            path: "/guardrails/check",
            body: r#"{"operation_text":"git status --short","agent_id":"{agent}","agent_type":"claude_code"}"#,
            expected: r#""safe":true"#,
        }],
        seed: Seed::Nothing,
        audit_rows: 1,
        succeeds: true,
        growth: Some(Growth { kind: Kind::AuditRows, rounds: 2000 }),
    },
    Operation {
        name: "handoff write",
        calls: &[Call {
            mark: "store_handoff(",
            arguments: &[
                "null", ":no", ":summary", ":list", ":list", ":list", ":list", ":list", ":object",
                ":quota",
            ],
            is_kept: false,
        }],
        floor: &["floor_write_handoff(:summary)"],
        requests: &[Request {
            method: "POST",
            path: "/handoffs/write",
            body: r#"{"agent_id":"{agent}","agent_type":"claude_code","summary":"The parser is done, its tests are missing"}"#,
            expected: r#""success":true"#,
        }],
        seed: Seed::Nothing,
        audit_rows: 1,
        succeeds: true,
        growth: Some(Growth { kind: Kind::Handoffs, rounds: 2000 }),
    },
    Operation {
        name: "/health",
        calls: &[],
        floor: &[],
        requests: &[Request { method: "GET", path: "/health", body: "", expected: "\"status\"" }],
        seed: Seed::Nothing,
        audit_rows: 0,
        succeeds: true,
        growth: None,
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A script that names a missing column would send the name itself, and the call would be refused.
    #[test]
    fn a_later_call_uses_only_columns_that_an_earlier_one_returns() {
        let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.sqlx");
        let statements = Statements::read(&queries).expect("the query data of the repository");
        let mut used = 0;
        for operation in ALL {
            let script = operation.transition(&statements).expect("the statements of the service");
            let Some((first, later)) = script.split_once("\\gset r_") else { continue };
            let (_, statement) = first.rsplit_once("select").expect("a statement");
            let returned = statement.split("from ").next().unwrap_or_default();
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            for column in later.split(":r_").skip(1) {
                let column = column.split(|letter| !is_word(letter)).next().unwrap_or_default();
                // The name of a column is the last word of its expression.
                let mut names = returned
                    .split(',')
                    .filter_map(|item| item.trim().rsplit(|letter| !is_word(letter)).next());
                assert!(names.any(|name| name == column), "no column {column} in {returned}");
                used += 1;
            }
        }
        assert!(used > 0, "no operation uses a column of an earlier call");
    }
}
