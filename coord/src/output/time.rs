//! Timestamps relative to now.
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;

/// Returns a timestamp of the service relative to now, such as `in 29 min` or `3 min ago`. `None`
/// if the text is not a timestamp.
pub(crate) fn relative_time(timestamp: &str) -> Option<String> {
    let seconds = DateTime::parse_from_rfc3339(timestamp).ok()?.timestamp();
    Some(describe_distance(seconds - now()))
}

/// Returns the seconds between now and the date in a header of HTTP, negative if it is past.
/// `None` if the text is not such a date.
pub(crate) fn seconds_from_now(date: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc2822(date).ok()?.timestamp() - now())
}

#[expect(clippy::disallowed_methods, reason = "for display alone; nothing is decided by it")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn describe_distance(seconds: i64) -> String {
    let size = seconds.unsigned_abs();
    let amount = match size {
        0..2 => return "now".to_owned(),
        2..90 => format!("{size} s"),
        90..5400 => format!("{} min", (size + 30) / 60),
        5400..129_600 => format!("{} h", (size + 1800) / 3600),
        _ => format!("{} days", (size + 43_200) / 86_400),
    };
    match seconds > 0 {
        true => format!("in {amount}"),
        false => format!("{amount} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_relative_to_now() {
        for (seconds, text) in [
            (0, "now"),
            (-1, "now"),
            (59, "in 59 s"),
            (-180, "3 min ago"),
            (1799, "in 30 min"),
            (7200, "in 2 h"),
            (-172_800, "2 days ago"),
        ] {
            assert_eq!(describe_distance(seconds), text);
        }
        assert_eq!(relative_time("yesterday"), None);
    }
}
