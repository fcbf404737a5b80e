//! `.coord/locks.json`: which locks this work tree holds, with the fencing tokens that prove it. The
//! invariant: commands that run at the same time lose nothing of each other's.
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{git::WorkTree, settings::Settings};

/// The form of the file. Any other is refused as a whole.
const VERSION: i64 = 1;

/// The record of a work tree.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    folder: PathBuf,
    work_tree: WorkTree,
}

/// A lock as it was recorded. Fencing tokens are numbers that repeat from service to service, so it
/// counts only together with where it was got and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) token: i64,
    url: String,
    workspace: String,
    agent_id: String,
    session_id: String,
}

impl Recorded {
    fn new(token: i64, settings: &Settings) -> Recorded {
        let who = &settings.identity;
        Recorded {
            token,
            url: settings.url.as_str().to_owned(),
            workspace: who.workspace.clone(),
            agent_id: who.agent_id.clone(),
            session_id: who.session_id.clone(),
        }
    }

    /// Whether it was got from this service, in this workspace and by this agent. An empty name stands
    /// for the key's own, which may be any: then it depends on what the service says of the token.
    pub(crate) fn counts_for(&self, url: &str, workspace: &str, agent_id: &str) -> bool {
        let may_be = |recorded: &str, asked: &str| {
            recorded.is_empty() || asked.is_empty() || recorded == asked
        };
        place(&self.url) == place(url)
            && may_be(&self.workspace, workspace)
            && may_be(&self.agent_id, agent_id)
    }

    /// The same for who asks with these settings.
    pub(crate) fn counts_with(&self, settings: &Settings) -> bool {
        let who = &settings.identity;
        self.counts_for(settings.url.as_str(), &who.workspace, &who.agent_id)
    }

    /// Where it is from and whose it is, for people.
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

    fn read(lock: &Value) -> Option<Recorded> {
        let text = |name: &str| lock[name].as_str().map(str::to_owned);
        Some(Recorded {
            token: lock["fencing_token"].as_i64()?,
            url: text("url")?,
            workspace: text("workspace")?,
            agent_id: text("agent_id")?,
            session_id: text("session_id")?,
        })
    }

    fn written(&self) -> Value {
        json!({
            "fencing_token": self.token,
            "url": self.url,
            "workspace": self.workspace,
            "agent_id": self.agent_id,
            "session_id": self.session_id,
        })
    }
}

/// A URL in the one way in which all spellings of it are compared.
fn place(url: &str) -> String {
    let url = url.to_ascii_lowercase();
    ["://127.0.0.1", "://[::1]"].iter().fold(url, |it, address| it.replace(address, "://localhost"))
}

/// The locks by their keys.
type Locks = BTreeMap<String, Recorded>;

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

    /// Remembers a lock that was got with these settings.
    pub(crate) fn add(&self, key: &str, token: i64, settings: &Settings) -> io::Result<()> {
        self.change(|locks| {
            locks.insert(key.to_owned(), Recorded::new(token, settings));
        })
    }

    /// Forgets a lock, if it is one that was got with these settings.
    pub(crate) fn remove(&self, key: &str, settings: &Settings) -> io::Result<()> {
        match self.path().exists() {
            true => self.change(|locks| {
                locks.retain(|name, it| name != key || !it.counts_with(settings));
            }),
            false => Ok(()),
        }
    }

    /// Forgets the locks of a session.
    pub(crate) fn remove_session(&self, session_id: &str) -> io::Result<()> {
        match self.path().exists() {
            true => self.change(|locks| locks.retain(|_, it| it.session_id != session_id)),
            false => Ok(()),
        }
    }

    /// The recorded locks by their keys.
    pub(crate) fn locks(&self) -> io::Result<Locks> {
        read(&self.path())
    }

    fn path(&self) -> PathBuf {
        self.folder.join("locks.json")
    }

    /// Changes the record under a lock of its own. The file is replaced as a whole, so that whoever
    /// reads it meanwhile sees the old one or the new one.
    fn change(&self, act: impl FnOnce(&mut Locks)) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let guard = private(&self.folder.join("locks.lock"))?;
        guard.lock()?;
        self.ignore()?;
        let mut locks = read(&self.path())?;
        act(&mut locks);
        let locks: Map<_, _> = locks.iter().map(|(key, it)| (key.clone(), it.written())).collect();
        let text = format!("{:#}\n", json!({ "version": VERSION, "locks": locks }));
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

fn read(path: &Path) -> io::Result<Locks> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Locks::new()),
        Err(error) => {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
        }
    };
    understood(&text).map_err(|reason| {
        let path = path.display();
        io::Error::other(format!(
            "{path} is damaged ({reason}); remove it, and lock your files again"
        ))
    })
}

/// The locks in a text, if all of it is of the form that is written here.
fn understood(text: &str) -> Result<Locks, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if document["version"] != VERSION {
        return Err(format!("it is not of version {VERSION}"));
    }
    let locks = document["locks"].as_object().ok_or("`locks` is no object")?;
    let read = |(key, lock): (&String, &Value)| match Recorded::read(lock) {
        Some(lock) => Ok((key.clone(), lock)),
        None => Err(format!("the lock of {key} is not of the form that is written")),
    };
    locks.iter().map(read).collect()
}

/// Tokens from what people and scripts write: the record, or an object of lock keys, each with a number
/// or with an object that has one. The error says what is of no such form, or from another service than
/// the one at this URL.
pub(crate) fn tokens_in(text: &str, url: &str) -> Result<Vec<(String, i64)>, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let is_record = document["locks"].is_object();
    if is_record && document.get("version").is_some_and(|it| *it != VERSION) {
        return Err(format!("the record is not of version {VERSION}"));
    }
    let locks = if is_record { &document["locks"] } else { &document };
    let token = |it: &Value| it.as_i64().or_else(|| it["fencing_token"].as_i64());
    let read = |(key, lock): (&String, &Value)| match (token(lock), lock["url"].as_str()) {
        (Some(_), Some(other)) if place(other) != place(url) => {
            Err(format!("the lock on {key} is from {other}, not from {url}"))
        }
        (Some(token), _) => Ok((key.clone(), token)),
        (None, _) => Err(format!("{key} has no fencing token that is a number")),
    };
    locks.as_object().ok_or("expected an object")?.iter().map(read).collect()
}
