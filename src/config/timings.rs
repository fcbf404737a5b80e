//! Time limits and intervals that operators cannot change and tests can.
use std::time::Duration;

/// The maximum age of an assignment or a suspension in memory:
/// `docs/api-design.md#trust`.
const STANDING_MAX_AGE: Duration = Duration::from_secs(5);

/// Time limits and intervals inside the process.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Timings {
    /// How long the standing of an agent is cached.
    pub standing_max_age: Duration,
    /// The shortest time between two heartbeats of one session that a replica writes:
    /// `docs/api-design.md#sessions`.
    pub heartbeat_interval: Duration,
    /// The time limit of a request that does not wait: `docs/api-design.md#limits`.
    pub request_time: Duration,
    /// The time limit of a request's body, from the end of its head. Prevents slow requests (Slowloris),
    /// which hold a connection by sending a byte now and then. A body of 1 MiB arrives in time at 1
    /// Mbit/s.
    pub body_time: Duration,
    /// How long a connection must have been stalled by its client before it can be closed for another
    /// one. Shorter, and a burst of new connections would close those whose requests are on the way. Longer,
    /// and new ones would have to wait while many clients do nothing.
    pub stall_time: Duration,
    /// The time between two sweeps of the server.
    pub sweep_interval: Duration,
}

impl Timings {
    /// Returns the timings for profiles that are cached for at most `profiles_max_age`.
    pub(super) fn new(profiles_max_age: Duration) -> Self {
        Self {
            standing_max_age: profiles_max_age.min(STANDING_MAX_AGE),
            heartbeat_interval: Duration::from_secs(10),
            request_time: Duration::from_secs(30),
            body_time: Duration::from_secs(10),
            stall_time: Duration::from_millis(100),
            sweep_interval: Duration::from_secs(30),
        }
    }
}
