//! The variables of this run. Values that the program decides take precedence over the process's
//! environment, and that over `.env`. The process's environment is never changed.

use std::{collections::HashMap, env, path::Path};

/// Variables by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    decided: HashMap<String, String>,
    file: HashMap<String, String>,
}

impl Environment {
    /// Reads `.env` in the current folder, if that file exists.
    pub(crate) fn read() -> Result<Environment, String> {
        Environment::from_file(Path::new(".env"))
    }

    fn from_file(path: &Path) -> Result<Environment, String> {
        let mut file = HashMap::new();
        if path.exists() {
            let lines = dotenvy::from_path_iter(path);
            let lines = lines.map_err(|error| format!("{}: {error}", path.display()))?;
            for line in lines {
                // The message of the library quotes the line, which can contain a secret.
                let (name, value) = line.map_err(|_| {
                    format!("{}: invalid line; expected NAME=value", path.display())
                })?;
                file.insert(name, value);
            }
        }
        Ok(Environment { decided: HashMap::new(), file })
    }

    /// Returns the value of a variable, if it is set.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        if let Some(value) = self.decided.get(name) {
            return Some(value.clone());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "read for the configuration, with .env added"
        )]
        let own = env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        own.or_else(|| self.file.get(name).cloned())
    }

    /// Returns the value of a variable, if it is set and not blank.
    pub(crate) fn filled(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.decided.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn set_default(&mut self, name: &str, value: &str) {
        if self.filled(name).is_none() {
            self.set(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(text: &str, name: &str) -> Result<Environment, String> {
        let path = env::temp_dir().join(format!("local-env-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        let environment = Environment::from_file(&path);
        fs::remove_file(&path).unwrap();
        environment
    }

    #[test]
    fn decided_values_precede_the_process_and_those_precede_the_file() {
        let mut environment = of("PATH=file\nONLY_IN_FILE_7=file\nBLANK_7=\n", "order").unwrap();

        assert_ne!(environment.get("PATH").as_deref(), Some("file"));
        assert_eq!(environment.get("ONLY_IN_FILE_7").as_deref(), Some("file"));
        environment.set_default("ONLY_IN_FILE_7", "default");
        environment.set_default("BLANK_7", "default");
        assert_eq!(environment.get("ONLY_IN_FILE_7").as_deref(), Some("file"));
        assert_eq!(environment.get("BLANK_7").as_deref(), Some("default"));
        environment.set("PATH", "decided");
        assert_eq!(environment.get("PATH").as_deref(), Some("decided"));
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_it() {
        let error = of("GOOD=1\nsecret words\n", "broken").unwrap_err();

        assert!(error.ends_with("invalid line; expected NAME=value"), "{error}");
    }
}
