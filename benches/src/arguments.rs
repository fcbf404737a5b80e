//! The command line.

use std::path::PathBuf;

use crate::hostile::Attack;
use clap::{Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser, value_parser};

/// Measures each operation: the least that its rows cost, its transition, and its requests over HTTP
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Other {
    Hostile(Hostile),
    Soak(Soak),
}

/// Attacks the service while agents work, and fails if they are disturbed or the process grows too large
#[derive(Debug, Args)]
pub(crate) struct Hostile {
    /// The attacks [default: all, in this order]
    #[arg(long, value_name = "ATTACK,…", value_delimiter = ',', value_enum)]
    only: Vec<Attack>,
    /// The build of the service to attack
    #[arg(long, value_name = "PROGRAM", default_value = "target/debug/coordinator")]
    pub(crate) coordinator: PathBuf,
}

impl Hostile {
    /// Returns the chosen attacks.
    pub(crate) fn attacks(&self) -> Vec<Attack> {
        if self.only.is_empty() { Attack::value_variants().to_vec() } else { self.only.clone() }
    }
}

/// Looks for what grows: memory, connections, tables and indexes
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Duration, six minutes or more. The first figures are taken after a sixth of it
    #[arg(long, value_name = "N", default_value = "30", value_parser = value_parser!(u64).range(6..))]
    pub(crate) minutes: u64,
    /// The build of the service to run
    #[arg(long, value_name = "PROGRAM", default_value = "target/debug/coordinator")]
    pub(crate) coordinator: PathBuf,
}

#[derive(Debug, Args)]
struct Measure {
    /// Concurrency 16 only, three repetitions of one second, no growth; other options still apply
    #[arg(long)]
    short: bool,
    /// The parts to measure
    #[arg(long, value_name = "PART,…", value_delimiter = ',', value_enum)]
    #[arg(default_value = "floor,transition,http")]
    only: Vec<Part>,
    /// The operations to measure [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    operations: Vec<String>,
    /// Numbers of clients [default: 1,16,64]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    concurrency: Option<Vec<usize>>,
    /// Measurements of each kind [default: 5]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    repetitions: Option<usize>,
    /// Duration of one measurement [default: 2]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Numbers of live rows, 1000 or more, among which transitions are measured, or `none`
    /// [default: 1000,100000,1000000]
    #[arg(long, value_name = "ROWS,…", value_parser = growth)]
    growth: Option<Growth>,
    /// Another build of the service, whose CPU time for a lock is compared with this build's. It is
    /// started with the same variables on an empty database, which it migrates itself
    #[arg(long, value_name = "[NAME=]PROGRAM", value_parser = compared)]
    compare: Option<Compared>,
    /// The folder to write performance.md and its plots into
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
    /// The build of the service to measure
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/coordinator")]
    coordinator: PathBuf,
}

/// The fewest rows for the cost of growth: claims of one measurement must not take all tasks.
const FEWEST_ROWS: u64 = 1000;

/// A part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Floor,
    Transition,
    Http,
}

/// Numbers of live rows.
#[derive(Clone, Debug)]
struct Growth(Vec<u64>);

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Measure(Arguments),
    Hostile(Hostile),
    Soak(Soak),
}

/// What a run measures, and for how long.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) repetitions: usize,
    /// How long one measurement takes.
    pub(crate) seconds: u64,
    pub(crate) parts: Vec<Part>,
    /// Names of operations; empty for all.
    pub(crate) operations: Vec<String>,
    pub(crate) concurrencies: Vec<usize>,
    /// Numbers of live rows for the cost of growth; empty leaves that out.
    pub(crate) growth: Vec<u64>,
    pub(crate) compare: Option<Compared>,
    pub(crate) report: Option<PathBuf>,
    pub(crate) coordinator: PathBuf,
}

/// Another build of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    /// The name in the report.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
}

impl Command {
    /// Reads the command line of this process. Prints help, or what is wrong, and exits instead of
    /// returning.
    pub(crate) fn read() -> Command {
        let Options { other, measure } = Options::parse();
        match other {
            None => Command::Measure(measure.into()),
            Some(Other::Hostile(hostile)) => Command::Hostile(hostile),
            Some(Other::Soak(soak)) => Command::Soak(soak),
        }
    }
}

