//! `.coord/locks.json`: the locks that were acquired in this work tree, with their fencing tokens.
//! The invariants: commands that run at the same time do not overwrite each other's changes, and a
//! symbolic link, which a repository can have in its place, is never followed.
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{
    git::WorkTree,
    permissions::{create_private_folder, make_private},
};
use crate::service::settings::Settings;

/// The version of the format. A file of another version is rejected as a whole.
const VERSION: i64 = 1;

/// The record of a work tree.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    folder: PathBuf,
}

/// A recorded lock. Different services give out the same fencing tokens, so a token counts only
/// together with its service, workspace and agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) token: i64,
    url: String,
    workspace: String,
    agent_id: String,
    pub(super) session_id: String,
}

impl Recorded {
    fn new(token: i64, agent_id: &str, settings: &Settings) -> Recorded {
        let identity = &settings.identity;
        Recorded {
            token,
            url: settings.url.as_str().to_owned(),
            workspace: identity.workspace.clone(),
            agent_id: agent_id.to_owned(),
            session_id: identity.session_id.clone(),
        }
    }

    /// Whether the agent of the lock is known.
    pub(super) fn has_agent(&self) -> bool {
        !self.agent_id.is_empty()
    }

    /// Whether the lock was acquired at this service, in this workspace and by this agent. An empty
    /// name stands for the one that the key is bound to, which is not known here. It matches any
    /// name, and the service decides by the token.
    pub(crate) fn counts_for(&self, url: &str, workspace: &str, agent_id: &str) -> bool {
        let matches = |recorded: &str, expected: &str| {
            recorded.is_empty() || expected.is_empty() || recorded == expected
        };
        canonical_url(&self.url) == canonical_url(url)
            && matches(&self.workspace, workspace)
            && matches(&self.agent_id, agent_id)
    }

    /// Describes the service, the workspace and the agent of the lock.
    pub(crate) fn origin(&self) -> String {
        let named = |what: &str, name: &str| match name {
            "" => String::new(),
            name => format!(", {what} {name}"),
        };
        format!(
            "{}{}{}",
            self.url,
            named("workspace", &self.workspace),
            named("agent", &self.agent_id)
        )
    }

    fn from_json(lock: &Value) -> Option<Recorded> {
        let text = |name: &str| lock[name].as_str().map(str::to_owned);
        Some(Recorded {
            token: lock["fencing_token"].as_i64()?,
            url: text("url")?,
            workspace: text("workspace")?,
            agent_id: text("agent_id")?,
            session_id: text("session_id")?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "fencing_token": self.token,
            "url": self.url,
            "workspace": self.workspace,
            "agent_id": self.agent_id,
            "session_id": self.session_id,
        })
    }
}

/// Returns the form of a URL that is equal for all of its spellings, for comparisons.
pub(crate) fn canonical_url(url: &str) -> String {
    let url = url.to_ascii_lowercase();
    ["://127.0.0.1", "://[::1]"]
        .iter()
        .fold(url, |url, address| url.replace(address, "://localhost"))
}

/// Recorded locks by lock key.
pub(crate) type Locks = BTreeMap<String, Recorded>;

impl Record {
    /// Returns the record of a work tree; for a submodule, that of the outermost repository, whose
    /// keys its files have.
    pub(crate) fn of(work_tree: WorkTree) -> Record {
        Record::in_folder(&work_tree.outermost().0.top)
    }

    /// Returns the record of the work tree with this top folder.
    pub(super) fn in_folder(top: &Path) -> Record {
        Record { folder: top.join(".coord") }
    }

