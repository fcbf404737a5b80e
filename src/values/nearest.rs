//! The name that was probably meant where a client sends an unknown one.
use strsim::normalized_damerau_levenshtein;

/// Words that models use for one another. They are compared with the words of names, so each row serves
/// the members of every operation.
const SYNONYMS: [&[&str]; 12] = [
    &["result", "output", "response", "outcome"],
    &["next", "todo", "remaining", "pending", "followup"],
    &["completed", "done", "finished"],
    &["path", "file", "filename", "filepath", "key"],
    &["ttl", "expiry", "expires", "duration", "lifetime"],
    &["wait", "timeout", "block"],
    &["description", "prompt", "instructions", "body", "content"],
    &["summary", "message", "text", "note", "title"],
    &["reason", "why", "comment", "justification"],
    &["error", "failure", "exception"],
    &["limit", "count", "max", "top", "size"],
    &["query", "search", "question", "keyword"],
];

/// The least similarity of a name that is suggested.
const LEAST: f64 = 0.5;

/// The longest name, in bytes, that is compared: the comparison takes the product of both lengths.
const MAX_COMPARED_BYTES: usize = 64;

/// Returns the known name that is most like a given one, if any is.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if given.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let given = words(given);
    let scored = known.map(|name| (similarity(&given, &words(name)), name));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(score, _)| *score >= LEAST).map(|(_, name)| name)
}

/// Splits `dependsOn`, `depends-on` and `depends_on` into the same words, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for character in name.chars() {
        let starts_word = was_lower && character.is_uppercase();
        was_lower = character.is_lowercase();
        if starts_word || !character.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| character.is_alphanumeric()) {
            word.extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns how alike two names are: the share of words that they have in common, or their edit distance.
/// The edit distance decides between names that have as many words in common.
fn similarity(given: &[String], name: &[String]) -> f64 {
    let most = given.len().max(name.len()).max(1) as f64;
    let shared = given.iter().filter(|word| name.iter().any(|other| is_same(word, other))).count();
    let by_letters = normalized_damerau_levenshtein(&given.join("_"), &name.join("_"));
    let by_words = shared as f64 / most;
    // Names that differ in half of their letters are not misspellings of one another.
    let by_letters_alone = if by_letters >= 0.6 { by_letters } else { 0.0 };
    by_words.max(by_letters_alone) + by_letters / 10.0
}

fn is_same(word: &str, other: &str) -> bool {
    let singular = |word: &str| word.strip_suffix('s').unwrap_or(word).to_owned();
    let (word, other) = (singular(word), singular(other));
    let group = |group: &&[&str]| {
        let has = |word: &str| group.iter().any(|synonym| singular(synonym) == word);
        has(&word) && has(&other)
    };
    word == other || SYNONYMS.iter().any(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let complete = ["task_id", "success", "result", "error_message", "claim_token"];
        let handoff = ["summary", "completed_work", "in_progress", "decisions", "next_steps"];
        let submit = ["task_type", "description", "depends_on", "unique_key", "max_attempts"];
        let lock = ["file_path", "reason", "ttl_minutes", "wait_seconds"];
        for (known, given, expected) in [
            (&complete[..], "output", "result"),
            (&complete, "taskId", "task_id"),
            (&complete, "error", "error_message"),
            (&handoff, "todo", "next_steps"),
            (&handoff, "done", "completed_work"),
            (&submit, "dependsOn", "depends_on"),
            (&submit, "task_description", "description"),
            (&submit, "prompt", "description"),
            (&submit, "maxRetries", "max_attempts"),
            (&lock, "ttl", "ttl_minutes"),
            (&lock, "path", "file_path"),
            (&lock, "file", "file_path"),
            (&lock, "reasn", "reason"),
            (&lock, "timeout", "wait_seconds"),
            (&["task_types", "lease_minutes"], "task_type", "task_types"),
        ] {
            assert_eq!(nearest(given, known.iter().copied()), Some(expected), "{given}");
        }
        assert_eq!(nearest("colour", lock.into_iter()), None);
        let long = "ttl_".repeat(250_000);
        assert_eq!(nearest(&long, lock.into_iter()), None);
    }
}
