"""`coord hook` beside real hook managers, case by case; hook_transitions.py has every order of the commands."""

import json
import re

from place import Place, Repository

HOOKS = ("pre-commit", "pre-push")


def blocks(text):
    """The lines that `coord hook install` prints between its marks."""
    return re.findall(r"# coord: begin.*?\n(.*?)# coord: end", text, re.S)


def husky(repository):
    """Sets a repository up for husky. Its own hook leaves a file."""
    tools = repository.tools
    repository.write(".gitignore", "node_modules\nmine\n")
    package = {"scripts": {"prepare": "husky"}, "devDependencies": {"husky": "9"}}
    repository.write("package.json", json.dumps(package))
    (repository.folder / "node_modules").symlink_to(tools.packages)
    repository.write(".husky/pre-commit", "touch mine\n")
    return repository


def prepare(place):
    """What `npm install` does last."""
    place.run("npm run --silent prepare")


def runs_own_hook(repository):
    repository.run("rm -f mine")
    repository.commit("own.txt").code_is(0)
    return repository.exists("mine")


def husky_installs_after_coord(tools):
    repository = Repository(tools)
    repository.run("coord hook install")
    assert repository.is_guarded()
    husky(repository)
    prepare(repository)
    assert not repository.is_guarded()
    repository.try_to("coord hook install", 1).says("husky manages the hooks", "--manager")
    assert repository.read(".husky/pre-commit") == "touch mine\n"
    repository.run("coord hook install --manager")
    assert repository.is_guarded() and runs_own_hook(repository)
    prepare(repository)
    repository.run("coord hook install")
    repository.run("coord hook install --manager")
    assert repository.is_guarded() and runs_own_hook(repository)
    assert repository.read(".husky/pre-commit").count("hook pre-commit") == 1
    repository.run("coord hook uninstall")
    assert not repository.is_guarded() and runs_own_hook(repository)
    assert repository.read(".husky/pre-commit") == "touch mine\n"
    assert not repository.exists(".husky/pre-push") and not repository.exists(".git/hooks/pre-commit")


def husky_is_not_displaced_by_force(tools):
    repository = husky(Repository(tools))
    # Set up, and not yet installed.
    repository.try_to("coord hook install", 1).says("husky is not installed in this clone")
    prepare(repository)
    for option in ("", "--force"):
        repository.try_to(f"coord hook install {option}", 1).says("husky manages the hooks")
        assert runs_own_hook(repository)
    # What is printed does the same as what is written.
    lines = blocks(repository.try_to("coord hook install").text)
    for name, block in zip(HOOKS, lines, strict=True):
        path = f".husky/{name}"
        text = repository.read(path) if repository.exists(path) else ""
        repository.write(path, block + text)
    assert repository.is_guarded() and runs_own_hook(repository)
    repository.try_to("coord hook uninstall", 1).says("by a line of your own")
    # With a script that ends early.
    repository.run("git checkout -q .; rm .husky/pre-push; printf 'exit 0\\n' > .husky/pre-commit")
    repository.run("coord hook install --manager")
    assert repository.is_guarded()
    repository.try_to("coord hook status", 1, HUSKY="0").says("HUSKY=0 is set")


def husky_gets_its_hooks_back(tools):
    repository = husky(Repository(tools))
    prepare(repository)
    for name in HOOKS:
        repository.write_like_before(".husky/_", name, repository.read(f".husky/_/{name}"))
    repository.run("sed -i s/before-coord/nothing/ .husky/_/pre-commit")
    assert not runs_own_hook(repository)
    repository.try_to("coord hook install", 1).says("Restored .husky/_/pre-commit")
    assert runs_own_hook(repository)
    assert not repository.exists(".husky/_/pre-commit.before-coord")
    # The manager itself came first.
    for name in HOOKS:
        repository.write_like_before(".husky/_", name, repository.read(f".husky/_/{name}"))
    prepare(repository)
    repository.run("coord hook install --manager")
    assert repository.is_guarded() and runs_own_hook(repository)
    assert not repository.exists(".husky/_/pre-commit.before-coord")


