"""Where a scenario runs: a folder with a home of its own, a repository, and the programs on the path."""

import json
import os
import pathlib
import subprocess
import uuid

import services

# Seconds that a command may take.
PATIENCE = 60


class Tools:
    """The programs of a scenario and their environment, in a folder of its own."""

    def __init__(self, python, node, packages, programs, url, folder):
        self.python, self.node = pathlib.Path(python), pathlib.Path(node)
        self.packages, self.programs = pathlib.Path(packages), pathlib.Path(programs)
        self.url, self.folder = url, folder
        folders = [self.programs, self.node.parent, self.python.parent]
        self.environment = {
            "PATH": ":".join([*map(str, folders), os.environ["PATH"]]),
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "x",
            "GIT_AUTHOR_EMAIL": "x@example.org",
            "GIT_COMMITTER_NAME": "x",
            "GIT_COMMITTER_EMAIL": "x@example.org",
            "COORDINATION_API_URL": url,
            "COORDINATION_API_KEY": services.KEY,
        }


class Done:
    """What a command printed, and its exit code."""

    def __init__(self, line, code, text):
        self.line, self.code, self.text = line, code, text

    def code_is(self, code):
        assert self.code == code, f"{self.line}: exit code {self.code}, expected {code}\n{self.text}"
        return self

    def says(self, *texts):
        for text in texts:
            assert text in self.text, f"{self.line}: says no {text!r}\n{self.text}"
        return self

    def says_not(self, *texts):
        for text in texts:
            assert text not in self.text, f"{self.line}: says {text!r}\n{self.text}"
        return self


class Place:
    """A folder in which commands of an agent run."""

    def __init__(self, tools, folder, **variables):
        self.tools, self.folder = tools, pathlib.Path(folder)
        self.environment = tools.environment | variables
        self.folder.mkdir(parents=True, exist_ok=True)

    def try_to(self, line, code=None, given="", **variables):
        """Runs a line in a shell, with this on standard input. With a code, the line must end with it."""
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self.environment | variables,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        done = Done(line, done.returncode, done.stdout)
        return done if code is None else done.code_is(code)

    def run(self, line, **variables):
        """Runs a line that must succeed."""
        return self.try_to(line, 0, **variables)

    def write(self, file, text, mode=0o644):
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def read(self, file):
        return (self.folder / file).read_text()

    def exists(self, file):
        return os.path.lexists(self.folder / file)

    def status(self):
        """Whether git runs both hooks of coord, as `coord hook status` says."""
        done = self.try_to("coord hook status --json")
        runs = json.loads(done.text)["runs"]
        return done.code_is(0 if runs else 1) and runs


class Repository(Place):
    """A repository with a commit and a remote, and another agent who locks files."""

    def __init__(self, tools):
        super().__init__(tools, tools.folder / "repository")
        self.other = Place(tools, tools.folder / "other", COORDINATION_API_KEY=services.OTHER_KEY)
        self.run(
            "git init -q -b main && git init -q --bare -b main ../origin.git"
            " && git remote add origin ../origin.git && git commit -q --allow-empty -m start"
            " && git push -q origin main && git remote set-head origin main"
        )

    def commit(self, file):
        self.write(file, uuid.uuid4().hex)
        return self.try_to(f"git add {file} && git commit -q -m {file}")

    def is_guarded(self):
        """Whether commits and pushes of a file are stopped while another agent holds its lock.
        `coord hook status` must say the same."""
        file = f"src/{uuid.uuid4().hex}.rs"
        self.other.run(f"coord lock {file}")
        stopped = self.commit(file)
        stops_commit = stopped.code != 0 and "it is locked by other" in stopped.text
        self.run("git commit -q --no-verify --allow-empty -m next")
        pushed = self.try_to("git push -q origin main")
        stops_push = pushed.code != 0 and "it is locked by other" in pushed.text
        self.other.run(f"coord unlock {file}")
        # Nothing but the lock was in the way.
        self.commit(f"{file}.txt").code_is(0)
        self.run("git push -q origin main")
        report = self.try_to("coord hook status").text
        assert (stops_commit and stops_push) == self.status(), (
            f"commit stopped: {stops_commit}, push stopped: {stops_push}, but coord says:\n{report}"
            f"\n{stopped.text}\n{pushed.text}"
        )
        return stops_commit and stops_push

    def write_like_before(self, folder, name, before):
        """Leaves what `coord hook install --force` of an earlier version left: our hook in the place of
        another one, which is kept beside it."""
        self.run("git init -q ../plain")
        plain = Place(self.tools, self.folder.parent / "plain")
        plain.run("coord hook install")
        self.write(f"{folder}/{name}.before-coord", before, 0o755)
        self.write(f"{folder}/{name}", plain.read(f".git/hooks/{name}"), 0o755)
