//! Git hooks: a commit or push passes only while the locks that it relies on are held. The invariant:
//! a file whose recorded fencing token is no longer valid never passes.
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io::{IsTerminal as _, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use clap::ArgMatches;
use serde_json::{Value, json};

use crate::{
    git::WorkTree,
    outcome::{DONE, Outcome, Problem, REFUSED, UNANSWERED, code_of, failure_of},
    record::{Record, Recorded},
    run::{Context, context},
    settings::DEFAULT_TIMEOUT,
    show::{Output, clean, relative},
};

/// As many as one request may ask for.
pub(crate) const MOST_LOCKS: usize = 1000;

/// What is longer cannot be locked.
const MOST_BYTES: usize = 1024;

/// No lock has it, so it asks for a lock without claiming to hold it.
const NO_TOKEN: i64 = 0;

/// How a hook of this program is known again.
const MARK: &str = "# Installed by `coord hook install`.";

const NAMES: [&str; 2] = ["pre-commit", "pre-push"];

pub(crate) fn command(matches: &ArgMatches, output: Output) -> Outcome {
    let Some((name, own)) = matches.subcommand() else { return Ok(DONE) };
    let work_tree = WorkTree::here().ok_or_else(|| Problem::wrong("This is no git work tree."))?;
    if name == "install" {
        return install(&work_tree, own.get_flag("force"), output);
    }
    let given = |name: &str| own.get_one::<String>(name).map(String::as_str);
    let files = match name {
        "pre-commit" => {
            staged(&work_tree).map(|it| Files { changed: it, relied_on: BTreeSet::new() })
        }
        _ => pushed(&work_tree, given("remote"), given("location")),
    };
    let mut files = files.map_err(|error| Problem::wrong(format!("git: {error}.")))?;
    let record = Record::of(work_tree.clone());
    let recorded = record.locks().map_err(|error| Problem::wrong(format!("{error}.")))?;
    files.keep_relevant(&recorded);
    if files.changed.is_empty() && files.relied_on.is_empty() {
        return Ok(DONE);
    }
    let cx = context(own, output, DEFAULT_TIMEOUT)?;
    let checked = check(&cx, &recorded, &files);
    judge(checked, &work_tree, name, output)
}

/// What the check means for git.
fn judge(
    checked: Result<Vec<String>, Problem>,
    work_tree: &WorkTree,
    name: &str,
    output: Output,
) -> Outcome {
    let what = if name == "pre-push" { "push" } else { "commit" };
    match checked {
        Ok(complaints) if complaints.is_empty() => Ok(DONE),
        Ok(complaints) => {
            for complaint in complaints {
                output.problem(&complaint);
            }
            output.problem(&format!("coord: the {what} is stopped."));
            Ok(REFUSED)
        }
        Err(problem) if problem.code == UNANSWERED => {
            output.problem(&problem.text);
            let setting = work_tree.git(&["config", "--get", "coord.unreachable"]);
            if setting.is_ok_and(|it| it.trim() == "allow") {
                output.problem(&format!(
                    "coord: the locks are not checked; the {what} goes on, as coord.unreachable says."
                ));
                return Ok(DONE);
            }
            output.problem(&format!(
                "coord: the locks cannot be checked, so the {what} is stopped. To let it pass in such \
                 cases: git config coord.unreachable allow"
            ));
            Ok(UNANSWERED)
        }
        Err(problem) => Err(problem),
    }
}

/// The files of the commit to be. In a merge, those that come unchanged from the other side were
/// checked when they were committed there.
fn staged(work_tree: &WorkTree) -> Result<BTreeSet<String>, String> {
    let changed = |base: &[&str]| {
        let arguments = ["diff", "--cached", "--name-only", "--no-renames", "-z"];
        Ok::<BTreeSet<_>, String>(
            work_tree.paths(&[&arguments[..], base].concat())?.into_iter().collect(),
        )
    };
    let ours = changed(&[])?;
    match work_tree.says(&["rev-parse", "-q", "--verify", "MERGE_HEAD"]) {
        true => Ok(ours.intersection(&changed(&["MERGE_HEAD"])?).cloned().collect()),
        false => Ok(ours),
    }
}

/// The files of a push. Git says on standard input what it pushes: a line of local name, local commit,
/// remote name and remote commit for each.
fn pushed(
    work_tree: &WorkTree,
    remote: Option<&str>,
    location: Option<&str>,
) -> Result<Files, String> {
    let mut lines = String::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_string(&mut lines).map_err(|error| error.to_string())?;
    }
    let remote = match remote {
        Some(name) => work_tree.remote(name, location)?,
        None => None,
    };
    let push = Push {
        work_tree,
        main: remote.as_ref().and_then(|it| work_tree.commit(&format!("refs/remotes/{it}/HEAD"))),
        known: remote.map_or("--remotes".to_owned(), |it| format!("--remotes={it}")),
    };
    let is_none = |commit: &str| commit.bytes().all(|it| it == b'0');
    let mut files = Files::default();
    for line in lines.lines() {
        let [_, local, _, theirs] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        if is_none(local) {
            continue;
        }
        match work_tree.commit(theirs).filter(|_| !is_none(theirs)) {
            Some(theirs) => push.update(local, &theirs, &mut files)?,
            None => push.create(local, &mut files)?,
        }
    }
    Ok(files)
}

