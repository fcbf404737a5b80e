//! The configuration: the only reader of the environment. Every problem is reported at once, with the
//! variable's name and what it expects, and never with its value.
mod database;
mod dsn;
mod env_example;
mod home;
pub(crate) mod identities;
mod logging;
mod mcp;
mod network;
mod policy;
mod ports;
mod quotas;
mod reader;
mod reference;
mod settings;
mod timings;
mod variables;

pub(crate) use database::{DatabaseSettings, Statements};
pub(crate) use identities::Identity;
pub(crate) use policy::PolicyEngine;
#[cfg(feature = "cedar")]
pub(crate) use policy::PolicySettings;

pub use env_example::env_example;
pub use home::Home;
pub use logging::TraceSettings;
pub(crate) use quotas::{Limits as QuotaLimits, Quota};
pub use reader::ConfigError;
pub use reference::configuration_table;
pub(crate) use settings::{ByteLimits, WaitLimits};

pub use settings::Config;
pub use timings::Timings;

#[cfg(test)]
mod tests;
