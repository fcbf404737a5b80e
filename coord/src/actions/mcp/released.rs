//! Locks that the client gives back by a tool. The record of the work tree forgets them, as
//! `coord unlock` makes it do, so that the git hooks do not take them for lost ones.
use crate::{
    actions::caller::Caller,
    command_line::{context::Context, values::StandardInput},
    output::console::Output,
    service::client::Client,
    work_tree::{git::WorkTree, records::Records},
};

/// Removes a lock that was released from the record. A record that cannot be changed keeps it, and
/// the hooks then stop a commit rather than miss a loss.
pub(super) fn forget(client: Client, key: &str) {
    let Some(work_tree) = WorkTree::of_current_folder() else { return };
    let Ok(records) = Records::of(work_tree) else { return };
    let cx = Context { client, output: Output::default(), stdin: StandardInput::default() };
    let caller = Caller::new(&cx);
    let session = &cx.settings().identity.session_id;
    if let Err(error) = records.remove(key, session, |lock| caller.owns(lock)) {
        cx.output.print_problem(&format!("The record of locks could not be changed: {error}."));
    }
}
