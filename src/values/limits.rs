//! Limits of the wire that several rooms apply: `docs/api-design.md#limits`.

/// The maximum size of an id or a short name, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 256;

/// The maximum number of elements of a list whose schema has no limit of its own.
pub(crate) const MAX_LIST_ITEMS: usize = 1000;

/// The maximum size of a request's body, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;
