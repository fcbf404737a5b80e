//! Which engine decides what a caller may do. Suspension, the lists of profiles and the limit on
//! files (conventions 5.1, steps 2 to 4 and 6) are the same around either.

#[cfg(feature = "cedar")]
use crate::cedar::Cedar;
use crate::{
    Config, Result,
    auth::Caller,
    config::PolicyEngine,
    db::Db,
    policy::{self, Decision, Question},
};

/// The engine that the configuration chose.
#[derive(Debug)]
pub(crate) enum Engine {
    Native,
    #[cfg(feature = "cedar")]
    Cedar(Box<Cedar>),
}

impl Engine {
    pub(crate) fn new(config: &Config) -> Self {
        match config.policy.engine {
            PolicyEngine::Native => Self::Native,
            #[cfg(feature = "cedar")]
            PolicyEngine::Cedar => Self::Cedar(Box::new(Cedar::new(&config.policy))),
        }
    }

    /// Its name in the audit log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            #[cfg(feature = "cedar")]
            Self::Cedar(_) => "cedar",
        }
    }

    /// Its name in answers.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::Native => "NativePolicyEngine",
            #[cfg(feature = "cedar")]
            Self::Cedar(_) => "CedarPolicyEngine",
        }
    }

    /// Decides steps 2 to 5 of conventions 5.1. Uses the connection only when what an engine has
    /// read from the database is too old.
    #[cfg_attr(
        not(feature = "cedar"),
        expect(unused_variables, reason = "only policies are read from the database")
    )]
    pub(crate) async fn decide(
        &self,
        db: &mut Db,
        config: &Config,
        caller: &Caller,
        question: &Question<'_>,
    ) -> Result<Decision> {
        let enforce_lists = config.enforce_profile_limits;
        match self {
            Self::Native => Ok(policy::decide(caller, question, enforce_lists).into()),
            #[cfg(feature = "cedar")]
            Self::Cedar(cedar) => match policy::admit(caller, question.operation, enforce_lists) {
                Ok(()) => cedar.decide(db, caller, question).await,
                denied => Ok(denied.map(|()| String::new()).into()),
            },
        }
    }

    /// What is wrong with a policy's text.
    #[cfg_attr(
        not(feature = "cedar"),
        expect(unused_variables, reason = "only Cedar has policies with a text")
    )]
    pub(crate) fn validate(&self, policy_text: &str) -> Vec<String> {
        match self {
            Self::Native => {
                vec!["Cedar engine not active. Set POLICY_ENGINE=cedar".to_owned()]
            }
            #[cfg(feature = "cedar")]
            Self::Cedar(cedar) => cedar.validate(policy_text),
        }
    }
}
