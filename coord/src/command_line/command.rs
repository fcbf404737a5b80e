//! The description of a command that calls a route.
use serde_json::Value;

use crate::{
    output::show::Show,
    service::{
        answer::Answer,
        routes::{Field, Route},
    },
};

/// A command that calls a route.
#[derive(Debug)]
pub(crate) struct Command {
    /// The words that call the command, such as `session start`.
    pub(crate) words: &'static str,
    /// The route that the command calls; the first one if there are several.
    pub(crate) route: &'static Route,
    /// What the command does; without it, the description of the route counts.
    pub(crate) about: Option<&'static str>,
    /// The arguments that are not flags with the name of a field of the route.
    pub(crate) arguments: &'static [Argument],
    /// How a successful answer is shown to people.
    pub(crate) show: Show,
    /// How the command runs.
    pub(crate) run: Run,
}

/// An argument that is not a flag with the name of a field of the route.
#[derive(Debug)]
pub(crate) enum Argument {
    /// The field is positional: its name, and the name of the value.
    Positional(&'static str, &'static str),
    /// The flag of the field has another name: the field, and the flag.
    Renamed(&'static str, &'static str),
    /// Without its flag, the field has this value instead of the default of the route.
    Default(&'static str, &'static str),
    /// The field has no argument.
    Hidden(&'static str),
    /// A flag for a field of another route, which the command calls as well.
    FieldOf(&'static Field),
    /// A flag without a value that is not a field: name, and help text.
    Switch(&'static str, &'static str),
    /// A flag with a value that is not a field: name, name of the value, and help text.
    Value(&'static str, &'static str, &'static str),
    /// Any number of positional values that are not a field: name, name of a value, and help text.
    Rest(&'static str, &'static str, &'static str),
}

/// Creates a flag for a field of another route. A field that `docs/openapi.json` does not have is
/// an error of the compiler.
pub(crate) const fn field_of(route: &str, name: &str) -> Argument {
    match Route::named(route).field(name) {
        Some(field) => Argument::FieldOf(field),
        None => panic!("the route in docs/openapi.json has no such field"),
    }
}

/// How a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Calls the route.
    Call,
    Claim,
    ListTasks,
    Lock,
    Unlock,
    Verify,
    ListLocks,
    Renew,
    AllocatePorts,
    StartSession,
    EndSession,
}

impl Command {
    /// Creates a command that calls its route. A route that is not in `docs/openapi.json` is an
    /// error of the compiler.
    pub(crate) const fn new(
        words: &'static str,
        route: &'static str,
        arguments: &'static [Argument],
        show: Show,
    ) -> Command {
        let route = Route::named(route);
        Command { words, route, about: None, arguments, show, run: Run::Call }
    }

    pub(crate) const fn run(self, run: Run) -> Command {
        Command { run, ..self }
    }

    pub(crate) const fn about(self, about: &'static str) -> Command {
        Command { about: Some(about), ..self }
    }

    /// Returns the same command without arguments, whose answer is shown in another way.
    pub(crate) const fn showing(&self, show: Show) -> Command {
        Command {
            words: self.words,
            route: self.route,
            about: None,
            arguments: &[],
            show,
            run: Run::Call,
        }
    }

    /// Whether a successful answer has the form that the service gives it. Another server at the
    /// URL can answer 200 as well; without this check its page would count as a lock.
    pub(crate) fn accepts(&self, answer: &Answer) -> bool {
        let Some(json) = &answer.json else { return false };
        match (self.run, &self.show) {
            (Run::Unlock, _) if json["released"].is_boolean() => true,
            (Run::Lock | Run::Unlock | Run::Renew | Run::Claim, _)
            | (Run::StartSession | Run::EndSession, _) => json["success"].is_boolean(),
            (_, Show::Table("", _)) => json.is_array(),
            (_, Show::Table(list, _)) => json[*list].is_array(),
            (_, Show::Sentence(template)) => has_members_of(template, json),
            _ => json.is_object(),
        }
    }

    /// Returns the argument that is listed for a field of the route.
    pub(crate) fn argument(&self, field: &str) -> Option<&'static Argument> {
        self.arguments.iter().find(|argument| match argument {
            Argument::Positional(name, _)
            | Argument::Renamed(name, _)
            | Argument::Default(name, _)
            | Argument::Hidden(name) => *name == field,
            _ => false,
        })
    }
}
/// Whether an answer has the members that a sentence names in braces.
fn has_members_of(template: &str, answer: &Value) -> bool {
    let names = template.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0));
    names.into_iter().all(|name| answer.get(name).is_some())
}
