//! The product's tests: the real router and the real binaries on a real Postgres, a database of its
//! own for each test.
mod conventions;
mod documents;
mod faults;
mod fuzz;
mod guardrails;
mod laws;
mod locks;
mod maintenance;
mod memory;
mod network;
mod policy;
mod processes;
mod profiles;
mod round_trips;
mod support;
mod work;
