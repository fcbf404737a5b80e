//! Reasons of refusals that several operations give.

pub(super) const INVALID_FILE_PATH: &str = "invalid_file_path";
pub(super) const STALE_FENCING_TOKEN: &str = "stale_fencing_token";
pub(super) const NOT_LOCKED: &str = "not_locked";
