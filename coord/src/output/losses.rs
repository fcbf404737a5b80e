//! What a session has lost, which the service adds to the answer of any call.
use serde_json::Value;

/// How many losses of a kind are named.
const LIMIT: usize = 10;

/// Describes what a session has lost, on one line. `None` if an answer does not tell of it.
pub(crate) fn describe_losses(answer: &Value) -> Option<String> {
    let lost = answer.get("lost").filter(|lost| lost.is_object());
    if answer["revived"] != true && lost.is_none() {
        return None;
    }
    let kinds = [("locks", "file_path"), ("claims", "task_id"), ("ports", "db_port")];
    let named: Vec<_> = kinds
        .into_iter()
        .filter_map(|(kind, member)| {
            let list = lost?[kind].as_array().filter(|list| !list.is_empty())?;
            let names = list.iter().take(LIMIT).map(|entry| match &entry[member] {
                Value::String(name) => name.clone(),
                other => other.to_string(),
            });
            let names: Vec<_> = names.collect();
            let more = if list.len() > LIMIT { " and others" } else { "" };
            Some(format!("{kind}: {}{more}", names.join(", ")))
        })
        .collect();
    let start = match answer["revived"] == true {
        true => "Your session had fallen silent or ended, and is live again.",
        false => "A session of yours had fallen silent or ended.",
    };
    Some(match named.is_empty() {
        true => format!("{start} Nothing of it went to others."),
        false => format!(
            "{start} It has lost {}. Look at what was changed meanwhile, then lock or claim again.",
            named.join("; ")
        ),
    })
}
