"""What receivers are told, in which order, and what happens when they do not take it."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime

import pytest

from coordinator.runtime import crash_points
from coordinator.runtime.ports import StoreError
from coordinator.webhooks import answers, courier, pages, receivers
from coordinator.webhooks.envelope import wanted
from tests.endtoend.cluster import free_address
from tests.store.walks import Walk
from tests.tls import Authority, needs_openssl
from tests.webhooks.receiver import SECRET, Receiver, data_of, position, receiver
from tests.webhooks.rig import ENDS, World, world


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tries again soon: what is waited for is counted, never timed."""
    monkeypatch.setattr(answers, "_RETRY_S", 0.002)
    monkeypatch.setattr(receivers, "NOTE_S", 0.002)
    monkeypatch.setattr(courier, "GATHER_S", 0.002)


async def history(one: World) -> list[int]:
    return [entry.position for entry in await one.store.events(after=0, limit=100_000)]


async def told(one: World, to: Receiver) -> None:
    """Returns once a receiver has the whole history."""
    whole = await history(one)
    await to.until(lambda: to.positions == whole)


# -- what is sent ---------------------------------------------------------------------------------


async def test_everything_is_told_once_in_order_and_signed():
    async with receiver() as to, world() as one:
        await one.add(to)
        await one.walk("a", "b", labels={"tenant": "é"})
        await told(one, to)

        assert to.ids == list(dict.fromkeys(to.ids))
        assert [position(event) for event in to.taken] == await history(one)
        assert not to.refused
        assert {event.get_source() for event in to.taken} == {"/countermand/clusters/id-1"}
        first, last = to.taken[0], to.taken[-1]
        assert (first.get_type(), first.get_subject()) == (
            "io.countermand.workflow.started",
            "workflows/a",
        )
        assert first.get_datacontenttype() == "application/json"
        assert first.get_extension("traceparent").startswith("00-0af7651916cd43dd")
        assert data_of(first)["labels"] == {"tenant": "é"}
        assert data_of(first)["event"]["workflow_started"]["principal"] == "engine"
        assert to.types[-1] in ENDS
        assert str(last.get_time()) > str(first.get_time())
        sequences = [event.get_extension("sequence") for event in to.taken]
        assert sequences == sorted(sequences)
        await one.until(lambda view: view.behind == 0)
        assert (await one.view()).record.progress.failures == 0


async def test_whoever_may_have_been_replaced_tells_nobody(monkeypatch):
    """A process that stood still for long goes on in the middle of what it did."""
    monkeypatch.setattr(courier, "TRUST_AGAIN_S", 0.0)
    answers_of_clock = iter([False] * 20)
    calls = []

    def trusted() -> bool:
        calls.append(to.calls)
        return next(answers_of_clock, True)

    async with receiver() as to, world(trusted=trusted) as one:
        await one.add(to)
        await one.walk("a")
        await told(one, to)
        assert calls[:21] == [0] * 21


async def test_a_tampered_body_or_another_secret_is_refused_by_the_receiver():
    """The receiver's own check: ours would prove nothing."""
    async with (
        receiver() as to,
        receiver(secret="whsec_" + "YW5vdGhlci1zZWNyZXQtaGVyZS1pbi1i") as no,
    ):
        async with world() as one:
            await one.add(to)
            await one.add(no, "other")
            await one.walk("a")
            await told(one, to)
            await one.until(lambda view: view.record.progress.failures > 1, "other")

            refused = (await one.view("other")).record.progress.failure
            assert refused is not None
            assert refused.reason == "RECEIVER_REFUSED"
            assert "401 Unauthorized, 'bad signature'" in refused.message
        assert not no.taken

        import aiohttp

        headers, body = to.bodies[0]
        headers = {name: value for name, value in headers.items() if name != "Content-Length"}
        async with aiohttp.ClientSession() as session:
            changed = body.replace(b"workflows/a", b"workflows/b")
            async with session.post(to.url, data=changed, headers=headers) as answer:
                assert answer.status == 401
            async with session.post(to.url, data=body, headers=headers) as answer:
                assert answer.status == 204


async def test_only_what_is_asked_for_is_sent():
    async with AsyncExitStack() as stack:
        ends, labelled, kind, tasks = [
            await stack.enter_async_context(receiver()) for _ in range(4)
        ]
        one = await stack.enter_async_context(world())
        await one.add(ends, "ends", event_types=tuple(sorted(ENDS)))
        await one.add(labelled, "labelled", labels=(("zone", "1"),))
        await one.add(kind, "kind", kind="no such kind")
        await one.add(tasks, "tasks", event_types=("task.*",))
        await one.walk("a", "b")
        await one.walk("c", labels={"zone": "1", "tenant": "x"})
        top = await one.store.position()
        for name in ("ends", "labelled", "kind", "tasks"):
            await one.until(lambda view: view.record.progress.position == top, name)

        assert [event.get_subject() for event in ends.taken] == [f"workflows/{n}" for n in "abc"]
        assert set(ends.types) <= ENDS
        assert {data_of(event)["event"]["workflow"] for event in labelled.taken} == {"workflows/c"}
        assert kind.calls == 0
        assert all(kind.startswith("task.") for kind in tasks.types)
        assert tasks.taken


