"""Has the official client do everything that the MCP endpoint offers, in both eras of the protocol:
`client.py TARGET`, with the folder of the built programs and a database in DATABASE_URL."""

import asyncio
import contextlib
import json
import os
import pathlib
import sys
import uuid

import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client

import services

# How the client connects, and the version that it must come to.
MODES = {"legacy": "2025-11-25", "auto": "2026-07-28"}


def steps(mark):
    """What to call in order, with arguments made from the answers so far. `mark` is of this run."""
    path = f"src/{mark}.rs"
    task = {"task_type": mark, "description": "Try every tool."}

    return [
        ("register_session", lambda _: {"capabilities": [mark], "session_id": mark}),
        ("heartbeat", lambda _: {}),
        ("discover_agents", lambda _: {"capability": mark}),
        ("acquire_lock", lambda _: {"file_path": path, "reason": "to try it"}),
        ("check_locks", lambda _: {"file_paths": [path]}),
        ("verify_locks", lambda it: {"locks": [{"file_path": path, **token(it)}]}),
        ("release_lock", lambda it: {"file_path": path, **token(it)}),
        ("acquire_lock", lambda _: {"file_path": path}),
        ("force_release_lock", lambda it: {"file_path": path, **token(it)}),
        ("submit_work", lambda _: task | {"input_data": {"a": [1, None]}}),
        ("get_task", lambda it: task_id(it["submit_work"])),
        ("get_work", lambda _: {"task_types": [mark]}),
        ("renew_work", lambda it: claim(it) | {"lease_minutes": 5}),
        ("complete_work", lambda it: claim(it) | {"success": True, "result": {"b": 2}}),
        ("submit_work", lambda _: task),
        ("cancel_work", lambda it: task_id(it["submit_work"]) | {"reason": "tried"}),
        ("list_work", lambda _: {"task_type": mark}),
        ("remember", lambda _: {"summary": f"Tried {mark}.", "tags": [mark], "lessons": ["none"]}),
        ("recall", lambda _: {"tags": [mark]}),
        ("write_handoff", lambda _: {"summary": f"Tried {mark}.", "next_steps": ["go on"]}),
        ("read_handoff", lambda _: {}),
        ("check_guardrails", lambda _: {"operation_text": "cargo test", "file_paths": [path]}),
        ("list_guardrail_patterns", lambda _: {}),
        ("get_my_profile", lambda _: {}),
        ("check_policy", lambda _: {"operation": "acquire_lock", "resource": path}),
        ("validate_cedar_policy", lambda _: {"policy_text": "permit(principal, action, resource);"}),
        ("check_network", lambda _: {"domain": "example.com"}),
        ("query_audit", lambda _: {"operation": "acquire_lock", "limit": 3}),
        ("allocate_ports", lambda _: {"session_id": mark}),
        ("ports_status", lambda _: {}),
        ("release_ports", lambda _: {"session_id": mark}),
        ("assign_profile", lambda _: {"target_agent_id": mark, "profile": "claude_code_cli"}),
        ("list_keys", lambda _: {}),
        ("run_maintenance", lambda _: {"tasks": ["locks", "work"]}),
        ("cleanup_dead_agents", lambda _: {"dry_run": True}),
        ("deregister_session", lambda _: {"session_id": mark}),
    ]


def token(answers):
    return {"fencing_token": answers["acquire_lock"]["fencing_token"]}


def task_id(answer):
    return {"task_id": answer["task_id"]}


def claim(answers):
    return {name: answers["get_work"][name] for name in ("task_id", "claim_token")}


# The arguments of each prompt, and words that it must have.
PROMPTS = {
    "coordinate_file_edit": ({"file_path": "src/a.rs", "task": "Try it"}, "`src/a.rs`: Try it"),
    "start_work_session": ({}, "get_work"),
}


@contextlib.asynccontextmanager
async def connect(url, mode, key=services.KEY, **headers):
    """The official client; what it does not accept is an exception."""
    headers = {"Authorization": f"Bearer {key}"} | headers
    # No proxy of the machine stands before loopback.
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        async with mcp.Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            expect(client.protocol_version, MODES[mode], "the negotiated version")
            yield client


async def call(client, tool, arguments):
    """What a tool answers."""
    result = await client.call_tool(tool, arguments)
    answer = written(result)
    expect(result.is_error, False, f"whether {tool} fails with {answer}")
    if isinstance(answer, dict):
        expect(answer.get("success", True), True, f"whether {tool} is refused with {answer}")
    return answer


def written(result):
    """The answer of a result, which has it twice."""
    answer = json.loads(result.content[0].text)
    wrapped = {"result": answer} if isinstance(answer, list) else answer
    # The text of a list has no place for the mark of untrusted texts.
    marked = isinstance(answer, list) and "untrusted" in result.structured_content
    mark = {"untrusted": result.structured_content["untrusted"]} if marked else {}
    expect(result.structured_content, wrapped | mark, "the structured content")
    return answer


