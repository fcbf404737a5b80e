//! When what happens in a soak.

use std::time::Duration;

/// What happens at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Rows become old and are deleted.
    Maintenance,
    /// A server is stopped and started.
    Restart,
    /// The figures are taken.
    Measurement,
}

/// The schedule of a soak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// The time between two deletions: a thirtieth of the soak.
    pub(crate) period: Duration,
}

/// The periods of a soak, the number of those before the first measurement, and those between two restarts.
const PERIODS: u32 = 30;
const WARM_UP: u32 = 5;
const PERIODS_PER_RESTART: u32 = 3;

impl Schedule {
    /// Returns the schedule of a soak of that many minutes.
    pub(crate) fn of(minutes: u64) -> Schedule {
        Schedule { period: Duration::from_secs(60 * minutes) / PERIODS }
    }

    /// Returns the time of the first measurement.
    pub(crate) fn warm_up(&self) -> Duration {
        self.period * WARM_UP
    }

    /// Returns the end, which is the time of the last measurement.
    pub(crate) fn end(&self) -> Duration {
        self.period * PERIODS
    }

    /// Returns the events in order. No restart falls into a period whose figures are taken.
    pub(crate) fn events(&self) -> Vec<(Duration, Event)> {
        let mut events = Vec::new();
        for n in 1..=PERIODS {
            let end = self.period * n;
            if n % PERIODS_PER_RESTART == 1 {
                events.push((end - self.period / 2, Event::Restart));
            }
            events.push((end, Event::Maintenance));
            if n == WARM_UP || n == PERIODS {
                events.push((end, Event::Measurement));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_hour_has_a_measurement_after_five_minutes_and_one_at_the_end() {
        let events = Schedule::of(30).events();
        let at = |kind| -> Vec<u64> {
            events.iter().filter(|it| it.1 == kind).map(|it| it.0.as_secs()).collect()
        };
        assert_eq!(at(Event::Measurement), [300, 1800]);
        assert_eq!(at(Event::Restart).len(), 10);
        assert!(events.is_sorted_by_key(|it| it.0), "{events:?}");
    }
}
