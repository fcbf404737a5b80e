"""What Schemathesis cannot know of the service, and where it is wrong itself."""

import os
import re
import uuid

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

# Who the key belongs to, if it belongs to one agent.
OWNER = {
    name: os.environ[name.upper()]
    for name in ("agent_id", "agent_type")
    if name.upper() in os.environ
}
KEY = "Idempotency-Key"


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers or {}
    # Each request has an idempotency key of its own: used twice, it is refused.
    if isinstance(headers.get(KEY), str) and re.fullmatch("[!-~]([ -~]{0,200}[!-~])?", headers[KEY]):
        headers[KEY] += f"-{uuid.uuid4()}"
    # As somebody else, the owner of a key may do nothing.
    if case.meta is None or case.meta.generation.mode.is_positive:
        for name, value in OWNER.items():
            header = "X-" + name.title().replace("_", "-")
            if header in headers:
                headers[header] = value
            if isinstance(case.body, dict) and name in case.body:
                case.body[name] = value


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Drops what is no failure."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 422:
        return True
    return not all(is_excused(issue) for issue in response.json()["detail"])


def is_excused(issue):
    # Schemathesis takes empty text to be of any format where `null` may stand as well.
    formats = ["since", "deadline", "not_before", "replaces"]
    if issue["input"] == "" and issue["loc"][-1] in formats:
        return True
    # A limit in bytes is stricter than the one in characters that a schema can state.
    if issue["type"] == "string_too_long" and not issue["input"].isascii():
        return True
    # Where a path leads, and how members relate to each other, to what is stored and to the clock, is
    # beyond a schema.
    return issue["msg"].removeprefix("Value error, ") in [
        "expected a name, not a variable that was not filled in: set the variable where the client is configured, or leave this out",
        "path must not lead out of its start with `..`",
        "expected a time after not_before",
        "expected a time in the future",
        "expected the id of a failed or cancelled task",
        "expected the id of a task",
        "expected the next_cursor of an earlier answer",
    ]
