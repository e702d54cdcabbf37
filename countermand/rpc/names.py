"""Resource names: the one place where they are made, checked and taken apart.

`workflows/{workflow}/tasks/{task}/attempts/{attempt}` is at once an attempt's identity, the agent's
idempotency key, the journal's primary key and the log field. Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ID_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
ID_RULE = "must match [a-z0-9][a-z0-9._-]{0,62}"

# Of a verb that is a plug-in's. No other verb, and no id, has a slash.
VERB_RULE = "must be <vendor>/<name>, each [a-z0-9][a-z0-9.-]{0,62}"

# Of an owner, and of what is asked of it: together the name of its verb.
VENDOR_RULE = "must match [a-z0-9][a-z0-9.-]{0,62}"

_ID = re.compile(ID_PATTERN)
_VENDOR = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_VERB = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}/[a-z0-9][a-z0-9.-]{0,62}")
_WORKFLOW = re.compile(rf"workflows/({ID_PATTERN})")
_TASK = re.compile(rf"workflows/({ID_PATTERN})/tasks/({ID_PATTERN})")
# Numbers are canonical (no zeros in front), so that one attempt has one name.
_ATTEMPT = re.compile(
    rf"workflows/({ID_PATTERN})/tasks/({ID_PATTERN})/attempts/([1-9][0-9]{{0,8}})"
)
_HOST = re.compile(rf"hosts/({ID_PATTERN})")
_WEBHOOK = re.compile(rf"webhooks/({ID_PATTERN})")


class AttemptName(NamedTuple):
    """The parts of an attempt's name."""

    workflow_id: str
    task_id: str
    number: int

    @property
    def workflow(self) -> str:
        """Returns the name of its workflow."""
        return workflow_name(self.workflow_id)

    @property
    def task(self) -> str:
        """Returns the name of its task."""
        return task_name(self.workflow_id, self.task_id)

    def __str__(self) -> str:
        """Returns the whole name."""
        return attempt_name(self.workflow_id, self.task_id, self.number)


def is_id(text: str) -> bool:
    """Returns whether a text is a valid id of a workflow, task, host, pool or image."""
    return _ID.fullmatch(text) is not None


def is_custom_verb(text: str) -> bool:
    """Returns whether a text is the name of a plug-in's verb."""
    return _VERB.fullmatch(text) is not None


def is_vendor_id(text: str) -> bool:
    """Returns whether a text can stand on either side of the slash in such a name."""
    return _VENDOR.fullmatch(text) is not None


def workflow_name(workflow_id: str) -> str:
    """Returns the name of a workflow."""
    return f"workflows/{workflow_id}"


def task_name(workflow_id: str, task_id: str) -> str:
    """Returns the name of a task."""
    return f"workflows/{workflow_id}/tasks/{task_id}"


def attempt_name(workflow_id: str, task_id: str, number: int) -> str:
    """Returns the name of an attempt."""
    return f"workflows/{workflow_id}/tasks/{task_id}/attempts/{number}"


def host_name(host_id: str) -> str:
    """Returns the name of a host."""
    return f"hosts/{host_id}"


def webhook_name(webhook_id: str) -> str:
    """Returns the name of a webhook."""
    return f"webhooks/{webhook_id}"


def coordinator_name(session: int) -> str:
    """Returns "coordinators/{session}"."""
    return f"coordinators/{session}"


def parse_workflow(name: str) -> str | None:
    """Returns the workflow's id, or None if the name is not a workflow's."""
    match = _WORKFLOW.fullmatch(name)
    return match[1] if match else None


def parse_task(name: str) -> tuple[str, str] | None:
    """Returns the workflow's and the task's id, or None if the name is not a task's."""
    match = _TASK.fullmatch(name)
    return (match[1], match[2]) if match else None


def parse_attempt(name: str) -> AttemptName | None:
    """Returns the parts, or None if the name is not an attempt's."""
    match = _ATTEMPT.fullmatch(name)
    return AttemptName(match[1], match[2], int(match[3])) if match else None


def parse_host(name: str) -> str | None:
    """Returns the host's id, or None if the name is not a host's."""
    match = _HOST.fullmatch(name)
    return match[1] if match else None


def parse_webhook(name: str) -> str | None:
    """Returns the webhook's id, or None if the name is not a webhook's."""
    match = _WEBHOOK.fullmatch(name)
    return match[1] if match else None
