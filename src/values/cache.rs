//! The only kind of cache in the service: values that were read from the database a short time ago.
use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::mutex::lock;

/// Caches values by key, each with the time at which it was read and its maximum age.
///
/// A full cache is emptied. Keys come from requests, so their number needs a bound, and a missing value
/// only costs another read.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    capacity: usize,
    entries: Mutex<Entries<K, V>>,
}

#[derive(Debug)]
struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    generation: Generation,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    read_at: Instant,
    max_age: Duration,
}

/// Counts how often entries were removed. A value that was read before the last removal can be out of
/// date, so [`Cache::insert`] ignores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Creates an empty cache of at most `capacity` values.
    pub(crate) fn new(capacity: usize) -> Self {
        let entries = Entries { by_key: HashMap::new(), generation: Generation::default() };
        Self { capacity, entries: Mutex::new(entries) }
    }

    /// Returns the value of a key while it is fresh, or else the generation to pass to
    /// [`Cache::insert`] once the value was read.
    pub(crate) fn get<Q>(&self, key: &Q) -> Result<V, Generation>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.get_at(key, Instant::now())
    }

    fn get_at<Q>(&self, key: &Q, now: Instant) -> Result<V, Generation>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entries = self.entries();
        match entries.by_key.get(key) {
            Some(entry) if now.duration_since(entry.read_at) < entry.max_age => {
                Ok(entry.value.clone())
            }
            _ => Err(entries.generation),
        }
    }

    /// Stores a value that was read at `read_at`. Does nothing when entries were removed since
    /// `generation`, because the value can be out of date.
    pub(crate) fn insert(
        &self,
        generation: Generation,
        key: K,
        value: V,
        read_at: Instant,
        max_age: Duration,
    ) {
        let mut entries = self.entries();
        if entries.generation != generation {
            return;
        }
        if entries.by_key.len() >= self.capacity && !entries.by_key.contains_key(&key) {
            entries.by_key.clear();
        }
        entries.by_key.insert(key, Entry { value, read_at, max_age });
    }

    /// Removes the entries whose keys match. Values that are being read at this moment are not stored
    /// either.
    pub(crate) fn remove(&self, matches: impl Fn(&K) -> bool) {
        let mut entries = self.entries();
        entries.generation.0 += 1;
        entries.by_key.retain(|key, _| !matches(key));
    }

    fn entries(&self) -> MutexGuard<'_, Entries<K, V>> {
        lock(&self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn insert(cache: &Cache<&'static str, i32>, key: &'static str, value: i32, now: Instant) {
        cache.insert(cache.get("absent").unwrap_err(), key, value, now, MINUTE);
    }

    #[test]
    fn a_value_is_fresh_for_its_maximum_age() {
        let (cache, now) = (Cache::new(10), Instant::now());
        insert(&cache, "a", 1, now);
        assert_eq!(cache.get_at("a", now + MINUTE - Duration::from_millis(1)), Ok(1));
        assert!(cache.get_at("a", now + MINUTE).is_err());
        cache.insert(Generation::default(), "b", 2, now, Duration::ZERO);
        assert!(cache.get_at("b", now).is_err(), "a maximum age of zero caches nothing");
    }

    #[test]
    fn a_value_read_before_a_removal_is_not_kept() {
        let (cache, now) = (Cache::new(10), Instant::now());
        insert(&cache, "a", 1, now);
        let reading = cache.get("b").unwrap_err();
        cache.remove(|key| *key == "a");
        assert!(cache.get("a").is_err());
        cache.insert(reading, "b", 2, now, MINUTE);
        assert!(cache.get("b").is_err());
        insert(&cache, "b", 3, now);
        assert_eq!(cache.get("b"), Ok(3));
    }

    #[test]
    fn a_full_cache_is_emptied_and_never_grows_beyond_its_capacity() {
        let (cache, now) = (Cache::new(2), Instant::now());
        for (key, value) in [("a", 1), ("b", 2), ("b", 3), ("c", 4)] {
            insert(&cache, key, value, now);
        }
        assert_eq!((cache.get("c"), cache.get("a").is_err()), (Ok(4), true));
    }
}
