"""Runs every scenario with a real client or hook manager, and prints a table of what ran:
`run.py PYTHON NODE PACKAGES PROGRAMS WORD`, with a database in DATABASE_URL. Runs only the scenarios whose names
contain the word."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

import services

import early
import gemini
import hook_managers
import hook_transitions
import inspector
import recipe
import terminal
from place import Tools

SDK = pathlib.Path(__file__).parent / "sdk"

# Seconds for a scenario in a program of its own.
PATIENCE = 120


def package_version(tools, name):
    return json.loads((tools.packages / name / "package.json").read_text())["version"]


def wheel_version(tools, name):
    code = f"import importlib.metadata as it; print(it.version({name!r}))"
    return subprocess.check_output([tools.python, "-c", code], text=True).strip()


def sdk_scenarios(tools):
    """A scenario for each program in tests/clients/sdk."""
    kinds = {
        ".mjs": (tools.node, "@modelcontextprotocol/sdk", package_version),
        ".js": (tools.node, "@modelcontextprotocol/sdk", package_version),
        ".py": (tools.python, "mcp", wheel_version),
    }
    files = sorted(SDK.iterdir()) if SDK.is_dir() else []
    for file in files:
        if file.suffix in kinds and not file.name.startswith("_"):
            program, package, version = kinds[file.suffix]
            yield f"sdk/{file.name}", f"{package} {version(tools, package)}", program, file


def run_sdk(tools, program, file):
    done = subprocess.run(
        [program, file],
        env=tools.environment
        | {"MCP_URL": tools.url + "/mcp", "HOLDER_API_KEY": services.OTHER_KEY},
        timeout=PATIENCE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout[-4000:]}")


def scenarios(tools):
    """Name, program with its version, and function of each scenario."""
    managers = {
        "husky": package_version,
        "simple-git-hooks": package_version,
        "pre-commit": wheel_version,
        "lefthook": wheel_version,
    }
    for manager, function in hook_managers.SCENARIOS + hook_transitions.SCENARIOS:
        name = function.__name__.replace("_", " ")
        yield name, f"{manager} {managers[manager](tools, manager)}", function
    for name, version, program, file in sdk_scenarios(tools):
        yield name, version, lambda tools, program=program, file=file: run_sdk(tools, program, file)
    version = package_version(tools, "@google/gemini-cli")
    yield "gemini adds and lists the server", f"gemini-cli {version}", gemini.run
    version = package_version(tools, inspector.INSPECTOR)
    yield "inspector lists and calls", f"inspector {version}", inspector.run
    git = re.search(r"[\d.]+", subprocess.check_output(["git", "--version"], text=True))[0]
    yield "coord asks on a terminal", f"git {git}", terminal.run
    yield "coord mcp starts before the service", f"mcp {wheel_version(tools, 'mcp')}", early.run
    yield "two agents follow the guide", f"mcp {wheel_version(tools, 'mcp')}, git {git}", recipe.run


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    *programs, word = sys.argv[1:]
    rows = []
    server = pathlib.Path(programs[3]) / "coordinator"
    with services.coordinator(server, os.environ["DATABASE_URL"]) as url:
        for name, version, function in scenarios(Tools(*programs, url, pathlib.Path("/"))):
            if word not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                tools = Tools(*programs, url, pathlib.Path(folder).resolve())
                started = time.monotonic()
                try:
                    function(tools)
                    result = "passed"
                except Exception:
                    traceback.print_exc()
                    result = "FAILED"
                rows.append((name, version, result, f"{time.monotonic() - started:.1f} s"))
    if not rows:
        sys.exit(f"No scenario has {word!r} in its name.")
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    failed = sum(row[2] != "passed" for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} scenarios passed.")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
