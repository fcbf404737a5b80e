//! The command line.

use std::ffi::OsString;

pub(crate) const USAGE: &str = "\
Usage: cargo run --bin local -- [OPTIONS]

Starts a database if there is none, migrates it and serves on loopback until Ctrl-C.

  --db WHICH   auto (the default): the first of these that works
               dsn:      the database of POSTGRES_DSN or DATABASE_URL
               compose:  ParadeDB from docker-compose.yml
               embedded: a PostgreSQL server of its own, its data kept in .local/postgres
  --port N     the port to serve on (default: API_PORT, PORT, else 8081); 0 takes a free one
  --reset      first throw the data of the started database away
  --help       print this

Variables are read from the environment and from .env in the current folder.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Help,
    Run(Arguments),
}

/// How to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) database: Choice,
    pub(crate) port: Option<u16>,
    pub(crate) reset: bool,
}

/// Which database to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    #[default]
    Auto,
    Dsn,
    Compose,
    Embedded,
}

impl Arguments {
    /// Reads the words after the program's name; the error says which one is wrong.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, String> {
        let mut arguments = Arguments::default();
        let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            // Both `--port 1` and `--port=1` are usual.
            let (flag, attached) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = || attached.clone().or_else(|| words.next()).unwrap_or_default();
            match flag {
                "--db" => arguments.database = choice(&value())?,
                "--port" => arguments.port = Some(port(&value())?),
                "--reset" if attached.is_none() => arguments.reset = true,
                "--help" | "-h" if attached.is_none() => return Ok(Request::Help),
                _ => return Err(format!("`{word}` is not an option.")),
            }
        }
        Ok(Request::Run(arguments))
    }
}

fn choice(value: &str) -> Result<Choice, String> {
    match value {
        "auto" => Ok(Choice::Auto),
        "dsn" => Ok(Choice::Dsn),
        "compose" => Ok(Choice::Compose),
        "embedded" => Ok(Choice::Embedded),
        _ => Err(format!("--db expects auto, dsn, compose or embedded, not `{value}`.")),
    }
}

fn port(value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("--port expects a number from 0 to 65535, not `{value}`."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, String> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn every_option_is_understood() {
        let all = Arguments { database: Choice::Embedded, port: Some(0), reset: true };

        assert_eq!(parse(""), Ok(Request::Run(Arguments::default())));
        assert_eq!(parse("--db embedded --port 0 --reset"), Ok(Request::Run(all)));
        assert_eq!(parse("--port=9"), parse("--port 9"));
        assert_eq!(parse("--port 1 --help"), Ok(Request::Help));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, problem) in [
            ("--what", "`--what` is not an option."),
            ("serve", "`serve` is not an option."),
            ("--reset=no", "`--reset=no` is not an option."),
            ("--db sqlite", "--db expects auto, dsn, compose or embedded, not `sqlite`."),
            ("--port", "--port expects a number from 0 to 65535, not ``."),
            ("--port 65536", "--port expects a number from 0 to 65535, not `65536`."),
        ] {
            assert_eq!(parse(line), Err(problem.to_owned()), "{line}");
        }
    }
}
