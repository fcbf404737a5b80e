//! Folders and files. Invariant: the account that runs the server can reach every folder returned here, and
//! that folder belongs to the current user or lies in a folder that does.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    account::{Account, current_uid},
    error::{Error, Named},
};

/// The mode of a folder that other accounts can enter, but not list: the server's account must reach the
/// data directory, which it owns.
const PASS_THROUGH: u32 = 0o711;

/// Returns the folder that stores what belongs at `path`. Creates it if it is missing.
///
/// The folder is `path` itself, unless this process runs as root and the account that runs the server cannot
/// reach `path`, as below `/root`. Then the folder is in `/var/tmp`, with a name derived from the path, and
/// `path` becomes a symbolic link to it.
pub fn accessible(path: &Path) -> Result<PathBuf, Error> {
    accessible_to(Account::choose(&path.join("data"))?, path)
}

pub(crate) fn accessible_to(account: Option<Account>, path: &Path) -> Result<PathBuf, Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).named("create", parent)?;
    let parent = parent.canonicalize().named("find", parent)?;
    let name = path.file_name().ok_or_else(|| {
        Error::failed("choose a folder", format!("{} has no file name", path.display()))
    })?;
    let path = parent.join(name);

    if path.is_symlink() && !path.exists() {
        // A dangling link: systems remove old files from `/var/tmp`.
        fs::remove_file(&path).named("replace", &path)?;
    }
    let target = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
    match account {
        Some(account) if !account.can_reach(target.as_ref().unwrap_or(&parent)) => {
            let dir =
                Path::new("/var/tmp").join(format!("agent-coordinator-{}", short_hash(&path)));
            create_own(&dir)?;
            link(&path, &dir)?;
            Ok(dir)
        }
        _ => {
            if target.is_none() {
                create(&path)?;
            }
            path.canonicalize().named("find", &path)
        }
    }
}

fn create(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(PASS_THROUGH).create(dir) {
        // The umask reduces the mode at creation, and the account could not enter.
        Ok(()) => set_mode(dir, PASS_THROUGH),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        failed => failed.named("create", dir),
    }
}

/// Creates a folder in a place where every user can, such as `/tmp`. Refuses an existing folder of another
/// user and a symbolic link, through which that user could redirect the data.
pub(crate) fn create_own(dir: &Path) -> Result<(), Error> {
    create(dir)?;
    let found = fs::symlink_metadata(dir).named("inspect", dir)?;
    if found.is_dir() && found.uid() == current_uid()? {
        return Ok(());
    }
    let details = format!("{} belongs to another user; remove it", dir.display());
    Err(Error::failed("create a folder", details))
}

/// Creates a symbolic link, so that a developer finds the data. Keeps a real folder at that path.
fn link(link: &Path, target: &Path) -> Result<(), Error> {
    if link.is_symlink() {
        fs::remove_file(link).named("replace", link)?;
    }
    if link.exists() {
        return Ok(());
    }
    symlink(target, link).named("create", link)
}

/// Creates a file that only its owner can read. Truncates an existing file.
pub(crate) fn private_file(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .named("write", path)?;
    set_mode(path, 0o600)?;
    Ok(file)
}

pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    private_file(path)?.write_all(text.as_bytes()).named("write", path)
}

/// Opens the lock file of a folder, without locking it.
pub(crate) fn open_lock(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .named("open", path)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode)).named("set the mode of", path)
}

/// Removes a folder, if it exists.
pub(crate) fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.named("remove", dir),
    }
}

/// Returns random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, Error> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| Error::failed("get random bytes", error))?;
    Ok(hex::encode(random))
}

/// Computes the FNV-1a hash, which is the same on every machine and in every release, unlike the standard
/// library's hash. Written by hand: a few lines, and not worth a dependency.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn short_hash(path: &Path) -> String {
    let hash = hash(path.as_os_str().as_encoded_bytes().iter().copied());
    format!("{hash:016x}")[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(*b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn random_text_has_two_digits_a_byte_and_differs() {
        let first = random_hex(16).unwrap();

        assert_eq!(first.len(), 32);
        assert_ne!(first, random_hex(16).unwrap());
    }
}
