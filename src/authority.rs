//! What an agent may do: its trust and its profile, read from the database and kept for a few
//! seconds, so that a suspension reaches every replica in time without a query on each request.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    Config, Result,
    auth::{Caller, Key},
    db::Db,
};

/// How far an agent with this profile is trusted and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Name of the profile.
    pub name: String,
    /// Type of agent that it is made for.
    pub agent_type: String,
    /// Trust from 0 to 4 that it gives.
    pub trust: u8,
    /// The only operations allowed; empty allows all.
    pub allowed_operations: Vec<String>,
    /// Operations that are refused.
    pub blocked_operations: Vec<String>,
    /// How many live file locks an agent may hold.
    pub max_file_modifications: i64,
    /// How long one run of an agent should last; for whoever starts it.
    pub max_execution_time_seconds: i64,
    /// How many calls an agent should make in an hour; for whoever starts it.
    pub max_api_calls_per_hour: i64,
}

/// How an agent came by its profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProfileSource {
    /// By a stored assignment, or by its key.
    Assignment,
    /// By the type that its key is bound to.
    Default,
}

/// What the database says about one agent.
#[derive(Clone, Debug)]
enum Standing {
    Suspended,
    Plain,
    /// A profile is named, by assignment, key or type, and found.
    Profiled(Arc<Profile>, ProfileSource),
    /// A profile is named that is missing or disabled.
    Broken,
}

/// The standing of agents as last read, each for at most a few seconds.
#[derive(Debug, Default)]
pub(crate) struct Authority {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    standings: HashMap<Subject, (Instant, Standing)>,
    /// How often something was forgotten: what was read before the last time may be out of date.
    generation: u64,
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
        db: &mut Db,
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
            Ok(standing) => standing,
            Err(generation) => {
                let read_at = Instant::now();
                let standing = read(db, &subject).await?;
                self.remember(generation, subject.clone(), read_at, standing.clone());
                standing
            }
        };
        caller.trust = trust(config.default_trust, subject.bound, &standing);
        if let Standing::Profiled(profile, source) = standing {
            (caller.profile, caller.profile_source) = (Some(profile), Some(source));
        }
        Ok(())
    }

    /// Has an agent's standing read anew from now on; called when a change of it is committed.
    pub(crate) fn forget(&self, workspace: &str, agent_id: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.generation += 1;
        known.standings.retain(|it, _| it.workspace != workspace || it.agent_id != agent_id);
    }

    /// The standing, if it was read lately, else the generation to remember a new one for.
    fn known(&self, subject: &Subject, max_age: Duration) -> Result<Standing, u64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.standings.get(subject).filter(|(at, _)| at.elapsed() < max_age);
        fresh.map(|(_, standing)| standing.clone()).ok_or(known.generation)
    }

    /// Keeps a standing, unless something was forgotten while it was being read.
    fn remember(&self, generation: u64, subject: Subject, read_at: Instant, standing: Standing) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.generation != generation {
            return;
        }
        if known.standings.len() >= MOST_KNOWN {
            known.standings.clear();
        }
        known.standings.insert(subject, (read_at, standing));
    }
}

/// The most trust that an agent of an unbound key has, whatever id it names.
pub(crate) fn most_unbound_trust(default_trust: u8) -> u8 {
    default_trust.min(2)
}

/// Trust from what the database says.
fn trust(default_trust: u8, bound: bool, standing: &Standing) -> u8 {
    let most = if bound { u8::MAX } else { most_unbound_trust(default_trust) };
    match standing {
        Standing::Suspended | Standing::Broken => 0,
        Standing::Plain => default_trust.min(most),
        Standing::Profiled(profile, _) => profile.trust.min(most),
    }
}

async fn read(db: &mut Db, subject: &Subject) -> Result<Standing> {
    // An assignment counts for every key; the key's profile and the default of the bound type only
    // for a bound one.
    let row = sqlx::query!(
        r#"
        with assigned as (
            select profile, suspended from agent_assignment where workspace = $1 and agent_id = $2
        ), home as (
            select case when exists (select from profile where workspace = $1)
                then $1 else 'default' end as workspace
        ), named as (
            select home.workspace,
                coalesce((select profile from assigned), case when $3 then $4 end) as assigned,
                case when $3 then (
                    select name from profile p
                    where p.workspace = home.workspace and p.agent_type = $5 and p.is_type_default
                ) end as default_of_type
            from home
        ), wanted as (
            select workspace, assigned, coalesce(assigned, default_of_type) as name from named
        )
        select
            coalesce((select suspended from assigned), false) as "suspended!",
            wanted.assigned is not null as "is_assigned!",
            wanted.name as wanted,
            p.name as "name?", p.agent_type as "agent_type?", p.trust_level as "trust_level?",
            p.allowed_operations as "allowed_operations?",
            p.blocked_operations as "blocked_operations?",
            p.max_file_modifications as "max_file_modifications?",
            p.max_execution_time_seconds as "max_execution_time_seconds?",
            p.max_api_calls_per_hour as "max_api_calls_per_hour?"
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
        agent_type: row.agent_type.unwrap_or_default(),
        // Constraint profile_trust_range keeps it within 0..4.
        trust: row.trust_level.unwrap_or_default().try_into().unwrap_or_default(),
        allowed_operations: row.allowed_operations.unwrap_or_default(),
        blocked_operations: row.blocked_operations.unwrap_or_default(),
        max_file_modifications: row.max_file_modifications.unwrap_or_default().into(),
        max_execution_time_seconds: row.max_execution_time_seconds.unwrap_or_default().into(),
        max_api_calls_per_hour: row.max_api_calls_per_hour.unwrap_or_default().into(),
    });
    let source = if row.is_assigned { ProfileSource::Assignment } else { ProfileSource::Default };
    Ok(match (row.wanted, profile) {
        (None, _) => Standing::Plain,
        (Some(_), Some(profile)) => Standing::Profiled(Arc::new(profile), source),
        (Some(_), None) => Standing::Broken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiled(trust: u8) -> Standing {
        let profile = Profile {
            name: "p".to_owned(),
            agent_type: "t".to_owned(),
            trust,
            allowed_operations: vec![],
            blocked_operations: vec![],
            max_file_modifications: 1,
            max_execution_time_seconds: 1,
            max_api_calls_per_hour: 1,
        };
        Standing::Profiled(Arc::new(profile), ProfileSource::Default)
    }

    #[test]
    fn what_was_read_before_something_was_forgotten_is_not_kept() {
        let authority = Authority::default();
        let subject = |agent_id: &str| Subject {
            workspace: "w".to_owned(),
            agent_id: agent_id.to_owned(),
            bound: false,
            bound_type: None,
            key_profile: None,
        };
        let keep = |generation, agent_id| {
            authority.remember(generation, subject(agent_id), Instant::now(), Standing::Plain);
        };
        let knows = |agent_id| authority.known(&subject(agent_id), Duration::from_secs(60)).is_ok();
        let early = authority.known(&subject("a"), Duration::ZERO).expect_err("unknown");
        keep(early, "a");
        keep(early, "b");
        assert!(knows("a") && knows("b"));
        authority.forget("w", "a");
        assert!(!knows("a") && knows("b"));
        keep(early, "a");
        assert!(!knows("a"), "it was read before the change");
        keep(early + 1, "a");
        assert!(knows("a"));
        authority.forget("other", "a");
        assert!(knows("a"));
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
            let trust = trust(default_trust, bound, &standing);
            assert_eq!(trust, expected, "{default_trust} {bound} {standing:?}");
        }
    }
}
