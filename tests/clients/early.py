"""The official client starts `coord mcp` before the service runs, in both eras of the protocol. It gets its tools,
is told why a call fails, and works as soon as the service is there."""

import asyncio
import json
import os

import mcp
from mcp.client.stdio import StdioServerParameters, stdio_client

import services

MODES = ("legacy", "auto")


async def work(tools, mode):
    port = services.free_port()
    url = f"http://127.0.0.1:{port}"
    environment = tools.environment | {"COORDINATION_API_URL": url}
    program = StdioServerParameters(command="coord", args=["mcp"], env=environment, cwd=tools.folder)
    async with mcp.Client(stdio_client(program), mode=mode) as client:
        before = [tool.name for tool in (await client.list_tools()).tools]
        assert "acquire_lock" in before, before
        result = await client.call_tool("acquire_lock", {"file_path": f"{mode}.rs"})
        text = result.content[0].text
        assert result.is_error and "nothing was done" in text and "coord doctor" in text, text
        variables = services.KEYS | {
            "API_HOST": "127.0.0.1",
            "API_PORT": str(port),
            "POSTGRES_DSN": os.environ["DATABASE_URL"],
        }
        with services.program([tools.programs / "coordinator"], variables, port):
            result = await client.call_tool("acquire_lock", {"file_path": f"{mode}.rs"})
            assert json.loads(result.content[0].text)["success"], result
            await client.call_tool("release_lock", {"file_path": f"{mode}.rs"})
            after = [tool.name for tool in (await client.list_tools()).tools]
            assert before == after, (before, after)


def run(tools):
    for mode in MODES:
        asyncio.run(work(tools, mode))
