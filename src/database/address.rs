//! The address of the database: how a connection outside the pool is opened, and what follows when TLS fails.
use std::{io, sync::OnceLock};

use sqlx::{
    ConnectOptions as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::values::Secret;

/// What the driver's TLS says of a certificate that it refuses, what it means, and what the operator can do.
const REFUSALS: [(&str, &str); 5] = [
    (
        "UnsupportedCertVersion",
        "the certificate of the database server is of X.509 version 1, which TLS here does not accept: \
         give the server one of version 3 (`openssl req -x509` makes one), or set sslmode=disable",
    ),
    (
        "UnknownIssuer",
        "the issuer of the database server's certificate is unknown: name its certificate in sslrootcert",
    ),
    (
        "CaUsedAsEndEntity",
        "the database server presents the certificate of an authority (CA:TRUE), as `openssl req -x509` makes \
         one: give it one that an authority has issued, name that authority in sslrootcert, or set \
         sslmode=require, which does not check certificates",
    ),
    (
        "not valid for name",
        "the database server's certificate is for another host name: use that name, or sslmode=verify-ca",
    ),
    (
        "certificate expired",
        "the database server's certificate has expired: renew it on the server",
    ),
];

/// The address of the database.
#[derive(Debug)]
pub(crate) struct Address {
    options: Secret<PgConnectOptions>,
    /// The same address without TLS, once TLS has failed where it is only preferred.
    without_tls: OnceLock<Secret<PgConnectOptions>>,
}

impl Address {
    pub(super) fn new(options: &Secret<PgConnectOptions>) -> Self {
        Self { options: options.clone(), without_tls: OnceLock::new() }
    }

    /// Returns the options with which connections are opened now.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.without_tls.get().unwrap_or(&self.options).0
    }

    /// Opens a connection outside the pool.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connected = match self.options().connect().await {
            Err(error) if self.falls_back_after(&error) => self.options().connect().await,
            connected => connected,
        };
        connected.map_err(explained)
    }

    /// Whether a failure to connect was one of TLS that `sslmode=prefer` survives: the next connections of
    /// this process are opened without TLS, as libpq opens them.
    pub(super) fn falls_back_after(&self, error: &sqlx::Error) -> bool {
        if !is_failure_of_tls(error) || !matches!(self.options.0.get_ssl_mode(), PgSslMode::Prefer)
        {
            return false;
        }
        self.without_tls.get_or_init(|| {
            tracing::warn!(
                %error,
                remedy = remedy(error),
                "TLS with the database failed: connections are not encrypted, as sslmode=prefer allows"
            );
            Secret(self.options.0.clone().ssl_mode(PgSslMode::Disable))
        });
        true
    }
}

/// Whether the TLS handshake failed, after the server had agreed to it. The driver returns what its TLS
/// library says as invalid data.
fn is_failure_of_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Returns what an operator can do about a certificate that was refused, if that is known.
fn remedy(error: &sqlx::Error) -> Option<&'static str> {
    let text = error.to_string();
    REFUSALS.iter().find(|(word, _)| text.contains(word)).map(|(_, remedy)| *remedy)
}

/// Adds the remedy to a failure of TLS, for the log.
pub(super) fn explained(error: sqlx::Error) -> sqlx::Error {
    match remedy(&error) {
        Some(remedy) if is_failure_of_tls(&error) => {
            sqlx::Error::Tls(format!("{remedy} ({error})").into())
        }
        _ => error,
    }
}
