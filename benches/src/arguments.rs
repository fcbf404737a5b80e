//! The command line.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "usage: bench [--short] [--only floor,transition,http] [--operations NAME,…] \
     [--repetitions N] [--seconds N] [--coordinator PROGRAM]";

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
    pub(crate) coordinator: PathBuf,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut arguments = Arguments {
            repetitions: 5,
            seconds: 4,
            parts: list("floor,transition,http".to_owned()),
            operations: Vec::new(),
            concurrencies: vec![1, 16, 64],
            coordinator: PathBuf::from("target/release/coordinator"),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--short" => {
                    (arguments.repetitions, arguments.seconds) = (3, 1);
                    arguments.concurrencies = vec![16];
                }
                "--only" => arguments.parts = list(words.next()?),
                "--operations" => arguments.operations = list(words.next()?),
                "--repetitions" => arguments.repetitions = words.next()?.parse().ok()?,
                "--seconds" => arguments.seconds = words.next()?.parse().ok()?,
                "--concurrency" => {
                    let given: std::result::Result<_, _> =
                        words.next()?.split(',').map(str::parse).collect();
                    arguments.concurrencies = given.ok()?;
                }
                "--coordinator" => arguments.coordinator = words.next()?.into(),
                _ => return None,
            }
        }
        (arguments.repetitions > 0 && arguments.seconds > 0).then_some(arguments)
    }

    pub(crate) fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|it| it == part)
    }
}
