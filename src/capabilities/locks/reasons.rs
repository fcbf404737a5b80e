//! Reasons of refusals that several operations give.

/// The lock key is empty in canonical form.
pub(super) const INVALID_FILE_PATH: &str = "invalid_file_path";

/// The fencing token is not the lock's current one. The functions in `locks/release.sql` return this too.
pub(super) const STALE_FENCING_TOKEN: &str = "stale_fencing_token";

/// The key has no live lock. The function `force_release_lock` returns this too.
pub(super) const NOT_LOCKED: &str = "not_locked";
