//! The client of agent-coordinator: a library that sends requests to the service, and the program
//! `coord`, which uses it.
//!
//! A folder imports only from the folders before it, which a test checks: `service`, `output`,
//! `command_line`, `work_tree`, `actions`.
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
mod actions;
mod command_line;
mod output;
mod service;
mod work_tree;

pub use actions::{command_line, commands, detect, run};
pub use service::{
    answer::Answer,
    client::{Call, CallError, Client},
    routes,
    settings::{
        DEFAULT_TIMEOUT, Given, Identity, KEY_VARIABLES, Key, SESSION_VARIABLES, Settings,
        SettingsError, URL_VARIABLES, variable,
    },
    url::{HOSTS_VARIABLE, Url},
};
