//! How an operation is declared as an MCP tool.
//!
//! The arguments of a tool are the members of the operation's input, without those that name the caller.
//! A [`Tool`] only says which members are left out, renamed, or given another default.

use crate::access::IdentityMode;

/// The members of an input that name the caller. Over MCP, the key and the headers do.
pub const IDENTITY_MEMBERS: [&str; 3] = ["agent_id", "agent_type", "session_id"];

/// How a tool differs from its operation.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The name of the tool.
    pub name: &'static str,
    /// Members that are not arguments.
    pub(crate) hidden: &'static [&'static str],
    /// Members that name a session and are offered as arguments anyway.
    pub(crate) shown: &'static [&'static str],
    /// Members with the names of their arguments.
    pub(crate) renamed: &'static [(&'static str, &'static str)],
    /// Members with the defaults of their arguments, as JSON.
    pub(crate) defaults: &'static [(&'static str, &'static str)],
    /// Required members whose text must not be blank.
    pub(crate) filled: &'static [&'static str],
    /// What the tool expects where it refuses a call for one of these reasons.
    pub(crate) remedies: &'static [(&'static str, &'static str)],
    /// Members that the answer of the tool always has and that the route omits.
    pub(crate) added: &'static [&'static str],
    /// Whether the tool takes the key of an existing lock in any spelling.
    pub(crate) takes_any_key: bool,
}

impl Tool {
    /// Creates a tool with all members of the input as arguments.
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            hidden: &[],
            shown: &[],
            renamed: &[],
            defaults: &[],
            filled: &[],
            remedies: &[],
            added: &[],
            takes_any_key: false,
        }
    }

    /// Leaves members out. Each has its default, or is absent.
    pub const fn hide(mut self, members: &'static [&'static str]) -> Self {
        self.hidden = members;
        self
    }

    /// Offers members that name a session.
    pub const fn show(mut self, members: &'static [&'static str]) -> Self {
        self.shown = members;
        self
    }

    /// Renames members: member, argument.
    pub const fn rename(mut self, members: &'static [(&'static str, &'static str)]) -> Self {
        self.renamed = members;
        self
    }

    /// Sets the defaults of arguments: member, JSON.
    pub const fn default(mut self, members: &'static [(&'static str, &'static str)]) -> Self {
        self.defaults = members;
        self
    }

    /// Refuses a call in which the text of one of these required members is blank.
    pub const fn filled(mut self, members: &'static [&'static str]) -> Self {
        self.filled = members;
        self
    }

    /// Says what is expected, in the member `expected` of a refusal: reason, text.
    pub const fn remedies(mut self, texts: &'static [(&'static str, &'static str)]) -> Self {
        self.remedies = texts;
        self
    }

    /// Takes a lock key that no path is spelled like as it is written. For tools that acquire no lock: a lock
    /// that an HTTP client made can have any key.
    pub const fn takes_any_key(mut self) -> Self {
        self.takes_any_key = true;
        self
    }

    /// Adds members to the answer, as null, that the route omits.
    pub const fn add(mut self, members: &'static [&'static str]) -> Self {
        self.added = members;
        self
    }

    /// Whether a member of the input is not an argument, for an operation with this identity mode.
    pub fn hides(&self, identity: IdentityMode, member: &str) -> bool {
        let names_caller =
            identity != IdentityMode::HeadersOnly && IDENTITY_MEMBERS.contains(&member);
        self.hidden.contains(&member) || (names_caller && !self.shown.contains(&member))
    }

    /// Whether the text of a required member must not be blank.
    pub(crate) fn must_have_text(&self, member: &str) -> bool {
        self.filled.contains(&member)
    }

    /// Returns the name of the argument of a member.
    pub fn argument<'a>(&self, member: &'a str) -> &'a str {
        let renamed = self.renamed.iter().find(|(from, _)| *from == member);
        renamed.map_or(member, |(_, to)| to)
    }
}
