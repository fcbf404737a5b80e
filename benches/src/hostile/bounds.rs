//! What the service is to keep to while it is attacked.

use std::fmt::Write as _;

use super::{
    attacks::Attack::{self, AuditSearch, SlowHeads, UnreadAnswers, Waiters},
    witness::Times,
};
use crate::{Result, figures::quantile, table};

/// A bound of a figure.
struct Bound {
    name: &'static str,
    of: fn(&Phase) -> f64,
    /// The attacks to which it applies, or empty for all.
    attacks: &'static [Attack],
    /// More is reported.
    wanted: f64,
    /// More is a failure. The distance is what the load of a machine can explain.
    most: f64,
}

/// The bounds.
const BOUNDS: [Bound; 4] = [
    Bound {
        name: "peak memory in MB",
        of: |it| it.peak_mb,
        attacks: &[],
        wanted: 150.0,
        most: 150.0,
    },
    Bound {
        name: "p95 of /live in ms",
        of: |it| quantile(&it.attacked.probes, 0.95),
        attacks: &[],
        wanted: 100.0,
        most: 1000.0,
    },
    Bound {
        name: "p95 of calls, times that of the quiet service",
        of: |it| it.slowdown(0.95),
        attacks: &[UnreadAnswers, SlowHeads, Waiters],
        wanted: 2.0,
        most: 10.0,
    },
    Bound {
        name: "median of calls, times that of the quiet service",
        of: |it| it.slowdown(0.5),
        attacks: &[AuditSearch],
        wanted: 3.0,
        most: 10.0,
    },
];

/// A quiet service that is faster counts as this slow, in milliseconds: chance multiplies small figures.
const FASTEST: f64 = 10.0;

/// What was seen of an attack.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) attack: Attack,
    /// How much the attacker has done.
    pub(super) done: usize,
    pub(super) quiet: Times,
    pub(super) attacked: Times,
    /// The agents' calls that failed.
    pub(super) failures: Vec<String>,
    pub(super) peak_mb: f64,
    /// The limits that were reached.
    pub(super) limits: String,
    /// How the process has ended.
    pub(super) ended: Option<String>,
}

impl Phase {
    fn slowdown(&self, share: f64) -> f64 {
        quantile(&self.attacked.calls, share) / quantile(&self.quiet.calls, share).max(FASTEST)
    }

    /// Returns what was wrong, whatever the bounds.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(status) = &self.ended {
            problems.push(format!("the process has ended: {status}"));
        }
        if let Some(first) = self.failures.first() {
            let count = self.failures.len();
            problems.push(format!("{count} calls of agents failed, the first: {first}"));
        }
        if self.done == 0 {
            problems.push(format!("the attack had no effect: no {}", self.attack.unit()));
        }
        if self.quiet.calls.is_empty() || self.attacked.calls.is_empty() {
            problems.push("the agents made no calls".to_owned());
        }
        problems
    }

    /// Returns the bounds that were missed, with the figures.
    fn missed(&self, limit: fn(&Bound) -> f64) -> Vec<String> {
        let applies = |it: &&Bound| it.attacks.is_empty() || it.attacks.contains(&self.attack);
        let missed = BOUNDS.iter().filter(applies).filter(|it| (it.of)(self) > limit(it));
        missed.map(|it| format!("{}: {:.1}, bound {}", it.name, (it.of)(self), limit(it))).collect()
    }
}

