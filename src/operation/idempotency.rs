//! `Idempotency-Key`: a repeated request gets the stored answer and has no second effect. Key, effect and
//! stored answer are one transaction: `docs/api-design.md#idempotency`.
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{context::Context, definition::Operation, reply::Reply};
use crate::{
    access::Caller,
    config::Quota,
    database::Db,
    values::{Error, Issue, Result, issue::value_error},
};

/// A key of a caller, with the request that it stands for.
struct Reservation<'a> {
    key: &'a str,
    /// Hash of the request and of the session in which the caller acts.
    fingerprint: [u8; 32],
    caller: &'a Caller,
}

/// Runs an operation, or returns the answer that is stored for the key. A concurrent request with the
/// same key waits at its insert until the first one has committed.
///
/// This is a transaction of several statements: what to store is known only after the operation has
/// answered.
pub(super) async fn run_once<O: Operation>(
    key: &str,
    fingerprint: &[u8; 32],
    operation: O,
    cx: Context<'_>,
) -> Result<Reply> {
    let fingerprint = in_session(fingerprint, cx.caller.session_id.as_deref());
    let reservation = Reservation { key, fingerprint, caller: cx.caller };
    cx.db.begin().await?;
    let Context { db, .. } = cx;
    let cx = Context { db: &mut *db, ..cx };
    let result = reservation.run(operation, cx).await;
    match &result {
        Ok(_) => db.commit().await?,
        // The transition has recorded the refusal in this transaction.
        Err(Error::Forbidden(_) | Error::QuotaExceeded(_)) => db.commit().await?,
        _ => db.rollback().await?,
    }
    result
}

impl Reservation<'_> {
    async fn run<O: Operation>(&self, operation: O, mut cx: Context<'_>) -> Result<Reply> {
        if !self.reserve::<O>(&mut cx).await? {
            return self.stored_reply(cx.db).await;
        }
        let Context { db, .. } = cx;
        let answer = match operation.run(Context { db: &mut *db, ..cx }).await {
            Err(denial @ Error::Forbidden(_)) => {
                self.release(db).await?;
                return Err(denial);
            }
            result => result?,
        };
        let reply = Reply::new::<O>(&answer, self.caller, cx.wait)?;
        if O::took_effect(&answer) {
            self.store(db, &reply.body).await?;
        } else {
            self.release(db).await?;
        }
        Ok(reply)
    }

    /// Takes the key, unless an answer is stored under it. An answer older than 24 hours does not count.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] when a quota allows no other key.
    async fn reserve<O: Operation>(&self, cx: &mut Context<'_>) -> Result<bool> {
        let reserved = sqlx::query!(
            r#"
            select is_reserved as "is_reserved!", refusal from reserve_idempotency_key(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11
            )
            "#,
            self.caller.workspace,
            cx.request.id,
            self.caller.agent_id,
            self.caller.agent_type,
            self.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            O::META.audit(),
            self.key,
            self.fingerprint.as_slice(),
            &cx.config.quotas.of(Quota::IdempotencyKeys),
        )
        .fetch_one(&mut *cx.db)
        .await?;
        match reserved.refusal {
            None => Ok(reserved.is_reserved),
            Some(reason) => {
                cx.count_refusal(&reason);
                Err(Error::QuotaExceeded(reason))
            }
        }
    }

    async fn stored_reply(&self, db: &mut Db) -> Result<Reply> {
        let stored = sqlx::query!(
            "select fingerprint, body from idempotency_key
             where workspace = $1 and agent_id = $2 and key = $3",
            self.caller.workspace,
            self.caller.agent_id,
            self.key,
        )
        .fetch_optional(db)
        .await?;
        // Deleted between the two statements: the client can repeat its request.
        let Some(stored) = stored else {
            return Err(Error::Unavailable("the stored answer has just expired".into()));
        };
        if stored.fingerprint != self.fingerprint {
            let problem = value_error(
                "this key was used with another request or in another session; use a new key for each request",
            );
            let loc = [json!("header"), json!("idempotency-key")];
            return Err(Error::Invalid(vec![Issue::new(problem, &loc, &json!(self.key))]));
        }
        Ok(Reply::stored(stored.body.unwrap_or_default()))
    }

    async fn store(&self, db: &mut Db, body: &str) -> Result<()> {
        sqlx::query!(
            "update idempotency_key set body = $4
             where workspace = $1 and agent_id = $2 and key = $3",
            self.caller.workspace,
            self.caller.agent_id,
            self.key,
            body,
        )
        .execute(db)
        .await?;
        Ok(())
    }

    async fn release(&self, db: &mut Db) -> Result<()> {
        sqlx::query!(
            "delete from idempotency_key where workspace = $1 and agent_id = $2 and key = $3",
            self.caller.workspace,
            self.caller.agent_id,
            self.key,
        )
        .execute(db)
        .await?;
        Ok(())
    }
}

/// Returns what an idempotency key stands for: a hash of method and path with the body in canonical form,
/// so that neither white space nor the order of members makes another request.
pub(crate) fn fingerprint(method_and_path: &str, canonical_body: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(method_and_path.as_bytes());
    hash.update(b"\n");
    hash.update(canonical_body.as_bytes());
    hash.finalize().into()
}

/// Returns the hash of a request in a session: what the request of one session was granted does not answer
/// that of another one.
fn in_session(fingerprint: &[u8; 32], session_id: Option<&str>) -> [u8; 32] {
    let Some(session_id) = session_id else { return *fingerprint };
    let mut hash = Sha256::new();
    hash.update(fingerprint);
    hash.update(session_id.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_and_body_both_count() {
        let one = fingerprint("POST /a", r#"{"x":1}"#);
        assert_eq!(one, fingerprint("POST /a", r#"{"x":1}"#));
        assert_ne!(one, fingerprint("POST /b", r#"{"x":1}"#));
        assert_ne!(one, fingerprint("POST /a", r#"{"x":2}"#));
    }
}