/// Files that a hook looks at.
#[derive(Default)]
struct Files {
    /// Those that must not be locked by others.
    changed: BTreeSet<String>,
    /// Those that come from others' commits, or may: a lock that is recorded for them must be held.
    relied_on: BTreeSet<String>,
}

impl Files {
    /// Forgets those that no lock can be for, or none of the recorded ones.
    fn keep_relevant(&mut self, recorded: &BTreeMap<String, Recorded>) {
        self.changed.retain(|it| it.len() <= MOST_BYTES);
        // Of a name with other characters only the service knows how it writes it.
        let is_plain = |it: &str| {
            it.bytes()
                .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'/' | b'.' | b'_' | b'-'))
        };
        self.relied_on.retain(|it| {
            let may_be_recorded =
                recorded.contains_key(it) || (!recorded.is_empty() && !is_plain(it));
            may_be_recorded && it.len() <= MOST_BYTES && !self.changed.contains(it)
        });
    }
}

/// A push to a remote.
struct Push<'a> {
    work_tree: &'a WorkTree,
    /// The remote's default branch as it was fetched last, if that is known.
    main: Option<String>,
    /// How git is told of all branches of the remote; of all remotes, if it is none that is known.
    known: String,
}

impl Push<'_> {
    /// A branch moves from one commit to another. What its new commits change is judged, whether the
    /// remote has them on another branch or not; only those of the default branch are others' work. So
    /// is what the commits change that it loses, and what a merge left out.
    fn update(&self, local: &str, theirs: &str, files: &mut Files) -> Result<(), String> {
        let main = self.main.as_deref();
        files.changed.extend(self.commits(&[&[local, "--not", theirs], main.as_slice()].concat())?);
        files.changed.extend(self.commits(&[theirs, "--not", local])?);
        let between = self.between(theirs, local)?;
        match main {
            Some(main) => {
                let own = self.between(main, local)?;
                files.changed.extend(between.intersection(&own).cloned());
            }
            None => files.changed.extend(between.iter().cloned()),
        }
        files.relied_on.extend(between);
        Ok(())
    }

    /// A branch is new, or what it was before is not known here.
    fn create(&self, local: &str, files: &mut Files) -> Result<(), String> {
        files.changed.extend(self.commits(&[local, "--not", &self.known])?);
        if let Some(main) = &self.main
            && let Ok(base) = self.work_tree.git(&["merge-base", main, local])
        {
            files.relied_on.extend(self.between(base.trim(), local)?);
        }
        Ok(())
    }

    /// The files that commits change. Without renames: who moves a file changes both paths. A merge
    /// shows what differs from every parent.
    fn commits(&self, range: &[&str]) -> Result<Vec<String>, String> {
        let log = ["log", "-z", "--format=", "--name-only", "--no-renames", "-c"];
        self.work_tree.paths(&[&log, range, &["--"]].concat())
    }

    /// The files in which two commits differ.
    fn between(&self, old: &str, new: &str) -> Result<BTreeSet<String>, String> {
        let diff = ["diff", "--name-only", "--no-renames", "-z", old, new, "--"];
        Ok(self.work_tree.paths(&diff)?.into_iter().collect())
    }
}

