//! The longer help texts. Agents read them, so they name the mechanism and the exit codes.

pub(crate) const ABOUT: &str =
    "Locks, work, handoffs and guardrails for AI coding agents that share a codebase.";

pub(crate) const CONFIGURATION: &str = "\
URL of the service: --url, else the first of COORDINATION_API_URL, COORDINATOR_HTTP_URL,
AGENT_COORDINATOR_API_URL and AGENT_COORDINATOR_HTTP_URL that is set, else this machine, with the
port AGENT_COORDINATOR_REST_PORT if it is set, else `git config coord.url`, else port 8081 of this
machine. Any other host must be listed in COORDINATION_ALLOWED_HOSTS, separated by commas, or in
`git config --global coord.allowedHosts`; the configuration of a repository cannot allow a host.
`*.example.org` allows every name below example.org.

API key: COORDINATION_API_KEY, else COORDINATOR_API_KEY, else --key-file, else the file of
`git config coord.keyFile`.

Proxy (HTTP or SOCKS): the first of ALL_PROXY, HTTPS_PROXY and HTTP_PROXY that is set, in any case;
none for this machine and for the hosts in NO_PROXY.

Workspace: --workspace, else COORDINATION_WORKSPACE, else `git config coord.workspace`.
Session: --session-id, else SESSION_ID, else CLAUDE_CODE_SESSION_ID.

A PATH is relative to the current folder, and `:/` before it makes it relative to the root of the
repository. Its lock key is the path of the file from that root, through every linked work tree,
symbolic link and submodule. A name with a namespace, such as db:schema:users, is a key as it is.

A text or object given as - is read from standard input. A list is several words, or one list as JSON.

Exit codes: 0 done, 1 refused or not found, 2 invalid usage, configuration or input,
3 not permitted (401, 403), 4 no answer, timed out, or an error of the service.";

pub(crate) const TRY: &str = "\
Prints one JSON object. {\"status\":\"ok\",…} contains the answer of the service.
{\"status\":\"skipped\",…} means that the service or the capability is not available.
{\"status\":\"error\",…} means that the service rejected the request. Exit code 0 for ok and
skipped, 1 for error. Read response.success: ok only means that there is an answer, not that a lock
is held. A payload that is not an object, or lacks the id in the path, is exit code 2 in every case.

Where no field of the request names the agent, AGENT_ID and AGENT_TYPE are sent as X-Agent-Id and
X-Agent-Type. The service then denies a request whose key is bound to another agent.";

pub(crate) const DOCTOR: &str = "\
Checks the address, the key, the agent, the session, the clock, the workspace and the version of the
service, the git hooks that really run, the record of locks, and the MCP settings of Claude Code,
Codex, Cursor, VS Code and Gemini in this repository and in your home. No key and no value of a
variable is printed.

Exit code 0 if nothing is wrong, 1 otherwise.";

pub(crate) const GIT_HOOK: &str = "\
A changed file whose lock was recorded by `coord lock` passes only while that lock is still held
with the same fencing token. Any other changed file passes unless another agent holds its lock. A
lock of your own agent is noted, in whatever session and with whatever token, and stops nothing; so
is a lock that was given back, if nobody has locked the file since.

The records of all work trees of the repository count. A recorded lock counts only for the service,
the workspace and the agent that acquired it. A record that cannot be parsed stops every commit and
push.

pre-commit checks the files of the commit.

pre-push to a branch that the remote has checks the files that its new commits change, and those
changed by commits that the branch loses. Changes that come from the remote's default branch
(refs/remotes/<remote>/HEAD, see `git remote set-head`; else main or master), or from that of
another remote, are the work of other agents, so only recorded locks are checked for them.

pre-push to a new branch, or to one whose commit was not fetched yet, checks the commits that no
branch of any remote has, and the recorded locks of all files that differ from the merge base with
the default branch. Of more than 2000 commits, the newest 2000 are checked, and of the others what
they change together.

When the service cannot be reached, commits and pushes are stopped, unless the repository allows
them:

  git config coord.unreachable allow

This does not count while the address of the service is not configured. Git that is started without
your variables reads `git config coord.url`, coord.keyFile and coord.workspace.";

pub(crate) const HOOK_INSTALL: &str = "\
Installs into the folder whose hooks git runs, if it belongs to this repository alone. A hook that
`coord` did not install is left alone unless --force is given. With --force it is kept as
<hook>.before-coord, and runs first.

Where a hook manager (husky, pre-commit, lefthook, simple-git-hooks and others) or a tracked folder
has the hooks, the command prints what belongs into its configuration. With --manager it writes that
into the scripts of husky, .pre-commit-config.yaml, lefthook.yml or the tracked scripts. Where the
file has another form, it prints what to add by hand, and to which file.

Where core.hooksPath names a folder of the whole machine, nothing is installed. The command says how
this repository gets hooks of its own, and how those of the machine still run here.

Repeat the command to repair what another program made of the hooks.

Records in the settings of this clone, for programs without your variables: coord.url,
coord.keyFile (--key-file) and coord.workspace (--workspace), but never a key. A workspace that the
key may not choose is refused.";

pub(crate) const MCP: &str = "\
For agents that start MCP servers as programs. Forwards every message to /mcp of the service, with
the key and the identity of the environment. A session that register_session names counts from then
on before that of the environment.

When a request is cancelled, or is still waiting for a lock or for work when standard input ends,
its connection is closed. The service then grants nothing to it.";

pub(crate) const START_SESSION: &str = "\
Register your session when you start work, and print the newest handoff and what your other sessions
hold. With --adopt, this session takes that over: after a restart, but not while they are at work.

Other agents then see you. The session is --session-id, else SESSION_ID, else
CLAUDE_CODE_SESSION_ID, else a new one. With --hook it is the member `session_id` of a JSON
object on standard input, else --session-id; without either, no session is registered. As a hook of Claude
Code, the command also sets SESSION_ID for the later commands of the session.";

pub(crate) const END_SESSION: &str = "\
End your session when your work is done. With --summary, first write a handoff.

This releases the locks, claims and ports of the session. The session is --session-id, else
SESSION_ID, else CLAUDE_CODE_SESSION_ID. With --hook it is the member `session_id` of a
JSON object on standard input, else --session-id; without either, no session is ended.

The two lines of settings for Claude Code and Codex are

  coord session start --hook
  coord session end --hook --summary \"Session ended.\"";

pub(crate) const SESSION_HOOK: &str = "Behave as a session hook: exit code 0 in every case, problems on standard error, at most 2 s or --timeout";
