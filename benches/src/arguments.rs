//! The command line.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "usage: bench [--short] [--only floor,transition,http] \
[--operations NAME,…] [--concurrency N,…] [--repetitions N] [--seconds N]
             [--growth ROWS,…|none] [--compare [NAME=]PROGRAM] [--report FOLDER] [--coordinator PROGRAM]

  --short        concurrency 16 only, three repetitions of one second, no growth
  --growth       numbers of live rows among which the cost of transitions is measured, 1000 or more
  --compare      another build of the service, started with the same variables on an empty database that it
                 prepares itself; its CPU time for a lock is compared with ours
  --report       writes performance.md and its plots into this folder";

/// Claims of one measurement must not take all tasks.
const FEWEST_ROWS: u64 = 1000;

/// What a run measures, and for how long.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) repetitions: usize,
    /// How long one measurement takes.
    pub(crate) seconds: u64,
    /// The parts to measure: `floor`, `transition`, `http`.
    pub(crate) parts: Vec<String>,
    /// Names of operations; empty for all.
    pub(crate) operations: Vec<String>,
    pub(crate) concurrencies: Vec<usize>,
    /// Numbers of live rows for the cost of growth; empty leaves it out.
    pub(crate) growth: Vec<u64>,
    pub(crate) compare: Option<Compared>,
    pub(crate) report: Option<PathBuf>,
    pub(crate) coordinator: PathBuf,
}

/// Another build of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    /// What the report calls it.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
}

impl Arguments {
    /// Reads the words after the program's name. `None` where they are not as `USAGE` says.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let mut arguments = Arguments {
            repetitions: 5,
            seconds: 2,
            parts: list("floor,transition,http"),
            operations: Vec::new(),
            concurrencies: vec![1, 16, 64],
            growth: vec![1000, 100_000, 1_000_000],
            compare: None,
            report: None,
            coordinator: PathBuf::from("target/release/coordinator"),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--short" => {
                    (arguments.repetitions, arguments.seconds) = (3, 1);
                    arguments.concurrencies = vec![16];
                    arguments.growth = Vec::new();
                }
                "--only" => arguments.parts = list(&words.next()?),
                "--operations" => arguments.operations = list(&words.next()?),
                "--repetitions" => arguments.repetitions = words.next()?.parse().ok()?,
                "--seconds" => arguments.seconds = words.next()?.parse().ok()?,
                "--concurrency" => arguments.concurrencies = numbers(&words.next()?)?,
                "--growth" => {
                    let given = words.next()?;
                    arguments.growth = if given == "none" { vec![] } else { numbers(&given)? };
                }
                "--compare" => arguments.compare = Some(compared(&words.next()?)?),
                "--report" => arguments.report = Some(words.next()?.into()),
                "--coordinator" => arguments.coordinator = words.next()?.into(),
                _ => return None,
            }
        }
        let is_right = arguments.repetitions > 0
            && arguments.seconds > 0
            && arguments.growth.iter().all(|it| *it >= FEWEST_ROWS);
        is_right.then_some(arguments)
    }

    /// Whether a part is to be measured.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|it| it == part)
    }

    /// Whether an operation is to be measured.
    pub(crate) fn asks_for(&self, operation: &str) -> bool {
        self.operations.is_empty() || self.operations.iter().any(|it| it == operation)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn numbers<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|it| it.parse().ok()).collect()
}

/// `NAME=PROGRAM`, or a program that is called by its file name.
fn compared(text: &str) -> Option<Compared> {
    let (name, program) = match text.split_once('=') {
        Some((name, program)) => (name.to_owned(), PathBuf::from(program)),
        None => {
            let program = PathBuf::from(text);
            (program.file_name()?.to_str()?.to_owned(), program)
        }
    };
    Some(Compared { name, program })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Arguments> {
        Arguments::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_short_run_can_still_be_given_growth() {
        let arguments = parse("--short --growth 1000,10000").expect("right arguments");
        assert_eq!(arguments.growth, [1000, 10_000]);
        assert_eq!(arguments.concurrencies, [16]);
        assert!(parse("--short").expect("right arguments").growth.is_empty());
        assert!(parse("--growth none").expect("right arguments").growth.is_empty());
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for wrong in ["--growth 10", "--seconds 0", "--repetitions x", "--operations", "fast"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_compared_program_is_called_by_its_file_name_or_as_it_is_named() {
        let plain = compared("old/run").expect("a program");
        assert_eq!((plain.name.as_str(), plain.program), ("run", PathBuf::from("old/run")));
        assert_eq!(compared("1.0=old/run").expect("a program").name, "1.0");
    }
}
