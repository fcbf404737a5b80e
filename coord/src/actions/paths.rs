//! The paths in the arguments of a command. The invariant: each becomes the lock key of its file
//! before it is sent, and is refused with a reason if it has none.
use std::path::Path;

use lock_key::{LockKey, Start, has_namespace, read};
use serde_json::{Map, Value};

use crate::{
    command_line::context::Context,
    output::{console::Output, outcome::Problem},
    work_tree::{
        git::WorkTree,
        key::{NoKey, Purpose},
        records::Records,
    },
};

/// The work tree that paths belong to, if there is one. Without it a path is read as the service reads it.
pub(super) struct Paths {
    work_tree: Option<WorkTree>,
}

impl Paths {
    /// Returns the paths of the current folder; outside of every work tree those of the file that
    /// the first path names.
    pub(super) fn with(first: Option<&str>) -> Paths {
        let of_first = || WorkTree::of_file(Path::new(first?));
        Paths { work_tree: WorkTree::of_current_folder().or_else(of_first) }
    }

    /// Returns the records of the locks, and reports why git refuses to work here, if it does.
    pub(super) fn records(&self, cx: &Context) -> Result<Option<Records>, Problem> {
        let Some(work_tree) = self.work_tree.clone() else { return Ok(None) };
        if let Some(words) = &work_tree.refusal {
            Problem::of_git(words).print(cx.output);
        }
        Records::of(work_tree).map(Some).map_err(|words| Problem::of_git(&words))
    }

    /// Returns the key of a lock to acquire.
    pub(super) fn key_to_acquire(&self, output: Output, path: &str) -> Result<String, Problem> {
        let key = self.key(path, Purpose::Acquire).map_err(|no_key| problem(path, &no_key))?;
        if let Some(meant) = self.work_tree.as_ref().and_then(|it| it.key_from_top(path)) {
            output.print_problem(&format!(
                "{key} does not exist. Paths are relative to the current folder; if you mean \
                 {meant}, give :/{path}."
            ));
        }
        Ok(key)
    }

    /// Returns the key of a lock that exists. Other clients can have made a lock with any key, so a path that
    /// leads to no lock is the key as it is, if a lock has this key.
    pub(super) fn key_of(&self, cx: &Context, path: &str) -> Result<String, Problem> {
        let is_locked =
            |key: &str| cx.lock_status(key).is_ok_and(|answer| *answer.member("locked") == true);
        let reason = match self.key(path, Purpose::Name) {
            Ok(key) if Path::new(path).is_relative() || is_locked(&key) => return Ok(key),
            Err(NoKey::Place(reason)) => reason,
            Ok(key) if is_locked(path) => format!("its key is `{key}`, which is not locked"),
            _ => return self.key_without_lookup(cx.output, path),
        };
        match LockKey::parse(path) {
            Ok(key) if is_locked(key.as_str()) => {
                print_taken(cx.output, path, &reason);
                Ok(key.as_str().to_owned())
            }
            _ => Err(problem(path, &NoKey::Place(reason))),
        }
    }

    /// Returns the key of a lock that possibly exists. A text that no path is spelled like is the key as it is.
    fn key_without_lookup(&self, output: Output, path: &str) -> Result<String, Problem> {
        match self.key(path, Purpose::Name) {
            Err(NoKey::Spelling(reason)) if LockKey::parse(path).is_ok() => {
                print_taken(output, path, &reason);
                Ok(path.to_owned())
            }
            key => key.map_err(|no_key| problem(path, &no_key)),
        }
    }

    /// Whether a path leads to a folder, which can hold many locked files.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        match &self.work_tree {
            Some(work_tree) => work_tree.is_folder(path),
            None => Path::new(path).is_dir(),
        }
    }

    fn key(&self, path: &str, purpose: Purpose) -> Result<String, NoKey> {
        if let Some(work_tree) = &self.work_tree {
            return work_tree.key_of(path, purpose);
        }
        if !has_namespace(path) && Path::new(path).is_file() {
            return Ok(path.to_owned());
        }
        read(path, Start::Root).map_err(|refusal| NoKey::Spelling(refusal.to_string()))
    }

    /// Replaces the paths in the body of a request to this route.
    pub(super) fn replace_in_request(
        route: &str,
        body: &mut Map<String, Value>,
        output: Output,
    ) -> Result<(), Problem> {
        Self::replace_in(body);
        let path = body.get("file_path").and_then(Value::as_str);
        let key = match (route, path) {
            ("/locks/acquire", Some(path)) => {
                Self::with(Some(path)).key_to_acquire(output, path)?
            }
            ("/locks/release", Some(path)) => {
                Self::with(Some(path)).key_without_lookup(output, path)?
            }
            _ => return Ok(()),
        };
        body.insert("file_path".to_owned(), key.into());
        Ok(())
    }

    /// Replaces the paths in a request that is not about locks. A path that has no key stays as it
    /// is, because such a request can be about any file. So does what a handoff says about a file.
    pub(super) fn replace_in(body: &mut Map<String, Value>) {
        for (name, is_free_text) in [("file_paths", false), ("relevant_files", true)] {
            let list = body.get_mut(name).and_then(Value::as_array_mut);
            let Some(list) = list.filter(|list| !list.is_empty()) else { continue };
            let paths = Paths::with(list.iter().find_map(Value::as_str));
            for path in list {
                if let Value::String(text) = path
                    && (!is_free_text || Path::new(text).exists())
                    && let Ok(key) = paths.key(text, Purpose::Name)
                {
                    *text = key;
                }
            }
        }
    }
}

/// Says that a text is the key of a lock, and why no file has this key.
fn print_taken(output: Output, path: &str, reason: &str) {
    output
        .print_problem(&format!("`{path}` is taken as the key that it is. For a file: {reason}."));
}

/// Returns the problem of a text that has no key.
fn problem(path: &str, no_key: &NoKey) -> Problem {
    let (NoKey::Spelling(reason) | NoKey::Place(reason)) = no_key;
    Problem::invalid(format!("{path}: {reason}."))
}
