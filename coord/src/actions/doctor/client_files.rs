//! The MCP settings of the clients on this machine.
use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{service::settings::variable, work_tree::git::WorkTree};

/// A server in the settings of a client.
#[derive(Debug)]
pub(super) struct Entry {
    /// The file, as it is shown.
    pub(super) file: String,
    /// The file itself.
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) settings: Value,
}

/// A file of settings: below the work tree or the home, and the members that lead to the servers.
const FILES: [(Base, &str, &str); 10] = [
    (Base::WorkTree, ".mcp.json", "mcpServers"),
    (Base::WorkTree, ".cursor/mcp.json", "mcpServers"),
    (Base::WorkTree, ".vscode/mcp.json", "servers"),
    (Base::WorkTree, ".gemini/settings.json", "mcpServers"),
    (Base::WorkTree, ".codex/config.toml", "mcp_servers"),
    (Base::Home, ".claude.json", "mcpServers"),
    (Base::Home, ".codex/config.toml", "mcp_servers"),
    (Base::Home, ".cursor/mcp.json", "mcpServers"),
    (Base::Home, ".gemini/settings.json", "mcpServers"),
    (Base::Home, ".vscode/mcp.json", "servers"),
];

#[derive(Clone, Copy)]
enum Base {
    WorkTree,
    Home,
}

/// Reads the servers of all files. The second list has the files that cannot be read.
pub(super) fn entries(work_tree: Option<&WorkTree>) -> (Vec<Entry>, Vec<String>) {
    let top = work_tree.map(|work_tree| work_tree.top.as_path());
    let main_top = work_tree.and_then(WorkTree::main_top).filter(|main| Some(*main) != top);
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let home = variable("HOME").map(PathBuf::from);
    for (base, file, member) in FILES {
        let (folder, prefix) = match base {
            Base::WorkTree => (top.map(Path::to_owned), ""),
            Base::Home => (home.clone().filter(|home| Some(home.as_path()) != top), "~/"),
        };
        let Some(path) = folder.map(|folder| folder.join(file)) else { continue };
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let shown = format!("{prefix}{file}");
        match parse(&path, &text) {
            Ok(settings) => {
                let mut add = |servers: &Value| {
                    for (name, settings) in servers.as_object().into_iter().flatten() {
                        found.push(Entry {
                            file: shown.clone(),
                            path: path.clone(),
                            name: name.clone(),
                            settings: settings.clone(),
                        });
                    }
                };
                add(&settings[member]);
                // Claude Code keeps the servers of each project there as well, those of a linked work tree
                // with those of the main one.
                for project in [top, main_top].into_iter().flatten().filter_map(Path::to_str) {
                    add(&settings["projects"][project][member]);
                }
            }
            Err(problem) => unreadable.push(format!("{shown}: {problem}")),
        }
    }
    (found, unreadable)
}

fn parse(path: &Path, text: &str) -> Result<Value, String> {
    match path.extension().is_some_and(|extension| extension == "toml") {
        true => toml::from_str(text).map_err(|error| error.message().to_owned()),
        false => serde_json::from_str(text).map_err(|error| error.to_string()),
    }
}
