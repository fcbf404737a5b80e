//! Measures the cost of transitions among many rows. Invariants: the databases of all sizes exist together and
//! are measured in turn, each measurement on a fresh copy. The cost is that of warm connections.

use crate::{
    Result,
    cluster::{BASE, execute},
    figures::Figures,
    measure::{Bench, DATABASE},
    operations::{ALL, Growth, Operation, Seed, variables},
    pgbench::{self, Length, Run},
    results::Results,
};

/// The rows that an operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Locks,
    Tasks,
    Memories,
    Handoffs,
    AuditRows,
}

impl Kind {
    const ALL: [Kind; 5] =
        [Kind::Locks, Kind::Tasks, Kind::Memories, Kind::Handoffs, Kind::AuditRows];

    /// Returns the name of the rows in the report.
    fn name(self) -> &'static str {
        match self {
            Kind::Locks => "held locks",
            Kind::Tasks => "pending tasks",
            Kind::Memories => "memories",
            Kind::Handoffs => "handoffs",
            Kind::AuditRows => "audit entries",
        }
    }

    /// Returns the statements that insert the rows with these numbers.
    fn sql(self, first: u64, last: u64) -> String {
        let text = match self {
            Kind::Locks => include_str!("../growth/locks.sql"),
            Kind::Tasks => include_str!("../growth/tasks.sql"),
            Kind::Memories => include_str!("../growth/memories.sql"),
            Kind::Handoffs => include_str!("../growth/handoffs.sql"),
            Kind::AuditRows => include_str!("../growth/audit.sql"),
        };
        text.replace("{first}", &first.to_string()).replace("{last}", &last.to_string())
    }
}

/// Measures all chosen transitions, one kind of rows after the other.
pub(crate) async fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    for kind in Kind::ALL {
        let operations: Vec<(&'static Operation, Growth)> = ALL
            .iter()
            .filter(|it| bench.arguments.includes(it.name))
            .filter_map(|it| Some((it, it.growth.filter(|growth| growth.kind == kind)?)))
            .collect();
        if operations.is_empty() || bench.arguments.growth.is_empty() {
            continue;
        }
        for &rows in &bench.arguments.growth {
            seed(bench, kind, rows).await?;
        }
        for repetition in 1..=bench.arguments.repetitions {
            for &(operation, growth) in &operations {
                eprintln!("growth, repetition {repetition}: {}", operation.name);
                for &rows in &bench.arguments.growth {
                    let figures = among(bench, operation, growth, rows).await?;
                    results.add_grown(operation.name, kind.name(), rows, figures);
                }
            }
        }
        for &rows in &bench.arguments.growth {
            bench.cluster.drop(&template(rows)).await?;
        }
    }
    Ok(())
}

fn template(rows: u64) -> String {
    format!("grown_{rows}")
}

/// Creates a database with a number of rows, over two connections.
async fn seed(bench: &Bench<'_>, kind: Kind, rows: u64) -> Result<()> {
    eprintln!("growth: inserting {rows} {}", kind.name());
    let name = template(rows);
    bench.cluster.create(&name, BASE, "").await?;
    let url = bench.cluster.url(&name);
    let (first, second) = (kind.sql(1, rows / 2), kind.sql(rows / 2 + 1, rows));
    tokio::try_join!(execute(&url, &first), execute(&url, &second))?;
    execute(&url, "vacuum analyze").await
}

/// Measures a transition once. Its cost is the difference between a long and a short run, so that the cost of a
/// new connection cancels out.
async fn among(
    bench: &Bench<'_>,
    operation: &Operation,
    growth: Growth,
    rows: u64,
) -> Result<Figures> {
    let seed =
        if operation.seed == Seed::HeldLock { operation.seed.sql("", 0) } else { String::new() };
    bench.cluster.create(DATABASE, &template(rows), &seed).await?;
    let script = operation.transition(&bench.statements)?;
    let variables = variables(1);
    let run = async |rounds| {
        let run = Run {
            database: DATABASE,
            script: &script,
            variables: &variables,
            clients: 1,
            length: Length::Rounds(rounds),
            flushed: false,
        };
        pgbench::run(bench.cluster, &bench.scratch, &run).await
    };
    let few = growth.rounds / 10;
    // The first run loads the database into memory.
    run(few).await?;
    let (short, long) = (run(few).await?, run(few + growth.rounds).await?);
    bench.check_audit(operation).await?;
    let cost = |it: &Figures, rounds: u64| it.database_ms * rounds as f64;
    let difference = cost(&long, few + growth.rounds) - cost(&short, few);
    Ok(Figures { database_ms: difference / growth.rounds as f64, ..long })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_without_gap() {
        for kind in Kind::ALL {
            let sql = kind.sql(501, 1000);
            assert!(sql.contains("generate_series(501, 1000)"), "{sql}");
            assert!(!sql.contains('{') || !sql.contains("first}"), "{sql}");
        }
    }

    #[test]
    fn claims_leave_tasks_in_the_smallest_database() {
        for operation in &ALL {
            let Some(growth) = operation.growth else { continue };
            let claimed = growth.rounds + 3 * growth.rounds / 10;
            assert!(operation.name != "claim+complete" || claimed < 800, "{claimed} of 800");
        }
    }
}
