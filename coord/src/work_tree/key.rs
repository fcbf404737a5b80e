//! The lock key of a path. The invariant: each file has one key, its path from the root of the
//! outermost repository, whatever folder, work tree or symbolic link it is named through.
use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

use lock_key::{
    FOLDER, Refusal, Start, file_of_work_tree, has_namespace, plain, read, without_position,
};
use unicode_normalization::UnicodeNormalization as _;

use super::git::WorkTree;
use crate::service::settings::variable;

/// How many symbolic links a path may lead through, as on Linux.
const LINK_LIMIT: u32 = 40;

/// What a path is named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To acquire its lock. A folder is refused, because its lock guards no file.
    Acquire,
    /// To name a lock that exists, possibly of a folder.
    Name,
}

/// Why a text has no lock key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// It is not spelled like the path of one file.
    Spelling(String),
    /// Its path leads to no file of the repository.
    Place(String),
}

/// A file that a path leads to.
struct Found {
    path: PathBuf,
    exists: bool,
}

impl WorkTree {
    /// Returns the lock key of a text: a path that is relative to the current folder, or a key with a
    /// namespace.
    ///
    /// # Errors
    /// Says why the text has no key, and which file was probably meant.
    pub(crate) fn key_of(&self, text: &str, purpose: Purpose) -> Result<String, NoKey> {
        let folder = std::env::current_dir()
            .map_err(|error| NoKey::Place(format!("the current folder cannot be read: {error}")))?;
        self.key_from(&folder, text, purpose)
    }

    /// Returns the lock key of a text with a path that is relative to this folder.
    fn key_from(&self, folder: &Path, text: &str, purpose: Purpose) -> Result<String, NoKey> {
        if text.trim().is_empty() {
            return Ok(text.to_owned());
        }
        let found = self.find_from(folder, text)?;
        if found.exists && !has_namespace(text) {
            return self.key_of_file(&found, text, purpose).map_err(NoKey::Place);
        }
        // A lock key can end in a number too: `feature:12`.
        let is_position = |path: &&str| has_namespace(text) && folder.join(path).is_file();
        if let Some(path) = without_position(text).filter(is_position) {
            let refusal = Refusal::of_line_number(path, Start::Folder);
            let meant = self.meant(folder, path).ok();
            return Err(NoKey::Spelling(refusal.describe(meant.as_deref())));
        }
        match read(&within_folder(folder, text), Start::Folder) {
            Ok(key) if has_namespace(&key) => Ok(key),
            Ok(path) => {
                let found = self.find_from(folder, &path)?;
                self.key_of_file(&found, &path, purpose).map_err(NoKey::Place)
            }
            Err(_) if self.is_tracked(&found.path) => {
                self.key_of_file(&found, text, purpose).map_err(NoKey::Place)
            }
            Err(refusal) => {
                let path = in_home(text).or_else(|| refusal.meant().map(str::to_owned));
                let meant = path.map(|path| self.meant(folder, &path)).transpose();
                Err(NoKey::Spelling(match meant {
                    Ok(meant) => refusal.describe(meant.as_deref()),
                    Err(reason) => refusal.describe_place(&reason),
                }))
            }
        }
    }

    fn key_of_file(&self, found: &Found, text: &str, purpose: Purpose) -> Result<String, String> {
        let (work_tree, path) = self.locate(&found.path)?;
        let is_git = |part: Component<'_>| part.as_os_str().eq_ignore_ascii_case(".git");
        // A work tree can be in the folder of its bare repository.
        let is_in_repository = found.path.starts_with(&work_tree.repository)
            && !work_tree.top.starts_with(&work_tree.repository);
        if path.components().any(is_git) || is_in_repository {
            return Err("it belongs to git itself, and no commit contains it".to_owned());
        }
        let path = work_tree.tracked_spelling(path, found.exists);
        let is_submodule = found.path == work_tree.top && !path.as_os_str().is_empty();
        if purpose == Purpose::Acquire && !is_submodule {
            refuse_several(&work_tree, found, text)?;
        }
        let parts: Option<Vec<_>> = path.iter().map(|part| part.to_str()).collect();
        let key = parts.ok_or("its name is not valid UTF-8")?.join("/");
        if key.is_empty() {
            return Err("it is the root of the repository".to_owned());
        }
        if purpose == Purpose::Acquire
            && !found.exists
            && !text.starts_with("./")
            && let Some(file) = file_of_work_tree(&key)
            && !work_tree.is_tracked(&found.path)
        {
            return Err(format!(
                "it is in a work tree that is not there; expected a file of this one, probably `{}`, or \
                 `./{text}` for a folder with this name",
                self.argument_for(&file)
            ));
        }
        // The form that the service gives every key.
        Ok(key.nfc().collect())
    }

