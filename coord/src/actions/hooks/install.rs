//! `coord hook install`.
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use crate::{
    output::{
        console::Output,
        outcome::{DONE, Outcome, Problem, REFUSED},
        text::escape_text,
    },
    work_tree::git::WorkTree,
};

/// The line by which a hook of this program is recognised.
const MARK: &str = "# Installed by `coord hook install`.";

const NAMES: [&str; 2] = ["pre-commit", "pre-push"];

/// Installs the two hooks. With `force`, hooks of other programs are kept and run first.
pub(super) fn install(work_tree: &WorkTree, force: bool, output: Output) -> Outcome {
    let folder = work_tree
        .repository_file("hooks")
        .map_err(|error| Problem::invalid(format!("git: {error}.")))?;
    let failed =
        |error: io::Error| Problem::invalid(format!("The hooks could not be installed: {error}."));
    let program = std::env::current_exe().map_err(failed)?;
    fs::create_dir_all(&folder).map_err(failed)?;
    let foreign: Vec<_> = NAMES.into_iter().filter(|name| is_foreign(&folder.join(name))).collect();
    if !foreign.is_empty() && !force {
        for name in foreign {
            let hook = folder.join(name);
            output.print_problem(&format!("{} was not installed by coord.", hook.display()));
        }
        output.print_problem("Nothing is installed. With --force they are kept, and run first.");
        return Ok(REFUSED);
    }
    for name in foreign {
        let kept = folder.join(format!("{name}.before-coord"));
        if kept.symlink_metadata().is_ok() {
            let kept = kept.display();
            return Err(Problem::invalid(format!("{kept} exists already; move it away first.")));
        }
        fs::rename(folder.join(name), kept).map_err(failed)?;
    }
    for name in NAMES {
        write_hook(&folder, name, &program).map_err(failed)?;
    }
    output.print(&format!(
        "Installed {} in {}.",
        NAMES.join(" and "),
        escape_text(&folder.display().to_string())
    ));
    Ok(DONE)
}

/// Whether a file is a hook that this program did not install.
fn is_foreign(path: &Path) -> bool {
    let is_marked = || fs::read_to_string(path).is_ok_and(|text| text.contains(MARK));
    path.symlink_metadata().is_ok() && !is_marked()
}

/// Writes a hook and renames it into place, so that git never runs half of it.
fn write_hook(folder: &Path, name: &str, program: &Path) -> io::Result<()> {
    let fresh = folder.join(format!("{name}.new-coord"));
    fs::write(&fresh, script_of(name, program))?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    fs::rename(&fresh, folder.join(name))
}

/// Returns the script of a hook: it runs the hook that was there before, then this program. If the
/// program has been moved since, it runs the `coord` on the path.
fn script_of(name: &str, program: &Path) -> String {
    let program = program.display().to_string().replace('\'', "'\\''");
    format!(
        "#!/bin/sh
{MARK}
coord='{program}'
[ -x \"$coord\" ] || coord=coord
before=\"$(dirname \"$0\")/{name}.before-coord\"
input=
case {name} in pre-push) input=$(cat; echo .); input=${{input%.}} ;; esac
if [ -x \"$before\" ]; then
    printf '%s' \"$input\" | \"$before\" \"$@\" || exit
fi
printf '%s' \"$input\" | \"$coord\" hook {name} \"$@\"
"
    )
}
