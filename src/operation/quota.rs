//! Refusals because of a quota. The database functions decide them, `quota.sql`.
use super::{
    context::Context,
    limits::{Limit, Limits, Party},
};
use crate::config::Quota;

/// How the reasons of such refusals begin.
const REFUSAL: &str = "quota_exceeded: ";

/// Whether the verdict of a database function is the reason of such a refusal.
pub(crate) fn is_quota_refusal(verdict: &str) -> bool {
    verdict.starts_with(REFUSAL)
}

impl Context<'_> {
    /// Counts a refusal among the limits, if its reason is a quota.
    pub(crate) fn count_refusal(&self, reason: &str) {
        let agent = (&*self.caller.workspace, &*self.caller.agent_id);
        let party = self.request.party(self.key);
        count_refusal(&self.services.metrics.limits, reason, agent, party);
    }
}

/// Counts a refusal of an agent, by its workspace and id, if its reason is a quota.
pub(crate) fn count_refusal(
    limits: &Limits,
    reason: &str,
    (workspace, agent_id): (&str, &str),
    party: Party<'_>,
) {
    if let Some(limit) = limit_of(reason) {
        let (workspace, agent_id) = (Some(workspace), Some(agent_id));
        limits.count(limit, Party { workspace, agent_id, ..party });
    }
}

/// Returns the limit that a reason names by its variable.
fn limit_of(reason: &str) -> Option<Limit> {
    let (_, variable) = reason.strip_prefix(REFUSAL)?.rsplit_once("; ")?;
    let quota = Quota::ALL.into_iter().find(|it| it.variables().contains(&variable))?;
    Some(Limit::of(quota))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_its_limit() {
        let reason = "quota_exceeded: open tasks per agent, 3; QUOTA_TASKS_PER_AGENT";
        assert_eq!(limit_of(reason), Some(Limit::QuotaOfTasks));
        assert_eq!(limit_of("locked_by_other"), None);
        let names = Quota::ALL.map(|quota| Limit::of(quota).name());
        for (quota, name) in Quota::ALL.into_iter().zip(names) {
            let [of_agent, of_workspace] = quota.variables();
            let name = name.to_uppercase();
            assert_eq!(
                [of_agent, of_workspace],
                [format!("{name}_PER_AGENT"), format!("{name}_PER_WORKSPACE")]
            );
        }
    }
}
