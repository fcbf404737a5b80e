//! Which request gets the next database connection: `docs/decisions/0022-shares-of-the-pool.md`.
//!
//! Invariants: a connection is not idle while a request waits that may use it; a connection that becomes free
//! goes to the waiting consumer that uses the fewest, and of those in turn; no consumer uses more than its share
//! beside others; one alone uses all connections but the one that is kept for others.
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::values::lock;

/// How long a consumer counts as present after it has asked for a connection. Shorter, and a busy workspace
/// would take all connections between two requests of another one.
pub(super) const PRESENCE: Duration = Duration::from_secs(1);

/// The smallest pool of which one connection is kept for others. Of fewer, it would be too large a part.
const SMALLEST_WITH_ONE_KEPT: usize = 4;

/// For whom a connection is used. The connections of each are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Consumer {
    /// The process, such as the sweep and the poll for all waiters. It is always served first, and uses one
    /// connection for each of these tasks.
    Service,
    /// The pages that report whether the database answers.
    Probes,
    /// All requests without a key.
    WithoutKey,
    /// Gathered calls for several workspaces.
    Gathered,
    /// The requests of a workspace.
    Workspace(Arc<str>),
}

impl Consumer {
    /// Returns the consumer that stands for a workspace.
    pub(crate) fn workspace(name: &str) -> Self {
        Self::Workspace(name.into())
    }

    /// Whether others share the pool with it. The service and probes use too few connections for that.
    fn can_be_present(&self) -> bool {
        !matches!(self, Self::Service | Self::Probes)
    }
}

/// Is told when a workspace that uses its share of the pool has to wait for another connection because others
/// are present.
pub(crate) trait ShareObserver: fmt::Debug + Send + Sync {
    fn waits_for_share(&self, workspace: &str);
}

/// The permits to use a connection of the pool.
#[derive(Debug)]
pub(super) struct Shares {
    state: Mutex<State>,
    observer: Arc<dyn ShareObserver>,
}

/// The permission to use a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    shares: Arc<Shares>,
    consumer: Consumer,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// How many connections a consumer uses at most beside others: half of them.
    share: usize,
    /// How many connections a consumer alone leaves to others.
    kept: usize,
    is_closed: bool,
    /// The last consumer that asked for a connection, and the last one before it that was another one, with the
    /// times.
    present: [Option<(Consumer, Instant)>; 2],
    /// How long a consumer stays present.
    presence: Duration,
    /// The number of turns that were given out.
    turns: u64,
    /// Those that use a connection or wait for one.
    consumers: HashMap<Consumer, Use>,
}

#[derive(Debug, Default)]
struct Use {
    used: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
    /// The place among consumers that wait and use equally many connections.
    turn: u64,
}

impl Shares {
    /// Creates the permits of a pool. A consumer counts as present for `presence`.
    pub(super) fn new(
        connections: usize,
        presence: Duration,
        observer: Arc<dyn ShareObserver>,
    ) -> Arc<Self> {
        let state = State {
            free: connections,
            share: (connections / 2).max(1),
            kept: usize::from(connections >= SMALLEST_WITH_ONE_KEPT),
            is_closed: false,
            present: [None, None],
            presence,
            turns: 0,
            consumers: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), observer })
    }

    /// Waits for a permit. Returns `None` once the pool is closed.
    pub(super) async fn acquire(self: &Arc<Self>, consumer: &Consumer) -> Option<Permit> {
        let (granted, is_beyond_share) = {
            let mut state = lock(&self.state);
            if state.is_closed {
                return None;
            }
            state.note_presence(consumer);
            if state.take(consumer) {
                return Some(self.permit(consumer.clone()));
            }
            (state.enqueue(consumer), state.is_beyond_share(consumer))
        };
        if is_beyond_share && let Consumer::Workspace(name) = consumer {
            self.observer.waits_for_share(name);
        }
        granted.await.ok()
    }

    /// Refuses every further permit, also to those that wait.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.consumers.values_mut().for_each(|it| it.waiting.clear());
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).is_closed
    }

    fn permit(self: &Arc<Self>, consumer: Consumer) -> Permit {
        Permit { shares: self.clone(), consumer }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut next = {
            let mut state = lock(&self.shares.state);
            state.give_back(&self.consumer);
            state.grant()
        };
        while let Some((waiting, consumer)) = next {
            // A request that has ended meanwhile gives its permit back, as this one is.
            drop(waiting.send(self.shares.permit(consumer)));
            next = lock(&self.shares.state).grant();
        }
    }
}

impl State {
    /// Takes a free connection, if there is one that the consumer may use. Whoever waits may not use it.
    fn take(&mut self, consumer: &Consumer) -> bool {
        let used = self.consumers.get(consumer).map_or(0, |it| it.used);
        if !self.may_take(consumer, used) {
            return false;
        }
        self.free -= 1;
        self.used_by(consumer).used += 1;
        true
    }

    fn may_take(&self, consumer: &Consumer, used: usize) -> bool {
        if *consumer == Consumer::Service || used < self.share {
            return self.free > 0;
        }
        self.free > self.kept && self.is_alone(consumer)
    }

