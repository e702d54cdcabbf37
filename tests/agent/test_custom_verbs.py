"""Verbs that packages bring, by the one of `docs/examples`: served, refused, made up for."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from hashlib import sha256
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf.struct_pb2 import Struct

from agent import admission
from agent.__main__ import main
from agent.drivers.driver import Copies, Resizes, Work
from agent.executors import DetachedCalls, InlineExecutor
from agent.lookers import CallGuard
from agent.service import AgentService
from agent.verbs import catalogue
from agent.verbs.context import Context
from agent.verbs.custom import STRUCT_BYTES_MAX
from agent.verbs.plugins import GROUP, Effect, Verbs, tell
from countermand.rpc import crash
from countermand.rpc.errors import CountermandError, FieldInvalid, VerbUnsupported
from countermand.v1 import annotation_pb2
from countermand.v1.agent_pb2 import FenceAttemptRequest, GetHostRequest
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, Custom
from tests.agent.requests import CLUSTER, address, attempt_name, noop_action
from tests.agent.rig import NOW, Gate, Rig
from tests.agent.test_faults import until

EXAMPLE = Path(__file__).parents[2] / "docs/examples/verb-stamp/countermand_verb_stamp.py"
NAME = "example.org/stamp"
STAMP, UNDO = attempt_name("stamp"), attempt_name("stamp", 2)
FIELDS = Custom.DESCRIPTOR.fields_by_name
REVERSIBLE = annotation_pb2.EFFECT_REVERSIBLE
SUCCEEDED = Attempt.STATE_SUCCEEDED


def example():
    """Imports the example under its own name."""
    spec = spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[EXAMPLE.stem] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


class Loose:
    """A verb that tests make what they need of."""

    effect = Effect.PIVOT
    source = target = None
    values: object = {}

    def check(self, arguments):
        return {}

    def act(self, context, request):
        yield from ()
        return self.values


PLUGINS = {NAME: example().STAMP, "example.org/loose": Loose()}


def stamp(target: str = "fast/note", text: Any = "vm-1", **fields) -> Action:
    """Returns an action; other fields are arguments unless Custom has them."""
    arguments = Struct()
    others = {key: fields.pop(key) for key in [*fields] if key not in FIELDS}
    arguments.update({"text": text, **others})
    where = address(target) if target else None
    given = {"verb": NAME, "target": where, "effect": REVERSIBLE, "arguments": arguments}
    return Action(custom=Custom(**{**given, **fields}))


def loose() -> Action:
    return Action(
        custom=Custom(verb="example.org/loose", effect=annotation_pb2.EFFECT_PIVOT),
    )


@pytest.fixture
async def host(tmp_path):
    """Yields an agent that has plug-ins, and a pool that is only read besides."""
    rig = Rig(tmp_path, options={"fast": {}, "still": {"read_only": True}})
    rig.plugins = PLUGINS
    await rig.start()
    yield rig
    await rig.runner.stop()


# -- what it does -------------------------------------------------------------------------------


async def test_a_plug_ins_verb_takes_effect_and_leaves_values(host):
    done = await host.run(STAMP, stamp())
    assert done.state == Attempt.STATE_SUCCEEDED, done
    assert dict(done.output.custom.values) == {
        "sha256": sha256(b"vm-1").hexdigest(),
        "size_bytes": 4,
        "generation": 1,
    }
    assert host.data("note").read_bytes() == b"vm-1".ljust(512, b"\0")
    assert host.pools["fast"].find("note").attempt == STAMP


async def test_a_repeat_joins_it_and_another_life_finds_what_it_made(host):
    first = await host.run(STAMP, stamp())
    host.data("note").write_bytes(b"changed by hand")
    assert (await host.accept(STAMP, stamp())).output == first.output

    verb = catalogue.verb_of(stamp(), PLUGINS)
    assert verb is not None
    work = Work(
        attempt=STAMP,
        cluster_id=CLUSTER,
        note="",
        resumed=True,
        now=lambda: NOW,
        crash=crash.never,
    )
    context = Context(work=work, pools=host.pools, pull=lambda _address: pytest.fail("no copy"))
    again = await InlineExecutor().drive(verb.act(context, stamp()), CallGuard())
    assert again == first.output
    assert host.data("note").read_bytes() == b"changed by hand"


async def test_exactly_what_it_made_is_made_up_for_again_and_again(host):
    await host.run(attempt_name("other"), stamp(target="fast/other"))
    await host.run(STAMP, stamp())
    for number in (2, 3):
        made_up = await host.make_up(attempt_name("stamp", number), STAMP, stamp())
        assert made_up.state == Attempt.STATE_SUCCEEDED, made_up
    not_mine = stamp(target="fast/other")
    assert (await host.make_up(attempt_name("x", 2), attempt_name("x"), not_mine)).state == (
        Attempt.STATE_SUCCEEDED
    )
    assert host.images() == ["other"]


async def test_one_that_is_cancelled_leaves_nothing(host):
    gate = Gate()
    await host.restart(gate=gate)
    await host.accept(STAMP, stamp())
    await gate.arrival(2)
    await host.cancel(STAMP)
    gate.open()
    assert (await host.settled(STAMP)).state == Attempt.STATE_CANCELLED
    assert (host.images(), host.staged()) == ([], [])


async def test_one_that_was_at_work_is_unknown_while_its_plug_in_is_gone(host):
    gate = Gate()
    await host.restart(gate=gate)
    await host.accept(STAMP, stamp())
    await gate.arrival()
    host.runner.running[STAMP].interrupt()
    gate.open()
    await host.runner.stop()
    host.plugins = {}
    await host.start()
    lost = await host.settled(STAMP)
    assert (lost.state, lost.failure.reason) == (Attempt.STATE_UNKNOWN, "VERB_UNSUPPORTED")
    host.plugins = PLUGINS
    await host.restart()
    assert (await host.settled(STAMP)).state == Attempt.STATE_SUCCEEDED
    assert host.images() == ["note"]


@pytest.mark.parametrize("ran", [True, False])
async def test_without_its_plug_in_nothing_is_said_to_be_made_up_for(host, ran):
    """A host that was never asked cannot know whether an earlier journal was."""
    if ran:
        await host.run(STAMP, stamp())
    host.plugins = {}
    await host.restart()
    failed = await host.make_up(UNDO, STAMP, stamp())
    assert (failed.state, failed.failure.reason) == (Attempt.STATE_FAILED, "VERB_UNSUPPORTED")
    host.plugins = PLUGINS
    await host.restart()
    made_up = await host.make_up(attempt_name("stamp", 3), STAMP, stamp())
    assert made_up.state == Attempt.STATE_SUCCEEDED
    assert host.images() == []


async def test_what_has_no_opposite_is_not_made_up_for(host):
    assert (await host.run(STAMP, loose())).state == Attempt.STATE_SUCCEEDED
    failed = await host.make_up(UNDO, STAMP, loose())
    assert (failed.state, failed.failure.reason) == (Attempt.STATE_FAILED, "VERB_UNSUPPORTED")


@pytest.mark.parametrize("values", [{"a": []}, {"a.b": 1}, {"a": "x" * STRUCT_BYTES_MAX}])
async def test_values_that_cannot_be_kept_leave_it_unknown(host, values, monkeypatch):
    """It has taken effect by then: nothing else may be said."""
    monkeypatch.setattr(Loose, "values", values)
    assert (await host.run(STAMP, loose())).state == Attempt.STATE_UNKNOWN


# -- what is refused ----------------------------------------------------------------------------


async def refused(host: Rig, action: Action) -> CountermandError:
    with pytest.raises(CountermandError) as raised:
        await host.accept(STAMP, action)
    assert await host.runner.journal.transact(lambda tx: tx.get(STAMP)) is None
    return raised.value


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"verb": "stamp"}, "verb"),
        pytest.param({"effect": 0}, "effect", id="no-effect"),
        ({"effect": annotation_pb2.EFFECT_PIVOT}, "effect"),
        ({"target": "fast/.."}, "target.image_id"),
        ({"target": ""}, "target"),
        ({"source": address("fast/base")}, "source"),
        pytest.param({"text": ""}, "arguments.text", id="no-text"),
        ({"text": 7}, "arguments.text"),
        ({"colour": "red"}, "arguments.colour"),
        ({"text": "x" * STRUCT_BYTES_MAX}, "arguments"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def test_bad_requests_are_refused_by_the_name_of_the_field(host, fields, named):
    error = await refused(host, stamp(**fields))
    assert isinstance(error, FieldInvalid)
    assert [violation.field for violation in error.violations] == [f"custom.{named}"]


async def test_what_no_plug_in_serves_is_refused(host):
    error = await refused(host, stamp(verb="example.org/other"))
    assert (error.reason, error.metadata["verb"]) == ("VERB_UNSUPPORTED", "example.org/other")
    assert (await refused(host, stamp(target="nowhere/note"))).reason == "POOL_NOT_FOUND"
    assert (await refused(host, stamp(target="still/note"))).reason == "POOL_READ_ONLY"


async def test_a_plug_in_that_chokes_on_arguments_has_begun_nothing(host, monkeypatch):
    monkeypatch.setattr(Loose, "check", lambda _self, _arguments: 1 / 0)
    error = await refused(host, loose())
    assert (error.reason, "ZeroDivisionError" in error.metadata["why"]) == (
        "VERB_UNSUPPORTED",
        True,
    )


async def test_a_driver_that_lacks_what_a_verb_needs_is_named(host, monkeypatch):
    monkeypatch.setattr(type(PLUGINS[NAME]), "target", Nobody)
    error = await refused(host, stamp())
    assert (error.reason, error.metadata["pool"]) == ("VERB_UNSUPPORTED", "fast")


class Nobody(Resizes):
    """A driver as there is none."""


async def test_it_is_never_fenced(host):
    """Only a driver's own work runs into a fence."""
    service = AgentService(host.runner, now=lambda: NOW, version="1.2.3")
    request = FenceAttemptRequest(header=host.requests.for_action(STAMP, stamp()), action=stamp())
    with pytest.raises(VerbUnsupported):
        await service.FenceAttempt(request, None)
    await service.stop()


