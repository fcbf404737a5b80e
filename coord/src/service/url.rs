//! The URL of the service. The invariant: a URL whose host is not allowed is never used, so that a
//! variable that another party sets cannot send the key elsewhere (server-side request forgery).
use std::{fmt, net::Ipv6Addr};

use ureq::http::Uri;

/// The variable with the hosts that are allowed in addition to this machine, separated by commas.
pub const HOSTS_VARIABLE: &str = "COORDINATION_ALLOWED_HOSTS";

/// The hosts that are always allowed.
const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The URL of a service on an allowed host, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    is_this_machine: bool,
}

impl Url {
    /// Checks a URL against the list of allowed hosts: names separated by commas, where `*.domain`
    /// stands for every name below `domain` but not for `domain` itself. This machine is always
    /// allowed. The error says what is wrong with the URL.
    pub fn new(text: &str, allowed: &str) -> Result<Url, String> {
        let text = text.trim().trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| "expected an http or https URL".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("expected an http or https URL".to_owned());
        }
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if authority.contains('@') {
            return Err("expected a URL without user info; set COORDINATION_API_KEY instead".into());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("expected a URL without `?` and `#`".to_owned());
        }
        let host = uri.host().unwrap_or_default();
        check_port(authority.strip_prefix(host).unwrap_or(authority))?;
        let host = canonical_host(host)?;
        let is_this_machine = THIS_MACHINE.contains(&host.as_str());
        if !is_this_machine && !allowed.split(',').any(|rule| allows(rule.trim(), &host)) {
            return Err(format!(
                "the host {host} is not allowed; if it is right, add it to {HOSTS_VARIABLE}, or to \
                 your own configuration of git: git config --global coord.allowedHosts {host}"
            ));
        }
        Ok(Url { text: text.to_owned(), is_this_machine })
    }

    /// Returns the URL of a service on this machine.
    pub(crate) fn on_this_machine(port: u16) -> Url {
        Url { text: format!("http://localhost:{port}"), is_this_machine: true }
    }

    /// Returns the URL as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the host is this machine.
    pub fn is_this_machine(&self) -> bool {
        self.is_this_machine
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks what follows the host. The HTTP client would drop an invalid port and send the key to the
/// default port instead.
fn check_port(after_host: &str) -> Result<(), String> {
    let Some(port) = after_host.strip_prefix(':') else {
        return match after_host {
            "" => Ok(()),
            _ => Err("expected a port from 1 to 65535 after the colon".to_owned()),
        };
    };
    let is_digits = port.bytes().all(|digit| digit.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if is_digits => Ok(()),
        _ => Err("expected a port from 1 to 65535 after the colon".to_owned()),
    }
}

/// Returns the host in lower case, an IPv6 address without its brackets.
fn canonical_host(host: &str) -> Result<String, String> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) if address.parse::<Ipv6Addr>().is_err() => {
            Err("expected an IPv6 address in the brackets".to_owned())
        }
        Some(address) => Ok(address.to_owned()),
        None if host.is_empty() => Err("expected an http or https URL with a host".to_owned()),
        None => Ok(host.to_ascii_lowercase()),
    }
}

fn allows(rule: &str, host: &str) -> bool {
    let rule = rule.to_ascii_lowercase();
    match rule.strip_prefix("*.") {
        Some(domain) => host
            .strip_suffix(domain)
            .and_then(|below| below.strip_suffix('.'))
            .is_some_and(|below| !domain.is_empty() && !below.is_empty()),
        None => !rule.is_empty() && rule == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_hosts_are_asked() {
        let list = "coord.example.org, *.Railway.app ,,*., *";
        for allowed in [
            "http://localhost",
            "https://LOCALHOST:1/",
            "http://127.0.0.1:8081",
            "http://[::1]:8081",
            "https://coord.example.org/base/",
            "https://COORD.example.org",
            "https://a.railway.app",
            "https://a.b.railway.APP:444",
        ] {
            assert!(Url::new(allowed, list).is_ok(), "{allowed}");
        }
        for refused in [
            "",
            "localhost:8081",
            "ftp://localhost",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            "http://railway.app",
            "http://arailway.app",
            "http://.railway.app",
            "http://x.coord.example.org",
            "http://example.org",
            "http://localhost.example.org",
            "http://localhost@example.org",
            "http://user:password@localhost",
            "http://@localhost",
            "http://example.org#@localhost",
            "http://example.org\\@localhost",
            "http://localhost?x=1",
            "http://localhost#x",
            "http://127.0.0.2",
            "http://2130706433",
            "http://169.254.169.254",
            "http://[::ffff:127.0.0.1]",
            "http://local host",
            "http://localhost:",
            "http://localhost:/",
            "http://localhost:0",
            "http://localhost:+1",
            "http://localhost:99999",
            "http://localhost:65536/base",
            "http://[::1]:",
            "http://[::1]:99999",
            "http://[localhost]:1",
            "http://[localhost]",
            "http://[127.0.0.1]:1",
            "https://coord.example.org:99999",
        ] {
            assert!(Url::new(refused, list).is_err(), "{refused}");
        }
        assert!(Url::new("http://a.railway.app", "").is_err());
    }
}
