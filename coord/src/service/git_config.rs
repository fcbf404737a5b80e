//! The settings `coord.…` in the configuration of git, for programs that start git without the
//! variables of a shell.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The variables that tie git to one repository. Git sets them for its hooks; they must not count
/// when another folder is asked about.
const TYING: [&str; 6] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
];

/// The setting with allowed hosts, which counts only in the configuration of the user.
pub(super) const HOSTS_SETTING: &str = "allowedHosts";

/// A setting, and whether the user has set it rather than the repository.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    value: String,
    is_of_user: bool,
}

/// The settings `coord.…`, in the order in which git reads them: the last one counts.
#[derive(Clone, Debug, Default)]
pub(super) struct GitConfig(Vec<Entry>);

impl GitConfig {
    /// Reads the settings that git has for the current folder; in a submodule also those of the
    /// repository around it, because its files have lock keys of that one. Without git, or with a
    /// version before 2.26, there are none.
    pub(super) fn of_current_folder() -> GitConfig {
        let mut around = match std::env::current_dir().ok().and_then(|it| folder_around(&it)) {
            Some(folder) => GitConfig::read(untied_git().arg("-C").arg(folder)),
            None => GitConfig::default(),
        };
        around.0.extend(GitConfig::read(&mut Command::new("git")).0);
        around
    }

    fn read(git: &mut Command) -> GitConfig {
        let asked = ["config", "--show-scope", "-z", "--get-regexp", r"^coord\."];
        match git.args(asked).stdin(Stdio::null()).output() {
            Ok(done) if done.status.success() => {
                GitConfig::parse(&String::from_utf8_lossy(&done.stdout))
            }
            _ => GitConfig::default(),
        }
    }

    /// Parses what git prints: scope, NUL, name, line break, value, NUL.
    fn parse(text: &str) -> GitConfig {
        let parts: Vec<_> = text.split('\0').collect();
        let entry = |pair: &[&str]| {
            let [scope, setting] = pair else { return None };
            let (name, value) = setting.split_once('\n')?;
            Some(Entry {
                name: name.strip_prefix("coord.")?.to_ascii_lowercase(),
                value: value.to_owned(),
                is_of_user: matches!(*scope, "system" | "global" | "command"),
            })
        };
        GitConfig(parts.chunks(2).filter_map(entry).collect())
    }

    /// Returns the value of a setting. An empty one counts as unset.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        self.last(name, |_| true)
    }

    /// Returns the value of a setting of the user. A repository can come from anybody, with its
    /// configuration.
    pub(super) fn value_of_user(&self, name: &str) -> Option<String> {
        self.last(name, |entry| entry.is_of_user)
    }

    fn last(&self, name: &str, counts: impl Fn(&Entry) -> bool) -> Option<String> {
        let mut entries = self.0.iter().rev().filter(|entry| counts(entry));
        let entry = entries.find(|entry| entry.name.eq_ignore_ascii_case(name))?;
        Some(entry.value.clone()).filter(|value| !value.is_empty())
    }
}

/// Returns a command of git that knows nothing of the repository whose hook runs this program.
pub(crate) fn untied_git() -> Command {
    let mut git = Command::new("git");
    for name in TYING {
        git.env_remove(name);
    }
    git
}

/// Returns a folder of the repository around the submodule that a folder is in, if it is in one.
fn folder_around(folder: &Path) -> Option<PathBuf> {
    let has_git = |folder: &&Path| folder.join(".git").symlink_metadata().is_ok();
    let top = folder.ancestors().find(has_git)?;
    let link = fs::read_to_string(top.join(".git")).ok()?;
    let is_submodule = link.starts_with("gitdir:") && link.contains("/modules/");
    let around = top.ancestors().skip(1).find(has_git).filter(|_| is_submodule)?;
    // A submodule can be in a submodule.
    Some(folder_around(around).unwrap_or_else(|| around.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_hosts_are_those_of_the_user() {
        let text = "global\0coord.url\nhttp://a\0local\0coord.url\nhttp://b\0\
                    global\0coord.allowedhosts\na\0local\0coord.allowedhosts\nevil\0\
                    local\0coord.empty\n\0local\0coord.flag\0";
        let config = GitConfig::parse(text);
        assert_eq!(config.value("url").as_deref(), Some("http://b"));
        assert_eq!(config.value_of_user("url").as_deref(), Some("http://a"));
        assert_eq!(config.value_of_user(HOSTS_SETTING).as_deref(), Some("a"));
        assert_eq!((config.value("empty"), config.value("flag")), (None, None));
    }
}
