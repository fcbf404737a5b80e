//! From what was said on the command line, and from who asks, to a request.
use std::{io::Read as _, time::Duration};

use clap::ArgMatches;
use serde_json::{Map, Value};

use crate::{
    cli,
    client::{Answer, Call, in_path, in_query},
    commands::{Argument, Command},
    outcome::Problem,
    routes::{Field, Kind, Place, Route},
    run::Context,
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
    fn call(&self) -> Call {
        let query: Vec<_> =
            self.query.iter().map(|(name, value)| format!("{name}={}", in_query(value))).collect();
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
        let asked = || {
            let found = self.query.iter().find(|it| it.0 == "wait_seconds");
            found.and_then(|it| it.1.parse().ok())
        };
        let wait = self.body.get("wait_seconds").and_then(Value::as_u64).or_else(asked);
        call.wait = Duration::from_secs(wait.unwrap_or_default());
        call
    }

    pub(crate) fn set_path(&mut self, name: &str, value: &str) {
        self.path = self.path.replace(&format!("{{{name}}}"), &in_path(value, name == "path"));
    }
}

impl Context {
    /// The request of a command, from its arguments and from who asks.
    pub(crate) fn draft(
        &self,
        command: &Command,
        route: &'static Route,
        matches: &ArgMatches,
    ) -> Result<Draft, Problem> {
        let mut draft = self.empty(route);
        for field in route.fields {
            let is_own = matches!(command.argument(field.name), Some(Argument::Hidden(_)))
                || (cli::is_identity(field) && command.argument(field.name).is_none());
            if is_own {
                continue;
            }
            let Some(value) = self.value(field, matches)? else { continue };
            match field.place {
                Place::Path => draft.set_path(field.name, &as_text(&value)),
                Place::Query => draft.query.push((field.name, as_text(&value))),
                Place::Body => {
                    draft.body.insert(field.name.to_owned(), value);
                }
            }
        }
        self.identify(&mut draft, |name| command.argument(name).is_none())?;
        Ok(draft)
    }

    pub(crate) fn empty(&self, route: &'static Route) -> Draft {
        Draft {
            route,
            path: route.path.to_owned(),
            query: Vec::new(),
            body: Map::new(),
            headers: Vec::new(),
        }
    }

    /// Says who asks: in the body where the route reads it there, else in headers.
    pub(crate) fn identify(
        &self,
        draft: &mut Draft,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<(), Problem> {
        let identity = &self.client.settings().identity;
        for field in draft.route.fields.iter().filter(|it| cli::is_identity(it) && is_ours(it.name))
        {
            let value = identity.member(field.name).unwrap_or_default();
            if field.is_required && field.name == "session_id" && value.is_empty() {
                return Err(Problem::wrong("Which session? Give --session-id or set SESSION_ID."));
            }
            if field.is_required || !value.is_empty() {
                draft.body.insert(field.name.to_owned(), value.into());
            }
        }
        for (header, value, member) in identity.headers() {
            let is_in_body = is_ours(member) && draft.body.contains_key(member);
            if !value.is_empty() && !is_in_body {
                draft.headers.push((header, value.to_owned()));
            }
        }
        Ok(())
    }

    /// A request to a route with this body, besides who asks.
    pub(crate) fn ask(&self, route: &str, body: Value) -> Result<Answer, Problem> {
        let route = Route::named(route)
            .ok_or_else(|| Problem::wrong(format!("The service has no {route}.")))?;
        let mut draft = self.empty(route);
        draft.body.extend(body.as_object().cloned().unwrap_or_default());
        self.identify(&mut draft, |_| true)?;
        self.send(&draft)
    }

    /// A request to a route with this parameter in its path.
    pub(crate) fn look(&self, route: &str, name: &str, value: &str) -> Result<Answer, Problem> {
        let route = Route::named(route)
            .ok_or_else(|| Problem::wrong(format!("The service has no {route}.")))?;
        let mut draft = self.empty(route);
        draft.set_path(name, value);
        self.identify(&mut draft, |_| true)?;
        self.send(&draft)
    }

    pub(crate) fn send(&self, draft: &Draft) -> Result<Answer, Problem> {
        Ok(self.client.send(draft.call())?)
    }

    pub(crate) fn value(
        &self,
        field: &Field,
        matches: &ArgMatches,
    ) -> Result<Option<Value>, Problem> {
        let name = field.name;
        if !matches!(matches.try_contains_id(name), Ok(true)) {
            return Ok(None);
        }
        let value = match field.kind {
            Kind::Integer => matches.get_one::<i64>(name).map(|it| Value::from(*it)),
            Kind::Number => matches.get_one::<f64>(name).map(|it| Value::from(*it)),
            Kind::Boolean => matches.get_one::<bool>(name).map(|it| Value::from(*it)),
            Kind::Text => match matches.get_one::<String>(name) {
                Some(text) => Some(self.text(text)?.into()),
                None => None,
            },
            Kind::Texts => matches
                .get_many::<String>(name)
                .map(|all| all.map(|it| Value::from(it.as_str())).collect()),
            Kind::Values => {
                matches.get_many::<String>(name).map(|all| all.map(|it| anything(it)).collect())
            }
            Kind::Object | Kind::Any => match matches.get_one::<String>(name) {
                Some(text) => Some(self.object(field, text)?),
                None => None,
            },
        };
        Ok(value)
    }

    fn object(&self, field: &Field, text: &str) -> Result<Value, Problem> {
        let flag = field.name.replace('_', "-");
        let value: Value = serde_json::from_str(&self.text(text)?)
            .map_err(|error| Problem::wrong(format!("--{flag}: expected JSON: {error}.")))?;
        match field.kind == Kind::Object && !value.is_object() {
            true => Err(Problem::wrong(format!("--{flag}: expected a JSON object."))),
            false => Ok(value),
        }
    }

    /// A text, or standard input in its place.
    pub(crate) fn text(&self, text: &str) -> Result<String, Problem> {
        if text != "-" {
            return Ok(text.to_owned());
        }
        if self.is_stdin_read.replace(true) {
            return Err(Problem::wrong("Only one value can be read from standard input."));
        }
        let mut input = String::new();
        std::io::stdin()
            .read_to_string(&mut input)
            .map_err(|error| Problem::wrong(format!("Standard input: {error}.")))?;
        Ok(input.trim_end_matches(['\n', '\r']).to_owned())
    }
}

pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A member of a list of anything: an object or list when it looks like one, else a text.
pub(crate) fn anything(text: &str) -> Value {
    let json = text.starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten();
    json.unwrap_or_else(|| text.into())
}
