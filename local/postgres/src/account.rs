//! The account that the server runs as. PostgreSQL refuses to run as root, so root lets an unprivileged
//! account run it. Any other user runs the server as themselves.

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use crate::error::{Error, Named};

/// An unprivileged account that runs the server when this process runs as root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// Chooses the account if this process runs as root: the owner of the data directory if that exists,
    /// else `postgres`, else `nobody`. Returns `None` for any other user.
    pub(crate) fn choose(data: &Path) -> Result<Option<Account>, Error> {
        if current_uid()? != 0 {
            return Ok(None);
        }
        if let Ok(owner) = fs::metadata(data)
            && owner.uid() != 0
        {
            return Ok(Some(Account { uid: owner.uid(), gid: owner.gid() }));
        }
        match ["postgres", "nobody"].into_iter().find_map(Account::named) {
            Some(account) => Ok(Some(account)),
            None => Err(Error::failed(
                "run PostgreSQL as root",
                "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`; \
                 add one of them, or run this program as an ordinary user",
            )),
        }
    }

    fn named(name: &str) -> Option<Account> {
        Some(Account { uid: id("-u", Some(name))?, gid: id("-g", Some(name))? })
    }

    /// Makes a command run as this account, without supplementary groups.
    pub(crate) fn run_as(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Returns whether this account can enter the folder and every folder above it.
    pub(crate) fn can_reach(self, dir: &Path) -> bool {
        dir.ancestors().all(|dir| {
            fs::metadata(dir).is_ok_and(|found| {
                let may_search = match (found.uid() == self.uid, found.gid() == self.gid) {
                    (true, _) => 0o100,
                    (false, true) => 0o010,
                    (false, false) => 0o001,
                };
                found.mode() & may_search != 0
            })
        })
    }
}

/// Makes the account the owner of a file. Without an account, the owner stays this user.
pub(crate) fn change_owner(path: &Path, account: Option<Account>) -> Result<(), Error> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid), Some(account.gid)).named("change the owner of", path)
}

/// Returns the user id of this process.
pub(crate) fn current_uid() -> Result<u32, Error> {
    id("-u", None).ok_or_else(|| Error::failed("read the user id", "`id -u` failed"))
}

/// Runs `id`, because the standard library can read neither the user id nor the list of users.
fn id(flag: &str, name: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(flag).args(name).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// How the supervisor starts the server: the words before the server's own command line.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// `setpriv` with options: changes the user, and has the kernel signal the server when the supervisor
    /// dies (`PR_SET_PDEATHSIG`). Empty if `setpriv` is not available.
    pub(crate) words: Vec<OsString>,
    /// The account of the supervisor itself, where `setpriv` cannot change that of the server.
    pub(crate) supervisor: Option<Account>,
}

impl Handover {
    /// Uses `setpriv` of util-linux. That of BusyBox lacks the options, and macOS has none.
    pub(crate) fn choose(account: Option<Account>) -> Handover {
        let help = Command::new("setpriv").arg("--help").output();
        let is_full = help.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            text.contains("--pdeathsig") && text.contains("--reuid")
        });
        if !is_full {
            return Handover { words: Vec::new(), supervisor: account };
        }

        let mut words: Vec<OsString> = vec!["setpriv".into()];
        if let Some(Account { uid, gid }) = account {
            words.push(format!("--reuid={uid}").into());
            words.push(format!("--regid={gid}").into());
            words.push("--clear-groups".into());
        }
        words.extend(["--pdeathsig", "INT", "--"].map(OsString::from));
        Handover { words, supervisor: None }
    }
}
