//! Where things are kept. The invariant: every folder given out can be reached by the account
//! that the server runs as, and belongs to the user who runs this or lies in a folder of theirs.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    account::{Account, current_uid},
    error::{Error, Named},
};

/// Others may pass through to what they own inside, but not look around.
const PASS_THROUGH: u32 = 0o711;

/// Where to keep what belongs at `path`, made if it is missing.
///
/// That is `path` itself, unless root runs this and the account which root lets the server run
/// as cannot get there, as in `/root`. Then it is a folder in `/var/tmp` whose name follows from
/// the path, and `path` becomes a link to it.
pub fn accessible(path: &Path) -> Result<PathBuf, Error> {
    accessible_to(Account::choose(&path.join("data"))?, path)
}

pub(crate) fn accessible_to(account: Option<Account>, path: &Path) -> Result<PathBuf, Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).named("make", parent)?;
    let parent = parent.canonicalize().named("find", parent)?;
    let name = path.file_name().ok_or_else(|| {
        Error::failed("keep data", format!("{} is not the name of a folder", path.display()))
    })?;
    let path = parent.join(name);

    if path.is_symlink() && !path.exists() {
        // What it pointed to was removed, as systems do with old files in `/var/tmp`.
        fs::remove_file(&path).named("replace", &path)?;
    }
    let stands_elsewhere = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
    match account {
        Some(account) if !account.can_reach(stands_elsewhere.as_ref().unwrap_or(&parent)) => {
            let dir =
                Path::new("/var/tmp").join(format!("agent-coordinator-{}", short_hash(&path)));
            make_own(&dir)?;
            point_to(&path, &dir)?;
            Ok(dir)
        }
        _ => {
            if stands_elsewhere.is_none() {
                make(&path)?;
            }
            path.canonicalize().named("find", &path)
        }
    }
}

fn make(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(PASS_THROUGH).create(dir) {
        // The mode asked for is cut by the umask, and then the account could not pass.
        Ok(()) => set_mode(dir, PASS_THROUGH),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        failed => failed.named("make", dir),
    }
}

/// Makes a folder in a place where everybody may, like `/tmp`: one that is already there is used
/// only if it is a real folder of the caller, not somebody else's trap.
pub(crate) fn make_own(dir: &Path) -> Result<(), Error> {
    make(dir)?;
    let found = fs::symlink_metadata(dir).named("look at", dir)?;
    if found.is_dir() && found.uid() == current_uid()? {
        return Ok(());
    }
    let details = format!("{} belongs to somebody else; remove it", dir.display());
    Err(Error::failed("keep data", details))
}

/// Leaves a link, so that people find the data; a real folder in its place is left alone.
fn point_to(link: &Path, target: &Path) -> Result<(), Error> {
    if link.is_symlink() {
        fs::remove_file(link).named("replace", link)?;
    }
    if link.exists() {
        return Ok(());
    }
    symlink(target, link).named("make", link)
}

/// Makes a file that only its owner can read, empty if it was there before.
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

/// Opens the file that stands for the right to a folder, without a lock on it yet.
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
    fs::set_permissions(path, Permissions::from_mode(mode)).named("protect", path)
}

/// Removes a folder that may not be there.
pub(crate) fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.named("remove", dir),
    }
}

/// Random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, Error> {
    let source = Path::new("/dev/urandom");
    let mut random = vec![0; bytes];
    let mut file = File::open(source).named("open", source)?;
    file.read_exact(&mut random).named("read", source)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// FNV-1a: the same on every machine and in every release, unlike the standard library's hash.
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
