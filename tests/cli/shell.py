"""A person's shell in front of a real coordinator, for tests of commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from countermand.cli.main import main


@contextmanager
def coordinating(data: Path, listen: str = "127.0.0.1:0") -> Iterator[str]:
    """Yields the address of a coordinator of its own."""
    command = [sys.executable, "-m", "coordinator", "serve", "--data", str(data)]
    with (
        (data / "log").open("a") as log,
        subprocess.Popen(
            [*command, "--listen", listen], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
        process.terminate()


class Shell:
    """One owner's terminal; the owner and the workflow are called as the test."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self.address = address
        self._environment = {"COUNTERMAND_COORDINATOR": address, "COUNTERMAND_OWNER": name}

    def __call__(self, *words: str, code: int = 0, given: str | None = None) -> str:
        """Runs a command, of which "@" is the workflow; returns what it says."""
        done = self.run(*words, given=given)
        assert done.exit_code == code, done.output
        return done.output

    def run(self, *words: str, given: str | None = None) -> Result:
        """Runs a command, however it ends."""
        args = [word.replace("@", self.name) if "@latest" not in word else word for word in words]
        return CliRunner().invoke(main, args, input=given, env=self._environment)

    def external(self, *words: str, code: int = 0) -> str:
        return self("external", *words, code=code)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))

    def submit(
        self,
        *members: dict[str, object],
        workflow_id: str = "@",
        labels: Sequence[str] = (),
        **group: object,
    ) -> None:
        """Starts a workflow of these tasks, in order unless the group is another."""
        root = {"kind": "KIND_SEQUENCE", "members": list(members), **group}
        spec = json.dumps({"kind": "d", "policy": root.pop("policy", {}), "root": root})
        words = [word for label in labels for word in ("--label", label)]
        self("workflow", "submit", "-", "--id", workflow_id, *words, given=spec)

    def held(self, workflow_id: str, *labels: str) -> None:
        """Starts a workflow whose first task fails, and is held for it."""
        bound = {"field": "arguments.lun", "source": "tasks.make.output.lun"}
        members = [
            self.task("make", outputs={"lun": "string", "size": "int64"}),
            self.task("use", bindings=[bound]),
        ]
        root = {"kind": "KIND_SEQUENCE", "members": members}
        spec = {"kind": "held", "policy": {"on_failure": "ON_FAILURE_PAUSE"}, "root": root}
        words = [word for label in labels for word in ("--label", label)]
        self("workflow", "submit", "-", "--id", workflow_id, *words, given=json.dumps(spec))
        self.external("accept", f"{workflow_id}/make")
        self.external("end", f"{workflow_id}/make", "--failed", "FULL", "--message", "It is full.")
        self("workflow", "wait", workflow_id, code=4)

    def task(self, name: str, **fields: object) -> dict[str, Any]:
        said = {"owner_id": self.name, "kind": f"do-{name}", "effect": "EFFECT_READ_ONLY"}
        if "operator_checklist" in fields or "ask_owner" in fields:
            said["effect"] = "EFFECT_REVERSIBLE"
        return {"name": name, "external_task": said | fields}

    def do(self, name: str) -> None:
        self.external("accept", f"@/{name}")
        self.external("end", f"@/{name}")
