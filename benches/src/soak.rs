//! The soak: runs two servers on one database for half an hour, at a moderate load, and compares memory,
//! connections and sizes at the end with those after a sixth of the time. `make soak` runs it.
//!
//! One server runs all the time. The other one is restarted again and again, by SIGTERM and by SIGKILL in turn. The
//! agents open new connections now and then, and repeat a call with its idempotency key while a server is away.
//! Every call must be answered with 200 in the end.
//!
//! A steady state needs retention, which takes days. So in every period, a statement makes rows as old as they
//! must be, and the service deletes them as it does for an operator: `POST /maintenance/run`.

mod growth;
mod schedule;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use managed_postgres::{Server, throwaway};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{
    Result,
    agent::{Agent, State, WORK},
    arguments::Soak,
    cluster::{execute, text},
    load::{self, Members, Sender},
    operations::Request,
    service::{KEY, Service, free_port},
    usage,
};

use self::{
    growth::{Sample, Sizes},
    schedule::{Event, Schedule},
};

/// The number of agents at each server, and the time between two calls of an agent.
const AGENTS: usize = 4;
const PACE: Duration = Duration::from_millis(125);

/// How long an agent repeats a call while its server is restarted. The other server must answer the first time.
const PATIENCE: Duration = Duration::from_secs(60);

const CALLS_PER_CONNECTION: usize = 50;

/// The time between two readings of memory and connections.
const READING: Duration = Duration::from_secs(1);

/// The key of an administrator. [`KEY`] is that of the agents.
const ADMIN_KEY: &str = "bench-key-of-an-administrator";
const IDENTITIES: &str = r#"{
    "bench-key-of-one-run": {},
    "bench-key-of-an-administrator": {"agent_id": "operator", "agent_type": "strands", "profile": "strands_orchestrator"}
}"#;

/// The page that a server answers as soon as it accepts requests.
const READY: &str = "/live";

/// Make rows that are older than a period older than retention keeps them. What other tables have is kept for months,
/// or for ever.
const AGE: [&str; 4] = [
    "update idempotency_key set created_at = created_at - interval '2 days'
    where created_at between now() - interval '1 day' and now() - interval '{period}'",
    "update work_task set completed_at = completed_at - interval '400 days'
    where completed_at between now() - interval '1 day' and now() - interval '{period}'",
    "update agent_session set ended_at = ended_at - interval '31 days'
    where ended_at between now() - interval '1 day' and now() - interval '{period}'",
    "update session_loss set lost_at = lost_at - interval '8 days'
    where lost_at between now() - interval '1 day' and now() - interval '{period}'",
];

const MAINTAIN: Request =
    Request { method: "POST", path: "/maintenance/run", body: "{}", expected: r#""success":true"# };

/// The calls of an agent: a session, and its work.
const ROUND: [Request; 11] = {
    let [acquire, release, submit, claim, complete, remember, recall] = WORK;
    let register = Request {
        method: "POST",
        path: "/discovery/register",
        body: r#"{"agent_id":"{agent}","agent_type":"claude_code","session_id":"{agent}-{key}"}"#,
        expected: r#""success":true"#,
    };
    let check = Request {
        method: "POST",
        path: "/guardrails/check",
        body: r#"{"operation_text":"git push --force origin main","agent_id":"{agent}","agent_type":"claude_code"}"#,
        expected: r#""safe":"#,
    };
    let hand_off = Request {
        method: "POST",
        path: "/handoffs/write",
        body: r#"{"agent_id":"{agent}","agent_type":"claude_code","summary":"Part {key} is done, its tests are missing"}"#,
        expected: r#""success":true"#,
    };
    let deregister = Request {
        method: "POST",
        path: "/discovery/deregister",
        body: r#"{"agent_id":"{agent}","session_id":"{agent}-{key}"}"#,
        expected: r#""success":true"#,
    };
    [
        register, acquire, release, submit, claim, complete, remember, recall, check, hand_off,
        deregister,
    ]
};

/// Runs the soak, and prints a table. Fails if a call failed or a figure has grown too much.
pub(crate) async fn run(arguments: &Soak) -> Result<()> {
    let database = throwaway::private().await?;
    let soak = Running::start(&arguments.coordinator, &database).await?;
    let finished = soak.run(&Schedule::of(arguments.minutes)).await;
    database.stop().await;
    finished
}

/// A running soak.
struct Running<'a> {
    program: &'a Path,
    dsn: String,
    steady: Service,
    /// Absent while it is restarted.
    restarted: Option<Service>,
    restarted_port: u16,
    restarts: usize,
    agents: JoinSet<Result<()>>,
    counts: Arc<Counts>,
}

/// What the agents have done.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicUsize,
    repeated: AtomicUsize,
    is_over: AtomicBool,
}

