"""Gemini's client connects to the server, over HTTP and through `coord mcp`. It needs no account for that."""

from place import Place


def run(tools):
    place = Place(tools, tools.folder / "project", GEMINI_CLI_TRUST_WORKSPACE="true")
    gemini = f"'{tools.node}' '{tools.packages}/@google/gemini-cli/bundle/gemini.js' mcp"
    place.run(
        f"{gemini} add --scope user --transport http --header \"Authorization: Bearer $COORDINATION_API_KEY\""
        f" --header 'X-Agent-Id: boss' coord {tools.url}/mcp"
    )
    place.run(f"{gemini} add --scope user -e 'COORDINATION_API_KEY=$COORDINATION_API_KEY' coord-program coord mcp")
    place.run(
        f"{gemini} add --scope user --transport http --header 'Authorization: Bearer wrong' wrong {tools.url}/mcp"
    )
    listed = place.run(f"{gemini} list").text.splitlines()
    state = {line.split(":")[0].split()[-1]: line for line in listed if " - " in line}
    for name, expected in (("coord", True), ("coord-program", True), ("wrong", False)):
        line = state[name]
        assert ("Connected" in line and "Disconnected" not in line) == expected, "\n".join(listed)
    # What Gemini wrote agrees with what coord uses; only the third one does not.
    report = place.try_to("coord doctor", 1)
    report.says("~/.gemini/settings.json, server coord: agrees", "server coord-program: agrees")