/// What stands against these files, one sentence for each.
fn check(
    cx: &Context,
    recorded: &BTreeMap<String, Recorded>,
    files: &Files,
) -> Result<Vec<String>, Problem> {
    let caller = Caller::new(cx);
    let mut tokens = BTreeMap::new();
    for (key, lock) in recorded {
        if caller.has(lock)? {
            tokens.insert(key.as_str(), lock.token);
        }
    }
    let mut complaints = Vec::new();
    let all: Vec<_> = files.changed.iter().chain(&files.relied_on).map(String::as_str).collect();
    for chunk in all.chunks(MOST_LOCKS) {
        let asked: Vec<_> =
            chunk.iter().map(|it| (*it, tokens.get(it).copied().unwrap_or(NO_TOKEN))).collect();
        for (file, result) in chunk.iter().copied().zip(verified(cx, &asked)?) {
            // The service may write a path in another way than git; the record has it as the service.
            let key = result["file_path"].as_str().unwrap_or(file);
            complaints.extend(match (tokens.get(file), tokens.get(key)) {
                (Some(token), _) => lost(&caller, file, *token, &result)?,
                (None, Some(token)) => {
                    let results = verified(cx, &[(file, *token)])?;
                    lost(&caller, file, *token, results.first().unwrap_or(&Value::Null))?
                }
                (None, None) if !files.changed.contains(file) => None,
                (None, None) => {
                    if let Some(lock) = recorded.get(file).or_else(|| recorded.get(key)) {
                        cx.output.problem(&format!(
                            "{file}: the recorded lock does not count here, it is from {}.",
                            lock.origin()
                        ));
                    }
                    taken(&caller, file, &result)?
                }
            });
        }
    }
    Ok(complaints)
}

/// Who calls, as the service sees it; it is asked no more than once.
pub(crate) struct Caller<'a> {
    cx: &'a Context,
    known: OnceCell<(String, String)>,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(cx: &'a Context) -> Caller<'a> {
        Caller { cx, known: OnceCell::new() }
    }

    /// The id of the agent, and the workspace.
    fn get(&self) -> Result<&(String, String), Problem> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let answer = self.cx.ask("GET /profiles/me", json!({}))?;
        let identity = answer.json.as_ref().filter(|_| answer.status == 200).and_then(|it| {
            let text = |name: &str| it["identity"][name].as_str().map(str::to_owned);
            Some((text("agent_id")?, text("workspace")?))
        });
        match identity {
            Some(identity) => Ok(self.known.get_or_init(|| identity)),
            None => Err(failure_of(self.cx, &answer)),
        }
    }

    /// Whether a recorded lock is one of the caller's at this service.
    fn has(&self, lock: &Recorded) -> Result<bool, Problem> {
        let url = self.cx.client.settings().url.as_str();
        if !lock.counts_for(url, "", "") {
            return Ok(false);
        }
        let (agent_id, workspace) = self.get()?;
        Ok(lock.counts_for(url, workspace, agent_id))
    }

    pub(crate) fn is(&self, holder: &str) -> Result<bool, Problem> {
        Ok(self.get()?.0 == holder)
    }
}

/// What the service says of locks with these tokens, in their order.
fn verified(cx: &Context, locks: &[(&str, i64)]) -> Result<Vec<Value>, Problem> {
    let locks: Vec<_> = locks
        .iter()
        .map(|(file, token)| json!({ "file_path": file, "fencing_token": token }))
        .collect();
    let answer = cx.ask("POST /locks/verify", json!({ "locks": locks }))?;
    let results = answer.json.as_ref().and_then(|it| it["results"].as_array());
    let is_whole =
        |it: &&Vec<Value>| it.len() == locks.len() && it.iter().all(|it| it["valid"].is_boolean());
    match results.filter(is_whole) {
        Some(results) => Ok(results.clone()),
        None => Err(failure_of(cx, &answer)),
    }
}

/// The lock of this file is recorded; does the caller still hold it?
fn lost(
    caller: &Caller,
    file: &str,
    token: i64,
    result: &Value,
) -> Result<Option<String>, Problem> {
    let holder = result["locked_by"].as_str();
    if result["valid"] == true {
        return match holder.map(|it| caller.is(it)).transpose()? {
            Some(true) => Ok(None),
            // A token is no secret: who knows it need not be who got it.
            _ => Ok(Some(held(file, holder.unwrap_or("another agent"), result))),
        };
    }
    let now = match holder {
        Some(holder) => format!("{holder} holds it now{}", until(result)),
        None => "nobody holds it now".to_owned(),
    };
    Ok(Some(format!(
        "{file}: your lock (fencing token {token}) is no longer valid; {now}. Look at what was changed \
         meanwhile, then lock it again with: coord lock {file}"
    )))
}

