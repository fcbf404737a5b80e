//! What an agent may do: its trust and its profile, read from the database and kept for a few
//! seconds, so that a suspension reaches every replica in time without a query on each request.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use crate::{
    Config, Result,
    auth::{Caller, Key},
};

/// How far an agent with this profile is trusted and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Name of the profile.
    pub name: String,
    /// Trust from 0 to 4 that it gives.
    pub trust: u8,
    /// The only operations allowed; empty allows all.
    pub allowed_operations: Vec<String>,
    /// Operations that are refused.
    pub blocked_operations: Vec<String>,
    /// How many live file locks an agent may hold.
    pub max_file_modifications: i64,
}

/// What the database says about one agent.
#[derive(Clone, Debug)]
enum Standing {
    Suspended,
    Plain,
    /// A profile is named, by assignment, key or type, and found.
    Profiled(Arc<Profile>),
    /// A profile is named that is missing or disabled.
    Broken,
}

/// The standing of agents as last read, each for at most a few seconds.
#[derive(Debug, Default)]
pub(crate) struct Authority {
    known: Mutex<HashMap<Subject, (Instant, Standing)>>,
}

/// Everything that decides which row answers for a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    workspace: String,
    agent_id: String,
    bound: bool,
    bound_type: Option<String>,
    key_profile: Option<String>,
}

/// How many agents are kept in memory at most; any id may be named by an unbound key.
const MOST_KNOWN: usize = 10_000;

impl Authority {
    /// Settles the trust and the profile of a caller (conventions 5.2). Uses the connection only
    /// when what is known about the agent is too old.
    pub(crate) async fn settle(
        &self,
        db: &mut PgConnection,
        config: &Config,
        key: &Key,
        caller: &mut Caller,
    ) -> Result<()> {
        let identity = &key.identity;
        let subject = Subject {
            workspace: caller.workspace.clone(),
            agent_id: caller.agent_id.clone(),
            bound: identity.agent_id.is_some(),
            bound_type: identity.agent_type.clone(),
            key_profile: identity.profile.clone(),
        };
        let standing = match self.known(&subject, config.authority_max_age) {
            Some(standing) => standing,
            None => {
                let read_at = Instant::now();
                let standing = read(db, &subject).await?;
                self.remember(subject.clone(), read_at, standing.clone());
                standing
            }
        };
        (caller.trust, caller.profile) = decide(config.default_trust, subject.bound, standing);
        Ok(())
    }

    fn known(&self, subject: &Subject, max_age: Duration) -> Option<Standing> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (read_at, standing) = known.get(subject)?;
        (read_at.elapsed() < max_age).then(|| standing.clone())
    }

    fn remember(&self, subject: Subject, read_at: Instant, standing: Standing) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(subject, (read_at, standing));
    }
}

/// Trust and profile from what the database says.
fn decide(default_trust: u8, bound: bool, standing: Standing) -> (u8, Option<Arc<Profile>>) {
    // A key that is bound to no agent is never trusted above 2, whatever id it names.
    let most = if bound { u8::MAX } else { default_trust.min(2) };
    match standing {
        Standing::Suspended | Standing::Broken => (0, None),
        Standing::Plain => (default_trust.min(most), None),
        Standing::Profiled(profile) => (profile.trust.min(most), Some(profile)),
    }
}

async fn read(db: &mut PgConnection, subject: &Subject) -> Result<Standing> {
    // An assignment counts for every key; the key's profile and the default of the bound type only
    // for a bound one.
    let row = sqlx::query!(
        r#"
        with assigned as (
            select profile, suspended from agent_assignment where workspace = $1 and agent_id = $2
        ), home as (
            select case when exists (select from profile where workspace = $1)
                then $1 else 'default' end as workspace
        ), wanted as (
            select home.workspace, coalesce(
                (select profile from assigned),
                case when $3 then $4 end,
                case when $3 then (
                    select name from profile p
                    where p.workspace = home.workspace and p.agent_type = $5 and p.is_type_default
                        and p.enabled
                ) end
            ) as name
            from home
        )
        select
            coalesce((select suspended from assigned), false) as "suspended!",
            wanted.name as wanted,
            p.name as "name?", p.trust_level as "trust_level?",
            p.allowed_operations as "allowed_operations?",
            p.blocked_operations as "blocked_operations?",
            p.max_file_modifications as "max_file_modifications?"
        from wanted
        left join profile p on p.workspace = wanted.workspace and p.name = wanted.name and p.enabled
        "#,
        subject.workspace,
        subject.agent_id,
        subject.bound,
        subject.key_profile,
        subject.bound_type,
    )
    .fetch_one(db)
    .await?;
    if row.suspended {
        return Ok(Standing::Suspended);
    }
    let profile = row.name.map(|name| Profile {
        name,
        // Constraint profile_trust_range keeps it within 0..4.
        trust: row.trust_level.unwrap_or_default().try_into().unwrap_or_default(),
        allowed_operations: row.allowed_operations.unwrap_or_default(),
        blocked_operations: row.blocked_operations.unwrap_or_default(),
        max_file_modifications: row.max_file_modifications.unwrap_or_default().into(),
    });
    Ok(match (row.wanted, profile) {
        (None, _) => Standing::Plain,
        (Some(_), Some(profile)) => Standing::Profiled(Arc::new(profile)),
        (Some(_), None) => Standing::Broken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiled(trust: u8) -> Standing {
        Standing::Profiled(Arc::new(Profile {
            name: "p".to_owned(),
            trust,
            allowed_operations: vec![],
            blocked_operations: vec![],
            max_file_modifications: 1,
        }))
    }

    #[test]
    fn trust_by_binding_and_standing() {
        for (default_trust, bound, standing, expected) in [
            (2, true, Standing::Plain, 2),
            (3, true, Standing::Plain, 3),
            (3, false, Standing::Plain, 2),
            (1, false, Standing::Plain, 1),
            (2, true, profiled(4), 4),
            (2, false, profiled(4), 2),
            (2, false, profiled(1), 1),
            (1, false, profiled(2), 1),
            (4, true, Standing::Suspended, 0),
            (4, true, Standing::Broken, 0),
            (4, false, Standing::Broken, 0),
        ] {
            let (trust, _) = decide(default_trust, bound, standing.clone());
            assert_eq!(trust, expected, "{default_trust} {bound} {standing:?}");
        }
    }
}
