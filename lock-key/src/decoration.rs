//! What stands directly around a path: quotation marks, a mention, the mark of a list, a line number, and
//! punctuation of the sentence.
use crate::{
    extension::has_extension,
    refusal::{LINE_NUMBER, Problem},
};

/// Pairs of quotation marks, back-ticks and angle brackets.
const QUOTES: [(char, char); 8] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('<', '>'),
    ('\u{201c}', '\u{201d}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{ab}', '\u{bb}'),
    ('\u{2039}', '\u{203a}'),
];

/// Returns the text within quotation marks.
pub(crate) fn within_quotes(text: &str) -> Option<&str> {
    let mut inner = QUOTES.iter().filter_map(|(open, close)| {
        text.strip_prefix(*open)?.strip_suffix(*close).filter(|inner| !inner.is_empty())
    });
    inner.next()
}

/// Refuses a space that is escaped for a shell.
pub(crate) fn escaped_space(text: &str) -> Result<(), Problem> {
    match text.contains("\\ ") {
        true => Err(Problem::part("an escaped space", text.replace("\\ ", " "))),
        false => Ok(()),
    }
}

/// Refuses a mention, a line number, and punctuation of the sentence around a path.
pub(crate) fn check_decoration(path: &str) -> Result<(), Problem> {
    if let Some(rest) = path.strip_prefix('@').filter(|rest| rest.contains(['/', '.'])) {
        let hint = format!(" (for a name that begins with @: `./{path}`)");
        return Err(Problem::Part { what: "a mention with `@`", rest: rest.to_owned(), hint });
    }
    if let Some(rest) = path.strip_prefix("- ").or_else(|| path.strip_prefix("* ")) {
        return Err(Problem::part("the mark of a list", rest));
    }
    if let Some(file) = without_position(path).or_else(|| without_line_note(path)) {
        return Err(Problem::part(LINE_NUMBER, file));
    }
    if let Some(rest) = path.strip_suffix([':', ',', ';']) {
        return Err(Problem::part("punctuation at the end", rest));
    }
    Ok(())
}

/// Returns the file of `src/a.rs:12`, `src/a.rs:12:5`, `src/a.rs:12-40` and `src/a.rs#L12-L40`.
pub fn without_position(path: &str) -> Option<&str> {
    if let Some((file, position)) = path.rsplit_once("#L")
        && is_position(position)
    {
        return Some(file);
    }
    // A message of a compiler or of grep can follow the position.
    let rest = path.strip_prefix(":/").unwrap_or(path);
    let (file, position) = rest.split_once(':').filter(|(file, _)| file.len() > 1)?;
    let file = &path[..path.len() - rest.len() + file.len()];
    let position = position.split(": ").next().unwrap_or_default().trim_end_matches(':');
    is_position(position).then_some(file)
}

/// Returns the file of `src/a.rs line 3`, `src/a.rs at lines 3-9` and `src/a.rs L3`. A file is told from other
/// words by its extension, so `docs/chapter line 3` is a name.
fn without_line_note(path: &str) -> Option<&str> {
    let (rest, position) = path.rsplit_once(' ').filter(|(_, text)| is_position(text))?;
    let file = match rest.rsplit_once(' ') {
        Some((file, word)) if is_one_of(word, &["line", "lines", "ln", "l."]) => file,
        _ if position.starts_with('L') => rest,
        _ => return None,
    };
    let file = match file.rsplit_once(' ') {
        Some((before, word)) if is_one_of(word, &["at", "on", "in"]) => before,
        _ => file,
    };
    has_extension(file).then_some(file)
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|it| it.eq_ignore_ascii_case(word))
}

/// Whether a text is a line, with a column, or a range of lines: `12`, `12:5`, `L12-L40`.
fn is_position(text: &str) -> bool {
    let mut numbers = text.split(['-', ':']).map(|part| part.trim_start_matches('L'));
    numbers.all(|part| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit()))
}
