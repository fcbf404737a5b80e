//! The connection that a request came through: what the server needs to know when it must choose which
//! connection to close for another one, `docs/decisions/0020-connections-under-attack.md`.
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// The value of `stalled_after` while the service works on a request.
const IN_WORK: u64 = u64::MAX;

/// The value of `stalled_after` until the service has first found nothing to read. A client can have sent a request
/// already, which the service has not come to.
const NEW: u64 = u64::MAX - 1;

/// The value of `key` without one.
const NO_KEY: usize = usize::MAX;

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end. Behind a proxy, the proxy.
    pub(crate) address: IpAddr,
    /// Whether it was accepted beyond the maximum, because no other one could be closed for it.
    pub(crate) is_beyond_max: bool,
    accepted: Instant,
    /// The microseconds from `accepted` to the moment since which only the client can go on.
    stalled_after: AtomicU64,
    /// The number of the key that the last authenticated request has shown.
    key: AtomicUsize,
    /// Whether a part of a request has arrived that is not in work.
    has_begun_request: AtomicBool,
}

impl Connection {
    /// Creates the state of a connection that was just accepted.
    pub(crate) fn new(address: IpAddr, is_beyond_max: bool) -> Self {
        Self {
            address,
            is_beyond_max,
            accepted: Instant::now(),
            stalled_after: AtomicU64::new(NEW),
            key: AtomicUsize::new(NO_KEY),
            has_begun_request: AtomicBool::new(false),
        }
    }

    /// Returns the network that counts as one client.
    pub(crate) fn network(&self) -> IpAddr {
        network(self.address)
    }

    /// Notes that bytes have arrived.
    pub(crate) fn note_bytes(&self) {
        self.has_begun_request.store(true, Ordering::Relaxed);
    }

    /// Notes that there is nothing to read. A new connection is stalled from now on.
    pub(crate) fn note_silence(&self) {
        if self.stalled_after.load(Ordering::Relaxed) == NEW {
            self.stall();
        }
    }

    /// Notes that the service works on a request.
    pub(crate) fn begin_work(&self) {
        self.has_begun_request.store(false, Ordering::Relaxed);
        self.stalled_after.store(IN_WORK, Ordering::Relaxed);
    }

    /// Notes that the client has to do something now: take the answer, or send a request or its body.
    pub(crate) fn stall(&self) {
        let after = u64::try_from(self.accepted.elapsed().as_micros()).unwrap_or(NEW - 1);
        self.stalled_after.store(after, Ordering::Relaxed);
    }

    /// Waits for something that the client has to send. The connection is stalled meanwhile.
    pub(crate) async fn wait_for_client<T>(&self, sent: impl Future<Output = T>) -> T {
        self.stall();
        let sent = sent.await;
        self.begin_work();
        sent
    }

    /// Returns since when only the client can go on, or `None` while the service works on a request.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        let after = self.stalled_after.load(Ordering::Relaxed);
        (after < NEW).then(|| self.accepted + Duration::from_micros(after))
    }

    /// Whether a part of a request has arrived that is not in work.
    pub(crate) fn has_begun_request(&self) -> bool {
        self.has_begun_request.load(Ordering::Relaxed)
    }

    /// Notes which key a request has shown, by its number in the ring.
    pub(crate) fn note_key(&self, number: Option<usize>) {
        self.key.store(number.unwrap_or(NO_KEY), Ordering::Relaxed);
    }

    /// Returns the number of the key that the last authenticated request has shown.
    pub(crate) fn key_number(&self) -> Option<usize> {
        Some(self.key.load(Ordering::Relaxed)).filter(|number| *number != NO_KEY)
    }
}

/// Returns the network of an address that counts as one client: of IPv6 the first 64 bits, because everybody
/// with an address has all others of that network too.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_counts_as_its_network() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:2::9"), of("2001:db8:1:3::9"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
