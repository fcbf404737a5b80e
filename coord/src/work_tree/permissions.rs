//! The permissions of files. Windows has neither the bit of executable files nor that of private
//! ones: there git runs every hook, and a file is as private as its folder.
use std::{
    fs::{DirBuilder, Metadata, OpenOptions},
    io,
    path::Path,
};

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};

/// Lets only the owner read a file that is created with these options.
#[cfg(unix)]
pub(crate) fn make_private(options: &mut OpenOptions) {
    options.mode(0o600);
}

#[cfg(not(unix))]
pub(crate) fn make_private(_: &mut OpenOptions) {}

/// Creates a folder that only its owner can enter, whatever the umask.
#[cfg(unix)]
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().create(path)
}

/// Whether a file can be run.
#[cfg(unix)]
pub(crate) fn is_executable(file: &Metadata) -> bool {
    file.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
pub(crate) fn is_executable(_: &Metadata) -> bool {
    true
}

/// Lets everybody run a file.
#[cfg(unix)]
pub(crate) fn make_executable(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
pub(crate) fn make_executable(_: &Path) -> io::Result<()> {
    Ok(())
}
