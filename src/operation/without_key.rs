//! Requests without a key that are in work: how many of all of them, and of each address.
use std::{collections::HashMap, net::IpAddr, sync::Mutex};

use super::{
    connection::network,
    limits::Limit,
    metrics::{Gauge, Present},
    wait_slots::leave,
};
use crate::values::lock;

/// The requests without a key that are in work in this process.
#[derive(Debug, Default)]
pub(crate) struct WithoutKey {
    in_work: Gauge,
    by_network: Mutex<HashMap<IpAddr, usize>>,
}

/// The permission to be in work, until it is dropped.
#[derive(Debug)]
pub(crate) struct InWork<'a> {
    requests: &'a WithoutKey,
    network: Option<IpAddr>,
    _present: Present,
}

impl WithoutKey {
    /// Counts a request as in work.
    ///
    /// # Errors
    /// Names the limit that is reached: `max` requests in all, or `max_per_address`. The address is not known
    /// on Lambda.
    pub(crate) fn begin(
        &self,
        address: Option<IpAddr>,
        max: usize,
        max_per_address: usize,
    ) -> Result<InWork<'_>, Limit> {
        let _present = self.in_work.enter();
        if self.in_work.level() > max as u64 {
            return Err(Limit::WithoutKey);
        }
        let network = address.map(network);
        if let Some(network) = network {
            let mut by_network = lock(&self.by_network);
            let count = by_network.entry(network).or_default();
            if *count >= max_per_address {
                return Err(Limit::RequestsOfAddress);
            }
            *count += 1;
        }
        Ok(InWork { requests: self, network, _present })
    }
}

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        if let Some(network) = &self.network {
            leave(&mut lock(&self.requests.by_network), network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_counts_the_requests_in_work() {
        let requests = WithoutKey::default();
        let begin = |address: &str| requests.begin(address.parse().ok(), 3, 2);
        let first = begin("192.0.2.1").expect("the first of its address");
        let _second = begin("192.0.2.1").expect("the second of its address");
        assert_eq!(begin("192.0.2.1").err(), Some(Limit::RequestsOfAddress));
        let _third = begin("192.0.2.2").expect("the third of all");
        assert_eq!(begin("192.0.2.3").err(), Some(Limit::WithoutKey));
        drop(first);
        drop(begin("192.0.2.1").expect("the second of its address again"));
        assert_eq!(lock(&requests.by_network).len(), 2);
    }

    #[test]
    fn requests_without_an_address_have_no_limit_of_their_own() {
        let requests = WithoutKey::default();
        let _first = requests.begin(None, 2, 1).expect("the first");
        let _second = requests.begin(None, 2, 1).expect("the second");
        assert!(lock(&requests.by_network).is_empty());
    }
}
