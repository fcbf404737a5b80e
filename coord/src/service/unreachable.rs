//! Why no connection could be opened, in words. A sandbox without network is named, because its
//! agent would look for the fault at the service.
use std::io;

use ureq::{Proxy, http::Uri};

/// How a sandbox is left.
const LEAVE: &str = "allow it there, or run the command outside of the sandbox";

/// The errors of Windows for a name that no server resolved: host not found, and try again.
const WINDOWS_RESOLUTION: [i32; 2] = [11001, 11002];

/// Describes why no connection to the service at this address could be opened. A proxy that the
/// environment names is a party of its own: the service possibly runs, and nothing has asked it.
pub(super) fn describe(error: &ureq::Error, address: &str, proxy: Option<&Proxy>) -> String {
    let address = address.parse::<Uri>().unwrap_or_default();
    match proxy.filter(|proxy| !proxy.is_no_proxy(&address)) {
        Some(proxy) => describe_proxy(error, proxy),
        None => describe_direct(error, address.host().unwrap_or_default()),
    }
}

fn describe_direct(error: &ureq::Error, host: &str) -> String {
    let unresolved = |detail: &str| {
        format!(
            "the host name {host} could not be resolved{detail}: is this a sandbox without \
             network? If it is, {LEAVE}; if not, check the name"
        )
    };
    match error {
        ureq::Error::HostNotFound => unresolved(""),
        ureq::Error::Io(error) if is_resolution(error) => unresolved(&format!(" ({error})")),
        ureq::Error::Io(error) => describe_io(error),
        other => other.to_string(),
    }
}

fn describe_proxy(error: &ureq::Error, proxy: &Proxy) -> String {
    let (host, port) = (proxy.host(), proxy.port());
    let reason = match error {
        ureq::Error::ConnectProxyFailed(reason) => reason.clone(),
        ureq::Error::HostNotFound => format!("the host name {host} could not be resolved"),
        ureq::Error::Io(error) if is_resolution(error) => {
            format!("the host name {host} could not be resolved ({error})")
        }
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    format!(
        "no connection by the proxy {host}:{port}, which ALL_PROXY, HTTPS_PROXY or HTTP_PROXY \
         names: {reason}. Is this a sandbox without network? If it is, {LEAVE}; if not, correct \
         that variable, or add the host of the service to NO_PROXY"
    )
}

fn describe_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => {
            format!("{error}; this program has no access to the network, as in a sandbox: {LEAVE}")
        }
        _ => error.to_string(),
    }
}

/// Whether a name was not resolved. The standard library gives these errors no kind of their own.
fn is_resolution(error: &io::Error) -> bool {
    let is_of_windows = cfg!(windows)
        && error.raw_os_error().is_some_and(|code| WINDOWS_RESOLUTION.contains(&code));
    is_of_windows || error.to_string().starts_with("failed to lookup address information")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "http://coordinator.example.org:8081";

    fn of(error: io::Error) -> String {
        describe(&ureq::Error::Io(error), ADDRESS, None)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_sandbox_without_network_is_named() {
        // The errors of `connect` under seccomp or Seatbelt, under Landlock, and in a network
        // namespace of its own.
        for number in [1, 13, 101] {
            let text = of(io::Error::from_raw_os_error(number));
            assert!(text.contains("sandbox"), "{text}");
        }
        let refused = of(io::ErrorKind::ConnectionRefused.into());
        assert!(!refused.contains("sandbox"), "{refused}");
    }

    #[test]
    fn a_name_that_no_server_resolves_is_named() {
        // EAI_AGAIN, as in a sandbox, and EAI_NONAME.
        for words in ["Temporary failure in name resolution", "Name or service not known"] {
            let text =
                of(io::Error::other(format!("failed to lookup address information: {words}")));
            let named = "the host name coordinator.example.org could not be resolved";
            assert!(text.starts_with(named) && text.contains("sandbox"), "{text}");
        }
        let text = describe(&ureq::Error::HostNotFound, ADDRESS, None);
        assert!(text.contains("could not be resolved: is this a sandbox"), "{text}");
    }

    #[test]
    fn a_proxy_is_named_unless_the_host_needs_none() {
        let proxy = |no_proxy: &str| {
            let builder = Proxy::builder(ureq::ProxyProtocol::Http).host("gate").port(3128);
            builder.no_proxy(no_proxy).build().unwrap()
        };
        let refused = || ureq::Error::ConnectProxyFailed("proxy server responded 403/403".into());
        let text = describe(&refused(), ADDRESS, Some(&proxy("other")));
        assert!(text.contains("by the proxy gate:3128, which ALL_PROXY"), "{text}");
        assert!(text.contains("403") && text.contains("sandbox"), "{text}");
        let text = describe(&refused(), ADDRESS, Some(&proxy("coordinator.example.org")));
        assert!(!text.contains("gate"), "{text}");
    }
}
