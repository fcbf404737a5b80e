//! From a JSON value to the input of an operation: coerces and checks the value against the schema that the
//! struct of the operation derives. So what the documents promise and what is enforced cannot differ.
//!
//! Written by hand, because no library coerces, reports issues in the order of declaration and uses the
//! words that existing clients know. It is a documented subset of JSON Schema: an operation whose schema uses
//! another keyword is refused at start.
mod check;
mod coerce;
pub(crate) mod keywords;
mod parse;

pub(crate) use check::check;
pub(crate) use parse::{
    bounded_value, canonical_input, is_json, keep_free_form_as_text, offset, parse,
};

#[cfg(test)]
mod tests;