    /// Records a lock that an agent acquired with these settings.
    pub(super) fn add(
        &self,
        key: &str,
        token: i64,
        agent_id: &str,
        settings: &Settings,
    ) -> io::Result<()> {
        match create_private_folder(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(with_path(&self.folder, &error));
            }
            _ => self.check_folder()?,
        }
        self.change(|locks| {
            locks.insert(key.to_owned(), Recorded::new(token, agent_id, settings));
        })
    }

    /// Removes the locks for which `is_gone` is true.
    pub(super) fn remove(&self, is_gone: impl Fn(&str, &Recorded) -> bool) -> io::Result<()> {
        match self.locks()?.iter().any(|(key, lock)| is_gone(key, lock)) {
            true => self.change(|locks| locks.retain(|key, lock| !is_gone(key, lock))),
            false => Ok(()),
        }
    }

    /// Moves the locks for which `is_moved` is true to another session.
    pub(super) fn move_to_session(
        &self,
        session_id: &str,
        is_moved: impl Fn(&str, &Recorded) -> bool,
    ) -> io::Result<()> {
        let differs =
            |key: &str, lock: &Recorded| lock.session_id != session_id && is_moved(key, lock);
        if !self.locks()?.iter().any(|(key, lock)| differs(key, lock)) {
            return Ok(());
        }
        self.change(|locks| {
            for (key, lock) in locks {
                if differs(key, lock) {
                    session_id.clone_into(&mut lock.session_id);
                }
            }
        })
    }

    /// Reads the recorded locks.
    pub(crate) fn locks(&self) -> io::Result<Locks> {
        self.check_folder()?;
        read_locks(&self.path())
    }

    fn path(&self) -> PathBuf {
        self.folder.join("locks.json")
    }

    /// Refuses a folder that is a symbolic link. A commit can have one, and what is written into it
    /// would go to wherever it points.
    fn check_folder(&self) -> io::Result<()> {
        match self.folder.symlink_metadata() {
            Ok(file) if file.is_symlink() => Err(is_a_link(&self.folder)),
            _ => Ok(()),
        }
    }

    /// Changes the record while a file lock is held. The file is replaced by a rename, so that a
    /// process that reads it at the same time sees either the old locks or the new ones.
    fn change(&self, edit: impl FnOnce(&mut Locks)) -> io::Result<()> {
        let guard = self.folder.join("locks.lock");
        let guard = open_guard(&guard).map_err(|error| with_path(&guard, &error))?;
        guard.lock()?;
        self.hide_from_git()?;
        let mut locks = self.locks()?;
        edit(&mut locks);
        let locks: Map<_, _> =
            locks.iter().map(|(key, lock)| (key.clone(), lock.to_json())).collect();
        let text = format!("{:#}\n", json!({ "version": VERSION, "locks": locks }));
        let fresh = self.folder.join("locks.new");
        let _ = fs::remove_file(&fresh);
        let mut file = create_private(&fresh).map_err(|error| with_path(&fresh, &error))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, self.path())
    }

    /// Keeps the folder out of commits, without a change to a tracked file and without a change to
    /// `.git`, which a sandbox often protects.
    fn hide_from_git(&self) -> io::Result<()> {
        match OpenOptions::new().write(true).create_new(true).open(self.folder.join(".gitignore")) {
            Ok(mut file) => file.write_all(b"*\n"),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn is_a_link(path: &Path) -> io::Error {
    let text = format!("{} is a symbolic link, which is not followed; remove it", path.display());
    io::Error::other(text)
}

/// Creates a file that only its owner can read. Nothing may be in its place, not even a link.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    make_private(&mut options);
    options.open(path)
}

/// Opens the file whose lock guards the record, or creates it.
fn open_guard(path: &Path) -> io::Result<File> {
    match create_private(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    match path.symlink_metadata()?.is_symlink() {
        true => Err(io::Error::other("it is a symbolic link, which is not followed; remove it")),
        false => OpenOptions::new().write(true).open(path),
    }
}

fn read_locks(path: &Path) -> io::Result<Locks> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Locks::new());
        }
        Err(error) => return Err(with_path(path, &error)),
    };
    parse_locks(&text).map_err(|reason| {
        let path = path.display();
        io::Error::other(format!(
            "{path} is damaged ({reason}); remove it, and lock your files again"
        ))
    })
}

/// Parses a record. It is rejected as a whole if any part of it has another form than `change`
/// writes.
fn parse_locks(text: &str) -> Result<Locks, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if document["version"] != VERSION {
        return Err(format!("expected version {VERSION}"));
    }
    let locks = document["locks"].as_object().ok_or("`locks` is not an object")?;
    let parse = |(key, lock): (&String, &Value)| match Recorded::from_json(lock) {
        Some(lock) => Ok((key.clone(), lock)),
        None => Err(format!("the lock on {key} lacks a member or has one of another type")),
    };
    locks.iter().map(parse).collect()
}

/// Parses lock keys and fencing tokens that people and scripts write: a record, or an object of
/// lock keys, each with a number or with an object that has one. The error names the entry that has
/// another form, or that is from another service than the one at this URL.
pub(crate) fn parse_tokens(text: &str, url: &str) -> Result<Vec<(String, i64)>, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let is_record = document["locks"].is_object();
    if is_record && document.get("version").is_some_and(|version| *version != VERSION) {
        return Err(format!("expected a record of version {VERSION}"));
    }
    let locks = if is_record { &document["locks"] } else { &document };
    let token = |lock: &Value| lock.as_i64().or_else(|| lock["fencing_token"].as_i64());
    let parse = |(key, lock): (&String, &Value)| match (token(lock), lock["url"].as_str()) {
        (Some(_), Some(other)) if canonical_url(other) != canonical_url(url) => {
            Err(format!("the lock on {key} is from {other}, not from {url}"))
        }
        (Some(token), _) => Ok((key.clone(), token)),
        (None, _) => Err(format!("expected a number as the fencing token of {key}")),
    };
    locks.as_object().ok_or("expected an object")?.iter().map(parse).collect()
}
