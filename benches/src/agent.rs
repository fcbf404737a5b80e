//! An agent that works as agents do: it repeats the calls of a round at a steady pace, over connections that it
//! keeps for a while, and checks every answer.

use std::time::{Duration, Instant};

use crate::{
    Result,
    load::{Connection, Members, Sender, message},
    operations::Request,
};

/// The keys of an agent's locks and memories repeat after this number of rounds, so that their rows do too.
const KEYS: u64 = 100;

/// The pause before a call is repeated.
const RETRY: Duration = Duration::from_millis(100);

/// An agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: String,
    /// The API key.
    pub(crate) key: &'static str,
    /// The port of the service.
    pub(crate) port: u16,
    /// The calls, which the agent repeats in this order.
    pub(crate) round: &'static [Request],
    /// The number of calls after which the agent opens another connection.
    pub(crate) calls_per_connection: usize,
    /// How long the agent repeats a call with the same idempotency key while the service is away. Absent for an
    /// agent that sends no such keys.
    pub(crate) patience: Option<Duration>,
    pub(crate) state: State,
}

/// Where an agent is in its work.
#[derive(Debug, Default)]
pub(crate) struct State {
    connection: Option<Connection>,
    /// The number of calls that the agent has begun.
    calls: usize,
    /// How often the agent has repeated a call.
    pub(crate) repeated: usize,
    previous: Members,
}

impl Agent {
    /// Makes the next call of the round.
    ///
    /// # Errors
    /// Tells what was wrong with the answer, or that there was none.
    pub(crate) async fn call(&mut self) -> Result<()> {
        let (request, number) = self.advance();
        let key = number as u64 / self.round.len() as u64 % KEYS;
        let idempotency = match self.patience {
            Some(_) => format!("Idempotency-Key: {}-{number}\r\n", self.name),
            None => String::new(),
        };
        let (name, previous) = (self.name.clone(), self.state.previous.clone());
        let sender = Sender { port: self.port, key: self.key, agent: &name, headers: &idempotency };
        let body = self.answer(&message(request, &sender, key, &previous)).await?;
        request.check(&body)?;
        self.state.previous = Members::of(&body);
        Ok(())
    }

    /// Returns the next request with the number of its call. Leaves out what completes a task if there was none to
    /// claim, because other agents claim too.
    fn advance(&mut self) -> (&'static Request, usize) {
        loop {
            let number = self.state.calls;
            self.state.calls += 1;
            if number.is_multiple_of(self.calls_per_connection) {
                self.state.connection = None;
            }
            let request = &self.round[number % self.round.len()];
            if !request.body.contains("{task_id}") || !self.state.previous.task_id.is_empty() {
                return (request, number);
            }
        }
    }

    /// Sends a message until it is answered with 200, or patience ends.
    async fn answer(&mut self, message: &str) -> Result<String> {
        let started = Instant::now();
        loop {
            let problem = match self.exchange(message).await {
                Ok(body) => return Ok(body),
                Err(problem) => problem,
            };
            if started.elapsed() >= self.patience.unwrap_or_default() {
                return Err(format!("{}: {problem}", self.name).into());
            }
            self.state.repeated += 1;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends a message once. The connection is kept only if the answer is complete and says so.
    async fn exchange(&mut self, message: &str) -> Result<String> {
        let mut connection = match self.state.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.port).await?,
        };
        let answer = connection.exchange(message.as_bytes()).await?;
        if !answer.is_last {
            self.state.connection = Some(connection);
        }
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.body).into());
        }
        Ok(answer.body)
    }
}

/// The calls of ordinary work on a task.
pub(crate) const WORK: [Request; 7] = [
    Request {
        method: "POST",
        path: "/locks/acquire",
        body: r#"{"file_path":"src/{agent}/{key}.rs","agent_id":"{agent}","agent_type":"claude_code"}"#,
        expected: r#""action":"acquired""#,
    },
    Request {
        method: "POST",
        path: "/locks/release",
        body: r#"{"file_path":"src/{agent}/{key}.rs","agent_id":"{agent}"}"#,
        expected: r#""success":true"#,
    },
    Request {
        method: "POST",
        path: "/work/submit",
        body: r#"{"task_type":"implement","task_description":"Write part {key} of the parser and its tests","agent_id":"{agent}","agent_type":"claude_code"}"#,
        expected: r#""success":true"#,
    },
    Request {
        method: "POST",
        path: "/work/claim",
        body: r#"{"agent_id":"{agent}","agent_type":"claude_code"}"#,
        expected: r#""success":"#,
    },
    Request {
        method: "POST",
        path: "/work/complete",
        body: r#"{"task_id":"{task_id}","claim_token":"{claim_token}","agent_id":"{agent}","success":true,"result":{"files":3}}"#,
        expected: r#""success":true"#,
    },
    Request {
        method: "POST",
        path: "/memory/store",
        body: r#"{"agent_id":"{agent}","event_type":"decision","summary":"Chose the parser of the library, number {key}"}"#,
        expected: r#""success":true"#,
    },
    Request {
        method: "POST",
        path: "/memory/query",
        body: r#"{"agent_id":"{agent}","query":"parser library","scope":"workspace","limit":10}"#,
        expected: r#""memories":"#,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(round: &'static [Request]) -> Agent {
        Agent {
            name: "a".to_owned(),
            key: "k",
            port: 1,
            round,
            calls_per_connection: 3,
            patience: None,
            state: State::default(),
        }
    }

    #[test]
    fn a_task_is_completed_only_if_one_was_claimed() {
        let mut agent = agent(&WORK);
        let paths =
            |agent: &mut Agent| -> Vec<&str> { (0..6).map(|_| agent.advance().0.path).collect() };
        assert!(!paths(&mut agent).contains(&"/work/complete"));
        agent.state.previous.task_id = "t".to_owned();
        assert!(paths(&mut agent).contains(&"/work/complete"));
    }

    #[test]
    fn calls_are_numbered_without_repetition() {
        let mut agent = agent(&WORK);
        let numbers: Vec<usize> = (0..20).map(|_| agent.advance().1).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    #[tokio::test]
    async fn a_service_that_is_away_is_an_error_that_names_the_agent() {
        let problem = agent(&WORK).call().await.expect_err("nothing listens on port 1");
        assert!(problem.to_string().starts_with("a: "), "{problem}");
    }
}