/// Returns the table of all attacks, and the bounds that were missed but are no failure.
pub(super) fn report(phases: &[Phase]) -> String {
    let head = [
        "attack",
        "attacker",
        "limits reached",
        "calls",
        "p50 quiet",
        "p50",
        "p95 quiet",
        "p95",
        "/live p95",
        "/live worst",
        "peak MB",
    ];
    let row = |it: &Phase| {
        let ms = |times: &[f64], share| format!("{:.0}", quantile(times, share));
        vec![
            it.attack.name(),
            format!("{} {}", it.done, it.attack.unit()),
            it.limits.clone(),
            it.attacked.calls.len().to_string(),
            ms(&it.quiet.calls, 0.5),
            ms(&it.attacked.calls, 0.5),
            ms(&it.quiet.calls, 0.95),
            ms(&it.attacked.calls, 0.95),
            ms(&it.attacked.probes, 0.95),
            ms(&it.attacked.probes, 1.0),
            format!("{:.0}", it.peak_mb),
        ]
    };
    let rows: Vec<Vec<String>> = phases.iter().map(row).collect();
    let mut text = table::markdown(&head, 3, &rows);
    text += "\nTimes in ms: of the calls of agents in another workspace, and of /live over new connections.\n";
    for phase in phases {
        for missed in phase.missed(|it| it.wanted) {
            let _ = writeln!(text, "missed, {}: {missed}", phase.attack.name());
        }
    }
    text
}

/// Fails with what was wrong.
pub(super) fn judge(phases: &[Phase]) -> Result<()> {
    let mut text = String::new();
    for phase in phases {
        for problem in phase.problems().into_iter().chain(phase.missed(|it| it.most)) {
            let _ = write!(text, "\n{}: {problem}", phase.attack.name());
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    Err(format!("the service did not withstand the attacks:{text}").into())
}

/// Returns the limits in `/metrics` that were reached, with their counts.
pub(super) fn reached(metrics: &str) -> String {
    let limit = |line: &str| {
        let rest = line.strip_prefix("coordinator_limits_reached_total{limit=\"")?;
        let (name, count) = rest.split_once("\"} ")?;
        (count != "0").then(|| format!("{name} {count}"))
    };
    metrics.lines().filter_map(limit).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(attack: Attack) -> Phase {
        let times = Times { calls: vec![5.0; 100], probes: vec![1.0; 100] };
        Phase {
            attack,
            done: 1,
            quiet: times.clone(),
            attacked: times,
            failures: Vec::new(),
            peak_mb: 50.0,
            limits: String::new(),
            ended: None,
        }
    }

    #[test]
    fn a_service_that_an_attack_does_not_touch_passes() {
        assert!(judge(&[phase(Waiters), phase(AuditSearch)]).is_ok());
    }

    #[test]
    fn each_bound_applies_to_its_attacks() {
        let slow = |attack| {
            let mut phase = phase(attack);
            phase.attacked.calls = vec![150.0; 100];
            judge(&[phase])
        };
        let problem = slow(Waiters).expect_err("fifteen times as slow").to_string();
        assert!(problem.contains("waiters: p95 of calls"), "{problem}");
        let problem = slow(AuditSearch).expect_err("fifteen times as slow").to_string();
        assert!(problem.contains("audit-search: median of calls"), "{problem}");
        assert!(slow(Attack::LargeRows).is_ok());
    }

    #[test]
    fn what_noise_can_explain_is_only_reported() {
        let mut phase = phase(Attack::LargeRows);
        phase.attacked.probes = vec![400.0; 100];
        let phases = [phase];
        assert!(judge(&phases).is_ok());
        assert!(
            report(&phases).contains("missed, large-rows: p95 of /live in ms: 400.0, bound 100")
        );
    }

    #[test]
    fn failed_calls_an_ended_process_and_an_attack_without_effect_are_failures() {
        let mut phase = phase(Waiters);
        phase.failures = vec!["status 503".to_owned()];
        phase.ended = Some("signal: 9".to_owned());
        phase.peak_mb = f64::INFINITY;
        phase.done = 0;
        let problem = judge(&[phase]).expect_err("four failures").to_string();
        for part in ["status 503", "signal: 9", "inf, bound 150", "no requests"] {
            assert!(problem.contains(part), "{part} in {problem}");
        }
    }

    #[test]
    fn limits_that_were_not_reached_are_left_out() {
        let metrics = "# TYPE coordinator_limits_reached_total counter\n\
            coordinator_limits_reached_total{limit=\"head_time\"} 0\n\
            coordinator_limits_reached_total{limit=\"waiting_per_key\"} 12\n";
        assert_eq!(reached(metrics), "waiting_per_key 12");
    }
}