def husky_in_a_linked_work_tree(tools):
    repository = husky(Repository(tools))
    prepare(repository)
    repository.run("coord hook install --manager && git add -A && git commit -q --no-verify -m husky")
    repository.run("git worktree add -q ../linked")
    linked = Place(tools, tools.folder / "linked")
    linked.try_to("coord hook status", 1).says("git finds no hook .husky/_/pre-commit", "npx husky")
    (linked.folder / "node_modules").symlink_to(tools.packages)
    prepare(linked)
    assert linked.status()


CONFIG = """# Ours.
default_install_hook_types: [pre-commit, pre-push]
repos:
  - repo: local
    hooks:
      - id: mine
        name: mine
        entry: touch mine
        language: system
        always_run: true
        pass_filenames: false
"""


def pre_commit(tools):
    repository = Repository(tools)
    repository.write(".gitignore", "mine\n")
    repository.write(".pre-commit-config.yaml", CONFIG)
    repository.run("git add -A && git commit -q -m config")
    return repository


def pre_commit_installs_after_coord(tools):
    repository = pre_commit(tools)
    repository.try_to("coord hook install", 1).says("pre-commit is not installed in this clone")
    repository.run("coord hook install --force")
    assert repository.is_guarded()
    repository.run("pre-commit install")
    # pre-commit keeps ours, and runs it first.
    repository.run("coord hook status").says("pre-commit calls .git/hooks/pre-commit.legacy")
    assert repository.is_guarded() and runs_own_hook(repository)
    repository.run("coord hook install")
    repository.run("pre-commit install --overwrite")
    assert not repository.is_guarded() and runs_own_hook(repository)
    repository.try_to("coord hook install", 1).says("repo: local")
    repository.run("coord hook install --manager && git add -A && git commit -q -m coord")
    assert repository.is_guarded() and runs_own_hook(repository)
    repository.run("coord hook uninstall && git add -A && git commit -q -m config")
    assert repository.read(".pre-commit-config.yaml") == CONFIG
    assert not repository.is_guarded() and runs_own_hook(repository)


def pre_commit_and_coord_do_not_call_each_other(tools):
    repository = pre_commit(tools)
    repository.run("pre-commit install")
    for name in HOOKS:
        repository.write_like_before(".git/hooks", name, repository.read(f".git/hooks/{name}"))
    repository.run("pre-commit install")
    assert repository.commit("x.txt").code != 0
    repository.try_to("coord hook status", 1).says("call each other")
    repository.run("coord hook install")
    assert repository.is_guarded() and runs_own_hook(repository)
    repository.run("pre-commit uninstall")
    repository.run("coord hook uninstall")
    assert not repository.exists(".git/hooks/pre-commit") and not repository.is_guarded()


def pre_commit_runs_coord_from_its_configuration(tools):
    repository = pre_commit(tools)
    repository.run("pre-commit install")
    repository.try_to("coord hook install --force", 1).says("pre-commit manages the hooks")
    assert runs_own_hook(repository)
    repository.run("coord hook install --manager").says(".pre-commit-config.yaml")
    repository.run("pre-commit validate-config")
    repository.run("git add -A && git commit -q -m coord")
    written = repository.read(".pre-commit-config.yaml")
    repository.run("coord hook install --manager")
    assert repository.read(".pre-commit-config.yaml") == written
    assert repository.is_guarded() and runs_own_hook(repository)
    # A new branch is checked as well, and nothing stops a colleague without coord.
    repository.other.run("coord lock src/new.rs")
    repository.write("src/new.rs", "x")
    repository.run("git checkout -q -b side && git add -A && git commit -q --no-verify -m new")
    repository.try_to("git push -q origin side", 1).says("it is locked by other")
    repository.other.run("coord unlock src/new.rs")
    repository.run("git push -q origin side && git checkout -q main")
    repository.try_to("coord hook status", 1, SKIP="coord-pre-push").says("SKIP=coord-pre-push is set")
    repository.run("git config --unset coord.program")
    path = repository.environment["PATH"].replace(str(tools.programs) + ":", "")
    repository.write("x.txt", "x")
    repository.run("git add -A && git commit -q -m x", PATH=path)
    repository.run("pre-commit uninstall")
    repository.try_to("coord hook status", 1).says("pre-commit install")


