//! Checks the direction of imports in a source folder: a room imports only from the rooms before it, and
//! files do not import each other in a circle. Used by the tests of the service and of `coord`.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The rooms of a source folder.
pub(crate) struct Rooms {
    /// The folders, each after those that it can import from.
    pub(crate) folders: &'static [&'static str],
    /// Modules beside the folders, which can import everything. Nothing in a folder imports them.
    pub(crate) root: &'static [&'static str],
}

/// Module paths such as `service::client`, each with the module paths that the file imports. The
/// file `folder/mod.rs` is the module `folder`. `lib.rs` and `main.rs` are the empty path.
pub(crate) type Imports = BTreeMap<String, BTreeSet<String>>;

/// Returns the imports of all files of a source folder.
pub(crate) fn imports_in(root: &Path) -> Imports {
    let mut files = Vec::new();
    read_files(root, root, &mut files);
    imports_of(&files)
}

fn read_files(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_files(root, &path, files);
            continue;
        }
        // Unit tests can import anything.
        let is_code = path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs");
        if !is_code {
            continue;
        }
        let name = path.strip_prefix(root).expect("a file of the folder");
        let text = fs::read_to_string(&path).expect("a file");
        files.push((name.to_str().expect("UTF-8").to_owned(), text));
    }
}

/// Returns the imports of files, given as paths and texts.
pub(crate) fn imports_of(files: &[(String, String)]) -> Imports {
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

impl Rooms {
    /// Returns the position of the room of a module, or `None` where the module is not in a room.
    fn position(&self, module: &str) -> Option<usize> {
        let folder = module.split("::").next().unwrap_or_default();
        if self.root.contains(&folder) {
            return Some(self.folders.len());
        }
        self.folders.iter().position(|known| *known == folder)
    }
}

/// Returns every import against the direction of the rooms, and every circle.
pub(crate) fn problems_with(imports: &Imports, rooms: &Rooms) -> Vec<String> {
    let mut problems = Vec::new();
    for (module, imported) in imports.iter().filter(|(module, _)| !module.is_empty()) {
        let Some(room) = rooms.position(module) else {
            problems.push(format!("{module} is in no known folder"));
            continue;
        };
        for target in imported {
            match rooms.position(target) {
                Some(other) if other <= room => {}
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
