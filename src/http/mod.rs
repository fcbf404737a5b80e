//! The HTTP interface, which the server, Lambda, the development loop and the tests share. No code here
//! names an operation.
mod body;
mod cors;
mod docs;
mod health;
mod input;
mod middleware;
mod openapi;
mod operations;
mod pages;
mod query;
mod respond;
mod router;
mod routes;

pub(crate) use body::{HeldBody, read_request};
pub(crate) use cors::{EXPOSED_HEADERS, cors, request_headers};
pub(crate) use middleware::{busy, panic_text, with_request_scope};
pub(crate) use operations::REPLAYED;
pub(crate) use query::{decode, pairs};
pub(crate) use respond::{method_not_allowed, respond};
pub(crate) use router::router;

pub use docs::operations_table;
pub use openapi::document;
