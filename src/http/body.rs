//! The key and the body of a request.
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::input::json_invalid;
use crate::{
    access::Key,
    operation::{HeldBytes, Limit, RequestInfo, Services},
    values::{Error, Result, limits::MAX_BODY_BYTES},
};

/// How much of a refused body is read, and for how long, so that the client gets to read the refusal.
const MAX_DISCARDED_BYTES: usize = 16 << 20;
const MAX_DISCARDING_TIME: Duration = Duration::from_secs(2);

/// The body of a request, whose bytes are counted as long as the request holds what it was read from them.
pub(crate) struct HeldBody {
    pub(crate) bytes: Bytes,
    pub(crate) held: HeldBytes,
}

/// Returns the key of a request and its body. The body is read only for clients that can go on.
///
/// # Errors
/// 413 for a declared length over the limit, 401 for an unknown key or where a key is needed and missing,
/// 429 where too many bytes are held, 408 and 413 for a body that is too slow or too long.
pub(crate) async fn read_request<'a>(
    services: &'a Services,
    info: &RequestInfo,
    needs_key: bool,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Option<&'a Key>, HeldBody)> {
    let key = if declared_length(headers) > MAX_BODY_BYTES as u64 {
        Err(Error::TooLarge)
    } else {
        authenticate(services, info, headers)
    };
    let allowed = key.and_then(|key| match key {
        None if needs_key => Err(Error::Unauthenticated),
        key => Ok((key, services.hold_body(info.party(key), expected_length(headers, &body))?)),
    });
    match allowed {
        Ok((key, mut held)) => {
            let limit = services.config.timings.body_time;
            let read = info.wait_for_client(read_body(body, limit)).await;
            if matches!(read, Err(Error::TooSlow)) {
                services.metrics.limits.count(Limit::BodyTime, info.party(key));
            }
            let bytes = read?;
            held.keep(bytes.len());
            Ok((key, HeldBody { bytes, held }))
        }
        Err(refused) => {
            // A client that sent `Expect: 100-continue` has not started sending the body.
            if !headers.contains_key(header::EXPECT) {
                info.wait_for_client(discard(body)).await;
            }
            Err(refused)
        }
    }
}

/// Returns the key of a request, or `None` when it presents none. Counts unknown keys, and notes on the
/// connection what it has shown.
pub(super) fn authenticate<'a>(
    services: &'a Services,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Option<&'a Key>> {
    let key = services.keys.authenticate(headers);
    if let Some(connection) = &info.connection {
        let number = key.as_ref().ok().and_then(|key| key.map(|key| key.number));
        connection.note_key(number);
    }
    key.inspect_err(|_| services.metrics.count_unknown_key())
}

/// Returns how many bytes a body has. One that does not say it can have as many as are read.
fn expected_length(headers: &HeaderMap, body: &Body) -> usize {
    match (headers.contains_key(header::CONTENT_LENGTH), body.size_hint().exact()) {
        (true, _) => usize::try_from(declared_length(headers)).unwrap_or(MAX_BODY_BYTES),
        (false, Some(bytes)) => usize::try_from(bytes).unwrap_or(MAX_BODY_BYTES),
        (false, None) => MAX_BODY_BYTES,
    }
}

fn declared_length(headers: &HeaderMap) -> u64 {
    let value = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

async fn read_body(mut body: Body, limit: Duration) -> Result<Bytes> {
    let whole = Limited::new(&mut body, MAX_BODY_BYTES).collect();
    let Ok(read) = tokio::time::timeout(limit, whole).await else {
        return Err(Error::TooSlow);
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(Error::TooLarge)
        }
        Err(error) => {
            tracing::debug!(%error, "the body could not be read");
            Err(Error::Invalid(vec![json_invalid(0)]))
        }
    }
}

/// Reads a part of the body and drops it. Closing a connection while its client still sends resets it,
/// and most clients lose the answer then.
async fn discard(mut body: Body) {
    let reading = async {
        let mut left = MAX_DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(length) {
                Some(left) => left,
                None => break,
            };
        }
    };
    if tokio::time::timeout(MAX_DISCARDING_TIME, reading).await.is_err() {
        tracing::debug!("a refused body was still being sent");
    }
}
