//! An operation is one typed request with one typed answer.
//!
//! An operation is written once and reached wherever its [`Meta`] says. Identity, trust, policy, the
//! record of denials, idempotency and the heartbeat of the session are the work of `execute` and of
//! nothing else: only `execute` creates a [`Context`], so an operation cannot bypass them.
mod audit;
mod authorize;
mod byte_budget;
mod cancellation;
mod client_call;
mod connection;
mod context;
mod definition;
mod execute;
mod gathering;
mod heartbeat;
mod idempotency;
pub(crate) mod input;
mod limits;
mod meta;
mod metrics;
mod notice;
mod quota;
mod registry;
mod reply;
mod request;
mod resource;
mod schema;
mod services;
mod tool;
mod wait_slots;
mod waiting;
mod without_key;

pub(crate) use authorize::authorize_page;
pub(crate) use byte_budget::HeldBytes;
pub(crate) use cancellation::{Cancelled, cancel};
pub(crate) use client_call::ClientCall;
pub(crate) use connection::Connection;
pub(crate) use context::Actor;
pub(crate) use gathering::{Gatherer, Transition, column};
pub(crate) use idempotency::fingerprint;
pub(crate) use limits::{Limit, Party};
pub(crate) use metrics::Levels;
pub(crate) use notice::name_ports;
pub(crate) use quota::{count_refusal, is_quota_refusal};
pub(crate) use reply::Reply;
pub(crate) use request::{Call, RequestInfo, record_status};
pub(crate) use schema::{NULL_OR_ABSENT, untrusted_paths};
pub(crate) use services::{Services, State};

pub use context::Context;
pub use definition::Operation;
pub use meta::Meta;
pub use registry::{Operations, Registered};
pub use resource::McpResource;
pub(crate) use tool::Whole;
pub use tool::{IDENTITY_MEMBERS, Tool};
pub use waiting::{Poll, Waiter};
