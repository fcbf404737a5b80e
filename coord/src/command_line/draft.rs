//! A request that is put together from arguments and from the identity of the caller.
use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Map, Value};

use super::{
    command::{Argument, Command},
    values::{StandardInput, value_of},
};
use crate::{
    output::outcome::Problem,
    service::{
        answer::as_text,
        client::{Call, encode, encode_rest_of_path},
        routes::{Location, Route},
        settings::Identity,
    },
};

/// A request that is being put together.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    route: &'static Route,
    path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Map<String, Value>,
    headers: Vec<(&'static str, String)>,
}

impl Draft {
    /// Creates a request without parameters and body.
    pub(crate) fn new(route: &'static Route) -> Draft {
        Draft {
            route,
            path: route.path.to_owned(),
            query: Vec::new(),
            body: Map::new(),
            headers: Vec::new(),
        }
    }

    /// Creates the request of a command from its arguments.
    pub(crate) fn from_arguments(
        command: &Command,
        matches: &ArgMatches,
        identity: &Identity,
        stdin: &StandardInput,
    ) -> Result<Draft, Problem> {
        let mut draft = Draft::new(command.route);
        for field in command.route.fields {
            let has_argument = match command.argument(field.name) {
                Some(Argument::Hidden(_)) => false,
                Some(_) => true,
                None => !field.is_identity(),
            };
            if !has_argument {
                continue;
            }
            let Some(value) = value_of(field, matches, stdin)? else { continue };
            match field.location {
                Location::Path => draft.set_path_parameter(field.name, &as_text(&value)),
                Location::Query => draft.query.push((field.name, as_text(&value))),
                Location::Body => {
                    draft.body.insert(field.name.to_owned(), value);
                }
            }
        }
        draft.identify(identity, |field| command.argument(field).is_none())?;
        Ok(draft)
    }

    pub(crate) fn set_path_parameter(&mut self, name: &str, value: &str) {
        let value = if name == "path" { encode_rest_of_path(value) } else { encode(value) };
        self.path = self.path.replace(&format!("{{{name}}}"), &value);
    }

    /// Adds the identity of the caller: to the body where the route has a field for it, else to the
    /// headers. Fields for which `names_caller` is false are arguments of the command.
    pub(crate) fn identify(
        &mut self,
        identity: &Identity,
        names_caller: impl Fn(&str) -> bool,
    ) -> Result<(), Problem> {
        let fields = self.route.fields.iter();
        for field in fields.filter(|field| field.is_identity() && names_caller(field.name)) {
            let value = identity.member(field.name).unwrap_or_default();
            if field.is_required && field.name == "session_id" && value.is_empty() {
                return Err(Problem::invalid(
                    "Expected a session: give --session-id or set SESSION_ID.",
                ));
            }
            if field.is_required || !value.is_empty() {
                self.body.insert(field.name.to_owned(), value.into());
            }
        }
        for (header, value, member) in identity.headers() {
            let is_in_body = names_caller(member) && self.body.contains_key(member);
            if !value.is_empty() && !is_in_body {
                self.headers.push((header, value.to_owned()));
            }
        }
        Ok(())
    }

    /// Returns the request.
    pub(crate) fn call(&self) -> Call {
        let query: Vec<_> =
            self.query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let path = match query.is_empty() {
            true => self.path.clone(),
            false => format!("{}?{}", self.path, query.join("&")),
        };
        let mut call = Call::new(self.route.method, &path);
        if self.route.has_body {
            call = call.json(&Value::Object(self.body.clone()));
        }
        call.is_repeatable = self.route.is_repeatable;
        call.headers.clone_from(&self.headers);
        call.wait = Duration::from_secs(self.wait_seconds());
        call
    }

    /// Returns for how long the service is asked to wait.
    pub(crate) fn wait_seconds(&self) -> u64 {
        self.body.get("wait_seconds").and_then(Value::as_u64).unwrap_or_default()
    }
}
