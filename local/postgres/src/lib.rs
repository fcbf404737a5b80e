//! A PostgreSQL server of one's own: for the development loop, where its data is kept, and for
//! tests, where nothing is.
//!
//! It finds the server's programs on the machine ([`Binaries`]), makes a cluster, starts it on a
//! free loopback port and stops it again. It works as an ordinary user and as root, although
//! PostgreSQL refuses to run as root.
//!
//! The invariant: a server never outlives its owner, however the owner ends. Even after SIGKILL
//! the supervisor that stands between the two notices and stops the server.

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
pub use process::{is_alive, until};
pub use server::{Server, erase};