/// No lock of this file is recorded; does somebody else hold it?
fn taken(caller: &Caller, file: &str, result: &Value) -> Result<Option<String>, Problem> {
    let Some(holder) = result["locked_by"].as_str() else { return Ok(None) };
    if caller.is(holder)? && is_of_session(caller.cx, file)? {
        return Ok(None);
    }
    Ok(Some(held(file, holder, result)))
}

fn held(file: &str, holder: &str, result: &Value) -> String {
    format!("{file}: it is locked by {holder}{}.", until(result))
}

/// Whether the caller's lock, which it got in another way, is for the session that asks.
fn is_of_session(cx: &Context, file: &str) -> Result<bool, Problem> {
    let answer = cx.look("GET /locks/status/{path}", "path", file)?;
    let theirs = answer.json.as_ref().and_then(|it| it["lock"]["session_id"].as_str());
    Ok(code_of(&answer) == DONE && is_in_session(cx, theirs))
}

/// Whether a lock for this session, or for none, is one for the session that asks.
pub(crate) fn is_in_session(cx: &Context, session: Option<&str>) -> bool {
    let ours = cx.client.settings().identity.session_id.as_str();
    session.is_none_or(|it| ours.is_empty() || it == ours)
}

fn until(result: &Value) -> String {
    let time = result["expires_at"].as_str().and_then(relative);
    time.map(|it| format!(", it expires {it}")).unwrap_or_default()
}

fn install(work_tree: &WorkTree, force: bool, output: Output) -> Outcome {
    let folder =
        work_tree.file("hooks").map_err(|error| Problem::wrong(format!("git: {error}.")))?;
    let failed = |error: std::io::Error| {
        Problem::wrong(format!("The hooks could not be installed: {error}."))
    };
    let program = std::env::current_exe().map_err(failed)?;
    fs::create_dir_all(&folder).map_err(failed)?;
    let is_foreign = |name: &&&str| {
        let is_ours = |path: &Path| fs::read_to_string(path).is_ok_and(|it| it.contains(MARK));
        let path = folder.join(name);
        path.symlink_metadata().is_ok() && !is_ours(&path)
    };
    let foreign: Vec<_> = NAMES.iter().filter(is_foreign).collect();
    if !foreign.is_empty() && !force {
        for name in foreign {
            output
                .problem(&format!("{} is a hook of another origin.", folder.join(name).display()));
        }
        output.problem("Nothing is installed. With --force they are kept, and called first.");
        return Ok(REFUSED);
    }
    for name in foreign {
        let kept = folder.join(format!("{name}.before-coord"));
        if kept.symlink_metadata().is_ok() {
            let kept = kept.display();
            return Err(Problem::wrong(format!("{kept} is there already; move it away first.")));
        }
        fs::rename(folder.join(name), kept).map_err(failed)?;
    }
    for name in NAMES {
        let path = folder.join(name);
        let fresh = folder.join(format!("{name}.new-coord"));
        fs::write(&fresh, script(name, &program)).map_err(failed)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o755)).map_err(failed)?;
        fs::rename(&fresh, path).map_err(failed)?;
    }
    output.print(&format!(
        "Installed {} in {}.",
        NAMES.join(" and "),
        clean(&folder.display().to_string())
    ));
    Ok(DONE)
}

/// The hook: first the one that was there before, then ours. Where this program has moved to is not
/// known later, so one of its name is taken then.
fn script(name: &str, program: &Path) -> String {
    let program = program.display().to_string().replace('\'', "'\\''");
    format!(
        "#!/bin/sh
{MARK}
coord='{program}'
[ -x \"$coord\" ] || coord=coord
before=\"$(dirname \"$0\")/{name}.before-coord\"
input=
case {name} in pre-push) input=$(cat; echo .); input=${{input%.}} ;; esac
if [ -x \"$before\" ]; then
    printf '%s' \"$input\" | \"$before\" \"$@\" || exit
fi
printf '%s' \"$input\" | \"$coord\" hook {name} \"$@\"
"
    )
}