async def test_from_now_on_means_nothing_of_before():
    async with receiver() as to, world() as one:
        await one.walk("a")
        before = await one.store.position()
        await one.add(to, position=before)
        await one.walk("b")
        last = await one.store.position()
        await to.until(lambda: last in to.positions)
        assert min(to.positions) == before + 1


async def test_what_nobody_hinted_at_is_found_all_the_same(monkeypatch):
    monkeypatch.setattr(courier, "QUIET_S", 0.002)
    async with receiver() as to, world() as one:
        await one.add(to)
        await one.walk("a")
        await one.until(lambda view: view.behind == 0)
        await one.store.commit([Walk("b").change])
        await told(one, to)


async def test_a_ping_is_an_event_too_and_changes_nothing():
    async with receiver() as to, world() as one:
        await one.add(to, position=0)
        before = (await one.view()).record
        assert (await one.receivers.ping("one")).failure is None
        to.answers.append((418, {}))
        answer = await one.receivers.ping("one")

        assert (answer.status, answer.failure and answer.failure.reason) == (
            418,
            "RECEIVER_REFUSED",
        )
        assert to.types == ["webhook.ping"]
        assert (await one.view()).record == before


# -- what goes wrong ------------------------------------------------------------------------------


async def test_what_is_refused_is_sent_again_in_order_until_it_is_taken():
    async with receiver() as to, world() as one:
        to.answers.extend([(500, {}), (204, {}), (503, {}), (400, {}), (302, {"Location": "/"})])
        await one.add(to)
        await one.walk("a")
        await told(one, to)

        assert to.ids == list(dict.fromkeys(to.ids))
        assert to.calls == len(to.taken) + 4
        await one.until(lambda view: view.behind == 0)
        progress = (await one.view()).record.progress
        assert (progress.failures, progress.failure, progress.next_try_time) == (0, None, None)
        assert progress.failure_time is not None


@pytest.mark.parametrize("status", [301, 303, 307, 308])
async def test_nobody_is_sent_elsewhere(status):
    async with receiver() as to, receiver() as elsewhere, world() as one:
        to.answers.append((status, {"Location": elsewhere.url}))
        await one.add(to)
        await one.walk("a")
        await told(one, to)
        to.answers.append((status, {"Location": elsewhere.url}))
        failed = await one.receivers.ping("one")
        assert failed.failure is not None
        assert f"a redirect to {elsewhere.url}, which is not followed" in failed.failure.message
        assert elsewhere.calls == 0


async def test_a_failure_is_shown_with_its_cause_and_the_next_try(monkeypatch):
    monkeypatch.setattr(answers, "_RETRY_S", 60.0)
    async with receiver() as to, world() as one:
        to.answers.append((500, {}))
        await one.add(to)
        await one.walk("a")
        await one.until(lambda view: view.record.progress.failures)

        view = await one.view()
        progress = view.record.progress
        assert view.behind == await one.store.position()
        assert progress.failure is not None
        # What a stranger says is shown without what would steer a terminal.
        assert "500 Internal Server Error, 'not now [31m'" in progress.failure.message
        assert progress.failure_time is not None
        assert progress.next_try_time == progress.failure_time + timedelta(seconds=30)
        await one.receivers.resume("one")
        await told(one, to)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_is_left_alone_for_as_long_as_it_asks(status):
    async with receiver() as to, receiver() as other, world() as one:
        to.answers.append((status, {"Retry-After": "3600"}))
        await one.add(to)
        await one.walk("a")
        await one.until(lambda view: view.record.progress.failures)
        progress = (await one.view()).record.progress
        assert progress.failure_time is not None
        assert progress.next_try_time == progress.failure_time + timedelta(hours=1)
        await one.noted(lambda noted: noted == progress)
        await one.die()

        async with world(one.kept) as two:  # also after a restart
            await two.walk("b")
            await two.add(other, "other")
            await told(two, other)  # there was time enough to call the first one, too
            assert to.calls == 1
            await two.receivers.resume("one")
            await told(two, to)


def test_a_date_is_kept_as_well_and_nonsense_is_not():
    now = Walk("a").time

    def span(text: str) -> timedelta | None:
        took = timedelta(0)
        answer = answers.answered(503, said="", location="", retry_after=text, took=took, now=now)
        return answer.retry_after

    assert span(format_datetime(now + timedelta(seconds=90))) == timedelta(
        seconds=90, microseconds=-now.microsecond
    )
    assert span(format_datetime(now - timedelta(seconds=90))) == timedelta(0)
    assert span("9" * 5000) == timedelta(days=1)
    assert [span(text) for text in ("", "soon", "-1", "1.5", "\u0661")] == [None] * 5


