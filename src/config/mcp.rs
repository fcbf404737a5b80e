//! By which names the MCP endpoint may be reached, and from which pages. A page that has its own name
//! resolved to this machine must not reach a service that listens only here.
use std::net::IpAddr;

use http::HeaderValue;

use super::Reader;

/// The names by which this machine calls itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Which requests the MCP endpoint takes.
#[derive(Clone, Debug)]
pub(crate) struct McpSettings {
    /// Names in `Host`; none: any.
    pub(crate) hosts: Vec<String>,
    /// Pages in `Origin`, each with its port.
    pub(crate) origins: Vec<String>,
}

impl Reader<'_> {
    /// The settings of a service that listens on `host`; pages in `cors` may call it anyway.
    pub(super) fn mcp(&mut self, host: Option<IpAddr>, cors: &[HeaderValue]) -> McpSettings {
        let mut hosts: Vec<String> = Vec::new();
        for name in ["COORDINATION_PUBLIC_HOSTS", "RAILWAY_PUBLIC_DOMAIN", "RAILWAY_PRIVATE_DOMAIN"]
        {
            hosts.extend(self.checked(name, |_, value| {
                let names = value.split(',').map(str::trim).filter(|it| !it.is_empty());
                names.map(host_name).collect::<Option<Vec<_>>>()
            }));
        }
        if !hosts.is_empty() || host.is_some_and(|it| it.is_loopback()) {
            hosts.extend(LOOPBACK.map(str::to_owned));
        }
        let asked = self.origins("COORDINATION_ALLOWED_ORIGINS");
        let pages = cors.iter().chain(&asked).filter_map(|it| it.to_str().ok()).map(with_port);
        let own = ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"];
        McpSettings { hosts, origins: pages.chain(own.map(str::to_owned)).collect() }
    }
}

/// A host, perhaps with a port, and nothing else.
fn host_name(text: &str) -> Option<String> {
    let authority: http::uri::Authority = text.parse().ok()?;
    let plain = !authority.as_str().contains(['@', '*']) && !authority.host().is_empty();
    plain.then(|| text.to_ascii_lowercase())
}

/// An origin with the port that it means when it names none.
fn with_port(origin: &str) -> String {
    let (scheme, authority) = origin.split_once("://").unwrap_or_default();
    let bare = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    match (bare.contains(':'), scheme) {
        (true, _) => origin.to_owned(),
        (false, "https") => format!("{origin}:443"),
        (false, _) => format!("{origin}:80"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_without_a_port_means_that_of_its_scheme() {
        for (origin, whole) in [
            ("https://a.example", "https://a.example:443"),
            ("http://a.example", "http://a.example:80"),
            ("http://a.example:8080", "http://a.example:8080"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://[::1]:5173", "http://[::1]:5173"),
        ] {
            assert_eq!(with_port(origin), whole);
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_perhaps_with_a_port() {
        for good in ["a.example", "A.example:8081", "10.0.0.1", "[::1]:8081"] {
            assert_eq!(host_name(good), Some(good.to_ascii_lowercase()), "{good}");
        }
        for bad in ["https://a.example", "a.example/x", "u@a.example", "*.example", "a b", ":80"] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }
}
