//! The product's tests: the real router and the real binaries on a real Postgres, a database of its
//! own for each test.
mod audit_query;
mod batches;
mod clients;
mod compose;
mod conventions;
mod costs;
mod discovery;
mod documents;
mod faults;
mod functions;
mod fuzz;
mod gathering;
mod guardrails;
mod handoffs;
#[path = "../shared/imports.rs"]
mod imports;
mod keys;
mod laws;
mod locks;
mod maintenance;
mod mcp;
mod memory;
mod memory_bm25;
mod network;
mod plans;
mod policy;
mod pooler;
mod ports;
mod processes;
mod profiles;
mod relay;
mod revival;
mod rolling;
mod round_trips;
mod sleeping;
mod sockets;
mod support;
mod torture;
#[cfg(feature = "otel")]
mod traces;
mod transport;
mod waiting;
mod work;
mod work_model;
