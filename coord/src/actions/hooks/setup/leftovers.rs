//! Hooks of this program that are not where git runs them any more, and the hooks that were there
//! before them.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    managers::Manager,
    owner::Owner,
    script::{NAMES, calls, is_ours},
};

/// Returns the text of a hook; empty if there is none that can be read.
pub(super) fn text_of(path: &Path) -> String {
    fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}

/// Returns the path of the hook that was at this place before.
fn kept_beside(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.before-coord"))
}

/// Whether the manager's configuration calls this program.
pub(super) fn is_configured(owner: &Owner, manager: Manager, name: &str) -> bool {
    let files = manager.configurations(&owner.top, &owner.folder, name);
    files.iter().any(|file| calls(&text_of(file), name))
}

/// The folders in which this program can have left hooks.
fn folders(owner: &Owner) -> Vec<&Path> {
    let mut folders = vec![owner.folder.as_path()];
    if owner.usual_folder != owner.folder {
        folders.push(&owner.usual_folder);
    }
    folders
}

/// Repairs what other programs made of the hooks of this program, or this program of theirs.
/// Returns what was done.
pub(super) fn repair(owner: &Owner) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    for folder in folders(owner) {
        for name in NAMES {
            let hook = folder.join(name);
            let is_husky = owner.manager == Some(Manager::Husky) && owner.is_active;
            if is_husky && folder == owner.folder && is_ours(&text_of(&hook)) {
                done.extend(take_out(owner, folder, &hook, name)?);
            }
            // pre-commit runs a hook that it found as `.legacy`; lefthook never runs an `.old` one.
            let legacy = folder.join(format!("{name}.legacy"));
            let is_twice = match owner.manager {
                Some(manager) => is_configured(owner, manager, name),
                None => true,
            };
            if is_twice && is_ours(&text_of(&legacy)) {
                done.extend(take_out(owner, folder, &legacy, name)?);
            }
            let old = folder.join(format!("{name}.old"));
            if is_ours(&text_of(&old)) {
                done.extend(take_out(owner, folder, &old, name)?);
            }
            done.extend(settle_kept(owner, folder, name)?);
        }
    }
    Ok(done)
}

/// Settles a hook that this program has kept, and that its own hook does not call any more.
fn settle_kept(owner: &Owner, folder: &Path, name: &str) -> io::Result<Option<String>> {
    let (hook, kept) = (folder.join(name), kept_beside(folder, name));
    if kept.symlink_metadata().is_err() || is_ours(&text_of(&hook)) {
        return Ok(None);
    }
    let shown = owner.shown(&kept);
    if hook.symlink_metadata().is_err() {
        fs::rename(&kept, &hook)?;
        return Ok(Some(format!("Restored {} from {shown}.", owner.shown(&hook))));
    }
    // A manager that finds its own hook behind that of this program would call itself for ever.
    if Manager::of_script(&text_of(&kept)).is_some() || text_of(&kept) == text_of(&hook) {
        fs::remove_file(&kept)?;
        return Ok(Some(format!("Removed {shown}, which is in its own place again.")));
    }
    Ok(None)
}

/// Removes a hook of this program, and puts the hook back that it has kept.
pub(super) fn take_out(
    owner: &Owner,
    folder: &Path,
    hook: &Path,
    name: &str,
) -> io::Result<Option<String>> {
    let kept = kept_beside(folder, name);
    let is_own_place = hook.file_name().is_some_and(|file| file == name);
    let is_kept = kept.symlink_metadata().is_ok();
    let is_of_manager = Manager::of_script(&text_of(&kept)).is_some();
    let shown = owner.shown(hook);
    let is_legacy = hook.extension().is_some_and(|extension| extension == "legacy");
    if is_kept && (is_own_place || (is_legacy && !is_of_manager)) {
        fs::rename(&kept, hook)?;
        return Ok(Some(format!("Restored {shown} from {}.", owner.shown(&kept))));
    }
    fs::remove_file(hook)?;
    Ok(Some(format!("Removed {shown}.")))
}

/// Removes every hook of this program. Returns what was done.
pub(super) fn take_out_all(owner: &Owner) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    for folder in folders(owner) {
        for name in NAMES {
            for file in [name.to_owned(), format!("{name}.legacy"), format!("{name}.old")] {
                let hook = folder.join(file);
                if is_ours(&text_of(&hook)) {
                    done.extend(take_out(owner, folder, &hook, name)?);
                }
            }
            done.extend(settle_kept(owner, folder, name)?);
        }
    }
    Ok(done)
}
