"""The official client gives up calls that wait: by its time-out, by a cancel scope, and by closing its
connection, in both eras of the protocol. Each time, the call must take nothing afterwards: another session
then gets the lock or the task. Requires the service's endpoint in MCP_URL, a key in COORDINATION_API_KEY
and that of another agent in HOLDER_API_KEY."""

import contextlib
import os
import re
import uuid

import anyio
import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client

URL = os.environ.get("MCP_URL") or os.environ["COORDINATION_API_URL"] + "/mcp"
KEY = os.environ["COORDINATION_API_KEY"]
# Of another agent: a call does not wait for a lock of its own agent.
HOLDER_KEY = os.environ["HOLDER_API_KEY"]
MARK = f"cancel-{uuid.uuid4()}"


def connection(session):
    key = HOLDER_KEY if session == "holder" else KEY
    headers = {"X-API-Key": key, "X-Session-Id": session}
    # No proxy of the machine stands before loopback.
    return httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False)


async def http(session, path, body=None):
    """A request of a session, without MCP."""
    async with connection(session) as client:
        method = "GET" if body is None else "POST"
        answer = await client.request(method, URL.removesuffix("/mcp") + path, json=body)
        answer.raise_for_status()
        return answer.text if path == "/metrics" else answer.json()


async def until_waiting():
    for _ in range(400):
        metrics = await http("watcher", "/metrics")
        if int(re.search(r"^coordinator_waiting_requests (\d+)", metrics, re.M)[1]):
            return
        await anyio.sleep(0.025)
    raise AssertionError("no call waits")


@contextlib.asynccontextmanager
async def connected(mode):
    async with connection("waiter") as http_client:
        transport = streamable_http_client(URL, http_client=http_client)
        async with mcp.Client(transport, mode=mode) as client:
            yield client


@contextlib.asynccontextmanager
async def time_out(mode, tool, arguments):
    async with connected(mode) as client:
        try:
            answer = await client.call_tool(tool, arguments, read_timeout_seconds=1)
        except mcp.MCPError:
            answer = None
        assert answer is None, f"the call did not time out: {answer}"
        # The connection stays open while another session takes what the call waited for.
        yield


@contextlib.asynccontextmanager
async def cancel_scope(mode, tool, arguments):
    async with connected(mode) as client, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def call():
            with scope:
                await client.call_tool(tool, arguments)

        tasks.start_soon(call)
        await until_waiting()
        scope.cancel()
        yield


@contextlib.asynccontextmanager
async def closed_connection(mode, tool, arguments):
    async with anyio.create_task_group() as tasks:

        async def call():
            async with connected(mode) as client:
                await client.call_tool(tool, arguments)

        tasks.start_soon(call)
        await until_waiting()
        tasks.cancel_scope.cancel()
    yield


async def lock_goes_to_another(mode, way):
    path = f"src/{MARK}/{mode}-{way.__name__}.rs"
    lock = {"file_path": path, "agent_id": "", "agent_type": ""}
    assert (await http("holder", "/locks/acquire", lock))["success"]
    async with way(mode, "acquire_lock", {"file_path": path, "wait_seconds": 40}):
        await http("holder", "/locks/release", {"file_path": path, "agent_id": ""})
        other = await http("other", "/locks/acquire", lock | {"wait_seconds": 20})
        assert other["success"], f"a call that was given up has the lock: {other}"


async def task_goes_to_another(mode, way):
    kind = f"{MARK}-{mode}-{way.__name__}"
    async with way(mode, "get_work", {"task_types": [kind], "wait_seconds": 40}):
        await http("holder", "/work/submit", {"task_type": kind, "task_description": "do it"})
        wanted = {"agent_id": "", "agent_type": "", "task_types": [kind], "wait_seconds": 20}
        other = await http("other", "/work/claim", wanted)
        assert other["success"], f"a call that was given up has the task: {other}"


async def main():
    for mode in ("legacy", "auto"):
        for way in (time_out, cancel_scope, closed_connection):
            for scenario in (lock_goes_to_another, task_goes_to_another):
                await scenario(mode, way)
                print(f"ok: {scenario.__name__} after {way.__name__}, {mode}")


if __name__ == "__main__":
    anyio.run(main)
