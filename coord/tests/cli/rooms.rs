//! The direction of imports in `coord/src`: a folder imports only from the folders before it, and
//! the files of a folder do not import each other in a circle.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The folders of `coord/src`, each after those that it can import from.
const FOLDERS: [&str; 5] = ["service", "output", "command_line", "work_tree", "actions"];

/// Module paths such as `service::client`, each with the module paths that the file imports. The
/// file `folder/mod.rs` is the module `folder`; `lib.rs` and `main.rs` are the empty path.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn folders_import_in_one_direction_and_files_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_files(&root, &root, &mut files);
    let imports = imports_of(&files);
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
    assert_eq!(problems_with(&imports), Vec::<String>::new());
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
        let problems = problems_with(&imports_of(&files));
        assert!(problems.iter().any(|problem| problem == expected), "{wrong}: {problems:?}");
    }
}

fn read_files(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_files(root, &path, files);
            continue;
        }
        let name = path.strip_prefix(root).expect("a file of the folder");
        let text = fs::read_to_string(&path).expect("a file");
        files.push((name.to_str().expect("UTF-8").to_owned(), text));
    }
}

fn imports_of(files: &[(String, String)]) -> Imports {
    let modules: BTreeSet<_> = files.iter().map(|(path, _)| module_of(path)).collect();
    let imports = files.iter().map(|(path, text)| {
        let module = module_of(path);
        // A parent depends on its children, so that a child that imports it is a circle.
        let mut imported: BTreeSet<_> = modules
            .iter()
            .filter(|child| !module.is_empty() && child.starts_with(&format!("{module}::")))
            .cloned()
            .collect();
        for path in paths_in(&code_of(text)) {
            let target = resolve(&module, &path, &modules);
            if target != module {
                imported.insert(target);
            }
        }
        (module, imported)
    });
    // `lib.rs` and `main.rs` are one module: the root.
    let mut all = Imports::new();
    imports.for_each(|(module, imported)| all.entry(module).or_default().extend(imported));
    all
}

/// The module path of a file.
fn module_of(path: &str) -> String {
    let path = path.strip_suffix(".rs").expect("Rust");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if ["lib", "main"].contains(&path) { String::new() } else { path.replace('/', "::") }
}

/// The code without comments and without the unit tests at the end.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// All paths that begin with `crate` or `super`, in `use` declarations and elsewhere.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens_of(code);
    let mut paths = Vec::new();
    for start in 0..tokens.len() {
        let is_inside = start > 0 && tokens[start - 1] == "::";
        // `pub(crate)` is not a path.
        let is_path = tokens.get(start + 1).is_some_and(|token| token == "::");
        if is_path && !is_inside && ["crate", "super"].contains(&tokens[start].as_str()) {
            read_tree(&tokens, start, &[], &mut paths);
        }
    }
    paths
}

fn tokens_of(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut letters = code.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_alphanumeric() || letter == '_' {
            word.push(letter);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if letter == ':' && letters.peek() == Some(&':') {
            letters.next();
            tokens.push("::".to_owned());
        } else if !letter.is_whitespace() {
            tokens.push(letter.to_string());
        }
    }
    tokens
}

/// Reads a tree such as `a::{b, c::d}` and returns the index of the token after it.
fn read_tree(
    tokens: &[String],
    mut next: usize,
    before: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        let token = tokens.get(next).map(String::as_str).unwrap_or_default();
        if token == "{" {
            next += 1;
            while tokens.get(next).is_some_and(|token| token != "}") {
                next = read_tree(tokens, next, &path, paths);
                // An alias, then the comma.
                while tokens.get(next).is_some_and(|token| token != "," && token != "}") {
                    next += 1;
                }
                next += usize::from(tokens.get(next).is_some_and(|token| token == ","));
            }
            return next + 1;
        }
        path.push(token.to_owned());
        next += 1;
        if tokens.get(next).is_none_or(|token| token != "::") {
            paths.push(path);
            return next;
        }
        next += 1;
    }
}

/// The module that a path leads to: its longest beginning that is one.
fn resolve(module: &str, path: &[String], modules: &BTreeSet<String>) -> String {
    let mut place: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path;
    match path[0].as_str() {
        "crate" => {
            place.clear();
            rest = &path[1..];
        }
        _ => {
            while rest.first().is_some_and(|part| part == "super") {
                place.pop();
                rest = &rest[1..];
            }
        }
    }
    for part in rest {
        place.push(part);
        if !modules.contains(&place.join("::")) {
            place.pop();
            break;
        }
    }
    place.join("::")
}

fn folder_of(module: &str) -> Option<usize> {
    let folder = module.split("::").next().unwrap_or_default();
    FOLDERS.iter().position(|known| *known == folder)
}

fn problems_with(imports: &Imports) -> Vec<String> {
    let mut problems = Vec::new();
    for (module, imported) in imports.iter().filter(|(module, _)| !module.is_empty()) {
        let Some(folder) = folder_of(module) else {
            problems.push(format!("{module} is in no known folder"));
            continue;
        };
        for target in imported {
            match folder_of(target) {
                Some(other) if other <= folder => {}
                Some(_) => problems.push(format!("{module} imports {target}")),
                None => problems.push(format!("{module} imports the root")),
            }
        }
        let reachable = reachable_from(module, imports);
        let circle =
            reachable.iter().filter(|other| reachable_from(other, imports).contains(module));
        let circle: Vec<_> = circle.filter(|other| *other != module).cloned().collect();
        if !circle.is_empty() {
            problems.push(format!("circle: {module}, {}", circle.join(", ")));
        }
    }
    problems
}

fn reachable_from(module: &str, imports: &Imports) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<_> = imports[module].iter().collect();
    while let Some(next) = open.pop() {
        if found.insert(next.clone()) {
            open.extend(imports.get(next).into_iter().flatten());
        }
    }
    found
}