async def test_one_that_is_gone_is_disabled_until_it_is_resumed():
    async with receiver() as to, world() as one:
        to.answers.append((410, {}))
        await one.add(to)
        await one.walk("a")
        await one.noted(lambda noted: noted.disabled)
        await one.die()

        async with world(one.kept) as two:
            await two.walk("b")
            view = await two.view()
            assert (to.calls, view.behind) == (1, await two.store.position())
            assert view.record.progress.failure is not None
            assert view.record.progress.failure.reason == "RECEIVER_GONE"
            await two.receivers.resume("one")
            assert [w.progress.disabled for w in await two.store.webhooks()] == [False]
            await told(two, to)
            assert not (await two.view()).record.progress.disabled


async def test_a_receiver_that_comes_back_hears_everything():
    port = int(free_address().rpartition(":")[2])  # that nobody takes meanwhile
    async with world() as one:
        async with receiver(port=port) as to:
            await one.add(to)
            await one.walk("a")
            await told(one, to)
        await one.walk("b")
        await one.until(lambda view: view.record.progress.failures > 1)
        down = (await one.view()).record.progress.failure
        assert down is not None
        assert down.reason == "RECEIVER_UNREACHABLE"
        assert down.message.startswith("The receiver does not answer (Connect call failed")
        async with receiver(port=port) as again:
            whole = await history(one)
            await again.until(lambda: [*to.positions, *again.positions] == whole)


async def test_a_slow_receiver_delays_nobody_else():
    async with receiver() as slow, receiver() as quick, world() as one:
        slow.open.clear()
        await one.add(slow, "slow")
        await one.add(quick, "quick")
        await one.walk("a", "b")
        await told(one, quick)

        assert (slow.calls, slow.taken) == (1, [])
        assert (await one.view("slow")).behind == await one.store.position()
        slow.open.set()
        await told(one, slow)


async def test_one_that_never_answers_is_given_up_and_called_again():
    async with receiver() as to, world(timeout_s=0.05) as one:
        to.open.clear()
        await one.add(to)
        await one.walk("a")
        await one.until(lambda view: view.record.progress.failures > 1)
        failure = (await one.view()).record.progress.failure
        assert failure is not None
        assert "not within 0.05 s" in failure.message
        to.open.set()
        await told(one, to)


