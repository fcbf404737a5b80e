//! The law that a rule is stated once, in the function that owns it.
use super::sql::{Sql, functions, queries_for_operators, statements, tokens};

/// A rule that several statements need.
struct Rule {
    name: &'static str,
    /// Whether a text states the rule.
    states: fn(&[String]) -> bool,
    /// The functions that may state it.
    owners: &'static [&'static str],
    /// Texts that repeat the rule, and below them one that only resembles it.
    repeats: &'static [&'static str],
    resembles: &'static str,
}

const RULES: [Rule; 7] = [
    Rule {
        name: "whether a lock or a block of ports is in force",
        states: |sql| compares(sql, &["expires_at"], &ORDER),
        owners: &["is_live_with_session", "is_live"],
        repeats: &[
            "select from file_lock l where l.expires_at > now()",
            "select clock_timestamp() >= least(expires_at, $1)",
            "select from port_block where expires_at - now() > '0'",
            "select from file_lock where expires_at between $1 and $2",
        ],
        resembles: "update file_lock set expires_at = at + ttl where token > 1 and key = $1",
    },
    Rule {
        name: "whether a session is live, idle or lost",
        states: |sql| {
            compares(sql, &["last_heartbeat_at", "revived_at"], &ORDER)
                || compares(sql, &["ended_at"], &[&ORDER[..], &["is"]].concat())
        },
        owners: &[
            "is_session_live",
            "session_status",
            "is_live_with_session",
            "is_heartbeat_due",
            // Selects a session that has not ended.
            "deregister_session",
            // Use the indexes of sessions, which are ordered by the last heartbeat or by their end.
            "end_silent_sessions",
            "record_agent_heartbeat",
            "mark_agent_alive",
            "delete_old_sessions",
            // Uses the index of sessions that have not ended, to list their workspaces.
            "workspaces_to_sweep",
        ],
        repeats: &[
            "select from agent_session where ended_at is null",
            "select now() - interval '1 minute' > s.last_heartbeat_at from agent_session s",
            "select case when revived_at > locked_at then 1 end",
        ],
        resembles: "select from agent_session order by last_heartbeat_at desc, ended_at limit 1",
    },
    Rule {
        name: "whether a claim has ended or a task has failed",
        states: |sql| compares(sql, &["claim_expires_at", "deadline", "available_at"], &ORDER),
        owners: &[
            "is_claim_expired",
            "is_claim_renewal_due",
            "is_eligible",
            "task_expiry_reason",
            // Use indexes that are ordered by these times.
            "overdue_tasks",
            "update_overdue_task",
            // Checks the deadline of a task that is not stored yet.
            "check_submission",
        ],
        repeats: &[
            "select from work_task where claim_expires_at < now()",
            "select coalesce(t.deadline, 'infinity') <= $2 from work_task t",
            "select from work_task where $1 > available_at",
        ],
        resembles: "select greatest(deadline, claim_expires_at), attempt >= max_attempts from work_task",
    },
    Rule {
        name: "whether a task may be taken",
        states: |sql| {
            compares(sql, &["needed_trust"], &ORDER)
                || compares(sql, &["authored_by"], &[&ORDER[..], &["=", "<>", "is"]].concat())
                || sql.iter().any(|it| it == "'evaluate'")
        },
        owners: &[
            "is_claimable",
            "is_eligible",
            // Use the indexes of ready tasks, one level of trust at a time.
            "claimable_tasks",
            "claimable_tasks_of_archetypes",
        ],
        repeats: &[
            "select from work_task where needed_trust <= $1",
            "select from work_task t where t.authored_by is distinct from $1",
            "select from work_task where task_type in ('evaluate', 'review')",
        ],
        resembles: "select needed_trust, authored_by from work_task where needed_trust = $1",
    },
    Rule {
        name: "whether a position in a queue counts",
        states: |sql| compares(sql, &["alive_until"], &ORDER),
        owners: &["is_waiter_alive"],
        repeats: &["delete from lock_waiter where alive_until + interval '1 minute' < now()"],
        resembles: "update lock_waiter set alive_until = now() where id = $1",
    },
    Rule {
        name: "how a lock is freed",
        states: |sql| {
            sql.windows(3).any(|it| it == ["agent_id", "=", "null"])
                || sql.windows(3).any(|it| it == ["delete", "from", "file_lock"])
        },
        owners: &[
            "free_unchanged_lock",
            // Deletes keys that are free.
            "delete_free_keys",
        ],
        repeats: &["update file_lock l set agent_id = null", "delete from file_lock where true"],
        resembles: "update file_lock set reason = null where agent_id is null",
    },
    Rule {
        name: "how a session ends and is revived",
        states: |sql| sql.windows(2).any(|it| it == ["ended_at", "="]),
        owners: &["end_session", "revive_session"],
        repeats: &["update agent_session s set last_heartbeat_at = at, ended_at = at"],
        resembles: "select is_session_live(ended_at, last_heartbeat_at, session_timeout, at)",
    },
];

