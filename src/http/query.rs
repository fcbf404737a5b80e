//! Percent-encoding and query strings. By hand, because `form_urlencoded` replaces text that is not
//! UTF-8, where the contract has an issue.
use percent_encoding::percent_decode_str;

/// Iterates over the members of a query: names decoded, values still percent-encoded. A plus is a space.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.replace('+', " ");
        (decode(&name).unwrap_or(name), value.replace('+', " "))
    })
}

/// Decodes percent-encoded text. Returns `None` when the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}