    /// Returns the work tree that has a file, and the path of the file from the root of the
    /// outermost repository.
    fn locate(&self, file: &Path) -> Result<(WorkTree, PathBuf), String> {
        let is_top = |folder: &&Path| folder.join(".git").symlink_metadata().is_ok();
        let nearest = file.ancestors().find(is_top).unwrap_or(Path::new("/"));
        let (outer, inner) = self.outermost();
        if let Ok(path) = file.strip_prefix(&self.top)
            && self.top.starts_with(nearest)
        {
            return Ok((self.clone(), inner.join(path)));
        }
        let there = file.ancestors().find(|folder| folder.is_dir()).and_then(WorkTree::of_folder);
        let there = there
            .and_then(|there| Some((file.strip_prefix(&there.top).ok()?.to_owned(), there)))
            .ok_or_else(|| {
                format!("{} is outside of the repository {}", file.display(), self.top.display())
            })?;
        let (path, there) = there;
        let (outer_there, inner) = there.outermost();
        match outer_there.repository == outer.repository {
            true => Ok((there, inner.join(path))),
            false => Err(format!(
                "{} is in another repository, {}; change the folder to it",
                file.display(),
                outer_there.top.display()
            )),
        }
    }

    /// Returns the path as git spells it, in a repository whose files can be spelled in capitals or
    /// not (`core.ignoreCase`, the setting of macOS and Windows). `path` is from the root of the
    /// outermost repository.
    fn tracked_spelling(&self, path: PathBuf, exists: bool) -> PathBuf {
        let is_exact = exists && !cfg!(any(target_os = "macos", windows));
        let ignores_case = || {
            let setting = self.git(&["config", "--type=bool", "--get", "core.ignoreCase"]);
            setting.is_ok_and(|setting| setting.trim() == "true")
        };
        if is_exact || self.refusal.is_some() || !ignores_case() {
            return path;
        }
        let Ok(inner) = path.strip_prefix(self.outermost().1) else { return path };
        let depth = path.iter().count();
        for known in inner.ancestors().filter(|known| !known.as_os_str().is_empty()) {
            let Some(text) = known.to_str() else { continue };
            let spec = format!(":(top,literal,icase){text}");
            let tracked = self.git_paths(&["ls-files", "-z", "--", &spec]).unwrap_or_default();
            let length = known.iter().count();
            let start = |file: &String| Path::new(file).iter().take(length).collect::<PathBuf>();
            let mut starts: Vec<_> = tracked.iter().map(start).collect();
            starts.dedup();
            if let [spelled] = &starts[..] {
                let before = path.iter().take(depth - inner.iter().count());
                let after = path.iter().skip(depth - inner.iter().count() + length);
                return before.chain(spelled.iter()).chain(after).collect();
            }
        }
        path
    }

    /// Whether git knows a file, or files below it, although it is not on the disk.
    fn is_tracked(&self, file: &Path) -> bool {
        !self.tracked(file).is_empty()
    }

    /// Returns the tracked files with this path, or below it.
    fn tracked(&self, file: &Path) -> Vec<String> {
        let Some(path) = file.strip_prefix(&self.top).ok().and_then(Path::to_str) else {
            return Vec::new();
        };
        let spec = format!(":(top,literal){path}");
        self.git_paths(&["ls-files", "-z", "--", &spec]).unwrap_or_default()
    }

    /// Returns the argument that stands for the file that was probably meant by this path; the path itself
    /// if no argument does.
    ///
    /// # Errors
    /// Says why the path leads to no file of the repository.
    fn meant(&self, folder: &Path, path: &str) -> Result<String, String> {
        let argument = match self.key_from(folder, path, Purpose::Name) {
            Ok(key) => plain(&self.argument_for(&key), Start::Folder),
            Err(NoKey::Spelling(_)) => None,
            Err(NoKey::Place(reason)) => return Err(reason),
        };
        Ok(argument.unwrap_or_else(|| path.to_owned()))
    }

    /// Whether a path leads to a folder.
    pub(crate) fn is_folder(&self, path: &str) -> bool {
        let folder = std::env::current_dir().ok();
        let found = folder.and_then(|folder| self.find_from(&folder, path).ok());
        found.is_some_and(|found| found.path.is_dir())
    }

