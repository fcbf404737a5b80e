//! What a call of each operation may cost. `cargo test --test api costs::` prints the lines to put here
//! when the table and what it measures differ too much.

/// By how many percent a call may exceed what is stated here, except in what is exact. Less than half of
/// what is allowed fails too, so that the table keeps up with what becomes cheaper.
pub(super) const TOLERANCE: f64 = 25.0;

/// What the numbers mean, and whether they are exact.
pub(super) const COLUMNS: [(&str, bool); 7] = [
    ("round trips", true),
    ("buffers", false), // shared buffers hit or read
    ("WAL bytes", false),
    ("inserted", true), // rows; so are the next two
    ("updated", true),
    ("deleted", true),
    ("rows read", false), // rows read by sequential scans, and entries read by scans of indexes
];

/// A case, and a number for each column.
pub(super) type Limit = (&'static str, [u32; COLUMNS.len()]);

#[rustfmt::skip]
pub(super) const LIMITS: &[Limit] = &[
    //                                trips, buffers, WAL, inserted, updated, deleted, rows read
    ("acquire a free key",          [    1,   16,  953,    2,    0,    0,    1]),
    ("acquire a released key",      [    1,   20,  881,    1,    1,    0,    5]),
    ("refresh a lock",              [    1,   15,  602,    1,    1,    0,    4]),
    ("acquire a held key",          [    1,   11,  481,    1,    0,    0,    4]),
    ("release a lock",              [    1,   17,  609,    1,    1,    0,    4]),
    ("verify a lock",               [    1,    4,    0,    0,    0,    0,    2]),
    ("list 10 locks",               [    1,   22,    0,    0,    0,    0,   30]),
    ("submit a task",               [    1,   13, 1147,    2,    0,    0,    2]),
    ("claim 1 of 1,000 tasks",      [    1,   44, 1176,    1,    1,    0,   22]),
    ("claim of an empty queue",     [    1,   29,  426,    1,    0,    0,    3]),
    ("renew a claim",               [    1,   25,  972,    1,    1,    0,   10]),
    ("complete a task",             [    1,   21, 1182,    1,    1,    0,    7]),
    ("remember",                    [    1,   19, 2200,    2,    0,    0,    1]),
    ("remember again",              [    1,   14,  665,    1,    1,    0,    3]),
    ("recall among 1,000 memories", [    1,   34,    0,    0,    0,    0,   20]),
    ("check a harmless text",       [    1,    7,  506,    1,    0,    0,    1]),
    ("check a dangerous text",      [    1,   17, 1228,    3,    0,    0,    1]),
    ("write a handoff",             [    1,   11,  923,    2,    0,    0,    1]),
    ("read 1 of 20 handoffs",       [    1,    7,  473,    1,    0,    0,    2]),
    ("register a session",          [    1,   11,  882,    2,    0,    0,    0]),
    ("register it again",           [    1,   29,  905,    1,    2,    0,   19]),
    ("heartbeat that is not due",   [    1,    6,    0,    0,    0,    0,    2]),
    ("heartbeat that is due",       [    1,   25,  403,    0,    1,    0,   18]),
    ("allocate ports",              [    1,   16,  586,    2,    0,    0,    4]),
    ("check a policy",              [    1,    7,  594,    1,    0,    0,    1]),
];
