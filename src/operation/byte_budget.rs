//! How many bytes of bodies and answers a process holds, in all and for each key. Without a limit, a few clients
//! with many requests at once could take all of its memory: `docs/decisions/0021-bounds-in-bytes.md`.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::body::Bytes;

use super::limits::Limit;
use crate::{config::ByteLimits, values::lock};

/// Bodies and answers up to this size are not counted, in bytes: what the connections of a process can have of
/// them is little, and they go on where the limit is reached.
const SMALL: usize = 16 << 10;

/// The bytes that a process holds.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    limits: ByteLimits,
    held: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// By the number of the key in the ring. Requests without a key count as those of one.
    by_key: HashMap<Option<usize>, usize>,
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    budget: Arc<ByteBudget>,
    key: Option<usize>,
    bytes: usize,
}

impl ByteBudget {
    pub(super) fn new(limits: ByteLimits) -> Arc<Self> {
        Arc::new(Self { limits, held: Mutex::default() })
    }

    /// Counts bytes for a key.
    ///
    /// # Errors
    /// Names the limit that they would exceed.
    pub(crate) fn hold(
        self: &Arc<Self>,
        key: Option<usize>,
        bytes: usize,
    ) -> Result<HeldBytes, Limit> {
        if bytes > SMALL {
            let held = lock(&self.held);
            let of_key = held.by_key.get(&key).copied().unwrap_or_default();
            if of_key + bytes > self.limits.per_key {
                return Err(Limit::BytesOfKey);
            }
            if held.total + bytes > self.limits.total {
                return Err(Limit::Bytes);
            }
        }
        Ok(self.count(key, bytes))
    }

    /// Counts bytes for a key, whatever the limits: they are there already.
    pub(super) fn count(self: &Arc<Self>, key: Option<usize>, bytes: usize) -> HeldBytes {
        let bytes = if bytes > SMALL { bytes } else { 0 };
        if bytes > 0 {
            let mut held = lock(&self.held);
            held.total += bytes;
            *held.by_key.entry(key).or_default() += bytes;
        }
        HeldBytes { budget: self.clone(), key, bytes }
    }
}

impl HeldBytes {
    /// Counts only so many of the bytes from now on.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let kept = if bytes > SMALL { bytes.min(self.bytes) } else { 0 };
        self.release(self.bytes - kept);
    }

    /// Returns an answer that is counted as long as a part of it is to be written.
    pub(super) fn with(self, answer: Bytes) -> Bytes {
        match self.bytes {
            0 => answer,
            _ => Bytes::from_owner(HeldAnswer { answer, _held: self }),
        }
    }

    fn release(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut held = lock(&self.budget.held);
        held.total -= bytes;
        self.bytes -= bytes;
        if let Some(of_key) = held.by_key.get_mut(&self.key) {
            *of_key -= bytes;
            if *of_key == 0 {
                held.by_key.remove(&self.key);
            }
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

struct HeldAnswer {
    answer: Bytes,
    _held: HeldBytes,
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = SMALL + 1;

    #[test]
    fn each_limit_counts_the_bytes_that_are_held() {
        let budget = ByteBudget::new(ByteLimits { total: 3 * LARGE, per_key: 2 * LARGE });
        let refused = |key, bytes| budget.hold(key, bytes).err();
        let mut first = budget.hold(None, 2 * LARGE).expect("room");
        assert_eq!(refused(None, LARGE), Some(Limit::BytesOfKey));
        assert_eq!(refused(None, SMALL), None);
        assert_eq!(refused(Some(1), 2 * LARGE), Some(Limit::Bytes));
        let text = budget.count(Some(1), 2 * LARGE).with(vec![0; 2 * LARGE].into());
        assert_eq!(refused(Some(2), LARGE), Some(Limit::Bytes));
        first.keep(LARGE);
        assert_eq!(refused(Some(2), LARGE), Some(Limit::Bytes));
        let part = text.slice(..1);
        drop((text, first));
        assert_eq!(refused(Some(1), LARGE), Some(Limit::BytesOfKey));
        drop(part);
        assert_eq!(refused(Some(1), LARGE), None);
        let counts = lock(&budget.held);
        assert_eq!((counts.total, counts.by_key.len()), (0, 0));
    }
}
