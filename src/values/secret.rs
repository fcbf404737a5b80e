//! Values that never appear in logs.
use std::fmt;

/// A value whose `Debug` output hides it, so that logging a structure that contains it is safe.
#[derive(Clone)]
pub(crate) struct Secret<T>(pub(crate) T);

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
