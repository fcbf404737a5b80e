//! The figures of a soak, and whether they have grown.

use std::{fmt::Write as _, time::Duration};

use crate::{
    Result,
    cluster::{rows, text},
    figures::median,
    table,
};

use super::schedule::Schedule;

/// How much a figure may grow.
const ALLOWED: f64 = 0.20;

/// What a figure may grow anyway: chance moves small figures by more than a share of them.
const SLACK_MB: f64 = 2.0;
const SLACK_CONNECTIONS: f64 = 4.0;
const SLACK_KB: f64 = 256.0;
const SLACK_BYTES: f64 = 16.0;

/// The tables that only grow in such a time. What is compared is the size of a row.
const KEPT: [&str; 5] = ["audit_log", "guardrail_violation", "handoff", "memory", "network_log"];

/// The smallest table or group of indexes that is shown, in bytes.
const SHOWN: f64 = 64.0 * 1024.0;

/// A reading while the agents work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Resident memory of the server that is not restarted.
    pub(super) memory_mb: f64,
    /// Its sockets: those of its clients, and its connections to the database.
    pub(super) sockets: f64,
    /// The connections that the database has from both servers.
    pub(super) database_connections: f64,
}

impl Sample {
    /// Returns the median of each figure of readings with their times.
    pub(super) fn median(all: &[(Duration, Sample)]) -> Sample {
        let of = |get: fn(&Sample) -> f64| median(all.iter().map(|(_, it)| get(it)));
        Sample {
            memory_mb: of(|it| it.memory_mb),
            sockets: of(|it| it.sockets),
            database_connections: of(|it| it.database_connections),
        }
    }

    pub(super) fn compare(&self, after: &Sample) -> Vec<Figure> {
        let figure = |name: &str, unit, slack, get: fn(&Sample) -> f64| Figure {
            name: name.to_owned(),
            unit,
            before: get(self),
            after: get(after),
            slack,
        };
        vec![
            figure("memory of the server", "MB", SLACK_MB, |it| it.memory_mb),
            figure("sockets of the server", "", SLACK_CONNECTIONS, |it| it.sockets),
            figure("connections of PostgreSQL", "", SLACK_CONNECTIONS, |it| {
                it.database_connections
            }),
        ]
    }
}

/// The sizes of all tables.
#[derive(Debug)]
pub(super) struct Sizes(Vec<Size>);

#[derive(Clone, Debug)]
struct Size {
    table: String,
    rows: f64,
    /// Bytes of the table, with long values.
    table_bytes: f64,
    /// Bytes of its indexes.
    index_bytes: f64,
}

impl Sizes {
    /// Reads the sizes of the tables, each with its partitions.
    pub(super) async fn read(dsn: &str) -> Result<Sizes> {
        let statement = "
            select c.relname || ' ' || sum(pg_table_size(leaf.id)) || ' ' || sum(pg_indexes_size(leaf.id))
            from pg_class c cross join lateral (
                select c.oid where c.relkind = 'r'
                union all
                select relid from pg_partition_tree(c.oid) where isleaf and c.relkind = 'p') leaf (id)
            where c.relkind in ('r', 'p') and not c.relispartition
                and c.relnamespace = 'public'::regnamespace
            group by c.relname
            order by c.relname";
        let mut sizes = Vec::new();
        for line in rows(dsn, statement).await? {
            let [table, table_bytes, index_bytes] = line.split(' ').collect::<Vec<_>>()[..] else {
                return Err(format!("the size of a table was expected in `{line}`").into());
            };
            let rows = text(dsn, &format!("select count(*)::text from {table}")).await?;
            sizes.push(Size {
                table: table.to_owned(),
                rows: rows.parse()?,
                table_bytes: table_bytes.parse()?,
                index_bytes: index_bytes.parse()?,
            });
        }
        Ok(Sizes(sizes))
    }

