//! The direction of imports in `src`, which `docs/architecture.md` draws.
use std::path::Path;

use crate::imports::{Rooms, imports_in, imports_of, problems_with};

/// The rooms from the ground up. What makes a process of them is beside them.
const ROOMS: Rooms = Rooms {
    folders: &[
        "values",
        "config",
        "database",
        "access",
        "operation",
        "capabilities",
        "http",
        "mcp",
    ],
    root: &["app", "measured", "server", "telemetry"],
};

#[test]
fn a_room_imports_only_from_the_rooms_before_it_and_files_in_no_circle() {
    let imports = imports_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    // The reader finds lists, `super` and paths outside of `use`.
    for (file, imported) in [
        ("values::issue", "values::json"),
        ("access::policy::engine", "access::policy::native"),
        ("operation::execute", "operation::waiting"),
        ("capabilities::locks::acquire", "operation"),
        ("http::router", "http::routes"),
        ("mcp::endpoint", "http"),
    ] {
        assert!(imports[file].contains(imported), "{file}: {:?}", imports[file]);
    }
    assert_eq!(problems_with(&imports, &ROOMS), Vec::<String>::new());
}

#[test]
fn an_import_against_the_direction_is_found() {
    let files = [
        ("values/mod.rs", "pub(crate) mod text;"),
        ("values/text.rs", "use crate::{access::Caller, app::App};"),
        ("access/mod.rs", "pub(crate) use caller::Caller; mod caller;"),
        ("access/caller.rs", "use crate::values::text;"),
        ("app.rs", "use crate::access::Caller;"),
    ];
    let files: Vec<_> = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    let problems = problems_with(&imports_of(&files), &ROOMS);
    for expected in ["values::text imports access", "values::text imports app"] {
        assert!(problems.iter().any(|problem| problem == expected), "{problems:?}");
    }
}
