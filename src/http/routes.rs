//! All routes, and the route that a request matches. The table is built once, at start.
use std::{cmp::Reverse, sync::Arc};

use http::Method;

use crate::operation::{Operations, Registered};

/// The path of the MCP endpoint.
pub(crate) const MCP_PATH: &str = "/mcp";

/// The pages: routes without an operation. Only the metrics need a key. An unknown key is refused on every
/// page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Health,
    Live,
    Ready,
    OpenApi,
    Docs,
    Metrics,
}

/// Path and summary of each page.
pub(super) const PAGES: [(&str, &str, Page); 6] = [
    ("/health", "Whether the database answers.", Page::Health),
    ("/live", "Whether the process is running. Does not use the database.", Page::Live),
    (
        "/ready",
        "Whether the service can do its work: database, schema and a trial write.",
        Page::Ready,
    ),
    ("/openapi.json", "This document.", Page::OpenApi),
    ("/docs", "This document for people.", Page::Docs),
    ("/metrics", "Counters for Prometheus. Needs a key unless they are public.", Page::Metrics),
];

/// The operation or page that answers a route.
#[derive(Clone)]
pub(super) enum Handler {
    Operation(Arc<Registered>),
    Page(Page),
}

/// A method, a path template, and what answers it.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Such as `/locks/status/{*path}`, where the starred parameter is the rest of the path.
    pub(super) template: &'static str,
    pub(super) handler: Handler,
}

/// The routes of one registered path, one for each method.
struct PathEntry {
    routes: Vec<Route>,
    /// The value of the `Allow` header.
    allowed: String,
}

/// All routes by path.
pub(super) struct Routes {
    by_path: matchit::Router<PathEntry>,
    /// The literal beginnings of templates with a starred parameter.
    open_ended: Vec<&'static str>,
}

/// The parameters of a path, still percent-encoded.
pub(super) type PathParameters<'a> = Vec<(&'a str, &'a str)>;

/// The result of matching a request.
pub(super) enum Match<'a> {
    Route(&'a Route, PathParameters<'a>),
    /// The path answers other methods, which are listed.
    OtherMethod(&'a str),
    /// The path without its trailing slash is a route.
    Redirect(&'a str),
    Nothing,
}

impl Routes {
    pub(super) fn new(operations: &Operations) -> Self {
        let mut routes: Vec<_> = PAGES
            .iter()
            .map(|(template, _, page)| Route {
                method: Method::GET,
                template,
                handler: Handler::Page(*page),
            })
            .collect();
        for operation in operations.iter() {
            for route in operation.meta.routes {
                let (method, template) = route.split_once(' ').expect("a method and a path");
                let method = method.parse().expect("a known method");
                let handler = Handler::Operation(operation.clone());
                routes.push(Route { method, template, handler });
            }
        }
        Self::from_list(&routes)
    }

    fn from_list(routes: &[Route]) -> Self {
        let open_ended: Vec<_> = routes.iter().filter_map(Route::open_end).collect();
        // A starred parameter can be empty, which matchit does not support, so such a template is
        // registered a second time without the parameter.
        let templates = routes.iter().map(|route| route.template);
        let mut paths: Vec<_> = templates.chain(open_ended.iter().copied()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut by_path = matchit::Router::new();
        for path in paths {
            let routes = routes_at(routes, path);
            let methods: Vec<_> = routes.iter().map(|route| route.method.as_str()).collect();
            let allowed = methods.join(", ");
            by_path.insert(path, PathEntry { routes, allowed }).expect("templates do not conflict");
        }
        Self { by_path, open_ended }
    }

    /// Finds the route of a method and a path.
    pub(super) fn find<'a>(&'a self, method: &Method, path: &'a str) -> Match<'a> {
        // A HEAD request is answered like a GET request, without the body.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let Ok(found) = self.by_path.at(path) else {
            return self.redirect(None, path).unwrap_or(Match::Nothing);
        };
        let entry = found.value;
        match entry.routes.iter().find(|route| route.method == *method) {
            Some(route) => Match::Route(route, route.parameters(path, &found.params)),
            None => {
                let redirect = self.redirect(Some(method), path);
                redirect.unwrap_or(Match::OtherMethod(&entry.allowed))
            }
        }
    }

    /// Returns a redirect to the path without its trailing slash, where that path answers the method, or
    /// any method. Not below an open-ended template: there the slash can belong to a lock key.
    fn redirect<'a>(&self, method: Option<&Method>, path: &'a str) -> Option<Match<'a>> {
        let path = path.strip_suffix('/')?;
        if self.open_ended.iter().any(|start| path.starts_with(start)) {
            return None;
        }
        let answers = |route: &Route| method.is_none_or(|method| route.method == *method);
        let is_known = match self.by_path.at(path) {
            Ok(found) => found.value.routes.iter().any(answers),
            Err(_) => path == MCP_PATH,
        };
        is_known.then_some(Match::Redirect(path))
    }
}

