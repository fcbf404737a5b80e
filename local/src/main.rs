//! Development loop.
fn main() {}
