//! Takes the measurements of a run. Invariant: floor, transition and HTTP of an operation follow one another in
//! every repetition, so that other load on the machine affects all of them alike.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Result,
    arguments::{Arguments, Part},
    cluster::{BASE, Cluster},
    compare,
    figures::Figures,
    growth, load,
    machine::{self, Facts},
    operations::{ALL, Operation, Request, Seed, variables},
    pgbench::{self, Length, Run},
    results::{Results, Way},
    service::Service,
    statements::Statements,
    usage,
};

/// The folder of a run.
const FOLDER: &str = "target/bench";

/// The database of the current measurement.
pub(crate) const DATABASE: &str = "run";

/// How long the memory of a service must not grow before the service counts as idle.
const IDLE_AFTER: Duration = Duration::from_millis(500);

/// Takes all chosen measurements. Returns the facts about the machine with the results.
pub(crate) async fn run(arguments: &Arguments) -> Result<(Facts, Results)> {
    let folder = std::path::absolute(FOLDER)?;
    let cluster = Cluster::start(&folder.join("postgres")).await?;
    let measured = run_on(arguments, &cluster, &folder).await;
    cluster.stop().await?;
    measured
}

async fn run_on(
    arguments: &Arguments,
    cluster: &Cluster,
    folder: &Path,
) -> Result<(Facts, Results)> {
    cluster.prepare().await?;
    let bench = Bench {
        arguments,
        cluster,
        statements: Statements::read(Path::new(".sqlx"))?,
        scratch: folder.join("pgbench"),
    };
    let facts = machine::facts(cluster, arguments).await?;
    let mut results = Results::default();
    for repetition in 1..=arguments.repetitions {
        for operation in ALL.iter().filter(|it| arguments.includes(it.name)) {
            eprintln!("repetition {repetition}: {}", operation.name);
            bench.measure(operation, &mut results).await?;
        }
        if arguments.has(Part::Http) {
            results.idle_mb.push(bench.idle_memory().await?);
        }
        if let Some(other) = &arguments.compare {
            eprintln!("repetition {repetition}: comparison with {}", other.name);
            compare::repetition(&bench, other, &mut results).await?;
        }
    }
    growth::measure(&bench, &mut results).await?;
    Ok((facts, results))
}

/// The parts that all measurements of a run share.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) cluster: &'a Cluster,
    pub(crate) statements: Statements,
    /// The folder of pgbench's script and logs.
    pub(crate) scratch: PathBuf,
}

impl Bench<'_> {
    /// Measures an operation once in every way and at every concurrency.
    async fn measure(&self, operation: &'static Operation, results: &mut Results) -> Result<()> {
        for &clients in &self.arguments.concurrencies {
            if self.arguments.has(Part::Floor)
                && let Some(script) = operation.floor()
            {
                let figures = self.by_pgbench(operation, &script, clients).await?;
                results.add(operation.name, Way::Floor, clients, figures);
            }
            if self.arguments.has(Part::Transition) && !operation.calls.is_empty() {
                let script = operation.transition(&self.statements)?;
                let figures = self.by_pgbench(operation, &script, clients).await?;
                results.add(operation.name, Way::Transition, clients, figures);
            }
            if self.arguments.has(Part::Http) {
                for (way, gathers) in [(Way::Http, false), (Way::Gathered, true)] {
                    let figures = self.over_http(operation, clients, gathers).await?;
                    results.add(operation.name, way, clients, figures);
                }
            }
        }
        Ok(())
    }

    async fn by_pgbench(
        &self,
        operation: &Operation,
        script: &str,
        clients: usize,
    ) -> Result<Figures> {
        self.cluster
            .create(DATABASE, BASE, &operation.seed.sql("bench", self.arguments.seconds))
            .await?;
        let run = Run {
            database: DATABASE,
            script,
            variables: &variables(clients),
            clients,
            length: Length::Seconds(self.arguments.seconds),
            flushed: true,
        };
        let figures = pgbench::run(self.cluster, &self.scratch, &run).await?;
        self.check_audit(operation).await?;
        Ok(figures)
    }

    async fn over_http(
        &self,
        operation: &'static Operation,
        clients: usize,
        gathers: bool,
    ) -> Result<Figures> {
        self.cluster.create(DATABASE, BASE, "").await?;
        let dsn = self.cluster.url(DATABASE);
        let service = Service::start(&self.arguments.coordinator, &dsn, gathers, "/health").await?;
        let version = self.guard_version(operation, &service).await?;
        crate::cluster::execute(&dsn, &operation.seed.sql(&version, self.arguments.seconds))
            .await?;

        self.load(&service, operation.requests, clients).await
    }

    /// Sends requests to a service, and measures CPU time and memory meanwhile.
    pub(crate) async fn load(
        &self,
        service: &Service,
        requests: &'static [Request],
        clients: usize,
    ) -> Result<Figures> {
        let length = Duration::from_secs(self.arguments.seconds);
        let (database, own) = (self.cluster.pid()?, std::process::id());
        let before = (usage::cpu_of_tree(database)?, usage::cpu(service.pid())?, usage::cpu(own)?);
        let started = Instant::now();
        let rounds = load::run(requests, service.port, clients, length).await?;
        let elapsed = started.elapsed();
        let after = (usage::cpu_of_tree(database)?, usage::cpu(service.pid())?, usage::cpu(own)?);
        let each = |used: Duration| 1000.0 * used.as_secs_f64() / rounds.count() as f64;
        Ok(Figures {
            database_ms: each(after.0 - before.0),
            service_ms: each(after.1 - before.1),
            client_ms: each(after.2 - before.2),
            memory_mb: usage::memory(service.pid())?,
            ..Figures::of(&rounds, length.min(elapsed))?
        })
    }

    /// Measures the memory of a service that answers only `/health`.
    async fn idle_memory(&self) -> Result<f64> {
        self.cluster.create(DATABASE, BASE, "").await?;
        let dsn = self.cluster.url(DATABASE);
        let service = Service::start(&self.arguments.coordinator, &dsn, true, "/health").await?;
        let mut most = 0.0;
        let mut since = Instant::now();
        while since.elapsed() < IDLE_AFTER {
            let now = usage::memory(service.pid())?;
            if now > most {
                (most, since) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(most)
    }

    /// Returns the version of the guardrail patterns of the service. Inserted tasks must have that version, or a
    /// claim scans them again.
    async fn guard_version(&self, operation: &Operation, service: &Service) -> Result<String> {
        if operation.seed != Seed::Tasks {
            return Ok(String::new());
        }
        let submit =
            ALL.iter().find(|it| it.name == "submit").ok_or("the operation `submit` is missing")?;
        load::run(submit.requests, service.port, 1, Duration::from_millis(20)).await?;
        self.cluster.text(DATABASE, "select max(guard_version) from work_task").await
    }

    /// Checks that the rounds have left audit rows, and that all have the expected outcome.
    pub(crate) async fn check_audit(&self, operation: &Operation) -> Result<()> {
        let count =
            format!("select count(*) from audit_log where success = {}", operation.succeeds);
        let (all, right) = (
            self.cluster.number(DATABASE, "select count(*) from audit_log").await?,
            self.cluster.number(DATABASE, &count).await?,
        );
        if all != right || (operation.audit_rows > 0 && all == 0) {
            return Err(format!(
                "{}: {} of {all} audit rows have the wrong outcome",
                operation.name,
                all - right
            )
            .into());
        }
        Ok(())
    }
}