    /// Notes that a consumer asks for a connection.
    fn note_presence(&mut self, consumer: &Consumer) {
        if !consumer.can_be_present() {
            return;
        }
        let now = Instant::now();
        match &mut self.present[0] {
            Some((last, at)) if last == consumer => *at = now,
            last => self.present[1] = last.replace((consumer.clone(), now)),
        }
    }

    /// Whether no other consumer uses or wants a connection, or did so a moment ago.
    fn is_alone(&self, consumer: &Consumer) -> bool {
        if self.consumers.keys().any(|other| other != consumer && other.can_be_present()) {
            return false;
        }
        let mut others = self.present.iter().flatten().filter(|(other, _)| other != consumer);
        others.all(|(_, at)| at.elapsed() >= self.presence)
    }

    fn used_by(&mut self, consumer: &Consumer) -> &mut Use {
        if !self.consumers.contains_key(consumer) {
            self.consumers.insert(consumer.clone(), Use::default());
        }
        self.consumers.get_mut(consumer).expect("it was just inserted")
    }

    fn enqueue(&mut self, consumer: &Consumer) -> oneshot::Receiver<Permit> {
        let (waiting, granted) = oneshot::channel();
        self.turns += 1;
        let turn = self.turns;
        let entry = self.used_by(consumer);
        if entry.waiting.is_empty() {
            entry.turn = turn;
        }
        entry.waiting.push_back(waiting);
        granted
    }

    /// Whether a consumer uses its share, and others are present.
    fn is_beyond_share(&self, consumer: &Consumer) -> bool {
        !self.is_alone(consumer)
            && self.consumers.get(consumer).is_some_and(|it| it.used >= self.share)
    }

    fn give_back(&mut self, consumer: &Consumer) {
        self.free += 1;
        if let Some(entry) = self.consumers.get_mut(consumer) {
            entry.used -= 1;
        }
    }

    /// Grants a free connection to the next request that waits and may use one. Forgets requests that have
    /// ended, and consumers without any.
    fn grant(&mut self) -> Option<(oneshot::Sender<Permit>, Consumer)> {
        self.consumers.retain(|_, entry| {
            while entry.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                entry.waiting.pop_front();
            }
            entry.used > 0 || !entry.waiting.is_empty()
        });
        let waiting = self.consumers.iter().filter(|(consumer, entry)| {
            !entry.waiting.is_empty() && self.may_take(consumer, entry.used)
        });
        let next = waiting.min_by_key(|(consumer, entry)| {
            (**consumer != Consumer::Service, entry.used, entry.turn)
        });
        let consumer = next?.0.clone();
        self.turns += 1;
        let turn = self.turns;
        let entry = self.used_by(&consumer);
        let waiting = entry.waiting.pop_front()?;
        entry.turn = turn;
        entry.used += 1;
        self.free -= 1;
        Some((waiting, consumer))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// Remembers the workspaces that had to wait.
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl ShareObserver for Told {
        fn waits_for_share(&self, workspace: &str) {
            lock(&self.0).push(workspace.to_owned());
        }
    }

    /// A pool whose consumers stay present for ever.
    fn shares(connections: usize) -> Arc<Shares> {
        Shares::new(connections, Duration::MAX, Arc::<Told>::default())
    }

    /// A pool whose consumers are forgotten at once, so that each is alone.
    fn forgetful_shares(connections: usize) -> Arc<Shares> {
        Shares::new(connections, Duration::ZERO, Arc::<Told>::default())
    }

    fn a() -> Consumer {
        Consumer::workspace("a")
    }

    fn b() -> Consumer {
        Consumer::workspace("b")
    }

    /// A request that has asked for a permit.
    struct Request(Pin<Box<dyn Future<Output = Option<Permit>>>>);

    impl Request {
        fn of(shares: &Arc<Shares>, consumer: &Consumer) -> Self {
            let (shares, consumer) = (shares.clone(), consumer.clone());
            let mut request = Self(Box::pin(async move { shares.acquire(&consumer).await }));
            assert!(request.granted().is_none(), "it has to wait");
            request
        }

