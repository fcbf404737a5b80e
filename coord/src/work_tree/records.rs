//! The records of all work trees of a repository. The invariant: a lock that was acquired in one
//! work tree counts in the others, because their commits reach the same branches.
use std::{collections::BTreeMap, io};

use super::{
    git::WorkTree,
    record::{Record, Recorded},
};
use crate::service::settings::Settings;

/// Recorded locks by lock key. Of several locks with one key, the one that counts comes first: that
/// of this work tree, then those of the others, the newest first.
pub(crate) type RecordedLocks = BTreeMap<String, Vec<Recorded>>;

/// The records of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    own: Record,
    others: Vec<Record>,
    work_tree: WorkTree,
}

impl Records {
    /// Returns the records of the repository with this work tree.
    pub(crate) fn of(work_tree: WorkTree) -> Result<Records, String> {
        let others = work_tree.outermost().0.other_tops()?;
        Ok(Records {
            own: Record::of(work_tree.clone()),
            others: others.iter().map(|top| Record::in_folder(top)).collect(),
            work_tree,
        })
    }

    pub(crate) fn work_tree(&self) -> &WorkTree {
        &self.work_tree
    }

    /// Records a lock of this work tree that was acquired with these settings.
    pub(crate) fn add(&self, key: &str, token: i64, settings: &Settings) -> io::Result<()> {
        self.own.add(key, token, settings)
    }

    /// Removes a lock, if it was acquired with these settings; from the other records, if it was
    /// acquired in the same session as well, because another one possibly relies on it there.
    pub(crate) fn remove(&self, key: &str, settings: &Settings) -> io::Result<()> {
        let is_it = |name: &str, lock: &Recorded| name == key && lock.counts_with(settings);
        let session = &settings.identity.session_id;
        self.own.remove(is_it)?;
        for record in &self.others {
            record.remove(|name, lock| is_it(name, lock) && lock.session_id == *session)?;
        }
        Ok(())
    }

    /// Removes the locks of a session.
    pub(crate) fn remove_session(&self, session_id: &str) -> io::Result<()> {
        for record in [&self.own].into_iter().chain(&self.others) {
            record.remove(|_, lock| lock.session_id == session_id)?;
        }
        Ok(())
    }

    /// Reads the recorded locks.
    pub(crate) fn locks(&self) -> io::Result<RecordedLocks> {
        let mut all = RecordedLocks::new();
        for record in &self.others {
            for (key, lock) in record.locks()? {
                all.entry(key).or_default().push(lock);
            }
        }
        for locks in all.values_mut() {
            locks.sort_by_key(|lock| std::cmp::Reverse(lock.token));
        }
        for (key, lock) in self.own.locks()? {
            all.entry(key).or_default().insert(0, lock);
        }
        Ok(all)
    }
}