impl<'a> Running<'a> {
    async fn start(program: &'a Path, database: &Server) -> Result<Running<'a>> {
        let dsn = database.url("postgres");
        let restarted_port = free_port()?;
        let mut running = Running {
            program,
            steady: start(program, &dsn, free_port()?).await?,
            restarted: Some(start(program, &dsn, restarted_port).await?),
            dsn,
            restarted_port,
            restarts: 0,
            agents: JoinSet::new(),
            counts: Arc::default(),
        };
        for (port, patience) in [(running.steady.port, Duration::ZERO), (restarted_port, PATIENCE)]
        {
            for n in 0..AGENTS {
                let agent = Agent {
                    name: format!("agent-{n}-{port}"),
                    key: KEY,
                    port,
                    round: &ROUND,
                    calls_per_connection: CALLS_PER_CONNECTION,
                    patience: Some(patience),
                    state: State::default(),
                };
                running.agents.spawn(work(agent, running.counts.clone()));
            }
        }
        Ok(running)
    }

    async fn run(mut self, schedule: &Schedule) -> Result<()> {
        let started = Instant::now();
        let (mut samples, mut measured) = (Vec::new(), Vec::new());
        for (at, event) in schedule.events() {
            while started.elapsed() < at {
                samples.push((started.elapsed(), self.sample().await?));
                self.check_agents()?;
                sleep(READING.min(at.saturating_sub(started.elapsed()))).await;
            }
            match event {
                Event::Restart => self.restart().await?,
                Event::Maintenance => self.maintain(schedule.period).await?,
                Event::Measurement => {
                    samples.retain(|(taken, _)| *taken + schedule.period >= at);
                    measured.push((Sample::median(&samples), Sizes::read(&self.dsn).await?));
                }
            }
        }
        self.finish().await?;
        let [(before, sizes_before), (after, sizes_after)] = &measured[..] else {
            return Err("the schedule does not have two measurements".into());
        };
        let mut figures = before.compare(after);
        figures.extend(sizes_before.compare(sizes_after));
        println!("{}", growth::report(&figures, schedule));
        growth::judge(&figures)
    }

    async fn sample(&self) -> Result<Sample> {
        let pid = self.steady.pid();
        let count = "select count(*)::text from pg_stat_activity where application_name = 'agent-coordinator'";
        Ok(Sample {
            memory_mb: usage::memory(pid)?,
            sockets: usage::sockets(pid)? as f64,
            database_connections: text(&self.dsn, count).await?.parse()?,
        })
    }

    /// Fails if an agent has ended.
    fn check_agents(&mut self) -> Result<()> {
        match self.agents.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and(Err("an agent has ended early".into())),
        }
    }

    /// Stops the one server, by SIGTERM and SIGKILL in turn, and starts it again on its port.
    async fn restart(&mut self) -> Result<()> {
        let service = self.restarted.take().ok_or("the server has already been stopped")?;
        if self.restarts.is_multiple_of(2) {
            service.terminate().await?;
        } else {
            drop(service); // kills it
        }
        self.restarts += 1;
        self.restarted = Some(start(self.program, &self.dsn, self.restarted_port).await?);
        Ok(())
    }

    /// Makes rows old, lets the service delete them, and makes their room free.
    async fn maintain(&self, period: Duration) -> Result<()> {
        let period = format!("{} seconds", period.as_secs());
        for statement in AGE {
            execute(&self.dsn, &statement.replace("{period}", &period)).await?;
        }
        let sender =
            Sender { port: self.steady.port, key: ADMIN_KEY, agent: "operator", headers: "" };
        while load::request(&MAINTAIN, &sender, &Members::default())
            .await?
            .contains("\"more\":true")
        {}
        execute(&self.dsn, "vacuum analyze").await
    }

    /// Lets the agents end their calls, and prints what was done.
    async fn finish(&mut self) -> Result<()> {
        self.counts.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.agents.join_next().await {
            ended??;
        }
        let (calls, repeated) = (
            self.counts.calls.load(Ordering::Relaxed),
            self.counts.repeated.load(Ordering::Relaxed),
        );
        println!("{calls} calls, {repeated} of them repeated, {} restarts", self.restarts);
        Ok(())
    }
}

async fn start(program: &Path, dsn: &str, port: u16) -> Result<Service> {
    let variables = [
        ("COORDINATION_API_KEYS", ""),
        ("COORDINATION_API_KEY_IDENTITIES", IDENTITIES),
        ("RUST_LOG", "error"),
    ];
    Service::start_with(program, dsn, port, &variables, READY).await
}

/// Makes calls at a steady pace. What is late is made up for, so that their number does not depend on the load of the
/// machine.
async fn work(mut agent: Agent, counts: Arc<Counts>) -> Result<()> {
    let mut pace = interval(PACE);
    while !counts.is_over.load(Ordering::Relaxed) {
        pace.tick().await;
        agent.call().await?;
        counts.calls.fetch_add(1, Ordering::Relaxed);
    }
    counts.repeated.fetch_add(agent.state.repeated, Ordering::Relaxed);
    Ok(())
}