async def do_everything(url, mode):
    """Calls every tool, reads every resource and gets every prompt; says how many there are."""
    mark = f"try-{uuid.uuid4()}"
    # Of a connection, the server knows the session; without one, each request names it.
    headers = {} if mode == "legacy" else {"X-Session-Id": mark}
    async with connect(f"{url}/mcp?tools=all", mode, **headers) as client:
        expect(client.server_info.name, "coordination", "the server's name")
        expect(bool(client.instructions), True, "whether there are instructions")
        tools = [it.name for it in (await client.list_tools()).tools]
        planned = steps(mark)
        expect(set(tools) - {it[0] for it in planned}, set(), "tools that are not tried")
        expect({it[0] for it in planned} - set(tools), set(), "tools that are not listed")
        answers = {}
        for tool, arguments in planned:
            answers[tool] = await call(client, tool, arguments(answers))
        # What the calls led to, as far as it tells that they reached each other.
        [lock] = answers["check_locks"]
        expect((lock["locked_by"], lock["session_id"]), ("boss", mark), "the holder of the lock")
        expect(answers["verify_locks"]["valid"], True, "whether the lock is valid")
        expect(answers["get_task"]["task"]["input_data"], {"a": [1, None]}, "the task's input")
        expect(answers["list_work"]["count"], 2, "the number of tasks")
        expect(answers["recall"]["memories"][0]["tags"], [mark], "the memory's tags")
        expect(answers["read_handoff"]["handoffs"][0]["next_steps"], ["go on"], "the handoff")

        refused = await client.call_tool("get_task", {"task_id": "none"})
        expect((refused.is_error, written(refused)["error"]), (True, "http_422"), "bad arguments")

        resources = [str(it.uri) for it in (await client.list_resources()).resources]
        for uri in resources:
            [content] = (await client.read_resource(uri)).contents
            expect((str(content.uri), content.mime_type), (uri, "text/plain"), "the content")
            expect(bool(content.text), True, f"whether {uri} has text")

        prompts = [it.name for it in (await client.list_prompts()).prompts]
        expect(sorted(prompts), sorted(PROMPTS), "the prompts, against those tried")
        for name, (arguments, words) in PROMPTS.items():
            [message] = (await client.get_prompt(name, arguments)).messages
            expect(words in message.content.text, True, f"whether {name} has {words}")

    async with connect(f"{url}/mcp", mode, services.OTHER_KEY) as client:
        offered = [it.name for it in (await client.list_tools()).tools]
        expect(set(offered) < set(tools), True, "whether few tools are offered by default")
    async with connect(f"{url}/mcp?tools=admin", mode, services.OTHER_KEY) as client:
        denied = await client.call_tool("run_maintenance", {})
        expect((denied.is_error, written(denied)["error"]), (True, "http_403"), "a denial")
    return f"{len(tools)} tools, {len(resources)} resources, {len(prompts)} prompts"


async def act_in_one_session(url):
    """Without a connection, and without a header that names a session, an agent has one session."""
    async with connect(f"{url}/mcp?tools=all", "auto") as client:
        session = {"session_id": (await call(client, "register_session", {}))["session_id"]}
        again = await call(client, "register_session", {"current_task": "again"})
        expect(again["session_id"], session["session_id"], "the session of a second registration")
        lock = await call(client, "acquire_lock", {"file_path": f"src/{uuid.uuid4()}.rs"})
        expect(lock["session_id"], session["session_id"], "the session of the lock")
        await call(client, "deregister_session", session)


async def alternate(replicas, front, counts, mode):
    """What is done through one replica holds for the others."""
    mark = f"alternate-{uuid.uuid4()}"
    headers = {} if mode == "legacy" else {"X-Session-Id": mark}
    paths = [f"src/{mark}/{number}.rs" for number, _ in enumerate(replicas)]
    async with connect(f"{front}/mcp?tools=all", mode, **headers) as client:
        await call(client, "register_session", {"session_id": mark})
        before = list(counts)
        for path in paths:
            await call(client, "acquire_lock", {"file_path": path})
        asked = [now - then for now, then in zip(counts, before)]
        expect(asked, [1] * len(replicas), "the requests of each replica")
        for replica in replicas:
            async with connect(f"{replica}/mcp", mode, services.OTHER_KEY) as other:
                seen = await call(other, "check_locks", {"file_paths": paths})
                seen = [(it["file_path"], it["locked_by"], it["session_id"]) for it in seen]
                expect(seen, [(path, "boss", mark) for path in paths], "the locks")
                refused = await other.call_tool("acquire_lock", {"file_path": paths[0]})
                expect(written(refused)["success"], False, "whether a second agent gets the lock")
        await call(client, "deregister_session", {"session_id": mark})


class Wrong(Exception):
    """What is not as it should be."""


def expect(found, wanted, what):
    if found != wanted:
        raise Wrong(f"{what}: expected {wanted!r}, found {found!r}")


async def check(place, url):
    await act_in_one_session(url)
    for mode in MODES:
        done = await do_everything(url, mode)
        print(f"{place}, {MODES[mode]}: {done}", flush=True)


async def main():
    target, database = pathlib.Path(sys.argv[1]), os.environ["DATABASE_URL"]
    program = str(target / "coordinator")
    with (
        services.coordinator(program, database) as one,
        services.coordinator(program, database) as two,
        services.proxy(one, two) as (front, counts),
    ):
        await check("two replicas in turn", front)
        for mode in MODES:
            await alternate([one, two], front, counts, mode)
        print("requests of each replica:", *counts)
    # The replicas have migrated the database.
    with services.function(target / "function-url", target / "handler", database) as url:
        await check("Lambda function", url)
    with services.local(target / "local") as url:
        await check("local", url)


def leaves(error):
    """The errors in a group, and in groups of it."""
    inner = getattr(error, "exceptions", None)
    return [error] if inner is None else [leaf for it in inner for leaf in leaves(it)]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except* (Wrong, mcp.MCPError) as errors:
        raise SystemExit("\n".join(str(it) for it in leaves(errors))) from None
