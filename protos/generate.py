"""Compiles `protos/countermand/v1/*.proto` into the stubs of `countermand/v1/`, and a driver's too.

`make stubs` runs it as a script; hatchling runs the same function, through the build hook below,
for wheels and editable installs. It needs no network and no protoc on the PATH: grpcio-tools and
mypy-protobuf bring all of it. A failed run leaves the old stubs as they were.
"""

import hashlib
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("countermand/v1")

# The contract, and what a driver speaks with storage; each compiled into the package of its name.
PACKAGES = (PACKAGE, Path("agent/drivers/csi/v1"))

# protoc looks for plug-ins on the PATH, where another environment's may come first. A launcher of
# our own runs the one that this very interpreter imports, inside pip's isolated builds as well.
PLUGINS = {"mypy": "main", "mypy_grpc": "grpc"}


class StubsError(Exception):
    """The stubs cannot be made, or do not match their protos; says what to do, in one sentence."""


class StubsHook(BuildHookInterface[Any]):
    """Compiles the stubs before hatchling collects the files of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        """Compiles, or ends the build with the one sentence that says why it could not."""
        try:
            generate(Path(self.root))
        except StubsError as error:
            self.app.abort(str(error))


def generate(root: Path = ROOT) -> None:
    """Replaces every stub under `root` by a fresh one and removes those whose proto has gone."""
    protos = _protos(root)
    if not protos:
        raise StubsError(f"There is no proto in {root / 'protos' / PACKAGE}: restore the contract.")
    digest = _digest(root)
    (root / PACKAGE).mkdir(parents=True, exist_ok=True)
    # Beside the stubs, so that moving a file in is one rename and nobody imports half of it.
    with TemporaryDirectory(dir=(root / PACKAGE).parent, prefix=".stubs-") as folder:
        fresh = Path(folder)
        _compile(root, protos, fresh)
        for package in PACKAGES:
            if (fresh / package).is_dir():
                _replace(root / package, fresh / package)
    (root / PACKAGE / ".stamp").write_text(digest + "\n")


def _replace(stubs: Path, fresh: Path) -> None:
    """Moves fresh stubs into their package, and removes those whose proto has gone."""
    stubs.mkdir(parents=True, exist_ok=True)
    (fresh / "__init__.py").touch()
    made = sorted(fresh.iterdir())
    for old in stubs.glob("*.py*"):
        if old.is_file() and old.name not in {new.name for new in made}:
            old.unlink()
    for new in made:
        new.replace(stubs / new.name)


def check(root: Path = ROOT) -> None:
    """Raises StubsError unless the stubs under `root` were made from the protos as they are now."""
    stamp = root / PACKAGE / ".stamp"
    if not stamp.exists() or stamp.read_text().strip() != _digest(root):
        raise StubsError(f"The stubs in {PACKAGE} are older than their protos: run `make stubs`.")


def _compile(root: Path, protos: list[Path], out: Path) -> None:
    arguments = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={root / 'protos'}"]
    for plugin, function in PLUGINS.items():
        launcher = out / f"protoc-gen-{plugin}"
        call = f"from mypy_protobuf.main import {function}; {function}()"
        launcher.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', call])}\n")
        launcher.chmod(0o700)
        arguments.append(f"--plugin=protoc-gen-{plugin}={launcher}")
    arguments += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", *PLUGINS)]
    arguments += map(str, protos)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StubsError(f"{done.stderr}The protos do not compile: mend the lines named above.")


def _protos(root: Path) -> list[Path]:
    """Returns all that is compiled, the contract first: without it there is nothing to do."""
    found = [sorted((root / "protos" / package).glob("*.proto")) for package in PACKAGES]
    return [proto for protos in found for proto in protos] if found[0] else []


def _digest(root: Path) -> str:
    """Returns one word for all the stubs depend on; contents, since a checkout moves mtimes."""
    parts = [f"{tool} {metadata.version(tool)}" for tool in ("grpcio-tools", "mypy-protobuf")]
    for proto in _protos(root):
        parts += [proto.name, hashlib.sha256(proto.read_bytes()).hexdigest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def main() -> None:
    """Compiles the stubs; with `--check`, only says whether they are up to date."""
    try:
        check() if "--check" in sys.argv[1:] else generate()
    except StubsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
