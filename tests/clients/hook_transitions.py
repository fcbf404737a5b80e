"""`coord hook` beside real hook managers, by transition: coord installs into the manager's configuration or with
--force, the manager installs, coord uninstalls, the manager uninstalls. For each manager, every two of these
follow each other, in each order, and each follows the manager's displacement of our hooks. After each, git runs
our hooks once or not at all, as `coord hook status` says."""

import json
import shutil

import services
from hook_managers import CONFIG, HOOKS, blocks, husky, prepare
from place import Repository

INSTALL, FORCE, MANAGER_INSTALLS, UNINSTALL, MANAGER_UNINSTALLS = STEPS = (
    "coord installs",
    "coord installs with --force",
    "the manager installs",
    "coord uninstalls",
    "the manager uninstalls",
)


def every_pair(steps):
    """A walk on which every two steps follow each other once, in each order (Hierholzer's algorithm)."""
    left = {step: list(steps) for step in steps}
    walk, stack = [], [steps[0]]
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            walk.append(stack.pop())
    return walk[::-1]


class Watched:
    """A repository whose hooks are counted: each run of one of our hooks is one request that is no GET."""

    def __init__(self, tools, counts, manager):
        self.repository, self.counts, self.manager = Repository(tools), counts, manager
        self.history = []

    def set_up(self):
        self.manager.set_up(self.repository)
        self.keep()

    def keep(self):
        """Commits what a step has changed, without any hook."""
        self.repository.run(
            "git add -A && git commit -q --no-verify --allow-empty -m step"
            " && git push -q --no-verify origin main"
        )

    def requests_of(self, line):
        before = sum(self.counts)
        self.repository.run(line)
        return sum(self.counts) - before

    def runs(self):
        """How often each of our hooks runs, in a commit and a push that nothing stops."""
        # lefthook installs what its configuration has gained when it runs for the first time.
        self.repository.run("git commit -q --allow-empty -m first && git push -q origin main")
        self.repository.write("own.txt", str(len(self.history)))
        self.repository.run("git add own.txt")
        return self.requests_of("git commit -q -m own"), self.requests_of("git push -q origin main")

    def take(self, step):
        self.history.append(step)
        repository, manager = self.repository, self.manager
        done = {
            INSTALL: manager.install,
            FORCE: lambda it: it.try_to("coord hook install --force"),
            MANAGER_INSTALLS: manager.manager_installs,
            UNINSTALL: manager.uninstall,
            MANAGER_UNINSTALLS: manager.manager_uninstalls,
        }[step](repository)
        if done.code:
            # A refusal says what to do, and changes nothing.
            assert step == FORCE and "manages the hooks" in done.text, done.text
        self.keep()
        runs, status = self.runs(), repository.try_to("coord hook status")
        what = f"{self.history}: our hooks run {runs} times\n{done.text}\n{status.text}"
        assert runs == ((1, 1) if repository.status() else (0, 0)), what
        assert step != UNINSTALL or runs == (0, 0), what
        # Where ours is installed and does not run, it is the manager's turn.
        assert step != INSTALL or runs == (1, 1) or manager.activation in status.text, what
        assert step != FORCE or done.code or runs == (1, 1), what


def walk(tools, manager):
    with services.proxy(tools.url) as (front, counts):
        tools.environment["COORDINATION_API_URL"] = front
        watched = Watched(tools, counts, manager)
        watched.set_up()
        for step in every_pair(STEPS):
            watched.take(step)


def displace(tools, manager):
    """Has the manager come after coord, and then takes each of the steps."""
    with services.proxy(tools.url) as (front, counts):
        tools.environment["COORDINATION_API_URL"] = front
        for step in STEPS:
            watched = Watched(tools, counts, manager)
            watched.repository.run("coord hook install")
            assert watched.runs() == (1, 1)
            watched.set_up()
            watched.take(MANAGER_INSTALLS)
            watched.take(step)
            if step == UNINSTALL:
                left = watched.repository.try_to("ls -A .git/hooks").text.split()
                ours = [f"{name}{end}" for name in HOOKS for end in (".legacy", ".old", ".before-coord")]
                assert not set(ours) & set(left), left
            for folder in (watched.repository.folder, tools.folder / "origin.git"):
                shutil.rmtree(folder)