const ORDER: [&str; 5] = ["<", "<=", ">", ">=", "between"];

/// Statements that may state a rule although they are not part of a function, each with its reason.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Whether one of these columns is an operand of one of these comparisons.
fn compares(sql: &[String], columns: &[&str], comparisons: &[&str]) -> bool {
    let is_column = |it: &String| columns.contains(&it.as_str());
    let comparisons = (0..sql.len()).filter(|n| comparisons.contains(&sql[*n].as_str()));
    comparisons.into_iter().any(|n| {
        let before: Vec<String> = sql[..n].iter().rev().cloned().collect();
        operand(&before, ")", "(").iter().any(is_column)
            || operand(&sql[n + 1..], "(", ")").iter().any(is_column)
    })
}

/// The tokens of an operand, starting at the comparison. `open` is the parenthesis that begins a group in
/// this direction.
fn operand<'a>(sql: &'a [String], open: &str, close: &str) -> &'a [String] {
    let ends = [
        "and",
        "or",
        "not",
        "where",
        "when",
        "then",
        "else",
        "end",
        "case",
        "on",
        "set",
        "select",
        "from",
        "return",
        "if",
        "while",
        "into",
        "is",
        "in",
        "order",
        "limit",
        "for",
        "loop",
        "using",
        "returning",
        ",",
        ";",
        ":=",
        "=",
        "<",
        "<=",
        ">",
        ">=",
        "<>",
        "between",
        "$",
    ];
    let mut depth = 0;
    for (n, token) in sql.iter().enumerate() {
        if token == open {
            depth += 1;
        } else if token == close {
            depth -= 1;
        }
        if depth < 0 || (depth == 0 && ends.contains(&token.as_str())) {
            return &sql[..n];
        }
    }
    sql
}

fn all() -> impl Iterator<Item = Sql> {
    functions().into_iter().chain(statements()).chain(queries_for_operators())
}

#[test]
fn a_rule_is_stated_only_by_the_functions_that_own_it() {
    let mut repeated = Vec::new();
    for sql in all() {
        let is_exempt = EXCEPTIONS.iter().any(|(text, _)| sql.text.trim_start().starts_with(text));
        let read = tokens(&sql.text);
        for rule in RULES {
            let owned = rule.owners.contains(&sql.name.as_str());
            if !owned && !is_exempt && (rule.states)(&read) {
                repeated.push(format!("{sql} repeats {}: ask {:?}", rule.name, rule.owners));
            }
        }
    }
    assert!(repeated.is_empty(), "{repeated:#?}");
}

#[test]
fn every_owner_of_a_rule_states_it_and_every_exception_is_needed() {
    let functions = functions();
    for rule in RULES {
        for owner in rule.owners {
            let function = functions.iter().find(|it| it.name == *owner);
            let function = function.unwrap_or_else(|| panic!("there is no function {owner}"));
            assert!((rule.states)(&tokens(&function.text)), "{owner} does not state {}", rule.name);
        }
    }
    let statements = statements();
    for (text, reason) in EXCEPTIONS {
        let found = statements.iter().any(|it| it.text.trim_start().starts_with(text));
        assert!(found, "{text} is not there: {reason}");
    }
}

#[test]
fn a_repeated_rule_is_recognised() {
    for rule in RULES {
        for text in rule.repeats {
            assert!((rule.states)(&tokens(text)), "{}: {text}", rule.name);
        }
        assert!(!(rule.states)(&tokens(rule.resembles)), "{}: {}", rule.name, rule.resembles);
    }
}