def lefthook_installs_after_coord(tools):
    repository = Repository(tools)
    repository.run("coord hook install")
    repository.write("lefthook.yml", "pre-commit:\n  commands:\n    mine:\n      run: touch mine\n")
    repository.write(".gitignore", "mine\n")
    repository.run("lefthook install && git add -A && git commit -q -m lefthook")
    repository.try_to("coord hook status", 1).says("lefthook.yml does not call coord")
    # The file has a section for the hook, into which a person puts the command.
    printed = repository.try_to("coord hook install --manager", 1)
    printed.says("lefthook-local.yml", "pre-push:", "use_stdin: true").says_not("With --manager")
    assert runs_own_hook(repository)
    config = "commit-msg:\n  commands:\n    mine:\n      run: touch mine\n"
    repository.write("lefthook.yml", config)
    repository.run("coord hook install --manager && lefthook install")
    repository.run("lefthook validate")
    assert repository.is_guarded() and runs_own_hook(repository)
    repository.run("coord hook install")
    assert not repository.exists(".git/hooks/pre-push.old")
    repository.run("coord hook uninstall && lefthook install --force")
    assert repository.read("lefthook.yml") == config
    assert not repository.is_guarded() and runs_own_hook(repository)


LEFTHOOK_SECTIONS = {
    "lefthook.yml": [
        "pre-commit:\n  commands:\n    mine:\n      run: touch mine\n",
        "pre-commit:\n  jobs:\n    - name: mine\n      run: touch mine\n",
        "{pre-commit: {commands: {mine: {run: touch mine}}}}\n",
    ],
    "lefthook.toml": ['[pre-commit.commands.mine]\nrun = "touch mine"\n'],
}


def lefthook_with_sections_gets_the_printed_lines(tools):
    repository = Repository(tools)
    repository.write(".gitignore", "mine\n")
    for file, config in [(file, config) for file, configs in LEFTHOOK_SECTIONS.items() for config in configs]:
        repository.run("rm -f lefthook*")
        repository.write(file, config)
        repository.run("lefthook install && git add -A && git commit -q -m lefthook")
        repository.try_to("coord hook status", 1).says("prints into lefthook-local.yml")
        for option in ("", "--force", "--manager"):
            printed = repository.try_to(f"coord hook install {option}", 1)
            (lines,) = blocks(printed.says("In lefthook-local.yml").says_not("With --manager").text)
        repository.write("lefthook-local.yml", lines)
        repository.run("lefthook validate && lefthook install")
        assert repository.is_guarded() and runs_own_hook(repository)
    # A local file with sections of its own gets the commands only.
    mine = "pre-commit:\n  commands:\n    more:\n      run: 'true'\n"
    repository.write("lefthook-local.yml", mine + "pre-push:\n  commands:\n    more:\n      run: 'true'\n")
    printed = repository.try_to("coord hook install", 1).says("below `commands:` of `pre-commit:`").text
    text = repository.read("lefthook-local.yml")
    for name, lines in zip(HOOKS, re.findall(r"(    coord:\n(?:      .*\n)+)", printed), strict=True):
        text = text.replace(f"{name}:\n  commands:\n", f"{name}:\n  commands:\n{lines}")
    repository.write("lefthook-local.yml", text)
    assert repository.is_guarded() and runs_own_hook(repository)


