//! The client of agent-coordinator: a small library to ask the service, and everything that the
//! program `coord` is made of.
//!
//! ```no_run
//! use coord::{Client, DEFAULT_TIMEOUT, Given, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::from_environment(&Given::default(), DEFAULT_TIMEOUT)?;
//! let client = Client::new(settings);
//! let answer = client.call("GET", "/locks?prefix=src/", None)?;
//! println!("{}: {}", answer.status, answer.text);
//! # Ok(())
//! # }
//! ```
mod bridge;
mod cli;
mod client;
mod commands;
mod git;
mod hooks;
mod locks;
mod mcp;
mod outcome;
mod record;
mod request;
pub mod routes;
mod run;
mod session;
mod settings;
mod show;

pub use bridge::detect;
pub use cli::command_line;
pub use client::{Answer, Call, CallError, Client};
pub use commands::commands;
pub use run::run;
pub use settings::{
    DEFAULT_TIMEOUT, Given, HOSTS_VARIABLE, Identity, KEY_VARIABLES, Key, Settings, SettingsError,
    URL_VARIABLES, Url, variable,
};