        /// Returns the permit, once it is granted.
        fn granted(&mut self) -> Option<Permit> {
            match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(permit) => Some(permit.expect("the pool is open")),
                Poll::Pending => None,
            }
        }
    }

    fn take(shares: &Arc<Shares>, consumer: &Consumer) -> Permit {
        let acquired = pin!(shares.acquire(consumer));
        match acquired.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => permit.expect("the pool is open"),
            Poll::Pending => panic!("no connection is free for {consumer:?}"),
        }
    }

    fn take_all(shares: &Arc<Shares>, consumer: &Consumer, count: usize) -> Vec<Permit> {
        (0..count).map(|_| take(shares, consumer)).collect()
    }

    #[test]
    fn a_workspace_alone_uses_all_connections_but_the_one_kept_for_others() {
        let shares = forgetful_shares(10);
        let _nine = take_all(&shares, &a(), 9);
        let mut tenth = Request::of(&shares, &a());
        for other in [b(), Consumer::Service, Consumer::Probes, Consumer::WithoutKey] {
            drop(take(&shares, &other));
        }
        assert!(tenth.granted().is_none());
    }

    #[test]
    fn a_workspace_beside_another_one_uses_half_of_the_connections() {
        let shares = shares(10);
        drop(take(&shares, &b()));
        let mut of_a = take_all(&shares, &a(), 5);
        let mut sixth = Request::of(&shares, &a());
        let _of_b = take_all(&shares, &b(), 5);
        assert!(sixth.granted().is_none());
        drop(of_a.pop());
        assert!(sixth.granted().is_some());
    }

    #[test]
    fn who_was_alone_waits_once_another_one_is_present_and_is_alone_again_later() {
        let shares = shares(10);
        let mut of_a = take_all(&shares, &a(), 9);
        drop(take(&shares, &b()));
        let mut more = Request::of(&shares, &a());
        drop(of_a.split_off(5));
        assert!(more.granted().is_none(), "five are free");
        lock(&shares.state).presence = Duration::ZERO;
        drop(take(&shares, &Consumer::Probes));
        assert!(more.granted().is_some());
    }

    #[test]
    fn a_small_pool_keeps_no_connection_for_others() {
        for connections in 1..4 {
            let _all = take_all(&shares(connections), &a(), connections);
        }
    }

    #[test]
    fn what_becomes_free_goes_to_the_consumer_that_uses_the_fewest() {
        let shares = shares(10);
        let mut of_a = take_all(&shares, &a(), 9);
        let mut of_b = take_all(&shares, &b(), 1);
        let mut more_of_a: Vec<_> = (0..9).map(|_| Request::of(&shares, &a())).collect();
        let mut more_of_b: Vec<_> = (0..9).map(|_| Request::of(&shares, &b())).collect();
        for _ in 0..4 {
            drop(of_a.pop());
            of_b.push(more_of_b.remove(0).granted().expect("b uses fewer"));
        }
        assert_eq!((of_a.len(), of_b.len()), (5, 5), "a half each");
        drop(of_a.pop());
        of_a.push(more_of_a.remove(0).granted().expect("a uses fewer"));
        assert!(more_of_a[0].granted().is_none() && more_of_b[0].granted().is_none());
    }

    #[test]
    fn consumers_that_use_equally_many_take_turns() {
        let shares = shares(1);
        let mut permit = take(&shares, &b());
        let mut of_a: Vec<_> = (0..3).map(|_| Request::of(&shares, &a())).collect();
        let mut of_b: Vec<_> = (0..3).map(|_| Request::of(&shares, &b())).collect();
        for _ in 0..3 {
            for queue in [&mut of_a, &mut of_b] {
                drop(permit);
                permit = queue.remove(0).granted().expect("its turn");
            }
        }
    }

    #[test]
    fn the_service_is_served_first() {
        let shares = shares(2);
        let mut used = take_all(&shares, &Consumer::Service, 2);
        let mut of_a = Request::of(&shares, &a());
        let mut sweep = Request::of(&shares, &Consumer::Service);
        drop(used.pop());
        let _sweeping = sweep.granted().expect("first");
        assert!(of_a.granted().is_none());
        drop(used.pop());
        assert!(of_a.granted().is_some());
    }

    #[test]
    fn a_request_that_has_ended_is_passed_over_and_gives_back_what_it_got() {
        let shares = shares(1);
        let permit = take(&shares, &a());
        let (ended, granted) = (Request::of(&shares, &a()), Request::of(&shares, &a()));
        let mut last = Request::of(&shares, &a());
        drop(ended);
        drop(permit);
        assert!(last.granted().is_none(), "another one was granted the permit");
        drop(granted);
        drop(last.granted().expect("what the other one did not take"));
        assert!(lock(&shares.state).consumers.is_empty());
        assert_eq!(lock(&shares.state).free, 1);
    }

    #[test]
    fn only_a_workspace_with_its_share_beside_others_waits_for_its_share() {
        let told = Arc::<Told>::default();
        let shares = Shares::new(4, Duration::MAX, told.clone());
        let mut used = take_all(&shares, &a(), 3);
        let _alone = Request::of(&shares, &a());
        assert!(lock(&told.0).is_empty());
        let _of_b = take(&shares, &b());
        let (_a, _b) = (Request::of(&shares, &a()), Request::of(&shares, &b()));
        assert_eq!(*lock(&told.0), ["a"]);
        used.clear();
    }

    #[test]
    fn a_closed_pool_refuses_those_that_wait_and_those_that_come() {
        let shares = shares(1);
        let _used = take(&shares, &a());
        let mut waiting = Request::of(&shares, &a());
        shares.close();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(waiting.0.as_mut().poll(&mut cx), Poll::Ready(None)));
        assert!(matches!(pin!(shares.acquire(&b())).poll(&mut cx), Poll::Ready(None)));
        assert!(shares.is_closed());
    }
}
