//! The command line.

use clap::{Parser, ValueEnum};

/// Starts a database if none is given, migrates it and serves on loopback until Ctrl-C
#[derive(Debug, Default, Parser, PartialEq, Eq)]
#[command(
    override_usage = "cargo run --bin local -- [OPTIONS]",
    after_help = "Variables are read from the environment and from .env in the current folder."
)]
pub(crate) struct Arguments {
    /// The database to use
    #[arg(long = "db", value_name = "WHICH", value_enum, default_value_t)]
    pub(crate) database: Choice,
    /// The port to serve on; 0 takes a free one [default: API_PORT, PORT, or 8081]
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Erase the data of the database first; refused for a database given by POSTGRES_DSN
    #[arg(long)]
    pub(crate) reset: bool,
}

/// Which database to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// The first of the following that works
    #[default]
    Auto,
    /// The database of POSTGRES_DSN or DATABASE_URL
    Dsn,
    /// ParadeDB from docker-compose.yml
    Compose,
    /// A PostgreSQL server started for this, with its data in .local/postgres
    Embedded,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["local"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn every_option_is_understood() {
        let all = Arguments { database: Choice::Embedded, port: Some(0), reset: true };

        assert_eq!(parse("").unwrap(), Arguments::default());
        assert_eq!(parse("--db embedded --port 0 --reset").unwrap(), all);
        assert_eq!(parse("--port=9").unwrap(), parse("--port 9").unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("--what", "'--what'"),
            ("serve", "'serve'"),
            ("--reset=no", "'no'"),
            ("--db sqlite", "[possible values: auto, dsn, compose, embedded]"),
            ("--port", "'--port <N>'"),
            ("--port 65536", "65536 is not in 0..=65535"),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(problem.to_string().contains(named), "{line}: {problem}");
            assert_eq!(problem.exit_code(), 2, "{line}");
        }
    }
}
