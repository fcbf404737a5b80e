//! `coord detect` and `coord try`, which print what the HTTP bridge of existing clients prints.
pub(super) mod detection;
pub(super) mod execution;
pub(super) mod operations;
