//! Decides whether a caller may run an operation: `docs/api-design.md#authorization`.
#[cfg(feature = "cedar")]
mod cedar;
#[cfg(feature = "cedar")]
mod cedar_text;
mod decision;
mod engine;
mod names;
mod native;

pub(crate) use decision::Question;
pub(crate) use engine::Engine;
pub(crate) use native::{decide, file_limit, over_file_limit};

pub use names::{KnownOperation, KnownOperations};