class Husky:
    activation = "npx husky"

    def set_up(self, repository):
        husky(repository)

    def install(self, repository):
        return repository.run("coord hook install || coord hook install --manager")

    def uninstall(self, repository):
        return repository.run("coord hook uninstall")

    def manager_installs(self, repository):
        prepare(repository)
        return repository.run(":")

    def manager_uninstalls(self, repository):
        return repository.run("git config --unset core.hooksPath || :")


class PreCommit(Husky):
    activation = "pre-commit install"

    def set_up(self, repository):
        repository.write(".gitignore", "mine\n")
        repository.write(".pre-commit-config.yaml", CONFIG)

    def manager_installs(self, repository):
        return repository.run("pre-commit install")

    def manager_uninstalls(self, repository):
        return repository.run("pre-commit uninstall")


class Lefthook(Husky):
    activation = "lefthook install"

    def set_up(self, repository):
        repository.write("lefthook.yml", "commit-msg:\n  commands:\n    mine:\n      run: 'true'\n")

    def manager_installs(self, repository):
        return repository.run("lefthook install --force")

    def manager_uninstalls(self, repository):
        return repository.run("lefthook uninstall")


class LefthookWithSections(Lefthook):
    """With sections for our hooks: it moves ours to `.old`, and a person puts our lines into another file."""

    def set_up(self, repository):
        text = "".join(f"{name}:\n  commands:\n    mine:\n      run: 'true'\n" for name in HOOKS)
        repository.write("lefthook.yml", text)

    def install(self, repository):
        done = repository.try_to("coord hook install")
        if done.code:
            (lines,) = blocks(done.text)
            repository.write("lefthook-local.yml", lines)
            done = repository.run("coord hook install")
        return done

    def uninstall(self, repository):
        done = repository.try_to("coord hook uninstall")
        if done.code:
            done.says("by a line of your own")
            repository.run("rm lefthook-local.yml")
        return repository.run("coord hook uninstall")


class SimpleGitHooks(Husky):
    activation = "npx simple-git-hooks"
    program = "node node_modules/simple-git-hooks"

    def configure(self, repository, hooks):
        repository.write("package.json", json.dumps({"simple-git-hooks": hooks}))

    def set_up(self, repository):
        repository.write(".gitignore", "node_modules\n")
        (repository.folder / "node_modules").symlink_to(repository.tools.packages)
        self.configure(repository, {"pre-commit": "true"})

    def install(self, repository):
        """Its lines are put into package.json by a person."""
        done = repository.try_to("coord hook install")
        if done.code:
            lines = [line for line in done.text.splitlines() if line.startswith('  "')]
            self.configure(repository, json.loads("{" + "\n".join(lines) + "}"))
            done = repository.run("coord hook install")
        return done

    def uninstall(self, repository):
        """And taken out by a person, after which the manager installs what is left."""
        done = repository.try_to("coord hook uninstall")
        if done.code:
            done.says("by a line of your own")
            self.configure(repository, {"pre-commit": "true"})
            if "simple" in repository.try_to("cat .git/hooks/pre-commit").text.lower():
                self.manager_installs(repository)
        return repository.run("coord hook uninstall")

    def manager_installs(self, repository):
        return repository.run(f"{self.program}/cli.js")

    def manager_uninstalls(self, repository):
        return repository.run(f"{self.program}/uninstall.js")


def husky_and_coord_follow_each_other(tools):
    walk(tools, Husky())


def husky_displaces_coord(tools):
    displace(tools, Husky())


def pre_commit_and_coord_follow_each_other(tools):
    walk(tools, PreCommit())


def pre_commit_displaces_coord(tools):
    displace(tools, PreCommit())


def lefthook_and_coord_follow_each_other(tools):
    walk(tools, Lefthook())


def lefthook_displaces_coord(tools):
    displace(tools, LefthookWithSections())


def simple_git_hooks_and_coord_follow_each_other(tools):
    walk(tools, SimpleGitHooks())


def simple_git_hooks_displaces_coord(tools):
    displace(tools, SimpleGitHooks())


SCENARIOS = [
    ("husky", husky_and_coord_follow_each_other),
    ("husky", husky_displaces_coord),
    ("pre-commit", pre_commit_and_coord_follow_each_other),
    ("pre-commit", pre_commit_displaces_coord),
    ("lefthook", lefthook_and_coord_follow_each_other),
    ("lefthook", lefthook_displaces_coord),
    ("simple-git-hooks", simple_git_hooks_and_coord_follow_each_other),
    ("simple-git-hooks", simple_git_hooks_displaces_coord),
]
