//! How many requests wait, of each key and of each agent. A waiting request holds its connection: without a
//! limit, those of one key would take all of them.
use std::{collections::HashMap, sync::Mutex};

use super::limits::Limit;
use crate::{access::Caller, config::WaitLimits, values::lock};

/// The waiting requests of this process.
#[derive(Debug, Default)]
pub(super) struct WaitSlots(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_key: HashMap<usize, usize>,
    /// By workspace and agent.
    by_agent: HashMap<(String, String), usize>,
}

/// The permission to wait, until it is dropped.
#[derive(Debug)]
pub(super) struct WaitSlot<'a> {
    slots: &'a WaitSlots,
    key: usize,
    agent: (String, String),
}

impl WaitSlots {
    /// Takes a slot for a request of a key, by its number in the ring, and a caller.
    ///
    /// # Errors
    /// Names the limit that is reached.
    pub(super) fn take(
        &self,
        limits: &WaitLimits,
        key: usize,
        caller: &Caller,
    ) -> Result<WaitSlot<'_>, Limit> {
        let agent = (caller.workspace.clone(), caller.agent_id.clone());
        let mut counts = lock(&self.0);
        let of_agent = counts.by_agent.get(&agent).copied().unwrap_or_default();
        let of_key = counts.by_key.get(&key).copied().unwrap_or_default();
        if of_agent >= limits.per_agent {
            return Err(Limit::WaitingOfAgent);
        }
        if of_key >= limits.per_key {
            return Err(Limit::WaitingOfKey);
        }
        if counts.total >= limits.total {
            return Err(Limit::Waiting);
        }
        counts.total += 1;
        counts.by_key.insert(key, of_key + 1);
        counts.by_agent.insert(agent.clone(), of_agent + 1);
        Ok(WaitSlot { slots: self, key, agent })
    }
}

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        let mut counts = lock(&self.slots.0);
        counts.total -= 1;
        leave(&mut counts.by_key, &self.key);
        leave(&mut counts.by_agent, &self.agent);
    }
}

/// Counts one less. Forgets keys and agents without waiting requests.
pub(super) fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(agent_id: &str) -> Caller {
        Caller { agent_id: agent_id.to_owned(), ..Caller::anonymous() }
    }

    #[test]
    fn each_limit_counts_the_slots_that_are_taken() {
        let limits = WaitLimits { per_agent: 1, per_key: 2, total: 3 };
        let slots = WaitSlots::default();
        let take = |key, agent| slots.take(&limits, key, &caller(agent));
        let first = take(0, "a").expect("the first of agent and key");
        assert_eq!(take(1, "a").err(), Some(Limit::WaitingOfAgent));
        let _second = take(0, "b").expect("the second of the key");
        assert_eq!(take(0, "c").err(), Some(Limit::WaitingOfKey));
        let _third = take(1, "c").expect("the third of all");
        assert_eq!(take(2, "d").err(), Some(Limit::Waiting));
        drop(first);
        let again = take(2, "a").expect("a slot is free");
        drop(again);
        assert!(!lock(&slots.0).by_key.contains_key(&2));
    }
}
