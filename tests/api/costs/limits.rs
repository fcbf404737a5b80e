//! What a call of each operation may cost. `cargo test --test api costs::` prints the lines to copy here
//! when the measured costs differ too much from the table.

/// By how many percent a call may exceed these numbers, except in exact columns. A call that costs less
/// than half fails too, so that the table follows improvements.
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
    ("acquire a free key",          [    1,   20,  953,    2,    0,    0,    1]),
    ("acquire a key without a session", [    1,   20,  952,    2,    0,    0,    1]),
    ("acquire a released key",      [    1,   22,  881,    1,    1,    0,    5]),
    ("refresh a lock",              [    1,   15,  602,    1,    1,    0,    4]),
    ("acquire a held key",          [    1,   11,  481,    1,    0,    0,    4]),
    ("release a lock",              [    1,   17,  697,    1,    1,    0,    4]),
    ("verify a lock",               [    1,    6,    0,    0,    0,    0,    2]),
    ("list 10 locks",               [    1,   22,    0,    0,    0,    0,   30]),
    ("status of a lock",            [    1,    4,    0,    0,    0,    0,    3]),
    ("free a lock of another",      [    1,   20,  784,    1,    1,    0,    6]),
    ("submit a task",               [    1,   16, 1219,    2,    0,    0,    2]),
    ("claim 1 of 1,000 tasks",      [    1,   45, 1260,    1,    1,    0,   24]),
    ("claim of an empty queue",     [    1,   33,  426,    1,    0,    0,    2]),
    ("renew a claim",               [    1,   25, 1044,    1,    1,    0,   10]),
    ("complete a task",             [    1,   22, 1311,    1,    1,    0,    6]),
    ("fail a task",                 [    1,   20, 1286,    1,    1,    0,    6]),
    ("cancel a task",               [    1,   18,  947,    1,    1,    0,    4]),
    ("submit 10 tasks",             [    1,  168,12955,   21,    0,    0,    2]),
    ("claim 10 of 1,000 tasks",     [    1,  420,12352,   10,   10,    0,  323]),
    ("complete 10 tasks",           [    1,  296,12931,   10,   10,    0,  140]),
    ("look at a task",              [    1,   10,    0,    0,    0,    0,    1]),
    ("list 10 of 1,000 tasks",      [    1,   18,    0,    0,    0,    0, 1001]),
    ("remember",                    [    1,   24, 3589,    2,    0,    0,    1]),
    ("remember again",              [    1,   16,  664,    1,    1,    0,    3]),
    ("recall among 1,000 memories", [    1,  133,    0,    0,    0,    0,  140]),
    ("check a harmless text",       [    1,    7,  505,    1,    0,    0,    1]),
    ("check a dangerous text",      [    1,   17, 1227,    3,    0,    0,    1]),
    ("write a handoff",             [    1,   14, 1003,    2,    0,    0,    1]),
    ("read 1 of 20 handoffs",       [    1,    7,  473,    1,    0,    0,    2]),
    ("register a session",          [    1,   22,  961,    2,    0,    0,    0]),
    ("register it again",           [    1,   39,  986,    1,    2,    0,   19]),
    ("heartbeat that is not due",   [    1,    6,    0,    0,    0,    0,    2]),
    ("heartbeat that is due",       [    1,   25,  482,    0,    1,    0,   18]),
    ("allocate ports",              [    1,   16,  586,    2,    0,    0,    4]),
    ("release ports",               [    1,   15,  538,    1,    0,    1,    4]),
    ("list a block of ports",       [    1,    4,    0,    0,    0,    0,    2]),
    ("check a policy",              [    1,    7,  593,    1,    0,    0,    1]),
    ("check a domain",              [    1,    9,  377,    1,    0,    0,    6]),
    ("end a session that holds a lock", [    1,   50, 1490,    2,    3,    0,   20]),
    ("list 2 agents",               [    1,    2,    0,    0,    0,    0,    2]),
    ("latest of 20 handoffs",       [    1,    7,  473,    1,    0,    0,    2]),
    ("own profile",                 [    0,    0,    0,    0,    0,    0,    0]),
    ("list guardrail patterns",     [    3,    4,    0,    0,    0,    0,   16]),
    ("list keys",                   [    1,    5,  409,    1,    0,    0,    0]),
    ("1 of 100 audit entries",      [    1,    8,    0,    0,    0,    0,    2]),
    ("assign a profile",            [    1,   20,  603,    1,    1,    0,    6]),
    ("clean up nothing",            [    1,    7,  602,    1,    0,    0,    0]),
    ("run maintenance of nothing",  [    1,   17,  730,    1,    0,    0,    0]),
];
