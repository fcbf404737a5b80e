//! What the checks found.
use serde_json::{Value, json};

use crate::output::{console::Output, text::escape_line};

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fine,
    /// Nothing is wrong, but the reader may want to know.
    Note,
    Problem,
}

/// What a check found, and what to do.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn to_json(&self) -> Value {
        let state = match self.state {
            State::Fine => "ok",
            State::Note => "note",
            State::Problem => "problem",
        };
        json!({ "check": self.check, "state": state, "text": self.text, "remedy": self.remedy })
    }
}

#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, check: &'static str, state: State, text: String, remedy: Option<String>) {
        self.list.push(Finding { check, state, text, remedy });
    }

    pub(super) fn fine(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(check, State::Fine, text.into(), None);
    }

    pub(super) fn note(
        &mut self,
        check: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(check, State::Note, text.into(), Some(remedy.into()));
    }

    pub(super) fn problem(
        &mut self,
        check: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(check, State::Problem, text.into(), Some(remedy.into()));
    }

    pub(super) fn has_problem(&self) -> bool {
        self.list.iter().any(|finding| finding.state == State::Problem)
    }

    /// Renders a line for each finding, with its remedy below it.
    pub(super) fn render(&self, output: Output) -> String {
        let mut text = String::new();
        for finding in &self.list {
            let state = match finding.state {
                State::Fine => output.paint(GREEN, "ok     "),
                State::Note => output.paint(YELLOW, "note   "),
                State::Problem => output.paint(RED, "problem"),
            };
            text += &format!("{state}  {:<10}  {}\n", finding.check, escape_line(&finding.text));
            if let Some(remedy) = &finding.remedy {
                text += &format!("{:21}{}\n", "", escape_line(remedy));
            }
        }
        let problems = self.list.iter().filter(|finding| finding.state == State::Problem).count();
        text + &match problems {
            0 => "No problems.".to_owned(),
            1 => "1 problem.".to_owned(),
            count => format!("{count} problems."),
        }
    }
}
