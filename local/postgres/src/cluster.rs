//! Creates the data directory of a server. Invariant: a folder named `data` is a complete cluster, because
//! it gets that name only after `initdb` succeeded.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    account::{Account, change_owner},
    binaries::Binaries,
    error::{Error, Named},
    folder::{random_hex, remove, set_mode, write_private},
};

/// The data directory of a server, and the password to connect.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) data: PathBuf,
    pub(crate) password: String,
}

/// Whether the data outlives the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The data is kept between runs and survives a crash of the machine.
    Kept,
    /// The data is removed after the run.
    Throwaway,
}

/// Returns the cluster in a folder. Creates it if it is missing or incomplete.
pub(crate) fn prepare(
    folder: &Path,
    binaries: &Binaries,
    account: Option<Account>,
    durability: Durability,
) -> Result<Cluster, Error> {
    let data = folder.join("data");
    let password_file = folder.join("password");

    let made_by = fs::read_to_string(data.join("PG_VERSION"));
    if let (Ok(made_by), Ok(password)) = (made_by, fs::read_to_string(&password_file)) {
        check_version(&data, made_by.trim(), binaries)?;
        return Ok(Cluster { data, password });
    }

    let unfinished = folder.join("data.unfinished");
    remove(&data)?;
    remove(&unfinished)?;
    let password = random_hex(16)?;
    write_private(&password_file, &password)?;
    change_owner(&password_file, account)?;
    fs::create_dir(&unfinished).named("create", &unfinished)?;
    set_mode(&unfinished, 0o700)?;
    change_owner(&unfinished, account)?;

    let made = initdb(&unfinished, &password_file, binaries, account, durability);
    if let Err(error) = made {
        // The error of `initdb` is the one to report, so a failure to remove its leftovers is ignored.
        let _ = remove(&unfinished);
        return Err(error);
    }
    fs::rename(&unfinished, &data).named("create", &data)?;
    Ok(Cluster { data, password })
}

fn check_version(data: &Path, made_by: &str, binaries: &Binaries) -> Result<(), Error> {
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
    durability: Durability,
) -> Result<(), Error> {
    // SCRAM computes thousands of hashes for every connection, and tests open hundreds of connections.
    let authentication = match durability {
        Durability::Kept => "scram-sha-256",
        Durability::Throwaway => "md5",
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
            // Flushing would double the time. The system writes the files within a minute, and until then
            // nothing in them is durability keeping.
            .arg("--no-sync")
            .env("LC_ALL", "C")
            .current_dir("/")
            // A process group of its own: Ctrl-C in the terminal signals only the owner, which then stops
            // its children in order.
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
    Err(Error::failed(format!("create a database cluster in {}", data.display()), refusal))
}
