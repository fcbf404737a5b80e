//! The direction of imports in `coord/src`: a folder imports only from the folders before it, and
//! the files of a folder do not import each other in a circle.
use std::path::Path;

use crate::imports::{Rooms, imports_in, imports_of, problems_with};

/// The folders of `coord/src`.
const ROOMS: Rooms =
    Rooms { folders: &["service", "output", "command_line", "work_tree", "actions"], root: &[] };

#[test]
fn folders_import_in_one_direction_and_files_in_no_circle() {
    let imports = imports_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    // The reader understands lists, nested lists, `super` and paths outside of `use`.
    for (file, imported) in [
        ("service::client", "service::settings"),
        ("output::show", "service::answer"),
        ("work_tree::record", "work_tree::git"),
        ("actions::hooks::check", "actions::caller"),
        ("actions", "actions::bridge::operations"),
    ] {
        assert!(imports[file].contains(imported), "{file}: {:?}", imports[file]);
    }
    assert_eq!(problems_with(&imports, &ROOMS), Vec::<String>::new());
}

#[test]
fn a_wrong_import_is_found() {
    for (wrong, expected) in [
        ("use crate::output::show::Show;", "service::client imports output::show"),
        ("use crate::{actions, output::{show::{self}}};", "service::client imports actions"),
        ("fn f() { crate::output::show::render() }", "service::client imports output::show"),
        ("use crate::Client;", "service::client imports the root"),
        ("use super::super::actions::run;", "service::client imports actions"),
        ("use super::Answer;", "circle: service::client, service, service::url"),
        ("use super::url::Url;", "circle: service::client, service::url"),
    ] {
        let files = [
            ("lib.rs", "mod actions; mod output; mod service; pub use service::client::Client;"),
            ("service/mod.rs", "pub(crate) mod client;\npub(crate) mod url;\n"),
            ("service/client.rs", wrong),
            ("service/url.rs", "// crate::actions\nuse super::client::Client;"),
            ("output/mod.rs", "pub(crate) mod show;"),
            ("output/show.rs", "#[cfg(test)]\nmod tests { use crate::actions; }"),
            ("actions/mod.rs", "use crate::output::show;"),
        ];
        let files: Vec<_> =
            files.map(|(path, text)| (path.to_owned(), text.to_owned())).into_iter().collect();
        let problems = problems_with(&imports_of(&files), &ROOMS);
        assert!(problems.iter().any(|problem| problem == expected), "{wrong}: {problems:?}");
    }
}
