//! The service: where it is, which routes it has, and how a request is sent to it.
pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod git_config;
pub mod routes;
pub(crate) mod settings;
mod unreachable;
pub(crate) mod url;
