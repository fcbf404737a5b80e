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

    /// Records a lock of this work tree that an agent acquired with these settings.
    pub(crate) fn add(
        &self,
        key: &str,
        token: i64,
        agent_id: &str,
        settings: &Settings,
    ) -> io::Result<()> {
        self.own.add(key, token, agent_id, settings)
    }

    /// Removes a lock, if it is the caller's; from the other records, if it was acquired in the
    /// same session as well, because another one possibly relies on it there.
    pub(crate) fn remove(
        &self,
        key: &str,
        session_id: &str,
        is_own: impl Fn(&Recorded) -> bool,
    ) -> io::Result<()> {
        let is_it = |name: &str, lock: &Recorded| name == key && is_own(lock);
        self.own.remove(is_it)?;
        for record in &self.others {
            record.remove(|name, lock| {
                lock.has_agent() && is_it(name, lock) && lock.session_id == session_id
            })?;
        }
        Ok(())
    }

    /// Removes those locks with a key for which `is_gone` is true from all records.
    pub(crate) fn forget(&self, key: &str, is_gone: impl Fn(&Recorded) -> bool) -> io::Result<()> {
        for record in [&self.own].into_iter().chain(&self.others) {
            record.remove(|name, lock| name == key && is_gone(lock))?;
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

    /// Moves the locks for which `is_moved` is true to the session that has adopted them, in all
    /// records.
    pub(crate) fn move_to_session(
        &self,
        session_id: &str,
        is_moved: impl Fn(&str, &Recorded) -> bool,
    ) -> io::Result<()> {
        for record in [&self.own].into_iter().chain(&self.others) {
            record.move_to_session(session_id, &is_moved)?;
        }
        Ok(())
    }

    /// Returns the fencing token by which the caller proves in any session that a lock is its own:
    /// that in the record of this work tree, else that of the caller's session in another one.
    pub(crate) fn proving_token_of(
        &self,
        key: &str,
        session_id: &str,
        is_own: impl Fn(&Recorded) -> bool,
    ) -> Option<i64> {
        if let Some(lock) = self.own_lock(key).filter(|lock| is_own(lock)) {
            return Some(lock.token);
        }
        let is_proof = |lock: &&Recorded| {
            !session_id.is_empty() && lock.session_id == session_id && is_own(lock)
        };
        self.locks().ok()?.get(key)?.iter().find(is_proof).map(|lock| lock.token)
    }

    /// Returns the lock with a key in the record of this work tree, if the record can be read.
    pub(crate) fn own_lock(&self, key: &str) -> Option<Recorded> {
        self.own.locks().ok()?.remove(key)
    }

    /// Returns the fencing token and the session of the caller's lock, if the records can be read.
    pub(crate) fn token_of(
        &self,
        key: &str,
        is_own: impl Fn(&Recorded) -> bool,
    ) -> Option<(i64, String)> {
        let locks = self.locks().ok()?;
        let lock = locks.get(key)?.iter().find(|lock| is_own(lock))?;
        Some((lock.token, lock.session_id.clone()))
    }

    /// Reads the recorded locks. Another work tree is often that of another agent, so a lock there
    /// counts only if it names its agent.
    pub(crate) fn locks(&self) -> io::Result<RecordedLocks> {
        let mut all = RecordedLocks::new();
        for record in &self.others {
            for (key, lock) in record.locks()?.into_iter().filter(|(_, lock)| lock.has_agent()) {
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
