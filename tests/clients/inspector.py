"""The official inspector of the Model Context Protocol, on its command line, over HTTP and through `coord mcp`."""

import json

from place import Place

INSPECTOR = "@modelcontextprotocol/inspector"


def run(tools):
    place = Place(tools, tools.folder / "project")
    inspector = f"'{tools.node}' '{tools.packages}/{INSPECTOR}/clients/launcher/build/index.js' --cli"
    over_http = f"{inspector} '{tools.url}/mcp?tools=all' --transport http --header \"X-API-Key: $COORDINATION_API_KEY\""
    # The inspector passes on only the variables that it is given.
    variables = ["COORDINATION_API_URL", "COORDINATION_API_KEY"]
    passed_on = " ".join(f'-e "{name}=${name}"' for name in variables)
    over_coord = f"{inspector} {passed_on} coord mcp --tools all"
    listed = [work(place, door, f"src/{n}.rs") for n, door in enumerate([over_http, over_coord])]
    assert listed[0] == listed[1], listed
    wrong = f"{inspector} {tools.url}/mcp --transport http --header 'X-API-Key: wrong' --method tools/list"
    assert place.try_to(wrong).code != 0


def work(place, door, file):
    """Lists tools and resources, acquires a lock and checks it. Returns the names of tools and resources."""
    # With `--strict`, a schema that some clients refuse ends it with another code.
    tools = answer(place, f"{door} --method tools/list --strict")["tools"]
    resources = answer(place, f"{door} --method resources/list")["resources"]
    names = [tool["name"] for tool in tools], [resource["uri"] for resource in resources]
    assert "acquire_lock" in names[0] and "locks://current" in names[1], names
    acquired = call(place, door, f"acquire_lock --tool-arg file_path={file}")
    assert acquired["success"] and acquired["fencing_token"], acquired
    [lock] = call(place, door, f"check_locks --tool-arg 'file_paths=[\"{file}\"]'")["result"]
    assert lock["file_path"] == file and lock["same_agent"], lock
    read = answer(place, f"{door} --method resources/read --uri locks://current")
    assert file in read["contents"][0]["text"], read
    released = call(place, door, f"release_lock --tool-arg file_path={file}")
    assert released["success"], released
    return names


def call(place, door, tool):
    """Returns the structured answer of a tool."""
    result = answer(place, f"{door} --method tools/call --tool-name {tool}")
    assert not result["isError"], result
    return result["structuredContent"]


def answer(place, line):
    """Returns the JSON that the inspector prints. What it and `coord` say to people is on standard error."""
    return json.loads(place.run(f"{line} 2>../said").text)
