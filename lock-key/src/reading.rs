//! The order in which a text is read as a path, and the search for the path that was meant.
//!
//! Only spellings that are plausible mistakes are refused. `app/[id]/page.tsx`, `src/a b.ts` and
//! `src/a,b.rs` are names of files. A name that begins with `./` is taken as it is where a rule would
//! otherwise see a mention, a variable, a work tree or a list.
use crate::{
    decoration::{check_decoration, escaped_space, within_quotes},
    folders::check_folders,
    key::{LockKey, MAX_SPELLING_BYTES},
    lists::check_list,
    refusal::{Problem, Refusal, Start},
    roots::check_root,
    wrapping::{check_wrapping, file_url, has_scheme},
};

/// How many parts around a path are removed to find the path that was meant.
const MAX_PARTS: usize = 16;

/// Returns the path or the key with a namespace that a text names. A text that is longer than any key is left
/// to the check of the key.
///
/// # Errors
/// Says why the text is not the path of one file, with the path that was probably meant.
pub fn read(text: &str, start: Start) -> Result<String, Refusal> {
    if text.len() > MAX_SPELLING_BYTES {
        return Ok(text.to_owned());
    }
    read_once(text, start).map_err(|problem| {
        let meant = problem.rest().and_then(|rest| meant_path(rest, start));
        Refusal::new(problem, start, meant)
    })
}

/// Returns a spelling of this path in which a call is sure to take it.
pub fn plain(path: &str, start: Start) -> Option<String> {
    let path = match start {
        Start::Root => {
            LockKey::parse(path).ok().filter(|key| !key.as_str().is_empty())?.as_str().to_owned()
        }
        Start::Folder => path.to_owned(),
    };
    let is_taken = |spelling: &String| match (read_once(spelling, start), start) {
        (Ok(taken), Start::Root) => LockKey::parse(&taken).is_ok_and(|key| key.as_str() == path),
        (Ok(taken), Start::Folder) => taken == *spelling,
        (Err(_), _) => false,
    };
    [path.clone(), format!("./{path}")].into_iter().find(is_taken)
}

/// Returns the path that a text names, or what is left of the text without the part that is refused.
fn read_once(text: &str, start: Start) -> Result<String, Problem> {
    let text = text.trim();
    if let Some(inner) = within_quotes(text) {
        return Err(Problem::part("quotation marks around a path", inner));
    }
    check_wrapping(text, start)?;
    if let Some(path) = file_url(text) {
        return Err(Problem::part("a URL", path));
    }
    if has_scheme(text) {
        return Err(Problem::Url);
    }
    let is_namespaced = LockKey::parse(text).is_ok_and(|key| !key.is_file());
    if is_namespaced && !text.is_empty() && text.contains(':') {
        return Ok(text.to_owned());
    }
    escaped_space(text)?;
    let path = with_slashes(text, start)?;
    check_decoration(&path)?;
    check_list(&path)?;
    check_root(&path, start)?;
    check_folders(&path, start)?;
    Ok(path)
}

/// Returns a path with slashes. In a file system that separates by slashes, a name can contain a backslash.
fn with_slashes(text: &str, start: Start) -> Result<String, Problem> {
    let path = text.replace('\\', "/");
    match start {
        Start::Folder if !cfg!(windows) && path != text => Err(Problem::part("a backslash", path)),
        _ => Ok(path),
    }
}

/// Returns the path that is left of a text without the parts that are refused, if one is. Without a limit,
/// a text of nothing but such parts would be read once for each of them.
fn meant_path(text: &str, start: Start) -> Option<String> {
    let mut rest = text.to_owned();
    for _ in 0..MAX_PARTS {
        match read_once(&rest, start) {
            Ok(path) => return plain(&path, start).filter(|path| !path.is_empty()),
            Err(problem) => rest = problem.rest()?.to_owned(),
        }
    }
    None
}
