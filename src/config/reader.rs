//! Reads variables by their kind and collects every problem. By hand, because the crates for
//! configuration stop at the first wrong value or repeat the value, which can be a secret, and have no
//! reference document.
use std::{collections::BTreeSet, time::Duration};

use super::variables::{Kind, variable};

/// Everything that is wrong with the environment. Its text has one line per variable, with what was
/// expected and without the value, which can be a secret.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

/// Reads variables from a lookup function. Records an invalid value as a problem and returns the default
/// of the type, so that reading continues and finds the other problems too.
pub(super) struct Reader<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: BTreeSet<String>,
    /// What is accepted and has no effect.
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, problems: BTreeSet::new(), warnings: Vec::new() }
    }

    /// Returns what was read, or every recorded problem.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            return Ok(value);
        }
        Err(ConfigError(self.problems.into_iter().collect()))
    }

    pub(super) fn problem(&mut self, name: &str, expected: &str) {
        self.problems.insert(format!("{name}: expected {expected}"));
    }

    pub(super) fn invalid(&mut self, name: &str) {
        self.problem(name, &variable(name).kind.expected());
    }

    /// Returns the value of a variable, or its default. An empty value counts as unset.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name).filter(|it| !it.trim().is_empty());
        let default = variable(name).default;
        value.or_else(|| (!default.is_empty()).then(|| default.to_owned()))
    }

    pub(super) fn checked<T: Default>(
        &mut self,
        name: &str,
        parse: impl Fn(&Kind, &str) -> Option<T>,
    ) -> T {
        let Some(value) = self.text(name) else { return T::default() };
        parse(&variable(name).kind, value.trim()).unwrap_or_else(|| {
            self.invalid(name);
            T::default()
        })
    }

    pub(super) fn int<T: TryFrom<i64> + Default>(&mut self, name: &str) -> T {
        self.checked(name, |kind, value| {
            let Kind::Int(low, high) = kind else { return None };
            let number = value.parse().ok().filter(|it| (low..=high).contains(&it))?;
            T::try_from(number).ok()
        })
    }

    pub(super) fn seconds(&mut self, name: &str) -> Duration {
        Duration::from_secs(self.int(name))
    }

    pub(super) fn bool(&mut self, name: &str) -> bool {
        self.checked(name, |_, value| match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        })
    }

    pub(super) fn word(&mut self, name: &str) -> String {
        self.checked(name, |kind, value| {
            let Kind::Words(words) = kind else { return None };
            words.contains(&value).then(|| value.to_owned())
        })
    }
}
