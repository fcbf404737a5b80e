//! Times that are constants for operators and that tests change.
use std::time::Duration;

/// The longest time for which an assignment or a suspension can be out of date:
/// `docs/api-design.md#trust`.
const STANDING_MAX_AGE: Duration = Duration::from_secs(5);

/// Time limits and intervals inside the process.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Timings {
    /// How long the standing of an agent is kept in memory.
    pub standing_max_age: Duration,
    /// The shortest time between two heartbeats of one session that a replica writes:
    /// `docs/api-design.md#sessions`.
    pub heartbeat_interval: Duration,
    /// The time limit of a request that does not wait: `docs/api-design.md#limits`.
    pub request_time: Duration,
    /// The time limit of a request's body, from the end of its head. At the limit of 1 MiB that is a
    /// line of 1 Mbit/s. Without it, a client could hold a connection by sending a byte now and then.
    pub body_time: Duration,
    /// The time between two sweeps of the server.
    pub sweep_interval: Duration,
}

impl Timings {
    /// Returns the timings where profiles are kept in memory for at most `profiles_max_age`.
    pub(super) fn new(profiles_max_age: Duration) -> Self {
        Self {
            standing_max_age: profiles_max_age.min(STANDING_MAX_AGE),
            heartbeat_interval: Duration::from_secs(10),
            request_time: Duration::from_secs(30),
            body_time: Duration::from_secs(10),
            sweep_interval: Duration::from_secs(30),
        }
    }
}