@needs_openssl
async def test_a_certificate_that_nobody_trusts_is_not_trusted(tmp_path):
    files = Authority(tmp_path).certificate("receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    async with receiver(tls=context) as to, world() as one:
        await one.add(to)
        await one.walk("a")
        await one.until(lambda view: view.record.progress.failures > 1)
        failure = (await one.view()).record.progress.failure
        assert failure is not None
        assert "certificate" in failure.message.lower()
        assert to.calls == 0


# -- restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", crash_points.CRASH_POINTS_OF_WEBHOOKS)
@pytest.mark.parametrize("passing", [1, 2, 5])
async def test_killed_anywhere_nothing_is_left_out_and_a_repeat_has_the_same_id(point, passing):
    died = asyncio.Event()
    left = passing

    def crash(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left <= 0:
            died.set()
            raise asyncio.CancelledError  # nothing after it is done by this life

    async with receiver() as to:
        async with world(crash=crash) as one:
            await one.add(to)
            await one.walk("a")
            if point == crash_points.EVENT_NOTED:
                for name in ("b", "c", "d", "e", "f"):
                    if not died.is_set():
                        await one.walk(name)
                        await one.all_noted(or_else=died)
            async with asyncio.timeout(30):
                await died.wait()
            await one.die()
        async with world(one.kept) as two:
            await two.walk("z")
            await told(two, to)

        # What came twice is the same, in its first order, and nothing else came.
        places = [position(event) for event in to.taken]
        assert to.positions == sorted(set(places))
        assert len(set(zip(places, to.ids, strict=True))) == len(set(places)) == len(set(to.ids))


async def test_after_a_graceful_end_nothing_is_repeated_that_was_answered():
    async with receiver() as to:
        async with world() as one:
            await one.add(to)
            await one.walk("a")
            await one.until(lambda view: view.behind == 0)
        async with world(one.kept) as two:
            await two.walk("b")
            await told(two, to)
        assert to.ids == list(dict.fromkeys(to.ids))


async def test_a_store_that_fails_stops_nothing(monkeypatch):
    """Neither reading nor noting: both go on once it answers again."""
    monkeypatch.setattr("coordinator.webhooks.courier.READ_RETRY_S", 0.001)
    monkeypatch.setattr(receivers, "NOTE_RETRY_S", 0.001)
    async with receiver() as to, world() as one:
        broken = 6

        def breaks(method):
            async def call(*args, **named):
                nonlocal broken
                if broken > 0:
                    broken -= 1
                    raise StoreError("disk full")
                return await method(*args, **named)

            return call

        monkeypatch.setattr(one.store, "events", breaks(one.store.events))
        await one.walk("a")
        await one.add(to)
        top = await one.store.position()
        await to.until(lambda: top in to.positions)
        broken = 3
        monkeypatch.setattr(one.store, "note_webhooks", breaks(one.store.note_webhooks))
        await one.walk("b")
        top = await one.store.position()
        await one.noted(lambda noted: noted.position == top)
        assert to.ids == list(dict.fromkeys(to.ids))


async def test_a_defect_of_ours_stops_no_other_and_is_shown(monkeypatch):
    def breaks(record, event) -> bool:
        assert record.id != "broken" or event.position < 3
        return wanted(record, event)

    monkeypatch.setattr(courier, "wanted", breaks)
    async with receiver() as to, receiver() as other, world() as one:
        await one.add(to, "broken")
        await one.add(other)
        await one.walk("a")
        await told(one, other)
        await one.until(lambda view: view.record.progress.failures > 1, "broken")
        progress = (await one.view("broken")).record.progress
        assert progress.failure is not None
        assert (progress.failure.reason, to.positions) == ("BUG", [1, 2])
        monkeypatch.setattr(courier, "wanted", wanted)
        await told(one, to)


# -- retention, and going back --------------------------------------------------------------------


async def test_what_was_removed_before_it_was_told_is_counted():
    async with receiver() as to, world() as one:
        await one.walk("a", "b")
        gone = await one.store.position()
        assert await one.store.expire(before=Walk("c").time + timedelta(days=99), limit=9) == 2
        await one.add(to)
        await one.until(lambda view: view.record.progress.missed == gone)
        await one.walk("c")
        top = await one.store.position()
        await to.until(lambda: top in to.positions)

        assert to.positions == list(range(gone + 1, top + 1))
        assert (await one.view()).record.progress.missed == gone


async def test_a_gap_in_the_middle_is_no_end(monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 3)
    async with receiver() as to, world() as one:
        held = Walk("held")
        await one.commit(held)
        await one.walk("a", "b")
        await one.store.expire(before=Walk("x").time + timedelta(days=99), limit=9)
        while not held.workflow.settled:
            if held.step() is not None:
                await one.commit(held)
        await one.add(to)
        await told(one, to)

        missed = (await one.view()).record.progress.missed
        assert missed == await one.store.position() - len(await history(one)) > 3


async def test_resuming_from_a_position_tells_again_or_leaves_out():
    async with receiver() as to, world() as one:
        await one.add(to)
        await one.walk("a")
        await told(one, to)
        first = list(to.ids)
        await one.receivers.resume("one", 0)
        await to.until(lambda: to.ids == first * 2)
        to.answers.append((500, {"Retry-After": "3600"}))
        await one.walk("b")
        await one.until(lambda view: view.record.progress.failures)
        await one.receivers.resume("one", await one.store.position())
        await one.walk("c")
        top = await one.store.position()
        await to.until(lambda: top in to.positions)
        assert {data_of(event)["event"]["workflow"] for event in to.taken} == {
            "workflows/a",
            "workflows/c",
        }


async def test_both_secrets_sign_while_a_receiver_changes_over():
    new = "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldw=="
    async with receiver() as to, world() as one:
        await one.add(to)
        await one.receivers.replace_secret("one", new, overlap=timedelta(days=1))
        assert [(w.secret, w.old_secret) for w in await one.store.webhooks()] == [(new, SECRET)]
        await one.walk("a")
        await told(one, to)
        assert len(to.bodies[0][0]["webhook-signature"].split()) == 2
        to.secret = new
        await one.walk("b")
        await told(one, to)
        one.clock.ahead = timedelta(minutes=-1)  # a little, or the library finds it too old
        view = await one.view()
        end = view.record.old_secret_end
        assert end is not None
        one.receivers._couriers["one"].record = replace(
            view.record, old_secret_end=end - timedelta(days=2)
        )
        await one.walk("c")
        await told(one, to)
        assert len(to.bodies[-1][0]["webhook-signature"].split()) == 1
        assert not to.refused


async def test_a_removed_webhook_is_told_nothing_more():
    async with receiver() as to, receiver() as other, world() as one:
        await one.add(to)
        await one.add(other, "other")
        await one.walk("a")
        await told(one, to)
        await one.receivers.remove("one")
        await one.receivers.remove("one")
        calls = to.calls
        await one.walk("b")
        await told(one, other)
        assert to.calls == calls
        assert [webhook.id for webhook in await one.store.webhooks()] == ["other"]
