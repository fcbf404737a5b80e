//! `Idempotency-Key`: a repeated request is answered as the first one was, and has no second
//! effect. Key, effect and stored answer are one transaction.
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    App, Config, Error, Result,
    auth::Caller,
    db::Db,
    input::{issue, value_error},
    operation::{Context, Operation, Reply, RequestInfo, Wait},
};

/// One request that must take effect at most once.
pub(crate) struct Once<'a> {
    pub(crate) app: &'a App,
    pub(crate) key: &'a str,
    pub(crate) fingerprint: &'a [u8; 32],
    pub(crate) caller: &'a Caller,
    pub(crate) request: &'a RequestInfo,
    pub(crate) config: &'a Config,
    pub(crate) wait: Option<Wait<'a>>,
}

impl Once<'_> {
    /// Runs the operation, or answers what it answered when the key was first used. A concurrent
    /// twin waits at its insert until the first one has committed.
    ///
    /// This is a transaction of several statements: what to store is known only when the operation
    /// has answered.
    pub(crate) async fn run<O: Operation>(&self, operation: O, db: &mut Db) -> Result<Reply> {
        db.begin().await?;
        let run = self.run_once(operation, db).await;
        match &run {
            Ok(reply) if !reply.replayed => db.commit().await?,
            // The operation has recorded the denial, in this transaction.
            Err(Error::Forbidden(_)) => db.commit().await?,
            _ => db.rollback().await?,
        }
        run
    }

    async fn run_once<O: Operation>(&self, operation: O, db: &mut Db) -> Result<Reply> {
        if !self.reserve(db).await? {
            return self.replay(db).await;
        }
        let cx = Context {
            app: self.app,
            db: &mut *db,
            caller: self.caller,
            request: self.request,
            config: self.config,
            wait: self.wait,
        };
        let answer = match operation.run(cx).await {
            Err(denial @ Error::Forbidden(_)) => {
                self.forget(db).await?;
                return Err(denial);
            }
            answered => answered?,
        };
        let reply = Reply::new::<O>(&answer, self.caller)?;
        if O::took_effect(&answer) {
            self.keep(db, &reply.body).await?;
        } else {
            self.forget(db).await?;
        }
        Ok(reply)
    }

    /// Takes the key, unless an answer is stored under it; one older than 24 hours does not count.
    async fn reserve(&self, db: &mut Db) -> Result<bool> {
        let reserved = sqlx::query_scalar!(
            r#"select reserve_idempotency_key($1, $2, $3, $4) as "reserved!""#,
            self.caller.workspace,
            self.caller.agent_id,
            self.key,
            self.fingerprint.as_slice(),
        )
        .fetch_one(db)
        .await?;
        Ok(reserved)
    }

    async fn replay(&self, db: &mut Db) -> Result<Reply> {
        let stored = sqlx::query!(
            "select fingerprint, body from idempotency_key
             where workspace = $1 and agent_id = $2 and key = $3",
            self.caller.workspace,
            self.caller.agent_id,
            self.key,
        )
        .fetch_optional(db)
        .await?;
        // Cleaned up between the two statements: the client may repeat its request.
        let Some(stored) = stored else {
            return Err(Error::Unavailable("the stored answer expired just now".into()));
        };
        if stored.fingerprint != self.fingerprint {
            let text = "this key was used with another request";
            let loc = [json!("header"), json!("idempotency-key")];
            return Err(Error::Invalid(vec![issue(value_error(text), &loc, &json!(self.key))]));
        }
        Ok(Reply { body: stored.body.unwrap_or_default(), replayed: true, restanding: None })
    }

    async fn keep(&self, db: &mut Db, body: &str) -> Result<()> {
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

    async fn forget(&self, db: &mut Db) -> Result<()> {
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

/// What an idempotency key stands for: method and target with the body in canonical form, so that
/// neither white space nor the order of members makes another request.
pub(crate) fn fingerprint(target: &str, body: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(target.as_bytes());
    hash.update(b"\n");
    hash.update(canonical(body).as_bytes());
    hash.finalize().into()
}

/// JSON with members sorted and no white space.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, it)| format!("{}:{}", json!(name), canonical(it)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(canonical).collect();
            format!("[{}]", values.join(","))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_sorts_members_at_every_depth() {
        let value = json!({ "b": [{ "d": 1, "c": "x\"y" }], "a": null });
        assert_eq!(canonical(&value), r#"{"a":null,"b":[{"c":"x\"y","d":1}]}"#);
    }

    #[test]
    fn target_and_body_both_count() {
        let one = fingerprint("POST /a", &json!({ "x": 1, "y": 2 }));
        assert_eq!(one, fingerprint("POST /a", &json!({ "y": 2, "x": 1 })));
        assert_ne!(one, fingerprint("POST /b", &json!({ "x": 1, "y": 2 })));
        assert_ne!(one, fingerprint("POST /a", &json!({ "x": 1, "y": 3 })));
    }
}
