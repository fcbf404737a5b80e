//! Who owns the hooks that git runs in a work tree.
use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::managers::Manager;
use crate::work_tree::git::WorkTree;

/// Where the hooks are that git runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a folder of this repository alone.
    Repository,
    /// In a folder whose files are tracked, so that every clone has them.
    Tracked,
    /// In a folder that `core.hooksPath` sets for every repository, in this scope of git.
    Machine(String),
    /// In a folder outside of the repository that only this repository's settings name.
    Outside,
    /// Nowhere: `core.hooksPath` names something that is not a folder.
    Off,
}

/// The owner of the hooks that git runs in a work tree.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) top: PathBuf,
    /// The folder whose hooks git runs.
    pub(super) folder: PathBuf,
    /// The folder whose hooks git runs without `core.hooksPath`.
    pub(super) usual_folder: PathBuf,
    pub(super) place: Place,
    /// The option of `git config` that overrides the setting of the folder here.
    pub(super) scope: &'static str,
    /// The manager whose hooks git runs, or else the one that the work tree is set up for.
    pub(super) manager: Option<Manager>,
    /// Whether git runs the hooks of the manager.
    pub(super) is_active: bool,
    /// The program that lines in shared files call here, if it is recorded.
    pub(super) program: Option<PathBuf>,
}

impl Owner {
    pub(super) fn of(work_tree: &WorkTree) -> Result<Owner, String> {
        let top = resolved(&work_tree.top);
        let folder = resolved(&work_tree.repository_file("hooks")?);
        let common = work_tree.git(&["rev-parse", "--git-common-dir"])?;
        let common = resolved(&work_tree.top.join(common.trim_end_matches('\n')));
        let setting = work_tree.git(&["config", "--show-scope", "--get", "core.hooksPath"]);
        let setting = setting.ok().and_then(|line| {
            let (scope, path) = line.trim_end_matches('\n').split_once('\t')?;
            Some((scope.to_owned(), path.to_owned()))
        });
        let is_of_work_tree = setting.as_ref().is_some_and(|(scope, _)| scope == "worktree");
        let is_tracked = || {
            let path = folder.strip_prefix(&top).map(Path::to_string_lossy);
            let files = path.map(|path| work_tree.git(&["ls-files", "--", &path]));
            files.is_ok_and(|files| files.is_ok_and(|files| !files.trim().is_empty()))
        };
        let is_a_folder = fs::metadata(&folder).map_or(true, |it| it.is_dir());
        let place = match setting {
            Some((_, path)) if path.is_empty() || !is_a_folder => Place::Off,
            _ if folder.starts_with(&common) => Place::Repository,
            _ if folder.starts_with(&top) && is_tracked() => Place::Tracked,
            _ if folder.starts_with(&top) => Place::Repository,
            Some((scope, _)) if scope == "local" || scope == "worktree" => Place::Outside,
            Some((scope, _)) => Place::Machine(scope),
            None => Place::Repository,
        };
        let active = match place {
            Place::Off => None,
            _ => Manager::of_folder(&folder),
        };
        let program = work_tree.git(&["config", "--get", "coord.program"]).ok();
        Ok(Owner {
            program: program.map(|path| path.trim_end_matches('\n').into()),
            manager: active.or_else(|| Manager::of_work_tree(&top)),
            is_active: active.is_some(),
            usual_folder: common.join("hooks"),
            top,
            folder,
            place,
            scope: if is_of_work_tree { "--worktree" } else { "--local" },
        })
    }

    /// Describes the owner in a few words.
    pub(super) fn describe(&self) -> String {
        match (self.manager, &self.place) {
            (Some(manager), _) if self.is_active => manager.name().to_owned(),
            (_, Place::Machine(scope)) => format!("every repository of this machine ({scope})"),
            (_, Place::Outside) => "a folder outside of this repository".to_owned(),
            (_, Place::Off) => "nobody: core.hooksPath switches hooks off".to_owned(),
            (Some(manager), _) => format!("{}, which is not installed here", manager.name()),
            (None, Place::Tracked) => "a tracked folder".to_owned(),
            (None, Place::Repository) => "this repository".to_owned(),
        }
    }

    /// Returns a path for messages, relative to the work tree where that is possible.
    pub(super) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.top).unwrap_or(path).display().to_string()
    }
}

/// Returns a path without symbolic links, `.` and `..`. Parts that do not exist stay as they are.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    let existing = clean.ancestors().find_map(|it| Some((it, it.canonicalize().ok()?)));
    match existing {
        Some((ancestor, real)) => match clean.strip_prefix(ancestor) {
            Ok(rest) if rest.as_os_str().is_empty() => real,
            Ok(rest) => real.join(rest),
            Err(_) => real,
        },
        None => clean,
    }
}
