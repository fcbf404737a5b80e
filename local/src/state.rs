//! The folder of everything that outlives a run, and the secrets in it. Invariant: only its owner can change it,
//! whatever the umask and whatever a checkout has in its place.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Other accounts can pass through the folder, but not list it: the account of the database server must reach its
/// data.
const PASS_THROUGH: u32 = 0o711;

/// The bits of the mode that let others change a folder.
const OTHERS_WRITE: u32 = 0o022;

/// Creates the folder, or takes from others the right to change it. A symbolic link is refused: what is written
/// behind it would be where its maker wants it.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    let metadata = match folder.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return DirBuilder::new().mode(PASS_THROUGH).create(folder);
        }
        metadata => metadata?,
    };
    if metadata.is_symlink() {
        return Err(io::Error::other("it is a symbolic link, which is not followed; remove it"));
    }
    let mode = metadata.permissions().mode();
    match mode & OTHERS_WRITE {
        0 => Ok(()),
        _ => fs::set_permissions(folder, Permissions::from_mode(mode & !OTHERS_WRITE)),
    }
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if path.is_symlink() {
        return Err(io::Error::other("it is a symbolic link, which is not followed; remove it"));
    }
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    // The mode above applies only to a new file.
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{text}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_its_owner_can_change_the_folder_and_no_link_is_followed() {
        let place = std::env::temp_dir().join(format!("local-state-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let folder = place.join("state");
        let mode = || fs::metadata(&folder).unwrap().permissions().mode() & 0o777;

        prepare(&folder).unwrap();
        let created = mode();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        prepare(&folder).unwrap();
        let mended = mode();
        let link = place.join("link");
        symlink(&folder, &link).unwrap();
        let refused = prepare(&link).unwrap_err().to_string();
        symlink(place.join("theirs"), folder.join("key")).unwrap();
        let key = write_private(&folder.join("key"), "secret").unwrap_err().to_string();
        let is_written = place.join("theirs").exists();
        fs::remove_dir_all(place).unwrap();

        assert_eq!((created, mended), (0o711, 0o755));
        assert!(refused.contains("symbolic link") && key.contains("symbolic link"));
        assert!(!is_written);
    }
}