# -- what is told -------------------------------------------------------------------------------


async def test_the_host_lists_them_and_each_pool_those_that_work_there(host):
    service = AgentService(host.runner, now=lambda: NOW, version="1.2.3")
    report = (await service.GetHost(GetHostRequest(), None)).host
    assert list(report.custom_verbs) == ["example.org/loose", NAME]
    listed = {pool.pool_id: NAME in pool.verbs for pool in report.pools}
    assert listed == {"fast": True, "still": False}
    await service.stop()


async def test_a_plug_in_that_does_not_come_to_an_end_holds_up_nobody_else(tmp_path, monkeypatch):
    """Its check runs beside the loop; and of those that hang there are only so many."""
    monkeypatch.setattr(admission, "CHECK_S_MAX", 0.05)
    monkeypatch.setattr(admission, "CHECKS_MAX", 2)
    goes_on = threading.Event()

    begun: list[int] = []

    def hang(_self: Loose, _arguments: object) -> dict[str, str]:
        begun.append(1)
        assert goes_on.wait(60)
        return {}

    monkeypatch.setattr(Loose, "check", hang)
    rig = Rig(tmp_path)
    rig.plugins, rig.calls = PLUGINS, DetachedCalls("check")
    await rig.start()
    for _ in range(3):
        with pytest.raises(VerbUnsupported, match="has not checked the arguments"):
            await rig.accept(STAMP, loose())
        assert (await rig.run(attempt_name("other"), noop_action())).state == SUCCEEDED
    await until(lambda: len(begun) == 2)
    assert begun == [1, 1]  # the third one did not begin
    monkeypatch.setattr(admission, "CHECK_S_MAX", 60.0)
    goes_on.set()
    assert (await rig.run(STAMP, loose())).state == SUCCEEDED
    await rig.runner.stop()


