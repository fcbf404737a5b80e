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

FAILURES = {"FAILURE", "WARNING"}


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
    if announced is None or int(announced[1]) == 0 or int(announced[1]) != len(found):
        print(said)
        problems.append(f"{era}: {len(found)} scenarios have results, which are not all")
    if ran.returncode != 0:
        print(said[said.find("=== SUMMARY ===") :])
        problems.append(f"{era}: the suite failed with {ran.returncode}")
    whole = set()
    for scenario, checks in sorted(found.items()):
        failing = {check for check, of in checks.items() if of.keys() & FAILURES}
        for check in sorted(failing - {it[1] for it in excluded if it[0] == scenario}):
            told = next(told for status, told in checks[check].items() if status in FAILURES)
            problems.append(f"{era}: {scenario}:{check} fails: {told}")
        passes = any("SUCCESS" in of for of in checks.values())
        if passes and not failing:
            whole.add(scenario)
        if passes == (scenario in ERAS[era]):
            problems.append(f"{era}: {scenario} passes no check, or is wrongly said not to")
    for scenario, check in excluded:
        if not found.get(scenario, {}).get(check, {}).keys() & FAILURES:
            problems.append(f"{era}: {scenario}:{check} is excluded, and does not fail")
    count = sum("SUCCESS" in of for checks in found.values() for of in checks.values())
    partly = len({scenario for scenario, _ in excluded})
    print(
        f"{era}: {len(whole)} of {len(found)} scenarios pass whole, {count} kinds of check in all;"
        f" {len(excluded)} checks in {partly} scenarios are excluded",
        flush=True,
    )
    return problems


def outcomes(results):
    """For each check of each scenario, how it came out and what was said of that."""
    found = collections.defaultdict(lambda: collections.defaultdict(dict))
    for path in results.glob("server-*/checks.json"):
        scenario = re.fullmatch(r"server-(.+?)-\d{4}-\d\d-\d\dT.*", path.parent.name)[1]
        checks = found[scenario]
        for check in json.loads(path.read_text()):
            checks[check["id"]][check["status"]] = check.get("errorMessage", "no reason given")
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