    /// Follows a path from a folder, or from the top folder.
    fn find_from(&self, folder: &Path, text: &str) -> Result<Found, NoKey> {
        // Git writes `:/` before a path from the top folder.
        let (start, path) = match text.strip_prefix(":/") {
            Some(path) => (self.top.as_path(), path),
            None => (folder, text),
        };
        find(start, Path::new(path)).map_err(NoKey::Place)
    }

    /// Returns the argument that stands for a key in the current folder, or in the folder in which
    /// git was called that runs this program as a hook.
    pub(crate) fn argument_for(&self, key: &str) -> String {
        if has_namespace(key) {
            return key.to_owned();
        }
        let (_, inner) = self.outermost();
        let path = Path::new(key).strip_prefix(inner).ok().and_then(Path::to_str).unwrap_or(key);
        let is_at_top = std::env::current_dir().is_ok_and(|folder| folder == self.top);
        match is_at_top && variable("GIT_PREFIX").is_none() {
            true => path.to_owned(),
            false => format!(":/{path}"),
        }
    }

    /// Returns the key of the file that has this path from the top folder, if the path names no
    /// file from the current folder, where it counts. A caller in a subfolder possibly meant it.
    pub(crate) fn key_from_top(&self, text: &str) -> Option<String> {
        let folder = std::env::current_dir().ok()?;
        let is_missing = !text.starts_with([':', '/']) && !folder.join(text).exists();
        let is_elsewhere = is_missing && self.top.join(text).is_file() && !has_namespace(text);
        is_elsewhere.then(|| self.key_from(&self.top, text, Purpose::Acquire).ok())?
    }
}

/// Refuses a folder: the lock would guard no file of it.
fn refuse_several(work_tree: &WorkTree, found: &Found, text: &str) -> Result<(), String> {
    let is_folder = || {
        if found.exists && !found.path.is_dir() {
            return false;
        }
        // Git tracks a submodule as one entry, even if its folder is empty.
        let tracked = work_tree.tracked(&found.path);
        match tracked.iter().map(|file| work_tree.top.join(file)).next() {
            Some(file) => file != found.path,
            None => found.exists || text.ends_with(['/', std::path::MAIN_SEPARATOR]),
        }
    };
    match is_folder() {
        true => Err(FOLDER.to_owned()),
        false => Ok(()),
    }
}

/// Returns the path that a shell makes of `~/…` and `$HOME/…`, which reach this program only in quotes.
fn in_home(text: &str) -> Option<String> {
    let path = ["~/", "$HOME/", "${HOME}/"].iter().find_map(|home| text.strip_prefix(home))?;
    Some(format!("{}/{path}", variable("HOME")?))
}

/// Returns a path with a mark that its first part is the name of a folder, if it is and does not look
/// like one: `@types/new.ts`.
fn within_folder(folder: &Path, text: &str) -> String {
    let is_odd_name = |first: &&str| {
        let is_name = matches!(Path::new(first).components().next(), Some(Component::Normal(_)));
        is_name && read(&format!("{first}/x"), Start::Folder).is_err()
    };
    let first = text.split_once('/').map(|(first, _)| first).filter(is_odd_name);
    match first.is_some_and(|first| folder.join(first).is_dir()) {
        true => format!("./{text}"),
        false => text.to_owned(),
    }
}

/// Follows a path from a folder as the operating system does, as far as it exists. What does not
/// exist is taken as it is written.
fn find(folder: &Path, path: &Path) -> Result<Found, String> {
    let mut found = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().map(|part| part.as_os_str().to_owned()).collect()
    };
    let (mut rest, mut links) = (VecDeque::from(parts(path)), 0);
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => drop(found.pop()),
            Some(Component::Normal(name)) => {
                let next = found.join(name);
                let Some(target) = target_of(&next) else {
                    found = next;
                    continue;
                };
                links += 1;
                if links > LINK_LIMIT {
                    return Err("its symbolic links lead in a circle".to_owned());
                }
                for part in parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
            }
            Some(Component::RootDir | Component::Prefix(_)) => found.push(&part),
            Some(Component::CurDir) | None => {}
        }
    }
    let exists = match found.symlink_metadata() {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
        Err(_) => false,
    };
    Ok(Found { path: found, exists })
}

/// Returns where a symbolic link leads, if the path is one.
fn target_of(path: &Path) -> Option<PathBuf> {
    path.symlink_metadata().ok().filter(|data| data.is_symlink())?;
    fs::read_link(path).ok()
}
