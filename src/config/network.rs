//! Where the service listens, and which pages can call it from a browser.
use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderValue, Uri};

use super::reader::Reader;

impl Reader<'_> {
    pub(super) fn port(&mut self) -> u16 {
        match self.int("API_PORT") {
            0 => self.int("PORT"),
            port => port,
        }
    }

    pub(super) fn host(&mut self) -> Option<IpAddr> {
        self.checked("API_HOST", |_, value| {
            let bare = value.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            let address: IpAddr = bare.unwrap_or(value).parse().ok()?;
            Some((address != Ipv6Addr::UNSPECIFIED).then_some(address))
        })
    }

    pub(super) fn cors_origins(&mut self) -> Vec<HeaderValue> {
        let extra = self.origins("COORDINATOR_CORS_ALLOWED_ORIGINS");
        let own = const { HeaderValue::from_static("http://localhost:5173") };
        std::iter::once(own).chain(extra).collect()
    }

    pub(super) fn origins(&mut self, name: &str) -> Vec<HeaderValue> {
        self.checked(name, |_, value| {
            let origins = value.split(',').map(str::trim).filter(|it| !it.is_empty());
            origins.map(origin).collect::<Option<Vec<_>>>()
        })
    }
}

/// Parses an origin in the form that browsers send: scheme, host and optional port, without a slash after
/// them.
fn origin(text: &str) -> Option<HeaderValue> {
    let uri: Uri = text.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let whole = format!("{scheme}://{authority}");
    let plain = ["http", "https"].contains(&scheme) && !authority.as_str().contains('@');
    (plain && whole == text).then(|| whole.parse().ok())?
}
