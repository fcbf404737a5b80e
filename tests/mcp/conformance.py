"""Has the official conformance suite ask a server what both eras of the protocol require of it:
`conformance.py NODE SUITE COORDINATOR`, with a database in DATABASE_URL.

The suite itself compares its failures with the exclusions: one that is not listed fails, and so does
one that passes meanwhile. What it lets pass in silence fails here.
"""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import services

HERE = pathlib.Path(__file__).parent

# In each era, the scenarios in which nothing is to be checked.
ERAS = {
    "2025-11-25": {
        "server-sse-polling",  # about streams of events; every answer is plain JSON
    },
    "2026-07-28": set(),
}


def main():
    node, suite, coordinator = sys.argv[1:]
    problems = []
    with (
        services.coordinator(coordinator, os.environ["DATABASE_URL"]) as server,
        # The suite cannot send a key.
        services.proxy(server, headers=[("X-API-Key", services.KEY)]) as (url, _),
    ):
        for era in ERAS:
            problems += check(node, suite, f"{url}/mcp?tools=all", era)
    if problems:
        raise SystemExit("\n".join(["", *problems]))


def check(node, suite, url, era):
    """What is wrong with the server in one era."""
    path = HERE / f"exclusions-{era}.yaml"
    excluded = exclusions(path)
    with tempfile.TemporaryDirectory() as results:
        words = [node, suite, "server", "--url", url, "--suite", "all", "--spec-version", era]
        words += ["--expected-failures", str(path), "--output-dir", results]
        ran = subprocess.run(words, capture_output=True, text=True)
        found = outcomes(pathlib.Path(results))
    said = ran.stdout + ran.stderr
    announced = re.search(r"\((\d+) scenarios\)", said)
    problems = []
    if ran.returncode != 0:
        print(said)
        problems.append(f"{era}: the suite failed with {ran.returncode}")
    if announced is None or int(announced[1]) == 0 or int(announced[1]) != len(found):
        problems.append(f"{era}: {len(found)} scenarios have results, which are not all")
    for scenario, check in excluded:
        if not {"FAILURE", "WARNING"} & found[scenario][check]:
            problems.append(f"{era}: excluded, and does not fail: {scenario}:{check}")
    passed = {it for it, checks in found.items() if any("SUCCESS" in of for of in checks.values())}
    for scenario in sorted((found.keys() - passed) ^ ERAS[era]):
        problems.append(f"{era}: {scenario} passes no check, or is wrongly said not to")
    touched = {scenario for scenario, _ in excluded}
    count = sum("SUCCESS" in of for checks in found.values() for of in checks.values())
    print(
        f"{era}: {len(passed - touched)} of {len(found)} scenarios pass whole, and {count} kinds of"
        f" check; {len(excluded)} checks in {len(touched)} scenarios are excluded",
        flush=True,
    )
    return problems


def outcomes(results):
    """The ways that each check of each scenario came out."""
    found = collections.defaultdict(lambda: collections.defaultdict(set))
    for path in results.glob("server-*/checks.json"):
        scenario = re.fullmatch(r"server-(.+?)-\d{4}-\d\d-\d\dT.*", path.parent.name)[1]
        checks = found[scenario]
        for check in json.loads(path.read_text()):
            checks[check["id"]].add(check["status"])
    return found


def exclusions(path):
    """The checks that a file excludes. Each has its reason beside it."""
    excluded = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line == "server:" or line.lstrip().startswith("#"):
            continue
        entry = re.fullmatch(r"  - ([\w-]+):([\w-]+) # \S.*", line)
        if entry is None:
            raise SystemExit(f"{path}:{number}: expected `  - scenario:check # reason`")
        excluded.append(entry.groups())
    return excluded


if __name__ == "__main__":
    main()
