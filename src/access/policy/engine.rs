//! The configured policy engine. Suspension, the lists of profiles and the limit on
//! locked files are the same around either engine: `docs/api-design.md#authorization`.
#[cfg(feature = "cedar")]
use super::cedar::Cedar;
use super::{
    decision::{Decision, Question},
    native,
};
use crate::{
    access::caller::Caller,
    config::{Config, PolicyEngine},
    database::Db,
    values::Result,
};

/// The configured policy engine.
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

    /// Returns the name of the engine in the audit log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            #[cfg(feature = "cedar")]
            Self::Cedar(_) => "cedar",
        }
    }

    /// Returns the name of the engine in answers.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::Native => "NativePolicyEngine",
            #[cfg(feature = "cedar")]
            Self::Cedar(_) => "CedarPolicyEngine",
        }
    }

    /// Decides by suspension, then the lists of the profile, then the engine. Uses the connection only
    /// when the policies in memory are too old.
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
            Self::Native => Ok(native::decide(caller, question, enforce_lists).into()),
            #[cfg(feature = "cedar")]
            Self::Cedar(cedar) => {
                match native::check_lists(caller, question.operation, enforce_lists) {
                    Ok(()) => cedar.decide(db, caller, question).await,
                    denied => Ok(denied.map(|()| String::new()).into()),
                }
            }
        }
    }

    /// Returns what is wrong with the text of a policy.
    #[cfg_attr(
        not(feature = "cedar"),
        expect(unused_variables, reason = "only Cedar has policies with a text")
    )]
    pub(crate) async fn validate(&self, policy_text: String) -> Vec<String> {
        match self {
            Self::Native => {
                vec!["Cedar engine not active. Set POLICY_ENGINE=cedar".to_owned()]
            }
            #[cfg(feature = "cedar")]
            Self::Cedar(cedar) => cedar.validate(policy_text).await,
        }
    }
}
