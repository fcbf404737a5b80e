//! The random choice of the steps of a sequence.
use serde_json::{Value, json};

use super::reference::{
    AGENTS, Ask, Caller, DESTRUCTIVE, Place, Queue, Report, SESSIONS, Status, Submission, Time,
    UNBOUND,
};
use crate::support::Dice;

/// How many requests of a sequence are in flight at once. Some add one or two more.
const AT_ONCE: usize = 5;

/// A request and the instance of the service that it goes to.
pub(super) type Request = (usize, Caller, Ask);

const KINDS: [&str; 4] = ["build", "test", "review", "evaluate"];

/// Chooses the steps of one sequence at random.
///
/// Each sequence draws its own agents and how often each kind of step occurs. Sequences of few agents and
/// few kinds of steps reach states that an even mixture hardly ever reaches.
pub(super) struct Chooser {
    dice: Dice,
    agents: Vec<usize>,
    /// The relative frequency of each kind of request.
    weights: [usize; 10],
    /// The percentage of steps in which time passes.
    pub(super) time: usize,
    /// The percentage of tasks with a deadline.
    deadlines: usize,
}

/// Submissions, claims, renewals, completions, cancellations, registrations, ends of sessions, clean-ups of
/// silent sessions, reads of a task and of the list.
const WEIGHTS: [usize; 10] = [25, 29, 9, 18, 5, 5, 3, 2, 2, 2];

