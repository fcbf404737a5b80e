//! A PostgreSQL server that this process owns: for the development loop, which keeps the data, and for
//! tests, which remove it.
//!
//! Finds the server programs on the machine ([`Binaries`]), creates a cluster, starts a server on a free
//! loopback port and stops it. Works as an ordinary user and as root, although PostgreSQL refuses to run as
//! root.
//!
//! Invariant: a server never outlives its owner, however the owner ends. Even after SIGKILL, the supervisor
//! between the two notices and stops the server.
//!
//! Written by hand, because the crates for this fall short: `postgresql_embedded` refuses root and leaves
//! servers behind when its process is killed, `pgtemp` stops a server only on drop, and `testcontainers`
//! needs Docker.

mod account;
mod binaries;
mod cluster;
mod error;
mod folder;
mod process;
mod server;
mod supervisor;
pub mod throwaway;

pub use binaries::{Binaries, OLDEST_MAJOR, Version};
pub use error::Error;
pub use folder::accessible;
pub use process::{eventually, is_alive, until};
pub use server::{Server, erase};
