//! The routes of the service, generated from its OpenAPI document by the build script.

/// Where a request carries a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// In the body.
    Body,
}

/// The type of a field.
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
    /// A list of values of any type.
    Values,
    /// An object.
    Object,
    /// A value of any type.
    Any,
}

/// A field of a request.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name of the field.
    pub name: &'static str,
    /// Where the request carries the field.
    pub location: Location,
    /// Type of the field.
    pub kind: Kind,
    /// Whether the service rejects a request without the field.
    pub is_required: bool,
    /// The value that the service assumes when the field is absent, as text.
    pub default: Option<&'static str>,
    /// The allowed values; empty when any value of the type is allowed.
    pub choices: &'static [&'static str],
    /// Description of the field.
    pub description: &'static str,
}

impl Field {
    /// Whether the field names the caller: its agent or its session.
    pub(crate) fn is_identity(&self) -> bool {
        self.location == Location::Body
            && matches!(self.name, "agent_id" | "agent_type" | "session_id")
    }
}

/// A route of the service.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Method and path as the document writes them, such as `DELETE /locks/{path}`.
    pub name: &'static str,
    /// The HTTP method, in capitals.
    pub method: &'static str,
    /// The path, with `{name}` for each parameter.
    pub path: &'static str,
    /// The name of the operation in the document.
    pub id: &'static str,
    /// What the operation does, in one sentence.
    pub summary: &'static str,
    /// What the operation does.
    pub description: &'static str,
    /// Whether requests have a body.
    pub has_body: bool,
    /// Whether the operation is a write that accepts an idempotency key.
    pub is_repeatable: bool,
    /// Whether the route needs no key.
    pub is_open: bool,
    /// Fields of a request.
    pub fields: &'static [Field],
}

impl Route {
    /// Returns the route with a name, such as `DELETE /locks/{path}`.
    ///
    /// # Panics
    /// If `docs/openapi.json` has no such route. In a constant, this is a compile error.
    pub const fn named(name: &str) -> &'static Route {
        let mut next = 0;
        while next < ROUTES.len() {
            if is_equal(ROUTES[next].name.as_bytes(), name.as_bytes()) {
                return &ROUTES[next];
            }
            next += 1;
        }
        panic!("docs/openapi.json has no such route: run `make prepare docs` first")
    }

    /// Returns the route that serves a request. A route without parameters wins over one with them.
    pub fn serving(method: &str, path: &str) -> Option<&'static Route> {
        let path = path.split('?').next().unwrap_or_default();
        let serves = |route: &&Route| route.method == method && route.matches(path);
        ROUTES
            .iter()
            .find(|route| route.path == path && serves(route))
            .or(ROUTES.iter().find(serves))
    }

    fn matches(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        for expected in self.path.split('/') {
            match parts.next() {
                // `{path}` is always the last parameter, and the only one that can contain slashes.
                Some(_) if expected == "{path}" => return true,
                Some(part)
                    if part == expected || (expected.starts_with('{') && !part.is_empty()) => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// Returns the field with this name.
    pub const fn field(&self, name: &str) -> Option<&'static Field> {
        let fields = self.fields;
        let mut next = 0;
        while next < fields.len() {
            if is_equal(fields[next].name.as_bytes(), name.as_bytes()) {
                return Some(&fields[next]);
            }
            next += 1;
        }
        None
    }
}

/// Compares bytes. `==` on slices is not available in constants.
const fn is_equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut next = 0;
    while next < left.len() {
        if left[next] != right[next] {
            return false;
        }
        next += 1;
    }
    true
}

include!(concat!(env!("OUT_DIR"), "/routes.rs"));
