//! A line of progress, so that a long search is not taken for a program that hangs.
use std::{sync::mpsc, thread, time::Duration};

use crate::output::console::Output;

/// How long a search is silent.
const SILENCE: Duration = Duration::from_secs(1);

/// Runs `act`, and prints a line if that takes longer than a second.
pub(super) fn reported<T>(line: &str, output: Output, act: impl FnOnce() -> T) -> T {
    with_notice(SILENCE, || output.print_problem(line), act)
}

/// Runs `act`, and calls `notify` once if that takes longer than `silence`.
fn with_notice<T>(silence: Duration, notify: impl FnOnce() + Send, act: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || {
            if is_done.recv_timeout(silence) == Err(mpsc::RecvTimeoutError::Timeout) {
                notify();
            }
        });
        let result = act();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_search_is_reported_and_a_short_one_is_not() {
        let (sender, receiver) = mpsc::channel();
        let notify = move || sender.send(()).unwrap();
        // The search ends only after it was reported.
        let done = with_notice(Duration::ZERO, notify, || receiver.recv().is_ok());
        assert!(done);
        let never = Duration::from_secs(3600);
        assert_eq!(with_notice(never, || panic!("it is done"), || 7), 7);
    }
}