impl Arguments {
    /// Returns whether a part is to be measured.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Returns whether an operation is to be measured.
    pub(crate) fn includes(&self, operation: &str) -> bool {
        self.operations.is_empty() || self.operations.iter().any(|it| it == operation)
    }
}

impl From<Measure> for Arguments {
    fn from(options: Measure) -> Arguments {
        let (repetitions, seconds, concurrencies, growth) = if options.short {
            (3, 1, vec![16], Vec::new())
        } else {
            (5, 2, vec![1, 16, 64], vec![1000, 100_000, 1_000_000])
        };
        Arguments {
            repetitions: options.repetitions.unwrap_or(repetitions),
            seconds: options.seconds.unwrap_or(seconds),
            parts: options.only,
            operations: options.operations,
            concurrencies: options.concurrency.unwrap_or(concurrencies),
            growth: options.growth.map_or(growth, |it| it.0),
            compare: options.compare,
            report: options.report,
            coordinator: options.coordinator,
        }
    }
}

fn growth(text: &str) -> Result<Growth, String> {
    if text == "none" {
        return Ok(Growth(Vec::new()));
    }
    let number = |it: &str| it.parse().ok().filter(|rows| *rows >= FEWEST_ROWS);
    let rows: Option<_> = text.split(',').map(number).collect();
    rows.map(Growth).ok_or_else(|| {
        format!("expected numbers of rows from {FEWEST_ROWS}, separated by commas, or `none`")
    })
}

/// Reads `NAME=PROGRAM`, or a program whose name is that of its file.
fn compared(text: &str) -> Result<Compared, String> {
    if let Some((name, program)) = text.split_once('=') {
        return Ok(Compared { name: name.to_owned(), program: program.into() });
    }
    let program = PathBuf::from(text);
    match program.file_name().and_then(|it| it.to_str()) {
        Some(name) => Ok(Compared { name: name.to_owned(), program }),
        None => Err("expected the path of a program, or NAME=PROGRAM".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments, clap::Error> {
        let words = ["bench"].into_iter().chain(text.split_whitespace());
        Options::try_parse_from(words).map(|it| it.measure.into())
    }

    #[test]
    fn a_short_run_can_still_be_given_growth() {
        let arguments = parse("--growth 1000,10000 --short").expect("valid arguments");
        assert_eq!(arguments.growth, [1000, 10_000]);
        assert_eq!(arguments.concurrencies, [16]);
        assert!(parse("--short").expect("valid arguments").growth.is_empty());
        assert!(parse("--growth none").expect("valid arguments").growth.is_empty());
    }

    #[test]
    fn parts_can_be_chosen() {
        let arguments = parse("--only http,floor").expect("valid arguments");
        assert!(arguments.has(Part::Http) && !arguments.has(Part::Transition));
        assert_eq!(parse("").expect("valid arguments").parts, Part::value_variants());
    }

    #[test]
    fn all_attacks_are_run_unless_some_are_chosen() {
        let attacks = |text: &str| {
            let words = ["bench", "hostile"].into_iter().chain(text.split_whitespace());
            match Options::try_parse_from(words).expect("valid arguments").other {
                Some(Other::Hostile(hostile)) => hostile.attacks(),
                other => panic!("{other:?} was chosen"),
            }
        };
        assert_eq!(attacks("").len(), 7);
        assert_eq!(attacks("--only slow-heads,waiters"), [Attack::SlowHeads, Attack::Waiters]);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for wrong in [
            "--growth 10",
            "--seconds 0",
            "--repetitions 0",
            "--repetitions x",
            "--only x",
            "--operations",
            "fast",
            "soak --minutes 5",
            "hostile --only x",
        ] {
            let problem = parse(wrong).expect_err(wrong);
            assert_eq!(problem.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_compared_program_is_called_by_its_file_name_or_as_it_is_named() {
        let plain = compared("old/run").expect("a program");
        assert_eq!((plain.name.as_str(), plain.program), ("run", PathBuf::from("old/run")));
        assert_eq!(compared("1.0=old/run").expect("a program").name, "1.0");
    }
}
