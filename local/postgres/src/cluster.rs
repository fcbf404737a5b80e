//! Makes the data of a server. The invariant: a folder named `data` is a complete cluster,
//! because it gets that name only when `initdb` has ended well.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    account::{Account, give},
    binaries::Binaries,
    error::{Error, Named},
    folder::{random_hex, remove, set_mode, write_private},
};

/// The data of a server and what it takes to connect to it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) data: PathBuf,
    pub(crate) password: String,
}

/// What the data is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// It is kept between runs and survives a crash of the machine.
    Kept,
    /// It is gone after the run.
    Nothing,
}

/// The cluster in that folder, made if it is missing or was left half done.
pub(crate) fn prepare(
    folder: &Path,
    binaries: &Binaries,
    account: Option<Account>,
    worth: Worth,
) -> Result<Cluster, Error> {
    let data = folder.join("data");
    let password_file = folder.join("password");

    let made_by = fs::read_to_string(data.join("PG_VERSION"));
    if let (Ok(made_by), Ok(password)) = (made_by, fs::read_to_string(&password_file)) {
        demand_version(&data, made_by.trim(), binaries)?;
        return Ok(Cluster { data, password });
    }

    let unfinished = folder.join("data.unfinished");
    remove(&data)?;
    remove(&unfinished)?;
    let password = random_hex(16)?;
    write_private(&password_file, &password)?;
    give(&password_file, account)?;
    fs::create_dir(&unfinished).named("make", &unfinished)?;
    set_mode(&unfinished, 0o700)?;
    give(&unfinished, account)?;

    let made = initdb(&unfinished, &password_file, binaries, account, worth);
    if let Err(error) = made {
        // What is half done would only be in the way, and the error is the one to tell.
        let _ = remove(&unfinished);
        return Err(error);
    }
    fs::rename(&unfinished, &data).named("make", &data)?;
    Ok(Cluster { data, password })
}

fn demand_version(data: &Path, made_by: &str, binaries: &Binaries) -> Result<(), Error> {
    let found = binaries.version();
    if made_by == found.major.to_string() {
        return Ok(());
    }
    Err(Error::OtherVersion {
        data: data.to_owned(),
        made_by: made_by.to_owned(),
        found: found.text.clone(),
    })
}

fn initdb(
    data: &Path,
    password_file: &Path,
    binaries: &Binaries,
    account: Option<Account>,
    worth: Worth,
) -> Result<(), Error> {
    // SCRAM costs thousands of hashes for every connection, which tests open by the hundred.
    let authentication = match worth {
        Worth::Kept => "scram-sha-256",
        Worth::Nothing => "md5",
    };
    let mut refusal = String::new();
    for locale in ["C.UTF-8", "C"] {
        let mut command = Command::new(binaries.program("initdb"));
        command
            .arg("-D")
            .arg(data)
            .args(["-U", "postgres", "-E", "UTF8", "--no-instructions", "-A", authentication])
            .arg(format!("--locale={locale}"))
            .arg("--pwfile")
            .arg(password_file)
            // It would take as long again as all the rest. The system writes the files within the
            // minute, and there is nothing in them yet that could not be made anew.
            .arg("--no-sync")
            .env("LC_ALL", "C")
            .current_dir("/")
            // Ctrl-C in the terminal is for the owner, who ends things in order.
            .process_group(0)
            .stdin(Stdio::null());
        if let Some(account) = account {
            account.run_as(&mut command);
        }

        let output = command.output().named("run", &binaries.program("initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        refusal = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !refusal.contains("locale") {
            break;
        }
    }
    Err(Error::failed(format!("make a database in {}", data.display()), refusal))
}
