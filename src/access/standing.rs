//! The standing of agents: whether an agent is suspended and which profile applies to it. It is read
//! from the database and kept for a few seconds, so that a suspension reaches every replica in time
//! without a query on each request.
use std::{sync::Arc, time::Instant};

use super::{
    caller::Caller,
    keys::Key,
    profile::{Profile, ProfileSource},
};
use crate::{
    config::Config,
    database::Db,
    values::{Cache, Result},
};

/// What the database says about one agent.
#[derive(Clone, Debug)]
enum Standing {
    Suspended,
    /// No profile is named.
    Plain,
    /// A profile is named, by assignment, key or type, and it exists.
    Profiled(Arc<Profile>, ProfileSource),
    /// A profile is named that is missing or disabled.
    Broken,
}

/// The standing of agents, cached.
#[derive(Debug)]
pub(crate) struct Standings(Cache<Subject, Standing>);

/// Everything that determines the standing of a caller: the key of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    workspace: String,
    agent_id: String,
    bound: bool,
    bound_type: Option<String>,
    key_profile: Option<String>,
}

/// The maximum number of cached agents. Needed because an unbound key can name any id.
const CAPACITY: usize = 10_000;

impl Standings {
    pub(crate) fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// Sets trust and profile of a caller (`docs/api-design.md#trust`). Uses the connection only when
    /// what is known about the agent is too old.
    pub(crate) async fn apply(
        &self,
        db: &mut Db,
        config: &Config,
        key: &Key,
        caller: &mut Caller,
    ) -> Result<()> {
        let subject = Subject {
            workspace: caller.workspace.clone(),
            agent_id: caller.agent_id.clone(),
            bound: key.is_bound(),
            bound_type: key.identity.agent_type.clone(),
            key_profile: key.identity.profile.clone(),
        };
        let is_bound = subject.bound;
        let standing = match self.0.get(&subject) {
            Ok(standing) => standing,
            Err(generation) => {
                let read_at = Instant::now();
                let standing = read_standing(db, &subject).await?;
                let max_age = config.timings.standing_max_age;
                self.0.insert(generation, subject, standing.clone(), read_at, max_age);
                standing
            }
        };
        caller.trust = trust(config.default_trust, is_bound, &standing);
        if let Standing::Profiled(profile, source) = standing {
            (caller.profile, caller.profile_source) = (Some(profile), Some(source));
        }
        Ok(())
    }

    /// Forgets the standing of an agent. Called after a change of it was committed.
    pub(crate) fn forget(&self, workspace: &str, agent_id: &str) {
        self.0.remove(|subject| subject.workspace == workspace && subject.agent_id == agent_id);
    }
}

/// Returns the maximum trust of an agent of an unbound key, whatever id the request names.
pub(crate) fn max_unbound_trust(default_trust: u8) -> u8 {
    default_trust.min(2)
}

/// Returns the trust that follows from a standing.
fn trust(default_trust: u8, is_bound: bool, standing: &Standing) -> u8 {
    let max = if is_bound { u8::MAX } else { max_unbound_trust(default_trust) };
    match standing {
        Standing::Suspended | Standing::Broken => 0,
        Standing::Plain => default_trust.min(max),
        Standing::Profiled(profile, _) => profile.trust_level.min(max),
    }
}

/// What the database says about an agent, and the profile that is named, if it exists and is enabled.
struct Row {
    suspended: bool,
    /// Whether an assignment or the key names the profile.
    is_assigned: bool,
    wanted: Option<String>,
    name: Option<String>,
    agent_type: Option<String>,
    trust_level: Option<i16>,
    allowed_operations: Option<Vec<String>>,
    blocked_operations: Option<Vec<String>>,
    max_file_modifications: Option<i32>,
    max_execution_time_seconds: Option<i32>,
    max_api_calls_per_hour: Option<i32>,
}

/// Reads the standing of an agent.
async fn read_standing(db: &mut Db, subject: &Subject) -> Result<Standing> {
    // An assignment counts for every key. The profile of the key and the default of the bound type count
    // for a bound key only.
    let row = sqlx::query_as!(
        Row,
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
    Ok(row.into())
}

impl From<Row> for Standing {
    fn from(row: Row) -> Self {
        if row.suspended {
            return Self::Suspended;
        }
        let profile = row.name.map(|name| Profile {
            name,
            agent_type: row.agent_type.unwrap_or_default(),
            // The constraint profile_trust_range keeps the value within 0..4.
            trust_level: row.trust_level.unwrap_or_default().try_into().unwrap_or_default(),
            allowed_operations: row.allowed_operations.unwrap_or_default(),
            blocked_operations: row.blocked_operations.unwrap_or_default(),
            max_file_modifications: row.max_file_modifications.unwrap_or_default().into(),
            max_execution_time_seconds: row.max_execution_time_seconds.unwrap_or_default().into(),
            max_api_calls_per_hour: row.max_api_calls_per_hour.unwrap_or_default().into(),
        });
        let source =
            if row.is_assigned { ProfileSource::Assignment } else { ProfileSource::Default };
        match (row.wanted, profile) {
            (None, _) => Self::Plain,
            (Some(_), Some(profile)) => Self::Profiled(Arc::new(profile), source),
            (Some(_), None) => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiled(trust_level: u8) -> Standing {
        let profile = Profile {
            name: "p".to_owned(),
            agent_type: "t".to_owned(),
            trust_level,
            allowed_operations: vec![],
            blocked_operations: vec![],
            max_file_modifications: 1,
            max_execution_time_seconds: 1,
            max_api_calls_per_hour: 1,
        };
        Standing::Profiled(Arc::new(profile), ProfileSource::Default)
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