    /// Compares the tables and indexes that are large enough at the end.
    pub(super) fn compare(&self, after: &Sizes) -> Vec<Figure> {
        let mut figures = Vec::new();
        for after in &after.0 {
            let Some(before) = self.0.iter().find(|it| it.table == after.table) else { continue };
            let of_table: fn(&Size) -> f64 = |it| it.table_bytes;
            for (what, get) in [("table", of_table), ("indexes", |it: &Size| it.index_bytes)] {
                if get(after) >= SHOWN {
                    figures.push(before.compare(after, what, get));
                }
            }
        }
        figures
    }
}

impl Size {
    fn compare(&self, after: &Size, what: &str, get: fn(&Size) -> f64) -> Figure {
        let name = format!("{}, {what}", self.table);
        if KEPT.contains(&self.table.as_str()) {
            let each = |size: &Size| get(size) / size.rows.max(1.0);
            let (before, after) = (each(self), each(after));
            return Figure { name, unit: "B/row", before, after, slack: SLACK_BYTES };
        }
        let (before, after) = (get(self) / 1024.0, get(after) / 1024.0);
        Figure { name, unit: "kB", before, after, slack: SLACK_KB }
    }
}

/// A figure after the warm-up and at the end.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    name: String,
    unit: &'static str,
    before: f64,
    after: f64,
    /// By how much the figure may grow, however small it is.
    slack: f64,
}

impl Figure {
    fn has_grown(&self) -> bool {
        self.after - self.before > (ALLOWED * self.before).max(self.slack)
    }
}

/// Returns the table of all figures.
pub(super) fn report(figures: &[Figure], schedule: &Schedule) -> String {
    let minutes = |time: Duration| format!("{:.1} min", time.as_secs_f64() / 60.0);
    let (before, after) = (minutes(schedule.warm_up()), minutes(schedule.end()));
    let row = |it: &Figure| {
        vec![
            it.name.clone(),
            it.unit.to_owned(),
            format!("{:.1}", it.before),
            format!("{:.1}", it.after),
            format!("{:+.0} %", 100.0 * (it.after - it.before) / it.before.max(f64::MIN_POSITIVE)),
            if it.has_grown() { "too much".to_owned() } else { String::new() },
        ]
    };
    let rows: Vec<Vec<String>> = figures.iter().map(row).collect();
    table::markdown(&["figure", "unit", &before, &after, "growth", ""], 2, &rows)
}

/// Fails with the figures that have grown too much.
pub(super) fn judge(figures: &[Figure]) -> Result<()> {
    let mut problem = String::new();
    for it in figures.iter().filter(|it| it.has_grown()) {
        let Figure { name, unit, before, after, .. } = it;
        let _ = write!(problem, "\n{name}: from {before:.1} to {after:.1} {unit}");
    }
    if problem.is_empty() {
        return Ok(());
    }
    Err(format!("these have grown by more than {:.0} %:{problem}", 100.0 * ALLOWED).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(table: &str, rows: f64, table_bytes: f64) -> Sizes {
        Sizes(vec![Size { table: table.to_owned(), rows, table_bytes, index_bytes: 0.0 }])
    }

    #[test]
    fn a_table_that_only_grows_is_compared_by_row() {
        let of = |table| size(table, 1000.0, 1e6).compare(&size(table, 4000.0, 4e6));
        assert!(judge(&of("audit_log")).is_ok());
        let problem = judge(&of("idempotency_key")).expect_err("four times as large");
        assert!(problem.to_string().contains("idempotency_key, table"), "{problem}");
    }

    #[test]
    fn a_fifth_more_is_allowed_and_so_is_what_chance_adds() {
        let figure = |before, after, slack| Figure {
            name: "memory".to_owned(),
            unit: "MB",
            before,
            after,
            slack,
        };
        assert!(!figure(100.0, 119.0, 2.0).has_grown() && figure(100.0, 121.0, 2.0).has_grown());
        assert!(!figure(1.0, 2.9, 2.0).has_grown() && figure(1.0, 3.1, 2.0).has_grown());
    }

    #[test]
    fn the_table_names_what_has_grown() {
        let figures = size("work_task", 1.0, 1e6).compare(&size("work_task", 1.0, 3e6));
        let table = report(&figures, &Schedule::of(30));
        assert!(table.contains("5.0 min | 30.0 min"), "{table}");
        assert!(table.contains("+200 % | too much"), "{table}");
    }
}
