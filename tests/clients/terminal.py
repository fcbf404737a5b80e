"""On a terminal, `coord hook install` asks for the workspace of the repository where the key leaves it open."""

import os
import pty

import services
from place import Place

QUESTION = "Workspace of this repository"


def answered(place, words, answers, variables):
    """Runs a command on a terminal, answers its questions, and returns what it printed."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(place.folder)
        os.execvpe(words[0], words, place.environment | variables)
    said = ""
    try:
        for count, answer in enumerate(answers, 1):
            while said.count(QUESTION) < count or not said.rstrip(" ").endswith("]:"):
                said += os.read(terminal, 4096).decode()
            os.write(terminal, f"{answer}\n".encode())
        while part := os.read(terminal, 4096).decode():
            said += part
    except OSError:
        pass  # The end of a terminal is an error on Linux.
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0 and said.count(QUESTION) == len(answers), f"{words}: exit code {code}\n{said}"
    return said


def run(tools):
    port = services.free_port()
    variables = {
        "COORDINATION_API_KEYS": "free",
        "COORDINATION_ALLOW_WORKSPACE_HEADER": "true",
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "POSTGRES_DSN": os.environ["DATABASE_URL"],
    }
    install = ["coord", "hook", "install"]
    with services.program([tools.programs / "coordinator"], variables, port) as url:
        open_key = {"COORDINATION_API_URL": url, "COORDINATION_API_KEY": "free", "AGENT_ID": "me"}
        place = Place(tools, tools.folder / "My Repository", **open_key)
        place.run("git init -q")
        # No workspace has the first name.
        said = answered(place, install, ["Team One", "team-one"], {})
        assert "for example my-repository" in said and "Not accepted" in said, said
        place.run("git config coord.workspace").says("team-one")
        # From now on it is known, and nobody is asked.
        place.run("coord hook install").says_not(QUESTION, "workspace")
        place.run("coord doctor --json || true").says('"text":"the workspace is team-one"')
    # The keys of this server may not choose, so nobody is asked.
    closed = Place(tools, tools.folder / "closed")
    closed.run("git init -q")
    said = answered(closed, install, [], {})
    assert "this key may not choose another" in said, said
    closed.try_to("git config coord.workspace", 1)
