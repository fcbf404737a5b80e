//! The routes of the service, as its OpenAPI document describes them: the build puts them in here.

/// Where a field of a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// In the body.
    Body,
}

/// What a field of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list of texts.
    Texts,
    /// A list of anything.
    Values,
    /// An object.
    Object,
    /// Anything.
    Any,
}

/// A field of a request.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// Whether a request without it is refused.
    pub is_required: bool,
    /// What the service takes when it is not sent, as text.
    pub default: Option<&'static str>,
    /// The values that are allowed; empty when it is not one of few.
    pub choices: &'static [&'static str],
    /// What it means.
    pub description: &'static str,
}

/// A route of the service.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The HTTP verb, in capitals.
    pub method: &'static str,
    /// The path, with `{name}` for each parameter.
    pub path: &'static str,
    /// The name of the operation in the document.
    pub id: &'static str,
    /// What it is for, in one sentence.
    pub summary: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Whether a body belongs to it.
    pub has_body: bool,
    /// Whether it is a write that takes an idempotency key.
    pub is_repeatable: bool,
    /// Whether it needs no key.
    pub is_open: bool,
    /// What it takes.
    pub fields: &'static [Field],
}

impl Route {
    /// The route of a verb and a path as the document writes it, such as `DELETE /locks/{path}`.
    pub fn named(name: &str) -> Option<&'static Route> {
        let (method, path) = name.split_once(' ')?;
        ROUTES.iter().find(|it| it.method == method && it.path == path)
    }

    /// The route that a request goes to. A route without parameters comes before one with them.
    pub fn serving(method: &str, path: &str) -> Option<&'static Route> {
        let path = path.split('?').next().unwrap_or_default();
        let serves = |it: &&Route| it.method == method && it.matches(path);
        ROUTES.iter().find(|it| it.path == path && serves(it)).or(ROUTES.iter().find(serves))
    }

    fn matches(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        for expected in self.path.split('/') {
            match parts.next() {
                // Only this parameter takes slashes; it is the last one.
                Some(_) if expected == "{path}" => return true,
                Some(part)
                    if part == expected || (expected.starts_with('{') && !part.is_empty()) => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|it| it.name == name)
    }
}

include!(concat!(env!("OUT_DIR"), "/routes.rs"));
