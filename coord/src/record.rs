//! `.coord/locks.json`: which locks this work tree holds, with the fencing tokens that prove it. The
//! invariant: commands that run at the same time lose nothing of each other's.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{git::WorkTree, settings::Identity};

/// The record of a work tree.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    folder: PathBuf,
    work_tree: WorkTree,
}

impl Record {
    /// The record of the work tree around the current folder.
    pub(crate) fn here() -> Option<Record> {
        WorkTree::here().map(Record::of)
    }

    pub(crate) fn of(work_tree: WorkTree) -> Record {
        Record { folder: work_tree.top.join(".coord"), work_tree }
    }

    pub(crate) fn work_tree(&self) -> &WorkTree {
        &self.work_tree
    }

    /// Remembers a lock.
    pub(crate) fn add(&self, key: &str, token: i64, who: &Identity) -> io::Result<()> {
        self.change(|locks| {
            let lock = json!({
                "fencing_token": token,
                "agent_id": who.agent_id,
                "session_id": who.session_id,
                "workspace": who.workspace,
            });
            locks.insert(key.to_owned(), lock);
        })
    }

    /// Forgets a lock.
    pub(crate) fn remove(&self, key: &str) -> io::Result<()> {
        match self.path().exists() {
            true => self.change(|locks| {
                locks.shift_remove(key);
            }),
            false => Ok(()),
        }
    }

    /// Forgets the locks of a session.
    pub(crate) fn remove_session(&self, session_id: &str) -> io::Result<()> {
        match self.path().exists() {
            true => self.change(|locks| locks.retain(|_, it| it["session_id"] != session_id)),
            false => Ok(()),
        }
    }

    /// The fencing tokens by lock key.
    pub(crate) fn tokens(&self) -> io::Result<Vec<(String, i64)>> {
        Ok(tokens_of(&Value::Object(read(&self.path())?)))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("locks.json")
    }

    /// Changes the record under a lock of its own. The file is replaced as a whole, so that whoever
    /// reads it meanwhile sees the old one or the new one.
    fn change(&self, act: impl FnOnce(&mut Map<String, Value>)) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let guard = private(&self.folder.join("locks.lock"))?;
        guard.lock()?;
        self.ignore()?;
        let mut locks = read(&self.path())?;
        act(&mut locks);
        let text = format!("{:#}\n", json!({ "version": 1, "locks": locks }));
        let fresh = self.folder.join("locks.new");
        let _ = fs::remove_file(&fresh);
        let mut file = private(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, self.path())
    }

    /// Keeps the folder out of commits, without a change to a file that is in them.
    fn ignore(&self) -> io::Result<()> {
        if self.work_tree.says(&["check-ignore", "-q", ".coord/locks.json"]) {
            return Ok(());
        }
        let exclude = self.work_tree.file("info/exclude").map_err(io::Error::other)?;
        if let Some(folder) = exclude.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).open(exclude)?;
        file.write_all(b"\n/.coord/\n")
    }
}

/// A file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read(path: &Path) -> io::Result<Map<String, Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error),
    };
    let document: Value = serde_json::from_str(&text).map_err(|error| {
        io::Error::other(format!("{} is damaged ({error}); remove it", path.display()))
    })?;
    Ok(document["locks"].as_object().cloned().unwrap_or_default())
}

/// Tokens from an object of lock keys: each with a number, or with an object that has one.
pub(crate) fn tokens_of(locks: &Value) -> Vec<(String, i64)> {
    let locks = locks.as_object().into_iter().flatten();
    let token = |it: &Value| it.as_i64().or_else(|| it["fencing_token"].as_i64());
    locks.filter_map(|(key, lock)| Some((key.clone(), token(lock)?))).collect()
}
