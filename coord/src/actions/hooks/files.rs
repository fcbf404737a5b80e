//! The files that a git hook checks.
use std::{collections::BTreeSet, path::Path};

use crate::work_tree::records::RecordedLocks;

/// The greatest length of a lock key in bytes. A longer path cannot be locked.
const KEY_LIMIT: usize = 1024;

/// The files that a git hook checks.
#[derive(Default)]
pub(super) struct Files {
    /// Files that the caller changes. No other agent may hold their locks.
    pub(super) changed: BTreeSet<String>,
    /// Files that other agents change, or possibly change. Only recorded locks are checked for
    /// them.
    pub(super) relied_on: BTreeSet<String>,
}

impl Files {
    /// Removes the files that cannot be locked, and those of `relied_on` that have no recorded
    /// lock.
    pub(super) fn keep_relevant(&mut self, recorded: &RecordedLocks) {
        self.changed.retain(|file| file.len() <= KEY_LIMIT);
        // The service normalises other characters, so the recorded key can differ from the path.
        let is_plain = |file: &str| {
            let is_allowed = |byte: u8| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-')
            };
            file.bytes().all(is_allowed)
        };
        self.relied_on.retain(|file| {
            let can_be_recorded =
                recorded.contains_key(file) || (!recorded.is_empty() && !is_plain(file));
            can_be_recorded && file.len() <= KEY_LIMIT && !self.changed.contains(file)
        });
    }

    /// Puts a folder before each path: the one of a submodule in the outermost repository.
    pub(super) fn move_into(&mut self, folder: &Path) {
        for files in [&mut self.changed, &mut self.relied_on] {
            *files =
                files.iter().map(|file| folder.join(file).to_string_lossy().into_owned()).collect();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.relied_on.is_empty()
    }
}