impl Chooser {
    pub(super) fn new(seed: u64) -> Self {
        let agents = (0..AGENTS).collect();
        let mut dice =
            Self { dice: Dice::new(seed), agents, weights: WEIGHTS, time: 20, deadlines: 20 };
        if dice.hits(75) {
            dice.weights = WEIGHTS.map(|it| it * dice.roll(4));
            // Submissions and claims are needed in every sequence.
            (dice.weights[0], dice.weights[1]) = (WEIGHTS[0], WEIGHTS[1]);
            while dice.agents.len() > 2 && dice.hits(80) {
                let gone = dice.roll(dice.agents.len());
                dice.agents.remove(gone);
            }
            dice.time = dice.one_of(&[10, 25, 45]);
            dice.deadlines = dice.one_of(&[0, 20, 70]);
        }
        dice
    }

    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.dice.roll(sides as u64) as usize
    }

    /// True with this probability in percent.
    pub(super) fn hits(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.roll(from.len())].clone()) }
    }

    fn one_of<T: Clone>(&mut self, from: &[T]) -> T {
        self.pick(from).expect("something to choose from")
    }

    pub(super) fn caller(&mut self) -> Caller {
        let session = if self.hits(50) { self.pick(&SESSIONS) } else { None };
        let agents = self.agents.clone();
        Caller { agent: self.one_of(&agents), session }
    }

    /// The index of a weight, chosen in proportion to it.
    fn weighed(&mut self) -> usize {
        let mut left = self.roll(self.weights.iter().sum());
        let place = self.weights.iter().position(|weight| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        place.expect("less than all of them")
    }

    /// Any caller, often in a session that can end.
    fn worker(&mut self, queue: &Queue) -> Caller {
        let registered = if self.hits(50) { self.pick(&queue.sessions()) } else { None };
        registered.unwrap_or_else(|| self.caller())
    }

    /// A session, often one with a claim.
    fn session(&mut self, queue: &Queue) -> Caller {
        let claims = queue.tasks.iter().filter(|it| it.status.is_claimed());
        let claimants = claims.filter_map(|it| it.claim.as_ref()).map(|it| it.by);
        let claimants: Vec<_> = claimants.filter(|it| it.session.is_some()).collect();
        let claimant = if self.hits(50) { self.pick(&claimants) } else { None };
        let caller = claimant.unwrap_or_else(|| self.worker(queue));
        Caller { session: caller.session.or(Some(SESSIONS[0])), ..caller }
    }

    pub(super) fn submission(&mut self, queue: &Queue) -> Submission {
        let count = queue.tasks.len();
        let mut depends_on = Vec::new();
        while count > 0 && depends_on.len() < 3 && self.hits(35) {
            depends_on.push(Some(self.roll(count)));
        }
        if self.hits(2) {
            depends_on.push(None);
        }
        let over: Vec<_> = (0..count)
            .filter(|it| matches!(queue.tasks[*it].status, Status::Failed | Status::Cancelled))
            .collect();
        let mut replaces = None;
        // A task that depends on the one that it replaces would wait for itself. One invalid member is enough.
        if depends_on.is_empty() {
            let over = if self.hits(30) { self.pick(&over) } else { None };
            replaces = over.map(Some);
            if self.hits(2) {
                replaces = Some((count > 0 && self.hits(50)).then(|| self.roll(count)));
            }
        }
        Submission {
            kind: self.one_of(&KINDS),
            is_destructive: self.hits(5),
            author: if self.hits(20) { Some(self.caller().agent) } else { None },
            priority: if self.hits(30) { None } else { Some(self.one_of(&[1, 4, 5, 6, 10])) },
            depends_on,
            min_trust: if self.hits(15) { Some(self.one_of(&[0, 2, 3, 4])) } else { None },
            archetype: if self.hits(15) { Some(self.one_of(&["rust", "go"])) } else { None },
            unique_key: if self.hits(25) { Some(self.one_of(&["k-1", "k-2"])) } else { None },
            max_attempts: self.one_of(&[1, 2, 2, 3]),
            retries: self.hits(50),
            has_deadline: self.hits(self.deadlines),
            is_for_later: self.hits(10),
            replaces,
        }
    }

    fn report(&mut self) -> Report {
        let result = match self.roll(12) {
            0 => json!({ "command": DESTRUCTIVE }),
            1..5 => Value::Null,
            it => json!({ "passed": it }),
        };
        let error = if self.hits(30) { json!("flaky") } else { Value::Null };
        Report { success: self.hits(60), result, error }
    }

    /// A caller that acts on a task, and its token: mostly the claimant, with the right token or none. `old`
    /// are tokens of earlier claims of any task.
    fn claimant(&mut self, queue: &Queue, old: &[String]) -> (Caller, Place, Option<String>) {
        let claimed: Vec<_> =
            (0..queue.tasks.len()).filter(|it| queue.tasks[*it].status.is_claimed()).collect();
        let chosen = if self.hits(80) { self.pick(&claimed) } else { None };
        let chosen = chosen.or_else(|| {
            (!queue.tasks.is_empty() && self.hits(97)).then(|| self.roll(queue.tasks.len()))
        });
        let claim = chosen.and_then(|it| queue.tasks[it].claim.as_ref());
        let mut caller = match claim {
            Some(claim) if self.hits(88) => claim.by,
            _ => self.caller(),
        };
        if self.hits(15) {
            caller.session = if self.hits(50) { self.pick(&SESSIONS) } else { None };
        }
        let token = match self.roll(16) {
            0 => self.pick(old),
            1 => Some("c_wrong".to_owned()),
            2..6 => None,
            _ => claim.map(|it| it.token.clone()),
        };
        (caller, chosen, token)
    }

    fn completion(&mut self, queue: &Queue, old: &[String]) -> (Caller, Ask) {
        let done: Vec<_> =
            (0..queue.tasks.len()).filter(|it| queue.tasks[*it].completion().is_some()).collect();
        let repeated = if self.hits(25) { self.pick(&done) } else { None };
        if let Some(task) = repeated
            && let Some((mut caller, report)) = queue.tasks[task].completion()
        {
            let mut report = report.clone();
            match self.roll(10) {
                0 => caller = self.caller(),
                1 => caller.session = self.pick(&SESSIONS),
                2 => report = self.report(),
                _ => {}
            }
            let token = self.pick(old).filter(|_| self.hits(30));
            return (caller, Ask::Complete { task: Some(task), token, report });
        }
        let (caller, task, token) = self.claimant(queue, old);
        (caller, Ask::Complete { task, token, report: self.report() })
    }

    pub(super) fn request(&mut self, queue: &Queue, old: &[String]) -> (Caller, Ask) {
        let caller = self.worker(queue);
        let any = (!queue.tasks.is_empty() && self.hits(95)).then(|| self.roll(queue.tasks.len()));
        let minutes = if self.hits(50) { None } else { Some(self.one_of(&[30, 90, 600])) };
        let mut kind = self.weighed();
        // Without claimed tasks, few renewals and completions are useful.
        let is_idle = queue.tasks.iter().all(|it| !it.status.is_claimed());
        if matches!(kind, 2 | 3) && is_idle && self.hits(70) {
            kind = 1;
        }
        match kind {
            0 => (caller, Ask::Submit(self.submission(queue))),
            1 => {
                let kinds = match self.roll(10) {
                    0 => Some(vec![]),
                    1 => Some(vec![self.one_of(&KINDS)]),
                    2 => Some(vec!["build", "review"]),
                    _ => None,
                };
                (caller, Ask::Claim { kinds, minutes })
            }
            2 => {
                let (caller, task, token) = self.claimant(queue, old);
                (caller, Ask::Renew { task, token, minutes })
            }
            3 => self.completion(queue, old),
            4 => (caller, Ask::Cancel { task: any, reason: self.pick(&["why"]) }),
            5 => {
                let capabilities: &[&[&str]] = &[&[], &["rust"], &["go", "c"]];
                let capabilities = self.one_of(capabilities);
                (self.session(queue), Ask::Register { capabilities })
            }
            6 if self.hits(90) => match self.pick(&queue.sessions()) {
                Some(registered) => (registered, Ask::Deregister),
                None => (self.session(queue), Ask::Register { capabilities: &[] }),
            },
            6 => (self.session(queue), Ask::Deregister),
            7 => {
                let chief = Caller { agent: self.roll(AGENTS - UNBOUND) + UNBOUND, session: None };
                (chief, if self.hits(50) { Ask::CleanUp } else { Ask::Maintain })
            }
            // Reads name no session, because their heartbeats are not part of the model.
            8 => (Caller { session: None, ..caller }, Ask::Get { task: any }),
            _ => {
                let status = self.pick(&["pending", "claimed", "failed", "completed"]);
                let ask = Ask::List {
                    status: status.filter(|_| self.hits(50)),
                    claimed_by: Some(self.roll(AGENTS)).filter(|_| self.hits(50)),
                    limit: self.one_of(&[2, 500]),
                };
                (Caller { session: None, ..caller }, ask)
            }
        }
    }

    /// The possible effects of time now.
    pub(super) fn moment(&mut self, queue: &Queue) -> Option<Time> {
        let mut possible: Vec<_> = queue.live_sessions().into_iter().map(Time::Silences).collect();
        possible.extend(possible.clone());
        for (place, task) in queue.tasks.iter().enumerate() {
            if task.status.is_claimed() && task.claim.as_ref().is_some_and(|it| it.is_held) {
                possible.extend([Time::EndsLease(place); 3]);
            }
            if task.status == Status::Pending && task.is_early {
                possible.extend([Time::MakesDue(place); 2]);
            }
            if !task.status.is_final() && task.has_deadline_ahead() {
                possible.push(Time::PassesDeadline(place));
            }
        }
        self.pick(&possible)
    }

    /// Concurrent requests, each with its instance. `said` counts reports.
    pub(super) fn requests(
        &mut self,
        queue: &Queue,
        old: &[String],
        said: &mut u32,
    ) -> Vec<Request> {
        let mut requests = Vec::new();
        for _ in 0..AT_ONCE - self.roll(3) {
            let (caller, mut ask) = if queue.tasks.is_empty() {
                (self.caller(), Ask::Submit(self.submission(queue)))
            } else {
                self.request(queue, old)
            };
            // Makes every completion different.
            if let Ask::Complete { report, .. } = &mut ask {
                *said += 1;
                report.error = json!(format!("report {said}"));
            }
            requests.push((self.roll(2), caller, ask));
        }
        // One request is sent twice, to any instance.
        let (instance, caller, ask) = self.one_of(&requests);
        requests.push((1 - instance, caller, ask));
        // A submission can depend on a task that is being completed.
        let completed = requests.iter().find_map(|(_, _, ask)| match ask {
            Ask::Complete { task, .. } => *task,
            _ => None,
        });
        if let Some(task) = completed {
            let dependent = Submission {
                kind: KINDS[0],
                depends_on: vec![Some(task)],
                max_attempts: 1,
                ..Submission::default()
            };
            requests.push((self.roll(2), self.caller(), Ask::Submit(dependent)));
        }
        requests
    }
}
