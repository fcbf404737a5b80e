//! Server-sent events.
use std::io::{BufRead as _, BufReader, Read, Result};

/// Reads a stream of server-sent events, and passes on the data of each.
pub(super) fn read_events(body: impl Read, mut take: impl FnMut(&str)) -> Result<()> {
    let mut data: Vec<String> = Vec::new();
    for line in BufReader::new(body).lines() {
        let line = line?;
        match line.strip_prefix("data:") {
            Some(text) => data.push(text.strip_prefix(' ').unwrap_or(text).to_owned()),
            None if line.is_empty() => {
                if !data.is_empty() {
                    take(&data.join("\n"));
                }
                data.clear();
            }
            None => {}
        }
    }
    if !data.is_empty() {
        take(&data.join("\n"));
    }
    Ok(())
}
