"""The attempt protocol, story by story: joined, fenced, cancelled, made up for, found again."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from agent.runner import Limits
from agent.verbs import catalogue
from countermand.rpc.errors import (
    AttemptNotFound,
    AttemptReused,
    Busy,
    Compensated,
    CountermandError,
    Expired,
    Fenced,
    FieldInvalid,
    IncarnationChanged,
    WrongCluster,
)
from countermand.v1.agent_pb2 import SourceAccess
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CreateImage, CreateSnapshot, DeleteImage
from tests.agent.requests import address, attempt_name, copy_action, noop_action
from tests.agent.rig import Gate, Rig

COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)
ACTION = copy_action("fast/base", "fast/disk")
CHUNK = 4 * 2**20
CONTENT = b"x" * CHUNK * 3

SUCCEEDED = Attempt.STATE_SUCCEEDED
FAILED = Attempt.STATE_FAILED
CANCELLED = Attempt.STATE_CANCELLED
CANCELLING = Attempt.STATE_CANCELLING
RUNNING = Attempt.STATE_RUNNING
ACCEPTED = Attempt.STATE_ACCEPTED


@pytest.fixture
async def gated(tmp_path):
    """Yields an agent whose work waits at every step, and the gate."""
    rig = Rig(tmp_path, limits=Limits(attempts_max=1, queue_max=1))
    await rig.start()
    rig.put("base", CONTENT)
    gate = Gate()
    await rig.restart(gate=gate)
    yield rig, gate
    gate.open()
    await rig.runner.stop()


# -- taking requests ----------------------------------------------------------------------------


async def test_a_copy_answers_at_once_and_succeeds(gated):
    rig, gate = gated
    assert (await rig.accept(COPY, ACTION)).state == RUNNING
    gate.open()
    copied = await rig.settled(COPY)
    assert copied.state == SUCCEEDED, copied
    assert copied.output.copy_image.written_bytes == len(CONTENT)
    assert copied.progress.done == copied.progress.total == len(CONTENT)
    assert copied.action == ACTION
    assert rig.data("disk").read_bytes() == CONTENT


async def test_a_repeat_joins_and_runs_once(gated):
    """S-V4, S-H6, S-Z4: while it runs, and after it ended: the same answer."""
    rig, gate = gated
    await rig.accept(COPY, ACTION)
    await gate.arrival()
    assert (await rig.accept(COPY, ACTION)).state == RUNNING
    gate.open()
    first = await rig.settled(COPY)
    rig.data("disk").write_bytes(b"changed by hand")
    second = await rig.accept(COPY, ACTION)
    first.ClearField("action")
    assert second == first
    assert rig.data("disk").read_bytes() == b"changed by hand"


async def test_repeats_at_the_same_moment_run_once(rig):
    rig.put("base", CONTENT)
    answers = await asyncio.gather(*(rig.accept(COPY, ACTION) for _ in range(20)))
    assert {answer.name for answer in answers} == {COPY}
    assert (await rig.settled(COPY)).state == SUCCEEDED


async def test_other_arguments_under_the_same_name_are_refused(rig):
    await rig.run(COPY, noop_action())
    with pytest.raises(AttemptReused):
        await rig.accept(COPY, noop_action("other"))


async def test_a_lower_epoch_is_fenced_and_a_higher_one_remembered(rig):
    """S-Z7: also when the higher one was only heard of by a refused request."""
    await rig.run(COPY, noop_action())
    with pytest.raises(AttemptReused):
        await rig.accept(COPY, noop_action("other"), owner_epoch=7)
    with pytest.raises(Fenced) as fenced:
        await rig.accept(UNDO, noop_action(), owner_epoch=6)
    assert fenced.value.metadata["highest"] == "7"
    with pytest.raises(Fenced):
        await rig.compensate(UNDO, COPY, noop_action(), owner_epoch=6)
    other = attempt_name("copy", workflow="w2")
    assert (await rig.run(other, noop_action(), owner_epoch=1)).state == SUCCEEDED


async def test_another_cluster_and_another_incarnation_are_refused(rig):
    """S-Z10."""
    await rig.run(COPY, noop_action())
    with pytest.raises(WrongCluster):
        await rig.accept(UNDO, noop_action(), cluster_id="cluster-b")
    with pytest.raises(IncarnationChanged) as changed:
        await rig.accept(UNDO, noop_action(), expected_incarnation="before")
    assert changed.value.metadata["incarnation"] == rig.runner.identity.incarnation


async def test_what_was_forgotten_can_never_start_again(rig):
    """S-Z28."""
    await rig.run(COPY, noop_action(), intent_sequence=3)
    await rig.runner.journal.transact(lambda tx: tx.forget(["workflows/w1"], 4))
    with pytest.raises(Expired):
        await rig.accept(COPY, noop_action(), intent_sequence=3)


@pytest.mark.parametrize(
    ("field", "action"),
    [
        ("action", Action()),
        ("copy_image.source.image_id", copy_action("fast/../x", "fast/disk")),
        ("copy_image.target.image_id", copy_action("fast/base", "fast/../../etc")),
        ("copy_image.target.pool_id", copy_action("fast/base", "../fast/disk")),
        ("copy_image.target", copy_action("fast/base", "fast/base")),
        ("copy_image.format", copy_action("fast/base", "fast/disk", format=9)),
        (
            "create_image.virtual_size_bytes",
            Action(create_image=CreateImage(target=address("fast/disk"), virtual_size_bytes=1000)),
        ),
    ],
)
async def test_malformed_requests_name_their_field(rig, field, action):
    with pytest.raises(FieldInvalid) as invalid:
        await rig.accept(COPY, action)
    assert field in [violation.field for violation in invalid.value.violations]


async def test_every_missing_field_of_a_header_is_named(rig):
    with pytest.raises(FieldInvalid) as invalid:
        await rig.runner.accept(rig.requests.header("").__class__(), noop_action())
    assert len(invalid.value.violations) == 6


REMEMBER = CreateSnapshot(target=address("fast/disk"), snapshot_id="old")


@pytest.mark.parametrize(
    ("reason", "action"),
    [
        ("POOL_NOT_FOUND", copy_action("gone/base", "fast/disk")),
        ("POOL_READ_ONLY", copy_action("templates/base", "templates/disk")),
        ("VERB_UNSUPPORTED", Action(create_snapshot=REMEMBER)),
    ],
)
async def test_what_this_host_cannot_do_is_refused_before_it_is_journalled(
    tmp_path, reason, action
):
    rig = Rig(tmp_path, options={"fast": {}, "templates": {}})
    await rig.start()
    rig.options["templates"] = {"read_only": True}
    await rig.restart()
    rig.pools["fast"].verbs -= {"create_snapshot"}
    with pytest.raises(CountermandError) as refused:
        await rig.accept(COPY, action)
    assert refused.value.reason == reason
    assert await rig.runner.journal.transact(lambda tx: tx.get(COPY)) is None
    await rig.runner.stop()


async def test_a_full_queue_refuses_actions_but_never_what_makes_up_for_them(gated):
    """S-Z24: and refuses before the journal heard of it."""
    rig, gate = gated
    running, waiting, refused = (attempt_name(task) for task in ("a", "b", "c"))
    await rig.accept(running, ACTION)
    await gate.arrival()
    assert (await rig.accept(waiting, copy_action("fast/base", "fast/b"))).state == ACCEPTED
    with pytest.raises(Busy) as busy:
        await rig.accept(refused, copy_action("fast/base", "fast/c"))
    assert busy.value.retry_delay > timedelta()
    assert await rig.runner.journal.transact(lambda tx: tx.get(refused)) is None
    await rig.compensate(attempt_name("b", 2), waiting, copy_action("fast/base", "fast/b"))
    gate.open()
    assert (await rig.settled(attempt_name("b", 2))).state == SUCCEEDED
    assert (await rig.settled(waiting)).state == CANCELLED
    assert (await rig.settled(running)).state == SUCCEEDED
    assert rig.images() == ["base", "disk"]


async def test_a_caller_that_goes_away_stops_nothing(gated):
    rig, gate = gated
    call = asyncio.ensure_future(rig.accept(COPY, ACTION))
    await asyncio.sleep(0)
    call.cancel()
    await gate.arrival()
    gate.open()
    assert (await rig.settled(COPY)).state == SUCCEEDED


# -- failures -----------------------------------------------------------------------------------


async def test_a_drill_fails_as_asked(rig):
    failed = await rig.run(COPY, noop_action("as the drill says"))
    assert (failed.state, failed.failure.reason) == (FAILED, "DRILL")
    assert failed.failure.message == "as the drill says"
    assert (failed.failure.attempt, failed.failure.host_id) == (COPY, "host-a")


async def test_a_run_timeout_stops_the_work_for_certain(gated):
    """S-V21."""
    rig, gate = gated
    await rig.accept(COPY, ACTION, run_timeout=timedelta(microseconds=1))
    await gate.arrival()
    running = rig.runner.running[COPY]
    await running.stopping.wait()
    gate.open()
    failed = await rig.settled(COPY)
    assert (failed.state, failed.failure.reason) == (FAILED, "RUN_TIMEOUT")
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_a_run_timeout_counts_from_the_first_start(gated):
    """S-V21: restarts give no more time."""
    rig, gate = gated
    await rig.accept(COPY, ACTION, run_timeout=timedelta(hours=1))
    await gate.arrival(3)
    rig.runner.running[COPY].interrupt()
    gate.open()
    await rig.runner.stop()
    rig.now += timedelta(hours=2)
    again = Gate()
    await rig.start(gate=again)
    await rig.runner.running[COPY].stopping.wait()
    again.open()
    failed = await rig.settled(COPY)
    assert (failed.state, failed.failure.reason) == (FAILED, "RUN_TIMEOUT")
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_work_that_stands_still_is_stopped_for_certain(gated):
    """S-V21: also in the next life, which counts anew."""
    rig, gate = gated
    await rig.accept(COPY, ACTION, stall_timeout=timedelta(seconds=0.05))
    await gate.arrival(2)
    rig.runner.running[COPY].interrupt()
    gate.open()
    await rig.runner.stop()
    rig.monotonic = time.monotonic
    again = Gate()
    await rig.start(gate=again)
    await rig.runner.running[COPY].stopping.wait()
    again.open()
    failed = await rig.settled(COPY)
    assert (failed.state, failed.failure.reason, failed.failure.retriable) == (
        FAILED,
        "STALLED",
        True,
    )
    assert dict(failed.failure.metadata) == {"stall_timeout_s": "0.05"}
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_what_waits_for_a_slot_does_not_stand_still(gated):
    rig, gate = gated
    rig.monotonic = time.monotonic
    await rig.restart(gate=gate)
    await rig.accept(attempt_name("a"), ACTION)
    await gate.arrival()
    action = copy_action("fast/base", "fast/b")
    await rig.accept(COPY, action, stall_timeout=timedelta(minutes=10))
    running = rig.runner.running[COPY]
    running._moved -= 3600
    gate.open()
    assert (await rig.settled(COPY)).state == SUCCEEDED


async def test_a_stall_timeout_of_nothing_is_refused(rig):
    with pytest.raises(FieldInvalid, match=r"header\.stall_timeout"):
        await rig.accept(COPY, ACTION, stall_timeout=timedelta())


# -- cancel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 8))
async def test_a_copy_can_be_cancelled_at_every_step(gated, steps):
    """S-V19: start, each of three chunks, the end; nothing is left behind."""
    rig, gate = gated
    await rig.accept(COPY, ACTION)
    # Three chunks, and one step before and two after them.
    await gate.arrival(min(steps, 6))
    if steps == 7:
        gate.open()
        await rig.settled(COPY)
    answer = await rig.cancel(COPY)
    gate.open()
    ended = await rig.settled(COPY)
    if steps == 7:  # the race is lost: both say so
        assert answer.state == ended.state == SUCCEEDED
        return
    assert (answer.state, ended.state) == (CANCELLING, CANCELLED)
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_what_waits_in_the_queue_is_cancelled_at_once(gated):
    rig, gate = gated
    await rig.accept(attempt_name("a"), ACTION)
    await rig.accept(COPY, copy_action("fast/base", "fast/b"))
    assert (await rig.cancel(COPY)).state == CANCELLED
    gate.open()
    assert (await rig.settled(COPY)).state == CANCELLED
    await rig.settled(attempt_name("a"))
    assert rig.images() == ["base", "disk"]


async def test_cancelling_what_was_never_received_proves_nothing(rig):
    with pytest.raises(AttemptNotFound) as missing:
        await rig.cancel(COPY)
    assert missing.value.metadata["incarnation"] == rig.runner.identity.incarnation


async def test_nothing_stops_a_compensation(gated):
    """S-Z16."""
    rig, gate = gated
    soon = timedelta(microseconds=1)
    await rig.compensate(UNDO, COPY, ACTION, run_timeout=soon, stall_timeout=soon)
    await gate.arrival()
    assert (await rig.cancel(UNDO)).state == RUNNING
    gate.open()
    assert (await rig.settled(UNDO)).state == SUCCEEDED


# -- compensation -------------------------------------------------------------------------------


async def test_compensation_before_the_action_closes_its_name(rig):
    """S-Z2, S-Z3: the late action is refused, also after a restart."""
    rig.put("base", CONTENT)
    assert (await rig.make_up(UNDO, COPY, ACTION)).state == SUCCEEDED
    with pytest.raises(Compensated):
        await rig.accept(COPY, ACTION)
    await rig.restart()
    with pytest.raises(Compensated):
        await rig.accept(COPY, ACTION)
    closed = await rig.get(COPY)
    assert (closed.state, closed.tombstoned) == (CANCELLED, True)
    assert rig.images() == ["base"]


async def test_compensation_after_the_action_removes_what_it_made(rig):
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    assert (await rig.make_up(UNDO, COPY, ACTION)).state == SUCCEEDED
    assert (rig.images(), rig.staged()) == (["base"], [])
    late = await rig.accept(COPY, ACTION)
    assert (late.state, late.tombstoned) == (SUCCEEDED, True)
    assert rig.images() == ["base"]


@pytest.mark.parametrize("steps", range(1, 7))
async def test_compensation_during_the_action_stops_it_first(gated, steps):
    rig, gate = gated
    await rig.accept(COPY, ACTION)
    await gate.arrival(steps)
    assert (await rig.compensate(UNDO, COPY, ACTION)).state == RUNNING
    assert (await rig.get(COPY)).tombstoned
    gate.open()
    assert (await rig.settled(UNDO)).state == SUCCEEDED
    assert (await rig.get(COPY)).state == CANCELLED
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_a_repeated_compensation_joins(rig):
    """S-Z4."""
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    first = await rig.make_up(UNDO, COPY, ACTION)
    first.ClearField("action")
    assert await rig.compensate(UNDO, COPY, ACTION) == first
    with pytest.raises(AttemptReused):
        await rig.compensate(UNDO, COPY, noop_action())


async def test_compensation_never_touches_what_others_made(rig):
    """S-Z30: the name is the same, the owner is not."""
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    other = attempt_name("copy", workflow="w2")
    other_undo = attempt_name("copy", 2, workflow="w2")
    refused = await rig.run(other, ACTION)
    assert (refused.state, refused.failure.reason) == (FAILED, "IMAGE_EXISTS")
    assert refused.failure.metadata["owner"] == COPY
    assert (await rig.make_up(other_undo, other, ACTION)).state == SUCCEEDED
    assert rig.images() == ["base", "disk"]


async def test_a_failed_compensation_is_tried_again_under_another_number(tmp_path):
    """S-V12, S-Z13: its cause is shown; when it is gone, the next attempt succeeds."""
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    label = rig.data("disk").parent / "image.json"
    content = label.read_text()
    label.write_text("nonsense")
    failed = await rig.make_up(UNDO, COPY, ACTION)
    assert (failed.state, failed.failure.reason) == (FAILED, "IMAGE_UNSAFE")
    label.write_text(content)
    assert (await rig.make_up(attempt_name("copy", 3), COPY, ACTION)).state == SUCCEEDED
    assert rig.images() == ["base"]
    await rig.runner.stop()


async def test_a_replacement_runs_instead_of_the_opposite(rig):
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    made = Action(create_image=CreateImage(target=address("fast/empty"), virtual_size_bytes=512))
    undone = await rig.make_up(UNDO, COPY, ACTION, replacement=made)
    assert undone.state == SUCCEEDED
    assert undone.output.create_image.image == address("fast/empty")
    assert rig.images() == ["base", "disk", "empty"]


async def test_nothing_makes_up_for_a_deletion_that_took_effect(rig):
    rig.put("base", CONTENT)
    delete = Action(delete_image=DeleteImage(target=address("fast/base")))
    assert (await rig.make_up(attempt_name("del", 2), attempt_name("del"), delete)).state == (
        SUCCEEDED
    )
    gone = await rig.run(attempt_name("del", 3), delete)
    assert gone.output.delete_image.existed
    failed = await rig.make_up(attempt_name("del", 4), attempt_name("del", 3), delete)
    assert (failed.state, failed.failure.reason) == (FAILED, "VERB_UNSUPPORTED")


def take_verb_away(monkeypatch, verb: str) -> None:
    """Makes the agent an older version of itself."""
    verbs = {name: row for name, row in catalogue.VERBS.items() if name != verb}
    monkeypatch.setattr(catalogue, "VERBS", verbs)


async def test_a_verb_that_is_not_known_is_never_said_to_be_made_up_for(rig, monkeypatch):
    """I3: unless its attempt was never received: then there is nothing."""
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    take_verb_away(monkeypatch, "copy_image")
    failed = await rig.make_up(UNDO, COPY, ACTION)
    assert (failed.state, failed.failure.reason) == (FAILED, "VERB_UNSUPPORTED")
    assert rig.images() == ["base", "disk"]
    other, undone = attempt_name("other"), attempt_name("other", 2)
    assert (await rig.make_up(undone, other, ACTION)).state == SUCCEEDED


async def test_a_verb_that_an_older_version_does_not_know_leaves_its_attempt_unknown(
    gated, monkeypatch
):
    rig, gate = gated
    await rig.accept(COPY, ACTION)
    await gate.arrival()
    rig.runner.running[COPY].interrupt()
    gate.open()
    await rig.runner.stop()
    take_verb_away(monkeypatch, "copy_image")
    await rig.start()
    lost = await rig.settled(COPY)
    assert (lost.state, lost.failure.reason) == (Attempt.STATE_UNKNOWN, "VERB_UNSUPPORTED")


@pytest.mark.parametrize(
    "compensates",
    [UNDO, attempt_name("copy", workflow="w2"), "copy"],
    ids=["self", "foreign", "no"],
)
async def test_a_compensation_names_an_attempt_of_its_workflow(rig, compensates):
    with pytest.raises(FieldInvalid):
        await rig.compensate(UNDO, compensates, ACTION)


@pytest.mark.parametrize(
    ("field", "action"),
    [
        ("action", Action()),
        ("copy_image.target.image_id", copy_action("fast/base", "fast/../../etc")),
        ("copy_image.target.pool_id", copy_action("fast/base", "../fast/disk")),
    ],
)
async def test_a_malformed_action_is_not_made_up_for(rig, field, action):
    with pytest.raises(FieldInvalid) as invalid:
        await rig.compensate(UNDO, COPY, action)
    assert field in [violation.field for violation in invalid.value.violations]
    assert await rig.runner.journal.transact(lambda tx: tx.get(COPY)) is None


async def test_a_copy_from_another_host_needs_no_pool_of_its_source_here(rig, monkeypatch):
    monkeypatch.setattr("agent.pulling.PATIENCE_S", 0)
    action = copy_action("elsewhere/base", "fast/disk", source_host_id="host-b")
    access = SourceAccess(address="127.0.0.1:1", ticket=b"ticket")
    await rig.runner.accept(rig.requests.for_action(COPY, action), action, access=access)
    failed = await rig.settled(COPY)
    assert (failed.failure.reason, failed.failure.retriable) == ("HOST_UNREACHABLE", True)
    assert rig.staged() == []


# -- restarts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 7))
async def test_an_interrupted_copy_goes_on_after_a_restart(gated, steps):
    """S-V6, S-Z9."""
    rig, gate = gated
    await rig.accept(COPY, ACTION)
    await gate.arrival(steps)
    stopping = asyncio.ensure_future(rig.runner.stop())
    await asyncio.sleep(0)
    gate.open()
    await stopping
    assert rig.images() == ["base"]
    await rig.start()
    assert (await rig.settled(COPY)).state == SUCCEEDED
    assert rig.data("disk").read_bytes() == CONTENT
    assert rig.staged() == []


async def test_what_waited_runs_after_a_restart(gated):
    rig, gate = gated
    await rig.accept(attempt_name("a"), ACTION)
    await rig.accept(COPY, copy_action("fast/base", "fast/b"))
    await gate.arrival()
    stopping = asyncio.ensure_future(rig.runner.stop())
    await asyncio.sleep(0)
    gate.open()
    await stopping
    await rig.start()
    for name in (attempt_name("a"), COPY):
        assert (await rig.settled(name)).state == SUCCEEDED
    assert rig.images() == ["b", "base", "disk"]


async def test_a_cancel_survives_a_restart(gated):
    rig, gate = gated
    await rig.accept(COPY, ACTION)
    await gate.arrival(3)
    rig.runner.running[COPY].interrupt()
    assert (await rig.cancel(COPY)).state == CANCELLING
    stopping = asyncio.ensure_future(rig.runner.stop())
    await asyncio.sleep(0)
    gate.open()
    await stopping
    assert rig.staged() != []
    await rig.start()
    assert (await rig.settled(COPY)).state == CANCELLED
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_a_lost_journal_still_finds_what_the_attempt_made(rig):
    """S-Z10: the carried action says where to look, the owner tag whose it is."""
    rig.put("base", CONTENT)
    await rig.run(COPY, ACTION)
    await rig.runner.stop()
    for file in rig.folder.glob("journal.sqlite*"):
        file.unlink()
    await rig.start()
    assert (await rig.make_up(UNDO, COPY, ACTION)).state == SUCCEEDED
    assert rig.images() == ["base"]


async def test_what_is_nobodys_is_swept_at_the_start(rig):
    """S-Z9, I11; in a shared pool it may be another host's."""
    folder = rig.folder / "fast/staging/workflows@w9@tasks@t@attempts@1"
    folder.mkdir()
    (folder / "data.raw").write_bytes(b"x")
    rig.options["fast"] = {"shared": True}
    await rig.restart()
    assert rig.staged() == [folder.name]
    rig.options["fast"] = {}
    await rig.restart()
    assert rig.staged() == []
