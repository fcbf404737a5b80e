"""Two agents work through the set-up that docs/agents.md recommends: its session hooks, one agent with MCP over
HTTP and one with `coord mcp`, git hooks, and a linked work tree each. No message blames an agent for a lock of
its own."""

import asyncio
import contextlib
import json
import pathlib
import re

import httpx2
import mcp
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

import services
from place import Place

GUIDE = pathlib.Path(__file__).parent.parent.parent / "docs/agents.md"


def session_hooks():
    """The commands of the first settings with session hooks in the guide."""
    block = re.search(r"<!-- session hooks -->\n```json\n(.*?)```", GUIDE.read_text(), re.S)[1]
    hooks = json.loads(block)["hooks"]
    return {event: hooks[event][0]["hooks"][0]["command"] for event in ("SessionStart", "SessionEnd")}


class Agent(Place):
    """An agent in a linked work tree, in a client that behaves like Claude Code."""

    def __init__(self, tools, name, key):
        variables = {
            "COORDINATION_API_KEY": key,
            "CLAUDE_ENV_FILE": str(tools.folder / f"{name}.env"),
            "CLAUDE_CODE_SESSION_ID": f"session-of-{name}",
        }
        super().__init__(tools, tools.folder / name, **variables)
        self.name, self.key, self.session = name, key, variables["CLAUDE_CODE_SESSION_ID"]
        self.hooks, self.said = session_hooks(), []

    def hook(self, event):
        given = json.dumps({"session_id": self.session, "hook_event_name": event, "cwd": str(self.folder)})
        done = self.try_to(self.hooks[event], 0, given=given)
        self.said.append(done.text)
        return done

    def shell(self, line):
        """A command of the agent: the client runs the lines of its environment file before it."""
        done = self.try_to(f'[ ! -f "$CLAUDE_ENV_FILE" ] || . "$CLAUDE_ENV_FILE"\n{line}')
        self.said.append(done.text)
        return done

    def commit(self, file):
        self.write(file, self.name)
        return self.shell(f"git add {file} && git commit -q -m {file}")

    async def call(self, client, tool, **arguments):
        answer = json.loads((await client.call_tool(tool, arguments)).content[0].text)
        self.said.append(json.dumps(answer))
        return answer


@contextlib.asynccontextmanager
async def over_http(agent):
    headers = {"Authorization": f"Bearer {agent.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        transport = streamable_http_client(agent.tools.url + "/mcp", http_client=http)
        async with mcp.Client(transport, mode="legacy") as client:
            yield client


@contextlib.asynccontextmanager
async def through_coord(agent):
    program = StdioServerParameters(
        command="coord", args=["mcp"], env=agent.environment, cwd=agent.folder
    )
    async with mcp.Client(stdio_client(program), mode="legacy") as client:
        yield client


async def work(one, two):
    one.hook("SessionStart").says(one.session)
    two.hook("SessionStart").says(two.session)
    async with over_http(one) as of_one, through_coord(two) as of_two:
        registered = await one.call(of_one, "register_session", session_id=one.session)
        assert registered["success"], registered
        # What one door locked, the other doors know.
        lock = await one.call(of_one, "acquire_lock", file_path="src/a.rs", reason="numbers")
        assert lock["success"], lock
        one.commit("src/a.rs").code_is(0)
        one.shell("coord lock src/b.rs").code_is(0)
        again = await one.call(of_one, "acquire_lock", file_path="src/b.rs")
        assert (again["success"], again["action"]) == (True, "refreshed"), again
        one.commit("src/b.rs").code_is(0)
        # The other agent is refused at every door, and told who holds it.
        refused = await two.call(of_two, "acquire_lock", file_path="src/a.rs")
        assert (refused["success"], refused["locked_by"]) == (False, one.name), refused
        two.commit("src/a.rs").code_is(1).says(f"src/a.rs: it is locked by {one.name}")
        two.shell("git reset -q --hard").code_is(0)
        lock = await two.call(of_two, "acquire_lock", file_path="src/c.rs")
        assert lock["success"], lock
        two.commit("src/c.rs").code_is(0)
        two.shell("git push -q origin HEAD:two").code_is(0)
        sessions = {it["file_path"]: it["session_id"] for it in json.loads(two.shell("coord --json locks").text)["locks"]}
        expected = {"src/a.rs": one.session, "src/b.rs": one.session, "src/c.rs": two.session}
        # Other scenarios hold locks of their own.
        assert {path: sessions.get(path) for path in expected} == expected, sessions
        # The first agent is done with a file, and the second one goes on from there.
        one.shell("git push -q origin HEAD:one").code_is(0)
        one.shell("coord unlock src/b.rs").code_is(0)
        released = await one.call(of_one, "release_lock", file_path="src/a.rs")
        assert released["success"], released
        lock = await two.call(of_two, "acquire_lock", file_path="src/a.rs", wait_seconds=5)
        assert lock["success"], lock
        two.shell("git pull -q --no-rebase --no-edit origin one").code_is(0)
        two.commit("src/a.rs").code_is(0)
        two.shell("git push -q origin HEAD:two").code_is(0)
        for agent in (one, two):
            agent.shell("coord doctor").code_is(0).says(f"session {agent.session} is live")
    one.hook("SessionEnd")
    two.hook("SessionEnd")
    locks = json.loads(two.shell("coord --json locks").text)["locks"]
    held = [it for it in locks if it["locked_by"] in (one.name, two.name) and it["session_id"] in (one.session, two.session)]
    assert held == [], held


def run(tools):
    clone = Place(tools, tools.folder / "clone")
    clone.run(
        "git init -q -b main && mkdir src && touch src/a.rs && git add -A && git commit -q -m start"
        " && git init -q --bare -b main ../origin.git && git remote add origin ../origin.git"
        " && git push -q origin main && git remote set-head origin main"
        " && git worktree add -q -b one ../boss && git worktree add -q -b two ../other"
    )
    clone.run("coord hook install")
    one, two = Agent(tools, "boss", services.KEY), Agent(tools, "other", services.OTHER_KEY)
    asyncio.run(work(one, two))
    for agent in (one, two):
        for text in agent.said:
            blamed = re.search(rf"(it is locked by|Refused: [a-z_]+ \(|held by) {agent.name}\b", text)
            assert not blamed, f"{agent.name} is blamed for its own lock:\n{text}"
            assert not ("locked_by_other" in text and f'"locked_by": "{agent.name}"' in text), text