def pre_commit_in_flow_style_gets_the_printed_item(tools):
    mine = (
        "{repo: local, hooks: [{id: mine, name: mine, entry: touch mine, language: system,"
        " always_run: true, pass_filenames: false}]}"
    )
    repository = pre_commit(tools)
    repository.run("pre-commit install --hook-type pre-commit --hook-type pre-push")
    for item in ("", mine):
        repository.write(".pre-commit-config.yaml", f"repos: [{item}]\n")
        repository.run("git add -A && git commit -q --no-verify -m config")
        repository.try_to("coord hook status", 1).says("prints into .pre-commit-config.yaml").says_not("--manager")
        for option in ("", "--force", "--manager"):
            printed = repository.try_to(f"coord hook install {option}", 1)
            printed.says("between the brackets").says_not("With --manager")
        (line,) = (line for line in printed.text.splitlines() if line.startswith("{"))
        repository.write(".pre-commit-config.yaml", f"repos: [{line}{item}]\n")
        repository.run("pre-commit validate-config && git add -A && git commit -q -m coord")
        assert repository.is_guarded()
    assert runs_own_hook(repository)


def lefthook_runs_coord_for_deletions(tools):
    repository = Repository(tools)
    repository.write("lefthook.yml", "commit-msg:\n  commands: {}\n")
    repository.write("old.rs", "x")
    repository.run("git add -A && git commit -q -m old && git push -q origin main")
    repository.run("coord hook install --manager && lefthook install && git add -A && git commit -q -m coord")
    repository.other.run("coord lock old.rs")
    repository.run("git rm -q old.rs")
    repository.try_to("git commit -q -m gone", 1).says("old.rs: it is locked by other")
    repository.run("git commit -q --no-verify -m gone")
    repository.try_to("git push -q origin main", 1).says("old.rs: it is locked by other")


def simple_git_hooks_runs_coord_from_package_json(tools):
    repository = Repository(tools)
    repository.run("coord hook install")
    repository.write(".gitignore", "node_modules\nmine\n")
    (repository.folder / "node_modules").symlink_to(tools.packages)
    install = "node node_modules/simple-git-hooks/cli.js"
    repository.write("package.json", json.dumps({"simple-git-hooks": {"pre-commit": "touch mine"}}))
    repository.run(install)
    assert not repository.is_guarded() and runs_own_hook(repository)
    for option in ("", "--force", "--manager"):
        printed = repository.try_to(f"coord hook install {option}", 1)
    lines = printed.says("npx simple-git-hooks").text.splitlines()
    hooks = json.loads("{" + "\n".join(line for line in lines if line.startswith('  "')) + "}")
    repository.try_to("coord hook status", 1).says("Put the lines", "into package.json").says_not("--manager")
    repository.write("package.json", json.dumps({"simple-git-hooks": hooks}))
    repository.try_to("coord hook status", 1).says("npx simple-git-hooks")
    repository.run(install)
    assert repository.is_guarded() and runs_own_hook(repository)
    repository.run("coord hook install")
    repository.try_to("coord hook status", 1, SKIP_SIMPLE_GIT_HOOKS="1")


SCENARIOS = [
    ("husky", husky_installs_after_coord),
    ("husky", husky_is_not_displaced_by_force),
    ("husky", husky_gets_its_hooks_back),
    ("husky", husky_in_a_linked_work_tree),
    ("pre-commit", pre_commit_installs_after_coord),
    ("pre-commit", pre_commit_and_coord_do_not_call_each_other),
    ("pre-commit", pre_commit_runs_coord_from_its_configuration),
    ("pre-commit", pre_commit_in_flow_style_gets_the_printed_item),
    ("lefthook", lefthook_installs_after_coord),
    ("lefthook", lefthook_runs_coord_for_deletions),
    ("lefthook", lefthook_with_sections_gets_the_printed_lines),
    ("simple-git-hooks", simple_git_hooks_runs_coord_from_package_json),
]
