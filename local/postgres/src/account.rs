//! Whom the server runs as. PostgreSQL refuses root, so root hands over to an account that owns
//! nothing else; everybody else runs it as themselves.

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

/// An unprivileged account that root lets the server run as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// For root: the owner of the data if there is any yet, else `postgres`, else `nobody`.
    /// Nobody else needs an account.
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
                "it refuses root, and there is neither a user `postgres` nor `nobody`; \
                 add one of them, or run this as an ordinary user",
            )),
        }
    }

    fn named(name: &str) -> Option<Account> {
        Some(Account { uid: id("-u", Some(name))?, gid: id("-g", Some(name))? })
    }

    /// Lets a command run as this account and in no other group.
    pub(crate) fn run_as(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Can this account go into the folder and everything above it?
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

/// Gives a file to the account. Without an account it is the caller's and stays so.
pub(crate) fn give(path: &Path, account: Option<Account>) -> Result<(), Error> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid), Some(account.gid)).named("give away", path)
}

/// The user that this process runs as.
pub(crate) fn current_uid() -> Result<u32, Error> {
    id("-u", None).ok_or_else(|| Error::failed("find out who runs this", "`id -u` fails"))
}

fn id(flag: &str, name: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(flag).args(name).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// How to start the server from the supervisor: the words before the server's own.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// The program that changes the user and ties the server's life to the supervisor's.
    pub(crate) words: Vec<OsString>,
    /// Without such a program the supervisor itself runs as this account.
    pub(crate) supervisor: Option<Account>,
}

impl Handover {
    /// `setpriv` does both where it is the full one, which is on nearly every Linux.
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
