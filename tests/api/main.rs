//! The product's tests: the real router and the real binaries on a real Postgres, a database of its
//! own for each test.
mod audit_query;
mod clients;
mod compose;
mod conventions;
mod discovery;
mod documents;
mod faults;
mod fuzz;
mod guardrails;
mod handoffs;
mod laws;
mod locks;
mod maintenance;
mod memory;
mod memory_bm25;
mod network;
mod policy;
mod ports;
mod processes;
mod profiles;
mod round_trips;
mod support;
mod waiting;
mod work;
mod work_model;