/// Returns the routes of one path, one for each method. A path below an open-ended template answers the
/// methods of that template too: `DELETE /locks/acquire` releases the lock `acquire`.
fn routes_at(routes: &[Route], path: &str) -> Vec<Route> {
    let is_below = |route: &Route| route.open_end().is_some_and(|start| path.starts_with(start));
    let mut candidates: Vec<_> =
        routes.iter().filter(|route| route.template == path || is_below(route)).collect();
    candidates.sort_by_key(|route| Reverse((route.template == path, route.template.len())));
    let mut chosen: Vec<Route> = Vec::new();
    for route in candidates {
        if chosen.iter().all(|other| other.method != route.method) {
            chosen.push(route.clone());
        }
    }
    chosen
}

impl Route {
    /// Returns `/locks/` for `/locks/{*path}`, and `None` for a template without a starred parameter.
    fn open_end(&self) -> Option<&'static str> {
        self.template.split_once("{*").map(|(start, _)| start)
    }

    /// Returns the parameters of a path that this route answers.
    fn parameters<'a>(
        &self,
        path: &'a str,
        matched: &matchit::Params<'a, 'a>,
    ) -> PathParameters<'a> {
        // The path can be registered for another route, without this parameter.
        match self.template.split_once("{*") {
            Some((start, name)) => vec![(name.trim_end_matches('}'), &path[start.len()..])],
            None => matched.iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let route = |method: Method, template| Route {
            method,
            template,
            handler: Handler::Page(Page::Live),
        };
        Routes::from_list(&[
            route(Method::GET, "/locks"),
            route(Method::POST, "/locks/acquire"),
            route(Method::GET, "/locks/status/{*path}"),
            route(Method::DELETE, "/locks/{*path}"),
            route(Method::GET, "/sessions/{id}"),
        ])
    }

    /// Describes what a request matches: template and parameters, allowed methods, or a redirect.
    fn found(method: Method, path: &str) -> String {
        match routes().find(&method, path) {
            Match::Route(route, parameters) => format!("{} {parameters:?}", route.template),
            Match::OtherMethod(allowed) => format!("405 {allowed}"),
            Match::Redirect(path) => format!("307 {path}"),
            Match::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn parameters_stay_percent_encoded_and_a_starred_one_takes_the_rest() {
        assert_eq!(found(Method::GET, "/sessions/a%2Fb"), r#"/sessions/{id} [("id", "a%2Fb")]"#);
        assert_eq!(
            found(Method::GET, "/locks/status/src/a.rs/"),
            r#"/locks/status/{*path} [("path", "src/a.rs/")]"#
        );
        assert_eq!(found(Method::GET, "/locks/status/"), r#"/locks/status/{*path} [("path", "")]"#);
    }

    #[test]
    fn a_path_below_an_open_end_answers_the_methods_of_both() {
        assert_eq!(found(Method::POST, "/locks/acquire"), "/locks/acquire []");
        assert_eq!(
            found(Method::DELETE, "/locks/acquire"),
            r#"/locks/{*path} [("path", "acquire")]"#
        );
        let below_both = r#"/locks/{*path} [("path", "status/a")]"#;
        assert_eq!(found(Method::DELETE, "/locks/status/a"), below_both);
        assert_eq!(found(Method::PUT, "/locks/acquire"), "405 POST, DELETE");
    }

    #[test]
    fn a_trailing_slash_redirects_except_where_it_can_belong_to_a_key() {
        assert_eq!(found(Method::GET, "/locks/"), "307 /locks");
        assert_eq!(found(Method::HEAD, "/locks/"), "307 /locks");
        assert_eq!(found(Method::GET, "/sessions/a/"), "307 /sessions/a");
        assert_eq!(found(Method::POST, "/mcp/"), "307 /mcp");
        assert_eq!(found(Method::PUT, "/locks/"), "405 DELETE");
        assert_eq!(found(Method::POST, "/locks/acquire/"), "405 DELETE");
        assert_eq!(found(Method::GET, "/nothing/"), "404");
        assert_eq!(found(Method::GET, "/"), "404");
    }
}
