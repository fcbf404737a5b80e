//! Allowed hosts and origins of the MCP endpoint, and allowed hosts of requests without a key. Guards against DNS rebinding: a page whose name
//! resolves to this machine must not reach a service that listens only on loopback.
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header, uri::Authority};

use super::reader::Reader;
use crate::values::{Error, Result};

/// The names of the loopback interface.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Which requests the MCP endpoint accepts.
#[derive(Clone, Debug)]
pub(crate) struct McpSettings {
    /// Allowed names in `Host`. Empty allows any.
    hosts: Vec<Authority>,
    /// Allowed origins, each with its port.
    origins: Vec<String>,
}

impl McpSettings {
    /// Checks the `Host` and `Origin` of a request. Requests without them do not come from a browser,
    /// which alone is open to DNS rebinding, and are allowed.
    ///
    /// # Errors
    /// [`Error::Forbidden`] names the variable that would allow the request.
    pub(crate) fn check_source(&self, headers: &HeaderMap) -> Result<()> {
        self.check_host(headers)?;
        if !headers.get_all(header::ORIGIN).iter().all(|origin| self.allows_origin(origin)) {
            let text = "Origin is not allowed: it must be in COORDINATION_ALLOWED_ORIGINS";
            return Err(Error::Forbidden(text.to_owned()));
        }
        Ok(())
    }

    /// Checks the `Host` of a request. A page that reaches the service by DNS rebinding is of the same origin
    /// as the service for its browser, which therefore sends no `Origin`.
    ///
    /// # Errors
    /// [`Error::Forbidden`] names the variable that would allow the request.
    pub(crate) fn check_host(&self, headers: &HeaderMap) -> Result<()> {
        if !headers.get_all(header::HOST).iter().all(|host| self.allows_host(host)) {
            let text = "Host is not allowed: it must be in COORDINATION_PUBLIC_HOSTS";
            return Err(Error::Forbidden(text.to_owned()));
        }
        Ok(())
    }

    fn allows_host(&self, host: &HeaderValue) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        let named = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        named.is_some_and(|named| {
            self.hosts.iter().any(|allowed| {
                allowed.host().eq_ignore_ascii_case(named.host())
                    && allowed.port_u16().is_none_or(|port| named.port_u16() == Some(port))
            })
        })
    }

    /// Whether pages of this origin can use the endpoint.
    pub(crate) fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let authority =
            origin.strip_prefix("http://").and_then(|rest| rest.parse::<Authority>().ok());
        let is_loopback = authority.is_some_and(|own| LOOPBACK.contains(&own.host()));
        is_loopback || self.origins.contains(&with_port(origin))
    }
}

impl Reader<'_> {
    /// Reads the settings of a service that listens on `host`. Pages of the CORS origins can always use
    /// it.
    pub(super) fn mcp(&mut self, host: Option<IpAddr>, cors: &[HeaderValue]) -> McpSettings {
        let mut hosts: Vec<Authority> = Vec::new();
        for name in ["COORDINATION_PUBLIC_HOSTS", "RAILWAY_PUBLIC_DOMAIN", "RAILWAY_PRIVATE_DOMAIN"]
        {
            hosts.extend(self.checked(name, |_, value| {
                let names = value.split(',').map(str::trim).filter(|it| !it.is_empty());
                names.map(host_name).collect::<Option<Vec<_>>>()
            }));
        }
        if !hosts.is_empty() || host.is_some_and(|host| host.is_loopback()) {
            hosts.extend(LOOPBACK.map(Authority::from_static));
        }
        let allowed = self.origins("COORDINATION_ALLOWED_ORIGINS");
        let origins = cors.iter().chain(&allowed).filter_map(|origin| origin.to_str().ok());
        McpSettings { hosts, origins: origins.map(with_port).collect() }
    }
}

/// Parses a host with an optional port and nothing else.
fn host_name(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let plain = !authority.as_str().contains(['@', '*']) && !authority.host().is_empty();
    plain.then_some(authority)
}

/// Adds the default port of its scheme to an origin without a port.
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
            assert_eq!(host_name(good).as_ref().map(Authority::as_str), Some(good));
        }
        for bad in ["https://a.example", "a.example/x", "u@a.example", "*.example", "a b", ":80"] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }
}