async def test_more_than_are_checked_at_once_take_turns(tmp_path, monkeypatch):
    """A coordinator sends as many as it likes at once: none is refused for being one of many."""
    monkeypatch.setattr(admission, "CHECKS_MAX", 2)
    rig = Rig(tmp_path)
    rig.plugins, rig.calls = PLUGINS, DetachedCalls("check")
    await rig.start()
    names = [attempt_name(f"stamp-{number}") for number in range(6)]
    ended = await asyncio.gather(*(rig.run(name, loose()) for name in names))
    assert [one.state for one in ended] == [SUCCEEDED] * len(names)
    await rig.runner.stop()


HALF = type("Half", (Loose,), {"effect": Effect.REVERSIBLE})()
VAGUE = type("Vague", (Loose,), {"effect": "PERHAPS"})()
NOTHING = "no verb"


def test_broken_ones_are_told_of_and_not_served(monkeypatch):
    monkeypatch.setitem(sys.modules, "third_party", sys.modules[__name__])
    names = {
        NAME: "countermand_verb_stamp:STAMP",
        "plain": "countermand_verb_stamp:STAMP",
        "example.org/half": "third_party:HALF",
        "example.org/vague": "third_party:VAGUE",
        "example.org/nothing": "third_party:NOTHING",
        "example.org/broken": "no_such_package:VERB",
    }
    verbs = Verbs(EntryPoint(name, value, GROUP) for name, value in names.items())
    assert list(verbs.served()) == [NAME]
    told = {about["name"]: about for about in verbs.describe()}
    assert told[NAME]["problem"] == ""
    assert (told[NAME]["effect"], told[NAME]["target"]) == ("REVERSIBLE", Copies.__name__)
    assert "its name must be <vendor>/<name>" in told["plain"]["problem"]
    assert "is REVERSIBLE, and has no make_up" in told["example.org/half"]["problem"]
    assert "its effect must be an Effect: one of READ_ONLY" in told["example.org/vague"]["problem"]
    assert "is no verb: it lacks act, check" in told["example.org/nothing"]["problem"]
    assert "cannot be imported: ModuleNotFound" in told["example.org/broken"]["problem"]
    assert "target   in a pool whose driver copies" in tell(told[NAME])


def test_the_verbs_command_lists_what_is_installed(monkeypatch):
    answer = CliRunner().invoke(main, ["verbs", "-o", "json"])
    assert json.loads(answer.output) == {"verbs": []}
    points = [EntryPoint(NAME, "countermand_verb_stamp:STAMP", GROUP)]
    monkeypatch.setattr("agent.verbs.plugins.entry_points", lambda *, group: points)
    assert "effect   REVERSIBLE" in CliRunner().invoke(main, ["verbs"]).output
