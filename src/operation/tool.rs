//! How an operation is declared as an MCP tool.
//!
//! The arguments of a tool are the members of the operation's input, without those that name the caller.
//! A [`Tool`] only says which members are left out, renamed, or given another default.

use crate::{access::IdentityMode, values::Order};

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
    /// What the tool expects where it refuses a call for one of these reasons.
    pub(crate) remedies: &'static [(&'static str, &'static str)],
    /// Members that the answer of the tool always has and that the route omits.
    pub(crate) added: &'static [&'static str],
    /// Whether the tool takes the key of an existing lock in any spelling.
    pub(crate) takes_any_key: bool,
    /// The order of the list in the answer, which the argument `cursor` continues.
    pub(crate) order: Option<Order>,
    /// The call that returns one entry of that list whole.
    pub(crate) whole: Option<Whole>,
}

/// A call that returns one entry of a list whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    /// The tool.
    pub(crate) tool: &'static str,
    /// Its argument that selects the entry.
    pub(crate) argument: &'static str,
    /// The member of the entry that is the value of the argument.
    pub(crate) member: &'static str,
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
            remedies: &[],
            added: &[],
            takes_any_key: false,
            order: None,
            whole: None,
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

    /// Answers a list in this order, which the argument `cursor` continues.
    pub(crate) const fn pages(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// Names the call that returns one entry of the list whole: tool, argument, member of the entry.
    pub const fn whole(
        mut self,
        tool: &'static str,
        argument: &'static str,
        member: &'static str,
    ) -> Self {
        self.whole = Some(Whole { tool, argument, member });
        self
    }

    /// Whether a member of the input is not an argument, for an operation with this identity mode.
    pub fn hides(&self, identity: IdentityMode, member: &str) -> bool {
        let names_caller =
            identity != IdentityMode::HeadersOnly && IDENTITY_MEMBERS.contains(&member);
        self.hidden.contains(&member) || (names_caller && !self.shown.contains(&member))
    }

    /// Returns the name of the argument of a member.
    pub fn argument<'a>(&self, member: &'a str) -> &'a str {
        let renamed = self.renamed.iter().find(|(from, _)| *from == member);
        renamed.map_or(member, |(_, to)| to)
    }
}
