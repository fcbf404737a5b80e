//! The paths in the arguments of a command. The invariant: each becomes the lock key of its file
//! before it is sent, and is refused with a reason if it has none.
use std::path::Path;

use serde_json::Value;

use crate::{
    command_line::{context::Context, draft::Draft},
    output::outcome::Problem,
    work_tree::{git::WorkTree, key::Purpose, records::Records},
};

/// The work tree that paths belong to, if there is one. Without it a path is the lock key.
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
    pub(super) fn key_to_acquire(&self, cx: &Context, path: &str) -> Result<String, Problem> {
        let key = self.key(path, Purpose::Acquire)?;
        if let Some(meant) = self.work_tree.as_ref().and_then(|it| it.key_from_top(path)) {
            cx.output.print_problem(&format!(
                "{key} does not exist. Paths are relative to the current folder; if you mean \
                 {meant}, give :/{path}."
            ));
        }
        Ok(key)
    }

    /// Returns the key of a lock that exists.
    pub(super) fn key_of(&self, path: &str) -> Result<String, Problem> {
        self.key(path, Purpose::Name)
    }

    fn key(&self, path: &str, purpose: Purpose) -> Result<String, Problem> {
        let Some(work_tree) = &self.work_tree else { return Ok(path.to_owned()) };
        work_tree
            .key_of(path, purpose)
            .map_err(|reason| Problem::invalid(format!("{path}: {reason}.")))
    }

    /// Replaces the paths in a request that is not about locks. A path that has no key stays as it
    /// is, because such a request can be about any file. So does what a handoff says about a file.
    pub(super) fn replace_in(draft: &mut Draft) {
        for (name, is_free_text) in [("file_paths", false), ("relevant_files", true)] {
            let list = draft.body.get_mut(name).and_then(Value::as_array_mut);
            let Some(list) = list.filter(|list| !list.is_empty()) else { continue };
            let paths = Paths::with(list.iter().find_map(Value::as_str));
            for path in list {
                if let Value::String(text) = path
                    && (!is_free_text || Path::new(text).exists())
                    && let Ok(key) = paths.key_of(text)
                {
                    *text = key;
                }
            }
        }
    }
}
